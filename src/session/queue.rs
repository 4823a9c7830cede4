//! The packets that were never sent, in the order of their requests.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

/// A packet that has not been sent yet.
pub(super) enum Held {
    /// The packet of this exchange.
    Exchange(u16),
    /// A QoS 0 PUBLISH.
    Plain(Box<[u8]>),
}

/// Since when a message waits, and until when it is worth sending.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub(super) since: Instant,
    pub(super) expires: Option<Instant>,
}

/// A packet, its size in bytes, and, if they matter, its times.
pub(super) struct Entry {
    pub(super) held: Held,
    pub(super) size: usize,
    pub(super) times: Option<Box<Times>>,
}

/// The place of a packet, as long as it waits. No other packet ever has it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u64);

/// Places by topic.
type Newest = HashMap<Box<str>, u64>;

/// The queue.
pub(super) struct Queue {
    /// `None`: the packet has left the queue before those in front of it. The first entry is never `None`.
    entries: VecDeque<Option<Entry>>,
    /// The place of the first entry.
    first: u64,
    len: usize,
    bytes: usize,
    /// The newest message of each topic, if somebody asks for it. Some have left the queue.
    newest: Option<Box<Newest>>,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            // Packets are put in front, too.
            first: u64::MAX / 2,
            len: 0,
            bytes: 0,
            newest: None,
        }
    }
}

impl Queue {
    /// The number of packets.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the packets.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, held: Held, size: usize) {
        self.len += 1;
        self.bytes += size;
        self.entries.push_back(Some(Entry {
            held,
            size,
            times: None,
        }));
    }

    /// The times of the last packet matter.
    pub(super) fn time_last(&mut self, times: Times) {
        if let Some(Some(last)) = self.entries.back_mut() {
            last.times = Some(Box::new(times));
        }
    }

    /// The last packet is the newest message of its topic.
    pub(super) fn name_last(&mut self, topic: &str) {
        let end = self.first + self.entries.len() as u64;
        let newest = self.newest.get_or_insert_default();
        if newest.len() > 2 * self.entries.len() + 64 {
            newest.retain(|_, place| *place >= self.first);
        }
        match newest.get_mut(topic) {
            Some(place) => *place = end - 1,
            None => {
                newest.insert(topic.into(), end - 1);
            }
        }
    }

    /// The newest message of a topic, and its size.
    pub(super) fn newest(&self, topic: &str) -> Option<(Place, usize)> {
        let place = *self.newest.as_ref()?.get(topic)?;
        let index = place.checked_sub(self.first)?;
        let entry = self.entries.get(index as usize)?.as_ref()?;
        Some((Place(place), entry.size))
    }

    pub(super) fn front(&self) -> Option<&Entry> {
        self.entries.front()?.as_ref()
    }

    pub(super) fn pop_front(&mut self) -> Option<Entry> {
        self.remove(Place(self.first))
    }

    /// Takes a packet out of the queue.
    pub(super) fn remove(&mut self, place: Place) -> Option<Entry> {
        let index = place.0.checked_sub(self.first)?;
        let entry = self.entries.get_mut(index as usize)?.take()?;
        self.len -= 1;
        self.bytes -= entry.size;
        while let Some(None) = self.entries.front() {
            self.entries.pop_front();
            self.first += 1;
        }
        Some(entry)
    }

    /// The packets, from the front on, and their places.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Place, &Entry)> {
        let entries = self.entries.iter().enumerate();
        entries.filter_map(|(index, entry)| {
            let place = Place(self.first + index as u64);
            Some((place, entry.as_ref()?))
        })
    }

    /// Moves a packet to the front.
    pub(super) fn bring_forward(&mut self, place: Place) {
        if let Some(entry) = self.remove(place) {
            self.len += 1;
            self.bytes += entry.size;
            self.first -= 1;
            self.entries.push_front(Some(entry));
        }
    }

    /// Takes out the packets for which `keep` returns false.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Held) -> bool) {
        let places: Vec<Place> = self
            .iter()
            .filter_map(|(place, entry)| (!keep(&entry.held)).then_some(place))
            .collect();
        for place in places {
            self.remove(place);
        }
    }

    /// Gives back memory that a burst needed.
    pub(super) fn shrink(&mut self) {
        if self.is_empty() {
            self.newest = None;
        }
        self.entries.shrink_to_fit();
    }
}
