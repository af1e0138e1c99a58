//! Builds of different age: what a newer one may add without being refused, and how two that have no
//! version in common part.

use std::collections::BTreeSet;

use psync_protocol::manifest::ManifestReader;
use psync_protocol::message::{Hello, Message, Verdict, Welcome};
use psync_protocol::session::{AwaitingHello, Opening, common_version};
use psync_protocol::{CheckKey, ErrorCode, ProtocolError, VERSION_MAX};

use crate::raw::{self, DELETED, EXTENDED, FILE, MODE_CHANGED, SYMLINK, row};
use crate::samples::Sealed;
use crate::samples::{ALICE, file, hello, one_of_each, statement, welcome};

#[test]
fn the_greeting_of_a_newer_build_is_taken_and_version_1_chosen() {
    let newer = Hello { version_max: 7, features: u64::MAX, ..hello() };
    let mut payload = Message::Hello(newer.clone()).encode();
    payload.extend(b"fields of a later version");
    let message = Message::decode(1, &payload).unwrap();
    assert_eq!(message, Message::Hello(newer));
    let (hello, _) = AwaitingHello.receive(message).unwrap();
    assert_eq!(common_version(&hello), 1);
}

#[test]
fn the_greeting_of_a_newer_responder_is_taken() {
    let newer = Welcome { features: u64::MAX, ..welcome() };
    let mut payload = Message::Welcome(newer.clone()).encode();
    payload.extend(b"fields of a later version");
    assert_eq!(Message::decode(2, &payload).unwrap(), Message::Welcome(newer));
}

#[test]
fn ranges_without_overlap_are_both_named() {
    for (min, max) in [(2, 7), (0, 0), (u64::MAX, u64::MAX), (1, 0)] {
        // Nothing but the range can be read in the greeting of such a build.
        let mut payload =
            Message::Hello(Hello { version_min: min, version_max: max, ..hello() }).encode();
        let after_the_features = payload.len() - Message::Hello(hello()).encode().len() + 3;
        payload.truncate(after_the_features);
        payload.extend(b"\xff\xff something else altogether");
        let message = Message::decode(1, &payload).unwrap();
        let error = AwaitingHello.receive(message).unwrap_err();
        let expected = ProtocolError::Incompatible {
            ours_min: 1,
            ours_max: VERSION_MAX,
            theirs_min: min,
            theirs_max: max,
        };
        assert_eq!(error, expected);
    }
}

#[test]
fn a_responder_that_chose_an_unknown_version_is_refused() {
    let (_, state) = Opening::new(&hello()).greeted().state(statement(), Vec::new());
    let error = state.receive(Message::Welcome(Welcome { version: 2, ..welcome() })).unwrap_err();
    let expected =
        ProtocolError::Incompatible { ours_min: 1, ours_max: 1, theirs_min: 2, theirs_max: 2 };
    assert_eq!(error, expected);
}

#[test]
fn a_responder_that_gives_up_instead_of_greeting_is_heard() {
    let (_, state) = Opening::new(&hello()).greeted().state(statement(), Vec::new());
    let text = "too old\n\u{1b}[2J".to_string();
    let error = state.receive(Message::Error { code: ErrorCode::Incompatible, text }).unwrap_err();
    let text = "too old\\n\\u{1b}[2J".to_string();
    assert_eq!(error, ProtocolError::Peer { code: ErrorCode::Incompatible, text });
}

#[test]
fn extensions_of_rows_are_passed_over() {
    let rows = [
        row(FILE | EXTENDED | MODE_CHANGED, "a"),
        row(FILE, "b"),
        row(DELETED | EXTENDED, "c"),
        row(SYMLINK | EXTENDED, "d"),
    ];
    let plain = rows.clone().map(|mut row| {
        row.flags &= !EXTENDED;
        row
    });
    let read = |rows: &[raw::RawRow]| {
        let mut reader = ManifestReader::new(CheckKey::new(ALICE, &[0; 16]));
        reader.batch(&raw::batch(rows)).unwrap();
        reader.finish().unwrap()
    };
    assert_eq!(read(&rows), read(&plain));
}

#[test]
fn message_types_and_error_codes_have_numbers_of_their_own() {
    let types: BTreeSet<u8> = one_of_each().iter().map(Message::type_byte).collect();
    let listed: BTreeSet<u8> =
        psync_protocol::message::TYPES.iter().map(|(number, _)| *number).collect();
    assert_eq!(types, listed);
    assert_eq!(types.len(), psync_protocol::message::TYPES.len());
    let unused = (0..=u8::MAX).filter(|number| !listed.contains(number));
    for number in unused {
        assert!(Message::decode(number, &[]).is_err(), "{number}");
    }
    let numbers: BTreeSet<u64> = ErrorCode::ALL.iter().map(|code| code.number()).collect();
    assert_eq!(numbers.len(), ErrorCode::ALL.len());
    for code in ErrorCode::ALL {
        assert_eq!(ErrorCode::from_number(code.number()), *code);
        assert!(!code.describe().is_empty());
    }
    for number in [13, 99, u64::MAX] {
        assert_eq!(ErrorCode::from_number(number), ErrorCode::Other);
    }
}

#[test]
fn the_specification_lists_every_message_type_and_error_code() {
    let spec = include_str!("../../SPEC.md");
    let lists = |number: u64, text: &str| {
        let line = |line: &str| {
            let mut words = line.split_whitespace();
            line.starts_with("    ")
                && words.next() == Some(&number.to_string())
                && line.split_once(char::is_alphabetic).is_some()
                && line.trim_start_matches(|c: char| !c.is_alphabetic()).starts_with(text)
        };
        spec.lines().any(line)
    };
    for (number, name) in psync_protocol::message::TYPES {
        assert!(lists(u64::from(*number), name), "{name}");
        assert!(spec.contains(&format!("{name} ({number})")), "{name} has a section");
    }
    for code in ErrorCode::ALL {
        assert!(lists(code.number(), code.describe()), "{}", code.describe());
    }
}

#[test]
fn a_check_is_bound_to_an_end_and_to_a_session() {
    let row = file("a", b"text", ALICE, 1);
    let one = row.stated(&CheckKey::new(ALICE, &[1; 16]));
    assert_eq!(one, row.stated(&CheckKey::new(ALICE, &[1; 16])));
    assert_ne!(one.content, row.stated(&CheckKey::new(ALICE, &[2; 16])).content);
    assert_ne!(one.content, row.stated(&CheckKey::new(crate::samples::BOB, &[1; 16])).content);
}

#[test]
fn a_second_answer_is_an_answer_to_every_row() {
    use psync_protocol::session::AnswerStep;
    let verdict = Verdict::Restate { since: 0, first_contact: true };
    let (_, state) = Opening::new(&hello()).greeted().state(statement(), Vec::new());
    let demand = Message::Welcome(Welcome { verdict, ..welcome() });
    let AnswerStep::More(state) = state.receive(demand).unwrap() else { panic!() };
    let AnswerStep::More(state) = state.receive(Message::Statement(statement())).unwrap() else {
        panic!()
    };
    let AnswerStep::Turn(deciding) = state.sealed().receive(Message::End).unwrap() else {
        panic!()
    };
    let rows = vec![file("a", b"", ALICE, 1).stated(deciding.key())];
    let (_, state) = deciding.restate(statement(), rows);
    let AnswerStep::More(state) = state.receive(Message::Statement(statement())).unwrap() else {
        panic!()
    };
    let error = state.sealed().receive(Message::End).unwrap_err();
    assert_eq!(error, ProtocolError::Contradiction("an answer is incomplete"));
}
