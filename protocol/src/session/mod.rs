//! Which message may come when. One type for each state; receiving or sending consumes the state
//! and gives the next, so a message in the wrong state cannot be accepted.
//!
//! The ends take turns: everything that an end sends until `End` is one *flight*.
//!
//! ```text
//! initiator                                   responder
//! Opening
//!   Hello Statement Rows* ((Moved* (Known Changes*)?) | Tree?) End
//!                                      --->  AwaitingHello, AwaitingStatement
//! AwaitingAnswer                              Answering
//!   <----  Welcome Problem* Statement (Demand |
//!            Marks* Rows* (Known Changes*)? Counterparts* Props*) End
//! Deciding                                    AwaitingPlan
//!   Statement Rows* (Common Props*)? End  -->  ... and back to Answering
//!   or Plan+ Rows* ...  ------------------->
//! Talking <-> Listening                       Listening <-> Talking
//!   contents, wants, Done, End  <---------->  contents, wants, Done, End
//! ```
//!
//! Where nothing is to be done the initiator closes the line instead of sending a plan. In a rehearsal
//! `Counted` says which contents would have come.

mod exchange;
mod initiator;
mod order;
mod responder;

pub use exchange::{Event, Heard, Listening, Next, Talking};
pub use initiator::{Answer, AnswerStep, AwaitingAnswer, Deciding, Given, Opening, Stating};
pub use order::Manners;
pub use responder::{
    Answering, AwaitingHello, AwaitingPlan, AwaitingStatement, PlanStep, Planned, Shared, Stated,
    StatementStep, common_version,
};

use crate::codec::NUMBER_MAX;
use crate::decision::Decision;
use crate::entry::{Check, CheckKey, Content, Row};
use crate::error::{DecodeError, ProtocolError};
use crate::manifest::{ManifestReader, Parties};
use crate::message::{Counterpart, Mark, Message, PROPS_MAX, PropsStep};

/// The paths that a plan is about, in order: each path of either manifest once, with the rows
/// that were stated for it.
#[derive(Debug, Clone, Default)]
pub struct Paths(Vec<Stand>);

/// What was stated for one path. At least one of the two rows is there.
#[derive(Debug, Clone)]
pub struct Stand {
    /// The initiator's row.
    pub initiator: Option<Row<Check>>,
    /// The responder's row, stated or told by a mark; none where it is older than the
    /// initiator's or missing.
    pub responder: Option<Row<Check>>,
    /// Whether the responder can take part at this path.
    pub access: Access,
    /// What the responder has of a file that the initiator stated and that is newer.
    pub at_hand: AtHand,
}

/// What the responder's mark says that it has, where the initiator's row is newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AtHand {
    /// Something, or it was not said.
    Unknown,
    /// Nothing.
    Nothing,
    /// The content that the row's base names.
    Base,
}

/// Whether the responder can take part at a path that the initiator stated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// It can.
    Open,
    /// A filter there leaves it alone.
    Ignored,
    /// It cannot be read or written there now.
    Unusable,
}

impl Stand {
    fn marked(initiator: Row<Check>, mark: &Mark, responder: Option<Row<Check>>) -> Stand {
        let told = match mark {
            Mark::Equal => Some(initiator.clone()),
            Mark::Same { content, props } => Some(Row {
                content_version: content.clone(),
                props_version: props.clone(),
                ..initiator.clone()
            }),
            Mark::Behind | Mark::Absent | Mark::OnBase | Mark::Ignored | Mark::Unusable => None,
        };
        let access = match mark {
            Mark::Ignored => Access::Ignored,
            Mark::Unusable => Access::Unusable,
            Mark::Behind | Mark::Absent | Mark::OnBase | Mark::Equal | Mark::Same { .. } => {
                Access::Open
            }
        };
        let at_hand = match mark {
            Mark::Absent => AtHand::Nothing,
            Mark::OnBase => AtHand::Base,
            Mark::Behind | Mark::Equal | Mark::Same { .. } | Mark::Ignored | Mark::Unusable => {
                AtHand::Unknown
            }
        };
        Stand { initiator: Some(initiator), responder: responder.or(told), access, at_hand }
    }

    /// Where.
    pub fn path(&self) -> &crate::RelPath {
        let row = self.initiator.as_ref().or(self.responder.as_ref());
        &row.expect("a stand has at least one row").path
    }

    /// The row stated by one end.
    pub fn of(&self, role: crate::Role) -> Option<&Row<Check>> {
        match role {
            crate::Role::Initiator => self.initiator.as_ref(),
            crate::Role::Responder => self.responder.as_ref(),
        }
    }
}

