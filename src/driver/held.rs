//! Holds the socket of a connector in Lua: for an orderly end, and, if the connector's `send` does nothing but write to
//! the socket, to write to it from here.
//!
//! The connector may close its own descriptor at any time. The descriptor held here keeps the connection until the peer
//! has read all of it.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::mem;
use std::net::Shutdown;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::CLOSING_TIME;
use super::connection::synced;
use super::hub::{Hub, TaskCount};
use super::link::Link;
use super::transport::{Ending, Rest, Transport};
use crate::net::{OwnedSocket, SIGNAL_FREE, acknowledge};

/// Has one write not wait, whether the socket of the program waits or not.
#[cfg(unix)]
const DONT_WAIT: i32 = libc::MSG_DONTWAIT;
/// Windows knows no such writes: the socket must not wait.
#[cfg(windows)]
const DONT_WAIT: i32 = 0;

/// The most bytes that one read throws away.
const READ: usize = 16 << 10;
/// How long requests are gathered after a write. A round trip takes longer, so a program that waits for each answer does
/// not wait for this as well.
const GATHERING: Duration = Duration::from_micros(20);
/// As many bytes are written even sooner after a write.
const MUCH: usize = 64 << 10;

/// The link's side of a held socket.
pub(super) struct Held {
    /// The mailbox of the task that holds the socket.
    pub(super) transport: Arc<Transport>,
    socket: Arc<OwnedSocket>,
    /// Of the socket, if the link may write to it.
    outlet: Option<Outlet>,
    /// The connector has received bytes since the link last wrote: TCP may owe an acknowledgement.
    unanswered: bool,
    /// The last bytes of the connection, which the task is to write.
    rest: Rest,
    /// Lua has taken an event. It will take another, or see that there is none, and then have everything written.
    pub(super) in_turn: bool,
}

/// What the link knows of a socket that it may write to.
struct Outlet {
    state: OutletState,
    /// The time of the last write.
    written: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq)]
enum OutletState {
    /// The link writes.
    Free,
    /// The socket takes no more for now. The connector's `send` waits for it.
    Blocked,
    /// Writing has failed. The connector's `send` tells why.
    Failed,
    /// The connector has taken bytes, and may have sent a part of them.
    Lent,
}

impl Held {
    pub(super) fn new(socket: &Arc<OwnedSocket>, is_plain: bool) -> Self {
        let may_write =
            is_plain && (cfg!(unix) || SockRef::from(&**socket).set_nonblocking(true).is_ok());
        let outlet = may_write.then_some(Outlet {
            state: OutletState::Free,
            written: None,
        });
        Self {
            transport: Arc::default(),
            socket: Arc::clone(socket),
            outlet,
            unanswered: false,
            rest: Rest::default(),
            in_turn: false,
        }
    }

    /// Whether the link writes to the socket, beside the connector.
    pub(super) fn writes(&self) -> bool {
        self.outlet.is_some()
    }

    /// The connector has received bytes.
    pub(super) fn note_received(&mut self) {
        self.unanswered = true;
    }

    /// Lua has handled what was received. If nothing was written in answer, TCP acknowledges by itself.
    pub(super) fn acknowledge(&mut self) {
        if mem::take(&mut self.unanswered) {
            acknowledge(SockRef::from(&self.socket));
        }
    }

    /// Whether the connector has to send: its `send` waits, and tells of failures.
    pub(super) fn needs_connector(&self) -> bool {
        self.outlet
            .as_ref()
            .is_some_and(|outlet| outlet.state != OutletState::Free)
    }

    /// Whether the connector has taken bytes that it has not sent yet, as far as this is known.
    pub(super) fn is_connector_sending(&self) -> bool {
        self.outlet
            .as_ref()
            .is_some_and(|outlet| outlet.state == OutletState::Lent)
    }

    /// The connector has taken bytes, or has sent all that it has taken.
    pub(super) fn set_connector_sending(&mut self, sends: bool) {
        if let Some(outlet) = &mut self.outlet {
            outlet.state = match sends {
                true => OutletState::Lent,
                false => OutletState::Free,
            };
        }
    }

    /// Whether so many bytes are to be written at once, rather than together with later bytes.
    pub(super) fn is_due(&self, bytes: usize, now: Instant) -> bool {
        self.outlet.as_ref().is_some_and(|outlet| {
            let is_over = |written| now.saturating_duration_since(written) >= GATHERING;
            outlet.state == OutletState::Free
                && (bytes >= MUCH || !self.in_turn && outlet.written.is_none_or(is_over))
        })
    }

