//! Decides who drives the runtime: the talk between Lua's thread and the caretaker's. No thread, runtime or clock is in
//! here: they are the caretaker's [`Hands`]. The crate `models` tries this file in all thread orders.

use super::sync::{AtomicBool, AtomicU8, AtomicUsize, SeqCst};

/// The caretaker's modes. Parked: it sleeps until it is woken.
const PARKED: u8 = 0;
/// Watching: it waits to see whether Lua stays away.
const WATCHING: u8 = 1;
const DRIVING: u8 = 2;
/// Following: Lua steps, and so drives itself. The caretaker sleeps until Lua stays away or a transport becomes dirty.
const FOLLOWING: u8 = 3;

#[derive(Default)]
pub(super) struct Wheel {
    /// Counts Lua's coming and going. The number is odd while Lua drives.
    visits: AtomicUsize,
    mode: AtomicU8,
    stopping: AtomicBool,
    /// Lua's last visit was a step. The next step is likely to follow soon.
    stepping: AtomicBool,
    /// A transport became dirty while the caretaker was watching.
    is_asked: AtomicBool,
    /// The caretaker will look at the dirty transports without a call.
    gathering: AtomicBool,
}

/// How the caretaker hears of a dirty transport.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Hearing {
    /// The caretaker drives, and is to be called.
    Called,
    /// The caretaker sleeps, and is to be woken.
    Woken,
    /// The caretaker will look, or another thread will drive.
    Not,
}

/// The means of the caretaker's thread.
pub(super) trait Hands {
    /// Whether there is a task to drive.
    fn has_tasks(&self) -> bool;
    /// Sleeps until woken. An early wake-up shows that Lua comes and goes: then it calls `watch`, so that it is not
    /// woken each time, and sleeps for a moment again.
    fn rest(&self, watch: impl FnOnce());
    /// Sleeps for a moment, or until woken.
    fn pause(&self);
    /// Sleeps until woken, or until Lua's visit count has stayed the same for longer than the time between two steps.
    /// Returns whether it was woken.
    fn follow(&self, visits: usize) -> bool;
    /// Whether there are dirty transports.
    fn has_dirty(&self) -> bool;
    /// Takes the wheel as soon as it is free, and drives for one turn without waiting.
    fn turn(&self);
    /// Takes the wheel as soon as it is free, and drives until `served` is done.
    fn drive(&self, served: impl Future<Output = ()>);
    /// Wakes the tasks of dirty transports. Returns whether there are any.
    fn wake_dirty(&self) -> bool;
    /// Waits for a call. An earlier call counts.
    async fn called(&self);
    /// Waits for a call, for a moment at most.
    async fn gather(&self);
}

impl Wheel {
    pub(super) fn is_driving(&self) -> bool {
        self.mode.load(SeqCst) == DRIVING
    }

    /// Whether the caretaker sleeps and has to be woken.
    pub(super) fn is_parked(&self) -> bool {
        self.mode.load(SeqCst) == PARKED
    }

    /// Lua is about to take the wheel, for a step or to wait. Returns whether to call the caretaker, who holds the
    /// wheel.
    pub(super) fn enter(&self, steps: bool) -> bool {
        self.stepping.store(steps, SeqCst);
        self.visits.fetch_add(1, SeqCst);
        self.is_driving()
    }

    /// Lua has let go of the wheel, with or without tasks that need a driver. Returns whether to wake the caretaker.
    pub(super) fn leave(&self, tasks: bool) -> bool {
        self.visits.fetch_add(1, SeqCst);
        tasks && self.is_parked()
    }

    /// Lua will take no more steps. The caller has to wake the caretaker afterwards.
    pub(super) fn end_steps(&self) {
        self.stepping.store(false, SeqCst);
    }

    /// A transport became dirty. Returns how the caretaker hears of it.
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

    /// Ends the caretaker. The caller has to call and wake it afterwards.
    pub(super) fn stop(&self) {
        self.stopping.store(true, SeqCst);
    }

    /// Returns the visit count if Lua is away, a task is alive and nobody has stopped the caretaker.
    fn needed(&self, hands: &impl Hands) -> Option<usize> {
        let visits = self.visits.load(SeqCst);
        (visits.is_multiple_of(2) && hands.has_tasks() && !self.stopping.load(SeqCst))
            .then_some(visits)
    }

    /// The caretaker's work, until it is stopped.
    pub(super) fn run(&self, hands: &impl Hands) {
        while !self.stopping.load(SeqCst) {
            self.mode.store(PARKED, SeqCst);
            // Asked only after PARKED is visible: a thread that needs the caretaker from here on wakes it.
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
            // Asked again after DRIVING is visible: a thread that ends the need from here on calls.
            if self.needed(hands) == Some(visits) {
                hands.drive(self.serve(visits, hands));
            }
        }
    }

    /// Leaves the wheel to Lua as long as Lua comes back for the next step. But requests that Lua does not serve itself
    /// within a moment are served.
    fn follow(&self, hands: &impl Hands) {
        loop {
            let visits = self.visits.load(SeqCst);
            self.mode.store(FOLLOWING, SeqCst);
            // Asked only after FOLLOWING is visible: a thread that makes a transport dirty or ends the steps from here
            // on wakes this thread.
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

    /// Stays as long as transports become dirty. That is cheaper than a wake-up for each.
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
