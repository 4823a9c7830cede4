//! Decides when packets go out: at once, or, in order, when the connection, the server's CONNACK or its receive maximum
//! lets them.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::aliases::Assigned;
use super::discarded::{Discarded, Why};
use super::kept::{qos_of, set_packet_id};
use super::outgoing::{Exchange, Front, Phase, Progress, Request};
use super::queue::Times;
use super::{Event, Failure, NotRenewed, RequestError, Session, State, Unrenewed};
use crate::codec::{
    Decoder, EncodeError, Packet, PacketType, Properties, Property, PropertyId, PropertyValue,
    Publish, PublishRef, QoS, Str, Subscribe, Version, encode, encode_ack, encode_publish,
    encode_publish_head, has_wildcard, is_shared,
};

/// Held back packets are sent while fewer bytes than this wait to be written.
const BURST: usize = 64 << 10;
/// Kept messages are sent while those under way hold fewer bytes than this, and while so many are not answered, or the user
/// has not taken the answers.
pub(super) const MOST_UNDER_WAY: usize = 8 << 20;
const MOST_UNANSWERED: usize = 1 << 14;
/// How many times a second messages go out that have waited, at most.
const TURNS: u32 = 100;
/// Room for a packet of the usual size, in bytes.
const USUAL: usize = 256;
/// Kept messages that have waited for too long are given up while fewer events wait for the user, and fewer of their bytes
/// have been read: there may be a million of them.
const MOST_EVENTS: usize = 1 << 10;
const MOST_GIVEN_UP: usize = 1 << 20;
/// The DUP flag in the first byte of a PUBLISH.
const DUP: u8 = 1 << 3;

/// How many messages that have waited go out each time, and the time between.
pub(super) struct Pace {
    messages: u32,
    pause: Duration,
    /// How many more may go this time.
    left: u32,
    pub(super) next: Instant,
}

impl Pace {
    /// At most so many messages a second.
    fn new(rate: NonZeroU32, now: Instant) -> Self {
        let messages = (rate.get() / TURNS).max(1);
        let pause = Duration::from_secs(messages.into()) / rate.get();
        Self {
            messages,
            pause,
            left: messages,
            next: now + pause,
        }
    }
}

impl Session {
    /// Sends the held back packets that may go now.
    pub(super) fn send_held(&mut self) {
        if self.state() == State::Connected && self.has_to_send() {
            self.send_held_up_to(BURST);
        }
    }

    /// Does the same while fewer than `most` bytes wait to be written.
    pub(super) fn send_held_up_to(&mut self, most: usize) {
        while self.unsent() < most {
            let sent = match self.outgoing.front() {
                None => self.send_kept(),
                Some(Front::Plain) => self.send_plain(),
                Some(Front::Exchange(id)) => self.send_exchange(id),
            };
            if !sent {
                if self.pace.is_some() && !self.has_to_send() {
                    self.pace = None;
                }
                return self.send_unlimited(most);
            }
        }
    }

    /// Sends the packets that the receive maximum does not concern, past the messages that wait for it [MQTT-3.3.4-8].
    fn send_unlimited(&mut self, most: usize) {
        while self.unsent() < most
            && let Some(id) = self.outgoing.bring_unlimited_forward()
        {
            self.send_exchange(id);
        }
    }

    /// Bytes that wait to be written, behind the store's gate or before it.
    fn unsent(&self) -> usize {
        let kept = self.kept.as_ref().map_or(0, |kept| kept.bytes());
        self.transport.transmit.len() + kept
    }

