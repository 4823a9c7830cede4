//! Serves the task of a connection, in whichever thread drives.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::BytesMut;

use super::Link;
use crate::driver::exchange::{Ended, Exchange, Instruction};
use crate::driver::hub::Hub;
use crate::driver::transport::Transport;
use crate::net::{OpenError, Stream};
use crate::session::State;

impl Link {
    /// Makes the descriptor of [`Link::fd`] readable whenever the connection is.
    #[cfg(target_os = "linux")]
    pub(in crate::driver) fn watch(&self, transport: &Arc<Transport>, stream: &Stream) {
        let mut state = self.lock();
        if state.is_attached(transport) {
            state.descriptor.watch(stream);
        }
    }

    /// Undoes [`Link::watch`] for a connection that has been let go of.
    #[cfg(target_os = "linux")]
    pub(in crate::driver) fn unwatch(&self, stream: &Stream) {
        self.lock().descriptor.unwatch(stream);
    }

    pub(in crate::driver) fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Tells Lua how opening ended. Returns `None` if there is no stream, or nobody waits for it any more.
    pub(in crate::driver) fn set_opened(
        &self,
        transport: &Arc<Transport>,
        opened: Result<Stream, OpenError>,
        now: Instant,
    ) -> Option<Stream> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let attached = state.attached.as_mut()?;
        if !attached.is_of(transport) {
            return None;
        }
        let (result, stream) = match opened {
            Ok(stream) => {
                state.session.open(now);
                attached.tls_version = stream.tls_version();
                (Ok(()), Some(stream))
            }
            Err(error) => (Err(error.into()), None),
        };
        attached.opened = Some(result);
        self.has_news(state);
        stream
    }

    /// The task has panicked. Without this news the user would wait in vain.
    pub(in crate::driver) fn task_failed(&self, transport: &Arc<Transport>) {
        let mut state = self.lock();
        if let Some(attached) = &mut state.attached
            && attached.is_of(transport)
        {
            attached.ended = Some(Ended::Panicked);
            self.has_news(&mut state);
        }
    }

    /// One exchange between a connection's task and the session. `input` is consumed as far as it holds whole packets.
    /// `output` is filled if it is empty. Returns `None` if the link has let go of this transport.
    pub(in crate::driver) fn exchange(
        &self,
        transport: &Arc<Transport>,
        io: &mut Exchange,
        now: Instant,
    ) -> Option<Instruction> {
        let mut state = self.lock();
        if !state.is_attached(transport) {
            return None;
        }
        let written = std::mem::take(&mut io.written);
        if written > 0 {
            state.session.transmitted(written, now);
        }
        if !io.input.is_empty() {
            state.session.receive(&mut io.input, now);
        }
        if state
            .session
            .poll_timeout()
            .is_some_and(|deadline| deadline <= now)
        {
            state.session.handle_timeout(now);
        }
        if io.output.is_empty() {
            // The old buffer would keep the memory of written bytes.
            io.output = BytesMut::new();
            if let Some(head) = state.large.take_head() {
                io.output = head;
                io.large = true;
            } else if !state.session.fill().is_empty() {
                io.output = state.session.take();
            }
            state.begin_sync();
        }
        if let Some(attached) = &mut state.attached
            && io.ended.is_some()
        {
            attached.ended = io.ended.take();
        }
        if state.exchanged(io.output.len()) {
            self.hub.news.notify_one();
        }
        if state.has_events() {
            self.has_news(&mut state);
        }
        let wants = state.session.wants_receive();
        Some(Instruction {
            deadline: state.session.poll_timeout(),
            read: state.flow.read(wants),
            missing: state.session.missing(&io.input),
            finish: state.session.state() == State::Disconnected
                && !state.session.waits_for_store(),
            #[cfg(target_os = "linux")]
            watch: state.descriptor.is_to_watch(),
        })
    }

    /// Writes the bytes `before`, and then the payload of a large message if it comes next.
    pub(in crate::driver) fn poll_write_large(
        &self,
        stream: &mut Stream,
        before: &[u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        let was_lent = state.large.is_lent();
        let written = ready!(state.large.poll_write(stream, before, cx))?;
        if was_lent && !state.large.is_lent() {
            self.hub.news.notify_one();
        }
        Poll::Ready(Ok(written))
    }

    /// Whether a large message is being written.
    pub(in crate::driver) fn has_large(&self) -> bool {
        self.lock().large.is_next()
    }
}
