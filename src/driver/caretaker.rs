//! The thread that drives the runtime while Lua is elsewhere.
//!
//! It sleeps as long as Lua drives or no task is alive. When Lua leaves, it is woken, waits for a grace period, and
//! takes the wheel if Lua has not been back since; so a loop that comes and goes costs one wake-up a millisecond at
//! most, and an idle one none. Lua calls it off as it comes back.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::SeqCst};
use std::thread::{Builder, JoinHandle, Thread, park, park_timeout};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::hub::Hub;
use super::lock;

/// How long Lua must have been away before the caretaker takes the wheel.
const GRACE: Duration = Duration::from_millis(1);
/// How long the caretaker leaves a burst of requests alone after it has seen to the first of them: what gathers
/// meanwhile is written together, and Lua need not wake it for each.
const GATHERING: Duration = Duration::from_millis(1);

/// What the caretaker is doing.
const PARKED: u8 = 0;
const WATCHING: u8 = 1;
const DRIVING: u8 = 2;

#[derive(Default)]
pub(super) struct Caretaker {
    /// Counts Lua's coming and going: odd while it drives.
    visits: AtomicUsize,
    mode: AtomicU8,
    stopping: AtomicBool,
    /// Makes a driving caretaker look up: Lua wants the wheel, or a transport became dirty.
    call: Notify,
    /// It will look at the dirty transports without being called.
    gathering: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Caretaker {
    pub(super) fn is_driving(&self) -> bool {
        self.mode.load(SeqCst) == DRIVING
    }

    /// Lua is about to take the wheel.
    pub(super) fn lua_enters(&self) {
        self.visits.fetch_add(1, SeqCst);
        self.call_if_driving();
    }

    /// Lua has let go of the wheel, with or without tasks that need a driver.
    pub(super) fn lua_leaves(&self, tasks: bool) {
        self.visits.fetch_add(1, SeqCst);
        if tasks {
            self.wake_if_parked();
        }
    }

    /// Makes a sleeping caretaker look whether it is needed.
    pub(super) fn wake_if_parked(&self) {
        if self.mode.load(SeqCst) == PARKED {
            self.unpark();
        }
    }

    /// A transport became dirty: makes a driving caretaker look at it.
    pub(super) fn call_for_dirty(&self) {
        if !self.gathering.load(SeqCst) {
            self.call_if_driving();
        }
    }

    /// Makes a driving caretaker leave if it is not needed any more.
    pub(super) fn call_if_driving(&self) {
        if self.is_driving() {
            self.call.notify_one();
        }
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, SeqCst);
        self.call.notify_one();
        self.unpark();
    }

    fn unpark(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// The visit count, if Lua is away, a task is alive and nobody asked the caretaker to stop.
    fn needed(&self, hub: &Hub) -> Option<usize> {
        let visits = self.visits.load(SeqCst);
        (visits.is_multiple_of(2) && hub.has_tasks() && !self.stopping.load(SeqCst))
            .then_some(visits)
    }

    fn run(&self, runtime: &Runtime, hub: &Hub) {
        let mut woken = Instant::now();
        while !self.stopping.load(SeqCst) {
            self.mode.store(PARKED, SeqCst);
            // Asked only after PARKED is visible: whoever makes it needed from here on unparks this thread.
            let Some(visits) = self.needed(hub) else {
                park();
                if woken.elapsed() < GRACE {
                    // Lua comes and goes quickly: it is not to wake this thread each time.
                    self.mode.store(WATCHING, SeqCst);
                    park_timeout(GRACE);
                }
                woken = Instant::now();
                continue;
            };
            self.mode.store(WATCHING, SeqCst);
            park_timeout(GRACE);
            if self.needed(hub) != Some(visits) {
                continue;
            }
            self.mode.store(DRIVING, SeqCst);
            if self.needed(hub) == Some(visits) {
                let _wheel = lock(&hub.wheel);
                runtime.block_on(async {
                    while self.needed(hub) == Some(visits) {
                        if hub.wake_dirty() {
                            self.gathering.store(true, SeqCst);
                            // An error says that the time is over.
                            let _ = timeout(GATHERING, self.call.notified()).await;
                            self.gathering.store(false, SeqCst);
                        } else {
                            self.call.notified().await;
                        }
                    }
                });
            }
        }
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
            of_thread.caretaker.run(&runtime, &of_thread);
        })?;
    // Nobody needs it before the first task is spawned, which is after this.
    let _ = hub.caretaker.thread.set(handle.thread().clone());
    Ok(handle)
}
