//! Packets from what programs give: tables of arguments and single values, as plain data. Errors name what was given and
//! what was expected of it; Lua raises them with a position of its own. Pairs with `values.rs`, the other direction.

use std::collections::HashMap;
use std::fmt::{self, Display};

use bytes::Bytes;

use crate::codec::{
    Ack, Connack, Connect, Disconnect, Packet, PacketType, Properties, Property, PropertyId,
    PropertyKind, PropertyValue, Publish, PublishRef, QoS, Str, Suback, Subscribe, Subscription,
    Unsubscribe, Version, Will,
};

/// Something from Lua, or what is wrong with it.
pub(crate) type Checked<T> = Result<T, String>;

// ---- single values ---------------------------------------------------------------------------------------------------

/// A value from Lua, looked at where it lies. The methods take the name that errors call it by.
#[derive(Clone, Copy)]
pub(crate) enum Scalar<'a> {
    Nil,
    Boolean(bool),
    /// Of either kind that newer Luas have: every integer that MQTT knows is exact here.
    Number(f64),
    String(&'a [u8]),
    Function,
    /// Anything else, by the name of its type.
    Other(&'static str),
}

impl<'a> Scalar<'a> {
    /// What is wrong with it.
    pub(crate) fn unexpected(self, name: &dyn Display, expected: impl Display) -> String {
        // Only the type of what was got is shown: it may be a secret.
        let got = match self {
            Self::Nil => "nil",
            Self::Boolean(_) => "boolean",
            Self::Number(_) => "number",
            Self::String(_) => "string",
            Self::Function => "function",
            Self::Other(type_name) => type_name,
        };
        format!("expecting {name} to be {expected}, got: {got}")
    }

    pub(crate) fn bytes(self, name: &dyn Display) -> Checked<&'a [u8]> {
        match self {
            Self::String(bytes) => Ok(bytes),
            other => Err(other.unexpected(name, "a string")),
        }
    }

    pub(crate) fn text(self, name: &dyn Display) -> Checked<&'a str> {
        str::from_utf8(self.bytes(name)?).map_err(|_| format!("{name} must be well-formed UTF-8"))
    }

    /// A boolean; nil is false.
    pub(crate) fn flag(self, name: &dyn Display) -> Checked<bool> {
        match self {
            Self::Boolean(flag) => Ok(flag),
            Self::Nil => Ok(false),
            other => Err(other.unexpected(name, "a boolean")),
        }
    }

    pub(crate) fn integer(self, min: u32, max: u32, name: &dyn Display) -> Checked<u32> {
        match self {
            Self::Number(number)
                if (min.into()..=max.into()).contains(&number) && number.fract() == 0.0 =>
            {
                Ok(number as u32)
            }
            Self::Number(got) => Err(format!(
                "expecting {name} to be an integer from {min} to {max}, got: {got}"
            )),
            other => Err(other.unexpected(name, format_args!("an integer from {min} to {max}"))),
        }
    }

    /// A quality of service (4.3); nil is 0.
    pub(crate) fn qos(self, name: &dyn Display) -> Checked<QoS> {
        Ok(match self {
            Self::Nil => QoS::AtMostOnce,
            number => match number.integer(0, 2, name)? {
                0 => QoS::AtMostOnce,
                1 => QoS::AtLeastOnce,
                _ => QoS::ExactlyOnce,
            },
        })
    }

    /// A packet identifier (2.2.1).
    pub(crate) fn packet_id(self) -> Checked<u16> {
        Ok(self.integer(1, u16::MAX.into(), &".packet_id")? as u16)
    }
}

/// A value from Lua as plain data: what keeps it need not keep anything of Lua's.
pub(crate) enum Value {
    Nil,
    Boolean(bool),
    Number(f64),
    String(Box<[u8]>),
    Table(Table),
    Function,
    /// Anything else, by the name of its type.
    Other(&'static str),
}

/// A table from Lua.
#[derive(Default)]
pub(crate) struct Table {
    /// The array part, up to the first nil.
    pub(crate) list: Vec<Value>,
    /// The other keys and their values, in no order.
    pub(crate) fields: Vec<(Value, Value)>,
}

impl Value {
    pub(crate) fn scalar(&self) -> Scalar<'_> {
        match self {
            Self::Nil => Scalar::Nil,
            Self::Boolean(flag) => Scalar::Boolean(*flag),
            Self::Number(number) => Scalar::Number(*number),
            Self::String(bytes) => Scalar::String(bytes),
            Self::Table(_) => Scalar::Other("table"),
            Self::Function => Scalar::Function,
            Self::Other(type_name) => Scalar::Other(type_name),
        }
    }

