//! Random bytes.

use std::io;

/// `SIZE` bytes from the operating system. A generator in the process would give the same bytes to each child of a
/// fork.
///
/// # Errors
/// The operating system's error when it has no random bytes.
pub fn random_bytes<const SIZE: usize>() -> io::Result<[u8; SIZE]> {
    let mut bytes = [0; SIZE];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}
