//! Batches of rows written by hand, with whatever an honest end would not write.

use psync_protocol::codec::Put;

pub(crate) const DELETED: u8 = 0;
pub(crate) const DIRECTORY: u8 = 1;
pub(crate) const FILE: u8 = 2;
pub(crate) const SYMLINK: u8 = 3;
pub(crate) const HAS_BASE: u8 = 4;
pub(crate) const MODE_CHANGED: u8 = 8;
pub(crate) const MOVED: u8 = 16;
pub(crate) const EXTENDED: u8 = 32;

/// One row; only the columns that its flags call for are written.
#[derive(Clone)]
pub(crate) struct RawRow {
    pub(crate) flags: u8,
    pub(crate) shared: u64,
    pub(crate) path: Vec<u8>,
    pub(crate) mode: u64,
    pub(crate) agreed: u64,
    pub(crate) nanos: u64,
    pub(crate) size: u64,
    pub(crate) target: Vec<u8>,
    pub(crate) moved: i64,
    pub(crate) extension: Vec<u8>,
}

pub(crate) fn row(flags: u8, path: &str) -> RawRow {
    RawRow {
        flags,
        shared: 0,
        path: path.into(),
        mode: 0o644,
        agreed: 0o600,
        nanos: 0,
        size: 3,
        target: b"target".to_vec(),
        moved: 0,
        extension: b"\x01\x02\x03".to_vec(),
    }
}

/// The versions of a batch in which every row has version zero of this table.
pub(crate) fn one_version(rows: usize) -> Vec<u8> {
    let mut out = vec![1, 2];
    out.put_raw(&[7; 16]);
    out.put_raw(&[1, 1, 0, 5]);
    out.resize(out.len() + 2 * rows, 0);
    out
}

/// A batch of these rows, laid out as SPEC.md says.
pub(crate) fn batch(rows: &[RawRow]) -> Vec<u8> {
    batch_with(&one_version(rows.len()), rows)
}

/// The same with these bytes for the versions.
pub(crate) fn batch_with(versions: &[u8], rows: &[RawRow]) -> Vec<u8> {
    let kind = |row: &&RawRow, kinds: &[u8]| kinds.contains(&(row.flags & 3));
    let has = |row: &&RawRow, flag: u8| row.flags & flag != 0;
    let mut out = Vec::new();
    out.put_varint(rows.len() as u64);
    out.put_raw(versions);
    rows.iter().for_each(|row| out.put_varint(row.shared));
    rows.iter().for_each(|row| out.put_varint(row.path.len() as u64));
    rows.iter().for_each(|row| out.put_raw(&row.path));
    rows.iter().for_each(|row| out.push(row.flags));
    let moded = rows.iter().filter(|row| kind(row, &[DIRECTORY, FILE]));
    moded.for_each(|row| out.put_varint(row.mode));
    rows.iter().filter(|row| has(row, MODE_CHANGED)).for_each(|row| out.put_varint(row.agreed));
    let timed = || rows.iter().filter(|row| kind(row, &[FILE, SYMLINK]));
    timed().for_each(|_| out.put_signed(0));
    timed().for_each(|row| out.put_varint(row.nanos));
    rows.iter().filter(|row| kind(row, &[FILE])).for_each(|row| out.put_varint(row.size));
    rows.iter().filter(|row| kind(row, &[SYMLINK])).for_each(|row| out.put_bytes(&row.target));
    rows.iter().filter(|row| has(row, MOVED)).for_each(|row| out.put_signed(row.moved));
    rows.iter().filter(|row| has(row, EXTENDED)).for_each(|row| out.put_bytes(&row.extension));
    rows.iter().filter(|row| kind(row, &[FILE])).for_each(|_| out.put_raw(&[0xcc; 8]));
    rows.iter().filter(|row| has(row, HAS_BASE)).for_each(|_| out.put_raw(&[0xbb; 8]));
    out
}
