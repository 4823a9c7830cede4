//! Who drives, and whether what is to be done is done: Lua's thread, the caretaker's, and one connection's task, which runs
//! in whichever of them drives.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use loom::sync::{Arc, Mutex};
use loom::thread;

use crate::dirty::Dirty;
use crate::sync::{AtomicBool, AtomicUsize, SeqCst};
use crate::wheel::{Hands, Wheel};
use crate::{Call, every_way};

/// What `Helm`, `Hub`, a link and its transport are to each other, without what they do.
#[derive(Default)]
struct Driver {
    wheel: Wheel,
    /// The mutex that whoever drives holds.
    driving: Mutex<()>,
    /// Somebody drives.
    is_driven: AtomicBool,
    tasks: AtomicUsize,
    dirty: Dirty,
    /// How many dirty transports are listed.
    listed: Mutex<usize>,
    /// What Lua has asked for, and the task has done.
    work: Mutex<(usize, usize)>,
    call: Call,
    /// Wakes the sleeping caretaker.
    token: Call,
    /// The task has done something.
    done: Call,
}

impl Driver {
    fn drive(&self, work: impl FnOnce()) {
        let _wheel = self.driving.lock().unwrap();
        assert!(!self.is_driven.swap(true, SeqCst), "two drivers");
        work();
        self.is_driven.store(false, SeqCst);
    }

    /// The task's turn.
    fn run_task(&self) {
        self.dirty.begin_look();
        let mut work = self.work.lock().unwrap();
        if work.1 < work.0 {
            work.1 = work.0;
            self.done.notify();
        }
    }

    /// What `Driver::drive` does for Lua.
    fn lua_drives(&self) {
        if self.wheel.enter() {
            self.call.notify();
        }
        self.drive(|| {
            self.wake_dirty();
        });
        if self.wheel.leave(self.has_tasks()) {
            self.token.notify();
        }
    }

    /// What `Driver::spawn` does.
    fn spawn(&self) {
        self.tasks.fetch_add(1, SeqCst);
        if self.wheel.is_parked() {
            self.token.notify();
        }
    }

    /// What a request does: it changes what the task looks at, and tells whoever drives next.
    fn request(&self) {
        self.work.lock().unwrap().0 += 1;
        if self.dirty.mark() {
            *self.listed.lock().unwrap() += 1;
            if self.wheel.is_to_hear_of_dirty() {
                self.call.notify();
            }
        }
    }

    /// Lua is elsewhere until the task has done everything.
    fn wait_until_done(&self) {
        loop {
            let (asked, done) = *self.work.lock().unwrap();
            if asked == done {
                return;
            }
            self.done.wait();
        }
    }

    fn stop(&self) {
        self.wheel.stop();
        self.call.notify();
        self.token.notify();
    }
}

impl Hands for Driver {
    fn has_tasks(&self) -> bool {
        self.tasks.load(SeqCst) > 0
    }

    fn rest(&self, watch: impl FnOnce()) {
        self.token.wait();
        watch();
        self.pause();
    }

    fn pause(&self) {
        self.token.wait_shortly();
    }

    fn drive(&self, served: impl Future<Output = ()>) {
        self.drive(|| {
            // Nothing in here is ever pending: to wait blocks the thread.
            let done = pin!(served).poll(&mut Context::from_waker(Waker::noop()));
            assert_eq!(done, Poll::Ready(()));
        });
    }

    fn wake_dirty(&self) -> bool {
        let listed = std::mem::take(&mut *self.listed.lock().unwrap());
        if listed > 0 {
            self.run_task();
        }
        listed > 0
    }

    async fn called(&self) {
        self.call.wait();
    }

    async fn gather(&self) {
        self.call.wait_shortly();
    }
}

/// Runs what Lua's thread does beside the caretaker, which has to come to its end then.
fn beside_caretaker(lua: impl Fn(&Driver) + Send + Sync + 'static) {
    every_way(move || {
        let driver = Arc::new(Driver::default());
        let of_thread = Arc::clone(&driver);
        let caretaker = thread::spawn(move || of_thread.wheel.run(&*of_thread));
        lua(&driver);
        driver.stop();
        caretaker.join().unwrap();
    });
}

#[test]
fn what_is_asked_for_while_lua_is_away_is_done() {
    beside_caretaker(|driver| {
        driver.spawn();
        driver.request();
        driver.wait_until_done();
    });
}

#[test]
fn what_is_asked_for_while_others_gather_is_done() {
    beside_caretaker(|driver| {
        driver.spawn();
        for _ in 0..3 {
            driver.request();
        }
        driver.wait_until_done();
    });
}

#[test]
fn what_is_asked_for_after_lua_has_driven_is_done() {
    beside_caretaker(|driver| {
        driver.spawn();
        driver.lua_drives();
        driver.request();
        driver.wait_until_done();
    });
}

#[test]
fn lua_gets_the_wheel_whenever_it_wants_it() {
    beside_caretaker(|driver| {
        driver.spawn();
        for _ in 0..2 {
            driver.request();
            driver.lua_drives();
        }
        driver.wait_until_done();
    });
}

#[test]
fn a_task_that_begins_after_another_has_ended_is_driven() {
    beside_caretaker(|driver| {
        driver.spawn();
        driver.tasks.fetch_sub(1, SeqCst);
        driver.request();
        driver.spawn();
        driver.wait_until_done();
    });
}

#[test]
fn a_task_that_begins_while_the_caretaker_falls_asleep_is_driven() {
    beside_caretaker(|driver| {
        driver.lua_drives();
        driver.request();
        driver.spawn();
        driver.wait_until_done();
    });
}
