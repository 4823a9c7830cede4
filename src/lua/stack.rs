//! Functions with as little as possible between them and Lua, for what runs once for each message. What runs seldom is
//! written with mlua's own functions. All `unsafe` about Lua's stack is here.

use std::any::{Any, TypeId};
#[cfg(feature = "luajit")]
use std::ffi::c_void;
use std::ffi::{CStr, c_int};
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;

use bytes::Bytes;
use mlua::{AnyUserData, Function, IntoLuaMulti, Lua, ffi, lua_State};

use super::args::Scalar;

/// From how many bytes on a string is large enough to think of the memory that it takes.
const LARGE: usize = 64 << 10;

/// A function for Lua, in two steps. Pushing a value may raise a Lua error (out of memory, a failing finalizer), which
/// leaves Rust's frames without running destructors: so the work is done before, and pushing holds nothing to destruct.
pub(crate) trait RawFunction: 'static {
    /// What there is to return.
    type Output;

    /// Does the work, with the arguments on the stack. A panic becomes a Lua error.
    fn run(&self, arguments: &Stack) -> Self::Output;

    /// Pushes the results. Must hold nothing that has a destructor, and must not panic.
    fn push(output: &Self::Output, results: &Stack);
}

/// Makes a Lua function of it, to which constants belong: `Stack::push_constant` counts them from 1.
pub(crate) fn create_raw_function<F: RawFunction>(
    lua: &Lua,
    function: F,
    constants: impl IntoLuaMulti,
) -> mlua::Result<Function> {
    // SAFETY: pushes one value, for the constants and one more.
    unsafe {
        lua.exec_raw(constants, |state| {
            let constants = ffi::lua_gettop(state);
            push_object(state, function);
            ffi::lua_insert(state, 1);
            ffi::lua_pushcclosure(state, call::<F>, constants + 1);
        })
    }
}

/// What is inside a userdata of ours. Its type says that it is one.
#[repr(C)]
struct Object<T> {
    tag: TypeId,
    value: Option<T>,
}

/// Gives a value to Lua, for raw functions to find among their arguments.
pub(crate) fn create_object<T: 'static>(lua: &Lua, value: T) -> mlua::Result<AnyUserData> {
    // SAFETY: pushes one value.
    unsafe { lua.exec_raw((), |state| push_object(state, value)) }
}

/// A value that `create_object` has given to Lua, by its address.
///
/// # Safety
/// The address must be that of a userdata of `create_object`, which Lua keeps as long as the reference is used.
#[cfg(feature = "luajit")]
pub(crate) unsafe fn object_at<'a, T: 'static>(address: *const c_void) -> Option<&'a T> {
    // SAFETY: see above. The type's identifier comes first, whatever the type.
    unsafe {
        let object = address.cast::<Object<T>>();
        ((*object).tag == TypeId::of::<T>())
            .then(|| (*object).value.as_ref())
            .flatten()
    }
}

/// Pushes a value as userdata.
///
/// # Safety
/// Needs room for three values.
unsafe fn push_object<T: 'static>(state: *mut lua_State, value: T) {
    const {
        assert!(
            align_of::<Object<T>>() <= 8,
            "Lua aligns userdata to 8 bytes"
        )
    };
    // SAFETY: the userdata is initialized before anything can look at it, and freed by Lua only after its finalizer; a
    // look at it after that (when the state closes) finds None.
    unsafe {
        let object = ffi::lua_newuserdata(state, size_of::<Object<T>>()).cast::<Object<T>>();
        object.write(Object {
            tag: TypeId::of::<T>(),
            value: None,
        });
        // One metatable for each type.
        let key = (finalize::<T> as ffi::lua_CFunction as *const ()).cast();
        if ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, key) == ffi::LUA_TNIL {
            ffi::lua_pop(state, 1);
            ffi::lua_createtable(state, 0, 1);
            ffi::lua_pushcfunction(state, finalize::<T>);
            ffi::lua_setfield(state, -2, c"__gc".as_ptr());
            ffi::lua_pushvalue(state, -1);
            ffi::lua_rawsetp(state, ffi::LUA_REGISTRYINDEX, key);
        }
        ffi::lua_setmetatable(state, -2);
        (*object).value = Some(value);
    }
}

