//! What the store needs of a file system. Tests put a disk in its place that forgets, tears and fails.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

#[cfg(unix)]
use crate::forks::lock::Lock;
use crate::forks::{GENERATIONS, PerProcess, forks};

/// A directory of numbered files, which belongs to one store.
pub trait Disk {
    /// An open file. Clones are the same file.
    type File: DiskFile;

    /// The numbers of all files, in any order.
    fn list(&self) -> io::Result<Vec<u64>>;
    /// Makes an empty file, in place of an old one of this number.
    fn create(&self, number: u64) -> io::Result<Self::File>;
    /// Opens a file that exists.
    fn open(&self, number: u64) -> io::Result<Self::File>;
    /// Removes a file.
    fn remove(&self, number: u64) -> io::Result<()>;
    /// The directory itself, to be synced: which files there are.
    fn directory(&self) -> io::Result<Self::File>;
    /// What a person calls the file.
    fn name(&self, number: u64) -> String;
}

/// A file of a [`Disk`].
pub trait DiskFile: Clone {
    /// Its size in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Reads bytes, fewer than `into` holds only at the end of the file.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;
    /// Writes all bytes. On an error any part of them may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Whether the file has been removed.
    fn is_removed(&self) -> bool;
    /// Cuts the file off at this size. Room that was reserved behind it is given back.
    fn truncate(&self, size: u64) -> io::Result<()>;
    /// Sees to it that the first `size` bytes can be written without more room on the disk. Returns false where this
    /// cannot be had.
    fn reserve(&self, size: u64) -> io::Result<bool>;
    /// Returns when all that was written is on the disk.
    fn sync(&self) -> io::Result<()>;
    /// Says that these bytes will be read soon.
    fn will_read(&self, offset: u64, bytes: u64);
}

/// A directory in a real file system, which belongs to this value alone: another one of this process or of others cannot
/// be made until this one is dropped or its process has ended. On Unix other users can neither read nor write its files; on
/// Windows they can do what the directory above lets them do.
pub struct Directory {
    path: PathBuf,
    #[cfg_attr(unix, expect(dead_code))]
    owner: Owner,
}

/// What tells a directory from others: its device and inode.
#[cfg(unix)]
type Identity = (u64, u64);
/// What tells a directory from others: its path, which is canonical.
#[cfg(windows)]
type Identity = PathBuf;

/// The directories that this process owns, to tell who has one.
static OWNED: PerProcess<Vec<Identity>> =
    PerProcess([const { Mutex::new(Vec::new()) }; GENERATIONS]);

/// The sole use of a directory.
struct Owner {
    identity: Identity,
    /// Which process, see [`forks`].
    forks: usize,
    /// The lock ends with the process, and the child of a fork does not have it.
    #[cfg(unix)]
    lock: Lock,
    /// The locked file. The lock ends with the process.
    #[cfg(windows)]
    file: File,
}

impl Owner {
    fn new(path: &Path) -> io::Result<Self> {
        let identity = identity(path)?;
        let mut owned = OWNED.lock();
        if owned.contains(&identity) {
            return Err(in_use("another client of this process"));
        }
        let lock = lock(&path.join("lock"))?;
        owned.push(Identity::clone(&identity));
        Ok(Self {
            identity,
            forks: forks(),
            #[cfg(unix)]
            lock,
            #[cfg(windows)]
            file: lock,
        })
    }
}

#[cfg(unix)]
fn identity(path: &Path) -> io::Result<Identity> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(windows)]
fn identity(path: &Path) -> io::Result<Identity> {
    Ok(path.to_owned())
}

/// Locks a file, for one holder in all processes.
#[cfg(unix)]
fn lock(path: &Path) -> io::Result<Lock> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    Lock::new(options.open(path)?)?.ok_or_else(|| in_use("another process"))
}

/// Opens a file that no other process can open until this one has closed it.
#[cfg(windows)]
fn lock(path: &Path) -> io::Result<File> {
    use std::os::windows::fs::OpenOptionsExt;
    const ERROR_SHARING_VIOLATION: i32 = 32;
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create(true)
        .truncate(false)
        .share_mode(0);
    options
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(ERROR_SHARING_VIOLATION) => in_use("another process"),
            _ => error,
        })
}

impl Drop for Owner {
    fn drop(&mut self) {
        // A child of a fork never owned the parent's.
        if self.forks == forks() {
            let mut owned = OWNED.lock();
            #[cfg(unix)]
            self.lock.release();
            owned.retain(|owned| *owned != self.identity);
        }
    }
}

