//! Finds the topic filters that match a topic name (4.7). This file neither acts on a match nor checks names and
//! filters: `codec/topic.rs` has the rules.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::mem;
use std::ops::Range;
use std::slice;

use crate::codec::without_share;

/// A set of topic filters, each with a key: a trie of topic levels. It finds the filters that match a topic name.
///
/// The time depends on the number of levels and of wildcards on the way, not on the number of filters.
pub struct Filters {
    nodes: Vec<Node>,
    /// Unused nodes.
    free: Vec<u32>,
    /// Each level that occurs in a filter and is no wildcard. Only this map hashes topic names, each level once. The
    /// names come from other clients, so this hash is keyed.
    levels: HashMap<Box<[u8]>, Level>,
    /// Numbers of removed levels, for new levels.
    free_levels: Vec<u32>,
    /// The child of a node for a level.
    children: HashMap<(u32, u32), u32, BuildHasherDefault<PairHasher>>,
    // Working memory of `matches`, kept for the next call.
    passed: Vec<Passed>,
    todo: Vec<Branch>,
    captures: Vec<Range<usize>>,
}

/// The common beginning of some filters. Nodes are looked up at random, so a node fits into a cache line.
#[derive(Default)]
struct Node {
    /// Keys of the filters that end here.
    here: Keys,
    /// Keys of the filters that end with `#` behind this node.
    below: Keys,
    /// The child for `+`, or [`NONE`].
    plus: u32,
    /// How many children the node has for levels.
    children: u32,
    /// The level's number and the node of the only child. Most children are alone; this field then spares the lookup in
    /// [`Filters::children`], which has the child too.
    only_child: (u32, u32),
}

const _: () = assert!(size_of::<Node>() <= 64);

/// The keys of equal filters: mostly a single key.
#[derive(Default)]
enum Keys {
    #[default]
    None,
    One(u64),
    Many(Vec<u64>),
}

impl Keys {
    fn push(&mut self, key: u64) {
        *self = match mem::take(self) {
            Self::None => Self::One(key),
            Self::One(first) => Self::Many(vec![first, key]),
            Self::Many(mut keys) => {
                keys.push(key);
                Self::Many(keys)
            }
        }
    }

    /// Returns whether the key was there.
    fn remove(&mut self, key: u64) -> bool {
        let Some(position) = self.as_slice().iter().position(|other| *other == key) else {
            return false;
        };
        match self {
            Self::Many(keys) if keys.len() > 1 => {
                keys.remove(position);
            }
            _ => *self = Self::None,
        }
        true
    }

    fn as_slice(&self) -> &[u64] {
        match self {
            Self::None => &[],
            Self::One(key) => slice::from_ref(key),
            Self::Many(keys) => keys,
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }
}

/// A level that occurs in filters.
struct Level {
    number: u32,
    /// How many nodes are children for this level.
    nodes: u32,
}

/// A level of the topic name: its place in the name, and its number if the level occurs in a filter.
struct Passed {
    range: Range<usize>,
    number: Option<u32>,
}

/// A node that the topic name leads to.
struct Branch {
    node: u32,
    /// How many levels lead to the node.
    depth: usize,
    /// How many captures the nodes above have.
    captures: usize,
    /// The capture of this node.
    capture: Option<Range<usize>>,
}

/// How a filter goes on from a node.
enum Step<'a> {
    Level(&'a [u8]),
    Plus,
    Hash,
}

/// The filters that a topic name has matched.
#[derive(Debug, Default)]
pub struct Matches {
    /// The key of each filter, and the place of its captures.
    keys: Vec<(u64, Range<usize>)>,
    captures: Vec<Range<usize>>,
}

impl Matches {
    /// Whether no filter has matched.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Each filter's key, and the ranges of the topic name that its wildcards stand for, in their order. A `#` that
    /// stands for no level has an empty range at the end of the name.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[Range<usize>])> {
        self.keys
            .iter()
            .map(|(key, captures)| (*key, &self.captures[captures.clone()]))
    }

    fn extend(&mut self, keys: &[u64], captures: &[Range<usize>], rest: Option<Range<usize>>) {
        if keys.is_empty() {
            return;
        }
        let start = self.captures.len();
        self.captures.extend_from_slice(captures);
        self.captures.extend(rest);
        let range = start..self.captures.len();
        self.keys
            .extend(keys.iter().map(|key| (*key, range.clone())));
    }
}

const ROOT: u32 = 0;
/// No node: the root is nobody's child.
const NONE: u32 = 0;

