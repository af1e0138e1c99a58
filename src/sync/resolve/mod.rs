//! Resolving conflicts after a run: a choice is noted for the next one, or what the tree holds is
//! changed now, as a person might change it.

mod work;

use std::fs::File;
use std::io::{self, Read};

use psync_protocol::{Content, ContentHash, RelPath, Time};
use thiserror::Error;

use work::{Fresh, deed, in_journal, stage, state_at};

use super::conflicts::LOOK_MAX;
use super::{Outcome, Request, Site};
use crate::apply::RunNames;
use crate::index::{IndexError, Listed, Which};
use crate::journal::Kept;
use crate::manifest::{Stamp, Stored};
use crate::merge::{self, Format, Three};
use crate::reconcile::Counsel;
use crate::report::{Conflict, Facts, Kind, Report, State, Ways};
use crate::root::{Stat, hash_reader};

/// Whose version is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Both, one of them as a clash file.
    Both,
    /// This side's.
    Local,
    /// The other side's.
    Remote,
    /// The one that was changed last.
    Newest,
    /// The one that was changed first.
    Oldest,
    /// The larger one.
    Largest,
}

impl Keep {
    /// Each with its name on the command line and in the list.
    pub const ALL: [(Keep, &'static str); 6] = [
        (Keep::Local, "local"),
        (Keep::Remote, "remote"),
        (Keep::Both, "both"),
        (Keep::Newest, "newest"),
        (Keep::Oldest, "oldest"),
        (Keep::Largest, "largest"),
    ];

    /// The name.
    pub fn name(self) -> &'static str {
        Keep::ALL.iter().find(|(keep, _)| *keep == self).map_or("both", |(_, name)| name)
    }

    /// Which of two sides that is (0 is this one); none where it is both.
    fn side(self, sides: &[Option<Facts>; 2]) -> Option<usize> {
        let [ours, theirs] = sides.each_ref().map(|facts| {
            facts
                .as_ref()
                .map_or((Time { secs: 0, nanos: 0 }, 0), |facts| (facts.mtime, facts.size))
        });
        match self {
            Keep::Both => None,
            Keep::Local => Some(0),
            Keep::Remote => Some(1),
            Keep::Newest => Some(usize::from(theirs.0 > ours.0)),
            Keep::Oldest => Some(usize::from(theirs.0 < ours.0)),
            Keep::Largest => Some(usize::from(theirs.1 > ours.1)),
        }
    }
}

/// What has come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolved {
    /// The next run does it, on both sides.
    Chosen,
    /// It is done here, and the next run carries it to the other side.
    Changed,
    /// There was nothing to do but to say so.
    Noted,
}

