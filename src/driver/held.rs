//! The socket of a connector in Lua, for its end. The connector has sent everything with its own descriptor, and may close
//! that whenever it likes: the one here keeps the connection until the peer has read all of it.

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

/// How many bytes one read throws away at most.
const READ: usize = 16 << 10;

/// Holds a socket until the link lets go of it, and then ends the connection as [`super::connection`] does: closing a
/// socket while received data is unread would reset the connection and could destroy what the peer has not read yet.
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
    // A connection that has failed is over too.
    let _ = end(socket, CLOSING_TIME).await;
    transport.leave();
    hub.tell_of_parting();
}

/// Ends our half of the connection, and reads until the peer ends its own, or for so long.
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
    // Too late is too late.
    let _ = timeout(patience, read).await;
    // A thread that still waits for the socket finds it closed.
    SockRef::from(&stream).shutdown(Shutdown::Both)
}
