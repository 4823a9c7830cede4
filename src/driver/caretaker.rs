//! The thread that drives the runtime while Lua is elsewhere.
//!
//! The caretaker sleeps while Lua drives or no task is alive. When Lua leaves, the caretaker is woken, waits for a
//! grace period, and takes the wheel if Lua has not come back. So a loop that comes and goes costs at most one wake-up
//! a millisecond, and an idle loop none. When Lua comes back, it calls the caretaker off.

use std::cell::Cell;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle, park, park_timeout};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::helm::BETWEEN_STEPS;
use super::hub::Hub;
use super::wheel::Hands;

/// How long Lua must have been away before the caretaker takes the wheel.
const GRACE: Duration = Duration::from_millis(1);
/// How long the caretaker leaves a burst of requests alone after it has served the first. Requests that gather
/// meanwhile are written together, and Lua need not wake it for each.
const GATHERING: Duration = Duration::from_millis(1);

/// The means of the caretaker's thread.
struct Tools<'a> {
    runtime: &'a Runtime,
    hub: &'a Hub,
    /// When the thread was last woken.
    woken: Cell<Instant>,
    /// Lua's visit count as last seen, and since when it has had that value.
    seen: Cell<(usize, Instant)>,
}

impl Hands for Tools<'_> {
    fn has_tasks(&self) -> bool {
        self.hub.has_tasks()
    }

    fn rest(&self, watch: impl FnOnce()) {
        park();
        if self.woken.get().elapsed() < GRACE {
            watch();
            self.pause();
        }
        self.woken.set(Instant::now());
    }

    fn pause(&self) {
        park_timeout(GRACE);
    }

    fn follow(&self, visits: usize) -> bool {
        let now = Instant::now();
        let (last, mut since) = self.seen.get();
        if last != visits {
            since = now;
            self.seen.set((visits, now));
        }
        let left = BETWEEN_STEPS.saturating_sub(now - since);
        if left.is_zero() {
            return false;
        }
        park_timeout(left);
        true
    }

    fn has_dirty(&self) -> bool {
        self.hub.has_dirty()
    }

    fn turn(&self) {
        let _wheel = self.hub.helm.hold();
        self.runtime.block_on(self.hub.turn());
    }

    fn drive(&self, served: impl Future<Output = ()>) {
        let _wheel = self.hub.helm.hold();
        self.runtime.block_on(served);
    }

    fn wake_dirty(&self) -> bool {
        self.hub.wake_dirty()
    }

    async fn called(&self) {
        self.hub.helm.called().await;
    }

    async fn gather(&self) {
        // An error says that the time is over.
        let _ = timeout(GATHERING, self.called()).await;
    }
}

/// Starts the caretaker's thread.
pub(super) fn start(
    runtime: Arc<Runtime>,
    hub: Arc<Hub>,
    prepare_thread: fn(),
) -> std::io::Result<JoinHandle<()>> {
    let of_thread = Arc::clone(&hub);
    let handle = Builder::new()
        .name("mqtt-caretaker".into())
        .spawn(move || {
            prepare_thread();
            let tools = Tools {
                runtime: &runtime,
                hub: &of_thread,
                woken: Cell::new(Instant::now()),
                seen: Cell::new((0, Instant::now())),
            };
            of_thread.helm.run(&tools);
        })?;
    // The first task, which may need the thread, is spawned after this.
    hub.helm.set_thread(handle.thread().clone());
    Ok(handle)
}
