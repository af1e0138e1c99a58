//! Arbitrary words and messages, as proptest strategies. They make what an honest end may say.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use psync_protocol::codec::NUMBER_MAX;
use psync_protocol::message::{
    Against, Base, COSTS, Common, Counted, Counterpart, Counterparts, Coverage, DeltaOp,
    DeltaPiece, Demand, Done, FRESH_MAX, Failure, FailureKind, Filter, Flow, Hello, Intent, Mark,
    Message, Moved, Patched, Patches, Plan, Problem, ProblemKind, Proof, PropsStep, REMAINDER_MAX,
    REMAINDER_MIN, SEGMENT_BYTES, SEGMENT_MAX, SIGNATURE_MAX, SPREAD_MAX, Seal, Segment, Statement,
    StreamCodec, Summary, Tree, Unresolved, Verdict, Versions, Want, WantDelta, WantKind, Welcome,
};
use psync_protocol::signed::Expected;
use psync_protocol::{
    Check, CheckKey, Content, ContentDecision, ContentHash, Decision, ErrorCode, IndexId, Props,
    PropsDecision, RelPath, ReplicaId, Role, Row, Time, Version,
};

/// Numbers of every length on the line.
pub(crate) fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..4, (0u32..63).prop_flat_map(|bits| 0..=1u64 << bits), Just(NUMBER_MAX)]
}

pub(crate) fn version() -> impl Strategy<Value = Version> {
    vec(((0u8..6).prop_map(|id| ReplicaId([id; 16])), number()), 0..4).prop_map(Version::from_pairs)
}

/// Paths of few names, so that prefixes are shared and rows meet; many are not UTF-8.
pub(crate) fn path() -> impl Strategy<Value = RelPath> {
    let name = prop_oneof![
        vec(prop_oneof![Just(b'a'), Just(b'-'), Just(0xff), Just(b'\n')], 1..3),
        "[a-c]{1,2}".prop_map(String::into_bytes),
        Just(vec![b'x'; 255]),
    ];
    vec(name, 1..4).prop_map(|names| RelPath::new(&names.join(&b'/')).unwrap())
}

fn time() -> impl Strategy<Value = Time> {
    (any::<i64>(), 0u32..1_000_000_000).prop_map(|(secs, nanos)| Time { secs, nanos })
}

fn props() -> impl Strategy<Value = Props> {
    (0u16..=0o7777, time()).prop_map(|(mode, mtime)| Props { mode, mtime })
}

/// What a row says beside its path; a tombstone may name the row where the content is now.
#[derive(Debug, Clone)]
enum Kind {
    Deleted { moved: Option<prop::sample::Index> },
    Directory,
    File { size: u64, hash: u64 },
    Symlink { target: Vec<u8> },
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        prop::option::of(any::<prop::sample::Index>()).prop_map(|moved| Kind::Deleted { moved }),
        Just(Kind::Directory),
        (number(), any::<u64>()).prop_map(|(size, hash)| Kind::File { size, hash }),
        vec(1u8.., 1..40).prop_map(|target| Kind::Symlink { target }),
    ]
}

fn row(key: CheckKey) -> impl Strategy<Value = (Kind, Row<Check>)> {
    let base = prop::option::of(any::<u64>().prop_map(Check));
    (kind(), base, props(), 0u16..=0o7777, version(), version()).prop_map(
        move |(kind, base, mut props, mut agreed_mode, content_version, props_version)| {
            let content = match &kind {
                Kind::Deleted { .. } => Content::Deleted { moved_to: None },
                Kind::Directory => Content::Directory,
                Kind::File { size, hash } => Content::File { size: *size, hash: Check(*hash) },
                Kind::Symlink { target } => Content::Symlink {
                    target: target.as_slice().into(),
                    hash: key.check(&ContentHash::of_target(target)),
                },
            };
            // What has no mode or no time of its own states none.
            if matches!(content, Content::Deleted { .. } | Content::Symlink { .. }) {
                (props.mode, agreed_mode) = (0, 0);
            }
            if matches!(content, Content::Deleted { .. } | Content::Directory) {
                props.mtime = Time::default();
            }
            let path = RelPath::new(b"replaced").unwrap();
            let row =
                Row { path, content, base, props, agreed_mode, content_version, props_version };
            (kind, row)
        },
    )
}

