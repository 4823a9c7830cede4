//! Tests the proxy between a client and a server of the test, which check the bytes that arrive.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use faults::{Command, CutKind, Direction, Event, Plan, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedReceiver;

const LOOPBACK: &str = "127.0.0.1:0";

struct Bench {
    proxy: Proxy,
    events: UnboundedReceiver<Event>,
    listener: TcpListener,
}

impl Bench {
    async fn new(plan: Plan) -> Self {
        let listener = TcpListener::bind(LOOPBACK).await.unwrap();
        let target = listener.local_addr().unwrap();
        let (proxy, events) = Proxy::start(LOOPBACK.parse().unwrap(), target, plan)
            .await
            .unwrap();
        Self {
            proxy,
            events,
            listener,
        }
    }

    /// Both ends of a new connection through the proxy: the client's and the server's.
    async fn connect(&mut self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.proxy.address()).await.unwrap();
        let (server, _) = self.listener.accept().await.unwrap();
        // Events of earlier connections may come first.
        while !matches!(self.events.recv().await, Some(Event::Opened { .. })) {}
        (client, server)
    }
}

/// A plan that cuts each connection after `after` bytes.
fn cut_after(after: u64, kind: CutKind) -> Plan {
    let probability = |this| f64::from(u8::from(kind == this));
    Plan {
        seed: 3,
        cuts: u32::MAX,
        between: after..=after,
        reset: probability(CutKind::Reset),
        half_open: probability(CutKind::HalfOpen),
        abandon: probability(CutKind::Abandon),
        pause: 100..=100,
        ..Plan::default()
    }
}

fn bytes(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 31 % 251) as u8).collect()
}

/// Both ends of a connection. The sender of the direction whose bytes are counted comes first.
async fn connect_for(bench: &mut Bench, wanted: Direction) -> (TcpStream, TcpStream, Event) {
    // The direction of a cut is drawn for each connection. Tries until it is the wanted one.
    loop {
        let (mut client, mut server) = bench.connect().await;
        let _ = (
            client.write_all(&bytes(1000)).await,
            server.write_all(&bytes(1000)).await,
        );
        let event = bench.events.recv().await.unwrap();
        match event {
            Event::Cut { direction, .. } if direction == wanted => {
                return match wanted {
                    Direction::ToServer => (client, server, event),
                    Direction::ToClient => (server, client, event),
                };
            }
            _ => {}
        }
    }
}

/// The bytes that arrive, and the error that ends them. An orderly end is no error.
async fn read_all(stream: &mut TcpStream) -> (Vec<u8>, Option<ErrorKind>) {
    let mut received = Vec::new();
    let end = stream.read_to_end(&mut received).await;
    (received, end.err().map(|error| error.kind()))
}

#[tokio::test]
async fn bytes_pass_unchanged_through_pauses_and_one_by_one() {
    let plan = Plan {
        seed: 1,
        calm: 1..=2000,
        trickle: 0.7,
        pause: 0..=2,
        ..Plan::default()
    };
    let mut bench = Bench::new(plan).await;
    let (mut client, mut server) = bench.connect().await;
    let sent = bytes(20_000);
    let echo = async {
        let mut arrived = vec![0; 20_000];
        server.read_exact(&mut arrived).await.unwrap();
        server.write_all(&arrived).await.unwrap();
        arrived
    };
    let (written, arrived) = tokio::join!(client.write_all(&sent), echo);
    written.unwrap();
    assert_eq!(arrived, sent);
    let mut returned = vec![0; 20_000];
    client.read_exact(&mut returned).await.unwrap();
    assert_eq!(returned, sent);
    let mut disturbed = 0;
    while let Ok(event) = bench.events.try_recv() {
        disturbed += u32::from(matches!(event, Event::Disturbed { .. }));
    }
    assert!(disturbed > 10, "{disturbed} disturbances");
}

#[tokio::test]
async fn an_end_passes_while_the_other_direction_goes_on() {
    let mut bench = Bench::new(Plan::default()).await;
    let (mut client, mut server) = bench.connect().await;
    client.write_all(b"last").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut server).await, (b"last".to_vec(), None));
    server.write_all(b"answer").await.unwrap();
    drop(server);
    assert_eq!(read_all(&mut client).await, (b"answer".to_vec(), None));
    assert!(matches!(
        bench.events.recv().await,
        Some(Event::Closed { connection: 1 })
    ));
}

#[tokio::test]
async fn fin_comes_after_exactly_so_many_bytes() {
    for direction in [Direction::ToServer, Direction::ToClient] {
        let mut bench = Bench::new(cut_after(321, CutKind::Fin)).await;
        let (mut sender, mut receiver, event) = connect_for(&mut bench, direction).await;
        assert_eq!(read_all(&mut receiver).await, (bytes(321), None));
        assert_eq!(read_all(&mut sender).await.1, None);
        assert!(matches!(
            event,
            Event::Cut {
                bytes: 321,
                kind: CutKind::Fin,
                ..
            }
        ));
    }
}

