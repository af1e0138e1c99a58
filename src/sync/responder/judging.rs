//! What the responder makes of a statement before it answers: rows put in the place of what stands for them, and
//! whether it is enough to plan on.

use psync_protocol::message::{Coverage, Tree, Verdict};
use psync_protocol::session::{Answering, Stated};
use psync_protocol::{Check, CheckKey, ErrorCode, ProtocolError, Row};

use super::Responder;
use crate::index::Peer;
use crate::manifest::{self, Stored};
use crate::sync::SyncError;
use crate::sync::record;

/// What was found out about rows that were not stated one by one.
#[derive(Debug, Clone, Copy)]
pub(super) enum Compared {
    /// They are known.
    Same,
    /// About so many of them are not.
    Different(u64),
    /// They are not, nor how many.
    Unknown,
}

impl Compared {
    pub(super) fn is_same(self) -> bool {
        matches!(self, Compared::Same)
    }
}

impl Responder<'_> {
    /// Puts rows in the place of changes that were stated by number. Says whether that was possible.
    pub(super) fn unnumber(
        &mut self,
        mut stated: Stated,
        answering: &mut Answering,
    ) -> Result<(Stated, bool), SyncError> {
        let Some(altered) = stated.altered.take() else { return Ok((stated, true)) };
        let (since, peer) = (self.hello.processed, self.hello.replica);
        let key = CheckKey::new(peer, &self.hello.nonce);
        let references = record::references(&self.site.index, &self.survey, since, peer)?;
        let index = &mut self.site.index;
        let rows = manifest::unnumber(&altered, &references, &key, |path| index.row(path))?;
        let Some((rows, manners)) =
            rows.filter(|(rows, _)| rows.len() <= manifest::room(stated.rows.len()))
        else {
            return Ok((stated, false));
        };
        stated.rows.extend(rows);
        answering.altered(manners);
        Ok((stated, true))
    }

    /// Puts rows in the place of what stands for them, as far as that is possible.
    pub(super) fn unfold(&mut self, mut stated: Stated) -> Result<(Stated, Compared), SyncError> {
        let key = CheckKey::new(self.hello.replica, &self.hello.nonce);
        if let Some(tree) = stated.tree.take() {
            return self.compare(stated, tree, &key);
        }
        for moved in std::mem::take(&mut stated.moved) {
            let own = self.site.index.rows_below(&moved.from)?;
            // To move is to take along: not what the peer may not even read.
            if own.iter().any(|own| !self.permit.rights(own.row.path.as_bytes()).read) {
                return Ok((stated, Compared::Unknown));
            }
            let room = manifest::room(stated.rows.len());
            match manifest::unfold(&moved, &own, self.hello.replica, room) {
                Some(rows) => stated.rows.extend(rows.iter().map(|row| row.stated(&key))),
                None => return Ok((stated, Compared::Unknown)),
            }
        }
        stated.rows.sort_by(|a, b| a.path.cmp(&b.path));
        let doubled = stated.rows.windows(2).any(|pair| pair[0].path == pair[1].path);
        Ok((stated, if doubled { Compared::Unknown } else { Compared::Same }))
    }

    /// Compares the initiator's tree with this one; where they are the same, its rows are known.
    pub(super) fn compare(
        &mut self,
        mut stated: Stated,
        theirs: Tree,
        key: &CheckKey,
    ) -> Result<(Stated, Compared), SyncError> {
        let own = self.all_rows()?;
        let alike = manifest::untold(&own, &stated.rows);
        let ours = manifest::tree(alike.iter().copied(), theirs.versions.clone(), key);
        let room = manifest::room(stated.rows.len());
        if ours != theirs || alike.len() > room {
            let differences = manifest::differences(&theirs, &ours);
            return Ok((stated, Compared::Different(differences)));
        }
        let versions = &theirs.versions;
        let rows = alike.iter().map(|own| &own.row);
        stated.rows.extend(rows.map(|row| manifest::their_row(row, row.props, versions, key)));
        stated.rows.sort_by(|a, b| a.path.cmp(&b.path));
        Ok((stated, Compared::Same))
    }

    /// Every row that this end can speak of.
    pub(super) fn all_rows(&mut self) -> Result<Vec<Stored>, SyncError> {
        let peer = Some(self.hello.replica);
        let all = record::rows_to_state(&mut self.site.index, &self.survey, 0, peer)?;
        self.held_back = all.held_back;
        Ok(all.rows)
    }

    /// A counter of this replica that it has never given away: it is this end that was rolled back.
    pub(super) fn refuse_forgotten<'r>(
        &mut self,
        mut rows: impl Iterator<Item = &'r Row<Check>>,
    ) -> Result<(), SyncError> {
        if rows.any(|row| self.site.index.has_forgotten(row)) {
            return Err(self.told_of_a_rollback()?);
        }
        Ok(())
    }

    /// The peer tells of changes of this root that the root does not know: it was rolled back, or the
    /// peer makes them up. To set the index aside undoes what is known of everybody else, so only a
    /// peer is believed that could do as much harm without it.
    pub(super) fn told_of_a_rollback(&mut self) -> Result<SyncError, SyncError> {
        if !self.permit.allows_everything() {
            let told = "it tells of changes of this root that were never made here (if the root was restored \
                        from a backup, whoever runs it has to sync it with a peer that may do everything)";
            return Ok(ProtocolError::Contradiction(told).into());
        }
        self.site.index.mark_rolled_back()?;
        Ok(SyncError::StartAnew)
    }

    /// Where the initiator has seen a higher number than this end has given, it says so and leaves: then
    /// this index is of no use, if the initiator is to be believed.
    pub(super) fn refused_as_older(&mut self, error: ProtocolError) -> SyncError {
        if !matches!(error, ProtocolError::Peer { code: ErrorCode::RolledBack, .. }) {
            return error.into();
        }
        match self.told_of_a_rollback() {
            Ok(SyncError::StartAnew) => error.into(),
            Ok(other) | Err(other) => other,
        }
    }

    /// The initiator has stated less than it once had.
    pub(super) fn refuse_older(&self) -> Result<(), SyncError> {
        if self.seals.is_older() { Err(SyncError::RolledBack) } else { Ok(()) }
    }

    /// What is known of the initiator, in this life of its index.
    pub(super) fn acquaintance(&mut self) -> Result<Option<Peer>, SyncError> {
        let peer = self.site.index.peer(self.hello.replica)?;
        Ok(peer.filter(|peer| peer.index_id == self.hello.index))
    }

    /// Whether what was stated is enough to plan on, in the light of what is known of the peer.
    /// Where not all rows are `known` it has to be stated row by row.
    pub(super) fn judge(&mut self, stated: &Stated, known: bool) -> Result<Verdict, SyncError> {
        self.refuse_older()?;
        let peer = self.acquaintance()?;
        let (hello, statement) = (&self.hello, &stated.statement);
        let knows_me = self.seals.is_addressed();
        let their_scope = self.seals.their_scope(statement);
        let forgotten = stated.rows.iter().any(|row| self.site.index.has_forgotten(row));
        if forgotten || knows_me && hello.processed > self.site.index.sequence_at_start() {
            return Err(self.told_of_a_rollback()?);
        }
        let first_contact = peer.is_none();
        let scope = self.survey.scope.digest();
        Ok(match (statement.coverage, peer) {
            (Coverage::Everything, _) if known => Verdict::Proceed { first_contact },
            (Coverage::Everything, _) => Verdict::Restate { since: 0, first_contact },
            (Coverage::Changes { since }, Some(peer))
                if knows_me && scope == peer.our_scope && their_scope == Some(peer.their_scope) =>
            {
                if since <= peer.theirs && known {
                    Verdict::Proceed { first_contact }
                } else {
                    Verdict::Restate { since: since.min(peer.theirs), first_contact }
                }
            }
            (Coverage::Changes { .. }, _) => Verdict::Restate { since: 0, first_contact },
        })
    }
}
