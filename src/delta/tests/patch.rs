//! Patches: exact whatever the contents, and refused or bounded whatever the peer sends.

use proptest::prelude::*;

use super::*;

fn targets<'a>(contents: &'a [(Vec<u8>, Vec<u8>)]) -> Vec<Target<'a>> {
    contents.iter().map(|(old, new)| Target { old, unit: 1, new_len: new.len() }).collect()
}

fn patch_of(contents: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let changes: Vec<_> =
        contents.iter().map(|(old, new)| Change { old: Base::Content(old), new }).collect();
    patch_all(&changes, 3).unwrap()
}

fn find(signature: &Signature, new: &[u8]) -> Found {
    let mut matcher = Matcher::new(signature);
    matcher.push(new);
    matcher.finish()
}

/// An old content and an edited or an unrelated one.
fn change() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let edited = (file(), prop::collection::vec(edit(), 0..4)).prop_map(|(old, edits)| {
        let mut new = old.clone();
        edits.iter().for_each(|edit| edit.apply(&mut new));
        (old, new)
    });
    prop_oneof![edited, (file(), file())]
}

proptest! {
    #[test]
    fn a_batch_is_rebuilt_byte_by_byte(contents in prop::collection::vec(change(), 0..5)) {
        let rebuilt = apply_all(&targets(&contents), &patch_of(&contents)).unwrap();
        let expected: Vec<_> = contents.iter().map(|(_, new)| new.clone()).collect();
        prop_assert!(rebuilt == expected);
    }

    #[test]
    fn any_bytes_are_refused_or_make_as_much_as_announced(
        old in file(),
        patch in prop::collection::vec(any::<u8>(), 0..60),
        new_len in 0..300usize,
    ) {
        if let Ok(new) = apply_patch(&old, &patch, new_len) {
            prop_assert_eq!(new.len(), new_len);
        }
    }

    #[test]
    fn a_damaged_patch_is_refused_or_makes_as_much_as_announced(
        contents in prop::collection::vec(change(), 1..4),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<bool>(),
    ) {
        let mut patch = patch_of(&contents);
        let at = at.index(patch.len());
        patch[at] ^= byte;
        if cut {
            patch.truncate(at);
        }
        if let Ok(rebuilt) = apply_all(&targets(&contents), &patch) {
            for (rebuilt, (_, new)) in rebuilt.iter().zip(&contents) {
                prop_assert_eq!(rebuilt.len(), new.len());
            }
        }
    }
}

proptest! {
    #[test]
    fn a_batch_is_rebuilt_from_hashes_of_blocks(
        contents in prop::collection::vec(change(), 0..5),
        seed in any::<u64>(),
    ) {
        let params = Params::for_tests(BLOCK, 8, seed);
        let signature = |old: &[u8]| {
            Signature::parse(params, old.len() as u64, &sign(params, old)).unwrap()
        };
        let found: Vec<_> =
            contents.iter().map(|(old, new)| find(&signature(old), new)).collect();
        let changes: Vec<_> = contents
            .iter()
            .zip(&found)
            .map(|((_, new), found)| Change { old: Base::Blocks(found), new })
            .collect();
        let mut targets = targets(&contents);
        targets.iter_mut().for_each(|target| target.unit = BLOCK);
        let rebuilt = apply_all(&targets, &patch_all(&changes, 3).unwrap()).unwrap();
        let expected: Vec<_> = contents.iter().map(|(_, new)| new.clone()).collect();
        prop_assert!(rebuilt == expected);
    }

    #[test]
    fn any_bytes_for_a_patch_of_blocks_are_refused_or_make_as_much_as_announced(
        old in file(),
        patch in prop::collection::vec(any::<u8>(), 0..60),
        new_len in 0..300usize,
        unit in prop_oneof![0..100u32, any::<u32>()],
    ) {
        if let Ok(new) = apply_all(&[Target { old: &old, unit, new_len }], &patch) {
            prop_assert_eq!(new[0].len(), new_len);
        }
    }
}

