//! How often this process has been forked, and what the child of a fork must have for itself. Below all rooms.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Counted in the child by [`forked`].
static FORKS: AtomicUsize = AtomicUsize::new(0);

/// To be called in the child of a fork: what was made before belongs to the parent.
pub fn forked() {
    FORKS.fetch_add(1, Ordering::SeqCst);
}

pub(crate) fn forks() -> usize {
    FORKS.load(Ordering::Relaxed)
}

/// How many generations of processes that fork from each other have a value of their own.
pub(crate) const GENERATIONS: usize = 64;

/// A value behind a lock, for a static. The child of a fork begins with another one: a thread that has stayed behind in the
/// parent may hold the lock of the parent's, which nobody would release in the child.
pub(crate) struct PerProcess<T>(pub(crate) [Mutex<T>; GENERATIONS]);

impl<T> PerProcess<T> {
    /// The mutex of this process.
    pub(crate) fn mutex(&self) -> &Mutex<T> {
        self.of(forks())
    }

    /// Locks it. The value stays consistent even if a holder has panicked.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.mutex().lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, forks: usize) -> &Mutex<T> {
        &self.0[forks % GENERATIONS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_held_in_the_parent_is_not_that_of_the_child() {
        let value = PerProcess([const { Mutex::new(0) }; GENERATIONS]);
        *value.of(0).lock().unwrap() = 1;
        let _held = value.of(0).lock().unwrap();
        for forks in 1..GENERATIONS {
            assert_eq!(*value.of(forks).try_lock().unwrap(), 0);
        }
    }
}
