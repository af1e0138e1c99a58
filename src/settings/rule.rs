//! `[[rule]]`: what holds for the paths that a pattern matches.

use toml::de::{DeTable, DeValue};

use super::amount::{Bytes, KeepVersions};
use super::keys::{self, check_strict, understand};
use super::layer::check_pattern;
use super::origin::{Origin, SettingsError};
use super::value::{Setting, Written, toml_string};
use super::words::{MergeKind, PolicyWord, conflict_kind};
use crate::journal;
use crate::reconcile::{Mode, Rule};
use crate::report::ConflictKind;

/// A rule, as it was written.
#[derive(Debug, Clone)]
pub struct PathRule {
    /// Where.
    pub origin: Origin,
    /// A pattern as in a gitignore file, from the root.
    pub pattern: String,
    pub(super) mode: Option<Mode>,
    pub(super) max_size: Option<Bytes>,
    pub(super) warn_size: Option<Bytes>,
    pub(super) priority: Option<i32>,
    pub(super) policies: Vec<(ConflictKind, PolicyWord)>,
    pub(super) trash: Option<bool>,
    pub(super) keep_versions: Option<KeepVersions>,
    /// How two changes are merged.
    pub merge: Option<MergeKind>,
}

/// A key of a rule, for people.
#[derive(Debug, Clone, Copy)]
pub struct RuleKey {
    /// Its name.
    pub name: &'static str,
    /// What its value has to be.
    pub expected: &'static str,
    /// What it is for.
    pub about: &'static str,
}

const fn key(name: &'static str, expected: &'static str, about: &'static str) -> RuleKey {
    RuleKey { name, expected, about }
}

/// All keys of a rule.
pub const RULE_KEYS: &[RuleKey] = &[
    key("pattern", String::EXPECTED, "Which paths: a pattern of gitignore, from the root."),
    key("mode", Mode::EXPECTED, "Which way they go; off: what is there stays, on both sides."),
    key("max-size", Bytes::EXPECTED, "Larger files are left alone, on both sides."),
    key("warn-size", Bytes::EXPECTED, "Larger files are named in the report."),
    key("priority", i32::EXPECTED, "Contents of a higher priority go first; 0 is usual."),
    key("policy", PolicyWord::EXPECTED, "For conflicts of every kind; or a table by kind."),
    key("trash", bool::EXPECTED, "Whether what is deleted or replaced goes to the trash."),
    key("keep-versions", KeepVersions::EXPECTED, "How many old versions are kept."),
    key(
        "merge",
        MergeKind::EXPECTED,
        "Merge what both sides changed: as text, or JSON and TOML by key.",
    ),
];

impl PathRule {
    /// Reads a table of a file; `origin_of` gives the place of a byte of the file.
    pub(super) fn read(
        table: &DeTable<'_>,
        start: usize,
        origin_of: &dyn Fn(usize) -> Origin,
    ) -> Result<PathRule, SettingsError> {
        let mut rule = PathRule {
            origin: origin_of(start),
            pattern: String::new(),
            mode: None,
            max_size: None,
            warn_size: None,
            priority: None,
            policies: Vec::new(),
            trash: None,
            keep_versions: None,
            merge: None,
        };
        for (key, value) in table {
            let origin = origin_of(key.span().start);
            rule.set(key.get_ref(), value.get_ref(), &origin, origin_of)?;
        }
        if rule.pattern.is_empty() {
            return Err(SettingsError::at(&rule.origin, "a [[rule]] needs a pattern"));
        }
        if table.len() < 2 {
            let names: Vec<&str> = RULE_KEYS[1..].iter().map(|key| key.name).collect();
            let text = format!("this [[rule]] says nothing; it may have {}", names.join(", "));
            return Err(SettingsError::at(&rule.origin, &text));
        }
        Ok(rule)
    }

