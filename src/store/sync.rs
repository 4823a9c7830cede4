//! Has what is written outlive the machine, where that is asked for ([`Sync::Power`]).

use std::io;
use std::mem;

use super::disk::{Disk, DiskFile};
use super::open::Sync;
use super::record::Position;
use super::scan::Scan;
use super::{Store, StoreError};

/// A segment that was written to, and where it ends.
#[derive(Clone)]
struct Part<F> {
    file: F,
    segment: u64,
    end: u64,
}

/// What was written to and is not synced.
#[derive(Clone)]
pub(super) struct Unsynced<F> {
    parts: Vec<Part<F>>,
    /// Files have come or gone.
    pub(super) directory: Option<F>,
}

impl<F> Default for Unsynced<F> {
    fn default() -> Self {
        Self {
            parts: Vec::new(),
            directory: None,
        }
    }
}

impl<F> Unsynced<F> {
    /// A segment that ends there was written to.
    pub(super) fn add(&mut self, file: F, segment: u64, end: u64) {
        if self.parts.iter().all(|part| part.segment != segment) {
            self.parts.push(Part { file, segment, end });
        }
    }

    /// All that is in another one, too.
    fn extend(&mut self, other: Self) {
        for Part { file, segment, end } in other.parts {
            self.add(file, segment, end);
        }
        self.directory = self.directory.take().or(other.directory);
    }
}

/// Files to be synced.
pub struct SyncJob<F> {
    files: Unsynced<F>,
    upto: Position,
    /// From here on everything is written once more before.
    again: Option<Position>,
    skips_damage: bool,
}

impl<F: DiskFile> SyncJob<F> {
    /// Waits for the disk. Returns how far everything is synced.
    ///
    /// # Errors
    /// The disk's.
    pub fn run(self) -> io::Result<Position> {
        for Part { file, segment, end } in self.files.parts {
            if let Some(from) = self.again
                && segment >= from.segment
            {
                let offset = match segment == from.segment {
                    true => from.offset,
                    false => 0,
                };
                let at = Position { segment, offset };
                Scan::new(file.clone(), at, end).write_again(self.skips_damage)?;
            }
            file.sync()?;
        }
        if let Some(directory) = self.files.directory {
            directory.sync()?;
        }
        Ok(self.upto)
    }
}

impl<D: Disk> Store<D> {
    /// What has to be done for everything written so far to outlive the machine. It takes long, so it can be done
    /// elsewhere; its result goes to [`synced`](Self::synced). `None`: nothing, not asked for, or under way.
    pub fn sync(&mut self) -> Option<SyncJob<D::File>> {
        if !self.needs_sync() || self.syncing.is_some() {
            return None;
        }
        let mut files = mem::take(&mut self.unsynced);
        if mem::take(&mut self.is_head_unsynced) {
            files.add(self.head.clone(), self.number(), self.written);
        }
        if files.parts.is_empty() && files.directory.is_none() {
            return None;
        }
        self.syncing = Some(files.clone());
        Some(self.job(files))
    }

    /// What has to be done now for everything written so far to outlive the machine, also if a sync is under way. Its
    /// result goes nowhere. `None`: nothing, or not asked for.
    pub fn last_sync(&self) -> Option<SyncJob<D::File>> {
        if !self.needs_sync() || self.synced == self.written() {
            return None;
        }
        let mut files = self.unsynced.clone();
        files.add(self.head.clone(), self.number(), self.written);
        files.extend(self.syncing.clone().unwrap_or_default());
        Some(self.job(files))
    }

    fn job(&self, files: Unsynced<D::File>) -> SyncJob<D::File> {
        SyncJob {
            files,
            upto: self.written(),
            again: self.is_unsure.then_some(self.synced),
            skips_damage: self.options.skip_damage,
        }
    }

    /// A sync has ended. Returns the position before which everything outlives the machine.
    ///
    /// # Errors
    /// The sync has failed. Nobody knows what is on the disk then: the system takes for written what it could not write,
    /// but goes on reading its own copy. The store takes nothing until a [`sync`](Self::sync) succeeds, which writes everything
    /// once more.
    pub fn synced(&mut self, result: io::Result<Position>) -> Result<Position, StoreError> {
        let files = self.syncing.take().unwrap_or_default();
        match result {
            Ok(upto) => {
                (self.failure, self.is_unsure) = (None, false);
                self.synced = self.synced.max(upto);
                self.remove_condemned(self.synced);
                Ok(self.synced)
            }
            Err(error) => {
                (self.failure, self.is_unsure) = (Some(error.to_string()), true);
                let head = self.number();
                self.is_head_unsynced |= files.parts.iter().any(|part| part.segment == head);
                self.unsynced.extend(files);
                self.unsynced.parts.retain(|part| part.segment != head);
                Err(error.into())
            }
        }
    }

    /// Before this position everything outlives what it has to.
    pub fn safe(&self) -> Position {
        match self.needs_sync() {
            true => self.synced,
            false => self.written(),
        }
    }

    /// Whether things have to be [synced](Self::sync).
    pub fn needs_sync(&self) -> bool {
        self.options.sync == Sync::Power
    }
}
