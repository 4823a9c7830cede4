//! The properties of 5.0 (2.2.2): the standard's table of properties, lists of properties, and their encoder and
//! decoder, which follow the table.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use super::error::Fault;
use super::string::Str;
use super::wire::{MAX_VAR_INT, Reader, put_prefixed, put_var_int, var_int_len};
use super::{PacketType, reason, rules};

/// A packet or will that carries properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PropertyHolder {
    /// A packet.
    Packet(PacketType),
    /// The will message of a CONNECT (3.1.3.2).
    Will,
}

impl PropertyHolder {
    /// One bit for each holder: a packet's type number, or 0 for the will.
    const fn bit(self) -> u16 {
        match self {
            Self::Packet(packet) => 1 << packet as u8,
            Self::Will => 1,
        }
    }
}

impl From<PacketType> for PropertyHolder {
    fn from(packet: PacketType) -> Self {
        Self::Packet(packet)
    }
}

/// How a property's value is written (1.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PropertyKind {
    /// One byte.
    Byte,
    /// Two Byte Integer.
    TwoByte,
    /// Four Byte Integer.
    FourByte,
    /// Variable Byte Integer.
    VarInt,
    /// UTF-8 Encoded String.
    String,
    /// Binary Data.
    Binary,
    /// UTF-8 String Pair.
    Pair,
}

/// Which values of its kind a property may have.
#[derive(Clone, Copy, PartialEq)]
enum Range {
    Any,
    /// 0 or 1.
    Flag,
    NonZero,
    /// A topic name.
    Topic,
}

/// The standard's rules for a property.
struct Spec {
    name: &'static str,
    kind: PropertyKind,
    range: Range,
    /// The holders that may carry it.
    holders: u16,
    /// The holders that may carry it more than once.
    repeats: u16,
}

/// Makes `PropertyId` from the table, and `Spec` from each row.
macro_rules! properties {
    ($($code:literal $id:ident $name:literal $kind:ident $range:ident [$($holder:ident)+] [$($repeat:ident)*];)+) => {
        /// Identifier of a property (2.2.2.2).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        #[allow(missing_docs)]
        pub enum PropertyId {
            $($id = $code,)+
        }

        impl PropertyId {
            /// All properties, by ascending identifier.
            pub const ALL: &'static [Self] = &[$(Self::$id),+];

            /// The property with this identifier, if the standard has one.
            pub fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$id),)+
                    _ => None,
                }
            }

            const fn spec(self) -> &'static Spec {
                match self {
                    $(Self::$id => &Spec {
                        name: $name,
                        kind: PropertyKind::$kind,
                        range: Range::$range,
                        holders: 0 $(| holder::$holder)+,
                        repeats: 0 $(| holder::$repeat)*,
                    },)+
                }
            }
        }
    };
}

/// The holders' bits, by names short enough for the table.
#[allow(non_upper_case_globals)]
mod holder {
    use super::{PacketType, PropertyHolder};

    const fn packet(packet: PacketType) -> u16 {
        PropertyHolder::Packet(packet).bit()
    }

    pub(super) const Will: u16 = PropertyHolder::Will.bit();
    pub(super) const Connect: u16 = packet(PacketType::Connect);
    pub(super) const Connack: u16 = packet(PacketType::Connack);
    pub(super) const Publish: u16 = packet(PacketType::Publish);
    pub(super) const Subscribe: u16 = packet(PacketType::Subscribe);
    pub(super) const Disconnect: u16 = packet(PacketType::Disconnect);
    pub(super) const Auth: u16 = packet(PacketType::Auth);
    /// PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK and UNSUBACK.
    pub(super) const Acks: u16 = packet(PacketType::Puback)
        | packet(PacketType::Pubrec)
        | packet(PacketType::Pubrel)
        | packet(PacketType::Pubcomp)
        | packet(PacketType::Suback)
        | packet(PacketType::Unsuback);
    /// The holders that may carry properties at all.
    pub(super) const All: u16 = Will
        | Connect
        | Connack
        | Publish
        | Acks
        | Subscribe
        | packet(PacketType::Unsubscribe)
        | Disconnect
        | Auth;
}

