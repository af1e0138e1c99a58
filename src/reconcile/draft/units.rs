//! What belongs together is settled together: half of each side's would be worth nothing.

use psync_protocol::{Content, Role};

use super::super::Rows;
use super::super::decide::{Fate, Ruling, is_delete_modify};
use super::super::matter::Matter;
use super::super::policy::{self, Way};
use super::super::units::{Shapes, Unit};
use super::{Drafter, Planned};
use crate::manifest::database_of;
use crate::report::{ConflictKind, State, Ways};

const WAITS: &str = "another part of what it belongs to waits";
const CHOSEN: &str = "changed on both sides with what it belongs to; a policy chose";

/// Which sides have changed something of a unit.
#[derive(Debug, Clone, Copy, Default)]
struct Changed {
    here: bool,
    there: bool,
}

impl Drafter<'_> {
    fn units(&self) -> Vec<Unit> {
        let paths = self.paths.iter().map(|stand| stand.path());
        self.terms.counsel.units().among(paths, |at| self.shapes(at))
    }

    fn shapes(&self, at: usize) -> Shapes {
        let is_file = |role| {
            let content = &self.row(role, at).content;
            matches!(content, Content::File { .. } | Content::Symlink { .. })
        };
        let file = [Role::Initiator, Role::Responder].into_iter().any(is_file);
        Shapes { directory: self.is_directory(at), file }
    }

    /// A unit that both sides have changed is one conflict.
    pub(super) fn settle_units(&mut self) {
        if self.terms.context.source().is_some() {
            return;
        }
        for unit in self.units() {
            let changed = unit.members.iter().fold(Changed::default(), |changed, &at| {
                let member = self.changed_at(at);
                Changed { here: changed.here || member.here, there: changed.there || member.there }
            });
            if changed.here && changed.there {
                self.settle_unit(&unit);
            }
        }
    }

    fn changed_at(&self, at: usize) -> Changed {
        if self.says_nothing(at) {
            return Changed::default();
        }
        let both = Changed { here: true, there: true };
        match self.planned[at] {
            Planned::Ruled(ruling) => match ruling.fate {
                _ if is_delete_modify(self.rows(at), self.terms.context) => both,
                _ if self.matters.contains_key(&at) && ruling.content_resolved => both,
                Fate::KeepBoth(_) => both,
                Fate::Take(Role::Initiator) => Changed { here: true, there: false },
                Fate::Take(Role::Responder) => Changed { here: false, there: true },
                Fate::Agree => Changed::default(),
            },
            Planned::MovedAway(..) | Planned::Arrive { .. } => both,
            Planned::Later(_) if self.matters.contains_key(&at) => both,
            Planned::Later(_) | Planned::Ignore => Changed::default(),
        }
    }

    /// What SQLite puts beside a database when it is only read: no loss, whichever side's it is.
    fn says_nothing(&self, at: usize) -> bool {
        let path = self.paths[at].path();
        let is_empty = |role| match self.row(role, at).content {
            Content::File { size, .. } => size == 0,
            Content::Deleted { .. } => true,
            Content::Directory | Content::Symlink { .. } => false,
        };
        database_of(path).is_some()
            && (path.name().ends_with(b"-shm")
                || is_empty(Role::Initiator) && is_empty(Role::Responder))
    }

    fn settle_unit(&mut self, unit: &Unit) {
        let stands_for_it = self.stands_for(unit);
        let spoken = self.spoken(stands_for_it, ConflictKind::ModifiedBoth);
        // Where one side has no file of it any more, nobody can ask for times and sizes.
        let (rows, kind) = match self.newest_rows(unit) {
            Some(rows) => (rows, ConflictKind::ModifiedBoth),
            None => (self.rows(stands_for_it), ConflictKind::DeleteModify),
        };
        let (context, names) = (self.terms.context, self.terms.counsel.names());
        let way = policy::way(kind, rows, context, &spoken.policy, names);
        let taken = match way {
            Way::Side(role) if self.can_take(unit, role) => Some(role),
            Way::Side(_) | Way::Both | Way::Wait { .. } => None,
        };
        let ways = Ways {
            local: self.can_take(unit, Role::Initiator),
            remote: self.can_take(unit, Role::Responder),
            ..Ways::NONE
        };
        for &at in &unit.members {
            self.matters.remove(&at);
            match taken {
                Some(role) => self.take_member(at, role),
                None => self.put_off(at),
            }
        }
        let name = &unit.name;
        let (rule, state, outcome) = match (taken, way) {
            (Some(_), _) => {
                let outcome = policy::outcome(&spoken.policy, ConflictKind::ModifiedBoth);
                (
                    spoken.rule,
                    State::Settled { clash: None },
                    format!("{name} as a whole: {outcome}"),
                )
            }
            (None, Way::Both) => {
                let rule = "hold: what belongs together is not kept twice".to_string();
                (rule, State::Held { to_merge: false }, held(name))
            }
            (None, _) => (spoken.rule, State::Held { to_merge: false }, held(name)),
        };
        let chosen = taken.is_some() && spoken.asked;
        let matter = Matter { kind: ConflictKind::ModifiedBoth, rule, state, outcome, chosen };
        self.matters.insert(stands_for_it, matter);
        self.ways.insert(stands_for_it, ways);
    }

    /// The member under whose path a person is told of the unit.
    fn stands_for(&self, unit: &Unit) -> usize {
        let members = || unit.members.iter().copied();
        members()
            .find(|&at| *self.paths[at].path() == unit.name)
            .or_else(|| members().find(|at| self.matters.contains_key(at)))
            .or_else(|| members().find(|&at| !self.is_silent(at)))
            .or_else(|| members().next())
            .unwrap_or_default()
    }

    /// What each side has that is newest, of the members that are files: for policies that ask for
    /// times and sizes.
    fn newest_rows(&self, unit: &Unit) -> Option<Rows<'_>> {
        let newest = |role| {
            let rows = unit.members.iter().map(|&at| self.row(role, at));
            let files = rows.filter(|row| matches!(row.content, Content::File { .. }));
            files.max_by_key(|row| row.props.mtime)
        };
        Some(Rows { initiator: newest(Role::Initiator)?, responder: newest(Role::Responder)? })
    }

    /// Whether all of a side can be taken: of what the other side has not told, its row is missing;
    /// and where two meet for the first time nothing is deleted.
    fn can_take(&self, unit: &Unit, role: Role) -> bool {
        let told = |at: &usize| role == Role::Initiator || !self.is_silent(*at);
        let barred = |at: &usize| self.barred(*at, &Ruling::take(role, "")).is_some();
        !self.terms.context.first_contact
            && unit.members.iter().all(told)
            && !unit.members.iter().any(barred)
    }

    fn take_member(&mut self, at: usize, role: Role) {
        match self.planned[at] {
            Planned::Ruled(Ruling { fate: Fate::Agree, .. }) | Planned::Ignore => {}
            _ => self.planned[at] = Planned::Ruled(Ruling::take(role, CHOSEN).resolved()),
        }
    }

    /// Puts a member off, with what is settled together with it.
    fn put_off(&mut self, at: usize) {
        let rows = self.rows(at);
        match self.planned[at] {
            Planned::Ignore => return,
            Planned::Ruled(ruling)
                if ruling.fate == Fate::Agree
                    && ![Role::Initiator, Role::Responder]
                        .into_iter()
                        .any(|on| policy::changes(on, &ruling, rows)) =>
            {
                return;
            }
            _ => {}
        }
        self.wait(at);
        self.planned[at] = Planned::Later(WAITS);
    }

    /// Where one member of a unit waits, all wait. Says whether anything was put off.
    pub(super) fn wait_as_units(&mut self) -> bool {
        let mut any = false;
        for unit in self.units() {
            let waits =
                unit.members.iter().any(|&at| matches!(self.planned[at], Planned::Later(_)));
            for at in unit.members.into_iter().filter(|_| waits) {
                let moves = match self.planned[at] {
                    Planned::Ruled(ruling) => ruling.fate != Fate::Agree,
                    Planned::MovedAway(..) | Planned::Arrive { .. } => true,
                    Planned::Ignore | Planned::Later(_) => false,
                };
                if moves {
                    self.put_off(at);
                    any = true;
                }
            }
        }
        any
    }
}

fn held(name: &psync_protocol::RelPath) -> String {
    format!(
        "held: {name} belongs together, and both sides have changed it; nothing of it is touched until somebody decides"
    )
}