impl Paths {
    /// Joins two manifests, both sorted by path. `marks` has one for each row of the initiator; a
    /// row without one is taken for behind.
    pub fn join(initiator: Vec<Row<Check>>, marks: &[Mark], responder: Vec<Row<Check>>) -> Paths {
        let mut stands = Vec::with_capacity(initiator.len().max(responder.len()));
        let marks = marks.iter().chain(std::iter::repeat(&Mark::Behind));
        let mut left = initiator.into_iter().zip(marks).peekable();
        let mut right = responder.into_iter().peekable();
        loop {
            let order = match (left.peek(), right.peek()) {
                (None, None) => break,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((a, _)), Some(b)) => a.path.cmp(&b.path),
            };
            let responder = if order.is_ge() { right.next() } else { None };
            stands.push(match order.is_le().then(|| left.next()).flatten() {
                Some((initiator, mark)) => Stand::marked(initiator, mark, responder),
                None => Stand {
                    initiator: None,
                    responder,
                    access: Access::Open,
                    at_hand: AtHand::Unknown,
                },
            });
        }
        Paths(stands)
    }

    /// How many paths.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was stated at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The path with this number.
    pub fn get(&self, index: usize) -> Option<&Stand> {
        self.0.get(index)
    }

    /// The number of a path.
    pub fn find(&self, path: &crate::RelPath) -> Option<usize> {
        self.0.binary_search_by(|stand| stand.path().cmp(path)).ok()
    }

    /// All, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Stand> {
        self.0.iter()
    }

    /// Adds rows that the initiator had not stated before; each must be at a path of the plan
    /// for which it had stated none.
    pub fn add_extra(&mut self, rows: Vec<Row<Check>>) -> Result<(), ProtocolError> {
        for row in rows {
            let at = self.0.binary_search_by(|stand| stand.path().cmp(&row.path));
            match at {
                Ok(at) if self.0[at].initiator.is_none() => self.0[at].initiator = Some(row),
                _ => return Err(ProtocolError::Contradiction("an extra row is not of the plan")),
            }
        }
        Ok(())
    }
}

impl std::ops::Index<usize> for Paths {
    type Output = Stand;
    fn index(&self, index: usize) -> &Stand {
        &self.0[index]
    }
}

/// A plan as both ends know it.
#[derive(Debug, Clone)]
pub struct Agreement {
    /// The paths.
    pub paths: Paths,
    /// A decision for each.
    pub decisions: Vec<Decision>,
    /// Who planned, and its clock.
    pub planner: crate::decision::Planner,
}

/// What both ends have at a path, said without a row of either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Twin {
    /// The initiator's row.
    pub initiator: Row<Check>,
    /// The responder's row.
    pub responder: Row<Check>,
}

/// The rows of both ends, sorted, with a mark for each of the initiator's.
#[derive(Debug, Default)]
pub(crate) struct Manifests {
    pub(crate) initiator: Vec<Row<Check>>,
    pub(crate) marks: Vec<Mark>,
    pub(crate) responder: Vec<Row<Check>>,
}

impl Manifests {
    /// Puts twins, sorted by path, among the rows. Neither end may have stated a row there as well.
    pub(crate) fn add(self, twins: Vec<Twin>) -> Result<Manifests, ProtocolError> {
        if twins.is_empty() {
            return Ok(self);
        }
        let Manifests { initiator, mut marks, responder } = self;
        marks.resize(initiator.len(), Mark::Behind);
        let mut left: Vec<(Row<Check>, Mark)> = initiator.into_iter().zip(marks).collect();
        let mut right = responder;
        for Twin { initiator, responder } in twins {
            left.push((initiator, Mark::Behind));
            right.push(responder);
        }
        left.sort_by(|a, b| a.0.path.cmp(&b.0.path));
        right.sort_by(|a, b| a.path.cmp(&b.path));
        let doubled = left.windows(2).any(|pair| pair[0].0.path == pair[1].0.path)
            || right.windows(2).any(|pair| pair[0].path == pair[1].path);
        if doubled {
            return Err(ProtocolError::Contradiction("a path is stated twice"));
        }
        let (initiator, marks) = left.into_iter().unzip();
        Ok(Manifests { initiator, marks, responder: right })
    }
}

