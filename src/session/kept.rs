//! What a session needs of a store, so that accepted messages outlive the process; and the gate: no byte goes to the
//! server before the store has what the byte tells.
//!
//! A message that is kept and cannot be sent at once has no packet identifier and takes no memory. It gets an identifier
//! when it is sent.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::{fmt, mem};

use bytes::{Bytes, BytesMut};

use super::discarded::{Discarded, Why};
use super::send::has_response_topic;
use crate::codec::{QoS, Version};

/// How many messages are listed at a time where all are needed.
const PAGE: usize = 256;

/// A place in the order of everything that a store was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(pub u64, pub u64);

/// Why a store did not do something. Shown to the user as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeepError {
    /// It holds as much as it may.
    Full,
    /// Something else, in words.
    Failed(String),
}

impl KeepError {
    /// The message has a packet identifier of the program's own.
    pub(super) fn packet_id() -> Self {
        Self::Failed(
            "a message that is kept cannot have a packet identifier of the program's own".into(),
        )
    }
}

impl fmt::Display for KeepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the store is full",
            Self::Failed(words) => words,
        })
    }
}

impl std::error::Error for KeepError {}

/// What goes with a kept message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Label<'a> {
    /// The program's name for it, empty for none.
    pub tag: &'a [u8],
    /// After how many milliseconds it need not be sent any more, 0 for never.
    pub expires_in: u64,
}

/// The first message that was never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting<'a> {
    /// Its place in the order in which messages were kept.
    pub sequence: u64,
    /// The program's name for it, empty for none.
    pub tag: &'a [u8],
    /// Whether it need not be sent any more.
    pub is_expired: bool,
    /// For how many seconds it has waited.
    pub waited: u32,
    /// The PUBLISH, good for any connection. Its packet identifier means nothing.
    pub packet: &'a [u8],
}

/// A message under way, as it is found again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// Its packet identifier.
    pub packet_id: u16,
    /// The PUBLISH, whose packet identifier means nothing. `None`: its PUBREC has come.
    pub packet: Option<Box<[u8]>>,
}

/// A kept message, as [`Keep::list`] tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its place in the order in which messages were kept.
    pub sequence: u64,
    /// Its packet identifier if it is under way.
    pub packet_id: Option<u16>,
    /// When the program published it, in milliseconds since 1970.
    pub since: u64,
    /// The program's name for it, empty for none.
    pub tag: Box<[u8]>,
    /// The PUBLISH, up to the end of its topic.
    pub head: Box<[u8]>,
    /// Whether it has a response topic.
    pub is_request: bool,
}

/// A sync that takes long, to be done elsewhere. Its result goes to [`Keep::synced`].
pub type Syncing = Box<dyn FnOnce() -> Result<Mark, KeepError> + Send>;

/// Bytes of a connection that may go to the server once the store has been synced.
pub struct Gated {
    /// The bytes.
    pub bytes: BytesMut,
    /// The sync, to be done elsewhere.
    pub sync: Syncing,
}

/// A key, and the value that is kept under it.
pub type Note = (Box<[u8]>, Box<[u8]>);

/// A store, as a session uses it. What a function without a result says is written by [`flush`](Self::flush).
pub trait Keep: Send {
    /// Keeps a message: when this returns, it outlives the process. With `sent_as`, its packet identifier, it is under
    /// way at once; nothing may wait then. Returns its place in the order of all messages.
    ///
    /// # Errors
    /// It is not kept; nothing has changed.
    fn keep(
        &mut self,
        label: &Label<'_>,
        packet: &[u8],
        sent_as: Option<u16>,
    ) -> Result<u64, KeepError>;

    /// Whether the front message should make room ahead of time.
    fn is_crowded(&self) -> bool;

    /// So many messages do not count against the store's limit.
    fn discount(&mut self, messages: u64);

    /// Moves the front message to the end. Returns its new place in the order.
    ///
    /// # Errors
    /// It stays where it is.
    fn move_front(&mut self) -> Result<u64, KeepError>;

    /// How many messages were never sent.
    fn waiting(&self) -> u64;

    /// The first message that was never sent.
    ///
    /// # Errors
    /// It cannot be read.
    fn front(&mut self) -> Result<Option<Waiting<'_>>, KeepError>;

    /// The front message is under way with this packet identifier. 0: it is over, sent or given up.
    fn send_front(&mut self, packet_id: u16);

    /// The PUBREC of a message has come.
    fn released(&mut self, packet_id: u16);

    /// A message's exchange is over. Does nothing for an exchange that is not kept.
    fn done(&mut self, packet_id: u16);

    /// The server has no session: PUBRELs and received messages mean nothing any more.
    fn session_lost(&mut self);

