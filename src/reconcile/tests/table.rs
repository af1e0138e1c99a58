//! A named case for each cell of the rule matrix; each also holds with the sides exchanged.

use psync_protocol::message::Flow;
use psync_protocol::{Check, Content, Props, PropsDecision, Role, Row};

use super::*;
use crate::reconcile::{Rows, decide};
use crate::report::ConflictKind;
use crate::report::ConflictKind::{CreatedBoth, ModifiedBoth, PropertiesBoth, Type};
use Fate::{Agree, KeepBoth, Take};
use Role::{Initiator as Ours, Responder as Theirs};

struct Case {
    name: &'static str,
    ours: Row<Check>,
    theirs: Row<Check>,
    context: Context,
    fate: Fate,
    props: PropsDecision,
    /// Whether the content is a choice between two changes, and whether the properties are.
    resolved: (bool, bool),
    conflict: Option<ConflictKind>,
}

fn case(name: &'static str, ours: Row<Check>, theirs: Row<Check>, fate: Fate) -> Case {
    let (props, resolved) = match fate {
        Agree => (PropsDecision::Agree, false),
        Take(role) => (PropsDecision::Take(role), false),
        KeepBoth(role) => (PropsDecision::Take(role), true),
    };
    let resolved = (resolved, resolved);
    Case { name, ours, theirs, context: TWO_WAY, fate, props, resolved, conflict: None }
}

impl Case {
    fn resolved(self) -> Case {
        Case { resolved: (true, true), ..self }
    }

    /// Only the content is a choice: nothing is known of the properties of what is gone.
    fn content_resolved(self) -> Case {
        Case { resolved: (true, false), ..self }
    }

    fn conflict(self, kind: ConflictKind) -> Case {
        Case { conflict: Some(kind), ..self }
    }

    fn with_props(self, props: PropsDecision) -> Case {
        Case { props, ..self }
    }

    /// Properties that are a choice between two changes.
    fn merging(self, mode: u16, secs: i64) -> Case {
        let props = PropsDecision::Merge(Props { mode, mtime: time(secs) });
        Case { props, resolved: (self.resolved.0, true), ..self }
    }

    fn choosing(self, role: Role) -> Case {
        let props = PropsDecision::Take(role);
        Case { props, resolved: (self.resolved.0, true), ..self }
    }

    fn at_first_contact(self) -> Case {
        Case { context: Context { first_contact: true, ..self.context }, ..self }
    }

    fn one_way(self, flow: Flow) -> Case {
        Case { context: Context { flow, ..self.context }, ..self }
    }

    fn preferring(self, tie: Role) -> Case {
        Case { context: Context { tie, ..self.context }, ..self }
    }
}

fn hold(cases: Vec<Case>) {
    for case in cases {
        let name = case.name;
        let rows = Rows { initiator: &case.ours, responder: &case.theirs };
        let ruling = decide(rows, &case.context);
        let resolved = (ruling.content_resolved, ruling.props_resolved);
        assert_eq!(ruling.fate, case.fate, "{name}: what becomes of the content");
        assert_eq!(ruling.props, case.props, "{name}: what becomes of the properties");
        assert_eq!(resolved, case.resolved, "{name}: what is a choice");
        assert_eq!(ruling.conflict, case.conflict, "{name}: which conflict");
        let exchanged = Rows { initiator: &case.theirs, responder: &case.ours };
        let exchanged = decide(exchanged, &case.context.mirrored());
        assert_eq!(exchanged, mirrored(ruling), "{name}: with the sides exchanged");
    }
}

#[test]
fn what_changed_on_one_side_is_copied() {
    let old = || agreed(file("old"));
    hold(vec![
        case("created, absent", created(HERE, file("new")), absent(), Take(Ours)),
        case("modified, unchanged", old().edited(HERE, "new", 20), old(), Take(Ours)),
        case("a directory created", created(HERE, Content::Directory), absent(), Take(Ours)),
        case("a symlink created", created(HERE, link("x")), absent(), Take(Ours)),
        case(
            "a symlink that points elsewhere",
            agreed(link("x")).becomes(HERE, link("y"), 20),
            agreed(link("x")),
            Take(Ours),
        ),
        case(
            "modified to an older time, unchanged",
            old().edited(HERE, "new", 5),
            old(),
            Take(Ours),
        ),
        case(
            "created again, a tombstone known to both",
            old().deleted(HERE).edited(HERE, "again", 20),
            old().deleted(HERE),
            Take(Ours),
        ),
        case(
            "created, and never more than a tombstone of its own there",
            created(HERE, file("new")),
            created(THERE, file("other")).deleted(THERE),
            Take(Ours),
        )
        .resolved(),
    ]);
}

