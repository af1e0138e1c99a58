//! What is written is read again as it was.

use std::collections::BTreeSet;

use proptest::prelude::*;
use psync_protocol::codec::{Put, Reader};
use psync_protocol::frame::{Effort, FrameDecoder, FrameEncoder};
use psync_protocol::manifest::{self, BATCH_ROWS, ManifestReader};
use psync_protocol::message::{Hello, Message, Plan, StreamCodec};
use psync_protocol::{Check, CheckKey, Content, Row, Version, decision};

use crate::samples::{self, ALICE, BOB, deleted, file, path, stated};
use crate::strategies;

fn key() -> CheckKey {
    CheckKey::new(ALICE, &[3; 16])
}

fn read(batches: &[Vec<u8>]) -> Vec<Row<Check>> {
    let mut reader = ManifestReader::new(key());
    batches.iter().for_each(|batch| reader.batch(batch).unwrap());
    reader.finish().unwrap()
}

proptest! {
    #[test]
    fn numbers_are_read_as_they_were_written(unsigned: u64, signed: i64, bytes: Vec<u8>) {
        let mut out = Vec::new();
        out.put_varint(unsigned);
        out.put_signed(signed);
        out.put_bytes(&bytes);
        let mut reader = Reader::new(&out);
        prop_assert_eq!(reader.varint("a number").unwrap(), unsigned);
        prop_assert_eq!(reader.signed("a number").unwrap(), signed);
        prop_assert_eq!(reader.bytes("bytes", bytes.len()).unwrap(), &bytes);
        prop_assert!(reader.end("all").is_ok());
    }

    #[test]
    fn rows_are_read_as_they_were_stated(rows in strategies::rows(key(), 40)) {
        prop_assert_eq!(read(&manifest::encode(&rows)), rows);
    }

    #[test]
    fn every_message_is_read_as_it_was_sent(message in strategies::message()) {
        let payload = message.encode();
        prop_assert_eq!(Message::decode(message.type_byte(), &payload).unwrap(), message);
    }

    #[test]
    fn a_column_of_decisions_is_read_as_it_was_written(
        decisions in (0usize..60).prop_flat_map(strategies::decisions)
    ) {
        let mut out = Vec::new();
        decision::encode(&decisions, &mut out);
        let mut reader = Reader::new(&out);
        prop_assert_eq!(&decision::decode(&mut reader, decisions.len()).unwrap(), &decisions);
        prop_assert!(reader.end("decisions").is_ok());
        let plan = Plan::new(1, 0, &decisions);
        prop_assert_eq!(plan.decisions(decisions.len()).unwrap(), decisions);
    }

    #[test]
    fn marks_are_read_as_they_were_written(marks in strategies::marks()) {
        let message = Message::Marks(marks);
        prop_assert_eq!(Message::decode(5, &message.encode()).unwrap(), message);
    }

    #[test]
    fn messages_arrive_in_order_however_the_line_cuts_their_bytes(
        messages in prop::collection::vec(strategies::message(), 0..8),
        compressed: bool,
        flushes: u8,
        efforts in prop::collection::vec(
            prop_oneof![
                Just(None),
                Just(Some(Effort::Stored)),
                (1..=19).prop_map(|level| Some(Effort::Level(level))),
            ],
            8,
        ),
        chunk in 1usize..70,
    ) {
        let codec = if compressed { StreamCodec::Zstd } else { StreamCodec::Raw };
        let greeting = Message::Hello(Hello { codec, ..samples::hello() });
        let mut encoder = FrameEncoder::start(&greeting, codec, 3).unwrap();
        let mut bytes = Vec::new();
        for (at, message) in messages.iter().enumerate() {
            efforts[at].iter().for_each(|effort| encoder.set_effort(*effort).unwrap());
            encoder.push(message).unwrap();
            if flushes >> at & 1 == 1 {
                encoder.flush().unwrap();
                bytes.extend(encoder.take());
            }
        }
        encoder.flush().unwrap();
        bytes.extend(encoder.take());

        let mut decoder = FrameDecoder::new();
        let mut heard = Vec::new();
        for piece in bytes.chunks(chunk) {
            decoder.feed(piece);
            while let Some(message) = decoder.message().unwrap() {
                heard.push(message);
            }
        }
        prop_assert!(decoder.is_at_boundary());
        prop_assert_eq!(&heard[0], &greeting);
        prop_assert_eq!(&heard[1..], &messages);
    }
}

