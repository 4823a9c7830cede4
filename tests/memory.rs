//! Memory that a hostile server can make the session allocate: as much as it sends, never as much as it announces. And
//! memory that an idle client takes. Measured with an allocator that counts.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use mqtt_core::codec::*;
use mqtt_core::driver::{Driver, Link, LinkEvent, Request};
use mqtt_core::net::Target;
use mqtt_core::session::{Event, Session, Settings, State};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const BOTH: [Version; 2] = [Version::V311, Version::V50];
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// The largest read of the driver, in bytes.
const READ: usize = 64 * KIB;

/// Runs one test at a time, because the allocator counts for the whole process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|failed| failed.into_inner())
}

/// The most memory that was held meanwhile beyond the memory held before, in bytes.
fn peak(work: impl FnOnce()) -> usize {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    work();
    MEMORY.peak_usage() - before
}

/// Gives the session bytes that a driver has read from the server.
fn receive(session: &mut Session, bytes: &[u8]) {
    let mut buffer = BytesMut::from(bytes);
    session.receive(&mut buffer, Instant::now());
}

fn connect(version: Version) -> Connect {
    Connect {
        version,
        clean: true,
        keep_alive: 60,
        client_id: Str::from_static("client"),
        username: None,
        password: None,
        will: None,
        properties: Properties::new(),
    }
}

fn connected(version: Version) -> Session {
    let mut session = Session::new(version, Settings::default());
    session.open(Instant::now());
    session.connect(&connect(version)).unwrap();
    receive(
        &mut session,
        match version {
            Version::V311 => &[0x20, 2, 0, 0],
            Version::V50 => &[0x20, 3, 0, 0, 0],
        },
    );
    assert_eq!(session.state(), State::Connected);
    session.fill().clear();
    session.poll_event();
    session
}

/// A server sends these bytes again and again, up to `most` bytes. The driver reads them as long as the session wants
/// to. The program takes no event, and no byte is written.
fn flood(session: &mut Session, bytes: &[u8], most: usize) {
    let stream = bytes.repeat(READ.div_ceil(bytes.len()));
    let mut buffer = BytesMut::new();
    for _ in 0..most.div_ceil(stream.len()) {
        for piece in stream.chunks(READ) {
            if !session.wants_receive() {
                return;
            }
            buffer.reserve(READ);
            buffer.extend_from_slice(piece);
            session.receive(&mut buffer, Instant::now());
        }
    }
    assert_eq!(session.state(), State::Connected);
}

fn publish(version: Version, payload: usize) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    let message = PublishRef {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: true,
        topic: "t",
        packet_id: 0,
        properties: &Properties::new(),
        payload: &vec![b'x'; payload],
    };
    encode_publish(&message, version, &mut bytes).unwrap();
    bytes.to_vec()
}

#[test]
fn an_announced_length_allocates_nothing() {
    let _alone = alone();
    for version in BOTH {
        let mut session = connected(version);
        // Announces 256 MiB for each packet that may be as long. Few of these bytes come.
        for first_byte in [0x30, 0x40, 0x50, 0x62, 0x70, 0x90, 0xB0] {
            let mut buffer =
                BytesMut::from(&[first_byte, 0xFF, 0xFF, 0xFF, 0x7F, 0xFF, 0xFF, 1][..]);
            // Meanwhile the test harness may allocate names of other tests in another thread.
            let used = (0..10).map(|_| peak(|| session.receive(&mut buffer, Instant::now())));
            let least = used.min().unwrap();
            assert_eq!((buffer.len(), least), (8, 0));
            assert_eq!(session.missing(&buffer), 5 + 0x0FFF_FFFF - 8);
            assert_eq!(session.missing(&buffer[..4]), 0, "not known yet");
        }
    }
}

#[test]
fn lengths_inside_a_packet_allocate_nothing_either() {
    let _alone = alone();
    for bytes in [
        // A topic, a property list, a string and binary data that do not come.
        &[0x30, 4, 0xFF, 0xFF, b't', 0][..],
        &[0x30, 7, 0, 1, b't', 0xFF, 0xFF, 0xFF, 0x7F],
        &[0x30, 7, 0, 1, b't', 3, 3, 0xFF, 0xFF],
        &[0x30, 7, 0, 1, b't', 3, 9, 0xFF, 0xFF],
    ] {
        let mut session = connected(Version::V50);
        let used = peak(|| receive(&mut session, bytes));
        assert_eq!(session.state(), State::Disconnected);
        assert!(used < 2 * KIB, "{used}");
    }
}

