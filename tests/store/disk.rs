//! A disk that forgets, tears and reorders what was not synced, that fills up, and that fails.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use mqtt_core::store::{Disk, DiskFile};

/// Numbers that look random, the same ones for the same seed.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// The parts of a write that reach the disk separately, in bytes.
const SECTOR: usize = 64;

#[derive(Clone, Default)]
struct Content {
    /// What is safe.
    durable: Vec<u8>,
    /// What a process sees.
    seen: Vec<u8>,
    /// What was written since, and where.
    writes: Vec<(usize, Vec<u8>)>,
    /// How many bytes it may have without more room.
    reserved: usize,
    /// Shared with those who have it open.
    open: Arc<()>,
}

impl Content {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        put(&mut self.seen, offset, bytes);
        self.writes.push((offset, bytes.to_vec()));
    }
}

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if content.len() < offset + bytes.len() {
        content.resize(offset + bytes.len(), 0);
    }
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
}

#[derive(Default)]
struct World {
    files: Vec<Content>,
    /// The directory: safe, and as a process sees it.
    durable: BTreeMap<u64, usize>,
    seen: BTreeMap<u64, usize>,
    /// How many more operations succeed.
    left: Option<u64>,
    /// How many bytes all files may have together.
    room: Option<usize>,
    /// Whether room can be reserved.
    reserves: bool,
    fails_to_sync: bool,
    fails_to_read: bool,
    fails_to_truncate: bool,
    /// How often files have been read, and the most that were open at a time.
    reads: usize,
    most_open: usize,
    random: Option<Random>,
}

/// Which part of an operation happens.
enum Fate {
    Whole,
    /// The process dies while it happens.
    Partly,
    Never,
}

impl World {
    /// The bytes that all files take: a removed one until nobody has it open.
    fn used(&self) -> usize {
        let files = self.files.iter().enumerate().filter(|(index, file)| {
            Arc::strong_count(&file.open) > 1 || self.seen.values().any(|seen| seen == index)
        });
        files
            .map(|(_, file)| file.seen.len().max(file.reserved))
            .sum()
    }

    fn fate(&mut self) -> Fate {
        match &mut self.left {
            None => Fate::Whole,
            Some(0) => Fate::Never,
            Some(left) => {
                *left -= 1;
                match left {
                    0 => Fate::Partly,
                    _ => Fate::Whole,
                }
            }
        }
    }

    fn act(&mut self) -> io::Result<()> {
        match self.fate() {
            Fate::Whole => Ok(()),
            Fate::Partly | Fate::Never => Err(dead()),
        }
    }
}

fn dead() -> io::Error {
    io::Error::other("the process is dead")
}

/// What dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    Process,
    Machine,
}

#[derive(Clone)]
pub struct Simulated(Arc<Mutex<World>>);

#[derive(Clone)]
pub struct File {
    world: Arc<Mutex<World>>,
    /// `None`: the directory.
    index: Option<usize>,
    _open: Arc<()>,
}

impl File {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }
}

