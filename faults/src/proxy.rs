//! Moves bytes between clients and one server, and injects the faults of the plan and of commands.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::plan::{CutKind, Direction, Disturbance, Plan, Script, Step};

/// After an end by FIN, how long the peers have to end their side before the connection is closed.
const FIN_WAIT: Duration = Duration::from_secs(1);
/// The most bytes that are moved at once.
const BUFFER_SIZE: usize = 16 * 1024;

/// A command at any time. It concerns all connections that are open then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Cuts all connections. This uses up none of the plan's cuts.
    Cut(CutKind),
    /// No bytes pass for this time, nor on later connections.
    Stall(Duration),
    /// Bytes in this direction are swallowed, on later connections too, until [`Command::Heal`].
    Swallow(Direction),
    /// Bytes pass one by one, on later connections too, until [`Command::Heal`].
    Trickle,
    /// Ends all these faults, and the plan. From now on faults come only on command.
    Heal,
}

/// The commands' names and arguments.
pub const COMMANDS: &str =
    "cut [fin|reset|abandon], stall MILLISECONDS, swallow to-server|to-client, trickle, heal";

impl FromStr for Command {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        Ok(match words[..] {
            ["cut"] | ["cut", "reset"] => Self::Cut(CutKind::Reset),
            ["cut", "fin"] => Self::Cut(CutKind::Fin),
            ["cut", "abandon"] => Self::Cut(CutKind::Abandon),
            ["stall", milliseconds] => {
                let milliseconds = milliseconds
                    .parse()
                    .map_err(|_| format!("expecting milliseconds, got '{milliseconds}'"))?;
                Self::Stall(Duration::from_millis(milliseconds))
            }
            ["swallow", "to-server"] => Self::Swallow(Direction::ToServer),
            ["swallow", "to-client"] => Self::Swallow(Direction::ToClient),
            ["trickle"] => Self::Trickle,
            ["heal"] => Self::Heal,
            _ => return Err(format!("unknown command '{line}', expecting {COMMANDS}")),
        })
    }
}

/// News of the proxy. Connections are numbered from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A client has connected, and the server has accepted.
    Opened {
        /// The connection's number.
        connection: u64,
    },
    /// A client has connected, but the server could not be reached: the client sees RST.
    Refused {
        /// The connection's number.
        connection: u64,
        /// The error of the attempt.
        reason: String,
    },
    /// No bytes pass, or they pass one by one.
    Disturbed {
        /// The connection's number.
        connection: u64,
        /// The disturbed direction.
        direction: Direction,
        /// The disturbance.
        disturbance: Disturbance,
    },
    /// The connection is cut by the plan. A half-open connection is half open from now on, and cut later.
    Cut {
        /// The connection's number.
        connection: u64,
        /// The direction whose bytes were counted.
        direction: Direction,
        /// How many of these bytes have passed.
        bytes: u64,
        /// The kind of the cut.
        kind: CutKind,
    },
    /// The connection is cut by a command.
    CutByCommand {
        /// The connection's number.
        connection: u64,
        /// The kind of the cut.
        kind: CutKind,
    },
    /// The peers have ended the connection.
    Closed {
        /// The connection's number.
        connection: u64,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opened { connection } => write!(f, "opened {connection}"),
            Self::Refused { connection, reason } => write!(f, "refused {connection} {reason}"),
            Self::Disturbed {
                connection,
                direction,
                disturbance,
            } => {
                write!(f, "disturbed {connection} {direction} ")?;
                match disturbance {
                    Disturbance::Pause(pause) => write!(f, "pause {}", pause.as_millis()),
                    Disturbance::Trickle(bytes) => write!(f, "trickle {bytes}"),
                }
            }
            Self::Cut {
                connection,
                direction,
                bytes,
                kind,
            } => {
                write!(f, "cut {connection} {direction} {bytes} {kind}")
            }
            Self::CutByCommand { connection, kind } => {
                write!(f, "cut {connection} by-command {kind}")
            }
            Self::Closed { connection } => write!(f, "closed {connection}"),
        }
    }
}

