//! Names that are different here and one on a file system that does not tell letter case, or forms
//! of Unicode, apart.
//!
//! Whether two names are one is for the file system to say; here it is said too often rather than
//! too seldom, as what is held is not lost. Exact tables of Unicode are not needed for that: of two
//! names that may be one after normalisation, one is written with combining marks.

use std::collections::HashMap;

/// What a file system does not tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Folding {
    /// `a` and `A`.
    pub case: bool,
    /// A letter with its accent as one character and as two.
    pub form: bool,
}

impl Folding {
    /// Whether every two different names are two names.
    pub fn is_exact(self) -> bool {
        self == Folding::default()
    }
}

/// What two names that may be one have in common.
fn key(name: &[u8], folding: Folding) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(name) else { return name.to_vec() };
    let folded: String = match folding.case {
        true => text.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect(),
        false => text.to_string(),
    };
    if folding.form { skeleton(&folded).into_bytes() } else { folded.into_bytes() }
}

/// A name without what normalisation may change: letters beyond ASCII, combining marks and the
/// letters that they belong to.
fn skeleton(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_mark(letter) {
            kept.pop();
            kept.push('\u{fffd}');
        } else if letter.is_ascii() {
            kept.push(letter);
        } else {
            kept.push('\u{fffd}');
        }
    }
    // A letter with two marks is one letter or three; only that there are any is known.
    let mut short = String::with_capacity(kept.len());
    for letter in kept.chars() {
        if letter != '\u{fffd}' || !short.ends_with('\u{fffd}') {
            short.push(letter);
        }
    }
    short
}

fn is_mark(letter: char) -> bool {
    matches!(letter, '\u{300}'..='\u{36f}' | '\u{483}'..='\u{487}' | '\u{591}'..='\u{5bd}'
        | '\u{610}'..='\u{61a}' | '\u{64b}'..='\u{65f}' | '\u{93c}' | '\u{1160}'..='\u{11ff}'
        | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}' | '\u{20d0}'..='\u{20ff}'
        | '\u{3099}' | '\u{309a}')
}

fn has_marks(name: &[u8]) -> bool {
    std::str::from_utf8(name).is_ok_and(|text| text.chars().any(is_mark))
}

/// Whether two different names may be one on such a file system.
fn may_be_one(a: &[u8], b: &[u8], folding: Folding) -> bool {
    let case_only = Folding { form: false, ..folding };
    a != b
        && (folding.case && key(a, case_only) == key(b, case_only)
            || folding.form && (has_marks(a) || has_marks(b)) && key(a, folding) == key(b, folding))
}

/// Which of these names of one directory may be one with another: for each its number and that of
/// the first such other.
pub(super) fn collisions(names: &[&[u8]], folding: Folding) -> Vec<(usize, usize)> {
    let mut alike: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
    for (number, name) in names.iter().enumerate() {
        alike.entry(key(name, folding)).or_default().push(number);
    }
    let mut found = Vec::new();
    for group in alike.values().filter(|group| group.len() > 1) {
        for &number in group {
            let other =
                group.iter().find(|&&other| may_be_one(names[number], names[other], folding));
            found.extend(other.map(|&other| (number, other)));
        }
    }
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASE: Folding = Folding { case: true, form: false };
    const FORM: Folding = Folding { case: false, form: true };
    const BOTH: Folding = Folding { case: true, form: true };

    fn one(a: &str, b: &str, folding: Folding) -> bool {
        let found = collisions(&[a.as_bytes(), b.as_bytes()], folding);
        assert_eq!(found, collisions(&[b.as_bytes(), a.as_bytes()], folding));
        !found.is_empty()
    }

    #[test]
    fn letter_case_is_folded_beyond_ascii() {
        assert!(one("Name.txt", "naME.txt", CASE));
        assert!(one("\u{c4}rger", "\u{e4}rger", CASE));
        assert!(one("\u{3a3}", "\u{3c2}", CASE));
        assert!(!one("name", "names", CASE) && !one("Name", "name", FORM));
    }

    #[test]
    fn a_letter_and_its_accent_are_one_letter() {
        for (one_letter, two) in
            [("caf\u{e9}", "cafe\u{301}"), ("\u{d55c}", "\u{1112}\u{1161}\u{11ab}")]
        {
            assert!(one(one_letter, two, FORM) && one(one_letter, two, BOTH));
            assert!(!one(one_letter, two, CASE));
        }
        assert!(one("CAF\u{c9}", "cafe\u{301}", BOTH));
    }

    #[test]
    fn names_without_combining_marks_are_not_taken_for_one_another() {
        assert!(!one("caf\u{e9}", "caf\u{e8}", BOTH));
        assert!(!one("\u{4f60}", "\u{597d}", BOTH));
        assert!(!one("a", "b", BOTH));
    }

    #[test]
    fn names_that_are_no_text_are_as_they_are() {
        assert!(collisions(&[b"\xff", b"\xfe", b"a"], BOTH).is_empty());
    }
}
