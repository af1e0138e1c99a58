//! What people have set: files, the environment and the command line become the values that a run
//! works with.
//!
//! [`Machine::read`] reads what is set on this machine; [`Machine::settings`] is what that comes
//! to for one root, with the root's own file below and the command line above. `keys` has the
//! table of all keys.

mod amount;
mod file;
mod keys;
mod layer;
mod machine;
mod nearest;
mod origin;
mod profiles;
mod rule;
mod value;
mod words;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use amount::{Age, Budget, Bytes, CompressLevel, KeepVersions, Memory, Patience, Quota, Rate};
pub use keys::{Allowed, KEYS, Key, Shown, Values};
pub use layer::Layer;
pub use machine::{Machine, PairSides, ROOT_FILE, SYSTEM_VARIABLE, Sources};
pub(crate) use nearest::did_you_mean;
pub use origin::{Level, Origin, Set, SettingsError};
pub use profiles::{PROFILES, Profile};
pub use rule::{PathRule, RULE_KEYS, RuleKey};
pub(crate) use value::Setting;
pub use value::Words;
pub use words::{LocalPath, MergeKind, PolicyWord, ReplicaName, RunMode, Side};

use std::collections::HashMap;
use std::time::Duration;

use psync_protocol::Bounds;
use psync_protocol::message::Filter;

use crate::journal::{Retention, TrashBudget};
use crate::reconcile::Rulebook;
use crate::report::ConflictKind;
use crate::root::Space;
use crate::store::Rules;
use crate::transport::Compression;

/// What holds for a root: all layers over each other.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    layer: Layer,
    peer: String,
}

/// The settings of a root's store of old contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreConfig {
    /// Whether it is used.
    pub enabled: bool,
    /// How much it may take on disk.
    pub budget: Budget,
    /// Bytes in the largest file of which it takes a copy.
    pub largest_file: u64,
}

impl Default for StoreConfig {
    fn default() -> StoreConfig {
        StoreConfig { enabled: true, budget: Budget::Default, largest_file: Rules::LARGEST_FILE }
    }
}

impl StoreConfig {
    /// What it comes to for a tree with so many bytes in its files.
    pub fn rules(&self, tree_bytes: u64) -> Rules {
        let budget = match self.budget {
            Budget::Default => Rules::for_tree(tree_bytes).budget,
            Budget::Bytes(bytes) => bytes,
            Budget::Percent(percent) => {
                (u128::from(tree_bytes) * u128::from(percent) / 100).try_into().unwrap_or(u64::MAX)
            }
        };
        Rules { budget, largest_file: self.largest_file }
    }
}

impl Settings {
    fn new(layer: Layer, peer: &str) -> Settings {
        Settings { layer, peer: peer.to_string() }
    }

    /// The keys that have one value.
    pub fn values(&self) -> &Values {
        &self.layer.values
    }

    /// The effective value of each of them, for people.
    pub fn shown(&self) -> Vec<Shown> {
        let shown = self.layer.values.shown().into_iter();
        shown.filter(|shown| !shown.key.adds_up).collect()
    }

    /// The filters, with where they come from: the first that matches decides. Profiles come last.
    pub fn filters_shown(&self) -> &[Set<Filter>] {
        &self.layer.filters
    }

    /// The profiles that are switched on, with where.
    pub fn profiles_shown(&self) -> &[Set<&'static Profile>] {
        &self.layer.profiles
    }

    /// Folders that belong together, with where that was said.
    pub fn units_shown(&self) -> &[Set<String>] {
        &self.layer.units
    }

    /// The rules, in order.
    pub fn rules_shown(&self) -> &[PathRule] {
        &self.layer.rules
    }

    /// The filters that a run works with. The first that matches decides; none stands twice.
    pub fn filters(&self) -> Vec<Filter> {
        let own = self.layer.filters.iter().map(|set| set.value.clone());
        let junk = self.layer.profiles.iter().flat_map(|set| set.value.patterns);
        let junk = junk.map(|&pattern| Filter { include: false, pattern: pattern.into() });
        let mut filters: Vec<Filter> = Vec::new();
        for filter in own.chain(junk) {
            if !filters.contains(&filter) {
                filters.push(filter);
            }
        }
        filters
    }

