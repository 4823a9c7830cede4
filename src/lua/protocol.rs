//! Packets between Lua and the codec: a received packet as values, a packet to send from arguments, and what
//! `mqtt.packet`, `mqtt.protocol` and `mqtt.topics` call. Connections and clients are not known here.

use std::collections::HashMap;
use std::fmt;

use bytes::{Bytes, BytesMut};
use mlua::{BorrowedBytes, BorrowedStr, Lua, LuaString, Nil, Table, Value};

use crate::codec::{
    Ack, Connack, Connect, Disconnect, Packet, PacketType, Properties, Property, PropertyId,
    PropertyKind, PropertyValue, PublishRef, QoS, Str, Suback, Subscribe, Subscription,
    Unsubscribe, Version, Will, check_topic_filter, check_topic_name, decode_connect, decode_frame,
    encode, encode_publish, reason_name,
};

/// Adds the functions of this file to `mqtt.core`.
pub(crate) fn register(lua: &Lua, core: &Table) -> mlua::Result<()> {
    let codecs = lua.create_table()?;
    for version in [Version::V311, Version::V50] {
        codecs.set(version as u8, codec(lua, version)?)?;
    }
    core.set("codec", codecs)?;

    // decode_connect(body[, version]): values of a CONNECT, or nil and an error.
    core.set(
        "decode_connect",
        lua.create_function(|lua, (body, version): (BorrowedBytes, Option<u8>)| {
            let expected = version.and_then(Version::from_code);
            match decode_connect(0x10, Bytes::copy_from_slice(&body), expected) {
                Ok(connect) => {
                    let version = connect.version;
                    packet_values(lua, &Packet::Connect(connect.into()), version)
                }
                Err(error) => failure(lua, &error),
            }
        })?,
    )?;

    // check_topic_name(topic), check_topic_filter(topic): nil, or the broken rule.
    core.set(
        "check_topic_name",
        lua.create_function(|_, topic: LuaString| Ok(check_topic(&topic, check_topic_name)))?,
    )?;
    core.set(
        "check_topic_filter",
        lua.create_function(|_, topic: LuaString| Ok(check_topic(&topic, check_topic_filter)))?,
    )
}

/// The codec of one protocol version, as Lua sees it.
fn codec(lua: &Lua, version: Version) -> mlua::Result<Table> {
    let codec = lua.create_table()?;

    // decode(first_byte, body): values of the packet, or nil and an error.
    codec.set(
        "decode",
        lua.create_function(move |lua, (first, body): (u8, BorrowedBytes)| {
            match decode_frame(version, first, Bytes::copy_from_slice(&body)) {
                Ok(packet) => packet_values(lua, &packet, version),
                Err(error) => failure(lua, &error),
            }
        })?,
    )?;

    // encode(packet): bytes, or nil and an error.
    codec.set(
        "encode",
        lua.create_function(move |lua, packet: Table| {
            encoded(lua, |out| write_packet(&Args::new(&packet), version, out))
        })?,
    )?;

    // encode_publish(topic, payload, qos, retain, dup, packet_id): bytes of a PUBLISH without properties.
    codec.set(
        "encode_publish",
        lua.create_function(
            move |lua, fields: (Value, Value, Value, Value, Value, Value)| {
                let (topic, payload, qos, retain, dup, packet_id) = fields;
                encoded(lua, |out| {
                    let publish = PublishArgs::new(&topic, &payload, &qos, &retain, &dup)?;
                    let packet_id = publish.packet_id(&packet_id)?;
                    encode_publish(&publish.packet(packet_id, &Properties::new()), version, out)
                        .map_err(|e| e.to_string())
                })
            },
        )?,
    )?;

    // reason_names(packet_type): the standard's names of its reason codes, by code.
    codec.set(
        "reason_names",
        lua.create_function(move |lua, packet: u8| {
            let names = lua.create_table()?;
            if let Some(packet) = PacketType::from_code(packet) {
                for code in 0..=u8::MAX {
                    if let Some(name) = reason_name(version, packet, code) {
                        names.raw_set(code, name)?;
                    }
                }
            }
            Ok(names)
        })?,
    )?;
    Ok(codec)
}

