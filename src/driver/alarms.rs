//! When connections want to be looked after though nothing arrives. One timer of the runtime serves them all: one each
//! would take memory in each of them, and a distant one wakes the process on its way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::Notify;
use tokio::time::timeout_at;

use super::lock;
use super::transport::Transport;

#[derive(Default)]
pub(super) struct Alarms {
    /// In order of time; the transport's address keeps those of one time apart.
    pending: Mutex<BTreeMap<(Instant, usize), Arc<Transport>>>,
    /// The first of them has become earlier.
    earlier: Notify,
}

impl Alarms {
    /// Gives a transport, whose alarm was at `old`, one at `new`. One that has rung is gone.
    pub(super) fn set(
        &self,
        transport: &Arc<Transport>,
        old: Option<Instant>,
        new: Option<Instant>,
    ) {
        let key = |at| (at, Arc::as_ptr(transport).addr());
        let mut pending = lock(&self.pending);
        if let Some(old) = old {
            pending.remove(&key(old));
        }
        if let Some(new) = new {
            pending.insert(key(new), Arc::clone(transport));
            if pending.first_key_value().is_some_and(|(first, _)| *first == key(new)) {
                self.earlier.notify_one();
            }
        }
    }

    /// Wakes the tasks of transports when it is time, for ever.
    pub(super) async fn ring(&self) {
        loop {
            let news = self.earlier.notified();
            match self.ring_due(Instant::now()) {
                // An error says that it is time.
                Some(next) => drop(timeout_at(next.into(), news).await),
                None => news.await,
            }
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