/// Rows sorted by path. Some tombstones say where the content went, and then build on just that.
pub(crate) fn rows(key: CheckKey, most: usize) -> impl Strategy<Value = Vec<Row<Check>>> {
    vec((path(), row(key)), 0..most).prop_map(|rows| {
        let rows: BTreeMap<RelPath, (Kind, Row<Check>)> = rows.into_iter().collect();
        let mut kinds = Vec::new();
        let mut sorted: Vec<Row<Check>> = Vec::new();
        for (path, (kind, row)) in rows {
            kinds.push(kind);
            sorted.push(Row { path, ..row });
        }
        for (at, kind) in kinds.into_iter().enumerate() {
            let Kind::Deleted { moved: Some(target) } = kind else { continue };
            let target = &sorted[target.index(sorted.len())];
            if let Some(check) = target.content.fingerprint() {
                let moved_to = Some(target.path.clone());
                sorted[at].content = Content::Deleted { moved_to };
                sorted[at].base = Some(check);
            }
        }
        sorted
    })
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Initiator), Just(Role::Responder)]
}

/// Decisions for a plan of `count` paths.
pub(crate) fn decisions(count: usize) -> impl Strategy<Value = Vec<Decision>> {
    let content = prop_oneof![
        4 => Just(ContentDecision::Agree),
        2 => role().prop_map(ContentDecision::Take),
        1 => (role(), path())
            .prop_map(|(winner, clash)| ContentDecision::KeepBoth { winner, clash }),
        1 => role().prop_map(ContentDecision::MovedAway),
        1 => (role(), 0..count.max(1))
            .prop_map(|(from, source)| ContentDecision::Arrive { from, source }),
        1 => Just(ContentDecision::Ignore),
        1 => Just(ContentDecision::Later),
    ];
    let properties = prop_oneof![
        4 => Just(PropsDecision::Agree),
        1 => role().prop_map(PropsDecision::Take),
        1 => props().prop_map(PropsDecision::Merge),
    ];
    let decision = (content, properties, any::<bool>(), any::<bool>()).prop_map(
        |(content, props, content_resolved, props_resolved)| Decision {
            content,
            props,
            content_resolved,
            props_resolved,
        },
    );
    vec(decision, count)
}

pub(crate) fn marks() -> impl Strategy<Value = Vec<Mark>> {
    let mark = prop_oneof![
        Just(Mark::Behind),
        Just(Mark::Absent),
        Just(Mark::OnBase),
        Just(Mark::Equal),
        Just(Mark::Ignored),
        Just(Mark::Unusable),
        (version(), version()).prop_map(|(content, props)| Mark::Same { content, props }),
    ];
    vec((mark, 1usize..40), 0..12)
        .prop_map(|runs| runs.iter().flat_map(|(mark, run)| vec![mark.clone(); *run]).collect())
}

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,40}"
}

fn codec() -> impl Strategy<Value = StreamCodec> {
    prop_oneof![Just(StreamCodec::Raw), Just(StreamCodec::Zstd)]
}

fn replica() -> impl Strategy<Value = ReplicaId> {
    any::<[u8; 16]>().prop_map(ReplicaId)
}

fn index() -> impl Strategy<Value = IndexId> {
    any::<[u8; 8]>().prop_map(IndexId)
}

