//! Conflicts: those that wait, and those of the past. The end that plans a run keeps them.

use psync_protocol::{Content, ContentHash, RelPath, ReplicaId, Time};
use rusqlite::{OptionalExtension, params};

use super::{Index, IndexError};
use crate::report::{Conflict, ConflictKind, Facts, Kind, State, Ways};

/// Past conflicts that are kept; of more, the oldest go.
const PAST_MAX: i64 = 10_000;

/// A conflict in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its number in the list.
    pub id: i64,
    /// With whom.
    pub peer: ReplicaId,
    /// Where they are, as it was typed last; their id where that is not known.
    pub place: String,
    /// When the run that told of it last began, in seconds since 1970.
    pub at: i64,
    /// What the run told.
    pub conflict: Conflict,
    /// What a person has chosen for the next run.
    pub chosen: Option<String>,
    /// How it was resolved after the run, if it was.
    pub resolved: Option<String>,
}

impl Listed {
    /// Whether it still waits.
    pub fn is_open(&self) -> bool {
        self.conflict.is_held() && self.resolved.is_none()
    }
}

/// Which conflicts of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Those that wait.
    Open,
    /// Those that do not.
    Past,
    /// Both.
    All,
}

/// A row of the table as SQLite gives it, without what the other tables say.
struct Raw {
    id: i64,
    replica: [u8; 16],
    path: Vec<u8>,
    versions: (i64, i64),
    kind: String,
    state: i64,
    clash: Option<Vec<u8>>,
    rule: String,
    outcome: String,
    ancestor: Option<[u8; 32]>,
    at: i64,
    chosen: Option<String>,
    resolved: Option<String>,
}

const COLUMNS: &str = "id, replica, path, ours, theirs, kind, state, clash, rule, outcome, \
                       ancestor, at, chosen, resolved";

/// The values of the column `state`. To what waits a bit is added for each way that is closed.
const HELD: i64 = 0;
const HELD_TO_MERGE: i64 = 1;
const SETTLED: i64 = 2;

