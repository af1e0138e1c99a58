//! Rows on the line: sorted by path, prefix-stripped, in columns, so that the stream's compressor
//! sees like beside like. A full hash never travels here.
//!
//! Layout of one batch: SPEC.md, "Rows".

use std::collections::{HashMap, HashSet};

use crate::codec::{Put, Reader};
use crate::entry::{
    Check, CheckKey, Content, ContentHash, MODE_MASK, Props, Row, TARGET_MAX, Time,
};
use crate::error::DecodeError;
use crate::path::{PATH_MAX, RelPath};
use crate::version::{ReplicaId, Version};

/// Most rows in one batch.
pub const BATCH_ROWS: usize = 4096;
/// A batch is closed when its rows may take this many bytes, so that it fits a frame.
const BATCH_BYTES: usize = 768 << 10;
/// What the columns of one row may take at most, without its path, target and versions.
const COLUMNS_BYTES: usize = 64;
/// What one pair of a version may take at most: the replica's number and its counter.
pub(crate) const PAIR_BYTES: usize = 2 + 9;
/// Most rows in one manifest.
pub const ENTRIES_MAX: usize = 10_000_000;
/// Most bytes of paths and symlink targets in one manifest: the reader keeps them all in memory.
pub const NAMES_MAX: u64 = 64 * ENTRIES_MAX as u64;
/// Most pairs in all versions of one statement, each counted where it stands in a table: compressed,
/// they take next to nothing on the line, and 24 bytes each in memory.
pub const PAIRS_MAX: u64 = 4 << 20;
/// Most replicas that the versions of one batch may name.
pub(crate) const REPLICAS_MAX: usize = 4096;
/// Most bytes of one row's extensions (owners, extended attributes and what follows).
const EXTENSION_MAX: usize = 64 << 10;

const KIND: u8 = 0b0000_0011;
const KIND_DELETED: u8 = 0;
const KIND_DIRECTORY: u8 = 1;
const KIND_FILE: u8 = 2;
const KIND_SYMLINK: u8 = 3;
const HAS_BASE: u8 = 1 << 2;
const MODE_CHANGED: u8 = 1 << 3;
const MOVED: u8 = 1 << 4;
const EXTENDED: u8 = 1 << 5;
const FLAGS_KNOWN: u8 = 0b0011_1111;

/// Where each row of a manifest stands.
type Index<'a> = HashMap<&'a RelPath, (usize, &'a Row<Check>)>;

/// The two ends of a session, as far as whoever writes or reads rows knows them: their ids are not
/// spelled out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parties {
    /// The end that speaks first.
    pub initiator: Option<ReplicaId>,
    /// The other one.
    pub responder: Option<ReplicaId>,
}

const INITIATOR: u8 = 0;
const RESPONDER: u8 = 1;
const SPELLED_OUT: u8 = 2;

impl Parties {
    fn put(self, replica: ReplicaId, out: &mut Vec<u8>) {
        if self.initiator == Some(replica) {
            out.push(INITIATOR);
        } else if self.responder == Some(replica) {
            out.push(RESPONDER);
        } else {
            out.push(SPELLED_OUT);
            out.put_raw(&replica.0);
        }
    }

    fn read(self, reader: &mut Reader<'_>) -> Result<ReplicaId, DecodeError> {
        let party = match reader.u8("a replica's kind")? {
            INITIATOR => self.initiator,
            RESPONDER => self.responder,
            SPELLED_OUT => Some(ReplicaId(reader.array("a replica's id")?)),
            _ => None,
        };
        party.ok_or(DecodeError::Invalid("a replica's kind"))
    }
}

/// Goes past a replica without knowing the two ends.
fn skip_party(reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    match reader.u8("a replica's kind")? {
        INITIATOR | RESPONDER => Ok(()),
        SPELLED_OUT => reader.raw(size_of::<ReplicaId>(), "a replica's id").map(|_| ()),
        _ => Err(DecodeError::Invalid("a replica's kind")),
    }
}

/// Turns sorted rows into payloads of `Rows` messages. The order is checked by the reader.
pub fn encode(rows: &[Row<Check>]) -> Vec<Vec<u8>> {
    encode_between(rows, Parties::default())
}

