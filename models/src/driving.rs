//! Checks that some thread drives, and that all requested work is done. Three parties take part: Lua's thread, the
//! caretaker's, and one connection's task, which runs in whichever of the two drives.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use loom::sync::{Arc, Mutex};
use loom::thread;

use crate::dirty::Dirty;
use crate::sync::{AtomicBool, AtomicUsize, SeqCst};
use crate::wheel::{Hands, Hearing, Wheel};
use crate::{Call, every_way};

/// The parts of `Helm`, `Hub`, a link and its transport that concern each other, without their work.
#[derive(Default)]
struct Driver {
    wheel: Wheel,
    /// The mutex that the driving thread holds.
    driving: Mutex<()>,
    /// A thread drives.
    is_driven: AtomicBool,
    tasks: AtomicUsize,
    /// The caretaker waits for Lua's next step until woken.
    is_patient: bool,
    /// Lua's visit count when the caretaker began to wait for its next step.
    seen: AtomicUsize,
    dirty: Dirty,
    /// The number of listed dirty transports.
    listed: Mutex<usize>,
    /// The work that Lua has asked for, and the work that the task has done.
    work: Mutex<(usize, usize)>,
    call: Call,
    /// Wakes the sleeping caretaker.
    token: Call,
    /// The task has done work.
    done: Call,
    /// The caretaker has begun to drive, for longer than a turn.
    driven: Call,
}

impl Driver {
    fn drive(&self, work: impl FnOnce()) {
        let _wheel = self.driving.lock().unwrap();
        assert!(!self.is_driven.swap(true, SeqCst), "two drivers");
        work();
        self.is_driven.store(false, SeqCst);
    }

    /// Runs the task for a turn.
    fn run_task(&self) {
        self.dirty.begin_look();
        let mut work = self.work.lock().unwrap();
        if work.1 < work.0 {
            work.1 = work.0;
            self.done.notify();
        }
    }

    /// Does for Lua the same as `Driver::take_wheel`.
    fn lua_drives(&self) {
        self.lua_visits(false);
    }

    /// The same for a step.
    fn lua_steps(&self) {
        self.lua_visits(true);
    }

    fn lua_visits(&self, steps: bool) {
        if self.wheel.enter(steps) {
            self.call.notify();
        }
        self.drive(|| {
            self.wake_dirty();
        });
        if self.wheel.leave(self.has_tasks()) {
            self.token.notify();
        }
    }

    /// Does the same as `Driver::spawn`.
    fn spawn(&self) {
        self.tasks.fetch_add(1, SeqCst);
        if self.wheel.is_parked() {
            self.token.notify();
        }
    }

    /// Makes a request: changes the task's work, and tells the thread that drives next.
    fn request(&self) {
        self.work.lock().unwrap().0 += 1;
        if self.dirty.mark() {
            *self.listed.lock().unwrap() += 1;
            match self.wheel.hear_of_dirty() {
                Hearing::Called => self.call.notify(),
                Hearing::Woken => self.token.notify(),
                Hearing::Not => {}
            }
        }
    }

    /// Lua is elsewhere until the task has done all work.
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

    fn follow(&self, visits: usize) -> bool {
        if self.is_patient {
            self.token.wait();
            return true;
        }
        // Once for each visit, as if it had come just before.
        let is_new = self.seen.swap(visits, SeqCst) != visits;
        if is_new {
            self.token.wait_shortly();
        }
        is_new
    }

    fn has_dirty(&self) -> bool {
        *self.listed.lock().unwrap() > 0
    }

    fn turn(&self) {
        self.drive(|| {
            self.wake_dirty();
        });
    }

    fn drive(&self, served: impl Future<Output = ()>) {
        self.drive(|| {
            self.driven.notify();
            // No future in here is ever pending: waiting blocks the thread.
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

/// Runs Lua's thread beside the caretaker, which has to come to its end afterwards.
fn beside_caretaker(lua: impl Fn(&Driver) + Send + Sync + 'static) {
    beside(false, lua);
}

/// The same, with a caretaker that waits for Lua's next step until woken.
fn beside_patient_caretaker(lua: impl Fn(&Driver) + Send + Sync + 'static) {
    beside(true, lua);
}

fn beside(is_patient: bool, lua: impl Fn(&Driver) + Send + Sync + 'static) {
    every_way(move || {
        let driver = Arc::new(Driver {
            is_patient,
            ..Driver::default()
        });
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

#[test]
fn what_is_asked_for_after_a_step_is_done_though_no_step_follows() {
    beside_patient_caretaker(|driver| {
        driver.spawn();
        driver.lua_steps();
        driver.request();
        driver.wait_until_done();
    });
}

#[test]
fn what_is_asked_for_between_steps_is_done() {
    beside_patient_caretaker(|driver| {
        driver.spawn();
        driver.lua_steps();
        driver.request();
        driver.lua_steps();
        driver.request();
        driver.wait_until_done();
    });
}

#[test]
fn a_program_that_steps_no_more_has_a_driver() {
    beside_caretaker(|driver| {
        driver.spawn();
        driver.lua_steps();
        driver.request();
        driver.wait_until_done();
    });
}

#[test]
fn a_program_that_steps_and_then_waits_has_a_driver() {
    beside_caretaker(|driver| {
        driver.spawn();
        driver.lua_steps();
        driver.request();
        driver.lua_drives();
        driver.request();
        driver.wait_until_done();
    });
}

#[test]
fn a_caretaker_that_waits_for_the_next_step_hears_that_there_is_none() {
    beside_patient_caretaker(|driver| {
        driver.spawn();
        driver.lua_steps();
        driver.wheel.end_steps();
        driver.token.notify();
        driver.driven.wait();
    });
}
