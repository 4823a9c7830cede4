//! A program's requests to a link, as plain data, and [`Link::ask`], which takes them.

use std::time::Duration;

use bytes::Bytes;

use super::{Driver, Link, now};
use crate::codec::{Connect, Properties, PublishRef, QoS, Str, Subscription};
use crate::session::{Discarded, RequestError, Session};

/// A program's request to a link.
pub enum Request<'a> {
    /// Sends CONNECT.
    Connect(Box<Connect>),
    /// Publishes a message.
    Publish(PublishRef<'a>),
    /// Publishes a message that may wait for so long at most.
    PublishWithin(PublishRef<'a>, Duration),
    /// Publishes if there is a connection or a store, and no other message is given up for it.
    PublishConnected(PublishRef<'a>),
    /// Publishes a large message without copying its payload.
    PublishLarge(PublishRef<'a>, Lent<'a>),
    /// Sends SUBSCRIBE.
    Subscribe {
        /// At least one subscription.
        subscriptions: Vec<Subscription>,
        /// The packet's properties.
        properties: Properties,
    },
    /// Sends UNSUBSCRIBE.
    Unsubscribe {
        /// At least one topic filter.
        filters: Vec<Str>,
        /// The packet's properties.
        properties: Properties,
    },
    /// Acknowledges a received message.
    Acknowledge {
        /// The message's packet identifier.
        packet_id: u16,
        /// The message's QoS. QoS 0 needs no acknowledgement.
        qos: QoS,
        /// The reason code.
        reason: u8,
        /// The acknowledgement's properties.
        properties: Properties,
    },
    /// Sends PINGREQ, due or not.
    Ping,
    /// Sends DISCONNECT.
    Disconnect {
        /// The reason code.
        reason: u8,
        /// The packet's properties.
        properties: Properties,
    },
    /// Sends AUTH.
    Auth {
        /// The reason code.
        reason: u8,
        /// The packet's properties.
        properties: Properties,
    },
}

/// The payload of a large message, which the connection's task writes from where it lies.
pub struct Lent<'a> {
    /// The payload. No reference to it remains when [`Link::ask`] returns.
    pub payload: Bytes,
    /// Drives the runtime meanwhile, for at least one turn.
    pub driver: &'a Driver,
    /// How long the connection may take. The rest of the payload is then copied.
    pub patience: Duration,
}

/// A request that was accepted.
#[derive(Debug)]
pub struct Accepted {
    /// The packet identifier of the exchange that begins. 0 for a request without an exchange, such as a QoS 0 message.
    pub packet_id: u16,
    /// Of a message: whether the program should wait before it publishes more, see [`Link::is_full`], or its connector
    /// has to send.
    pub full: bool,
    /// Of a message: the messages that were given up for it.
    pub dropped: Vec<Discarded>,
}

/// Why a request was refused.
#[derive(Debug)]
pub enum Refused {
    /// The session refuses the request.
    Session(RequestError),
    /// The link holds too many bytes to take another message.
    TooMuch {
        /// Bytes that wait to be written or acknowledged.
        waiting: usize,
    },
}

impl From<RequestError> for Refused {
    fn from(error: RequestError) -> Self {
        Self::Session(error)
    }
}

impl Link {
    /// Takes a request. There is no other way in. A refused request changes nothing.
    ///
    /// # Errors
    /// The session's error, and for a message [`Refused::TooMuch`].
    pub fn ask(&self, request: Request<'_>) -> Result<Accepted, Refused> {
        match request {
            Request::Publish(message) => self.publish(&message),
            Request::PublishWithin(message, time) => self.publish_within(&message, time),
            Request::PublishConnected(message) => self.publish_connected(&message),
            Request::PublishLarge(message, lent) => self.publish_large(&message, lent),
            Request::Connect(connect) => self.send(|session| session.connect(&connect)),
            Request::Subscribe {
                subscriptions,
                properties,
            } => self.begin(|session| session.subscribe(subscriptions, properties)),
            Request::Unsubscribe {
                filters,
                properties,
            } => self.begin(|session| session.unsubscribe(filters, properties)),
            Request::Acknowledge {
                packet_id,
                qos,
                reason,
                properties,
            } => self.send(|session| session.acknowledge(packet_id, qos, reason, properties)),
            Request::Ping => self.send(|session| session.ping(now())),
            Request::Disconnect { reason, properties } => {
                self.send(|session| session.disconnect(reason, properties))
            }
            Request::Auth { reason, properties } => {
                self.send(|session| session.auth(reason, properties))
            }
        }
    }

    /// Begins an exchange, which has a packet identifier.
    fn begin(
        &self,
        ask: impl FnOnce(&mut Session) -> Result<u16, RequestError> + Send,
    ) -> Result<Accepted, Refused> {
        let packet_id = self.with_session(ask)?;
        Ok(Accepted {
            packet_id,
            full: false,
            dropped: Vec::new(),
        })
    }

    /// Sends a packet that begins no exchange.
    fn send(
        &self,
        ask: impl FnOnce(&mut Session) -> Result<(), RequestError> + Send,
    ) -> Result<Accepted, Refused> {
        self.begin(|session| ask(session).map(|()| 0))
    }
}
