//! The times at which connections and links need attention though nothing arrives. One timer of the runtime serves them
//! all. A timer each would take memory in each of them, and a distant timer wakes the process on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout_at;

use super::transport::Transport;
use super::{lock, now};

/// The longest sleep of the thread that drives the runtime. A signal wakes it at once, except a signal that comes just
/// before the thread falls asleep, or to another thread.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Alarms {
    pending: Mutex<Pending>,
    /// The first alarm has become earlier.
    earlier: Notify,
}

/// Alarms that have not rung, in order of time.
#[derive(Default)]
struct Pending {
    /// The transport's address keeps alarms of one time apart.
    tasks: BTreeMap<(Instant, usize), Arc<Transport>>,
    /// By the link's token.
    links: BTreeSet<(Instant, u32)>,
}

impl Alarms {
    /// Moves the alarm of a transport's task. An alarm that has rung is gone.
    fn move_task(&self, transport: &Arc<Transport>, old: Option<Instant>, new: Option<Instant>) {
        let key = |at| (at, Arc::as_ptr(transport).addr());
        self.change(new, |pending| {
            if let Some(old) = old {
                pending.tasks.remove(&key(old));
            }
            if let Some(new) = new {
                pending.tasks.insert(key(new), Arc::clone(transport));
            }
        });
    }

    /// Moves the alarm of a link. An alarm that has rung is gone.
    pub(super) fn move_link(&self, token: u32, old: Option<Instant>, new: Option<Instant>) {
        self.change(new, |pending| {
            if let Some(old) = old {
                pending.links.remove(&(old, token));
            }
            if let Some(new) = new {
                pending.links.insert((new, token));
            }
        });
    }

    /// Makes a change, after which an alarm is to ring at the `new` time.
    fn change(&self, new: Option<Instant>, change: impl FnOnce(&mut Pending)) {
        let mut pending = lock(&self.pending);
        change(&mut pending);
        if new.is_some() && pending.next() == new {
            self.earlier.notify_one();
        }
    }

    /// Wakes the tasks of transports at their time, and calls `ring_link` with the tokens of links, forever. Wakes the
    /// thread now and then.
    pub(super) async fn ring(&self, ring_link: impl Fn(u32, Instant)) {
        loop {
            let earlier = self.earlier.notified();
            let now = now();
            for token in self.ring_due(now) {
                ring_link(token, now);
            }
            let latest = now + LONGEST_SLEEP;
            let next = lock(&self.pending).next();
            let next = next.map_or(latest, |next| next.min(latest));
            // An error says that it is time.
            let _ = timeout_at(next.into(), earlier).await;
        }
    }

    /// Wakes the tasks whose time has come, and returns the links.
    fn ring_due(&self, now: Instant) -> Vec<u32> {
        let mut pending = lock(&self.pending);
        while let Some(first) = pending.tasks.first_entry()
            && first.key().0 <= now
        {
            first.remove().wake();
        }
        let mut links = Vec::new();
        while let Some(&(at, token)) = pending.links.first()
            && at <= now
        {
            pending.links.pop_first();
            links.push(token);
        }
        links
    }

    /// How many alarms have not rung.
    #[cfg(test)]
    pub(super) fn pending(&self) -> usize {
        let pending = lock(&self.pending);
        pending.tasks.len() + pending.links.len()
    }
}

impl Pending {
    fn next(&self) -> Option<Instant> {
        let task = self.tasks.first_key_value().map(|((at, _), _)| *at);
        let link = self.links.first().map(|(at, _)| *at);
        task.into_iter().chain(link).min()
    }
}

/// The alarm of one connection.
pub(super) struct Alarm<'a> {
    alarms: &'a Alarms,
    transport: &'a Arc<Transport>,
    at: Option<Instant>,
}

impl<'a> Alarm<'a> {
    /// An alarm that is not set.
    pub(super) fn new(alarms: &'a Alarms, transport: &'a Arc<Transport>) -> Self {
        Alarm {
            alarms,
            transport,
            at: None,
        }
    }

    /// Has the task woken at `deadline` or earlier. Keep alive moves its deadline with each packet: an alarm that comes
    /// too early is cheaper than an alarm that is always moved.
    pub(super) fn set(&mut self, deadline: Option<Instant>, now: Instant) {
        let Some(deadline) = deadline else { return };
        if self.at.is_none_or(|at| at <= now || deadline < at) {
            self.alarms
                .move_task(self.transport, self.at, Some(deadline));
            self.at = Some(deadline);
        }
    }
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        self.alarms.move_task(self.transport, self.at, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_rings_once_when_it_is_due_and_not_where_it_was_moved_from() {
        let alarms = Alarms::default();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        for (token, seconds) in [(1, 3), (2, 1), (3, 2), (4, 1)] {
            alarms.move_link(token, None, Some(at(seconds)));
        }
        alarms.move_link(3, Some(at(2)), Some(at(4)));
        alarms.move_link(4, Some(at(1)), None);
        assert_eq!(alarms.ring_due(at(0)), []);
        assert_eq!(alarms.ring_due(at(2)), [2]);
        assert_eq!(lock(&alarms.pending).next(), Some(at(3)));
        assert_eq!(alarms.ring_due(at(4)), [1, 3]);
        assert_eq!(alarms.pending(), 0);
    }
}
