//! The arguments of a PUBLISH, checked in place: nothing is copied before the packet is written.

use super::{Checked, Scalar};
use crate::codec::{Properties, PublishRef, QoS};
use crate::lua::stack::Stack;

/// A message without its packet identifier and properties.
pub(crate) struct PublishArgs<'a> {
    topic: &'a str,
    pub(crate) payload: &'a [u8],
    pub(crate) qos: QoS,
    retain: bool,
    dup: bool,
}

impl<'a> PublishArgs<'a> {
    /// The arguments from `first` on: topic, payload, qos, retain, dup.
    pub(crate) fn read(arguments: &'a Stack, first: i32) -> Checked<Self> {
        let argument = |index| arguments.argument(first + index);
        Ok(Self {
            topic: argument(0).text(&".topic")?,
            payload: match argument(1) {
                Scalar::Nil => &[],
                payload => payload.bytes(&".payload")?,
            },
            qos: argument(2).qos(&".qos")?,
            retain: argument(3).flag(&".retain")?,
            dup: argument(4).flag(&".dup")?,
        })
    }

    /// The message from LuaJIT's FFI. `flags` are the flags in the first byte of a PUBLISH (3.3.1).
    #[cfg(feature = "luajit")]
    pub(crate) fn from_flags(topic: &'a [u8], payload: &'a [u8], flags: u32) -> Checked<Self> {
        Ok(Self {
            topic: Scalar::String(topic).text(&".topic")?,
            payload,
            qos: Scalar::Number(f64::from(flags >> 1 & 3)).qos(&".qos")?,
            retain: flags & 1 != 0,
            dup: flags & 1 << 3 != 0,
        })
    }

    /// The packet.
    pub(crate) fn packet(&self, packet_id: u16, properties: &'a Properties) -> PublishRef<'a> {
        PublishRef {
            dup: self.dup,
            qos: self.qos,
            retain: self.retain,
            topic: self.topic,
            packet_id,
            properties,
            payload: self.payload,
        }
    }
}
