//! What policies, modes and sizes make of whole plans, between replicas in memory.

use super::model::{Meeting, Replica, Session, WHOLE, hold};
use super::path;
use crate::reconcile::{Counsel, Mode, Policy, Rule, Rulebook};
use crate::report::{ConflictKind, State};

fn all(policy: Policy) -> Rulebook {
    let policies = ConflictKind::ALL.into_iter().map(|kind| (kind, policy.clone())).collect();
    Rulebook { policies, names: ("here".into(), "there".into()), ..Rulebook::default() }
}

fn session(a: &mut Replica, b: &mut Replica, book: &Rulebook) -> Meeting {
    let counsel = Counsel::new(book.clone()).unwrap();
    hold(a, b, Session { counsel: Some(&counsel), ..WHOLE })
}

/// Two replicas that have agreed on these files.
fn pair(files: &[(&str, &str)]) -> [Replica; 2] {
    let [mut a, mut b] = [Replica::new(1), Replica::new(2)];
    files.iter().for_each(|(name, text)| a.write(name, text, 10));
    hold(&mut a, &mut b, WHOLE);
    [a, b]
}

/// Here the longer, there the newer.
fn edited() -> [Replica; 2] {
    let [mut a, mut b] = pair(&[("f", "old"), ("other", "old")]);
    a.write("f", "longer here", 20);
    b.write("f", "there", 30);
    b.write("other", "new", 30);
    [a, b]
}

fn is_settled(a: &mut Replica, b: &mut Replica, book: &Rulebook) -> bool {
    let trees = [a.tree(), b.tree()];
    let again = session(b, a, book);
    trees == [a.tree(), b.tree()] && again.draft.conflicts.iter().all(|again| again.is_held())
}

#[test]
fn each_policy_takes_what_it_is_named_for() {
    let winners = [
        (Policy::Newest, "there"),
        (Policy::Oldest, "longer here"),
        (Policy::Largest, "longer here"),
        (Policy::Local, "longer here"),
        (Policy::Remote, "there"),
        (Policy::Replica("here".into()), "longer here"),
        (Policy::Replica("there".into()), "there"),
    ];
    for (policy, text) in winners {
        let [mut a, mut b] = edited();
        let meeting = session(&mut a, &mut b, &all(policy.clone()));
        assert_eq!(meeting.conflicts(), [("f".to_string(), "modified-both")]);
        let told = &meeting.draft.conflicts[0];
        assert!(told.chosen && told.state == State::Settled { clash: None }, "{told:?}");
        assert!(a.holds("f", text) && b.holds("f", text), "{policy:?}");
        assert_eq!(a.names(), ["f", "other"], "{policy:?}");
        assert!(is_settled(&mut a, &mut b, &Rulebook::default()), "{policy:?}");
    }
}

#[test]
fn a_replica_that_takes_no_part_makes_no_choice() {
    for policy in [Policy::Replica("elsewhere".into()), Policy::KeepBoth] {
        let [mut a, mut b] = edited();
        let meeting = session(&mut a, &mut b, &all(policy));
        assert!(!meeting.draft.conflicts[0].chosen);
        assert_eq!(a.names(), ["f", "f_clash_202611020304", "other"]);
    }
}

#[test]
fn what_is_held_waits_without_delaying_anything_else_and_is_told_each_time() {
    for (policy, to_merge) in [(Policy::Hold, false), (Policy::Merge, true)] {
        let [mut a, mut b] = edited();
        for _ in 0..3 {
            let meeting = session(&mut a, &mut b, &all(policy.clone()));
            let told = &meeting.draft.conflicts[0];
            assert_eq!(told.state, State::Held { to_merge });
            assert!(a.holds("f", "longer here") && b.holds("f", "there"));
            assert!(a.holds("other", "new"));
            assert!(told.ancestor.is_some(), "both know what they had");
        }
        // Another policy settles it later, whoever plans.
        session(&mut b, &mut a, &all(Policy::Newest));
        assert!(a.holds("f", "there") && b.holds("f", "there"));
    }
}

