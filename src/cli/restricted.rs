//! `psync --server --restrict PATH [--read-only]`: the command of a key in `authorized_keys`, which
//! opens one directory and nothing else.

use std::ffi::OsString;
use std::path::PathBuf;

use super::args::{Server, parse_server};

/// What such a key serves; none where no `--restrict` is said. What the other psync has typed stands
/// in the environment then (`asked`), and says which directory it wants and how.
pub(super) fn restricted(
    arguments: &[OsString],
    asked: impl Fn() -> String,
) -> Result<Option<Server>, String> {
    let (restrict, read_only) = match arguments {
        [option, path] if option == "--restrict" => (path, false),
        [option, path, more] if option == "--restrict" && more == "--read-only" => (path, true),
        [option, ..] if option == "--restrict" => {
            return Err("psync --server --restrict PATH [--read-only]".into());
        }
        _ => return Ok(None),
    };
    let words: Vec<OsString> = split(&asked())?.into_iter().map(OsString::from).collect();
    let start = words.iter().position(|word| word == "--server").unwrap_or(words.len());
    let typed = &words[start..];
    let may = typed.len() > 1 && !typed.iter().any(|word| word == "--restrict");
    let server = if may { parse_server(typed)? } else { None };
    let mut server = server.ok_or("this key is for psync only, with 'psync host:path DIR'")?;
    server.restrict = Some(restrict.into());
    server.read_only = read_only;
    Ok(Some(server))
}

impl Server {
    /// What is to be served: what was asked for, if that is what the key is for. Nothing below it:
    /// whoever may write there could exchange that for a symlink before it is opened, or while its
    /// state is in use.
    pub(super) fn served_path(&self) -> Result<PathBuf, String> {
        let Some(restrict) = &self.restrict else { return Ok(self.path.clone()) };
        let top = restrict.canonicalize();
        let top = top.map_err(|error| format!("the directory of this key: {error}"))?;
        match self.path.canonicalize() {
            Ok(path) if path == top => Ok(top),
            Ok(_) | Err(_) => Err("this key is for another directory, and for nothing else".into()),
        }
    }
}

/// Splits at spaces outside quotes, as a shell would; a backslash outside quotes takes what follows
/// as it is.
fn split(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(c) = letters.next() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '\\') => word.get_or_insert_default().extend(letters.next()),
            (None, ' ' | '\t') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    if quote.is_some() { Err(format!("a quote is not closed in: {text}")) } else { Ok(words) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn only_which_directory_and_how_is_taken_from_the_other_side() {
        let given = words("--restrict /srv/a --read-only");
        let asked = || "psync --server --no-store -- 'my '\\''files'".to_string();
        let server = restricted(&given, asked).unwrap().unwrap();
        assert_eq!(server.path, PathBuf::from("my 'files"));
        assert_eq!(server.restrict, Some("/srv/a".into()));
        assert!(server.read_only && !server.store);
    }

    #[test]
    fn nothing_else_can_be_asked_for() {
        let given = words("--restrict /srv/a");
        for asked in [
            "",
            "sh",
            "rm -rf /",
            "psync --server",
            "psync --server --restrict / --",
            "psync --daemon --stdio",
            "scp -t /",
            "psync --server -- 'x",
        ] {
            assert!(restricted(&given, || asked.into()).is_err(), "{asked}");
        }
        assert!(restricted(&words("--restrict"), String::new).is_err());
        assert!(restricted(&words("-- /srv"), String::new).unwrap().is_none());
    }
}
