//! The tokio runtime of one Lua state: one task a connection, the thread that drives the runtime, and the ways to wake
//! a waiter. No Lua here, and no protocol, which is in `session/`.
//!
//! The runtime is a current-thread one. The holder of the *wheel* (a mutex) drives it: the Lua thread while it waits in
//! [`Driver::wait`] or takes a turn in [`Link::step`], and the caretaker thread when Lua has been elsewhere for a
//! millisecond. So keep alive, acknowledgements and buffered output never depend on the script coming back.

mod alarms;
mod bell;
mod caretaker;
mod connection;
mod connector;
mod descriptor;
mod dirty;
mod exchange;
mod flow;
mod held;
mod helm;
mod hub;
mod large;
mod link;
mod readiness;
mod request;
mod signal;
#[cfg(feature = "store")]
pub mod store;
mod sync;
#[cfg(test)]
mod tests;
mod transport;
mod turns;
mod wheel;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

pub use crate::forks::forked;
use crate::forks::{GENERATIONS, PerProcess};
pub use bell::Address as BellAddress;
pub use exchange::Ended;
use hub::{Hub, TaskCount};
pub use link::{Link, LinkEvent};
pub use request::{Accepted, Lent, Refused, Request};
pub use signal::Descriptor as WaitedOn;

/// The longest time that one call of [`Driver::wait_until`] takes.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// How long an orderly close may go without progress: first until the rest is written, then until the peer ends its
/// stream.
const CLOSING_TIME: Duration = Duration::from_secs(2);
/// How long an orderly close may take in any case.
const LONGEST_CLOSING: Duration = Duration::from_secs(30);
/// How much longer the end of the process or of a Lua state waits, so that the driving thread can act on these times.
const GRACE: Duration = Duration::from_secs(1);

/// The most threads that resolve names at once.
const RESOLVER_THREADS: usize = 4;

/// The hubs of this process, which its end visits.
static HUBS: PerProcess<Vec<Weak<Hub>>> =
    PerProcess([const { Mutex::new(Vec::new()) }; GENERATIONS]);

