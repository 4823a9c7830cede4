//! Keep alive and the other deadlines. Hours pass here in no time.

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
        // An early call does nothing.
        pair.client.handle_timeout(start + Duration::from_secs(59));
        assert!(pair.client.fill().is_empty());

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

/// A client of either version with so many bytes to write that a PINGREQ comes last. No byte has been taken.
fn with_backlog(version: Version, seconds: u16, bytes: usize) -> Pair {
    let mut pair = with_keep_alive(version, seconds);
    pair.client
        .publish(&PublishRef {
            payload: &vec![b'x'; bytes],
            ..message(QoS::AtMostOnce)
        })
        .unwrap();
    pair.client.ping(pair.now).unwrap();
    pair
}

/// Time passes, and the session does its due work. The link moves no bytes.
fn wait(pair: &mut Pair, time: Duration) {
    pair.now += time;
    pair.client.handle_timeout(pair.now);
}

#[test]
fn the_answer_is_waited_for_from_the_write_on() {
    for version in BOTH {
        let mut pair = with_backlog(version, 5, 1000);
        // A slow link takes a few bytes every four seconds. All in all it takes longer than an answer may take.
        for _ in 0..100 {
            wait(&mut pair, Duration::from_secs(4));
            assert!(pair.carry_to_server(10));
            assert_eq!(pair.client.state(), State::Connected);
        }
        while pair.carry_to_server(usize::MAX) {}
        let received = pair.server.received();
        assert_eq!(received.last(), Some(&Packet::Pingreq));
        wait(&mut pair, Duration::from_millis(4999));
        assert_eq!(pair.client.state(), State::Connected);
        pair.server.send(Packet::Pingresp);
        pair.drive();
        let round_trip = pair.client.stats().ping_round_trip;
        assert_eq!(round_trip, Some(Duration::from_millis(4999)));
    }
}

#[test]
fn an_answer_that_does_not_come_after_the_write_is_missed() {
    for version in BOTH {
        let mut pair = with_backlog(version, 5, 1000);
        wait(&mut pair, Duration::from_secs(4));
        while pair.carry_to_server(usize::MAX) {}
        pair.server.received();
        wait(&mut pair, Duration::from_millis(4999));
        assert_eq!(pair.client.state(), State::Connected);
        wait(&mut pair, Duration::from_millis(1));
        assert_eq!(
            pair.failure(None),
            "failed to receive PINGRESP within 5 seconds: timeout"
        );
    }
}

#[test]
fn a_link_that_takes_nothing_more_is_given_up() {
    let mut pair = with_backlog(Version::V311, 5, 1000);
    wait(&mut pair, Duration::from_secs(4));
    assert!(pair.carry_to_server(500));
    wait(&mut pair, Duration::from_millis(4999));
    assert_eq!(pair.client.state(), State::Connected);
    wait(&mut pair, Duration::from_millis(1));
    assert_eq!(pair.client.state(), State::Disconnected);
}

/// The driver takes all bytes at once, and writes as many as the transport takes.
#[test]
fn what_the_driver_has_taken_and_not_written_counts() {
    for version in BOTH {
        let mut pair = with_keep_alive(version, 5);
        pair.publish(QoS::AtMostOnce);
        let taken = pair.client.take();
        pair.client.ping(pair.now).unwrap();
        let behind = pair.client.take();
        wait(&mut pair, Duration::from_secs(4));
        pair.client.transmitted(taken.len(), pair.now);
        wait(&mut pair, Duration::from_secs(4));
        pair.client.transmitted(behind.len() - 1, pair.now);
        wait(&mut pair, Duration::from_secs(4));
        assert_eq!(pair.client.state(), State::Connected);
        pair.client.transmitted(1, pair.now);
        wait(&mut pair, Duration::from_millis(4999));
        assert_eq!(pair.client.state(), State::Connected);
        wait(&mut pair, Duration::from_millis(1));
        assert_eq!(pair.client.state(), State::Disconnected);
    }
}

/// If a full transport takes bytes, the other end is there. If a transport with room takes bytes, that shows nothing.
#[test]
fn only_a_full_transport_that_takes_something_puts_the_answer_off() {
    for full in [true, false] {
        let mut pair = with_keep_alive(Version::V311, 5);
        pair.client.ping(pair.now).unwrap();
        let ping = pair.client.take();
        pair.client.transmitted(ping.len(), pair.now);
        pair.publish(QoS::AtMostOnce);
        let more = pair.client.take();
        wait(&mut pair, Duration::from_secs(4));
        let written = more.len() - usize::from(full);
        pair.client.transmitted(written, pair.now);
        wait(&mut pair, Duration::from_secs(1));
        let alive = pair.client.state() == State::Connected;
        assert_eq!(alive, full);
    }
}

