//! The scenarios to measure, and the targets for their figures.

/// The server that a program connects to.
#[derive(Clone, Copy, PartialEq)]
pub enum Server {
    /// The fast broker.
    Plain,
    /// The fast broker, over TLS.
    Tls,
    /// The fast broker, over WebSocket.
    Ws,
    /// The fast broker, over WebSocket and TLS.
    Wss,
    /// The fast broker, over a Unix socket.
    Unix,
    /// A mosquitto.
    Mosquitto,
}

/// The programs that run a scenario besides the Lua library itself.
#[derive(Clone, Copy, PartialEq)]
pub enum Rival {
    /// The originals in Lua.
    Peers,
    /// The library with its handlers under Copas.
    Copas,
    /// `rig raw`.
    Raw,
    /// `rig relayed`.
    Relayed,
    /// `rig rumqttc`.
    Rumqttc,
    /// libmosquitto from C.
    Mosquitto,
    /// The library with a store, synced or not; Paho C, with its files or without; `rig journal`.
    Stores,
    /// The library and the originals, inside nginx.
    Nginx,
    /// The library with its connectors in Lua, and the originals under Copas.
    Connectors,
}

/// A scenario to measure.
pub struct Scenario {
    /// Its name in the JSON and for `ONLY`.
    pub name: &'static str,
    /// Its title in the table.
    pub title: &'static str,
    /// The arguments of a program.
    pub task: &'static [&'static str],
    /// The server that the programs connect to.
    pub server: Server,
    /// The programs that are measured.
    pub rivals: &'static [Rival],
    /// The figures for the table, with their unit.
    pub columns: &'static [(&'static str, &'static str)],
}

