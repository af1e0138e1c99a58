//! Every count, length and number: the largest is taken, one more is refused by its name.

use psync_protocol::codec::{NUMBER_MAX, Put};
use psync_protocol::error::DecodeError;
use psync_protocol::frame::{FRAME_MAX, FrameDecoder, FrameEncoder};
use psync_protocol::manifest::{BATCH_ROWS, ENTRIES_MAX, ManifestReader};
use psync_protocol::message::{
    CHUNK_MAX, FRESH_MAX, Filter, Hello, Message, PIECES_MAX, SIGNATURE_MAX, TEXT_MAX,
};
use psync_protocol::path::PathError;
use psync_protocol::{CheckKey, ContentHash, ErrorCode, ProtocolError, ReplicaId, Row};

use crate::raw::{self, DELETED, DIRECTORY, EXTENDED, FILE, MODE_CHANGED, RawRow, SYMLINK, row};
use crate::samples::{self, ALICE, hello, one_of_each};

fn read(payload: &[u8]) -> Result<Vec<Row<psync_protocol::Check>>, DecodeError> {
    let mut reader = ManifestReader::new(CheckKey::new(ALICE, &[0; 16]));
    reader.batch(payload)?;
    reader.finish()
}

fn decode(type_byte: u8, payload: &[u8]) -> Result<Message, DecodeError> {
    Message::decode(type_byte, payload).map_err(|error| match error {
        ProtocolError::Decode { error, .. } => error,
        other => panic!("{other}"),
    })
}

/// The limit that is named by a refusal; none if the bytes are taken or refused for another reason.
fn refused<T>(result: Result<T, DecodeError>) -> Option<(&'static str, u64)> {
    match result {
        Err(DecodeError::TooLarge { what, value, limit }) => {
            assert!(value > limit);
            Some((what, limit))
        }
        _ => None,
    }
}

#[test]
fn rows_keep_their_limits() {
    let with = |flags, change: &dyn Fn(&mut RawRow)| {
        let mut row = row(flags, "a");
        change(&mut row);
        read(&raw::batch(&[row]))
    };
    assert!(with(FILE, &|row| row.mode = 0o7777).is_ok());
    assert_eq!(refused(with(FILE, &|row| row.mode = 0o10000)), Some(("a mode", 0o7777)));
    let flags = DIRECTORY | MODE_CHANGED;
    assert!(with(flags, &|row| row.agreed = 0o7777).is_ok());
    assert_eq!(refused(with(flags, &|row| row.agreed = 0o10000)), Some(("a mode", 0o7777)));
    assert!(with(SYMLINK, &|row| row.nanos = 999_999_999).is_ok());
    let nanos = with(SYMLINK, &|row| row.nanos = 1_000_000_000);
    assert_eq!(refused(nanos), Some(("nanoseconds", 999_999_999)));
    assert!(with(FILE, &|row| row.size = NUMBER_MAX).is_ok());
    let size = with(FILE, &|row| row.size = NUMBER_MAX + 1);
    assert_eq!(refused(size), Some(("a file's size", NUMBER_MAX)));
    assert!(with(SYMLINK, &|row| row.target = vec![b'x'; 4095]).is_ok());
    let target = with(SYMLINK, &|row| row.target = vec![b'x'; 4096]);
    assert_eq!(refused(target), Some(("a symlink's target", 4095)));
    assert!(with(DELETED | EXTENDED, &|row| row.extension = vec![0; 64 << 10]).is_ok());
    let extension = with(DELETED | EXTENDED, &|row| row.extension = vec![0; (64 << 10) + 1]);
    assert_eq!(refused(extension), Some(("a row's extensions", 64 << 10)));
    let empty = with(SYMLINK, &|row| row.target = Vec::new());
    assert_eq!(empty, Err(DecodeError::Invalid("a symlink's target")));
    let zero = with(SYMLINK, &|row| row.target = b"a\0b".to_vec());
    assert_eq!(zero, Err(DecodeError::Invalid("a symlink's target")));
    let unknown = with(0x40 | FILE, &|_| {});
    assert_eq!(unknown, Err(DecodeError::Invalid("a row's flags")));
    for kind in [DELETED, SYMLINK] {
        let modeless = with(kind | MODE_CHANGED, &|_| {});
        assert_eq!(modeless, Err(DecodeError::Invalid("a row's flags")), "it has no mode");
    }
}

