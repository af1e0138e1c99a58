//! zstd frames with a prefix, as lean as the format allows.

use std::cell::RefCell;

use zstd::zstd_safe::{CCtx, CParameter, DCtx, DParameter, FrameFormat, SafeResult};
use zstd::zstd_safe::{compress_bound, get_error_name};

use super::DeltaError;

/// Compresses `content`, which is not empty, into one frame that only `prefix` can decompress.
///
/// # Errors
///
/// [`DeltaError::Compress`]: no memory, or the level does not exist.
pub(super) fn compress(prefix: &[u8], content: &[u8], level: i32) -> Result<Vec<u8>, DeltaError> {
    let mut frame = Vec::with_capacity(compress_bound(content.len()));
    compress_into(&mut frame, prefix, content, level)
        .map_err(|code| DeltaError::Compress(get_error_name(code)))?;
    Ok(frame)
}

fn compress_into(frame: &mut Vec<u8>, prefix: &[u8], content: &[u8], level: i32) -> SafeResult {
    // A new context for each frame: the safe interface ties a context to its prefix's lifetime. That
    // takes about 20 us, less than publishing the file that the frame belongs to.
    let mut context = CCtx::create();
    context.set_parameter(CParameter::CompressionLevel(level))?;
    context.set_parameter(CParameter::WindowLog(window_log(prefix.len() + content.len())))?;
    context.set_parameter(CParameter::Format(FrameFormat::Magicless))?;
    context.set_parameter(CParameter::ContentSizeFlag(false))?;
    context.set_parameter(CParameter::ChecksumFlag(false))?;
    context.set_parameter(CParameter::DictIdFlag(false))?;
    context.ref_prefix(prefix)?;
    context.compress2(frame, content)
}

/// A window that reaches back to the beginning of the prefix; low levels would choose a smaller one.
fn window_log(len: usize) -> u32 {
    len.next_power_of_two().ilog2().max(10)
}

/// Decompresses a frame whose content has exactly `len` bytes.
///
/// Memory is bounded by `len`: in one step, zstd needs no window of its own, whatever size the frame
/// asks for.
///
/// # Errors
///
/// [`DeltaError::Decompress`] if the frame is damaged or has more content,
/// [`DeltaError::FreshLength`] if it has less.
pub(super) fn decompress(prefix: &[u8], frame: &[u8], len: usize) -> Result<Vec<u8>, DeltaError> {
    let mut content = Vec::with_capacity(len);
    let result = decompress_into(&mut content, prefix, frame);
    checked(content, result, len)
}

thread_local! {
    /// What decompresses whole frames in this thread: to make it takes as long as to decompress a small one.
    static CONTEXT: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
}

/// Decompresses what [`complete`] made, with the same bounds and errors as [`decompress`].
pub(super) fn decompress_complete(frame: &[u8], len: usize) -> Result<Vec<u8>, DeltaError> {
    let mut content = Vec::with_capacity(len);
    let result = CONTEXT.with_borrow_mut(|context| {
        context.get_or_insert_with(DCtx::create).decompress(&mut content, frame)
    });
    checked(content, result, len)
}

fn checked(content: Vec<u8>, result: SafeResult, len: usize) -> Result<Vec<u8>, DeltaError> {
    result.map_err(|code| DeltaError::Decompress(get_error_name(code)))?;
    match content.len() {
        actual if actual == len => Ok(content),
        actual => Err(DeltaError::FreshLength { stated: len, actual }),
    }
}

fn decompress_into(content: &mut Vec<u8>, prefix: &[u8], frame: &[u8]) -> SafeResult {
    let mut context = DCtx::create();
    context.set_parameter(DParameter::Format(FrameFormat::Magicless))?;
    context.ref_prefix(prefix)?;
    context.decompress(content, frame)
}

/// How every frame of [`compress`] begins: a descriptor that claims nothing, and the window's size, of
/// which decompression in one step makes no use.
const HEADER_LEN: usize = 2;

/// How a frame begins that is not without it.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Stands in for the header on the receiving side: no options, a window of 128 MiB.
const HEADER: [u8; HEADER_LEN] = [0, (27 - 10) << 3];

/// As [`compress`], but without the frame's header, which says nothing that is not known.
///
/// # Errors
///
/// As [`compress`].
pub(super) fn compress_bare(
    prefix: &[u8],
    content: &[u8],
    level: i32,
) -> Result<Vec<u8>, DeltaError> {
    let mut frame = compress(prefix, content, level)?;
    frame.drain(..HEADER_LEN);
    Ok(frame)
}

/// A frame with everything that the format allows, without what [`HEADER`] stands for. None where it is no
/// frame, has a dictionary, or ends with a checksum.
pub(super) fn bare(frame: &[u8]) -> Option<&[u8]> {
    let (&descriptor, rest) = frame.strip_prefix(&MAGIC)?.split_first()?;
    // RFC 8878, section 3.1.1.1.
    let (has_dictionary, has_checksum) = (descriptor & 3 != 0, descriptor & 4 != 0);
    let is_single = descriptor & 0x20 != 0;
    let size = match descriptor >> 6 {
        0 => usize::from(is_single),
        code => 1 << code,
    };
    let header = usize::from(!is_single) + size;
    let is_plain = !has_dictionary && !has_checksum;
    rest.get(header..).filter(|bare| is_plain && !bare.is_empty())
}

/// A frame that any decoder of zstd takes, of one that lacks what [`HEADER`] stands for.
pub(super) fn complete(bare: &[u8]) -> Vec<u8> {
    [&MAGIC, &HEADER[..], bare].concat()
}

/// Decompresses what [`compress_bare`] made of `len` bytes.
///
/// # Errors
///
/// As [`decompress`].
pub(super) fn decompress_bare(
    prefix: &[u8],
    bare: &[u8],
    len: usize,
) -> Result<Vec<u8>, DeltaError> {
    decompress(prefix, &[&HEADER, bare].concat(), len)
}
