//! A SQLite database before and after a day's work: rows updated in place and rows inserted, with
//! an index over a text column.

use std::path::Path;

use rusqlite::{Connection, Transaction, params};

use crate::common::tree::{Rng, set_mtime};
use crate::corpus;

/// Bodies are made of these words, so that they compress as prose does.
const PROSE: &str = include_str!("../../README.md");

const WORDS_IN_A_BODY: usize = 40;

/// What a row takes in the file, with its share of the index.
const BYTES_PER_ROW: u64 = 285;

/// Of this many rows one is updated, and for as many one is inserted.
const ROWS_PER_CHANGE: u64 = 300;

/// 31 December 2024, a day before the new releases of the trees.
const OLD_NS: i64 = corpus::RELEASED_NS - 86_400_000_000_000;

/// Makes `data.db`, of about `size` bytes, in the folder `old`, and a changed copy in `new`.
pub(crate) fn make(old: &Path, new: &Path, size: u64) {
    let before = old.join("data.db");
    let after = new.join("data.db");
    let rows = (size / BYTES_PER_ROW).max(ROWS_PER_CHANGE);
    let mut writer = Writer { rng: Rng::new(7), words: PROSE.split_whitespace().collect() };
    fill(&before, rows, &mut writer).expect("a database can be made");
    std::fs::copy(&before, &after).expect("a database can be copied");
    change(&after, rows, &mut writer).expect("a database can be changed");
    set_mtime(&before, OLD_NS);
    set_mtime(&after, corpus::RELEASED_NS);
}

fn fill(path: &Path, rows: u64, writer: &mut Writer) -> rusqlite::Result<()> {
    let mut database = Connection::open(path)?;
    database.execute_batch(
        "CREATE TABLE note (id INTEGER PRIMARY KEY, name TEXT, body TEXT, value REAL);
         CREATE INDEX note_by_name ON note (name);",
    )?;
    let transaction = database.transaction()?;
    writer.insert(&transaction, rows)?;
    transaction.commit()
}

fn change(path: &Path, rows: u64, writer: &mut Writer) -> rusqlite::Result<()> {
    let mut database = Connection::open(path)?;
    let transaction = database.transaction()?;
    let mut update = transaction.prepare("UPDATE note SET value = ?1, body = ?2 WHERE id = ?3")?;
    for _ in 0..rows / ROWS_PER_CHANGE {
        let id = 1 + writer.rng.next() % rows;
        update.execute(params![writer.value(), writer.body(), id.cast_signed()])?;
    }
    drop(update);
    writer.insert(&transaction, rows / ROWS_PER_CHANGE)?;
    transaction.commit()
}

struct Writer {
    rng: Rng,
    words: Vec<&'static str>,
}

impl Writer {
    fn insert(&mut self, transaction: &Transaction<'_>, rows: u64) -> rusqlite::Result<()> {
        let mut insert =
            transaction.prepare("INSERT INTO note (name, body, value) VALUES (?1, ?2, ?3)")?;
        for _ in 0..rows {
            insert.execute(params![self.name(), self.body(), self.value()])?;
        }
        Ok(())
    }

    fn name(&mut self) -> String {
        let number = self.rng.below(10_000_000);
        format!("{}{number}", self.word())
    }

    fn body(&mut self) -> String {
        let words: Vec<&str> = (0..WORDS_IN_A_BODY).map(|_| self.word()).collect();
        words.join(" ")
    }

    fn value(&mut self) -> f64 {
        self.rng.next() as f64 / u64::MAX as f64
    }

    fn word(&mut self) -> &'static str {
        self.words[self.rng.below(self.words.len())]
    }
}
