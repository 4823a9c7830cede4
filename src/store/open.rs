//! Opens a store: reads all records, and tells a torn end from damage.
//!
//! When a process or a machine dies, the last writes may be there in part: a torn end, which is cut off, since nothing
//! in it was promised. Damage elsewhere is an error. The difference is whether the journal says, behind the bad bytes,
//! that everything before was kept. Without [`Sync::Power`] each later record says so, because a process writes one
//! after the other. With it only [`Record::Synced`] does.

use std::collections::VecDeque;
use std::{error, fmt, io, mem};

use super::disk::{Disk, DiskFile};
use super::record::{Header, MOST, Position, Record};
use super::scan::{Next, Scan};
use super::sync::Unsynced;
use super::{Exchange, Reader, Segment, State, Store, StoreError, limit};

/// At most so many segments in a row may be missing.
const MOST_MISSING: u64 = 1 << 12;

/// What accepted messages outlive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// The end of the process, in any way.
    Process,
    /// The end of the machine too.
    Power,
}

/// How a store is used.
#[derive(Clone, Debug)]
pub struct Options {
    /// What accepted messages outlive.
    pub sync: Sync,
    /// How much of the disk the store may take, in bytes.
    pub max_bytes: u64,
    /// How many messages it may keep.
    pub max_messages: u64,
    /// Whether to go on without what is damaged.
    pub skip_damage: bool,
    /// The size of a segment, in bytes. One with a larger message is larger.
    pub segment_size: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sync: Sync::Process,
            max_bytes: u64::MAX,
            max_messages: u64::MAX,
            skip_damage: false,
            segment_size: 4 << 20,
        }
    }
}

/// What has been found when the store was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The file with a torn end that was cut off, and the offset in bytes.
    pub torn: Option<(String, u64)>,
    /// Damaged places, by file and offset, that were skipped.
    pub damaged: Vec<(String, u64)>,
}

/// Why a store cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// The disk has failed.
    Disk(io::Error),
    /// A file is damaged at this offset.
    Damaged(String, u64),
    /// A file is gone.
    Missing(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(error) => write!(f, "store: {error}"),
            Self::Damaged(file, offset) => {
                write!(f, "store: {file} is damaged at offset {offset}")
            }
            Self::Missing(file) => write!(f, "store: {file} is missing"),
        }
    }
}

impl error::Error for OpenError {}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

/// A segment that was found. Its file is open only while it is read: there may be more segments than descriptors.
struct Candidate {
    number: u64,
    size: u64,
    /// What it begins with, if that is whole.
    header: Option<Header>,
    /// Whether a torn end has been cut off.
    is_cut: bool,
}

impl Candidate {
    fn scan<D: Disk>(&self, disk: &D) -> io::Result<Scan<D::File>> {
        let start = Position {
            segment: self.number,
            offset: 0,
        };
        Ok(Scan::new(disk.open(self.number)?, start, self.size))
    }

    /// Reads the records at a position and behind it.
    fn scan_behind<D: Disk>(&self, disk: &D, at: Position) -> io::Result<Scan<D::File>> {
        match at.segment == self.number && at.offset < self.size {
            true => Ok(Scan::new(disk.open(self.number)?, at, self.size)),
            false => self.scan(disk),
        }
    }

    /// The state at the beginning, if it is whole.
    fn header<D: Disk>(&self, disk: &D) -> io::Result<Option<Header>> {
        let mut scan = self.scan(disk)?;
        let Next::Record(_, _, Record::Header(header)) = scan.next()? else {
            return Ok(None);
        };
        loop {
            match scan.next()? {
                Next::Record(_, _, Record::Begun) => return Ok(Some(header)),
                Next::Record(..) => {}
                Next::Bad(_) | Next::End => return Ok(None),
            }
        }
    }
}

/// All records, read.
struct Journal<F> {
    state: State,
    segments: VecDeque<Segment>,
    /// How far everything is known to be synced.
    synced: Position,
    /// The last segment, if records may be appended to it.
    head: Option<F>,
}

