//! How Lua's thread, the caretaker's thread and the connections' tasks tell each other of the wheel. `wheel.rs` decides
//! who has to hear; the helm passes it on. The caretaker's thread itself is not here.

use std::sync::{Mutex, MutexGuard, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::lock;
use super::wheel::{Hands, Hearing, Wheel};

/// The longest time between two calls of `step` by which a program counts as one that steps in a loop.
pub(super) const BETWEEN_STEPS: Duration = Duration::from_millis(50);
/// The shortest time between two turns for a program that steps without a pause. Most of such a step is the system
/// call.
const BETWEEN_TURNS: Duration = Duration::from_micros(3);

#[derive(Default)]
pub(super) struct Helm {
    /// Held by the thread that drives the runtime.
    held: Mutex<()>,
    wheel: Wheel,
    /// Makes a driving caretaker look up: Lua wants the wheel, or a transport became dirty.
    call: Notify,
    /// When a step of Lua drove last, or would have driven if the caretaker had not been driving.
    last_turn: Mutex<Option<Instant>>,
    /// The caretaker's thread.
    thread: OnceLock<Thread>,
}

impl Helm {
    /// Takes the wheel as soon as it is free. Dropping the returned value lets go of it.
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

    /// Wakes a sleeping caretaker, so that it checks whether it is needed.
    pub(super) fn wake_if_parked(&self) {
        if self.wheel.is_parked() {
            self.unpark();
        }
    }

    /// A transport became dirty. Makes the caretaker look at it.
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

    /// Whether Lua's step drives at `now`. `is_dirty` says that a transport is dirty. A step takes the wheel from a
    /// driving caretaker only if the step before was not long ago. So a program that steps seldom wakes no thread.
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

    /// Makes a driving caretaker check whether it is still needed.
    pub(super) fn call_if_driving(&self) {
        if self.is_caretaker_driving() {
            self.call.notify_one();
        }
    }

    /// Ends the caretaker.
    pub(super) fn stop(&self) {
        self.wheel.stop();
        self.call.notify_one();
        self.unpark();
    }

    /// The caretaker's work, until it is stopped.
    pub(super) fn run(&self, hands: &impl Hands) {
        self.wheel.run(hands);
    }

    /// Waits for a call to the caretaker. An earlier call for which nobody waited counts.
    pub(super) async fn called(&self) {
        self.call.notified().await;
    }

    /// Sets the caretaker's thread. Nobody can need the caretaker before.
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