    /// Sends the first kept message that was never sent. Returns false if there is none, or if it has to wait.
    fn send_kept(&mut self) -> bool {
        if self.is_spent() {
            return false;
        }
        let quota = self.has_quota();
        let is_v5 = self.version == Version::V50;
        let Some(kept) = &mut self.kept else {
            return false;
        };
        let events = self.inbox.events.len();
        if events == 0 {
            kept.given_up = 0;
        }
        let may_give_up = events < MOST_EVENTS && kept.given_up < MOST_GIVEN_UP;
        let front = match kept.front() {
            Ok(Some(front)) => front,
            Ok(None) => return false,
            Err(error) => {
                self.fail(Failure::Store(error));
                return false;
            }
        };
        let phase = match qos_of(front.packet) {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => Some(Phase::Puback),
            QoS::ExactlyOnce => Some(Phase::Pubrec),
        };
        let counted = phase == Some(Phase::Pubrec) || phase.is_some() && is_v5;
        if phase.is_some() && !quota
            || self.outgoing.bytes() >= MOST_UNDER_WAY
            || self.outgoing.unanswered() >= MOST_UNANSWERED
        {
            return false;
        }
        let size = front.packet.len();
        let packet = match front.is_expired {
            true => None,
            false => count_down(self.version, front.packet, front.waited),
        };
        let Some(mut packet) = packet else {
            if !may_give_up {
                return false;
            }
            kept.given_up += size;
            match kept.discard_front(Why::Expired) {
                Ok(discarded) => discarded.into_iter().for_each(|it| self.tell_discarded(it)),
                Err(error) => self.fail(Failure::Store(error)),
            }
            return self.state() == State::Connected;
        };
        let packet_id = match (phase, self.outgoing.next_id()) {
            (None, _) => 0,
            (Some(_), Some(id)) => id.get(),
            (Some(_), None) => return false,
        };
        let (sequence, tag) = match kept.pass_front(packet_id) {
            Ok(passed) => passed,
            Err(error) => {
                self.fail(Failure::Store(error));
                return false;
            }
        };
        self.inbox.push(Event::Identified {
            sequence,
            packet_id,
            tag,
        });
        self.spend();
        let Some(phase) = phase else {
            match self.append_stored(&packet, false) {
                Ok(()) => self.counters.messages_sent += 1,
                Err(error) => self.drop_message(0, error),
            }
            return true;
        };
        set_packet_id(&mut packet, packet_id);
        match self.append_stored(&packet, false) {
            Ok(()) => {
                self.counters.messages_sent += 1;
                let progress = Progress::Sent { counted };
                self.outgoing.begin(packet_id, phase, packet, progress);
            }
            Err(error) => {
                self.done(packet_id);
                self.drop_message(packet_id, error);
            }
        }
        self.outgoing.set_last_id(packet_id);
        true
    }

    /// Sends the QoS 0 PUBLISH at the front of the queue. Returns false if it has to wait.
    fn send_plain(&mut self) -> bool {
        if self.is_spent() {
            return false;
        }
        let times = self.outgoing.front_times();
        let Some(packet) = self.outgoing.take_plain() else {
            return false;
        };
        let Some(packet) = self.in_time(0, packet, times) else {
            return true;
        };
        match self.append_stored(&packet, false) {
            Ok(()) => self.counters.messages_sent += 1,
            Err(error) => self.drop_message(0, error),
        }
        self.spend();
        true
    }

    /// Sends the packet of the exchange at the front. Returns false if it has to wait.
    fn send_exchange(&mut self, id: u16) -> bool {
        let Some(exchange) = self.outgoing.get(id) else {
            return false;
        };
        let phase = exchange.phase;
        let counted = self.is_counted(phase);
        if phase.sends_message() && !self.has_quota() {
            return false;
        }
        if phase == Phase::Pubcomp {
            encode_ack(PacketType::Pubrel, id, &mut self.transport.transmit);
            self.outgoing.leave_queue(id, Progress::Sent { counted });
            return true;
        }
        let message = phase.sends_message();
        let repeated = exchange.progress == Progress::Repeat;
        if message && !repeated {
            if self.is_spent() {
                return false;
            }
            if let Some(times) = self.outgoing.front_times() {
                let packet = exchange.packet.clone();
                match self.in_time(id, packet, Some(times)) {
                    Some(packet) => self.outgoing.set_packet(id, packet),
                    None => {
                        self.outgoing.leave_queue(id, Progress::Waiting);
                        self.outgoing.end(id);
                        return true;
                    }
                }
            }
            self.spend();
        }
        let Some(exchange) = self.outgoing.get(id) else {
            return false;
        };
        // [MQTT-3.3.1-1]. To a server without a session the message is new.
        let dup = message && repeated && self.session_present();
        let allowed = match exchange.request.as_deref() {
            Some(Request::Subscribe { subscribe, .. }) => self.check_subscribe(subscribe),
            Some(Request::Unsubscribe(_)) | None => Ok(()),
        };
        let packet = exchange.packet.clone();
        let sent = allowed.and_then(|()| self.append_stored(&packet, dup));
        self.outgoing.leave_queue(id, Progress::Sent { counted });
        match sent {
            Ok(()) => self.counters.messages_sent += u64::from(message && !repeated),
            Err(error) => {
                self.done(id);
                let ended = match repeated && self.session_present() {
                    true => self.outgoing.abandon(id),
                    false => self.outgoing.end(id),
                };
                if let Some(renewed) = ended.as_ref().and_then(Exchange::renews) {
                    for subscription in &renewed.subscriptions {
                        let reason = NotRenewed::Request(error.clone());
                        self.inbox.push(unrenewed(&subscription.filter, reason));
                    }
                } else {
                    self.drop_message(id, error);
                }
            }
        }
        true
    }

