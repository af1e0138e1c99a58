//! The initiator's states, up to the plan.

use super::{
    Agreement, Manifests, Manners, Paths, Rows, Steps, Talking, Twin, blank_marks, broken,
    counterpart, refuse,
};
use crate::changes::{self, Altered, ChangesReader};
use crate::decision::{Decision, Planner};
use crate::entry::{Check, CheckKey, Props, Row};
use crate::error::{DecodeError, ProtocolError};
use crate::manifest::{self, Budget, Parties};
use crate::message::{
    Common, Counterpart, Coverage, Demand, Hello, Intent, MOVED_MAX, Mark, Message, Moved, Patches,
    Plan, Problem, Proof, PropsStep, STATEMENT_EXCEPTION_BYTES, Statement, Tree, Verdict, Welcome,
};
use crate::{IndexId, RelPath, ReplicaId, Role, VERSION_MAX, VERSION_MIN, Version};

/// Before the first byte.
#[derive(Debug)]
pub struct Opening {
    key: CheckKey,
    replica: crate::ReplicaId,
    intent: Intent,
    expected: Option<(ReplicaId, IndexId)>,
}

/// The greeting is out; the statement has to follow.
#[derive(Debug)]
pub struct Stating {
    key: CheckKey,
    replica: crate::ReplicaId,
    intent: Intent,
    expected: Option<(ReplicaId, IndexId)>,
}

impl Opening {
    /// For the end that greets with this `hello` and expects nobody.
    pub fn new(hello: &Hello) -> Opening {
        let key = CheckKey::new(hello.replica, &hello.nonce);
        Opening { key, replica: hello.replica, intent: hello.intent, expected: None }
    }

    /// Whom this end expects, as its greeting says.
    pub fn expecting(self, expected: Option<(ReplicaId, IndexId)>) -> Opening {
        Opening { expected, ..self }
    }

    /// The greeting is sent.
    pub fn greeted(self) -> Stating {
        let Opening { key, replica, intent, expected } = self;
        Stating { key, replica, intent, expected }
    }
}

impl Stating {
    /// The key under which this end states its rows.
    pub fn key(&self) -> &CheckKey {
        &self.key
    }

    fn parties(&self) -> Parties {
        parties(self.replica, self.expected)
    }

    /// States rows (sorted by path) one by one and gives the turn to the responder.
    pub fn state(
        self,
        statement: Statement,
        rows: Vec<Row<Check>>,
    ) -> (Vec<Message>, AwaitingAnswer) {
        let told = rows.clone();
        self.state_folded(statement, rows, &told, Vec::new())
    }

    /// States rows (sorted by path) and gives the turn to the responder. `told` are those of the
    /// rows that travel one by one; the others are what `moved` (sorted by where it was) stands for.
    /// Where a statement may not hold so much of it, all rows travel one by one.
    pub fn state_folded(
        self,
        statement: Statement,
        rows: Vec<Row<Check>>,
        told: &[Row<Check>],
        moved: Vec<Moved>,
    ) -> (Vec<Message>, AwaitingAnswer) {
        let exceptions: usize = moved.iter().map(Moved::exception_bytes).sum();
        let may_fold = moved.len() <= MOVED_MAX
            && exceptions <= STATEMENT_EXCEPTION_BYTES
            && matches!(statement.coverage, Coverage::Changes { .. });
        let mut messages = stated(statement, if may_fold { told } else { &rows }, self.parties());
        if may_fold {
            messages.extend(moved.into_iter().map(Message::Moved));
        }
        messages.push(Message::End);
        (messages, self.await_answer(rows))
    }

    /// States everything and gives the turn to the responder. `told` are those of the rows (sorted
    /// by path) that travel one by one; `tree` stands for all others.
    pub fn state_tree(
        self,
        statement: Statement,
        rows: Vec<Row<Check>>,
        told: &[Row<Check>],
        tree: Tree,
    ) -> (Vec<Message>, AwaitingAnswer) {
        let mut messages = stated(statement, told, self.parties());
        messages.extend([Message::Tree(tree), Message::End]);
        (messages, self.await_answer(rows))
    }

