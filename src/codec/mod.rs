//! Bytes to packets and back, MQTT 3.1.1 and 5.0, every packet in both directions.
//! No I/O, no clock, no Lua may appear here.

mod decode;
mod encode;
mod error;
mod packet;
mod property;
pub mod reason;
mod rules;
mod string;
mod topic;
mod wire;

pub use decode::{Decoder, FixedHeader, decode_connect, decode_frame, decode_header};
pub use encode::{
    PublishRef, encode, encode_ack, encode_publish, encode_publish_head, encode_subscribe,
    encode_unsubscribe,
};
pub use error::{DecodeError, EncodeError};
pub use packet::*;
pub use property::{Properties, Property, PropertyHolder, PropertyId, PropertyKind, PropertyValue};
pub use reason::{reason_listed, reason_name};
pub use string::{Str, StrError};
pub use topic::{
    TopicError, check_topic_filter, check_topic_name, has_wildcard, is_shared, without_share,
};
