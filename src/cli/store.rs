//! `psync store`: what the store of old contents of a root holds, and two things to do about it.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command, builder::PossibleValuesParser, value_parser};
use indicatif::{HumanBytes, HumanCount};
use psync_protocol::ContentHash;
use serde_json::{Value, json};

use super::command::Subcommand;
use super::exit::Exit;
use super::past::complain;
use super::run::print_out;
use super::subject::{self, Failure};
use crate::sync::{Site, store};

/// The command.
pub(super) const COMMAND: Subcommand = Subcommand {
    name: "store",
    about: "What the store of old contents holds; make it fit; check it",
    arguments,
    run: store,
};

fn arguments(command: Command) -> Command {
    let deeds = PossibleValuesParser::new(["stat", "gc", "verify"]);
    let deed = Arg::new("deed").value_name("stat|gc|verify").hide_possible_values(true);
    let root = Arg::new("at").value_name("ROOT|PAIR").value_parser(value_parser!(PathBuf));
    subject::arguments(command)
        .arg(
            deed.required(true)
                .value_parser(deeds)
                .help("Say what it holds; make it fit; check it"),
        )
        .arg(root.help("The root, or a pair's side here").conflicts_with("root"))
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("Say it as a JSON object"),
        )
}

/// Does what was asked for, and says what came of it.
fn store(matches: &ArgMatches) -> Exit {
    let json = matches.get_flag("json");
    let told = open(matches).and_then(|mut site| {
        let (told, exit) =
            tell(matches.get_one::<String>("deed").map_or("", |deed| deed), &mut site)?;
        Ok((told, exit, std::mem::take(&mut site.notes)))
    });
    let (told, exit, notes) = match told {
        // What a person did not ask for, and should know, is a problem with what was asked about.
        Ok((told, exit, notes)) if notes.is_empty() => (told, exit, notes),
        Ok((told, _, notes)) => (told, Exit::Partial, notes),
        Err(Failure { text, exit }) => {
            let object = json!({"type": "error", "exit": exit.code(), "text": text});
            match json {
                true => print_out(&format!("{object}\n")),
                false => complain(&format!("psync: {text}")),
            }
            return exit;
        }
    };
    match json {
        true => print_out(&format!("{}\n", told.object)),
        false => print_out(&told.text),
    }
    for note in notes {
        let object = json!({
            "type": "problem", "side": "local", "path": "", "kind": "note", "text": note.text,
        });
        match json {
            true => print_out(&format!("{object}\n")),
            false => complain(&format!("note: {}", note.text)),
        }
    }
    exit
}

/// What came of it, for people and for scripts.
struct Told {
    text: String,
    object: Value,
}

fn open(matches: &ArgMatches) -> Result<Site, Failure> {
    let root = match matches.get_one::<PathBuf>("at") {
        Some(root) => subject::named_root(root)?,
        None => subject::root(matches, Path::new("."))?,
    };
    subject::open(matches, &root)
}

fn tell(deed: &str, site: &mut Site) -> Result<(Told, Exit), Failure> {
    match deed {
        "stat" => {
            let stat = store::stat(site).map_err(unusable)?;
            let (held, block_hashes) = (stat.held, stat.block_hashes);
            let text = format!(
                "contents: {} ({})\non disk: {} of {}\nsnapshots: {} ({})\nblock hashes only: {} ({})\n",
                HumanCount(held.contents),
                HumanBytes(held.raw),
                HumanBytes(held.stored),
                HumanBytes(held.budget),
                HumanCount(held.snapshots),
                HumanBytes(held.snapshot_bytes),
                HumanCount(block_hashes.0),
                HumanBytes(block_hashes.1),
            );
            let object = json!({
                "type": "store-stat", "contents": held.contents, "bytes": held.raw,
                "bytes_on_disk": held.stored, "budget": held.budget,
                "snapshots": held.snapshots, "snapshot_bytes": held.snapshot_bytes,
                "block_hashes": block_hashes.0, "block_hash_bytes": block_hashes.1,
            });
            Ok((Told { text, object }, Exit::Ok))
        }
        "gc" => {
            let collected = store::collect(site).map_err(unusable)?;
            let (count, before, after) =
                (collected.hashes.len() as u64, collected.before, collected.after);
            let text = format!(
                "let go of {} contents; on disk: {}, before: {}\n",
                HumanCount(count),
                HumanBytes(after),
                HumanBytes(before)
            );
            let object = json!({
                "type": "store-gc", "contents": count,
                "bytes_before": before, "bytes_on_disk": after,
            });
            Ok((Told { text, object }, Exit::Ok))
        }
        _ => {
            let checked = store::verify(site).map_err(unusable)?;
            let damaged: Vec<String> = checked.damaged.iter().map(hex).collect();
            let mut text = format!("sound: {} contents\n", HumanCount(checked.sound));
            if !damaged.is_empty() {
                text.push_str(&format!(
                    "damaged, and let go: {} contents; what is still in the tree is remembered again by the next sync\n",
                    HumanCount(damaged.len() as u64)
                ));
                damaged.iter().for_each(|hash| text.push_str(&format!("  {hash}\n")));
            }
            let exit = if damaged.is_empty() { Exit::Ok } else { Exit::Partial };
            let object = json!({
                "type": "store-verify", "exit": exit.code(), "sound": checked.sound, "damaged": damaged,
            });
            Ok((Told { text, object }, exit))
        }
    }
}

fn hex(hash: &ContentHash) -> String {
    hash.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unusable(text: String) -> Failure {
    Failure::new(Exit::FileIo, text)
}