    fn await_answer(self, rows: Vec<Row<Check>>) -> AwaitingAnswer {
        AwaitingAnswer {
            key: self.key,
            replica: self.replica,
            intent: self.intent,
            expected: self.expected,
            rows,
            twins: Vec::new(),
            first: true,
            welcome: None,
            statement: None,
            demand: None,
            marks: Vec::new(),
            pairs: Budget::pairs(),
            theirs: None,
            counterparts: Vec::new(),
            props: Steps::default(),
            given: None,
            proof: None,
            manners: Manners::default(),
            altered: None,
            sealed: false,
        }
    }

    /// As [`Stating::state_folded`]; `altered` says by number what is neither in `told` nor moved,
    /// and `manners` says the same by path.
    pub fn state_altered(
        self,
        statement: Statement,
        rows: Vec<Row<Check>>,
        told: &[Row<Check>],
        moved: Vec<Moved>,
        (altered, manners): (Altered, Manners),
    ) -> (Vec<Message>, AwaitingAnswer) {
        if moved.iter().map(Moved::exception_bytes).sum::<usize>() > STATEMENT_EXCEPTION_BYTES {
            return self.state(statement, rows);
        }
        let (mut messages, next) = self.state_folded(statement, rows, told, moved);
        messages.pop();
        messages.push(Message::Known(altered.known));
        messages.extend(changes::encode(&altered.changes).into_iter().map(Message::Changes));
        messages.push(Message::End);
        (messages, AwaitingAnswer { manners, ..next })
    }
}

/// Who talks, as this end sees it.
fn parties(replica: ReplicaId, expected: Option<(ReplicaId, IndexId)>) -> Parties {
    Parties { initiator: Some(replica), responder: expected.map(|(responder, _)| responder) }
}

fn stated(statement: Statement, rows: &[Row<Check>], parties: Parties) -> Vec<Message> {
    let batches = manifest::encode_between(rows, parties).into_iter().map(Message::Rows);
    std::iter::once(Message::Statement(statement)).chain(batches).collect()
}

/// The statement is out; the responder's answer comes.
#[derive(Debug)]
pub struct AwaitingAnswer {
    key: CheckKey,
    replica: crate::ReplicaId,
    intent: Intent,
    expected: Option<(ReplicaId, IndexId)>,
    rows: Vec<Row<Check>>,
    /// What both have, as far as this end can tell: the responder's properties are still missing.
    twins: Vec<Twin>,
    first: bool,
    welcome: Option<Welcome>,
    statement: Option<Statement>,
    demand: Option<Demand>,
    marks: Vec<Mark>,
    /// How many pairs the versions in marks may still have.
    pairs: Budget,
    theirs: Option<Rows>,
    counterparts: Vec<Counterpart>,
    props: Steps,
    given: Option<Patches>,
    proof: Option<Proof>,
    manners: Manners,
    altered: Option<ChangesReader>,
    sealed: bool,
}

/// What a message of the answer led to.
#[derive(Debug)]
pub enum AnswerStep {
    /// More is to come.
    More(AwaitingAnswer),
    /// A person should hear of this; more is to come.
    Problem(AwaitingAnswer, Problem),
    /// The answer is complete.
    Turn(Deciding),
}

/// Counts the versions that marks name. Marks in a run share theirs.
fn take_pairs(marks: &[Mark], pairs: &mut Budget) -> Result<(), DecodeError> {
    let mut last: Option<&Version> = None;
    for mark in marks {
        if let Mark::Same { content, props } = mark
            && !last.is_some_and(|last| std::ptr::eq(last.pairs(), content.pairs()))
        {
            pairs.take((content.pairs().len() + props.pairs().len()) as u64)?;
            last = Some(content);
        }
    }
    Ok(())
}

