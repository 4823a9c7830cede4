//! What `mqtt.client` and `mqtt.ioloop` call: links, the driver behind them, and what a link is opened with.

use std::cell::{Cell, RefCell};
#[cfg(feature = "luajit")]
use std::collections::HashMap;
#[cfg(feature = "luajit")]
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
#[cfg(feature = "luajit")]
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::args::{
    Args, Checked, PublishArgs, Scalar, Table, Value, byte_from_lua, connect_from_lua,
    properties_from_lua, str_from_lua,
};
use super::process;
use super::stack::{Misuse, RawFunction, Stack};
use super::target;
use super::values::{
    BUILDS_MESSAGES, MESSAGE_FIELDS, Results, push_failure, push_message, push_packet, set,
};
use crate::codec::{Packet, Properties, PublishRef, QoS, Str, Subscription, Version};
use crate::driver::{Driver, Link, LinkEvent, PublishError, Published};
use crate::net::{Uri, random_bytes};
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
pub(crate) fn register(core: &Stack) {
    process::watch();
    let shared = SharedDriver::default();
    core.set_raw("link", NewLink(Rc::clone(&shared)));
    core.set_raw("next_ready", NextReady(Rc::clone(&shared)));
    core.set_raw("wait", Wait(shared));
    core.set_raw("step", NextEvent::<true>);
    core.set_raw("pop", NextEvent::<false>);
    core.set_raw("publish", PublishValues);
    core.set_raw("publish_table", PublishTable);
    core.set_raw("acknowledge", AcknowledgeValues);
    core.set_raw("acknowledge_message", AcknowledgeMessage);
    set(core, "large_payload", |core| {
        core.push_integer(LARGE_PAYLOAD as u32);
    });
    set(core, "builds_messages", |core| {
        core.push_boolean(BUILDS_MESSAGES);
    });
    #[cfg(feature = "luajit")]
    {
        set(core, "publish_address", |core| {
            core.push_number(publish_plain as *const () as usize as f64);
        });
        // publish_number(handle): what stands for a link in the function at that address.
        core.set_function("publish_number", |arguments| {
            Ok(arguments.object(1).map(LuaLink::number))
        });
    }
    core.set_raw("running", Running);
    core.set_raw("now", Now(Instant::now()));
    // random_hex(digits): so many random hexadecimal digits, 64 at most.
    core.set_function("random_hex", |arguments| {
        let digits = arguments.argument(1).integer(0, 64, &"digits")?;
        Ok(random_hex(digits as usize)?)
    });
    core.set_raw("parse_uri", ParseUri);
}

/// `running()`: the thread that runs, also the main one, which `coroutine.running` of Lua 5.1 does not tell.
struct Running;

impl RawFunction for Running {
    type Output = ();

    fn run(&self, _: &Stack) -> Self::Output {}

    fn push((): &Self::Output, results: &Stack) {
        results.push_thread();
    }
}

/// Random hexadecimal digits.
fn random_hex(digits: usize) -> Checked<String> {
    let bytes = random_bytes::<32>().map_err(|error| error.to_string())?;
    let mut hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    hex.truncate(digits);
    Ok(hex)
}

/// `parse_uri(uri)`: true, scheme, username, password, host, port and path, each of them or nil; or nil and an error.
struct ParseUri;

impl RawFunction for ParseUri {
    type Output = Result<Uri, String>;

    fn run(&self, arguments: &Stack) -> Self::Output {
        let uri = String::from_utf8_lossy(arguments.argument(1).bytes(&"uri")?);
        uri.parse().map_err(|error| format!("{error}"))
    }

    fn push(output: &Self::Output, results: &Stack) {
        let uri = match output {
            Ok(uri) => uri,
            Err(error) => return push_failure(error, results),
        };
        results.push_boolean(true);
        uri.scheme.map(|scheme| scheme.name()).push(results);
        uri.username.push(results);
        match &uri.password {
            Some(password) => results.push_bytes(&password.0),
            None => results.push_nil(),
        }
        uri.host.push(results);
        uri.port.push(results);
        uri.path.push(results);
    }
}

fn driver(shared: &SharedDriver) -> Result<Rc<Driver>, String> {
    let mut slot = shared.borrow_mut();
    match &*slot {
        Some(driver) if !driver.is_stale() => Ok(Rc::clone(driver)),
        _ => {
            let driver = Driver::new(process::block_signals).map_err(|error| error.to_string())?;
            let driver = Rc::new(driver);
            *slot = Some(Rc::clone(&driver));
            Ok(driver)
        }
    }
}

