//! The methods of a link that open its connection, wait for it, wake a waiting program and close it.

use std::time::Instant;

use super::{Answer, Live, LuaLink, Returned, Stale};
use crate::lua::args::{Checked, Scalar};
use crate::lua::refusal::Refusal;
use crate::lua::stack::Stack;
use crate::lua::target;

/// `token()`: the number that `core.next_ready` returns for this link.
pub(super) fn token(arguments: &Stack) -> Answer<u32> {
    let this = LuaLink::of(arguments)?;
    Ok(this
        .live()
        .map(|live| live.link.token())
        .map_err(Refusal::from))
}

/// `open(timeout, ...)`: starts to open a connection to the target that the other arguments describe, see [`target::read`].
/// The event "opened" or "open_failed" follows. Returns true, or nil and the fault of the target.
pub(super) fn open(arguments: &Stack) -> Returned<Checked<bool>> {
    let this = LuaLink::of(arguments)?;
    let timeout = arguments.argument(2).seconds(&"time")?;
    Ok(target::read(arguments, 3).map(|target| {
        if let Ok(Live { link, driver }) = this.live() {
            link.open(driver, target, timeout);
        }
        true
    }))
}

/// `has_events()`: whether `core.pop` would return an event.
pub(super) fn has_events(arguments: &Stack) -> Returned<bool> {
    let live = LuaLink::of(arguments)?.live();
    Ok(live.map_or(true, |live| live.link.has_events()))
}

/// `wait(seconds)`: blocks until the link has an event or the time is over, but no longer than a second.
pub(super) fn wait(arguments: &Stack) -> Returned<()> {
    let deadline = Instant::now() + arguments.argument(2).seconds(&"time")?;
    if let Ok(Live { link, driver }) = LuaLink::of(arguments)?.live() {
        driver.wait_until(deadline, || link.has_events());
    }
    Ok(())
}

/// `is_full()`: whether the program should wait before it sends more.
pub(super) fn is_full(arguments: &Stack) -> Returned<bool> {
    let live = LuaLink::of(arguments)?.live();
    Ok(live.is_ok_and(|live| live.link.is_full()))
}

/// `wait_for_room(seconds)`: blocks until the link is no longer full or the time is over, but no longer than a second.
/// Returns false if waiting is in vain, since the program must take events first.
pub(super) fn wait_for_room(arguments: &Stack) -> Returned<bool> {
    let deadline = Instant::now() + arguments.argument(2).seconds(&"time")?;
    Ok(match LuaLink::of(arguments)?.live() {
        Err(_) => false,
        Ok(Live { link, driver }) => {
            driver.wait_until(deadline, || link.has_room_or_news());
            !link.is_slow()
        }
    })
}

/// `holds_back()`: whether the server's receive maximum keeps back accepted messages.
pub(super) fn holds_back(arguments: &Stack) -> Returned<bool> {
    let live = LuaLink::of(arguments)?.live();
    Ok(live.is_ok_and(|live| live.link.holds_back()))
}

/// `wait_until_sent(seconds)`: blocks until no message is kept back or the time is over, but no longer than a second.
pub(super) fn wait_until_sent(arguments: &Stack) -> Returned<()> {
    let deadline = Instant::now() + arguments.argument(2).seconds(&"time")?;
    if let Ok(Live { link, driver }) = LuaLink::of(arguments)?.live() {
        driver.wait_until(deadline, || !link.holds_back());
    }
    Ok(())
}

/// `leave()`: closes the connection for a program that will not call again. All accepted messages are sent.
pub(super) fn leave(arguments: &Stack) -> Returned<()> {
    if let Ok(Live { link, .. }) = LuaLink::of(arguments)?.live() {
        link.leave();
    }
    Ok(())
}

/// `close([seconds])`: closes the connection. Messages accepted on it are sent in the background. With a time, `close` waits
/// until they are written or the time is over.
pub(super) fn close(arguments: &Stack) -> Returned<()> {
    let patience = match arguments.argument(2) {
        Scalar::Nil => None,
        _ => Some(arguments.argument(2).seconds(&"time")?),
    };
    if let Ok(Live { link, driver }) = LuaLink::of(arguments)?.live() {
        match patience {
            Some(patience) => link.close_flushed(driver, Instant::now() + patience),
            None => link.close(),
        }
        link.wake();
    }
    Ok(())
}

/// `wake_after(seconds)`: the event "woken" follows after that time.
pub(super) fn wake_after(arguments: &Stack) -> Returned<()> {
    let delay = arguments.argument(2).seconds(&"time")?;
    if let Ok(live) = LuaLink::of(arguments)?.live() {
        live.link.wake_after(delay);
    }
    Ok(())
}

/// `wake()`: the event "woken" follows at once.
pub(super) fn wake(arguments: &Stack) -> Returned<()> {
    if let Ok(live) = LuaLink::of(arguments)?.live() {
        live.link.wake();
    }
    Ok(())
}

/// `outgoing_bytes()`: the number of bytes that wait to be sent or acknowledged.
pub(super) fn outgoing_bytes(arguments: &Stack) -> Returned<f64> {
    let live = LuaLink::of(arguments)?.live();
    Ok(live.map_or(0, |live| live.link.outgoing_bytes()) as f64)
}

/// `getfd()`: a descriptor, on Windows a SOCKET, that is readable while the link has events; or nil and an error.
pub(super) fn getfd(arguments: &Stack) -> Returned<Checked<u32>> {
    Ok(match LuaLink::of(arguments)?.live() {
        Ok(Live { link, .. }) => match link.fd() {
            // The numbers of Windows' handles have 32 bits too.
            Ok(fd) => Ok(fd as u32),
            Err(error) => Err(error.to_string()),
        },
        Err(Stale(message)) => Err(message.into()),
    })
}
