//! The one door of a publish, [`publish`], and its callers for Lua's stack: `core.publish`, `core.publish_table` and a
//! link's method `publish`. The caller for LuaJIT's FFI is in `ffi.rs`.

use std::time::Duration;

use super::args::requests::properties;
use super::args::{Checked, PublishArgs, Scalar};
use super::environment::unix_time;
use super::link::{Answer, Live, LuaLink};
use super::refusal::Refusal;
use super::results::{Results, set};
use super::stack::{RawFunction, Stack};
use crate::codec::{Properties, PublishRef, QoS};
use crate::driver::{Accepted, Driver, Lent, Link, Request};

/// The least size of a large payload, in bytes: from there on a turn of the runtime costs less than a copy.
const LARGE_PAYLOAD: usize = 128 << 10;
/// How long the connection may take to write a large payload, if waiting holds up no other client.
const LARGE_PATIENCE: Duration = Duration::from_millis(2);

/// Adds the functions of this file to `mqtt.core`.
pub(super) fn register(core: &Stack) {
    core.set_raw("publish", PublishValues);
    core.set_raw("publish_table", PublishTable);
    set(core, "large_payload", |core| {
        core.push_integer(LARGE_PAYLOAD as u32);
    });
}

/// An accepted message, as Lua gets it.
pub(super) struct Published(Accepted);

impl Published {
    /// The low bits of the result of `publish_plain` in `ffi.rs`.
    #[cfg(feature = "luajit")]
    pub(super) fn bits(&self) -> u32 {
        u32::from(self.0.full) << 16 | u32::from(self.0.packet_id)
    }
}

/// The packet identifier, 0 for QoS 0, the time as of `os.time`, whether the program should wait before it sends more, and
/// perhaps a list of the messages that were given up for it.
impl Results for Published {
    fn push(&self, to: &Stack) {
        let Accepted {
            packet_id,
            full,
            dropped,
        } = &self.0;
        to.push_integer(*packet_id);
        to.push_integer(unix_time());
        to.push_boolean(*full);
        if !dropped.is_empty() {
            dropped.push(to);
        }
    }
}

/// The door: every publish ends here. `request` makes the request of the packet.
pub(super) fn publish<'a>(
    link: &Link,
    message: &PublishArgs<'a>,
    packet_id: u16,
    properties: &'a Properties,
    request: impl FnOnce(PublishRef<'a>) -> Request<'a>,
) -> Result<Published, Refusal> {
    let packet = message.packet(packet_id, properties);
    Ok(Published(link.ask(request(packet))?))
}

/// A packet identifier that the program has chosen, or 0 if the session shall choose one.
fn packet_id(argument: Scalar<'_>) -> Checked<u16> {
    match argument {
        Scalar::Nil => Ok(0),
        packet_id => packet_id.packet_id(),
    }
}

/// `publish(handle, topic, payload, qos, retain, dup, packet_id, may_wait)`: publishes a message without properties. Returns
/// the results of [`Published`]; or false and an error message if the program must wait until fewer bytes are waiting; or
/// nil, an error message and whether it is misuse. With `may_wait` it may take two milliseconds to spare a copy of a payload
/// of `core.large_payload` bytes or more, with QoS 0.
struct PublishValues;

impl RawFunction for PublishValues {
    type Output = Result<Published, Refusal>;

    fn run(&self, arguments: &Stack) -> Self::Output {
        let Live { link, driver } = LuaLink::live_of(arguments)?;
        let message = PublishArgs::read(arguments, 2)?;
        let packet_id = packet_id(arguments.argument(7))?;
        let is_lent = message.qos == QoS::AtMostOnce && message.payload.len() >= LARGE_PAYLOAD;
        publish(
            link,
            &message,
            packet_id,
            &Properties::new(),
            |packet| match is_lent {
                // SAFETY: `publish` gives the request to `Link::ask` at once.
                true => Request::PublishLarge(packet, unsafe { lent(arguments, driver) }),
                false => Request::Publish(packet),
            },
        )
    }

