//! Plans of two replicas that have met: moves, directories, clash files, and what cannot be seen.

use psync_protocol::message::Flow;
use psync_protocol::{ContentDecision, Role};

use super::model::{Replica, Session, WHOLE, hold, sync};
use super::path;

/// Two replicas with the same tree.
fn pair(files: &[(&str, &str)]) -> [Replica; 2] {
    let [mut a, mut b] = [Replica::new(1), Replica::new(2)];
    files.iter().for_each(|(name, text)| a.write(name, text, 10));
    sync(&mut a, &mut b);
    assert_eq!(a.tree(), b.tree());
    [a, b]
}

/// Does something on both sides and syncs, whichever side starts; then both have the same, and
/// nothing is left to do.
fn after(
    files: &[(&str, &str)],
    here: impl Fn(&mut Replica),
    there: impl Fn(&mut Replica),
    check: impl Fn(&Replica, &[(String, &'static str)]),
) {
    for reversed in [false, true] {
        let [mut a, mut b] = pair(files);
        here(&mut a);
        there(&mut b);
        let meeting = if reversed { sync(&mut b, &mut a) } else { sync(&mut a, &mut b) };
        assert_eq!(a.tree(), b.tree(), "reversed: {reversed}");
        check(&a, &meeting.conflicts());
        let again = sync(&mut a, &mut b);
        assert!(again.paths.is_empty(), "reversed: {reversed}: {:?}", again.paths);
    }
}

const ONE: &[(&str, &str)] = &[("f", "old")];

#[test]
fn a_moved_file_is_renamed_on_the_other_side() {
    after(
        ONE,
        |a| a.rename("f", "g"),
        |_| {},
        |now, conflicts| {
            assert_eq!(now.names(), ["g"]);
            assert!(conflicts.is_empty());
        },
    );
}

#[test]
fn a_file_that_was_moved_and_edited_takes_its_edit_along() {
    after(
        ONE,
        |a| a.rename_and_edit("f", "new/g", "edited", 20),
        |_| {},
        |now, conflicts| {
            assert_eq!(now.names(), ["new", "new/g"]);
            assert!(now.holds("new/g", "edited"));
            assert!(conflicts.is_empty());
        },
    );
}

#[test]
fn an_edit_of_a_file_that_was_moved_and_edited_stays_under_the_old_name() {
    after(
        ONE,
        |a| a.rename_and_edit("f", "g", "edited here", 20),
        |b| b.write("f", "edited there", 30),
        |now, _| {
            assert_eq!(now.names(), ["f", "g"]);
            assert!(now.holds("f", "edited there") && now.holds("g", "edited here"));
        },
    );
}

#[test]
fn a_file_moved_by_both_and_edited_by_one_is_the_edited_one() {
    after(
        ONE,
        |a| a.rename_and_edit("f", "g", "edited", 20),
        |b| b.rename("f", "g"),
        |now, conflicts| {
            assert_eq!(now.names(), ["g"]);
            assert!(now.holds("g", "edited"));
            assert!(conflicts.is_empty());
        },
    );
}

#[test]
fn a_file_moved_and_edited_by_both_clashes_and_nothing_is_lost() {
    after(
        ONE,
        |a| a.rename_and_edit("f", "g", "one", 20),
        |b| b.rename_and_edit("f", "g", "two", 30),
        |now, conflicts| {
            assert_eq!(now.names().len(), 2);
            assert!(now.holds("g", "two"));
            assert_eq!(conflicts.len(), 1);
        },
    );
}

#[test]
fn a_file_moved_and_edited_where_another_was_made_clashes_and_nothing_is_lost() {
    after(
        ONE,
        |a| a.rename_and_edit("f", "g", "one", 20),
        |b| b.write("g", "other", 30),
        |now, conflicts| {
            assert_eq!(now.names().len(), 2);
            assert!(now.holds("g", "other"));
            assert_eq!(conflicts.len(), 1);
        },
    );
}

#[test]
fn a_file_moved_and_edited_here_and_deleted_there_lives_on_under_its_new_name() {
    after(
        ONE,
        |a| a.rename_and_edit("f", "g", "edited", 20),
        |b| b.delete("f"),
        |now, conflicts| {
            assert!(now.holds("g", "edited"));
            assert_eq!(now.names(), ["g"]);
            assert!(conflicts.is_empty());
        },
    );
}

#[test]
fn an_edit_follows_a_file_that_was_moved() {
    after(
        ONE,
        |a| a.rename("f", "new/g"),
        |b| b.write("f", "edited", 20),
        |now, conflicts| {
            assert_eq!(now.names(), ["new", "new/g"]);
            assert!(now.holds("new/g", "edited"));
            assert!(conflicts.is_empty());
        },
    );
}

#[test]
fn an_edit_follows_into_a_directory_that_was_moved_whole() {
    let files = &[("d/f", "old"), ("d/other", "other")];
    after(
        files,
        |a| a.rename("d", "e"),
        |b| b.write("d/f", "edited", 20),
        |now, conflicts| {
            assert_eq!(now.names(), ["e", "e/f", "e/other"]);
            assert!(now.holds("e/f", "edited"));
            assert!(conflicts.is_empty());
        },
    );
}

#[test]
fn an_edit_does_not_follow_onto_a_file_that_was_created_there() {
    let both = |b: &mut Replica| {
        b.write("f", "edited", 20);
        b.write("g", "created", 20);
    };
    after(
        ONE,
        |a| a.rename("f", "g"),
        both,
        |now, conflicts| {
            assert!(now.holds("f", "edited"));
            assert_eq!(conflicts, [("g".to_string(), "created-both")]);
            let clash = "g_clash_202611020304";
            assert!(now.has("g") && now.has(clash));
            assert!(now.holds("g", "created") || now.holds(clash, "created"));
        },
    );
}

#[test]
fn a_file_moved_to_the_same_place_on_both_sides_is_no_conflict() {
    after(
        ONE,
        |a| a.rename("f", "g"),
        |b| b.rename("f", "g"),
        |now, conflicts| {
            assert_eq!(now.names(), ["g"]);
            assert!(conflicts.is_empty());
        },
    );
}

#[test]
fn a_move_survives_a_deletion() {
    after(
        ONE,
        |a| a.rename("f", "g"),
        |b| b.delete("f"),
        |now, conflicts| {
            assert_eq!(now.names(), ["g"]);
            assert!(conflicts.is_empty());
        },
    );
}

#[test]
fn a_deleted_directory_with_a_new_file_inside_stays_without_its_deleted_entries() {
    let files = &[("d/e/x", "x"), ("d/y", "y")];
    after(
        files,
        |a| a.delete("d"),
        |b| b.write("d/e/new", "new", 20),
        |now, conflicts| {
            assert_eq!(now.names(), ["d", "d/e", "d/e/new"]);
            assert!(conflicts.is_empty());
        },
    );
}

#[test]
fn a_deleted_directory_with_an_edited_file_inside_stays_with_it() {
    let files = &[("d/x", "x"), ("d/y", "y")];
    after(
        files,
        |a| a.delete("d"),
        |b| b.write("d/x", "edited", 20),
        |now, conflicts| {
            assert_eq!(now.names(), ["d", "d/x"]);
            assert!(conflicts.is_empty());
        },
    );
}

#[test]
fn a_new_file_in_a_moved_directory_stays_where_it_was_made() {
    let files = &[("d/x", "x")];
    after(
        files,
        |a| a.rename("d", "e"),
        |b| b.write("d/new", "new", 20),
        |now, _| {
            assert_eq!(now.names(), ["d", "d/new", "e", "e/x"]);
        },
    );
}

#[test]
fn a_file_in_the_place_of_a_directory_with_an_edit_inside_clashes() {
    let replaced = |a: &mut Replica| {
        a.delete("d");
        a.write("d", "file", 20);
    };
    let files = &[("d/x", "x"), ("d/y", "y")];
    after(
        files,
        replaced,
        |b| b.write("d/x", "edited", 30),
        |now, conflicts| {
            assert_eq!(now.names(), ["d", "d/x", "d_clash_202611020304"]);
            assert!(now.holds("d_clash_202611020304", "file"));
            assert_eq!(conflicts, [("d".to_string(), "type")]);
        },
    );
}

#[test]
fn a_file_in_the_place_of_an_unchanged_directory_replaces_it() {
    let replaced = |a: &mut Replica| {
        a.delete("d");
        a.write("d", "file", 20);
    };
    after(
        &[("d/x", "x")],
        replaced,
        |_| {},
        |now, conflicts| {
            assert_eq!(now.names(), ["d"]);
            assert!(conflicts.is_empty());
        },
    );
}

#[test]
fn a_directory_in_the_place_of_an_edited_file_keeps_the_name() {
    let replaced = |a: &mut Replica| {
        a.delete("f");
        a.write("f/x", "x", 20);
    };
    after(
        ONE,
        replaced,
        |b| b.write("f", "edited", 30),
        |now, conflicts| {
            assert_eq!(now.names(), ["f", "f/x", "f_clash_202611020304"]);
            assert!(now.holds("f_clash_202611020304", "edited"));
            assert_eq!(conflicts, [("f".to_string(), "type")]);
        },
    );
}

#[test]
fn both_versions_of_a_conflict_are_on_both_sides() {
    let (mine, yours) =
        (|a: &mut Replica| a.write("f", "mine", 20), |b: &mut Replica| b.write("f", "yours", 30));
    after(ONE, mine, yours, |now, conflicts| {
        assert!(now.holds("f", "yours") && now.holds("f_clash_202611020304", "mine"));
        assert_eq!(conflicts, [("f".to_string(), "modified-both")]);
    });
}

#[test]
fn clash_names_do_not_collide_with_each_other_or_with_files_of_either_side() {
    // These three names are the same once they are shortened.
    let long = |end: &str| format!("{}{end}", "\u{e9}".repeat(126));
    let names = [long("abc"), long("abd"), long("abe"), ".rc".to_string()];
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "old")).collect();
    let write = |text: &'static str, at: i64| {
        let names = names.clone();
        move |end: &mut Replica| names.iter().for_each(|name| end.write(name, text, at))
    };
    let mine = |a: &mut Replica| {
        write("mine", 20)(a);
        a.write(".rc_clash_202611020304", "in the way here", 20);
    };
    let yours = |b: &mut Replica| {
        write("yours", 30)(b);
        b.write(".rc_clash_202611020304_2", "in the way there", 20);
    };
    after(&files, mine, yours, |now, conflicts| {
        assert_eq!(conflicts.len(), 4);
        assert_eq!(now.names().len(), 10);
        let clashes = now.names().into_iter().filter(|name| now.holds(name, "mine"));
        assert_eq!(clashes.count(), 4);
        assert!(now.holds(".rc_clash_202611020304_3", "mine"));
        assert!(now.holds(".rc_clash_202611020304", "in the way here"));
        assert!(now.holds(".rc_clash_202611020304_2", "in the way there"));
    });
}

