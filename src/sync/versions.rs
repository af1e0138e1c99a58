//! The versions of one path that a replica knows of, and where their contents are.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use psync_protocol::{ContentHash, RelPath};

use super::present::state_beside;
use super::putback::Change;
use super::site::STORE;
use crate::journal::{DeedRow, Edit, Journal, JournalError, Kept, RunId, State, Thing};
use crate::root::Root;
use crate::store::Store;

/// What stood at a path for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Its number, from one; the oldest is the first.
    pub number: usize,
    /// What stood there; none: nothing did.
    pub state: Option<State>,
    /// Since when, in milliseconds since 1970; of what was there before the journal began, when it
    /// was last modified.
    pub since: i64,
    /// Where it came from.
    pub origin: Origin,
    /// Where its content is.
    pub content: AtHand,
}

/// Where a version came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A run brought it.
    Run {
        /// Its number here.
        number: i64,
        /// Its id.
        id: RunId,
        /// Whom the run was with; empty for a run of this side alone.
        with: String,
    },
    /// It was made here.
    Here,
}

/// Where the content of a version is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AtHand {
    /// It needs none: a directory, a link, an empty file, nothing.
    Whole,
    /// It stands at the path.
    Tree,
    /// In the trash, under this path.
    Trash(Box<[u8]>),
    /// In the store of old contents.
    Store,
    /// Nowhere that is known.
    Gone,
}

impl AtHand {
    /// In a word, for reports.
    pub fn name(&self) -> &'static str {
        match self {
            AtHand::Whole => "-",
            AtHand::Tree => "tree",
            AtHand::Trash(_) => "trash",
            AtHand::Store => "store",
            AtHand::Gone => "gone",
        }
    }
}

/// The versions of a path, the oldest first; the last one is what stands there now.
pub fn versions(
    root: &Root,
    state_dir: &Path,
    journal: Option<&Journal>,
    path: &RelPath,
) -> Result<Vec<Version>, JournalError> {
    let mut timeline = Timeline::default();
    let mut places: HashMap<ContentHash, Box<[u8]>> = HashMap::new();
    if let Some(journal) = journal {
        let mut events: Vec<Event> = Vec::new();
        for deed in journal.deeds_at(path, false)? {
            if let Some(run) = journal.run(deed.run)? {
                let with = if run.kind.is_sync() { run.reach.location } else { String::new() };
                let origin = Origin::Run { number: run.number, id: run.id, with };
                let (before, after) = (deed.before, deed.after);
                events.push(Event { since: run.began, before, after, origin });
            }
        }
        for edit in journal.edits_at(path)? {
            let (since, origin) = (edit.found, Origin::Here);
            events.push(Event { since, before: edit.before, after: edit.after, origin });
        }
        events.sort_by_key(|event| event.since);
        events.into_iter().for_each(|event| timeline.add(event));
        for deed in journal.trashed()? {
            if let (Kept::Trash(place), Some(hash)) = (&deed.kept, hash_of(&deed.before)) {
                places.insert(hash, place.clone());
            }
        }
    }
    let now = state_beside(root, None, path)?;
    timeline.end(now.clone(), crate::journal::now());
    let mut versions = timeline.versions;
    let wanted: Vec<ContentHash> =
        versions.iter().filter_map(|version| hash_of(&version.state)).collect();
    let held = Store::peek(&state_dir.join(STORE), &wanted);
    for (at, version) in versions.iter_mut().enumerate() {
        version.number = at + 1;
        version.content = at_hand(root, &version.state, &now, &places, &held);
    }
    Ok(versions)
}

fn hash_of(state: &Option<State>) -> Option<ContentHash> {
    match state.as_ref().map(|state| &state.thing) {
        Some(Thing::File { size: 1.., hash }) => Some(*hash),
        _ => None,
    }
}

fn at_hand(
    root: &Root,
    state: &Option<State>,
    now: &Option<State>,
    places: &HashMap<ContentHash, Box<[u8]>>,
    held: &HashSet<ContentHash>,
) -> AtHand {
    let Some(hash) = hash_of(state) else { return AtHand::Whole };
    if hash_of(now) == Some(hash) {
        return AtHand::Tree;
    }
    match places.get(&hash).filter(|place| root.open_trash_file(place).is_ok()) {
        Some(place) => AtHand::Trash(place.clone()),
        None if held.contains(&hash) => AtHand::Store,
        None => AtHand::Gone,
    }
}

struct Event {
    since: i64,
    before: Option<State>,
    after: Option<State>,
    origin: Origin,
}

#[derive(Default)]
struct Timeline {
    versions: Vec<Version>,
}