/// The responder's whole answer.
#[derive(Debug)]
pub struct Answer {
    /// How it greeted.
    pub welcome: Welcome,
    /// Who answers.
    pub replica: ReplicaId,
    /// The life of its index.
    pub index: IndexId,
    /// What its rows cover.
    pub statement: Statement,
    /// How its rows stand to ours; empty if it has to be told more first.
    pub marks: Vec<Mark>,
    /// Its rows.
    pub rows: Vec<Row<Check>>,
    /// What this end stated.
    pub ours: Vec<Row<Check>>,
    /// What the responder has to hear before anything can be planned, where it says more of that
    /// than its verdict.
    pub demand: Option<Demand>,
    /// What both have, by [`Deciding::restate_differences`].
    pub twins: Vec<Twin>,
    /// Contents of some of its rows that it sent along.
    pub given: Option<Given>,
    /// Changes of entries that both ends know: until they are rows, no plan can be made.
    pub altered: Option<Altered>,
}

/// Contents that the responder sent along with its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The contents; their numbers are those of paths in `paths`.
    pub patches: Patches,
    /// The path of each content, in order.
    pub paths: Vec<RelPath>,
    /// What proves them.
    pub proof: Proof,
}

impl AwaitingAnswer {
    /// Takes the next message.
    pub fn receive(mut self, message: Message) -> Result<AnswerStep, ProtocolError> {
        if self.sealed && !matches!(message, Message::Ping(_) | Message::End) {
            return Err(refuse(message, ANSWER.0, ANSWER.1));
        }
        match (message, &self.welcome, &self.statement) {
            (Message::Ping(_), Some(_), _) => {}
            (Message::Welcome(welcome), None, _) => {
                if !(VERSION_MIN..=VERSION_MAX).contains(&welcome.version) {
                    return Err(ProtocolError::Incompatible {
                        ours_min: VERSION_MIN,
                        ours_max: VERSION_MAX,
                        theirs_min: welcome.version,
                        theirs_max: welcome.version,
                    });
                }
                if welcome.who.is_none() && self.expected.is_none() {
                    return Err(ProtocolError::Contradiction("the responder is not told"));
                }
                self.expected = welcome.who.or(self.expected);
                self.welcome = Some(welcome);
            }
            (Message::Problem(problem), Some(_), None) => {
                return Ok(AnswerStep::Problem(self, problem));
            }
            (Message::Statement(statement), Some(welcome), None) => {
                let key = self.expected.map(|(replica, _)| CheckKey::new(replica, &welcome.nonce));
                let parties = parties(self.replica, self.expected);
                self.theirs = key.map(|key| Rows::new(key, parties));
                self.statement = Some(statement);
            }
            (Message::Demand(demand), _, Some(_)) if self.may_demand(&demand) => {
                self.demand = Some(demand);
            }
            (Message::Marks(marks), _, Some(_)) if self.may_be_marked() => {
                take_pairs(&marks, &mut self.pairs).map_err(broken("Marks"))?;
                self.marks.extend(marks);
                if self.marks.len() > self.rows.len() {
                    return Err(ProtocolError::Contradiction("there is not one mark for each row"));
                }
            }
            (Message::Known(known), Some(welcome), Some(statement))
                if matches!(statement.coverage, Coverage::Changes { .. })
                    && matches!(welcome.verdict, Verdict::Proceed { .. })
                    && self.first
                    && self.altered.is_none()
                    && self.given.is_none() =>
            {
                self.altered = Some(ChangesReader::new(known));
            }
            (Message::Changes(payload), ..) if self.altered.is_some() => {
                if let Some(altered) = &mut self.altered {
                    altered.batch(&payload).map_err(broken("Changes"))?;
                }
            }
            (Message::Rows(payload), ..)
                if self.demand.is_none()
                    && self.given.is_none()
                    && self.altered.is_none()
                    && self.counterparts.is_empty()
                    && self.props.is_empty() =>
            {
                match &mut self.theirs {
                    Some(theirs) => theirs.take(&payload)?,
                    None => return Err(refuse(Message::Rows(payload), ANSWER.0, ANSWER.1)),
                }
            }
            (Message::Counterparts(others), _, Some(_))
                if self.demand.is_none() && !self.twins.is_empty() && self.props.is_empty() =>
            {
                self.take_counterparts(others.files)?;
            }
            (Message::Props(steps), _, Some(_))
                if self.demand.is_none() && !self.twins.is_empty() =>
            {
                self.props.take(steps, self.twins.len())?;
            }
            (Message::Patches(patches), ..) if self.may_be_given() => {
                self.given = Some(patches);
            }
            (Message::Proof(proof), ..) if self.given.is_some() && self.proof.is_none() => {
                self.proof = Some(proof);
            }
            (Message::Seal(_), ..) if self.theirs.is_some() => self.sealed = true,
            (Message::End, ..) if self.sealed => {
                return self.complete().map(AnswerStep::Turn);
            }
            (other, ..) => {
                return Err(refuse(other, ANSWER.0, ANSWER.1));
            }
        }
        Ok(AnswerStep::More(self))
    }

