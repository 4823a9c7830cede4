//! A link without a task: a connector in Lua moves the bytes, and tells the session of them here.

use std::time::Instant;

use bytes::BytesMut;

use super::Link;
use crate::session::State;

impl Link {
    /// The connector has opened its connection.
    pub fn attach(&self) {
        self.with_session(|session| session.open(Instant::now()));
    }

    /// Takes what the connector has received, as far as there are whole packets.
    pub fn feed(&self, received: &mut BytesMut) {
        self.with_session(|session| session.receive(received, Instant::now()));
    }

    /// The connector has so many bytes of a packet that is not whole.
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
