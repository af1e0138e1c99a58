//! Reading the journal.

use psync_protocol::message::Flow;
use psync_protocol::{RelPath, ReplicaId};
use rusqlite::Row;

use super::kind::replica;
use super::open::Journal;
use super::{Counts, Edit, JournalError, Kept, Reach, RunId, RunKind, State, What};

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It did all that could be done.
    Finished,
    /// It is at work, or was ended by force and no run has come since.
    Open,
    /// It broke, for this reason.
    Broken(String),
}

/// A run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRow {
    /// Its number in this journal.
    pub number: i64,
    /// The id that both ends have for it.
    pub id: RunId,
    /// What kind of run it was.
    pub kind: RunKind,
    /// When it began, in milliseconds since 1970.
    pub began: i64,
    /// When it ended.
    pub ended: Option<i64>,
    /// How many runs it stands for: more than one where there was nothing to do each time.
    pub times: u64,
    /// The other replica.
    pub peer: Option<ReplicaId>,
    /// How it is reached again.
    pub reach: Reach,
    /// Which way changes went.
    pub flow: Flow,
    /// Its directory in the trash.
    pub trash: String,
    /// The number of its last deed that is known to be done.
    pub confirmed: i64,
    /// Deeds that were planned on both sides together.
    pub planned: u64,
    /// What was done here.
    pub counts: Counts,
    /// Conflicts.
    pub conflicts: u64,
    /// Paths that could not be handled.
    pub failures: u64,
    /// How it ended.
    pub ending: Ending,
    /// The run that it took back.
    pub undoes: Option<RunId>,
    /// The run that took it back.
    pub undone_by: Option<RunId>,
}

/// What a run did to a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeedRow {
    /// The run's number.
    pub run: i64,
    /// Its number in the run, from one.
    pub number: i64,
    /// Where.
    pub path: RelPath,
    /// What.
    pub what: What,
    /// What stood there.
    pub before: Option<State>,
    /// What stood there afterwards.
    pub after: Option<State>,
    /// Where what stood there went.
    pub kept: Kept,
    /// Why.
    pub why: String,
}

const RUN_COLUMNS: &str = "number, id, kind, began, ended, times, peer, location, rsh, program,
    state_dir, flow, trash, confirmed, planned, created, updated, props, deleted, moved,
    conflicts, failures, error, undoes, undone_by";

const DEED_COLUMNS: &str = "run, number, path, what, other, before, after, kept, place,
    ifnull((SELECT text FROM reasons WHERE id = reason), '')";

impl Journal {
    /// The latest runs, newest first; those with nothing to do, and nothing to tell, among them
    /// only if asked for.
    pub fn runs(&self, limit: usize, idle: bool) -> Result<Vec<RunRow>, JournalError> {
        let which = if idle {
            "1"
        } else {
            "planned > 0 OR conflicts > 0 OR error IS NOT NULL OR ended IS NULL"
        };
        self.select_runs(
            &format!("WHERE {which} ORDER BY number DESC LIMIT ?1"),
            [i64::try_from(limit).unwrap_or(i64::MAX)],
        )
    }

    /// The run with this number.
    pub fn run(&self, number: i64) -> Result<Option<RunRow>, JournalError> {
        Ok(self.select_runs("WHERE number = ?1", [number])?.pop())
    }

    /// The run with this id.
    pub fn run_with_id(&self, id: RunId) -> Result<Option<RunRow>, JournalError> {
        Ok(self.select_runs("WHERE id = ?1 ORDER BY number", [id.0])?.pop())
    }

