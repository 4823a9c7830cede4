//! Keeps a link of the parent process out of reach in the child of a fork. Only this file sees the fields of [`Own`].

use std::rc::Rc;
use std::sync::Arc;

use super::LuaLink;
use crate::driver::{Driver, Link};
use crate::lua::refusal::Refusal;
use crate::lua::stack::Stack;

/// The error of a call on a link of the parent process.
pub(in crate::lua) const STALE: &str =
    "this client belongs to the parent process: create a new one after fork()";

/// A link and its driver. Nobody reaches them in the child of a fork: the parent's threads may have left any lock locked.
pub(super) struct Own {
    link: Arc<Link>,
    driver: Rc<Driver>,
}

/// A link and its driver, in the process that made them.
pub(in crate::lua) struct Live<'a> {
    pub(in crate::lua) link: &'a Arc<Link>,
    pub(in crate::lua) driver: &'a Driver,
}

/// The link belongs to the parent of this process.
pub(in crate::lua) struct Stale;

impl From<Stale> for Refusal {
    fn from(_: Stale) -> Self {
        Self::Failure(STALE.into())
    }
}

impl Own {
    pub(super) fn new(link: Arc<Link>, driver: Rc<Driver>) -> Self {
        Self { link, driver }
    }
}

impl LuaLink {
    /// The link and its driver.
    #[inline]
    pub(in crate::lua) fn live(&self) -> Result<Live<'_>, Stale> {
        let Own { link, driver } = &self.own;
        match link.is_stale() {
            true => Err(Stale),
            false => Ok(Live { link, driver }),
        }
    }

    /// The first argument.
    #[inline]
    pub(in crate::lua) fn of(arguments: &Stack) -> Result<&LuaLink, String> {
        arguments
            .object(1)
            .ok_or_else(|| "expecting a link as the first argument".to_owned())
    }

    /// The link and its driver that are the first argument.
    #[inline]
    pub(in crate::lua) fn live_of(arguments: &Stack) -> Result<Live<'_>, Refusal> {
        Ok(Self::of(arguments)?.live()?)
    }
}
