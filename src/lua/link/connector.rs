//! The methods of a link for connectors, which move the bytes themselves.

use std::time::Instant;

use bytes::BytesMut;

use super::{Live, LuaLink, Returned};
use crate::lua::args::Scalar;
use crate::lua::process;
use crate::lua::stack::Stack;

/// `attach([fd[, plain]])`: the connector has opened its connection. With its descriptor the connection ends in order, even
/// if the connector closes the descriptor, or the program ends without closing it. `plain` says that the connector's `send`
/// does nothing but write to the descriptor. Returns whether the link writes too: if `send` is plain, and the link has got a
/// duplicate of the descriptor.
pub(super) fn attach(arguments: &Stack) -> Returned<bool> {
    let fd = match arguments.argument(2) {
        Scalar::Nil => None,
        fd => Some(fd.integer(0, i32::MAX as u32, &"fd")?),
    };
    let Ok(Live { link, driver }) = LuaLink::of(arguments)?.live() else {
        return Ok(false);
    };
    link.attach();
    let plain = matches!(arguments.argument(3), Scalar::Boolean(true));
    let socket = fd.and_then(process::own_socket);
    Ok(socket.is_some_and(|socket| link.hold(driver, socket, plain)))
}

/// `detach()`: the connector has closed its connection.
pub(super) fn detach(arguments: &Stack) -> Returned<()> {
    if let Ok(Live { link, .. }) = LuaLink::of(arguments)?.live() {
        link.let_go();
    }
    Ok(())
}

/// `is_parting()`: whether the server may still be reading the connector's last connection.
pub(super) fn is_parting(arguments: &Stack) -> Returned<bool> {
    let live = LuaLink::of(arguments)?.live();
    Ok(live.is_ok_and(|live| live.link.is_parting()))
}

/// `wait_until_parted(seconds)`: blocks until the server has read the last connection or the time is over, but no longer
/// than a second.
pub(super) fn wait_until_parted(arguments: &Stack) -> Returned<()> {
    let deadline = Instant::now() + arguments.argument(2).seconds(&"time")?;
    if let Ok(Live { link, driver }) = LuaLink::of(arguments)?.live() {
        driver.wait_until(deadline, || !link.is_parting());
    }
    Ok(())
}

/// `feed(bytes)`: takes received bytes, in any portions. Returns the least number of bytes that the packet at their end lacks;
/// 0 if they end with a whole packet.
pub(super) fn feed(arguments: &Stack) -> Returned<u32> {
    let bytes = arguments.argument(2).bytes(&"bytes")?;
    let live = LuaLink::of(arguments)?.live();
    Ok(live.map_or(0, |live| live.link.feed(bytes)) as u32)
}

/// `begin_anew()`: forgets the bytes of an incomplete packet. The connector will return them once more.
pub(super) fn begin_anew(arguments: &Stack) -> Returned<()> {
    if let Ok(Live { link, .. }) = LuaLink::of(arguments)?.live() {
        link.begin_anew();
    }
    Ok(())
}

/// `arriving(bytes)`: the connector has received this number of bytes of an incomplete packet.
pub(super) fn arriving(arguments: &Stack) -> Returned<()> {
    let bytes = match arguments.argument(2) {
        Scalar::Number(bytes) => bytes as usize,
        other => return Err(other.unexpected(&"bytes", "a number").into()),
    };
    if let Ok(Live { link, .. }) = LuaLink::of(arguments)?.live() {
        link.arriving(bytes);
    }
    Ok(())
}

/// `write()`: writes the bytes to be sent to the connector's descriptor, if `attach` allows it, without waiting. Returns
/// whether nothing is left for the connector to take, and nothing of what it has taken.
pub(super) fn write(arguments: &Stack) -> Returned<bool> {
    let live = LuaLink::of(arguments)?.live();
    Ok(live.map_or(true, |live| live.link.write()))
}

/// `take()`: the bytes that the connector has to send, or nil.
pub(super) fn take(arguments: &Stack) -> Returned<Option<BytesMut>> {
    let Ok(Live { link, .. }) = LuaLink::of(arguments)?.live() else {
        return Ok(None);
    };
    let bytes = link.take();
    Ok((!bytes.is_empty()).then_some(bytes))
}

/// `handle_timeout()`: does the due work of keep alive.
pub(super) fn handle_timeout(arguments: &Stack) -> Returned<()> {
    if let Ok(Live { link, .. }) = LuaLink::of(arguments)?.live() {
        link.handle_timeout();
    }
    Ok(())
}

/// `is_failed()`: whether the session has given the connection up.
pub(super) fn is_failed(arguments: &Stack) -> Returned<bool> {
    let live = LuaLink::of(arguments)?.live();
    Ok(live.map_or(true, |live| live.link.is_failed()))
}