    /// The latest run that changed something, here or at the other end, and was no undo.
    pub fn latest_deed(&self) -> Result<Option<RunRow>, JournalError> {
        let sql = "WHERE kind != ?1 AND (planned > 0
                     OR EXISTS(SELECT 1 FROM deeds WHERE run = runs.number))
                   ORDER BY number DESC LIMIT 1";
        Ok(self.select_runs(sql, [RunKind::Undo.number()])?.pop())
    }

    /// The runs that resolved conflicts with a run's peer since the last whole sync with it, and that
    /// stand: what they wrote that run has carried over. The oldest first.
    pub fn resolved_before(&self, run: &RunRow) -> Result<Vec<RunRow>, JournalError> {
        let Some(peer) = run.peer else { return Ok(Vec::new()) };
        let sql = "WHERE kind = ?3 AND peer = ?2 AND number < ?1 AND undone_by IS NULL
                   AND number > (SELECT ifnull(max(number), 0) FROM runs WHERE kind <= 2
                                 AND peer = ?2 AND number < ?1 AND error IS NULL)
                   ORDER BY number";
        self.select_runs(sql, (run.number, peer.0, RunKind::Resolve.number()))
    }

    pub(super) fn unfinished(&self) -> Result<Vec<RunRow>, JournalError> {
        self.select_runs("WHERE ended IS NULL ORDER BY number", [])
    }

    fn select_runs(
        &self,
        rest: &str,
        params: impl rusqlite::Params,
    ) -> Result<Vec<RunRow>, JournalError> {
        let sql = format!("SELECT {RUN_COLUMNS} FROM runs {rest}");
        let mut statement = self.db.prepare_cached(&sql)?;
        let mut rows = statement.query(params)?;
        let mut runs = Vec::new();
        while let Some(row) = rows.next()? {
            runs.push(run_of(row)?);
        }
        Ok(runs)
    }

    /// What a run has done, in order.
    pub fn deeds(&self, run: &RunRow) -> Result<Vec<DeedRow>, JournalError> {
        self.select_deeds(
            "WHERE run = ?1 AND number <= ?2 ORDER BY number",
            (run.number, run.confirmed),
        )
    }

    pub(super) fn all_deeds(&self, run: i64) -> Result<Vec<DeedRow>, JournalError> {
        self.select_deeds("WHERE run = ?1 ORDER BY number", [run])
    }

    /// What runs have done to a path, the oldest first; with what is below it, if `below`.
    pub fn deeds_at(&self, path: &RelPath, below: bool) -> Result<Vec<DeedRow>, JournalError> {
        let done = "number <= (SELECT confirmed FROM runs WHERE runs.number = run)";
        if !below {
            let rest = format!("WHERE path = ?1 AND {done} ORDER BY run, number");
            return self.select_deeds(&rest, [path.as_bytes()]);
        }
        let (start, end) = ([path.as_bytes(), b"/"].concat(), [path.as_bytes(), b"0"].concat());
        let rest = format!(
            "WHERE (path = ?1 OR path >= ?2 AND path < ?3) AND {done} ORDER BY run, number"
        );
        self.select_deeds(&rest, (path.as_bytes(), start, end))
    }

    /// The deeds whose old contents went to the trash.
    pub fn trashed(&self) -> Result<Vec<DeedRow>, JournalError> {
        self.select_deeds("WHERE kept = 1 ORDER BY run, number", [])
    }

    fn select_deeds(
        &self,
        rest: &str,
        params: impl rusqlite::Params,
    ) -> Result<Vec<DeedRow>, JournalError> {
        let sql = format!("SELECT {DEED_COLUMNS} FROM deeds {rest}");
        let mut statement = self.db.prepare_cached(&sql)?;
        let mut rows = statement.query(params)?;
        let mut deeds = Vec::new();
        while let Some(row) = rows.next()? {
            deeds.push(deed_of(row)?);
        }
        Ok(deeds)
    }

    /// The changes that were made to a path here between runs, the oldest first.
    pub fn edits_at(&self, path: &RelPath) -> Result<Vec<Edit>, JournalError> {
        self.select_edits("WHERE path = ?1 ORDER BY id", [path.as_bytes()])
    }

    /// The changes that one scan has found below a directory.
    pub fn edits_below(&self, path: &RelPath, found: i64) -> Result<Vec<Edit>, JournalError> {
        let (start, end) = ([path.as_bytes(), b"/"].concat(), [path.as_bytes(), b"0"].concat());
        let rest = "WHERE path >= ?1 AND path < ?2 AND found = ?3 ORDER BY path";
        self.select_edits(rest, (start, end, found))
    }

    fn select_edits(
        &self,
        rest: &str,
        params: impl rusqlite::Params,
    ) -> Result<Vec<Edit>, JournalError> {
        let sql = format!("SELECT found, path, before, after FROM edits {rest}");
        let mut statement = self.db.prepare_cached(&sql)?;
        let mut rows = statement.query(params)?;
        let mut edits = Vec::new();
        while let Some(row) = rows.next()? {
            edits.push(Edit {
                found: row.get(0)?,
                path: path_of(row.get(1)?)?,
                before: state_of(row.get(2)?)?,
                after: state_of(row.get(3)?)?,
            });
        }
        Ok(edits)
    }
}

