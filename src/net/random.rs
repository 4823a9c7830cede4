//! Random bytes.

use std::io;

/// So many bytes, of the operating system each time: a generator in the process would give the same to each child of a
/// fork.
///
/// # Errors
/// What the operating system says when it has none.
pub fn random_bytes<const SIZE: usize>() -> io::Result<[u8; SIZE]> {
    let mut bytes = [0; SIZE];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}