    /// A received QoS 2 message has been acknowledged.
    fn received(&mut self, packet_id: u16);

    /// The exchange of a received QoS 2 message is over.
    fn answered(&mut self, packet_id: u16);

    /// Keeps a value under a key. An empty value is the same as none.
    fn note(&mut self, key: &[u8], value: &[u8]);

    /// All keys, and the values that are kept under them.
    fn notes(&self) -> Vec<Note>;

    /// The messages under way, in the order in which they were kept.
    ///
    /// # Errors
    /// One cannot be read.
    fn resume(&mut self) -> Result<Vec<Resumed>, KeepError>;

    /// At most `most` kept messages, those under way first, from a mark on that the last call has returned. Returns where
    /// to go on, `None` at the end.
    ///
    /// # Errors
    /// One cannot be read.
    fn list(
        &self,
        from: Option<Mark>,
        most: usize,
    ) -> Result<(Vec<Listed>, Option<Mark>), KeepError>;

    /// The identifiers of received QoS 2 messages that were acknowledged and whose exchange is not over.
    fn all_received(&self) -> Vec<u16>;

    /// Writes what has been said. Returns how far that is.
    ///
    /// # Errors
    /// The disk's. Nothing is lost: it goes on waiting.
    fn flush(&mut self) -> Result<Mark, KeepError>;

    /// How far everything outlives what it has to.
    fn safe(&self) -> Mark;

    /// Whether things are safe only when they are [synced](Self::sync).
    fn needs_sync(&self) -> bool;

    /// The sync that is needed for everything [flushed](Self::flush) to be safe. `None`: not needed, or under way.
    fn sync(&mut self) -> Option<Syncing>;

    /// The sync that makes everything flushed safe now, for a program that will not come back. Its result goes nowhere.
    /// `None`: not needed.
    fn last_sync(&self) -> Option<Syncing>;

    /// A sync has ended.
    ///
    /// # Errors
    /// The sync's. The store takes nothing until a [`sync`](Self::sync) succeeds.
    fn synced(&mut self, result: Result<Mark, KeepError>) -> Result<(), KeepError>;
}

/// How a session uses its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keeping {
    /// The version of the packets.
    pub version: Version,
    /// Whether the oldest message that was never sent makes room for a new one. If not, the new one is refused.
    pub drops_oldest: bool,
    /// Whether a message that was never sent gives way to a newer one of its topic. Messages with a response topic never
    /// do.
    pub latest: bool,
}

/// The newest message of a topic among those that were never sent.
struct Newest {
    sequence: u64,
    tag: Box<[u8]>,
    qos: QoS,
}

/// A store, and the bytes that wait for it.
pub(super) struct Kept {
    pub(super) store: Box<dyn Keep>,
    keeping: Keeping,
    /// With `latest`: by topic. The others of the topic are replaced.
    newest: HashMap<Box<[u8]>, Newest>,
    /// How many messages that were never sent are replaced. They stay in the store until their turn comes.
    replaced: u64,
    /// The first places in the order of messages that were moved, by their present ones. The user knows only the first.
    moved: HashMap<u64, u64>,
    /// Bytes that may go when the store is safe up to the mark, and how many they are.
    staged: VecDeque<(Mark, BytesMut)>,
    staged_bytes: usize,
    /// Bytes of messages that were given up since the user has taken all events.
    pub(super) given_up: usize,
    /// Bytes that may go.
    pub(super) ready: BytesMut,
}

impl Kept {
    pub(super) fn new(store: Box<dyn Keep>, keeping: Keeping) -> Result<Self, KeepError> {
        let mut this = Self {
            store,
            keeping,
            newest: HashMap::new(),
            replaced: 0,
            moved: HashMap::new(),
            staged: VecDeque::new(),
            staged_bytes: 0,
            given_up: 0,
            ready: BytesMut::new(),
        };
        if keeping.latest {
            let mut from = None;
            loop {
                let (messages, next) = this.store.list(from, PAGE)?;
                for message in messages
                    .iter()
                    .filter(|message| message.packet_id.is_none())
                {
                    if !message.is_request {
                        this.note_newest(message.sequence, &message.tag, &message.head);
                    }
                }
                match next {
                    Some(_) => from = next,
                    None => break,
                }
            }
        }
        Ok(this)
    }

    /// Whether a message may make others go.
    pub(super) fn gives_up(&self) -> bool {
        self.keeping.drops_oldest || self.keeping.latest
    }

    /// How many messages wait that will be sent.
    pub(super) fn waiting(&self) -> u64 {
        self.store.waiting().saturating_sub(self.replaced)
    }

