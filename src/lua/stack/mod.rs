//! Functions and objects for Lua, with as little as possible between them and Lua. All `unsafe` about Lua's stack is here.
//!
//! Nothing that Lua does, even with its library `debug`, may break this room. The first bytes of each object say what it
//! is, and every function reads them before it uses an object. Lua can call an object's finalizer early: the object is
//! then empty.
//!
//! No Lua code runs while Rust works. A function reads its arguments without allocating in Lua and without metamethods,
//! and copies tables into plain data. Only pushing the results may run the collector, and with it finalizers.

mod function;
mod object;
mod tables;

use std::ffi::{CStr, c_int};
use std::slice;

use bytes::Bytes;
use mlua::{Lua, ffi, lua_State};

use super::args::Scalar;
pub(super) use function::{Misuse, RawFunction};

/// The least size of a large string, in bytes. The collector may run before a large string is pushed.
const LARGE: usize = 64 << 10;

/// The stack of a running function: its arguments, counted from 1, and the pushed values above them. Lua grants a function
/// room for 20 values above its arguments; no packet needs more.
///
/// A stack cannot be sent to another thread. So the compiler keeps it out of closures that run under a link's lock.
pub(crate) struct Stack {
    state: *mut lua_State,
}

/// Runs `push`, which pushes a table, and returns the table.
pub(crate) fn make_table(lua: &Lua, push: fn(&Stack)) -> mlua::Result<mlua::Table> {
    // SAFETY: this runs in a function of C that Lua protects, with room for 20 values.
    unsafe { lua.exec_raw((), |state| push(&Stack { state })) }
}

impl Stack {
    #[inline]
    fn height(&self) -> c_int {
        // SAFETY: only reads.
        unsafe { ffi::lua_gettop(self.state) }
    }

