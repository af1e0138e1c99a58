//! One JSON object a line, for scripts. The fields are described in psync(1).

use std::sync::Mutex;

use jiff::Timestamp;
use psync_protocol::{RelPath, Role, Time};
use serde_json::{Map, Value, json};

use super::exit::Exit;
use super::options::Options;
use super::output::Output;
use super::summary::{LineNumbers, SideTally, Tally, TroubleCount};
use crate::report::{Action, Conflict, Deed, Kind, Phase, Report, Trouble, TroubleKind};
use crate::sync::Outcome;
use crate::transport::Purpose;

/// Prints objects.
#[derive(Debug)]
pub(super) struct Json {
    output: Output,
    pub(super) troubles: Mutex<TroubleCount>,
}

fn side(role: Role) -> &'static str {
    match role {
        Role::Initiator => "local",
        Role::Responder => "remote",
    }
}

/// A name that is not UTF-8 comes twice: readable, and exact in hexadecimal.
pub(super) fn put_path(object: &mut Map<String, Value>, key: &str, path: &[u8]) {
    object.insert(key.into(), String::from_utf8_lossy(path).into());
    if std::str::from_utf8(path).is_err() {
        object.insert(format!("{key}_hex"), hex(path).into());
    }
}

/// Several of them: all in hexadecimal, too, if one is not UTF-8.
pub(super) fn put_paths<'a>(
    object: &mut Map<String, Value>,
    key: &str,
    paths: impl Iterator<Item = &'a [u8]> + Clone,
) {
    object.insert(key.into(), paths.clone().map(String::from_utf8_lossy).collect());
    if paths.clone().any(|path| std::str::from_utf8(path).is_err()) {
        object.insert(format!("{key}_hex"), paths.map(hex).collect());
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A time: RFC 3339 in UTC, to the nanosecond where it is known so well. Every object has times in
/// this form, and durations in seconds. Null beyond the year 9999.
pub(super) fn time(time: Time) -> Value {
    let moment =
        i32::try_from(time.nanos).ok().and_then(|nanos| Timestamp::new(time.secs, nanos).ok());
    moment.map_or(Value::Null, |moment| moment.to_string().into())
}

/// A time in seconds since 1970.
pub(super) fn time_of_seconds(secs: i64) -> Value {
    time(Time { secs, nanos: 0 })
}

/// A time in milliseconds since 1970.
pub(super) fn time_of_milliseconds(milliseconds: i64) -> Value {
    let nanos = milliseconds.rem_euclid(1000) as u32 * 1_000_000;
    time(Time { secs: milliseconds.div_euclid(1000), nanos })
}

/// Bytes each way by what they are for.
fn by_purpose(bytes: &[(Purpose, u64, u64)]) -> Value {
    let entries = bytes.iter().map(|(purpose, sent, received)| {
        (purpose.name().to_string(), json!({"sent": sent, "received": received}))
    });
    Value::Object(entries.collect())
}

impl Json {
    pub(super) fn new(output: Output) -> Json {
        Json { output, troubles: Mutex::default() }
    }

    fn print(&self, value: &Value) {
        self.output.say(&value.to_string());
    }

    pub(super) fn start(&self, left: &str, right: &str, options: &Options) {
        let mut object = json!({
            "type": "start", "version": env!("CARGO_PKG_VERSION"),
            "left": left, "right": right, "flow": options.mode.name(), "dry_run": options.dry_run,
        });
        if let Some(pair) = &options.pair {
            object["pair"] = pair.as_str().into();
        }
        self.print(&object);
    }

    pub(super) fn summary(&self, outcome: &Outcome, line: LineNumbers, exit: Exit) {
        let tally = |tally: Tally| json!({"files": tally.files, "directories": tally.directories, "bytes": tally.bytes});
        let on = |role| {
            let parts = SideTally::of(&outcome.actions, role).parts();
            Value::Object(
                parts.into_iter().map(|(name, part)| (name.to_string(), tally(part))).collect(),
            )
        };
        let troubles = *self.troubles.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut summary = json!({
            "type": "summary", "exit": exit.code(), "carried_out": outcome.carried_out,
            "local": on(Role::Initiator), "remote": on(Role::Responder),
            "entries_local": outcome.entries.0, "entries_remote": outcome.entries.1,
            "conflicts": outcome.conflicts.len(),
            "failed": troubles.failed, "changed_during_run": troubles.changed,
            "bytes_sent": line.sent, "bytes_received": line.received,
            "line": by_purpose(&line.by_purpose),
            "turns": line.turns, "seconds": line.seconds,
        });
        if let Some(predicted) = &outcome.predicted {
            summary["predicted"] = json!({
                "bytes_sent": predicted.sent(), "bytes_received": predicted.received(),
                "line": by_purpose(&predicted.by_purpose),
                "turns": predicted.turns, "seconds": predicted.seconds,
            });
        }
        self.print(&summary);
    }

    pub(super) fn error(&self, text: &str, exit: Exit) {
        self.print(&json!({"type": "error", "exit": exit.code(), "text": text}));
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
        self.print(&Value::Object(object));
    }

    fn conflict(&self, conflict: &Conflict) {
        let mut object = Map::new();
        object.insert("type".into(), "conflict".into());
        put_path(&mut object, "path", conflict.path.as_bytes());
        object.insert("kind".into(), conflict.kind.name().into());
        object.insert("outcome".into(), conflict.outcome.clone().into());
        object.insert("rule".into(), conflict.rule.clone().into());
        object.insert("held".into(), conflict.is_held().into());
        self.print(&Value::Object(object));
    }

    fn merged(&self, path: &RelPath, clean: bool) {
        let mut object = Map::new();
        object.insert("type".into(), "merged".into());
        put_path(&mut object, "path", path.as_bytes());
        object.insert("clean".into(), clean.into());
        self.print(&Value::Object(object));
    }

    fn left_alone(&self, path: &RelPath, why: &str) {
        let mut object = Map::new();
        object.insert("type".into(), "left-alone".into());
        put_path(&mut object, "path", path.as_bytes());
        object.insert("why".into(), why.into());
        self.print(&Value::Object(object));
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
        self.print(&Value::Object(object));
    }

    fn progress(&self, _: &RelPath, _: u64) {}
}
