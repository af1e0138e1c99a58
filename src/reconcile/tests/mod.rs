//! The rule matrix cell by cell, its properties, whole plans, and many replicas over time.

mod clashes;
mod exhaustive;
mod guards;
mod model;
mod numbered;
mod policies;
mod properties;
mod rights;
mod table;
mod whole_plans;

use psync_protocol::message::Flow;
use psync_protocol::{
    Check, Content, PropsDecision, RelPath, Relation, ReplicaId, Role, Row, Time, Version,
};

use super::{Context, Fate, Ruling};

/// The replica on whose side the first row of each case is.
const HERE: ReplicaId = ReplicaId([1; 16]);
const THERE: ReplicaId = ReplicaId([2; 16]);
/// Any other replica.
const ELSEWHERE: ReplicaId = ReplicaId([3; 16]);

/// Two replicas that have met before.
const TWO_WAY: Context = Context { flow: Flow::TwoWay, first_contact: false, tie: Role::Initiator };

fn path(name: &str) -> RelPath {
    RelPath::new(name.as_bytes()).unwrap()
}

fn version(pairs: &[(ReplicaId, u64)]) -> Version {
    Version::from_pairs(pairs.to_vec())
}

/// A fingerprint; equal texts have equal ones.
fn check(text: &str) -> Check {
    Check(text.bytes().fold(7, |hash: u64, byte| hash.wrapping_mul(131) + u64::from(byte)))
}

fn file(text: &str) -> Content<Check> {
    Content::File { size: text.len() as u64, hash: check(text) }
}

fn link(target: &str) -> Content<Check> {
    Content::Symlink { target: target.as_bytes().into(), hash: check(target) }
}

/// Nothing has ever been at the path.
fn absent() -> Row<Check> {
    Row::absent(path("f"))
}

/// Both sides have had this since their last session; it is as old as time 10.
fn agreed(content: Content<Check>) -> Row<Check> {
    let both = version(&[(HERE, 1), (THERE, 1)]);
    let mode = if matches!(content, Content::Directory) { 0o755 } else { 0o644 };
    Row { content_version: both.clone(), props_version: both, ..made(content, mode) }
}

/// New at this replica.
fn created(by: ReplicaId, content: Content<Check>) -> Row<Check> {
    let fresh = version(&[(by, 5)]);
    let mode = if matches!(content, Content::Directory) { 0o755 } else { 0o644 };
    Row { content_version: fresh.clone(), props_version: fresh, ..made(content, mode) }
}

fn made(content: Content<Check>, mode: u16) -> Row<Check> {
    let mut row = Row { content, agreed_mode: mode, ..absent() };
    row.props.mode = mode;
    if !matches!(row.content, Content::Directory) {
        row.props.mtime = time(10);
    }
    row
}

fn time(secs: i64) -> Time {
    Time { secs, nanos: 0 }
}

/// What may happen to a row between two sessions, as a scan would record it.
trait Happens: Sized {
    fn becomes(self, by: ReplicaId, content: Content<Check>, at: i64) -> Self;
    fn deleted(self, by: ReplicaId) -> Self;
    fn touched(self, by: ReplicaId, at: i64) -> Self;
    fn chmod(self, by: ReplicaId, mode: u16) -> Self;
    fn moved(self, by: ReplicaId, to: &str) -> Self;
    fn edited(self, by: ReplicaId, text: &str, at: i64) -> Self {
        self.becomes(by, file(text), at)
    }
}

impl Happens for Row<Check> {
    fn becomes(mut self, by: ReplicaId, content: Content<Check>, at: i64) -> Self {
        self.base = self.content.fingerprint();
        self.content = content;
        self.content_version = self.content_version.bump(by, 0);
        self.props.mode = self.props.mode.max(0o644);
        self.touched(by, at)
    }

    fn deleted(mut self, by: ReplicaId) -> Self {
        self.base = self.content.fingerprint();
        self.content = Content::Deleted { moved_to: None };
        self.content_version = self.content_version.bump(by, 0);
        self.agreed_mode = self.props.mode;
        self.props = Default::default();
        self
    }

    fn touched(mut self, by: ReplicaId, at: i64) -> Self {
        self.props.mtime = time(at);
        self.props_version = self.props_version.bump(by, 0);
        self
    }

    fn chmod(mut self, by: ReplicaId, mode: u16) -> Self {
        self.props.mode = mode;
        self.props_version = self.props_version.bump(by, 0);
        self
    }

    fn moved(self, by: ReplicaId, to: &str) -> Self {
        Row { content: Content::Deleted { moved_to: Some(path(to)) }, ..self.deleted(by) }
    }
}

/// The same ruling with the sides exchanged.
fn mirrored(ruling: Ruling) -> Ruling {
    Ruling {
        fate: match ruling.fate {
            Fate::Agree => Fate::Agree,
            Fate::Take(role) => Fate::Take(role.other()),
            Fate::KeepBoth(role) => Fate::KeepBoth(role.other()),
        },
        props: mirrored_props(ruling.props),
        ..ruling
    }
}

fn mirrored_props(props: PropsDecision) -> PropsDecision {
    match props {
        PropsDecision::Take(role) => PropsDecision::Take(role.other()),
        PropsDecision::Agree | PropsDecision::Merge(_) => props,
    }
}

/// Whether a row has all that the other knows of the content, by its version or by what it was
/// made from.
fn supersedes(new: &Row<Check>, old: &Row<Check>) -> bool {
    match new.content_version.compare(&old.content_version) {
        Relation::Newer => true,
        Relation::Equal | Relation::Concurrent => {
            new.base.is_some() && new.base == old.content.fingerprint()
        }
        Relation::Older => false,
    }
}