impl Timeline {
    fn add(&mut self, event: Event) {
        let known = self.versions.last().map(|version| &version.state);
        if known != Some(&event.before) && (known.is_some() || event.before.is_some()) {
            // Nobody wrote down when it came: it says when it was last modified.
            let modified = event.before.as_ref().map(|state| state.props.mtime);
            let since = modified.filter(|time| time.secs != 0).map_or(event.since, |time| {
                time.secs.saturating_mul(1000).saturating_add(i64::from(time.nanos / 1_000_000))
            });
            self.push(event.before, since, Origin::Here);
        }
        if self.versions.last().is_none_or(|version| version.state != event.after) {
            self.push(event.after, event.since, event.origin);
        }
    }

    fn end(&mut self, now: Option<State>, since: i64) {
        if self.versions.is_empty() && now.is_none() {
            return;
        }
        let event = Event { since, before: now.clone(), after: now, origin: Origin::Here };
        self.add(event);
    }

    fn push(&mut self, state: Option<State>, since: i64, origin: Origin) {
        let content = AtHand::Whole;
        self.versions.push(Version { number: 0, state, since, origin, content });
    }
}

/// The version that is meant: by its number or the beginning of its hash; else the latest one of
/// another content than what stands there now.
pub fn choose<'v>(versions: &'v [Version], typed: Option<&str>) -> Option<&'v Version> {
    let now = versions.last().and_then(|version| version.state.as_ref());
    let Some(typed) = typed else {
        return versions.iter().rev().find(|version| {
            let thing = version.state.as_ref().map(|state| &state.thing);
            thing.is_some() && thing != now.map(|state| &state.thing)
        });
    };
    if let Ok(number) = typed.parse::<usize>()
        && let Some(version) = versions.iter().find(|version| version.number == number)
    {
        return Some(version);
    }
    let has_prefix = |version: &&Version| {
        hash_of(&version.state).is_some_and(|hash| {
            let hex: String = hash.0.iter().map(|byte| format!("{byte:02x}")).collect();
            typed.len() >= 4 && hex.starts_with(&typed.to_ascii_lowercase())
        })
    };
    versions.iter().rev().find(has_prefix)
}

/// What puts a version at `to`: the path itself and, where it was a directory that is gone, what went
/// with it: by the same run, or between two scans.
pub fn restoring(
    journal: Option<&Journal>,
    from: &RelPath,
    version: &Version,
    to: &RelPath,
    stands: &mut dyn FnMut(&RelPath) -> std::io::Result<Option<State>>,
) -> Result<Vec<Change>, JournalError> {
    let kept = match &version.content {
        AtHand::Trash(place) => Kept::Trash(place.clone()),
        _ => Kept::Nothing,
    };
    let expected = stands(to)?;
    let wanted = version.state.clone();
    let mut changes = vec![Change { path: to.clone(), expected, wanted, kept }];
    let is_directory = matches!(version.state, Some(State { thing: Thing::Directory, .. }));
    if let (true, Some(journal)) = (is_directory, journal) {
        for gone in gone_with(journal, from, version)? {
            let rest = &gone.path.as_bytes()[from.as_bytes().len()..];
            let path = RelPath::new(&[to.as_bytes(), rest].concat());
            let path = path.map_err(|_| JournalError::Nonsense("a path"))?;
            let expected = stands(&path)?;
            changes.push(Change { path, expected, wanted: gone.before, kept: gone.kept });
        }
    }
    Ok(changes)
}

/// Something that stood in a directory.
struct Gone {
    path: RelPath,
    before: Option<State>,
    kept: Kept,
}

/// What went with a directory: what the run that took it away took out of it, or what was gone, too,
/// when a scan found that somebody had deleted it here.
fn gone_with(
    journal: &Journal,
    directory: &RelPath,
    version: &Version,
) -> Result<Vec<Gone>, JournalError> {
    let deeds = journal.deeds_at(directory, true)?;
    let ended = deeds.iter().rev().find(|deed| {
        deed.path == *directory && deed.before == version.state && deed.after != version.state
    });
    let run = ended.map_or(Ok(None), |deed| journal.run(deed.run))?;
    let edits = journal.edits_at(directory)?.into_iter().rev();
    let mut edits = edits.filter(|edit| edit.before == version.state && edit.after.is_none());
    match (run, edits.next()) {
        (run, Some(edit)) if run.as_ref().is_none_or(|run| run.began < edit.found) => {
            let below = journal.edits_below(directory, edit.found)?.into_iter();
            let gone = below.filter(|edit| edit.before.is_some() && edit.after.is_none());
            let gone =
                gone.map(|Edit { path, before, .. }| Gone { path, before, kept: Kept::Nothing });
            Ok(gone.collect())
        }
        (Some(run), _) => {
            let taken = deeds.into_iter().filter(|deed| {
                deed.run == run.number
                    && deed.path != *directory
                    && deed.before.is_some()
                    && deed.after.is_none()
            });
            let gone = taken.map(|DeedRow { path, before, kept, .. }| Gone { path, before, kept });
            Ok(gone.collect())
        }
        (None, _) => Ok(Vec::new()),
    }
}
