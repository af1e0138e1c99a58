//! Carrying out a plan, the same for both ends: flights of contents and wants by turns.

use std::collections::{HashMap, HashSet};

use psync_protocol::message::{
    Costs, Done, Failure, FailureKind, Intent, Problem, ProblemKind, Want, WantKind,
};
use psync_protocol::path::plain;
use psync_protocol::session::{Agreement, Event, Given, Heard, Listening, Next, Stand, Talking};
use psync_protocol::{ContentHash, Decision, Message, RelPath, Role};

use super::rehearsal::Rehearsal;
use super::remember::{Ahead, Files};
use super::seals::Seals;
use super::send::{Forge, Means, Out, Sending, Signed};
use super::{OldContents, Site, SyncError};
use crate::apply::{Applier, Keepsake, Keys, RunNames, Tools};
use crate::delta::{Effort, Found};
use crate::index::{Index, SharedFile};
use crate::journal::Reasons;
use crate::manifest::Permit;
use crate::reconcile;
use crate::report::{Report, Silent, Trouble, TroubleKind};
use crate::root::{Root, Staging};
use crate::scan::Survey;
use crate::store::Store;
use crate::transport::{Line, Rates};

/// What a round trip is worth on a line of which nothing is known, in bytes.
const ROUND_TRIP_UNKNOWN: u64 = 32 << 10;
/// How long a round trip takes where that has not been measured, in seconds.
const ROUND_TRIP_USUAL: f64 = 0.1;
/// Below this rate of the line, in KiB a second, a byte is worth any work of the processor (about
/// 4 Mbit/s); from the other one on (about 100 Mbit/s), hardly any.
const SLOW: u64 = 500;
const FAST: u64 = 12_000;
/// More contents than this to come or to go are worth filling the store meanwhile.
const WORTH_FILLING: usize = 255;

/// What both ends said in the end.
#[derive(Debug)]
pub(super) struct Closing {
    pub(super) ours: Done,
    pub(super) theirs: Done,
    /// What the other end would have sent, where this was only a rehearsal.
    pub(super) costs: Option<Costs>,
    /// The other side's contents that were fetched to be looked at.
    pub(super) kept: Vec<Keepsake>,
    /// What is being packed for the store.
    pub(super) ahead: Option<Ahead>,
    /// Old contents that turned out to be damaged, and are not in the store any more.
    pub(super) damaged: HashSet<ContentHash>,
}

impl Closing {
    pub(super) fn failures(&self) -> impl Iterator<Item = &Failure> {
        self.ours.failures.iter().chain(&self.theirs.failures)
    }
}

/// Whether the store may be filled in the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fills {
    Never,
    /// It would be, if this were more than a rehearsal.
    Would,
    Does,
}

/// One end at work.
pub(super) struct Worker<'a> {
    applier: Applier<'a>,
    agreement: &'a Agreement,
    role: Role,
    report: &'a dyn Report,
    /// What the other end may have.
    permit: Permit,
    /// Where the plan is only rehearsed.
    rehearsal: Option<Rehearsal>,
    store: Option<&'a mut Store>,
    /// Whether this end may send in its next flight what it has not been asked for.
    gives: bool,
    /// What of that is being made already.
    forge: Option<Forge>,
    /// What coarse blocks have found of contents of which finer hashes will come.
    found: HashMap<u64, Found>,
    /// Whether it has sent contents in an earlier flight.
    has_sent: bool,
    /// The files that were sent in the latest flight with contents, until they are being packed.
    sent: Vec<SharedFile>,
    /// What packs them.
    ahead: Option<Ahead>,
    /// Where what comes is told to who fills the store meanwhile.
    filling: Option<Files>,
    /// Old contents that turned out to be damaged.
    damaged: HashSet<ContentHash>,
    /// What the peer wants in the next flight.
    wanted: Vec<Signed>,
    ours: Option<Done>,
    theirs: Option<Done>,
}

/// What stands after a flight.
enum After {
    Listen(Listening),
    Talk(Talking),
    Closed,
}