    fn push(output: &Self::Output, results: &Stack) {
        output.push(results);
    }
}

/// The third argument of `publish` as a lent payload.
///
/// # Safety
/// The payload must go to `Link::ask`: nothing refers to its bytes when `ask` has returned.
unsafe fn lent<'a>(arguments: &Stack, driver: &'a Driver) -> Lent<'a> {
    let may_wait = matches!(arguments.argument(8), Scalar::Boolean(true));
    Lent {
        // SAFETY: see above.
        payload: unsafe { arguments.argument_bytes(3) }.unwrap_or_default(),
        driver,
        patience: match may_wait {
            true => LARGE_PATIENCE,
            false => Duration::ZERO,
        },
    }
}

/// `publish_table(handle, opts, ignored)`: publishes the message of a table of `Client:publish`. Returns the results of
/// `publish`, with nil in place of a missing list of packet identifiers, and then the callback. It does nothing and returns
/// nothing if `opts` has properties, a metatable, or a field that is neither known nor true in the table `ignored`, if the
/// payload is large, or if the message is refused.
///
/// The hot copy of `publish` for the interpreters: a message of QoS 0 takes 6,100 instructions with it, 9,700 without.
struct PublishTable;

/// The places of the fields that `publish_table` reads: the arguments of `publish` in their order, and the callback.
fn place(field: &[u8]) -> Option<i32> {
    Some(match field {
        b"topic" => 0,
        b"payload" => 1,
        b"qos" => 2,
        b"retain" => 3,
        b"dup" => 4,
        b"packet_id" => 5,
        b"callback" => 6,
        _ => return None,
    })
}

/// The number of these fields.
const FIELDS: i32 = 7;
/// The place of the first field on the stack, behind the link, `opts` and `ignored`.
const FIRST_FIELD: i32 = 4;
const CALLBACK: i32 = FIRST_FIELD + 6;

impl RawFunction for PublishTable {
    type Output = Option<Published>;

    fn run(&self, arguments: &Stack) -> Self::Output {
        let Live { link, .. } = LuaLink::live_of(arguments).ok()?;
        arguments.push_all_fields(2, 3, (FIRST_FIELD, FIELDS), place)?;
        let field = |index| arguments.argument(FIRST_FIELD + index);
        let is_callback = matches!(field(6), Scalar::Nil | Scalar::Function);
        let is_large =
            matches!(field(1), Scalar::String(payload) if payload.len() >= LARGE_PAYLOAD);
        if !is_callback || is_large {
            return None;
        }
        let message = PublishArgs::read(arguments, FIRST_FIELD).ok()?;
        let packet_id = packet_id(field(5)).ok()?;
        publish(
            link,
            &message,
            packet_id,
            &Properties::new(),
            Request::Publish,
        )
        .ok()
    }

    fn push(output: &Self::Output, results: &Stack) {
        if let Some(published) = output {
            published.push(results);
            if published.0.dropped.is_empty() {
                results.push_nil();
            }
            results.push_argument(CALLBACK);
        }
    }
}

/// `publish(topic, payload, qos, retain, dup, packet_id, properties, user_properties, expires_in)`, a method: returns the
/// results of `core.publish`. A message that would have to wait for more than `expires_in` seconds is given up.
pub(super) fn publish_with_properties(arguments: &Stack) -> Answer<Published> {
    let this = LuaLink::of(arguments)?;
    let answer = || {
        let message = PublishArgs::read(arguments, 2)?;
        let packet_id = packet_id(arguments.argument(7))?;
        let properties = properties(arguments, 8, this.version)?;
        let link = this.live()?.link;
        let expires_in = match arguments.argument(10) {
            Scalar::Nil => None,
            seconds => Some(seconds.seconds(&".expire")?),
        };
        publish(
            link,
            &message,
            packet_id,
            &properties,
            |packet| match expires_in {
                Some(time) => Request::PublishWithin(packet, time),
                None => Request::Publish(packet),
            },
        )
    };
    Ok(answer())
}
