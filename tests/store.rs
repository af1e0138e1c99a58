//! The store of old contents, through the real program: it fills after a sync, it may be full,
//! damaged, unusable or gone, and no sync is the worse for it.
//!
//!     cargo test --test store
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::pair::{Pair, Said, noise};
use common::tree::{Rng, Shape, assert_same_trees, grow_tree};
use common::{psync, write_file};
use serde_json::Value;

/// `psync store DEED ROOT --json`.
#[track_caller]
fn store(pair: &Pair, deed: &str, root: &Path, code: i32) -> Value {
    let mut command = psync(&pair.temp);
    command.args(["store", deed, "--json"]).arg(root);
    Said::of(&mut command, code).objects().remove(0)
}

#[track_caller]
fn number(object: &Value, name: &str) -> u64 {
    object[name].as_u64().unwrap_or_else(|| panic!("no {name} in {object}"))
}

#[track_caller]
fn held(pair: &Pair, root: &Path) -> u64 {
    number(&store(pair, "stat", root, 0), "contents")
}

fn database(root: &Path) -> PathBuf {
    root.join(".psync/store/store.db")
}

/// Settings of the person whose roots they are.
fn configure(pair: &Pair, text: &str) {
    write_file(pair.temp.join("home/.config/psync/psync.toml"), text);
}

/// Both roots, for what holds at either end.
fn both(pair: &Pair) -> [&Path; 2] {
    [&pair.a, &pair.b]
}

#[test]
fn what_was_agreed_is_held_at_both_ends() {
    let pair = Pair::new();
    grow_tree(&pair.a, &mut Rng::new(1), Shape::SMALL);
    write_file(pair.b.join("large"), noise(1, 3 << 20));
    write_file(pair.b.join("nothing in it"), "");
    pair.sync_to(0);
    let [a, b] = both(&pair).map(|root| store(&pair, "stat", root, 0));
    assert!(number(&a, "contents") > 0);
    assert_eq!(number(&a, "contents"), number(&b, "contents"));
    assert_eq!(number(&a, "bytes"), number(&b, "bytes"));
    assert_eq!(number(&a, "block_hashes"), 0);
    for root in both(&pair) {
        let checked = store(&pair, "verify", root, 0);
        assert_eq!(number(&checked, "sound"), number(&a, "contents"));
    }
}

/// Files of all kinds, more than it takes for the store to be filled while they are sent.
fn grow_many(root: &Path) {
    for number in 0..400u64 {
        let text = format!("file {number} says this, ").repeat(number as usize % 60 + 1);
        write_file(root.join(format!("d{}/text {number}", number % 7)), text);
    }
    write_file(root.join("noise"), noise(5, 200_000));
    write_file(root.join("nothing in it"), "");
    write_file(
        root.join("as long as a chunk"),
        "all the same ".repeat(1 << 17).get(..1 << 20).unwrap(),
    );
    write_file(root.join("longer"), "all the same, and more ".repeat(1 << 17));
}

#[test]
fn a_first_copy_of_many_files_leaves_them_sound_in_both_stores_whoever_sends() {
    for sender_is_here in [true, false] {
        let pair = Pair::new();
        let [sender, taker] =
            if sender_is_here { both(&pair) } else { [&pair.b, &pair.a].map(|root| &**root) };
        grow_many(sender);
        pair.sync_to(0);
        assert_same_trees(sender, taker);
        for root in both(&pair) {
            assert_eq!(held(&pair, root), 403);
            assert_eq!(number(&store(&pair, "verify", root, 0), "sound"), 403);
        }
        // What was sent as it was packed is whole for whoever builds on it.
        for root in both(&pair) {
            let mut text = fs::read_to_string(root.join("d3/text 59")).unwrap();
            text.push_str("and so on");
            write_file(root.join("d3/text 59"), text);
            pair.sync_to(0);
            assert_same_trees(sender, taker);
        }
    }
}

