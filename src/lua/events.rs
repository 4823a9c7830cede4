//! How Lua takes the events of a link: `core.step` and `core.pop`.

use std::fmt::Display;
use std::mem::ManuallyDrop;

use super::link::{Live, LuaLink, Stale};
use super::results::{BUILDS_MESSAGES, MESSAGE_FIELDS, push_message, push_packet, set};
use super::stack::{RawFunction, Stack};
use crate::codec::{Packet, Version};
use crate::driver::LinkEvent;

/// Adds the functions of this file to `mqtt.core`.
pub(super) fn register(core: &Stack) {
    core.set_raw("step", NextEvent::<true>);
    core.set_raw("pop", NextEvent::<false>);
    set(core, "builds_messages", |core| {
        core.push_boolean(BUILDS_MESSAGES);
    });
}

/// `step(handle, metatable)`, `pop(handle, metatable)`: the link's next event. A packet is its type and its values for
/// `shape` of `mqtt.packet`; a PUBLISH where `core.builds_messages` is true is its type and its table, with the metatable.
/// Any other event is a name and perhaps a message. Without an event there is no result, but `step` first makes a turn of
/// the runtime, without blocking.
struct NextEvent<const TURN: bool>;

impl<const TURN: bool> RawFunction for NextEvent<TURN> {
    type Output = (Option<LinkEvent>, Version);

    const CONSTANTS: &'static [&'static str] = MESSAGE_FIELDS;

    fn run(&self, arguments: &Stack) -> Self::Output {
        let this = match LuaLink::of(arguments) {
            Ok(this) => this,
            Err(message) => return (Some(LinkEvent::Broken(message)), Version::V311),
        };
        let event = match this.live() {
            Err(Stale(message)) => Some(LinkEvent::Broken(message.into())),
            Ok(Live { link, driver }) if TURN => link.step(driver),
            Ok(Live { link, .. }) => link.next_event(),
        };
        (event, this.version)
    }

    fn push((event, version): &Self::Output, results: &Stack) {
        let (name, message): (_, Option<&dyn Display>) = match event {
            None => return,
            Some(LinkEvent::Packet(Packet::Publish(publish))) if BUILDS_MESSAGES => {
                return push_message(publish, *version, results);
            }
            Some(LinkEvent::Packet(packet)) => return push_packet(packet, *version, results),
            Some(LinkEvent::Dropped { packet_id, reason }) => {
                results.push_bytes(b"dropped");
                results.push_integer(*packet_id);
                push_words(reason, results);
                return;
            }
            Some(LinkEvent::Withdrawn {
                packet_id,
                correlation_data,
            }) => {
                results.push_bytes(b"withdrawn");
                results.push_integer(*packet_id);
                results.push_bytes(correlation_data);
                return;
            }
            Some(LinkEvent::Opened) => ("opened", None),
            Some(LinkEvent::OpenFailed(message)) => ("open_failed", Some(message)),
            Some(LinkEvent::Unrenewed(unrenewed)) => ("unrenewed", Some(unrenewed)),
            Some(LinkEvent::Failed(failure)) => ("failed", Some(failure)),
            Some(LinkEvent::Closed) => ("closed", None),
            Some(LinkEvent::Broken(message)) => ("broken", Some(message)),
            Some(LinkEvent::Woken) => ("woken", None),
        };
        results.push_bytes(name.as_bytes());
        if let Some(message) = message {
            push_words(message, results);
        }
    }
}

/// Pushes the words of an error. If that raises, their memory is lost.
fn push_words(error: &dyn Display, results: &Stack) {
    let words = ManuallyDrop::new(error.to_string());
    results.push_bytes(words.as_bytes());
    drop(ManuallyDrop::into_inner(words));
}
