//! How often this process has been forked, values that each process of a fork has for itself, and locks that stay the
//! parent's. Below all rooms.

#[cfg(all(unix, feature = "store"))]
pub(crate) mod lock;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Counted in the child by [`forked`].
static FORKS: AtomicUsize = AtomicUsize::new(0);

/// To be called in the child of a fork. Everything made before the fork belongs to the parent.
pub fn forked() {
    FORKS.fetch_add(1, Ordering::SeqCst);
}

/// How many forks lie between this process and the one that loaded the module.
pub(crate) fn forks() -> usize {
    FORKS.load(Ordering::Relaxed)
}

/// How many generations of forked processes have a value of their own. Later generations begin with the first value again.
pub(crate) const GENERATIONS: usize = 64;

/// A value behind a lock, for a static. The child of a fork uses another value with another lock: a thread of the parent may
/// hold the parent's lock at the time of the fork, and nobody would release it in the child.
pub(crate) struct PerProcess<T>(pub(crate) [Mutex<T>; GENERATIONS]);

impl<T> PerProcess<T> {
    /// The mutex of this process.
    pub(crate) fn mutex(&self) -> &Mutex<T> {
        self.of(forks())
    }

    /// Locks the value of this process. The value stays consistent even if a holder has panicked.
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
