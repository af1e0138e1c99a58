//! What a person has laid down about conflicts and paths: policies, and one ordered list of rules
//! with a pattern each. Values only; `decide` asks it.

use std::collections::HashMap;

use psync_protocol::{RelPath, Version};

use crate::report::ConflictKind;

/// What is done about a conflict.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Policy {
    /// The newer keeps the name, the older becomes a clash file; both reach both sides. The default.
    #[default]
    KeepBoth,
    /// The newer is taken, the older goes to the trash.
    Newest,
    /// The older is taken.
    Oldest,
    /// The larger is taken.
    Largest,
    /// Nothing is touched; the conflict waits for a person.
    Hold,
    /// What the end has where the run is planned.
    Local,
    /// What the other end has.
    Remote,
    /// What the replica of this name has; where it takes no part, both are kept.
    Replica(String),
    /// Three-way text merge from the stored ancestor; where it does not merge cleanly, both are
    /// kept.
    Merge,
}

impl Policy {
    /// As it is written in settings and reports.
    pub fn name(&self) -> &str {
        match self {
            Policy::KeepBoth => "keep-both",
            Policy::Newest => "newest",
            Policy::Oldest => "oldest",
            Policy::Largest => "largest",
            Policy::Hold => "hold",
            Policy::Local => "local",
            Policy::Remote => "remote",
            Policy::Replica(name) => name,
            Policy::Merge => "merge",
        }
    }
}

/// Which way a path may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Both ways.
    #[default]
    TwoWay,
    /// From here to there only.
    Push,
    /// From there to here only.
    Pull,
    /// Not at all: what is there stays, on both sides.
    Off,
}

impl Mode {
    /// Only what both allow.
    pub fn and(self, other: Mode) -> Mode {
        match (self, other) {
            (Mode::TwoWay, mode) | (mode, Mode::TwoWay) => mode,
            (one, same) if one == same => one,
            _ => Mode::Off,
        }
    }
}

/// One rule: what holds for the paths that a pattern matches. What it does not set is set by a
/// later rule that matches, or is as usual.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    /// A pattern as in a gitignore file, from the root.
    pub pattern: String,
    /// Where it was written, for `psync why`: as in `psync.toml, line 12`.
    pub origin: String,
    /// Which way.
    pub mode: Option<Mode>,
    /// Larger files are left alone, in bytes.
    pub max_size: Option<u64>,
    /// Larger files are told of, in bytes.
    pub warn_size: Option<u64>,
    /// Contents of a higher priority go first; 0 is usual.
    pub priority: Option<i32>,
    /// Policies by kind of conflict.
    pub policies: Vec<(ConflictKind, Policy)>,
    /// Whether what is deleted or replaced goes to the trash.
    pub trash: Option<bool>,
    /// How many old versions are kept.
    pub keep_versions: Option<u32>,
    /// Whether two changes are merged by key, as in JSON and TOML, and not line by line.
    pub merge_by_key: Option<bool>,
}

impl Rule {
    /// The policy that it has for conflicts of every kind, if it has the same for all.
    pub fn policy_for_all(&self) -> Option<&Policy> {
        let (_, first) = self.policies.first()?;
        let is_for_all = self.policies.len() == ConflictKind::ALL.len()
            && self.policies.iter().all(|(_, policy)| policy == first);
        is_for_all.then_some(first)
    }
}

/// What a person chose for one conflict. It stands for as long as both sides have what was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What shall be done.
    pub policy: Policy,
    /// The versions of both contents then: of the planning end, and of the other.
    pub seen: (Version, Version),
}

/// All that a person has laid down for a pair.
#[derive(Debug, Clone, Default)]
pub struct Rulebook {
    /// Which way paths go where no rule says anything.
    pub mode: Mode,
    /// What was chosen for single conflicts, by path; it goes before every policy.
    pub choices: HashMap<RelPath, Choice>,
    /// The names of the replicas: of the end where the run is planned, and of the other.
    pub names: (String, String),
    /// In order; the first that matches and sets a thing decides it.
    pub rules: Vec<Rule>,
    /// Policies where no rule says anything.
    pub policies: Vec<(ConflictKind, Policy)>,
    /// Folders that are settled and published as a whole, as patterns.
    pub units: Vec<String>,
}