// Table 2-4, with the ranges of sections 3.1 to 3.15. The names are the standard's, in snake case;
// `subscription_identifiers` is a plural, since Lua programs know it by this name.
properties! {
    //   identifier                      name                                 kind     range   [holders]
    //          [repeated in]
    0x01 PayloadFormatIndicator          "payload_format_indicator"           Byte     Flag    [Publish Will]                   [];
    0x02 MessageExpiryInterval           "message_expiry_interval"            FourByte Any     [Publish Will]                   [];
    0x03 ContentType                     "content_type"                       String   Any     [Publish Will]                   [];
    0x08 ResponseTopic                   "response_topic"                     String   Topic   [Publish Will]                   [];
    0x09 CorrelationData                 "correlation_data"                   Binary   Any     [Publish Will]                   [];
    0x0B SubscriptionIdentifier          "subscription_identifiers"           VarInt   NonZero [Publish Subscribe]              [Publish];
    0x11 SessionExpiryInterval           "session_expiry_interval"            FourByte Any     [Connect Connack Disconnect]     [];
    0x12 AssignedClientIdentifier        "assigned_client_identifier"         String   Any     [Connack]                        [];
    0x13 ServerKeepAlive                 "server_keep_alive"                  TwoByte  Any     [Connack]                        [];
    0x15 AuthenticationMethod            "authentication_method"              String   Any     [Connect Connack Auth]           [];
    0x16 AuthenticationData              "authentication_data"                Binary   Any     [Connect Connack Auth]           [];
    0x17 RequestProblemInformation       "request_problem_information"        Byte     Flag    [Connect]                        [];
    0x18 WillDelayInterval               "will_delay_interval"                FourByte Any     [Will]                           [];
    0x19 RequestResponseInformation      "request_response_information"       Byte     Flag    [Connect]                        [];
    0x1A ResponseInformation             "response_information"               String   Any     [Connack]                        [];
    0x1C ServerReference                 "server_reference"                   String   Any     [Connack Disconnect]             [];
    0x1F ReasonString                    "reason_string"                      String   Any     [Connack Acks Disconnect Auth]   [];
    0x21 ReceiveMaximum                  "receive_maximum"                    TwoByte  NonZero [Connect Connack]                [];
    0x22 TopicAliasMaximum               "topic_alias_maximum"                TwoByte  Any     [Connect Connack]                [];
    0x23 TopicAlias                      "topic_alias"                        TwoByte  NonZero [Publish]                        [];
    0x24 MaximumQoS                      "maximum_qos"                        Byte     Flag    [Connack]                        [];
    0x25 RetainAvailable                 "retain_available"                   Byte     Flag    [Connack]                        [];
    0x26 UserProperty                    "user_property"                      Pair     Any     [All]                            [All];
    0x27 MaximumPacketSize               "maximum_packet_size"                FourByte NonZero [Connect Connack]                [];
    0x28 WildcardSubscriptionAvailable   "wildcard_subscription_available"    Byte     Flag    [Connack]                        [];
    0x29 SubscriptionIdentifierAvailable "subscription_identifiers_available" Byte     Flag    [Connack]                        [];
    0x2A SharedSubscriptionAvailable     "shared_subscription_available"      Byte     Flag    [Connack]                        [];
}

impl PropertyId {
    /// The property with this name, if the standard has one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|id| id.name() == name)
    }

    /// Name in snake case, as Lua programs know it.
    pub fn name(self) -> &'static str {
        self.spec().name
    }

    /// How its value is written.
    pub fn kind(self) -> PropertyKind {
        self.spec().kind
    }

    /// Whether a packet or will may carry it.
    pub fn allowed_in(self, holder: PropertyHolder) -> bool {
        self.spec().holders & holder.bit() != 0
    }

    /// Whether a packet or will may carry it more than once.
    pub fn repeats_in(self, holder: PropertyHolder) -> bool {
        self.spec().repeats & holder.bit() != 0
    }

    /// Name and number, as errors show it.
    fn shown(self) -> String {
        format!("{} ({})", self.name(), self as u8)
    }
}

/// Value of a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PropertyValue {
    /// One byte.
    Byte(u8),
    /// Two Byte Integer.
    TwoByte(u16),
    /// Four Byte Integer.
    FourByte(u32),
    /// Variable Byte Integer.
    VarInt(u32),
    /// UTF-8 Encoded String.
    String(Str),
    /// Binary Data.
    Binary(Bytes),
    /// UTF-8 String Pair: name and value.
    Pair(Str, Str),
}

impl PropertyValue {
    /// How the value is written.
    pub fn kind(&self) -> PropertyKind {
        match self {
            Self::Byte(_) => PropertyKind::Byte,
            Self::TwoByte(_) => PropertyKind::TwoByte,
            Self::FourByte(_) => PropertyKind::FourByte,
            Self::VarInt(_) => PropertyKind::VarInt,
            Self::String(_) => PropertyKind::String,
            Self::Binary(_) => PropertyKind::Binary,
            Self::Pair(..) => PropertyKind::Pair,
        }
    }