    /// A message that has waited, as it is to be sent now. `None` if that is too late; then it is told.
    fn in_time(
        &mut self,
        packet_id: u16,
        packet: Box<[u8]>,
        times: Option<Times>,
    ) -> Option<Box<[u8]>> {
        let (Some(Times { since, expires }), Some(clock)) = (times, self.settings.clock) else {
            return Some(packet);
        };
        let now = clock();
        let waited = now.saturating_duration_since(since).as_secs() as u32;
        let left = match expires {
            Some(at) if at <= now => None,
            _ => count_down(self.version, &packet, waited),
        };
        if left.is_none() {
            self.tell_discarded(Discarded::queued(packet_id, &packet, Why::Expired));
        }
        left
    }

    /// Tells the user that a message is given up whose turn has come.
    fn tell_discarded(&mut self, message: Discarded) {
        self.counters.dropped += 1;
        self.deliver_answer(Event::Discarded(message));
    }

    /// The connection is there. If the settings say so, what has waited for it is sent little by little.
    pub(super) fn set_pace(&mut self, now: Instant) {
        let rate = self.backlog().rate;
        self.pace = rate.map(|rate| Box::new(Pace::new(rate, now)));
    }

    /// The next messages that have waited may go.
    pub(super) fn send_more(&mut self, now: Instant) {
        if let Some(pace) = &mut self.pace {
            pace.left = pace.messages;
            pace.next = now + pace.pause;
        }
    }

    /// Whether messages that have waited must wait on, for their pace.
    fn is_spent(&self) -> bool {
        self.pace.as_ref().is_some_and(|pace| pace.left == 0)
    }

    /// A message that has waited is being sent.
    fn spend(&mut self) {
        if let Some(pace) = &mut self.pace {
            pace.left -= 1;
        }
    }

    /// Whether the server takes one more message of QoS 1 or 2 now [MQTT-3.3.4-7]. With 3.1.1 messages of QoS 1 are not
    /// [counted](Self::is_counted), but mosquitto 2.0 refuses them too when it holds as many of QoS 2 as it takes, with a
    /// PUBACK that looks like success.
    pub(super) fn has_quota(&self) -> bool {
        let most = match self.version {
            Version::V311 => self.settings.server_receive_maximum,
            Version::V50 => self.connection.server().receive_maximum,
        };
        self.outgoing.in_flight() < u32::from(most)
    }

    /// Whether an exchange counts against the server's receive maximum (4.9): QoS 2 messages do, and in 5.0 QoS 1
    /// messages, but a repeated PUBREL does not.
    pub(super) fn is_counted(&self, phase: Phase) -> bool {
        match phase {
            Phase::Puback => self.version == Version::V50,
            Phase::Pubrec => true,
            Phase::Pubcomp | Phase::Suback | Phase::Unsuback => false,
        }
    }

    /// Tells the user that an accepted packet will not be sent, because the server does not take it.
    fn drop_message(&mut self, packet_id: u16, reason: RequestError) {
        self.counters.dropped += 1;
        self.deliver_answer(Event::Dropped { packet_id, reason });
    }

    /// Appends a stored packet, if the server takes it.
    fn append_stored(&mut self, packet: &[u8], dup: bool) -> Result<(), RequestError> {
        let first_byte = packet[0];
        if PacketType::from_code(first_byte >> 4) == Some(PacketType::Publish) {
            let qos = QoS::from_code(first_byte >> 1 & 3).expect("as it was encoded");
            self.check_publish(qos, first_byte & 1 != 0)?;
            if self.settings.topic_aliases && self.connection.server().topic_alias_maximum > 0 {
                let publish = decode_publish(self.version, packet);
                let publish = publish.expect("a PUBLISH, as it was encoded");
                let message = PublishRef {
                    dup: publish.dup || dup,
                    ..(&publish).into()
                };
                return self.append_publish(&message);
            }
        }
        let start = self.transport.transmit.len();
        self.append_encoded(packet)?;
        if dup {
            self.transport.transmit[start] |= DUP;
        }
        Ok(())
    }

    /// Appends a packet as it was encoded.
    pub(super) fn append_encoded(&mut self, packet: &[u8]) -> Result<(), RequestError> {
        self.append(0, |_, out| {
            out.extend_from_slice(packet);
            Ok(())
        })
    }