impl Default for Filters {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
            free: Vec::new(),
            levels: HashMap::new(),
            free_levels: Vec::new(),
            children: HashMap::default(),
            passed: Vec::new(),
            todo: Vec::new(),
            captures: Vec::new(),
        }
    }
}

impl Filters {
    /// Adds a filter under a key. Of a shared subscription, only the topic filter after the share name counts: the
    /// server sends messages with plain topic names (4.8.2).
    pub fn insert(&mut self, filter: &str, key: u64) {
        let mut node = ROOT;
        for step in steps(filter) {
            match step {
                Step::Hash => return self.nodes[node as usize].below.push(key),
                Step::Plus => {
                    let plus = self.nodes[node as usize].plus;
                    node = match plus {
                        NONE => {
                            let child = self.new_node();
                            self.nodes[node as usize].plus = child;
                            child
                        }
                        plus => plus,
                    };
                }
                Step::Level(name) => node = self.child_for(node, name),
            }
        }
        self.nodes[node as usize].here.push(key);
    }

    /// Removes a filter that was added under this key. Returns whether the filter was there.
    pub fn remove(&mut self, filter: &str, key: u64) -> bool {
        let mut path = Vec::new();
        let mut node = ROOT;
        let mut is_below = false;
        for step in steps(filter) {
            let child = match step {
                Step::Hash => {
                    is_below = true;
                    break;
                }
                Step::Plus => match self.nodes[node as usize].plus {
                    NONE => None,
                    plus => Some(plus),
                },
                Step::Level(name) => self
                    .levels
                    .get(name)
                    .and_then(|level| self.child(node, level.number)),
            };
            let Some(child) = child else {
                return false;
            };
            path.push((node, step));
            node = child;
        }
        let end = &mut self.nodes[node as usize];
        let keys = match is_below {
            true => &mut end.below,
            false => &mut end.here,
        };
        if !keys.remove(key) {
            return false;
        }
        while let Some((parent, step)) = path.pop() {
            if !self.nodes[node as usize].is_empty() {
                break;
            }
            self.free_child(parent, &step, node);
            node = parent;
        }
        true
    }

    /// Returns the filters that match a topic name, by ascending key. Filters that begin with a wildcard do not match
    /// names that begin with `$` [MQTT-4.7.2-1].
    pub fn matches(&mut self, name: &[u8]) -> Matches {
        let mut found = Matches::default();
        self.passed.clear();
        self.captures.clear();
        self.todo.push(Branch {
            node: ROOT,
            depth: 0,
            captures: 0,
            capture: None,
        });
        while let Some(branch) = self.todo.pop() {
            let Branch { node, depth, .. } = branch;
            let is_reserved = depth == 0 && name.first() == Some(&b'$');
            self.captures.truncate(branch.captures);
            self.captures.extend(branch.capture);
            let captures = self.captures.len();

            let start = match depth {
                0 => 0,
                _ => self.passed[depth - 1].range.end + 1,
            };
            let node_data = &self.nodes[node as usize];
            if !is_reserved {
                let rest = start.min(name.len())..name.len();
                found.extend(node_data.below.as_slice(), &self.captures, Some(rest));
            }
            if start > name.len() {
                found.extend(node_data.here.as_slice(), &self.captures, None);
                continue;
            } else if node_data.plus == NONE && node_data.children == 0 {
                continue;
            }

            if depth == self.passed.len() {
                let slash = name[start..].iter().position(|byte| *byte == b'/');
                let range = start..slash.map_or(name.len(), |length| start + length);
                let number = self.levels.get(&name[range.clone()]).map(|l| l.number);
                self.passed.push(Passed { range, number });
            }
            let level = &self.passed[depth];
            let child = |node, capture| Branch {
                node,
                depth: depth + 1,
                captures,
                capture,
            };
            if node_data.plus != NONE && !is_reserved {
                self.todo
                    .push(child(node_data.plus, Some(level.range.clone())));
            }
            if let Some(next) = level.number.and_then(|number| self.child(node, number)) {
                self.todo.push(child(next, None));
            }
        }
        found.keys.sort_unstable_by_key(|(key, _)| *key);
        found
    }

    /// Whether the set has no filter.
    pub fn is_empty(&self) -> bool {
        self.nodes[ROOT as usize].is_empty()
    }

