//! Moved directories: what one message stands for, worked out a second time from SPEC.md alone, and
//! where such a message may not come.

use psync_protocol::codec::{NUMBER_MAX, Put};
use psync_protocol::error::DecodeError;
use psync_protocol::message::{
    Coverage, MOVED_MAX, Mark, Message, Moved, Statement, Verdict, Welcome,
};
use psync_protocol::path::PathError;
use psync_protocol::session::{
    AnswerStep, AwaitingHello, AwaitingStatement, Opening, Stated, StatementStep,
};
use psync_protocol::{
    Content, ContentHash, Props, ProtocolError, RelPath, ReplicaId, Row, Time, Version,
};

use crate::samples::Sealed;
use crate::samples::{
    self, ALICE, BOB, directory, file, hello, path, stated, statement, symlink, welcome,
};

/// What Bob has in the directory that Alice has moved.
pub(crate) fn pictures() -> Vec<Row<ContentHash>> {
    let mut rows = vec![
        directory("pics", BOB),
        symlink("pics/best", b"b.jpg", BOB),
        file("pics/b.jpg", b"one\n", BOB, 300),
        file("pics/none", b"", ALICE, 2),
    ];
    rows[2].content_version = samples::version(&[(ALICE, 1), (BOB, 300)]);
    rows.sort_by(|a, b| a.path.cmp(&b.path));
    rows
}

/// Alice's message about it.
pub(crate) fn moved() -> Moved {
    let (from, to) = (path("pics"), path("old/pictures"));
    let rows = rows_of(&from, &to, 7, ALICE, &pictures());
    Moved { from, to, counter: 7, except: Vec::new(), digest: digest(&rows) }
}

/// The rows that a move stands for, out of live rows of the directory.
pub(crate) fn rows_of(
    from: &RelPath,
    to: &RelPath,
    counter: u64,
    author: ReplicaId,
    own: &[Row<ContentHash>],
) -> Vec<Row<ContentHash>> {
    let target = |row: &Row<ContentHash>| {
        let below = &row.path.as_bytes()[from.as_bytes().len()..];
        RelPath::new(&[to.as_bytes(), below].concat()).unwrap()
    };
    let tombstone = |row: &Row<ContentHash>| {
        let is_file = matches!(row.content, Content::File { size, .. } if size > 0);
        Row {
            content: Content::Deleted { moved_to: is_file.then(|| target(row)) },
            base: row.content.fingerprint(),
            props: Props { mode: 0, mtime: Time { secs: 0, nanos: 0 } },
            agreed_mode: 0,
            content_version: row.content_version.bump(author, counter),
            ..row.clone()
        }
    };
    let new = |row: &Row<ContentHash>| Row {
        path: target(row),
        base: None,
        agreed_mode: row.props.mode,
        content_version: Version::from_pairs(vec![(author, counter.max(1))]),
        props_version: Version::from_pairs(vec![(author, counter.max(1))]),
        ..row.clone()
    };
    own.iter().map(tombstone).chain(own.iter().map(new)).collect()
}

/// What the digest is made of.
pub(crate) fn digest_input(rows: &[Row<ContentHash>]) -> Vec<u8> {
    let mut all = Vec::new();
    for row in rows {
        let mut out = Vec::new();
        out.put_bytes(row.path.as_bytes());
        match &row.content {
            Content::Deleted { moved_to: None } => out.put_raw(&[0, 0]),
            Content::Deleted { moved_to: Some(target) } => {
                out.put_raw(&[0]);
                out.put_bytes(target.as_bytes());
            }
            Content::Directory => out.put_raw(&[1]),
            Content::File { size, hash } => {
                out.put_raw(&[2]);
                out.put_varint(*size);
                out.put_raw(&hash.0);
            }
            Content::Symlink { target, .. } => {
                out.put_raw(&[3]);
                out.put_bytes(target);
            }
        }
        out.put_raw(&row.base.unwrap_or(ContentHash([0; 32])).0);
        out.put_varint(row.props.mode.into());
        out.put_signed(row.props.mtime.secs);
        out.put_varint(row.props.mtime.nanos.into());
        for version in [&row.content_version, &row.props_version] {
            out.put_varint(version.pairs().len() as u64);
            for (replica, counter) in version.pairs() {
                out.put_raw(&replica.0);
                out.put_varint(*counter);
            }
        }
        all.put_raw(&(out.len() as u64).to_le_bytes());
        all.put_raw(&out);
    }
    all
}

