//! What the state machines here are made of. The crate `models`, which takes every way through them, has a file of the
//! same name with the types of loom.

pub(super) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::SeqCst};
