//! The task that owns a connection: it opens it, moves bytes between it and the session, and ends it.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::time::{Sleep, sleep_until};

use super::CLOSING_TIME;
use super::link::{Exchange, Link, LinkEvent};
use super::transport::{Ending, Transport};
use crate::net::{self, Stream, Target};

/// Size of a connection's first read; a read that fills its buffer doubles the next one, up to the largest.
const FIRST_READ: usize = 2 << 10;
const LARGEST_READ: usize = 64 << 10;

/// The whole life of a connection.
pub(super) async fn run(
    link: Arc<Link>,
    transport: Arc<Transport>,
    target: Target,
    timeout: Duration,
) {
    let _leaving = Leaving {
        link: &link,
        transport: &transport,
    };
    let mut opening = pin!(net::open(&target, timeout));
    let opened = poll_fn(|cx| {
        transport.begin_look(cx.waker());
        // Nothing has been sent yet, so it does not matter how this is to end.
        if transport.take_ending().is_some() {
            return Poll::Ready(None);
        }
        opening.as_mut().poll(cx).map(Some)
    })
    .await;
    let Some(opened) = opened else { return };
    let Some(stream) = link.set_opened(&transport, opened, Instant::now()) else {
        return;
    };
    let mut connection = Connection {
        link: &link,
        transport: &transport,
        stream,
        io: Exchange::default(),
        read_size: FIRST_READ,
        sleep: None,
        flushing: false,
        write_error: None,
        over: false,
    };
    if let Ending::Flush(rest) = poll_fn(|cx| connection.poll_attached(cx)).await {
        connection.io.output.unsplit(rest);
        // Too late is too late, and if the peer has gone there is nobody to flush for.
        let _ = tokio::time::timeout(CLOSING_TIME, poll_fn(|cx| connection.poll_closing(cx))).await;
    }
}

/// Tells the other side of the mailbox that the task is gone, however it ended.
struct Leaving<'a> {
    link: &'a Link,
    transport: &'a Arc<Transport>,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.link.task_failed(self.transport);
        }
        if self.transport.leave() {
            self.link.hub().closing_ends();
        }
    }
}

struct Connection<'a> {
    link: &'a Link,
    transport: &'a Arc<Transport>,
    stream: Stream,
    io: Exchange,
    read_size: usize,
    sleep: Option<Pin<Box<Sleep>>>,
    /// The stream holds something back that it has still to write.
    flushing: bool,
    /// Writing failed; what the peer said before is still read.
    write_error: Option<io::Error>,
    /// The end is in `io` for the next exchange, which is the last.
    over: bool,
}

impl Connection<'_> {
    /// Serves the session until the link lets go of this connection or it ends by itself. Returns what is left to do.
    fn poll_attached(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        self.transport.begin_look(cx.waker());
        loop {
            let Some(instruction) =
                self.link
                    .exchange(self.transport, &mut self.io, Instant::now())
            else {
                return Poll::Ready(self.transport.take_ending().unwrap_or(Ending::Drop));
            };
            if self.over {
                return Poll::Ready(Ending::Drop);
            }
            let wrote = self.write(cx);
            if instruction.finish && self.io.output.is_empty() {
                return Poll::Ready(Ending::Flush(BytesMut::new()));
            }
            let read = instruction.read && !instruction.finish && self.read(cx);
            if !read && let Some(error) = self.write_error.take() {
                self.end(ended_by(&error));
            }
            let due = self.is_due(instruction.deadline, cx);
            if !(wrote || read || due || self.over) {
                return Poll::Pending;
            }
        }
    }

    /// Writes what is left, ends the stream, and reads until the peer does so too: closing a socket while received
    /// data is unread would reset the connection and could destroy what the peer has not read yet.
    fn poll_closing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.transport.begin_look(cx.waker());
        self.write(cx);
        if self.write_error.is_some() {
            return Poll::Ready(());
        }
        if !self.io.output.is_empty() {
            return Poll::Pending;
        }
        let ended = ready!(Pin::new(&mut self.stream).poll_shutdown(cx));
        self.transport.set_flushed();
        self.link.hub().news.notify_one();
        if ended.is_err() {
            return Poll::Ready(());
        }
        while !self.over {
            self.io.input.clear();
            if !self.read(cx) && !self.over {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    /// Writes as much of the output as the stream takes. Returns whether it took all of it, so that there may be more.
    fn write(&mut self, cx: &mut Context<'_>) -> bool {
        if self.write_error.is_some() {
            return false;
        }
        if self.io.output.is_empty() {
            if self.flushing {
                self.flush(cx);
            }
            return false;
        }
        while !self.io.output.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.io.output) {
                Poll::Ready(Ok(written)) => {
                    self.io.output.advance(written);
                    self.io.written += written;
                }
                Poll::Ready(Err(error)) => {
                    self.io.output.clear();
                    self.write_error = Some(error);
                    return false;
                }
                Poll::Pending => return false,
            }
        }
        self.flush(cx);
        true
    }

    /// What TLS or WebSocket hold back is written on as soon as the socket takes it.
    fn flush(&mut self, cx: &mut Context<'_>) {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.flushing = flushed.is_pending();
        if let Poll::Ready(Err(error)) = flushed {
            self.write_error = Some(error);
        }
    }

    /// Reads once. Returns whether something came.
    fn read(&mut self, cx: &mut Context<'_>) -> bool {
        let input = &mut self.io.input;
        input.reserve(self.read_size);
        let before = input.len();
        match pin!(self.stream.read_buf(input)).poll(cx) {
            Poll::Ready(Ok(0)) => self.end(LinkEvent::Closed),
            Poll::Ready(Ok(size)) => {
                if size >= self.read_size {
                    self.read_size = (self.read_size * 2).min(LARGEST_READ);
                }
                return true;
            }
            Poll::Ready(Err(error)) => self.end(ended_by(&error)),
            Poll::Pending if before == 0 => {
                // An idle connection keeps no buffer.
                *input = BytesMut::new();
                self.read_size = FIRST_READ;
            }
            Poll::Pending => {}
        }
        false
    }

    fn end(&mut self, event: LinkEvent) {
        self.io.ended = Some(event);
        self.over = true;
    }

    /// Sees to it that the task is woken at `deadline`, or earlier: keep alive moves its deadline with each packet, and
    /// a timer that fires too early is cheaper than one that is always moved. Returns whether it has fired.
    fn is_due(&mut self, deadline: Option<Instant>, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = deadline.map(Into::into) else {
            return false;
        };
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.is_elapsed() || deadline < sleep.deadline() {
            sleep.as_mut().reset(deadline);
        }
        sleep.as_mut().poll(cx).is_ready()
    }
}

/// A peer that resets the connection, or ends TLS without saying so, has closed it.
fn ended_by(error: &io::Error) -> LinkEvent {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    match error.kind() {
        BrokenPipe | ConnectionReset | UnexpectedEof => LinkEvent::Closed,
        _ => LinkEvent::Broken(error.to_string()),
    }
}
