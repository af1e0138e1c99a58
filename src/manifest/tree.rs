//! Whole trees in few bytes, where two ends may have nearly the same: one digest for equal trees,
//! and values of runs of entries to find out what differs.
//!
//! The responder tells a value for each of its runs, and the initiator, who has all of its own,
//! sees which runs both have: Minsky, Trachtenberg and Zippel, "Set Reconciliation with Nearly
//! Optimal Communication Complexity", 2003, call this the set difference problem; this is a plain
//! way with one exchange, of compressed hashes.

use std::collections::HashMap;
use std::ops::Range;

use psync_protocol::codec::Put;
use psync_protocol::message::{
    Common, PropsStep, REMAINDER_MAX, RUNS_MAX, SKETCH, SPREAD_MAX, Summary, Tree, Versions,
};
use psync_protocol::session::{Shared, Twin};
use psync_protocol::{Check, CheckKey, Content, ContentHash, Props, Row};

use super::Stored;

/// Fewer rows than this are stated one by one: it costs few bytes, and two turns less where the
/// trees differ.
const WORTH: usize = 256;
/// What a row costs both ends together, in runs' values: with this the length of runs is chosen.
const ROW_COST: f64 = 13.0;
/// Some run of one end is taken for one of the other's, where it is not, with probability 2^-6: the
/// digest of all common runs tells, and all rows are stated after all.
const SURE_BITS: u8 = 6;

/// The keyed hashes of an entry.
struct Print {
    /// Of the path alone: where runs end, and in which part of a sketch it is.
    path: u64,
    /// Of path and content.
    content: [u8; 32],
}

/// What is hashed under the key of the session's trees; each kind of thing begins with its own.
#[derive(Clone, Copy)]
enum Domain {
    Path = 0,
    Entry = 1,
    Tree = 2,
    Run = 3,
    Runs = 4,
}

struct Printer([u8; 32]);

impl Printer {
    /// For the session that the end with this key has started.
    fn new(initiator: &CheckKey) -> Printer {
        Printer(initiator.tree_key())
    }

    fn hasher(&self, domain: Domain) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&[domain as u8]);
        hasher
    }

    fn print(&self, row: &Row<ContentHash>) -> Print {
        let mut bytes = Vec::with_capacity(row.path.as_bytes().len() + 48);
        bytes.put_bytes(row.path.as_bytes());
        match &row.content {
            Content::Deleted { .. } => bytes.push(0),
            Content::Directory => bytes.push(1),
            Content::File { size, hash } => {
                bytes.push(2);
                bytes.put_varint(*size);
                bytes.put_raw(&hash.0);
            }
            Content::Symlink { target, .. } => {
                bytes.push(3);
                bytes.put_bytes(target);
            }
        }
        let path = self.hasher(Domain::Path).update(row.path.as_bytes()).finalize();
        let content = self.hasher(Domain::Entry).update(&bytes).finalize();
        Print { path: first_word(path.as_bytes()), content: content.into() }
    }
}

fn first_word(hash: &[u8; 32]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *hash;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

fn first_half(hash: blake3::Hash) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&hash.as_bytes()[..16]);
    half
}

/// The versions that most rows have, and which rows these are: they live, and their mode is as it
/// was agreed. None where too few are of this kind for a digest of them to be of use.
pub fn plain(rows: &[Stored]) -> Option<(Versions, Vec<bool>)> {
    plain_from(WORTH, rows)
}

/// The same where so many rows are of use.
pub(crate) fn plain_from(worth: usize, rows: &[Stored]) -> Option<(Versions, Vec<bool>)> {
    let is_plain =
        |row: &Row<ContentHash>| row.content.is_live() && row.agreed_mode == row.props.mode;
    let mut counts: HashMap<Versions, usize> = HashMap::new();
    for row in rows.iter().map(|stored| &stored.row).filter(|row| is_plain(row)) {
        *counts.entry(versions(row)).or_default() += 1;
    }
    let (most, count) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    if count < worth || count < rows.len() / 2 {
        return None;
    }
    let of_most = |stored: &Stored| is_plain(&stored.row) && versions(&stored.row) == most;
    let plain = rows.iter().map(of_most).collect();
    Some((most, plain))
}

fn versions(row: &Row<ContentHash>) -> Versions {
    Versions { content: row.content_version.clone(), props: row.props_version.clone() }
}

/// What stands for these rows (sorted by path), all of these versions.
pub fn tree<'a>(
    rows: impl Iterator<Item = &'a Stored>,
    versions: Versions,
    initiator: &CheckKey,
) -> Tree {
    let printer = Printer::new(initiator);
    let mut whole = printer.hasher(Domain::Tree);
    let mut sketch = [0u16; SKETCH];
    let mut count = 0;
    for row in rows.map(|stored| &stored.row) {
        let print = printer.print(row);
        let part = (print.path >> 58) as usize;
        sketch[part] =
            sketch[part].wrapping_add(u16::from_le_bytes([print.content[0], print.content[1]]));
        whole.update(&print.content);
        whole.update(&row.props.mode.to_le_bytes());
        whole.update(&row.props.mtime.secs.to_le_bytes());
        whole.update(&row.props.mtime.nanos.to_le_bytes());
        count += 1;
    }
    Tree { count, versions, digest: first_half(whole.finalize()), sketch }
}

