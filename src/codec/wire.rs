//! Reads and writes the data representations of the standard (1.5): numbers, strings and binary data.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::error::Fault;
use super::string::{MAX_LEN, Str};

/// Greatest Variable Byte Integer (1.5.5), and so the greatest remaining length.
pub(super) const MAX_VAR_INT: u32 = 268_435_455;

/// A Variable Byte Integer at the start of some bytes.
pub(super) enum VarInt {
    /// The number, and how many bytes it takes. 5.0 allows no more bytes than the number needs [MQTT-1.5.5-1].
    Complete(u32, usize),
    /// The bytes end before the number does.
    Incomplete,
    /// The number goes on after the fourth byte.
    TooLong,
}

impl VarInt {
    #[inline]
    pub(super) fn peek(bytes: &[u8]) -> Self {
        let mut number = 0;
        for (i, &byte) in bytes.iter().take(4).enumerate() {
            number |= u32::from(byte & 0x7F) << (7 * i);
            if byte & 0x80 == 0 {
                return Self::Complete(number, i + 1);
            }
        }
        match bytes.len() {
            0..4 => Self::Incomplete,
            _ => Self::TooLong,
        }
    }
}

/// The fault of a Variable Byte Integer that goes on for too long.
pub(super) fn too_long(field: &str) -> Fault {
    Fault::malformed(format!("{field} must end by its fourth byte"))
}

/// The fault of a Variable Byte Integer that takes more bytes than it needs.
pub(super) fn not_minimal(field: &str) -> Fault {
    Fault::malformed(format!("{field} must take as few bytes as it needs"))
}

/// How many bytes a Variable Byte Integer takes.
pub(super) fn var_int_len(number: u32) -> usize {
    match number {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

/// Writes a Variable Byte Integer, at most [`MAX_VAR_INT`].
#[inline]
pub(super) fn put_var_int(out: &mut BytesMut, mut number: u32) {
    debug_assert!(number <= MAX_VAR_INT);
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

/// Writes a string, or binary data of at most [`MAX_LEN`] bytes.
#[inline]
pub(super) fn put_prefixed(out: &mut BytesMut, bytes: &[u8]) {
    debug_assert!(bytes.len() <= MAX_LEN);
    out.put_u16(bytes.len() as u16);
    out.put_slice(bytes);
}

/// Reads fields off the front of a packet's body. Long strings and binary data are slices of the body.
pub(super) struct Reader(Bytes);

impl Reader {
    pub(super) fn new(body: Bytes) -> Self {
        Self(body)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many bytes are left.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// All bytes not read yet.
    pub(super) fn rest(self) -> Bytes {
        self.0
    }

    /// Checks that nothing follows the last field.
    pub(super) fn finish(self) -> Result<(), Fault> {
        match self.is_empty() {
            true => Ok(()),
            false => Err(Fault::malformed(
                "extra data in remaining length left after packet parsing",
            )),
        }
    }

    #[inline]
    fn need(&self, size: usize, field: &str) -> Result<(), Fault> {
        match self.0.len() {
            left if left >= size => Ok(()),
            left => Err(truncated(field, size, left)),
        }
    }

    pub(super) fn byte(&mut self, field: &str) -> Result<u8, Fault> {
        self.need(1, field)?;
        Ok(self.0.get_u8())
    }

    #[inline]
    pub(super) fn two_byte(&mut self, field: &str) -> Result<u16, Fault> {
        self.need(2, field)?;
        Ok(self.0.get_u16())
    }

    pub(super) fn four_byte(&mut self, field: &str) -> Result<u32, Fault> {
        self.need(4, field)?;
        Ok(self.0.get_u32())
    }

    #[inline]
    pub(super) fn var_int(&mut self, field: &str) -> Result<u32, Fault> {
        match VarInt::peek(&self.0) {
            VarInt::Complete(number, size) if size == var_int_len(number) => {
                self.0.advance(size);
                Ok(number)
            }
            VarInt::Complete(..) => Err(not_minimal(field)),
            VarInt::Incomplete => Err(truncated(field, self.0.len() + 1, self.0.len())),
            VarInt::TooLong => Err(too_long(field)),
        }
    }

    #[inline]
    pub(super) fn bytes(&mut self, size: usize, field: &str) -> Result<Bytes, Fault> {
        self.need(size, field)?;
        Ok(self.0.split_to(size))
    }

    #[inline]
    pub(super) fn binary(&mut self, field: &str) -> Result<Bytes, Fault> {
        let size = self.two_byte(field)?;
        self.bytes(size.into(), field)
    }

    #[inline]
    pub(super) fn string(&mut self, field: &str) -> Result<Str, Fault> {
        let size = self.two_byte(field)?.into();
        self.need(size, field)?;
        Str::take(&mut self.0, size).map_err(|error| Fault::malformed(format!("{field} {error}")))
    }
}

#[cold]
fn truncated(field: &str, need: usize, left: usize) -> Fault {
    Fault::malformed(format!(
        "not enough bytes for {field}: expected {need}, got {left}"
    ))
}