fn check_topic<E: fmt::Display>(
    topic: &LuaString,
    check: fn(&str) -> Result<(), E>,
) -> Option<String> {
    let broken = match str::from_utf8(&topic.as_bytes()) {
        Ok(text) => check(text).err()?.to_string(),
        Err(_) => "must be well-formed UTF-8".to_owned(),
    };
    Some(format!("topic {broken}"))
}

/// The bytes that `write` wrote, for Lua: nil and the error if it failed.
fn encoded(
    lua: &Lua,
    write: impl FnOnce(&mut BytesMut) -> Checked<()>,
) -> mlua::Result<Checked<LuaString>> {
    let mut out = BytesMut::new();
    match write(&mut out) {
        Ok(()) => lua.create_string(&out).map(Ok),
        Err(error) => Ok(Err(error)),
    }
}

// ---- received packets ------------------------------------------------------------------------------------------------

/// A received packet on its way to `shape` of `mqtt.packet`: its type, its fields in the order of the shapes there, then
/// nils. A fixed tuple, because Lua gets one without a list being made for it.
#[rustfmt::skip]
pub(crate) type PacketValues = (Value, Value, Value, Value, Value, Value, Value, Value, Value, Value);

/// The values given, and nils.
pub(crate) fn fill<const N: usize>(values: [Value; N]) -> PacketValues {
    const { assert!(N <= 10) };
    let mut values = values.into_iter();
    let mut next = || values.next().unwrap_or(Nil);
    (
        next(),
        next(),
        next(),
        next(),
        next(),
        next(),
        next(),
        next(),
        next(),
        next(),
    )
}

/// What `shape` of `mqtt.packet` turns into `false, error`.
pub(crate) fn failure(lua: &Lua, error: &dyn fmt::Display) -> mlua::Result<PacketValues> {
    Ok(fill([Nil, string(lua, error.to_string())?]))
}

/// The values of a received packet.
pub(crate) fn packet_values(
    lua: &Lua,
    packet: &Packet,
    version: Version,
) -> mlua::Result<PacketValues> {
    let kind = integer(packet.packet_type() as u8);
    Ok(match packet {
        Packet::Publish(publish) => {
            let (properties, user_properties) = properties_to_lua(lua, &publish.properties)?;
            fill([
                kind,
                Value::Boolean(publish.dup),
                integer(publish.qos as u8),
                Value::Boolean(publish.retain),
                string(lua, publish.topic.as_bytes())?,
                match publish.qos {
                    QoS::AtMostOnce => Nil,
                    _ => integer(publish.packet_id),
                },
                match publish.payload.is_empty() {
                    true => Nil,
                    false => string(lua, &publish.payload)?,
                },
                properties,
                user_properties,
            ])
        }
        Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubrel(ack) | Packet::Pubcomp(ack) => {
            let (properties, user_properties) = properties_to_lua(lua, &ack.properties)?;
            let id = integer(ack.packet_id);
            fill([kind, id, integer(ack.reason), properties, user_properties])
        }
        Packet::Connect(connect) => connect_values(lua, kind, connect)?,
        Packet::Connack(connack) => {
            let (properties, user_properties) = properties_to_lua(lua, &connack.properties)?;
            let sp = Value::Boolean(connack.session_present);
            let rc = integer(connack.reason);
            fill([kind, sp, rc, properties, user_properties])
        }
        Packet::Subscribe(subscribe) => {
            let (properties, user_properties) = properties_to_lua(lua, &subscribe.properties)?;
            let subscriptions = lua.create_table()?;
            for subscription in &subscribe.subscriptions {
                subscriptions.raw_push(subscription_to_lua(lua, subscription, version)?)?;
            }
            fill([
                kind,
                integer(subscribe.packet_id),
                Value::Table(subscriptions),
                properties,
                user_properties,
            ])
        }
        Packet::Unsubscribe(unsubscribe) => {
            let (properties, user_properties) = properties_to_lua(lua, &unsubscribe.properties)?;
            let filters = lua.create_table()?;
            for filter in &unsubscribe.filters {
                filters.raw_push(string(lua, filter.as_bytes())?)?;
            }
            fill([
                kind,
                integer(unsubscribe.packet_id),
                Value::Table(filters),
                properties,
                user_properties,
            ])
        }
        Packet::Suback(suback) | Packet::Unsuback(suback) => {
            let (properties, user_properties) = properties_to_lua(lua, &suback.properties)?;
            let reasons = lua.create_sequence_from(suback.reasons.iter().copied())?;
            fill([
                kind,
                integer(suback.packet_id),
                Value::Table(reasons),
                properties,
                user_properties,
            ])
        }
        Packet::Pingreq | Packet::Pingresp => fill([kind]),
        Packet::Disconnect(disconnect) | Packet::Auth(disconnect) => {
            let (properties, user_properties) = properties_to_lua(lua, &disconnect.properties)?;
            let rc = integer(disconnect.reason);
            fill([kind, rc, properties, user_properties])
        }
    })
}

