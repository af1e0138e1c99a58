//! What files, the environment and the command line come to together.

use crate::reconcile::Policy;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::file::{self, parse};
use super::*;
use crate::journal::Trashed;
use crate::reconcile::{DeleteLimit, Mode};
use psync_protocol::RelPath;

fn at(text: &str, level: Level) -> Result<file::Settled, String> {
    parse(text, Path::new("psync.toml"), level).map_err(|error| error.to_string())
}

fn settings(text: &str) -> Settings {
    Settings::new(at(text, Level::User).unwrap().layer, "there")
}

fn wrong(text: &str) -> String {
    at(text, Level::User).err().unwrap_or_else(|| panic!("is taken: {text}"))
}

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path =
            std::env::temp_dir().join(format!("psync-settings-{name}-{}", std::process::id()));
        std::fs::create_dir_all(path.join("root")).unwrap();
        Folder(path)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.0.join(name), text).unwrap();
    }

    fn sources(&self, environment: &[(&str, &str)]) -> Sources {
        let pair = |&(name, value): &(&str, &str)| (name.to_string(), value.to_string());
        Sources {
            user: Some(self.0.join("user.toml")),
            system: self.0.join("system.toml"),
            environment: environment.iter().map(pair).collect(),
            home: Some("/home/ana".into()),
            commands: vec!["log"],
        }
    }

    fn machine(&self, environment: &[(&str, &str)]) -> Result<Machine, String> {
        Machine::read(self.sources(environment)).map_err(|error| error.to_string())
    }

    fn settings(&self, machine: &Machine, pair: Option<&str>, typed: Layer) -> Settings {
        machine.settings(Some(&self.0.join("root")), pair, typed, "there").unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn typed(key: &str, value: &str) -> Layer {
    let mut layer = Layer::default();
    layer.set_text(key, value, Origin::CommandLine(format!("--{key}"))).unwrap();
    layer
}

#[test]
fn an_empty_file_changes_nothing() {
    for text in ["", "# nothing\n[store]\n", "exclude = []"] {
        let settings = settings(text);
        assert_eq!(settings.store(), StoreConfig::default());
        assert!(settings.shown().iter().all(|shown| shown.origin == Origin::Default), "{text}");
        assert!(settings.filters().is_empty());
    }
}

#[test]
fn every_key_can_be_set_to_its_default_and_says_so() {
    for key in KEYS.iter().filter(|key| !key.in_pair_only()) {
        let value = (key.default)().unwrap();
        let shown = settings(&format!("{} = {value}", key.name)).shown();
        if let Some(shown) = shown.iter().find(|shown| shown.key.name == key.name) {
            assert_eq!(shown.value.as_ref(), Some(&value));
            let is_line = matches!(shown.origin, Origin::File { line: 1, .. });
            assert!(is_line, "{}: {:?}", key.name, shown.origin);
        }
    }
}

#[test]
fn every_setting_can_be_made() {
    let settings = settings(
        "mode = 'push'\nmax-delete = '10%'\nbwlimit = 500\ntimeout = '5min'\ncompress-level = 7\n\
         rsh = 'ssh -p 22'\npsync-path = 'bin/psync'\nname = 'laptop'\n\
         [store]\nenabled = false\nbudget = \"1.5G\"\nlargest-file = \"2M\"\n\
         [trash]\nmax-size = '5M'\nretention = '7d'\n[history]\nkeep-versions = 3\n",
    );
    let values = settings.values();
    assert_eq!(values.mode(), RunMode::Push);
    assert_eq!(values.max_delete(), DeleteLimit::Percent(10));
    assert_eq!(values.bwlimit(), Rate(Some(512_000)));
    assert_eq!(values.timeout().0, Some(Duration::from_secs(300)));
    assert_eq!(settings.compression(), Compression::Level(7));
    assert_eq!(values.rsh().words(), ["ssh", "-p", "22"]);
    assert_eq!(values.psync_path(), "bin/psync");
    assert_eq!(settings.names(), ("laptop".into(), "there".into()));
    let store =
        StoreConfig { enabled: false, budget: Budget::Bytes(3 << 29), largest_file: 2 << 20 };
    assert_eq!(settings.store(), store);
    assert_eq!(values.trash_max_size(), Bytes(5 << 20));
    assert_eq!(values.trash_retention(), Age::days(7));
    assert_eq!(values.keep_versions(), KeepVersions(Some(3)));
}

#[test]
fn what_the_trash_keeps_is_as_documented_and_as_set() {
    let usual = settings("").retention();
    assert_eq!(format!("{usual:?}"), format!("{:?}", Retention::default()));
    let set = settings(
        "[trash]\nenabled = false\nmax-size = '1M'\nretention = 'forever'\nbudget = '5%'\n\
         [history]\nkeep-versions = 3\nretention = '7d'\n\
         [[rule]]\npattern = '*.tmp'\ntrash = 'no'\n[[rule]]\npattern = 'x'\nmode = 'off'\n",
    );
    let set = set.retention();
    assert_eq!((set.trash, set.trash_max_size, set.keep_versions), (false, 1 << 20, Some(3)));
    assert_eq!((set.trash_retention, set.trash_budget), (Duration::MAX, TrashBudget::Percent(5)));
    assert_eq!(set.journal_retention, Duration::from_secs(7 * 86_400));
    assert_eq!(set.rules.len(), 1);
}

#[test]
fn a_rule_keeps_all_versions_where_the_history_keeps_few() {
    let set = settings(
        "[history]\nkeep-versions = 1\n[[rule]]\npattern = '*.txt'\nkeep-versions = 'all'\n",
    );
    assert_eq!(
        set.rules_shown()[0].shown()[1],
        ("keep-versions".to_string(), "\"all\"".to_string())
    );
    let path = |name: &str| RelPath::new(name.as_bytes()).unwrap();
    let trashed = |name: &str, since| Trashed {
        place: name.as_bytes().into(),
        path: Some(path(name)),
        size: 1,
        since,
        hash: None,
        elsewhere: false,
    };
    let items = ["a.txt", "b.bin"].map(|name| [1, 2].map(|since| trashed(name, since))).concat();
    assert_eq!(set.retention().surplus(&items, 0, 3), [2], "the older b.bin");
}

#[test]
fn a_budget_in_percent_follows_the_tree() {
    let rules = |budget| StoreConfig { budget, ..StoreConfig::default() }.rules(80 << 30);
    assert_eq!(rules(Budget::Percent(10)).budget, 8 << 30);
    assert_eq!(rules(Budget::Default).budget, 8 << 30);
    assert_eq!(rules(Budget::Bytes(7)).budget, 7);
}

#[test]
fn what_is_not_known_or_makes_no_sense_is_an_error_with_its_line() {
    let cases: [(&str, usize, &[&str]); 35] = [
        ("[store]\nbugdet = \"1G\"", 2, &["bugdet'", "did you mean 'store.budget'"]),
        ("\n\n[stores]", 3, &["[stores]", "did you mean 'store'"]),
        ("largest-file = '1G'", 1, &["did you mean 'store.largest-file'"]),
        ("max_delete = 5", 1, &["did you mean 'max-delete'"]),
        ("something = 5", 1, &["'something'; 'psync config keys' lists them"]),
        ("polcy = 'hold'", 1, &["did you mean 'policy'"]),
        ("[store]\n\nbudget = 5", 3, &["store.budget: 5 is not"]),
        ("[store]\nbudget = \"five\"", 2, &["'five' is not"]),
        ("[store]\nbudget = \"101%\"", 2, &["'101%'"]),
        ("[store]\nbudget = \"-1G\"", 2, &["'-1G'"]),
        ("[store]\nlargest-file = \"1X\"", 2, &["store.largest-file: '1X'"]),
        ("[store]\nenabled = \"maybe\"", 2, &["'maybe' is not true or false"]),
        ("store = 1", 1, &["store is a table"]),
        ("[store]\nbudget = \"1G", 2, &["psync.toml"]),
        ("mode = 'pusch'", 1, &["'pusch' is not", "did you mean 'push'"]),
        ("mode = true", 1, &["true is not two-way"]),
        ("[policy]\nmodifed-both = 'hold'", 2, &["did you mean 'policy.modified-both'"]),
        ("policy = 'no name'", 1, &["policy: 'no name' is not keep-both"]),
        ("exclude = '*.o'", 1, &["exclude: '*.o' is not a list"]),
        ("exclude = ['a', 5]", 1, &["exclude: a list is not a list of patterns"]),
        ("exclude = ['[z-a]']", 1, &["'[z-a]' is not a pattern"]),
        ("profiles = ['pyton']", 1, &["did you mean 'python'"]),
        ("[[rule]]\npatern = 'x'", 2, &["did you mean 'pattern'"]),
        ("[[rule]]\nmode = 'off'", 1, &["needs a pattern"]),
        ("a = 1\n[[rule]]\npattern = 'x'", 1, &["no key 'a'"]),
        ("[[rule]]\npattern = 'x'", 1, &["says nothing"]),
        ("[[rule]]\npattern = 'x'\nmax-size = 20", 3, &["max-size: 20 is not"]),
        ("[[rule]]\npattern = 'x'\npolicy = { tipe = 'hold' }", 3, &["did you mean 'type'"]),
        ("rule = 'x'", 1, &["[[rule]]"]),
        ("pair = 'x'", 1, &["[pair.NAME]"]),
        ("[pair.a]\nlocla = '/x'", 2, &["did you mean 'local'"]),
        ("[pair.a]\nlocal = 'x'", 2, &["local: 'x' is not an absolute path"]),
        ("[pair.'a b']\nlocal = '/x'", 1, &["'a b' is not a name"]),
        ("local = '/x'", 1, &["table of a pair"]),
        ("mode = 'push'\nmode = 'pull'", 2, &["psync.toml"]),
    ];
    for (text, line, words) in cases {
        let told = wrong(text);
        assert!(told.starts_with(&format!("psync.toml, line {line}: ")), "{text}: {told}");
        for word in words {
            assert!(told.contains(word), "{text}: {told}: no '{word}'");
        }
    }
}

#[test]
fn a_root_s_file_may_name_no_programs_pairs_or_names() {
    for text in
        ["rsh = 'sh -c evil'", "psync-path = 'evil'", "name = 'me'", "[pair.a]\nlocal = '/x'"]
    {
        let told = at(text, Level::Root).err().unwrap();
        assert!(told.contains("come over the line") && told.contains("line 1"), "{told}");
        let of_person = at(text, Level::User);
        assert!(of_person.is_ok(), "{text}");
    }
    assert!(at("local = '/x'", Level::Root).is_err());
    assert!(at("mode = 'mirror-pull'", Level::Root).is_err());
    assert!(at("mode = 'pull'", Level::Root).is_ok());
    assert!(at("max-delete = 5\nexclude = ['*.o']", Level::Root).is_ok());
}

#[test]
fn a_root_s_file_may_only_be_stricter_about_what_is_deleted_and_kept() {
    let weaker = [
        ("max-delete = '100%'", "max-delete: \"100%\" is less careful than \"auto\""),
        ("max-delete = 101", "max-delete"),
        ("max-change = '91%'", "max-change"),
        ("max-change = 101", "max-change"),
        ("trash.enabled = false", "trash.enabled: false is less careful than true"),
        ("trash.max-size = '19M'", "trash.max-size"),
        ("trash.retention = '29d'", "trash.retention"),
        ("trash.budget = '0'", "trash.budget"),
        ("trash.budget = '100G'", "trash.budget"),
        ("history.keep-versions = 99", "history.keep-versions: 99 is less careful than \"all\""),
        ("history.retention = '0s'", "history.retention"),
        ("store.enabled = false", "store.enabled"),
        ("store.budget = '1%'", "store.budget"),
        ("store.largest-file = '1M'", "store.largest-file"),
        ("rule = [{ pattern = '*', trash = false }]", "trash: false"),
        ("rule = [{ pattern = '*', keep-versions = 3 }]", "keep-versions: 3"),
    ];
    for (text, named) in weaker {
        let told = at(text, Level::Root).err().unwrap_or_else(|| panic!("is taken: {text}"));
        assert!(told.contains(named) && told.contains("line 1"), "{told}");
        assert!(told.contains("come over the line"), "{told}");
        assert!(at(text, Level::User).is_ok(), "{text}");
    }
    for key in KEYS.iter().filter(|key| key.allowed == Allowed::OnlyStricterInRoot) {
        let tried = weaker.iter().any(|(text, _)| text.starts_with(&format!("{} =", key.name)));
        assert!(tried, "{}", key.name);
        let default = format!("{} = {}", key.name, (key.default)().unwrap());
        assert!(at(&default, Level::Root).is_ok(), "{default}");
    }
    let stricter = "max-delete = '50%'\nmax-change = 100\ntrash.retention = 'forever'\n\
         trash.max-size = '1G'\nhistory.retention = '2y'\nstore.largest-file = '1G'\n\
         [[rule]]\npattern = '*'\ntrash = true\nkeep-versions = 'all'\n";
    assert!(at(stricter, Level::Root).is_ok());
}

#[test]
fn later_layers_override_earlier_ones() {
    let folder = Folder::new("layers");
    let limit = |environment: &[(&str, &str)], typed: Layer| {
        let machine = folder.machine(environment).unwrap();
        let settings = folder.settings(&machine, None, typed);
        let shown = settings.shown().into_iter().find(|shown| shown.key.name == "max-delete");
        (settings.values().max_delete(), shown.unwrap().origin.layer())
    };
    let none = Layer::default;
    assert_eq!(limit(&[], none()), (DeleteLimit::Half, "default"));
    folder.write("root/.psync.toml", "max-delete = 1");
    assert_eq!(limit(&[], none()), (DeleteLimit::Count(1), "root"));
    folder.write("user.toml", "max-delete = 2");
    assert_eq!(limit(&[], none()), (DeleteLimit::Count(2), "user"));
    folder.write("system.toml", "max-delete = 3");
    assert_eq!(limit(&[], none()), (DeleteLimit::Count(3), "system"));
    let environment = [("PSYNC_MAX_DELETE", "4")];
    assert_eq!(limit(&environment, none()), (DeleteLimit::Count(4), "environment"));
    let by_hand = limit(&environment, typed("max-delete", "5"));
    assert_eq!(by_hand, (DeleteLimit::Count(5), "command-line"));
}

#[test]
fn lists_add_up_with_the_strongest_first() {
    let folder = Folder::new("lists");
    let text = |name: &str| {
        format!(
            "exclude = ['{name}-out']\ninclude = ['{name}-in']\nprofiles = ['macos']\n[[rule]]\npattern = '{name}'\nmode = 'off'\n"
        )
    };
    folder.write("root/.psync.toml", text("root"));
    folder.write("user.toml", text("user"));
    folder.write("system.toml", text("system"));
    let machine = folder.machine(&[("PSYNC_EXCLUDE", "[\"env-1\", \"env-2\"]")]).unwrap();
    let settings = folder.settings(&machine, None, typed("exclude", "typed"));
    let filters = settings.filters();
    let patterns: Vec<&str> = filters.iter().map(|filter| filter.pattern.as_str()).collect();
    let expected = [
        "typed",
        "env-1",
        "env-2",
        "system-in",
        "system-out",
        "user-in",
        "user-out",
        "root-in",
        "root-out",
        ".DS_Store",
    ];
    assert_eq!(patterns[..10], expected);
    let twice = patterns.iter().filter(|pattern| **pattern == ".DS_Store").count();
    assert_eq!(twice, 1);
    let rules = settings.rulebook().rules;
    let patterns: Vec<&str> = rules.iter().map(|rule| rule.pattern.as_str()).collect();
    assert_eq!(patterns, ["system", "user", "root"]);
    assert!(rules[1].origin.ends_with("user.toml, line 4"), "{}", rules[1].origin);
}

#[test]
fn a_pair_has_sides_and_settings_of_its_own() {
    let folder = Folder::new("pairs");
    folder.write(
        "user.toml",
        "max-delete = 1\npolicy = 'newest'\n[pair.p1]\nlocal = '~/p1'\nremote = 'ana@host:p1'\nmax-delete = 2\n\
         exclude = ['*.o']\n[pair.p1.policy]\ntype = 'hold'\n[pair.p2]\nlocal = '/p2'\n",
    );
    folder
        .write("system.toml", "[pair.p1]\ntimeout = 5\n[pair.p3]\nlocal = '/a'\nremote = '~/b'\n");
    let machine = folder.machine(&[]).unwrap();
    let names: Vec<&str> = machine.pairs().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["p1", "p2", "p3"]);
    let sides = machine.pair("p1").unwrap();
    assert_eq!(sides.local, Path::new("/home/ana/p1"));
    assert_eq!(sides.remote, "ana@host:p1");
    assert_eq!(machine.pair("p3").unwrap().remote, "/home/ana/b");
    let told = machine.pair("p2").unwrap_err().to_string();
    assert!(told.contains("'p2' has no 'remote'") && told.contains("line 10"), "{told}");
    let p1 = folder.settings(&machine, Some("p1"), Layer::default());
    assert_eq!(p1.values().max_delete(), DeleteLimit::Count(2));
    assert_eq!(p1.values().timeout().0, Some(Duration::from_secs(5)));
    let policies = p1.rulebook().policies;
    assert!(policies.contains(&(ConflictKind::Type, Policy::Hold)));
    assert!(policies.contains(&(ConflictKind::ModifiedBoth, Policy::Newest)));
    assert_eq!(p1.filters().len(), 1);
    let plain = folder.settings(&machine, None, Layer::default());
    assert_eq!(plain.values().max_delete(), DeleteLimit::Count(1));
    assert!(plain.filters().is_empty());
    for (wrong, meant) in [("p", "did you mean 'p1'"), ("elsewhere", "the pairs are p1, p2, p3")] {
        let told = machine.pair(wrong).unwrap_err();
        assert!(told.to_string().contains(meant) && !told.is_in_file(), "{told}");
    }
    folder.write("user.toml", "[pair.log]\nlocal = '/a'\nremote = '/b'");
    assert!(folder.machine(&[]).unwrap_err().contains("is a command"));
}