/// The same, between two ends that know each other.
pub fn encode_between(rows: &[Row<Check>], parties: Parties) -> Vec<Vec<u8>> {
    let index: Index<'_> =
        rows.iter().enumerate().map(|(at, row)| (&row.path, (at, row))).collect();
    let mut batches = Vec::new();
    let mut start = 0;
    while start < rows.len() {
        let end = batch_end(rows, start);
        batches.push(encode_batch(&rows[start..end], start, &index, parties));
        start = end;
    }
    batches
}

fn batch_end(rows: &[Row<Check>], start: usize) -> usize {
    let mut bytes = 0;
    let mut versions: HashSet<&Version> = HashSet::new();
    let mut replicas: HashSet<ReplicaId> = HashSet::new();
    for (at, row) in rows.iter().enumerate().skip(start).take(BATCH_ROWS) {
        bytes += COLUMNS_BYTES + row.path.as_bytes().len();
        if let Content::Symlink { target, .. } = &row.content {
            bytes += target.len();
        }
        for version in [&row.content_version, &row.props_version] {
            if versions.insert(version) {
                let known = replicas.len();
                replicas.extend(version.pairs().iter().map(|pair| pair.0));
                bytes += 2 + version.pairs().len() * PAIR_BYTES;
                bytes += (replicas.len() - known) * (1 + size_of::<ReplicaId>());
            }
        }
        let full = bytes > BATCH_BYTES || replicas.len() > REPLICAS_MAX;
        if full && at > start {
            return at;
        }
    }
    rows.len().min(start + BATCH_ROWS)
}

fn encode_batch(rows: &[Row<Check>], start: usize, index: &Index<'_>, parties: Parties) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_varint(rows.len() as u64);
    encode_versions(rows, parties, &mut out);
    encode_paths(rows, &mut out);
    let moved: Vec<Option<usize>> = rows.iter().map(|row| moved_index(row, index)).collect();
    for (row, moved) in rows.iter().zip(&moved) {
        out.push(flags(row, moved.is_some()));
    }
    for row in rows.iter().filter(|row| has_mode(&row.content)) {
        out.put_varint(u64::from(row.props.mode));
    }
    for row in rows.iter().filter(|row| mode_changed(row)) {
        out.put_varint(u64::from(row.agreed_mode));
    }
    let timed = || rows.iter().filter(|row| has_time(&row.content)).map(|row| row.props.mtime);
    let mut before = 0;
    for time in timed() {
        out.put_signed(time.secs.wrapping_sub(before));
        before = time.secs;
    }
    timed().for_each(|time| out.put_varint(u64::from(time.nanos)));
    for row in rows {
        if let Content::File { size, .. } = row.content {
            out.put_varint(size);
        }
    }
    for row in rows {
        if let Content::Symlink { target, .. } = &row.content {
            out.put_bytes(target);
        }
    }
    for (at, target) in moved.iter().enumerate() {
        if let Some(target) = target {
            out.put_signed(*target as i64 - (start + at) as i64);
        }
    }
    for row in rows {
        if let Content::File { hash, .. } = row.content {
            out.put_raw(&hash.0.to_le_bytes());
        }
    }
    for (row, moved) in rows.iter().zip(&moved) {
        if let (Some(base), None) = (row.base, moved) {
            out.put_raw(&base.0.to_le_bytes());
        }
    }
    out
}

/// The versions of a batch: replicas, distinct vectors, then two columns that point to them.
fn encode_versions(rows: &[Row<Check>], parties: Parties, out: &mut Vec<u8>) {
    let mut replicas: Vec<ReplicaId> = Vec::new();
    let mut vectors: Vec<&Version> = Vec::new();
    let mut known: HashMap<&Version, usize> = HashMap::new();
    let facets = || {
        let content = rows.iter().map(|row| &row.content_version);
        content.chain(rows.iter().map(|row| &row.props_version))
    };
    for version in facets() {
        known.entry(version).or_insert_with(|| {
            vectors.push(version);
            replicas.extend(version.pairs().iter().map(|pair| pair.0));
            vectors.len() - 1
        });
    }
    replicas.sort_unstable();
    replicas.dedup();
    out.put_varint(replicas.len() as u64);
    replicas.iter().for_each(|replica| parties.put(*replica, out));
    out.put_varint(vectors.len() as u64);
    vectors.iter().for_each(|version| put_version(version, &replicas, out));
    facets().for_each(|version| out.put_varint(known[version] as u64));
}