    /// Gives back the requests that must not be sent on this connection before the user has subscribed to their
    /// response topics again. Returns the news for the user.
    pub(super) fn withdraw_requests(&mut self) -> Vec<Event> {
        let (version, settings) = (self.version, &self.settings);
        let Some(prefix) = settings.requests.as_deref() else {
            return Vec::new();
        };
        let correlation_data = |message: &[u8]| {
            let publish = decode_publish(version, message)?;
            let data = publish.properties.binary(PropertyId::CorrelationData);
            data.filter(|data| data.starts_with(prefix)).cloned()
        };
        let withdrawn = self.outgoing.withdraw(correlation_data);
        for (packet_id, _) in &withdrawn {
            self.done(*packet_id);
        }
        let withdrawn = withdrawn.into_iter();
        withdrawn
            .map(|(packet_id, correlation_data)| Event::Withdrawn {
                packet_id,
                correlation_data,
            })
            .collect()
    }

    /// Checks a message against the server's limits.
    pub(super) fn check_publish(&self, qos: QoS, retain: bool) -> Result<(), RequestError> {
        let server = self.connection.server();
        if qos > server.maximum_qos {
            let max = server.maximum_qos;
            return Err(RequestError::QoSNotSupported { qos, max });
        }
        if retain && !server.retain_available {
            return Err(RequestError::RetainNotSupported);
        }
        Ok(())
    }

    /// Checks subscriptions against the server's limits. Their QoS needs no check: the server grants the QoS that it
    /// supports [MQTT-3.2.2-10].
    pub(super) fn check_subscribe(&self, subscribe: &Subscribe) -> Result<(), RequestError> {
        let server = self.connection.server();
        for subscription in &subscribe.subscriptions {
            let filter = &subscription.filter;
            if !server.wildcard_subscription_available && has_wildcard(filter) {
                return Err(RequestError::WildcardsNotSupported);
            }
            if !server.shared_subscription_available && is_shared(filter) {
                return Err(RequestError::SharedNotSupported);
            }
        }
        let identifier = PropertyId::SubscriptionIdentifier;
        if !server.subscription_identifiers_available
            && subscribe.properties.first(identifier).is_some()
        {
            return Err(RequestError::SubscriptionIdentifiersNotSupported);
        }
        Ok(())
    }

    /// Appends a PUBLISH, with an automatic alias for its topic if the settings ask for one.
    pub(super) fn append_publish(&mut self, message: &PublishRef<'_>) -> Result<(), RequestError> {
        if self.settings.topic_aliases
            && let Some(connected) = self.connection.connected()
            && !message.topic.is_empty()
        {
            let maximum = connected.server.topic_alias_maximum;
            match connected.sent_aliases.assign(message.topic, maximum) {
                None => {}
                Some(Assigned::Known(alias)) => {
                    let (topic, properties) = ("", &with_alias(message.properties, alias));
                    let message = PublishRef {
                        topic,
                        properties,
                        ..*message
                    };
                    if self.append_whole(&message).is_ok() {
                        return Ok(());
                    }
                }
                Some(Assigned::New(alias)) => {
                    let properties = &with_alias(message.properties, alias);
                    let message = PublishRef {
                        properties,
                        ..*message
                    };
                    if self.append_whole(&message).is_ok() {
                        if let Some(connected) = self.connection.connected_mut() {
                            connected.sent_aliases.assigned(alias, message.topic);
                        }
                        return Ok(());
                    }
                }
            }
        }
        // The message may fit without an alias where it does not fit with one.
        self.append_whole(message)
    }

    fn append_whole(&mut self, message: &PublishRef<'_>) -> Result<(), RequestError> {
        self.append(0, |version, out| encode_publish(message, version, out))
    }

    /// Appends a PUBLISH without its payload.
    pub(super) fn append_publish_head(
        &mut self,
        message: &PublishRef<'_>,
    ) -> Result<(), RequestError> {
        self.append(message.payload.len(), |version, out| {
            encode_publish_head(message, version, out)
        })
    }

    pub(super) fn append_packet(&mut self, packet: &Packet) -> Result<(), RequestError> {
        self.append(0, |version, out| encode(packet, version, out))
    }

    /// Appends a packet to the bytes that wait to be written. Refuses it if it, with `to_follow` more bytes, is larger
    /// than the server accepts [MQTT-3.2.2-15].
    #[inline]
    fn append(
        &mut self,
        to_follow: usize,
        encode: impl FnOnce(Version, &mut BytesMut) -> Result<(), EncodeError>,
    ) -> Result<(), RequestError> {
        let out = &mut self.transport.transmit;
        let before = out.len();
        encode(self.version, out)?;
        let fits = self.check_size(self.transport.transmit.len() - before + to_follow);
        if fits.is_err() {
            self.transport.transmit.truncate(before);
        }
        fits
    }