impl Simulated {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(World {
            random: Some(Random::new(seed)),
            ..World::default()
        })))
    }

    /// The process dies in this many operations.
    pub fn dies_in(&self, operations: u64) {
        self.world().left = Some(operations);
    }

    pub fn is_dead(&self) -> bool {
        self.world().left == Some(0)
    }

    /// All files may have so many bytes together.
    pub fn has_room(&self, room: Option<usize>) {
        self.world().room = room;
    }

    /// How many bytes all files have together, with what is reserved.
    pub fn taken(&self) -> usize {
        self.world().used()
    }

    /// Room can be reserved.
    pub fn reserves(&self) {
        self.world().reserves = true;
    }

    pub fn fails_to_sync(&self, fails: bool) {
        self.world().fails_to_sync = fails;
    }

    pub fn fails_to_read(&self, fails: bool) {
        self.world().fails_to_read = fails;
    }

    pub fn fails_to_truncate(&self, fails: bool) {
        self.world().fails_to_truncate = fails;
    }

    /// The system forgets its copies of what is not safe.
    pub fn forgets(&self) {
        for content in &mut self.world().files {
            let size = content.seen.len();
            content.seen.clone_from(&content.durable);
            content.seen.resize(size, 0);
        }
    }

    /// What the next process finds.
    pub fn after(&self, death: Death, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let world = self.world();
        let mut files = Vec::new();
        for file in &world.files {
            let mut content = match death {
                Death::Process => file.seen.clone(),
                Death::Machine => {
                    let mut content = file.durable.clone();
                    let all = random.below(4);
                    for (offset, bytes) in &file.writes {
                        for (index, part) in bytes.chunks(SECTOR).enumerate() {
                            if all == 0 || all < 3 && random.chance(60) {
                                put(&mut content, offset + index * SECTOR, part);
                            }
                        }
                    }
                    content
                }
            };
            // A file may be longer than what was written to it.
            if death == Death::Machine && !file.writes.is_empty() && random.chance(20) {
                let longer = content.len() + random.below(200) as usize;
                content.resize(longer, 0);
            }
            files.push(Content {
                durable: content.clone(),
                seen: content,
                reserved: file.reserved,
                writes: Vec::new(),
                open: Arc::default(),
            });
        }
        let mut directory = world.seen.clone();
        if death == Death::Machine {
            directory.clone_from(&world.durable);
            for number in 0..100 {
                if world.seen.get(&number) != world.durable.get(&number) && random.chance(50) {
                    match world.seen.get(&number) {
                        Some(&index) => directory.insert(number, index),
                        None => directory.remove(&number),
                    };
                }
            }
        }
        Self(Arc::new(Mutex::new(World {
            files,
            durable: directory.clone(),
            seen: directory,
            reserves: world.reserves,
            random: Some(random),
            ..World::default()
        })))
    }

    /// How often files have been read.
    pub fn reads(&self) -> usize {
        self.world().reads
    }

    /// The most files that were open at a time, or a few more.
    pub fn most_open(&self) -> usize {
        self.world().most_open
    }

    /// The size of each file.
    pub fn sizes(&self) -> Vec<(u64, usize)> {
        let world = self.world();
        let sizes = world.seen.iter();
        sizes
            .map(|(&number, &index)| (number, world.files[index].seen.len()))
            .collect()
    }

    /// Turns a bit over.
    pub fn flip(&self, number: u64, bit: usize) {
        let mut world = self.world();
        let index = world.seen[&number];
        world.files[index].seen[bit / 8] ^= 1 << (bit % 8);
    }

    /// Takes a file away.
    pub fn lose(&self, number: u64) {
        self.world().seen.remove(&number);
    }

    /// The same files, for another try.
    pub fn copy(&self) -> Self {
        self.after(Death::Process, 1)
    }
}

impl Disk for Simulated {
    type File = File;

    fn list(&self) -> io::Result<Vec<u64>> {
        // In no order.
        Ok(self.world().seen.keys().rev().copied().collect())
    }

    fn create(&self, number: u64) -> io::Result<File> {
        let mut world = self.world();
        let fate = world.fate();
        if !matches!(fate, Fate::Never) {
            let index = world.files.len();
            world.files.push(Content::default());
            world.seen.insert(number, index);
        }
        let Fate::Whole = fate else {
            return Err(dead());
        };
        let index = world.seen[&number];
        Ok(File {
            index: Some(index),
            world: Arc::clone(&self.0),
            _open: Arc::clone(&world.files[index].open),
        })
    }

    fn open(&self, number: u64) -> io::Result<File> {
        let mut world = self.world();
        world.most_open = world.most_open.max(Arc::strong_count(&self.0));
        let index = world.seen.get(&number).copied();
        let index = index.ok_or(io::ErrorKind::NotFound)?;
        Ok(File {
            index: Some(index),
            world: Arc::clone(&self.0),
            _open: Arc::clone(&world.files[index].open),
        })
    }

