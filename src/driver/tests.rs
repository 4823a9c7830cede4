//! Tests the driver against servers of our own on loopback.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
#[cfg(feature = "tls")]
use std::sync::mpsc::Sender;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::{Driver, Ended, Lent, Link, LinkEvent, Request};
use crate::codec::{
    Connack, Connect, Decoder, Packet, PacketType, Properties, Publish, PublishRef, QoS, Str,
    Version, encode,
};
use crate::net::Target;
use crate::session::{Session, Settings};

/// Longer than any step takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The server's end of one connection.
struct Server {
    stream: TcpStream,
    decoder: Decoder,
    input: BytesMut,
}

impl Server {
    fn send(&mut self, packet: &Packet) {
        let mut bytes = BytesMut::new();
        encode(packet, Version::V311, &mut bytes).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next packet, or `None` at the end of the stream.
    fn receive(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.decoder.decode(&mut self.input).unwrap() {
                return Some(packet);
            }
            let mut chunk = [0; 64 << 10];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(size) => self.input.extend_from_slice(&chunk[..size]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The payloads of all messages until another packet comes.
    fn receive_payloads(&mut self) -> Vec<Bytes> {
        let mut payloads = Vec::new();
        while let Some(Packet::Publish(publish)) = self.receive() {
            payloads.push(publish.payload);
        }
        payloads
    }

    /// Takes CONNECT and accepts it.
    fn accept(&mut self) {
        assert!(matches!(self.receive(), Some(Packet::Connect(_))));
        self.send(&Packet::Connack(Connack {
            session_present: false,
            reason: 0,
            properties: Properties::new(),
        }));
    }
}

/// Runs `serve` in a thread of its own on the first connection. Returns the target to connect to, and the receiver of
/// the result of `serve`.
fn server<T: Send + 'static>(
    serve: impl FnOnce(Server) -> T + Send + 'static,
) -> (Target, Receiver<T>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, result) = channel();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let server = Server {
            stream,
            decoder: Decoder::new(Version::V311),
            input: BytesMut::new(),
        };
        // If the test has failed already, nobody receives the result.
        let _ = sender.send(serve(server));
    });
    (Target::tcp("127.0.0.1", port), result)
}

fn driver() -> Driver {
    Driver::new(|| {}).unwrap()
}

fn link(driver: &Driver) -> Arc<Link> {
    Link::new(driver, Session::new(Version::V311, Settings::default()))
}

/// Returns the next event. Drives the runtime until there is one.
fn next(driver: &Driver, link: &Link) -> LinkEvent {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(event) = link.next_event() {
            return event;
        }
        driver.wait_until(deadline, || link.has_events());
    }
    panic!("no event");
}

/// A link with a connection that the server has accepted.
fn connected(driver: &Driver, target: Target, keep_alive: u16) -> Arc<Link> {
    let link = link(driver);
    link.open(driver, target, PATIENCE);
    assert!(matches!(next(driver, &link), LinkEvent::Opened));
    let connect = Connect {
        version: Version::V311,
        clean: true,
        keep_alive,
        client_id: Str::from_static("test"),
        username: None,
        password: None,
        will: None,
        properties: Properties::new(),
    };
    link.ask(Request::Connect(connect.into())).unwrap();
    assert!(matches!(
        next(driver, &link),
        LinkEvent::Packet(Packet::Connack(_))
    ));
    link
}

fn disconnect(link: &Link) {
    link.ask(Request::Disconnect {
        reason: 0,
        properties: Properties::new(),
    })
    .unwrap();
}

fn publish(link: &Link, payload: &[u8]) {
    let properties = Properties::new();
    link.ask(Request::Publish(outgoing(payload, &properties)))
        .unwrap();
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

fn outgoing<'a>(payload: &'a [u8], properties: &'a Properties) -> PublishRef<'a> {
    PublishRef {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: "t",
        packet_id: 0,
        properties,
        payload,
    }
}

fn message(payload: Bytes) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: Str::from_static("t"),
        packet_id: 0,
        properties: Properties::new(),
        payload,
    })
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
    let link = link(&driver);
    link.wake();
    assert!(matches!(link.next_event(), Some(LinkEvent::Woken)));
    link.wake_after(Duration::from_millis(10));
    assert!(driver.wait_until(Instant::now() + PATIENCE, || link.has_events()));
}