#[test]
fn paths_keep_their_limits() {
    let path = |bytes: Vec<u8>| {
        let row = RawRow { path: bytes, ..row(DELETED, "") };
        read(&raw::batch(&[row])).map(drop)
    };
    let deep = |depth: usize| "a/".repeat(depth).as_bytes()[..2 * depth - 1].to_vec();
    let long = |length: usize| {
        let mut bytes = [vec![b'x'; 255], vec![b'/']].concat().repeat(17);
        bytes.truncate(length);
        bytes
    };
    assert_eq!(path(vec![b'x'; 255]), Ok(()));
    assert_eq!(path(vec![b'x'; 256]), Err(DecodeError::Path(PathError::NameTooLong)));
    assert_eq!(path(deep(256)), Ok(()));
    assert_eq!(path(deep(257)), Err(DecodeError::Path(PathError::TooDeep)));
    assert_eq!(path(long(4095)), Ok(()));
    assert_eq!(refused(path(long(4097))), Some(("a path's length", 4096)));
    let mut most = long(4094);
    most.extend(b"/y");
    most[4093] = b'x';
    assert_eq!(path(most.clone()), Ok(()), "4096 bytes");
    // One more by way of a shared prefix.
    let first = RawRow { path: most, ..row(DELETED, "") };
    let second = RawRow { shared: 4096, path: b"z".to_vec(), ..row(DELETED, "") };
    let error = read(&raw::batch(&[first, second])).map(drop);
    assert_eq!(error, Err(DecodeError::Path(PathError::TooLong)));
    for (bytes, error) in [
        (b"".as_slice(), PathError::Empty),
        (b"../a", PathError::Dots),
        (b"/a", PathError::EmptyName),
        (b".psync/index", PathError::State),
        (b"a\0", PathError::Zero),
    ] {
        assert_eq!(path(bytes.to_vec()), Err(DecodeError::Path(error)));
    }
}

#[test]
fn a_batch_keeps_its_limits() {
    let rows = |count: usize| -> Vec<RawRow> {
        (0..count).map(|n| row(DELETED, &format!("{n:06}"))).collect()
    };
    assert_eq!(read(&raw::batch(&rows(BATCH_ROWS))).unwrap().len(), BATCH_ROWS);
    let error = read(&raw::batch(&rows(BATCH_ROWS + 1)));
    assert_eq!(refused(error), Some(("a count of rows", BATCH_ROWS as u64)));

    let replicas = |count: usize| {
        let mut out = Vec::new();
        out.put_varint(count as u64);
        (0..count).for_each(|n| {
            out.push(2);
            out.put_raw(&(n as u128).to_be_bytes());
        });
        out.put_raw(&[1, 0, 0, 0]);
        raw::batch_with(&out, &rows(1))
    };
    assert!(read(&replicas(4096)).is_ok());
    assert_eq!(refused(read(&replicas(4097))), Some(("a count of replicas", 4096)));

    let vectors = |count: usize| {
        let mut out = vec![0];
        out.put_varint(count as u64);
        out.resize(out.len() + count, 0);
        out.put_raw(&[0, 0]);
        raw::batch_with(&out, &rows(1))
    };
    assert!(read(&vectors(2 * BATCH_ROWS)).is_ok());
    assert_eq!(refused(read(&vectors(2 * BATCH_ROWS + 1))), Some(("a count of versions", 8192)));

    let pairs = |count: usize| {
        let mut out = vec![1, 2];
        out.put_raw(&[7; 16]);
        out.put_varint(1);
        out.put_varint(count as u64);
        (0..count).for_each(|_| out.put_raw(&[0, 1]));
        out.put_raw(&[0, 0]);
        raw::batch_with(&out, &rows(1))
    };
    assert!(read(&pairs(4096)).is_ok());
    assert_eq!(refused(read(&pairs(4097))), Some(("a version's length", 4096)));
}

/// A varint field somewhere in a payload: what stands before it, what after it, and its limit.
struct Field {
    type_byte: u8,
    before: Vec<u8>,
    after: Vec<u8>,
    what: &'static str,
    limit: u64,
}