    fn new_node(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.nodes.push(Node::default());
            (self.nodes.len() - 1) as u32
        })
    }

    /// The child of a node for a level.
    fn child(&self, node: u32, level: u32) -> Option<u32> {
        let data = &self.nodes[node as usize];
        match data.children {
            0 => None,
            1 if data.only_child.1 != NONE => {
                (data.only_child.0 == level).then_some(data.only_child.1)
            }
            _ => self.children.get(&(node, level)).copied(),
        }
    }

    /// The child of a node for a level. Makes a missing child.
    fn child_for(&mut self, node: u32, name: &[u8]) -> u32 {
        let number = match self.levels.get(name) {
            Some(level) => level.number,
            None => {
                // Without a free number, all numbers below the count are in use.
                let count = self.levels.len() as u32;
                let number = self.free_levels.pop().unwrap_or(count);
                let level = Level { number, nodes: 0 };
                self.levels.insert(name.into(), level);
                number
            }
        };
        if let Some(child) = self.child(node, number) {
            return child;
        }
        let child = self.new_node();
        self.children.insert((node, number), child);
        let parent = &mut self.nodes[node as usize];
        parent.children += 1;
        parent.only_child = match parent.children {
            1 => (number, child),
            _ => (0, NONE),
        };
        if let Some(level) = self.levels.get_mut(name) {
            level.nodes += 1;
        }
        child
    }

    /// Frees an empty node, and its level's number if the level occurs nowhere else.
    fn free_child(&mut self, parent: u32, step: &Step, child: u32) {
        match step {
            Step::Level(name) => {
                if let Some(level) = self.levels.get_mut(*name) {
                    level.nodes -= 1;
                    self.children.remove(&(parent, level.number));
                    if level.nodes == 0 {
                        self.free_levels.push(level.number);
                        self.levels.remove(*name);
                    }
                }
                self.nodes[parent as usize].children -= 1;
            }
            _ => self.nodes[parent as usize].plus = NONE,
        }
        self.nodes[child as usize] = Node::default();
        self.free.push(child);
    }
}

impl Node {
    fn is_empty(&self) -> bool {
        self.here.is_empty() && self.below.is_empty() && self.plus == NONE && self.children == 0
    }
}

/// The levels of a filter, without `$share` and a share name.
fn steps(filter: &str) -> impl Iterator<Item = Step<'_>> {
    without_share(filter).split('/').map(|level| match level {
        "+" => Step::Plus,
        "#" => Step::Hash,
        level => Step::Level(level.as_bytes()),
    })
}

/// Spreads a pair of numbers over 64 bits. The numbers are our own and ascend, so this hash needs no key.
#[derive(Default)]
struct PairHasher(u64);

