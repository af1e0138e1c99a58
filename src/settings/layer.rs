//! One layer of settings, and how layers lie over each other.

use psync_protocol::message::{Filter, Flow};

use super::keys::{self, Allowed, KEYS, Values};
use super::nearest::did_you_mean;
use super::origin::{Origin, Set, SettingsError};
use super::profiles::{self, PROFILES, Profile};
use super::rule::PathRule;
use super::value::Written;
use super::words::PolicyWord;
use crate::scan;

/// What one place says: a file, a pair's table, the environment, or the command line; or several
/// of them over each other.
#[derive(Debug, Clone, Default)]
pub struct Layer {
    /// The keys that have one value. Of several layers the strongest that sets it decides.
    pub(super) values: Values,
    /// Filters, the first that matches decides.
    pub(super) filters: Vec<Set<Filter>>,
    /// Profiles that are switched on.
    pub(super) profiles: Vec<Set<&'static Profile>>,
    /// Folders that belong together.
    pub(super) units: Vec<Set<String>>,
    /// Rules for paths, the first that matches and sets a thing decides it.
    pub(super) rules: Vec<PathRule>,
}

/// Who sets a key, which decides what may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaker {
    /// The file of a root.
    Root,
    /// A file of the person or the machine, outside of pairs; the environment; the command line.
    Person,
    /// The table of a pair.
    Pair,
}

impl Speaker {
    fn may_set(self, allowed: Allowed) -> bool {
        match allowed {
            Allowed::Anywhere | Allowed::OnlyStricterInRoot => true,
            Allowed::NotInRoot => self != Speaker::Root,
            Allowed::InPair => self == Speaker::Pair,
        }
    }

    /// The names of all that it may set.
    fn names(self) -> Vec<&'static str> {
        KEYS.iter().filter(|key| self.may_set(key.allowed)).map(|key| key.name).collect()
    }
}

/// What is wrong with a pattern, if something is.
pub(super) fn check_pattern(pattern: &str) -> Result<(), String> {
    let filter = Filter { include: false, pattern: pattern.to_string() };
    let shown = psync_protocol::path::printable(pattern.as_bytes());
    if pattern.trim().is_empty() || pattern.contains(['\n', '\0']) {
        return Err(format!("'{shown}' is not a pattern"));
    }
    let checked = scan::Rules::new(&[filter]);
    checked.map(|_| ()).map_err(|bad| format!("'{shown}' is not a pattern: {}", bad.reason))
}

impl Layer {
    /// Sets a key from bare text, as the command line and the environment have it. Lists may be
    /// written as in a file, or as one element.
    pub fn set_text(
        &mut self,
        name: &str,
        text: &str,
        origin: Origin,
    ) -> Result<(), SettingsError> {
        match name {
            "policy" => self.set_all_policies(Written::Text(text), &origin),
            name => self.set(name, Written::Text(text), &origin, Speaker::Person),
        }
    }

    /// Adds a filter, weaker than those that are there.
    pub fn add_filter(&mut self, filter: Filter, origin: Origin) -> Result<(), SettingsError> {
        check_pattern(&filter.pattern).map_err(|text| SettingsError::at(&origin, &text))?;
        self.filters.push(Set { value: filter, origin });
        Ok(())
    }

    /// The same policy for conflicts of every kind.
    pub(super) fn set_all_policies(
        &mut self,
        written: Written<'_>,
        origin: &Origin,
    ) -> Result<(), SettingsError> {
        keys::understand::<PolicyWord>("policy", written, origin)?;
        for key in KEYS.iter().filter(|key| key.name.starts_with("policy.")) {
            self.values.set(key.name, written, origin)?;
        }
        Ok(())
    }

