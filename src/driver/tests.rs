//! Tests the driver against servers within the test: the connections are pipes in memory, and the clock goes on only
//! when every task waits for it. So these tests need neither sockets nor time. `sockets.rs` tests what only a socket
//! shows.

mod alone;
mod caretaker;
mod sockets;
#[cfg(all(unix, feature = "store"))]
mod store;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::{Builder, EnterGuard};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::hub::Hub;
use super::{Driver, Ended, Lent, Link, LinkEvent, Request, now};
use crate::codec::{
    Connack, Connect, Decoder, Packet, PacketType, Properties, Publish, PublishRef, QoS, Str,
    Version, encode,
};
use crate::net::{OpenError, Socket, Stream, Target};
use crate::session::{Session, Settings};

/// The most bytes that a connection holds and nobody has read.
const CAPACITY: usize = 64 << 10;
/// Longer than anything takes: on the slowest machine where the clock runs, and else by the clock of the test.
const PATIENCE: Duration = Duration::from_secs(20);

/// A driver by the clock of the test. Only the test drives it.
fn driver() -> Driver {
    let mut runtime = Builder::new_current_thread();
    // Without `on_thread_unpark`: it would wake the test each time that the clock is about to go on, and the clock
    // would stand still.
    Driver::without_caretaker(Arc::new(Hub::new()), runtime.start_paused(true)).unwrap()
}

impl Driver {
    /// Makes [`now`] the time of this driver, until the returned value is dropped.
    fn clock(&self) -> EnterGuard<'_> {
        self.runtime().enter()
    }
}

/// The server's end of one connection.
struct Server<S = DuplexStream> {
    stream: S,
    decoder: Decoder,
    input: BytesMut,
}

impl<S: AsyncReadExt + AsyncWriteExt + Unpin> Server<S> {
    fn new(stream: S) -> Self {
        Server {
            stream,
            decoder: Decoder::new(Version::V311),
            input: BytesMut::new(),
        }
    }

    /// Returns whether the client is still there.
    async fn send(&mut self, packet: &Packet) -> bool {
        self.stream.write_all(&bytes_of(packet)).await.is_ok()
    }

    /// The next packet, or `None` at the end of the stream.
    async fn receive(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.decoder.decode(&mut self.input).unwrap() {
                return Some(packet);
            }
            if self.stream.read_buf(&mut self.input).await.unwrap() == 0 {
                return None;
            }
        }
    }

    /// The payloads of all messages until another packet comes.
    async fn receive_payloads(&mut self) -> Vec<Bytes> {
        let mut payloads = Vec::new();
        while let Some(Packet::Publish(publish)) = self.receive().await {
            payloads.push(publish.payload);
        }
        payloads
    }

    /// Takes CONNECT and accepts it.
    async fn accept(&mut self) {
        assert!(matches!(self.receive().await, Some(Packet::Connect(_))));
        assert!(self.send(&connack()).await);
    }
}

/// Opens a connection to a server. Returns the task of the server: its result ends the task, and dropping the result
/// ends the connection.
fn open<F>(
    driver: &Driver,
    link: &Arc<Link>,
    serve: impl FnOnce(Server) -> F,
) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let (client, server) = duplex(CAPACITY);
    let server = driver.runtime().spawn(serve(Server::new(server)));
    let stream = Stream::Plain(Socket::fake(client));
    link.open_by(driver, PATIENCE, async { Ok(stream) });
    server
}

/// A link with a connection that the server has accepted.
fn connected<F>(
    driver: &Driver,
    keep_alive: u16,
    serve: impl FnOnce(Server) -> F,
) -> (Arc<Link>, JoinHandle<F::Output>)
where
    F: Future<Output: Send> + Send + 'static,
{
    let link = link(driver);
    let server = open(driver, &link, serve);
    connect(driver, &link, keep_alive);
    (link, server)
}

/// Waits until the link is open, and until the server has accepted it.
fn connect(driver: &Driver, link: &Link, keep_alive: u16) {
    assert!(matches!(next(driver, link), LinkEvent::Opened));
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
        next(driver, link),
        LinkEvent::Packet(Packet::Connack(_))
    ));
}

fn link(driver: &Driver) -> Arc<Link> {
    Link::new(driver, Session::new(Version::V311, Settings::default()))
}

/// Drives the runtime until `is_so`.
fn until(driver: &Driver, is_so: impl Fn() -> bool) {
    let deadline = now() + PATIENCE;
    while !driver.wait_until(deadline, &is_so) {
        assert!(now() < deadline, "it never is");
    }
}

/// Returns the next event. Drives the runtime until there is one.
fn next(driver: &Driver, link: &Link) -> LinkEvent {
    until(driver, || link.has_events());
    link.next_event().unwrap()
}

/// Drives the runtime until a server is done. Returns its result.
fn result<T>(driver: &Driver, server: JoinHandle<T>) -> T {
    driver.drive(async { timeout(PATIENCE, server).await.unwrap().unwrap() })
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

fn message(payload: impl Into<Bytes>) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: Str::from_static("t"),
        packet_id: 0,
        properties: Properties::new(),
        payload: payload.into(),
    })
}

fn connack() -> Packet {
    Packet::Connack(Connack {
        session_present: false,
        reason: 0,
        properties: Properties::new(),
    })
}

fn bytes_of(packet: &Packet) -> BytesMut {
    let mut bytes = BytesMut::new();
    encode(packet, Version::V311, &mut bytes).unwrap();
    bytes
}
