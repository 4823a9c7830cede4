//! What a program asks of a link, as plain data, and [`Link::ask`], which takes it.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Driver, Link};
use crate::codec::{Connect, Properties, PublishRef, QoS, Str, Subscription};
use crate::session::{RequestError, Session};

/// What a program asks of a link.
pub enum Request<'a> {
    /// Sends CONNECT.
    Connect(Box<Connect>),
    /// Publishes.
    Publish(PublishRef<'a>),
    /// Publishes, but refuses the message while there is no connection: then no other has to make room for it.
    PublishConnected(PublishRef<'a>),
    /// Publishes a large message without copying its payload.
    PublishLarge(PublishRef<'a>, Lent<'a>),
    /// Sends SUBSCRIBE.
    Subscribe {
        /// At least one.
        subscriptions: Vec<Subscription>,
        /// Those of the packet.
        properties: Properties,
    },
    /// Sends UNSUBSCRIBE.
    Unsubscribe {
        /// At least one topic filter.
        filters: Vec<Str>,
        /// Those of the packet.
        properties: Properties,
    },
    /// Acknowledges a received message.
    Acknowledge {
        /// That of the message.
        packet_id: u16,
        /// That of the message.
        qos: QoS,
        /// The reason code.
        reason: u8,
        /// Those of the acknowledgement.
        properties: Properties,
    },
    /// Sends PINGREQ, due or not.
    Ping,
    /// Sends DISCONNECT.
    Disconnect {
        /// The reason code.
        reason: u8,
        /// Those of the packet.
        properties: Properties,
    },
    /// Sends AUTH.
    Auth {
        /// The reason code.
        reason: u8,
        /// Those of the packet.
        properties: Properties,
    },
}

/// The payload of a large message, which the connection's task writes from where it lies.
pub struct Lent<'a> {
    /// The payload. Nothing refers to it any more when [`Link::ask`] returns.
    pub payload: Bytes,
    /// Drives the runtime meanwhile, for a turn at least.
    pub driver: &'a Driver,
    /// How long the connection may take. The payload's rest is then copied.
    pub patience: Duration,
}

/// A request that was accepted.
#[derive(Debug)]
pub struct Accepted {
    /// The packet identifier of the exchange that begins, 0 if none does.
    pub packet_id: u16,
    /// Whether the program should wait before it publishes more, see [`Link::is_full`].
    pub full: bool,
    /// Packet identifiers of the messages that had to make room in the queue.
    pub dropped: Vec<u16>,
}

/// Why a request was refused.
#[derive(Debug)]
pub enum Refused {
    /// The session refuses it.
    Session(RequestError),
    /// The link holds so much already that it takes no more messages.
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
    /// Takes a request. This is the only way in: what is refused has changed nothing.
    ///
    /// # Errors
    /// Those of the session, and for a message that too much waits already.
    pub fn ask(&self, request: Request<'_>) -> Result<Accepted, Refused> {
        match request {
            Request::Publish(message) => self.publish(&message),
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
            Request::Ping => self.send(|session| session.ping(Instant::now())),
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