    /// Whether the task is to write bytes that are left.
    pub(super) fn is_for_task(&self) -> bool {
        self.outlet
            .as_ref()
            .is_some_and(|outlet| matches!(outlet.state, OutletState::Free | OutletState::Blocked))
    }

    /// Writes as many bytes as the socket takes, without waiting. Takes them off the front, and returns their number.
    pub(super) fn write(&mut self, bytes: &mut BytesMut) -> usize {
        let Some(outlet) = &mut self.outlet else {
            return 0;
        };
        if !matches!(outlet.state, OutletState::Free | OutletState::Blocked) {
            return 0;
        }
        outlet.state = OutletState::Free;
        let mut written = 0;
        while !bytes.is_empty() && outlet.state == OutletState::Free {
            match SockRef::from(&self.socket).send_with_flags(bytes, DONT_WAIT | SIGNAL_FREE) {
                Ok(sent) => {
                    bytes.advance(sent);
                    written += sent;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    outlet.state = OutletState::Blocked;
                }
                Err(_) => outlet.state = OutletState::Failed,
            }
        }
        if written > 0 {
            // A write takes long enough to count.
            outlet.written = Some(super::now());
            self.unanswered = false;
        }
        written
    }

    /// Writes the last bytes of the connection, as far as the socket takes them. The task writes the rest.
    pub(super) fn finish(&mut self, mut rest: Rest) {
        self.write(&mut rest.bytes);
        self.rest = rest;
    }

    /// Returns the task's mailbox, and the bytes that the task is to write.
    pub(super) fn into_rest(self) -> (Arc<Transport>, Rest) {
        (self.transport, self.rest)
    }
}

/// Holds a socket until the link lets go of it. Then it ends the connection as [`super::connection`] does: closing a
/// socket while received data is unread would reset the connection, and could destroy bytes that the peer has not read
/// yet.
pub(super) async fn run(
    hub: Arc<Hub>,
    link: Weak<Link>,
    transport: Arc<Transport>,
    socket: Arc<OwnedSocket>,
    alive: TaskCount,
) {
    let _alive = alive;
    let mut room = None;
    let ending = poll_fn(|cx| {
        transport.begin_look(cx.waker());
        if let Some(ending) = transport.take_ending() {
            return Poll::Ready(ending);
        }
        let is_blocked = || {
            let link = link.upgrade();
            link.is_some_and(|link| link.write_for_task(&transport))
        };
        if !is_blocked() {
            room = None;
        } else if room.is_none() {
            // An error leaves the bytes to the connector.
            room = watched(&socket).ok();
        }
        while let Some(stream) = &room
            && matches!(stream.poll_write_ready(cx), Poll::Ready(Ok(())))
        {
            let write = || match is_blocked() {
                true => Err(ErrorKind::WouldBlock.into()),
                false => Ok(()),
            };
            if stream.try_io(Interest::WRITABLE, write).is_ok() {
                room = None;
            }
        }
        Poll::Pending
    })
    .await;
    drop(room);
    let (rest, _parting) = match ending {
        Ending::Flush(rest, parting) => (rest, Some(parting)),
        Ending::Drop | Ending::Leave(..) => (Rest::default(), None),
    };
    // An error means that the connection is over too.
    let _ = end(&hub, &socket, rest).await;
    transport.leave();
    hub.tell_of_parting();
}

/// A second descriptor of a socket, which the runtime watches.
fn watched(socket: &OwnedSocket) -> io::Result<TcpStream> {
    let socket = std::net::TcpStream::from(socket.try_clone()?);
    socket.set_nonblocking(true)?;
    TcpStream::from_std(socket)
}

/// Writes the last bytes, and ends our half of the connection. Then reads until the peer ends its half. Gives up a peer
/// that lets it make no progress.
async fn end(hub: &Hub, socket: &OwnedSocket, rest: Rest) -> io::Result<()> {
    let mut stream = watched(socket)?;
    let mut bytes = rest.bytes;
    if let Some(gated) = rest.gated {
        let synced = Box::pin(synced(gated)).await;
        bytes.unsplit(synced.unwrap_or_default());
    }
    while !bytes.is_empty() {
        let written = timeout(CLOSING_TIME, stream.write(&bytes)).await??;
        bytes.advance(written);
        hub.note_progress();
    }
    stream.shutdown().await?;
    let read = async {
        let mut buffer = vec![0; READ];
        while stream.read(&mut buffer).await? > 0 {}
        io::Result::Ok(())
    };
    // A peer that takes too long loses its chance.
    let _ = timeout(CLOSING_TIME, read).await;
    // A thread that still waits for the socket finds it closed.
    SockRef::from(&stream).shutdown(Shutdown::Both)
}
