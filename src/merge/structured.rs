//! Merges by key: what each side has changed under keys of its own comes together.
//!
//! The values decide whether there is a conflict; how the result is written follows the text. Where
//! the text merge gives just these values, that is the result; otherwise the other side's changes
//! are written into this side's text, and everything that nobody touched stays as it is. Comments
//! are merged as values are, by what they stand at: where one that was edited would be dropped, there
//! is a conflict.

use std::collections::{BTreeMap, BTreeSet};

use super::remarks::remarks;
use super::{Three, json, text, toml};

/// A format of which keys are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JSON, without comments.
    Json,
    /// TOML.
    Toml,
}

impl Format {
    /// That of a file of this name, if it is one.
    pub fn of_name(name: &[u8]) -> Option<Format> {
        let ending = name.rsplit(|&byte| byte == b'.').next()?;
        match ending.to_ascii_lowercase().as_slice() {
            b"json" => Some(Format::Json),
            b"toml" => Some(Format::Toml),
            _ => None,
        }
    }

    fn parse(self, text: &str) -> Option<Value> {
        match self {
            Format::Json => json::value(text),
            Format::Toml => toml::value(text),
        }
    }

    /// The comments in a text of this format, by what they stand at.
    fn remarks(self, text: &str) -> Value {
        match self {
            Format::Json => Value::Table(BTreeMap::new()),
            Format::Toml => remarks(text),
        }
    }
}

/// What a text means: tables by key, and everything else as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Leaf(String),
    Table(BTreeMap<String, Value>),
}

impl Value {
    /// What stands under a key, key by key.
    pub(super) fn at(&self, path: &[String]) -> Option<&Value> {
        match (self, path) {
            (value, []) => Some(value),
            (Value::Table(table), [key, rest @ ..]) => table.get(key)?.at(rest),
            (Value::Leaf(_), _) => None,
        }
    }
}

/// Merges three texts by key. `None` where both sides changed the same key, or the comments at it, in
/// different ways, where
/// one of the three is not of the format, and where what came together cannot be written into this
/// side's text.
pub fn structured(format: Format, three: Three<'_>) -> Option<Vec<u8>> {
    let [base, ours, theirs] = [three.base, three.ours, three.theirs]
        .map(|bytes| std::str::from_utf8(bytes).ok().filter(|text| text.len() <= super::SIZE_MAX));
    let (base, ours, theirs) = (base?, ours?, theirs?);
    let values = (format.parse(base)?, format.parse(ours)?, format.parse(theirs)?);
    let wanted = together(Some(&values.0), Some(&values.1), Some(&values.2)).ok()??;
    let notes = [base, ours, theirs].map(|text| format.remarks(text));
    let notes = together(Some(&notes[0]), Some(&notes[1]), Some(&notes[2])).ok()??;
    let means_that =
        |text: &str| format.parse(text).as_ref() == Some(&wanted) && format.remarks(text) == notes;
    let by_lines = text(three).and_then(|bytes| String::from_utf8(bytes).ok());
    if let Some(merged) = by_lines.filter(|merged| means_that(merged)) {
        return Some(merged.into_bytes());
    }
    let written = match format {
        Format::Json => json::rewrite(ours, theirs, &wanted),
        Format::Toml => toml::rewrite(ours, theirs, &wanted),
    };
    written.filter(|merged| means_that(merged)).map(String::into_bytes)
}

/// Both sides changed the same thing in different ways.
struct Clash;

