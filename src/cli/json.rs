//! One JSON object a line, for scripts. The fields are described in psync(1).

use std::sync::Mutex;

use psync_protocol::{RelPath, Role};
use serde_json::{Map, Value, json};

use super::exit::Exit;
use super::run::print_out;
use super::summary::{LineNumbers, SideTally, Tally, TroubleCount};
use crate::report::{Action, Conflict, Deed, Kind, Phase, Report, Trouble, TroubleKind};
use crate::sync::Outcome;

/// Prints objects.
#[derive(Debug, Default)]
pub(super) struct Json {
    pub(super) troubles: Mutex<TroubleCount>,
}

fn print(value: &Value) {
    print_out(&format!("{value}\n"));
}

fn side(role: Role) -> &'static str {
    match role {
        Role::Initiator => "local",
        Role::Responder => "remote",
    }
}

/// A name that is not UTF-8 comes twice: readable, and exact in hexadecimal.
fn put_path(object: &mut Map<String, Value>, key: &str, path: &[u8]) {
    object.insert(key.into(), String::from_utf8_lossy(path).into());
    if std::str::from_utf8(path).is_err() {
        let hex: String = path.iter().map(|byte| format!("{byte:02x}")).collect();
        object.insert(format!("{key}_hex"), hex.into());
    }
}

impl Json {
    pub(super) fn start(&self, left: &str, right: &str, flow: &str, dry_run: bool) {
        print(&json!({
            "type": "start", "version": env!("CARGO_PKG_VERSION"),
            "left": left, "right": right, "flow": flow, "dry_run": dry_run,
        }));
    }

    pub(super) fn summary(&self, outcome: &Outcome, line: LineNumbers, exit: Exit) {
        let tally = |tally: Tally| json!({"files": tally.files, "directories": tally.directories, "bytes": tally.bytes});
        let on = |role| {
            let parts = SideTally::of(&outcome.actions, role).parts();
            Value::Object(
                parts.into_iter().map(|(name, part)| (name.to_string(), tally(part))).collect(),
            )
        };
        let line_by_purpose: Map<String, Value> = line
            .by_purpose
            .into_iter()
            .map(|(purpose, sent, received)| {
                (purpose.name().to_string(), json!({"sent": sent, "received": received}))
            })
            .collect();
        let troubles = *self.troubles.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        print(&json!({
            "type": "summary", "exit": exit.code(), "carried_out": outcome.carried_out,
            "local": on(Role::Initiator), "remote": on(Role::Responder),
            "entries_local": outcome.entries.0, "entries_remote": outcome.entries.1,
            "conflicts": outcome.conflicts.len(),
            "failed": troubles.failed, "changed_during_run": troubles.changed,
            "bytes_sent": line.sent, "bytes_received": line.received,
            "line": line_by_purpose,
            "turns": line.turns, "seconds": line.seconds,
        }));
    }

    pub(super) fn error(&self, text: &str, exit: Exit) {
        print(&json!({"type": "error", "exit": exit.code(), "text": text}));
    }
}

impl Report for Json {
    fn phase(&self, _: Phase) {}

    fn action(&self, action: &Action) {
        let mut object = Map::new();
        object.insert("type".into(), "action".into());
        object.insert("side".into(), side(action.on).into());
        let kind = match action.kind {
            Kind::File => "file",
            Kind::Directory => "directory",
            Kind::Symlink => "symlink",
        };
        let name = match &action.deed {
            Deed::Create => "create",
            Deed::Update => "update",
            Deed::Properties { .. } => "properties",
            Deed::Delete => "delete",
            Deed::Move { from } => {
                put_path(&mut object, "from", from.as_bytes());
                "move"
            }
            Deed::KeepBoth { clash } => {
                put_path(&mut object, "clash", clash.as_bytes());
                "keep-both"
            }
        };
        object.insert("action".into(), name.into());
        object.insert("kind".into(), kind.into());
        put_path(&mut object, "path", action.path.as_bytes());
        object.insert("size".into(), action.size.into());
        object.insert("why".into(), action.why.into());
        print(&Value::Object(object));
    }

    fn conflict(&self, conflict: &Conflict) {
        let mut object = Map::new();
        object.insert("type".into(), "conflict".into());
        put_path(&mut object, "path", conflict.path.as_bytes());
        object.insert("kind".into(), conflict.kind.name().into());
        object.insert("outcome".into(), conflict.outcome.clone().into());
        print(&Value::Object(object));
    }

    fn trouble(&self, trouble: &Trouble) {
        self.troubles.lock().unwrap_or_else(std::sync::PoisonError::into_inner).add(trouble.kind);
        let mut object = Map::new();
        object.insert("type".into(), "problem".into());
        object.insert("side".into(), side(trouble.on).into());
        put_path(&mut object, "path", &trouble.path);
        let kind = match trouble.kind {
            TroubleKind::Note => "note",
            TroubleKind::Special => "special",
            TroubleKind::Pattern => "pattern",
            TroubleKind::System => "failed",
            TroubleKind::Changed => "changed",
        };
        object.insert("kind".into(), kind.into());
        object.insert("text".into(), trouble.text.clone().into());
        print(&Value::Object(object));
    }

    fn progress(&self, _: &RelPath, _: u64) {}
}
