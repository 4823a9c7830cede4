//! MQTT 3.1.1 and 5.0 for Lua. The rooms and the arrows between them: see `docs/architecture.md`.

// What no room may do unless this file allows it: `unsafe` and, see `clippy.toml`, asking for the time. Which files of
// `lua` need `unsafe` stands there.
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
pub mod topics;

/// Entry of the Lua module `mqtt.core`.
#[cfg(feature = "lua")]
#[mlua::lua_module(name = "mqtt_core", skip_memory_check)]
fn open(lua: &mlua::Lua) -> mlua::Result<mlua::Table> {
    lua::open(lua)
}
