//! The MQTT client state machine, sans-I/O: received bytes, requests of the user and "now" go in; bytes to send, events
//! for the user and the next deadline come out. No socket, no Lua, no look at a clock may appear here.
//!
//! A driver holds one [`Session`] for a client's whole life. For each network connection it calls [`Session::open`] and
//! [`Session::connect`], and then, in any order and until [`Session::state`] is [`State::Disconnected`]:
//! - gives what it read to [`Session::receive`], unless [`Session::wants_receive`] says no;
//! - writes what [`Session::take`] gives and tells [`Session::transmitted`];
//! - calls [`Session::handle_timeout`] at the time [`Session::poll_timeout`] asks for;
//! - hands the user what [`Session::poll_event`] gives.
//!
//! Then it writes what is left to [`Session::take`] (a DISCONNECT) and calls [`Session::close`].

use std::collections::VecDeque;
use std::mem;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::codec::{Decoder, Packet, Property, PropertyValue, QoS, Str, Version, encode};

mod aliases;
mod failure;
mod id_map;
mod incoming;
mod limits;
mod outgoing;
mod receive;
mod request;
mod send;
mod subscriptions;
mod timers;

pub use failure::{Failure, NotRenewed, Unrenewed, Violation};
pub use limits::{QueueLimits, ServerLimits, Settings};
pub use request::{Parted, RequestError};

use aliases::SentAliases;
use id_map::IdMap;
use incoming::Incoming;
use outgoing::Outgoing;
use subscriptions::Subscriptions;
use timers::{Due, Timers};

/// How many answers to what the server sends may wait to be written before reading stops.
const MOST_ANSWERS: u32 = 1 << 16;
/// From how many messages on it pays to take them at once.
const MANY: usize = 16;
/// How many times the limit of queued bytes may have been read since there was no event.
const PINNED_RATIO: usize = 16;

/// How far a connection has come.
///
/// ```text
///                 open              connect               CONNACK accepts
///  Disconnected ──────► Open ─────────────────► Connecting ─────────────► Connected
///     ▲   ▲              │                       │  ▲  │                    │  ▲  │
///     │   │ close,       │                       │  └──┘ AUTH               │  └──┘ all other packets
///     │   │ disconnect   │                       │                          │
///     │   └──────────────┘                       │ CONNACK refuses          │ DISCONNECT of the server
///     └──────────────────────────────────────────┴──────────────────────────┘
///        close, disconnect, a deadline passes, the server breaks a rule
/// ```
///
/// A connection that ended without the user's doing has an event that says why: the CONNACK or DISCONNECT, or
/// [`Event::Failed`].
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
    ///
    /// A CONNACK has "session present" only if the user has taken the CONNACK by which that session began. A session
    /// that began on a connection the user gave up before is new to the user, and lacks the user's subscriptions.
    Packet(Packet),
    /// A message that was accepted will not be sent, or a request to subscribe: the server does not take it.
    Dropped {
        /// Its packet identifier, 0 for QoS 0.
        packet_id: u16,
        /// Why.
        reason: RequestError,
    },
    /// A request that was accepted (see [`Settings::requests`]) will not be sent, unless the user sends it again: the
    /// server has no subscription for its response.
    Withdrawn {
        /// Its packet identifier, 0 for QoS 0.
        packet_id: u16,
        /// Its correlation data.
        correlation_data: Bytes,
    },
    /// A subscription that was to be renewed, since the server has lost its session, is not in force any more.
    Unrenewed(Unrenewed),
    /// The connection failed: the server broke a rule or does not answer. Nothing follows until the next connection.
    Failed(Failure),
}

impl Event {
    /// The packet identifier (0 for QoS 0) of what this ends, if it ends something that the user has begun.
    fn answers(&self) -> Option<u16> {
        use Packet::{Puback, Pubrec, Suback, Unsuback};
        match self {
            Self::Packet(Puback(ack) | Pubrec(ack)) => Some(ack.packet_id),
            Self::Packet(Suback(ack) | Unsuback(ack)) => Some(ack.packet_id),
            Self::Dropped { packet_id, .. } | Self::Withdrawn { packet_id, .. } => Some(*packet_id),
            Self::Packet(_) | Self::Unrenewed(_) | Self::Failed(_) => None,
        }
    }

