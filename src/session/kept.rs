//! What a session needs of a store, so that accepted messages outlive the process; and the gate: no byte goes to the
//! server before the store has what the byte tells.
//!
//! A message that is kept and cannot be sent at once has no packet identifier and takes no memory. It gets an identifier
//! when it is sent.

use std::collections::VecDeque;
use std::fmt;

use bytes::BytesMut;

/// A place in the order of everything that a store was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(pub u64, pub u64);

/// Why a store did not do something. Shown to the user as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepError(pub String);

impl KeepError {
    /// The message has a packet identifier of the program's own.
    pub(super) fn packet_id() -> Self {
        Self("a message that is kept cannot have a packet identifier of the program's own".into())
    }

    /// The message has waited for too long.
    pub(super) fn expired() -> Self {
        Self("the message has waited for longer than it may".into())
    }
}

impl fmt::Display for KeepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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

/// A sync that takes long, to be done elsewhere. Its result goes to [`Keep::synced`].
pub type Syncing = Box<dyn FnOnce() -> Result<Mark, KeepError> + Send>;

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

    /// The messages under way, in the order in which they were kept.
    ///
    /// # Errors
    /// One cannot be read.
    fn resume(&mut self) -> Result<Vec<Resumed>, KeepError>;

    /// The identifiers of received QoS 2 messages that were acknowledged and whose exchange is not over.
    fn all_received(&self) -> Vec<u16>;

    /// Writes what has been said. Returns how far that is.
    ///
    /// # Errors
    /// The disk's. Nothing is lost: it goes on waiting.
    fn flush(&mut self) -> Result<Mark, KeepError>;

    /// How far everything outlives what it has to.
    fn safe(&self) -> Mark;

    /// The sync that is needed for everything [flushed](Self::flush) to be safe. `None`: not needed, or under way.
    fn sync(&mut self) -> Option<Syncing>;

    /// A sync has ended.
    ///
    /// # Errors
    /// The sync's. The store takes nothing any more.
    fn synced(&mut self, result: Result<Mark, KeepError>) -> Result<(), KeepError>;
}

/// A store, and the bytes that wait for it.
pub(super) struct Kept {
    pub(super) store: Box<dyn Keep>,
    /// Bytes that may go when the store is safe up to the mark.
    staged: VecDeque<(Mark, BytesMut)>,
    /// Bytes that may go.
    pub(super) ready: BytesMut,
}

impl Kept {
    pub(super) fn new(store: Box<dyn Keep>) -> Self {
        Self {
            store,
            staged: VecDeque::new(),
            ready: BytesMut::new(),
        }
    }

    /// Takes the bytes to be written behind the gate, and opens it as far as the store is safe.
    pub(super) fn pass(&mut self, transmit: &mut BytesMut) -> Result<(), KeepError> {
        let mark = self.store.flush()?;
        if !transmit.is_empty() {
            self.staged.push_back((mark, transmit.split()));
        }
        let safe = self.store.safe();
        while let Some((mark, _)) = self.staged.front()
            && *mark <= safe
            && let Some((_, bytes)) = self.staged.pop_front()
        {
            self.ready.unsplit(bytes);
        }
        Ok(())
    }

    /// Bytes that wait here.
    pub(super) fn bytes(&self) -> usize {
        let staged = self.staged.iter().map(|(_, bytes)| bytes.len());
        self.ready.len() + staged.sum::<usize>()
    }

    /// The connection is gone, with all bytes.
    pub(super) fn close(&mut self) {
        self.staged.clear();
        self.ready = BytesMut::new();
    }
}

/// Writes a packet identifier into a PUBLISH of QoS 1 or 2, as it was encoded.
pub(super) fn set_packet_id(publish: &mut [u8], packet_id: u16) {
    let mut at = 1;
    // The remaining length: the last of its bytes has no continuation bit (1.5.5).
    while publish[at] & 0x80 != 0 {
        at += 1;
    }
    let topic = usize::from(u16::from_be_bytes([publish[at + 1], publish[at + 2]]));
    let at = at + 3 + topic;
    publish[at..at + 2].copy_from_slice(&packet_id.to_be_bytes());
}
