//! Reads the records of a segment, a chunk at a time.

use std::io;

use super::disk::DiskFile;
use super::record::{Found, Position, Record, find, parse};

/// How much is read at once, in bytes.
const CHUNK: usize = 256 << 10;

/// Where a scan stands in a segment.
pub(super) struct Scan<F> {
    file: F,
    /// The next record.
    at: Position,
    /// Where the segment ends.
    end: u64,
    /// Bytes from `at` on begin at `start`.
    buffer: Vec<u8>,
    start: usize,
}

/// What stands at the place of the next record.
pub(super) enum Next<'a> {
    /// A record, its position and its size.
    Record(Position, usize, Record<'a>),
    /// Bytes that are no record.
    Bad(Position),
    /// The segment's end.
    End,
}

impl<F: DiskFile> Scan<F> {
    pub(super) fn new(file: F, at: Position, end: u64) -> Self {
        Self {
            file,
            at,
            end,
            buffer: Vec::new(),
            start: 0,
        }
    }

    /// The position of the next record.
    pub(super) fn at(&self) -> Position {
        self.at
    }

    /// Goes on at another position of the segment, which ends there. What has been read already is not read again.
    pub(super) fn seek(&mut self, offset: u64, end: u64) {
        let begin = self.at.offset - self.start as u64;
        match offset.checked_sub(begin) {
            Some(start) if start <= self.buffer.len() as u64 => self.start = start as usize,
            _ => {
                self.buffer.clear();
                self.start = 0;
            }
        }
        (self.at.offset, self.end) = (offset, end);
    }

    /// The segment has grown.
    pub(super) fn extend(&mut self, end: u64) {
        self.end = end;
    }

    /// Reads the next record, and goes on behind it.
    pub(super) fn next(&mut self) -> io::Result<Next<'_>> {
        let size = match self.find()? {
            Found::Record(size) => size,
            Found::Short(_) | Found::Nothing if self.at.offset >= self.end => return Ok(Next::End),
            Found::Short(_) | Found::Nothing => return Ok(Next::Bad(self.at)),
        };
        let (at, start) = (self.at, self.start);
        self.at.offset += size as u64;
        self.start += size;
        Ok(Next::Record(at, size, parse(&self.buffer[start..], size)))
    }

    /// The record of this size that was read last.
    pub(super) fn last(&self, size: usize) -> Record<'_> {
        parse(&self.buffer[self.start - size..], size)
    }

    /// Writes all records once more, from here to the end.
    ///
    /// # Errors
    /// The disk's, or that a record is damaged, unless damage is to be skipped.
    pub(super) fn write_again(&mut self, skips_damage: bool) -> io::Result<()> {
        let mut run = Vec::new();
        loop {
            let size = match self.next()? {
                Next::Record(_, size, _) => Some(size),
                Next::Bad(at) if !skips_damage => {
                    return Err(io::Error::other(format!(
                        "what stood at offset {} of segment {} is gone",
                        at.offset, at.segment
                    )));
                }
                Next::Bad(_) | Next::End => None,
            };
            if let Some(size) = size {
                run.extend_from_slice(&self.buffer[self.start - size..self.start]);
            }
            if size.is_none() || run.len() >= CHUNK {
                self.file
                    .write_at(self.at.offset - run.len() as u64, &run)?;
                run.clear();
            }
            if size.is_none() {
                if self.at.offset >= self.end {
                    return Ok(());
                }
                self.skip_damage()?;
            }
        }
    }

    /// Goes on to the next place where a record stands, or to the end.
    pub(super) fn skip_damage(&mut self) -> io::Result<()> {
        while self.at.offset < self.end {
            self.at.offset += 1;
            self.start += 1;
            if let Found::Record(_) = self.find()? {
                break;
            }
        }
        Ok(())
    }

    fn find(&mut self) -> io::Result<Found> {
        loop {
            let found = match self.buffer.get(self.start..) {
                Some(bytes) => find(self.at, bytes),
                None => Found::Short(0),
            };
            let wanted = match found {
                Found::Short(size) if self.at.offset + size as u64 <= self.end => size,
                found => return Ok(found),
            };
            self.fill(wanted)?;
            if self.buffer.len() < wanted {
                // The file is shorter than it should be.
                return Ok(Found::Nothing);
            }
        }
    }

    /// Reads at least `wanted` bytes from the current position on, if there are so many.
    fn fill(&mut self, wanted: usize) -> io::Result<()> {
        let have = self.buffer.len().saturating_sub(self.start);
        self.buffer.drain(..self.start.min(self.buffer.len()));
        self.start = 0;
        let left = self.end - self.at.offset;
        let size = left.min(wanted.max(CHUNK) as u64) as usize;
        // A record larger than a chunk must not keep its memory.
        if self.buffer.capacity() > 2 * CHUNK && size <= CHUNK {
            self.buffer.shrink_to(CHUNK);
        }
        self.buffer.resize(size.max(have), 0);
        let offset = self.at.offset + have as u64;
        let read = self.file.read_at(offset, &mut self.buffer[have..]);
        // After an error, what could not be read is not there: the next attempt reads it anew.
        self.buffer
            .truncate(have + read.as_ref().map_or(0, |count| *count));
        let count = read?;
        self.file.will_read(offset + count as u64, CHUNK as u64);
        Ok(())
    }
}