unsafe extern "C-unwind" fn finalize<T: 'static>(state: *mut lua_State) -> c_int {
    // SAFETY: only the metatable of our userdata calls this; it was initialized, and nobody uses it: what does would keep
    // it reachable.
    unsafe {
        let object = ffi::lua_touserdata(state, 1).cast::<Object<T>>();
        drop((*object).value.take());
    }
    0
}

unsafe extern "C-unwind" fn call<F: RawFunction>(state: *mut lua_State) -> c_int {
    let stack = Stack { state };
    // SAFETY: the upvalue is the userdata of create_raw_function, and lives as long as this function does.
    let object =
        unsafe { &*ffi::lua_touserdata(state, ffi::lua_upvalueindex(1)).cast::<Object<F>>() };
    let failure = match &object.value {
        Some(function) => match catch_unwind(AssertUnwindSafe(|| function.run(&stack))) {
            Ok(output) => {
                let output = ManuallyDrop::new(output);
                let before = stack.height();
                F::push(&output, &stack);
                let pushed = stack.height() - before;
                drop(ManuallyDrop::into_inner(output));
                return pushed;
            }
            Err(panic) => panic_text(panic),
        },
        None => "this Lua state is closed".to_owned(),
    };
    let failure = ManuallyDrop::new(failure);
    stack.push_bytes(failure.as_bytes());
    drop(ManuallyDrop::into_inner(failure));
    // SAFETY: nothing with a destructor is alive.
    unsafe { ffi::lua_error(state) }
}

fn panic_text(panic: Box<dyn Any + Send>) -> String {
    let text = match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => (*panic.downcast::<&str>().unwrap_or_default()).to_owned(),
    };
    format!("panic in mqtt.core: {text}")
}

/// The stack of a running function: its arguments, counted from 1, and above them what was pushed. Lua grants a function
/// room for 20 values above its arguments; no packet needs more.
pub(crate) struct Stack {
    state: *mut lua_State,
}

impl Stack {
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

    /// Says, when asked later, whether the debug hook has been set since. A signal handler must not call Lua: with a hook
    /// it has Lua do something soon, as that of the stand-alone interpreter does at Ctrl-C.
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

