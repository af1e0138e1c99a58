//! Carrying out one end's part of a plan: files are staged, made durable, moved in whole, and only
//! then recorded. What a task displaces is looked at before it is let go, so that an edit made
//! meanwhile survives.

mod arrive;
mod base;
mod deeds;
mod fetch;
mod keep;
mod memory;
mod old;
mod publish;
mod rehearse;
mod room;
mod stage;
mod task;
mod units;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ffi::OsString;
use std::iter::Peekable;
use std::time::Instant;
use std::vec::IntoIter;

use psync_protocol::message::{Failure, FailureKind};
use psync_protocol::session::Agreement;
use psync_protocol::{CheckKey, Content, ContentHash, ProtocolError, RelPath, Role};
use thiserror::Error;

pub use fetch::{Asked, FINE_ATTEMPT};
pub use keep::Keepsake;
pub use memory::{Allowance, Hold, InMemory};
pub use task::{Act, Beside, Brief, Task, tasks};

use fetch::{Arrived, Fetches};

use crate::index::{BlockHashes, Index, IndexError, SharedFile, SketchBytes};
use crate::journal::{Reasons, Recorder, Retention};
use crate::manifest::{Permit, Stored};
use crate::reconcile::Units;
use crate::report::Report;
use crate::root::{Flusher, HeldDir, Locked, Room, Root, Staged, Stager, Staging};

/// Bytes of contents that have come that stay in memory for whoever wants to hear of them.
const COME_BYTES: usize = 32 << 20;

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
    journal: &'a mut Recorder,
    retention: &'a Retention,
    reasons: Reasons,
    role: Role,
    agreement: &'a Agreement,
    keys: Keys,
    /// What the peer may read here: only that helps in getting contents from it, and is copied to where
    /// it may read.
    permit: Permit,
    /// Whether a file of this side is among those that the session is about.
    in_scope: Box<dyn Fn(&RelPath) -> bool + 'a>,
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
    /// What is published only as a whole.
    units: Units,
    together: units::Together,
    /// Whether what is published now was promised as a whole.
    promised: bool,
    /// Whether something that was promised could not be published: no further promise is made.
    unfinished: bool,
    batch: Vec<Ready>,
    batch_bytes: u64,
    /// The batch before, until it is written and put in its place.
    closed: Vec<Ready>,
    /// Writes what has come whole, once something has.
    stager: Option<Stager>,
    /// Flushes what is staged, once there is much; and bytes staged since it was told to.
    flusher: Option<Flusher>,
    unflushed: u64,
    /// The directory in which a batch is at work.
    held: HeldDir,
    /// When the last batch was closed.
    committed: Instant,
    /// Rows that will be asked for next, by the numbers of their paths.
    ahead: Peekable<IntoIter<(usize, Option<Stored>)>>,
    /// Where contents that the peer may want went meanwhile.
    relocated: HashMap<usize, (RelPath, Stored)>,
    /// Directories that get their real mode when everything is in them.
    closing: Vec<Task>,
    failures: Vec<Failure>,
    notes: Vec<(RelPath, String)>,
    /// Contents that have come, where somebody wants to hear of them.
    come: Option<Coming>,
    /// Whose contents go first, where it is not 0, by the number of the path.
    priorities: HashMap<u64, i32>,
    /// What the journal was told of the batch at work.
    deeds: deeds::Batch,
    /// What goes from the trash when the run is over.
    dropped: Vec<Vec<u8>>,
    /// What is only fetched to be looked at: the paths' numbers, and bytes.
    keeping: BTreeMap<u64, u64>,
    kept: Vec<Keepsake>,
    /// What is left of the disk.
    room: Room,
}

/// What has come, until somebody hears of it.
#[derive(Debug)]
struct Coming {
    files: VecDeque<Come>,
    allowance: Allowance,
}

