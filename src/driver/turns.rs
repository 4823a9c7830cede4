//! Which connections are opened now. A server keeps few that it has not accepted yet (128 is usual), and TCP tries one
//! that finds no room again after a second: thousands at once take much longer than one after the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many are opened at a time.
const AT_ONCE: usize = 100;
/// For how long one keeps others waiting: a server that does not answer is to hold up nobody.
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
            until: Instant::now() + LONGEST,
            _permit: permit.expect("the semaphore is never closed"),
        }
    }
}

/// The turn of one connection, until it is dropped: when the server has answered.
pub(super) struct Turn {
    until: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Turn {
    /// Ends a turn that has taken too long. Returns when it will have.
    pub(super) fn limit(turn: &mut Option<Turn>, now: Instant) -> Option<Instant> {
        *turn = turn.take().filter(|turn| turn.until > now);
        turn.as_ref().map(|turn| turn.until)
    }
}
