//! What holds for any two rows.

use proptest::prelude::*;
use psync_protocol::decision::{Agreed, Planner};
use psync_protocol::message::Flow;
use psync_protocol::{
    Check, Content, ContentDecision, Decision, Props, PropsDecision, ReplicaId, Role, Row, Version,
};

use super::*;
use crate::reconcile::{Rows, decide};

fn content() -> impl Strategy<Value = Content<Check>> {
    prop_oneof![
        Just(Content::Deleted { moved_to: None }),
        Just(Content::Deleted { moved_to: Some(path("g")) }),
        Just(Content::Directory),
        prop::sample::select(vec!["a", "b", "c", "long"]).prop_map(file),
        prop::sample::select(vec!["a", "x"]).prop_map(link),
    ]
}

fn any_version() -> impl Strategy<Value = Version> {
    prop::collection::vec((1u8..4, 0u64..3), 0..3).prop_map(|pairs| {
        Version::from_pairs(pairs.into_iter().map(|(id, c)| (ReplicaId([id; 16]), c)).collect())
    })
}

fn row() -> impl Strategy<Value = Row<Check>> {
    let modes = || prop::sample::select(vec![0o600u16, 0o644, 0o755]);
    let versions = (any_version(), any_version());
    (content(), content(), modes(), modes(), 0i64..3, versions).prop_map(
        |(content, before, mode, agreed_mode, secs, (content_version, props_version))| {
            let live = content.is_live();
            let mtime = time(if matches!(content, Content::Directory) { 0 } else { secs });
            let props = if live { Props { mode, mtime } } else { Props::default() };
            let base = before.fingerprint();
            let known = Row { content_version, props_version, base, agreed_mode, ..absent() };
            Row { content, props, ..known }
        },
    )
}

fn context() -> impl Strategy<Value = Context> {
    let flows = vec![Flow::TwoWay, Flow::TwoWay, Flow::ToResponder, Flow::ToInitiator];
    let ties = vec![Role::Initiator, Role::Responder];
    (prop::sample::select(flows), any::<bool>(), prop::sample::select(ties))
        .prop_map(|(flow, first_contact, tie)| Context { flow, first_contact, tie })
}

/// Both rows once a ruling is carried out.
fn carried_out(ruling: Ruling, rows: [&Row<Check>; 2]) -> [Row<Check>; 2] {
    let decision = Decision {
        content: match ruling.fate {
            Fate::Agree => ContentDecision::Agree,
            Fate::Take(role) => ContentDecision::Take(role),
            Fate::KeepBoth(winner) => ContentDecision::KeepBoth { winner, clash: path("clash") },
        },
        props: ruling.props,
        content_resolved: ruling.content_resolved,
        props_resolved: ruling.props_resolved,
    };
    let planner = Planner { replica: HERE, counter: 9 };
    let agreed = decision.agreed(rows[0], rows[1], planner);
    [Role::Initiator, Role::Responder].map(|role| after(ruling.fate, role, rows, &agreed))
}

fn after(fate: Fate, role: Role, rows: [&Row<Check>; 2], agreed: &Agreed) -> Row<Check> {
    let source = match fate {
        Fate::Agree => role,
        Fate::Take(source) | Fate::KeepBoth(source) => source,
    };
    let content = of(rows, source).content.clone();
    let props = if content.is_live() { agreed.props } else { Props::default() };
    Row {
        content,
        props,
        agreed_mode: props.mode,
        content_version: agreed.content_version.clone(),
        props_version: agreed.props_version.clone(),
        ..of(rows, role).clone()
    }
}

fn of(rows: [&Row<Check>; 2], role: Role) -> &Row<Check> {
    match role {
        Role::Initiator => rows[0],
        Role::Responder => rows[1],
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn exchanging_the_sides_exchanges_the_ruling(a in row(), b in row(), context in context()) {
        let ruling = decide(Rows { initiator: &a, responder: &b }, &context);
        let exchanged = decide(Rows { initiator: &b, responder: &a }, &context.mirrored());
        prop_assert_eq!(exchanged, mirrored(ruling));
    }

    #[test]
    fn once_a_ruling_is_carried_out_there_is_nothing_to_do(
        a in row(),
        b in row(),
        context in context(),
    ) {
        let ruling = decide(Rows { initiator: &a, responder: &b }, &context);
        let [a, b] = carried_out(ruling, [&a, &b]);
        prop_assert!(a.same_state(&b));
        prop_assert_eq!(&a.content_version, &b.content_version);
        prop_assert_eq!(&a.props_version, &b.props_version);
        let again = decide(Rows { initiator: &a, responder: &b }, &context);
        prop_assert_eq!(again.fate, Fate::Agree);
        prop_assert_eq!(again.props, PropsDecision::Agree);
        prop_assert!(!again.content_resolved && !again.props_resolved);
        prop_assert_eq!(again.conflict, None);
    }

    #[test]
    fn afterwards_both_have_all_changes_of_both(a in row(), b in row(), context in context()) {
        let ruling = decide(Rows { initiator: &a, responder: &b }, &context);
        for now in carried_out(ruling, [&a, &b]) {
            prop_assert!(now.includes(&a) && now.includes(&b));
            prop_assert!(!ruling.content_resolved || now.content_version > a.content_version);
            prop_assert!(!ruling.content_resolved || now.content_version > b.content_version);
        }
    }

    #[test]
    fn no_content_disappears_that_is_not_superseded(a in row(), b in row(), context in context()) {
        let context = Context { flow: Flow::TwoWay, ..context };
        let ruling = decide(Rows { initiator: &a, responder: &b }, &context);
        let [now, _] = carried_out(ruling, [&a, &b]);
        for (old, other) in [(&a, &b), (&b, &a)] {
            let kept = now.content.same(&old.content) || matches!(ruling.fate, Fate::KeepBoth(_));
            prop_assert!(!old.content.is_live() || kept || supersedes(other, old));
        }
    }

    #[test]
    fn a_first_contact_leaves_something_where_something_was(a in row(), b in row()) {
        let context = Context { first_contact: true, ..TWO_WAY };
        let ruling = decide(Rows { initiator: &a, responder: &b }, &context);
        let [now, _] = carried_out(ruling, [&a, &b]);
        let was_live = a.content.is_live() || b.content.is_live();
        prop_assert_eq!(now.content.is_live(), was_live);
    }

    #[test]
    fn one_way_leaves_what_the_source_has(a in row(), b in row(), first_contact in any::<bool>()) {
        let context = Context { flow: Flow::ToResponder, first_contact, ..TWO_WAY };
        let ruling = decide(Rows { initiator: &a, responder: &b }, &context);
        let [ours, theirs] = carried_out(ruling, [&a, &b]);
        prop_assert!(ours.same_state(&a));
        prop_assert!(theirs.same_state(&a));
        prop_assert_eq!(ruling.conflict, None);
    }

    #[test]
    fn only_different_live_contents_are_both_kept(a in row(), b in row(), context in context()) {
        let ruling = decide(Rows { initiator: &a, responder: &b }, &context);
        if let Fate::KeepBoth(winner) = ruling.fate {
            prop_assert!(a.content.is_live() && b.content.is_live());
            prop_assert!(!a.content.same(&b.content));
            // A directory cannot go to a clash file.
            let loser = of([&a, &b], winner.other());
            prop_assert!(!matches!(loser.content, Content::Directory));
        }
    }
}
