//! What only sockets show: a connection that is reset, a refusal, and descriptors. The servers are threads on loopback.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Instant;

use super::*;

/// The server's end of one connection.
struct Server {
    stream: TcpStream,
    decoder: Decoder,
    input: BytesMut,
}

impl Server {
    fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Server {
            stream,
            decoder: Decoder::new(Version::V311),
            input: BytesMut::new(),
        }
    }

    fn send(&mut self, packet: &Packet) {
        self.stream.write_all(&bytes_of(packet)).unwrap();
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

    /// Takes CONNECT and accepts it.
    fn accept(&mut self) {
        assert!(matches!(self.receive(), Some(Packet::Connect(_))));
        self.send(&connack());
    }
}

/// A link with a connection to a server, which `serve` serves in a thread of its own. Returns the receiver of the
/// result of `serve`.
fn connected<T: Send + 'static>(
    driver: &Driver,
    serve: impl FnOnce(Server) -> T + Send + 'static,
) -> (Arc<Link>, Receiver<T>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, result) = channel();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut server = Server::new(stream);
        server.accept();
        // If the test has failed already, nobody receives the result.
        let _ = sender.send(serve(server));
    });
    let link = link(driver);
    link.open(driver, Target::tcp("127.0.0.1", port), PATIENCE);
    connect(driver, &link, 60);
    (link, result)
}

fn driver() -> Driver {
    Driver::new(|| {}).unwrap()
}

#[test]
fn closing_in_order_loses_nothing_when_received_data_is_unread() {
    const SIZE: usize = 4 << 20;
    let driver = driver();
    let (link, server) = connected(&driver, |mut server| {
        // More bytes than the client will ever read.
        let flood = message(vec![0; SIZE]);
        let mut writer = Server::new(server.stream.try_clone().unwrap());
        let flooding = thread::spawn(move || writer.send(&flood));
        let received = server.receive();
        let last = server.receive();
        // The write ends with an error when the client is gone.
        drop(flooding);
        (received, last)
    });
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
    let driver = driver();
    let (link, server) = connected(&driver, move |mut server| {
        for _ in wait {
            server.send(&message("hello"));
            sent.send(()).unwrap();
        }
        server.stream
    });
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
    let driver = driver();
    let (link, server) = connected(&driver, |mut server| {
        std::iter::from_fn(|| server.receive()).count()
    });
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
