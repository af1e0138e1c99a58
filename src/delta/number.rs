//! Numbers as delta writes them: LEB128 varints, signed ones as zigzag.

use super::DeltaError;

/// Appends a number in as few bytes as it takes, seven bits in each.
pub(super) fn write_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Takes a number of at most 63 bits from the front of `data`.
///
/// # Errors
///
/// [`DeltaError::Patch`] if it ends early or is longer.
pub(super) fn read_number(data: &mut &[u8]) -> Result<u64, DeltaError> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let (&byte, rest) = data.split_first().ok_or(DeltaError::Patch("it ends early"))?;
        *data = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(DeltaError::Patch("a number is too long"))
}

/// Small numbers of either sign as small numbers.
pub(super) fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

/// The inverse of [`zigzag`].
pub(super) fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}
