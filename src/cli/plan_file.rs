//! A plan as a text file: one JSON object a line, which a person may read, and a check over all of
//! it, so that a file which was edited or cut is refused. psync-plan(1) describes the fields.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use psync_protocol::{RelPath, ReplicaId, Role};
use serde_json::{Map, Value, json};

use super::json::put_path;
use crate::reconcile::{AgreedPlan, PathPlan};
use crate::report::{Action, Deed};

/// The version of the format; another one is refused.
const FORMAT: u64 = 1;

/// A plan, with what has to be known to carry it out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PlanFile {
    /// The directory in which the plan was asked for: paths were typed as seen from there.
    pub(super) directory: PathBuf,
    /// What was typed: both sides and the options of a sync.
    pub(super) words: Vec<OsString>,
    /// Both sides, for people.
    pub(super) sides: [String; 2],
    /// When it was made, for people.
    pub(super) made: String,
    /// The plan.
    pub(super) plan: AgreedPlan,
}

impl PlanFile {
    /// The file's text. `actions` are what the plan comes to, for people.
    pub(super) fn to_text(&self, actions: &[Action]) -> String {
        let mut does: BTreeMap<&RelPath, Vec<&Action>> = BTreeMap::new();
        for action in actions {
            does.entry(&action.path).or_default().push(action);
        }
        let [local, remote] = &self.sides;
        let (ours, theirs) = self.plan.replicas;
        let side = |at: &str, replica: ReplicaId| json!({"at": at, "replica": replica.to_string()});
        let mut head = vec![
            ("psync-plan".to_string(), FORMAT.into()),
            ("made".to_string(), self.made.clone().into()),
            ("local".to_string(), side(local, ours)),
            ("remote".to_string(), side(remote, theirs)),
        ];
        head.extend(path_fields("directory", self.directory.as_os_str().as_bytes()));
        head.push(("words".into(), self.words.iter().map(word_to_json).collect()));
        head.push(("clash-time".into(), self.plan.stamp.clone().into()));
        let mut text = line_of(head);
        for (path, plan) in &self.plan.paths {
            let mut line: Vec<(String, Value)> = path_fields("path", path.as_bytes()).collect();
            let does = does.get(path).map_or(&[][..], |does| does);
            line.push(("does".into(), does.iter().copied().map(in_words).collect()));
            line.push(("decision".into(), plan.decision.clone().into()));
            line.push(("local".into(), plan.local.clone().into()));
            line.push(("remote".into(), plan.remote.clone().into()));
            text.push_str(&line_of(line));
        }
        let end = end_of(&text);
        text.push_str(&format!("{end}\n"));
        text
    }

    /// Understands a file; the error says what is wrong with it.
    pub(super) fn parse(bytes: &[u8]) -> Result<PlanFile, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "this is no plan file".to_string())?;
        let head = text.lines().next().and_then(object);
        let format = head.as_ref().and_then(|head| head.get("psync-plan"));
        let format = format.ok_or("this is no plan file")?;
        if format.as_u64() != Some(FORMAT) {
            return Err(format!(
                "the plan file has format {format}; this psync knows format {FORMAT}. Make a new plan with psync plan"
            ));
        }
        let changed = || {
            "the plan file is not as psync plan wrote it: it was edited or cut. Nothing was changed; make a new plan"
                .to_string()
        };
        let body = text.strip_suffix('\n').and_then(|text| text.rsplit_once('\n'));
        let (body, end) = body.ok_or_else(changed)?;
        let body = &text[..=body.len()];
        if end != end_of(body) {
            return Err(changed());
        }
        head.and_then(|head| understand(&head, body)).ok_or_else(changed)
    }
}

/// A line of the file, with its fields in this order, which is the one that a person reads best.
fn line_of(fields: Vec<(String, Value)>) -> String {
    let field = |(name, value)| format!("{}:{value}", Value::String(name));
    let fields: Vec<String> = fields.into_iter().map(field).collect();
    format!("{{{}}}\n", fields.join(","))
}

/// The field or two of a path.
fn path_fields(key: &str, path: &[u8]) -> impl Iterator<Item = (String, Value)> {
    let mut fields = Map::new();
    put_path(&mut fields, key, path);
    fields.into_iter()
}

/// The last line of a file: the number of paths, and the hash of all lines before.
fn end_of(body: &str) -> String {
    let paths = body.lines().count().saturating_sub(1);
    json!({"paths": paths, "blake3": blake3::hash(body.as_bytes()).to_string()}).to_string()
}

fn object(line: &str) -> Option<Map<String, Value>> {
    match serde_json::from_str(line) {
        Ok(Value::Object(object)) => Some(object),
        Ok(_) | Err(_) => None,
    }
}

