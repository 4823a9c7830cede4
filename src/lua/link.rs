//! What `mqtt.client` and `mqtt.ioloop` call: links, the driver behind them, and what a link is opened with.

use std::cell::RefCell;
use std::hash::{BuildHasher, RandomState};
#[cfg(feature = "luajit")]
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use mlua::{
    AnyUserData, BorrowedBytes, FromLuaMulti, IntoLuaMulti, Lua, LuaString, MultiValue, Nil, Table,
    UserData, UserDataMethods, Value,
};

use super::args::{
    Args, Checked, PublishArgs, Scalar, byte_from_lua, connect_from_lua, properties_from_lua,
    str_from_lua, with_scalar,
};
use super::process;
use super::protocol::push_failure;
#[cfg(feature = "luajit")]
use super::stack::object_at;
use super::stack::{RawFunction, Stack, create_object, create_raw_function};
use super::target;
use super::values::{BUILDS_MESSAGES, MESSAGE_FIELDS, push_message, push_packet};
use crate::codec::{Packet, Properties, PublishRef, QoS, Subscription, Version};
use crate::driver::{Driver, Link, LinkEvent, PublishError, Published};
use crate::net::Uri;
use crate::session::{QueueLimits, RequestError, Session, Settings, State, Stats};

/// The longest time that is taken from Lua as seconds; what is longer means "for ever".
const LONGEST: Duration = Duration::from_secs(u32::MAX as u64);

/// From how many bytes on a payload is worth a turn of the runtime to spare a copy of it.
const LARGE_PAYLOAD: usize = 128 << 10;
/// How long a connection may take to take it, where waiting holds up nobody else.
const LARGE_PATIENCE: Duration = Duration::from_millis(2);

const STALE: &str = "this client belongs to the parent process: create a new one after fork()";

/// The driver of a Lua state, made when it is first needed, and anew in the child of a fork.
type SharedDriver = Rc<RefCell<Option<Rc<Driver>>>>;

/// Adds the functions of this file to `mqtt.core`.
pub(crate) fn register(lua: &Lua, core: &Table) -> mlua::Result<()> {
    process::watch();
    let shared = SharedDriver::default();

    // link(version): a link without a connection, and what stands for it in the functions below; or nil and an error.
    let of_link = Rc::clone(&shared);
    core.set(
        "link",
        lua.create_function(move |lua, version: u8| {
            let version = Version::from_code(version).unwrap_or(Version::V311);
            match driver(&of_link) {
                Ok(driver) => lua_link(lua, driver, version)?.into_lua_multi(lua),
                Err(error) => (Nil, error.to_string()).into_lua_multi(lua),
            }
        })?,
    )?;

    core.set(
        "step",
        create_raw_function(lua, NextEvent::<true>, MESSAGE_FIELDS)?,
    )?;
    core.set(
        "pop",
        create_raw_function(lua, NextEvent::<false>, MESSAGE_FIELDS)?,
    )?;
    core.set("publish", create_raw_function(lua, PublishValues, ())?)?;
    #[cfg(feature = "luajit")]
    core.set(
        "publish_address",
        publish_plain as *const () as usize as f64,
    )?;
    core.set("large_payload", LARGE_PAYLOAD)?;
    core.set(
        "publish_table",
        create_raw_function(lua, PublishTable, PUBLISH_FIELDS)?,
    )?;
    core.set(
        "acknowledge",
        create_raw_function(lua, AcknowledgeValues, ())?,
    )?;
    core.set(
        "acknowledge_message",
        create_raw_function(lua, AcknowledgeMessage, ("packet_id", "qos"))?,
    )?;

    core.set("builds_messages", BUILDS_MESSAGES)?;

    // next_ready(): the token of the next link that has something, or nil.
    let of_next = Rc::clone(&shared);
    core.set(
        "next_ready",
        lua.create_function(move |_, _: MultiValue| Ok(driver(&of_next)?.next_ready()))?,
    )?;

    core.set("wait", create_raw_function(lua, Wait(shared), ())?)?;

    // running(): the thread that runs, also the main one, which `coroutine.running` of Lua 5.1 does not tell.
    core.set(
        "running",
        lua.create_function(|lua, _: MultiValue| Ok(lua.current_thread()))?,
    )?;

    // now(): seconds of a clock that is never set.
    core.set("now", create_raw_function(lua, Now(Instant::now()), ())?)?;

    // random_hex(digits): so many random hexadecimal digits, 16 at most.
    core.set(
        "random_hex",
        lua.create_function(|_, digits: usize| {
            let mut hex = format!("{:016x}", RandomState::new().hash_one(0));
            hex.truncate(digits);
            Ok(hex)
        })?,
    )?;

    // parse_uri(uri): true, scheme, username, password, host, port and path, each of them or nil; or nil and an error.
    core.set(
        "parse_uri",
        lua.create_function(|lua, uri: LuaString| {
            let uri = match uri.to_string_lossy().parse::<Uri>() {
                Ok(uri) => uri,
                Err(error) => return (Nil, error.to_string()).into_lua_multi(lua),
            };
            let password = uri.password.map(|password| lua.create_string(&password.0));
            (
                true,
                uri.scheme.map(|scheme| scheme.name()),
                uri.username,
                password.transpose()?,
                uri.host,
                uri.port,
                uri.path,
            )
                .into_lua_multi(lua)
        })?,
    )
}

