//! Functions of Rust for Lua.

use std::any::Any;
use std::ffi::c_int;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use mlua::{ffi, lua_State};

use super::Stack;
use crate::lua::results::Results;

/// A function for Lua, in two steps. Pushing a value may raise a Lua error (out of memory, a failing finalizer), which
/// leaves Rust's frames without running destructors. So `run` does the work, and `push` holds nothing with a destructor.
pub(crate) trait RawFunction: 'static {
    /// The results of `run`, which `push` pushes.
    type Output;

    /// The strings that [`Stack::push_constant`] pushes, counted from 1.
    const CONSTANTS: &'static [&'static str] = &[];

    /// Does the work, with the arguments on the stack. A panic becomes a Lua error.
    fn run(&self, arguments: &Stack) -> Self::Output;

    /// Pushes the results. Must hold nothing with a destructor, and must not panic.
    fn push(output: &Self::Output, results: &Stack);

    /// Whether the result, a string, is raised as an error.
    #[inline]
    fn raises(_output: &Self::Output) -> bool {
        false
    }
}

/// A function was called wrongly: its caller gets this message as a Lua error.
pub(crate) struct Misuse(pub(crate) String);

impl From<String> for Misuse {
    fn from(message: String) -> Self {
        Self(message)
    }
}

/// A Rust function without data as a function for Lua.
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

unsafe extern "C-unwind" fn call<F: RawFunction>(state: *mut lua_State) -> c_int {
    let stack = Stack { state };
    let function = match size_of::<F>() {
        // SAFETY: a function without data needs no object. `push_function` had a value of the type and forgot it.
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

impl Stack {
    /// Pushes a function and, as its upvalues, its constants and data.
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
        // SAFETY: there is room: only `add_functions` and functions with few results push functions.
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
}
