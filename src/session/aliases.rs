//! Topic aliases of messages that this client sends (3.3.2.3.4). They last as long as the connection.

use std::collections::HashMap;

use super::id_map::IdMap;
use crate::codec::Str;

/// The aliases that the server has been told. Owns no memory while there are none.
#[derive(Default)]
pub(super) struct SentAliases(Option<Box<Aliases>>);

#[derive(Default)]
struct Aliases {
    /// The topics of the program's own aliases.
    topics: IdMap<Str>,
    /// The aliases given out by [`SentAliases::assign`].
    automatic: HashMap<Box<str>, u16>,
}

/// An automatic alias for a PUBLISH.
pub(super) enum Assigned {
    /// The server knows the alias: the topic may be left out.
    Known(u16),
    /// The server does not know the alias: it goes along with the topic.
    New(u16),
}

impl SentAliases {
    /// The topic of one of the program's own aliases.
    pub(super) fn topic(&self, alias: u16) -> Option<&Str> {
        self.0.as_ref()?.topics.get(&alias)
    }

    /// The program has sent an alias of its own together with its topic.
    pub(super) fn insert(&mut self, alias: u16, topic: &str) {
        let topic = Str::try_from(topic).expect("a topic that has been encoded");
        self.known().topics.insert(alias, topic);
    }

    /// An automatic alias for a topic. The first topics get one each, up to the server's maximum.
    pub(super) fn assign(&self, topic: &str, maximum: u16) -> Option<Assigned> {
        let automatic = self.0.as_ref().map(|known| &known.automatic);
        if let Some(alias) = automatic.and_then(|automatic| automatic.get(topic)) {
            return Some(Assigned::Known(*alias));
        }
        let next = automatic.map_or(0, HashMap::len) + 1;
        (next <= usize::from(maximum)).then_some(Assigned::New(next as u16))
    }

    /// The server has been sent a new automatic alias.
    pub(super) fn assigned(&mut self, alias: u16, topic: &str) {
        self.known().automatic.insert(topic.into(), alias);
    }

    fn known(&mut self) -> &mut Aliases {
        self.0.get_or_insert_default()
    }
}
