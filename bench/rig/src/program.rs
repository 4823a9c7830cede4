//! The common part of the measured programs: their arguments and their reports.
//!
//! A program is called as `PROGRAM receive QOS SIZE`, `PROGRAM publish QOS SIZE`, `PROGRAM roundtrip QOS`,
//! `PROGRAM clients COUNT` or, if it is in Lua, `PROGRAM step PAUSE [idle]` or `PROGRAM waiting`. Its environment has
//! `RIG_HOST` and `RIG_PORT`, `RIG_URI` for WebSocket and Unix sockets, `RIG_CA` if it is to use TLS, and `RIG_MS`, the
//! time to measure in milliseconds; `RIG_STORE`, an empty directory, `RIG_SYNC`, `process` or `power`, if it is to keep
//! its messages there, and `RIG_WAITING`, how many messages are to wait in a store. It prints a line of `name=number` pairs:
//!
//! - `rate` messages a second, `cpu` microseconds of CPU time a message, of all its threads;
//! - `p50`, `p99` of round trips in microseconds, from a publish until the message and its acknowledgement are there;
//! - `peak`, the most by which resident memory grew, in KiB, for messages of 64 KiB and more.

use std::env;
use std::error::Error;
use std::fs;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// The number of unacknowledged QoS 1 or 2 messages that a program keeps under way.
pub const OUTSTANDING: usize = 100;
/// The size of messages from which on memory is measured, in bytes.
const LARGE: usize = 64 * 1024;

/// The result of a program in this crate.
pub type Outcome = Result<(), Box<dyn Error>>;

/// The task of a program.
pub struct Task {
    /// The task's name, the first argument.
    pub what: String,
    /// The arguments after it.
    pub numbers: Vec<usize>,
    /// The broker's name or address.
    pub host: String,
    /// The broker's port.
    pub port: u16,
    /// The path of the broker's Unix socket, to be used instead.
    pub unix: Option<String>,
    /// The file of the CA for TLS.
    pub ca: Option<String>,
    /// How long to measure.
    pub duration: Duration,
}

impl Task {
    /// Reads arguments and environment.
    pub fn new(arguments: &[String]) -> Result<Self, Box<dyn Error>> {
        let variable = |name| env::var(name).map_err(|_| format!("{name} is not set"));
        let [what, numbers @ ..] = arguments else {
            return Err("expecting what to do".into());
        };
        Ok(Self {
            what: what.clone(),
            numbers: numbers
                .iter()
                .map(|word| word.parse())
                .collect::<Result<_, _>>()?,
            host: variable("RIG_HOST")?,
            port: variable("RIG_PORT")?.parse()?,
            unix: env::var("RIG_URI")
                .ok()
                .and_then(|uri| uri.strip_prefix("unix://").map(str::to_owned)),
            ca: env::var("RIG_CA").ok(),
            duration: Duration::from_millis(variable("RIG_MS")?.parse()?),
        })
    }

    /// The QoS, the first number.
    pub fn qos(&self) -> u8 {
        self.numbers.first().copied().unwrap_or(0) as u8
    }

    /// The size of payloads, the second number.
    pub fn size(&self) -> usize {
        self.numbers.get(1).copied().unwrap_or(64)
    }

    /// The topic that makes the broker send.
    pub fn receive_topic(&self) -> String {
        format!(
            "rig/receive/{}/{}/{}",
            self.qos(),
            self.duration.as_millis(),
            self.size()
        )
    }
}

/// Measures from its creation on.
pub struct Stopwatch {
    start: Instant,
    cpu: Duration,
    resident: Option<u64>,
}

impl Stopwatch {
    /// Starts to measure.
    pub fn start(task: &Task) -> Self {
        let large = task.size() >= LARGE;
        if large {
            // Resets the peak to the memory that is resident now.
            let _ = fs::write("/proc/self/clear_refs", "5");
        }
        Self {
            resident: large.then(|| status("VmRSS")).flatten(),
            cpu: cpu_time(),
            start: Instant::now(),
        }
    }

    /// The time since the start.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Prints the report.
    pub fn report(&self, messages: u64) {
        let elapsed = self.elapsed().as_secs_f64();
        let cpu = (cpu_time() - self.cpu).as_secs_f64();
        print!(
            "rate={:.1} cpu={:.4}",
            messages as f64 / elapsed,
            cpu * 1e6 / messages as f64
        );
        if let (Some(before), Some(peak)) = (self.resident, status("VmHWM")) {
            print!(" peak={}", peak.saturating_sub(before));
        }
        println!();
    }
}

/// Prints the report of round trips.
pub fn report_round_trips(watch: &Stopwatch, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |part: f64| times[(times.len() as f64 * part) as usize].as_secs_f64() * 1e6;
    print!("p50={:.1} p99={:.1} ", at(0.50), at(0.99));
    watch.report(times.len() as u64);
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A field of /proc/self/status, in KiB.
pub fn status(field: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