#[test]
fn one_block_alone_is_found_by_a_cached_hash() {
    let old = noise(100_000, 1);
    let params = Params::for_cache(100_000, 3);
    let signature = Signature::parse(params, 100_000, &sign(params, &old)).unwrap();
    let new = [&noise(30_001, 2), &old[640..704], &noise(500, 3)].concat();
    let found = find(&signature, &new);
    let change = Change { old: Base::Blocks(&found), new: &new };
    let patch = patch_all(&[change], 3).unwrap();
    assert!(patch.len() < new.len() - 40, "{} bytes", patch.len());
    let target = Target { old: &old, unit: params.block_len(), new_len: new.len() };
    assert!(apply_all(&[target], &patch).unwrap() == [new]);
}

#[test]
fn a_changed_word_in_a_large_file_takes_a_few_bytes() {
    let old = noise(200_000, 1);
    let mut new = old.clone();
    new.splice(100_000..100_005, *b"seven");
    let patch = patch(&old, &new, 19).unwrap();
    assert!(patch.len() <= 16, "{} bytes", patch.len());
    assert!(apply_patch(&old, &patch, new.len()).unwrap() == new);
}

#[test]
fn an_edit_made_in_many_files_is_paid_for_once() {
    let licence = noise(2000, 9);
    let contents: Vec<_> = (0..20)
        .map(|i| (noise(3000, i), [noise(1500, i), licence.clone(), noise(3000, i)].concat()))
        .collect();
    let patch = patch_of(&contents);
    assert!(patch.len() < licence.len() + 20 * 40, "{} bytes", patch.len());
}

#[test]
fn zeros_take_linear_time() {
    let (old, new) = (vec![0; 4 << 20], vec![0; 5 << 20]);
    let patch = patch(&old, &new, 3).unwrap();
    assert!(patch.len() < 50);
    assert!(apply_patch(&old, &patch, new.len()).unwrap() == new);
}

#[test]
fn what_no_honest_sender_makes_is_refused_by_name() {
    let old = noise(1000, 1);
    let reason = |patch: &[u8], new_len| match apply_patch(&old, patch, new_len).unwrap_err() {
        DeltaError::Patch(reason) => reason,
        error => panic!("{error}"),
    };
    // Lengths of the steps as a whole, then fresh bytes, bytes copied, zigzag distance.
    assert_eq!(reason(&[], 10), "it ends early");
    assert_eq!(reason(&[3, 3, 0, 10], 10), "it ends early");
    assert_eq!(reason(&[0x80; 10], 10), "a number is too long");
    assert_eq!(reason(&[100, 100], 10), "it has more steps than its contents can need");
    assert_eq!(reason(&[1, 1, 11], 10), "a content becomes too long");
    assert_eq!(reason(&[3, 3, 0, 11, 0], 10), "a content becomes too long");
    let outside = "it copies what the old content does not have";
    assert_eq!(reason(&[3, 3, 0, 10, 1], 10), outside);
    assert_eq!(reason(&[4, 4, 0, 10, 0xbe, 0x0f], 10), outside);
    assert_eq!(reason(&[2, 2, 0, 0], 1001), outside);
    assert_eq!(reason(&[3, 3, 0, 0, 0], 10), "it goes on after its last content");
    assert!(apply_patch(&old, &[2, 2, 0, 0], 10).unwrap() == old[990..]);
    let error = apply_patch(&old, &[2, 2, 0, 0], usize::MAX).unwrap_err();
    assert!(matches!(error, DeltaError::PatchSize(usize::MAX)), "{error}");
}

#[test]
fn a_frame_that_expands_beyond_what_is_announced_is_refused() {
    let bomb = frame::compress_bare(&[], &vec![0; 10 << 20], 3).unwrap();
    let patch = [&[2, 2, 0x80, 0x08], bomb.as_slice()].concat();
    let error = apply_patch(&[], &patch, 1024).unwrap_err();
    assert!(matches!(error, DeltaError::Decompress(_)), "{error}");
}
