//! The received messages whose exchange has not ended (4.3.2, 4.3.3). `receive` decides when the user gets a message,
//! `request` sends the user's acknowledgement.

use super::id_map::IdMap;

/// How far the exchange of a received message has come.
///
/// ```text
///  QoS 1:  PUBLISH ──► DeliveredOnce ──► acknowledged, or the connection ends: over
///
///                       acknowledged               PUBREL
///  QoS 2:  PUBLISH ──► Delivered ──────────► Acknowledged ──► over
///                        │ the connection ends        ▲
///                        ▼             acknowledged   │
///                    DeliveredBefore ─────────────────┤
///              PUBLISH │   ▲ the connection ends      │
///                      ▼   │           acknowledged   │
///                    DeliveredAgain ──────────────────┘
/// ```
///
/// A refusal ends the exchange too. When the server has no session, all exchanges are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// QoS 2: given to the user on this connection, and not acknowledged.
    Delivered,
    /// QoS 2: acknowledged by the user; PUBREL has not come.
    Acknowledged,
    /// QoS 1: given to the user, and not acknowledged. Belongs to the connection.
    DeliveredOnce,
    /// QoS 2: given to the user on an earlier connection. Given again when the server repeats it.
    DeliveredBefore,
    /// QoS 2: given to the user on an earlier connection, and queued or given again on this one.
    DeliveredAgain,
}

/// Exchanges by packet identifier. QoS 2 exchanges outlive the connection if the server keeps the session.
#[derive(Clone, Default)]
pub(super) struct Incoming {
    exchanges: IdMap<Received>,
    /// Messages of this connection whose exchange has not ended. The server's send quota counts them too (4.9).
    unacknowledged: u32,
}

impl Incoming {
    /// How far the exchange with this identifier has come.
    #[inline]
    pub(super) fn get(&self, id: u16) -> Option<Received> {
        self.exchanges.get(&id).copied()
    }

    /// A message is given to the user. Returns the exchange's state before.
    #[inline]
    pub(super) fn deliver(&mut self, id: u16, received: Received) -> Option<Received> {
        self.exchanges.insert(id, received)
    }

    /// One more message of this connection waits for its acknowledgement. Returns how many wait now.
    #[inline]
    pub(super) fn count(&mut self) -> u32 {
        self.unacknowledged += 1;
        self.unacknowledged
    }

    /// How many messages of this connection wait for the user, if there are at least `least`.
    pub(super) fn waiting(&self, least: u32) -> Option<u32> {
        if self.unacknowledged < least {
            return None;
        }
        let waits = |received: &&Received| match received {
            Received::Delivered | Received::DeliveredOnce | Received::DeliveredAgain => true,
            Received::Acknowledged | Received::DeliveredBefore => false,
        };
        let count = self.exchanges.values().filter(waits).count() as u32;
        (count >= least).then_some(count)
    }

    /// The user has acknowledged a QoS 2 message.
    #[inline]
    pub(super) fn acknowledge(&mut self, id: u16) {
        self.exchanges.insert(id, Received::Acknowledged);
    }

    /// Ends the exchange of a message. Returns whether there was one.
    pub(super) fn end(&mut self, id: u16) -> bool {
        let known = self.exchanges.remove(&id).is_some();
        if known {
            // Messages of earlier connections do not count on this one.
            self.unacknowledged = self.unacknowledged.saturating_sub(1);
        }
        known
    }

    /// Ends the exchange of a message that the server has not sent on this connection.
    pub(super) fn forget(&mut self, id: u16) {
        self.exchanges.remove(&id);
    }

    /// The user will not take this message on this connection.
    pub(super) fn discard(&mut self, id: u16) {
        if let Some(received) = self.exchanges.get_mut(&id) {
            received.connection_lost();
        }
    }

    /// The connection is gone.
    pub(super) fn connection_lost(&mut self) {
        self.unacknowledged = 0;
        self.exchanges.retain(|_, received| {
            received.connection_lost();
            *received != Received::DeliveredOnce
        });
    }

    /// The server has no session: its messages of earlier connections mean nothing any more.
    pub(super) fn session_lost(&mut self) {
        self.exchanges.clear();
    }

    /// Gives back memory that a burst needed.
    pub(super) fn shrink(&mut self) {
        self.exchanges.shrink_to_fit();
    }
}

impl Received {
    fn connection_lost(&mut self) {
        if matches!(self, Self::Delivered | Self::DeliveredAgain) {
            *self = Self::DeliveredBefore;
        }
    }
}
