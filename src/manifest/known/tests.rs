use psync_protocol::changes::Known;
use psync_protocol::{Props, ReplicaId, Time, Version};

use super::*;
use crate::manifest::Stamp;

const ME: ReplicaId = ReplicaId([1; 16]);

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

fn key() -> CheckKey {
    CheckKey::new(ME, &[2; 16])
}

fn file(text: &str) -> Content<ContentHash> {
    Content::File { size: text.len() as u64, hash: ContentHash::of_bytes(text.as_bytes()) }
}

fn link(target: &[u8]) -> Content<ContentHash> {
    Content::Symlink { target: target.into(), hash: ContentHash::of_target(target) }
}

fn reference(content: &Content<ContentHash>) -> Option<Reference> {
    let size = match content {
        Content::File { size, .. } => Some(*size),
        _ => None,
    };
    content.fingerprint().map(|hash| Reference { hash, size })
}

fn stored(name: &str, content: Content<ContentHash>, base: Option<&str>) -> Stored {
    let mut row = Row::absent(path(name));
    row.content = content;
    row.base = base.map(|text| ContentHash::of_bytes(text.as_bytes()));
    row.content_version = Version::default().bump(ME, 4);
    row.props_version = Version::default().bump(ME, 5);
    row.props = Props { mode: 0o644, mtime: Time { secs: 9, nanos: 1 } };
    match row.content {
        Content::Deleted { .. } => row.props = Props::default(),
        Content::Directory => row.props.mtime = Time::default(),
        Content::Symlink { .. } => row.props.mode = 0,
        Content::File { .. } => {}
    }
    row.agreed_mode = row.props.mode;
    Stored { row, stamp: Stamp::UNKNOWN, inode: 0, shared: false, deleted_at: 0 }
}

/// The trace of a row whose content was `changed` at this number.
fn trace(stored: &Stored, base: Option<&str>, changed: u64) -> Trace {
    let moved_to = moved_to(stored).cloned();
    let (path, content) = (stored.row.path.clone(), reference(&stored.row.content));
    let base = base.and_then(|text| reference(&file(text)));
    Trace { path, content, moved_to, base, changed }
}

fn deleted(moved_to: Option<&str>) -> Content<ContentHash> {
    Content::Deleted { moved_to: moved_to.map(path) }
}

/// What this end has at sequence number 9; at 5 it met the other.
fn rows() -> Vec<(Stored, u64)> {
    vec![
        (stored("dir", Content::Directory, None), 1),
        (stored("dir/edited", file("new"), Some("old")), 7),
        (stored("dir/gone", deleted(None), Some("gone")), 7),
        (stored("dir/gone before", deleted(None), Some("long ago")), 3),
        (stored("dir/link", link(b"to"), None), 2),
        (stored("kept", file("kept"), Some("older")), 2),
        (stored("moved", deleted(Some("there")), Some("moved")), 8),
        (stored("new", file("new"), None), 8),
        (stored("there", file("moved and edited"), Some("moved")), 8),
    ]
}

fn references() -> References {
    let base = |stored: &Stored| match stored.row.path.as_bytes() {
        b"dir/edited" => Some("old"),
        b"dir/gone" => Some("gone"),
        b"dir/gone before" => Some("long ago"),
        b"kept" => Some("older"),
        b"moved" | b"there" => Some("moved"),
        _ => None,
    };
    let traces = rows().iter().map(|(row, changed)| trace(row, base(row), *changed)).collect();
    References::new(traces, 5, |_, _| false)
}

/// What the other end has: everything as it was.
fn other() -> References {
    let was = [
        ("dir", Content::Directory),
        ("dir/edited", file("old")),
        ("dir/gone", file("gone")),
        ("dir/link", link(b"to")),
        ("kept", file("kept")),
        ("moved", file("moved")),
    ];
    let traces =
        was.into_iter().map(|(name, content)| trace(&stored(name, content, None), None, 1));
    References::new(traces.collect(), 77, |_, _| false)
}

