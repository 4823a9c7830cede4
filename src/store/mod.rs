//! Keeps what a session has accepted until it is done with it, beyond the end of the process: the messages, how far the
//! exchange of each has come, the identifiers of received QoS 2 messages, and notes. A store knows nothing of sessions
//! and networks; its caller says what happens.
//!
//! A store is a journal: numbered files, the segments, to whose last one records are appended ([`record`]). Messages are
//! sent in the order in which they were accepted. So everything that was never sent stands in one piece at the end, and
//! memory holds only messages under way, whatever waits.
//!
//! ```text
//!   segment 7            segment 8            segment 9
//!  ┌───────────────┐    ┌───────────────┐    ┌──────────────────────────┐
//!  │state│m│m│s│m│d│    │state│m│s│m│m│d│    │state│m│d│m│s│m│m│m│m     │
//!  └───────────────┘    └───────────────┘    └──────────────────────────┘
//!        done              ▲ under way              ▲ never sent       ▲ new records
//! ```
//!
//! Each segment begins with the whole state but for the messages, so segments without live messages can go.
//!
//! Small records wait in memory for [`Store::flush`], which has to succeed before the packet goes to the server that the
//! record tells of. If the process dies, everything flushed is still there. With [`Sync::Power`] everything
//! [synced](Store::synced) is there even if the machine dies.

mod disk;
mod open;
mod record;
mod scan;
mod sync;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::{error, fmt, io, mem};

pub use disk::{Directory, Disk, DiskFile};
pub use open::{OpenError, Options, Report, Sync};
use record::{Header, Record};
pub use record::{Message, Position};
use scan::{Next, Scan};
pub use sync::SyncJob;
use sync::Unsynced;

/// Room that a segment keeps for small records when messages find none, in bytes: some, and for each message of the
/// fullest segment what it takes to send and end it. So a full disk can be drained, until a segment goes.
const SPARE: u64 = 64 << 10;
const SPARE_OF_MESSAGE: u64 = 80;
/// How much of a segment is reserved on the disk at a time, in bytes.
const PORTION: u64 = 256 << 10;
/// At most so many bytes of messages under way are moved out of a segment that is to go.
const MOVED: u64 = 1 << 20;
/// A list ends after so many bytes of messages.
const LISTED: u64 = 1 << 20;
/// A store with a limit of bytes has at least so many segments when it is full, so that it can give room back.
const PARTS: u64 = 8;
/// The smallest segment, in bytes.
const SMALLEST: u64 = 1 << 10;

/// A message under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Its place in the order in which messages were accepted.
    pub sequence: u64,
    /// Whether its PUBREC has come: from here on only the PUBREL is repeated.
    pub is_released: bool,
    /// Where the message is, and its size there.
    at: Position,
    size: u64,
}

/// What segments, and so the disk, still hold.
struct Segment {
    number: u64,
    /// The sequence numbers of its messages: from `begin` on, before `end`.
    begin: u64,
    end: u64,
    /// Bytes in all, and of messages under way.
    size: u64,
    live: u64,
    /// Messages under way could not be read here.
    is_stuck: bool,
}

impl Segment {
    fn new(number: u64, begin: u64) -> Self {
        Self {
            number,
            begin,
            end: begin,
            size: 0,
            live: 0,
            is_stuck: false,
        }
    }
}

/// The first message that was never sent.
pub struct Front<'a> {
    /// Its place in the order in which messages were accepted.
    pub sequence: u64,
    /// The message.
    pub message: Message<'a>,
}

/// Why a message is not kept, or not found.
#[derive(Debug)]
pub enum StoreError {
    /// The store holds as much as it may.
    Full,
    /// The same, and to give up messages that were never sent would not help.
    Busy,
    /// The store may not be as large as the message.
    TooLarge,
    /// Somebody has removed this file.
    Removed(String),
    /// The disk has failed.
    Disk(io::Error),
    /// A record is damaged: the file's name, and the offset in bytes.
    Damaged(String, u64),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full | Self::Busy => f.write_str("the store is full"),
            Self::Removed(file) => write!(f, "store: {file} has been removed"),
            Self::TooLarge => f.write_str("the message is larger than the store may be"),
            Self::Disk(error) => write!(f, "store: {error}"),
            Self::Damaged(file, offset) => {
                write!(f, "store: {file} is damaged at offset {offset}")
            }
        }
    }
}

impl error::Error for StoreError {}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

