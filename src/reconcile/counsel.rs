//! A rulebook that can be asked: which rules match a path, and what they come to.
//!
//! Patterns are read as in a gitignore file that lies in the root. One without a slash matches at
//! any depth; a leading or inner slash ties it to the root; `**` stands for any number of
//! directories; a trailing slash means directories only. A rule for a directory holds for all that
//! is in it.

use std::collections::HashMap;

use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};
use psync_protocol::{RelPath, Version};
use thiserror::Error;

use super::rulebook::{Choice, Mode, Policy, Rule, Rulebook};
use super::units::Units;
use crate::report::{ConflictKind, DEFAULT_RULE};

/// A rule whose pattern is none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{origin}: '{pattern}' is not a pattern: {reason}")]
pub struct BadRule {
    /// Where it was written.
    pub origin: String,
    /// As it was written.
    pub pattern: String,
    /// What is wrong.
    pub reason: String,
}

/// A rulebook whose patterns have been understood.
#[derive(Debug, Clone, Default)]
pub struct Counsel {
    book: Rulebook,
    globs: GlobSet,
    /// For each glob the number of its rule, and whether it takes directories only.
    meaning: Vec<(usize, bool)>,
    units: Units,
}

/// What is said about a conflict, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spoken {
    /// What shall be done.
    pub policy: Policy,
    /// Which rule, policy or choice says so.
    pub rule: String,
    /// Whether a person has said so; otherwise it is the default.
    pub asked: bool,
}

impl Counsel {
    /// Understands all patterns, or says which one cannot be understood.
    pub fn new(book: Rulebook) -> Result<Counsel, BadRule> {
        let mut globs = GlobSetBuilder::new();
        let mut meaning = Vec::new();
        for (number, rule) in book.rules.iter().enumerate() {
            let bad = |reason: String| BadRule {
                origin: rule.origin.clone(),
                pattern: rule.pattern.clone(),
                reason,
            };
            let Shape { core, directories_only } =
                shape(&rule.pattern).map_err(|reason| bad(reason.to_string()))?;
            let below = (format!("{core}/**"), false);
            for (text, directories_only) in [(core, directories_only), below] {
                let mut builder = GlobBuilder::new(&text);
                let built = builder.literal_separator(true).backslash_escape(true).build();
                globs.add(built.map_err(|error| bad(error.kind().to_string()))?);
                meaning.push((number, directories_only));
            }
        }
        let globs = globs.build().map_err(|error| BadRule {
            origin: "the rules".into(),
            pattern: error.glob().unwrap_or_default().into(),
            reason: error.kind().to_string(),
        })?;
        let units = Units::new(&book.units)?;
        Ok(Counsel { book, globs, meaning, units })
    }

    /// Adds what a person has chosen for single conflicts.
    pub fn choose(&mut self, choices: HashMap<RelPath, Choice>) {
        self.book.choices.extend(choices);
    }

    /// The rules that match a path, in their order.
    pub fn matching(&self, path: &RelPath, is_directory: bool) -> Vec<&Rule> {
        if self.meaning.is_empty() {
            return Vec::new();
        }
        let candidate = Candidate::from_bytes(path.as_bytes());
        let mut numbers: Vec<usize> = self
            .globs
            .matches_candidate(&candidate)
            .into_iter()
            .map(|glob| self.meaning[glob])
            .filter(|&(_, directories_only)| is_directory || !directories_only)
            .map(|(number, _)| number)
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.into_iter().map(|number| &self.book.rules[number]).collect()
    }

    /// What the first rule that matches a path and sets a thing says about it, with that rule.
    pub fn first<T>(
        &self,
        path: &RelPath,
        is_directory: bool,
        thing: impl Fn(&Rule) -> Option<T>,
    ) -> Option<(T, &Rule)> {
        // Most rulebooks have nothing to say about most things.
        if self.book.rules.iter().all(|rule| thing(rule).is_none()) {
            return None;
        }
        let rules = self.matching(path, is_directory);
        rules.into_iter().find_map(|rule| thing(rule).map(|said| (said, rule)))
    }

    /// Which way a path may go.
    pub fn mode(&self, path: &RelPath, is_directory: bool) -> Mode {
        self.first(path, is_directory, |rule| rule.mode).map_or(self.book.mode, |(mode, _)| mode)
    }

