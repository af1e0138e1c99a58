//! What the responder makes of a moved directory is what the initiator left out.

use psync_protocol::{Props, Time};

use super::*;
use crate::manifest::Stamp;

const ME: ReplicaId = ReplicaId([1; 16]);
const PEER: ReplicaId = ReplicaId([2; 16]);
const CLOCK: u64 = 9;

fn path(name: &str) -> RelPath {
    RelPath::new(name.as_bytes()).unwrap()
}

fn stored(row: Row<ContentHash>) -> Stored {
    Stored { row, stamp: Stamp::UNKNOWN, inode: 0, shared: true, deleted_at: 0 }
}

fn agreed(name: &str, content: Content<ContentHash>, mode: u16) -> Stored {
    let version = Version::from_pairs(vec![(ME, 1), (PEER, 1)]);
    let mut row = Row::absent(path(name));
    row.content = content;
    row.props.mode = mode;
    if mode == 0o644 {
        row.props.mtime = Time { secs: 5, nanos: 0 };
    }
    row.agreed_mode = mode;
    row.content_version = version.clone();
    row.props_version = version;
    stored(row)
}

fn file(name: &str, text: &str) -> Stored {
    let hash = ContentHash::of_bytes(text.as_bytes());
    agreed(name, Content::File { size: text.len() as u64, hash }, 0o644)
}

fn directory(name: &str) -> Stored {
    agreed(name, Content::Directory, 0o755)
}

/// A directory of twenty files and one directory, as both ends have it.
fn tree(name: &str) -> Vec<Stored> {
    let mut rows = vec![directory(name), directory(&format!("{name}/sub"))];
    rows.extend((0..20).map(|n| file(&format!("{name}/{n:02}"), &format!("text {n}"))));
    rows.sort_by(|a, b| a.row.path.cmp(&b.row.path));
    rows
}

/// What a scan of the initiator makes of a row that is gone; `to` is where its content went.
fn buried(old: &Stored, to: Option<&str>) -> Stored {
    let mut row = old.row.clone();
    row.base = row.content.fingerprint();
    row.agreed_mode = row.props.mode;
    row.content = Content::Deleted { moved_to: to.map(path) };
    row.content_version = row.content_version.bump(ME, CLOCK);
    row.props = Props::default();
    stored(row)
}

/// And of what it finds new.
fn found(old: &Stored, to: &str) -> Stored {
    let fresh = Version::default().bump(ME, CLOCK);
    let row = Row { path: path(to), base: None, ..old.row.clone() };
    stored(Row { content_version: fresh.clone(), props_version: fresh, ..row })
}

/// The rows of the initiator after `own` was renamed from one name to another.
fn renamed(own: &[Stored], from: &str, to: &str) -> Vec<Stored> {
    let mut rows = Vec::new();
    for old in own {
        let rest = &old.row.path.to_string()[from.len()..];
        let target = format!("{to}{rest}");
        let is_file = matches!(old.row.content, Content::File { .. });
        rows.push(buried(old, is_file.then_some(target.as_str())));
        rows.push(found(old, &target));
    }
    sorted(rows)
}

fn sorted(mut rows: Vec<Stored>) -> Vec<Stored> {
    rows.sort_by(|a, b| a.row.path.cmp(&b.row.path));
    rows
}

fn at<'a>(rows: &'a mut [Stored], name: &str) -> &'a mut Stored {
    rows.iter_mut().find(|stored| stored.row.path == path(name)).unwrap()
}

/// What the responder has at the end: the rows that it was told and those that it made, and how
/// many of them it was told.
fn received(rows: &[Stored], own: &[Stored]) -> (Vec<Row<ContentHash>>, usize) {
    let folded = fold(rows, ME);
    let told = folded.told.len();
    let mut all: Vec<_> = folded.told.iter().map(|&at| rows[at].row.clone()).collect();
    for moved in &folded.moved {
        let below = |row: &Row<_>| row.path == moved.from || row.path.is_below(&moved.from);
        let own: Vec<Stored> = own.iter().filter(|own| below(&own.row)).cloned().collect();
        all.extend(unfold(moved, &own, ME, ENTRIES_MAX).expect("these are the rows"));
    }
    all.sort_by(|a, b| a.path.cmp(&b.path));
    all.iter_mut().filter(|row| !row.content.is_live()).for_each(|row| row.agreed_mode = 0);
    (all, told)
}

fn meant(rows: &[Stored]) -> Vec<Row<ContentHash>> {
    let mut rows: Vec<_> = rows.iter().map(|stored| stored.row.clone()).collect();
    rows.iter_mut().filter(|row| !row.content.is_live()).for_each(|row| row.agreed_mode = 0);
    rows
}

#[test]
fn a_renamed_directory_needs_no_rows() {
    let own = tree("d");
    let rows = renamed(&own, "d", "e");
    assert_eq!(received(&rows, &own), (meant(&rows), 0));
}

#[test]
fn what_was_edited_in_it_is_stated_row_by_row_and_nothing_else() {
    let own = tree("d");
    let mut rows = renamed(&own, "d", "e");
    let edited = file("x", "edited").row;
    let new = at(&mut rows, "e/07");
    new.row.content = edited.content;
    new.row.base = Some(ContentHash::of_bytes(b"text 7"));
    let folded = fold(&rows, ME);
    assert_eq!(folded.moved[0].except, [path("07")]);
    assert_eq!(received(&rows, &own), (meant(&rows), 2));
}