/// `next_ready()`: the token of the next link that has something, or nil; or nil and an error.
struct NextReady(SharedDriver);

impl RawFunction for NextReady {
    type Output = Result<Option<u32>, String>;

    fn run(&self, _: &Stack) -> Self::Output {
        Ok(driver(&self.0)?.next_ready())
    }

    fn push(output: &Self::Output, results: &Stack) {
        output.push(results);
    }
}

/// The number of seconds that is an argument.
fn seconds(arguments: &Stack, index: i32) -> Checked<Duration> {
    match arguments.argument(index) {
        Scalar::Number(seconds) => Ok(duration(seconds)),
        other => Err(other.unexpected(&"time", "a number of seconds")),
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
        let driver = driver(&self.0)?;
        // No number is no time.
        let timeout = (seconds != f64::INFINITY).then(|| duration(seconds));
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

/// A link, as Lua holds it. When Lua collects it, the link leaves: without a DISCONNECT, so that the server publishes the
/// will.
struct LuaLink {
    own: Own,
    version: Version,
    /// What LuaJIT's FFI calls it, 0 before that asks.
    #[cfg(feature = "luajit")]
    number: Cell<u32>,
}

impl Drop for LuaLink {
    fn drop(&mut self) {
        #[cfg(feature = "luajit")]
        // The thread may be about to end.
        let _ = BY_NUMBER.try_with(|links| links.borrow_mut().remove(&self.number.get()));
        if let Ok(Live { link, .. }) = self.live() {
            link.leave();
        }
    }
}

use own::{Live, Own};

mod own {
    use std::rc::Rc;
    use std::sync::Arc;

    use super::super::stack::Stack;
    use super::{LuaLink, Refusal, STALE};
    use crate::driver::{Driver, Link};

    /// A link and its driver, which nobody gets at in the child of a fork: the parent's threads may have left any lock
    /// locked.
    pub(super) struct Own {
        link: Arc<Link>,
        driver: Rc<Driver>,
    }

    /// What an [`Own`] gives in the process that made it.
    pub(super) struct Live<'a> {
        pub(super) link: &'a Arc<Link>,
        pub(super) driver: &'a Driver,
    }

    /// The link belongs to the parent of this process.
    pub(super) struct Stale;

    impl From<Stale> for Refusal {
        fn from(_: Stale) -> Self {
            Self {
                message: STALE.into(),
                misuse: false,
            }
        }
    }

    impl Own {
        pub(super) fn new(link: Arc<Link>, driver: Rc<Driver>) -> Self {
            Self { link, driver }
        }
    }

    impl LuaLink {
        #[inline]
        pub(super) fn live(&self) -> Result<Live<'_>, Stale> {
            let Own { link, driver } = &self.own;
            match link.is_stale() {
                true => Err(Stale),
                false => Ok(Live { link, driver }),
            }
        }

        /// The link that is the first argument.
        #[inline]
        pub(super) fn of(arguments: &Stack) -> Result<&LuaLink, String> {
            arguments
                .object(1)
                .ok_or_else(|| "expecting a link as the first argument".to_owned())
        }

        /// The same, in the process that made it.
        #[inline]
        pub(super) fn live_of(arguments: &Stack) -> Result<Live<'_>, Refusal> {
            Ok(Self::of(arguments)?.live()?)
        }
    }
}

/// `link(version)`: a link without a connection, with its methods, and what stands for it in the functions that are not
/// methods; or nil and an error.
struct NewLink(SharedDriver);

impl RawFunction for NewLink {
    type Output = Checked<Cell<Option<LuaLink>>>;

    fn run(&self, arguments: &Stack) -> Self::Output {
        let version = match arguments.argument(1) {
            Scalar::Number(5.0) => Version::V50,
            _ => Version::V311,
        };
        let driver = driver(&self.0)?;
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
                    results.push_object(link, methods);
                    results.push_top();
                }
            }
            Err(error) => push_failure(error, results),
        }
    }
}

/// Why a request was refused, and whether the program's arguments are to blame for it, so that Lua should raise it.
struct Refusal {
    message: String,
    misuse: bool,
}

