//! What `mqtt.client` and `mqtt.ioloop` call: links, the driver behind them, and what a link is opened with.

use std::cell::RefCell;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use mlua::{
    BorrowedBytes, IntoLuaMulti, Lua, LuaString, MultiValue, Nil, Table, UserData, UserDataMethods,
    UserDataRef, Value,
};

use super::protocol::{
    Args, Checked, PacketValues, PublishArgs, connect_from_lua, fill, integer_from_lua,
    packet_values, properties_from_lua, qos_from_lua, str_from_lua,
};
use super::tls::LuaTls;
use crate::codec::{Properties, Str, Subscription, Version};
use crate::driver::{self, Driver, Link, LinkEvent};
use crate::net::{Target, Uri};
use crate::session::{Limits, RequestError, Session, State};

/// The longest time that is taken from Lua as seconds; what is longer means "for ever".
const LONGEST: Duration = Duration::from_secs(u32::MAX as u64);

/// How long `disconnect` waits for the last bytes to be handed to the kernel.
const FLUSH_TIME: Duration = Duration::from_secs(1);

const STALE: &str = "this client belongs to the parent process: create a new one after fork()";

/// The driver of a Lua state, made when it is first needed, and anew in the child of a fork.
type SharedDriver = Rc<RefCell<Option<Rc<Driver>>>>;

/// Adds the functions of this file to `mqtt.core`.
pub(crate) fn register(lua: &Lua, core: &Table) -> mlua::Result<()> {
    watch_forks();
    let shared = SharedDriver::default();

    // link(version): a link without a connection; or nil and an error.
    let of_link = Rc::clone(&shared);
    core.set(
        "link",
        lua.create_function(move |_, version: u8| {
            let version = Version::from_code(version).unwrap_or(Version::V311);
            Ok(match driver(&of_link) {
                Ok(driver) => {
                    let link = Link::new(&driver, Session::new(version, Limits::default()));
                    let link = LuaLink {
                        link,
                        driver,
                        version,
                    };
                    (Some(link), None)
                }
                Err(error) => (None, Some(error.to_string())),
            })
        })?,
    )?;

    // next_ready(): the token of the next link that has something, or nil.
    let of_next = Rc::clone(&shared);
    core.set(
        "next_ready",
        lua.create_function(move |_, _: MultiValue| Ok(driver(&of_next)?.next_ready()))?,
    )?;

    // wait(seconds): drives the runtime until a link has something, for a second at most; 0 for a single turn.
    core.set(
        "wait",
        lua.create_function(move |_, seconds: f64| {
            driver(&shared)?.wait(duration(seconds));
            Ok(())
        })?,
    )?;

    // now(): seconds of a clock that is never set.
    let start = Instant::now();
    core.set(
        "now",
        lua.create_function(move |_, ()| Ok(start.elapsed().as_secs_f64()))?,
    )?;

    // random_hex(digits): so many random hexadecimal digits, 16 at most.
    core.set(
        "random_hex",
        lua.create_function(|_, digits: usize| {
            let mut hex = format!("{:016x}", RandomState::new().hash_one(0));
            hex.truncate(digits);
            Ok(hex)
        })?,
    )?;

    // parse_uri(uri): table of its parts, or nil and an error.
    core.set(
        "parse_uri",
        lua.create_function(|lua, uri: LuaString| {
            let uri = match uri.to_string_lossy().parse::<Uri>() {
                Ok(uri) => uri,
                Err(error) => return (Nil, error.to_string()).into_lua_multi(lua),
            };
            let parts = lua.create_table()?;
            parts.set("scheme", uri.scheme.map(|scheme| scheme.name()))?;
            parts.set("username", uri.username)?;
            if let Some(password) = uri.password {
                parts.set("password", lua.create_string(&password.0)?)?;
            }
            parts.set("host", uri.host)?;
            parts.set("port", uri.port)?;
            parts.into_lua_multi(lua)
        })?,
    )
}

fn driver(shared: &SharedDriver) -> mlua::Result<Rc<Driver>> {
    let mut slot = shared.borrow_mut();
    match &*slot {
        Some(driver) if !driver.is_stale() => Ok(Rc::clone(driver)),
        _ => {
            let driver = Rc::new(Driver::new().map_err(mlua::Error::external)?);
            *slot = Some(Rc::clone(&driver));
            Ok(driver)
        }
    }
}

