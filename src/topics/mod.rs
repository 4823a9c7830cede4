//! Topic names and topic filters (4.7): which of many filters a name matches. No session and no Lua may appear here.

mod filters;

pub use filters::{Filters, Matches};