fn connect_values(lua: &Lua, kind: Value, connect: &Connect) -> mlua::Result<PacketValues> {
    let (properties, user_properties) = properties_to_lua(lua, &connect.properties)?;
    let optional = |bytes: Option<&Bytes>| bytes.map_or(Ok(Nil), |bytes| string(lua, bytes));
    let will = match &connect.will {
        Some(will) => Value::Table(will_to_lua(lua, will, connect.version)?),
        None => Nil,
    };
    Ok(fill([
        kind,
        integer(connect.version as u8),
        Value::Boolean(connect.clean),
        integer(connect.keep_alive),
        string(lua, connect.client_id.as_bytes())?,
        optional(connect.username.as_ref().map(Str::as_bytes))?,
        optional(connect.password.as_ref())?,
        will,
        properties,
        user_properties,
    ]))
}

fn will_to_lua(lua: &Lua, will: &Will, version: Version) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.raw_set("topic", string(lua, will.topic.as_bytes())?)?;
    table.raw_set("payload", string(lua, &will.payload)?)?;
    table.raw_set("qos", will.qos as u8)?;
    table.raw_set("retain", will.retain)?;
    if version == Version::V50 {
        let (properties, user_properties) = properties_to_lua(lua, &will.properties)?;
        for (name, value) in [
            ("properties", properties),
            ("user_properties", user_properties),
        ] {
            match value {
                Nil => table.raw_set(name, lua.create_table()?)?,
                value => table.raw_set(name, value)?,
            }
        }
    }
    Ok(table)
}

fn subscription_to_lua(
    lua: &Lua,
    subscription: &Subscription,
    version: Version,
) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.raw_set("topic", string(lua, subscription.filter.as_bytes())?)?;
    table.raw_set("qos", subscription.qos as u8)?;
    if version == Version::V50 {
        table.raw_set("no_local", subscription.no_local)?;
        table.raw_set("retain_as_published", subscription.retain_as_published)?;
        table.raw_set("retain_handling", subscription.retain_handling)?;
    }
    Ok(table)
}

