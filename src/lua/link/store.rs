//! The methods of a link about its store.

use std::path::Path;
use std::time::Instant;

use bytes::BytesMut;

use super::{Answer, Live, LuaLink, Returned};
use crate::driver::store;
use crate::lua::args::{PublishArgs, Scalar, requests};
use crate::lua::environment::unix_time;
use crate::lua::refusal::Refusal;
use crate::lua::results::{Results, set};
use crate::lua::stack::Stack;
use crate::session::{Discarded, Keeping, Label, Listed, Mark, topic_of};
use crate::store::{Options, Report, Sync};

/// `keep_in(path, power, max_bytes, max_messages, skip_damage, drops_oldest, latest)`: opens the store in a directory, whose
/// messages this link sends. Returns true, the place of a torn end that was cut off, and how many damaged places were skipped.
pub(super) fn keep_in(arguments: &Stack) -> Answer<Found> {
    let this = LuaLink::of(arguments)?;
    let answer = || {
        let path = arguments.argument(2).text(&"store")?;
        let number = |index, most: u64| match arguments.argument(index) {
            Scalar::Number(number) => number as u64,
            _ => most,
        };
        let is_set = |index| matches!(arguments.argument(index), Scalar::Boolean(true));
        let options = Options {
            sync: match is_set(3) {
                true => Sync::Power,
                false => Sync::Process,
            },
            max_bytes: number(4, u64::MAX),
            max_messages: number(5, u64::MAX),
            skip_damage: is_set(6),
            ..Options::default()
        };
        let Live { link, driver } = this.live()?;
        let (journal, report) = store::open(Path::new(path), options, this.version)
            .map_err(|error| Refusal::Failure(error.to_string()))?;
        let keeping = Keeping {
            version: this.version,
            drops_oldest: is_set(7),
            latest: is_set(8),
        };
        link.keep_in(driver, journal, keeping)
            .map_err(|error| Refusal::Failure(error.to_string()))?;
        Ok(Found(report))
    };
    Ok(answer())
}

/// `note(name, value)`: keeps a value under a name in the store.
pub(super) fn note(arguments: &Stack) -> Answer<bool> {
    let this = LuaLink::of(arguments)?;
    let answer = || {
        let name = arguments.argument(2).bytes(&"name")?;
        let value = arguments.argument(3).bytes(&"value")?;
        this.live()?.link.note(name, value);
        Ok(true)
    };
    Ok(answer())
}

/// `noted(name)`: returns the value that is kept under a name, an empty string for none.
pub(super) fn noted(arguments: &Stack) -> Answer<BytesMut> {
    let this = LuaLink::of(arguments)?;
    let answer = || {
        let name = arguments.argument(2).bytes(&"name")?;
        let value = this.live()?.link.noted(name);
        Ok(BytesMut::from(&*value.unwrap_or_default()))
    };
    Ok(answer())
}

/// `let_store_go()`: closes the store. What it keeps is for the next one that opens it.
pub(super) fn let_store_go(arguments: &Stack) -> Returned<()> {
    let this = LuaLink::of(arguments)?;
    if let Ok(Live { link, .. }) = this.live() {
        link.let_go_of_store();
    }
    Ok(())
}

/// What was found when the store was opened.
pub(super) struct Found(Report);

impl Results for Found {
    fn push(&self, to: &Stack) {
        to.push_boolean(true);
        let torn = self.0.torn.as_ref();
        torn.map(|(file, offset)| format!("{file}, offset {offset}"))
            .push(to);
        to.push_count(self.0.damaged.len() as u64);
    }
}

