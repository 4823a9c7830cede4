//! The store on a disk that forgets: after each death it holds everything that it has promised.

mod bounds;
mod disk;
mod session;

use std::collections::{BTreeMap, BTreeSet};

use disk::{Death, Random, Simulated};
use mqtt_core::store::{Directory, Message, OpenError, Options, Reader, Report, Store, Sync};

/// What the store should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    next: u64,
    /// Messages that were never sent: tag and packet.
    waiting: BTreeMap<u64, (String, String)>,
    /// Messages under way by packet identifier: sequence number, packet, and whether it is released.
    exchanges: BTreeMap<u16, (u64, String, bool)>,
    received: BTreeSet<u16>,
    notes: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Bytes in short: what they begin with, and how many they are.
fn brief(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    format!("{} ({})", text.trim_end_matches('x'), bytes.len())
}

/// What a store holds. Takes it out of the store as a program would.
fn held(store: &mut Store<Simulated>) -> Model {
    let mut model = Model::default();
    for (id, exchange) in store.exchanges() {
        let packet = match exchange.is_released {
            true => String::new(),
            false => store
                .read(&mut Reader::default(), &exchange, |message| {
                    brief(message.packet)
                })
                .unwrap(),
        };
        model
            .exchanges
            .insert(id, (exchange.sequence, packet, exchange.is_released));
    }
    model.received.extend(store.all_received());
    let notes = store.notes();
    model
        .notes
        .extend(notes.map(|(key, value)| (key.to_vec(), value.to_vec())));
    model.next = store.next();
    while let Some(front) = store.front().unwrap() {
        let (tag, packet) = (brief(front.message.tag), brief(front.message.packet));
        model.waiting.insert(front.sequence, (tag, packet));
        store.drop_front();
    }
    model
}

/// A message without a tag.
fn message(packet: &[u8]) -> Message<'_> {
    Message {
        since: 1,
        expires: 0,
        tag: b"",
        packet,
    }
}

/// Ends the first message that was never sent, as if its packets came one by one.
fn end_front(store: &mut Store<Simulated>) {
    store.send_front(1);
    store.flush().unwrap();
    store.released(1);
    store.flush().unwrap();
    store.done(1);
    store.flush().unwrap();
}

fn options(sync: Sync) -> Options {
    Options {
        sync,
        segment_size: 1500,
        ..Options::default()
    }
}

/// A history, and what has been promised in it.
struct History {
    disk: Simulated,
    random: Random,
    sync: Sync,
    model: Model,
    /// What the store may hold after a death, the newest last. The first is what it must hold at least.
    possible: Vec<Model>,
    /// How many came before these.
    past: usize,
}

impl History {
    fn new(seed: u64, sync: Sync, disk: &Simulated) -> Self {
        Self {
            disk: disk.clone(),
            random: Random::new(seed),
            sync,
            model: Model::default(),
            possible: vec![Model::default()],
            past: 0,
        }
    }

    /// Something happened that may be there after a death.
    fn happened(&mut self) {
        self.possible.push(self.model.clone());
    }

    /// How much has happened so far.
    fn events(&self) -> usize {
        self.past + self.possible.len()
    }

    /// So much of what has happened must be there after a death.
    fn promised(&mut self, events: usize) {
        let gone = (events - 1).saturating_sub(self.past);
        self.possible.drain(..gone);
        self.past += gone;
    }

    fn flushed(&mut self) {
        if self.sync == Sync::Process {
            self.promised(self.events());
        }
    }