impl Hasher for PairHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0.rotate_left(32) ^ u64::from(number)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The keys of the filters that match a name, and their captures.
    fn matches(filters: &mut Filters, name: &str) -> Vec<(u64, Vec<String>)> {
        let text = |range: &Range<usize>| name[range.clone()].to_owned();
        filters
            .matches(name.as_bytes())
            .iter()
            .map(|(key, captures)| (key, captures.iter().map(text).collect()))
            .collect()
    }

    fn filters(list: &[&str]) -> Filters {
        let mut filters = Filters::default();
        for (key, filter) in list.iter().enumerate() {
            filters.insert(filter, key as u64);
        }
        filters
    }

    #[track_caller]
    fn assert_match(filter: &str, name: &str, captures: &[&str]) {
        let found = matches(&mut filters(&[filter]), name);
        let captures = captures.iter().map(|text| (*text).to_owned()).collect();
        assert_eq!(found, [(0, captures)], "{filter} and {name}");
    }

    #[track_caller]
    fn assert_no_match(filter: &str, name: &str) {
        assert_eq!(
            matches(&mut filters(&[filter]), name),
            [],
            "{filter} and {name}"
        );
    }

    /// The examples of 4.7.1 to 4.7.3.
    #[test]
    fn examples_of_the_standard() {
        assert_match("sport/tennis/player1/#", "sport/tennis/player1", &[""]);
        assert_match(
            "sport/tennis/player1/#",
            "sport/tennis/player1/ranking",
            &["ranking"],
        );
        assert_match(
            "sport/tennis/player1/#",
            "sport/tennis/player1/score/wimbledon",
            &["score/wimbledon"],
        );
        assert_match("sport/#", "sport", &[""]);
        assert_match("#", "a/b", &["a/b"]);
        assert_match("sport/tennis/+", "sport/tennis/player1", &["player1"]);
        assert_no_match("sport/tennis/+", "sport/tennis/player1/ranking");
        assert_no_match("sport/+", "sport");
        assert_match("sport/+", "sport/", &[""]);
        assert_match("+/+", "/finance", &["", "finance"]);
        assert_match("/+", "/finance", &["finance"]);
        assert_no_match("+", "/finance");
        assert_match("+/tennis/#", "sport/tennis/a", &["sport", "a"]);
        assert_no_match("#", "$SYS/x");
        assert_no_match("+/monitor/Clients", "$SYS/monitor/Clients");
        assert_match("$SYS/#", "$SYS/monitor", &["monitor"]);
        assert_match("$SYS/monitor/+", "$SYS/monitor/Clients", &["Clients"]);
        assert_match("a/#", "a/$b", &["$b"]);
        assert_no_match("ACCOUNTS", "Accounts");
        assert_no_match("/finance", "finance");
    }

    #[test]
    fn of_a_shared_subscription_counts_the_filter() {
        assert_match("$share/group/a/+", "a/b", &["b"]);
        assert_match("$share/group/#", "a/b", &["a/b"]);
        assert_no_match("$share/group/#", "$SYS/a");
        assert_match("$share/group//a", "/a", &[]);
    }

    #[test]
    fn matches_come_by_ascending_key() {
        let mut filters = Filters::default();
        for (filter, key) in [
            ("#", 5),
            ("a/+", 3),
            ("a/b", 4),
            ("+/b", 1),
            ("a/b", 2),
            ("c", 0),
        ] {
            filters.insert(filter, key);
        }
        let keys: Vec<u64> = filters.matches(b"a/b").iter().map(|(key, _)| key).collect();
        assert_eq!(keys, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_removed_filter_leaves_nothing_behind() {
        let list = [
            "a/b/c",
            "a/+/c",
            "a/b/#",
            "#",
            "+",
            "a/b/c",
            "$share/g/a/b/c",
        ];
        let mut filters = filters(&list);
        assert!(!filters.remove("a/b", 0), "no filter ends there");
        assert!(!filters.remove("a/b/c", 1), "another key");
        assert!(!filters.remove("x/y", 0));
        for (key, filter) in list.iter().enumerate() {
            assert!(!filters.is_empty());
            assert!(filters.remove(filter, key as u64), "{filter}");
            assert!(!filters.remove(filter, key as u64), "{filter}");
        }
        assert!(filters.is_empty());
        assert!(filters.levels.is_empty() && filters.children.is_empty());
        assert_eq!(filters.free.len(), filters.nodes.len() - 1);
        let nodes = filters.nodes.len();
        for (key, filter) in list.iter().enumerate() {
            filters.insert(filter, key as u64);
        }
        assert_eq!(filters.nodes.len(), nodes, "nodes are used again");
    }

    #[test]
    fn as_many_levels_as_a_name_can_have() {
        let name = "/".repeat(65535);
        assert_match(&name, &name, &[]);
        assert_match(&format!("{}#", &name[1..]), &name, &["/"]);
        let mut wild = vec!["+"; 32768];
        assert_eq!(
            matches(&mut filters(&[&wild.join("/")]), &name[..32767])[0]
                .1
                .len(),
            32768
        );
        wild.pop();
        assert_no_match(&wild.join("/"), &name[..32767]);
    }

    /// The rules of 4.7, level by level.
    fn is_match(filter: &[&str], name: &[&str]) -> bool {
        match (filter, name) {
            ([], []) | (["#"], _) => true,
            ([first, filter @ ..], [level, name @ ..]) => {
                (*first == "+" || first == level) && is_match(filter, name)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn finds_what_the_rules_say(
            list in prop::collection::vec("([ab+]?/){0,3}[ab+#]|\\$a/[+b]", 1..20),
            removed in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
            name in "\\$?([ab]?/){0,4}[ab]",
        ) {
            let mut filters = Filters::default();
            for (key, filter) in list.iter().enumerate() {
                filters.insert(filter, key as u64);
            }
            let mut is_there = vec![true; list.len()];
            for index in removed {
                let key = index.index(list.len());
                prop_assert_eq!(filters.remove(&list[key], key as u64), is_there[key]);
                is_there[key] = false;
            }
            let levels: Vec<&str> = name.split('/').collect();
            let expected: Vec<u64> = (0..list.len())
                .filter(|key| {
                    let filter: Vec<&str> = list[*key].split('/').collect();
                    let hidden = name.starts_with('$') && matches!(filter[0], "+" | "#");
                    is_there[*key] && !hidden && is_match(&filter, &levels)
                })
                .map(|key| key as u64)
                .collect();
            let found: Vec<u64> = filters
                .matches(name.as_bytes())
                .iter()
                .map(|(key, _)| key)
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
