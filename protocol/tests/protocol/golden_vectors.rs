//! The annotated bytes in `vectors/` are what this crate writes, and it reads them.

use std::fs;
use std::path::PathBuf;

use psync_protocol::codec::Put;
use psync_protocol::frame::{FrameDecoder, FrameEncoder};
use psync_protocol::manifest::{self, ManifestReader, Parties};
use psync_protocol::message::{
    Against, Base, Coverage, Demand, Done, Failure, FailureKind, Filter, Hello, Intent, Mark,
    Message, Moved, Plan, Proof, Seal, Statement, StreamCodec, TYPES, Verdict, Want, WantDelta,
    WantKind, Welcome,
};
use psync_protocol::signed::{
    CLAIM_BYTES, Claim, Digest, Expected, Heads, Session, Sum, plan_digest,
};
use psync_protocol::{
    Check, CheckKey, Content, ContentDecision, ContentHash, Decision, ErrorCode, Props,
    PropsDecision, RelPath, Role, Row, Time,
};

use crate::samples::{self, ALICE, BOB, failure, file, hello, path, problem, version, welcome};
use crate::{known, moves, trees};

/// What a file holds: bytes, and who says them where that is told.
fn vector(name: &str) -> Vec<(Option<Role>, Vec<u8>)> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(name);
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut parts = vec![(None, Vec::new())];
    for line in text.lines() {
        match line.trim_end() {
            "== initiator" => parts.push((Some(Role::Initiator), Vec::new())),
            "== responder" => parts.push((Some(Role::Responder), Vec::new())),
            line => {
                let bytes = line.split('#').next().unwrap_or_default().split_whitespace();
                let bytes = bytes.map(|hex| u8::from_str_radix(hex, 16).unwrap());
                parts.last_mut().unwrap().1.extend(bytes);
            }
        }
    }
    parts.retain(|(_, bytes)| !bytes.is_empty());
    parts
}

fn bytes(name: &str) -> Vec<u8> {
    vector(name).remove(0).1
}

fn frame(message: &Message) -> Vec<u8> {
    let payload = message.encode();
    let mut out = Vec::new();
    out.put_varint(payload.len() as u64);
    out.push(message.type_byte());
    out.put_raw(&payload);
    out
}

fn key() -> CheckKey {
    CheckKey::new(ALICE, &[0x33; 16])
}

/// The rows of `rows.txt`.
fn rows() -> Vec<Row<Check>> {
    let one = version(&[(ALICE, 1)]);
    let two = version(&[(ALICE, 7), (BOB, 300)]);
    let row = |path: RelPath, content, mode, mtime| Row {
        path,
        content,
        base: None,
        props: Props { mode, mtime },
        agreed_mode: mode,
        content_version: one.clone(),
        props_version: one.clone(),
    };
    let time = Time { secs: 1_790_000_000, nanos: 5 };
    let mut rows = vec![
        row(path("d"), Content::Directory, 0o755, Time::default()),
        row(
            path("d/new"),
            Content::File { size: 300, hash: Check(0x1111_1111_1111_1111) },
            0o644,
            time,
        ),
        row(path("d/old"), Content::Deleted { moved_to: Some(path("d/new")) }, 0, Time::default()),
        row(
            path("e"),
            Content::File { size: 0, hash: Check(0x0123_4567_89ab_cdef) },
            0o600,
            Time { nanos: 0, ..time },
        ),
        row(
            RelPath::new(b"l\xff").unwrap(),
            Content::Symlink {
                target: b"d/new".as_slice().into(),
                hash: key().check(&ContentHash::of_target(b"d/new")),
            },
            0,
            Time { secs: -1, nanos: 999_999_999 },
        ),
        row(path("t"), Content::Deleted { moved_to: None }, 0, Time::default()),
    ];
    rows[1].agreed_mode = 0o600;
    rows[2].base = Some(Check(0x1111_1111_1111_1111));
    rows[3].base = Some(Check(0x2222_2222_2222_2222));
    rows[5].base = Some(Check(0x3333_3333_3333_3333));
    for at in [1, 2, 3] {
        rows[at].content_version = two.clone();
    }
    rows[3].props_version = two.clone();
    rows[5].props_version = version(&[]);
    rows
}

