//! Numbers and byte strings: LEB128 varints, zigzag for signed numbers, fixed little-endian words.
//!
//! Writing appends to a `Vec<u8>` and cannot fail; reading checks every length against a limit
//! before it takes anything.

use crate::error::DecodeError;

/// Largest sequence number, counter or size: an index holds no larger ones.
pub const NUMBER_MAX: u64 = i64::MAX as u64;

/// Appends fields to a payload.
pub trait Put {
    /// An unsigned number in 7-bit groups, least significant first (1 to 10 bytes).
    fn put_varint(&mut self, value: u64);
    /// A signed number, zigzag then varint: small magnitudes of either sign are short.
    fn put_signed(&mut self, value: i64);
    /// A varint length, then the bytes.
    fn put_bytes(&mut self, bytes: &[u8]);
    /// Exactly these bytes.
    fn put_raw(&mut self, bytes: &[u8]);
}

impl Put for Vec<u8> {
    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    fn put_signed(&mut self, value: i64) {
        self.put_varint(((value << 1) ^ (value >> 63)) as u64);
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        self.put_varint(bytes.len() as u64);
        self.extend_from_slice(bytes);
    }

    fn put_raw(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Takes fields from a payload, front to back.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// One byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        Ok(self.raw(1, what)?[0])
    }

    /// A varint. A number above 64 bits, or padded with needless groups, is refused.
    pub fn varint(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for group in 0..10 {
            let byte = self.u8(what)?;
            if group == 9 && byte > 1 || group > 0 && byte == 0 {
                return Err(DecodeError::Invalid(what));
            }
            value |= u64::from(byte & 0x7f) << (7 * group);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Invalid(what))
    }

    /// A varint of at most `limit`.
    pub fn bounded(&mut self, what: &'static str, limit: u64) -> Result<u64, DecodeError> {
        let value = self.varint(what)?;
        if value > limit {
            return Err(DecodeError::TooLarge { what, value, limit });
        }
        Ok(value)
    }

    /// A varint of at most [`NUMBER_MAX`]: a sequence number, a counter or a size.
    pub fn number(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        self.bounded(what, NUMBER_MAX)
    }

    /// A count of items that take at least one byte each: more than there are bytes left is
    /// refused before anything is allocated.
    pub fn count(&mut self, what: &'static str, limit: usize) -> Result<usize, DecodeError> {
        let value = self.bounded(what, limit as u64)? as usize;
        if value > self.rest.len() {
            return Err(DecodeError::Truncated(what));
        }
        Ok(value)
    }

    /// A zigzag varint.
    pub fn signed(&mut self, what: &'static str) -> Result<i64, DecodeError> {
        let value = self.varint(what)?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// A varint length of at most `limit`, then the bytes.
    pub fn bytes(&mut self, what: &'static str, limit: usize) -> Result<&'a [u8], DecodeError> {
        let length = self.bounded(what, limit as u64)? as usize;
        self.raw(length, what)
    }

    /// Text of at most `limit` bytes; bytes that are not UTF-8 are replaced.
    pub fn text(&mut self, what: &'static str, limit: usize) -> Result<String, DecodeError> {
        Ok(String::from_utf8_lossy(self.bytes(what, limit)?).into_owned())
    }

    /// Exactly `length` bytes.
    pub fn raw(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) =
            self.rest.split_at_checked(length).ok_or(DecodeError::Truncated(what))?;
        self.rest = rest;
        Ok(taken)
    }

    /// A fixed number of bytes.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let (taken, rest) =
            self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated(what))?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Nothing may be left over.
    pub fn end(self, what: &'static str) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            n => Err(DecodeError::Trailing(n, what)),
        }
    }
}
