//! What counts as a deletion, and how many are too many.

use psync_protocol::Role;
use psync_protocol::session::Agreement;

use super::model::{Meeting, Replica, WHOLE, plan, sync};
use crate::reconcile::{
    ChangeLimit, DeleteLimit, Tripped, check_changes, check_deletions, deletions,
};

/// Two replicas with `count` files in a directory, after `change` at the first.
fn pair(count: usize, change: impl FnOnce(&mut Replica)) -> [Replica; 2] {
    let [mut a, mut b] = [Replica::new(1), Replica::new(2)];
    (0..count).for_each(|n| a.write(&format!("d/{n}"), &format!("text {n}"), 10));
    sync(&mut a, &mut b);
    change(&mut a);
    [a, b]
}

fn check(meeting: &Meeting, live: u64, limit: DeleteLimit) -> Result<(), Tripped> {
    check_deletions(&meeting.paths, &meeting.locals, &meeting.draft.decisions, |_| live, limit)
}

/// How many deletions are counted on each side: the initiator's, then the responder's.
fn counted(a: &Replica, b: &Replica) -> [u64; 2] {
    let meeting = plan(a, b, WHOLE);
    [Role::Initiator, Role::Responder].map(|side| {
        // A limit of all hundredths of the other side leaves only this one.
        let live = |role| if role == side { 0 } else { u64::MAX / 100 };
        let result = check_deletions(
            &meeting.paths,
            &meeting.locals,
            &meeting.draft.decisions,
            live,
            DeleteLimit::Percent(100),
        );
        result.err().map_or(0, |tripped| tripped.deletions)
    })
}

#[test]
fn what_is_deleted_here_is_counted_there() {
    let [a, b] = pair(5, |a| (0..3).for_each(|n| a.delete(&format!("d/{n}"))));
    assert_eq!(counted(&a, &b), [0, 3]);
    assert_eq!(counted(&b, &a), [3, 0]);
}

#[test]
fn a_directory_counts_as_well_as_what_is_in_it() {
    let [a, b] = pair(5, |a| a.delete("d"));
    assert_eq!(counted(&a, &b), [0, 6]);
    assert_eq!(counted(&b, &a), [6, 0]);
}

#[test]
fn an_edit_that_survives_is_not_counted() {
    let [a, mut b] = pair(2, |a| a.delete("d"));
    b.write("d/0", "edited", 20);
    assert_eq!(counted(&a, &b), [0, 1]);
    assert_eq!(counted(&b, &a), [1, 0]);
}

#[test]
fn what_was_deleted_on_both_sides_is_not_counted() {
    let [a, mut b] = pair(5, |a| a.delete("d"));
    b.delete("d");
    assert_eq!(counted(&a, &b), [0, 0]);
}

#[test]
fn more_than_half_and_more_than_a_hundred_trip_the_guard() {
    let [a, b] = pair(101, |a| (0..101).for_each(|n| a.delete(&format!("d/{n}"))));
    let meeting = plan(&a, &b, WHOLE);
    let tripped = Tripped { on: Role::Responder, deletions: 101, live: 150, limit: 100 };
    assert_eq!(check(&meeting, 150, DeleteLimit::Half), Err(tripped));
    assert_eq!(check(&meeting, 202, DeleteLimit::Half), Ok(()));
    assert_eq!(check(&meeting, 201, DeleteLimit::Half).map_err(|t| t.limit), Err(100));
    let [a, b] = pair(10, |a| a.delete("d"));
    assert_eq!(check(&plan(&a, &b, WHOLE), 11, DeleteLimit::Half), Ok(()));
}

#[test]
fn a_person_may_set_the_limit() {
    let [a, b] = pair(10, |a| (0..5).for_each(|n| a.delete(&format!("d/{n}"))));
    let meeting = plan(&a, &b, WHOLE);
    for (limit, passes) in [
        (DeleteLimit::Count(5), true),
        (DeleteLimit::Count(4), false),
        (DeleteLimit::Percent(50), true),
        (DeleteLimit::Percent(49), false),
        (DeleteLimit::Percent(100), true),
    ] {
        assert_eq!(check(&meeting, 10, limit).is_ok(), passes, "{limit:?}");
    }
}

