//! What `psync verify` says.

use std::collections::BTreeMap;

use indicatif::{HumanBytes, HumanCount};
use psync_protocol::{ContentHash, RelPath};
use serde_json::{Map, Value, json};

use super::{Asked, Damage, End, Side};
use crate::cli::json::put_path;
use crate::cli::run::print_out;
use crate::sync::{Fault, Finding};

/// So many paths are named that differ because the two were not synced since.
const PATHS_SHOWN: usize = 10;

fn print(object: &Value) {
    print_out(&format!("{object}\n"));
}

pub(super) fn fault_name(fault: &Fault) -> &'static str {
    match fault {
        Fault::Rotted => "rotted",
        Fault::Doubtful => "doubtful",
        Fault::Missing => "missing",
        Fault::Edited => "edited",
        Fault::Unreadable(_) => "unreadable",
    }
}

/// The fault that has this name.
pub(super) fn fault_named(name: &str, text: &str) -> Option<Fault> {
    let faults = [Fault::Rotted, Fault::Doubtful, Fault::Missing, Fault::Edited];
    match name {
        "unreadable" => Some(Fault::Unreadable(text.to_string())),
        name => faults.into_iter().find(|fault| fault_name(fault) == name),
    }
}

fn in_words(fault: &Fault) -> String {
    match fault {
        Fault::Rotted => "rotted: the content is another one, and nobody touched the file".into(),
        Fault::Doubtful => {
            "doubtful: the content is another one, and size and time are the same".into()
        }
        Fault::Missing => "missing: deleted since the last run, or lost".into(),
        Fault::Edited => "edited since the last run".into(),
        Fault::Unreadable(error) => format!("cannot be read: {error}"),
    }
}

fn finding_object(finding: &Finding, on: Option<End>) -> Value {
    let mut object = Map::new();
    object.insert("type".into(), "finding".into());
    if let Some(end) = on {
        object.insert("side".into(), end.name().into());
    }
    put_path(&mut object, "path", finding.path.as_bytes());
    object.insert("fault".into(), fault_name(&finding.fault).into());
    if let Fault::Unreadable(error) = &finding.fault {
        object.insert("text".into(), error.clone().into());
    }
    Value::Object(object)
}

/// What was found on a side.
pub(super) fn side(side: &Side, on: Option<End>, json: bool) {
    let examined = &side.examined;
    if json {
        examined.findings.iter().for_each(|finding| print(&finding_object(finding, on)));
        let mut object = json!({
            "type": "examined", "root": side.name, "entries": examined.entries,
            "bytes": examined.bytes, "digest": hex(&side.digest),
            "exit": super::exit_of(&examined.findings).code(),
        });
        if let (Some(end), Some(fields)) = (on, object.as_object_mut()) {
            fields.insert("side".into(), end.name().into());
        }
        return print(&object);
    }
    print_out(&format!(
        "{}: {} entries, {} read\n",
        side.name,
        HumanCount(examined.entries),
        HumanBytes(examined.bytes)
    ));
    for finding in &examined.findings {
        print_out(&format!("  {}\n    {}\n", finding.path, in_words(&finding.fault)));
    }
    if examined.findings.is_empty() {
        print_out("  everything is as it was when it was last synced or scanned\n");
    }
}

/// What the two indexes say differently: it waits for a sync.
pub(super) fn differences(sides: &[Side; 2], json: bool) {
    let [Some(ours), Some(theirs)] = [&sides[0].contents, &sides[1].contents] else { return };
    let changed = ours.iter().filter(|(path, hash)| theirs.get(*path) != Some(hash));
    let new = theirs.iter().filter(|(path, _)| !ours.contains_key(*path));
    let paths: Vec<&RelPath> = changed.chain(new).map(|(path, _)| path).collect();
    if json {
        for path in &paths {
            let mut object = Map::new();
            object.insert("type".into(), "difference".into());
            put_path(&mut object, "path", path.as_bytes());
            print(&Value::Object(object));
        }
        return;
    }
    if paths.is_empty() {
        return print_out("both sides say the same of every content\n");
    }
    print_out(&match paths.len() {
        1 => "one path differs between the sides, for the next sync:\n".to_string(),
        count => format!("{count} paths differ between the sides, for the next sync:\n"),
    });
    paths.iter().take(PATHS_SHOWN).for_each(|path| print_out(&format!("  {path}\n")));
    if paths.len() > PATHS_SHOWN {
        print_out("  ...\n");
    }
}

fn damage_line(damage: &Damage, json: bool, kind: &str, text: &str) {
    let (on, path) = (damage.on.name(), &damage.finding.path);
    if json {
        let mut object = Map::new();
        object.insert("type".into(), kind.into());
        object.insert("side".into(), on.into());
        put_path(&mut object, "path", path.as_bytes());
        object.insert("text".into(), text.into());
        return print(&Value::Object(object));
    }
    print_out(&format!("{path} on the {on} side: {text}\n"));
}

/// What is not mended, and why.
pub(super) fn left(damages: &[Damage], asked: &Asked) {
    for damage in damages {
        let fault = &damage.finding.fault;
        let text = match (damage.good_there, fault, asked.from) {
            (false, ..) => {
                "the other side has no good copy of it; look for an older version with psync history"
            }
            (true, Fault::Doubtful, None) => {
                "the other side has the content that both had agreed on; if this one rotted, say which side is good with --from"
            }
            (true, ..) => "it would have to come from the other side than --from says",
        };
        damage_line(damage, asked.json, "left", text);
    }
}

/// What `--repair` would mend.
pub(super) fn could_mend(damages: &[Damage], json: bool) {
    for damage in damages {
        damage_line(damage, json, "mendable", "the other side has it good; --repair fetches it");
    }
}

/// There was nothing to do.
pub(super) fn nothing_to_mend(json: bool) {
    match json {
        true => print(&json!({"type": "repaired", "paths": 0})),
        false => print_out("nothing to repair\n"),
    }
}

/// What was mended, or not.
pub(super) fn mended(damage: &Damage, outcome: &Result<(), String>, json: bool) {
    match outcome {
        Ok(()) => {
            damage_line(damage, json, "repaired", "repaired; what stood there is in the trash")
        }
        Err(text) => damage_line(damage, json, "left", text),
    }
}

/// What an index says of all contents.
pub(super) fn list(contents: &BTreeMap<RelPath, ContentHash>) {
    let mut text = String::new();
    for (path, hash) in contents {
        let mut object = Map::new();
        object.insert("type".into(), "entry".into());
        put_path(&mut object, "path", path.as_bytes());
        object.insert("hash".into(), hex(hash).into());
        text.push_str(&format!("{}\n", Value::Object(object)));
    }
    print_out(&text);
}

pub(super) fn hex(hash: &ContentHash) -> String {
    hash.0.iter().map(|byte| format!("{byte:02x}")).collect()
}
