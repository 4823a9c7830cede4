//! The driver without a caretaker: Lua's thread, which is the test's, is always there.

use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::sleep;

use super::*;

/// Returns how long the work takes.
fn time(work: impl FnOnce()) -> Duration {
    let begin = now();
    work();
    now() - begin
}

#[test]
fn a_link_is_ready_once_until_it_has_been_emptied() {
    let driver = driver();
    let link = link(&driver);
    link.wake();
    assert_eq!(driver.next_ready(), Some(link.token()));
    assert_eq!(driver.next_ready(), None);
    link.wake();
    assert_eq!(driver.next_ready(), None, "not emptied yet");
    assert!(matches!(link.next_event(), Some(LinkEvent::Woken)));
    assert!(link.next_event().is_none());
    link.wake();
    assert_eq!(driver.next_ready(), Some(link.token()));
}

#[test]
fn a_link_that_nobody_asks_for_is_listed_once_and_forgotten_with_its_end() {
    let driver = driver();
    let links = [link(&driver), link(&driver)];
    for link in &links {
        for _ in 0..3 {
            link.wake();
            assert!(matches!(link.next_event(), Some(LinkEvent::Woken)));
            assert!(link.next_event().is_none());
        }
    }
    let [dropped, kept] = links;
    drop(dropped);
    assert_eq!(driver.next_ready(), Some(kept.token()));
    assert_eq!(driver.next_ready(), None);
}

#[test]
fn a_wait_sees_the_next_event_of_a_link_that_was_not_emptied() {
    let driver = driver();
    let _clock = driver.clock();
    let link = link(&driver);
    link.wake();
    assert!(matches!(link.next_event(), Some(LinkEvent::Woken)));
    link.wake_after(Duration::from_millis(10));
    assert!(driver.wait_until(now() + PATIENCE, || link.has_events()));
}

#[test]
fn a_timer_wakes_the_link_at_its_time_and_the_last_one_counts() {
    let driver = driver();
    let _clock = driver.clock();
    let link = link(&driver);
    link.wake_after(Duration::from_secs(9));
    link.wake_after(Duration::from_secs(5));
    let waited = time(|| assert!(matches!(next(&driver, &link), LinkEvent::Woken)));
    assert_eq!(waited, Duration::from_secs(5));
    driver.wait(Some(Duration::from_secs(100)), || false);
    assert!(link.next_event().is_none());
}

#[test]
fn a_timer_that_is_replaced_or_whose_link_is_gone_leaves_nothing_behind() {
    let driver = driver();
    let tasks = || driver.runtime().metrics().num_alive_tasks();
    let before = tasks();
    let link = link(&driver);
    for _ in 0..100 {
        link.wake_after(PATIENCE);
    }
    assert_eq!(tasks(), before);
    assert_eq!(driver.hub.alarms.pending(), 1);
    drop(link);
    assert_eq!(driver.hub.alarms.pending(), 0);
    assert!(!driver.hub.has_tasks());
}

#[test]
fn a_turn_does_not_block_and_a_wait_keeps_its_time() {
    let driver = driver();
    let _clock = driver.clock();
    let link = link(&driver);
    link.wake_after(PATIENCE);
    assert_eq!(time(|| driver.turn(true)), Duration::ZERO);
    let wait = Duration::from_millis(20);
    assert_eq!(time(|| driver.wait(Some(wait), || false)), wait);
    let begin = now();
    assert!(!driver.wait_until(begin, || false));
    assert!(!driver.wait_until(begin + wait, || false));
    assert_eq!(now(), begin + wait);
}

#[test]
fn keep_alive_pings_in_time_and_a_silent_server_is_given_up() {
    const KEEP_ALIVE: Duration = Duration::from_secs(4);
    let driver = driver();
    let _clock = driver.clock();
    let begin = now();
    let (link, server) = connected(&driver, KEEP_ALIVE.as_secs() as u16, async |mut server| {
        server.accept().await;
        let mut pings = Vec::new();
        while server.receive().await == Some(Packet::Pingreq) {
            pings.push(now());
            if pings.len() < 3 {
                server.send(&Packet::Pingresp).await;
            }
        }
        pings
    });
    assert!(matches!(next(&driver, &link), LinkEvent::Failed(_)));
    let given_up = now();
    let pings = result(&driver, server);
    for (count, ping) in (1..=3).zip(&pings) {
        assert_eq!(*ping, begin + count * KEEP_ALIVE);
    }
    assert_eq!(given_up, pings[2] + KEEP_ALIVE);
}

#[test]
fn a_burst_is_written_in_order_and_whole() {
    const MESSAGES: u32 = 20_000;
    let driver = driver();
    let _clock = driver.clock();
    let (link, server) = connected(&driver, 0, async |mut server| {
        server.accept().await;
        for expected in 0..MESSAGES {
            match server.receive().await {
                Some(Packet::Publish(publish)) => {
                    assert_eq!(publish.payload, expected.to_be_bytes()[..]);
                }
                other => panic!("{other:?}"),
            }
        }
        server.receive().await
    });
    for number in 0..MESSAGES {
        publish(&link, &number.to_be_bytes());
    }
    disconnect(&link);
    link.close_flushed(&driver, now() + PATIENCE);
    let last = result(&driver, server);
    assert_eq!(
        last.map(|packet| packet.packet_type()),
        Some(PacketType::Disconnect)
    );
}

