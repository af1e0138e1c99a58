//! What belongs together is published together: nothing of it before everything is staged, and
//! nothing at all where one part fails.

use std::collections::HashMap;

use psync_protocol::{Content, RelPath};

use super::{
    Act, Applier, ApplyError, Beside, Ready, Task, Trouble, is_directory, replaces_directory,
};
use crate::manifest::{Stored, database_of};
use crate::reconcile::{Shapes, Units};
use crate::root::{Displaced, HeldDir, Locked, Promise, Step, Trace};

/// The units of which something is to be done.
#[derive(Debug, Default)]
pub(super) struct Together {
    /// The number of the unit to which a path of the plan belongs.
    unit_of: HashMap<usize, usize>,
    units: Vec<Gathering>,
}

/// A unit whose parts come one after the other.
#[derive(Debug)]
struct Gathering {
    name: RelPath,
    /// How many parts are not there yet.
    missing: usize,
    ready: Vec<Ready>,
}

/// A unit of which everything is there.
pub(super) struct Whole {
    name: RelPath,
    ready: Vec<Ready>,
}

/// What stands at a task's path, before and after.
fn shapes(task: &Task) -> Shapes {
    Shapes {
        directory: is_directory(task),
        file: !is_directory(task) || !matches!(task.act, Act::Remove),
    }
}

/// Whether a task replaces what SQLite keeps beside a database.
fn is_replaced_journal(task: &Task) -> bool {
    let is_put = matches!(task.act, Act::Fetch { .. } | Act::Arrive { .. });
    let is_file = |old: &Stored| matches!(old.row.content, Content::File { .. });
    let is_plain = matches!(task.beside, Beside::Nothing);
    is_put
        && is_plain
        && task.old.as_ref().is_some_and(is_file)
        && database_of(&task.path).is_some()
}

/// When a file comes into a `.git` folder: objects, then what refers to them, then the rest.
fn git_turn(folder: &RelPath, path: &RelPath) -> u8 {
    let below = path.as_bytes().strip_prefix(folder.as_bytes()).unwrap_or_default();
    match below.split(|&byte| byte == b'/').nth(1) {
        Some(b"objects") => 0,
        Some(b"refs" | b"packed-refs" | b"logs") => 1,
        _ => 2,
    }
}

/// Whether a task takes away or puts there what a unit consists of. Directories may come before.
fn is_part(task: &Task) -> bool {
    match task.act {
        Act::Remove | Act::MakeLink { .. } | Act::Fetch { .. } | Act::Arrive { .. } => true,
        Act::Adopt | Act::SetProps | Act::MakeDir => false,
    }
}

impl Together {
    /// What belongs together among the tasks; and what `is_in_use`, which has to be asked again
    /// when it is to be published.
    pub(super) fn of(tasks: &[Task], units: &Units, is_in_use: impl Fn(&Task) -> bool) -> Together {
        let parts: Vec<&Task> = tasks.iter().filter(|task| is_part(task)).collect();
        let paths = parts.iter().map(|task| &task.path);
        let mut together = Together::default();
        for unit in units.among(paths, |at| shapes(parts[at])) {
            if unit.members.len() > 1 {
                together.add(unit.name, unit.members.iter().map(|&at| parts[at].index));
            }
        }
        for part in parts {
            if !together.unit_of.contains_key(&part.index) && is_in_use(part) {
                together.add(part.path.clone(), std::iter::once(part.index));
            }
        }
        together
    }

    fn add(&mut self, name: RelPath, members: impl ExactSizeIterator<Item = usize>) {
        let (number, missing) = (self.units.len(), members.len());
        self.unit_of.extend(members.map(|index| (index, number)));
        self.units.push(Gathering { name, missing, ready: Vec::new() });
    }

    /// Keeps back what is part of a unit; gives the rest, and units of which everything is there.
    pub(super) fn gather(&mut self, ready: Vec<Ready>) -> (Vec<Whole>, Vec<Ready>) {
        if self.unit_of.is_empty() {
            return (Vec::new(), ready);
        }
        let (mut rest, mut touched) = (Vec::new(), Vec::new());
        for ready in ready {
            // A name that goes together with where its content goes to comes with that.
            if let Some(leaves) = &ready.leaves
                && let Some(&number) = self.unit_of.get(&leaves.index)
            {
                self.units[number].missing -= 1;
                touched.push(number);
            }
            match self.unit_of.get(&ready.task.index) {
                Some(&number) if is_part(&ready.task) => {
                    self.units[number].missing -= 1;
                    self.units[number].ready.push(ready);
                    touched.push(number);
                }
                Some(_) | None => rest.push(ready),
            }
        }
        let mut whole = Vec::new();
        for number in touched {
            let unit = &mut self.units[number];
            if unit.missing == 0 && !unit.ready.is_empty() {
                let ready = std::mem::take(&mut unit.ready);
                whole.push(Whole { name: unit.name.clone(), ready });
            }
        }
        (whole, rest)
    }

