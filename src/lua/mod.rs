//! The Lua module `mqtt.core`: what the Lua files of `lua/mqtt` call. The only room where mlua's types may appear.

mod args;
mod filters;
#[allow(unsafe_code)]
mod link;
#[allow(unsafe_code)]
mod process;
#[allow(unsafe_code)]
mod protocol;
#[allow(unsafe_code)]
mod stack;
mod target;
#[cfg(feature = "tls")]
mod tls;
mod values;

use mlua::{Lua, Table};

/// Makes the module's table.
pub(crate) fn open(lua: &Lua) -> mlua::Result<Table> {
    let core = lua.create_table()?;
    filters::register(lua, &core)?;
    link::register(lua, &core)?;
    protocol::register(lua, &core)?;
    target::register(lua, &core)?;
    #[cfg(feature = "tls")]
    tls::register(lua, &core)?;
    Ok(core)
}
