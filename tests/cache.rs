//! The cache of block hashes and sketches, through the real program: it fills, it may be damaged, unusable or gone,
//! and no sync is the worse for it.
//!
//!     cargo test --test cache
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::pair::{Pair, Said};
use common::write_file;
use rusqlite::Connection;

const FILES: u64 = 400;
const TOLD: &str = "the cache of block hashes could not be used";

fn file_of(root: &Path) -> PathBuf {
    root.join(".psync/cache.db")
}

fn count(database: &Path, sql: &str) -> u64 {
    let database = Connection::open(database).unwrap();
    database.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap() as u64
}

fn blocks(root: &Path) -> u64 {
    count(&file_of(root), "SELECT count(*) FROM blocks")
}

fn sketches(root: &Path) -> u64 {
    count(&file_of(root), "SELECT count(*) FROM sketches")
}

/// Files that the index says are remembered as block hashes, in the store, or not at all.
fn remembered(root: &Path) -> [u64; 3] {
    [1, 2, 0].map(|how| {
        let sql = format!("SELECT count(*) FROM entries WHERE kind = 2 AND remembered = {how}");
        count(&root.join(".psync/index.db"), &sql)
    })
}

/// Both roots, for what holds at either end.
fn both(pair: &Pair) -> [&Path; 2] {
    [&pair.a, &pair.b]
}

fn text(number: u64) -> String {
    format!("file {number} says this, and {} more, ", number * 7).repeat(40)
}

fn grow(pair: &Pair) {
    for number in 0..FILES {
        write_file(pair.a.join(format!("d{}/text {number}", number % 7)), text(number));
    }
}

#[track_caller]
fn sync(pair: &Pair, options: &[&str]) -> Said {
    pair.sync_expecting(0, options)
}

/// Both ends know the block hashes of so many files, and count on them.
#[track_caller]
fn assert_knows_blocks_of(pair: &Pair, files: u64) {
    for root in both(pair) {
        assert_eq!((blocks(root), remembered(root)), (files, [files, 0, 0]));
    }
}

/// Two roots that have agreed on all files without a store.
fn without_store() -> Pair {
    let pair = Pair::new();
    grow(&pair);
    sync(&pair, &["--no-store"]);
    pair
}

#[test]
fn a_first_copy_without_a_store_leaves_block_hashes_and_sketches_of_all_files() {
    let pair = without_store();
    assert_knows_blocks_of(&pair, FILES);
    assert_eq!(both(&pair).map(sketches), [FILES; 2]);
}

#[test]
fn a_first_copy_with_a_store_leaves_sketches_and_no_block_hashes() {
    let pair = Pair::new();
    grow(&pair);
    sync(&pair, &[]);
    for root in both(&pair) {
        assert_eq!((blocks(root), sketches(root)), (0, FILES));
        assert_eq!(remembered(root), [0, FILES, 0]);
    }
}

#[test]
fn a_cache_that_is_gone_is_filled_again() {
    let pair = without_store();
    for root in both(&pair) {
        fs::remove_file(file_of(root)).unwrap();
    }
    write_file(pair.b.join("new"), text(1000));
    sync(&pair, &["--no-store"]).has_not(TOLD);
    assert_knows_blocks_of(&pair, FILES + 1);
}

#[test]
fn a_cache_that_is_damaged_in_the_middle_is_told_of_and_is_whole_again_after_the_next_run() {
    let pair = without_store();
    for root in both(&pair) {
        let mut bytes = fs::read(file_of(root)).unwrap();
        bytes[4096..].fill(0xa5);
        fs::write(file_of(root), bytes).unwrap();
    }
    write_file(pair.a.join("new"), text(1000));
    sync(&pair, &["--no-store"]).has(TOLD);
    // The other end tells in the next run.
    write_file(pair.a.join("newer"), text(1001));
    sync(&pair, &["--no-store"]);
    write_file(pair.a.join("newest"), text(1002));
    sync(&pair, &["--no-store"]).has_not(TOLD);
    assert_knows_blocks_of(&pair, FILES + 3);
}

#[test]
fn where_the_cache_cannot_be_used_the_store_fills_in_any_case() {
    let pair = Pair::new();
    grow(&pair);
    write_file(pair.a.join("first"), text(1000));
    sync(&pair, &["--include", "/first", "--exclude", "*"]);
    for root in both(&pair) {
        fs::remove_file(file_of(root)).unwrap();
        fs::create_dir(file_of(root)).unwrap();
    }
    sync(&pair, &[]).has(TOLD);
    for root in both(&pair) {
        assert_eq!(remembered(root), [0, FILES + 1, 0]);
        fs::remove_dir(file_of(root)).unwrap();
    }
    write_file(pair.a.join("new"), text(1001));
    sync(&pair, &["--no-store"]);
    assert_eq!(both(&pair).map(remembered), [[1, FILES + 1, 0]; 2]);
}
