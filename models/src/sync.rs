//! In place of `src/driver/sync.rs`: the same of loom.

use std::ops::Deref;

pub(super) use loom::sync::atomic::Ordering::SeqCst;

macro_rules! atomic {
    ($name:ident) => {
        /// Its first value is one that was stored: to loom, one that a variable is made with is in no order with what is
        /// stored later.
        pub(super) struct $name(loom::sync::atomic::$name);

        impl Default for $name {
            fn default() -> Self {
                let atomic = loom::sync::atomic::$name::default();
                atomic.store(Default::default(), SeqCst);
                $name(atomic)
            }
        }

        impl Deref for $name {
            type Target = loom::sync::atomic::$name;

            fn deref(&self) -> &Self::Target {
                &self.0
            }
        }
    };
}

atomic!(AtomicBool);
atomic!(AtomicU8);
atomic!(AtomicUsize);
