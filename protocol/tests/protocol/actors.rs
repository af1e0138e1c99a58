//! The two applications of the session tests: they say everything that a session can hold.

use psync_protocol::message::{
    Coverage, Demand, Done, Hello, Intent, Mark, Message, Moved, Proof, PropsStep, Statement,
    StreamCodec, Unresolved, Verdict, Want, WantKind, Welcome,
};
use psync_protocol::session::{
    AnswerStep, Answering, AwaitingAnswer, AwaitingHello, AwaitingPlan, AwaitingStatement,
    Deciding, Heard, Listening, Next, Opening, Paths, PlanStep, Stated, StatementStep, Talking,
    Twin,
};
use psync_protocol::{CheckKey, ContentHash, Decision, ProtocolError, Role, Row};

use crate::pair::{Actor, Step};
use crate::samples::{
    self, ALICE, BOB, deleted, directory, failure, file, path, problem, stated, symlink, want,
    want_delta, want_delta_of,
};
use crate::{known, moves, trees};

/// What Bob makes of Alice's first statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It tells of changes, and he has the rows that stand for others.
    Proceed,
    /// He wants it row by row.
    AsksAgain,
    /// It tells of everything, and his tree is the same.
    SameTree,
    /// His tree is another one: he wants to know what differs.
    Differences,
    /// And then he cannot make out what both have.
    DifferencesInVain,
    /// He has nothing.
    Blank,
    /// As the first; but the plan is only rehearsed.
    Rehearsed,
}

impl Manner {
    pub(crate) const ALL: [Manner; 7] = [
        Manner::Proceed,
        Manner::AsksAgain,
        Manner::SameTree,
        Manner::Differences,
        Manner::DifferencesInVain,
        Manner::Blank,
        Manner::Rehearsed,
    ];

    /// Whether Alice tells of everything at once.
    fn is_of_everything(self) -> bool {
        !matches!(self, Manner::Proceed | Manner::AsksAgain | Manner::Rehearsed)
    }
}

fn intent(manner: Manner) -> Intent {
    if manner == Manner::Rehearsed { Intent::Rehearse } else { Intent::CarryOut }
}

/// More flights than any honest session of these actors has.
const FLIGHTS_MAX: usize = 12;

/// What Alice, the initiator, has. One directory she has moved.
pub(crate) fn alices_rows() -> Vec<Row<ContentHash>> {
    let mut rows = vec![
        directory("docs", ALICE),
        file("docs/lost.txt", b"gone before it is sent", ALICE, 3),
        file("docs/new.txt", b"new text", ALICE, 4),
        deleted("gone.txt", b"old text", ALICE, 5),
        symlink("link", b"docs/new.txt", ALICE),
        file("same.txt", b"same", ALICE, 6),
    ];
    rows.extend(moved_rows());
    rows.sort_by(|a, b| a.path.cmp(&b.path));
    rows
}

/// What the moved directory comes to, row by row.
fn moved_rows() -> Vec<Row<ContentHash>> {
    let Moved { from, to, counter, .. } = moves::moved();
    moves::rows_of(&from, &to, counter, ALICE, &moves::pictures())
}

/// What has changed at Alice's since she met Bob, but for the directory.
fn alices_changes() -> Vec<Row<ContentHash>> {
    alices_rows().into_iter().filter(|row| row.path.is_below(&path("docs"))).collect()
}

/// What Bob, the responder, has to say to that.
pub(crate) fn bobs_rows() -> Vec<Row<ContentHash>> {
    vec![file("big.bin", b"changed by Bob", BOB, 9)]
}

/// Alice's row of the path that only Bob stated.
pub(crate) fn extra_row() -> Row<ContentHash> {
    file("big.bin", b"as Alice has it", ALICE, 1)
}