/// The marks that a responder without any row would give.
pub(crate) fn blank_marks(rows: &[Row<Check>]) -> Vec<Mark> {
    let mark = |row: &Row<Check>| match row.content {
        Content::File { .. } => Mark::Absent,
        Content::Deleted { .. } | Content::Directory | Content::Symlink { .. } => Mark::Behind,
    };
    rows.iter().map(mark).collect()
}

/// Takes those of the responder's rows out that can be told as counterparts of rows that were
/// `stated`: files at the path of a file, in these versions. Both are sorted by path.
pub(crate) fn counterparts(
    stated: &[Row<Check>],
    rows: &[Row<Check>],
    like: &Row<Check>,
    checked: bool,
) -> (Vec<Row<Check>>, Vec<Counterpart>) {
    let (mut others, mut files) = (Vec::new(), Vec::new());
    for row in rows {
        let at = stated.binary_search_by(|stated| stated.path.cmp(&row.path)).ok();
        let file = at.and_then(|at| {
            let meant = Counterpart {
                number: at as u64,
                props: PropsStep::between(&stated[at].props, &row.props),
                size: size(row)?.wrapping_sub(size(&stated[at])?),
                check: if checked { row.content.fingerprint()? } else { Check(0) },
            };
            let told = counterpart(&meant, &stated[at], like).ok()?;
            // Whatever else the row says has no place in a counterpart.
            let whole = Row { content: told.content.clone(), ..row.clone() };
            (whole == told).then_some(meant)
        });
        match file {
            Some(file) => files.push(file),
            None => others.push(row.clone()),
        }
    }
    (others, files)
}

fn size(row: &Row<Check>) -> Option<i64> {
    match row.content {
        Content::File { size, .. } => Some(size as i64),
        Content::Deleted { .. } | Content::Directory | Content::Symlink { .. } => None,
    }
}

/// The responder's row that is told as the counterpart of one that was stated, in the versions of
/// a row `like` this.
pub(crate) fn counterpart(
    file: &Counterpart,
    stated: &Row<Check>,
    like: &Row<Check>,
) -> Result<Row<Check>, ProtocolError> {
    let wrong = ProtocolError::Contradiction("a counterpart is none of the row with its number");
    let (Some(before), Some(props)) = (size(stated), file.props.from(&stated.props)) else {
        return Err(wrong);
    };
    let size = before.wrapping_add(file.size) as u64;
    if size > NUMBER_MAX || !props.may_be_of(&stated.content) {
        return Err(wrong);
    }
    Ok(Row {
        path: stated.path.clone(),
        content: Content::File { size, hash: file.check },
        base: None,
        props,
        agreed_mode: props.mode,
        content_version: like.content_version.clone(),
        props_version: like.props_version.clone(),
    })
}

/// Collects the properties of what both ends have.
#[derive(Debug, Default)]
pub(crate) struct Steps(Vec<PropsStep>);

impl Steps {
    pub(crate) fn take(
        &mut self,
        steps: Vec<PropsStep>,
        limit: usize,
    ) -> Result<(), ProtocolError> {
        self.0.extend(steps);
        if self.0.len() > limit {
            return Err(ProtocolError::Contradiction("there are more properties than entries"));
        }
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn finish(self) -> Vec<PropsStep> {
        self.0
    }

    /// The messages that tell them.
    pub(crate) fn messages(steps: &[PropsStep]) -> impl Iterator<Item = Message> {
        steps.chunks(PROPS_MAX).map(|part| Message::Props(part.to_vec()))
    }
}

/// Collects one manifest.
#[derive(Debug)]
pub(crate) struct Rows(ManifestReader);

impl Rows {
    pub(crate) fn new(key: CheckKey, parties: Parties) -> Rows {
        Rows(ManifestReader::new(key).between(parties))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn take(&mut self, payload: &[u8]) -> Result<(), ProtocolError> {
        self.0.batch(payload).map_err(broken("Rows"))
    }

    pub(crate) fn finish(self) -> Result<Vec<Row<Check>>, ProtocolError> {
        self.0.finish().map_err(broken("Rows"))
    }
}

fn broken(message: &'static str) -> impl Fn(DecodeError) -> ProtocolError {
    move |error| ProtocolError::Decode { message, error }
}

/// The answer to a message that may not come now; the peer's own error is passed on as such.
fn refuse(message: Message, state: &'static str, allowed: &'static str) -> ProtocolError {
    match message {
        Message::Error { code, text } => {
            ProtocolError::Peer { code, text: crate::path::printable(text.as_bytes()) }
        }
        other => ProtocolError::Unexpected { got: other.name(), state, allowed },
    }
}