#[test]
fn a_policy_names_a_replica_that_is_known_or_says_that_it_is_one() {
    let folder = Folder::new("names");
    let check = |policy: &str| {
        let text = format!(
            "policy = '{policy}'\nname = 'laptop'\n[pair.p]\nlocal = '/a'\nremote = 'ana@server:b'\nremote-name = 'nas'\n\
             [[rule]]\npattern = 'x'\npolicy = 'hold'"
        );
        folder.write("user.toml", text.replace("[[rule]]", "[[pair.p.rule]]"));
        let machine = folder.machine(&[]).unwrap();
        let settings = machine.settings(None, None, Layer::default(), "there");
        settings.map(|settings| settings.rulebook()).map_err(|error| error.to_string())
    };
    for known in ["laptop", "nas", "server", "there", "replica:other"] {
        let name = known.trim_start_matches("replica:").to_string();
        let rulebook = check(known).unwrap();
        assert_eq!(rulebook.policies[0].1, Policy::Replica(name));
    }
    let told = check("newst").unwrap_err();
    assert!(told.contains("line 1: policy.") && told.contains("did you mean 'newest'"), "{told}");
}

#[test]
fn rules_say_what_they_are_asked_for() {
    let settings = settings(
        "[[rule]]\npattern = '*.db'\nmode = 'push'\nmax-size = '1G'\nwarn-size = '1M'\npriority = -3\n\
         policy = { type = 'hold', modified-both = 'newest' }\ntrash = false\nkeep-versions = 2\nmerge = 'structured'\n",
    );
    let rulebook = settings.rulebook();
    let [rule] = &rulebook.rules[..] else { panic!("{rulebook:?}") };
    assert_eq!((rule.mode, rule.priority), (Some(Mode::Push), Some(-3)));
    assert_eq!((rule.max_size, rule.warn_size), (Some(1 << 30), Some(1 << 20)));
    assert_eq!((rule.trash, rule.keep_versions), (Some(false), Some(2)));
    let policies =
        [(ConflictKind::ModifiedBoth, Policy::Newest), (ConflictKind::Type, Policy::Hold)];
    assert!(policies.iter().all(|policy| rule.policies.contains(policy)));
    assert_eq!(rule.merge_by_key, Some(true));
    let shown = settings.rules_shown()[0].shown();
    let keys: std::collections::BTreeSet<&str> =
        shown.iter().filter_map(|(name, _)| name.split('.').next()).collect();
    assert_eq!(keys.len(), RULE_KEYS.len());
    let again: String = shown.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
    let again = at(&format!("[[rule]]\n{again}"), Level::User).unwrap();
    assert_eq!(again.layer.rules[0].shown(), shown);
}

