//! Junk that is well known: patterns of what nobody wants synced, under names that can be switched
//! on.

/// Patterns under a name.
#[derive(Debug, PartialEq, Eq)]
pub struct Profile {
    /// The name.
    pub name: &'static str,
    /// What it is about, in a line.
    pub about: &'static str,
    /// What is left alone: patterns as in a gitignore file.
    pub patterns: &'static [&'static str],
}

/// All profiles, in the order of their names.
pub const PROFILES: &[Profile] = &[
    Profile {
        name: "build",
        about: "what compilers leave behind",
        patterns: &[
            "*.o",
            "*.obj",
            "*.lo",
            "*.la",
            "*.gch",
            "*.pch",
            "*.pdb",
            "*.ilk",
            "CMakeCache.txt",
            "CMakeFiles/",
            "cmake-build-*/",
            ".ccache/",
            ".ninja_deps",
            ".ninja_log",
        ],
    },
    Profile {
        name: "caches",
        about: "caches that any program can fill again",
        patterns: &[".cache/", ".sass-cache/", ".parcel-cache/", ".nv/", ".thumbnails/"],
    },
    Profile {
        name: "editors",
        about: "swap, backup and lock files of editors and office programs",
        patterns: &[
            "*~",
            "*.swp",
            "*.swo",
            "*.swx",
            ".#*",
            "\\#*#",
            "*.kate-swp",
            ".*.un~",
            "~$*",
            ".~lock.*#",
        ],
    },
    Profile {
        name: "java",
        about: "build results of Java, Gradle and Maven",
        patterns: &["*.class", ".gradle/", "hs_err_pid*.log"],
    },
    Profile {
        name: "latex",
        about: "what a run of LaTeX writes beside the document",
        patterns: &[
            "*.aux",
            "*.bbl",
            "*.blg",
            "*.fdb_latexmk",
            "*.fls",
            "*.synctex.gz",
            "*.toc",
            "*.lof",
            "*.lot",
        ],
    },
    Profile {
        name: "linux",
        about: "what desktops put into folders",
        patterns: &[".directory", ".Trash-*/", ".nfs*", ".fuse_hidden*", "lost+found/"],
    },
    Profile {
        name: "macos",
        about: "what the Finder puts into folders",
        patterns: &[
            ".DS_Store",
            "._*",
            ".AppleDouble/",
            ".LSOverride",
            ".Spotlight-V100/",
            ".Trashes/",
            ".fseventsd/",
            ".TemporaryItems/",
            ".DocumentRevisions-V100/",
            ".apdisk",
        ],
    },
    Profile {
        name: "node",
        about: "packages and caches of Node.js",
        patterns: &[
            "node_modules/",
            ".npm/",
            ".yarn/cache/",
            ".pnpm-store/",
            ".eslintcache",
            "npm-debug.log*",
        ],
    },
    Profile {
        name: "partial",
        about: "downloads and copies that are not complete",
        patterns: &[
            "*.part",
            "*.crdownload",
            "*.partial",
            "*.download",
            ".~tmp~/",
            ".rsync-partial/",
        ],
    },
    Profile {
        name: "python",
        about: "byte code, environments and caches of Python",
        patterns: &[
            "__pycache__/",
            "*.pyc",
            "*.pyo",
            ".venv/",
            ".tox/",
            ".nox/",
            ".mypy_cache/",
            ".pytest_cache/",
            ".ruff_cache/",
            "*.egg-info/",
            ".ipynb_checkpoints/",
        ],
    },
    Profile {
        name: "rust",
        about: "build results of Cargo",
        patterns: &["/target/", "**/target/debug/", "**/target/release/", "*.rs.bk"],
    },
    Profile {
        name: "windows",
        about: "what Windows puts into folders",
        patterns: &[
            "Thumbs.db",
            "Thumbs.db:encryptable",
            "ehthumbs.db",
            "[Dd]esktop.ini",
            "$RECYCLE.BIN/",
            "System Volume Information/",
        ],
    },
];

/// The profile of this name.
pub(super) fn named(name: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| profile.name == name)
}

#[cfg(test)]
mod tests {
    use psync_protocol::message::Filter;

    use super::*;
    use crate::scan::Rules;

    #[test]
    fn every_pattern_is_one_and_names_are_in_order() {
        for profile in PROFILES {
            assert_eq!(named(profile.name), Some(profile));
            let filter = |pattern: &&str| Filter { include: false, pattern: pattern.to_string() };
            let filters: Vec<Filter> = profile.patterns.iter().map(filter).collect();
            assert!(Rules::new(&filters).is_ok(), "{}", profile.name);
        }
        assert!(PROFILES.is_sorted_by_key(|profile| profile.name));
    }
}