/// The figure that ours is compared with.
#[derive(Clone, Copy)]
pub enum Against {
    /// The figure of a program in the same runs.
    Program(&'static str),
    /// The figure of the first original on the same Lua.
    Fork,
    /// The figure of the library on the same Lua, without Copas and nginx.
    Stock,
    /// The figure of the library on the same Lua in another scenario.
    Scenario(&'static str),
    /// A number.
    Value,
}

/// A target for a figure of the library.
pub struct Target {
    /// The scenario's name.
    pub scenario: &'static str,
    /// The name of the figure.
    pub figure: &'static str,
    /// The Lua version, or "copas" or "nginx" for the library there, or "luasocket" or "copas connector" for the library
    /// with this connector, or "store" or "synced store" for the library with one. Empty for all Luas.
    pub who: &'static str,
    /// The figure to compare with.
    pub against: Against,
    /// The bound of the ratio, or of the figure itself.
    pub bound: f64,
    /// Whether the figure should be above the bound. If not, it should be below.
    pub at_least: bool,
}

use Rival::{Connectors, Copas, Mosquitto, Nginx, Peers, Raw, Relayed, Rumqttc, Stores};

const ALL: &[Rival] = &[Copas, Peers, Raw, Rumqttc, Mosquitto];
const NO_COPAS: &[Rival] = &[Peers, Raw, Rumqttc, Mosquitto];
const RATE: &[(&str, &str)] = &[("rate", "messages/s"), ("cpu", "us CPU each")];
const LARGE: &[(&str, &str)] = &[
    ("rate", "messages/s"),
    ("cpu", "us CPU each"),
    ("peak", "KiB at the peak"),
];
const TIMES: &[(&str, &str)] = &[("p50", "us p50"), ("p99", "us p99"), ("cpu", "us CPU each")];
const STEPS: &[(&str, &str)] = &[("rate", "steps/s"), ("cpu", "us CPU each")];
const CLIENTS: &[(&str, &str)] = &[
    ("connect", "s to connect"),
    ("kib", "KiB each"),
    ("idle", "ms CPU a second"),
    ("wakeups", "wake-ups a second"),
    ("echo", "us CPU a message"),
];
const PENDING: &[(&str, &str)] = &[
    ("publish", "us CPU a publish"),
    ("subscribe", "us CPU a subscribe"),
];
const WAITING: &[(&str, &str)] = &[
    ("offline", "offline messages/s"),
    ("filling", "KiB at the peak"),
    ("open", "s to the first one sent"),
    ("rate", "messages/s sent"),
    ("peak", "KiB at the peak of that"),
];
const CODEC: &[(&str, &str)] = &[
    ("parse4", "ns parse, 3.1.1"),
    ("make4", "ns make, 3.1.1"),
    ("parse5", "ns parse, 5.0"),
    ("make5", "ns make, 5.0"),
];

macro_rules! scenarios {
    ($($name:literal $title:literal $task:tt $server:ident $rivals:expr, $columns:ident;)*) => {
        /// All scenarios to measure.
        pub const SCENARIOS: &[Scenario] = &[$(Scenario {
            name: $name,
            title: $title,
            task: &$task,
            server: Server::$server,
            rivals: $rivals,
            columns: $columns,
        }),*];
    };
}

scenarios! {
    "receive-0" "receive QoS 0 into a handler" ["receive", "0", "64"] Plain ALL, RATE;
    "ws-receive-0" "receive QoS 0 over WebSocket" ["receive", "0", "64"] Ws &[], RATE;
    "unix-receive-0" "receive QoS 0 over a Unix socket" ["receive", "0", "64"] Unix &[Raw], RATE;
    "receive-1" "receive QoS 1 and acknowledge" ["receive", "1", "64"] Plain ALL, RATE;
    "publish-0" "publish QoS 0" ["publish", "0", "64"] Plain NO_COPAS, RATE;
    "ws-publish-0" "publish QoS 0 over WebSocket" ["publish", "0", "64"] Ws &[], RATE;
    "unix-publish-0" "publish QoS 0 over a Unix socket" ["publish", "0", "64"] Unix &[Raw], RATE;
    "publish-1" "publish QoS 1, 100 outstanding" ["publish", "1", "64"] Plain NO_COPAS, RATE;
    "publish-2" "publish QoS 2, 100 outstanding" ["publish", "2", "64"] Plain NO_COPAS, RATE;
    "mosquitto-publish-1" "publish QoS 1 to mosquitto, 100 outstanding" ["publish", "1", "64", "acknowledged"] Mosquitto &[Peers], RATE;
    "mosquitto-publish-2" "publish QoS 2 to mosquitto, 100 outstanding" ["publish", "2", "64", "acknowledged"] Mosquitto &[Peers], RATE;
    "receive-1M" "receive 1 MiB messages" ["receive", "0", "1048576"] Plain NO_COPAS, LARGE;
    "ws-receive-1M" "receive 1 MiB messages over WebSocket" ["receive", "0", "1048576"] Ws &[], LARGE;
    "publish-1M" "publish 1 MiB messages" ["publish", "0", "1048576"] Plain NO_COPAS, LARGE;
    "ws-publish-1M" "publish 1 MiB messages over WebSocket" ["publish", "0", "1048576"] Ws &[], LARGE;
    "tls-receive-0" "receive QoS 0 over TLS" ["receive", "0", "64"] Tls &[Peers, Raw, Rumqttc], RATE;
    "wss-receive-0" "receive QoS 0 over WebSocket and TLS" ["receive", "0", "64"] Wss &[], RATE;
    "tls-publish-0" "publish QoS 0 over TLS" ["publish", "0", "64"] Tls &[Peers, Raw, Rumqttc], RATE;
    "wss-publish-0" "publish QoS 0 over WebSocket and TLS" ["publish", "0", "64"] Wss &[], RATE;
    "roundtrip-0" "round trip QoS 0 through mosquitto" ["roundtrip", "0"] Mosquitto ALL, TIMES;
    "roundtrip-1" "round trip QoS 1 through mosquitto" ["roundtrip", "1"] Mosquitto ALL, TIMES;
    "step-0" "round trip QoS 0, a program that steps without a pause" ["step", "0"] Mosquitto &[Peers], TIMES;
    "step-60" "round trip QoS 0, a program that steps 60 times a second" ["step", "16"] Mosquitto &[Peers], TIMES;
    "step-idle" "a step with nothing to do" ["step", "0", "idle"] Mosquitto &[Peers], STEPS;
    "nginx-receive-0" "receive QoS 0 in nginx" ["receive", "0", "64"] Plain &[Nginx], RATE;
    "nginx-receive-1" "receive QoS 1 and acknowledge in nginx" ["receive", "1", "64"] Plain &[Nginx], RATE;
    "nginx-publish-0" "publish QoS 0 in nginx" ["publish", "0", "64"] Plain &[Nginx], RATE;
    "nginx-publish-1" "publish QoS 1, 100 outstanding, in nginx" ["publish", "1", "64"] Plain &[Nginx], RATE;
    "nginx-roundtrip-0" "round trip QoS 0 in nginx" ["roundtrip", "0"] Mosquitto &[Nginx, Raw, Relayed], TIMES;
    "connector-receive-0" "receive QoS 0 by a connector" ["receive", "0", "64"] Plain &[Connectors, Peers], RATE;
    "connector-receive-1" "receive QoS 1 and acknowledge by a connector" ["receive", "1", "64"] Plain &[Connectors, Peers], RATE;
    "connector-publish-0" "publish QoS 0 by a connector" ["publish", "0", "64"] Plain &[Connectors, Peers], RATE;
    "connector-burst-0" "publish QoS 0 by a connector, outside of the loop" ["publish", "0", "64", "outside"] Plain &[Connectors, Peers], RATE;
    "connector-publish-1" "publish QoS 1, 100 outstanding, by a connector" ["publish", "1", "64"] Plain &[Connectors, Peers], RATE;
    "connector-roundtrip-0" "round trip QoS 0 by a connector" ["roundtrip", "0"] Mosquitto &[Connectors, Peers], TIMES;
    "clients-1" "a client" ["clients", "1"] Plain &[Peers, Raw, Rumqttc], CLIENTS;
    "clients-10" "10 clients" ["clients", "10"] Plain &[Peers, Raw, Rumqttc], CLIENTS;
    "clients-100" "100 clients" ["clients", "100"] Plain &[Peers, Raw, Rumqttc], CLIENTS;
    "clients-1000" "1000 clients" ["clients", "1000"] Plain &[Peers, Raw, Rumqttc], CLIENTS;
    "clients-10000" "10,000 clients" ["clients", "10000"] Plain &[Raw, Rumqttc], CLIENTS;
    "tls-clients-1000" "1000 clients over TLS" ["clients", "1000"] Tls &[Rumqttc], CLIENTS;
    "tls-clients-10000" "10,000 clients over TLS" ["clients", "10000"] Tls &[Rumqttc], CLIENTS;
    "pending-1000" "1000 requests unanswered" ["pending", "1000"] Plain &[Peers], PENDING;
    "pending-60000" "60,000 requests unanswered" ["pending", "60000"] Plain &[], PENDING;
    "store-publish-1" "publish QoS 1, 100 outstanding, into a store" ["publish", "1", "64"] Plain &[Stores], RATE;
    "store-waiting" "messages of 100 bytes that wait in a store" ["waiting"] Plain &[], WAITING;
    "codec" "parse_packet and make_packet" ["codec"] Plain &[Peers], CODEC;
}

macro_rules! targets {
    ($($scenario:literal $figure:ident $who:literal $order:tt $bound:literal $against:expr;)*) => {
        /// All targets.
        pub const TARGETS: &[Target] = &[$(Target {
            scenario: $scenario,
            figure: stringify!($figure),
            who: $who,
            against: $against,
            bound: $bound,
            at_least: targets!($order),
        }),*];
    };
    (>) => { true };
    (<) => { false };
}

use Against::{Fork, Program, Stock, Value};
const RUMQTTC: Against = Program("rumqttc");
const SOCKET: Against = Program("raw socket");
const ONE_CLIENT: Against = Against::Scenario("clients-1");
const FEW_PENDING: Against = Against::Scenario("pending-1000");

targets! {
    "receive-0" rate "jit" > 1.0 RUMQTTC;
    "receive-0" rate "jit" > 6.0 Fork;
    "receive-0" rate "5.4" > 0.7 RUMQTTC;
    "receive-0" rate "5.4" > 9.0 Fork;
    "receive-0" rate "5.1" > 6.0 Fork;
    "receive-0" cpu "jit" < 0.35 Value;
    "receive-0" cpu "5.4" < 0.55 Value;
    "receive-0" cpu "copas" < 1.5 Stock;
    "receive-1" rate "jit" > 0.8 RUMQTTC;
    "receive-1" rate "jit" > 8.0 Fork;
    "receive-1" rate "5.4" > 0.6 RUMQTTC;
    "receive-1" rate "5.4" > 10.0 Fork;
    "receive-1" cpu "copas" < 1.5 Stock;
    "publish-0" rate "jit" > 5.0 RUMQTTC;
    "publish-0" rate "jit" > 8.0 Fork;
    "publish-0" rate "5.4" > 3.0 RUMQTTC;
    "publish-0" rate "5.4" > 12.0 Fork;
    "publish-1" rate "" > 2.0 RUMQTTC;
    "publish-1" rate "" > 8.0 Fork;
    "publish-2" rate "" > 2.0 RUMQTTC;
    "publish-2" rate "" > 8.0 Fork;
    "mosquitto-publish-1" rate "" > 1.0 Fork;
    "mosquitto-publish-2" rate "" > 1.0 Fork;
    "receive-1M" rate "" > 0.9 SOCKET;
    "receive-1M" peak "" < 4096.0 Value;
    "publish-1M" rate "" > 0.9 SOCKET;
    "publish-1M" peak "" < 4096.0 Value;
    "tls-receive-0" rate "" > 5.0 Fork;
    "tls-receive-0" rate "" > 0.8 RUMQTTC;
    "tls-publish-0" rate "" > 5.0 Fork;
    "tls-publish-0" rate "" > 0.8 RUMQTTC;
    "roundtrip-0" p50 "" < 1.15 SOCKET;
    "roundtrip-0" p99 "" < 1.5 SOCKET;
    "roundtrip-0" p50 "copas" < 1.5 Stock;
    "roundtrip-1" p50 "" < 1.15 SOCKET;
    "roundtrip-1" p99 "" < 1.5 SOCKET;
    "roundtrip-1" p50 "copas" < 1.5 Stock;
    "step-0" p50 "" < 1.1 Fork;
    "step-0" p99 "" < 1.2 Fork;
    "step-idle" cpu "5.4" < 1.0 Value;
    "nginx-receive-0" rate "nginx" > 8.0 Fork;
    "nginx-receive-0" rate "nginx" > 0.5 Stock;
    "nginx-receive-1" rate "nginx" > 10.0 Fork;
    "nginx-receive-1" rate "nginx" > 0.5 Stock;
    "nginx-publish-0" rate "nginx" > 15.0 Fork;
    "nginx-publish-0" rate "nginx" > 0.5 Stock;
    "nginx-publish-1" rate "nginx" > 10.0 Fork;
    "nginx-publish-1" rate "nginx" > 0.5 Stock;
    "connector-receive-0" rate "luasocket" > 4.0 Fork;
    "connector-receive-1" rate "luasocket" > 4.0 Fork;
    "connector-publish-0" rate "luasocket" > 4.0 Fork;
    "connector-burst-0" rate "luasocket" > 4.0 Fork;
    "connector-publish-1" rate "luasocket" > 4.0 Fork;
    "connector-receive-0" rate "copas connector" > 4.0 Fork;
    "connector-receive-1" rate "copas connector" > 4.0 Fork;
    "connector-publish-0" rate "copas connector" > 4.0 Fork;
    "connector-publish-1" rate "copas connector" > 4.0 Fork;
    "ws-receive-0" rate "" > 0.7 Against::Scenario("receive-0");
    "ws-publish-0" rate "" > 0.7 Against::Scenario("publish-0");
    "ws-receive-1M" rate "" > 0.6 Against::Scenario("receive-1M");
    "ws-publish-1M" rate "" > 0.6 Against::Scenario("publish-1M");
    "wss-receive-0" rate "" > 0.7 Against::Scenario("tls-receive-0");
    "wss-publish-0" rate "" > 0.7 Against::Scenario("tls-publish-0");
    "unix-receive-0" rate "" > 1.0 Against::Scenario("receive-0");
    "unix-publish-0" rate "" > 1.0 Against::Scenario("publish-0");
    "clients-1" idle "" < 0.05 Value;
    "clients-1" wakeups "" < 1.0 Value;
    "clients-10000" connect "" < 3.0 Value;
    "clients-10000" kib "" < 8.0 Value;
    "clients-10000" idle "" < 2.0 Value;
    "clients-10000" wakeups "" < 1.0 Value;
    "clients-10000" echo "" < 1.1 ONE_CLIENT;
    "tls-clients-10000" kib "" < 40.0 Value;
    "tls-clients-10000" idle "" < 2.0 Value;
    "pending-60000" publish "" < 1.5 FEW_PENDING;
    "pending-60000" subscribe "" < 1.5 FEW_PENDING;
    "store-publish-1" rate "store" > 0.6 Stock;
    "store-publish-1" rate "store" > 20.0 Program("Paho C with files");
    "store-publish-1" rate "synced store" > 0.8 Program("fdatasync");
    "store-waiting" offline "5.4" > 300_000.0 Value;
    "store-waiting" filling "" < 16384.0 Value;
    "store-waiting" open "" < 1.0 Value;
    "store-waiting" peak "" < 16384.0 Value;
    "codec" parse4 "" < 1.0 Fork;
    "codec" make4 "" < 1.0 Fork;
    "codec" parse5 "" < 1.0 Fork;
    "codec" make5 "" < 1.0 Fork;
}
