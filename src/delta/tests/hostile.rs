//! What a hostile or careless peer sends: refused by name, or carried out in bounded time and memory.

use std::io;

use proptest::prelude::*;

use super::*;

fn op() -> impl Strategy<Value = Op> {
    let number = || prop_oneof![0..40u64, any::<u64>()];
    let piece = (number(), number(), prop_oneof![0..50u32, any::<u32>()])
        .prop_map(|(block, count, fresh)| Piece { block, count, fresh });
    let bytes = || prop::collection::vec(any::<u8>(), 0..100);
    let fresh = prop_oneof![bytes().prop_map(Fresh::Plain), bytes().prop_map(Fresh::Coded)];
    (prop::collection::vec(piece, 0..4), fresh).prop_map(|(pieces, fresh)| Op { pieces, fresh })
}

proptest! {
    #[test]
    fn any_op_is_refused_or_carried_out_but_does_not_panic(
        old in file(),
        ops in prop::collection::vec(op(), 0..4),
        new_len in prop_oneof![0..5000u64, any::<u64>()],
    ) {
        // Copies of as much as the peer announced are legitimate; a test need not wait for them.
        let _ = decode(Params::for_tests(BLOCK, 2, 0), &old, new_len.min(1 << 20), &ops);
    }

    #[test]
    fn a_damaged_frame_is_refused_or_yields_as_many_bytes_as_stated(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let params = Params::for_tests(BLOCK, 8, 1);
        let old = b"the quick brown fox jumps over the lazy dog; ".repeat(20);
        let mut new = old.clone();
        new.splice(300..310, b"a lazy dog jumps over the quick fox; ".repeat(4));
        let mut ops = encode(params, &old, &new);
        let Fresh::Coded(data) = &mut ops[0].fresh else { panic!("expected compressed bytes") };
        let at = at.index(data.len());
        data[at] ^= byte;
        if let Ok(rebuilt) = decode(params, &old, new.len() as u64, &ops) {
            prop_assert_eq!(rebuilt.len(), new.len());
        }
    }
}

#[test]
fn zeros_are_matched_in_sequence_with_linear_work() {
    let params = Params::from_wire(64, 4, 5).unwrap();
    let (old, new) = (vec![0; 1 << 20], vec![0; 3 << 20]);
    let signature = Signature::parse(params, old.len() as u64, &sign(params, &old)).unwrap();
    let mut search = search::Search::new(&signature);
    let mut at = 0;
    let mut blocks = 0;
    while let search::Found::Block { at: found, block, len } = search.next(&new, at, true) {
        assert_eq!((found, block), (at, blocks));
        (at, blocks) = (found + len, blocks + 1);
    }
    assert_eq!(blocks, 1 << 14);
    assert!(search.hashed <= 2 * new.len() as u64, "{} bytes hashed", search.hashed);
    assert_rebuilds(params, &old, &new);
}

#[test]
fn a_signature_that_matches_everywhere_costs_linear_work() {
    // The peer's blocks are all alike but for one hash in three, so that candidates are plenty and
    // neighbours never agree.
    let params = Params::from_wire(1024, 2, 5).unwrap();
    let new = vec![7; 1 << 20];
    let hash = sign(params, &new[..1024]);
    let old_len = 30 * 1024;
    let packed: Vec<u8> =
        (0..30u8).flat_map(|i| if i == 3 { hash.clone() } else { vec![i, i ^ 0x55] }).collect();
    let signature = Signature::parse(params, old_len, &packed).unwrap();
    let mut search = search::Search::new(&signature);
    search.next(&new, 0, true);
    assert!(search.hashed <= 10 * new.len() as u64, "{} bytes hashed", search.hashed);
}

#[test]
fn a_million_equal_hashes_take_one_slot_and_match_in_turn() {
    let params = Params::from_wire(64, 8, 5).unwrap();
    let blocks = 1_000_000;
    let packed = sign(params, &[0; 64]).repeat(blocks);
    let signature = Signature::parse(params, 64 * blocks as u64, &packed).unwrap();
    assert_eq!(signature.slots_in_use(), 1);
    let mut new = noise(100, 1);
    new.resize(100_000, 0);
    let ops = encode_pieces(&signature, [new.as_slice()]);
    let copies = ops.iter().flat_map(|op| &op.pieces).filter(|piece| piece.count > 0).count();
    assert!(copies <= 1, "{copies} copies");
}

#[test]
fn memory_does_not_grow_with_the_new_file() {
    let params = Params::from_wire(64, 4, 5).unwrap();
    let signature = Signature::parse(params, 0, &[]).unwrap();
    let mut encoder = Encoder::new(&signature, 3);
    let mut emit = |op: Op| -> Result<(), DeltaError> {
        assert!(fresh_bytes(&[op]) <= MAX_FRESH as u64);
        Ok(())
    };
    for data in [vec![0; 1 << 20], noise(1 << 20, 3)] {
        for _ in 0..20 {
            encoder.push(&data, &mut emit).unwrap();
            assert!(encoder.held() < 2 << 20, "{} bytes held", encoder.held());
        }
    }
    encoder.finish(&mut emit).unwrap();
}

