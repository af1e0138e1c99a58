//! The end that a person started: it speaks first, and it plans.

mod planning;

use psync_protocol::message::{Coverage, Demand, Flow, Hello, Intent, Statement, Summary, Verdict};
use psync_protocol::session::{AnswerStep, AwaitingAnswer, Deciding, Opening, Stating, Twin};
use psync_protocol::{
    Check, ErrorCode, Message, ProtocolError, RelPath, Role, Row, VERSION_MAX, VERSION_MIN,
};

use super::exchange;
use super::record::{self, Met, Relation};
use super::rehearsal::Predicted;
use super::seals::{Seals, noted};
use super::send::Forge;
use super::{Request, Site, SyncError, features_of, random};
use crate::index::Peer;
use crate::journal::RunKind;
use crate::manifest::{self, Numbered, Stored};
use crate::reconcile::{AgreedPlan, Counsel, DeleteLimit};
use crate::report::{Action, Conflict, Phase, Report, Trouble};
use crate::root::places;
use crate::scan::{self, Findings, Rules, ScanError, Survey};
use crate::transport::{Line, LineError};

/// What a run came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The actions of the plan.
    pub actions: Vec<Action>,
    /// The conflicts.
    pub conflicts: Vec<Conflict>,
    /// The plan, where it was to be noted.
    pub plan: Option<AgreedPlan>,
    /// Whether the plan was carried out (and not only shown).
    pub carried_out: bool,
    /// Entries on this side and on the other before the run.
    pub entries: (u64, u64),
    /// What the run would cost, where it was only rehearsed.
    pub predicted: Option<Predicted>,
}

/// Syncs `site` with whoever is at the other end of `line`.
pub fn initiate(
    site: &mut Site,
    mut line: Line,
    request: &Request,
    report: &dyn Report,
) -> Result<Outcome, SyncError> {
    let (held_back, before_plan) = (Vec::new(), Vec::new());
    let mut met = Met::default();
    line.hold_to(request.keeping.bounds);
    let result = Counsel::new(request.rules.clone()).map_err(SyncError::Rule).and_then(|counsel| {
        let (line, met) = (&mut line, &mut met);
        site.mark_again();
        let expected = site.index.peer_at(&request.location)?;
        let features = features_of(site.folding);
        let key = site.key.clone();
        let seals = Seals::of_initiator(key, &site.index, features, expected.as_ref())?;
        let forge = None;
        let initiator = Initiator {
            site,
            seals,
            held_back,
            before_plan,
            forge,
            line,
            met,
            request,
            counsel,
            report,
        };
        initiator.run(expected)
    });
    let result = result.map_err(|error| what_was_said(error, &mut line));
    if request.intent == Intent::CarryOut {
        let conflicts = result.as_ref().map_or(0, |outcome| outcome.conflicts.len());
        let (kind, names) = (RunKind::Started, &request.names);
        record::note_run(site, kind, &met, request.flow, names, conflicts, &result);
    }
    match &result {
        Ok(_) => line.finish()?,
        // Whoever gave the error up knows it already, and who takes nothing does not hear it.
        Err(SyncError::Line(
            LineError::Io(_)
            | LineError::Stalled(_)
            | LineError::Protocol(ProtocolError::Peer { .. }),
        )) => {}
        Err(error) => line.give_up(&error.to_message()),
    }
    result
}

