//! What the store promises: it gives back what was kept, or says that it cannot.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::open::FORMAT;
use super::*;

/// A directory for one test, gone when it ends.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("psync-store-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }

    fn open(&self, budget: u64) -> Store {
        self.open_found(budget).0
    }

    fn open_found(&self, budget: u64) -> (Store, Found) {
        Store::open(&self.0.join("store"), Rules { budget, largest_file: 8 << 20 }).unwrap()
    }

    fn database(&self) -> PathBuf {
        self.0.join("store/store.db")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const ROOMY: u64 = 1 << 30;

/// Bytes that do not compress, the same for the same seed.
fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn text(lines: usize) -> Vec<u8> {
    (0..lines).flat_map(|line| format!("line {line} of a text\n").into_bytes()).collect()
}

fn keep(store: &mut Store, content: &[u8]) -> (ContentHash, Kept) {
    let hash = ContentHash::of_bytes(content);
    let kept = store.keep(&hash, content.len() as u64, &mut &content[..]).unwrap();
    (hash, kept)
}

fn read(store: &mut Store, hash: &ContentHash) -> Vec<u8> {
    store.old(hash).unwrap().unwrap().read_all().unwrap()
}

#[test]
fn contents_of_every_size_come_back_as_they_were() {
    let folder = Folder::new();
    let contents: Vec<Vec<u8>> = [0, 1, 100, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5]
        .into_iter()
        .flat_map(|size| [noise(size as u64, size), text(size / 20)])
        .collect();
    let mut store = folder.open(ROOMY);
    for content in &contents {
        assert_eq!(keep(&mut store, content).1, Kept::Held);
    }
    drop(store);
    let mut store = folder.open(ROOMY);
    for content in &contents {
        assert_eq!(&read(&mut store, &ContentHash::of_bytes(content)), content);
    }
}

#[test]
fn any_part_of_a_content_can_be_read() {
    let folder = Folder::new();
    let mut store = folder.open(ROOMY);
    let content = [noise(1, CHUNK + 77), text(100_000)].concat();
    let (hash, _) = keep(&mut store, &content);
    let mut old = store.old(&hash).unwrap().unwrap();
    assert_eq!(old.len(), content.len() as u64);
    for (offset, len) in [(0, 0), (5, 100), (CHUNK - 3, 6), (100, 2 * CHUNK), (content.len(), 0)] {
        let mut buffer = vec![0; len];
        old.read_at(offset as u64, &mut buffer).unwrap();
        assert_eq!(buffer, content[offset..offset + len], "{len} bytes from {offset} on");
    }
    assert!(old.read_at(content.len() as u64, &mut [0]).is_err());
    assert!(old.read_at(u64::MAX, &mut [0]).is_err());
    assert!(old.verify().unwrap());
}

#[test]
fn what_does_not_compress_is_stored_as_it_is() {
    let folder = Folder::new();
    let mut store = folder.open(ROOMY);
    keep(&mut store, &noise(3, 4 << 20));
    store.commit().unwrap();
    let stored = store.stat().unwrap().stored;
    assert!(stored > 4 << 20 && stored < (4 << 20) + (256 << 10), "{stored}");
    keep(&mut store, &text(400_000));
    store.commit().unwrap();
    assert!(store.stat().unwrap().stored < stored + (2 << 20));
}

#[test]
fn another_content_than_was_meant_is_not_kept() {
    let folder = Folder::new();
    let mut store = folder.open(ROOMY);
    let content = noise(4, 2 * CHUNK);
    let hash = ContentHash::of_bytes(&content);
    let mut changed = content.clone();
    changed[CHUNK + 1] ^= 1;
    let longer = [&content[..], b"!"].concat();
    for other in [&changed[..], &content[1..], &longer, b""] {
        let kept = store.keep(&hash, content.len() as u64, &mut &other[..]).unwrap();
        assert_eq!(kept, Kept::Different);
    }
    assert!(!store.holds(&hash).unwrap());
    assert_eq!(store.stat().unwrap().contents, 0);
    let chunks: i64 =
        store.db().query_row("SELECT count(*) FROM chunks", [], |row| row.get(0)).unwrap();
    assert_eq!(chunks, 0);
}

#[test]
fn packed_contents_are_kept_once() {
    let folder = Folder::new();
    let mut store = folder.open(ROOMY);
    let content = text(1000);
    let packed =
        Packer::new().unwrap().pack(content.len() as u64, &mut &content[..], None).unwrap();
    assert_eq!(packed.hash, ContentHash::of_bytes(&content));
    assert_eq!(store.put(&packed).unwrap(), Kept::Held);
    assert_eq!(store.put(&packed).unwrap(), Kept::Held);
    assert_eq!(store.stat().unwrap().contents, 1);
    assert_eq!(read(&mut store, &packed.hash), content);
}

#[test]
fn a_file_that_is_too_large_is_not_taken() {
    let folder = Folder::new();
    let mut store = folder.open(ROOMY);
    assert!(store.takes(8 << 20));
    assert!(!store.takes((8 << 20) + 1));
    assert_eq!(keep(&mut store, &noise(5, (8 << 20) + 1)).1, Kept::NoRoom);
    let (mut off, _) =
        Store::open(&folder.path().join("off"), Rules { budget: 0, largest_file: 1 << 20 })
            .unwrap();
    assert!(!off.takes(0));
    assert_eq!(keep(&mut off, b"").1, Kept::NoRoom);
}

#[test]
fn a_full_store_says_that_there_is_no_room_and_keeps_what_it_has() {
    let folder = Folder::new();
    let mut store = folder.open(1 << 20);
    let (first, kept) = keep(&mut store, &noise(6, 500_000));
    assert_eq!(kept, Kept::Held);
    let (second, kept) = keep(&mut store, &noise(7, 900_000));
    assert_eq!(kept, Kept::NoRoom);
    assert!(!store.holds(&second).unwrap());
    let content = noise(8, 900_000);
    let packed = Packer::new().unwrap().pack(900_000, &mut &content[..], None).unwrap();
    assert_eq!(store.put(&packed).unwrap(), Kept::NoRoom);
    assert_eq!(read(&mut store, &first), noise(6, 500_000));
}

#[test]
fn a_collection_lets_go_of_what_nobody_needs_and_then_of_the_least_recently_used() {
    let folder = Folder::new();
    let contents: Vec<Vec<u8>> = (0..8).map(|seed| noise(seed, 200_000)).collect();
    let hash = |at: usize| ContentHash::of_bytes(&contents[at]);
    for content in &contents[..7] {
        keep(&mut folder.open(ROOMY), content);
    }
    // The first is used again, the last is kept by whoever collects; the sixth has no file any more.
    folder.open(ROOMY).old(&hash(0)).unwrap().unwrap();
    let mut store = folder.open(ROOMY);
    keep(&mut store, &contents[7]);
    store.rules.budget = 1_350_000;
    let collected = store.gc(0, &|found| *found != hash(5)).unwrap();
    assert_eq!(collected.hashes, [hash(5), hash(1), hash(2)]);
    assert!(collected.after <= 1_350_000 && collected.after < collected.before);
    assert!(fs::metadata(folder.database()).unwrap().len() <= 1_350_000, "room is given back");
    for at in [0, 3, 4, 6, 7] {
        assert_eq!(read(&mut store, &hash(at)), contents[at]);
    }
    assert!(!store.holds(&hash(5)).unwrap());
}

#[test]
fn a_collection_within_the_budget_lets_go_of_nothing() {
    let folder = Folder::new();
    let (hash, _) = keep(&mut folder.open(ROOMY), b"old");
    let mut store = folder.open(ROOMY);
    assert_eq!(store.gc(0, &|_| false).unwrap().hashes, []);
    assert!(store.holds(&hash).unwrap());
}

#[test]
fn a_damaged_content_is_noticed_and_let_go() {
    let folder = Folder::new();
    let mut store = folder.open(ROOMY);
    let (good, _) = keep(&mut store, &text(5000));
    let raw = noise(9, 300_000);
    let (bad, _) = keep(&mut store, &raw);
    drop(store);
    let mut bytes = fs::read(folder.database()).unwrap();
    let at = bytes.windows(64).position(|window| window == &raw[150_000..150_064]).unwrap();
    bytes[at] ^= 0x10;
    fs::write(folder.database(), bytes).unwrap();
    let mut store = folder.open(ROOMY);
    let mut old = store.old(&bad).unwrap().unwrap();
    assert!(!old.verify().unwrap());
    assert!(old.read_all().is_err());
    let checked = store.verify().unwrap();
    assert_eq!((checked.sound, checked.damaged), (1, vec![bad]));
    assert!(!store.holds(&bad).unwrap());
    assert_eq!(read(&mut store, &good), text(5000));
}

#[test]
fn damage_anywhere_in_the_database_is_an_error_or_a_new_store_but_never_a_wrong_content() {
    let folder = Folder::new();
    let contents = [text(3000), noise(10, 70_000), noise(11, 2 << 20)];
    let mut store = folder.open(ROOMY);
    for content in &contents {
        keep(&mut store, content);
    }
    drop(store);
    let sound = fs::read(folder.database()).unwrap();
    let mut thrown_away = 0;
    for round in 0..150u64 {
        let mut bytes = sound.clone();
        let chance = noise(1000 + round, 16);
        let place = u64::from_le_bytes(chance[..8].try_into().unwrap());
        // Half of the time where the tables of contents are.
        let span = if round % 2 == 0 { bytes.len() } else { 65_536 };
        let at = (place % span as u64) as usize;
        let end = (at + 40).min(bytes.len());
        bytes[at..end].fill(chance[9]);
        if round % 10 == 0 {
            bytes.truncate(at);
        }
        fs::write(folder.database(), &bytes).unwrap();
        let Ok((mut store, found)) = Store::open(&folder.path().join("store"), Rules::for_tree(0))
        else {
            continue;
        };
        thrown_away += u32::from(matches!(found, Found::ThrownAway(_)));
        for content in &contents {
            let hash = ContentHash::of_bytes(content);
            if let Ok(Some(mut old)) = store.old(&hash)
                && let Ok(read) = old.read_all()
            {
                assert_eq!(&read, content, "round {round}");
            }
            let _ = store.keep(&hash, content.len() as u64, &mut &content[..]);
        }
        let _ = store.verify();
        let _ = store.gc(0, &|_| false);
    }
    assert!(thrown_away > 0);
}

#[test]
fn a_file_that_is_no_database_is_thrown_away() {
    let folder = Folder::new();
    fs::create_dir(folder.path().join("store")).unwrap();
    fs::write(
        folder.database(),
        "this is not a database, and long enough to be taken for one".repeat(99),
    )
    .unwrap();
    let (mut store, found) = folder.open_found(ROOMY);
    assert!(matches!(found, Found::ThrownAway(_)), "{found:?}");
    let (hash, kept) = keep(&mut store, b"new");
    assert_eq!(kept, Kept::Held);
    drop(store);
    assert_eq!(folder.open_found(ROOMY).1, Found::Intact);
    assert_eq!(read(&mut folder.open(ROOMY), &hash), b"new");
}

#[test]
fn a_store_of_a_newer_format_is_left_alone() {
    let folder = Folder::new();
    let (hash, _) = keep(&mut folder.open(ROOMY), b"kept");
    let db = rusqlite::Connection::open(folder.database()).unwrap();
    db.pragma_update(None, "user_version", FORMAT + 1).unwrap();
    let opened = Store::open(&folder.path().join("store"), Rules::for_tree(0));
    assert!(matches!(opened, Err(StoreError::Newer(_))));
    db.pragma_update(None, "user_version", FORMAT).unwrap();
    assert!(folder.open(ROOMY).holds(&hash).unwrap());
}

#[test]
fn a_store_that_is_deleted_while_open_fails_without_harm() {
    let folder = Folder::new();
    let mut store = folder.open(ROOMY);
    let (hash, _) = keep(&mut store, &text(100_000));
    store.commit().unwrap();
    fs::remove_dir_all(folder.path().join("store")).unwrap();
    for seed in 0..20 {
        let content = noise(seed, 100_000);
        let _ = store.keep(&ContentHash::of_bytes(&content), 100_000, &mut &content[..]);
        let _ = store.commit();
    }
    if let Ok(Some(mut old)) = store.old(&hash)
        && let Ok(read) = old.read_all()
    {
        assert_eq!(read, text(100_000));
    }
    drop(store);
    assert_eq!(folder.open_found(ROOMY).1, Found::New);
}

#[test]
fn what_a_killed_process_left_is_a_sound_store() {
    let folder = Folder::new();
    let mut store = folder.open(ROOMY);
    let (first, _) = keep(&mut store, &noise(12, 300_000));
    store.commit().unwrap();
    let (second, _) = keep(&mut store, &noise(13, 5 << 20));
    store.forget(&first).unwrap();
    // Its pages are on disk in part; nobody comes back to finish.
    std::mem::forget(store);
    let copy = Folder::new();
    fs::create_dir(copy.path().join("store")).unwrap();
    for name in ["store.db", "store.db-journal"] {
        let from = folder.path().join("store").join(name);
        fs::copy(from, copy.path().join("store").join(name)).unwrap();
    }
    let (mut store, found) = copy.open_found(ROOMY);
    assert_eq!(found, Found::Intact);
    assert_eq!(read(&mut store, &first), noise(12, 300_000));
    assert!(!store.holds(&second).unwrap());
    assert_eq!(store.verify().unwrap().damaged, []);
}

#[test]
fn a_place_that_cannot_be_used_is_an_error() {
    let folder = Folder::new();
    let file = folder.path().join("store");
    fs::File::create(&file).unwrap().write_all(b"in the way").unwrap();
    assert!(matches!(Store::open(&file, Rules::for_tree(0)), Err(StoreError::Io { .. })));
}

#[test]
fn a_disk_that_is_full_is_an_error_and_the_store_stays_sound() {
    let folder = Folder::new();
    let mut store = folder.open(ROOMY);
    let (first, _) = keep(&mut store, &noise(14, 200_000));
    store.commit().unwrap();
    // SQLite's own limit gives the error that a full disk gives.
    let pages: i64 = store.db().query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    store.db().pragma_update(None, "max_page_count", pages + 3).unwrap();
    let content = noise(15, 3 << 20);
    let kept = store.keep(&ContentHash::of_bytes(&content), 3 << 20, &mut &content[..]);
    assert!(kept.as_ref().is_err_and(|error| !error.is_damage()), "{kept:?}");
    let packed = Packer::new().unwrap().pack(3 << 20, &mut &content[..], None).unwrap();
    assert!(store.put(&packed).is_err_and(|error| !error.is_damage()));
    assert!(!store.holds(&packed.hash).unwrap());
    store.commit().unwrap();
    drop(store);
    let mut store = folder.open(ROOMY);
    assert_eq!(read(&mut store, &first), noise(14, 200_000));
    assert_eq!(store.verify().unwrap().damaged, []);
}

#[test]
fn the_default_budget_grows_with_the_tree() {
    assert_eq!(Rules::for_tree(5 << 20).budget, 1 << 30);
    assert_eq!(Rules::for_tree(50 << 30).budget, 5 << 30);
}

#[test]
fn a_snapshot_is_taken_or_the_file_system_is_not_asked_again() {
    let folder = Folder::new();
    let content = noise(16, 2 << 20);
    let path = folder.path().join("file");
    fs::write(&path, &content).unwrap();
    let hash = ContentHash::of_bytes(&content);
    let mut store = folder.open(ROOMY);
    let small = store.snapshot(&hash, SNAPSHOT_MIN - 1, &fs::File::open(&path).unwrap());
    assert_eq!(small.unwrap(), None);
    let file = fs::File::open(&path).unwrap();
    match store.snapshot(&hash, 2 << 20, &file).unwrap() {
        Some(kept) => {
            assert_eq!(kept, Kept::Held);
            assert_eq!(read(&mut store, &hash), content);
            let other = ContentHash::of_bytes(b"another");
            assert_eq!(store.snapshot(&other, 2 << 20, &file).unwrap(), Some(Kept::Different));
            assert_eq!(store.stat().unwrap().snapshots, 1);
            store.forget(&hash).unwrap();
        }
        None => assert!(store.snapshots.is_refused()),
    }
    let left = fs::read_dir(folder.path().join("store/snapshots"));
    assert_eq!(left.map(|names| names.count()).unwrap_or(0), 0);
    assert!(!store.holds(&hash).unwrap());
}
