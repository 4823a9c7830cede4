//! The deadlines of a connection: when a PINGREQ is due, and how long its answer and the answer to CONNECT may take.
//! Nothing here reads a clock or sends.

use std::mem;
use std::time::{Duration, Instant};

/// What is due at a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// The server has not answered CONNECT, or the user has not sent it.
    Connack,
    /// The server has not answered PINGREQ.
    Pingresp,
    /// No packet was sent for the keep alive interval.
    Pingreq,
    /// More of the messages that have waited for the connection may be sent.
    Pace,
}

/// This many bytes within the time for PINGRESP show that the server still works towards it: PINGRESP comes behind
/// everything sent before.
const PROGRESS: u32 = 1024;
/// For this many times that time, whole packets count as such bytes. After that, only the packet that is arriving does.
const PATIENCE: u32 = 10;

/// A PINGREQ that has not been answered.
///
/// ```text
///            transmitted            transmitted        no answer for `timeout`
///  pinged ──► waits behind others ─────────────► sent ─────────────────────────► the server is given up
///               │    ▲                           │  ▲                              ▲
///               │    └ some of them were written │  └ bytes behind it were written │
///               └────── nothing was written for `timeout` ─────────────────────────┘
/// ```
struct Ping {
    /// Bytes to be written up to and including the last one of the PINGREQ.
    ahead: usize,
    /// When the PINGREQ was written.
    sent: Option<Instant>,
    /// Since when the connection has shown no life. A sign of life is the answer, or bytes before it, or, while the
    /// transport is full, that it takes bytes.
    since: Instant,
    /// Bytes that have arrived since then.
    arrived: u32,
    timeout: Duration,
}

/// The deadlines of one connection. Without a transport there are none.
#[derive(Default)]
pub(super) struct Timers {
    /// Keep alive in seconds (3.1.2.10); 0 while it does not run.
    keep_alive: u16,
    /// Whether arriving bytes no longer show that PINGRESP will come.
    is_late: bool,
    /// Bytes received of a packet that is not whole.
    partial: u32,
    /// When bytes were written last, or a PINGREQ was queued behind an unanswered one. Before both, when the transport
    /// came up.
    last_transmit: Option<Instant>,
    /// The PINGREQ that has not been answered.
    ping: Option<Ping>,
    /// Until when the user may send CONNECT, or the server may answer it.
    connack: Option<Instant>,
}

impl Timers {
    /// The transport came up.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            last_transmit: Some(now),
            ..Self::default()
        }
    }

    /// Keep alive in seconds, 0 while it does not run.
    pub(super) fn keep_alive(&self) -> u16 {
        self.keep_alive
    }

    /// Starts, changes or (with 0) stops keep alive.
    pub(super) fn set_keep_alive(&mut self, seconds: u16) {
        self.keep_alive = seconds;
        if seconds == 0 {
            self.ping = None;
        }
    }

    /// The driver has written `bytes` bytes. `blocked` tells whether the transport would not take more. Keep alive
    /// counts from the last packet sent, of any type [MQTT-3.1.2-23].
    pub(super) fn transmitted(&mut self, bytes: usize, blocked: bool, now: Instant) {
        self.last_transmit = Some(now);
        let Some(ping) = &mut self.ping else {
            return;
        };
        if ping.sent.is_none() {
            ping.ahead = ping.ahead.saturating_sub(bytes);
            ping.since = now;
            if ping.ahead == 0 {
                ping.sent = Some(now);
            }
        } else if blocked {
            // A full transport that takes bytes shows that the other end is there. A transport that is not full takes
            // all bytes, even when it has lost the other end.
            ping.since = now;
        }
    }

    /// `whole` bytes of whole packets were received, and `partial` bytes of the next packet.
    pub(super) fn received(&mut self, whole: usize, partial: usize, now: Instant) {
        let partial = u32::try_from(partial).unwrap_or(u32::MAX);
        // A driver that hands over whole packets may pass in the header alone meanwhile: the count must not shrink.
        let least = if whole == 0 { self.partial } else { 0 };
        let partial = partial.max(least);
        let before = mem::replace(&mut self.partial, partial);
        let Some(ping) = &mut self.ping else {
            return;
        };
        let Some(sent) = ping.sent else {
            return;
        };
        self.is_late |= whole > 0 && now >= sent + ping.timeout * PATIENCE;
        if self.is_late {
            return;
        }
        let whole = u32::try_from(whole).unwrap_or(u32::MAX);
        let arrived = whole.saturating_add(partial).saturating_sub(before);
        ping.arrived = ping.arrived.saturating_add(arrived);
        if ping.arrived >= PROGRESS {
            ping.arrived = 0;
            ping.since = now;
        }
    }

    /// Whether the session waits for an answer to CONNECT.
    pub(super) fn awaits_connack(&self) -> bool {
        self.connack.is_some()
    }

    /// Waits for an answer to CONNECT until `deadline`, or no longer waits.
    pub(super) fn set_connack(&mut self, deadline: Option<Instant>) {
        self.connack = deadline;
    }

    /// A PINGREQ is to be sent. Its last byte is the last of the `ahead` bytes that wait to be written. The answer is
    /// due within `timeout` from then on. An earlier PINGREQ gets no more time by this one.
    pub(super) fn pinged(&mut self, ahead: usize, timeout: Duration, now: Instant) {
        if self.ping.is_some() {
            // This PINGREQ may not be written at once. The next one is due an interval later all the same.
            self.last_transmit = Some(now);
        } else if self.keep_alive > 0 {
            self.is_late = false;
            self.ping = Some(Ping {
                ahead,
                sent: None,
                since: now,
                arrived: 0,
                timeout,
            });
        }
    }

    /// PINGRESP has come, or is no longer awaited. Returns how long it took.
    pub(super) fn pingresp(&mut self, now: Instant) -> Option<Duration> {
        let sent = self.ping.take()?.sent?;
        Some(now.saturating_duration_since(sent))
    }

    /// The next deadline, and what is due then.
    pub(super) fn next(&self) -> Option<(Instant, Due)> {
        // After a written PINGREQ the next one comes due [MQTT-3.1.2-20]. A PINGREQ that still waits to be written
        // delays the next.
        let waits = self.ping.as_ref().is_some_and(|ping| ping.sent.is_none());
        let pingreq = match self.last_transmit {
            Some(at) if self.keep_alive > 0 && !waits => Some(at + self.interval()),
            _ => None,
        };
        [
            self.connack.map(|at| (at, Due::Connack)),
            self.ping
                .as_ref()
                .map(|ping| (ping.since + ping.timeout, Due::Pingresp)),
            pingreq.map(|at| (at, Due::Pingreq)),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(at, _)| *at)
    }

    /// The keep alive interval.
    pub(super) fn interval(&self) -> Duration {
        Duration::from_secs(self.keep_alive.into())
    }
}