#[test]
fn a_slow_reader_is_not_sent_more_than_it_takes() {
    const MESSAGES: usize = 1_000;
    const SIZE: usize = 16 << 10;
    let driver = driver();
    let _clock = driver.clock();
    let (link, _server) = connected(&driver, 0, async |mut server| {
        server.accept().await;
        let flood = message(vec![0; SIZE]);
        for _ in 0..MESSAGES {
            server.send(&flood).await;
        }
        server
    });
    until(&driver, || link.look(|session| !session.wants_receive()));
    let queued = link.look(|session| session.queued_bytes());
    let limit = Settings::default().max_queued_bytes;
    assert!(queued > limit && queued < 2 * limit, "{queued}");
    for _ in 0..MESSAGES {
        assert!(matches!(
            next(&driver, &link),
            LinkEvent::Packet(Packet::Publish(_))
        ));
    }
}

#[test]
fn a_slow_server_makes_the_link_full_until_it_reads() {
    let driver = driver();
    let _clock = driver.clock();
    let (go, may_read) = oneshot::channel::<()>();
    let (link, server) = connected(&driver, 0, async |mut server| {
        server.accept().await;
        may_read.await.unwrap();
        server.receive_payloads().await.len()
    });
    let payload = vec![0; CAPACITY];
    let mut messages = 0;
    while !link.is_full() {
        publish(&link, &payload);
        messages += 1;
        driver.turn(true);
    }
    go.send(()).unwrap();
    until(&driver, || !link.is_full());
    disconnect(&link);
    link.close_flushed(&driver, now() + PATIENCE);
    assert_eq!(result(&driver, server), messages);
}

/// Publishes a large message. No reference to it remains afterwards.
fn publish_large(driver: &Driver, link: &Link, payload: &Bytes, patience: Duration) {
    let properties = Properties::new();
    let message = outgoing(payload, &properties);
    let lent = Lent {
        payload: payload.clone(),
        driver,
        patience,
    };
    link.ask(Request::PublishLarge(message, lent)).unwrap();
    assert!(payload.is_unique());
}

/// Payloads that begin with their number. Each is larger than a connection takes at once.
fn large_payloads() -> Vec<Bytes> {
    (1..=4).map(|n| vec![n; 6 << 20].into()).collect()
}

#[test]
fn what_the_connection_does_not_take_of_a_large_message_is_copied_and_keeps_its_place() {
    let driver = driver();
    let _clock = driver.clock();
    let (go, may_read) = oneshot::channel::<()>();
    let (link, server) = connected(&driver, 0, async |mut server| {
        server.accept().await;
        may_read.await.unwrap();
        server.receive_payloads().await
    });
    let (mut go, mut expected) = (Some(go), Vec::new());
    for payload in large_payloads() {
        // The messages published before have not been written.
        for small in [&b"before"[..], b"again"] {
            publish(&link, small);
            expected.push(Bytes::from_static(small));
        }
        publish_large(&driver, &link, &payload, Duration::ZERO);
        expected.push(payload);
        if expected.len() == 6 {
            assert!(link.is_full());
            go.take().unwrap().send(()).unwrap();
        }
    }
    until(&driver, || link.outgoing_bytes() == 0);
    disconnect(&link);
    link.close_flushed(&driver, now() + PATIENCE);
    let received = result(&driver, server);
    let sizes = |payloads: &[Bytes]| payloads.iter().map(Bytes::len).collect::<Vec<_>>();
    assert_eq!(sizes(&received), sizes(&expected));
    assert!(received == expected);
}

#[test]
fn a_large_message_is_not_copied_if_the_connection_takes_it_in_time() {
    let driver = driver();
    let _clock = driver.clock();
    let (link, server) = connected(&driver, 0, async |mut server| {
        server.accept().await;
        server.receive_payloads().await
    });
    let payloads = large_payloads();
    for payload in &payloads {
        publish_large(&driver, &link, payload, PATIENCE);
        assert_eq!(link.outgoing_bytes(), 0);
    }
    disconnect(&link);
    link.close_flushed(&driver, now() + PATIENCE);
    assert!(result(&driver, server) == payloads);
}

#[test]
fn a_large_message_is_not_cut_when_its_connection_is_let_go_of_meanwhile() {
    for for_good in [false, true] {
        let driver = driver();
        let _clock = driver.clock();
        let (go, may_read) = oneshot::channel::<()>();
        let (link, server) = connected(&driver, 0, async |mut server| {
            server.accept().await;
            may_read.await.unwrap();
            server.receive_payloads().await
        });
        // At the end of the process, another thread than the driving one does this.
        let (hub, of_end) = (Arc::clone(&driver.hub), Arc::clone(&link));
        driver.runtime().spawn(async move {
            // The head has been taken. Some of it is written, and the rest waits for the server.
            while !of_end.has_large() {
                yield_now().await;
            }
            match for_good {
                true => of_end.leave(),
                false => of_end.close(),
            }
            hub.wake_dirty();
            hub.news.notify_one();
            go.send(()).unwrap();
        });
        let payload = Bytes::from(vec![1; 12 << 20]);
        publish_large(&driver, &link, &payload, PATIENCE);
        assert!(result(&driver, server) == [payload]);
    }
}