    /// Above how many bytes a file is left alone.
    pub fn max_size(&self, path: &RelPath) -> Option<u64> {
        self.first(path, false, |rule| rule.max_size).map(|(bytes, _)| bytes)
    }

    /// Above how many bytes a file is told of.
    pub fn warn_size(&self, path: &RelPath) -> Option<u64> {
        self.first(path, false, |rule| rule.warn_size).map(|(bytes, _)| bytes)
    }

    /// Contents of a higher priority go first.
    pub fn priority(&self, path: &RelPath) -> i32 {
        self.first(path, false, |rule| rule.priority).map_or(0, |(priority, _)| priority)
    }

    /// What shall be done about a conflict between contents of these versions.
    pub fn policy(
        &self,
        path: &RelPath,
        is_directory: bool,
        kind: ConflictKind,
        seen: (&Version, &Version),
    ) -> Spoken {
        let asked = |policy: &Policy, by: String| Spoken {
            rule: format!("{}, {by}", policy.name()),
            policy: policy.clone(),
            asked: true,
        };
        let stands = |(ours, theirs): &(Version, Version)| ours == seen.0 && theirs == seen.1;
        if let Some(choice) = self.book.choices.get(path).filter(|choice| stands(&choice.seen)) {
            return asked(&choice.policy, "as chosen for this conflict".into());
        }
        let of = |policies: &[(ConflictKind, Policy)]| {
            policies.iter().find(|(about, _)| *about == kind).map(|(_, policy)| policy.clone())
        };
        if let Some((policy, rule)) = self.first(path, is_directory, |rule| of(&rule.policies)) {
            let by = format!("by the rule for '{}' ({})", rule.pattern, rule.origin);
            return asked(&policy, by);
        }
        match of(&self.book.policies) {
            Some(policy) => asked(&policy, format!("the policy for {}", kind.name())),
            None => Spoken { policy: Policy::KeepBoth, rule: DEFAULT_RULE.into(), asked: false },
        }
    }

    /// What belongs together.
    pub fn units(&self) -> &Units {
        &self.units
    }

    /// The names of both replicas, the planner's first.
    pub(super) fn names(&self) -> &(String, String) {
        &self.book.names
    }

    /// Whether there is anything that could restrict a path.
    pub(super) fn restricts(&self) -> bool {
        let restricting = |rule: &Rule| rule.mode.is_some() || rule.max_size.is_some();
        self.book.mode != Mode::TwoWay || self.book.rules.iter().any(restricting)
    }
}

/// A pattern, taken apart.
pub(super) struct Shape {
    /// As a glob from the root.
    pub(super) core: String,
    directories_only: bool,
}