fn driver(shared: &SharedDriver) -> mlua::Result<Rc<Driver>> {
    let mut slot = shared.borrow_mut();
    match &*slot {
        Some(driver) if !driver.is_stale() => Ok(Rc::clone(driver)),
        _ => {
            let driver =
                Rc::new(Driver::new(process::block_signals).map_err(mlua::Error::external)?);
            *slot = Some(Rc::clone(&driver));
            Ok(driver)
        }
    }
}

/// Seconds from Lua: negative ones and NaN are 0, and there is a longest time.
fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).map_or(LONGEST, |time| time.min(LONGEST))
}

/// `wait(seconds)`: drives the runtime until a link has something, for so long at most; 0 for a single turn. Returns true,
/// or nil and an error. Comes back earlier when a signal handler wants to be heard.
struct Wait(SharedDriver);

impl RawFunction for Wait {
    type Output = Result<(), String>;

    fn run(&self, arguments: &Stack) -> Self::Output {
        let Scalar::Number(seconds) = arguments.argument(1) else {
            return Err("expecting a number of seconds".into());
        };
        let driver = driver(&self.0).map_err(|error| error.to_string())?;
        let timeout = (seconds < f64::INFINITY).then(|| duration(seconds));
        driver.wait(timeout, arguments.hook_is_set());
        Ok(())
    }

    fn push(output: &Self::Output, results: &Stack) {
        match output {
            Ok(()) => results.push_boolean(true),
            Err(message) => push_failure(message, results),
        }
    }
}

/// `now()`: seconds since this was made. Under Copas it is asked every few messages.
struct Now(Instant);

impl RawFunction for Now {
    type Output = f64;

    fn run(&self, _: &Stack) -> Self::Output {
        self.0.elapsed().as_secs_f64()
    }

    fn push(output: &Self::Output, results: &Stack) {
        results.push_number(*output);
    }
}

/// A link, as Lua holds it. When Lua collects it, the connection is dropped without a DISCONNECT, so that the server
/// publishes the will.
struct LuaLink {
    link: Arc<Link>,
    driver: Rc<Driver>,
    version: Version,
}

impl Drop for LuaLink {
    fn drop(&mut self) {
        if !self.link.is_stale() {
            self.link.close();
        }
    }
}

fn lua_link(
    lua: &Lua,
    driver: Rc<Driver>,
    version: Version,
) -> mlua::Result<(LuaLink, AnyUserData)> {
    let link = Link::new(&driver, Session::new(version, Settings::default()));
    let handle = Handle {
        link: Arc::clone(&link),
        driver: Rc::clone(&driver),
        version,
    };
    let link = LuaLink {
        link,
        driver,
        version,
    };
    Ok((link, create_object(lua, handle)?))
}

/// What stands for a link in the functions that run once for each message.
struct Handle {
    link: Arc<Link>,
    driver: Rc<Driver>,
    version: Version,
}

/// The handle that is the first argument.
fn handle(arguments: &Stack) -> Result<&Handle, Refusal> {
    arguments
        .object(1)
        .ok_or_else(|| "expecting the handle of a link".to_owned().into())
}

/// Why a request was refused, and whether the program's arguments are to blame for it, so that Lua should raise it.
struct Refusal {
    message: String,
    misuse: bool,
}

/// What a request returns to Lua: its result, or nil, the message and whether it is misuse.
type Answer<T> = (Option<T>, Option<String>, bool);

fn answer<T>(result: Result<T, Refusal>) -> mlua::Result<Answer<T>> {
    Ok(match result {
        Ok(value) => (Some(value), None, false),
        Err(Refusal { message, misuse }) => (None, Some(message), misuse),
    })
}

fn push_refusal(refusal: &Refusal, results: &Stack) {
    push_failure(&refusal.message, results);
    results.push_boolean(refusal.misuse);
}

/// Arguments that could not be read.
impl From<String> for Refusal {
    fn from(message: String) -> Refusal {
        Refusal {
            message,
            misuse: true,
        }
    }
}

