//! Syncs of a store, by the clock of the test.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::time::sleep;

use super::*;
use crate::driver::store::Journal;
use crate::session::{Keeping, Label};
use crate::store::{Directory, Disk, DiskFile, Options, Store, Sync};

/// How often a file has been synced, and whether that fails.
#[derive(Default)]
struct Syncs {
    count: AtomicUsize,
    fail: AtomicBool,
}

/// A directory whose syncs fail at times.
struct Failing(Directory, Arc<Syncs>);

#[derive(Clone)]
struct FailingFile(Arc<File>, Arc<Syncs>);

impl Failing {
    fn file(&self, file: io::Result<Arc<File>>) -> io::Result<FailingFile> {
        Ok(FailingFile(file?, Arc::clone(&self.1)))
    }
}

impl Disk for Failing {
    type File = FailingFile;

    fn list(&self) -> io::Result<Vec<u64>> {
        self.0.list()
    }
    fn create(&self, number: u64) -> io::Result<FailingFile> {
        self.file(self.0.create(number))
    }
    fn open(&self, number: u64) -> io::Result<FailingFile> {
        self.file(self.0.open(number))
    }
    fn remove(&self, number: u64) -> io::Result<()> {
        self.0.remove(number)
    }
    fn directory(&self) -> io::Result<FailingFile> {
        self.file(self.0.directory())
    }
    fn name(&self, number: u64) -> String {
        self.0.name(number)
    }
}

impl DiskFile for FailingFile {
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, into)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }
    fn is_removed(&self) -> bool {
        self.0.is_removed()
    }
    fn truncate(&self, size: u64) -> io::Result<()> {
        self.0.truncate(size)
    }
    fn reserve(&self, size: u64) -> io::Result<bool> {
        self.0.reserve(size)
    }
    fn sync(&self) -> io::Result<()> {
        self.1.count.fetch_add(1, Ordering::SeqCst);
        match self.1.fail.load(Ordering::SeqCst) {
            true => Err(io::Error::other("the disk is broken")),
            false => Ok(()),
        }
    }
    fn will_read(&self, offset: u64, bytes: u64) {
        self.0.will_read(offset, bytes);
    }
}

#[test]
fn a_sync_that_fails_is_tried_again_after_a_while_until_it_succeeds() {
    let driver = driver();
    let link = link(&driver);
    let path = std::env::temp_dir().join(format!("luamqtt-syncs-{}", std::process::id()));
    let syncs = Arc::new(Syncs::default());
    let disk = Failing(Directory::new(&path).unwrap(), Arc::clone(&syncs));
    let options = Options {
        sync: Sync::Power,
        ..Options::default()
    };
    let (store, _) = Store::open(disk, options).unwrap();
    let store = Box::new(Journal::new(store, || 0, Version::V311));
    let keeping = Keeping {
        version: Version::V311,
        drops_oldest: false,
        latest: false,
    };
    link.keep_in(&driver, store, keeping).unwrap();
    let properties = Properties::new();
    let message = PublishRef {
        qos: QoS::AtLeastOnce,
        ..outgoing(b"kept", &properties)
    };
    let publish = || link.publish_kept(&message, &Label::default());
    let synced = |seconds: u64| {
        let before = syncs.count.load(Ordering::SeqCst);
        let span = Duration::from_millis(seconds * 1000 + 500);
        driver.drive(async { sleep(span).await });
        syncs.count.load(Ordering::SeqCst) - before
    };
    publish().unwrap();
    assert!(synced(1) > 0);
    assert_eq!(synced(10), 0, "everything is synced");

    syncs.fail.store(true, Ordering::SeqCst);
    publish().unwrap();
    // At once, and then each second.
    assert_eq!(synced(10), 11);
    for _ in 0..100 {
        assert!(publish().is_err());
    }
    assert!((4..6).contains(&synced(4)), "asking makes no difference");
    assert!(!link.has_events());

    syncs.fail.store(false, Ordering::SeqCst);
    assert!(synced(1) > 0);
    assert_eq!(synced(10), 0);
    publish().unwrap();
    std::fs::remove_dir_all(&path).unwrap();
}