pub(crate) fn digest(rows: &[Row<ContentHash>]) -> [u8; 16] {
    let hash = blake3::derive_key("psync 2026-11 moved directory", &digest_input(rows));
    *hash.first_chunk().unwrap()
}

/// The rows of a whole statement of Alice; none where a move is not what Bob has.
pub(crate) fn unfold(stated: Stated) -> Option<Vec<Row<psync_protocol::Check>>> {
    let alice = Opening::new(&hello()).greeted();
    let mut rows = stated.rows;
    for moved in stated.moved {
        let below = |row: &Row<_>| row.path == moved.from || row.path.is_below(&moved.from);
        let own: Vec<_> = pictures().into_iter().filter(below).collect();
        let meant = rows_of(&moved.from, &moved.to, moved.counter, ALICE, &own);
        if digest(&meant) != moved.digest {
            return None;
        }
        rows.extend(samples::stated(&meant, alice.key()));
    }
    rows.sort_by(|a, b| a.path.cmp(&b.path));
    rows.is_sorted_by(|a, b| a.path < b.path).then_some(rows)
}

fn at(number: usize) -> Moved {
    let from = path(&format!("from{number:06}"));
    let to = path(&format!("to{number}"));
    Moved { from, to, counter: 7, except: Vec::new(), digest: [0x77; 16] }
}

/// A message with exceptions: its digest is any.
pub(crate) fn excepting(except: &[&str]) -> Moved {
    let except = except.iter().map(|name| path(name)).collect();
    Moved { except, digest: [0x77; 16], ..moved() }
}

fn between(from: &str, to: &str) -> Message {
    Message::Moved(Moved { from: path(from), to: path(to), ..at(0) })
}

fn stating(coverage: Coverage) -> AwaitingStatement {
    let (_, state) = AwaitingHello.receive(Message::Hello(hello())).unwrap();
    let statement = Statement { coverage, ..statement() };
    after(state, Message::Statement(statement)).unwrap()
}

fn after(state: AwaitingStatement, message: Message) -> Result<AwaitingStatement, ProtocolError> {
    match state.receive(message)? {
        StatementStep::More(state) => Ok(state),
        StatementStep::Turn(..) => panic!("the statement goes on"),
    }
}

const CHANGES: Coverage = Coverage::Changes { since: 299 };

#[test]
fn a_statement_names_at_most_ten_thousand_moved_directories() {
    let mut state = stating(CHANGES);
    for number in 0..10_000 {
        state = after(state, Message::Moved(at(number))).unwrap();
    }
    let error = after(state, Message::Moved(at(10_000))).unwrap_err();
    let what = "the count of moved directories";
    let error_of_count = DecodeError::TooLarge { what, value: 10_001, limit: 10_000 };
    assert_eq!(error, ProtocolError::Decode { message: "Moved", error: error_of_count });
}

#[test]
fn where_more_were_moved_or_everything_is_stated_the_rows_travel_one_by_one() {
    let count = |coverage, moves: usize| {
        let rows = stated(&[file("a", b"", ALICE, 1)], Opening::new(&hello()).greeted().key());
        let statement = Statement { coverage, ..statement() };
        let moved = (0..moves).map(at).collect();
        let stating = Opening::new(&hello()).greeted();
        let (messages, _) = stating.state_folded(statement, rows, &[], moved);
        let named = |name| messages.iter().filter(|message| message.name() == name).count();
        (named("Rows"), named("Moved"))
    };
    assert_eq!(count(CHANGES, MOVED_MAX), (0, MOVED_MAX));
    assert_eq!(count(CHANGES, MOVED_MAX + 1), (1, 0));
    assert_eq!(count(Coverage::Everything, 1), (1, 0));
}

