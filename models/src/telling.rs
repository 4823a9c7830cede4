//! Checks that Lua hears of every event. A connection's task brings events. Lua's thread waits for them by the list of
//! ready links or by the descriptor.

use loom::sync::{Arc, Mutex, MutexGuard};
use loom::thread;

use crate::readiness::{News, Readiness};
use crate::{Call, every_way};

/// The parts of `Link` and `Hub` that concern each other, without their work.
struct Link {
    state: Mutex<State>,
    /// The list of ready links.
    listed: Mutex<usize>,
    /// Wakes a thread that waits: `news` for the list, `readable` for the descriptor.
    news: Call,
    readable: Call,
}

struct State {
    readiness: Readiness,
    events: usize,
    /// The descriptor is readable.
    signal: bool,
}

impl Link {
    fn new() -> Link {
        let mut readiness = Readiness::new();
        readiness.wait_on();
        let state = State {
            readiness,
            events: 0,
            signal: false,
        };
        Link {
            state: Mutex::new(state),
            listed: Mutex::new(0),
            news: Call::default(),
            readable: Call::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Makes the descriptor readable.
    fn raise(&self, state: &mut State) {
        assert!(!state.signal, "two bytes in the signal");
        state.signal = true;
        self.readable.notify();
    }

    /// The task has an event for Lua.
    fn bring(&self) {
        let mut state = self.lock();
        state.events += 1;
        let News { list, raise } = state.readiness.news();
        if list {
            *self.listed.lock().unwrap() += 1;
            self.news.notify();
        }
        if raise {
            self.raise(&mut state);
        }
    }

    /// Does the same as `Link::next_event`.
    fn next_event(&self) -> bool {
        let mut state = self.lock();
        state.readiness.ask();
        if state.events == 0 {
            if state.readiness.emptied() {
                assert!(state.signal, "cleared, and was not raised");
                state.signal = false;
            }
            return false;
        }
        state.events -= 1;
        if state.events > 0 && state.readiness.raise() {
            self.raise(&mut state);
        }
        true
    }

    /// Does the same as `Link::step`, without the turn of the runtime: the task has a thread of its own here.
    fn step(&self) -> bool {
        self.next_event() || {
            assert!(
                self.lock().readiness.step(),
                "somebody waits on the descriptor"
            );
            thread::yield_now();
            self.next_event()
        }
    }

    fn next_ready(&self) -> bool {
        let mut listed = self.listed.lock().unwrap();
        let any = *listed > 0;
        *listed -= usize::from(any);
        any
    }
}

/// Runs Lua's thread, which takes `events` events, beside a task that brings them.
fn beside_task(events: usize, lua: impl Fn(&Link, usize) + Send + Sync + 'static) {
    every_way(move || {
        let link = Arc::new(Link::new());
        let of_task = Arc::clone(&link);
        let task = thread::spawn(move || {
            for _ in 0..events {
                of_task.bring();
            }
        });
        lua(&link, events);
        task.join().unwrap();
        // No event is left, and nobody is told of one.
        assert!(!link.next_event() && !link.lock().signal);
        // If the caretaker does not write, Lua is called to write, once.
        let readiness = &mut link.lock().readiness;
        assert!(
            !readiness.transmit(true) && readiness.transmit(false) && !readiness.transmit(false)
        );
    });
}

#[test]
fn a_loop_that_waits_for_the_list_hears_of_every_event() {
    beside_task(3, |link, mut missing| {
        while missing > 0 {
            while link.next_ready() {
                while link.next_event() {
                    missing -= 1;
                }
            }
            if missing > 0 {
                link.news.wait();
            }
        }
    });
}

#[test]
fn a_loop_that_waits_for_the_descriptor_hears_of_every_event() {
    beside_task(3, |link, mut missing| {
        while missing > 0 {
            while link.step() {
                missing -= 1;
            }
            if missing > 0 && !link.lock().signal {
                link.readable.wait();
            }
        }
    });
}

#[test]
fn a_client_that_is_stepped_once_at_a_time_is_readable_while_there_is_more() {
    beside_task(3, |link, mut missing| {
        while missing > 0 {
            // A loop that takes one event and then waits is told of the next.
            missing -= usize::from(link.step());
            if missing > 0 && !link.lock().signal {
                link.readable.wait();
            }
        }
    });
}