    fn remove(&self, number: u64) -> io::Result<()> {
        let mut world = self.world();
        let fate = world.fate();
        if !matches!(fate, Fate::Never) {
            world.seen.remove(&number);
        }
        match fate {
            Fate::Whole => Ok(()),
            _ => Err(dead()),
        }
    }

    fn directory(&self) -> io::Result<File> {
        Ok(File {
            index: None,
            world: Arc::clone(&self.0),
            _open: Arc::default(),
        })
    }

    fn name(&self, number: u64) -> String {
        format!("file {number}")
    }
}

impl DiskFile for File {
    fn size(&self) -> io::Result<u64> {
        let world = self.world();
        Ok(world.files[self.index.expect("a file")].seen.len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut world = self.world();
        world.reads += 1;
        if world.fails_to_read {
            return Err(io::Error::other("the disk cannot be read"));
        }
        let content = &world.files[self.index.expect("a file")].seen;
        let bytes = content.get(offset as usize..).unwrap_or_default();
        let count = bytes.len().min(into.len());
        into[..count].copy_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut world = self.world();
        let fate = world.fate();
        let (index, offset) = (self.index.expect("a file"), offset as usize);
        let Content { seen, reserved, .. } = &world.files[index];
        let grows = (offset + bytes.len()).saturating_sub(seen.len().max(*reserved));
        let fits = grows == 0 || world.room.is_none_or(|room| world.used() + grows <= room);
        let count = match fate {
            Fate::Whole if fits => bytes.len(),
            Fate::Never => 0,
            _ => {
                let random = world.random.as_mut().expect("one");
                random.below(bytes.len() as u64 + 1) as usize
            }
        };
        world.files[index].write(offset, &bytes[..count]);
        match fate {
            Fate::Whole if fits => Ok(()),
            Fate::Whole => Err(io::ErrorKind::StorageFull.into()),
            _ => Err(dead()),
        }
    }

    fn is_removed(&self) -> bool {
        let world = self.world();
        !world.seen.values().any(|&index| Some(index) == self.index)
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        let mut world = self.world();
        world.act()?;
        if world.fails_to_truncate {
            return Err(io::Error::other("the disk cannot be truncated"));
        }
        let content = &mut world.files[self.index.expect("a file")];
        content.seen.truncate(size as usize);
        // What is cut off does not come back: a machine that dies between the two is left out.
        for (offset, bytes) in &mut content.writes {
            bytes.truncate((size as usize).saturating_sub(*offset));
        }
        content.reserved = 0;
        Ok(())
    }

    fn reserve(&self, size: u64) -> io::Result<bool> {
        let mut world = self.world();
        if !world.reserves {
            return Ok(false);
        }
        let index = self.index.expect("a file");
        let Content { seen, reserved, .. } = &world.files[index];
        let grows = (size as usize).saturating_sub(seen.len().max(*reserved));
        if grows > 0 && world.room.is_some_and(|room| world.used() + grows > room) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let reserved = (*reserved).max(size as usize);
        world.files[index].reserved = reserved;
        Ok(true)
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = self.world();
        world.act()?;
        if world.fails_to_sync {
            // As Linux does: what could not be written counts as written from now on.
            if let Some(index) = self.index {
                world.files[index].writes.clear();
            }
            return Err(io::Error::other("the disk is broken"));
        }
        match self.index {
            Some(index) => {
                let Content {
                    durable,
                    seen,
                    writes,
                    ..
                } = &mut world.files[index];
                for (offset, bytes) in writes.drain(..) {
                    put(durable, offset, &bytes);
                }
                durable.resize(seen.len(), 0);
            }
            None => world.durable = world.seen.clone(),
        }
        Ok(())
    }

    fn will_read(&self, _: u64, _: u64) {}
}
