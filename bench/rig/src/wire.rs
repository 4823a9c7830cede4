//! The part of MQTT that the rig speaks, for speed and not for correctness: it trusts the other side. No I/O of its
//! own.

use std::io::{self, Read};

/// The topic of the messages that are counted.
pub const DATA: &str = "rig/data";
/// The topic that ends a run.
pub const DONE: &str = "rig/done";

// The first bytes of packets. The flags of PUBLISH are added.
pub const CONNECT: u8 = 0x10;
pub const CONNACK: u8 = 0x20;
pub const PUBLISH: u8 = 0x30;
pub const PUBACK: u8 = 0x40;
pub const PUBREC: u8 = 0x50;
pub const PUBREL: u8 = 0x62;
pub const PUBCOMP: u8 = 0x70;
pub const SUBSCRIBE: u8 = 0x80;
pub const SUBACK: u8 = 0x90;
pub const PINGREQ: u8 = 0xC0;
pub const PINGRESP: u8 = 0xD0;

/// The most bytes read or written at a time.
pub const CHUNK: usize = 256 * 1024;
/// How many bytes are looked at of a packet that does not fit into the buffer.
const HEAD: usize = 256;

/// Appends a packet with its remaining length.
pub fn packet(out: &mut Vec<u8>, first: u8, parts: &[&[u8]]) {
    out.push(first);
    let mut rest = parts.iter().map(|part| part.len()).sum::<usize>();
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Appends a PUBLISH. `id` is left out for QoS 0.
pub fn publish(out: &mut Vec<u8>, version: u8, qos: u8, id: u16, topic: &str, payload: &[u8]) {
    let id = id.to_be_bytes();
    packet(
        out,
        PUBLISH | qos << 1,
        &[
            &(topic.len() as u16).to_be_bytes(),
            topic.as_bytes(),
            if qos > 0 { &id } else { &[] },
            if version == 5 { &[0] } else { &[] },
            payload,
        ],
    );
}

/// Appends one of the four packets that acknowledge a PUBLISH.
pub fn acknowledgement(out: &mut Vec<u8>, first: u8, id: [u8; 2]) {
    out.extend_from_slice(&[first, 2, id[0], id[1]]);
}

/// The CONNECT of MQTT 3.1.1 with a clean session and without keep alive.
pub fn connect(client_id: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let length = (client_id.len() as u16).to_be_bytes();
    packet(
        &mut out,
        CONNECT,
        &[b"\0\x04MQTT\x04\x02\0\0", &length, client_id.as_bytes()],
    );
    out
}

/// A received packet: its first byte and the rest. If it is larger than the buffer, only the beginning of the rest is
/// there.
#[derive(Clone, Copy)]
pub struct Packet<'a> {
    pub first: u8,
    pub body: &'a [u8],
}

impl<'a> Packet<'a> {
    /// The type of the packet: one of the constants above, whatever its flags.
    pub fn kind(&self) -> u8 {
        match self.first & 0xF0 {
            0x60 => PUBREL,
            kind => kind,
        }
    }

    /// The QoS of a PUBLISH.
    pub fn qos(&self) -> u8 {
        self.first >> 1 & 3
    }

    /// The topic of a PUBLISH.
    pub fn topic(&self) -> &'a [u8] {
        &self.body[2..2 + usize::from(u16::from_be_bytes([self.body[0], self.body[1]]))]
    }

    /// The packet identifier of a PUBLISH with QoS 1 or 2, or of another packet that has one.
    pub fn id(&self) -> [u8; 2] {
        let at = match self.kind() {
            PUBLISH => 2 + self.topic().len(),
            _ => 0,
        };
        [self.body[at], self.body[at + 1]]
    }
}

/// Cuts a stream into packets.
pub struct Reader {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// How many bytes of a packet that did not fit are still to come.
    skip: usize,
}

impl Reader {
    /// Starts with a small buffer, which grows with the bytes that arrive: a connection may be one of ten thousand.
    pub fn new() -> Self {
        Self {
            buffer: vec![0; 1024],
            start: 0,
            end: 0,
            skip: 0,
        }
    }

    /// Waits for bytes. Returns false at the end of the stream.
    pub fn fill(&mut self, stream: &mut impl Read) -> io::Result<bool> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let count = stream.read(&mut self.buffer[self.end..])?;
        self.end += count;
        if self.end == self.buffer.len() && self.end < CHUNK {
            self.buffer.resize(CHUNK, 0);
        }
        Ok(count > 0)
    }

    /// The next packet that has arrived.
    #[inline]
    pub fn next(&mut self) -> Option<Packet<'_>> {
        if self.skip > 0 {
            let skipped = self.skip.min(self.end - self.start);
            self.skip -= skipped;
            self.start += skipped;
        }
        let bytes = &self.buffer[self.start..self.end];
        let mut at = 1;
        let mut length = 0;
        loop {
            let byte = *bytes.get(at)?;
            length |= usize::from(byte & 0x7F) << (7 * (at - 1));
            at += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let total = at + length;
        let taken = if total <= bytes.len() {
            total
        } else if total > CHUNK && bytes.len() >= HEAD {
            self.skip = total - bytes.len();
            bytes.len()
        } else {
            return None;
        };
        self.start += taken;
        Some(Packet {
            first: bytes[0],
            body: &bytes[at..taken],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_packets_however_they_arrive() {
        let mut bytes = connect("id");
        publish(&mut bytes, 4, 1, 0x1234, DATA, &[0; 2 * CHUNK]);
        publish(&mut bytes, 5, 0, 0, DONE, b"x");
        acknowledgement(&mut bytes, PUBREL, [1, 2]);
        for step in [1, 7, 1000, bytes.len()] {
            let mut reader = Reader::new();
            let mut seen = Vec::new();
            for mut chunk in bytes.chunks(step) {
                while !chunk.is_empty() && reader.fill(&mut chunk).unwrap() {
                    while let Some(packet) = reader.next() {
                        let topic = match packet.kind() {
                            PUBLISH => packet.topic().to_vec(),
                            _ => Vec::new(),
                        };
                        let id = match (packet.kind(), packet.qos()) {
                            (CONNECT, _) | (PUBLISH, 0) => [0, 0],
                            _ => packet.id(),
                        };
                        seen.push((packet.kind(), topic, id));
                    }
                }
            }
            assert_eq!(
                seen,
                [
                    (CONNECT, Vec::new(), [0, 0]),
                    (PUBLISH, DATA.into(), [0x12, 0x34]),
                    (PUBLISH, DONE.into(), [0, 0]),
                    (PUBREL, Vec::new(), [1, 2]),
                ]
            );
        }
    }
}
