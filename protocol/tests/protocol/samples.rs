//! Small rows and messages with known contents.

use psync_protocol::message::{
    Against, Base, Counted, Coverage, DeltaOp, DeltaPiece, Demand, Done, Failure, FailureKind,
    Filter, Flow, Hello, Intent, Mark, Message, Patched, Patches, Plan, Problem, ProblemKind,
    Proof, Seal, Segment, Statement, StreamCodec, Unresolved, Verdict, Want, WantDelta, WantKind,
    Welcome,
};
use psync_protocol::session::{
    AnswerStep, AwaitingAnswer, AwaitingPlan, AwaitingStatement, PlanStep, StatementStep,
};
use psync_protocol::signed::{Expected, Sealing};
use psync_protocol::{
    CheckKey, Content, ContentHash, Decision, ErrorCode, IndexId, Props, RelPath, ReplicaId, Row,
    Time, Version,
};

pub(crate) const ALICE: ReplicaId = ReplicaId([0xa1; 16]);
pub(crate) const BOB: ReplicaId = ReplicaId([0xb0; 16]);

pub(crate) fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

pub(crate) fn version(pairs: &[(ReplicaId, u64)]) -> Version {
    Version::from_pairs(pairs.to_vec())
}

/// A file of `bytes`, created by `replica` in its change number `counter`.
pub(crate) fn file(name: &str, bytes: &[u8], replica: ReplicaId, counter: u64) -> Row<ContentHash> {
    Row {
        path: path(name),
        content: Content::File { size: bytes.len() as u64, hash: ContentHash::of_bytes(bytes) },
        base: None,
        props: Props { mode: 0o644, mtime: Time { secs: 1_790_000_000, nanos: 5 } },
        agreed_mode: 0o644,
        content_version: version(&[(replica, counter)]),
        props_version: version(&[(replica, counter)]),
    }
}

/// What remains of a file of `bytes`, deleted by `replica`.
pub(crate) fn deleted(
    name: &str,
    bytes: &[u8],
    replica: ReplicaId,
    counter: u64,
) -> Row<ContentHash> {
    Row {
        content: Content::Deleted { moved_to: None },
        base: Some(ContentHash::of_bytes(bytes)),
        props: Props::default(),
        agreed_mode: 0,
        ..file(name, bytes, replica, counter)
    }
}

pub(crate) fn directory(name: &str, replica: ReplicaId) -> Row<ContentHash> {
    Row {
        content: Content::Directory,
        props: Props { mode: 0o755, mtime: Time::default() },
        agreed_mode: 0o755,
        ..file(name, b"", replica, 1)
    }
}

pub(crate) fn symlink(name: &str, target: &[u8], replica: ReplicaId) -> Row<ContentHash> {
    Row {
        content: Content::Symlink { target: target.into(), hash: ContentHash::of_target(target) },
        props: Props { mode: 0, mtime: Time { secs: -1, nanos: 999_999_999 } },
        agreed_mode: 0,
        ..file(name, b"", replica, 1)
    }
}

pub(crate) fn stated(rows: &[Row<ContentHash>], key: &CheckKey) -> Vec<Row<psync_protocol::Check>> {
    rows.iter().map(|row| row.stated(key)).collect()
}

pub(crate) fn hello() -> Hello {
    Hello {
        version_min: 1,
        version_max: 1,
        features: 0,
        codec: StreamCodec::Raw,
        replica: ALICE,
        index: IndexId([0x11; 8]),
        expected: Some(Expected { replica: [0x2a; 4], heads: [0x2b; 4] }),
        processed: 300,
        nonce: [0x33; 16],
        flow: Flow::TwoWay,
        intent: Intent::CarryOut,
        accepts_empty: false,
        sets_limit: false,
        filters: vec![Filter { include: false, pattern: "*.o".into() }],
        places: vec![0x0102_0304],
    }
}

pub(crate) fn welcome() -> Welcome {
    Welcome {
        version: 1,
        features: 0,
        codec: StreamCodec::Raw,
        who: Some((BOB, IndexId([0x22; 8]))),
        joined: false,
        nonce: [0x44; 16],
        verdict: Verdict::Proceed { first_contact: false },
        place: None,
    }
}

pub(crate) fn statement() -> Statement {
    Statement {
        sequence: 300,
        live: 2,
        scope: Some([0x55; 8]),
        coverage: Coverage::Changes { since: 299 },
    }
}

pub(crate) fn want_delta_of(signature_len: u64) -> WantDelta {
    WantDelta { old_len: 1000, block_len: 64, hash_len: 3, attempt: 0, signature_len }
}

pub(crate) fn want_delta(index: u64, signature_len: u64) -> Want {
    Want { index, kind: WantKind::Delta(want_delta_of(signature_len)) }
}

pub(crate) fn want(index: u64) -> Want {
    Want { index, kind: WantKind::Whole }
}

pub(crate) fn failure(index: u64) -> Failure {
    Failure { index, kind: FailureKind::Changed, text: "it grew".into() }
}

