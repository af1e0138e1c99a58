//! What was typed and what is set, made into all that a run needs to know.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use psync_protocol::message::Filter;

use super::args::Typed;
use super::config;
use super::endpoint::Endpoint;
use super::run::state_home;
use crate::reconcile::{ChangeLimit, DeleteLimit, Rulebook};
use crate::settings::{Layer, Machine, RunMode, SettingsError};
use crate::sync::{Keeping, PlanUse, SyncError};
use crate::transport::Compression;

/// What a run needs to know.
#[derive(Debug, Clone)]
pub(super) struct Options {
    /// The pair that is synced, if it has a name.
    pub(super) pair: Option<String>,
    /// The side on this machine where the run is planned.
    pub(super) local: PathBuf,
    /// The other side.
    pub(super) other: Endpoint,
    /// Whether the other side was typed first.
    pub(super) other_first: bool,
    pub(super) rsh: Vec<String>,
    pub(super) program: String,
    pub(super) dry_run: bool,
    pub(super) verbosity: u8,
    pub(super) quiet: bool,
    pub(super) itemize: bool,
    pub(super) stats: bool,
    pub(super) json: bool,
    pub(super) progress: bool,
    pub(super) compression: Compression,
    pub(super) filters: Vec<Filter>,
    pub(super) rate: Option<u64>,
    pub(super) timeout: Option<Duration>,
    pub(super) delete_limit: DeleteLimit,
    /// A root that is empty now is meant to be.
    pub(super) empty_is_meant: bool,
    /// Why this root may not be the one that was synced before; no argument says it.
    pub(super) doubt: Option<Arc<SyncError>>,
    pub(super) change_limit: ChangeLimit,
    pub(super) mode: RunMode,
    /// Policies for conflicts, and rules for paths.
    pub(super) rules: Rulebook,
    /// What this side keeps.
    pub(super) keeping: Keeping,
    /// What the other side keeps, if it is on this machine.
    pub(super) keeping_there: Keeping,
    /// Whether a remote side may use its store.
    pub(super) store_there: bool,
    /// What the plan has to do with that of another run; no argument says it.
    pub(super) plan: PlanUse,
}

impl Options {
    /// Those for two sides.
    pub(super) fn for_sides(
        typed: &Typed,
        machine: &Machine,
        first: &Endpoint,
        second: &Endpoint,
    ) -> Result<Options, SettingsError> {
        let (local, other, other_first) = match (first, second) {
            (Endpoint::Local(local), other) => (local, other, false),
            (other, Endpoint::Local(local)) => (local, other, true),
            (_, _) => {
                let text = "both sides are remote; run psync on one of the two machines";
                return Err(SettingsError::typed(text.into()));
            }
        };
        let mut options = Options::new(typed, machine, None, local.clone(), other.clone())?;
        options.other_first = other_first;
        Ok(options)
    }

    /// Those for a named pair.
    pub(super) fn for_pair(
        typed: &Typed,
        machine: &Machine,
        name: &str,
    ) -> Result<Options, SettingsError> {
        let sides = machine.pair(name)?;
        let other = Endpoint::parse(OsStr::new(&sides.remote))
            .map_err(|text| SettingsError::typed(format!("pair '{name}': remote: {text}")))?;
        Options::new(typed, machine, Some(name), sides.local, other)
    }

    fn new(
        typed: &Typed,
        machine: &Machine,
        pair: Option<&str>,
        local: PathBuf,
        other: Endpoint,
    ) -> Result<Options, SettingsError> {
        if let Endpoint::Module { module, .. } | Endpoint::Daemon { module, .. } = &other
            && module.is_empty()
        {
            let text =
                format!("{other} names no module; 'psync --list {other}' says which there are");
            return Err(SettingsError::typed(text));
        }
        let peer = match &other {
            Endpoint::Local(_) => String::new(),
            Endpoint::Daemon { place, .. } => place.host.clone(),
            Endpoint::Remote { host, .. } | Endpoint::Module { host, .. } => {
                host.rsplit_once('@').map_or(host.as_str(), |(_, host)| host).to_string()
            }
        };
        let settings =
            |root, layer: &Layer| machine.settings(Some(root), pair, layer.clone(), &peer);
        let here = settings(&local, &typed.layer)?;
        let there = match &other {
            Endpoint::Local(root) => settings(root, &typed.layer)?,
            _ => here.clone(),
        };
        let home = || state_home(typed.state_dir.clone());
        let values = here.values();
        Ok(Options {
            pair: pair.map(str::to_string),
            local,
            other,
            other_first: false,
            rsh: values.rsh().words().to_vec(),
            program: values.psync_path(),
            dry_run: typed.dry_run,
            verbosity: typed.verbosity,
            quiet: typed.quiet,
            itemize: typed.itemize,
            stats: typed.stats,
            json: typed.json,
            progress: typed.progress,
            compression: here.compression(),
            filters: here.filters(),
            rate: values.bwlimit().0,
            timeout: values.timeout().0,
            delete_limit: values.max_delete(),
            empty_is_meant: values.delete_limit_is_typed(),
            doubt: None,
            change_limit: values.max_change(),
            mode: values.mode(),
            rules: here.rulebook(),
            keeping: config::keeping(&here, home()),
            keeping_there: config::keeping(&there, home()),
            store_there: !values.store_switched_off_by_hand(),
            plan: PlanUse::Fresh,
        })
    }
}
