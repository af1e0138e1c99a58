//! The other side of `psync verify`: on this machine as it is, on another one through the remote
//! shell, where a psync reads and says what it found as JSON.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Child, Command, Output, Stdio};

use psync_protocol::{ContentHash, RelPath};
use serde_json::Value;

use super::{Side, tell};
use crate::cli::endpoint::Endpoint;
use crate::cli::exit::Exit;
use crate::cli::options::Options;
use crate::cli::plan_file::{bytes_of_hex, path_of_json};
use crate::cli::subject::Failure;
use crate::sync::{Examined, Finding};
use crate::transport::{answer, command_there};

/// A psync on the other machine, at work; none where the other side is here.
pub(super) fn start(options: &Options) -> Result<Option<Child>, Failure> {
    let Some(mut command) = there(options, &["verify", "--json", "--"]) else { return Ok(None) };
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    child.map(Some).map_err(|error| unreachable_there(options, &error.to_string()))
}

/// What it found.
pub(super) fn finish(
    waiting: Option<Child>,
    options: &Options,
    json: bool,
) -> Result<Side, Failure> {
    match (waiting, &options.other) {
        (Some(child), _) => {
            let output =
                answer(child).map_err(|error| unreachable_there(options, &error.to_string()))?;
            understand(options, &output)
        }
        (None, Endpoint::Local(root)) => Side::examine(root, &options.keeping_there, None, json),
        (None, _) => Err(unreachable_there(options, "it was not started")),
    }
}

/// What the other side's index says of all contents.
pub(super) fn list(options: &Options) -> Result<BTreeMap<RelPath, ContentHash>, Failure> {
    let objects = ask(options, &["verify", "--json", "--list", "--"], "")?;
    let entries = objects.iter().filter(|object| object["type"] == "entry");
    let entry = |object: &Value| {
        let hash = bytes_of_hex(object["hash"].as_str()?)?.try_into().ok()?;
        Some((path_of(object)?, ContentHash(hash)))
    };
    Ok(entries.filter_map(entry).collect())
}

/// Runs a command of psync there to its end, and gives the objects that it printed.
pub(super) fn ask(options: &Options, words: &[&str], input: &str) -> Result<Vec<Value>, Failure> {
    let failed = |error: std::io::Error| unreachable_there(options, &error.to_string());
    let mut command = there(options, words).ok_or_else(|| {
        unreachable_there(options, "it is on this machine, or is a daemon's module")
    })?;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // Whoever ends without reading says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = answer(child).map_err(failed)?;
    objects(options, &output)
}

fn there(options: &Options, words: &[&str]) -> Option<Command> {
    match &options.other {
        Endpoint::Remote { host, path } => {
            Some(command_there(&options.rsh, host, &options.program, words.iter().copied(), path))
        }
        // A daemon runs no commands for others.
        _ => None,
    }
}

fn unreachable_there(options: &Options, why: &str) -> Failure {
    let text = format!("{}: psync cannot be run there: {why}", options.other);
    Failure::new(Exit::Start, text)
}

fn objects(options: &Options, output: &Output) -> Result<Vec<Value>, Failure> {
    let lines = output.stdout.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let objects: Option<Vec<Value>> = lines.map(|line| serde_json::from_slice(line).ok()).collect();
    let nonsense =
        "what it said makes no sense; is it of the same version? (its own message may be above)";
    let objects = objects.ok_or_else(|| unreachable_there(options, nonsense))?;
    if let Some(error) = objects.iter().find(|object| object["type"] == "error") {
        let text = format!("{}: {}", options.other, error["text"].as_str().unwrap_or("it failed"));
        return Err(Failure::new(Exit::FileIo, text));
    }
    if objects.is_empty() && !output.status.success() {
        let why = format!("it ended with {} (its own message is above)", output.status);
        return Err(unreachable_there(options, &why));
    }
    Ok(objects)
}

fn understand(options: &Options, output: &Output) -> Result<Side, Failure> {
    let (mut findings, mut ended) = (Vec::new(), None);
    for object in objects(options, output)? {
        match object["type"].as_str() {
            Some("finding") => findings.extend(finding(&object)),
            Some("examined") => ended = Some(object),
            _ => {}
        }
    }
    let cut = || unreachable_there(options, "it broke off");
    let ended = ended.ok_or_else(cut)?;
    let number = |key: &str| ended[key].as_u64().unwrap_or_default();
    let digest = ended["digest"].as_str().and_then(bytes_of_hex);
    let digest = digest.and_then(|digest| digest.try_into().ok()).ok_or_else(cut)?;
    findings.sort_by(|a: &Finding, b| a.path.cmp(&b.path));
    let examined = Examined { entries: number("entries"), bytes: number("bytes"), findings };
    let name = options.other.to_string();
    Ok(Side { name, examined, contents: None, digest: ContentHash(digest) })
}

fn finding(object: &Value) -> Option<Finding> {
    let text = object["text"].as_str().unwrap_or_default();
    let fault = tell::fault_named(object["fault"].as_str()?, text)?;
    Some(Finding { path: path_of(object)?, fault })
}

/// The path that an object names.
pub(super) fn path_of(object: &Value) -> Option<RelPath> {
    RelPath::new(&path_of_json(object.as_object()?, "path")?).ok()
}