impl From<RequestError> for Refusal {
    fn from(error: RequestError) -> Refusal {
        let misuse = matches!(
            error,
            RequestError::Encode(_)
                | RequestError::ReasonCode(..)
                | RequestError::SubscriptionIdentifier
        );
        Refusal {
            message: error.to_string(),
            misuse,
        }
    }
}

/// Uses the session of a link.
fn request<T>(
    link: &Link,
    request: impl FnOnce(&mut Session) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    if link.is_stale() {
        return Err(stale());
    }
    link.with_session(request)
}

fn stale() -> Refusal {
    Refusal {
        message: STALE.into(),
        misuse: false,
    }
}

/// `step(handle, metatable)`, `pop(handle, metatable)`: the link's next event: the type of a packet and its values for
/// `shape` of `mqtt.packet`, which for a PUBLISH where `core.builds_messages` is true is the table itself, with the
/// metatable; or a name and perhaps a message; or nothing. If there is none yet, `step` makes a turn of the runtime,
/// without blocking.
struct NextEvent<const TURN: bool>;

impl<const TURN: bool> RawFunction for NextEvent<TURN> {
    type Output = (Option<LinkEvent>, Version);

    fn run(&self, arguments: &Stack) -> Self::Output {
        let Handle {
            link,
            driver,
            version,
        } = match handle(arguments) {
            Ok(handle) => handle,
            Err(refusal) => return (Some(LinkEvent::Broken(refusal.message)), Version::V311),
        };
        let event = if link.is_stale() {
            Some(LinkEvent::Broken(STALE.into()))
        } else if TURN {
            link.step(driver)
        } else {
            link.next_event()
        };
        (event, *version)
    }

    fn push((event, version): &Self::Output, results: &Stack) {
        let (name, message) = match event {
            None => return,
            Some(LinkEvent::Packet(Packet::Publish(publish))) if BUILDS_MESSAGES => {
                return push_message(publish, *version, results);
            }
            Some(LinkEvent::Packet(packet)) => return push_packet(packet, *version, results),
            Some(LinkEvent::Dropped { packet_id, message }) => {
                results.push_bytes(b"dropped");
                results.push_integer(*packet_id);
                results.push_bytes(message.as_bytes());
                return;
            }
            Some(LinkEvent::Opened) => ("opened", None),
            Some(LinkEvent::OpenFailed(message)) => ("open_failed", Some(message)),
            Some(LinkEvent::Failed(message)) => ("failed", Some(message)),
            Some(LinkEvent::Closed) => ("closed", None),
            Some(LinkEvent::Broken(message)) => ("broken", Some(message)),
            Some(LinkEvent::Woken) => ("woken", None),
        };
        results.push_bytes(name.as_bytes());
        if let Some(message) = message {
            results.push_bytes(message.as_bytes());
        }
    }
}

/// `publish(handle, topic, payload, qos, retain, dup, packet_id, may_wait)`, without properties: the packet identifier, 0
/// for QoS 0, the time as of `os.time`, whether the program should wait before it sends more, and perhaps a list of the
/// packet identifiers of messages that had to make room for it; or false and an error message if so much waits already
/// that it must; or nil, an error message and whether it is misuse. With `may_wait` it may take two milliseconds to spare
/// a copy of a payload of `core.large_payload` bytes or more, with QoS 0.
struct PublishValues;

impl RawFunction for PublishValues {
    type Output = Result<Published, NotPublished>;

    fn run(&self, arguments: &Stack) -> Self::Output {
        publish_arguments(handle(arguments)?, arguments, 2, |link, driver, message| {
            if message.payload.len() < LARGE_PAYLOAD || message.qos != QoS::AtMostOnce {
                return link.publish(message);
            }
            // SAFETY: nothing refers to it when `publish_large` returns.
            let payload = unsafe { arguments.argument_bytes(3) }.unwrap_or_default();
            let patience = match arguments.argument(8) {
                Scalar::Boolean(true) => LARGE_PATIENCE,
                _ => Duration::ZERO,
            };
            link.publish_large(driver, message, payload, patience)
        })
    }

    fn push(output: &Self::Output, results: &Stack) {
        match output {
            Ok(published) => push_published(published, results),
            Err(NotPublished::TooMuch(message)) => {
                results.push_boolean(false);
                results.push_bytes(message.as_bytes());
            }
            Err(NotPublished::Refused(refusal)) => push_refusal(refusal, results),
        }
    }
}

/// `publish_table(handle, opts)`: what `publish` returns, with a list of packet identifiers in any case, and the callback;
/// or nothing, and nothing has been done, unless `opts` is a table as `Client:publish` takes them, without properties
/// and without a metatable, the payload is not large, and the message is accepted.
struct PublishTable;

