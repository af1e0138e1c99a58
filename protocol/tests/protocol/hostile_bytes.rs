//! Bytes that no honest end sends: nothing panics, nothing grows without bound, nothing contradictory
//! is taken.

use proptest::collection::vec;
use proptest::prelude::*;
use psync_protocol::codec::{Put, Reader};
use psync_protocol::error::DecodeError;
use psync_protocol::frame::{FRAME_MAX, FrameDecoder, FrameEncoder};
use psync_protocol::manifest::{self, ManifestReader};
use psync_protocol::message::{Hello, Message, StreamCodec};
use psync_protocol::{Check, CheckKey, Content, ProtocolError, Row, decision};
use zstd::stream::raw::{CParameter, Encoder, InBuffer, Operation, OutBuffer};

use crate::raw::{self, DELETED, FILE, HAS_BASE, MOVED, RawRow, row};
use crate::samples::{self, ALICE};
use crate::strategies;

fn key() -> CheckKey {
    CheckKey::new(ALICE, &[3; 16])
}

fn read(batches: &[Vec<u8>]) -> Result<Vec<Row<Check>>, DecodeError> {
    let mut reader = ManifestReader::new(key());
    batches.iter().try_for_each(|batch| reader.batch(batch))?;
    reader.finish()
}

/// What a line or a hostile peer may do to bytes.
#[derive(Debug, Clone)]
enum Mutation {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let at = any::<prop::sample::Index>;
    let mutation = prop_oneof![
        4 => (at(), 1u8..).prop_map(|(at, bits)| Mutation::Flip(at, bits)),
        1 => at().prop_map(Mutation::Cut),
        1 => (at(), vec(any::<u8>(), 1..12)).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        1 => (at(), 1usize..9).prop_map(|(at, count)| Mutation::Remove(at, count)),
    ];
    vec(mutation, 1..5)
}

fn mutate(mut bytes: Vec<u8>, mutations: &[Mutation]) -> Vec<u8> {
    for mutation in mutations {
        let end = bytes.len();
        if end == 0 {
            break;
        }
        match mutation {
            Mutation::Flip(at, bits) => bytes[at.index(end)] ^= bits,
            Mutation::Cut(at) => bytes.truncate(at.index(end)),
            Mutation::Insert(at, more) => {
                let at = at.index(end);
                bytes.splice(at..at, more.iter().copied());
            }
            Mutation::Remove(at, count) => {
                let at = at.index(end);
                bytes.drain(at..end.min(at + count));
            }
        }
    }
    bytes
}

/// Stands before zstd.
const PACKED: [u8; 2] = [0, 0];

