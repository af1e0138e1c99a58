//! What people set: files, environment and command line over each other, named pairs, and what is
//! wrong with settings.
//!
//!     cargo test --test settings
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use common::pair::{Pair, Said, names, trashed};
use common::tree::snapshot;
use common::{TempDir, local_rsh, psync, psync_over, read_text, write_file};
use serde_json::Value;

/// A person with a home, a machine's file, and folders to sync.
struct Person {
    temp: TempDir,
}

impl Person {
    fn new() -> Person {
        Person { temp: TempDir::new() }
    }

    fn user(&self, text: &str) {
        write_file(self.temp.join("home/.config/psync/psync.toml"), text);
    }

    fn system(&self, text: &str) {
        write_file(self.temp.join("system.toml"), text);
    }

    fn path(&self, name: &str) -> String {
        self.temp.join(name).display().to_string()
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = psync(&self.temp);
        command.env("PSYNC_SYSTEM_CONFIG", self.temp.join("system.toml"));
        command.args(words).current_dir(self.temp.path());
        command
    }

    #[track_caller]
    fn says(&self, code: i32, words: &[&str]) -> Said {
        Said::of(&mut self.command(words), code)
    }

    /// A pair of folders below the home that differ, and its table.
    fn pair(&self, name: &str) -> String {
        write_file(self.temp.join(format!("home/{name}/here/file")), name);
        self.temp.folder(format!("home/{name}/there"));
        format!("[pair.{name}]\nlocal = '~/{name}/here'\nremote = '~/{name}/there'\n")
    }

    fn log(&self, name: &str) -> String {
        read_text(self.temp.join(format!("home/.local/state/psync/logs/{name}.log")))
    }

    /// The value of a key as `config show` tells it, and the layer that it comes from.
    #[track_caller]
    fn shown(&self, key: &str, words: &[&str], environment: &[(&str, &str)]) -> (Value, String) {
        let mut command = self.command(&["config", "show", "--json"]);
        command.args(words).envs(environment.iter().copied());
        let said = Said::of(&mut command, 0);
        let found = said.objects_of("setting").into_iter().find(|object| object["key"] == key);
        let found = found.unwrap_or_else(|| panic!("no '{key}'"));
        (found["value"].clone(), found["origin"]["layer"].as_str().unwrap().to_string())
    }
}

#[test]
fn each_layer_overrides_the_one_before_it() {
    let person = Person::new();
    let root = person.temp.folder("root");
    let there = ["--root", root.to_str().unwrap()];
    let limit = |environment: &[(&str, &str)]| {
        let (value, layer) = person.shown("max-delete", &there, environment);
        format!("{} {layer}", value.as_str().unwrap())
    };
    // Only what was synced, or says so, is a root: `config show` makes none.
    assert_eq!(limit(&[]), "\"auto\" default");
    write_file(root.join(".psync.toml"), "max-delete = 1");
    assert_eq!(limit(&[]), "1 root");
    person.user("max-delete = 2");
    assert_eq!(limit(&[]), "2 user");
    person.system("max-delete = 3");
    assert_eq!(limit(&[]), "3 system");
    assert_eq!(limit(&[("PSYNC_MAX_DELETE", "4%")]), "\"4%\" environment");
    assert!(!root.join(".psync").exists());
}

#[test]
fn a_run_obeys_what_each_layer_says() {
    let person = Person::new();
    for name in 0..10 {
        write_file(person.temp.join(format!("a/{name}")), "text");
    }
    person.says(0, &["./a", "./b"]);
    for name in 0..5 {
        fs::remove_file(person.temp.join(format!("a/{name}"))).unwrap();
    }
    person.user("max-delete = 4");
    person.says(41, &["./a", "./b"]).has("at most 4");
    person.system("max-delete = 3");
    person.says(41, &["./a", "./b"]).has("at most 3");
    let mut command = person.command(&["./a", "./b"]);
    Said::of(command.env("PSYNC_MAX_DELETE", "2"), 41).has("at most 2");
    command.env("PSYNC_MAX_DELETE", "2").arg("--max-delete=1");
    Said::of(&mut command, 41).has("at most 1");
    person.says(41, &["--set", "max-delete=0", "./a", "./b"]).has("at most 0");
    person.says(0, &["--max-delete=5", "./a", "./b"]).has("5 deleted");
}

