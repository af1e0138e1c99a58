//! Both ends in one process, with block hashes so short that they match by chance.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use psync_protocol::message::{Flow, Intent};

use super::{Keeping, Request, Site, initiate, respond};
use crate::apply::RunNames;
use crate::delta::params::forced::ShortHashes;
use crate::reconcile::DeleteLimit;
use crate::report::Silent;
use crate::scan::{self, Rules};
use crate::settings::StoreConfig;
use crate::transport::{Compression, Line, LineLimits};

struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("psync-sync-{}-{number}", std::process::id()));
        fs::create_dir_all(path.join("near")).unwrap();
        fs::create_dir_all(path.join("far")).unwrap();
        Folder(path)
    }

    fn near(&self) -> PathBuf {
        self.0.join("near")
    }

    fn far(&self) -> PathBuf {
        self.0.join("far")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn names_at(now: i64) -> RunNames {
    RunNames { trash: format!("run{now}"), clash: "202611210000".into(), now }
}

/// Makes `far` what `near` is, and says how often the talking side changed.
fn push(near: &Path, far: &Path, hash_len: Option<u8>) -> u64 {
    run(near, far, Flow::ToResponder, hash_len, 1)
}

/// Both ways, at this time.
fn sync_at(near: &Path, far: &Path, now: i64) {
    run(near, far, Flow::TwoWay, None, now);
}

fn run(near: &Path, far: &Path, flow: Flow, hash_len: Option<u8>, now: i64) -> u64 {
    let (here, there) = Line::pair(LineLimits::default()).unwrap();
    let traffic = here.traffic().clone();
    let store = StoreConfig { enabled: false, ..StoreConfig::default() };
    let keeping = Keeping { store, ..Keeping::default() };
    let request = Request {
        flow,
        intent: Intent::CarryOut,
        filters: Vec::new(),
        change_limit: Default::default(),
        rules: Default::default(),
        delete_limit: DeleteLimit::Half,
        empty_is_meant: false,
        doubt: None,
        keeping: keeping.clone(),
        location: far.display().to_string(),
        compression: Compression::Off,
        names: names_at(now),
        plan: super::PlanUse::Fresh,
    };
    thread::scope(|scope| {
        let responder = scope.spawn(|| {
            let _short = hash_len.map(ShortHashes::of);
            respond(far, true, Compression::Off, there, &keeping, names_at(now), &Silent)
        });
        let _short = hash_len.map(ShortHashes::of);
        let mut site = Site::open(near, &keeping).unwrap();
        initiate(&mut site, here, &request, &Silent).unwrap();
        responder.join().unwrap().unwrap();
    });
    traffic.turns()
}

/// Two versions of some files, with many edits and blocks between them that stay.
fn write_versions(folder: &Folder) {
    for number in 0..40 {
        let line = |line: usize, version: &str| {
            format!("{number} {line}: {}\n", blake3::hash(format!("{line}{version}").as_bytes()))
        };
        let text = |version: &str| -> String {
            let own = |at| if at % 12 == 0 { version } else { "" };
            (0..1000).map(|at| line(at, own(at))).collect()
        };
        let name = format!("{number}.txt");
        fs::write(folder.far().join(&name), text("old")).unwrap();
        fs::write(folder.near().join(&name), text("new")).unwrap();
    }
}

fn assert_equal(folder: &Folder) {
    for number in 0..40 {
        let name = format!("{number}.txt");
        let read = |root: PathBuf| fs::read(root.join(&name)).unwrap();
        assert!(read(folder.near()) == read(folder.far()), "{name}");
    }
}

#[test]
fn a_file_that_short_hashes_rebuilt_wrongly_is_sent_again_and_comes_out_right() {
    let turns = |hash_len| {
        let folder = Folder::new();
        write_versions(&folder);
        let turns = push(&folder.near(), &folder.far(), hash_len);
        assert_equal(&folder);
        turns
    };
    // Whether a hash of one byte matches by chance is a matter of chance: of the seed of the session. And on
    // a busy machine a run may take two levels of hashes, and so more turns.
    let is_sent_again = || turns(Some(1)) > turns(None);
    assert!((0..30).any(|_| is_sent_again()), "no hash of one byte matched by chance");
}

#[test]
fn a_file_that_block_hashes_do_not_help_comes_whole_at_once() {
    let folder = Folder::new();
    let noise = |seed: u8| -> Vec<u8> {
        (0u16..200).flat_map(|at| *blake3::hash(&[seed, at as u8]).as_bytes()).collect()
    };
    fs::write(folder.far().join("0"), noise(1)).unwrap();
    fs::write(folder.near().join("0"), noise(2)).unwrap();
    assert_eq!(push(&folder.near(), &folder.far(), None), 6);
    assert_eq!(fs::read(folder.far().join("0")).unwrap(), noise(2));
}

#[test]
fn a_peer_with_which_there_is_nothing_to_do_for_half_a_year_is_still_known() {
    let folder = Folder::new();
    let (near, far) = (folder.near(), folder.far());
    let third = folder.0.join("third");
    fs::create_dir(&third).unwrap();
    fs::write(near.join("gone"), "x").unwrap();
    fs::write(near.join("stays"), "x").unwrap();
    sync_at(&near, &far, START);
    sync_at(&near, &third, START);
    for month in 1..8 {
        sync_at(&near, &far, START + month * 30 * DAY);
    }
    fs::write(near.join("new"), "y").unwrap();
    sync_at(&near, &third, START + 211 * DAY);
    fs::remove_file(near.join("gone")).unwrap();
    sync_at(&near, &far, START + 212 * DAY);
    assert!(!far.join("gone").exists());
}

/// Whether the index of a root still tells of a path that is gone.
fn knows(root: &Path, path: &str) -> bool {
    let mut site = Site::open(root, &Keeping::default()).unwrap();
    let path = psync_protocol::RelPath::new(path.as_bytes()).unwrap();
    site.index.row(&path).unwrap().is_some()
}

const DAY: i64 = 86_400;
const START: i64 = 1_800_000_000;

#[test]
fn a_deletion_that_all_peers_have_heard_of_is_forgotten_after_half_a_year() {
    let folder = Folder::new();
    let (near, far) = (folder.near(), folder.far());
    fs::write(near.join("gone"), "x").unwrap();
    fs::write(near.join("stays"), "x").unwrap();
    sync_at(&near, &far, START);
    fs::remove_file(near.join("gone")).unwrap();
    sync_at(&near, &far, START + DAY);
    fs::write(far.join("new"), "y").unwrap();
    sync_at(&near, &far, START + 170 * DAY);
    assert!(knows(&far, "gone"));
    fs::write(far.join("newer"), "y").unwrap();
    sync_at(&near, &far, START + 190 * DAY);
    assert!(!knows(&far, "gone"));
    fs::write(near.join("newest"), "y").unwrap();
    sync_at(&near, &far, START + 200 * DAY);
    let mut names: Vec<_> = fs::read_dir(&far)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != ".psync")
        .collect();
    names.sort();
    assert_eq!(names, ["new", "newer", "newest", "stays"]);
}