#[test]
fn what_is_damaged_in_the_store_of_who_sends_comes_whole_to_another_peer() {
    let pair = Pair::new();
    grow_many(&pair.a);
    pair.sync_to(0);
    damage(&pair.a, &noise(5, 200_000));
    let other = pair.temp.join("other");
    fs::create_dir(&other).unwrap();
    Said::of(psync(&pair.temp).arg(&pair.a).arg(&other), 0);
    assert_same_trees(&pair.a, &other);
    assert_eq!(number(&store(&pair, "verify", &other, 0), "sound"), 403);
}

#[test]
fn an_edit_adds_its_content_and_the_old_one_stays() {
    let pair = Pair::agreed(&[("a", "one"), ("b", "two"), ("copy of b", "two")]);
    assert_eq!(held(&pair, &pair.a), 2);
    write_file(pair.a.join("a"), "one, edited");
    pair.sync_to(0);
    assert_eq!(both(&pair).map(|root| held(&pair, root)), [3, 3]);
}

#[test]
fn a_run_with_nothing_to_do_does_not_open_the_store() {
    let pair = Pair::agreed(&[("a", "one")]);
    for root in both(&pair) {
        fs::remove_dir_all(root.join(".psync/store")).unwrap();
    }
    pair.sync_to(0).has("nothing to do");
    assert!(!database(&pair.a).exists() && !database(&pair.b).exists());
}

#[test]
fn without_the_store_block_hashes_are_remembered_and_the_next_run_fills_it() {
    let pair = Pair::new();
    write_file(pair.a.join("file"), noise(2, 50_000));
    write_file(pair.a.join("short"), "hardly a patch");
    pair.sync_expecting(0, &["--no-store"]);
    assert!(!database(&pair.a).exists() && !database(&pair.b).exists());
    for root in both(&pair) {
        let stat = store(&pair, "stat", root, 0);
        assert_eq!((number(&stat, "contents"), number(&stat, "block_hashes")), (0, 1));
    }
    pair.sync_expecting(0, &[]).has("nothing to do");
    for root in both(&pair) {
        let stat = store(&pair, "stat", root, 0);
        assert_eq!((number(&stat, "contents"), number(&stat, "block_hashes")), (2, 0));
    }
}

#[test]
fn a_dry_run_remembers_nothing() {
    let pair = Pair::new();
    write_file(pair.a.join("file"), "content");
    pair.sync_expecting(0, &["-n"]);
    assert!(!database(&pair.a).exists() && !database(&pair.b).exists());
}

#[test]
fn a_store_that_was_deleted_fills_again() {
    let pair = Pair::agreed(&[("a", "one"), ("b", "two")]);
    fs::remove_dir_all(pair.a.join(".psync/store")).unwrap();
    write_file(pair.a.join("b"), "two, edited");
    pair.sync_to(0).has_not("note");
    assert_eq!(held(&pair, &pair.a), 2);
    assert_eq!(held(&pair, &pair.b), 3);
}

#[test]
fn a_damaged_store_is_thrown_away_and_a_note_says_so() {
    let pair = Pair::agreed(&[("a", "one"), ("b", "two")]);
    let garbage = "no database, but long enough to be read as if it were one. ".repeat(50);
    write_file(database(&pair.a), &garbage);
    write_file(pair.a.join("b"), "two, edited");
    let said = pair.sync_expecting(0, &[]);
    said.has("note").has("the store of old contents was damaged");
    pair.assert_settled();
    assert_eq!(held(&pair, &pair.a), 2);
}