#[test]
fn a_choice_settles_what_was_held_unless_it_has_changed() {
    for changed in [false, true] {
        let [mut a, mut b] = edited();
        let meeting = session(&mut a, &mut b, &all(Policy::Hold));
        let seen = meeting.draft.conflicts[0].seen.clone();
        let mut book = all(Policy::Hold);
        let choice = crate::reconcile::Choice { policy: Policy::Local, seen };
        book.choices.insert(path("f"), choice);
        if changed {
            b.write("f", "there, once more", 40);
        }
        let meeting = session(&mut a, &mut b, &book);
        assert_eq!(meeting.draft.conflicts[0].is_held(), changed);
        assert_eq!(b.holds("f", "longer here"), !changed);
    }
}

#[test]
fn the_first_rule_for_a_path_goes_before_the_policies() {
    let rule = |pattern: &str, policy| Rule {
        pattern: pattern.into(),
        origin: "psync.toml, line 3".into(),
        policies: vec![(ConflictKind::ModifiedBoth, policy)],
        ..Rule::default()
    };
    let rules = vec![rule("*.x", Policy::Hold), rule("f", Policy::Local), rule("*", Policy::Hold)];
    let book = Rulebook { rules, ..all(Policy::Remote) };
    let [mut a, mut b] = edited();
    let meeting = session(&mut a, &mut b, &book);
    assert!(b.holds("f", "longer here"));
    let rule = &meeting.draft.conflicts[0].rule;
    assert_eq!(rule, "local, by the rule for 'f' (psync.toml, line 3)");
}

fn deleted_here() -> [Replica; 2] {
    let [mut a, mut b] = pair(&[("d/f", "old"), ("d/g", "old")]);
    a.delete("d");
    b.write("d/f", "edited", 30);
    [a, b]
}

#[test]
fn a_change_survives_a_deletion_unless_a_side_is_asked_for() {
    use Policy::{KeepBoth, Largest, Local, Merge, Newest, Oldest, Remote};
    for policy in [KeepBoth, Newest, Oldest, Largest, Merge, Remote] {
        let [mut a, mut b] = deleted_here();
        let meeting = session(&mut a, &mut b, &all(policy.clone()));
        assert!(a.holds("d/f", "edited") && !b.has("d/g"), "{policy:?}");
        assert!(meeting.draft.conflicts.iter().all(|told| told.chosen), "{policy:?}");
        assert!(is_settled(&mut a, &mut b, &Rulebook::default()), "{policy:?}");
    }
    let [mut a, mut b] = deleted_here();
    let meeting = session(&mut a, &mut b, &all(Local));
    assert_eq!(meeting.conflicts(), [("d/f".to_string(), "delete-modify")]);
    assert!(b.names().is_empty() && a.names().is_empty());
    assert!(is_settled(&mut a, &mut b, &Rulebook::default()));
}

#[test]
fn a_deletion_against_a_change_can_be_held_and_the_directory_waits_with_it() {
    let [mut a, mut b] = deleted_here();
    for _ in 0..2 {
        let meeting = session(&mut a, &mut b, &all(Policy::Hold));
        assert_eq!(meeting.conflicts(), [("d/f".to_string(), "delete-modify")]);
        assert!(a.names().is_empty() && b.holds("d/f", "edited"));
    }
}

#[test]
fn an_edit_still_follows_a_move_whatever_the_policy() {
    for policy in [Policy::Hold, Policy::Local, Policy::Remote, Policy::Newest] {
        let [mut a, mut b] = pair(&[("f", "old")]);
        a.rename("f", "g");
        b.write("f", "edited", 30);
        let meeting = session(&mut a, &mut b, &all(policy));
        assert_eq!(meeting.conflicts(), []);
        assert!(a.holds("g", "edited") && b.holds("g", "edited") && !b.has("f"));
    }
}

fn moved_both() -> [Replica; 2] {
    let [mut a, mut b] = pair(&[("f", "text")]);
    a.rename("f", "here");
    b.rename("f", "there");
    [a, b]
}

