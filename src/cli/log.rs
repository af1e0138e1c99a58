//! `psync log`: the runs of a root, what one of them did, or what was done to a path.

use std::collections::HashSet;
use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command, value_parser};
use indicatif::HumanBytes;
use psync_protocol::RelPath;
use serde_json::{Map, Value, json};

use super::command::Subcommand;
use super::exit::Exit;
use super::json::{put_path, time_of_milliseconds};
use super::output::line_and;
use super::past::{self, kept_value, moment, object, state_value, with_whom};
use super::run::print_out;
use super::subject::{self, Failure};
use crate::journal::{DeedRow, Ending, Journal, RunKind, RunRow, What};

/// The command.
pub(super) const COMMAND: Subcommand = Subcommand {
    name: "log",
    about: "The runs so far; what one of them did; what was done to a path",
    arguments,
    run: |matches| past::told(matches, log(matches)),
};

/// Runs that are listed where nobody says how many.
const RUNS: &str = "20";

fn arguments(command: Command) -> Command {
    subject::arguments(command)
        .override_usage("psync log [RUN] [OPTIONS] [-- PATH]")
        .arg(Arg::new("run").value_name("RUN").help("A run: its number here, or its id"))
        .arg(
            Arg::new("path")
                .value_name("PATH")
                .last(true)
                .value_parser(value_parser!(PathBuf))
                .help("What was done to this path, and to what is in it"),
        )
        .arg(
            Arg::new("count")
                .short('n')
                .value_name("N")
                .value_parser(value_parser!(u32).range(1..))
                .default_value(RUNS)
                .help("So many runs"),
        )
        .arg(
            Arg::new("all")
                .long("all")
                .short('a')
                .action(clap::ArgAction::SetTrue)
                .help("Those with nothing to do, too"),
        )
        .arg(past::json_argument())
}

fn log(matches: &ArgMatches) -> Result<Exit, Failure> {
    let (root, path) = past::root_and_path(matches, matches.get_one("path"))?;
    let past = past::open(matches, &root)?;
    let typed = matches.get_one::<String>("run");
    let count = matches.get_one::<u32>("count").map_or(20, |count| *count as usize);
    let json = matches.get_flag("json");
    let Some(journal) = past.journal else {
        let text = format!("{}: no run has been written down yet", root.display());
        return Err(Failure::new(Exit::FileIo, text));
    };
    let run = match typed {
        Some(typed) => Some(find(&journal, typed)?),
        None => None,
    };
    match (run, path) {
        (None, None) => {
            let runs = journal.runs(count, matches.get_flag("all")).map_err(past::unreadable)?;
            if runs.is_empty() && !json {
                print_out("no run has changed anything yet\n");
            }
            runs.iter().for_each(|run| tell_run(run, json));
        }
        (Some(run), None) => {
            let deeds = journal.deeds(&run).map_err(past::unreadable)?;
            if json {
                object(run_value(&run))
            } else {
                print_out(&header(&run))
            }
            // A move is told where it ends.
            let source = |deed: &'_ DeedRow| match &deed.what {
                What::MoveFrom(from) => Some(from.clone()),
                _ => None,
            };
            let moved: HashSet<RelPath> = deeds.iter().filter_map(source).collect();
            let is_told = |deed: &&DeedRow| {
                json || !matches!(deed.what, What::MoveTo(_)) || !moved.contains(&deed.path)
            };
            deeds.iter().filter(is_told).for_each(|deed| tell_deed(deed, None, json));
        }
        (run, Some(path)) => {
            let mut deeds = journal.deeds_at(&path, true).map_err(past::unreadable)?;
            if let Some(run) = &run {
                deeds.retain(|deed| deed.run == run.number);
            }
            if deeds.is_empty() && !json {
                print_out(&format!("no run has done anything to {path} here\n"));
            }
            let mut known: Option<RunRow> = None;
            for deed in deeds {
                if known.as_ref().is_none_or(|run| run.number != deed.run) {
                    known = journal.run(deed.run).map_err(past::unreadable)?;
                }
                tell_deed(&deed, known.as_ref(), json);
            }
        }
    }
    Ok(Exit::Ok)
}

fn find(journal: &Journal, typed: &str) -> Result<RunRow, Failure> {
    let run = journal.find(typed).map_err(past::unreadable)?;
    run.ok_or_else(|| {
        let text = format!(
            "there is no run '{}' in the journal; 'psync log' lists them, and a path stands after --",
            psync_protocol::path::printable(typed.as_bytes())
        );
        Failure::new(Exit::Usage, text)
    })
}

fn tell_run(run: &RunRow, json: bool) {
    if json {
        return object(run_value(run));
    }
    let mut text = format!("{:>5} {} {}  ", run.number, run.id, &moment(run.began)[..16]);
    text.push_str(&summary(run));
    // What a person did alone was with nobody.
    if run.peer.is_some() || !run.reach.location.is_empty() {
        text.push_str(&format!("  {}", with_whom(run)));
    }
    text.push('\n');
    print_out(&text);
}

