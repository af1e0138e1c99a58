//! What is here already of a content that has to come: the file that stands in its place, followed by what had
//! come of the content when an earlier run broke off. Its blocks are told to the peer, and copied.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use psync_protocol::RelPath;
use psync_protocol::message::WantDelta;

use super::fetch::Fetching;
use crate::delta::{Params, SignatureBuilder};
use crate::root::{Root, Staging};

/// Bytes that are read at a time.
const READ_STEP: u64 = 256 << 10;

/// What is here, and how it is cut into blocks. It is not held open: a flight asks for more contents than a
/// process may have open files.
#[derive(Debug, Clone)]
pub(super) struct OldFile {
    /// The file that stands in the place, if it is of use, and its length in bytes.
    standing: Option<(RelPath, u64)>,
    /// The path of the content that was begun, if one was, and the bytes that came of it.
    begun: Option<(RelPath, u64)>,
    pub(super) params: Params,
}

/// An old content that is open: one file after another.
#[derive(Debug)]
pub(super) struct OldContent {
    files: Vec<(File, u64)>,
}

impl OldFile {
    /// What is here of this content, cut by what `cut` says of its length, and of whether it is the beginning
    /// of the new content and nothing else. Nothing where there is nothing of use.
    pub(super) fn find(
        fetching: &Fetching,
        staging: &Staging,
        cut: impl FnOnce(u64, bool) -> Params,
    ) -> Option<OldFile> {
        let place = || fetching.task.old.as_ref().map(|old| old.row.path.clone());
        let standing = fetching.old_len().and_then(|length| Some((place()?, length)));
        let path = &fetching.task.path;
        let begun = staging.begun_len(path).map(|length| (path.clone(), length));
        let lengths =
            [&standing, &begun].map(|part| part.as_ref().map_or(0, |(_, length)| *length));
        let length = lengths.iter().sum();
        let params = cut(length, standing.is_none());
        (length > 0).then_some(OldFile { standing, begun, params })
    }

    /// The same cut in another way.
    pub(super) fn cut(&self, params: Params) -> OldFile {
        OldFile { params, ..self.clone() }
    }

    /// Its length in bytes.
    pub(super) fn length(&self) -> u64 {
        [&self.standing, &self.begun].into_iter().flatten().map(|(_, length)| length).sum()
    }

    /// Opens it, if it has the length that it had: what else may have changed in it shows in what is made
    /// of it.
    pub(super) fn open(&self, root: &Root, staging: &Staging) -> io::Result<OldContent> {
        let standing =
            self.standing.iter().map(|(path, length)| Ok((root.open_file(path)?.0, *length)));
        let begun =
            self.begun.iter().map(|(path, length)| Ok((staging.open_begun(path)?, *length)));
        let files = standing.chain(begun).collect::<io::Result<Vec<(File, u64)>>>()?;
        for (file, length) in &files {
            if file.metadata()?.len() != *length {
                return Err(io::Error::other("the old file has changed"));
            }
        }
        Ok(OldContent { files })
    }

    /// The hashes of its blocks in these parts, put together.
    pub(super) fn hashes(
        &self,
        root: &Root,
        staging: &Staging,
        parts: impl Iterator<Item = Range<u64>>,
    ) -> io::Result<Vec<u8>> {
        let content = self.open(root, staging)?;
        let mut builder = SignatureBuilder::new(self.params);
        let mut buffer = Vec::new();
        for part in parts {
            let mut offset = part.start;
            while offset < part.end {
                let count = (part.end - offset).min(READ_STEP) as usize;
                buffer.resize(count, 0);
                content.read_exact_at(&mut buffer, offset)?;
                builder.update(&buffer);
                offset += count as u64;
            }
        }
        Ok(builder.finish())
    }

    /// How its blocks are told.
    pub(super) fn want(&self, old_len: u64, attempt: u8, signature: &[u8]) -> WantDelta {
        WantDelta {
            old_len,
            block_len: self.params.block_len(),
            hash_len: self.params.hash_len(),
            attempt,
            signature_len: signature.len() as u64,
        }
    }
}

impl OldContent {
    /// A single file as it is now.
    pub(super) fn of(file: File) -> io::Result<OldContent> {
        let length = file.metadata()?.len();
        Ok(OldContent { files: vec![(file, length)] })
    }

    /// Its length in bytes, as it was when it was opened.
    pub(super) fn length(&self) -> u64 {
        self.files.iter().map(|(_, length)| length).sum()
    }

    /// Fills `buffer` with what stands at `offset`.
    pub(super) fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        for (file, length) in &self.files {
            if offset >= *length {
                offset -= length;
                continue;
            }
            let count = (buffer.len() as u64).min(length - offset) as usize;
            let (now, rest) = buffer.split_at_mut(count);
            file.read_exact_at(now, offset)?;
            (buffer, offset) = (rest, 0);
        }
        match buffer.is_empty() {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(content: &[u8]) -> (File, u64) {
        let memory = rustix::fs::memfd_create("old", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut file = File::from(memory);
        file.write_all(content).unwrap();
        (file, content.len() as u64)
    }

    #[test]
    fn what_stands_and_what_was_begun_are_read_as_one() {
        let content = OldContent { files: vec![file(b"abc"), file(b"defgh")] };
        assert_eq!(content.length(), 8);
        for offset in 0..8 {
            for length in 0..=8 - offset {
                let mut read = vec![0; length];
                content.read_exact_at(&mut read, offset as u64).unwrap();
                assert_eq!(read, b"abcdefgh"[offset..offset + length]);
            }
        }
        assert!(content.read_exact_at(&mut [0; 2], 7).is_err());
        assert!(content.read_exact_at(&mut [0; 1], 8).is_err());
    }
}