fn decisions() -> Vec<Decision> {
    let clash = path("c_clash_202611201200.txt");
    let props = Props { mode: 0o640, mtime: Time { secs: -1, nanos: 5 } };
    vec![
        Decision::agree(),
        Decision::agree(),
        Decision::take(Role::Initiator),
        Decision {
            content: ContentDecision::KeepBoth { winner: Role::Responder, clash },
            props: PropsDecision::Take(Role::Responder),
            content_resolved: true,
            props_resolved: false,
        },
        Decision {
            content: ContentDecision::Arrive { from: Role::Responder, source: 2 },
            props: PropsDecision::Merge(props),
            content_resolved: false,
            props_resolved: true,
        },
        Decision { content: ContentDecision::Later, ..Decision::agree() },
    ]
}

fn marks() -> Vec<Mark> {
    let same =
        Mark::Same { content: version(&[(ALICE, 1)]), props: version(&[(ALICE, 2), (BOB, 300)]) };
    let rest = [Mark::Ignored, Mark::Unusable, same.clone(), Mark::Absent, Mark::OnBase];
    [[Mark::Behind, Mark::Behind, Mark::Equal, same].to_vec(), rest.to_vec()].concat()
}

fn messages() -> Vec<(&'static str, Message)> {
    let kept = psync_protocol::changes::encode(&known::changes()).remove(2);
    let filter = |include, pattern: &str| Filter { include, pattern: pattern.into() };
    let hello = Hello {
        codec: StreamCodec::Zstd,
        intent: Intent::Show,
        filters: vec![filter(false, "*.o"), filter(true, "keep.o")],
        ..hello()
    };
    let rehearsal = Hello {
        intent: Intent::Rehearse,
        expected: None,
        processed: 0,
        filters: Vec::new(),
        ..hello.clone()
    };
    let welcome = Welcome {
        codec: StreamCodec::Zstd,
        verdict: Verdict::Restate { since: 300, first_contact: false },
        ..welcome()
    };
    let delta =
        WantDelta { old_len: 1000, block_len: 64, hash_len: 3, attempt: 1, signature_len: 48 };
    let first = WantDelta { attempt: 0, ..delta.clone() };
    let full =
        Failure { index: 2, kind: FailureKind::System, text: "No space left on device".into() };
    let everything = Statement { coverage: Coverage::Everything, ..samples::statement() };
    let base = Base::Other(Check(0x1111_1111_1111_1111));
    let mut patches = samples::patches(&[298, 299, 300, 7]);
    patches.contents[2].base = base;
    patches.contents[3].base = Base::Nothing;
    let of_bytes = ContentHash::of_bytes;
    let plain = |kind| Message::Want(Want { index: 300, kind });
    vec![
        ("hello.txt", Message::Hello(hello)),
        ("welcome.txt", Message::Welcome(welcome)),
        ("statement.txt", Message::Statement(samples::statement())),
        ("statement-everything.txt", Message::Statement(everything)),
        ("rows.txt", Message::Rows(manifest::encode(&rows()).remove(0))),
        ("marks.txt", Message::Marks(marks())),
        ("plan.txt", Message::Plan(Plan::new(400, 1, &decisions()))),
        ("want.txt", Message::Want(Want { index: 300, kind: WantKind::Delta(delta) })),
        ("want-whole.txt", Message::Want(samples::want(0))),
        ("want-base.txt", plain(WantKind::Base)),
        ("want-coarse.txt", plain(WantKind::Coarse(first.clone()))),
        ("want-fine.txt", plain(WantKind::Fine(first))),
        ("unresolved.txt", Message::Unresolved(samples::unresolved())),
        ("counted.txt", Message::Counted(samples::counted(&[0, 1, 2, 300, 301]))),
        ("hello-rehearsal.txt", Message::Hello(rehearsal)),
        ("want-confirm.txt", plain(WantKind::Confirm)),
        ("signature.txt", Message::Signature((0..6).collect())),
        ("file.txt", Message::File(300)),
        ("literal.txt", Message::Literal(b"one\n".to_vec())),
        ("delta.txt", Message::Delta(samples::delta())),
        ("file-end.txt", Message::FileEnd(Some(ContentHash([0x66; 32])))),
        ("file-end-plain.txt", Message::FileEnd(None)),
        ("patches.txt", Message::Patches(patches)),
        ("against.txt", Message::Against(Against { base: Base::Own, ..samples::against() })),
        ("against-blocks.txt", Message::Against(samples::against())),
        ("segment.txt", Message::Segment(samples::segment())),
        ("against-other.txt", Message::Against(Against { base, ..samples::against() })),
        ("proof.txt", Message::Proof(Proof::of(&[of_bytes(b"one\n"), of_bytes(b"two\n")]))),
        ("file-failed.txt", Message::FileFailed(failure(300))),
        ("done.txt", Message::Done(Done { sequence: 301, failures: vec![full] })),
        ("problem.txt", Message::Problem(problem())),
        ("end.txt", Message::End),
        ("seal.txt", Message::Seal(samples::seal())),
        ("seal-key.txt", Message::Seal(Seal { key: Some([0x6b; 32]), ..samples::seal() })),
        ("error.txt", Message::Error { code: ErrorCode::Busy, text: "déjà vu".into() }),
        ("ping.txt", Message::Ping(0)),
        ("ping-rate.txt", Message::Ping(1200)),
        ("known.txt", Message::Known(known::known())),
        ("changes.txt", Message::Changes(samples::changes())),
        ("changes-kept.txt", Message::Changes(kept)),
        ("moved.txt", Message::Moved(moves::moved())),
        ("tree.txt", Message::Tree(trees::tree())),
        ("demand.txt", Message::Demand(Demand::Differences(trees::summary()))),
        ("demand-blank.txt", Message::Demand(Demand::Blank)),
        ("common.txt", Message::Common(trees::common())),
        ("props.txt", Message::Props(trees::golden_steps())),
        ("counterparts.txt", Message::Counterparts(trees::counterparts(&[0, 300]))),
        ("moved-except.txt", Message::Moved(moves::excepting(&["best", "new/a", "new/b.jpg"]))),
    ]
}

