//! What a batch is about to do, for the journal: announced before the tree is touched, corrected
//! where it came otherwise, and confirmed.

use std::ops::Range;

use psync_protocol::RelPath;

use super::{Act, Applier, Beside, Ready, Task};
use crate::journal::{Correction, Deed, Kept, State, What};
use crate::manifest::Stored;
use crate::root::Displaced;

/// The batch that is being carried out.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The deeds of the task at work, as numbers in the batch.
    current: Range<usize>,
    corrections: Vec<(usize, Correction)>,
}

impl Applier<'_> {
    /// Announces what a batch will do. Returns how many deeds each task has.
    pub(super) fn announce_deeds(&mut self, batch: &[Ready]) -> Vec<usize> {
        self.deeds = Batch::default();
        if !self.journal.is_running() {
            return vec![0; batch.len()];
        }
        let mut deeds = Vec::with_capacity(batch.len());
        let counts = batch.iter().map(|ready| {
            let before = deeds.len();
            self.deeds_of(ready, &mut deeds);
            deeds.len() - before
        });
        let counts = counts.collect();
        self.journal.announce(deeds);
        counts
    }

    /// The next task, with so many deeds, is carried out.
    pub(super) fn next_deeds(&mut self, count: usize) {
        let start = self.deeds.current.end;
        self.deeds.current = start..start + count;
    }

    /// The task was not carried out.
    pub(super) fn deeds_failed(&mut self) {
        let Batch { current, corrections } = &mut self.deeds;
        corrections.extend(current.clone().map(|at| (at, Correction::NotDone)));
    }

    /// The batch is done.
    pub(super) fn confirm_deeds(&mut self) {
        let batch = std::mem::take(&mut self.deeds);
        self.journal.confirm(&batch.corrections);
    }

    fn correct(&mut self, path: &RelPath, correction: Correction) {
        if let Some(at) = self.journal.announced(path, self.deeds.current.start)
            && at < self.deeds.current.end
        {
            self.deeds.corrections.push((at, correction));
        }
    }

    /// Nothing happened at this path.
    pub(super) fn deed_not_done(&mut self, path: &RelPath) {
        self.correct(path, Correction::NotDone);
    }

    /// What stood at a path is in the trash now, and stays there if it is to: else a note says so,
    /// and it goes when the run is over, as long as it may be the base of what is to come.
    pub(super) fn settle_displaced(&mut self, task: &Task, displaced: Displaced) {
        let (size, place) = (displaced.stat.size, displaced.place().to_vec());
        self.note_trashed(task, &place);
        // What lost against another change is on no other side: it is kept whatever its size.
        let is_loser = self.agreement.decisions[task.index].content_resolved;
        if is_loser || self.retention.takes(&task.path, size) {
            if place != self.trash_place(&task.path) {
                self.correct(&task.path, Correction::Kept(Kept::Trash(place.into())));
            }
            return;
        }
        self.dropped.push(place);
        let deed = if matches!(task.act, Act::Remove) { "deleted" } else { "replaced" };
        let reason = if size > self.retention.trash_max_size {
            format!("larger than trash.max-size ({} bytes)", self.retention.trash_max_size)
        } else {
            "kept out of the trash by the settings".to_string()
        };
        let text = format!("{deed} without a copy in the trash: {size} bytes, {reason}");
        self.notes.push((task.path.clone(), text));
    }

    /// Lets go of what is not to stay in the trash.
    pub(super) fn drop_dropped(&mut self) {
        for place in std::mem::take(&mut self.dropped) {
            // What cannot be removed goes when the trash is gone through.
            let _ = self.staging.remove_trashed(&place);
        }
    }

    /// Where what stands at a path goes, in the trash, if its name is free there.
    fn trash_place(&self, path: &RelPath) -> Vec<u8> {
        [self.names.trash.as_bytes(), path.as_bytes()].join(&b'/')
    }

    /// Where an old file or link will be that a task displaces.
    fn future_place(&self, path: &RelPath, before: Option<&State>) -> Kept {
        match before.map(|state| &state.thing) {
            None | Some(crate::journal::Thing::Directory) => Kept::Nothing,
            Some(thing) if self.retention.takes(path, thing.size()) => {
                Kept::Trash(self.trash_place(path).into())
            }
            Some(_) => Kept::Dropped,
        }
    }

    fn deeds_of(&self, ready: &Ready, deeds: &mut Vec<Deed>) {
        let task = &ready.task;
        let path = task.path.clone();
        let reason = self.reasons.of(task.index);
        let before = task.old.as_ref().and_then(state);
        let after = self.future_content(ready).and_then(|content| {
            let thing = crate::journal::Thing::of(&content)?;
            Some(State::new(thing, task.agreed.props))
        });
        if matches!(task.act, Act::Adopt) || before == after {
            return;
        }
        if let (Beside::Aside(clash), Some(old)) = (&task.beside, &before) {
            let (clash, what) = (clash.clone(), What::Clash(path.clone()));
            let (before, after) = (None, Some(old.clone()));
            deeds.push(Deed { path: clash, what, before, after, kept: Kept::Nothing, reason });
        }
        let what = match (&task.act, &task.beside, &before, &after) {
            (Act::SetProps, ..) => What::Properties,
            (.., None) => What::Delete,
            (_, Beside::Agrees(kept), None, Some(_)) => What::Clash(kept.row.path.clone()),
            (_, _, None, Some(_)) => match &ready.leaves {
                Some(leaves) => What::MoveFrom(leaves.path.clone()),
                None => What::Create,
            },
            (_, _, Some(old), Some(new)) if old.thing.is_like(&new.thing) => What::Update,
            (_, _, Some(_), Some(_)) => What::Retype,
        };
        let kept = match (&task.act, &task.beside) {
            (Act::SetProps, _) => Kept::Nothing,
            (_, Beside::Aside(_)) => Kept::InTree,
            _ => self.future_place(&path, before.as_ref()),
        };
        deeds.push(Deed { path: path.clone(), what, before, after, kept, reason });
        if let Some(leaves) = &ready.leaves {
            deeds.push(Deed {
                path: leaves.path.clone(),
                what: What::MoveTo(path),
                before: leaves.old.as_ref().and_then(state),
                after: None,
                kept: Kept::InTree,
                reason: self.reasons.of(leaves.index),
            });
        }
    }
}

fn state(stored: &Stored) -> Option<State> {
    State::of_row(&stored.row)
}