#[test]
fn a_large_message_does_not_outlast_its_connection() {
    let driver = driver();
    let _clock = driver.clock();
    let (link, _server) = connected(&driver, 0, async |mut server| server.accept().await);
    let waited = time(|| {
        for payload in &large_payloads()[..2] {
            publish_large(&driver, &link, payload, PATIENCE);
        }
    });
    assert_eq!(waited, Duration::ZERO);
    assert!(matches!(next(&driver, &link), LinkEvent::Ended(_)));
}

#[test]
fn the_end_of_the_stream_comes_after_every_packet() {
    let driver = driver();
    let _clock = driver.clock();
    let (link, _server) = connected(&driver, 0, async |mut server| {
        server.accept().await;
        server.send(&message("last words")).await;
    });
    assert!(matches!(
        next(&driver, &link),
        LinkEvent::Packet(Packet::Publish(_))
    ));
    assert!(matches!(
        next(&driver, &link),
        LinkEvent::Ended(Ended::Closed)
    ));
}

#[test]
fn dropping_a_connection_ends_its_stream() {
    let driver = driver();
    let _clock = driver.clock();
    let (link, server) = connected(&driver, 0, async |mut server| {
        server.accept().await;
        server.receive().await
    });
    link.close();
    assert_eq!(result(&driver, server), None);
}

#[test]
fn the_next_connection_waits_until_the_server_has_read_the_last_one() {
    const PAUSE: Duration = Duration::from_secs(1);
    let driver = driver();
    let _clock = driver.clock();
    let (link, first) = connected(&driver, 0, async |mut server| {
        server.accept().await;
        sleep(PAUSE).await;
        server.receive_payloads().await.len()
    });
    publish(&link, &vec![0; 2 * CAPACITY]);
    driver.turn(true);
    let waited = time(|| {
        let _second = open(&driver, &link, async |mut server| server.accept().await);
        connect(&driver, &link, 0);
    });
    assert_eq!(waited, PAUSE);
    assert_eq!(result(&driver, first), 1);
}

#[test]
fn a_connection_that_cannot_be_opened_is_told() {
    let driver = driver();
    let _clock = driver.clock();
    let link = link(&driver);
    let opening = async {
        sleep(PATIENCE / 2).await;
        let (target, attempts) = ("test".into(), Vec::new());
        Err(OpenError::Connect { target, attempts })
    };
    link.open_by(&driver, PATIENCE, opening);
    let waited = time(|| match next(&driver, &link) {
        LinkEvent::OpenFailed(error) => assert!(matches!(*error, OpenError::Connect { .. })),
        other => panic!("{other:?}"),
    });
    assert_eq!(waited, PATIENCE / 2);
}

/// The last records that the pipe does not take at once must not wait for later ones.
#[cfg(feature = "tls")]
#[test]
fn what_the_stream_holds_back_is_written_on() {
    use rustls::crypto::ring::default_provider;
    use rustls::{ClientConfig, RootCertStore, ServerConfig};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    // TLS takes one message even when the pipe does not.
    let payload = [0; 10_000];
    let driver = driver();
    let _clock = driver.clock();
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let provider = Arc::new(default_provider());
    let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.into()], signing_key.into())
        .unwrap();
    let (connector, acceptor) = (
        TlsConnector::from(Arc::new(client)),
        TlsAcceptor::from(Arc::new(server)),
    );
    // A connection whose server takes CONNECT and answers, and then reads nothing until it hears how many messages to
    // read.
    let held_up = || {
        let (stream, peer) = duplex(CAPACITY);
        let (expect, expected) = oneshot::channel::<usize>();
        let accepting = acceptor.accept(peer);
        let server = driver.runtime().spawn(async {
            let mut server = Server::new(accepting.await.unwrap());
            server.accept().await;
            for _ in 0..expected.await.unwrap_or(0) {
                server.receive().await.unwrap();
            }
            server
        });
        let link = link(&driver);
        let opening = connector.connect("localhost".try_into().unwrap(), Socket::fake(stream));
        link.open_by(&driver, PATIENCE, async {
            Ok(Stream::Tls(Box::new(opening.await.unwrap())))
        });
        connect(&driver, &link, 0);
        (link, expect, server)
    };
    let is_taken = |link: &Link| {
        publish(link, &payload);
        driver.wait_until(now() + Duration::from_millis(1), || false);
        link.outgoing_bytes() == 0
    };
    // Counts the messages until the pipe takes no more. The stream holds the last of them back.
    let (link, _expect, _server) = held_up();
    let mut taken = 0;
    while is_taken(&link) {
        taken += 1;
    }
    assert!(taken > 0);

    let (link, expect, server) = held_up();
    for _ in 0..taken {
        assert!(is_taken(&link));
    }
    expect.send(taken).unwrap();
    result(&driver, server);
}
