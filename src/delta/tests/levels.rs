//! Two levels: coarse hashes, the sender's answer, finer hashes of what it left unresolved.

use proptest::prelude::*;

use super::*;

/// What both levels find, with what crosses the line for it in bytes.
fn two_levels(coarse: Params, fine_len: u32, old: &[u8], new: &[u8]) -> (Found, usize) {
    let old_len = old.len() as u64;
    let packed = sign(coarse, old);
    let signature = Signature::parse(coarse, old_len, &packed).unwrap();
    let found = search(Matcher::new(&signature), new, 1000);

    let answer = found.answer();
    let parts = parse_answer(coarse.block_len(), old_len, &answer).unwrap();
    assert_eq!(
        parts.iter().map(|part| part.start as usize..part.end as usize).collect::<Vec<_>>(),
        found.unresolved()
    );
    let unresolved: Vec<u8> = parts
        .iter()
        .flat_map(|part| old[part.start as usize..part.end as usize].iter().copied())
        .collect();
    let fine = Params::for_tests(fine_len, coarse.hash_len(), coarse.seed() ^ 1);
    let finer = sign(fine, &unresolved);
    let signature = Signature::parse(fine, unresolved.len() as u64, &finer).unwrap();
    let bytes = packed.len() + answer.len() + finer.len();
    (search(Matcher::after(found, &signature), new, 777), bytes)
}

fn search(mut matcher: Matcher<'_>, new: &[u8], step: usize) -> Found {
    new.chunks(step).for_each(|bytes| matcher.push(bytes));
    matcher.finish()
}

fn assert_both_encodings_rebuild(found: &Found, old: &[u8], new: &[u8]) {
    let unit = found.unit() as u32;
    let change = Change { old: Base::Blocks(found), new };
    let patch = patch_all(&[change], 3).unwrap();
    let target = Target { old, unit, new_len: new.len() };
    assert!(apply_all(&[target], &patch).unwrap() == [new]);

    let mut ops = Vec::new();
    let mut emit = |op| -> Result<(), DeltaError> {
        ops.push(op);
        Ok(())
    };
    let mut encoder = FoundEncoder::new(found, 3);
    new.chunks(501).for_each(|bytes| encoder.push(bytes, &mut emit).unwrap());
    encoder.finish(&mut emit).unwrap();
    let params = Params::for_tests(unit, 8, 0);
    assert!(decode(params, old, new.len() as u64, &ops).unwrap() == new);
}

proptest! {
    #[test]
    fn an_edited_file_is_rebuilt_in_two_levels(
        old in file(),
        edits in prop::collection::vec(edit(), 0..6),
        seed in any::<u64>(),
    ) {
        let mut new = old.clone();
        edits.iter().for_each(|edit| edit.apply(&mut new));
        let (found, _) = two_levels(Params::for_tests(4 * BLOCK, 8, seed), BLOCK, &old, &new);
        assert_both_encodings_rebuild(&found, &old, &new);
    }

    #[test]
    fn an_unrelated_file_is_rebuilt_in_two_levels(
        old in file(),
        new in file(),
        seed in any::<u64>(),
    ) {
        let (found, _) = two_levels(Params::for_tests(2 * BLOCK, 8, seed), BLOCK, &old, &new);
        assert_both_encodings_rebuild(&found, &old, &new);
    }

    #[test]
    fn any_answer_is_refused_or_names_parts_of_the_file_in_order(
        old_len in prop_oneof![0..100_000u64, any::<u64>()],
        block_len in prop_oneof![0..100u32, any::<u32>()],
        answer in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut at = 0;
        for part in parse_answer(block_len, old_len, &answer).unwrap_or_default() {
            prop_assert!(at <= part.start && part.start < part.end && part.end <= old_len);
            at = part.end;
        }
    }
}

#[test]
fn answers_that_no_honest_sender_gives_are_refused() {
    // Ten blocks of 64 bytes, the last one with 24.
    let parse = |answer: &[u8]| parse_answer(64, 600, answer);
    assert_eq!(parse(&[]).unwrap(), []);
    assert_eq!(parse(&[1, 2, 6, 1]).unwrap(), [64..192, 576..600]);
    for answer in [&[0, 0][..], &[0, 11], &[10, 1], &[0, 1, 0, 1]] {
        assert!(matches!(parse(answer), Err(DeltaError::Answer)), "{answer:?}");
    }
    assert!(parse(&[1]).is_err());
}

#[test]
fn an_edit_in_a_file_takes_a_few_fine_hashes() {
    let old = noise(100_000, 1);
    let mut new = old.clone();
    new.splice(50_000..50_010, *b"an edit of another length than what was there");
    let params = Params::coarse(100_000, 0, 5);
    let fine = params.finer(2000, 0, 6);
    let (found, bytes) = two_levels(params, fine.block_len(), &old, &new);
    assert!(bytes < 400, "{bytes} bytes");
    let patch = patch_all(&[Change { old: Base::Blocks(&found), new: &new }], 3).unwrap();
    assert!(patch.len() < 200, "{} bytes", patch.len());
    assert_both_encodings_rebuild(&found, &old, &new);
}

#[test]
fn contents_that_have_nothing_in_common_need_no_fine_hashes() {
    let params = Params::coarse(100_000, 0, 5);
    let signature = Signature::parse(params, 100_000, &sign(params, &noise(100_000, 1))).unwrap();
    assert!(search(Matcher::new(&signature), &noise(100_000, 2), 5000).unresolved().is_empty());
}

#[test]
fn what_is_only_deleted_or_put_in_needs_no_fine_hashes() {
    let old = noise(100_000, 1);
    let params = Params::coarse(100_000, 0, 5);
    let signature = Signature::parse(params, 100_000, &sign(params, &old)).unwrap();
    let kept = [&old[..40_960], &old[81_920..]].concat();
    assert!(search(Matcher::new(&signature), &kept, 5000).unresolved().is_empty());
    let more = [&old[..40_960], &noise(5000, 2), &old[40_960..]].concat();
    assert!(search(Matcher::new(&signature), &more, 5000).unresolved().is_empty());
    assert!(search(Matcher::new(&signature), &[], 1).unresolved().is_empty());
}

#[test]
fn blocks_of_the_second_level_divide_those_of_the_first() {
    for shift in 0..45 {
        for attempt in 0..2 {
            let coarse = Params::coarse(1 << shift, attempt, 1);
            let from_wire = Params::from_wire(coarse.block_len(), coarse.hash_len(), 1);
            assert_eq!(from_wire.unwrap(), coarse);
            for unresolved in (0..=shift).map(|shift| 1 << shift) {
                let fine = coarse.finer(unresolved, attempt, 1);
                assert!(coarse.block_len().is_multiple_of(fine.block_len()), "{fine:?}");
                assert!(Params::from_wire(fine.block_len(), fine.hash_len(), 1).is_ok());
            }
        }
    }
}

#[test]
fn a_hostile_signature_does_not_make_the_sender_hold_more_runs_than_allowed() {
    // Every second block is the same, so that no two matches join.
    let params = Params::for_tests(BLOCK, 8, 3);
    let old: Vec<u8> = [noise(16, 1), noise(16, 2), noise(16, 3)].concat();
    let signature = Signature::parse(params, 48, &sign(params, &old)).unwrap();
    let mut matcher = Matcher::new(&signature);
    let new = [noise(16, 1), noise(16, 2), noise(16, 9)].concat().repeat(10_000);
    for _ in 0..120 {
        matcher.push(&new);
    }
    assert!(matcher.finish().runs() <= matcher::MAX_RUNS);
}