    /// Marks come before rows, and as long as there are rows without one.
    fn may_be_marked(&self) -> bool {
        self.marks.len() < self.rows.len()
            && self.demand.is_none()
            && self.given.is_none()
            && self.altered.is_none()
            && self.counterparts.is_empty()
            && self.props.is_empty()
            && self.theirs.as_ref().is_some_and(|rows| rows.len() == 0)
    }

    /// Each is of another row, in order.
    fn take_counterparts(&mut self, files: Vec<Counterpart>) -> Result<(), ProtocolError> {
        let last = self.counterparts.last().map(|file| file.number);
        let ascends = files.first().is_some_and(|first| last < Some(first.number));
        let exists = files.last().is_some_and(|last| last.number < self.rows.len() as u64);
        if !ascends || !exists {
            return Err(ProtocolError::Contradiction(
                "a counterpart is of no row, or of one twice",
            ));
        }
        self.counterparts.extend(files);
        Ok(())
    }

    /// A demand comes alone: in the first answer with a verdict that asks for all rows; in a later
    /// one where rows were left out, and then it can only be for all of them.
    fn may_demand(&self, demand: &Demand) -> bool {
        let nothing_else = self.demand.is_none()
            && self.marks.is_empty()
            && self.given.is_none()
            && self.counterparts.is_empty()
            && self.props.is_empty()
            && self.theirs.as_ref().is_some_and(|rows| rows.len() == 0);
        let asked = match &self.welcome {
            Some(welcome) if self.first => {
                matches!(welcome.verdict, Verdict::Restate { since: 0, .. })
            }
            _ => !self.twins.is_empty() && *demand == Demand::Everything,
        };
        nothing_else && asked
    }

    /// One message of contents may follow the rows, where none were left out.
    fn may_be_given(&self) -> bool {
        self.given.is_none()
            && self.altered.is_none()
            && self.demand.is_none()
            && self.twins.is_empty()
            && self.theirs.is_some()
    }