/// What kind of run it was and what came of it, in a few words.
fn summary(run: &RunRow) -> String {
    let counts = run.counts;
    let mut words = vec![run.kind.name().to_string()];
    let signs = [
        ('+', counts.created),
        ('~', counts.updated + counts.props),
        ('-', counts.deleted),
        ('>', counts.moved),
    ];
    let told = signs.iter().filter(|(_, count)| *count > 0);
    words.extend(told.map(|(sign, count)| format!("{sign}{count}")));
    if run.times > 1 {
        words.push(format!("x{}", run.times));
    }
    if run.conflicts > 0 {
        words.push(format!("conflicts:{}", run.conflicts));
    }
    if run.failures > 0 {
        words.push(format!("failed:{}", run.failures));
    }
    match &run.ending {
        Ending::Broken(_) => words.push("broken".into()),
        Ending::Open => words.push("not-ended".into()),
        // What waits was told already.
        Ending::Finished if counts.all() == 0 && run.planned == 0 && run.conflicts > 0 => {}
        Ending::Finished if counts.all() == 0 && run.planned == 0 => {
            words.push("nothing-to-do".into());
        }
        Ending::Finished if counts.all() == 0 => words.push("nothing-here".into()),
        Ending::Finished => {}
    }
    if run.undone_by.is_some() {
        words.push("undone".into());
    }
    words.join(" ")
}

fn header(run: &RunRow) -> String {
    let how = match run.kind {
        RunKind::Started => format!("sync with {}", with_whom(run)),
        RunKind::Answered => format!("sync with {}, which started it", with_whom(run)),
        RunKind::Undo => {
            format!("undo of {}", run.undoes.map_or_else(|| "a run".into(), |id| id.to_string()))
        }
        RunKind::Restore => "restore".to_string(),
    };
    let mut text = format!("run {} ({}): {how}\n", run.number, run.id);
    text.push_str(&format!("began {}", moment(run.began)));
    if let Some(ended) = run.ended {
        let seconds = ended.saturating_sub(run.began).max(0) as f64 / 1000.0;
        text.push_str(&format!(", took {seconds:.1} s"));
    }
    match &run.ending {
        Ending::Broken(error) => {
            let error = psync_protocol::path::printable(error.as_bytes());
            text.push_str(&format!("\nbroken: {error}\n"));
        }
        Ending::Open => text.push_str("; has not ended\n"),
        Ending::Finished => text.push('\n'),
    }
    text.push_str(&format!("here: {}\n", summary(run)));
    if let Some(by) = run.undone_by {
        text.push_str(&format!("undone by run {by}\n"));
    }
    text
}

fn tell_deed(deed: &DeedRow, run: Option<&RunRow>, json: bool) {
    if json {
        return object(deed_value(deed, run));
    }
    let lead = match run {
        Some(run) => format!("{:>5} {} {}  ", run.number, run.id, &moment(run.began)[..16]),
        None => "  ".into(),
    };
    let path = match &deed.what {
        What::MoveFrom(from) => format!("{from} -> {}", deed.path),
        What::MoveTo(to) => format!("{} -> {to}", deed.path),
        What::Clash(of) => format!("{} (of {of})", deed.path),
        _ => deed.path.to_string(),
    };
    let size = match deed.after.as_ref().map(|state| state.thing.size()) {
        Some(size @ 1..) if !matches!(deed.what, What::Properties) => {
            format!(" ({})", HumanBytes(size))
        }
        _ => String::new(),
    };
    let line = format!("{lead}{:<9} {path}{size}", deed.what.name());
    // Those of a path are one line each, however long.
    print_out(&match run {
        Some(_) if !deed.why.is_empty() => format!("{line}: {}\n", deed.why),
        Some(_) => format!("{line}\n"),
        None => line_and(&line, ": ", &deed.why, 12),
    });
}

/// How a run ended, for scripts: a word, and the error if it was one.
pub(super) fn ending_words(ending: &Ending) -> (&'static str, Option<&str>) {
    match ending {
        Ending::Finished => ("finished", None),
        Ending::Open => ("open", None),
        Ending::Broken(error) => ("broken", Some(error)),
    }
}

/// A run for scripts.
pub(super) fn run_value(run: &RunRow) -> Value {
    let (result, error) = ending_words(&run.ending);
    json!({
        "type": "run", "number": run.number, "id": run.id.to_string(), "kind": run.kind.name(),
        "started_here": run.kind != RunKind::Answered, "began": time_of_milliseconds(run.began),
        "ended": run.ended.map(time_of_milliseconds),
        "times": run.times, "peer": run.peer.map(|peer| peer.to_string()),
        "location": run.reach.location, "result": result, "error": error,
        "planned": run.planned, "created": run.counts.created, "updated": run.counts.updated,
        "props": run.counts.props, "deleted": run.counts.deleted, "moved": run.counts.moved,
        "conflicts": run.conflicts, "failures": run.failures,
        "undoes": run.undoes.map(|id| id.to_string()),
        "undone_by": run.undone_by.map(|id| id.to_string()),
    })
}

fn deed_value(deed: &DeedRow, run: Option<&RunRow>) -> Value {
    let mut map = Map::new();
    map.insert("type".into(), "deed".into());
    map.insert("run".into(), deed.run.into());
    if let Some(run) = run {
        map.insert("id".into(), run.id.to_string().into());
        map.insert("began".into(), time_of_milliseconds(run.began));
    }
    put_path(&mut map, "path", deed.path.as_bytes());
    map.insert("what".into(), deed.what.name().into());
    if let Some(other) = deed.what.other() {
        put_path(&mut map, "other", other.as_bytes());
    }
    map.insert("before".into(), state_value(deed.before.as_ref()));
    map.insert("after".into(), state_value(deed.after.as_ref()));
    map.insert("kept".into(), kept_value(&deed.kept));
    map.insert("why".into(), deed.why.clone().into());
    Value::Object(map)
}