#[test]
fn a_flood_of_messages_is_bounded() {
    let _alone = alone();
    for version in BOTH {
        for payload in [0, 10, 1000, 100_000] {
            let mut session = connected(version);
            let bytes = publish(version, payload);
            let used = peak(|| flood(&mut session, &bytes, 100 * MIB));
            assert!(!session.wants_receive());
            assert!(used < 4 * MIB, "{version} {payload}: {used}");
            // The session reads on as soon as the program has taken all events.
            while session.poll_event().is_some() {}
            assert!(session.wants_receive());
        }
    }
}

#[test]
fn messages_do_not_keep_what_came_between_them() {
    let _alone = alone();
    for version in BOTH {
        let mut session = connected(version);
        let mut bytes = publish(version, 0);
        bytes.extend([0xD0, 0].repeat(READ / 2));
        let used = peak(|| flood(&mut session, &bytes, 100 * MIB));
        assert!(used < 32 * MIB, "{version}: {used}");
    }
}

#[test]
fn answers_to_a_server_that_does_not_read_them_are_bounded() {
    let _alone = alone();
    for version in BOTH {
        for first_byte in [0x62, 0x50] {
            let mut session = connected(version);
            let bytes = [first_byte, 2, 0, 1];
            let used = peak(|| flood(&mut session, &bytes, 50 * MIB));
            assert!(used < 32 * MIB, "{version}: {used}");
        }
    }
}

#[test]
fn properties_cost_a_fixed_multiple_of_their_bytes() {
    let _alone = alone();
    // The shortest user property, and a subscription identifier.
    for property in [&[0x26, 0, 0, 0, 0][..], &[0x0B, 1]] {
        let list = property.repeat(65_535);
        let three_bytes = |n: usize| [n as u8 | 0x80, (n >> 7) as u8 | 0x80, (n >> 14) as u8];
        let mut bytes = vec![0x30];
        bytes.extend(three_bytes(3 + 3 + list.len()));
        bytes.extend([0, 1, b't']);
        bytes.extend(three_bytes(list.len()));
        bytes.extend(&list);
        let mut session = connected(Version::V50);
        let used = peak(|| receive(&mut session, &bytes));
        let Some(Event::Packet(Packet::Publish(publish))) = session.poll_event() else {
            panic!("not delivered");
        };
        assert_eq!(publish.properties.len(), 65_535);
        assert!(used < 64 * bytes.len(), "{used}");
    }
}

#[test]
fn an_idle_connection_takes_little() {
    const LINKS: usize = 200;
    const PATIENCE: Duration = Duration::from_secs(20);
    let _alone = alone();
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let mut streams = Vec::with_capacity(LINKS);
        for _ in 0..LINKS {
            let (mut stream, _) = listener.accept().unwrap();
            let mut packet = [0; 20];
            stream.read_exact(&mut packet).unwrap();
            stream.write_all(&[0x20, 2, 0, 0]).unwrap();
            streams.push(stream);
        }
        streams
    });
    let driver = Driver::new(|| {}).unwrap();
    let links: Vec<Arc<Link>> = (0..LINKS)
        .map(|_| Link::new(&driver, Session::new(Version::V311, Settings::default())))
        .collect();
    let target = Target::tcp("127.0.0.1", port);
    let before = MEMORY.current_usage();
    for link in &links {
        link.open(&driver, target.clone(), PATIENCE);
    }
    let mut connected = 0;
    let deadline = Instant::now() + PATIENCE;
    while connected < LINKS {
        assert!(Instant::now() < deadline);
        driver.wait(Some(PATIENCE), || false);
        while let Some(token) = driver.next_ready() {
            let link = links.iter().find(|link| link.token() == token).unwrap();
            while let Some(event) = link.next_event() {
                match event {
                    LinkEvent::Opened => {
                        let connect = connect(Version::V311);
                        link.ask(Request::Connect(connect.into())).unwrap();
                    }
                    LinkEvent::Packet(Packet::Connack(_)) => connected += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    let streams = server.join().unwrap();
    let each = (MEMORY.current_usage() - before) / LINKS;
    let whole = each + size_of::<Link>();
    assert!(
        whole < 2 * KIB,
        "{each} besides the link of {}",
        size_of::<Link>()
    );
    drop(streams);
}
