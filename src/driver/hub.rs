//! The state that the Lua thread, the caretaker and the connection tasks of one driver share.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use tokio::sync::Notify;
use tokio::task::yield_now;

use super::alarms::Alarms;
use super::bell::Bell;
use super::helm::Helm;
use super::transport::Transport;
use super::turns::Turns;
use super::{lock, lock_until};
use crate::forks::forks;

/// The hub's view of a link.
pub(super) trait Member: Send + Sync {
    /// The alarm rings, unless it has been moved to a time after `now`.
    fn ring(&self, now: Instant);
    /// Closes the connection for a program that will not come back. Does nothing if the link is still locked at
    /// `deadline`.
    fn leave_until(&self, deadline: Instant);
}

pub(super) struct Hub {
    pub(super) helm: Helm,
    pub(super) alarms: Alarms,
    pub(super) turns: Turns,
    /// Wakes an event loop that waits only for connections of its own.
    pub(super) bell: Bell,
    /// Wakes the Lua thread: a link became ready, a closing connection has written all bytes, or the thread has slept.
    pub(super) news: Notify,
    /// Links that have an event for Lua and that nobody has asked for yet.
    ready: Mutex<Ready>,
    /// Transports whose task has new work and does not know of it yet.
    dirty: Mutex<Vec<Arc<Transport>>>,
    /// All links by token.
    links: Mutex<BTreeMap<u32, Weak<dyn Member>>>,
    /// The number of tasks alive.
    tasks: Arc<AtomicUsize>,
    /// The number of connections being closed in order.
    partings: Arc<AtomicUsize>,
    /// Counts the progress of connections being closed.
    progress: AtomicUsize,
    /// Tells the tasks that a closing connection has written all bytes, or is over.
    pub(super) partings_news: Notify,
    next_token: AtomicU32,
    /// The process's number of forks when the hub was made. In a child process, a thread that stayed behind may hold
    /// any lock of the hub, of a link or of a transport. So a child may lock nothing here.
    forks: AtomicUsize,
}

impl Hub {
    pub(super) fn new() -> Hub {
        Hub {
            helm: Helm::default(),
            alarms: Alarms::default(),
            turns: Turns::default(),
            bell: Bell::default(),
            news: Notify::new(),
            ready: Mutex::default(),
            dirty: Mutex::default(),
            links: Mutex::default(),
            tasks: Arc::default(),
            partings: Arc::default(),
            progress: AtomicUsize::new(0),
            partings_news: Notify::new(),
            next_token: AtomicU32::new(1),
            forks: AtomicUsize::new(forks()),
        }
    }

    pub(super) fn is_stale(&self) -> bool {
        self.forks.load(Ordering::Relaxed) != forks()
    }