#[test]
fn a_note_says_so_too_where_the_store_is_opened_before_the_plan() {
    let garbage = "no database, but long enough to be read as if it were one. ".repeat(50);
    let pair = Pair::new();
    let name = |at: u64| format!("{at}");
    for at in 0..40 {
        write_file(pair.a.join(name(at)), noise(at, 60_000));
    }
    pair.sync_to(0);
    // At the end that plans, where so much was edited that patches are made ahead.
    write_file(database(&pair.a), &garbage);
    for at in 0..40 {
        write_file(pair.a.join(name(at)), [&noise(at, 60_000)[..], b"edited"].concat());
    }
    let said = pair.sync_expecting(0, &["--max-change=100%"]);
    said.has("the store of old contents was damaged");
    pair.sync_expecting(0, &[]).has_not("note");
    // At the other, which sends small edits along with its rows.
    write_file(database(&pair.b), &garbage);
    write_file(pair.b.join(name(1)), "edited");
    pair.sync_expecting(0, &[]).has("the store of old contents was damaged");
    pair.sync_expecting(0, &[]).has_not("note");
    pair.assert_settled();
}

#[test]
fn the_far_side_tells_in_the_next_run_what_happened_to_its_store() {
    let pair = Pair::agreed(&[("a", "one")]);
    write_file(
        database(&pair.b),
        "no database, but long enough to be read as if it were one. ".repeat(50),
    );
    write_file(pair.a.join("a"), "one, edited");
    pair.sync_expecting(0, &[]).has_not("note");
    pair.sync_expecting(0, &[]).has("nothing to do").has("the store of old contents was damaged");
    pair.sync_expecting(0, &[]).has_not("note");
}

#[test]
fn a_store_that_cannot_be_made_is_named_and_the_sync_is_whole() {
    let pair = Pair::new();
    write_file(pair.a.join("file"), noise(3, 5000));
    write_file(pair.a.join(".psync/store"), "in the way");
    let said = pair.sync_expecting(0, &["--json"]);
    let notes = said.objects_of("problem");
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert_eq!((&notes[0]["kind"], &notes[0]["side"]), (&"note".into(), &"local".into()));
    assert_same_trees(&pair.a, &pair.b);
    // As soon as it can be made it fills.
    fs::remove_file(pair.a.join(".psync/store")).unwrap();
    pair.sync_expecting(0, &[]).has("nothing to do").has_not("note");
    assert_eq!(held(&pair, &pair.a), 1);
}

#[test]
fn a_store_that_cannot_be_written_is_named_and_the_sync_is_whole() {
    let pair = Pair::agreed(&[("a", "one")]);
    // SQLite's own lock keeps even a privileged user from writing.
    let other = rusqlite::Connection::open(database(&pair.a)).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    write_file(pair.a.join("a"), "one, edited");
    pair.sync_expecting(0, &[]).has("note").has("locked");
    other.execute_batch("ROLLBACK").unwrap();
    assert_same_trees(&pair.a, &pair.b);
    pair.sync_expecting(0, &[]).has("nothing to do");
    assert_eq!(held(&pair, &pair.a), 2);
}

#[test]
fn where_the_disk_is_full_block_hashes_stay_and_the_next_run_fills_the_store() {
    let pair = Pair::new();
    for number in 0..40 {
        write_file(pair.a.join(format!("{number}")), noise(number, 100_000));
    }
    // No file may grow beyond 1 or 2 MiB (shells count in two units): for the store, a full disk.
    let limited = pair.command(&[]);
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 2048; exec \"$@\"", "sh"]);
    command.arg(limited.get_program()).args(limited.get_args());
    for (key, value) in limited.get_envs().filter_map(|(key, value)| Some((key, value?))) {
        command.env(key, value);
    }
    command.current_dir(pair.temp.path());
    Said::of(&mut command, 0).has("note").has("old contents are not remembered now");
    assert_same_trees(&pair.a, &pair.b);
    let stat = store(&pair, "stat", &pair.a, 0);
    assert_eq!((number(&stat, "contents"), number(&stat, "block_hashes")), (0, 40), "{stat}");
    pair.sync_expecting(0, &[]).has("nothing to do");
    for root in both(&pair) {
        let stat = store(&pair, "stat", root, 0);
        assert_eq!((number(&stat, "contents"), number(&stat, "block_hashes")), (40, 0), "{stat}");
    }
}

