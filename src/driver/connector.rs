//! A link without a task. A connector in Lua moves the bytes, and reports them to the session here.

use std::time::Instant;

use bytes::BytesMut;

use super::Link;
use crate::session::State;

/// The least size of a packet, in bytes (2.1.1).
const SHORTEST_PACKET: usize = 2;

impl Link {
    /// The connector has opened its connection.
    pub fn attach(&self) {
        self.begin_anew();
        self.with_session(|session| session.open(Instant::now()));
    }

    /// Takes bytes that the connector has received, in any portions. Returns whether they end with a whole packet.
    pub fn feed(&self, received: &[u8]) -> bool {
        let mut state = self.lock();
        let mut input = state.input.take().unwrap_or_default();
        input.extend_from_slice(received);
        state.session.receive(&mut input, Instant::now());
        // An idle connection keeps no buffer.
        state.input = (!input.is_empty()).then_some(input);
        self.see_to_transmit(&mut state);
        state.input.is_none()
    }

    /// Forgets the bytes of a packet that is not whole.
    pub fn begin_anew(&self) {
        self.lock().input = None;
    }

    /// The least number of bytes still to come: the bytes that the arriving packet lacks, as far as its header tells.
    pub fn missing(&self) -> usize {
        let state = self.lock();
        let Some(input) = &state.input else {
            return SHORTEST_PACKET;
        };
        match state.session.missing(input) {
            0 => SHORTEST_PACKET.saturating_sub(input.len()).max(1),
            missing => missing,
        }
    }

    /// The connector has received `bytes` bytes of a packet that is not whole.
    pub fn arriving(&self, bytes: usize) {
        self.with_session(|session| session.arriving(bytes, Instant::now()));
    }

    /// The bytes that the connector is to send now.
    pub fn take(&self) -> BytesMut {
        self.with_session(|session| {
            let bytes = session.take();
            if !bytes.is_empty() {
                session.transmitted(bytes.len(), Instant::now());
            }
            bytes
        })
    }

    /// Does the work of keep alive that is due.
    pub fn handle_timeout(&self) {
        self.with_session(|session| session.handle_timeout(Instant::now()));
    }

    /// Whether the session has given the connection up.
    pub fn is_failed(&self) -> bool {
        self.look(|session| session.state() == State::Disconnected)
    }
}
