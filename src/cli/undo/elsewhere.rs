//! The other end of a run that is undone: in this process where its root is on this machine, else
//! another psync through the remote shell that the run was made with.

use std::collections::BTreeSet;
use std::path::PathBuf;

use psync_protocol::RelPath;
use serde_json::Value;

use super::super::config;
use super::super::endpoint::Endpoint;
use super::super::exit::Exit;
use super::super::run::state_home;
use super::super::subject::Failure;
use super::told::{Also, Told, anew_of, path_of, standing_of};
use super::what;
use crate::journal::{RunId, RunRow};
use crate::sync::Site;
use crate::sync::undo::{self, Anew, Plan, Standing, UndoError};
use crate::transport::CommandThere;

/// The other end.
pub(super) enum Elsewhere {
    /// A root on this machine.
    Near { site: Box<Site>, plan: Option<Box<Plan>> },
    /// One behind a remote shell.
    Far(CommandThere),
}

impl Elsewhere {
    /// The other end of a run, as the journal says that it can be reached.
    pub(super) fn reach(run: &RunRow) -> Result<Option<Elsewhere>, Failure> {
        let reach = &run.reach;
        if reach.location.is_empty() {
            let text = format!(
                "run {} was started at the other end, and this one does not know how to reach it: \
                 undo it there, or only here with --only-here",
                run.id
            );
            return Err(Failure::new(Exit::Usage, text));
        }
        let endpoint = Endpoint::parse(reach.location.as_ref());
        if let Ok(Endpoint::Module { .. } | Endpoint::Daemon { .. }) = endpoint {
            let text = format!(
                "run {} was with {}, where only syncs can be asked for: undo it on that machine, \
                 or only here with --only-here",
                run.id, reach.location
            );
            return Err(Failure::new(Exit::Usage, text));
        }
        if reach.rsh.is_empty() {
            let state = Some(&reach.state_dir).filter(|dir| !dir.is_empty()).map(PathBuf::from);
            let settings = config::settings_of(reach.location.as_ref())?;
            let keeping = config::keeping(&settings, state_home(state));
            let site = Site::open(reach.location.as_ref(), &keeping)
                .map_err(|error| Failure::new(Exit::of(&error), error.to_string()))?;
            return Ok(Some(Elsewhere::Near { site: Box::new(site), plan: None }));
        }
        let Ok(Endpoint::Remote { host, path }) = endpoint else {
            let text = format!("the journal says that the other end is {}", reach.location);
            return Err(Failure::new(Exit::FileIo, text));
        };
        let (rsh, program) = (reach.rsh.clone(), reach.program.clone());
        let (words, input) = (Vec::new(), String::new());
        Ok(Some(Elsewhere::Far(CommandThere { rsh, host, program, words, path, input })))
    }

    /// Looks at what would be put back there, but for the paths to `leave`; the end that asks has
    /// this `standing` where it puts paths back.
    pub(super) fn prepare(
        &mut self,
        run: &RunRow,
        standing: &[Standing],
        leave: &BTreeSet<RelPath>,
    ) -> Result<Told, Failure> {
        match self {
            Elsewhere::Near { site, plan } => {
                let found = match undo::find(site, Some(&run.id.to_string())) {
                    Err(UndoError::Unknown(_)) if undo::may_be_unknown_elsewhere(run) => {
                        return Ok(Told::default());
                    }
                    found => found.map_err(|error| there(error.into()))?,
                };
                if let Some(earlier) = plan.take() {
                    earlier.prepared.discard(site);
                }
                let prepared = undo::prepare(site, found, leave);
                let mut prepared = prepared.map_err(|error| there(error.into()))?;
                let changed = undo::changed_since(site, &prepared, standing);
                prepared.obstacles.extend(changed);
                let obstacles = prepared.obstacles.iter().map(|obstacle| {
                    let kind = obstacle.kind.name().to_string();
                    (obstacle.path.as_bytes().to_vec(), kind, obstacle.text.clone())
                });
                let (obstacles, paths) = (obstacles.collect(), paths(&prepared));
                let (standing, anew) = (prepared.standing(), prepared.anew());
                *plan = Some(Box::new(prepared));
                Ok(Told { paths, obstacles, standing, anew, ..Told::default() })
            }
            Elsewhere::Far(command) => {
                let (standing, leave) = (standing.to_vec(), leave.clone());
                let input = Also { standing, leave, ..Also::default() };
                ask(command, run, &["--dry-run", "--partial"], &input)
            }
        }
    }