/// Takes whatever messages the bytes hold.
fn drain(bytes: &[u8], chunk: usize) {
    let mut decoder = FrameDecoder::new();
    for piece in bytes.chunks(chunk) {
        decoder.feed(piece);
        loop {
            match decoder.message() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_payload_is_a_message_or_an_error(type_byte in 0u8..30, payload in vec(any::<u8>(), 0..120)) {
        if let Ok(message) = Message::decode(type_byte, &payload) {
            let again = Message::decode(type_byte, &message.encode());
            prop_assert_eq!(again, Ok(message));
        }
    }

    #[test]
    fn a_mutated_message_is_a_message_or_an_error(
        message in strategies::message(),
        mutations in mutations(),
    ) {
        let payload = mutate(message.encode(), &mutations);
        let _ = Message::decode(message.type_byte(), &payload);
    }

    #[test]
    fn any_batch_is_sorted_rows_or_an_error(payload in vec(any::<u8>(), 0..120)) {
        let _ = read(&[payload]);
    }

    #[test]
    fn a_mutated_batch_is_sorted_rows_or_an_error(
        rows in strategies::rows(key(), 12),
        mutations in mutations(),
    ) {
        let batches: Vec<Vec<u8>> =
            manifest::encode(&rows).into_iter().map(|batch| mutate(batch, &mutations)).collect();
        if let Ok(rows) = read(&batches) {
            prop_assert!(rows.is_sorted_by(|a, b| a.path < b.path));
            for row in &rows {
                if let Content::Deleted { moved_to: Some(target) } = &row.content {
                    let target = rows.iter().find(|row| &row.path == target);
                    prop_assert!(target.is_some_and(|target| target.content.is_live()));
                }
            }
        }
    }

    #[test]
    fn any_column_is_decisions_or_an_error(column in vec(any::<u8>(), 0..60), paths in 0usize..20) {
        if let Ok(decisions) = decision::decode(&mut Reader::new(&column), paths) {
            prop_assert_eq!(decisions.len(), paths);
        }
    }

    #[test]
    fn any_bytes_on_the_line_are_messages_or_an_error(
        bytes in vec(any::<u8>(), 0..300),
        compressed: bool,
        chunk in 1usize..50,
    ) {
        drain(&bytes, chunk);
        let codec = if compressed { StreamCodec::Zstd } else { StreamCodec::Raw };
        let mut line = FrameEncoder::only(&Message::Hello(Hello { codec, ..samples::hello() }));
        line.extend(&bytes);
        drain(&line, chunk);
        // A zstd frame header in front, so that more than the magic number is looked at.
        let mut line = FrameEncoder::only(&Message::Hello(Hello { codec, ..samples::hello() }));
        line.extend(PACKED);
        line.extend([0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58]);
        line.extend(&bytes);
        drain(&line, chunk);
    }

    #[test]
    fn a_mutated_line_is_messages_or_an_error(
        messages in vec(strategies::message(), 1..6),
        mutations in mutations(),
        compressed: bool,
    ) {
        let codec = if compressed { StreamCodec::Zstd } else { StreamCodec::Raw };
        let hello = Message::Hello(Hello { codec, ..samples::hello() });
        let mut encoder = FrameEncoder::start(&hello, codec, 3).unwrap();
        messages.iter().for_each(|message| encoder.push(message).unwrap());
        encoder.flush().unwrap();
        drain(&mutate(encoder.take(), &mutations), 64);
    }
}

#[test]
fn a_number_padded_with_needless_groups_is_refused() {
    for bytes in [&[0x80, 0x00][..], &[0xff, 0x00], &[0x81, 0x80, 0x00], &[0x80; 10], &[0xff; 11]] {
        let mut reader = Reader::new(bytes);
        assert_eq!(
            reader.varint("a number"),
            Err(DecodeError::Invalid("a number")),
            "{bytes:02x?}"
        );
    }
    let largest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    assert_eq!(Reader::new(&largest).varint("a number"), Ok(u64::MAX));
    let above = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
    assert_eq!(Reader::new(&above).varint("a number"), Err(DecodeError::Invalid("a number")));
    assert_eq!(Reader::new(&[0x80]).varint("a number"), Err(DecodeError::Truncated("a number")));
    let mut decoder = FrameDecoder::new();
    decoder.feed(b"\0psync\x80\x00\x12");
    assert!(decoder.message().is_err(), "a frame's length");
}

#[test]
fn rows_out_of_order_or_said_twice_are_refused() {
    let disorder = Err(DecodeError::Invalid("the order of the rows"));
    for (first, second) in [("b", "a"), ("a", "a"), ("a/b", "a"), ("a/b", "a-b")] {
        let together = raw::batch(&[row(FILE, first), row(FILE, second)]);
        assert_eq!(read(&[together]).map(drop), disorder, "{first} {second}");
        let apart = [raw::batch(&[row(FILE, first)]), raw::batch(&[row(FILE, second)])];
        assert_eq!(read(&apart).map(drop), disorder, "{first} {second}");
    }
    assert!(read(&[raw::batch(&[row(FILE, "a"), row(FILE, "a-b"), row(FILE, "a/b")])]).is_ok());
}

#[test]
fn a_move_that_leads_nowhere_is_refused() {
    let moved = |by: i64| RawRow { moved: by, ..row(DELETED | MOVED, "b") };
    let with = |by: i64| read(&[raw::batch(&[row(DELETED, "a"), moved(by), row(FILE, "c")])]);
    let rows = with(1).unwrap();
    assert_eq!(rows[1].content, Content::Deleted { moved_to: Some(samples::path("c")) });
    assert_eq!(rows[1].base, rows[2].content.fingerprint());
    // Before the first row, past the last one, to itself, to a tombstone, and out of all numbers.
    for by in [-2, 2, 0, -1, i64::MAX, i64::MIN] {
        assert_eq!(with(by), Err(DecodeError::Invalid("a move")), "{by}");
    }
    for flags in [FILE | MOVED, DELETED | MOVED | HAS_BASE] {
        let error = read(&[raw::batch(&[RawRow { moved: 1, ..row(flags, "b") }, row(FILE, "c")])]);
        assert_eq!(error, Err(DecodeError::Invalid("a move")), "{flags}");
    }
}

#[test]
fn numbers_that_point_nowhere_are_refused() {
    let shared = RawRow { shared: 2, ..row(FILE, "b") };
    let error = read(&[raw::batch(&[row(FILE, "a"), shared])]);
    assert_eq!(error, Err(DecodeError::Invalid("a shared prefix")));
    let error = read(&[raw::batch_with(&[0, 1, 0, 1, 0], &[row(FILE, "a")])]);
    assert_eq!(error, Err(DecodeError::Invalid("a version's number")));
    let error = read(&[raw::batch_with(&[0, 1, 1, 0, 1, 0, 0], &[row(FILE, "a")])]);
    assert_eq!(error, Err(DecodeError::Invalid("a replica's number")));
    let error = decision::decode(&mut Reader::new(&[2, 7, 2, 2, 0]), 2);
    assert_eq!(error, Err(DecodeError::Invalid("an arrival's source")));
    let error = Message::decode(5, &[0, 0, 1, 6, 1]);
    let invalid = DecodeError::Invalid("a mark");
    assert_eq!(error, Err(ProtocolError::Decode { message: "Marks", error: invalid }));
}

#[test]
fn contents_without_a_patch_and_runs_that_do_not_add_up_are_refused() {
    let patches = |payload: &[u8]| {
        Message::decode(20, payload).map_err(|error| match error {
            ProtocolError::Decode { error, .. } => error,
            other => panic!("{other}"),
        })
    };
    let invalid = |what| Err(DecodeError::Invalid(what));
    assert_eq!(patches(&[0]), invalid("a count of contents"));
    assert_eq!(patches(&[1, 0, 0, 0]), invalid("a run of bases"));
    assert_eq!(patches(&[1, 0, 1, 4]), invalid("a base's kind"));
    assert!(matches!(patches(&[1, 0, 2, 0]), Err(DecodeError::TooLarge { .. })));
    assert!(matches!(patches(&[2, 0, 0, 1, 0]), Err(DecodeError::Truncated(_))));
}

/// A greeting, then this stream of frames compressed by somebody who means harm.
fn compressed(frames: &mut dyn Iterator<Item = Vec<u8>>, window_log: u32) -> Vec<u8> {
    let codec = StreamCodec::Zstd;
    let mut line = FrameEncoder::only(&Message::Hello(Hello { codec, ..samples::hello() }));
    line.extend(PACKED);
    line.extend(zstd_stream(frames, window_log));
    line
}

/// This stream of frames as one zstd frame that does not end.
fn zstd_stream(frames: &mut dyn Iterator<Item = Vec<u8>>, window_log: u32) -> Vec<u8> {
    let mut line = Vec::new();
    let mut encoder = Encoder::new(3).unwrap();
    encoder.set_parameter(CParameter::WindowLog(window_log)).unwrap();
    let mut out = vec![0; 1 << 20];
    for frame in frames {
        let mut input = InBuffer::around(&frame);
        while input.pos() < frame.len() {
            let mut output = OutBuffer::around(&mut out[..]);
            encoder.run(&mut input, &mut output).unwrap();
            line.extend(output.as_slice());
        }
    }
    let mut output = OutBuffer::around(&mut out[..]);
    while encoder.flush(&mut output).unwrap() > 0 {}
    line.extend(output.as_slice());
    line
}

#[test]
fn a_bomb_in_the_stream_makes_the_decoder_hold_one_frame_and_one_step() {
    let mut frame = Vec::new();
    frame.put_varint(FRAME_MAX as u64);
    frame.push(4);
    frame.resize(frame.len() + FRAME_MAX, 0);
    let frames = 200;
    let line = compressed(&mut std::iter::repeat_n(frame, frames), 20);
    assert!(line.len() < 100 << 10, "{} bytes for 200 MiB", line.len());
    let mut decoder = FrameDecoder::new();
    decoder.feed(&line);
    let mut heard = 0;
    while decoder.message().unwrap().is_some() {
        heard += 1;
        assert!(decoder.held() <= FRAME_MAX + (64 << 10) + 4 + line.len(), "{}", decoder.held());
    }
    assert_eq!(heard, frames + 1);
}

#[test]
fn a_bomb_in_one_frame_is_refused_after_one_step() {
    let mut start = Vec::new();
    start.put_varint(1 << 40);
    let mut frames = std::iter::once(start).chain(std::iter::repeat_n(vec![0; 1 << 20], 100));
    let line = compressed(&mut frames, 20);
    let mut decoder = FrameDecoder::new();
    decoder.feed(&line);
    assert!(decoder.message().unwrap().is_some());
    assert!(decoder.message().is_err());
    assert!(decoder.held() <= (64 << 10) + line.len());
}

#[test]
fn a_stream_that_needs_a_larger_window_than_agreed_is_refused() {
    let ping = || std::iter::once(vec![0, 18]);
    let mut decoder = FrameDecoder::new();
    decoder.feed(&compressed(&mut ping(), 23));
    assert!(decoder.message().unwrap().is_some());
    assert_eq!(decoder.message(), Ok(Some(Message::Ping(0))));
    let mut decoder = FrameDecoder::new();
    decoder.feed(&compressed(&mut ping(), 24));
    assert!(decoder.message().unwrap().is_some());
    let error = decoder.message();
    assert!(
        matches!(error, Err(ProtocolError::Decode { error: DecodeError::Stream(_), .. })),
        "{error:?}"
    );
}

#[test]
fn the_window_of_every_zstd_frame_is_looked_at() {
    let ping = || std::iter::once(vec![0, 18]);
    let mut line = ended(compressed(&mut ping(), 20));
    line.extend(ended(zstd_stream(&mut ping(), 23)));
    line.extend(zstd_stream(&mut ping(), 24));
    let mut decoder = FrameDecoder::new();
    decoder.feed(&line);
    assert!(decoder.message().unwrap().is_some());
    for _ in 0..2 {
        assert_eq!(decoder.message(), Ok(Some(Message::Ping(0))));
    }
    let error = decoder.message();
    assert!(
        matches!(error, Err(ProtocolError::Decode { error: DecodeError::Stream(_), .. })),
        "{error:?}"
    );
}

/// A stream that was flushed, with the last block that ends its zstd frame.
fn ended(mut stream: Vec<u8>) -> Vec<u8> {
    stream.extend([1, 0, 0]);
    stream
}

#[test]
fn zstd_frames_without_end_and_without_content_cost_only_their_bytes() {
    let codec = StreamCodec::Zstd;
    let mut line = FrameEncoder::only(&Message::Hello(Hello { codec, ..samples::hello() }));
    let empty = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38, 0x01, 0x00, 0x00];
    let largest_window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x68, 0x01, 0x00, 0x00];
    let skipped = [0x50, 0x2a, 0x4d, 0x18, 0x02, 0x00, 0x00, 0x00, 0xaa, 0xbb];
    let mut decoder = FrameDecoder::new();
    line.extend(PACKED);
    decoder.feed(&line);
    assert!(decoder.message().unwrap().is_some());
    for _ in 0..2_000 {
        line.clear();
        for _ in 0..10 {
            line.extend(empty.iter().chain(&largest_window).chain(&skipped));
        }
        decoder.feed(&line);
        assert_eq!(decoder.message(), Ok(None));
        assert!(decoder.held() <= line.len());
    }
    decoder.feed(&zstd_stream(&mut std::iter::once(vec![0, 18]), 20));
    assert_eq!(decoder.message(), Ok(Some(Message::Ping(0))));
}

