//! Bytes to packets and back, MQTT 3.1.1 and 5.0, every packet in both directions.
//! No I/O, no clock, no Lua may appear here.

mod decode;
mod encode;
mod error;
mod packet;
mod property;
mod reason;
mod rules;
mod string;
mod topic;
mod wire;

pub use decode::*;
pub use encode::*;
pub use error::{DecodeError, EncodeError};
pub use packet::*;
pub use property::*;
pub use reason::*;
pub use string::*;
pub use topic::{TopicError, check_topic_filter, check_topic_name};
