//! The task that owns a connection. It opens the connection, moves bytes between it and the session, and ends it.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;

use super::alarms::Alarm;
use super::exchange::{Ended, Exchange};
use super::hub::TaskCount;
use super::link::Link;
use super::transport::{Ending, Rest, Transport};
use super::turns::Turn;
use super::{CLOSING_TIME, Driver, LONGEST_CLOSING, now};
use crate::net::{self, OpenError, Stream, Target};
use crate::session::{Gated, Session};

/// The size of a connection's first read, in bytes. A read that fills its buffer doubles the next one, up to the
/// largest.
const FIRST_READ: usize = 2 << 10;
const LARGEST_READ: usize = 64 << 10;

/// How long the next connection waits for the peer to end this one once all bytes have been written.
const PREVIOUS_TIME: Duration = Duration::from_millis(500);

impl Link {
    /// Starts to open a connection and returns at once. [`LinkEvent::Opened`](super::LinkEvent::Opened) or
    /// [`LinkEvent::OpenFailed`](super::LinkEvent::OpenFailed) follows within `timeout`, which begins with the
    /// connection's turn among hundreds. A connection still open is [closed](Self::close). The new one begins when the
    /// server has taken the accepted packets of the old one.
    pub fn open(self: &Arc<Self>, driver: &Driver, target: Target, timeout: Duration) {
        self.open_by(
            driver,
            timeout,
            async move { net::open(&target, timeout).await },
        );
    }

    /// Does the same with a future that opens the stream.
    pub(super) fn open_by(
        self: &Arc<Self>,
        driver: &Driver,
        timeout: Duration,
        opening: impl Future<Output = Result<Stream, OpenError>> + Send + 'static,
    ) {
        let (transport, previous) = self.renew();
        let way = Box::new(Way {
            opening: Box::pin(opening),
            previous,
        });
        let link = Arc::clone(self);
        driver.spawn(|alive| run(link, transport, way, timeout, alive));
    }
}

/// The way to open a connection.
struct Way {
    opening: Pin<Box<dyn Future<Output = Result<Stream, OpenError>> + Send>>,
    /// The link's previous connection, for whose end the new one waits.
    previous: Option<Arc<Transport>>,
}

/// The whole life of a connection. It begins when the link's previous connection is over, if the way names one.
///
/// There may be tens of thousands of these tasks. State needed only at the beginning or at the end is boxed.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn holds each argument twice"
)]
fn run(
    link: Arc<Link>,
    transport: Arc<Transport>,
    way: Box<Way>,
    timeout: Duration,
    alive: TaskCount,
) -> impl Future<Output = ()> + Send {
    async move {
        let _alive = &alive;
        let (link, transport) = (&link, &transport);
        let _leaving = Leaving { link, transport };
        let Some(mut connection) = Box::pin(open(link, transport, way, timeout)).await else {
            return;
        };
        let ending = poll_fn(|cx| connection.poll_attached(cx)).await;
        #[cfg(target_os = "linux")]
        link.unwatch(&connection.stream);
        if !matches!(ending, Ending::Drop) {
            Box::pin(connection.close(ending)).await;
        }
    }
}

/// Opens the connection when its turn has come, and tells the link. Returns `None` if opening fails or the link lets go
/// of the connection before.
async fn open<'a>(
    link: &'a Link,
    transport: &'a Arc<Transport>,
    way: Box<Way>,
    timeout: Duration,
) -> Option<Connection<'a>> {
    let Way {
        mut opening,
        previous,
    } = *way;
    if let Some(previous) = previous {
        let news = &link.hub().partings_news;
        let over = async {
            until(news, || previous.is_flushed()).await;
            // An error says that the time is over.
            let _ = tokio::time::timeout(PREVIOUS_TIME, until(news, || previous.is_gone())).await;
        };
        // The caller waits for the previous connection no longer than opening may take.
        let _ = unless_ended(transport, tokio::time::timeout(timeout, over)).await?;
    }
    let mut turn = Some(unless_ended(transport, link.hub().turns.next()).await?);
    let mut alarm = Alarm::new(&link.hub().alarms, transport);
    let opened = poll_fn(|cx| {
        let now = now();
        alarm.set(Turn::limit(&mut turn, now), now);
        opening.as_mut().poll(cx)
    });
    let opened = unless_ended(transport, opened).await?;
    Some(Connection {
        link,
        transport,
        stream: link.set_opened(transport, opened, now())?,
        io: Exchange::default(),
        read_size: FIRST_READ,
        alarm,
        turn,
        flushing: false,
        write_error: None,
        over: false,
    })
}