/// What Alice and Bob both have, but for the time.
pub(crate) fn twins() -> Vec<Twin> {
    let row = |replica, nonce: &[u8; 16], secs| {
        let mut row = file("twin.txt", b"the same", replica, 2);
        row.props.mtime.secs = secs;
        row.stated(&CheckKey::new(replica, nonce))
    };
    let initiator = row(ALICE, &samples::hello().nonce, 1_000);
    vec![Twin { initiator, responder: row(BOB, &samples::welcome().nonce, 2_000) }]
}

fn everything(sequence: u64) -> Statement {
    Statement { sequence, live: 5, scope: Some([0x55; 8]), coverage: Coverage::Everything }
}

/// The plan: each path goes where it was not stated. Says where the paths of interest are.
pub(crate) fn decide(paths: &Paths) -> Vec<Decision> {
    let one = |stand: &psync_protocol::session::Stand| match (&stand.initiator, &stand.responder) {
        (Some(_), Some(_)) => Decision::agree(),
        (Some(_), None) => Decision::take(Role::Initiator),
        (None, _) => Decision::take(Role::Responder),
    };
    paths.iter().map(one).collect()
}

fn number(paths: &Paths, name: &str) -> u64 {
    paths.iter().position(|stand| stand.path() == &path(name)).unwrap_or(usize::MAX) as u64
}

/// Carries out a plan, the same for both: gives what is owed, wants what the script says.
struct Exchange {
    flight: usize,
    /// What to want, flight by flight; `Done` follows the last.
    wants: Vec<Vec<Message>>,
    /// The content that cannot be had.
    lost: u64,
    /// The content of which finer hashes are asked for first.
    coarse: u64,
    /// Whether contents are only counted.
    rehearsal: bool,
}

impl Exchange {
    /// A whole flight of this end.
    fn talk(&mut self, mut talking: Talking) -> Result<(Vec<Message>, Next), ProtocolError> {
        if self.flight == FLIGHTS_MAX {
            return Err(ProtocolError::Contradiction("the session leads nowhere"));
        }
        let mut messages = Vec::new();
        let mut counted = Vec::new();
        let owed: Vec<u64> = talking.owed().collect();
        for index in owed {
            if index == self.coarse {
                self.coarse = u64::MAX;
                messages.push(Message::Unresolved(Unresolved { index, ..samples::unresolved() }));
            } else if index == self.lost {
                messages.push(Message::FileFailed(failure(index)));
            } else if self.rehearsal {
                counted.push(index);
            } else {
                messages.extend(content(index));
            }
        }
        match self.wants.get(self.flight) {
            Some(wants) => messages.extend(wants.iter().cloned()),
            None if talking.is_done() => {}
            None => {
                messages.push(Message::Done(Done { sequence: 310, failures: vec![failure(1)] }))
            }
        }
        if self.rehearsal {
            messages.push(Message::Ping(0));
            messages.push(Message::Counted(samples::counted(&counted)));
        }
        self.flight += 1;
        for message in &messages {
            talking.send(message)?;
        }
        let next = talking.end()?;
        messages.push(Message::End);
        Ok((messages, next))
    }
}

/// A content in every form in which one may travel.
fn content(index: u64) -> Vec<Message> {
    vec![
        Message::File(index),
        Message::Literal(b"fresh bytes".to_vec()),
        Message::Ping(0),
        Message::Delta(samples::delta()),
        Message::FileEnd(Some(ContentHash::of_bytes(b"whatever"))),
    ]
}

/// A content that is known to be wanted, in the forms that need no asking.
fn gifts(first: u64, second: u64) -> Vec<Message> {
    vec![
        Message::Patches(samples::patches(&[first])),
        Message::File(second),
        Message::Against(samples::against()),
        Message::Delta(samples::delta()),
        Message::Segment(samples::segment()),
        Message::FileEnd(None),
        Message::Proof(Proof([0x77; 32])),
    ]
}

enum State {
    Opening,
    AwaitingAnswer(AwaitingAnswer),
    AwaitingHello,
    AwaitingStatement(AwaitingStatement),
    AwaitingPlan(AwaitingPlan),
    Listening(Listening),
    Over,
}

