//! Reading a file as the plan knows it.

use std::fs::File;
use std::io::{ErrorKind, Read};

use psync_protocol::ContentHash;
use psync_protocol::message::FailureKind;

use super::{Item, Trouble};
use crate::manifest::Stamp;
use crate::report::Report;
use crate::root::{Root, is_absent, stat_of};
use crate::sync::SyncError;

/// Bytes of a file that are read at a time: one that is no longer goes in one piece.
pub(super) const PIECE: u64 = 128 << 10;

/// Reads a file piece by piece. One that is another now than the plan was made for is not read to
/// its end, or found out there: by its hash.
pub(super) fn read(
    root: &Root,
    item: &Item,
    report: &dyn Report,
    mut each: impl FnMut(&[u8]) -> Result<(), SyncError>,
) -> Result<Result<(), Trouble>, SyncError> {
    let mut file = match open(root, item) {
        Ok(file) => file,
        Err(trouble) => return Ok(Err(trouble)),
    };
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; PIECE.min(item.size) as usize];
    let mut left = item.size;
    while left > 0 {
        let part = left.min(buffer.len() as u64) as usize;
        match file.read(&mut buffer[..part]) {
            Ok(0) => return Ok(Err(changed())),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                each(&buffer[..n])?;
                report.progress(&item.at, n as u64);
                left -= n as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Ok(Err(unreadable(error))),
        }
    }
    let same = ContentHash(hasher.finalize().into()) == item.hash;
    Ok(if same { Ok(()) } else { Err(differs(&file, item)) })
}

/// A file that fits into memory.
pub(super) fn read_all(root: &Root, item: &Item) -> Result<Vec<u8>, Trouble> {
    // One byte more: the end is found without growing.
    let mut content = Vec::with_capacity(item.size as usize + 1);
    let file = open(root, item)?;
    (&file).take(item.size + 1).read_to_end(&mut content).map_err(unreadable)?;
    match ContentHash::of_bytes(&content) == item.hash {
        true => Ok(content),
        false => Err(differs(&file, item)),
    }
}

fn open(root: &Root, item: &Item) -> Result<File, Trouble> {
    match root.open_file(&item.at) {
        Ok((_, stat)) if stat.size != item.size => Err(changed()),
        Ok((_, stat)) if stat.mtime != item.stored.row.props.mtime => Err(changed()),
        Ok((file, _)) => Ok(file),
        Err(error) if is_absent(&error) => Err(changed()),
        Err(error) => Err(unreadable(error)),
    }
}

/// A content is not the one that was hashed. Where size, times and inode are, nobody has edited it.
fn differs(file: &File, item: &Item) -> Trouble {
    let stamp = item.stored.stamp;
    let untouched =
        stat_of(file).is_ok_and(|stat| stamp != Stamp::UNKNOWN && stat.stamp() == stamp);
    match untouched {
        true => (FailureKind::System, ROTTED.into()),
        false => changed(),
    }
}

/// What a person is told of a file that the disk has changed.
const ROTTED: &str = "it has rotted on the sending side: nobody touched it, and its content is not what was read before; see psync verify, then restore it from elsewhere, or touch it to have it synced as it is";

fn changed() -> Trouble {
    (FailureKind::Changed, "it changed on the sending side during the run".into())
}

fn unreadable(error: std::io::Error) -> Trouble {
    (FailureKind::System, format!("cannot be read on the sending side: {error}"))
}
