//! The Lua module `mqtt.core`: what the Lua files of `lua/mqtt` call. The only room where Lua may appear.

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

use stack::Stack;

/// Makes the module's table. mlua knows how Lua opens a module, and the API of each Lua; its own objects and functions
/// trust whoever reaches them by the library `debug`, so those of `stack` take their place.
pub(crate) fn open(lua: &Lua) -> mlua::Result<Table> {
    stack::make_table(lua, add_functions)
}

/// Pushes the module's table.
fn add_functions(core: &Stack) {
    core.push_table();
    filters::register(core);
    link::register(core);
    protocol::register(core);
    target::register(core);
    #[cfg(feature = "tls")]
    tls::register(core);
}
