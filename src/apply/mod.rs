//! Carrying out one end's part of a plan: files are staged, made durable, moved in whole, and only
//! then recorded. What a task displaces is looked at before it is let go, so that an edit made
//! meanwhile survives.

mod arrive;
mod base;
mod fetch;
mod publish;
mod stage;
mod task;

use std::collections::{HashMap, HashSet};

use psync_protocol::message::{Failure, FailureKind};
use psync_protocol::session::Agreement;
use psync_protocol::{CheckKey, Content, ContentHash, ProtocolError, RelPath, Role};
use thiserror::Error;

pub use arrive::FETCH_BATCH_BYTES;
pub use fetch::{Asked, FINE_ATTEMPT};
pub use task::{Act, Beside, Brief, Task, tasks};

use fetch::{Arrived, Fetches};

use crate::index::{BlockHashes, Index, IndexError};
use crate::manifest::Stored;
use crate::report::Report;
use crate::root::{Root, Staged, Staging};

/// What ends the whole run.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// The state database fails.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The plan makes no sense.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

/// A path's trouble, which does not end the run.
#[derive(Debug)]
pub(crate) struct Trouble {
    kind: FailureKind,
    text: String,
}

impl Trouble {
    fn changed(text: &str) -> Trouble {
        Trouble { kind: FailureKind::Changed, text: text.to_string() }
    }

    /// The system refused to do something.
    fn system(doing: &str) -> impl Fn(std::io::Error) -> Trouble {
        move |error| Trouble { kind: FailureKind::System, text: format!("cannot {doing}: {error}") }
    }
}

/// A task whose content, if it needs any, is staged.
#[derive(Debug)]
pub(crate) struct Ready {
    task: Task,
    staged: Option<Staged>,
    content: Option<Content<ContentHash>>,
    /// The task that removes the name from which the content was linked: done right after.
    leaves: Option<Box<Task>>,
}

impl Ready {
    fn unstaged(task: Task) -> Ready {
        Ready { task, staged: None, content: None, leaves: None }
    }
}

/// The names of one run.
#[derive(Debug, Clone)]
pub struct RunNames {
    /// The directory in the trash: the run's time.
    pub trash: String,
    /// The time in clash names.
    pub clash: String,
    /// Seconds since 1970.
    pub now: i64,
}

/// One end at work on its part of a plan.
pub struct Applier<'a> {
    root: &'a Root,
    staging: &'a Staging,
    index: &'a mut Index,
    report: &'a dyn Report,
    role: Role,
    agreement: &'a Agreement,
    keys: Keys,
    names: RunNames,
    /// Files that have to come from the peer.
    fetches: Fetches,
    asked: HashMap<u64, Asked>,
    incoming: Option<arrive::Incoming>,
    /// What has come since the last proof, in order; none where something was wrong with it.
    unproved: Vec<Option<Arrived>>,
    /// What has come with a proof that does not hold: each hash is asked for.
    unconfirmed: Vec<Arrived>,
    /// Files of whose old versions finer hashes are wanted.
    refining: Vec<fetch::Refining>,
    bases: base::Bases,
    batch: Vec<Ready>,
    batch_bytes: u64,
    /// Where contents that the peer may want went meanwhile.
    relocated: HashMap<usize, (RelPath, Stored)>,
    /// Directories that get their real mode when everything is in them.
    closing: Vec<Task>,
    failures: Vec<Failure>,
    notes: Vec<(RelPath, String)>,
}

/// The keys of a session.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Under which this end states rows and makes block hashes.
    pub ours: CheckKey,
    /// The same for the peer.
    pub theirs: CheckKey,
}

/// What an applier works with.
pub struct Tools<'a> {
    /// The root.
    pub root: &'a Root,
    /// Its stage and trash.
    pub staging: &'a Staging,
    /// Its index.
    pub index: &'a mut Index,
    /// Who is told of progress.
    pub report: &'a dyn Report,
}