    pub(crate) fn table(&self, name: &dyn Display) -> Checked<&Table> {
        match self {
            Self::Table(table) => Ok(table),
            other => Err(other.scalar().unexpected(name, "a table")),
        }
    }
}

impl Table {
    /// The value of a field, nil if there is none.
    pub(crate) fn get(&self, key: &str) -> &Value {
        let is_key = |(name, _): &&(Value, Value)| matches!(name, Value::String(name) if **name == *key.as_bytes());
        match self.fields.iter().find(is_key) {
            Some((_, value)) => value,
            None => &Value::Nil,
        }
    }
}

pub(crate) fn str_from_lua(value: Scalar<'_>, name: &dyn Display) -> Checked<Str> {
    let bytes = bytes_from_lua(value, name)?;
    Str::new(bytes).map_err(|error| format!("{name} {error}"))
}

fn bytes_from_lua(value: Scalar<'_>, name: &dyn Display) -> Checked<Bytes> {
    value.bytes(name).map(Bytes::copy_from_slice)
}

fn integer_from_lua(value: Scalar<'_>, max: u32, name: &dyn Display) -> Checked<u32> {
    value.integer(0, max, name)
}

pub(crate) fn byte_from_lua(value: Scalar<'_>, name: &dyn Display) -> Checked<u8> {
    Ok(integer_from_lua(value, u8::MAX.into(), name)? as u8)
}

/// The items of a list. Errors call them `name[i]`.
fn list_from_lua<T>(
    list: &Value,
    name: &dyn Display,
    item: impl Fn(&Value, &dyn Display) -> Checked<T>,
) -> Checked<Vec<T>> {
    let Value::Table(table) = list else {
        return Err(list.scalar().unexpected(name, "a list"));
    };
    let values = table.list.iter().zip(1..);
    values
        .map(|(value, i)| item(value, &format_args!("{name}[{i}]")))
        .collect()
}

// ---- tables of arguments ---------------------------------------------------------------------------------------------

/// A table of arguments that knows how errors call its fields, e.g. `.will.topic`.
pub(crate) struct Args<'a> {
    table: &'a Table,
    path: &'a dyn Display,
}

/// A field, as errors call it.
struct Name<'a> {
    path: &'a dyn Display,
    key: &'a str,
}

impl Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.path, self.key)
    }
}

impl<'a> Args<'a> {
    /// The table that a function was given.
    pub(crate) fn new(table: &'a Table) -> Self {
        Self::at(table, &"")
    }

    /// A table that errors call `path`.
    pub(crate) fn at(table: &'a Table, path: &'a dyn Display) -> Self {
        Self { table, path }
    }

