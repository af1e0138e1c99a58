//! What the responder says to the initiator's statement: of each row how its own stands to it,
//! and its own rows where the initiator needs them to plan.

use std::collections::{BTreeMap, HashSet};

use psync_protocol::message::{Flow, Mark};
use psync_protocol::{Check, CheckKey, Content, RelPath, Row};

use super::{LocalAccess, Stored};

/// The answer.
#[derive(Debug)]
pub struct Answered {
    /// One for each row of the initiator.
    pub marks: Vec<Mark>,
    /// The responder's rows, sorted.
    pub rows: Vec<Row<Check>>,
}

/// What the answer depends on besides the rows.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// The key of the initiator's statement.
    pub their_key: &'a CheckKey,
    /// The key under which this end states rows.
    pub our_key: &'a CheckKey,
    /// Which way changes go.
    pub flow: Flow,
    /// Nothing may be deleted.
    pub first_contact: bool,
}

/// Answers `stated`. `own` looks up this end's row and access for a path; `news` are the rows that
/// the initiator has not heard of yet.
pub fn answer<E>(
    stated: &[Row<Check>],
    news: Vec<Stored>,
    terms: Terms<'_>,
    mut own: impl FnMut(&Row<Check>) -> Result<(Option<Stored>, LocalAccess), E>,
) -> Result<Answered, E> {
    let mut rows: BTreeMap<RelPath, Row<Check>> = news
        .into_iter()
        .map(|stored| (stored.row.path.clone(), stored.row.stated(terms.our_key)))
        .collect();
    let mut marks = Vec::with_capacity(stated.len());
    for row in stated {
        let (stored, access) = own(row)?;
        let mark = match access {
            LocalAccess::Ignored => Mark::Ignored,
            LocalAccess::Blind => Mark::Unusable,
            LocalAccess::Open => mark(row, stored.as_ref(), terms),
        };
        match (&mark, stored) {
            (Mark::Behind, Some(stored)) if must_state(row, &stored, terms) => {
                rows.insert(row.path.clone(), stored.row.stated(terms.our_key));
            }
            (Mark::Behind, None) if terms.flow == Flow::ToInitiator => {
                rows.insert(row.path.clone(), Row::absent(row.path.clone()));
            }
            _ => {
                rows.remove(&row.path);
            }
        }
        marks.push(mark);
    }
    state_needed_directories(stated, terms, &mut own, &mut rows)?;
    Ok(Answered { marks, rows: rows.into_values().collect() })
}

/// Where the initiator would take a directory away in which something of this end lives on, it has
/// to see the directory.
fn state_needed_directories<E>(
    stated: &[Row<Check>],
    terms: Terms<'_>,
    own: &mut impl FnMut(&Row<Check>) -> Result<(Option<Stored>, LocalAccess), E>,
    rows: &mut BTreeMap<RelPath, Row<Check>>,
) -> Result<(), E> {
    let live = rows.values().filter(|row| row.content.is_live());
    let needed: HashSet<RelPath> = live.flat_map(|row| row.path.ancestors()).collect();
    if needed.is_empty() {
        return Ok(());
    }
    let lost = |row: &&Row<Check>| {
        !matches!(row.content, Content::Directory) && needed.contains(&row.path)
    };
    for row in stated.iter().filter(lost) {
        if let (Some(stored), LocalAccess::Open) = own(row)? {
            rows.entry(row.path.clone()).or_insert_with(|| stored.row.stated(terms.our_key));
        }
    }
    Ok(())
}

fn mark(row: &Row<Check>, stored: Option<&Stored>, terms: Terms<'_>) -> Mark {
    let Some(stored) = stored else { return Mark::Behind };
    let ours = &stored.row;
    if !ours.stated(terms.their_key).same_state(row) || moved_elsewhere(&ours.content, &row.content)
    {
        return Mark::Behind;
    }
    if ours.content_version == row.content_version && ours.props_version == row.props_version {
        return Mark::Equal;
    }
    Mark::Same { content: ours.content_version.clone(), props: ours.props_version.clone() }
}

/// Whether both moved it, and to different places: gone on both sides, but a conflict to tell of.
fn moved_elsewhere<G, H>(ours: &Content<G>, theirs: &Content<H>) -> bool {
    match (ours, theirs) {
        (
            Content::Deleted { moved_to: Some(ours) },
            Content::Deleted { moved_to: Some(theirs) },
        ) => ours != theirs,
        _ => false,
    }
}

/// Whether the initiator cannot plan without seeing this end's row.
fn must_state(row: &Row<Check>, stored: &Stored, terms: Terms<'_>) -> bool {
    let ours = &stored.row;
    let loses_at_first_contact =
        terms.first_contact && ours.content.is_live() && !row.content.is_live();
    terms.flow == Flow::ToInitiator
        || loses_at_first_contact
        || !row.content_version.includes(&ours.content_version)
        || !row.props_version.includes(&ours.props_version)
}