impl<'a> Applier<'a> {
    /// An end before its first deed.
    pub fn new(
        tools: Tools<'a>,
        role: Role,
        agreement: &'a Agreement,
        keys: Keys,
        names: RunNames,
    ) -> Applier<'a> {
        Applier {
            root: tools.root,
            staging: tools.staging,
            index: tools.index,
            report: tools.report,
            role,
            agreement,
            keys,
            names,
            fetches: Fetches::default(),
            asked: HashMap::new(),
            incoming: None,
            unproved: Vec::new(),
            unconfirmed: Vec::new(),
            refining: Vec::new(),
            bases: base::Bases::default(),
            batch: Vec::new(),
            batch_bytes: 0,
            relocated: HashMap::new(),
            closing: Vec::new(),
            failures: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Does everything that needs nothing from the peer. In this order: moves and copies are
    /// staged while their sources still stand; files go; directories come; what is staged and new
    /// links come; emptied directories go, and what takes their place comes.
    pub fn begin(&mut self) -> Result<(), ApplyError> {
        let brief =
            Brief { role: self.role, agreement: self.agreement, their_key: &self.keys.theirs };
        let index = &mut *self.index;
        let tasks = task::tasks(brief, |path| Ok::<_, ApplyError>(index.row(path)?))?;
        self.note_bases();
        let mut sorted = self.sort(tasks)?;
        self.commit_all(std::mem::take(&mut sorted.quiet))?;
        self.commit_all(std::mem::take(&mut sorted.removals))?;
        self.commit_all(std::mem::take(&mut sorted.directories))?;
        let (late, local): (Vec<Ready>, Vec<Ready>) =
            sorted.local.into_iter().partition(|ready| replaces_directory(&ready.task));
        self.commit_all(local)?;
        // The deepest first.
        sorted.emptied.reverse();
        self.commit_all(sorted.emptied)?;
        self.commit_all(late)?;
        sorted.fetches.into_iter().for_each(|fetching| self.fetch(fetching));
        Ok(())
    }

    /// Whether nothing is left to ask for or to receive.
    pub fn is_finished(&self) -> bool {
        self.fetches.is_empty()
            && self.asked.is_empty()
            && self.unconfirmed.is_empty()
            && self.refining.is_empty()
            && self.batch.is_empty()
    }

    /// The peer has said all that it had to say for now: what has arrived is put in its place.
    pub fn flight_is_over(&mut self) -> Result<(), ApplyError> {
        self.commit_batch()
    }

    /// After the last content: gives directories their real modes, and notes what the peer is
    /// known to have now. Returns the failures.
    pub fn finish(&mut self) -> Result<Vec<Failure>, ApplyError> {
        self.commit_batch()?;
        self.close_directories()?;
        self.staging.prune_trash(&self.names.trash);
        Ok(std::mem::take(&mut self.failures))
    }

    /// What a person should hear of besides failures.
    pub fn take_notes(&mut self) -> Vec<(RelPath, String)> {
        std::mem::take(&mut self.notes)
    }

    /// Where this end's content for a path of the plan stands now, with the row that describes it.
    pub fn source_of(&mut self, index: usize) -> Result<Option<(RelPath, Stored)>, ApplyError> {
        if let Some(found) = self.relocated.get(&index) {
            return Ok(Some(found.clone()));
        }
        let path = self.agreement.paths[index].path().clone();
        Ok(self.index.row(&path)?.map(|stored| (path, stored)))
    }

    /// Block hashes of an old content, if this end has kept any.
    pub fn block_hashes(&self, hash: &ContentHash) -> Result<Option<BlockHashes>, ApplyError> {
        Ok(self.index.blocks(hash)?)
    }

    /// The files on this side whose contents some peer is known to have.
    pub fn shared_contents(&self, each: impl FnMut(&[u8], ContentHash)) -> Result<(), ApplyError> {
        Ok(self.index.shared_contents(each)?)
    }

    /// The keys of the session.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The root, for reading contents.
    pub fn root(&self) -> &'a Root {
        self.root
    }

    /// The highest sequence number of the index.
    pub fn sequence(&self) -> u64 {
        self.index.sequence()
    }

    fn fail(&mut self, index: usize, trouble: Trouble) {
        self.failures.push(Failure { index: index as u64, kind: trouble.kind, text: trouble.text });
    }

    /// Puts each task where it belongs in the order of work, and stages what is here already.
    fn sort(&mut self, tasks: Vec<Task>) -> Result<Sorted, ApplyError> {
        let mut sorted = Sorted::default();
        let mut removals: HashMap<RelPath, Task> = HashMap::new();
        let mut wanted = Vec::new();
        for task in tasks {
            match &task.act {
                Act::Adopt | Act::SetProps => sorted.quiet.push(Ready::unstaged(task)),
                Act::MakeDir => sorted.directories.push(Ready::unstaged(task)),
                Act::MakeLink { .. } => sorted.local.push(Ready::unstaged(task)),
                Act::Remove if is_directory(&task) => sorted.emptied.push(Ready::unstaged(task)),
                Act::Remove => {
                    removals.insert(task.path.clone(), task);
                }
                Act::Fetch { .. } | Act::Arrive { .. } => wanted.push(task),
            }
        }
        let blocked = self.places_of_directories(&sorted, &wanted);
        self.stage_what_is_here(wanted, &mut removals, &blocked, &mut sorted)?;
        let mut rest: Vec<Task> = removals.into_values().collect();
        rest.sort_by(|a, b| a.path.cmp(&b.path));
        sorted.removals.extend(rest.into_iter().map(Ready::unstaged));
        Ok(sorted)
    }

    /// Directories whose place something else takes: what is in them has to go first.
    fn places_of_directories(&self, sorted: &Sorted, wanted: &[Task]) -> HashSet<RelPath> {
        let local = sorted.local.iter().map(|ready| &ready.task);
        let replaced = local.chain(wanted).filter(|task| replaces_directory(task));
        replaced.map(|task| task.path.clone()).collect()
    }
}

/// Tasks by their turn.
#[derive(Default)]
struct Sorted {
    quiet: Vec<Ready>,
    removals: Vec<Ready>,
    directories: Vec<Ready>,
    local: Vec<Ready>,
    emptied: Vec<Ready>,
    fetches: Vec<fetch::Fetching>,
}

fn is_directory(task: &Task) -> bool {
    task.old.as_ref().is_some_and(|old| matches!(old.row.content, Content::Directory))
}

/// Whether a directory has to make room for what the task puts there.
fn replaces_directory(task: &Task) -> bool {
    is_directory(task)
        && matches!(task.act, Act::MakeLink { .. } | Act::Fetch { .. } | Act::Arrive { .. })
}