/// Tables of the properties and of the user properties, nil for both if there are none at all.
///
/// User properties are `name = value`. Names that come more than once come as `{name, value}` pairs too, in the array
/// part, in the order of arrival.
pub(crate) fn properties_to_lua(
    lua: &Lua,
    properties: &Properties,
) -> mlua::Result<(Value, Value)> {
    if properties.is_empty() {
        return Ok((Nil, Nil));
    }
    let (named, user) = (lua.create_table()?, lua.create_table()?);
    let mut times = HashMap::new();
    for property in properties {
        if let PropertyValue::Pair(name, _) = &property.value {
            *times.entry(name.as_bytes()).or_insert(0) += 1;
        }
    }
    for Property { id, value } in properties {
        let value = match value {
            PropertyValue::Pair(name, value) => {
                let repeated = times[name.as_bytes()] > 1;
                let name = string(lua, name.as_bytes())?;
                let value = string(lua, value.as_bytes())?;
                if repeated {
                    user.raw_push(lua.create_sequence_from([&name, &value])?)?;
                }
                user.raw_set(name, value)?;
                continue;
            }
            PropertyValue::Byte(number) => integer(*number),
            PropertyValue::TwoByte(number) => integer(*number),
            PropertyValue::FourByte(number) | PropertyValue::VarInt(number) => integer(*number),
            PropertyValue::String(text) => string(lua, text.as_bytes())?,
            PropertyValue::Binary(bytes) => string(lua, bytes)?,
        };
        if *id == PropertyId::SubscriptionIdentifier {
            match named.raw_get::<Option<Table>>(id.name())? {
                Some(list) => list.raw_push(value)?,
                None => named.raw_set(id.name(), lua.create_sequence_from([value])?)?,
            }
        } else {
            named.raw_set(id.name(), value)?;
        }
    }
    Ok((Value::Table(named), Value::Table(user)))
}

fn integer(number: impl Into<u32>) -> Value {
    let number = number.into();
    match mlua::Integer::try_from(number) {
        Ok(number) => Value::Integer(number),
        Err(_) => Value::Number(number.into()), // where Lua's integers have 32 bits
    }
}

fn string(lua: &Lua, bytes: impl AsRef<[u8]>) -> mlua::Result<Value> {
    lua.create_string(bytes).map(Value::String)
}

// ---- packets to send -------------------------------------------------------------------------------------------------

/// Something from Lua, or what is wrong with it: Lua raises that as an error with its own position.
pub(crate) type Checked<T> = Result<T, String>;

/// A table of arguments that knows how errors call its fields, e.g. `.will.topic`.
pub(crate) struct Args<'a> {
    table: &'a Table,
    path: String,
}

impl<'a> Args<'a> {
    /// The outermost table of arguments.
    pub(crate) fn new(table: &'a Table) -> Self {
        Self::at(table, String::new())
    }

    /// A table that errors call `path`.
    pub(crate) fn at(table: &'a Table, path: String) -> Self {
        Self { table, path }
    }

    /// A field, whatever it is.
    pub(crate) fn value(&self, key: &str) -> Checked<Value> {
        self.table.get(key).map_err(|e| e.to_string())
    }

    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }

    pub(crate) fn str(&self, key: &str) -> Checked<Str> {
        str_from_lua(&self.value(key)?, || self.name(key))
    }

    pub(crate) fn bytes(&self, key: &str) -> Checked<Bytes> {
        bytes_from_lua(&self.value(key)?, || self.name(key))
    }

    /// nil is false.
    pub(crate) fn flag(&self, key: &str) -> Checked<bool> {
        flag_from_lua(&self.value(key)?, || self.name(key))
    }

    /// nil is 0.
    pub(crate) fn qos(&self, key: &str) -> Checked<QoS> {
        qos_from_lua(&self.value(key)?, || self.name(key))
    }

    pub(crate) fn byte(&self, key: &str) -> Checked<u8> {
        Ok(integer_from_lua(&self.value(key)?, 0, u8::MAX.into(), || self.name(key))? as u8)
    }

    /// A packet identifier (2.2.1).
    pub(crate) fn packet_id(&self) -> Checked<u16> {
        packet_id_from_lua(&self.value("packet_id")?)
    }

    /// The fields `properties` and `user_properties`.
    pub(crate) fn properties(&self) -> Checked<Properties> {
        let (properties, user) = (self.value("properties")?, self.value("user_properties")?);
        properties_from_lua(&properties, &user, &self.path)
    }

    /// A field that is a list with something in it.
    fn list<T>(&self, key: &str, item: impl Fn(Value, String) -> Checked<T>) -> Checked<Vec<T>> {
        let name = self.name(key);
        let items = list_from_lua(&self.value(key)?, &name, item)?;
        match items.is_empty() {
            true => Err(format!("expecting {name} to be a list that is not empty")),
            false => Ok(items),
        }
    }
}

