//! Checks of the store: it opens whatever stands in its files, or says why not, and what it has opened it can go on with.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use crate::codec::Version;
use crate::driver::store::Journal;
use crate::script::Script;
use crate::session::{Keep, Label, Mark};
use crate::store::{Disk, DiskFile, OpenError, Options, Store, Sync};

/// Files in memory.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<BTreeMap<u64, File>>>);

#[derive(Clone, Default)]
struct File(Arc<Mutex<Vec<u8>>>);

impl Disk for Memory {
    type File = File;

    fn list(&self) -> io::Result<Vec<u64>> {
        Ok(self.0.lock().unwrap().keys().copied().collect())
    }

    fn create(&self, number: u64) -> io::Result<File> {
        let file = File::default();
        self.0.lock().unwrap().insert(number, file.clone());
        Ok(file)
    }

    fn open(&self, number: u64) -> io::Result<File> {
        let files = self.0.lock().unwrap();
        Ok(files.get(&number).ok_or(io::ErrorKind::NotFound)?.clone())
    }

    fn remove(&self, number: u64) -> io::Result<()> {
        self.0.lock().unwrap().remove(&number);
        Ok(())
    }

    fn directory(&self) -> io::Result<File> {
        Ok(File::default())
    }

    fn name(&self, number: u64) -> String {
        number.to_string()
    }
}

impl DiskFile for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let content = self.0.lock().unwrap();
        let bytes = content.get(offset as usize..).unwrap_or_default();
        let count = bytes.len().min(into.len());
        into[..count].copy_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut content = self.0.lock().unwrap();
        let end = offset as usize + bytes.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn is_removed(&self) -> bool {
        false
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.0.lock().unwrap().truncate(size as usize);
        Ok(())
    }

    fn reserve(&self, _: u64) -> io::Result<bool> {
        Ok(false)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn will_read(&self, _: u64, _: u64) {}
}

/// Goes through the story of a store: files, records in them that are whole or not, and then calls.
pub fn check_store(data: &[u8]) {
    let script = &mut Script::new(data);
    let disk = Memory::default();
    let options = Options {
        sync: script.pick(&[Sync::Process, Sync::Power]),
        skip_damage: script.byte() % 2 == 1,
        max_bytes: script.pick(&[u64::MAX, 2000, 10_000]),
        max_messages: script.pick(&[u64::MAX, 3]),
        segment_size: script.pick(&[4 << 20, 300, 1000]),
    };
    let mut number = 0;
    for _ in 0..script.byte() % 6 {
        number = match script.byte() {
            255 => u64::MAX - u64::from(script.byte()),
            254 => 1 << script.byte() % 64,
            step => number.wrapping_add(u64::from(step % 3)),
        };
        let file = disk.create(number).unwrap();
        for _ in 0..script.byte() % 20 {
            put(script, number, &file);
        }
    }
    for _ in 0..3 {
        match Store::open(disk.clone(), options.clone()) {
            Ok((store, _)) => {
                go_on(script, store);
                // What was opened once can be opened again.
                let again = Store::open(disk.clone(), options.clone());
                assert!(again.is_ok(), "{}", again.err().unwrap());
            }
            Err(OpenError::Disk(error)) => panic!("{error}"),
            Err(OpenError::Damaged(_, offset)) => assert!(!options.skip_damage || offset == 0),
            Err(OpenError::Missing(_)) => {}
        }
    }
}

