//! Reads tables among the arguments: as plain data, or field by field.

use std::ffi::c_int;

use mlua::ffi;

use super::Stack;
use crate::lua::args::{Checked, Scalar, Table, Value};

/// The greatest depth of tables that is read: no valid argument has deeper tables.
const MOST_NESTED: usize = 5;
/// The greatest number of values in the tables of an argument.
const MOST_VALUES: usize = 1 << 20;

impl Stack {
    /// An argument as plain data. Tables are read without their metatables.
    pub(crate) fn value(&self, index: c_int) -> Checked<Value> {
        self.read(index, MOST_NESTED, &mut { MOST_VALUES })
    }

    fn read(&self, index: c_int, nested: usize, left: &mut usize) -> Checked<Value> {
        *left = left
            .checked_sub(1)
            .ok_or_else(|| format!("expecting tables with less than {MOST_VALUES} values"))?;
        Ok(match self.argument(index) {
            Scalar::Nil => Value::Nil,
            Scalar::Boolean(flag) => Value::Boolean(flag),
            Scalar::Number(number) => Value::Number(number),
            Scalar::String(bytes) => Value::String(bytes.into()),
            Scalar::Function => Value::Function,
            Scalar::Other(_) if self.is_table(index) && nested > 0 => {
                Value::Table(self.read_table(index, nested - 1, left)?)
            }
            Scalar::Other(type_name) => Value::Other(type_name),
        })
    }

    fn read_table(&self, index: c_int, nested: usize, left: &mut usize) -> Checked<Table> {
        let mut table = Table::default();
        // SAFETY: each level of tables takes two values, for which there is room. Nothing is allocated in Lua or changed in
        // the table meanwhile, so `lua_next` raises no error.
        unsafe {
            loop {
                ffi::lua_rawgeti(self.state, index, table.list.len() as ffi::lua_Integer + 1);
                let item = self.read(self.height(), nested, left);
                ffi::lua_settop(self.state, -2);
                match item? {
                    Value::Nil => break,
                    item => table.list.push(item),
                }
            }
            ffi::lua_pushnil(self.state);
            while ffi::lua_next(self.state, index) != 0 {
                let value = self.height();
                let is_listed = matches!(self.argument(value - 1), Scalar::Number(number)
                    if number >= 1.0 && number <= table.list.len() as f64 && number.fract() == 0.0);
                if !is_listed {
                    let pair = self
                        .read(value - 1, 0, left)
                        .and_then(|key| Ok((key, self.read(value, nested, left)?)));
                    match pair {
                        Ok(pair) => table.fields.push(pair),
                        Err(error) => {
                            ffi::lua_settop(self.state, -3);
                            return Err(error);
                        }
                    }
                }
                ffi::lua_settop(self.state, -2);
            }
        }
        Ok(table)
    }

    /// Pushes the fields of an argument that is a table without a metatable, each at the place that `place` gives its name,
    /// counted from `first` on, and nil at the other places. Everything behind the argument before `first` goes. Returns
    /// None for any other argument, and for a table with a field that has no place and is not true in the table `ignored`.
    #[inline]
    pub(crate) fn push_all_fields(
        &self,
        table: c_int,
        ignored: c_int,
        (first, places): (c_int, c_int),
        place: impl Fn(&[u8]) -> Option<c_int>,
    ) -> Option<()> {
        debug_assert!(table < first && ignored < first);
        // SAFETY: only a table is asked for its metatable, or for its fields. There is room. Nothing is allocated in Lua or
        // changed in the table meanwhile, so `lua_next` raises no error, and neither does a raw read.
        unsafe {
            if !self.is_table(table) || ffi::lua_getmetatable(self.state, table) != 0 {
                return None;
            }
            ffi::lua_settop(self.state, first - 1);
            ffi::lua_settop(self.state, first - 1 + places);
            ffi::lua_pushnil(self.state);
            let key = first + places;
            while ffi::lua_next(self.state, table) != 0 {
                let found = match self.argument(key) {
                    Scalar::String(name) => place(name),
                    _ => None,
                };
                if let Some(found) = found {
                    ffi::lua_replace(self.state, first + found);
                } else {
                    ffi::lua_settop(self.state, key);
                    if !self.is_table(ignored) {
                        return None;
                    }
                    ffi::lua_pushvalue(self.state, key);
                    ffi::lua_rawget(self.state, ignored);
                    let is_ignored = ffi::lua_toboolean(self.state, -1) != 0;
                    ffi::lua_settop(self.state, key);
                    if !is_ignored {
                        return None;
                    }
                }
            }
        }
        Some(())
    }

    /// Pushes fields of an argument that is a table whose metatable is another argument: the function's first `fields`
    /// constants name them. The fields replace the arguments behind the metatable. Returns None for any other argument.
    pub(crate) fn push_fields_of_class(
        &self,
        table: c_int,
        metatable: c_int,
        fields: c_int,
    ) -> Option<()> {
        // SAFETY: only a table is asked for its metatable; there is room.
        let is_of_class = self.is_table(table)
            && unsafe {
                ffi::lua_getmetatable(self.state, table) != 0
                    && ffi::lua_rawequal(self.state, -1, metatable) != 0
            };
        // SAFETY: there is room; a raw read of a table's field raises no error.
        is_of_class.then(|| unsafe {
            ffi::lua_settop(self.state, metatable);
            for constant in 1..=fields {
                self.push_constant(constant);
                ffi::lua_rawget(self.state, table);
            }
        })
    }
}
