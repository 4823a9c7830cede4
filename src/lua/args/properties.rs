//! Properties from the two tables in which programs give them.

use std::collections::HashMap;
use std::fmt::Display;

use super::value::{bytes_from_lua, integer_from_lua, list_from_lua, str_from_lua};
use super::{Checked, Scalar, Table, Value};
use crate::codec::{Properties, Property, PropertyId, PropertyKind, PropertyValue};

/// Properties from the two tables, in the order of sending: by identifier, then the user properties. Errors call the tables
/// `properties` and `user_properties` below `path`. The encoder checks which packet may carry which property, and how often.
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

/// Appends the user properties: first the `{name, value}` pairs of the array part in their order, then the named values,
/// sorted. A named value that equals the last pair of its name is left out.
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
