//! Making the changes that were prepared: what goes, the deepest first; directories; what comes; and
//! the modes of directories last.

use std::collections::HashMap;
use std::io;

use psync_protocol::{Props, RelPath};

use super::{Change, Prepared, is_directory};
use crate::journal::{Correction, Deed, Kept, Reasons, RunStart, State, Thing, What};
use crate::root::{Displaced, HeldDir, Promise, Staged, Staging, Step, Trace};
use crate::sync::Site;

/// Up to this many staged files each is made durable by itself.
const SYNC_EACH: usize = 8;

/// What came of changes.
#[derive(Debug, Default)]
pub struct Done {
    /// How many paths are as they were to be.
    pub done: u64,
    /// Paths that are not, and why.
    pub failures: Vec<(RelPath, String)>,
}

/// Makes the changes, as a run of the journal whose reason for each is `why`.
pub fn carry_out(site: &mut Site, prepared: Prepared, start: &RunStart, why: &str) -> Done {
    let Prepared { changes, staged } = prepared;
    let changes: Vec<Change> = changes.into_values().collect();
    crate::sync::record::settle(site);
    site.journal.begin(start, &Reasons::new(std::iter::once(why)));
    site.journal.announce(changes.iter().map(|change| deed(change, &start.trash)).collect());
    let mut carrying = Carrying {
        site,
        trash: &start.trash,
        failed: vec![None; changes.len()],
        corrections: Vec::new(),
        promised: false,
    };
    let staged = carrying.with_props(&changes, staged);
    carrying.make_durable(staged.values());
    carrying.open_directories(&changes);
    carrying.promise(&changes, &staged);
    carrying.take_away(&changes);
    carrying.put_in_place(&changes, staged);
    carrying.close_directories(&changes);
    let _ = carrying.site.root.sync_all();
    carrying.site.staging.promise_is_kept();
    let Carrying { site, failed, mut corrections, .. } = carrying;
    let mut outcome = Done::default();
    for (at, (change, failure)) in changes.into_iter().zip(failed).enumerate() {
        match failure {
            None => outcome.done += 1,
            Some(text) => {
                corrections.push((at, Correction::NotDone));
                outcome.failures.push((change.path, text));
            }
        }
    }
    site.journal.confirm(&corrections);
    site.journal.end(0, outcome.failures.len() as u64, None);
    site.staging.prune_trash(&start.trash);
    outcome
}

fn deed(change: &Change, trash: &str) -> Deed {
    let what = match (&change.expected, &change.wanted) {
        (None, _) => What::Create,
        (Some(_), None) => What::Delete,
        (Some(old), Some(new)) if !old.thing.is_like(&new.thing) => What::Retype,
        (Some(old), Some(new)) if old.thing == new.thing => What::Properties,
        (Some(_), Some(_)) => What::Update,
    };
    let kept = match (&what, &change.expected) {
        (What::Properties, _) | (_, None) => Kept::Nothing,
        (_, Some(State { thing: Thing::Directory, .. })) => Kept::Nothing,
        _ => Kept::Trash([trash.as_bytes(), change.path.as_bytes()].join(&b'/').into()),
    };
    let (before, after) = (change.expected.clone(), change.wanted.clone());
    Deed { path: change.path.clone(), what, before, after, kept, reason: 0 }
}

/// Whether what stands there has to go before what is wanted comes.
fn goes(change: &Change) -> bool {
    let Some(old) = &change.expected else { return false };
    change.wanted.as_ref().is_none_or(|new| !old.thing.is_like(&new.thing))
}

fn same_thing(change: &Change) -> bool {
    match (&change.expected, &change.wanted) {
        (Some(old), Some(new)) => old.thing == new.thing,
        _ => false,
    }
}

struct Carrying<'a> {
    site: &'a mut Site,
    trash: &'a str,
    failed: Vec<Option<String>>,
    corrections: Vec<(usize, Correction)>,
    /// Whether a crash is finished by whoever opens the root next.
    promised: bool,
}