#[test]
fn filters_of_all_layers_add_up_and_the_strongest_is_asked_first() {
    let person = Person::new();
    for name in ["kept.log", "user.o", "system.tmp", "root.bak", "typed.x", "text"] {
        write_file(person.temp.join("a").join(name), name);
    }
    write_file(person.temp.join("a/.psync.toml"), "exclude = ['*.bak', '/.psync.toml']\n");
    person.user("exclude = ['*.o', '*.log']\ninclude = ['kept.log']\n");
    person.system("exclude = ['*.tmp']\n");
    person.says(0, &["--exclude=*.x", "./a", "./b"]);
    assert_eq!(names(&person.temp.join("b")), ["kept.log", "text"]);
    person.says(0, &["--exclude=*.x", "--include=*.o", "./a", "./b"]);
    assert_eq!(names(&person.temp.join("b")), ["kept.log", "text", "user.o"]);
}

#[test]
fn a_profile_leaves_junk_where_it_is_and_deletes_nothing() {
    let pair = Pair::agreed(&[
        ("main.py", "code"),
        ("__pycache__/main.pyc", "old"),
        ("sub/__pycache__/x.pyc", "old"),
        ("node_modules/left-pad/index.js", "old"),
    ]);
    let before = (snapshot(&pair.a), snapshot(&pair.b));
    let profiles = ["--profile=python", "--profile=node"];
    pair.sync_expecting(0, &profiles).has("nothing to do");
    fs::remove_dir_all(pair.a.join("node_modules")).unwrap();
    write_file(pair.b.join("__pycache__/more.pyc"), "new");
    pair.sync_expecting(0, &profiles).has("nothing to do");
    assert!(pair.b.join("node_modules/left-pad/index.js").exists());
    assert!(!pair.a.join("__pycache__/more.pyc").exists());
    assert_eq!(before.1.len() + 1, snapshot(&pair.b).len());
    assert_eq!(before.0.len() - 3, snapshot(&pair.a).len());
    // What is included by hand is not junk.
    pair.sync_expecting(0, &["--include=__pycache__/", "--include=*.pyc", "--profile=python"]);
    assert!(pair.a.join("__pycache__/more.pyc").exists());
}

#[test]
fn what_the_other_side_s_own_settings_leave_alone_is_left_alone_on_both() {
    let pair = Pair::new();
    write_file(pair.a.join("x.o"), "object");
    write_file(pair.a.join("text"), "text");
    write_file(pair.b.join(".psync.toml"), "exclude = ['*.o', '/.psync.toml']\n");
    for _ in 0..2 {
        pair.sync_expecting(0, &[]);
        assert_eq!(names(&pair.b), [".psync.toml", "text"]);
        assert_eq!(names(&pair.a), ["text", "x.o"]);
    }
}

#[test]
fn a_pair_is_synced_by_its_name_and_its_log_says_so() {
    let person = Person::new();
    let table = person.pair("p1");
    person.user(&format!("{table}profiles = ['editors']\n"));
    write_file(person.temp.join("home/p1/here/file~"), "backup");
    person.says(0, &["p1"]).has("1 created");
    assert_eq!(names(&person.temp.join("home/p1/there")), ["file"]);
    let log = person.log("p1");
    assert!(log.contains("psync p1") && log.contains("1 created"), "{log}");
    assert!(log.trim_end().ends_with("exit code 0"), "{log}");
    person.says(0, &["p1", "-q"]);
    person.says(0, &["p1", "--json"]).has("\"pair\":\"p1\"");
    let log = person.log("p1");
    assert!(
        log.contains("\"type\":\"summary\"") && log.matches("exit code 0").count() == 3,
        "{log}"
    );
}