/// The lent payload is ahead of the PINGREQ. So is the part of it that the driver puts back.
#[test]
fn a_payload_that_is_lent_counts() {
    for put_back in [true, false] {
        let mut pair = with_keep_alive(Version::V311, 5);
        let large = message(QoS::AtMostOnce);
        assert!(pair.client.publish_head(&large));
        let head = pair.client.take();
        pair.client.ping(pair.now).unwrap();
        wait(&mut pair, Duration::from_secs(4));
        pair.client.transmitted(head.len() + 2, pair.now);
        if put_back {
            pair.client.put_back(b"", &large.payload[2..]);
        } else {
            pair.client.transmitted(large.payload.len() - 2, pair.now);
        }
        let last = pair.client.take();
        wait(&mut pair, Duration::from_secs(4));
        pair.client.transmitted(last.len() - 1, pair.now);
        wait(&mut pair, Duration::from_secs(4));
        assert_eq!(pair.client.state(), State::Connected);
        pair.client.transmitted(1, pair.now);
        wait(&mut pair, Duration::from_millis(4999));
        assert_eq!(pair.client.state(), State::Connected);
        wait(&mut pair, Duration::from_millis(1));
        assert_eq!(pair.client.state(), State::Disconnected);
    }
}

/// [MQTT-3.1.2-20]: "in the absence of sending any other MQTT Control Packets, the Client MUST send a PINGREQ packet",
/// also while it waits for a PINGRESP. [MQTT-3.1.2-23]: the server's interval counts. Otherwise the server may close
/// the connection.
#[test]
fn a_ping_is_due_while_an_answer_is_awaited() {
    for (version, keep_alive, of_server) in [
        (Version::V311, 5, None),
        (Version::V50, 5, None),
        (Version::V50, 60, Some(5)),
    ] {
        let settings = Settings {
            pingresp_timeout: Some(Duration::from_secs(22)),
            ..Settings::default()
        };
        let mut pair = Pair::with_settings(version, settings);
        pair.connect(Connect {
            keep_alive,
            ..connect(version)
        });
        pair.deliver(Packet::Connack(Connack {
            session_present: false,
            reason: 0,
            properties: match of_server {
                None => Properties::new(),
                Some(seconds) => {
                    properties([(PropertyId::ServerKeepAlive, PropertyValue::TwoByte(seconds))])
                }
            },
        }));
        for _ in 0..3 {
            pair.advance_seconds(5);
            assert_eq!(pair.answers(), [Packet::Pingreq]);
        }
        // Any other packet puts the PINGREQ off.
        pair.advance_seconds(4);
        pair.publish(QoS::AtMostOnce);
        assert_eq!(pair.answers(), [publish(QoS::AtMostOnce, 0)]);
        pair.advance_seconds(4);
        assert_eq!(pair.answers(), []);
        pair.advance_seconds(1);
        assert_eq!(pair.answers(), [Packet::Pingreq]);
        // The answer to the first PINGREQ is missed. The later ones give the server no more time.
        pair.advance(Duration::from_millis(2999));
        assert_eq!(pair.client.state(), State::Connected);
        pair.advance(Duration::from_millis(1));
        assert_eq!(
            pair.failure(None),
            "failed to receive PINGRESP within 22 seconds: timeout"
        );
    }
}

/// A PINGREQ that cannot be written is not repeated before the interval is over.
#[test]
fn a_ping_that_is_not_written_is_due_once() {
    let settings = Settings {
        pingresp_timeout: Some(Duration::from_secs(22)),
        ..Settings::default()
    };
    let mut pair = Pair::with_settings(Version::V311, settings);
    pair.connect(Connect {
        keep_alive: 5,
        ..connect(Version::V311)
    });
    pair.deliver(connack(0));
    pair.advance_seconds(5);
    assert_eq!(pair.answers(), [Packet::Pingreq]);
    for count in 1..=4 {
        wait(&mut pair, Duration::from_secs(5));
        assert_eq!(pair.client.transmit().len(), 2 * count);
        assert!(pair.client.poll_timeout().unwrap() > pair.now);
    }
    wait(&mut pair, Duration::from_secs(2));
    assert_eq!(pair.client.state(), State::Disconnected);
}

