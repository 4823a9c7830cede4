//! The MQTT client state machine, sans-I/O. Received bytes, the user's requests and the current time go in. Bytes to
//! send, events for the user and the next deadline come out. No socket, no Lua and no look at a clock may appear here.
//!
//! A driver holds one [`Session`] for a client's whole life. For each network connection it calls [`Session::open`] and
//! [`Session::connect`]. Then, in any order and until [`Session::state`] is [`State::Disconnected`], it
//! - gives the bytes it has read to [`Session::receive`], unless [`Session::wants_receive`] says no;
//! - writes the bytes from [`Session::take`] and reports them to [`Session::transmitted`];
//! - calls [`Session::handle_timeout`] at the time from [`Session::poll_timeout`];
//! - hands the user the events from [`Session::poll_event`].
//!
//! At the end it writes the rest from [`Session::take`] (a DISCONNECT) and calls [`Session::close`].

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

/// The most answers to the server that may wait to be written. Above it, reading stops.
const MOST_ANSWERS: u32 = 1 << 16;
/// How many unacknowledged messages make a server wait: mosquitto's `max_inflight_messages`, unless configured otherwise.
const STALL: u32 = 20;
/// The least number of messages for which taking all of them at once pays.
const MANY: usize = 16;
/// The factor between `max_queued_bytes` and the bytes that may have been read since the event queue was last empty.
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
/// When a connection ends without the user's doing, an event says why: the CONNACK or DISCONNECT, or [`Event::Failed`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Nothing is sent, received or awaited. The bytes left in [`Session::transmit`] may be written.
    #[default]
    Disconnected,
    /// The transport is up. Nothing has been sent.
    Open,
    /// CONNECT has been sent.
    Connecting,
    /// The server has accepted with CONNACK.
    Connected,
}

/// News for the user.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A packet from the server: CONNACK, PUBLISH, PUBACK, PUBREC, SUBACK, UNSUBACK, DISCONNECT or AUTH.
    ///
    /// A CONNACK has "session present" only if the user has taken the CONNACK by which that session began. Another
    /// session, which began on a connection that the user gave up, is new to the user and lacks the user's
    /// subscriptions.
    Packet(Packet),
    /// An accepted message or SUBSCRIBE will not be sent: the server does not take it.
    Dropped {
        /// The packet identifier, 0 for QoS 0.
        packet_id: u16,
        /// Why.
        reason: RequestError,
    },
    /// An accepted request (see [`Settings::requests`]) will not be sent unless the user sends it again: the server has
    /// no subscription for its response.
    Withdrawn {
        /// The packet identifier, 0 for QoS 0.
        packet_id: u16,
        /// The correlation data.
        correlation_data: Bytes,
    },
    /// The server has lost the session, and a subscription could not be renewed. It is no longer in force.
    Unrenewed(Unrenewed),
    /// The connection failed: the server broke a rule or does not answer. Nothing follows until the next connection.
    Failed(Failure),
}

impl Event {
    /// The packet identifier (0 for QoS 0) of the user's request that this event answers, if it answers one.
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

    /// The memory that the event holds, in bytes, roughly.
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

/// Figures of a session, see [`Session::stats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// PUBLISH packets sent, without repetitions.
    pub messages_sent: u64,
    /// Messages received. A QoS 2 message repeated on the same connection counts once.
    pub messages_received: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// QoS 1 and 2 messages sent and not fully acknowledged.
    pub in_flight: usize,
    /// Packets that wait to be sent.
    pub queued: usize,
    /// Bytes of the packets that wait to be sent.
    pub queued_bytes: usize,
    /// Messages accepted and never sent.
    pub dropped: u64,
    /// Connections accepted by the server.
    pub connections: u64,
    /// The time that the server took for its last PINGRESP.
    pub ping_round_trip: Option<Duration>,
}

/// The settings of our CONNECT by which later packets are judged.
#[derive(Default)]
struct Requested {
    clean_start: bool,
    keep_alive: u16,
    session_expiry_interval: u32,
    /// The most QoS 1 and 2 messages that the server may have unacknowledged at a time. Only 5.0 has this limit.
    receive_maximum: Option<u16>,
    topic_alias_maximum: u16,
    /// Whether the server must leave out reason strings and user properties wherever it may (3.1.2.11.7).
    no_problem_information: bool,
    authentication_method: Option<Str>,
    /// Messages sent before this CONNECT.
    messages_before: u64,
}

