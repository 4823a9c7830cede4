//! Values of Rust as userdata of Lua.

use std::any::TypeId;
use std::ffi::c_int;
use std::mem::{ManuallyDrop, needs_drop};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use mlua::{ffi, lua_State};

use super::Stack;

/// The content of our userdata. Its first bytes, the tag, name the type of the value.
#[repr(C)]
struct Object<T> {
    tag: TypeId,
    value: Option<T>,
}

unsafe extern "C-unwind" fn finalize<T: 'static>(state: *mut lua_State) -> c_int {
    let object = Stack { state }.object_at::<T>(1);
    // SAFETY: the object is one of ours. No reference to its value is alive: Lua runs, so no function of ours does.
    let value = object.and_then(|object| unsafe { (*object.as_ptr()).value.take() });
    // The panic hook has reported a panic. A Lua error raised here would end the program.
    drop(catch_unwind(AssertUnwindSafe(|| drop(value))));
    0
}

impl Stack {
    /// The object that an argument is, also after its finalizer.
    #[inline]
    fn object_at<T: 'static>(&self, index: c_int) -> Option<NonNull<Object<T>>> {
        // SAFETY: the size is checked before the tag is read. Only our userdata has this size and the type's identifier in
        // its first bytes.
        unsafe {
            let object = ffi::lua_touserdata(self.state, index).cast::<Object<T>>();
            let is_ours = !object.is_null()
                && ffi::lua_rawlen(self.state, index) == size_of::<Object<T>>()
                && (*object).tag == TypeId::of::<T>();
            is_ours.then(|| NonNull::new_unchecked(object))
        }
    }

    /// The value of an argument that is an object with a `T`.
    #[inline]
    pub(crate) fn object<T: 'static>(&self, index: c_int) -> Option<&T> {
        // SAFETY: the object lives as long as it is an argument. Only its finalizer takes the value away, and no finalizer
        // runs while the reference is used, since no Lua code runs.
        self.object_at::<T>(index)
            .and_then(|object| unsafe { object.as_ref() }.value.as_ref())
    }

    /// Whether an argument is an object with a `T` that Lua has ended.
    pub(crate) fn is_ended<T: 'static>(&self, index: c_int) -> bool {
        self.object_at::<T>(index)
            // SAFETY: as in `object`.
            .is_some_and(|object| unsafe { object.as_ref() }.value.is_none())
    }

    /// Pushes an object with a value. Functions that get the object as an argument find the value by
    /// [`object`](Self::object). `methods` sets the methods as fields of the table on top of the stack.
    pub(crate) fn push_object<T: 'static>(&self, value: T, methods: impl FnOnce(&Stack)) {
        const {
            assert!(
                align_of::<Object<T>>() <= 8,
                "Lua aligns userdata to 8 bytes"
            )
        };
        let state = self.state;
        // If Lua has no memory, the value leaks.
        let value = ManuallyDrop::new(value);
        // SAFETY: there is room for five values. The userdata is initialized before any function can read it, and Lua frees
        // it only after its finalizer. A function that reads it after its finalizer (when the state closes) finds None.
        unsafe {
            let object = ffi::lua_newuserdata(state, size_of::<Object<T>>()).cast::<Object<T>>();
            object.write(Object {
                tag: TypeId::of::<T>(),
                value: None,
            });
            // One metatable for each type, hidden from Lua code.
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
}