/// A PUBLISH that the link carries in parts.
fn large(size: usize) -> Packet {
    let Packet::Publish(template) = publish(QoS::AtMostOnce, 0) else {
        unreachable!()
    };
    Packet::Publish(Publish {
        payload: vec![0; size].into(),
        ..template
    })
}

/// 3.1.2.10: PINGRESP comes behind the packet that the server was sending. So it is not missed while that packet
/// arrives.
#[test]
fn the_answer_is_not_missed_while_a_packet_arrives() {
    for version in BOTH {
        let mut pair = with_keep_alive(version, 5);
        pair.server.send(large(300_000));
        pair.server.send(Packet::Pingresp);
        for _ in 0..300 {
            assert!(pair.carry_to_client(1000));
            wait(&mut pair, Duration::from_millis(1000));
            pair.carry_to_server(usize::MAX);
            assert_eq!(pair.client.state(), State::Connected);
        }
        pair.drive();
        assert_eq!(pair.packets().len(), 1);
        // Once the packet has arrived, the answer has to come.
        pair.server.send(large(300_000));
        for second in 0..300 {
            pair.carry_to_client(1000);
            wait(&mut pair, Duration::from_millis(1000));
            pair.carry_to_server(usize::MAX);
            assert_eq!(pair.client.state(), State::Connected, "{second}");
        }
        while pair.carry_to_client(usize::MAX) {}
        assert_eq!(pair.packets().len(), 1);
        pair.server.send(large(300_000));
        for _ in 0..6 {
            pair.carry_to_client(1000);
            wait(&mut pair, Duration::from_millis(1000));
            pair.carry_to_server(usize::MAX);
        }
        assert_eq!(pair.client.state(), State::Disconnected);
    }
}

/// No bytes, a byte now and then, or messages without end: a server that does not answer is given up all the same.
#[test]
fn the_answer_is_missed_where_too_little_arrives() {
    for (first, each) in [(500, 0), (500, 1), (500, 200)] {
        let mut pair = with_keep_alive(Version::V311, 5);
        pair.server.send(large(300_000));
        pair.carry_to_client(first);
        for _ in 0..10 {
            pair.carry_to_client(each);
            wait(&mut pair, Duration::from_millis(1000));
            pair.carry_to_server(usize::MAX);
        }
        assert_eq!(pair.client.state(), State::Disconnected, "{each}");
    }
    let mut pair = with_keep_alive(Version::V311, 5);
    let mut seconds = 0;
    while pair.client.state() == State::Connected {
        pair.server.send(large(2000));
        pair.carry_to_client(1900);
        wait(&mut pair, Duration::from_millis(1000));
        pair.carry_to_server(usize::MAX);
        seconds += 1;
    }
    assert!((55..=65).contains(&seconds), "{seconds}");
}

/// A driver that hands over whole packets reports the bytes of the next one.
#[test]
fn what_is_arriving_elsewhere_counts() {
    let mut pair = with_keep_alive(Version::V311, 5);
    pair.advance_seconds(5);
    for seconds in 1..20 {
        pair.now += Duration::from_secs(4);
        pair.client.arriving(seconds * 1024, pair.now);
        wait(&mut pair, Duration::ZERO);
        pair.carry_to_server(usize::MAX);
        assert_eq!(pair.client.state(), State::Connected);
    }
    pair.now += Duration::from_secs(5);
    // The header is read again. That shows no progress.
    let mut header = bytes::BytesMut::from(&[0x30, 0x80, 0x80, 0x80, 0x01][..]);
    pair.client.receive(&mut header, pair.now);
    pair.client.arriving(19 * 1024 + 1, pair.now);
    wait(&mut pair, Duration::ZERO);
    wait(&mut pair, Duration::ZERO);
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
    // Another PINGREQ gives the server no more time.
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

    // The program is busy for a minute. PINGREQ packets go out, and nobody is blamed.
    pair.advance_seconds(60);
    assert_eq!(pair.client.state(), State::Connected);
    assert_eq!(pair.server.received(), vec![Packet::Pingreq; 6]);

    // The program has caught up. From the next PINGREQ on the server has to answer again.
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
    // The program has just caught up, and the driver has not yet read on.
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
        pair.advance_seconds(29);
        pair.connect(connect(version));
        // Other written packets give the server no more time.
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
fn connect_is_waited_for_from_the_beginning_on() {
    for version in BOTH {
        let mut pair = Pair::open(version);
        pair.advance_seconds(29);
        assert_eq!(pair.client.state(), State::Open);
        pair.advance_seconds(1);
        assert_eq!(pair.failure(None), "CONNECT was not sent within 30 seconds");
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
        assert!(pair.client.awaits_answer());
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
