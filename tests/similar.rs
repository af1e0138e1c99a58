//! New files that are like something that the other side has cost about what is different.
//!
//!     cargo test --test similar
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::pair::{Pair, Said, noise};
use common::tree::assert_same_trees;
use common::{local_rsh, psync_over, write_file};

/// Two roots over a line that agree on three files, none of which compresses well.
struct Scene {
    pair: Pair,
    options: &'static [&'static str],
}

/// Lines that have nothing in common with those of another seed, about 64 bytes each.
fn lines(seed: u64, count: u64) -> String {
    let line = |n: u64| {
        let hash = psync_protocol::ContentHash::of_bytes(&(seed << 32 | n).to_le_bytes());
        hash.0.iter().map(|byte| format!("{byte:02x}")).chain(["\n".into()]).collect::<String>()
    };
    (0..count).map(line).collect()
}

/// Three lines are others.
fn edited(text: &str) -> String {
    let changed = |at: usize, line: &str| match at % 300 {
        100 => format!("edited {at}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().enumerate().map(|(at, line)| changed(at, line)).collect()
}

impl Scene {
    fn new(options: &'static [&'static str]) -> Scene {
        let scene = Scene { pair: Pair::new(), options };
        for (number, name) in ["src/a.py", "notes/report-1.9.txt", "other"].iter().enumerate() {
            write_file(scene.pair.a.join(name), lines(number as u64, 900));
        }
        scene.run();
        scene
    }

    /// Syncs; says how many bytes crossed the line, in how many turns.
    #[track_caller]
    fn run(&self) -> (u64, u64) {
        let mut command = psync_over(&self.pair.temp, &local_rsh(&self.pair.temp));
        command.args(self.options).arg("--json").arg(&self.pair.a);
        let said = Said::of(command.arg(format!("host:{}", self.pair.b.display())), 0);
        assert_same_trees(&self.pair.a, &self.pair.b);
        (said.bytes_on_the_line(), said.summary()["turns"].as_u64().unwrap())
    }

    fn roots(&self) -> [PathBuf; 2] {
        [self.pair.a.clone(), self.pair.b.clone()]
    }
}

/// What a change costs at most, whichever side makes it.
#[track_caller]
fn costs_at_most(bytes: u64, options: &'static [&'static str], change: fn(&Path)) {
    for near in [0, 1] {
        let scene = Scene::new(options);
        change(&scene.roots()[near]);
        let (cost, turns) = scene.run();
        assert!(cost <= bytes, "{cost} bytes, on side {near}");
        assert!(turns <= 5, "{turns} turns");
    }
}

fn copy(root: &Path, from: &str, to: &str, change: fn(&str) -> String) {
    let text = fs::read_to_string(root.join(from)).unwrap();
    write_file(root.join(to), change(&text));
}

#[test]
fn a_file_copied_and_edited_costs_the_edit() {
    for options in [&[][..], &["--no-store"]] {
        costs_at_most(800, options, |root| copy(root, "src/a.py", "src/b.py", edited));
    }
}

#[test]
fn so_does_one_of_the_same_name_in_another_folder() {
    costs_at_most(800, &[], |root| copy(root, "src/a.py", "lib/far/away/a.py", edited));
}

#[test]
fn so_does_the_next_version_beside_the_last_one_or_in_its_place() {
    costs_at_most(800, &[], |root| {
        copy(root, "notes/report-1.9.txt", "notes/report-1.10.txt", edited);
    });
    costs_at_most(900, &[], |root| {
        copy(root, "notes/report-1.9.txt", "notes/report-2.0.txt", edited);
        fs::remove_file(root.join("notes/report-1.9.txt")).unwrap();
    });
}

#[test]
fn so_does_a_copy_whose_original_was_edited_as_well() {
    costs_at_most(1_000, &[], |root| {
        copy(root, "src/a.py", "src/b.py", edited);
        copy(root, "src/a.py", "src/a.py", |text| text.replacen("00", "changed", 2));
    });
}

#[test]
fn a_file_of_which_only_a_half_is_known_costs_the_other_half() {
    costs_at_most(22_000, &[], |root| {
        copy(root, "src/a.py", "new", |text| lines(77, 500) + &text[text.len() / 2..]);
    });
}

#[test]
fn a_copy_that_is_no_other_costs_a_few_bytes_and_what_is_like_nothing_comes_whole() {
    costs_at_most(600, &[], |root| copy(root, "src/a.py", "src/b.py", str::to_owned));
    let scene = Scene::new(&[]);
    write_file(scene.pair.a.join("new/a.py"), lines(99, 900));
    let (cost, turns) = scene.run();
    assert!((28_000..40_000).contains(&cost) && turns == 4, "{cost} {turns}");
}

#[test]
fn what_the_other_side_has_changed_meanwhile_is_not_built_on() {
    for near in [0, 1] {
        for gone in [true, false] {
            let scene = Scene::new(&[]);
            let [ours, theirs] = [&scene.roots()[near], &scene.roots()[1 - near]];
            copy(ours, "src/a.py", "src/b.py", edited);
            match gone {
                true => fs::remove_file(theirs.join("src/a.py")).unwrap(),
                false => copy(theirs, "src/a.py", "src/a.py", |text| text.replace('0', "zero")),
            }
            let (_, turns) = scene.run();
            assert!(turns <= 6, "{turns}");
        }
    }
}

#[test]
fn many_copies_of_a_folder_cost_their_edits() {
    costs_at_most(6_000, &[], |root| {
        for number in 0..20 {
            for file in ["src/a.py", "notes/report-1.9.txt", "other"] {
                copy(root, file, &format!("copy {number}/{file}"), edited);
            }
        }
    });
}

/// A file of 4 MB of which 1.4 MB are new.
fn partly_new(root: &Path, from: &str, to: &str) {
    let mut content = fs::read(root.join(from)).unwrap();
    content[1_000_000..2_400_000].copy_from_slice(&noise(8, 1_400_000));
    write_file(root.join(to), content);
}

#[test]
fn what_is_new_in_a_large_file_may_be_more_than_fits_a_message() {
    for options in [&[][..], &["--no-store"]] {
        for name in ["large", "another"] {
            let scene = Scene::new(options);
            write_file(scene.pair.a.join("large"), noise(7, 4_000_000));
            scene.run();
            for root in scene.roots() {
                partly_new(&root, "large", name);
                let (cost, _) = scene.run();
                assert!((1_390_000..1_460_000).contains(&cost), "{name}: {cost} bytes");
                fs::remove_file(root.join(name)).unwrap();
                write_file(root.join("large"), noise(7, 4_000_000));
                scene.run();
            }
        }
    }
}
