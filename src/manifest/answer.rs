//! What the responder says to the initiator's statement: of each row how its own stands to it,
//! and its own rows where the initiator needs them to plan.

use std::collections::{BTreeMap, HashSet};

use psync_protocol::message::{Flow, Mark};
use psync_protocol::{Check, CheckKey, Content, ContentHash, RelPath, Relation, Row, Version};

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

/// What the responder has.
pub trait Own {
    /// What keeps it from looking.
    type Error;

    /// Its row at the path of a row that the initiator states, and whether it can take part there.
    fn row(&mut self, row: &Row<Check>) -> Result<(Option<Stored>, LocalAccess), Self::Error>;

    /// Whether a file with this content (a check under the initiator's key) stands anywhere here.
    fn has(&mut self, content: Check) -> Result<bool, Self::Error>;

    /// Whether something of the content of this path has come here in a run that broke off.
    fn has_begun(&self, path: &RelPath) -> bool;
}

/// Answers `stated`, given what this end has; `news` are the rows that the initiator has not heard
/// of yet.
pub fn answer<O: Own>(
    stated: &[Row<Check>],
    news: Vec<Stored>,
    terms: Terms<'_>,
    own: &mut O,
) -> Result<Answered, O::Error> {
    let mut rows: BTreeMap<RelPath, Row<Check>> = news
        .into_iter()
        .map(|stored| (stored.row.path.clone(), stored.row.stated(terms.our_key)))
        .collect();
    let mut marks = Vec::with_capacity(stated.len());
    let mut needed = HashSet::new();
    for row in stated {
        let (stored, access) = own.row(row)?;
        if access == LocalAccess::Blind {
            // It stays for now, and so do the directories that it is in.
            needed.extend(row.path.ancestors());
        }
        let mark = match access {
            LocalAccess::Ignored => Mark::Ignored,
            LocalAccess::Blind => Mark::Unusable,
            LocalAccess::Open => mark(row, stored.as_ref(), terms),
        };
        let at_hand = match mark {
            Mark::Behind => at_hand(row, stored.as_ref(), terms, own)?,
            _ => mark.clone(),
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
        marks.push(at_hand);
    }
    needed.extend(
        rows.values().filter(|row| row.content.is_live()).flat_map(|row| row.path.ancestors()),
    );
    state_needed_directories(stated, &needed, terms, own, &mut rows)?;
    Ok(Answered { marks, rows: rows.into_values().collect() })
}

/// Where the initiator would take a directory away in which something of this end lives on, it has
/// to see the directory.
fn state_needed_directories<O: Own>(
    stated: &[Row<Check>],
    needed: &HashSet<RelPath>,
    terms: Terms<'_>,
    own: &mut O,
    rows: &mut BTreeMap<RelPath, Row<Check>>,
) -> Result<(), O::Error> {
    if needed.is_empty() {
        return Ok(());
    }
    let lost = |row: &&Row<Check>| {
        !matches!(row.content, Content::Directory) && needed.contains(&row.path)
    };
    for row in stated.iter().filter(lost) {
        if let (Some(stored), LocalAccess::Open) = own.row(row)? {
            rows.entry(row.path.clone()).or_insert_with(|| stored.row.stated(terms.our_key));
        }
    }
    Ok(())
}

/// What of use for a newer file is here: the initiator may then send its content unasked.
fn at_hand<O: Own>(
    row: &Row<Check>,
    stored: Option<&Stored>,
    terms: Terms<'_>,
    own: &mut O,
) -> Result<Mark, O::Error> {
    // Of what was begun only the rest is asked for: nothing shall come unasked.
    if !matches!(row.content, Content::File { .. }) || own.has_begun(&row.path) {
        return Ok(Mark::Behind);
    }
    let live = stored.filter(|stored| stored.row.content.is_live());
    let here = live.and_then(|live| live.row.stated(terms.their_key).content.fingerprint());
    Ok(match row.base {
        Some(base) if here == Some(base) => Mark::OnBase,
        Some(base) if live.is_none() && own.has(base)? => Mark::OnBase,
        _ if live.is_none() => Mark::Absent,
        _ => Mark::Behind,
    })
}

fn mark(row: &Row<Check>, stored: Option<&Stored>, terms: Terms<'_>) -> Mark {
    let Some(stored) = stored else {
        return match &row.content {
            // Nothing is here as nothing is there: there is nothing to delete.
            Content::Deleted { .. } => {
                Mark::Same { content: Version::default(), props: Version::default() }
            }
            Content::Directory | Content::File { .. } | Content::Symlink { .. } => Mark::Behind,
        };
    };
    let ours = &stored.row;
    if !ours.stated(terms.their_key).same_state(row) || was_moved_by_both(row, ours) {
        return Mark::Behind;
    }
    if ours.content_version == row.content_version && ours.props_version == row.props_version {
        return Mark::Equal;
    }
    Mark::Same { content: ours.content_version.clone(), props: ours.props_version.clone() }
}

/// Whether each side has moved the same thing to another place; the initiator tells a person.
fn was_moved_by_both(row: &Row<Check>, ours: &Row<ContentHash>) -> bool {
    match (&row.content, &ours.content) {
        (
            Content::Deleted { moved_to: Some(theirs) },
            Content::Deleted { moved_to: Some(elsewhere) },
        ) => {
            let relation = row.content_version.compare(&ours.content_version);
            theirs != elsewhere && relation == Relation::Concurrent
        }
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
