//! What one end leaves out, the other one finds.

use std::collections::BTreeMap;

use psync_protocol::{RelPath, ReplicaId, Time, Version};

use super::*;
use crate::manifest::Stamp;

const ALICE: ReplicaId = ReplicaId([1; 16]);
const BOB: ReplicaId = ReplicaId([2; 16]);

fn keys() -> [CheckKey; 2] {
    [CheckKey::new(ALICE, &[8; 16]), CheckKey::new(BOB, &[9; 16])]
}

fn row(name: &str, content: Content<ContentHash>, by: ReplicaId, secs: i64) -> Stored {
    let version = Version::from_pairs(vec![(by, 1)]);
    let mut row = Row::absent(RelPath::new(name.as_bytes()).unwrap());
    row.props.mode = 0o755;
    if !matches!(content, Content::Directory) {
        row.props = Props { mode: 0o644, mtime: Time { secs, nanos: 7 } };
    }
    row.content = content;
    row.agreed_mode = row.props.mode;
    row.content_version = version.clone();
    row.props_version = version;
    Stored { row, stamp: Stamp::UNKNOWN, inode: 0, shared: false, deleted_at: 0 }
}

fn content(text: &str) -> Content<ContentHash> {
    Content::File { size: text.len() as u64, hash: ContentHash::of_bytes(text.as_bytes()) }
}

/// A tree of forty directories with ten files each, as a scan of this replica finds it.
fn grown(by: ReplicaId, secs: i64) -> Vec<Stored> {
    let mut rows = Vec::new();
    for dir in 0..40 {
        rows.push(row(&format!("d{dir:02}"), Content::Directory, by, secs));
        for file in 0..10 {
            let name = format!("d{dir:02}/{file}");
            rows.push(row(&name, content(&format!("text of {name}")), by, secs + file));
        }
    }
    rows
}

fn edit(rows: &mut [Stored], name: &str, text: &str) {
    let path = RelPath::new(name.as_bytes()).unwrap();
    let at = rows.binary_search_by(|stored| stored.row.path.cmp(&path)).unwrap();
    rows[at].row.content = content(text);
}

fn tree_of(rows: &[Stored]) -> Tree {
    let (versions, plain) = plain(rows).expect("it is worth it");
    assert!(plain.iter().all(|plain| *plain));
    tree(rows.iter(), versions, &keys()[0])
}

#[test]
fn equal_trees_have_one_digest_and_whatever_differs_another() {
    let rows = grown(ALICE, 100);
    let meant = tree_of(&rows);
    assert_eq!(tree_of(&grown(ALICE, 100)), meant);
    assert_eq!(tree_of(&grown(BOB, 100)).digest, meant.digest, "versions are not in it");
    assert_ne!(tree_of(&grown(ALICE, 101)).digest, meant.digest, "times are");
    assert_eq!(tree_of(&grown(ALICE, 101)).sketch, meant.sketch);
    let changes: [fn(&mut Vec<Stored>); 5] = [
        |rows| edit(rows, "d07/3", "other"),
        |rows| drop(rows.remove(70)),
        |rows| rows[70].row.props.mtime.nanos += 1,
        |rows| {
            rows[70].row.props.mode = 0o600;
            rows[70].row.agreed_mode = 0o600;
        },
        |rows| rows.push(row("e", Content::Directory, ALICE, 0)),
    ];
    for change in changes {
        let mut rows = rows.clone();
        change(&mut rows);
        assert_ne!(tree_of(&rows).digest, meant.digest);
    }
    let (versions, _) = plain(&rows).unwrap();
    assert_ne!(tree(rows.iter(), versions, &keys()[1]).digest, meant.digest, "another session");
}

#[test]
fn only_what_lives_and_has_the_commonest_versions_is_left_out() {
    let mut rows = grown(ALICE, 100);
    rows[5].row.content_version = Version::from_pairs(vec![(ALICE, 2)]);
    rows[6].row.content = Content::Deleted { moved_to: None };
    rows[7].row.agreed_mode = 0o600;
    rows[8].row.props_version = Version::from_pairs(vec![(ALICE, 1), (BOB, 4)]);
    let (versions, plain) = plain(&rows).unwrap();
    assert_eq!(versions.content, Version::from_pairs(vec![(ALICE, 1)]));
    let others: Vec<usize> = (0..rows.len()).filter(|&at| !plain[at]).collect();
    assert_eq!(others, [5, 6, 7, 8]);
    assert!(super::plain(&rows[..WORTH]).is_none(), "too few are left of these");
    for (at, stored) in rows.iter_mut().enumerate() {
        stored.row.content_version = Version::from_pairs(vec![(ALICE, at as u64 + 1)]);
    }
    assert!(super::plain(&rows).is_none());
}

/// Sends what two ends have in common back and forth: the paths that both leave out.
fn common(alice: &[Stored], bob: &[Stored], guess: u64) -> Option<BTreeMap<RelPath, Twin>> {
    let [key, bobs_key] = keys();
    let (b_versions, b_plain) = plain(bob)?;
    let rows = bob.iter().zip(b_plain).filter(|(_, plain)| *plain).map(|(row, _)| row.clone());
    let (outline, summary) = Outline::new(rows.collect(), b_versions, &key, guess);
    let (versions, plain) = plain(alice)?;
    let found = find_common(alice, &plain, versions, &summary, &key)?;
    let shared = Shared { common: found.common, props: found.props };
    let twins = outline.twins(&shared, (&key, &bobs_key))?;
    let ours: Vec<_> = found.rows.iter().map(|&at| alice[at].row.stated(&key)).collect();
    let theirs: Vec<_> = twins.iter().map(|twin| twin.initiator.clone()).collect();
    assert_eq!(theirs, ours, "the responder knows the initiator's rows");
    Some(twins.into_iter().map(|twin| (twin.initiator.path.clone(), twin)).collect())
}