/// The fields that `publish_table` looks at: the arguments of `publish` in their order, the callback, and those that must
/// not be there.
const PUBLISH_FIELDS: (&str, &str, &str, &str, &str, &str, &str, &str, &str) = (
    "topic",
    "payload",
    "qos",
    "retain",
    "dup",
    "packet_id",
    "callback",
    "properties",
    "user_properties",
);
/// Where they are on the stack.
const PUBLISH_OPTS: i32 = 2;
const PUBLISH_CALLBACK: i32 = PUBLISH_OPTS + 7;

impl RawFunction for PublishTable {
    type Output = Option<Published>;

    fn run(&self, arguments: &Stack) -> Self::Output {
        let handle = arguments.object(1)?;
        arguments.push_fields(PUBLISH_OPTS, 9)?;
        let is_plain = matches!(arguments.argument(PUBLISH_CALLBACK + 1), Scalar::Nil)
            && matches!(arguments.argument(PUBLISH_CALLBACK + 2), Scalar::Nil)
            && matches!(
                arguments.argument(PUBLISH_CALLBACK),
                Scalar::Nil | Scalar::Function
            );
        let is_large = matches!(arguments.argument(PUBLISH_OPTS + 2),
            Scalar::String(payload) if payload.len() >= LARGE_PAYLOAD);
        if !is_plain || is_large {
            return None;
        }
        publish_arguments(handle, arguments, PUBLISH_OPTS + 1, |link, _, message| {
            link.publish(message)
        })
        .ok()
    }

    fn push(output: &Self::Output, results: &Stack) {
        if let Some(published) = output {
            push_published(published, results);
            if published.dropped.is_empty() {
                results.push_nil();
            }
            results.push_argument(PUBLISH_CALLBACK);
        }
    }
}

/// Publishes the message whose fields are on the stack from `first` on.
fn publish_arguments(
    Handle { link, driver, .. }: &Handle,
    arguments: &Stack,
    first: i32,
    request: impl FnOnce(&Link, &Driver, &PublishRef<'_>) -> Result<Published, PublishError>,
) -> Result<Published, NotPublished> {
    let argument = |index| arguments.argument(first + index);
    let message = PublishArgs::new(
        argument(0),
        argument(1),
        argument(2),
        argument(3),
        argument(4),
    )?;
    let packet_id = match argument(5) {
        Scalar::Nil => 0,
        packet_id => packet_id.packet_id()?,
    };
    publish(link, |link| {
        request(link, driver, &message.packet(packet_id, &Properties::new()))
    })
}

/// What `mqtt.calls` publishes with, through LuaJIT's FFI, since LuaJIT compiles such a call: a message without properties
/// whose packet identifier is to be chosen. `flags` are those of the first byte of a PUBLISH (3.3.1). Returns the packet
/// identifier, 0 for QoS 0; plus 65,536 if the program should wait before it sends more; plus the time as of `os.time`
/// times 131,072. Or -1, and nothing has been done: `core.publish` knows what else is to be done, or is wrong.
///
/// # Safety
/// The first pointer must be that of a userdata of `create_object`, the others of so many bytes each.
#[cfg(feature = "luajit")]
unsafe extern "C" fn publish_plain(
    handle: *const std::ffi::c_void,
    topic: *const u8,
    topic_size: u32,
    payload: *const u8,
    payload_size: u32,
    flags: u32,
) -> f64 {
    // SAFETY: see above. They are not kept, nor does anything here call Lua.
    let (handle, topic, payload) = unsafe {
        (
            object_at::<Handle>(handle),
            std::slice::from_raw_parts(topic, topic_size as usize),
            std::slice::from_raw_parts(payload, payload_size as usize),
        )
    };
    let publish = || {
        let link = &handle?.link;
        let message = PublishRef {
            dup: flags & 1 << 3 != 0,
            qos: QoS::from_code((flags >> 1 & 3) as u8)?,
            retain: flags & 1 != 0,
            topic: str::from_utf8(topic).ok()?,
            packet_id: 0,
            properties: &Properties::new(),
            payload,
        };
        (!link.is_stale())
            .then(|| link.publish_connected(&message))
            .flatten()
    };
    // After a panic `core.publish` is likely to panic too, and says so.
    match catch_unwind(AssertUnwindSafe(publish)) {
        Ok(Some(Published {
            packet_id, full, ..
        })) => {
            let low = u32::from(full) << 16 | u32::from(packet_id);
            f64::from(unix_time()) * f64::from(1 << 17) + f64::from(low)
        }
        _ => -1.0,
    }
}

fn push_published(published: &Published, results: &Stack) {
    results.push_integer(published.packet_id);
    results.push_integer(unix_time());
    results.push_boolean(published.full);
    if !published.dropped.is_empty() {
        results.push_table();
        for packet_id in &published.dropped {
            results.push_integer(*packet_id);
            results.append();
        }
    }
}

/// Seconds as of `os.time`.
fn unix_time() -> u32 {
    // SAFETY: with a null pointer it only returns the time. It need not read the processor's counter, as other clocks do.
    #[cfg(unix)]
    return unsafe { libc::time(std::ptr::null_mut()) } as u32;
    #[cfg(not(unix))]
    return std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0, |time| time.as_secs() as u32);
}

