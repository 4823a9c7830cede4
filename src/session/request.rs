//! The user's requests to a [`Session`]. A request that fails changes nothing and sends nothing.

use std::fmt;
use std::mem;
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::connection::{Connected, Connecting, Connection};
use super::discarded::{Discarded, Why};
use super::incoming::Received;
use super::kept::{KeepError, Label};
use super::outgoing::{Phase, Progress, Request};
use super::queue::Times;
use super::send::MOST_UNDER_WAY;
use super::{QueueLimits, Session, State};
use crate::codec::{
    Ack, Connect, Disconnect, EncodeError, Packet, PacketType, Properties, PropertyId, PublishRef,
    QoS, Str, Subscribe, Subscription, Unsubscribe, Version, encode, encode_ack, encode_publish,
    encode_subscribe, encode_unsubscribe, reason::is_refusal, reason_listed,
};

/// Why a request was refused. Shown to the user as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// There is no network connection.
    NotConnected,
    /// CONNECT must come first, and has not been sent [MQTT-3.1.0-1].
    ConnectFirst(PacketType),
    /// A second CONNECT [MQTT-3.1.0-2].
    ConnectAgain,
    /// Before CONNACK, a client that authenticates itself may send only AUTH and DISCONNECT [MQTT-3.1.2-30].
    Authenticating(PacketType),
    /// AUTH, although CONNECT had no authentication method (4.12).
    NoAuthenticationMethod,
    /// A client may not send this reason code in this packet.
    ReasonCode(PacketType, u8),
    /// DISCONNECT cannot prolong a session that was to end with the connection (3.14.2.2.2).
    SessionExpiry,
    /// The packet identifier is in use by another exchange [MQTT-2.2.1-3].
    PacketIdInUse(u16),
    /// All packet identifiers are in use.
    NoPacketId,
    /// No received message with this packet identifier waits for the acknowledgement.
    NotReceived(u16),
    /// The packet is larger than the server accepts [MQTT-3.2.2-15].
    PacketTooLarge {
        /// The size of the packet, in bytes.
        size: usize,
        /// The largest packet that the server accepts, in bytes.
        max: u32,
    },
    /// The QoS is higher than the server supports [MQTT-3.2.2-11].
    QoSNotSupported {
        /// The QoS of the message.
        qos: QoS,
        /// The highest QoS that the server supports.
        max: QoS,
    },
    /// The server does not retain messages [MQTT-3.2.2-14].
    RetainNotSupported,
    /// The topic alias is higher than the server accepts [MQTT-3.3.2-9].
    TopicAlias {
        /// The alias of the message.
        alias: u16,
        /// The highest alias that the server accepts, 0 for none.
        max: u16,
    },
    /// A topic alias without a topic, which has not been sent with its topic on this connection (3.3.2.3.4).
    TopicAliasUnknown(u16),
    /// A topic alias of the program's own, although the session gives out aliases itself.
    TopicAliasAutomatic,
    /// A client may not publish with a subscription identifier [MQTT-3.3.4-6].
    SubscriptionIdentifier,
    /// The queue of messages that wait for a connection is full.
    QueueFull(QueueLimits),
    /// The server does not support wildcards in topic filters (3.2.2.3.11).
    WildcardsNotSupported,
    /// The server does not support shared subscriptions (3.2.2.3.13).
    SharedNotSupported,
    /// The server does not support subscription identifiers (3.2.2.3.12).
    SubscriptionIdentifiersNotSupported,
    /// The store does not keep the message.
    Store(KeepError),
    /// The packet would break a rule.
    Encode(EncodeError),
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConnected => f.write_str("network connection is not opened"),
            Self::ConnectFirst(packet) => write!(f, "{packet}: CONNECT must be sent first"),
            Self::ConnectAgain => f.write_str("CONNECT: already sent on this connection"),
            Self::Authenticating(packet) => write!(
                f,
                "{packet}: only AUTH and DISCONNECT may be sent before CONNACK with an authentication method"
            ),
            Self::NoAuthenticationMethod => {
                f.write_str("AUTH: CONNECT had no authentication method")
            }
            Self::ReasonCode(packet, code) => {
                write!(f, "{packet}: unexpected reason code: 0x{code:02X}")
            }
            Self::SessionExpiry => {
                f.write_str("DISCONNECT: session_expiry_interval must be 0 as it was in CONNECT")
            }
            Self::PacketIdInUse(id) => write!(f, "packet identifier {id} is in use"),
            Self::NoPacketId => f.write_str(
                "all 65535 packet identifiers are in use: go on when a callback or the event acknowledge tells of an answer",
            ),
            Self::NotReceived(id) => write!(
                f,
                "no received message with packet identifier {id} waits for an acknowledgement"
            ),
            Self::PacketTooLarge { size, max } => write!(
                f,
                "the server accepts packets of at most {max} bytes, got {size}"
            ),
            Self::QoSNotSupported { qos, max } => write!(
                f,
                "the server supports QoS {} at most, got {}",
                *max as u8, *qos as u8
            ),
            Self::RetainNotSupported => {
                f.write_str("the server does not support retained messages")
            }
            Self::TopicAlias { alias, max: 0 } => {
                write!(f, "the server accepts no topic alias, got {alias}")
            }
            Self::TopicAlias { alias, max } => {
                write!(
                    f,
                    "the server accepts topic aliases up to {max}, got {alias}"
                )
            }
            Self::TopicAliasUnknown(alias) => {
                write!(
                    f,
                    "topic alias {alias} stands for no topic on this connection"
                )
            }
            Self::TopicAliasAutomatic => {
                f.write_str("PUBLISH: topic_alias must not be given with automatic topic aliases")
            }
            Self::QueueFull(limits) => write!(
                f,
                "the queue is full: it takes {} messages and {} bytes",
                limits.max_messages, limits.max_bytes
            ),
            Self::SubscriptionIdentifier => {
                f.write_str("PUBLISH: a client must not send subscription_identifiers")
            }
            Self::WildcardsNotSupported => {
                f.write_str("the server does not support wildcards in topic filters")
            }
            Self::SharedNotSupported => {
                f.write_str("the server does not support shared subscriptions")
            }
            Self::SubscriptionIdentifiersNotSupported => {
                f.write_str("the server does not support subscription identifiers")
            }
            Self::Store(error) => error.fmt(f),
            Self::Encode(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RequestError {}

/// The rest of the work on a connection that the user lets go of, see [`Session::part`].
pub enum Parted {
    /// No work: not even CONNECT has been sent.
    Nothing,
    /// Write these bytes.
    Rest(BytesMut),
    /// Serve this session until it [`owes`](Session::owes) nothing.
    Session(Box<Session>),
}

impl From<EncodeError> for RequestError {
    fn from(error: EncodeError) -> Self {
        Self::Encode(error)
    }
}

impl Session {
    /// Sends CONNECT, the first packet of a connection.
    ///
    /// # Errors
    /// [`RequestError::NotConnected`], [`RequestError::ConnectAgain`], or [`RequestError::Encode`] for a CONNECT that
    /// breaks a rule.
    pub fn connect(&mut self, connect: &Connect) -> Result<(), RequestError> {
        match self.state() {
            State::Disconnected => return Err(RequestError::NotConnected),
            State::Open => {}
            State::Connecting | State::Connected => return Err(RequestError::ConnectAgain),
        }
        self.append_packet(&Packet::Connect(Box::new(connect.clone())))?;
        if connect.clean && !self.keeps_exchanges() {
            self.forget();
        }

        self.transport.timers.set_connack(None);
        let connecting = Connecting::new(connect, self.counters.messages_sent);
        // While the client authenticates itself, PINGREQ may not be sent. So keep alive runs from CONNACK on.
        if connecting.requested.authentication_method.is_none() {
            self.transport.timers.set_keep_alive(connect.keep_alive);
        }
        let most = self.settings.max_packet_size;
        let maximum = connect.properties.four_byte(PropertyId::MaximumPacketSize);
        self.transport
            .decoder
            .set_max_packet_size(maximum.unwrap_or(most).min(most));
        self.connection = Connection::Connecting(connecting);
        Ok(())
    }

    /// Sends PUBLISH, as soon as it may be sent, and returns its packet identifier. For QoS 1 and 2 the packet
    /// identifier 0 asks for a new one; another identifier is the program's own and must be free. QoS 0 ignores the
    /// identifier and returns 0.
    ///
    /// Other messages may be dropped from the queue for it, see [`take_discarded`](Self::take_discarded).
    ///
    /// With a [store](Self::keep_in), a message of QoS 1 or 2 goes the way of [`publish_kept`](Self::publish_kept), without
    /// a label. The packet identifier is 0 then if the message waits.
    ///
    /// # Errors
    /// There is neither a connection nor a queue for it, the queue is full, the message exceeds a limit of the server,
    /// its packet identifier is in use or none is free, or it breaks a rule: see [`RequestError`].
    pub fn publish(&mut self, message: &PublishRef<'_>) -> Result<u16, RequestError> {
        self.publish_within(message, None)
    }

    /// Sends PUBLISH like [`publish`](Self::publish), unless it would have to wait for longer than this: then it is given up,
    /// see [`Event::Discarded`].
    ///
    /// # Errors
    /// See there.
    pub fn publish_within(
        &mut self,
        message: &PublishRef<'_>,
        expires_in: Option<Duration>,
    ) -> Result<u16, RequestError> {
        if self.kept.is_some() && message.qos != QoS::AtMostOnce {
            let label = Label {
                expires_in: expires_in.map_or(0, |time| time.as_millis().max(1) as u64),
                ..Label::default()
            };
            let published = self.publish_kept(message, &label);
            return published.map(|(packet_id, _)| packet_id);
        }
        let held = self.is_held(PacketType::Publish)?;
        self.check_publish(message.qos, message.retain)?;
        let resolved = match message.properties.is_empty() {
            true => None,
            false => {
                let identifier = PropertyId::SubscriptionIdentifier;
                if message.properties.first(identifier).is_some() {
                    return Err(RequestError::SubscriptionIdentifier);
                }
                self.without_alias(message)?
            }
        };
        let has_alias = resolved.is_some();
        // The stored packet must be good for any connection.
        let kept = stored_form(message, &resolved);
        let phase = match message.qos {
            QoS::AtMostOnce => {
                let packet_id = 0;
                self.publish_plain(
                    &PublishRef {
                        packet_id,
                        ..*message
                    },
                    &PublishRef { packet_id, ..kept },
                    held,
                    expires_in,
                )?;
                if !held && has_alias {
                    self.remember_alias(message);
                }
                return Ok(0);
            }
            QoS::AtLeastOnce => Phase::Puback,
            QoS::ExactlyOnce => Phase::Pubrec,
        };
        let given = message.packet_id != 0;
        let packet_id = match message.packet_id {
            0 => self.next_id()?,
            id if self.outgoing.in_use(id) => return Err(RequestError::PacketIdInUse(id)),
            id => id,
        };
        let kept = PublishRef { packet_id, ..kept };
        let counted = self.is_counted(phase);
        if held || !self.has_quota() {
            let packet = self.encode_stored(|version, out| encode_publish(&kept, version, out))?;
            self.admit(packet.len(), &kept)?;
            self.outgoing
                .begin(packet_id, phase, packet, Progress::Waiting);
            self.waits(&kept, expires_in);
        } else {
            // With an alias a message may fit that does not fit without one. It could not be stored then, so it is
            // refused.
            let stored = match has_alias || self.settings.topic_aliases {
                true => {
                    Some(self.encode_stored(|version, out| encode_publish(&kept, version, out))?)
                }
                false => None,
            };
            let start = self.transport.transmit.len();
            self.append_publish(&PublishRef {
                packet_id,
                ..*message
            })?;
            let packet = stored.unwrap_or_else(|| self.transport.transmit[start..].into());
            if has_alias {
                self.remember_alias(message);
            }
            self.counters.messages_sent += 1;
            let progress = Progress::Sent { counted };
            self.outgoing.begin(packet_id, phase, packet, progress);
        }
        if !given {
            self.outgoing.set_last_id(packet_id);
        }
        Ok(packet_id)
    }

    /// Sends PUBLISH like [`publish`](Self::publish), and has it outlive the process. A message of QoS 1 or 2 that is
    /// not sent at once gets its packet identifier later, see [`Event::Identified`]: then this returns 0 and its place
    /// in the order of kept messages, by which that event names it. A message of QoS 0 is kept only if it waits.
    ///
    /// Without a [store](Self::keep_in) it is refused.
    ///
    /// # Errors
    /// The message exceeds a limit of the server, or breaks a rule, or the store does not keep it.
    pub fn publish_kept(
        &mut self,
        message: &PublishRef<'_>,
        label: &Label<'_>,
    ) -> Result<(u16, u64), RequestError> {
        self.check_publish(message.qos, message.retain)?;
        if message.packet_id != 0 {
            return Err(RequestError::Store(KeepError::packet_id()));
        }
        let identifier = PropertyId::SubscriptionIdentifier;
        if message.properties.first(identifier).is_some() {
            return Err(RequestError::SubscriptionIdentifier);
        }
        let resolved = self.without_alias(message)?;
        let phase = match message.qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => Some(Phase::Puback),
            QoS::ExactlyOnce => Some(Phase::Pubrec),
        };
        let counted = phase.is_some_and(|phase| self.is_counted(phase));
        let may_go = matches!(self.state(), State::Connecting | State::Connected)
            && !self.is_held(PacketType::Publish)?
            && self.waiting() == 0
            && (phase.is_none() || self.has_quota())
            && self.outgoing.bytes() < MOST_UNDER_WAY;
        if phase.is_none() && may_go {
            return self.publish(message).map(|_| (0, 0));
        }
        let sent_as = match may_go {
            true => self.outgoing.next_id().map(NonZeroU16::get),
            false => None,
        };
        let stored = PublishRef {
            packet_id: match phase {
                Some(_) => sent_as.unwrap_or(1),
                None => 0,
            },
            ..stored_form(message, &resolved)
        };
        let packet = self.encode_stored(|version, out| encode_publish(&stored, version, out))?;
        let sequence = self.keep(label, &packet, sent_as)?;
        let (Some(packet_id), Some(phase)) = (sent_as, phase) else {
            return Ok((0, sequence));
        };
        let message = &PublishRef {
            packet_id,
            ..*message
        };
        let appended = match resolved.is_some() || self.settings.topic_aliases {
            true => self.append_publish(message),
            false => self.append_encoded(&packet),
        };
        if let Err(error) = appended {
            self.done(packet_id);
            return Err(error);
        }
        if resolved.is_some() {
            self.remember_alias(message);
        }
        self.counters.messages_sent += 1;
        let progress = Progress::Sent { counted };
        self.outgoing.begin(packet_id, phase, packet, progress);
        self.outgoing.set_last_id(packet_id);
        Ok((packet_id, sequence))
    }

    /// Keeps a message in the store, which may make room for it.
    fn keep(
        &mut self,
        label: &Label<'_>,
        packet: &[u8],
        sent_as: Option<u16>,
    ) -> Result<u64, RequestError> {
        let Some(kept) = &mut self.kept else {
            return Err(RequestError::NotConnected);
        };
        let default = self.settings.backlog.as_ref();
        let default = default.and_then(|backlog| backlog.expires_in);
        let label = Label {
            expires_in: match label.expires_in {
                0 => default.map_or(0, |time| time.as_millis() as u64),
                milliseconds => milliseconds,
            },
            ..*label
        };
        let before = self.discarded.len();
        let kept = kept.keep(&label, packet, sent_as, &mut self.discarded);
        self.counters.dropped += (self.discarded.len() - before) as u64;
        kept.map_err(RequestError::Store)
    }

    /// The exchange of a message is over.
    pub(super) fn done(&mut self, packet_id: u16) {
        if let Some(store) = self.store() {
            store.done(packet_id);
        }
    }

    fn publish_plain(
        &mut self,
        message: &PublishRef<'_>,
        kept: &PublishRef<'_>,
        held: bool,
        expires_in: Option<Duration>,
    ) -> Result<(), RequestError> {
        if held {
            let packet = self.encode_stored(|version, out| encode_publish(kept, version, out))?;
            self.admit(packet.len(), kept)?;
            self.outgoing.hold(packet);
            self.waits(kept, expires_in);
        } else {
            self.append_publish(message)?;
            self.counters.messages_sent += 1;
        }
        Ok(())
    }

    /// Begins a QoS 0 message without copying its payload. The caller has to write the payload after the bytes in the
    /// [transmit buffer](Self::transmit). Returns true if the message can be sent at once and without a topic alias.
    /// Otherwise nothing has been done, and [`publish`](Self::publish) takes the message or refuses it.
    pub fn publish_head(&mut self, message: &PublishRef<'_>) -> bool {
        let plain = message.qos == QoS::AtMostOnce
            && message.properties.is_empty()
            && !self.settings.topic_aliases
            && self.state() == State::Connected
            && !self.outgoing.has_held()
            && self.kept.is_none();
        let message = &PublishRef {
            packet_id: 0,
            ..*message
        };
        let begun = plain
            && self.check_publish(message.qos, message.retain).is_ok()
            && self.append_publish_head(message).is_ok();
        if begun {
            self.counters.messages_sent += 1;
            self.transport.taken += message.payload.len();
        }
        begun
    }

    /// Remembers the program's own topic alias if it has been sent.
    fn remember_alias(&mut self, message: &PublishRef<'_>) {
        if let Some(alias) = message.properties.two_byte(PropertyId::TopicAlias)
            && let Some(connected) = self.connection.connected_mut()
            && !message.topic.is_empty()
        {
            connected.sent_aliases.insert(alias, message.topic);
        }
    }

    /// Makes room in the queue for a message of this size, or refuses it.
    fn admit(&mut self, size: usize, message: &PublishRef<'_>) -> Result<(), RequestError> {
        let replaced = match self.gives_way(message) {
            true => self.outgoing.newest(message.topic),
            false => None,
        };
        let mut to_drop = 0;
        if let Some(limits) = self.settings.queue
            && !matches!(self.state(), State::Connecting | State::Connected)
        {
            let full = RequestError::QueueFull(limits);
            if size > limits.max_bytes as usize || limits.max_messages == 0 {
                return Err(full);
            }
            // Decided before any message is dropped: a refused request changes nothing.
            let number = self.outgoing.to_drop_for(size, limits, replaced);
            to_drop = number.ok_or(full)?;
        }
        if let Some((place, _)) = replaced {
            let message = self.outgoing.remove(place);
            self.discard(message, Why::Replaced);
        }
        for _ in 0..to_drop {
            let message = self.outgoing.drop_oldest();
            self.discard(message, Why::Full);
        }
        Ok(())
    }

    /// Whether the message replaces older ones of its topic, and is replaced by newer ones, as long as they wait.
    fn gives_way(&self, message: &PublishRef<'_>) -> bool {
        let response_topic = PropertyId::ResponseTopic;
        self.settings.gives_way() && message.properties.first(response_topic).is_none()
    }

    /// A message has been taken out of the queue.
    fn discard(&mut self, message: Option<(u16, Box<[u8]>)>, why: Why) {
        if let Some((packet_id, packet)) = message {
            self.counters.dropped += 1;
            self.discarded
                .push(Discarded::queued(packet_id, &packet, why));
        }
    }

    /// A message has joined the queue: notes what the settings and the message say of waiting.
    fn waits(&mut self, message: &PublishRef<'_>, expires_in: Option<Duration>) {
        let expires_in = expires_in.or(self.backlog().expires_in);
        let interval = PropertyId::MessageExpiryInterval;
        let matters = expires_in.is_some() || message.properties.first(interval).is_some();
        if let Some(clock) = self.settings.clock.filter(|_| matters) {
            let since = clock();
            self.outgoing.time_last(Times {
                since,
                expires: expires_in.and_then(|time| since.checked_add(time)),
            });
        }
        if self.gives_way(message) {
            self.outgoing.name_last(message.topic);
        }
    }

    /// Sends SUBSCRIBE, as soon as it may be sent, and returns its packet identifier.
    ///
    /// # Errors
    /// There is neither a connection nor a setting by which it waits for one, the packet exceeds a limit of the server,
    /// no packet identifier is free, or the packet breaks a rule: see [`RequestError`].
    pub fn subscribe(
        &mut self,
        subscriptions: Vec<Subscription>,
        properties: Properties,
    ) -> Result<u16, RequestError> {
        let held = self.is_held(PacketType::Subscribe)?;
        let packet_id = self.next_id()?;
        let subscribe = Subscribe {
            packet_id,
            subscriptions,
            properties,
        };
        self.check_subscribe(&subscribe)?;
        let packet =
            self.encode_stored(|version, out| encode_subscribe(&subscribe, version, out))?;
        let renews = false;
        let request = Request::Subscribe { subscribe, renews };
        Ok(self.begin_request(packet_id, request, packet, held))
    }

    /// Sends UNSUBSCRIBE, as soon as it may be sent, and returns its packet identifier.
    ///
    /// # Errors
    /// There is no connection, the packet is larger than the server accepts, no packet identifier is free, or the
    /// packet breaks a rule: see [`RequestError`].
    pub fn unsubscribe(
        &mut self,
        filters: Vec<Str>,
        properties: Properties,
    ) -> Result<u16, RequestError> {
        let held = self.is_held(PacketType::Unsubscribe)?;
        let packet_id = self.next_id()?;
        let unsubscribe = Unsubscribe {
            packet_id,
            filters,
            properties,
        };
        let packet =
            self.encode_stored(|version, out| encode_unsubscribe(&unsubscribe, version, out))?;
        let request = Request::Unsubscribe(unsubscribe);
        Ok(self.begin_request(packet_id, request, packet, held))
    }

    /// Acknowledges a received message: PUBACK for QoS 1, PUBREC for QoS 2, nothing for QoS 0. 3.1.1 has no reason
    /// codes and properties: they are left out.
    ///
    /// A QoS 2 message counts as acknowledged even if its connection is gone, which is then the error. If the server
    /// repeats it on another connection, the server gets the PUBREC and the user gets nothing. The user gets the
    /// message again if it was refused, or if the server repeats it on another connection before it is acknowledged. An
    /// acknowledgement drops a repeat that still waits for the user. A second acknowledgement does nothing.
    ///
    /// A QoS 1 message belongs to its connection. The server repeats it on the next one, with the same packet
    /// identifier or another.
    ///
    /// # Errors
    /// [`RequestError::NotConnected`], [`RequestError::NotReceived`], [`RequestError::ReasonCode`],
    /// [`RequestError::PacketTooLarge`] or [`RequestError::Encode`].
    pub fn acknowledge(
        &mut self,
        packet_id: u16,
        qos: QoS,
        reason: u8,
        properties: Properties,
    ) -> Result<(), RequestError> {
        let kind = match qos {
            QoS::AtMostOnce => return Ok(()),
            QoS::AtLeastOnce => PacketType::Puback,
            QoS::ExactlyOnce => PacketType::Pubrec,
        };
        let (reason, properties) = self.check_reason(kind, reason, properties)?;
        let received = self.incoming.get(packet_id);
        let awaits = match received {
            Some(Received::Delivered | Received::DeliveredBefore | Received::DeliveredAgain) => {
                qos == QoS::ExactlyOnce
            }
            Some(Received::DeliveredOnce) => qos == QoS::AtLeastOnce,
            Some(Received::Acknowledged) | None => false,
        };
        if awaits {
            // A message that the server has not sent on this connection is not answered here until it does.
            if self.state() == State::Connected && received != Some(Received::DeliveredBefore) {
                self.send_ack(kind, packet_id, reason, properties)?;
            }
            if qos == QoS::ExactlyOnce && !is_refusal(reason) {
                self.incoming.acknowledge(packet_id);
                if let Some(store) = self.store() {
                    store.received(packet_id);
                }
            } else if received == Some(Received::DeliveredBefore) {
                self.incoming.forget(packet_id);
            } else {
                self.incoming.end(packet_id);
            }
            self.inbox.drop_repeats(packet_id);
        }
        match received {
            _ if self.state() == State::Disconnected => Err(RequestError::NotConnected),
            Some(Received::Acknowledged) if qos == QoS::ExactlyOnce => Ok(()),
            _ if awaits => Ok(()),
            _ => Err(RequestError::NotReceived(packet_id)),
        }
    }

    /// Sends PINGREQ, due or not.
    ///
    /// # Errors
    /// [`RequestError::NotConnected`], [`RequestError::ConnectFirst`] or [`RequestError::Authenticating`].
    pub fn ping(&mut self, now: Instant) -> Result<(), RequestError> {
        match self.state() {
            State::Disconnected => return Err(RequestError::NotConnected),
            State::Open => return Err(RequestError::ConnectFirst(PacketType::Pingreq)),
            State::Connecting if self.connection.authentication_method().is_some() => {
                return Err(RequestError::Authenticating(PacketType::Pingreq));
            }
            State::Connecting | State::Connected => {}
        }
        self.send_pingreq(now);
        Ok(())
    }

    /// Sends AUTH (4.12): the answer to one of the server's AUTH packets, or the first of a re-authentication.
    ///
    /// # Errors
    /// [`RequestError::NotConnected`], [`RequestError::ConnectFirst`], [`RequestError::NoAuthenticationMethod`],
    /// [`RequestError::ReasonCode`], [`RequestError::PacketTooLarge`], or [`RequestError::Encode`], always with 3.1.1.
    pub fn auth(&mut self, reason: u8, properties: Properties) -> Result<(), RequestError> {
        match self.state() {
            State::Disconnected => return Err(RequestError::NotConnected),
            State::Open => return Err(RequestError::ConnectFirst(PacketType::Auth)),
            State::Connecting | State::Connected => {}
        }
        let method = self.connection.authentication_method();
        if self.version == Version::V50 && method.is_none() {
            return Err(RequestError::NoAuthenticationMethod);
        }
        let (reason, properties) = self.check_reason(PacketType::Auth, reason, properties)?;
        self.append_packet(&Packet::Auth(Disconnect { reason, properties }))
    }

    /// Sends DISCONNECT (unless even CONNECT was not sent) and ends the connection [MQTT-3.14.4-1]. 3.1.1 has no reason
    /// codes and properties: they are left out.
    ///
    /// # Errors
    /// [`RequestError::NotConnected`], [`RequestError::ReasonCode`], [`RequestError::SessionExpiry`],
    /// [`RequestError::PacketTooLarge`] or [`RequestError::Encode`]. A connection then goes on.
    pub fn disconnect(&mut self, reason: u8, properties: Properties) -> Result<(), RequestError> {
        let kind = PacketType::Disconnect;
        match &self.connection {
            Connection::Disconnected => return Err(RequestError::NotConnected),
            Connection::Open => {}
            Connection::Connecting(Connecting { requested, .. })
            | Connection::Connected(Connected { requested, .. }) => {
                let session_expiry_interval = requested.session_expiry_interval;
                let (reason, properties) = self.check_reason(kind, reason, properties)?;
                let expiry = properties.four_byte(PropertyId::SessionExpiryInterval);
                if expiry.is_some_and(|seconds| seconds > 0) && session_expiry_interval == 0 {
                    return Err(RequestError::SessionExpiry);
                }
                let disconnect = Packet::Disconnect(Disconnect { reason, properties });
                let packet =
                    self.encode_stored(|version, out| encode(&disconnect, version, out))?;
                self.send_before_disconnect();
                self.transport.transmit.extend_from_slice(&packet);
            }
        }
        self.end_connection();
        Ok(())
    }

    /// Sends accepted packets before DISCONNECT, as far as the server takes them. The client need not wait for CONNACK
    /// (3.1.4), unless it has packets to repeat or has to authenticate itself. But then it does not know whether the
    /// server has the session, so requests are withdrawn.
    fn send_before_disconnect(&mut self) {
        let may_send = match self.state() {
            State::Connected => true,
            State::Connecting => {
                self.connection.authentication_method().is_none() && !self.outgoing.has_repeats()
            }
            State::Disconnected | State::Open => false,
        };
        if may_send {
            if self.state() == State::Connecting {
                for event in self.withdraw_requests() {
                    self.inbox.push(event);
                }
            }
            self.send_held_up_to(usize::MAX);
        }
    }

    /// Lets go of the connection without a DISCONNECT. Returns the rest of the work on it. News for the user stays.
    /// Exchanges that are kept for the next connection stay too, unless the parting is `for_good`.
    pub fn part(&mut self, for_good: bool) -> Parted {
        match self.state() {
            State::Open => return Parted::Nothing,
            State::Disconnected => {}
            State::Connecting | State::Connected => {
                if self.owes() && (for_good || !self.settings.keep_exchanges) && self.kept.is_none()
                {
                    return Parted::Session(Box::new(self.split_off()));
                }
                self.send_before_disconnect();
            }
        }
        Parted::Rest(self.take())
    }

    /// Returns the session with the packets that it has to send. The news for the user stays here.
    fn split_off(&mut self) -> Session {
        let mut parted = Session::new(self.version, self.settings.clone());
        mem::swap(self, &mut parted);
        self.counters = parted.counters;
        self.outgoing = parted.outgoing.split_untold();
        self.incoming = parted.incoming.clone();
        mem::swap(&mut self.subscriptions, &mut parted.subscriptions);
        self.loss_untold = parted.loss_untold;
        self.unanswered_connect = parted.unanswered_connect || parted.state() == State::Connecting;
        mem::swap(&mut self.inbox, &mut parted.inbox);
        mem::swap(&mut self.discarded, &mut parted.discarded);
        // Nobody waits for a connection that is on its way out.
        parted.pace = None;
        parted
    }

    /// Whether an accepted packet has still to be sent, or needs an answer to count. Such answers are the CONNACK, and
    /// the PUBREC of a QoS 2 message: the server passes the message on only after the PUBREL.
    pub fn owes(&self) -> bool {
        match &self.connection {
            Connection::Disconnected | Connection::Open => false,
            Connection::Connecting(connecting) => {
                self.outgoing.has_exchanges()
                    || self.outgoing.has_held()
                    || self.counters.messages_sent > connecting.messages_before
            }
            Connection::Connected(_) => self.outgoing.has_held() || self.outgoing.awaits_pubrec(),
        }
    }

    /// Whether the end of the connection makes the session forget requests that the server has not answered.
    pub fn forgets_unanswered(&self) -> bool {
        !self.keeps_exchanges() && self.outgoing.has_exchanges()
    }

    /// The server does not answer any more. Sends the packets that may be sent without its answer.
    pub fn send_unanswered(&mut self) {
        self.send_before_disconnect();
    }

    /// Drops all events, because nobody will take them.
    pub fn drop_events(&mut self) {
        while self.poll_event().is_some() {}
    }

    /// Whether a packet other than CONNECT, AUTH, PINGREQ and DISCONNECT has to wait. An error if it cannot even wait.
    ///
    /// The standard lets it go before CONNACK (3.1.4). But only CONNACK tells what a server of 5.0 accepts, and packets
    /// to be repeated come first.
    fn is_held(&self, packet: PacketType) -> Result<bool, RequestError> {
        match self.state() {
            State::Disconnected | State::Open if self.is_queued(packet) => Ok(true),
            State::Disconnected => Err(RequestError::NotConnected),
            State::Open => Err(RequestError::ConnectFirst(packet)),
            State::Connecting => Ok(self.version == Version::V50 || self.has_to_send()),
            State::Connected if packet == PacketType::Publish => Ok(self.has_to_send()),
            State::Connected => Ok(self.outgoing.has_held()),
        }
    }

    /// Whether a packet is accepted without a connection.
    fn is_queued(&self, packet: PacketType) -> bool {
        match packet {
            PacketType::Publish => self.settings.queue.is_some(),
            PacketType::Subscribe => {
                self.settings.queue.is_some() || self.settings.resubscribe || self.kept.is_some()
            }
            _ => false,
        }
    }

    /// The reason code and properties as this protocol version has them.
    fn check_reason(
        &self,
        packet: PacketType,
        reason: u8,
        properties: Properties,
    ) -> Result<(u8, Properties), RequestError> {
        match self.version {
            Version::V311 => Ok((0, Properties::new())),
            Version::V50 if reason_listed(self.version, packet, reason) => Ok((reason, properties)),
            Version::V50 => Err(RequestError::ReasonCode(packet, reason)),
        }
    }

    fn next_id(&self) -> Result<u16, RequestError> {
        let id = self.outgoing.next_id().ok_or(RequestError::NoPacketId)?;
        Ok(id.get())
    }

    /// Begins the exchange of a SUBSCRIBE or UNSUBSCRIBE. Returns its packet identifier.
    fn begin_request(
        &mut self,
        packet_id: u16,
        request: Request,
        packet: Box<[u8]>,
        held: bool,
    ) -> u16 {
        let progress = match held {
            true => Progress::Waiting,
            false => {
                self.transport.transmit.extend_from_slice(&packet);
                Progress::Sent { counted: false }
            }
        };
        self.outgoing
            .begin_request(packet_id, request, packet, progress);
        self.outgoing.set_last_id(packet_id);
        packet_id
    }

    fn send_ack(
        &mut self,
        kind: PacketType,
        packet_id: u16,
        reason: u8,
        properties: Properties,
    ) -> Result<(), RequestError> {
        if reason == 0 && properties.is_empty() {
            encode_ack(kind, packet_id, &mut self.transport.transmit);
            return Ok(());
        }
        let ack = Ack {
            packet_id,
            reason,
            properties,
        };
        self.append_packet(&match kind {
            PacketType::Puback => Packet::Puback(ack),
            _ => Packet::Pubrec(ack),
        })
    }
}

/// A message as it is stored, with the topic and properties from [`Session::without_alias`].
fn stored_form<'a>(
    message: &PublishRef<'a>,
    resolved: &'a Option<(Str, Properties)>,
) -> PublishRef<'a> {
    match resolved {
        None => *message,
        Some((topic, properties)) => PublishRef {
            topic,
            properties,
            ..*message
        },
    }
}