impl<'a> Worker<'a> {
    pub(super) fn new(
        site: &'a mut Site,
        agreement: &'a Agreement,
        role: Role,
        keys: Keys,
        (names, intent): (RunNames, Intent),
        reasons: Reasons,
        report: &'a dyn Report,
    ) -> Result<Worker<'a>, SyncError> {
        let (free, keep) = site.disk();
        let fills = match intent {
            Intent::CarryOut if free >= keep => Fills::Does,
            Intent::Rehearse if free >= keep => Fills::Would,
            Intent::CarryOut | Intent::Rehearse | Intent::Show => Fills::Never,
        };
        let Site { old, index, root, staging, .. } = site;
        let ground = (&*root, &*staging);
        let (store, filling) = old_contents(old, ground, index, agreement, role, fills, report)?;
        let tools = Tools {
            root: &site.root,
            staging: &site.staging,
            index: &mut site.index,
            report,
            journal: &mut site.journal,
            retention: &site.retention,
            reasons,
        };
        let mut applier = Applier::new(tools, role, agreement, keys, names);
        applier.keep_together(site.units.clone());
        applier.keep_within(site.space);
        if filling.is_some() && fills == Fills::Does {
            applier.list_what_comes();
        }
        Ok(Worker {
            applier,
            agreement,
            role,
            report,
            permit: Permit::all(),
            rehearsal: (intent == Intent::Rehearse).then(Rehearsal::default),
            store,
            gives: role == Role::Initiator,
            forge: None,
            found: HashMap::new(),
            has_sent: false,
            sent: Vec::new(),
            ahead: None,
            filling,
            damaged: HashSet::new(),
            wanted: Vec::new(),
            ours: None,
            theirs: None,
        })
    }

    /// What needs nothing from the other end.
    fn begin(&mut self) -> Result<(), SyncError> {
        let begun = match self.rehearsal {
            Some(_) => self.applier.rehearse(),
            None => self.applier.begin(),
        };
        Ok(begun?)
    }

    /// Contents of paths with a higher priority go first.
    pub(super) fn prefer(&mut self, priorities: HashMap<u64, i32>) {
        self.applier.prefer(priorities);
    }

    /// Fetches the other side's content at a path that the plan leaves alone.
    pub(super) fn keep(&mut self, index: usize) -> Result<(), SyncError> {
        Ok(self.applier.keep(index)?)
    }

    /// The other end gets contents only where this lets it read them.
    pub(super) fn within(mut self, permit: &Permit) -> Worker<'a> {
        self.applier.within(permit);
        Worker { permit: permit.clone(), ..self }
    }

    /// Of the files on this side only those are of use that the session is about.
    pub(super) fn keep_to(mut self, survey: &'a Survey) -> Worker<'a> {
        self.applier.keep_to(|path| survey.speaks_at(path, false));
        self
    }

    /// Patches are being made that may be of use.
    pub(super) fn made_ahead(self, forge: Option<Forge>) -> Worker<'a> {
        Worker { forge, ..self }
    }

    fn talk(&mut self, line: &mut Line, mut talking: Talking) -> Result<After, SyncError> {
        self.send_contents(line, &mut talking)?;
        if self.ours.is_none() {
            let mut failed = None;
            let turn_worth = bytes_of_a_round_trip(&line.rates());
            let wanted = self.applier.wants(turn_worth, |message| {
                let sent = talking
                    .send(&message)
                    .map_err(SyncError::from)
                    .and_then(|()| Ok(line.send(&message)?));
                sent.map_err(|error| {
                    failed = Some(error);
                    std::io::Error::other("the line failed")
                })
            });
            match (wanted, failed) {
                (_, Some(error)) => return Err(error),
                (result, None) => result?,
            }
            if self.applier.is_finished() {
                self.finish(line, &mut talking)?;
            }
        }
        if let Some(rehearsal) = &mut self.rehearsal {
            for message in rehearsal.counted(line)? {
                talking.send(&message)?;
                line.send(&message)?;
            }
        }
        line.send(&Message::End)?;
        line.flush()?;
        self.pack_ahead();
        Ok(match talking.end()? {
            Next::Listen(listening) => After::Listen(listening),
            Next::Closed => After::Closed,
        })
    }

    /// While the other end is at work on what was sent, that is packed for the store.
    fn pack_ahead(&mut self) {
        let sent = std::mem::take(&mut self.sent);
        if sent.is_empty() || self.rehearsal.is_some() {
            return;
        }
        if let Some(filling) = &self.filling {
            filling.add(sent);
        } else if let Some(store) = self.store.as_ref().filter(|_| self.ahead.is_none()) {
            let (root, staging) = (self.applier.root(), self.applier.staging());
            self.ahead = Ahead::pack(root, staging, store.rules().largest_file);
            self.ahead.iter().for_each(|ahead| ahead.files().add(sent.iter().cloned()));
        }
    }

    fn fill_with_what_came(&mut self) {
        if let Some(filling) = &self.filling {
            filling.add(self.applier.take_come());
        }
    }

    fn send_contents(&mut self, line: &mut Line, talking: &mut Talking) -> Result<(), SyncError> {
        let wanted = std::mem::take(&mut self.wanted);
        let gives = std::mem::take(&mut self.gives);
        // Finer hashes come in the very next flight, or never.
        let is_coarse = |signed: &&Signed| matches!(signed.kind, WantKind::Coarse(_));
        let coarse: HashSet<u64> =
            wanted.iter().filter(is_coarse).map(|signed| signed.index).collect();
        if wanted.is_empty() && !gives {
            self.found.clear();
            return Ok(());
        }
        let effort = patch_effort(&line.rates());
        let report: &dyn Report = if self.rehearsal.is_some() { &Silent } else { self.report };
        let means = Means {
            out: Out { line, talking, rehearsal: self.rehearsal.as_mut() },
            store: self.store.as_deref_mut(),
            agreement: self.agreement,
            permit: &self.permit,
            report,
            effort,
            found: &mut self.found,
            filling: self.filling.as_ref().filter(|filling| filling.is_for_store()),
            sent: &mut self.sent,
            damaged: &mut self.damaged,
            singly: std::mem::replace(&mut self.has_sent, true),
        };
        let mut sending = Sending::new(means, &mut self.applier);
        sending.wanted(wanted)?;
        if gives {
            sending.given(self.forge.take())?;
        }
        sending.finish()?;
        self.found.retain(|index, _| coarse.contains(index));
        Ok(())
    }

    fn finish(&mut self, line: &mut Line, talking: &mut Talking) -> Result<(), SyncError> {
        let failures = self.applier.finish()?;
        for (path, text) in self.applier.take_notes() {
            let path = path.as_bytes().to_vec();
            match self.role {
                Role::Initiator => {
                    let kind = ProblemKind::Note.into();
                    self.report.trouble(&Trouble { on: Role::Initiator, path, kind, text });
                }
                Role::Responder => {
                    let problem = Message::Problem(Problem { kind: ProblemKind::Note, path, text });
                    talking.send(&problem)?;
                    line.send(&problem)?;
                }
            }
        }
        let done = Done { sequence: self.applier.sequence(), failures };
        let message = Message::Done(done.clone());
        talking.send(&message)?;
        line.send(&message)?;
        self.ours = Some(done);
        Ok(())
    }

    fn listen(&mut self, line: &mut Line, mut listening: Listening) -> Result<After, SyncError> {
        loop {
            let message = line.receive("carrying out the plan")?;
            match self.hear(listening, message)? {
                After::Listen(more) => listening = more,
                other => return Ok(other),
            }
            self.fill_with_what_came();
            if self.applier.has_work() {
                line.while_working(|| self.applier.commit_closed())?;
            }
        }
    }

    fn hear(&mut self, listening: Listening, message: Message) -> Result<After, SyncError> {
        match listening.receive(message)? {
            Heard::More(listening, event) => {
                self.take(event)?;
                Ok(After::Listen(listening))
            }
            Heard::Turn(talking) => {
                self.applier.flight_is_over()?;
                self.fill_with_what_came();
                Ok(After::Talk(talking))
            }
            Heard::Closed => Ok(After::Closed),
        }
    }

    fn take(&mut self, event: Event) -> Result<(), SyncError> {
        match event {
            Event::Nothing => {}
            Event::Want(Want { index, kind }) => {
                self.wanted.push(Signed { index, kind, hashes: Vec::new() })
            }
            Event::Signature(piece) => {
                if let Some(signed) = self.wanted.last_mut() {
                    signed.hashes.extend_from_slice(&piece);
                }
            }
            Event::File(index) => self.applier.file_begins(index),
            Event::Unresolved(unresolved) => self.applier.unresolved(&unresolved),
            Event::Segment(segment) => self.applier.file_segment(segment),
            Event::Against(against) => self.applier.file_against(against),
            Event::Literal(bytes) => self.applier.file_literal(bytes),
            Event::Delta(delta) => self.applier.file_delta(delta),
            Event::FileEnd(hash) => self.applier.file_ends(hash)?,
            Event::Patches(patches) => self.applier.patches_arrive(&patches),
            Event::Proof(proof) => self.applier.proved(proof)?,
            Event::FileFailed(failure) => self.applier.file_failed(in_plain_words(failure)),
            Event::Counted(counted) => {
                counted
                    .contents
                    .into_iter()
                    .flatten()
                    .for_each(|index| self.applier.counted(index));
                if let Some(rehearsal) = &mut self.rehearsal {
                    rehearsal.theirs = Some(counted.costs);
                }
            }
            Event::Done(Done { sequence, failures }) => {
                let failures = failures.into_iter().map(in_plain_words).collect();
                self.theirs = Some(Done { sequence, failures });
            }
            Event::Problem(problem) => self.report.trouble(&remote_trouble(&problem)),
        }
        Ok(())
    }

    /// What the responder sent along with its rows, as if it had been asked for.
    fn take_given(&mut self, given: Option<Given>) -> Result<(), SyncError> {
        let Some(Given { mut patches, paths, proof }) = given else { return Ok(()) };
        if self.rehearsal.is_some() {
            let indices = paths.iter().filter_map(|path| self.agreement.paths.find(path));
            indices.for_each(|index| self.applier.counted(index as u64));
            return Ok(());
        }
        for (content, path) in patches.contents.iter_mut().zip(&paths) {
            let index = self.agreement.paths.find(path);
            content.index = index.map_or(u64::MAX, |index| index as u64);
        }
        self.applier.patches_arrive(&patches);
        self.applier.proved(proof)?;
        Ok(self.applier.flight_is_over()?)
    }

    fn go_on(mut self, line: &mut Line, mut after: After) -> Result<Closing, SyncError> {
        loop {
            after = match after {
                After::Listen(listening) => self.listen(line, listening)?,
                After::Talk(talking) => self.talk(line, talking)?,
                After::Closed => break,
            };
        }
        let kept = self.applier.take_kept();
        match (self.ours, self.theirs) {
            (Some(ours), Some(theirs)) => {
                let costs = self.rehearsal.and_then(|rehearsal| rehearsal.theirs);
                let (ahead, damaged) = (self.ahead, self.damaged);
                Ok(Closing { ours, theirs, costs, kept, ahead, damaged })
            }
            _ => Err(psync_protocol::ProtocolError::Contradiction(
                "a session closed before both were done",
            )
            .into()),
        }
    }
}