#[test]
fn a_deletion_is_carried_out_unless_something_changed() {
    let old = || agreed(file("old"));
    hold(vec![
        case("deleted, unchanged", old().deleted(HERE), old(), Take(Ours)),
        case(
            "a directory deleted, unchanged",
            agreed(Content::Directory).deleted(HERE),
            agreed(Content::Directory),
            Take(Ours),
        ),
        case(
            "deleted, modified",
            old().deleted(HERE),
            old().edited(THERE, "new", 20),
            Take(Theirs),
        )
        .resolved(),
        case(
            "deleted, created anew",
            old().deleted(HERE),
            created(THERE, file("new")),
            Take(Theirs),
        )
        .resolved(),
        case(
            "deleted, became a directory",
            old().deleted(HERE),
            old().becomes(THERE, Content::Directory, 0),
            Take(Theirs),
        )
        .resolved(),
        case("deleted, only touched", old().deleted(HERE), old().touched(THERE, 30), Take(Ours)),
        case("deleted, deleted", old().deleted(HERE), old().deleted(THERE), Agree),
        case("deleted, never there", created(HERE, file("x")).deleted(HERE), absent(), Agree),
        case("moved, deleted", old().moved(HERE, "g"), old().deleted(THERE), Agree),
        case("moved, unchanged", old().moved(HERE, "g"), old(), Take(Ours)),
    ]);
}

#[test]
fn different_changes_on_both_sides_are_conflicts_and_the_newer_keeps_the_name() {
    let old = || agreed(file("old"));
    hold(vec![
        case(
            "modified, modified",
            old().edited(HERE, "one", 20),
            old().edited(THERE, "two", 30),
            KeepBoth(Theirs),
        )
        .conflict(ModifiedBoth),
        case(
            "created, created",
            created(HERE, file("one")).touched(HERE, 40),
            created(THERE, file("two")),
            KeepBoth(Ours),
        )
        .conflict(CreatedBoth),
        case(
            "a symlink on both sides, elsewhere",
            agreed(link("x")).becomes(HERE, link("y"), 20),
            agreed(link("x")).becomes(THERE, link("z"), 30),
            KeepBoth(Theirs),
        )
        .conflict(ModifiedBoth),
        case(
            "equal versions of different contents, which nobody writes",
            agreed(file("one")).touched(HERE, 40),
            agreed(file("two")),
            KeepBoth(Ours),
        )
        .conflict(ModifiedBoth),
    ]);
}

#[test]
fn of_equal_times_the_longer_file_wins_and_then_the_same_replica_whoever_plans() {
    let old = || agreed(file("old"));
    let tied = |name, tie| {
        case(name, old().edited(HERE, "one", 20), old().edited(THERE, "two", 20), KeepBoth(tie))
            .preferring(tie)
            .conflict(ModifiedBoth)
    };
    hold(vec![
        case(
            "the same time, of different lengths",
            old().edited(HERE, "longer", 20),
            old().edited(THERE, "short", 20),
            KeepBoth(Ours),
        )
        .preferring(Theirs)
        .conflict(ModifiedBoth),
        tied("the same time and length, ours preferred", Ours),
        tied("the same time and length, theirs preferred", Theirs),
    ]);
}