/// The state that the records tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    /// The sequence number of the next message.
    next: u64,
    /// The first message that was never sent; and a position at or before it.
    cursor: u64,
    cursor_at: Position,
    /// The first segment that is needed.
    first: u64,
    exchanges: BTreeMap<u16, Exchange>,
    received: BTreeSet<u16>,
    notes: BTreeMap<Box<[u8]>, Box<[u8]>>,
}

impl State {
    /// Applies a record that stands at `at` and has this size.
    fn apply(&mut self, at: Position, size: usize, record: &Record<'_>) {
        match *record {
            Record::Header(header) => {
                *self = State {
                    next: header.next,
                    cursor: header.cursor,
                    cursor_at: header.cursor_at,
                    first: header.first,
                    ..State::default()
                };
            }
            Record::Message(sequence, _) => self.next = self.next.max(sequence + 1),
            Record::Again(from, sequence, _) => {
                self.next = self.next.max(sequence + 1);
                self.pass(from + 1, self.cursor_at);
            }
            Record::Moved(id, sequence, _) => {
                if let Some(exchange) = self.exchanges.get_mut(&id)
                    && exchange.sequence == sequence
                {
                    (exchange.at, exchange.size) = (at, size as u64);
                }
            }
            Record::Sent(id, sequence, at, size) => {
                let exchange = Exchange {
                    sequence,
                    is_released: false,
                    at,
                    size,
                };
                self.exchanges.insert(id, exchange);
                self.pass(sequence + 1, at);
            }
            Record::Released(id) => {
                if let Some(exchange) = self.exchanges.get_mut(&id) {
                    exchange.is_released = true;
                }
            }
            Record::Done(id) => {
                self.exchanges.remove(&id);
            }
            Record::Passed(sequence, at) => self.pass(sequence, at),
            Record::Received(id) => {
                self.received.insert(id);
            }
            Record::Answered(id) => {
                self.received.remove(&id);
            }
            Record::SessionLost => {
                self.received.clear();
                self.exchanges.retain(|_, exchange| !exchange.is_released);
            }
            Record::Note(key, []) => {
                self.notes.remove(key);
            }
            Record::Note(key, value) => {
                self.notes.insert(key.into(), value.into());
            }
            Record::First(segment) => self.first = segment,
            Record::Begun | Record::Synced(_) => {}
        }
    }

    /// All messages before this one are sent or given up.
    fn pass(&mut self, sequence: u64, at: Position) {
        if sequence > self.cursor {
            (self.cursor, self.cursor_at) = (sequence, at);
        }
    }

    /// The size of the records that tell this state, roughly.
    fn size(&self) -> u64 {
        let notes = self.notes.iter();
        let notes = notes.map(|(key, value)| key.len() + value.len() + 16);
        let others = 128 + 64 * self.exchanges.len() + 16 * self.received.len();
        (others + notes.sum::<usize>()) as u64
    }

    /// The records that tell this state at the beginning of a segment.
    fn write(&self, segment: u64, previous: Position, is_synced: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut put = |record: Record<'_>| {
            let offset = bytes.len() as u64;
            record.write(Position { segment, offset }, &mut bytes);
        };
        put(Record::Header(Header {
            previous,
            first: self.first,
            next: self.next,
            cursor: self.cursor,
            cursor_at: self.cursor_at,
            is_synced,
        }));
        for (&id, exchange) in &self.exchanges {
            put(Record::Sent(
                id,
                exchange.sequence,
                exchange.at,
                exchange.size,
            ));
            if exchange.is_released {
                put(Record::Released(id));
            }
        }
        for &id in &self.received {
            put(Record::Received(id));
        }
        for (key, value) in &self.notes {
            put(Record::Note(key, value));
        }
        put(Record::Begun);
        bytes
    }
}

/// Reads messages under way, see [`Store::read`].
pub struct Reader<F>(Option<Scan<F>>);

impl<F> Default for Reader<F> {
    fn default() -> Self {
        Self(None)
    }
}