fn field(type_byte: u8, before: &[u8], after: &[u8], what: &'static str, limit: u64) -> Field {
    Field { type_byte, before: before.to_vec(), after: after.to_vec(), what, limit }
}

#[test]
fn numbers_and_lengths_in_messages_keep_their_limits() {
    // Whom the initiator expects, who wants rows.
    let restate = [&[1, 0, 0, 6][..], &[0x44; 16]].concat();
    let fields = [
        field(2, &restate, &[], "a sequence number", NUMBER_MAX),
        field(3, &[], &[&[1, 1][..], &[0; 8]].concat(), "a sequence number", NUMBER_MAX),
        field(3, &[1], &[&[1][..], &[0; 8]].concat(), "a count of entries", NUMBER_MAX),
        field(3, &[1, 1, 2], &[], "a sequence number", NUMBER_MAX),
        field(6, &[], &[0, 0], "the planner's counter", NUMBER_MAX),
        field(6, &[0], &[0], "a count of rows", ENTRIES_MAX as u64),
        field(7, &[0, 1], &[64, 3, 0], "an old file's length", NUMBER_MAX),
        field(7, &[0, 1, 0], &[3, 0], "a block's length", u32::MAX.into()),
        field(7, &[0, 1, 0, 64, 3], &[], "a signature's length", SIGNATURE_MAX),
        field(11, &[1, 1, 0], &[0xfd], "a count of fresh bytes", FRESH_MAX.into()),
        field(14, &[], &[0], "a sequence number", NUMBER_MAX),
    ];
    for Field { type_byte, before, after, what, limit } in fields {
        let payload = |value: u64| {
            let mut out = before.clone();
            out.put_varint(value);
            out.put_raw(&after);
            out
        };
        assert!(decode(type_byte, &payload(limit)).is_ok(), "{type_byte} {what}");
        assert_eq!(
            refused(decode(type_byte, &payload(limit + 1))),
            Some((what, limit)),
            "{type_byte}"
        );
    }
}

#[test]
fn counts_in_messages_keep_their_limits() {
    let hello = |filters: usize, places: usize| {
        let filter = Filter { include: true, pattern: "x".into() };
        let message = Hello { filters: vec![filter; filters], places: vec![0; places], ..hello() };
        decode(1, &Message::Hello(message).encode())
    };
    assert!(hello(10_000, 256).is_ok());
    assert_eq!(refused(hello(10_001, 0)), Some(("a count of filters", 10_000)));
    assert_eq!(refused(hello(0, 257)), Some(("a count of places", 256)));

    let pieces = |count: usize| {
        let mut out = vec![0];
        out.put_varint(count as u64);
        (0..count).for_each(|_| out.put_raw(&[1, 2, 0]));
        decode(11, &out)
    };
    assert!(pieces(PIECES_MAX).is_ok());
    assert_eq!(refused(pieces(PIECES_MAX + 1)), Some(("a count of pieces", PIECES_MAX as u64)));

    let failures = |count: u64| {
        let mut out = vec![0];
        out.put_varint(count);
        decode(14, &out)
    };
    assert_eq!(refused(failures(10_000_001)), Some(("a count of failures", 10_000_000)));
    assert_eq!(failures(10_000_000), Err(DecodeError::Truncated("a count of failures")));

    let marks = |runs: &[u64]| {
        let mut out = vec![0, 0];
        out.put_varint(runs.len() as u64);
        for run in runs {
            out.put_varint(1);
            out.put_varint(*run);
        }
        decode(5, &out)
    };
    let most = psync_protocol::message::MARKS_MAX as u64;
    assert!(marks(&[most]).is_ok());
    assert_eq!(refused(marks(&[most + 1])), Some(("a run of marks", most)));
    assert_eq!(refused(marks(&[most, 1])), Some(("a run of marks", 0)));
    assert_eq!(marks(&[3, 0]), Err(DecodeError::Invalid("a run of marks")));
}