    /// Does things with a store until the process dies, at most `steps`. Returns whether it died.
    fn run(&mut self, store: &mut Store<Simulated>, steps: u64) -> bool {
        let mut unique = 0;
        for _ in 0..steps {
            let ids: Vec<u16> = self.model.exchanges.keys().copied().collect();
            let id = match ids.len() {
                0 => None,
                count => Some(ids[self.random.below(count as u64) as usize]),
            };
            let free = (1..)
                .find(|id| !self.model.exchanges.contains_key(id))
                .unwrap();
            match self.random.below(100) {
                0..30 => {
                    unique += 1;
                    let size = match self.random.below(10) {
                        0 => self.random.below(3000),
                        _ => self.random.below(60),
                    };
                    let mut packet = format!("{}-{unique}-", self.model.next).into_bytes();
                    packet.resize(packet.len() + size as usize, b'x');
                    let tag = vec![b't'; self.random.below(4) as usize];
                    let sent_as =
                        (self.model.waiting.is_empty() && self.random.chance(50)).then_some(free);
                    let message = Message {
                        since: 1,
                        expires: 0,
                        tag: &tag,
                        packet: &packet,
                    };
                    let is_tight = self.random.chance(20);
                    if is_tight {
                        let room = self.disk.taken() + self.random.below(600) as usize;
                        self.disk.has_room(Some(room));
                    }
                    let kept = store.keep(&message, sent_as);
                    self.disk.has_room(None);
                    if is_tight && kept.is_err() && !self.disk.is_dead() {
                        continue;
                    }
                    // While the process dies, a part of it may get there.
                    let sequence = self.model.next;
                    self.model.next += 1;
                    self.model
                        .waiting
                        .insert(sequence, (brief(&tag), brief(&packet)));
                    self.happened();
                    if let Some(id) = sent_as {
                        self.model.waiting.remove(&sequence);
                        self.model
                            .exchanges
                            .insert(id, (sequence, brief(&packet), false));
                        self.happened();
                    }
                    match kept {
                        Ok(kept) => assert_eq!(kept, sequence),
                        Err(_) => return true,
                    }
                    self.flushed();
                }
                30..34 => {
                    let Some(first) = self.model.waiting.keys().next().copied() else {
                        continue;
                    };
                    let moved = store.move_front();
                    // While the process dies it may get there.
                    let sequence = self.model.next;
                    self.model.next += 1;
                    let message = self.model.waiting.remove(&first).unwrap();
                    self.model.waiting.insert(sequence, message);
                    self.happened();
                    match moved {
                        Ok(moved) => assert_eq!(moved, sequence),
                        Err(_) => return true,
                    }
                    self.flushed();
                }
                34..50 => {
                    let Ok(front) = store.front() else {
                        return true;
                    };
                    let front = front.map(|front| (front.sequence, brief(front.message.packet)));
                    assert_eq!(
                        front.as_ref().map(|(sequence, _)| sequence),
                        self.model.waiting.keys().next()
                    );
                    if let Some((sequence, packet)) = front {
                        assert_eq!(self.model.waiting.remove(&sequence).unwrap().1, packet);
                        if self.random.chance(15) {
                            store.drop_front();
                        } else {
                            store.send_front(free);
                            self.model.exchanges.insert(free, (sequence, packet, false));
                        }
                        self.happened();
                    }
                }
                50..65 => {
                    if let Some(id) = id {
                        store.done(id);
                        self.model.exchanges.remove(&id);
                        self.happened();
                    }
                }
                65..72 => {
                    if let Some(id) = id {
                        store.released(id);
                        let exchange = self.model.exchanges.get_mut(&id).unwrap();
                        (exchange.1, exchange.2) = (String::new(), true);
                        self.happened();
                    }
                }
                72..76 => {
                    let id = self.random.below(5) as u16 + 1;
                    if self.model.received.insert(id) {
                        store.received(id);
                    } else {
                        self.model.received.remove(&id);
                        store.answered(id);
                    }
                    self.happened();
                }
                76..79 => {
                    let key = vec![b'k', self.random.below(3) as u8];
                    let value = vec![b'v'; self.random.below(9) as usize];
                    store.note(&key, &value);
                    match value.is_empty() {
                        true => self.model.notes.remove(&key),
                        false => self.model.notes.insert(key, value),
                    };
                    self.happened();
                }
                79..80 => {
                    store.session_lost();
                    self.model.received.clear();
                    self.model.exchanges.retain(|_, exchange| !exchange.2);
                    self.happened();
                }
                80..90 => {
                    if store.flush().is_err() {
                        return true;
                    }
                    self.flushed();
                }
                _ => {
                    // Others go on while the disk works.
                    if store.flush().is_err() {
                        return true;
                    }
                    self.flushed();
                    let job = store.sync();
                    let then = self.events();
                    if self.random.chance(50) && self.run(store, 3) {
                        return true;
                    }
                    if let Some(mut job) = job {
                        if self.random.chance(20) {
                            self.disk.fails_to_sync(true);
                            let result = job.run();
                            self.disk.fails_to_sync(false);
                            if store.synced(result).is_ok() || store.flush().is_ok() {
                                panic!("a failed sync");
                            }
                            let Some(again) = store.sync() else {
                                return true;
                            };
                            job = again;
                        }
                        let result = job.run();
                        if store.synced(result).is_err() {
                            return true;
                        }
                        self.promised(then);
                    }
                }
            }
        }
        false
    }