enum NotPublished {
    Refused(Refusal),
    TooMuch(String),
}

impl<T: Into<Refusal>> From<T> for NotPublished {
    fn from(refusal: T) -> Self {
        Self::Refused(refusal.into())
    }
}

fn publish(
    link: &Link,
    publish: impl FnOnce(&Link) -> Result<Published, PublishError>,
) -> Result<Published, NotPublished> {
    if link.is_stale() {
        return Err(stale().into());
    }
    publish(link).map_err(|error| match error {
        PublishError::Refused(error) => error.into(),
        PublishError::TooMuch { waiting } => NotPublished::TooMuch(format!(
            "{waiting} bytes wait to be sent or acknowledged already"
        )),
    })
}

/// `acknowledge(handle, packet_id, qos, rc)`, without properties: true; or nil, an error message and whether it is
/// misuse.
struct AcknowledgeValues;

impl RawFunction for AcknowledgeValues {
    type Output = Result<(), Refusal>;

    fn run(&self, arguments: &Stack) -> Self::Output {
        let packet_id = arguments.argument(2).packet_id()?;
        let qos = arguments.argument(3).qos(&".qos")?;
        let reason = arguments.argument(4).integer(0, u8::MAX.into(), &"rc")? as u8;
        acknowledge(&handle(arguments)?.link, packet_id, qos, reason)
    }

    fn push(output: &Self::Output, results: &Stack) {
        match output {
            Ok(()) => results.push_boolean(true),
            Err(refusal) => push_refusal(refusal, results),
        }
    }
}

/// `acknowledge_message(handle, message, metatable)`: the time as of `os.time`; or nothing, and nothing has been done, unless
/// the message is a table with that metatable, of QoS 1 or 2, and can be acknowledged.
struct AcknowledgeMessage;

impl RawFunction for AcknowledgeMessage {
    type Output = Option<()>;

    fn run(&self, arguments: &Stack) -> Self::Output {
        let link = &arguments.object::<Handle>(1)?.link;
        arguments.push_fields_of_class(2, 3, 2)?;
        let packet_id = arguments.argument(4).packet_id().ok()?;
        let qos = arguments.argument(5).qos(&".qos").ok()?;
        acknowledge(link, packet_id, qos, 0).ok()
    }

    fn push(output: &Self::Output, results: &Stack) {
        if output.is_some() {
            results.push_integer(unix_time());
        }
    }
}

fn acknowledge(link: &Link, packet_id: u16, qos: QoS, reason: u8) -> Result<(), Refusal> {
    request(link, |session| {
        Ok(session.acknowledge(packet_id, qos, reason, Properties::new())?)
    })
}

impl LuaLink {
    fn request<T>(
        &self,
        ask: impl FnOnce(&mut Session) -> Result<T, Refusal>,
    ) -> mlua::Result<Answer<T>> {
        answer(request(&self.link, ask))
    }

    fn request_with_reason(
        &self,
        (rc, properties, user_properties): (Value, Value, Value),
        ask: fn(&mut Session, u8, Properties) -> Result<(), RequestError>,
    ) -> mlua::Result<Answer<bool>> {
        self.request(|session| {
            let properties = self.properties(&properties, &user_properties)?;
            ask(session, byte_from_lua(&rc, &"rc")?, properties)?;
            Ok(true)
        })
    }

    /// 3.1.1 has no properties: programs may give them all the same, and speak both versions with one piece of code.
    fn properties(&self, properties: &Value, user_properties: &Value) -> Checked<Properties> {
        match self.version {
            Version::V311 => Ok(Properties::new()),
            Version::V50 => properties_from_lua(properties, user_properties, &""),
        }
    }
}

/// Adds methods that capture nothing. mlua's code around a method is generated once for each type of one: here for each
/// signature, not for each method, which are kilobytes each.
struct BySignature<'a, M>(&'a mut M);