impl<D: Disk> Store<D> {
    /// Opens the store in a directory, or begins one.
    ///
    /// # Errors
    /// See [`OpenError`]. With [`Options::skip_damage`] only the disk's errors remain.
    pub fn open(disk: D, options: Options) -> Result<(Self, Report), OpenError> {
        let mut report = Report::default();
        let mut candidates = find(&disk)?;
        let all: Vec<u64> = candidates
            .iter()
            .map(|candidate| candidate.number)
            .collect();
        let (first, mut journal) = loop {
            let first = find_first(&disk, &options, &mut candidates, &mut report)?;
            let needed = candidates.partition_point(|candidate| candidate.number < first);
            report.damaged.clear();
            match read(&disk, &options, &candidates[needed..], &mut report)? {
                Ok(journal) => {
                    candidates.drain(..needed);
                    break (first, journal);
                }
                // It takes with it what comes behind, perhaps the word that earlier segments are not needed.
                Err(torn) => {
                    report.torn = Some((disk.name(torn.segment), torn.offset));
                    let behind = candidates.partition_point(|c| c.number <= torn.segment);
                    candidates.truncate(behind);
                    if let Some(last) = candidates.last_mut() {
                        (last.size, last.is_cut) = (torn.offset, true);
                        last.header = last.header(&disk)?;
                    }
                }
            }
        };
        let last = candidates.last().map_or(0, |last| last.number);
        for &number in all.iter().rev().filter(|number| **number > last) {
            disk.remove(number)?;
        }
        complete(&disk, &options, first, &mut journal, &mut report)?;

        let is_synced = options.sync == Sync::Power;
        let Journal {
            state,
            mut segments,
            synced,
            head,
        } = journal;
        if head.is_none()
            && let (Some(last), Some(segment)) = (candidates.last(), segments.back())
            && last.number == segment.number
        {
            // What was reserved behind it makes room for the next one. It does not matter if that fails.
            let _ = disk
                .open(last.number)
                .and_then(|file| file.truncate(segment.size));
        }
        let mut unsynced = Unsynced::default();
        if is_synced {
            let of_head = head.is_some().then_some(last);
            let unsure = |c: &&Candidate| c.number >= synced.segment && Some(c.number) != of_head;
            for candidate in candidates.iter().filter(unsure) {
                let file = disk.open(candidate.number)?;
                unsynced.add(file, candidate.number, candidate.size);
            }
            unsynced.directory = Some(disk.directory()?);
        }
        let written;
        let head = match head {
            Some(head) => {
                written = segments.back().map_or(0, |last| last.size);
                head
            }
            None => {
                let previous = segments.back().map(|last| Position {
                    segment: last.number,
                    offset: last.size,
                });
                let previous = previous.unwrap_or_default();
                let number = previous.segment + 1;
                let bytes = state.write(number, previous, is_synced);
                segments.push_back(Segment::new(number, state.next));
                written = bytes.len() as u64;
                let head = disk.create(number)?;
                if let Err(error) = head.write_at(0, &bytes) {
                    let _ = disk.remove(number);
                    return Err(error.into());
                }
                head
            }
        };
        let last = segments.back_mut().expect("the head");
        last.size = 0;
        // Segments that are not needed go when this is certain to be on the disk.
        let after = Position {
            segment: last.number,
            offset: written,
        };
        let limit = limit(&options, 0);
        let unneeded = all.into_iter().filter(|number| *number < first);
        let condemned = unneeded.map(|number| (after, number)).collect();
        let mut store = Self {
            disk,
            options,
            state,
            segments,
            head,
            written,
            reserved: 0,
            limit,
            closed: 0,
            fullest: 0,
            pending: Vec::new(),
            passed: None,
            scan: None,
            front: None,
            condemned,
            unsynced,
            is_head_unsynced: true,
            syncing: None,
            discount: 0,
            synced,
            told: synced,
            failure: None,
            is_unsure: is_synced,
            is_torn: false,
            has_leftover: false,
        };
        store.tally();
        if store.options.skip_damage {
            store.end_unreadable()?;
        }
        if !is_synced {
            store.remove_condemned(after);
        }
        Ok((store, report))
    }
}

