//! Whole trees in few bytes: what is stated where two ends may have nearly the same, instead of a
//! row for each entry. How digests and runs are made: SPEC.md, "Equal trees".

use crate::codec::{Put, Reader};
use crate::entry::{Check, MODE_MASK, Props, Time};
use crate::error::DecodeError;
use crate::manifest::{ENTRIES_MAX, put_version, read_replicas, read_version};
use crate::version::Version;

/// Into how many parts a sketch divides a tree.
pub const SKETCH: usize = 64;
/// Most runs of entries in one summary.
pub const RUNS_MAX: usize = 1 << 17;
/// Fewest bits of the remainders of a summary: a run takes more than a byte.
pub const REMAINDER_MIN: u8 = 8;
/// Most bits of the remainders of a summary.
pub const REMAINDER_MAX: u8 = 40;
/// The longest runs hold 2^20 entries on average.
pub const SPREAD_MAX: u8 = 20;
/// Most counterparts in one message.
pub const COUNTERPARTS_MAX: usize = 1 << 14;
/// Most properties in one message.
pub const PROPS_MAX: usize = 1 << 15;

/// The two versions that many rows have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Versions {
    /// Of their contents.
    pub content: Version,
    /// Of their properties.
    pub props: Version,
}

impl Versions {
    fn encode(&self, out: &mut Vec<u8>) {
        let pairs = self.content.pairs().iter().chain(self.props.pairs());
        let mut replicas: Vec<_> = pairs.map(|pair| pair.0).collect();
        replicas.sort_unstable();
        replicas.dedup();
        out.put_varint(replicas.len() as u64);
        replicas.iter().for_each(|replica| out.put_raw(&replica.0));
        put_version(&self.content, &replicas, out);
        put_version(&self.props, &replicas, out);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Versions, DecodeError> {
        let replicas = read_replicas(r)?;
        let content = read_version(r, &replicas)?;
        Ok(Versions { content, props: read_version(r, &replicas)? })
    }
}

/// All rows of the initiator that are not stated one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// How many.
    pub count: u64,
    /// The versions that each of them has.
    pub versions: Versions,
    /// Digest of all of them, properties included.
    pub digest: [u8; 16],
    /// For each part of the tree a few bits of its contents: tells roughly how many differ.
    pub sketch: [u16; SKETCH],
}

impl Tree {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_varint(self.count);
        self.versions.encode(out);
        out.put_raw(&self.digest);
        self.sketch.iter().for_each(|part| out.put_raw(&part.to_le_bytes()));
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Tree, DecodeError> {
        let count = r.bounded("a count of entries", ENTRIES_MAX as u64)?;
        let versions = Versions::decode(r)?;
        let digest = r.array("a digest of rows")?;
        let mut sketch = [0; SKETCH];
        for part in &mut sketch {
            *part = u16::from_le_bytes(r.array("a part of a sketch")?);
        }
        Ok(Tree { count, versions, digest, sketch })
    }
}

/// What the responder has to hear before anything can be planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Demand {
    /// Every row, one by one.
    Everything,
    /// Every row; as nothing has ever been here, the plan can follow without another answer.
    Blank,
    /// Every row that is not in a run of both ends.
    Differences(Summary),
}

/// The runs of entries that the responder has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// How long runs are: 2^spread entries on average, directories not counted.
    pub spread: u8,
    /// The versions that each of these entries has.
    pub versions: Versions,
    /// Bits of a value beyond those that count the runs: a run that is none
    /// of these has the value of one of them with probability 2^-bits.
    pub bits: u8,
    /// A value for each run, ascending, below `values.len() << bits`.
    pub values: Vec<u64>,
}

impl Demand {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Demand::Everything => out.push(0),
            Demand::Blank => out.push(1),
            Demand::Differences(summary) => {
                out.push(2);
                summary.encode(out);
            }
        }
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Demand, DecodeError> {
        match r.u8("a demand")? {
            0 => Ok(Demand::Everything),
            1 => Ok(Demand::Blank),
            2 => Ok(Demand::Differences(Summary::decode(r)?)),
            _ => Err(DecodeError::Invalid("a demand")),
        }
    }
}

