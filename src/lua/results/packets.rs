//! Packets as values for `shape` of `mqtt.packet`, which builds their tables. For the interpreters, which run C faster than
//! Lua, this file builds the table of a received message itself.

use std::collections::HashMap;
use std::mem::ManuallyDrop;

use super::set;
use crate::codec::{
    Connect, Packet, PacketType, Properties, Property, PropertyId, PropertyValue, Publish, QoS,
    Subscription, Version, Will,
};
use crate::lua::stack::Stack;

/// Pushes the type of a packet and its fields, in the order of the shapes in `mqtt.packet`. The tables of properties come
/// last; without properties both are left out.
pub(crate) fn push_packet(packet: &Packet, version: Version, to: &Stack) {
    to.push_integer(packet.packet_type() as u8);
    match packet {
        Packet::Publish(publish) => {
            to.push_boolean(publish.dup);
            to.push_integer(publish.qos as u8);
            to.push_boolean(publish.retain);
            to.push_bytes(publish.topic.as_bytes());
            match publish.qos {
                QoS::AtMostOnce => to.push_nil(),
                _ => to.push_integer(publish.packet_id),
            }
            match publish.payload.is_empty() {
                true => to.push_nil(),
                false => to.push_bytes(&publish.payload),
            }
            push_properties(&publish.properties, to);
        }
        Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubrel(ack) | Packet::Pubcomp(ack) => {
            to.push_integer(ack.packet_id);
            to.push_integer(ack.reason);
            push_properties(&ack.properties, to);
        }
        Packet::Connect(connect) => push_connect(connect, to),
        Packet::Connack(connack) => {
            to.push_boolean(connack.session_present);
            to.push_integer(connack.reason);
            push_properties(&connack.properties, to);
        }
        Packet::Subscribe(subscribe) => {
            to.push_integer(subscribe.packet_id);
            to.push_table();
            for subscription in &subscribe.subscriptions {
                push_subscription(subscription, version, to);
                to.append();
            }
            push_properties(&subscribe.properties, to);
        }
        Packet::Unsubscribe(unsubscribe) => {
            to.push_integer(unsubscribe.packet_id);
            to.push_table();
            for filter in &unsubscribe.filters {
                to.push_bytes(filter.as_bytes());
                to.append();
            }
            push_properties(&unsubscribe.properties, to);
        }
        Packet::Suback(suback) | Packet::Unsuback(suback) => {
            to.push_integer(suback.packet_id);
            to.push_table();
            for &reason in &suback.reasons {
                to.push_integer(reason);
                to.append();
            }
            push_properties(&suback.properties, to);
        }
        Packet::Pingreq | Packet::Pingresp => {}
        Packet::Disconnect(disconnect) | Packet::Auth(disconnect) => {
            to.push_integer(disconnect.reason);
            push_properties(&disconnect.properties, to);
        }
    }
}

/// Whether this file builds the tables of received messages. C is faster for the interpreters; LuaJIT compiles `shape`,
/// which is faster there.
pub(crate) const BUILDS_MESSAGES: bool = !cfg!(feature = "luajit");

/// The fields of a message. They must be the constants of every function that calls [`push_message`].
pub(crate) const MESSAGE_FIELDS: &[&str] = &[
    "type",
    "topic",
    "payload",
    "qos",
    "retain",
    "dup",
    "packet_id",
    "properties",
    "user_properties",
];

/// Pushes the type of a message and its table, as `shape` of `mqtt.packet` would build it. The function's second argument
/// is the metatable.
///
/// The hot copy of `shape` for the interpreters: a received message of QoS 0 takes 6,900 instructions with it, 9,100
/// without.
pub(crate) fn push_message(publish: &Publish, version: Version, to: &Stack) {
    let has_packet_id = publish.qos != QoS::AtMostOnce;
    let has_payload = !publish.payload.is_empty();
    let with_properties = version == Version::V50;
    let field = |constant, push: &dyn Fn(&Stack)| {
        to.push_constant(constant);
        push(to);
        to.set();
    };
    to.push_integer(PacketType::Publish as u8);
    to.push_table_for(
        5 + i32::from(has_packet_id) + i32::from(has_payload) + 2 * i32::from(with_properties),
    );
    field(1, &|to| to.push_integer(PacketType::Publish as u8));
    field(2, &|to| to.push_bytes(publish.topic.as_bytes()));
    if has_payload {
        field(3, &|to| to.push_bytes(&publish.payload));
    }
    field(4, &|to| to.push_integer(publish.qos as u8));
    field(5, &|to| to.push_boolean(publish.retain));
    field(6, &|to| to.push_boolean(publish.dup));
    if has_packet_id {
        field(7, &|to| to.push_integer(publish.packet_id));
    }
    if with_properties {
        field(8, &|to| push_named(&publish.properties, to));
        field(9, &|to| push_user(&publish.properties, to));
    }
    to.set_metatable(2);
}