impl<M: UserDataMethods<LuaLink>> BySignature<'_, M> {
    fn add_method<A: FromLuaMulti + 'static, R: IntoLuaMulti + 'static>(
        &mut self,
        name: &str,
        method: fn(&Lua, &LuaLink, A) -> mlua::Result<R>,
    ) {
        self.0.add_method(name, method);
    }
}

impl UserData for LuaLink {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        let mut methods = BySignature(methods);
        // token(): what core.next_ready calls this link.
        methods.add_method("token", |_, this, ()| Ok(this.link.token()));

        // open(timeout, ...): starts to open a connection to the target that the other arguments describe, see `target`;
        // "opened" or "open_failed" follows. Returns true, or nil and what is wrong with the target.
        methods.add_method("open", |_, this, (timeout, way): (f64, target::Way)| {
            Ok(match target::read(way) {
                Err(error) => (None, Some(error)),
                Ok(target) => {
                    if !this.link.is_stale() {
                        this.link.open(&this.driver, target, duration(timeout));
                    }
                    (Some(true), None)
                }
            })
        });

        // has_events(): whether pop has something.
        methods.add_method("has_events", |_, this, ()| {
            Ok(this.link.is_stale() || this.link.has_events())
        });

        // wait(seconds): blocks until pop has something, for a second at most.
        methods.add_method("wait", |_, this, seconds: f64| {
            if !this.link.is_stale() {
                let deadline = Instant::now() + duration(seconds);
                this.driver.wait_until(deadline, || this.link.has_events());
            }
            Ok(())
        });

        // is_full(): whether the program should wait before it sends more.
        methods.add_method("is_full", |_, this, ()| {
            Ok(!this.link.is_stale() && this.link.is_full())
        });
        // wait_for_room(seconds): blocks until that is over, for a second at most. Returns false if waiting is in vain,
        // since there is much that the program has to take first.
        methods.add_method("wait_for_room", |_, this, seconds: f64| {
            if this.link.is_stale() {
                return Ok(false);
            }
            let deadline = Instant::now() + duration(seconds);
            this.driver
                .wait_until(deadline, || this.link.has_room_or_news());
            Ok(!this.link.with_session(|session| session.is_slow()))
        });

        // holds_back(): whether the server's receive maximum keeps back something that was accepted.
        methods.add_method("holds_back", |_, this, ()| {
            Ok(!this.link.is_stale() && this.link.holds_back())
        });
        // wait_until_sent(seconds): blocks until that is over, for a second at most.
        methods.add_method("wait_until_sent", |_, this, seconds: f64| {
            if !this.link.is_stale() {
                let deadline = Instant::now() + duration(seconds);
                this.driver.wait_until(deadline, || !this.link.holds_back());
            }
            Ok(())
        });

        // close([seconds]): drops the connection; with a time, after what waits to be written has been: so long it waits
        // for that, the rest is written in the background.
        methods.add_method("close", |_, this, seconds: Option<f64>| {
            if !this.link.is_stale() {
                match seconds {
                    Some(seconds) => this
                        .link
                        .close_flushed(&this.driver, Instant::now() + duration(seconds)),
                    None => this.link.close(),
                }
                this.link.wake();
            }
            Ok(())
        });

        // wake_after(seconds): "woken" follows then.
        methods.add_method("wake_after", |_, this, seconds: f64| {
            if !this.link.is_stale() {
                this.link.wake_after(&this.driver, duration(seconds));
            }
            Ok(())
        });

        // wake(): "woken" follows at once.
        methods.add_method("wake", |_, this, ()| {
            if !this.link.is_stale() {
                this.link.wake();
            }
            Ok(())
        });

        // configure(settings): what counts from now on, see `settings_from_lua`.
        methods.add_method("configure", |_, this, settings: Table| {
            answer(if this.link.is_stale() {
                Err(stale())
            } else {
                settings_from_lua(&settings)
                    .map(|settings| {
                        this.link
                            .with_session(|session| session.configure(settings));
                        true
                    })
                    .map_err(|error| Refusal::from(error.to_string()))
            })
        });

        // stats(): table of what was counted so far.
        methods.add_method("stats", |lua, this, ()| {
            let table = lua.create_table()?;
            // In the child of a fork it has done nothing, and the parent's threads may have left its lock locked.
            let stats = match this.link.is_stale() {
                true => Stats::default(),
                false => this.link.with_session(|session| session.stats()),
            };
            for (name, count) in [
                ("messages_sent", stats.messages_sent),
                ("messages_received", stats.messages_received),
                ("bytes_sent", stats.bytes_sent),
                ("bytes_received", stats.bytes_received),
                ("in_flight", stats.in_flight as u64),
                ("queued", stats.queued as u64),
                ("queued_bytes", stats.queued_bytes as u64),
                ("dropped", stats.dropped),
                ("reconnects", stats.connections.saturating_sub(1)),
            ] {
                table.set(name, count)?;
            }
            let round_trip = stats.ping_round_trip;
            table.set("ping_round_trip", round_trip.map(|time| time.as_secs_f64()))?;
            if !this.link.is_stale() {
                table.set("tls_version", this.link.tls_version())?;
            }
            Ok(table)
        });

