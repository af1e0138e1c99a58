//! The responder's states, up to the plan.

use std::collections::BTreeSet;

use super::{
    Agreement, Listening, Manifests, Manners, Paths, Rows, Steps, Twin, blank_marks, broken,
    counterparts, refuse,
};
use crate::changes::{self, Altered, ChangesReader};
use crate::decision::{Decision, Planner};
use crate::entry::{Check, CheckKey, Row};
use crate::error::{DecodeError, ProtocolError};
use crate::manifest::{self, Parties};
use crate::message::{
    COUNTERPARTS_MAX, Common, Counterparts, Coverage, Demand, Hello, Intent, MOVED_MAX, Mark,
    Message, Moved, Patches, Plan, Problem, Proof, PropsStep, STATEMENT_EXCEPTION_BYTES, Statement,
    Tree, Verdict, Welcome, mark_parts,
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
        let common = Ends { replica: hello.replica, me: None, key, intent: hello.intent };
        let awaiting = AwaitingStatement {
            common,
            greeted: false,
            statement: None,
            moves: Moves::default(),
            altered: None,
            tree: None,
            sealed: false,
        };
        Ok((hello, awaiting))
    }
}

/// The newest version that both know. The ranges must meet.
pub fn common_version(hello: &Hello) -> u64 {
    hello.version_max.min(VERSION_MAX)
}

#[derive(Debug, Clone)]
struct Ends {
    replica: crate::ReplicaId,
    me: Option<crate::ReplicaId>,
    key: CheckKey,
    intent: Intent,
}

impl Ends {
    fn parties(&self) -> Parties {
        Parties { initiator: Some(self.replica), responder: self.me }
    }

    fn rows(&self) -> Rows {
        Rows::new(self.key.clone(), self.parties())
    }
}

/// The initiator states its rows.
#[derive(Debug)]
pub struct AwaitingStatement {
    common: Ends,
    greeted: bool,
    statement: Option<(Statement, Rows)>,
    moves: Moves,
    altered: Option<ChangesReader>,
    tree: Option<Tree>,
    sealed: bool,
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
    /// What stands for all rows that were not stated.
    pub tree: Option<Tree>,
    /// What both ends have, in a statement of differences.
    pub shared: Option<Shared>,
}

/// What both ends have: known to whoever has the rows.
#[derive(Debug)]
pub struct Shared {
    /// Which runs.
    pub common: Common,
    /// The properties of their entries at the initiator.
    pub props: Vec<PropsStep>,
}

impl AwaitingStatement {
    /// Who this end is.
    pub fn answered_by(mut self, replica: crate::ReplicaId) -> AwaitingStatement {
        self.common.me = Some(replica);
        self
    }

    /// The key under which the initiator states its rows.
    pub fn their_key(&self) -> &CheckKey {
        &self.common.key
    }

    /// Takes the next message.
    pub fn receive(mut self, message: Message) -> Result<StatementStep, ProtocolError> {
        if self.sealed && !matches!(message, Message::Ping(_) | Message::End) {
            return Err(refuse(message, "after a statement", "End"));
        }
        match (message, self.statement.take()) {
            (Message::Ping(_), statement) => self.statement = statement,
            (Message::Statement(statement), None) => {
                self.statement = Some((statement, self.common.rows()));
            }
            (Message::Rows(payload), Some((statement, mut rows)))
                if self.moves.moved.is_empty() && self.altered.is_none() && self.tree.is_none() =>
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
            (Message::Tree(tree), Some((statement, rows)))
                if statement.coverage == Coverage::Everything && self.tree.is_none() =>
            {
                self.tree = Some(tree);
                self.statement = Some((statement, rows));
            }
            (Message::Seal(_), Some(statement)) => {
                self.sealed = true;
                self.statement = Some(statement);
            }
            (Message::End, Some((statement, rows))) if self.sealed => {
                let stated = Stated {
                    statement,
                    rows: rows.finish()?,
                    moved: self.moves.moved,
                    altered: self.altered.map(ChangesReader::finish),
                    tree: self.tree,
                    shared: None,
                };
                let answering = Answering::new(self.common, self.greeted);
                return Ok(StatementStep::Turn(stated, answering));
            }
            (other, _) => {
                return Err(refuse(
                    other,
                    "waiting for a statement",
                    "Statement, Rows, Moved, Known, Changes (for changes) or Tree (for everything), \
                     Seal, End in this order",
                ));
            }
        }
        Ok(StatementStep::More(self))
    }
}

/// What the initiator has to state before a plan is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owed {
    /// Nothing.
    Nothing,
    /// Rows, one by one.
    Rows,
    /// Rows; those of runs that both have may be left out.
    Differences,
    /// Rows; the plan may follow them directly.
    RowsAndPlan,
}