pub(crate) fn put_version(version: &Version, replicas: &[ReplicaId], out: &mut Vec<u8>) {
    out.put_varint(version.pairs().len() as u64);
    for (replica, counter) in version.pairs() {
        let at = replicas.binary_search(replica).expect("every replica of the batch is listed");
        out.put_varint(at as u64);
        out.put_varint(*counter);
    }
}

fn encode_paths(rows: &[Row<Check>], out: &mut Vec<u8>) {
    let mut before: &[u8] = b"";
    let mut shared = Vec::with_capacity(rows.len());
    for row in rows {
        let path = row.path.as_bytes();
        let same = before.iter().zip(path).take_while(|(a, b)| a == b).count();
        shared.push(same);
        before = path;
    }
    shared.iter().for_each(|&same| out.put_varint(same as u64));
    for (row, same) in rows.iter().zip(&shared) {
        out.put_varint((row.path.as_bytes().len() - same) as u64);
    }
    for (row, &same) in rows.iter().zip(&shared) {
        out.put_raw(&row.path.as_bytes()[same..]);
    }
}

/// The number of the row where a moved file stands now, if that row has the same content: only
/// then does it say what the tombstone builds on.
fn moved_index(row: &Row<Check>, index: &Index<'_>) -> Option<usize> {
    let Content::Deleted { moved_to: Some(target) } = &row.content else { return None };
    let (at, target) = index.get(target)?;
    (row.base.is_some() && row.base == target.content.fingerprint()).then_some(*at)
}

fn flags(row: &Row<Check>, moved: bool) -> u8 {
    let kind = match row.content {
        Content::Deleted { .. } => KIND_DELETED,
        Content::Directory => KIND_DIRECTORY,
        Content::File { .. } => KIND_FILE,
        Content::Symlink { .. } => KIND_SYMLINK,
    };
    let mut flags = kind;
    if row.base.is_some() && !moved {
        flags |= HAS_BASE;
    }
    if mode_changed(row) {
        flags |= MODE_CHANGED;
    }
    if moved {
        flags |= MOVED;
    }
    flags
}

fn has_mode<H>(content: &Content<H>) -> bool {
    matches!(content, Content::Directory | Content::File { .. })
}

fn has_time<H>(content: &Content<H>) -> bool {
    matches!(content, Content::File { .. } | Content::Symlink { .. })
}

fn mode_changed(row: &Row<Check>) -> bool {
    has_mode(&row.content) && row.agreed_mode != row.props.mode
}

/// Puts the batches of one manifest together again.
#[derive(Debug)]
pub struct ManifestReader {
    key: CheckKey,
    parties: Parties,
    rows: Vec<Row<Check>>,
    moved: Vec<(usize, usize)>,
    /// How many rows there may be.
    rows_max: usize,
    /// How many bytes of paths and targets may still come.
    names: Budget,
    /// How many pairs of all versions.
    pairs: Budget,
}

impl ManifestReader {
    /// For a manifest stated by the end with this key.
    pub fn new(key: CheckKey) -> ManifestReader {
        let (names, pairs) = (Budget::names(), Budget::pairs());
        let (rows, moved) = (Vec::new(), Vec::new());
        let parties = Parties::default();
        ManifestReader { key, parties, rows, moved, rows_max: ENTRIES_MAX, names, pairs }
    }

    /// Of a manifest between two ends that know each other.
    pub fn between(self, parties: Parties) -> ManifestReader {
        ManifestReader { parties, ..self }
    }

