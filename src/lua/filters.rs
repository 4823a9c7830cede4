//! What `mqtt.topic_handlers` calls: a set of topic filters.

use std::cell::RefCell;
use std::rc::Rc;

use mlua::{Function, Lua, LuaString, Table};

use super::args::{Checked, Scalar};
use super::protocol::push_failure;
use super::stack::{RawFunction, Stack, create_raw_function};
use crate::session::{Filters, Matches};

/// Adds the functions of this file to `mqtt.core`.
pub(crate) fn register(lua: &Lua, core: &Table) -> mlua::Result<()> {
    // filters(): an empty set, as its functions insert, remove and matches.
    core.set("filters", lua.create_function(|lua, ()| lua_filters(lua))?)
}

fn lua_filters(lua: &Lua) -> mlua::Result<(Function, Function, Function)> {
    let filters = Rc::new(RefCell::new(Filters::default()));
    let of_insert = Rc::clone(&filters);
    let of_remove = Rc::clone(&filters);
    Ok((
        // insert(filter, key): adds a filter, which must keep the rules, under a key, a whole number.
        lua.create_function(move |_, (filter, key): (LuaString, u64)| {
            of_insert.borrow_mut().insert(&filter.to_str()?, key);
            Ok(())
        })?,
        // remove(filter, key): whether it was there.
        lua.create_function(move |_, (filter, key): (LuaString, u64)| {
            Ok(of_remove.borrow_mut().remove(&filter.to_str()?, key))
        })?,
        create_raw_function(lua, FindMatches(filters), ())?,
    ))
}

/// `matches(topic)`: nothing if no filter matches; else a list of the key of each that does, by ascending key, each
/// followed by a list of what its wildcards stand for. Or nil and an error.
struct FindMatches(Rc<RefCell<Filters>>);

impl RawFunction for FindMatches {
    type Output = Checked<Matches>;

    fn run(&self, arguments: &Stack) -> Self::Output {
        let name = arguments.argument(1).bytes(&"topic")?;
        Ok(self.0.borrow_mut().matches(name))
    }

    fn push(output: &Self::Output, results: &Stack) {
        let found = match output {
            Ok(found) if found.is_empty() => return,
            Ok(found) => found,
            Err(error) => return push_failure(error, results),
        };
        let Scalar::String(name) = results.argument(1) else {
            return;
        };
        results.push_table();
        for (key, captures) in found.iter() {
            results.push_number(key as f64);
            results.append();
            results.push_table();
            for capture in captures {
                results.push_bytes(name.get(capture.clone()).unwrap_or_default());
                results.append();
            }
            results.append();
        }
    }
}