    /// Checks a store that was opened after a death. From now on it must hold what it holds now.
    fn check(&mut self, store: &mut Store<Simulated>, disk: &Simulated, report: &Report) {
        // What is taken out of a copy stays in the store.
        let copy = disk.copy();
        let mut copy = Store::open(copy, options(self.sync)).unwrap().0;
        let found = held(&mut copy);
        assert!(
            self.possible.contains(&found),
            "{report:?}\nfound {found:?}\nat least {:?}\nat most {:?}",
            self.possible.first().unwrap(),
            self.possible.last().unwrap(),
        );
        assert_eq!(
            store.waiting(),
            found.waiting.len() as u64,
            "{report:?} {:?} {:?}",
            disk.sizes(),
            found
        );
        self.model = found.clone();
        self.possible = vec![found];
    }
}

/// Runs a history in which the process dies in this operation, and a second one behind it. Returns whether it has died
/// before the end.
fn die(seed: u64, sync: Sync, death: Death, operation: u64) -> bool {
    let mut disk = Simulated::new(seed);
    let mut history = History::new(seed, sync, &disk);
    if seed % 2 == 1 {
        disk.reserves();
    }
    disk.dies_in(operation);
    let opened = Store::open(disk.clone(), options(sync));
    let died = match opened {
        Ok((mut store, _)) => history.run(&mut store, 60),
        Err(OpenError::Disk(_)) => true,
        Err(error) => panic!("{error}"),
    };
    for round in 0..2 {
        disk = disk.after(death, seed + operation * 7 + round);
        history.disk = disk.clone();
        let (mut store, report) = match Store::open(disk.clone(), options(sync)) {
            Ok(opened) => opened,
            Err(error) => panic!(
                "{error}, seed {seed}, operation {operation}, round {round}, {:?}",
                disk.sizes()
            ),
        };
        assert_eq!(report.damaged, []);
        history.check(&mut store, &disk, &report);
        disk.dies_in(history.random.below(60));
        history.run(&mut store, 30);
    }
    died
}

fn die_everywhere(sync: Sync, death: Death, seeds: std::ops::Range<u64>) {
    let mut deaths = 0;
    for seed in seeds {
        let mut operation = 0;
        while die(seed, sync, death, operation) {
            operation += 1;
        }
        deaths += operation;
    }
    assert!(deaths > 200, "{deaths}");
}

#[test]
fn what_was_kept_outlives_the_process() {
    die_everywhere(Sync::Process, Death::Process, 0..20);
}

#[test]
fn what_was_synced_outlives_the_machine() {
    die_everywhere(Sync::Power, Death::Machine, 100..120);
}

#[test]
fn with_power_what_was_kept_outlives_the_process() {
    die_everywhere(Sync::Power, Death::Process, 200..206);
}

/// A store with some history, closed.
fn some(sync: Sync, seed: u64) -> (Simulated, History) {
    let disk = Simulated::new(seed);
    let mut history = History::new(seed, sync, &disk);
    let (mut store, _) = Store::open(disk.clone(), options(sync)).unwrap();
    assert!(!history.run(&mut store, 60));
    store.flush().unwrap();
    if let Some(job) = store.sync() {
        let result = job.run();
        store.synced(result).unwrap();
        // The journal says so only with the next record.
        store.note(b"last", b"1");
        store.flush().unwrap();
        history.model.notes.insert(b"last".to_vec(), b"1".to_vec());
    }
    (disk, history)
}

#[test]
fn each_flipped_bit_is_found_and_the_rest_survives() {
    for (seed, sync) in [(1, Sync::Process), (2, Sync::Power), (3, Sync::Process)] {
        let (disk, history) = some(sync, seed);
        let mut random = Random::new(seed);
        let (mut damaged, mut cut) = (0, 0);
        for (number, size) in disk.sizes() {
            for _ in 0..size / 4 {
                let bit = random.below(size as u64 * 8) as usize;
                let copy = disk.copy();
                copy.flip(number, bit);
                match Store::open(copy.clone(), options(sync)) {
                    Err(OpenError::Damaged(name, offset)) => {
                        assert_eq!(name, format!("file {number}"));
                        assert!(offset as usize <= bit / 8);
                        damaged += 1;
                    }
                    Err(error) => panic!("{error}"),
                    // Only the end may look torn, and that is said.
                    Ok((_, report)) => {
                        assert!(report.torn.is_some(), "file {number}, bit {bit}");
                        cut += 1;
                        continue;
                    }
                }
                let skipping = Options {
                    skip_damage: true,
                    ..options(sync)
                };
                let (mut store, report) = Store::open(copy, skipping).unwrap();
                assert_ne!(report.damaged, []);
                // Nothing is made up, and reading comes to an end.
                let mut last = None;
                while let Some(front) = store.front().unwrap() {
                    assert!(last.is_none_or(|last| last < front.sequence));
                    last = Some(front.sequence);
                    store.drop_front();
                }
                // An exchange whose message is damaged is over.
                for (_, exchange) in store.exchanges() {
                    if !exchange.is_released {
                        store
                            .read(&mut Reader::default(), &exchange, |_| ())
                            .unwrap();
                    }
                }
                assert!(store.next() <= history.model.next);
            }
        }
        assert!(damaged > 10 * cut, "{damaged} {cut}");
    }
}