#[test]
fn bytes_and_texts_in_messages_keep_their_limits() {
    for (type_byte, what) in [(8, "a piece of a signature"), (10, "a literal")] {
        assert!(decode(type_byte, &vec![0; CHUNK_MAX]).is_ok());
        let error = decode(type_byte, &vec![0; CHUNK_MAX + 1]);
        assert_eq!(refused(error), Some((what, CHUNK_MAX as u64)));
        assert_eq!(decode(type_byte, &[]), Err(DecodeError::Truncated(what)));
    }
    let long = |before: &[u8], length: usize| {
        let mut out = before.to_vec();
        out.put_bytes(&vec![b'x'; length]);
        out
    };
    for (type_byte, before, what) in [
        (17, &[0][..], "an error's text"),
        (13, &[0, 0], "a failure's text"),
        (15, &[0, 0], "a problem's text"),
    ] {
        assert!(decode(type_byte, &long(before, TEXT_MAX)).is_ok());
        let error = decode(type_byte, &long(before, TEXT_MAX + 1));
        assert_eq!(refused(error), Some((what, TEXT_MAX as u64)));
    }
    let path = |length| [long(&[0], length), vec![0]].concat();
    assert!(decode(15, &path(4352)).is_ok());
    assert_eq!(refused(decode(15, &path(4353))), Some(("a problem's path", 4352)));
    let filter = |length: usize| {
        let filter = Filter { include: false, pattern: "x".repeat(length) };
        decode(1, &Message::Hello(Hello { filters: vec![filter], ..hello() }).encode())
    };
    assert!(filter(TEXT_MAX).is_ok());
    // A filter that is cut would be another filter.
    assert_eq!(refused(filter(TEXT_MAX + 1)), Some(("a filter", TEXT_MAX as u64)));
}

#[test]
fn a_text_for_people_is_cut_between_two_characters_before_it_is_sent() {
    let message = Message::Error { code: ErrorCode::Io, text: format!("x{}", "é".repeat(5000)) };
    let Ok(Message::Error { text, .. }) = Message::decode(17, &message.encode()) else {
        panic!("it is an error");
    };
    assert_eq!(text, format!("x{}", "é".repeat(2047)));
    let mut problem = samples::problem();
    problem.path = vec![b'x'; 9000];
    let Ok(Message::Problem(problem)) = Message::decode(15, &Message::Problem(problem).encode())
    else {
        panic!("it is a problem");
    };
    assert_eq!(problem.path.len(), 4352);
}

#[test]
fn a_frame_of_one_mebibyte_is_taken_and_a_longer_one_refused_at_its_first_bytes() {
    let start = FrameEncoder::only(&Message::Hello(hello()));
    let greeted = || {
        let mut decoder = FrameDecoder::new();
        decoder.feed(&start);
        decoder.message().unwrap().unwrap();
        decoder
    };
    let mut decoder = greeted();
    let mut frame = Vec::new();
    frame.put_varint(FRAME_MAX as u64);
    frame.push(4);
    frame.resize(frame.len() + FRAME_MAX, 0);
    decoder.feed(&frame);
    assert_eq!(decoder.message(), Ok(Some(Message::Rows(vec![0; FRAME_MAX]))));

    let mut decoder = greeted();
    let mut length = Vec::new();
    length.put_varint(FRAME_MAX as u64 + 1);
    decoder.feed(&length);
    let Err(ProtocolError::Decode { message: "frame", error }) = decoder.message() else {
        panic!("the length is known and too large");
    };
    let limit = FRAME_MAX as u64;
    assert_eq!(error, DecodeError::TooLarge { what: "a frame's length", value: limit + 1, limit });
    assert!(decoder.held() < 1000, "nothing is allocated for it");
}

#[test]
fn a_message_that_no_frame_can_hold_is_not_sent() {
    let codec = psync_protocol::message::StreamCodec::Raw;
    let mut encoder = FrameEncoder::start(&Message::Hello(hello()), codec, 3).unwrap();
    let before = encoder.ready();
    assert!(encoder.push(&Message::Rows(vec![0; FRAME_MAX + 1])).is_err());
    assert_eq!(encoder.ready(), before);
    let filters = vec![Filter { include: true, pattern: "x".repeat(4000) }; 300];
    let hello = Message::Hello(Hello { filters, ..hello() });
    assert!(FrameEncoder::start(&hello, codec, 3).is_err());
}

