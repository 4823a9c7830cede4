//! The methods of a link for connectors, which move the bytes themselves.

use bytes::BytesMut;

use super::{Live, LuaLink, Returned};
use crate::lua::args::Scalar;
use crate::lua::stack::Stack;

/// `attach()`: the connector has opened its connection.
pub(super) fn attach(arguments: &Stack) -> Returned<()> {
    if let Ok(Live { link, .. }) = LuaLink::of(arguments)?.live() {
        link.attach();
    }
    Ok(())
}

/// `feed(header, body)`: takes a received packet.
pub(super) fn feed(arguments: &Stack) -> Returned<()> {
    let header = arguments.argument(2).bytes(&"header")?;
    let body = match arguments.argument(3) {
        Scalar::Nil => &[],
        body => body.bytes(&"body")?,
    };
    let mut packet = BytesMut::with_capacity(header.len() + body.len());
    packet.extend_from_slice(header);
    packet.extend_from_slice(body);
    if let Ok(Live { link, .. }) = LuaLink::of(arguments)?.live() {
        link.feed(&mut packet);
    }
    Ok(())
}

/// `arriving(bytes)`: the connector has so many bytes of a packet that is not whole.
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

/// `take()`: the bytes to send, or nil.
pub(super) fn take(arguments: &Stack) -> Returned<Option<BytesMut>> {
    let Ok(Live { link, .. }) = LuaLink::of(arguments)?.live() else {
        return Ok(None);
    };
    let bytes = link.take();
    Ok((!bytes.is_empty()).then_some(bytes))
}

/// `handle_timeout()`: does the work of keep alive that is due.
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
