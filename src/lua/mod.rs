//! The Lua module `mqtt.core`: what the Lua files of `lua/mqtt` call. The only room where Lua may appear.

mod args;
mod filters;
mod link;
mod process;
mod protocol;
mod stack;
mod target;
#[cfg(feature = "tls")]
mod tls;
mod values;

use std::ffi::c_int;

use stack::Stack;

/// Entry of the Lua module `mqtt.core`.
///
/// # Safety
/// To be called by Lua.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn luaopen_mqtt_core(state: *mut mlua_sys::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe { stack::open_module(state, open) }
}

/// Makes the module's table.
fn open(core: &Stack) {
    core.push_table();
    filters::register(core);
    link::register(core);
    protocol::register(core);
    target::register(core);
    #[cfg(feature = "tls")]
    tls::register(core);
}
