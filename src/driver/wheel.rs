//! Who drives the runtime: what Lua's thread and the caretaker's tell each other. No thread, runtime or clock is in here:
//! those are the caretaker's [`Hands`]. The crate `models` takes every way through it.

use super::sync::{AtomicBool, AtomicU8, AtomicUsize, SeqCst};

/// What the caretaker is doing: it sleeps until it is woken.
const PARKED: u8 = 0;
/// It waits whether Lua stays away.
const WATCHING: u8 = 1;
const DRIVING: u8 = 2;
/// Lua steps, and so drives itself: the caretaker sleeps until Lua stays away, or a transport becomes dirty.
const FOLLOWING: u8 = 3;

#[derive(Default)]
pub(super) struct Wheel {
    /// Counts Lua's coming and going: odd while it drives.
    visits: AtomicUsize,
    mode: AtomicU8,
    stopping: AtomicBool,
    /// Lua's last visit was a step: the next one is likely to follow soon.
    stepping: AtomicBool,
    /// A transport became dirty while the caretaker was watching.
    is_asked: AtomicBool,
    /// The caretaker will look at the dirty transports without being called.
    gathering: AtomicBool,
}

/// How the caretaker hears of a dirty transport.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Hearing {
    /// It drives, and is to be called.
    Called,
    /// It sleeps, and is to be woken.
    Woken,
    /// It will look, or somebody else will drive.
    Not,
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
    /// Sleeps until it is woken, or Lua's visit count has been the same for longer than between two steps. Returns whether it
    /// was woken.
    fn follow(&self, visits: usize) -> bool;
    /// Whether there are dirty transports.
    fn has_dirty(&self) -> bool;
    /// Takes the wheel as soon as it is free, and drives for a turn, without waiting.
    fn turn(&self);
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

    /// Lua is about to take the wheel, for a step or to wait. Returns whether the caretaker, who has it, is to be called.
    pub(super) fn enter(&self, steps: bool) -> bool {
        self.stepping.store(steps, SeqCst);
        self.visits.fetch_add(1, SeqCst);
        self.is_driving()
    }

    /// Lua has let go of the wheel, with or without tasks that need a driver. Returns whether the caretaker is to be woken.
    pub(super) fn leave(&self, tasks: bool) -> bool {
        self.visits.fetch_add(1, SeqCst);
        tasks && self.is_parked()
    }

    /// Lua will take no more steps. The caretaker has to be woken then.
    pub(super) fn end_steps(&self) {
        self.stepping.store(false, SeqCst);
    }

    /// A transport became dirty. Returns how the caretaker is to hear of it.
    pub(super) fn hear_of_dirty(&self) -> Hearing {
        match self.mode.load(SeqCst) {
            DRIVING if !self.gathering.load(SeqCst) => Hearing::Called,
            FOLLOWING => Hearing::Woken,
            WATCHING => {
                self.is_asked.store(true, SeqCst);
                Hearing::Not
            }
            _ => Hearing::Not,
        }
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
            if self.stepping.load(SeqCst) {
                self.follow(hands);
            }
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

    /// Leaves the wheel to Lua while it comes back for the next step; but what Lua asks for and does not see to itself within
    /// a moment is seen to.
    fn follow(&self, hands: &impl Hands) {
        loop {
            let visits = self.visits.load(SeqCst);
            self.mode.store(FOLLOWING, SeqCst);
            // Asked only after FOLLOWING is visible: whoever makes a transport dirty or ends the steps from here on wakes this
            // thread.
            if !self.stepping.load(SeqCst) || self.stopping.load(SeqCst) {
                return;
            }
            let is_woken = hands.has_dirty() || hands.follow(visits);
            self.mode.store(WATCHING, SeqCst);
            if !is_woken && self.visits.load(SeqCst) == visits {
                return;
            }
            self.watch_dirty(hands);
        }
    }

    /// Stays as long as transports become dirty, which is cheaper than to be woken for each.
    fn watch_dirty(&self, hands: &impl Hands) {
        while self.is_asked.swap(false, SeqCst) || hands.has_dirty() {
            let visits = self.visits.load(SeqCst);
            hands.pause();
            if hands.has_dirty() && self.needed(hands) == Some(visits) {
                hands.turn();
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
