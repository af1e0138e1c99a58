//! What stands at a path now, whole: without reading what the index knows already.

use std::io;

use psync_protocol::{Props, RelPath};

use crate::index::Index;
use crate::journal::{State, Thing};
use crate::manifest::{Stamp, Stored};
use crate::root::{FileKind, Root, hash_reader};

/// What stands at a path; none where nothing does. A file is read unless it looks exactly as it did
/// when the index learnt its content. What is not synced (a device) is an error.
pub fn state_at(root: &Root, index: &mut Index, path: &RelPath) -> io::Result<Option<State>> {
    let row = index.row(path).map_err(io::Error::other)?;
    state_beside(root, row.as_ref(), path)
}

/// The same, of a path of which the index says this.
pub(super) fn state_beside(
    root: &Root,
    row: Option<&Stored>,
    path: &RelPath,
) -> io::Result<Option<State>> {
    let Some(stat) = root.stat(path)? else { return Ok(None) };
    let thing = match stat.kind {
        FileKind::Directory => Thing::Directory,
        FileKind::Symlink => Thing::Symlink { target: root.read_link(path)? },
        FileKind::Special => return Err(io::Error::other("neither a file, directory nor link")),
        FileKind::File => {
            let known = row.filter(|row| row.stamp != Stamp::UNKNOWN && row.stamp == stat.stamp());
            match known.and_then(|row| Thing::of(&row.row.content)) {
                Some(thing @ Thing::File { .. }) => thing,
                _ => {
                    let (mut file, _) = root.open_file(path)?;
                    let (hash, size) = hash_reader(&mut file, &mut Vec::new())?;
                    Thing::File { size, hash }
                }
            }
        }
    };
    let props: Props = stat.props();
    Ok(Some(State { thing, props }))
}