/// None where something is missing or of another type: then psync did not write it.
fn understand(head: &Map<String, Value>, body: &str) -> Option<PlanFile> {
    let text = |object: &Map<String, Value>, key: &str| {
        object.get(key).and_then(Value::as_str).map(str::to_string)
    };
    let end = |key| {
        let end = head.get(key).and_then(Value::as_object)?;
        Some((text(end, "at")?, replica(&text(end, "replica")?)?))
    };
    let ((local, ours), (remote, theirs)) = (end("local")?, end("remote")?);
    let words = head.get("words")?.as_array()?.iter().map(word_of_json);
    let mut paths = BTreeMap::new();
    for line in body.lines().skip(1) {
        let line = object(line)?;
        let path = RelPath::new(&path_of_json(&line, "path")?).ok()?;
        let plan = PathPlan {
            decision: text(&line, "decision")?,
            local: text(&line, "local")?,
            remote: text(&line, "remote")?,
        };
        paths.insert(path, plan);
    }
    Some(PlanFile {
        directory: OsString::from_vec(path_of_json(head, "directory")?).into(),
        words: words.collect::<Option<_>>()?,
        sides: [local, remote],
        made: text(head, "made")?,
        plan: AgreedPlan { replicas: (ours, theirs), stamp: text(head, "clash-time")?, paths },
    })
}

fn replica(text: &str) -> Option<ReplicaId> {
    Some(ReplicaId(bytes_of_hex(text)?.try_into().ok()?))
}

pub(super) fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

pub(super) fn path_of_json(object: &Map<String, Value>, key: &str) -> Option<Vec<u8>> {
    match object.get(&format!("{key}_hex")) {
        Some(hex) => bytes_of_hex(hex.as_str()?),
        None => Some(object.get(key)?.as_str()?.as_bytes().to_vec()),
    }
}

fn word_to_json(word: &OsString) -> Value {
    match word.to_str() {
        Some(text) => text.into(),
        None => {
            let hex: String = word.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
            json!({ "hex": hex })
        }
    }
}

fn word_of_json(word: &Value) -> Option<OsString> {
    match word {
        Value::String(text) => Some(text.into()),
        Value::Object(object) => {
            Some(OsString::from_vec(bytes_of_hex(object.get("hex")?.as_str()?)?))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => None,
    }
}

/// An action for people: `create on remote (new on one side)`.
fn in_words(action: &Action) -> Value {
    let on = match action.on {
        Role::Initiator => "local",
        Role::Responder => "remote",
    };
    let what = match &action.deed {
        Deed::Create => "create".to_string(),
        Deed::Update => "update".to_string(),
        Deed::Properties { .. } => "set mode or time".to_string(),
        Deed::Delete => "delete".to_string(),
        Deed::Move { from } => format!("move from {from}"),
        Deed::KeepBoth { clash } => format!("keep both, the other as {clash},"),
    };
    format!("{what} on {on} ({})", action.why).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> PlanFile {
        let odd = RelPath::new(b"odd \xff\n name").unwrap();
        let plain = RelPath::new(b"plain").unwrap();
        let plan = |decision: &str| PathPlan {
            decision: decision.into(),
            local: "file of 3 bytes; content local:4; mode and time local:4".into(),
            remote: "nothing, or an older version".into(),
        };
        PlanFile {
            directory: "/home/ana".into(),
            words: vec!["-e".into(), "ssh -p 22".into(), OsString::from_vec(b"\xff".to_vec())],
            sides: ["/home/ana/a".into(), "host:b".into()],
            made: "2026-11-21T15:00:00Z".into(),
            plan: AgreedPlan {
                replicas: (ReplicaId([1; 16]), ReplicaId([0xfe; 16])),
                stamp: "202611211500".into(),
                paths: [(odd, plan("take local")), (plain, plan("take remote"))].into(),
            },
        }
    }

    #[test]
    fn a_plan_is_read_as_it_was_written() {
        let text = sample().to_text(&[]);
        assert_eq!(PlanFile::parse(text.as_bytes()), Ok(sample()));
        assert_eq!(text.lines().count(), 4);
    }

    #[test]
    fn a_plan_that_was_changed_anywhere_is_refused() {
        let text = sample().to_text(&[]);
        for at in 0..text.len() {
            let mut edited = text.clone().into_bytes();
            edited[at] ^= 1;
            assert!(PlanFile::parse(&edited).is_err(), "changed at {at}");
            assert!(PlanFile::parse(&text.as_bytes()[..at]).is_err(), "cut at {at}");
        }
        let without: Vec<&str> = text.lines().filter(|line| !line.contains("plain")).collect();
        assert!(
            PlanFile::parse(without.join("\n").as_bytes())
                .is_err_and(|text| text.contains("edited"))
        );
    }

    #[test]
    fn a_plan_of_a_newer_psync_is_named_as_such() {
        let text = sample().to_text(&[]).replace("\"psync-plan\":1", "\"psync-plan\":2");
        assert!(PlanFile::parse(text.as_bytes()).is_err_and(|text| text.contains("format 2")));
        assert!(PlanFile::parse(b"hello\n").is_err_and(|text| text.contains("no plan file")));
    }
}