/// Waits until `is_so`. `news` tells when to ask.
async fn until(news: &Notify, is_so: impl Fn() -> bool) {
    loop {
        let mut next = pin!(news.notified());
        next.as_mut().enable();
        if is_so() {
            return;
        }
        next.await;
    }
}

/// Syncs the store for the last bytes of a connection. Returns the bytes, unless that fails or takes too long.
pub(super) async fn synced(gated: Box<Gated>) -> Option<BytesMut> {
    let Gated { bytes, sync } = *gated;
    match tokio::time::timeout(CLOSING_TIME, spawn_blocking(sync)).await {
        Ok(Ok(Ok(_))) => Some(bytes),
        _ => None,
    }
}

/// The result of a future, or `None` if the link lets go of the connection before. The ending it asks for does not
/// matter: nothing has been sent yet.
async fn unless_ended<T>(transport: &Transport, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        transport.begin_look(cx.waker());
        if transport.take_ending().is_some() {
            return Poll::Ready(None);
        }
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

/// Tells the link that the task is gone, however it ended.
struct Leaving<'a> {
    link: &'a Link,
    transport: &'a Arc<Transport>,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.link.task_failed(self.transport);
        }
        self.transport.leave();
        self.link.hub().tell_of_parting();
    }
}

struct Connection<'a> {
    link: &'a Link,
    transport: &'a Arc<Transport>,
    stream: Stream,
    io: Exchange,
    read_size: usize,
    alarm: Alarm<'a>,
    /// The turn to open, kept until the server has sent bytes.
    turn: Option<Turn>,
    /// The stream holds back bytes that it has still to write.
    flushing: bool,
    /// Writing failed. Bytes that the peer sent before are still read.
    write_error: Option<io::Error>,
    /// The end is in `io` for the next exchange, which is the last.
    over: bool,
}

