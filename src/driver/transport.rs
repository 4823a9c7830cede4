//! The mailbox between a link and the task of one of its connections.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::Waker;

use bytes::BytesMut;

use super::dirty::Dirty;
use super::hub::Parting;
use super::lock;
use crate::session::{Gated, Session};

/// The last bytes of a connection.
#[derive(Default)]
pub(super) struct Rest {
    pub(super) bytes: BytesMut,
    /// More bytes, which have to wait for the store.
    pub(super) gated: Option<Box<Gated>>,
}

impl Rest {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.gated.is_none()
    }
}

/// The way in which a connection is to end.
pub(super) enum Ending {
    /// At once. The peer sees the end of the stream without a DISCONNECT.
    Drop,
    /// After these last bytes have been written, and the peer has had time to read them.
    Flush(Rest, Parting),
    /// The same, after the packets that this session holds. The link has no further use for the session.
    Leave(Box<Session>, Parting),
}

/// The link's last word to the task.
#[derive(Default)]
struct LastWord {
    ending: Option<Ending>,
    /// The task has ended and reads nothing any more.
    gone: bool,
}

#[derive(Default)]
pub(super) struct Transport {
    /// The task has new work, and is on the hub's list or about to look.
    dirty: Dirty,
    /// All bytes of a connection that is being closed have been handed to the kernel.
    flushed: AtomicBool,
    waker: Mutex<Option<Waker>>,
    last_word: Mutex<LastWord>,
}

impl Transport {
    /// Marks the transport dirty. Returns whether it was clean.
    pub(super) fn mark_dirty(&self) -> bool {
        self.dirty.mark()
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = &*lock(&self.waker) {
            waker.wake_by_ref();
        }
    }

    /// The task is about to look at all its work. It wants to be woken through `waker` when there is more.
    pub(super) fn begin_look(&self, waker: &Waker) {
        let mut slot = lock(&self.waker);
        match &mut *slot {
            Some(known) => known.clone_from(waker),
            None => *slot = Some(waker.clone()),
        }
        drop(slot);
        self.dirty.begin_look();
    }

    /// Tells the task how to end. Returns false if the task has ended already.
    pub(super) fn end(&self, ending: Ending) -> bool {
        let mut last_word = lock(&self.last_word);
        if !last_word.gone {
            last_word.ending = Some(ending);
        }
        !last_word.gone
    }

    pub(super) fn is_gone(&self) -> bool {
        lock(&self.last_word).gone
    }

    pub(super) fn take_ending(&self) -> Option<Ending> {
        lock(&self.last_word).ending.take()
    }

    /// The task ends.
    pub(super) fn leave(&self) {
        self.set_flushed();
        // The waker would keep the task's memory.
        *lock(&self.waker) = None;
        let mut last_word = lock(&self.last_word);
        last_word.gone = true;
        last_word.ending = None;
    }

    pub(super) fn set_flushed(&self) {
        self.flushed.store(true, SeqCst);
    }

    /// Whether all bytes have been handed to the kernel, or the task has ended.
    pub(super) fn is_flushed(&self) -> bool {
        self.flushed.load(SeqCst)
    }
}