    fn is_message(&self) -> bool {
        matches!(self, Self::Packet(Packet::Publish(_)))
    }

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
            Self::Packet(_)
            | Self::Dropped { .. }
            | Self::Withdrawn { .. }
            | Self::Unrenewed(_)
            | Self::Failed(_) => {
                return mem::size_of::<Self>();
            }
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

/// What a session has done and has at hand, see [`Session::stats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// PUBLISH packets sent, repetitions not counted.
    pub messages_sent: u64,
    /// Messages received, repetitions of QoS 2 on the same connection not counted.
    pub messages_received: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// QoS 1 and 2 messages sent and not acknowledged to the end.
    pub in_flight: usize,
    /// Packets that wait to be sent.
    pub queued: usize,
    /// Bytes of these.
    pub queued_bytes: usize,
    /// Messages that were accepted and never sent.
    pub dropped: u64,
    /// Connections that the server has accepted.
    pub connections: u64,
    /// How long the last answer to PINGREQ took.
    pub ping_round_trip: Option<Duration>,
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
    /// The server is to send reason strings and user properties where it must only (3.1.2.11.7).
    no_problem_information: bool,
    authentication_method: Option<Str>,
    /// How many messages had been sent before.
    messages_before: u64,
}

/// What lives as long as a network connection.
struct Connection {
    state: State,
    decoder: Decoder,
    transmit: BytesMut,
    /// Bytes that the driver has taken and not written, or is to write before `transmit`.
    taken: usize,
    timers: Timers,
    requested: Requested,
    server: ServerLimits,
    session_present: bool,
    /// What the server's topic aliases stand for (3.3.2.3.4).
    topic_aliases: IdMap<Str>,
    /// Answers sent since there was last nothing to write.
    answers: u32,
    /// What our topic aliases stand for.
    sent_aliases: SentAliases,
    /// Whether reading was held back since the last PINGREQ: its answer may lie unread.
    held_back: bool,
}

impl Connection {
    fn new(version: Version) -> Self {
        Self {
            state: State::default(),
            decoder: Decoder::new(version),
            transmit: BytesMut::new(),
            taken: 0,
            timers: Timers::default(),
            requested: Requested::default(),
            server: ServerLimits::default(),
            session_present: false,
            topic_aliases: IdMap::default(),
            answers: 0,
            sent_aliases: SentAliases::default(),
            held_back: false,
        }
    }
}

/// An MQTT client, connected or not. See the [module](self) for its use.
///
/// An idle one takes a few hundred bytes.
pub struct Session {
    version: Version,
    settings: Settings,
    connection: Connection,
    /// What this client was asked to send. It outlives the connection, see [`Settings::keep_exchanges`].
    outgoing: Outgoing,
    /// What the server has sent and this client has not acknowledged to the end.
    incoming: Incoming,
    /// What the server has granted, if subscriptions are to be renewed.
    subscriptions: Subscriptions,
    /// Whether the server has said that it has no session, and the user has not taken that CONNACK.
    loss_untold: bool,
    /// What has been counted so far.
    counters: Stats,
    events: VecDeque<Event>,
    /// How many of them are not messages.
    others: usize,
    /// Sum of the queued events' sizes.
    queued_bytes: usize,
    /// Messages that had to make room in the queue, see [`Session::take_dropped`].
    dropped: Vec<u16>,
    /// Bytes received since there was no event.
    pinned_bytes: usize,
    /// Whether events may hold a message that the user has from an earlier connection.
    holds_repeats: bool,
}

impl Session {
    /// A client that is not connected.
    pub fn new(version: Version, settings: Settings) -> Self {
        Self {
            version,
            settings,
            connection: Connection::new(version),
            outgoing: Outgoing::default(),
            incoming: Incoming::default(),
            subscriptions: Subscriptions::default(),
            loss_untold: false,
            counters: Stats::default(),
            events: VecDeque::new(),
            others: 0,
            queued_bytes: 0,
            dropped: Vec::new(),
            pinned_bytes: 0,
            holds_repeats: false,
        }
    }

    /// Protocol version, the same for all its connections.
    pub fn version(&self) -> Version {
        self.version
    }

