//! The responder's states, up to the plan.

use std::collections::BTreeSet;

use super::{Agreement, Listening, Manners, Paths, Rows, broken, refuse};
use crate::changes::{self, Altered, ChangesReader};
use crate::decision::{Decision, Planner};
use crate::entry::{Check, CheckKey, Row};
use crate::error::{DecodeError, ProtocolError};
use crate::manifest;
use crate::message::{
    Coverage, Hello, MOVED_MAX, Mark, Message, Moved, Patches, Plan, Problem, Proof,
    STATEMENT_EXCEPTION_BYTES, Statement, Verdict, Welcome, mark_parts,
};
use crate::{RelPath, Role, VERSION_MAX, VERSION_MIN};

/// Before the first message.
#[derive(Debug, Default)]
pub struct AwaitingHello;

impl AwaitingHello {
    /// Takes the greeting. Any version range that meets ours will do.
    pub fn receive(self, message: Message) -> Result<(Hello, AwaitingStatement), ProtocolError> {
        let Message::Hello(hello) = message else {
            return Err(refuse(message, "waiting for a greeting", "Hello"));
        };
        if hello.version_min > VERSION_MAX || hello.version_max < VERSION_MIN {
            return Err(ProtocolError::Incompatible {
                ours_min: VERSION_MIN,
                ours_max: VERSION_MAX,
                theirs_min: hello.version_min,
                theirs_max: hello.version_max,
            });
        }
        let key = CheckKey::new(hello.replica, &hello.nonce);
        let common = Common { replica: hello.replica, key };
        let (statement, moves) = (None, Moves::default());
        let altered = None;
        Ok((hello, AwaitingStatement { common, greeted: false, statement, moves, altered }))
    }
}

/// The newest version that both know. The ranges must meet.
pub fn common_version(hello: &Hello) -> u64 {
    hello.version_max.min(VERSION_MAX)
}

#[derive(Debug, Clone)]
struct Common {
    replica: crate::ReplicaId,
    key: CheckKey,
}

/// The initiator states its rows.
#[derive(Debug)]
pub struct AwaitingStatement {
    common: Common,
    greeted: bool,
    statement: Option<(Statement, Rows)>,
    moves: Moves,
    altered: Option<ChangesReader>,
}

/// The moved directories of one statement. Whoever has their rows makes as many of them as its own
/// directories hold: so no directory may be named twice, nor one within another.
#[derive(Debug, Default)]
struct Moves {
    moved: Vec<Moved>,
    from: BTreeSet<RelPath>,
    /// Bytes of all exceptions.
    exceptions: usize,
}

impl Moves {
    fn add(&mut self, moved: Moved) -> Result<(), ProtocolError> {
        let too_large = |what, value: usize, limit: usize| {
            let (value, limit) = (value as u64, limit as u64);
            Err(broken("Moved")(DecodeError::TooLarge { what, value, limit }))
        };
        if self.moved.len() == MOVED_MAX {
            return too_large("the count of moved directories", MOVED_MAX + 1, MOVED_MAX);
        }
        self.exceptions += moved.exception_bytes();
        if self.exceptions > STATEMENT_EXCEPTION_BYTES {
            let what = "the length of all exceptions of a statement";
            return too_large(what, self.exceptions, STATEMENT_EXCEPTION_BYTES);
        }
        if self.from.last().is_some_and(|last| *last >= moved.from) {
            return Err(ProtocolError::Contradiction("moved directories are not in order"));
        }
        if moved.from.ancestors().any(|above| self.from.contains(&above)) {
            return Err(ProtocolError::Contradiction("a moved directory lies in another"));
        }
        self.from.insert(moved.from.clone());
        self.moved.push(moved);
        Ok(())
    }
}

/// What a message of the statement led to.
#[derive(Debug)]
pub enum StatementStep {
    /// More is to come.
    More(AwaitingStatement),
    /// The statement is complete.
    Turn(Stated, Answering),
}

/// A complete statement.
#[derive(Debug)]
pub struct Stated {
    /// What the rows cover.
    pub statement: Statement,
    /// The rows that were stated one by one.
    pub rows: Vec<Row<Check>>,
    /// Directories that were moved whole; what they stand for is known to whoever has the rows.
    pub moved: Vec<Moved>,
    /// Changes of entries that both ends know; what they mean is known to whoever has them.
    pub altered: Option<Altered>,
}

impl AwaitingStatement {
    /// The key under which the initiator states its rows.
    pub fn their_key(&self) -> &CheckKey {
        &self.common.key
    }

