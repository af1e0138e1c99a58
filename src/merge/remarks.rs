//! The comments of a TOML text, each with what it stands at: a merge by key has to keep them, too.

use std::collections::BTreeMap;

use super::structured::Value;

/// The comments of a text that is TOML: those above a key or a header, those beside it or in its
/// value, and those at the end.
pub(super) fn remarks(text: &str) -> Value {
    let mut found = BTreeMap::new();
    let mut note = |place: String, comments: String| {
        if !comments.is_empty() {
            found.insert(place, Value::Leaf(comments));
        }
    };
    let mut header = String::new();
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    let mut above = String::new();
    for Line { code, comments } in lines(text) {
        let code = code.trim();
        if code.is_empty() {
            above.push_str(&comments);
            continue;
        }
        let place = if code.starts_with('[') {
            // Tables of an array have all the same header.
            let time = times.entry(code.to_string()).or_default();
            *time += 1;
            header = format!("{code} {time}");
            header.clone()
        } else {
            let key = code.split('=').next().unwrap_or_default().trim();
            format!("{header} {key}")
        };
        note(format!("above {place}"), std::mem::take(&mut above));
        note(format!("at {place}"), comments);
    }
    note("end".to_string(), above);
    Value::Table(found)
}

/// What stands in one line, or in several where a value goes on.
#[derive(Default)]
struct Line {
    code: String,
    /// Each with a line end.
    comments: String,
}

fn lines(text: &str) -> Vec<Line> {
    let mut lines = vec![Line::default()];
    let mut depth = 0_usize;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '#' => rest.find('\n').unwrap_or(rest.len()),
            '"' | '\'' => string(rest, c),
            _ => c.len_utf8(),
        };
        let (part, after) = rest.split_at(length);
        rest = after;
        match c {
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        let Some(line) = lines.last_mut() else { break };
        match c {
            '#' => line.comments.push_str(&format!("{}\n", part.trim_end())),
            '\n' if depth == 0 => lines.push(Line::default()),
            _ => line.code.push_str(part),
        }
    }
    lines
}

/// The length of the string that a text begins with, quotes included.
fn string(text: &str, quote: char) -> usize {
    let three = quote.to_string().repeat(3);
    let end = if text.starts_with(&three) { three.as_str() } else { &three[..1] };
    let mut at = end.len();
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with(end) {
            // Up to two more quotes belong to a string of several lines.
            let more = rest.bytes().take_while(|&byte| byte == quote as u8).count();
            return at + if end.len() == 3 { more.min(5) } else { 1 };
        }
        let mut chars = rest.chars();
        let escapes = quote == '"' && rest.starts_with('\\');
        at += chars.next().map_or(1, char::len_utf8);
        at += chars.next().filter(|_| escapes).map_or(0, char::len_utf8);
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_comment_is_found_with_what_it_stands_at() {
        let text = "# head\n# more\n\na = \"# no\\\" #\" # beside\nb = [ # in\n  1, # it\n]\n\
                    c = '''\n# no ''' # at c\n\n# above t\n[t] # t\nx = 1\n[[u]]\n# one\ny = 1\n\
                    [[u]]\n# two\ny = 2\n# last";
        let Value::Table(found) = remarks(text) else { panic!("a table") };
        let told: Vec<String> = found
            .iter()
            .map(|(place, value)| match value {
                Value::Leaf(text) => format!("{place}: {}", text.trim_end().replace('\n', "|")),
                Value::Table(_) => String::new(),
            })
            .collect();
        let expected = [
            "above  a: # head|# more",
            "above [[u]] 1 y: # one",
            "above [[u]] 2 y: # two",
            "above [t] 1: # above t",
            "at  a: # beside",
            "at  b: # in|# it",
            "at  c: # at c",
            "at [t] 1: # t",
            "end: # last",
        ];
        assert_eq!(told, expected);
    }
}