#[test]
fn the_last_word_names_every_failure_and_shortens_what_it_says_of_them() {
    let mut failure = samples::failure(0);
    failure.text = "No space left on device. ".repeat(10);
    let failures: Vec<_> = (0..50_000)
        .map(|index| psync_protocol::message::Failure { index, ..failure.clone() })
        .collect();
    let done = psync_protocol::message::Done { sequence: 1, failures };
    let payload = Message::Done(done).encode();
    assert!(payload.len() <= FRAME_MAX);
    let Ok(Message::Done(done)) = Message::decode(14, &payload) else { panic!("it is Done") };
    assert_eq!(done.failures.len(), 50_000);
    assert!(done.failures.iter().enumerate().all(|(at, failure)| failure.index == at as u64));
    assert!(done.failures[0].text.starts_with("No"));
}

#[test]
fn counters_stay_within_what_an_index_can_hold() {
    let version = |counter: u64| {
        let mut out = vec![1, 2];
        out.put_raw(&[7; 16]);
        out.put_raw(&[1, 1, 0]);
        out.put_varint(counter);
        out.put_raw(&[0, 0]);
        read(&raw::batch_with(&out, &[row(FILE, "a")]))
    };
    let rows = version(NUMBER_MAX).unwrap();
    assert_eq!(rows[0].content_version.counter(ReplicaId([7; 16])), NUMBER_MAX);
    assert_eq!(refused(version(NUMBER_MAX + 1)), Some(("a counter", NUMBER_MAX)));
}

#[test]
fn what_is_left_over_after_the_last_field_is_refused_except_in_greetings() {
    for message in one_of_each() {
        let mut payload = message.encode();
        payload.push(0);
        let result = decode(message.type_byte(), &payload);
        match message {
            Message::Hello(_) | Message::Welcome(_) => assert_eq!(result, Ok(message)),
            // These take all bytes that there are; what follows is seen by whoever reads them.
            Message::Rows(_)
            | Message::Changes(_)
            | Message::Plan(_)
            | Message::Literal(_)
            | Message::Signature(_)
            | Message::Delta(_)
            | Message::Segment(_)
            | Message::Unresolved(_)
            | Message::Patches(_) => assert!(result.is_ok()),
            _ => {
                assert_eq!(result, Err(DecodeError::Trailing(1, "a message")), "{}", message.name())
            }
        }
    }
    let mut batch = samples::batch();
    batch.push(0);
    assert_eq!(read(&batch), Err(DecodeError::Trailing(1, "rows")));
}

#[test]
fn a_content_is_wanted_as_a_delta_at_most_eight_times() {
    let want = |kind: u8| decode(7, &[0, kind, 0, 64, 3, 0]);
    assert!(want(1).is_ok() && want(8).is_ok());
    assert_eq!(want(13), Err(DecodeError::Invalid("a want's kind")));
}

#[test]
fn what_is_counted_are_runs_that_ascend_and_do_not_touch() {
    let counted = |runs: &[u8]| decode(32, &[runs, &[0; 7]].concat()).map(drop);
    assert!(counted(&[0]).is_ok() && counted(&[2, 0, 1, 1, 5]).is_ok());
    let wrong = Err(DecodeError::Invalid("a run of paths"));
    assert_eq!(counted(&[1, 0, 0]), wrong, "an empty run");
    assert_eq!(counted(&[2, 0, 1, 0, 1]), wrong, "two runs that are one");
    let mut far = vec![2];
    far.put_varint(NUMBER_MAX);
    far.put_raw(&[1, 1, 1]);
    assert_eq!(counted(&far), wrong, "beyond every number");
    let mut many = Vec::new();
    many.put_varint(65_537);
    many.resize(many.len() + 2 * 65_537, 1);
    assert_eq!(refused(counted(&many)), Some(("a count of runs", 65_536)));
}

#[test]
fn a_hash_is_exactly_32_bytes() {
    assert_eq!(decode(12, &[1; 32]), Ok(Message::FileEnd(Some(ContentHash([1; 32])))));
    assert_eq!(decode(12, &[1; 31]), Err(DecodeError::Truncated("a hash")));
}