    /// An argument.
    #[inline]
    pub(crate) fn argument(&self, index: c_int) -> Scalar<'_> {
        debug_assert!(index > 0);
        // SAFETY: any index above 0 may be asked for its type. A string's bytes stay where they are as long as it is an
        // argument, which it is as long as the stack can be borrowed: nothing here removes one.
        unsafe {
            match ffi::lua_type(self.state, index) {
                ffi::LUA_TNIL | ffi::LUA_TNONE => Scalar::Nil,
                ffi::LUA_TBOOLEAN => Scalar::Boolean(ffi::lua_toboolean(self.state, index) != 0),
                ffi::LUA_TNUMBER => Scalar::Number(ffi::lua_tonumber(self.state, index)),
                ffi::LUA_TSTRING => {
                    let mut size = 0;
                    let bytes = ffi::lua_tolstring(self.state, index, &mut size);
                    Scalar::String(slice::from_raw_parts(bytes.cast(), size))
                }
                ffi::LUA_TFUNCTION => Scalar::Function,
                other => Scalar::Other(
                    CStr::from_ptr(ffi::lua_typename(self.state, other))
                        .to_str()
                        .unwrap_or("value"),
                ),
            }
        }
    }

    /// Returns a function that tells whether the debug hook has been set since. A signal handler must not call Lua. It sets
    /// a hook, which Lua calls soon: this is how the stand-alone interpreter handles Ctrl-C.
    pub(crate) fn hook_is_set(&self) -> impl Fn() -> bool {
        let hook = || {
            // SAFETY: only reads. Handlers run in this thread, or write no more than a pointer and two numbers.
            unsafe {
                (
                    ffi::lua_gethook(self.state).map(|hook| hook as usize),
                    ffi::lua_gethookmask(self.state),
                    ffi::lua_gethookcount(self.state),
                )
            }
        };
        let before = hook();
        move || hook() != before
    }

    /// The bytes of a string argument, not copied.
    ///
    /// # Safety
    /// The caller must drop the bytes and every slice of them before the function returns to Lua.
    pub(crate) unsafe fn argument_bytes(&self, index: c_int) -> Option<Bytes> {
        match self.argument(index) {
            // SAFETY: the string lives until the function returns; the caller drops the bytes before.
            Scalar::String(bytes) => Some(Bytes::from_static(unsafe {
                slice::from_raw_parts(bytes.as_ptr(), bytes.len())
            })),
            _ => None,
        }
    }

    /// Pushes the running thread.
    pub(crate) fn push_thread(&self) {
        // SAFETY: there is room.
        unsafe { ffi::lua_pushthread(self.state) };
    }

    #[inline]
    pub(crate) fn push_nil(&self) {
        // SAFETY: there is room.
        unsafe { ffi::lua_pushnil(self.state) }
    }

    #[inline]
    pub(crate) fn push_boolean(&self, value: bool) {
        // SAFETY: there is room.
        unsafe { ffi::lua_pushboolean(self.state, value.into()) }
    }

    #[inline]
    pub(crate) fn push_integer(&self, value: impl Into<u32>) {
        let value = value.into();
        #[allow(
            clippy::unnecessary_fallible_conversions,
            reason = "fallible where Lua's integers have 32 bits"
        )]
        let integer = ffi::lua_Integer::try_from(value);
        // SAFETY: there is room.
        unsafe {
            match integer {
                Ok(integer) => ffi::lua_pushinteger(self.state, integer),
                Err(_) => ffi::lua_pushnumber(self.state, value.into()),
            }
        }
    }

    #[inline]
    pub(crate) fn push_number(&self, value: f64) {
        // SAFETY: there is room.
        unsafe { ffi::lua_pushnumber(self.state, value) }
    }

    #[inline]
    pub(crate) fn push_bytes(&self, bytes: &[u8]) {
        if bytes.len() >= LARGE {
            self.collect_for(bytes.len());
        }
        // SAFETY: there is room, and Lua copies the bytes.
        unsafe { ffi::lua_pushlstring(self.state, bytes.as_ptr().cast(), bytes.len()) };
    }

    /// Collects garbage before a string of `size` bytes is made, if Lua holds at most twice as many bytes. The collector
    /// then goes through little more memory than the copy, and the last large string is freed before the next is made.
    /// Otherwise the collector of Lua 5.4 would keep two large strings in generational mode.
    #[cfg(not(any(feature = "lua51", feature = "luajit")))]
    #[cold]
    fn collect_for(&self, size: usize) {
        // SAFETY: a finalizer may raise an error, as with every push.
        unsafe {
            let kib = ffi::lua_gc(self.state, ffi::LUA_GCCOUNT, 0);
            // The program may have stopped the collector, or a finalizer may be running.
            if size >> 9 >= kib as usize && ffi::lua_gc(self.state, ffi::LUA_GCISRUNNING, 0) != 0 {
                ffi::lua_gc(self.state, ffi::LUA_GCCOLLECT, 0);
            }
        }
    }

    /// Does nothing: Lua 5.1 cannot tell whether its collector was stopped. LuaJIT's collector frees large strings early,
    /// and a full collection is slow.
    #[cfg(any(feature = "lua51", feature = "luajit"))]
    fn collect_for(&self, _size: usize) {}

    /// Pushes an empty table.
    #[inline]
    pub(crate) fn push_table(&self) {
        self.push_table_for(0);
    }

    /// Pushes an empty table with room for a number of fields.
    #[inline]
    pub(crate) fn push_table_for(&self, fields: c_int) {
        // SAFETY: there is room.
        unsafe { ffi::lua_createtable(self.state, 0, fields) }
    }

    /// Pushes a constant of the function, counted from 1.
    #[inline]
    pub(crate) fn push_constant(&self, index: c_int) {
        // SAFETY: there is room; a constant that does not exist would be nil.
        unsafe { ffi::lua_pushvalue(self.state, ffi::lua_upvalueindex(index)) }
    }

    /// Pushes a number that may be larger than Lua's integers.
    pub(crate) fn push_count(&self, count: u64) {
        match ffi::lua_Integer::try_from(count) {
            // SAFETY: there is room.
            Ok(count) => unsafe { ffi::lua_pushinteger(self.state, count) },
            Err(_) => self.push_number(count as f64),
        }
    }

    /// Pushes a copy of the value on top of the stack.
    pub(crate) fn push_top(&self) {
        // SAFETY: there is room, and callers have pushed something.
        unsafe { ffi::lua_pushvalue(self.state, -1) }
    }

    /// Pushes an argument.
    #[inline]
    pub(crate) fn push_argument(&self, index: c_int) {
        // SAFETY: there is room; an argument that does not exist is nil.
        unsafe { ffi::lua_pushvalue(self.state, index) }
    }

    /// Gives the table on top of the stack an argument as its metatable, if the argument is a table.
    pub(crate) fn set_metatable(&self, argument: c_int) {
        debug_assert!(self.is_table(-1));
        if self.is_table(argument) {
            // SAFETY: both are tables, and there is room.
            unsafe {
                ffi::lua_pushvalue(self.state, argument);
                ffi::lua_setmetatable(self.state, -2);
            }
        }
    }

    /// Pops a value and the key below it, and sets the field of the table below them.
    #[inline]
    pub(crate) fn set(&self) {
        debug_assert!(self.is_table(-3));
        // SAFETY: callers push the table, key and value.
        unsafe { ffi::lua_rawset(self.state, -3) }
    }

    /// Pops a value and appends it to the array part of the table below.
    #[inline]
    pub(crate) fn append(&self) {
        debug_assert!(self.is_table(-2));
        // SAFETY: callers push the table and the value.
        unsafe {
            let size = ffi::lua_rawlen(self.state, -2);
            ffi::lua_rawseti(self.state, -2, size as ffi::lua_Integer + 1);
        }
    }

    #[inline]
    fn is_table(&self, index: c_int) -> bool {
        // SAFETY: only reads.
        unsafe { ffi::lua_type(self.state, index) == ffi::LUA_TTABLE }
    }
}