#[test]
fn a_bomb_in_every_zstd_frame_is_taken_step_by_step() {
    let mut frame = Vec::new();
    frame.put_varint(FRAME_MAX as u64);
    frame.push(4);
    frame.resize(frame.len() + FRAME_MAX, 0);
    let mut line = ended(compressed(&mut std::iter::once(frame.clone()), 20));
    for _ in 0..50 {
        line.extend(ended(zstd_stream(&mut std::iter::once(frame.clone()), 23)));
    }
    let mut decoder = FrameDecoder::new();
    decoder.feed(&line);
    let mut heard = 0;
    while decoder.message().unwrap().is_some() {
        heard += 1;
        assert!(decoder.held() <= FRAME_MAX + (64 << 10) + 4 + line.len(), "{}", decoder.held());
    }
    assert_eq!(heard, 52);
}

#[test]
fn asking_again_without_new_bytes_gives_nothing_and_no_error() {
    let mut decoder = FrameDecoder::new();
    let line = compressed(&mut std::iter::once(vec![0, 18]), 20);
    decoder.feed(&line[..line.len() - 1]);
    assert!(decoder.message().unwrap().is_some());
    for _ in 0..100 {
        assert_eq!(decoder.message(), Ok(None));
        decoder.feed(&[]);
    }
    decoder.feed(&line[line.len() - 1..]);
    assert_eq!(decoder.message(), Ok(Some(Message::Ping(0))));
}