#[test]
fn a_lost_file_is_missed() {
    let (disk, _) = some(Sync::Process, 7);
    let sizes = disk.sizes();
    assert!(sizes.len() > 2);
    for (number, _) in &sizes[..sizes.len() - 1] {
        let copy = disk.copy();
        copy.lose(*number);
        match Store::open(copy, options(Sync::Process)) {
            Err(OpenError::Missing(name)) => assert_eq!(name, format!("file {number}")),
            other => panic!(
                "{:?}",
                other.map(|(_, report)| report).map_err(|e| e.to_string())
            ),
        }
    }
}

#[test]
fn a_full_disk_refuses_messages_and_takes_them_again() {
    for seed in 0..30 {
        let disk = Simulated::new(seed);
        let (mut store, _) = Store::open(disk.clone(), options(Sync::Process)).unwrap();
        let message = message(&[7; 100]);
        disk.has_room(Some(6000 + seed as usize * 37));
        let mut kept = 0;
        while store.keep(&message, None).is_ok() {
            kept += 1;
        }
        assert!(kept > 20);
        // The same again: nothing has changed.
        assert!(store.keep(&message, None).is_err());
        assert_eq!(store.waiting(), kept);
        let report = Store::open(disk.copy(), options(Sync::Process)).unwrap();
        assert_eq!((report.0.waiting(), report.1), (kept, Report::default()));
        // There is room again.
        disk.has_room(None);
        assert_eq!(store.keep(&message, None).unwrap(), kept);
        for id in 1..=kept as u16 {
            assert!(store.front().unwrap().is_some());
            store.send_front(id);
            store.done(id);
            store.flush().unwrap();
        }
        assert_eq!(store.count(), 1);
        assert!(disk.sizes().len() <= 4, "{:?}", disk.sizes());
    }
}

#[test]
fn what_a_failed_sync_has_left_is_written_once_more() {
    let disk = Simulated::new(1);
    let (mut store, _) = Store::open(disk.clone(), options(Sync::Power)).unwrap();
    let message = message(&[7; 300]);
    // More than a segment.
    for _ in 0..20 {
        store.keep(&message, None).unwrap();
    }
    disk.fails_to_sync(true);
    let result = store.sync().unwrap().run();
    assert!(store.synced(result).is_err());
    for _ in 0..3 {
        assert!(store.keep(&message, None).is_err());
        assert!(store.flush().is_err());
        let result = store.sync().unwrap().run();
        assert!(store.synced(result).is_err());
    }
    disk.fails_to_sync(false);
    assert!(store.flush().is_err());
    let result = store.sync().unwrap().run();
    store.synced(result).unwrap();
    store.flush().unwrap();
    for seed in 0..10 {
        let after = disk.after(Death::Machine, seed);
        let (store, report) = Store::open(after, options(Sync::Power)).unwrap();
        assert_eq!((store.waiting(), report), (20, Report::default()));
    }
    assert_eq!(store.keep(&message, None).unwrap(), 20);
}

#[test]
fn what_the_system_has_forgotten_is_not_written_once_more() {
    let disk = Simulated::new(1);
    let (mut store, _) = Store::open(disk.clone(), options(Sync::Power)).unwrap();
    let message = message(b"packet");
    store.keep(&message, None).unwrap();
    let result = store.sync().unwrap().run();
    store.synced(result).unwrap();
    store.keep(&message, None).unwrap();
    disk.fails_to_sync(true);
    let result = store.sync().unwrap().run();
    assert!(store.synced(result).is_err());
    disk.fails_to_sync(false);
    disk.forgets();
    for _ in 0..2 {
        assert!(store.flush().is_err());
        let result = store.sync().unwrap().run();
        let error = store.synced(result).unwrap_err().to_string();
        assert!(error.contains("is gone"), "{error}");
    }
    let (store, _) = Store::open(disk.copy(), options(Sync::Power)).unwrap();
    assert_eq!(store.waiting(), 1);
}

