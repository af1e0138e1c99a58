//! Paths that are none, in every message that carries one.

use psync_protocol::codec::Put;
use psync_protocol::manifest::ManifestReader;
use psync_protocol::message::{Coverage, Demand, Statement, Verdict, Welcome};
use psync_protocol::{ErrorCode, Message, RelPath};

use super::common::tree::snapshot;
use super::ground::{Expect, Ground};
use super::initiators::Guise;
use super::mask::Mask;
use super::voice::Voice;

/// Paths that no message may carry.
fn bad_paths() -> Vec<Vec<u8>> {
    let texts: &[&[u8]] = &[
        b"",
        b"/",
        b"//",
        b"///",
        b"/etc/passwd",
        b"/a",
        b"a/",
        b"a//",
        b"a//b",
        b"//a",
        b"a/b/",
        b"a///b",
        b".",
        b"..",
        b"./",
        b"../",
        b"./a",
        b"../a",
        b"../../etc/passwd",
        b"a/.",
        b"a/..",
        b"a/./b",
        b"a/../b",
        b"a/../../b",
        b"a/b/..",
        b"a/b/.",
        b"/..",
        b"/../a",
        b"..//a",
        b".//a",
        b"\0",
        b"a\0",
        b"\0a",
        b"a\0b",
        b"a/\0",
        b"a/b\0c",
        b"..\0",
        b"a\0/../b",
        b".psync",
        b".psync/",
        b".psync/index.db",
        b".psync/stage/00000000",
        b".psync/trash/x/y",
        b".psync/store/store.db",
        b".psync/lock",
        b".psync/..",
        b"a/.psync",
        b"a/.psync/lock",
        b"a/b/.psync",
        b"/.psync",
        b"./.psync",
        b"../.psync",
        b"a/../.psync",
        b".psync\0",
        b".psync//lock",
    ];
    let mut paths: Vec<Vec<u8>> = texts.iter().map(|text| text.to_vec()).collect();
    paths.push(vec![b'x'; 256]);
    paths.push([b"a/".as_slice(), &[b'x'; 300], b"/b"].concat());
    paths.push(b"a/".repeat(257)[..513].to_vec());
    paths.push([b"a/".repeat(200), vec![b'y'; 256]].concat());
    paths.push([b"0123456789abcdef/".repeat(240), vec![b'y'; 17]].concat());
    paths.push(vec![b'/'; 4096]);
    paths.push(b"../".repeat(1000));
    assert!(paths.len() >= 60, "{}", paths.len());
    assert_eq!(paths[59].len(), 4097);
    paths
}

/// Paths that are odd, and legal: they are carried, and escaped where they are printed.
fn odd_paths() -> Vec<Vec<u8>> {
    let mut paths: Vec<Vec<u8>> = [
        b"a\nb".as_slice(),
        b"\x1b[2J",
        b"\xff\xfe",
        b"...",
        b".psyncx",
        b".PSYNC",
        b"-rf",
        b"a b ",
        b"\\..\\x",
        b"C:\\x",
        "\u{202e}gpj.exe".as_bytes(),
        b"\x7f\x9b",
        b"*",
        b"stage",
        b"trash",
    ]
    .iter()
    .map(|path| path.to_vec())
    .collect();
    paths.push(vec![b'x'; 255]);
    paths.push(b"a/".repeat(256)[..511].to_vec());
    paths.push([b"0123456789abcdef/".repeat(240), vec![b'y'; 16]].concat());
    paths
}

#[test]
fn no_message_of_sixty_forms_carries_a_path_that_is_none() {
    let mask_key = [1; 16];
    let key = psync_protocol::CheckKey::new(psync_protocol::ReplicaId(mask_key), &mask_key);
    for path in bad_paths() {
        let shown = psync_protocol::path::printable(&path);
        let moved = |from: &[u8], to: &[u8], except: &[u8]| {
            Message::decode(19, &moved_payload(from, to, except)).map_err(|error| error.to_string())
        };
        let mut refusals = vec![
            RelPath::new(&path).map(|_| ()).map_err(|error| error.to_string()),
            ManifestReader::new(key.clone())
                .batch(&rows_payload(&[&path]))
                .map_err(|e| e.to_string()),
            moved(&path, b"to", b"").map(|_| ()),
            moved(b"from", &path, b"").map(|_| ()),
            clash_payload(&path),
        ];
        // No exception at all is what an empty one stands for in these tests.
        if !path.is_empty() {
            refusals.push(moved(b"from", b"to", &path).map(|_| ()));
        }
        for (place, refusal) in refusals.iter().enumerate() {
            assert!(refusal.is_err(), "'{shown}' was taken at place {place}");
        }
    }
    for path in odd_paths() {
        let taken = ManifestReader::new(key.clone()).batch(&rows_payload(&[&path]));
        assert_eq!(taken, Ok(()), "{}", psync_protocol::path::printable(&path));
    }
}

fn rows_payload(paths: &[&[u8]]) -> Vec<u8> {
    // Whose rows they are is no matter here.
    let mut out = Vec::new();
    out.put_varint(paths.len() as u64);
    out.put_varint(0);
    out.put_varint(1);
    out.put_varint(0);
    out.put_raw(&vec![0; 3 * paths.len()]);
    paths.iter().for_each(|path| out.put_varint(path.len() as u64));
    paths.iter().for_each(|path| out.put_raw(path));
    out.put_raw(&vec![0; paths.len()]);
    out
}