    fn name(&self, key: &'a str) -> Name<'a> {
        let path = self.path;
        Name { path, key }
    }

    /// What `read` makes of a field.
    fn field<T>(
        &self,
        key: &'a str,
        read: impl Fn(Scalar<'_>, &dyn Display) -> Checked<T>,
    ) -> Checked<T> {
        read(self.table.get(key).scalar(), &self.name(key))
    }

    /// What `read` makes of a field, unless it is nil.
    pub(crate) fn optional<T>(
        &self,
        key: &'a str,
        read: impl Fn(Scalar<'_>, &dyn Display) -> Checked<T>,
    ) -> Checked<Option<T>> {
        match self.table.get(key) {
            Value::Nil => Ok(None),
            _ => self.field(key, read).map(Some),
        }
    }

    pub(crate) fn string(&self, key: &'a str) -> Checked<Str> {
        self.field(key, str_from_lua)
    }

    pub(crate) fn bytes(&self, key: &'a str) -> Checked<Bytes> {
        self.field(key, bytes_from_lua)
    }

    pub(crate) fn flag(&self, key: &'a str) -> Checked<bool> {
        self.field(key, |scalar, name| scalar.flag(name))
    }

    pub(crate) fn qos(&self, key: &'a str) -> Checked<QoS> {
        self.field(key, |scalar, name| scalar.qos(name))
    }

    pub(crate) fn byte(&self, key: &'a str) -> Checked<u8> {
        self.field(key, byte_from_lua)
    }

    pub(crate) fn packet_id(&self) -> Checked<u16> {
        self.field("packet_id", |scalar, _| scalar.packet_id())
    }

    /// A list with something in it.
    fn list<T>(
        &self,
        key: &'a str,
        item: impl Fn(&Value, &dyn Display) -> Checked<T>,
    ) -> Checked<Vec<T>> {
        let name = self.name(key);
        let items = list_from_lua(self.table.get(key), &name, item)?;
        match items.is_empty() {
            true => Err(format!(
                "expecting {name} to be a list with at least one item"
            )),
            false => Ok(items),
        }
    }

    /// The subscriptions of a SUBSCRIBE.
    pub(crate) fn subscriptions(&self, version: Version) -> Checked<Vec<Subscription>> {
        self.list("subscriptions", |value, name| {
            subscription_from_lua(value, version, name)
        })
    }

    /// The topic filters of an UNSUBSCRIBE.
    pub(crate) fn filters(&self) -> Checked<Vec<Str>> {
        self.list("subscriptions", |value, name| {
            str_from_lua(value.scalar(), name)
        })
    }

    /// The fields `properties` and `user_properties`. 3.1.1 has none: they are left alone there, for programs that serve
    /// both versions with one table.
    pub(crate) fn properties(&self, version: Version) -> Checked<Properties> {
        if version == Version::V311 {
            return Ok(Properties::new());
        }
        let field = |key| self.table.get(key);
        properties_from_lua(field("properties"), field("user_properties"), self.path)
    }
}

// ---- packets ---------------------------------------------------------------------------------------------------------

/// The packet that `make_packet` was asked for.
pub(crate) fn packet_from_lua(args: &Args, version: Version) -> Checked<Packet> {
    let code = args.byte("type")?;
    let packet_type = PacketType::from_code(code)
        .ok_or_else(|| format!("expecting .type to be a packet type, 1 to 15, got: {code}"))?;
    Ok(match packet_type {
        PacketType::Connect => Packet::Connect(connect_from_lua(args, version)?.into()),
        PacketType::Connack => Packet::Connack(Connack {
            session_present: args.flag("sp")?,
            reason: args.byte("rc")?,
            properties: args.properties(version)?,
        }),
        PacketType::Publish => Packet::Publish(publish_from_lua(args, version)?),
        PacketType::Puback => Packet::Puback(ack_from_lua(args, version)?),
        PacketType::Pubrec => Packet::Pubrec(ack_from_lua(args, version)?),
        PacketType::Pubrel => Packet::Pubrel(ack_from_lua(args, version)?),
        PacketType::Pubcomp => Packet::Pubcomp(ack_from_lua(args, version)?),
        PacketType::Subscribe => Packet::Subscribe(Subscribe {
            packet_id: args.packet_id()?,
            subscriptions: args.subscriptions(version)?,
            properties: args.properties(version)?,
        }),
        PacketType::Suback => Packet::Suback(suback_from_lua(args, version)?),
        PacketType::Unsubscribe => Packet::Unsubscribe(Unsubscribe {
            packet_id: args.packet_id()?,
            filters: args.filters()?,
            properties: args.properties(version)?,
        }),
        PacketType::Unsuback if version == Version::V50 => {
            Packet::Unsuback(suback_from_lua(args, version)?)
        }
        PacketType::Unsuback => Packet::Unsuback(Suback {
            packet_id: args.packet_id()?,
            reasons: Vec::new(),
            properties: args.properties(version)?,
        }),
        PacketType::Pingreq => Packet::Pingreq,
        PacketType::Pingresp => Packet::Pingresp,
        PacketType::Disconnect => Packet::Disconnect(disconnect_from_lua(args, version)?),
        PacketType::Auth => Packet::Auth(disconnect_from_lua(args, version)?),
    })
}

/// A CONNECT from a table with `id`, `clean`, `keep_alive`, `username`, `password`, `will`, `properties` and
/// `user_properties`.
pub(crate) fn connect_from_lua(args: &Args, version: Version) -> Checked<Connect> {
    let keep_alive = args.optional("keep_alive", |value, name| {
        integer_from_lua(value, u16::MAX.into(), name)
    })?;
    Ok(Connect {
        version,
        clean: args.flag("clean")?,
        keep_alive: keep_alive.unwrap_or_default() as u16,
        client_id: args.string("id")?,
        username: args.optional("username", str_from_lua)?,
        password: args.optional("password", bytes_from_lua)?,
        will: match args.table.get("will") {
            Value::Nil => None,
            will => Some(will_from_lua(will, version, &args.name("will"))?),
        },
        properties: args.properties(version)?,
    })
}

fn will_from_lua(value: &Value, version: Version, name: &dyn Display) -> Checked<Will> {
    let args = Args::at(value.table(name)?, name);
    Ok(Will {
        topic: args.string("topic")?,
        payload: args.bytes("payload")?,
        qos: args.qos("qos")?,
        retain: args.flag("retain")?,
        properties: args.properties(version)?,
    })
}

fn publish_from_lua(args: &Args, version: Version) -> Checked<Publish> {
    let qos = args.qos("qos")?;
    Ok(Publish {
        dup: args.flag("dup")?,
        qos,
        retain: args.flag("retain")?,
        topic: args.string("topic")?,
        packet_id: match qos {
            QoS::AtMostOnce => 0,
            _ => args.packet_id()?,
        },
        properties: args.properties(version)?,
        payload: args
            .optional("payload", bytes_from_lua)?
            .unwrap_or_default(),
    })
}

fn ack_from_lua(args: &Args, version: Version) -> Checked<Ack> {
    Ok(Ack {
        packet_id: args.packet_id()?,
        reason: reason_from_lua(args, version)?,
        properties: args.properties(version)?,
    })
}

fn disconnect_from_lua(args: &Args, version: Version) -> Checked<Disconnect> {
    Ok(Disconnect {
        reason: reason_from_lua(args, version)?,
        properties: args.properties(version)?,
    })
}

/// 3.1.1 has no reason code in acknowledgements and DISCONNECT.
fn reason_from_lua(args: &Args, version: Version) -> Checked<u8> {
    match version {
        Version::V311 => Ok(0),
        Version::V50 => args.byte("rc"),
    }
}

fn suback_from_lua(args: &Args, version: Version) -> Checked<Suback> {
    Ok(Suback {
        packet_id: args.packet_id()?,
        reasons: args.list("rc", |value, name| byte_from_lua(value.scalar(), name))?,
        properties: args.properties(version)?,
    })
}

fn subscription_from_lua(
    value: &Value,
    version: Version,
    name: &dyn Display,
) -> Checked<Subscription> {
    let args = Args::at(value.table(name)?, name);
    let mut subscription = Subscription {
        filter: args.string("topic")?,
        qos: args.qos("qos")?,
        no_local: false,
        retain_as_published: false,
        retain_handling: 0,
    };
    // As with properties, 3.1.1 leaves alone what it does not have.
    if version == Version::V50 {
        subscription.no_local = args.flag("no_local")?;
        subscription.retain_as_published = args.flag("retain_as_published")?;
        subscription.retain_handling =
            args.field("retain_handling", |scalar, name| match scalar {
                Scalar::Nil => Ok(0),
                Scalar::Boolean(handling) => Ok(handling.into()),
                number => Ok(number.integer(0, 2, name)? as u8),
            })?;
    }
    Ok(subscription)
}

/// The arguments of a PUBLISH without properties and packet identifier, checked where they lie: nothing is copied before
/// the packet is written.
pub(crate) struct PublishArgs<'a> {
    topic: &'a str,
    payload: &'a [u8],
    pub(crate) qos: QoS,
    retain: bool,
    dup: bool,
}

impl<'a> PublishArgs<'a> {
    pub(crate) fn new(
        topic: Scalar<'a>,
        payload: Scalar<'a>,
        qos: Scalar<'_>,
        retain: Scalar<'_>,
        dup: Scalar<'_>,
    ) -> Checked<Self> {
        Ok(Self {
            topic: topic.text(&".topic")?,
            payload: match payload {
                Scalar::Nil => &[],
                bytes => bytes.bytes(&".payload")?,
            },
            qos: qos.qos(&".qos")?,
            retain: retain.flag(&".retain")?,
            dup: dup.flag(&".dup")?,
        })
    }

    /// The packet.
    pub(crate) fn packet(&self, packet_id: u16, properties: &'a Properties) -> PublishRef<'a> {
        PublishRef {
            dup: self.dup,
            qos: self.qos,
            retain: self.retain,
            topic: self.topic,
            packet_id,
            properties,
            payload: self.payload,
        }
    }
}

// ---- properties ------------------------------------------------------------------------------------------------------

/// Properties from the two tables that programs give, in the order they are sent: by identifier, then the user
/// properties. Errors call the tables `properties` and `user_properties` below `path`. Which packet may carry what, and
/// how often, is the encoder's to check.
pub(crate) fn properties_from_lua(
    properties: &Value,
    user_properties: &Value,
    path: &dyn Display,
) -> Checked<Properties> {
    let mut all = Vec::new();
    if !matches!(properties, Value::Nil) {
        let name = format_args!("{path}.properties");
        named_properties(properties.table(&name)?, &name, &mut all)?;
    }
    if !matches!(user_properties, Value::Nil) {
        let name = format_args!("{path}.user_properties");
        self::user_properties(user_properties, &name, &mut all)?;
    }
    Ok(all.into_iter().collect())
}

fn named_properties(table: &Table, path: &dyn Display, all: &mut Vec<Property>) -> Checked<()> {
    if !table.list.is_empty() {
        let key = Scalar::Number(1.0);
        return Err(key.unexpected(&format_args!("keys of {path}"), "strings"));
    }
    for (key, value) in &table.fields {
        let key = match key {
            Value::String(name) => String::from_utf8_lossy(name),
            other => {
                let name = format_args!("keys of {path}");
                return Err(other.scalar().unexpected(&name, "strings"));
            }
        };
        let id = match PropertyId::from_name(&key) {
            Some(PropertyId::UserProperty) => {
                return Err(format!(
                    "expecting user properties in .user_properties, got one in {path}"
                ));
            }
            Some(id) => id,
            None => {
                return Err(format!(
                    "expecting keys of {path} to be names of properties, got: {key}"
                ));
            }
        };
        let path = format_args!("{path}.{key}");
        if id == PropertyId::SubscriptionIdentifier {
            for value in list_from_lua(value, &path, |value, name| {
                property_value(id, value.scalar(), name)
            })? {
                all.push(Property { id, value });
            }
        } else {
            let value = property_value(id, value.scalar(), &path)?;
            all.push(Property { id, value });
        }
    }
    all.sort_by_key(|property| property.id);
    Ok(())
}

fn property_value(id: PropertyId, value: Scalar<'_>, name: &dyn Display) -> Checked<PropertyValue> {
    let integer = |max| integer_from_lua(value, max, name);
    Ok(match id.kind() {
        PropertyKind::Byte => PropertyValue::Byte(integer(u8::MAX.into())? as u8),
        PropertyKind::TwoByte => PropertyValue::TwoByte(integer(u16::MAX.into())? as u16),
        PropertyKind::FourByte => PropertyValue::FourByte(integer(u32::MAX)?),
        PropertyKind::VarInt => PropertyValue::VarInt(integer(u32::MAX)?),
        PropertyKind::String => PropertyValue::String(str_from_lua(value, name)?),
        PropertyKind::Binary => PropertyValue::Binary(bytes_from_lua(value, name)?),
        PropertyKind::Pair => unreachable!("user properties have a table of their own"),
    })
}

/// First the `{name, value}` pairs of the array part in their order, then the named ones sorted, but for one that says
/// what the last pair of its name says.
fn user_properties(table: &Value, path: &dyn Display, all: &mut Vec<Property>) -> Checked<()> {
    let pairs = list_from_lua(table, path, |pair, name| {
        let pair = pair.table(name)?;
        let item = |i: usize| {
            let value = pair.list.get(i - 1).unwrap_or(&Value::Nil);
            str_from_lua(value.scalar(), &format_args!("{name}[{i}]"))
        };
        Ok((item(1)?, item(2)?))
    })?;
    let last: HashMap<_, _> = pairs.iter().cloned().collect();

    let mut named = Vec::new();
    for (key, value) in &table.table(path)?.fields {
        if let Value::Number(_) = key {
            continue; // no pair comes before it
        }
        let name = str_from_lua(key.scalar(), &format_args!("key of {path}"))?;
        let value = str_from_lua(value.scalar(), &format_args!("{path}.{name}"))?;
        if last.get(&name) != Some(&value) {
            named.push((name, value));
        }
    }
    named.sort();

    for (name, value) in pairs.into_iter().chain(named) {
        let (id, value) = (PropertyId::UserProperty, PropertyValue::Pair(name, value));
        all.push(Property { id, value });
    }
    Ok(())
}