#[test]
fn a_moved_directory_comes_after_all_rows_and_only_where_changes_are_stated() {
    let moved = Message::Moved(moved());
    let refused = |state: AwaitingStatement, message: Message| {
        let name = message.name();
        match after(state, message).unwrap_err() {
            ProtocolError::Unexpected { got, .. } => assert_eq!(got, name),
            other => panic!("{other}"),
        }
    };
    let (_, start) = AwaitingHello.receive(Message::Hello(hello())).unwrap();
    refused(start, moved.clone());
    refused(stating(Coverage::Everything), moved.clone());
    let state = after(stating(CHANGES), Message::Rows(samples::batch())).unwrap();
    refused(after(state, moved).unwrap(), Message::Rows(samples::batch()));
}

#[test]
fn no_directory_is_moved_twice_or_out_of_another_that_was_moved() {
    let second = |first: &str, from: &str| {
        let state = after(stating(CHANGES), between(first, "x")).unwrap();
        after(state, between(from, "y")).map(drop)
    };
    assert_eq!(second("a", "a-b"), Ok(()));
    assert_eq!(second("a", "ab"), Ok(()));
    for (first, from) in [("a", "a"), ("b", "a"), ("a/b", "a")] {
        let error = ProtocolError::Contradiction("moved directories are not in order");
        assert_eq!(second(first, from), Err(error), "{first} {from}");
    }
    let state = after(stating(CHANGES), between("a", "x")).unwrap();
    let state = after(state, between("a-b", "y")).unwrap();
    let error = after(state, between("a/b/c", "z")).map(drop);
    assert_eq!(error, Err(ProtocolError::Contradiction("a moved directory lies in another")));
}

#[test]
fn every_row_that_a_move_stands_for_wants_its_mark() {
    let told = vec![file("a.txt", b"one", ALICE, 1)];
    let folded = rows_of(&path("pics"), &path("old/pictures"), 7, ALICE, &pictures());
    let mut rows = [told.clone(), folded].concat();
    rows.sort_by(|a, b| a.path.cmp(&b.path));
    let answer_of = |marks: usize| {
        let alice = Opening::new(&hello()).greeted();
        let (rows, told) = (stated(&rows, alice.key()), stated(&told, alice.key()));
        let (_, mut state) = alice.state_folded(statement(), rows, &told, vec![moved()]);
        let answer = [
            Message::Welcome(welcome()),
            Message::Statement(statement()),
            Message::Marks(vec![Mark::Behind; marks]),
        ];
        for message in answer {
            state = match state.receive(message)? {
                AnswerStep::More(state) => state,
                _ => panic!("the answer goes on"),
            };
        }
        match state.sealed().receive(Message::End)? {
            AnswerStep::Turn(mut deciding) => deciding.paths(),
            _ => panic!("the answer is over"),
        }
    };
    assert_eq!(answer_of(9).unwrap().len(), 9);
    assert_eq!(answer_of(1).unwrap_err(), ProtocolError::Contradiction("an answer is incomplete"));
    let error = ProtocolError::Contradiction("there is not one mark for each row");
    assert_eq!(answer_of(10).unwrap_err(), error);
}

#[test]
fn a_restatement_holds_rows_and_no_moved_directory() {
    let alice = Opening::new(&hello()).greeted();
    let rows = rows_of(&path("pics"), &path("old/pictures"), 7, ALICE, &pictures());
    let mut rows = stated(&rows, alice.key());
    rows.sort_by(|a, b| a.path.cmp(&b.path));
    let (messages, mut state) = alice.state_folded(statement(), rows.clone(), &[], vec![moved()]);
    let names: Vec<&str> = messages.iter().map(Message::name).collect();
    assert_eq!(names, ["Statement", "Moved", "End"]);
    let verdict = Verdict::Restate { since: 299, first_contact: false };
    let answer =
        [Message::Welcome(Welcome { verdict, ..welcome() }), Message::Statement(statement())];
    for message in answer {
        let AnswerStep::More(next) = state.receive(message).unwrap() else { panic!() };
        state = next;
    }
    let AnswerStep::Turn(deciding) = state.sealed().receive(Message::End).unwrap() else {
        panic!()
    };
    let (messages, _) = deciding.restate(statement(), rows);
    let names: Vec<&str> = messages.iter().map(Message::name).collect();
    assert_eq!(names, ["Statement", "Rows", "End"]);
}

