//! Changes of entries that both ends know from their last session: stated by number in a list that
//! both can make, by either end, without path, base, or a content that is still the old one.
//!
//! Layout: SPEC.md, "Changes of known entries".

use std::collections::{HashMap, HashSet};

use crate::codec::{Put, Reader};
use crate::entry::{Check, MODE_MASK, Props, Time};
use crate::error::DecodeError;
use crate::manifest::{
    BATCH_ROWS, Budget, ENTRIES_MAX, PAIR_BYTES, REPLICAS_MAX, put_version, read_versions,
};
use crate::version::{ReplicaId, Version};

/// A message is closed when its changes may take this many bytes, so that it fits a frame.
const BATCH_BYTES: usize = 768 << 10;
/// What one change may take at most, without its versions.
const CHANGE_BYTES: usize = 72;

/// The entries that both ends have known since their last session, as one end sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// How many there are.
    pub count: u64,
    /// Digest of their paths and of what stood there then.
    pub digest: [u8; 16],
}

impl Known {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_varint(self.count);
        out.put_raw(&self.digest);
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Known, DecodeError> {
        let count = r.bounded("a count of known entries", ENTRIES_MAX as u64)?;
        Ok(Known { count, digest: r.array("a digest of known entries")? })
    }
}

/// What became of a known entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is gone.
    Deleted,
    /// A file with another content stands there.
    Edited {
        /// Length in bytes.
        size: u64,
        /// Its content, under the key of the end that states it.
        check: Check,
        /// Its properties.
        props: Props,
        /// The mode that was last agreed.
        agreed_mode: u16,
    },
    /// Content and kind are what they were.
    Kept {
        /// Its properties; the mode of a symlink is 0, the time of a directory the epoch.
        props: Props,
        /// The mode that was last agreed.
        agreed_mode: u16,
    },
}

/// The order in which changes travel: like beside like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Deleted,
    Edited,
    Kept,
}

impl Fate {
    fn class(&self) -> Class {
        match self {
            Fate::Deleted => Class::Deleted,
            Fate::Edited { .. } => Class::Edited,
            Fate::Kept { .. } => Class::Kept,
        }
    }

    fn props(&self) -> Option<(Props, u16)> {
        match *self {
            Fate::Deleted => None,
            Fate::Edited { props, agreed_mode, .. } | Fate::Kept { props, agreed_mode } => {
                Some((props, agreed_mode))
            }
        }
    }
}

/// The change of one known entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The entry's number in the list of those that both ends know.
    pub number: usize,
    /// What became of it.
    pub fate: Fate,
    /// Version of its content.
    pub content_version: Version,
    /// Version of its properties.
    pub props_version: Version,
}

/// Changes of known entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Altered {
    /// The entries.
    pub known: Known,
    /// What has changed, ascending by number.
    pub changes: Vec<Change>,
}

/// Turns changes, ascending by number, into payloads of `Changes` messages.
pub fn encode(changes: &[Change]) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    let mut taken: Vec<usize> = Vec::new();
    for class in [Class::Deleted, Class::Edited, Class::Kept] {
        let mut rest: Vec<&Change> = changes.iter().filter(|c| c.fate.class() == class).collect();
        let numbers: Vec<usize> = rest.iter().map(|change| change.number).collect();
        let mut left = Left { taken: &taken, passed: 0 };
        let mut after = 0;
        while !rest.is_empty() {
            let next = rest.split_off(batch_len(&rest));
            let batch = std::mem::replace(&mut rest, next);
            let places: Vec<usize> = batch.iter().map(|c| left.place_of(c.number)).collect();
            payloads.push(encode_batch(class, &batch, &places, after));
            after = places.last().map_or(after, |last| last + 1);
        }
        taken.extend(numbers);
        taken.sort_unstable();
    }
    payloads
}

/// The list without the entries that earlier classes have taken.
struct Left<'a> {
    /// Their numbers, ascending.
    taken: &'a [usize],
    /// How many of them lie before the last place that was asked for.
    passed: usize,
}

impl Left<'_> {
    /// The place of the entry with this number; asked for in ascending order.
    fn place_of(&mut self, number: usize) -> usize {
        while self.taken.get(self.passed).is_some_and(|&taken| taken < number) {
            self.passed += 1;
        }
        number - self.passed
    }

    /// The number of the entry at this place; asked for in ascending order.
    fn number_at(&mut self, place: usize) -> usize {
        while self.taken.get(self.passed).is_some_and(|&taken| taken <= place + self.passed) {
            self.passed += 1;
        }
        place + self.passed
    }
}

