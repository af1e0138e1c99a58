//! A rehearsal: both ends go through the flights of a run, make the contents that they would send, and
//! count them instead. What is wanted, with its block hashes, travels: nobody could say without it what
//! would come in answer. Nothing is changed on either side.

use std::collections::BTreeSet;

use psync_protocol::Message;
use psync_protocol::message::{Costs, Counted};

use super::SyncError;
use crate::transport::{Line, Purpose};

/// What a run would cost on the line.
#[derive(Debug, Clone)]
pub struct Predicted {
    /// Bytes each way by what they are for: sent, received.
    pub by_purpose: [(Purpose, u64, u64); Purpose::ALL.len()],
    /// How often the talking side would change.
    pub turns: u64,
    /// How many seconds that would take, as far as the line is known.
    pub seconds: Option<f64>,
}

impl Predicted {
    /// From what has been counted at both ends. Where nothing was rehearsed, as there is nothing to do,
    /// a run is what has been said already. None if this end has not counted.
    pub(super) fn of(line: &Line, theirs: Option<Costs>) -> Option<Predicted> {
        let ours = line.counted()?;
        let traffic = line.traffic();
        let heard = traffic.by_purpose().map(|(_, _, received)| received);
        let theirs = theirs.unwrap_or(heard);
        let by_purpose = std::array::from_fn(|at| (Purpose::ALL[at], ours[at], theirs[at]));
        let turns = line.flights();
        let seconds = line.seconds_for(ours.iter().sum(), theirs.iter().sum(), turns);
        Some(Predicted { by_purpose, turns, seconds })
    }

    /// Bytes that would be sent.
    pub fn sent(&self) -> u64 {
        self.by_purpose.iter().map(|(_, sent, _)| sent).sum()
    }

    /// Bytes that would be received.
    pub fn received(&self) -> u64 {
        self.by_purpose.iter().map(|(_, _, received)| received).sum()
    }
}

/// What one end has counted.
#[derive(Debug, Default)]
pub(super) struct Rehearsal {
    /// The contents of this flight.
    contents: BTreeSet<u64>,
    /// What the other end would have sent.
    pub(super) theirs: Option<Costs>,
}

impl Rehearsal {
    /// Whether this is part of a content, which is counted and not sent.
    pub(super) fn keeps_back(&mut self, message: &Message) -> bool {
        match message {
            Message::File(index) => {
                self.contents.insert(*index);
            }
            Message::Patches(patches) => {
                self.contents.extend(patches.contents.iter().map(|content| content.index));
            }
            Message::FileFailed(failure) => {
                self.contents.remove(&failure.index);
                return false;
            }
            Message::Against(_)
            | Message::Literal(_)
            | Message::Delta(_)
            | Message::Segment(_)
            | Message::FileEnd(_)
            | Message::Proof(_) => {}
            _ => return false,
        }
        true
    }

    /// What this end says of its flight before it ends.
    pub(super) fn counted(&mut self, line: &mut Line) -> Result<Vec<Message>, SyncError> {
        let costs = line.count_flight()?;
        let parts = Counted::parts(std::mem::take(&mut self.contents), costs).into_iter();
        Ok(parts.map(Message::Counted).collect())
    }
}