#[test]
fn all_pairs_are_synced_although_one_is_broken_and_the_worst_exit_code_is_told() {
    let person = Person::new();
    let [one, three] = ["one", "three"].map(|name| person.pair(name));
    let log = person.path("two.log");
    let two = format!("[pair.two]\nlocal = '/no/such/dir'\nremote = '/nor/this'\nlog = '{log}'\n");
    person.user(&format!("{one}{two}{three}"));
    let said = person.says(11, &["--all"]);
    said.has("one    1 created").has("three  1 created").has("two    exit code 11: ");
    said.has("no such directory").has("3 pairs, 2 done; exit code 11");
    for name in ["one", "three"] {
        assert_eq!(read_text(person.temp.join(format!("home/{name}/there/file"))), name);
        assert!(person.log(name).contains("create on"), "{}", person.log(name));
    }
    assert!(read_text(log).contains("no such directory"));
    let said = person.says(11, &["--all", "--quiet"]);
    said.has("two").has_not("one").has_not("3 pairs");
    let said = person.says(11, &["--all", "--json"]);
    let exits: Vec<i64> =
        said.objects_of("pair").iter().map(|pair| pair["exit"].as_i64().unwrap()).collect();
    assert_eq!(exits, [0, 0, 11]);
    person.user(&format!("{one}{three}"));
    person.says(0, &["--all"]).has("2 pairs, all done");
    person.says(0, &["--all", "-n", "-v"]).has("nothing to do");
}

#[test]
fn a_pair_with_a_remote_side_uses_its_own_remote_shell() {
    let person = Person::new();
    let rsh = local_rsh(&person.temp);
    let table = person.pair("far");
    let there = person.path("home/far/there");
    let table = table.replace("'~/far/there'", &format!("'host:{there}'"));
    person.user(&format!("{table}rsh = '{rsh}'\npsync-path = '{}'\n", common::PSYNC));
    person.says(0, &["far"]).has("1 created");
    assert_eq!(names(&person.temp.join("home/far/there")), ["file"]);
}

#[test]
fn wrong_settings_of_the_remote_side_reach_the_person() {
    let pair = Pair::new();
    write_file(pair.a.join("file"), "text");
    write_file(pair.b.join(".psync.toml"), "\nmax-delet = 5\n");
    let rsh = local_rsh(&pair.temp);
    let mut command = psync_over(&pair.temp, &rsh);
    command.arg(&pair.a).arg(format!("host:{}", pair.b.display()));
    Said::of(&mut command, 11).has(".psync.toml, line 2").has("did you mean 'max-delete'");
    assert_eq!(names(&pair.b), [".psync.toml"]);
}

#[test]
fn bad_settings_are_refused_before_anything_is_done() {
    let person = Person::new();
    write_file(person.temp.join("a/file"), "text");
    person.temp.folder("b");
    let refused = |code: i32, words: &[&str], told: &[&str]| {
        let said = person.says(code, words);
        for text in told {
            said.has(text);
        }
        assert!(names(&person.temp.join("b")).is_empty());
        assert!(!person.temp.join("a/.psync").exists());
    };
    let sides = ["./a", "./b"];
    for (text, told) in [
        ("[store]\nbugdet = '1G'", ["psync.toml, line 2", "did you mean 'store.budget'"]),
        ("\nmode = 5", ["psync.toml, line 2", "5 is not two-way, push, pull"]),
        ("mode = 'pul'", ["psync.toml, line 1", "did you mean 'pull'"]),
        ("policy = 'newset'", ["psync.toml, line 1", "did you mean 'newest'"]),
        ("profiles = ['pyton']", ["psync.toml, line 1", "did you mean 'python'"]),
        ("exclude = ['[z-a]']", ["psync.toml, line 1", "'[z-a]' is not a pattern"]),
        ("[[rule]]\npattern = 'x'\nmode = 'of'", ["psync.toml, line 3", "did you mean 'off'"]),
        ("[pair.p]\nremot = 'x'", ["psync.toml, line 2", "did you mean 'remote'"]),
        ("mode = 'push", ["psync.toml, line 1", "psync.toml"]),
    ] {
        person.user(text);
        refused(11, &sides, &told);
        refused(11, &["config", "show"], &told);
    }
    let user = person.temp.join("home/.config/psync/psync.toml");
    fs::write(&user, b"name = '\xff'").unwrap();
    refused(11, &sides, &["psync.toml: the settings cannot be read", "line 1 is not UTF-8"]);
    fs::remove_file(&user).unwrap();
    fs::create_dir(&user).unwrap();
    refused(11, &sides, &["psync.toml: the settings cannot be read"]);
    fs::remove_dir(&user).unwrap();
    refused(1, &["p1"], &["there is no pair 'p1'", "no pairs are named"]);
    refused(1, &["--all"], &["no pairs are named"]);
    person.user("[pair.photos]\nlocal = '/x'\nremote = '/y'\n");
    refused(1, &["fotos"], &["there is no pair 'fotos'", "did you mean 'photos'"]);
    refused(1, &["config", "show", "fotos"], &["did you mean 'photos'"]);
    person.user("[pair.photos]\nlocal = '/x'\n");
    refused(11, &["photos"], &["line 1", "has no 'remote'"]);
    person.user("[pair.config]\nlocal = '/x'\nremote = '/y'\n");
    refused(11, &sides, &["line 1", "is a command"]);
    person.user("");
    refused(
        1,
        &["--policy=typ=hold", "./a", "./b"],
        &["--policy typ", "did you mean 'policy.type'"],
    );
    refused(1, &["--set=mod=push", "./a", "./b"], &["did you mean 'mode'"]);
    let mut command = person.command(&sides);
    Said::of(command.env("PSYNC_MAX_DELET", "5"), 1).has("did you mean PSYNC_MAX_DELETE");
    let mut command = person.command(&sides);
    Said::of(command.env("PSYNC_TIMEOUT", "soon"), 1).has("PSYNC_TIMEOUT: 'soon' is not");
}

