//! A broker that is far faster than any client. It counts received messages, and sends buffers that were made before.
//!
//! Clients steer it by topics, so that every library can be measured in the same way:
//!
//! | PUBLISH to                          | The broker |
//! | ----------------------------------- | ---------- |
//! | `rig/data`                          | counts, and answers by QoS |
//! | `rig/end`                           | sends `rig/done` with the count, which starts anew |
//! | `rig/receive/QOS/MILLISECONDS/SIZE` | sends `rig/data` for that long, and at the end `rig/done` with the count |
//! | `rig/hold/COUNT`                    | keeps its answers back until there are COUNT |
//! | `rig/echoed`                        | notes that the message of [`Broker::echo`] has arrived |
//!
//! After `rig/receive` with QoS 1 or 2, `rig/done` comes once all messages are acknowledged.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::websocket::WebSocket;
use crate::wire::{self, *};

/// The most messages that may be unacknowledged while the broker sends.
const WINDOW: usize = 8192;
/// How many of these are sent at a time.
const BATCH: usize = 512;
/// How long a client may take to echo.
const PATIENCE: Duration = Duration::from_secs(20);
/// Enough stack for a connection: the buffers are on the heap.
const STACK: usize = 128 * 1024;

/// A running broker. It ends with the process.
pub struct Broker {
    /// The address without TLS.
    pub plain: SocketAddr,
    /// The address with TLS.
    pub tls: Option<SocketAddr>,
    /// The address for WebSocket.
    pub ws: SocketAddr,
    /// The address for WebSocket with TLS.
    pub wss: Option<SocketAddr>,
    /// The path of the Unix socket.
    pub unix: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// The connections without TLS, for the echo.
    connections: Mutex<Vec<Weak<TcpStream>>>,
    /// The number of messages echoed.
    echoes: Mutex<u64>,
    echoed: Condvar,
}

/// The messages that a broker sends for a while with QoS 1 or 2.
#[derive(Default)]
struct Hose {
    acknowledged: Mutex<u64>,
    changed: Condvar,
    /// Held while a packet is written: two threads write to the connection.
    writing: Mutex<()>,
}

impl Broker {
    /// Listens on free ports of the loopback, with TLS if there is a configuration for it, and on a Unix socket.
    pub fn start(configuration: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let for_plain = Arc::clone(&shared);
        let plain = listen(move |stream| {
            let stream = Arc::new(stream);
            lock(&for_plain.connections).push(Arc::downgrade(&stream));
            let own = Arc::clone(&stream);
            Connection::new(&*stream, Some(own), Arc::clone(&for_plain)).serve()
        })?;
        let of_tls = Arc::clone(&shared);
        let tls = tls_listener(&configuration, move |stream| {
            Connection::new(stream, None, Arc::clone(&of_tls)).serve()
        })?;
        let of_ws = Arc::clone(&shared);
        let ws = listen(move |stream| {
            let stream = WebSocket::accept(stream)?;
            Connection::new(stream, None, Arc::clone(&of_ws)).serve()
        })?;
        let of_wss = Arc::clone(&shared);
        let wss = tls_listener(&configuration, move |stream| {
            let stream = WebSocket::accept(stream)?;
            Connection::new(stream, None, Arc::clone(&of_wss)).serve()
        })?;
        let unix = std::env::temp_dir().join(format!("rig-{}.sock", std::process::id()));
        listen_unix(&unix, Arc::clone(&shared))?;
        Ok(Self {
            plain,
            tls,
            ws,
            wss,
            unix,
            shared,
        })
    }

    /// Waits until all connections without TLS are gone.
    pub fn wait_until_idle(&self) {
        while lock(&self.shared.connections)
            .iter()
            .any(|connection| connection.strong_count() > 0)
        {
            thread::sleep(Duration::from_millis(5));
        }
        lock(&self.shared.connections).clear();
    }

    /// Sends a message to one connection after the other. Each waits until the one before has answered with
    /// `rig/echoed`. Returns the number of answers.
    pub fn echo(&self, duration: Duration) -> io::Result<u64> {
        let targets: Vec<_> = lock(&self.shared.connections)
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        let mut message = Vec::new();
        wire::publish(&mut message, 4, 0, 0, DATA, &[b'x'; 64]);
        let start = Instant::now();
        let mut count = 0;
        for target in targets.iter().cycle() {
            if start.elapsed() >= duration {
                break;
            }
            (&**target).write_all(&message)?;
            let echoes = lock(&self.shared.echoes);
            let wait = self
                .shared
                .echoed
                .wait_timeout_while(echoes, PATIENCE, |echoes| *echoes == 0);
            let (mut echoes, _) = wait.expect("no thread panics with a lock");
            if std::mem::take(&mut *echoes) == 0 {
                return Err(io::Error::other("a client does not echo"));
            }
            count += 1;
        }
        Ok(count)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread panics with a lock")
}

/// Removes the Unix socket.
impl Drop for Broker {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.unix);
    }
}

