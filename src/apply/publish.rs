//! Moving staged things into the tree, and things out of it.
//!
//! A batch goes through five steps: staged files are made durable; the index announces what is
//! about to be true; the tree is changed, one rename for each path; the directories are made
//! durable; the index records what is true. A crash anywhere in between leaves each path wholly
//! old or wholly new, and the next scan recognises what was announced.

use std::io;
use std::time::{Instant, SystemTime};

use psync_protocol::{Content, ContentHash, Props, RelPath};

use super::task::{fresh, settled};
use super::{Act, Applier, ApplyError, Beside, Ready, Task, Trouble};
use crate::manifest::{Stamp, Stored};
use crate::reconcile::clash_name;
use crate::root::{Displaced, FileKind, HeldDir, Staged, Staging, Stat};

/// Most tasks in one batch; and in one that puts nothing into its place.
const BATCH_TASKS: usize = 8192;
const QUIET_TASKS: usize = 65_536;
/// Up to this many files each is made durable by itself; beyond, the whole file system at once,
/// which is cheaper (88 against 278 microseconds a file, measured).
const SYNC_EACH: usize = 8;
/// What is said of the parts of a unit that could not be published whole.
const FOLLOWS: &str = "another part of what it belongs to failed; the next run begins with it";

impl Applier<'_> {
    /// Carries out tasks whose content is staged.
    pub(super) fn commit_all(&mut self, ready: Vec<Ready>) -> Result<(), ApplyError> {
        let (whole, rest) = self.together.gather(ready);
        for unit in whole {
            self.commit_whole(unit)?;
        }
        let most = if rest.iter().any(is_move) { BATCH_TASKS } else { QUIET_TASKS };
        let mut rest = rest.into_iter().peekable();
        while rest.peek().is_some() {
            let batch: Vec<Ready> = rest.by_ref().take(most).collect();
            self.commit(batch)?;
        }
        Ok(())
    }

    /// Carries out what has been received so far.
    pub(super) fn commit_batch(&mut self) -> Result<(), ApplyError> {
        self.close_batch()?;
        self.commit_closed()
    }

    /// No more comes to the batch that is being received. It is carried out when it is written, so
    /// that others are received and written meanwhile; at the latest when the next one is closed.
    pub(super) fn close_batch(&mut self) -> Result<(), ApplyError> {
        self.commit_closed()?;
        self.batch_bytes = 0;
        self.closed = std::mem::take(&mut self.batch);
        self.committed = Instant::now();
        Ok(())
    }

    /// Whether a batch that has come is written, and can be put in its place: work that takes a
    /// while.
    pub fn has_work(&self) -> bool {
        let Some(last) = self.closed.last() else { return false };
        // They are written in their order, or nearly so; the rest is waited for.
        match (&last.staged, &self.stager) {
            (Some(staged), Some(stager)) => stager.is_done(staged.name()),
            (None, _) | (_, None) => true,
        }
    }

    /// Puts in its place what has come in a batch before the one that is coming.
    pub fn commit_closed(&mut self) -> Result<(), ApplyError> {
        let closed = std::mem::take(&mut self.closed);
        self.commit_all(closed)
    }

    pub(super) fn commit(&mut self, batch: Vec<Ready>) -> Result<(), ApplyError> {
        let batch = self.prepared(batch);
        self.publish_batch(batch, None)
    }

    /// What is staged and could be given its properties; the rest has failed.
    pub(super) fn prepared(&mut self, batch: Vec<Ready>) -> Vec<Ready> {
        let batch = self.all_written(batch);
        self.with_props(batch)
    }

    /// Puts a batch in its place; `whole` is the name of what it must not be seen half of.
    pub(super) fn publish_batch(
        &mut self,
        batch: Vec<Ready>,
        whole: Option<&RelPath>,
    ) -> Result<(), ApplyError> {
        let touches = batch.iter().filter(|ready| !matches!(ready.task.act, Act::Adopt)).count();
        // A mode or a time that was set and not recorded is found by the next scan, and agrees.
        let moves = batch.iter().any(is_move);
        self.ahead = Vec::new().into_iter().peekable();
        if moves {
            self.make_staged_durable(&batch);
            let announced: Vec<Stored> =
                batch.iter().flat_map(|ready| self.intended(ready)).collect();
            self.index.transaction(|index| index.announce(announced.iter()))?;
        }
        if let Some(name) = whole
            && let Err(trouble) = self.promise(name, &batch)
        {
            self.index.transaction(|index| index.forget_announced())?;
            self.give_up_parts(batch, &trouble.text);
            return Ok(());
        }
        let deeds = self.announce_deeds(&batch);
        let moment = SystemTime::now();
        self.promised = whole.is_some();
        if self.promised
            && let Err(trouble) = self.clear_journals(&batch)
        {
            self.promised = false;
            self.staging.promise_is_kept();
            deeds.into_iter().for_each(|deeds| {
                self.next_deeds(deeds);
                self.deeds_failed();
            });
            self.confirm_deeds();
            self.index.transaction(|index| index.forget_announced())?;
            self.give_up_parts(batch, &trouble.text);
            return Ok(());
        }
        self.held = HeldDir::default();
        let mut rows = Vec::with_capacity(batch.len());
        let mut touched = Vec::with_capacity(batch.len());
        for (ready, deeds) in batch.into_iter().zip(deeds) {
            self.next_deeds(deeds);
            let index = ready.task.index;
            let path = ready.task.path.clone();
            let leaves = ready.leaves.as_ref().map(|leaves| leaves.index);
            let done = match self.unfinished {
                true if self.promised => Err(Trouble::changed(FOLLOWS)),
                _ => self.carry_out(ready, moment, &mut rows),
            };
            match done {
                Ok(()) => {
                    touched.push(path);
                }
                Err(trouble) => {
                    // The old name stays until the new one stands.
                    if let Some(leaves) = leaves {
                        self.fail(leaves, Trouble::changed("it could not be moved"));
                    }
                    self.deeds_failed();
                    self.fail(index, trouble);
                    self.unfinished |= self.promised;
                }
            }
        }
        self.held = HeldDir::default();
        if touches > 0 {
            self.make_tree_durable(&touched);
        }
        if std::mem::take(&mut self.promised) && !self.unfinished {
            self.staging.promise_is_kept();
        }
        self.index.transaction(|index| {
            index.put_all(&rows)?;
            if moves {
                index.forget_announced()?;
            }
            Ok(())
        })?;
        if moves {
            self.bases.note_moves();
        }
        self.confirm_deeds();
        Ok(())
    }

    /// Waits until the staged files are written, and leaves out those that could not be.
    fn all_written(&mut self, batch: Vec<Ready>) -> Vec<Ready> {
        let Some(stager) = self.stager.take() else { return batch };
        let mut kept = Vec::with_capacity(batch.len());
        for mut ready in batch {
            ready.staged.iter().for_each(|staged| stager.wait_for(staged));
            match ready.staged.as_ref().and_then(|staged| stager.failed(staged)) {
                None => kept.push(ready),
                Some(error) => {
                    ready.staged.take().into_iter().for_each(|staged| self.staging.discard(staged));
                    self.fail(ready.task.index, Trouble::system("write to .psync/stage")(error));
                }
            }
        }
        self.stager = Some(stager);
        kept
    }

    /// Gives staged files the properties that they will have in the tree: a file never stands
    /// there with others. A second name of a file in the tree gets them later.
    fn with_props(&mut self, mut batch: Vec<Ready>) -> Vec<Ready> {
        batch.retain_mut(|ready| {
            let Err(error) = self.give_props(ready) else { return true };
            ready.staged.take().into_iter().for_each(|staged| self.staging.discard(staged));
            let trouble = Trouble::system("set mode and time of the staged file")(error);
            self.fail(ready.task.index, trouble);
            false
        });
        batch
    }

    fn give_props(&self, ready: &Ready) -> io::Result<()> {
        let is_file = matches!(ready.content, Some(Content::File { .. }));
        match &ready.staged {
            Some(staged) if is_file && ready.leaves.is_none() && !staged.is_ready() => {
                // Where nothing is expected, nobody's file is replaced.
                if ready.task.old.is_some()
                    && let Ok(Some(stat)) = self.root.stat(&ready.task.path)
                {
                    self.staging.set_owner(staged, stat.owner);
                }
                self.staging.set_props(staged, ready.task.agreed.props)
            }
            _ => Ok(()),
        }
    }

    fn make_staged_durable(&mut self, batch: &[Ready]) {
        let staged: Vec<&Staged> = batch.iter().filter_map(|ready| ready.staged.as_ref()).collect();
        if staged.len() > SYNC_EACH {
            self.tell_unsynced(self.root.sync_all());
        } else {
            for staged in staged {
                self.tell_unsynced(self.staging.sync(staged));
            }
        }
    }

    fn make_tree_durable(&mut self, touched: &[RelPath]) {
        // One path of each directory.
        let mut firsts: Vec<&RelPath> = Vec::new();
        for path in touched {
            let above = path.split().0;
            if firsts.iter().any(|first| first.split().0 == above) {
                continue;
            }
            if firsts.len() == SYNC_EACH {
                self.tell_unsynced(self.root.sync_all());
                return;
            }
            firsts.push(path);
        }
        for path in firsts {
            match self.root.sync_parent(path) {
                Err(error) if !crate::root::is_absent(&error) => self.tell_unsynced(Err(error)),
                Ok(()) | Err(_) => {}
            }
        }
    }

    /// A disk that cannot be flushed is worth a word, but the files are there.
    fn tell_unsynced(&mut self, result: io::Result<()>) {
        if let (Err(error), Some(stand)) = (result, self.agreement.paths.get(0)) {
            self.notes.push((
                stand.path().clone(),
                format!("the disk does not confirm that changes are durable: {error}"),
            ));
        }
    }

    /// The rows that a task will make true, as far as a scan could come upon them.
    fn intended(&self, ready: &Ready) -> Vec<Stored> {
        let task = &ready.task;
        let mut rows = Vec::new();
        if let Act::Remove = task.act {
            rows.push(self.tombstone(task));
        } else if let Some(content) = self.future_content(ready) {
            rows.push(settled(
                &task.agreed,
                content,
                task.old.as_ref(),
                Stamp::UNKNOWN,
                0,
                task.path.clone(),
            ));
        }
        if let (Beside::Aside(clash), Some(old)) = (&task.beside, &task.old) {
            rows.push(self.clash_row(clash, old, Stamp::UNKNOWN, 0));
        }
        if let Some(leaves) = &ready.leaves {
            rows.push(self.tombstone(leaves));
        }
        rows
    }

    pub(super) fn future_content(&self, ready: &Ready) -> Option<Content<ContentHash>> {
        match &ready.task.act {
            Act::Adopt | Act::Remove => None,
            Act::SetProps => ready.task.old.as_ref().map(|old| old.row.content.clone()),
            Act::MakeDir => Some(Content::Directory),
            Act::MakeLink { target } => Some(link_content(target)),
            Act::Fetch { .. } | Act::Arrive { .. } => ready.content.clone(),
        }
    }

    fn clash_row(&self, clash: &RelPath, old: &Stored, stamp: Stamp, inode: u64) -> Stored {
        let agreed = fresh(&old.row, self.agreement);
        settled(&agreed, old.row.content.clone(), None, stamp, inode, clash.clone())
    }

    fn tombstone(&self, task: &Task) -> Stored {
        let content = Content::Deleted { moved_to: None };
        let row =
            settled(&task.agreed, content, task.old.as_ref(), Stamp::UNKNOWN, 0, task.path.clone());
        Stored { deleted_at: self.names.now, ..row }
    }

    /// Does one task on disk, and says which rows are true now.
    fn carry_out(
        &mut self,
        ready: Ready,
        moment: SystemTime,
        rows: &mut Vec<Stored>,
    ) -> Result<(), Trouble> {
        let Ready { task, staged, content, leaves } = ready;
        let done = match &task.act {
            Act::Adopt => {
                rows.push(self.adopted(&task));
                Ok(())
            }
            Act::SetProps => self.set_props(&task, moment, rows),
            Act::Remove if super::is_directory(&task) => self.remove_directory(&task, rows),
            Act::Remove => self.remove(&task, rows),
            Act::MakeDir => self.make_directory(&task, moment, rows),
            Act::MakeLink { target } => {
                let make = || self.staging.create_link(target, task.agreed.props.mtime);
                let made = staged.map_or_else(make, Ok);
                let staged = made.map_err(Trouble::system("make a symlink in .psync/stage"))?;
                self.publish(&task, staged, link_content(target), None, moment, rows)
            }
            Act::Fetch { .. } | Act::Arrive { .. } => match (staged, content) {
                (Some(staged), Some(content)) => {
                    self.publish(&task, staged, content, leaves, moment, rows)
                }
                _ => Err(Trouble::changed("its content was not received")),
            },
        };
        if let (Ok(()), Beside::Agrees(kept)) = (&done, task.beside) {
            rows.push(*kept);
        }
        done
    }

    fn adopted(&self, task: &Task) -> Stored {
        match &task.old {
            Some(old) => settled(
                &task.agreed,
                old.row.content.clone(),
                Some(old),
                old.stamp,
                old.inode,
                task.path.clone(),
            ),
            None => self.tombstone(task),
        }
    }

    fn stat(&mut self, path: &RelPath) -> Result<Option<Stat>, Trouble> {
        self.root.stat_in(&mut self.held, path).map_err(Trouble::system("look at it"))
    }

    pub(super) fn stat_expected(&mut self, task: &Task) -> Result<Option<Stat>, Trouble> {
        let stat = self.stat(&task.path)?;
        match (&task.old, stat) {
            (Some(old), Some(stat)) if old.row.content.is_live() => {
                self.expect(&task.path, old, &stat)?;
                Ok(Some(stat))
            }
            (_, None) => Ok(None),
            (_, Some(_)) => Err(Trouble::changed(
                "something else stands there that is not synced; move it away",
            )),
        }
    }

    fn set_props(
        &mut self,
        task: &Task,
        moment: SystemTime,
        rows: &mut Vec<Stored>,
    ) -> Result<(), Trouble> {
        let gone = || Trouble::changed("it was deleted during the run; left for the next one");
        let (Some(old), Some(stat)) = (&task.old, self.stat_expected(task)?) else {
            return Err(gone());
        };
        let wanted = task.agreed.props;
        if stat.kind != FileKind::Symlink && stat.mode != wanted.mode {
            self.root.set_mode(&task.path, wanted.mode).map_err(Trouble::system("set its mode"))?;
        }
        if stat.kind != FileKind::Directory && stat.mtime != wanted.mtime {
            self.root
                .set_mtime_in(&mut self.held, &task.path, wanted.mtime)
                .map_err(Trouble::system("set its time"))?;
        }
        let content = old.row.content.clone();
        if stat.kind == FileKind::File {
            rows.push(unread(task, content, stat.inode));
            return Ok(());
        }
        self.record(task, content, moment, rows)
    }

    /// The row of what stands at the task's path now.
    fn record(
        &mut self,
        task: &Task,
        content: Content<ContentHash>,
        moment: SystemTime,
        rows: &mut Vec<Stored>,
    ) -> Result<(), Trouble> {
        let stat = self.stat(&task.path)?;
        let stat = stat.ok_or_else(|| Trouble::changed("it was deleted during the run"))?;
        let stamp = stat.trusted_stamp(moment);
        rows.push(settled(
            &task.agreed,
            content,
            task.old.as_ref(),
            stamp,
            stat.inode,
            task.path.clone(),
        ));
        Ok(())
    }

    /// A file or symlink goes to the trash, if it is what it was when the plan was made.
    fn remove(&mut self, task: &Task, rows: &mut Vec<Stored>) -> Result<(), Trouble> {
        match self.stat_expected(task)? {
            Some(stat) => {
                let displaced = self.withdraw(&task.path, &stat)?;
                self.settle_displaced(task, displaced);
            }
            None => self.deed_not_done(&task.path),
        }
        rows.push(self.tombstone(task));
        Ok(())
    }

    /// Takes out of the tree, to the trash, what was seen there a moment ago, or puts back what
    /// came between.
    pub(super) fn withdraw(&mut self, path: &RelPath, seen: &Stat) -> Result<Displaced, Trouble> {
        let displaced = self.staging.withdraw(self.root, &self.names.trash, path);
        let displaced = displaced.map_err(Trouble::system("move it to .psync/trash"))?;
        if seen.same_content(&displaced.stat) {
            return Ok(displaced);
        }
        match self.staging.put_back(self.root, displaced, path) {
            Ok(()) => Err(Trouble::changed("it changed during the run; left for the next one")),
            Err((displaced, _)) => {
                self.keep_as_clash(displaced, path);
                Err(Trouble::changed("it changed during the run, twice"))
            }
        }
    }

    /// An edit that came between stays in the tree, beside the path, where the next scan finds it;
    /// if that cannot be, it stays in the trash.
    pub(super) fn keep_as_clash(&mut self, displaced: Displaced, path: &RelPath) {
        let root = self.root;
        let mut taken = |name: &RelPath| !root.is_free(name).unwrap_or(false);
        let kept = clash_name(path, &self.names.clash, &mut taken)
            .filter(|name| self.staging.put_back(self.root, displaced, name).is_ok());
        let place = match kept {
            Some(name) => name.to_string(),
            None => format!(".psync/trash/{}/{path}", self.names.trash),
        };
        self.notes.push((
            path.clone(),
            format!("changed while it was replaced; the change is kept as {place}"),
        ));
    }

    fn remove_directory(&mut self, task: &Task, rows: &mut Vec<Stored>) -> Result<(), Trouble> {
        match self.root.remove_dir(&task.path) {
            Ok(()) => {}
            Err(error) if crate::root::is_absent(&error) => self.deed_not_done(&task.path),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                self.deed_not_done(&task.path);
                let text = "deleted on the other side; the directory stays, as it holds files that are not synced";
                self.notes.push((task.path.clone(), text.to_string()));
            }
            Err(error) => return Err(Trouble::system("remove the directory")(error)),
        }
        rows.push(self.tombstone(task));
        Ok(())
    }

    fn make_directory(
        &mut self,
        task: &Task,
        moment: SystemTime,
        rows: &mut Vec<Stored>,
    ) -> Result<(), Trouble> {
        if let Some(stat) = self.root.stat(&task.path).map_err(Trouble::system("look at it"))? {
            if stat.kind != FileKind::Directory {
                self.make_room(task, rows)?;
                self.create_directory(&task.path)?;
            }
        } else {
            self.create_directory(&task.path)?;
        }
        let mode = task.agreed.props.mode;
        self.root
            .set_mode(&task.path, mode | 0o700)
            .map_err(Trouble::system("set the directory's mode"))?;
        if mode & 0o700 != 0o700 {
            // Its owner has to get in until everything is in it: it is recorded when it is closed.
            self.closing.push(task.clone());
            return Ok(());
        }
        self.record(task, Content::Directory, moment, rows)
    }

    /// Gives directories that shut out their owner their mode, now that everything is in them.
    pub(super) fn close_directories(&mut self) -> Result<(), ApplyError> {
        let moment = SystemTime::now();
        self.held = HeldDir::default();
        let mut rows = Vec::new();
        for task in std::mem::take(&mut self.closing).into_iter().rev() {
            let closed = self.root.set_mode(&task.path, task.agreed.props.mode);
            let recorded = closed
                .map_err(Trouble::system("set the directory's mode"))
                .and_then(|()| self.record(&task, Content::Directory, moment, &mut rows));
            if let Err(trouble) = recorded {
                self.fail(task.index, trouble);
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        self.index.transaction(|index| index.put_all(&rows))?;
        Ok(())
    }

    fn create_directory(&self, path: &RelPath) -> Result<(), Trouble> {
        let made = self.root.make_dir(path).or_else(|error| {
            if !crate::root::is_absent(&error) {
                return Err(error);
            }
            self.root.make_parents(path)?;
            self.root.make_dir(path)
        });
        made.map_err(Trouble::system("make the directory"))
    }

    /// Moves away what stands where a directory has to be: to its clash name if it lost a
    /// conflict, else to the trash.
    fn make_room(&mut self, task: &Task, rows: &mut Vec<Stored>) -> Result<(), Trouble> {
        let Some(stat) = self.stat_expected(task)? else { return Ok(()) };
        let (Beside::Aside(clash), Some(old)) = (&task.beside, &task.old) else {
            let displaced = self.withdraw(&task.path, &stat)?;
            self.settle_displaced(task, displaced);
            return Ok(());
        };
        self.root.rename(&task.path, clash).map_err(Trouble::system("make the clash file"))?;
        // Whatever came between is a file of its own there, and is read by the next scan.
        rows.push(self.clash_row(clash, old, Stamp::UNKNOWN, stat.inode));
        self.relocated.insert(task.index, (clash.clone(), old.clone()));
        Ok(())
    }

    /// Moves a staged file or symlink to its path.
    fn publish(
        &mut self,
        task: &Task,
        staged: Staged,
        content: Content<ContentHash>,
        leaves: Option<Box<Task>>,
        moment: SystemTime,
        rows: &mut Vec<Stored>,
    ) -> Result<(), Trouble> {
        let seen = match self.before_publishing(task) {
            Ok(seen) => seen,
            Err(trouble) => {
                self.let_go(staged);
                return Err(trouble);
            }
        };
        match seen {
            None => self.publish_new(task, staged)?,
            Some(seen) => self.publish_over(task, staged, &seen, rows)?,
        }
        if let Some(leaves) = leaves {
            if self.leave_old_name(&leaves, rows) {
                self.set_final_props(&task.path, task.agreed.props)?;
            }
            if let Content::File { .. } = content {
                let stat = self.stat(&task.path)?;
                let stat = stat.ok_or_else(|| Trouble::changed("it was deleted during the run"))?;
                rows.push(unread(task, content, stat.inode));
                return Ok(());
            }
        }
        self.record(task, content, moment, rows)
    }

    /// The content stands under its new name: the old one can go. Says whether it did.
    fn leave_old_name(&mut self, leaves: &Task, rows: &mut Vec<Stored>) -> bool {
        let displaced = self
            .stat_expected(leaves)
            .and_then(|stat| stat.map(|stat| self.withdraw(&leaves.path, &stat)).transpose());
        match displaced {
            Ok(displaced) => {
                displaced.into_iter().for_each(|displaced| self.staging.drop_displaced(displaced));
                rows.push(self.tombstone(leaves));
                true
            }
            Err(trouble) => {
                self.deed_not_done(&leaves.path);
                self.fail(leaves.index, trouble);
                false
            }
        }
    }

    /// What stands at the path, if it is what is expected there; a directory makes room.
    fn before_publishing(&mut self, task: &Task) -> Result<Option<Stat>, Trouble> {
        if task.old.as_ref().is_none_or(|old| !old.row.content.is_live()) {
            // What stands there nevertheless keeps it out: it is looked at then.
            return Ok(None);
        }
        let seen = self.stat_expected(task)?;
        match seen {
            Some(stat) if stat.kind == FileKind::Directory => {
                self.root
                    .remove_dir(&task.path)
                    .map_err(Trouble::system("remove the directory in its place"))?;
                Ok(None)
            }
            seen => Ok(seen),
        }
    }

    fn publish_new(&mut self, task: &Task, staged: Staged) -> Result<(), Trouble> {
        let held = &mut self.held;
        let staged = match self.staging.publish_new(self.root, held, staged, &task.path) {
            Ok(()) => return Ok(()),
            Err((staged, error)) if crate::root::is_absent(&error) => staged,
            Err((staged, error)) => {
                self.let_go(staged);
                self.stat_expected(task)?;
                return Err(Trouble::system("move it into place")(error));
            }
        };
        // The directory went meanwhile, though something has to be in it.
        let made = self.root.make_parents(&task.path);
        self.held = HeldDir::default();
        match self.staging.publish_new(self.root, &mut self.held, staged, &task.path) {
            Ok(()) => Ok(()),
            Err((staged, error)) => {
                self.let_go(staged);
                Err(Trouble::system("move it into place")(made.err().unwrap_or(error)))
            }
        }
    }

    fn publish_over(
        &mut self,
        task: &Task,
        staged: Staged,
        seen: &Stat,
        rows: &mut Vec<Stored>,
    ) -> Result<(), Trouble> {
        let aside = match (&task.beside, &task.old) {
            (Beside::Aside(clash), Some(old)) => match self.root.link(&task.path, clash) {
                Ok(()) => Some((clash.clone(), old.clone())),
                Err(error) => {
                    self.let_go(staged);
                    return Err(Trouble::system("make the clash file")(error));
                }
            },
            _ => None,
        };
        let exchange =
            if self.promised { Staging::publish_promised } else { Staging::publish_over };
        let displaced =
            match exchange(self.staging, self.root, staged, &self.names.trash, &task.path) {
                Ok(displaced) => displaced,
                Err((staged, error)) => {
                    self.let_go(staged);
                    if let Some((clash, _)) = aside {
                        let undone = self.staging.withdraw(self.root, &self.names.trash, &clash);
                        undone.into_iter().for_each(|link| self.staging.drop_displaced(link));
                    }
                    return Err(Trouble::system("move it into place")(error));
                }
            };
        let expected = seen.same_content(&displaced.stat);
        if let Some((clash, old)) = aside {
            let now = self.root.stat(&clash).ok().flatten();
            let inode = now.as_ref().map_or(0, |stat| stat.inode);
            rows.push(self.clash_row(&clash, &old, Stamp::UNKNOWN, inode));
            self.relocated.insert(task.index, (clash, old));
            if expected && inode == displaced.stat.inode {
                self.staging.drop_displaced(displaced);
                return Ok(());
            }
        }
        match expected {
            true => self.settle_displaced(task, displaced),
            false => self.keep_as_clash(displaced, &task.path),
        }
        Ok(())
    }

    /// Drops what was staged, unless it was promised: then the next run puts it in its place.
    fn let_go(&self, staged: Staged) {
        if !self.promised {
            self.staging.discard(staged);
        }
    }

    fn set_final_props(&self, path: &RelPath, props: Props) -> Result<(), Trouble> {
        self.root.set_mode(path, props.mode).map_err(Trouble::system("set its mode"))?;
        self.root.set_mtime(path, props.mtime).map_err(Trouble::system("set its time"))
    }
}

/// Whether something comes into the tree or leaves it.
fn is_move(ready: &Ready) -> bool {
    !matches!(ready.task.act, Act::Adopt | Act::SetProps)
}

/// The row of a file whose time was set while it stood in the tree: an edit made just before would
/// not show, so the next scan reads it.
fn unread(task: &Task, content: Content<ContentHash>, inode: u64) -> Stored {
    let (old, path) = (task.old.as_ref(), task.path.clone());
    settled(&task.agreed, content, old, Stamp::UNKNOWN, inode, path)
}

fn link_content(target: &[u8]) -> Content<ContentHash> {
    Content::Symlink { target: target.into(), hash: ContentHash::of_target(target) }
}
