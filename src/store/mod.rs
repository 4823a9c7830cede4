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

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::{error, fmt, io, mem};

pub use disk::{Directory, Disk, DiskFile};
pub use open::{OpenError, Options, Report, Sync};
use record::{Header, Record};
pub use record::{Message, Position};
use scan::{Next, Scan};

/// Room that a segment keeps for small records when messages find none, in bytes.
const SPARE: u64 = 64 << 10;
/// How much of a segment is reserved on the disk at a time, in bytes.
const PORTION: u64 = 256 << 10;
/// At most so many bytes of messages under way are moved out of a segment that is to go.
const MOVED: u64 = 1 << 20;

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
    /// The disk has failed.
    Disk(io::Error),
    /// A record is damaged: the file's name, and the offset in bytes.
    Damaged(String, u64),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the store is full"),
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
            Record::Message(sequence, _) => self.next = sequence + 1,
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
    /// Records that have yet to be written.
    pending: Vec<u8>,
    /// Where the reading of messages stands that were never sent.
    scan: Option<Scan<D::File>>,
    /// The size of the first such message's record, if `scan` has just read it.
    front: Option<usize>,
    /// Segments that may go once everything before a position is kept.
    condemned: Vec<(Position, u64)>,
    /// Files that were written to and not synced, and how far everything is synced.
    unsynced: Vec<D::File>,
    is_head_unsynced: bool,
    is_syncing: bool,
    synced: Position,
    /// How far the journal itself says that everything is synced.
    told: Position,
    /// A sync has failed: nobody knows what is on the disk.
    has_failed: bool,
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
        let size = message.tag.len() + message.packet.len() + 128;
        if self.count() >= self.options.max_messages
            || self.bytes() + size as u64 > self.options.max_bytes
        {
            return Err(StoreError::Full);
        }
        self.make_room(size as u64)?;
        self.tell_synced();
        let before = self.pending.len();
        let (at, sequence) = (self.end(), self.state.next);
        Record::Message(sequence, message.clone()).write(at, &mut self.pending);
        let size = self.end().offset - at.offset;
        if let Some(id) = sent_as {
            self.append(&Record::Sent(id, sequence, at, size));
        }
        if let Err(error) = self.flush() {
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
        let closed = self.segments.iter().map(|segment| segment.size);
        closed.sum::<u64>() + self.end().offset
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
            Record::Message(sequence, message) => Ok(Some(Front { sequence, message })),
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
                Next::Record(at, size, Record::Message(sequence, _))
                    if sequence >= self.state.cursor =>
                {
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
        if at.segment == self.number() {
            return Ok(Scan::new(self.head.clone(), at, self.written));
        }
        let size = self.segments[(at.segment - first) as usize].size;
        Ok(Scan::new(self.disk.open(at.segment)?, at, size))
    }

    /// The [front](Self::front) message is about to be sent: it is under way with this packet identifier. 0 stands for
    /// a message of QoS 0, which is over with that.
    pub fn send_front(&mut self, id: u16) {
        let Some(size) = self.front.take() else {
            return;
        };
        let (sequence, at, size) = (self.state.cursor, self.state.cursor_at, size as u64);
        match id {
            0 => self.note_down(&Record::Passed(sequence + 1, at)),
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

    /// Gives a message under way to a function, to be repeated.
    ///
    /// # Errors
    /// [`StoreError::Disk`] or [`StoreError::Damaged`].
    pub fn read<T>(
        &self,
        exchange: &Exchange,
        take: impl FnOnce(Message<'_>) -> T,
    ) -> Result<T, StoreError> {
        let end = exchange.at.offset + exchange.size;
        if exchange.at.segment == self.number() && exchange.at.offset >= self.written {
            let start = (exchange.at.offset - self.written) as usize;
            if let Record::Moved(_, _, message) =
                record::parse(&self.pending[start..], exchange.size as usize)
            {
                return Ok(take(message));
            }
        }
        let mut scan = match exchange.at.segment == self.number() {
            true => Scan::new(self.head.clone(), exchange.at, end),
            false => Scan::new(self.disk.open(exchange.at.segment)?, exchange.at, end),
        };
        match scan.next()? {
            Next::Record(_, _, Record::Message(_, message) | Record::Moved(_, _, message)) => {
                Ok(take(message))
            }
            _ => {
                let name = self.disk.name(exchange.at.segment);
                Err(StoreError::Damaged(name, exchange.at.offset))
            }
        }
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
        if self.has_failed {
            return Err(failed());
        }
        if !self.pending.is_empty() {
            if let Err(error) = self.head.write_at(self.written, &self.pending) {
                // Whole records may have been written: after a crash they would count.
                self.has_failed |= self.head.truncate(self.written).is_err();
                return Err(error.into());
            }
            self.written += self.pending.len() as u64;
            self.pending.clear();
            self.pending.shrink_to(PORTION as usize);
            self.is_head_unsynced = true;
        }
        if self.options.sync == Sync::Process {
            self.remove_condemned(self.end());
        }
        Ok(())
    }

    /// Makes room for `size` more bytes: in this segment or in a new one.
    fn make_room(&mut self, size: u64) -> Result<(), StoreError> {
        if self.end().offset + size > self.options.segment_size && self.has_messages() {
            self.begin_segment()?;
        }
        let wanted = self.end().offset + size + SPARE;
        if wanted > self.reserved {
            let wanted = wanted.next_multiple_of(PORTION);
            self.reserved = match self.head.reserve(wanted)? {
                true => wanted,
                false => u64::MAX,
            };
        }
        Ok(())
    }

    /// Whether the last segment has a message. A segment with a large state and without messages is not given up.
    fn has_messages(&self) -> bool {
        self.segments
            .back()
            .is_some_and(|head| head.end > head.begin)
    }

    /// Begins a new segment.
    fn begin_segment(&mut self) -> Result<(), StoreError> {
        self.flush()?;
        let previous = self.end();
        let number = previous.segment + 1;
        let is_synced = self.options.sync == Sync::Power;
        let bytes = self.state.write(number, previous, is_synced);
        let head = create(&self.disk, number, &bytes)?;
        self.segments.back_mut().expect("the head").size = previous.offset;
        self.segments
            .push_back(Segment::new(number, self.state.next));
        let old = mem::replace(&mut self.head, head);
        if is_synced {
            self.unsynced.push(old);
        }
        self.written = bytes.len() as u64;
        self.reserved = 0;
        self.is_head_unsynced = true;
        Ok(())
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
            let gone = self.state.first..first;
            self.note_down(&Record::First(first));
            let end = self.end();
            self.condemned.extend(gone.map(|number| (end, number)));
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
        for (id, exchange) in stay.into_iter().filter(|(_, exchange)| here(exchange)) {
            let at = self.end();
            let mut record = Vec::new();
            let read = self.read(&exchange, |message| {
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

    /// What has to be done for everything written so far to outlive the machine. It takes long, so it can be done
    /// elsewhere; its result goes to [`synced`](Self::synced). `None`: nothing, not asked for, or under way.
    pub fn sync(&mut self) -> Option<SyncJob<D::File>> {
        if self.options.sync == Sync::Process || self.has_failed || self.is_syncing {
            return None;
        }
        let mut files = mem::take(&mut self.unsynced);
        if mem::take(&mut self.is_head_unsynced) {
            files.push(self.head.clone());
        }
        if files.is_empty() {
            return None;
        }
        self.is_syncing = true;
        let upto = self.written();
        Some(SyncJob {
            files,
            directory: self.disk.directory(),
            upto,
        })
    }

    /// A sync has ended. Returns the position before which everything outlives the machine.
    ///
    /// # Errors
    /// The sync has failed. Nobody knows what is on the disk then: the store takes nothing any more.
    pub fn synced(&mut self, result: io::Result<Position>) -> Result<Position, StoreError> {
        self.is_syncing = false;
        match result {
            Ok(upto) => {
                self.synced = self.synced.max(upto);
                self.remove_condemned(self.synced);
                Ok(self.synced)
            }
            Err(error) => {
                self.has_failed = true;
                Err(error.into())
            }
        }
    }

    /// Before this position everything outlives what it has to.
    pub fn safe(&self) -> Position {
        match self.options.sync {
            Sync::Process => self.written(),
            Sync::Power => self.synced,
        }
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

/// Files to be synced.
pub struct SyncJob<F> {
    files: Vec<F>,
    directory: io::Result<F>,
    upto: Position,
}

impl<F: DiskFile> SyncJob<F> {
    /// Waits for the disk. Returns how far everything is synced.
    ///
    /// # Errors
    /// The disk's.
    pub fn run(self) -> io::Result<Position> {
        for file in &self.files {
            file.sync()?;
        }
        self.directory?.sync()?;
        Ok(self.upto)
    }
}

fn failed() -> StoreError {
    StoreError::Disk(io::Error::other("the disk has failed before"))
}

/// Makes a segment with this content, or none.
fn create<D: Disk>(disk: &D, number: u64, bytes: &[u8]) -> io::Result<D::File> {
    let file = disk.create(number)?;
    match file.write_at(0, bytes) {
        Ok(()) => Ok(file),
        Err(error) => {
            let _ = disk.remove(number);
            Err(error)
        }
    }
}
