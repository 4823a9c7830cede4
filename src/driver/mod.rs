//! The tokio runtime of one Lua state: one task a connection, who drives the runtime, and how a waiter is woken.
//! No Lua here, and no protocol: that is `session/`.
//!
//! The runtime is a current-thread one. Whoever holds the *wheel* (a mutex) drives it: the Lua thread while it is
//! inside [`Driver::wait`] or [`Driver::turn`], and the caretaker thread when Lua has been elsewhere for a
//! millisecond. So keep alive, acknowledgements and buffered output never depend on the script coming back.

mod alarms;
#[cfg(unix)]
mod bell;
mod caretaker;
mod connection;
mod connector;
mod descriptor;
mod dirty;
mod exchange;
mod flow;
#[cfg(unix)]
mod held;
mod helm;
mod hub;
mod large;
mod link;
mod readiness;
mod request;
#[cfg(unix)]
mod signal;
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
#[cfg(unix)]
pub use bell::Address as BellAddress;
pub use exchange::Ended;
use hub::{Hub, TaskCount};
pub use link::{Link, LinkEvent};
pub use request::{Accepted, Lent, Refused, Request};

/// The longest single [`Driver::wait_until`].
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// How long a connection that is being closed in order may go without progress: until it has written the rest, and then
/// until it sees the peer's end of stream.
const CLOSING_TIME: Duration = Duration::from_secs(2);
/// How long it may take in any case.
const LONGEST_CLOSING: Duration = Duration::from_secs(30);
/// How long the end of the process or of a Lua state waits beyond that, which is for whoever drives.
const GRACE: Duration = Duration::from_secs(1);

/// How many threads may resolve names at once.
const RESOLVER_THREADS: usize = 4;

/// The hubs of this process, for its end.
static HUBS: PerProcess<Vec<Weak<Hub>>> =
    PerProcess([const { Mutex::new(Vec::new()) }; GENERATIONS]);