#[test]
fn what_is_published_is_written_and_read_while_lua_is_away() {
    let (target, server) = server(|mut server| {
        server.accept();
        let received = server.receive();
        server.send(&message(Bytes::from_static(b"answer")));
        (received, server)
    });
    let driver = driver();
    let link = connected(&driver, target, 0);
    publish(&link, b"question");
    // From here on only the caretaker drives.
    let (received, _server) = server.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(received, Some(Packet::Publish(_))));
    let deadline = Instant::now() + PATIENCE;
    while !link.has_events() {
        assert!(Instant::now() < deadline);
        thread::yield_now();
    }
}

#[test]
fn keep_alive_goes_on_while_lua_is_away() {
    let (target, server) = server(|mut server| {
        server.accept();
        for _ in 0..2 {
            assert_eq!(server.receive(), Some(Packet::Pingreq));
            server.send(&Packet::Pingresp);
        }
        server
    });
    let driver = driver();
    let link = connected(&driver, target, 1);
    // Kept, because its end would be an event.
    let _server = server.recv_timeout(PATIENCE).unwrap();
    assert!(!link.has_events(), "PINGRESP is not the user's business");
}

#[test]
fn a_burst_is_written_in_order_and_whole() {
    const MESSAGES: u32 = 20_000;
    let (target, server) = server(|mut server| {
        server.accept();
        for expected in 0..MESSAGES {
            match server.receive() {
                Some(Packet::Publish(publish)) => {
                    assert_eq!(publish.payload, expected.to_be_bytes()[..])
                }
                other => panic!("{other:?}"),
            }
        }
        server.receive()
    });
    let driver = driver();
    let link = connected(&driver, target, 0);
    for number in 0..MESSAGES {
        publish(&link, &number.to_be_bytes());
    }
    disconnect(&link);
    link.close_flushed(&driver, Instant::now() + PATIENCE);
    let last = server.recv_timeout(PATIENCE).unwrap();
    assert_eq!(
        last.map(|packet| packet.packet_type()),
        Some(PacketType::Disconnect)
    );
}

#[test]
fn closing_in_order_loses_nothing_when_received_data_is_unread() {
    const SIZE: usize = 4 << 20;
    let (target, server) = server(|mut server| {
        server.accept();
        // More bytes than the client will ever read.
        let flood = message(Bytes::from(vec![0; SIZE]));
        let mut writer = Server {
            stream: server.stream.try_clone().unwrap(),
            decoder: Decoder::new(Version::V311),
            input: BytesMut::new(),
        };
        let flooding = thread::spawn(move || writer.send(&flood));
        let received = server.receive();
        let last = server.receive();
        // The write ends with an error when the client is gone.
        drop(flooding);
        (received, last)
    });
    let driver = driver();
    let link = connected(&driver, target, 0);
    publish(&link, &vec![1; SIZE]);
    disconnect(&link);
    link.close_flushed(&driver, Instant::now() + PATIENCE);
    drop(link);
    drop(driver);
    match server.recv_timeout(PATIENCE).unwrap() {
        (Some(Packet::Publish(publish)), Some(Packet::Disconnect(_))) => {
            assert_eq!(publish.payload.len(), SIZE)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_slow_reader_is_not_sent_more_than_it_takes() {
    const MESSAGES: usize = 1_000;
    const SIZE: usize = 16 << 10;
    let (target, _server) = server(|mut server| {
        server.accept();
        let flood = message(Bytes::from(vec![0; SIZE]));
        for _ in 0..MESSAGES {
            server.send(&flood);
        }
        server.receive()
    });
    let driver = driver();
    let link = connected(&driver, target, 0);
    driver.wait_until(Instant::now() + PATIENCE, || {
        link.look(|session| !session.wants_receive())
    });
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

/// A connection over TLS. Its server takes CONNECT and answers, and then reads nothing until it is told to. Then it
/// reads the given number of bytes and says that it has.
#[cfg(feature = "tls")]
fn held_up_over_tls(driver: &Driver) -> (Arc<Link>, Sender<usize>, Receiver<()>) {
    use crate::net::{TlsConfig, TlsOptions};
    use rustls::{ServerConfig, ServerConnection, StreamOwned, crypto::ring};
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec![]).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.into()], signing_key.into())
        .unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (expect, expected) = channel::<usize>();
    let (done, all_read) = channel();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let tls = ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream = StreamOwned::new(tls, stream);
        let mut connect = [0; 18];
        stream.read_exact(&mut connect).unwrap();
        stream.write_all(b"\x20\x02\0\0").unwrap();
        if let Ok(size) = expected.recv() {
            stream.read_exact(&mut vec![0; size]).unwrap();
            let _ = done.send(());
        }
    });
    let options = TlsOptions {
        verify: false,
        ..TlsOptions::default()
    };
    let target = Target {
        tls: Some(TlsConfig::new(&options).unwrap()),
        ..Target::tcp("127.0.0.1", port)
    };
    (connected(driver, target, 0), expect, all_read)
}