pub(super) fn shape(pattern: &str) -> Result<Shape, &'static str> {
    if pattern.starts_with('!') {
        return Err("a rule has no exceptions; put a rule for these paths before it");
    }
    let (rest, directories_only) = match pattern.strip_suffix('/') {
        Some(rest) => (rest, true),
        None => (pattern, false),
    };
    let anchored = rest.contains('/');
    let rest = rest.strip_prefix('/').unwrap_or(rest);
    if rest.is_empty() {
        return Err("it is empty");
    }
    let core = if anchored { rest.to_string() } else { format!("**/{rest}") };
    Ok(Shape { core, directories_only })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn counsel(patterns: &[&str]) -> Counsel {
        let rule = |(number, pattern): (usize, &&str)| Rule {
            pattern: pattern.to_string(),
            origin: format!("line {number}"),
            priority: Some(number as i32),
            ..Rule::default()
        };
        let rules = patterns.iter().enumerate().map(rule).collect();
        Counsel::new(Rulebook { rules, ..Rulebook::default() }).unwrap()
    }

    fn path(name: &str) -> RelPath {
        RelPath::new(name.as_bytes()).unwrap()
    }

    #[track_caller]
    fn matches(pattern: &str, yes: &[&str], no: &[&str]) {
        let counsel = counsel(&[pattern]);
        let hit = |name: &&str| {
            let (name, is_directory) =
                name.strip_suffix('/').map_or((*name, false), |name| (name, true));
            !counsel.matching(&path(name), is_directory).is_empty()
        };
        let missed: Vec<&&str> = yes.iter().filter(|name| !hit(name)).collect();
        let caught: Vec<&&str> = no.iter().filter(|name| hit(name)).collect();
        assert!(missed.is_empty() && caught.is_empty(), "{pattern}: {missed:?} {caught:?}");
    }

    #[test]
    fn a_pattern_without_a_slash_matches_at_any_depth() {
        matches("*.psd", &["a.psd", "d/e/a.psd", "x.psd/inside"], &["a.psd2", "psd", "a.PSD"]);
    }

    #[test]
    fn a_slash_ties_a_pattern_to_the_root() {
        matches("/build", &["build", "build/x"], &["d/build", "builds"]);
        matches("docs/*.md", &["docs/a.md"], &["docs/d/a.md", "d/docs/a.md"]);
    }

    #[test]
    fn two_stars_stand_for_any_number_of_directories() {
        matches("a/**/z", &["a/z", "a/b/z", "a/b/c/z", "a/z/below"], &["z", "b/a/z"]);
        matches("a/**", &["a/b", "a/b/c"], &["a", "b"]);
        matches("**/x", &["x", "a/x", "a/b/x/y"], &["ax"]);
    }

    #[test]
    fn a_trailing_slash_means_directories_and_what_is_in_them() {
        matches("tmp/", &["tmp/", "d/tmp/", "tmp/a", "d/tmp/a/b"], &["tmp", "d/tmp"]);
        matches("/d/tmp/", &["d/tmp/", "d/tmp/a"], &["tmp/", "e/d/tmp/"]);
    }

    #[test]
    fn signs_of_a_pattern_can_be_meant_as_they_are() {
        matches(r"a\*", &["a*"], &["ab"]);
        matches("[ab]", &["a", "b"], &["c", "ab"]);
        matches("?", &["a", "d/e"], &["ab"]);
    }

    #[test]
    fn the_first_rule_that_sets_a_thing_decides_it() {
        let mut book = Rulebook::default();
        let rule = |pattern: &str| Rule { pattern: pattern.into(), ..Rule::default() };
        book.rules = vec![
            Rule { max_size: Some(5), ..rule("*.iso") },
            Rule { mode: Some(Mode::Off), ..rule("d/") },
            Rule { mode: Some(Mode::Push), max_size: Some(7), ..rule("*") },
        ];
        let counsel = Counsel::new(book).unwrap();
        assert_eq!(counsel.max_size(&path("d/a.iso")), Some(5));
        assert_eq!(counsel.mode(&path("d/a.iso"), false), Mode::Off);
        assert_eq!(counsel.mode(&path("a.iso"), false), Mode::Push);
        assert_eq!(counsel.max_size(&path("d/a")), Some(7));
    }

    #[test]
    fn a_bad_pattern_is_named_with_its_origin() {
        for pattern in ["[", "!a", "/", ""] {
            let rule = Rule { pattern: pattern.into(), origin: "here".into(), ..Rule::default() };
            let bad = Counsel::new(Rulebook { rules: vec![rule], ..Rulebook::default() });
            let said = bad.unwrap_err().to_string();
            assert!(said.starts_with(&format!("here: '{pattern}' is not a pattern: ")), "{said}");
        }
    }

    #[test]
    fn a_choice_goes_before_rules_as_long_as_nothing_has_changed() {
        let one = Version::from_pairs(vec![(psync_protocol::ReplicaId([1; 16]), 1)]);
        let none = Version::default();
        let seen = (one.clone(), none.clone());
        let mut book = Rulebook::default();
        let choice = super::super::Choice { policy: Policy::Remote, seen };
        book.choices.insert(path("f"), choice);
        book.policies = vec![(ConflictKind::ModifiedBoth, Policy::Hold)];
        let counsel = Counsel::new(book).unwrap();
        let says = |ours, theirs| {
            counsel.policy(&path("f"), false, ConflictKind::ModifiedBoth, (ours, theirs)).policy
        };
        assert_eq!(says(&one, &none), Policy::Remote);
        assert_eq!(says(&one, &one), Policy::Hold);
    }
}
