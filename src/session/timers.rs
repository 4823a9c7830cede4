//! The deadlines of a connection: when a PINGREQ is due, and how long its answer and that to CONNECT may take.
//! Nothing here reads a clock or sends.

use std::time::{Duration, Instant};

/// What a deadline asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// The server has not answered CONNECT.
    Connack,
    /// The server has not answered PINGREQ.
    Pingresp,
    /// Nothing was sent for the keep alive interval.
    Pingreq,
}

/// The deadlines of one connection. Without a transport there are none.
#[derive(Default)]
pub(super) struct Timers {
    /// Keep alive in seconds (3.1.2.10); 0 while it does not run.
    keep_alive: u16,
    /// When something was written last; before that, when the transport came up.
    last_transmit: Option<Instant>,
    /// When the PINGREQ was sent that has not been answered, and until when it may be.
    pingresp: Option<(Instant, Instant)>,
    /// Until when the server may answer CONNECT.
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
            self.pingresp = None;
        }
    }

    /// Keep alive counts from the last packet sent, whatever it was [MQTT-3.1.2-23].
    pub(super) fn transmitted(&mut self, now: Instant) {
        self.last_transmit = Some(now);
    }

    /// Whether an answer to CONNECT is being waited for.
    pub(super) fn awaits_connack(&self) -> bool {
        self.connack.is_some()
    }

    /// Waits for an answer to CONNECT until then, or no more.
    pub(super) fn set_connack(&mut self, deadline: Option<Instant>) {
        self.connack = deadline;
    }

    /// PINGREQ was sent, to be answered within `timeout`. An earlier one does not get more time by that.
    pub(super) fn pinged(&mut self, timeout: Duration, now: Instant) {
        if self.keep_alive > 0 && self.pingresp.is_none() {
            self.pingresp = Some((now, now + timeout));
        }
    }

    /// PINGRESP came, or is no longer waited for. Returns how long it took.
    pub(super) fn pingresp(&mut self, now: Instant) -> Option<Duration> {
        let (sent, _) = self.pingresp.take()?;
        Some(now.saturating_duration_since(sent))
    }

    /// The next deadline, and what it asks for.
    pub(super) fn next(&self) -> Option<(Instant, Due)> {
        let pingreq = match self.pingresp {
            None if self.keep_alive > 0 => self.last_transmit.map(|at| at + self.interval()),
            _ => None,
        };
        [
            self.connack.map(|at| (at, Due::Connack)),
            self.pingresp.map(|(_, at)| (at, Due::Pingresp)),
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