    fn set(
        &mut self,
        name: &str,
        value: &DeValue<'_>,
        origin: &Origin,
        origin_of: &dyn Fn(usize) -> Origin,
    ) -> Result<(), SettingsError> {
        let written = Written::Toml(value);
        match name {
            "pattern" => {
                let pattern: String = understand(name, written, origin)?;
                check_pattern(&pattern)
                    .map_err(|text| SettingsError::of_key(origin, name, &text))?;
                self.pattern = pattern;
            }
            "mode" => self.mode = Some(understand(name, written, origin)?),
            "max-size" => self.max_size = Some(understand(name, written, origin)?),
            "warn-size" => self.warn_size = Some(understand(name, written, origin)?),
            "priority" => self.priority = Some(understand(name, written, origin)?),
            "policy" => self.policies = policies(value, origin, origin_of)?,
            "trash" => {
                let trash = understand(name, written, origin)?;
                check_strict(name, &trash, &true, origin)?;
                self.trash = Some(trash);
            }
            "keep-versions" => {
                let kept = understand(name, written, origin)?;
                check_strict(name, &kept, &KeepVersions(None), origin)?;
                self.keep_versions = Some(kept);
            }
            "merge" => self.merge = Some(understand(name, written, origin)?),
            _ => {
                let known: Vec<&'static str> = RULE_KEYS.iter().map(|key| key.name).collect();
                let text = format!("in a [[rule]] {}", keys::unknown(name, &known));
                return Err(SettingsError::at(origin, &text));
            }
        }
        Ok(())
    }

    /// What the planner asks.
    pub(super) fn to_rule(&self) -> Rule {
        Rule {
            pattern: self.pattern.clone(),
            origin: self.origin.to_string(),
            mode: self.mode,
            max_size: self.max_size.map(|size| size.0),
            warn_size: self.warn_size.map(|size| size.0),
            priority: self.priority,
            policies: self
                .policies
                .iter()
                .map(|(kind, word)| (*kind, word.policy.clone()))
                .collect(),
            trash: self.trash,
            keep_versions: self.versions_kept(),
            merge_by_key: self.merge.map(|kind| kind == MergeKind::Structured),
        }
    }

    /// Whether it says something about the trash or old versions.
    pub(super) fn is_about_keeping(&self) -> bool {
        self.trash.is_some() || self.keep_versions.is_some()
    }

    /// What decides about the trash and old versions. The pattern has been found to be one.
    pub(super) fn to_keeping(&self) -> Option<journal::PathRule> {
        journal::PathRule::new(&self.pattern, self.trash, self.versions_kept()).ok()
    }

    /// How many old versions it lets stay; of all of them there are never as many as that.
    fn versions_kept(&self) -> Option<u32> {
        self.keep_versions.map(|kept| kept.0.unwrap_or(u32::MAX))
    }

    /// Its keys and values as a file would say them, in the order of [`RULE_KEYS`]. Policies that are
    /// not the same for all kinds have a key each.
    pub fn shown(&self) -> Vec<(String, String)> {
        fn written<T: Setting>(value: &Option<T>) -> Option<String> {
            value.as_ref().and_then(Setting::written)
        }
        let before = [
            ("pattern", Some(toml_string(&self.pattern))),
            ("mode", written(&self.mode)),
            ("max-size", written(&self.max_size)),
            ("warn-size", written(&self.warn_size)),
            ("priority", written(&self.priority)),
        ];
        let after = [
            ("trash", written(&self.trash)),
            ("keep-versions", written(&self.keep_versions)),
            ("merge", written(&self.merge)),
        ];
        let named = |(name, value): (&str, Option<String>)| Some((name.to_string(), value?));
        let before = before.into_iter().filter_map(named);
        before.chain(self.policies_shown()).chain(after.into_iter().filter_map(named)).collect()
    }

    fn policies_shown(&self) -> Vec<(String, String)> {
        let all = self.policies.iter();
        let all: Vec<(String, String)> = all
            .filter_map(|(kind, word)| Some((format!("policy.{}", kind.name()), word.written()?)))
            .collect();
        match all.first() {
            Some((_, first))
                if all.len() == ConflictKind::ALL.len()
                    && all.iter().all(|(_, word)| word == first) =>
            {
                vec![("policy".to_string(), first.clone())]
            }
            _ => all,
        }
    }
}

/// One policy for all kinds, or a table of policies by kind.
fn policies(
    value: &DeValue<'_>,
    origin: &Origin,
    origin_of: &dyn Fn(usize) -> Origin,
) -> Result<Vec<(ConflictKind, PolicyWord)>, SettingsError> {
    let DeValue::Table(table) = value else {
        let word: PolicyWord = understand("policy", Written::Toml(value), origin)?;
        return Ok(ConflictKind::ALL.into_iter().map(|kind| (kind, word.clone())).collect());
    };
    let mut policies = Vec::new();
    for (key, value) in table {
        let origin = origin_of(key.span().start);
        let name: &str = key.get_ref();
        let Some(kind) = conflict_kind(name) else {
            let known = ConflictKind::ALL.map(|kind| kind.name());
            return Err(SettingsError::of_key(&origin, "policy", &keys::unknown(name, &known)));
        };
        policies.push((kind, understand(name, Written::Toml(value.get_ref()), &origin)?));
    }
    Ok(policies)
}
