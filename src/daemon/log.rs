//! What a daemon says of itself: events of [`tracing`], each with what is known of the session in
//! which it happens, as lines of text or of JSON on standard error. Names that peers have chosen are
//! escaped.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use psync_protocol::path::printable;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// How a log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// `time LEVEL event key=value ...`
    Text,
    /// One object a line.
    Json,
}

impl Manner {
    /// What a person calls it.
    pub fn named(name: &str) -> Option<Manner> {
        match name {
            "text" => Some(Manner::Text),
            "json" => Some(Manner::Json),
            _ => None,
        }
    }
}

/// How much is logged: what is as grave as this, or graver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detail(Level);

impl Detail {
    /// The words for it, from the least to the most.
    pub const WORDS: [&str; 4] = ["error", "warn", "info", "debug"];

    /// What a person calls it.
    pub fn named(name: &str) -> Option<Detail> {
        let levels = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG];
        Detail::WORDS.iter().zip(levels).find(|(word, _)| **word == name).map(|(_, at)| Detail(at))
    }
}

impl Default for Detail {
    fn default() -> Detail {
        Detail(Level::INFO)
    }
}

/// Writes everything from now on to standard error. To be called once.
pub fn start(manner: Manner, detail: Detail) {
    // Whoever has set another one before wants to hear it there.
    let _ = tracing::subscriber::set_global_default(Log::new(manner, detail));
}

/// What is known of an event or a session, in order.
type Facts = Vec<(&'static str, Value)>;

/// A subscriber that writes lines.
#[derive(Debug)]
struct Log {
    manner: Manner,
    detail: Detail,
    next: AtomicU64,
    spans: Mutex<HashMap<u64, Span>>,
}

#[derive(Debug)]
struct Span {
    above: Option<u64>,
    facts: Facts,
    holders: usize,
}

thread_local! {
    /// The spans that this thread is in, the innermost last.
    static INSIDE: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

fn innermost() -> Option<u64> {
    INSIDE.with_borrow(|inside| inside.last().copied())
}

impl Log {
    fn new(manner: Manner, detail: Detail) -> Log {
        Log { manner, detail, next: AtomicU64::new(1), spans: Mutex::default() }
    }

    fn spans(&self) -> MutexGuard<'_, HashMap<u64, Span>> {
        // A thread that panicked left nothing half done here.
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a span and those around it, the outermost first.
    fn around(&self, mut span: Option<u64>) -> Facts {
        let spans = self.spans();
        let mut parts = Vec::new();
        while let Some(found) = span.and_then(|id| spans.get(&id)) {
            parts.push(found.facts.clone());
            span = found.above;
        }
        parts.into_iter().rev().flatten().collect()
    }

    fn line(&self, event: &Event<'_>, now: &str) -> String {
        let mut told = Told::default();
        event.record(&mut told);
        let span = match event.is_contextual() {
            true => innermost(),
            false => event.parent().map(Id::into_u64),
        };
        let mut facts = self.around(span);
        facts.append(&mut told.facts);
        line(self.manner, now, *event.metadata().level(), &told.message, &facts)
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.detail.0
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let above = match attributes.is_contextual() {
            true => innermost(),
            false => attributes.parent().map(Id::into_u64),
        };
        let mut told = Told::default();
        attributes.record(&mut told);
        self.spans().insert(id, Span { above, facts: told.facts, holders: 1 });
        Id::from_u64(id)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        let mut told = Told::default();
        values.record(&mut told);
        if let Some(span) = self.spans().get_mut(&span.into_u64()) {
            span.facts.append(&mut told.facts);
        }
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        // Who took the log away does not want to hear more.
        let _ = std::io::stderr().lock().write_all(self.line(event, &now).as_bytes());
    }

    fn enter(&self, span: &Id) {
        INSIDE.with_borrow_mut(|inside| inside.push(span.into_u64()));
    }

    fn exit(&self, span: &Id) {
        INSIDE.with_borrow_mut(|inside| {
            let at = inside.iter().rposition(|id| *id == span.into_u64());
            at.map(|at| inside.remove(at));
        });
    }

    fn clone_span(&self, id: &Id) -> Id {
        if let Some(span) = self.spans().get_mut(&id.into_u64()) {
            span.holders += 1;
        }
        id.clone()
    }

    fn try_close(&self, id: Id) -> bool {
        let mut spans = self.spans();
        let Some(span) = spans.get_mut(&id.into_u64()) else { return false };
        span.holders -= 1;
        let is_over = span.holders == 0;
        if is_over {
            spans.remove(&id.into_u64());
        }
        is_over
    }
}

/// The fields of an event or a span, as they come.
#[derive(Default)]
struct Told {
    message: String,
    facts: Facts,
}

impl Told {
    fn note(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) => self.facts.push((name, value)),
        }
    }
}