fn together(
    base: Option<&Value>,
    ours: Option<&Value>,
    theirs: Option<&Value>,
) -> Result<Option<Value>, Clash> {
    if ours == theirs || theirs == base {
        return Ok(ours.cloned());
    }
    if ours == base {
        return Ok(theirs.cloned());
    }
    let (Some(Value::Table(ours)), Some(Value::Table(theirs))) = (ours, theirs) else {
        return Err(Clash);
    };
    let empty = BTreeMap::new();
    let base = match base {
        Some(Value::Table(base)) => base,
        None => &empty,
        Some(Value::Leaf(_)) => return Err(Clash),
    };
    let keys: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let mut merged = BTreeMap::new();
    for key in keys {
        if let Some(value) = together(base.get(key), ours.get(key), theirs.get(key))? {
            merged.insert(key.clone(), value);
        }
    }
    Ok(Some(Value::Table(merged)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn merge(format: Format, base: &str, ours: &str, theirs: &str) -> Option<String> {
        let [base, ours, theirs] = [base, ours, theirs].map(str::as_bytes);
        let merged = structured(format, Three { base, ours, theirs });
        merged.map(|merged| String::from_utf8(merged).unwrap())
    }

    #[test]
    fn keys_that_each_side_added_to_json_are_both_there() {
        let base = "{\n  \"a\": 1.50,\n  \"b\": {\"x\": 1}\n}\n";
        let ours = "{\n  \"a\": 1.50,\n  \"b\": {\"x\": 1, \"ours\": true},\n  \"c\": 1e5\n}\n";
        let theirs = "{\n  \"a\": 1.50,\n  \"b\": {\"theirs\": null, \"x\": 2},\n  \"d\": []\n}\n";
        let expected = "{\n  \"a\": 1.50,\n  \"b\": {\"x\": 2, \"ours\": true, \"theirs\": null},\n  \
                        \"c\": 1e5,\n  \"d\": []\n}\n";
        assert_eq!(merge(Format::Json, base, ours, theirs).unwrap(), expected);
    }

    #[test]
    fn a_key_that_one_side_took_away_is_gone() {
        let base = "{\"a\": 1, \"b\": 2, \"c\": 3}";
        let merged =
            merge(Format::Json, base, "{\"b\": 2, \"c\": 3, \"d\": 4}", "{\"a\": 1, \"b\": 2}");
        assert_eq!(merged.unwrap(), "{\"b\": 2, \"d\": 4}");
        let merged = merge(Format::Json, "{\"a\": 1}", "{\"a\": 1, \"b\": 2}", "{}");
        assert_eq!(merged.unwrap(), "{\"b\": 2}");
    }

    #[test]
    fn the_same_key_changed_on_both_sides_is_a_conflict() {
        for (base, ours, theirs) in [
            ("{\"a\": 1}", "{\"a\": 2}", "{\"a\": 3}"),
            ("{\"a\": [\n1,\n2,\n3]}", "{\"a\": [\n0,\n2,\n3]}", "{\"a\": [\n1,\n2,\n4]}"),
            ("{\"a\": 1}", "{}", "{\"a\": 3}"),
            ("{}", "{\"a\": 1}", "{\"a\": 2}"),
        ] {
            assert_eq!(merge(Format::Json, base, ours, theirs), None);
        }
        assert_eq!(merge(Format::Toml, "a = 1\n", "a = 2\n", "a = 3\n"), None);
    }

    #[test]
    fn what_is_not_of_the_format_is_not_merged() {
        for bad in ["{", "{\"a\": 1, \"a\": 2}", "{\"a\": 01}", "{} x", "{\"a\": \"\n\"}", ""] {
            assert_eq!(merge(Format::Json, "{}", bad, "{\"b\": 1}"), None, "{bad}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(merge(Format::Json, "{}", &deep, "{\"b\": 1}"), None);
        assert_eq!(merge(Format::Toml, "", "a = \n", "b = 1\n"), None);
    }

    #[test]
    fn toml_keeps_the_comments_of_what_nobody_touched() {
        let base = "# head\nname = \"x\" # why\n\n[deps]\na = \"1\"\n\n[dev]\nz = 1\n";
        let ours = base.replace("a = \"1\"\n", "a = \"1\"\nours = \"2\"\n");
        let theirs = base
            .replace("a = \"1\"\n", "a = \"1\"\n# needed for x\ntheirs = { v = 3 }\n")
            .replace("z = 1", "z = 2");
        let expected = "# head\nname = \"x\" # why\n\n[deps]\na = \"1\"\nours = \"2\"\n\
                        # needed for x\ntheirs = { v = 3 }\n\n[dev]\nz = 2\n";
        assert_eq!(merge(Format::Toml, base, &ours, &theirs).unwrap(), expected);
    }

    #[test]
    fn an_edit_of_a_comment_is_never_dropped() {
        for (base, ours, theirs, parts) in [
            (
                "# old\na = 1\nb = 2\n",
                "# old\na = 5\nb = 2\n",
                "# new\na = 1\nb = 3\n",
                ["# new", "a = 5", "b = 3"],
            ),
            ("a = 1\n", "a = 1 # MY NOTE\n", "a = 9\n", ["a = 9", " # ", "MY NOTE"]),
            ("a = 1\n", "a = 1 # A\n", "a = 1 # B\n", ["a = 1", "A", "B"]),
            ("a = [\n1, # c\n]\n", "a = [\n1, # C\n]\n", "a = [\n2, # c\n]\n", ["2", ", ", "# C"]),
            (
                "a = 1\nb = 1\n# end\n",
                "a = 1\nb = 2\n# end\n",
                "a = 2\nb = 1\n# END\n",
                ["a = 2", "b = 2", "# END"],
            ),
        ] {
            assert_eq!(merge(Format::Toml, base, ours, theirs), None, "{ours}\n{theirs}");
            // The other way round there may be a merge; then it has all.
            let merged = merge(Format::Toml, base, theirs, ours);
            let has_all = |text: String| parts.iter().all(|part| text.contains(part));
            assert!(merged.is_none_or(has_all), "{ours}\n{theirs}");
        }
        let base = "# head\na = 1\n\nb = 2\n\nc = 3 # see\n";
        let ours = base.replace("# head", "# HEAD");
        let theirs = base.replace("c = 3 # see", "c = 4 # seen");
        let merged = ours.replace("c = 3 # see", "c = 4 # seen");
        assert_eq!(merge(Format::Toml, base, &ours, &theirs).unwrap(), merged);
    }

    #[test]
    fn a_table_that_only_the_other_side_has_comes_at_the_end() {
        let base = "a = 1\n";
        let merged =
            merge(Format::Toml, base, "a = 1\nb = 2", "a = 1\n[t]\nx = 1\ny = [\n  1,\n]\n");
        assert_eq!(merged.unwrap(), "a = 1\nb = 2\n\n[t]\nx = 1\ny = [\n  1,\n]\n");
    }

    #[test]
    fn tables_of_arrays_are_merged_by_lines_or_not_at_all() {
        let base = "[[a]]\nx = 1\n\n[[a]]\nx = 2\n\n[t]\ny = 1\n";
        let ours = base.replace("y = 1", "y = 2");
        assert_eq!(
            merge(Format::Toml, base, &ours, &base.replace("x = 1", "x = 3")).unwrap(),
            ours.replace("x = 1", "x = 3")
        );
        let theirs = base.replace("x = 1", "x = 3").replace("y = 1", "y = 1\nz = 1");
        assert_eq!(merge(Format::Toml, base, &ours, &theirs), None);
    }

    #[test]
    fn long_texts_take_bounded_time() {
        let lines = |from: usize| -> String {
            (from..from + 60_000).map(|n| format!("k{n} = {n}\n")).collect()
        };
        let merged = merge(Format::Toml, "", &lines(0), &lines(60_000)).unwrap();
        assert_eq!(merged, lines(0) + &lines(60_000));
        let object = |from: usize| {
            let members: Vec<String> =
                (from..from + 60_000).map(|n| format!("\"k{n}\":{n}")).collect();
            format!("{{{}}}", members.join(","))
        };
        assert!(merge(Format::Json, "{}", &object(0), &object(60_000)).is_some());
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_strange(
            parts in proptest::collection::vec("[\\[\\]{}\"'=:,.#a-cä0-9\n \\\\-]{0,12}", 3),
            json in proptest::prelude::any::<bool>(),
        ) {
            let format = if json { Format::Json } else { Format::Toml };
            let _ = merge(format, &parts[0], &parts[1], &parts[2]);
            let _ = merge(format, "", &parts[1], &parts[2]);
        }
    }

    #[test]
    fn formats_are_told_by_the_ending() {
        assert_eq!(Format::of_name(b"package.JSON"), Some(Format::Json));
        assert_eq!(Format::of_name(b"Cargo.toml"), Some(Format::Toml));
        assert_eq!(Format::of_name(b"Cargo.lock"), None);
    }
}