/// The last records that the socket does not take at once must not wait for later ones.
#[cfg(feature = "tls")]
#[test]
fn what_the_stream_holds_back_is_written_on() {
    // TLS takes one message even when the socket does not.
    let payload = [0; 10_000];
    let size = 1 + 2 + 3 + payload.len();
    let driver = driver();
    let drive_until = |patience: Duration, done: &dyn Fn() -> bool| {
        let deadline = Instant::now() + patience;
        while !done() && Instant::now() < deadline {
            driver.wait_until(Instant::now() + Duration::from_millis(1), || false);
        }
        done()
    };
    let is_taken = |link: &Link| {
        publish(link, &payload);
        drive_until(PATIENCE / 100, &|| link.outgoing_bytes() == 0)
    };
    // Counts the messages until the socket takes no more. The stream holds the last of them back.
    let (link, _expect, _all_read) = held_up_over_tls(&driver);
    let mut taken = 0;
    while is_taken(&link) {
        taken += 1;
    }
    assert!(taken > 0);

    let (link, expect, all_read) = held_up_over_tls(&driver);
    for _ in 0..taken {
        is_taken(&link);
    }
    expect.send(taken * size).unwrap();
    drop(expect);
    let read = std::cell::Cell::new(false);
    assert!(drive_until(PATIENCE, &|| {
        read.set(read.get() || all_read.try_recv().is_ok());
        read.get()
    }));
}

#[test]
fn a_slow_server_makes_the_link_full_until_it_reads() {
    let (go, may_read) = channel::<()>();
    let (target, server) = server(move |mut server| {
        server.accept();
        may_read.recv().unwrap();
        let mut messages = 0;
        while let Some(Packet::Publish(_)) = server.receive() {
            messages += 1;
        }
        messages
    });
    let driver = driver();
    let link = connected(&driver, target, 0);
    let payload = vec![0; 64 << 10];
    let mut messages = 0;
    while !link.is_full() {
        publish(&link, &payload);
        messages += 1;
        driver.turn(false);
    }
    go.send(()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while link.is_full() {
        assert!(Instant::now() < deadline);
        driver.wait_until(deadline, || !link.is_full());
    }
    disconnect(&link);
    link.close_flushed(&driver, deadline);
    assert_eq!(server.recv_timeout(PATIENCE).unwrap(), messages);
}

/// Payloads that begin with their number. Each is larger than a socket takes at once.
fn large_payloads() -> Vec<Bytes> {
    (1..=4).map(|n| vec![n; 6 << 20].into()).collect()
}

#[test]
fn what_the_connection_does_not_take_of_a_large_message_is_copied_and_keeps_its_place() {
    let (go, may_read) = channel::<()>();
    let (target, server) = server(move |mut server| {
        server.accept();
        may_read.recv().unwrap();
        server.receive_payloads()
    });
    let driver = driver();
    let link = connected(&driver, target, 0);
    let mut expected = Vec::new();
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
            go.send(()).unwrap();
        }
    }
    let deadline = Instant::now() + PATIENCE;
    while link.outgoing_bytes() > 0 {
        assert!(Instant::now() < deadline);
        driver.wait_until(deadline, || link.outgoing_bytes() == 0);
    }
    disconnect(&link);
    link.close_flushed(&driver, Instant::now() + PATIENCE);
    let received = server.recv_timeout(PATIENCE).unwrap();
    let sizes = |payloads: &[Bytes]| payloads.iter().map(Bytes::len).collect::<Vec<_>>();
    assert_eq!(sizes(&received), sizes(&expected));
    assert!(received == expected);
}

#[test]
fn a_large_message_is_not_copied_if_the_connection_takes_it_in_time() {
    let (target, server) = server(|mut server| {
        server.accept();
        server.receive_payloads()
    });
    let driver = driver();
    let link = connected(&driver, target, 0);
    let payloads = large_payloads();
    for payload in &payloads {
        publish_large(&driver, &link, payload, PATIENCE);
        assert_eq!(link.outgoing_bytes(), 0);
    }
    disconnect(&link);
    link.close_flushed(&driver, Instant::now() + PATIENCE);
    assert!(server.recv_timeout(PATIENCE).unwrap() == payloads);
}

