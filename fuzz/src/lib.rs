//! The checks of the fuzz targets: here of the codec, in `client.rs` and `server.rs` of the session, in `store.rs` of the
//! store.

/// The rooms themselves, without the crate around them: its dependencies take minutes to build for a fuzzer.
#[path = "../../src/codec/mod.rs"]
pub mod codec;
#[path = "../../src/session/mod.rs"]
pub mod session;

#[allow(dead_code)]
mod driver;
#[allow(dead_code)]
#[path = "../../src/forks/mod.rs"]
mod forks;
#[path = "../../src/store/mod.rs"]
pub mod store;

mod client;
mod script;
mod server;
#[path = "store.rs"]
mod stores;

pub use client::check_session;
pub use stores::check_store;

use bytes::BytesMut;
use codec::{DecodeError, Decoder, Packet, QoS, Version, encode};

/// Takes the first byte of `data` as the size of the pieces in which the rest arrives. In any pieces the same packets
/// must come out. Each packet must stay the same when it is written and read again.
pub fn check_stream(version: Version, data: &[u8]) {
    let Some((&piece, stream)) = data.split_first() else {
        return;
    };
    let (packets, error) = decode(version, stream, stream.len().max(1));
    let split = decode(version, stream, usize::from(piece) + 1);
    assert_eq!(split, (packets.clone(), error));
    let mut out = BytesMut::new();
    let sendable = packets.iter().filter(|packet| is_sendable(packet, version));
    let sendable: Vec<Packet> = sendable.cloned().collect();
    for packet in &sendable {
        encode(packet, version, &mut out).expect("what was read can be written");
    }
    assert_eq!(decode(version, &out, out.len().max(1)), (sendable, None));
}

/// The packets in the stream, up to the first error.
fn decode(version: Version, stream: &[u8], piece: usize) -> (Vec<Packet>, Option<DecodeError>) {
    let decoder = Decoder::new(version);
    let (mut buffer, mut packets) = (BytesMut::new(), Vec::new());
    for piece in stream.chunks(piece) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => break,
                Err(error) => return (packets, Some(error)),
            }
        }
    }
    (packets, None)
}

/// Two packets can be read and must not be sent: DUP with QoS 0 in 5.0, which the original library's suite expects, and
/// an empty client identifier without clean session in 3.1.1, which a server answers with a CONNACK.
fn is_sendable(packet: &Packet, version: Version) -> bool {
    match packet {
        Packet::Publish(publish) => !publish.dup || publish.qos != QoS::AtMostOnce,
        Packet::Connect(connect) if version == Version::V311 => {
            connect.clean || !connect.client_id.is_empty()
        }
        _ => true,
    }
}
