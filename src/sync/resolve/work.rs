//! Changes of this tree for the sake of a conflict: each is a run of the journal, so that it can be
//! looked up and undone, and whatever makes room goes to the trash.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use psync_protocol::message::Flow;
use psync_protocol::{ContentHash, Props, RelPath, Time};

use super::{ResolveError, failed};
use crate::apply::RunNames;
use crate::index::Listed;
use crate::journal::{
    Correction, Deed, Kept, Reach, Reasons, RunId, RunKind, RunStart, State, Thing, What,
};
use crate::root::{FileKind, Staged, Stat, hash_reader};
use crate::sync::{Site, random};

/// A site while it is changed.
pub(super) struct Work<'a> {
    pub(super) site: &'a mut Site,
    names: &'a RunNames,
    /// Where in the trash something went.
    places: Vec<(RelPath, Vec<u8>)>,
}

/// Does something, with these deeds announced in the journal before.
pub(super) fn in_journal(
    site: &mut Site,
    listed: &Listed,
    names: &RunNames,
    deeds: Vec<Deed>,
    act: impl FnOnce(&mut Work<'_>) -> Result<(), ResolveError>,
) -> Result<(), ResolveError> {
    let mut id = [0; 4];
    random(&mut id);
    // Only for people: nobody is reached for it.
    let location = site.index.places_of(listed.peer)?.into_iter().next().unwrap_or_default();
    let start = RunStart {
        id: RunId(id),
        kind: RunKind::Resolve,
        peer: Some(listed.peer),
        reach: Reach { location, ..Reach::default() },
        flow: Flow::TwoWay,
        trash: names.trash.clone(),
        planned: deeds.len() as u64,
        undoes: None,
    };
    site.journal.begin(&start, &Reasons::new(std::iter::once("a conflict was resolved")));
    site.journal.announce(deeds.clone());
    let mut work = Work { site, names, places: Vec::new() };
    let result = act(&mut work);
    let places = work.places;
    let corrections: Vec<(usize, Correction)> = match &result {
        Err(_) => (0..deeds.len()).map(|at| (at, Correction::NotDone)).collect(),
        Ok(()) => {
            let moved = deeds.iter().enumerate().filter_map(|(at, deed)| {
                let (_, place) = places.iter().find(|(path, _)| *path == deed.path)?;
                let kept = Kept::Trash(place.clone().into());
                (deed.kept != kept).then_some((at, Correction::Kept(kept)))
            });
            moved.collect()
        }
    };
    site.journal.confirm(&corrections);
    let error = result.as_ref().err().map(ResolveError::to_string);
    site.journal.end(0, u64::from(result.is_err()), error.as_deref());
    site.staging.prune_trash(&names.trash);
    result
}

/// The deed of putting something else at a path, or nothing.
pub(super) fn deed(
    site: &Site,
    path: &RelPath,
    after: Option<State>,
    names: &RunNames,
) -> Result<Deed, ResolveError> {
    let before = state_at(site, path)?;
    let what = match (&before, &after) {
        (None, _) => What::Create,
        (Some(_), None) => What::Delete,
        (Some(old), Some(new)) if old.thing.is_like(&new.thing) => What::Update,
        (Some(_), Some(_)) => What::Retype,
    };
    let kept = match before {
        Some(_) => Kept::Trash([names.trash.as_bytes(), path.as_bytes()].join(&b'/').into()),
        None => Kept::Nothing,
    };
    Ok(Deed { path: path.clone(), what, before, after, kept, reason: 0 })
}

/// What stands at a path.
pub(super) fn state_at(site: &Site, path: &RelPath) -> Result<Option<State>, ResolveError> {
    let unreadable = failed(path, "look at it");
    let Some(stat) = site.root.stat(path).map_err(&unreadable)? else { return Ok(None) };
    let thing = match stat.kind {
        FileKind::Directory => Thing::Directory,
        FileKind::Symlink => {
            Thing::Symlink { target: site.root.read_link(path).map_err(&unreadable)? }
        }
        FileKind::Special => return Err(ResolveError::Changed(path.clone())),
        FileKind::File => {
            let hashed = site
                .root
                .open_file(path)
                .and_then(|(mut file, _)| hash_reader(&mut file, &mut Vec::new()));
            let (hash, size) = hashed.map_err(&unreadable)?;
            Thing::File { size, hash }
        }
    };
    Ok(Some(State { thing, props: stat.props() }))
}

/// A staged file, and what it will be in the tree.
pub(super) struct Fresh {
    pub(super) staged: Staged,
    pub(super) state: State,
}

/// Stages a content that is to stand in the place of a file.
pub(super) fn stage(
    site: &Site,
    path: &RelPath,
    before: &Stat,
    content: &[u8],
) -> Result<Fresh, ResolveError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mtime = Time { secs: now.as_secs() as i64, nanos: now.subsec_nanos() };
    let props = Props { mode: before.mode, mtime };
    let (mut file, staged) =
        site.staging.create().map_err(failed(path, "create a file in .psync/stage"))?;
    site.staging.set_owner(&staged, before.owner);
    let written = file
        .write_all(content)
        .and_then(|()| site.staging.set_props(&staged, props))
        .and_then(|()| site.staging.sync(&staged));
    if let Err(error) = written {
        site.staging.discard(staged);
        return Err(failed(path, "write to .psync/stage")(error));
    }
    let thing = Thing::File { size: content.len() as u64, hash: ContentHash::of_bytes(content) };
    Ok(Fresh { staged, state: State { thing, props } })
}

impl Work<'_> {
    /// Takes what stands at a path out of the tree.
    pub(super) fn withdraw(&mut self, path: &RelPath) -> Result<(), ResolveError> {
        let taken = self.site.staging.withdraw(&self.site.root, &self.names.trash, path);
        let displaced = taken.map_err(failed(path, "move it to the trash"))?;
        self.places.push((path.clone(), displaced.place().to_vec()));
        Ok(())
    }

    /// Puts what stands at one path in the place of another.
    pub(super) fn put_over(&mut self, from: &RelPath, path: &RelPath) -> Result<(), ResolveError> {
        self.withdraw(path)?;
        let renamed = self.site.root.rename(from, path);
        renamed.map_err(failed(path, "put the other version in its place"))
    }

    /// Exchanges what stands at a path for a staged file. An edit made just now is put back.
    pub(super) fn publish(
        &mut self,
        path: &RelPath,
        staged: Staged,
        before: &Stat,
    ) -> Result<(), ResolveError> {
        let Site { root, staging, .. } = &*self.site;
        let exchanged = staging.publish_over(root, staged, &self.names.trash, path);
        let displaced = exchanged.map_err(|(staged, error)| {
            staging.discard(staged);
            failed(path, "put the merged file in its place")(error)
        })?;
        if before.same_content(&displaced.stat) {
            self.places.push((path.clone(), displaced.place().to_vec()));
            // A disk that does not confirm may still have it; what was there is in the trash.
            let _ = root.sync_parent(path);
            return Ok(());
        }
        let merged = staging.withdraw(root, &self.names.trash, path);
        merged.map_err(failed(path, "take the merged file away"))?;
        let put_back = staging.put_back(root, displaced, path);
        put_back.map_err(|(_, error)| failed(path, "put the edited file back")(error))?;
        Err(ResolveError::Changed(path.clone()))
    }
}
