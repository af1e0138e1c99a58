//! The right name that somebody may have meant.

/// The known name that is nearest to a written one, if one is near enough to be meant: at most a
/// third of its letters, and two in short names, have to be put in, taken out, or changed.
pub(super) fn nearest<'a>(
    written: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let written = plain(written);
    let distances = known.into_iter().map(|name| (distance(&written, &plain(name)), name));
    let (distance, name) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= (name.chars().count() / 3).max(2) && distance < name.chars().count())
        .then_some(name)
}

/// `; did you mean 'x'?`, or nothing.
pub(crate) fn did_you_mean<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(written, known).map(|name| format!("; did you mean '{name}'?")).unwrap_or_default()
}

/// `max_delete` and `Max-Delete` are near enough.
fn plain(name: &str) -> Vec<char> {
    name.chars().map(|c| if c == '_' { '-' } else { c.to_ascii_lowercase() }).collect()
}

/// Levenshtein's distance, with two neighbours exchanged counted as one change; one row of the
/// table after the other.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let replaced = last[j] + usize::from(a[i] != b[j]);
            let mut best = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_counted() {
        let count = |a: &str, b: &str| distance(&plain(a), &plain(b));
        assert_eq!(count("", "abc"), 3);
        assert_eq!(count("budget", "bugdet"), 1);
        assert_eq!(count("max_delete", "Max-Delete"), 0);
        assert_eq!(count("kitten", "sitting"), 3);
    }

    #[test]
    fn a_name_that_is_too_far_is_not_suggested() {
        let known = ["budget", "mode", "rsh"];
        assert_eq!(nearest("bugdet", known), Some("budget"));
        assert_eq!(nearest("mod", known), Some("mode"));
        assert_eq!(nearest("xyz", known), None);
        assert_eq!(nearest("something", known), None);
    }
}
