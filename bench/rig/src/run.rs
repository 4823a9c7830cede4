//! Runs the programs in turns and collects their reports.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::broker::Broker;
use crate::program::Outcome;
use crate::scenario::{Rival, SCENARIOS, Scenario, Server};
use crate::{hosts, plot, report, tls};

/// How long any program may take besides the measured time.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long many clients are left alone before they are measured, and while they are.
const SETTLE: Duration = Duration::from_millis(500);
const IDLE: Duration = Duration::from_secs(3);

/// The name of our library in the tables.
const OURS: &str = "ours";

/// A program that is measured.
#[derive(Clone)]
pub struct Program {
    /// Its name in the table.
    pub label: String,
    /// The version of Lua, if the program is in Lua.
    pub lua: Option<String>,
    kind: Kind,
}

#[derive(Clone, PartialEq)]
enum Kind {
    Ours {
        copas: bool,
    },
    Peer {
        folder: PathBuf,
        is_first: bool,
    },
    /// The library or a peer inside nginx. The library may use a connector.
    Nginx {
        folder: Option<PathBuf>,
        connector: Option<&'static str>,
    },
    /// The library with a connector in Lua, under Copas or not as `copas` says; or a peer under Copas.
    Connector {
        folder: Option<PathBuf>,
        copas: bool,
        is_first: bool,
    },
    Raw,
    Relayed,
    Rumqttc,
    Mosquitto {
        path: PathBuf,
    },
    /// The library with a store, which is synced with `sync = "power"`.
    Stored {
        is_synced: bool,
    },
    Journal,
    /// Paho C, with its files or without.
    Paho {
        path: PathBuf,
        is_stored: bool,
    },
}

impl Program {
    /// Whether the program is our library, under Copas or not as `copas` says.
    pub fn is_ours(&self, copas: bool) -> bool {
        self.kind == Kind::Ours { copas }
    }

    /// Whether the program is our library inside nginx, with its default connection.
    pub fn is_in_nginx(&self) -> bool {
        self.kind
            == Kind::Nginx {
                folder: None,
                connector: None,
            }
    }

    /// Whether the program is our library inside nginx, on nginx's sockets.
    pub fn is_on_cosockets(&self) -> bool {
        matches!(
            &self.kind,
            Kind::Nginx {
                folder: None,
                connector: Some(_),
            }
        )
    }

    /// Whether the program is an original inside nginx.
    pub fn is_fork_in_nginx(&self) -> bool {
        matches!(
            &self.kind,
            Kind::Nginx {
                folder: Some(_),
                ..
            }
        )
    }

    /// Whether the program is our library with its connector for Copas, or for LuaSocket.
    pub fn is_by_connector(&self, in_copas: bool) -> bool {
        matches!(&self.kind, Kind::Connector { folder: None, copas, .. } if *copas == in_copas)
    }

    /// Whether the program is our library with a store, with this value of `sync`.
    pub fn is_stored(&self, sync: &str) -> bool {
        matches!(self.kind, Kind::Stored { is_synced } if is_synced == (sync == "power"))
    }

    /// Whether the program is the first of the originals, under Copas.
    pub fn is_fork_in_copas(&self) -> bool {
        matches!(
            &self.kind,
            Kind::Connector {
                folder: Some(_),
                is_first: true,
                ..
            }
        )
    }

    /// Whether the program is our library under Copas.
    pub fn is_copas(&self) -> bool {
        self.is_ours(true)
    }

    /// Whether a label names our library, without Copas, on the same Lua.
    pub fn is_on_lua_of(&self, label: &str) -> bool {
        label
            .split_once(", ")
            .is_some_and(|(name, lua)| name == OURS && self.label.ends_with(&format!(", {lua}")))
    }

    /// Whether the program is the first of the originals.
    pub fn is_fork(&self) -> bool {
        matches!(self.kind, Kind::Peer { is_first: true, .. })
    }

    fn does(&self, scenario: &Scenario) -> bool {
        let rival = match &self.kind {
            Kind::Ours { copas: false } => {
                let rivals = scenario.rivals;
                let in_nginx = rivals.contains(&Rival::Nginx);
                return !rivals.contains(&Rival::Connectors)
                    && (!in_nginx || self.lua.as_deref() == Some("jit"));
            }
            Kind::Connector { copas, .. } => {
                // Under Copas there is no outside of the loop.
                let is_outside = scenario.task.contains(&"outside");
                return scenario.rivals.contains(&Rival::Connectors) && !(*copas && is_outside);
            }
            Kind::Nginx { .. } => Rival::Nginx,
            Kind::Ours { copas: true } => Rival::Copas,
            Kind::Peer { .. } => Rival::Peers,
            Kind::Raw => Rival::Raw,
            Kind::Relayed => Rival::Relayed,
            Kind::Rumqttc => Rival::Rumqttc,
            Kind::Mosquitto { .. } => Rival::Mosquitto,
            Kind::Stored { .. } | Kind::Journal | Kind::Paho { .. } => Rival::Stores,
        };
        scenario.rivals.contains(&rival)
    }

