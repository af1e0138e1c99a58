//! Contents that were compressed each on its own, as a store keeps them: such a frame is most of a patch
//! that needs no old content, so it goes over the line as it is, and is kept as it is where it comes.

use super::number::{read_number, write_number};
use super::{DeltaError, PATCH_MAX, frame};

/// The patch that makes a content of `len` bytes of nothing. `packed` is that content in one zstd frame, or the
/// content itself, which shows by its length. None where that is no frame, or one with a dictionary or a checksum.
pub fn patch_of_packed(packed: &[u8], len: usize) -> Option<Vec<u8>> {
    let fresh = if packed.len() == len { packed } else { frame::bare(packed)? };
    let mut step = Vec::new();
    write_number(&mut step, len as u64);
    let mut patch = Vec::with_capacity(2 + step.len() + fresh.len());
    write_number(&mut patch, step.len() as u64);
    write_number(&mut patch, step.len() as u64);
    patch.extend_from_slice(&step);
    patch.extend_from_slice(fresh);
    Some(patch)
}

/// A content, and what it was packed as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// The content.
    pub content: Vec<u8>,
    /// One zstd frame of it that is shorter, or the content itself.
    pub packed: Vec<u8>,
}

/// The inverse of [`patch_of_packed`], for a content of `len` bytes. None where the patch has more steps than
/// one, or its steps are compressed.
///
/// # Errors
///
/// [`DeltaError::PatchSize`] above [`PATCH_MAX`]. [`DeltaError::Decompress`] or [`DeltaError::FreshLength`] if
/// the patch is damaged, as far as that can be seen: the caller compares the hash.
pub fn unpack_patch(patch: &[u8], len: usize) -> Result<Option<Unpacked>, DeltaError> {
    if len > PATCH_MAX {
        return Err(DeltaError::PatchSize(len));
    }
    let Some(fresh) = only_fresh(patch, len as u64) else { return Ok(None) };
    if fresh.len() == len {
        return Ok(Some(Unpacked { content: fresh.to_vec(), packed: fresh.to_vec() }));
    }
    // What will be read from the store is what is read here, whatever the peer has put together.
    let packed = frame::complete(fresh);
    let content = frame::decompress_complete(&packed, len)?;
    // By its length it shows whether it is a frame.
    let packed = if packed.len() < len { packed } else { content.clone() };
    Ok(Some(Unpacked { content, packed }))
}

/// The fresh bytes of a patch that has nothing else.
fn only_fresh(mut patch: &[u8], len: u64) -> Option<&[u8]> {
    let steps_len = read_number(&mut patch).ok()?;
    let packed_len = read_number(&mut patch).ok()?;
    let before = patch.len();
    let is_one_step = steps_len == packed_len
        && read_number(&mut patch).is_ok_and(|fresh| fresh == len)
        && (before - patch.len()) as u64 == steps_len;
    is_one_step.then_some(patch)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::delta::{Target, apply_all, patch};

    fn text(len: usize) -> Vec<u8> {
        (0..len).map(|at| b"some text that repeats"[at % 22]).collect()
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut content = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut content);
        content
    }

    fn packed(content: &[u8], level: i32) -> Vec<u8> {
        let frame = zstd::bulk::compress(content, level).unwrap();
        if frame.len() < content.len() { frame } else { content.to_vec() }
    }

    #[test]
    fn a_packed_content_is_a_patch_of_nothing_and_comes_out_of_it_as_it_was_packed() {
        for len in [1, 20, 127, 128, 300, 70_000, 1 << 20] {
            for content in [text(len), noise(len)] {
                let packed = packed(&content, 1);
                let patch = patch_of_packed(&packed, len).unwrap();
                let target = Target { old: &[], unit: 1, new_len: len };
                assert!(apply_all(&[target], &patch).unwrap()[0] == content, "{len}");
                let unpacked = unpack_patch(&patch, len).unwrap().unwrap();
                assert!(unpacked.content == content, "{len}");
                let kept = unpacked.packed;
                if kept.len() == len {
                    assert!(kept == content);
                } else {
                    assert!(zstd::bulk::decompress(&kept, len).unwrap() == content);
                    assert!(kept.len() <= packed.len());
                }
            }
        }
    }

    #[test]
    fn what_is_no_frame_of_its_own_makes_no_patch() {
        let content = text(5000);
        let frame = packed(&content, 1);
        for cut in 0..6 {
            assert_eq!(patch_of_packed(&frame[..cut], 5000), None);
        }
        assert_eq!(patch_of_packed(b"this is no frame", 5000), None);
    }

    #[test]
    fn a_frame_as_long_as_its_content_is_not_kept_for_it_would_be_taken_for_the_content() {
        // A block of which one byte is repeated: 3 bytes of header, and the byte.
        let (len, block) = (10, [10 << 3 | 0b011, 0, 0, b'x']);
        let patch = [&[1, 1, len as u8], &block[..]].concat();
        let content = vec![b'x'; len];
        let packed = content.clone();
        assert_eq!(unpack_patch(&patch, len).unwrap(), Some(Unpacked { content, packed }));
    }

    #[test]
    fn another_patch_is_not_taken_for_one_and_a_damaged_one_is_refused() {
        let (old, new) = (text(4000), [text(3000), b"and more".to_vec(), text(500)].concat());
        let ordinary = patch(&old, &new, 3).unwrap();
        assert!(matches!(unpack_patch(&ordinary, new.len()), Ok(None)));
        assert!(matches!(unpack_patch(&[], 10), Ok(None)));
        let whole = patch_of_packed(&packed(&new, 1), new.len()).unwrap();
        assert!(matches!(unpack_patch(&whole, new.len() + 1), Ok(None)));
        assert!(unpack_patch(&whole[..whole.len() - 3], new.len()).is_err());
        assert!(unpack_patch(&whole, PATCH_MAX + 1).is_err());
    }
}
