//! Settings that are one word of several: modes, policies, ways to merge.

use psync_protocol::message::Flow;

use super::value::{Setting, toml_string};
use crate::reconcile::{Mode, Policy};
use crate::report::ConflictKind;

/// The word of a value in a table of words; of several, the first.
fn word_of<T: PartialEq>(value: &T, table: &[(&'static str, T)]) -> Option<String> {
    table.iter().find(|(_, known)| known == value).map(|(word, _)| toml_string(word))
}

fn find<T: Clone>(word: &str, table: &[(&'static str, T)]) -> Option<T> {
    table.iter().find(|(known, _)| *known == word).map(|(_, value)| value.clone())
}

macro_rules! words {
    ($type:ty, $expected:literal, [$($word:literal = $value:expr),* $(,)?]) => {
        impl Setting for $type {
            const EXPECTED: &'static str = $expected;

            fn words() -> Vec<&'static str> {
                vec![$($word),*]
            }

            fn from_text(text: &str) -> Option<$type> {
                find(text, &[$(($word, $value)),*])
            }

            fn written(&self) -> Option<String> {
                word_of(self, &[$(($word, $value)),*])
            }
        }
    };
}

/// Which way a whole run goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RunMode {
    /// Both ways.
    #[default]
    TwoWay,
    /// This side's changes go to the other; the other's own changes are left.
    Push,
    /// The other side's changes come to this one; this side's own changes are left.
    Pull,
    /// The other side becomes exactly what this one is.
    MirrorPush,
    /// This side becomes exactly what the other one is.
    MirrorPull,
}

impl RunMode {
    /// What the two ends agree on for the whole run.
    pub fn flow(self) -> Flow {
        match self {
            RunMode::TwoWay | RunMode::Push | RunMode::Pull => Flow::TwoWay,
            RunMode::MirrorPush => Flow::ToResponder,
            RunMode::MirrorPull => Flow::ToInitiator,
        }
    }

    /// What paths do for which no rule says anything.
    pub fn mode(self) -> Mode {
        match self {
            RunMode::TwoWay | RunMode::MirrorPush | RunMode::MirrorPull => Mode::TwoWay,
            RunMode::Push => Mode::Push,
            RunMode::Pull => Mode::Pull,
        }
    }

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            RunMode::TwoWay => "two-way",
            RunMode::Push => "push",
            RunMode::Pull => "pull",
            RunMode::MirrorPush => "mirror-push",
            RunMode::MirrorPull => "mirror-pull",
        }
    }
}

words!(
    RunMode,
    "two-way, push, pull, mirror-push or mirror-pull",
    [
        "two-way" = RunMode::TwoWay,
        "push" = RunMode::Push,
        "pull" = RunMode::Pull,
        "mirror-push" = RunMode::MirrorPush,
        "mirror-pull" = RunMode::MirrorPull,
    ]
);

words!(
    Mode,
    "two-way, push, pull or off",
    ["two-way" = Mode::TwoWay, "push" = Mode::Push, "pull" = Mode::Pull, "off" = Mode::Off,]
);

/// How two changes of one file are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergeKind {
    /// Line by line.
    Text,
    /// By key: JSON and TOML.
    Structured,
}

words!(
    MergeKind,
    "text or structured",
    ["text" = MergeKind::Text, "structured" = MergeKind::Structured,]
);

/// Replicas are named by letters, digits and what stands in host names.
fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    !text.is_empty() && text.len() <= 64 && text.chars().all(fits)
}

/// The name of a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaName(pub String);

impl ReplicaName {
    /// The name of this machine, as far as its letters may stand in a name.
    pub(super) fn of_this_host() -> ReplicaName {
        let system = rustix::system::uname();
        let name = String::from_utf8_lossy(system.nodename().to_bytes()).into_owned();
        ReplicaName(if is_name(&name) { name } else { "this".into() })
    }
}

impl Setting for ReplicaName {
    const EXPECTED: &'static str =
        "the name of a replica (letters, digits, '.', '-' and '_', at most 64 bytes)";

    fn from_text(text: &str) -> Option<ReplicaName> {
        is_name(text).then(|| ReplicaName(text.into()))
    }

    fn written(&self) -> Option<String> {
        Some(toml_string(&self.0))
    }
}

/// What is done about a conflict, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyWord {
    /// What is meant.
    pub policy: Policy,
    /// Whether it is a bare name that has to be that of a known replica: otherwise it is a word
    /// misspelt.
    pub(super) must_be_known: bool,
}