impl Summary {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.spread);
        self.versions.encode(out);
        out.push(self.bits);
        out.put_varint(self.values.len() as u64);
        // Golomb, "Run-length encodings", 1966, with the power of two of Rice.
        let mut bits = Bits::default();
        let mut before = 0;
        for value in &self.values {
            let step = value - before;
            (0..step >> self.bits).for_each(|_| bits.put(out, 1, 1));
            bits.put(out, 0, 1);
            bits.put(out, step & ((1 << self.bits) - 1), self.bits);
            before = *value;
        }
        bits.finish(out);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Summary, DecodeError> {
        let spread = r.u8("the length of runs")?;
        let versions = Versions::decode(r)?;
        let bits = r.u8("the bits of a run's value")?;
        if spread > SPREAD_MAX || !(REMAINDER_MIN..=REMAINDER_MAX).contains(&bits) {
            return Err(DecodeError::Invalid("a summary's measures"));
        }
        let count = r.count("a count of runs", RUNS_MAX)?;
        let limit = (count as u64) << bits;
        let mut values = Vec::with_capacity(count);
        let (mut source, mut value) = (BitReader::default(), 0);
        for _ in 0..count {
            while source.take(r, 1)? == 1 {
                value += 1 << bits;
                if value >= limit {
                    return Err(DecodeError::Invalid("a run's value"));
                }
            }
            value += source.take(r, bits)?;
            if value >= limit {
                return Err(DecodeError::Invalid("a run's value"));
            }
            values.push(value);
        }
        source.end()?;
        Ok(Summary { spread, versions, bits, values })
    }
}

/// Bits on their way to bytes, least significant first.
#[derive(Default)]
struct Bits {
    held: u64,
    count: u8,
}

impl Bits {
    fn put(&mut self, out: &mut Vec<u8>, value: u64, width: u8) {
        self.held |= value << self.count;
        self.count += width;
        while self.count >= 8 {
            out.push(self.held as u8);
            self.held >>= 8;
            self.count -= 8;
        }
    }

    fn finish(self, out: &mut Vec<u8>) {
        if self.count > 0 {
            out.push(self.held as u8);
        }
    }
}

/// And back.
#[derive(Default)]
struct BitReader {
    held: u64,
    count: u8,
}

impl BitReader {
    fn take(&mut self, r: &mut Reader<'_>, width: u8) -> Result<u64, DecodeError> {
        while self.count < width {
            self.held |= u64::from(r.u8("the values of a summary")?) << self.count;
            self.count += 8;
        }
        let value = self.held & ((1 << width) - 1);
        self.held >>= width;
        self.count -= width;
        Ok(value)
    }

    /// What fills the last byte is zero.
    fn end(self) -> Result<(), DecodeError> {
        if self.held == 0 { Ok(()) } else { Err(DecodeError::Invalid("the end of a summary")) }
    }
}

/// Which runs of a summary the initiator has as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Common {
    /// The versions that each of their entries has at the initiator.
    pub versions: Versions,
    /// Digest of these runs.
    pub digest: [u8; 16],
    /// A bit for each run of the summary, the first the least significant of the first byte.
    pub runs: Vec<u8>,
}

impl Common {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.versions.encode(out);
        out.put_raw(&self.digest);
        out.put_bytes(&self.runs);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Common, DecodeError> {
        let versions = Versions::decode(r)?;
        let digest = r.array("a digest of runs")?;
        Ok(Common { versions, digest, runs: r.bytes("a set of runs", RUNS_MAX / 8)?.to_vec() })
    }
}

/// Properties, as what differs from others that both ends know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PropsStep {
    /// Bits of the mode that differ.
    pub mode: u16,
    /// Difference of the seconds, modulo 2^64.
    pub secs: i64,
    /// Difference of the nanoseconds.
    pub nanos: i64,
}

impl PropsStep {
    /// What has to be added to `from` to get `to`.
    pub fn between(from: &Props, to: &Props) -> PropsStep {
        PropsStep {
            mode: from.mode ^ to.mode,
            secs: to.mtime.secs.wrapping_sub(from.mtime.secs),
            nanos: i64::from(to.mtime.nanos) - i64::from(from.mtime.nanos),
        }
    }

