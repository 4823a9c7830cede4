//! The atomic types of the state machines here. The crate `models`, which checks all their interleavings, has a file of
//! the same name with the types of loom.

pub(super) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::SeqCst};
