//! How an event loop that waits only for its own connections is woken: functions of `mqtt.core` for `mqtt.bell`.

use super::results::{Results, push_failure};
use super::shared_driver::SharedDriver;
use super::stack::{RawFunction, Stack};
use crate::driver::BellAddress;

/// Adds the functions of this file to `mqtt.core`.
pub(super) fn register(core: &Stack, shared: &SharedDriver) {
    core.set_raw("hang_bell", Hang(shared.clone()));
    core.set_raw("take_bell", Take(shared.clone()));
    core.set_raw("arm_bell", Arm(shared.clone()));
    core.set_raw("hurry", Hurry(shared.clone()));
}

/// `hang_bell()`: where to connect to, what to send there, and the port if it is no path; or nil and an error.
struct Hang(SharedDriver);

impl RawFunction for Hang {
    type Output = Result<BellAddress, String>;

    fn run(&self, _: &Stack) -> Self::Output {
        self.0.get()?.hang_bell().map_err(|error| error.to_string())
    }

    fn push(output: &Self::Output, results: &Stack) {
        match output {
            Ok(address) => {
                results.push_bytes(address.host.as_bytes());
                results.push_bytes(address.secret.as_bytes());
                if let Some(port) = address.port {
                    results.push_integer(port);
                }
            }
            Err(message) => push_failure(message, results),
        }
    }
}

/// `take_bell()`: takes the connection on which the secret has been sent. Returns whether there is one.
struct Take(SharedDriver);

impl RawFunction for Take {
    type Output = bool;

    fn run(&self, _: &Stack) -> Self::Output {
        self.0.get().is_ok_and(|driver| driver.take_bell())
    }

    fn push(output: &Self::Output, results: &Stack) {
        output.push(results);
    }
}

/// `arm_bell()`: whether to wait for a byte now. If not, there is a ready link.
struct Arm(SharedDriver);

impl RawFunction for Arm {
    type Output = bool;

    fn run(&self, _: &Stack) -> Self::Output {
        self.0.get().is_ok_and(|driver| driver.arm_bell())
    }

    fn push(output: &Self::Output, results: &Stack) {
        output.push(results);
    }
}

/// `hurry()`: has what was published sent at once, rather than with what may be published next.
struct Hurry(SharedDriver);

impl RawFunction for Hurry {
    type Output = ();

    fn run(&self, _: &Stack) -> Self::Output {
        if let Ok(driver) = self.0.get() {
            driver.hurry();
        }
    }

    fn push((): &Self::Output, _: &Stack) {}
}
