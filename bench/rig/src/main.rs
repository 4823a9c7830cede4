//! Measures MQTT clients: `rig broker`, `rig raw`, `rig rumqttc`, `rig run`. See USAGE.

mod broker;
mod program;
mod raw;
mod reference;
mod tls;
mod wire;

use std::path::Path;
use std::process::ExitCode;

use program::{Outcome, Task};

const USAGE: &str = "\
usage: rig broker [CERTIFICATES]     the fast broker, on free ports that it prints
       rig raw TASK NUMBER...        the tightest loop over a socket
       rig rumqttc TASK NUMBER...    the same task by rumqttc";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((command, rest)) => match &**command {
            "broker" => serve(rest),
            "raw" => Task::new(rest).and_then(|task| raw::run(&task)),
            "rumqttc" => Task::new(rest).and_then(|task| reference::run(&task)),
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
