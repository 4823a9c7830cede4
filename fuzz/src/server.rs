//! A server's view of a client's bytes: whether they are well-formed, allowed and in order.

use std::collections::{HashMap, HashSet};

use bytes::BytesMut;

use crate::codec::*;

/// The number of QoS 2 messages that servers of 3.1.1 are assumed to take at a time.
pub(crate) const V311_RECEIVE_MAXIMUM: u16 = 20;

/// The answer that the client awaits with a packet identifier.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Awaited {
    Puback(u32),
    Pubrec(u32),
    Pubcomp,
    Suback,
    Unsuback,
}

/// How far the client's side of a connection has come.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sent {
    Nothing,
    Connect,
    Disconnect,
}

/// The server's end of one connection after another.
pub struct Server {
    version: Version,
    decoder: Decoder,
    /// The bytes that have arrived behind the last complete packet.
    input: BytesMut,
    sent: Sent,
    /// The properties of CONNACK, once it was sent.
    connack: Option<Connack>,
    awaited: HashMap<u16, Awaited>,
    /// Identifiers that count against the receive maximum: those of PUBLISH packets that came on this connection. In
    /// 3.1.1, those of all QoS 2 exchanges.
    counted: HashSet<u16>,
    /// Numbers of messages that came on an earlier connection.
    seen: HashSet<u32>,
    /// Numbers of QoS 2 messages whose identifiers the server holds. It would take another message of such an
    /// identifier for a repeat.
    held: HashMap<u16, u32>,
    /// Identifiers of exchanges whose PUBREC came on an earlier connection.
    released: HashSet<u16>,
    /// The number of the last message on this connection.
    last: u32,
    aliases: HashMap<u16, Str>,
}

impl Server {
    pub fn new(version: Version) -> Self {
        Self {
            version,
            decoder: Decoder::new(version),
            input: BytesMut::new(),
            sent: Sent::Nothing,
            connack: None,
            awaited: HashMap::new(),
            counted: HashSet::new(),
            seen: HashSet::new(),
            held: HashMap::new(),
            released: HashSet::new(),
            last: 0,
            aliases: HashMap::new(),
        }
    }

    /// A new connection.
    pub fn open(&mut self) {
        let (mut seen, mut released) = (std::mem::take(&mut self.seen), HashSet::new());
        for (id, awaited) in &self.awaited {
            match awaited {
                Awaited::Puback(number) | Awaited::Pubrec(number) => drop(seen.insert(*number)),
                Awaited::Pubcomp => drop(released.insert(*id)),
                Awaited::Suback | Awaited::Unsuback => {}
            }
        }
        *self = Self {
            held: std::mem::take(&mut self.held),
            seen,
            released,
            ..Self::new(self.version)
        };
    }

    /// Whether the client waits for an answer with this packet identifier.
    pub fn awaits_answer(&self, id: u16) -> bool {
        self.awaited.contains_key(&id)
    }

    /// The number of the message with this packet identifier.
    pub fn number(&self, id: u16) -> Option<u32> {
        match self.awaited.get(&id)? {
            Awaited::Puback(number) | Awaited::Pubrec(number) => Some(*number),
            _ => None,
        }
    }

    /// Whether the message with this number came on an earlier connection.
    pub fn has_seen(&self, number: u32) -> bool {
        self.seen.contains(&number)
    }

    /// Whether the client may send one more QoS 1 or 2 message.
    pub fn has_quota(&self) -> bool {
        let most = match self.version {
            Version::V311 => V311_RECEIVE_MAXIMUM,
            Version::V50 => self.limit(PropertyId::ReceiveMaximum),
        };
        self.counted.len() < usize::from(most)
    }

    /// A limit among the properties of CONNACK.
    fn limit(&self, id: PropertyId) -> u16 {
        let connack = self.connack.as_ref();
        let limit = connack.and_then(|connack| connack.properties.two_byte(id));
        limit.unwrap_or(match id {
            PropertyId::TopicAliasMaximum => 0,
            _ => u16::MAX,
        })
    }

    fn allows(&self, id: PropertyId) -> bool {
        let connack = self.connack.as_ref();
        connack.and_then(|connack| connack.properties.byte(id)) != Some(0)
    }

    /// The client has received this packet and accepts it.
    pub fn sends(&mut self, packet: &Packet) {
        let (id, ends) = match packet {
            Packet::Connack(connack) => {
                if !connack.session_present {
                    self.released.clear();
                    self.held.clear();
                }
                self.connack = Some(connack.clone());
                return;
            }
            Packet::Puback(ack) => (ack.packet_id, true),
            Packet::Pubcomp(ack) => (ack.packet_id, true),
            Packet::Pubrec(ack) => (ack.packet_id, ack.reason >= 0x80),
            Packet::Suback(suback) | Packet::Unsuback(suback) => (suback.packet_id, true),
            _ => return,
        };
        if ends {
            self.awaited.remove(&id);
            self.counted.remove(&id);
            self.released.remove(&id);
            self.held.remove(&id);
        } else if let Some(awaited) = self.awaited.get_mut(&id) {
            *awaited = Awaited::Pubcomp;
        }
    }

