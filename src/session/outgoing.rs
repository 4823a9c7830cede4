//! The packets that this client has been asked to send and is not done with: exchanges by packet identifier (2.2.1),
//! and the queue of packets that could not be sent yet. `send` decides what is sent when.

use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasherDefault;
use std::mem;
use std::num::NonZeroU16;

use super::id_map::{IdHasher, IdMap};
use super::limits::QueueLimits;
use super::queue::{Entry, Held, Place, Queue, Times};
use crate::codec::{PacketType, Subscribe, Unsubscribe};

/// How far an exchange has come, named by the packet that is awaited next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// A QoS 1 PUBLISH.
    Puback,
    /// A QoS 2 PUBLISH.
    Pubrec,
    /// A QoS 2 PUBLISH whose PUBREC has come. From here on the PUBREL is repeated.
    Pubcomp,
    /// A SUBSCRIBE.
    Suback,
    /// An UNSUBSCRIBE.
    Unsuback,
}

/// The content of a SUBSCRIBE or UNSUBSCRIBE.
#[derive(Debug)]
pub(super) enum Request {
    Subscribe {
        subscribe: Subscribe,
        /// Whether the session made this SUBSCRIBE itself. If the server loses its session again, a new one replaces
        /// it.
        renews: bool,
    },
    Unsubscribe(Unsubscribe),
}

impl Phase {
    /// Whether the next packet to send is a PUBLISH.
    pub(super) fn sends_message(self) -> bool {
        matches!(self, Self::Puback | Self::Pubrec)
    }

    /// The packet that is awaited.
    pub(super) fn awaits(self) -> PacketType {
        match self {
            Self::Puback => PacketType::Puback,
            Self::Pubrec => PacketType::Pubrec,
            Self::Pubcomp => PacketType::Pubcomp,
            Self::Suback => PacketType::Suback,
            Self::Unsuback => PacketType::Unsuback,
        }
    }
}

/// Whether an exchange's packet has been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// On this connection.
    Sent {
        /// Whether the exchange counts against the server's receive maximum.
        counted: bool,
    },
    /// On an earlier connection, and not yet on this one.
    Repeat,
    /// Never.
    Waiting,
    /// On an earlier connection, and never again: the message was given up without the server's knowledge. As long as
    /// the server keeps the session, it takes another QoS 2 message of the same identifier for this one
    /// [MQTT-4.3.3-10].
    Abandoned,
}

/// An exchange that this client began.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) phase: Phase,
    pub(super) progress: Progress,
    /// The whole PUBLISH, SUBSCRIBE or UNSUBSCRIBE, as long as it may have to be sent or repeated.
    pub(super) packet: Box<[u8]>,
    /// The content of a SUBSCRIBE or UNSUBSCRIBE.
    pub(super) request: Option<Box<Request>>,
    /// The place in the order in which exchanges began.
    sequence: u64,
}

impl Exchange {
    /// Whether the server can know of the exchange, and has to answer it.
    fn is_known(&self) -> bool {
        !matches!(self.progress, Progress::Waiting | Progress::Abandoned)
    }

    /// The subscriptions that the exchange renews, if any.
    pub(super) fn renews(&self) -> Option<&Subscribe> {
        match self.request.as_deref() {
            Some(Request::Subscribe {
                subscribe,
                renews: true,
            }) => Some(subscribe),
            _ => None,
        }
    }

    /// The rest of the exchange when it is given up: its identifier, if the server may hold it for QoS 2.
    fn abandoned(&self) -> Option<Exchange> {
        let is_held = matches!(self.phase, Phase::Pubrec | Phase::Pubcomp)
            && self.progress != Progress::Waiting;
        is_held.then(|| Exchange {
            phase: self.phase,
            progress: Progress::Abandoned,
            packet: Box::default(),
            request: None,
            sequence: self.sequence,
        })
    }
}

/// The held back packet that is sent next.
pub(super) enum Front {
    Exchange(u16),
    Plain,
}