#[test]
fn the_same_content_is_agreement() {
    let old = || agreed(file("old"));
    hold(vec![
        case("nothing happened", old(), old(), Agree),
        case("the same was created", created(HERE, file("x")), created(THERE, file("x")), Agree),
        case("the same edit", old().edited(HERE, "new", 20), old().edited(THERE, "new", 20), Agree),
        case(
            "the same directory",
            created(HERE, Content::Directory),
            created(THERE, Content::Directory),
            Agree,
        ),
        case("the same symlink", created(HERE, link("x")), created(THERE, link("x")), Agree),
        case(
            "the same was created at different times: the newer wins",
            created(HERE, file("x")).touched(HERE, 40),
            created(THERE, file("x")),
            Agree,
        )
        .choosing(Ours),
    ]);
}

#[test]
fn changed_properties_go_without_content() {
    let old = || agreed(file("old"));
    let took = |name, ours: Row<Check>, theirs| {
        case(name, ours, theirs, Agree).with_props(PropsDecision::Take(Ours))
    };
    hold(vec![
        took("chmod, unchanged", old().chmod(HERE, 0o600), old()),
        took("touch, unchanged", old().touched(HERE, 20), old()),
        took("touch to an older time, unchanged", old().touched(HERE, 5), old()),
        took(
            "chmod of a directory, unchanged",
            agreed(Content::Directory).chmod(HERE, 0o700),
            agreed(Content::Directory),
        ),
        case(
            "chmod here, touch there: both",
            old().chmod(HERE, 0o600),
            old().touched(THERE, 20),
            Agree,
        )
        .merging(0o600, 20),
        case(
            "the same chmod on both sides",
            old().chmod(HERE, 0o600),
            old().chmod(THERE, 0o600),
            Agree,
        ),
        case(
            "touched on both sides: the newer time, no conflict",
            old().touched(HERE, 20),
            old().touched(THERE, 30),
            Agree,
        )
        .choosing(Theirs),
        case(
            "chmod on both sides, different: the newer file's",
            old().chmod(HERE, 0o600).touched(HERE, 20),
            old().chmod(THERE, 0o664),
            Agree,
        )
        .choosing(Ours)
        .conflict(PropertiesBoth),
        case(
            "chmod on both sides, different, of one age: the preferred side's",
            old().chmod(HERE, 0o600),
            old().chmod(THERE, 0o664),
            Agree,
        )
        .choosing(Ours)
        .conflict(PropertiesBoth),
    ]);
}

#[test]
fn changed_properties_and_changed_content_both_happen() {
    let old = || agreed(file("old"));
    hold(vec![
        case(
            "edit here, chmod there",
            old().edited(HERE, "new", 20),
            old().chmod(THERE, 0o600),
            Take(Ours),
        )
        .merging(0o600, 20),
        case(
            "edit here, touch there: the time goes with the content",
            old().edited(HERE, "new", 20),
            old().touched(THERE, 90),
            Take(Ours),
        ),
        case(
            "edit and chmod here, touch there",
            old().edited(HERE, "new", 20).chmod(HERE, 0o600),
            old().touched(THERE, 90),
            Take(Ours),
        ),
        case(
            "edit and chmod here, the same chmod there",
            old().edited(HERE, "new", 20).chmod(HERE, 0o600),
            old().chmod(THERE, 0o600),
            Take(Ours),
        ),
    ]);
}

#[test]
fn a_change_of_kind_replaces_and_clashes_only_with_another_change() {
    let dir = || agreed(Content::Directory);
    let old = || agreed(file("old"));
    hold(vec![
        case(
            "a file became a directory, unchanged",
            old().becomes(HERE, Content::Directory, 0),
            old(),
            Take(Ours),
        ),
        case(
            "a directory became a file, unchanged",
            dir().edited(HERE, "x", 20),
            dir(),
            Take(Ours),
        ),
        case("a file became a symlink, unchanged", old().becomes(HERE, link("x"), 20), old(), {
            Take(Ours)
        }),
        case(
            "became a symlink, modified",
            old().becomes(HERE, link("x"), 20),
            old().edited(THERE, "new", 30),
            KeepBoth(Theirs),
        )
        .conflict(Type),
        case(
            "became a directory, modified later: the directory keeps the name",
            old().becomes(HERE, Content::Directory, 0),
            old().edited(THERE, "new", 30),
            KeepBoth(Ours),
        )
        .conflict(Type),
        case(
            "a directory created, a file created",
            created(HERE, Content::Directory),
            created(THERE, file("x")),
            KeepBoth(Ours),
        )
        .conflict(Type),
        case(
            "a directory created, a symlink created",
            created(HERE, Content::Directory),
            created(THERE, link("x")),
            KeepBoth(Ours),
        )
        .conflict(Type),
    ]);
}

