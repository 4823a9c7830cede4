//! Takes the place of `src/driver/sync.rs`, with the types of loom.

use std::ops::Deref;

pub(super) use loom::sync::atomic::Ordering::SeqCst;

macro_rules! atomic {
    ($name:ident) => {
        /// Stores its first value. To loom, the value with which a variable is made has no order relative to later
        /// stores.
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
