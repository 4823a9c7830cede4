//! The store of a client: a journal on the disk, as its session uses it.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use crate::codec::Version;
use crate::session::{
    Keep, KeepError, Label, Listed, Mark, Note, Resumed, Syncing, Waiting, has_response_topic,
};
use crate::store::{
    Directory, Disk, DiskFile, Exchange, Message, OpenError, Options, Position, Reader, Report,
    Store, StoreError, SyncJob,
};

/// A [`Store`], with the time of day.
pub struct Journal<D: Disk> {
    store: Store<D>,
    /// Returns the time, in milliseconds since 1970.
    clock: fn() -> u64,
    /// When the files were last looked for.
    checked: u64,
    /// The version of the packets.
    version: Version,
}

/// How often the files are looked for, in milliseconds.
const CHECKS: u64 = 1000;
/// The note that tells the protocol version of all messages. Other notes have keys without zeros.
const VERSION: &[u8] = b"\0version";

impl<D: Disk> Journal<D> {
    /// Takes a store of packets of this version; `clock` returns the time in milliseconds since 1970.
    pub fn new(store: Store<D>, clock: fn() -> u64, version: Version) -> Self {
        Self {
            store,
            clock,
            checked: 0,
            version,
        }
    }
}

/// Opens the store in a directory of the file system, or begins one. Returns what was found, too.
///
/// # Errors
/// The directory is in use, damaged, or cannot be read or written.
pub fn open(
    path: &Path,
    options: Options,
    version: Version,
) -> Result<(Box<dyn Keep>, Report), OpenError> {
    let (mut store, report) = Store::open(Directory::new(path)?, options)?;
    claim(&mut store, version).map_err(|error| OpenError::Disk(io::Error::other(error)))?;
    Ok((Box::new(Journal::new(store, milliseconds, version)), report))
}

/// Sees to it that all messages are of one version: their packets would mean something else in another one.
fn claim<D: Disk>(store: &mut Store<D>, version: Version) -> Result<(), &'static str> {
    let of_store = store.notes().find(|(key, _)| *key == VERSION);
    let of_store = of_store.map(|(_, value)| value.to_vec());
    if of_store.as_deref() == Some(&[version as u8]) {
        return Ok(());
    }
    match of_store {
        Some(other) if store.count() > 0 => Err(match other[..] == [Version::V50 as u8] {
            true => "its messages are of MQTT 5.0",
            false => "its messages are of MQTT 3.1.1",
        }),
        _ => {
            // A subscription looks different in another version, too.
            let keys: Vec<Vec<u8>> = store.notes().map(|(key, _)| key.to_vec()).collect();
            for key in keys {
                store.note(&key, b"");
            }
            store.note(VERSION, &[version as u8]);
            Ok(())
        }
    }
}

/// A PUBLISH up to the end of its topic, `None` if the bytes are none.
fn head_of(packet: &[u8]) -> Option<&[u8]> {
    let mut size = 0;
    let mut at = 1;
    loop {
        let byte = *packet.get(at)?;
        size |= usize::from(byte & 0x7F) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            break;
        } else if at > 4 {
            return None;
        }
    }
    let rest = packet.get(at..).filter(|rest| rest.len() == size)?;
    let topic = usize::from(u16::from_be_bytes(*rest.first_chunk()?));
    let has_id = packet[0] >> 1 & 3 != 0;
    let is_publish = packet[0] >> 4 == 3 && packet[0] >> 1 & 3 != 3;
    (is_publish && rest.len() >= 2 + topic + 2 * usize::from(has_id))
        .then(|| &packet[..at + 2 + topic])
}

/// The error of a record that is whole and has no PUBLISH.
fn no_message() -> KeepError {
    KeepError::Failed("store: a record has no message".into())
}

/// The time of day, in milliseconds since 1970.
fn milliseconds() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |time| time.as_millis() as u64)
}