fn hello() -> impl Strategy<Value = Hello> {
    let flow = prop_oneof![Just(Flow::TwoWay), Just(Flow::ToResponder), Just(Flow::ToInitiator)];
    let intent = prop_oneof![Just(Intent::CarryOut), Just(Intent::Show), Just(Intent::Rehearse)];
    let filter = (any::<bool>(), text()).prop_map(|(include, pattern)| Filter { include, pattern });
    let expected =
        any::<([u8; 4], [u8; 4])>().prop_map(|(replica, heads)| Expected { replica, heads });
    let who = (replica(), index(), prop::option::of(expected), number(), any::<[u8; 16]>());
    (
        1u64..9,
        any::<u64>(),
        codec(),
        who,
        (flow, intent, any::<[bool; 2]>(), vec(filter, 0..4), vec(any::<u32>(), 0..9)),
    )
        .prop_map(
            |(
                version_max,
                features,
                codec,
                who,
                (flow, intent, [accepts_empty, sets_limit], filters, places),
            )| {
                let (replica, index, expected, processed, nonce) = who;
                Hello {
                    version_min: 1,
                    version_max,
                    features,
                    codec,
                    replica,
                    index,
                    expected,
                    processed,
                    nonce,
                    flow,
                    intent,
                    accepts_empty,
                    sets_limit,
                    filters,
                    places,
                }
            },
        )
}

fn seal() -> impl Strategy<Value = Seal> {
    let signature = vec(any::<u8>(), 64..65).prop_map(|bytes| bytes.try_into().unwrap());
    (signature, prop::option::of(any::<[u8; 32]>()))
        .prop_map(|(signature, key)| Seal { signature, key })
}

fn counted() -> impl Strategy<Value = Counted> {
    let costs = vec(number(), COSTS);
    (prop::collection::btree_set(0..NUMBER_MAX, 0..20), 0u64..3, costs).prop_map(
        |(contents, more, costs)| {
            // Runs of more than one.
            let last = contents.last().copied().unwrap_or(7);
            let more = (1..=more).map(|by| last.saturating_add(by)).filter(|at| *at < NUMBER_MAX);
            let contents = contents.iter().copied().chain(more).collect::<Vec<_>>();
            let costs = std::array::from_fn(|at| costs[at]);
            Counted::parts(contents, costs).remove(0)
        },
    )
}

fn welcome() -> impl Strategy<Value = Welcome> {
    let verdict =
        (prop::option::of(number()), any::<bool>()).prop_map(
            |(since, first_contact)| match since {
                None => Verdict::Proceed { first_contact },
                Some(since) => Verdict::Restate { since, first_contact },
            },
        );
    let who = prop::option::of((replica(), index()));
    let place = prop::option::of(any::<u32>());
    let rest = (any::<bool>(), any::<[u8; 16]>(), verdict, place);
    (any::<u64>(), any::<u64>(), codec(), who, rest).prop_map(
        |(version, features, codec, who, (joined, nonce, verdict, place))| Welcome {
            version,
            features,
            codec,
            who,
            joined,
            nonce,
            verdict,
            place,
        },
    )
}

fn statement() -> impl Strategy<Value = Statement> {
    let coverage = prop::option::of(number())
        .prop_map(|since| since.map_or(Coverage::Everything, |since| Coverage::Changes { since }));
    (number(), number(), prop::option::of(any::<[u8; 8]>()), coverage)
        .prop_map(|(sequence, live, scope, coverage)| Statement { sequence, live, scope, coverage })
}

/// A directory that was moved lies neither in nor above where it is now.
fn moved() -> impl Strategy<Value = Moved> {
    let except =
        prop::collection::btree_set(path(), 0..4).prop_map(|set| set.into_iter().collect());
    (path(), path(), number(), except, any::<[u8; 16]>())
        .prop_filter("one within the other", |(from, to, ..)| {
            from != to && !from.is_below(to) && !to.is_below(from)
        })
        .prop_map(|(from, to, counter, except, digest)| Moved { from, to, counter, except, digest })
}

fn versions() -> impl Strategy<Value = Versions> {
    (version(), version()).prop_map(|(content, props)| Versions { content, props })
}

