//! `psync config`: what is set and where, the files that are looked at, the profiles of junk. And
//! where settings come from on this machine.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command, builder::PossibleValuesParser};
use serde_json::{Value, json};

use super::command::{self, Subcommand};
use super::exit::Exit;
use super::output::wrapped;
use super::run::print_out;
use super::subject::{self, Failure};
use crate::root::StateHome;
use crate::settings::{
    Allowed, KEYS, Key, Layer, Machine, Origin, PROFILES, Profile, RULE_KEYS, RuleKey,
    SYSTEM_VARIABLE, Settings, SettingsError, Sources,
};
use crate::sync::Keeping;

/// The command.
pub(super) const COMMAND: Subcommand = Subcommand {
    name: "config",
    about: "What is set and where, the files, the profiles of junk",
    arguments,
    run: config,
};

fn arguments(command: Command) -> Command {
    let deeds = PossibleValuesParser::new(["show", "path", "profiles", "keys"]);
    let deed = Arg::new("deed").value_name("show|path|profiles|keys").hide_possible_values(true);
    subject::arguments(command)
        .arg(
            deed.required(true)
                .value_parser(deeds)
                .help("What is set; the files; the profiles; the keys"),
        )
        .arg(Arg::new("pair").value_name("PAIR").help("What holds for this pair"))
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("Say it as one JSON object a line"),
        )
}

/// All settings of this machine.
pub(super) fn machine() -> Result<Machine, SettingsError> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let home = variable("HOME").filter(|home| home.is_absolute());
    let config = variable("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
    let config = config.or_else(|| home.as_ref().map(|home| home.join(".config")));
    // What is not UTF-8 is no value of any key.
    let environment = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok().filter(|name| name.starts_with("PSYNC_"))?;
        Some((name, value.to_string_lossy().into_owned()))
    });
    Machine::read(Sources {
        user: config.map(|config| config.join("psync/psync.toml")),
        system: variable(SYSTEM_VARIABLE).unwrap_or_else(|| "/etc/psync/psync.toml".into()),
        environment: environment.collect(),
        home,
        commands: command::COMMANDS.iter().map(|command| command.name).collect(),
    })
}

/// What is set for a root: for the pair whose side it is, if there is just one.
pub(super) fn settings_of(root: &Path) -> Result<Settings, Failure> {
    let machine = machine()?;
    let pairs = pairs_of(&machine, root);
    let pair = if let [pair] = pairs[..] { Some(pair) } else { None };
    Ok(machine.settings(Some(root), pair, Layer::default(), "")?)
}

/// The pairs whose side on this machine a root is.
pub(super) fn pairs_of<'a>(machine: &'a Machine, root: &Path) -> Vec<&'a str> {
    let place = root.canonicalize().ok();
    let is_here = |name: &&str| {
        let local = machine.pair(name).ok().and_then(|sides| sides.local.canonicalize().ok());
        local.is_some() && local == place
    };
    machine.pairs().into_iter().map(|(name, _)| name).filter(is_here).collect()
}

/// What an end with these settings keeps beside its tree.
pub(super) fn keeping(settings: &Settings, home: StateHome) -> Keeping {
    Keeping {
        home,
        store: settings.store(),
        filters: settings.filters(),
        units: settings.units_shown().iter().map(|set| set.value.clone()).collect(),
        retention: settings.retention(),
        space: settings.space(),
        bounds: settings.bounds(),
        ..Keeping::default()
    }
}

/// Does what was asked for.
fn config(matches: &ArgMatches) -> Exit {
    let json = matches.get_flag("json");
    let told = match matches.get_one::<String>("deed").map(String::as_str) {
        Some("path") => paths(matches),
        Some("profiles") => Ok(PROFILES.iter().map(profile).collect()),
        Some("keys") => Ok(KEYS.iter().map(key).chain(RULE_KEYS.iter().map(rule_key)).collect()),
        _ => show(matches),
    };
    match told {
        Ok(told) => {
            for Told { text, object } in told {
                print_out(&if json { format!("{object}\n") } else { text });
            }
            Exit::Ok
        }
        Err(failure) => failure.told(json),
    }
}

/// Something for a person, and the same for a script.
struct Told {
    text: String,
    object: Value,
}

/// The root that is meant: that of the pair, the one named, or the one that one stands in.
fn root(matches: &ArgMatches, machine: &Machine) -> Result<Option<PathBuf>, Failure> {
    if let Some(pair) = matches.get_one::<String>("pair") {
        return Ok(Some(machine.pair(pair)?.local));
    }
    match subject::given_root(matches)? {
        Some(root) => Ok(Some(root)),
        None => Ok(subject::root(matches, Path::new(".")).ok()),
    }
}

fn paths(matches: &ArgMatches) -> Result<Vec<Told>, Failure> {
    let machine = machine()?;
    let root = root(matches, &machine)?;
    let files = machine.files(root.as_deref()).into_iter().map(|(level, path)| {
        let exists = path.symlink_metadata().is_ok();
        let state = if exists { "there" } else { "missing" };
        let shown = psync_protocol::path::printable(path.as_os_str().as_encoded_bytes());
        Told {
            text: format!("{:<8}{state:<9}{shown}\n", level.name()),
            object: json!({"type": "file", "layer": level.name(), "path": shown, "exists": exists}),
        }
    });
    Ok(files.collect())
}