type TlsStream = StreamOwned<ServerConnection, TcpStream>;

fn tls_listener(
    configuration: &Option<Arc<ServerConfig>>,
    serve: impl Fn(TlsStream) -> io::Result<()> + Send + Sync + 'static,
) -> io::Result<Option<SocketAddr>> {
    let Some(configuration) = configuration.clone() else {
        return Ok(None);
    };
    let address = listen(move |stream| {
        let tls = ServerConnection::new(Arc::clone(&configuration)).map_err(io::Error::other)?;
        serve(StreamOwned::new(tls, stream))
    })?;
    Ok(Some(address))
}

fn listen_unix(path: &Path, shared: Arc<Shared>) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    thread::spawn(move || {
        for stream in listener.incoming() {
            let shared = Arc::clone(&shared);
            let served = stream.and_then(|stream| {
                let serve = move || Connection::new(stream, None, shared).serve();
                thread::Builder::new().stack_size(STACK).spawn(serve)
            });
            if let Err(error) = served {
                eprintln!("rig: a connection is lost: {error}");
            }
        }
    });
    Ok(())
}

fn listen(
    serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let serve = Arc::clone(&serve);
            let served = stream.and_then(|stream| {
                stream.set_nodelay(true)?;
                thread::Builder::new()
                    .stack_size(STACK)
                    .spawn(move || serve(stream))
            });
            if let Err(error) = served {
                eprintln!("rig: a connection is lost: {error}");
            }
        }
    });
    Ok(address)
}

struct Connection<S> {
    stream: S,
    /// The same stream, for the thread of a [`Hose`].
    shared_stream: Option<Arc<TcpStream>>,
    shared: Arc<Shared>,
    state: State,
}

/// The state of a connection besides its stream.
#[derive(Default)]
struct State {
    version: u8,
    /// Answers to send once all received packets have been handled.
    answers: Vec<u8>,
    received: u64,
    /// How many messages of the hose have been acknowledged since it was last told.
    acknowledged: u64,
    /// The number of answers kept back, and the number at which they go out.
    held: u64,
    hold: u64,
    hose: Option<Arc<Hose>>,
}

/// The work of a packet beyond an answer.
enum Command {
    Receive {
        qos: u8,
        duration: Duration,
        size: usize,
    },
    Echoed,
    Close,
}

impl<S: Read + Write> Connection<S> {
    fn new(stream: S, shared_stream: Option<Arc<TcpStream>>, shared: Arc<Shared>) -> Self {
        Self {
            stream,
            shared_stream,
            shared,
            state: State::default(),
        }
    }

    /// Serves until the client closes the connection.
    fn serve(mut self) -> io::Result<()> {
        let mut reader = Reader::new();
        while reader.fill(&mut self.stream)? {
            while let Some(packet) = reader.next() {
                match self.state.handle(packet) {
                    Some(Command::Receive {
                        qos,
                        duration,
                        size,
                    }) => self.receive(qos, duration, size)?,
                    Some(Command::Echoed) => {
                        *lock(&self.shared.echoes) += 1;
                        self.shared.echoed.notify_one();
                    }
                    Some(Command::Close) => return Ok(()),
                    None => {}
                }
            }
            self.answer()?;
        }
        Ok(())
    }

    fn answer(&mut self) -> io::Result<()> {
        let state = &mut self.state;
        if let Some(hose) = &state.hose {
            *lock(&hose.acknowledged) += std::mem::take(&mut state.acknowledged);
            hose.changed.notify_one();
        }
        if !state.answers.is_empty() && state.held >= state.hold {
            let _writing = state.hose.as_ref().map(|hose| lock(&hose.writing));
            self.stream.write_all(&state.answers)?;
            self.stream.flush()?;
            state.answers.clear();
        }
        Ok(())
    }

