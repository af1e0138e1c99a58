//! The initiator's states, up to the plan.

use super::{Agreement, Manners, Paths, Rows, Talking, broken, refuse};
use crate::changes::{self, Altered, ChangesReader};
use crate::decision::{Decision, Planner};
use crate::entry::{Check, CheckKey, Row};
use crate::error::ProtocolError;
use crate::manifest;
use crate::message::{
    Coverage, Hello, MOVED_MAX, Mark, Message, Moved, Patches, Plan, Problem, Proof,
    STATEMENT_EXCEPTION_BYTES, Statement, Verdict, Welcome,
};
use crate::{RelPath, Role, VERSION_MAX, VERSION_MIN};

/// Before the first byte.
#[derive(Debug)]
pub struct Opening {
    key: CheckKey,
    replica: crate::ReplicaId,
}

/// The greeting is out; the statement has to follow.
#[derive(Debug)]
pub struct Stating {
    key: CheckKey,
    replica: crate::ReplicaId,
}

impl Opening {
    /// For the end that greets with this `hello`.
    pub fn new(hello: &Hello) -> Opening {
        Opening { key: CheckKey::new(hello.replica, &hello.nonce), replica: hello.replica }
    }

    /// The greeting is sent.
    pub fn greeted(self) -> Stating {
        Stating { key: self.key, replica: self.replica }
    }
}

impl Stating {
    /// The key under which this end states its rows.
    pub fn key(&self) -> &CheckKey {
        &self.key
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
        let mut messages = stated(statement, if may_fold { told } else { &rows });
        if may_fold {
            messages.extend(moved.into_iter().map(Message::Moved));
        }
        messages.push(Message::End);
        let next = AwaitingAnswer {
            key: self.key,
            replica: self.replica,
            rows,
            welcome: None,
            statement: None,
            marks: Vec::new(),
            theirs: None,
            given: None,
            proof: None,
            manners: Manners::default(),
            altered: None,
        };
        (messages, next)
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

fn stated(statement: Statement, rows: &[Row<Check>]) -> Vec<Message> {
    let batches = manifest::encode(rows).into_iter().map(Message::Rows);
    std::iter::once(Message::Statement(statement)).chain(batches).collect()
}

/// The statement is out; the responder's answer comes.
#[derive(Debug)]
pub struct AwaitingAnswer {
    key: CheckKey,
    replica: crate::ReplicaId,
    rows: Vec<Row<Check>>,
    welcome: Option<Welcome>,
    statement: Option<Statement>,
    marks: Vec<Mark>,
    theirs: Option<Rows>,
    given: Option<Patches>,
    proof: Option<Proof>,
    manners: Manners,
    altered: Option<ChangesReader>,
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

/// The responder's whole answer.
#[derive(Debug)]
pub struct Answer {
    /// Who answers.
    pub welcome: Welcome,
    /// What its rows cover.
    pub statement: Statement,
    /// How its rows stand to ours; empty if it has to be told more first.
    pub marks: Vec<Mark>,
    /// Its rows.
    pub rows: Vec<Row<Check>>,
    /// What this end stated.
    pub ours: Vec<Row<Check>>,
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
                self.welcome = Some(welcome);
            }
            (Message::Problem(problem), Some(_), None) => {
                return Ok(AnswerStep::Problem(self, problem));
            }
            (Message::Statement(statement), Some(welcome), None) => {
                self.theirs = Some(Rows::new(CheckKey::new(welcome.replica, &welcome.nonce)));
                self.statement = Some(statement);
            }
            (Message::Marks(marks), _, Some(_)) if self.may_be_marked() => {
                self.marks.extend(marks);
                if self.marks.len() > self.rows.len() {
                    return Err(ProtocolError::Contradiction("there is not one mark for each row"));
                }
            }
            (Message::Known(known), Some(welcome), Some(statement))
                if matches!(statement.coverage, Coverage::Changes { .. })
                    && matches!(welcome.verdict, Verdict::Proceed { .. })
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
                if self.theirs.is_some() && self.given.is_none() && self.altered.is_none() =>
            {
                if let Some(theirs) = &mut self.theirs {
                    theirs.take(&payload)?;
                }
            }
            (Message::Patches(patches), ..) if self.may_be_given() => {
                self.given = Some(patches);
            }
            (Message::Proof(proof), ..) if self.given.is_some() && self.proof.is_none() => {
                self.proof = Some(proof);
            }
            (Message::End, ..) if self.theirs.is_some() => {
                return self.complete().map(AnswerStep::Turn);
            }
            (other, ..) => {
                return Err(refuse(
                    other,
                    "waiting for the answer",
                    "Welcome, Problem, Statement, Marks, Rows, Known, Changes, Patches, Proof, End \
                     in this order",
                ));
            }
        }
        Ok(AnswerStep::More(self))
    }