#[test]
fn a_change_to_exactly_what_the_other_has_is_no_conflict() {
    // The other side met the same content elsewhere: the vectors are concurrent.
    let elsewhere = |text: &str| {
        let both = version(&[(ELSEWHERE, 1), (THERE, 1)]);
        Row { content_version: both.clone(), ..agreed(file(text)) }
    };
    let old = || agreed(file("old"));
    hold(vec![
        case("edited from it", old().edited(HERE, "new", 20), elsewhere("old"), Take(Ours)),
        case("deleted it", old().deleted(HERE), elsewhere("old"), Take(Ours)),
        case(
            "made a directory of it",
            old().becomes(HERE, Content::Directory, 0),
            elsewhere("old"),
            Take(Ours),
        ),
        case(
            "edited from something else",
            old().edited(HERE, "new", 20),
            elsewhere("other"),
            KeepBoth(Ours),
        )
        .conflict(ModifiedBoth),
        case(
            "each claims to build on the other",
            old().edited(HERE, "new", 20),
            elsewhere("new").edited(THERE, "old", 30),
            KeepBoth(Theirs),
        )
        .conflict(ModifiedBoth),
        case(
            "a new file builds on nothing, not on a tombstone",
            created(HERE, file("new")),
            elsewhere("old").deleted(THERE),
            Take(Ours),
        )
        .resolved(),
    ]);
}

#[test]
fn a_first_contact_deletes_nothing() {
    let old = || agreed(file("old"));
    hold(
        vec![
            case("deleted, unchanged", old().deleted(HERE), old(), Take(Theirs)).resolved(),
            case(
                "deleted, the same from elsewhere",
                old().deleted(HERE),
                created(ELSEWHERE, file("old")),
                Take(Theirs),
            )
            .resolved(),
            case("deleted, deleted", old().deleted(HERE), old().deleted(THERE), Agree),
            case("only here", created(HERE, file("x")), absent(), Take(Ours)),
            case(
                "different on both",
                created(HERE, file("one")),
                created(THERE, file("two")).touched(THERE, 30),
                KeepBoth(Theirs),
            )
            .conflict(CreatedBoth),
            case(
                "modes that nobody changed differ: the newer file's, no conflict",
                made(file("x"), 0o600).touched(HERE, 40),
                made(file("x"), 0o644).touched(THERE, 30),
                Agree,
            )
            .choosing(Ours),
        ]
        .into_iter()
        .map(Case::at_first_contact)
        .collect(),
    );
}

#[test]
fn one_way_takes_what_the_source_has() {
    let old = || agreed(file("old"));
    let cases = vec![
        case("modified", old().edited(HERE, "new", 20), old(), Take(Ours)),
        case("deleted", old().deleted(HERE), old(), Take(Ours)),
        case("modified there", old(), old().edited(THERE, "new", 20), Take(Ours)).resolved(),
        case("deleted there", old(), old().deleted(THERE), Take(Ours)).content_resolved(),
        case("created there", absent(), created(THERE, file("x")), Take(Ours)).content_resolved(),
        case(
            "modified on both",
            old().edited(HERE, "one", 20),
            old().edited(THERE, "two", 30),
            Take(Ours),
        )
        .resolved(),
        case("touched there", old(), old().touched(THERE, 20), Agree).choosing(Ours),
        case("deleted on both", old().deleted(HERE), old().deleted(THERE), Agree),
        case("the same", old(), old(), Agree),
    ];
    hold(cases.into_iter().map(|case| case.one_way(Flow::ToResponder)).collect());
}

#[test]
fn one_way_deletes_even_at_first_contact() {
    let case = case("only there", absent(), created(THERE, file("x")), Take(Ours));
    hold(vec![case.content_resolved().one_way(Flow::ToResponder).at_first_contact()]);
}