/// Has the driver told of forks, once in a process.
fn watch_forks() {
    #[cfg(unix)]
    {
        use std::ffi::c_int;
        use std::sync::Once;

        unsafe extern "C" {
            fn pthread_atfork(
                prepare: Option<extern "C" fn()>,
                parent: Option<extern "C" fn()>,
                child: Option<extern "C" fn()>,
            ) -> c_int;
        }
        extern "C" fn in_child() {
            driver::forked();
        }
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            // SAFETY: the handler lives as long as the process, since the module is never unloaded (build.rs), and it
            // only increments an atomic, which is allowed between fork and exec.
            unsafe { pthread_atfork(None, None, Some(in_child)) };
        });
    }
}

/// Seconds from Lua: negative ones and NaN are 0, and there is a longest time.
fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).map_or(LONGEST, |time| time.min(LONGEST))
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

/// What a request returns to Lua: its result; or nil, an error message, and whether the program's arguments are to
/// blame for it, so that Lua should raise it.
type Answer<T> = (Option<T>, Option<String>, bool);

fn answer<T>(result: Result<T, Refusal>) -> mlua::Result<Answer<T>> {
    Ok(match result {
        Ok(value) => (Some(value), None, false),
        Err(Refusal { message, misuse }) => (None, Some(message), misuse),
    })
}

struct Refusal {
    message: String,
    misuse: bool,
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

impl LuaLink {
    fn request<T>(
        &self,
        request: impl FnOnce(&mut Session) -> Result<T, Refusal>,
    ) -> mlua::Result<Answer<T>> {
        if self.link.is_stale() {
            return answer(Err(Refusal {
                message: STALE.into(),
                misuse: false,
            }));
        }
        answer(self.link.with_session(request))
    }

    /// 3.1.1 has no properties: programs may give them all the same, and speak both versions with one piece of code.
    fn properties(&self, properties: &Value, user_properties: &Value) -> Checked<Properties> {
        match self.version {
            Version::V311 => Ok(Properties::new()),
            Version::V50 => properties_from_lua(properties, user_properties, ""),
        }
    }

    fn values(&self, lua: &Lua, event: Option<LinkEvent>) -> mlua::Result<PacketValues> {
        let (name, message) = match event {
            Some(LinkEvent::Packet(packet)) => return packet_values(lua, &packet, self.version),
            None => return Ok(fill([])),
            Some(LinkEvent::Opened) => ("opened", None),
            Some(LinkEvent::OpenFailed(message)) => ("open_failed", Some(message)),
            Some(LinkEvent::Failed(message)) => ("failed", Some(message)),
            Some(LinkEvent::Closed) => ("closed", None),
            Some(LinkEvent::Broken(message)) => ("broken", Some(message)),
            Some(LinkEvent::Woken) => ("woken", None),
        };
        let text = |text: &str| lua.create_string(text).map(Value::String);
        let message = message.map_or(Ok(Nil), |message| text(&message))?;
        Ok(fill([text(name)?, message]))
    }

    /// The next event; with `turn`, after a turn of the runtime if there is none yet.
    fn next(&self, lua: &Lua, turn: bool) -> mlua::Result<PacketValues> {
        if self.link.is_stale() {
            return self.values(lua, Some(LinkEvent::Broken(STALE.into())));
        }
        let mut event = self.link.next_event();
        if event.is_none() && turn {
            self.driver.turn();
            event = self.link.next_event();
        }
        self.values(lua, event)
    }
}

impl UserData for LuaLink {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        // token(): what core.next_ready calls this link.
        methods.add_method("token", |_, this, ()| Ok(this.link.token()));

        // open(host, port, timeout[, tls]): starts to open a connection; "opened" or "open_failed" follows.
        type Open = (String, u16, f64, Option<UserDataRef<LuaTls>>);
        methods.add_method("open", |_, this, (host, port, timeout, tls): Open| {
            if !this.link.is_stale() {
                let tls = tls.map(|tls| tls.0.clone());
                this.link
                    .open(&this.driver, Target { host, port, tls }, duration(timeout));
            }
            Ok(())
        });