impl Carrying<'_> {
    fn note(&mut self, at: usize, doing: &str, result: io::Result<()>) {
        if let Err(error) = result {
            self.failed[at].get_or_insert(format!("cannot {doing}: {error}"));
        }
    }

    fn make_durable<'s>(&self, staged: impl ExactSizeIterator<Item = &'s Staged>) {
        // A disk that cannot be flushed holds nobody up: the files are there.
        if staged.len() > SYNC_EACH {
            let _ = self.site.root.sync_all();
        } else {
            staged.for_each(|staged| drop(self.site.staging.sync(staged)));
        }
    }

    /// What is staged gets the properties that it will have, and links are staged, too.
    fn with_props(
        &mut self,
        changes: &[Change],
        mut staged: HashMap<RelPath, Staged>,
    ) -> HashMap<RelPath, Staged> {
        for (at, change) in changes.iter().enumerate() {
            let Some(new) = &change.wanted else { continue };
            let staging = &self.site.staging;
            if let Some(staged) = staged.get(&change.path) {
                if let Ok(Some(stat)) = self.site.root.stat(&change.path) {
                    staging.set_owner(staged, stat.owner);
                }
                let set = staging.set_props(staged, new.props);
                self.note(at, "set mode and time of the staged file", set);
            } else if let Thing::Symlink { target } = &new.thing
                && !same_thing(change)
            {
                match staging.create_link(target, new.props.mtime) {
                    Ok(link) => drop(staged.insert(change.path.clone(), link)),
                    Err(error) => self.note(at, "make a link in .psync/stage", Err(error)),
                }
            }
        }
        staged
    }

    /// Writes all of it down, so that a crash leaves nothing half put back. Where that cannot be, it
    /// is done all the same.
    fn promise(&mut self, changes: &[Change], staged: &HashMap<RelPath, Staged>) {
        if changes.len() < 2 || self.failed.iter().any(Option::is_some) {
            return;
        }
        let promise = self.steps(changes, staged).and_then(|steps| {
            let promise = Promise { name: None, run: self.trash.to_string(), steps };
            self.site.staging.promise(&promise)
        });
        self.promised = promise.is_ok();
    }

    /// The changes in the order in which they are made.
    fn steps(
        &self,
        changes: &[Change],
        staged: &HashMap<RelPath, Staged>,
    ) -> io::Result<Vec<Step>> {
        let mut steps = Vec::new();
        let trace = |path: &RelPath| {
            let stat = self.site.root.stat(path)?;
            stat.map(|stat| Trace::of(&stat)).ok_or(io::Error::from(io::ErrorKind::NotFound))
        };
        for change in changes.iter().rev().filter(|change| goes(change)) {
            let path = change.path.clone();
            steps.push(match is_directory(&change.expected) {
                true => Step::RemoveDir { path },
                false => Step::Take { before: trace(&path)?, path },
            });
        }
        let mut modes = Vec::new();
        for change in changes {
            let path = change.path.clone();
            let Some(new) = &change.wanted else { continue };
            if let Thing::Directory = new.thing {
                if !is_directory(&change.expected) {
                    steps.push(Step::MakeDir { path: path.clone() });
                }
                modes.push(Step::SetProps { path, props: new.props, before: None });
            } else if let Some(staged) = staged.get(&path) {
                let replaces = change.expected.is_some() && !goes(change);
                let before = replaces.then(|| trace(&path)).transpose()?;
                let (staged, new, mtime) =
                    (staged.name().into(), self.site.staging.trace(staged)?, new.props.mtime);
                steps.push(Step::Put { staged, new, mtime, path, before });
            } else {
                let before = Some(trace(&path)?);
                steps.push(Step::SetProps { path, props: new.props, before });
            }
        }
        // The deepest directories first: one that is shut lets nobody in.
        steps.extend(modes.into_iter().rev());
        Ok(steps)
    }

    /// Directories that shut out their owner are opened until everything in them is done.
    fn open_directories(&mut self, changes: &[Change]) {
        for (at, change) in changes.iter().enumerate() {
            if let Some(State { thing: Thing::Directory, props }) = &change.expected
                && props.mode & 0o700 != 0o700
            {
                let opened = self.site.root.set_mode(&change.path, props.mode | 0o700);
                self.note(at, "open the directory", opened);
            }
        }
    }

    fn take_away(&mut self, changes: &[Change]) {
        for (at, change) in changes.iter().enumerate().rev() {
            let Some(old) = change.expected.as_ref().filter(|_| goes(change)) else { continue };
            if let Thing::Directory = old.thing {
                let removed = self.site.root.remove_dir(&change.path);
                self.note(at, "remove the directory", removed);
            } else {
                let taken = self.site.staging.withdraw(&self.site.root, self.trash, &change.path);
                let checked = taken.and_then(|displaced| self.check(at, change, old, displaced));
                self.note(at, "move it to .psync/trash", checked);
            }
        }
    }

    /// What was displaced a moment ago has to be what was looked at; else it is put back.
    fn check(
        &mut self,
        at: usize,
        change: &Change,
        old: &State,
        displaced: Displaced,
    ) -> io::Result<()> {
        let stat = &displaced.stat;
        let same = stat.props().mtime == old.props.mtime
            && old.thing.hash().is_none_or(|_| stat.size == old.thing.size());
        if !same {
            let back = self.site.staging.put_back(&self.site.root, displaced, &change.path);
            return match back {
                Ok(()) => Err(io::Error::other("it changed just now")),
                Err((_, error)) => Err(error),
            };
        }
        let place = displaced.place();
        let expected = [self.trash.as_bytes(), change.path.as_bytes()].join(&b'/');
        if *place != expected[..] {
            self.corrections.push((at, Correction::Kept(Kept::Trash(place.into()))));
        }
        Ok(())
    }

    fn put_in_place(&mut self, changes: &[Change], mut staged: HashMap<RelPath, Staged>) {
        for (at, change) in changes.iter().enumerate() {
            let staged = staged.remove(&change.path);
            if self.failed[at].is_some() {
                staged.into_iter().for_each(|staged| self.site.staging.discard(staged));
                continue;
            }
            let Some(new) = &change.wanted else { continue };
            match (&new.thing, staged) {
                (Thing::Directory, _) if is_directory(&change.expected) => {}
                (Thing::Directory, _) => {
                    let made = self.site.root.make_dir(&change.path);
                    self.note(at, "make the directory", made);
                }
                (Thing::File { .. } | Thing::Symlink { .. }, Some(staged)) => {
                    self.publish(at, change, staged)
                }
                (thing, None) => {
                    let has_mode = !matches!(thing, Thing::Symlink { .. });
                    let set = self.set_props(&change.path, new.props, has_mode);
                    self.note(at, "set its mode and time", set);
                }
            }
        }
    }

    fn set_props(&self, path: &RelPath, props: Props, has_mode: bool) -> io::Result<()> {
        if has_mode {
            self.site.root.set_mode(path, props.mode)?;
        }
        self.site.root.set_mtime(path, props.mtime)
    }

    /// Moves a staged thing to its path.
    fn publish(&mut self, at: usize, change: &Change, staged: Staged) {
        let (root, staging) = (&self.site.root, &self.site.staging);
        let replaced = match (&change.expected, &change.wanted) {
            (Some(old), Some(new)) if old.thing.is_like(&new.thing) => Some(old),
            _ => None,
        };
        let published = match replaced {
            None => staging
                .publish_new(root, &mut HeldDir::default(), staged, &change.path)
                .map(|()| None),
            Some(_) => {
                let exchange =
                    if self.promised { Staging::publish_promised } else { Staging::publish_over };
                exchange(staging, root, staged, self.trash, &change.path).map(Some)
            }
        };
        let result = match (published, replaced) {
            (Ok(Some(displaced)), Some(old)) => self.keep_replaced(at, change, old, displaced),
            (Ok(_), _) => Ok(()),
            (Err((staged, error)), _) => {
                staging.discard(staged);
                Err(error)
            }
        };
        self.note(at, "move it into place", result);
    }

    /// What was replaced lies in the trash. Where it is not what was looked at, the person hears of
    /// it.
    fn keep_replaced(
        &mut self,
        at: usize,
        change: &Change,
        old: &State,
        displaced: Displaced,
    ) -> io::Result<()> {
        let stat = &displaced.stat;
        let place = displaced.place();
        let expected = [self.trash.as_bytes(), change.path.as_bytes()].join(&b'/');
        if stat.props().mtime != old.props.mtime {
            let place = psync_protocol::path::printable(place);
            let text = format!("it changed just now; the change is in .psync/trash/{place}");
            return Err(io::Error::other(text));
        }
        if *place != expected[..] {
            self.corrections.push((at, Correction::Kept(Kept::Trash(place.into()))));
        }
        Ok(())
    }

    fn close_directories(&mut self, changes: &[Change]) {
        for (at, change) in changes.iter().enumerate().rev() {
            let mode = match (&change.expected, &change.wanted) {
                _ if self.failed[at].is_some() => continue,
                (_, Some(State { thing: Thing::Directory, props })) => props.mode,
                _ => continue,
            };
            let set = self.site.root.set_mode(&change.path, mode);
            self.note(at, "set the directory's mode", set);
        }
    }
}
