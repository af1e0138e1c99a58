//! zstd frames with a prefix, as lean as the format allows.

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
    decompress_into(&mut content, prefix, frame)
        .map_err(|code| DeltaError::Decompress(get_error_name(code)))?;
    if content.len() != len {
        return Err(DeltaError::FreshLength { stated: len, actual: content.len() });
    }
    Ok(content)
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
