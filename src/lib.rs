//! MQTT 3.1.1 and 5.0 for Lua. The rooms and the arrows between them: see `docs/architecture.md`.

pub mod codec;
pub mod driver;
#[cfg(feature = "lua")]
mod lua;
pub mod net;
pub mod session;