#[test]
fn what_cannot_be_read_for_a_while_is_not_damaged() {
    let disk = Simulated::new(1);
    let skipping = Options {
        skip_damage: true,
        ..options(Sync::Process)
    };
    let (mut store, _) = Store::open(disk.clone(), skipping).unwrap();
    let message = message(b"packet");
    for _ in 0..3 {
        store.keep(&message, None).unwrap();
    }
    for id in 1..=3 {
        disk.fails_to_read(true);
        // What has been read is not read again.
        for _ in 0..3 {
            assert_eq!(store.front().is_err(), id == 1);
        }
        disk.fails_to_read(false);
        assert!(store.front().unwrap().is_some());
        store.send_front(id);
    }
    assert_eq!(store.count(), 3);
}

#[test]
fn what_was_refused_is_cut_off_when_that_is_possible() {
    for seed in 0..20 {
        let disk = Simulated::new(seed);
        let (mut store, _) = Store::open(disk.clone(), options(Sync::Process)).unwrap();
        let message = message(&[7; 100]);
        disk.has_room(Some(disk.taken() + 500 + seed as usize));
        disk.fails_to_truncate(true);
        while store.keep(&message, None).is_ok() {}
        disk.has_room(None);
        assert!(store.keep(&message, None).is_err());
        disk.fails_to_truncate(false);
        let kept = store.waiting();
        store.keep(&message, None).unwrap();
        let (store, report) = Store::open(disk, options(Sync::Process)).unwrap();
        assert_eq!((store.waiting(), report), (kept + 1, Report::default()));
    }
}

/// A message that nobody answers does not hold up everything behind it.
#[test]
fn a_message_that_is_stuck_is_moved_on() {
    let disk = Simulated::new(1);
    let (mut store, _) = Store::open(disk.clone(), options(Sync::Process)).unwrap();
    let packet = |index: u32| format!("{index:0>90}");
    for index in 0..1000 {
        let packet = packet(index);
        let message = message(packet.as_bytes());
        let id = if index == 0 { 1 } else { 2 };
        store.keep(&message, Some(id)).unwrap();
        if id == 2 {
            store.done(id);
        }
    }
    store.flush().unwrap();
    assert!(disk.sizes().len() < 6, "{:?}", disk.sizes());
    let (store, _) = Store::open(disk, options(Sync::Process)).unwrap();
    let exchanges = store.exchanges();
    assert_eq!(exchanges.len(), 1);
    let found = store.read(&mut Reader::default(), &exchanges[0].1, |message| {
        message.packet.to_vec()
    });
    assert_eq!(found.unwrap(), packet(0).into_bytes());
}

/// On a real disk, in files that only their owner can read.
#[test]
fn a_directory_keeps_what_was_kept() {
    use std::os::unix::fs::PermissionsExt;

    let path = std::env::temp_dir().join(format!("store-{}", std::process::id()));
    let open = || {
        let directory = Directory::new(&path).unwrap();
        let options = Options {
            segment_size: 20_000,
            ..options(Sync::Power)
        };
        Store::open(directory, options).unwrap().0
    };
    let mut store = open();
    let in_use = Directory::new(&path).err().expect("one owner");
    assert_eq!(in_use.to_string(), "another client of this process uses it");
    assert_eq!(elsewhere(&path), "another process uses it");
    let message = Message {
        since: 1,
        expires: 2,
        tag: b"tag",
        packet: &[7; 100],
    };
    for _ in 0..1000 {
        store.keep(&message, None).unwrap();
    }
    let job = store.sync().unwrap();
    assert!(store.sync().is_none(), "one at a time");
    assert_eq!(store.synced(job.run()).unwrap(), store.written());
    drop(store);
    let mut store = open();
    for sequence in 0..1000 {
        let front = store.front().unwrap().unwrap();
        assert_eq!((front.sequence, front.message), (sequence, message.clone()));
        store.drop_front();
    }
    store.flush().unwrap();
    if let Some(job) = store.sync() {
        store.synced(job.run()).unwrap();
    }
    assert_eq!(store.count(), 0);
    let files: Vec<_> = std::fs::read_dir(&path)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert!(files.len() < 4, "{files:?}");
    for file in files {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    drop(store);
    assert_eq!(elsewhere(&path), "mine");
    std::fs::remove_dir_all(&path).unwrap();
}

/// What another process says that takes the directory.
fn elsewhere(path: &std::path::Path) -> String {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "takes_a_directory", "--nocapture"])
        .env("STORE", path)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (_, rest) = text.split_once("directory: ").unwrap();
    rest.lines().next().unwrap().to_owned()
}

/// Does something only in the process that [`elsewhere`] starts.
#[test]
fn takes_a_directory() {
    if let Some(path) = std::env::var_os("STORE") {
        let said = match Directory::new(path.as_ref()) {
            Ok(_) => "mine".to_owned(),
            Err(error) => error.to_string(),
        };
        println!("directory: {said}");
    }
}