#[test]
fn every_message_is_written_and_read_as_its_vector_says() {
    for (name, message) in messages() {
        let golden = bytes(name);
        assert_eq!(hex(&frame(&message)), hex(&golden), "{name}");
        let mut line = FrameEncoder::only(&Message::Hello(hello()));
        line.extend(&golden);
        let mut decoder = FrameDecoder::new();
        decoder.feed(&line);
        decoder.message().unwrap();
        assert_eq!(decoder.message().unwrap(), Some(message), "{name}");
        assert!(decoder.is_at_boundary());
    }
}

#[test]
fn every_message_type_has_a_vector_and_every_vector_a_test() {
    let messages = messages();
    for (number, name) in TYPES {
        assert!(messages.iter().any(|(_, message)| message.type_byte() == *number), "{name}");
    }
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors");
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let known = messages.iter().any(|(file, _)| *file == name)
            || ["README.md", "session.txt", "checks.txt", "moved-rows.txt", "signed.txt"]
                .contains(&name.as_str());
        assert!(known, "{name} is read by no test");
    }
}

#[test]
fn the_payloads_within_messages_are_read_as_their_vectors_say() {
    let mut reader = ManifestReader::new(key());
    let Message::Rows(batch) = Message::decode(4, &bytes("rows.txt")[3..]).unwrap() else {
        panic!("it is a batch of rows");
    };
    reader.batch(&batch).unwrap();
    assert_eq!(reader.finish().unwrap(), rows());
    let Message::Plan(plan) = Message::decode(6, &bytes("plan.txt")[2..]).unwrap() else {
        panic!("it is a plan");
    };
    assert_eq!((plan.counter, plan.extra_rows), (400, 1));
    assert_eq!(plan.decisions(6).unwrap(), decisions());
}

