//! How a line is cut inside a TLS connection: a length of two bytes, most significant first, then so
//! many bytes. A piece of no bytes is a sign of life, and no part of what the line carries.

/// Bytes before each piece.
pub(super) const HEADER: usize = 2;
/// Most bytes in a piece.
pub(super) const PIECE_MAX: usize = u16::MAX as usize;
/// A piece of no bytes.
pub(super) const SIGN_OF_LIFE: [u8; HEADER] = [0; HEADER];

/// Writes the length of the piece of `length` bytes that stands after it. At most [`PIECE_MAX`].
pub(super) fn put_header(buffer: &mut [u8], length: usize) {
    let length = u16::try_from(length).unwrap_or(u16::MAX);
    buffer[..HEADER].copy_from_slice(&length.to_be_bytes());
}

/// Takes the lengths out of what comes, wherever it was cut on its way.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    /// Bytes of the current piece that have yet to come.
    left: usize,
    /// The first byte of a length whose second has yet to come.
    half: Option<u8>,
}

impl Joiner {
    /// Leaves at the start of `bytes` only what the line carries, and says how much that is.
    pub(super) fn join(&mut self, bytes: &mut [u8]) -> usize {
        let (mut kept, mut at) = (0, 0);
        while at < bytes.len() {
            if self.left > 0 {
                let n = self.left.min(bytes.len() - at);
                bytes.copy_within(at..at + n, kept);
                (self.left, kept, at) = (self.left - n, kept + n, at + n);
                continue;
            }
            match self.half.take() {
                None => self.half = Some(bytes[at]),
                Some(high) => self.left = usize::from(u16::from_be_bytes([high, bytes[at]])),
            }
            at += 1;
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_together_wherever_they_were_cut() {
        let mut sent = Vec::new();
        for piece in [&b"one"[..], b"", b"two and a half", &[7; 300]] {
            let at = sent.len();
            sent.extend([0; HEADER]);
            put_header(&mut sent[at..], piece.len());
            sent.extend(piece);
        }
        sent.extend(SIGN_OF_LIFE);
        let expected = [&b"onetwo and a half"[..], &[7; 300]].concat();
        for step in [1, 2, 3, 5, 1000] {
            let mut joiner = Joiner::default();
            let mut came: Vec<u8> = Vec::new();
            for part in sent.chunks(step) {
                let mut part = part.to_vec();
                let kept = joiner.join(&mut part);
                came.extend(&part[..kept]);
            }
            assert!(came == expected, "{step}");
            assert_eq!((joiner.left, joiner.half), (0, None));
        }
    }
}