    fn complete(self) -> Result<Deciding, ProtocolError> {
        let incomplete = ProtocolError::Contradiction("an answer is incomplete");
        let (Some(mut welcome), Some((replica, index)), Some(statement), Some(theirs)) =
            (self.welcome, self.expected, self.statement, self.theirs)
        else {
            return Err(incomplete);
        };
        if let (Some(_), Verdict::Proceed { first_contact }) = (&self.demand, welcome.verdict) {
            welcome.verdict = Verdict::Restate { since: 0, first_contact };
        }
        let demands_rows = matches!(welcome.verdict, Verdict::Restate { .. });
        let unmarked = self.marks.is_empty() && demands_rows;
        if self.marks.len() != self.rows.len() && !unmarked {
            return Err(incomplete);
        }
        let mut twins = self.twins;
        if self.demand.is_some() {
            twins.clear();
        }
        let steps = self.props.finish();
        if steps.len() != twins.len() {
            return Err(incomplete);
        }
        for (twin, step) in twins.iter_mut().zip(steps) {
            twin.responder.props = away(&step, &twin.initiator)?;
            twin.responder.agreed_mode = twin.responder.props.mode;
        }
        let mut rows = theirs.finish()?;
        if let (Some(twin), false) = (twins.first(), self.counterparts.is_empty()) {
            for file in &self.counterparts {
                let stated = usize::try_from(file.number).ok().and_then(|at| self.rows.get(at));
                rows.push(counterpart(file, stated.ok_or(incomplete.clone())?, &twin.responder)?);
            }
            rows.sort_by(|a, b| a.path.cmp(&b.path));
        }
        let given = match (self.given, self.proof) {
            (None, _) => None,
            (Some(_), None) => {
                return Err(ProtocolError::Contradiction("contents were not proved"));
            }
            (Some(patches), Some(proof)) => {
                let path = |index| Some(rows.get(usize::try_from(index).ok()?)?.path.clone());
                let paths = patches.contents.iter().map(|content| path(content.index));
                let paths: Option<Vec<RelPath>> = paths.collect();
                let paths = paths.ok_or(ProtocolError::Contradiction("a content is of no row"))?;
                Some(Given { patches, paths, proof })
            }
        };
        let (demand, ours) = (self.demand, self.rows);
        let marks = self.manners.of_rows(&ours).restore(self.marks);
        let altered = self.altered.map(ChangesReader::finish);
        let answer = Answer {
            welcome,
            replica,
            index,
            statement,
            marks,
            rows,
            ours,
            given,
            demand,
            twins,
            altered,
        };
        let (manners, theirs) = (self.manners, Manners::default());
        let Self { key, replica, intent, .. } = self;
        Ok(Deciding { key, replica, intent, manners, theirs, answer })
    }
}

/// The state of [`AwaitingAnswer`], and what it takes.
const ANSWER: (&str, &str) = (
    "waiting for the answer",
    "Welcome, Problem, Statement, then Demand or Marks, Rows, and Patches and Proof or Known and Changes \
     or Counterparts and Props, then Seal and End in this order",
);

/// The properties that are a step away from those of a row, and that such an entry can have.
fn away(step: &PropsStep, row: &Row<Check>) -> Result<Props, ProtocolError> {
    let props = step.from(&row.props).filter(|props| props.may_be_of(&row.content));
    props.ok_or(ProtocolError::Contradiction("an entry has properties that it cannot have"))
}

/// The answer is there: state more, plan, or leave.
#[derive(Debug)]
pub struct Deciding {
    key: CheckKey,
    replica: crate::ReplicaId,
    intent: Intent,
    manners: Manners,
    theirs: Manners,
    /// The responder's answer.
    pub answer: Answer,
}

impl Deciding {
    /// The key under which this end states its rows.
    pub fn key(&self) -> &CheckKey {
        &self.key
    }

    fn parties(&self) -> Parties {
        parties(self.replica, Some((self.answer.replica, self.answer.index)))
    }

    /// The key under which the responder states its rows.
    pub fn their_key(&self) -> CheckKey {
        CheckKey::new(self.answer.replica, &self.answer.welcome.nonce)
    }

    /// Puts rows, sorted by path, in the place of the answer's changes. Says whether no path is
    /// stated twice.
    pub fn unnumbered(&mut self, rows: Vec<Row<Check>>, manners: Manners) -> bool {
        self.answer.altered = None;
        self.answer.rows.extend(rows);
        self.answer.rows.sort_by(|a, b| a.path.cmp(&b.path));
        self.theirs = manners;
        self.answer.rows.is_sorted_by(|a, b| a.path < b.path)
    }

    /// States rows anew, as the responder asked or because its answer does not tell enough, and
    /// waits for another answer.
    pub fn restate(
        self,
        statement: Statement,
        rows: Vec<Row<Check>>,
    ) -> (Vec<Message>, AwaitingAnswer) {
        let mut messages = stated(statement, &rows, self.parties());
        messages.push(Message::End);
        (messages, self.await_another(rows, Vec::new()))
    }

