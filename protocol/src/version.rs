//! Version vectors: who has changed an entry how often, so that two copies can be told apart as
//! older, newer, or changed on both sides.
//!
//! Source: Parker et al., "Detection of Mutual Inconsistency in Distributed Systems", 1983.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use crate::codec::NUMBER_MAX;

/// A replica: one root on one machine, 128 random bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub [u8; 16]);

/// One life of a replica's index, 64 random bits; sequence numbers mean something only within it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IndexId(pub [u8; 8]);

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0[..4], f)
    }
}

impl fmt::Debug for IndexId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

/// How one version stands to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Relation {
    /// The same changes.
    Equal,
    /// The other has all our changes, and more.
    Older,
    /// We have all the other's changes, and more.
    Newer,
    /// Each has changes that the other has not.
    Concurrent,
}

/// A version vector: replica to counter, sorted by replica, no counter zero. Cloning is cheap:
/// the rows of a tree share few distinct vectors.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Version(Arc<[(ReplicaId, u64)]>);

impl Version {
    /// From pairs in any order; zero counters are dropped, of a replica named twice the higher
    /// counter stays.
    pub fn from_pairs(mut pairs: Vec<(ReplicaId, u64)>) -> Version {
        pairs.retain(|&(_, counter)| counter > 0);
        pairs.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
        pairs.dedup_by_key(|pair| pair.0);
        Version(pairs.into())
    }

    /// The pairs, sorted by replica.
    pub fn pairs(&self) -> &[(ReplicaId, u64)] {
        &self.0
    }

    /// Whether nobody has changed anything: the version of what never existed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// This replica's counter; zero where it has changed nothing.
    pub fn counter(&self, replica: ReplicaId) -> u64 {
        self.0.binary_search_by_key(&replica, |pair| pair.0).map_or(0, |at| self.0[at].1)
    }

    /// How this version stands to `other`.
    pub fn compare(&self, other: &Version) -> Relation {
        if Arc::ptr_eq(&self.0, &other.0) {
            return Relation::Equal;
        }
        let newer = self.0.iter().any(|&(replica, counter)| counter > other.counter(replica));
        let older = other.0.iter().any(|&(replica, counter)| counter > self.counter(replica));
        match (newer, older) {
            (false, false) => Relation::Equal,
            (true, false) => Relation::Newer,
            (false, true) => Relation::Older,
            (true, true) => Relation::Concurrent,
        }
    }

    /// Whether this version has all of the other's changes.
    pub fn includes(&self, other: &Version) -> bool {
        matches!(self.compare(other), Relation::Equal | Relation::Newer)
    }

    /// The changes of both.
    pub fn join(&self, other: &Version) -> Version {
        match self.compare(other) {
            Relation::Equal | Relation::Newer => self.clone(),
            Relation::Older => other.clone(),
            Relation::Concurrent => {
                Version::from_pairs(self.0.iter().chain(other.0.iter()).copied().collect())
            }
        }
    }

    /// One more change by `replica`. `counter` is the replica's own clock (it only grows); the
    /// result is above both the clock's last reading and what the vector held, unless that was the
    /// highest counter that there is: nobody could read a higher one.
    pub fn bump(&self, replica: ReplicaId, counter: u64) -> Version {
        let counter = counter.max(self.counter(replica).saturating_add(1)).min(NUMBER_MAX);
        let others = self.0.iter().copied().filter(|pair| pair.0 != replica);
        Version::from_pairs(others.chain([(replica, counter)]).collect())
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Version) -> Option<Ordering> {
        match self.compare(other) {
            Relation::Equal => Some(Ordering::Equal),
            Relation::Older => Some(Ordering::Less),
            Relation::Newer => Some(Ordering::Greater),
            Relation::Concurrent => None,
        }
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().copied()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn version() -> impl Strategy<Value = Version> {
        prop::collection::vec((0u8..4, 0u64..4), 0..4).prop_map(|pairs| {
            Version::from_pairs(pairs.into_iter().map(|(id, c)| (ReplicaId([id; 16]), c)).collect())
        })
    }

    proptest! {
        #[test]
        fn exchanging_the_sides_exchanges_the_relation(a in version(), b in version()) {
            let mirrored = match b.compare(&a) {
                Relation::Older => Relation::Newer,
                Relation::Newer => Relation::Older,
                same => same,
            };
            prop_assert_eq!(a.compare(&b), mirrored);
        }

        #[test]
        fn a_join_includes_both_and_nothing_more(a in version(), b in version()) {
            let joined = a.join(&b);
            prop_assert!(joined.includes(&a) && joined.includes(&b));
            for (replica, counter) in joined.pairs() {
                prop_assert_eq!(*counter, a.counter(*replica).max(b.counter(*replica)));
            }
        }

        #[test]
        fn a_change_makes_a_newer_version(a in version(), id in 0u8..4, clock in 0u64..6) {
            prop_assert_eq!(a.bump(ReplicaId([id; 16]), clock).compare(&a), Relation::Newer);
        }
    }
}