#[test]
fn a_large_message_is_not_cut_when_its_connection_is_let_go_of_meanwhile() {
    for for_good in [false, true] {
        let (go, may_read) = channel::<()>();
        let (target, server) = server(move |mut server| {
            server.accept();
            may_read.recv().unwrap();
            server.receive_payloads()
        });
        let driver = driver();
        let link = connected(&driver, target, 0);
        let payload = Bytes::from(vec![1; 12 << 20]);
        thread::scope(|scope| {
            scope.spawn(|| publish_large(&driver, &link, &payload, PATIENCE));
            let deadline = Instant::now() + PATIENCE;
            // The head has been taken. Some of it is written, and the rest waits for the server.
            while !link.has_large() {
                assert!(Instant::now() < deadline);
                thread::yield_now();
            }
            match for_good {
                true => link.leave(),
                false => link.close(),
            }
            // At the end of the process, another thread than the driving one does this.
            driver.hub.wake_dirty();
            driver.hub.news.notify_one();
            go.send(()).unwrap();
        });
        let payloads = server.recv_timeout(PATIENCE).unwrap();
        assert!(payloads == [payload]);
    }
}

#[test]
fn a_large_message_does_not_outlast_its_connection() {
    let (target, _server) = server(|mut server| server.accept());
    let driver = driver();
    let link = connected(&driver, target, 0);
    let start = Instant::now();
    for payload in &large_payloads()[..2] {
        publish_large(&driver, &link, payload, PATIENCE);
    }
    assert!(start.elapsed() < PATIENCE);
    assert!(matches!(
        next(&driver, &link),
        LinkEvent::Ended(Ended::Closed)
    ));
}

#[test]
fn the_end_of_the_stream_comes_after_every_packet() {
    let (target, _server) = server(|mut server| {
        server.accept();
        server.send(&message(Bytes::from_static(b"last words")));
    });
    let driver = driver();
    let link = connected(&driver, target, 0);
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
    let (target, server) = server(|mut server| {
        server.accept();
        server.receive()
    });
    let driver = driver();
    let link = connected(&driver, target, 0);
    link.close();
    assert_eq!(server.recv_timeout(PATIENCE).unwrap(), None);
}

#[test]
fn a_refused_connection_is_told() {
    let unused = TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap();
    let driver = driver();
    let link = link(&driver);
    link.open(&driver, Target::tcp("127.0.0.1", unused.port()), PATIENCE);
    match next(&driver, &link) {
        LinkEvent::OpenFailed(error) => assert!(error.to_string().contains("refused"), "{error}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_timer_wakes_the_link_and_the_last_one_counts() {
    let driver = driver();
    let link = link(&driver);
    link.wake_after(PATIENCE * 10);
    link.wake_after(Duration::from_millis(5));
    assert!(matches!(next(&driver, &link), LinkEvent::Woken));
    assert!(link.next_event().is_none());
}

#[test]
fn a_timer_that_is_replaced_or_whose_link_is_gone_leaves_nothing_behind() {
    let driver = driver();
    let tasks = || driver.runtime().metrics().num_alive_tasks();
    let before = tasks();
    let link = link(&driver);
    for _ in 0..100 {
        link.wake_after(PATIENCE * 10);
    }
    assert_eq!(tasks(), before);
    assert_eq!(driver.hub.alarms.pending(), 1);
    drop(link);
    assert_eq!(driver.hub.alarms.pending(), 0);
    assert!(!driver.hub.has_tasks());
}

#[test]
fn a_timer_wakes_the_link_while_lua_is_away() {
    let driver = driver();
    let link = link(&driver);
    // This link's alarm is not the first pending one.
    let other = self::link(&driver);
    other.wake_after(Duration::from_millis(1));
    link.wake_after(Duration::from_millis(2));
    let deadline = Instant::now() + PATIENCE;
    while !(link.has_events() && other.has_events()) {
        assert!(Instant::now() < deadline);
        thread::yield_now();
    }
}

#[test]
fn a_turn_does_not_block_and_a_wait_keeps_its_time() {
    let driver = driver();
    let link = link(&driver);
    link.wake_after(PATIENCE * 10);
    let start = Instant::now();
    driver.turn(false);
    driver.wait(Some(Duration::from_millis(20)), || false);
    let waited = start.elapsed();
    assert!(
        waited >= Duration::from_millis(20) && waited < PATIENCE,
        "{waited:?}"
    );
    assert!(!driver.wait_until(start, || false));
}

/// A server that accepts the client and receives one packet. The server is returned too: its end would be an event, and
/// without a connection no thread need drive.
fn server_of_one_packet() -> (Target, Receiver<(Option<Packet>, Server)>) {
    server(|mut server| {
        server.accept();
        (server.receive(), server)
    })
}

#[test]
fn a_program_that_steps_takes_the_wheel_from_the_caretaker() {
    let (target, server) = server_of_one_packet();
    let driver = driver();
    let link = connected(&driver, target, 0);
    let deadline = Instant::now() + PATIENCE;
    let step_until = |is_driving: bool| {
        while driver.hub.helm.is_caretaker_driving() != is_driving {
            assert!(Instant::now() < deadline);
            match is_driving {
                true => thread::yield_now(),
                false => assert!(link.step(&driver).is_none()),
            }
        }
    };
    // Lua is away, comes back, and is away again.
    step_until(true);
    step_until(false);
    publish(&link, b"asked for between steps");
    let (received, _server) = server.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(received, Some(Packet::Publish(_))));
    step_until(true);
}

#[test]
fn what_is_published_is_written_within_the_next_step() {
    let (target, server) = server_of_one_packet();
    let driver = driver();
    let link = connected(&driver, target, 0);
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline);
        assert!(link.step(&driver).is_none());
        let wheel = driver.hub.helm.hold();
        // A caretaker that is about to drive would write too.
        if !driver.hub.helm.is_caretaker_driving() {
            publish(&link, b"hello");
            drop(wheel);
            assert!(link.step(&driver).is_none());
            break;
        }
    }
    assert_eq!(link.outgoing_bytes(), 0);
    assert!(server.recv_timeout(PATIENCE).unwrap().0.is_some());
}

