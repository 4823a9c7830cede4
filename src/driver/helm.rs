//! How Lua's thread, the caretaker's and the connections' tasks tell each other of the wheel. `wheel.rs` decides who needs to
//! hear of something; here it is passed on. The caretaker's thread itself is not here.

use std::sync::{Mutex, MutexGuard, OnceLock};
use std::thread::Thread;

use tokio::sync::Notify;

use super::lock;
use super::wheel::{Hands, Wheel};

#[derive(Default)]
pub(super) struct Helm {
    /// Held by whoever drives the runtime.
    held: Mutex<()>,
    wheel: Wheel,
    /// Makes a driving caretaker look up: Lua wants the wheel, or a transport became dirty.
    call: Notify,
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

    /// Lua is about to take the wheel.
    pub(super) fn lua_enters(&self) {
        if self.wheel.enter() {
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

    /// A transport became dirty: makes a driving caretaker look at it.
    pub(super) fn call_for_dirty(&self) {
        if self.wheel.is_to_hear_of_dirty() {
            self.call.notify_one();
        }
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
