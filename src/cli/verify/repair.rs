//! Mending what rotted: it goes to the trash, the index forgets it, and a sync of these paths alone
//! brings the good content from the other side.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

use psync_protocol::RelPath;
use psync_protocol::message::Filter;
use serde_json::{Map, Value};

use super::{Damage, End, Side, failure, other, tell};
use crate::cli::endpoint::Endpoint;
use crate::cli::exit::Exit;
use crate::cli::json::put_path;
use crate::cli::options::Options;
use crate::cli::output::Output;
use crate::cli::run::{self, print_out, run_names};
use crate::cli::subject::Failure;
use crate::reconcile::{Mode, Rule, Rulebook};
use crate::root::Root;
use crate::scan;
use crate::settings::RunMode;
use crate::sync::{self, Keeping, PlanUse, Site};

/// What was said of each path that was to be set aside.
type Outcomes = BTreeMap<RelPath, Result<(), String>>;

/// Mends; what the other side has was read just now and is good.
pub(super) fn mend(damages: &[Damage], options: &Options, json: bool) -> Result<Exit, Failure> {
    let mut outcomes: BTreeMap<(&str, RelPath), Result<(), String>> = BTreeMap::new();
    let mut paths = BTreeSet::new();
    for end in [End::Local, End::Remote] {
        let on_this = damages.iter().filter(|damage| damage.on == end);
        let mut wanted: Vec<RelPath> = Vec::new();
        for path in on_this.map(|damage| &damage.finding.path) {
            match left_alone(options, path) {
                Some(why) => drop(outcomes.insert((end.name(), path.clone()), Err(why))),
                None => wanted.push(path.clone()),
            }
        }
        if wanted.is_empty() {
            continue;
        }
        let done = match (end, &options.other) {
            (End::Local, _) => set_aside(&options.local, &wanted, &options.keeping)?,
            (End::Remote, Endpoint::Local(root)) => {
                set_aside(root, &wanted, &options.keeping_there)?
            }
            (End::Remote, _) => set_aside_there(options, &wanted)?,
        };
        for (path, outcome) in done {
            if outcome.is_ok() {
                paths.insert(path.clone());
            }
            outcomes.insert((end.name(), path), outcome);
        }
    }
    state_everything_anew(&options.local, &options.keeping)?;
    let mut exit = Exit::Ok;
    if !paths.is_empty() {
        let plan = PlanUse::Paths(Arc::new(paths.clone()));
        let quiet = Options { quiet: true, json: false, dry_run: false, ..options.clone() };
        let sync = Options { plan, rules: both_ways(&options.rules), ..quiet };
        let sync = Options { mode: RunMode::TwoWay, ..sync };
        exit = match run::run(&sync, Output::SCREEN).exit {
            // Those of other paths, which wait as before.
            Exit::Conflicts => Exit::Ok,
            exit => exit,
        };
    }
    let still_wrong = still_wrong(options, &paths)?;
    for damage in damages {
        let path = &damage.finding.path;
        let key = (damage.on.name(), path.clone());
        let outcome = match outcomes.remove(&key) {
            Some(Ok(())) if still_wrong.contains(&key) => Err(
                "is in the trash, and did not come from the other side yet; the next sync brings it, unless a filter leaves it alone"
                    .to_string(),
            ),
            Some(outcome) => outcome,
            None => Err("was not answered for".to_string()),
        };
        if outcome.is_err() {
            exit = Exit::Partial;
        }
        tell::mended(damage, &outcome, json);
    }
    Ok(exit)
}

/// Why nothing would come in the place of what is set aside, as far as it shows on this machine: a
/// filter of either side leaves it alone.
fn left_alone(options: &Options, path: &RelPath) -> Option<String> {
    let here = (options.local.as_path(), &options.keeping);
    let there = match &options.other {
        Endpoint::Local(root) => Some((root.as_path(), &options.keeping_there)),
        _ => None,
    };
    std::iter::once(here).chain(there).find_map(|(root, keeping)| {
        filtered(root, &[&options.filters[..], &keeping.filters].concat(), path)
    })
}

/// Why a root leaves a path alone, if it does.
fn filtered(root: &Path, filters: &[Filter], path: &RelPath) -> Option<String> {
    let root = Root::open(root).ok()?;
    // What cannot be told here is told by what comes, or does not.
    let cause = scan::explain(&root, filters, path, false).ok()?.filter(|cause| cause.ignored)?;
    let pattern = psync_protocol::path::printable(cause.pattern.as_bytes());
    Some(format!(
        "stays as it is: the filter '{pattern}' leaves it alone, so that nothing would come in its place"
    ))
}