#[test]
fn a_variable_that_is_nearly_a_key_s_is_an_error_and_others_are_somebody_else_s() {
    let folder = Folder::new("environment");
    let told = |name: &str, value: &str| folder.machine(&[(name, value)]).map(|_| ());
    assert!(told("PSYNC_MAX_DELET", "5").unwrap_err().contains("did you mean PSYNC_MAX_DELETE"));
    assert!(told("PSYNC_MAX_DELETE", "5x").unwrap_err().starts_with("PSYNC_MAX_DELETE: '5x'"));
    assert!(told("PSYNC_POLICY_TYPE", "nonsense here").is_err());
    for fine in ["PSYNC_LINE_RATE", "PSYNC_KEEP_TEMP", "PSYNC_BIN", "PSYNC_SYSTEM_CONFIG"] {
        assert_eq!(told(fine, "x"), Ok(()), "{fine}");
    }
    assert_eq!(told("PSYNC_RSH", ""), Ok(()));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = Folder::new("unreadable");
    folder.write("user.toml", b"mode = 'push'\nname = '\xff'\n");
    assert!(
        folder
            .machine(&[])
            .unwrap_err()
            .contains("user.toml: the settings cannot be read: line 2 is not UTF-8")
    );
    std::fs::remove_file(folder.0.join("user.toml")).unwrap();
    std::fs::create_dir(folder.0.join("user.toml")).unwrap();
    assert!(folder.machine(&[]).unwrap_err().contains("it is not a file"));
    std::fs::remove_dir(folder.0.join("user.toml")).unwrap();
    let machine = folder.machine(&[]).unwrap();
    // What came over the line leads nowhere else.
    folder.write("secret", "password");
    std::os::unix::fs::symlink("../secret", folder.0.join("root/.psync.toml")).unwrap();
    let told = machine.settings(Some(&folder.0.join("root")), None, Layer::default(), "");
    assert!(told.unwrap_err().to_string().contains("symbolic link"));
}

