//! Moves bytes between clients and one server, and injects what the plan and commands ask for.

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

/// How long the peers of a connection that was ended by FIN have to end theirs before it is closed.
const FIN_WAIT: Duration = Duration::from_secs(1);
/// How many bytes are moved at once.
const BUFFER_SIZE: usize = 16 * 1024;

/// What can be asked for at any time. It concerns all connections that are open then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Cuts them. The plan's cuts are not used up by this.
    Cut(CutKind),
    /// Nothing passes for so long, on later connections neither.
    Stall(Duration),
    /// Bytes in this direction are swallowed, on later connections too, until [`Command::Heal`].
    Swallow(Direction),
    /// Bytes pass one by one, on later connections too, until [`Command::Heal`].
    Trickle,
    /// Ends all that, and the plan: no more faults but those asked for from now on.
    Heal,
}

/// What a [`Command`] is called, and what it takes.
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

/// What has happened. Connections are numbered from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A client has connected, and the server has accepted.
    Opened {
        /// Its number.
        connection: u64,
    },
    /// A client has connected, but the server could not be reached: the client sees RST.
    Refused {
        /// Its number.
        connection: u64,
        /// The error of the attempt.
        reason: String,
    },
    /// Nothing passes, or only byte by byte.
    Disturbed {
        /// Its number.
        connection: u64,
        /// The direction that is disturbed.
        direction: Direction,
        /// How.
        disturbance: Disturbance,
    },
    /// The connection is cut as the plan says, or is half open from now on and cut then.
    Cut {
        /// Its number.
        connection: u64,
        /// The direction whose bytes were counted.
        direction: Direction,
        /// How many of them have passed.
        bytes: u64,
        /// How.
        kind: CutKind,
    },
    /// The connection is cut because of a command.
    CutByCommand {
        /// Its number.
        connection: u64,
        /// How.
        kind: CutKind,
    },
    /// The peers have ended the connection.
    Closed {
        /// Its number.
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
    /// How many times a cut was asked for, and how the last time.
    cuts: u64,
    kind: Option<CutKind>,
}

/// What all connections share.
struct Shared {
    target: SocketAddr,
    plan: Plan,
    cuts_left: AtomicU32,
    control: watch::Receiver<Control>,
    events: mpsc::UnboundedSender<Event>,
}

/// A proxy at work, until it is dropped: then all its connections are closed.
pub struct Proxy {
    address: SocketAddr,
    control: watch::Sender<Control>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens on `listen`, where port 0 means a free one, and forwards to `target`. What happens is told by the events.
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

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Does what a command says.
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
            // Out of descriptors, for instance: the next one may be luckier.
            accepted = listener.accept() => if let Ok((client, _)) = accepted {
                number += 1;
                connections.spawn(Connection { number, shared: shared.clone() }.serve(client));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Why bytes do not pass any more.
enum End {
    Cut {
        kind: CutKind,
        /// Whether the server sees FIN where the client sees RST.
        server_fin: bool,
    },
    /// A peer has reset it.
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
        // Where that fails the peer is gone, as reading will tell.
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
        // Nobody may listen.
        let _ = self.shared.events.send(event);
    }

    /// Waits for a cut that is asked for from now on.
    async fn cut_by_command(&self) -> CutKind {
        let mut control = self.shared.control.clone();
        let before = control.borrow().cuts;
        match control.wait_for(|control| control.cuts > before).await {
            Ok(control) => control.kind.unwrap_or(CutKind::Reset),
            // The proxy is being dropped.
            Err(_) => CutKind::Reset,
        }
    }

    /// Moves the bytes of one direction, until their sender has ended it and that was passed on.
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

    /// Whether the plan still has a cut, which is used up then.
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
                // An error: nobody can heal it any more.
                changed = control.changed() => if changed.is_err() { return },
            },
            _ => return,
        }
    }
}

/// Reads and forgets, until the sender has ended.
async fn swallow(from: &mut ReadHalf<'_>) {
    let mut buffer = vec![0; BUFFER_SIZE];
    while matches!(from.read(&mut buffer).await, Ok(1..)) {}
}

/// Ends a stream by FIN. Closing it with bytes unread would send RST, so they are read, for a while.
async fn finish(mut stream: TcpStream) {
    let _ = stream.shutdown().await;
    let _ = timeout(FIN_WAIT, swallow(&mut stream.split().0)).await;
}

/// Closes a stream by RST.
fn reset(stream: TcpStream) {
    // It fails for a stream that is reset already.
    let _ = stream.set_zero_linger();
}
