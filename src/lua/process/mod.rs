//! The whole process: forks, its end, signals and sockets.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(crate) use unix::{block_signals, own_socket, watch};
#[cfg(windows)]
pub(crate) use windows::{block_signals, own_socket, watch};