/// The same without what keeps changes on one side: good content goes to where it was before.
fn both_ways(rules: &Rulebook) -> Rulebook {
    let unbound = |rule: &Rule| Rule { mode: None, max_size: None, ..rule.clone() };
    let rest = rules.rules.iter().map(unbound).collect();
    Rulebook { mode: Mode::TwoWay, rules: rest, ..rules.clone() }
}

/// What is still not right on either side: at the other end of a remote shell, what has not come.
fn still_wrong(
    options: &Options,
    paths: &BTreeSet<RelPath>,
) -> Result<BTreeSet<(&'static str, RelPath)>, Failure> {
    let only: Vec<RelPath> = paths.iter().cloned().collect();
    let mut wrong = BTreeSet::new();
    let here = (End::Local, Some(options.local.as_path()), &options.keeping);
    let there = match &options.other {
        Endpoint::Local(root) => (End::Remote, Some(root.as_path()), &options.keeping_there),
        _ => (End::Remote, None, &options.keeping_there),
    };
    for (end, root, keeping) in [here, there] {
        let Some(root) = root else {
            let listed = other::list(options)?;
            let missing = paths.iter().filter(|path| !listed.contains_key(*path));
            wrong.extend(missing.map(|path| (end.name(), path.clone())));
            continue;
        };
        let side = Side::examine(root, keeping, Some(&only), true)?;
        for path in paths {
            if side.hash_at(path).is_none() || side.fault_at(path).is_some() {
                wrong.insert((end.name(), path.clone()));
            }
        }
    }
    Ok(wrong)
}

fn open(root: &Path, keeping: &Keeping) -> Result<Site, Failure> {
    Site::open(root, keeping).map_err(|error| failure(&error))
}

fn set_aside(root: &Path, paths: &[RelPath], keeping: &Keeping) -> Result<Outcomes, Failure> {
    let mut site = open(root, keeping)?;
    let done = sync::set_aside(&mut site, paths, &run_names().trash);
    Ok(done.map_err(|error| failure(&error))?.into_iter().collect())
}

/// The run that mends has to hear of everything that the other side has, not only of news.
fn state_everything_anew(root: &Path, keeping: &Keeping) -> Result<(), Failure> {
    let mut site = open(root, keeping)?;
    let forgotten = site.index.transaction(|index| index.state_everything_anew());
    forgotten.map_err(|error| failure(&error.into()))
}

fn set_aside_there(options: &Options, paths: &[RelPath]) -> Result<Outcomes, Failure> {
    let mut input = String::new();
    for path in paths {
        let mut object = Map::new();
        put_path(&mut object, "path", path.as_bytes());
        input.push_str(&format!("{}\n", Value::Object(object)));
    }
    let objects = other::ask(options, &["verify", "--json", "--set-aside", "--"], &input)?;
    let outcome = |object: &Value| {
        let path = other::path_of(object)?;
        Some((
            path,
            match object["text"].as_str() {
                None => Ok(()),
                Some(text) => Err(text.to_string()),
            },
        ))
    };
    Ok(objects.iter().filter(|object| object["type"] == "set-aside").filter_map(outcome).collect())
}

/// For the psync at the other end of a repair: sets aside what standard input names, if it is still
/// as it was examined.
pub(super) fn set_aside_here(root: &Path, keeping: &Keeping) -> Result<Exit, Failure> {
    let mut paths = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let unreadable =
            |text: String| Failure::new(Exit::Stream, format!("standard input: {text}"));
        let line = line.map_err(|error| unreadable(error.to_string()))?;
        let object: Value =
            serde_json::from_str(&line).map_err(|error| unreadable(error.to_string()))?;
        paths.push(other::path_of(&object).ok_or_else(|| unreadable("no path".to_string()))?);
    }
    let (stay, go): (Vec<_>, Vec<_>) = paths
        .into_iter()
        .map(|path| (filtered(root, &keeping.filters, &path), path))
        .partition(|(why, _)| why.is_some());
    let go: Vec<RelPath> = go.into_iter().map(|(_, path)| path).collect();
    let mut outcomes = set_aside(root, &go, keeping)?;
    outcomes.extend(stay.into_iter().map(|(why, path)| (path, Err(why.unwrap_or_default()))));
    for (path, outcome) in outcomes {
        let mut object = Map::new();
        object.insert("type".into(), "set-aside".into());
        put_path(&mut object, "path", path.as_bytes());
        if let Err(text) = outcome {
            object.insert("text".into(), text.into());
        }
        print_out(&format!("{}\n", Value::Object(object)));
    }
    Ok(Exit::Ok)
}