fn tree() -> impl Strategy<Value = Tree> {
    let sketch = prop::array::uniform32(any::<[u16; 2]>()).prop_map(|parts| {
        let parts: Vec<u16> = parts.into_iter().flatten().collect();
        parts.try_into().unwrap()
    });
    (0..=10_000_000u64, versions(), any::<[u8; 16]>(), sketch)
        .prop_map(|(count, versions, digest, sketch)| Tree { count, versions, digest, sketch })
}

fn demand() -> impl Strategy<Value = Demand> {
    let summary =
        (0..=SPREAD_MAX, versions(), REMAINDER_MIN..=REMAINDER_MAX, vec(any::<u64>(), 0..30))
            .prop_map(|(spread, versions, bits, values)| {
                let limit = (values.len() as u64) << bits;
                let mut values: Vec<u64> = values.into_iter().map(|value| value % limit).collect();
                values.sort_unstable();
                Demand::Differences(Summary { spread, versions, bits, values })
            });
    prop_oneof![Just(Demand::Everything), Just(Demand::Blank), summary]
}

fn common() -> impl Strategy<Value = Common> {
    (versions(), any::<[u8; 16]>(), vec(any::<u8>(), 0..40))
        .prop_map(|(versions, digest, runs)| Common { versions, digest, runs })
}

fn props_step() -> impl Strategy<Value = PropsStep> {
    (0u16..=0o7777, any::<i64>(), any::<i64>()).prop_map(|(mode, secs, nanos)| PropsStep {
        mode,
        secs,
        nanos,
    })
}

fn counterparts() -> impl Strategy<Value = Counterparts> {
    let file = (0..1000u64, props_step(), any::<i64>(), any::<u64>());
    (any::<bool>(), vec(file, 1..10)).prop_map(|(checked, files)| {
        let mut next = 0;
        let files = files.into_iter().map(|(step, props, size, check)| {
            let number = next + step;
            next = number + 1;
            Counterpart { number, props, size, check: Check(if checked { check } else { 0 }) }
        });
        Counterparts { checked, files: files.collect() }
    })
}

fn want() -> impl Strategy<Value = Want> {
    let delta = (number(), any::<u32>(), any::<u8>(), 0u8..8, 0..=SIGNATURE_MAX).prop_map(
        |(old_len, block_len, hash_len, attempt, signature_len)| WantDelta {
            old_len,
            block_len,
            hash_len,
            attempt,
            signature_len,
        },
    );
    let delta = (delta, 0..3).prop_map(|(delta, level)| match level {
        0 => WantKind::Delta(delta),
        1 => WantKind::Coarse(WantDelta { attempt: 0, ..delta }),
        _ => WantKind::Fine(WantDelta { attempt: 0, ..delta }),
    });
    let plain = [WantKind::Whole, WantKind::Base, WantKind::Confirm];
    (any::<u64>(), prop_oneof![prop::sample::select(plain.to_vec()), delta])
        .prop_map(|(index, kind)| Want { index, kind })
}

/// Blocks that do not exist have no number.
fn piece() -> impl Strategy<Value = DeltaPiece> {
    (number(), 0u64..1 << 40, 0..=FRESH_MAX).prop_map(|(block, count, fresh)| {
        let block = if count == 0 { 0 } else { block };
        DeltaPiece { block, count, fresh }
    })
}

fn base() -> impl Strategy<Value = Base> {
    let other = any::<u64>().prop_map(|check| Base::Other(Check(check)));
    prop_oneof![Just(Base::Own), other, any::<u32>().prop_map(Base::Blocks), Just(Base::Nothing)]
}

fn patches() -> impl Strategy<Value = Patches> {
    let content = (any::<u64>(), base()).prop_map(|(index, base)| Patched { index, base });
    (vec(content, 1..5), vec(any::<u8>(), 0..40))
        .prop_map(|(contents, patch)| Patches { contents, patch })
}