    /// The properties that are this step away from `from`; none if there are no such.
    pub fn from(&self, from: &Props) -> Option<Props> {
        let nanos = u32::try_from(i64::from(from.mtime.nanos).checked_add(self.nanos)?).ok()?;
        let secs = from.mtime.secs.wrapping_add(self.secs);
        (nanos < 1_000_000_000)
            .then_some(Props { mode: from.mode ^ self.mode, mtime: Time { secs, nanos } })
    }
}

/// Columns, as in rows.
pub(super) fn encode_props(steps: &[PropsStep], out: &mut Vec<u8>) {
    out.put_varint(steps.len() as u64);
    steps.iter().for_each(|step| out.put_varint(u64::from(step.mode)));
    steps.iter().for_each(|step| out.put_signed(step.secs));
    steps.iter().for_each(|step| out.put_signed(step.nanos));
}

pub(super) fn decode_props(r: &mut Reader<'_>) -> Result<Vec<PropsStep>, DecodeError> {
    let count = r.count("a count of properties", PROPS_MAX)?;
    if count == 0 {
        return Err(DecodeError::Invalid("a count of properties"));
    }
    let mut steps = vec![PropsStep::default(); count];
    for step in &mut steps {
        step.mode = r.bounded("a mode", u64::from(MODE_MASK))? as u16;
    }
    for step in &mut steps {
        step.secs = r.signed("a time")?;
    }
    for step in &mut steps {
        step.nanos = r.signed("nanoseconds")?;
    }
    Ok(steps)
}

/// Files of the responder where the initiator has stated other ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counterparts {
    /// Whether their checks are told: who mirrors its own files does not need them.
    pub checked: bool,
    /// The files, by ascending number.
    pub files: Vec<Counterpart>,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counterpart {
    /// The number of the row that the initiator stated at its path.
    pub number: u64,
    /// Its properties, counted from those of that row.
    pub props: PropsStep,
    /// Its size less that of the other, modulo 2^64.
    pub size: i64,
    /// Its check; zero where checks are not told.
    pub check: Check,
}

impl Counterparts {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.checked));
        out.put_varint(self.files.len() as u64);
        let mut next = 0;
        for file in &self.files {
            out.put_varint(file.number - next);
            next = file.number + 1;
        }
        self.files.iter().for_each(|file| out.put_varint(u64::from(file.props.mode)));
        self.files.iter().for_each(|file| out.put_signed(file.props.secs));
        self.files.iter().for_each(|file| out.put_signed(file.props.nanos));
        self.files.iter().for_each(|file| out.put_signed(file.size));
        if self.checked {
            self.files.iter().for_each(|file| out.put_raw(&file.check.0.to_le_bytes()));
        }
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Counterparts, DecodeError> {
        let checked = match r.u8("whether there are checks")? {
            0 => false,
            1 => true,
            _ => return Err(DecodeError::Invalid("whether there are checks")),
        };
        let count = r.count("a count of counterparts", COUNTERPARTS_MAX)?;
        if count == 0 {
            return Err(DecodeError::Invalid("a count of counterparts"));
        }
        let (props, check) = (PropsStep::default(), Check(0));
        let mut files = vec![Counterpart { number: 0, props, size: 0, check }; count];
        let mut next = 0;
        for file in &mut files {
            file.number = next + r.bounded("a row's number", ENTRIES_MAX as u64)?;
            next = file.number + 1;
        }
        for file in &mut files {
            file.props.mode = r.bounded("a mode", u64::from(MODE_MASK))? as u16;
        }
        for file in &mut files {
            file.props.secs = r.signed("a time")?;
        }
        for file in &mut files {
            file.props.nanos = r.signed("nanoseconds")?;
        }
        for file in &mut files {
            file.size = r.signed("a file's size")?;
        }
        if checked {
            for file in &mut files {
                file.check = Check(u64::from_le_bytes(r.array("a check")?));
            }
        }
        Ok(Counterparts { checked, files })
    }
}