#[test]
fn a_small_budget_holds_what_fits_and_remembers_block_hashes_of_the_rest() {
    let pair = Pair::new();
    configure(&pair, "[store]\nbudget = \"400K\"\n");
    for number in 0..10 {
        write_file(pair.a.join(format!("{number}")), noise(number, 60_000));
    }
    write_file(pair.a.join("large"), noise(99, 2 << 20));
    pair.sync_to(0);
    for root in both(&pair) {
        let stat = store(&pair, "stat", root, 0);
        let (held, hashed) = (number(&stat, "contents"), number(&stat, "block_hashes"));
        assert!((2..=6).contains(&held), "{stat}");
        assert_eq!(held + hashed, 11, "{stat}");
        assert!(number(&stat, "bytes_on_disk") <= 400 << 10, "{stat}");
        assert!(fs::metadata(database(root)).unwrap().len() <= 400 << 10);
    }
    // Once there is room the next run uses it.
    configure(&pair, "[store]\nbudget = \"10M\"\n");
    pair.sync_expecting(0, &[]).has("nothing to do");
    assert_eq!(both(&pair).map(|root| held(&pair, root)), [11, 11]);
}

#[test]
fn what_no_file_has_any_more_makes_room_for_what_is_new() {
    let pair = Pair::new();
    configure(&pair, "[store]\nbudget = \"500K\"\n");
    for version in 0..12 {
        write_file(pair.a.join("edited"), noise(version, 60_000));
        write_file(pair.a.join("kept"), "kept from the beginning");
        pair.sync_expecting(0, &[]);
        let stat = store(&pair, "stat", &pair.a, 0);
        assert_eq!(number(&stat, "block_hashes"), 0, "version {version}: {stat}");
        assert!(number(&stat, "bytes_on_disk") <= 500 << 10, "version {version}: {stat}");
    }
}

#[test]
fn a_smaller_budget_is_kept_by_gc_and_block_hashes_stay() {
    let pair = Pair::new();
    for number in 0..10 {
        write_file(pair.a.join(format!("{number}")), noise(number, 60_000));
    }
    pair.sync_to(0);
    configure(&pair, "[store]\nbudget = \"400K\"\n");
    let collected = store(&pair, "gc", &pair.a, 0);
    let gone = number(&collected, "contents");
    assert!(gone > 0 && number(&collected, "bytes_on_disk") <= 400 << 10, "{collected}");
    assert!(number(&collected, "bytes_before") > 600_000);
    let stat = store(&pair, "stat", &pair.a, 0);
    assert_eq!(number(&stat, "contents"), 10 - gone);
    assert_eq!(number(&stat, "block_hashes"), gone);
    pair.assert_settled();
}

#[test]
fn verify_names_what_is_damaged_and_the_next_sync_remembers_it_anew() {
    let pair = Pair::new();
    let content = noise(5, 200_000);
    write_file(pair.a.join("bad"), &content);
    write_file(pair.a.join("good"), noise(6, 1000));
    pair.sync_to(0);
    let mut bytes = fs::read(database(&pair.a)).unwrap();
    let at = bytes.windows(32).position(|found| found == &content[100_000..100_032]).unwrap();
    bytes[at] ^= 1;
    fs::write(database(&pair.a), bytes).unwrap();
    let checked = store(&pair, "verify", &pair.a, 23);
    assert_eq!(number(&checked, "sound"), 1);
    assert_eq!(checked["damaged"][0], blake3::hash(&content).to_hex().to_string());
    pair.sync_expecting(0, &[]).has("nothing to do");
    assert_eq!(held(&pair, &pair.a), 2);
    assert_eq!(number(&store(&pair, "verify", &pair.a, 0), "sound"), 2);
}