/// The statement is complete: this end answers.
#[derive(Debug)]
pub struct Answering {
    common: Ends,
    greeted: bool,
    owed: Owed,
    manners: Manners,
    numbered: Option<(Vec<Row<Check>>, Altered, Manners)>,
}

impl Answering {
    fn new(common: Ends, greeted: bool) -> Answering {
        let (owed, manners) = (Owed::Nothing, Manners::default());
        Answering { common, greeted, owed, manners, numbered: None }
    }

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
        mut self,
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
        messages.extend(
            manifest::encode_between(told, self.common.parties()).into_iter().map(Message::Rows),
        );
        let mut numbers = Manners::default();
        if let Some((_, altered, manners)) = self.numbered.take() {
            messages.push(Message::Known(altered.known));
            messages.extend(changes::encode(&altered.changes).into_iter().map(Message::Changes));
            numbers = manners;
        } else if let Some((patches, proof)) = given {
            messages.extend([Message::Patches(patches), Message::Proof(proof)]);
        }
        messages.push(Message::End);
        let manifests = Manifests { initiator: stated, marks, responder: rows };
        (messages, AwaitingPlan { numbers, ..self.await_plan(manifests) })
    }

    /// An answer to a statement of differences. `twins` (sorted by path) are what both have; their
    /// properties follow the rows. Where the initiator does not need the checks of files that it
    /// has stated other ones for, they need not be told.
    pub fn answer_differences(
        self,
        stated: Vec<Row<Check>>,
        statement: Statement,
        marks: Vec<Mark>,
        rows: Vec<Row<Check>>,
        twins: Vec<Twin>,
        checked: bool,
    ) -> Result<(Vec<Message>, AwaitingPlan), ProtocolError> {
        let (others, files) = match twins.first() {
            Some(twin) => counterparts(&stated, &rows, &twin.responder, checked),
            None => (rows.clone(), Vec::new()),
        };
        let (mut messages, mut next) =
            self.answer(stated, Vec::new(), statement, marks, others, None);
        next.manifests.responder = rows;
        let step = |twin: &Twin| PropsStep::between(&twin.initiator.props, &twin.responder.props);
        let steps: Vec<PropsStep> = twins.iter().map(step).collect();
        let end = messages.pop();
        messages.extend(
            files
                .chunks(COUNTERPARTS_MAX)
                .map(|part| Message::Counterparts(Counterparts { checked, files: part.to_vec() })),
        );
        messages.extend(Steps::messages(&steps));
        messages.extend(end);
        next.manifests = next.manifests.add(twins)?;
        Ok((messages, next))
    }

    /// An answer that says what has to be stated first.
    pub fn demand(
        mut self,
        problems: Vec<Problem>,
        statement: Statement,
        demand: Demand,
    ) -> (Vec<Message>, AwaitingPlan) {
        self.owed = match demand {
            Demand::Everything => Owed::Rows,
            Demand::Blank => Owed::RowsAndPlan,
            Demand::Differences(_) => Owed::Differences,
        };
        let mut messages: Vec<Message> = problems.into_iter().map(Message::Problem).collect();
        messages.extend([Message::Statement(statement), Message::Demand(demand), Message::End]);
        (messages, self.await_plan(Manifests::default()))
    }

    fn await_plan(self, manifests: Manifests) -> AwaitingPlan {
        AwaitingPlan {
            common: self.common,
            manifests,
            owed: self.owed,
            manners: self.manners,
            numbers: Manners::default(),
            restated: None,
            plan: None,
        }
    }

    /// The first message of the first answer.
    pub fn welcome(&mut self, welcome: Welcome) -> Message {
        self.greeted = true;
        if let Verdict::Restate { .. } = welcome.verdict {
            self.owed = Owed::Rows;
        }
        Message::Welcome(welcome)
    }
}

/// The answer is out: the initiator plans, states its rows anew, or leaves.
#[derive(Debug)]
pub struct AwaitingPlan {
    common: Ends,
    manifests: Manifests,
    owed: Owed,
    manners: Manners,
    /// The same of the rows that this end stated.
    numbers: Manners,
    restated: Option<Restating>,
    plan: Option<Planning>,
}

/// A second statement.
#[derive(Debug)]
struct Restating {
    statement: Statement,
    rows: Rows,
    common: Option<Common>,
    props: Steps,
    sealed: bool,
}

impl Restating {
    fn finish(self) -> Result<Stated, ProtocolError> {
        let Restating { statement, rows, common, props, .. } = self;
        let shared = common.map(|common| Shared { common, props: props.finish() });
        let rows = rows.finish()?;
        Ok(Stated { statement, rows, moved: Vec::new(), altered: None, tree: None, shared })
    }
}

/// A plan of which not all may have come yet.
#[derive(Debug)]
struct Planning {
    counter: u64,
    extra_rows: u64,
    paths: Paths,
    decisions: Vec<Decision>,
    extra: Rows,
    sealed: bool,
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

