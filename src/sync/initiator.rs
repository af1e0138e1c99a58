//! The end that a person started: it speaks first, and it plans.

use psync_protocol::message::{Coverage, Demand, Flow, Hello, Statement, Summary, Verdict};
use psync_protocol::session::{
    Agreement, AnswerStep, AwaitingAnswer, Deciding, Given, Opening, Paths, Stating, Talking, Twin,
};
use psync_protocol::{
    Check, ErrorCode, Message, ProtocolError, RelPath, Role, Row, VERSION_MAX, VERSION_MIN,
};

use super::exchange::{self, Closing, Worker};
use super::record::{self, Relation};
use super::{Request, Site, SyncError, random};
use crate::apply::Keys;
use crate::index::Peer;
use crate::manifest::{self, LocalAccess, Numbered, Stored};
use crate::reconcile::{self, Context, DeleteLimit, Draft, Local, Policy};
use crate::report::{Action, Conflict, Phase, Report, Trouble};
use crate::root::places;
use crate::scan::{self, Rules, Survey};
use crate::transport::{Line, LineError};

/// What a run came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The actions of the plan.
    pub actions: Vec<Action>,
    /// The conflicts.
    pub conflicts: Vec<Conflict>,
    /// Whether the plan was carried out (and not only shown).
    pub carried_out: bool,
    /// Entries on this side and on the other before the run.
    pub entries: (u64, u64),
}

/// Syncs `site` with whoever is at the other end of `line`.
pub fn initiate(
    site: &mut Site,
    mut line: Line,
    request: &Request,
    report: &dyn Report,
) -> Result<Outcome, SyncError> {
    let (held_back, before_plan) = (Vec::new(), Vec::new());
    let result = Initiator { site, held_back, before_plan, line: &mut line, request, report }.run();
    let result = result.map_err(|error| what_was_said(error, &mut line));
    match &result {
        Ok(_) => line.finish()?,
        // Whoever gave the error up knows it already.
        Err(SyncError::Line(
            LineError::Io(_) | LineError::Protocol(ProtocolError::Peer { .. }),
        )) => {}
        Err(error) => line.give_up(&error.to_message()),
    }
    result
}

/// A remote shell that writes text and ends breaks the line for writing before its text is read:
/// the text says more than the broken line.
fn what_was_said(error: SyncError, line: &mut Line) -> SyncError {
    match error {
        SyncError::Line(LineError::Io(_)) if line.traffic().received() == 0 => {
            match line.receive("saying why it ended") {
                Err(said @ LineError::Protocol(ProtocolError::NotPsync(_))) => said.into(),
                Ok(_) | Err(_) => error,
            }
        }
        other => other,
    }
}

/// States everything: one digest stands for most rows, if there are such.
fn state_everything(
    stating: Stating,
    statement: Statement,
    stored: &[Stored],
    rows: Vec<Row<Check>>,
) -> (Vec<Message>, AwaitingAnswer) {
    let Some((versions, plain)) = manifest::plain(stored) else {
        return stating.state(statement, rows);
    };
    let covered = stored.iter().zip(&plain).filter(|(_, plain)| **plain);
    let tree = manifest::tree(covered.map(|(stored, _)| stored), versions, stating.key());
    let told = rows.iter().zip(&plain).filter(|(_, plain)| !**plain);
    let told: Vec<_> = told.map(|(row, _)| row.clone()).collect();
    stating.state_tree(statement, rows, &told, tree)
}

fn all_stated(rows: &[Stored], deciding: &Deciding) -> Vec<Row<Check>> {
    rows.iter().map(|stored| stored.row.stated(deciding.key())).collect()
}

