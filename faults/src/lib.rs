//! A TCP proxy that injects faults: cuts, pauses, bytes one by one, half-open connections. For tests of what speaks over
//! TCP; it knows no protocol. Nothing is reordered, doubled or altered: what TCP promises is kept until a cut.
//!
//! [`plan`] says which faults come after how many bytes, [`proxy`] moves the bytes. The binary `fault-proxy` is both for
//! programs in other languages.

pub mod plan;
pub mod proxy;

pub use plan::{CutKind, Direction, Plan};
pub use proxy::{Command, Event, Proxy};