/// Damages a content in the store of a root, wherever that has put it.
#[track_caller]
fn damage(root: &Path, content: &[u8]) {
    let snapshots = fs::read_dir(root.join(".psync/store/snapshots")).into_iter().flatten();
    let mut files: Vec<PathBuf> = snapshots.map(|entry| entry.unwrap().path()).collect();
    files.push(database(root));
    let place =
        |bytes: &[u8]| bytes.windows(32).position(|found| found == &content[50_000..50_032]);
    for file in files {
        let mut bytes = fs::read(&file).unwrap();
        if let Some(at) = place(&bytes) {
            bytes[at] ^= 1;
            return fs::write(file, bytes).unwrap();
        }
    }
    panic!("the store does not hold it");
}

#[test]
fn a_content_that_is_damaged_in_the_store_is_told_of_forgotten_and_done_without() {
    let pair = Pair::new();
    let (mut short, mut long) = (noise(11, 200_000), noise(12, 9 << 20));
    write_file(pair.a.join("copy"), &short);
    write_file(pair.a.join("short"), &short);
    write_file(pair.a.join("long"), &long);
    pair.sync_to(0);
    // First at the end that sends unasked, then at the one that is asked.
    for root in both(&pair) {
        damage(root, &short);
        damage(root, &long);
        // What is damaged next must not be in an older content, too.
        for content in [&mut short, &mut long] {
            content[50_000..50_032].reverse();
            content[50_000] ^= 1;
        }
        write_file(root.join("short"), &short);
        write_file(root.join("long"), &long);
        let said = pair.sync_expecting(0, &["--json"]);
        let notes = said.objects_of("problem");
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0]["text"].as_str().unwrap().contains("damaged"), "{notes:?}");
        assert!(said.bytes_on_the_line() < 1 << 20, "{}", said.bytes_on_the_line());
        pair.assert_settled();
        let checked = store(&pair, "verify", root, 0);
        assert!(
            number(&checked, "sound") >= 3,
            "what a file still has is remembered anew: {checked}"
        );
    }
}

#[test]
fn a_store_whose_tables_are_damaged_is_thrown_away_by_whoever_finds_it_and_fills_again() {
    let pair = Pair::new();
    grow_tree(&pair.a, &mut Rng::new(2), Shape::SMALL);
    pair.sync_to(0);
    let all = held(&pair, &pair.a);
    let mut bytes = fs::read(database(&pair.a)).unwrap();
    // Every page but the first two, which open the database.
    bytes[2 * 16_384..].fill(0x55);
    fs::write(database(&pair.a), bytes).unwrap();
    let mut command = psync(&pair.temp);
    command.args(["store", "verify"]).arg(&pair.a);
    Said::of(&mut command, 23).has("damaged");
    write_file(pair.a.join("one more"), "file");
    pair.sync_to(0);
    assert_eq!(held(&pair, &pair.a), all + 1);
    store(&pair, "verify", &pair.a, 0);
}

#[test]
fn a_fill_that_was_killed_is_taken_up_by_the_next_run() {
    let pair = Pair::new();
    for number in 0..1500 {
        write_file(pair.a.join(format!("{}/{number}", number % 20)), noise(number, 20_000));
    }
    let mut child = pair.command(&["--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let told = lines.map(|line| line.unwrap()).any(|line| line.contains("\"summary\""));
    assert!(told, "the person hears what was done");
    child.kill().unwrap();
    child.wait().unwrap();
    pair.assert_settled();
    assert_eq!(both(&pair).map(|root| held(&pair, root)), [1500, 1500]);
    for root in both(&pair) {
        assert_eq!(number(&store(&pair, "verify", root, 0), "sound"), 1500);
    }
}

#[test]
fn a_store_can_be_switched_off() {
    let pair = Pair::new();
    configure(&pair, "[store]\nenabled = false\n");
    write_file(pair.a.join("file"), noise(7, 9000));
    pair.sync_expecting(0, &[]);
    assert!(both(&pair).iter().all(|root| !database(root).exists()));
    let mut command = psync(&pair.temp);
    command.args(["store", "stat"]).arg(&pair.a);
    Said::of(&mut command, 11).has("switched off");
}