#[tokio::test]
async fn reset_reaches_both_peers() {
    let mut bench = Bench::new(cut_after(321, CutKind::Reset)).await;
    let (mut sender, mut receiver, _) = connect_for(&mut bench, Direction::ToServer).await;
    let (received, end) = read_all(&mut receiver).await;
    assert!(bytes(321).starts_with(&received));
    assert_eq!(end, Some(ErrorKind::ConnectionReset));
    assert_eq!(
        read_all(&mut sender).await.1,
        Some(ErrorKind::ConnectionReset)
    );
}

#[tokio::test]
async fn the_server_may_see_fin_where_the_client_is_reset() {
    let plan = Plan {
        server_fin: 1.0,
        ..cut_after(321, CutKind::Reset)
    };
    let mut bench = Bench::new(plan).await;
    let (mut client, mut server, _) = connect_for(&mut bench, Direction::ToServer).await;
    assert_eq!(
        read_all(&mut client).await.1,
        Some(ErrorKind::ConnectionReset)
    );
    assert_eq!(read_all(&mut server).await, (bytes(321), None));
    // The server's bytes are read until it ends too.
    server.write_all(b"never mind").await.unwrap();
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_half_open_connection_goes_on_in_the_other_direction() {
    let mut bench = Bench::new(cut_after(321, CutKind::HalfOpen)).await;
    let (mut sender, mut receiver, _) = connect_for(&mut bench, Direction::ToServer).await;
    let mut arrived = vec![0; 1000];
    receiver.read_exact(&mut arrived[..321]).await.unwrap();
    assert_eq!(arrived[..321], bytes(321));
    // The receiver's bytes, those sent before and those sent now.
    receiver.write_all(b"still here").await.unwrap();
    sender.read_exact(&mut arrived).await.unwrap();
    let mut still = [0; 10];
    sender.read_exact(&mut still).await.unwrap();
    assert_eq!(&still, b"still here");
    assert_eq!(
        read_all(&mut receiver).await,
        (vec![], Some(ErrorKind::ConnectionReset))
    );
    assert_eq!(
        read_all(&mut sender).await.1,
        Some(ErrorKind::ConnectionReset)
    );
}

#[tokio::test]
async fn an_abandoned_server_sees_no_end() {
    let mut bench = Bench::new(cut_after(321, CutKind::Abandon)).await;
    let (mut client, mut server, _) = connect_for(&mut bench, Direction::ToServer).await;
    assert_eq!(
        read_all(&mut client).await.1,
        Some(ErrorKind::ConnectionReset)
    );
    server.write_all(b"is anybody there?").await.unwrap();
    let mut arrived = vec![0; 321];
    server.read_exact(&mut arrived).await.unwrap();
    // The server sees the other direction end only after it has ended its own, and without an error.
    let error = server.try_read(&mut arrived).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    server.shutdown().await.unwrap();
    assert_eq!(read_all(&mut server).await, (vec![], None));
}

#[tokio::test]
async fn cuts_are_used_up() {
    let mut bench = Bench::new(Plan {
        cuts: 1,
        ..cut_after(10, CutKind::Fin)
    })
    .await;
    let (mut client, mut server) = bench.connect().await;
    client.write_all(&bytes(100)).await.unwrap();
    server.write_all(&bytes(100)).await.unwrap();
    assert!(matches!(
        bench.events.recv().await,
        Some(Event::Cut { connection: 1, .. })
    ));
    let (mut client, mut server) = bench.connect().await;
    client.write_all(&bytes(100)).await.unwrap();
    server.write_all(&bytes(100)).await.unwrap();
    let mut received = vec![0; 100];
    client.read_exact(&mut received).await.unwrap();
    server.read_exact(&mut received).await.unwrap();
}

#[tokio::test]
async fn a_client_is_reset_when_the_server_cannot_be_reached() {
    let Bench {
        proxy,
        mut events,
        listener,
    } = Bench::new(Plan::default()).await;
    drop(listener);
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(
        read_all(&mut client).await.1,
        Some(ErrorKind::ConnectionReset)
    );
    assert!(matches!(
        events.recv().await,
        Some(Event::Refused { connection: 1, .. })
    ));
}

#[tokio::test]
async fn a_cut_by_command_leaves_later_connections_alone() {
    let mut bench = Bench::new(Plan::default()).await;
    let (mut client, _server) = bench.connect().await;
    bench.proxy.command(Command::Cut(CutKind::Reset));
    assert_eq!(
        read_all(&mut client).await.1,
        Some(ErrorKind::ConnectionReset)
    );
    let cut = Event::CutByCommand {
        connection: 1,
        kind: CutKind::Reset,
    };
    assert_eq!(bench.events.recv().await, Some(cut));
    let (mut client, mut server) = bench.connect().await;
    client.write_all(b"hello").await.unwrap();
    server.read_exact(&mut [0; 5]).await.unwrap();
}

#[tokio::test]
async fn a_stall_lasts_as_long_as_it_was_asked_for() {
    let mut bench = Bench::new(Plan::default()).await;
    let (mut client, mut server) = bench.connect().await;
    let start = Instant::now();
    bench
        .proxy
        .command(Command::Stall(Duration::from_millis(80)));
    client.write_all(b"hello").await.unwrap();
    server.read_exact(&mut [0; 5]).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(80));
}

