//! Tables of named arguments, whose fields errors call by their path.

use std::fmt::{self, Display};

use bytes::Bytes;

use super::value::{byte_from_lua, bytes_from_lua, list_from_lua, str_from_lua};
use super::{Checked, Scalar, Table, Value, properties_from_lua};
use crate::codec::{Properties, QoS, Str, Version};

/// A table of arguments. It knows how errors call its fields, e.g. `.will.topic`.
pub(crate) struct Args<'a> {
    table: &'a Table,
    path: &'a dyn Display,
}

/// A field, as errors call it.
pub(super) struct Name<'a> {
    path: &'a dyn Display,
    key: &'a str,
}

impl Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.path, self.key)
    }
}

impl<'a> Args<'a> {
    /// A table that is an argument itself.
    pub(crate) fn new(table: &'a Table) -> Self {
        Self::at(table, &"")
    }

    /// A table that errors call `path`.
    pub(crate) fn at(table: &'a Table, path: &'a dyn Display) -> Self {
        Self { table, path }
    }

    pub(super) fn name(&self, key: &'a str) -> Name<'a> {
        let path = self.path;
        Name { path, key }
    }

    /// A field; nil if the table does not have it.
    pub(crate) fn get(&self, key: &str) -> &'a Value {
        self.table.get(key)
    }

    /// A field, read by `read`.
    pub(super) fn field<T>(
        &self,
        key: &'a str,
        read: impl Fn(Scalar<'_>, &dyn Display) -> Checked<T>,
    ) -> Checked<T> {
        read(self.table.get(key).scalar(), &self.name(key))
    }

    /// A field, read by `read` unless it is nil.
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

    /// A list with at least one item, each read by `item`.
    pub(super) fn list<T>(
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

    /// The fields `properties` and `user_properties`. 3.1.1 ignores them, so that a table can serve both versions.
    pub(crate) fn properties(&self, version: Version) -> Checked<Properties> {
        if version == Version::V311 {
            return Ok(Properties::new());
        }
        let field = |key| self.table.get(key);
        properties_from_lua(field("properties"), field("user_properties"), self.path)
    }
}
