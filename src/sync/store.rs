//! What a person may do with the store of a root, besides syncing.

use std::collections::HashSet;

use psync_protocol::ContentHash;

use super::{Site, remember};
use crate::index::{IndexError, Remembered};
use crate::store::{Checked, Collected, Store, StoreError, StoreStat};

/// What is remembered of a root's contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// The store.
    pub held: StoreStat,
    /// Contents of which the cache has block hashes, and the bytes of these hashes.
    pub block_hashes: (u64, u64),
}

/// What is remembered of a root's contents; else why that cannot be said.
pub fn stat(site: &mut Site) -> Result<Stat, String> {
    let held = with_store(site, |store| store.stat())?;
    let block_hashes = site.index.cache().blocks_in_all();
    Ok(Stat { held, block_hashes })
}

/// Makes the store fit its budget: what no file has any more goes first, then what was not used
/// for longest. Of live contents that go, block hashes stay.
pub fn collect(site: &mut Site) -> Result<Collected, String> {
    let mut live = HashSet::new();
    let listed = site.index.files(|_, _, hash| {
        live.insert(hash);
    });
    listed.map_err(|error| error.to_string())?;
    let collected = with_store(site, |store| store.gc(0, &|hash| live.contains(hash)))?;
    let evicted: HashSet<ContentHash> =
        collected.hashes.iter().copied().filter(|hash| live.contains(hash)).collect();
    remember::as_blocks(site, &evicted).map_err(|error| error.to_string())?;
    Ok(collected)
}

/// Reads everything in the store. What is damaged goes, and is remembered anew after the next
/// sync, as far as files still have it.
pub fn verify(site: &mut Site) -> Result<Checked, String> {
    let checked = with_store(site, Store::verify)?;
    let damaged: HashSet<ContentHash> = checked.damaged.iter().copied().collect();
    forget(site, &damaged).map_err(|error| error.to_string())?;
    Ok(checked)
}

/// The store holds these contents no more, as they were damaged: they are remembered anew.
pub(super) fn forget(site: &mut Site, hashes: &HashSet<ContentHash>) -> Result<(), IndexError> {
    if hashes.is_empty() {
        return Ok(());
    }
    let files = remember::files_with(&mut site.index, hashes)?;
    site.index.transaction(|index| {
        files.iter().try_for_each(|file| index.set_remembered(file, Remembered::Not))
    })
}

/// Does something with the store. One that turns out to be damaged is thrown away.
fn with_store<T>(
    site: &mut Site,
    work: impl FnOnce(&mut Store) -> Result<T, StoreError>,
) -> Result<T, String> {
    if !site.old.is_on() {
        return Err("the store is switched off (store.enabled; see 'psync config show')".into());
    }
    let before = site.notes.len();
    let Some(store) = site.store() else {
        return Err(site.notes[before..].iter().map(|note| note.text.clone()).collect());
    };
    work(store).map_err(|error| {
        let Site { old, notes, .. } = site;
        old.give_up(&error, notes);
        match error.is_damage() {
            true => format!("{error}; it was thrown away, and fills again with the next sync"),
            false => error.to_string(),
        }
    })
}
