//! The tightest loop that has messages outlive the machine: what a store writes for some messages, and `fdatasync`.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use crate::program::{OUTSTANDING, Outcome, Stopwatch, Task};

/// Messages between two syncs. While the store syncs some messages, others are published: of those that are
/// unacknowledged, half belong to each of two syncs. Counted by strace, 49.6 messages are in one.
const GROUP: usize = OUTSTANDING / 2;
/// What a store keeps of a message besides the message: records of it, of its identifier and of its acknowledgement.
const OVERHEAD: usize = 100;

/// Writes until the time is over.
pub fn run(task: &Task) -> Outcome {
    let directory = std::env::var("RIG_STORE").map_err(|_| "RIG_STORE is not set")?;
    let mut file = File::create(PathBuf::from(directory).join("journal"))?;
    let group = vec![b'x'; GROUP * (OVERHEAD + task.size())];
    let mut messages = 0;
    let watch = Stopwatch::start(task);
    while watch.elapsed() < task.duration {
        file.write_all(&group)?;
        file.sync_data()?;
        messages += GROUP as u64;
    }
    watch.report(messages);
    Ok(())
}