#[derive(Default)]
pub(super) struct Outgoing {
    exchanges: IdMap<Exchange>,
    /// Packet identifiers whose answer the user has not taken yet. Used again, they would name two exchanges.
    untold: HashSet<u16, BuildHasherDefault<IdHasher>>,
    /// The identifier given out last, 0 before the first.
    last: u16,
    /// The number of exchanges begun.
    begun: u64,
    /// Exchanges to be repeated before any new packet, in the order in which they began [MQTT-4.6.0-1]. Some may have
    /// ended meanwhile.
    repeat: VecDeque<u16>,
    /// Packets that were never sent.
    waiting: Queue,
    /// Whether `repeat` or `waiting` may hold packets other than PUBLISH.
    holds_unlimited: bool,
    /// Bytes of all packets here.
    bytes: usize,
    /// The number of exchanges that count against the server's receive maximum.
    in_flight: u32,
}

impl Outgoing {
    /// The next free identifier, or `None` if all are in use. It stays free until [`begin`](Self::begin).
    ///
    /// With `f` identifiers free, a full turn of the counter looks at 65,535 and gives out at least `f`. So with 60,000
    /// exchanges in flight an identifier costs 12 lookups on average, whatever the order in which exchanges end.
    pub(super) fn next_id(&self) -> Option<NonZeroU16> {
        if self.exchanges.len().max(self.untold.len()) == usize::from(u16::MAX) {
            return None;
        }
        let mut id = self.last;
        loop {
            id = id.wrapping_add(1);
            match NonZeroU16::new(id) {
                Some(free) if !self.in_use(id) => return Some(free),
                _ if id == self.last => return None,
                _ => {}
            }
        }
    }

    /// Whether an exchange holds this identifier, or the user has not yet learned of its end.
    pub(super) fn in_use(&self, id: u16) -> bool {
        self.exchanges.contains_key(&id) || self.untold.contains(&id)
    }

    /// Whether no identifier is in use.
    pub(super) fn is_empty(&self) -> bool {
        self.exchanges.is_empty() && self.untold.is_empty()
    }

    /// The answer to the exchange with this identifier is on its way to the user. 0 means no exchange.
    pub(super) fn answered(&mut self, id: u16) {
        if id != 0 {
            self.untold.insert(id);
        }
    }

    /// The user has taken the answer.
    pub(super) fn told(&mut self, id: u16) {
        self.untold.remove(&id);
    }

    /// The number of answers that the user has not taken.
    pub(super) fn untold(&self) -> usize {
        self.untold.len()
    }

    /// The number of exchanges, and of answers that the user has not taken.
    pub(super) fn unanswered(&self) -> usize {
        self.exchanges.len() + self.untold.len()
    }

    /// Sets the identifier from which the counter goes on.
    pub(super) fn set_last_id(&mut self, id: u16) {
        self.last = id;
    }

    /// Begins an exchange with a free identifier. An exchange that has not been sent joins the queue. An exchange to be
    /// repeated joins the repeated exchanges.
    pub(super) fn begin(&mut self, id: u16, phase: Phase, packet: Box<[u8]>, progress: Progress) {
        self.bytes += packet.len();
        match progress {
            Progress::Waiting => {
                self.waiting.push(Held::Exchange(id), packet.len());
                self.holds_unlimited |= !phase.sends_message();
            }
            Progress::Repeat => {
                self.repeat.push_back(id);
                self.holds_unlimited |= !phase.sends_message();
            }
            Progress::Sent { counted } => self.in_flight += u32::from(counted),
            Progress::Abandoned => {}
        }
        self.begun += 1;
        let exchange = Exchange {
            phase,
            progress,
            packet,
            request: None,
            sequence: self.begun,
        };
        self.exchanges.insert(id, exchange);
    }

    /// Begins the exchange of a SUBSCRIBE or UNSUBSCRIBE.
    pub(super) fn begin_request(
        &mut self,
        id: u16,
        request: Request,
        packet: Box<[u8]>,
        progress: Progress,
    ) {
        let phase = match request {
            Request::Subscribe { .. } => Phase::Suback,
            Request::Unsubscribe(_) => Phase::Unsuback,
        };
        self.begin(id, phase, packet, progress);
        if let Some(exchange) = self.exchanges.get_mut(&id) {
            exchange.request = Some(Box::new(request));
        }
    }

    /// Puts a QoS 0 PUBLISH into the queue.
    pub(super) fn hold(&mut self, packet: Box<[u8]>) {
        let size = packet.len();
        self.bytes += size;
        self.waiting.push(Held::Plain(packet), size);
    }

    /// The message that has just joined the queue has these times.
    pub(super) fn time_last(&mut self, times: Times) {
        self.waiting.time_last(times);
    }