    /// Sends messages for a while: for QoS 0 at once, otherwise in another thread.
    fn receive(&mut self, qos: u8, duration: Duration, size: usize) -> io::Result<()> {
        self.answer()?;
        let count = match qos {
            0 => (CHUNK / size).max(1),
            _ => WINDOW,
        };
        let payload = vec![b'x'; size];
        let mut buffer = Vec::new();
        for id in 1..=count {
            wire::publish(
                &mut buffer,
                self.state.version,
                qos,
                id as u16,
                DATA,
                &payload,
            );
        }
        let until = Instant::now() + duration;
        if qos == 0 {
            let mut sent = 0;
            while Instant::now() < until {
                self.stream.write_all(&buffer)?;
                sent += count as u64;
            }
            self.state.done(sent);
            return self.answer();
        }
        let stream = self.shared_stream.clone().ok_or_else(|| {
            io::Error::other("only QoS 0 is sent over TLS: its stream has one thread")
        })?;
        let hose = Arc::new(Hose::default());
        self.state.hose = Some(Arc::clone(&hose));
        let version = self.state.version;
        thread::spawn(move || hose.run(&stream, version, &buffer, until));
        Ok(())
    }
}

impl Drop for State {
    /// A thread that still sends need not wait for acknowledgements any more.
    fn drop(&mut self) {
        if let Some(hose) = &self.hose {
            *lock(&hose.acknowledged) = u64::MAX;
            hose.changed.notify_one();
        }
    }
}

impl State {
    /// Handles a packet. Returns the work beyond an answer.
    #[inline]
    fn handle(&mut self, packet: Packet<'_>) -> Option<Command> {
        match packet.kind() {
            PUBLISH => {
                let answer = match packet.qos() {
                    0 => None,
                    1 => Some(PUBACK),
                    _ => Some(PUBREC),
                };
                if let Some(answer) = answer {
                    self.answer(answer, packet.id());
                }
                if packet.topic() != DATA.as_bytes() {
                    return self.command(packet.topic());
                }
                self.received += 1;
            }
            PUBACK | PUBCOMP => self.acknowledged += 1,
            PUBREC => self.answer(PUBREL, packet.id()),
            PUBREL => self.answer(PUBCOMP, packet.id()),
            CONNECT => {
                self.version = packet.body[6];
                let properties: &[u8] = if self.version == 5 { &[0] } else { &[] };
                wire::packet(&mut self.answers, CONNACK, &[&[0, 0], properties]);
            }
            SUBSCRIBE => {
                self.held += 1;
                let properties: &[u8] = if self.version == 5 { &[0] } else { &[] };
                wire::packet(&mut self.answers, SUBACK, &[&packet.id(), properties, &[0]]);
            }
            PINGREQ => wire::packet(&mut self.answers, PINGRESP, &[]),
            _ => return Some(Command::Close),
        }
        None
    }

    fn answer(&mut self, first: u8, id: [u8; 2]) {
        self.held += 1;
        wire::acknowledgement(&mut self.answers, first, id);
    }

    fn done(&mut self, count: u64) {
        done(&mut self.answers, self.version, count);
    }

    fn command(&mut self, topic: &[u8]) -> Option<Command> {
        let topic = String::from_utf8_lossy(topic);
        let mut parts = topic.split('/').skip(1);
        let name = parts.next().unwrap_or_default();
        let mut number = || parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
        match name {
            "end" => {
                let received = std::mem::take(&mut self.received);
                self.done(received);
            }
            "receive" => {
                return Some(Command::Receive {
                    qos: number() as u8,
                    duration: Duration::from_millis(number()),
                    size: number() as usize,
                });
            }
            "hold" => (self.held, self.hold) = (0, number()),
            "echoed" => return Some(Command::Echoed),
            _ => eprintln!("rig: {topic} is no topic of the broker"),
        }
        None
    }
}

impl Hose {
    /// Sends the buffer of `WINDOW` messages again and again. When all are acknowledged, sends `rig/done`.
    fn run(
        &self,
        mut stream: &TcpStream,
        version: u8,
        buffer: &[u8],
        until: Instant,
    ) -> io::Result<()> {
        let batches = WINDOW / BATCH;
        let size = buffer.len() / batches;
        let mut sent = 0;
        while Instant::now() < until {
            // Earlier messages with the same packet identifiers must have been acknowledged.
            self.wait_for((sent + BATCH as u64).saturating_sub(WINDOW as u64));
            let at = (sent as usize / BATCH % batches) * size;
            let _writing = lock(&self.writing);
            stream.write_all(&buffer[at..at + size])?;
            sent += BATCH as u64;
        }
        self.wait_for(sent);
        let mut message = Vec::new();
        done(&mut message, version, sent);
        let _writing = lock(&self.writing);
        stream.write_all(&message)
    }

    fn wait_for(&self, count: u64) {
        let acknowledged = lock(&self.acknowledged);
        drop(
            self.changed
                .wait_while(acknowledged, |acknowledged| *acknowledged < count),
        );
    }
}

fn done(out: &mut Vec<u8>, version: u8, count: u64) {
    wire::publish(out, version, 0, 0, DONE, count.to_string().as_bytes());
}
