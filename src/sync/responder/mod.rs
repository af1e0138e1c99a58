//! The end that was started by the other: it answers, and checks what it is told against what it
//! knows.

mod answering;
mod judging;

use std::path::Path;

use psync_protocol::message::{Filter, Flow, Hello, Intent, Statement, StreamCodec, Verdict};
use psync_protocol::session::{
    Agreement, AwaitingHello, AwaitingStatement, PlanStep, Planned, StatementStep,
};
use psync_protocol::{CheckKey, Content, Message, ProtocolError, RelPath, Role};

use judging::Compared;

use super::exchange::{self, Worker};
use super::record::{self, Met, Relation};
use super::remember::remember_quietly;
use super::seals::{Seals, Verified, noted};
use super::{Keeping, Site, SyncError, random};
use crate::apply::{Keys, RunNames};
use crate::index::Peer;
use crate::journal::RunKind;
use crate::manifest::{Outline, Permit};
use crate::reconcile::{self, DeleteLimit, Tripped};
use crate::report::Report;
use crate::root::{Place, places};
use crate::scan::{self, Rules, Survey};
use crate::transport::{Compression, Line, LineError};

/// What is served, and to whom.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    /// The root.
    pub path: &'a Path,
    /// Whether the root has to exist: else it is made, if the directory above it exists.
    pub must_exist: bool,
    /// For what this end sends, if the other end wants any.
    pub compression: Compression,
    /// What the other end may see and do.
    pub permit: &'a Permit,
    /// Filters that come before those of the other end.
    pub filters: &'a [Filter],
}

/// Serves the root at `path` to whoever is at the other end of `line`, for one sync, and allows
/// everything. The arguments are those of an [`Offer`].
pub fn respond(
    path: &Path,
    must_exist: bool,
    compression: Compression,
    line: Line,
    keeping: &Keeping,
    names: RunNames,
    report: &dyn Report,
) -> Result<(), SyncError> {
    let offer = Offer { path, must_exist, compression, permit: &Permit::all(), filters: &[] };
    respond_within(offer, line, keeping, names, report)
}

/// Serves a root to whoever is at the other end of `line`, for one sync.
pub fn respond_within(
    offer: Offer<'_>,
    mut line: Line,
    keeping: &Keeping,
    names: RunNames,
    report: &dyn Report,
) -> Result<(), SyncError> {
    let result = serve(offer, &mut line, keeping, names, report);
    match &result {
        Ok(_) => line.finish()?,
        Err(SyncError::Line(
            LineError::Io(_)
            | LineError::Stalled(_)
            | LineError::Protocol(ProtocolError::Peer { .. } | ProtocolError::Ended(_)),
        )) => {}
        Err(error) => line.give_up(&error.to_message()),
    }
    if let Some(mut site) = result? {
        remember_quietly(&mut site, report);
    }
    Ok(())
}

/// Tells the other end, once it has greeted, why this one cannot serve it.
pub fn refuse(mut line: Line, error: &SyncError) {
    if line.receive("waiting for a greeting").is_ok() {
        line.give_up(&error.to_message());
    }
}

/// What is left of the session: the site, if there may be something to remember.
fn serve(
    offer: Offer<'_>,
    line: &mut Line,
    keeping: &Keeping,
    names: RunNames,
    report: &dyn Report,
) -> Result<Option<Site>, SyncError> {
    line.hold_to(keeping.bounds);
    let greeting = line.receive("waiting for a greeting")?;
    let (hello, awaiting) = AwaitingHello.receive(greeting)?;
    let Offer { path, must_exist, compression, permit, .. } = offer;
    let filters = [offer.filters, &filters(&hello.filters, keeping)].concat();
    let rules = Rules::new(&filters).map_err(SyncError::Filter)?.within(permit);
    refuse_overlap(path, &hello)?;
    // Who has never been here misses no root. Only who may do everything is believed that.
    let misses_none = hello.accepts_empty || hello.expected.is_none();
    if !(misses_none && permit.allows_everything()) {
        Site::guard(path, keeping, accepts_empty(&hello, permit))?;
    }
    let made = !must_exist && Site::create_root(path)?;
    let is_real = hello.intent == Intent::CarryOut;
    let compression = if hello.codec == StreamCodec::Raw { Compression::Off } else { compression };
    let session = (hello, awaiting, rules);
    let served = serve_root(Offer { compression, ..offer }, line, keeping, names, report, session)
        .map(|site| is_real.then_some(site));
    if made && !matches!(served, Ok(Some(_))) {
        Site::remove_unused_root(path);
    }
    served
}