#[test]
fn what_a_filter_ignores_on_either_side_is_left_alone() {
    for (at_initiator, deleted) in [(false, false), (false, true), (true, false), (true, true)] {
        let [mut a, mut b] = pair(&[("f", "old"), ("g", "old")]);
        let (changed, ignoring) = if at_initiator { (&mut b, &mut a) } else { (&mut a, &mut b) };
        ignoring.ignored.insert(path("f"));
        if deleted {
            changed.delete("f")
        } else {
            changed.write("f", "new", 20)
        }
        let meeting = sync(&mut a, &mut b);
        assert_eq!(meeting.decision("f").content, ContentDecision::Ignore);
        let ignoring = if at_initiator { &a } else { &b };
        assert!(ignoring.holds("f", "old"));
        assert!(sync(&mut a, &mut b).paths.is_empty());
    }
}

#[test]
fn what_cannot_be_read_is_left_and_said_again_until_it_can() {
    for at_initiator in [false, true] {
        let [mut a, mut b] = pair(ONE);
        let (changed, blind) = if at_initiator { (&mut b, &mut a) } else { (&mut a, &mut b) };
        blind.blind.insert(path("f"));
        changed.write("f", "new", 20);
        for _ in 0..2 {
            let meeting = sync(&mut a, &mut b);
            assert_eq!(meeting.decision("f").content, ContentDecision::Later);
        }
        a.blind.clear();
        b.blind.clear();
        sync(&mut a, &mut b);
        assert!(a.holds("f", "new") && b.holds("f", "new"));
        assert!(sync(&mut a, &mut b).paths.is_empty());
    }
}

