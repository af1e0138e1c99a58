//! What a rehearsal says in the place of contents.

use std::ops::Range;

use crate::codec::{NUMBER_MAX, Put, Reader};
use crate::error::DecodeError;

/// Most runs of contents in one `Counted`.
pub const COUNTED_RUNS_MAX: usize = 65_536;
/// What bytes on the line are counted by.
pub const COSTS: usize = 7;

/// Bytes on the line by what they are for: handshake, manifests, signatures, contents whole, against
/// blocks, against old contents, and the rest.
pub type Costs = [u64; COSTS];

/// Which contents would have come in this flight, and what all that the sender would have said so far
/// takes on the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// Numbers of paths in the plan: runs that ascend and do not touch, none of them empty.
    pub contents: Vec<Range<u64>>,
    /// The bytes of the sender's direction up to the end of this flight.
    pub costs: Costs,
}

impl Counted {
    /// In as many messages as it takes, at least one. `contents` ascend, each once.
    pub fn parts(contents: impl IntoIterator<Item = u64>, costs: Costs) -> Vec<Counted> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for index in contents {
            match runs.last_mut() {
                Some(run) if run.end == index => run.end += 1,
                _ => runs.push(index..index + 1),
            }
        }
        if runs.is_empty() {
            return vec![Counted { contents: runs, costs }];
        }
        let parts = runs.chunks(COUNTED_RUNS_MAX);
        parts.map(|part| Counted { contents: part.to_vec(), costs }).collect()
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_varint(self.contents.len() as u64);
        let mut end = 0;
        for run in &self.contents {
            out.put_varint(run.start.saturating_sub(end));
            out.put_varint(run.end.saturating_sub(run.start));
            end = run.end;
        }
        self.costs.iter().for_each(|bytes| out.put_varint(*bytes));
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Counted, DecodeError> {
        let count = r.count("a count of runs", COUNTED_RUNS_MAX)?;
        let mut contents = Vec::with_capacity(count);
        let mut end = 0u64;
        for number in 0..count {
            let (skipped, length) = (r.number("skipped paths")?, r.number("a run of paths")?);
            let wrong = DecodeError::Invalid("a run of paths");
            if length == 0 || skipped == 0 && number > 0 {
                return Err(wrong);
            }
            // Numbers have 63 bits: the first sum fits, whatever came.
            let start = end + skipped;
            end = start.checked_add(length).filter(|end| *end <= NUMBER_MAX).ok_or(wrong)?;
            contents.push(start..end);
        }
        let mut costs = [0; COSTS];
        for bytes in &mut costs {
            *bytes = r.number("bytes on the line")?;
        }
        Ok(Counted { contents, costs })
    }
}
