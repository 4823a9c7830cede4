//! Topic names and topic filters (4.7, 4.8.2): their rules, and the share names of shared subscriptions. `topics`
//! matches names against filters.

use std::fmt;

use super::error::Fault;
use super::string::{self, StrError};

/// Checks a topic name: a string of at least one character [MQTT-4.7.3-1] without wildcards [MQTT-3.3.2-2].
pub fn check_topic_name(name: &str) -> Result<(), TopicError> {
    string::check(name).map_err(TopicError::String)?;
    check_name(name.as_bytes())
}

/// Checks a topic filter: a string of at least one character, `#` only as the last level [MQTT-4.7.1-1], `+` only as
/// a whole level [MQTT-4.7.1-2], and after `$share` a share name and a filter [MQTT-4.8.2-1], [MQTT-4.8.2-2].
pub fn check_topic_filter(filter: &str) -> Result<(), TopicError> {
    string::check(filter).map_err(TopicError::String)?;
    check_filter(filter)?;
    check_share(filter)
}

/// The rules of a topic name that a string need not meet.
#[inline]
pub(super) fn check_name(name: &[u8]) -> Result<(), TopicError> {
    if name.is_empty() {
        return Err(TopicError::Empty);
    }
    let is_wildcard = |byte: &u8| matches!(byte, b'+' | b'#');
    // The fold looks at every byte, without an early end, so the compiler makes vector code of it.
    match name.iter().fold(false, |any, byte| any | is_wildcard(byte)) {
        true => Err(TopicError::Wildcard(
            String::from_utf8_lossy(name).into_owned(),
        )),
        false => Ok(()),
    }
}

/// The rules of a topic filter that a string need not meet.
pub(super) fn check_filter(filter: &str) -> Result<(), TopicError> {
    if filter.is_empty() {
        return Err(TopicError::Empty);
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let alone = level.len() == 1;
        if level.contains('#') && (!alone || levels.peek().is_some()) {
            return Err(TopicError::MultiLevelWildcard(filter.to_owned()));
        }
        if level.contains('+') && !alone {
            return Err(TopicError::SingleLevelWildcard(filter.to_owned()));
        }
    }
    Ok(())
}

/// The rules of a shared subscription's filter that other filters need not meet. Only in 5.0: in 3.1.1 `$share` is a
/// level.
pub(super) fn check_share(filter: &str) -> Result<(), TopicError> {
    let shared = after_share(filter);
    if shared.is_none() && filter != SHARE {
        return Ok(());
    }
    match shared.and_then(|shared| shared.split_once('/')) {
        Some((name, filter)) if !name.is_empty() && !has_wildcard(name) && !filter.is_empty() => {
            Ok(())
        }
        _ => Err(TopicError::Share(filter.to_owned())),
    }
}

/// Whether the filter has a wildcard, or would have one if it were a filter (4.7.1).
pub fn has_wildcard(filter: &str) -> bool {
    filter.contains(['+', '#'])
}

/// Whether the filter is one of a shared subscription (4.8.2).
pub fn is_shared(filter: &str) -> bool {
    after_share(filter).is_some()
}

/// The filter that topic names are matched with: of a shared subscription's, what follows the share name (4.8.2).
pub fn without_share(filter: &str) -> &str {
    match after_share(filter) {
        Some(shared) => shared.split_once('/').map_or(shared, |(_, filter)| filter),
        None => filter,
    }
}

/// What follows the first level of a shared subscription's filter.
fn after_share(filter: &str) -> Option<&str> {
    filter.strip_prefix(SHARE)?.strip_prefix('/')
}

/// First level of a shared subscription's filter.
const SHARE: &str = "$share";

/// Why a string is not a topic name or topic filter. Shown as "must ...", to follow the name of the field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicError {
    /// Not an MQTT string.
    String(StrError),
    /// Has no characters.
    Empty,
    /// A name with a wildcard in it; holds the name.
    Wildcard(String),
    /// A filter with a `#` that is not alone in the last level; holds the filter.
    MultiLevelWildcard(String),
    /// A filter with `+` beside other characters of a level; holds the filter.
    SingleLevelWildcard(String),
    /// A filter that begins with `$share` and has no share name or no topic filter; holds the filter.
    Share(String),
}