    /// The number, if the value is a number.
    fn number(&self) -> Option<u32> {
        match *self {
            Self::Byte(number) => Some(number.into()),
            Self::TwoByte(number) => Some(number.into()),
            Self::FourByte(number) | Self::VarInt(number) => Some(number),
            Self::String(_) | Self::Binary(_) | Self::Pair(..) => None,
        }
    }

    /// How many bytes the value takes.
    fn len(&self) -> usize {
        match self {
            Self::Byte(_) => 1,
            Self::TwoByte(_) => 2,
            Self::FourByte(_) => 4,
            Self::VarInt(number) => var_int_len(*number),
            Self::String(text) => 2 + text.len(),
            Self::Binary(bytes) => 2 + bytes.len(),
            Self::Pair(name, value) => 4 + name.len() + value.len(),
        }
    }

    fn read(kind: PropertyKind, from: &mut Reader, field: &str) -> Result<Self, Fault> {
        Ok(match kind {
            PropertyKind::Byte => Self::Byte(from.byte(field)?),
            PropertyKind::TwoByte => Self::TwoByte(from.two_byte(field)?),
            PropertyKind::FourByte => Self::FourByte(from.four_byte(field)?),
            PropertyKind::VarInt => Self::VarInt(from.var_int(field)?),
            PropertyKind::String => Self::String(from.string(field)?),
            PropertyKind::Binary => Self::Binary(from.binary(field)?),
            PropertyKind::Pair => Self::Pair(from.string(field)?, from.string(field)?),
        })
    }

    fn write(&self, out: &mut BytesMut) {
        match self {
            Self::Byte(number) => out.put_u8(*number),
            Self::TwoByte(number) => out.put_u16(*number),
            Self::FourByte(number) => out.put_u32(*number),
            Self::VarInt(number) => put_var_int(out, *number),
            Self::String(text) => put_prefixed(out, text.as_bytes()),
            Self::Binary(bytes) => put_prefixed(out, bytes),
            Self::Pair(name, value) => {
                put_prefixed(out, name.as_bytes());
                put_prefixed(out, value.as_bytes());
            }
        }
    }
}

/// A property (2.2.2.2). `Debug` does not show authentication data.
#[derive(Clone, PartialEq, Eq)]
pub struct Property {
    /// Identifier.
    pub id: PropertyId,
    /// Value, of the identifier's kind.
    pub value: PropertyValue,
}

impl fmt::Debug for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Property");
        shown.field("id", &self.id);
        match self.id {
            PropertyId::AuthenticationData => shown.finish_non_exhaustive(),
            _ => shown.field("value", &self.value).finish(),
        }
    }
}

/// The properties of a packet or a will, in their order on the wire. An empty list holds no memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties(Vec<Property>);

impl Properties {
    /// No properties.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Appends a property.
    pub fn push(&mut self, property: Property) {
        self.0.push(property);
    }

    /// The properties in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Property> {
        self.0.iter()
    }

    /// Whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of properties.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Value of the first property with this identifier.
    pub fn first(&self, id: PropertyId) -> Option<&PropertyValue> {
        let found = self.iter().find(|property| property.id == id);
        found.map(|property| &property.value)
    }

    /// Value of the first property with this identifier, if it is a byte.
    pub fn byte(&self, id: PropertyId) -> Option<u8> {
        match self.first(id) {
            Some(PropertyValue::Byte(number)) => Some(*number),
            _ => None,
        }
    }

    /// Value of the first property with this identifier, if it is a Two Byte Integer.
    pub fn two_byte(&self, id: PropertyId) -> Option<u16> {
        match self.first(id) {
            Some(PropertyValue::TwoByte(number)) => Some(*number),
            _ => None,
        }
    }

    /// Value of the first property with this identifier, if it is a Four Byte Integer.
    pub fn four_byte(&self, id: PropertyId) -> Option<u32> {
        match self.first(id) {
            Some(PropertyValue::FourByte(number)) => Some(*number),
            _ => None,
        }
    }

    /// Value of the first property with this identifier, if it is a string.
    pub fn string(&self, id: PropertyId) -> Option<&Str> {
        match self.first(id) {
            Some(PropertyValue::String(text)) => Some(text),
            _ => None,
        }
    }

    /// Value of the first property with this identifier, if it is binary data.
    pub fn binary(&self, id: PropertyId) -> Option<&Bytes> {
        match self.first(id) {
            Some(PropertyValue::Binary(bytes)) => Some(bytes),
            _ => None,
        }
    }
}