/// States rows as the responder demands: all, or those that it has not told of.
fn restate(
    mut deciding: Deciding,
    statement: Statement,
    rows: &[Stored],
) -> (Vec<Message>, AwaitingAnswer) {
    let demand = deciding.answer.demand.take();
    let found = match &demand {
        Some(Demand::Differences(summary)) => {
            manifest::plain(rows).and_then(|(versions, plain)| {
                let found = manifest::find_common(rows, &plain, versions, summary, deciding.key());
                Some((summary, found?))
            })
        }
        Some(Demand::Everything | Demand::Blank) | None => None,
    };
    let Some((summary, found)) = found else {
        let rows = all_stated(rows, &deciding);
        return deciding.restate(statement, rows);
    };
    let twins = found.rows.iter().map(|&at| twin(&rows[at], summary, &deciding)).collect();
    let is_told = |at: &usize| found.rows.binary_search(at).is_err();
    let told = (0..rows.len()).filter(is_told);
    let told = told.map(|at| rows[at].row.stated(deciding.key())).collect();
    deciding.restate_differences(statement, told, found.common, &found.props, twins)
}

/// What both ends have; the responder will tell its properties.
fn twin(own: &Stored, summary: &Summary, deciding: &Deciding) -> Twin {
    let their_key = deciding.their_key();
    let responder = manifest::their_row(&own.row, own.row.props, &summary.versions, &their_key);
    Twin { initiator: own.row.stated(deciding.key()), responder }
}

struct Initiator<'a> {
    site: &'a mut Site,
    held_back: Vec<RelPath>,
    /// What has to be said in the flight of the plan before it.
    before_plan: Vec<Message>,
    line: &'a mut Line,
    request: &'a Request,
    report: &'a dyn Report,
}