#[test]
fn every_key_is_in_the_manual_with_its_default() {
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/psync.toml.5");
    let manual = std::fs::read_to_string(manual).unwrap();
    let entry = |name: &str| {
        let start = format!(".It Ic {name}\n");
        let (_, rest) = manual.split_once(&start).unwrap_or_else(|| panic!("no '{name}'"));
        rest.split("\n.It ").next().unwrap_or(rest).to_string()
    };
    for key in KEYS {
        let text = entry(key.name);
        match (key.default)() {
            _ if key.name == "name" => {}
            Some(default) => {
                assert!(text.contains(&format!(".Ql {default}")), "{}: {default}", key.name)
            }
            None => assert!(!text.contains("Default"), "{}", key.name),
        }
        let in_root = [
            (Allowed::OnlyStricterInRoot, "In a root's file only stricter."),
            (Allowed::NotInRoot, "Not in a root's file."),
        ];
        for (allowed, words) in in_root {
            assert_eq!(text.contains(words), key.allowed == allowed, "{}: {words}", key.name);
        }
    }
    for key in RULE_KEYS {
        entry(key.name);
    }
    let keys = manual.lines().filter_map(|line| line.strip_prefix(".It Ic "));
    for name in keys {
        let known =
            KEYS.iter().any(|key| key.name == name) || RULE_KEYS.iter().any(|key| key.name == name);
        assert!(known, "the manual has '{name}', which is no key");
    }
    for profile in PROFILES {
        assert!(manual.contains(&format!(".It Cm {}\n", profile.name)), "{}", profile.name);
    }
}

