//! Gives the events of a link to Lua: `core.step` and `core.pop`.

use std::borrow::Cow;

use super::link::{Live, LuaLink, Stale};
use super::results::{BUILDS_MESSAGES, MESSAGE_FIELDS, push_message, push_packet, set};
use super::stack::{RawFunction, Stack};
use crate::codec::{Packet, Version};
use crate::driver::{Ended, LinkEvent};

/// Adds the functions of this file to `mqtt.core`.
pub(super) fn register(core: &Stack) {
    core.set_raw("step", NextEvent::<true>);
    core.set_raw("pop", NextEvent::<false>);
    set(core, "builds_messages", |core| {
        core.push_boolean(BUILDS_MESSAGES);
    });
}

/// `step(handle, metatable)`, `pop(handle, metatable)`: the link's next event. For a packet the results are its type and its
/// values for `shape` of `mqtt.packet`; for a PUBLISH, if `core.builds_messages` is true, its type and its table with the
/// metatable. For any other event they are a name and perhaps a message. If no event is there yet, `step` makes a turn of
/// the runtime, without blocking, and looks again. Without an event there is no result.
struct NextEvent<const TURN: bool>;

/// Why there is no link to ask.
type Unusable = Cow<'static, str>;

impl<const TURN: bool> RawFunction for NextEvent<TURN> {
    type Output = (Result<Option<LinkEvent>, Unusable>, Version);

    const CONSTANTS: &'static [&'static str] = MESSAGE_FIELDS;

    fn run(&self, arguments: &Stack) -> Self::Output {
        let this = match LuaLink::of(arguments) {
            Ok(this) => this,
            Err(message) => return (Err(message.into()), Version::V311),
        };
        let event = this.live().map(|Live { link, driver }| match TURN {
            true => link.step(driver),
            false => link.next_event(),
        });
        let event = event.map_err(|Stale(message)| message.into());
        (event, this.version)
    }

    fn push((event, version): &Self::Output, results: &Stack) {
        let push = |name: &str, message: &str| {
            results.push_bytes(name.as_bytes());
            results.push_bytes(message.as_bytes());
        };
        let event = match event {
            Ok(None) => return,
            Ok(Some(event)) => event,
            Err(message) => return push("broken", message),
        };
        match event {
            LinkEvent::Packet(Packet::Publish(publish)) if BUILDS_MESSAGES => {
                push_message(publish, *version, results);
            }
            LinkEvent::Packet(packet) => push_packet(packet, *version, results),
            LinkEvent::Dropped { packet_id, message } => {
                results.push_bytes(b"dropped");
                results.push_integer(*packet_id);
                results.push_bytes(message.as_bytes());
            }
            LinkEvent::Withdrawn {
                packet_id,
                correlation_data,
            } => {
                results.push_bytes(b"withdrawn");
                results.push_integer(*packet_id);
                results.push_bytes(correlation_data);
            }
            LinkEvent::Opened => results.push_bytes(b"opened"),
            LinkEvent::OpenFailed(error) => push("open_failed", &error.to_string()),
            LinkEvent::Unrenewed(message) => push("unrenewed", message),
            LinkEvent::Failed(message) => push("failed", message),
            LinkEvent::Ended(Ended::Closed) => results.push_bytes(b"closed"),
            LinkEvent::Ended(ended) => push("broken", &ended.to_string()),
            LinkEvent::Woken => results.push_bytes(b"woken"),
        }
    }
}
