//! How the journal's records look on disk, and how a whole record is told from a damaged one.
//!
//! ```text
//!  length: u32 │ its checksum: u16 │ checksum: u32 │ kind: u8 │ fields
//! ```
//!
//! Integers are little-endian; length counts kind and fields. The checksums cover the length, and kind and fields, and
//! depend on the record's position. So a record is valid in its own place only, and what an earlier file has left on the
//! disk is not taken for one. By its own checksum a length is known to be none before all its bytes are looked at: damage
//! is passed quickly.

/// Where a record begins: in which segment, and at which byte of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The number of the segment.
    pub segment: u64,
    /// The offset in its file, in bytes.
    pub offset: u64,
}

/// A message as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// When the program published it, in milliseconds since 1970.
    pub since: u64,
    /// When it need not be sent any more, in milliseconds since 1970; 0 for never.
    pub expires: u64,
    /// The program's name for it, empty for none.
    pub tag: &'a [u8],
    /// The PUBLISH, good for any connection. Its packet identifier means nothing.
    pub packet: &'a [u8],
}

/// What a segment begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The end of the segment before, which is also the start of this one's claim on everything before it.
    pub(super) previous: Position,
    /// The first segment that is still needed.
    pub(super) first: u64,
    /// The sequence number of the next message.
    pub(super) next: u64,
    /// The first message that was never sent, and where to look for it.
    pub(super) cursor: u64,
    pub(super) cursor_at: Position,
    /// Whether records count only once they are synced.
    pub(super) is_synced: bool,
}

/// A record. The state after the last record is the state of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record<'a> {
    /// The first record of a segment. Up to `Begun` the segment's records tell the whole state so far.
    Header(Header),
    /// The state so far is complete.
    Begun,
    /// A message has been accepted.
    Message(u64, Message<'a>),
    /// The first message that was never sent, of this number, is now the last one, with another number.
    Again(u64, u64, Message<'a>),
    /// A message under way is now kept here, because its first segment is to go.
    Moved(u16, u64, Message<'a>),
    /// A message, kept at this position in a record of this size, is sent with this packet identifier. All before it are
    /// sent or given up.
    Sent(u16, u64, Position, u64),
    /// Its PUBREC has come.
    Released(u16),
    /// Its exchange is over.
    Done(u16),
    /// All messages before this one are sent or given up. It is at this position, or behind it.
    Passed(u64, Position),
    /// A received QoS 2 message has been acknowledged.
    Received(u16),
    /// Its exchange is over.
    Answered(u16),
    /// The server has no session.
    SessionLost,
    /// A value that the program, or the client, wants to find again. Empty: it is gone.
    Note(&'a [u8], &'a [u8]),
    /// Segments before this one are not needed any more.
    First(u64),
    /// Everything before this position is on the disk.
    Synced(Position),
}

/// Bytes of a record before its kind.
pub(super) const HEAD: usize = 10;
/// The largest record: a PUBLISH of MQTT's maximum size, its tag and the rest.
const LARGEST: usize = 268_435_460 + 65_535 + 64;
const MAGIC: &[u8] = b"MQTT store";
/// The version of the format.
const FORMAT: u8 = 1;

/// Numbers and positions stay below, so that sums of them, and the bytes that so many messages take, do not overflow.
pub(super) const MOST: u64 = 1 << 50;
/// The kinds of records are from 1 to this.
const KINDS: u8 = 15;

fn checksum(at: Position, bytes: &[u8]) -> u32 {
    let place = at.segment.wrapping_mul(0x9E37_79B9_7F4A_7C15)
        ^ at.offset.wrapping_mul(0xD6E8_FEB8_6659_FD93);
    crc32fast::hash(bytes) ^ (place >> 32) as u32
}

fn short_checksum(at: Position, bytes: &[u8]) -> u16 {
    let sum = checksum(at, bytes);
    (sum ^ sum >> 16) as u16
}

impl Record<'_> {
    /// Appends the record, which is to stand at `at`.
    pub(super) fn write(&self, at: Position, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; HEAD]);
        let mut put = Put(out);
        match *self {
            Self::Header(header) => {
                put.byte(1).bytes(MAGIC).byte(FORMAT);
                put.position(header.previous).long(header.first);
                put.long(header.next).long(header.cursor);
                put.position(header.cursor_at)
                    .byte(u8::from(header.is_synced));
            }
            Self::Begun => {
                put.byte(2);
            }
            Self::Message(sequence, ref message) => {
                put.byte(3).long(sequence).message(message);
            }
            Self::Moved(id, sequence, ref message) => {
                put.byte(4).short(id).long(sequence).message(message);
            }
            Self::Sent(id, sequence, position, size) => {
                put.byte(5).short(id).long(sequence);
                put.position(position).long(size);
            }
            Self::Released(id) => {
                put.byte(6).short(id);
            }
            Self::Done(id) => {
                put.byte(7).short(id);
            }
            Self::Passed(sequence, position) => {
                put.byte(8).long(sequence).position(position);
            }
            Self::Received(id) => {
                put.byte(9).short(id);
            }
            Self::Answered(id) => {
                put.byte(10).short(id);
            }
            Self::SessionLost => {
                put.byte(11);
            }
            Self::Note(key, value) => {
                put.byte(12).short(key.len() as u16).bytes(key).bytes(value);
            }
            Self::First(segment) => {
                put.byte(13).long(segment);
            }
            Self::Synced(position) => {
                put.byte(14).position(position);
            }
            Self::Again(from, sequence, ref message) => {
                put.byte(15).long(from).long(sequence).message(message);
            }
        }
        let length = (out.len() - start - HEAD) as u32;
        let sum = checksum(at, &out[start + HEAD..]);
        let length = length.to_le_bytes();
        out[start..start + 4].copy_from_slice(&length);
        out[start + 4..start + 6].copy_from_slice(&short_checksum(at, &length).to_le_bytes());
        out[start + 6..start + HEAD].copy_from_slice(&sum.to_le_bytes());
    }

    /// The record at `at`, from the kind on, or `None` if the bytes are none.
    fn read(bytes: &[u8]) -> Option<Record<'_>> {
        let mut get = Get(bytes);
        let record = match get.byte()? {
            1 => {
                let is_ours = get.bytes(MAGIC.len())? == MAGIC && get.byte()? == FORMAT;
                let header = Header {
                    previous: get.position()?,
                    first: get.long()?,
                    next: get.long()?,
                    cursor: get.long()?,
                    cursor_at: get.position()?,
                    is_synced: get.byte()? != 0,
                };
                is_ours.then_some(Record::Header(header))?
            }
            2 => Record::Begun,
            3 => Record::Message(get.long()?, get.message()?),
            4 => Record::Moved(get.short()?, get.long()?, get.message()?),
            5 => {
                let (id, sequence, at) = (get.short()?, get.long()?, get.position()?);
                let size = get.long()?;
                let is_size = (HEAD as u64 + 1..=(HEAD + LARGEST) as u64).contains(&size);
                is_size.then_some(Record::Sent(id, sequence, at, size))?
            }
            6 => Record::Released(get.short()?),
            7 => Record::Done(get.short()?),
            8 => Record::Passed(get.long()?, get.position()?),
            9 => Record::Received(get.short()?),
            10 => Record::Answered(get.short()?),
            11 => Record::SessionLost,
            12 => {
                let length = get.short()?;
                Record::Note(get.bytes(length.into())?, get.rest())
            }
            13 => Record::First(get.long()?),
            14 => Record::Synced(get.position()?),
            15 => Record::Again(get.long()?, get.long()?, get.message()?),
            _ => return None,
        };
        get.0.is_empty().then_some(record)
    }
}