/// Writes the packet that `make_packet` was asked for.
fn write_packet(args: &Args, version: Version, out: &mut BytesMut) -> Checked<()> {
    let kind = args.byte("type")?;
    let kind = PacketType::from_code(kind)
        .filter(|kind| version == Version::V50 || *kind != PacketType::Auth)
        .ok_or_else(|| {
            format!("expecting .type to be a packet type of MQTT {version}, got: {kind}")
        })?;
    let packet = match kind {
        PacketType::Connect => Packet::Connect(connect_from_lua(args, version)?.into()),
        PacketType::Connack => Packet::Connack(Connack {
            session_present: match args.value("sp")? {
                Value::Boolean(sp) => sp,
                other => return Err(unexpected(".sp", "a boolean", &other)),
            },
            reason: args.byte("rc")?,
            properties: args.properties()?,
        }),
        PacketType::Publish => {
            let (topic, payload) = (args.value("topic")?, args.value("payload")?);
            let qos = args.value("qos")?;
            let (retain, dup) = (args.value("retain")?, args.value("dup")?);
            let publish = PublishArgs::new(&topic, &payload, &qos, &retain, &dup)?;
            let packet_id = publish.packet_id(&args.value("packet_id")?)?;
            let properties = args.properties()?;
            return encode_publish(&publish.packet(packet_id, &properties), version, out)
                .map_err(|e| e.to_string());
        }
        PacketType::Puback => Packet::Puback(ack_from_lua(args, version)?),
        PacketType::Pubrec => Packet::Pubrec(ack_from_lua(args, version)?),
        PacketType::Pubrel => Packet::Pubrel(ack_from_lua(args, version)?),
        PacketType::Pubcomp => Packet::Pubcomp(ack_from_lua(args, version)?),
        PacketType::Subscribe => Packet::Subscribe(Subscribe {
            packet_id: args.packet_id()?,
            subscriptions: args.list("subscriptions", subscription_from_lua)?,
            properties: args.properties()?,
        }),
        PacketType::Suback => Packet::Suback(suback_from_lua(args)?),
        PacketType::Unsubscribe => Packet::Unsubscribe(Unsubscribe {
            packet_id: args.packet_id()?,
            filters: args.list("subscriptions", |value, name| str_from_lua(&value, || name))?,
            properties: args.properties()?,
        }),
        PacketType::Unsuback if version == Version::V50 => Packet::Unsuback(suback_from_lua(args)?),
        PacketType::Unsuback => Packet::Unsuback(Suback {
            packet_id: args.packet_id()?,
            reasons: Vec::new(),
            properties: Properties::new(),
        }),
        PacketType::Pingreq => Packet::Pingreq,
        PacketType::Pingresp => Packet::Pingresp,
        PacketType::Disconnect => Packet::Disconnect(disconnect_from_lua(args, version)?),
        PacketType::Auth => Packet::Auth(disconnect_from_lua(args, version)?),
    };
    encode(&packet, version, out).map_err(|e| e.to_string())
}

/// CONNECT from a table with the fields of the packet: `id`, `clean`, `keep_alive`, `username`, `password`, `will`,
/// `properties`, `user_properties`.
pub(crate) fn connect_from_lua(args: &Args, version: Version) -> Checked<Connect> {
    Ok(Connect {
        version,
        clean: args.flag("clean")?,
        keep_alive: match args.value("keep_alive")? {
            Nil => 0,
            value => integer_from_lua(&value, 0, u16::MAX.into(), || ".keep_alive".into())? as u16,
        },
        client_id: args.str("id")?,
        username: match args.value("username")? {
            Nil => None,
            _ => Some(args.str("username")?),
        },
        password: match args.value("password")? {
            Nil => None,
            _ => Some(args.bytes("password")?),
        },
        will: match args.value("will")? {
            Nil => None,
            Value::Table(will) => Some(will_from_lua(&Args::at(&will, ".will".into()))?),
            other => return Err(unexpected(".will", "a table", &other)),
        },
        properties: args.properties()?,
    })
}

