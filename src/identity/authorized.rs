//! Who may do what here: `authorized_peers`.
//!
//! ```text
//! # key            name   until (optional)   grants: module[/path]=rights
//! ed25519:12ab...  ana    until=2027-01-31   photos=read photos/inbox=read,write
//! ```
//!
//! `until=` is the last day, in UTC, or a moment such as `2027-01-31T18:00:00Z`.
//!
//! Rights are `list`, `read`, `write`, `delete`, `all` or `none`; each of the first four includes
//! `list`. In a path a space is written `%20`, as any byte may be.

use std::collections::HashMap;
use std::path::Path;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use psync_protocol::RelPath;
use thiserror::Error;

use super::lines::{bytes_of_hex, entries};
use super::{LineError, PublicKey};
use crate::manifest::{Permit, Rights};

/// Everybody who may come in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuthorizedPeers {
    peers: HashMap<PublicKey, Admitted>,
}

/// Somebody who may come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// What the peer is called in logs.
    pub name: String,
    /// From when on it may not any more: seconds since 1970.
    until: Option<i64>,
    /// Module, path in it (none: its root), rights.
    grants: Vec<(String, Option<RelPath>, Rights)>,
}

/// Why somebody may not come in.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum NotAdmitted {
    /// No line has the key.
    #[error("the key is not in authorized_peers")]
    Unknown,
    /// The line holds no longer.
    #[error("the grant of '{0}' has expired")]
    Expired(String),
}

impl AuthorizedPeers {
    /// Understands the text of such a file; `file` is its name, for errors.
    pub fn parse(text: &str, file: &Path) -> Result<AuthorizedPeers, LineError> {
        let mut authorized = AuthorizedPeers::default();
        for (line, words) in entries(text) {
            let wrong = |text: String| LineError { file: file.to_path_buf(), line, text };
            let (key, peer) = entry(&words).map_err(wrong)?;
            if authorized.peers.insert(key, peer).is_some() {
                return Err(wrong("this key stands here twice".into()));
            }
        }
        Ok(authorized)
    }

    /// Who a key belongs to, if that peer may come in at this time (seconds since 1970).
    pub fn admit(&self, key: &PublicKey, now: i64) -> Result<&Admitted, NotAdmitted> {
        let peer = self.peers.get(key).ok_or(NotAdmitted::Unknown)?;
        match peer.until {
            Some(until) if now >= until => Err(NotAdmitted::Expired(peer.name.clone())),
            Some(_) | None => Ok(peer),
        }
    }

    /// Whether a peer with another key has this name.
    pub(super) fn names_another(&self, name: &str, key: &PublicKey) -> bool {
        self.peers.iter().any(|(other, peer)| other != key && peer.name == name)
    }
}

impl Admitted {
    /// From when on it may not come in any more: seconds since 1970. None: it always may.
    pub fn until(&self) -> Option<i64> {
        self.until
    }

    /// Whether another line for the same key leaves everything that this one grants in a module, or
    /// in any where none is named.
    pub fn is_covered_by(&self, other: &Admitted, module: Option<&str>) -> bool {
        let modules = self.grants.iter().map(|(granted, _, _)| granted.as_str());
        let mut meant = modules.filter(|granted| module.is_none_or(|module| module == *granted));
        meant.all(|module| self.permit(module).is_covered_by(&other.permit(module)))
    }

    /// What the peer may do in a module: nothing, unless a grant says so.
    pub fn permit(&self, module: &str) -> Permit {
        let grants = self.grants.iter().filter(|(granted, _, _)| granted == module);
        Permit::new(grants.map(|(_, prefix, rights)| (prefix.clone(), *rights)))
    }
}

/// What the words of a line say.
pub(super) fn entry(words: &[&str]) -> Result<(PublicKey, Admitted), String> {
    let [key, name, rest @ ..] = words else {
        return Err("a line is a key, a name and grants, as in: ed25519:... ana photos=read".into());
    };
    let key = key.parse()?;
    if name.contains('=') {
        return Err(format!("a name follows the key, not '{}'", name.escape_debug()));
    }
    let mut peer = Admitted { name: name.to_string(), until: None, grants: Vec::new() };
    for word in rest {
        if let Some(date) = word.strip_prefix("until=") {
            let until = end_of(date)?;
            if peer.until.replace(until).is_some() {
                return Err("until= stands here twice".into());
            }
            continue;
        }
        let grant = grant(word)?;
        if peer.grants.iter().any(|other| other.0 == grant.0 && other.1 == grant.1) {
            return Err(format!("there are two grants for '{}'", word.escape_debug()));
        }
        peer.grants.push(grant);
    }
    Ok((key, peer))
}

/// A moment, or the end of a day in UTC.
fn end_of(text: &str) -> Result<i64, String> {
    // A day alone is no moment, and a moment would be taken for its day.
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment.as_second());
    }
    let day = text.parse::<Date>().ok().filter(|_| !text.contains('T'));
    let next = day.and_then(|day| day.tomorrow().ok());
    let start = next.and_then(|day| day.to_zoned(TimeZone::UTC).ok());
    start.map(|start| start.timestamp().as_second()).ok_or_else(|| {
        format!(
            "until= wants the last day, as in until=2027-01-31, or a moment, as in \
             until=2027-01-31T18:00:00Z, not '{}'",
            text.escape_debug()
        )
    })
}