/// To be called when the process exits: has all links [leave](Link::leave), and waits until they have.
///
/// A socket that goes with its process while received data is unread takes along what the peer has not read yet.
pub fn exiting() {
    let begin = Instant::now();
    // Whoever holds a lock for longer than this waits for the end of the process as well.
    let Some(hubs) = lock_until(HUBS.mutex(), begin + GRACE) else {
        return;
    };
    let hubs: Vec<Arc<Hub>> = hubs.iter().filter_map(Weak::upgrade).collect();
    let own: Vec<_> = hubs.iter().filter(|hub| !hub.is_stale()).collect();
    for hub in &own {
        hub.leave_all(begin + GRACE);
    }
    // The caretakers do the work, and keep the time. But if there is none, nobody gets on.
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

/// Locks a mutex whose data stays consistent even if a holder panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks a mutex that may be locked for long, if that can be done until `deadline`.
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

/// The runtime of one Lua state. Dropping it has every link [leave](Link::leave), and waits for that.
pub struct Driver {
    /// Shared with the caretaker only.
    runtime: Option<Arc<Runtime>>,
    hub: Arc<Hub>,
    caretaker: Option<JoinHandle<()>>,
}

impl Driver {
    /// Starts a runtime and its caretaker thread. Each thread of the driver's calls `prepare_thread` first.
    ///
    /// # Errors
    /// What the operating system says when it has no more threads or file descriptors.
    pub fn new(prepare_thread: fn()) -> std::io::Result<Driver> {
        let hub = Arc::new(Hub::new());
        {
            let mut hubs = HUBS.lock();
            hubs.retain(|hub| hub.strong_count() > 0);
            hubs.push(Arc::downgrade(&hub));
        }
        let of_runtime = Arc::clone(&hub);
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(RESOLVER_THREADS)
            .thread_name("mqtt-resolver")
            .on_thread_start(prepare_thread)
            // A signal too ends a system call that waits: whoever drives is to look at what its handler has done.
            .on_thread_unpark(move || of_runtime.news.notify_one())
            .build()?;
        let runtime = Arc::new(runtime);
        let of_clock = Arc::clone(&hub);
        runtime.spawn(async move { of_clock.ring().await });
        let caretaker = caretaker::start(Arc::clone(&runtime), Arc::clone(&hub), prepare_thread)?;
        Ok(Driver {
            runtime: Some(runtime),
            hub,
            caretaker: Some(caretaker),
        })
    }

    /// Whether this was made before a fork of which this process is the child: then nothing here may be used.
    pub fn is_stale(&self) -> bool {
        self.hub.is_stale()
    }

    /// The token of the next link that has something for Lua. A link is named once until it has been emptied.
    pub fn next_ready(&self) -> Option<u32> {
        self.hub.next_ready()
    }

    /// Offers an address to the event loop that is to be woken when a link becomes ready, see [`Driver::arm_bell`].
    ///
    /// # Errors
    /// What the operating system says when it has no socket.
    #[cfg(unix)]
    pub fn hang_bell(&self) -> std::io::Result<BellAddress> {
        self.hub.bell.hang()
    }

    /// Takes the loop's connection, on which it has sent the secret. Returns whether there is one.
    #[cfg(unix)]
    pub fn take_bell(&self) -> bool {
        self.hub.bell.take()
    }

    /// The loop has seen that no link is ready. Returns whether it may wait for a byte: one will come when a link becomes
    /// ready. If not, one is ready now.
    #[cfg(unix)]
    pub fn arm_bell(&self) -> bool {
        self.hub.bell.arm();
        !(self.hub.has_ready() && self.hub.bell.disarm())
    }

    /// What waits to be written is written now, rather than with what may come next.
    #[cfg(unix)]
    pub fn hurry(&self) {
        if self.hub.has_dirty() {
            self.hub.helm.call_if_driving();
        }
    }

    /// Drives the runtime until a link has something for Lua, `timeout` has passed if there is one, or the program is
    /// `interrupted` by a signal: that is asked each time the thread has slept. One turn of input and output is done in
    /// any case.
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
                // An error says that the time is over, and what is ready is asked for anyway.
                Some(timeout) => drop(tokio::time::timeout(timeout, ready).await),
                None => ready.await,
            }
        });
    }

    /// Drives the runtime until `done` or `deadline`; `done` is asked again whenever a link has news. Returns whether
    /// it was done. Comes back after [`LONGEST_WAIT`] at the latest, as false.
    pub fn wait_until(&self, deadline: Instant, mut done: impl FnMut() -> bool) -> bool {
        if done() {
            return true;
        }
        let rest = deadline.saturating_duration_since(Instant::now());
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

    /// One turn of the runtime without blocking, see [`Hub::turn`]. While the caretaker drives, a turn would repeat its work,
    /// unless Lua is to `relieve` it, or turns are what this program does; and so would a turn right after another one, if
    /// nothing is to be written.
    fn turn(&self, relieve: bool) {
        let hub = &*self.hub;
        let is_due = || hub.helm.is_turn_due(Instant::now(), hub.has_dirty());
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

    /// Drives the runtime until `future` is done, which for a step does not wait.
    fn take_wheel<T>(&self, steps: bool, future: impl Future<Output = T>) -> T {
        let hub = &*self.hub;
        hub.helm.lua_enters(steps);
        let wheel = hub.helm.hold();
        let result = self.runtime().block_on(future);
        drop(wheel);
        hub.helm.lua_leaves(hub.has_tasks());
        result
    }

    /// Adds a task, which counts as alive until it drops what it is given.
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
            // The threads stayed behind in the parent, and the epoll descriptor is still shared with it: touching
            // either would disturb the parent.
            std::mem::forget((runtime, caretaker));
            return;
        }
        self.runtime = runtime;
        let deadline = Instant::now() + LONGEST_CLOSING + GRACE;
        self.hub.leave_all(deadline);
        while Instant::now() < deadline && !self.wait_until(deadline, || !self.hub.has_partings()) {
        }
        self.hub.helm.stop();
        if let Some(thread) = caretaker {
            // It only fails if the caretaker panicked, which has been reported then.
            let _ = thread.join();
        }
        if let Some(runtime) = self.runtime.take().and_then(Arc::into_inner) {
            // Names may still be being resolved: those threads are left to finish by themselves.
            runtime.shutdown_background();
        }
    }
}