    #[inline]
    fn check_size(&self, size: usize) -> Result<(), RequestError> {
        let max = self.connection.server().maximum_packet_size;
        match size <= max as usize {
            true => Ok(()),
            false => Err(RequestError::PacketTooLarge { size, max }),
        }
    }

    /// The bytes of a packet that is stored. If the server's limits are known, they apply already.
    pub(super) fn encode_stored(
        &self,
        encode: impl FnOnce(Version, &mut BytesMut) -> Result<(), EncodeError>,
    ) -> Result<Box<[u8]>, RequestError> {
        let mut packet = BytesMut::with_capacity(USUAL);
        encode(self.version, &mut packet)?;
        self.check_size(packet.len())?;
        Ok(packet[..].into())
    }

    /// The topic and properties by which a message can be sent on any connection, if it has a topic alias of the
    /// program's own. Such an alias is only good for this connection.
    pub(super) fn without_alias(
        &self,
        message: &PublishRef<'_>,
    ) -> Result<Option<(Str, Properties)>, RequestError> {
        let Some(alias) = message.properties.two_byte(PropertyId::TopicAlias) else {
            return Ok(None);
        };
        if self.settings.topic_aliases {
            return Err(RequestError::TopicAliasAutomatic);
        }
        let connected = self.connection.connected();
        if let Some(connected) = connected
            && let max = connected.server.topic_alias_maximum
            && alias > max
        {
            return Err(RequestError::TopicAlias { alias, max });
        }
        let topic = match message.topic {
            "" => connected.and_then(|it| it.sent_aliases.topic(alias).cloned()),
            topic => Str::try_from(topic).ok(),
        };
        let topic = topic.ok_or(RequestError::TopicAliasUnknown(alias))?;
        let kept = |property: &&Property| property.id != PropertyId::TopicAlias;
        let properties = message.properties.iter().filter(kept).cloned().collect();
        Ok(Some((topic, properties)))
    }
}

/// A PUBLISH that has waited for some seconds, with what is left of its message expiry interval; `None` if nothing is
/// left (3.3.2.3.3).
fn count_down(version: Version, packet: &[u8], waited: u32) -> Option<Box<[u8]>> {
    let id = PropertyId::MessageExpiryInterval;
    let publish = match (version, waited) {
        (Version::V311, _) | (_, 0) => None,
        _ => decode_publish(version, packet),
    };
    let Some((mut publish, interval)) = publish.and_then(|publish| {
        let interval = publish.properties.four_byte(id)?;
        Some((publish, interval))
    }) else {
        return Some(packet.into());
    };
    let left = interval.checked_sub(waited).filter(|left| *left > 0)?;
    let rest = publish
        .properties
        .iter()
        .map(|property| match property.id == id {
            true => Property {
                id,
                value: PropertyValue::FourByte(left),
            },
            false => property.clone(),
        });
    publish.properties = rest.collect();
    let mut bytes = BytesMut::new();
    encode_publish(&PublishRef::from(&publish), version, &mut bytes).ok()?;
    Some(bytes[..].into())
}

/// Whether a PUBLISH, as it was encoded, is a request (4.10).
pub fn has_response_topic(version: Version, packet: &[u8]) -> bool {
    let publish = match version {
        Version::V311 => None,
        Version::V50 => decode_publish(version, packet),
    };
    publish.is_some_and(|it| it.properties.first(PropertyId::ResponseTopic).is_some())
}

/// The PUBLISH that was stored as these bytes.
fn decode_publish(version: Version, packet: &[u8]) -> Option<Publish> {
    let mut bytes = BytesMut::from(packet);
    match Decoder::new(version).decode(&mut bytes) {
        Ok(Some(Packet::Publish(publish))) => Some(publish),
        _ => None,
    }
}

/// The news that a subscription could not be renewed.
pub(super) fn unrenewed(filter: &Str, reason: NotRenewed) -> Event {
    let filter = filter.clone();
    Event::Unrenewed(Unrenewed { filter, reason })
}

fn with_alias(properties: &Properties, alias: u16) -> Properties {
    let mut properties = properties.clone();
    properties.push(Property {
        id: PropertyId::TopicAlias,
        value: PropertyValue::TwoByte(alias),
    });
    properties
}
