//! What a person has set for one root, in the file `config.toml` beside its index.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::store::Rules;

const FILE: &str = "config.toml";

/// The settings of a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Config {
    /// `[store]`
    pub store: StoreConfig,
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

/// How much a store may take on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Budget {
    /// What psync thinks right: see [`Rules::for_tree`].
    #[default]
    Default,
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the bytes in the tree's files.
    Percent(u64),
}

/// A configuration that cannot be used.
#[derive(Debug, Error)]
#[error("{path}{line}: {text}", path = .path.display(), line = Line(*.line))]
pub struct ConfigError {
    path: PathBuf,
    /// Counted from one.
    line: Option<usize>,
    text: String,
}

struct Line(Option<usize>);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |line| write!(f, ", line {line}"))
    }
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

/// What is wrong, and where in the text.
struct Wrong {
    at: Option<usize>,
    text: String,
}

impl Wrong {
    fn at<T>(place: &Spanned<T>, text: String) -> Wrong {
        Wrong { at: Some(place.span().start), text }
    }
}

impl Config {
    /// Reads the configuration in a state directory; where there is none, everything is as usual.
    pub fn read(state: &Path) -> Result<Config, ConfigError> {
        let path = state.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Config::default()),
            Err(error) => {
                return Err(ConfigError { path, line: None, text: error.to_string() });
            }
        };
        Config::parse(&text).map_err(|wrong| {
            let before = wrong.at.and_then(|at| text.as_bytes().get(..at));
            let line =
                before.map(|before| before.iter().filter(|&&byte| byte == b'\n').count() + 1);
            ConfigError { path, line, text: wrong.text }
        })
    }

    fn parse(text: &str) -> Result<Config, Wrong> {
        let table = DeTable::parse(text).map_err(|error| Wrong {
            at: error.span().map(|span| span.start),
            text: error.message().to_string(),
        })?;
        let mut config = Config::default();
        for (key, value) in table.get_ref() {
            match (&**key.get_ref(), value.get_ref()) {
                ("store", DeValue::Table(table)) => config.store = store(table)?,
                ("store", _) => return Err(Wrong::at(key, "[store] is a table".into())),
                (name, _) => return Err(unknown(key, name)),
            }
        }
        Ok(config)
    }
}

fn unknown<T>(key: &Spanned<T>, name: &str) -> Wrong {
    let known = "enabled, budget and largest-file in [store]";
    Wrong::at(key, format!("psync knows no '{name}'; it knows {known}"))
}

fn store(table: &DeTable<'_>) -> Result<StoreConfig, Wrong> {
    let mut config = StoreConfig::default();
    for (key, value) in table {
        match &**key.get_ref() {
            "enabled" => {
                let enabled = value.get_ref().as_bool();
                config.enabled = enabled
                    .ok_or_else(|| Wrong::at(value, "enabled is true or false".to_string()))?;
            }
            "budget" => {
                let budget = value.get_ref().as_str().and_then(budget);
                let example = "budget is an amount or a share, as in \"1G\" or \"10%\"";
                config.budget = budget.ok_or_else(|| Wrong::at(value, example.to_string()))?;
            }
            "largest-file" => {
                let largest = value.get_ref().as_str().and_then(bytes);
                let example = "largest-file is an amount, as in \"64M\"";
                config.largest_file =
                    largest.ok_or_else(|| Wrong::at(value, example.to_string()))?;
            }
            name => return Err(unknown(key, name)),
        }
    }
    Ok(config)
}

fn budget(text: &str) -> Option<Budget> {
    match text.strip_suffix('%') {
        Some(percent) => {
            percent.trim_end().parse().ok().filter(|&percent| percent <= 100).map(Budget::Percent)
        }
        None => bytes(text).map(Budget::Bytes),
    }
}

/// A number of bytes with a binary suffix: K, M, G or T.
fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = match text.find(|c: char| c.is_ascii_alphabetic()) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        _ => return None,
    };
    let number: f64 = number.trim().parse().ok()?;
    let bytes = number * (1u64 << shift) as f64;
    (0.0..1e18).contains(&bytes).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<StoreConfig, (String, Option<usize>)> {
        let config = Config::parse(text);
        config.map(|config| config.store).map_err(|wrong| (wrong.text, wrong.at))
    }

    #[test]
    fn an_empty_file_changes_nothing() {
        assert_eq!(parse(""), Ok(StoreConfig::default()));
        assert_eq!(parse("# nothing\n[store]\n"), Ok(StoreConfig::default()));
    }

    #[test]
    fn every_setting_can_be_made() {
        let text = "[store]\nenabled = false\nbudget = \"1.5G\"\nlargest-file = \"2M\"\n";
        let expected =
            StoreConfig { enabled: false, budget: Budget::Bytes(3 << 29), largest_file: 2 << 20 };
        assert_eq!(parse(text), Ok(expected));
        assert_eq!(
            parse("store.budget = '10%'").map(|store| store.budget),
            Ok(Budget::Percent(10))
        );
    }

    #[test]
    fn a_budget_in_percent_follows_the_tree() {
        let rules = |budget| StoreConfig { budget, ..StoreConfig::default() }.rules(80 << 30);
        assert_eq!(rules(Budget::Percent(10)).budget, 8 << 30);
        assert_eq!(rules(Budget::Default).budget, 8 << 30);
        assert_eq!(rules(Budget::Bytes(7)).budget, 7);
    }

    #[test]
    fn what_is_not_known_or_makes_no_sense_is_an_error_with_its_place() {
        for (text, word, line) in [
            ("[store]\nbugdet = \"1G\"", "bugdet", 2),
            ("\n\n[stores]", "stores", 3),
            ("[store]\n\nbudget = 5", "budget", 3),
            ("[store]\nbudget = \"five\"", "budget", 2),
            ("[store]\nbudget = \"101%\"", "budget", 2),
            ("[store]\nbudget = \"-1G\"", "budget", 2),
            ("[store]\nlargest-file = \"1X\"", "largest-file", 2),
            ("[store]\nenabled = \"yes\"", "enabled", 2),
            ("store = 1", "store", 1),
            ("[store]\nbudget = \"1G", "", 2),
        ] {
            let (told, at) = parse(text).expect_err(text);
            assert!(told.contains(word), "{text}: {told}");
            let before = &text[..at.expect("a place")];
            assert_eq!(before.matches('\n').count() + 1, line, "{text}");
        }
    }

    #[test]
    fn an_error_names_file_and_line() {
        let error = ConfigError { path: "x/config.toml".into(), line: Some(3), text: "no".into() };
        assert_eq!(error.to_string(), "x/config.toml, line 3: no");
    }
}