    /// How many rows have come so far.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether no row has come yet.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Takes one batch. Rows must ascend by path, across batches too.
    pub fn batch(&mut self, payload: &[u8]) -> Result<(), DecodeError> {
        let mut reader = Reader::new(payload);
        let count = reader.count("a count of rows", BATCH_ROWS)?;
        if self.rows.len() + count > self.rows_max {
            let value = (self.rows.len() + count) as u64;
            let limit = self.rows_max as u64;
            return Err(DecodeError::TooLarge { what: "the count of entries", value, limit });
        }
        let start = self.rows.len();
        let budgets = (&mut self.names, &mut self.pairs);
        let mut columns = Columns::read(&mut reader, count, self.parties, budgets)?;
        columns.read_details(&mut reader, &mut self.names)?;
        for at in 0..count {
            let row = columns.row(at, &mut reader, &self.key)?;
            if self.rows.last().is_some_and(|last| last.path >= row.path) {
                return Err(DecodeError::Invalid("the order of the rows"));
            }
            self.rows.push(row);
        }
        for at in 0..count {
            if columns.flags[at] & HAS_BASE != 0 {
                self.rows[start + at].base = Some(check(&mut reader)?);
            }
        }
        for (at, offset) in columns.moved {
            let target = ((start + at) as i64).checked_add(offset);
            let target = target.and_then(|target| usize::try_from(target).ok());
            self.moved.push((start + at, target.ok_or(DecodeError::Invalid("a move"))?));
        }
        reader.end("rows")
    }

    /// The whole manifest, once every batch has come.
    pub fn finish(mut self) -> Result<Vec<Row<Check>>, DecodeError> {
        for (from, to) in self.moved {
            // What moved must stand somewhere: not past the last row, not in a tombstone.
            let moved = self.rows.get(to);
            let moved = moved.and_then(|row| Some((row.path.clone(), row.content.fingerprint()?)));
            let (path, base) = moved.ok_or(DecodeError::Invalid("a move"))?;
            let row = &mut self.rows[from];
            row.content = Content::Deleted { moved_to: Some(path) };
            row.base = Some(base);
        }
        Ok(self.rows)
    }
}

/// The lengths of the paths of one batch, for whoever wants to know them before it is decoded.
pub(crate) struct PathLengths<'a> {
    shared: Vec<usize>,
    rest: Vec<usize>,
    bytes: &'a [u8],
    pairs: usize,
}

impl<'a> PathLengths<'a> {
    /// How many rows there are.
    pub(crate) fn count(&self) -> usize {
        self.rest.len()
    }

    /// How many pairs all versions have together.
    pub(crate) fn pairs(&self) -> usize {
        self.pairs
    }

    /// Of each path how much it shares with the one before it, and how much follows.
    pub(crate) fn paths(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.shared.iter().copied().zip(self.rest.iter().copied())
    }

    /// What follows, of all paths together, and whatever stands behind it.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// Reads as much of a batch as tells how long its paths are.
pub(crate) fn path_lengths(payload: &[u8]) -> Result<PathLengths<'_>, DecodeError> {
    let mut reader = Reader::new(payload);
    let count = reader.count("a count of rows", BATCH_ROWS)?;
    let replicas = reader.count("a count of replicas", REPLICAS_MAX)?;
    (0..replicas).try_for_each(|_| skip_party(&mut reader))?;
    let versions = reader.count("a count of versions", 2 * count)?;
    let mut pairs = 0;
    for _ in 0..versions {
        let own = reader.count("a version's length", REPLICAS_MAX)?;
        pairs += own;
        (0..2 * own).try_for_each(|_| reader.varint("a version").map(|_| ()))?;
    }
    (0..2 * count).try_for_each(|_| reader.varint("a version's number").map(|_| ()))?;
    let mut column = |what| {
        let length = |_| Ok(reader.bounded(what, PATH_MAX as u64)? as usize);
        (0..count).map(length).collect::<Result<Vec<usize>, DecodeError>>()
    };
    let (shared, rest) = (column("a shared prefix")?, column("a path's length")?);
    Ok(PathLengths { shared, rest, bytes: reader.raw(reader.remaining(), "the paths")?, pairs })
}

/// What a statement may still hold of something that takes memory, whatever it takes on the line.
#[derive(Debug)]
pub(crate) struct Budget {
    what: &'static str,
    taken: u64,
    limit: u64,
}

