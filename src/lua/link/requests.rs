//! The methods of a link that ask the session to send a packet: `lua/args` reads the request, [`Link::ask`] passes it on.
//!
//! [`Link::ask`]: crate::driver::Link::ask

use super::{Answer, LuaLink};
use crate::codec::Version;
use crate::driver::{Accepted, Request};
use crate::lua::args::{Args, Checked, requests};
use crate::lua::refusal::Refusal;
use crate::lua::stack::Stack;

impl LuaLink {
    fn ask(&self, request: Request<'_>) -> Result<Accepted, Refusal> {
        Ok(self.live()?.link.ask(request)?)
    }
}

/// Asks for the request that `read` makes of the arguments.
fn ask(
    arguments: &Stack,
    read: fn(&Stack, Version) -> Checked<Request<'static>>,
) -> Answer<Accepted> {
    let this = LuaLink::of(arguments)?;
    let answer = || this.ask(read(arguments, this.version)?);
    Ok(answer())
}

/// The answer to a request that begins an exchange: its packet identifier.
fn begin(arguments: &Stack, read: fn(&Stack, Version) -> Checked<Request<'static>>) -> Answer<u16> {
    Ok(ask(arguments, read)?.map(|accepted| accepted.packet_id))
}

/// The answer to a request that begins no exchange: true.
fn send(arguments: &Stack, read: fn(&Stack, Version) -> Checked<Request<'static>>) -> Answer<bool> {
    Ok(ask(arguments, read)?.map(|_| true))
}

/// `connect(options)`: sends CONNECT. Returns true.
pub(super) fn connect(arguments: &Stack) -> Answer<bool> {
    let this = LuaLink::of(arguments)?;
    let options = arguments.value(2)?;
    let answer = || {
        let options = Args::new(options.table(&"options")?);
        this.ask(requests::connect(&options, this.version)?)
    };
    Ok(answer().map(|_| true))
}

/// `subscribe(topic, qos, no_local, retain_as_published, retain_handling, properties, user_properties)`: sends SUBSCRIBE.
/// Returns the packet identifier.
pub(super) fn subscribe(arguments: &Stack) -> Answer<u16> {
    begin(arguments, requests::subscribe)
}

/// `unsubscribe(topic, properties, user_properties)`: sends UNSUBSCRIBE. Returns the packet identifier.
pub(super) fn unsubscribe(arguments: &Stack) -> Answer<u16> {
    begin(arguments, requests::unsubscribe)
}

/// `acknowledge(packet_id, qos, rc, properties, user_properties)`: sends PUBACK or PUBREC. Returns true.
pub(super) fn acknowledge(arguments: &Stack) -> Answer<bool> {
    send(arguments, requests::acknowledge)
}

/// `ping()`: sends PINGREQ. Returns true.
pub(super) fn ping(arguments: &Stack) -> Answer<bool> {
    send(arguments, requests::ping)
}

/// `disconnect(rc, properties, user_properties)`: sends DISCONNECT. Returns true.
pub(super) fn disconnect(arguments: &Stack) -> Answer<bool> {
    send(arguments, requests::disconnect)
}

/// `auth(rc, properties, user_properties)`: sends AUTH. Returns true.
pub(super) fn auth(arguments: &Stack) -> Answer<bool> {
    send(arguments, requests::auth)
}