#[test]
fn a_root_s_file_that_came_over_the_line_runs_nothing_and_leads_nowhere() {
    for (text, told) in [
        ("rsh = 'sh -c evil'", "come over the line"),
        ("psync-path = 'evil'", "come over the line"),
        ("[pair.x]\nlocal = '/etc'\nremote = 'evil:'", "may not name pairs"),
        ("log = '/etc/passwd'", "table of a pair"),
        ("mode = 'mirror-pull'", "a mirror overwrites"),
        ("max-delete = '100%'", "may only be stricter"),
        ("trash.enabled = false", "may only be stricter"),
        ("store.enabled = false", "may only be stricter"),
        ("rule = [{ pattern = '*', trash = false }]", "may only be stricter"),
    ] {
        let pair = Pair::new();
        write_file(pair.a.join(".psync.toml"), text);
        pair.sync_expecting(11, &[]).has(".psync.toml, line 1").has(told);
        assert!(names(&pair.b).is_empty());
    }
    let pair = Pair::new();
    write_file(pair.temp.join("secret"), "password = 1\n");
    std::os::unix::fs::symlink("../secret", pair.a.join(".psync.toml")).unwrap();
    pair.sync_expecting(11, &[]).has("symbolic link").has_not("password");
}

#[test]
fn what_came_over_the_line_empties_neither_trash_nor_journal() {
    let pair = Pair::agreed(&[("gone", "one"), ("f", "two")]);
    fs::remove_file(pair.b.join("gone")).unwrap();
    pair.sync_to(0);
    let text = "[trash]\nretention = '0s'\n[history]\nretention = '0s'\n";
    write_file(pair.b.join(".psync.toml"), text);
    // The side that has it refuses to go on; nothing reaches the other one.
    pair.sync_expecting(11, &[]).has("b/.psync.toml, line 4: history.retention: \"0d\"");
    assert_eq!(trashed(&pair.a, "gone"), ["one"]);
    assert!(!pair.a.join(".psync.toml").exists());
}

