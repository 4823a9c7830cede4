//! A set of topic filters, for `mqtt.client.topics`.

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::rc::Rc;

use super::args::{Checked, Scalar};
use super::results::push_failure;
use super::stack::{RawFunction, Stack};
use crate::topics::{Filters, Matches};

/// The largest key: Lua's numbers are exact up to here.
const MAX_KEY: f64 = 9_007_199_254_740_992.0;

/// Adds the functions of this file to `mqtt.core`.
pub(crate) fn register(core: &Stack) {
    core.set_raw("filters", NewFilters);
}

type Shared = Rc<RefCell<Filters>>;

/// `filters()`: the functions insert, remove and matches of a new, empty set.
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

/// The arguments: a filter and its key, a whole number.
fn arguments_of(arguments: &Stack) -> Checked<(&str, u64)> {
    let filter = arguments.argument(1).text(&"filter")?;
    match arguments.argument(2) {
        Scalar::Number(key) if (0.0..=MAX_KEY).contains(&key) && key.fract() == 0.0 => {
            Ok((filter, key as u64))
        }
        _ => Err("expecting a key, a whole number".into()),
    }
}

/// `insert(filter, key)`: adds a valid topic filter under a key. Returns true, or nil and an error.
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

/// `remove(filter, key)`: whether the filter was there; or nil and an error.
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

/// `matches(topic)`: nothing if no filter matches the topic name. Otherwise a list: the keys of the matching filters, in
/// ascending order, each followed by a list of the parts of the topic that the filter's wildcards stand for. Or nil and an
/// error.
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