#[tokio::test]
async fn heal_ends_a_stall_and_the_plan() {
    let mut bench = Bench::new(cut_after(10, CutKind::Fin)).await;
    let (mut client, mut server) = bench.connect().await;
    bench
        .proxy
        .command(Command::Stall(Duration::from_secs(3600)));
    client.write_all(&bytes(100)).await.unwrap();
    server.write_all(&bytes(100)).await.unwrap();
    bench.proxy.command(Command::Heal);
    let mut received = vec![0; 100];
    server.read_exact(&mut received).await.unwrap();
    client.read_exact(&mut received).await.unwrap();
    assert_eq!(received, bytes(100));
}

#[tokio::test]
async fn swallowed_bytes_do_not_come_back_when_healed() {
    let mut bench = Bench::new(Plan::default()).await;
    let (mut client, mut server) = bench.connect().await;
    bench.proxy.command(Command::Swallow(Direction::ToServer));
    client.write_all(b"lost").await.unwrap();
    server.write_all(b"other way").await.unwrap();
    client.read_exact(&mut [0; 9]).await.unwrap();
    // The proxy takes the earlier bytes before or together with the next ones. A new connection tells them apart.
    bench.proxy.command(Command::Heal);
    let (mut client, mut server) = bench.connect().await;
    client.write_all(b"kept").await.unwrap();
    drop(client);
    assert_eq!(read_all(&mut server).await, (b"kept".to_vec(), None));
}

#[tokio::test]
async fn a_trickle_by_command_alters_nothing() {
    let mut bench = Bench::new(Plan::default()).await;
    let (mut client, mut server) = bench.connect().await;
    bench.proxy.command(Command::Trickle);
    client.write_all(&bytes(300)).await.unwrap();
    drop(client);
    assert_eq!(read_all(&mut server).await, (bytes(300), None));
}

#[test]
fn commands_are_read_from_text() {
    let parse = |text: &str| text.parse::<Command>();
    assert_eq!(parse("cut"), Ok(Command::Cut(CutKind::Reset)));
    assert_eq!(parse(" cut  fin "), Ok(Command::Cut(CutKind::Fin)));
    assert_eq!(
        parse("stall 200"),
        Ok(Command::Stall(Duration::from_millis(200)))
    );
    assert_eq!(
        parse("swallow to-client"),
        Ok(Command::Swallow(Direction::ToClient))
    );
    assert_eq!(parse("trickle"), Ok(Command::Trickle));
    assert_eq!(parse("heal"), Ok(Command::Heal));
    assert_eq!(
        parse("stall soon"),
        Err("expecting milliseconds, got 'soon'".into())
    );
    assert!(
        parse("explode")
            .unwrap_err()
            .starts_with("unknown command 'explode', expecting cut")
    );
}

/// The binary, in front of a listener.
struct Binary {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Binary {
    fn new(arguments: &[&str]) -> Self {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_fault-proxy"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self {
            input: child.stdin.take(),
            child,
            output,
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_string()
    }
}

#[test]
fn the_binary_says_what_happens_and_does_what_it_is_told() {
    let listener = std::net::TcpListener::bind(LOOPBACK).unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let mut binary = Binary::new(&[&target, "--seed", "42"]);
    assert_eq!(binary.line(), "seed 42");
    let address = binary.line();
    let address: SocketAddr = address.strip_prefix("listening ").unwrap().parse().unwrap();
    let mut client = std::net::TcpStream::connect(address).unwrap();
    assert_eq!(binary.line(), "opened 1");
    writeln!(binary.input.as_mut().unwrap(), "cut").unwrap();
    assert_eq!(binary.line(), "cut 1 by-command reset");
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    // The binary ends when nobody can command it any more.
    binary.input = None;
    assert!(binary.child.wait().unwrap().success());
}

#[test]
fn the_binary_ends_on_quit_and_refuses_what_it_does_not_know() {
    let mut binary = Binary::new(&["127.0.0.1:9"]);
    assert!(binary.line().starts_with("seed "));
    writeln!(binary.input.as_mut().unwrap(), "quit").unwrap();
    assert!(binary.child.wait().unwrap().success());
    for bad in [
        &["127.0.0.1:9", "--cuts"][..],
        &[],
        &["127.0.0.1:9", "--between", "9..1"],
    ] {
        let mut binary = Binary::new(bad);
        assert_eq!(binary.child.wait().unwrap().code(), Some(2), "{bad:?}");
    }
}