    fn command(&self, options: &Options, scenario: &Scenario) -> Result<Command, Box<dyn Error>> {
        let [script, arguments @ ..] = scenario.task else {
            return Err("a scenario has no task".into());
        };
        let root = &options.root;
        let mut command = match &self.kind {
            Kind::Ours { .. }
            | Kind::Stored { .. }
            | Kind::Peer { .. }
            | Kind::Connector { .. } => {
                let version = self.lua.as_deref().unwrap_or_default();
                let mut command = Command::new(format!("lua{version}"));
                command.arg(root.join(format!("bench/{script}.lua")));
                let tree = match &self.kind {
                    Kind::Peer { folder, .. }
                    | Kind::Connector {
                        folder: Some(folder),
                        ..
                    } => folder.clone(),
                    _ => root.join("build").join(version),
                };
                let (tree, root) = (tree.display(), root.display());
                command.env(
                    "LUA_PATH",
                    format!("{root}/bench/?.lua;{tree}/?.lua;{tree}/?/init.lua;{root}/build/copas/?.lua;;"),
                );
                if let Kind::Ours { .. } | Kind::Stored { .. } = self.kind {
                    command.env("LUA_CPATH", format!("{tree}/?.so;;"));
                }
                if let Kind::Ours { copas: true } = self.kind {
                    command.env("RIG_LOOP", "copas");
                }
                if let Kind::Stored { is_synced } = self.kind {
                    command.env("RIG_SYNC", if is_synced { "power" } else { "process" });
                }
                if let Kind::Connector { folder, copas, .. } = &self.kind {
                    if *copas {
                        command.env("RIG_LOOP", "copas");
                    }
                    if folder.is_none() {
                        let name = if *copas { "copas" } else { "luasocket" };
                        command
                            .env("LUA_CPATH", format!("{tree}/?.so;;"))
                            .env("RIG_CONNECTOR", format!("mqtt.connector.{name}"));
                    }
                }
                command
            }
            Kind::Nginx { folder, connector } => {
                let mut command = Command::new(root.join("bench/in-nginx"));
                command.arg(root.join(format!("bench/{script}.lua")));
                let tree = folder.clone().unwrap_or_else(|| root.join("build/jit"));
                let (tree, root) = (tree.display(), root.display());
                command.env(
                    "RIG_LUA_PATH",
                    format!("{root}/bench/?.lua;{tree}/?.lua;{tree}/?/init.lua"),
                );
                command.env("RIG_LUA_CPATH", format!("{tree}/?.so"));
                if let Some(connector) = connector {
                    command.env("RIG_CONNECTOR", connector);
                }
                command
            }
            Kind::Raw | Kind::Relayed | Kind::Rumqttc | Kind::Journal => {
                let mut command = Command::new(std::env::current_exe()?);
                let name = match self.kind {
                    Kind::Raw => "raw",
                    Kind::Relayed => "relayed",
                    Kind::Journal => "journal",
                    _ => "rumqttc",
                };
                command.args([name, script]);
                command
            }
            Kind::Mosquitto { path } => {
                let mut command = Command::new(path);
                command.arg(script);
                command
            }
            Kind::Paho { path, is_stored } => {
                let mut command = Command::new(path);
                command.arg(script);
                if *is_stored {
                    command.env("RIG_SYNC", "process");
                }
                command
            }
        };
        command
            .args(arguments)
            .env("RIG_STORE", options.store())
            .env("RIG_WAITING", options.waiting.to_string())
            .env("RIG_MS", options.duration.as_millis().to_string());
        Ok(command)
    }
}