impl<D> Keep for Journal<D>
where
    D: Disk + Send,
    D::File: Send + 'static,
{
    fn keep(
        &mut self,
        label: &Label<'_>,
        packet: &[u8],
        sent_as: Option<u16>,
    ) -> Result<u64, KeepError> {
        let since = (self.clock)();
        if since.abs_diff(self.checked) >= CHECKS {
            self.store.check()?;
            self.checked = since;
        }
        let expires = match label.expires_in {
            0 => 0,
            milliseconds => since.saturating_add(milliseconds),
        };
        let message = Message {
            since,
            expires,
            tag: label.tag,
            packet,
        };
        Ok(self.store.keep(&message, sent_as)?)
    }

    fn is_crowded(&self) -> bool {
        self.store.is_crowded()
    }

    fn discount(&mut self, messages: u64) {
        self.store.discount(messages);
    }

    fn move_front(&mut self) -> Result<u64, KeepError> {
        Ok(self.store.move_front()?)
    }

    fn waiting(&self) -> u64 {
        self.store.waiting()
    }

    fn front(&mut self) -> Result<Option<Waiting<'_>>, KeepError> {
        let now = (self.clock)();
        let Some(front) = self.store.front()? else {
            return Ok(None);
        };
        head_of(front.message.packet).ok_or_else(no_message)?;
        Ok(Some(Waiting {
            sequence: front.sequence,
            tag: front.message.tag,
            is_expired: front.message.expires != 0 && front.message.expires <= now,
            waited: (now.saturating_sub(front.message.since) / 1000) as u32,
            packet: front.message.packet,
        }))
    }

    fn send_front(&mut self, packet_id: u16) {
        self.store.send_front(packet_id);
    }

    fn released(&mut self, packet_id: u16) {
        if self.store.is_under_way(packet_id) {
            self.store.released(packet_id);
        }
    }

    fn done(&mut self, packet_id: u16) {
        if self.store.is_under_way(packet_id) {
            self.store.done(packet_id);
        }
    }

    fn session_lost(&mut self) {
        self.store.session_lost();
    }

    fn received(&mut self, packet_id: u16) {
        self.store.received(packet_id);
    }

    fn answered(&mut self, packet_id: u16) {
        if self.store.has_received(packet_id) {
            self.store.answered(packet_id);
        }
    }

    fn note(&mut self, key: &[u8], value: &[u8]) {
        self.store.note(key, value);
    }

    fn notes(&self) -> Vec<Note> {
        let notes = self.store.notes().filter(|(key, _)| *key != VERSION);
        notes
            .map(|(key, value)| (key.into(), value.into()))
            .collect()
    }

    fn resume(&mut self) -> Result<Vec<Resumed>, KeepError> {
        let mut resumed = Vec::new();
        let mut reader = Reader::default();
        for (packet_id, exchange) in self.store.exchanges() {
            let packet = self.packet_of(&mut reader, &exchange)?;
            resumed.push(Resumed { packet_id, packet });
        }
        Ok(resumed)
    }

    fn list(
        &self,
        from: Option<Mark>,
        most: usize,
    ) -> Result<(Vec<Listed>, Option<Mark>), KeepError> {
        let mut list = Vec::new();
        let mut put = |packet_id, sequence, message: Message<'_>| {
            list.extend(head_of(message.packet).map(|head| Listed {
                sequence,
                is_request: has_response_topic(self.version, message.packet),
                packet_id,
                since: message.since,
                tag: message.tag.into(),
                head: head.into(),
            }));
        };
        if from.is_none() {
            let mut reader = Reader::default();
            for (packet_id, exchange) in self.store.exchanges() {
                // The message of a PUBREL may be gone: only its identifier counts.
                let read = self.store.read(&mut reader, &exchange, |message| {
                    put(Some(packet_id), exchange.sequence, message)
                });
                if !exchange.is_released {
                    read?;
                }
            }
        }
        let from = from.map(Position::from);
        let next = self
            .store
            .list(from, most, |sequence, message| put(None, sequence, message))?;
        Ok((list, next.map(Mark::from)))
    }

    fn all_received(&self) -> Vec<u16> {
        self.store.all_received().collect()
    }

    fn flush(&mut self) -> Result<Mark, KeepError> {
        self.store.flush()?;
        Ok(self.store.written().into())
    }

    fn safe(&self) -> Mark {
        self.store.safe().into()
    }

    fn needs_sync(&self) -> bool {
        self.store.needs_sync()
    }

    fn sync(&mut self) -> Option<Syncing> {
        self.store.sync().map(syncing)
    }

    fn last_sync(&self) -> Option<Syncing> {
        self.store.last_sync().map(syncing)
    }

    fn synced(&mut self, result: Result<Mark, KeepError>) -> Result<(), KeepError> {
        let result = result
            .map(Position::from)
            .map_err(|error| io::Error::other(error.to_string()));
        self.store.synced(result)?;
        Ok(())
    }
}

fn syncing<F: DiskFile + Send + 'static>(job: SyncJob<F>) -> Syncing {
    Box::new(move || {
        let upto = job.run();
        upto.map(Mark::from)
            .map_err(|error| KeepError::Failed(error.to_string()))
    })
}

impl<D: Disk> Journal<D> {
    /// The PUBLISH of a message under way, as long as that may be repeated.
    fn packet_of(
        &self,
        reader: &mut Reader<D::File>,
        exchange: &Exchange,
    ) -> Result<Option<Box<[u8]>>, KeepError> {
        if exchange.is_released {
            return Ok(None);
        }
        let packet: Box<[u8]> = self
            .store
            .read(reader, exchange, |message| message.packet.into())?;
        head_of(&packet).ok_or_else(no_message)?;
        Ok(Some(packet))
    }
}

impl From<StoreError> for KeepError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full => Self::Full,
            error => Self::Failed(error.to_string()),
        }
    }
}

impl From<Position> for Mark {
    fn from(at: Position) -> Self {
        Self(at.segment, at.offset)
    }
}

impl From<Mark> for Position {
    fn from(Mark(segment, offset): Mark) -> Self {
        Self { segment, offset }
    }
}
