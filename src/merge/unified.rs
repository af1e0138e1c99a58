//! Two texts beside each other, in the format of `diff -u`.

use std::fmt::Write;
use std::ops::Range;

use super::lines::{Hunk, Way, hunks, split};

/// Lines around a change that are shown, too.
const CONTEXT: usize = 3;

/// The changes from one text to another, as `diff -u` writes them, without the two lines with the
/// names; empty where there are none.
pub fn unified(old: &str, new: &str) -> String {
    let (old, new) = (split(old), split(new));
    let found = hunks(&old, &new, Way::FromTheTop);
    let found = found.unwrap_or_else(|| vec![Hunk { base: 0..old.len(), side: 0..new.len() }]);
    let mut text = String::new();
    let mut rest = &found[..];
    while let Some(first) = rest.first() {
        let near = |two: &[Hunk]| two[1].base.start - two[0].base.end <= 2 * CONTEXT;
        let together = 1 + rest.windows(2).take_while(|two| near(two)).count();
        let (group, later) = rest.split_at(together);
        write_group(&mut text, (&old, &new), first, group);
        rest = later;
    }
    text
}

fn write_group(text: &mut String, (old, new): (&[&str], &[&str]), first: &Hunk, group: &[Hunk]) {
    let last = group.last().unwrap_or(first);
    let before = first.base.start.min(CONTEXT);
    let after = (old.len() - last.base.end).min(CONTEXT);
    let of_old = first.base.start - before..last.base.end + after;
    let of_new = first.side.start - before..last.side.end + after;
    let header = format!("@@ -{} +{} @@\n", range(&of_old), range(&of_new));
    text.push_str(&header);
    let mut at = of_old.start;
    for hunk in group {
        old[at..hunk.base.start].iter().for_each(|line| put(text, ' ', line));
        old[hunk.base.clone()].iter().for_each(|line| put(text, '-', line));
        new[hunk.side.clone()].iter().for_each(|line| put(text, '+', line));
        at = hunk.base.end;
    }
    old[at..of_old.end].iter().for_each(|line| put(text, ' ', line));
}

/// Lines count from 1; a range of none stands after the line that it names.
fn range(lines: &Range<usize>) -> String {
    match lines.len() {
        0 => format!("{},0", lines.start),
        1 => format!("{}", lines.start + 1),
        count => format!("{},{count}", lines.start + 1),
    }
}

fn put(text: &mut String, sign: char, line: &str) {
    // Writing to a string does not fail.
    let _ = write!(text, "{sign}{line}");
    if !line.ends_with('\n') {
        text.push_str("\n\\ No newline at end of file\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_written_as_diff_writes_them() {
        let old: String = (1..=12).map(|n| format!("{n}\n")).collect();
        let new = old.replace("2\n3\n", "2\n").replace("12\n", "twelve");
        let expected = "@@ -1,6 +1,5 @@\n 1\n 2\n-3\n 4\n 5\n 6\n\
                        @@ -9,4 +8,4 @@\n 9\n 10\n 11\n-12\n+twelve\n\\ No newline at end of file\n";
        assert_eq!(unified(&old, &new), expected);
        assert_eq!(unified(&old, &old), "");
        assert_eq!(unified("", "a\n"), "@@ -0,0 +1 @@\n+a\n");
    }
}
