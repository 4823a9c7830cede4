//! `fault-proxy TARGET [OPTION VALUE]...`: the proxy for programs in other languages.
//!
//! It prints `seed N`, `listening ADDRESS` and then a line for each event. It takes commands on its standard input, one
//! a line. It ends when its input ends or says `quit`.

use std::fmt::Display;
use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::str::FromStr;

use faults::proxy::COMMANDS;
use faults::{Command, Plan, Proxy};
use tokio::sync::mpsc;

const USAGE: &str = "\
usage: fault-proxy ADDRESS:PORT [OPTION VALUE]...
  --listen ADDRESS:PORT  where to listen, 127.0.0.1:0 unless given: a free port
  --seed NUMBER          what the faults are drawn from, random unless given
  --cuts NUMBER          how many connections are cut in all, 0 unless given
  --between MIN..MAX     after how many bytes in one direction, drawn for each connection
  --early P              probability that it is within the first 256 bytes instead
  --reset P              probability of a cut by RST; by FIN is what remains of these
  --half-open P          ... of swallowing one direction for a while, then RST
  --abandon P            ... of RST to the client, and silence to the server
  --server-fin P         probability that the server sees FIN where the client sees RST
  --calm MIN..MAX        after how many bytes in a direction it is disturbed again; never unless given
  --trickle P            probability that a disturbance lets bytes pass one by one; else it is a pause
  --pause MIN..MAX       how long pauses and half-open connections last, in milliseconds";

struct Arguments {
    listen: SocketAddr,
    target: SocketAddr,
    plan: Plan,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("fault-proxy: {error}\n{USAGE}\ncommands: {COMMANDS}, quit");
            return ExitCode::from(2);
        }
    };
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fault-proxy: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut target = None;
    let mut plan = Plan {
        seed: fastrand::u64(..),
        ..Plan::default()
    };
    let mut arguments = arguments.peekable();
    while let Some(name) = arguments.next() {
        if !name.starts_with("--") {
            target = Some(value("target", &name)?);
            continue;
        }
        let text = arguments
            .next()
            .ok_or(format!("expecting a value for {name}"))?;
        match &name[..] {
            "--listen" => listen = value(&name, &text)?,
            "--seed" => plan.seed = value(&name, &text)?,
            "--cuts" => plan.cuts = value(&name, &text)?,
            "--between" => plan.between = range(&name, &text)?,
            "--early" => plan.early = value(&name, &text)?,
            "--reset" => plan.reset = value(&name, &text)?,
            "--half-open" => plan.half_open = value(&name, &text)?,
            "--abandon" => plan.abandon = value(&name, &text)?,
            "--server-fin" => plan.server_fin = value(&name, &text)?,
            "--calm" => plan.calm = range(&name, &text)?,
            "--trickle" => plan.trickle = value(&name, &text)?,
            "--pause" => plan.pause = range(&name, &text)?,
            _ => return Err(format!("unknown option {name}")),
        }
    }
    let target = target.ok_or("expecting an address and port to forward to")?;
    Ok(Arguments {
        listen,
        target,
        plan,
    })
}

fn value<T: FromStr<Err: Display>>(name: &str, text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|error| format!("bad value '{text}' of {name}: {error}"))
}

fn range(name: &str, text: &str) -> Result<RangeInclusive<u64>, String> {
    let (min, max) = text
        .split_once("..")
        .ok_or(format!("expecting MIN..MAX for {name}"))?;
    let range = value(name, min)?..=value(name, max)?;
    if range.is_empty() {
        return Err(format!("{name} {text}: nothing is in that range"));
    }
    Ok(range)
}

#[tokio::main(flavor = "current_thread")]
async fn run(arguments: Arguments) -> io::Result<()> {
    let Arguments {
        listen,
        target,
        plan,
    } = arguments;
    let seed = plan.seed;
    let (proxy, mut events) = Proxy::start(listen, target, plan).await?;
    let mut lines = read_lines();
    let mut out = io::stdout();
    writeln!(out, "seed {seed}\nlistening {}", proxy.address())?;
    loop {
        tokio::select! {
            Some(event) = events.recv() => writeln!(out, "{event}")?,
            line = lines.recv() => match line.as_deref().map(str::trim) {
                None | Some("quit") => return Ok(()),
                Some(line) => match line.parse::<Command>() {
                    Ok(command) => proxy.command(command),
                    Err(error) => eprintln!("fault-proxy: {error}"),
                },
            },
        }
    }
}

/// The lines of the standard input. A thread waits for them, and ends with the process.
fn read_lines() -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