fn batch_len(changes: &[&Change]) -> usize {
    let mut bytes = 0;
    let mut versions: HashSet<&Version> = HashSet::new();
    let mut replicas: HashSet<ReplicaId> = HashSet::new();
    for (at, change) in changes.iter().enumerate().take(BATCH_ROWS) {
        bytes += CHANGE_BYTES;
        for version in [&change.content_version, &change.props_version] {
            if versions.insert(version) {
                let known = replicas.len();
                replicas.extend(version.pairs().iter().map(|pair| pair.0));
                bytes += 2 + version.pairs().len() * PAIR_BYTES;
                bytes += (replicas.len() - known) * size_of::<ReplicaId>();
            }
        }
        let full = bytes > BATCH_BYTES || replicas.len() > REPLICAS_MAX;
        if full && at > 0 {
            return at;
        }
    }
    changes.len().min(BATCH_ROWS)
}

fn encode_batch(class: Class, batch: &[&Change], places: &[usize], after: usize) -> Vec<u8> {
    let mut out = vec![class as u8];
    put_runs(places, after, &mut out);
    put_versions(batch, &mut out);
    let props = || batch.iter().filter_map(|change| change.fate.props());
    props().for_each(|(props, _)| out.put_varint(u64::from(props.mode)));
    for (props, agreed) in props() {
        out.put_varint(if agreed == props.mode { 0 } else { u64::from(agreed) + 1 });
    }
    let mut before = 0;
    for (props, _) in props() {
        out.put_signed(props.mtime.secs.wrapping_sub(before));
        before = props.mtime.secs;
    }
    props().for_each(|(props, _)| out.put_varint(u64::from(props.mtime.nanos)));
    let contents = || {
        batch.iter().filter_map(|change| match change.fate {
            Fate::Edited { size, check, .. } => Some((size, check)),
            Fate::Deleted | Fate::Kept { .. } => None,
        })
    };
    contents().for_each(|(size, _)| out.put_varint(size));
    contents().for_each(|(_, check)| out.put_raw(&check.0.to_le_bytes()));
    out
}

/// Ascending places as runs: so many left alone, so many taken.
fn put_runs(places: &[usize], after: usize, out: &mut Vec<u8>) {
    let runs: Vec<&[usize]> = places.chunk_by(|a, b| a + 1 == *b).collect();
    out.put_varint(runs.len() as u64);
    let mut before = after;
    for run in &runs {
        out.put_varint((run[0] - before) as u64);
        before = run[0] + run.len();
    }
    runs.iter().for_each(|run| out.put_varint(run.len() as u64));
}