/// What the bytes at a place say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A whole record of this size, to be [parsed](parse).
    Record(usize),
    /// Perhaps the beginning of a record of this size, which is more than there are bytes.
    Short(usize),
    /// No record.
    Nothing,
}

/// Looks for the record at `at`, with whose bytes `bytes` begins.
pub(super) fn find(at: Position, bytes: &[u8]) -> Found {
    if bytes.len() < HEAD {
        return Found::Short(HEAD);
    }
    let word = |from: usize| u32::from_le_bytes(bytes[from..from + 4].try_into().expect("four"));
    let (length, sum) = (word(0) as usize, word(6));
    if length == 0
        || length > LARGEST
        || bytes
            .get(HEAD)
            .is_some_and(|kind| !(1..=KINDS).contains(kind))
        || short_checksum(at, &bytes[..4]).to_le_bytes() != bytes[4..6]
    {
        return Found::Nothing;
    }
    let Some(body) = bytes.get(HEAD..HEAD + length) else {
        return Found::Short(HEAD + length);
    };
    match checksum(at, body) == sum && Record::read(body).is_some() {
        true => Found::Record(HEAD + length),
        false => Found::Nothing,
    }
}

/// The record of this size that [`find`] has found.
pub(super) fn parse(bytes: &[u8], size: usize) -> Record<'_> {
    Record::read(&bytes[HEAD..size]).expect("as it was found")
}

struct Put<'a>(&'a mut Vec<u8>);

impl Put<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn byte(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    fn short(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn long(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn position(&mut self, position: Position) -> &mut Self {
        self.long(position.segment).long(position.offset)
    }

    fn message(&mut self, message: &Message<'_>) -> &mut Self {
        self.long(message.since)
            .long(message.expires)
            .short(message.tag.len() as u16)
            .bytes(message.tag)
            .bytes(message.packet)
    }
}

struct Get<'a>(&'a [u8]);

impl<'a> Get<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.bytes(1)?[0])
    }

    fn short(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.bytes(2)?.try_into().ok()?))
    }

    fn long(&mut self) -> Option<u64> {
        let value = u64::from_le_bytes(self.bytes(8)?.try_into().ok()?);
        (value < 2 * MOST).then_some(value)
    }

    /// A time, which nobody adds anything to.
    fn time(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(8)?.try_into().ok()?))
    }

    fn position(&mut self) -> Option<Position> {
        Some(Position {
            segment: self.long()?,
            offset: self.long()?,
        })
    }

    fn message(&mut self) -> Option<Message<'a>> {
        let (since, expires) = (self.time()?, self.time()?);
        let length = self.short()?;
        Some(Message {
            since,
            expires,
            tag: self.bytes(length.into())?,
            packet: self.rest(),
        })
    }
}