/// The options on the command line.
pub struct Options {
    root: PathBuf,
    luas: Vec<String>,
    peers: Vec<PathBuf>,
    only: Vec<String>,
    rounds: usize,
    duration: Duration,
    waiting: usize,
    mosquitto: Option<PathBuf>,
    paho: Option<PathBuf>,
    certificates: PathBuf,
    out: PathBuf,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, Box<dyn Error>> {
        let mut options = Self {
            root: std::env::current_dir()?,
            luas: Vec::new(),
            peers: Vec::new(),
            only: Vec::new(),
            rounds: 5,
            duration: Duration::from_secs(1),
            waiting: 1_000_000,
            mosquitto: None,
            paho: None,
            certificates: PathBuf::from("build/bench/certs"),
            out: PathBuf::from("build"),
        };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let value = words
                .next()
                .ok_or_else(|| format!("{word} wants a value"))?;
            match &**word {
                "--lua" => options.luas.push(value.clone()),
                "--peer" => options.peers.push(fs::canonicalize(value)?),
                "--only" => options.only.push(value.clone()),
                "--rounds" => options.rounds = value.parse()?,
                "--ms" => options.duration = Duration::from_millis(value.parse()?),
                "--waiting" => options.waiting = value.parse()?,
                "--mosquitto" => options.mosquitto = Some(fs::canonicalize(value)?),
                "--paho" => options.paho = Some(fs::canonicalize(value)?),
                "--certificates" => options.certificates = value.into(),
                "--out" => options.out = value.into(),
                _ => return Err(format!("unknown option {word}").into()),
            }
        }
        options.certificates = fs::canonicalize(&options.certificates)?;
        Ok(options)
    }

    /// Whether a scenario is wanted, by its name or by a part of the name between hyphens.
    fn wants(&self, scenario: &Scenario) -> bool {
        let is_named = |word: &String| {
            scenario.name == word || scenario.name.split('-').any(|part| part == word)
        };
        self.only.is_empty() || self.only.iter().any(is_named)
    }

    /// The directory for stores, which is on the same disk as everything else that is measured.
    fn store(&self) -> PathBuf {
        self.out.join("bench/store")
    }

    fn programs(&self) -> Vec<Program> {
        let mut programs = Vec::new();
        let mut add = |label: &str, lua: Option<&String>, kind| {
            let label = match lua {
                Some(lua) => format!("{label}, {}", if lua == "jit" { "LuaJIT" } else { lua }),
                None => label.to_owned(),
            };
            programs.push(Program {
                label,
                lua: lua.cloned(),
                kind,
            });
        };
        for lua in &self.luas {
            add(OURS, Some(lua), Kind::Ours { copas: false });
            add("ours under Copas", Some(lua), Kind::Ours { copas: true });
            for (name, is_synced) in [("ours with a store", false), ("ours, synced", true)] {
                add(name, Some(lua), Kind::Stored { is_synced });
            }
            for (i, folder) in self.peers.iter().enumerate() {
                let name = folder.file_name().unwrap_or_default().to_string_lossy();
                let kind = Kind::Peer {
                    folder: folder.clone(),
                    is_first: i == 0,
                };
                add(&name, Some(lua), kind);
                let kind = Kind::Connector {
                    folder: Some(folder.clone()),
                    copas: true,
                    is_first: i == 0,
                };
                add(&format!("{name} under Copas"), Some(lua), kind);
            }
            for (name, copas) in [("LuaSocket", false), ("Copas", true)] {
                let kind = Kind::Connector {
                    folder: None,
                    copas,
                    is_first: false,
                };
                add(&format!("ours by {name}"), Some(lua), kind);
            }
            if lua == "jit" {
                for (name, connector) in
                    [("nginx", None), ("cosockets", Some("mqtt.connector.nginx"))]
                {
                    let kind = Kind::Nginx {
                        folder: None,
                        connector,
                    };
                    add(&format!("ours in {name}"), Some(lua), kind);
                }
                for folder in &self.peers {
                    let name = folder.file_name().unwrap_or_default().to_string_lossy();
                    let kind = Kind::Nginx {
                        folder: Some(folder.clone()),
                        connector: None,
                    };
                    add(&format!("{name} in nginx"), Some(lua), kind);
                }
            }
        }
        add("rumqttc", None, Kind::Rumqttc);
        if let Some(path) = &self.mosquitto {
            add("libmosquitto", None, Kind::Mosquitto { path: path.clone() });
        }
        // Before Paho C, whose many files keep the file system busy for a while.
        add("fdatasync", None, Kind::Journal);
        for (name, is_stored) in [("Paho C", false), ("Paho C with files", true)] {
            if let Some(path) = self.paho.clone() {
                add(name, None, Kind::Paho { path, is_stored });
            }
        }
        add("raw socket", None, Kind::Raw);
        add("raw socket of a thread", None, Kind::Relayed);
        programs
    }
}

