//! What the user asks for on the command line.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use crate::case::{Case, SlowLine};

pub(crate) const USAGE: &str = "\
usage: cargo bench --bench slow_link -- [OPTIONS]
  --only CASE[,CASE]                  measure these cases alone; --list names them
  --old DIR --new DIR                 two trees in place of the small one
  --sqlite-old DIR --sqlite-new DIR   two folders with a database each, in place of a small one
  --sqlite-mb MEGABYTES               how large a database to make [default: 8]
  --linux-old DIR --linux-new DIR     two large trees, measured beside the others
  --rate BITS_PER_SECOND              in place of each case's own, but for those without limit
  --rtt MILLISECONDS                  the same
  --with-unison                       Unison in all cases, not only where it is quick
  --markdown                          one table, for the README";

/// Two states of a tree.
#[derive(Clone, Debug)]
pub(crate) struct OldAndNew {
    pub(crate) old: PathBuf,
    pub(crate) new: PathBuf,
}

impl OldAndNew {
    fn parse(
        what: &str,
        old: Option<PathBuf>,
        new: Option<PathBuf>,
    ) -> Result<Option<Self>, String> {
        match (old, new) {
            (Some(old), Some(new)) => Ok(Some(OldAndNew { old, new })),
            (None, None) => Ok(None),
            _ => Err(format!("--{what}old and --{what}new go together")),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) tree: Option<OldAndNew>,
    pub(crate) database: Option<OldAndNew>,
    pub(crate) large_tree: Option<OldAndNew>,
    /// Of the database that is made where none is given, in bytes.
    pub(crate) database_size: u64,
    pub(crate) list: bool,
    pub(crate) markdown: bool,
    pub(crate) with_unison: bool,
    rate: Option<u64>,
    rtt_ms: Option<u64>,
    /// Empty: all.
    only: Vec<&'static str>,
}

impl Options {
    pub(crate) fn parse(arguments: &[OsString]) -> Result<Options, String> {
        let mut options = Options {
            tree: None,
            database: None,
            large_tree: None,
            database_size: 8_000_000,
            list: false,
            markdown: false,
            with_unison: false,
            rate: None,
            rtt_ms: None,
            only: Vec::new(),
        };
        let mut folders: [Option<PathBuf>; 6] = Default::default();
        let mut rest = arguments.iter();
        while let Some(name) = rest.next() {
            let mut value =
                || rest.next().ok_or_else(|| format!("{} needs a value", name.display()));
            match name.to_str() {
                Some("--list") => options.list = true,
                Some("--markdown") => options.markdown = true,
                Some("--with-unison") => options.with_unison = true,
                Some("--rate") => options.rate = Some(number(value()?)?),
                Some("--rtt") => options.rtt_ms = Some(number(value()?)?),
                Some("--sqlite-mb") => options.database_size = 1_000_000 * number(value()?)?,
                Some("--only") => options.only.extend(cases(value()?)?),
                Some("--old") => folders[0] = Some(value()?.into()),
                Some("--new") => folders[1] = Some(value()?.into()),
                Some("--sqlite-old") => folders[2] = Some(value()?.into()),
                Some("--sqlite-new") => folders[3] = Some(value()?.into()),
                Some("--linux-old") => folders[4] = Some(value()?.into()),
                Some("--linux-new") => folders[5] = Some(value()?.into()),
                _ => return Err(format!("unknown option {}", name.display())),
            }
        }
        let [old, new, database_old, database_new, large_old, large_new] = folders;
        options.tree = OldAndNew::parse("", old, new)?;
        options.database = OldAndNew::parse("sqlite-", database_old, database_new)?;
        options.large_tree = OldAndNew::parse("linux-", large_old, large_new)?;
        Ok(options)
    }

    pub(crate) fn wants(&self, case: &Case) -> bool {
        self.only.is_empty() || self.only.contains(&case.name)
    }

    pub(crate) fn line_for(&self, case: &Case) -> SlowLine {
        if case.line == SlowLine::UNLIMITED {
            return case.line;
        }
        SlowLine {
            rate: self.rate.unwrap_or(case.line.rate),
            rtt_ms: self.rtt_ms.unwrap_or(case.line.rtt_ms),
        }
    }
}

fn number(text: &OsStr) -> Result<u64, String> {
    let number = text.to_str().and_then(|text| text.parse().ok());
    number.ok_or_else(|| format!("{} is not a number", text.display()))
}

fn cases(names: &OsStr) -> Result<Vec<&'static str>, String> {
    let names = names.to_str().ok_or("the names of cases are plain text")?;
    names.split(',').map(|name| Case::named(name.as_ref())).collect()
}
