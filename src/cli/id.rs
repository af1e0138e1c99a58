//! `psync id`: who this machine is for others, and where what it knows of them is kept.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::json;

use super::command::Subcommand;
use super::exit::Exit;
use super::run::print_out;
use super::subject::Failure;
use crate::identity::MachineKey;
use crate::sync::random;

/// The command.
pub(super) const COMMAND: Subcommand = Subcommand {
    name: "id",
    about: "Who this machine is for others: its public key, in words and digits",
    arguments,
    run: id,
};

fn arguments(command: Command) -> Command {
    command.arg(
        Arg::new("json").long("json").action(ArgAction::SetTrue).help("Say it as a JSON object"),
    )
}

fn id(matches: &ArgMatches) -> Exit {
    let is_json = matches.get_flag("json");
    match config_dir().and_then(|dir| machine_key(&dir)) {
        Ok(key) => {
            let (key, fingerprint) = (key.public(), key.public().fingerprint());
            let object = json!({
                "type": "id", "key": key.to_string(),
                "words": fingerprint.to_string(), "digits": format!("{fingerprint:x}"),
            });
            let text = format!("words:  {fingerprint}\ndigits: {fingerprint:x}\nkey:    {key}\n");
            print_out(&if is_json { format!("{object}\n") } else { text });
            Exit::Ok
        }
        Err(failure) => failure.told(is_json),
    }
}

/// Where a person keeps keys and who is trusted: `$XDG_CONFIG_HOME/psync`, or `~/.config/psync`.
pub(super) fn config_dir() -> Result<PathBuf, Failure> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    absolute("XDG_CONFIG_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".config")))
        .map(|config| config.join("psync"))
        .ok_or_else(|| {
            let text = "neither $XDG_CONFIG_HOME nor $HOME says where this machine's key is";
            Failure::new(Exit::Identity, text)
        })
}

/// This machine's key, made now if there is none.
pub(super) fn machine_key(dir: &Path) -> Result<MachineKey, Failure> {
    MachineKey::open(dir, random).map_err(|error| Failure::new(Exit::Identity, error.to_string()))
}