fn against() -> impl Strategy<Value = Against> {
    (base(), number()).prop_map(|(base, old_len)| Against { base, old_len })
}

fn failure() -> impl Strategy<Value = Failure> {
    use FailureKind::{Changed, Mismatch, NoBase, System};
    let kinds = [Changed, System, Mismatch, NoBase];
    (any::<u64>(), prop::sample::select(kinds.to_vec()), text())
        .prop_map(|(index, kind, text)| Failure { index, kind, text })
}

fn problem() -> impl Strategy<Value = Problem> {
    use ProblemKind::{Changed, Note, Pattern, Special, Unreadable};
    let kinds = vec![Special, Unreadable, Changed, Pattern, Note];
    (prop::sample::select(kinds), vec(any::<u8>(), 0..40), text())
        .prop_map(|(kind, path, text)| Problem { kind, path, text })
}

/// Any message that an honest end may send; every type is among them.
pub(crate) fn message() -> impl Strategy<Value = Message> {
    let bytes = || vec(any::<u8>(), 1..200);
    let plan = (number(), 0..10_000_000u64, (0usize..20).prop_flat_map(decisions)).prop_map(
        |(counter, extra, decisions)| Message::Plan(Plan::new(counter, extra, &decisions)),
    );
    let delta = (vec(piece(), 0..5), any::<bool>(), bytes())
        .prop_map(|(pieces, coded, data)| Message::Delta(DeltaOp { pieces, coded, data }));
    let rows = rows(CheckKey::new(ReplicaId([1; 16]), &[2; 16]), 12).prop_map(|rows| {
        Message::Rows(psync_protocol::manifest::encode(&rows).pop().unwrap_or_default())
    });
    let done = (number(), vec(failure(), 0..4))
        .prop_map(|(sequence, failures)| Message::Done(Done { sequence, failures }));
    let error = (prop::sample::select(ErrorCode::ALL), text())
        .prop_map(|(code, text)| Message::Error { code, text });
    prop_oneof![
        hello().prop_map(Message::Hello),
        welcome().prop_map(Message::Welcome),
        statement().prop_map(Message::Statement),
        rows,
        moved().prop_map(Message::Moved),
        tree().prop_map(Message::Tree),
        demand().prop_map(Message::Demand),
        common().prop_map(Message::Common),
        vec(props_step(), 1..20).prop_map(Message::Props),
        counterparts().prop_map(Message::Counterparts),
        marks().prop_map(Message::Marks),
        plan,
        want().prop_map(Message::Want),
        bytes().prop_map(Message::Signature),
        any::<u64>().prop_map(Message::File),
        bytes().prop_map(Message::Literal),
        delta,
        prop::option::of(any::<[u8; 32]>())
            .prop_map(|hash| Message::FileEnd(hash.map(ContentHash))),
        patches().prop_map(Message::Patches),
        against().prop_map(Message::Against),
        counted().prop_map(Message::Counted),
        seal().prop_map(Message::Seal),
        (any::<u64>(), bytes())
            .prop_map(|(index, parts)| { Message::Unresolved(Unresolved { index, parts }) }),
        (0..=SEGMENT_MAX, 0..=SEGMENT_BYTES, bytes()).prop_map(|(new_len, missing, bytes)| {
            Message::Segment(Segment { new_len, missing, bytes })
        }),
        any::<[u8; 32]>().prop_map(|root| Message::Proof(Proof(root))),
        crate::known::any_changes().prop_map(|(known, _)| Message::Known(known)),
        crate::known::any_changes().prop_map(|(_, changes)| {
            Message::Changes(psync_protocol::changes::encode(&changes).remove(0))
        }),
        failure().prop_map(Message::FileFailed),
        done,
        problem().prop_map(Message::Problem),
        Just(Message::End),
        error,
        (0u64..1 << 40).prop_map(Message::Ping),
    ]
}
