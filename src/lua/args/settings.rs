//! The settings of a session, from a table.

use std::fmt::Display;

use super::{Args, Checked, Scalar, Value};
use crate::session::{QueueLimits, Settings};

/// The settings of a session: `max_packet_size` in bytes, `server_receive_maximum`, `connack_timeout` and
/// `pingresp_timeout` in seconds, `keep_exchanges`, `resubscribe` and `topic_aliases` as booleans; `requests`, the beginning
/// of the correlation data of requests; `max_messages`, `max_bytes` and `drop_oldest` of a queue. A field that is nil has
/// its default.
pub(crate) fn settings_from_lua(args: &Args) -> Checked<Settings> {
    let defaults = Settings::default();
    let seconds = |key| args.optional(key, |scalar, name| scalar.seconds(name));
    let queue = queue_limits(args)?;
    Ok(Settings {
        max_packet_size: count(args, "max_packet_size", u32::MAX)?
            .unwrap_or(defaults.max_packet_size),
        max_outgoing_bytes: queue.map_or(defaults.max_outgoing_bytes, |queue| {
            defaults.max_outgoing_bytes.max(queue.max_bytes)
        }),
        connack_timeout: seconds("connack_timeout")?.or(defaults.connack_timeout),
        pingresp_timeout: seconds("pingresp_timeout")?,
        keep_exchanges: is_true(args, "keep_exchanges"),
        queue,
        resubscribe: is_true(args, "resubscribe"),
        server_receive_maximum: count(args, "server_receive_maximum", u16::MAX.into())?
            .map_or(defaults.server_receive_maximum, |most| most as u16),
        requests: args.optional("requests", |scalar, name| {
            scalar.bytes(name).map(Into::into)
        })?,
        topic_aliases: is_true(args, "topic_aliases"),
        ..defaults
    })
}

/// The limits of the queue. The session has a queue if `max_messages` is not nil.
fn queue_limits(args: &Args) -> Checked<Option<QueueLimits>> {
    let Some(max_messages) = args.optional("max_messages", whole_number)? else {
        return Ok(None);
    };
    Ok(Some(QueueLimits {
        max_messages,
        max_bytes: args
            .optional("max_bytes", whole_number)?
            .unwrap_or_default(),
        drop_oldest: is_true(args, "drop_oldest"),
    }))
}

/// A whole number. A number above `most` counts as `most`.
fn count<'a>(args: &Args<'a>, key: &'a str, most: u32) -> Checked<Option<u32>> {
    args.optional(key, |scalar, name| match scalar {
        Scalar::Number(count) if count >= f64::from(most) => Ok(most),
        scalar => scalar.integer(0, most, name),
    })
}

/// Whether a field is true for Lua: neither nil nor false.
fn is_true(args: &Args, key: &str) -> bool {
    !matches!(args.get(key), Value::Nil | Value::Boolean(false))
}

/// A whole number of any size. A number above `usize::MAX` counts as `usize::MAX`.
fn whole_number(scalar: Scalar<'_>, name: &dyn Display) -> Checked<usize> {
    match scalar {
        Scalar::Number(number) if number >= 0.0 => Ok(number as usize),
        other => Err(other.unexpected(name, "a whole number")),
    }
}