/// The initiator.
pub(crate) struct Alice {
    hello: Hello,
    state: State,
    exchange: Option<Exchange>,
    /// How often the responder has asked for more.
    restated: usize,
    manner: Manner,
    /// Leaves after the answer, as where there is nothing to do.
    pub(crate) leaves: bool,
    /// What the plan was made on.
    pub(crate) planned: Option<psync_protocol::session::Agreement>,
}

impl Alice {
    pub(crate) fn new(codec: StreamCodec, manner: Manner) -> Alice {
        Alice {
            manner,
            hello: Hello { codec, intent: intent(manner), ..samples::hello() },
            state: State::Opening,
            exchange: None,
            restated: 0,
            leaves: false,
            planned: None,
        }
    }

    fn decide(&mut self, mut deciding: Deciding) -> Result<Step, ProtocolError> {
        let asked_for_more = matches!(deciding.answer.welcome.verdict, Verdict::Restate { .. });
        let blank = deciding.answer.demand == Some(Demand::Blank);
        let times = if self.manner == Manner::DifferencesInVain { 2 } else { 1 };
        if asked_for_more && self.restated < times && !blank {
            self.restated += 1;
            let rows = stated(&alices_rows(), deciding.key());
            let (messages, state) = match deciding.answer.demand {
                Some(Demand::Differences(_)) => {
                    let steps = vec![PropsStep::default(); twins().len()];
                    let common = trees::common();
                    deciding.restate_differences(everything(310), rows, common, &steps, twins())
                }
                _ => deciding.restate(everything(310), rows),
            };
            self.state = State::AwaitingAnswer(state);
            return Ok(Step::Say(messages));
        }
        if self.leaves {
            self.state = State::Over;
            return Ok(Step::Close(Vec::new()));
        }
        let mut before = Vec::new();
        if blank {
            let rows = stated(&alices_rows(), deciding.key());
            (before, deciding) = deciding.restate_to_blank(everything(310), rows)?;
        }
        let mut extra = stated(&[extra_row()], deciding.key());
        if blank {
            extra.clear();
        }
        let paths = deciding.paths()?;
        let decisions = decide(&paths);
        let big = number(&paths, "big.bin");
        let given = [number(&paths, "docs/lost.txt"), number(&paths, "docs/new.txt")];
        let rehearsal = self.manner == Manner::Rehearsed;
        let gifts = match rehearsal {
            true => vec![Message::Counted(samples::counted(&given))],
            false => gifts(given[0], given[1]),
        };
        let (mut messages, agreement, talking) = deciding.plan(paths, decisions, 311, extra)?;
        let signature = [vec![1; 30], vec![2; 18]].map(Message::Signature);
        let mut wants = gifts;
        if !blank {
            wants.push(Message::Want(want_delta(big, 48)));
            wants.extend(signature);
        }
        let lost = number(&agreement.paths, "docs/lost.txt");
        self.planned = Some(agreement);
        let finer = Want { index: big, kind: WantKind::Fine(want_delta_of(1)) };
        let mut wants = vec![wants];
        if !blank {
            wants.push(vec![Message::Want(finer), Message::Signature(vec![3])]);
        }
        self.exchange = Some(Exchange { flight: 0, wants, lost, coarse: u64::MAX, rehearsal });
        let Step::Say(flight) = self.talk(talking)? else { return Ok(Step::Wait) };
        messages.extend(flight);
        before.extend(messages);
        Ok(Step::Say(before))
    }

    fn talk(&mut self, talking: Talking) -> Result<Step, ProtocolError> {
        talk(&mut self.state, self.exchange.as_mut().unwrap(), talking)
    }
}

fn talk(
    state: &mut State,
    exchange: &mut Exchange,
    talking: Talking,
) -> Result<Step, ProtocolError> {
    match exchange.talk(talking)? {
        (messages, Next::Listen(listening)) => {
            *state = State::Listening(listening);
            Ok(Step::Say(messages))
        }
        (messages, Next::Closed) => Ok(Step::Close(messages)),
    }
}