/// The figures that a program has reported: by name, one of each run.
pub type Figures = BTreeMap<String, Vec<f64>>;

/// The figures of a scenario, by program.
pub struct Results {
    /// The scenario measured.
    pub scenario: &'static Scenario,
    /// The programs, and their figures.
    pub programs: Vec<(Program, Figures)>,
}

/// The middle value, or the mean of the two in the middle.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => sorted[count / 2],
        count => (sorted[count / 2 - 1] + sorted[count / 2]) / 2.0,
    }
}

/// `rig run`: measures, and writes bench.json, bench.md, hosts.md, throughput.svg, clients.svg and hosts.svg.
pub fn run(arguments: &[String]) -> Outcome {
    let options = Options::parse(arguments)?;
    let broker = Broker::start(Some(tls::server(&options.certificates)?))?;
    let programs = options.programs();
    let mut results = Vec::new();
    for scenario in SCENARIOS.iter().filter(|scenario| options.wants(scenario)) {
        let mut figures: Vec<(Program, Figures)> = programs
            .iter()
            .filter(|program| program.does(scenario))
            .map(|program| (program.clone(), Figures::new()))
            .collect();
        let mosquitto = match scenario.server {
            Server::Mosquitto => Some(Mosquitto::start()?),
            _ => None,
        };
        for _ in 0..options.rounds {
            for (program, figures) in &mut figures {
                let mut command = program.command(&options, scenario)?;
                let tls = |address: Option<SocketAddr>| address.map_or(0, |it| it.port());
                let port = match (scenario.server, &mosquitto) {
                    (Server::Mosquitto, Some(mosquitto)) => mosquitto.port,
                    (Server::Tls, _) => tls(broker.tls),
                    (Server::Ws, _) => broker.ws.port(),
                    (Server::Wss, _) => tls(broker.wss),
                    _ => broker.plain.port(),
                };
                command.env("RIG_PORT", port.to_string());
                let uri = match scenario.server {
                    Server::Ws => Some(format!("ws://127.0.0.1:{port}/mqtt")),
                    Server::Wss => Some(format!("wss://localhost:{port}/mqtt")),
                    Server::Unix => Some(format!("unix://{}", broker.unix.display())),
                    _ => None,
                };
                if let Some(uri) = uri {
                    command.env("RIG_URI", uri);
                }
                if matches!(scenario.server, Server::Tls | Server::Wss) {
                    command
                        .env("RIG_HOST", "localhost")
                        .env("RIG_CA", options.certificates.join("ca.crt"));
                } else {
                    command.env("RIG_HOST", "127.0.0.1");
                }
                // What a run that has failed has left there.
                let _ = fs::remove_dir_all(options.store());
                fs::create_dir_all(options.store())?;
                let measured = measure(&mut command, scenario, &broker, options.duration);
                fs::remove_dir_all(options.store())?;
                match measured {
                    Ok(line) => line.into_iter().for_each(|(name, number)| {
                        figures.entry(name).or_default().push(number);
                    }),
                    Err(error) => eprintln!("rig: {}: {}: {error}", scenario.name, program.label),
                }
                broker.wait_until_idle();
            }
        }
        let result = Results {
            scenario,
            programs: figures,
        };
        report::print_figures(&result);
        results.push(result);
    }
    let verdicts = report::verdicts(&results);
    report::print_verdicts(&verdicts);
    fs::create_dir_all(&options.out)?;
    fs::write(
        options.out.join("bench.json"),
        report::json(&results, &verdicts),
    )?;
    fs::write(options.out.join("bench.md"), report::markdown(&results))?;
    let hosts = hosts::rows(&results);
    fs::write(options.out.join("hosts.md"), hosts::markdown(&hosts))?;
    for (name, picture) in [
        ("throughput.svg", plot::throughput(&results)),
        ("clients.svg", plot::clients(&results)),
        ("hosts.svg", plot::hosts(&hosts)),
    ] {
        if let Some(picture) = picture {
            fs::write(options.out.join(name), picture)?;
        }
    }
    Ok(())
}

