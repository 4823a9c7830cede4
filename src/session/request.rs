//! What the user asks of a [`Session`]. A request that fails changes nothing and sends nothing.

use std::fmt;
use std::time::Instant;

use bytes::BytesMut;

use super::packet_ids::Exchange;
use super::{Received, Requested, Session, State};
use crate::codec::{
    Ack, Connect, Disconnect, EncodeError, Packet, PacketType, Properties, PropertyId, PublishRef,
    QoS, Str, Subscribe, Subscription, Unsubscribe, Version, encode, encode_ack, encode_publish,
    reason_listed,
};

/// Why a request was refused. Shown to the user as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// There is no network connection.
    NotConnected,
    /// CONNECT was not sent, and comes first [MQTT-3.1.0-1].
    ConnectFirst(PacketType),
    /// A second CONNECT [MQTT-3.1.0-2].
    ConnectAgain,
    /// Only AUTH and DISCONNECT may be sent while the client authenticates itself [MQTT-3.1.2-30].
    Authenticating(PacketType),
    /// AUTH without an authentication method in CONNECT (4.12).
    NoAuthenticationMethod,
    /// The reason code is not one that a client may send in this packet.
    ReasonCode(PacketType, u8),
    /// A session that was to end with the connection cannot be made to last by DISCONNECT (3.14.2.2.2).
    SessionExpiry,
    /// An exchange with this packet identifier is under way [MQTT-2.2.1-3].
    PacketIdInUse(u16),
    /// All packet identifiers are in use.
    NoPacketId,
    /// No received message with this packet identifier waits for the acknowledgement.
    NotReceived(u16),
    /// The packet is larger than the server accepts [MQTT-3.2.2-15].
    PacketTooLarge {
        /// Bytes of the packet.
        size: usize,
        /// What the server accepts.
        max: u32,
    },
    /// The QoS is higher than the server supports [MQTT-3.2.2-11].
    QoSNotSupported {
        /// QoS of the message.
        qos: QoS,
        /// What the server supports.
        max: QoS,
    },
    /// The server does not retain messages [MQTT-3.2.2-14].
    RetainNotSupported,
    /// The topic alias is higher than the server accepts [MQTT-3.3.2-9].
    TopicAlias {
        /// Alias of the message.
        alias: u16,
        /// What the server accepts, 0 for none.
        max: u16,
    },
    /// A client may not publish with a subscription identifier [MQTT-3.3.4-6].
    SubscriptionIdentifier,
    /// The server does not support wildcards in topic filters (3.2.2.3.11).
    WildcardsNotSupported,
    /// The server does not support shared subscriptions (3.2.2.3.13).
    SharedNotSupported,
    /// The server does not support subscription identifiers (3.2.2.3.12).
    SubscriptionIdentifiersNotSupported,
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
            Self::NoPacketId => f.write_str("all 65535 packet identifiers are in use"),
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
            Self::Encode(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RequestError {}

impl From<EncodeError> for RequestError {
    fn from(error: EncodeError) -> Self {
        Self::Encode(error)
    }
}

impl Session {
    /// Sends CONNECT, the first packet of a connection.
    pub fn connect(&mut self, connect: &Connect) -> Result<(), RequestError> {
        match self.state() {
            State::Disconnected => return Err(RequestError::NotConnected),
            State::Open => {}
            State::Connecting | State::Connected => return Err(RequestError::ConnectAgain),
        }
        self.send(&Packet::Connect(Box::new(connect.clone())))?;

        let properties = &connect.properties;
        let authentication_method = properties.string(PropertyId::AuthenticationMethod);
        let connection = &mut self.connection;
        connection.state = State::Connecting;
        // While the client authenticates itself nothing but AUTH may be sent: keep alive runs from CONNACK on.
        if authentication_method.is_none() {
            connection.timers.set_keep_alive(connect.keep_alive);
        }
        let max_packet_size = properties.four_byte(PropertyId::MaximumPacketSize);
        connection.decoder.set_max_packet_size(
            max_packet_size.map_or(self.limits.max_packet_size, |size| {
                size.min(self.limits.max_packet_size)
            }),
        );
        connection.requested = Requested {
            clean_start: connect.clean,
            keep_alive: connect.keep_alive,
            session_expiry_interval: properties
                .four_byte(PropertyId::SessionExpiryInterval)
                .unwrap_or(0),
            receive_maximum: match self.version {
                Version::V311 => None,
                Version::V50 => properties
                    .two_byte(PropertyId::ReceiveMaximum)
                    .or(Some(u16::MAX)),
            },
            topic_alias_maximum: properties
                .two_byte(PropertyId::TopicAliasMaximum)
                .unwrap_or(0),
            authentication_method: authentication_method.cloned(),
        };
        Ok(())
    }

    /// Sends PUBLISH. For QoS 1 and 2 the packet identifier 0 asks for a new one, another is one of the program's own
    /// that must be free; the one used is returned. For QoS 0 it is ignored, and 0 returned.
    pub fn publish(&mut self, message: &PublishRef<'_>) -> Result<u16, RequestError> {
        self.may_send(PacketType::Publish)?;
        let server = &self.connection.server;
        if message.qos > server.maximum_qos {
            let (qos, max) = (message.qos, server.maximum_qos);
            return Err(RequestError::QoSNotSupported { qos, max });
        }
        if message.retain && !server.retain_available {
            return Err(RequestError::RetainNotSupported);
        }
        if !message.properties.is_empty() {
            let max = server.topic_alias_maximum;
            match message.properties.two_byte(PropertyId::TopicAlias) {
                Some(alias) if alias > max => return Err(RequestError::TopicAlias { alias, max }),
                _ => {}
            }
            let identifier = PropertyId::SubscriptionIdentifier;
            if message.properties.first(identifier).is_some() {
                return Err(RequestError::SubscriptionIdentifier);
            }
        }
        let exchange = match message.qos {
            QoS::AtMostOnce => return self.send_publish(message, 0).map(|()| 0),
            QoS::AtLeastOnce => Exchange::Puback,
            QoS::ExactlyOnce => Exchange::Pubrec,
        };
        match message.packet_id {
            0 => self.begin(exchange, |session, id| session.send_publish(message, id)),
            id if self.outgoing.in_use(id) => Err(RequestError::PacketIdInUse(id)),
            id => {
                self.send_publish(message, id)?;
                self.outgoing.begin_given(id, exchange);
                Ok(id)
            }
        }
    }

    /// Sends SUBSCRIBE and returns its packet identifier.
    pub fn subscribe(
        &mut self,
        subscriptions: Vec<Subscription>,
        properties: Properties,
    ) -> Result<u16, RequestError> {
        self.may_send(PacketType::Subscribe)?;
        let server = &self.connection.server;
        for Subscription { filter, .. } in &subscriptions {
            if !server.wildcard_subscription_available && filter.contains(['+', '#']) {
                return Err(RequestError::WildcardsNotSupported);
            }
            if !server.shared_subscription_available && filter.starts_with("$share/") {
                return Err(RequestError::SharedNotSupported);
            }
        }
        if !server.subscription_identifiers_available
            && properties
                .first(PropertyId::SubscriptionIdentifier)
                .is_some()
        {
            return Err(RequestError::SubscriptionIdentifiersNotSupported);
        }
        self.begin(
            Exchange::Suback(subscriptions.len()),
            |session, packet_id| {
                session.send(&Packet::Subscribe(Subscribe {
                    packet_id,
                    subscriptions,
                    properties,
                }))
            },
        )
    }

    /// Sends UNSUBSCRIBE and returns its packet identifier.
    pub fn unsubscribe(
        &mut self,
        filters: Vec<Str>,
        properties: Properties,
    ) -> Result<u16, RequestError> {
        self.may_send(PacketType::Unsubscribe)?;
        self.begin(Exchange::Unsuback(filters.len()), |session, packet_id| {
            session.send(&Packet::Unsubscribe(Unsubscribe {
                packet_id,
                filters,
                properties,
            }))
        })
    }

    /// Acknowledges a received message: PUBACK for QoS 1, PUBREC for QoS 2, nothing for QoS 0. 3.1.1 has no reason
    /// codes and properties: they are left out.
    ///
    /// A QoS 2 message counts as acknowledged even if the connection it came by is gone (and that is the error): if
    /// the server repeats it on another, it gets the PUBREC. A second acknowledgement of one does nothing.
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
        // Who acknowledges QoS 1 is believed: nothing is remembered of such messages.
        let received = match qos {
            QoS::ExactlyOnce => self.incoming.get(&packet_id).copied(),
            _ if packet_id != 0 && self.state() == State::Connected => Some(Received::Delivered),
            _ => None,
        };
        if received == Some(Received::Delivered) {
            if self.state() == State::Connected {
                self.send_ack(kind, packet_id, reason, properties)?;
            }
            if qos == QoS::ExactlyOnce && reason < 0x80 {
                self.incoming.insert(packet_id, Received::Acknowledged);
            } else {
                self.end_incoming(packet_id, qos);
            }
        }
        match received {
            _ if self.state() == State::Disconnected => Err(RequestError::NotConnected),
            None => Err(RequestError::NotReceived(packet_id)),
            Some(_) => Ok(()),
        }
    }

    /// Sends PINGREQ, due or not.
    pub fn ping(&mut self, now: Instant) -> Result<(), RequestError> {
        self.may_send(PacketType::Pingreq)?;
        self.send_pingreq(now);
        Ok(())
    }

    /// Sends AUTH (4.12): the answer to one of the server's, or the first of a re-authentication.
    pub fn auth(&mut self, reason: u8, properties: Properties) -> Result<(), RequestError> {
        match self.state() {
            State::Disconnected => return Err(RequestError::NotConnected),
            State::Open => return Err(RequestError::ConnectFirst(PacketType::Auth)),
            State::Connecting | State::Connected => {}
        }
        let method = &self.connection.requested.authentication_method;
        if self.version == Version::V50 && method.is_none() {
            return Err(RequestError::NoAuthenticationMethod);
        }
        let (reason, properties) = self.check_reason(PacketType::Auth, reason, properties)?;
        self.send(&Packet::Auth(Disconnect { reason, properties }))
    }

    /// Sends DISCONNECT (unless even CONNECT was not sent) and ends the connection [MQTT-3.14.4-1]. 3.1.1 has no reason
    /// codes and properties: they are left out.
    pub fn disconnect(&mut self, reason: u8, properties: Properties) -> Result<(), RequestError> {
        let kind = PacketType::Disconnect;
        match self.state() {
            State::Disconnected => return Err(RequestError::NotConnected),
            State::Open => {}
            State::Connecting | State::Connected => {
                let (reason, properties) = self.check_reason(kind, reason, properties)?;
                let expiry = properties.four_byte(PropertyId::SessionExpiryInterval);
                if expiry.is_some_and(|seconds| seconds > 0)
                    && self.connection.requested.session_expiry_interval == 0
                {
                    return Err(RequestError::SessionExpiry);
                }
                self.send(&Packet::Disconnect(Disconnect { reason, properties }))?;
            }
        }
        self.connection.state = State::Disconnected;
        Ok(())
    }

    /// Whether a packet other than CONNECT, AUTH and DISCONNECT may be sent now. It need not wait for CONNACK (3.1.4).
    fn may_send(&self, packet: PacketType) -> Result<(), RequestError> {
        match self.state() {
            State::Disconnected => Err(RequestError::NotConnected),
            State::Open => Err(RequestError::ConnectFirst(packet)),
            State::Connecting if self.connection.requested.authentication_method.is_some() => {
                Err(RequestError::Authenticating(packet))
            }
            State::Connecting | State::Connected => Ok(()),
        }
    }

    /// The reason code and properties as this version has them.
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

    /// Begins an exchange with a new packet identifier.
    fn begin(
        &mut self,
        exchange: Exchange,
        send: impl FnOnce(&mut Self, u16) -> Result<(), RequestError>,
    ) -> Result<u16, RequestError> {
        let id = self.outgoing.next_id().ok_or(RequestError::NoPacketId)?;
        send(self, id.get())?;
        self.outgoing.begin(id, exchange);
        Ok(id.get())
    }

    fn send_publish(
        &mut self,
        message: &PublishRef<'_>,
        packet_id: u16,
    ) -> Result<(), RequestError> {
        let message = PublishRef {
            packet_id,
            ..*message
        };
        self.send_with(|version, out| encode_publish(&message, version, out))
    }

    fn send_ack(
        &mut self,
        kind: PacketType,
        packet_id: u16,
        reason: u8,
        properties: Properties,
    ) -> Result<(), RequestError> {
        if reason == 0 && properties.is_empty() {
            encode_ack(kind, packet_id, &mut self.connection.transmit);
            return Ok(());
        }
        let ack = Ack {
            packet_id,
            reason,
            properties,
        };
        self.send(&match kind {
            PacketType::Puback => Packet::Puback(ack),
            _ => Packet::Pubrec(ack),
        })
    }

    fn send(&mut self, packet: &Packet) -> Result<(), RequestError> {
        self.send_with(|version, out| encode(packet, version, out))
    }

    /// Appends a packet to what waits to be written, unless it is larger than the server accepts [MQTT-3.2.2-15].
    fn send_with(
        &mut self,
        encode: impl FnOnce(Version, &mut BytesMut) -> Result<(), EncodeError>,
    ) -> Result<(), RequestError> {
        let max = self.connection.server.maximum_packet_size;
        let out = &mut self.connection.transmit;
        let before = out.len();
        encode(self.version, out)?;
        let size = out.len() - before;
        if size > max as usize {
            out.truncate(before);
            return Err(RequestError::PacketTooLarge { size, max });
        }
        Ok(())
    }
}
