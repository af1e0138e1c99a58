//! Contents that stay in memory for whoever wants them, up to a bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that may be held, shared by all who hold some.
#[derive(Debug, Clone)]
pub struct Allowance {
    left: Arc<AtomicUsize>,
}

/// Bytes that are held, until this is dropped.
#[derive(Debug)]
pub struct Hold {
    bytes: usize,
    left: Arc<AtomicUsize>,
}

impl Allowance {
    /// An allowance of so many bytes.
    pub fn of(bytes: usize) -> Allowance {
        Allowance { left: Arc::new(AtomicUsize::new(bytes)) }
    }

    /// Takes so many bytes of it; none where there are fewer.
    pub fn hold(&self, bytes: usize) -> Option<Hold> {
        let take = |left: usize| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(Hold { bytes, left: self.left.clone() })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// A content in memory.
#[derive(Debug)]
pub struct InMemory {
    /// All of it.
    pub content: Arc<Vec<u8>>,
    /// The same as one zstd frame, or as it is where that is not longer, if it came like this.
    pub packed: Option<Vec<u8>>,
    /// What both take.
    pub(super) holds: Vec<Hold>,
}

#[cfg(test)]
impl InMemory {
    /// One that holds nothing of any allowance.
    pub fn of(content: Vec<u8>, packed: Option<Vec<u8>>) -> InMemory {
        InMemory { content: Arc::new(content), packed, holds: Vec::new() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_held_than_is_allowed_and_what_is_dropped_may_be_held_again() {
        let allowance = Allowance::of(10);
        let first = allowance.hold(6).unwrap();
        assert!(allowance.clone().hold(5).is_none());
        let second = allowance.hold(4).unwrap();
        assert!(allowance.hold(1).is_none() && allowance.hold(0).is_some());
        drop(first);
        assert!(allowance.hold(6).is_some());
        drop(second);
        assert!(allowance.hold(10).is_some());
    }
}