#[test]
fn checks_are_made_as_their_vector_says() {
    let golden = bytes("checks.txt");
    let (content, golden) = golden[64..].split_at(32);
    let (content_check, golden) = golden.split_at(8);
    let (target, golden) = golden.split_at(32);
    let (target_check, seed) = golden.split_at(8);
    let check = |hash: &ContentHash| key().check(hash).0.to_le_bytes().to_vec();
    assert_eq!(ContentHash::of_bytes(b"one\n").0, content);
    assert_eq!(check(&ContentHash::of_bytes(b"one\n")), content_check);
    assert_eq!(ContentHash::of_target(b"d/new").0, target);
    assert_eq!(check(&ContentHash::of_target(b"d/new")), target_check);
    assert_eq!(key().block_seed(300, 1).to_le_bytes(), seed);
}

#[test]
fn the_rows_of_a_moved_directory_are_digested_as_their_vector_says() {
    let Moved { from, to, counter, digest, .. } = moves::moved();
    let rows = moves::rows_of(&from, &to, counter, ALICE, &moves::pictures());
    let golden = bytes("moved-rows.txt");
    let (input, golden_digest) = golden.split_last_chunk::<16>().unwrap();
    assert_eq!(hex(&moves::digest_input(&rows)), hex(input));
    assert_eq!(hex(&digest), hex(golden_digest));
    assert_eq!(hex(&moves::digest(&rows)), hex(golden_digest));
}

/// What `signed.txt` signs, and what is signed of a plan after it.
fn claim() -> Claim {
    Claim {
        version: 1,
        features: 3,
        role: Role::Responder,
        signer: BOB,
        reader: ALICE,
        session: Session {
            hello: Digest([0x01; 32]),
            welcome: Digest([0x02; 32]),
            exporter: [0x03; 32],
        },
        index: welcome().who.unwrap().1,
        since: 299,
        sequence: 300,
        previous: Digest([0x04; 32]),
        scope: [0x55; 8],
        sum: Sum { messages: [0x06; 32], rows: 7 },
    }
}

#[test]
fn what_is_signed_is_made_as_its_vector_says() {
    let golden = bytes("signed.txt");
    let (said, golden) = golden.split_at(CLAIM_BYTES);
    let (digest, golden) = golden.split_at(32);
    let (plan, golden) = golden.split_at(32);
    let (expected, golden) = golden.split_at(8);
    assert_eq!(hex(&claim().to_bytes()), hex(said));
    assert_eq!(Claim::from_bytes(said).unwrap(), claim());
    assert_eq!(hex(&claim().digest().0), hex(digest));
    let sum = Sum { messages: [0x06; 32], rows: 7 };
    assert_eq!(hex(&plan_digest(Digest([0x04; 32]), claim().digest(), sum).0), hex(plan));
    let heads = Heads {
        initiator: Digest([0x04; 32]),
        responder: claim().digest(),
        initiator_scope: [0x55; 8],
        responder_scope: [0x56; 8],
    };
    let says = Expected::new(&hello().nonce, welcome().who.unwrap(), &heads);
    assert_eq!(hex(&[says.replica, says.heads].concat()), hex(expected));
    // A secret, its public key, and the signature that it makes of the digest: psync's own tests
    // make it again.
    assert_eq!(golden.len(), 32 + 32 + 64);
}

#[test]
fn what_travels_is_summed_up_as_its_vector_says() {
    // The first flight of `session.txt`, up to its seal.
    let (_, flight) = session().remove(0);
    let mut encoder = FrameEncoder::start(&flight[0], StreamCodec::Raw, 3).unwrap();
    flight[1..3].iter().for_each(|message| encoder.push(message).unwrap());
    let mut hasher = blake3::Hasher::new_derive_key("psync 2026-11 sealed messages");
    for message in &flight[1..3] {
        let payload = message.encode();
        hasher.update(&[message.type_byte()]);
        hasher.update(&(payload.len() as u64).to_le_bytes()).update(&payload);
    }
    let sum = Sum { messages: *hasher.finalize().as_bytes(), rows: 1 };
    assert_eq!(encoder.to_seal(), Some(sum));
    let mut greeting = blake3::Hasher::new_derive_key("psync 2026-11 greeting");
    greeting.update(&flight[0].encode());
    assert_eq!(encoder.greeting().0, *greeting.finalize().as_bytes());
    // A sign of life is no part of it, and the seal ends it. The reader comes to the same.
    encoder.push(&Message::Ping(0)).unwrap();
    assert_eq!(encoder.to_seal(), Some(sum));
    encoder.push(&flight[3]).unwrap();
    assert_eq!(encoder.to_seal(), None);
    let mut decoder = FrameDecoder::new();
    decoder.feed(&encoder.take());
    while decoder.message().unwrap().is_some() {}
    assert_eq!(decoder.sealed(), Some(sum));
    assert_eq!(decoder.greeting(), encoder.greeting());
}