impl Actor for Alice {
    fn open(&mut self) -> Vec<Message> {
        let stating = Opening::new(&self.hello).greeted();
        let told = stated(&alices_changes(), stating.key());
        let mut rows = [told.clone(), stated(&moved_rows(), stating.key())].concat();
        rows.sort_by(|a, b| a.path.cmp(&b.path));
        let moved = vec![moves::moved()];
        let (messages, state) = if self.manner.is_of_everything() {
            let rows = stated(&alices_rows(), stating.key());
            stating.state_tree(everything(300), rows, &told, trees::tree())
        } else {
            let (altered, plain) = known::by_number(&told);
            stating.state_altered(samples::statement(), rows, &plain, moved, altered)
        };
        self.state = State::AwaitingAnswer(state);
        std::iter::once(Message::Hello(self.hello.clone())).chain(messages).collect()
    }

    fn hear(&mut self, message: Message) -> Result<Step, ProtocolError> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::AwaitingAnswer(state) => match state.receive(message)? {
                AnswerStep::More(state) | AnswerStep::Problem(state, _) => {
                    self.state = State::AwaitingAnswer(state);
                    Ok(Step::Wait)
                }
                AnswerStep::Turn(deciding) => self.decide(deciding),
            },
            State::Listening(state) => match state.receive(message)? {
                Heard::More(state, _) => {
                    self.state = State::Listening(state);
                    Ok(Step::Wait)
                }
                Heard::Turn(talking) => self.talk(talking),
                Heard::Closed => Ok(Step::Close(Vec::new())),
            },
            _ => unreachable!("nothing is heard in these states"),
        }
    }

    fn lost(&self, _: bool) -> Result<(), ProtocolError> {
        Err(ProtocolError::Ended("as initiator"))
    }
}

/// The responder.
pub(crate) struct Bob {
    codec: StreamCodec,
    state: State,
    exchange: Option<Exchange>,
    manner: Manner,
    /// What it was told of the plan.
    pub(crate) planned: Option<psync_protocol::session::Agreement>,
}

impl Bob {
    pub(crate) fn new(codec: StreamCodec, manner: Manner) -> Bob {
        Bob { codec, state: State::AwaitingHello, exchange: None, manner, planned: None }
    }

    fn answer_first(&mut self, mut answering: Answering, heard: Stated) -> Step {
        let (heard, manners) = known::from_numbers(heard);
        answering.altered(manners);
        let unfolded = match self.manner {
            Manner::Proceed | Manner::Rehearsed => moves::unfold(heard),
            Manner::SameTree => {
                let alice = Opening::new(&samples::hello()).greeted();
                Some(stated(&alices_rows(), alice.key()))
            }
            _ => None,
        };
        let verdict = match &unfolded {
            Some(_) => Verdict::Proceed { first_contact: false },
            None => Verdict::Restate { since: 0, first_contact: true },
        };
        let welcome = Welcome { codec: self.codec, verdict, ..samples::welcome() };
        let mut messages = vec![answering.welcome(welcome)];
        match unfolded {
            Some(rows) => {
                let Ok(Step::Say(answer)) = self.answer(answering, rows, Vec::new()) else {
                    return Step::Wait;
                };
                messages.extend(answer);
            }
            None => {
                let said = (vec![problem()], samples::statement());
                let demand = match self.manner {
                    Manner::Blank => Some(Demand::Blank),
                    Manner::Differences | Manner::DifferencesInVain => {
                        Some(Demand::Differences(trees::summary()))
                    }
                    _ => None,
                };
                let (answer, state) = match demand {
                    Some(demand) => answering.demand(said.0, said.1, demand),
                    None => {
                        answering.answer(Vec::new(), said.0, said.1, Vec::new(), Vec::new(), None)
                    }
                };
                messages.extend(answer);
                self.state = State::AwaitingPlan(state);
            }
        }
        Step::Say(messages)
    }

