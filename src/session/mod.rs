//! The MQTT client state machine, sans-I/O: received bytes, requests of the user and "now" go in; bytes to send, events
//! for the user and the next deadline come out. No socket, no Lua, no look at a clock may appear here.
//!
//! A driver holds one [`Session`] for a client's whole life. For each network connection it calls [`Session::open`] and
//! [`Session::connect`], and then, in any order and until [`Session::state`] is [`State::Disconnected`]:
//! - gives what it read to [`Session::receive`], unless [`Session::wants_receive`] says no;
//! - writes what it finds in [`Session::transmit`] and tells [`Session::transmitted`];
//! - calls [`Session::handle_timeout`] at the time [`Session::poll_timeout`] asks for;
//! - hands the user what [`Session::poll_event`] gives.
//!
//! Then it writes what is left in [`Session::transmit`] (a DISCONNECT) and calls [`Session::close`].

use std::collections::VecDeque;
use std::mem;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::codec::{Decoder, Packet, Property, PropertyValue, QoS, Str, Version, encode};

mod limits;
mod packet_ids;
mod receive;
mod request;
mod timers;

pub use limits::{Limits, ServerLimits};
pub use request::RequestError;

use packet_ids::{IdMap, Outgoing};
use timers::{Due, Timers};

/// How far a connection has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Nothing is sent, received or waited for. What [`Session::transmit`] still holds may be written.
    #[default]
    Disconnected,
    /// The transport is up, nothing was sent.
    Open,
    /// CONNECT was sent.
    Connecting,
    /// The server accepted with CONNACK.
    Connected,
}

/// What the user is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A packet from the server: CONNACK, PUBLISH, PUBACK, PUBREC, SUBACK, UNSUBACK, DISCONNECT or AUTH.
    Packet(Packet),
    /// The connection failed: the server broke a rule or does not answer. Nothing follows until the next connection.
    Failed {
        /// What went wrong.
        message: String,
    },
}

impl Event {
    /// Memory it holds, near enough.
    fn size(&self) -> usize {
        let (own, properties) = match self {
            Self::Packet(Packet::Publish(publish)) => (
                publish.topic.len() + publish.payload.len(),
                &publish.properties,
            ),
            Self::Packet(Packet::Connack(connack)) => (0, &connack.properties),
            Self::Packet(Packet::Puback(ack) | Packet::Pubrec(ack)) => (0, &ack.properties),
            Self::Packet(Packet::Suback(suback) | Packet::Unsuback(suback)) => {
                (suback.reasons.len(), &suback.properties)
            }
            Self::Packet(Packet::Disconnect(last) | Packet::Auth(last)) => (0, &last.properties),
            // No other packet becomes an event.
            Self::Packet(_) | Self::Failed { .. } => return mem::size_of::<Self>(),
        };
        let properties = properties.iter().map(|Property { value, .. }| {
            mem::size_of::<Property>()
                + match value {
                    PropertyValue::String(text) => text.len(),
                    PropertyValue::Binary(bytes) => bytes.len(),
                    PropertyValue::Pair(name, value) => name.len() + value.len(),
                    _ => 0,
                }
        });
        mem::size_of::<Self>() + own + properties.sum::<usize>()
    }
}

/// A received QoS 2 message whose PUBREL has not come (4.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Received {
    /// Given to the user, who has not acknowledged it.
    Delivered,
    /// The user acknowledged it.
    Acknowledged,
}

/// What our CONNECT asked for, as far as later packets are judged by it.
#[derive(Default)]
struct Requested {
    clean_start: bool,
    keep_alive: u16,
    session_expiry_interval: u32,
    /// QoS 1 and 2 messages that the server may have unacknowledged at a time; only 5.0 has a limit.
    receive_maximum: Option<u16>,
    topic_alias_maximum: u16,
    authentication_method: Option<Str>,
}

/// What lives as long as a network connection.
struct Connection {
    state: State,
    decoder: Decoder,
    transmit: BytesMut,
    timers: Timers,
    requested: Requested,
    server: ServerLimits,
    session_present: bool,
    /// Received QoS 1 and 2 messages whose exchange has not ended, as the server's send quota counts them (4.9).
    unacknowledged: u32,
    /// What the server's topic aliases stand for (3.3.2.3.4).
    topic_aliases: IdMap<Str>,
    /// Whether reading was held back since the last PINGREQ: its answer may lie unread.
    held_back: bool,
}

impl Connection {
    fn new(version: Version) -> Self {
        Self {
            state: State::default(),
            decoder: Decoder::new(version),
            transmit: BytesMut::new(),
            timers: Timers::default(),
            requested: Requested::default(),
            server: ServerLimits::default(),
            session_present: false,
            unacknowledged: 0,
            topic_aliases: IdMap::default(),
            held_back: false,
        }
    }
}

/// An MQTT client, connected or not. See the [module](self) for its use.
///
/// An idle one takes a few hundred bytes.
pub struct Session {
    version: Version,
    limits: Limits,
    connection: Connection,
    /// Exchanges this client began. They end with the connection.
    outgoing: Outgoing,
    /// Received QoS 2 messages by packet identifier. They outlive the connection if the server keeps the session.
    incoming: IdMap<Received>,
    events: VecDeque<Event>,
    /// Sum of the queued events' sizes.
    queued_bytes: usize,
}

