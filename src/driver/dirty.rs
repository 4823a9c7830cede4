//! Whether a task has new work that it does not know of yet. The crate `models` tries this file in all thread orders.

use super::sync::{AtomicBool, SeqCst};

/// True from the arrival of new work until the task begins to look.
#[derive(Default)]
pub(super) struct Dirty(AtomicBool);

impl Dirty {
    /// There is new work. Returns whether the flag was clean: then the task has to be woken.
    pub(super) fn mark(&self) -> bool {
        !self.0.swap(true, SeqCst)
    }

    /// The task is about to look at all its work. From now on it can be woken again.
    pub(super) fn begin_look(&self) {
        // A store would do at the same cost. But loom lets a store slip between the reads and writes of an exchange.
        self.0.swap(false, SeqCst);
    }
}