fn will_from_lua(args: &Args) -> Checked<Will> {
    Ok(Will {
        topic: args.str("topic")?,
        payload: args.bytes("payload")?,
        qos: args.qos("qos")?,
        retain: args.flag("retain")?,
        properties: args.properties()?,
    })
}

fn ack_from_lua(args: &Args, version: Version) -> Checked<Ack> {
    Ok(Ack {
        packet_id: args.packet_id()?,
        reason: reason_from_lua(args, version)?,
        properties: args.properties()?,
    })
}

fn disconnect_from_lua(args: &Args, version: Version) -> Checked<Disconnect> {
    Ok(Disconnect {
        reason: reason_from_lua(args, version)?,
        properties: args.properties()?,
    })
}

/// 3.1.1 has no reason codes in acknowledgements and DISCONNECT.
fn reason_from_lua(args: &Args, version: Version) -> Checked<u8> {
    match version {
        Version::V311 => Ok(0),
        Version::V50 => args.byte("rc"),
    }
}

fn suback_from_lua(args: &Args) -> Checked<Suback> {
    Ok(Suback {
        packet_id: args.packet_id()?,
        reasons: args.list("rc", |value, name| {
            Ok(integer_from_lua(&value, 0, u8::MAX.into(), || name)? as u8)
        })?,
        properties: args.properties()?,
    })
}

/// One of the `subscriptions` of a SUBSCRIBE; errors call it `name`.
pub(crate) fn subscription_from_lua(value: Value, name: String) -> Checked<Subscription> {
    let Value::Table(table) = &value else {
        return Err(unexpected(&name, "a table", &value));
    };
    let args = Args::at(table, name);
    Ok(Subscription {
        filter: args.str("topic")?,
        qos: args.qos("qos")?,
        no_local: args.flag("no_local")?,
        retain_as_published: args.flag("retain_as_published")?,
        retain_handling: match args.value("retain_handling")? {
            Nil => 0,
            Value::Boolean(handling) => handling.into(),
            value => integer_from_lua(&value, 0, 2, || args.name("retain_handling"))? as u8,
        },
    })
}

/// The arguments of a PUBLISH, checked, but without a packet identifier. They borrow Lua's strings: nothing is copied
/// before the packet is written.
pub(crate) struct PublishArgs {
    topic: BorrowedStr,
    payload: Option<BorrowedBytes>,
    pub(crate) qos: QoS,
    retain: bool,
    dup: bool,
}

impl PublishArgs {
    pub(crate) fn new(
        topic: &Value,
        payload: &Value,
        qos: &Value,
        retain: &Value,
        dup: &Value,
    ) -> Checked<Self> {
        Ok(Self {
            topic: match topic {
                Value::String(topic) => topic
                    .to_str()
                    .map_err(|_| "expecting .topic to be well-formed UTF-8".to_owned())?,
                other => return Err(unexpected(".topic", "a string", other)),
            },
            payload: match payload {
                Value::String(payload) => Some(payload.as_bytes()),
                Nil => None,
                other => return Err(unexpected(".payload", "a string", other)),
            },
            qos: qos_from_lua(qos, || ".qos".into())?,
            retain: flag_from_lua(retain, || ".retain".into())?,
            dup: flag_from_lua(dup, || ".dup".into())?,
        })
    }

    /// The packet identifier that a caller gave: 0 where none is sent.
    fn packet_id(&self, value: &Value) -> Checked<u16> {
        match self.qos {
            QoS::AtMostOnce => Ok(0),
            _ => packet_id_from_lua(value),
        }
    }