    /// What counts from now on. The size of packets, and whether exchanges are kept, count from the next connection on.
    pub fn configure(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// What counts now.
    pub fn settings(&self) -> &Settings {
        &self.settings
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

    /// What has been done so far, and what is at hand.
    pub fn stats(&self) -> Stats {
        let (queued, queued_bytes) = self.outgoing.queued();
        Stats {
            in_flight: self.outgoing.unacknowledged(),
            queued,
            queued_bytes,
            ..self.counters
        }
    }

    /// Bytes of packets that are kept until they have been sent and answered.
    pub fn stored_bytes(&self) -> usize {
        self.outgoing.bytes()
    }

    /// Whether something that was accepted has still to be sent.
    pub fn holds_back(&self) -> bool {
        self.outgoing.has_held()
    }

    /// The transport is up. Packet identifiers start again at 1, unless some are in use.
    pub fn open(&mut self, now: Instant) {
        self.close();
        if self.outgoing.is_empty() {
            self.outgoing.set_last_id(0);
        }
        self.connection.state = State::Open;
        self.connection.timers = Timers::new(now);
    }

    /// The transport is gone, or about to be dropped. Queued events stay.
    pub fn close(&mut self) {
        self.connection = Connection::new(self.version);
        self.outgoing.connection_lost();
        self.outgoing.shrink();
        self.incoming.connection_lost();
    }

    /// Drops the queued events of a connection that the user has given up, as if they had never been received. Answers
    /// to requests stay, since those exchanges are over, and so does the news of a subscription that has ended.
    pub fn discard_events(&mut self) {
        self.queued_bytes = 0;
        self.others = 0;
        for event in mem::take(&mut self.events) {
            match event {
                answer if answer.answers().is_some() => self.deliver(answer),
                ended @ Event::Unrenewed(_) => self.deliver(ended),
                Event::Packet(Packet::Publish(publish)) => {
                    // It comes again, unless the user, who has it from an earlier connection, acknowledges it before.
                    self.incoming.discard(publish.packet_id);
                }
                _ => {}
            }
        }
    }

    /// Forgets everything that was to be sent, answers that nobody has asked for yet included.
    fn forget(&mut self) {
        self.outgoing.forget();
        if !self.settings.resubscribe {
            self.subscriptions.clear();
        }
        self.events.clear();
        self.others = 0;
        self.queued_bytes = 0;
    }

    /// Packet identifiers of the messages that have had to make room in the queue since this was called last.
    pub fn take_dropped(&mut self) -> Vec<u16> {
        mem::take(&mut self.dropped)
    }

    /// Takes the next event off the queue.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        self.queued_bytes -= event.size();
        if event.is_message() {
            return Some(event);
        }
        self.others -= 1;
        if let Some(id) = event.answers() {
            self.outgoing.told(id);
        } else if let Event::Packet(Packet::Connack(connack)) = &event {
            if connack.reason == 0 && !connack.session_present {
                self.loss_untold = false;
            }
            // Connecting needed more than what follows may need for long.
            self.shrink();
        }
        Some(event)
    }

    /// Takes all events at once, if they are many and all of them messages, for one who goes through them while others
    /// arrive. They count as taken, so that as much again may be queued. Those that he does not come to are to be
    /// [given back](Self::give_back). `into` must be empty. A repeated message that the user may acknowledge meanwhile
    /// stays, so that it can still be dropped.
    pub fn take_messages(&mut self, into: &mut VecDeque<Event>) -> bool {
        debug_assert!(into.is_empty());
        let take = self.others == 0 && self.events.len() >= MANY && !self.holds_repeats;
        if take {
            mem::swap(&mut self.events, into);
            self.queued_bytes = 0;
        }
        take
    }

    /// Puts messages that were taken before the others again.
    pub fn give_back(&mut self, mut messages: VecDeque<Event>) {
        self.queued_bytes += messages.iter().map(Event::size).sum::<usize>();
        messages.append(&mut self.events);
        self.events = messages;
    }

    /// Whether [`poll_event`](Self::poll_event) has something to give.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Bytes that queued events hold: topics, payloads, properties and what each event costs by itself.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Whether the driver should read on: not while the user has much to take, or the server does not read the answers
    /// to what it sends. As long as the user is to blame, the server is not, for a PINGRESP that may lie unread.
    pub fn wants_receive(&self) -> bool {
        let connection = &self.connection;
        let unread = connection.answers > MOST_ANSWERS && !connection.transmit.is_empty();
        !unread && !self.is_slow()
    }

    /// Whether the user has much to take, or what is to be taken keeps much in memory: each event is a slice of what
    /// was read with it. That there are answers to requests does not count: they are no more than there are packet
    /// identifiers, and a user who goes on sending would wait for answers that are not read.
    pub fn is_slow(&self) -> bool {
        let most = self.settings.max_queued_bytes;
        self.queued_bytes > most + self.outgoing.untold() * mem::size_of::<Event>()
            || !self.events.is_empty() && self.pinned_bytes > PINNED_RATIO * most
    }

    /// Bytes that wait to be written, but for those that were [taken](Self::take) and for what is held back.
    pub fn transmit(&self) -> &BytesMut {
        &self.connection.transmit
    }

    /// Puts what was held back and may go now to the bytes that wait to be written. Whoever writes takes them off the
    /// front.
    pub fn fill(&mut self) -> &mut BytesMut {
        self.send_held();
        &mut self.connection.transmit
    }

    /// Takes all bytes that wait to be written, after what was held back and may go now; the driver writes them next.
    pub fn take(&mut self) -> BytesMut {
        let bytes = self.fill().split();
        self.connection.taken += bytes.len();
        bytes
    }

    /// Puts what was taken of a message that [`publish_head`](Self::publish_head) began, and the rest of its payload,
    /// before all others again.
    pub fn put_back(&mut self, head: &[u8], payload: &[u8]) {
        let connection = &mut self.connection;
        let size = head.len() + payload.len();
        connection.taken = connection.taken.saturating_sub(size);
        let later = connection.transmit.split();
        connection.transmit.reserve(size + later.len());
        connection.transmit.extend_from_slice(head);
        connection.transmit.extend_from_slice(payload);
        connection.transmit.extend_from_slice(&later);
    }

    /// So many bytes were written. Keep alive counts from here [MQTT-3.1.2-23].
    pub fn transmitted(&mut self, bytes: usize, now: Instant) {
        self.counters.bytes_sent += bytes as u64;
        let connection = &mut self.connection;
        connection.taken = connection.taken.saturating_sub(bytes);
        let timers = &mut connection.timers;
        timers.transmitted(bytes, connection.taken > 0, now);
        if connection.state == State::Connecting && !timers.awaits_connack() {
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

    /// Whether the next deadline is one for the server: it is given up if it has not answered by then.
    pub fn awaits_answer(&self) -> bool {
        let next = self.connection.timers.next();
        matches!(next, Some((_, Due::Connack | Due::Pingresp)))
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
                    self.connection.timers.pingresp(now);
                    self.send_pingreq(now);
                }
                Due::Pingresp => {
                    let waited = self.pingresp_timeout();
                    self.fail(Failure::NoPingresp(waited));
                }
                Due::Connack => {
                    let waited = self.settings.connack_timeout.unwrap_or_default();
                    self.fail(Failure::NoConnack(waited));
                }
            },
            _ => {}
        }
    }