#[test]
fn what_differs_is_stated_and_little_else() {
    let alice = grown(ALICE, 100);
    let mut bob = grown(BOB, 5_000);
    edit(&mut bob, "d07/3", "other");
    bob.retain(|stored| stored.row.path.as_bytes() != b"d20/5");
    let more = row("d30/more", content("more"), BOB, 1);
    bob.push(more);
    bob.sort_by(|a, b| a.row.path.cmp(&b.row.path));
    for guess in [1, 3, 1_000_000] {
        let twins = common(&alice, &bob, guess).expect("most of it is");
        for name in ["d07/3", "d20/5", "d30/more"] {
            assert!(!twins.contains_key(&RelPath::new(name.as_bytes()).unwrap()), "{name}");
        }
        assert!(twins.len() >= 440 - 3 * 40, "{guess}: {}", twins.len());
        for twin in twins.values() {
            assert_eq!(twin.initiator.content_version, Version::from_pairs(vec![(ALICE, 1)]));
            assert_eq!(twin.responder.props_version, Version::from_pairs(vec![(BOB, 1)]));
            assert_ne!(twin.initiator.props.mtime == twin.responder.props.mtime, {
                !matches!(twin.initiator.content, Content::Directory)
            });
        }
    }
}

#[test]
fn trees_that_share_nothing_have_nothing_in_common() {
    let alice = grown(ALICE, 100);
    let mut bob = grown(BOB, 100);
    for (at, stored) in bob.iter_mut().enumerate() {
        stored.row.content = content(&format!("something else {at}"));
    }
    assert!(common(&alice, &bob, 440).is_none());
}

#[test]
fn a_sketch_tells_about_how_much_differs() {
    let alice = grown(ALICE, 100);
    for count in [0, 1, 5, 20] {
        let mut bob = grown(BOB, 100);
        for at in 0..count {
            edit(&mut bob, &format!("d{:02}/{}", at * 2, at % 10), "other");
        }
        let guess = differences(&tree_of(&alice), &tree_of(&bob));
        assert!(guess >= count / 2 && guess <= 2 * count + 1, "{count}: {guess}");
    }
    assert!(differences(&tree_of(&alice), &tree_of(&grown(BOB, 1))) == 0);
}

#[test]
fn runs_that_are_not_the_ones_meant_are_found_out() {
    let alice = grown(ALICE, 100);
    let bob = grown(BOB, 100);
    let [key, bobs_key] = keys();
    let (b_versions, _) = plain(&bob).unwrap();
    let (outline, summary) = Outline::new(bob.clone(), b_versions, &key, 440);
    let (versions, plain) = plain(&alice).unwrap();
    let shared = || {
        let found = find_common(&alice, &plain, versions.clone(), &summary, &key).unwrap();
        Shared { common: found.common, props: found.props }
    };
    let twins = |shared: Shared| outline.twins(&shared, (&key, &bobs_key)).map(|twins| twins.len());
    assert_eq!(twins(shared()), Some(440));
    let wrong: [fn(&mut Shared); 8] = [
        |shared| shared.common.digest[0] ^= 1,
        |shared| shared.common.runs[3] ^= 4,
        |shared| shared.common.runs.truncate(1),
        |shared| shared.common.runs.push(0),
        |shared| shared.common.runs.fill(0),
        |shared| shared.props.truncate(439),
        |shared| shared.props.push(PropsStep::default()),
        // The first entry is a directory: it has no time.
        |shared| shared.props[0].secs += 1,
    ];
    for change in wrong {
        let mut shared = shared();
        change(&mut shared);
        assert_eq!(twins(shared), None);
    }
}

#[test]
fn values_that_stand_twice_are_nobody_s() {
    let alice = grown(ALICE, 100);
    let (versions, plain) = plain(&alice).unwrap();
    let [key, _] = keys();
    let (_, mut summary) = Outline::new(alice.clone(), versions.clone(), &key, 440);
    let whole = find_common(&alice, &plain, versions.clone(), &summary, &key).unwrap();
    summary.values[8] = summary.values[7];
    let found = find_common(&alice, &plain, versions, &summary, &key).unwrap();
    assert!(found.rows.len() < whole.rows.len());
    assert_eq!(found.common.runs[0] >> 7 | found.common.runs[1] & 1, 0);
}

#[test]
fn many_entries_make_no_more_runs_than_a_summary_may_hold() {
    let rows: Vec<Stored> =
        (0..RUNS_MAX + 10).map(|at| row(&format!("{at:07}"), content("x"), BOB, 1)).collect();
    let (versions, _) = plain(&rows).unwrap();
    let (_, summary) = Outline::new(rows, versions, &keys()[0], 1_000_000);
    assert_eq!(summary.spread, 1);
    assert!(summary.values.len() <= RUNS_MAX && summary.values.len() > RUNS_MAX / 3);
    assert!(summary.values.is_sorted());
    let limit = (summary.values.len() as u64) << summary.bits;
    assert!(summary.values.last().is_some_and(|last| *last < limit));
}
