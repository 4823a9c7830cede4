//! The driver of a Lua state, and how `mqtt.ioloop` waits for a link that has an event.

use std::cell::RefCell;
use std::rc::Rc;

use super::args::{Scalar, duration};
use super::process;
use super::results::{Results, push_failure};
use super::stack::{RawFunction, Stack};
use crate::driver::Driver;

/// The driver of a Lua state. It is made at its first use, and anew in the child of a fork.
#[derive(Clone, Default)]
pub(super) struct SharedDriver(Rc<RefCell<Option<Rc<Driver>>>>);

impl SharedDriver {
    pub(super) fn get(&self) -> Result<Rc<Driver>, String> {
        let mut slot = self.0.borrow_mut();
        match &*slot {
            Some(driver) if !driver.is_stale() => Ok(Rc::clone(driver)),
            _ => {
                let driver =
                    Driver::new(process::block_signals).map_err(|error| error.to_string())?;
                let driver = Rc::new(driver);
                *slot = Some(Rc::clone(&driver));
                Ok(driver)
            }
        }
    }
}

/// Adds the functions of this file to `mqtt.core`.
pub(super) fn register(core: &Stack, shared: &SharedDriver) {
    core.set_raw("next_ready", NextReady(shared.clone()));
    core.set_raw("wait", Wait(shared.clone()));
}

/// `next_ready()`: the token of the next link that has an event, or nil; or nil and an error.
struct NextReady(SharedDriver);

impl RawFunction for NextReady {
    type Output = Result<Option<u32>, String>;

    fn run(&self, _: &Stack) -> Self::Output {
        Ok(self.0.get()?.next_ready())
    }

    fn push(output: &Self::Output, results: &Stack) {
        output.push(results);
    }
}

/// `wait(seconds)`: drives the runtime until a link has an event or the time is over; with 0, for a single turn. A signal
/// handler that sets a debug hook ends the wait. Returns true, or nil and an error.
struct Wait(SharedDriver);

impl RawFunction for Wait {
    type Output = Result<(), String>;

    fn run(&self, arguments: &Stack) -> Self::Output {
        let Scalar::Number(seconds) = arguments.argument(1) else {
            return Err("expecting a number of seconds".into());
        };
        let driver = self.0.get()?;
        let timeout = (seconds != f64::INFINITY).then(|| duration(seconds));
        driver.wait(timeout, arguments.hook_is_set());
        Ok(())
    }

    fn push(output: &Self::Output, results: &Stack) {
        match output {
            Ok(()) => results.push_boolean(true),
            Err(message) => push_failure(message, results),
        }
    }
}
