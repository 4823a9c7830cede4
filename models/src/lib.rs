//! The state machines of `src/driver`, from the same files, with the types of loom. Loom tries every order in which
//! threads can come through them, with a few interruptions each. A lost wake-up is a deadlock here.

#![cfg(test)]

#[path = "../../src/driver/dirty.rs"]
mod dirty;
#[path = "../../src/driver/readiness.rs"]
mod readiness;
mod sync;
#[path = "../../src/driver/wheel.rs"]
mod wheel;

mod driving;
mod telling;

use loom::sync::{Condvar, Mutex};

/// A wake-up that is kept until a thread waits for it, like tokio's `Notify` and a thread's parking token.
#[derive(Default)]
struct Call {
    has_come: Mutex<bool>,
    comes: Condvar,
}

impl Call {
    fn notify(&self) {
        *self.has_come.lock().unwrap() = true;
        self.comes.notify_one();
    }

    /// Waits for a moment. The moment may be over before the wake-up comes.
    fn wait_shortly(&self) {
        loom::thread::yield_now();
        *self.has_come.lock().unwrap() = false;
    }

    fn wait(&self) {
        let mut has_come = self.has_come.lock().unwrap();
        while !*has_come {
            has_come = self.comes.wait(has_come).unwrap();
        }
        *has_come = false;
    }
}

/// The most times that threads which could go on are interrupted in one run of a model.
const INTERRUPTIONS: usize = 4;

/// Runs a model in every thread order.
fn every_way(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(INTERRUPTIONS);
    builder.check(model);
}