    /// The packet.
    pub(crate) fn packet<'a>(
        &'a self,
        packet_id: u16,
        properties: &'a Properties,
    ) -> PublishRef<'a> {
        PublishRef {
            dup: self.dup,
            qos: self.qos,
            retain: self.retain,
            topic: &self.topic,
            packet_id,
            properties,
            payload: self.payload.as_deref().unwrap_or_default(),
        }
    }
}

/// Properties from the tables that programs give, in the order they are sent: by identifier, then the user properties,
/// first the `{name, value}` pairs of the array part, then the named ones sorted, but for one that says what the last
/// pair with its name says. Errors name fields below `path`. Which packet may carry what is the encoder's to check.
pub(crate) fn properties_from_lua(
    properties: &Value,
    user_properties: &Value,
    path: &str,
) -> Checked<Properties> {
    let mut all = match properties {
        Nil => Vec::new(),
        Value::Table(table) => named_properties(table, &format!("{path}.properties"))?,
        other => return Err(unexpected(&format!("{path}.properties"), "a table", other)),
    };
    let path = format!("{path}.user_properties");
    match user_properties {
        Nil => {}
        Value::Table(table) => user_properties_into(table, &path, &mut all)?,
        other => return Err(unexpected(&path, "a table", other)),
    }
    Ok(all.into_iter().collect())
}

fn named_properties(table: &Table, path: &str) -> Checked<Vec<Property>> {
    let mut properties = Vec::new();
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair.map_err(|e| e.to_string())?;
        let id = match &key {
            Value::String(name) => PropertyId::from_name(&name.to_string_lossy()),
            _ => None,
        };
        let id = match id {
            Some(PropertyId::UserProperty) => {
                return Err(format!(
                    "expecting user properties in .user_properties, not in {path}"
                ));
            }
            Some(id) => id,
            None => {
                let key = key.to_string().unwrap_or_else(|_| type_name(&key).into());
                return Err(format!(
                    "expecting names of properties in {path}, got: {key}"
                ));
            }
        };
        let name = format!("{path}.{}", id.name());
        let mut push = |value| properties.push(Property { id, value });
        if id == PropertyId::SubscriptionIdentifier {
            let values = list_from_lua(&value, &name, |value, name| {
                property_from_lua(id, &value, &name)
            })?;
            values.into_iter().for_each(push);
        } else {
            push(property_from_lua(id, &value, &name)?);
        }
    }
    properties.sort_by_key(|property| property.id);
    Ok(properties)
}

/// Ranges narrower than the kind of the value are the encoder's to check.
fn property_from_lua(id: PropertyId, value: &Value, name: &str) -> Checked<PropertyValue> {
    let number = |max| integer_from_lua(value, 0, max, || name.into());
    Ok(match id.kind() {
        PropertyKind::Byte => PropertyValue::Byte(number(u8::MAX.into())? as u8),
        PropertyKind::TwoByte => PropertyValue::TwoByte(number(u16::MAX.into())? as u16),
        PropertyKind::FourByte => PropertyValue::FourByte(number(u32::MAX)?),
        PropertyKind::VarInt => PropertyValue::VarInt(number(u32::MAX)?),
        PropertyKind::String => PropertyValue::String(str_from_lua(value, || name.into())?),
        PropertyKind::Binary => PropertyValue::Binary(bytes_from_lua(value, || name.into())?),
        PropertyKind::Pair => unreachable!("user properties have a table of their own"),
    })
}