/// The initiator's part: it does what it can, sends the plan, and goes on talking.
pub(super) fn talk_first(
    mut worker: Worker<'_>,
    line: &mut Line,
    (plan, seals): (&[Message], &mut Seals),
    talking: Talking,
    given: Option<Given>,
) -> Result<Closing, SyncError> {
    // The plan leaves first: the other end has work to do, too.
    seals.send(line, plan)?;
    seals.close(line)?;
    line.flush()?;
    worker.begin()?;
    worker.take_given(given)?;
    let after = worker.talk(line, talking)?;
    worker.go_on(line, after)
}

/// The responder's part: `first` is the message that followed the plan, if it has come.
pub(super) fn listen_first(
    mut worker: Worker<'_>,
    line: &mut Line,
    listening: Listening,
    first: Option<Message>,
) -> Result<Closing, SyncError> {
    // The contents follow the plan at once.
    line.while_working(|| worker.begin())?;
    let after = match first {
        Some(first) => worker.hear(listening, first)?,
        None => After::Listen(listening),
    };
    worker.go_on(line, after)
}

/// What the line could carry in the time of one more round trip.
fn bytes_of_a_round_trip(rates: &Rates) -> u64 {
    let seconds = rates.round_trip.map_or(ROUND_TRIP_USUAL, |time| time.as_secs_f64());
    rates.sending.map_or(ROUND_TRIP_UNKNOWN, |rate| ((rate * 1024) as f64 * seconds) as u64)
}