#[test]
fn both_ends_list_what_was_there_when_they_met() {
    assert_eq!(references(), other());
    assert_eq!(references().known(), other().known());
    let names: Vec<String> =
        references().entries.iter().map(|(path, _)| path.to_string()).collect();
    assert_eq!(names, ["dir/edited", "dir/gone", "dir/link", "kept", "moved", "dir"]);
}

#[test]
fn a_list_without_an_entry_or_with_another_content_has_another_digest() {
    let traces = |text| vec![trace(&stored("a", file(text), None), None, 1)];
    let known = |text, left_out| References::new(traces(text), 5, |_, _| left_out).known();
    assert_ne!(known("one", false).digest, known("two", false).digest);
    assert_eq!(known("one", true), Known { count: 0, ..known("two", true) });
}

type Said = (Vec<Row<Check>>, Numbered);

fn said(worth: usize) -> Option<Said> {
    let rows: Vec<Stored> = rows().into_iter().map(|(row, _)| row).collect();
    let mut stated: Vec<Row<Check>> = rows.iter().map(|stored| stored.row.stated(&key())).collect();
    let told: Vec<usize> = (0..rows.len()).collect();
    let numbered = number(&rows, &mut stated, &told, &references(), worth)?;
    Some((stated, numbered))
}

/// What the other end makes of it, if this is its row of each path.
fn heard(numbered: &Numbered, known: &References, own: Option<&Stored>) -> Option<Vec<Row<Check>>> {
    let own = |_: &RelPath| Ok::<_, std::convert::Infallible>(own.cloned());
    let Ok(rows) = unnumber(&numbered.altered, known, &key(), own);
    rows.map(|(rows, manners)| {
        assert_eq!(manners, numbered.manners);
        rows
    })
}

#[test]
fn rows_of_known_entries_go_by_number_and_come_out_the_same() {
    let (stated, numbered) = said(1).unwrap();
    let told: Vec<String> = numbered.told.iter().map(|&at| stated[at].path.to_string()).collect();
    assert_eq!(told, ["dir/gone before", "moved", "new", "there"]);
    let own = stored("dir/link", link(b"to"), None);
    let heard = heard(&numbered, &other(), Some(&own)).unwrap();
    let mut meant = stated;
    meant.retain(|row| !told.contains(&row.path.to_string()));
    assert_eq!(heard, meant);
    let kept = heard.iter().find(|row| row.path == path("kept")).unwrap();
    assert_eq!(kept.base, None, "what was there before is nothing to this peer");
}

#[test]
fn few_changes_are_not_worth_a_number() {
    assert!(said(5).is_some());
    assert!(said(6).is_none());
}

#[test]
fn a_list_that_is_not_the_same_is_of_no_use() {
    let (_, numbered) = said(1).unwrap();
    let own = stored("dir/link", link(b"to"), None);
    let traces = vec![trace(&stored("kept", file("kept"), None), None, 1)];
    let another = References::new(traces, 5, |_, _| false);
    assert!(heard(&numbered, &another, Some(&own)).is_none());
}

#[test]
fn an_entry_of_unknown_kind_or_size_cannot_be_told() {
    let (_, numbered) = said(1).unwrap();
    // The link is another one here, and a file does not know how long it was.
    assert!(heard(&numbered, &other(), Some(&stored("dir/link", link(b"x"), None))).is_none());
    assert!(heard(&numbered, &other(), None).is_none());
    let own = stored("dir/link", link(b"to"), None);
    let mut known = other();
    let at = known.find(&path("kept")).unwrap().0;
    known.entries[at].1.size = None;
    assert!(heard(&numbered, &known, Some(&own)).is_none());
}

#[test]
fn a_number_beyond_the_list_is_refused() {
    let (_, mut numbered) = said(1).unwrap();
    numbered.altered.changes.last_mut().unwrap().number = 6;
    let own = stored("dir/link", link(b"to"), None);
    assert!(heard(&numbered, &other(), Some(&own)).is_none());
}
