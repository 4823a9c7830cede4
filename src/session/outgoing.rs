//! What this client has been asked to send and is not done with: exchanges by packet identifier (2.2.1), and the order
//! in which what could not be sent yet will be. What is sent when stands in `send`.

use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasherDefault;
use std::mem;
use std::num::NonZeroU16;

use super::id_map::{IdHasher, IdMap};
use super::limits::QueueLimits;
use crate::codec::{PacketType, Subscribe, Unsubscribe};

/// How far an exchange has come, named by the packet that is awaited next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// A QoS 1 PUBLISH.
    Puback,
    /// A QoS 2 PUBLISH.
    Pubrec,
    /// A QoS 2 PUBLISH that had its PUBREC: the PUBREL is repeated from here on.
    Pubcomp,
    /// A SUBSCRIBE.
    Suback,
    /// An UNSUBSCRIBE.
    Unsuback,
}

/// What a SUBSCRIBE or UNSUBSCRIBE asks for.
#[derive(Debug)]
pub(super) enum Request {
    Subscribe {
        subscribe: Subscribe,
        /// It is one of our own, of no use when the server loses its session again: a new one is made then.
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
        /// Whether it counts against what the server takes at a time.
        counted: bool,
    },
    /// On an earlier connection, and not yet on this one.
    Repeat,
    /// Never.
    Waiting,
    /// On an earlier connection, and never again: the message was given up without the server's knowledge. As long as
    /// that keeps the session it takes another QoS 2 message of the same identifier for this one [MQTT-4.3.3-10].
    Abandoned,
}

/// An exchange that this client began.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) phase: Phase,
    pub(super) progress: Progress,
    /// The whole PUBLISH, SUBSCRIBE or UNSUBSCRIBE, as long as it may have to be sent (again).
    pub(super) packet: Box<[u8]>,
    /// What the packet asks for, if it is no PUBLISH.
    pub(super) request: Option<Box<Request>>,
    /// Place in the order in which exchanges began.
    sequence: u64,
}

impl Exchange {
    /// Whether the server can know of it, and has to answer it.
    fn is_known(&self) -> bool {
        !matches!(self.progress, Progress::Waiting | Progress::Abandoned)
    }

    /// The subscriptions that it renews, if it does.
    pub(super) fn renews(&self) -> Option<&Subscribe> {
        match self.request.as_deref() {
            Some(Request::Subscribe {
                subscribe,
                renews: true,
            }) => Some(subscribe),
            _ => None,
        }
    }

    /// What is left of it when it is given up: its identifier, if the server may hold that for QoS 2.
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

/// Something that has not been sent yet.
enum Waiting {
    /// The packet of this exchange.
    Exchange(u16),
    /// A QoS 0 PUBLISH.
    Plain(Box<[u8]>),
}

/// What is to be sent next of that which had to wait.
pub(super) enum Front {
    Exchange(u16),
    Plain,
}

#[derive(Default)]
pub(super) struct Outgoing {
    exchanges: IdMap<Exchange>,
    /// Packet identifiers whose answer the user has not taken yet: used again, they would stand for two exchanges.
    untold: HashSet<u16, BuildHasherDefault<IdHasher>>,
    /// The identifier handed out last, 0 before the first.
    last: u16,
    /// How many exchanges have begun.
    begun: u64,
    /// Exchanges to be repeated before anything new, in the order in which they began [MQTT-4.6.0-1]. May name some
    /// that have ended meanwhile.
    repeat: VecDeque<u16>,
    /// What was never sent, in the order in which it was asked for.
    waiting: VecDeque<Waiting>,
    /// Bytes of the packets in `waiting`.
    waiting_bytes: usize,
    /// Whether there may be other packets than PUBLISH in `repeat` or `waiting`.
    holds_unlimited: bool,
    /// Bytes of all packets here.
    bytes: usize,
    /// Exchanges that count against what the server takes at a time.
    in_flight: u32,
}

impl Outgoing {
    /// The identifier that comes next, skipping those in use; `None` when all are. Nothing changes until it is
    /// [begun](Self::begin) with.
    ///
    /// With `f` identifiers free, a full turn of the counter looks at 65,535 and hands out at least `f`: with 60,000
    /// exchanges in flight an identifier costs 12 lookups on average, whatever the order in which they end.
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

    /// Whether an exchange holds this identifier, or the user has still to learn that it does not any more.
    pub(super) fn in_use(&self, id: u16) -> bool {
        self.exchanges.contains_key(&id) || self.untold.contains(&id)
    }

    /// Whether no identifier is in use.
    pub(super) fn is_empty(&self) -> bool {
        self.exchanges.is_empty() && self.untold.is_empty()
    }

