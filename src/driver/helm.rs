//! How Lua's thread, the caretaker's and the connections' tasks tell each other of the wheel. `wheel.rs` decides who needs to
//! hear of something; here it is passed on. The caretaker's thread itself is not here.

use std::sync::{Mutex, MutexGuard, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::lock;
use super::wheel::{Hands, Hearing, Wheel};

/// How long a program that calls `step` in a loop of its own takes from one call to the next, at most.
pub(super) const BETWEEN_STEPS: Duration = Duration::from_millis(50);
/// How often a program without a pause between its steps looks for what has arrived. Most of such a step is the system call.
const BETWEEN_TURNS: Duration = Duration::from_micros(3);

#[derive(Default)]
pub(super) struct Helm {
    /// Held by whoever drives the runtime.
    held: Mutex<()>,
    wheel: Wheel,
    /// Makes a driving caretaker look up: Lua wants the wheel, or a transport became dirty.
    call: Notify,
    /// When a step of Lua's drove last, or would have done so if the caretaker had not been driving.
    last_turn: Mutex<Option<Instant>>,
    /// The caretaker's.
    thread: OnceLock<Thread>,
}

impl Helm {
    /// Takes the wheel as soon as it is free, until the returned value is dropped.
    pub(super) fn hold(&self) -> MutexGuard<'_, ()> {
        lock(&self.held)
    }

    /// Whether the caretaker drives.
    pub(super) fn is_caretaker_driving(&self) -> bool {
        self.wheel.is_driving()
    }

    /// Lua is about to take the wheel, for a step or to wait.
    pub(super) fn lua_enters(&self, steps: bool) {
        if self.wheel.enter(steps) {
            self.call.notify_one();
        }
    }

    /// Lua has let go of the wheel, with or without tasks that need a driver.
    pub(super) fn lua_leaves(&self, tasks: bool) {
        if self.wheel.leave(tasks) {
            self.unpark();
        }
    }

    /// Makes a sleeping caretaker look whether it is needed.
    pub(super) fn wake_if_parked(&self) {
        if self.wheel.is_parked() {
            self.unpark();
        }
    }

    /// A transport became dirty: makes the caretaker look at it.
    pub(super) fn call_for_dirty(&self) {
        match self.wheel.hear_of_dirty() {
            Hearing::Called => self.call.notify_one(),
            Hearing::Woken => self.unpark(),
            Hearing::Not => {}
        }
    }

    /// Lua will not come back for another step.
    pub(super) fn lua_stays_away(&self) {
        self.wheel.end_steps();
        self.unpark();
    }

    /// Whether Lua's step is to drive `now`, perhaps since something `is_dirty`. It takes the wheel from a driving caretaker
    /// if the step before it was not long ago: so whoever steps seldom wakes nobody.
    pub(super) fn is_turn_due(&self, now: Instant, is_dirty: bool) -> bool {
        let mut last = lock(&self.last_turn);
        let since = last.map(|last| now - last);
        let is_driving = self.is_caretaker_driving();
        let is_due = match is_driving {
            true => since.is_some_and(|since| since < BETWEEN_STEPS),
            false => is_dirty || since.is_none_or(|since| since >= BETWEEN_TURNS),
        };
        if is_due || is_driving {
            *last = Some(now);
        }
        is_due
    }

    /// Makes a driving caretaker leave if it is not needed any more.
    pub(super) fn call_if_driving(&self) {
        if self.is_caretaker_driving() {
            self.call.notify_one();
        }
    }

    /// The caretaker is to end.
    pub(super) fn stop(&self) {
        self.wheel.stop();
        self.call.notify_one();
        self.unpark();
    }

    /// What the caretaker does until it is to stop.
    pub(super) fn run(&self, hands: &impl Hands) {
        self.wheel.run(hands);
    }

    /// Waits for a call to the caretaker. An earlier call that nobody waited for counts.
    pub(super) async fn called(&self) {
        self.call.notified().await;
    }

    /// Nobody can need the caretaker before this is known.
    pub(super) fn set_thread(&self, thread: Thread) {
        // It is set once: a driver has one caretaker.
        let _ = self.thread.set(thread);
    }

    fn unpark(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}