    /// What this replica and the other one are called in policies.
    pub fn names(&self) -> (String, String) {
        let there = self.values().remote_name().map_or(self.peer.clone(), |name| name.0);
        (self.values().name().0, there)
    }

    /// Policies and rules for the planner; nothing is chosen for single conflicts.
    pub fn rulebook(&self) -> Rulebook {
        let set = self.layer.values.policies();
        let policies = set.iter().map(|(kind, set)| (*kind, set.value.policy.clone())).collect();
        // What was said for this run stands over the rules of the files, too.
        let overridden = |kind: ConflictKind, rule: &PathRule| {
            set.iter().any(|(about, set)| {
                *about == kind
                    && set.origin.is_of_this_run()
                    && rule.origin.strength() < set.origin.strength()
            })
        };
        let (mode, set_at) = (self.values().mode().mode(), self.values().mode_strength());
        // What was said of the whole run in a stronger place, as on the command line, is a limit.
        let to_rule = |written: &PathRule| {
            let mut rule = written.to_rule();
            rule.policies.retain(|(kind, _)| !overridden(*kind, written));
            if written.origin.strength() < set_at {
                rule.mode = rule.mode.map(|own| mode.and(own));
            }
            rule
        };
        Rulebook {
            mode,
            choices: HashMap::new(),
            names: self.names(),
            rules: self.layer.rules.iter().map(to_rule).collect(),
            policies,
            units: self.units().into_iter().map(str::to_string).collect(),
        }
    }

    /// Patterns of folders that belong together, besides those that psync knows.
    pub fn units(&self) -> Vec<&str> {
        self.layer.units.iter().map(|set| set.value.as_str()).collect()
    }

    /// How what this end sends is compressed.
    pub fn compression(&self) -> Compression {
        match (self.values().compress(), self.values().compress_level().0) {
            (false, _) => Compression::Off,
            (true, Some(level)) => Compression::Level(level),
            (true, None) => Compression::Fitting,
        }
    }

    /// What goes to the trash, how long it stays there, and how long the journal remembers.
    pub fn retention(&self) -> Retention {
        let values = self.values();
        let rules = self.layer.rules.iter().filter(|rule| rule.is_about_keeping());
        Retention {
            trash: values.trash_enabled(),
            trash_max_size: values.trash_max_size().0,
            trash_retention: values.trash_retention().0.unwrap_or(Duration::MAX),
            trash_budget: match values.trash_budget() {
                Budget::Default => TrashBudget::Usual,
                Budget::Bytes(bytes) => TrashBudget::Bytes(bytes),
                Budget::Percent(percent) => TrashBudget::Percent(percent),
            },
            keep_versions: values.keep_versions().0,
            rules: rules.filter_map(PathRule::to_keeping).collect(),
            journal_retention: values.history_retention().0.unwrap_or(Duration::MAX),
        }
    }

    /// How much of the disk of a root is left alone.
    pub fn space(&self) -> Space {
        let values = self.values();
        Space { keep_free: values.keep_free(), staging: values.staging().0 }
    }

    /// What the other end may make this one hold.
    pub fn bounds(&self) -> Bounds {
        let memory = self.values().memory().bytes().max(Bounds::MEMORY_LEAST);
        Bounds { memory, ..Bounds::default() }
    }

    /// The store of old contents.
    pub fn store(&self) -> StoreConfig {
        StoreConfig {
            enabled: self.values().store_enabled(),
            budget: self.values().store_budget(),
            largest_file: self.values().store_largest_file().0,
        }
    }
}

/// The host of `[user@]host:path`; none of a path on this machine.
pub fn host_of(side: &str) -> Option<String> {
    let host = side.split('/').next().unwrap_or_default().rsplit_once(':')?.0;
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let host = host.trim_matches(['[', ']']);
    (!host.is_empty()).then(|| host.to_string())
}
