//! When connections want to be looked after though nothing arrives. One timer of the runtime serves them all: one each
//! would take memory in each of them, and a distant one wakes the process on its way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout_at;

use super::lock;
use super::transport::Transport;

/// How long the thread that drives the runtime sleeps at most. A signal wakes it at once, unless it comes just before
/// the thread falls asleep, or to another thread, as all do where they are no part of the system.
const LONGEST_SLEEP: Duration = Duration::from_secs(if cfg!(unix) { 10 } else { 1 });

#[derive(Default)]
pub(super) struct Alarms {
    /// In order of time; the transport's address keeps those of one time apart.
    pending: Mutex<BTreeMap<(Instant, usize), Arc<Transport>>>,
    /// The first of them has become earlier.
    earlier: Notify,
}

impl Alarms {
    /// Moves a transport's alarm. One that has rung is gone.
    fn move_to(&self, transport: &Arc<Transport>, old: Option<Instant>, new: Option<Instant>) {
        let key = |at| (at, Arc::as_ptr(transport).addr());
        let mut pending = lock(&self.pending);
        if let Some(old) = old {
            pending.remove(&key(old));
        }
        if let Some(new) = new {
            pending.insert(key(new), Arc::clone(transport));
            let first = pending.first_key_value();
            if first.is_some_and(|(first, _)| *first == key(new)) {
                self.earlier.notify_one();
            }
        }
    }

    /// Wakes the tasks of transports when it is time, for ever, and the thread now and then.
    pub(super) async fn ring(&self) {
        loop {
            let earlier = self.earlier.notified();
            let now = Instant::now();
            let latest = now + LONGEST_SLEEP;
            let next = self.ring_due(now).map_or(latest, |next| next.min(latest));
            // An error says that it is time.
            let _ = timeout_at(next.into(), earlier).await;
        }
    }

    /// Wakes whose time has come, and returns the next time.
    fn ring_due(&self, now: Instant) -> Option<Instant> {
        let mut pending = lock(&self.pending);
        while let Some(first) = pending.first_entry() {
            let (at, _) = *first.key();
            if at > now {
                return Some(at);
            }
            first.remove().wake();
        }
        None
    }
}

/// The alarm of one connection.
pub(super) struct Alarm<'a> {
    alarms: &'a Alarms,
    transport: &'a Arc<Transport>,
    at: Option<Instant>,
}

impl<'a> Alarm<'a> {
    /// One that is not set.
    pub(super) fn new(alarms: &'a Alarms, transport: &'a Arc<Transport>) -> Self {
        Alarm {
            alarms,
            transport,
            at: None,
        }
    }

    /// Sees to it that the task is woken at `deadline`, or earlier: keep alive moves its deadline with each packet, and
    /// an alarm that comes too early is cheaper than one that is always moved.
    pub(super) fn set(&mut self, deadline: Option<Instant>, now: Instant) {
        let Some(deadline) = deadline else { return };
        if self.at.is_none_or(|at| at <= now || deadline < at) {
            self.alarms.move_to(self.transport, self.at, Some(deadline));
            self.at = Some(deadline);
        }
    }
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        self.alarms.move_to(self.transport, self.at, None);
    }
}