impl<D: Disk> Store<D> {
    /// Ends the exchanges whose message is damaged: it cannot be repeated.
    fn end_unreadable(&mut self) -> io::Result<()> {
        let mut reader = Reader::default();
        for (id, exchange) in self.exchanges() {
            if exchange.is_released {
                continue;
            }
            match self.read(&mut reader, &exchange, |_| ()) {
                Ok(()) => {}
                Err(StoreError::Disk(error)) => return Err(error),
                Err(_) => self.done(id),
            }
        }
        Ok(())
    }
}

/// All segments that there are, in their order.
fn find<D: Disk>(disk: &D) -> io::Result<Vec<Candidate>> {
    let mut candidates = Vec::new();
    let mut numbers = disk.list()?;
    numbers.retain(|number| *number < MOST);
    numbers.sort_unstable();
    for number in numbers {
        let mut candidate = Candidate {
            number,
            size: disk.open(number)?.size()?,
            header: None,
            is_cut: false,
        };
        candidate.header = candidate.header(disk)?;
        candidates.push(candidate);
    }
    // A segment says where the one before it ends. What lies behind was never promised.
    for index in 1..candidates.len() {
        let Some(Header { previous, .. }) = candidates[index].header else {
            continue;
        };
        let before = &mut candidates[index - 1];
        if previous.segment == before.number {
            before.size = previous.offset;
        }
    }
    Ok(candidates)
}

/// Reads all records. Or says where the end is torn.
fn read<D: Disk>(
    disk: &D,
    options: &Options,
    candidates: &[Candidate],
    report: &mut Report,
) -> Result<Result<Journal<D::File>, Position>, OpenError> {
    let mut journal = Journal {
        state: State::default(),
        segments: VecDeque::new(),
        synced: Position::default(),
        head: None,
    };
    let mut said = None;
    for index in 0..candidates.len() {
        let candidate = &candidates[index];
        let Journal { state, synced, .. } = &mut journal;
        let begin = candidate.header.map_or(state.next, |header| header.next);
        let mut segment = Segment::new(candidate.number, begin);
        segment.size = candidate.size;
        let is_synced = match candidate.header {
            Some(header) => header.is_synced,
            None => options.sync == Sync::Power,
        };
        let mut is_whole = candidate.header.is_some() && !candidate.is_cut;
        // A state that is not whole counts for nothing.
        let mut before = candidate.header.is_none().then(|| state.clone());
        let mut scan = candidate.scan(disk)?;
        loop {
            let bad = match scan.next()? {
                Next::Record(at, size, record) => {
                    match record {
                        Record::Header(_) if candidate.header.is_none() => {}
                        Record::Begun => before = None,
                        Record::Synced(position) => {
                            *synced = (*synced).max(position);
                        }
                        record => state.apply(at, size, &record),
                    }
                    continue;
                }
                Next::End => break,
                Next::Bad(at) => at,
            };
            is_whole = false;
            // What is said once holds for all that is damaged before.
            let is_said = match (is_synced, said) {
                (true, Some(said)) => said > bad,
                (true, None) => *said.insert(last_synced(disk, &candidates[index..], bad)?) > bad,
                (false, _) => evidence(disk, &candidates[index..], bad, false)?,
            };
            if !is_said {
                return Ok(Err(bad));
            }
            let name = disk.name(bad.segment);
            if !options.skip_damage {
                return Err(OpenError::Damaged(name, bad.offset));
            }
            report.damaged.push((name, bad.offset));
            scan.skip_damage()?;
        }
        if let Some(before) = before {
            *state = before;
        }
        segment.end = state.next.max(begin);
        let is_mine = is_synced == (options.sync == Sync::Power);
        journal.head = match is_whole && is_mine && index + 1 == candidates.len() {
            true => Some(disk.open(candidate.number)?),
            false => None,
        };
        journal.segments.push_back(segment);
    }
    Ok(Ok(journal))
}