    /// The message that has just joined the queue is the newest of its topic.
    pub(super) fn name_last(&mut self, topic: &str) {
        self.waiting.name_last(topic);
    }

    /// Replaces the PUBLISH of an exchange by one of the same size.
    pub(super) fn set_packet(&mut self, id: u16, packet: Box<[u8]>) {
        if let Some(exchange) = self.exchanges.get_mut(&id) {
            debug_assert_eq!(exchange.packet.len(), packet.len());
            exchange.packet = packet;
        }
    }

    /// The exchange with this identifier.
    pub(super) fn get(&self, id: u16) -> Option<&Exchange> {
        self.exchanges.get(&id)
    }

    /// The awaited phase of the exchange with this identifier, if the server can know of the exchange.
    pub(super) fn awaited(&self, id: u16) -> Option<Phase> {
        self.exchanges
            .get(&id)
            .filter(|exchange| exchange.is_known())
            .map(|exchange| exchange.phase)
    }

    /// Takes a QoS 2 exchange from PUBREC to PUBCOMP: its PUBREL is being sent. `counts` says whether it still counts
    /// against the server's receive maximum.
    pub(super) fn released(&mut self, id: u16, counts: bool) {
        if let Some(exchange) = self.exchanges.get_mut(&id) {
            exchange.phase = Phase::Pubcomp;
            self.bytes -= exchange.packet.len();
            exchange.packet = Box::default();
            let counted = exchange.progress == (Progress::Sent { counted: true });
            self.in_flight -= u32::from(counted && !counts);
            // The server already knows of an exchange to be repeated, so it does not count on this connection.
            exchange.progress = Progress::Sent {
                counted: counted && counts,
            };
        }
    }

    /// Ends an exchange that is not in the queue. Its identifier is free again.
    pub(super) fn end(&mut self, id: u16) -> Option<Exchange> {
        let exchange = self.exchanges.remove(&id)?;
        self.bytes -= exchange.packet.len();
        if exchange.progress == (Progress::Sent { counted: true }) {
            self.in_flight -= 1;
        }
        Some(exchange)
    }

    /// Ends an exchange that was sent on an earlier connection, and cannot be repeated on this one.
    pub(super) fn abandon(&mut self, id: u16) -> Option<Exchange> {
        let abandoned = self.get(id)?.abandoned();
        let exchange = self.end(id);
        if let Some(abandoned) = abandoned {
            self.exchanges.entry(id).or_insert(abandoned);
        }
        exchange
    }

    /// The rest of all exchanges when they are given up. It uses `entry`: with a second caller of `insert` the compiler
    /// would not inline `insert` into [`begin`](Self::begin), which costs 32 instructions a message.
    fn abandoned(&self) -> IdMap<Exchange> {
        let mut left = IdMap::default();
        for (&id, exchange) in &self.exchanges {
            if let Some(abandoned) = exchange.abandoned() {
                left.entry(id).or_insert(abandoned);
            }
        }
        left
    }

    /// Forgets all packets. The server may never learn of it.
    pub(super) fn forget(&mut self) {
        *self = Outgoing {
            exchanges: self.abandoned(),
            ..Outgoing::default()
        };
    }

    /// Splits off the identifiers whose answer the user has not taken. The counters, and the rest of exchanges that are
    /// given up, go along as copies.
    pub(super) fn split_untold(&mut self) -> Outgoing {
        Outgoing {
            exchanges: self.abandoned(),
            untold: mem::take(&mut self.untold),
            last: self.last,
            begun: self.begun,
            ..Outgoing::default()
        }
    }

    pub(super) fn has_exchanges(&self) -> bool {
        let mut exchanges = self.exchanges.values();
        exchanges.any(|exchange| exchange.progress != Progress::Abandoned)
    }

    /// Whether a QoS 2 message still waits for its PUBREC.
    pub(super) fn awaits_pubrec(&self) -> bool {
        self.exchanges
            .values()
            .any(|e| e.phase == Phase::Pubrec && e.progress != Progress::Abandoned)
    }

    /// The number of exchanges that count against the server's receive maximum.
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// The number of QoS 1 and 2 messages sent and not fully acknowledged.
    pub(super) fn unacknowledged(&self) -> usize {
        let of_message = |exchange: &&Exchange| {
            let message = !matches!(exchange.phase, Phase::Suback | Phase::Unsuback);
            message && exchange.is_known()
        };
        self.exchanges.values().filter(of_message).count()
    }

