//! Holds the socket of a connector in Lua for an orderly end. The connector sends all bytes by its own descriptor, and
//! may close that at any time. The descriptor held here keeps the connection until the peer has read all of it.

use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::CLOSING_TIME;
use super::hub::{Hub, TaskCount};
use super::transport::Transport;

/// The most bytes that one read throws away.
const READ: usize = 16 << 10;

/// Holds a socket until the link lets go of it. Then it ends the connection as [`super::connection`] does: closing a
/// socket while received data is unread would reset the connection, and could destroy bytes that the peer has not read
/// yet.
pub(super) async fn run(
    hub: Arc<Hub>,
    transport: Arc<Transport>,
    socket: OwnedFd,
    alive: TaskCount,
) {
    let _alive = alive;
    let _ending = poll_fn(|cx| {
        transport.begin_look(cx.waker());
        transport.take_ending().map_or(Poll::Pending, Poll::Ready)
    })
    .await;
    // An error means that the connection is over too.
    let _ = end(socket, CLOSING_TIME).await;
    transport.leave();
    hub.tell_of_parting();
}

/// Ends our half of the connection. Then reads until the peer ends its half, or `patience` is over.
async fn end(socket: OwnedFd, patience: Duration) -> io::Result<()> {
    let socket = std::net::TcpStream::from(socket);
    socket.set_nonblocking(true)?;
    let mut stream = TcpStream::from_std(socket)?;
    stream.shutdown().await?;
    let read = async {
        let mut buffer = vec![0; READ];
        while stream.read(&mut buffer).await? > 0 {}
        io::Result::Ok(())
    };
    // A peer that takes too long loses its chance.
    let _ = timeout(patience, read).await;
    // A thread that still waits for the socket finds it closed.
    SockRef::from(&stream).shutdown(Shutdown::Both)
}
