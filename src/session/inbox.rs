//! The events that wait for the user, and the limits of their queue. `Session::poll_event` hands them out.

use std::collections::VecDeque;
use std::mem;

use bytes::Bytes;

use super::{Discarded, Failure, RequestError, Unrenewed};
use crate::codec::{Packet, Property, PropertyValue, QoS};

/// The least number of messages for which taking all of them at once pays.
const MANY: usize = 16;
/// The factor between the limit of queued bytes and the bytes that may have been read since the queue was last empty.
const PINNED_RATIO: usize = 16;

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
    /// An accepted message was given up when its turn came, as the settings say.
    Discarded(Discarded),
    /// A kept message, which has waited, is sent. Its answer will have this packet identifier.
    Identified {
        /// Its place in the order in which messages were kept.
        sequence: u64,
        /// The packet identifier, 0 for QoS 0.
        packet_id: u16,
        /// The program's name for it, empty for none.
        tag: Bytes,
    },
    /// An accepted request (see [`Settings::requests`](super::Settings::requests)) will not be sent unless the user sends it again: the server has
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
    pub(super) fn answers(&self) -> Option<u16> {
        use Packet::{Puback, Pubrec, Suback, Unsuback};
        match self {
            Self::Packet(Puback(ack) | Pubrec(ack)) => Some(ack.packet_id),
            Self::Packet(Suback(ack) | Unsuback(ack)) => Some(ack.packet_id),
            Self::Dropped { packet_id, .. }
            | Self::Withdrawn { packet_id, .. }
            | Self::Discarded(Discarded { packet_id, .. }) => Some(*packet_id),
            Self::Packet(_) | Self::Identified { .. } | Self::Unrenewed(_) | Self::Failed(_) => {
                None
            }
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
            | Self::Discarded(_)
            | Self::Dropped { .. }
            | Self::Identified { .. }
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

/// The queue of events.
#[derive(Default)]
pub(super) struct Inbox {
    /// In order. `Session::poll_event` pops the first itself and reports it to [`took`](Self::took): through a function
    /// that returns it, the event would be copied once more, which costs 14 instructions.
    pub(super) events: VecDeque<Event>,
    /// The number of events that are no messages.
    others: u32,
    /// The sum of the events' sizes, in bytes.
    bytes: usize,
    /// Bytes received since the queue was last empty. Each event is a slice of a larger read.
    pinned_bytes: usize,
    /// Whether the queue may hold a message that the user already has from an earlier connection.
    holds_repeats: bool,
}

impl Inbox {
    /// Puts an event at the end.
    #[inline]
    pub(super) fn push(&mut self, event: Event) {
        self.bytes += event.size();
        self.others += u32::from(!event.is_message());
        self.events.push_back(event);
    }

    /// This event has been popped. Returns whether it is a message.
    #[inline]
    pub(super) fn took(&mut self, event: &Event) -> bool {
        self.bytes -= event.size();
        let is_message = event.is_message();
        self.others -= u32::from(!is_message);
        is_message
    }

    /// Takes all events, if they are many and all of them messages, and if none may have to be
    /// [dropped](Self::drop_repeats) yet. `into` must be empty.
    pub(super) fn take_messages(&mut self, into: &mut VecDeque<Event>) -> bool {
        debug_assert!(into.is_empty());
        let take = self.others == 0 && self.events.len() >= MANY && !self.holds_repeats;
        if take {
            mem::swap(&mut self.events, into);
            self.bytes = 0;
        }
        take
    }

    /// Puts messages back that were taken, before the others.
    pub(super) fn give_back(&mut self, mut messages: VecDeque<Event>) {
        self.bytes += messages.iter().map(Event::size).sum::<usize>();
        messages.append(&mut self.events);
        self.events = messages;
    }

    /// Takes all events.
    pub(super) fn take_all(&mut self) -> VecDeque<Event> {
        (self.others, self.bytes) = (0, 0);
        mem::take(&mut self.events)
    }

    /// Bytes that the events hold.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there are too many events to read on, or they pin too much memory. `most` is the limit of their bytes.
    /// `answers` is the number of events that do not count.
    pub(super) fn is_full(&self, most: usize, answers: usize) -> bool {
        self.bytes > most + answers * mem::size_of::<Event>()
            || !self.events.is_empty() && self.pinned_bytes > PINNED_RATIO * most
    }

    /// The session is about to handle received bytes.
    pub(super) fn begin_read(&mut self) {
        if self.events.is_empty() {
            self.pinned_bytes = 0;
            self.holds_repeats = false;
        }
    }

    /// The session has handled so many received bytes, of which events may hold slices.
    pub(super) fn end_read(&mut self, bytes: usize) {
        self.pinned_bytes += bytes;
    }

    /// A message is about to come that the user already has from an earlier connection.
    pub(super) fn expect_repeat(&mut self) {
        self.holds_repeats = true;
    }

    /// Drops the repeats of a QoS 2 message that the user has acknowledged. The message must not come again.
    pub(super) fn drop_repeats(&mut self, packet_id: u16) {
        if self.holds_repeats {
            self.drop_messages(packet_id);
        }
    }

    #[cold]
    fn drop_messages(&mut self, packet_id: u16) {
        let Self { events, bytes, .. } = self;
        events.retain(|event| {
            let dropped = matches!(event, Event::Packet(Packet::Publish(publish))
                if publish.qos == QoS::ExactlyOnce && publish.packet_id == packet_id);
            if dropped {
                *bytes -= event.size();
            }
            !dropped
        });
    }

    /// Gives back memory that a burst needed.
    pub(super) fn shrink(&mut self) {
        if self.events.is_empty() {
            self.events = VecDeque::new();
        }
    }
}
