//! Large contents, segment by segment.

use proptest::prelude::*;

use super::*;

fn reader(old: &[u8]) -> impl FnMut(u64, &mut [u8]) -> io::Result<()> {
    move |offset, buffer| {
        let bytes = usize::try_from(offset).ok().and_then(|at| old.get(at..at + buffer.len()));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

fn segments<'a>(old: &[u8], new: impl IntoIterator<Item = &'a [u8]>) -> Vec<Segment> {
    let params = Params::for_sender(old.len() as u64, 7);
    let signature = Signature::parse(params, old.len() as u64, &sign(params, old)).unwrap();
    let mut encoder = ExactEncoder::new(&signature, old.len() as u64, 3);
    let mut segments = Vec::new();
    let mut emit = |segment| -> Result<(), DeltaError> {
        segments.push(segment);
        Ok(())
    };
    let mut read = reader(old);
    for piece in new {
        encoder.push(piece, &mut read, &mut emit).unwrap();
    }
    encoder.finish(&mut read, &mut emit).unwrap();
    segments
}

fn apply(old: &[u8], new_len: u64, segments: &[Segment]) -> Result<Vec<u8>, DeltaError> {
    let mut new = Vec::new();
    let mut write = |bytes: &[u8]| {
        new.extend_from_slice(bytes);
        Ok(())
    };
    let mut decoder = ExactDecoder::new(old.len() as u64, new_len);
    for segment in segments {
        decoder.apply(segment, &mut reader(old), &mut write)?;
    }
    decoder.finish()?;
    Ok(new)
}

fn bytes_of(segments: &[Segment]) -> usize {
    segments.iter().map(|segment| segment.data.len()).sum()
}

proptest! {
    #[test]
    fn an_edited_content_is_rebuilt_from_its_segments(
        old in file(),
        edits in prop::collection::vec(edit(), 0..6),
    ) {
        let mut new = old.clone();
        edits.iter().for_each(|edit| edit.apply(&mut new));
        let segments = segments(&old, [new.as_slice()]);
        prop_assert!(apply(&old, new.len() as u64, &segments).unwrap() == new);
    }

    #[test]
    fn any_segment_is_refused_or_makes_as_much_as_announced(
        old in file(),
        data in prop::collection::vec(any::<u8>(), 0..40),
        new_len in 0..300usize,
    ) {
        if let Ok(new) = apply(&old, new_len as u64, &[Segment { new_len, data }]) {
            prop_assert_eq!(new.len(), new_len);
        }
    }
}

#[test]
fn small_edits_and_far_moves_in_a_large_content_take_few_bytes() {
    let old = noise(20_000_000, 1);
    let mut new = old.clone();
    new[100_000] ^= 1;
    new.splice(2_000_000..2_000_000, *b"inserted");
    new.drain(9_000_000..9_100_000);
    new.rotate_left(12_345_678);
    let whole = segments(&old, [new.as_slice()]);
    assert!(bytes_of(&whole) < 500, "{} bytes", bytes_of(&whole));
    assert!(apply(&old, new.len() as u64, &whole).unwrap() == new);
    assert!(segments(&old, new.chunks(77_777)) == whole, "depends on how the content is fed");
}

#[test]
fn contents_with_nothing_in_common_are_rebuilt() {
    let (old, new) = (noise(9_000_000, 1), noise(9_000_000, 2));
    let segments = segments(&old, [new.as_slice()]);
    assert!(bytes_of(&segments) < new.len() + 1000);
    assert!(apply(&old, new.len() as u64, &segments).unwrap() == new);
}

#[test]
fn no_segment_uses_more_of_the_old_content_than_is_allowed() {
    // Each block of the new content comes from another place, with its margins.
    let old = noise(60_000_000, 1);
    let new: Vec<u8> =
        old.chunks_exact(8192).rev().flat_map(|chunk| chunk[..600].iter().copied()).collect();
    let segments = segments(&old, [new.as_slice()]);
    assert!(apply(&old, new.len() as u64, &segments).unwrap() == new);
}

#[test]
fn what_no_honest_sender_makes_is_refused_before_anything_is_read() {
    let error = |data: &[u8], new_len| {
        let mut decoder = ExactDecoder::new(1 << 40, 1 << 40);
        let mut read = |_, _: &mut [u8]| -> io::Result<()> { panic!("read") };
        let mut write = |_: &[u8]| -> io::Result<()> { panic!("written") };
        let segment = Segment { new_len, data: data.to_vec() };
        decoder.apply(&segment, &mut read, &mut write).unwrap_err().to_string()
    };
    let number = |numbers: &[u64]| {
        let mut out = Vec::new();
        numbers.iter().for_each(|&n| number::write_number(&mut out, n));
        out
    };
    assert!(error(&[], 1).contains("ends early"));
    assert!(error(&number(&[1 << 17]), 1).contains("too many parts"));
    assert!(error(&number(&[1, 0, (8 << 20) + 1]), 1).contains("too large"));
    assert!(error(&number(&[2, 0, 5 << 20, 0, 5 << 20]), 1).contains("too large"));
    assert!(error(&number(&[1, 1, 1]), 1).contains("does not have"));
    assert!(error(&number(&[1, 1 << 41, 1]), 1).contains("does not have"));
    assert!(error(&number(&[1, 0, i64::MAX as u64]), 1).contains("does not have"));
    assert!(error(&number(&[0]), usize::MAX).contains("announced"));
    assert!(error(&number(&[0, 0, 0]), (8 << 20) + 1).contains("too large"));
}
