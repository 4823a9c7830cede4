//! How a link takes messages, small ones as a copy and large ones on loan.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::{Link, LinkState};
use crate::codec::PublishRef;
use crate::driver::Driver;
use crate::session::{RequestError, State};

/// A message that was accepted.
#[derive(Debug)]
pub struct Published {
    /// Its packet identifier, 0 for QoS 0.
    pub packet_id: u16,
    /// Whether the program should wait before it sends more, see [`Link::is_full`].
    pub full: bool,
    /// Packet identifiers of the messages that had to make room for it.
    pub dropped: Vec<u16>,
}

/// Why a message was not accepted.
#[derive(Debug)]
pub enum PublishError {
    /// The session refuses it.
    Refused(RequestError),
    /// The link holds so much already that it takes no more.
    TooMuch {
        /// Bytes that wait to be written or acknowledged.
        waiting: usize,
    },
}

impl From<RequestError> for PublishError {
    fn from(error: RequestError) -> Self {
        Self::Refused(error)
    }
}

impl Link {
    /// Publishes.
    ///
    /// # Errors
    /// Those of [`Session::publish`](crate::session::Session::publish), and that too much waits already.
    pub fn publish(&self, message: &PublishRef<'_>) -> Result<Published, PublishError> {
        self.publish_in(&mut self.lock(), message)
    }

    /// Publishes, if there is a connection and the message is accepted; then no other has to make room for it.
    pub fn publish_connected(&self, message: &PublishRef<'_>) -> Option<Published> {
        let mut state = self.lock();
        (state.session.state() == State::Connected)
            .then(|| self.publish_in(&mut state, message).ok())
            .flatten()
    }

    fn publish_in(
        &self,
        state: &mut LinkState,
        message: &PublishRef<'_>,
    ) -> Result<Published, PublishError> {
        // What the queue for no connection takes is the session's to say.
        if state.session.state() != State::Disconnected {
            let waiting = state.outgoing_bytes();
            if waiting >= state.session.settings().max_outgoing_bytes {
                return Err(PublishError::TooMuch { waiting });
            }
        }
        let packet_id = state.session.publish(message)?;
        self.see_to_transmit(state);
        Ok(Published {
            packet_id,
            full: state.is_full(),
            dropped: state.session.take_dropped(),
        })
    }

    /// As [`publish`](Self::publish), for a large message: its payload is written from where it lies, as much as the
    /// connection takes within `patience`; the rest is copied. Drives the runtime, for a turn at least. Nothing refers to
    /// `payload` any more when this returns.
    ///
    /// # Errors
    /// Those of [`publish`](Self::publish).
    pub fn publish_large(
        &self,
        driver: &Driver,
        message: &PublishRef<'_>,
        payload: Bytes,
        patience: Duration,
    ) -> Result<Published, PublishError> {
        let begun = {
            // Also if a task panics.
            let _end = EndOfLarge(self);
            driver.drive(async {
                // Nobody else drives: what is begun here is what comes next.
                let begun = self.begin_large(message, payload);
                if begun {
                    self.hub.wake_dirty();
                    tokio::task::yield_now().await;
                }
                if self.waits_for_large() {
                    // The first turn has shown whether the socket takes more, this one writes.
                    tokio::task::yield_now().await;
                }
                // An error says that the time is over.
                let _ = timeout(patience, async {
                    while self.waits_for_large() {
                        self.hub.news.notified().await;
                    }
                })
                .await;
                begun
            })
        };
        if !begun {
            return self.publish(message);
        }
        Ok(Published {
            packet_id: 0,
            full: self.is_full(),
            dropped: Vec::new(),
        })
    }

    fn begin_large(&self, message: &PublishRef<'_>, payload: Bytes) -> bool {
        let mut state = self.lock();
        let much = state.session.settings().max_outgoing_bytes;
        let begun =
            state.is_up() && state.outgoing_bytes() < much && state.session.publish_head(message);
        if begun {
            let head = state.session.take();
            state.large.lend(head, payload);
            self.mark_dirty(&state);
        }
        begun
    }

    /// What has not been written of a large message is copied.
    fn end_large(&self) {
        let mut state = self.lock();
        if state.copy_large() {
            self.see_to_transmit(&mut state);
        }
    }

    /// Whether there is a large message that will be written, as far as one can know.
    fn waits_for_large(&self) -> bool {
        let state = self.lock();
        state.large.is_lent() && !state.has_ended() && !state.session.is_slow()
    }
}

/// Ends [`Link::publish_large`].
struct EndOfLarge<'a>(&'a Link);

impl Drop for EndOfLarge<'_> {
    fn drop(&mut self) {
        self.0.end_large();
    }
}
