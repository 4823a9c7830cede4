//! Keep alive and the other deadlines: hours pass here in no time.

use std::time::Duration;

use mqtt_core::codec::*;
use mqtt_core::session::{Settings, State};

use crate::pair::*;

fn with_keep_alive(version: Version, seconds: u16) -> Pair {
    let connect = Connect {
        keep_alive: seconds,
        ..connect(version)
    };
    Pair::accepted(connect, Properties::new())
}

#[test]
fn an_idle_connection_is_pinged_for_hours() {
    for version in BOTH {
        let mut pair = with_keep_alive(version, 60);
        pair.server.answers = true;
        pair.advance_seconds(10 * 3600);
        assert_eq!(pair.client.state(), State::Connected);
        assert_eq!(pair.answers(), vec![Packet::Pingreq; 600]);
    }
}

#[test]
fn a_ping_is_due_when_nothing_was_sent_for_the_interval() {
    for version in BOTH {
        let mut pair = with_keep_alive(version, 60);
        pair.server.answers = true;
        let start = pair.now;
        assert_eq!(
            pair.client.poll_timeout(),
            Some(start + Duration::from_secs(60))
        );
        // Early calls do nothing.
        pair.client.handle_timeout(start + Duration::from_secs(59));
        assert!(pair.client.transmit().is_empty());

        pair.advance_seconds(59);
        pair.publish(QoS::AtMostOnce);
        pair.drive();
        pair.server.received();
        pair.advance_seconds(59);
        assert_eq!(pair.answers(), []);
        pair.advance_seconds(1);
        assert_eq!(pair.answers(), [Packet::Pingreq]);
    }
}

#[test]
fn what_is_received_does_not_put_off_a_ping() {
    let mut pair = with_keep_alive(Version::V311, 60);
    for _ in 0..6 {
        pair.advance_seconds(10);
        pair.server.send(publish(QoS::AtMostOnce, 0));
        pair.drive();
    }
    assert_eq!(pair.server.received(), [Packet::Pingreq]);
}

#[test]
fn a_server_that_does_not_answer_is_given_up() {
    for version in BOTH {
        let mut pair = with_keep_alive(version, 5);
        pair.advance_seconds(5);
        assert_eq!(pair.answers(), [Packet::Pingreq]);
        pair.advance(Duration::from_millis(4999));
        assert_eq!(pair.client.state(), State::Connected);
        pair.advance(Duration::from_millis(1));
        assert_eq!(
            pair.failure(None),
            "failed to receive PINGRESP within 5 seconds: timeout"
        );
    }
}

#[test]
fn a_server_that_takes_nothing_is_given_up() {
    let mut pair = with_keep_alive(Version::V311, 5);
    for _ in 0..2 {
        let deadline = pair.client.poll_timeout().unwrap();
        pair.client.handle_timeout(deadline);
    }
    assert_eq!(pair.client.state(), State::Disconnected);
}

#[test]
fn a_late_answer_in_time_is_enough() {
    let mut pair = with_keep_alive(Version::V311, 5);
    pair.advance_seconds(9);
    assert_eq!(pair.deliver(Packet::Pingresp), []);
    pair.advance_seconds(1);
    assert_eq!(pair.client.state(), State::Connected);
    // One ping at 5 s, the next at 10 s.
    assert_eq!(pair.answers(), [Packet::Pingreq, Packet::Pingreq]);
}

#[test]
fn zero_switches_keep_alive_off() {
    for version in BOTH {
        let mut pair = with_keep_alive(version, 0);
        assert_eq!(pair.client.poll_timeout(), None);
        pair.client.ping(pair.now).unwrap();
        assert_eq!(pair.answers(), [Packet::Pingreq]);
        pair.advance_seconds(100 * 3600);
        assert_eq!(pair.client.state(), State::Connected);
        assert_eq!(pair.answers(), []);
    }
}

#[test]
fn the_server_may_set_another_interval() {
    for (server, expected) in [(7, Some(7)), (0, None)] {
        let pair = Pair::accepted(
            connect(Version::V50),
            properties([(PropertyId::ServerKeepAlive, PropertyValue::TwoByte(server))]),
        );
        assert_eq!(pair.client.keep_alive(), server);
        let deadline = pair.client.poll_timeout();
        let expected = expected.map(|seconds| pair.now + Duration::from_secs(seconds));
        assert_eq!(deadline, expected);
    }
}

#[test]
fn a_ping_of_the_program_counts() {
    let mut pair = with_keep_alive(Version::V311, 60);
    pair.advance_seconds(10);
    pair.client.ping(pair.now).unwrap();
    assert_eq!(pair.answers(), [Packet::Pingreq]);
    // Asking again gives the server no more time.
    pair.advance_seconds(50);
    pair.client.ping(pair.now).unwrap();
    assert_eq!(pair.answers(), [Packet::Pingreq]);
    pair.advance_seconds(10);
    assert_eq!(
        pair.failure(None),
        "failed to receive PINGRESP within 60 seconds: timeout"
    );
}