pub(crate) fn moved_payload(from: &[u8], to: &[u8], except: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_bytes(from);
    out.put_bytes(to);
    out.put_varint(5);
    match except {
        [] => out.put_varint(0),
        except => {
            out.put_varint(1);
            out.put_varint(0);
            out.put_bytes(except);
        }
    }
    out.put_raw(&[3; 16]);
    out
}

/// A plan for one path that keeps both versions, the loser's at this one.
pub(crate) fn clash_plan(counter: u64, clash: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_varint(counter);
    out.put_varint(0);
    out.put_varint(1);
    out.push(3);
    out.put_varint(1);
    out.put_bytes(clash);
    out
}

fn clash_payload(path: &[u8]) -> Result<(), String> {
    let message = Message::decode(6, &clash_plan(5, path)).map_err(|error| error.to_string())?;
    let Message::Plan(plan) = message else { unreachable!("it is a plan") };
    plan.decisions(1).map(|_| ()).map_err(|error| error.to_string())
}

/// A message that carries a path, and an initiator that puts one there.
type Carrier = (&'static str, fn(&mut Guise, &[u8]));

/// Where an initiator can put a path.
const CARRIERS: &[Carrier] = &[
    ("Rows", |peer, path| {
        let rows = peer.mask.raw_rows(&[path]);
        peer.greet();
        peer.voice.say(&Message::Statement(peer.mask.statement()));
        peer.voice.frame(4, &rows);
        peer.voice.say(&Message::End);
    }),
    ("Moved, from", |peer, path| moved(peer, &moved_payload(path, b"to", b""))),
    ("Moved, to", |peer, path| moved(peer, &moved_payload(b"docs", path, b""))),
    ("Moved, exception", |peer, path| {
        let path = if path.is_empty() { b"/" } else { path };
        moved(peer, &moved_payload(b"docs", b"to", path));
    }),
    ("Plan, clash path", |peer, path| {
        let row = peer.mask.edit("a.txt", b"another");
        peer.state(&[row]);
        let plan = clash_plan(peer.mask.clock + 2000, path);
        peer.voice.frame(6, &plan);
    }),
    ("Rows, restated", |peer, path| {
        let row = peer.mask.edit("a.txt", b"another");
        peer.state(&[row]);
        let rows = peer.mask.raw_rows(&[path]);
        peer.voice.say(&Message::Statement(peer.mask.statement()));
        peer.voice.frame(4, &rows);
        peer.voice.say(&Message::End);
    }),
    ("Rows, after the plan", |peer, path| {
        let row = peer.mask.edit("a.txt", b"another");
        peer.state(&[row]);
        let mut plan = Vec::new();
        plan.put_varint(peer.mask.clock + 2000);
        plan.put_varint(1);
        plan.put_raw(&[1, 9, 1]);
        peer.voice.frame(6, &plan);
        let rows = peer.mask.raw_rows(&[path]);
        peer.voice.frame(4, &rows);
    }),
];

fn moved(peer: &mut Guise, payload: &[u8]) {
    peer.greet();
    peer.voice.say(&Message::Statement(peer.mask.statement()));
    peer.voice.frame(19, payload);
    peer.voice.say(&Message::End);
}

#[test]
fn a_server_refuses_each_form_in_each_message() {
    let ground = Ground::new();
    let mask = ground.as_near();
    let before = snapshot(&ground.far);
    for (number, path) in bad_paths().iter().enumerate() {
        let (carrier, put) = CARRIERS[number % CARRIERS.len()];
        let ended = ground.server(&[], |voice| {
            put(&mut Guise::new(mask.clone(), voice), path);
        });
        let expect = Expect::Refused(ErrorCode::Protocol, "a path");
        let wrong = ended.wrong(expect, &before, &snapshot(&ground.far));
        let shown = psync_protocol::path::printable(path);
        // Too long for any field of its own is a longer story.
        let too_long = ended
            .error()
            .is_some_and(|(_, text)| text.contains("directory is") || text.contains("exception"));
        assert!(
            wrong.is_none() || too_long,
            "'{shown}' in {carrier}: {}",
            wrong.unwrap_or_default()
        );
    }
}

/// Where a responder can put a path: its rows, in the first answer or a later one.
fn answer(mask: &Mask, voice: &mut Voice, path: &[u8], again: bool) {
    voice.flight();
    let verdict = match again {
        false => Verdict::Proceed { first_contact: false },
        true => Verdict::Restate { since: 0, first_contact: false },
    };
    voice.greet_as(mask, &Message::Welcome(Welcome { verdict, ..mask.welcome() }));
    let everything = Statement { coverage: Coverage::Everything, ..mask.statement() };
    if again {
        voice.say_all(&[
            Message::Statement(everything.clone()),
            Message::Demand(Demand::Everything),
            Message::End,
        ]);
        voice.flight();
        voice.say(&Message::Statement(everything));
    } else {
        voice.say(&Message::Statement(mask.statement()));
    }
    voice.frame(4, &mask.raw_rows(&[path]));
    voice.say(&Message::End);
}

#[test]
fn a_caller_refuses_each_form_in_each_message() {
    let ground = Ground::new();
    let mask = ground.as_far();
    let before = snapshot(&ground.near);
    for (number, path) in bad_paths().into_iter().enumerate() {
        let (mask, shown) = (mask.clone(), psync_protocol::path::printable(&path));
        let ended = ground.caller(&[], move |voice| answer(&mask, voice, &path, number % 2 == 1));
        let expect = Expect::Refused(ErrorCode::Protocol, "a path");
        let wrong = ended.wrong(expect, &before, &snapshot(&ground.near));
        assert!(wrong.is_none(), "'{shown}': {}", wrong.unwrap_or_default());
        assert_eq!(ended.code, Some(12), "{}", ended.all());
    }
}
