//! The Lua module `mqtt.core`, which the Lua files of `lua/mqtt` call. Lua may appear in this room only.

#[allow(unsafe_code)]
mod stack;

// Between Lua's values and Rust's data.
mod args;
mod refusal;
mod results;

// The functions of `mqtt.core`.
mod acknowledge;
mod bell;
mod build;
#[allow(unsafe_code)]
mod environment;
mod events;
#[cfg(feature = "luajit")]
#[allow(unsafe_code)]
mod ffi;
mod filters;
mod link;
#[allow(unsafe_code)]
mod process;
#[allow(unsafe_code)]
mod protocol;
#[allow(unsafe_code)]
mod publish;
mod shared_driver;
mod target;
#[cfg(feature = "tls")]
mod tls;
mod uri;

use mlua::{Lua, Table};

use shared_driver::SharedDriver;
use stack::Stack;

/// Makes the module's table. mlua knows how Lua opens a module, and the API of each Lua. Objects and functions come from
/// `stack`: mlua's would trust a program that reaches them by the library `debug`.
pub(crate) fn open(lua: &Lua) -> mlua::Result<Table> {
    process::watch();
    stack::make_table(lua, add_functions)
}

/// Pushes the module's table.
fn add_functions(core: &Stack) {
    let shared = SharedDriver::default();
    core.push_table();
    acknowledge::register(core);
    bell::register(core, &shared);
    build::register(core);
    environment::register(core);
    events::register(core);
    #[cfg(feature = "luajit")]
    ffi::register(core);
    filters::register(core);
    link::register(core, &shared);
    protocol::register(core);
    publish::register(core);
    shared_driver::register(core, &shared);
    target::register(core);
    #[cfg(feature = "tls")]
    tls::register(core);
    uri::register(core);
}