/// Runs a program once.
fn measure(
    command: &mut Command,
    scenario: &Scenario,
    broker: &Broker,
    duration: Duration,
) -> Result<Vec<(String, f64)>, Box<dyn Error>> {
    let mut child = Running(
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let mut figures = parse(&child.first_line(duration + PATIENCE)?)?;
    if scenario.task[0] == "clients" {
        let before = figures
            .iter()
            .find(|(name, _)| name == "before")
            .map_or(0.0, |(_, number)| *number);
        let count: f64 = scenario.task[1].parse()?;
        thread::sleep(SETTLE);
        let start = child.usage()?;
        figures.push(("kib".into(), (start.resident - before) / count));
        thread::sleep(IDLE);
        let [cpu, waits] = child.usage()?.since(&start);
        figures.push(("idle".into(), cpu * 1e3 / IDLE.as_secs_f64()));
        figures.push(("wakeups".into(), waits / IDLE.as_secs_f64()));
        if scenario.server == Server::Plain {
            // A first echo, to warm up.
            broker.echo(Duration::from_millis(1))?;
            let start = child.usage()?;
            let echoes = broker.echo(duration)?;
            let [cpu, _] = child.usage()?.since(&start);
            figures.push(("echo".into(), cpu * 1e6 / echoes as f64));
        }
    } else if !child.0.wait()?.success() {
        return Err("it has failed".into());
    }
    Ok(figures)
}

fn parse(line: &str) -> Result<Vec<(String, f64)>, Box<dyn Error>> {
    let numbers = line.split_whitespace().map(|word| {
        let (name, number) = word
            .split_once('=')
            .ok_or_else(|| format!("it has reported '{line}'"))?;
        Ok((name.to_owned(), number.parse()?))
    });
    numbers.collect()
}

/// A child process, killed on drop.
struct Running(Child);

/// The resources that a process uses.
struct Usage {
    /// Nanoseconds of CPU time and the number of waits, by thread.
    threads: BTreeMap<PathBuf, [f64; 2]>,
    /// Resident memory, in KiB.
    resident: f64,
}

impl Usage {
    /// The CPU time in seconds and the number of waits since an earlier time. Threads that have ended meanwhile do not
    /// count.
    fn since(&self, earlier: &Self) -> [f64; 2] {
        let sum = |i: usize| -> f64 {
            let used = self.threads.iter().map(|(thread, now)| {
                now[i] - earlier.threads.get(thread).map_or(0.0, |before| before[i])
            });
            used.sum()
        };
        [sum(0) / 1e9, sum(1)]
    }
}

impl Running {
    fn first_line(&mut self, patience: Duration) -> Result<String, Box<dyn Error>> {
        let stdout = self.0.stdout.take().ok_or("it has no standard output")?;
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(stdout).read_line(&mut line);
            sender.send(read.map(|_| line))
        });
        let line = receiver
            .recv_timeout(patience)
            .map_err(|_| "it takes too long")??;
        if line.is_empty() {
            Err("it has reported nothing".into())
        } else {
            Ok(line)
        }
    }

    fn usage(&self) -> Result<Usage, Box<dyn Error>> {
        let directory = PathBuf::from(format!("/proc/{}", self.0.id()));
        let resident = field(&directory, "VmRSS")?;
        let mut threads = BTreeMap::new();
        for thread in fs::read_dir(directory.join("task"))? {
            let thread = thread?.path();
            let times = fs::read_to_string(thread.join("schedstat"))?;
            let cpu = times.split_whitespace().next().unwrap_or("0").parse()?;
            let waits = field(&thread, "voluntary_ctxt_switches")?;
            threads.insert(thread, [cpu, waits]);
        }
        Ok(Usage { threads, resident })
    }
}

/// A number in a `status` file of /proc.
fn field(directory: &Path, name: &str) -> Result<f64, Box<dyn Error>> {
    let text = fs::read_to_string(directory.join("status"))?;
    let line = text
        .lines()
        .find(|line| line.starts_with(name))
        .unwrap_or_default();
    Ok(line
        .split_whitespace()
        .nth(1)
        .ok_or_else(|| format!("no {name} in /proc"))?
        .parse()?)
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A real broker on a free port. It ends when this is dropped, or with the process.
struct Mosquitto {
    port: u16,
    directory: PathBuf,
    _process: Running,
}

impl Mosquitto {
    fn start() -> Result<Self, Box<dyn Error>> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let directory = std::env::temp_dir().join(format!("rig-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        let configuration = directory.join("mosquitto.conf");
        fs::write(
            &configuration,
            format!(
                "listener {port} 127.0.0.1\nallow_anonymous true\nsys_interval 0\nlog_dest none\n"
            ),
        )?;
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "mosquitto", "-c"])
            .arg(&configuration)
            .spawn()?;
        let mosquitto = Self {
            port,
            directory,
            _process: Running(process),
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            if start.elapsed() > Duration::from_secs(10) {
                return Err("mosquitto does not start".into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(mosquitto)
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}
