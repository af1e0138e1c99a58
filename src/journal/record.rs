//! Writing the journal during a run. Nothing here fails: what is wrong with the journal becomes a
//! note, and the run goes on without it.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use psync_protocol::message::Flow;
use psync_protocol::{RelPath, ReplicaId};

use super::open::Journal;
use super::{Counts, Edit, JournalError, Kept, Reach, RunId, RunKind, State, What};

/// From so many edits on a thread writes them.
const MANY_EDITS: usize = 1000;

/// What is known of a run when it begins.
#[derive(Debug, Clone)]
pub struct RunStart {
    /// Its id.
    pub id: RunId,
    /// What kind of run it is.
    pub kind: RunKind,
    /// The other replica, where it is known.
    pub peer: Option<ReplicaId>,
    /// How the other end is reached again.
    pub reach: Reach,
    /// Which way changes go.
    pub flow: Flow,
    /// The name of the run's directory in the trash.
    pub trash: String,
    /// Deeds that are planned on both sides together.
    pub planned: u64,
    /// The run that is taken back.
    pub undoes: Option<RunId>,
}

/// Something that is about to be done to a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deed {
    /// Where.
    pub path: RelPath,
    /// What.
    pub what: What,
    /// What stands there before.
    pub before: Option<State>,
    /// What stands there afterwards.
    pub after: Option<State>,
    /// Where what stood there will be.
    pub kept: Kept,
    /// The number of the reason, among the run's [`Reasons`].
    pub reason: usize,
}

/// The reasons of a run: for each path of its plan one of a few texts.
#[derive(Debug, Clone, Default)]
pub struct Reasons {
    texts: Vec<String>,
    of: Vec<usize>,
}

impl Reasons {
    /// One reason for each path of a plan.
    pub fn new<S: AsRef<str>>(reasons: impl Iterator<Item = S>) -> Reasons {
        let mut known: HashMap<String, usize> = HashMap::new();
        let mut texts = Vec::new();
        let of = reasons.map(|text| match known.get(text.as_ref()) {
            Some(at) => *at,
            None => {
                texts.push(text.as_ref().to_string());
                known.insert(text.as_ref().to_string(), texts.len() - 1);
                texts.len() - 1
            }
        });
        let of = of.collect();
        Reasons { texts, of }
    }

    /// The number of the reason for a path of the plan.
    pub fn of(&self, at: usize) -> usize {
        self.of.get(at).copied().unwrap_or(0)
    }
}

/// What turned out otherwise than was announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Correction {
    /// It was not done.
    NotDone,
    /// What stood there went elsewhere.
    Kept(Kept),
}

/// Who hears of each deed, besides the journal, once it is done.
pub trait Witness: fmt::Debug + Send + Sync {
    /// This was done.
    fn done(&self, deed: &Deed);
}

/// The journal of a root as a run writes it: opened when the first thing is to be written.
#[derive(Debug)]
pub struct Recorder {
    dir: PathBuf,
    access: Access,
    notes: Vec<String>,
    running: Option<Running>,
    ended: bool,
    trashed: bool,
    witness: Option<Arc<dyn Witness>>,
}

#[derive(Debug)]
enum Access {
    Closed,
    Open(Box<Journal>),
    /// A thread writes edits into it.
    Busy(JoinHandle<(Box<Journal>, Result<(), JournalError>)>),
    /// It cannot be written; a note has said why.
    Off,
}

/// The run that is being written.
#[derive(Debug, Default)]
struct Running {
    number: i64,
    confirmed: i64,
    counts: Counts,
    /// The ids of the run's reasons in the database.
    reasons: Vec<i64>,
    /// What was announced last.
    batch: Vec<Deed>,
}

impl Recorder {
    /// The journal in a state directory, whose root's lock the caller holds.
    pub fn new(dir: &Path) -> Recorder {
        Recorder {
            dir: dir.to_path_buf(),
            access: Access::Closed,
            notes: Vec::new(),
            running: None,
            ended: false,
            trashed: false,
            witness: None,
        }
    }

    /// Lets somebody else hear of what is done, whatever becomes of the journal.
    pub fn tell(&mut self, witness: Option<Arc<dyn Witness>>) {
        self.witness = witness;
    }

    /// What a person should hear of.
    pub fn take_notes(&mut self) -> Vec<String> {
        self.wait();
        std::mem::take(&mut self.notes)
    }

    /// The open journal; none where it cannot be used.
    pub fn journal(&mut self) -> Option<&mut Journal> {
        if matches!(self.access, Access::Closed) {
            self.access = match Journal::open(&self.dir) {
                Ok((journal, note)) => {
                    self.notes.extend(note);
                    Access::Open(Box::new(journal))
                }
                Err(error) => {
                    self.notes.push(unwritten(&error));
                    Access::Off
                }
            };
        }
        self.wait();
        match &mut self.access {
            Access::Open(journal) => Some(journal),
            Access::Closed | Access::Busy(_) | Access::Off => None,
        }
    }