impl Connection<'_> {
    /// Serves the session until the link lets go of this connection or it ends by itself. Returns the work that is
    /// left.
    fn poll_attached(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        self.transport.begin_look(cx.waker());
        loop {
            let now = now();
            let Some(instruction) = self.link.exchange(self.transport, &mut self.io, now) else {
                return Poll::Ready(self.transport.take_ending().unwrap_or(Ending::Drop));
            };
            if self.over {
                return Poll::Ready(Ending::Drop);
            }
            #[cfg(target_os = "linux")]
            if instruction.watch {
                self.link.watch(self.transport, &self.stream);
            }
            let wrote = self.write(cx);
            if instruction.finish && !self.has_output() {
                let parting = self.link.hub().count_parting();
                return Poll::Ready(Ending::Flush(Rest::default(), parting));
            }
            let read =
                instruction.read && !instruction.finish && self.read(instruction.missing, cx);
            if !read && let Some(error) = self.write_error.take() {
                self.end(error.into());
            }
            // Bytes written of a longer output are reported too: they show that the connection takes bytes.
            let took_some = self.io.written > 0;
            if !(wrote || took_some || read || self.over) {
                let end_of_turn = Turn::limit(&mut self.turn, now);
                let deadline = instruction.deadline.into_iter().chain(end_of_turn).min();
                self.alarm.set(deadline, now);
                return Poll::Pending;
            }
        }
    }

    /// Writes the rest, and all that the link's last session has still to send. Then ends the stream, and reads until
    /// the peer ends it too. Closing a socket while received data is unread would reset the connection, and could
    /// destroy bytes that the peer has not read yet. Gives up a peer that lets it make no progress.
    async fn close(&mut self, ending: Ending) {
        let (session, _parting) = match ending {
            Ending::Drop => return,
            Ending::Flush(rest, parting) => {
                self.io.output.unsplit(rest.bytes);
                if let Some(gated) = rest.gated {
                    // Boxed: it is rare, and each task would be larger.
                    let bytes = Box::pin(synced(gated)).await;
                    self.io.output.unsplit(bytes.unwrap_or_default());
                }
                (None, parting)
            }
            Ending::Leave(session, parting) => (Some(session), parting),
        };
        let latest = now() + LONGEST_CLOSING;
        let mut rest = Work {
            session,
            stored: 0,
            progress: now(),
        };
        // The rest of a large message is a copy by now, in `rest`.
        self.io.large = false;
        loop {
            let patience = (rest.progress + CLOSING_TIME).min(latest);
            let written = poll_fn(|cx| self.poll_rest(&mut rest, cx));
            match tokio::time::timeout_at(patience.into(), written).await {
                Ok(()) => break,
                Err(_) if patience == latest => return,
                Err(_) if rest.progress + CLOSING_TIME > patience => {}
                Err(_) => match rest.session.take() {
                    Some(mut session) => {
                        session.send_unanswered();
                        self.io.output.unsplit(session.take());
                        rest.progress = now();
                        self.link.hub().note_progress();
                    }
                    None => return,
                },
            }
        }
        self.link.hub().note_progress();
        let ended = poll_fn(|cx| self.poll_end(cx));
        // A peer that takes too long loses its chance.
        let _ = tokio::time::timeout(CLOSING_TIME, ended).await;
    }

    /// Writes the rest, and reads. The rest may wait for answers, and a peer that cannot write might not read.
    fn poll_rest(&mut self, rest: &mut Work, cx: &mut Context<'_>) -> Poll<()> {
        self.transport.begin_look(cx.waker());
        loop {
            let now = now();
            let was_over = self.over;
            if was_over && let Some(mut session) = rest.session.take() {
                // No answer will come.
                session.receive(&mut self.io.input, now);
                session.send_unanswered();
                self.io.output.unsplit(session.take());
            }
            let (mut owes, mut reads, mut missing) = (false, !was_over, 0);
            if let Some(session) = &mut rest.session {
                session.receive(&mut self.io.input, now);
                session.drop_events();
                if self.io.output.is_empty() {
                    self.io.output = session.take();
                }
                let stored = session.stored_bytes();
                if stored != std::mem::replace(&mut rest.stored, stored) {
                    rest.progress = now;
                }
                owes = session.owes();
                reads &= session.wants_receive();
                missing = session.missing(&self.io.input);
            } else {
                self.io.input.clear();
            }
            self.io.written = 0;
            let wrote = self.write(cx);
            if self.io.written > 0 {
                rest.progress = now;
            }
            if rest.progress == now {
                self.link.hub().note_progress();
            }
            if self.write_error.is_some() || !(owes || self.has_output()) {
                return Poll::Ready(());
            }
            let read = reads && self.read(missing, cx);
            if !(wrote || read || self.over != was_over) {
                return Poll::Pending;
            }
        }
    }

    /// Ends the stream, and reads until the peer ends it too.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.transport.begin_look(cx.waker());
        let ended = ready!(Pin::new(&mut self.stream).poll_shutdown(cx));
        self.transport.set_flushed();
        self.link.hub().tell_of_parting();
        if ended.is_err() || self.write_error.is_some() {
            return Poll::Ready(());
        }
        while !self.over {
            self.io.input.clear();
            if !self.read(0, cx) && !self.over {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    /// Writes as much of the output as the stream takes. Returns whether it took all, so that there may be more.
    fn write(&mut self, cx: &mut Context<'_>) -> bool {
        if self.write_error.is_some() {
            return false;
        }
        if !self.has_output() {
            if self.flushing {
                self.flush(cx);
            }
            return false;
        }
        while self.has_output() {
            let Exchange { output, large, .. } = &mut self.io;
            let written = match large {
                true => self.link.poll_write_large(&mut self.stream, output, cx),
                false => Pin::new(&mut self.stream).poll_write(cx, output),
            };
            match written {
                Poll::Ready(Ok(written)) => {
                    output.advance(written.min(output.len()));
                    self.io.written += written;
                }
                Poll::Ready(Err(error)) => {
                    output.clear();
                    *large = false;
                    self.write_error = Some(error);
                    return false;
                }
                Poll::Pending => return false,
            }
        }
        self.flush(cx);
        true
    }

    /// Whether there are bytes to write.
    fn has_output(&mut self) -> bool {
        self.io.large = self.io.large && self.link.has_large();
        self.io.large || !self.io.output.is_empty()
    }

    /// Lets TLS and WebSocket write the bytes that they hold back, as soon as the socket takes them.
    fn flush(&mut self, cx: &mut Context<'_>) {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.flushing = flushed.is_pending();
        if let Poll::Ready(Err(error)) = flushed {
            self.write_error = Some(error);
        }
    }

    /// Reads as many bytes as there is room for: TLS gives them in pieces. Returns whether any came.
    fn read(&mut self, missing: usize, cx: &mut Context<'_>) -> bool {
        let input = &mut self.io.input;
        let before = input.len();
        // Room for the rest of a large packet, and no more. But the packet has to arrive in part first.
        input.reserve(self.read_size.max(missing.min(before)));
        loop {
            match pin!(self.stream.read_buf(input)).poll(cx) {
                Poll::Ready(Ok(0)) => self.end(Ended::Closed),
                Poll::Ready(Ok(_)) if input.len() < input.capacity() => continue,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => self.end(error.into()),
                Poll::Pending if input.is_empty() => {
                    // An idle connection keeps no buffer.
                    *input = BytesMut::new();
                    self.read_size = FIRST_READ;
                }
                Poll::Pending => {}
            }
            break;
        }
        let size = self.io.input.len() - before;
        if size > 0 {
            self.turn = None;
        }
        if size >= self.read_size {
            self.read_size = (self.read_size * 2).min(LARGEST_READ);
        }
        size > 0
    }

    fn end(&mut self, ended: Ended) {
        self.io.ended = Some(ended);
        self.over = true;
    }
}

/// The remaining work of a connection that is being closed, see [`Connection::close`].
struct Work {
    /// The session with packets to send, if the link has no further use for it.
    session: Option<Box<Session>>,
    /// The bytes that wait in the session to be sent or answered.
    stored: usize,
    /// When there was progress last.
    progress: Instant,
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::codec::Version;
    use crate::driver::Driver;
    use crate::net::Socket;
    use crate::session::{Session, Settings};

    #[test]
    fn a_stream_that_takes_nothing_has_failed() {
        let driver = Driver::new(|| {}).unwrap();
        let link = Link::new(&driver, Session::new(Version::V311, Settings::default()));
        let transport = Arc::default();
        let mut connection = Connection {
            link: &link,
            transport: &transport,
            stream: Stream::Plain(Socket::that_takes_nothing()),
            io: Exchange::default(),
            read_size: FIRST_READ,
            alarm: Alarm::new(&link.hub().alarms, &transport),
            turn: None,
            flushing: false,
            write_error: None,
            over: false,
        };
        connection.io.output.extend_from_slice(b"x");
        assert!(!connection.write(&mut Context::from_waker(Waker::noop())));
        assert!(!connection.has_output());
        let ended = Ended::from(connection.write_error.unwrap());
        assert!(matches!(ended, Ended::Broken(_)));
        assert_eq!(ended.to_string(), "the connection takes nothing");
    }
}