/// The versions of a batch: replicas, distinct vectors, then two columns that point to them.
fn put_versions(batch: &[&Change], out: &mut Vec<u8>) {
    let mut replicas: Vec<ReplicaId> = Vec::new();
    let mut vectors: Vec<&Version> = Vec::new();
    let mut known: HashMap<&Version, usize> = HashMap::new();
    let facets = || {
        let content = batch.iter().map(|change| &change.content_version);
        content.chain(batch.iter().map(|change| &change.props_version))
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
    replicas.iter().for_each(|replica| out.put_raw(&replica.0));
    out.put_varint(vectors.len() as u64);
    vectors.iter().for_each(|version| put_version(version, &replicas, out));
    facets().for_each(|version| out.put_varint(known[version] as u64));
}

/// Puts the messages of one statement together again.
#[derive(Debug)]
pub struct ChangesReader {
    known: Known,
    class: Class,
    /// The numbers that earlier classes have taken, ascending.
    taken: Vec<usize>,
    /// How many of them lie before the last one that was read.
    passed: usize,
    /// The place after the last one that was read.
    next: usize,
    changes: Vec<Change>,
    pairs: Budget,
}

impl ChangesReader {
    /// For changes of these entries.
    pub fn new(known: Known) -> ChangesReader {
        let class = Class::Deleted;
        let (taken, changes, pairs) = (Vec::new(), Vec::new(), Budget::pairs());
        ChangesReader { known, class, taken, passed: 0, next: 0, changes, pairs }
    }

    /// Takes the payload of one message.
    pub fn batch(&mut self, payload: &[u8]) -> Result<(), DecodeError> {
        let mut reader = Reader::new(payload);
        let class = match reader.u8("a class of changes")? {
            0 => Class::Deleted,
            1 => Class::Edited,
            2 => Class::Kept,
            _ => return Err(DecodeError::Invalid("a class of changes")),
        };
        self.turn_to(class)?;
        let numbers = self.read_numbers(&mut reader)?;
        let fates_and_versions = read_columns(&mut reader, class, numbers.len(), &mut self.pairs)?;
        reader.end("changes")?;
        for (number, (fate, [content_version, props_version])) in
            numbers.into_iter().zip(fates_and_versions)
        {
            self.changes.push(Change { number, fate, content_version, props_version });
        }
        Ok(())
    }

    fn turn_to(&mut self, class: Class) -> Result<(), DecodeError> {
        if class < self.class {
            return Err(DecodeError::Invalid("the order of changes"));
        }
        if class > self.class {
            self.class = class;
            self.taken = self.changes.iter().map(|change| change.number).collect();
            self.taken.sort_unstable();
            (self.passed, self.next) = (0, 0);
        }
        Ok(())
    }

    fn read_numbers(&mut self, reader: &mut Reader<'_>) -> Result<Vec<usize>, DecodeError> {
        let runs = reader.count("a count of runs", BATCH_ROWS)?;
        let most = self.known.count;
        let mut skips = Vec::with_capacity(runs);
        for _ in 0..runs {
            skips.push(reader.bounded("known entries left alone", most)? as usize);
        }
        let mut numbers = Vec::new();
        for skip in skips {
            let room = BATCH_ROWS - numbers.len();
            let take = reader.bounded("a run of known entries", room as u64)? as usize;
            if take == 0 {
                return Err(DecodeError::Invalid("a run of known entries"));
            }
            self.next += skip;
            for _ in 0..take {
                let mut left = Left { taken: &self.taken, passed: self.passed };
                let number = left.number_at(self.next);
                self.passed = left.passed;
                self.next += 1;
                if number as u64 >= most {
                    return Err(DecodeError::Invalid("the number of a known entry"));
                }
                numbers.push(number);
            }
        }
        if numbers.is_empty() {
            return Err(DecodeError::Invalid("a run of known entries"));
        }
        Ok(numbers)
    }

    /// All changes, once every message has come.
    pub fn finish(self) -> Altered {
        let ChangesReader { known, mut changes, .. } = self;
        changes.sort_unstable_by_key(|change| change.number);
        Altered { known, changes }
    }
}

type FateAndVersions = (Fate, [Version; 2]);

fn read_columns(
    reader: &mut Reader<'_>,
    class: Class,
    count: usize,
    pairs: &mut Budget,
) -> Result<Vec<FateAndVersions>, DecodeError> {
    let vectors = read_versions(reader, pairs)?;
    let mut column = || -> Result<Vec<Version>, DecodeError> {
        let pointer = |_| {
            let at = usize::try_from(reader.varint("a version's number")?).unwrap_or(usize::MAX);
            vectors.get(at).cloned().ok_or(DecodeError::Invalid("a version's number"))
        };
        (0..count).map(pointer).collect()
    };
    let versions = column()?.into_iter().zip(column()?).map(<[Version; 2]>::from);
    let fates = match class {
        Class::Deleted => vec![Fate::Deleted; count],
        Class::Edited => {
            let props = read_props(reader, count)?;
            let sizes: Vec<u64> =
                (0..count).map(|_| reader.number("a file's size")).collect::<Result<_, _>>()?;
            let mut fates = Vec::with_capacity(count);
            for ((props, agreed_mode), size) in props.into_iter().zip(sizes) {
                let check = Check(u64::from_le_bytes(reader.array("a check")?));
                fates.push(Fate::Edited { size, check, props, agreed_mode });
            }
            fates
        }
        Class::Kept => {
            let kept = |(props, agreed_mode)| Fate::Kept { props, agreed_mode };
            read_props(reader, count)?.into_iter().map(kept).collect()
        }
    };
    Ok(fates.into_iter().zip(versions).collect())
}

fn read_props(reader: &mut Reader<'_>, count: usize) -> Result<Vec<(Props, u16)>, DecodeError> {
    let mut all = vec![(Props::default(), 0); count];
    for (props, _) in &mut all {
        props.mode = reader.bounded("a mode", u64::from(MODE_MASK))? as u16;
    }
    for (props, agreed) in &mut all {
        *agreed = match reader.bounded("a mode", u64::from(MODE_MASK) + 1)? {
            0 => props.mode,
            mode => mode as u16 - 1,
        };
    }
    let mut before = 0i64;
    for (props, _) in &mut all {
        before = before.wrapping_add(reader.signed("a time")?);
        props.mtime = Time { secs: before, nanos: 0 };
    }
    for (props, _) in &mut all {
        props.mtime.nanos = reader.bounded("nanoseconds", 999_999_999)? as u32;
    }
    Ok(all)
}
