//! Both ends in one process, with block hashes so short that they match by chance.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use psync_protocol::message::Flow;

use super::{Keeping, Request, Site, initiate, respond};
use crate::apply::RunNames;
use crate::delta::params::forced::ShortHashes;
use crate::reconcile::DeleteLimit;
use crate::report::Silent;
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

fn names() -> RunNames {
    RunNames { trash: "run".into(), clash: "202611210000".into(), now: 1 }
}

/// Makes `far` what `near` is, and says how often the talking side changed.
fn push(near: &Path, far: &Path, hash_len: Option<u8>) -> u64 {
    let (here, there) = Line::pair(LineLimits::default()).unwrap();
    let traffic = here.traffic().clone();
    let keeping = Keeping::default();
    let request = Request {
        flow: Flow::ToResponder,
        dry_run: false,
        filters: Vec::new(),
        delete_limit: DeleteLimit::Half,
        keeping: keeping.clone(),
        location: "far".into(),
        compression: Compression::Off,
        names: names(),
    };
    thread::scope(|scope| {
        let responder = scope.spawn(|| {
            let _short = hash_len.map(ShortHashes::of);
            respond(far, true, Compression::Off, there, &keeping, names(), &Silent)
        });
        let _short = hash_len.map(ShortHashes::of);
        let mut site = Site::open(near, &keeping).unwrap();
        let outcome = initiate(&mut site, here, &request, &Silent).unwrap();
        assert!(outcome.carried_out);
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
    let folder = Folder::new();
    write_versions(&folder);
    let usual = push(&folder.near(), &folder.far(), None);
    assert_equal(&folder);

    // Whether a hash of one byte matches by chance is a matter of chance: of the seed of the session.
    let is_sent_again = || {
        let folder = Folder::new();
        write_versions(&folder);
        let turns = push(&folder.near(), &folder.far(), Some(1));
        assert_equal(&folder);
        turns > usual
    };
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