fn grant(word: &str) -> Result<(String, Option<RelPath>, Rights), String> {
    let Some((place, rights)) = word.rsplit_once('=') else {
        let shown = word.escape_debug();
        return Err(format!("'{shown}' is not a grant, as in photos/inbox=read,write"));
    };
    let (module, path) = place.split_once('/').unwrap_or((place, ""));
    if !is_module_name(module) {
        return Err(format!("'{}' is not the name of a module", module.escape_debug()));
    }
    let path = match path {
        "" => None,
        path => {
            let bytes = unescaped(path).ok_or("after % stand two hexadecimal digits")?;
            let wrong = |error| format!("'{}': {error}", path.escape_debug());
            Some(RelPath::new(&bytes).map_err(wrong)?)
        }
    };
    let mut granted = Rights::NONE;
    for right in rights.split(',') {
        match right {
            "none" if rights == "none" => {}
            "all" => granted = Rights::ALL,
            "list" => granted.list = true,
            "read" => granted = Rights { list: true, read: true, ..granted },
            "write" => granted = Rights { list: true, write: true, ..granted },
            "delete" => granted = Rights { list: true, delete: true, ..granted },
            other => {
                let other = other.escape_debug();
                return Err(format!(
                    "'{other}' is not a right: list, read, write, delete, all, none"
                ));
            }
        }
    }
    Ok((module.to_string(), path, granted))
}

/// Letters, digits, `.`, `_` and `-`: what needs no escaping anywhere.
pub fn is_module_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && name.len() <= 64 && name.chars().all(plain) && !name.starts_with(['.', '-'])
}

fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.extend(bytes_of_hex(digits)?);
        bytes.extend(rest.as_bytes());
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Rights = Rights { list: true, read: true, write: false, delete: false };

    fn key(byte: u8) -> PublicKey {
        PublicKey::new([byte; 32])
    }

    fn parse(text: &str) -> Result<AuthorizedPeers, LineError> {
        AuthorizedPeers::parse(text, Path::new("authorized_peers"))
    }

    fn permit(grants: &str, module: &str) -> Permit {
        let peers = parse(&format!("{} ana {grants}", key(1))).unwrap();
        peers.admit(&key(1), 0).unwrap().permit(module)
    }

    #[test]
    fn who_has_no_line_does_not_come_in() {
        let peers = parse(&format!("{} ana photos=all", key(1))).unwrap();
        assert_eq!(peers.admit(&key(1), 0).unwrap().name, "ana");
        assert_eq!(peers.admit(&key(2), 0), Err(NotAdmitted::Unknown));
    }

    #[test]
    fn a_line_holds_to_the_end_of_its_day() {
        let peers = parse(&format!("{} ana until=1970-01-02 photos=all", key(1))).unwrap();
        assert!(peers.admit(&key(1), 2 * 86_400 - 1).is_ok());
        let expired = Err(NotAdmitted::Expired("ana".into()));
        assert_eq!(peers.admit(&key(1), 2 * 86_400), expired);
    }

    #[test]
    fn a_line_may_hold_to_a_moment() {
        let until = |text: &str| parse(&format!("{} ana until={text}", key(1)));
        let peers = until("1970-01-02T00:00:10Z").unwrap();
        assert!(peers.admit(&key(1), 86_409).is_ok());
        assert!(peers.admit(&key(1), 86_410).is_err());
        assert_eq!(peers.admit(&key(1), 0).unwrap().until(), Some(86_410));
        for wrong in ["1970-01-02T00:00:10", "1970-01-02T", "T10:00:00Z", "1970-01-02T25:00:00Z"] {
            assert!(until(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_peer_may_do_what_is_granted_and_nothing_else() {
        let grants = "photos=read photos/in%20box=read,write,delete photos/in%20box/mine=none";
        let photos = permit(grants, "photos");
        assert_eq!(photos.rights(b"2026/a.jpg"), READ);
        assert_eq!(photos.rights(b"in box/a.jpg"), Rights::ALL);
        assert_eq!(photos.rights(b"in box/mine/a.jpg"), Rights::NONE);
        assert_eq!(permit(grants, "music").rights(b"x"), Rights::NONE);
        assert!(!permit("", "photos").shows_anything());
        assert_eq!(permit("a=list", "a").rights(b"x"), Rights { list: true, ..Rights::NONE });
    }

    #[test]
    fn one_bad_line_makes_the_whole_file_useless() {
        let good = format!("{} ana photos=read", key(1));
        let other = key(2);
        for bad in [
            "ed25519:12 ben".to_string(),
            format!("{other}"),
            format!("{other} a=read"),
            format!("{other} ben photos"),
            format!("{other} ben photos=raed"),
            format!("{other} ben photos=none,read"),
            format!("{other} ben ../etc=read"),
            format!("{other} ben photos/../etc=read"),
            format!("{other} ben photos/%2e%2e=read"),
            format!("{other} ben photos/a%2=read"),
            format!("{other} ben photos/=read photos=write"),
            format!("{other} ben until=tomorrow"),
            format!("{other} ben until=2027-01-01 until=2028-01-01"),
            good.clone(),
        ] {
            let error = parse(&format!("{good}\n{bad}\n")).expect_err(&bad);
            assert_eq!(error.line, 2, "{bad}");
        }
    }
}
