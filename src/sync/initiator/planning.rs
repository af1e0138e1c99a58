//! What the initiator does once both ends have told what they have: it plans, has the plan pass the
//! guards, tells it, and has it carried out.

use std::collections::{HashMap, HashSet};

use psync_protocol::message::{Flow, Intent};
use psync_protocol::session::{Agreement, Deciding, Paths};
use psync_protocol::{ContentDecision, Decision, Message, RelPath, ReplicaId, Role};

use super::{Initiator, Outcome};
use crate::apply::{Keepsake, Keys};
use crate::index::{IndexError, Peer};
use crate::journal::{Reasons, RunKind};
use crate::manifest::LocalAccess;
use crate::reconcile::{self, AgreedPlan, Context, Draft, Local};
use crate::report::{Action, Conflict, Phase, Trouble, TroubleKind};
use crate::scan::Survey;
use crate::sync::exchange::{self, Closing, Worker};
use crate::sync::record::{self, Relation};
use crate::sync::rehearsal::Predicted;
use crate::sync::{PlanUse, SyncError, conflicts, folding_of};

/// A plan that has passed the guards and was told.
struct Drawn {
    paths: Paths,
    draft: Draft,
    outcome: Outcome,
    /// The numbers of paths whose other content is fetched to be looked at.
    look_at: Vec<usize>,
}