#[test]
fn two_populated_trees_that_meet_are_united() {
    let [mut a, mut b] = [Replica::new(1), Replica::new(2)];
    for (end, text, at) in [(&mut a, "one", 10), (&mut b, "two", 20)] {
        end.write("same/file", "same", 10);
        end.write("different", text, at);
        end.write(text, text, at);
        end.write("gone", text, at);
    }
    a.delete("gone");
    let meeting = sync(&mut a, &mut b);
    assert_eq!(a.tree(), b.tree());
    let expected =
        ["different", "different_clash_202611020304", "gone", "one", "same", "same/file", "two"];
    assert_eq!(a.names(), expected);
    assert_eq!(meeting.conflicts(), [("different".to_string(), "created-both")]);
    assert!(sync(&mut b, &mut a).paths.is_empty());
}

#[test]
fn a_mirror_gets_exactly_what_the_source_has() {
    for flow in [Flow::ToResponder, Flow::ToInitiator] {
        let files = &[("f", "old"), ("g", "old"), ("d/x", "x"), ("moved", "moved")];
        let [mut a, mut b] = pair(files);
        let (source, mirror) =
            if flow == Flow::ToResponder { (&mut a, &mut b) } else { (&mut b, &mut a) };
        source.write("f", "mine", 20);
        source.delete("d");
        source.rename("moved", "here");
        mirror.write("f", "yours", 30);
        mirror.delete("g");
        mirror.write("d/new", "new", 30);
        mirror.rename("moved", "there");
        let before = source.tree();
        let meeting = hold(&mut a, &mut b, Session { flow, ..WHOLE });
        assert_eq!(a.tree(), before);
        assert_eq!(b.tree(), before);
        assert!(meeting.conflicts().is_empty(), "{:?}", meeting.conflicts());
        assert!(sync(&mut a, &mut b).paths.is_empty());
    }
}

