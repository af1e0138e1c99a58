//! The two sides as they are typed.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

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
}

impl Endpoint {
    /// A colon before the first slash makes it remote, as for rsync and scp.
    pub(super) fn parse(text: &OsStr) -> Result<Endpoint, String> {
        let local = || Ok(Endpoint::Local(PathBuf::from(text)));
        let bytes = text.as_bytes();
        if bytes.is_empty() {
            return Err("an empty path names no directory".into());
        }
        let host_end = match bytes.first() {
            Some(b'[') => bytes.iter().position(|&b| b == b']').map(|at| at + 1),
            _ => bytes.iter().position(|&b| b == b':' || b == b'/'),
        };
        let Some(end) = host_end.filter(|&end| bytes.get(end) == Some(&b':')) else {
            return local();
        };
        let (host, path) = (&bytes[..end], &bytes[end + 1..]);
        if path.first() == Some(&b':') {
            return Err(format!(
                "{}: modules of a daemon (host::module) are not served yet",
                text.display()
            ));
        }
        let (Ok(host), Ok(path)) = (std::str::from_utf8(host), std::str::from_utf8(path)) else {
            return Err(format!("{}: host and remote path must be UTF-8", text.display()));
        };
        if host.is_empty() || host.starts_with('-') || host.contains(char::is_whitespace) {
            return Err(format!("'{host}' is not a host name"));
        }
        if path.contains(['\n', '\0']) {
            return Err("a remote root's path cannot hold a line break".into());
        }
        Ok(Endpoint::Remote { host: host.trim_matches(['[', ']']).into(), path: path.into() })
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
        assert!(parse("host::module").is_err());
        assert!(parse("-oProxyCommand=x:y").is_err());
        assert!(parse(":x").is_err());
    }
}
