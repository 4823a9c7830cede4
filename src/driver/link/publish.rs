//! Takes a link's messages: small ones as a copy, large ones on loan.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::{Link, LinkState};
use crate::codec::PublishRef;
use crate::driver::request::{Accepted, Lent, Refused};
use crate::session::{RequestError, State};

impl Link {
    /// Takes [`Request::Publish`](crate::driver::Request::Publish).
    pub(in crate::driver) fn publish(&self, message: &PublishRef<'_>) -> Result<Accepted, Refused> {
        self.publish_in(&mut self.lock(), message, None)
    }

    /// Takes [`Request::PublishWithin`](crate::driver::Request::PublishWithin).
    pub(in crate::driver) fn publish_within(
        &self,
        message: &PublishRef<'_>,
        time: Duration,
    ) -> Result<Accepted, Refused> {
        self.publish_in(&mut self.lock(), message, Some(time))
    }

    /// Takes [`Request::PublishConnected`](crate::driver::Request::PublishConnected).
    pub(in crate::driver) fn publish_connected(
        &self,
        message: &PublishRef<'_>,
    ) -> Result<Accepted, Refused> {
        let mut state = self.lock();
        let may = state.session.state() == State::Connected || state.session.store().is_some();
        match may && !state.session.gives_up() {
            true => self.publish_in(&mut state, message, None),
            false => Err(RequestError::NotConnected.into()),
        }
    }

    fn publish_in(
        &self,
        state: &mut LinkState,
        message: &PublishRef<'_>,
        expires_in: Option<Duration>,
    ) -> Result<Accepted, Refused> {
        // Without a connection, the session limits its queue itself.
        if state.session.state() != State::Disconnected {
            let waiting = state.outgoing_bytes();
            if waiting >= state.session.settings().max_outgoing_bytes {
                return Err(Refused::TooMuch { waiting });
            }
        }
        let packet_id = state.session.publish_within(message, expires_in)?;
        self.see_to_transmit(state);
        Ok(Accepted {
            packet_id,
            full: state.is_full() || state.needs_connector(),
            dropped: state.session.take_discarded(),
        })
    }

    /// Takes [`Request::PublishLarge`](crate::driver::Request::PublishLarge). The payload is written from where it
    /// lies, as far as the connection takes it in time. The rest is copied.
    pub(in crate::driver) fn publish_large(
        &self,
        message: &PublishRef<'_>,
        lent: Lent<'_>,
    ) -> Result<Accepted, Refused> {
        let Lent {
            payload,
            driver,
            patience,
        } = lent;
        let begun = {
            // Runs also if a task panics.
            let _end = EndOfLarge(self);
            driver.drive(async {
                // No other thread drives: a message begun here is written next.
                let begun = self.begin_large(message, payload);
                if begun {
                    self.hub.wake_dirty();
                    tokio::task::yield_now().await;
                }
                if self.waits_for_large() {
                    // The first turn has shown whether the socket takes more. This turn writes.
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
        Ok(Accepted {
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

    /// Copies the unwritten rest of a large message.
    fn end_large(&self) {
        let mut state = self.lock();
        if state.copy_large() {
            self.see_to_transmit(&mut state);
        }
    }

    /// Whether there is a large message that will be written, as far as can be known.
    fn waits_for_large(&self) -> bool {
        let state = self.lock();
        state.large.is_lent() && !state.has_ended() && !state.session.is_slow()
    }
}

/// Ends [`Link::publish_large`], also when it panics.
struct EndOfLarge<'a>(&'a Link);

impl Drop for EndOfLarge<'_> {
    fn drop(&mut self) {
        self.0.end_large();
    }
}