/// The first segment that is needed. Segments behind one that is missing without having been kept are taken out.
fn find_first<D: Disk>(
    disk: &D,
    options: &Options,
    candidates: &mut Vec<Candidate>,
    report: &mut Report,
) -> io::Result<u64> {
    loop {
        let mut first = 0;
        for candidate in &*candidates {
            let Some(header) = candidate.header else {
                continue;
            };
            first = first.max(header.first);
            let mut scan = candidate.scan(disk)?;
            while let Next::Record(_, _, record) = scan.next()? {
                if let Record::First(segment) = record {
                    first = first.max(segment);
                }
            }
        }
        let (Some(least), Some(last)) = (candidates.first(), candidates.last()) else {
            return Ok(1);
        };
        if first == 0 {
            first = least.number;
        }
        let numbers = candidates.iter().map(|candidate| candidate.number);
        let needed = numbers.skip_while(|number| *number < first);
        let Some((missing, _)) = (first..last.number)
            .zip(needed)
            .find(|(number, there)| number != there)
        else {
            return Ok(first);
        };
        let behind = candidates.partition_point(|candidate| candidate.number < missing);
        let place = Position {
            segment: missing,
            offset: 0,
        };
        if evidence(
            disk,
            &candidates[behind..],
            place,
            options.sync == Sync::Power,
        )? {
            return Ok(first);
        }
        report.torn = Some((disk.name(missing), 0));
        candidates.truncate(behind);
    }
}

/// Looks whether a segment is gone that is needed.
fn complete<D: Disk>(
    disk: &D,
    options: &Options,
    first: u64,
    journal: &mut Journal<D::File>,
    report: &mut Report,
) -> Result<(), OpenError> {
    let Journal {
        state, segments, ..
    } = journal;
    state.first = first;
    state.next = state.next.max(state.cursor);
    if state.next >= MOST {
        // Nobody has published so many messages, and further ones could not be read.
        return Err(OpenError::Damaged(disk.name(first), 0));
    }
    let mut found = mem::take(segments).into_iter().peekable();
    let mut number = first;
    while let Some(next) = found.peek() {
        if next.number == number {
            segments.extend(found.next());
        } else {
            let name = disk.name(number);
            if !options.skip_damage {
                // A segment goes once the journal says so. Where that cannot be read any more, the end is not torn.
                return Err(match report.torn.take() {
                    Some((file, offset)) => OpenError::Damaged(file, offset),
                    None => OpenError::Missing(name),
                });
            }
            // So many are no loss, but a file that is none of ours.
            if next.number - number > MOST_MISSING {
                return Err(OpenError::Missing(name));
            }
            report.damaged.push((name, 0));
            disk.create(number)?;
            segments.push_back(Segment::new(number, state.next));
        }
        number += 1;
    }
    // Messages that are gone with a segment need no exchange.
    let here = |exchange: &Exchange| (first..number).contains(&exchange.at.segment);
    state.exchanges.retain(|_, e| e.is_released || here(e));
    // Positions are no more than hints.
    if state.cursor_at.segment >= number {
        state.cursor_at = Position::default();
    }
    for exchange in state.exchanges.values().filter(|e| !e.is_released) {
        segments[(exchange.at.segment - first) as usize].live += exchange.size;
    }
    Ok(())
}

/// Whether the journal says, at `at` or behind it, that everything before was kept.
fn evidence<D: Disk>(
    disk: &D,
    candidates: &[Candidate],
    at: Position,
    is_synced: bool,
) -> io::Result<bool> {
    if is_synced {
        return Ok(last_synced(disk, candidates, at)? > at);
    }
    for candidate in candidates {
        let mut scan = candidate.scan_behind(disk, at)?;
        loop {
            match scan.next()? {
                Next::Record(place, ..) if place > at => return Ok(true),
                Next::Record(..) => {}
                Next::Bad(_) => scan.skip_damage()?,
                Next::End => break,
            }
        }
    }
    Ok(false)
}

/// How far the records at `at` and behind it say that everything is synced.
fn last_synced<D: Disk>(disk: &D, candidates: &[Candidate], at: Position) -> io::Result<Position> {
    let mut last = Position::default();
    for candidate in candidates {
        let mut scan = candidate.scan_behind(disk, at)?;
        loop {
            match scan.next()? {
                Next::Record(_, _, Record::Synced(position)) => last = last.max(position),
                Next::Record(..) => {}
                Next::Bad(_) => scan.skip_damage()?,
                Next::End => break,
            }
        }
    }
    Ok(last)
}