    /// Takes the next message.
    pub fn receive(mut self, message: Message) -> Result<StatementStep, ProtocolError> {
        match (message, self.statement.take()) {
            (Message::Ping(_), statement) => self.statement = statement,
            (Message::Statement(statement), None) => {
                self.statement = Some((statement, Rows::new(self.common.key.clone())));
            }
            (Message::Rows(payload), Some((statement, mut rows)))
                if self.moves.moved.is_empty() && self.altered.is_none() =>
            {
                rows.take(&payload)?;
                self.statement = Some((statement, rows));
            }
            (Message::Moved(moved), Some((statement, rows)))
                if statement.coverage != Coverage::Everything && self.altered.is_none() =>
            {
                self.moves.add(moved)?;
                self.statement = Some((statement, rows));
            }
            (Message::Known(known), Some((statement, rows)))
                if statement.coverage != Coverage::Everything && self.altered.is_none() =>
            {
                self.altered = Some(ChangesReader::new(known));
                self.statement = Some((statement, rows));
            }
            (Message::Changes(payload), Some(statement)) if self.altered.is_some() => {
                if let Some(altered) = &mut self.altered {
                    altered.batch(&payload).map_err(broken("Changes"))?;
                }
                self.statement = Some(statement);
            }
            (Message::End, Some((statement, rows))) => {
                let (moved, altered) = (self.moves.moved, self.altered.map(ChangesReader::finish));
                let stated = Stated { statement, rows: rows.finish()?, moved, altered };
                let answering = Answering {
                    common: self.common,
                    greeted: self.greeted,
                    demands_rows: false,
                    manners: Manners::default(),
                    numbered: None,
                };
                return Ok(StatementStep::Turn(stated, answering));
            }
            (other, _) => {
                return Err(refuse(
                    other,
                    "waiting for a statement",
                    "Statement, Rows, Moved, Known, Changes (for changes), End in this order",
                ));
            }
        }
        Ok(StatementStep::More(self))
    }
}

/// The statement is complete: this end answers.
#[derive(Debug)]
pub struct Answering {
    common: Common,
    greeted: bool,
    demands_rows: bool,
    manners: Manners,
    numbered: Option<(Vec<Row<Check>>, Altered, Manners)>,
}

impl Answering {
    /// Some rows were stated by number: marks and decisions travel in another order.
    pub fn altered(&mut self, manners: Manners) {
        self.manners = manners;
    }

    /// Of the rows of the answer only these are `told` one by one, the others by number; `manners`
    /// says the same by path. Contents do not go along with such an answer.
    pub fn number(&mut self, told: Vec<Row<Check>>, altered: Altered, manners: Manners) {
        self.numbered = Some((told, altered, manners));
    }

    /// Whether the greeting has been sent in an earlier answer.
    pub fn has_greeted(&self) -> bool {
        self.greeted
    }

    /// The first half of an answer: problems found by the scan, then what this end states. `rows`
    /// are the initiator's, kept for the plan; `given` are contents of some of the own rows, with
    /// what proves them, sent along because they will most likely be wanted.
    pub fn answer(
        self,
        stated: Vec<Row<Check>>,
        problems: Vec<Problem>,
        statement: Statement,
        marks: Vec<Mark>,
        rows: Vec<Row<Check>>,
        given: Option<(Patches, Proof)>,
    ) -> (Vec<Message>, AwaitingPlan) {
        let mut messages: Vec<Message> = problems.into_iter().map(Message::Problem).collect();
        messages.push(Message::Statement(statement));
        if !stated.is_empty() {
            let travelling = self.manners.of_rows(&stated).arrange(&marks);
            let parts = mark_parts(&travelling).into_iter();
            messages.extend(parts.map(|part| Message::Marks(part.to_vec())));
        }
        let told = self.numbered.as_ref().map_or(&rows, |(told, ..)| told);
        messages.extend(manifest::encode(told).into_iter().map(Message::Rows));
        let mut numbers = Manners::default();
        if let Some((_, altered, manners)) = self.numbered {
            messages.push(Message::Known(altered.known));
            messages.extend(changes::encode(&altered.changes).into_iter().map(Message::Changes));
            numbers = manners;
        } else if let Some((patches, proof)) = given {
            messages.extend([Message::Patches(patches), Message::Proof(proof)]);
        }
        messages.push(Message::End);
        (
            messages,
            AwaitingPlan {
                common: self.common,
                theirs: stated,
                marks,
                ours: rows,
                demands_rows: self.demands_rows,
                manners: self.manners,
                numbers,
                restated: None,
                plan: None,
            },
        )
    }

    /// The first message of the first answer.
    pub fn welcome(&mut self, welcome: Welcome) -> Message {
        self.greeted = true;
        self.demands_rows = matches!(welcome.verdict, Verdict::Restate { .. });
        Message::Welcome(welcome)
    }
}

/// The answer is out: the initiator plans, states its rows anew, or leaves.
#[derive(Debug)]
pub struct AwaitingPlan {
    common: Common,
    theirs: Vec<Row<Check>>,
    marks: Vec<Mark>,
    ours: Vec<Row<Check>>,
    /// A plan on what has been stated so far is not taken.
    demands_rows: bool,
    manners: Manners,
    /// The same of the rows that this end stated.
    numbers: Manners,
    restated: Option<(Statement, Rows)>,
    plan: Option<Planning>,
}

