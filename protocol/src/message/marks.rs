//! The responder's marks: how its copies stand to the rows that the initiator stated.

use std::collections::{HashMap, HashSet};

use crate::codec::{Put, Reader};
use crate::error::DecodeError;
use crate::manifest::{PAIR_BYTES, REPLICAS_MAX, put_version, read_replicas, read_version};
use crate::version::{ReplicaId, Version};

/// Most marks in one message: a run of equal marks is short on the line and long in memory.
pub const MARKS_MAX: usize = 1 << 16;
/// A message is closed when its marks may take this many bytes, so that it fits a frame.
const PART_BYTES: usize = 768 << 10;

/// How the responder's copy of a row that the initiator stated stands to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// Older there; or stated in a row of its own.
    Behind,
    /// Nothing stands there.
    Absent,
    /// Older there, or nothing; and the responder has, at this path or another, the content that
    /// the row's base names.
    OnBase,
    /// The same state and the same versions.
    Equal,
    /// The same state under other versions.
    Same {
        /// Version of the content there.
        content: Version,
        /// Version of the properties there.
        props: Version,
    },
    /// Out of the responder's scope: a filter there leaves it alone.
    Ignored,
    /// Cannot be read or written there (unreadable, a device, ...): try again next time.
    Unusable,
}

/// Cuts marks into what fits one message each.
pub(crate) fn parts(marks: &[Mark]) -> Vec<&[Mark]> {
    let mut parts = Vec::new();
    let mut rest = marks;
    while !rest.is_empty() {
        let (part, next) = rest.split_at(part_len(rest));
        parts.push(part);
        rest = next;
    }
    parts
}

fn part_len(marks: &[Mark]) -> usize {
    let mut bytes = 0;
    let mut replicas: HashSet<ReplicaId> = HashSet::new();
    for (at, mark) in marks.iter().enumerate().take(MARKS_MAX) {
        if at > 0 && *mark == marks[at - 1] {
            continue;
        }
        bytes += 2 * 3;
        if let Mark::Same { content, props } = mark {
            let known = replicas.len();
            let pairs = || content.pairs().iter().chain(props.pairs());
            replicas.extend(pairs().map(|pair| pair.0));
            bytes += 2 * 2 + pairs().count() * PAIR_BYTES;
            bytes += (replicas.len() - known) * size_of::<ReplicaId>();
        }
        let full = bytes > PART_BYTES || replicas.len() > REPLICAS_MAX;
        if full && at > 0 {
            return at;
        }
    }
    marks.len().min(MARKS_MAX)
}

const MARK_BEHIND: u64 = 0;
const MARK_EQUAL: u64 = 1;
const MARK_IGNORED: u64 = 2;
const MARK_UNUSABLE: u64 = 3;
const MARK_ABSENT: u64 = 4;
const MARK_ON_BASE: u64 = 5;
const MARK_SAME: u64 = 6;

/// Marks travel as a table of the versions that `Same` marks name, and runs of equal marks.
pub(super) fn encode(marks: &[Mark], out: &mut Vec<u8>) {
    let mut table: Vec<(&Version, &Version)> = Vec::new();
    let mut numbers = HashMap::new();
    let mut replicas = Vec::new();
    let codes: Vec<u64> = marks
        .iter()
        .map(|mark| match mark {
            Mark::Behind => MARK_BEHIND,
            Mark::Absent => MARK_ABSENT,
            Mark::OnBase => MARK_ON_BASE,
            Mark::Equal => MARK_EQUAL,
            Mark::Ignored => MARK_IGNORED,
            Mark::Unusable => MARK_UNUSABLE,
            Mark::Same { content, props } => {
                let number = *numbers.entry((content, props)).or_insert_with(|| {
                    table.push((content, props));
                    replicas.extend(content.pairs().iter().chain(props.pairs()).map(|p| p.0));
                    table.len() as u64 - 1
                });
                MARK_SAME + number
            }
        })
        .collect();
    replicas.sort_unstable();
    replicas.dedup();
    out.put_varint(replicas.len() as u64);
    replicas.iter().for_each(|replica| out.put_raw(&replica.0));
    out.put_varint(table.len() as u64);
    for (content, props) in table {
        put_version(content, &replicas, out);
        put_version(props, &replicas, out);
    }
    let runs: Vec<&[u64]> = codes.chunk_by(|a, b| a == b).collect();
    out.put_varint(runs.len() as u64);
    for run in runs {
        out.put_varint(run[0]);
        out.put_varint(run.len() as u64);
    }
}

pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Vec<Mark>, DecodeError> {
    let replicas = read_replicas(reader)?;
    let versions = reader.count("a count of versions", MARKS_MAX)?;
    let mut table = Vec::with_capacity(versions);
    for _ in 0..versions {
        let content = read_version(reader, &replicas)?;
        table.push(Mark::Same { content, props: read_version(reader, &replicas)? });
    }
    let mut marks = Vec::new();
    for _ in 0..reader.count("a count of runs", MARKS_MAX)? {
        let mark = match reader.varint("a mark")? {
            MARK_BEHIND => Mark::Behind,
            MARK_ABSENT => Mark::Absent,
            MARK_ON_BASE => Mark::OnBase,
            MARK_EQUAL => Mark::Equal,
            MARK_IGNORED => Mark::Ignored,
            MARK_UNUSABLE => Mark::Unusable,
            n => {
                let number = usize::try_from(n - MARK_SAME).unwrap_or(usize::MAX);
                table.get(number).cloned().ok_or(DecodeError::Invalid("a mark"))?
            }
        };
        let run = reader.bounded("a run of marks", (MARKS_MAX - marks.len()) as u64)?;
        if run == 0 {
            return Err(DecodeError::Invalid("a run of marks"));
        }
        marks.resize(marks.len() + run as usize, mark);
    }
    Ok(marks)
}
