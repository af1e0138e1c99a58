//! The merge of texts, line by line.
//!
//! Source: Khanna, Kunal and Pierce, "A Formal Investigation of Diff3", 2007, for what a merge of
//! this kind is; what lies close together is a conflict here, as in git.

use super::Three;
use super::lines::{Hunk, Way, hunks, split};

/// Larger contents are not merged, in bytes.
pub const SIZE_MAX: usize = 4 << 20;

/// Merges three texts. `None` where the sides changed the same lines or neighbouring ones in
/// different ways, where one of the three is no UTF-8 text (or holds a zero byte, or is larger
/// than [`SIZE_MAX`]), and where it depends on how equal lines are paired what comes of it.
///
/// Line ends stay as they are, whether there are returns before them or none at the very end.
pub fn text(three: Three<'_>) -> Option<Vec<u8>> {
    let [base, ours, theirs] = [three.base, three.ours, three.theirs].map(as_text);
    let (base, ours, theirs) = (base?, ours?, theirs?);
    if ours == theirs || theirs == base {
        return Some(ours.into());
    }
    if ours == base {
        return Some(theirs.into());
    }
    let (base, ours, theirs) = (split(base), split(ours), split(theirs));
    let merged = |way| {
        let changes = (hunks(&base, &ours, way)?, hunks(&base, &theirs, way)?);
        join(
            &base,
            Side { lines: &ours, hunks: &changes.0 },
            Side { lines: &theirs, hunks: &changes.1 },
        )
    };
    let merged_text = merged(Way::FromTheTop)?;
    // Of three equal lines one is gone: which? Where the answer matters, somebody has to look.
    (merged(Way::FromTheBottom)? == merged_text).then(|| merged_text.into_bytes())
}

/// The bytes as text, if they are one and not too long.
fn as_text(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    (bytes.len() <= SIZE_MAX && !bytes.contains(&0)).then_some(text)
}

/// One side's lines, and which of them are its own.
#[derive(Clone, Copy)]
struct Side<'a> {
    lines: &'a [&'a str],
    hunks: &'a [Hunk],
}

impl<'a> Side<'a> {
    /// The first hunk, what stands in its place, and the side without it.
    fn next(self) -> Option<(&'a Hunk, &'a [&'a str], Side<'a>)> {
        let (first, rest) = self.hunks.split_first()?;
        Some((first, &self.lines[first.side.clone()], Side { hunks: rest, ..self }))
    }
}

/// The base with the hunks of both sides in it, if these keep clear of each other.
fn join(base: &[&str], mut ours: Side<'_>, mut theirs: Side<'_>) -> Option<String> {
    let mut merged = String::new();
    let mut at = 0;
    loop {
        let (hunk, lines) = match (ours.next(), theirs.next()) {
            (None, None) => break,
            (Some((hunk, lines, rest)), None) => {
                ours = rest;
                (hunk, lines)
            }
            (None, Some((hunk, lines, rest))) => {
                theirs = rest;
                (hunk, lines)
            }
            (Some((our, our_lines, our_rest)), Some((their, their_lines, their_rest))) => {
                if our.base.end < their.base.start {
                    ours = our_rest;
                    (our, our_lines)
                } else if their.base.end < our.base.start {
                    theirs = their_rest;
                    (their, their_lines)
                } else if our.base == their.base && our_lines == their_lines {
                    (ours, theirs) = (our_rest, their_rest);
                    (our, our_lines)
                } else {
                    return None;
                }
            }
        };
        merged.extend(base[at..hunk.base.start].iter().copied());
        merged.extend(lines.iter().copied());
        at = hunk.base.end;
    }
    merged.extend(base[at..].iter().copied());
    Some(merged)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn merge(base: &str, ours: &str, theirs: &str) -> Option<String> {
        let [base, ours, theirs] = [base, ours, theirs].map(str::as_bytes);
        text(Three { base, ours, theirs }).map(|merged| String::from_utf8(merged).unwrap())
    }

    #[test]
    fn edits_that_keep_clear_of_each_other_are_both_there() {
        assert_eq!(merge("a\nb\nc\n", "A\nb\nc\n", "a\nb\nC\n").unwrap(), "A\nb\nC\n");
        assert_eq!(merge("a\nb\nc\n", "a\nb\nc\nd\n", "b\nc\n").unwrap(), "b\nc\nd\n");
    }

    #[test]
    fn edits_that_overlap_or_touch_are_a_conflict() {
        assert_eq!(merge("a\nb\nc\n", "a\nX\nc\n", "a\nY\nc\n"), None);
        assert_eq!(merge("a\nb\nc\n", "A\nb\nc\n", "a\nB\nc\n"), None);
        assert_eq!(merge("a\nb\n", "a\nx\nb\n", "a\ny\nb\n"), None);
    }

    #[test]
    fn the_same_edit_on_both_sides_is_made_once() {
        let merged = merge("a\nb\nc\nd\ne\n", "a\nX\nc\nd\nE\n", "a\nX\nc\nd\ne\nf\n");
        assert_eq!(merged, None);
        let merged = merge("a\nb\nc\nd\ne\n", "a\nX\nc\nd\ne\n", "a\nX\nc\nD\ne\n");
        assert_eq!(merged.unwrap(), "a\nX\nc\nD\ne\n");
    }

    #[test]
    fn a_neighbour_of_the_same_edit_is_a_conflict() {
        assert_eq!(merge("a\nb\nc\n", "X\nb\nc\n", "X\nB\nc\n"), None);
    }

    #[test]
    fn line_ends_stay_as_they_are() {
        let merged = merge("a\r\nb\r\nc", "A\r\nb\r\nc", "a\r\nb\r\nC");
        assert_eq!(merged.unwrap(), "A\r\nb\r\nC");
        let merged = merge("a\nb\nc", "A\nb\nc", "a\nb\nc\n");
        assert_eq!(merged.unwrap(), "A\nb\nc\n");
    }

    #[test]
    fn what_is_no_text_is_not_merged() {
        let three = |theirs| Three { base: b"a\nb\nc\n", ours: b"A\nb\nc\n", theirs };
        assert!(text(three(b"a\nb\nC\n")).is_some());
        assert!(text(three(b"a\nb\n\xff\n")).is_none());
        assert!(text(three(b"a\nb\n\0\n")).is_none());
    }

    #[test]
    fn equal_lines_that_can_be_paired_in_two_ways_are_a_conflict_where_it_matters() {
        // Which of the three is gone decides where the other side's line stands.
        assert_eq!(merge("x\nx\nx\n", "x\nx\n", "x\nn\nx\nx\n"), None);
    }

    #[test]
    fn hostile_texts_take_bounded_time() {
        let noise = |seed: u64| -> String {
            let mut state = seed;
            (0..SIZE_MAX / 2 - 1)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    if state >> 63 == 0 { "a\n" } else { "b\n" }
                })
                .collect()
        };
        // Two million lines of only two kinds, in three orders.
        let _ = merge(&noise(1), &noise(2), &noise(3));
    }
}