#[test]
fn what_does_not_start_with_the_preface_is_shown_and_refused() {
    let mut decoder = FrameDecoder::new();
    decoder.feed(b"Welcome to \x1b[31mhost\n");
    let Err(ProtocolError::NotPsync(text)) = decoder.message() else { panic!("a shell's banner") };
    assert_eq!(text, "Welcome to \\u{1b}[31mhost\\n");
    let mut decoder = FrameDecoder::new();
    decoder.feed(b"\0psy");
    assert_eq!(decoder.message(), Ok(None));
    decoder.feed(b"ck");
    assert!(matches!(decoder.message(), Err(ProtocolError::NotPsync(_))));
}

#[test]
fn zstd_begins_only_where_it_was_announced_and_only_once() {
    let hello = |codec| FrameEncoder::only(&Message::Hello(Hello { codec, ..samples::hello() }));
    let refused = |line: &[u8]| {
        let mut decoder = FrameDecoder::new();
        decoder.feed(line);
        decoder.message().unwrap();
        decoder.message().is_err()
    };
    let stream = zstd_stream(&mut std::iter::once(vec![0, 18]), 20);
    let zstd = hello(StreamCodec::Zstd);
    assert!(refused(&[&hello(StreamCodec::Raw)[..], &PACKED, &stream].concat()), "not announced");
    // What would be a length and a type has to have its payload before it is refused.
    assert!(refused(&[&zstd[..], &stream, &[0; 64]].concat()), "nothing stands before it");
    let again = zstd_stream(&mut std::iter::once(PACKED.to_vec()), 20);
    assert!(refused(&[&zstd[..], &PACKED, &again].concat()), "within zstd");
    assert!(!refused(&[&zstd[..], &PACKED, &stream].concat()));
}
