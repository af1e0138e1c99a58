//! A root for the tests of what is remembered.
#![allow(clippy::unwrap_used, reason = "a panic is a test's failure")]

use std::path::PathBuf;

use psync_protocol::{ContentHash, RelPath};

use crate::index::SharedFile;
use crate::manifest::Stamp;
use crate::root::{Root, Staging};
use crate::store::{Rules, Store};

/// A root, gone when the test ends.
pub(super) struct Ground {
    pub(super) folder: PathBuf,
    pub(super) root: Root,
    pub(super) staging: Staging,
}

impl Ground {
    pub(super) fn new(name: &str) -> Ground {
        let folder = std::env::temp_dir().join(format!("psync-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let root = Root::open(&folder).unwrap();
        let staging = Staging::open(&root).unwrap().0;
        Ground { folder, root, staging }
    }

    pub(super) fn store(&self, budget: u64) -> Store {
        let rules = Rules { budget, largest_file: 1 << 20 };
        Store::open(&self.folder.join(".psync/store"), rules).unwrap().0
    }

    pub(super) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> SharedFile {
        std::fs::write(self.folder.join(name), &content).unwrap();
        expected(name, content)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

pub(super) fn expected(name: &str, content: impl AsRef<[u8]>) -> SharedFile {
    SharedFile {
        path: RelPath::new(name.as_bytes()).unwrap(),
        size: content.as_ref().len() as u64,
        hash: ContentHash::of_bytes(content.as_ref()),
        stamp: Stamp::UNKNOWN,
    }
}