    fn answer_again(&mut self, answering: Answering, heard: Stated) -> Result<Step, ProtocolError> {
        if heard.shared.is_some() && self.manner == Manner::DifferencesInVain {
            let statement = everything(400);
            let (messages, state) = answering.demand(Vec::new(), statement, Demand::Everything);
            self.state = State::AwaitingPlan(state);
            return Ok(Step::Say(messages));
        }
        let twins = if heard.shared.is_some() { twins() } else { Vec::new() };
        self.answer(answering, heard.rows, twins)
    }

    fn answer(
        &mut self,
        answering: Answering,
        rows: Vec<Row<psync_protocol::Check>>,
        twins: Vec<Twin>,
    ) -> Result<Step, ProtocolError> {
        let key = CheckKey::new(BOB, &samples::welcome().nonce);
        let version = samples::version(&[(BOB, 2)]);
        let mut marks = vec![Mark::Behind; rows.len()];
        if let Some(last) = marks.last_mut() {
            *last = Mark::Same { content: version.clone(), props: version };
        }
        let mut ours = bobs_rows();
        if !twins.is_empty() {
            ours.push(file("same.txt", b"not the same at Bob's", BOB, 2));
        }
        let ours = stated(&ours, &key);
        let (messages, state) = if twins.is_empty() {
            let given = (samples::patches(&[0]), Proof([0x77; 32]));
            answering.answer(rows, Vec::new(), everything(400), marks, ours, Some(given))
        } else {
            answering.answer_differences(rows, everything(400), marks, ours, twins, true)?
        };
        self.state = State::AwaitingPlan(state);
        Ok(Step::Say(messages))
    }

    fn listen(&mut self, listening: Listening, message: Message) -> Result<Step, ProtocolError> {
        match listening.receive(message)? {
            Heard::More(state, _) => {
                self.state = State::Listening(state);
                Ok(Step::Wait)
            }
            Heard::Turn(talking) => talk(&mut self.state, self.exchange.as_mut().unwrap(), talking),
            Heard::Closed => Ok(Step::Close(Vec::new())),
        }
    }
}

impl Actor for Bob {
    fn open(&mut self) -> Vec<Message> {
        Vec::new()
    }

    fn hear(&mut self, message: Message) -> Result<Step, ProtocolError> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::AwaitingHello => {
                let (_, state) = AwaitingHello.receive(message)?;
                self.state = State::AwaitingStatement(state.answered_by(BOB));
                Ok(Step::Wait)
            }
            State::AwaitingStatement(state) => match state.receive(message)? {
                StatementStep::More(state) => {
                    self.state = State::AwaitingStatement(state);
                    Ok(Step::Wait)
                }
                StatementStep::Turn(heard, answering) => Ok(self.answer_first(answering, heard)),
            },
            State::AwaitingPlan(state) => match state.receive(message)? {
                PlanStep::More(state) => {
                    self.state = State::AwaitingPlan(state);
                    Ok(Step::Wait)
                }
                PlanStep::Restated(stated, answering) => self.answer_again(answering, stated),
                PlanStep::Planned(planned, message) => {
                    let paths = &planned.agreement.paths;
                    let new = Message::Want(want(number(paths, "docs/new.txt")));
                    let lost = Message::Want(want(number(paths, "docs/lost.txt")));
                    // The first content of `new.txt` does not pass its check: it is wanted again.
                    let wants = vec![vec![lost, new.clone()], vec![new]];
                    let coarse = number(paths, "big.bin");
                    let (lost, rehearsal) = (u64::MAX, self.manner == Manner::Rehearsed);
                    self.exchange = Some(Exchange { flight: 0, wants, lost, coarse, rehearsal });
                    self.planned = Some(planned.agreement);
                    self.listen(planned.listening, message)
                }
            },
            State::Listening(state) => self.listen(state, message),
            _ => unreachable!("nothing is heard in these states"),
        }
    }

    fn lost(&self, between_messages: bool) -> Result<(), ProtocolError> {
        match &self.state {
            State::AwaitingPlan(state) if state.may_end() && between_messages => Ok(()),
            _ => Err(ProtocolError::Ended("as responder")),
        }
    }
}
