//! What `mqtt.topic_handlers` calls: a set of topic filters.

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::rc::Rc;

use super::args::{Checked, Scalar};
use super::stack::{RawFunction, Stack};
use super::values::push_failure;
use crate::session::{Filters, Matches};

/// The largest key: Lua's numbers are exact up to here.
const MAX_KEY: f64 = 9_007_199_254_740_992.0;

/// Adds the functions of this file to `mqtt.core`.
pub(crate) fn register(core: &Stack) {
    core.set_raw("filters", NewFilters);
}

type Shared = Rc<RefCell<Filters>>;

/// `filters()`: an empty set, as its functions insert, remove and matches.
struct NewFilters;

impl RawFunction for NewFilters {
    type Output = Cell<Shared>;

    fn run(&self, _: &Stack) -> Self::Output {
        Cell::default()
    }

    fn push(output: &Self::Output, results: &Stack) {
        let filters = ManuallyDrop::new(output.take());
        results.push_function(Insert(Rc::clone(&filters)));
        results.push_function(Remove(Rc::clone(&filters)));
        results.push_function(FindMatches(Rc::clone(&filters)));
        drop(ManuallyDrop::into_inner(filters));
    }
}

/// The filter and the key, a whole number, that are the arguments.
fn arguments_of(arguments: &Stack) -> Checked<(&str, u64)> {
    let filter = arguments.argument(1).text(&"filter")?;
    match arguments.argument(2) {
        Scalar::Number(key) if (0.0..=MAX_KEY).contains(&key) && key.fract() == 0.0 => {
            Ok((filter, key as u64))
        }
        _ => Err("expecting a key, a whole number".into()),
    }
}

/// `insert(filter, key)`: adds a filter, which must keep the rules, under a key. Returns true, or nil and an error.
struct Insert(Shared);

impl RawFunction for Insert {
    type Output = Checked<()>;

    fn run(&self, arguments: &Stack) -> Self::Output {
        let (filter, key) = arguments_of(arguments)?;
        self.0.borrow_mut().insert(filter, key);
        Ok(())
    }

    fn push(output: &Self::Output, results: &Stack) {
        match output {
            Ok(()) => results.push_boolean(true),
            Err(error) => push_failure(error, results),
        }
    }
}

/// `remove(filter, key)`: whether it was there; or nil and an error.
struct Remove(Shared);

impl RawFunction for Remove {
    type Output = Checked<bool>;

    fn run(&self, arguments: &Stack) -> Self::Output {
        let (filter, key) = arguments_of(arguments)?;
        Ok(self.0.borrow_mut().remove(filter, key))
    }

    fn push(output: &Self::Output, results: &Stack) {
        match output {
            Ok(was_there) => results.push_boolean(*was_there),
            Err(error) => push_failure(error, results),
        }
    }
}

/// `matches(topic)`: nothing if no filter matches; else a list of the key of each that does, by ascending key, each
/// followed by a list of what its wildcards stand for. Or nil and an error.
struct FindMatches(Shared);

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