    /// An argument that `create_object` has made of a value.
    pub(crate) fn object<T: 'static>(&self, index: c_int) -> Option<&T> {
        // SAFETY: the size is looked at first. What has the size and the type's identifier in its first bytes is one of
        // ours; it lives as long as it is an argument.
        unsafe {
            let object = ffi::lua_touserdata(self.state, index).cast::<Object<T>>();
            let is_ours = !object.is_null()
                && ffi::lua_rawlen(self.state, index) == size_of::<Object<T>>()
                && (*object).tag == TypeId::of::<T>();
            (is_ours).then(|| (*object).value.as_ref()).flatten()
        }
    }

    /// Pushes fields of an argument, those that the constants name, if it is a table without a metatable. They become the
    /// arguments behind it, in place of what was there.
    pub(crate) fn push_fields(&self, table: c_int, fields: c_int) -> Option<()> {
        // SAFETY: a table is asked for its metatable.
        let is_plain =
            self.is_table(table) && unsafe { ffi::lua_getmetatable(self.state, table) == 0 };
        is_plain.then(|| self.push_raw_fields(table, table, fields))
    }

    /// As `push_fields`, if the table has that metatable, an argument behind it; they become the arguments behind that.
    pub(crate) fn push_fields_of_class(
        &self,
        table: c_int,
        metatable: c_int,
        fields: c_int,
    ) -> Option<()> {
        // SAFETY: a table is asked for its metatable; there is room.
        let is_of_class = self.is_table(table)
            && unsafe {
                ffi::lua_getmetatable(self.state, table) != 0
                    && ffi::lua_rawequal(self.state, -1, metatable) != 0
            };
        is_of_class.then(|| self.push_raw_fields(table, metatable, fields))
    }

    fn push_raw_fields(&self, table: c_int, last: c_int, fields: c_int) {
        // SAFETY: there is room; getting fields of a table without its metatable raises nothing.
        unsafe {
            ffi::lua_settop(self.state, last);
            for constant in 1..=fields {
                self.push_constant(constant);
                ffi::lua_rawget(self.state, table);
            }
        }
    }

    /// The bytes of a string argument, not copied.
    ///
    /// # Safety
    /// They, and what is sliced from them, must be dropped before the function returns to Lua.
    pub(crate) unsafe fn argument_bytes(&self, index: c_int) -> Option<Bytes> {
        match self.argument(index) {
            // SAFETY: they live until the function returns; the caller drops them before.
            Scalar::String(bytes) => Some(Bytes::from_static(unsafe {
                slice::from_raw_parts(bytes.as_ptr(), bytes.len())
            })),
            _ => None,
        }
    }

    pub(crate) fn push_nil(&self) {
        // SAFETY: there is room.
        unsafe { ffi::lua_pushnil(self.state) }
    }

    pub(crate) fn push_boolean(&self, value: bool) {
        // SAFETY: there is room.
        unsafe { ffi::lua_pushboolean(self.state, value.into()) }
    }

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

    pub(crate) fn push_number(&self, value: f64) {
        // SAFETY: there is room.
        unsafe { ffi::lua_pushnumber(self.state, value) }
    }

    pub(crate) fn push_bytes(&self, bytes: &[u8]) {
        if bytes.len() >= LARGE {
            self.collect_for(bytes.len());
        }
        // SAFETY: there is room, and Lua copies the bytes.
        unsafe { ffi::lua_pushlstring(self.state, bytes.as_ptr().cast(), bytes.len()) };
    }

    /// Collects garbage before a string of that size is made, if that is at least half of what Lua holds: what is looked at
    /// then is not more than what is copied anyhow, and the last large string need not be kept until after the next one.
    /// The collector of Lua 5.4 in generational mode would keep two.
    #[cfg(not(any(feature = "lua51", feature = "luajit")))]
    #[cold]
    fn collect_for(&self, size: usize) {
        // SAFETY: a finalizer may raise, as it may whenever something is pushed.
        unsafe {
            let kib = ffi::lua_gc(self.state, ffi::LUA_GCCOUNT, 0);
            // A program may have stopped the collector, or be in a finalizer.
            if size >> 9 >= kib as usize && ffi::lua_gc(self.state, ffi::LUA_GCISRUNNING, 0) != 0 {
                ffi::lua_gc(self.state, ffi::LUA_GCCOLLECT, 0);
            }
        }
    }

    /// Lua 5.1 cannot say that its collector has been stopped. That of LuaJIT is quick to free large strings, and slow to
    /// go through everything.
    #[cfg(any(feature = "lua51", feature = "luajit"))]
    fn collect_for(&self, _size: usize) {}

    /// Pushes an empty table.
    pub(crate) fn push_table(&self) {
        self.push_table_for(0);
    }

    /// Pushes an empty table that will have so many fields.
    pub(crate) fn push_table_for(&self, fields: c_int) {
        // SAFETY: there is room.
        unsafe { ffi::lua_createtable(self.state, 0, fields) }
    }

    /// Pushes a constant of the function, counted from 1.
    pub(crate) fn push_constant(&self, index: c_int) {
        // SAFETY: there is room; what is not there would be nil.
        unsafe { ffi::lua_pushvalue(self.state, ffi::lua_upvalueindex(1 + index)) }
    }

    /// Pushes an argument.
    pub(crate) fn push_argument(&self, index: c_int) {
        // SAFETY: there is room; what is not there is nil.
        unsafe { ffi::lua_pushvalue(self.state, index) }
    }

    /// Makes an argument, if it is a table, the metatable of the table on top of the stack.
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

    /// Takes a value and below it a key off the stack, and sets that field of the table below them.
    pub(crate) fn set(&self) {
        debug_assert!(self.is_table(-3));
        // SAFETY: callers push the table, key and value.
        unsafe { ffi::lua_rawset(self.state, -3) }
    }

    /// Takes a value off the stack and appends it to the array part of the table below it.
    pub(crate) fn append(&self) {
        debug_assert!(self.is_table(-2));
        // SAFETY: callers push the table and the value.
        unsafe {
            let size = ffi::lua_rawlen(self.state, -2);
            ffi::lua_rawseti(self.state, -2, size as ffi::lua_Integer + 1);
        }
    }

    fn is_table(&self, index: c_int) -> bool {
        // SAFETY: only reads.
        unsafe { ffi::lua_type(self.state, index) == ffi::LUA_TTABLE }
    }
}
