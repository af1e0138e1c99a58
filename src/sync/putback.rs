//! Changing a tree by a person's own wish, without the other end: for `undo`, `restore` and the
//! trash. Everything is looked at, and every content staged, before the first path is touched; what
//! is done is a run in the journal, and for the next sync an ordinary change of this side.

mod carry;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io;

use psync_protocol::{ContentHash, RelPath};

use super::Site;
use super::present::state_at;
use crate::journal::{Kept, State, Thing};
use crate::root::{Staged, list_dir};

pub use carry::{Done, carry_out};

/// What a path is to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Where.
    pub path: RelPath,
    /// What has to stand there now; else the path is left alone.
    pub expected: Option<State>,
    /// What shall stand there.
    pub wanted: Option<State>,
    /// Where the wanted content is most likely to be found.
    pub kept: Kept,
}

/// Why a path cannot become what it shall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// Where.
    pub path: RelPath,
    /// The kind.
    pub kind: ObstacleKind,
    /// What is in the way, for people.
    pub text: String,
}

/// The kinds of obstacles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObstacleKind {
    /// Something else stands there than should.
    Changed,
    /// The content that is wanted is nowhere any more.
    Expired,
    /// The system refuses to show it.
    Unreadable,
}

impl ObstacleKind {
    /// In a word, for scripts.
    pub fn name(self) -> &'static str {
        match self {
            ObstacleKind::Changed => "changed",
            ObstacleKind::Expired => "expired",
            ObstacleKind::Unreadable => "unreadable",
        }
    }
}

/// Changes that can be made: looked at, and with their contents staged.
#[derive(Debug, Default)]
pub struct Prepared {
    /// In the order of their paths.
    pub(super) changes: BTreeMap<RelPath, Change>,
    pub(super) staged: HashMap<RelPath, Staged>,
}

impl Prepared {
    /// The changes, in the order of their paths.
    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        self.changes.values()
    }

    /// Lets go of what is staged: nothing is done.
    pub fn discard(self, site: &Site) {
        self.staged.into_values().for_each(|staged| site.staging.discard(staged));
    }
}

/// Looks at the paths of all changes and stages the contents. What is as wanted already is left out;
/// what cannot be done is an obstacle, and left out as well.
pub fn prepare(site: &mut Site, changes: Vec<Change>) -> (Prepared, Vec<Obstacle>) {
    let mut preparing = Preparing {
        changes: changes.into_iter().map(|change| (change.path.clone(), change)).collect(),
        obstacles: Vec::new(),
        staged: HashMap::new(),
        sources: None,
        site,
    };
    preparing.look();
    preparing.check_emptied();
    preparing.stage();
    // What could not be staged may have been all that a directory was made for, or emptied by.
    preparing.check_emptied();
    preparing.check_above();
    let Preparing { changes, mut staged, mut obstacles, .. } = preparing;
    staged.retain(|path, _| changes.contains_key(path));
    obstacles.sort_by(|a, b| a.path.cmp(&b.path));
    (Prepared { changes, staged }, obstacles)
}

struct Preparing<'a> {
    site: &'a mut Site,
    changes: BTreeMap<RelPath, Change>,
    staged: HashMap<RelPath, Staged>,
    obstacles: Vec<Obstacle>,
    sources: Option<Sources>,
}

/// Where contents may be found.
struct Sources {
    live: HashMap<ContentHash, RelPath>,
    trashed: HashMap<ContentHash, Box<[u8]>>,
}