proptest::proptest! {
    /// Pieces of files in any order: whatever comes of them, it is settings or an error with a line.
    #[test]
    fn no_text_makes_reading_panic(pieces in proptest::collection::vec(0..PIECES.len(), 0..12), noise in ".{0,20}") {
        let text: String = pieces.iter().map(|&at| PIECES[at]).chain([noise.as_str()]).collect();
        for level in [Level::Root, Level::User] {
            match at(&text, level) {
                Ok(settled) => drop(Settings::new(settled.layer, "").shown()),
                Err(told) => proptest::prop_assert!(told.starts_with("psync.toml, line "), "{}", told),
            }
        }
        for key in KEYS {
            let _ = Layer::default().set_text(key.name, &text, Origin::CommandLine("--set".into()));
        }
    }
}

const PIECES: &[&str] = &[
    "mode",
    "policy",
    "store",
    "rule",
    "pair",
    "exclude",
    "profiles",
    "max-delete",
    "pattern",
    "local",
    " = ",
    "\n",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "'",
    "\"",
    ".",
    ",",
    "5",
    "-1",
    "'5%'",
    "true",
    "'newest'",
    "'*.o'",
    "[rule]\n",
    "[[rule]]\n",
    "[pair.p]\n",
    "[policy]\n",
    "[store]\n",
    "type = 'hold'\n",
    "pattern = 'x'\n",
    "1e400",
    "1979-05-27",
    "\"\\u0000\"",
    "é",
    "'99999999999999999999T'",
    "\u{0}",
];
