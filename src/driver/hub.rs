//! What the Lua thread, the caretaker and the connection tasks of one driver share.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::alarms::Alarms;
use super::caretaker::Caretaker;
use super::transport::Transport;
use super::turns::Turns;
use super::{CLOSING, forks, lock};

pub(super) struct Hub {
    /// Held by whoever drives the runtime.
    pub(super) wheel: Mutex<()>,
    pub(super) caretaker: Caretaker,
    pub(super) alarms: Alarms,
    pub(super) turns: Turns,
    /// Wakes the Lua thread: a link became ready, a closing connection has written everything, or the thread has slept.
    pub(super) news: Notify,
    /// Links that have something for Lua, as far as nobody has asked for them.
    ready: Mutex<Ready>,
    /// Transports whose task has something to do and does not know it yet.
    dirty: Mutex<Vec<Arc<Transport>>>,
    /// Tasks alive.
    tasks: Arc<AtomicUsize>,
    /// Connections being closed in order.
    closing: AtomicUsize,
    next_token: AtomicU32,
    /// How often the process had been forked when this was made.
    forks: usize,
}

impl Hub {
    pub(super) fn new() -> Hub {
        Hub {
            wheel: Mutex::default(),
            caretaker: Caretaker::default(),
            alarms: Alarms::default(),
            turns: Turns::default(),
            news: Notify::new(),
            ready: Mutex::default(),
            dirty: Mutex::default(),
            tasks: Arc::default(),
            closing: AtomicUsize::new(0),
            next_token: AtomicU32::new(1),
            forks: forks(),
        }
    }

    pub(super) fn is_stale(&self) -> bool {
        self.forks != forks()
    }

    pub(super) fn new_token(&self) -> u32 {
        self.next_token.fetch_add(1, Ordering::Relaxed)
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
    }

    /// The link is gone.
    pub(super) fn forget_ready(&self, token: u32) {
        let mut ready = lock(&self.ready);
        if ready.listed.remove(&token) {
            ready.queue.retain(|other| *other != token);
        }
    }

    /// Lets a transport's task know that it has something to do: soon if the caretaker drives, else when the runtime is
    /// driven next, so that a burst of requests costs few wake-ups.
    pub(super) fn mark_dirty(&self, transport: &Arc<Transport>) {
        if transport.mark_dirty() {
            lock(&self.dirty).push(Arc::clone(transport));
            self.caretaker.call_for_dirty();
        }
    }

    /// To be called inside the runtime, where waking a task is cheap. Returns whether there was one to wake.
    pub(super) fn wake_dirty(&self) -> bool {
        let dirty = std::mem::take(&mut *lock(&self.dirty));
        for transport in &dirty {
            transport.wake();
        }
        !dirty.is_empty()
    }

    pub(super) fn has_tasks(&self) -> bool {
        self.tasks.load(Ordering::SeqCst) > 0
    }

    /// Counts a task as alive until the returned value is dropped.
    pub(super) fn count_task(&self) -> TaskCount {
        self.tasks.fetch_add(1, Ordering::SeqCst);
        TaskCount(Arc::clone(&self.tasks))
    }

    pub(super) fn has_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst) > 0
    }

    pub(super) fn closing_begins(&self) {
        self.closing.fetch_add(1, Ordering::SeqCst);
        CLOSING.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn closing_ends(&self) {
        self.closing.fetch_sub(1, Ordering::SeqCst);
        CLOSING.fetch_sub(1, Ordering::SeqCst);
        self.news.notify_one();
    }
}

/// Tokens, each at most once: a program that steps its clients by itself never asks for them.
#[derive(Default)]
struct Ready {
    /// In order of arrival.
    queue: VecDeque<u32>,
    /// The same as a set.
    listed: HashSet<u32>,
}

/// One task alive, see [`Hub::count_task`].
pub(super) struct TaskCount(Arc<AtomicUsize>);

impl Drop for TaskCount {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