/// The store, if this end may have to send a file against its old content; else where much is to come or to
/// go, what a thread takes that fills it meanwhile, or finds out block hashes. What is wrong with it is told:
/// here at the end that a person started, else in that one's next run.
fn old_contents<'a>(
    old: &'a mut OldContents,
    ground: (&Root, &Staging),
    index: &mut Index,
    agreement: &Agreement,
    role: Role,
    fills: Fills,
    report: &dyn Report,
) -> Result<(Option<&'a mut Store>, Option<Files>), SyncError> {
    let mut notes = Vec::new();
    let is_read = each_decision(agreement).any(|(stand, decision)| {
        reconcile::may_send(decision, role) && stand.of(role).is_some_and(|row| row.base.is_some())
    });
    let crossing = || {
        let crosses = |(_, decision): &(_, &Decision)| {
            reconcile::may_send(decision, role) || reconcile::may_send(decision, role.other())
        };
        each_decision(agreement).filter(crosses).nth(WORTH_FILLING).is_some()
    };
    let (mut store, mut filling) = (None, None);
    if is_read && old.is_on() {
        store = old.open(index, &mut notes);
    } else if fills != Fills::Never && (old.is_filling() || crossing()) {
        if fills == Fills::Would {
            let largest = old.largest_file();
            return Ok((None, old.is_on().then(|| Files::of_nobody(largest))));
        }
        filling = old.fill_ahead(ground, index, &mut notes);
        filling.iter().for_each(|filling| filling.keep_if(|path| stays(agreement, role, path)));
    }
    tell_of_store(notes, role, index, report)?;
    Ok((store, filling))
}