impl Initiator<'_> {
    fn run(mut self) -> Result<Outcome, SyncError> {
        let rules = Rules::new(&self.request.filters).map_err(SyncError::Filter)?;
        let expected = self.site.index.peer_at(&self.request.location)?;
        let hello = self.hello(expected.as_ref());
        let opening = Opening::new(&hello);
        if let Some(peer) = &expected {
            self.line.remember(record::rates(&self.site.index, peer.replica)?);
        }
        self.line.greet(&Message::Hello(hello), self.request.compression)?;
        let stating = opening.greeted();
        let survey = self.scan(rules)?;
        // Only a peer that has seen this very scope is told changes alone.
        let since = expected.filter(|peer| peer.our_scope == survey.scope.digest());
        let coverage = match &since {
            Some(peer) => Coverage::Changes { since: peer.ours },
            None => Coverage::Everything,
        };
        let rows = self.rows_to_state(&survey, coverage, since.as_ref())?;
        let statement = self.statement(&survey, coverage);
        let (messages, awaiting) =
            self.state(stating, statement, &rows, &survey, since.as_ref())?;
        self.send_all(messages)?;
        let deciding = self.hear_answer(awaiting)?;
        let (deciding, relation) = self.restate_if_asked(deciding, &survey)?;
        let deciding = self.unnumber(deciding, &survey, since.as_ref())?;
        self.plan_and_carry_out(deciding, &survey, relation)
    }

    fn hello(&self, expected: Option<&Peer>) -> Hello {
        let mut nonce = [0; 16];
        random(&mut nonce);
        Hello {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            features: 0,
            codec: self.request.compression.codec(),
            replica: self.site.index.replica(),
            index: self.site.index.index_id(),
            expected: expected.map(|peer| (peer.replica, peer.index_id)),
            processed: expected.map_or(0, |peer| peer.theirs),
            nonce,
            flow: self.request.flow,
            dry_run: self.request.dry_run,
            accepts_empty: self.accepts_empty(Flow::ToResponder),
            filters: self.request.filters.clone(),
            places: places(&self.site.place),
        }
    }

    /// Whether a tree that is empty now, and was not, is meant to be: whoever gives a limit for
    /// deletions says so; and what is mirrored onto a tree fills it again.
    fn accepts_empty(&self, filled_by: Flow) -> bool {
        self.request.delete_limit != DeleteLimit::Half || self.request.flow == filled_by
    }

    fn scan(&mut self, rules: Rules) -> Result<Survey, SyncError> {
        let allow_empty = self.accepts_empty(Flow::ToInitiator);
        let survey =
            scan::scan(&self.site.root, &mut self.site.index, rules, allow_empty, self.report);
        let survey = survey.map_err(|error| SyncError::Scan {
            path: self.site.root.path().to_path_buf(),
            error,
        })?;
        for problem in self.site.notes.iter().chain(&survey.problems) {
            self.report.trouble(&Trouble {
                on: Role::Initiator,
                path: problem.path.clone(),
                kind: problem.kind.into(),
                text: problem.text.clone(),
            });
        }
        Ok(survey)
    }

    fn rows_to_state(
        &mut self,
        survey: &Survey,
        coverage: Coverage,
        peer: Option<&Peer>,
    ) -> Result<Vec<Stored>, SyncError> {
        let since = match coverage {
            Coverage::Changes { since } => since,
            Coverage::Everything => 0,
        };
        let peer = peer.map(|peer| peer.replica);
        let to_state = record::rows_to_state(&mut self.site.index, survey, since, peer)?;
        self.held_back = to_state.held_back;
        Ok(to_state.rows)
    }

    /// States rows: one by one, or what stands for many of them.
    fn state(
        &self,
        stating: Stating,
        statement: Statement,
        stored: &[Stored],
        survey: &Survey,
        peer: Option<&Peer>,
    ) -> Result<(Vec<Message>, AwaitingAnswer), SyncError> {
        let key = stating.key().clone();
        let mut rows: Vec<_> = stored.iter().map(|stored| stored.row.stated(&key)).collect();
        if statement.coverage == Coverage::Everything {
            return Ok(state_everything(stating, statement, stored, rows));
        }
        let folded = manifest::fold(stored, self.site.index.replica());
        let numbered = self.number(stored, &mut rows, &folded.told, survey, peer)?;
        let told = numbered.as_ref().map_or(&folded.told, |numbered| &numbered.told);
        let told: Vec<_> = told.iter().map(|&at| rows[at].clone()).collect();
        Ok(match numbered {
            Some(Numbered { altered, manners, .. }) => {
                let altered = (altered, manners);
                stating.state_altered(statement, rows, &told, folded.moved, altered)
            }
            None => stating.state_folded(statement, rows, &told, folded.moved),
        })
    }

    /// Says by number what has become of entries that the peer knows, if there is enough of it.
    fn number(
        &self,
        rows: &[Stored],
        stated: &mut [Row<Check>],
        told: &[usize],
        survey: &Survey,
        peer: Option<&Peer>,
    ) -> Result<Option<Numbered>, SyncError> {
        let Some(peer) = peer.filter(|_| told.len() >= manifest::WORTH) else { return Ok(None) };
        let references = record::references(&self.site.index, survey, peer.ours, peer.replica)?;
        Ok(manifest::number(rows, stated, told, &references, manifest::WORTH))
    }

    fn statement(&self, survey: &Survey, coverage: Coverage) -> Statement {
        Statement {
            sequence: self.site.index.sequence_at_start(),
            live: survey.live,
            scope: survey.scope.digest(),
            coverage,
        }
    }

    fn send_all(&mut self, messages: Vec<Message>) -> Result<(), SyncError> {
        for message in &messages {
            self.line.send(message)?;
        }
        Ok(self.line.flush()?)
    }

    fn hear_answer(&mut self, mut awaiting: AwaitingAnswer) -> Result<Deciding, SyncError> {
        self.report.phase(Phase::Waiting);
        loop {
            let message = self.line.receive("waiting for the other side's answer")?;
            awaiting = match awaiting.receive(message).map_err(|error| self.rolled_back(error))? {
                AnswerStep::More(awaiting) => awaiting,
                AnswerStep::Problem(awaiting, problem) => {
                    self.report.trouble(&exchange::remote_trouble(&problem));
                    awaiting
                }
                AnswerStep::Turn(deciding) => return Ok(deciding),
            };
        }
    }

    /// Where the peer knows more of this replica than it does itself, its index is of no use.
    fn rolled_back(&mut self, error: ProtocolError) -> SyncError {
        match error {
            ProtocolError::Peer { code: ErrorCode::RolledBack, .. } => {
                match self.site.index.mark_rolled_back() {
                    Ok(()) => SyncError::RolledBack,
                    Err(error) => error.into(),
                }
            }
            ProtocolError::Peer { code: ErrorCode::StartAnew, .. } => SyncError::StartAnew,
            other => other.into(),
        }
    }

    fn restate_if_asked(
        &mut self,
        mut deciding: Deciding,
        survey: &Survey,
    ) -> Result<(Deciding, Relation), SyncError> {
        let welcome = &deciding.answer.welcome;
        let known =
            self.site.index.peer(welcome.replica)?.filter(|peer| peer.index_id == welcome.index);
        let peer = welcome.replica;
        loop {
            let (since, first_contact) = match deciding.answer.welcome.verdict {
                Verdict::Proceed { first_contact } => {
                    let relation = Relation { first_contact: first_contact || known.is_none() };
                    return Ok((deciding, relation));
                }
                Verdict::Restate { since, first_contact } => (since, first_contact),
            };
            let coverage =
                if since == 0 { Coverage::Everything } else { Coverage::Changes { since } };
            let to_state = record::rows_to_state(&mut self.site.index, survey, since, Some(peer))?;
            self.held_back = to_state.held_back;
            let statement = self.statement(survey, coverage);
            if deciding.answer.demand == Some(Demand::Blank) {
                let rows = all_stated(&to_state.rows, &deciding);
                let (messages, deciding) = deciding.restate_to_blank(statement, rows)?;
                self.before_plan = messages;
                let relation = Relation { first_contact: first_contact || known.is_none() };
                return Ok((deciding, relation));
            }
            let awaiting = restate(deciding, statement, &to_state.rows);
            deciding = self.send_and_hear(awaiting)?;
        }
    }

    fn send_and_hear(
        &mut self,
        (messages, awaiting): (Vec<Message>, AwaitingAnswer),
    ) -> Result<Deciding, SyncError> {
        self.send_all(messages)?;
        self.hear_answer(awaiting)
    }

    /// Puts rows in the place of what the answer says by number. Where that is not possible, this
    /// end states its rows anew and is answered row by row.
    fn unnumber(
        &mut self,
        mut deciding: Deciding,
        survey: &Survey,
        peer: Option<&Peer>,
    ) -> Result<Deciding, SyncError> {
        let Some(altered) = deciding.answer.altered.take() else { return Ok(deciding) };
        let replica = deciding.answer.welcome.replica;
        let since = peer.filter(|peer| peer.replica == replica).map_or(0, |peer| peer.ours);
        let key = deciding.their_key();
        let references = record::references(&self.site.index, survey, since, replica)?;
        let index = &mut self.site.index;
        let rows = manifest::unnumber(&altered, &references, &key, |path| index.row(path))?;
        let rows =
            rows.filter(|(rows, _)| rows.len() <= manifest::room(deciding.answer.rows.len()));
        if let Some((rows, manners)) = rows
            && deciding.unnumbered(rows, manners)
        {
            return Ok(deciding);
        }
        let coverage = if since == 0 { Coverage::Everything } else { Coverage::Changes { since } };
        let to_state = record::rows_to_state(&mut self.site.index, survey, since, Some(replica))?;
        self.held_back = to_state.held_back;
        let statement = self.statement(survey, coverage);
        self.send_and_hear(restate(deciding, statement, &to_state.rows))
    }

    fn plan_and_carry_out(
        mut self,
        mut deciding: Deciding,
        survey: &Survey,
        relation: Relation,
    ) -> Result<Outcome, SyncError> {
        let statement = deciding.answer.statement.clone();
        let given = deciding.answer.given.take();
        let paths = deciding.paths()?;
        if paths
            .iter()
            .filter_map(|stand| stand.responder.as_ref())
            .any(|row| self.site.index.has_forgotten(row))
        {
            self.site.index.mark_rolled_back()?;
            return Err(SyncError::RolledBack);
        }
        let locals = self.locals(&paths, survey)?;
        let draft = self.draft(&deciding, &paths, &locals, relation)?;
        let live = |role| match role {
            Role::Initiator => survey.live,
            Role::Responder => statement.live,
        };
        let guarded = reconcile::check_deletions(
            &paths,
            &locals,
            &draft.decisions,
            live,
            self.request.delete_limit,
        );
        let actions = reconcile::actions(
            &paths,
            &locals,
            &draft.decisions,
            &draft.whys,
            relation.first_contact,
        );
        actions.iter().for_each(|action| self.report.action(action));
        draft.conflicts.iter().for_each(|conflict| self.report.conflict(conflict));
        guarded.map_err(SyncError::TooManyDeletions)?;
        let comes_here = actions.iter().any(|action| action.on == Role::Initiator);
        if comes_here && !self.site.writable && !self.request.dry_run {
            return Err(SyncError::ReadOnly(self.site.root.path().to_path_buf()));
        }
        let mut outcome = Outcome {
            actions,
            conflicts: draft.conflicts,
            carried_out: false,
            entries: (survey.live, statement.live),
        };
        if self.request.dry_run || paths.is_empty() {
            outcome.carried_out = !self.request.dry_run;
            return Ok(outcome);
        }
        let bytes = outcome.actions.iter().map(|action| action.size).sum();
        self.report.phase(Phase::Transfer { bytes });
        let welcome = deciding.answer.welcome.clone();
        let keys = Keys { ours: deciding.key().clone(), theirs: deciding.their_key() };
        // Kept before anybody else hears of it, so that it is never used for two things.
        let counter = self.site.index.next_clock();
        self.site.index.transaction(|index| {
            index.use_clock(counter);
            Ok(())
        })?;
        let (messages, agreement, talking) =
            deciding.plan(paths, draft.decisions, counter, draft.extra)?;
        let closing = self.carry_out(&messages, &agreement, talking, keys, given)?;
        let peer = Peer {
            replica: welcome.replica,
            index_id: welcome.index,
            theirs: closing.theirs.sequence,
            ours: self.site.index.sequence(),
            our_scope: survey.scope.digest(),
            their_scope: statement.scope,
        };
        let held_back = std::mem::take(&mut self.held_back);
        record::conclude(
            &mut self.site.index,
            &peer,
            &agreement,
            &closing,
            held_back,
            self.request.names.now,
        )?;
        self.site.index.put_place(&self.request.location, welcome.replica)?;
        record::keep_rates(&mut self.site.index, welcome.replica, self.line.rates())?;
        outcome.carried_out = true;
        Ok(outcome)
    }

    /// What this side knows at each path of the plan.
    fn locals(&mut self, paths: &Paths, survey: &Survey) -> Result<Vec<Local>, SyncError> {
        let mut locals = Vec::with_capacity(paths.len());
        for stand in paths.iter() {
            let row = self.site.index.row(stand.path())?;
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
        let theirs = deciding.answer.welcome.replica;
        let context = Context {
            flow: self.request.flow,
            policy: Policy::KeepBoth,
            first_contact: relation.first_contact,
            tie: if self.site.index.replica() > theirs { Role::Initiator } else { Role::Responder },
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
        let draft = reconcile::draft(
            paths,
            locals,
            keys,
            &context,
            &self.request.names.clash,
            &mut is_taken,
        );
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(draft),
        }
    }

    fn carry_out(
        &mut self,
        plan: &[Message],
        agreement: &Agreement,
        talking: Talking,
        keys: Keys,
        given: Option<Given>,
    ) -> Result<Closing, SyncError> {
        let worker = Worker::new(
            self.site,
            agreement,
            Role::Initiator,
            keys,
            self.request.names.clone(),
            self.report,
        )?;
        let plan: Vec<Message> = self.before_plan.drain(..).chain(plan.iter().cloned()).collect();
        let closing = exchange::talk_first(worker, self.line, &plan, talking, given)?;
        for (on, done) in [(Role::Initiator, &closing.ours), (Role::Responder, &closing.theirs)] {
            for failure in &done.failures {
                self.report.trouble(&exchange::failure_trouble(on, agreement, failure));
            }
        }
        Ok(closing)
    }
}
