//! Initiators that attack a server.

mod contents;
mod extremes;
mod links;
mod order;
mod plans;
mod rows;
mod wants;

use psync_protocol::codec::{NUMBER_MAX, Put};
use psync_protocol::message::{
    Against, Base, Counted, Coverage, DeltaOp, DeltaPiece, Done, Failure, FailureKind, Filter,
    Flow, Hello, Intent, Patched, Patches, Plan, Proof, Segment, Statement, StreamCodec, Want,
    WantDelta, WantKind, Welcome,
};
use psync_protocol::{
    Check, Content, ContentDecision, ContentHash, Decision, ErrorCode, Message, Props,
    PropsDecision, Role, Row, Time, Version, manifest,
};

use crate::common::tree::snapshot;
use crate::common::{read_text, write_file};
use crate::ground::{Expect, Ground, SECRET};
use crate::mask::{Mask, SPELLED_OUT, path_of};
use crate::voice::Voice;
use Expect::{Nothing, Refused, Told};

const PROTOCOL: ErrorCode = ErrorCode::Protocol;

/// An initiator in somebody's name.
pub(crate) struct Guise<'v> {
    pub(crate) mask: Mask,
    pub(crate) voice: &'v mut Voice,
    pub(crate) hello: Hello,
    /// The last answer.
    pub(crate) answer: Vec<Message>,
}

impl<'v> Guise<'v> {
    pub(crate) fn new(mask: Mask, voice: &'v mut Voice) -> Guise<'v> {
        let hello = mask.hello();
        Guise { mask, voice, hello, answer: Vec::new() }
    }

    pub(crate) fn greet(&mut self) {
        self.voice.greet_as(&self.mask, &Message::Hello(self.hello.clone()));
    }

    /// States rows, and hears the answer.
    pub(crate) fn state(&mut self, rows: &[Row<Check>]) {
        let statement = self.mask.statement();
        self.state_as(statement, rows);
    }

    fn state_as(&mut self, statement: Statement, rows: &[Row<Check>]) {
        self.greet();
        let mut rows = rows.to_vec();
        rows.sort_by(|a, b| a.path.cmp(&b.path));
        self.voice.say(&Message::Statement(statement));
        for batch in manifest::encode(&rows) {
            self.voice.frame(4, &batch);
        }
        self.voice.say(&Message::End);
        self.answer = self.voice.flight();
    }

    pub(crate) fn plan(&mut self, decisions: &[Decision]) {
        let counter = self.mask.clock + 2000;
        self.voice.say(&Message::Plan(Plan::new(counter, 0, decisions)));
    }

    /// States rows, and decides that all of them are taken.
    pub(crate) fn impose(&mut self, rows: &[Row<Check>]) {
        self.state(rows);
        self.plan(&vec![Decision::take(Role::Initiator); rows.len()]);
    }

    pub(crate) fn content(&mut self, index: u64, content: &[u8]) {
        self.voice.say(&Message::File(index));
        for piece in content.chunks(512 << 10) {
            self.voice.say(&Message::Literal(piece.to_vec()));
        }
        let hash = ContentHash::of_bytes(content);
        self.voice.say(&Message::FileEnd(Some(hash)));
    }

    /// Asks for a content, and hears what comes.
    pub(crate) fn want(&mut self, index: u64, kind: WantKind) -> Vec<Message> {
        self.voice.say(&Message::Want(Want { index, kind }));
        self.voice.say(&Message::End);
        self.voice.flight()
    }

    fn done(&mut self) {
        let sequence = self.mask.sequence + 200;
        self.voice.say(&Message::Done(Done { sequence, failures: Vec::new() }));
    }

    /// Is done, and gives nothing more of what is asked for.
    pub(crate) fn finish(&mut self) {
        self.done();
        self.voice.say(&Message::End);
        for _ in 0..10 {
            let flight = self.voice.flight();
            let wants: Vec<u64> = flight
                .iter()
                .filter_map(|message| match message {
                    Message::Want(want) => Some(want.index),
                    _ => None,
                })
                .collect();
            if wants.is_empty() {
                return;
            }
            for index in wants {
                let (kind, text) = (FailureKind::System, "not for you".to_string());
                self.voice.say(&Message::FileFailed(Failure { index, kind, text }));
            }
            self.voice.say(&Message::End);
        }
    }

    /// The rows of a batch by hand: what comes before the paths, and then the rest.
    fn batch(&mut self, payload: &[u8]) {
        self.greet();
        self.voice.say(&Message::Statement(self.mask.statement()));
        self.voice.frame(4, payload);
        self.voice.say(&Message::End);
    }
}

/// One peer that means harm.
struct Attack {
    name: &'static str,
    expect: Expect,
    does: fn(&mut Guise),
}

const fn attack(name: &'static str, expect: Expect, does: fn(&mut Guise)) -> Attack {
    Attack { name, expect, does }
}

/// Each against one tree that nobody may change by it.
#[track_caller]
fn all_are_refused(attacks: &[Attack]) {
    let mut ground = Ground::new();
    let mut faults = Vec::new();
    for Attack { name, expect, does } in attacks {
        let (mask, before) = (ground.as_near(), snapshot(&ground.far));
        let ended = ground.server(&[], |voice| does(&mut Guise::new(mask.clone(), voice)));
        let after = snapshot(&ground.far);
        faults
            .extend(ended.wrong(*expect, &before, &after).map(|wrong| format!("{name}: {wrong}")));
        if ended.code == Some(0) {
            // What was agreed is known now: the next one starts from the beginning.
            ground = Ground::new();
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
    // It serves honest people as before.
    ground.agree();
}

/// Each against a tree of its own, which it may change.
#[track_caller]
fn each_is_met(attacks: &[Attack]) {
    let mut faults = Vec::new();
    for Attack { name, expect, does } in attacks {
        let ground = Ground::new();
        let mask = ground.as_near();
        let before = snapshot(&ground.far);
        let ended = ground.server(&[], |voice| does(&mut Guise::new(mask.clone(), voice)));
        let wrong = ended.wrong(*expect, &before, &snapshot(&ground.far));
        faults.extend(wrong.map(|wrong| format!("{name}: {wrong}")));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

fn take() -> Decision {
    Decision::take(Role::Initiator)
}

fn of(content: ContentDecision) -> Decision {
    Decision { content, ..Decision::agree() }
}

fn keep_both(clash: &str) -> Decision {
    of(ContentDecision::KeepBoth { winner: Role::Initiator, clash: path_of(clash) })
}

fn one_edit(peer: &mut Guise) {
    let row = peer.mask.edit("a.txt", b"another");
    peer.state(&[row]);
}
