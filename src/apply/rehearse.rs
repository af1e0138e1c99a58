//! A plan that is rehearsed: what would have to come from the peer is asked for, and nothing is done.

use super::task::{self, Brief};
use super::{Act, Applier, ApplyError};

impl Applier<'_> {
    /// In place of [`Applier::begin`]: finds out what has to come, and changes nothing.
    pub fn rehearse(&mut self) -> Result<(), ApplyError> {
        let brief = Brief {
            role: self.role,
            agreement: self.agreement,
            their_key: &self.keys.theirs,
            permit: &self.permit,
        };
        let index = &mut *self.index;
        let mut tasks = task::tasks(brief, |paths| Ok::<_, ApplyError>(index.rows_at(paths)?))?;
        tasks.retain(|task| matches!(task.act, Act::Fetch { size: 1.., .. }));
        let here = self.find_contents(&tasks)?;
        for task in tasks {
            let Act::Fetch { check, .. } = task.act else { continue };
            let is_here = here.get(&check).is_some_and(|paths| !paths.is_empty());
            if !is_here && let Some(fetching) = self.fetching(task) {
                self.fetch(fetching);
            }
        }
        Ok(())
    }

    /// A content would have come now.
    pub fn counted(&mut self, index: u64) {
        // It is asked for no more, and that is all.
        let _ = self.expected(index);
    }
}