/// See the [module](self).
pub struct Store<D: Disk> {
    disk: D,
    options: Options,
    state: State,
    /// All segments, the last one included.
    segments: VecDeque<Segment>,
    /// The last segment, how much of it is written, and how much reserved.
    head: D::File,
    written: u64,
    reserved: u64,
    /// When the last segment is larger than this, another one is begun.
    limit: u64,
    /// The bytes of all other segments, and the most messages of one.
    closed: u64,
    fullest: u64,
    /// Records that have yet to be written.
    pending: Vec<u8>,
    /// Where in `pending` the last record [`Record::Passed`] begins and ends, if there is one.
    passed: Option<(usize, usize)>,
    /// Where the reading of messages stands that were never sent.
    scan: Option<Scan<D::File>>,
    /// The size of the first such message's record, if `scan` has just read it.
    front: Option<usize>,
    /// Segments that may go once everything before a position is kept.
    condemned: Vec<(Position, u64)>,
    /// What was written to and is not synced; whether the last segment is that, too; and what is being synced.
    unsynced: Unsynced<D::File>,
    is_head_unsynced: bool,
    syncing: Option<Unsynced<D::File>>,
    /// How many messages do not count against the limit.
    discount: u64,
    synced: Position,
    /// How far the journal itself says that everything is synced.
    told: Position,
    /// Why the last sync has failed: nobody knows what is on the disk.
    failure: Option<String>,
    /// The system may take things for written that it could not write: a sync has failed, or perhaps one of the last process.
    is_unsure: bool,
    /// Behind `written` may stand records that were refused.
    is_torn: bool,
    /// There may be a next segment that was not begun.
    has_leftover: bool,
}

impl<D: Disk> Store<D> {
    /// Keeps a message: when this returns, it outlives the process. Returns its place in the order of all messages.
    ///
    /// With `sent_as`, its packet identifier, the message is under way at once. No message may be waiting then.
    ///
    /// # Errors
    /// [`StoreError::Full`], or [`StoreError::Disk`]. Nothing has changed then.
    pub fn keep(&mut self, message: &Message<'_>, sent_as: Option<u16>) -> Result<u64, StoreError> {
        debug_assert!(sent_as.is_none() || !self.has_waiting());
        let size = (message.tag.len() + message.packet.len() + 128) as u64;
        self.admit(size)?;
        if let Err(error) = self.make_room(size) {
            self.check()?;
            // Perhaps the last segment takes the room that is missing, for nothing.
            if !self.give_up_head() {
                return Err(error);
            }
            self.flush()?;
            self.make_room(size)?;
        }
        self.tell_synced();
        let before = self.pending.len();
        let (at, sequence) = (self.end(), self.state.next);
        Record::Message(sequence, message.clone()).write(at, &mut self.pending);
        let size = self.end().offset - at.offset;
        if let Some(id) = sent_as {
            self.append(&Record::Sent(id, sequence, at, size));
        }
        if let Err(error) = self.write() {
            self.pending.truncate(before);
            return Err(error);
        }
        self.state.next = sequence + 1;
        let segment = self.segments.back_mut().expect("the head");
        segment.end = self.state.next;
        if let Some(id) = sent_as {
            segment.live += size;
            self.state
                .apply(at, 0, &Record::Sent(id, sequence, at, size));
        }
        Ok(sequence)
    }

    /// So many messages do not count against the limit from now on.
    pub fn discount(&mut self, messages: u64) {
        self.discount = messages;
    }

    /// Moves the [front](Self::front) message to the end. Returns its new place in the order.
    ///
    /// # Errors
    /// [`StoreError::Disk`] or [`StoreError::Damaged`]: it stays where it is.
    pub fn move_front(&mut self) -> Result<u64, StoreError> {
        let Some(Front { sequence, message }) = self.front()? else {
            return Ok(self.state.next);
        };
        let (tag, packet) = (Vec::from(message.tag), Vec::from(message.packet));
        let message = Message {
            tag: &tag,
            packet: &packet,
            ..message
        };
        self.make_room((tag.len() + packet.len() + 128) as u64)?;
        self.tell_synced();
        let (before, at, last) = (self.pending.len(), self.end(), self.state.next);
        let record = Record::Again(sequence, last, message);
        record.write(at, &mut self.pending);
        if let Err(error) = self.write() {
            self.pending.truncate(before);
            return Err(error);
        }
        self.front = None;
        self.state.apply(at, 0, &record);
        self.segments.back_mut().expect("the head").end = self.state.next;
        self.make_way();
        Ok(last)
    }

    /// Whether the room that is left is less than what has to go before the oldest segment can: if the first messages that
    /// were never sent go while this is so, the store is not full before the segment has gone.
    pub fn is_crowded(&self) -> bool {
        let oldest = &self.segments[0];
        if self.segments.len() == 1 || oldest.end <= self.state.cursor {
            return false;
        }
        let at = self.state.cursor_at;
        let passed = match at.segment == oldest.number {
            true => at.offset,
            false => 0,
        };
        // A large message does not go for a small one.
        let max = self.options.max_bytes;
        let left = oldest.size.saturating_sub(passed).min(max / PARTS);
        self.bytes() + left > max
    }