#[test]
fn a_name_is_chosen_for_what_both_have_moved() {
    let named = |name: &str| vec![name.to_string()];
    let both = vec!["here".to_string(), "there".to_string()];
    let outcomes = [
        (Policy::KeepBoth, both),
        (Policy::Local, named("here")),
        (Policy::Remote, named("there")),
        (Policy::Replica("there".into()), named("there")),
    ];
    for (policy, names) in outcomes {
        for starts in [0, 1] {
            let [mut a, mut b] = moved_both();
            let mut book = all(policy.clone());
            let meeting = if starts == 0 {
                session(&mut a, &mut b, &book)
            } else {
                // The same choice with the other end planning.
                let exchanged = match &policy {
                    Policy::Local => Policy::Remote,
                    Policy::Remote => Policy::Local,
                    other => other.clone(),
                };
                book = all(exchanged);
                book.names = ("there".into(), "here".into());
                session(&mut b, &mut a, &book)
            };
            assert_eq!(meeting.conflicts(), [("f".to_string(), "moved-both")]);
            assert_eq!((a.names(), b.names()), (names.clone(), names.clone()), "{policy:?}");
            assert!(is_settled(&mut a, &mut b, &Rulebook::default()), "{policy:?}");
        }
    }
}

#[test]
fn what_both_have_moved_can_be_held() {
    let [mut a, mut b] = moved_both();
    for _ in 0..3 {
        let meeting = session(&mut a, &mut b, &all(Policy::Hold));
        assert_eq!(meeting.conflicts(), [("f".to_string(), "moved-both")]);
        assert!(meeting.draft.conflicts[0].is_held());
        assert_eq!((a.names(), b.names()), (vec!["here".to_string()], vec!["there".to_string()]));
    }
    session(&mut a, &mut b, &all(Policy::Remote));
    assert_eq!(a.names(), ["there"]);
}

#[test]
fn a_directory_in_which_something_is_unsynced_never_goes() {
    for policy in [Policy::Local, Policy::Remote, Policy::Newest, Policy::KeepBoth] {
        let [mut a, mut b] = pair(&[("d/f", "old")]);
        a.delete("d");
        a.write("d", "a file now", 40);
        b.write("d/new", "unsynced", 30);
        let meeting = session(&mut a, &mut b, &all(policy.clone()));
        assert!(meeting.conflicts().contains(&("d".to_string(), "type")), "{policy:?}");
        assert!(a.holds("d/new", "unsynced") && b.holds("d/new", "unsynced"), "{policy:?}");
        let kept = a.names().iter().any(|name| name.starts_with("d_clash"));
        assert_eq!(kept, policy != Policy::Remote, "{policy:?}");
        assert!(is_settled(&mut a, &mut b, &Rulebook::default()), "{policy:?}");
    }
    let [mut a, mut b] = pair(&[("d/f", "old")]);
    a.delete("d");
    a.write("d", "a file now", 40);
    b.write("d/new", "unsynced", 30);
    for _ in 0..2 {
        let meeting = session(&mut a, &mut b, &all(Policy::Hold));
        assert_eq!(meeting.conflicts(), [("d".to_string(), "type")]);
        assert_eq!((a.names(), b.names().len()), (vec!["d".to_string()], 3));
    }
}

fn one_way(mode: Mode) -> Rulebook {
    Rulebook { mode, ..Rulebook::default() }
}

/// Something of each kind on both sides.
fn busy() -> [Replica; 2] {
    let names = ["mine", "theirs", "both", "gone here", "gone there", "moved"];
    let files = names.map(|name| (name, "old"));
    let [mut a, mut b] = pair(&files);
    a.write("mine", "mine, new", 20);
    b.write("theirs", "theirs, new", 20);
    a.write("both", "both, here", 20);
    b.write("both", "both, there", 30);
    a.delete("gone here");
    b.delete("gone there");
    b.rename("moved", "moved away");
    [a, b]
}