/// A content that has come.
#[derive(Debug)]
pub struct Come {
    /// The file that it is for.
    pub file: SharedFile,
    /// Its name in the stage, until it is put in its place.
    pub staged: OsString,
    /// What is in memory of it.
    pub memory: Option<InMemory>,
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
    /// Who writes down what is done.
    pub journal: &'a mut Recorder,
    /// What goes to the trash.
    pub retention: &'a Retention,
    /// Why, for each path of the plan.
    pub reasons: Reasons,
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
            journal: tools.journal,
            retention: tools.retention,
            reasons: tools.reasons,
            role,
            agreement,
            keys,
            permit: Permit::all(),
            in_scope: Box::new(|_| true),
            names,
            fetches: Fetches::default(),
            asked: HashMap::new(),
            incoming: None,
            unproved: Vec::new(),
            unconfirmed: Vec::new(),
            refining: Vec::new(),
            bases: base::Bases::default(),
            units: Units::default(),
            together: units::Together::default(),
            promised: false,
            unfinished: false,
            batch: Vec::new(),
            batch_bytes: 0,
            closed: Vec::new(),
            stager: None,
            flusher: None,
            unflushed: 0,
            held: HeldDir::default(),
            committed: Instant::now(),
            ahead: Vec::new().into_iter().peekable(),
            relocated: HashMap::new(),
            closing: Vec::new(),
            failures: Vec::new(),
            notes: Vec::new(),
            come: None,
            priorities: HashMap::new(),
            deeds: deeds::Batch::default(),
            dropped: Vec::new(),
            keeping: BTreeMap::new(),
            kept: Vec::new(),
            room: Room::default(),
        }
    }

    /// Besides databases and the like these folders are published as a whole, too.
    pub fn keep_together(&mut self, units: Units) {
        self.units = units;
    }

    /// A peer that may not read everything gets nothing copied, to where it may, from where it may not. Nor is
    /// that of help in getting contents from it: what is asked for would tell of it.
    pub fn within(&mut self, permit: &Permit) {
        self.permit = permit.clone();
    }

    /// What a filter leaves out is in no content that comes, and nothing is built on it: the index knows
    /// more than what is synced with this peer.
    pub fn keep_to(&mut self, in_scope: impl Fn(&RelPath) -> bool + 'a) {
        self.in_scope = Box::new(in_scope);
    }

    /// Whether a file of this side may be of use for what the peer has, or wants.
    pub fn is_of_use(&self, path: &RelPath) -> bool {
        self.permit.rights(path.as_bytes()).read && (self.in_scope)(path)
    }

    /// Contents of paths with a higher priority are asked for, and sent, before others.
    pub fn prefer(&mut self, priorities: HashMap<u64, i32>) {
        self.priorities = priorities;
    }

    /// How early a content shall go; 0 is usual.
    pub fn priority(&self, index: u64) -> i32 {
        self.priorities.get(&index).copied().unwrap_or(0)
    }

    /// Does everything that needs nothing from the peer. In this order: moves and copies are
    /// staged while their sources still stand; files go; directories come; what is staged and new
    /// links come; emptied directories go, and what takes their place comes.
    pub fn begin(&mut self) -> Result<(), ApplyError> {
        let brief = Brief {
            role: self.role,
            agreement: self.agreement,
            their_key: &self.keys.theirs,
            permit: &self.permit,
        };
        let index = &mut *self.index;
        let tasks = task::tasks(brief, |paths| Ok::<_, ApplyError>(index.rows_at(paths)?))?;
        let (root, locked) = (self.root, Locked::now());
        self.together = units::Together::of(&tasks, &self.units, |task| {
            let is_held = task.old.as_ref().is_some_and(|old| locked.holds(old.inode));
            is_held && root.open_database(&task.path, &locked).is_some()
        });
        let mut sorted = self.sort(tasks)?;
        self.commit_all(std::mem::take(&mut sorted.quiet))?;
        self.commit_all(std::mem::take(&mut sorted.removals))?;
        self.commit_all(std::mem::take(&mut sorted.directories))?;
        let (late, local): (Vec<Ready>, Vec<Ready>) =
            sorted.local.into_iter().partition(|ready| replaces_directory(&ready.task));
        self.commit_all(local)?;
        // What a late file has yet to leave is not empty before.
        let left = late.iter().filter_map(|ready| ready.leaves.as_ref());
        let left: HashSet<_> = left.flat_map(|leaves| leaves.path.ancestors()).collect();
        let (mut after, mut emptied): (Vec<Ready>, Vec<Ready>) =
            sorted.emptied.into_iter().partition(|ready| left.contains(&ready.task.path));
        // The deepest first.
        emptied.reverse();
        after.reverse();
        self.commit_all(emptied)?;
        self.commit_all(late)?;
        self.commit_all(after)?;
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
            && self.closed.is_empty()
    }

    /// The peer has said all that it had to say for now: what has arrived is put in its place.
    pub fn flight_is_over(&mut self) -> Result<(), ApplyError> {
        self.commit_batch()
    }

    /// After the last content: gives directories their real modes, and notes what the peer is
    /// known to have now. Returns the failures.
    pub fn finish(&mut self) -> Result<Vec<Failure>, ApplyError> {
        self.commit_batch()?;
        self.give_up_units();
        self.close_directories()?;
        self.drop_dropped();
        self.staging.prune_trash(&self.names.trash);
        Ok(std::mem::take(&mut self.failures))
    }

    /// Somebody wants to hear what has come.
    pub fn list_what_comes(&mut self) {
        let allowance = Allowance::of(COME_BYTES);
        self.come = Some(Coming { files: VecDeque::new(), allowance });
    }

    /// What has come and is written, since this was asked last.
    pub fn take_come(&mut self) -> Vec<Come> {
        let (Some(come), stager) = (&mut self.come, &self.stager) else { return Vec::new() };
        let is_written =
            |come: &&Come| stager.as_ref().is_none_or(|stager| stager.is_done(&come.staged));
        let written = come.files.iter().take_while(is_written).count();
        come.files.drain(..written).collect()
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
        let stored = match self.ahead.next_if(|(at, _)| *at == index) {
            Some((_, stored)) => stored,
            None => self.index.row(&path)?,
        };
        Ok(stored.map(|stored| (path, stored)))
    }

    /// Looks up together what [`Applier::source_of`] is about to be asked for, in this order.
    pub fn look_ahead(&mut self, indices: Vec<usize>) -> Result<(), ApplyError> {
        let paths: Vec<&RelPath> =
            indices.iter().map(|&index| self.agreement.paths[index].path()).collect();
        let rows = self.index.rows_at(&paths)?;
        let ahead: Vec<_> = indices.into_iter().zip(rows).collect();
        self.ahead = ahead.into_iter().peekable();
        Ok(())
    }

    /// Block hashes of an old content, if this end has kept any.
    pub fn block_hashes(&self, hash: &ContentHash) -> Option<BlockHashes> {
        self.index.cache().blocks(hash)
    }

    /// The files on this side whose contents some peer is known to have.
    pub fn shared_contents(&self, each: impl FnMut(&[u8], ContentHash)) -> Result<(), ApplyError> {
        Ok(self.index.shared_contents(each)?)
    }

    /// Whether this side has any file whose content some peer is known to have.
    pub fn has_shared(&self) -> Result<bool, ApplyError> {
        Ok(self.index.has_shared()?)
    }

    /// The same with their sizes in bytes, and their sketches.
    pub fn sketched_files(
        &self,
        each: impl FnMut(&[u8], u64, ContentHash, Option<SketchBytes>),
    ) -> Result<(), ApplyError> {
        Ok(self.index.sketched_files(each)?)
    }

    /// The sketch of a content, if this end has one.
    pub fn sketch(&self, hash: &ContentHash) -> Option<SketchBytes> {
        self.index.cache().sketch(hash)
    }

    /// What stands at a path on this side, with that path.
    pub fn stored(&mut self, path: &RelPath) -> Result<Option<(RelPath, Stored)>, ApplyError> {
        Ok(self.index.row(path)?.map(|stored| (path.clone(), stored)))
    }

    /// Which end this is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The keys of the session.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Where contents are before they are put in their places.
    pub fn staging(&self) -> &'a Staging {
        self.staging
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
        // Nothing is done at the path: that it cannot be looked at is no failure.
        if self.keeping.contains_key(&(index as u64)) {
            let path = self.agreement.paths[index].path().clone();
            let text = format!("the other side's content cannot be had: {}", trouble.text);
            self.notes.push((path, text));
            return;
        }
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
