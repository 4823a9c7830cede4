//! Requests from the arguments of a link's methods. The first argument of a method is the link.

use super::value::{byte_from_lua, str_from_lua};
use super::{Args, Checked, Scalar, connect_from_lua, properties_from_lua};
use crate::codec::{Properties, Subscription, Version};
use crate::driver::Request;
use crate::lua::stack::Stack;

/// `connect(options)`. See [`connect_from_lua`].
pub(crate) fn connect(options: &Args, version: Version) -> Checked<Request<'static>> {
    let connect = connect_from_lua(options, version)?;
    Ok(Request::Connect(connect.into()))
}

/// `subscribe(topic, qos, no_local, retain_as_published, retain_handling, properties, user_properties)`. For 3.1.1 only the
/// topic and the QoS are read; the other arguments are ignored.
pub(crate) fn subscribe(arguments: &Stack, version: Version) -> Checked<Request<'static>> {
    let mut subscription = Subscription {
        filter: str_from_lua(arguments.argument(2), &"topic")?,
        qos: arguments.argument(3).qos(&"qos")?,
        no_local: false,
        retain_as_published: false,
        retain_handling: 0,
    };
    if version == Version::V50 {
        subscription.no_local = arguments.argument(4).flag(&"no_local")?;
        subscription.retain_as_published = arguments.argument(5).flag(&"retain_as_published")?;
        subscription.retain_handling = match arguments.argument(6) {
            Scalar::Nil => 0,
            handling => handling.integer(0, 2, &"retain_handling")? as u8,
        };
    }
    Ok(Request::Subscribe {
        subscriptions: vec![subscription],
        properties: properties(arguments, 7, version)?,
    })
}

/// `unsubscribe(topic, properties, user_properties)`.
pub(crate) fn unsubscribe(arguments: &Stack, version: Version) -> Checked<Request<'static>> {
    Ok(Request::Unsubscribe {
        filters: vec![str_from_lua(arguments.argument(2), &"topic")?],
        properties: properties(arguments, 3, version)?,
    })
}

/// `acknowledge(packet_id, qos, rc, properties, user_properties)`.
pub(crate) fn acknowledge(arguments: &Stack, version: Version) -> Checked<Request<'static>> {
    Ok(Request::Acknowledge {
        packet_id: arguments.argument(2).packet_id()?,
        qos: arguments.argument(3).qos(&".qos")?,
        reason: byte_from_lua(arguments.argument(4), &"rc")?,
        properties: properties(arguments, 5, version)?,
    })
}

/// `ping()`.
pub(crate) fn ping(_: &Stack, _: Version) -> Checked<Request<'static>> {
    Ok(Request::Ping)
}

/// `disconnect(rc, properties, user_properties)`.
pub(crate) fn disconnect(arguments: &Stack, version: Version) -> Checked<Request<'static>> {
    Ok(Request::Disconnect {
        reason: byte_from_lua(arguments.argument(2), &"rc")?,
        properties: properties(arguments, 3, version)?,
    })
}

/// `auth(rc, properties, user_properties)`.
pub(crate) fn auth(arguments: &Stack, version: Version) -> Checked<Request<'static>> {
    Ok(Request::Auth {
        reason: byte_from_lua(arguments.argument(2), &"rc")?,
        properties: properties(arguments, 3, version)?,
    })
}

/// The properties and user properties, which are the arguments from `index` on. 3.1.1 ignores them, so that a program can
/// serve both versions.
pub(crate) fn properties(arguments: &Stack, index: i32, version: Version) -> Checked<Properties> {
    match version {
        Version::V311 => Ok(Properties::new()),
        Version::V50 => {
            let (named, user) = (arguments.value(index)?, arguments.value(index + 1)?);
            properties_from_lua(&named, &user, &"")
        }
    }
}
