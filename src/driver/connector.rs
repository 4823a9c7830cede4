//! A link without a task. A connector in Lua moves the bytes, and reports them to the session here.

use bytes::BytesMut;

use super::{Link, now};
use crate::session::State;

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

    /// The bytes that the connector is to send now.
    pub fn take(&self) -> BytesMut {
        self.with_session(|session| {
            let bytes = session.take();
            if !bytes.is_empty() {
                session.transmitted(bytes.len(), now());
            }
            bytes
        })
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