fn profile(profile: &Profile) -> Told {
    let Profile { name, about, patterns } = profile;
    let lines = wrapped(&patterns.join(" "), 12);
    Told {
        text: format!("{name:<12}{about}\n{lines}"),
        object: json!({"type": "profile", "profile": name, "about": about, "patterns": patterns}),
    }
}

fn key(key: &Key) -> Told {
    let default = (key.default)().unwrap_or_else(|| "not set".into());
    let about = wrapped(key.about.trim(), 4);
    let place = match key.allowed {
        Allowed::Anywhere => "",
        Allowed::NotInRoot => " Not in a root's file.",
        Allowed::OnlyStricterInRoot => " In a root's file only stricter.",
        Allowed::InPair => " Only in the table of a pair.",
    };
    let expected = wrapped(&format!("It is {}.{place}", key.expected), 4);
    Told {
        text: format!("{} = {default}\n{about}{expected}", key.name),
        object: json!({
            "type": "key", "key": key.name, "default": (key.default)(), "about": key.about.trim(),
            "expected": key.expected, "variable": key.variable(),
        }),
    }
}

fn rule_key(key: &RuleKey) -> Told {
    let (about, expected) = (wrapped(key.about, 4), format!("It is {}.", key.expected));
    Told {
        text: format!("{}, in a [[rule]]\n{about}{}", key.name, wrapped(&expected, 4)),
        object: json!({
            "type": "rule-key", "key": key.name, "about": key.about, "expected": key.expected,
        }),
    }
}

fn show(matches: &ArgMatches) -> Result<Vec<Told>, Failure> {
    let machine = machine()?;
    let root = root(matches, &machine)?;
    let pair = matches.get_one::<String>("pair").map(String::as_str);
    let peer = match pair {
        Some(pair) => crate::settings::host_of(&machine.pair(pair)?.remote).unwrap_or_default(),
        None => String::new(),
    };
    let settings = machine.settings(root.as_deref(), pair, Layer::default(), &peer)?;
    Ok(all_that_is_set(&settings, pair.is_some()))
}

/// Every key with its value, then the lists, as a file could say it.
fn all_that_is_set(settings: &Settings, of_pair: bool) -> Vec<Told> {
    let values = settings.shown().into_iter().filter(|shown| of_pair || !shown.key.in_pair_only());
    let mut told: Vec<Told> = values
        .map(|shown| setting(shown.key.name, shown.value.as_deref(), &shown.origin))
        .collect();
    let string = |text: &str| json!(text).to_string();
    for filter in settings.filters_shown() {
        let name = if filter.value.include { "include" } else { "exclude" };
        told.push(element(name, &string(&filter.value.pattern), &filter.origin));
    }
    for profile in settings.profiles_shown() {
        told.push(element("profiles", &string(profile.value.name), &profile.origin));
    }
    for unit in settings.units_shown() {
        told.push(element("units", &string(&unit.value), &unit.origin));
    }
    for rule in settings.rules_shown() {
        let entries = rule.shown();
        let lines = entries.iter().map(|(name, value)| format!("{name} = {value}\n"));
        let values: serde_json::Map<String, Value> =
            entries.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        told.push(Told {
            text: format!(
                "\n# {}\n[[rule]]\n{}",
                below_home(&rule.origin),
                lines.collect::<String>()
            ),
            object: json!({"type": "rule", "rule": values, "origin": origin(&rule.origin)}),
        });
    }
    told
}

fn setting(name: &str, value: Option<&str>, place: &Origin) -> Told {
    let text = match value {
        Some(value) => commented(&format!("{name} = {value}"), place),
        None => commented(&format!("# {name} is not set"), place),
    };
    let object = json!({"type": "setting", "key": name, "value": value, "origin": origin(place)});
    Told { text, object }
}

/// An element of a list.
fn element(name: &str, value: &str, place: &Origin) -> Told {
    Told {
        text: commented(&format!("# {name}: {value}"), place),
        object: json!({"type": "element", "key": name, "value": value, "origin": origin(place)}),
    }
}

fn commented(text: &str, place: &Origin) -> String {
    match place {
        Origin::Default => format!("{text}\n"),
        place => format!("{text:<38} # {}\n", below_home(place)),
    }
}

/// A place with `~` for the home directory, so that it fits a line.
fn below_home(place: &Origin) -> String {
    let text = place.to_string();
    let home = std::env::var("HOME").ok().filter(|home| home.len() > 1);
    let below = home.and_then(|home| Some(format!("~{}", text.strip_prefix(&home)?)));
    below.filter(|below| below.starts_with("~/")).unwrap_or(text)
}

fn origin(origin: &Origin) -> Value {
    let mut object = json!({"layer": origin.layer()});
    match origin {
        Origin::Default => {}
        Origin::File { path, line, .. } => {
            object["file"] = path.to_string_lossy().into_owned().into();
            object["line"] = (*line).into();
        }
        Origin::Environment(name) => object["variable"] = name.as_str().into(),
        Origin::CommandLine(typed) => object["option"] = typed.as_str().into(),
    }
    object
}