impl FromIterator<Property> for Properties {
    fn from_iter<T: IntoIterator<Item = Property>>(properties: T) -> Self {
        Self(properties.into_iter().collect())
    }
}

impl<'a> IntoIterator for &'a Properties {
    type Item = &'a Property;
    type IntoIter = std::slice::Iter<'a, Property>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Both directions of the wire.
impl Properties {
    /// Reads the property length and the properties.
    #[inline]
    pub(super) fn read(from: &mut Reader, holder: PropertyHolder) -> Result<Self, Fault> {
        let read = match from.var_int("property length") {
            Ok(0) => return Ok(Self::new()),
            Ok(size) => from
                .bytes(size as usize, "property list")
                .and_then(|list| Self::read_list(Reader::new(list), holder)),
            Err(fault) => Err(fault),
        };
        read.map_err(|fault| {
            fault.within(match holder {
                PropertyHolder::Packet(_) => "failed to parse packet properties: ",
                PropertyHolder::Will => "failed to parse will properties: ",
            })
        })
    }

    fn read_list(mut from: Reader, holder: PropertyHolder) -> Result<Self, Fault> {
        let mut admission = Admission::new(holder);
        let mut properties = Self::new();
        while !from.is_empty() {
            let code = from.var_int("property identifier")?;
            let id = u8::try_from(code).ok().and_then(PropertyId::from_code);
            let id = id.ok_or_else(|| {
                Fault::malformed(format!("{code} is not the identifier of a property"))
            })?;
            admission.admit(id)?;
            let value = PropertyValue::read(id.kind(), &mut from, id.name())?;
            admission.check_value(id, &value)?;
            properties.push(Property { id, value });
        }
        admission.finish()?;
        Ok(properties)
    }

    /// Checks the properties before they are written. Returns how many bytes they take without the property length.
    pub(super) fn check(&self, holder: PropertyHolder) -> Result<u32, Fault> {
        if self.is_empty() {
            return Ok(0);
        }
        let mut admission = Admission::new(holder);
        let mut size = 0;
        for Property { id, value } in self {
            admission.admit(*id)?;
            admission.check_kind(*id, value)?;
            admission.check_value(*id, value)?;
            size += 1 + value.len();
        }
        admission.finish()?;
        match u32::try_from(size) {
            Ok(size) if size <= MAX_VAR_INT => Ok(size),
            _ => Err(Fault::malformed(format!(
                "properties must be at most {MAX_VAR_INT} bytes long, got {size}"
            ))),
        }
    }

    /// Writes the property length, which `check` has returned, and the properties.
    pub(super) fn write(&self, size: u32, out: &mut BytesMut) {
        put_var_int(out, size);
        for Property { id, value } in self {
            out.put_u8(*id as u8);
            value.write(out);
        }
    }
}

/// Checks the properties of a holder, one after the other.
struct Admission {
    holder: PropertyHolder,
    /// A bit for each identifier that has come.
    seen: u64,
}

impl Admission {
    fn new(holder: PropertyHolder) -> Self {
        Self { holder, seen: 0 }
    }

    fn has_seen(&self, id: PropertyId) -> bool {
        self.seen & 1 << id as u8 != 0
    }

    fn admit(&mut self, id: PropertyId) -> Result<(), Fault> {
        if !id.allowed_in(self.holder) {
            let place = match self.holder {
                PropertyHolder::Packet(_) => "for that packet type",
                PropertyHolder::Will => "in a will",
            };
            let rule = format!("property {} is not allowed {place}", id.shown());
            return Err(Fault::malformed(rule));
        }
        if self.has_seen(id) && !id.repeats_in(self.holder) {
            let id = id.shown();
            let rule =
                format!("it is a Protocol Error to include the {id} property more than once");
            return Err(Fault::protocol(rule));
        }
        self.seen |= 1 << id as u8;
        Ok(())
    }

    /// Checks the kind and size of a value that was not decoded.
    fn check_kind(&self, id: PropertyId, value: &PropertyValue) -> Result<(), Fault> {
        let (expected, got) = (id.kind(), value.kind());
        if expected != got {
            let id = id.shown();
            let rule = format!("property {id} must be a {expected:?}, got a {got:?}");
            return Err(Fault::malformed(rule));
        }
        match value {
            PropertyValue::Binary(bytes) => rules::binary(bytes, id.name()),
            PropertyValue::VarInt(number @ MAX_VAR_INT..) if *number > MAX_VAR_INT => {
                let id = id.shown();
                let rule = format!("property {id} must be at most {MAX_VAR_INT}, got {number}");
                Err(Fault::malformed(rule))
            }
            _ => Ok(()),
        }
    }