/// Whether a descriptor becomes readable in time.
#[cfg(target_os = "linux")]
fn is_readable(fd: std::os::fd::RawFd, timeout: Duration) -> bool {
    let mut poll = mio::Poll::new().unwrap();
    poll.registry()
        .register(
            &mut mio::unix::SourceFd(&fd),
            mio::Token(0),
            mio::Interest::READABLE,
        )
        .unwrap();
    let mut events = mio::Events::with_capacity(1);
    poll.poll(&mut events, Some(timeout)).unwrap();
    !events.is_empty()
}

#[cfg(target_os = "linux")]
#[test]
fn a_descriptor_is_readable_when_bytes_have_arrived_that_nobody_has_read() {
    let (go, wait) = channel();
    let (sent, has_sent) = channel();
    let (target, server) = server(move |mut server| {
        server.accept();
        for _ in wait {
            server.send(&message(Bytes::from_static(b"hello")));
            sent.send(()).unwrap();
        }
        server.stream
    });
    let driver = driver();
    let link = connected(&driver, target, 60);
    let fd = link.fd().unwrap();
    assert!(link.step(&driver).is_none());
    assert!(!is_readable(fd, Duration::ZERO));
    {
        let _nobody_drives = driver.hub.helm.hold();
        go.send(()).unwrap();
        assert!(is_readable(fd, PATIENCE));
    }
    let event = std::iter::repeat_with(|| link.step(&driver))
        .flatten()
        .next();
    assert!(matches!(event, Some(LinkEvent::Packet(Packet::Publish(_)))));
    assert!(link.step(&driver).is_none());
    assert!(!is_readable(fd, Duration::ZERO));

    // Bytes for a connection that has been let go of are of no interest.
    has_sent.recv().unwrap();
    link.close_flushed(&driver, Instant::now() + PATIENCE);
    let _nobody_drives = driver.hub.helm.hold();
    go.send(()).unwrap();
    has_sent.recv().unwrap();
    assert!(!is_readable(fd, Duration::ZERO));
    drop(go);
    drop(server.recv().unwrap());
}

#[cfg(target_os = "linux")]
#[test]
fn a_descriptor_is_readable_when_something_is_to_be_written_and_nobody_drives() {
    let (target, server) = server(|mut server| {
        server.accept();
        std::iter::from_fn(|| server.receive()).count()
    });
    let driver = driver();
    let link = connected(&driver, target, 60);
    let fd = link.fd().unwrap();
    let mut published = 0;
    loop {
        assert!(link.step(&driver).is_none());
        assert!(!is_readable(fd, Duration::ZERO));
        let _nobody_drives = driver.hub.helm.hold();
        publish(&link, b"hello");
        published += 1;
        // A caretaker that is about to drive will do as well.
        if !driver.hub.helm.is_caretaker_driving() {
            assert!(is_readable(fd, Duration::ZERO));
            break;
        }
    }
    assert!(link.step(&driver).is_none());
    assert!(!is_readable(fd, Duration::ZERO));
    link.close_flushed(&driver, Instant::now() + PATIENCE);
    assert_eq!(published, server.recv().unwrap());
}
