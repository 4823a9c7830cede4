//! Functions and objects for Lua, with as little as possible between them and Lua. All `unsafe` about Lua's stack is here.
//!
//! Whatever Lua does, even with its library `debug`, must not break this: each object says what it is in its first bytes,
//! and whoever takes one looks there. Lua can end an object early, by calling its finalizer: what is inside is gone then.
//!
//! No Lua code runs while Rust works. A function reads its arguments by what neither allocates in Lua nor calls a
//! metamethod, and makes plain data of tables; only pushing its results may run the collector, and then finalizers.

use std::any::{Any, TypeId};
use std::ffi::{CStr, c_int};
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, needs_drop};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::slice;

use bytes::Bytes;
use mlua::{Lua, ffi, lua_State};

use super::args::{Checked, Scalar, Table, Value};
use super::values::Results;

/// From how many bytes on a string is large enough to think of the memory that it takes.
const LARGE: usize = 64 << 10;
/// How many tables inside each other are read: no argument has more.
const MOST_NESTED: usize = 5;
/// How many values are read from the tables of an argument.
const MOST_VALUES: usize = 1 << 20;

/// A function for Lua, in two steps. Pushing a value may raise a Lua error (out of memory, a failing finalizer), which
/// leaves Rust's frames without running destructors: so the work is done before, and pushing holds nothing to destruct.
pub(crate) trait RawFunction: 'static {
    /// What there is to return.
    type Output;

    /// What [`Stack::push_constant`] pushes, counted from 1.
    const CONSTANTS: &'static [&'static str] = &[];

    /// Does the work, with the arguments on the stack. A panic becomes a Lua error.
    fn run(&self, arguments: &Stack) -> Self::Output;

    /// Pushes the results. Must hold nothing that has a destructor, and must not panic.
    fn push(output: &Self::Output, results: &Stack);

    /// Whether the result, a string, is raised as an error.
    #[inline]
    fn raises(_output: &Self::Output) -> bool {
        false
    }
}

/// What is wrong with the use of a function: its caller gets a Lua error.
pub(crate) struct Misuse(pub(crate) String);

impl From<String> for Misuse {
    fn from(message: String) -> Self {
        Self(message)
    }
}

/// A function of Rust as one for Lua.
struct Plain<F, R>(F, PhantomData<fn() -> R>);

impl<F, R> RawFunction for Plain<F, R>
where
    F: Fn(&Stack) -> Result<R, Misuse> + 'static,
    R: Results + 'static,
{
    type Output = Result<R, Misuse>;

    fn run(&self, arguments: &Stack) -> Self::Output {
        (self.0)(arguments)
    }

    fn push(output: &Self::Output, results: &Stack) {
        match output {
            Ok(values) => values.push(results),
            Err(Misuse(message)) => results.push_bytes(message.as_bytes()),
        }
    }

    fn raises(output: &Self::Output) -> bool {
        output.is_err()
    }
}

/// What is inside a userdata of ours. Its type says that it is one.
#[repr(C)]
struct Object<T> {
    tag: TypeId,
    value: Option<T>,
}

unsafe extern "C-unwind" fn finalize<T: 'static>(state: *mut lua_State) -> c_int {
    let object = Stack { state }.object_at::<T>(1);
    // SAFETY: the object is one of ours. No reference to its value is alive: Lua runs, so no function of ours does.
    let value = object.and_then(|object| unsafe { (*object.as_ptr()).value.take() });
    // A panic has been reported. To raise an error here would end the program.
    drop(catch_unwind(AssertUnwindSafe(|| drop(value))));
    0
}

