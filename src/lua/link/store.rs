//! The methods of a link about its store.

use std::path::Path;

use super::{Answer, Live, LuaLink};
use crate::driver::store;
use crate::lua::args::{PublishArgs, Scalar, requests};
use crate::lua::environment::unix_time;
use crate::lua::refusal::Refusal;
use crate::lua::results::Results;
use crate::lua::stack::Stack;
use crate::session::Label;
use crate::store::{Options, Report, Sync};

/// `keep_in(path, power, max_bytes, max_messages, skip_damage)`: opens the store in a directory, whose messages this link
/// sends. Returns true, the place of a torn end that was cut off, and how many damaged places were skipped.
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
        let Live { link, .. } = this.live()?;
        let (journal, report) = store::open(Path::new(path), options)
            .map_err(|error| Refusal::Failure(error.to_string()))?;
        link.keep_in(journal)
            .map_err(|error| Refusal::Failure(error.to_string()))?;
        Ok(Found(report))
    };
    Ok(answer())
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
/// place in the order of kept messages, the time as of `os.time`, and whether the program should wait before it sends more.
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
        let (packet_id, sequence) = link
            .publish_kept(&message.packet(0, &properties), &label)
            .map_err(Refusal::from)?;
        Ok(Kept {
            packet_id,
            sequence,
            full: link.is_full(),
        })
    };
    Ok(answer())
}

/// A kept message.
pub(super) struct Kept {
    packet_id: u16,
    sequence: u64,
    full: bool,
}

impl Results for Kept {
    fn push(&self, to: &Stack) {
        to.push_integer(self.packet_id);
        to.push_count(self.sequence);
        to.push_integer(unix_time());
        to.push_boolean(self.full);
    }
}
