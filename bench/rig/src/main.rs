//! Measures MQTT clients: `rig broker`, `rig raw`, `rig relayed`, `rig rumqttc`, `rig journal`, `rig run`. See USAGE.

mod broker;
mod hosts;
mod journal;
mod plot;
mod program;
mod raw;
mod reference;
mod report;
mod run;
mod scenario;
mod tls;
mod websocket;
mod wire;

use std::path::Path;
use std::process::ExitCode;

use program::{Outcome, Task};

const USAGE: &str = "\
usage: rig broker [CERTIFICATES]     the fast broker, on free ports that it prints
       rig raw TASK NUMBER...        the tightest loop over a socket
       rig relayed TASK NUMBER...    the same, where another thread owns the socket
       rig rumqttc TASK NUMBER...    the same task by rumqttc
       rig journal                   the tightest loop of writes and fdatasync
       rig run OPTION VALUE...       everything, in turns, from the project's directory:
         --lua VERSION        a Lua to measure the library on
         --peer DIR           another luamqtt to measure on it; the targets mean the first one
         --only WORD          scenarios of this name, or with this between the hyphens of their names
         --rounds NUMBER      runs of each program, 5 unless given
         --ms NUMBER          length of a run, 1000 unless given
         --waiting NUMBER     how many messages wait in a store, 1000000 unless given
         --mosquitto PROGRAM  what was built from bench/mosquitto.c
         --paho PROGRAM       what was built from bench/paho.c
         --certificates DIR   of scripts/certs, build/bench/certs unless given
         --out DIR            for bench.json, bench.md and the pictures, build unless given";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((command, rest)) => match &**command {
            "broker" => serve(rest),
            "raw" => Task::new(rest).and_then(|task| raw::run(&task, false)),
            "relayed" => Task::new(rest).and_then(|task| raw::run(&task, true)),
            "rumqttc" => Task::new(rest).and_then(|task| reference::run(&task)),
            "journal" => Task::new(rest).and_then(|task| journal::run(&task)),
            "run" => run::run(rest),
            _ => Err(format!("unknown command '{command}'\n{USAGE}").into()),
        },
        None => Err(USAGE.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rig: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: &[String]) -> Outcome {
    let tls = match arguments.first() {
        Some(certificates) => Some(tls::server(Path::new(certificates))?),
        None => None,
    };
    let broker = broker::Broker::start(tls)?;
    println!("plain {}", broker.plain);
    if let Some(address) = broker.tls {
        println!("tls {address}");
    }
    loop {
        std::thread::park();
    }
}