    fn check_value(&self, id: PropertyId, value: &PropertyValue) -> Result<(), Fault> {
        match (id.spec().range, value) {
            (Range::Topic, PropertyValue::String(topic)) => {
                rules::topic_name(topic.as_bytes(), id.name())
            }
            (Range::Flag, value) if value.number() > Some(1) => {
                let number = value.number().unwrap_or_default();
                let rule = format!("property {} must be 0 or 1, got {number}", id.shown());
                Err(Fault::protocol(rule))
            }
            (Range::NonZero, value) if value.number() == Some(0) => {
                let reason = match id {
                    PropertyId::TopicAlias => reason::TOPIC_ALIAS_INVALID,
                    _ => reason::PROTOCOL_ERROR,
                };
                let rule = format!("property {} must not be 0", id.shown());
                Err(Fault::new(reason, rule))
            }
            _ => Ok(()),
        }
    }

    /// Authentication data needs a method (3.1.2.11.10), and an AUTH always names its method (3.15.2.2.2). An AUTH
    /// without any property passes: the original library sends and expects it.
    fn finish(&self) -> Result<(), Fault> {
        let is_auth = self.holder == PropertyHolder::Packet(PacketType::Auth);
        let needs_method = is_auth || self.has_seen(PropertyId::AuthenticationData);
        if needs_method && !self.has_seen(PropertyId::AuthenticationMethod) {
            let method = PropertyId::AuthenticationMethod.shown();
            let rule = match is_auth {
                true => format!("property {method} is missing"),
                false => format!(
                    "property {} must come with {method}",
                    PropertyId::AuthenticationData.shown()
                ),
            };
            return Err(Fault::protocol(rule));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_by_number_and_by_name() {
        for &id in PropertyId::ALL {
            assert_eq!(PropertyId::from_code(id as u8), Some(id));
            assert_eq!(PropertyId::from_name(id.name()), Some(id));
        }
        assert_eq!(PropertyId::ALL.len(), 27);
        assert_eq!(PropertyId::from_code(0), None);
        assert_eq!(PropertyId::from_code(0x2B), None);
        assert_eq!(PropertyId::from_name("subscription_identifier"), None);
    }

    /// Compares the table, which follows the standard's table, with the standard's sections on each packet.
    #[test]
    fn packets_carry_what_their_sections_say() {
        use PacketType::*;
        let reason = &[0x1F, 0x26][..];
        let mut sections = vec![
            (
                PropertyHolder::Will,
                &[0x01, 0x02, 0x03, 0x08, 0x09, 0x18, 0x26][..],
            ),
            (
                Connect.into(),
                &[0x11, 0x15, 0x16, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27],
            ),
            (
                Connack.into(),
                &[
                    0x11, 0x12, 0x13, 0x15, 0x16, 0x1A, 0x1C, 0x1F, 0x21, 0x22, 0x24, 0x25, 0x26,
                    0x27, 0x28, 0x29, 0x2A,
                ],
            ),
            (
                Publish.into(),
                &[0x01, 0x02, 0x03, 0x08, 0x09, 0x0B, 0x23, 0x26],
            ),
            (Subscribe.into(), &[0x0B, 0x26]),
            (Unsubscribe.into(), &[0x26]),
            (Pingreq.into(), &[]),
            (Pingresp.into(), &[]),
            (Disconnect.into(), &[0x11, 0x1C, 0x1F, 0x26]),
            (Auth.into(), &[0x15, 0x16, 0x1F, 0x26]),
        ];
        sections.extend(
            [Puback, Pubrec, Pubrel, Pubcomp, Suback, Unsuback].map(|p| (p.into(), reason)),
        );
        for (holder, codes) in sections {
            let all = PropertyId::ALL.iter().filter(|id| id.allowed_in(holder));
            let allowed: Vec<u8> = all.map(|id| *id as u8).collect();
            assert_eq!(allowed, codes, "{holder:?}");
            for id in PropertyId::ALL {
                let repeats = match id {
                    PropertyId::UserProperty => id.allowed_in(holder),
                    PropertyId::SubscriptionIdentifier => holder == Publish.into(),
                    _ => false,
                };
                assert_eq!(id.repeats_in(holder), repeats, "{id:?} in {holder:?}");
            }
        }
    }
}
