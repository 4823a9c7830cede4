//! Acknowledgements without properties, once for each message: `core.acknowledge` and `core.acknowledge_message`.

use std::sync::Arc;

use super::environment::unix_time;
use super::link::LuaLink;
use super::refusal::Refusal;
use super::results::Results;
use super::stack::{RawFunction, Stack};
use crate::codec::{Properties, QoS};
use crate::driver::{Link, Request};

/// Adds the functions of this file to `mqtt.core`.
pub(super) fn register(core: &Stack) {
    core.set_raw("acknowledge", AcknowledgeValues);
    core.set_raw("acknowledge_message", AcknowledgeMessage);
}

/// `acknowledge(handle, packet_id, qos, rc)`, without properties: true; or nil, an error message and whether it is
/// misuse.
struct AcknowledgeValues;

impl RawFunction for AcknowledgeValues {
    type Output = Result<bool, Refusal>;

    fn run(&self, arguments: &Stack) -> Self::Output {
        let packet_id = arguments.argument(2).packet_id()?;
        let qos = arguments.argument(3).qos(&".qos")?;
        let reason = arguments.argument(4).integer(0, u8::MAX.into(), &"rc")? as u8;
        acknowledge(LuaLink::live_of(arguments)?.link, packet_id, qos, reason)
    }

    fn push(output: &Self::Output, results: &Stack) {
        output.push(results);
    }
}

/// `acknowledge_message(handle, message, metatable)`: acknowledges a message of QoS 1 or 2, a table with the metatable, and
/// returns the time as of `os.time`. If it cannot, it does nothing and returns nothing.
///
/// The hot copy of `acknowledge`, which reads the message itself: a received message of QoS 1 takes 10,000 instructions
/// with it, 13,000 without.
struct AcknowledgeMessage;

impl RawFunction for AcknowledgeMessage {
    type Output = Option<()>;

    const CONSTANTS: &'static [&'static str] = &["packet_id", "qos"];

    fn run(&self, arguments: &Stack) -> Self::Output {
        let live = LuaLink::live_of(arguments).ok()?;
        arguments.push_fields_of_class(2, 3, 2)?;
        let packet_id = arguments.argument(4).packet_id().ok()?;
        let qos = arguments.argument(5).qos(&".qos").ok()?;
        acknowledge(live.link, packet_id, qos, 0).ok()?;
        Some(())
    }

    fn push(output: &Self::Output, results: &Stack) {
        if output.is_some() {
            results.push_integer(unix_time());
        }
    }
}

/// Acknowledges a message of QoS 1 or 2, without properties.
pub(super) fn acknowledge(
    link: &Arc<Link>,
    packet_id: u16,
    qos: QoS,
    reason: u8,
) -> Result<bool, Refusal> {
    link.ask(Request::Acknowledge {
        packet_id,
        qos,
        reason,
        properties: Properties::new(),
    })?;
    Ok(true)
}