fn run_of(row: &Row<'_>) -> Result<RunRow, JournalError> {
    let count = |at| row.get::<_, i64>(at).map(|count| count.max(0) as u64);
    let ended: Option<i64> = row.get(4)?;
    let error: Option<String> = row.get(22)?;
    Ok(RunRow {
        number: row.get(0)?,
        id: RunId(row.get(1)?),
        kind: RunKind::of(row.get(2)?).ok_or(JournalError::Nonsense("a kind of run"))?,
        began: row.get(3)?,
        ended,
        times: count(5)?,
        peer: replica(row.get(6)?),
        reach: Reach {
            location: row.get(7)?,
            rsh: words(&row.get::<_, String>(8)?),
            program: row.get(9)?,
            state_dir: row.get(10)?,
        },
        flow: match row.get::<_, i64>(11)? {
            1 => Flow::ToResponder,
            2 => Flow::ToInitiator,
            _ => Flow::TwoWay,
        },
        trash: row.get(12)?,
        confirmed: row.get(13)?,
        planned: count(14)?,
        counts: Counts {
            created: count(15)?,
            updated: count(16)?,
            props: count(17)?,
            deleted: count(18)?,
            moved: count(19)?,
        },
        conflicts: count(20)?,
        failures: count(21)?,
        ending: match (error, ended) {
            (Some(error), _) => Ending::Broken(error),
            (None, Some(_)) => Ending::Finished,
            (None, None) => Ending::Open,
        },
        undoes: row.get::<_, Option<[u8; 4]>>(23)?.map(RunId),
        undone_by: row.get::<_, Option<[u8; 4]>>(24)?.map(RunId),
    })
}

fn words(joined: &str) -> Vec<String> {
    joined.lines().map(str::to_string).collect()
}

fn deed_of(row: &Row<'_>) -> Result<DeedRow, JournalError> {
    let other = row.get::<_, Option<Vec<u8>>>(4)?.map(path_of).transpose()?;
    let place: Option<Vec<u8>> = row.get(8)?;
    let kept = match (row.get::<_, i64>(7)?, place) {
        (0, None) => Kept::Nothing,
        (1, Some(place)) => Kept::Trash(place.into()),
        (2, None) => Kept::InTree,
        (3, None) => Kept::Dropped,
        _ => return Err(JournalError::Nonsense("where a content is")),
    };
    Ok(DeedRow {
        run: row.get(0)?,
        number: row.get(1)?,
        path: path_of(row.get(2)?)?,
        what: What::of(row.get(3)?, other).ok_or(JournalError::Nonsense("a kind of deed"))?,
        before: state_of(row.get(5)?)?,
        after: state_of(row.get(6)?)?,
        kept,
        why: row.get(9)?,
    })
}

fn path_of(bytes: Vec<u8>) -> Result<RelPath, JournalError> {
    RelPath::new(&bytes).map_err(|_| JournalError::Nonsense("a path"))
}

fn state_of(bytes: Option<Vec<u8>>) -> Result<Option<State>, JournalError> {
    bytes.map(|bytes| State::decode(&bytes)).transpose()
}

impl Journal {
    /// The latest run with each peer or place, newest first: for `status`.
    pub fn latest_by_place(&self) -> Result<Vec<RunRow>, JournalError> {
        self.select_runs(
            "WHERE kind <= 2 AND number IN (SELECT max(number) FROM runs WHERE kind <= 2
               GROUP BY peer, location) ORDER BY number DESC",
            [],
        )
    }

    /// The run that a person means: its number, or its id.
    pub fn find(&self, typed: &str) -> Result<Option<RunRow>, JournalError> {
        // An id of digits alone is longer than any number of a run.
        match (typed.parse::<i64>(), RunId::parse(typed)) {
            (_, Some(id)) => match self.run_with_id(id)? {
                Some(run) => Ok(Some(run)),
                None => typed.parse().map_or(Ok(None), |number| self.run(number)),
            },
            (Ok(number), None) => self.run(number),
            (Err(_), None) => Ok(None),
        }
    }
}
