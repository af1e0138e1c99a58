//! The table of all keys: from it values are parsed, shown, and checked against the manual page.

use super::amount::{
    Age, Budget, Bytes, CompressLevel, KeepVersions, Memory, Patience, Quota, Rate,
};
use super::nearest;
use super::origin::{Level, Origin, Set, SettingsError};
use super::value::{Setting, Words, Written};
use super::words::{LocalPath, PolicyWord, ReplicaName, RunMode, Side, conflict_kind};
use crate::reconcile::{ChangeLimit, DeleteLimit};
use crate::report::ConflictKind;
use crate::root::KeepFree;

/// Where a key may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// In every file, in a pair's table, in the environment and on the command line.
    Anywhere,
    /// Not in the file of a root, which may have come over the line: it names programs, or says
    /// something about this machine.
    NotInRoot,
    /// Everywhere; but in the file of a root only where it makes psync at least as careful as it is
    /// anyway: it is a guard, or says how much of what is deleted and replaced is kept.
    OnlyStricterInRoot,
    /// Only in the table of a pair.
    InPair,
}

/// A key, for people.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name, with dots where it stands in a table.
    pub name: &'static str,
    /// What its value has to be, to follow "is not".
    pub expected: &'static str,
    /// Its value where nobody sets it, as a file would say it; none where it then has none.
    pub default: fn() -> Option<String>,
    /// What it is for.
    pub about: &'static str,
    /// Where it may stand.
    pub allowed: Allowed,
    /// Whether what stands in several places adds up.
    pub adds_up: bool,
}

impl Key {
    /// Whether it only says something about a pair.
    pub fn in_pair_only(&self) -> bool {
        self.allowed == Allowed::InPair
    }

    /// The variable of the environment that sets it.
    pub fn variable(&self) -> String {
        let name: String =
            self.name.chars().map(|c| if matches!(c, '-' | '.') { '_' } else { c }).collect();
        format!("PSYNC_{}", name.to_ascii_uppercase())
    }
}

/// The effective value of a key, for people.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The key.
    pub key: &'static Key,
    /// The value as a file would say it; none where it has none.
    pub value: Option<String>,
    /// Where it comes from.
    pub origin: Origin,
}

