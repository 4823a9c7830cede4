//! The atomic types of the state machines here. The crate `models`, which tries them in all thread orders, has a file
//! of the same name with the types of loom.

pub(super) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::SeqCst};