#[test]
fn what_moves_is_not_deleted_and_neither_is_its_directory() {
    let [a, b] = pair(20, |a| a.rename("d", "e/f"));
    assert_eq!(counted(&a, &b), [0, 0]);
    assert_eq!(counted(&b, &a), [0, 0]);
}

#[test]
fn what_moved_and_was_deleted_afterwards_is_deleted() {
    let [a, b] = pair(5, |a| {
        a.rename("d", "e");
        a.delete("e");
    });
    assert_eq!(counted(&a, &b), [0, 6]);
    assert_eq!(counted(&b, &a), [6, 0]);
}

#[test]
fn what_came_and_went_between_two_sessions_is_not_counted() {
    let [a, b] = pair(1, |a| {
        (0..200).for_each(|n| a.write(&format!("tmp{n}"), "x", 20));
        (0..200).for_each(|n| a.delete(&format!("tmp{n}")));
    });
    assert_eq!(counted(&a, &b), [0, 0]);
    assert_eq!(counted(&b, &a), [0, 0]);
}

fn edited(a: &Replica, b: &Replica, files: u64, limit: ChangeLimit) -> Option<(Role, u64)> {
    let meeting = plan(a, b, WHOLE);
    let files = |_| Ok::<u64, std::convert::Infallible>(files);
    let Ok(checked) = check_changes(&meeting.paths, &meeting.locals, files, limit);
    checked.err().map(|flooded| (flooded.on, flooded.changed))
}

#[test]
fn edits_are_counted_on_the_side_that_made_them() {
    let edit = |a: &mut Replica| (0..110).for_each(|n| a.write(&format!("d/{n}"), "locked", 20));
    let [a, b] = pair(120, edit);
    assert_eq!(edited(&a, &b, 120, ChangeLimit::NineTenths), Some((Role::Initiator, 110)));
    assert_eq!(edited(&b, &a, 120, ChangeLimit::NineTenths), Some((Role::Responder, 110)));
    assert_eq!(edited(&a, &b, 123, ChangeLimit::NineTenths), None);
    assert_eq!(edited(&a, &b, 120, ChangeLimit::Count(110)), None);
    assert_eq!(edited(&a, &b, 120, ChangeLimit::Percent(90)), Some((Role::Initiator, 110)));
    let [a, b] = pair(3, |a| (0..3).for_each(|n| a.write(&format!("d/{n}"), "new", 20)));
    assert_eq!(edited(&a, &b, 3, ChangeLimit::NineTenths), None);
    assert_eq!(edited(&b, &a, 3, ChangeLimit::Count(2)), Some((Role::Responder, 3)));
}

#[test]
fn what_is_new_moved_deleted_or_only_touched_is_no_edit() {
    let [a, b] = pair(9, |a| {
        a.write("new", "new", 20);
        a.rename("d/0", "moved");
        a.delete("d/1");
        a.write("d/2", "text 2", 20);
        a.chmod("d/3", 0o700);
    });
    assert_eq!(edited(&a, &b, 9, ChangeLimit::Count(0)), None);
    assert_eq!(edited(&b, &a, 9, ChangeLimit::Count(0)), None);
}

#[test]
fn the_responder_counts_what_a_plan_deletes_on_its_side() {
    let [a, b] = pair(9, |a| {
        a.rename("d/0", "moved");
        (1..4).for_each(|n| a.delete(&format!("d/{n}")));
        a.write("d/4", "edited", 20);
    });
    let named = |one: &Replica, other: &Replica| {
        let meeting = plan(one, other, WHOLE);
        let planner = psync_protocol::decision::Planner { replica: one.id, counter: 1 };
        let decisions = meeting.draft.decisions;
        let agreement = Agreement { paths: meeting.paths, decisions, planner };
        deletions(&agreement).into_iter().map(|path| path.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(named(&a, &b), ["d/1", "d/2", "d/3"]);
    assert!(named(&b, &a).is_empty(), "what the planner takes itself is its own affair");
}
