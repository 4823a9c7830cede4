//! Enhanced authentication (4.12).

use mqtt_core::codec::*;
use mqtt_core::session::{RequestError, State};

use crate::pair::*;

fn method(name: &'static str) -> Properties {
    properties([(
        PropertyId::AuthenticationMethod,
        PropertyValue::String(Str::from_static(name)),
    )])
}

fn auth(reason: u8, name: &'static str) -> Packet {
    Packet::Auth(Disconnect {
        reason,
        properties: method(name),
    })
}

fn authenticating() -> Pair {
    Pair::connecting(Connect {
        properties: method("SCRAM"),
        ..connect(Version::V50)
    })
}

#[test]
fn auth_is_exchanged_before_connack() {
    let mut pair = authenticating();
    for _ in 0..3 {
        assert_eq!(pair.deliver(auth(0x18, "SCRAM")), [auth(0x18, "SCRAM")]);
        assert_eq!(pair.client.state(), State::Connecting);
        pair.client.auth(0x18, method("SCRAM")).unwrap();
        assert_eq!(pair.answers(), [auth(0x18, "SCRAM")]);
    }
    assert_eq!(pair.deliver(connack(0)), [connack(0)]);
    assert_eq!(pair.client.state(), State::Connected);
}

#[test]
fn nothing_else_is_sent_meanwhile() {
    let mut pair = authenticating();
    // A request waits for CONNACK.
    assert_eq!(pair.publish(QoS::AtLeastOnce), 1);
    let refused = pair.client.ping(pair.now);
    assert_eq!(
        refused,
        Err(RequestError::Authenticating(PacketType::Pingreq))
    );
    // Keep alive sends no PINGREQ either.
    pair.advance_seconds(29);
    assert_eq!(pair.answers(), []);
    assert_eq!(pair.client.disconnect(0, Properties::new()), Ok(()));
    assert_eq!(pair.answers(), [disconnect_packet(0)]);

    let mut pair = authenticating();
    pair.advance_seconds(30);
    let message = pair.failure(None);
    assert_eq!(
        message,
        "failed to receive CONNACK within 30 seconds: timeout"
    );
}

/// One deadline covers the whole exchange (4.12): a server that goes on asking is given up like a silent one.
#[test]
fn auth_gives_no_more_time_to_connect() {
    let mut pair = authenticating();
    for _ in 0..5 {
        pair.advance_seconds(5);
        pair.deliver(auth(0x18, "SCRAM"));
        pair.client.auth(0x18, method("SCRAM")).unwrap();
        assert_eq!(pair.answers(), [auth(0x18, "SCRAM")]);
    }
    pair.advance(std::time::Duration::from_millis(4999));
    assert_eq!(pair.client.state(), State::Connecting);
    pair.advance(std::time::Duration::from_millis(1));
    assert_eq!(
        pair.failure(None),
        "failed to receive CONNACK within 30 seconds: timeout"
    );
}

#[test]
fn keep_alive_starts_with_connack() {
    let mut pair = authenticating();
    pair.deliver(connack(0));
    pair.advance_seconds(60);
    assert_eq!(pair.answers(), [Packet::Pingreq]);
}

#[test]
fn the_client_may_authenticate_again() {
    let mut pair = authenticating();
    pair.deliver(connack(0));
    pair.client.auth(0x19, method("SCRAM")).unwrap();
    assert_eq!(pair.answers(), [auth(0x19, "SCRAM")]);
    assert_eq!(pair.deliver(auth(0x18, "SCRAM")), [auth(0x18, "SCRAM")]);
    // Other packets go on meanwhile.
    assert_eq!(pair.publish(QoS::AtMostOnce), 0);
    pair.client.auth(0x18, method("SCRAM")).unwrap();
    assert_eq!(pair.deliver(auth(0, "SCRAM")), [auth(0, "SCRAM")]);
    assert_eq!(pair.client.state(), State::Connected);
}

#[test]
fn auth_needs_a_method_in_connect() {
    let mut pair = Pair::connected(Version::V50);
    let error = pair.client.auth(0x19, method("SCRAM")).unwrap_err();
    assert_eq!(error, RequestError::NoAuthenticationMethod);
    let message = pair.violation(auth(0x18, "SCRAM"), 0x82);
    assert_eq!(message, "AUTH: CONNECT had no authentication method");

    let mut pair = Pair::connecting(connect(Version::V50));
    let message = pair.violation(auth(0x18, "SCRAM"), 0x82);
    assert_eq!(message, "expecting CONNACK but received 15");
}

#[test]
fn auth_does_not_exist_in_v311() {
    let mut pair = Pair::connected(Version::V311);
    let error = pair.client.auth(0x19, Properties::new()).unwrap_err();
    assert!(error.to_string().starts_with("AUTH: "), "{error}");
    pair.server.send_bytes(&[0xF0, 0]);
    pair.failure(None);
}

#[test]
fn auth_by_another_method_or_reason_is_refused() {
    for connected in [false, true] {
        let pair = || {
            let mut pair = authenticating();
            if connected {
                pair.deliver(connack(0));
            }
            pair
        };
        let message = pair().violation(auth(0x18, "PLAIN"), 0x82);
        assert_eq!(
            message,
            "AUTH: authentication method is not that of CONNECT"
        );
        let message = pair().violation(auth(0x19, "SCRAM"), 0x82);
        assert_eq!(message, "AUTH: unexpected reason code: 0x19");
        let message = pair().violation(auth(0x01, "SCRAM"), 0x82);
        assert_eq!(message, "AUTH: unexpected reason code: 0x01");
    }
    // The method may be omitted only together with everything else (3.15.2.1, 3.15.2.2.2).
    let bare = |reason| {
        Packet::Auth(Disconnect {
            reason,
            ..Disconnect::default()
        })
    };
    let message = authenticating().violation(bare(0x18), 0x82);
    assert_eq!(message, "AUTH: authentication method is missing");
    let mut pair = authenticating();
    pair.deliver(connack(0));
    assert_eq!(pair.deliver(bare(0)), [bare(0)]);
    // Before CONNACK, AUTH may not report success.
    let message = authenticating().violation(auth(0, "SCRAM"), 0x82);
    assert_eq!(message, "AUTH: unexpected reason code: 0x00");

    let mut pair = authenticating();
    let error = pair.client.auth(0x80, method("SCRAM")).unwrap_err();
    assert_eq!(error, RequestError::ReasonCode(PacketType::Auth, 0x80));
}
