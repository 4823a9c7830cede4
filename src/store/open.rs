//! Opens a store: reads all records, and tells a torn end from damage.
//!
//! When a process or a machine dies, the last writes may be there in part: a torn end, which is cut off, since nothing
//! in it was promised. Damage elsewhere is an error. The difference is whether the journal says, behind the bad bytes,
//! that everything before was kept. Without [`Sync::Power`] each later record says so, because a process writes one
//! after the other. With it only [`Record::Synced`] does.

use std::collections::VecDeque;
use std::{error, fmt, io, mem};

use super::disk::{Disk, DiskFile};
use super::record::{Header, Position, Record};
use super::scan::{Next, Scan};
use super::{Segment, State, Store, create};

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

/// A segment that was found.
struct Candidate<F> {
    number: u64,
    file: F,
    size: u64,
    /// What it begins with, if that is whole.
    header: Option<Header>,
}

impl<F: DiskFile> Candidate<F> {
    fn scan(&self) -> Scan<F> {
        let start = Position {
            segment: self.number,
            offset: 0,
        };
        Scan::new(self.file.clone(), start, self.size)
    }

    /// The state at the beginning, if it is whole.
    fn header(&self) -> io::Result<Option<Header>> {
        let mut scan = self.scan();
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
        let mut journal = read(&disk, &options, &mut candidates, &mut report)?;
        // A torn end takes with it what comes behind.
        for gone in candidates.iter().skip(journal.segments.len()).rev() {
            disk.remove(gone.number)?;
        }
        candidates.truncate(journal.segments.len());
        drop_unneeded(&disk, &options, &mut journal, &mut report)?;

        let is_synced = options.sync == Sync::Power;
        let Journal {
            state,
            mut segments,
            synced,
            head,
        } = journal;
        let mut unsynced = Vec::new();
        if is_synced {
            let files = candidates.into_iter();
            let open = files.filter(|candidate| candidate.number >= synced.segment);
            unsynced.extend(open.map(|candidate| candidate.file));
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
                create(&disk, number, &bytes)?
            }
        };
        segments.back_mut().expect("the head").size = 0;
        let store = Self {
            disk,
            options,
            state,
            segments,
            head,
            written,
            reserved: 0,
            pending: Vec::new(),
            scan: None,
            front: None,
            condemned: Vec::new(),
            unsynced,
            is_head_unsynced: true,
            synced,
            told: synced,
            has_failed: false,
        };
        Ok((store, report))
    }
}

/// All segments that there are, in their order.
fn find<D: Disk>(disk: &D) -> io::Result<Vec<Candidate<D::File>>> {
    let mut candidates = Vec::new();
    let mut numbers = disk.list()?;
    numbers.sort_unstable();
    for number in numbers {
        let file = disk.open(number)?;
        let mut candidate = Candidate {
            number,
            size: file.size()?,
            file,
            header: None,
        };
        candidate.header = candidate.header()?;
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

/// Reads all records. Segments behind a torn end are left out.
fn read<D: Disk>(
    disk: &D,
    options: &Options,
    candidates: &mut [Candidate<D::File>],
    report: &mut Report,
) -> Result<Journal<D::File>, OpenError> {
    let mut journal = Journal {
        state: State::default(),
        segments: VecDeque::new(),
        synced: Position::default(),
        head: None,
    };
    for index in 0..candidates.len() {
        let candidate = &candidates[index];
        if let Some(gap) = gap(journal.segments.back(), &candidates[index..])?
            && !evidence(&candidates[index..], gap, options.sync == Sync::Power)?
        {
            report.torn = Some((disk.name(gap.segment), 0));
            break;
        }
        let Journal { state, synced, .. } = &mut journal;
        let begin = candidate.header.map_or(state.next, |header| header.next);
        let mut segment = Segment::new(candidate.number, begin);
        segment.size = candidate.size;
        let is_synced = match candidate.header {
            Some(header) => header.is_synced,
            None => options.sync == Sync::Power,
        };
        let mut is_whole = candidate.header.is_some();
        // A state that is not whole counts for nothing.
        let mut before = (!is_whole).then(|| state.clone());
        let mut scan = candidate.scan();
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
            let name = disk.name(bad.segment);
            if !evidence(&candidates[index..], bad, is_synced)? {
                report.torn = Some((name, bad.offset));
                segment.size = bad.offset;
                break;
            }
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
        journal.head = (is_whole && is_mine).then(|| candidate.file.clone());
        journal.segments.push_back(segment);
        if report.torn.is_some() {
            break;
        }
    }
    Ok(journal)
}

/// The segment that is missing before the first of these, if it is needed.
fn gap<F: DiskFile>(
    before: Option<&Segment>,
    candidates: &[Candidate<F>],
) -> io::Result<Option<Position>> {
    let candidate = &candidates[0];
    let expected = before.map(|before| before.number + 1);
    let first = candidate.header.map(|header| header.first);
    let mut segment = expected.max(first).unwrap_or(candidate.number);
    if segment < candidate.number {
        // Segments may have gone after the state was written.
        for candidate in candidates {
            let mut scan = candidate.scan();
            while let Next::Record(_, _, record) = scan.next()? {
                if let Record::First(first) = record {
                    segment = segment.max(first);
                }
            }
        }
    }
    let offset = 0;
    let gap = Position { segment, offset };
    Ok((segment < candidate.number).then_some(gap))
}

/// Removes segments that are not needed, and looks whether one is gone that is.
fn drop_unneeded<D: Disk>(
    disk: &D,
    options: &Options,
    journal: &mut Journal<D::File>,
    report: &mut Report,
) -> Result<(), OpenError> {
    let Journal {
        state, segments, ..
    } = journal;
    let Some(last) = segments.back().map(|last| last.number) else {
        state.first = 1;
        return Ok(());
    };
    while segments[0].number < state.first && segments.len() > 1 {
        disk.remove(segments[0].number)?;
        segments.pop_front();
    }
    let found = mem::take(segments);
    let mut found = found.into_iter().peekable();
    let first = match state.first {
        // No state was whole.
        0 => found.peek().map_or(last, |segment| segment.number),
        first => first.min(last),
    };
    state.first = first;
    for number in first..=last {
        if let Some(segment) = found.next_if(|segment| segment.number == number) {
            segments.push_back(segment);
            continue;
        }
        let name = disk.name(number);
        if !options.skip_damage {
            return Err(OpenError::Missing(name));
        }
        report.damaged.push((name, 0));
        disk.create(number)?;
        segments.push_back(Segment::new(number, state.next));
    }
    // Messages that are gone with a segment need no exchange.
    state.exchanges.retain(|_, e| e.at.segment >= first || e.is_released);
    for exchange in state.exchanges.values().filter(|e| !e.is_released) {
        segments[(exchange.at.segment - first) as usize].live += exchange.size;
    }
    Ok(())
}

/// Whether the journal says, at `at` or behind it, that everything before was kept.
fn evidence<F: DiskFile>(
    candidates: &[Candidate<F>],
    at: Position,
    is_synced: bool,
) -> io::Result<bool> {
    for candidate in candidates {
        let mut scan = candidate.scan();
        loop {
            let found = match scan.next()? {
                Next::Record(place, _, Record::Synced(position)) => {
                    position > at || !is_synced && place > at
                }
                Next::Record(place, ..) => !is_synced && place > at,
                Next::Bad(_) => {
                    scan.skip_damage()?;
                    false
                }
                Next::End => break,
            };
            if found {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
