//! Files of one entry a line, as words between spaces; what follows a `#` is a remark.

use std::path::PathBuf;

use thiserror::Error;

/// A file that cannot be used because of one of its lines.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("{}, line {line}: {text}; nothing in the file counts until that is put right", .file.display())]
pub struct LineError {
    /// The file.
    pub file: PathBuf,
    /// Counted from one.
    pub line: usize,
    /// What is wrong with it.
    pub text: String,
}

/// The words of each line that has any, with its number.
pub(super) fn entries(text: &str) -> impl Iterator<Item = (usize, Vec<&str>)> {
    text.lines().enumerate().filter_map(|(at, line)| {
        let words: Vec<&str> =
            line.split_whitespace().take_while(|word| !word.starts_with('#')).collect();
        (!words.is_empty()).then_some((at + 1, words))
    })
}

/// Two hexadecimal digits for each byte; none where it is not that.
pub(super) fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
    digits.len().is_multiple_of(2).then(|| digits.chunks(2).map(|d| d[0] << 4 | d[1]).collect())
}