#[test]
fn a_push_leaves_alone_what_the_other_side_has_changed_itself() {
    let [mut a, mut b] = busy();
    for _ in 0..2 {
        let before = a.tree();
        let meeting = session(&mut a, &mut b, &one_way(Mode::Push));
        assert_eq!(a.tree(), before, "nothing comes back");
        assert!(b.holds("mine", "mine, new") && b.holds("theirs", "theirs, new"));
        assert!(b.holds("both", "both, there") && !b.has("gone here"));
        assert!(!b.has("gone there") && b.has("moved away") && !b.has("moved"));
        assert_eq!(meeting.conflicts(), [("both".to_string(), "modified-both")]);
        assert!(meeting.draft.conflicts[0].is_held());
        assert_eq!(meeting.draft.left.len(), 4, "{:?}", meeting.draft.left);
    }
    // Later everything is still there to be synced both ways.
    session(&mut b, &mut a, &Rulebook::default());
    assert_eq!(a.tree(), b.tree());
    assert!(a.holds("theirs", "theirs, new") && a.has("moved away") && !a.has("gone there"));
}

#[test]
fn a_pull_is_a_push_of_the_other_side() {
    let [mut a, mut b] = busy();
    let [mut c, mut d] = busy();
    session(&mut a, &mut b, &one_way(Mode::Pull));
    session(&mut d, &mut c, &one_way(Mode::Push));
    assert_eq!((a.tree(), b.tree()), (c.tree(), d.tree()));
}

#[test]
fn a_policy_that_takes_this_side_s_goes_with_a_push() {
    let [mut a, mut b] = busy();
    let book = Rulebook { mode: Mode::Push, ..all(Policy::Local) };
    let meeting = session(&mut a, &mut b, &book);
    assert!(b.holds("both", "both, here"));
    assert_eq!(meeting.draft.conflicts.len(), 1);
}

#[test]
fn what_is_off_stays_on_both_sides() {
    let [mut a, mut b] = busy();
    let rule = Rule { pattern: "*".into(), mode: Some(Mode::Off), ..Rule::default() };
    let book = Rulebook { rules: vec![rule], ..Rulebook::default() };
    for _ in 0..2 {
        let before = (a.tree(), b.tree());
        session(&mut a, &mut b, &book);
        assert_eq!((a.tree(), b.tree()), before);
    }
    session(&mut a, &mut b, &Rulebook::default());
    assert_eq!(a.tree(), b.tree());
}

#[test]
fn a_file_that_moves_out_of_reach_stays_where_it_was_on_the_other_side() {
    let [mut a, mut b] = pair(&[("in/f", "text")]);
    a.rename("in/f", "out/f");
    let rule = Rule { pattern: "/out/".into(), mode: Some(Mode::Off), ..Rule::default() };
    let book = Rulebook { rules: vec![rule], ..Rulebook::default() };
    session(&mut a, &mut b, &book);
    assert!(b.has("in/f") && !b.has("out/f"));
    assert!(a.has("out/f") && !a.has("in/f"));
    session(&mut a, &mut b, &Rulebook::default());
    assert_eq!(a.tree(), b.tree());
    assert!(b.has("out/f") && !b.has("in/f"));
}

#[test]
fn a_file_that_is_too_large_is_left_alone_on_both_sides() {
    let [mut a, mut b] = pair(&[("f", "old"), ("g", "old")]);
    a.write("f", "far too large for this", 20);
    a.write("g", "fits", 20);
    a.write("d/new", "far too large for this", 20);
    let rule = Rule { pattern: "*".into(), max_size: Some(10), ..Rule::default() };
    let book = Rulebook { rules: vec![rule], ..Rulebook::default() };
    for _ in 0..2 {
        let meeting = session(&mut a, &mut b, &book);
        assert_eq!(meeting.draft.left.len(), 2);
        assert!(b.holds("f", "old") && b.holds("g", "fits") && !b.has("d/new"));
    }
    session(&mut a, &mut b, &Rulebook::default());
    assert_eq!(a.tree(), b.tree());
}