impl Session {
    /// A client that is not connected.
    pub fn new(version: Version, limits: Limits) -> Self {
        Self {
            version,
            limits,
            connection: Connection::new(version),
            outgoing: Outgoing::default(),
            incoming: IdMap::default(),
            events: VecDeque::new(),
            queued_bytes: 0,
        }
    }

    /// Protocol version, the same for all its connections.
    pub fn version(&self) -> Version {
        self.version
    }

    /// How far the connection has come.
    pub fn state(&self) -> State {
        self.connection.state
    }

    /// What the server allows on this connection.
    pub fn server_limits(&self) -> &ServerLimits {
        &self.connection.server
    }

    /// Whether the server had a session for this client when it accepted the connection (3.2.2.1.1).
    pub fn session_present(&self) -> bool {
        self.connection.session_present
    }

    /// Keep alive in seconds that counts on this connection (the server's, if it set one), 0 for none.
    pub fn keep_alive(&self) -> u16 {
        self.connection.timers.keep_alive()
    }

    /// The transport is up. Packet identifiers start again at 1.
    pub fn open(&mut self, now: Instant) {
        self.close();
        self.connection.state = State::Open;
        self.connection.timers = Timers::new(now);
    }

    /// The transport is gone, or about to be dropped. Queued events stay.
    pub fn close(&mut self) {
        self.connection = Connection::new(self.version);
        self.outgoing = Outgoing::default();
    }

    /// Takes the next event off the queue.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        self.queued_bytes -= event.size();
        Some(event)
    }

    /// Whether [`poll_event`](Self::poll_event) has something to give.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Bytes that queued events hold: topics, payloads, properties and what each event costs by itself.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Whether the driver should read on. While this is false the server is not blamed for a PINGRESP that may lie
    /// unread.
    pub fn wants_receive(&self) -> bool {
        self.queued_bytes <= self.limits.max_queued_bytes
    }

    /// Bytes that wait to be written. The driver takes what it can off the front.
    pub fn transmit(&mut self) -> &mut BytesMut {
        &mut self.connection.transmit
    }

    /// Something was written. Keep alive counts from here [MQTT-3.1.2-23].
    pub fn transmitted(&mut self, now: Instant) {
        let timers = &mut self.connection.timers;
        timers.transmitted(now);
        if self.connection.state == State::Connecting && !timers.awaits_connack() {
            self.await_connack(now);
        }
    }

    /// The time at which [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.connection.state {
            State::Connecting | State::Connected => self.connection.timers.next().map(|(at, _)| at),
            State::Disconnected | State::Open => None,
        }
    }

    /// Does what is due: sends a PINGREQ, or gives up on a server that does not answer. Does nothing when called early.
    pub fn handle_timeout(&mut self, now: Instant) {
        if !matches!(self.state(), State::Connecting | State::Connected) {
            return;
        }
        match self.connection.timers.next() {
            Some((at, due)) if at <= now => match due {
                Due::Pingreq => {
                    self.shrink();
                    self.send_pingreq(now);
                }
                Due::Pingresp if self.connection.held_back => {
                    self.connection.timers.pingresp();
                    self.send_pingreq(now);
                }
                Due::Pingresp => {
                    let seconds = self.keep_alive();
                    self.fail(format!(
                        "failed to receive PINGRESP within {seconds} seconds"
                    ));
                }
                Due::Connack => {
                    let waited = self.limits.connack_timeout.unwrap_or_default();
                    self.fail(format!(
                        "failed to receive CONNACK within {} seconds",
                        waited.as_secs_f64()
                    ));
                }
            },
            _ => {}
        }
    }

    /// Gives the server its time to answer CONNECT, or the next step of an authentication.
    fn await_connack(&mut self, now: Instant) {
        let deadline = self
            .limits
            .connack_timeout
            .map(|timeout: Duration| now + timeout);
        self.connection.timers.set_connack(deadline);
    }

    fn send_pingreq(&mut self, now: Instant) {
        self.reply(&Packet::Pingreq);
        self.connection.timers.pinged(now);
        self.connection.held_back = !self.wants_receive();
    }

    /// Sends a packet that cannot break a rule, being all our own.
    fn reply(&mut self, packet: &Packet) {
        let encoded = encode(packet, self.version, &mut self.connection.transmit);
        debug_assert_eq!(encoded, Ok(()));
    }

    /// Ends the exchange of a received QoS 1 or 2 message; says whether there was one, as far as that is known.
    fn end_incoming(&mut self, packet_id: u16, qos: QoS) -> bool {
        let known = qos != QoS::ExactlyOnce || self.incoming.remove(&packet_id).is_some();
        if known {
            let count = &mut self.connection.unacknowledged;
            // Too low (a QoS 1 message acknowledged twice) it lets one message more through, which does no harm.
            *count = count.saturating_sub(1);
        }
        known
    }

    /// Queues an event for the user.
    fn deliver(&mut self, event: Event) {
        self.queued_bytes += event.size();
        self.events.push_back(event);
    }

    /// Ends the connection for a reason of ours.
    fn fail(&mut self, message: String) {
        self.connection.state = State::Disconnected;
        self.deliver(Event::Failed { message });
    }

    /// Gives back what a burst needed; called when nothing was sent for a while.
    fn shrink(&mut self) {
        if self.events.is_empty() {
            self.events = VecDeque::new();
        }
        if self.connection.transmit.is_empty() {
            self.connection.transmit = BytesMut::new();
        }
        self.outgoing.shrink();
        self.incoming.shrink_to_fit();
    }
}