    pub(super) fn new_token(&self) -> u32 {
        self.next_token.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn add_member(&self, token: u32, link: Weak<dyn Member>) {
        lock(&self.links).insert(token, link);
    }

    /// Has all links leave for good. A link still locked at `deadline` is left alone.
    pub(super) fn leave_all(&self, deadline: Instant) {
        let links: Vec<_> = match lock_until(&self.links, deadline) {
            Some(links) => links.values().filter_map(Weak::upgrade).collect(),
            None => return,
        };
        for link in links {
            link.leave_until(deadline);
        }
        // The driving thread may be waiting for another event.
        self.wake_dirty();
        self.helm.lua_stays_away();
    }

    pub(super) fn has_ready(&self) -> bool {
        !lock(&self.ready).queue.is_empty()
    }

    pub(super) fn next_ready(&self) -> Option<u32> {
        let mut ready = lock(&self.ready);
        let token = ready.queue.pop_front()?;
        ready.listed.remove(&token);
        Some(token)
    }

    pub(super) fn add_ready(&self, token: u32) {
        let mut ready = lock(&self.ready);
        if ready.listed.insert(token) {
            ready.queue.push_back(token);
        }
        drop(ready);
        self.news.notify_one();
        self.bell.ring();
    }

    /// Wakes tasks and links at their time, forever.
    pub(super) async fn ring(&self) {
        let ring_link = |token, now| {
            let link = lock(&self.links).get(&token).and_then(Weak::upgrade);
            if let Some(link) = link {
                link.ring(now);
            }
        };
        self.alarms.ring(ring_link).await;
    }

    /// The link is gone, and its alarm with it.
    pub(super) fn forget(&self, token: u32, alarm: Option<Instant>) {
        if self.is_stale() {
            return;
        }
        self.alarms.move_link(token, alarm, None);
        lock(&self.links).remove(&token);
        let mut ready = lock(&self.ready);
        if ready.listed.remove(&token) {
            ready.queue.retain(|other| *other != token);
        }
    }

    /// Tells a transport's task that it has new work. The task is woken soon if the caretaker drives, otherwise when
    /// the runtime is driven next. So a burst of requests costs few wake-ups.
    pub(super) fn mark_dirty(&self, transport: &Arc<Transport>) {
        if transport.mark_dirty() {
            lock(&self.dirty).push(Arc::clone(transport));
            self.helm.call_for_dirty();
        }
    }

    /// Wakes the tasks of dirty transports. Call it inside the runtime, where waking is cheap. Returns whether there
    /// was a task to wake.
    pub(super) fn wake_dirty(&self) -> bool {
        let dirty = std::mem::take(&mut *lock(&self.dirty));
        for transport in &dirty {
            transport.wake();
        }
        !dirty.is_empty()
    }

    pub(super) fn has_dirty(&self) -> bool {
        !lock(&self.dirty).is_empty()
    }

    /// One turn of the runtime without blocking: waiting bytes are written, arrived bytes are read, due timers fire.
    pub(super) async fn turn(&self) {
        self.wake_dirty();
        // The first yield polls the I/O driver. The second polls the tasks that the first has woken.
        yield_now().await;
        yield_now().await;
    }

    pub(super) fn has_tasks(&self) -> bool {
        self.tasks.load(Ordering::SeqCst) > 0
    }

    /// Counts a task as alive until the returned value is dropped.
    pub(super) fn count_task(&self) -> TaskCount {
        self.tasks.fetch_add(1, Ordering::SeqCst);
        TaskCount(Arc::clone(&self.tasks))
    }

    /// Whether connections are being closed in order.
    pub(super) fn has_partings(&self) -> bool {
        self.partings.load(Ordering::SeqCst) > 0
    }

    /// Counts a connection as being closed in order until the returned value is dropped.
    pub(super) fn count_parting(&self) -> Parting {
        self.partings.fetch_add(1, Ordering::SeqCst);
        Parting(Arc::clone(&self.partings))
    }

    /// A connection that is being closed has made progress.
    pub(super) fn note_progress(&self) {
        self.progress.fetch_add(1, Ordering::SeqCst);
    }

    /// The number of calls of `note_progress`.
    pub(super) fn progress(&self) -> usize {
        self.progress.load(Ordering::SeqCst)
    }

    /// A closing connection has written all bytes, or is over.
    pub(super) fn tell_of_parting(&self) {
        self.news.notify_one();
        self.partings_news.notify_waiters();
    }
}

/// A connection being closed in order, see [`Hub::count_parting`].
pub(super) struct Parting(Arc<AtomicUsize>);

impl Drop for Parting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Tokens, each at most once: a program that steps its clients by itself never asks for them.
#[derive(Default)]
struct Ready {
    /// The tokens in order of arrival.
    queue: VecDeque<u32>,
    /// The same tokens as a set.
    listed: HashSet<u32>,
}

/// One task alive, see [`Hub::count_task`].
pub(super) struct TaskCount(Arc<AtomicUsize>);

impl Drop for TaskCount {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::codec::Version;
    use crate::driver::{Driver, Link};
    use crate::session::{Session, Settings};

    #[test]
    fn in_the_child_of_a_fork_links_and_drivers_go_without_a_lock() {
        let driver = Driver::new(|| {}).unwrap();
        let link = Link::new(&driver, Session::new(Version::V311, Settings::default()));
        let hub = Arc::clone(&driver.hub);
        // As if a thread of the parent held every lock.
        let _held = (
            lock(&hub.links),
            lock(&hub.ready),
            lock(&hub.dirty),
            hub.helm.hold(),
        );
        hub.forks.store(usize::MAX, Ordering::Relaxed);
        assert!(driver.is_stale() && link.is_stale());
        let (done, is_done) = channel();
        thread::spawn(move || {
            drop((link, driver));
            done.send(()).unwrap();
        });
        is_done.recv_timeout(Duration::from_secs(20)).unwrap();
    }
}