impl Budget {
    fn names() -> Budget {
        Budget { what: "the length of all paths and targets", taken: 0, limit: NAMES_MAX }
    }

    /// For the pairs of all versions of a statement.
    pub(crate) fn pairs() -> Budget {
        Budget { what: "the count of pairs in all versions", taken: 0, limit: PAIRS_MAX }
    }

    pub(crate) fn take(&mut self, more: u64) -> Result<(), DecodeError> {
        self.taken += more;
        if self.taken > self.limit {
            let (what, value, limit) = (self.what, self.taken, self.limit);
            return Err(DecodeError::TooLarge { what, value, limit });
        }
        Ok(())
    }
}

/// The columns of a batch, before they become rows.
struct Columns {
    versions: Vec<Version>,
    content_version: Vec<usize>,
    props_version: Vec<usize>,
    paths: Vec<RelPath>,
    flags: Vec<u8>,
    modes: Vec<u16>,
    agreed: Vec<u16>,
    times: Vec<Time>,
    sizes: Vec<u64>,
    targets: Vec<Box<[u8]>>,
    moved: Vec<(usize, i64)>,
}

impl Columns {
    fn read(
        reader: &mut Reader<'_>,
        count: usize,
        parties: Parties,
        (names, pairs): (&mut Budget, &mut Budget),
    ) -> Result<Columns, DecodeError> {
        let versions = read_versions_between(reader, parties, pairs)?;
        let mut pointer = |_| -> Result<usize, DecodeError> {
            let at = reader.varint("a version's number")? as usize;
            if at >= versions.len() {
                Err(DecodeError::Invalid("a version's number"))
            } else {
                Ok(at)
            }
        };
        let content_version = (0..count).map(&mut pointer).collect::<Result<_, _>>()?;
        let props_version = (0..count).map(&mut pointer).collect::<Result<_, _>>()?;
        let paths = read_paths(reader, count, names)?;
        let flags = reader.raw(count, "the rows' flags")?.to_vec();
        let modeless = |flags: u8| !matches!(flags & KIND, KIND_DIRECTORY | KIND_FILE);
        let refused =
            |flags: u8| flags & !FLAGS_KNOWN != 0 || flags & MODE_CHANGED != 0 && modeless(flags);
        if flags.iter().any(|&flags| refused(flags)) {
            return Err(DecodeError::Invalid("a row's flags"));
        }
        Ok(Columns {
            versions,
            content_version,
            props_version,
            paths,
            flags,
            modes: Vec::new(),
            agreed: Vec::new(),
            times: Vec::new(),
            sizes: Vec::new(),
            targets: Vec::new(),
            moved: Vec::new(),
        })
    }

