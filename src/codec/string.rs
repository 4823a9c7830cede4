//! The UTF-8 encoded string of the standard (1.5.4; 1.5.3 in 3.1.1). Topics have further rules, see `topic.rs`.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::str;

use bytes::{Buf, Bytes};

/// Most bytes in a string or in binary data: the length is sent as a Two Byte Integer.
pub(super) const MAX_LEN: usize = u16::MAX as usize;

/// Most bytes of a string without memory of its own: the space in the size of [`Bytes`] beside the length and the tag, which
/// takes the place of a pointer. 23 bytes where a pointer has 64 bits, and 11 where it has 32.
pub(super) const SHORT: usize = size_of::<Bytes>() - size_of::<usize>() - size_of::<u8>();

/// An MQTT string: well-formed UTF-8 without U+0000, at most 65,535 bytes. Cloning copies the text only if it is short.
#[derive(Clone)]
pub struct Str(Text);

/// A short text is copied: the copy costs less than counting another owner of the received buffer.
#[derive(Clone)]
enum Text {
    Short { len: u8, bytes: [u8; SHORT] },
    Shared(Bytes),
}

const _: () = assert!(size_of::<Str>() == size_of::<Bytes>());

impl Str {
    /// Takes the bytes over if they are an MQTT string.
    pub fn new(bytes: Bytes) -> Result<Self, StrError> {
        check_bytes(&bytes)?;
        Ok(Self::short(&bytes).unwrap_or(Self(Text::Shared(bytes))))
    }

    /// Takes a string of `len` bytes off the front of `from`, which has at least as many.
    #[inline]
    pub(super) fn take(from: &mut Bytes, len: usize) -> Result<Self, StrError> {
        let bytes = &from[..len];
        check_bytes(bytes)?;
        Ok(match Self::short(bytes) {
            Some(short) => {
                from.advance(len);
                short
            }
            None => Self(Text::Shared(from.split_to(len))),
        })
    }

    /// The text, if it is short.
    #[inline]
    fn short(text: &[u8]) -> Option<Self> {
        let mut bytes = [0; SHORT];
        bytes.get_mut(..text.len())?.copy_from_slice(text);
        let len = text.len() as u8;
        Some(Self(Text::Short { len, bytes }))
    }

    /// A constant of the program.
    ///
    /// # Panics
    /// If the text is not an MQTT string.
    pub fn from_static(text: &'static str) -> Self {
        check(text).expect("not an MQTT string");
        Self(Text::Shared(Bytes::from_static(text.as_bytes())))
    }

    /// The text. Checks the bytes again, since this room has no `unsafe`; [`as_bytes`](Self::as_bytes) is faster.
    pub fn as_str(&self) -> &str {
        str::from_utf8(self.as_bytes()).expect("checked when the Str was made")
    }

    /// The text's bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Text::Short { len, bytes } => &bytes[..usize::from(*len)],
            Text::Shared(bytes) => bytes,
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.as_bytes().len()
    }

    /// Whether the text is empty.
    pub fn is_empty(&self) -> bool {
        self.as_bytes().is_empty()
    }
}

#[inline]
fn check_bytes(bytes: &[u8]) -> Result<(), StrError> {
    // The fold looks at every byte, without an early end, so the compiler makes vector code of it.
    let is_ascii = bytes
        .iter()
        .fold(true, |all, byte| all & matches!(byte, 1..=0x7F));
    if !is_ascii || bytes.len() > MAX_LEN {
        let text = str::from_utf8(bytes).map_err(|e| StrError::NotUtf8(e.valid_up_to()))?;
        check(text)?;
    }
    Ok(())
}

/// Checks the rules of MQTT that a Rust string may break.
pub(super) fn check(text: &str) -> Result<(), StrError> {
    if text.len() > MAX_LEN {
        return Err(StrError::TooLong(text.len()));
    }
    match text.as_bytes().contains(&0) {
        true => Err(StrError::Nul),
        false => Ok(()),
    }
}

impl TryFrom<String> for Str {
    type Error = StrError;

    fn try_from(text: String) -> Result<Self, StrError> {
        check(&text)?;
        Ok(Self(Text::Shared(text.into())))
    }
}

impl TryFrom<&str> for Str {
    type Error = StrError;

    fn try_from(text: &str) -> Result<Self, StrError> {
        check(text)?;
        let bytes = text.as_bytes();
        let shared = || Self(Text::Shared(Bytes::copy_from_slice(bytes)));
        Ok(Self::short(bytes).unwrap_or_else(shared))
    }
}

impl Deref for Str {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl Default for Str {
    fn default() -> Self {
        Self::from_static("")
    }
}

impl PartialEq for Str {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Str {}

impl PartialOrd for Str {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Str {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl Hash for Str {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl PartialEq<str> for Str {
    fn eq(&self, other: &str) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl PartialEq<&str> for Str {
    fn eq(&self, other: &&str) -> bool {
        self == *other
    }
}

impl fmt::Debug for Str {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Str {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), f)
    }
}

/// Why bytes are not an MQTT string. Shown as "must ...", to follow the name of the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StrError {
    /// Longer than the greatest Two Byte Integer; holds the length.
    TooLong(usize),
    /// Ill-formed UTF-8, encoded surrogates included [MQTT-1.5.4-1]; holds the offset of the first bad byte.
    NotUtf8(usize),
    /// Contains U+0000 [MQTT-1.5.4-2].
    Nul,
}

impl fmt::Display for StrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(len) => write!(f, "must be at most {MAX_LEN} bytes long, got {len}"),
            Self::NotUtf8(at) => write!(f, "must be well-formed UTF-8, got bad bytes at {at}"),
            Self::Nul => f.write_str("must not contain U+0000"),
        }
    }
}

impl std::error::Error for StrError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_well_formed_text() {
        // U+FEFF is text like any other [MQTT-1.5.4-3].
        let x = "x".repeat(MAX_LEN);
        for text in [
            "",
            "a",
            "\u{FEFF}é\u{10FFFF}",
            &x[..SHORT],
            &x[..=SHORT],
            &x,
        ] {
            let taken = Str::new(Bytes::copy_from_slice(text.as_bytes())).unwrap();
            assert_eq!(taken, Str::try_from(text).unwrap());
            assert_eq!(taken, Str::try_from(text.to_owned()).unwrap());
            assert_eq!(taken.as_str(), text);
        }
    }

    #[test]
    fn says_what_is_wrong() {
        let long = vec![b'x'; MAX_LEN + 1];
        for (bytes, error) in [
            (&b"a\0b"[..], "must not contain U+0000"),
            (b"ab\xFF", "must be well-formed UTF-8, got bad bytes at 2"),
            // A surrogate, an overlong form, a code point past the last one.
            (
                b"\xED\xA0\x80",
                "must be well-formed UTF-8, got bad bytes at 0",
            ),
            (b"\xC0\x80", "must be well-formed UTF-8, got bad bytes at 0"),
            (
                b"\xF4\x90\x80\x80",
                "must be well-formed UTF-8, got bad bytes at 0",
            ),
            (&long, "must be at most 65535 bytes long, got 65536"),
        ] {
            let result = Str::new(Bytes::copy_from_slice(bytes));
            assert_eq!(result.unwrap_err().to_string(), error);
        }
        assert_eq!(Str::try_from("\0"), Err(StrError::Nul));
    }
}
