//! A link without a task. A connector in Lua moves the bytes, and reports them to the session here.

use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;

use super::held::Held;
use super::link::LinkState;
use super::transport::{Rest, Transport};
use super::{Link, now};
use crate::session::{Parted, Session, State};

impl Link {
    /// The connector has opened its connection.
    pub fn attach(&self) {
        self.begin_anew();
        self.with_session(|session| session.open(now()));
    }

    /// Takes bytes that the connector has received, in any portions. Returns the least number of bytes that the packet at
    /// their end lacks; 0 if they end with a whole packet.
    pub fn feed(&self, received: &[u8]) -> usize {
        let mut state = self.lock();
        let mut input = state.input.take().unwrap_or_default();
        input.extend_from_slice(received);
        state.session.receive(&mut input, now());
        // An idle connection keeps no buffer.
        state.input = (!input.is_empty()).then_some(input);
        // Lua takes the events next.
        state.set_in_turn(true);
        if let Some(held) = &mut state.held {
            held.note_received();
        }
        self.see_to_transmit(&mut state);
        match &state.input {
            None => 0,
            Some(input) => state.session.missing(input).max(1),
        }
    }

    /// Forgets the bytes of an incomplete packet.
    pub fn begin_anew(&self) {
        self.lock().input = None;
    }

    /// The connector has so many bytes of a packet that is not whole.
    pub fn arriving(&self, bytes: usize) {
        self.with_session(|session| session.arriving(bytes, now()));
    }

    /// Writes the bytes to be sent to the connector's socket, if that may be done here. Returns whether nothing is left
    /// that the connector is to [take](Self::take), or is sending.
    pub fn write(&self) -> bool {
        let mut state = self.lock();
        state.session.fill();
        state.write_held(now());
        state.session.transmit().is_empty() && !state.is_connector_sending()
    }

    /// Has the bytes written to the connector's socket that the session's transmit buffer has got: at the end of Lua's turn,
    /// or at once, or in a burst together with later bytes. In any case whoever drives the runtime next writes them.
    pub(super) fn see_to_held(&self, state: &mut LinkState) {
        let time = now();
        let bytes = state.session.transmit().len();
        if state
            .held
            .as_deref()
            .is_some_and(|held| held.is_due(bytes, time))
        {
            state.write_held(time);
        }
        if let Some(held) = &state.held
            && held.is_for_task()
            && !state.session.transmit().is_empty()
        {
            self.hub().mark_dirty(&held.transport);
        }
    }

    /// Writes for the task that holds the connector's socket. Returns whether bytes are left that wait for the socket.
    pub(super) fn write_for_task(&self, transport: &Arc<Transport>) -> bool {
        let mut state = self.lock();
        let is_own = |held: &Held| Arc::ptr_eq(&held.transport, transport);
        if !state.held.as_deref().is_some_and(is_own) {
            return false;
        }
        state.session.fill();
        state.write_held(now());
        !state.session.transmit().is_empty() && state.held.as_deref().is_some_and(Held::is_for_task)
    }

    /// The bytes that the connector is to send now. The connector has sent all bytes that it has taken before.
    pub fn take(&self) -> BytesMut {
        let mut state = self.lock();
        let bytes = state.session.take();
        if !bytes.is_empty() {
            state.session.transmitted(bytes.len(), now());
        }
        state.set_connector_sending(!bytes.is_empty());
        bytes
    }

    /// Does the work of keep alive that is due.
    pub fn handle_timeout(&self) {
        self.with_session(|session| session.handle_timeout(now()));
    }

    /// Whether the session has given the connection up.
    pub fn is_failed(&self) -> bool {
        self.look(|session| session.state() == State::Disconnected)
    }
}

/// Where a link has no socket of a connector, or must not write to it, these functions do nothing.
impl LinkState {
    /// Writes what the session's transmit buffer holds to the connector's socket, as far as the socket takes it.
    fn write_held(&mut self, now: Instant) {
        if let Some(held) = &mut self.held {
            let written = held.write(self.session.fill());
            if written > 0 {
                self.session.transmitted(written, now);
            }
        }
    }

    /// Writes the last bytes of a connector's connection, which `part` gives. Where the link must not write, the connector
    /// has taken all bytes.
    pub(super) fn finish_held(&mut self, part: impl FnOnce(&mut Session) -> Parted) {
        if let Some(held) = self.held.as_mut().filter(|held| held.is_for_task()) {
            let rest = match part(&mut self.session) {
                Parted::Nothing => BytesMut::new(),
                Parted::Rest(rest) => rest,
                Parted::Session(mut session) => {
                    // Nobody will read the answers that the session waits for.
                    session.send_unanswered();
                    session.take()
                }
            };
            let gated = self.session.take_gated();
            held.finish(Rest { bytes: rest, gated });
        }
    }

    /// Lua has taken an event, or is about to, or has seen that there is none.
    pub(super) fn set_in_turn(&mut self, in_turn: bool) {
        if let Some(held) = &mut self.held {
            held.in_turn = in_turn;
        }
    }

    /// Lua has handled everything that the connector has received. Has TCP acknowledge it if there is nothing to send.
    pub(super) fn acknowledge_held(&mut self) {
        if let Some(held) = &mut self.held
            && self.session.transmit().is_empty()
        {
            held.acknowledge();
        }
    }

    /// Whether the connector has to send before the program sends more.
    pub(super) fn needs_connector(&self) -> bool {
        self.held.as_deref().is_some_and(Held::needs_connector)
    }

    fn is_connector_sending(&self) -> bool {
        self.held.as_deref().is_some_and(Held::is_connector_sending)
    }

    fn set_connector_sending(&mut self, sends: bool) {
        if let Some(held) = &mut self.held {
            held.set_connector_sending(sends);
        }
    }
}
