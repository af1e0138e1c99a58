//! What an index remembers of contents, and databases of older formats.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use psync_protocol::{Content, ContentHash, RelPath};
use rustix::fs::{FlockOperation, flock};

use super::*;
use crate::manifest::{Reference, Stamp, Stored};

struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("psync-index-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn open(&self) -> Index {
        let (index, set_aside) = Index::open(&self.0, |buffer| buffer.fill(7)).unwrap();
        assert_eq!(set_aside, None);
        index
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

fn file(at: &str, content: &str) -> Stored {
    let mut row = Row::absent(path(at));
    let hash = ContentHash::of_bytes(content.as_bytes());
    row.content = Content::File { size: content.len() as u64, hash };
    Stored { row, stamp: Stamp(1), inode: 1, shared: false, deleted_at: 0 }
}

fn blocks(packed: &[u8]) -> BlockHashes {
    BlockHashes { block_len: 64, hash_len: 4, seed: u64::MAX, len: 99, packed: packed.to_vec() }
}

fn names(index: &Index, at_most: Remembered) -> Vec<String> {
    let files = index.to_remember(at_most).unwrap();
    files.into_iter().map(|file| file.path.to_string()).collect()
}

#[test]
fn only_files_that_a_peer_has_are_to_be_remembered() {
    let folder = Folder::new();
    let mut index = folder.open();
    for at in ["a", "b", "c"] {
        index.put(&file(at, at)).unwrap();
    }
    assert!(!index.has_to_remember(Remembered::AsBlocks).unwrap());
    index.mark_shared(&[&path("a")]).unwrap();
    index.mark_shared(&[&path("c")]).unwrap();
    assert!(index.has_to_remember(Remembered::Not).unwrap());
    assert_eq!(names(&index, Remembered::Not), ["a", "c"]);
    let files = index.to_remember(Remembered::Not).unwrap();
    assert_eq!((files[0].size, files[0].hash), (1, ContentHash::of_bytes(b"a")));
    index.set_remembered(&files[0], Remembered::InStore).unwrap();
    index.set_remembered(&files[1], Remembered::AsBlocks).unwrap();
    assert!(!index.has_to_remember(Remembered::Not).unwrap());
    assert_eq!(names(&index, Remembered::AsBlocks), ["c"]);
    // Agreed on once more, with the same content.
    index.mark_shared(&[&path("a")]).unwrap();
    assert!(!index.has_to_remember(Remembered::Not).unwrap());
    index.forget_remembered().unwrap();
    assert_eq!(names(&index, Remembered::Not), ["a", "c"]);
}

#[test]
fn a_file_that_changed_meanwhile_is_not_taken_for_remembered() {
    let folder = Folder::new();
    let mut index = folder.open();
    index.put(&file("a", "old")).unwrap();
    index.mark_shared(&[&path("a")]).unwrap();
    let old = index.to_remember(Remembered::Not).unwrap().remove(0);
    index.set_remembered(&old, Remembered::InStore).unwrap();
    index.put(&file("a", "new")).unwrap();
    assert!(!index.has_to_remember(Remembered::Not).unwrap(), "no peer has it yet");
    index.mark_shared(&[&path("a")]).unwrap();
    index.set_remembered(&old, Remembered::InStore).unwrap();
    assert_eq!(names(&index, Remembered::Not), ["a"]);
}

fn put_blocks(index: &mut Index, hash: &ContentHash, packed: &[u8]) {
    let blocks = Some(blocks(packed));
    index.cache_mut().put(&[Digests { hash: *hash, blocks, sketch: None }]).unwrap();
}

#[test]
fn most_are_noted_as_remembered_at_once_and_the_others_as_they_are() {
    let folder = Folder::new();
    let mut index = folder.open();
    for name in ["a", "b", "c", "d", "e"] {
        index.put(&file(name, name)).unwrap();
    }
    index.mark_shared(&["a", "b", "c", "d"].map(path).each_ref()).unwrap();
    let files = index.to_remember(Remembered::Not).unwrap();
    index.set_remembered(&files[3], Remembered::AsBlocks).unwrap();
    let others = [(&files[1], Remembered::AsBlocks), (&files[2], Remembered::Not)];
    index.set_most_remembered(Remembered::InStore, others).unwrap();
    assert_eq!(names(&index, Remembered::Not), ["c"]);
    assert_eq!(names(&index, Remembered::AsBlocks), ["c", "b", "d"]);
    index.mark_shared(&[&path("e")]).unwrap();
    assert_eq!(names(&index, Remembered::Not), ["c", "e"], "nobody had it");
}

#[test]
fn block_hashes_come_back_as_they_were() {
    let folder = Folder::new();
    let hash = ContentHash::of_bytes(b"content");
    let mut index = folder.open();
    assert_eq!(index.cache().blocks(&hash), None);
    put_blocks(&mut index, &hash, b"first");
    put_blocks(&mut index, &hash, b"second");
    drop(index);
    let index = folder.open();
    assert!(index.cache().has_blocks(&hash));
    assert_eq!(index.cache().blocks(&hash), Some(blocks(b"second")));
}

/// An index in which two files have a peer's content, one of them remembered as block hashes.
fn remembering(folder: &Folder) -> Index {
    let mut index = folder.open();
    for (name, remembered) in [("a", Remembered::AsBlocks), ("b", Remembered::InStore)] {
        let file = file(name, name);
        index.put(&file).unwrap();
        index.mark_shared(&[&path(name)]).unwrap();
        let shared = index.to_remember(Remembered::Not).unwrap().remove(0);
        put_blocks(&mut index, &shared.hash, name.as_bytes());
        index.set_remembered(&shared, remembered).unwrap();
    }
    assert!(!index.has_to_remember(Remembered::Not).unwrap());
    index
}

#[test]
fn a_cache_that_is_damaged_or_gone_is_made_anew_and_filled_again() {
    let damages: [fn(&Path); 3] = [
        |file| fs::write(file, "nonsense".repeat(1000)).unwrap(),
        |file| fs::remove_file(file).unwrap(),
        |file| {
            let db = rusqlite::Connection::open(file).unwrap();
            db.pragma_update(None, "user_version", 99).unwrap();
        },
    ];
    for (damage, is_told) in damages.into_iter().zip([true, false, true]) {
        let folder = Folder::new();
        drop(remembering(&folder));
        damage(&folder.0.join("cache.db"));
        let index = folder.open();
        assert_eq!(index.cache().take_trouble().is_some(), is_told);
        assert_eq!(names(&index, Remembered::Not), ["a"]);
        assert_eq!(index.cache().blocks_in_all(), (0, 0));
        assert_eq!(folder.open().cache().take_trouble(), None);
    }
}

#[test]
fn a_cache_that_turns_out_to_be_damaged_knows_nothing_until_it_is_made_anew() {
    let folder = Folder::new();
    drop(remembering(&folder));
    let mut index = folder.open();
    let hash = ContentHash::of_bytes(b"a");
    let whole = fs::read(folder.0.join("cache.db")).unwrap();
    let mut damaged = whole.clone();
    damaged[4096..].fill(0xff);
    fs::write(folder.0.join("cache.db"), damaged).unwrap();
    assert_eq!(index.cache().blocks(&hash), None);
    assert!(index.cache().take_trouble().is_some());
    assert!(index.cache().again().is_none());
    let digests = [Digests { hash, blocks: Some(blocks(b"a")), sketch: None }];
    assert!(index.cache_mut().put(&digests).is_err());
    assert_eq!(names(&index, Remembered::Not), <[&str; 0]>::default());
    index.mend_cache().unwrap();
    assert_eq!(names(&index, Remembered::Not), ["a"]);
    index.cache_mut().put(&digests).unwrap();
    assert!(index.cache().has_blocks(&hash));
}

#[test]
fn two_may_have_the_cache_open() {
    let folder = Folder::new();
    let mut index = folder.open();
    let mut other = index.cache().again().unwrap();
    let hash = ContentHash::of_bytes(b"a");
    let sketch = Some([7; SKETCH_BYTES]);
    other.put(&[Digests { hash, blocks: Some(blocks(b"a")), sketch }]).unwrap();
    assert_eq!(index.cache().blocks(&hash), Some(blocks(b"a")));
    put_blocks(&mut index, &hash, b"b");
    assert_eq!((other.blocks(&hash), other.sketch(&hash)), (Some(blocks(b"b")), sketch));
}

#[test]
fn block_hashes_stay_while_a_file_or_a_base_refers_to_them() {
    let folder = Folder::new();
    let mut index = folder.open();
    let hash = |content: &str| ContentHash::of_bytes(content.as_bytes());
    let mut edited = file("edited", "new");
    edited.row.base = Some(hash("old"));
    index.put(&edited).unwrap();
    index.put(&file("same", "same")).unwrap();
    index.put(&file("stored", "stored")).unwrap();
    let mut gone = file("gone", "gone");
    gone.row.content = Content::Deleted { moved_to: None };
    index.put(&gone).unwrap();
    for content in ["new", "old", "same", "stored", "gone", "older"] {
        put_blocks(&mut index, &hash(content), b"");
    }
    assert_eq!(index.purge_blocks(|found| *found == hash("stored")).unwrap(), 3);
    for content in ["new", "old", "same"] {
        assert!(index.cache().has_blocks(&hash(content)), "{content}");
    }
}

#[test]
fn an_index_of_the_first_format_keeps_its_rows_and_remembers_from_now_on() {
    let folder = Folder::new();
    let replica = {
        let mut index = folder.open();
        index.put(&file("a", "a")).unwrap();
        index.mark_shared(&[&path("a")]).unwrap();
        index
            .db
            .execute_batch(
                "DROP INDEX entries_to_remember; ALTER TABLE entries DROP COLUMN remembered;
             ALTER TABLE entries DROP COLUMN changed;
             ALTER TABLE entries DROP COLUMN base_size;
             DROP TABLE lines; DROP TABLE conflicts; DROP TABLE conflict_sides;
             DROP TABLE signers; DROP TABLE chain;
             PRAGMA user_version = 1;",
            )
            .unwrap();
        index.replica()
    };
    let index = folder.open();
    assert_eq!(index.replica(), replica);
    assert_eq!(names(&index, Remembered::Not), ["a"]);
}

fn traces_of(index: &Index) -> Vec<(String, Option<u64>, Option<u64>, u64)> {
    let traces = index.traces().unwrap().into_iter();
    let size = |reference: Option<Reference>| reference.and_then(|reference| reference.size);
    traces
        .map(|trace| (trace.path.to_string(), size(trace.content), size(trace.base), trace.changed))
        .collect()
}

#[test]
fn a_row_tells_since_when_it_has_its_content_and_how_long_its_base_was() {
    let folder = Folder::new();
    let mut index = folder.open();
    let based_on = |stored: Stored, base: &str| {
        let base = Some(ContentHash::of_bytes(base.as_bytes()));
        Stored { row: Row { base, ..stored.row }, ..stored }
    };
    let mut touched = file("a", "one");
    index.put(&touched).unwrap();
    touched.row.props.mode = 0o600;
    index.put(&touched).unwrap();
    index.put(&file("b", "three")).unwrap();
    assert_eq!(traces_of(&index), [("a".into(), Some(3), None, 1), ("b".into(), Some(5), None, 3)]);
    // The base stays what it was, however often the file is edited after that.
    index.put(&based_on(file("a", "edited"), "one")).unwrap();
    index.put(&based_on(file("a", "edited again"), "one")).unwrap();
    assert_eq!(traces_of(&index)[0], ("a".into(), Some(12), Some(3), 5));
    let mut gone = based_on(file("b", ""), "three");
    gone.row.content = Content::Deleted { moved_to: Some(path("c")) };
    index.put(&gone).unwrap();
    index.put(&based_on(file("c", "was b, and longer"), "three")).unwrap();
    let traces = traces_of(&index);
    assert_eq!(traces[1], ("b".into(), None, Some(5), 6));
    assert_eq!(traces[2], ("c".into(), Some(17), None, 7), "what never stood here has no length");
    assert_eq!(index.traces().unwrap()[1].moved_to, Some(path("c")));
}

#[test]
fn the_setting_of_the_store_is_kept() {
    let folder = Folder::new();
    let mut index = folder.open();
    assert_eq!(index.store_setting().unwrap(), None);
    index.set_store_setting(Some("1G")).unwrap();
    assert_eq!(index.store_setting().unwrap().as_deref(), Some("1G"));
    index.set_store_setting(None).unwrap();
    assert_eq!(index.store_setting().unwrap(), None);
}

#[test]
fn rows_are_found_together_as_they_are_one_by_one() {
    let folder = Folder::new();
    let mut index = folder.open();
    let rows: Vec<Stored> = (0..400).map(|at| file(&format!("d{at:03}/f"), "x")).collect();
    index.put_all(&rows).unwrap();
    assert_eq!(index.sequence(), 400);
    let all: Vec<RelPath> = (0..400)
        .flat_map(|at| [path(&format!("d{at:03}/e")), path(&format!("d{at:03}/f"))])
        .collect();
    let every: Vec<&RelPath> = all.iter().collect();
    let few: Vec<&RelPath> = all.iter().step_by(31).collect();
    let backwards: Vec<&RelPath> = all.iter().rev().collect();
    for paths in [every, few, backwards, Vec::new()] {
        let singly: Vec<_> = paths.iter().map(|path| index.row(path).unwrap()).collect();
        assert_eq!(index.rows_at(&paths).unwrap(), singly);
    }
}

#[test]
fn many_rows_are_marked_as_shared_like_few() {
    let folder = Folder::new();
    let mut index = folder.open();
    let rows: Vec<Stored> = (0..100).map(|at| file(&format!("{at:03}"), "x")).collect();
    index.put_all(&rows).unwrap();
    let paths: Vec<RelPath> = (0..100).step_by(2).map(|at| path(&format!("{at:03}"))).collect();
    index.mark_shared(&paths.iter().collect::<Vec<_>>()).unwrap();
    index.mark_shared(&[&path("001")]).unwrap();
    let shared: Vec<bool> =
        index.rows_since(0).unwrap().iter().map(|stored| stored.shared).collect();
    let expected: Vec<bool> = (0..100).map(|at| at % 2 == 0 || at == 1).collect();
    assert_eq!(shared, expected);
}

#[test]
fn strangers_leave_no_more_than_so_many_peers_and_those_met_often_stay() {
    let folder = Folder::new();
    let mut index = folder.open();
    let id = |number: u16| ReplicaId([number.to_le_bytes(); 8].concat().try_into().unwrap());
    let claim = psync_protocol::signed::Claim::from_bytes(&[0; 249]).unwrap();
    let link = Link { claim, signature: [0; 64] };
    let meet = |index: &mut Index, number: u16, session: u64, ends: bool| {
        let (replica, index_id) = (id(number), IndexId([1; 8]));
        let pair = Pair { number: session, said: link.clone(), heard: link.clone(), at: 0 };
        let signer = Signer { key: [2; 32], index_id, sequence: 1 };
        index.put_signer(replica, &signer).unwrap();
        index.put_pair(replica, &pair).unwrap();
        index.forget_strangers(replica).unwrap();
        let (our_scope, their_scope) = ([0; 8], [0; 8]);
        let peer = Peer { replica, index_id, theirs: 1, ours: 1, our_scope, their_scope };
        if ends {
            index.put_peer(&peer, i64::from(number)).unwrap();
        }
    };
    meet(&mut index, 0, 1, true);
    meet(&mut index, 0, 2, true);
    for number in 1..1_010 {
        meet(&mut index, number, 1, true);
    }
    meet(&mut index, 2_000, 1, false);
    assert!(index.signer(id(2_000)).unwrap().is_some(), "its session is under way");
    meet(&mut index, 2_001, 1, false);
    let has = |number| {
        let (peer, signer) = (index.peer(id(number)).unwrap(), index.signer(id(number)).unwrap());
        (peer.is_some(), signer.is_some(), index.chain(id(number), 9).unwrap().len())
    };
    assert_eq!(has(0), (true, true, 2), "met twice");
    assert_eq!(has(1), (false, false, 0), "not seen for longest");
    assert_eq!(has(1_009), (true, true, 1), "seen last");
    assert_eq!(has(2_000), (false, false, 0), "never came to an end");
    assert_eq!(index.acquaintances().unwrap().len(), 1_000);
    assert_eq!(index.signers().unwrap().len(), 1_001);
    // Who is not seen for long takes everything along.
    index.forget_old(3_000 + TOMBSTONE_AGE).unwrap();
    assert!(index.acquaintances().unwrap().is_empty());
    index.forget_strangers(id(0)).unwrap();
    assert!(index.signers().unwrap().is_empty());
}

/// What comes of `run`, which may not panic, while other locks come and go all the time.
fn among_other_locks<T>(folder: &Path, run: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for thread in 0..2 {
            let over = &over;
            scope.spawn(move || {
                let files: [File; 20] = std::array::from_fn(|number| {
                    File::create(folder.join(format!("other-{thread}-{number}"))).unwrap()
                });
                while !over.load(Ordering::Relaxed) {
                    files.iter().for_each(|file| flock(file, FlockOperation::LockShared).unwrap());
                    files.iter().for_each(|file| flock(file, FlockOperation::Unlock).unwrap());
                }
            });
        }
        let result = run();
        over.store(true, Ordering::Relaxed);
        result
    })
}

#[test]
fn a_root_that_somebody_works_on_is_always_seen_to_be_taken() {
    let folder = Folder::new();
    assert!(!Lock::is_taken(&folder.0));
    let lock = Lock::take(&folder.0).unwrap();
    let passed_over =
        among_other_locks(&folder.0, || (0..2000).filter(|_| !Lock::is_taken(&folder.0)).count());
    assert_eq!(passed_over, 0);
    assert!(matches!(Lock::take(&folder.0), Err(OpenError::Busy)));
    drop(lock);
    assert!(!Lock::is_taken(&folder.0));
}

#[test]
fn who_only_asks_is_not_in_the_way_of_who_takes_the_lock() {
    let folder = Folder::new();
    let over = AtomicBool::new(false);
    drop(Lock::take(&folder.0).unwrap());
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                Lock::is_taken(&folder.0);
                thread::sleep(Duration::from_micros(100));
            }
        });
        let refused = (0..200).filter(|_| Lock::take(&folder.0).is_err()).count();
        over.store(true, Ordering::Relaxed);
        assert_eq!(refused, 0);
    });
}
