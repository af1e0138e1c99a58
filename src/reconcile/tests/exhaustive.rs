//! Every combination of at most two changes on each side of a tree of three paths, between two
//! replicas in memory, under three policies and whichever side plans.
//!
//! `tests/exhaustive.rs` does a part of the same with real files.

use std::collections::{BTreeMap, BTreeSet};

use psync_protocol::{Content, ContentDecision, ContentHash, Props, RelPath};

use super::model::{Meeting, Replica, Session, WHOLE, hold};
use crate::reconcile::{Counsel, Policy, Rulebook};
use crate::report::ConflictKind;

type Tree = BTreeMap<RelPath, (Content<ContentHash>, Props)>;

/// One change that a person makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Create(&'static str),
    Edit(&'static str),
    Delete(&'static str),
    Rename(&'static str, &'static str),
    Chmod(&'static str),
    ToDirectory(&'static str),
    ToFile(&'static str),
    ToSymlink(&'static str),
}

use Change::{Chmod, Create, Delete, Edit, Rename, ToDirectory, ToFile, ToSymlink};

const CHANGES: [Change; 20] = [
    Create("n"),
    Create("d/n"),
    Edit("f"),
    Edit("d/g"),
    Delete("f"),
    Delete("d/g"),
    Delete("d"),
    Rename("f", "n"),
    Rename("f", "d/n"),
    Rename("d/g", "n"),
    Rename("d", "e"),
    Chmod("f"),
    Chmod("d/g"),
    Chmod("d"),
    ToDirectory("f"),
    ToDirectory("d/g"),
    ToFile("d"),
    ToSymlink("f"),
    ToSymlink("d/g"),
    ToSymlink("d"),
];

impl Change {
    /// Makes the change as this side makes it; says whether it can be made.
    fn make(self, side: &mut Replica, who: &str, at: i64) -> bool {
        let free = |side: &Replica, name: &str| {
            !side.has(name) && (!name.starts_with("d/") || side.is_directory("d"))
        };
        match self {
            Create(name) if free(side, name) => side.write(name, &format!("{who} made {name}"), at),
            Edit(name) if side.is_file(name) => {
                side.write(name, &format!("{who} edited {name} at {at}"), at)
            }
            Delete(name) if side.has(name) => side.delete(name),
            Rename(from, to) if side.has(from) && free(side, to) => side.rename(from, to),
            Chmod(name) if side.is_file(name) || side.is_directory(name) => {
                side.chmod(name, if who == "a" { 0o700 } else { 0o750 })
            }
            ToDirectory(name) if side.is_file(name) => {
                side.replace(name, Content::Directory, at);
                side.write(&format!("{name}/in"), &format!("{who} in {name}"), at);
            }
            ToFile(name) if side.is_directory(name) => {
                let text = format!("{who} instead of {name}");
                let hash = ContentHash::of_bytes(text.as_bytes());
                side.replace(name, Content::File { size: text.len() as u64, hash }, at);
            }
            ToSymlink(name) if side.is_file(name) || side.is_directory(name) => {
                let target: Box<[u8]> = format!("to {who}").into_bytes().into();
                let hash = ContentHash::of_target(&target);
                side.replace(name, Content::Symlink { target, hash }, at);
            }
            _ => return false,
        }
        true
    }
}

/// All ways of making at most two changes that come to different trees.
fn ways(start: &Replica, who: &str, at: i64) -> Vec<(Vec<Change>, Replica)> {
    let mut ways = vec![(Vec::new(), start.clone())];
    for first in CHANGES {
        let mut once = start.clone();
        if !first.make(&mut once, who, at) {
            continue;
        }
        ways.push((vec![first], once.clone()));
        for second in CHANGES {
            let mut twice = once.clone();
            if second.make(&mut twice, who, at + 1) {
                ways.push((vec![first, second], twice));
            }
        }
    }
    let mut seen = BTreeSet::new();
    ways.retain(|(_, replica)| seen.insert(format!("{:?}", replica.shape())));
    ways
}

fn base() -> [Replica; 2] {
    let [mut a, mut b] = [Replica::new(1), Replica::new(2)];
    a.write("f", "f at first", 10);
    a.write("d/g", "g at first", 10);
    hold(&mut a, &mut b, WHOLE);
    [a, b]
}

fn counsel(policy: &Policy) -> Counsel {
    let policies = ConflictKind::ALL.into_iter().map(|kind| (kind, policy.clone())).collect();
    Counsel::new(Rulebook { policies, ..Rulebook::default() }).unwrap()
}

/// What was written since both agreed.
fn news(tree: &Tree, before: &Tree) -> BTreeSet<ContentHash> {
    let hashes = |tree: &Tree| {
        let files = tree.values().filter_map(|(content, _)| match content {
            Content::File { hash, .. } | Content::Symlink { hash, .. } => Some(*hash),
            Content::Directory | Content::Deleted { .. } => None,
        });
        files.collect::<BTreeSet<_>>()
    };
    hashes(tree).difference(&hashes(before)).copied().collect()
}

/// Everything stands in a directory.
fn stands(tree: &Tree) -> bool {
    let is_directory = |name: RelPath| matches!(tree.get(&name), Some((Content::Directory, _)));
    tree.keys().all(|name| name.parent().is_none_or(is_directory))
}

struct Trial<'a> {
    counsel: &'a Counsel,
    policy: &'a Policy,
    before: [Tree; 2],
    base: &'a Tree,
}

impl Trial<'_> {
    /// Syncs twice; the trees afterwards. `a_plans` the first run, the other the second.
    fn run(&self, mut a: Replica, mut b: Replica, a_plans: bool) -> Result<[Tree; 2], String> {
        let first = self.session(&mut a, &mut b, a_plans);
        let after = [a.tree(), b.tree()];
        let check = |holds: bool, what: &str| match holds {
            true => Ok(()),
            false => Err(format!("{what}\n{:#?}", self.told(&first, &after))),
        };
        check(after.iter().all(stands), "something stands in what is no directory")?;
        let held = self.left(&first);
        for name in &held {
            let untouched = (0..2).all(|side| self.before[side].get(name) == after[side].get(name));
            check(untouched, "something was touched that waits")?;
        }
        let is_held = |name: &RelPath| held.contains(name);
        let names: BTreeSet<&RelPath> = after.iter().flat_map(Tree::keys).collect();
        let same = |name: &&RelPath| after[0].get(*name) == after[1].get(*name);
        check(
            names.iter().all(|name| same(name) || is_held(name)),
            "both sides differ in what does not wait",
        )?;
        let conflicts = first.draft.conflicts.iter().any(|conflict| conflict.is_held());
        check(held.is_empty() || conflicts, "something waits without a conflict")?;
        self.keeps(&after).or_else(|what| check(false, what))?;
        let second = self.session(&mut a, &mut b, !a_plans);
        check([a.tree(), b.tree()] == after, "the second run does something")?;
        let told = |meeting: &Meeting| {
            meeting.conflicts().into_iter().collect::<BTreeSet<(String, &'static str)>>()
        };
        let held: BTreeSet<_> = first
            .draft
            .conflicts
            .iter()
            .filter(|c| c.is_held())
            .collect::<Vec<_>>()
            .into_iter()
            .map(|c| (c.path.to_string(), c.kind.name()))
            .collect();
        check(told(&second) == held, "the second run tells of other conflicts")?;
        Ok(after)
    }

    fn session(&self, a: &mut Replica, b: &mut Replica, a_plans: bool) -> Meeting {
        let terms = Session { counsel: Some(self.counsel), ..WHOLE };
        if a_plans { hold(a, b, terms) } else { hold(b, a, terms) }
    }

    fn left(&self, meeting: &Meeting) -> BTreeSet<RelPath> {
        let decided = meeting.paths.iter().zip(&meeting.draft.decisions);
        let later = decided.filter(|(_, decision)| decision.content == ContentDecision::Later);
        later.map(|(stand, _)| stand.path().clone()).collect()
    }

    /// What was written on either side is still there: with keep-both on both sides; what waits
    /// waits where it is. (Losers of other policies go to the trash, which only real files have.)
    fn keeps(&self, after: &[Tree; 2]) -> Result<(), &'static str> {
        let written: BTreeSet<ContentHash> =
            self.before.iter().flat_map(|tree| news(tree, self.base)).collect();
        let here = news(&after[0], self.base);
        let there = news(&after[1], self.base);
        let kept = |hash: &ContentHash| match self.policy {
            Policy::KeepBoth => here.contains(hash) && there.contains(hash),
            Policy::Hold => here.contains(hash) || there.contains(hash),
            _ => true,
        };
        if written.iter().all(kept) { Ok(()) } else { Err("a content is lost") }
    }

    fn told(&self, meeting: &Meeting, after: &[Tree; 2]) -> Vec<String> {
        let plan = meeting.paths.iter().zip(&meeting.draft.decisions);
        let plan = plan.map(|(stand, decision)| format!("{}: {decision:?}", stand.path()));
        let tree = |name: &str, tree: &Tree| {
            let line = |(path, (content, props)): (&RelPath, &(Content<ContentHash>, Props))| {
                format!("{name} {path}: {content:?} {:o}", props.mode)
            };
            tree.iter().map(line).collect::<Vec<_>>()
        };
        plan.chain(tree("a had", &self.before[0]))
            .chain(tree("b had", &self.before[1]))
            .chain(tree("a has", &after[0]))
            .chain(tree("b has", &after[1]))
            .collect()
    }
}

fn every_combination(policy: Policy) {
    let [a, b] = base();
    let (counsel, first) = (counsel(&policy), a.tree());
    let (ours, theirs) = (ways(&a, "a", 20), ways(&b, "b", 30));
    // Without optimisation it would take minutes: then every so many of them, other ones for each
    // policy.
    let stride = if cfg!(debug_assertions) { 23 } else { 1 };
    let mut failed = Vec::new();
    let (mut count, mut number) = (0, policy.name().len());
    for (here, a) in &ours {
        for (there, b) in &theirs {
            number += 1;
            if number % stride != 0 {
                continue;
            }
            count += 1;
            let trial = Trial {
                counsel: &counsel,
                policy: &policy,
                before: [a.tree(), b.tree()],
                base: &first,
            };
            let planned = trial.run(a.clone(), b.clone(), true);
            let exchanged = trial.run(a.clone(), b.clone(), false);
            let wrong = match (planned, exchanged) {
                (Ok(one), Ok(other)) if one == other => continue,
                (Ok(one), Ok(other)) => {
                    format!("it matters who plans: {one:#?}\n or {other:#?}")
                }
                (Err(wrong), _) => wrong,
                (_, Err(wrong)) => format!("the other plans: {wrong}"),
            };
            failed.push(format!("a: {here:?}, b: {there:?}: {wrong}"));
        }
    }
    let some = failed.iter().take(3).cloned().collect::<Vec<_>>().join("\n\n");
    assert!(failed.is_empty(), "{} of {count} fail under {policy:?}:\n{some}", failed.len());
    println!("{count} combinations of {} and {}", ours.len(), theirs.len());
}

#[test]
fn every_two_changes_on_each_side_converge_when_both_are_kept() {
    every_combination(Policy::KeepBoth);
}

#[test]
fn every_two_changes_on_each_side_converge_when_the_newest_is_taken() {
    every_combination(Policy::Newest);
}

#[test]
fn every_two_changes_on_each_side_converge_but_for_what_is_held() {
    every_combination(Policy::Hold);
}
