//! From what was seen to new rows: what counts as a change, and of what.

use std::collections::{BTreeMap, HashMap, HashSet};

use psync_protocol::entry::Fingerprint;
use psync_protocol::{Content, ContentHash, Props, RelPath, ReplicaId, Row, Version};

use super::Announced;
use crate::index::{Index, IndexError};
use crate::journal::{Edit, State};
use crate::manifest::{Stamp, Stored};

/// An entry as the scan saw it.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) path: RelPath,
    pub(super) content: Content<ContentHash>,
    pub(super) props: Props,
    pub(super) stamp: Stamp,
    pub(super) inode: u64,
}

/// What has to be written.
#[derive(Debug)]
pub(super) enum Step {
    /// A change: a new row.
    Put(Stored),
    /// No change that concerns a peer.
    Restamp { path: RelPath, stamp: Stamp, inode: u64 },
}

/// Who changes, and its clock.
#[derive(Debug, Clone, Copy)]
struct Author {
    replica: ReplicaId,
    clock: u64,
}

impl Author {
    fn bump(self, version: &Version) -> Version {
        version.bump(self.replica, self.clock)
    }
}

/// The steps for all that was seen and all that is gone.
pub(super) fn steps(
    index: &mut Index,
    seen: Vec<Seen>,
    gone: Vec<Stored>,
    announced: &Announced,
    now: i64,
) -> Result<(Vec<Step>, Vec<Edit>), IndexError> {
    let author = Author { replica: index.replica(), clock: index.next_clock() };
    // One moment for all: by it what went with a directory is found again.
    let found = crate::journal::now();
    let mut steps = Vec::new();
    let mut created = Vec::new();
    let mut edits = Vec::new();
    let paths: Vec<&RelPath> = seen.iter().map(|entry| &entry.path).collect();
    let known = index.rows_at(&paths)?;
    for (entry, old) in seen.into_iter().zip(known) {
        if let Some(adopted) = adopt(&entry, announced) {
            steps.push(Step::Put(adopted));
            continue;
        }
        let is_new = !old.as_ref().is_some_and(|old| old.row.content.is_live());
        if let (true, Content::File { size: 1.., hash }) = (is_new, &entry.content) {
            created.push((entry.path.clone(), *hash, entry.inode));
        }
        let before = old.as_ref().map(|old| State::of_row(&old.row));
        let step = advance(old, entry, author);
        if let (Some(before), Step::Put(stored)) = (before, &step) {
            edits.push(edit(found, before, stored));
        }
        steps.push(step);
    }
    let moves = find_moves(&created, &gone);
    let edited = moved_and_edited(&created, &gone, &moves);
    base_on_what_moved(&mut steps, &edited, &gone);
    for old in gone {
        match announced.get(&old.row.path) {
            Some(intent) if !intent.row.content.is_live() => steps.push(Step::Put(intent.clone())),
            _ => {
                let moved_to = moves.get(&old.row.path).or(edited.get(&old.row.path)).cloned();
                let before = State::of_row(&old.row);
                let buried = bury(old, moved_to, author, now);
                edits.push(edit(found, before, &buried));
                steps.push(Step::Put(buried));
            }
        }
    }
    Ok((steps, edits))
}

/// A change of what the index has known before: what is new has no history yet.
fn edit(found: i64, before: Option<State>, now: &Stored) -> Edit {
    let (path, after) = (now.row.path.clone(), State::of_row(&now.row));
    Edit { found, path, before, after }
}

/// An interrupted run had this very content on its way: it is that run's, not a change of this
/// side.
fn adopt(entry: &Seen, announced: &Announced) -> Option<Stored> {
    let intent = announced.get(&entry.path)?;
    let same = intent.row.content.same(&entry.content) && intent.row.props == entry.props;
    same.then(|| Stored { stamp: entry.stamp, inode: entry.inode, ..intent.clone() })
}