    /// Whether a packet has to be sent before any new one.
    pub(super) fn has_held(&self) -> bool {
        !(self.repeat.is_empty() && self.waiting.is_empty())
    }

    /// The number of packets that were never sent, and their bytes.
    pub(super) fn queued(&self) -> (usize, usize) {
        (self.waiting.len(), self.waiting.bytes())
    }

    /// Bytes of all packets here.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The packet that is sent next.
    pub(super) fn front(&mut self) -> Option<Front> {
        while let Some(&id) = self.repeat.front() {
            let exchange = self.exchanges.get(&id);
            if exchange.is_some_and(|exchange| exchange.progress == Progress::Repeat) {
                return Some(Front::Exchange(id));
            }
            self.repeat.pop_front();
        }
        self.waiting.front().map(|entry| match entry.held {
            Held::Exchange(id) => Front::Exchange(id),
            Held::Plain(_) => Front::Plain,
        })
    }

    /// The times of the first message that was never sent, if they matter.
    pub(super) fn front_times(&self) -> Option<Times> {
        self.waiting.front()?.times.as_deref().copied()
    }

    /// Moves the first exchange that waits with SUBSCRIBE, UNSUBSCRIBE or PUBREL to the front of its queue.
    pub(super) fn bring_unlimited_forward(&mut self) -> Option<u16> {
        if !self.holds_unlimited {
            return None;
        }
        let held = |id: &u16, progress: Progress| {
            let exchange = self.exchanges.get(id);
            exchange.is_some_and(|e| e.progress == progress && !e.phase.sends_message())
        };
        let repeated = self.repeat.iter().position(|id| held(id, Progress::Repeat));
        if let Some(id) = repeated.and_then(|at| self.repeat.remove(at)) {
            self.repeat.push_front(id);
            return Some(id);
        }
        let waiting = self
            .waiting
            .iter()
            .find_map(|(place, entry)| match entry.held {
                Held::Exchange(id) if held(&id, Progress::Waiting) => Some((place, id)),
                _ => None,
            });
        if let Some((place, id)) = waiting {
            self.waiting.bring_forward(place);
            return Some(id);
        }
        self.holds_unlimited = false;
        None
    }

    /// Takes the QoS 0 PUBLISH at the front of the queue.
    pub(super) fn take_plain(&mut self) -> Option<Box<[u8]>> {
        let Held::Plain(_) = self.waiting.front()?.held else {
            return None;
        };
        let entry = self.waiting.pop_front();
        let (_, packet) = self.take(entry)?;
        Some(packet)
    }

    /// What a packet of the queue was: its packet identifier, 0 for QoS 0, and its bytes.
    fn take(&mut self, entry: Option<Entry>) -> Option<(u16, Box<[u8]>)> {
        let (id, packet) = match entry?.held {
            Held::Plain(packet) => (0, packet),
            Held::Exchange(id) => (id, self.exchanges.remove(&id)?.packet),
        };
        self.bytes -= packet.len();
        Some((id, packet))
    }

    /// The exchange at the front leaves its queue.
    pub(super) fn leave_queue(&mut self, id: u16, progress: Progress) {
        let Some(exchange) = self.exchanges.get_mut(&id) else {
            return;
        };
        if exchange.progress == Progress::Waiting {
            self.waiting.pop_front();
        } else {
            self.repeat.pop_front();
        }
        exchange.progress = progress;
        if progress == (Progress::Sent { counted: true }) {
            self.in_flight += 1;
        }
    }

    /// How many messages that were never sent have to be dropped for one more packet of this size, which also takes the
    /// place of `replaced`. `None` if dropping all of them makes too little room.
    pub(super) fn to_drop_for(
        &self,
        size: usize,
        limits: QueueLimits,
        replaced: Option<(Place, usize)>,
    ) -> Option<usize> {
        let most = limits.max_messages as usize;
        let (mut packets, mut bytes) = self.queued();
        if let Some((_, size)) = replaced {
            packets -= 1;
            bytes -= size;
        }
        let fits = |packets, bytes| packets < most && bytes + size <= limits.max_bytes as usize;
        let mut count = 0;
        let mut messages = self.waiting.iter().filter(|(place, entry)| {
            self.is_message(entry) && replaced.is_none_or(|(other, _)| *place != other)
        });
        while !fits(packets, bytes) {
            let (_, message) = messages.next().filter(|_| limits.drop_oldest)?;
            packets -= 1;
            bytes -= message.size;
            count += 1;
        }
        Some(count)
    }