    fn with_kind(&self, kinds: &'static [u8]) -> impl Iterator<Item = usize> + '_ {
        (0..self.flags.len()).filter(move |&at| kinds.contains(&(self.flags[at] & KIND)))
    }

    fn read_details(
        &mut self,
        reader: &mut Reader<'_>,
        names: &mut Budget,
    ) -> Result<(), DecodeError> {
        let mode = |reader: &mut Reader<'_>| reader.bounded("a mode", u64::from(MODE_MASK));
        let modes = self.with_kind(&[KIND_DIRECTORY, KIND_FILE]).count();
        for _ in 0..modes {
            self.modes.push(mode(reader)? as u16);
        }
        let changed = self.flags.iter().filter(|flags| *flags & MODE_CHANGED != 0).count();
        for _ in 0..changed {
            self.agreed.push(mode(reader)? as u16);
        }
        let timed = self.with_kind(&[KIND_FILE, KIND_SYMLINK]).count();
        let mut before = 0i64;
        for _ in 0..timed {
            before = before.wrapping_add(reader.signed("a time")?);
            self.times.push(Time { secs: before, nanos: 0 });
        }
        for time in &mut self.times {
            time.nanos = reader.bounded("nanoseconds", 999_999_999)? as u32;
        }
        for _ in 0..self.with_kind(&[KIND_FILE]).count() {
            self.sizes.push(reader.number("a file's size")?);
        }
        for _ in 0..self.with_kind(&[KIND_SYMLINK]).count() {
            let target = reader.bytes("a symlink's target", TARGET_MAX)?;
            names.take(target.len() as u64)?;
            self.targets.push(target.into());
        }
        for at in 0..self.flags.len() {
            if self.flags[at] & MOVED != 0 {
                self.moved.push((at, reader.signed("a move")?));
            }
            if self.flags[at] & MOVED != 0 && self.flags[at] & (KIND | HAS_BASE) != KIND_DELETED {
                return Err(DecodeError::Invalid("a move"));
            }
        }
        for flags in &self.flags {
            // Extensions that this build does not know are passed over.
            if flags & EXTENDED != 0 {
                reader.bytes("a row's extensions", EXTENSION_MAX)?;
            }
        }
        // The rows take from the back.
        self.modes.reverse();
        self.agreed.reverse();
        self.times.reverse();
        self.sizes.reverse();
        self.targets.reverse();
        Ok(())
    }

    /// The row at `at`; called once for each, in order. Only a file's check is still unread.
    fn row(
        &mut self,
        at: usize,
        reader: &mut Reader<'_>,
        key: &CheckKey,
    ) -> Result<Row<Check>, DecodeError> {
        let missing = || DecodeError::Invalid("a row's columns");
        let flags = self.flags[at];
        let mut props = Props::default();
        if matches!(flags & KIND, KIND_DIRECTORY | KIND_FILE) {
            props.mode = self.modes.pop().ok_or_else(missing)?;
        }
        if matches!(flags & KIND, KIND_FILE | KIND_SYMLINK) {
            props.mtime = self.times.pop().ok_or_else(missing)?;
        }
        let agreed_mode = match flags & MODE_CHANGED {
            0 => props.mode,
            _ => self.agreed.pop().ok_or_else(missing)?,
        };
        let content = match flags & KIND {
            KIND_DELETED => Content::Deleted { moved_to: None },
            KIND_DIRECTORY => Content::Directory,
            KIND_FILE => {
                let size = self.sizes.pop().ok_or_else(missing)?;
                Content::File { size, hash: check(reader)? }
            }
            _ => {
                let target = self.targets.pop().ok_or_else(missing)?;
                if target.is_empty() || target.contains(&0) {
                    return Err(DecodeError::Invalid("a symlink's target"));
                }
                let hash = key.check(&ContentHash::of_target(&target));
                Content::Symlink { target, hash }
            }
        };
        Ok(Row {
            path: self.paths[at].clone(),
            content,
            base: None,
            props,
            agreed_mode,
            content_version: self.versions[self.content_version[at]].clone(),
            props_version: self.versions[self.props_version[at]].clone(),
        })
    }
}

fn check(reader: &mut Reader<'_>) -> Result<Check, DecodeError> {
    Ok(Check(u64::from_le_bytes(reader.array("a check")?)))
}

pub(crate) fn read_versions(
    reader: &mut Reader<'_>,
    pairs: &mut Budget,
) -> Result<Vec<Version>, DecodeError> {
    let replicas = read_replicas(reader)?;
    read_vectors(reader, &replicas, pairs)
}

fn read_versions_between(
    reader: &mut Reader<'_>,
    parties: Parties,
    pairs: &mut Budget,
) -> Result<Vec<Version>, DecodeError> {
    let count = reader.count("a count of replicas", REPLICAS_MAX)?;
    let replicas = (0..count).map(|_| parties.read(reader)).collect::<Result<Vec<_>, _>>()?;
    read_vectors(reader, &replicas, pairs)
}

fn read_vectors(
    reader: &mut Reader<'_>,
    replicas: &[ReplicaId],
    pairs: &mut Budget,
) -> Result<Vec<Version>, DecodeError> {
    let vectors = reader.count("a count of versions", 2 * BATCH_ROWS)?;
    let mut versions = Vec::with_capacity(vectors);
    for _ in 0..vectors {
        let version = read_version(reader, replicas)?;
        pairs.take(version.pairs().len() as u64)?;
        versions.push(version);
    }
    Ok(versions)
}

pub(crate) fn read_replicas(reader: &mut Reader<'_>) -> Result<Vec<ReplicaId>, DecodeError> {
    let count = reader.count("a count of replicas", REPLICAS_MAX)?;
    (0..count).map(|_| Ok(ReplicaId(reader.array("a replica's id")?))).collect()
}

pub(crate) fn read_version(
    reader: &mut Reader<'_>,
    replicas: &[ReplicaId],
) -> Result<Version, DecodeError> {
    let count = reader.count("a version's length", REPLICAS_MAX)?;
    let mut pairs = Vec::with_capacity(count);
    for _ in 0..count {
        let at = reader.varint("a replica's number")? as usize;
        let replica = replicas.get(at).ok_or(DecodeError::Invalid("a replica's number"))?;
        pairs.push((*replica, reader.number("a counter")?));
    }
    Ok(Version::from_pairs(pairs))
}

fn read_paths(
    reader: &mut Reader<'_>,
    count: usize,
    names: &mut Budget,
) -> Result<Vec<RelPath>, DecodeError> {
    let mut column = |what| {
        (0..count).map(|_| reader.bounded(what, PATH_MAX as u64)).collect::<Result<Vec<u64>, _>>()
    };
    let shared = column("a shared prefix")?;
    let lengths = column("a path's length")?;
    let mut path = Vec::new();
    let mut paths = Vec::with_capacity(count);
    for (same, length) in shared.into_iter().zip(lengths) {
        if same as usize > path.len() {
            return Err(DecodeError::Invalid("a shared prefix"));
        }
        names.take(same + length)?;
        path.truncate(same as usize);
        path.extend_from_slice(reader.raw(length as usize, "a path")?);
        paths.push(RelPath::new(&path)?);
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 16] = [1; 16];

    fn key() -> CheckKey {
        CheckKey::new(ReplicaId(KEY), &KEY)
    }

    fn reader(rows_max: usize, names_max: u64) -> ManifestReader {
        let names = Budget { limit: names_max, ..Budget::names() };
        ManifestReader { rows_max, names, ..ManifestReader::new(key()) }
    }

    fn gone(path: &str) -> Row<Check> {
        Row::absent(RelPath::new(path.as_bytes()).unwrap())
    }

    fn link(path: &str, target: &[u8]) -> Row<Check> {
        let hash = key().check(&ContentHash::of_target(target));
        Row { content: Content::Symlink { target: target.into(), hash }, ..gone(path) }
    }

    #[test]
    fn a_manifest_has_as_many_rows_as_it_may_and_not_one_more() {
        let limits = ManifestReader::new(key());
        assert_eq!((limits.rows_max, limits.names.limit), (10_000_000, 640_000_000));
        let rows: Vec<Row<Check>> = (0..5).map(|n| gone(&n.to_string())).collect();
        let mut reader = reader(5, NAMES_MAX);
        encode(&rows[..3]).iter().for_each(|batch| reader.batch(batch).unwrap());
        encode(&rows[3..]).iter().for_each(|batch| reader.batch(batch).unwrap());
        let what = "the count of entries";
        let error = DecodeError::TooLarge { what, value: 6, limit: 5 };
        assert_eq!(reader.batch(&encode(&[gone("z")])[0]), Err(error));
    }

    #[test]
    fn paths_and_targets_of_all_batches_share_one_limit() {
        let what = "the length of all paths and targets";
        // 8 bytes, 12 (of which 7 are not on the line), then 3 and a target of 5.
        let batches = [
            encode(&[gone("a/long/b"), gone("a/long/c/dir")]).remove(0),
            encode(&[link("b/l", b"there")]).remove(0),
        ];
        let read = |limit| {
            let mut reader = reader(ENTRIES_MAX, limit);
            batches.iter().try_for_each(|batch| reader.batch(batch)).map(|()| reader.len())
        };
        assert_eq!(read(28), Ok(3));
        for (limit, value) in [(27, 28), (22, 23), (19, 20), (7, 8)] {
            let error = DecodeError::TooLarge { what, value, limit };
            assert_eq!(read(limit), Err(error));
        }
    }
}