impl Index {
    /// Puts the conflicts of a run into the list. One that is there already, with the same versions
    /// on both sides, keeps what was chosen for it, and what is known of the other side's content.
    pub fn put_conflicts<'a>(
        &mut self,
        peer: ReplicaId,
        at: i64,
        conflicts: impl Iterator<Item = &'a Conflict>,
    ) -> Result<(), IndexError> {
        for conflict in conflicts {
            self.put_conflict(peer, at, conflict)?;
        }
        self.forget_oldest_conflicts()
    }

    fn forget_oldest_conflicts(&self) -> Result<(), IndexError> {
        self.db.execute(
            "DELETE FROM conflicts WHERE (state = 2 OR resolved IS NOT NULL) AND id NOT IN
             (SELECT id FROM conflicts WHERE state = 2 OR resolved IS NOT NULL
              ORDER BY at DESC, id DESC LIMIT ?1)",
            [PAST_MAX],
        )?;
        self.db.execute(
            "DELETE FROM conflict_sides WHERE conflict NOT IN (SELECT id FROM conflicts)",
            [],
        )?;
        Ok(())
    }

    fn put_conflict(
        &mut self,
        peer: ReplicaId,
        at: i64,
        conflict: &Conflict,
    ) -> Result<(), IndexError> {
        let ours = self.versions.id(&self.db, &conflict.seen.0)?;
        let theirs = self.versions.id(&self.db, &conflict.seen.1)?;
        let (state, clash) = match &conflict.state {
            State::Held { to_merge: false } => (HELD | closed(conflict.ways), None),
            State::Held { to_merge: true } => (HELD_TO_MERGE | closed(conflict.ways), None),
            State::Settled { clash } => (SETTLED, clash.as_ref()),
        };
        // Another state of the same path is another conflict: it takes the place of one that waited.
        self.db.execute(
            "DELETE FROM conflicts WHERE replica = ?1 AND path = ?2 AND state != 2
             AND resolved IS NULL AND NOT (ours = ?3 AND theirs = ?4 AND kind = ?5)",
            params![peer.0, conflict.path.as_bytes(), ours, theirs, conflict.kind.name()],
        )?;
        let id: i64 = self
            .db
            .prepare_cached(
                "INSERT INTO conflicts(replica, path, ours, theirs, kind, state, clash, rule,
                     outcome, ancestor, at)
                 VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
                 ON CONFLICT(replica, path, ours, theirs, kind) DO UPDATE SET
                     state = ?6, clash = ?7, rule = ?8, outcome = ?9,
                     ancestor = ifnull(?10, ancestor), at = ?11, resolved = NULL
                 RETURNING id",
            )?
            .query_row(
                params![
                    peer.0,
                    conflict.path.as_bytes(),
                    ours,
                    theirs,
                    conflict.kind.name(),
                    state,
                    clash.map(RelPath::as_bytes),
                    conflict.rule,
                    conflict.outcome,
                    conflict.ancestor.map(|hash| hash.0),
                    at
                ],
                |row| row.get(0),
            )?;
        for (side, facts) in conflict.sides.iter().enumerate() {
            self.put_side(id, side, facts.as_ref())?;
        }
        Ok(())
    }

    fn put_side(&self, id: i64, side: usize, facts: Option<&Facts>) -> Result<(), IndexError> {
        let Some(facts) = facts else {
            let sql = "DELETE FROM conflict_sides WHERE conflict = ?1 AND side = ?2";
            self.db.prepare_cached(sql)?.execute([id, side as i64])?;
            return Ok(());
        };
        self.db
            .prepare_cached(
                "INSERT INTO conflict_sides(conflict, side, kind, size, mtime, mtime_nanos, mode, hash)
                 VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
                 ON CONFLICT(conflict, side) DO UPDATE SET kind = ?3, size = ?4, mtime = ?5,
                     mtime_nanos = ?6, mode = ?7, hash = ifnull(?8, hash)",
            )?
            .execute(params![
                id,
                side as i64,
                kind_number(facts.kind),
                facts.size as i64,
                facts.mtime.secs,
                facts.mtime.nanos,
                facts.mode,
                facts.hash.map(|hash| hash.0)
            ])?;
        Ok(())
    }

    /// After a run with a peer: what waited, and is not among what is pending with it any more, is
    /// over; both sides have agreed since.
    pub fn close_conflicts(&mut self, peer: ReplicaId) -> Result<(), IndexError> {
        self.db.execute(
            "UPDATE conflicts SET resolved = ifnull('as chosen: ' || chosen, 'by later changes')
             WHERE replica = ?1 AND state != 2 AND resolved IS NULL
             AND path NOT IN (SELECT path FROM pending WHERE replica = ?1)",
            [peer.0],
        )?;
        Ok(())
    }

    /// Whether any conflict waits.
    pub fn has_open_conflicts(&self) -> Result<bool, IndexError> {
        let sql = "SELECT EXISTS(SELECT 1 FROM conflicts WHERE state != 2 AND resolved IS NULL)";
        Ok(self.db.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
    }

    /// The list, sorted by path; of one path the latest first.
    pub fn conflicts(&mut self, which: Which) -> Result<Vec<Listed>, IndexError> {
        let condition = match which {
            Which::Open => "state != 2 AND resolved IS NULL",
            Which::Past => "state = 2 OR resolved IS NOT NULL",
            Which::All => "1",
        };
        let sql = format!(
            "SELECT {COLUMNS} FROM conflicts WHERE {condition} ORDER BY path, at DESC, id DESC"
        );
        let raws = {
            let mut statement = self.db.prepare_cached(&sql)?;
            let rows = statement.query_map([], Raw::read)?;
            rows.collect::<Result<Vec<Raw>, _>>()?
        };
        raws.into_iter().map(|raw| self.listed(raw)).collect()
    }

    /// Notes what a person wants to be done about a conflict in the next run.
    pub fn choose(&mut self, id: i64, policy: &str) -> Result<(), IndexError> {
        self.db.execute("UPDATE conflicts SET chosen = ?2 WHERE id = ?1", params![id, policy])?;
        Ok(())
    }

    /// Notes how a conflict was resolved: it waits no more.
    pub fn resolve_conflict(&mut self, id: i64, how: &str) -> Result<(), IndexError> {
        self.db.execute("UPDATE conflicts SET resolved = ?2 WHERE id = ?1", params![id, how])?;
        Ok(())
    }

    /// What has resolved a conflict was taken back: it is as it was found.
    pub fn reopen_conflict(&mut self, id: i64) -> Result<(), IndexError> {
        let sql = "UPDATE conflicts SET resolved = NULL, chosen = NULL WHERE id = ?1";
        self.db.execute(sql, [id])?;
        Ok(())
    }

    /// Notes which content the other side has in a conflict that waits.
    pub fn know_other_content(
        &mut self,
        peer: ReplicaId,
        path: &RelPath,
        hash: &ContentHash,
    ) -> Result<(), IndexError> {
        self.db.execute(
            "UPDATE conflict_sides SET hash = ?3 WHERE side = 1 AND conflict IN
             (SELECT id FROM conflicts
              WHERE replica = ?1 AND path = ?2 AND state != 2 AND resolved IS NULL)",
            params![peer.0, path.as_bytes(), hash.0],
        )?;
        Ok(())
    }

    /// Notes which content the other side had in a conflict of which both versions were kept: they
    /// stand here now.
    pub fn know_kept_content(
        &mut self,
        peer: ReplicaId,
        conflict: &Conflict,
    ) -> Result<(), IndexError> {
        let State::Settled { clash: Some(clash) } = &conflict.state else { return Ok(()) };
        let ours = conflict.sides[0].as_ref().and_then(|facts| facts.hash);
        for path in [&conflict.path, clash] {
            let Some(stored) = self.row(path)? else { continue };
            let (Content::File { hash, .. } | Content::Symlink { hash, .. }) = stored.row.content
            else {
                continue;
            };
            if Some(hash) != ours {
                self.db.execute(
                    "UPDATE conflict_sides SET hash = ?4 WHERE side = 1 AND conflict IN
                     (SELECT id FROM conflicts WHERE replica = ?1 AND path = ?2 AND clash = ?3
                      AND resolved IS NULL ORDER BY at DESC, id DESC LIMIT 1)",
                    params![peer.0, conflict.path.as_bytes(), clash.as_bytes(), hash.0],
                )?;
            }
        }
        Ok(())
    }

    fn listed(&mut self, raw: Raw) -> Result<Listed, IndexError> {
        let path = |bytes: &[u8]| RelPath::new(bytes).map_err(|_| IndexError::Nonsense("a path"));
        let kind = ConflictKind::ALL.into_iter().find(|kind| kind.name() == raw.kind);
        let state = match raw.state {
            SETTLED => State::Settled { clash: raw.clash.as_deref().map(path).transpose()? },
            held => State::Held { to_merge: held & HELD_TO_MERGE != 0 },
        };
        let conflict = Conflict {
            path: path(&raw.path)?,
            kind: kind.ok_or(IndexError::Nonsense("a kind of conflict"))?,
            sides: [self.side(raw.id, 0)?, self.side(raw.id, 1)?],
            seen: (
                self.versions.version(&self.db, raw.versions.0)?,
                self.versions.version(&self.db, raw.versions.1)?,
            ),
            ancestor: raw.ancestor.map(ContentHash),
            rule: raw.rule,
            state,
            outcome: raw.outcome,
            chosen: false,
            ways: open(raw.state),
        };
        let Raw { id, replica, at, chosen, resolved, .. } = raw;
        let peer = ReplicaId(replica);
        let place = self.places_of(peer)?.into_iter().next();
        let place = place.unwrap_or_else(|| format!("replica {}", &peer.to_string()[..8]));
        Ok(Listed { id, peer, place, at, conflict, chosen, resolved })
    }

    fn side(&self, id: i64, side: i64) -> Result<Option<Facts>, IndexError> {
        let found = self
            .db
            .prepare_cached(
                "SELECT kind, size, mtime, mtime_nanos, mode, hash FROM conflict_sides
                 WHERE conflict = ?1 AND side = ?2",
            )?
            .query_row([id, side], |row| {
                Ok((
                    row.get::<_, i64>(0)?,
                    row.get::<_, i64>(1)?,
                    Time { secs: row.get(2)?, nanos: row.get(3)? },
                    row.get::<_, u16>(4)?,
                    row.get::<_, Option<[u8; 32]>>(5)?,
                ))
            })
            .optional()?;
        let Some((kind, size, mtime, mode, hash)) = found else { return Ok(None) };
        let kind = match kind {
            1 => Kind::Directory,
            2 => Kind::File,
            3 => Kind::Symlink,
            _ => return Err(IndexError::Nonsense("a kind")),
        };
        let hash = hash.map(ContentHash);
        Ok(Some(Facts { kind, size: size as u64, mtime, mode, hash }))
    }
}

/// A bit for each way out of a conflict that is closed.
fn closed(ways: Ways) -> i64 {
    let Ways { local, remote, both, merge } = ways;
    [local, remote, both, merge].iter().rev().fold(0, |bits, way| bits << 1 | i64::from(!way)) << 2
}

/// The ways that are not closed in a column `state`.
fn open(state: i64) -> Ways {
    let way = |bit: i64| state >> (2 + bit) & 1 == 0;
    Ways { local: way(0), remote: way(1), both: way(2), merge: way(3) }
}

/// As in the table of entries.
fn kind_number(kind: Kind) -> i64 {
    match kind {
        Kind::Directory => 1,
        Kind::File => 2,
        Kind::Symlink => 3,
    }
}

impl Raw {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Raw> {
        Ok(Raw {
            id: row.get(0)?,
            replica: row.get(1)?,
            path: row.get(2)?,
            versions: (row.get(3)?, row.get(4)?),
            kind: row.get(5)?,
            state: row.get(6)?,
            clash: row.get(7)?,
            rule: row.get(8)?,
            outcome: row.get(9)?,
            ancestor: row.get(10)?,
            at: row.get(11)?,
            chosen: row.get(12)?,
            resolved: row.get(13)?,
        })
    }
}
