//! The settings of a session, from a table.

use std::num::NonZeroU32;

use super::{Args, Checked, Scalar, Value};
use crate::session::{Backlog, QueueLimits, Settings};

/// The settings of a session: `max_packet_size` in bytes, `server_receive_maximum`, `connack_timeout` and
/// `pingresp_timeout` in seconds, `keep_exchanges`, `resubscribe` and `topic_aliases` as booleans; `requests`, the beginning
/// of the correlation data of requests; `max_messages`, `max_bytes` and `drop_oldest` of a queue; `expire` in seconds, `latest`
/// and `rate` of messages that wait. A field that is nil has its default.
pub(crate) fn settings_from_lua(args: &Args) -> Checked<Settings> {
    let defaults = Settings::default();
    let seconds = |key| args.optional(key, |scalar, name| scalar.seconds(name));
    let queue = queue_limits(args)?;
    let backlog = Backlog {
        expires_in: seconds("expire")?,
        latest: is_true(args, "latest"),
        rate: count(args, "rate", u32::MAX)?.and_then(NonZeroU32::new),
    };
    Ok(Settings {
        max_packet_size: count(args, "max_packet_size", u32::MAX)?
            .unwrap_or(defaults.max_packet_size),
        max_outgoing_bytes: queue.map_or(defaults.max_outgoing_bytes, |queue| {
            defaults.max_outgoing_bytes.max(queue.max_bytes as usize)
        }),
        connack_timeout: seconds("connack_timeout")?.or(defaults.connack_timeout),
        pingresp_timeout: seconds("pingresp_timeout")?,
        keep_exchanges: is_true(args, "keep_exchanges"),
        queue,
        backlog: (backlog != Backlog::default()).then(|| backlog.into()),
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
    let Some(max_messages) = count(args, "max_messages", u32::MAX)? else {
        return Ok(None);
    };
    Ok(Some(QueueLimits {
        max_messages,
        max_bytes: count(args, "max_bytes", u32::MAX)?.unwrap_or_default(),
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