    /// Gives the server its time to answer CONNECT. The steps of an authentication get no more.
    fn await_connack(&mut self, now: Instant) {
        let deadline = self
            .settings
            .connack_timeout
            .map(|timeout: Duration| now + timeout);
        self.connection.timers.set_connack(deadline);
    }

    fn pingresp_timeout(&self) -> Duration {
        self.settings
            .pingresp_timeout
            .unwrap_or(self.connection.timers.interval())
    }

    fn send_pingreq(&mut self, now: Instant) {
        self.reply(&Packet::Pingreq);
        let timeout = self.pingresp_timeout();
        let connection = &mut self.connection;
        let ahead = connection.taken + connection.transmit.len();
        connection.timers.pinged(ahead, timeout, now);
        self.connection.held_back = self.is_slow();
    }

    /// Sends a packet that cannot break a rule, being all our own.
    fn reply(&mut self, packet: &Packet) {
        let encoded = encode(packet, self.version, &mut self.connection.transmit);
        debug_assert_eq!(encoded, Ok(()));
    }

    /// Drops the repeats of a QoS 2 message that the user has acknowledged: the message must not come again.
    #[cold]
    fn drop_repeats(&mut self, packet_id: u16) {
        let Self {
            events,
            queued_bytes,
            ..
        } = self;
        events.retain(|event| {
            let dropped = matches!(event, Event::Packet(Packet::Publish(publish))
                if publish.qos == QoS::ExactlyOnce && publish.packet_id == packet_id);
            if dropped {
                *queued_bytes -= event.size();
            }
            !dropped
        });
    }

    /// Queues the answer to a request: its packet identifier is not used again before the user has taken it.
    fn deliver_answer(&mut self, event: Event) {
        if let Some(id) = event.answers() {
            self.outgoing.answered(id);
        }
        self.deliver(event);
    }

    /// Queues an event for the user.
    fn deliver(&mut self, event: Event) {
        self.queued_bytes += event.size();
        self.others += usize::from(!event.is_message());
        self.events.push_back(event);
    }

    /// Ends the connection for a reason of ours.
    fn fail(&mut self, failure: Failure) {
        self.connection.state = State::Disconnected;
        self.deliver(Event::Failed(failure));
    }

    /// Gives back what a burst needed; called when nothing was sent for a while, and after connecting.
    fn shrink(&mut self) {
        if self.events.is_empty() {
            self.events = VecDeque::new();
        }
        if self.connection.transmit.is_empty() {
            self.connection.transmit = BytesMut::new();
        }
        self.outgoing.shrink();
        self.incoming.shrink();
    }
}
