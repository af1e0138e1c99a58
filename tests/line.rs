//! How fast the line is and what follows from it: both ends remember its rate, and the slower it
//! is the harder psync compresses.
//!
//!     cargo test --test line
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

mod common;

use std::fs;
use std::path::Path;

use common::pair::{Pair, Said};
use common::{local_rsh, psync_over, write_file};
use rusqlite::Connection;

/// Copies `a` to an empty `b` over a pipe; gives the bytes sent.
fn push(pair: &Pair, options: &[&str]) -> u64 {
    let mut command = psync_over(&pair.temp, &local_rsh(&pair.temp));
    command.args(options).arg("--json").arg(&pair.a).arg(format!("host:{}", pair.b.display()));
    Said::of(&mut command, 0).summary()["bytes_sent"].as_u64().unwrap()
}

/// What a root remembers of its only line, in KiB a second: sending, receiving.
fn remembered(root: &Path) -> (Option<i64>, Option<i64>) {
    let index = Connection::open(root.join(".psync/index.db")).unwrap();
    let rates = index.query_row("SELECT sending, receiving FROM lines", [], |row| {
        Ok((row.get(0)?, row.get(1)?))
    });
    rates.unwrap_or_default()
}

/// Bytes that no compressor makes smaller.
fn noise(length: usize) -> Vec<u8> {
    let blocks = (0..length as u32 / 32).map(|n| n.to_le_bytes());
    blocks.flat_map(|n| psync_protocol::ContentHash::of_bytes(&n).0).collect()
}

/// The source of psync: text as people sync it.
fn source() -> Vec<u8> {
    let mut text = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                folders.push(path);
            } else {
                text.extend(fs::read(path).unwrap());
            }
        }
    }
    text
}

#[test]
fn the_receiver_remembers_how_fast_the_bytes_came() {
    let pair = Pair::new();
    write_file(pair.a.join("file"), noise(900 << 10));
    push(&pair, &["--bwlimit", "400"]);
    // The sender was told to be slow: that says nothing about its line.
    assert_eq!(remembered(&pair.a), (None, None));
    let (sending, receiving) = remembered(&pair.b);
    assert_eq!(sending, None);
    assert!((250..700).contains(&receiving.unwrap()), "{receiving:?}");
}

#[test]
fn a_run_with_few_bytes_remembers_nothing() {
    let pair = Pair::new();
    write_file(pair.a.join("file"), "text");
    push(&pair, &[]);
    assert_eq!((remembered(&pair.a), remembered(&pair.b)), ((None, None), (None, None)));
}

#[test]
fn the_slower_the_line_the_harder_psync_compresses() {
    let sent = |options: &[&str]| {
        let pair = Pair::new();
        write_file(pair.a.join("file"), source());
        let sent = push(&pair, options);
        pair.assert_settled();
        sent
    };
    let (slow, strongest) = (sent(&["--bwlimit", "150"]), sent(&["--compress-level", "19"]));
    let (fast, weakest) = (sent(&[]), sent(&["--compress-level", "1"]));
    assert!(
        strongest < slow && slow < fast && fast < weakest,
        "{strongest} {slow} {fast} {weakest}"
    );
}

#[test]
fn noise_between_texts_arrives_as_it_is() {
    let pair = Pair::new();
    for n in 0..4 {
        write_file(pair.a.join(format!("noise{n}")), &noise(3 << 20)[n * 32..]);
        write_file(pair.a.join(format!("text{n}")), [&source()[n * 1000..], &[n as u8]].concat());
    }
    write_file(pair.a.join("mixed"), [source(), noise(2 << 20), source()].concat());
    let sent = push(&pair, &[]);
    let (all_noise, all_text) = (14 << 20, 6 * source().len() as u64);
    assert!(sent > all_noise && sent < all_noise + all_text / 3, "{sent}");
    pair.assert_settled();
}
