//! Carries a file to a peer that holds another version of it.
//!
//! If the sender knows the old content in full, it makes a patch: [`patch_all`], or [`ExactEncoder`] for
//! large contents. If not:
//!
//! 1. The receiver cuts its old file into blocks and sends a short hash of each: [`SignatureBuilder`].
//!    Or the sender has kept such hashes itself, and this step takes no time.
//! 2. The sender searches its new file for these blocks with a rolling hash: [`Signature`],
//!    [`Matcher`]. It may answer where the blocks were too long ([`Found::answer`]); then the receiver
//!    sends hashes of shorter blocks there, and the search goes on ([`Matcher::after`]).
//! 3. The sender makes a patch from the blocks found ([`Base::Blocks`]), or for large files [`Op`]s: which
//!    blocks to copy, and the bytes that are fresh in between ([`FoundEncoder`], or [`Encoder`], which
//!    searches and encodes in one pass). Fresh bytes are compressed with the copied blocks around them as
//!    context, because the receiver has them too.
//! 4. The receiver rebuilds the new file: [`apply_all`], [`Decoder`].
//!
//! A short hash can match by chance. The caller therefore compares the BLAKE3 hash of what it rebuilt
//! with the sender's, and on a mismatch repeats the transfer with the next attempt's [`Params`] (a new
//! seed, hashes of full length), then sends the file whole. [`Params`] says how often that happens.
//!
//! Everything here is pure: no files, no clock, no randomness but the seed in [`Params`]. Memory is
//! bounded by constants and the block length on both sides, whatever the files' sizes; the signature
//! itself is the only thing that grows, to about [`params::SIGNATURE_TARGET`] bytes on the line. Nothing
//! that the peer sends can cause a panic, unbounded memory or more than linear work.
//!
//! What is compressed already goes as a patch of nothing: [`patch_of_packed`].
//!
//! Read `align`, `patch` and `exact`; then `hash`, `search`, `matcher`, `found`, `encode`.

mod align;
mod alone;
mod batch;
mod decode;
mod encode;
mod exact;
mod filter;
mod found;
mod frame;
mod hash;
mod matcher;
mod number;
pub mod params;
mod patch;
mod search;
mod signature;
mod sketch;
mod step;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::io;

pub use alone::{Unpacked, patch_of_packed, unpack_patch};
pub use decode::{Decoder, ReadOld, WriteNew};
pub use encode::{Encoder, FoundEncoder};
pub use exact::{ExactDecoder, ExactEncoder, Segment};
pub use found::{Found, parse_answer};
pub use matcher::Matcher;
pub use params::Params;
pub use patch::{
    BATCH_TARGET, Base, Change, Effort, PATCH_MAX, Target, apply_all, apply_patch, copied, patch,
    patch_all, patch_level,
};
pub use signature::{Signature, SignatureBuilder};
pub use sketch::{SKETCH_BYTES, Sketch, Sketcher};

/// Most fresh bytes in one [`Op`]: with its pieces it then fits into a frame of 1 MiB, compressed or not.
pub const MAX_FRESH: usize = 960 << 10;

/// Most pieces in one [`Op`].
pub const MAX_PIECES: usize = 4096;

/// Most context for one [`Op`]'s fresh bytes, in bytes.
pub const MAX_CONTEXT: usize = 2 << 20;

/// One instruction for the receiver: it makes the next part of the new file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    /// What to write, in order. At most [`MAX_PIECES`].
    pub pieces: Vec<Piece>,
    /// The fresh bytes of all pieces, concatenated.
    pub fresh: Fresh,
}

/// Old blocks followed by fresh bytes; either may be absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The first old block to copy.
    pub block: u64,
    /// How many blocks to copy from there on. The last block of the old file may be a short one.
    pub count: u64,
    /// How many fresh bytes to write then.
    pub fresh: u32,
}

/// The fresh bytes of an [`Op`], at most [`MAX_FRESH`] before compression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fresh {
    /// As they are: there is no context for them. A session that compresses its stream does well here.
    Plain(Vec<u8>),
    /// One zstd frame without magic number, content size and checksum. Its prefix is made of the blocks
    /// that the op copies (`batch` has the rule).
    Coded(Vec<u8>),
}

/// Why a delta could not be made or applied.
#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    /// The peer asks for a block length outside the limits.
    #[error("block length {0} is not allowed")]
    BlockLength(u32),
    /// The peer asks for a hash length outside the limits.
    #[error("hash length {0} is not allowed")]
    HashLength(u8),
    /// The peer's signature does not fit the size of its file.
    #[error("the signature has {bytes} bytes, which does not fit {blocks} blocks")]
    SignatureLength {
        /// Blocks in the old file.
        blocks: u64,
        /// Bytes received.
        bytes: usize,
    },
    /// The peer's file has more blocks than a signature can hold.
    #[error("{0} blocks are too many")]
    TooManyBlocks(u64),
    /// An op has more than [`MAX_PIECES`].
    #[error("an operation has {0} pieces, more than {MAX_PIECES}")]
    TooManyPieces(usize),
    /// An op names blocks that the old file does not have.
    #[error("{count} blocks from number {block} on are not in the old file")]
    NoSuchBlock {
        /// The first block named.
        block: u64,
        /// How many were named.
        count: u64,
    },
    /// An op has more fresh bytes than [`MAX_FRESH`].
    #[error("an operation has {0} fresh bytes, more than {MAX_FRESH}")]
    TooMuchFresh(u64),
    /// An op's fresh bytes are not as many as its pieces say.
    #[error("an operation says {stated} fresh bytes but has {actual}")]
    FreshLength {
        /// As the pieces say.
        stated: usize,
        /// As it came.
        actual: usize,
    },
    /// The ops make more than the announced size of the new file.
    #[error("the new file becomes longer than the {0} bytes announced")]
    TooLong(u64),
    /// The ops make less than the announced size of the new file.
    #[error("the new file has {actual} bytes, {announced} were announced")]
    TooShort {
        /// The size announced.
        announced: u64,
        /// The bytes made.
        actual: u64,
    },
    /// The compressor failed; in practice, for want of memory.
    #[error("cannot compress: {0}")]
    Compress(&'static str),
    /// A frame is damaged, or was made with another context.
    #[error("cannot decompress: {0}")]
    Decompress(&'static str),
    /// The sender wants finer hashes of blocks that do not exist.
    #[error("the answer does not name existing blocks in order")]
    Answer,
    /// A patch is for more bytes than [`PATCH_MAX`].
    #[error("a patch for {0} bytes is too large")]
    PatchSize(usize),
    /// A patch is damaged, or was made for other contents.
    #[error("the patch is damaged: {0}")]
    Patch(&'static str),
    /// The old file could not be read, or the new one not written.
    #[error(transparent)]
    Io(#[from] io::Error),
}
