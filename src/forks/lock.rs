//! A lock on a file, for one holder in all processes. It ends with the process that took it.

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::fs::{FlockOperation, flock};

use super::forks;

/// What a free [`Place`] holds.
const FREE: RawFd = -1;

/// The descriptor of a lock, in a list that only grows: the child of a fork walks it without a lock.
struct Place {
    descriptor: AtomicI32,
    next: OnceLock<Box<Place>>,
}

static PLACES: Place = Place::new();

impl Place {
    const fn new() -> Self {
        Self {
            descriptor: AtomicI32::new(FREE),
            next: OnceLock::new(),
        }
    }

    /// Finds a place for a descriptor, from this one on.
    fn keep(&'static self, descriptor: RawFd) -> &'static Self {
        let mut place = self;
        while !place.is_taken_for(descriptor) {
            place = place.next.get_or_init(|| Box::new(Self::new()));
        }
        place
    }

    fn is_taken_for(&self, descriptor: RawFd) -> bool {
        let (success, failure) = (Ordering::SeqCst, Ordering::Relaxed);
        self.descriptor
            .compare_exchange(FREE, descriptor, success, failure)
            .is_ok()
    }
}

/// The descriptors of the parent's locks, for the child of a fork to close. Reads and stores atomics only, which is allowed
/// between fork and exec.
#[cfg_attr(not(feature = "lua"), expect(dead_code))]
pub(crate) fn of_the_parent() -> impl Iterator<Item = RawFd> {
    std::iter::successors(Some(&PLACES), |place| place.next.get().map(Box::as_ref))
        .map(|place| place.descriptor.swap(FREE, Ordering::SeqCst))
        .filter(|descriptor| *descriptor != FREE)
}

/// A lock of flock(2). The children of a fork share such a lock, and it ends with the last of them: so they close the
/// descriptor ([`of_the_parent`]). A lock of fcntl(2) would not be theirs, but would not tell two copies of this library in
/// a process from each other, and would end when any code of the process closes the file.
pub(crate) struct Lock {
    /// Always `Some` until it is dropped.
    file: Option<File>,
    place: &'static Place,
    /// Which process, see [`forks`].
    forks: usize,
}

impl Lock {
    /// Locks the file. Returns `None` if another holder has it.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn new(file: File) -> io::Result<Option<Self>> {
        let place = PLACES.keep(file.as_raw_fd());
        let lock = Self {
            place,
            file: Some(file),
            forks: forks(),
        };
        match lock.operate(FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(lock)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn operate(&self, operation: FlockOperation) -> rustix::io::Result<()> {
        self.file
            .as_ref()
            .map_or(Ok(()), |file| flock(file, operation))
    }

    /// Another holder may lock the file from now on.
    pub(crate) fn release(&mut self) {
        if self.forks == forks() {
            // A program that is about to be run by this one may have the descriptor for a moment longer.
            let _ = self.operate(FlockOperation::Unlock);
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.release();
        let file = self.file.take();
        if self.forks == forks() {
            self.place.descriptor.store(FREE, Ordering::SeqCst);
        } else {
            // The descriptor is closed, and may be that of another file.
            mem::forget(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_one_lock_until_it_is_dropped() {
        let path = std::env::temp_dir().join(format!("luamqtt-lock-{}", std::process::id()));
        let open = || File::create(&path).unwrap();
        let lock = Lock::new(open()).unwrap().unwrap();
        assert!(Lock::new(open()).unwrap().is_none());
        drop(lock);
        let (first, second) = (Lock::new(open()).unwrap(), Lock::new(open()).unwrap());
        assert!(first.is_some() && second.is_none());
        std::fs::remove_file(&path).unwrap();
    }
}