#[test]
fn the_digest_tells_apart_whatever_the_two_ends_may_see_differently() {
    let of = |own: &[Row<ContentHash>]| {
        digest(&rows_of(&path("pics"), &path("old/pictures"), 7, ALICE, own))
    };
    let meant = of(&pictures());
    assert_eq!(meant, moved().digest);
    for at in 0..pictures().len() {
        let mut fewer = pictures();
        fewer.remove(at);
        assert_ne!(of(&fewer), meant, "an entry is missing");
        let mut version = pictures();
        version[at].content_version = version[at].content_version.bump(BOB, 999);
        assert_ne!(of(&version), meant);
        let mut version = pictures();
        version[at].props_version = version[at].props_version.bump(BOB, 999);
        assert_ne!(of(&version), meant);
        let mut mode = pictures();
        mode[at].props.mode ^= 0o100;
        assert_ne!(of(&mode), meant);
        let mut time = pictures();
        time[at].props.mtime.secs += 1;
        assert_ne!(of(&time), meant);
        let mut time = pictures();
        time[at].props.mtime.nanos ^= 1;
        assert_ne!(of(&time), meant);
        let mut content = pictures();
        content[at].content = symlink("x", b"elsewhere", BOB).content;
        assert_ne!(of(&content), meant);
        let mut content = pictures();
        content[at].content = file("x", b"two\n", BOB, 1).content;
        assert_ne!(of(&content), meant);
    }
    let mut more = pictures();
    more.push(file("pics/z", b"", BOB, 1));
    assert_ne!(of(&more), meant, "an entry more");
    let elsewhere = rows_of(&path("pics"), &path("old/pix"), 7, ALICE, &pictures());
    assert_ne!(digest(&elsewhere), meant);
    let later = rows_of(&path("pics"), &path("old/pictures"), 8, ALICE, &pictures());
    assert_ne!(digest(&later), meant);
    let by_bob = rows_of(&path("pics"), &path("old/pictures"), 7, BOB, &pictures());
    assert_ne!(digest(&by_bob), meant);
}

fn payload(from: &[u8], to: &[u8], counter: u64) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_bytes(from);
    out.put_bytes(to);
    out.put_varint(counter);
    out.put_varint(0);
    out.put_raw(&[0x77; 16]);
    out
}