#[test]
fn config_show_is_a_file_that_says_the_same() {
    let person = Person::new();
    let table = person.pair("p1");
    person.user(&format!(
        "mode = 'push'\nbwlimit = '1.5M'\n{table}timeout = '5min'\nexclude = ['*.o']\n\
         [[pair.p1.rule]]\npattern = '*.iso'\nmax-size = '1G'\npolicy = 'hold'\n\
         [[pair.p1.rule]]\npattern = '*.txt'\npolicy = {{ modified-both = 'merge', type = 'hold' }}\n"
    ));
    let said = person.says(0, &["config", "show", "p1"]);
    said.has("mode = \"push\"").has("psync.toml, line 1").has("timeout = 300").has("line 5");
    said.has("store.budget = \"auto\"\n").has("# log is not set").has("# exclude: \"*.o\"");
    said.has("[[rule]]\npattern = \"*.iso\"\nmax-size = \"1G\"\npolicy = \"hold\"\n\n");
    said.has(
        "[[rule]]\npattern = \"*.txt\"\npolicy.modified-both = \"merge\"\npolicy.type = \"hold\"\n",
    );
    // What it says about a pair stands in the pair's table.
    let of_pair = ["local", "remote"];
    let again: String = said
        .out
        .lines()
        .filter(|line| !of_pair.iter().any(|key| line.starts_with(&format!("{key} = "))))
        .map(|line| format!("{line}\n"))
        .collect();
    person.user(&again);
    let shown = |words: &[&str]| {
        let said = person.says(0, words);
        let text: Vec<String> =
            said.out.lines().map(|line| line.split(" # ").next().unwrap().trim().into()).collect();
        text
    };
    let plain = shown(&["config", "show"]);
    assert!(plain.contains(&"mode = \"push\"".to_string()));
    assert!(plain.contains(&"timeout = 300".to_string()));
    assert!(plain.contains(&"max-size = \"1G\"".to_string()));
    assert_eq!(person.shown("timeout", &[], &[]).1, "user");
}

#[test]
fn the_files_the_profiles_and_the_keys_are_listed_within_eighty_columns() {
    let person = Person::new();
    person.user("");
    let said = person.says(0, &["config", "path"]);
    said.has("user    there    ").has("system  missing  ").has("system.toml");
    let files = person.says(0, &["config", "path", "--json"]).objects_of("file");
    assert_eq!(files.len(), 2);
    for (words, text) in
        [(["config", "profiles"], "__pycache__/"), (["config", "keys"], "store.budget")]
    {
        let said = person.says(0, &words);
        said.has(text);
        let long: Vec<&str> = said.out.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(long.is_empty(), "{long:#?}");
    }
    let said = person.says(0, &["config", "show"]);
    assert!(said.out.lines().all(|line| line.chars().count() <= 80 || line.contains(" # ")));
}

#[test]
fn a_log_that_grew_long_is_set_aside() {
    let person = Person::new();
    let table = person.pair("p1");
    let log: PathBuf = person.temp.join("p1.log");
    write_file(&log, "x".repeat((1 << 20) + 1));
    person.user(&format!("{table}log = '{}'\n", log.display()));
    person.says(0, &["p1"]);
    assert!(read_text(&log).starts_with("== "));
    assert_eq!(read_text(person.temp.join("p1.log.1")).len(), (1 << 20) + 1);
}

#[test]
fn policies_and_rules_of_files_reach_the_planner() {
    let person = Person::new();
    for name in ["taken.md", "held.txt", "left.iso"] {
        write_file(person.temp.join("a").join(name), "old");
    }
    person.says(0, &["./a", "./b"]);
    for (side, text) in [("b", "the other side"), ("a", "this side, and longer")] {
        for name in ["taken.md", "held.txt", "left.iso"] {
            write_file(person.temp.join(side).join(name), text);
        }
    }
    person.user(
        "policy = 'largest'\n[[rule]]\npattern = '*.txt'\npolicy = 'hold'\n\
         [[rule]]\npattern = '*.iso'\nmode = 'off'\n",
    );
    let said = person.says(40, &["--json", "./a", "./b"]);
    let held: Vec<Value> =
        said.objects_of("conflict").into_iter().filter(|object| object["held"] == true).collect();
    let rule = |object: &Value| object["rule"].as_str().unwrap().to_string();
    assert!(held.iter().any(|object| rule(object).contains("psync.toml, line 2")), "{held:?}");
    let there = |name: &str| read_text(person.temp.join("b").join(name));
    assert_eq!(there("taken.md"), "this side, and longer");
    assert_eq!(there("held.txt"), "the other side");
    assert_eq!(there("left.iso"), "the other side");
    assert_eq!(names(&person.temp.join("b")), ["held.txt", "left.iso", "taken.md"]);
    // What is typed stands over the files and their rules, for the kinds that it speaks of.
    person.says(40, &["--policy=type=remote", "./a", "./b"]).has("held.txt");
    person.says(40, &["--policy=modified-both=remote", "./a", "./b"]).has("its mode is off");
    assert_eq!(read_text(person.temp.join("a/held.txt")), "the other side");
    assert_eq!(there("left.iso"), "the other side");
}