    /// Waits until the edits are written.
    fn wait(&mut self) {
        if !matches!(self.access, Access::Busy(_)) {
            return;
        }
        if let Access::Busy(thread) = std::mem::replace(&mut self.access, Access::Off)
            && let Ok((journal, written)) = thread.join()
        {
            match written {
                Ok(()) => self.access = Access::Open(journal),
                Err(error) => self.notes.push(unwritten(&error)),
            }
        }
    }

    /// Does something with the journal; after an error it is left alone.
    fn write<T>(
        &mut self,
        work: impl FnOnce(&mut Journal) -> Result<T, JournalError>,
    ) -> Option<T> {
        match work(self.journal()?) {
            Ok(value) => Some(value),
            Err(error) => {
                self.notes.push(unwritten(&error));
                self.access = Access::Off;
                None
            }
        }
    }

    /// A run begins that may change something.
    pub fn begin(&mut self, start: &RunStart, reasons: &Reasons) {
        let running = self.write(|journal| {
            let number = journal.begin(start, None)?;
            let reasons = journal.reason_ids(&reasons.texts)?;
            let counts = Counts::default();
            Ok(Running { number, confirmed: 0, counts, reasons, batch: Vec::new() })
        });
        // Who hears of deeds does so without a journal, too.
        self.running = running.or_else(|| self.witness.is_some().then(Running::default));
    }

    /// Whether a run has begun, and not ended.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Whether a run has ended.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether anything has gone to the trash.
    pub fn has_trashed(&self) -> bool {
        self.trashed
    }

    /// A run came to nothing: there was nothing to do but to tell of so many conflicts that wait, or
    /// it failed before its first deed. Runs that found the same with the same peer, one after the
    /// other, are one row.
    pub fn note_run(&mut self, start: &RunStart, conflicts: u64, error: Option<&str>) {
        self.write(|journal| match error {
            None if journal.was_idle_again(start, conflicts)? => Ok(()),
            _ => journal.begin(start, Some((conflicts, error))).map(|_| ()),
        });
    }

    /// These deeds are about to be done. When this returns they are durable.
    pub fn announce(&mut self, deeds: Vec<Deed>) {
        let Some(mut running) = self.running.take() else { return };
        if deeds.is_empty() {
            running.batch = deeds;
            self.running = Some(running);
            return;
        }
        self.trashed |= deeds.iter().any(|deed| matches!(deed.kept, Kept::Trash(_)));
        let written = self.write(|journal| {
            journal.db.execute_batch("PRAGMA synchronous = FULL")?;
            journal.put_deeds(running.number, running.confirmed, &deeds, &running.reasons)?;
            Ok(journal.db.execute_batch("PRAGMA synchronous = NORMAL")?)
        });
        if written.is_some() || self.witness.is_some() {
            running.batch = deeds;
            self.running = Some(running);
        }
    }

    /// The deed of the last batch that is about this path: its number in the batch.
    pub fn announced(&self, path: &RelPath, near: usize) -> Option<usize> {
        let batch = &self.running.as_ref()?.batch;
        let found = batch.get(near..)?.iter().position(|deed| deed.path == *path);
        found.map(|at| near + at)
    }

    /// What was announced last has been done, but for these corrections, in the order of the batch.
    pub fn confirm(&mut self, corrections: &[(usize, Correction)]) {
        let Some(mut running) = self.running.take() else { return };
        let batch = std::mem::take(&mut running.batch);
        if batch.is_empty() {
            self.running = Some(running);
            return;
        }
        let undone = |at: usize| corrections.contains(&(at, Correction::NotDone));
        let any = !corrections.is_empty();
        for (at, deed) in batch.iter().enumerate() {
            if !any || !undone(at) {
                running.counts.add(&deed.what);
                self.witness.iter().for_each(|witness| witness.done(deed));
            }
        }
        let before = running.confirmed;
        running.confirmed += batch.len() as i64;
        let (number, confirmed) = (running.number, running.confirmed);
        let written = self.write(|journal| journal.confirm(number, before, confirmed, corrections));
        if written.is_some() || self.witness.is_some() {
            self.running = Some(running);
        }
    }

    /// The run has ended: with this error, or as it should.
    pub fn end(&mut self, conflicts: u64, failures: u64, error: Option<&str>) {
        self.ended = true;
        let Some(running) = self.running.take() else { return };
        let counts = running.counts;
        self.write(|journal| journal.end(running.number, counts, (conflicts, failures), error));
    }

    /// These changes were found by a scan. Many are written by a thread, and whatever is to be written
    /// next waits for it.
    pub fn note_edits(&mut self, edits: Vec<Edit>) {
        if edits.is_empty() {
            return;
        }
        if edits.len() < MANY_EDITS || self.journal().is_none() {
            self.write(|journal| journal.put_edits(&edits));
            return;
        }
        let Access::Open(mut journal) = std::mem::replace(&mut self.access, Access::Closed) else {
            return;
        };
        let put = move || {
            let written = journal.put_edits(&edits);
            (journal, written)
        };
        match thread::Builder::new().name("journal".into()).spawn(put) {
            Ok(thread) => self.access = Access::Busy(thread),
            Err(error) => self.notes.push(format!("what has changed here is not listed: {error}")),
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // What has begun to be written is written.
        self.wait();
    }
}

fn unwritten(error: &JournalError) -> String {
    format!("{error}; what is done now cannot be listed or undone later")
}