/// This end's rows that the initiator's tree may stand for: those in `own` that live, and that were
/// not `told` (sorted by path, both) one by one.
pub fn untold<'a>(own: &'a [Stored], told: &[Row<Check>]) -> Vec<&'a Stored> {
    let is_told =
        |row: &Row<ContentHash>| told.binary_search_by(|told| told.path.cmp(&row.path)).is_ok();
    own.iter().filter(|own| own.row.content.is_live() && !is_told(&own.row)).collect()
}

/// A row of the initiator that this end has, too, but for versions and properties.
pub fn their_row(
    own: &Row<ContentHash>,
    props: Props,
    versions: &Versions,
    key: &CheckKey,
) -> Row<Check> {
    Row {
        base: None,
        props,
        agreed_mode: props.mode,
        content_version: versions.content.clone(),
        props_version: versions.props.clone(),
        ..own.stated(key)
    }
}

/// About how many entries of two trees differ.
pub fn differences(one: &Tree, other: &Tree) -> u64 {
    let unequal = one.sketch.iter().zip(&other.sketch).filter(|(a, b)| a != b).count();
    if unequal == SKETCH {
        // More than a sketch can count.
        return unknown_differences(other.count as usize);
    }
    // So many entries, spread by chance, leave so many parts untouched.
    let parts = SKETCH as f64;
    (-parts * (1.0 - unequal as f64 / parts).ln()).ceil() as u64
}

/// A guess where nothing is known.
pub fn unknown_differences(rows: usize) -> u64 {
    (rows as u64 / 8).max(300)
}

/// A run of entries.
#[derive(Debug, Clone)]
struct Run {
    digest: [u8; 32],
    rows: Range<usize>,
}

/// Cuts rows, sorted by path, into runs. A run ends with an entry that is no directory and whose
/// path says so: so an entry that only one end has moves no other end of a run.
fn runs<'a>(rows: impl Iterator<Item = &'a Stored>, spread: u8, printer: &Printer) -> Vec<Run> {
    let mut runs = Vec::new();
    let (mut first, mut next) = (0, 0);
    let mut hasher = printer.hasher(Domain::Run);
    for stored in rows {
        let print = printer.print(&stored.row);
        hasher.update(&print.content);
        next += 1;
        let is_directory = matches!(stored.row.content, Content::Directory);
        if !is_directory && print.path & ((1 << spread) - 1) == 0 {
            let whole = std::mem::replace(&mut hasher, printer.hasher(Domain::Run));
            runs.push(Run { digest: whole.finalize().into(), rows: first..next });
            first = next;
        }
    }
    if first < next {
        runs.push(Run { digest: hasher.finalize().into(), rows: first..next });
    }
    runs
}

/// The value of a run among so many.
fn value(run: &Run, count: usize, bits: u8) -> u64 {
    let range = u128::from((count as u64) << bits);
    ((u128::from(first_word(&run.digest)) * range) >> 64) as u64
}

/// What the responder told of its tree, and the rows that it told it of.
#[derive(Debug)]
pub struct Outline {
    rows: Vec<Stored>,
    /// In the order of their values.
    runs: Vec<Run>,
    key: [u8; 32],
}

impl Outline {
    /// Of `rows` (sorted by path), all of these versions, to an initiator with this key, where
    /// about so many entries differ.
    pub fn new(
        rows: Vec<Stored>,
        versions: Versions,
        initiator: &CheckKey,
        differences: u64,
    ) -> (Outline, Summary) {
        let printer = Printer::new(initiator);
        let best = (rows.len() as f64 / (ROW_COST * differences.max(1) as f64)).sqrt();
        let mut spread = (best.max(1.0).log2() as u8).min(SPREAD_MAX);
        let mut runs = runs(rows.iter(), spread, &printer);
        while runs.len() > RUNS_MAX && spread < SPREAD_MAX {
            spread += 1;
            runs = self::runs(rows.iter(), spread, &printer);
        }
        let doubtful = differences.max(1).ilog2() as u8 + 1;
        let bits = (doubtful + SURE_BITS).clamp(10, REMAINDER_MAX);
        let count = runs.len();
        runs.sort_by_key(|run| value(run, count, bits));
        let values = runs.iter().map(|run| value(run, count, bits)).collect();
        (Outline { rows, runs, key: printer.0 }, Summary { spread, versions, bits, values })
    }