        // step(): the next event: a packet's values for `shape` of mqtt.packet, or a name and perhaps a message, or
        // nil. If there is none yet, a turn of the runtime is made, without blocking.
        methods.add_method("step", |lua, this, ()| this.next(lua, true));
        // pop(): the same without the turn.
        methods.add_method("pop", |lua, this, ()| this.next(lua, false));

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
        // wait_for_room(seconds): blocks until that is over, for a second at most.
        methods.add_method("wait_for_room", |_, this, seconds: f64| {
            if !this.link.is_stale() {
                let deadline = Instant::now() + duration(seconds);
                this.driver.wait_until(deadline, || !this.link.is_full());
            }
            Ok(())
        });

        // close([flush]): drops the connection; with flush, after what waits to be written has been.
        methods.add_method("close", |_, this, flush: Option<bool>| {
            if !this.link.is_stale() {
                if flush == Some(true) {
                    this.link
                        .close_flushed(&this.driver, Instant::now() + FLUSH_TIME);
                } else {
                    this.link.close();
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

        // deadline(): seconds until keep alive wants something, or nil.
        methods.add_method("deadline", |_, this, ()| {
            if this.link.is_stale() {
                return Ok(None);
            }
            let deadline = this.link.with_session(|session| session.poll_timeout());
            Ok(deadline.map(|at| at.saturating_duration_since(Instant::now()).as_secs_f64()))
        });

        // connect(options): sends CONNECT.
        methods.add_method("connect", |_, this, options: Table| {
            this.request(|session| {
                let connect = connect_from_lua(&Args::new(&options), session.version())?;
                session.connect(&connect)?;
                Ok(true)
            })
        });

        // publish(topic, payload, qos, retain, dup, packet_id, properties, user_properties): the packet identifier, 0
        // for QoS 0.
        type Publish = (Value, Value, Value, Value, Value, Option<u16>, Value, Value);
        methods.add_method("publish", |_, this, fields: Publish| {
            let (topic, payload, qos, retain, dup, packet_id, properties, user_properties) = fields;
            this.request(|session| {
                let message = PublishArgs::new(&topic, &payload, &qos, &retain, &dup)?;
                let properties = this.properties(&properties, &user_properties)?;
                Ok(session.publish(&message.packet(packet_id.unwrap_or(0), &properties))?)
            })
        });

        // subscribe(topic, qos, no_local, retain_as_published, retain_handling, properties, user_properties): the
        // packet identifier.
        type Subscribe = (Value, Value, bool, bool, u8, Value, Value);
        methods.add_method("subscribe", |_, this, fields: Subscribe| {
            let (
                topic,
                qos,
                no_local,
                retain_as_published,
                retain_handling,
                properties,
                user_properties,
            ) = fields;
            this.request(|session| {
                let subscription = Subscription {
                    filter: filter(&topic)?,
                    qos: qos_from_lua(&qos, || ".qos".into())?,
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
                    Ok(session.unsubscribe(vec![filter(&topic)?], properties)?)
                })
            },
        );

        // acknowledge(packet_id, qos, rc, properties, user_properties)
        type Acknowledge = (u16, Value, Value, Value, Value);
        methods.add_method("acknowledge", |_, this, fields: Acknowledge| {
            let (packet_id, qos, rc, properties, user_properties) = fields;
            this.request(|session| {
                let properties = this.properties(&properties, &user_properties)?;
                let qos = qos_from_lua(&qos, || ".qos".into())?;
                session.acknowledge(packet_id, qos, reason(&rc)?, properties)?;
                Ok(true)
            })
        });

        // ping()
        methods.add_method("ping", |_, this, ()| {
            this.request(|session| Ok(session.ping(Instant::now()).map(|()| true)?))
        });

        // disconnect(rc, properties, user_properties), auth(rc, properties, user_properties)
        type WithReason = (Value, Value, Value);
        type Request = fn(&mut Session, u8, Properties) -> Result<(), RequestError>;
        for (name, request) in [
            ("disconnect", Session::disconnect as Request),
            ("auth", Session::auth),
        ] {
            methods.add_method(
                name,
                move |_, this, (rc, properties, user_properties): WithReason| {
                    this.request(|session| {
                        let properties = this.properties(&properties, &user_properties)?;
                        request(session, reason(&rc)?, properties)?;
                        Ok(true)
                    })
                },
            );
        }

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
                    session.transmitted(Instant::now());
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

fn filter(topic: &Value) -> Checked<Str> {
    str_from_lua(topic, || ".topic".into())
}

fn reason(rc: &Value) -> Checked<u8> {
    Ok(integer_from_lua(rc, 0, u8::MAX.into(), || "rc".into())? as u8)
}
