//! A TCP proxy that injects faults: cuts, pauses, bytes one by one, half-open connections. It serves tests of programs
//! that speak over TCP, and knows no protocol. It reorders, doubles or alters no bytes: TCP's promises hold until a
//! cut.
//!
//! [`plan`] decides which faults come after how many bytes. [`proxy`] moves the bytes. The binary `fault-proxy` offers
//! both to programs in other languages.

pub mod plan;
pub mod proxy;

pub use plan::{CutKind, Direction, Plan};
pub use proxy::{Command, Event, Proxy};
