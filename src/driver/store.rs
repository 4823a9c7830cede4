//! The store of a client: a journal on the disk, as its session uses it.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use crate::session::{Keep, KeepError, Label, Mark, Resumed, Syncing, Waiting};
use crate::store::{
    Directory, Disk, Exchange, Message, OpenError, Options, Position, Report, Store, StoreError,
};

/// A [`Store`], with the time of day.
pub struct Journal<D: Disk> {
    store: Store<D>,
    /// Returns the time, in milliseconds since 1970.
    clock: fn() -> u64,
}

impl<D: Disk> Journal<D> {
    /// Takes a store; `clock` returns the time in milliseconds since 1970.
    pub fn new(store: Store<D>, clock: fn() -> u64) -> Self {
        Self { store, clock }
    }
}

/// Opens the store in a directory of the file system, or begins one. Returns what was found, too.
///
/// # Errors
/// The directory is in use, damaged, or cannot be read or written.
pub fn open(path: &Path, options: Options) -> Result<(Box<dyn Keep>, Report), OpenError> {
    let (store, report) = Store::open(Directory::new(path)?, options)?;
    Ok((Box::new(Journal::new(store, milliseconds)), report))
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

    fn waiting(&self) -> u64 {
        self.store.waiting()
    }

    fn front(&mut self) -> Result<Option<Waiting<'_>>, KeepError> {
        let clock = self.clock;
        let front = self.store.front()?;
        Ok(front.map(|front| Waiting {
            sequence: front.sequence,
            tag: front.message.tag,
            is_expired: front.message.expires != 0 && front.message.expires <= clock(),
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

    fn resume(&mut self) -> Result<Vec<Resumed>, KeepError> {
        let mut resumed = Vec::new();
        for (packet_id, exchange) in self.store.exchanges() {
            let packet = self.packet_of(&exchange)?;
            resumed.push(Resumed { packet_id, packet });
        }
        Ok(resumed)
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

    fn sync(&mut self) -> Option<Syncing> {
        let job = self.store.sync()?;
        Some(Box::new(move || {
            let upto = job.run();
            upto.map(Mark::from)
                .map_err(|error| KeepError(error.to_string()))
        }))
    }

    fn synced(&mut self, result: Result<Mark, KeepError>) -> Result<(), KeepError> {
        let result = result
            .map(Position::from)
            .map_err(|error| io::Error::other(error.to_string()));
        self.store.synced(result)?;
        Ok(())
    }
}

impl<D: Disk> Journal<D> {
    /// The PUBLISH of a message under way, as long as that may be repeated.
    fn packet_of(&self, exchange: &Exchange) -> Result<Option<Box<[u8]>>, KeepError> {
        if exchange.is_released {
            return Ok(None);
        }
        let packet = self.store.read(exchange, |message| message.packet.into())?;
        Ok(Some(packet))
    }
}

impl From<StoreError> for KeepError {
    fn from(error: StoreError) -> Self {
        Self(error.to_string())
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