/// Whether a tree that is empty now is meant to be, or is filled again by a mirror. The scan writes it
/// down as deleted then, for every other peer to hear: only who could delete all of it may say so.
fn accepts_empty(hello: &Hello, permit: &Permit) -> bool {
    (hello.accepts_empty || hello.flow == Flow::ToResponder) && permit.allows_everything()
}

/// What the end that plans leaves alone, and then what this one does; nothing stands twice, so
/// that equal settings on both sides are as good as one.
fn filters(planned: &[Filter], keeping: &Keeping) -> Vec<Filter> {
    let own = keeping.filters.iter().filter(|own| !planned.contains(own));
    planned.iter().chain(own).cloned().collect()
}

fn serve_root(
    offer: Offer<'_>,
    line: &mut Line,
    keeping: &Keeping,
    names: RunNames,
    report: &dyn Report,
    (hello, awaiting, rules): (Hello, AwaitingStatement, Rules),
) -> Result<Site, SyncError> {
    let Offer { path, compression, permit, .. } = offer;
    let mut site = Site::open(path, keeping)?;
    site.mark_again();
    if site.index.replica() == hello.replica {
        return Err(SyncError::Clone);
    }
    let mut survey =
        scan::scan(&site.root, &mut site.index, rules, accepts_empty(&hello, permit), report)
            .map_err(|error| SyncError::Scan { path: path.to_path_buf(), error })?;
    site.journal.note_edits(std::mem::take(&mut survey.edits));
    let mut nonce = [0; 16];
    random(&mut nonce);
    let features = super::features_of(site.folding);
    let seals = Seals::of_responder(site.key.clone(), &site.index, features, &hello)?;
    let responder = Responder {
        site: &mut site,
        seals,
        held_back: Vec::new(),
        may_number: true,
        outline: None,
        line,
        hello,
        compression,
        permit,
        survey,
        nonce,
        names,
        report,
    };
    let (met, names) = (responder.met(), responder.names.clone());
    let (intent, flow) = (responder.hello.intent, responder.hello.flow);
    let result = responder.run(awaiting);
    if intent == Intent::CarryOut {
        record::note_run(&mut site, RunKind::Answered, &met, flow, &names, 0, &result);
    }
    result.map(|()| site)
}

/// Two roots on one machine may not be one, nor one in the other: seen before anything is made.
fn refuse_overlap(path: &Path, hello: &Hello) -> Result<(), SyncError> {
    let Ok(place) = Place::of_root(path) else { return Ok(()) };
    let ours = places(&place);
    let exists = path.exists();
    let inside_theirs = hello.places.first().is_some_and(|root| ours.contains(root));
    let theirs_inside = exists && ours.first().is_some_and(|root| hello.places.contains(root));
    if inside_theirs || theirs_inside { Err(SyncError::SameRoot) } else { Ok(()) }
}

struct Responder<'a> {
    site: &'a mut Site,
    seals: Seals,
    held_back: Vec<RelPath>,
    /// Whether the initiator can be told by number what has become of what both know.
    may_number: bool,
    /// What the initiator was told of this tree.
    outline: Option<Outline>,
    line: &'a mut Line,
    hello: Hello,
    compression: Compression,
    permit: &'a Permit,
    survey: Survey,
    nonce: [u8; 16],
    names: RunNames,
    report: &'a dyn Report,
}