/// `publish_kept(topic, payload, qos, retain, dup, properties, user_properties, tag, expires_in)`: publishes a message that
/// outlives the process; `expires_in` is a number of seconds. Returns the packet identifier, 0 if the message waits, its
/// place in the order of kept messages, the time as of `os.time`, whether the program should wait before it sends more, and
/// perhaps a list of the messages that were given up for it.
pub(super) fn publish_kept(arguments: &Stack) -> Answer<Kept> {
    let this = LuaLink::of(arguments)?;
    let answer = || {
        let message = PublishArgs::read(arguments, 2)?;
        let properties = requests::properties(arguments, 7, this.version)?;
        let label = Label {
            tag: match arguments.argument(9) {
                Scalar::Nil => &[],
                tag => tag.bytes(&".tag")?,
            },
            expires_in: match arguments.argument(10) {
                Scalar::Number(seconds) => (seconds * 1000.0).ceil() as u64,
                _ => 0,
            },
        };
        let Live { link, .. } = this.live()?;
        let (packet_id, sequence, dropped) = link
            .publish_kept(&message.packet(0, &properties), &label)
            .map_err(Refusal::from)?;
        Ok(Kept {
            packet_id,
            sequence,
            full: link.is_full(),
            dropped,
        })
    };
    Ok(answer())
}

/// A kept message.
pub(super) struct Kept {
    packet_id: u16,
    sequence: u64,
    full: bool,
    dropped: Vec<Discarded>,
}

impl Results for Kept {
    fn push(&self, to: &Stack) {
        to.push_integer(self.packet_id);
        to.push_count(self.sequence);
        to.push_integer(unix_time());
        to.push_boolean(self.full);
        if !self.dropped.is_empty() {
            self.dropped.push(to);
        }
    }
}

/// How many waiting messages `stored` returns at a time.
const PAGE: usize = 64;

/// `stored(segment, offset)`: a list of kept messages, and two numbers to call it with for more, or nil. A message is a
/// table with `tag`, `topic`, `qos`, `since` (seconds as of `os.time`), and `packet_id` if it is under way. Without
/// arguments it begins with those under way.
pub(super) fn stored(arguments: &Stack) -> Answer<Page> {
    let this = LuaLink::of(arguments)?;
    let answer = || {
        let from = match (arguments.argument(2), arguments.argument(3)) {
            (Scalar::Number(segment), Scalar::Number(offset)) => {
                Some(Mark(segment as u64, offset as u64))
            }
            _ => None,
        };
        let Live { link, .. } = this.live()?;
        let (messages, next) = link
            .stored(from, PAGE)
            .map_err(|error| Refusal::Failure(error.to_string()))?;
        Ok(Page { messages, next })
    };
    Ok(answer())
}

/// `waits_for_store()`: whether bytes wait until the store has been synced.
pub(super) fn waits_for_store(arguments: &Stack) -> Returned<bool> {
    let live = LuaLink::of(arguments)?.live();
    Ok(live.is_ok_and(|live| live.link.waits_for_store()))
}

/// `wait_for_store(seconds)`: blocks until no bytes wait for the store or the time is over, but no longer than a second.
pub(super) fn wait_for_store(arguments: &Stack) -> Returned<()> {
    let deadline = Instant::now() + arguments.argument(2).seconds(&"time")?;
    if let Ok(Live { link, driver }) = LuaLink::of(arguments)?.live() {
        driver.wait_until(deadline, || !link.waits_for_store());
    }
    Ok(())
}

/// Kept messages.
pub(super) struct Page {
    messages: Vec<Listed>,
    next: Option<Mark>,
}

impl Results for Page {
    fn push(&self, to: &Stack) {
        to.push_table();
        for message in &self.messages {
            to.push_table();
            if !message.tag.is_empty() {
                set(to, "tag", |to| to.push_bytes(&message.tag));
            }
            set(to, "topic", |to| to.push_bytes(topic_of(&message.head)));
            set(to, "qos", |to| to.push_integer(message.head[0] >> 1 & 3));
            set(to, "since", |to| {
                to.push_number(message.since as f64 / 1000.0)
            });
            set(to, "packet_id", |to| message.packet_id.push(to));
            to.append();
        }
        if let Some(Mark(segment, offset)) = self.next {
            to.push_count(segment);
            to.push_count(offset);
        }
    }
}