    /// Whether the waiting packet is a PUBLISH.
    fn is_message(&self, entry: &Entry) -> bool {
        match &entry.held {
            Held::Plain(_) => true,
            Held::Exchange(id) => {
                let exchange = self.exchanges.get(id);
                exchange.is_some_and(|exchange| exchange.phase.sends_message())
            }
        }
    }

    /// The newest message of a topic that was never sent, and its size.
    pub(super) fn newest(&self, topic: &str) -> Option<(Place, usize)> {
        self.waiting.newest(topic)
    }

    /// Takes a message out of the queue. Returns its packet identifier, 0 for QoS 0, and the message.
    pub(super) fn remove(&mut self, place: Place) -> Option<(u16, Box<[u8]>)> {
        let entry = self.waiting.remove(place);
        self.take(entry)
    }

    /// Drops the oldest message that was never sent, likewise. Returns `None` if there is none.
    pub(super) fn drop_oldest(&mut self) -> Option<(u16, Box<[u8]>)> {
        let (place, _) = self
            .waiting
            .iter()
            .find(|(_, entry)| self.is_message(entry))?;
        self.remove(place)
    }

    /// The connection is gone. Exchanges sent on it are to be repeated on the next one.
    pub(super) fn connection_lost(&mut self) {
        self.in_flight = 0;
        self.repeat.clear();
        let mut sent: Vec<(u64, u16)> = Vec::new();
        for (&id, exchange) in &mut self.exchanges {
            if exchange.is_known() {
                exchange.progress = Progress::Repeat;
                self.holds_unlimited |= !exchange.phase.sends_message();
                sent.push((exchange.sequence, id));
            }
        }
        sent.sort_unstable();
        self.repeat.extend(sent.into_iter().map(|(_, id)| id));
    }

    /// The server has no session. An exchange that had its PUBREC is over, and subscriptions are renewed afresh.
    pub(super) fn session_lost(&mut self) {
        let Self {
            exchanges, bytes, ..
        } = self;
        exchanges.retain(|_, exchange| {
            let over = exchange.phase == Phase::Pubcomp
                || exchange.renews().is_some()
                || exchange.progress == Progress::Abandoned;
            if over {
                *bytes -= exchange.packet.len();
            }
            !over
        });
    }

    /// Takes out the messages that have not been sent on this connection and for which `choose` returns a value.
    /// Returns their packet identifiers, 0 for QoS 0, and these values, in no order.
    pub(super) fn withdraw<T>(&mut self, choose: impl Fn(&[u8]) -> Option<T>) -> Vec<(u16, T)> {
        let mut withdrawn = Vec::new();
        self.exchanges.retain(|&id, exchange| {
            let is_held = matches!(exchange.progress, Progress::Waiting | Progress::Repeat);
            let chosen = (is_held && exchange.phase.sends_message())
                .then(|| choose(&exchange.packet))
                .flatten();
            let Some(chosen) = chosen else {
                return true;
            };
            self.bytes -= exchange.packet.len();
            self.untold.insert(id);
            withdrawn.push((id, chosen));
            false
        });
        self.waiting.retain(|held| match held {
            Held::Exchange(id) => self.exchanges.contains_key(id),
            Held::Plain(packet) => {
                let Some(chosen) = choose(packet) else {
                    return true;
                };
                self.bytes -= packet.len();
                withdrawn.push((0, chosen));
                false
            }
        });
        withdrawn
    }

    /// Moves the last `added` exchanges among the repeated ones to the front.
    pub(super) fn repeat_first(&mut self, added: usize) {
        self.repeat.rotate_right(added);
    }

    /// Whether exchanges may have to be repeated.
    pub(super) fn has_repeats(&self) -> bool {
        !self.repeat.is_empty()
    }

    /// Gives back memory that a burst needed.
    pub(super) fn shrink(&mut self) {
        self.exchanges.shrink_to_fit();
        self.untold.shrink_to_fit();
        self.repeat.shrink_to_fit();
        self.waiting.shrink();
    }
}
