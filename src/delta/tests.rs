//! The module as its users see it: what goes in at one end comes out at the other.

mod exact;
mod hostile;
mod levels;
mod patch;

use std::io;

use proptest::prelude::*;

use super::params::{MAX_BLOCK_LEN, MAX_HASH_LEN, MIN_BLOCK_LEN, SIGNATURE_TARGET};
use super::*;

/// Below this, hashes in the cache may take more than a hundredth of the file.
const SMALL_FILE: u64 = 1 << 20;

/// Shorter than the product allows, so that small inputs have many blocks.
const BLOCK: u32 = 16;

fn sign(params: Params, old: &[u8]) -> Vec<u8> {
    let mut builder = SignatureBuilder::new(params);
    builder.update(old);
    builder.finish()
}

fn encode_pieces<'a>(signature: &Signature, new: impl IntoIterator<Item = &'a [u8]>) -> Vec<Op> {
    let mut ops = Vec::new();
    let mut emit = |op| -> Result<(), DeltaError> {
        ops.push(op);
        Ok(())
    };
    let mut encoder = Encoder::new(signature, 3);
    for piece in new {
        encoder.push(piece, &mut emit).unwrap();
    }
    encoder.finish(&mut emit).unwrap();
    ops
}

fn encode(params: Params, old: &[u8], new: &[u8]) -> Vec<Op> {
    let signature = Signature::parse(params, old.len() as u64, &sign(params, old)).unwrap();
    encode_pieces(&signature, [new])
}

fn decode(params: Params, old: &[u8], new_len: u64, ops: &[Op]) -> Result<Vec<u8>, DeltaError> {
    let mut new = Vec::new();
    let mut read = |offset: u64, buffer: &mut [u8]| {
        let bytes = usize::try_from(offset).ok().and_then(|at| old.get(at..at + buffer.len()));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    };
    let mut write = |bytes: &[u8]| {
        new.extend_from_slice(bytes);
        Ok(())
    };
    let mut decoder = Decoder::new(&params, old.len() as u64, new_len);
    for op in ops {
        decoder.apply(op, &mut read, &mut write)?;
    }
    decoder.finish()?;
    Ok(new)
}

fn assert_rebuilds(params: Params, old: &[u8], new: &[u8]) {
    let ops = encode(params, old, new);
    let rebuilt = decode(params, old, new.len() as u64, &ops).unwrap();
    assert!(rebuilt == new, "{params:?}: wrong content");
}

/// Bytes without structure.
fn noise(len: usize, seed: u8) -> Vec<u8> {
    let mut reader = blake3::Hasher::new().update(&[seed]).finalize_xof();
    let mut bytes = vec![0; len];
    reader.fill(&mut bytes);
    bytes
}

fn fresh_bytes(ops: &[Op]) -> u64 {
    ops.iter().flat_map(|op| &op.pieces).map(|piece| u64::from(piece.fresh)).sum()
}

/// One change that people make to files.
#[derive(Debug, Clone)]
enum Edit {
    Insert { at: usize, bytes: Vec<u8> },
    Delete { at: usize, len: usize },
    Overwrite { at: usize, bytes: Vec<u8> },
    Move { from: usize, len: usize, to: usize },
    Repeat { at: usize, len: usize },
}

impl Edit {
    fn apply(&self, file: &mut Vec<u8>) {
        let part = |at: usize, len: usize| {
            let at = at % (file.len() + 1);
            at..file.len().min(at + len)
        };
        match self {
            Edit::Insert { at, bytes } => {
                file.splice(part(*at, 0), bytes.iter().copied());
            }
            Edit::Delete { at, len } => {
                file.drain(part(*at, *len));
            }
            Edit::Overwrite { at, bytes } => {
                file.splice(part(*at, bytes.len()), bytes.iter().copied());
            }
            Edit::Move { from, len, to } => {
                let moved: Vec<u8> = file.drain(part(*from, *len)).collect();
                let to = to % (file.len() + 1);
                file.splice(to..to, moved);
            }
            Edit::Repeat { at, len } => {
                let part = part(*at, *len);
                file.extend_from_within(part);
            }
        }
    }
}

