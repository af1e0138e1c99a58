//! The rows that a run writes into its journal.

use std::time::SystemTime;

use psync_protocol::RelPath;
use psync_protocol::message::Flow;
use rusqlite::OptionalExtension;

use super::open::Journal;
use super::{Correction, Counts, Deed, Edit, JournalError, Kept, RunId, RunStart, State};

/// Milliseconds since 1970.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}

fn flow_number(flow: Flow) -> i64 {
    match flow {
        Flow::TwoWay => 0,
        Flow::ToResponder => 1,
        Flow::ToInitiator => 2,
    }
}

impl Journal {
    /// Writes a run, which has ended already if there is an `ending`: how many conflicts were all that
    /// there was, and the error, if it was one.
    pub(super) fn begin(
        &mut self,
        start: &RunStart,
        ending: Option<(u64, Option<&str>)>,
    ) -> Result<i64, JournalError> {
        let began = now();
        self.db
            .prepare_cached(
                "INSERT INTO runs(id, kind, began, ended, peer, location, rsh, program, state_dir,
                                  flow, trash, planned, undoes, conflicts, error)
                 VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
            )?
            .execute(rusqlite::params![
                start.id.0,
                start.kind.number(),
                began,
                ending.map(|_| began),
                start.peer.map(|peer| peer.0),
                start.reach.location,
                start.reach.rsh.join("\n"),
                start.reach.program,
                start.reach.state_dir,
                flow_number(start.flow),
                start.trash,
                start.planned as i64,
                start.undoes.map(|id| id.0),
                ending.map_or(0, |(conflicts, _)| conflicts as i64),
                ending.and_then(|(_, error)| error),
            ])?;
        Ok(self.db.last_insert_rowid())
    }

    /// If the latest run found nothing to do with the same peer, but for as many conflicts: counts it
    /// once more.
    pub(super) fn was_idle_again(
        &mut self,
        start: &RunStart,
        conflicts: u64,
    ) -> Result<bool, JournalError> {
        let latest = self
            .db
            .prepare_cached(
                "SELECT number FROM runs WHERE number = (SELECT max(number) FROM runs)
                 AND planned = 0 AND failures = 0 AND kind = ?1 AND peer IS ?2 AND location = ?3
                 AND conflicts = ?4 AND ended IS NOT NULL AND error IS NULL",
            )?
            .query_row(
                (
                    start.kind.number(),
                    start.peer.map(|peer| peer.0),
                    &start.reach.location,
                    conflicts as i64,
                ),
                |row| row.get::<_, i64>(0),
            )
            .optional()?;
        let Some(number) = latest else { return Ok(false) };
        self.db
            .prepare_cached(
                "UPDATE runs SET times = times + 1, ended = ?2, id = ?3 WHERE number = ?1",
            )?
            .execute((number, now(), start.id.0))?;
        Ok(true)
    }

    pub(super) fn reason_ids(&mut self, texts: &[String]) -> Result<Vec<i64>, JournalError> {
        let mut ids = Vec::with_capacity(texts.len());
        let step = self.db.transaction()?;
        for text in texts {
            step.prepare_cached("INSERT OR IGNORE INTO reasons(text) VALUES(?1)")?
                .execute([text])?;
            let id = step
                .prepare_cached("SELECT id FROM reasons WHERE text = ?1")?
                .query_row([text], |row| row.get(0))?;
            ids.push(id);
        }
        step.commit()?;
        Ok(ids)
    }

    pub(super) fn put_deeds(
        &mut self,
        run: i64,
        after: i64,
        deeds: &[Deed],
        reasons: &[i64],
    ) -> Result<(), JournalError> {
        let step = self.db.transaction()?;
        {
            let mut statement = step.prepare_cached(
                "INSERT OR REPLACE INTO deeds(run, number, path, what, other, before, after, kept,
                                              place, reason)
                 VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?;
            for (deed, number) in deeds.iter().zip(after + 1..) {
                let (kept, place) = kept_columns(&deed.kept);
                statement.execute(rusqlite::params![
                    run,
                    number,
                    deed.path.as_bytes(),
                    deed.what.number() as i64,
                    deed.what.other().map(RelPath::as_bytes),
                    deed.before.as_ref().map(State::encode),
                    deed.after.as_ref().map(State::encode),
                    kept,
                    place,
                    reasons.get(deed.reason).copied().unwrap_or(0),
                ])?;
            }
        }
        Ok(step.commit()?)
    }

    pub(super) fn confirm(
        &mut self,
        run: i64,
        before: i64,
        confirmed: i64,
        corrections: &[(usize, Correction)],
    ) -> Result<(), JournalError> {
        let step = self.db.transaction()?;
        for (at, correction) in corrections {
            let number = before + 1 + *at as i64;
            match correction {
                Correction::NotDone => step
                    .prepare_cached("DELETE FROM deeds WHERE run = ?1 AND number = ?2")?
                    .execute((run, number))?,
                Correction::Kept(kept) => {
                    let (kept, place) = kept_columns(kept);
                    step.prepare_cached(
                        "UPDATE deeds SET kept = ?3, place = ?4 WHERE run = ?1 AND number = ?2",
                    )?
                    .execute((run, number, kept, place))?
                }
            };
        }
        step.prepare_cached("UPDATE runs SET confirmed = ?2 WHERE number = ?1")?
            .execute((run, confirmed))?;
        Ok(step.commit()?)
    }

    /// Writes how a run ended.
    pub(super) fn end(
        &mut self,
        run: i64,
        counts: Counts,
        (conflicts, failures): (u64, u64),
        error: Option<&str>,
    ) -> Result<(), JournalError> {
        self.db
            .prepare_cached(
                "UPDATE runs SET ended = ?2, created = ?3, updated = ?4, props = ?5, deleted = ?6,
                                 moved = ?7, conflicts = ?8, failures = ?9, error = ?10
                 WHERE number = ?1",
            )?
            .execute(rusqlite::params![
                run,
                now(),
                counts.created as i64,
                counts.updated as i64,
                counts.props as i64,
                counts.deleted as i64,
                counts.moved as i64,
                conflicts as i64,
                failures as i64,
                error,
            ])?;
        Ok(())
    }

    pub(super) fn put_edits(&mut self, edits: &[Edit]) -> Result<(), JournalError> {
        let step = self.db.transaction()?;
        for edit in edits {
            step.prepare_cached(
                "INSERT INTO edits(found, path, before, after) VALUES(?1, ?2, ?3, ?4)",
            )?
            .execute((
                edit.found,
                edit.path.as_bytes(),
                edit.before.as_ref().map(State::encode),
                edit.after.as_ref().map(State::encode),
            ))?;
        }
        Ok(step.commit()?)
    }

    /// Notes that a run was undone by another.
    pub fn mark_undone(&mut self, run: RunId, by: RunId) -> Result<(), JournalError> {
        self.db.execute("UPDATE runs SET undone_by = ?2 WHERE id = ?1", (run.0, by.0))?;
        Ok(())
    }

    /// Notes that what an undo has taken back stands again.
    pub fn stand_again(&mut self, undo: RunId) -> Result<(), JournalError> {
        self.db.execute("UPDATE runs SET undone_by = NULL WHERE undone_by = ?1", [undo.0])?;
        Ok(())
    }

    /// What broken runs had announced and nobody confirmed is looked at: `is_done` says whether a
    /// deed was done. Then these runs have ended.
    pub fn settle(
        &mut self,
        is_done: &mut dyn FnMut(&RelPath, Option<&State>) -> bool,
    ) -> Result<(), JournalError> {
        for run in self.unfinished()? {
            let mut counts = Counts::default();
            let mut not_done = Vec::new();
            let mut last = run.confirmed;
            for deed in self.all_deeds(run.number)? {
                last = last.max(deed.number);
                if deed.number <= run.confirmed || is_done(&deed.path, deed.after.as_ref()) {
                    counts.add(&deed.what);
                } else {
                    not_done.push(((deed.number - 1) as usize, Correction::NotDone));
                }
            }
            self.confirm(run.number, 0, last, &not_done)?;
            self.end(run.number, counts, (0, 0), Some("interrupted"))?;
        }
        Ok(())
    }

    /// Forgets runs that ended before a moment, in milliseconds since 1970, with their deeds, and
    /// edits found before it. The latest run stays.
    pub fn forget_before(&mut self, moment: i64) -> Result<(), JournalError> {
        let step = self.db.transaction()?;
        let old = "SELECT number FROM runs WHERE ended < ?1
                   AND number < (SELECT max(number) FROM runs)";
        step.execute(&format!("DELETE FROM deeds WHERE run IN ({old})"), [moment])?;
        step.execute(&format!("DELETE FROM runs WHERE number IN ({old})"), [moment])?;
        step.execute("DELETE FROM edits WHERE found < ?1", [moment])?;
        Ok(step.commit()?)
    }

    /// When the trash was last gone through, in milliseconds since 1970.
    pub fn trash_seen(&self) -> Result<i64, JournalError> {
        let seen = self.db.query_row("SELECT value FROM meta WHERE key = 'trash'", [], |row| {
            row.get::<_, i64>(0)
        });
        Ok(seen.optional()?.unwrap_or(0))
    }

    /// Notes that the trash is gone through now.
    pub fn see_trash(&mut self) -> Result<(), JournalError> {
        self.db.execute("INSERT OR REPLACE INTO meta(key, value) VALUES('trash', ?1)", [now()])?;
        Ok(())
    }
}

fn kept_columns(kept: &Kept) -> (i64, Option<&[u8]>) {
    match kept {
        Kept::Nothing => (0, None),
        Kept::Trash(place) => (1, Some(place)),
        Kept::InTree => (2, None),
        Kept::Dropped => (3, None),
    }
}
