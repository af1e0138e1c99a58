//! Patches, operations, segments, signatures and answers that no honest peer made, against an old
//! content that it may have chosen, too.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use psync::delta::{
    Base, Change, Decoder, ExactDecoder, Fresh, Matcher, Op, Params, Piece, Segment, Signature,
    Target, apply_all, parse_answer, patch_all, patch_of_packed, unpack_patch,
};

/// Longest new content that is asked for, in bytes: a peer that announces more only takes longer.
const NEW_MAX: u32 = 1 << 20;

#[derive(Debug, Arbitrary)]
struct Hostile<'a> {
    old: &'a [u8],
    new: &'a [u8],
    data: &'a [u8],
    more: &'a [u8],
    new_len: u32,
    unit: u32,
    block_len: u32,
    hash_len: u8,
    pieces: Vec<(u64, u64, u32)>,
    coded: bool,
}

fuzz_target!(|input: Hostile<'_>| {
    honest_patch(&input);
    patch(&input);
    packed(&input);
    segments(&input);
    let Ok(params) = Params::from_wire(input.block_len, input.hash_len, 7) else { return };
    operations(&input, &params);
    signature(&input, params);
});

/// What was made of two contents makes the one of the other.
fn honest_patch(input: &Hostile<'_>) {
    let change = Change { old: Base::Content(input.old), new: input.new };
    let patch = patch_all(&[change], 3).expect("small contents");
    let target = Target { old: input.old, unit: 1, new_len: input.new.len() };
    assert_eq!(apply_all(&[target], &patch).expect("an honest patch"), [input.new]);
}

fn patch(input: &Hostile<'_>) {
    let new_len = (input.new_len % NEW_MAX) as usize;
    let target = Target { old: input.old, unit: input.unit, new_len };
    if let Ok(made) = apply_all(&[target], input.data) {
        assert_eq!(made[0].len(), new_len);
    }
    let second = Target { old: input.more, unit: 1, new_len: new_len / 2 };
    let _ = apply_all(&[target, second], input.data);
}

/// What is kept as it came can be read from the store as it was read here.
fn packed(input: &Hostile<'_>) {
    let new_len = (input.new_len % NEW_MAX) as usize;
    let made = patch_of_packed(input.more, new_len);
    for patch in [Some(input.data), made.as_deref()].into_iter().flatten() {
        if let Ok(Some(unpacked)) = unpack_patch(patch, new_len) {
            assert_eq!(unpacked.content.len(), new_len);
            let patch =
                patch_of_packed(&unpacked.packed, new_len).expect("a frame, or the content");
            let again = unpack_patch(&patch, new_len).expect("as it was read");
            assert!(again.is_some_and(|again| again.content == unpacked.content));
        }
    }
}

fn read_at<'a>(old: &'a [u8]) -> impl FnMut(u64, &mut [u8]) -> std::io::Result<()> + 'a {
    |at, buffer| {
        let start = usize::try_from(at).expect("inside the old content");
        buffer.copy_from_slice(&old[start..start + buffer.len()]);
        Ok(())
    }
}

fn segments(input: &Hostile<'_>) {
    let new_len = u64::from(input.new_len % NEW_MAX);
    let mut decoder = ExactDecoder::new(input.old.len() as u64, new_len);
    for (len, data) in [(new_len as usize, input.data), (input.unit as usize, input.more)] {
        let segment = Segment { new_len: len, data: data.to_vec() };
        if decoder.apply(&segment, &mut read_at(input.old), &mut |_: &[u8]| Ok(())).is_err() {
            return;
        }
    }
    let _ = decoder.finish();
}

fn operations(input: &Hostile<'_>, params: &Params) {
    let new_len = u64::from(input.new_len % NEW_MAX);
    let mut decoder = Decoder::new(params, input.old.len() as u64, new_len);
    let pieces = input.pieces.iter();
    let pieces = pieces.map(|&(block, count, fresh)| Piece { block, count, fresh }).collect();
    let data = input.data.to_vec();
    let fresh = if input.coded { Fresh::Coded(data) } else { Fresh::Plain(data) };
    let op = Op { pieces, fresh };
    let mut written = 0;
    let applied = decoder.apply(&op, &mut read_at(input.old), &mut |bytes: &[u8]| {
        written += bytes.len() as u64;
        Ok(())
    });
    assert!(written <= new_len, "{written} bytes written of {new_len}");
    if applied.is_ok() {
        let _ = decoder.finish();
    }
}

fn signature(input: &Hostile<'_>, params: Params) {
    let old_len = u64::from(input.new_len);
    if let Ok(signature) = Signature::parse(params, old_len, input.data) {
        let mut matcher = Matcher::new(&signature);
        matcher.push(input.new);
        let found = matcher.finish();
        assert_eq!(found.old_len() as u64, old_len);
    }
    let _ = parse_answer(params.block_len(), u64::from(input.new_len), input.more);
}