    /// The client sends these bytes. Only a server that is told everything at once can judge all of them.
    pub fn receives(&mut self, bytes: &[u8], judge: bool) {
        self.input.extend_from_slice(bytes);
        let mut before = self.input.len();
        while let Some(packet) = self.decoder.decode(&mut self.input).expect("well-formed") {
            let size = before - self.input.len();
            before = self.input.len();
            self.check_place(&packet);
            if judge {
                self.check_limits(&packet, size);
                self.judge(&packet);
            }
        }
    }

    /// CONNECT comes first and once [MQTT-3.1.0-1, MQTT-3.1.0-2]. Nothing comes after DISCONNECT [MQTT-3.14.4-2]. No
    /// packet comes that only a server sends.
    fn check_place(&mut self, packet: &Packet) {
        use PacketType::*;
        self.sent = match (self.sent, packet.packet_type()) {
            (Sent::Nothing, Connect) => Sent::Connect,
            (Sent::Connect, Disconnect) => Sent::Disconnect,
            (
                Sent::Connect,
                Publish | Puback | Pubrec | Pubrel | Pubcomp | Subscribe | Unsubscribe | Pingreq
                | Auth,
            ) => Sent::Connect,
            (sent, packet) => panic!("{packet} after {sent:?}"),
        };
    }

    /// Checks the limits of CONNACK.
    fn check_limits(&self, packet: &Packet, size: usize) {
        let Some(connack) = &self.connack else {
            return;
        };
        let maximum = connack.properties.four_byte(PropertyId::MaximumPacketSize);
        let fits = maximum.is_none_or(|maximum| size <= maximum as usize);
        let max_qos = match connack.properties.byte(PropertyId::MaximumQoS) {
            Some(0) => QoS::AtMostOnce,
            Some(1) => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        };
        match packet {
            Packet::Publish(publish) => {
                assert!(fits && publish.qos <= max_qos, "{publish:?}");
                assert!(!publish.retain || self.allows(PropertyId::RetainAvailable));
            }
            Packet::Subscribe(subscribe) => {
                assert!(fits, "{subscribe:?}");
                for subscription in &subscribe.subscriptions {
                    let filter = &subscription.filter;
                    assert!(
                        !filter.contains(['+', '#'])
                            || self.allows(PropertyId::WildcardSubscriptionAvailable)
                    );
                    assert!(
                        !filter.starts_with("$share/")
                            || self.allows(PropertyId::SharedSubscriptionAvailable)
                    );
                }
            }
            Packet::Unsubscribe(unsubscribe) => assert!(fits, "{unsubscribe:?}"),
            _ => {}
        }
    }

    fn judge(&mut self, packet: &Packet) {
        match packet {
            Packet::Publish(publish) => self.publish(publish),
            Packet::Subscribe(subscribe) => self.begin(subscribe.packet_id, Awaited::Suback),
            Packet::Unsubscribe(unsubscribe) => {
                self.begin(unsubscribe.packet_id, Awaited::Unsuback);
            }
            // After a resumed session, a repeated PUBREL is all that comes of its message here.
            Packet::Pubrel(ack) if self.released.contains(&ack.packet_id) => {
                self.awaited.insert(ack.packet_id, Awaited::Pubcomp);
                if self.version == Version::V311 {
                    self.counted.insert(ack.packet_id);
                }
            }
            _ => {}
        }
    }

    fn begin(&mut self, id: u16, awaited: Awaited) {
        let before = self.awaited.insert(id, awaited);
        assert_eq!(before, None, "{id} is in use");
    }

    /// Checks that a message comes in order, is rightly new or repeated, and keeps the limits.
    fn publish(&mut self, publish: &Publish) {
        let number = publish.payload[..4].try_into().map(u32::from_be_bytes);
        let number = number.expect("all payloads begin so");
        assert!(number > self.last, "{number} after {}", self.last);
        self.last = number;
        let resumed = self.connack.as_ref().is_some_and(|c| c.session_present);
        assert_eq!(publish.dup, resumed && self.seen.contains(&number));
        match publish.qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => self.begin(publish.packet_id, Awaited::Puback(number)),
            QoS::ExactlyOnce => {
                self.begin(publish.packet_id, Awaited::Pubrec(number));
                if let Some(held) = self.held.insert(publish.packet_id, number) {
                    assert_eq!(held, number, "would be lost");
                }
            }
        }
        let counted = match self.version {
            Version::V311 => publish.qos == QoS::ExactlyOnce,
            Version::V50 => publish.qos != QoS::AtMostOnce,
        };
        if counted {
            assert!(self.has_quota() || self.connack.is_none());
            self.counted.insert(publish.packet_id);
        }
        let Some(alias) = publish.properties.two_byte(PropertyId::TopicAlias) else {
            return;
        };
        assert!(alias <= self.limit(PropertyId::TopicAliasMaximum));
        match publish.topic.is_empty() {
            true => assert!(self.aliases.contains_key(&alias), "{alias} is unknown"),
            false => drop(self.aliases.insert(alias, publish.topic.clone())),
        }
    }
}