/// State that lives as long as a network connection.
struct Connection {
    state: State,
    decoder: Decoder,
    transmit: BytesMut,
    /// Bytes that the driver has taken and not yet written, or has to write before `transmit`.
    taken: usize,
    timers: Timers,
    requested: Requested,
    server: ServerLimits,
    session_present: bool,
    /// The topics of the server's topic aliases (3.3.2.3.4).
    topic_aliases: IdMap<Str>,
    /// Answers sent since `transmit` was last empty.
    answers: u32,
    /// The topics of our topic aliases.
    sent_aliases: SentAliases,
    /// Whether reading has been held back since the last PINGREQ. If so, the PINGRESP may lie unread.
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
/// An idle session takes a few hundred bytes.
pub struct Session {
    version: Version,
    settings: Settings,
    connection: Connection,
    /// Packets that this client was asked to send. They outlive the connection, see [`Settings::keep_exchanges`].
    outgoing: Outgoing,
    /// Messages that the server has sent and this client has not fully acknowledged.
    incoming: Incoming,
    /// Subscriptions that the server has granted. Kept only if they are to be renewed.
    subscriptions: Subscriptions,
    /// Whether the server has said that it has no session, and the user has not yet taken that CONNACK.
    loss_untold: bool,
    /// Figures counted so far.
    counters: Stats,
    events: VecDeque<Event>,
    /// The number of queued events that are no messages.
    others: usize,
    /// The sum of the queued events' sizes, in bytes.
    queued_bytes: usize,
    /// Packet identifiers of messages dropped from the full queue, see [`Session::take_dropped`].
    dropped: Vec<u16>,
    /// Bytes received since the event queue was last empty.
    pinned_bytes: usize,
    /// Whether the event queue may hold a message that the user already has from an earlier connection.
    holds_repeats: bool,
    /// Whether the user knows that many messages wait for an acknowledgement.
    stall_told: bool,
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
            stall_told: false,
        }
    }

    /// The protocol version, the same on all connections.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Replaces the settings. The largest packet, and whether exchanges are kept, count from the next connection on.
    pub fn configure(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// The current settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How far the connection has come.
    pub fn state(&self) -> State {
        self.connection.state
    }

    /// The server's limits on this connection.
    pub fn server_limits(&self) -> &ServerLimits {
        &self.connection.server
    }

    /// Whether the server had a session for this client when it accepted the connection (3.2.2.1.1).
    pub fn session_present(&self) -> bool {
        self.connection.session_present
    }

    /// The keep alive of this connection, in seconds: the server's if it set one. 0 means none.
    pub fn keep_alive(&self) -> u16 {
        self.connection.timers.keep_alive()
    }

    /// The figures so far.
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

    /// Whether an accepted packet has still to be sent.
    pub fn holds_back(&self) -> bool {
        self.outgoing.has_held()
    }

    /// The transport is up. If no packet identifier is in use, they start again at 1.
    pub fn open(&mut self, now: Instant) {
        self.close();
        if self.outgoing.is_empty() {
            self.outgoing.set_last_id(0);
        }
        self.connection.state = State::Open;
        self.connection.timers = Timers::new(now);
    }

    /// The transport is gone, or is about to be dropped. Queued events stay.
    pub fn close(&mut self) {
        self.connection = Connection::new(self.version);
        self.outgoing.connection_lost();
        self.outgoing.shrink();
        self.incoming.connection_lost();
    }

    /// Drops the queued events of a connection that the user has given up, as if they had never been received. Answers
    /// to requests stay, because their exchanges are over. So does the news of a subscription that has ended.
    pub fn discard_events(&mut self) {
        self.queued_bytes = 0;
        self.others = 0;
        for event in mem::take(&mut self.events) {
            match event {
                answer if answer.answers().is_some() => self.deliver(answer),
                ended @ Event::Unrenewed(_) => self.deliver(ended),
                Event::Packet(Packet::Publish(publish)) => {
                    // The message comes again, unless the user already has it from an earlier connection and
                    // acknowledges it first.
                    self.incoming.discard(publish.packet_id);
                }
                _ => {}
            }
        }
    }

    /// Forgets all packets that were to be sent, and all events that the user has not taken, answers included.
    fn forget(&mut self) {
        self.outgoing.forget();
        if !self.settings.resubscribe {
            self.subscriptions.clear();
        }
        self.events.clear();
        self.others = 0;
        self.queued_bytes = 0;
    }

    /// Takes the packet identifiers of the messages dropped from the full queue since the last call.
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
            // Connecting needed more memory than the time after it.
            self.shrink();
        }
        Some(event)
    }

    /// Once: how many messages wait for the user's acknowledgement, when they are so many that a server may send no more
    /// before. To be asked when the user has taken all events.
    pub fn take_stall(&mut self) -> Option<u32> {
        if self.stall_told {
            return None;
        }
        let maximum = self.connection.requested.receive_maximum;
        let least = maximum.map_or(STALL, |maximum| STALL.min(maximum.into()));
        let count = self.incoming.waiting(least)?;
        self.stall_told = true;
        Some(count)
    }

    /// Takes all events at once, if they are many and all of them messages. So the user can go through them while
    /// others arrive. They count as taken, so as many bytes again may be queued. Messages that the user does not come
    /// to are to be [given back](Self::give_back). `into` must be empty. If the user may still acknowledge a repeated
    /// message in the queue, all stay: then the repeat can be dropped.
    pub fn take_messages(&mut self, into: &mut VecDeque<Event>) -> bool {
        debug_assert!(into.is_empty());
        let take = self.others == 0 && self.events.len() >= MANY && !self.holds_repeats;
        if take {
            mem::swap(&mut self.events, into);
            self.queued_bytes = 0;
        }
        take
    }

    /// Puts messages back that were taken, before the others.
    pub fn give_back(&mut self, mut messages: VecDeque<Event>) {
        self.queued_bytes += messages.iter().map(Event::size).sum::<usize>();
        messages.append(&mut self.events);
        self.events = messages;
    }

    /// Whether [`poll_event`](Self::poll_event) has an event.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Bytes that the queued events hold: topics, payloads, properties and each event's own size.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Whether the driver should read on. It should not while the user has too many events to take, or while the server
    /// does not read our answers. A slow user may leave the PINGRESP unread: the server is not blamed for that.
    pub fn wants_receive(&self) -> bool {
        let connection = &self.connection;
        let unread = connection.answers > MOST_ANSWERS && !connection.transmit.is_empty();
        !unread && !self.is_slow()
    }

    /// Whether the user has too many events to take, or these pin too much memory: each event is a slice of a larger
    /// read. Answers to requests do not count. There are no more of them than packet identifiers, and a user who goes
    /// on sending would otherwise wait for answers that nobody reads.
    pub fn is_slow(&self) -> bool {
        let most = self.settings.max_queued_bytes;
        self.queued_bytes > most + self.outgoing.untold() * mem::size_of::<Event>()
            || !self.events.is_empty() && self.pinned_bytes > PINNED_RATIO * most
    }

    /// Bytes that wait to be written, without the bytes already [taken](Self::take) and without held back packets.
    pub fn transmit(&self) -> &BytesMut {
        &self.connection.transmit
    }

    /// Appends the held back packets that may go now to the bytes that wait to be written. The writer takes bytes off
    /// the front.
    pub fn fill(&mut self) -> &mut BytesMut {
        self.send_held();
        &mut self.connection.transmit
    }

    /// Takes all bytes that wait to be written, including held back packets that may go now. The driver writes them
    /// next.
    pub fn take(&mut self) -> BytesMut {
        let bytes = self.fill().split();
        self.connection.taken += bytes.len();
        bytes
    }

    /// Puts back a message that [`publish_head`](Self::publish_head) began, before all other bytes: `head`, which was
    /// taken with it, and the rest of its payload.
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

    /// The driver has written `bytes` bytes. Keep alive counts from here [MQTT-3.1.2-23].
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

    /// The time at which [`handle_timeout`](Self::handle_timeout) is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.connection.state {
            State::Connecting | State::Connected => self.connection.timers.next().map(|(at, _)| at),
            State::Disconnected | State::Open => None,
        }
    }

    /// Whether the next deadline is the server's: a server that has not answered by then is given up.
    pub fn awaits_answer(&self) -> bool {
        let next = self.connection.timers.next();
        matches!(next, Some((_, Due::Connack | Due::Pingresp)))
    }

    /// Does the work that is due: sends PINGREQ, or gives up a server that does not answer. Does nothing when called
    /// early.
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

    /// Starts the server's time to answer CONNECT. The steps of an authentication get no extra time.
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

    /// Sends a packet of our own making, which cannot break a rule.
    fn reply(&mut self, packet: &Packet) {
        let encoded = encode(packet, self.version, &mut self.connection.transmit);
        debug_assert_eq!(encoded, Ok(()));
    }

    /// Drops the repeats of a QoS 2 message that the user has acknowledged. The message must not come again.
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

    /// Queues the answer to a request. Its packet identifier stays in use until the user has taken the answer.
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

    /// Ends the connection for a reason of our own.
    fn fail(&mut self, failure: Failure) {
        self.connection.state = State::Disconnected;
        self.deliver(Event::Failed(failure));
    }

    /// Gives back the memory of a burst. Called after a while without sending, and after connecting.
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