impl Preparing<'_> {
    fn refuse(&mut self, path: &RelPath, kind: ObstacleKind, text: impl Into<String>) {
        self.changes.remove(path);
        self.obstacles.push(Obstacle { path: path.clone(), kind, text: text.into() });
    }

    /// Compares each path with what should stand there.
    fn look(&mut self) {
        for change in self.changes.values().cloned().collect::<Vec<_>>() {
            match state_at(&self.site.root, &mut self.site.index, &change.path) {
                Err(error) => {
                    let text = format!("cannot be looked at: {error}");
                    self.refuse(&change.path, ObstacleKind::Unreadable, text);
                }
                Ok(found) if found == change.wanted => drop(self.changes.remove(&change.path)),
                Ok(found) if found == change.expected => {}
                Ok(found) => {
                    let text = difference(change.expected.as_ref(), found.as_ref());
                    self.refuse(&change.path, ObstacleKind::Changed, text);
                }
            }
        }
    }

    /// A directory goes only when everything in it goes, too.
    fn check_emptied(&mut self) {
        let going: Vec<RelPath> = self
            .changes
            .values()
            .filter(|change| is_directory(&change.expected) && !is_directory(&change.wanted))
            .map(|change| change.path.clone())
            .collect();
        for path in going.into_iter().rev() {
            if let Some(text) = self.stays_in(&path) {
                self.refuse(&path, ObstacleKind::Changed, text);
            }
        }
    }

    /// What would stay in a directory, in words.
    fn stays_in(&self, path: &RelPath) -> Option<String> {
        let mut names = Vec::new();
        let listed =
            self.site.root.open_dir(Some(path)).and_then(|dir| {
                list_dir(&dir, &mut Vec::new(), |name, _| names.push(name.to_vec()))
            });
        if let Err(error) = listed {
            return Some(format!("cannot be listed: {error}"));
        }
        let stays = |name: &&Vec<u8>| {
            let change = path.join(name).ok().and_then(|path| self.changes.get(&path));
            change.is_none_or(|change| change.wanted.is_some())
        };
        let name = names.iter().find(stays)?;
        let name = psync_protocol::path::printable(name);
        Some(format!("the directory holds {name}, which stays"))
    }

    /// What comes needs a directory to stand in.
    fn check_above(&mut self) {
        let coming: Vec<RelPath> = self
            .changes
            .values()
            .filter(|change| change.wanted.is_some())
            .map(|change| change.path.clone())
            .collect();
        for path in coming {
            let Some(above) = path.parent() else { continue };
            let stands = match self.changes.get(&above) {
                Some(change) => is_directory(&change.wanted),
                None => self.site.root.open_dir(Some(&above)).is_ok(),
            };
            if !stands {
                self.refuse(
                    &path,
                    ObstacleKind::Changed,
                    "there is no directory above it any more",
                );
            }
        }
    }

    fn stage(&mut self) {
        for change in self.changes.values().cloned().collect::<Vec<_>>() {
            let Some(State { thing: Thing::File { size, hash }, .. }) = &change.wanted else {
                continue;
            };
            let stands = change.expected.as_ref().and_then(|state| state.thing.hash());
            if stands == Some(hash) {
                continue;
            }
            match self.stage_content(&change, *size, hash) {
                Some(staged) => drop(self.staged.insert(change.path.clone(), staged)),
                None => {
                    let text = "its old content is kept nowhere any more";
                    self.refuse(&change.path, ObstacleKind::Expired, text);
                }
            }
        }
    }

    fn stage_content(&mut self, change: &Change, size: u64, hash: &ContentHash) -> Option<Staged> {
        if size == 0 {
            return self.site.staging.create().ok().map(|(_, staged)| staged);
        }
        if let Kept::Trash(place) = &change.kept
            && let Some(staged) = self.stage_trashed(place, hash)
        {
            return Some(staged);
        }
        let (live, trashed) = {
            let sources = self.sources();
            (sources.live.get(hash).cloned(), sources.trashed.get(hash).cloned())
        };
        let live = live.and_then(|path| self.site.root.open_file(&path).ok());
        live.and_then(|(mut file, _)| self.stage_copy(&mut file, hash))
            .or_else(|| trashed.and_then(|place| self.stage_trashed(&place, hash)))
            .or_else(|| self.stage_stored(hash))
    }

    fn stage_trashed(&self, place: &[u8], hash: &ContentHash) -> Option<Staged> {
        let mut file = self.site.root.open_trash_file(place).ok()?;
        self.stage_copy(&mut file, hash)
    }

    /// Stages a copy of a file, if it has this content.
    fn stage_copy(&self, file: &mut File, hash: &ContentHash) -> Option<Staged> {
        let mut hasher = blake3::Hasher::new();
        let copied = self.site.staging.copy_from(file, |bytes| {
            hasher.update(bytes);
        });
        let staged = copied.ok()?;
        if ContentHash(hasher.finalize().into()) == *hash {
            return Some(staged);
        }
        self.site.staging.discard(staged);
        None
    }

    fn stage_stored(&mut self, hash: &ContentHash) -> Option<Staged> {
        let mut old = self.site.store()?.old(hash).ok()??;
        let (mut file, staged) = self.site.staging.create().ok()?;
        let mut failed = None;
        let sound = old.verify_with(&mut |bytes| {
            if let Err(error) = io::Write::write_all(&mut file, bytes) {
                failed.get_or_insert(error);
            }
        });
        if failed.is_none() && matches!(sound, Ok(true)) {
            return Some(staged);
        }
        self.site.staging.discard(staged);
        None
    }

    fn sources(&mut self) -> &Sources {
        let (site, changes) = (&mut *self.site, &self.changes);
        self.sources.get_or_insert_with(|| {
            let mut live = HashMap::new();
            // Without the index, or the journal, there are fewer places to look at.
            let _ = site.index.files(|path, _, hash| {
                if let Ok(path) = RelPath::new(path) {
                    live.insert(hash, path);
                }
            });
            for change in changes.values() {
                if let Some(hash) = change.expected.as_ref().and_then(|state| state.thing.hash()) {
                    live.insert(*hash, change.path.clone());
                }
            }
            let mut trashed = HashMap::new();
            let deeds = site.journal.journal().and_then(|journal| journal.trashed().ok());
            for deed in deeds.unwrap_or_default() {
                if let (Kept::Trash(place), Some(before)) = (deed.kept, deed.before)
                    && let Some(hash) = before.thing.hash()
                {
                    trashed.insert(*hash, place);
                }
            }
            Sources { live, trashed }
        })
    }
}

fn is_directory(state: &Option<State>) -> bool {
    matches!(state, Some(State { thing: Thing::Directory, .. }))
}

/// How what stands at a path differs from what should, in words.
fn difference(expected: Option<&State>, found: Option<&State>) -> String {
    let text = match (expected, found) {
        (None, Some(_)) => "something new stands there",
        (Some(_), None) => "it was deleted since",
        (Some(old), Some(new)) if !old.thing.is_like(&new.thing) => {
            "it became another kind of thing since"
        }
        (Some(old), Some(new)) if old.thing != new.thing => "it was changed since",
        (Some(old), Some(new)) if old.props.mode != new.props.mode => "its mode was changed since",
        (Some(_), Some(_)) => "its time was changed since",
        (None, None) => "it was changed since",
    };
    text.to_string()
}

/// The directories above paths that have to be made for them, from the outside in.
pub fn missing_above(site: &Site, paths: impl Iterator<Item = RelPath>) -> Vec<Change> {
    let above: BTreeSet<RelPath> = paths.flat_map(|path| path.ancestors()).collect();
    let missing = above.into_iter().filter(|path| site.root.is_free(path).unwrap_or(false));
    let props = psync_protocol::Props { mode: 0o755, ..Default::default() };
    let directory = State::new(Thing::Directory, props);
    missing
        .map(|path| Change {
            path,
            expected: None,
            wanted: Some(directory.clone()),
            kept: Kept::Nothing,
        })
        .collect()
}