#[test]
fn a_policy_in_the_environment_stands_over_the_rules_of_files() {
    let person = Person::new();
    write_file(person.temp.join("a/f.txt"), "old");
    person.says(0, &["./a", "./b"]);
    write_file(person.temp.join("a/f.txt"), "edited here");
    write_file(person.temp.join("b/f.txt"), "edited there");
    person.user("[[rule]]\npattern = '*.txt'\npolicy = 'hold'\n");
    let mut command = person.command(&["./a", "./b"]);
    common::run_expecting(command.env("PSYNC_POLICY", "local"), 0);
    assert_eq!(read_text(person.temp.join("b/f.txt")), "edited here");
}

#[test]
fn one_way_by_option_or_by_key_leaves_what_the_other_side_changed() {
    for words in [&["--push"][..], &["--set=mode=push"], &["--policy=newest"]] {
        let person = Person::new();
        write_file(person.temp.join("a/one"), "one");
        person.temp.folder("b");
        person.says(0, &["./a", "./b"]);
        write_file(person.temp.join("a/one"), "one, edited");
        write_file(person.temp.join("b/two"), "made there");
        let environment = if words[0].starts_with("--policy") { "push" } else { "" };
        let mut command = person.command(words);
        command.env("PSYNC_MODE", environment).args(["./a", "./b"]);
        let output = common::run(&mut command);
        assert!(output.status.success(), "{}", common::describe(&command, &output));
        assert_eq!(read_text(person.temp.join("b/one")), "one, edited");
        assert_eq!(names(&person.temp.join("a")), ["one"]);
        assert_eq!(names(&person.temp.join("b")), ["one", "two"]);
    }
}

#[test]
fn a_root_s_file_is_synced_and_holds_on_the_other_side_from_then_on() {
    let pair = Pair::new();
    write_file(pair.a.join(".psync.toml"), "exclude = ['*.o']\n");
    write_file(pair.a.join("text"), "text");
    pair.sync_to(0);
    assert_eq!(names(&pair.b), [".psync.toml", "text"]);
    write_file(pair.b.join("x.o"), "object");
    let mut command = psync(&pair.temp);
    command.args(["./b", "./a"]).current_dir(pair.temp.path());
    Said::of(&mut command, 0).has("nothing to do");
}

#[test]
fn what_goes_to_the_trash_is_as_each_root_s_own_machine_says() {
    let files = [("kept", "kept"), ("gone.tmp", "gone"), ("large", "larger than 1 KiB")];
    let pair = Pair::agreed(&files.map(|(path, _)| (path, path)));
    write_file(pair.a.join("stays"), "so that the root is not empty");
    write_file(pair.a.join("large"), "x".repeat(2000));
    pair.sync_to(0);
    for (path, _) in files {
        fs::remove_file(pair.a.join(path)).unwrap();
    }
    write_file(
        pair.temp.join("home/.config/psync/psync.toml"),
        "[trash]\nmax-size = '1K'\n[[rule]]\npattern = '*.tmp'\ntrash = false\n",
    );
    pair.sync_expecting(0, &[]).has("3 deleted");
    let kept = |path: &str| trashed(&pair.b, path);
    assert_eq!(kept("kept"), ["kept"]);
    assert!(kept("gone.tmp").is_empty());
    assert_eq!(kept("large"), ["large"], "only what it was before, which was small");
}

#[test]
fn commands_about_a_root_take_a_pair_s_name_and_its_settings() {
    let person = Person::new();
    let table = person.pair("p1");
    person.user(&format!("{table}store.budget = '7M'\n"));
    person.says(0, &["p1"]);
    person.says(0, &["store", "stat", "p1"]).has("of 7.00 MiB");
    person.says(0, &["conflicts", "p1"]);
    person.says(0, &["status", "p1"]).has("p1/here");
    person.says(1, &["store", "stat", "p2"]).has("did you mean 'p1'").has("no directory");
    person.user("");
    let root = person.path("home/p1/here");
    person.says(0, &["store", "stat", &root]).has("of 1.00 GiB");
}