unsafe extern "C-unwind" fn call<F: RawFunction>(state: *mut lua_State) -> c_int {
    let stack = Stack { state };
    let function = match size_of::<F>() {
        // SAFETY: a function that has no data needs no object; one was there when this was made, and was forgotten.
        0 => Some(unsafe { NonNull::<F>::dangling().as_ref() }),
        _ => stack.object::<F>(ffi::lua_upvalueindex(F::CONSTANTS.len() as c_int + 1)),
    };
    let failure = match function {
        Some(function) => match catch_unwind(AssertUnwindSafe(|| function.run(&stack))) {
            Ok(output) => {
                let output = ManuallyDrop::new(output);
                let raises = F::raises(&output);
                let before = stack.height();
                F::push(&output, &stack);
                let pushed = stack.height() - before;
                drop(ManuallyDrop::into_inner(output));
                if raises {
                    // SAFETY: the error is on the stack, and nothing with a destructor is alive.
                    unsafe { ffi::lua_error(state) }
                }
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
///
/// It cannot be sent to another thread, and so not used by what runs under a lock.
pub(crate) struct Stack {
    state: *mut lua_State,
}

/// The table that a function pushes.
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

    /// The object that an argument is, whether or not Lua has ended it.
    #[inline]
    fn object_at<T: 'static>(&self, index: c_int) -> Option<NonNull<Object<T>>> {
        // SAFETY: the size is looked at first. What has the size and the type's identifier in its first bytes is one of
        // ours.
        unsafe {
            let object = ffi::lua_touserdata(self.state, index).cast::<Object<T>>();
            let is_ours = !object.is_null()
                && ffi::lua_rawlen(self.state, index) == size_of::<Object<T>>()
                && (*object).tag == TypeId::of::<T>();
            is_ours.then(|| NonNull::new_unchecked(object))
        }
    }

    /// An argument that is an object with such a value.
    #[inline]
    pub(crate) fn object<T: 'static>(&self, index: c_int) -> Option<&T> {
        // SAFETY: it lives as long as it is an argument. Only its finalizer takes the value away, and that cannot run while
        // the reference is used, since no Lua code can.
        self.object_at::<T>(index)
            .and_then(|object| unsafe { object.as_ref() }.value.as_ref())
    }

    /// Whether an argument is an object with such a value that Lua has ended.
    pub(crate) fn is_ended<T: 'static>(&self, index: c_int) -> bool {
        self.object_at::<T>(index)
            // SAFETY: as in `object`.
            .is_some_and(|object| unsafe { object.as_ref() }.value.is_none())
    }

    /// An argument as plain data; of tables that is what is in them, whatever their metatables say.
    pub(crate) fn value(&self, index: c_int) -> Checked<Value> {
        self.read(index, MOST_NESTED, &mut { MOST_VALUES })
    }

    fn read(&self, index: c_int, nested: usize, left: &mut usize) -> Checked<Value> {
        *left = left
            .checked_sub(1)
            .ok_or_else(|| format!("expecting tables with less than {MOST_VALUES} values"))?;
        Ok(match self.argument(index) {
            Scalar::Nil => Value::Nil,
            Scalar::Boolean(flag) => Value::Boolean(flag),
            Scalar::Number(number) => Value::Number(number),
            Scalar::String(bytes) => Value::String(bytes.into()),
            Scalar::Function => Value::Function,
            Scalar::Other(_) if self.is_table(index) && nested > 0 => {
                Value::Table(self.read_table(index, nested - 1, left)?)
            }
            Scalar::Other(type_name) => Value::Other(type_name),
        })
    }

    fn read_table(&self, index: c_int, nested: usize, left: &mut usize) -> Checked<Table> {
        let mut table = Table::default();
        // SAFETY: each level of tables takes two values, for which there is room. Nothing is allocated in Lua or changed in
        // the table meanwhile, so that `lua_next` raises nothing.
        unsafe {
            loop {
                ffi::lua_rawgeti(self.state, index, table.list.len() as ffi::lua_Integer + 1);
                let item = self.read(self.height(), nested, left);
                ffi::lua_settop(self.state, -2);
                match item? {
                    Value::Nil => break,
                    item => table.list.push(item),
                }
            }
            ffi::lua_pushnil(self.state);
            while ffi::lua_next(self.state, index) != 0 {
                let value = self.height();
                let is_listed = matches!(self.argument(value - 1), Scalar::Number(number)
                    if number >= 1.0 && number <= table.list.len() as f64 && number.fract() == 0.0);
                if !is_listed {
                    let pair = self
                        .read(value - 1, 0, left)
                        .and_then(|key| Ok((key, self.read(value, nested, left)?)));
                    match pair {
                        Ok(pair) => table.fields.push(pair),
                        Err(error) => {
                            ffi::lua_settop(self.state, -3);
                            return Err(error);
                        }
                    }
                }
                ffi::lua_settop(self.state, -2);
            }
        }
        Ok(table)
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

    /// Pushes the thread that runs.
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
    #[inline]
    pub(crate) fn push_table(&self) {
        self.push_table_for(0);
    }

    /// Pushes an empty table that will have so many fields.
    #[inline]
    pub(crate) fn push_table_for(&self, fields: c_int) {
        // SAFETY: there is room.
        unsafe { ffi::lua_createtable(self.state, 0, fields) }
    }

    /// Pushes a constant of the function, counted from 1.
    #[inline]
    pub(crate) fn push_constant(&self, index: c_int) {
        // SAFETY: there is room; what is not there would be nil.
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

    /// Pushes what is on top of the stack once more.
    pub(crate) fn push_top(&self) {
        // SAFETY: there is room, and callers have pushed something.
        unsafe { ffi::lua_pushvalue(self.state, -1) }
    }

    /// Pushes an argument.
    #[inline]
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
    #[inline]
    pub(crate) fn set(&self) {
        debug_assert!(self.is_table(-3));
        // SAFETY: callers push the table, key and value.
        unsafe { ffi::lua_rawset(self.state, -3) }
    }

    /// Takes a value off the stack and appends it to the array part of the table below it.
    #[inline]
    pub(crate) fn append(&self) {
        debug_assert!(self.is_table(-2));
        // SAFETY: callers push the table and the value.
        unsafe {
            let size = ffi::lua_rawlen(self.state, -2);
            ffi::lua_rawseti(self.state, -2, size as ffi::lua_Integer + 1);
        }
    }

    /// Pushes a function, to which its constants belong.
    pub(crate) fn push_function<F: RawFunction>(&self, function: F) {
        let mut upvalues = F::CONSTANTS.len() as c_int;
        for constant in F::CONSTANTS {
            self.push_bytes(constant.as_bytes());
        }
        if size_of::<F>() == 0 {
            std::mem::forget(function);
        } else {
            self.push_object(function, |_| {});
            upvalues += 1;
        }
        // SAFETY: there is room for the few values of a module that is being loaded, and of those that makes.
        unsafe { ffi::lua_pushcclosure(self.state, call::<F>, upvalues) }
    }

    /// Sets a field of the table on top of the stack to a function.
    pub(crate) fn set_raw<F: RawFunction>(&self, name: &str, function: F) {
        self.push_bytes(name.as_bytes());
        self.push_function(function);
        self.set();
    }

    /// Sets a field of the table on top of the stack to a function that has no data.
    pub(crate) fn set_function<F, R>(&self, name: &str, function: F)
    where
        F: Fn(&Stack) -> Result<R, Misuse> + 'static,
        R: Results + 'static,
    {
        const { assert!(size_of::<F>() == 0) };
        self.set_raw(name, Plain(function, PhantomData));
    }

    /// Pushes an object with a value, for functions to find among their arguments. `methods` sets its methods as fields of
    /// a table on top of the stack.
    pub(crate) fn push_object<T: 'static>(&self, value: T, methods: impl FnOnce(&Stack)) {
        const {
            assert!(
                align_of::<Object<T>>() <= 8,
                "Lua aligns userdata to 8 bytes"
            )
        };
        let state = self.state;
        // If Lua has no memory, what is in the value is lost.
        let value = ManuallyDrop::new(value);
        // SAFETY: there is room for five values. The userdata is initialized before anything can look at it, and freed by
        // Lua only after its finalizer; a look at it after that (when the state closes) finds None.
        unsafe {
            let object = ffi::lua_newuserdata(state, size_of::<Object<T>>()).cast::<Object<T>>();
            object.write(Object {
                tag: TypeId::of::<T>(),
                value: None,
            });
            // One metatable for each type, which Lua code does not see.
            let key = (finalize::<T> as ffi::lua_CFunction as *const ()).cast();
            if ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, key) != ffi::LUA_TTABLE {
                ffi::lua_settop(state, -2);
                self.push_table_for(3);
                if needs_drop::<T>() {
                    self.push_bytes(b"__gc");
                    ffi::lua_pushcclosure(state, finalize::<T>, 0);
                    self.set();
                }
                self.push_bytes(b"__metatable");
                self.push_boolean(false);
                self.set();
                self.push_bytes(b"__index");
                self.push_table();
                methods(self);
                self.set();
                ffi::lua_pushvalue(state, -1);
                ffi::lua_rawsetp(state, ffi::LUA_REGISTRYINDEX, key);
            }
            ffi::lua_setmetatable(state, -2);
            (*object).value = Some(ManuallyDrop::into_inner(value));
        }
    }

    #[inline]
    fn is_table(&self, index: c_int) -> bool {
        // SAFETY: only reads.
        unsafe { ffi::lua_type(self.state, index) == ffi::LUA_TTABLE }
    }
}