    /// Checks whether so many bytes more may be kept.
    fn admit(&mut self, size: u64) -> Result<(), StoreError> {
        let max = self.options.max_bytes;
        let most = self.options.max_messages.saturating_add(self.discount);
        if self.bytes() + size > max {
            let notes = self.notes().map(|(key, value)| key.len() + value.len());
            if size + SPARE_OF_MESSAGE + notes.sum::<usize>() as u64 > max {
                return Err(StoreError::TooLarge);
            }
            self.give_up_head();
        }
        if self.count() < most && self.bytes() + size <= max {
            return Ok(());
        }
        let live = self.segments.iter().map(|segment| segment.live);
        let under_way = self.state.exchanges.len() as u64;
        match live.sum::<u64>() + size > max || under_way >= most {
            true => Err(StoreError::Busy),
            false => Err(StoreError::Full),
        }
    }

    /// Checks that the store is still where it was. To be called now and then: bytes go on to be written to a file that
    /// somebody has removed.
    ///
    /// # Errors
    /// [`StoreError::Removed`].
    pub fn check(&self) -> Result<(), StoreError> {
        match self.head.is_removed() {
            true => Err(StoreError::Removed(self.disk.name(self.number()))),
            false => Ok(()),
        }
    }

    /// Lets go of the last segment too, if next to nothing in it is needed. Returns whether another one was begun.
    fn give_up_head(&mut self) -> bool {
        let number = self.number();
        let head = self.segments.back().expect("the head");
        let (live, written) = (head.live, self.end().offset);
        if head.end <= self.state.cursor
            && live <= MOVED.min(written / PARTS)
            && 2 * (self.state.size() + live) < written
        {
            self.begin_next();
            if self.number() == number && self.count() == 0 {
                self.begin_without_room();
            }
        }
        self.number() != number
    }

    /// The number of messages that are kept.
    pub fn count(&self) -> u64 {
        self.waiting() + self.state.exchanges.len() as u64
    }

    /// The number of messages that were never sent.
    pub fn waiting(&self) -> u64 {
        self.state.next - self.state.cursor
    }

    /// Whether a message waits that was never sent.
    pub fn has_waiting(&self) -> bool {
        self.waiting() > 0
    }

    /// The sequence number of the next message.
    pub fn next(&self) -> u64 {
        self.state.next
    }

    /// How much the store takes of the disk, in bytes.
    pub fn bytes(&self) -> u64 {
        self.closed + self.end().offset
    }

    /// Segments have come or gone.
    fn tally(&mut self) {
        let others = self.segments.iter().rev().skip(1);
        self.closed = others.clone().map(|segment| segment.size).sum();
        let cursor = self.state.cursor;
        let messages = others.map(|segment| segment.end.saturating_sub(segment.begin.max(cursor)));
        self.fullest = messages.max().unwrap_or(0);
    }

