//! TOML as a merge by key needs it: values, and the lines in which each is written.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::structured::Value;

/// What a TOML text means; none if it is not one.
pub(super) fn value(text: &str) -> Option<Value> {
    Some(table(DeTable::parse(text).ok()?.get_ref()))
}

fn table(table: &DeTable<'_>) -> Value {
    let each = table.iter().map(|(key, value)| {
        let value = match value.get_ref() {
            DeValue::Table(inner) => self::table(inner),
            other => Value::Leaf(plain(other)),
        };
        (key.get_ref().to_string(), value)
    });
    Value::Table(each.collect())
}

/// A value that is no table, so that the same is told from another.
fn plain(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => format!("{} in base {}", number.as_str(), number.radix()),
        DeValue::Float(number) => format!("float {}", number.as_str()),
        DeValue::Boolean(yes) => yes.to_string(),
        DeValue::Datetime(moment) => format!("time {moment}"),
        DeValue::Array(values) => {
            let each: Vec<String> = values.iter().map(|value| plain(value.get_ref())).collect();
            format!("[{}]", each.join(", "))
        }
        DeValue::Table(inner) => format!("{:?}", table(inner)),
    }
}

/// The lines in which a key is set.
struct Statement {
    path: Vec<String>,
    /// From the start of the key's line to the end of the value's.
    lines: Range<usize>,
}

/// Everything that is set in a text by a line of its own, in the order of the lines. None where a
/// table is one of an array: such an array is not set in one place.
fn statements(text: &str) -> Option<Vec<Statement>> {
    let mut found = Vec::new();
    collect(text, DeTable::parse(text).ok()?.get_ref(), &mut Vec::new(), &mut found);
    found.sort_by_key(|statement| statement.lines.start);
    // Two keys in one line are none of TOML's: then something was not understood.
    let apart = found.windows(2).all(|two| two[0].lines.end <= two[1].lines.start);
    apart.then_some(found)
}

fn collect(text: &str, table: &DeTable<'_>, path: &mut Vec<String>, found: &mut Vec<Statement>) {
    for (key, value) in table.iter() {
        path.push(key.get_ref().to_string());
        let written = text.get(value.span()).unwrap_or_default();
        match value.get_ref() {
            DeValue::Table(inner) if !written.starts_with('{') => {
                collect(text, inner, path, found);
            }
            DeValue::Array(values) if is_of_tables(text, values.iter().map(|one| one.span())) => {}
            _ => {
                let start = text[..key.span().start].rfind('\n').map_or(0, |end| end + 1);
                let rest = &text[value.span().end..];
                let end = rest.find('\n').map_or(text.len(), |at| value.span().end + at + 1);
                found.push(Statement { path: path.clone(), lines: start..end });
            }
        }
        path.pop();
    }
}

/// Whether an array is written as tables with headers of their own.
fn is_of_tables(text: &str, mut values: impl Iterator<Item = Range<usize>>) -> bool {
    values.next().is_some_and(|span| {
        let start = text[..span.start].rfind('\n').map_or(0, |end| end + 1);
        text[start..].trim_start().starts_with("[[")
    })
}

/// A part of a text below one header, or above the first one.
struct Section {
    /// The header as it is written; none at the top.
    header: Option<String>,
    /// Where its first line begins, after the header.
    start: usize,
    /// Where the last key in it ends, or else where it begins.
    end: usize,
}

/// The sections of a text, in order; the first is that at the top.
fn sections(text: &str, statements: &[Statement]) -> Vec<Section> {
    let mut sections = vec![Section { header: None, start: 0, end: 0 }];
    let mut rest = statements.iter().peekable();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        while rest.next_if(|one| one.lines.end <= at).is_some() {}
        let next = at + line.len();
        let trimmed = line.trim();
        match rest.peek().filter(|one| one.lines.contains(&at)) {
            Some(statement) => {
                if let Some(section) = sections.last_mut() {
                    section.end = statement.lines.end;
                }
            }
            None if trimmed.starts_with('[') => {
                let name = trimmed.split('#').next().unwrap_or_default().trim();
                sections.push(Section { header: Some(name.into()), start: next, end: next });
            }
            None => {}
        }
        at = next;
    }
    sections
}

/// The first text with what is wanted: whatever differs from it is taken from the second text.
/// None where a change cannot be put in one line's place.
pub(super) fn rewrite(ours: &str, theirs: &str, wanted: &Value) -> Option<String> {
    let (our_lines, their_lines) = (statements(ours)?, statements(theirs)?);
    let (our_value, their_value) = (value(ours)?, value(theirs)?);
    let by_path = |statements: &[Statement]| -> BTreeMap<Vec<String>, Range<usize>> {
        statements.iter().map(|one| (one.path.clone(), one.lines.clone())).collect()
    };
    let (known, others) = (by_path(&our_lines), by_path(&their_lines));
    let mut edits: BTreeMap<(usize, usize), String> = BTreeMap::new();
    for (path, lines) in &known {
        let place = (lines.start, lines.end);
        match wanted.at(path) {
            None => drop(edits.insert(place, String::new())),
            Some(value) if our_value.at(path) == Some(value) => {}
            Some(value) if their_value.at(path) == Some(value) => {
                edits.insert(place, ended(&theirs[others.get(path)?.clone()]));
            }
            Some(_) => return None,
        }
    }
    let (ours_below, theirs_below) = (sections(ours, &our_lines), sections(theirs, &their_lines));
    let ends: BTreeMap<Option<&str>, usize> =
        ours_below.iter().map(|section| (section.header.as_deref(), section.end)).collect();
    let mut fresh: Vec<(&str, String)> = Vec::new();
    for one in their_lines.iter().filter(|one| !known.contains_key(&one.path)) {
        if wanted.at(&one.path).is_none() {
            continue;
        }
        let below = theirs_below.partition_point(|section| section.start <= one.lines.start);
        let header = theirs_below.get(below.checked_sub(1)?)?.header.as_deref();
        let lines = ended(&theirs[with_comments(theirs, one.lines.clone())]);
        match (ends.get(&header), fresh.last_mut()) {
            (Some(&end), _) => edits.entry((end, end)).or_default().push_str(&lines),
            (None, Some((last, text))) if Some(*last) == header => text.push_str(&lines),
            (None, _) => fresh.push((header?, lines)),
        }
    }
    let mut text = applied(ours, &edits);
    for (header, lines) in fresh {
        text = ended(&text);
        text.push_str(&format!("\n{header}\n{lines}"));
    }
    Some(text)
}

/// The lines with the comments that stand directly above them.
fn with_comments(text: &str, lines: Range<usize>) -> Range<usize> {
    let mut start = lines.start;
    for line in text[..lines.start].split_inclusive('\n').rev() {
        if !line.trim_start().starts_with('#') {
            break;
        }
        start -= line.len();
    }
    start..lines.end
}

/// With a line end.
fn ended(text: &str) -> String {
    match text.is_empty() || text.ends_with('\n') {
        true => text.to_string(),
        false => format!("{text}\n"),
    }
}

fn applied(text: &str, edits: &BTreeMap<(usize, usize), String>) -> String {
    let mut made = String::new();
    let mut at = 0;
    for (&(start, end), replacement) in edits {
        made.push_str(&text[at..start]);
        if !replacement.is_empty() && !made.is_empty() && !made.ends_with('\n') {
            made.push('\n');
        }
        made.push_str(replacement);
        at = end;
    }
    made.push_str(&text[at..]);
    made
}
