//! Functions that Lua's own library lacks: a clock that never goes back, the running thread, random digits.

use std::time::Instant;

use super::args::Checked;
use super::stack::{RawFunction, Stack};
use crate::net::random_bytes;

/// Adds the functions of this file to `mqtt.core`.
pub(super) fn register(core: &Stack) {
    core.set_raw("running", Running);
    core.set_raw("now", Now(Instant::now()));
    // random_hex(digits): a string of random hexadecimal digits, 64 at most.
    core.set_function("random_hex", |arguments| {
        let digits = arguments.argument(1).integer(0, 64, &"digits")?;
        Ok(random_hex(digits as usize)?)
    });
}

/// `running()`: the running thread, also the main thread, for which `coroutine.running` of Lua 5.1 returns nil.
struct Running;

impl RawFunction for Running {
    type Output = ();

    fn run(&self, _: &Stack) -> Self::Output {}

    fn push((): &Self::Output, results: &Stack) {
        results.push_thread();
    }
}

/// `now()`: seconds since the module was loaded. Under Copas `host.lua` calls it every few messages.
struct Now(Instant);

impl RawFunction for Now {
    type Output = f64;

    fn run(&self, _: &Stack) -> Self::Output {
        self.0.elapsed().as_secs_f64()
    }

    fn push(output: &Self::Output, results: &Stack) {
        results.push_number(*output);
    }
}

/// Random hexadecimal digits.
fn random_hex(digits: usize) -> Checked<String> {
    let bytes = random_bytes::<32>().map_err(|error| error.to_string())?;
    let mut hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    hex.truncate(digits);
    Ok(hex)
}

/// Seconds as of `os.time`.
pub(super) fn unix_time() -> u32 {
    // Other clocks read the processor's counter, which takes longer.
    // SAFETY: with a null pointer it only returns the time.
    #[cfg(unix)]
    return unsafe { libc::time(std::ptr::null_mut()) } as u32;
    #[cfg(not(unix))]
    return std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0, |time| time.as_secs() as u32);
}