fn edit() -> impl Strategy<Value = Edit> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..60);
    let at = || any::<usize>();
    prop_oneof![
        (at(), bytes()).prop_map(|(at, bytes)| Edit::Insert { at, bytes }),
        (at(), 0..300usize).prop_map(|(at, len)| Edit::Delete { at, len }),
        (at(), bytes()).prop_map(|(at, bytes)| Edit::Overwrite { at, bytes }),
        (at(), 0..300usize, at()).prop_map(|(from, len, to)| Edit::Move { from, len, to }),
        (at(), 0..300usize).prop_map(|(at, len)| Edit::Repeat { at, len }),
    ]
}

/// Files of any bytes, of few different ones, and of lengths around multiples of the block's.
fn file() -> impl Strategy<Value = Vec<u8>> {
    let around =
        (0..8usize, 0..3usize).prop_map(|(n, d)| (n * BLOCK as usize + d).saturating_sub(1));
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..4000),
        prop::collection::vec(0..2u8, 0..2000),
        around.prop_map(|len| noise(len, 1)),
        (0..3000usize).prop_map(|len| vec![0; len]),
    ]
}

proptest! {
    #[test]
    fn an_edited_file_is_rebuilt(
        old in file(),
        edits in prop::collection::vec(edit(), 0..6),
        seed in any::<u64>(),
    ) {
        let mut new = old.clone();
        edits.iter().for_each(|edit| edit.apply(&mut new));
        assert_rebuilds(Params::for_tests(BLOCK, 8, seed), &old, &new);
    }

    #[test]
    fn an_unrelated_file_is_rebuilt(old in file(), new in file(), seed in any::<u64>()) {
        assert_rebuilds(Params::for_tests(BLOCK, 8, seed), &old, &new);
    }

    #[test]
    fn a_signature_does_not_depend_on_how_the_file_is_fed(
        old in file(),
        cuts in prop::collection::vec(0..100usize, 0..50),
    ) {
        let params = Params::for_tests(BLOCK, 3, 9);
        let mut builder = SignatureBuilder::new(params);
        let mut rest = old.as_slice();
        for cut in cuts {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            builder.update(now);
            rest = later;
        }
        builder.update(rest);
        prop_assert_eq!(builder.finish(), sign(params, &old));
    }
}

#[test]
fn ops_do_not_depend_on_how_the_new_file_is_fed() {
    let params = Params::from_wire(64, 4, 5).unwrap();
    let old = noise(600_000, 1);
    let mut new = old[1000..].to_vec();
    new.splice(400_000..400_000, noise(3000, 2));
    let signature = Signature::parse(params, old.len() as u64, &sign(params, &old)).unwrap();
    let whole = encode_pieces(&signature, [new.as_slice()]);
    for len in [1, 7777, 262_144] {
        assert!(encode_pieces(&signature, new.chunks(len)) == whole, "pieces of {len} bytes");
    }
}

#[test]
fn large_files_with_small_differences_are_rebuilt_from_few_fresh_bytes() {
    let params = Params::from_wire(512, 4, 5).unwrap();
    let old = noise(5_000_000, 1);
    let mut new = old.clone();
    new[100_000] ^= 1;
    new.splice(2_000_000..2_000_000, *b"inserted");
    new.drain(3_000_000..3_100_000);
    new.rotate_left(1_234_567);
    let ops = encode(params, &old, &new);
    assert!(fresh_bytes(&ops) < 10 * 512, "{} fresh bytes", fresh_bytes(&ops));
    assert!(decode(params, &old, new.len() as u64, &ops).unwrap() == new);
}

#[test]
fn a_block_changed_in_place_costs_one_block() {
    let params = Params::for_tests(BLOCK, 8, 5);
    let old = noise(50 * BLOCK as usize, 1);
    let mut new = old.clone();
    new[20 * BLOCK as usize + 3] ^= 1;
    new[22 * BLOCK as usize + 3] ^= 1; // leaves block 21 alone between two others
    assert_eq!(fresh_bytes(&encode(params, &old, &new)), 2 * u64::from(BLOCK));
}

#[test]
fn an_equal_file_is_one_copy_with_its_tail() {
    let params = Params::for_tests(BLOCK, 2, 5);
    let old = noise(10 * BLOCK as usize + 5, 1);
    let ops = encode(params, &old, &old);
    let pieces = vec![Piece { block: 0, count: 11, fresh: 0 }];
    assert_eq!(ops, [Op { pieces, fresh: Fresh::Plain(Vec::new()) }]);
}

#[test]
fn an_empty_new_file_needs_no_ops() {
    let params = Params::for_tests(BLOCK, 2, 5);
    assert_eq!(encode(params, b"something old", b""), []);
    assert_eq!(decode(params, b"something old", 0, &[]).unwrap(), b"");
}