#[test]
fn an_unasked_pingresp_is_ignored() {
    let mut pair = with_keep_alive(Version::V311, 60);
    assert_eq!(pair.deliver(Packet::Pingresp), []);
    assert_eq!(pair.client.state(), State::Connected);
}

#[test]
fn an_answer_that_may_lie_unread_is_not_missed() {
    let limits = Settings {
        max_queued_bytes: 0,
        ..Settings::default()
    };
    let mut pair = Pair::with_settings(Version::V311, limits);
    pair.connect(Connect {
        keep_alive: 10,
        ..connect(Version::V311)
    });
    pair.deliver(connack(0));
    pair.server.send(publish(QoS::AtMostOnce, 0));
    pair.drive();
    assert!(!pair.client.wants_receive());

    // The program is busy for a minute: pings go out, and nobody is blamed.
    pair.advance_seconds(60);
    assert_eq!(pair.client.state(), State::Connected);
    assert_eq!(pair.server.received(), vec![Packet::Pingreq; 6]);

    // It has caught up. From the next ping on the server has to answer again.
    assert_eq!(pair.packets().len(), 1);
    pair.advance_seconds(10);
    assert_eq!(pair.answers(), [Packet::Pingreq]);
    pair.advance_seconds(10);
    assert_eq!(
        pair.failure(None),
        "failed to receive PINGRESP within 10 seconds: timeout"
    );
}

#[test]
fn reading_held_back_after_a_ping_counts_too() {
    let limits = Settings {
        max_queued_bytes: 0,
        ..Settings::default()
    };
    let mut pair = Pair::with_settings(Version::V311, limits);
    pair.connect(Connect {
        keep_alive: 10,
        ..connect(Version::V311)
    });
    pair.deliver(connack(0));
    pair.advance_seconds(11);
    pair.deliver(publish(QoS::AtMostOnce, 0));
    // The program has just caught up, and the driver not yet read on.
    pair.advance_seconds(9);
    assert_eq!(pair.answers(), [Packet::Pingreq, Packet::Pingreq]);
    pair.advance_seconds(10);
    assert_eq!(
        pair.failure(None),
        "failed to receive PINGRESP within 10 seconds: timeout"
    );
}

#[test]
fn keep_alive_runs_before_connack() {
    let limits = Settings {
        connack_timeout: None,
        ..Settings::default()
    };
    let mut pair = Pair::with_settings(Version::V311, limits);
    pair.connect(connect(Version::V311));
    pair.advance_seconds(60);
    assert_eq!(pair.answers(), [Packet::Pingreq]);
    pair.advance_seconds(60);
    assert_eq!(
        pair.failure(None),
        "failed to receive PINGRESP within 60 seconds: timeout"
    );
}

#[test]
fn connack_is_waited_for_from_connect_on() {
    for version in BOTH {
        let mut pair = Pair::open(version);
        assert_eq!(pair.client.poll_timeout(), None);
        pair.advance_seconds(100);
        pair.connect(connect(version));
        // What else is written gives the server no more time.
        pair.advance_seconds(29);
        pair.publish(QoS::AtMostOnce);
        pair.drive();
        pair.server.received();
        assert_eq!(pair.client.state(), State::Connecting);
        pair.advance_seconds(1);
        assert_eq!(
            pair.failure(None),
            "failed to receive CONNACK within 30 seconds: timeout"
        );
    }
}

#[test]
fn a_connection_that_ended_waits_for_nothing() {
    let mut pair = with_keep_alive(Version::V311, 5);
    pair.client.disconnect(0, Properties::new()).unwrap();
    assert_eq!(pair.client.poll_timeout(), None);
    let later = pair.now + Duration::from_secs(100);
    pair.client.handle_timeout(later);
    assert_eq!(pair.answers(), [disconnect_packet(0)]);
}

#[test]
fn a_deadline_says_whether_it_is_the_servers() {
    for version in BOTH {
        let mut pair = Pair::open(version);
        assert!(!pair.client.awaits_answer());
        let connect = Connect {
            keep_alive: 60,
            ..connect(version)
        };
        pair.connect(connect);
        assert!(pair.client.awaits_answer());

        let mut pair = with_keep_alive(version, 60);
        assert!(!pair.client.awaits_answer());
        pair.advance_seconds(60);
        assert_eq!(pair.answers(), [Packet::Pingreq]);
        assert!(pair.client.awaits_answer());
        pair.server.send(Packet::Pingresp);
        pair.drive();
        assert!(!pair.client.awaits_answer());
    }
}
