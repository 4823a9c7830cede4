//! Whether a task has something to do and does not know it yet. The crate `models` takes every way through it.

use super::sync::{AtomicBool, SeqCst};

/// True from when there is something new until the task begins to look.
#[derive(Default)]
pub(super) struct Dirty(AtomicBool);

impl Dirty {
    /// There is something new. Returns whether it was clean before: then the task has to be woken.
    pub(super) fn mark(&self) -> bool {
        !self.0.swap(true, SeqCst)
    }

    /// The task is about to look at everything, and can be woken from now on.
    pub(super) fn begin_look(&self) {
        // A store would do, and costs the same; but loom lets one slip between what an exchange reads and writes.
        self.0.swap(false, SeqCst);
    }
}