#[test]
fn settings_that_make_no_sense_stop_the_run_and_name_the_line() {
    let pair = Pair::agreed(&[("a", "one")]);
    write_file(pair.a.join("a"), "edited");
    for root in both(&pair) {
        let text = "exclude = [\"/.psync.toml\"]\n# mine\n[store]\nbugdet = \"1G\"\n";
        write_file(root.join(".psync.toml"), text);
        let said = pair.sync_expecting(11, &[]);
        said.has(".psync.toml, line 4").has("bugdet").has("store.budget");
        assert_eq!(fs::read_to_string(pair.b.join("a")).unwrap(), "one");
        fs::remove_file(root.join(".psync.toml")).unwrap();
    }
    pair.sync_to(0);
}

#[test]
fn with_state_elsewhere_the_store_is_there_too_and_old_settings_are_told_of() {
    let pair = Pair::new();
    let state = pair.temp.folder("state");
    write_file(pair.a.join("file"), noise(8, 4000));
    let options = ["--state-dir", state.to_str().unwrap()];
    pair.sync_expecting(0, &options);
    assert!(!database(&pair.a).exists() && !database(&pair.b).exists());
    let keyed: Vec<PathBuf> =
        fs::read_dir(&state).unwrap().map(|dir| dir.unwrap().path()).collect();
    assert_eq!(keyed.len(), 2);
    assert!(keyed.iter().all(|dir| dir.join("store/store.db").is_file()));
    for dir in &keyed {
        write_file(dir.join("config.toml"), "[nonsense]");
    }
    let said = pair.sync_expecting(0, &options);
    said.has("config.toml is not read any more").has(".psync.toml");
}

#[test]
fn to_ask_about_a_folder_does_not_make_it_a_root() {
    let pair = Pair::new();
    let mut command = psync(&pair.temp);
    command.args(["store", "stat"]).arg(&pair.a);
    Said::of(&mut command, 11).has("nothing was ever synced here");
    assert!(!pair.a.join(".psync").exists());
}

#[test]
fn only_its_owner_may_read_the_store() {
    let pair = Pair::agreed(&[("a", "one")]);
    for root in both(&pair) {
        let mode = fs::metadata(root.join(".psync/store")).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
    }
}

#[test]
fn people_read_what_the_store_holds() {
    let pair = Pair::agreed(&[("a", "one"), ("b", "two")]);
    for (deed, text) in
        [("stat", "contents: 2"), ("gc", "let go of 0 contents"), ("verify", "sound: 2 contents")]
    {
        let mut command = psync(&pair.temp);
        command.args(["store", deed]).current_dir(&pair.a);
        Said::of(&mut command, 0).has(text);
    }
}

#[test]
fn patches_that_were_made_before_the_plan_are_right_whatever_the_plan_turns_out_to_be() {
    let pair = Pair::new();
    let name = |at: u64| format!("folder {}/file {at}", at % 7);
    let content = |at: u64, edit: &[u8]| {
        let mut content = noise(at, 20_000);
        content.splice(10_000..10_010, edit.iter().copied());
        content
    };
    for at in 0..120 {
        write_file(pair.a.join(name(at)), content(at, b"as agreed"));
    }
    pair.sync_to(0);
    for at in 0..120 {
        write_file(pair.a.join(name(at)), content(at, b"edited here"));
    }
    // Of these a patch is of no use to the other side, which has another file or none.
    write_file(pair.b.join(name(30)), "edited there");
    fs::remove_file(pair.b.join(name(70))).unwrap();
    let said = pair.sync_expecting(40, &["--json", "--max-change=100%"]);
    assert_same_trees(&pair.a, &pair.b);
    for at in (0..120).filter(|at| ![30, 70].contains(at)) {
        assert!(fs::read(pair.b.join(name(at))).unwrap() == content(at, b"edited here"));
    }
    assert!(said.bytes_on_the_line() < 150_000, "{}", said.bytes_on_the_line());
    pair.assert_settled();
}
