//! Bytes to packets and back, MQTT 3.1.1 and 5.0, every packet in both directions.
//! No I/O, no clock, no Lua may appear here.

mod packet;

pub use packet::*;
