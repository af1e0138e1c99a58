//! Three and more roots in a star, a chain or a ring, through the real program: they converge,
//! without conflicts that nobody made.
//!
//!     cargo test --test topology
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::fs;
use std::path::PathBuf;

use common::pair::{Said, clash_names, names, trashed};
use common::tree::{Rng, assert_same_trees};
use common::{TempDir, psync, read_text, write_file};

/// Roots that are synced along the lines between some of them.
struct Net {
    temp: TempDir,
    roots: Vec<PathBuf>,
    lines: Vec<(usize, usize)>,
}

impl Net {
    fn new(count: usize, lines: &[(usize, usize)]) -> Net {
        let temp = TempDir::new();
        let roots = (0..count).map(|number| temp.folder(format!("root {number}"))).collect();
        Net { temp, roots, lines: lines.to_vec() }
    }

    fn star() -> Net {
        Net::new(4, &[(0, 1), (0, 2), (0, 3)])
    }

    fn chain() -> Net {
        Net::new(4, &[(0, 1), (1, 2), (2, 3)])
    }

    fn ring() -> Net {
        Net::new(3, &[(0, 1), (1, 2), (2, 0)])
    }

    #[track_caller]
    fn sync(&self, (from, to): (usize, usize), code: i32) -> Said {
        Said::of(psync(&self.temp).arg("-v").arg(&self.roots[from]).arg(&self.roots[to]), code)
    }

    /// Along each line, as often as news may need to get everywhere.
    #[track_caller]
    fn sync_all(&self) {
        for _ in &self.lines {
            for &line in &self.lines {
                self.sync(line, 0);
            }
        }
    }

    #[track_caller]
    fn assert_converged(&self) {
        for root in &self.roots[1..] {
            assert_same_trees(&self.roots[0], root);
        }
        for &line in &self.lines {
            self.sync(line, 0).has("nothing to do");
        }
    }
}

/// Each root's user changes files of their own, in all ways; nobody touches another's.
fn change_own_files(net: &Net, rng: &mut Rng, round: usize) {
    for (number, root) in net.roots.iter().enumerate() {
        let own = |file: usize| root.join(format!("d{}/own {number}-{file}", file % 3));
        for _ in 0..4 {
            let file = rng.below(6);
            let path = own(file);
            match rng.below(4) {
                0 if path.exists() => fs::remove_file(&path).unwrap(),
                1 if path.exists() && !own(file + 10).exists() => {
                    fs::rename(
                        &path,
                        own(file + 10).with_file_name(format!("own {number}-{}", file + 10)),
                    )
                    .unwrap_or_else(|_| write_file(&path, "edited"));
                }
                _ => write_file(&path, format!("round {round}, root {number}, {}", rng.next())),
            }
        }
    }
}

fn users_who_do_not_meet_never_clash(net: &Net) {
    let mut rng = Rng::new(3);
    write_file(net.roots[0].join("common"), "from the first");
    for round in 0..4 {
        change_own_files(net, &mut rng, round);
        net.sync_all();
        net.assert_converged();
    }
}

#[test]
fn a_star_converges() {
    users_who_do_not_meet_never_clash(&Net::star());
}

#[test]
fn a_chain_converges() {
    users_who_do_not_meet_never_clash(&Net::chain());
}

#[test]
fn a_ring_converges() {
    users_who_do_not_meet_never_clash(&Net::ring());
}

#[test]
fn equal_trees_that_meet_in_a_ring_for_the_first_time_do_not_clash_later() {
    let net = Net::ring();
    for root in &net.roots {
        write_file(root.join("file"), "the same everywhere");
        common::tree::set_mtime(&root.join("file"), 1_500_000_000_000_000_000);
    }
    net.sync_all();
    net.assert_converged();
    write_file(net.roots[1].join("file"), "edited in the second");
    net.sync_all();
    net.assert_converged();
    fs::remove_file(net.roots[2].join("file")).unwrap();
    write_file(net.roots[0].join("other"), "so that no root is empty");
    net.sync_all();
    net.assert_converged();
    assert_eq!(names(&net.roots[0]), ["other"]);
}

#[test]
fn an_edit_that_comes_back_around_a_ring_is_known() {
    let net = Net::ring();
    write_file(net.roots[0].join("file"), "first");
    net.sync_all();
    for round in 0..3 {
        write_file(net.roots[0].join("file"), format!("round {round}"));
        net.sync((0, 1), 0);
        net.sync((1, 2), 0);
        write_file(net.roots[2].join("file"), format!("round {round}, edited on"));
        net.sync((2, 0), 0);
        net.sync((0, 1), 0);
        assert_eq!(read_text(net.roots[1].join("file")), format!("round {round}, edited on"));
    }
    net.sync_all();
    net.assert_converged();
}

#[test]
fn a_conflict_in_a_ring_is_one_conflict_everywhere() {
    for topology in [Net::ring(), Net::chain(), Net::star()] {
        write_file(topology.roots[0].join("file.txt"), "common");
        topology.sync_all();
        let last = topology.roots.len() - 1;
        write_file(topology.roots[0].join("file.txt"), "of the first");
        write_file(topology.roots[last].join("file.txt"), "of the last one");
        let mut conflicts = 0;
        for _ in 0..3 {
            for &(from, to) in &topology.lines {
                let mut command = psync(&topology.temp);
                command.arg(&topology.roots[from]).arg(&topology.roots[to]);
                match common::run(&mut command).status.code() {
                    Some(0) => {}
                    Some(40) => conflicts += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(conflicts, 1);
        topology.assert_converged();
        assert_eq!(clash_names(&topology.roots[0]).len(), 1);
        assert_eq!(names(&topology.roots[0]).len(), 2);
    }
}

#[test]
fn a_root_that_was_away_hears_of_old_deletions() {
    let net = Net::star();
    for file in ["kept", "deleted", "d/deleted too"] {
        write_file(net.roots[0].join(file), file);
    }
    net.sync_all();
    fs::remove_file(net.roots[1].join("deleted")).unwrap();
    fs::remove_dir_all(net.roots[1].join("d")).unwrap();
    net.sync((0, 1), 0);
    for number in 0..5 {
        write_file(net.roots[1].join("kept"), format!("edit {number}"));
        net.sync((0, 1), 0);
    }
    // The third root has heard of nothing of this.
    net.sync((0, 2), 0);
    assert_eq!(names(&net.roots[2]), ["kept"]);
    assert_eq!(trashed(&net.roots[2], "deleted"), ["deleted"]);
    net.sync_all();
    net.assert_converged();
}

#[test]
fn the_sides_of_a_run_may_be_exchanged_at_any_time() {
    let net = Net::new(2, &[(0, 1)]);
    write_file(net.roots[0].join("file"), "0");
    for round in 0..6 {
        let (from, to) = if round % 2 == 0 { (0, 1) } else { (1, 0) };
        write_file(net.roots[round % 3 % 2].join("file"), format!("round {round}"));
        net.sync((from, to), 0);
        net.sync((to, from), 0).has("nothing to do");
    }
    net.assert_converged();
}