/// What a request returns to Lua: its result; or nil, the message and whether it is misuse.
impl<T: Results> Results for Result<T, Refusal> {
    fn push(&self, to: &Stack) {
        match self {
            Ok(value) => value.push(to),
            Err(refusal) => push_refusal(refusal, to),
        }
    }
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

/// `step(handle, metatable)`, `pop(handle, metatable)`: the link's next event: the type of a packet and its values for
/// `shape` of `mqtt.packet`, which for a PUBLISH where `core.builds_messages` is true is the table itself, with the
/// metatable; or a name and perhaps a message; or nothing. If there is none yet, `step` makes a turn of the runtime,
/// without blocking.
struct NextEvent<const TURN: bool>;

impl<const TURN: bool> RawFunction for NextEvent<TURN> {
    type Output = (Option<LinkEvent>, Version);

    const CONSTANTS: &'static [&'static str] = MESSAGE_FIELDS;

    fn run(&self, arguments: &Stack) -> Self::Output {
        let this = match LuaLink::of(arguments) {
            Ok(this) => this,
            Err(message) => return (Some(LinkEvent::Broken(message)), Version::V311),
        };
        let event = match this.live() {
            Err(_) => Some(LinkEvent::Broken(STALE.into())),
            Ok(Live { link, driver }) if TURN => link.step(driver),
            Ok(Live { link, .. }) => link.next_event(),
        };
        (event, this.version)
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
            Some(LinkEvent::Unrenewed(message)) => ("unrenewed", Some(message)),
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
        let Live { link, driver } = LuaLink::live_of(arguments)?;
        publish_arguments(arguments, 2, |message| {
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
        output.push(results);
    }
}

impl Results for Result<Published, NotPublished> {
    fn push(&self, results: &Stack) {
        match self {
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
const PUBLISH_FIELDS: &[&str] = &[
    "topic",
    "payload",
    "qos",
    "retain",
    "dup",
    "packet_id",
    "callback",
    "properties",
    "user_properties",
];
/// Where they are on the stack.
const PUBLISH_OPTS: i32 = 2;
const PUBLISH_CALLBACK: i32 = PUBLISH_OPTS + 7;

impl RawFunction for PublishTable {
    type Output = Option<Published>;

    const CONSTANTS: &'static [&'static str] = PUBLISH_FIELDS;

    fn run(&self, arguments: &Stack) -> Self::Output {
        let Live { link, .. } = arguments.object::<LuaLink>(1)?.live().ok()?;
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
        publish_arguments(arguments, PUBLISH_OPTS + 1, |message| link.publish(message)).ok()
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
    arguments: &Stack,
    first: i32,
    publish: impl FnOnce(&PublishRef<'_>) -> Result<Published, PublishError>,
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
    Ok(publish(&message.packet(packet_id, &Properties::new()))?)
}

#[cfg(feature = "luajit")]
thread_local! {
    /// The links that LuaJIT's FFI knows by number. A pointer could be to anything.
    static BY_NUMBER: RefCell<HashMap<u32, Arc<Link>>> = RefCell::default();
}

/// One count for all threads: a Lua state, and with it a link, may move to another one.
#[cfg(feature = "luajit")]
static LAST_NUMBER: AtomicU32 = AtomicU32::new(0);

#[cfg(feature = "luajit")]
impl LuaLink {
    /// What stands for it in [`publish_plain`].
    fn number(&self) -> u32 {
        if self.number.get() == 0
            && let Ok(Live { link, .. }) = self.live()
        {
            let number = LAST_NUMBER.fetch_add(1, Relaxed).wrapping_add(1).max(1);
            self.number.set(number);
            BY_NUMBER.with_borrow_mut(|links| links.insert(number, Arc::clone(link)));
        }
        self.number.get()
    }
}

/// What `mqtt.calls` publishes with, through LuaJIT's FFI, since LuaJIT compiles such a call: a message without properties
/// whose packet identifier is to be chosen. `flags` are those of the first byte of a PUBLISH (3.3.1). Returns the packet
/// identifier, 0 for QoS 0; plus 65,536 if the program should wait before it sends more; plus the time as of `os.time`
/// times 131,072. Or -1, and nothing has been done: `core.publish` knows what else is to be done, or is wrong.
///
/// # Safety
/// The pointers must be to so many bytes each.
#[cfg(feature = "luajit")]
unsafe extern "C" fn publish_plain(
    number: u32,
    topic: *const u8,
    topic_size: u32,
    payload: *const u8,
    payload_size: u32,
    flags: u32,
) -> f64 {
    // SAFETY: see above. They are not kept, nor does anything here call Lua.
    let (topic, payload) = unsafe {
        (
            std::slice::from_raw_parts(topic, topic_size as usize),
            std::slice::from_raw_parts(payload, payload_size as usize),
        )
    };
    let publish = |link: &Arc<Link>| {
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
    let publish_by_number = || {
        let found = BY_NUMBER.try_with(|links| links.borrow().get(&number).and_then(publish));
        found.ok().flatten()
    };
    // After a panic `core.publish` is likely to panic too, and says so.
    match catch_unwind(AssertUnwindSafe(publish_by_number)) {
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

impl From<Refusal> for NotPublished {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<String> for NotPublished {
    fn from(message: String) -> Self {
        Self::Refused(message.into())
    }
}

impl From<PublishError> for NotPublished {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Refused(error) => Self::Refused(error.into()),
            PublishError::TooMuch { waiting } => Self::TooMuch(format!(
                "{waiting} bytes wait to be sent or acknowledged already"
            )),
        }
    }
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
        acknowledge(LuaLink::live_of(arguments)?, packet_id, qos, reason)
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

    const CONSTANTS: &'static [&'static str] = &["packet_id", "qos"];

    fn run(&self, arguments: &Stack) -> Self::Output {
        let live = arguments.object::<LuaLink>(1)?.live().ok()?;
        arguments.push_fields_of_class(2, 3, 2)?;
        let packet_id = arguments.argument(4).packet_id().ok()?;
        let qos = arguments.argument(5).qos(&".qos").ok()?;
        acknowledge(live, packet_id, qos, 0).ok()
    }

    fn push(output: &Self::Output, results: &Stack) {
        if output.is_some() {
            results.push_integer(unix_time());
        }
    }
}

fn acknowledge(live: Live, packet_id: u16, qos: QoS, reason: u8) -> Result<(), Refusal> {
    request(live, |session| {
        session.acknowledge(packet_id, qos, reason, Properties::new())
    })
}

/// Uses the session of a link.
fn request<T>(
    Live { link, .. }: Live,
    request: impl FnOnce(&mut Session) -> Result<T, RequestError> + Send,
) -> Result<T, Refusal> {
    Ok(link.with_session(request)?)
}

// ---- methods ---------------------------------------------------------------------------------------------------------

/// Adds the methods of a link to a table.
fn methods(table: &Stack) {
    table.set_function("token", token);
    table.set_function("open", open);
    table.set_function("has_events", has_events);
    table.set_function("wait", wait);
    table.set_function("is_full", is_full);
    table.set_function("wait_for_room", wait_for_room);
    table.set_function("holds_back", holds_back);
    table.set_function("wait_until_sent", wait_until_sent);
    table.set_function("leave", leave);
    table.set_function("close", close);
    table.set_function("wake_after", wake_after);
    table.set_function("wake", wake);
    table.set_function("configure", configure);
    table.set_function("stats", stats);
    table.set_function("outgoing_bytes", outgoing_bytes);
    table.set_function("getfd", getfd);
    table.set_function("deadline", deadline);
    table.set_function("arriving", arriving);
    table.set_function("connect", connect);
    table.set_function("publish", publish);
    table.set_function("subscribe", subscribe);
    table.set_function("unsubscribe", unsubscribe);
    table.set_function("acknowledge", acknowledge_with_properties);
    table.set_function("ping", ping);
    table.set_function("disconnect", |arguments| {
        with_reason(arguments, Session::disconnect)
    });
    table.set_function("auth", |arguments| with_reason(arguments, Session::auth));
    // For connectors, which move the bytes themselves.
    table.set_function("attach", attach);
    table.set_function("detach", detach);
    table.set_function("is_parting", is_parting);
    table.set_function("wait_until_parted", wait_until_parted);
    table.set_function("feed", feed);
    table.set_function("take", take);
    table.set_function("handle_timeout", handle_timeout);
    table.set_function("is_failed", is_failed);
}

/// What a method returns; the error is raised.
type Returned<T> = Result<T, Misuse>;

/// What a request returns to Lua.
type Answer<T> = Returned<Result<T, Refusal>>;

/// `token()`: what `core.next_ready` calls this link.
fn token(arguments: &Stack) -> Answer<u32> {
    let this = LuaLink::of(arguments)?;
    Ok(this
        .live()
        .map(|live| live.link.token())
        .map_err(Refusal::from))
}

/// `open(timeout, ...)`: starts to open a connection to the target that the other arguments describe, see `target`;
/// "opened" or "open_failed" follows. Returns true, or nil and what is wrong with the target.
fn open(arguments: &Stack) -> Returned<Checked<bool>> {
    let this = LuaLink::of(arguments)?;
    let timeout = seconds(arguments, 2)?;
    Ok(target::read(arguments, 3).map(|target| {
        if let Ok(Live { link, driver }) = this.live() {
            link.open(driver, target, timeout);
        }
        true
    }))
}

/// `has_events()`: whether pop has something.
fn has_events(arguments: &Stack) -> Returned<bool> {
    let live = LuaLink::of(arguments)?.live();
    Ok(live.map_or(true, |live| live.link.has_events()))
}

/// `wait(seconds)`: blocks until pop has something, for a second at most.
fn wait(arguments: &Stack) -> Returned<()> {
    let deadline = Instant::now() + seconds(arguments, 2)?;
    if let Ok(Live { link, driver }) = LuaLink::of(arguments)?.live() {
        driver.wait_until(deadline, || link.has_events());
    }
    Ok(())
}

/// `is_full()`: whether the program should wait before it sends more.
fn is_full(arguments: &Stack) -> Returned<bool> {
    let live = LuaLink::of(arguments)?.live();
    Ok(live.is_ok_and(|live| live.link.is_full()))
}

/// `wait_for_room(seconds)`: blocks until that is over, for a second at most. Returns false if waiting is in vain, since
/// there is much that the program has to take first.
fn wait_for_room(arguments: &Stack) -> Returned<bool> {
    let deadline = Instant::now() + seconds(arguments, 2)?;
    Ok(match LuaLink::of(arguments)?.live() {
        Err(_) => false,
        Ok(Live { link, driver }) => {
            driver.wait_until(deadline, || link.has_room_or_news());
            !link.with_session(|session| session.is_slow())
        }
    })
}

/// `holds_back()`: whether the server's receive maximum keeps back something that was accepted.
fn holds_back(arguments: &Stack) -> Returned<bool> {
    let live = LuaLink::of(arguments)?.live();
    Ok(live.is_ok_and(|live| live.link.holds_back()))
}

/// `wait_until_sent(seconds)`: blocks until that is over, for a second at most.
fn wait_until_sent(arguments: &Stack) -> Returned<()> {
    let deadline = Instant::now() + seconds(arguments, 2)?;
    if let Ok(Live { link, driver }) = LuaLink::of(arguments)?.live() {
        driver.wait_until(deadline, || !link.holds_back());
    }
    Ok(())
}

/// `leave()`: closes the connection for a program that will not come back: everything accepted is sent.
fn leave(arguments: &Stack) -> Returned<()> {
    if let Ok(Live { link, .. }) = LuaLink::of(arguments)?.live() {
        link.leave();
    }
    Ok(())
}

/// `close([seconds])`: closes the connection; what was accepted on it is sent in the background. With a time, it waits so
/// long until that has been written.
fn close(arguments: &Stack) -> Returned<()> {
    let patience = match arguments.argument(2) {
        Scalar::Nil => None,
        _ => Some(seconds(arguments, 2)?),
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

/// `wake_after(seconds)`: "woken" follows then.
fn wake_after(arguments: &Stack) -> Returned<()> {
    let delay = seconds(arguments, 2)?;
    if let Ok(Live { link, driver }) = LuaLink::of(arguments)?.live() {
        link.wake_after(driver, delay);
    }
    Ok(())
}

/// `wake()`: "woken" follows at once.
fn wake(arguments: &Stack) -> Returned<()> {
    if let Ok(live) = LuaLink::of(arguments)?.live() {
        live.link.wake();
    }
    Ok(())
}

/// `configure(settings)`: what counts from now on, see `settings_from_lua`.
fn configure(arguments: &Stack) -> Answer<bool> {
    let this = LuaLink::of(arguments)?;
    let settings = arguments.value(2)?;
    let configure = || {
        let settings = settings_from_lua(settings.table(&"settings")?)?;
        this.live()?
            .link
            .with_session(|session| session.configure(settings));
        Ok(true)
    };
    Ok(configure())
}

/// What `stats` returns.
struct LinkStats {
    counted: Stats,
    tls_version: Option<&'static str>,
}

/// `stats()`: a table of what was counted so far.
fn stats(arguments: &Stack) -> Returned<LinkStats> {
    Ok(match LuaLink::of(arguments)?.live() {
        Ok(Live { link, .. }) => LinkStats {
            counted: link.with_session(|session| session.stats()),
            tls_version: link.tls_version(),
        },
        // The child of a fork has done nothing.
        Err(_) => LinkStats {
            counted: Stats::default(),
            tls_version: None,
        },
    })
}

impl Results for LinkStats {
    fn push(&self, to: &Stack) {
        let counted = &self.counted;
        to.push_table();
        for (name, count) in [
            ("messages_sent", counted.messages_sent),
            ("messages_received", counted.messages_received),
            ("bytes_sent", counted.bytes_sent),
            ("bytes_received", counted.bytes_received),
            ("in_flight", counted.in_flight as u64),
            ("queued", counted.queued as u64),
            ("queued_bytes", counted.queued_bytes as u64),
            ("dropped", counted.dropped),
            ("reconnects", counted.connections.saturating_sub(1)),
        ] {
            set(to, name, |to| to.push_count(count));
        }
        let round_trip = counted.ping_round_trip;
        set(to, "ping_round_trip", |to| {
            round_trip.map(|time| time.as_secs_f64()).push(to);
        });
        set(to, "tls_version", |to| self.tls_version.push(to));
    }
}

/// `outgoing_bytes()`: how many wait to be sent or acknowledged.
fn outgoing_bytes(arguments: &Stack) -> Returned<f64> {
    let live = LuaLink::of(arguments)?.live();
    Ok(live.map_or(0, |live| live.link.outgoing_bytes()) as f64)
}

/// `getfd()`: a descriptor that is readable while pop has something; or nil and an error.
#[cfg(unix)]
fn getfd(arguments: &Stack) -> Returned<Checked<u32>> {
    Ok(match LuaLink::of(arguments)?.live() {
        Ok(Live { link, .. }) => match link.fd() {
            Ok(fd) => Ok(fd as u32),
            Err(error) => Err(error.to_string()),
        },
        Err(_) => Err(STALE.into()),
    })
}

/// Returns nil and an error.
#[cfg(not(unix))]
fn getfd(_: &Stack) -> Returned<Checked<u32>> {
    Ok(Err("not available on this system".into()))
}

/// `deadline()`: seconds until keep alive wants something, or nil, and whether the server is given up then.
fn deadline(arguments: &Stack) -> Returned<(Option<f64>, bool)> {
    let Ok(Live { link, .. }) = LuaLink::of(arguments)?.live() else {
        return Ok((None, false));
    };
    let (deadline, awaits_answer) =
        link.with_session(|session| (session.poll_timeout(), session.awaits_answer()));
    let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
    Ok((left.map(|left| left.as_secs_f64()), awaits_answer))
}

/// `arriving(bytes)`: so many bytes are there of a packet that is not whole.
fn arriving(arguments: &Stack) -> Returned<()> {
    let bytes = match arguments.argument(2) {
        Scalar::Number(bytes) => bytes as usize,
        other => return Err(other.unexpected(&"bytes", "a number").into()),
    };
    if let Ok(Live { link, .. }) = LuaLink::of(arguments)?.live() {
        link.with_session(|session| session.arriving(bytes, Instant::now()));
    }
    Ok(())
}

/// `connect(options)`: sends CONNECT.
fn connect(arguments: &Stack) -> Answer<bool> {
    let this = LuaLink::of(arguments)?;
    let options = arguments.value(2)?;
    let connect = || {
        let connect = connect_from_lua(&Args::new(options.table(&"options")?), this.version)?;
        request(this.live()?, |session| session.connect(&connect))?;
        Ok(true)
    };
    Ok(connect())
}

/// `publish(topic, payload, qos, retain, dup, packet_id, properties, user_properties)`: as `core.publish`.
fn publish(arguments: &Stack) -> Returned<Result<Published, NotPublished>> {
    let this = LuaLink::of(arguments)?;
    let argument = |index| arguments.argument(index);
    let publish = || {
        let message = PublishArgs::new(
            argument(2),
            argument(3),
            argument(4),
            argument(5),
            argument(6),
        )?;
        let packet_id = match argument(7) {
            Scalar::Nil => 0,
            id => id.packet_id()?,
        };
        let properties = this.properties(arguments, 8)?;
        let Live { link, .. } = this.live().map_err(Refusal::from)?;
        Ok(link.publish(&message.packet(packet_id, &properties))?)
    };
    Ok(publish())
}

/// `subscribe(topic, qos, no_local, retain_as_published, retain_handling, properties, user_properties)`: the packet
/// identifier. 3.1.1 knows the topic and the QoS only: programs may give the rest all the same.
fn subscribe(arguments: &Stack) -> Answer<u16> {
    let this = LuaLink::of(arguments)?;
    let argument = |index| arguments.argument(index);
    let subscribe = || {
        let mut subscription = Subscription {
            filter: str_from_lua(argument(2), &"topic")?,
            qos: argument(3).qos(&"qos")?,
            no_local: false,
            retain_as_published: false,
            retain_handling: 0,
        };
        if this.version == Version::V50 {
            subscription.no_local = argument(4).flag(&"no_local")?;
            subscription.retain_as_published = argument(5).flag(&"retain_as_published")?;
            subscription.retain_handling = match argument(6) {
                Scalar::Nil => 0,
                handling => handling.integer(0, 2, &"retain_handling")? as u8,
            };
        }
        let properties = this.properties(arguments, 7)?;
        request(this.live()?, |session| {
            session.subscribe(vec![subscription], properties)
        })
    };
    Ok(subscribe())
}

/// `unsubscribe(topic, properties, user_properties)`: the packet identifier.
fn unsubscribe(arguments: &Stack) -> Answer<u16> {
    let this = LuaLink::of(arguments)?;
    let unsubscribe = || {
        let filter: Str = str_from_lua(arguments.argument(2), &"topic")?;
        let properties = this.properties(arguments, 3)?;
        request(this.live()?, |session| {
            session.unsubscribe(vec![filter], properties)
        })
    };
    Ok(unsubscribe())
}

/// `acknowledge(packet_id, qos, rc, properties, user_properties)`.
fn acknowledge_with_properties(arguments: &Stack) -> Answer<bool> {
    let this = LuaLink::of(arguments)?;
    let acknowledge = || {
        let packet_id = arguments.argument(2).packet_id()?;
        let qos = arguments.argument(3).qos(&".qos")?;
        let reason = byte_from_lua(arguments.argument(4), &"rc")?;
        let properties = this.properties(arguments, 5)?;
        request(this.live()?, |session| {
            session.acknowledge(packet_id, qos, reason, properties)
        })?;
        Ok(true)
    };
    Ok(acknowledge())
}

/// `ping()`.
fn ping(arguments: &Stack) -> Answer<bool> {
    let this = LuaLink::of(arguments)?;
    let ping = || {
        request(this.live()?, |session| session.ping(Instant::now()))?;
        Ok(true)
    };
    Ok(ping())
}

/// `disconnect(rc, properties, user_properties)`, `auth(rc, properties, user_properties)`.
fn with_reason(
    arguments: &Stack,
    ask: fn(&mut Session, u8, Properties) -> Result<(), RequestError>,
) -> Answer<bool> {
    let this = LuaLink::of(arguments)?;
    let send = || {
        let reason = byte_from_lua(arguments.argument(2), &"rc")?;
        let properties = this.properties(arguments, 3)?;
        request(this.live()?, |session| ask(session, reason, properties))?;
        Ok(true)
    };
    Ok(send())
}

/// `attach([fd])`: the connector has opened its connection. With its descriptor the connection ends in order even when
/// the connector closes that, or nobody does.
fn attach(arguments: &Stack) -> Returned<()> {
    let fd = match arguments.argument(2) {
        Scalar::Nil => None,
        fd => Some(fd.integer(0, i32::MAX as u32, &"fd")?),
    };
    if let Ok(Live { link, driver }) = LuaLink::of(arguments)?.live() {
        link.with_session(|session| session.open(Instant::now()));
        #[cfg(unix)]
        if let Some(socket) = fd.and_then(process::own_descriptor) {
            link.hold(driver, socket);
        }
        // Elsewhere the connection ends as the connector closes it.
        #[cfg(not(unix))]
        let _ = (fd, driver);
    }
    Ok(())
}

/// `detach()`: the connector has closed its connection.
fn detach(arguments: &Stack) -> Returned<()> {
    if let Ok(Live { link, .. }) = LuaLink::of(arguments)?.live() {
        link.let_go();
    }
    Ok(())
}

/// `is_parting()`: whether the server may still be reading the connector's last connection.
fn is_parting(arguments: &Stack) -> Returned<bool> {
    let live = LuaLink::of(arguments)?.live();
    Ok(live.is_ok_and(|live| live.link.is_parting()))
}

/// `wait_until_parted(seconds)`: blocks until that is over, for a second at most.
fn wait_until_parted(arguments: &Stack) -> Returned<()> {
    let deadline = Instant::now() + seconds(arguments, 2)?;
    if let Ok(Live { link, driver }) = LuaLink::of(arguments)?.live() {
        driver.wait_until(deadline, || !link.is_parting());
    }
    Ok(())
}

/// `feed(header, body)`: takes a received packet.
fn feed(arguments: &Stack) -> Returned<()> {
    let header = arguments.argument(2).bytes(&"header")?;
    let body = match arguments.argument(3) {
        Scalar::Nil => &[],
        body => body.bytes(&"body")?,
    };
    let mut packet = BytesMut::with_capacity(header.len() + body.len());
    packet.extend_from_slice(header);
    packet.extend_from_slice(body);
    if let Ok(Live { link, .. }) = LuaLink::of(arguments)?.live() {
        link.with_session(|session| session.receive(&mut packet, Instant::now()));
    }
    Ok(())
}

/// `take()`: the bytes to send, or nil.
fn take(arguments: &Stack) -> Returned<Option<BytesMut>> {
    let Ok(Live { link, .. }) = LuaLink::of(arguments)?.live() else {
        return Ok(None);
    };
    let bytes = link.with_session(|session| {
        let bytes = session.take();
        if !bytes.is_empty() {
            session.transmitted(bytes.len(), Instant::now());
        }
        bytes
    });
    Ok((!bytes.is_empty()).then_some(bytes))
}

/// `handle_timeout()`: does what keep alive wants now.
fn handle_timeout(arguments: &Stack) -> Returned<()> {
    if let Ok(Live { link, .. }) = LuaLink::of(arguments)?.live() {
        link.with_session(|session| session.handle_timeout(Instant::now()));
    }
    Ok(())
}

/// `is_failed()`: whether the session has given the connection up.
fn is_failed(arguments: &Stack) -> Returned<bool> {
    Ok(LuaLink::of(arguments)?.live().map_or(true, |live| {
        live.link
            .with_session(|session| session.state() == State::Disconnected)
    }))
}

impl LuaLink {
    /// The properties and user properties that are the arguments from `index` on. 3.1.1 has none: programs may give them
    /// all the same, and speak both versions with one piece of code.
    fn properties(&self, arguments: &Stack, index: i32) -> Checked<Properties> {
        match self.version {
            Version::V311 => Ok(Properties::new()),
            Version::V50 => {
                let (named, user) = (arguments.value(index)?, arguments.value(index + 1)?);
                properties_from_lua(&named, &user, &"")
            }
        }
    }
}

/// The settings of a session: `max_packet_size` in bytes, `server_receive_maximum`, `connack_timeout` and
/// `pingresp_timeout` in seconds, `keep_exchanges`, `resubscribe` and `topic_aliases` as booleans; `max_messages`,
/// `max_bytes` and `drop_oldest` of the queue, if there is to be one. What is left out has its default.
fn settings_from_lua(table: &Table) -> Checked<Settings> {
    let args = Args::new(table);
    let defaults = Settings::default();
    let seconds = |key| {
        args.optional(key, |scalar, name| match scalar {
            Scalar::Number(seconds) => Ok(duration(seconds)),
            other => Err(other.unexpected(name, "a number of seconds")),
        })
    };
    let count = |key, most: u32| {
        args.optional(key, |scalar, name| match scalar {
            Scalar::Number(count) if count >= f64::from(most) => Ok(most),
            scalar => scalar.integer(0, most, name),
        })
    };
    // A setting that Lua has no value for may be nil or false; everything else is true.
    let flag = |key| !matches!(table.get(key), Value::Nil | Value::Boolean(false));
    let queue = match args.optional("max_messages", whole_number)? {
        None => None,
        Some(max_messages) => Some(QueueLimits {
            max_messages,
            max_bytes: args
                .optional("max_bytes", whole_number)?
                .unwrap_or_default(),
            drop_oldest: flag("drop_oldest"),
        }),
    };
    Ok(Settings {
        max_packet_size: count("max_packet_size", u32::MAX)?.unwrap_or(defaults.max_packet_size),
        max_outgoing_bytes: queue.map_or(defaults.max_outgoing_bytes, |queue| {
            defaults.max_outgoing_bytes.max(queue.max_bytes)
        }),
        connack_timeout: seconds("connack_timeout")?.or(defaults.connack_timeout),
        pingresp_timeout: seconds("pingresp_timeout")?,
        keep_exchanges: flag("keep_exchanges"),
        queue,
        resubscribe: flag("resubscribe"),
        server_receive_maximum: count("server_receive_maximum", u16::MAX.into())?
            .map_or(defaults.server_receive_maximum, |most| most as u16),
        topic_aliases: flag("topic_aliases"),
        ..defaults
    })
}

/// A number of things; what is more than there can be is as good as no limit.
fn whole_number(scalar: Scalar<'_>, name: &dyn std::fmt::Display) -> Checked<usize> {
    match scalar {
        Scalar::Number(number) if number >= 0.0 => Ok(number as usize),
        other => Err(other.unexpected(name, "a whole number")),
    }
}