/// Why a conflict is not resolved; nothing was changed.
#[derive(Debug, Error)]
pub enum ResolveError {
    /// What stands there is not what the run saw.
    #[error("{0}: changed since the run that found the conflict; run psync again first")]
    Changed(RelPath),
    /// One of two files that were kept is not as it was.
    #[error("{0}: changed since both were kept; edit or remove either file by hand")]
    Edited(RelPath),
    /// There is nothing left to choose from.
    #[error("{path}: the conflict is settled ({outcome}); nothing is left to be resolved")]
    Settled {
        /// Where.
        path: RelPath,
        /// What was done about it.
        outcome: String,
    },
    /// That way out of it is closed, as it belongs to a unit or a rule forbids it.
    #[error("{path}: {how} is not possible: {}", left_open(.why, *.ways))]
    Closed {
        /// Where.
        path: RelPath,
        /// What was asked for.
        how: &'static str,
        /// Why it waits.
        why: String,
        /// What is possible.
        ways: Ways,
    },
    /// Somebody has resolved it.
    #[error("{path}: is resolved already ({how})")]
    Already {
        /// Where.
        path: RelPath,
        /// How.
        how: String,
    },
    /// A content is not here.
    #[error("{path}: {what}; choose a side with --keep")]
    Missing {
        /// Where.
        path: RelPath,
        /// What is missing, and why.
        what: &'static str,
    },
    /// The system refuses something.
    #[error("{path}: cannot {doing}: {error}")]
    Io {
        /// Where.
        path: RelPath,
        /// What was to be done.
        doing: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// The state database fails.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// The contents of a conflict between files.
#[derive(Debug)]
pub struct Contents {
    /// What both sides had before, if it is known.
    pub base: Option<Vec<u8>>,
    /// What this side has.
    pub local: Vec<u8>,
    /// What the other side has.
    pub remote: Vec<u8>,
}

impl Contents {
    /// Both changes in one content, if they can be merged without a doubt: line by line, or by key
    /// if the file is of such a format.
    pub fn merged(&self, by_key: Option<Format>) -> Option<Vec<u8>> {
        let base = self.base.as_deref()?;
        let three = Three { base, ours: &self.local, theirs: &self.remote };
        match by_key {
            Some(format) => merge::structured(format, three),
            None => merge::text(three),
        }
    }
}

/// Where the two versions of a conflict stand.
enum Standing {
    /// Each on its side.
    Apart,
    /// Both here: the version of this side under its name, or as the clash file.
    Here { local_at: RelPath, remote_at: RelPath, clash: RelPath },
}

fn left_open(why: &str, ways: Ways) -> String {
    match ways.names().join(" or ") {
        names if names.is_empty() => format!("{why} (no choice settles it)"),
        names => format!("{why} (possible: {names})"),
    }
}

/// Refuses a choice for a conflict that waits, if the next run could not do it.
fn check_open(conflict: &Conflict, how: &'static str, open: bool) -> Result<(), ResolveError> {
    match conflict.is_held() && !open {
        true => Err(ResolveError::Closed {
            path: conflict.path.clone(),
            how,
            why: conflict.outcome.clone(),
            ways: conflict.ways,
        }),
        false => Ok(()),
    }
}

/// Refuses the merge of what cannot be merged by itself.
pub fn check_mergeable(listed: &Listed) -> Result<(), ResolveError> {
    check_open(&listed.conflict, "a merge", listed.conflict.ways.merge)
}

/// Keeps a version, or both.
pub fn keep(
    site: &mut Site,
    listed: &Listed,
    keep: Keep,
    names: &RunNames,
) -> Result<Resolved, ResolveError> {
    let path = &listed.conflict.path;
    match standing(site, listed)? {
        Standing::Apart => {
            let Ways { local, remote, both, .. } = listed.conflict.ways;
            let open = match keep {
                Keep::Both => both,
                Keep::Local => local,
                Keep::Remote => remote,
                // Which side that is only the run knows, as a unit has many files.
                Keep::Newest | Keep::Oldest | Keep::Largest => local && remote,
            };
            check_open(&listed.conflict, keep.name(), open)?;
            site.index.transaction(|index| index.choose(listed.id, keep.name()))?;
            Ok(Resolved::Chosen)
        }
        Standing::Here { local_at, remote_at, clash } => {
            let done = match keep.side(&listed.conflict.sides) {
                None => Resolved::Noted,
                Some(side) => {
                    let kept = if side == 0 { local_at } else { remote_at };
                    let mut deeds = vec![deed(site, &clash, None, names)?];
                    if kept == clash {
                        let taken = state_at(site, &clash)?;
                        deeds[0].kept = Kept::InTree;
                        deeds.push(deed(site, path, taken, names)?);
                    }
                    in_journal(site, listed, names, deeds, |work| match kept == clash {
                        true => work.put_over(&clash, path),
                        false => work.withdraw(&clash),
                    })?;
                    Resolved::Changed
                }
            };
            site.index.transaction(|index| index.resolve_conflict(listed.id, keep.name()))?;
            Ok(done)
        }
    }
}

/// The contents of a conflict, to be compared or merged.
pub fn contents(site: &mut Site, listed: &Listed) -> Result<Contents, ResolveError> {
    let conflict = &listed.conflict;
    let missing = |what| ResolveError::Missing { path: conflict.path.clone(), what };
    let is_file = |facts: &Option<Facts>| facts.as_ref().is_some_and(|f| f.kind == Kind::File);
    if !conflict.sides.iter().all(is_file) {
        return Err(missing("not both sides are files"));
    }
    let base = conflict.ancestor.and_then(|hash| kept(site, &hash));
    let (local, remote) = match standing(site, listed)? {
        Standing::Apart => {
            let remote = conflict.sides[1].as_ref().and_then(|facts| facts.hash);
            let remote = remote.and_then(|hash| kept(site, &hash)).ok_or_else(|| {
                missing(
                    "the other side's content is not kept here (it is larger than 1 MiB, or the store was off)",
                )
            })?;
            (read(site, &conflict.path)?, remote)
        }
        Standing::Here { local_at, remote_at, .. } => {
            (read(site, &local_at)?, read(site, &remote_at)?)
        }
    };
    Ok(Contents { base, local, remote })
}

/// Puts a content in the place of both versions: it is newer than either.
pub fn write(
    site: &mut Site,
    listed: &Listed,
    content: &[u8],
    names: &RunNames,
) -> Result<Resolved, ResolveError> {
    let path = &listed.conflict.path;
    check_mergeable(listed)?;
    match standing(site, listed)? {
        Standing::Apart => write_newer(site, listed, content, names)?,
        Standing::Here { clash, .. } => {
            let (_, before) = open(site, path)?;
            let Fresh { staged, state } = stage(site, path, &before, content)?;
            let deeds =
                vec![deed(site, path, Some(state), names)?, deed(site, &clash, None, names)?];
            in_journal(site, listed, names, deeds, |work| {
                work.publish(path, staged, &before)?;
                work.withdraw(&clash)
            })?;
            site.index.transaction(|index| index.resolve_conflict(listed.id, "merged"))?;
        }
    }
    Ok(Resolved::Changed)
}

/// Whether the rules say that a file is merged by key, and its name tells how.
pub fn by_key(counsel: &Counsel, path: &RelPath) -> Option<Format> {
    let asked = counsel.first(path, false, |rule| rule.merge_by_key);
    asked.filter(|(by_key, _)| *by_key).and_then(|_| Format::of_name(path.name()))
}

/// After a run: merges what was held for it, and lets both be kept where that is not possible.
/// Returns how many conflicts the next run will settle.
pub fn merge_held(
    site: &mut Site,
    outcome: &Outcome,
    request: &Request,
    report: &dyn Report,
) -> Result<usize, IndexError> {
    let conflicts = &outcome.conflicts;
    let to_merge = |conflict: &Conflict| matches!(conflict.state, State::Held { to_merge: true });
    if !outcome.carried_out || !conflicts.iter().any(to_merge) {
        return Ok(0);
    }
    // The run has understood these rules already.
    let counsel = Counsel::new(request.rules.clone()).unwrap_or_default();
    let mut settled = 0;
    for listed in site.index.conflicts(Which::Open)? {
        let of_this_run = conflicts
            .iter()
            .any(|one| one.path == listed.conflict.path && one.seen == listed.conflict.seen);
        if !of_this_run || !to_merge(&listed.conflict) || listed.chosen.is_some() {
            continue;
        }
        let format = by_key(&counsel, &listed.conflict.path);
        let merged = contents(site, &listed).ok().and_then(|contents| contents.merged(format));
        let written =
            merged.is_some_and(|merged| write(site, &listed, &merged, &request.names).is_ok());
        if !written {
            site.index.transaction(|index| index.choose(listed.id, Keep::Both.name()))?;
        }
        report.merged(&listed.conflict.path, written);
        settled += 1;
    }
    Ok(settled)
}

fn failed<'a>(path: &'a RelPath, doing: &'static str) -> impl Fn(io::Error) -> ResolveError + 'a {
    move |error| ResolveError::Io { path: path.clone(), doing, error }
}

/// Finds both versions, and makes sure that they are what the run saw.
fn standing(site: &mut Site, listed: &Listed) -> Result<Standing, ResolveError> {
    let Conflict { path, sides, seen, state, outcome, .. } = &listed.conflict;
    if let Some(how) = &listed.resolved {
        return Err(ResolveError::Already { path: path.clone(), how: how.clone() });
    }
    match state {
        State::Held { .. } => {
            let row = site.index.row(path)?;
            let version = row.map(|stored| stored.row.content_version).unwrap_or_default();
            let is_here = sides[0].as_ref().is_none_or(|facts| stands(site, path, facts));
            match version == seen.0 && is_here {
                true => Ok(Standing::Apart),
                false => Err(ResolveError::Changed(path.clone())),
            }
        }
        State::Settled { clash: None } => {
            Err(ResolveError::Settled { path: path.clone(), outcome: outcome.clone() })
        }
        State::Settled { clash: Some(clash) } => {
            let (Some(ours), Some(theirs)) = (&sides[0], &sides[1]) else {
                return Err(ResolveError::Changed(path.clone()));
            };
            let exists = |path: &RelPath| site.root.stat(path).is_ok_and(|stat| stat.is_some());
            if !exists(path) || !exists(clash) {
                return Err(ResolveError::Edited(path.clone()));
            }
            // Neither may have been edited since: one of them is going to be replaced.
            let are = |one, other| stands(site, path, one) && stands(site, clash, other);
            let (local_at, remote_at) = match (are(ours, theirs), are(theirs, ours)) {
                (true, _) => (path.clone(), clash.clone()),
                (false, true) => (clash.clone(), path.clone()),
                (false, false) => return Err(ResolveError::Edited(path.clone())),
            };
            Ok(Standing::Here { local_at, remote_at, clash: clash.clone() })
        }
    }
}

/// Whether this stands at a path.
fn stands(site: &Site, path: &RelPath, facts: &Facts) -> bool {
    let Ok(Some(stat)) = site.root.stat(path) else { return false };
    match (facts.kind, facts.hash) {
        (Kind::File, Some(hash)) => {
            let found = site
                .root
                .open_file(path)
                .and_then(|(mut file, _)| hash_reader(&mut file, &mut vec![0; 256 << 10]));
            found.is_ok_and(|(found, _)| found == hash)
        }
        (Kind::File, None) => stat.kind == crate::root::FileKind::File && stat.size == facts.size,
        (Kind::Directory, _) => stat.kind == crate::root::FileKind::Directory,
        (Kind::Symlink, _) => stat.kind == crate::root::FileKind::Symlink,
    }
}

/// A content that the store has, if it is whole and as short as a text.
fn kept(site: &mut Site, hash: &ContentHash) -> Option<Vec<u8>> {
    let mut old = site.store()?.old(hash).ok()??;
    if old.len() > LOOK_MAX {
        return None;
    }
    old.read_all().ok()
}

fn open(site: &Site, path: &RelPath) -> Result<(File, Stat), ResolveError> {
    site.root.open_file(path).map_err(failed(path, "open it"))
}

fn read(site: &Site, path: &RelPath) -> Result<Vec<u8>, ResolveError> {
    let (file, stat) = open(site, path)?;
    if stat.size > LOOK_MAX {
        let what = "it is larger than 1 MiB, too large to be compared or merged";
        return Err(ResolveError::Missing { path: path.clone(), what });
    }
    let mut bytes = Vec::new();
    file.take(LOOK_MAX + 1).read_to_end(&mut bytes).map_err(failed(path, "read it"))?;
    Ok(bytes)
}

/// Writes what both versions have become, with a row that has all changes of both sides: so it is
/// simply newer in the next run.
fn write_newer(
    site: &mut Site,
    listed: &Listed,
    content: &[u8],
    names: &RunNames,
) -> Result<(), ResolveError> {
    let Conflict { path, seen, sides, .. } = &listed.conflict;
    let old = site.index.row(path)?.ok_or_else(|| ResolveError::Changed(path.clone()))?;
    let (_, before) = open(site, path)?;
    let Fresh { staged, state } = stage(site, path, &before, content)?;
    let deeds = vec![deed(site, path, Some(state.clone()), names)?];
    let (replica, clock) = (site.index.replica(), site.index.next_clock());
    let mut row = old.row;
    row.content =
        Content::File { size: content.len() as u64, hash: ContentHash::of_bytes(content) };
    row.content_version = seen.0.join(&seen.1).bump(replica, clock);
    row.props_version = row.props_version.bump(replica, clock);
    row.props = state.props;
    // The other side has its own version: that is what this one builds on.
    row.base = sides[1].as_ref().and_then(|facts| facts.hash);
    let stored = Stored { row, stamp: Stamp::UNKNOWN, shared: false, ..old };
    let announced = site.index.transaction(|index| index.announce([&stored].into_iter()));
    if let Err(error) = announced {
        site.staging.discard(staged);
        return Err(error.into());
    }
    let published =
        in_journal(site, listed, names, deeds, |work| work.publish(path, staged, &before));
    site.index.transaction(|index| {
        if published.is_ok() {
            index.use_clock(clock);
            index.put(&stored)?;
            index.resolve_conflict(listed.id, "merged")?;
        }
        index.forget_announced()
    })?;
    published
}
