//! The two sides as they are typed.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::dial::Place;
use crate::identity::is_module_name;

/// One side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// A directory on this machine.
    Local(PathBuf),
    /// A directory on another.
    Remote {
        /// `[user@]host`.
        host: String,
        /// As it was typed; empty for the home directory.
        path: String,
    },
    /// A module of the daemon that a remote shell starts: `[user@]host::module`.
    Module {
        /// `[user@]host`.
        host: String,
        /// Empty where all modules are meant.
        module: String,
    },
    /// A module of a daemon that listens: `psync://host[:port]/module`.
    Daemon {
        /// Where it listens.
        place: Place,
        /// Empty where all modules are meant.
        module: String,
    },
}

impl Endpoint {
    /// A colon before the first slash makes it remote, as for rsync and scp.
    pub(super) fn parse(text: &OsStr) -> Result<Endpoint, String> {
        let local = || Ok(Endpoint::Local(PathBuf::from(text)));
        let bytes = text.as_bytes();
        if bytes.is_empty() {
            return Err("an empty path names no directory".into());
        }
        if let Some(rest) = bytes.strip_prefix(SCHEME) {
            let rest = std::str::from_utf8(rest).map_err(|_| "a host name is UTF-8".to_string())?;
            let (place, module) = rest.split_once('/').unwrap_or((rest, ""));
            return Ok(Endpoint::Daemon {
                place: Place::parse(place)?,
                module: module_name(module)?,
            });
        }
        let host_end = match bytes.first() {
            Some(b'[') => bytes.iter().position(|&b| b == b']').map(|at| at + 1),
            _ => bytes.iter().position(|&b| b == b':' || b == b'/'),
        };
        let Some(end) = host_end.filter(|&end| bytes.get(end) == Some(&b':')) else {
            return local();
        };
        let (host, path) = (&bytes[..end], &bytes[end + 1..]);
        let (Ok(host), Ok(path)) = (std::str::from_utf8(host), std::str::from_utf8(path)) else {
            return Err(format!("{}: host and remote path must be UTF-8", text.display()));
        };
        if host.is_empty() || host.starts_with('-') || host.contains(char::is_whitespace) {
            return Err(format!("'{host}' is not a host name"));
        }
        let host = host.trim_matches(['[', ']']).to_string();
        if let Some(module) = path.strip_prefix(':') {
            return Ok(Endpoint::Module { host, module: module_name(module)? });
        }
        if path.contains(['\n', '\0']) {
            return Err("a remote root's path cannot hold a line break".into());
        }
        Ok(Endpoint::Remote { host, path: path.into() })
    }
}

/// What a daemon that listens is typed with.
const SCHEME: &[u8] = b"psync://";

/// The name of a module as it was typed: a slash after it does not matter.
fn module_name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('/').unwrap_or(text);
    match name.is_empty() || is_module_name(name) {
        true => Ok(name.to_string()),
        false => Err(format!(
            "'{}' is not the name of a module: up to 64 letters, digits, '.', '_' and '-'; a module is synced whole",
            name.escape_debug()
        )),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Local(path) => {
                let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                let text = psync_protocol::path::printable(absolute.as_os_str().as_bytes());
                f.write_str(if text.len() > 1 { text.trim_end_matches('/') } else { &text })
            }
            Endpoint::Remote { host, path } => {
                let path = if path.len() > 1 { path.trim_end_matches('/') } else { path };
                write!(f, "{host}:{}", psync_protocol::path::printable(path.as_bytes()))
            }
            Endpoint::Module { host, module } => write!(f, "{host}::{module}"),
            Endpoint::Daemon { place, module } => write!(f, "psync://{place}/{module}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_before_the_first_slash_makes_a_side_remote() {
        let parse = |text: &str| Endpoint::parse(OsStr::new(text));
        let remote =
            |host: &str, path: &str| Ok(Endpoint::Remote { host: host.into(), path: path.into() });
        assert_eq!(parse("host:/a/b"), remote("host", "/a/b"));
        assert_eq!(parse("ana@host:b c"), remote("ana@host", "b c"));
        assert_eq!(parse("[::1]:/x"), remote("::1", "/x"));
        assert_eq!(parse("host:"), remote("host", ""));
        assert_eq!(parse("./host:x"), Ok(Endpoint::Local("./host:x".into())));
        assert_eq!(parse("/a:b"), Ok(Endpoint::Local("/a:b".into())));
        let module = |host: &str| Ok(Endpoint::Module { host: host.into(), module: "p1".into() });
        assert_eq!(parse("ana@host::p1/"), module("ana@host"));
        assert!(parse("host::../etc").is_err() && parse("host::p1/sub").is_err());
        assert!(parse("-x::p1").is_err());
        let daemon = parse("psync://host:99/p1").unwrap();
        assert_eq!(daemon.to_string(), "psync://host:99/p1");
        assert!(parse("psync://host/a b").is_err() && parse("psync:///p1").is_err());
        assert_eq!(parse("./psync://x"), Ok(Endpoint::Local("./psync://x".into())));
        assert!(parse("-oProxyCommand=x:y").is_err());
        assert!(parse(":x").is_err());
    }
}
