//! Carrying out a plan, the same for both ends: flights of contents and wants, by turns, until
//! both have said `Done`. Of a rehearsal the same flights, in which contents are counted instead of sent.

use std::collections::BTreeSet;

use super::refuse;
use crate::Role;
use crate::entry::ContentHash;
use crate::error::ProtocolError;
use crate::message::{
    Against, Counted, DeltaOp, Done, Failure, Intent, Message, Patches, Problem, Proof,
    SIGNATURES_MAX, Segment, Unresolved, Want, WantDelta,
};

/// What both ends keep book of.
#[derive(Debug)]
struct Book {
    paths: u64,
    /// Whether contents are counted, and do not travel.
    rehearsal: bool,
    /// What the end that talks has to send in this flight.
    owed: BTreeSet<u64>,
    /// What the end that talks has asked for in this flight.
    asked: BTreeSet<u64>,
    /// In the flight of the plan the initiator may send contents before it is asked: those that it
    /// has sent. None in every other flight.
    given: Option<BTreeSet<u64>>,
    /// The content being sent.
    open: Option<u64>,
    /// Whether contents have come that no hash of their own proves.
    unproved: bool,
    /// Bytes of a signature still to come after a `Want`.
    signature: u64,
    /// Bytes of all signatures announced in this flight.
    signatures: u64,
    talker_done: bool,
    listener_done: bool,
}

impl Book {
    fn first(paths: usize, intent: Intent) -> Book {
        Book {
            paths: paths as u64,
            rehearsal: intent == Intent::Rehearse,
            owed: BTreeSet::new(),
            asked: BTreeSet::new(),
            given: Some(BTreeSet::new()),
            open: None,
            unproved: false,
            signature: 0,
            signatures: 0,
            talker_done: false,
            listener_done: false,
        }
    }

    /// Whether the end that talks may send this content now; it does.
    fn takes(&mut self, index: u64) -> bool {
        if self.owed.remove(&index) {
            return true;
        }
        let paths = self.paths;
        self.given.as_mut().is_some_and(|given| index < paths && given.insert(index))
    }

    /// Checks a message of the end that talks, the same on both ends. `Ok(false)`: the flight ends.
    fn note(&mut self, message: &Message) -> Result<bool, ProtocolError> {
        let contradiction = |what| Err(ProtocolError::Contradiction(what));
        if self.signature > 0
            && !matches!(message, Message::Signature(_) | Message::Ping(_) | Message::Error { .. })
        {
            return contradiction("a signature is incomplete");
        }
        match message {
            Message::Ping(_) | Message::Problem(_) => {}
            Message::Want(want) => {
                if want.index >= self.paths || self.talker_done {
                    return contradiction("a want is not of the plan");
                }
                if !self.asked.insert(want.index) {
                    return contradiction("the same content is wanted twice");
                }
                if let Some(&WantDelta { signature_len, .. }) = want.kind.signed() {
                    self.signature = signature_len;
                    self.signatures = self.signatures.saturating_add(signature_len);
                    if self.signatures > SIGNATURES_MAX {
                        return contradiction("a flight holds too many block hashes");
                    }
                }
            }
            Message::Signature(bytes) => match self.signature.checked_sub(bytes.len() as u64) {
                Some(rest) => self.signature = rest,
                None => return contradiction("a signature is longer than announced"),
            },
            Message::Counted(counted) if self.rehearsal => {
                if !counted.contents.iter().cloned().flatten().all(|index| self.takes(index)) {
                    return contradiction("a content was not asked for");
                }
            }
            Message::File(index) if !self.rehearsal => {
                if self.open.is_some() || !self.takes(*index) {
                    return contradiction("a content was not asked for");
                }
                self.open = Some(*index);
            }
            Message::Patches(patches) if !self.rehearsal => {
                if self.open.is_some()
                    || !patches.contents.iter().all(|content| self.takes(content.index))
                {
                    return contradiction("a content was not asked for");
                }
                self.unproved = true;
            }
            Message::Unresolved(Unresolved { index, .. })
                if self.open.is_none() && self.owed.remove(index) => {}
            Message::Against(_) | Message::Literal(_) | Message::Delta(_) | Message::Segment(_)
                if self.open.is_some() => {}
            Message::FileEnd(hash) if self.open.take().is_some() => {
                self.unproved |= hash.is_none();
            }
            Message::Proof(_) if self.open.is_none() && self.unproved => self.unproved = false,
            Message::FileFailed(failure) => match self.open.take() {
                Some(index) if index == failure.index => {}
                None if self.takes(failure.index) => {}
                _ => return contradiction("a failure is of another file"),
            },
            Message::Done(_) if !self.talker_done && self.asked.is_empty() => {
                self.talker_done = true
            }
            Message::End => {
                if self.open.is_some() || !self.owed.is_empty() {
                    return contradiction("a wanted content did not come");
                }
                if self.unproved {
                    return contradiction("contents were not proved");
                }
                return Ok(false);
            }
            other => {
                return Err(refuse(
                    other.clone(),
                    "carrying out the plan",
                    "contents that were asked for, Want, Done, End",
                ));
            }
        }
        Ok(true)
    }