macro_rules! keys {
    (
        values { $($(#[doc = $doc:literal])+ $field:ident $name:literal: $type:ty = $default:expr, $allowed:ident;)* }
        lists { $($(#[doc = $list_doc:literal])+ $list:literal: $expected:literal;)* }
    ) => {
        /// The values of all keys that have one, as far as they are set.
        #[derive(Debug, Clone, Default)]
        pub struct Values { $($field: Option<Set<$type>>,)* }

        /// All keys, in the order in which they are documented.
        pub const KEYS: &[Key] = &[
            $(Key {
                name: $name,
                expected: <$type as Setting>::EXPECTED,
                default: || {
                    let default: $type = $default;
                    default.written()
                },
                about: concat!($($doc),+),
                allowed: Allowed::$allowed,
                adds_up: false,
            },)*
            $(Key {
                name: $list,
                expected: $expected,
                default: || Some("[]".into()),
                about: concat!($($list_doc),+),
                allowed: Allowed::Anywhere,
                adds_up: true,
            },)*
        ];

        impl Values {
            $($(#[doc = $doc])+
            pub fn $field(&self) -> $type {
                self.$field.as_ref().map_or_else(|| $default, |set| set.value.clone())
            })*

            /// Sets a key; false where there is none of this name, or it is a list.
            pub(super) fn set(&mut self, name: &str, written: Written<'_>, origin: &Origin) -> Result<bool, SettingsError> {
                match name {
                    $($name => {
                        let value = understand(name, written, origin)?;
                        if Allowed::$allowed == Allowed::OnlyStricterInRoot {
                            check_strict(name, &value, &$default, origin)?;
                        }
                        self.$field = Some(Set { value, origin: origin.clone() });
                    })*
                    _ => return Ok(false),
                }
                Ok(true)
            }

            /// These, and where they set nothing, weaker ones.
            pub(super) fn over(self, weaker: Values) -> Values {
                Values { $($field: self.$field.or(weaker.$field),)* }
            }

            /// The effective value of each, in the order of [`KEYS`].
            pub(super) fn shown(&self) -> Vec<Shown> {
                let origins = [$(self.$field.as_ref().map(|set| &set.origin),)*];
                let values = [$(self.$field().written(),)*];
                let all = KEYS.iter().zip(values).zip(origins);
                all.map(|((key, value), origin)| {
                    let origin = origin.cloned().unwrap_or(Origin::Default);
                    Shown { key, value, origin }
                })
                .collect()
            }
        }
    };
}

keys! {
    values {
        /// Which way the run goes: two-way; push or pull (one way, and what the other side has
        /// changed itself is left); mirror-push or mirror-pull (the one side becomes exactly what
        /// the other is).
        mode "mode": RunMode = RunMode::TwoWay, Anywhere;
        /// Stop before the first change if more would be deleted on a side: a number of entries,
        /// or a percentage of them. auto is half of them, and never fewer than 100.
        max_delete "max-delete": DeleteLimit = DeleteLimit::Half, OnlyStricterInRoot;
        /// Stop before the first change if more files of a side have another content at once: a
        /// number of files, or a percentage of them. auto is nine tenths of them, and never fewer
        /// than 100.
        max_change "max-change": ChangeLimit = ChangeLimit::NineTenths, OnlyStricterInRoot;
        /// Send at most so many KiB a second (or with a suffix K, M, G, or B for bytes). 0 is no
        /// limit.
        bwlimit "bwlimit": Rate = Rate(None), Anywhere;
        /// Give up when nothing comes from the other side for so many seconds (or 5min, 1h). 0
        /// waits for ever.
        timeout "timeout": Patience = Patience(None), Anywhere;
        /// Compress what crosses the line.
        compress "compress": bool = true, Anywhere;
        /// The level of zstd for it, 1 to 19. auto is what fits the line.
        compress_level "compress-level": CompressLevel = CompressLevel(None), Anywhere;
        /// The remote shell, with its arguments.
        rsh "rsh": Words = Words::one("ssh"), NotInRoot;
        /// The program on the remote side.
        psync_path "psync-path": String = String::from("psync"), NotInRoot;
        /// What this replica is called in policies.
        name "name": ReplicaName = ReplicaName::of_this_host(), NotInRoot;
        /// What is done about a file whose content was changed on both sides.
        modified_both "policy.modified-both": PolicyWord = PolicyWord::default(), Anywhere;
        /// About a path at which each side has made something else.
        created_both "policy.created-both": PolicyWord = PolicyWord::default(), Anywhere;
        /// About a mode that was changed on both sides.
        properties_both "policy.properties-both": PolicyWord = PolicyWord::default(), Anywhere;
        /// About a file that was moved to different places.
        moved_both "policy.moved-both": PolicyWord = PolicyWord::default(), Anywhere;
        /// About a path that became different kinds of thing.
        type_ "policy.type": PolicyWord = PolicyWord::default(), Anywhere;
        /// About a file that one side deleted and the other changed.
        delete_modify "policy.delete-modify": PolicyWord = PolicyWord::default(), Anywhere;
        /// Whether what is deleted or replaced goes to the trash.
        trash_enabled "trash.enabled": bool = true, OnlyStricterInRoot;
        /// Larger files are deleted directly; the report names them.
        trash_max_size "trash.max-size": Bytes = Bytes(20 << 20), OnlyStricterInRoot;
        /// How long what is in the trash is kept.
        trash_retention "trash.retention": Age = Age::days(30), OnlyStricterInRoot;
        /// How much the trash may take: an amount, or a share of the tree. auto is 1 GiB or a
        /// tenth of the tree, whichever is more.
        trash_budget "trash.budget": Budget = Budget::Default, OnlyStricterInRoot;
        /// How many old versions of a file stay in the trash, within its budget.
        keep_versions "history.keep-versions": KeepVersions = KeepVersions(None), OnlyStricterInRoot;
        /// How long the journal remembers a run, which can then be told of and undone.
        history_retention "history.retention": Age = Age::days(365), OnlyStricterInRoot;
        /// Whether old contents are remembered, so that a later edit crosses the line as a patch.
        store_enabled "store.enabled": bool = true, OnlyStricterInRoot;
        /// How much the store may take: an amount, or a share of the tree. auto is 1 GiB or a
        /// tenth of the tree, whichever is more.
        store_budget "store.budget": Budget = Budget::Default, OnlyStricterInRoot;
        /// Of larger files only hashes are remembered.
        store_largest_file "store.largest-file": Bytes = Bytes(crate::store::Rules::LARGEST_FILE), OnlyStricterInRoot;
        /// How much stays free on the file system of a root: a file that would take of it does not
        /// come, and is tried again by the next run. auto is a twentieth of the file system or 1 GiB,
        /// whichever is less.
        keep_free "limits.keep-free": KeepFree = KeepFree::Usual, NotInRoot;
        /// How much may wait in the stage of a root for being put in its place; a larger file does
        /// not come. 0 is no limit but the disk.
        staging "limits.staging": Quota = Quota(None), NotInRoot;
        /// How much the other side may make psync hold in memory for as long as a run goes on. auto is
        /// half of what the machine has.
        memory "limits.memory": Memory = Memory(None), NotInRoot;
        /// The side on this machine.
        local "local": Option<LocalPath> = None, InPair;
        /// The other side.
        remote "remote": Option<Side> = None, InPair;
        /// What the other side is called in policies. If not set, its host.
        remote_name "remote-name": Option<ReplicaName> = None, InPair;
        /// The file that runs of this pair are written to.
        log "log": Option<LocalPath> = None, InPair;
    }
    lists {
        /// Leave alone what matches one of these patterns, on both sides.
        "exclude": "a list of patterns, as in [\"*.o\", \"/out/\"]";
        /// Do not leave alone what matches one of these; of one file they are asked before exclude.
        "include": "a list of patterns, as in [\"*.o\", \"/out/\"]";
        /// Leave alone junk that is well known, by the names of psync config profiles. Asked last.
        "profiles": "a list of names of profiles, as in [\"python\", \"node\"]";
        /// Folders that belong together, besides those that psync knows: a conflict in one is a
        /// conflict of the whole, and it is never published half.
        "units": "a list of patterns, as in [\"*.sparsebundle/\"]";
    }
}

/// Refuses what makes psync less careful than it is anyway, where a root's file says it.
pub(super) fn check_strict<T: Setting>(
    name: &str,
    value: &T,
    usual: &T,
    origin: &Origin,
) -> Result<(), SettingsError> {
    if !matches!(origin, Origin::File { level: Level::Root, .. }) || value.is_as_strict_as(usual) {
        return Ok(());
    }
    let [value, usual] = [value, usual].map(|value| value.written().unwrap_or_default());
    let text = format!(
        "{value} is less careful than {usual}, the default, or may be; a root's file may only be stricter, as it may have come over the line. It belongs in the user's psync.toml"
    );
    Err(SettingsError::of_key(origin, name, &text))
}

/// Understands a value, or says what was expected.
pub(super) fn understand<T: Setting>(
    name: &str,
    written: Written<'_>,
    origin: &Origin,
) -> Result<T, SettingsError> {
    T::from_written(written).ok_or_else(|| {
        let shown = written.shown();
        let meant = nearest::did_you_mean(shown.trim_matches('\''), T::words());
        SettingsError::of_key(origin, name, &format!("{shown} is not {}{meant}", T::EXPECTED))
    })
}

/// The key of this name.
pub(super) fn named(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Tables that hold keys.
pub(super) const TABLES: [&str; 5] = ["policy", "trash", "history", "store", "limits"];

/// What is said of a name that is no key: the nearest one, or where to look.
pub(super) fn unknown(name: &str, known: &[&'static str]) -> String {
    let shown = psync_protocol::path::printable(name.as_bytes());
    let meant = nearest::did_you_mean(name, known.iter().copied().chain(TABLES));
    // Somebody may know the last part of the name, and not its table.
    let within = || {
        let last = |known: &&&str| {
            known.rsplit('.').next() == Some(name.rsplit('.').next().unwrap_or(name))
        };
        known.iter().find(last).map(|known| format!("; did you mean '{known}'?"))
    };
    match (meant.is_empty(), within()) {
        (false, _) => format!("there is no key '{shown}'{meant}"),
        (true, Some(meant)) => format!("there is no key '{shown}'{meant}"),
        (true, None) => format!("there is no key '{shown}'; 'psync config keys' lists them"),
    }
}

impl Values {
    /// The policies, with the kinds of conflict that they are for, as far as they are set.
    pub(super) fn policies(&self) -> Vec<(ConflictKind, &Set<PolicyWord>)> {
        let words = [
            ("modified-both", &self.modified_both),
            ("created-both", &self.created_both),
            ("properties-both", &self.properties_both),
            ("moved-both", &self.moved_both),
            ("type", &self.type_),
            ("delete-modify", &self.delete_modify),
        ];
        words
            .into_iter()
            .filter_map(|(name, word)| Some((conflict_kind(name)?, word.as_ref()?)))
            .collect()
    }

    /// How strong the place is where the mode of the whole run was set.
    pub(super) fn mode_strength(&self) -> u8 {
        self.mode.as_ref().map_or(Origin::Default.strength(), |set| set.origin.strength())
    }

    /// Whether a limit for deletions was typed for this run. What a file or the environment says once
    /// for all is no word about a root that is empty today.
    pub fn delete_limit_is_typed(&self) -> bool {
        let typed = |set: &Set<DeleteLimit>| matches!(set.origin, Origin::CommandLine(_));
        self.max_delete.as_ref().is_some_and(|set| typed(set) && set.value != DeleteLimit::Half)
    }

    /// Whether the store was switched off on the command line, which is for both sides.
    pub fn store_switched_off_by_hand(&self) -> bool {
        let by_hand = |set: &Set<bool>| matches!(set.origin, Origin::CommandLine(_)) && !set.value;
        self.store_enabled.as_ref().is_some_and(by_hand)
    }
}
