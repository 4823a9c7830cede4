//! The MQTT client state machine, sans-I/O. Received bytes, the user's requests and the current time go in. Bytes to
//! send, events for the user and the next deadline come out. No socket, no Lua and no look at a clock of its own may appear
//! here.
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

use bytes::BytesMut;

use crate::codec::{Packet, QoS, Version, encode};

mod aliases;
mod connection;
mod discarded;
mod failure;
mod id_map;
mod inbox;
mod incoming;
mod kept;
mod limits;
mod outgoing;
mod queue;
mod receive;
mod request;
mod send;
mod subscriptions;
mod timers;
mod transport;

pub use connection::State;
pub use discarded::{Discarded, Why};
pub use failure::{Failure, NotRenewed, Unrenewed, Violation};
pub use inbox::Event;
pub use kept::{
    Gated, Keep, KeepError, Keeping, Label, Listed, Mark, Note, Resumed, Syncing, Waiting, topic_of,
};
pub use limits::{Backlog, QueueLimits, ServerLimits, Settings};
pub use request::{Parted, RequestError};
pub use send::has_response_topic;

use connection::Connection;
use inbox::Inbox;
use incoming::{Incoming, Received};
use kept::Kept;
use kept::set_packet_id;
use outgoing::{Outgoing, Phase, Progress};
use send::Pace;
use subscriptions::Subscriptions;
use timers::{Due, Timers};
use transport::Transport;

/// How many unacknowledged messages make a server wait: mosquitto's `max_inflight_messages`, unless configured otherwise.
const STALL: u32 = 20;

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

/// What the keys of the user's notes begin with. Other keys are topic filters, which have no such character
/// [MQTT-4.7.3-2].
const OWN: &[u8] = b"\0";

/// An MQTT client, connected or not. See the [module](self) for its use.
///
/// An idle session takes a few hundred bytes.
pub struct Session {
    version: Version,
    settings: Settings,
    connection: Connection,
    transport: Transport,
    /// Packets that this client was asked to send. They outlive the connection, see [`Settings::keep_exchanges`].
    outgoing: Outgoing,
    /// Messages that the server has sent and this client has not fully acknowledged.
    incoming: Incoming,
    /// Subscriptions that the server has granted. Kept only if they are to be renewed.
    subscriptions: Subscriptions,
    /// Whether the server has said that it has no session, and the user has not yet taken that CONNACK.
    loss_untold: bool,
    /// Whether a connection ended after CONNECT and before CONNACK: the server may have begun a session of which this
    /// client knows nothing.
    unanswered_connect: bool,
    /// Figures counted so far.
    counters: Stats,
    /// Events that the user has not taken.
    inbox: Inbox,
    /// See [`Session::take_discarded`].
    discarded: Vec<Discarded>,
    /// How the messages that have waited for this connection are spread, until all are sent.
    pace: Option<Box<Pace>>,
    /// Whether the user knows that many messages wait for an acknowledgement.
    stall_told: bool,
    /// Where accepted messages outlive the process.
    kept: Option<Box<Kept>>,
}

impl Session {
    /// A client that is not connected.
    pub fn new(version: Version, settings: Settings) -> Self {
        Self {
            version,
            settings,
            connection: Connection::default(),
            transport: Transport::new(version, Timers::default()),
            outgoing: Outgoing::default(),
            incoming: Incoming::default(),
            subscriptions: Subscriptions::default(),
            loss_untold: false,
            unanswered_connect: false,
            counters: Stats::default(),
            inbox: Inbox::default(),
            discarded: Vec::new(),
            pace: None,
            stall_told: false,
            kept: None,
        }
    }

    /// Has accepted messages outlive the process in a store, and goes on with what is there. To be called before the
    /// first connection, for a session that the server keeps.
    ///
    /// # Errors
    /// What is there cannot be read.
    pub fn keep_in(&mut self, mut store: Box<dyn Keep>, keeping: Keeping) -> Result<(), KeepError> {
        for Resumed { packet_id, packet } in store.resume()? {
            let phase = match packet.as_deref() {
                None => Phase::Pubcomp,
                Some(publish) if publish[0] >> 1 & 3 == QoS::ExactlyOnce as u8 => Phase::Pubrec,
                Some(_) => Phase::Puback,
            };
            let mut packet = packet.unwrap_or_default();
            if phase.sends_message() {
                set_packet_id(&mut packet, packet_id);
            }
            self.outgoing
                .begin(packet_id, phase, packet, Progress::Repeat);
            self.outgoing.set_last_id(packet_id);
        }
        for packet_id in store.all_received() {
            self.incoming.deliver(packet_id, Received::Acknowledged);
        }
        for (key, note) in store.notes() {
            if !key.starts_with(OWN) {
                self.subscriptions.restore(&note, self.version);
            }
        }
        self.kept = Some(Box::new(Kept::new(store, keeping)?));
        Ok(())
    }

