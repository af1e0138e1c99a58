//! What a run came to, in numbers.

use indicatif::HumanBytes;
use psync_protocol::Role;

use crate::report::{Action, Deed, Kind, TroubleKind};
use crate::sync::Outcome;
use crate::transport::Purpose;

/// Numbers of one kind of action.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) files: u64,
    pub(super) directories: u64,
    pub(super) bytes: u64,
}

impl Tally {
    fn add(&mut self, action: &Action) {
        match action.kind {
            Kind::Directory => self.directories += 1,
            Kind::File | Kind::Symlink => self.files += 1,
        }
        self.bytes += action.size;
    }

    pub(super) fn all(&self) -> u64 {
        self.files + self.directories
    }
}

/// The kinds of action, by side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct SideTally {
    pub(super) created: Tally,
    pub(super) updated: Tally,
    pub(super) deleted: Tally,
    pub(super) moved: Tally,
    pub(super) properties: Tally,
    pub(super) kept_both: Tally,
}

impl SideTally {
    pub(super) fn of(actions: &[Action], on: Role) -> SideTally {
        let mut tally = SideTally::default();
        for action in actions.iter().filter(|action| action.on == on) {
            let kind = match action.deed {
                Deed::Create => &mut tally.created,
                Deed::Update => &mut tally.updated,
                Deed::Delete => &mut tally.deleted,
                Deed::Move { .. } => &mut tally.moved,
                Deed::Properties { .. } => &mut tally.properties,
                Deed::KeepBoth { .. } => &mut tally.kept_both,
            };
            kind.add(action);
        }
        tally
    }

    pub(super) fn parts(&self) -> [(&'static str, Tally); 6] {
        [
            ("created", self.created),
            ("updated", self.updated),
            ("deleted", self.deleted),
            ("moved", self.moved),
            ("properties", self.properties),
            ("kept-both", self.kept_both),
        ]
    }
}

/// How often each kind of trouble was told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct TroubleCount {
    pub(super) failed: u64,
    pub(super) changed: u64,
    pub(super) other: u64,
}

impl TroubleCount {
    pub(super) fn add(&mut self, kind: TroubleKind) {
        match kind {
            TroubleKind::System => self.failed += 1,
            TroubleKind::Changed => self.changed += 1,
            TroubleKind::Note | TroubleKind::Special | TroubleKind::Pattern => self.other += 1,
        }
    }
}

/// What crossed the line, and how long it took.
#[derive(Debug, Clone, Copy)]
pub(super) struct LineNumbers {
    pub(super) sent: u64,
    pub(super) received: u64,
    /// The same bytes by what they were for: sent, received.
    pub(super) by_purpose: [(Purpose, u64, u64); Purpose::ALL.len()],
    pub(super) turns: u64,
    pub(super) seconds: f64,
}

/// What a run came to, in a line.
pub(super) fn brief(outcome: &Outcome, troubles: TroubleCount, line: LineNumbers) -> String {
    let sides = [Role::Initiator, Role::Responder];
    let [here, there] = sides.map(|role| SideTally::of(&outcome.actions, role).parts());
    let together = here.into_iter().zip(there).map(|((name, a), (_, b))| (a.all() + b.all(), name));
    let numbers = [
        (outcome.conflicts.len() as u64, "conflicts"),
        (troubles.failed, "failed"),
        (troubles.changed, "changed during the run"),
    ];
    let counted: Vec<String> = together
        .chain(numbers)
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{count} {name}"))
        .collect();
    if counted.is_empty() {
        return "nothing to do".into();
    }
    let bytes = HumanBytes(line.sent + line.received);
    format!("{}; {bytes} in {:.1} s", counted.join(", "), line.seconds)
}