impl Initiator<'_> {
    pub(super) fn plan_and_carry_out(
        mut self,
        mut deciding: Deciding,
        survey: &Survey,
        relation: Relation,
    ) -> Result<Outcome, SyncError> {
        let (met, nonce) = (deciding.answer.replica, deciding.answer.welcome.nonce);
        (self.met.peer, self.met.nonces.1) = (Some(met), nonce);
        let paths = deciding.paths()?;
        let mut statements = paths.iter().filter_map(|stand| stand.responder.as_ref());
        if statements.any(|row| self.site.index.has_forgotten(row)) {
            self.site.index.mark_rolled_back()?;
            return Err(SyncError::RolledBack);
        }
        self.guard_replaced(met, survey.live, deciding.answer.statement.live)?;
        let (draft, outcome) = self.draw_up(&deciding, &paths, survey, relation)?;
        let look_at = match self.is_real() {
            true => self.list_conflicts(met, &paths, &outcome.conflicts)?,
            false => Vec::new(),
        };
        let idle = look_at.is_empty() && self.still_waits(met, &paths, &draft.decisions)?;
        if self.request.intent == Intent::Show || paths.is_empty() || idle {
            return self.leave(met, outcome);
        }
        self.execute(deciding, Drawn { paths, draft, outcome, look_at }, survey)
    }

    fn is_real(&self) -> bool {
        self.request.intent == Intent::CarryOut
    }

    /// Plans, tells the plan, and has it pass the guards.
    fn draw_up(
        &mut self,
        deciding: &Deciding,
        paths: &Paths,
        survey: &Survey,
        relation: Relation,
    ) -> Result<(Draft, Outcome), SyncError> {
        let locals = self.locals(paths, survey)?;
        let mut draft = self.draft(deciding, paths, &locals, relation)?;
        let met = deciding.answer.replica;
        let noted = self.note_or_restrict(met, paths, &locals, &mut draft)?;
        let entries = (survey.live, deciding.answer.statement.live);
        let live = |role| match role {
            Role::Initiator => entries.0,
            Role::Responder => entries.1,
        };
        let (decisions, first_contact) = (&draft.decisions, relation.first_contact);
        let limit = self.request.delete_limit;
        let guarded = reconcile::check_deletions(paths, &locals, decisions, live, limit);
        let actions = reconcile::actions(paths, &locals, decisions, &draft.whys, first_contact);
        self.tell(paths, &draft, &actions);
        guarded.map_err(SyncError::TooManyDeletions)?;
        if !first_contact {
            self.guard_changes(paths, &locals, live)?;
        }
        let comes_here = actions.iter().any(|action| action.on == Role::Initiator);
        if comes_here && !self.site.writable && self.is_real() {
            return Err(SyncError::ReadOnly(self.site.root.path().to_path_buf()));
        }
        let conflicts = std::mem::take(&mut draft.conflicts);
        let outcome = Outcome {
            actions,
            conflicts,
            plan: noted,
            carried_out: false,
            entries,
            predicted: None,
        };
        Ok((draft, outcome))
    }

    fn tell(&self, paths: &Paths, draft: &Draft, actions: &[Action]) {
        actions.iter().for_each(|action| self.report.action(action));
        self.tell_large(actions);
        draft.conflicts.iter().for_each(|conflict| self.report.conflict(conflict));
        draft.left.iter().for_each(|(at, why)| self.report.left_alone(paths[*at].path(), why));
    }

    /// There is nothing to do, or it was only to be shown.
    fn leave(self, met: ReplicaId, mut outcome: Outcome) -> Result<Outcome, SyncError> {
        outcome.carried_out = self.is_real();
        if self.is_real() {
            let (seals, now) = (&self.seals, self.request.names.now);
            record::touch(&mut self.site.index, seals, met, now)?;
            self.site.mark();
            record::keep_rates(&mut self.site.index, met, self.line.rates())?;
        }
        outcome.predicted = Predicted::of(self.line, None);
        Ok(outcome)
    }

    fn execute(
        &mut self,
        deciding: Deciding,
        drawn: Drawn,
        survey: &Survey,
    ) -> Result<Outcome, SyncError> {
        let Drawn { paths, draft, mut outcome, look_at } = drawn;
        let (replica, index_id) = (deciding.answer.replica, deciding.answer.index);
        let their_scope = self.seals.their_scope(&deciding.answer.statement).unwrap_or_default();
        let reasons = Reasons::new(draft.whys.iter());
        if self.is_real() {
            let bytes = outcome.actions.iter().map(|action| action.size).sum();
            self.report.phase(Phase::Transfer { bytes });
            let planned = (outcome.actions.len() + outcome.conflicts.len()) as u64;
            let (kind, flow, names) = (RunKind::Started, self.request.flow, &self.request.names);
            record::begin(self.site, kind, self.met, flow, names, planned, &reasons);
        }
        let (agreement, mut closing) =
            self.carry_out(deciding, paths, draft, (reasons, look_at))?;
        if !self.is_real() {
            outcome.predicted = Predicted::of(self.line, closing.costs);
            return Ok(outcome);
        }
        self.site.ahead = closing.ahead.take();
        leave_out_failed(&mut outcome.actions, &agreement, &closing);
        self.keep_contents(replica, std::mem::take(&mut closing.kept))?;
        let peer = Peer {
            replica,
            index_id,
            theirs: closing.theirs.sequence,
            ours: self.site.index.sequence(),
            our_scope: survey.scope.digest(),
            their_scope,
        };
        self.conclude(&peer, &agreement, &closing, outcome.conflicts.len() as u64)?;
        outcome.carried_out = true;
        Ok(outcome)
    }

    /// Records what both ends have and know now.
    fn conclude(
        &mut self,
        peer: &Peer,
        agreement: &Agreement,
        closing: &Closing,
        conflicts: u64,
    ) -> Result<(), SyncError> {
        let (index, now) = (&mut self.site.index, self.request.names.now);
        let held_back = std::mem::take(&mut self.held_back);
        let seals = Some(&self.seals);
        record::conclude(index, peer, agreement, closing, held_back, seals, now)?;
        conflicts::close(index, peer.replica)?;
        self.site.mark();
        let index = &mut self.site.index;
        index.put_place(&self.request.location, peer.replica)?;
        record::keep_rates(index, peer.replica, self.line.rates())?;
        self.site.journal.end(conflicts, closing.failures().count() as u64, None);
        Ok(())
    }

    /// Everything that stands on this side.
    fn all_paths(&mut self) -> Result<Vec<RelPath>, SyncError> {
        let rows = self.site.index.rows_since(0)?.into_iter().map(|stored| stored.row);
        Ok(rows.filter(|row| row.content.is_live()).map(|row| row.path).collect())
    }

    /// Whether all of a plan waits, and has waited before: then there is nothing to do, and nothing
    /// new to record.
    fn still_waits(
        &mut self,
        peer: ReplicaId,
        paths: &Paths,
        decisions: &[Decision],
    ) -> Result<bool, SyncError> {
        let waits = |decision: &Decision| decision.content == ContentDecision::Later;
        if !decisions.iter().all(waits) {
            return Ok(false);
        }
        let pending: HashSet<RelPath> = self.site.index.pending(peer)?.into_iter().collect();
        Ok(paths.iter().all(|stand| pending.contains(stand.path())))
    }

    /// Which contents go before others, by the number of the path.
    fn priorities(&self, agreement: &Agreement) -> HashMap<u64, i32> {
        let stands = agreement.paths.iter().enumerate();
        let all = stands.map(|(at, stand)| (at as u64, self.counsel.priority(stand.path())));
        all.filter(|(_, priority)| *priority != 0).collect()
    }

    /// Tells of files that are larger than a person wants to be told of.
    fn tell_large(&self, actions: &[Action]) {
        for action in actions.iter().filter(|action| action.size > 0) {
            if let Some(limit) = self.counsel.warn_size(&action.path).filter(|&l| action.size > l) {
                let text = format!("has {} bytes, more than warn-size ({limit})", action.size);
                let path = action.path.as_bytes().to_vec();
                let kind = TroubleKind::Note;
                self.report.trouble(&Trouble { on: action.on.other(), path, kind, text });
            }
        }
    }

    /// Stops where the other root is not the one that was there last time, and is empty: that is
    /// more often a disk that is not mounted than a wish to fill another one.
    fn guard_replaced(&self, met: ReplicaId, here: u64, there: u64) -> Result<(), SyncError> {
        let expected = self.site.index.peer_at(&self.request.location)?;
        let replaced = expected.is_some_and(|peer| peer.replica != met);
        if replaced && there == 0 && here > 0 && !self.accepts_empty(Flow::ToResponder) {
            return Err(SyncError::Replaced(self.request.location.clone()));
        }
        Ok(())
    }

    /// Puts the conflicts into the list, and says of which paths the other content is fetched to be
    /// looked at.
    fn list_conflicts(
        &mut self,
        peer: ReplicaId,
        paths: &Paths,
        found: &[Conflict],
    ) -> Result<Vec<usize>, SyncError> {
        let before = self.site.notes.len();
        conflicts::list(&mut self.site.index, peer, self.request.names.now, found)?;
        let look_at = conflicts::to_look_at(self.site, peer, paths, found)?;
        self.tell_notes(before);
        Ok(look_at)
    }

    fn keep_contents(&mut self, peer: ReplicaId, kept: Vec<Keepsake>) -> Result<(), SyncError> {
        let before = self.site.notes.len();
        conflicts::keep(self.site, peer, kept)?;
        self.tell_notes(before);
        Ok(())
    }

    /// Tells what has been noted since there were so many notes.
    fn tell_notes(&self, before: usize) {
        for note in self.site.notes.iter().skip(before) {
            self.report.trouble(&Trouble {
                on: Role::Initiator,
                path: note.path.clone(),
                kind: note.kind.into(),
                text: note.text.clone(),
            });
        }
    }

    /// Stops where nearly all files of a side have another content at once.
    fn guard_changes(
        &self,
        paths: &Paths,
        locals: &[Local],
        live: impl Fn(Role) -> u64,
    ) -> Result<(), SyncError> {
        // How many directories the other side has it does not say; nearly the same as this one.
        let files = |role| {
            let mut files = 0;
            self.site.index.files(|_, _, _| files += 1)?;
            let directories = live(Role::Initiator).saturating_sub(files);
            Ok::<u64, IndexError>(live(role).saturating_sub(directories))
        };
        let limit = self.request.change_limit;
        reconcile::check_changes(paths, locals, files, limit)?.map_err(SyncError::TooManyChanges)
    }

    /// What this side knows at each path of the plan.
    fn locals(&mut self, paths: &Paths, survey: &Survey) -> Result<Vec<Local>, SyncError> {
        let mut locals = Vec::with_capacity(paths.len());
        let every: Vec<&RelPath> = paths.iter().map(|stand| stand.path()).collect();
        for (stand, row) in paths.iter().zip(self.site.index.rows_at(&every)?) {
            let theirs = stand.responder.as_ref().or(stand.initiator.as_ref());
            let access = record::access(survey, stand.path(), theirs);
            let access = if stand.initiator.is_some() { LocalAccess::Open } else { access };
            locals.push(Local { row, access });
        }
        Ok(locals)
    }

    fn draft(
        &mut self,
        deciding: &Deciding,
        paths: &Paths,
        locals: &[Local],
        relation: Relation,
    ) -> Result<Draft, SyncError> {
        let theirs = deciding.answer.replica;
        self.counsel.choose(conflicts::choices(&mut self.site.index, theirs)?);
        let context = Context {
            flow: self.request.flow,
            first_contact: relation.first_contact,
            tie: if self.site.index.replica() > theirs { Role::Initiator } else { Role::Responder },
        };
        let folding = [self.site.folding, folding_of(deciding.answer.welcome.features)];
        let known = match folding.iter().all(|folding| folding.is_exact()) {
            true => Vec::new(),
            false => self.all_paths()?,
        };
        let mut failed = None;
        let (root, index) = (&self.site.root, &mut self.site.index);
        let mut is_taken = |name: &RelPath| match index.row(name) {
            Ok(row) => row.is_some() || !root.is_free(name).unwrap_or(false),
            Err(error) => {
                failed = Some(error);
                false
            }
        };
        let keys = reconcile::Keys { initiator: deciding.key(), responder: &deciding.their_key() };
        let terms = reconcile::Terms {
            keys,
            context: &context,
            counsel: &self.counsel,
            stamp: &self.request.names.clash,
            folding,
            known: &known,
        };
        let draft = reconcile::draft(paths, locals, terms, &mut is_taken);
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(draft),
        }
    }

    /// The plan as it is noted; or it is cut down to the one that was made before.
    fn note_or_restrict(
        &self,
        peer: ReplicaId,
        paths: &Paths,
        locals: &[Local],
        draft: &mut Draft,
    ) -> Result<Option<AgreedPlan>, SyncError> {
        let replicas = (self.site.index.replica(), peer);
        let plan = match &self.request.plan {
            PlanUse::Fresh => return Ok(None),
            PlanUse::Note => {
                let stamp = self.request.names.clash.clone();
                let noted = reconcile::describe(paths, locals, &draft.decisions, replicas);
                let stands = paths.iter().zip(noted);
                let noted = stands.filter_map(|(stand, plan)| Some((stand.path().clone(), plan?)));
                return Ok(Some(AgreedPlan { replicas, stamp, paths: noted.collect() }));
            }
            PlanUse::Paths(only) => {
                reconcile::restrict_to(only, paths, locals, draft);
                return Ok(None);
            }
            PlanUse::Only(plan) => plan,
        };
        if plan.replicas.0 != replicas.0 {
            return Err(SyncError::OtherPlan("this side"));
        }
        if plan.replicas.1 != replicas.1 {
            return Err(SyncError::OtherPlan("the other side"));
        }
        let restricted = reconcile::restrict(plan, paths, locals, self.counsel.units(), draft);
        let tell = |path: Vec<u8>, kind, text| {
            self.report.trouble(&Trouble { on: Role::Initiator, path, kind, text });
        };
        for (path, why) in restricted.stale {
            tell(path.as_bytes().to_vec(), TroubleKind::Changed, why.to_string());
        }
        if restricted.unplanned > 0 {
            let text = format!(
                "{} more paths have changed, of which the plan does not speak; they are left for a sync",
                restricted.unplanned
            );
            tell(Vec::new(), TroubleKind::Note, text);
        }
        Ok(None)
    }

    fn carry_out(
        &mut self,
        mut deciding: Deciding,
        paths: Paths,
        draft: Draft,
        (reasons, look_at): (Reasons, Vec<usize>),
    ) -> Result<(Agreement, Closing), SyncError> {
        // Kept before anybody else hears of it, so that it is never used for two things.
        let counter = self.site.index.next_clock();
        self.site.index.transaction(|index| {
            index.use_clock(counter);
            Ok(())
        })?;
        let given = deciding.answer.given.take();
        let keys = Keys { ours: deciding.key().clone(), theirs: deciding.their_key() };
        let (plan, agreement, talking) =
            deciding.plan(paths, draft.decisions, counter, draft.extra)?;
        let priorities = self.priorities(&agreement);
        let how = (self.request.names.clone(), self.request.intent);
        let worker =
            Worker::new(self.site, &agreement, Role::Initiator, keys, how, reasons, self.report)?;
        let mut worker = worker.made_ahead(self.forge.take());
        worker.prefer(priorities);
        look_at.into_iter().try_for_each(|index| worker.keep(index))?;
        let plan: Vec<Message> = self.before_plan.drain(..).chain(plan).collect();
        let plan = (&plan[..], &mut self.seals);
        let closing = exchange::talk_first(worker, self.line, plan, talking, given)?;
        for (on, done) in [(Role::Initiator, &closing.ours), (Role::Responder, &closing.theirs)] {
            for failure in &done.failures {
                self.report.trouble(&exchange::failure_trouble(on, &agreement, failure));
            }
        }
        Ok((agreement, closing))
    }
}

/// What could not be done is not among the actions of which a run tells at its end.
fn leave_out_failed(actions: &mut Vec<Action>, agreement: &Agreement, closing: &Closing) {
    let ends = [(Role::Initiator, &closing.ours), (Role::Responder, &closing.theirs)];
    let failed: HashSet<(Role, &RelPath)> = ends
        .into_iter()
        .flat_map(|(role, done)| done.failures.iter().map(move |failure| (role, failure.index)))
        .filter_map(|(role, index)| Some((role, agreement.paths.get(index as usize)?.path())))
        .collect();
    if !failed.is_empty() {
        actions.retain(|action| !failed.contains(&(action.on, &action.path)));
    }
}
