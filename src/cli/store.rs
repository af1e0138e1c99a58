//! `psync store`: what the store of old contents of a root holds, and two things to do about it.

use std::io::Write;
use std::path::Path;

use indicatif::{HumanBytes, HumanCount};
use psync_protocol::ContentHash;
use serde_json::{Value, json};

use super::args::{StoreCommand, StoreDeed};
use super::exit::Exit;
use super::run::{print_out, state_home};
use crate::root::WORK_DIR;
use crate::sync::{Keeping, Site, SyncError, store};

/// Does what was asked for, and says what came of it.
pub(super) fn store(command: &StoreCommand) -> Exit {
    let told = open(command).and_then(|mut site| {
        let (told, exit) = tell(command.deed, &mut site)?;
        Ok((told, exit, std::mem::take(&mut site.notes)))
    });
    let (told, exit, notes) = match told {
        // What a person did not ask for, and should know, is a problem with what was asked about.
        Ok((told, exit, notes)) if notes.is_empty() => (told, exit, notes),
        Ok((told, _, notes)) => (told, Exit::Partial, notes),
        Err((text, exit)) => {
            let object = json!({"type": "error", "exit": exit.code(), "text": text});
            match command.json {
                true => print_out(&format!("{object}\n")),
                false => complain(&format!("psync: {text}")),
            }
            return exit;
        }
    };
    match command.json {
        true => print_out(&format!("{}\n", told.object)),
        false => print_out(&told.text),
    }
    for note in notes {
        let object = json!({
            "type": "problem", "side": "local", "path": "", "kind": "note", "text": note.text,
        });
        match command.json {
            true => print_out(&format!("{object}\n")),
            false => complain(&format!("note: {}", note.text)),
        }
    }
    exit
}

fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// What came of it, for people and for scripts.
struct Told {
    text: String,
    object: Value,
}

type Failure = (String, Exit);

fn failure(error: &SyncError) -> Failure {
    (error.to_string(), Exit::of(error))
}

fn open(command: &StoreCommand) -> Result<Site, Failure> {
    let root: &Path = &command.root;
    // To ask about a directory should not make it a root.
    if command.state_dir.is_none() && root.is_dir() && !root.join(WORK_DIR).is_dir() {
        let text = format!("{}: nothing was ever synced here (there is no .psync)", root.display());
        return Err((text, Exit::FileIo));
    }
    let keeping = Keeping { home: state_home(command.state_dir.clone()), store: true };
    Site::open(root, &keeping).map_err(|error| failure(&error))
}

fn tell(deed: StoreDeed, site: &mut Site) -> Result<(Told, Exit), Failure> {
    match deed {
        StoreDeed::Stat => {
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
        StoreDeed::Collect => {
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
        StoreDeed::Verify => {
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
    (text, Exit::FileIo)
}