/// A remote shell that writes text and ends breaks the line for writing before its text is read, and
/// so does a psync that refuses or ends a session: what they say tells more than the broken line.
fn what_was_said(error: SyncError, line: &mut Line) -> SyncError {
    match error {
        SyncError::Line(LineError::Io(_)) => line.last_words().map_or(error, SyncError::from),
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
    seals: Seals,
    held_back: Vec<RelPath>,
    /// What has to be said in the flight of the plan before it.
    before_plan: Vec<Message>,
    /// Patches that are being made ahead.
    forge: Option<Forge>,
    line: &'a mut Line,
    met: &'a mut Met,
    request: &'a Request,
    counsel: Counsel,
    report: &'a dyn Report,
}

impl Initiator<'_> {
    fn run(mut self, expected: Option<Peer>) -> Result<Outcome, SyncError> {
        let rules = Rules::new(&self.request.filters).map_err(SyncError::Filter)?;
        let hello = self.hello(expected.as_ref());
        self.met.nonces.0 = hello.nonce;
        self.met.peer = expected.as_ref().map(|peer| peer.replica);
        let whom = expected.as_ref().map(|peer| (peer.replica, peer.index_id));
        let opening = Opening::new(&hello).expecting(whom);
        if let Some(peer) = &expected {
            self.line.remember(record::rates(&self.site.index, peer.replica)?);
        }
        if self.request.intent == Intent::Rehearse {
            self.line.rehearse();
        }
        self.line.greet(&Message::Hello(hello), self.request.compression)?;
        let stating = opening.greeted();
        let found = self.scan(rules)?;
        // Only a peer that has seen this very scope is told changes alone.
        let since = expected.filter(|peer| peer.our_scope == found.survey().scope.digest());
        let coverage = match &since {
            Some(peer) => Coverage::Changes { since: peer.ours },
            None => Coverage::Everything,
        };
        if since.is_some() {
            self.make_patches_ahead(found.changed());
        }
        let rows = self.rows_to_state(&found, coverage, since.as_ref())?;
        if since.is_some() {
            self.make_patches_ahead(rows.iter());
        }
        let statement = self.statement(found.survey(), coverage);
        let (messages, awaiting) =
            self.state(stating, statement, &rows, found.survey(), since.as_ref())?;
        drop(rows);
        self.send_all(messages)?;
        // Written while the other end is at work on what was stated.
        let survey = self.record(found)?;
        if since.is_none() && self.request.intent == Intent::CarryOut {
            exchange::fill_with_tree(self.site, Role::Initiator, self.report)?;
        }
        let deciding = self.hear_answer(awaiting)?;
        self.guard_doubted(deciding.answer.statement.sequence)?;
        let (deciding, relation) = self.restate_if_asked(deciding, &survey)?;
        let deciding = self.unnumber(deciding, &survey, since.as_ref())?;
        self.plan_and_carry_out(deciding, &survey, relation)
    }

    /// Starts to make the patches that the plan will most likely need.
    fn make_patches_ahead<'r>(&mut self, rows: impl Iterator<Item = &'r Stored>) {
        let useless =
            self.request.intent != Intent::CarryOut || self.request.flow == Flow::ToInitiator;
        if useless || self.forge.is_some() {
            return;
        }
        let Some(edited) = Forge::candidates(rows) else { return };
        let before = self.site.notes.len();
        let Site { root, index, old, notes, .. } = &mut *self.site;
        if let Some(store) = old.open(index, notes) {
            let effort = exchange::patch_effort(&self.line.rates());
            self.forge = Forge::start(root, store.reader(), effort, edited);
        }
        // It is opened once in a run: nobody else hears what is wrong with it.
        self.tell_notes(before);
    }

    fn hello(&self, expected: Option<&Peer>) -> Hello {
        let mut nonce = [0; 16];
        random(&mut nonce);
        let mut places = places(&self.site.place);
        if expected.is_some() {
            // Whoever was here before tells its own place, too.
            places.truncate(1);
        }
        Hello {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            features: features_of(self.site.folding),
            codec: self.request.compression.codec(),
            replica: self.site.index.replica(),
            index: self.site.index.index_id(),
            expected: self.seals.expected(&nonce),
            processed: expected.map_or(0, |peer| peer.theirs),
            nonce,
            flow: self.request.flow,
            intent: self.request.intent,
            accepts_empty: self.request.empty_is_meant,
            sets_limit: self.request.delete_limit != DeleteLimit::Half,
            filters: self.request.filters.clone(),
            places,
        }
    }

    /// Whether a tree that is empty now, and was not, is meant to be: whoever types a limit for
    /// deletions says so; and what is mirrored onto a tree fills it again.
    fn accepts_empty(&self, filled_by: Flow) -> bool {
        self.request.empty_is_meant || self.request.flow == filled_by
    }

    /// Finds out what has changed here. The index hears of it when it has been stated; that its
    /// versions are given to nothing else, now.
    fn scan(&mut self, rules: Rules) -> Result<Findings, SyncError> {
        let allow_empty = self.accepts_empty(Flow::ToInitiator);
        let (root, index) = (&self.site.root, &mut self.site.index);
        let found = scan::find_out(root, index, rules, allow_empty, self.report);
        let found = found.map_err(|error| self.scan_failed(error))?;
        found.reserve_clock(&mut self.site.index)?;
        for problem in self.site.notes.iter().chain(&found.survey().problems) {
            self.report.trouble(&Trouble {
                on: Role::Initiator,
                path: problem.path.clone(),
                kind: problem.kind.into(),
                text: problem.text.clone(),
            });
        }
        Ok(found)
    }

    fn record(&mut self, found: Findings) -> Result<Survey, SyncError> {
        let recorded = found.record(&mut self.site.index);
        let mut survey = recorded.map_err(|error| self.scan_failed(error))?;
        self.site.journal.note_edits(std::mem::take(&mut survey.edits));
        Ok(survey)
    }

    fn scan_failed(&self, error: ScanError) -> SyncError {
        SyncError::Scan { path: self.site.root.path().to_path_buf(), error }
    }

    fn rows_to_state(
        &mut self,
        found: &Findings,
        coverage: Coverage,
        peer: Option<&Peer>,
    ) -> Result<Vec<Stored>, SyncError> {
        let since = match coverage {
            Coverage::Changes { since } => since,
            Coverage::Everything => 0,
        };
        let (index, peer) = (&mut self.site.index, peer.map(|peer| peer.replica));
        let to_state = record::found_to_state(index, found.survey(), found.changed(), since, peer)?;
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
            scope: self.seals.scope(survey.scope.digest()),
            coverage,
        }
    }

    fn send_all(&mut self, messages: Vec<Message>) -> Result<(), SyncError> {
        self.seals.send(self.line, &messages)?;
        Ok(self.line.flush()?)
    }

    fn hear_answer(&mut self, mut awaiting: AwaitingAnswer) -> Result<Deciding, SyncError> {
        self.report.phase(Phase::Waiting);
        loop {
            let message = self.line.receive("waiting for the other side's answer")?;
            let noted = noted(&message);
            awaiting = match awaiting.receive(message).map_err(|error| self.rolled_back(error))? {
                AnswerStep::More(awaiting) => awaiting,
                AnswerStep::Problem(awaiting, problem) => {
                    self.report.trouble(&exchange::remote_trouble(&problem));
                    awaiting
                }
                AnswerStep::Turn(deciding) => return Ok(deciding),
            };
            if let Some(noted) = noted {
                self.overhear(&noted)?;
            }
        }
    }

    /// Takes note of what matters for signatures: a seal that does not hold ends the session.
    fn overhear(&mut self, message: &Message) -> Result<(), SyncError> {
        if let Message::Welcome(welcome) = message {
            let overlaps =
                welcome.place.is_some_and(|root| places(&self.site.place).contains(&root));
            if overlaps {
                return Err(SyncError::SameRoot);
            }
            self.seals.welcomed(&self.site.index, welcome)?;
        }
        self.seals.hear(self.line, message)?;
        if matches!(message, Message::Seal(_)) && self.seals.is_older() {
            return Err(SyncError::PeerIsOlder);
        }
        Ok(())
    }

    /// Stops where this root may have taken the place of another, and the peer, whose index has come to
    /// this number, may know that one. Where both are new there is nothing to be missed.
    fn guard_doubted(&self, peers_sequence: u64) -> Result<(), SyncError> {
        match &self.request.doubt {
            Some(doubt) if peers_sequence > 0 => Err(SyncError::Doubted(doubt.clone())),
            Some(_) | None => Ok(()),
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
        let answer = &deciding.answer;
        let peer = answer.replica;
        if peer == self.site.index.replica() {
            return Err(SyncError::Clone);
        }
        let known = self.site.index.peer(peer)?.filter(|known| known.index_id == answer.index);
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
        let replica = deciding.answer.replica;
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
}
