//! What is set on this machine: for the person, for the system and in the environment; and what it
//! comes to for a root or a pair.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Settings;
use super::file::{self, Settled};
use super::keys::KEYS;
use super::layer::Layer;
use super::nearest::{did_you_mean, nearest};
use super::origin::{Level, Origin, SettingsError};
use super::words::PolicyWord;
use crate::reconcile::Policy;

/// The name of the file at the top of a root. It is synced like any other file.
pub const ROOT_FILE: &str = ".psync.toml";

/// Where settings are looked for on this machine, besides roots.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The person's file, if the person has a home.
    pub user: Option<PathBuf>,
    /// The file of the machine.
    pub system: PathBuf,
    /// The variables of the environment whose names begin with `PSYNC_`.
    pub environment: Vec<(String, String)>,
    /// What `~` stands for.
    pub home: Option<PathBuf>,
    /// Words that are commands, so that no pair may be called by them.
    pub commands: Vec<&'static str>,
}

/// The settings of a machine.
#[derive(Debug, Clone)]
pub struct Machine {
    sources: Sources,
    user: Settled,
    system: Settled,
    environment: Layer,
}

/// The two sides of a named pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairSides {
    /// The one on this machine.
    pub local: PathBuf,
    /// The other one: a path, or `[user@]host:path`.
    pub remote: String,
    /// The file that its runs are written to, if it has one of its own.
    pub log: Option<PathBuf>,
}

impl Machine {
    /// Reads all that the sources hold.
    pub fn read(sources: Sources) -> Result<Machine, SettingsError> {
        let user = match &sources.user {
            Some(path) => file::read(path, Level::User)?,
            None => Settled::default(),
        };
        let system = file::read(&sources.system, Level::System)?;
        let environment = environment(&sources.environment)?;
        let machine = Machine { sources, user, system, environment };
        for (name, origin) in machine.pairs() {
            if machine.sources.commands.contains(&name) {
                let text = format!("a pair cannot be called '{name}': that is a command of psync");
                return Err(SettingsError::at(origin, &text));
            }
        }
        Ok(machine)
    }

    /// The files that are looked at, the weakest first.
    pub fn files(&self, root: Option<&Path>) -> Vec<(Level, PathBuf)> {
        let root = root.map(|root| (Level::Root, root.join(ROOT_FILE)));
        let user = self.sources.user.clone().map(|path| (Level::User, path));
        let system = (Level::System, self.sources.system.clone());
        root.into_iter().chain(user).chain([system]).collect()
    }

    /// The named pairs in the order of their names, with the place where each is named.
    pub fn pairs(&self) -> Vec<(&str, &Origin)> {
        let all = self.user.pairs.iter().chain(&self.system.pairs);
        let pairs: BTreeMap<&str, &Origin> =
            all.map(|(name, pair)| (name.as_str(), &pair.origin)).collect();
        pairs.into_iter().collect()
    }

    /// The sides of a named pair.
    pub fn pair(&self, name: &str) -> Result<PairSides, SettingsError> {
        let origin = self.known_pair(name)?;
        let values = self.layers_of(Some(name)).values;
        let missing = |key: &str| {
            SettingsError::at(
                origin,
                &format!("the pair '{name}' has no '{key}': it needs local and remote"),
            )
        };
        let local = values.local().ok_or_else(|| missing("local"))?;
        let remote = values.remote().ok_or_else(|| missing("remote"))?;
        Ok(PairSides {
            local: PathBuf::from(self.at_home(&local.0)),
            remote: self.at_home(&remote.0),
            log: values.log().map(|log| PathBuf::from(self.at_home(&log.0))),
        })
    }

    fn known_pair(&self, name: &str) -> Result<&Origin, SettingsError> {
        let pairs = self.pairs();
        if let Some((_, origin)) = pairs.iter().find(|(known, _)| *known == name) {
            return Ok(origin);
        }
        let shown = psync_protocol::path::printable(name.as_bytes());
        if name.contains(['/', ':']) {
            let text = format!("'{shown}' is one side: what is it to be the same as?");
            return Err(SettingsError::typed(text));
        }
        let names: Vec<&str> = pairs.iter().map(|(name, _)| *name).collect();
        let meant = did_you_mean(name, names.iter().copied());
        let text = match (names.is_empty(), meant.is_empty()) {
            (true, _) => "no pairs are named; [pair.NAME] in psync.toml names one".to_string(),
            (false, true) => format!("the pairs are {}", names.join(", ")),
            (false, false) => meant.trim_start_matches("; ").to_string(),
        };
        Err(SettingsError::typed(format!("there is no pair '{shown}': {text}")))
    }

