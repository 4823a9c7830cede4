//! Reads the arguments of programs into plain data: single values, tables of arguments, packets, settings and requests.
//! Errors name the argument and the expected value; Lua raises them with a position of its own. `results` is the other
//! direction.

mod packets;
mod properties;
mod publish;
pub(super) mod requests;
mod settings;
mod table;
mod value;

pub(super) use packets::{connect_from_lua, packet_from_lua};
use properties::properties_from_lua;
pub(super) use publish::PublishArgs;
pub(super) use settings::settings_from_lua;
pub(super) use table::Args;
pub(super) use value::{Scalar, Table, Value, duration};

/// A value from Lua after its check, or the error.
pub(super) type Checked<T> = Result<T, String>;