/// The row of an entry that looks different from what the index says.
fn advance(old: Option<Stored>, entry: Seen, author: Author) -> Step {
    let old = old.unwrap_or_else(|| absent(entry.path.clone()));
    let content_changed = !old.row.content.same(&entry.content);
    let props_changed =
        content_changed && !old.row.content.is_live() || old.row.props != entry.props;
    if !content_changed && !props_changed {
        return Step::Restamp { path: entry.path, stamp: entry.stamp, inode: entry.inode };
    }
    let mut row = old.row;
    let mut shared = old.shared;
    if content_changed {
        // Edits in a row build on what a peer last knew.
        if shared || !row.content.is_live() {
            row.base = row.content.fingerprint();
        }
        shared = false;
        row.content_version = author.bump(&row.content_version);
        if !row.content.is_live() || row.content.fingerprint() == Some(ContentHash::DIRECTORY) {
            row.agreed_mode = entry.props.mode;
        }
        row.content = entry.content;
    }
    if props_changed {
        row.props_version = author.bump(&row.props_version);
        row.props = entry.props;
    }
    Step::Put(Stored { row, stamp: entry.stamp, inode: entry.inode, shared, deleted_at: 0 })
}

fn absent(path: RelPath) -> Stored {
    Stored { row: Row::absent(path), stamp: Stamp::UNKNOWN, inode: 0, shared: false, deleted_at: 0 }
}

/// The tombstone of an entry that is gone.
fn bury(old: Stored, moved_to: Option<RelPath>, author: Author, now: i64) -> Stored {
    let mut row = old.row;
    if old.shared {
        row.base = row.content.fingerprint();
    }
    row.content = Content::Deleted { moved_to };
    row.content_version = author.bump(&row.content_version);
    row.agreed_mode = row.props.mode;
    row.props = Props::default();
    Stored { row, stamp: Stamp::UNKNOWN, inode: 0, shared: false, deleted_at: now }
}

/// Which of the files that are gone stand under another name now: the same content, and of
/// several candidates the one with the same inode, then the one with the same name; where that
/// does not tell one from another, none.
fn find_moves(
    created: &[(RelPath, ContentHash, u64)],
    gone: &[Stored],
) -> HashMap<RelPath, RelPath> {
    let mut by_hash: HashMap<ContentHash, Vec<&(RelPath, ContentHash, u64)>> = HashMap::new();
    for file in created {
        by_hash.entry(file.1).or_default().push(file);
    }
    let mut moves = HashMap::new();
    for old in gone {
        let Content::File { hash, .. } = old.row.content else { continue };
        let Some(candidates) = by_hash.get_mut(&hash) else { continue };
        let same_inode = candidates.iter().position(|file| file.2 == old.inode);
        let same_name = || {
            let mut same = candidates
                .iter()
                .enumerate()
                .filter(|(_, file)| file.0.name() == old.row.path.name());
            same.next().map(|(at, _)| at).filter(|_| same.next().is_none())
        };
        let only = || (candidates.len() == 1).then_some(0);
        if let Some(at) = same_inode.or_else(same_name).or_else(only) {
            let file = candidates.swap_remove(at);
            moves.insert(old.row.path.clone(), file.0.clone());
        }
    }
    moves
}