/// Appends a record to a file, or other bytes.
fn put(script: &mut Script<'_>, segment: u64, file: &File) {
    let at = file.size().unwrap();
    let mut body = Vec::new();
    let kind = script.byte() % 17;
    body.push(kind);
    match kind {
        1 => {
            body.extend_from_slice(b"MQTT store\x01");
            for _ in 0..7 {
                long(script, &mut body);
            }
            body.push(script.byte() % 2);
        }
        3 => {
            long(script, &mut body);
            message(script, &mut body);
        }
        4 => {
            id(script, &mut body);
            long(script, &mut body);
            message(script, &mut body);
        }
        5 => {
            id(script, &mut body);
            for _ in 0..4 {
                long(script, &mut body);
            }
        }
        6 | 7 | 9 | 10 => id(script, &mut body),
        8 => {
            for _ in 0..3 {
                long(script, &mut body);
            }
        }
        12 => {
            id(script, &mut body);
            body.extend_from_slice(script.bytes());
        }
        13 => long(script, &mut body),
        14 => {
            for _ in 0..2 {
                long(script, &mut body);
            }
        }
        2 | 11 => {}
        _ => body = script.bytes().to_vec(),
    }
    if kind <= 14 {
        let mut record = (body.len() as u32).to_le_bytes().to_vec();
        let sum = checksum(segment, at, &record);
        record.extend_from_slice(&((sum ^ sum >> 16) as u16).to_le_bytes());
        record.extend_from_slice(&checksum(segment, at, &body).to_le_bytes());
        record.extend_from_slice(&body);
        body = record;
    }
    file.write_at(at, &body).unwrap();
}

/// As in `store/record.rs`.
fn checksum(segment: u64, offset: u64, bytes: &[u8]) -> u32 {
    let place =
        segment.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ offset.wrapping_mul(0xD6E8_FEB8_6659_FD93);
    crc32fast::hash(bytes) ^ (place >> 32) as u32
}

fn long(script: &mut Script<'_>, out: &mut Vec<u8>) {
    let value = match script.byte() {
        255 => u64::MAX,
        254 => (1 << 60) - 1000,
        253 => 1 << (script.byte() % 64),
        small => small.into(),
    };
    out.extend_from_slice(&value.to_le_bytes());
}

fn id(script: &mut Script<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&[script.byte() % 4, script.pick(&[0, 0, 0, 255])]);
}

fn message(script: &mut Script<'_>, out: &mut Vec<u8>) {
    long(script, out);
    long(script, out);
    id(script, out);
    let rest = script.bytes();
    if script.byte() % 4 == 0 {
        out.extend_from_slice(rest);
    } else {
        // A tag of four bytes at most may come first.
        out.extend_from_slice(&[b't'; 3]);
        out.extend_from_slice(&[script.pick(&[0x30, 0x32, 0x34]), 6, 0, 1, b't', 0, 1, b'p']);
    }
}

/// Uses a store as a session does.
fn go_on(script: &mut Script<'_>, store: Store<Memory>) {
    let mut journal = Journal::new(store, || 1000, Version::V311);
    list(&journal);
    let _ = journal.resume();
    let _ = (journal.notes(), journal.all_received());
    for _ in 0..script.byte() % 30 {
        let id = u16::from(script.byte() % 4) + 1;
        match script.byte() % 10 {
            0 => {
                let label = Label {
                    tag: b"tag",
                    expires_in: script.byte().into(),
                };
                let packet = [0x32, 6, 0, 1, b't', 0, 1, b'p'];
                let sent_as = (journal.waiting() == 0 && script.byte() % 2 == 0).then_some(id);
                let _ = journal.keep(&label, &packet, sent_as);
            }
            1 => {
                let front = journal.front().map(|front| front.is_some());
                if let Ok(true) = front {
                    journal.send_front(u16::from(script.byte() % 4));
                }
            }
            2 => journal.done(id),
            3 => journal.released(id),
            4 => journal.received(id),
            5 => journal.answered(id),
            6 => journal.session_lost(),
            7 => journal.note(&[id as u8], script.bytes()),
            8 => {
                let _ = journal.move_front();
            }
            _ => {
                journal.flush().unwrap();
                if let Some(job) = journal.sync() {
                    let result = job();
                    journal.synced(result).unwrap();
                }
            }
        }
    }
    list(&journal);
    // The store comes to an end.
    while let Ok(true) = journal.front().map(|front| front.is_some()) {
        journal.send_front(0);
    }
    journal.flush().unwrap();
}

fn list(journal: &Journal<Memory>) {
    let mut from: Option<Mark> = None;
    while let Ok((_, Some(next))) = journal.list(from, 2) {
        assert!(from < Some(next));
        from = Some(next);
    }
}