#[test]
fn parameters_outside_the_limits_are_refused() {
    use DeltaError::{BlockLength, HashLength};
    assert!(matches!(Params::from_wire(0, 4, 1), Err(BlockLength(0))));
    assert!(matches!(Params::from_wire(MIN_BLOCK_LEN - 4, 4, 1), Err(BlockLength(_))));
    assert!(matches!(Params::from_wire(MAX_BLOCK_LEN + 4, 4, 1), Err(BlockLength(_))));
    assert!(matches!(Params::from_wire(101, 4, 1), Err(BlockLength(101))));
    assert!(matches!(Params::from_wire(128, 1, 1), Err(HashLength(1))));
    assert!(matches!(Params::from_wire(128, 9, 1), Err(HashLength(9))));
    assert!(Params::from_wire(128, 8, 1).is_ok());
}

#[test]
fn a_signature_of_the_wrong_length_is_refused() {
    let params = Params::for_tests(BLOCK, 3, 0);
    for (old_len, bytes) in [(0, 1), (1, 0), (1, 2), (32, 5), (33, 6), (33, 10), (u64::MAX, 3)] {
        let error = Signature::parse(params, old_len, &vec![0; bytes]).unwrap_err();
        assert!(matches!(error, DeltaError::SignatureLength { .. }), "{old_len} {bytes}");
    }
    assert!(Signature::parse(params, 33, &[0; 9]).is_ok());
}

#[test]
fn hostile_ops_are_refused_before_anything_is_read_or_written() {
    let piece = |block, count, fresh| Piece { block, count, fresh };
    let plain =
        |pieces: &[Piece], len| Op { pieces: pieces.to_vec(), fresh: Fresh::Plain(vec![0; len]) };
    let coded =
        |pieces: &[Piece]| Op { pieces: pieces.to_vec(), fresh: Fresh::Coded(vec![0xff; 9]) };
    let name = |op: &Op| {
        // An old file of three blocks and a tail of eight bytes.
        let mut decoder = Decoder::new(&Params::for_tests(BLOCK, 2, 0), 56, 1 << 20);
        let mut read = |_, _: &mut [u8]| -> io::Result<()> { panic!("read") };
        let mut write = |_: &[u8]| -> io::Result<()> { panic!("written") };
        match decoder.apply(op, &mut read, &mut write).unwrap_err() {
            DeltaError::TooManyPieces(_) => "too many pieces",
            DeltaError::NoSuchBlock { .. } => "no such block",
            DeltaError::TooMuchFresh(_) => "too much fresh",
            DeltaError::FreshLength { .. } => "fresh length",
            DeltaError::TooLong(_) => "too long",
            DeltaError::Decompress(_) => "decompress",
            error => panic!("{error}"),
        }
    };
    assert_eq!(name(&plain(&vec![piece(0, 1, 0); MAX_PIECES + 1], 0)), "too many pieces");
    assert_eq!(name(&plain(&[piece(4, 1, 0)], 0)), "no such block");
    assert_eq!(name(&plain(&[piece(3, 2, 0)], 0)), "no such block");
    assert_eq!(name(&plain(&[piece(u64::MAX, 1, 0)], 0)), "no such block");
    assert_eq!(name(&plain(&[piece(1, u64::MAX, 0)], 0)), "no such block");
    assert_eq!(name(&coded(&[piece(u64::MAX, u64::MAX, 9)])), "no such block");
    assert_eq!(name(&plain(&[piece(0, 0, MAX_FRESH as u32 + 1)], 0)), "too much fresh");
    assert_eq!(name(&coded(&[piece(0, 0, u32::MAX); 9])), "too much fresh");
    assert_eq!(name(&plain(&[piece(0, 0, 2)], 1)), "fresh length");
    assert_eq!(name(&plain(&[piece(0, 0, 1)], 2)), "fresh length");
    assert_eq!(name(&plain(&[], 1)), "fresh length");
    assert_eq!(name(&plain(&[piece(0, 0, 1 << 19); 3], 0)), "too much fresh");
    assert_eq!(name(&coded(&[piece(0, 0, 5)])), "decompress");
}

#[test]
fn a_file_must_have_exactly_the_announced_length() {
    let params = Params::for_tests(BLOCK, 2, 0);
    let old = noise(56, 1);
    let ops = encode(params, &old, &old);
    assert!(matches!(decode(params, &old, 55, &ops), Err(DeltaError::TooLong(55))));
    assert!(matches!(
        decode(params, &old, 57, &ops),
        Err(DeltaError::TooShort { announced: 57, actual: 56 })
    ));
}

#[test]
fn a_frame_with_more_or_less_content_than_stated_is_refused() {
    let params = Params::for_tests(BLOCK, 8, 0);
    let old = b"all work and no play makes jack a dull boy ".repeat(10);
    let new = [&old[..200], &b"makes jack a dull boy ".repeat(5), &old[200..]].concat();
    for change in [-1, 1] {
        let mut ops = encode(params, &old, &new);
        let piece = ops[0].pieces.iter_mut().find(|piece| piece.fresh > 0).unwrap();
        piece.fresh = piece.fresh.checked_add_signed(change).unwrap();
        let error = decode(params, &old, u64::MAX, &ops).unwrap_err();
        assert!(matches!(error, DeltaError::Decompress(_) | DeltaError::FreshLength { .. }));
    }
}
