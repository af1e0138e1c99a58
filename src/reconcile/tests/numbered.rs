//! Statements between replicas in memory, with known entries stated by number wherever both ends
//! can: they mean the same as rows stated one by one.

use psync_protocol::changes::{ChangesReader, encode};
use psync_protocol::{Check, CheckKey, Content, Row};

use super::model::{Replica, on_the_line, sync};
use super::path;
use crate::manifest::{LocalAccess, Numbered, Reference, References, Stored, Trace};
use crate::manifest::{number, unnumber};

/// What the index keeps of a path's past once a row is written.
pub(super) fn trace(before: Option<&Trace>, stored: &Stored, sequence: u64) -> Trace {
    let row = &stored.row;
    let size = match row.content {
        Content::File { size, .. } => Some(size),
        Content::Deleted { .. } | Content::Directory | Content::Symlink { .. } => None,
    };
    let content = row.content.fingerprint().map(|hash| Reference { hash, size });
    let base_size = |hash| {
        let before = before?;
        let known = [before.content, before.base].into_iter().flatten();
        known.into_iter().find(|known| known.hash == hash)?.size
    };
    Trace {
        path: row.path.clone(),
        content,
        moved_to: match &row.content {
            Content::Deleted { moved_to } => moved_to.clone(),
            Content::Directory | Content::File { .. } | Content::Symlink { .. } => None,
        },
        base: row.base.map(|hash| Reference { hash, size: base_size(hash) }),
        changed: match before {
            Some(before) if before.content == content => before.changed,
            Some(_) | None => sequence,
        },
    }
}

fn references(end: &Replica, peer: &Replica, since: u64) -> References {
    let left_out =
        |name: &_, _| end.is_pending(name, peer) || end.access(name) != LocalAccess::Open;
    References::new(end.traces(), since, left_out)
}

/// A statement as its end means it, and as the other end reads it.
pub(super) struct Said {
    pub(super) meant: Vec<Row<Check>>,
    pub(super) heard: Vec<Row<Check>>,
    is_numbered: bool,
}

/// What `from` states to `to`, and what that end makes of it. `met` are the sequence numbers of
/// both when they met, as the one that starts the session knows them.
pub(super) fn state(
    rows: Vec<Row<Check>>,
    [from, to]: [&Replica; 2],
    met: Option<(u64, u64)>,
    key: &CheckKey,
) -> Said {
    by_number(&rows, [from, to], met, key).unwrap_or_else(|| {
        let heard = on_the_line(&rows, key);
        Said { meant: rows, heard, is_numbered: false }
    })
}

fn by_number(
    rows: &[Row<Check>],
    [from, to]: [&Replica; 2],
    met: Option<(u64, u64)>,
    key: &CheckKey,
) -> Option<Said> {
    let (ours, theirs) = met?;
    let mut meant = rows.to_vec();
    let stored = |row: &Row<Check>| {
        from.row(&row.path).cloned().unwrap_or_else(|| Stored::absent(row.path.clone()))
    };
    let own: Vec<Stored> = rows.iter().map(stored).collect();
    let (told, strange): (Vec<usize>, Vec<usize>) =
        (0..rows.len()).partition(|&at| from.row(&rows[at].path).is_some());
    let references = [references(from, to, ours), references(to, from, theirs)];
    let Numbered { told, altered, .. } = number(&own, &mut meant, &told, &references[0], 1)?;
    let mut reader = ChangesReader::new(altered.known);
    encode(&altered.changes).iter().for_each(|payload| reader.batch(payload).unwrap());
    let mut own = |name: &_| Ok::<_, std::convert::Infallible>(to.row(name).cloned());
    let Ok(numbered) = unnumber(&reader.finish(), &references[1], key, &mut own);
    let mut told = [told, strange].concat();
    told.sort_unstable();
    let told: Vec<_> = told.into_iter().map(|at| meant[at].clone()).collect();
    let mut heard = [on_the_line(&told, key), numbered?.0].concat();
    heard.sort_by(|x, y| x.path.cmp(&y.path));
    assert_eq!(heard, on_the_line(&meant, key), "a number means the same as the row");
    Some(Said { meant, heard, is_numbered: true })
}

/// Whether what `a` has to tell `b` goes by number.
fn goes_by_number(a: &Replica, b: &Replica) -> bool {
    let key = CheckKey::new(a.id, &[1; 16]);
    let rows = a.news_for(b).iter().map(|stored| stored.row.stated(&key)).collect();
    state(rows, [a, b], a.met(b), &key).is_numbered
}

fn pair() -> (Replica, Replica) {
    let (mut a, mut b) = (Replica::new(1), Replica::new(2));
    for name in ["d/one", "d/two", "three", "four"] {
        a.write(name, &format!("content of {name}"), 1);
    }
    sync(&mut a, &mut b);
    (a, b)
}

#[test]
fn edits_deletions_and_touches_of_what_both_know_go_by_number() {
    let (mut a, b) = pair();
    a.write("d/one", "edited", 2);
    a.write("three", "content of three", 2);
    a.delete("four");
    a.write("new", "new", 2);
    assert!(goes_by_number(&a, &b));
}

#[test]
fn a_file_that_was_edited_on_both_sides_goes_by_number() {
    let (mut a, mut b) = pair();
    a.write("d/one", "edited here", 2);
    a.write("three", "content of three", 2);
    b.write("d/one", "edited there", 2);
    b.write("three", "edited there", 2);
    b.delete("d/two");
    assert!(goes_by_number(&a, &b));
    sync(&mut a, &mut b);
    assert!(a.holds("three", "edited there") && !a.has("d/two"));
    assert_eq!(a.tree(), b.tree());
}

#[test]
fn what_a_third_replica_brought_does_not_stand_in_the_way() {
    let (mut a, mut b) = pair();
    let mut c = Replica::new(3);
    sync(&mut b, &mut c);
    c.write("d/two", "edited by the third", 2);
    c.write("third", "new", 2);
    c.delete("four");
    sync(&mut b, &mut c);
    a.write("three", "content of three", 3);
    a.write("d/one", "edited", 3);
    assert!(goes_by_number(&a, &b), "told to whom it was brought");
    assert!(goes_by_number(&b, &a), "told by whom it was brought");
    sync(&mut a, &mut b);
    assert_eq!(a.tree(), b.tree());
}

#[test]
fn files_that_moved_and_were_edited_do_not_stand_in_the_way() {
    let (mut a, mut b) = pair();
    a.rename_and_edit("d/one", "e/one", "moved and edited", 2);
    a.write("three", "content of three", 2);
    b.rename("d/two", "two");
    assert!(goes_by_number(&a, &b));
    assert!(goes_by_number(&b, &a) || b.news_for(&a).iter().all(|s| s.row.path != path("three")));
    sync(&mut a, &mut b);
    assert_eq!(a.tree(), b.tree());
}

#[test]
fn where_the_lists_differ_rows_are_stated_one_by_one() {
    let (mut a, mut b) = pair();
    a.write("three", "content of three", 2);
    // Gone and there again: its row does not tell any more what stood there.
    b.delete("four");
    b.write("four", "something else", 2);
    assert!(!goes_by_number(&a, &b));
    sync(&mut a, &mut b);
    assert_eq!(a.tree(), b.tree());
}
