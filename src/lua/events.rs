//! Gives the events of a link to Lua: `core.step` and `core.pop`.

use std::borrow::Cow;
use std::fmt::Display;
use std::mem::ManuallyDrop;

use super::link::{Live, LuaLink, Stale};
use super::results::{BUILDS_MESSAGES, MESSAGE_FIELDS, Results, push_message, push_packet, set};
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

/// `step(handle, metatable)`, `pop(handle, metatable)`: the link's next event. For a packet the results are its type
/// and its values for `shape` of `mqtt.packet`; for a PUBLISH, if `core.builds_messages` is true, its type and its
/// table with the metatable. For any other event they are a name and perhaps a message. If no event is there yet,
/// `step` makes a turn of the runtime, without blocking, and looks again. Without an event there is no result.
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
        let (name, message): (_, Option<&dyn Display>) = match event {
            Ok(None) => return,
            Err(message) => ("broken", Some(message)),
            Ok(Some(event)) => match event {
                LinkEvent::Packet(Packet::Publish(publish)) if BUILDS_MESSAGES => {
                    return push_message(publish, *version, results);
                }
                LinkEvent::Packet(packet) => return push_packet(packet, *version, results),
                LinkEvent::Dropped { packet_id, reason } => {
                    results.push_bytes(b"dropped");
                    results.push_integer(*packet_id);
                    push_words(reason, results);
                    return;
                }
                LinkEvent::Discarded(discarded) => {
                    results.push_bytes(b"discarded");
                    discarded.push(results);
                    return;
                }
                LinkEvent::Withdrawn {
                    packet_id,
                    correlation_data,
                } => {
                    results.push_bytes(b"withdrawn");
                    results.push_integer(*packet_id);
                    results.push_bytes(correlation_data);
                    return;
                }
                LinkEvent::Identified {
                    sequence,
                    packet_id,
                    tag,
                } => {
                    results.push_bytes(b"identified");
                    results.push_integer(*packet_id);
                    results.push_table();
                    set(results, "sequence", |to| to.push_count(*sequence));
                    set(results, "tag", |to| to.push_bytes(tag));
                    return;
                }
                LinkEvent::Unacknowledged(count) => {
                    results.push_bytes(b"unacknowledged");
                    results.push_integer(*count);
                    return;
                }
                LinkEvent::Opened => ("opened", None),
                LinkEvent::OpenFailed(error) => ("open_failed", Some(error)),
                LinkEvent::Unrenewed(unrenewed) => ("unrenewed", Some(unrenewed)),
                LinkEvent::Failed(failure) => ("failed", Some(failure)),
                LinkEvent::Ended(Ended::Closed) => ("closed", None),
                LinkEvent::Ended(ended) => ("broken", Some(ended)),
                LinkEvent::Woken => ("woken", None),
            },
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