/// A plan of which not all may have come yet.
#[derive(Debug)]
struct Planning {
    counter: u64,
    extra_rows: u64,
    paths: Paths,
    decisions: Vec<Decision>,
    extra: Rows,
}

impl Planning {
    fn add(&mut self, plan: &Plan) -> Result<(), ProtocolError> {
        if (plan.counter, plan.extra_rows) != (self.counter, self.extra_rows) {
            return Err(ProtocolError::Contradiction("the parts of a plan differ"));
        }
        let missing = self.paths.len() - self.decisions.len();
        let part = plan.part(missing, self.paths.len()).map_err(broken("Plan"))?;
        self.decisions.extend(part);
        Ok(())
    }

    fn add_rows(&mut self, payload: &[u8]) -> Result<(), ProtocolError> {
        self.extra.take(payload)?;
        if self.extra.len() as u64 > self.extra_rows {
            return Err(ProtocolError::Contradiction("there are more extra rows than announced"));
        }
        Ok(())
    }

    fn is_decided(&self) -> bool {
        self.decisions.len() == self.paths.len()
    }

    fn is_complete(&self) -> bool {
        self.is_decided() && self.extra.len() as u64 == self.extra_rows
    }

    fn complete(
        mut self,
        common: &Common,
        (ours, theirs): (&Manners, &Manners),
    ) -> Result<Planned, ProtocolError> {
        let order = theirs.of_paths(ours, &self.paths);
        self.paths.add_extra(self.extra.finish()?)?;
        let planner = Planner { replica: common.replica, counter: self.counter };
        let listening = Listening::first(Role::Responder, self.paths.len());
        let Planning { paths, decisions, .. } = self;
        let decisions = order.restore(decisions);
        Ok(Planned { agreement: Agreement { paths, decisions, planner }, listening })
    }
}

/// What a message led to.
#[derive(Debug)]
pub enum PlanStep {
    /// More is to come.
    More(AwaitingPlan),
    /// The initiator stated its rows anew and waits for an answer.
    Restated(Stated, Answering),
    /// The plan is complete. The message that completed it belongs to the exchange and has to be
    /// given to [`Planned::listening`].
    Planned(Planned, Message),
}

/// A complete plan.
#[derive(Debug)]
pub struct Planned {
    /// What both ends know now.
    pub agreement: Agreement,
    /// The initiator goes on talking.
    pub listening: Listening,
}

impl AwaitingPlan {
    /// Whether the initiator may leave here, because there is nothing to be done: it has sent nothing
    /// since the answer. A line that breaks just here looks the same, so an end that is left must not
    /// take anything it stated for processed.
    pub fn may_end(&self) -> bool {
        !self.demands_rows && self.restated.is_none() && self.plan.is_none()
    }

    /// Takes the next message.
    pub fn receive(mut self, message: Message) -> Result<PlanStep, ProtocolError> {
        match (message, &mut self.restated, &mut self.plan) {
            (Message::Ping(_), ..) => {}
            (Message::Statement(statement), None, None) => {
                self.restated = Some((statement, Rows::new(self.common.key.clone())));
            }
            (Message::Rows(payload), Some((_, rows)), None) => rows.take(&payload)?,
            (Message::End, Some(_), None) => {
                let (statement, rows) = self.restated.take().expect("matched just now");
                let stated =
                    Stated { statement, rows: rows.finish()?, moved: Vec::new(), altered: None };
                let answering = Answering {
                    common: self.common,
                    greeted: true,
                    demands_rows: false,
                    manners: Manners::default(),
                    numbered: None,
                };
                return Ok(PlanStep::Restated(stated, answering));
            }
            (Message::Plan(plan), None, None) if !self.demands_rows => {
                let mut planning = Planning {
                    counter: plan.counter,
                    extra_rows: plan.extra_rows,
                    paths: Paths::join(
                        std::mem::take(&mut self.theirs),
                        &self.marks,
                        std::mem::take(&mut self.ours),
                    ),
                    decisions: Vec::new(),
                    extra: Rows::new(self.common.key.clone()),
                };
                planning.add(&plan)?;
                self.plan = Some(planning);
            }
            (Message::Plan(plan), _, Some(planning)) if !planning.is_decided() => {
                planning.add(&plan)?;
            }
            (Message::Rows(payload), _, Some(planning))
                if planning.is_decided() && !planning.is_complete() =>
            {
                planning.add_rows(&payload)?;
            }
            (message, _, plan) if plan.as_ref().is_some_and(Planning::is_complete) => {
                let planning = self.plan.take().expect("matched just now");
                return Ok(PlanStep::Planned(
                    planning.complete(&self.common, (&self.numbers, &self.manners))?,
                    message,
                ));
            }
            (other, ..) => {
                return Err(refuse(
                    other,
                    "waiting for a plan",
                    "Statement, Plan, and the Rows of either",
                ));
            }
        }
        Ok(PlanStep::More(self))
    }
}