    /// Sets a key.
    pub(super) fn set(
        &mut self,
        name: &str,
        written: Written<'_>,
        origin: &Origin,
        speaker: Speaker,
    ) -> Result<(), SettingsError> {
        let Some(key) = keys::named(name) else {
            return Err(SettingsError::at(origin, &keys::unknown(name, &speaker.names())));
        };
        if !speaker.may_set(key.allowed) {
            let why = match key.allowed {
                Allowed::InPair => "may only stand in the table of a pair, [pair.NAME]",
                Allowed::Anywhere | Allowed::OnlyStricterInRoot | Allowed::NotInRoot => {
                    "may not stand in a root's file, which may have come over the line; it belongs in the user's psync.toml"
                }
            };
            return Err(SettingsError::of_key(origin, name, why));
        }
        if !key.adds_up {
            self.values.set(name, written, origin)?;
            if speaker == Speaker::Root && self.values.mode().flow() != Flow::TwoWay {
                let why = "a mirror overwrites one side, and which one 'this' is depends on the machine; in a root's file it may not stand";
                return Err(SettingsError::of_key(origin, name, why));
            }
            return Ok(());
        }
        for text in elements(written, origin, name, key.expected)? {
            self.add(name, text, origin.clone())
                .map_err(|text| SettingsError::of_key(origin, name, &text))?;
        }
        Ok(())
    }

    /// Adds an element to a list.
    fn add(&mut self, name: &str, text: String, origin: Origin) -> Result<(), String> {
        if name == "profiles" {
            let value = profiles::named(&text).ok_or_else(|| no_profile(&text))?;
            self.profiles.push(Set { value, origin });
            return Ok(());
        }
        check_pattern(&text)?;
        match name {
            "units" => self.units.push(Set { value: text, origin }),
            // Of one place what is included is asked first: it is the exception.
            "include" => {
                let value = Filter { include: true, pattern: text };
                let at = self.filters.partition_point(|set| set.value.include);
                self.filters.insert(at, Set { value, origin });
            }
            _ => {
                let value = Filter { include: false, pattern: text };
                self.filters.push(Set { value, origin });
            }
        }
        Ok(())
    }

    /// This layer over a weaker one: values replace, lists come first.
    pub(super) fn over(mut self, weaker: Layer) -> Layer {
        self.filters.extend(weaker.filters);
        self.profiles.extend(weaker.profiles);
        self.units.extend(weaker.units);
        self.rules.extend(weaker.rules);
        Layer { values: self.values.over(weaker.values), ..self }
    }

    /// The policies that name replicas by bare words, which have to be known.
    pub(super) fn bare_names(&self) -> Vec<(String, &PolicyWord, &Origin)> {
        let own = self
            .values
            .policies()
            .into_iter()
            .map(|(kind, set)| (format!("policy.{}", kind.name()), &set.value, &set.origin));
        let of_rules = self.rules.iter().flat_map(|rule| {
            rule.policies.iter().map(|(_, word)| ("policy".to_string(), word, &rule.origin))
        });
        own.chain(of_rules).filter(|(_, word, _)| word.must_be_known).collect()
    }
}

fn no_profile(name: &str) -> String {
    let shown = psync_protocol::path::printable(name.as_bytes());
    let names = PROFILES.iter().map(|profile| profile.name);
    let meant = did_you_mean(name, names);
    format!("there is no profile '{shown}'{meant}; 'psync config profiles' lists them")
}

/// The elements of a list: each has to be text.
fn elements(
    written: Written<'_>,
    origin: &Origin,
    name: &str,
    expected: &str,
) -> Result<Vec<String>, SettingsError> {
    let wrong = || {
        let text = format!("{} is not {expected}", written.shown());
        SettingsError::of_key(origin, name, &text)
    };
    match written {
        Written::Text(text) if text.trim_start().starts_with('[') => {
            let file = format!("x = {text}");
            let table = toml::de::DeTable::parse(&file).map_err(|_| wrong())?;
            let value = table.get_ref().get("x").ok_or_else(wrong)?;
            strings(value.get_ref()).ok_or_else(wrong)
        }
        Written::Text(text) => Ok(vec![text.to_string()]),
        Written::Toml(value) => strings(value).ok_or_else(wrong),
    }
}

fn strings(value: &toml::de::DeValue<'_>) -> Option<Vec<String>> {
    let texts = value.as_array()?.iter();
    texts.map(|text| text.get_ref().as_str().map(String::from)).collect()
}