    /// Keeps a value of the user's under a name in the store. An empty value is the same as none.
    pub fn note(&mut self, name: &[u8], value: &[u8]) {
        if let Some(store) = self.store() {
            store.note(&[OWN, name].concat(), value);
        }
    }

    /// The value that is kept under a name.
    pub fn noted(&self, name: &[u8]) -> Option<Box<[u8]>> {
        let notes = self.kept.as_ref()?.store.notes();
        let mut values = notes.into_iter();
        let (_, value) = values.find(|(key, _)| key.strip_prefix(OWN) == Some(name))?;
        Some(value)
    }

    /// At most `most` kept messages, see [`Keep::list`], without those that a newer one has replaced. None without a store.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn stored(
        &self,
        from: Option<Mark>,
        most: usize,
    ) -> Result<(Vec<Listed>, Option<Mark>), KeepError> {
        match &self.kept {
            Some(kept) => kept.list(from, most),
            None => Ok((Vec::new(), None)),
        }
    }

    /// The store, see [`keep_in`](Self::keep_in).
    pub fn store(&mut self) -> Option<&mut (dyn Keep + 'static)> {
        self.kept.as_mut().map(|kept| &mut *kept.store)
    }

    /// Whether a kept message waits that was never sent.
    pub fn has_kept_waiting(&self) -> bool {
        self.waiting() > 0
    }

    /// How many kept messages were never sent.
    fn waiting(&self) -> u64 {
        self.kept.as_ref().map_or(0, |kept| kept.waiting())
    }

    /// How messages wait to be sent for the first time.
    fn backlog(&self) -> Backlog {
        self.settings
            .backlog
            .as_deref()
            .copied()
            .unwrap_or_default()
    }

    /// Whether exchanges go on after a clean start.
    fn keeps_exchanges(&self) -> bool {
        self.settings.keep_exchanges || self.kept.is_some()
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
        self.connection.state()
    }

    /// The server's limits on this connection.
    pub fn server_limits(&self) -> &ServerLimits {
        self.connection.server()
    }

    /// Whether the server had a session for this client when it accepted the connection (3.2.2.1.1).
    pub fn session_present(&self) -> bool {
        let connected = self.connection.connected();
        connected.is_some_and(|connected| connected.session_present)
    }

    /// The keep alive of this connection, in seconds: the server's if it set one. 0 means none.
    pub fn keep_alive(&self) -> u16 {
        self.transport.timers.keep_alive()
    }

    /// The figures so far.
    pub fn stats(&self) -> Stats {
        let (queued, queued_bytes) = self.outgoing.queued();
        Stats {
            in_flight: self.outgoing.unacknowledged(),
            queued: queued + self.waiting() as usize,
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
        self.has_to_send() || self.waits_for_store()
    }

    /// Whether an accepted packet has not been sent at all.
    fn has_to_send(&self) -> bool {
        self.outgoing.has_held() || self.waiting() > 0
    }

    /// Whether bytes wait until the store is [synced](Self::synced).
    pub fn waits_for_store(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.waits())
    }

    /// The sync that the store needs, to be done elsewhere.
    pub fn sync(&mut self) -> Option<Syncing> {
        self.store()?.sync()
    }

    /// The bytes that wait until the store is synced, taken out of a connection that is let go of.
    pub fn take_gated(&mut self) -> Option<Box<Gated>> {
        self.kept.as_mut()?.take_gated()
    }

    /// The user will not come back: another session may have the store.
    pub fn let_go_of_store(&mut self) {
        if let Some(mut kept) = self.kept.take() {
            // What is not written has to be told by the server once more.
            let _ = kept.store.flush();
        }
    }

    /// A sync of the store has ended, with this result.
    pub fn synced(&mut self, result: Result<Mark, KeepError>) {
        if let Some(store) = self.store()
            && let Err(error) = store.synced(result)
            && self.state() != State::Disconnected
            && self.waits_for_store()
        {
            self.fail(Failure::Store(error));
        }
    }

    /// The transport is up. If no packet identifier is in use, they start again at 1.
    pub fn open(&mut self, now: Instant) {
        self.close();
        if self.outgoing.is_empty() {
            self.outgoing.set_last_id(0);
        }
        self.connection = Connection::Open;
        self.transport.timers = Timers::new(now);
        self.await_connack(now);
    }

    /// The transport is gone, or is about to be dropped. Queued events stay.
    pub fn close(&mut self) {
        self.end_connection();
        self.pace = None;
        self.transport = Transport::new(self.version, Timers::default());
        if let Some(kept) = &mut self.kept {
            kept.close();
        }
        self.outgoing.connection_lost();
        self.outgoing.shrink();
        self.incoming.connection_lost();
    }

    /// Drops the queued events of a connection that the user has given up, as if they had never been received. Answers
    /// to requests stay, because their exchanges are over. So does the news of a subscription that has ended, and of the
    /// packet identifier of a kept message.
    pub fn discard_events(&mut self) {
        for event in self.inbox.take_all() {
            match event {
                answer if answer.answers().is_some() => self.inbox.push(answer),
                news @ (Event::Identified { .. } | Event::Unrenewed(_)) => self.inbox.push(news),
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
        self.inbox.take_all();
    }

    /// Whether publishing may make the session give up other messages.
    pub fn gives_up(&self) -> bool {
        self.settings.gives_way() || self.kept.as_ref().is_some_and(|kept| kept.gives_up())
    }

    /// Takes the messages that publishing has made the session give up since the last call.
    pub fn take_discarded(&mut self) -> Vec<Discarded> {
        mem::take(&mut self.discarded)
    }

    /// Takes the next event off the queue.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.inbox.events.pop_front()?;
        if self.inbox.took(&event) {
            return Some(event);
        }
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
        let requested = self.connection.requested()?;
        let maximum = requested.receive_maximum;
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
        self.inbox.take_messages(into)
    }

    /// Puts messages back that were taken, before the others.
    pub fn give_back(&mut self, messages: VecDeque<Event>) {
        self.inbox.give_back(messages);
    }

    /// Whether [`poll_event`](Self::poll_event) has an event.
    pub fn has_events(&self) -> bool {
        !self.inbox.events.is_empty()
    }

    /// Bytes that the queued events hold: topics, payloads, properties and each event's own size.
    pub fn queued_bytes(&self) -> usize {
        self.inbox.bytes()
    }

    /// Whether the driver should read on. It should not while the user has too many events to take, or while the server
    /// does not read our answers. A slow user may leave the PINGRESP unread: the server is not blamed for that.
    pub fn wants_receive(&self) -> bool {
        !self.transport.is_unread() && !self.is_slow()
    }

    /// Whether the user has too many events to take, or these pin too much memory: each event is a slice of a larger
    /// read. Answers to requests do not count. There are no more of them than packet identifiers, and a user who goes
    /// on sending would otherwise wait for answers that nobody reads.
    pub fn is_slow(&self) -> bool {
        self.inbox
            .is_full(self.settings.max_queued_bytes, self.outgoing.untold())
    }

    /// The number of bytes that wait to be written, for the store too.
    pub fn unwritten(&self) -> usize {
        match &self.kept {
            None => self.transport.transmit.len(),
            Some(kept) => kept.bytes(),
        }
    }

    /// Bytes that wait to be written, without the bytes already [taken](Self::take) and without held back packets.
    pub fn transmit(&self) -> &BytesMut {
        match &self.kept {
            None => &self.transport.transmit,
            Some(kept) => &kept.ready,
        }
    }

    /// Appends the held back packets that may go now to the bytes that wait to be written. The writer takes bytes off
    /// the front.
    pub fn fill(&mut self) -> &mut BytesMut {
        self.send_held();
        self.pass_gate();
        match &mut self.kept {
            None => &mut self.transport.transmit,
            Some(kept) => &mut kept.ready,
        }
    }

    /// Lets bytes go that the store is safe for.
    fn pass_gate(&mut self) {
        if let Some(kept) = &mut self.kept
            && let Err(error) = kept.pass(&mut self.transport.transmit)
            && !self.transport.transmit.is_empty()
        {
            // What the bytes tell is not kept: they must not go.
            self.transport.transmit.clear();
            self.fail(Failure::Store(error));
        }
    }

    /// Takes all bytes that wait to be written, including held back packets that may go now. The driver writes them
    /// next.
    pub fn take(&mut self) -> BytesMut {
        let bytes = self.fill().split();
        self.transport.taken += bytes.len();
        bytes
    }

    /// Puts back a message that [`publish_head`](Self::publish_head) began, before all other bytes: `head`, which was
    /// taken with it, and the rest of its payload.
    pub fn put_back(&mut self, head: &[u8], payload: &[u8]) {
        self.transport.put_back(head, payload);
    }

    /// The driver has written `bytes` bytes. Keep alive counts from here [MQTT-3.1.2-23].
    pub fn transmitted(&mut self, bytes: usize, now: Instant) {
        self.counters.bytes_sent += bytes as u64;
        self.transport.transmitted(bytes, now);
        if self.state() == State::Connecting && !self.transport.timers.awaits_connack() {
            self.await_connack(now);
        }
    }

    /// The time at which [`handle_timeout`](Self::handle_timeout) is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state() {
            State::Disconnected => None,
            _ => self.next_due().map(|(at, _)| at),
        }
    }

    /// The next deadline, and what is due then.
    fn next_due(&self) -> Option<(Instant, Due)> {
        let pace = self.pace.as_ref().map(|pace| (pace.next, Due::Pace));
        let next = self.transport.timers.next();
        next.into_iter().chain(pace).min_by_key(|(at, _)| *at)
    }

    /// Whether the next deadline is the server's: a server that has not answered by then is given up.
    pub fn awaits_answer(&self) -> bool {
        let next = self.transport.timers.next();
        matches!(next, Some((_, Due::Connack | Due::Pingresp)))
    }

    /// Does the work that is due: sends PINGREQ, or gives up a server that does not answer. Does nothing when called
    /// early.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.state() == State::Disconnected {
            return;
        }
        match self.next_due() {
            Some((at, due)) if at <= now => match due {
                Due::Pingreq => {
                    self.shrink();
                    self.send_pingreq(now);
                }
                Due::Pace => self.send_more(now),
                Due::Pingresp if self.transport.held_back => {
                    self.transport.timers.pingresp(now);
                    self.send_pingreq(now);
                }
                Due::Pingresp => {
                    let waited = self.pingresp_timeout();
                    self.fail(Failure::NoPingresp(waited));
                }
                Due::Connack => {
                    let waited = self.settings.connack_timeout.unwrap_or_default();
                    self.fail(match self.state() {
                        State::Open => Failure::NoConnect(waited),
                        _ => Failure::NoConnack(waited),
                    });
                }
            },
            _ => {}
        }
    }

    /// Starts the user's time for CONNECT, or the server's to answer it. The steps of an authentication get no extra
    /// time.
    fn await_connack(&mut self, now: Instant) {
        let deadline = self
            .settings
            .connack_timeout
            .map(|timeout: Duration| now + timeout);
        self.transport.timers.set_connack(deadline);
    }

    fn pingresp_timeout(&self) -> Duration {
        self.settings
            .pingresp_timeout
            .unwrap_or(self.transport.timers.interval())
    }

    fn send_pingreq(&mut self, now: Instant) {
        self.reply(&Packet::Pingreq);
        let timeout = self.pingresp_timeout();
        let ahead = self.transport.unwritten();
        self.transport.timers.pinged(ahead, timeout, now);
        self.transport.held_back = self.is_slow();
    }

    /// Sends a packet of our own making, which cannot break a rule.
    fn reply(&mut self, packet: &Packet) {
        let encoded = encode(packet, self.version, &mut self.transport.transmit);
        debug_assert_eq!(encoded, Ok(()));
    }

    /// Queues the answer to a request. Its packet identifier stays in use until the user has taken the answer.
    fn deliver_answer(&mut self, event: Event) {
        if let Some(id) = event.answers() {
            self.outgoing.answered(id);
        }
        self.inbox.push(event);
    }

    /// Ends the connection for a reason of our own.
    fn fail(&mut self, failure: Failure) {
        self.end_connection();
        self.inbox.push(Event::Failed(failure));
    }

    /// The connection is over. The bytes left in the transmit buffer may still be written.
    fn end_connection(&mut self) {
        self.unanswered_connect |= self.state() == State::Connecting;
        self.connection = Connection::Disconnected;
    }

    /// Gives back the memory of a burst. Called after a while without sending, and after connecting.
    fn shrink(&mut self) {
        self.inbox.shrink();
        self.transport.shrink();
        self.outgoing.shrink();
        self.incoming.shrink();
    }
}