    fn has_all_rows(&self) -> bool {
        self.is_decided() && self.extra.len() as u64 == self.extra_rows
    }

    fn is_complete(&self) -> bool {
        self.has_all_rows() && self.sealed
    }

    fn complete(
        mut self,
        common: &Ends,
        (ours, theirs): (&Manners, &Manners),
    ) -> Result<Planned, ProtocolError> {
        let order = theirs.of_paths(ours, &self.paths);
        self.paths.add_extra(self.extra.finish()?)?;
        let planner = Planner { replica: common.replica, counter: self.counter };
        let listening = Listening::first(Role::Responder, self.paths.len(), common.intent);
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
        matches!(self.owed, Owed::Nothing | Owed::RowsAndPlan)
            && self.restated.is_none()
            && self.plan.is_none()
    }

    /// Whether all of a plan has come. What follows it may take its time: see
    /// [`AwaitingPlan::planned`].
    pub fn is_planned(&self) -> bool {
        self.plan.as_ref().is_some_and(Planning::is_complete)
    }

    /// The plan, as soon as all of it has come. Every further message belongs to the exchange.
    pub fn planned(self) -> Result<Planned, ProtocolError> {
        match self.plan {
            Some(plan) if plan.is_complete() => {
                plan.complete(&self.common, (&self.numbers, &self.manners))
            }
            Some(_) | None => Err(ProtocolError::Contradiction("a plan is incomplete")),
        }
    }

    /// Takes the next message.
    pub fn receive(mut self, message: Message) -> Result<PlanStep, ProtocolError> {
        if self.is_planned() && !matches!(message, Message::Ping(_)) {
            return Ok(PlanStep::Planned(self.planned()?, message));
        }
        match (message, &mut self.restated, &mut self.plan) {
            (Message::Ping(_), ..) => {}
            (Message::Statement(statement), None, None) => {
                let (rows, props) = (self.common.rows(), Steps::default());
                self.restated =
                    Some(Restating { statement, rows, common: None, props, sealed: false });
            }
            (Message::Rows(payload), Some(restating), None)
                if restating.common.is_none() && !restating.sealed =>
            {
                restating.rows.take(&payload)?;
            }
            (Message::Common(common), Some(restating), None)
                if self.owed == Owed::Differences
                    && !restating.sealed
                    && restating.common.is_none()
                    && restating.statement.coverage == Coverage::Everything =>
            {
                restating.common = Some(common);
            }
            (Message::Props(steps), Some(restating), None)
                if restating.common.is_some() && !restating.sealed =>
            {
                restating.props.take(steps, manifest::ENTRIES_MAX)?;
            }
            (Message::Seal(_), Some(restating), None) if !restating.sealed => {
                restating.sealed = true;
            }
            (Message::End, Some(restating), None) if restating.sealed => {
                let restating = self.restated.take().expect("matched just now");
                let answering = Answering::new(self.common, true);
                return Ok(PlanStep::Restated(restating.finish()?, answering));
            }
            (Message::Plan(plan), Some(restating), None)
                if self.owed == Owed::RowsAndPlan && restating.sealed =>
            {
                let restating = self.restated.take().expect("matched just now");
                self.manifests.initiator = restating.finish()?.rows;
                self.manifests.marks = blank_marks(&self.manifests.initiator);
                self.manners = Manners::default();
                self.begin_plan(&plan)?;
            }
            (Message::Plan(plan), None, None) if self.owed == Owed::Nothing => {
                self.begin_plan(&plan)?;
            }
            (Message::Plan(plan), _, Some(planning)) if !planning.is_decided() => {
                planning.add(&plan)?;
            }
            (Message::Rows(payload), _, Some(planning))
                if planning.is_decided() && !planning.has_all_rows() =>
            {
                planning.add_rows(&payload)?;
            }
            (Message::Seal(_), _, Some(planning)) if planning.has_all_rows() => {
                planning.sealed = true;
            }
            (other, ..) => {
                return Err(refuse(
                    other,
                    "waiting for a plan",
                    "Statement, Plan, and the Rows of either, Common and Props, and Seal",
                ));
            }
        }
        Ok(PlanStep::More(self))
    }

    fn begin_plan(&mut self, plan: &Plan) -> Result<(), ProtocolError> {
        let Manifests { initiator, marks, responder } = std::mem::take(&mut self.manifests);
        let mut planning = Planning {
            counter: plan.counter,
            extra_rows: plan.extra_rows,
            paths: Paths::join(initiator, &marks, responder),
            decisions: Vec::new(),
            extra: self.common.rows(),
            sealed: false,
        };
        planning.add(plan)?;
        self.plan = Some(planning);
        Ok(())
    }
}