impl Responder<'_> {
    /// What the journal has to know of this run.
    fn met(&self) -> Met {
        Met { peer: Some(self.hello.replica), nonces: (self.hello.nonce, self.nonce) }
    }

    fn run(mut self, awaiting: AwaitingStatement) -> Result<(), SyncError> {
        let mut awaiting = awaiting.answered_by(self.site.index.replica());
        let their_key = awaiting.their_key().clone();
        let mut verified = Verified::Unknown;
        let (stated, answering) = loop {
            let message = self.line.receive("waiting for a statement")?;
            let noted = noted(&message);
            awaiting = match awaiting.receive(message)? {
                StatementStep::More(awaiting) => awaiting,
                StatementStep::Turn(stated, answering) => break (stated, answering),
            };
            if let Some(noted) = noted {
                verified = self.seals.hear(self.line, &noted)?.unwrap_or(verified);
            }
        };
        let mut answering = answering;
        let (stated, compared, verdict) = match verified {
            Verified::Yes => {
                let (stated, unnumbered) = self.unnumber(stated, &mut answering)?;
                let (stated, compared) = self.unfold(stated)?;
                let compared = if unnumbered { compared } else { Compared::Unknown };
                let verdict = self.judge(&stated, compared.is_same())?;
                (stated, compared, verdict)
            }
            // Nobody vouches for it: it has to be stated in a way that this end can verify.
            Verified::Unknown => {
                let first_contact = self.acquaintance()?.is_none();
                (stated, Compared::Unknown, Verdict::Restate { since: 0, first_contact })
            }
        };
        let mut statement = stated.statement.clone();
        let mut waiting = self.answer_first(stated, answering, verdict, compared, &their_key)?;
        let relation = match verdict {
            Verdict::Proceed { first_contact } | Verdict::Restate { first_contact, .. } => {
                Relation { first_contact }
            }
        };
        if relation.first_contact && self.hello.intent == Intent::CarryOut {
            exchange::fill_with_tree(self.site, Role::Responder, self.report)?;
        }
        loop {
            let Some(message) = self.line.receive_or_end("waiting for the plan")? else {
                if waiting.may_end() {
                    // The initiator has nothing to do, or only wanted to see.
                    let peer = self.hello.replica;
                    let (seals, now) = (&self.seals, self.names.now);
                    record::touch(&mut self.site.index, seals, peer, now)?;
                    if self.hello.intent == Intent::CarryOut {
                        self.site.mark();
                    }
                    return Ok(());
                }
                return Err(ProtocolError::Ended("in the middle of the plan").into());
            };
            let noted = noted(&message);
            let step = waiting.receive(message).map_err(|error| self.refused_as_older(error))?;
            if let Some(noted) = noted {
                self.seals.hear(self.line, &noted)?;
                if let Message::Statement(stated) = noted {
                    statement = stated;
                } else {
                    self.refuse_older()?;
                }
            }
            waiting = match step {
                // Without waiting for what follows: there is work to do meanwhile.
                PlanStep::More(waiting) if waiting.is_planned() => {
                    return self.planned(waiting.planned()?, None, relation, their_key, &statement);
                }
                PlanStep::More(waiting) => waiting,
                PlanStep::Restated(stated, answering) => {
                    self.may_number = false;
                    let (messages, waiting) =
                        self.answer_again(stated, answering, relation, &their_key)?;
                    self.send_all(messages)?;
                    waiting
                }
                PlanStep::Planned(planned, first) => {
                    return self.planned(planned, Some(first), relation, their_key, &statement);
                }
            };
        }
    }

    /// Refuses a plan that deletes more here than anybody has allowed, whatever the planner's own
    /// guard says.
    fn guard_deletions(&mut self, agreement: &Agreement) -> Result<(), SyncError> {
        let limit = DeleteLimit::default().of(self.survey.live);
        let named = reconcile::deletions(agreement);
        let other_limit = self.hello.sets_limit || self.hello.flow == Flow::ToResponder;
        let other_limit = other_limit && self.permit.allows_everything();
        if other_limit || named.len() as u64 <= limit {
            return Ok(());
        }
        let mut deletions = 0;
        for path in named {
            let own = self.site.index.row(path)?.map(|stored| stored.row.content);
            let goes = matches!(own, Some(Content::File { .. } | Content::Symlink { .. }));
            deletions += u64::from(goes);
        }
        if deletions > limit {
            let (on, live) = (Role::Responder, self.survey.live);
            return Err(SyncError::TooManyDeletions(Tripped { on, deletions, live, limit }));
        }
        Ok(())
    }

    fn send_all(&mut self, messages: Vec<Message>) -> Result<(), SyncError> {
        self.seals.send(self.line, &messages)?;
        Ok(self.line.flush()?)
    }

    fn planned(
        mut self,
        planned: Planned,
        first: Option<Message>,
        relation: Relation,
        their_key: CheckKey,
        statement: &Statement,
    ) -> Result<(), SyncError> {
        let paths = &planned.agreement.paths;
        self.refuse_forgotten(paths.iter().filter_map(|stand| stand.initiator.as_ref()))?;
        reconcile::verify(&planned.agreement, self.hello.flow, relation.first_contact)?;
        reconcile::permitted(&planned.agreement, self.permit)?;
        self.guard_deletions(&planned.agreement)?;
        self.carry_out(planned, first, their_key, statement)
    }

    fn carry_out(
        self,
        planned: Planned,
        first: Option<Message>,
        their_key: CheckKey,
        statement: &Statement,
    ) -> Result<(), SyncError> {
        if self.hello.intent == Intent::Show {
            return Err(ProtocolError::Contradiction("a dry run is followed by a plan").into());
        }
        let Planned { agreement, listening } = planned;
        let is_real = self.hello.intent == Intent::CarryOut;
        if is_real
            && !self.site.writable
            && agreement.decisions.iter().any(reconcile::changes_responder)
        {
            return Err(SyncError::ReadOnly(self.site.root.path().to_path_buf()));
        }
        let keys = Keys { ours: self.our_key(), theirs: their_key };
        let (met, reasons) = (self.met(), record::reasons(&agreement));
        let planned = record::planned(&agreement);
        let (kind, flow) = (RunKind::Answered, self.hello.flow);
        if is_real {
            // Kept before the initiator may believe that it is.
            let (seals, now) = (&self.seals, self.names.now);
            self.site.index.transaction(|index| seals.keep(index, now))?;
            record::begin(self.site, kind, &met, flow, &self.names, planned, &reasons);
        }
        let worker = Worker::new(
            self.site,
            &agreement,
            Role::Responder,
            keys,
            (self.names.clone(), self.hello.intent),
            reasons,
            self.report,
        )?
        .within(self.permit)
        .keep_to(&self.survey);
        let mut closing = exchange::listen_first(worker, self.line, listening, first)?;
        if !is_real {
            return Ok(());
        }
        self.site.ahead = closing.ahead.take();
        super::store::forget(self.site, &closing.damaged)?;
        let peer = Peer {
            replica: self.hello.replica,
            index_id: self.hello.index,
            theirs: closing.theirs.sequence,
            ours: self.site.index.sequence(),
            our_scope: self.survey.scope.digest(),
            their_scope: self.seals.their_scope(statement).unwrap_or_default(),
        };
        record::conclude(
            &mut self.site.index,
            (&peer, self.permit),
            &agreement,
            &closing,
            self.held_back,
            None,
            self.names.now,
        )?;
        self.site.mark();
        let clashes = agreement.decisions.iter().filter(|decision| {
            matches!(decision.content, psync_protocol::ContentDecision::KeepBoth { .. })
        });
        self.site.journal.end(clashes.count() as u64, closing.failures().count() as u64, None);
        Ok(record::keep_rates(&mut self.site.index, peer.replica, self.line.rates())?)
    }
}