/// Which of the files that are gone stand, edited, under another name: the same last name, and
/// either the same inode or the directory to which most files of their own directory went.
fn moved_and_edited(
    created: &[(RelPath, ContentHash, u64)],
    gone: &[Stored],
    moves: &HashMap<RelPath, RelPath>,
) -> HashMap<RelPath, RelPath> {
    let arrived: HashSet<&RelPath> = moves.values().collect();
    let mut fresh: HashMap<&RelPath, u64> = created
        .iter()
        .filter(|(path, ..)| !arrived.contains(path))
        .map(|(path, _, inode)| (path, *inode))
        .collect();
    let by_inode: HashMap<u64, &RelPath> =
        fresh.iter().map(|(path, inode)| (*inode, *path)).collect();
    let directories = moved_directories(moves);
    let mut edited = HashMap::new();
    for old in gone {
        let path = &old.row.path;
        let is_file = matches!(old.row.content, Content::File { size: 1.., .. });
        if !is_file || moves.contains_key(path) {
            continue;
        }
        let same_inode = by_inode.get(&old.inode).filter(|new| new.name() == path.name());
        let followed = || {
            let directory = directories.get(path.split().0?)?;
            directory.as_ref().map_or(RelPath::new(path.name()), |dir| dir.join(path.name())).ok()
        };
        let Some(new) = same_inode.map(|new| (*new).clone()).or_else(followed) else { continue };
        if fresh.remove(&new).is_some() {
            edited.insert(path.clone(), new);
        }
    }
    edited
}

/// Where most of the files of each directory went that kept their names; none is the root.
fn moved_directories(moves: &HashMap<RelPath, RelPath>) -> HashMap<&[u8], Option<RelPath>> {
    let mut votes: HashMap<&[u8], BTreeMap<Option<RelPath>, usize>> = HashMap::new();
    for (old, new) in moves.iter().filter(|(old, new)| old.name() == new.name()) {
        if let Some(directory) = old.split().0 {
            *votes.entry(directory).or_default().entry(new.parent()).or_default() += 1;
        }
    }
    let most = |targets: BTreeMap<Option<RelPath>, usize>| {
        targets.into_iter().max_by_key(|(_, count)| *count).and_then(|(target, _)| target)
    };
    votes.into_iter().map(|(directory, targets)| (directory, most(targets))).collect()
}