    /// Marks come before rows, and as long as there are rows without one.
    fn may_be_marked(&self) -> bool {
        self.marks.len() < self.rows.len()
            && self.given.is_none()
            && self.altered.is_none()
            && self.theirs.as_ref().is_some_and(|rows| rows.len() == 0)
    }

    /// One message of contents may follow the rows.
    fn may_be_given(&self) -> bool {
        self.given.is_none() && self.altered.is_none() && self.theirs.is_some()
    }

    fn complete(self) -> Result<Deciding, ProtocolError> {
        let incomplete = ProtocolError::Contradiction("an answer is incomplete");
        let (Some(welcome), Some(statement), Some(theirs)) =
            (self.welcome, self.statement, self.theirs)
        else {
            return Err(incomplete);
        };
        let demands_rows = matches!(welcome.verdict, Verdict::Restate { .. });
        let unmarked = self.marks.is_empty() && demands_rows;
        if self.marks.len() != self.rows.len() && !unmarked {
            return Err(incomplete);
        }
        let rows = theirs.finish()?;
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
        let ours = self.rows;
        let marks = self.manners.of_rows(&ours).restore(self.marks);
        let altered = self.altered.map(ChangesReader::finish);
        let answer = Answer { welcome, statement, marks, rows, ours, given, altered };
        let (manners, theirs) = (self.manners, Manners::default());
        Ok(Deciding { key: self.key, replica: self.replica, manners, theirs, answer })
    }
}

/// The answer is there: state more, plan, or leave.
#[derive(Debug)]
pub struct Deciding {
    key: CheckKey,
    replica: crate::ReplicaId,
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

    /// The key under which the responder states its rows.
    pub fn their_key(&self) -> CheckKey {
        CheckKey::new(self.answer.welcome.replica, &self.answer.welcome.nonce)
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
        let mut messages = stated(statement, &rows);
        messages.push(Message::End);
        // The demand is met: what comes next is an answer to each of these rows.
        let mut welcome = self.answer.welcome;
        if let Verdict::Restate { first_contact, .. } = welcome.verdict {
            welcome.verdict = Verdict::Proceed { first_contact };
        }
        let next = AwaitingAnswer {
            key: self.key,
            replica: self.replica,
            rows,
            welcome: Some(welcome),
            statement: None,
            marks: Vec::new(),
            theirs: None,
            given: None,
            proof: None,
            manners: Manners::default(),
            altered: None,
        };
        (messages, next)
    }

    /// The paths that a plan has to decide about.
    pub fn paths(&mut self) -> Paths {
        let ours = std::mem::take(&mut self.answer.ours);
        let theirs = std::mem::take(&mut self.answer.rows);
        Paths::join(ours, &self.answer.marks, theirs)
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
        messages.extend(manifest::encode(&extra).into_iter().map(Message::Rows));
        paths.add_extra(extra)?;
        let talking = Talking::first(Role::Initiator, paths.len());
        let planner = Planner { replica: self.replica, counter };
        Ok((messages, Agreement { paths, decisions, planner }, talking))
    }
}
