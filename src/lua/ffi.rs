//! How `mqtt.calls` publishes and acknowledges through LuaJIT's FFI: LuaJIT compiles calls through its FFI, but not calls of C functions for
//! Lua. The FFI does not check pointers, so a link has a number here.

use std::cell::RefCell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use super::acknowledge::acknowledge;
use super::args::PublishArgs;
use super::environment::unix_time;
use super::link::LuaLink;
use super::publish::{Published, publish};
use super::results::set;
use super::stack::Stack;
use crate::codec::{Properties, QoS};
use crate::driver::{Link, Request};

thread_local! {
    /// The links that have a number.
    static BY_NUMBER: RefCell<HashMap<u32, Arc<Link>>> = RefCell::default();
}

/// All threads count here: a Lua state, and with it a link, may move to another thread.
static LAST_NUMBER: AtomicU32 = AtomicU32::new(0);

/// Adds three fields to `mqtt.core`: `publish_address` and `acknowledge_address`, the addresses of [`publish_plain`] and
/// [`acknowledge_plain`], and `publish_number(handle)`, which returns the number of a link for both.
pub(super) fn register(core: &Stack) {
    set(core, "publish_address", |core| {
        core.push_number(publish_plain as *const () as usize as f64);
    });
    set(core, "acknowledge_address", |core| {
        core.push_number(acknowledge_plain as *const () as usize as f64);
    });
    core.set_function("publish_number", |arguments| {
        Ok(arguments.object(1).map(LuaLink::number))
    });
}

/// Gives a link a number.
pub(super) fn add(link: &Arc<Link>) -> u32 {
    let number = LAST_NUMBER.fetch_add(1, Relaxed).wrapping_add(1).max(1);
    BY_NUMBER.with_borrow_mut(|links| links.insert(number, Arc::clone(link)));
    number
}

/// Forgets a link.
pub(super) fn forget(number: u32) {
    // The thread may be about to end.
    let _ = BY_NUMBER.try_with(|links| links.borrow_mut().remove(&number));
}

/// Publishes a message without properties; the session chooses the packet identifier. `flags` are the flags in the first
/// byte of a PUBLISH (3.3.1). Returns the packet identifier, 0 for QoS 0; plus 65,536 if the program should wait before it
/// sends more; plus the time as of `os.time` times 131,072. If it returns -1, it has done nothing: the caller then calls
/// `core.publish`, which can do more or returns the error.
///
/// The hot copy of `core.publish` for LuaJIT: a message of QoS 0 takes 2,600 instructions with it, 3,400 without.
///
/// # Safety
/// `topic` must point to `topic_size` bytes, and `payload` to `payload_size` bytes.
unsafe extern "C" fn publish_plain(
    number: u32,
    topic: *const u8,
    topic_size: u32,
    payload: *const u8,
    payload_size: u32,
    flags: u32,
) -> f64 {
    // SAFETY: see above. The slices are not kept, and nothing here calls Lua.
    let (topic, payload) = unsafe {
        (
            std::slice::from_raw_parts(topic, topic_size as usize),
            std::slice::from_raw_parts(payload, payload_size as usize),
        )
    };
    // After a panic `core.publish` is likely to panic too, and raises an error.
    let published = catch_unwind(AssertUnwindSafe(|| {
        let message = PublishArgs::from_flags(topic, payload, flags).ok()?;
        publish_by_number(number, &message)
    }));
    match published {
        Ok(Some(published)) => {
            f64::from(unix_time()) * f64::from(1 << 17) + f64::from(published.bits())
        }
        _ => -1.0,
    }
}

fn publish_by_number(number: u32, message: &PublishArgs<'_>) -> Option<Published> {
    let properties = Properties::new();
    let publish = |link: &Arc<Link>| match link.is_stale() {
        true => None,
        false => publish(link, message, 0, &properties, Request::PublishConnected).ok(),
    };
    let published = BY_NUMBER.try_with(|links| links.borrow().get(&number).and_then(publish));
    published.ok().flatten()
}

/// Acknowledges a message of QoS 1 or 2. Returns the time as of `os.time`. If it returns -1, it has done nothing.
///
/// The hot copy of `core.acknowledge_message` for LuaJIT, which then compiles the handler that acknowledges.
extern "C" fn acknowledge_plain(number: u32, packet_id: u32, qos: u32) -> f64 {
    let acknowledged = catch_unwind(|| {
        let packet_id = u16::try_from(packet_id).ok().filter(|id| *id > 0)?;
        let qos = match qos {
            1 => QoS::AtLeastOnce,
            2 => QoS::ExactlyOnce,
            _ => return None,
        };
        let acknowledge = |link: &Arc<Link>| match link.is_stale() {
            true => None,
            false => acknowledge(link, packet_id, qos, 0).ok(),
        };
        let done = BY_NUMBER.try_with(|links| links.borrow().get(&number).and_then(acknowledge));
        done.ok().flatten()
    });
    match acknowledged {
        Ok(Some(_)) => f64::from(unix_time()),
        _ => -1.0,
    }
}
