//! The trash of a root: what is in it, and what it lets go.

use std::collections::{HashMap, HashSet};
use std::io;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use psync_protocol::{ContentHash, RelPath};

use super::Site;
use super::site::note;
use crate::journal::{DeedRow, Journal, JournalError, Kept, Trashed};
use crate::root::Root;

/// The trash is gone through again after so many milliseconds, though nothing was added.
const SEEN_ENOUGH: i64 = 86_400_000;

/// Everything in the trash of a root, with what the journal knows of it, the newest first.
pub fn list(root: &Root, journal: Option<&Journal>) -> Result<Vec<Trashed>, JournalError> {
    let mut known: HashMap<Box<[u8]>, DeedRow> = HashMap::new();
    if let Some(journal) = journal {
        for deed in journal.trashed()? {
            if let Kept::Trash(place) = deed.kept.clone() {
                known.insert(place, deed);
            }
        }
    }
    let mut items = Vec::new();
    for (place, stat) in root.trash_files()? {
        let deed = known.remove(&place[..]);
        let hash = deed.as_ref().and_then(|deed| deed.before.as_ref()?.thing.hash().copied());
        let (run, rest) = split(&place);
        let path = deed.map(|deed| deed.path).or_else(|| RelPath::new(rest?).ok());
        items.push(Trashed {
            size: stat.size,
            since: time_of(run).unwrap_or(stat.ctime.secs),
            path,
            hash,
            elsewhere: false,
            place: place.into(),
        });
    }
    items.sort_by(|a, b| (b.since, &a.place).cmp(&(a.since, &b.place)));
    Ok(items)
}

fn split(place: &[u8]) -> (&[u8], Option<&[u8]>) {
    match place.iter().position(|&byte| byte == b'/') {
        Some(slash) => (&place[..slash], Some(&place[slash + 1..])),
        None => (place, None),
    }
}

/// The moment that a run's directory is named by, in seconds since 1970.
fn time_of(run: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(run).ok()?;
    let time = DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?;
    Some(TimeZone::UTC.to_timestamp(time).ok()?.as_second())
}

/// Removes files from the trash, by their places. Returns how many went, and their bytes.
pub fn remove(site: &Site, items: &[&Trashed]) -> io::Result<(u64, u64)> {
    let mut gone = (0, 0);
    let mut failed = None;
    for item in items {
        match site.staging.remove_trashed(&item.place) {
            Ok(()) => gone = (gone.0 + 1, gone.1 + item.size),
            Err(error) if crate::root::is_absent(&error) => {}
            Err(error) => drop(failed.get_or_insert(error)),
        }
    }
    let runs: HashSet<&[u8]> = items.iter().map(|item| split(&item.place).0).collect();
    for run in runs {
        if let Ok(run) = std::str::from_utf8(run) {
            site.staging.prune_trash(run);
        }
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(gone),
    }
}

/// After a run: lets go of what the retention does not keep. Most runs find that there is nothing
/// to do by one look into the journal.
pub(super) fn sweep(site: &mut Site) {
    if let Err(error) = try_sweep(site) {
        site.notes.push(note(format!("the trash could not be gone through: {error}")));
    }
}

fn try_sweep(site: &mut Site) -> Result<(), JournalError> {
    let added = site.journal.has_trashed();
    let Some(journal) = site.journal.journal() else { return Ok(()) };
    let now = crate::journal::now();
    if !added && now.saturating_sub(journal.trash_seen()?) < SEEN_ENOUGH {
        return Ok(());
    }
    journal.see_trash()?;
    let keep = i64::try_from(site.retention.journal_retention.as_millis()).unwrap_or(i64::MAX);
    journal.forget_before(now.saturating_sub(keep))?;
    let mut items = list(&site.root, Some(journal))?;
    let tree = site.index.tree_bytes().map_err(io::Error::other)?;
    let bytes: u64 = items.iter().map(|item| item.size).sum();
    if bytes > site.retention.trash_budget.bytes(tree) {
        note_elsewhere(site, &mut items)?;
    }
    let surplus = site.retention.surplus(&items, tree, now / 1000);
    let surplus: Vec<&Trashed> = surplus.into_iter().map(|at| &items[at]).collect();
    if !surplus.is_empty() {
        remove(site, &surplus)?;
    }
    Ok(())
}

/// Notes which contents are also in the tree or in the store.
fn note_elsewhere(site: &mut Site, items: &mut [Trashed]) -> io::Result<()> {
    let mut live: HashSet<ContentHash> = HashSet::new();
    let listed = site.index.files(|_, _, hash| {
        live.insert(hash);
    });
    listed.map_err(io::Error::other)?;
    let store = site.store();
    for item in items {
        let Some(hash) = item.hash else { continue };
        let stored = store.as_ref().is_some_and(|store| store.holds(&hash).unwrap_or(false));
        item.elsewhere = stored || live.contains(&hash);
    }
    Ok(())
}