    /// The parts of units that have never become whole.
    fn left(&mut self) -> Vec<Whole> {
        let units = self.units.iter_mut().filter(|unit| !unit.ready.is_empty());
        units
            .map(|unit| Whole { name: unit.name.clone(), ready: std::mem::take(&mut unit.ready) })
            .collect()
    }
}

impl Applier<'_> {
    /// Publishes a unit, if all of it is staged, it still is what the plan was made for, and nobody
    /// uses it.
    pub(super) fn commit_whole(&mut self, whole: Whole) -> Result<(), ApplyError> {
        let Whole { name, ready } = whole;
        let count = ready.len();
        let ready = self.with_links(ready);
        let mut ready = self.prepared(ready);
        let incomplete = || format!("another part of {name} cannot be staged");
        let unfinished = || format!("{name} waits, as something else could not be finished");
        let failed = (ready.len() < count).then(incomplete);
        let failed = failed.or_else(|| self.unfinished.then(unfinished));
        if let Some(text) = failed.or_else(|| self.stands_in_the_way(&name, &ready)) {
            self.give_up_unit(Whole { name, ready }, &text);
            return Ok(());
        }
        let is_git = name.name() == b".git";
        let turn = |ready: &Ready| match ready.task.act {
            Act::Remove if is_directory(&ready.task) => 4,
            // What git reads in between refers to nothing that is not there.
            Act::Remove if is_git => 3,
            Act::Remove => 0,
            _ if replaces_directory(&ready.task) => 5,
            _ if is_git => git_turn(&name, &ready.task.path),
            _ => 1,
        };
        ready.sort_by(|a, b| {
            let deepest_first = || match turn(a) {
                4 => b.task.path.cmp(&a.task.path),
                _ => a.task.path.cmp(&b.task.path),
            };
            turn(a).cmp(&turn(b)).then_with(deepest_first)
        });
        let is_one_step = ready.len() == 1 && ready.iter().all(|ready| ready.leaves.is_none());
        self.publish_batch(ready, (!is_one_step).then_some(&name))
    }

    /// Stages symlinks, too, which others make when they are published.
    fn with_links(&mut self, ready: Vec<Ready>) -> Vec<Ready> {
        let mut kept = Vec::with_capacity(ready.len());
        for mut ready in ready {
            if let Act::MakeLink { target } = &ready.task.act {
                match self.staging.create_link(target, ready.task.agreed.props.mtime) {
                    Ok(staged) => ready.staged = Some(staged),
                    Err(error) => {
                        let trouble = Trouble::system("make a symlink in .psync/stage")(error);
                        self.fail(ready.task.index, trouble);
                        continue;
                    }
                }
            }
            kept.push(ready);
        }
        kept
    }

    /// Writes down what publishing a unit takes, so that whoever opens the root after a crash
    /// finishes it.
    pub(super) fn promise(&mut self, name: &RelPath, batch: &[Ready]) -> Result<(), Trouble> {
        self.held = HeldDir::default();
        let mut steps = Vec::new();
        // No journal ever stands beside a database that it does not belong to.
        for ready in batch.iter().filter(|ready| is_replaced_journal(&ready.task)) {
            steps.extend(self.taking(&ready.task)?);
        }
        for ready in batch {
            self.steps_of(ready, &mut steps)?;
        }
        let run = self.names.trash.clone();
        let promise = Promise { name: Some(name.clone()), run, steps };
        self.staging.promise(&promise).map_err(Trouble::system("write .psync/promise"))
    }

    fn taking(&mut self, task: &Task) -> Result<Option<Step>, Trouble> {
        let stat = self.stat_expected(task)?;
        let path = task.path.clone();
        Ok(stat.map(|stat| Step::Take { path, before: Trace::of(&stat) }))
    }

    fn steps_of(&mut self, ready: &Ready, steps: &mut Vec<Step>) -> Result<(), Trouble> {
        let task = &ready.task;
        let path = task.path.clone();
        let Some(staged) = &ready.staged else {
            match task.act {
                Act::Remove if is_directory(task) => steps.push(Step::RemoveDir { path }),
                Act::Remove => steps.extend(self.taking(task)?),
                _ => {}
            }
            return Ok(());
        };
        if replaces_directory(task) {
            steps.push(Step::RemoveDir { path: path.clone() });
        }
        let is_cleared = replaces_directory(task) || is_replaced_journal(task);
        let before = self.stat_expected(task)?.filter(|_| !is_cleared);
        let (staged, new) = (staged.name().into(), self.staging.trace(staged));
        let new = new.map_err(Trouble::system("look at the staged file"))?;
        let (before, props) = (before.as_ref().map(Trace::of), task.agreed.props);
        steps.push(Step::Put { staged, new, mtime: props.mtime, path: path.clone(), before });
        if let Some(leaves) = &ready.leaves
            && let Some(stat) = self.stat_expected(leaves)?
        {
            let before = Trace::of(&stat);
            steps.push(Step::Unlink { path: leaves.path.clone(), before });
            steps.push(Step::SetProps { path, props, before: None });
        }
        Ok(())
    }

    /// The old journals of a database go before anything of the new one comes: a crash in between
    /// leaves a database alone, not one with the journal of another.
    pub(super) fn clear_journals(&mut self, batch: &[Ready]) -> Result<(), Trouble> {
        let mut cleared: Vec<(&Task, Displaced)> = Vec::new();
        for ready in batch.iter().filter(|ready| is_replaced_journal(&ready.task)) {
            let task = &ready.task;
            let seen = self.stat_expected(task);
            let withdrawn =
                seen.and_then(|seen| seen.map(|seen| self.withdraw(&task.path, &seen)).transpose());
            match withdrawn {
                Ok(displaced) => cleared.extend(displaced.map(|displaced| (task, displaced))),
                Err(trouble) => {
                    for (task, displaced) in cleared {
                        if let Err((displaced, _)) =
                            self.staging.put_back(self.root, displaced, &task.path)
                        {
                            self.keep_as_clash(displaced, &task.path);
                        }
                    }
                    return Err(trouble);
                }
            }
        }
        cleared.into_iter().for_each(|(task, displaced)| self.settle_displaced(task, displaced));
        Ok(())
    }

    /// Why a unit cannot be published now, if it cannot: better known before the first rename.
    fn stands_in_the_way(&mut self, name: &RelPath, ready: &[Ready]) -> Option<String> {
        self.held = HeldDir::default();
        let locked = Locked::now();
        let paths = ready.iter().map(|ready| &ready.task.path);
        let mut databases = paths.filter_map(|path| self.root.open_database(path, &locked));
        if let Some(database) = databases.next() {
            return Some(format!("{database} is in use by another program; left for the next run"));
        }
        let shut = ready.iter().find(|ready| !self.root.may_change(&ready.task.path));
        if let Some(shut) = shut {
            let path = &shut.task.path;
            return Some(format!(
                "{name} belongs together, and {path} may not be changed: make the folder that it is in writable"
            ));
        }
        let parts = ready.iter().filter(|ready| !is_directory(&ready.task));
        parts.map(|ready| &ready.task).find_map(|task| {
            let trouble = self.stat_expected(task).err()?;
            let path = &task.path;
            Some(format!("{name} belongs together, and of {path}: {}", trouble.text))
        })
    }

    /// What was left of units at the end: another part of each has failed.
    pub(super) fn give_up_units(&mut self) {
        for whole in self.together.left() {
            let name = &whole.name;
            let text =
                format!("another part of {name} did not come; all of it waits for the next run");
            self.give_up_unit(whole, &text);
        }
    }

    fn give_up_unit(&mut self, whole: Whole, text: &str) {
        self.give_up_parts(whole.ready, text);
    }

    /// Nothing is done about these parts now.
    pub(super) fn give_up_parts(&mut self, parts: Vec<Ready>, text: &str) {
        for ready in parts {
            ready.staged.into_iter().for_each(|staged| self.staging.discard(staged));
            if let Some(leaves) = ready.leaves {
                self.fail(leaves.index, Trouble::changed(text));
            }
            self.fail(ready.task.index, Trouble::changed(text));
        }
    }
}