fn push_connect(connect: &Connect, to: &Stack) {
    to.push_integer(connect.version as u8);
    to.push_boolean(connect.clean);
    to.push_integer(connect.keep_alive);
    to.push_bytes(connect.client_id.as_bytes());
    match &connect.username {
        Some(username) => to.push_bytes(username.as_bytes()),
        None => to.push_nil(),
    }
    match &connect.password {
        Some(password) => to.push_bytes(password),
        None => to.push_nil(),
    }
    match &connect.will {
        Some(will) => push_will(will, connect.version, to),
        None => to.push_nil(),
    }
    push_properties(&connect.properties, to);
}

fn push_will(will: &Will, version: Version, to: &Stack) {
    to.push_table();
    set(to, "topic", |to| to.push_bytes(will.topic.as_bytes()));
    set(to, "payload", |to| to.push_bytes(&will.payload));
    set(to, "qos", |to| to.push_integer(will.qos as u8));
    set(to, "retain", |to| to.push_boolean(will.retain));
    if version == Version::V50 {
        set(to, "properties", |to| push_named(&will.properties, to));
        set(to, "user_properties", |to| push_user(&will.properties, to));
    }
}

fn push_subscription(subscription: &Subscription, version: Version, to: &Stack) {
    to.push_table();
    set(to, "topic", |to| {
        to.push_bytes(subscription.filter.as_bytes())
    });
    set(to, "qos", |to| to.push_integer(subscription.qos as u8));
    if version == Version::V50 {
        set(to, "no_local", |to| to.push_boolean(subscription.no_local));
        set(to, "retain_as_published", |to| {
            to.push_boolean(subscription.retain_as_published)
        });
        set(to, "retain_handling", |to| {
            to.push_integer(subscription.retain_handling)
        });
    }
}

/// Pushes a table of properties and a table of user properties, or nothing if there are neither.
fn push_properties(properties: &Properties, to: &Stack) {
    if !properties.is_empty() {
        push_named(properties, to);
        push_user(properties, to);
    }
}

/// Pushes a table of all but the user properties.
fn push_named(properties: &Properties, to: &Stack) {
    to.push_table();
    for Property { id, value } in properties {
        match id {
            PropertyId::UserProperty => {}
            // The first subscription identifier makes the list of all of them.
            PropertyId::SubscriptionIdentifier => {
                if properties
                    .first(*id)
                    .is_some_and(|first| std::ptr::eq(first, value))
                {
                    set(to, id.name(), |to| {
                        to.push_table();
                        for property in properties.iter().filter(|property| property.id == *id) {
                            push_value(&property.value, to);
                            to.append();
                        }
                    });
                }
            }
            _ => set(to, id.name(), |to| push_value(value, to)),
        }
    }
}

/// Pushes a table of the user properties as `name = value`. A name that comes more than once also has its `{name, value}`
/// pairs in the array part, in the order of arrival.
fn push_user(properties: &Properties, to: &Stack) {
    to.push_table();
    let pairs = || {
        properties
            .iter()
            .filter_map(|property| match &property.value {
                PropertyValue::Pair(name, value) => Some((name.as_bytes(), value.as_bytes())),
                _ => None,
            })
    };
    // A Lua error may leave this function without dropping the map: see `RawFunction`.
    let mut times = ManuallyDrop::new(HashMap::new());
    for (name, _) in pairs() {
        *times.entry(name).or_insert(0) += 1;
    }
    for (name, value) in pairs() {
        if times[name] > 1 {
            to.push_table();
            to.push_bytes(name);
            to.append();
            to.push_bytes(value);
            to.append();
            to.append();
        }
        to.push_bytes(name);
        to.push_bytes(value);
        to.set();
    }
    drop(ManuallyDrop::into_inner(times));
}

fn push_value(value: &PropertyValue, to: &Stack) {
    match value {
        PropertyValue::Byte(number) => to.push_integer(*number),
        PropertyValue::TwoByte(number) => to.push_integer(*number),
        PropertyValue::FourByte(number) | PropertyValue::VarInt(number) => to.push_integer(*number),
        PropertyValue::String(text) => to.push_bytes(text.as_bytes()),
        PropertyValue::Binary(bytes) => to.push_bytes(bytes),
        PropertyValue::Pair(..) => unreachable!("user properties have a table of their own"),
    }
}