/// The session of `session.txt`: who says what, flight by flight.
fn session() -> Vec<(Role, Vec<Message>)> {
    let hello =
        Hello { expected: None, processed: 0, filters: Vec::new(), places: Vec::new(), ..hello() };
    let welcome = Welcome { verdict: Verdict::Proceed { first_contact: true }, ..welcome() };
    let statement = |sequence| {
        let coverage = Coverage::Everything;
        Message::Statement(Statement { sequence, live: 1, scope: Some([0x55; 8]), coverage })
    };
    let row = |name, bytes, replica, counter, nonce| {
        let mut row = file(name, bytes, replica, counter);
        row.props.mtime.nanos = 0;
        let row = row.stated(&CheckKey::new(replica, nonce));
        let parties = Parties { initiator: Some(ALICE), responder: Some(BOB) };
        Message::Rows(manifest::encode_between(&[row], parties).remove(0))
    };
    let content = |index, bytes: &[u8]| {
        let end = Message::FileEnd(Some(ContentHash::of_bytes(bytes)));
        vec![Message::File(index), Message::Literal(bytes.to_vec()), end]
    };
    let want = |index| Message::Want(samples::want(index));
    let done = |sequence| Message::Done(Done { sequence, failures: Vec::new() });
    let plan = Plan::new(2, 0, &[Decision::take(Role::Initiator), Decision::take(Role::Responder)]);
    let ours = row("a.txt", b"one\n", ALICE, 1, &[0x33; 16]);
    let theirs = row("b.txt", b"two\n", BOB, 5, &[0x44; 16]);
    let marks = Message::Marks(vec![Mark::Behind]);
    let mut flights = [
        vec![Message::Hello(hello), statement(1), ours],
        vec![Message::Welcome(welcome), statement(5), marks, theirs],
        vec![Message::Plan(plan), want(1)],
        [content(1, b"two\n"), vec![want(0)]].concat(),
        [content(0, b"one\n"), vec![done(2)]].concat(),
        vec![done(6)],
    ];
    flights.iter_mut().for_each(|flight| flight.push(Message::End));
    let flights = flights.map(samples::with_seals);
    let roles = [Role::Initiator, Role::Responder].into_iter().cycle();
    roles.zip(flights).collect()
}

#[test]
fn a_session_is_written_and_read_as_its_vector_says() {
    let golden = vector("session.txt");
    let session = session();
    let timeline: Vec<_> = session
        .iter()
        .flat_map(|(role, flight)| flight.iter().map(|message| (*role, message.clone())))
        .collect();
    assert_eq!(crate::referee::breach(&timeline), None);
    for role in [Role::Initiator, Role::Responder] {
        let flights = session.iter().filter(|(who, _)| *who == role);
        let messages: Vec<&Message> = flights.flat_map(|(_, flight)| flight).collect();
        let mut encoder = FrameEncoder::start(messages[0], StreamCodec::Raw, 3).unwrap();
        messages[1..].iter().for_each(|message| encoder.push(message).unwrap());
        let parts = golden.iter().filter(|(who, _)| *who == Some(role));
        let line: Vec<u8> = parts.flat_map(|(_, bytes)| bytes.clone()).collect();
        assert_eq!(hex(&encoder.take()), hex(&line), "{role:?}");
        let mut decoder = FrameDecoder::new();
        decoder.feed(&line);
        for message in messages {
            assert_eq!(decoder.message().unwrap().as_ref(), Some(message));
        }
        assert_eq!(decoder.message(), Ok(None));
        assert!(decoder.is_at_boundary());
    }
    assert_eq!(golden.len(), session.len());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x} ")).collect()
}