#[test]
fn names_that_are_one_on_the_other_side_are_held_and_nothing_is_merged() {
    let folds = crate::reconcile::Folding { case: true, form: true };
    for (here, there) in [("Name", "naME"), ("caf\u{e9}", "cafe\u{301}")] {
        for exchanged in [false, true] {
            let [mut a, mut b] = pair(&[("kept", "kept")]);
            a.write(&format!("d/{here}"), "here", 20);
            b.write(&format!("d/{there}"), "there", 30);
            for _ in 0..2 {
                // The second of the two replicas has a file system that folds names.
                let meeting = match exchanged {
                    false => {
                        let folding = [Default::default(), folds];
                        hold(&mut a, &mut b, Session { folding, ..WHOLE })
                    }
                    true => {
                        let folding = [folds, Default::default()];
                        hold(&mut b, &mut a, Session { folding, ..WHOLE })
                    }
                };
                assert_eq!(meeting.conflicts(), [(format!("d/{here}"), "created-both")]);
                assert!(meeting.draft.conflicts[0].is_held());
                assert_eq!(b.names(), ["d".to_string(), format!("d/{there}"), "kept".into()]);
                assert!(a.holds(&format!("d/{there}"), "there") && a.names().len() == 4);
            }
            a.rename(&format!("d/{here}"), "d/other");
            hold(&mut a, &mut b, Session { folding: [Default::default(), folds], ..WHOLE });
            assert_eq!(a.tree(), b.tree());
        }
    }
}

#[test]
fn a_change_of_letter_case_is_no_collision() {
    let folding = [crate::reconcile::Folding { case: true, form: true }; 2];
    let [mut a, mut b] = pair(&[("name", "text")]);
    a.rename("name", "Name");
    let meeting = hold(&mut a, &mut b, Session { folding, ..WHOLE });
    assert_eq!((b.names(), meeting.conflicts()), (vec!["Name".to_string()], vec![]));
}

#[test]
fn of_directories_that_are_one_name_the_new_one_waits_with_all_that_is_in_it() {
    let folds = crate::reconcile::Folding { case: true, form: false };
    let [mut a, mut b] = pair(&[("d/f", "text")]);
    a.write("D/g", "text", 20);
    let meeting = hold(&mut a, &mut b, Session { folding: [Default::default(), folds], ..WHOLE });
    assert_eq!(meeting.conflicts(), [("D".to_string(), "created-both")]);
    assert_eq!(b.names(), ["d", "d/f"]);
}

#[test]
fn two_pairs_that_settle_the_same_conflict_by_themselves_agree_about_later_edits() {
    for policy in [Policy::KeepBoth, Policy::Newest, Policy::Largest] {
        let book = all(policy);
        let [mut a, mut b, mut c, mut d] = [1, 2, 3, 4].map(Replica::new);
        a.write("f", "old", 10);
        session(&mut a, &mut b, &book);
        session(&mut a, &mut c, &book);
        session(&mut b, &mut d, &book);
        a.write("f", "longer here", 20);
        b.write("f", "there", 30);
        session(&mut a, &mut c, &book);
        session(&mut b, &mut d, &book);
        // The same two contents meet in two places.
        assert_eq!(session(&mut a, &mut b, &book).draft.conflicts.len(), 1);
        assert_eq!(session(&mut d, &mut c, &book).draft.conflicts.len(), 1);
        assert_eq!(a.tree(), c.tree());
        // Two edits, of which one pair knows the first already.
        b.write("f", "an edit", 40);
        session(&mut a, &mut b, &book);
        a.write("f", "another edit", 50);
        let meeting = session(&mut a, &mut d, &book);
        assert_eq!(meeting.conflicts(), []);
        assert!(d.holds("f", "another edit"));
    }
}

#[test]
fn different_choices_between_the_same_two_are_different_changes() {
    let [mut a, mut b, mut c, mut d] = [1, 2, 3, 4].map(Replica::new);
    a.write("f", "old", 10);
    for (one, other) in [(0, 1), (0, 2), (1, 3)] {
        let mut all = [&mut a, &mut b, &mut c, &mut d];
        let [one, other] = all.get_disjoint_mut([one, other]).unwrap();
        hold(one, other, WHOLE);
    }
    a.write("f", "longer here", 20);
    b.write("f", "there", 30);
    hold(&mut a, &mut c, WHOLE);
    hold(&mut b, &mut d, WHOLE);
    session(&mut a, &mut b, &all(Policy::Newest));
    session(&mut c, &mut d, &all(Policy::Oldest));
    let meeting = hold(&mut b, &mut c, WHOLE);
    assert_eq!(meeting.conflicts(), [("f".to_string(), "modified-both")]);
}
