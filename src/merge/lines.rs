//! What has changed between two texts, line by line.
//!
//! Source: Myers, "An O(ND) Difference Algorithm and Its Variations", 1986. The crates that were
//! tried for it overflow the stack on two texts of a million lines made for that.

use std::collections::HashMap;
use std::ops::Range;

/// Lines that are added or taken away at most; the search keeps four bytes for each pair of them.
const CHANGES_MAX: usize = 4096;
/// Pairs of lines that are compared at most: about a second's work.
const COMPARISONS_MAX: u64 = 200_000_000;

/// Lines of one text, each with its line end; the last one may have none.
pub(super) fn split(text: &str) -> Vec<&str> {
    text.split_inclusive('\n').collect()
}

/// Lines of the base that have become other lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hunk {
    /// Which lines of the base; none where lines were only added.
    pub(super) base: Range<usize>,
    /// Which lines stand there now; none where lines were only taken away.
    pub(super) side: Range<usize>,
}

/// From which end lines are paired. Where the same lines stand in several places, the two ways
/// pair others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    FromTheTop,
    FromTheBottom,
}

/// The hunks from `base` to `side`, in order; between two of them stands at least one line that
/// both have. None where that is too much work to find out.
pub(super) fn hunks(base: &[&str], side: &[&str], way: Way) -> Option<Vec<Hunk>> {
    let mut numbers = HashMap::new();
    let mut numbered = |lines: &[&str]| -> Vec<u32> {
        lines
            .iter()
            .map(|line| {
                let next = numbers.len() as u32;
                *numbers.entry(line.to_string()).or_insert(next)
            })
            .collect()
    };
    let (mut old, mut new) = (numbered(base), numbered(side));
    if way == Way::FromTheBottom {
        old.reverse();
        new.reverse();
    }
    let mut hunks = changed(&old, &new)?;
    if way == Way::FromTheBottom {
        hunks.reverse();
        for hunk in &mut hunks {
            hunk.base = base.len() - hunk.base.end..base.len() - hunk.base.start;
            hunk.side = side.len() - hunk.side.end..side.len() - hunk.side.start;
        }
    }
    Some(hunks)
}

fn changed(old: &[u32], new: &[u32]) -> Option<Vec<Hunk>> {
    let start = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[start..], &new[start..]);
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[..old.len() - tail], &new[..new.len() - tail]);
    let mut hunks: Vec<Hunk> = Vec::new();
    // Single lines come from the end to the start.
    for (at, is_new) in steps(old, new)?.into_iter().rev() {
        let (x, y) = (start + at.0, start + at.1);
        match hunks.last_mut() {
            Some(last) if (last.base.end, last.side.end) == (x, y) => {}
            _ => hunks.push(Hunk { base: x..x, side: y..y }),
        }
        if let Some(last) = hunks.last_mut() {
            match is_new {
                true => last.side.end += 1,
                false => last.base.end += 1,
            }
        }
    }
    Some(hunks)
}

/// How far the search has come on each diagonal: the line of the old text there, by diagonal.
struct Reached {
    furthest: Vec<u32>,
    middle: usize,
}

impl Reached {
    fn at(&self, diagonal: isize) -> usize {
        self.furthest[(self.middle as isize + diagonal) as usize] as usize
    }
}

/// The fewest single lines that are taken away or added, from the end to the start: where in both
/// texts, and whether the line is one of the new text.
fn steps(old: &[u32], new: &[u32]) -> Option<Vec<((usize, usize), bool)>> {
    let most = (old.len() + new.len()).min(CHANGES_MAX);
    let mut now = Reached { furthest: vec![0; 2 * most + 3], middle: most + 1 };
    let mut before: Vec<Vec<u32>> = Vec::new();
    let mut comparisons = 0u64;
    for changes in 0..=most {
        // What was reached with one change less, for the way back.
        before.push(now.furthest[now.middle - changes..=now.middle + changes].to_vec());
        let reach = changes as isize;
        for diagonal in (-reach..=reach).step_by(2) {
            let mut x = match from_above(reach, diagonal, |diagonal| now.at(diagonal)) {
                true => now.at(diagonal + 1),
                false => now.at(diagonal - 1) + 1,
            };
            if changes == 0 {
                x = 0;
            }
            let mut y = (x as isize - diagonal) as usize;
            while x < old.len() && y < new.len() && old[x] == new[y] {
                (x, y) = (x + 1, y + 1);
                comparisons += 1;
            }
            comparisons += 1;
            let place = (now.middle as isize + diagonal) as usize;
            now.furthest[place] = x as u32;
            if x >= old.len() && y >= new.len() {
                return Some(way_back(&before, (old.len(), new.len())));
            }
        }
        if comparisons > COMPARISONS_MAX {
            return None;
        }
    }
    None
}

/// Whether a diagonal is reached by a line that is added (from the diagonal above it) and not by
/// one that is taken away.
fn from_above(reach: isize, diagonal: isize, at: impl Fn(isize) -> usize) -> bool {
    diagonal == -reach || diagonal != reach && at(diagonal - 1) < at(diagonal + 1)
}

fn way_back(before: &[Vec<u32>], end: (usize, usize)) -> Vec<((usize, usize), bool)> {
    let (mut x, mut y) = (end.0 as isize, end.1 as isize);
    let mut steps = Vec::new();
    for changes in (1..before.len()).rev() {
        // Two more diagonals than the step before had: those at both ends were never reached.
        let reached = &before[changes];
        let reach = changes as isize;
        let at = |diagonal: isize| reached[(diagonal + reach) as usize] as usize;
        let diagonal = x - y;
        let added = from_above(reach, diagonal, at);
        let from = if added { diagonal + 1 } else { diagonal - 1 };
        (x, y) = (at(from) as isize, at(from) as isize - from);
        steps.push(((x as usize, y as usize), added));
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(base: &[&str], side: &[&str], hunks: &[Hunk]) -> String {
        let mut made = String::new();
        let mut at = 0;
        for hunk in hunks {
            made.extend(base[at..hunk.base.start].iter().copied());
            made.extend(side[hunk.side.clone()].iter().copied());
            at = hunk.base.end;
        }
        made.extend(base[at..].iter().copied());
        made
    }

    #[test]
    fn hunks_make_the_new_text_of_the_old_one() {
        let texts = ["", "a\n", "a\nb\nc\n", "b\nc\nd\na", "x\nx\ny\nx\n", "y\nx\nx\nz\nx\ny\n"];
        for base in texts.map(split) {
            for side in texts.map(split) {
                for way in [Way::FromTheTop, Way::FromTheBottom] {
                    let found = hunks(&base, &side, way).expect("it is little work");
                    assert_eq!(applied(&base, &side, &found), side.concat());
                    let apart = found.windows(2).all(|two| two[0].base.end < two[1].base.start);
                    assert!(apart, "{found:?}");
                }
            }
        }
    }

    #[test]
    fn few_lines_of_a_long_text_are_found() {
        let base: Vec<String> = (0..100_000).map(|n| format!("{}\n", n % 1000)).collect();
        let mut side = base.clone();
        side[10] = "new\n".into();
        side.remove(99_990);
        let lines = |text: &[String]| text.concat();
        let (base, side) = (lines(&base), lines(&side));
        let found =
            hunks(&split(&base), &split(&side), Way::FromTheTop).expect("it is little work");
        assert_eq!(found[0], Hunk { base: 10..11, side: 10..11 });
        assert_eq!(found.len(), 2);
    }
}
