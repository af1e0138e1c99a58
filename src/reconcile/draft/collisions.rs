//! Names that would be one on the file system of a side: they are held, never merged.

use std::collections::{BTreeMap, HashSet};

use psync_protocol::{RelPath, Role};

use super::super::decide::{Fate, Ruling};
use super::super::matter::Matter;
use super::super::names::collisions;
use super::{Drafter, Planned};
use crate::report::{ConflictKind, State, Ways};

const ONE_NAME: &str = "its name and another are one on a file system";

impl Drafter<'_> {
    /// Holds what would come to stand beside a name that is the same to a side's file system.
    pub(super) fn hold_collisions(&mut self) {
        for (side, folding) in
            [Role::Initiator, Role::Responder].into_iter().zip(self.terms.folding)
        {
            if folding.is_exact() {
                continue;
            }
            let mut held = Vec::new();
            for paths in self.by_directory().into_values() {
                let names: Vec<&[u8]> = paths.iter().map(|path| path.name()).collect();
                for (number, other) in collisions(&names, folding) {
                    let at = self.index_of(paths[number]).filter(|&at| self.comes_to(side, at));
                    held.extend(at.map(|at| (at, paths[other].clone())));
                }
            }
            held.into_iter().for_each(|(at, other)| self.hold_for_name(at, &other, side));
        }
    }

    /// All that is going to stand on either side, by the directories that it stands in.
    fn by_directory(&self) -> BTreeMap<Option<RelPath>, Vec<&RelPath>> {
        let planned = (0..self.paths.len()).map(|at| (self.paths[at].path(), self.lives(at)));
        let mut all: HashSet<&RelPath> = self.terms.known.iter().collect();
        for (path, lives) in planned {
            if lives {
                all.insert(path)
            } else {
                all.remove(path)
            };
        }
        let mut directories: BTreeMap<Option<RelPath>, Vec<&RelPath>> = BTreeMap::new();
        for path in all {
            directories.entry(path.parent()).or_default().push(path);
        }
        directories.values_mut().for_each(|paths| paths.sort_unstable());
        directories
    }

    /// Whether something new comes to stand at a path of a side.
    fn comes_to(&self, side: Role, at: usize) -> bool {
        let comes = match self.planned[at] {
            Planned::Ruled(Ruling { fate: Fate::Take(from), .. }) => from != side,
            Planned::Arrive { .. } => true,
            Planned::Ruled(_) | Planned::MovedAway(..) | Planned::Ignore | Planned::Later(_) => {
                false
            }
        };
        comes && self.lives(at) && !self.row(side, at).content.is_live()
    }

    fn hold_for_name(&mut self, at: usize, other: &RelPath, side: Role) {
        let whose = match side {
            Role::Initiator => "this side's",
            Role::Responder => "the other side's",
        };
        let matter = Matter {
            kind: ConflictKind::CreatedBoth,
            rule: format!("names that are one on {whose} file system"),
            state: State::Held { to_merge: false },
            outcome: format!(
                "held: it and {other} are one name on {whose} file system; rename one of them"
            ),
            chosen: false,
        };
        if let Planned::Arrive { source, .. } = self.planned[at] {
            self.planned[source] = Planned::Later(ONE_NAME);
        }
        self.matters.insert(at, matter);
        self.ways.insert(at, Ways::NONE);
        self.planned[at] = Planned::Later(ONE_NAME);
    }
}
