//! JSON as a merge by key needs it: values with the places where they are written.
//!
//! Source: RFC 8259. A key that stands twice in one object is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::structured::Value;

/// Objects and arrays in one another at most.
const DEPTH_MAX: usize = 128;

/// A value, and where it is written.
struct Node {
    span: Range<usize>,
    /// Of an object only.
    members: Option<Vec<Member>>,
}

struct Member {
    key: String,
    /// Where the key begins.
    start: usize,
    node: Node,
}

/// What a JSON text means; none if it is not one.
pub(super) fn value(text: &str) -> Option<Value> {
    Some(meaning(text, &parse(text)?))
}

/// The first text with what is wanted: whatever differs from it is taken from the second text.
pub(super) fn rewrite(ours: &str, theirs: &str, wanted: &Value) -> Option<String> {
    let (our_node, their_node) = (parse(ours)?, parse(theirs)?);
    let body = written((ours, &our_node), (theirs, &their_node), wanted);
    Some([&ours[..our_node.span.start], &body, &ours[our_node.span.end..]].concat())
}

fn written(ours: (&str, &Node), theirs: (&str, &Node), wanted: &Value) -> String {
    let (text, node) = ours;
    let (Some(members), Some(others), Value::Table(wanted_members)) =
        (&node.members, &theirs.1.members, wanted)
    else {
        let source = if meaning(text, node) == *wanted { ours } else { theirs };
        return source.0[source.1.span.clone()].to_string();
    };
    let (Some(first), Some(last)) = (members.first(), members.last()) else {
        return theirs.0[theirs.1.span.clone()].to_string();
    };
    let opening = &text[node.span.start..first.start];
    let closing = &text[last.node.span.end..node.span.end];
    let between = match members.get(1) {
        Some(second) => text[first.node.span.end..second.start].to_string(),
        None if opening.len() > 1 => format!(",{}", &opening[1..]),
        None => ", ".to_string(),
    };
    let by_key: BTreeMap<&str, &Member> =
        others.iter().map(|other| (other.key.as_str(), other)).collect();
    let known: BTreeSet<&str> = members.iter().map(|member| member.key.as_str()).collect();
    let mut parts = Vec::new();
    for member in members {
        let Some(wanted) = wanted_members.get(&member.key) else { continue };
        let key = &text[member.start..member.node.span.start];
        let body = match by_key.get(member.key.as_str()) {
            Some(other) => written((text, &member.node), (theirs.0, &other.node), wanted),
            None => text[member.node.span.clone()].to_string(),
        };
        parts.push(format!("{key}{body}"));
    }
    for other in others.iter().filter(|other| wanted_members.contains_key(&other.key)) {
        if !known.contains(other.key.as_str()) {
            parts.push(theirs.0[other.start..other.node.span.end].to_string());
        }
    }
    if parts.is_empty() {
        return "{}".to_string();
    }
    format!("{opening}{}{closing}", parts.join(&between))
}

fn meaning(text: &str, node: &Node) -> Value {
    match &node.members {
        Some(members) => {
            let each = members.iter().map(|one| (one.key.clone(), meaning(text, &one.node)));
            Value::Table(each.collect::<BTreeMap<_, _>>())
        }
        None => Value::Leaf(without_space(&text[node.span.clone()])),
    }
}

/// An array, a string, a number or a word without the space between its parts.
fn without_space(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let (mut in_string, mut escaped) = (false, false);
    for c in text.chars() {
        if in_string {
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if is_space(c as u32) {
            continue;
        } else {
            in_string = c == '"';
        }
        kept.push(c);
    }
    kept
}

fn is_space(c: u32) -> bool {
    matches!(c, 0x20 | 0x09 | 0x0a | 0x0d)
}

fn parse(text: &str) -> Option<Node> {
    let mut parser = Parser { text, bytes: text.as_bytes(), at: 0, depth: 0 };
    parser.space();
    let node = parser.value()?;
    parser.space();
    (parser.at == text.len()).then_some(node)
}

struct Parser<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn space(&mut self) {
        while self.bytes.get(self.at).is_some_and(|&byte| is_space(byte.into())) {
            self.at += 1;
        }
    }

    /// Steps over this byte, if it comes now.
    fn takes(&mut self, byte: u8) -> bool {
        let comes = self.bytes.get(self.at) == Some(&byte);
        self.at += usize::from(comes);
        comes
    }

    fn value(&mut self) -> Option<Node> {
        let start = self.at;
        let members = match self.bytes.get(self.at)? {
            b'{' => Some(self.nested(Self::object)?),
            b'[' => {
                self.nested(Self::array)?;
                None
            }
            b'"' => {
                self.string()?;
                None
            }
            _ => {
                self.plain()?;
                None
            }
        };
        Some(Node { span: start..self.at, members })
    }

    fn nested<T>(&mut self, parse: fn(&mut Self) -> Option<T>) -> Option<T> {
        self.at += 1;
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return None;
        }
        self.space();
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn object(&mut self) -> Option<Vec<Member>> {
        let mut members: Vec<Member> = Vec::new();
        let mut keys = BTreeSet::new();
        if self.takes(b'}') {
            return Some(members);
        }
        loop {
            let start = self.at;
            let key = self.string()?;
            self.space();
            if !self.takes(b':') || !keys.insert(key.clone()) {
                return None;
            }
            self.space();
            let node = self.value()?;
            members.push(Member { key, start, node });
            self.space();
            if self.takes(b'}') {
                return Some(members);
            }
            if !self.takes(b',') {
                return None;
            }
            self.space();
        }
    }

    fn array(&mut self) -> Option<()> {
        if self.takes(b']') {
            return Some(());
        }
        loop {
            self.value()?;
            self.space();
            if self.takes(b']') {
                return Some(());
            }
            if !self.takes(b',') {
                return None;
            }
            self.space();
        }
    }

    /// A string; serde_json knows what it says.
    fn string(&mut self) -> Option<String> {
        let start = self.at;
        if !self.takes(b'"') {
            return None;
        }
        while !self.takes(b'"') {
            self.at += if *self.bytes.get(self.at)? == b'\\' { 2 } else { 1 };
        }
        serde_json::from_str(self.text.get(start..self.at)?).ok()
    }

    /// A number, or one of the three words.
    fn plain(&mut self) -> Option<()> {
        let start = self.at;
        let belongs = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
        while self.bytes.get(self.at).is_some_and(belongs) {
            self.at += 1;
        }
        let text = self.text.get(start..self.at)?;
        serde_json::from_str::<serde_json::Value>(text).ok().map(|_| ())
    }
}
