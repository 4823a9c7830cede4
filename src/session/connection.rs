//! The connection of a session: how far it has come, and what exists only in that state.
//!
//! ```text
//!                 open              connect               CONNACK accepts
//!  Disconnected ──────► Open ─────────────────► Connecting ─────────────► Connected
//!     ▲   ▲              │                       │  ▲  │                    │  ▲  │
//!     │   │ close,       │                       │  └──┘ AUTH               │  └──┘ all other packets
//!     │   │ disconnect   │                       │                          │
//!     │   └──────────────┘                       │ CONNACK refuses          │ DISCONNECT of the server
//!     └──────────────────────────────────────────┴──────────────────────────┘
//!        close, disconnect, a deadline passes, the server breaks a rule
//! ```
//!
//! `Connecting` and `Connected` have the settings of our CONNECT by which later packets are judged, such as the
//! authentication method. `Connected` also has the server's limits and the topic aliases of both sides. The bytes on
//! their way and the deadlines are in `transport.rs`: the last bytes of a connection are written after its end.

use super::aliases::SentAliases;
use super::id_map::IdMap;
use super::{ServerLimits, Violation};
use crate::codec::{Connack, Connect, PropertyId, Publish, Str, Version};

/// How far a connection has come: it is opened, CONNECT is sent, and CONNACK accepts.
///
/// When a connection ends without the user's doing, an event says why: the CONNACK or DISCONNECT, or
/// [`Event::Failed`](super::Event::Failed).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing is sent, received or awaited. The bytes left in [`Session::transmit`](super::Session::transmit) may be
    /// written.
    Disconnected,
    /// The transport is up. Nothing has been sent.
    Open,
    /// CONNECT has been sent.
    Connecting,
    /// The server has accepted with CONNACK.
    Connected,
}

/// See the [module](self).
#[derive(Default)]
pub(super) enum Connection {
    #[default]
    Disconnected,
    Open,
    Connecting(Connecting),
    Connected(Connected),
}

/// What CONNECT begins.
pub(super) struct Connecting {
    pub(super) requested: Requested,
    pub(super) clean_start: bool,
    pub(super) keep_alive: u16,
    /// Messages sent before CONNECT.
    pub(super) messages_before: u64,
}

/// The settings of our CONNECT by which packets after CONNACK are judged too.
pub(super) struct Requested {
    pub(super) session_expiry_interval: u32,
    /// The most QoS 1 and 2 messages that the server may have unacknowledged at a time. Only 5.0 has this limit.
    pub(super) receive_maximum: Option<u16>,
    topic_alias_maximum: u16,
    /// Whether the server must leave out reason strings and user properties wherever it may (3.1.2.11.7).
    pub(super) no_problem_information: bool,
    pub(super) authentication_method: Option<Str>,
}

/// What a CONNACK begins.
pub(super) struct Connected {
    pub(super) requested: Requested,
    pub(super) server: ServerLimits,
    pub(super) session_present: bool,
    /// The topics of the server's topic aliases (3.3.2.3.4).
    topic_aliases: IdMap<Str>,
    /// The topics of our topic aliases.
    pub(super) sent_aliases: SentAliases,
}

impl Connection {
    #[inline]
    pub(super) fn state(&self) -> State {
        match self {
            Self::Disconnected => State::Disconnected,
            Self::Open => State::Open,
            Self::Connecting(_) => State::Connecting,
            Self::Connected(_) => State::Connected,
        }
    }

    #[inline]
    pub(super) fn connected(&self) -> Option<&Connected> {
        match self {
            Self::Connected(connected) => Some(connected),
            _ => None,
        }
    }

    #[inline]
    pub(super) fn connected_mut(&mut self) -> Option<&mut Connected> {
        match self {
            Self::Connected(connected) => Some(connected),
            _ => None,
        }
    }

    /// The settings of the CONNECT that has been sent.
    #[inline]
    pub(super) fn requested(&self) -> Option<&Requested> {
        match self {
            Self::Connecting(connecting) => Some(&connecting.requested),
            Self::Connected(connected) => Some(&connected.requested),
            _ => None,
        }
    }

    /// The authentication method of the CONNECT that has been sent.
    pub(super) fn authentication_method(&self) -> Option<&Str> {
        self.requested()?.authentication_method.as_ref()
    }

    /// The server's limits. Until CONNACK tells them, the standard's defaults.
    #[inline]
    pub(super) fn server(&self) -> &ServerLimits {
        match self {
            Self::Connected(connected) => &connected.server,
            _ => &ServerLimits::ASSUMED,
        }
    }
}

impl Connecting {
    pub(super) fn new(connect: &Connect, messages_before: u64) -> Self {
        Self {
            requested: Requested::new(connect),
            clean_start: connect.clean,
            keep_alive: connect.keep_alive,
            messages_before,
        }
    }
}

impl Requested {
    fn new(connect: &Connect) -> Self {
        let properties = &connect.properties;
        Self {
            session_expiry_interval: properties
                .four_byte(PropertyId::SessionExpiryInterval)
                .unwrap_or(0),
            receive_maximum: match connect.version {
                Version::V311 => None,
                Version::V50 => properties
                    .two_byte(PropertyId::ReceiveMaximum)
                    .or(Some(u16::MAX)),
            },
            topic_alias_maximum: properties
                .two_byte(PropertyId::TopicAliasMaximum)
                .unwrap_or(0),
            no_problem_information: properties.byte(PropertyId::RequestProblemInformation)
                == Some(0),
            authentication_method: properties.string(PropertyId::AuthenticationMethod).cloned(),
        }
    }
}

impl Connected {
    pub(super) fn new(requested: Requested, connack: &Connack) -> Self {
        Self {
            requested,
            server: ServerLimits::new(&connack.properties),
            session_present: connack.session_present,
            topic_aliases: IdMap::default(),
            sent_aliases: SentAliases::default(),
        }
    }

    /// Puts the topic in place of its alias, and remembers new aliases (3.3.2.3.4). The decoder has checked that a
    /// PUBLISH has a topic or an alias.
    pub(super) fn resolve_topic_alias(&mut self, publish: &mut Publish) -> Result<(), Violation> {
        let Some(alias) = publish.properties.two_byte(PropertyId::TopicAlias) else {
            return Ok(());
        };
        // [MQTT-3.3.2-11]
        let max = self.requested.topic_alias_maximum;
        if alias > max {
            return Err(Violation::TopicAlias { alias, max });
        }
        if !publish.topic.is_empty() {
            // The received topic shares the memory of a whole read. The copy lets that memory go.
            let topic = Str::try_from(publish.topic.as_str()).expect("copied from a Str");
            self.topic_aliases.insert(alias, topic);
        } else if let Some(topic) = self.topic_aliases.get(&alias) {
            publish.topic = topic.clone();
        } else {
            return Err(Violation::TopicAliasUnknown(alias));
        }
        Ok(())
    }
}