    /// States all rows but those of runs that both ends have. `twins` (sorted by path) are what is
    /// in these: this end's rows, and the responder's but for its properties; `props` are those of
    /// this end's rows.
    pub fn restate_differences(
        self,
        statement: Statement,
        rows: Vec<Row<Check>>,
        common: Common,
        props: &[PropsStep],
        twins: Vec<Twin>,
    ) -> (Vec<Message>, AwaitingAnswer) {
        let mut messages = stated(statement, &rows, self.parties());
        messages.push(Message::Common(common));
        messages.extend(Steps::messages(props));
        messages.push(Message::End);
        (messages, self.await_another(rows, twins))
    }

    fn await_another(self, rows: Vec<Row<Check>>, twins: Vec<Twin>) -> AwaitingAnswer {
        // The demand is met: what comes next is an answer to each of these rows.
        let mut welcome = self.answer.welcome;
        if let Verdict::Restate { first_contact, .. } = welcome.verdict {
            welcome.verdict = Verdict::Proceed { first_contact };
        }
        let expected = Some((self.answer.replica, self.answer.index));
        let Deciding { key, replica, intent, .. } = self;
        let stating = Stating { key, replica, intent, expected };
        let welcome = Some(welcome);
        AwaitingAnswer { first: false, welcome, twins, ..stating.await_answer(rows) }
    }

    /// States all rows to a responder that has never had any. The messages belong before the plan,
    /// in the same flight: no other answer comes.
    pub fn restate_to_blank(
        mut self,
        statement: Statement,
        rows: Vec<Row<Check>>,
    ) -> Result<(Vec<Message>, Deciding), ProtocolError> {
        let (Some(Demand::Blank), Verdict::Restate { first_contact, .. }) =
            (&self.answer.demand, self.answer.welcome.verdict)
        else {
            return Err(ProtocolError::Contradiction("the responder is not blank"));
        };
        self.answer.welcome.verdict = Verdict::Proceed { first_contact };
        self.answer.demand = None;
        self.manners = Manners::default();
        self.answer.marks = blank_marks(&rows);
        let messages = stated(statement, &rows, self.parties());
        self.answer.ours = rows;
        Ok((messages, self))
    }

    /// The paths that a plan has to decide about.
    pub fn paths(&mut self) -> Result<Paths, ProtocolError> {
        let manifests = Manifests {
            initiator: std::mem::take(&mut self.answer.ours),
            marks: std::mem::take(&mut self.answer.marks),
            responder: std::mem::take(&mut self.answer.rows),
        };
        let Manifests { initiator, marks, responder } =
            manifests.add(std::mem::take(&mut self.answer.twins))?;
        Ok(Paths::join(initiator, &marks, responder))
    }

    /// Sends the plan; `extra` are rows at paths of the plan that this end had not stated and the
    /// decisions need. This end goes on talking.
    pub fn plan(
        self,
        mut paths: Paths,
        decisions: Vec<Decision>,
        counter: u64,
        extra: Vec<Row<Check>>,
    ) -> Result<(Vec<Message>, Agreement, Talking), ProtocolError> {
        if let Verdict::Restate { .. } = self.answer.welcome.verdict {
            return Err(ProtocolError::Contradiction(
                "the responder has to be told more rows first",
            ));
        }
        if self.answer.altered.is_some() {
            return Err(ProtocolError::Contradiction("the answer's changes are not rows yet"));
        }
        if decisions.len() != paths.len() {
            return Err(ProtocolError::Contradiction("there is not one decision for each path"));
        }
        let travelling = self.manners.of_paths(&self.theirs, &paths).arrange(&decisions);
        let parts = Plan::parts(counter, extra.len() as u64, &travelling).into_iter();
        let mut messages: Vec<Message> = parts.map(Message::Plan).collect();
        messages.extend(
            manifest::encode_between(&extra, self.parties()).into_iter().map(Message::Rows),
        );
        paths.add_extra(extra)?;
        let talking = Talking::first(Role::Initiator, paths.len(), self.intent);
        let planner = Planner { replica: self.replica, counter };
        Ok((messages, Agreement { paths, decisions, planner }, talking))
    }
}
