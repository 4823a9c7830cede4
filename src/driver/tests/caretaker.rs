//! The driver with its caretaker, which drives while Lua's thread, the test's, is elsewhere.

use std::thread;
use std::time::Instant;

use tokio::sync::oneshot;

use super::*;

/// Waits, without driving, until `is_so`.
fn while_away(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "it never is");
        thread::yield_now();
    }
}

/// A driver as programs have it.
fn driver() -> Driver {
    Driver::new(|| {}).unwrap()
}

/// The same by the clock of the test.
fn clocked_driver() -> Driver {
    let mut driver = super::driver();
    driver.start_caretaker(|| {}).unwrap();
    driver
}

/// A server that accepts the client and receives one packet. The server is returned too: its end would be an event, and
/// without a connection no thread need drive.
async fn one_packet(mut server: Server) -> (Option<Packet>, Server) {
    server.accept().await;
    (server.receive().await, server)
}

#[test]
fn what_is_published_is_written_and_read_while_lua_is_away() {
    let driver = driver();
    let (link, server) = connected(&driver, 0, async |mut server| {
        server.accept().await;
        let received = server.receive().await;
        server.send(&message("answer")).await;
        (received, server)
    });
    publish(&link, b"question");
    while_away(|| server.is_finished() && link.has_events());
    let (received, _server) = result(&driver, server);
    assert!(matches!(received, Some(Packet::Publish(_))));
}

#[test]
fn keep_alive_goes_on_while_lua_is_away() {
    const PINGS: usize = 100;
    let driver = clocked_driver();
    let (pinged, has_pinged) = oneshot::channel();
    let (link, _server) = connected(&driver, 60, async |mut server| {
        server.accept().await;
        let mut pinged = Some(pinged);
        for count in 1.. {
            assert_eq!(server.receive().await, Some(Packet::Pingreq));
            server.send(&Packet::Pingresp).await;
            if count == PINGS {
                let _ = pinged.take().unwrap().send(());
            }
        }
    });
    let is_over = std::cell::RefCell::new(has_pinged);
    while_away(|| is_over.borrow_mut().try_recv().is_ok());
    assert!(!link.has_events(), "PINGRESP is not the user's business");
}

#[test]
fn a_timer_wakes_the_link_while_lua_is_away() {
    let driver = clocked_driver();
    let _clock = driver.clock();
    let link = link(&driver);
    // This link's alarm is not the first pending one.
    let other = super::link(&driver);
    other.wake_after(Duration::from_secs(100));
    link.wake_after(Duration::from_secs(200));
    while_away(|| link.has_events() && other.has_events());
}

#[test]
fn a_program_that_steps_takes_the_wheel_from_the_caretaker() {
    let driver = driver();
    let (link, server) = connected(&driver, 0, one_packet);
    let step_until = |is_driving: bool| {
        while_away(|| {
            // Lua is away, or steps.
            assert!(is_driving || link.step(&driver).is_none());
            driver.hub.helm.is_caretaker_driving() == is_driving
        });
    };
    // Lua is away, comes back, and is away again.
    step_until(true);
    step_until(false);
    publish(&link, b"asked for between steps");
    while_away(|| server.is_finished());
    let (received, _server) = result(&driver, server);
    assert!(matches!(received, Some(Packet::Publish(_))));
    step_until(true);
}

#[test]
fn what_is_published_is_written_within_the_next_step() {
    let driver = driver();
    let (link, server) = connected(&driver, 0, one_packet);
    while_away(|| {
        assert!(link.step(&driver).is_none());
        let wheel = driver.hub.helm.hold();
        // A caretaker that is about to drive would write too.
        let steps = !driver.hub.helm.is_caretaker_driving();
        if steps {
            publish(&link, b"hello");
            drop(wheel);
            assert!(link.step(&driver).is_none());
        }
        steps
    });
    assert_eq!(link.outgoing_bytes(), 0);
    assert!(result(&driver, server).0.is_some());
}
