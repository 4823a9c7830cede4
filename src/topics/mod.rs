//! Finds which of many topic filters match a topic name (4.7). No session and no Lua may appear here.

mod filters;

pub use filters::{Filters, Matches};