    /// The first message that was never sent.
    ///
    /// # Errors
    /// [`StoreError::Disk`] or [`StoreError::Damaged`].
    pub fn front(&mut self) -> Result<Option<Front<'_>>, StoreError> {
        if self.front.is_none() {
            self.front = self.find_front()?;
        }
        let (Some(size), Some(scan)) = (self.front, &self.scan) else {
            return Ok(None);
        };
        match scan.last(size) {
            Record::Message(sequence, message) | Record::Again(_, sequence, message) => {
                Ok(Some(Front { sequence, message }))
            }
            _ => unreachable!("as it was found"),
        }
    }

    /// Reads on to the first message that was never sent. Returns the size of its record.
    fn find_front(&mut self) -> Result<Option<usize>, StoreError> {
        while self.has_waiting() {
            let head = self.number();
            let scan = match &mut self.scan {
                Some(scan) => scan,
                None => {
                    let scan = self.scan_from(self.state.cursor_at)?;
                    self.scan.insert(scan)
                }
            };
            let segment = scan.at().segment;
            // The segment may have grown since.
            let first = self.segments.front().map_or(0, |first| first.number);
            if segment == head {
                scan.extend(self.written);
            } else if segment >= first {
                scan.extend(self.segments[(segment - first) as usize].size);
            }
            let bad = match scan.next()? {
                Next::Record(
                    at,
                    size,
                    Record::Message(sequence, _) | Record::Again(_, sequence, _),
                ) if (self.state.cursor..self.state.next).contains(&sequence) => {
                    (self.state.cursor, self.state.cursor_at) = (sequence, at);
                    return Ok(Some(size));
                }
                Next::Record(..) => continue,
                Next::End if segment < head => {
                    let segment = segment + 1;
                    self.state.cursor_at = Position { segment, offset: 0 };
                    self.scan = None;
                    continue;
                }
                Next::Bad(at) => at,
                // Messages that were damaged have left a gap in the numbers.
                Next::End => {
                    self.state.cursor = self.state.next;
                    return Ok(None);
                }
            };
            if !self.options.skip_damage {
                self.scan = None;
                let name = self.disk.name(bad.segment);
                return Err(StoreError::Damaged(name, bad.offset));
            }
            scan.skip_damage()?;
        }
        Ok(None)
    }

    /// Reads a segment from a position on.
    fn scan_from(&self, at: Position) -> io::Result<Scan<D::File>> {
        let first = self.segments.front().map_or(0, |segment| segment.number);
        // Segments without live messages may have gone.
        let at = match at.segment < first {
            true => Position {
                segment: first,
                offset: 0,
            },
            false => at,
        };
        let end = self.end_of(at.segment);
        Ok(match at.segment == self.number() {
            true => Scan::new(self.head.clone(), at, end),
            false => Scan::new(self.disk.open(at.segment)?, at, end),
        })
    }

    /// Where a segment ends; a segment that is not there is empty.
    fn end_of(&self, segment: u64) -> u64 {
        if segment == self.number() {
            return self.written;
        }
        let first = self.segments.front().map_or(0, |segment| segment.number);
        let index = segment.checked_sub(first);
        let segment = index.and_then(|index| self.segments.get(index as usize));
        segment.map_or(0, |segment| segment.size)
    }

    /// The [front](Self::front) message is about to be sent: it is under way with this packet identifier. 0 stands for
    /// a message of QoS 0, which is over with that.
    pub fn send_front(&mut self, id: u16) {
        let Some(size) = self.front.take() else {
            return;
        };
        let (sequence, at, size) = (self.state.cursor, self.state.cursor_at, size as u64);
        match id {
            0 => {
                // One record says it for all that go together.
                if let Some((start, end)) = self.passed
                    && end == self.pending.len()
                {
                    self.pending.truncate(start);
                }
                self.tell_synced();
                let start = self.pending.len();
                self.note_down(&Record::Passed(sequence + 1, at));
                self.passed = Some((start, self.pending.len()));
            }
            _ => {
                self.segment_of(at).live += size;
                self.note_down(&Record::Sent(id, sequence, at, size));
            }
        }
        self.make_way();
    }

    /// The [front](Self::front) message will not be sent.
    pub fn drop_front(&mut self) {
        self.send_front(0);
    }

    /// The messages under way, with their packet identifiers, in the order in which they were accepted.
    pub fn exchanges(&self) -> Vec<(u16, Exchange)> {
        let mut exchanges: Vec<_> = self
            .state
            .exchanges
            .iter()
            .map(|(&id, &e)| (id, e))
            .collect();
        exchanges.sort_unstable_by_key(|(_, exchange)| exchange.sequence);
        exchanges
    }

    /// Gives a message under way to a function, to be repeated. One reader for many messages reads the disk in large
    /// pieces.
    ///
    /// # Errors
    /// [`StoreError::Disk`] or [`StoreError::Damaged`].
    pub fn read<T>(
        &self,
        reader: &mut Reader<D::File>,
        exchange: &Exchange,
        take: impl FnOnce(Message<'_>) -> T,
    ) -> Result<T, StoreError> {
        let Exchange { at, .. } = *exchange;
        if exchange.at.segment == self.number() && exchange.at.offset >= self.written {
            let start = (exchange.at.offset - self.written) as usize;
            if let Record::Moved(_, _, message) =
                record::parse(&self.pending[start..], exchange.size as usize)
            {
                return Ok(take(message));
            }
        }
        let scan = match &mut reader.0 {
            Some(scan) if scan.at().segment == at.segment => {
                scan.seek(at.offset, self.end_of(at.segment));
                scan
            }
            other => other.insert(self.scan_from(at)?),
        };
        match scan.next()? {
            Next::Record(
                _,
                _,
                Record::Message(_, message)
                | Record::Again(_, _, message)
                | Record::Moved(_, _, message),
            ) => Ok(take(message)),
            _ => Err(StoreError::Damaged(self.disk.name(at.segment), at.offset)),
        }
    }

    /// Gives at most `most` messages that were never sent to a function, with their places in the order. It begins at a
    /// position that the last call has returned, or with the first of them. Returns where to go on, `None` at the end.
    ///
    /// # Errors
    /// [`StoreError::Disk`] or [`StoreError::Damaged`].
    pub fn list(
        &self,
        from: Option<Position>,
        most: usize,
        mut take: impl FnMut(u64, Message<'_>),
    ) -> Result<Option<Position>, StoreError> {
        let mut at = from.unwrap_or_default().max(self.state.cursor_at);
        let (mut count, mut bytes) = (0, 0);
        while count < most && bytes < LISTED {
            let mut scan = self.scan_from(at)?;
            while count < most && bytes < LISTED {
                match scan.next()? {
                    Next::Record(
                        _,
                        size,
                        Record::Message(sequence, message) | Record::Again(_, sequence, message),
                    ) => {
                        bytes += size as u64;
                        if (self.state.cursor..self.state.next).contains(&sequence) {
                            take(sequence, message);
                            count += 1;
                        }
                    }
                    Next::Record(..) => {}
                    Next::End => break,
                    Next::Bad(_) if self.options.skip_damage => scan.skip_damage()?,
                    Next::Bad(bad) => {
                        let name = self.disk.name(bad.segment);
                        return Err(StoreError::Damaged(name, bad.offset));
                    }
                }
            }
            at = scan.at();
            if count < most && bytes < LISTED {
                if at.segment == self.number() {
                    return Ok(None);
                }
                at = Position {
                    segment: at.segment + 1,
                    offset: 0,
                };
            }
        }
        Ok(Some(at))
    }

    /// The PUBREC of a message has come.
    pub fn released(&mut self, id: u16) {
        self.put_down(id);
        self.note_down(&Record::Released(id));
        self.make_way();
    }

    /// A message's exchange is over.
    pub fn done(&mut self, id: u16) {
        self.put_down(id);
        self.note_down(&Record::Done(id));
        self.make_way();
    }

    /// The server has no session: PUBRELs and received messages mean nothing any more.
    pub fn session_lost(&mut self) {
        self.note_down(&Record::SessionLost);
    }

    /// A received QoS 2 message has been acknowledged.
    pub fn received(&mut self, id: u16) {
        self.note_down(&Record::Received(id));
    }

    /// The exchange of a received QoS 2 message is over.
    pub fn answered(&mut self, id: u16) {
        self.note_down(&Record::Answered(id));
    }

    /// The identifiers of received QoS 2 messages that have been acknowledged and whose exchange is not over.
    pub fn all_received(&self) -> impl Iterator<Item = u16> {
        self.state.received.iter().copied()
    }

    /// Keeps a value under a key. An empty value is the same as none.
    pub fn note(&mut self, key: &[u8], value: &[u8]) {
        self.note_down(&Record::Note(key, value));
    }

    /// All notes, in the order of their keys.
    pub fn notes(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.state
            .notes
            .iter()
            .map(|(key, value)| (&**key, &**value))
    }

    /// The message of an exchange need not be kept any more.
    fn put_down(&mut self, id: u16) {
        if let Some(&exchange) = self.state.exchanges.get(&id)
            && !exchange.is_released
        {
            self.segment_of(exchange.at).live -= exchange.size;
        }
    }

    fn segment_of(&mut self, at: Position) -> &mut Segment {
        let first = self.segments.front().expect("the head").number;
        &mut self.segments[(at.segment - first) as usize]
    }

    /// A small record: it takes effect, and waits to be written.
    fn note_down(&mut self, record: &Record<'_>) {
        let at = self.append(record);
        self.state.apply(at, 0, record);
    }

    /// Appends a record to the bytes that wait to be written. Returns its position.
    fn append(&mut self, record: &Record<'_>) -> Position {
        self.tell_synced();
        let at = self.end();
        record.write(at, &mut self.pending);
        at
    }

    /// Notes down how far everything is synced. Damage before that position is no torn end.
    fn tell_synced(&mut self) {
        if self.told < self.synced {
            self.told = self.synced;
            Record::Synced(self.told).write(self.end(), &mut self.pending);
        }
    }

    /// The number of the last segment.
    fn number(&self) -> u64 {
        self.segments.back().expect("the head").number
    }

    /// Where the next record is to stand.
    fn end(&self) -> Position {
        Position {
            segment: self.number(),
            offset: self.written + self.pending.len() as u64,
        }
    }

    /// Writes everything that waits to be written. Then it outlives the process.
    ///
    /// # Errors
    /// [`StoreError::Disk`]. Nothing is lost: what waits goes on waiting.
    pub fn flush(&mut self) -> Result<(), StoreError> {
        self.write()?;
        if self.written > self.limit {
            self.begin_next();
            self.write()?;
        }
        if self.options.sync == Sync::Process {
            self.remove_condemned(self.end());
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), StoreError> {
        if let Some(failure) = &self.failure {
            let words = format!("the last sync has failed, and is tried again: {failure}");
            return Err(StoreError::Disk(io::Error::other(words)));
        }
        self.mend()?;
        if !self.pending.is_empty() {
            if let Err(error) = self.head.write_at(self.written, &self.pending) {
                // Whole records may have been written: after a crash they would count.
                self.is_torn = self.head.truncate(self.written).is_err();
                self.reserved = 0;
                return Err(error.into());
            }
            self.written += self.pending.len() as u64;
            self.pending.clear();
            self.pending.shrink_to(PORTION as usize);
            self.passed = None;
            self.is_head_unsynced = true;
        }
        Ok(())
    }

    /// Takes away what an error has left on the disk: after a crash it would count.
    fn mend(&mut self) -> io::Result<()> {
        if self.is_torn {
            self.head.truncate(self.written)?;
            (self.is_torn, self.reserved) = (false, 0);
        }
        if self.has_leftover {
            self.note_directory()?;
            match self.disk.remove(self.number() + 1) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => self.has_leftover = false,
            }
        }
        Ok(())
    }

    /// The directory is about to be changed.
    fn note_directory(&mut self) -> io::Result<()> {
        if self.needs_sync() && self.unsynced.directory.is_none() {
            self.unsynced.directory = Some(self.disk.directory()?);
        }
        Ok(())
    }

    /// Makes room for a message of `size` bytes: in this segment or in a new one.
    fn make_room(&mut self, size: u64) -> Result<(), StoreError> {
        self.mend()?;
        if self.end().offset + size > self.limit && self.has_messages() {
            self.begin_segment(size + self.spare())?;
        }
        let spare = self.spare();
        let wanted = self.end().offset + size + spare;
        if wanted > self.reserved {
            self.reserved = reserve(&self.head, wanted)?;
        }
        Ok(())
    }

    /// How much room has to be left for small records.
    fn spare(&self) -> u64 {
        let head = self.segments.back().expect("the head");
        let of_head = head.end.saturating_sub(head.begin.max(self.state.cursor));
        let messages = self.fullest.max(of_head + 1) + self.state.exchanges.len() as u64;
        // Small messages give back less than it takes to end them.
        let lacking = (SPARE_OF_MESSAGE * self.count()).saturating_sub(self.bytes());
        SPARE + SPARE_OF_MESSAGE * messages + lacking
    }

    /// Whether the last segment has a message. Another one is not begun for a message that is larger than a segment.
    fn has_messages(&self) -> bool {
        self.segments
            .back()
            .is_some_and(|head| head.end > head.begin)
    }

    /// Begins a new segment, and puts so many bytes aside there. On an error the last one goes on.
    fn begin_segment(&mut self, room: u64) -> Result<(), StoreError> {
        self.write()?;
        let previous = self.end();
        let number = previous.segment + 1;
        let bytes = self.state.write(number, previous, self.needs_sync());
        self.note_directory()?;
        let written = bytes.len() as u64;
        let begun = self.disk.create(number).and_then(|head| {
            head.write_at(0, &bytes)?;
            let reserved = match room {
                0 => 0,
                _ => reserve(&head, written + room)?,
            };
            Ok((head, reserved))
        });
        let (head, reserved) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                // It tells where this segment ends, and this segment goes on.
                let removed = self.disk.remove(number).map_err(|error| error.kind());
                self.has_leftover = !matches!(removed, Ok(()) | Err(io::ErrorKind::NotFound));
                return Err(error.into());
            }
        };
        self.segments.back_mut().expect("the head").size = previous.offset;
        self.segments
            .push_back(Segment::new(number, self.state.next));
        let old = mem::replace(&mut self.head, head);
        if !matches!(self.reserved, 0 | u64::MAX) {
            // Gives back the rest of what was reserved. It does not matter if that fails.
            let _ = old.truncate(previous.offset);
        }
        if self.needs_sync() {
            self.unsynced.add(old, previous.segment, previous.offset);
        }
        (self.written, self.reserved) = (written, reserved);
        self.limit = limit(&self.options, written);
        self.is_head_unsynced = true;
        self.tally();
        Ok(())
    }

    /// Begins a new segment because the last one is large, or not needed, though no message has to go there. Where that
    /// is not possible now, the last one goes on.
    fn begin_next(&mut self) {
        match self.begin_segment(self.spare()) {
            Ok(()) => self.make_way(),
            Err(_) => self.limit = self.limit.max(self.written + SPARE),
        }
    }

    /// Begins a new segment on a disk that has no room for the records that end messages: there are no messages. What was put
    /// aside for those records makes room for the segment.
    fn begin_without_room(&mut self) {
        // Also where this process has put nothing aside: the one before may have.
        if self.write().is_ok() && self.head.truncate(self.written).is_ok() {
            self.reserved = 0;
        }
        if self.begin_segment(0).is_ok() {
            self.make_way();
        }
    }

    /// Lets go of segments from which no message is needed any more. Where little is left of the oldest, that is moved
    /// on.
    fn make_way(&mut self) {
        let kept = self.segments.len();
        while self.segments.len() > 1 {
            let oldest = &self.segments[0];
            if oldest.end > self.state.cursor {
                break;
            }
            if oldest.live > 0 && !self.move_on() {
                break;
            }
            self.segments.pop_front();
        }
        if self.segments.len() < kept {
            let first = self.segments[0].number;
            // While a removed file is open, its room is not free.
            if self
                .scan
                .as_ref()
                .is_some_and(|scan| scan.at().segment < first)
            {
                (self.scan, self.front) = (None, None);
            }
            let gone = self.state.first..first;
            self.note_down(&Record::First(first));
            let end = self.end();
            self.condemned.extend(gone.map(|number| (end, number)));
            self.tally();
        }
    }

    /// Moves the messages under way out of the oldest segment, if they are few. Returns whether none is left there.
    fn move_on(&mut self) -> bool {
        let Segment {
            number,
            live,
            size,
            is_stuck,
            ..
        } = self.segments[0];
        let is_worth_it = self.segments.len() > 2 && live <= MOVED.min(size / 4) && !is_stuck;
        if !is_worth_it || self.make_room(live).is_err() {
            return false;
        }
        let here = |exchange: &Exchange| exchange.at.segment == number && !exchange.is_released;
        let stay: Vec<(u16, Exchange)> = self.exchanges();
        let mut reader = Reader::default();
        for (id, exchange) in stay.into_iter().filter(|(_, exchange)| here(exchange)) {
            let at = self.end();
            let mut record = Vec::new();
            let read = self.read(&mut reader, &exchange, |message| {
                Record::Moved(id, exchange.sequence, message).write(at, &mut record);
            });
            if read.is_err() {
                self.segments[0].is_stuck = true;
                return false;
            }
            self.pending.extend_from_slice(&record);
            let moved = Exchange {
                at,
                size: record.len() as u64,
                ..exchange
            };
            self.state.exchanges.insert(id, moved);
            self.segments[0].live -= exchange.size;
            self.segment_of(at).live += moved.size;
        }
        true
    }

    fn remove_condemned(&mut self, kept: Position) {
        let disk = &self.disk;
        // A file that cannot be removed now is removed when the store is opened again.
        self.condemned.retain(|(after, number)| {
            let goes = *after <= kept;
            if goes {
                let _ = disk.remove(*number);
            }
            !goes
        });
    }

    /// Whether a message is under way with this packet identifier.
    pub fn is_under_way(&self, id: u16) -> bool {
        self.state.exchanges.contains_key(&id)
    }

    /// Whether [`all_received`](Self::all_received) has this identifier.
    pub fn has_received(&self, id: u16) -> bool {
        self.state.received.contains(&id)
    }

    /// Where the records end that have been written.
    pub fn written(&self) -> Position {
        Position {
            segment: self.number(),
            offset: self.written,
        }
    }
}

/// How large a segment may become that begins with so many bytes of state. A large state is not written often.
fn limit(options: &Options, begun: u64) -> u64 {
    let part = (options.max_bytes / PARTS).max(SMALLEST);
    options.segment_size.min(part).max(4 * begun)
}

/// Reserves at least so many bytes. Returns how many can be written.
fn reserve<F: DiskFile>(file: &F, wanted: u64) -> io::Result<u64> {
    let wanted = wanted.next_multiple_of(PORTION);
    Ok(match file.reserve(wanted)? {
        true => wanted,
        false => u64::MAX,
    })
}