/// A file that was moved and edited builds on what it was under its old name: a peer has that.
fn base_on_what_moved(steps: &mut [Step], edited: &HashMap<RelPath, RelPath>, gone: &[Stored]) {
    let bases: HashMap<&RelPath, Option<ContentHash>> = gone
        .iter()
        .filter_map(|old| {
            let known = if old.shared { old.row.content.fingerprint() } else { old.row.base };
            Some((edited.get(&old.row.path)?, known))
        })
        .collect();
    for step in steps {
        if let Step::Put(stored) = step
            && let Some(base) = bases.get(&stored.row.path)
        {
            stored.row.base = *base;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use psync_protocol::Time;

    const ME: ReplicaId = ReplicaId([1; 16]);
    const PEER: ReplicaId = ReplicaId([2; 16]);

    fn author(clock: u64) -> Author {
        Author { replica: ME, clock }
    }

    fn file(text: &str) -> Content<ContentHash> {
        Content::File { size: text.len() as u64, hash: ContentHash::of_bytes(text.as_bytes()) }
    }

    fn seen(path: &str, text: &str, secs: i64) -> Seen {
        Seen {
            path: RelPath::new(path.as_bytes()).unwrap(),
            content: file(text),
            props: Props { mode: 0o644, mtime: Time { secs, nanos: 0 } },
            stamp: Stamp(7),
            inode: 3,
        }
    }

    fn stored(path: &str, text: &str, shared: bool) -> Stored {
        let mut row = Row::absent(RelPath::new(path.as_bytes()).unwrap());
        row.content = file(text);
        row.props = Props { mode: 0o644, mtime: Time { secs: 1, nanos: 0 } };
        row.content_version = Version::from_pairs(vec![(PEER, 4)]);
        row.props_version = row.content_version.clone();
        Stored { row, stamp: Stamp(1), inode: 3, shared, deleted_at: 0 }
    }

    fn put(step: Step) -> Stored {
        match step {
            Step::Put(stored) => stored,
            Step::Restamp { .. } => panic!("no change was seen"),
        }
    }

    #[test]
    fn an_edit_bumps_the_content_and_builds_on_what_a_peer_knows() {
        let edited = put(advance(Some(stored("a", "old", true)), seen("a", "new", 2), author(9)));
        assert_eq!(edited.row.content_version.counter(ME), 9);
        assert_eq!(edited.row.content_version.counter(PEER), 4);
        assert_eq!(edited.row.base, Some(ContentHash::of_bytes(b"old")));
        let again = put(advance(Some(edited), seen("a", "newer", 3), author(10)));
        assert_eq!(again.row.base, Some(ContentHash::of_bytes(b"old")));
    }

    #[test]
    fn a_touch_changes_properties_only() {
        let touched = put(advance(Some(stored("a", "old", true)), seen("a", "old", 2), author(9)));
        assert_eq!(touched.row.content_version.counter(ME), 0);
        assert_eq!(touched.row.props_version.counter(ME), 9);
        assert!(touched.shared);
    }

    #[test]
    fn a_file_that_only_looks_different_is_no_change() {
        let step = advance(Some(stored("a", "old", true)), seen("a", "old", 1), author(9));
        assert!(matches!(step, Step::Restamp { .. }));
    }

    #[test]
    fn a_file_that_comes_back_is_newer_than_its_tombstone() {
        let buried = bury(stored("a", "old", true), None, author(9), 100);
        assert_eq!(buried.row.base, Some(ContentHash::of_bytes(b"old")));
        let before = buried.row.content_version.clone();
        let back = put(advance(Some(buried), seen("a", "old", 1), author(10)));
        assert!(back.row.content_version > before);
        assert_eq!(back.row.base, None);
    }

    #[test]
    fn a_moved_file_is_found_by_content_and_told_apart_by_inode() {
        let path = |name: &str| RelPath::new(name.as_bytes()).unwrap();
        let hash = ContentHash::of_bytes(b"same");
        let created = [(path("x/one"), hash, 11), (path("x/two"), hash, 12)];
        let mut first = stored("one", "same", true);
        first.inode = 12;
        let moves = find_moves(&created, &[first]);
        assert_eq!(moves[&path("one")], path("x/two"));
        let mut stranger = stored("three", "same", true);
        stranger.inode = 99;
        assert!(find_moves(&created, &[stranger]).is_empty());
    }

    #[test]
    fn a_file_that_was_moved_and_edited_builds_on_what_it_was() {
        let path = |name: &str| RelPath::new(name.as_bytes()).unwrap();
        let gone = |name: &str, text: &str, inode: u64| {
            let old = stored(name, text, true);
            Stored { inode, ..old }
        };
        let hash = |text: &str| ContentHash::of_bytes(text.as_bytes());
        let old = [gone("d/a", "a", 1), gone("d/b", "b", 2), gone("e", "e", 3), gone("x", "x", 4)];
        let created = [
            (path("n/a"), hash("a"), 1),
            // An editor that replaces the file gives it another inode; its directory tells.
            (path("n/b"), hash("b edited"), 22),
            (path("far/e"), hash("e edited"), 3),
            // Another name and another inode: nothing tells that it was x.
            (path("y"), hash("x edited"), 44),
        ];
        let moves = find_moves(&created, &old);
        assert_eq!(moves.len(), 1);
        let edited = moved_and_edited(&created, &old, &moves);
        assert_eq!(edited.len(), 2);
        assert_eq!(edited[&path("d/b")], path("n/b"));
        assert_eq!(edited[&path("e")], path("far/e"));
        let mut steps = vec![advance(None, seen("n/b", "b edited", 5), author(9))];
        base_on_what_moved(&mut steps, &edited, &old);
        assert_eq!(put(steps.remove(0)).row.base, Some(hash("b")));
    }

    #[test]
    fn a_new_file_where_an_unmoved_one_was_edited_builds_on_nothing() {
        let path = |name: &str| RelPath::new(name.as_bytes()).unwrap();
        let old = [Stored { inode: 9, ..stored("d/a", "a", true) }];
        let created = [(path("n/a"), ContentHash::of_bytes(b"other"), 1)];
        let moves = find_moves(&created, &old);
        assert!(moved_and_edited(&created, &old, &moves).is_empty());
    }
}