    /// Puts back what can be, as the run `id`; the end that asks puts back so many paths, and takes
    /// merges back at some.
    pub(super) fn carry_out(
        self,
        run: &RunRow,
        id: RunId,
        trash: &str,
        (partial, leave): (bool, &BTreeSet<RelPath>),
        (here, anew): (u64, &[Anew]),
    ) -> Result<Told, Failure> {
        match self {
            Elsewhere::Near { plan: None, .. } => Ok(Told::default()),
            Elsewhere::Near { mut site, plan: Some(plan) } => {
                let paths = paths(&plan);
                let done = undo::carry_out(&mut site, *plan, id, trash, (here, anew));
                let failures = done.failures.into_iter();
                let failures = failures.map(|(path, text)| (path.as_bytes().to_vec(), text));
                Ok(Told { paths, failures: failures.collect(), ..Told::default() })
            }
            Elsewhere::Far(command) => {
                let id = id.to_string();
                let mut words = vec!["--as", &id];
                words.extend(partial.then_some("--partial"));
                let (leave, anew) = (leave.clone(), anew.to_vec());
                let input = Also { leave, anew, ..Also::default() };
                ask(&command, run, &words, &input)
            }
        }
    }
}

fn paths(plan: &Plan) -> Vec<(Vec<u8>, String)> {
    let changes = plan.prepared.changes();
    changes.map(|change| (change.path.as_bytes().to_vec(), what(change).to_string())).collect()
}

fn there(failure: Failure) -> Failure {
    Failure::new(failure.exit, format!("the other side: {}", failure.text))
}

/// Runs `psync undo` at the other end, and reads what it says.
fn ask(
    command: &CommandThere,
    run: &RunRow,
    options: &[&str],
    input: &Also,
) -> Result<Told, Failure> {
    let id = run.id.to_string();
    let words =
        ["undo", "--only-here", "--json", "--also"].iter().chain(options).copied().chain([&id[..]]);
    let words = words.map(str::to_string).collect();
    let command = CommandThere { words, input: input.to_text(), ..command.clone() };
    let (code, output) =
        command.run().map_err(|error| Failure::new(Exit::Start, error.to_string()))?;
    let mut told = Told::default();
    let mut ended = false;
    for line in String::from_utf8_lossy(&output).lines() {
        let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_string();
        match value["type"].as_str() {
            Some("change") => {
                told.standing.extend(standing_of(&value));
                told.paths.push((path_of(&value), text("what")));
            }
            Some("anew") => told.anew.extend(anew_of(&value)),
            Some("obstacle") => {
                told.obstacles.push((path_of(&value), text("reason"), text("text")));
            }
            Some("failure") => told.failures.push((path_of(&value), text("text"))),
            Some("undo") => ended = true,
            Some("error") => {
                let unknown = text("text").contains("there is no run");
                if unknown && undo::may_be_unknown_elsewhere(run) {
                    return Ok(Told::default());
                }
                return Err(there(Failure::new(Exit::Guard, text("text"))));
            }
            _ => {}
        }
    }
    if ended {
        return Ok(told);
    }
    let how = code.map_or_else(|| "by a signal".into(), |code| format!("with exit code {code}"));
    let text = format!(
        "the other side could not be asked: '{} {} {} undo' ended {how}; nothing was changed here",
        command.rsh.join(" "),
        command.host,
        command.program
    );
    Err(Failure::new(Exit::Connection, text))
}