impl TopicError {
    /// The fault of a field with this name. A malformed string has its own reason code; otherwise it is `reason`.
    pub(super) fn of(self, field: &str, reason: u8) -> Fault {
        let rule = format!("{field} {self}");
        match self {
            Self::String(_) => Fault::malformed(rule),
            _ => Fault::new(reason, rule),
        }
    }
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String(error) => error.fmt(f),
            Self::Empty => f.write_str("must not be empty"),
            Self::Wildcard(got) => write!(f, "must not contain wildcards, got {got:?}"),
            Self::MultiLevelWildcard(got) => {
                write!(f, "must have \"#\" only as its last level, got {got:?}")
            }
            Self::SingleLevelWildcard(got) => {
                write!(f, "must have \"+\" only as a whole level, got {got:?}")
            }
            Self::Share(got) => write!(
                f,
                "must be \"{SHARE}/NAME/FILTER\" to share a subscription, got {got:?}"
            ),
        }
    }
}

impl std::error::Error for TopicError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["a", "/", "//", "a b/", "$SYS/x", "$share/x", "é/\u{FEFF}"] {
            assert_eq!(check_topic_name(name), Ok(()), "{name}");
        }
        for (name, error) in [
            ("", "must not be empty"),
            ("a/+", "must not contain wildcards, got \"a/+\""),
            ("#", "must not contain wildcards, got \"#\""),
            ("a#b", "must not contain wildcards, got \"a#b\""),
            ("a\0", "must not contain U+0000"),
        ] {
            assert_eq!(check_topic_name(name).unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn shared_filters() {
        for (filter, without) in [
            ("$share/g/a/+", Some("a/+")),
            ("$share/g//a", Some("/a")),
            ("$share", None),
            ("$shared/g/a", None),
            ("a/$share/g", None),
            ("", None),
        ] {
            assert_eq!(is_shared(filter), without.is_some(), "{filter}");
            assert_eq!(without_share(filter), without.unwrap_or(filter), "{filter}");
        }
    }

    #[test]
    fn filters() {
        for filter in [
            "a",
            "#",
            "+",
            "/",
            "+/#",
            "a/+/b",
            "/+",
            "+/",
            "a//#",
            "$SYS/#",
            "$share/g/#",
            "$share/g//",
            "$share/g/+/a",
            "$shared",
        ] {
            assert_eq!(check_topic_filter(filter), Ok(()), "{filter}");
        }
        for (filter, error) in [
            ("", "must not be empty"),
            ("a#", "must have \"#\" only as its last level, got \"a#\""),
            ("#/a", "must have \"#\" only as its last level, got \"#/a\""),
            ("##", "must have \"#\" only as its last level, got \"##\""),
            (
                "a/b+",
                "must have \"+\" only as a whole level, got \"a/b+\"",
            ),
            ("++", "must have \"+\" only as a whole level, got \"++\""),
            (
                "$share",
                "must be \"$share/NAME/FILTER\" to share a subscription, got \"$share\"",
            ),
            (
                "$share/g",
                "must be \"$share/NAME/FILTER\" to share a subscription, got \"$share/g\"",
            ),
            (
                "$share/g/",
                "must be \"$share/NAME/FILTER\" to share a subscription, got \"$share/g/\"",
            ),
            (
                "$share//a",
                "must be \"$share/NAME/FILTER\" to share a subscription, got \"$share//a\"",
            ),
            (
                "$share/+/a",
                "must be \"$share/NAME/FILTER\" to share a subscription, got \"$share/+/a\"",
            ),
            ("a\0", "must not contain U+0000"),
        ] {
            assert_eq!(check_topic_filter(filter).unwrap_err().to_string(), error);
        }
    }
}