    /// What both have, sorted by path: the initiator's rows under `keys.0`, this end's under `keys.1`.
    /// None where the initiator means other runs, or cannot mean any.
    pub fn twins(&self, shared: &Shared, keys: (&CheckKey, &CheckKey)) -> Option<Vec<Twin>> {
        let Common { versions, digest, runs } = &shared.common;
        if runs.len() != self.runs.len().div_ceil(8) {
            return None;
        }
        let has = |at: usize| runs[at / 8] >> (at % 8) & 1 == 1;
        let both: Vec<&Run> =
            self.runs.iter().enumerate().filter(|(at, _)| has(*at)).map(|(_, run)| run).collect();
        if digest_of_runs(&Printer(self.key), both.iter().copied()) != *digest {
            return None;
        }
        let mut places: Vec<usize> = both.iter().flat_map(|run| run.rows.clone()).collect();
        places.sort_unstable();
        let rows: Vec<&Row<ContentHash>> = places.iter().map(|&at| &self.rows[at].row).collect();
        let props = follow(&shared.props, &rows)?;
        let twin = |(row, props): (&&Row<ContentHash>, Props)| Twin {
            initiator: their_row(row, props, versions, keys.0),
            responder: row.stated(keys.1),
        };
        Some(rows.iter().zip(props).map(twin).collect())
    }
}

fn digest_of_runs<'a>(printer: &Printer, runs: impl Iterator<Item = &'a Run>) -> [u8; 16] {
    let mut hasher = printer.hasher(Domain::Runs);
    runs.for_each(|run| {
        hasher.update(&run.digest);
    });
    first_half(hasher.finalize())
}

/// What the initiator has in common with the responder.
#[derive(Debug)]
pub struct Found {
    /// What to tell of it.
    pub common: Common,
    /// The properties of these rows here.
    pub props: Vec<PropsStep>,
    /// Positions of these rows, ascending.
    pub rows: Vec<usize>,
}

/// Finds what the responder has, too, in `rows` (sorted by path): of the `plain` ones, all of these
/// versions. None where that is nothing.
pub fn find_common(
    rows: &[Stored],
    plain: &[bool],
    versions: Versions,
    summary: &Summary,
    initiator: &CheckKey,
) -> Option<Found> {
    let printer = Printer::new(initiator);
    let places: Vec<usize> = (0..rows.len()).filter(|&at| plain[at]).collect();
    let own = runs(places.iter().map(|&at| &rows[at]), summary.spread, &printer);
    let count = summary.values.len();
    let mut by_value: HashMap<u64, Vec<&Run>> = HashMap::new();
    for run in &own {
        by_value.entry(value(run, count, summary.bits)).or_default().push(run);
    }
    let mut bits = vec![0u8; count.div_ceil(8)];
    let mut both = Vec::new();
    let mut at = 0;
    for same in summary.values.chunk_by(|a, b| a == b) {
        // Of two runs with one value nobody can tell which is meant.
        let here = by_value.get(&same[0]).map(Vec::as_slice);
        if let ([_], Some([run])) = (same, here) {
            bits[at / 8] |= 1 << (at % 8);
            both.push(*run);
        }
        at += same.len();
    }
    if both.is_empty() {
        return None;
    }
    let digest = digest_of_runs(&printer, both.iter().copied());
    let mut found: Vec<usize> =
        both.iter().flat_map(|run| run.rows.clone()).map(|at| places[at]).collect();
    found.sort_unstable();
    let props = steps(found.iter().map(|&at| &rows[at].row));
    Some(Found { common: Common { versions, digest, runs: bits }, props, rows: found })
}

/// Which of several references a row's properties are counted from.
fn kind(row: &Row<ContentHash>) -> usize {
    match row.content {
        Content::Deleted { .. } | Content::Directory => 0,
        Content::File { .. } => 1,
        Content::Symlink { .. } => 2,
    }
}

/// The properties of rows, each counted from the last row of its kind.
fn steps<'a>(rows: impl Iterator<Item = &'a Row<ContentHash>>) -> Vec<PropsStep> {
    let mut last = [Props::default(); 3];
    rows.map(|row| {
        let before = std::mem::replace(&mut last[kind(row)], row.props);
        PropsStep::between(&before, &row.props)
    })
    .collect()
}

/// The properties again, for rows of the same kinds; none if there cannot be such.
fn follow(steps: &[PropsStep], rows: &[&Row<ContentHash>]) -> Option<Vec<Props>> {
    if steps.len() != rows.len() {
        return None;
    }
    let mut last = [Props::default(); 3];
    let next = |(step, row): (&PropsStep, &&Row<ContentHash>)| {
        let props = step.from(&last[kind(row)])?;
        last[kind(row)] = props;
        props.may_be_of(&row.content).then_some(props)
    };
    steps.iter().zip(rows).map(next).collect()
}

#[cfg(test)]
mod tests;