    /// `~` is the home directory.
    fn at_home(&self, path: &str) -> String {
        let home = self.sources.home.as_ref().map(|home| home.to_string_lossy());
        match (path.strip_prefix('~'), home) {
            (Some(rest), Some(home)) => format!("{home}{rest}"),
            _ => path.to_string(),
        }
    }

    /// All that this machine says, for a pair or without one.
    fn layers_of(&self, pair: Option<&str>) -> Layer {
        let in_file = |settled: &Settled| {
            let named = pair.and_then(|name| settled.pairs.get(name));
            let special = named.map(|named| named.value.clone()).unwrap_or_default();
            special.over(settled.layer.clone())
        };
        let files = in_file(&self.system).over(in_file(&self.user));
        self.environment.clone().over(files)
    }

    /// What holds for a root, for a pair or without one: `typed` stands over all, and the root's
    /// own file is the weakest. `peer` is what the other side is called if nobody says so.
    pub fn settings(
        &self,
        root: Option<&Path>,
        pair: Option<&str>,
        typed: Layer,
        peer: &str,
    ) -> Result<Settings, SettingsError> {
        if let Some(name) = pair {
            self.known_pair(name)?;
        }
        let root = match root {
            Some(root) => file::read(&root.join(ROOT_FILE), Level::Root)?.layer,
            None => Layer::default(),
        };
        let settings = Settings::new(typed.over(self.layers_of(pair)).over(root), peer);
        self.check_names(&settings)?;
        Ok(settings)
    }

    /// A bare name in a policy that is that of no replica is a word misspelt.
    fn check_names(&self, settings: &Settings) -> Result<(), SettingsError> {
        let (here, there) = settings.names();
        let mut known = vec![here, there];
        for (name, _) in self.pairs() {
            let values = self.layers_of(Some(name)).values;
            known.extend(values.remote_name().map(|name| name.0));
            known.extend(values.remote().and_then(|remote| super::host_of(&remote.0)));
        }
        for (key, word, origin) in settings.layer.bare_names() {
            let Policy::Replica(name) = &word.policy else { continue };
            if known.contains(name) {
                continue;
            }
            let words = <PolicyWord as super::value::Setting>::words();
            let known = known.iter().map(String::as_str).chain(words);
            let text = format!(
                "there is no policy or replica '{name}'{}; policies are {}; a replica that this machine does not know is written replica:{name}",
                did_you_mean(name, known),
                <PolicyWord as super::value::Setting>::EXPECTED,
            );
            return Err(SettingsError::of_key(origin, &key, &text));
        }
        Ok(())
    }
}

/// The layer of the environment. A variable whose name is nearly that of a key is an error; others
/// that begin with `PSYNC_` are somebody else's.
fn environment(variables: &[(String, String)]) -> Result<Layer, SettingsError> {
    let mut layer = Layer::default();
    let known: Vec<(&'static str, String)> =
        std::iter::once(("policy", "PSYNC_POLICY".to_string()))
            .chain(KEYS.iter().map(|key| (key.name, key.variable())))
            .collect();
    // In the order of the table, so that policies for one kind stand over those for all.
    for (key, variable) in &known {
        let value = variables.iter().find(|(name, _)| name == variable);
        // A variable that is empty is as good as none.
        if let Some((name, value)) = value.filter(|(_, value)| !value.is_empty()) {
            layer.set_text(key, value, Origin::Environment(name.clone()))?;
        }
    }
    for (name, _) in variables {
        let exact = known.iter().any(|(_, variable)| variable == name);
        let own = [SYSTEM_VARIABLE].contains(&name.as_str());
        let meant = nearest(name, known.iter().map(|(_, variable)| variable.as_str()));
        if let (false, false, Some(meant)) =
            (exact, own, meant.filter(|meant| is_close(name, meant)))
        {
            let text = format!("there is no variable {name}; did you mean {meant}?");
            return Err(SettingsError::typed(text));
        }
    }
    Ok(layer)
}

/// The variable that names the file of the machine.
pub const SYSTEM_VARIABLE: &str = "PSYNC_SYSTEM_CONFIG";

/// All names begin alike, so only what follows counts.
fn is_close(name: &str, meant: &str) -> bool {
    let rest = |name: &str| name.strip_prefix("PSYNC_").map(str::to_lowercase);
    match (rest(name), rest(meant)) {
        (Some(name), Some(meant)) => nearest(&name, [meant.as_str()]).is_some(),
        _ => false,
    }
}