fn decode(payload: &[u8]) -> Result<(), DecodeError> {
    match Message::decode(19, payload) {
        Ok(_) => Ok(()),
        Err(ProtocolError::Decode { message: "Moved", error }) => Err(error),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_moved_message_that_is_cut_or_lies_is_refused() {
    let whole = Message::Moved(excepting(&["a", "b/c", "b/d"])).encode();
    for length in 0..whole.len() {
        assert!(matches!(decode(&whole[..length]), Err(DecodeError::Truncated(_))), "{length}");
    }
    assert_eq!(decode(&[&whole[..], &[0]].concat()), Err(DecodeError::Trailing(1, "a message")));
    for (bytes, error) in [
        (b"".as_slice(), PathError::Empty),
        (b"../a", PathError::Dots),
        (b"/a", PathError::EmptyName),
        (b".psync", PathError::State),
        (b"a\0", PathError::Zero),
    ] {
        assert_eq!(decode(&payload(bytes, b"to", 7)), Err(DecodeError::Path(error)));
        assert_eq!(decode(&payload(b"from", bytes, 7)), Err(DecodeError::Path(error)));
    }
    for (from, to) in [("a", "a"), ("a", "a/b"), ("a/b/c", "a")] {
        let error = decode(&payload(from.as_bytes(), to.as_bytes(), 7));
        assert_eq!(error, Err(DecodeError::Invalid("a moved directory")), "{from} {to}");
    }
    assert_eq!(decode(&payload(b"a", b"ab", 0)), Ok(()));
}

#[test]
fn a_moved_message_keeps_its_limits() {
    let long = [vec![b'x'; 255], vec![b'/']].concat().repeat(16);
    let (most, above) = (&long[..4095], vec![b'x'; 4097]);
    assert_eq!(decode(&payload(most, b"to", NUMBER_MAX)), Ok(()));
    assert_eq!(decode(&payload(b"from", most, NUMBER_MAX)), Ok(()));
    let what = "a moved directory";
    let error = DecodeError::TooLarge { what, value: 4097, limit: 4096 };
    assert_eq!(decode(&payload(&above, b"to", 7)), Err(error.clone()));
    assert_eq!(decode(&payload(b"from", &above, 7)), Err(error));
    let (what, value) = ("a counter", NUMBER_MAX + 1);
    let error = DecodeError::TooLarge { what, value, limit: NUMBER_MAX };
    assert_eq!(decode(&payload(b"from", b"to", value)), Err(error));
}

/// The payload of a message with these exceptions, each as a count of shared bytes and the rest.
fn payload_with(except: &[(u64, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_bytes(b"from");
    out.put_bytes(b"to");
    out.put_varint(7);
    out.put_varint(except.len() as u64);
    for (shared, rest) in except {
        out.put_varint(*shared);
        out.put_bytes(rest);
    }
    out.put_raw(&[0x77; 16]);
    out
}

#[test]
fn exceptions_ascend_and_are_valid_paths() {
    assert_eq!(decode(&payload_with(&[(0, b"a/b"), (2, b"c"), (0, b"d")])), Ok(()));
    let order = Err(DecodeError::Invalid("the order of the exceptions"));
    assert_eq!(decode(&payload_with(&[(0, b"a"), (1, b"")])), order);
    assert_eq!(decode(&payload_with(&[(0, b"b"), (0, b"a")])), order);
    for (bytes, error) in [
        (b"".as_slice(), PathError::Empty),
        (b"../a", PathError::Dots),
        (b"/a", PathError::EmptyName),
        (b"a/.psync", PathError::State),
    ] {
        assert_eq!(decode(&payload_with(&[(0, bytes)])), Err(DecodeError::Path(error)));
    }
    let (what, value, limit) = ("a shared beginning", 2, 1);
    let error = DecodeError::TooLarge { what, value, limit };
    assert_eq!(decode(&payload_with(&[(0, b"a"), (2, b"b")])), Err(error));
}

#[test]
fn exceptions_keep_their_limits() {
    let count = |count: u64| {
        let mut out = payload_with(&[]);
        out.truncate(9);
        out.put_varint(count);
        // Of each at least two bytes must be there, before anything is allocated.
        out.extend_from_slice(&[0; 8192]);
        decode(&out)
    };
    let (what, value, limit) = ("a count of exceptions", 4097, 4096);
    assert_eq!(count(4097), Err(DecodeError::TooLarge { what, value, limit }));
    let long = [vec![b'x'; 255], vec![b'/']].concat().repeat(15);
    // Few bytes on the line, many in memory: each begins as the one before.
    let name = |number: usize| format!("{number:06}").into_bytes();
    let first = [long.clone(), name(0)].concat();
    let rests: Vec<Vec<u8>> = (1..80).map(name).collect();
    let more = rests.iter().map(|rest| (long.len() as u64, rest.as_slice()));
    let except: Vec<(u64, &[u8])> = [(0, first.as_slice())].into_iter().chain(more).collect();
    let what = "the length of all exceptions";
    let error = decode(&payload_with(&except));
    assert!(matches!(error, Err(DecodeError::TooLarge { what: w, .. }) if w == what), "{error:?}");
    assert_eq!(decode(&payload_with(&except[..60])), Ok(()));
}

#[test]
fn the_exceptions_of_a_whole_statement_are_limited() {
    let except: Vec<RelPath> = (0..66)
        .map(|number| path(&format!("{}{number:03}", "x/".repeat(250) + &"y/".repeat(2))))
        .map(|dir| RelPath::new(&[dir.as_bytes(), b"/", &[b'z'; 255]].concat()).unwrap())
        .collect();
    let bytes: usize = except.iter().map(|path| path.as_bytes().len()).sum();
    let mut state = stating(CHANGES);
    let fit = (64 << 20) / bytes;
    for number in 0..fit {
        let moved = Moved { except: except.clone(), ..at(number) };
        state = after(state, Message::Moved(moved)).unwrap();
    }
    let moved = Moved { except, ..at(fit) };
    let error = after(state, Message::Moved(moved)).unwrap_err();
    let what = "the length of all exceptions of a statement";
    let value = ((fit + 1) * bytes) as u64;
    let error_of_length = DecodeError::TooLarge { what, value, limit: 64 << 20 };
    assert_eq!(error, ProtocolError::Decode { message: "Moved", error: error_of_length });
}
