//! What a plan may do for a peer that has some rights and not others.

use psync_protocol::decision::Planner;
use psync_protocol::message::Mark;
use psync_protocol::session::{Agreement, Paths};
use psync_protocol::{
    Check, Content, ContentDecision, Decision, Props, PropsDecision, ReplicaId, Role, Row,
};

use super::{file, made, path};
use crate::manifest::{Permit, Rights};
use crate::reconcile::permitted;

const LIST: Rights = Rights { list: true, ..Rights::NONE };
const READ: Rights = Rights { read: true, ..LIST };
const WRITE: Rights = Rights { write: true, ..LIST };
const DELETE: Rights = Rights { delete: true, ..LIST };
const READ_WRITE: Rights = Rights { read: true, ..WRITE };

fn row(name: &str, text: &str, mode: u16) -> Row<Check> {
    Row { path: path(name), ..made(file(text), mode) }
}

fn gone(name: &str) -> Row<Check> {
    Row::absent(path(name))
}

fn content(content: ContentDecision) -> Decision {
    Decision { content, ..Decision::agree() }
}

fn agreement(paths: Paths, decisions: Vec<Decision>) -> Agreement {
    Agreement { paths, decisions, planner: Planner { replica: ReplicaId([1; 16]), counter: 1 } }
}

/// A plan for one path.
fn plan(initiator: Row<Check>, mark: Mark, responder: Row<Check>, decision: Decision) -> Agreement {
    agreement(Paths::join(vec![initiator], &[mark], vec![responder]), vec![decision])
}

/// The plan needs all of these rights, and no others.
#[track_caller]
fn needs(plan: &Agreement, rights: Rights) {
    let allows = |rights| permitted(plan, &Permit::new([(None, rights)])).is_ok();
    assert!(allows(rights), "{rights:?} should do");
    for missing in [
        Rights { read: false, ..Rights::ALL },
        Rights { write: false, ..Rights::ALL },
        Rights { delete: false, ..Rights::ALL },
    ] {
        let is_needed = rights.read && !missing.read
            || rights.write && !missing.write
            || rights.delete && !missing.delete;
        assert_eq!(allows(missing), !is_needed, "{missing:?}");
    }
}

#[test]
fn what_nobody_changes_needs_no_right() {
    let both = || row("a", "1", 0o644);
    for decision in
        [Decision::agree(), content(ContentDecision::Ignore), content(ContentDecision::Later)]
    {
        needs(&plan(both(), Mark::Behind, both(), decision), LIST);
    }
    let directory = || Row { path: path("a"), ..made(Content::Directory, 0o755) };
    needs(&plan(gone("a"), Mark::Behind, directory(), Decision::take(Role::Responder)), LIST);
}

#[test]
fn content_that_leaves_is_read_and_content_that_comes_is_written() {
    let (old, new) = (|| row("a", "1", 0o644), || row("a", "2", 0o644));
    let of = |role| plan(new(), Mark::Behind, old(), Decision::take(role));
    needs(&of(Role::Responder), READ);
    needs(&of(Role::Initiator), WRITE);
    let delete = Decision::take(Role::Initiator);
    needs(&plan(gone("a"), Mark::Behind, old(), delete), DELETE);
    let clash = path("a_clash");
    let keep_both = ContentDecision::KeepBoth { winner: Role::Initiator, clash };
    needs(&plan(new(), Mark::Behind, old(), content(keep_both)), READ_WRITE);
}

#[test]
fn to_set_properties_is_to_write_unless_they_are_so_already() {
    let (ours, theirs) = (|| row("a", "1", 0o644), || row("a", "1", 0o600));
    let set = |props| Decision { props, ..Decision::agree() };
    let plan = |props| plan(theirs(), Mark::Behind, ours(), set(props));
    needs(&plan(PropsDecision::Take(Role::Initiator)), WRITE);
    needs(&plan(PropsDecision::Take(Role::Responder)), LIST);
    needs(&plan(PropsDecision::Merge(theirs().props)), WRITE);
    needs(&plan(PropsDecision::Merge(ours().props)), LIST);
    needs(&plan(PropsDecision::Merge(Props::default())), WRITE);
}

#[test]
fn to_move_is_to_delete_here_and_to_write_there() {
    let paths = || {
        let ours = vec![row("closed/a", "1", 0o644), gone("open/b")];
        Paths::join(vec![gone("closed/a"), row("open/b", "1", 0o644)], &[], ours)
    };
    let decisions = || {
        let arrive = ContentDecision::Arrive { from: Role::Responder, source: 0 };
        let props = PropsDecision::Take(Role::Responder);
        let moved = content(ContentDecision::MovedAway(Role::Initiator));
        vec![moved, Decision { props, ..content(arrive) }]
    };
    let plan = agreement(paths(), decisions());
    needs(&plan, Rights::ALL);
    // Nothing gets out of a folder that may not be read, whatever may be done where it would arrive.
    let permit = Permit::new([
        (Some(path("open")), Rights::ALL),
        (Some(path("closed")), Rights { read: false, ..Rights::ALL }),
    ]);
    let forbidden = permitted(&plan, &permit).unwrap_err();
    assert_eq!((forbidden.path, forbidden.deed), (path("closed/a"), "read"));
}

#[test]
fn a_clash_file_needs_a_right_at_its_own_name() {
    let clash = ContentDecision::KeepBoth { winner: Role::Responder, clash: path("a_clash") };
    let plan = plan(row("a", "1", 0o644), Mark::Behind, row("a", "2", 0o644), content(clash));
    let permit = Permit::new([(Some(path("a")), Rights::ALL)]);
    let forbidden = permitted(&plan, &permit).unwrap_err();
    assert_eq!((forbidden.path, forbidden.deed), (path("a_clash"), "change"));
}