impl Default for PolicyWord {
    fn default() -> PolicyWord {
        PolicyWord { policy: Policy::KeepBoth, must_be_known: false }
    }
}

const EXPLICIT: &str = "replica:";

fn policies() -> [(&'static str, Policy); 11] {
    [
        ("keep-both", Policy::KeepBoth),
        ("option1", Policy::KeepBoth),
        ("newest", Policy::Newest),
        ("option2", Policy::Newest),
        ("hold", Policy::Hold),
        ("option3", Policy::Hold),
        ("oldest", Policy::Oldest),
        ("largest", Policy::Largest),
        ("local", Policy::Local),
        ("remote", Policy::Remote),
        ("merge", Policy::Merge),
    ]
}

impl Setting for PolicyWord {
    const EXPECTED: &'static str =
        "keep-both, newest, hold, oldest, largest, local, remote, merge or the name of a replica";

    fn words() -> Vec<&'static str> {
        policies().map(|(word, _)| word).to_vec()
    }

    fn from_text(text: &str) -> Option<PolicyWord> {
        if let Some(policy) = find(text, &policies()) {
            return Some(PolicyWord { policy, must_be_known: false });
        }
        let explicit = text.strip_prefix(EXPLICIT);
        let name = explicit.unwrap_or(text);
        let replica = is_name(name).then(|| Policy::Replica(name.into()));
        replica.map(|policy| PolicyWord { policy, must_be_known: explicit.is_none() })
    }

    fn written(&self) -> Option<String> {
        match &self.policy {
            Policy::Replica(name) if self.must_be_known => Some(toml_string(name)),
            Policy::Replica(name) => Some(toml_string(&format!("{EXPLICIT}{name}"))),
            policy => word_of(policy, &policies()),
        }
    }
}

/// A side of a named pair: an absolute path, one that begins with `~`, or `[user@]host:path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side(pub String);

impl Setting for Side {
    const EXPECTED: &'static str = "an absolute path, one that begins with ~/, or host:path";

    fn from_text(text: &str) -> Option<Side> {
        let place = text.split('/').next().unwrap_or_default().contains(':');
        (place || LocalPath::from_text(text).is_some()).then(|| Side(text.into()))
    }

    fn written(&self) -> Option<String> {
        Some(toml_string(&self.0))
    }
}

/// A path on this machine: absolute, or one that begins with `~`. What is relative would depend on
/// where psync happens to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalPath(pub String);

impl Setting for LocalPath {
    const EXPECTED: &'static str = "an absolute path, or one that begins with ~/";

    fn from_text(text: &str) -> Option<LocalPath> {
        let anchored = text.starts_with('/') || text == "~" || text.starts_with("~/");
        (anchored && !text.contains(['\0', '\n'])).then(|| LocalPath(text.into()))
    }

    fn written(&self) -> Option<String> {
        Some(toml_string(&self.0))
    }
}

/// The kind of conflict of this name.
pub(super) fn conflict_kind(name: &str) -> Option<ConflictKind> {
    ConflictKind::ALL.into_iter().find(|kind| kind.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Option<Policy> {
        PolicyWord::from_text(text).map(|word| word.policy)
    }

    #[test]
    fn policies_may_be_spelt_in_two_ways() {
        for (one, other) in [("keep-both", "option1"), ("newest", "option2"), ("hold", "option3")] {
            assert_eq!(policy(one), policy(other));
            assert!(policy(one).is_some());
        }
        assert_eq!(policy("laptop"), Some(Policy::Replica("laptop".into())));
        assert_eq!(policy("replica:newest"), Some(Policy::Replica("newest".into())));
        assert_eq!(policy("no name"), None);
        assert_eq!(policy(""), None);
    }

    #[test]
    fn every_word_is_shown_as_it_is_written() {
        for word in PolicyWord::words() {
            let policy = PolicyWord::from_text(word).unwrap();
            let shown = policy.written().unwrap();
            assert_eq!(PolicyWord::from_text(shown.trim_matches('"')), Some(policy));
        }
        for word in RunMode::words() {
            let mode = RunMode::from_text(word).unwrap();
            assert_eq!(mode.name(), word);
            assert_eq!(mode.written(), Some(format!("\"{word}\"")));
        }
    }

    #[test]
    fn a_side_does_not_depend_on_where_one_stands() {
        for text in ["/a", "~", "~/a", "host:a", "ana@host:/a"] {
            assert_eq!(Side::from_text(text), Some(Side(text.into())));
        }
        for text in ["a", "./a", "../a:b", "~ana/a", ""] {
            assert_eq!(Side::from_text(text), None, "{text}");
        }
    }
}