fn user_properties_into(table: &Table, path: &str, all: &mut Vec<Property>) -> Checked<()> {
    let mut push = |name, value| {
        let (id, value) = (PropertyId::UserProperty, PropertyValue::Pair(name, value));
        all.push(Property { id, value });
    };
    let pairs = list_from_lua(&Value::Table(table.clone()), path, |value, name| {
        let Value::Table(pair) = &value else {
            return Err(unexpected(&name, "a {name, value} pair", &value));
        };
        let item = |i: u8| {
            let value = pair.get(i).map_err(|e| e.to_string())?;
            str_from_lua(&value, || format!("{name}[{i}]"))
        };
        Ok((item(1)?, item(2)?))
    })?;
    let mut last = HashMap::new();
    for (name, value) in pairs {
        last.insert(name.clone(), value.clone());
        push(name, value);
    }

    let mut named = Vec::new();
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair.map_err(|e| e.to_string())?;
        if let Value::Integer(_) | Value::Number(_) = key {
            continue; // one of the pairs
        }
        let name = str_from_lua(&key, || format!("names in {path}"))?;
        let value = str_from_lua(&value, || format!("{path}.{name}"))?;
        if last.get(&name) != Some(&value) {
            named.push((name, value));
        }
    }
    named.sort();
    named
        .into_iter()
        .for_each(|(name, value)| push(name, value));
    Ok(())
}

// ---- single values ---------------------------------------------------------------------------------------------------

/// The values of the array part, up to the first nil. Errors call them `name[i]`.
fn list_from_lua<T>(
    list: &Value,
    name: &str,
    item: impl Fn(Value, String) -> Checked<T>,
) -> Checked<Vec<T>> {
    let Value::Table(table) = list else {
        return Err(unexpected(name, "a list", list));
    };
    let values = table.sequence_values::<Value>().zip(1..);
    values
        .map(|(value, i)| item(value.map_err(|e| e.to_string())?, format!("{name}[{i}]")))
        .collect()
}

pub(crate) fn str_from_lua(value: &Value, name: impl FnOnce() -> String) -> Checked<Str> {
    match value {
        Value::String(text) => Str::new(Bytes::copy_from_slice(&text.as_bytes()))
            .map_err(|e| format!("{} {e}", name())),
        other => Err(unexpected(&name(), "a string", other)),
    }
}

fn bytes_from_lua(value: &Value, name: impl FnOnce() -> String) -> Checked<Bytes> {
    match value {
        Value::String(bytes) => Ok(Bytes::copy_from_slice(&bytes.as_bytes())),
        other => Err(unexpected(&name(), "a string", other)),
    }
}

fn flag_from_lua(value: &Value, name: impl FnOnce() -> String) -> Checked<bool> {
    match value {
        Value::Boolean(flag) => Ok(*flag),
        Nil => Ok(false),
        other => Err(unexpected(&name(), "a boolean", other)),
    }
}

pub(crate) fn qos_from_lua(value: &Value, name: impl FnOnce() -> String) -> Checked<QoS> {
    let code = match value {
        Nil => 0,
        value => integer_from_lua(value, 0, 2, name)?,
    };
    Ok(match code {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    })
}

fn packet_id_from_lua(value: &Value) -> Checked<u16> {
    Ok(integer_from_lua(value, 1, u16::MAX.into(), || ".packet_id".into())? as u16)
}

pub(crate) fn integer_from_lua(
    value: &Value,
    min: u32,
    max: u32,
    name: impl FnOnce() -> String,
) -> Checked<u32> {
    let number = match *value {
        Value::Integer(number) => u32::try_from(number).ok(),
        Value::Number(number) if number.fract() == 0.0 && number >= 0.0 => {
            (number <= u32::MAX.into()).then_some(number as u32)
        }
        _ => None,
    };
    let number = number.filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| {
        let expected = format!("an integer from {min} to {max}");
        match value {
            Value::Integer(got) => format!("expecting {} to be {expected}, got: {got}", name()),
            Value::Number(got) => format!("expecting {} to be {expected}, got: {got}", name()),
            other => unexpected(&name(), &expected, other),
        }
    })
}

/// Shows the type of what was got only: it may be a secret.
fn unexpected(name: &str, expected: &str, got: &Value) -> String {
    format!("expecting {name} to be {expected}, got: {}", type_name(got))
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Integer(_) => "number", // as Lua calls it
        other => other.type_name(),
    }
}