#[test]
fn a_tail_is_found_at_the_end_of_a_file_that_shares_nothing_else() {
    let params = Params::for_tests(BLOCK, 8, 5);
    let old = noise(BLOCK as usize + 9, 1);
    let mut new = noise(100, 2);
    new.extend_from_slice(&old[BLOCK as usize..]);
    assert_eq!(fresh_bytes(&encode(params, &old, &new)), 100);
}

#[test]
fn hashes_that_are_too_short_give_wrong_content_and_not_a_panic() {
    let mut wrong = 0;
    for seed in 0..200 {
        let params = Params::for_tests(BLOCK, 1, seed);
        let (old, new) = (noise(20_000, 1), noise(20_000, 2));
        let ops = encode(params, &old, &new);
        match decode(params, &old, new.len() as u64, &ops) {
            Ok(rebuilt) => wrong += usize::from(rebuilt != new),
            // The prefix differs from what the frame was made with: zstd may notice.
            Err(error) => {
                assert!(matches!(
                    error,
                    DeltaError::Decompress(_) | DeltaError::FreshLength { .. }
                ));
                wrong += 1;
            }
        }
    }
    assert!(wrong > 0, "one byte cannot be enough");
}

#[test]
fn a_wrong_file_is_right_at_the_next_attempt() {
    let (old, new) = (noise(20_000, 1), noise(20_000, 2));
    for seed in 0..20 {
        assert_eq!(Params::choose(20_000, 1, seed).hash_len(), MAX_HASH_LEN);
        assert_rebuilds(Params::choose(20_000, 1, seed), &old, &new);
    }
}

#[test]
fn short_hashes_can_be_forced_for_the_first_attempt_only() {
    let (old, new) = (noise(200_000, 1), noise(200_000, 2));
    let mut wrong = 0;
    for seed in 0..20 {
        let _short = params::forced::ShortHashes::of(1);
        let first = Params::choose(200_000, 0, seed);
        assert_eq!(Params::from_wire(first.block_len(), 1, seed).unwrap(), first);
        let ops = encode(first, &old, &new);
        wrong += usize::from(decode(first, &old, 200_000, &ops).ok() != Some(new.clone()));
        assert_rebuilds(Params::choose(200_000, 1, seed), &old, &new);
    }
    assert!(wrong > 0, "one byte cannot be enough");
    assert!(Params::from_wire(512, 1, 0).is_err());
}

#[test]
fn a_signature_stays_small_up_to_hundreds_of_gigabytes() {
    for shift in 0..40 {
        let old_len = (1u64 << shift) - 1;
        for attempt in 0..2 {
            let params = Params::choose(old_len, attempt, 1);
            let wire = Params::from_wire(params.block_len(), params.hash_len(), 1).unwrap();
            assert_eq!(wire, params);
            if attempt == 0 {
                assert!(params.signature_len(old_len) <= SIGNATURE_TARGET, "{old_len} bytes");
            }
        }
    }
}

#[test]
fn cached_hashes_take_one_percent_of_large_files_and_ten_mebibytes_at_most() {
    for shift in 0..40 {
        let old_len = 1u64 << shift;
        let params = Params::for_cache(old_len, 1);
        let bytes = params.signature_len(old_len);
        assert!(old_len < SMALL_FILE || bytes * 100 <= old_len, "{bytes} for {old_len}");
        assert!(bytes <= 10 << 20, "{bytes} for {old_len}");
        assert_eq!(Params::from_wire(params.block_len(), params.hash_len(), 1).unwrap(), params);
    }
}

#[test]
fn more_runs_than_an_op_holds_make_more_ops() {
    let params = Params::from_wire(512, 8, 5).unwrap();
    let old = noise(2 * 512 * (MAX_PIECES + 100), 1);
    // Pairs of blocks in reverse order: no two runs are contiguous. And a few fresh bytes between them,
    // so that the context of the first op fills up.
    let mut new = Vec::new();
    for pair in old.chunks(2 * 512).rev() {
        new.extend_from_slice(b"fresh");
        new.extend_from_slice(pair);
    }
    let ops = encode(params, &old, &new);
    assert_eq!(ops.len(), 2);
    assert_eq!(ops[0].pieces.len(), MAX_PIECES);
    assert!(decode(params, &old, new.len() as u64, &ops).unwrap() == new);
}
