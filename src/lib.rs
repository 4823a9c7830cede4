//! MQTT 3.1.1 and 5.0 for Lua. The rooms and the arrows between them: see `docs/architecture.md`.

pub mod codec;
pub mod driver;
mod forks;
#[cfg(feature = "lua")]
mod lua;
pub mod net;
pub mod session;

/// Entry of the Lua module `mqtt.core`.
#[cfg(feature = "lua")]
#[mlua::lua_module(name = "mqtt_core", skip_memory_check)]
fn open(lua: &mlua::Lua) -> mlua::Result<mlua::Table> {
    lua::open(lua)
}
