//! Names of clash files.

use psync_protocol::RelPath;
use psync_protocol::path::COMPONENT_MAX;

/// `name_clash_YYYYMMDDHHMM.ext`, beside `path`; the stem is shortened where the name would be
/// too long, and numbered where `is_taken` says that the name exists.
pub fn clash_name(
    path: &RelPath,
    stamp: &str,
    is_taken: &mut dyn FnMut(&RelPath) -> bool,
) -> Option<RelPath> {
    let (stem, extension) = split_extension(path.name());
    for number in 1..10_000 {
        let mark = match number {
            1 => format!("_clash_{stamp}"),
            n => format!("_clash_{stamp}_{n}"),
        };
        let room = COMPONENT_MAX.saturating_sub(mark.len() + extension.len());
        let name = [shortened(stem, room), mark.as_bytes(), extension].concat();
        let candidate = path.with_name(&name).ok()?;
        if !is_taken(&candidate) {
            return Some(candidate);
        }
    }
    None
}

/// The name before its last dot, and the rest with the dot. A leading dot starts no extension,
/// and what is longer than any real extension is none.
fn split_extension(name: &[u8]) -> (&[u8], &[u8]) {
    match name.iter().rposition(|&byte| byte == b'.') {
        Some(dot) if dot > 0 && name.len() - dot <= 32 => name.split_at(dot),
        _ => (name, b""),
    }
}

/// At most `room` bytes, and no half of a UTF-8 character at the end.
fn shortened(stem: &[u8], room: usize) -> &[u8] {
    let mut end = stem.len().min(room);
    while end > 0 && end < stem.len() && stem[end] & 0b1100_0000 == 0b1000_0000 {
        end -= 1;
    }
    &stem[..end]
}