impl Visit for Told {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.note(field, printable(format!("{value:?}").as_bytes()).into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.note(field, printable(value.as_bytes()).into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.note(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.note(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.note(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.note(field, value.into());
    }
}

/// One line. Empty texts are left out.
fn line(manner: Manner, now: &str, level: Level, event: &str, facts: &Facts) -> String {
    let facts = facts.iter().filter(|(_, value)| value.as_str() != Some(""));
    match manner {
        Manner::Text => {
            let mut line = format!("{now} {level} {event}");
            for (name, value) in facts {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
                let quote = if text.contains([' ', '"', '=']) { "\"" } else { "" };
                let text = text.replace('"', "'");
                // Writing to a string does not fail.
                let _ = write!(line, " {name}={quote}{text}{quote}");
            }
            line + "\n"
        }
        Manner::Json => {
            let mut object = Map::new();
            object.insert("time".into(), now.into());
            object.insert("level".into(), level.as_str().to_ascii_lowercase().into());
            object.insert("event".into(), event.into());
            for (name, value) in facts {
                object.insert((*name).into(), value.clone());
            }
            format!("{}\n", Value::Object(object))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Keeps lines instead of writing them.
    #[derive(Debug)]
    struct Kept(Log, Arc<Mutex<Vec<String>>>);

    impl Subscriber for Kept {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            self.0.enabled(metadata)
        }
        fn new_span(&self, attributes: &Attributes<'_>) -> Id {
            self.0.new_span(attributes)
        }
        fn record(&self, span: &Id, values: &Record<'_>) {
            self.0.record(span, values);
        }
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, event: &Event<'_>) {
            self.1.lock().unwrap().push(self.0.line(event, "now"));
        }
        fn enter(&self, span: &Id) {
            self.0.enter(span);
        }
        fn exit(&self, span: &Id) {
            self.0.exit(span);
        }
        fn clone_span(&self, id: &Id) -> Id {
            self.0.clone_span(id)
        }
        fn try_close(&self, id: Id) -> bool {
            self.0.try_close(id)
        }
    }

    fn kept(manner: Manner, work: impl FnOnce()) -> Vec<String> {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = Kept(Log::new(manner, Detail::default()), lines.clone());
        tracing::subscriber::with_default(kept, work);
        lines.lock().unwrap().clone()
    }

    fn say_something() {
        let span = tracing::info_span!("session", session = 7_u64, peer = tracing::field::Empty);
        span.in_scope(|| {
            span.record("peer", "a\nb c\u{1b}[2J");
            tracing::warn!(why = "", "refused");
            tracing::debug!("nobody wants to know");
        });
        tracing::info!(address = %"[::1]:1", "listening");
    }

    #[test]
    fn an_event_has_what_is_known_of_its_session_on_one_line_whatever_a_peer_calls_itself() {
        let lines = kept(Manner::Text, say_something);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("now WARN refused session=7 peer=\""), "{}", lines[0]);
        assert!(!lines[0].contains('\u{1b}') && lines[0].matches('\n').count() == 1);
        assert_eq!(lines[1], "now INFO listening address=[::1]:1\n");
        let lines = kept(Manner::Json, say_something);
        let value: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!((&value["event"], &value["level"]), (&"refused".into(), &"warn".into()));
        assert_eq!(value["session"], 7);
        assert!(value.get("why").is_none());
    }

    #[test]
    fn what_a_session_was_is_forgotten_when_it_is_over() {
        let log = Arc::new(Log::new(Manner::Text, Detail::default()));
        tracing::subscriber::with_default(log.clone(), || {
            let span = tracing::info_span!("session");
            let other = span.clone();
            drop(span);
            assert_eq!(log.spans().len(), 1);
            drop(other);
            assert!(log.spans().is_empty());
        });
    }
}