    /// Keeps a message, see [`Keep::keep`], and makes room for it if it may. Messages that it replaces, or that make room,
    /// go to `discarded`.
    pub(super) fn keep(
        &mut self,
        label: &Label<'_>,
        packet: &[u8],
        sent_as: Option<u16>,
        discarded: &mut Vec<Discarded>,
    ) -> Result<u64, KeepError> {
        let gives_way = self.keeping.latest
            && sent_as.is_none()
            && !has_response_topic(self.keeping.version, packet);
        let replaces = gives_way && self.newest.contains_key(topic_of(packet));
        let sequence = loop {
            // The replaced message makes room, too.
            self.store.discount(self.replaced + u64::from(replaces));
            match self.store.keep(label, packet, sent_as) {
                Err(KeepError::Full) if self.keeping.drops_oldest && self.waiting() > 0 => {}
                kept => break kept?,
            }
            let replaced = self.replaced;
            self.front()?;
            if self.replaced < replaced {
                continue;
            }
            match self.discard_front(Why::Full)? {
                Some(message) => discarded.push(message),
                None => return Err(KeepError::Full),
            }
        };
        // Room comes by segments. Their messages go one by one before, so that no call gives up thousands.
        while self.keeping.drops_oldest
            && self.store.is_crowded()
            && let Ok(Some(message)) = self.discard_front(Why::Full)
        {
            discarded.push(message);
        }
        if gives_way {
            let old = self.note_newest(sequence, label.tag, packet);
            if let Some(Newest { sequence, tag, qos }) = old {
                let sequence = self.moved.remove(&sequence).unwrap_or(sequence);
                let mut told = Discarded::kept(sequence, &tag, packet, Why::Replaced);
                told.qos = qos;
                discarded.push(told);
            }
            self.tidy();
        }
        Ok(sequence)
    }

    /// A message that was never sent may be the newest of its topic. Returns the one that it replaces.
    fn note_newest(&mut self, sequence: u64, tag: &[u8], packet: &[u8]) -> Option<Newest> {
        let newest = Newest {
            sequence,
            tag: tag.into(),
            qos: qos_of(packet),
        };
        let old = self.newest.insert(topic_of(packet).into(), newest);
        self.replaced += u64::from(old.is_some());
        old
    }

    /// Replaced messages take up the store. So the first messages go, or move to the end, until fewer than half of them
    /// are replaced: two for each new one are enough, and hold up nobody. One that cannot be moved stays, as does one with
    /// a response topic: others of its topic may wait, and their order counts.
    fn tidy(&mut self) {
        for _ in 0..2 {
            if self.replaced <= self.waiting() {
                return;
            }
            match self.is_front_replaced() {
                Ok(true) => {
                    self.pass_replaced();
                    continue;
                }
                Ok(false) => {}
                Err(_) => return,
            }
            let Ok(Some(front)) = self.store.front() else {
                return;
            };
            if has_response_topic(self.keeping.version, front.packet) {
                return;
            }
            let (sequence, topic) = (front.sequence, Box::<[u8]>::from(topic_of(front.packet)));
            let Ok(moved) = self.store.move_front() else {
                return;
            };
            let first = self.moved.remove(&sequence).unwrap_or(sequence);
            self.moved.insert(moved, first);
            if let Some(newest) = self.newest.get_mut(&topic)
                && newest.sequence == sequence
            {
                newest.sequence = moved;
            }
        }
    }

    /// Whether a newer message has taken the place of the first one that was never sent.
    fn is_front_replaced(&mut self) -> Result<bool, KeepError> {
        if self.replaced == 0 {
            return Ok(false);
        }
        let Some(front) = self.store.front()? else {
            // What is damaged is gone, replaced or not.
            self.replaced = 0;
            return Ok(false);
        };
        Ok(is_replaced(&self.newest, front.sequence, front.packet)
            && !has_response_topic(self.keeping.version, front.packet))
    }

    fn pass_replaced(&mut self) {
        self.store.send_front(0);
        self.replaced -= 1;
    }