        // outgoing_bytes(): how many wait to be sent or acknowledged.
        methods.add_method("outgoing_bytes", |_, this, ()| {
            Ok(match this.link.is_stale() {
                true => 0,
                false => this.link.outgoing_bytes(),
            })
        });

        // getfd(): a descriptor that is readable while pop has something; or nil and an error.
        methods.add_method("getfd", |_, this, ()| {
            if this.link.is_stale() {
                return Ok((None, Some(STALE.to_owned())));
            }
            #[cfg(unix)]
            return Ok(match this.link.fd() {
                Ok(fd) => (Some(fd), None),
                Err(error) => (None, Some(error.to_string())),
            });
            #[cfg(not(unix))]
            return Ok((None::<i32>, Some("not available on this system".to_owned())));
        });

        // deadline(): seconds until keep alive wants something, or nil, and whether the server is given up then.
        methods.add_method("deadline", |_, this, ()| {
            if this.link.is_stale() {
                return Ok((None, false));
            }
            let (deadline, awaits_answer) = this
                .link
                .with_session(|session| (session.poll_timeout(), session.awaits_answer()));
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            Ok((left.map(|left| left.as_secs_f64()), awaits_answer))
        });

        // connect(options): sends CONNECT.
        methods.add_method("connect", |_, this, options: Table| {
            this.request(|session| {
                let connect = connect_from_lua(&Args::new(&options), session.version())?;
                session.connect(&connect)?;
                Ok(true)
            })
        });

        // publish(topic, payload, qos, retain, dup, packet_id, properties, user_properties): as `core.publish`.
        type Publish = (Value, Value, u8, bool, bool, Value, Value, Value);
        methods.add_method("publish", |lua, this, fields: Publish| {
            let (topic, payload, qos, retain, dup, packet_id, properties, user_properties) = fields;
            let (qos, flag) = (Scalar::Number(qos.into()), Scalar::Boolean);
            let published = with_scalar(&topic, |topic| {
                with_scalar(&payload, |payload| {
                    let message = PublishArgs::new(topic, payload, qos, flag(retain), flag(dup))?;
                    let packet_id = match packet_id {
                        Nil => 0,
                        id => with_scalar(&id, |id| id.packet_id())?,
                    };
                    let properties = this.properties(&properties, &user_properties)?;
                    let message = message.packet(packet_id, &properties);
                    publish(&this.link, |link| link.publish(&message))
                })
            });
            match published {
                Ok(Published {
                    packet_id,
                    full,
                    dropped,
                }) => {
                    let dropped = (!dropped.is_empty()).then_some(dropped);
                    (packet_id, unix_time(), full, dropped).into_lua_multi(lua)
                }
                Err(NotPublished::TooMuch(message)) => (false, message).into_lua_multi(lua),
                Err(NotPublished::Refused(Refusal { message, misuse })) => {
                    (Nil, message, misuse).into_lua_multi(lua)
                }
            }
        });

        // subscribe(topic, qos, no_local, retain_as_published, retain_handling, properties, user_properties): the
        // packet identifier.
        type Subscribe = (Value, u8, bool, bool, u8, Value, Value);
        methods.add_method("subscribe", |_, this, fields: Subscribe| {
            let (
                topic,
                code,
                no_local,
                retain_as_published,
                retain_handling,
                properties,
                user_properties,
            ) = fields;
            this.request(|session| {
                let subscription = Subscription {
                    filter: str_from_lua(&topic, &"topic")?,
                    qos: qos(code)?,
                    no_local,
                    retain_as_published,
                    retain_handling,
                };
                let properties = this.properties(&properties, &user_properties)?;
                Ok(session.subscribe(vec![subscription], properties)?)
            })
        });

        // unsubscribe(topic, properties, user_properties): the packet identifier.
        type Unsubscribe = (Value, Value, Value);
        methods.add_method(
            "unsubscribe",
            |_, this, (topic, properties, user_properties): Unsubscribe| {
                this.request(|session| {
                    let properties = this.properties(&properties, &user_properties)?;
                    Ok(session.unsubscribe(vec![str_from_lua(&topic, &"topic")?], properties)?)
                })
            },
        );

