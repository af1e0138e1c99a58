//! Room for what comes: a content that does not fit fails alone, and the others go on.

use psync_protocol::message::FailureKind;

use super::fetch::Fetching;
use super::{Applier, Trouble};
use crate::root::{Claim, NoRoom, Room, Space};

/// What may still be asked for in one flight.
#[derive(Debug)]
pub(super) struct Plenty {
    free: u64,
    keep: u64,
    quota: u64,
    staged: u64,
    asked: u64,
    /// Whether some of what is staged leaves the stage in this flight or the next one.
    moves: bool,
}

/// What comes of asking for one content more.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asking {
    /// There is room for it.
    Now,
    /// There will be, once what was asked for before it has left the stage.
    Later,
    /// There is none.
    Never(NoRoom),
}

impl Plenty {
    /// Whether a content of this size may be asked for besides those before it.
    pub(super) fn ask(&mut self, size: u64) -> Asking {
        let (free, keep, quota) = (self.free, self.keep, self.quota);
        if self.asked.saturating_add(size).saturating_add(keep) > free {
            return Asking::Never(NoRoom::Disk { size, free: free - self.asked, keep });
        }
        if (self.staged + self.asked).saturating_add(size) > quota {
            return match size <= quota && (self.moves || self.asked > 0) {
                true => Asking::Later,
                false => Asking::Never(NoRoom::Quota { size, quota }),
            };
        }
        self.asked += size;
        Asking::Now
    }
}

impl From<NoRoom> for Trouble {
    fn from(reason: NoRoom) -> Trouble {
        Trouble { kind: FailureKind::System, text: reason.to_string() }
    }
}

impl Applier<'_> {
    /// No more of the disk may be taken than this.
    pub fn keep_within(&mut self, space: Space) {
        self.room = Room::new(space);
    }

    /// Room in the stage for a content that comes.
    pub(super) fn claim(&self, size: u64) -> Result<Claim, NoRoom> {
        self.room.claim(self.staging.stage(), size)
    }

    /// What may be asked for now.
    pub(super) fn plenty(&self) -> Plenty {
        let (free, keep) = self.room.look(self.staging.stage());
        let (quota, staged) = (self.room.quota(), self.room.staged());
        let moves = !(self.asked.is_empty()
            && self.unproved.is_empty()
            && self.batch.is_empty()
            && self.closed.is_empty());
        Plenty { free, keep, quota, staged, asked: 0, moves }
    }

    /// A content came for which there is no room: one that nobody asked for may come when it is
    /// asked for.
    pub(super) fn no_room(&mut self, mut fetching: Fetching, reason: NoRoom) {
        let may_fit = matches!(reason, NoRoom::Quota { size, quota } if size <= quota);
        if may_fit && !fetching.put_off {
            fetching.put_off = true;
            self.fetch(fetching);
        } else {
            self.fail(fetching.task.index, reason.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_no_flight_is_told_apart_from_what_fits_the_next_one() {
        let mut plenty =
            Plenty { free: 1000, keep: 100, quota: 300, staged: 0, asked: 0, moves: false };
        assert_eq!(plenty.ask(200), Asking::Now);
        assert_eq!(plenty.ask(200), Asking::Later);
        assert_eq!(plenty.ask(100), Asking::Now);
        let quota = NoRoom::Quota { size: 301, quota: 300 };
        assert_eq!(plenty.ask(301), Asking::Never(quota));
        let disk = NoRoom::Disk { size: 601, free: 700, keep: 100 };
        assert_eq!(plenty.ask(601), Asking::Never(disk));
        // What stays in the stage whatever happens is waited for by nobody.
        let mut stuck =
            Plenty { free: 1000, keep: 0, quota: 300, staged: 250, asked: 0, moves: false };
        assert_eq!(stuck.ask(60), Asking::Never(NoRoom::Quota { size: 60, quota: 300 }));
        stuck.moves = true;
        assert_eq!(stuck.ask(60), Asking::Later);
    }
}
