//! What a peer may see and do below a root: rights for paths, of which the longest prefix decides.

use psync_protocol::RelPath;

/// What a peer may do with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rights {
    /// Hear that it exists: its name, size, times and link target.
    pub list: bool,
    /// Have its content.
    pub read: bool,
    /// Make it, or change it.
    pub write: bool,
    /// Delete it, or move it away.
    pub delete: bool,
}

impl Rights {
    /// Nothing.
    pub const NONE: Rights = Rights { list: false, read: false, write: false, delete: false };
    /// Everything.
    pub const ALL: Rights = Rights { list: true, read: true, write: true, delete: true };

    /// The same without what would change anything.
    pub fn read_only(self) -> Rights {
        Rights { write: false, delete: false, ..self }
    }

    /// Whether other rights have everything that these have.
    pub fn are_covered_by(self, other: Rights) -> bool {
        let Rights { list, read, write, delete } = self;
        (other.list || !list)
            && (other.read || !read)
            && (other.write || !write)
            && (other.delete || !delete)
    }
}

/// What a peer may do below a root. What no rule speaks of is forbidden.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    /// Each holds for a path (none: the root) and what is below it. No path stands here twice.
    rules: Vec<(Option<RelPath>, Rights)>,
}

impl Permit {
    /// Everything: for whoever could touch the files without psync, too.
    pub fn all() -> Permit {
        Permit { rules: vec![(None, Rights::ALL)] }
    }

    /// These rules; a path that stands there twice has its last rights.
    pub fn new(rules: impl IntoIterator<Item = (Option<RelPath>, Rights)>) -> Permit {
        let mut permit = Permit { rules: Vec::new() };
        for (prefix, rights) in rules {
            permit.rules.retain(|(other, _)| *other != prefix);
            permit.rules.push((prefix, rights));
        }
        permit.rules.sort_by(|a, b| a.0.cmp(&b.0));
        permit
    }

    /// The same without what would change anything.
    pub fn read_only(self) -> Permit {
        let rules = self.rules.into_iter();
        Permit { rules: rules.map(|(prefix, rights)| (prefix, rights.read_only())).collect() }
    }

    /// What may be done at a path: the rule with the longest prefix says it.
    pub fn rights(&self, path: &[u8]) -> Rights {
        let speaking = self.rules.iter().filter(|(prefix, _)| is_at_or_below(path, prefix));
        let length = |prefix: &Option<RelPath>| prefix.as_ref().map_or(0, |p| p.as_bytes().len());
        let longest = speaking.max_by_key(|(prefix, _)| length(prefix));
        longest.map_or(Rights::NONE, |(_, rights)| *rights)
    }

    /// Whether an entry may be spoken of. A directory may, too, where something in it may: who
    /// knows the one knows its path.
    pub fn shows(&self, path: &[u8], is_dir: bool) -> bool {
        let leads_to_listed = |(prefix, rights): &(Option<RelPath>, Rights)| {
            rights.list
                && prefix
                    .as_ref()
                    .and_then(|prefix| prefix.as_bytes().strip_prefix(path))
                    .is_some_and(|rest| rest.first() == Some(&b'/'))
        };
        self.rights(path).list || is_dir && self.rules.iter().any(leads_to_listed)
    }

    /// Whether another permit leaves everything that this one allows.
    pub fn is_covered_by(&self, other: &Permit) -> bool {
        // Between the prefixes of both nothing changes, so it is enough to look at these.
        let prefixes = self.rules.iter().chain(&other.rules).map(|(prefix, _)| prefix.as_ref());
        let mut paths = prefixes.map(|prefix| prefix.map_or(&b""[..], |prefix| prefix.as_bytes()));
        paths.all(|path| self.rights(path).are_covered_by(other.rights(path)))
    }

    /// Whether there is anything that the peer may hear of.
    pub fn shows_anything(&self) -> bool {
        self.rules.iter().any(|(_, rights)| rights.list)
    }

    /// Whether there is anything that the peer may change.
    pub fn allows_changes(&self) -> bool {
        self.rules.iter().any(|(_, rights)| rights.write || rights.delete)
    }

    /// Whether everything may be done everywhere.
    pub fn allows_everything(&self) -> bool {
        self.rights(b"") == Rights::ALL
            && self.rules.iter().all(|(_, rights)| *rights == Rights::ALL)
    }

    /// Whether every entry may be spoken of.
    pub fn shows_everything(&self) -> bool {
        self.rights(b"").list && self.rules.iter().all(|(_, rights)| rights.list)
    }

    /// The rules, in the order of their paths.
    pub fn rules(&self) -> &[(Option<RelPath>, Rights)] {
        &self.rules
    }
}

fn is_at_or_below(path: &[u8], prefix: &Option<RelPath>) -> bool {
    let Some(prefix) = prefix else { return true };
    path.strip_prefix(prefix.as_bytes())
        .is_some_and(|rest| rest.is_empty() || rest.first() == Some(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEE: Rights = Rights { list: true, ..Rights::NONE };

    fn permit(rules: &[(&str, Rights)]) -> Permit {
        Permit::new(
            rules.iter().map(|(path, rights)| (RelPath::new(path.as_bytes()).ok(), *rights)),
        )
    }

    #[test]
    fn the_longest_prefix_decides_whatever_the_order() {
        let permit = permit(&[("a/b", Rights::ALL), ("", SEE), ("a/b/c", Rights::NONE)]);
        assert_eq!(permit.rights(b"x"), SEE);
        assert_eq!(permit.rights(b"a"), SEE);
        assert_eq!(permit.rights(b"a/b"), Rights::ALL);
        assert_eq!(permit.rights(b"a/b/d"), Rights::ALL);
        assert_eq!(permit.rights(b"a/b/c/d"), Rights::NONE);
        assert_eq!(permit.rights(b"a/bc"), SEE);
    }

    #[test]
    fn what_no_rule_speaks_of_is_forbidden_and_hidden() {
        let permit = permit(&[("docs/public", Rights::ALL)]);
        assert_eq!(permit.rights(b"docs/private"), Rights::NONE);
        assert!(!permit.shows(b"docs/private", true));
        assert!(permit.shows(b"docs/public/x", false));
        assert!(permit.shows(b"docs", true), "the way to what may be seen");
        assert!(!permit.shows(b"docs", false));
        assert!(!permit.shows(b"doc", true));
        assert_eq!(Permit::new([]).rights(b"x"), Rights::NONE);
    }

    #[test]
    fn a_permit_covers_another_if_nothing_is_missing_anywhere() {
        let wide = permit(&[("", Rights::ALL)]);
        let narrow = permit(&[("", SEE), ("a", Rights::ALL)]);
        let hole = permit(&[("", Rights::ALL), ("a/b", SEE)]);
        assert!(narrow.is_covered_by(&wide) && hole.is_covered_by(&wide));
        assert!(!wide.is_covered_by(&narrow) && !wide.is_covered_by(&hole));
        assert!(!narrow.is_covered_by(&hole), "a/b is open in the one only");
        assert!(wide.is_covered_by(&wide));
        assert!(Permit::new([]).is_covered_by(&Permit::new([])));
        assert!(!narrow.is_covered_by(&Permit::new([])));
    }

    #[test]
    fn read_only_leaves_what_changes_nothing() {
        let permit = permit(&[("", Rights::ALL)]).read_only();
        assert_eq!(permit.rights(b"x"), Rights { list: true, read: true, ..Rights::NONE });
        assert!(permit.shows_everything() && !permit.allows_everything());
        assert!(Permit::all().allows_everything());
    }
}
