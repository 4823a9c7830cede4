//! Single values from Lua, and tables as plain data.

use std::fmt::Display;
use std::time::Duration;

use bytes::Bytes;

use super::Checked;
use crate::codec::{QoS, Str};

/// The longest time from Lua. A longer time is cut to it, and means "for ever".
const LONGEST: Duration = Duration::from_secs(u32::MAX as u64);

/// A value from Lua, read in place. The methods take its name for error messages.
#[derive(Clone, Copy)]
pub(crate) enum Scalar<'a> {
    Nil,
    Boolean(bool),
    /// An integer or a float: every integer of MQTT is exact here.
    Number(f64),
    String(&'a [u8]),
    Function,
    /// Anything else, by the name of its type.
    Other(&'static str),
}

impl<'a> Scalar<'a> {
    /// The error for a value that is not as expected.
    pub(crate) fn unexpected(self, name: &dyn Display, expected: impl Display) -> String {
        // Only the value's type is shown: the value may be a secret.
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

    /// A time in seconds. A negative number and NaN are 0; a time is cut to the longest time.
    pub(crate) fn seconds(self, name: &dyn Display) -> Checked<Duration> {
        match self {
            Self::Number(seconds) => Ok(duration(seconds)),
            other => Err(other.unexpected(name, "a number of seconds")),
        }
    }

    /// A packet identifier (2.2.1).
    pub(crate) fn packet_id(self) -> Checked<u16> {
        Ok(self.integer(1, u16::MAX.into(), &".packet_id")? as u16)
    }
}

/// A value from Lua as plain data. It refers to nothing in Lua.
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
    /// The value of a field; nil if the table does not have it.
    pub(crate) fn get(&self, key: &str) -> &Value {
        let is_key = |(name, _): &&(Value, Value)| matches!(name, Value::String(name) if **name == *key.as_bytes());
        match self.fields.iter().find(is_key) {
            Some((_, value)) => value,
            None => &Value::Nil,
        }
    }
}

/// Seconds from Lua, see [`Scalar::seconds`].
pub(crate) fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).map_or(LONGEST, |time| time.min(LONGEST))
}

pub(crate) fn str_from_lua(value: Scalar<'_>, name: &dyn Display) -> Checked<Str> {
    let bytes = bytes_from_lua(value, name)?;
    Str::new(bytes).map_err(|error| format!("{name} {error}"))
}

pub(crate) fn bytes_from_lua(value: Scalar<'_>, name: &dyn Display) -> Checked<Bytes> {
    value.bytes(name).map(Bytes::copy_from_slice)
}

pub(crate) fn integer_from_lua(value: Scalar<'_>, max: u32, name: &dyn Display) -> Checked<u32> {
    value.integer(0, max, name)
}

pub(crate) fn byte_from_lua(value: Scalar<'_>, name: &dyn Display) -> Checked<u8> {
    Ok(integer_from_lua(value, u8::MAX.into(), name)? as u8)
}

/// The items of a list. Errors call them `name[i]`.
pub(crate) fn list_from_lua<T>(
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