#[test]
fn a_peer_that_comes_back_after_half_a_year_is_met_anew_and_loses_nothing() {
    let folder = Folder::new();
    let (near, far) = (folder.near(), folder.far());
    let away = folder.0.join("away");
    fs::create_dir(&away).unwrap();
    fs::write(near.join("gone"), "x").unwrap();
    fs::write(near.join("stays"), "x").unwrap();
    sync_at(&near, &away, START);
    sync_at(&near, &far, START);
    fs::remove_file(near.join("gone")).unwrap();
    sync_at(&near, &far, START + DAY);
    fs::write(near.join("new"), "y").unwrap();
    sync_at(&near, &far, START + 182 * DAY);
    fs::write(near.join("newer"), "y").unwrap();
    sync_at(&near, &far, START + 184 * DAY);
    assert!(!knows(&near, "gone"));
    fs::write(away.join("made away"), "z").unwrap();
    sync_at(&near, &away, START + 185 * DAY);
    for root in [&near, &away] {
        for name in ["gone", "stays", "new", "newer", "made away"] {
            assert!(root.join(name).exists(), "{}: {name}", root.display());
        }
    }
}

#[test]
fn a_clock_that_was_stated_is_given_to_nothing_else_though_the_index_heard_no_more() {
    let folder = Folder::new();
    fs::write(folder.near().join("a"), "first").unwrap();
    push(&folder.near(), &folder.far(), None);
    fs::write(folder.near().join("a"), "second").unwrap();
    let find = |site: &mut Site| {
        let rules = Rules::new(&[]).unwrap();
        let found = scan::find_out(&site.root, &mut site.index, rules, false, &Silent).unwrap();
        let stated = found.changed().next().unwrap();
        let counter = stated.row.content_version.counter(site.index.replica());
        (found, counter)
    };
    let before = {
        let mut site = Site::open(&folder.near(), &Keeping::default()).unwrap();
        let (found, counter) = find(&mut site);
        found.reserve_clock(&mut site.index).unwrap();
        // The run breaks off here.
        counter
    };
    let mut site = Site::open(&folder.near(), &Keeping::default()).unwrap();
    let (found, after) = find(&mut site);
    assert!(after > before);
    let sequence = site.index.sequence();
    found.record(&mut site.index).unwrap();
    assert_eq!(site.index.sequence(), sequence + 1);
    assert!(site.index.next_clock() > after);
}