#[test]
fn what_was_added_to_it_or_taken_from_it_is_stated_row_by_row() {
    let own = tree("d");
    let mut rows = renamed(&own, "d", "e");
    rows.push(found(&file("x", "more"), "e/more"));
    rows.retain(|stored| stored.row.path != path("e/03"));
    at(&mut rows, "d/03").row.content = Content::Deleted { moved_to: None };
    at(&mut rows, "d/04").row.content = Content::Deleted { moved_to: Some(path("far")) };
    at(&mut rows, "e/04").row.path = path("far");
    let rows = sorted(rows);
    let folded = fold(&rows, ME);
    assert_eq!(folded.moved[0].except, [path("03"), path("04")]);
    assert_eq!(received(&rows, &own), (meant(&rows), 4));
}

#[test]
fn a_mode_that_changed_with_the_name_is_an_exception() {
    let own = tree("d");
    let mut rows = renamed(&own, "d", "e");
    at(&mut rows, "e/sub").row.props.mode = 0o700;
    assert_eq!(fold(&rows, ME).moved[0].except, [path("sub")]);
    assert_eq!(received(&rows, &own), (meant(&rows), 2));
}

#[test]
fn a_directory_goes_where_most_of_its_files_went() {
    let own = tree("d");
    let mut rows = renamed(&own, "d", "e");
    at(&mut rows, "d/00").row.content = Content::Deleted { moved_to: Some(path("aside/00")) };
    at(&mut rows, "e/00").row.path = path("aside/00");
    let rows = sorted(rows);
    assert_eq!(fold(&rows, ME).moved[0].to, path("e"));
    assert_eq!(received(&rows, &own), (meant(&rows), 2));
}

#[test]
fn a_directory_of_which_most_has_changed_is_stated_row_by_row() {
    let own = tree("d");
    let mut rows = renamed(&own, "d", "e");
    for n in 0..15 {
        at(&mut rows, &format!("e/{n:02}")).row.base = Some(ContentHash([7; 32]));
    }
    assert!(fold(&rows, ME).moved.is_empty());
}

#[test]
fn no_row_is_covered_by_two_moves() {
    // Equal directories, both gone, and one that has come: it can be the target of one alone.
    let own = [tree("a"), tree("b")].concat();
    let mut rows = renamed(&own[..22], "a", "c");
    let second = renamed(&own[22..], "b", "c");
    rows.extend(second.into_iter().filter(|stored| !stored.row.content.is_live()));
    let rows = sorted(rows);
    let folded = fold(&rows, ME);
    assert_eq!(folded.moved.len(), 1);
    assert_eq!(received(&rows, &own), (meant(&rows), 22));
}

#[test]
fn a_directory_that_moved_out_of_one_that_moved_is_among_its_exceptions() {
    let mut own = tree("d");
    own.extend((0..10).map(|n| file(&format!("d/sub/{n}"), &format!("deep {n}"))));
    let own = sorted(own);
    let mut rows = renamed(&own, "d", "e");
    for stored in &mut rows {
        let name = stored.row.path.to_string();
        if let Some(rest) = name.strip_prefix("e/sub") {
            stored.row.path = path(&format!("far{rest}"));
        }
        if let Content::Deleted { moved_to: Some(to) } = &mut stored.row.content
            && let Some(rest) = to.to_string().strip_prefix("e/sub")
        {
            *to = path(&format!("far{rest}"));
        }
    }
    let rows = sorted(rows);
    let folded = fold(&rows, ME);
    assert_eq!(folded.moved.len(), 1, "no source within another");
    assert_eq!(folded.moved[0].except.len(), 11);
    assert_eq!(received(&rows, &own).0, meant(&rows));
}

#[test]
fn no_more_directories_are_folded_than_a_statement_may_name() {
    let mut rows = Vec::new();
    for n in 0..MOVED_MAX + 1 {
        let (from, to) = (format!("f{n:05}"), format!("t{n:05}"));
        let mut own = vec![directory(&from)];
        own.extend((0..7).map(|k| file(&format!("{from}/{k}"), "x")));
        rows.extend(renamed(&own, &from, &to));
    }
    let folded = fold(&sorted(rows), ME);
    assert_eq!((folded.moved.len(), folded.told.len()), (MOVED_MAX, 16));
}

#[test]
fn rows_that_are_not_the_ones_meant_or_too_many_are_not_made() {
    let own = tree("d");
    let rows = renamed(&own, "d", "e");
    let moved = fold(&rows, ME).moved.remove(0);
    assert!(unfold(&moved, &own, ME, 44).is_some());
    assert!(unfold(&moved, &own, ME, 43).is_none(), "more than there is room for");
    assert!(unfold(&moved, &own[..21], ME, 44).is_none(), "a row is missing");
    assert!(unfold(&moved, &[], ME, 44).is_none());
    let except = vec![path("07")];
    assert!(unfold(&Moved { except, ..moved.clone() }, &own, ME, 44).is_none());
    let except = vec![path("nothing/of/the/kind")];
    assert!(unfold(&Moved { except, ..moved }, &own, ME, 44).is_some(), "what is not there");
}
