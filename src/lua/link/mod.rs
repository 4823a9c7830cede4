//! A link as Lua holds it: the userdata, and the table of its methods. Each file below has one kind of methods.

mod connection;
mod connector;
mod own;
mod requests;
mod session;
#[cfg(feature = "store")]
mod store;

use std::cell::Cell;

use super::args::{Checked, Scalar};
#[cfg(feature = "luajit")]
use super::ffi;
use super::publish::publish_with_properties;
use super::refusal::Refusal;
use super::results::push_failure;
use super::shared_driver::SharedDriver;
use super::stack::{Misuse, RawFunction, Stack};
use crate::codec::Version;
use crate::driver::Link;
use crate::session::{Session, Settings};
use own::Own;
pub(super) use own::{Live, Stale};

/// The results of a method, or an error that is raised.
type Returned<T> = Result<T, Misuse>;

/// The results of a method that asks the session for something.
pub(super) type Answer<T> = Returned<Result<T, Refusal>>;

/// A link, as Lua holds it. When Lua collects it, the link leaves without DISCONNECT, so that the server publishes the
/// will.
pub(super) struct LuaLink {
    own: Own,
    pub(super) version: Version,
    /// The link's number in `ffi.rs`, 0 before it has one.
    #[cfg(feature = "luajit")]
    number: Cell<u32>,
}

#[cfg(feature = "luajit")]
impl LuaLink {
    /// The link's number in `ffi.rs`.
    pub(super) fn number(&self) -> u32 {
        if self.number.get() == 0
            && let Ok(Live { link, .. }) = self.live()
        {
            self.number.set(ffi::add(link));
        }
        self.number.get()
    }
}

impl Drop for LuaLink {
    fn drop(&mut self) {
        #[cfg(feature = "luajit")]
        ffi::forget(self.number.get());
        if let Ok(Live { link, .. }) = self.live() {
            link.leave();
            link.let_go_of_store();
        }
    }
}

/// Adds the function of this file to `mqtt.core`.
pub(super) fn register(core: &Stack, shared: &SharedDriver) {
    core.set_raw("link", NewLink(shared.clone()));
}

/// `link(version)`: a link without a connection, twice: as an object with methods, and as the handle for functions of
/// `mqtt.core` that are no methods. Or nil and an error.
struct NewLink(SharedDriver);

impl RawFunction for NewLink {
    type Output = Checked<Cell<Option<LuaLink>>>;

    fn run(&self, arguments: &Stack) -> Self::Output {
        let version = match arguments.argument(1) {
            Scalar::Number(5.0) => Version::V50,
            _ => Version::V311,
        };
        let driver = self.0.get()?;
        let link = Link::new(&driver, Session::new(version, Settings::default()));
        Ok(Cell::new(Some(LuaLink {
            own: Own::new(link, driver),
            version,
            #[cfg(feature = "luajit")]
            number: Cell::new(0),
        })))
    }

    fn push(output: &Self::Output, results: &Stack) {
        match output {
            Ok(link) => {
                if let Some(link) = link.take() {
                    results.push_object(link, add_methods);
                    results.push_top();
                }
            }
            Err(error) => push_failure(error, results),
        }
    }
}

/// Adds the methods of a link to a table.
fn add_methods(table: &Stack) {
    table.set_function("token", connection::token);
    table.set_function("open", connection::open);
    table.set_function("has_events", connection::has_events);
    table.set_function("wait", connection::wait);
    table.set_function("is_full", connection::is_full);
    table.set_function("wait_for_room", connection::wait_for_room);
    table.set_function("holds_back", connection::holds_back);
    table.set_function("wait_until_sent", connection::wait_until_sent);
    table.set_function("leave", connection::leave);
    table.set_function("close", connection::close);
    table.set_function("wake_after", connection::wake_after);
    table.set_function("wake", connection::wake);
    table.set_function("outgoing_bytes", connection::outgoing_bytes);
    table.set_function("getfd", connection::getfd);

    table.set_function("configure", session::configure);
    table.set_function("stats", session::stats);
    table.set_function("deadline", session::deadline);

    #[cfg(feature = "store")]
    table.set_function("keep_in", store::keep_in);
    #[cfg(feature = "store")]
    table.set_function("let_store_go", store::let_store_go);
    #[cfg(feature = "store")]
    table.set_function("note", store::note);
    #[cfg(feature = "store")]
    table.set_function("noted", store::noted);
    #[cfg(feature = "store")]
    table.set_function("publish_kept", store::publish_kept);
    #[cfg(feature = "store")]
    table.set_function("stored", store::stored);
    #[cfg(feature = "store")]
    table.set_function("waits_for_store", store::waits_for_store);
    #[cfg(feature = "store")]
    table.set_function("wait_for_store", store::wait_for_store);

    table.set_function("connect", requests::connect);
    table.set_function("publish", publish_with_properties);
    table.set_function("subscribe", requests::subscribe);
    table.set_function("unsubscribe", requests::unsubscribe);
    table.set_function("acknowledge", requests::acknowledge);
    table.set_function("ping", requests::ping);
    table.set_function("disconnect", requests::disconnect);
    table.set_function("auth", requests::auth);

    table.set_function("attach", connector::attach);
    table.set_function("detach", connector::detach);
    table.set_function("is_parting", connector::is_parting);
    table.set_function("wait_until_parted", connector::wait_until_parted);
    table.set_function("feed", connector::feed);
    table.set_function("begin_anew", connector::begin_anew);
    table.set_function("arriving", connector::arriving);
    table.set_function("write", connector::write);
    table.set_function("take", connector::take);
    table.set_function("handle_timeout", connector::handle_timeout);
    table.set_function("is_failed", connector::is_failed);
}
