//! The work that is left on a connection which the user lets go of without a DISCONNECT.

use mqtt_core::codec::*;
use mqtt_core::session::{Event, Parted, Session, Settings, State};

use crate::pair::*;

/// Lets go of the connection. Returns the session that goes on with it.
fn part_with_session(pair: &mut Pair, for_good: bool) -> Session {
    match pair.client.part(for_good) {
        Parted::Session(session) => *session,
        Parted::Rest(rest) => panic!("nothing but {} bytes", rest.len()),
        Parted::Nothing => panic!("nothing"),
    }
}

/// Lets go of the connection. Returns the packets that are left to write.
fn part_with_rest(pair: &mut Pair, for_good: bool) -> Vec<Packet> {
    let Parted::Rest(mut rest) = pair.client.part(for_good) else {
        panic!("not only bytes are left");
    };
    let decoder = Decoder::new(pair.client.version());
    std::iter::from_fn(|| decoder.decode(&mut rest).unwrap()).collect()
}

/// A pair whose client is the parted session, and the session that stayed with the user.
fn go_on(mut pair: Pair, for_good: bool) -> (Pair, Session) {
    let parted = part_with_session(&mut pair, for_good);
    let stayed = std::mem::replace(&mut pair.client, parted);
    (pair, stayed)
}

/// A connection to a server that takes two messages at a time.
fn narrow() -> Pair {
    let two = properties([(PropertyId::ReceiveMaximum, PropertyValue::TwoByte(2))]);
    Pair::accepted(connect(Version::V50), two)
}

#[test]
fn before_connect_nothing_is_left() {
    let mut pair = Pair::open(Version::V50);
    assert!(matches!(pair.client.part(true), Parted::Nothing));
}

#[test]
fn what_waits_to_be_written_is_left() {
    for version in BOTH {
        for for_good in [false, true] {
            let mut pair = Pair::connected(version);
            let id = pair.publish(QoS::AtLeastOnce);
            let rest = part_with_rest(&mut pair, for_good);
            assert_eq!(rest, [publish(QoS::AtLeastOnce, id)]);
        }
    }
}

#[test]
fn a_connection_that_was_given_up_leaves_what_says_why() {
    let mut pair = Pair::connected(Version::V50);
    pair.server.send(connack(0));
    while pair.carry_to_client(usize::MAX) {}
    assert_eq!(pair.client.state(), State::Disconnected);
    assert_eq!(part_with_rest(&mut pair, true), [disconnect_packet(0x82)]);
}

#[test]
fn what_the_receive_maximum_holds_back_goes_out_as_answers_come() {
    let mut pair = narrow();
    let ids: Vec<u16> = (0..5).map(|_| pair.publish(QoS::AtLeastOnce)).collect();
    pair.server.answers = true;
    let (mut pair, stayed) = go_on(pair, false);
    assert!(pair.client.owes());
    pair.drive();
    assert!(!pair.client.owes());
    let sent: Vec<Packet> = ids
        .iter()
        .map(|id| publish(QoS::AtLeastOnce, *id))
        .collect();
    assert_eq!(pair.server.received(), sent);
    assert!(!stayed.holds_back());
    assert!(stayed.transmit().is_empty());
}

#[test]
fn exchanges_that_are_kept_stay_unless_it_is_for_good() {
    let settings = Settings {
        keep_exchanges: true,
        ..Settings::default()
    };
    for for_good in [false, true] {
        let mut pair = narrow();
        pair.client.configure(settings.clone());
        for _ in 0..5 {
            pair.publish(QoS::AtLeastOnce);
        }
        if for_good {
            part_with_session(&mut pair, for_good);
            assert!(!pair.client.holds_back());
        } else {
            assert_eq!(part_with_rest(&mut pair, for_good).len(), 2);
            assert!(pair.client.holds_back());
        }
    }
}

#[test]
fn answers_that_the_user_has_not_taken_stay_and_so_do_their_identifiers() {
    let mut pair = narrow();
    let ids: Vec<u16> = (0..5).map(|_| pair.publish(QoS::AtLeastOnce)).collect();
    pair.drive();
    pair.server.send(puback(ids[0], 0));
    pair.drive();
    let (_, mut stayed) = go_on(pair, false);
    stayed.discard_events();
    assert_eq!(
        stayed.poll_event(),
        Some(Event::Packet(puback(ids[0], 0))),
        "the answer"
    );
    assert_eq!(stayed.poll_event(), None);
}

#[test]
fn a_qos_2_message_waits_for_its_pubrec() {
    for version in BOTH {
        let mut pair = Pair::connected(version);
        let id = pair.publish(QoS::ExactlyOnce);
        let (mut pair, _) = go_on(pair, false);
        pair.drive();
        assert!(pair.client.owes());
        pair.server.received();
        pair.server.send(pubrec(id, 0));
        pair.drive();
        assert!(!pair.client.owes());
        assert_eq!(pair.server.received(), [pubrel(id, 0)]);
    }
}

#[test]
fn before_the_connack_what_was_accepted_waits_for_it() {
    for version in BOTH {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
            let mut pair = Pair::connecting(connect(version));
            let id = pair.publish(qos);
            let (mut pair, _) = go_on(pair, false);
            assert!(pair.client.owes());
            pair.server.send(connack(0));
            pair.drive();
            assert!(!pair.client.owes());
            assert_eq!(pair.server.received(), [publish(qos, id)]);
        }
    }
}

#[test]
fn without_a_connack_what_was_accepted_is_sent_unanswered() {
    let mut pair = Pair::connecting(connect(Version::V50));
    let id = pair.publish(QoS::AtLeastOnce);
    let (mut pair, _) = go_on(pair, false);
    pair.drive();
    assert_eq!(pair.server.received(), []);
    pair.client.send_unanswered();
    pair.drive();
    assert_eq!(pair.server.received(), [publish(QoS::AtLeastOnce, id)]);
}

#[test]
fn before_the_connack_nothing_is_waited_for_if_nothing_was_accepted() {
    for version in BOTH {
        let mut pair = Pair::open(version);
        pair.client.connect(&connect(version)).unwrap();
        let connect = Packet::Connect(Box::new(connect(version)));
        assert_eq!(part_with_rest(&mut pair, true), [connect]);
    }
}