#[test]
fn what_is_said_in_few_bytes_travels_as_it_is_and_more_is_compressed() {
    let greeting = Message::Hello(Hello { codec: StreamCodec::Zstd, ..samples::hello() });
    let mut encoder = FrameEncoder::start(&greeting, StreamCodec::Zstd, 3).unwrap();
    encoder.take();
    let mut flight = |messages: &[Message]| {
        messages.iter().for_each(|message| encoder.push(message).unwrap());
        encoder.flush().unwrap();
        encoder.take()
    };
    let [short, long] = [100, 10_000].map(|length| Message::Literal(vec![7; length]));
    assert_eq!(flight(&[short.clone(), Message::End]).len(), 102 + 2);
    assert!(flight(&[long, Message::End]).len() < 50);
    assert!(flight(&[short, Message::End]).len() < 50, "once it has begun, all is compressed");
}

#[test]
fn what_is_compressed_can_leave_before_the_flight_ends_and_what_is_short_waits() {
    let greeting = Message::Hello(Hello { codec: StreamCodec::Zstd, ..samples::hello() });
    let mut encoder = FrameEncoder::start(&greeting, StreamCodec::Zstd, 3).unwrap();
    let mut decoder = FrameDecoder::new();
    let mut leaves = |encoder: &mut FrameEncoder, length: usize| {
        encoder.push(&Message::Literal(vec![7; length])).unwrap();
        encoder.flush_compressed().unwrap();
        decoder.feed(&encoder.take());
        std::iter::from_fn(|| decoder.message().unwrap()).count()
    };
    assert_eq!(leaves(&mut encoder, 100), 1, "the greeting alone");
    assert_eq!(leaves(&mut encoder, 1000), 2);
    assert_eq!(leaves(&mut encoder, 10), 1);
}

#[test]
fn a_big_manifest_travels_in_many_batches_and_moves_reach_across_them() {
    let mut rows: Vec<Row<_>> = (0..3 * BATCH_ROWS)
        .map(|n| {
            file(&format!("dir{:02}/file{n:06}", n / 700), &n.to_le_bytes(), ALICE, n as u64 + 1)
        })
        .collect();
    let target = rows.last().unwrap().clone();
    let last = (3 * BATCH_ROWS - 1).to_le_bytes();
    rows.insert(0, deleted("a", &last, BOB, 7));
    rows[0].content = Content::Deleted { moved_to: Some(target.path.clone()) };
    let rows = stated(&rows, &key());
    let batches = manifest::encode(&rows);
    assert_eq!(batches.len(), 4);
    assert_eq!(read(&batches), rows);
}

#[test]
fn long_paths_close_a_batch_before_it_outgrows_a_frame() {
    let names: BTreeSet<String> =
        (0..600).map(|n| format!("{n:03}{}", format!("/{}", "d".repeat(250)).repeat(16))).collect();
    let rows: Vec<Row<_>> = names.iter().map(|name| file(name, b"", ALICE, 1)).collect();
    let rows = stated(&rows, &key());
    let batches = manifest::encode(&rows);
    assert!(batches.iter().all(|batch| batch.len() <= psync_protocol::frame::FRAME_MAX));
    assert_eq!(read(&batches), rows);
}

#[test]
fn many_replicas_in_the_versions_close_a_batch_before_it_outgrows_a_frame() {
    let replica = |n: usize| psync_protocol::ReplicaId((n as u128).to_be_bytes());
    let rows: Vec<Row<_>> = (0..BATCH_ROWS)
        .map(|n| {
            let mut row = file(&format!("{n:06}"), b"", ALICE, 1).stated(&key());
            let pairs =
                |from: usize| (from..from + 40).map(|at| (replica(at), u64::MAX >> 1)).collect();
            row.content_version = Version::from_pairs(pairs(n));
            row.props_version = Version::from_pairs(pairs(2 * n));
            row
        })
        .collect();
    let batches = manifest::encode(&rows);
    assert!(batches.iter().all(|batch| batch.len() <= psync_protocol::frame::FRAME_MAX));
    assert_eq!(read(&batches), rows);
}

#[test]
fn a_moved_file_that_was_edited_afterwards_keeps_its_own_base() {
    let mut from = deleted("old", b"as it was", ALICE, 2);
    from.content = Content::Deleted { moved_to: Some(path("new")) };
    let edited = file("new", b"edited after the move", ALICE, 3);
    let rows = stated(&[edited, from], &key());
    let read = read(&manifest::encode(&rows));
    assert_eq!(
        read[1].base, rows[1].base,
        "the base tells the other end what the deletion builds on"
    );
    assert_eq!(read[1].content, Content::Deleted { moved_to: None }, "it is not the same content");
}

#[test]
fn a_tombstone_whose_move_leads_to_a_tombstone_states_no_move() {
    let mut from = deleted("a", b"text", ALICE, 2);
    from.content = Content::Deleted { moved_to: Some(path("b")) };
    from.base = None;
    let rows = stated(&[from, deleted("b", b"text", ALICE, 3)], &key());
    let read = read(&manifest::encode(&rows));
    assert_eq!(read[0].content, Content::Deleted { moved_to: None });
    assert_eq!(read[0].base, None);
}
