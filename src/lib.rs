//! MQTT 3.1.1 and 5.0 for Lua. `docs/architecture.md` draws the rooms and which room may import which.

// A room may use `unsafe`, or ask for the time (see `clippy.toml`), only if this file allows it. `lua/mod.rs` names the
// files of `lua` that need `unsafe`.
#![deny(unsafe_code, clippy::disallowed_methods)]

pub mod codec;
#[allow(clippy::disallowed_methods)]
pub mod driver;
mod forks;
#[cfg(feature = "lua")]
#[allow(clippy::disallowed_methods)]
mod lua;
#[allow(clippy::disallowed_methods)]
pub mod net;
pub mod session;
#[cfg(feature = "store")]
pub mod store;
pub mod topics;

/// Entry of the Lua module `mqtt.core`.
#[cfg(feature = "lua")]
#[mlua::lua_module(name = "mqtt_core", skip_memory_check)]
fn open(lua: &mlua::Lua) -> mlua::Result<mlua::Table> {
    lua::open(lua)
}
