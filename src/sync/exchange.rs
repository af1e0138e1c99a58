//! Carrying out a plan, the same for both ends: flights of contents and wants by turns.

use std::collections::{HashMap, HashSet};

use psync_protocol::message::{Done, Failure, FailureKind, Problem, ProblemKind, Want, WantKind};
use psync_protocol::session::{Agreement, Event, Given, Heard, Listening, Next, Talking};
use psync_protocol::{Message, Role};

use super::send::{Means, Out, Sending, Signed};
use super::{OldContents, Site, SyncError};
use crate::apply::{Applier, Keys, RunNames, Tools};
use crate::delta::{Effort, Found};
use crate::index::Index;
use crate::report::{Report, Trouble, TroubleKind};
use crate::store::Store;
use crate::transport::{Line, Rates};

/// What a round trip is worth on a line of which nothing is known, in bytes.
const ROUND_TRIP_UNKNOWN: u64 = 32 << 10;
/// Below this rate of the line, in KiB a second, a byte is worth any work of the processor (about
/// 4 Mbit/s); from the other one on (about 100 Mbit/s), hardly any.
const SLOW: u64 = 500;
const FAST: u64 = 12_000;

/// What both ends said in the end.
#[derive(Debug)]
pub(super) struct Closing {
    pub(super) ours: Done,
    pub(super) theirs: Done,
}

impl Closing {
    pub(super) fn failures(&self) -> impl Iterator<Item = &Failure> {
        self.ours.failures.iter().chain(&self.theirs.failures)
    }
}

/// One end at work.
pub(super) struct Worker<'a> {
    applier: Applier<'a>,
    agreement: &'a Agreement,
    role: Role,
    report: &'a dyn Report,
    store: Option<&'a mut Store>,
    /// Whether this end may send in its next flight what it has not been asked for.
    gives: bool,
    /// What coarse blocks have found of contents of which finer hashes will come.
    found: HashMap<u64, Found>,
    /// Whether it has sent contents in an earlier flight.
    has_sent: bool,
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
        names: RunNames,
        report: &'a dyn Report,
    ) -> Result<Worker<'a>, SyncError> {
        let store = open_store(&mut site.old, &mut site.index, agreement, role, report)?;
        let tools =
            Tools { root: &site.root, staging: &site.staging, index: &mut site.index, report };
        let applier = Applier::new(tools, role, agreement, keys, names);
        Ok(Worker {
            applier,
            agreement,
            role,
            report,
            store,
            gives: role == Role::Initiator,
            found: HashMap::new(),
            has_sent: false,
            wanted: Vec::new(),
            ours: None,
            theirs: None,
        })
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
        line.send(&Message::End)?;
        line.flush()?;
        Ok(match talking.end()? {
            Next::Listen(listening) => After::Listen(listening),
            Next::Closed => After::Closed,
        })
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
        let means = Means {
            out: Out { line, talking },
            store: self.store.as_deref_mut(),
            agreement: self.agreement,
            report: self.report,
            effort,
            found: &mut self.found,
            singly: std::mem::replace(&mut self.has_sent, true),
        };
        let mut sending = Sending::new(means, &mut self.applier);
        sending.wanted(wanted)?;
        if gives {
            sending.given()?;
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
            Event::Literal(bytes) => self.applier.file_literal(&bytes),
            Event::Delta(delta) => self.applier.file_delta(delta),
            Event::FileEnd(hash) => self.applier.file_ends(hash)?,
            Event::Patches(patches) => self.applier.patches_arrive(&patches),
            Event::Proof(proof) => self.applier.proved(proof)?,
            Event::FileFailed(failure) => self.applier.file_failed(failure),
            Event::Done(done) => self.theirs = Some(done),
            Event::Problem(problem) => self.report.trouble(&remote_trouble(&problem)),
        }
        Ok(())
    }

    /// What the responder sent along with its rows, as if it had been asked for.
    fn take_given(&mut self, given: Option<Given>) -> Result<(), SyncError> {
        let Some(Given { mut patches, paths, proof }) = given else { return Ok(()) };
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
        match (self.ours, self.theirs) {
            (Some(ours), Some(theirs)) => Ok(Closing { ours, theirs }),
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
    plan: &[Message],
    talking: Talking,
    given: Option<Given>,
) -> Result<Closing, SyncError> {
    // The plan leaves first: the other end has work to do, too.
    for message in plan {
        line.send(message)?;
    }
    line.flush()?;
    worker.applier.begin()?;
    worker.take_given(given)?;
    let after = worker.talk(line, talking)?;
    worker.go_on(line, after)
}

/// The responder's part: `first` is the message that followed the plan.
pub(super) fn listen_first(
    mut worker: Worker<'_>,
    line: &mut Line,
    listening: Listening,
    first: Message,
) -> Result<Closing, SyncError> {
    worker.applier.begin()?;
    let after = worker.hear(listening, first)?;
    worker.go_on(line, after)
}

/// What the line could carry in the time of one more round trip: a tenth of a second, as the time
/// itself is not measured.
fn bytes_of_a_round_trip(rates: &Rates) -> u64 {
    rates.sending.map_or(ROUND_TRIP_UNKNOWN, |rate| rate * 1024 / 10)
}

/// The store, if this end may have to send a file against its old content. What is wrong with it
/// is told: here at the end that a person started, else in that one's next run.
fn open_store<'a>(
    old: &'a mut OldContents,
    index: &mut Index,
    agreement: &Agreement,
    role: Role,
    report: &dyn Report,
) -> Result<Option<&'a mut Store>, SyncError> {
    let stands = agreement.paths.iter();
    let needed = stands.filter_map(|stand| stand.of(role)).any(|row| row.base.is_some());
    if !needed {
        return Ok(None);
    }
    let mut notes = Vec::new();
    let store = old.open(index, &mut notes);
    for note in notes {
        match role {
            Role::Initiator => {
                let kind = note.kind.into();
                report.trouble(&Trouble { on: role, path: note.path, kind, text: note.text });
            }
            Role::Responder => index.leave_note(&note.text)?,
        }
    }
    Ok(store)
}

/// How much work patches are worth on a line, by what is known of the way from here.
pub(super) fn patch_effort(rates: &Rates) -> Effort {
    match rates.sending {
        Some(rate) if rate < SLOW => Effort::Slow,
        Some(rate) if rate >= FAST => Effort::Fast,
        Some(_) | None => Effort::Usual,
    }
}

/// A problem that the other end told.
pub(super) fn remote_trouble(problem: &Problem) -> Trouble {
    Trouble {
        on: Role::Responder,
        path: problem.path.clone(),
        kind: problem.kind.into(),
        text: problem.text.clone(),
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
