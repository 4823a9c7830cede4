//! Limits how many connections are opened at once. A server keeps few connections that it has not accepted yet (128 is
//! usual). When a connection finds no room, TCP tries again only after a second. So thousands at once take much longer
//! than a few at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::now;

/// The most connections opened at a time.
const AT_ONCE: usize = 100;
/// The longest time that one connection keeps others waiting: a server that does not answer holds up nobody.
const LONGEST: Duration = Duration::from_millis(50);

pub(super) struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        Turns(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Turns {
    /// Waits for a turn.
    pub(super) async fn next(&self) -> Turn {
        let permit = Arc::clone(&self.0).acquire_owned().await;
        Turn {
            until: now() + LONGEST,
            _permit: permit.expect("the semaphore is never closed"),
        }
    }
}

/// The turn of one connection. It is dropped when the server has answered.
pub(super) struct Turn {
    until: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Turn {
    /// Ends a turn that has taken too long. Returns the end of a turn that goes on.
    pub(super) fn limit(turn: &mut Option<Turn>, now: Instant) -> Option<Instant> {
        *turn = turn.take().filter(|turn| turn.until > now);
        turn.as_ref().map(|turn| turn.until)
    }
}
