//! The order of marks and decisions where a statement had changes of known entries: like beside
//! like, so that they are few runs.

use std::collections::HashMap;

use super::Paths;
use crate::RelPath;
use crate::changes::Fate;
use crate::entry::{Check, Row};

/// How the initiator's row of a path was stated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Manner {
    Kept,
    Edited,
    Deleted,
    Told,
    Unstated,
    KeptThere,
    EditedThere,
    DeletedThere,
}

/// What became of the known entries that a statement told of by number. Of a statement without any,
/// the order is that of the paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manners(HashMap<RelPath, Manner>);

impl Manners {
    /// Whether nothing was told by number.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Notes the fate of a known entry.
    pub fn note(&mut self, path: RelPath, fate: &Fate) {
        let manner = match fate {
            Fate::Kept { .. } => Manner::Kept,
            Fate::Edited { .. } => Manner::Edited,
            Fate::Deleted => Manner::Deleted,
        };
        self.0.insert(path, manner);
    }

    fn of(&self, path: &RelPath) -> Manner {
        self.0.get(path).copied().unwrap_or(Manner::Told)
    }

    /// The order of the marks of these rows.
    pub(super) fn of_rows(&self, rows: &[Row<Check>]) -> Order {
        if self.is_empty() {
            return Order(None);
        }
        Order::of(rows.iter().map(|row| self.of(&row.path)).collect())
    }

    /// The order of the decisions about these paths, before extra rows are among them. These are
    /// the initiator's manners, and `theirs` the responder's.
    pub(super) fn of_paths(&self, theirs: &Manners, paths: &Paths) -> Order {
        if self.is_empty() && theirs.is_empty() {
            return Order(None);
        }
        let manner = |stand: &super::Stand| match &stand.initiator {
            Some(row) => self.of(&row.path),
            None => match theirs.of(stand.path()) {
                Manner::Kept => Manner::KeptThere,
                Manner::Edited => Manner::EditedThere,
                Manner::Deleted => Manner::DeletedThere,
                _ => Manner::Unstated,
            },
        };
        Order::of(paths.iter().map(manner).collect())
    }
}

/// An order to travel in; none: as they are.
#[derive(Debug)]
pub(super) struct Order(Option<Vec<usize>>);

impl Order {
    fn of(manners: Vec<Manner>) -> Order {
        let mut order: Vec<usize> = (0..manners.len()).collect();
        order.sort_by_key(|&at| manners[at]);
        Order(Some(order))
    }

    /// Puts items into this order. There must be as many as the order is of, or they stay.
    pub(super) fn arrange<T: Clone>(&self, items: &[T]) -> Vec<T> {
        match &self.0 {
            Some(order) if order.len() == items.len() => {
                order.iter().map(|&at| items[at].clone()).collect()
            }
            _ => items.to_vec(),
        }
    }

    /// Puts items that were in this order back.
    pub(super) fn restore<T>(&self, items: Vec<T>) -> Vec<T> {
        match &self.0 {
            Some(order) if order.len() == items.len() => {
                let mut placed: Vec<(usize, T)> = order.iter().copied().zip(items).collect();
                placed.sort_unstable_by_key(|(at, _)| *at);
                placed.into_iter().map(|(_, item)| item).collect()
            }
            _ => items,
        }
    }
}