    /// The other end's turn.
    fn turned(self) -> Book {
        Book {
            paths: self.paths,
            rehearsal: self.rehearsal,
            owed: self.asked,
            asked: BTreeSet::new(),
            given: None,
            open: None,
            unproved: false,
            signature: 0,
            signatures: 0,
            talker_done: self.listener_done,
            listener_done: self.talker_done,
        }
    }

    fn is_over(&self) -> bool {
        self.talker_done && self.listener_done && self.asked.is_empty()
    }
}

/// This end's turn.
#[derive(Debug)]
pub struct Talking {
    role: Role,
    book: Book,
}

/// The other end's turn.
#[derive(Debug)]
pub struct Listening {
    role: Role,
    book: Book,
}

/// After this end's flight.
#[derive(Debug)]
pub enum Next {
    /// The other end answers.
    Listen(Listening),
    /// Both are done.
    Closed,
}

/// What a message of the other end led to.
#[derive(Debug)]
pub enum Heard {
    /// More of its flight is to come.
    More(Listening, Event),
    /// Its flight is over.
    Turn(Talking),
    /// Both are done.
    Closed,
}

/// What the other end said.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// It is still there.
    Nothing,
    /// It wants a content; the signature follows piece by piece if it is wanted as a delta.
    Want(Want),
    /// A piece of the signature of the last want.
    Signature(Vec<u8>),
    /// The content of this path follows.
    File(u64),
    /// Bytes as they are.
    Literal(Vec<u8>),
    /// The next part against the old file.
    Delta(DeltaOp),
    /// The next part, made of parts of the old file.
    Segment(Segment),
    /// What the deltas or segments that follow are against.
    Against(Against),
    /// The content is complete; without a hash, the next proof covers it.
    FileEnd(Option<ContentHash>),
    /// Whole contents against old ones.
    Patches(Patches),
    /// What coarse blocks left unresolved.
    Unresolved(Unresolved),
    /// Proves the contents since the last one.
    Proof(Proof),
    /// The content cannot be had.
    FileFailed(Failure),
    /// It has carried out its part.
    Done(Done),
    /// What would have come, and what it would have cost.
    Counted(Counted),
    /// A person should hear of this.
    Problem(Problem),
}

impl Talking {
    pub(super) fn first(role: Role, paths: usize, intent: Intent) -> Talking {
        Talking { role, book: Book::first(paths, intent) }
    }

    /// Which end this is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The paths whose content this flight has to carry.
    pub fn owed(&self) -> impl Iterator<Item = u64> + '_ {
        self.book.owed.iter().copied()
    }

    /// Whether this end has said that it is done.
    pub fn is_done(&self) -> bool {
        self.book.talker_done
    }

    /// Notes a message that this end sends now. An error here is a fault of this end.
    pub fn send(&mut self, message: &Message) -> Result<(), ProtocolError> {
        self.book.note(message).map(|_| ())
    }

    /// The flight is over; `End` has to be sent.
    pub fn end(mut self) -> Result<Next, ProtocolError> {
        self.book.note(&Message::End)?;
        if self.book.is_over() {
            return Ok(Next::Closed);
        }
        Ok(Next::Listen(Listening { role: self.role, book: self.book.turned() }))
    }
}

impl Listening {
    pub(super) fn first(role: Role, paths: usize, intent: Intent) -> Listening {
        Listening { role, book: Book::first(paths, intent) }
    }

    /// Which end this is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Takes the next message.
    pub fn receive(mut self, message: Message) -> Result<Heard, ProtocolError> {
        if !self.book.note(&message)? {
            if self.book.is_over() {
                return Ok(Heard::Closed);
            }
            return Ok(Heard::Turn(Talking { role: self.role, book: self.book.turned() }));
        }
        let event = match message {
            Message::Want(want) => Event::Want(want),
            Message::Signature(bytes) => Event::Signature(bytes),
            Message::File(index) => Event::File(index),
            Message::Literal(bytes) => Event::Literal(bytes),
            Message::Delta(delta) => Event::Delta(delta),
            Message::Against(against) => Event::Against(against),
            Message::Segment(segment) => Event::Segment(segment),
            Message::Unresolved(unresolved) => Event::Unresolved(unresolved),
            Message::Patches(patches) => Event::Patches(patches),
            Message::Proof(proof) => Event::Proof(proof),
            Message::FileEnd(hash) => Event::FileEnd(hash),
            Message::FileFailed(failure) => Event::FileFailed(failure),
            Message::Counted(counted) => Event::Counted(counted),
            Message::Done(done) => Event::Done(done),
            Message::Problem(problem) => Event::Problem(problem),
            _ => Event::Nothing,
        };
        Ok(Heard::More(self, event))
    }
}
