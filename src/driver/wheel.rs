//! Who drives the runtime: what Lua's thread and the caretaker's tell each other. No thread, runtime or clock is in here:
//! those are the caretaker's [`Hands`]. The crate `models` takes every way through it.

use super::sync::{AtomicBool, AtomicU8, AtomicUsize, SeqCst};

/// What the caretaker is doing: it sleeps until it is woken.
const PARKED: u8 = 0;
/// It waits whether Lua stays away.
const WATCHING: u8 = 1;
const DRIVING: u8 = 2;

#[derive(Default)]
pub(super) struct Wheel {
    /// Counts Lua's coming and going: odd while it drives.
    visits: AtomicUsize,
    mode: AtomicU8,
    stopping: AtomicBool,
    /// The caretaker will look at the dirty transports without being called.
    gathering: AtomicBool,
}

/// What the caretaker's thread can do.
pub(super) trait Hands {
    /// Whether there is something to drive.
    fn has_tasks(&self) -> bool;
    /// Sleeps until it is woken. If that is so soon that Lua must be coming and going, says that it will `watch`, so that
    /// it is not woken each time, and sleeps for a moment again.
    fn rest(&self, watch: impl FnOnce());
    /// Sleeps for a moment, or until it is woken.
    fn pause(&self);
    /// Takes the wheel as soon as it is free, and drives until `served` is over.
    fn drive(&self, served: impl Future<Output = ()>);
    /// Wakes the tasks of dirty transports. Returns whether there are any.
    fn wake_dirty(&self) -> bool;
    /// Waits for a call. One that came before counts.
    async fn called(&self);
    /// The same, for a moment at most.
    async fn gather(&self);
}

impl Wheel {
    pub(super) fn is_driving(&self) -> bool {
        self.mode.load(SeqCst) == DRIVING
    }

    /// Whether the caretaker has to be woken for what it would not hear of.
    pub(super) fn is_parked(&self) -> bool {
        self.mode.load(SeqCst) == PARKED
    }

    /// Lua is about to take the wheel. Returns whether the caretaker, who has it, is to be called.
    pub(super) fn enter(&self) -> bool {
        self.visits.fetch_add(1, SeqCst);
        self.is_driving()
    }

    /// Lua has let go of the wheel, with or without tasks that need a driver. Returns whether the caretaker is to be woken.
    pub(super) fn leave(&self, tasks: bool) -> bool {
        self.visits.fetch_add(1, SeqCst);
        tasks && self.is_parked()
    }

    /// A transport became dirty. Returns whether the caretaker is to be called.
    pub(super) fn is_to_hear_of_dirty(&self) -> bool {
        !self.gathering.load(SeqCst) && self.is_driving()
    }

    /// The caretaker is to end. It has to be called and woken then.
    pub(super) fn stop(&self) {
        self.stopping.store(true, SeqCst);
    }

    /// The visit count, if Lua is away, a task is alive and nobody asked the caretaker to stop.
    fn needed(&self, hands: &impl Hands) -> Option<usize> {
        let visits = self.visits.load(SeqCst);
        (visits.is_multiple_of(2) && hands.has_tasks() && !self.stopping.load(SeqCst))
            .then_some(visits)
    }

    /// What the caretaker does until it is to stop.
    pub(super) fn run(&self, hands: &impl Hands) {
        while !self.stopping.load(SeqCst) {
            self.mode.store(PARKED, SeqCst);
            // Asked only after PARKED is visible: whoever makes it needed from here on wakes this thread.
            let Some(visits) = self.needed(hands) else {
                hands.rest(|| self.mode.store(WATCHING, SeqCst));
                continue;
            };
            self.mode.store(WATCHING, SeqCst);
            hands.pause();
            if self.needed(hands) != Some(visits) {
                continue;
            }
            self.mode.store(DRIVING, SeqCst);
            // Asked again after DRIVING is visible: whoever ends the need from here on calls.
            if self.needed(hands) == Some(visits) {
                hands.drive(self.serve(visits, hands));
            }
        }
    }

    async fn serve(&self, visits: usize, hands: &impl Hands) {
        while self.needed(hands) == Some(visits) {
            if hands.wake_dirty() {
                self.gathering.store(true, SeqCst);
                hands.gather().await;
                self.gathering.store(false, SeqCst);
            } else {
                hands.called().await;
            }
        }
    }
}