pub(crate) fn problem() -> Problem {
    Problem { kind: ProblemKind::Special, path: b"dev/null".to_vec(), text: "a device".into() }
}

pub(crate) fn delta() -> DeltaOp {
    let copy = DeltaPiece { block: 5, count: 2, fresh: 700 };
    let back = DeltaPiece { block: 3, count: 1, fresh: 0 };
    let pieces = vec![copy, back, DeltaPiece { block: 0, count: 0, fresh: 20 }];
    DeltaOp { pieces, coded: true, data: vec![0xde, 0xad, 0xbe] }
}

pub(crate) fn patches(indices: &[u64]) -> Patches {
    let contents = indices.iter().map(|&index| Patched { index, base: Base::Own });
    Patches { contents: contents.collect(), patch: vec![0xca, 0xfe] }
}

/// These contents, in a session that has cost some bytes.
pub(crate) fn counted(indices: &[u64]) -> Counted {
    let costs = [160, 90, 0, 300_000, 0, 1200, 35];
    Counted::parts(indices.iter().copied(), costs).remove(0)
}

pub(crate) fn unresolved() -> Unresolved {
    Unresolved { index: 0, parts: vec![3, 1, 4, 2] }
}

pub(crate) fn segment() -> Segment {
    Segment { new_len: 300, missing: 0, bytes: vec![0xba, 0xbe] }
}

pub(crate) fn against() -> Against {
    Against { base: Base::Blocks(64), old_len: 1000 }
}

/// Whoever verifies it finds that it is none.
pub(crate) fn seal() -> Seal {
    Seal { signature: [0x5e; 64], key: None }
}

/// A valid batch: one row, `a.txt`.
pub(crate) fn batch() -> Vec<u8> {
    let key = CheckKey::new(ALICE, &[0x33; 16]);
    psync_protocol::manifest::encode(&[file("a.txt", b"one", ALICE, 1).stated(&key)]).remove(0)
}

/// One message of each type, in the order of the type numbers.
pub(crate) fn changes() -> Vec<u8> {
    psync_protocol::changes::encode(&crate::known::changes()).remove(1)
}

pub(crate) fn one_of_each() -> Vec<Message> {
    vec![
        Message::Hello(hello()),
        Message::Welcome(welcome()),
        Message::Statement(statement()),
        Message::Rows(batch()),
        Message::Marks(vec![Mark::Behind]),
        Message::Plan(Plan::new(9, 0, &[Decision::agree()])),
        Message::Want(want(0)),
        Message::Signature(vec![1, 2, 3]),
        Message::File(0),
        Message::Literal(b"bytes".to_vec()),
        Message::Delta(delta()),
        Message::FileEnd(Some(ContentHash([0x66; 32]))),
        Message::FileFailed(failure(0)),
        Message::Done(Done { sequence: 301, failures: vec![failure(0)] }),
        Message::Problem(problem()),
        Message::End,
        Message::Error { code: ErrorCode::Busy, text: "another psync works here".into() },
        Message::Ping(1200),
        Message::Moved(crate::moves::moved()),
        Message::Patches(patches(&[0])),
        Message::Against(against()),
        Message::Proof(Proof([0x77; 32])),
        Message::Segment(segment()),
        Message::Unresolved(unresolved()),
        Message::Tree(crate::trees::tree()),
        Message::Demand(Demand::Everything),
        Message::Common(crate::trees::common()),
        Message::Props(crate::trees::steps()),
        Message::Counterparts(crate::trees::counterparts(&[0])),
        Message::Known(crate::known::known()),
        Message::Changes(changes()),
        Message::Counted(counted(&[0])),
        Message::Seal(seal()),
    ]
}

/// The same messages, with a seal wherever one has to stand.
pub(crate) fn with_seals(messages: Vec<Message>) -> Vec<Message> {
    let mut sealing = Sealing::default();
    let mut out = Vec::new();
    for message in messages {
        if sealing.is_due(&message).is_some() {
            out.push(Message::Seal(seal()));
            sealing.sent(&Message::Seal(seal()));
        }
        sealing.sent(&message);
        out.push(message);
    }
    out
}

/// A state of a session in which a seal may come.
pub(crate) trait Sealed: Sized {
    /// The state after it.
    fn sealed(self) -> Self;
}

impl Sealed for AwaitingStatement {
    fn sealed(self) -> Self {
        match self.receive(Message::Seal(seal())).unwrap() {
            StatementStep::More(state) => state,
            StatementStep::Turn(..) => panic!("a seal gives no turn"),
        }
    }
}

impl Sealed for AwaitingAnswer {
    fn sealed(self) -> Self {
        match self.receive(Message::Seal(seal())).unwrap() {
            AnswerStep::More(state) => state,
            _ => panic!("a seal gives no turn"),
        }
    }
}

impl Sealed for AwaitingPlan {
    fn sealed(self) -> Self {
        match self.receive(Message::Seal(seal())).unwrap() {
            PlanStep::More(state) => state,
            _ => panic!("a seal is no part of the exchange"),
        }
    }
}