/// What is wrong with the store is told to the person who is at this end, or to whoever starts the next run.
fn tell_of_store(
    notes: Vec<Problem>,
    role: Role,
    index: &mut Index,
    report: &dyn Report,
) -> Result<(), SyncError> {
    for note in notes {
        match role {
            Role::Initiator => {
                let kind = note.kind.into();
                report.trouble(&Trouble { on: role, path: note.path, kind, text: note.text });
            }
            Role::Responder => index.leave_note(&note.text)?,
        }
    }
    Ok(())
}

/// Where nobody has anything of this root yet, most of its files will be agreed: from now on a thread puts
/// them into the store, until somebody needs it, or finds out their block hashes.
pub(super) fn fill_with_tree(
    site: &mut Site,
    role: Role,
    report: &dyn Report,
) -> Result<(), SyncError> {
    let (free, keep) = site.disk();
    if free < keep || site.index.has_shared()? {
        return Ok(());
    }
    let files = site.index.not_in_store()?;
    if files.len() <= WORTH_FILLING {
        return Ok(());
    }
    let mut notes = Vec::new();
    let Site { old, index, root, staging, .. } = site;
    if let Some(filling) = old.fill_ahead((&*root, &*staging), index, &mut notes) {
        filling.add(files);
    }
    tell_of_store(notes, role, index, report)
}

/// Whether what stands at a path stays there, as far as the plan says.
fn stays(agreement: &Agreement, role: Role, path: &RelPath) -> bool {
    let at = agreement.paths.find(path);
    at.is_none_or(|at| !reconcile::may_send(&agreement.decisions[at], role.other()))
}

fn each_decision(agreement: &Agreement) -> impl Iterator<Item = (&Stand, &Decision)> {
    agreement.paths.iter().zip(&agreement.decisions)
}

/// How much work patches are worth on a line, by what is known of the way from here.
pub(super) fn patch_effort(rates: &Rates) -> Effort {
    match rates.sending {
        Some(rate) if rate < SLOW => Effort::Slow,
        Some(rate) if rate >= FAST => Effort::Fast,
        Some(_) | None => Effort::Usual,
    }
}

/// A failure of the other end: what it says of it goes to a terminal, and into the journal.
fn in_plain_words(failure: Failure) -> Failure {
    Failure { text: plain(&failure.text), ..failure }
}

/// A problem that the other end told.
pub(super) fn remote_trouble(problem: &Problem) -> Trouble {
    Trouble {
        on: Role::Responder,
        path: problem.path.clone(),
        kind: problem.kind.into(),
        text: plain(&problem.text),
    }
}

/// The trouble that a failure is, for a report.
pub(super) fn failure_trouble(on: Role, agreement: &Agreement, failure: &Failure) -> Trouble {
    let stand = usize::try_from(failure.index).ok().and_then(|at| agreement.paths.get(at));
    let kind = match failure.kind {
        FailureKind::Changed => TroubleKind::Changed,
        FailureKind::System | FailureKind::Mismatch | FailureKind::NoBase => TroubleKind::System,
    };
    let path = stand.map(|stand| stand.path().as_bytes().to_vec()).unwrap_or_default();
    Trouble { on, path, kind, text: failure.text.clone() }
}