/// The state that commands change and connections watch.
#[derive(Clone, Debug, Default)]
struct Control {
    healed: bool,
    stalled_until: Option<Instant>,
    trickling: bool,
    swallowed: Vec<Direction>,
    /// The number of cuts by command, and the kind of the last.
    cuts: u64,
    kind: Option<CutKind>,
}

/// The state that all connections share.
struct Shared {
    target: SocketAddr,
    plan: Plan,
    cuts_left: AtomicU32,
    control: watch::Receiver<Control>,
    events: mpsc::UnboundedSender<Event>,
}

/// A proxy at work. Dropping it closes all its connections.
pub struct Proxy {
    address: SocketAddr,
    control: watch::Sender<Control>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens on `listen`, where port 0 means a free port, and forwards to `target`. The events tell what happens.
    pub async fn start(
        listen: SocketAddr,
        target: SocketAddr,
        plan: Plan,
    ) -> io::Result<(Self, mpsc::UnboundedReceiver<Event>)> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let (control, watched) = watch::channel(Control::default());
        let (events, receiver) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            target,
            cuts_left: AtomicU32::new(plan.cuts),
            plan,
            control: watched,
            events,
        });
        let accepting = tokio::spawn(accept(listener, shared));
        Ok((
            Self {
                address,
                control,
                accepting,
            },
            receiver,
        ))
    }

    /// The address on which the proxy listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Carries out a command.
    pub fn command(&self, command: Command) {
        self.control.send_modify(|control| match command {
            Command::Cut(kind) => {
                control.cuts += 1;
                control.kind = Some(kind);
            }
            Command::Stall(pause) => control.stalled_until = Some(Instant::now() + pause),
            Command::Swallow(direction) => control.swallowed.push(direction),
            Command::Trickle => control.trickling = true,
            Command::Heal => {
                control.healed = true;
                control.stalled_until = None;
                control.trickling = false;
                control.swallowed.clear();
            }
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    let mut number = 0;
    loop {
        tokio::select! {
            // Accepting may fail for want of descriptors, for instance. The next attempt may be luckier.
            accepted = listener.accept() => if let Ok((client, _)) = accepted {
                number += 1;
                connections.spawn(Connection { number, shared: shared.clone() }.serve(client));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Why no more bytes pass.
enum End {
    Cut {
        kind: CutKind,
        /// Whether the server sees FIN where the client sees RST.
        server_fin: bool,
    },
    /// A peer has reset the connection.
    Broken,
}

struct Connection {
    number: u64,
    shared: Arc<Shared>,
}

impl Connection {
    async fn serve(self, mut client: TcpStream) {
        let connection = self.number;
        let mut server = match TcpStream::connect(self.shared.target).await {
            Ok(server) => server,
            Err(error) => {
                reset(client);
                let reason = error.to_string();
                return self.tell(Event::Refused { connection, reason });
            }
        };
        self.tell(Event::Opened { connection });
        // If this fails, the peer is gone, and reading will tell.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let [to_server, to_client] = self.shared.plan.scripts(connection);
        let end = {
            let (from_client, client) = client.split();
            let (from_server, server) = server.split();
            tokio::select! {
                end = async { tokio::try_join!(
                    self.pump(Direction::ToServer, to_server, from_client, server),
                    self.pump(Direction::ToClient, to_client, from_server, client),
                ) } => end.err(),
                kind = self.cut_by_command() => {
                    self.tell(Event::CutByCommand { connection, kind });
                    Some(End::Cut { kind, server_fin: false })
                }
            }
        };
        match end {
            None => self.tell(Event::Closed { connection }),
            Some(End::Broken) => {
                reset(client);
                reset(server);
                self.tell(Event::Closed { connection });
            }
            Some(End::Cut {
                kind: CutKind::Fin, ..
            }) => {
                tokio::join!(finish(client), finish(server));
            }
            Some(End::Cut {
                kind: CutKind::Reset | CutKind::HalfOpen,
                server_fin,
            }) => {
                reset(client);
                match server_fin {
                    true => finish(server).await,
                    false => reset(server),
                }
            }
            Some(End::Cut {
                kind: CutKind::Abandon,
                ..
            }) => {
                reset(client);
                swallow(&mut server.split().0).await;
            }
        }
    }

    fn tell(&self, event: Event) {
        // Perhaps nobody listens.
        let _ = self.shared.events.send(event);
    }

    /// Waits for the next cut by command.
    async fn cut_by_command(&self) -> CutKind {
        let mut control = self.shared.control.clone();
        let before = control.borrow().cuts;
        match control.wait_for(|control| control.cuts > before).await {
            Ok(control) => control.kind.unwrap_or(CutKind::Reset),
            // The proxy is being dropped.
            Err(_) => CutKind::Reset,
        }
    }

    /// Moves the bytes of one direction, until their sender has ended it and the end has been passed on.
    async fn pump(
        &self,
        direction: Direction,
        mut script: Script,
        mut from: ReadHalf<'_>,
        mut to: WriteHalf<'_>,
    ) -> Result<(), End> {
        let connection = self.number;
        let mut control = self.shared.control.clone();
        let mut buffer = vec![0; BUFFER_SIZE];
        // How many more bytes pass one by one.
        let mut trickling = 0;
        loop {
            let size = from.read(&mut buffer).await.map_err(|_| End::Broken)?;
            if size == 0 {
                return to.shutdown().await.map_err(|_| End::Broken);
            }
            let mut rest = &buffer[..size];
            while !rest.is_empty() {
                wait_for_stall(&mut control).await;
                let Control {
                    healed,
                    trickling: all_trickling,
                    ..
                } = *control.borrow();
                match script.next(rest.len()) {
                    Step::Pass(passing) => {
                        let (passing, behind) = rest.split_at(passing);
                        rest = behind;
                        if control.borrow().swallowed.contains(&direction) {
                            continue;
                        }
                        let singles = if all_trickling {
                            passing.len()
                        } else {
                            trickling
                        };
                        let (singles, together) = passing.split_at(singles.min(passing.len()));
                        trickling = trickling.saturating_sub(singles.len());
                        for byte in singles.chunks(1) {
                            to.write_all(byte).await.map_err(|_| End::Broken)?;
                            tokio::task::yield_now().await;
                        }
                        to.write_all(together).await.map_err(|_| End::Broken)?;
                    }
                    _ if healed => trickling = 0,
                    Step::Disturb(disturbance) => {
                        self.tell(Event::Disturbed {
                            connection,
                            direction,
                            disturbance,
                        });
                        match disturbance {
                            Disturbance::Pause(pause) => sleep(pause).await,
                            Disturbance::Trickle(bytes) => trickling = bytes,
                        }
                    }
                    Step::Cut(cut) if self.take_cut() => {
                        let (bytes, kind) = (script.passed(), cut.kind);
                        self.tell(Event::Cut {
                            connection,
                            direction,
                            bytes,
                            kind,
                        });
                        if kind == CutKind::HalfOpen {
                            let _ = timeout(cut.pause, swallow(&mut from)).await;
                        }
                        let server_fin = cut.server_fin;
                        return Err(End::Cut { kind, server_fin });
                    }
                    Step::Cut(_) => {}
                }
            }
        }
    }

    /// Takes one of the plan's cuts. Returns false if none is left.
    fn take_cut(&self) -> bool {
        let left = &self.shared.cuts_left;
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(1)
        })
        .is_ok()
    }
}

async fn wait_for_stall(control: &mut watch::Receiver<Control>) {
    loop {
        let until = control.borrow_and_update().stalled_until;
        match until {
            Some(until) if until > Instant::now() => tokio::select! {
                () = sleep_until(until) => return,
                // An error means that nobody can heal it any more.
                changed = control.changed() => if changed.is_err() { return },
            },
            _ => return,
        }
    }
}

/// Reads and forgets bytes until the sender has ended.
async fn swallow(from: &mut ReadHalf<'_>) {
    let mut buffer = vec![0; BUFFER_SIZE];
    while matches!(from.read(&mut buffer).await, Ok(1..)) {}
}

/// Ends a stream by FIN. Closing it with unread bytes would send RST, so they are read for a while.
async fn finish(mut stream: TcpStream) {
    let _ = stream.shutdown().await;
    let _ = timeout(FIN_WAIT, swallow(&mut stream.split().0)).await;
}

/// Closes a stream by RST.
fn reset(stream: TcpStream) {
    // It fails for a stream that has been reset already.
    let _ = stream.set_zero_linger();
}