        // acknowledge(packet_id, qos, rc, properties, user_properties)
        type Acknowledge = (Value, Value, Value, Value, Value);
        methods.add_method("acknowledge", |_, this, fields: Acknowledge| {
            let (packet_id, qos, rc, properties, user_properties) = fields;
            this.request(|session| {
                let packet_id = with_scalar(&packet_id, |id| id.packet_id())?;
                let qos = with_scalar(&qos, |qos| qos.qos(&".qos"))?;
                let reason = byte_from_lua(&rc, &"rc")?;
                let properties = this.properties(&properties, &user_properties)?;
                session.acknowledge(packet_id, qos, reason, properties)?;
                Ok(true)
            })
        });

        // ping()
        methods.add_method("ping", |_, this, ()| {
            this.request(|session| Ok(session.ping(Instant::now()).map(|()| true)?))
        });

        // disconnect(rc, properties, user_properties), auth(rc, properties, user_properties)
        type WithReason = (Value, Value, Value);
        methods.add_method("disconnect", |_, this, fields: WithReason| {
            this.request_with_reason(fields, Session::disconnect)
        });
        methods.add_method("auth", |_, this, fields: WithReason| {
            this.request_with_reason(fields, Session::auth)
        });

        // For connectors, which move the bytes themselves:
        // attach(): the connector has opened its connection.
        methods.add_method("attach", |_, this, ()| {
            this.link
                .with_session(|session| session.open(Instant::now()));
            Ok(())
        });
        // feed(header, body): takes a received packet.
        methods.add_method(
            "feed",
            |_, this, (header, body): (BorrowedBytes, Option<BorrowedBytes>)| {
                let body = body.as_deref().unwrap_or_default();
                let mut packet = BytesMut::with_capacity(header.len() + body.len());
                packet.extend_from_slice(&header);
                packet.extend_from_slice(body);
                this.link
                    .with_session(|session| session.receive(&mut packet, Instant::now()));
                Ok(())
            },
        );
        // take(): the bytes to send, or nil.
        methods.add_method("take", |lua, this, ()| {
            let bytes = this.link.with_session(|session| {
                let bytes = session.transmit().split();
                if !bytes.is_empty() {
                    session.transmitted(bytes.len(), Instant::now());
                }
                bytes
            });
            (!bytes.is_empty())
                .then(|| lua.create_string(&bytes))
                .transpose()
        });
        // handle_timeout(): does what keep alive wants now.
        methods.add_method("handle_timeout", |_, this, ()| {
            this.link
                .with_session(|session| session.handle_timeout(Instant::now()));
            Ok(())
        });
        // is_failed(): whether the session has given the connection up.
        methods.add_method("is_failed", |_, this, ()| {
            Ok(this
                .link
                .with_session(|session| session.state() == State::Disconnected))
        });
    }
}

fn qos(code: u8) -> Checked<QoS> {
    QoS::from_code(code).ok_or_else(|| format!("expecting qos to be 0, 1 or 2, got: {code}"))
}

/// The settings of a session: `max_packet_size` in bytes, `server_receive_maximum`, `connack_timeout` and `pingresp_timeout` in seconds,
/// `keep_exchanges`, `resubscribe` and `topic_aliases` as booleans; `max_messages`, `max_bytes` and `drop_oldest` of the
/// queue, if there is to be one. What is left out has its default.
fn settings_from_lua(table: &Table) -> mlua::Result<Settings> {
    let defaults = Settings::default();
    let seconds = |key| Ok::<_, mlua::Error>(table.get::<Option<f64>>(key)?.map(duration));
    let queue = match table.get("max_messages")? {
        None => None,
        Some(max_messages) => Some(QueueLimits {
            max_messages,
            max_bytes: table.get("max_bytes")?,
            drop_oldest: table.get("drop_oldest")?,
        }),
    };
    Ok(Settings {
        max_packet_size: table
            .get::<Option<u32>>("max_packet_size")?
            .unwrap_or(defaults.max_packet_size),
        max_outgoing_bytes: queue.map_or(defaults.max_outgoing_bytes, |queue| {
            defaults.max_outgoing_bytes.max(queue.max_bytes)
        }),
        connack_timeout: seconds("connack_timeout")?.or(defaults.connack_timeout),
        pingresp_timeout: seconds("pingresp_timeout")?,
        keep_exchanges: table.get("keep_exchanges")?,
        queue,
        resubscribe: table.get("resubscribe")?,
        server_receive_maximum: table
            .get::<Option<u16>>("server_receive_maximum")?
            .unwrap_or(defaults.server_receive_maximum),
        topic_aliases: table.get("topic_aliases")?,
        ..defaults
    })
}