    /// The answer to the exchange with this identifier, 0 for none, is on its way to the user.
    pub(super) fn answered(&mut self, id: u16) {
        if id != 0 {
            self.untold.insert(id);
        }
    }

    /// The user has taken the answer.
    pub(super) fn told(&mut self, id: u16) {
        self.untold.remove(&id);
    }

    /// How many answers the user has not taken.
    pub(super) fn untold(&self) -> usize {
        self.untold.len()
    }

    /// The counter goes on from here.
    pub(super) fn set_last_id(&mut self, id: u16) {
        self.last = id;
    }

    /// Begins an exchange with a free identifier. One that has not been sent joins the queue, one to be repeated those
    /// that are repeated before it.
    pub(super) fn begin(&mut self, id: u16, phase: Phase, packet: Box<[u8]>, progress: Progress) {
        self.bytes += packet.len();
        match progress {
            Progress::Waiting => {
                self.waiting.push_back(Waiting::Exchange(id));
                self.waiting_bytes += packet.len();
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
        self.bytes += packet.len();
        self.waiting_bytes += packet.len();
        self.waiting.push_back(Waiting::Plain(packet));
    }

    /// The exchange that holds this identifier.
    pub(super) fn get(&self, id: u16) -> Option<&Exchange> {
        self.exchanges.get(&id)
    }

    /// What the exchange with this identifier waits for, if the server can know of it.
    pub(super) fn awaited(&self, id: u16) -> Option<Phase> {
        self.exchanges
            .get(&id)
            .filter(|exchange| exchange.is_known())
            .map(|exchange| exchange.phase)
    }

    /// Takes a QoS 2 exchange from PUBREC to PUBCOMP, as its PUBREL is sent. Says whether it still counts against what
    /// the server takes at a time.
    pub(super) fn released(&mut self, id: u16, counts: bool) {
        if let Some(exchange) = self.exchanges.get_mut(&id) {
            exchange.phase = Phase::Pubcomp;
            self.bytes -= exchange.packet.len();
            exchange.packet = Box::default();
            let counted = exchange.progress == (Progress::Sent { counted: true });
            self.in_flight -= u32::from(counted && !counts);
            // One that is to be repeated the server knows of, so that it does not count on this connection.
            exchange.progress = Progress::Sent {
                counted: counted && counts,
            };
        }
    }

    /// Ends an exchange that is not in the queue: its identifier is free again.
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

    /// What is left of the exchanges when all of them are given up. It goes by `entry`: with a second caller of
    /// `insert` the compiler keeps that out of [`begin`](Self::begin), for 32 instructions a message.
    fn abandoned(&self) -> IdMap<Exchange> {
        let mut left = IdMap::default();
        for (&id, exchange) in &self.exchanges {
            if let Some(abandoned) = exchange.abandoned() {
                left.entry(id).or_insert(abandoned);
            }
        }
        left
    }

    /// Forgets everything that was to be done. The server may never learn of that.
    pub(super) fn forget(&mut self) {
        *self = Outgoing {
            exchanges: self.abandoned(),
            ..Outgoing::default()
        };
    }

    /// Takes the identifiers whose answer the user has not taken, and where they come to.
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

    /// Whether a QoS 2 message has not had its PUBREC.
    pub(super) fn awaits_pubrec(&self) -> bool {
        self.exchanges
            .values()
            .any(|e| e.phase == Phase::Pubrec && e.progress != Progress::Abandoned)
    }

    /// How many exchanges count against what the server takes at a time.
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// How many QoS 1 and 2 messages have been sent and not acknowledged to the end.
    pub(super) fn unacknowledged(&self) -> usize {
        let of_message = |exchange: &&Exchange| {
            let message = !matches!(exchange.phase, Phase::Suback | Phase::Unsuback);
            message && exchange.is_known()
        };
        self.exchanges.values().filter(of_message).count()
    }

    /// Whether something has to be sent before anything new.
    pub(super) fn has_held(&self) -> bool {
        !(self.repeat.is_empty() && self.waiting.is_empty())
    }

    /// How many packets were never sent, and their bytes.
    pub(super) fn queued(&self) -> (usize, usize) {
        (self.waiting.len(), self.waiting_bytes)
    }

    /// Bytes of all packets here.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What is to be sent next.
    pub(super) fn front(&mut self) -> Option<Front> {
        while let Some(&id) = self.repeat.front() {
            let exchange = self.exchanges.get(&id);
            if exchange.is_some_and(|exchange| exchange.progress == Progress::Repeat) {
                return Some(Front::Exchange(id));
            }
            self.repeat.pop_front();
        }
        self.waiting.front().map(|waiting| match waiting {
            Waiting::Exchange(id) => Front::Exchange(*id),
            Waiting::Plain(_) => Front::Plain,
        })
    }

    /// Moves the first packet of an exchange that is not a PUBLISH, and is still to be sent, to the front of its queue.
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
        let waiting = self.waiting.iter().position(|waiting| match waiting {
            Waiting::Exchange(id) => held(id, Progress::Waiting),
            Waiting::Plain(_) => false,
        });
        if let Some(Waiting::Exchange(id)) = waiting.and_then(|at| self.waiting.remove(at)) {
            self.waiting.push_front(Waiting::Exchange(id));
            return Some(id);
        }
        self.holds_unlimited = false;
        None
    }

    /// Takes the QoS 0 PUBLISH that is at the front.
    pub(super) fn take_plain(&mut self) -> Option<Box<[u8]>> {
        match self.waiting.pop_front()? {
            Waiting::Plain(packet) => {
                self.waiting_bytes -= packet.len();
                self.bytes -= packet.len();
                Some(packet)
            }
            exchange => {
                self.waiting.push_front(exchange);
                None
            }
        }
    }

    /// The exchange at the front leaves its queue.
    pub(super) fn leave_queue(&mut self, id: u16, progress: Progress) {
        let Some(exchange) = self.exchanges.get_mut(&id) else {
            return;
        };
        if exchange.progress == Progress::Waiting {
            self.waiting.pop_front();
            self.waiting_bytes -= exchange.packet.len();
        } else {
            self.repeat.pop_front();
        }
        exchange.progress = progress;
        if progress == (Progress::Sent { counted: true }) {
            self.in_flight += 1;
        }
    }

    /// How many messages that were never sent have to make room for one more packet of this size; `None` if that does
    /// not suffice.
    pub(super) fn to_drop_for(&self, size: usize, limits: QueueLimits) -> Option<usize> {
        let (mut packets, mut bytes) = self.queued();
        let fits =
            |packets, bytes| packets < limits.max_messages && bytes + size <= limits.max_bytes;
        let mut count = 0;
        let mut messages = self
            .waiting
            .iter()
            .filter_map(|waiting| self.message(waiting));
        while !fits(packets, bytes) {
            let message = messages.next().filter(|_| limits.drop_oldest)?;
            packets -= 1;
            bytes -= message.len();
            count += 1;
        }
        Some(count)
    }

    /// The PUBLISH that waits, if it is one.
    fn message<'a>(&'a self, waiting: &'a Waiting) -> Option<&'a [u8]> {
        match waiting {
            Waiting::Plain(packet) => Some(packet),
            Waiting::Exchange(id) => {
                let exchange = self.exchanges.get(id)?;
                exchange.phase.sends_message().then_some(&exchange.packet)
            }
        }
    }

    /// Drops the oldest message that was never sent. Returns its packet identifier, 0 for QoS 0; `None` if there is
    /// none.
    pub(super) fn drop_oldest(&mut self) -> Option<u16> {
        let is_message = |waiting: &Waiting| self.message(waiting).is_some();
        let position = self.waiting.iter().position(is_message)?;
        let (id, size) = match self.waiting.remove(position)? {
            Waiting::Plain(packet) => (0, packet.len()),
            Waiting::Exchange(id) => {
                let exchange = self.exchanges.remove(&id)?;
                (id, exchange.packet.len())
            }
        };
        self.waiting_bytes -= size;
        self.bytes -= size;
        Some(id)
    }

    /// The connection is gone: what was sent on it is to be repeated on the next.
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

    /// The server has no session: what it had acknowledged with PUBREC is done, and subscriptions are renewed afresh.
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

    /// Takes out the messages that have not been sent on this connection and of which `choose` wants something. Returns
    /// their packet identifiers, 0 for QoS 0, with that; in no order.
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
            if exchange.progress == Progress::Waiting {
                self.waiting_bytes -= exchange.packet.len();
            }
            self.untold.insert(id);
            withdrawn.push((id, chosen));
            false
        });
        self.waiting.retain(|waiting| match waiting {
            Waiting::Exchange(id) => self.exchanges.contains_key(id),
            Waiting::Plain(packet) => {
                let Some(chosen) = choose(packet) else {
                    return true;
                };
                self.bytes -= packet.len();
                self.waiting_bytes -= packet.len();
                withdrawn.push((0, chosen));
                false
            }
        });
        withdrawn
    }

    /// So many exchanges that were added last to those to be repeated come first.
    pub(super) fn repeat_first(&mut self, added: usize) {
        self.repeat.rotate_right(added);
    }

    /// Whether there may be exchanges to be repeated.
    pub(super) fn has_repeats(&self) -> bool {
        !self.repeat.is_empty()
    }

    /// Gives back memory that a burst needed.
    pub(super) fn shrink(&mut self) {
        self.exchanges.shrink_to_fit();
        self.untold.shrink_to_fit();
        self.repeat.shrink_to_fit();
        self.waiting.shrink_to_fit();
    }
}