    /// The first message that was never sent and will be.
    pub(super) fn front(&mut self) -> Result<Option<Waiting<'_>>, KeepError> {
        while self.is_front_replaced()? {
            self.pass_replaced();
        }
        self.store.front()
    }

    /// The [front](Self::front) message is under way with this packet identifier; with 0 it is over. Returns its first
    /// place in the order, and its tag.
    pub(super) fn pass_front(&mut self, packet_id: u16) -> Result<(u64, Bytes), KeepError> {
        let Some(front) = self.store.front()? else {
            return Ok((0, Bytes::new()));
        };
        let (sequence, tag) = (front.sequence, Bytes::copy_from_slice(front.tag));
        if self.keeping.latest
            && let topic = topic_of(front.packet)
            && let Some(newest) = self.newest.get(topic)
            && newest.sequence == sequence
        {
            self.newest.remove(topic);
        }
        self.store.send_front(packet_id);
        Ok((self.moved.remove(&sequence).unwrap_or(sequence), tag))
    }

    /// Gives up the [front](Self::front) message, if there is one.
    pub(super) fn discard_front(&mut self, why: Why) -> Result<Option<Discarded>, KeepError> {
        let Some(front) = self.front()? else {
            return Ok(None);
        };
        let mut discarded = Discarded::kept(front.sequence, front.tag, front.packet, why);
        let (sequence, _) = self.pass_front(0)?;
        discarded.sequence = Some(sequence);
        Ok(Some(discarded))
    }

    /// At most `most` messages, see [`Keep::list`], without the replaced ones.
    pub(super) fn list(
        &self,
        from: Option<Mark>,
        most: usize,
    ) -> Result<(Vec<Listed>, Option<Mark>), KeepError> {
        let (mut messages, next) = self.store.list(from, most)?;
        if self.replaced > 0 {
            messages.retain(|message| {
                message.packet_id.is_some()
                    || message.is_request
                    || !is_replaced(&self.newest, message.sequence, &message.head)
            });
        }
        Ok((messages, next))
    }

    /// Takes the bytes to be written behind the gate, and opens it as far as the store is safe.
    pub(super) fn pass(&mut self, transmit: &mut BytesMut) -> Result<(), KeepError> {
        let mark = self.store.flush()?;
        let safe = self.store.safe();
        if mark <= safe && self.staged.is_empty() {
            match self.ready.is_empty() {
                true => mem::swap(&mut self.ready, transmit),
                false => {
                    self.ready.extend_from_slice(transmit);
                    transmit.clear();
                }
            }
            return Ok(());
        }
        if !transmit.is_empty() {
            self.staged_bytes += transmit.len();
            self.staged.push_back((mark, transmit.split()));
        }
        while let Some((mark, _)) = self.staged.front()
            && *mark <= safe
            && let Some((_, bytes)) = self.staged.pop_front()
        {
            self.staged_bytes -= bytes.len();
            self.ready.unsplit(bytes);
        }
        Ok(())
    }

    /// Whether bytes wait for the store.
    pub(super) fn waits(&self) -> bool {
        !self.staged.is_empty()
    }

    /// Bytes that wait here.
    pub(super) fn bytes(&self) -> usize {
        self.ready.len() + self.staged_bytes
    }

    /// Takes the bytes that wait for the store, and the sync that lets them go.
    pub(super) fn take_gated(&mut self) -> Option<Box<Gated>> {
        let mut bytes = BytesMut::new();
        for (_, staged) in self.staged.drain(..) {
            bytes.unsplit(staged);
        }
        self.staged_bytes = 0;
        match bytes.is_empty() {
            true => None,
            false => self
                .store
                .last_sync()
                .map(|sync| Gated { bytes, sync }.into()),
        }
    }

    /// The connection is gone, with all bytes.
    pub(super) fn close(&mut self) {
        self.staged.clear();
        self.staged_bytes = 0;
        self.ready = BytesMut::new();
    }
}

/// Whether a newer message of its topic has taken the place of this one, which is no request.
fn is_replaced(newest: &HashMap<Box<[u8]>, Newest>, sequence: u64, packet: &[u8]) -> bool {
    let newest = newest.get(topic_of(packet));
    newest.is_some_and(|newest| newest.sequence > sequence)
}

/// Writes a packet identifier into a PUBLISH of QoS 1 or 2, as it was encoded.
pub(super) fn set_packet_id(publish: &mut [u8], packet_id: u16) {
    let at = topic_place(publish).end;
    publish[at..at + 2].copy_from_slice(&packet_id.to_be_bytes());
}

/// The topic of a PUBLISH, as it was encoded.
pub fn topic_of(publish: &[u8]) -> &[u8] {
    &publish[topic_place(publish)]
}

/// Where the topic of a PUBLISH stands (3.3.2.1).
fn topic_place(publish: &[u8]) -> Range<usize> {
    let mut at = 1;
    // The remaining length: the last of its bytes has no continuation bit (1.5.5).
    while publish[at] & 0x80 != 0 {
        at += 1;
    }
    let size = usize::from(u16::from_be_bytes([publish[at + 1], publish[at + 2]]));
    at + 3..at + 3 + size
}

/// The QoS of a PUBLISH, as it was encoded (3.3.1.2).
pub(super) fn qos_of(publish: &[u8]) -> QoS {
    QoS::from_code(publish[0] >> 1 & 3).unwrap_or(QoS::AtMostOnce)
}
