//! Keeps links out of reach that must not be used: links of the parent process in the child of a fork, and links that Lua
//! has collected. Only this file sees the fields of [`Own`].

use std::rc::Rc;
use std::sync::Arc;

use super::LuaLink;
use crate::codec::Version;
use crate::driver::{Driver, Link};
use crate::lua::refusal::Refusal;
use crate::lua::stack::Stack;

/// The error of a call on a link of the parent process.
const PARENTS: &str = "this client belongs to the parent process: create a new one after fork()";
/// The error of a call on a link that Lua has collected.
const COLLECTED: &str = "nobody holds this client any more: it has been collected";

/// A link and its driver. They are out of reach in the child of a fork: the parent's threads may have left any lock locked.
/// `None` stands for a link that Lua has collected: finalizers of objects that are collected with the link may still call
/// it.
pub(super) struct Own(Option<(Arc<Link>, Rc<Driver>)>);

/// A link and its driver, in the process that made them.
pub(in crate::lua) struct Live<'a> {
    pub(in crate::lua) link: &'a Arc<Link>,
    pub(in crate::lua) driver: &'a Driver,
}

/// Why a link is out of reach.
pub(in crate::lua) struct Stale(pub(in crate::lua) &'static str);

impl From<Stale> for Refusal {
    fn from(Stale(message): Stale) -> Self {
        Self::Failure(message.into())
    }
}

impl Own {
    pub(super) fn new(link: Arc<Link>, driver: Rc<Driver>) -> Self {
        Self(Some((link, driver)))
    }
}

thread_local! {
    /// Stands for each link that Lua has collected.
    static COLLECTED_LINK: &'static LuaLink = Box::leak(Box::new(LuaLink {
        own: Own(None),
        version: Version::V311,
        #[cfg(feature = "luajit")]
        number: Default::default(),
    }));
}

impl LuaLink {
    /// The link and its driver.
    #[inline]
    pub(in crate::lua) fn live(&self) -> Result<Live<'_>, Stale> {
        match &self.own {
            Own(Some((link, driver))) if !link.is_stale() => Ok(Live { link, driver }),
            Own(Some(_)) => Err(Stale(PARENTS)),
            Own(None) => Err(Stale(COLLECTED)),
        }
    }

    /// The link that is the first argument.
    #[inline]
    pub(in crate::lua) fn of(arguments: &Stack) -> Result<&LuaLink, String> {
        match arguments.object(1) {
            Some(link) => Ok(link),
            None if arguments.is_ended::<Self>(1) => Ok(COLLECTED_LINK.with(|link| *link)),
            None => Err("expecting a link as the first argument".to_owned()),
        }
    }

    /// The link that is the first argument, and its driver.
    #[inline]
    pub(in crate::lua) fn live_of(arguments: &Stack) -> Result<Live<'_>, Refusal> {
        Ok(Self::of(arguments)?.live()?)
    }
}