fn in_use(by: &str) -> io::Error {
    io::Error::new(io::ErrorKind::AddrInUse, format!("{by} uses it"))
}

impl Directory {
    /// Takes the directory, having made it if there is none.
    ///
    /// # Errors
    /// The file system's, or that another client uses the directory.
    pub fn new(path: &Path) -> io::Result<Self> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(path)?;
        // It stays the same directory if the program changes its own, or a symbolic link leads elsewhere.
        let path = path.canonicalize()?;
        Ok(Self {
            owner: Owner::new(&path)?,
            path,
        })
    }

    fn path(&self, number: u64) -> PathBuf {
        self.path.join(file_name(number))
    }
}

fn file_name(number: u64) -> String {
    format!("{number:016x}.mqtt")
}

impl Disk for Directory {
    type File = Arc<OpenFile>;

    fn list(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".mqtt"));
            if let Some(number) = number.and_then(|digits| u64::from_str_radix(digits, 16).ok())
                && name == *file_name(number)
            {
                numbers.push(number);
            }
        }
        Ok(numbers)
    }

    fn create(&self, number: u64) -> io::Result<Self::File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        open(&options, self.path(number))
    }

    fn open(&self, number: u64) -> io::Result<Self::File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        open(&options, self.path(number))
    }

    fn remove(&self, number: u64) -> io::Result<()> {
        fs::remove_file(self.path(number))
    }

    #[cfg(unix)]
    fn directory(&self) -> io::Result<Self::File> {
        File::open(&self.path).map(Arc::new)
    }

    /// The file of the lock: Windows flushes files only. NTFS writes what it does to names and sizes to one log, in order.
    #[cfg(windows)]
    fn directory(&self) -> io::Result<Self::File> {
        let (file, path) = (self.owner.file.try_clone()?, self.path.join("lock"));
        Ok(Arc::new(OpenFile { file, path }))
    }

    fn name(&self, number: u64) -> String {
        self.path(number).display().to_string()
    }
}

#[cfg(unix)]
type OpenFile = File;

#[cfg(unix)]
fn open(options: &OpenOptions, path: PathBuf) -> io::Result<Arc<OpenFile>> {
    options.open(path).map(Arc::new)
}

#[cfg(unix)]
impl DiskFile for Arc<OpenFile> {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, mut offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < into.len() {
            match std::os::unix::fs::FileExt::read_at(&**self, &mut into[filled..], offset) {
                Ok(0) => break,
                Ok(count) => {
                    filled += count;
                    offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&**self, bytes, offset)
    }

    fn is_removed(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        self.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.set_len(size)
    }

    #[cfg(target_os = "linux")]
    fn reserve(&self, size: u64) -> io::Result<bool> {
        use rustix::fs::{FallocateFlags, fallocate};
        match fallocate(&**self, FallocateFlags::KEEP_SIZE, 0, size) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn reserve(&self, _: u64) -> io::Result<bool> {
        Ok(false)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    #[cfg(target_os = "linux")]
    fn will_read(&self, offset: u64, bytes: u64) {
        let _ = rustix::fs::fadvise(
            &**self,
            offset,
            std::num::NonZeroU64::new(bytes),
            rustix::fs::Advice::WillNeed,
        );
    }

    #[cfg(not(target_os = "linux"))]
    fn will_read(&self, _: u64, _: u64) {}
}

/// An open file. Windows does not tell of a file whether it has been removed.
#[cfg(windows)]
pub struct OpenFile {
    file: File,
    path: PathBuf,
}

#[cfg(windows)]
fn open(options: &OpenOptions, path: PathBuf) -> io::Result<Arc<OpenFile>> {
    let file = options.open(&path)?;
    Ok(Arc::new(OpenFile { file, path }))
}

#[cfg(windows)]
impl DiskFile for Arc<OpenFile> {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, mut offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < into.len() {
            match std::os::windows::fs::FileExt::seek_read(&self.file, &mut into[filled..], offset)?
            {
                0 => break,
                count => {
                    filled += count;
                    offset += count as u64;
                }
            }
        }
        Ok(filled)
    }

    fn write_at(&self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match std::os::windows::fs::FileExt::seek_write(&self.file, bytes, offset)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => {
                    bytes = &bytes[count..];
                    offset += count as u64;
                }
            }
        }
        Ok(())
    }

    fn is_removed(&self) -> bool {
        matches!(self.path.try_exists(), Ok(false))
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.file.set_len(size)
    }

    fn reserve(&self, _: u64) -> io::Result<bool> {
        Ok(false)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn will_read(&self, _: u64, _: u64) {}
}