/// Call this when the process exits. Has all links [leave](Link::leave), and waits until they have.
///
/// When a socket goes with its process while received data is unread, bytes that the peer has not read yet are lost.
pub fn exiting() {
    let begin = Instant::now();
    // A lock that is held for longer than this is held by a thread that waits for the end of the process as well.
    let Some(hubs) = lock_until(HUBS.mutex(), begin + GRACE) else {
        return;
    };
    let hubs: Vec<Arc<Hub>> = hubs.iter().filter_map(Weak::upgrade).collect();
    let own: Vec<_> = hubs.iter().filter(|hub| !hub.is_stale()).collect();
    for hub in &own {
        hub.leave_all(begin + GRACE);
    }
    // The caretakers do the work and keep the time. Without a caretaker there is no progress.
    let (mut progress, mut since) = (0, begin);
    while own.iter().any(|hub| hub.has_partings()) {
        let (now, sum) = (Instant::now(), own.iter().map(|hub| hub.progress()).sum());
        if progress != sum {
            (progress, since) = (sum, now);
        }
        if now > since + CLOSING_TIME + GRACE || now > begin + LONGEST_CLOSING + GRACE {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Call this when an event of the console is to interrupt the program, before the program's handler sees the event. Has the
/// waiting threads look soon whether the handler has interrupted them, several times within a second. Other systems have
/// signals, which end a wait themselves.
#[cfg(windows)]
pub fn interrupted() {
    let tell = || {
        for pause in (0..10).map(|exponent| Duration::from_millis(1 << exponent)) {
            std::thread::sleep(pause);
            let hubs: Vec<_> = HUBS.lock().iter().filter_map(Weak::upgrade).collect();
            hubs.iter().for_each(|hub| hub.news.notify_one());
        }
    };
    // Without a thread, the wait ends when there is something to do.
    let _ = std::thread::Builder::new()
        .name("mqtt-console".into())
        .spawn(tell);
}

/// The time by the clock of the runtime's timers. Tests stop it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Locks a mutex whose data stays consistent even if a holder panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks a mutex that may be locked for long. `None` if it is still locked at `deadline`.
fn lock_until<T>(mutex: &Mutex<T>, deadline: Instant) -> Option<MutexGuard<'_, T>> {
    loop {
        match mutex.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(error)) => return Some(error.into_inner()),
            Err(TryLockError::WouldBlock) if Instant::now() > deadline => return None,
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// The runtime of one Lua state. On drop, every link [leaves](Link::leave), and the drop waits for that.
pub struct Driver {
    /// Shared with the caretaker only.
    runtime: Option<Arc<Runtime>>,
    hub: Arc<Hub>,
    caretaker: Option<JoinHandle<()>>,
}

impl Driver {
    /// Starts a runtime and its caretaker thread. Each thread of the driver calls `prepare_thread` first.
    ///
    /// # Errors
    /// The operating system's error when it has no more threads or file descriptors.
    pub fn new(prepare_thread: fn()) -> std::io::Result<Driver> {
        let hub = Arc::new(Hub::new());
        {
            let mut hubs = HUBS.lock();
            hubs.retain(|hub| hub.strong_count() > 0);
            hubs.push(Arc::downgrade(&hub));
        }
        let of_runtime = Arc::clone(&hub);
        let mut runtime = Builder::new_current_thread();
        runtime
            .max_blocking_threads(RESOLVER_THREADS)
            .thread_name("mqtt-resolver")
            .on_thread_start(prepare_thread)
            // A signal too ends a waiting system call. The driving thread then looks at the work of the signal's
            // handler.
            .on_thread_unpark(move || of_runtime.news.notify_one());
        let mut driver = Self::without_caretaker(hub, &mut runtime)?;
        driver.start_caretaker(prepare_thread)?;
        Ok(driver)
    }

    fn without_caretaker(hub: Arc<Hub>, runtime: &mut Builder) -> std::io::Result<Driver> {
        let runtime = runtime.enable_io().enable_time().build()?;
        let of_clock = Arc::clone(&hub);
        runtime.spawn(async move { of_clock.ring().await });
        Ok(Driver {
            runtime: Some(Arc::new(runtime)),
            hub,
            caretaker: None,
        })
    }

    fn start_caretaker(&mut self, prepare_thread: fn()) -> std::io::Result<()> {
        if let Some(runtime) = &self.runtime {
            let (runtime, hub) = (Arc::clone(runtime), Arc::clone(&self.hub));
            self.caretaker = Some(caretaker::start(runtime, hub, prepare_thread)?);
        }
        Ok(())
    }

    /// Whether the driver was made before a fork, and this process is the child. A stale driver must not be used.
    pub fn is_stale(&self) -> bool {
        self.hub.is_stale()
    }

    /// The token of the next link that has an event for Lua. A link is named once until Lua has taken all its events.
    pub fn next_ready(&self) -> Option<u32> {
        self.hub.next_ready()
    }

    /// Offers an address to an event loop that is to be woken when a link becomes ready, see [`Driver::arm_bell`].
    ///
    /// # Errors
    /// The operating system's error when it has no socket.
    pub fn hang_bell(&self) -> std::io::Result<BellAddress> {
        self.hub.bell.hang()
    }

    /// Takes the loop's connection, on which the loop has sent the secret. Returns whether there is one.
    pub fn take_bell(&self) -> bool {
        self.hub.bell.take()
    }

    /// The loop has seen that no link is ready. Returns true if the loop may wait for a byte, which comes when a link
    /// becomes ready. Returns false if a link is ready now.
    pub fn arm_bell(&self) -> bool {
        self.hub.bell.arm();
        !(self.hub.has_ready() && self.hub.bell.disarm())
    }

    /// Has waiting bytes written now, rather than together with later ones.
    pub fn hurry(&self) {
        if self.hub.has_dirty() {
            self.hub.helm.call_if_driving();
        }
    }

    /// Drives the runtime until a link has an event for Lua, `timeout` has passed (`None` waits forever), or a signal
    /// has `interrupted` the program. `interrupted` is asked each time the thread has slept. At least one turn of input
    /// and output is done.
    pub fn wait(&self, timeout: Option<Duration>, interrupted: impl Fn() -> bool) {
        if timeout.is_some_and(|timeout| timeout.is_zero()) || self.hub.has_ready() {
            return self.turn(false);
        }
        self.drive(async {
            let ready = async {
                while !(self.hub.has_ready() || interrupted()) {
                    self.hub.news.notified().await;
                }
            };
            match timeout {
                // An error says that the time is over. The caller asks for ready links in any case.
                Some(timeout) => drop(tokio::time::timeout(timeout, ready).await),
                None => ready.await,
            }
        });
    }

    /// Drives the runtime until `done` or `deadline`. `done` is asked again whenever a link has news. Returns whether
    /// it was done. Returns false after one second at the latest.
    pub fn wait_until(&self, deadline: Instant, mut done: impl FnMut() -> bool) -> bool {
        if done() {
            return true;
        }
        let rest = deadline.saturating_duration_since(now());
        self.drive(async {
            let news = async {
                while !done() {
                    self.hub.news.notified().await;
                }
            };
            tokio::time::timeout(rest.min(LONGEST_WAIT), news)
                .await
                .is_ok()
        })
    }

    /// One turn of the runtime without blocking, see [`Hub::turn`]. While the caretaker drives, a turn would repeat its
    /// work, unless Lua is to `relieve` it or this program steps in a loop. Right after another turn, with nothing to
    /// write, a turn would repeat that turn's work.
    fn turn(&self, relieve: bool) {
        let hub = &*self.hub;
        let is_due = || hub.helm.is_turn_due(now(), hub.has_dirty());
        if relieve || is_due() {
            self.take_wheel(true, hub.turn());
        }
    }

    /// Drives the runtime until `future` is done.
    fn drive<T>(&self, future: impl Future<Output = T>) -> T {
        self.take_wheel(false, async {
            self.hub.wake_dirty();
            future.await
        })
    }

    /// Drives the runtime until `future` is done. For a step, `future` does not wait.
    fn take_wheel<T>(&self, steps: bool, future: impl Future<Output = T>) -> T {
        let hub = &*self.hub;
        hub.helm.lua_enters(steps);
        let wheel = hub.helm.hold();
        let result = self.runtime().block_on(future);
        drop(wheel);
        hub.helm.lua_leaves(hub.has_tasks());
        result
    }

    /// Adds a task. It counts as alive until it drops its [`TaskCount`].
    fn spawn<F>(&self, task: impl FnOnce(TaskCount) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.runtime().spawn(task(self.hub.count_task()));
        self.hub.helm.wake_if_parked();
    }

    fn runtime(&self) -> &Runtime {
        self.runtime
            .as_deref()
            .expect("the runtime lives as long as the driver")
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let (runtime, caretaker) = (self.runtime.take(), self.caretaker.take());
        if self.is_stale() {
            // The threads stayed behind in the parent, which still shares the epoll descriptor: touching either would
            // disturb the parent.
            std::mem::forget((runtime, caretaker));
            return;
        }
        self.runtime = runtime;
        let deadline = now() + LONGEST_CLOSING + GRACE;
        self.hub.leave_all(deadline);
        while now() < deadline && !self.wait_until(deadline, || !self.hub.has_partings()) {}
        self.hub.helm.stop();
        if let Some(thread) = caretaker {
            // Joining fails only if the caretaker panicked. The panic has been reported.
            let _ = thread.join();
        }
        if let Some(runtime) = self.runtime.take().and_then(Arc::into_inner) {
            // Threads that still resolve names are left to finish by themselves.
            runtime.shutdown_background();
        }
    }
}