#[test]
fn a_mirror_keeps_what_a_filter_ignores() {
    let [mut a, mut b] = pair(&[("d/x", "x")]);
    b.ignored.insert(path("d/cache"));
    b.write("d/cache", "cache", 20);
    a.delete("d");
    let meeting = hold(&mut a, &mut b, Session { flow: Flow::ToResponder, ..WHOLE });
    assert_eq!(meeting.decision("d/x").content, ContentDecision::Take(Role::Initiator));
    assert!(b.has("d/cache") && !b.has("d/x"));
}

#[test]
fn an_edit_that_followed_a_move_reaches_a_third_replica() {
    let [mut a, mut b] = pair(ONE);
    let mut c = Replica::new(3);
    sync(&mut b, &mut c);
    a.rename("f", "g");
    c.write("f", "edited", 20);
    for _ in 0..2 {
        sync(&mut a, &mut b);
        sync(&mut b, &mut c);
    }
    assert_eq!(a.tree(), b.tree());
    assert_eq!(b.tree(), c.tree());
    assert!(a.names().iter().any(|name| a.holds(name, "edited")));
}

#[test]
fn an_edit_does_not_follow_to_a_place_where_something_else_is_now() {
    let moved_and_edited = |a: &mut Replica| {
        a.rename("f", "g");
        a.write("g", "mine", 20);
    };
    after(
        ONE,
        moved_and_edited,
        |b| b.write("f", "yours", 30),
        |now, _| {
            assert!(now.holds("g", "mine"));
            assert!(now.holds("f", "yours"));
        },
    );
}

#[test]
fn an_edit_does_not_follow_where_the_moved_file_was_deleted_later() {
    let moved_and_deleted = |a: &mut Replica| {
        a.rename("f", "g");
        a.delete("g");
    };
    after(
        ONE,
        moved_and_deleted,
        |b| b.write("f", "edited", 30),
        |now, _| {
            assert_eq!(now.names(), ["f"]);
        },
    );
}

#[test]
fn a_file_moved_to_two_places_keeps_both_names_and_is_reported() {
    after(
        ONE,
        |a| a.rename("f", "g"),
        |b| b.rename("f", "h"),
        |now, conflicts| {
            assert_eq!(now.names(), ["g", "h"]);
            assert_eq!(conflicts, [("f".to_string(), "moved-both")]);
        },
    );
}

#[test]
fn of_a_file_moved_to_two_places_a_mirror_keeps_the_one_of_the_source() {
    let [mut a, mut b] = pair(ONE);
    a.rename("f", "g");
    b.rename("f", "h");
    let meeting = hold(&mut a, &mut b, Session { flow: Flow::ToResponder, ..WHOLE });
    assert_eq!((a.names(), b.names()), (vec!["g".into()], vec!["g".into()]));
    assert!(meeting.conflicts().is_empty());
}

#[test]
fn a_deleted_directory_with_an_unreadable_file_inside_stays_until_it_can_be_read() {
    for at_initiator in [false, true] {
        let [mut a, mut b] = pair(&[("d/f", "old"), ("d/g", "old")]);
        let (changed, blind) = if at_initiator { (&mut b, &mut a) } else { (&mut a, &mut b) };
        blind.blind.insert(path("d/f"));
        changed.delete("d");
        sync(&mut a, &mut b);
        let blind = if at_initiator { &a } else { &b };
        assert_eq!(blind.names(), ["d", "d/f"], "at the initiator: {at_initiator}");
    }
}

#[test]
fn a_mirror_does_not_give_the_source_a_directory_that_it_cannot_remove() {
    for flow in [Flow::ToResponder, Flow::ToInitiator] {
        for replaced in [false, true] {
            let [mut a, mut b] = pair(&[("d/f", "old"), ("d/g", "old")]);
            let (source, mirror) =
                if flow == Flow::ToResponder { (&mut a, &mut b) } else { (&mut b, &mut a) };
            source.delete("d");
            if replaced {
                source.write("d", "file", 20);
            }
            mirror.blind.insert(path("d/f"));
            let before = source.tree();
            hold(&mut a, &mut b, Session { flow, ..WHOLE });
            let (source, mirror) = if flow == Flow::ToResponder { (&a, &b) } else { (&b, &a) };
            assert_eq!(source.tree(), before, "{flow:?}");
            assert_eq!(mirror.names(), ["d", "d/f"], "{flow:?}");
            a.blind.clear();
            b.blind.clear();
            hold(&mut a, &mut b, Session { flow, ..WHOLE });
            assert_eq!(a.tree(), before);
            assert_eq!(b.tree(), before);
        }
    }
}
