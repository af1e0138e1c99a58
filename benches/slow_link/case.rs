//! The cases that are measured, and what each is to cost at most.

use std::ffi::OsStr;

/// A line between two machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlowLine {
    /// Bits per second, each way; 0 is without limit.
    pub(crate) rate: u64,
    /// Round trip in milliseconds.
    pub(crate) rtt_ms: u64,
}

impl SlowLine {
    pub(crate) const UNLIMITED: SlowLine = SlowLine { rate: 0, rtt_ms: 0 };
    const SLOW: SlowLine = SlowLine { rate: 1_000_000, rtt_ms: 200 };
    const FAST: SlowLine = SlowLine { rate: 10_000_000, rtt_ms: 100 };
}

/// Which old and new state a case is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Corpus {
    /// `--old` and `--new`, or the small tree made of the project's dependencies.
    Tree,
    /// `--sqlite-old` and `--sqlite-new`, or a small database made here.
    Database,
    /// `--linux-old` and `--linux-new`: a second tree, larger, on a faster line.
    LargeTree,
}

/// What both sides hold before the measured run, and what happened to one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Story {
    /// Both agreed on the old state; one side has the new one.
    Upgrade,
    /// One side has the old state, one the new, and there is no history; a mirror makes them equal.
    FirstContact,
    /// Both hold the new state, and there is no history.
    Equal,
    /// Both agreed on the new state.
    Nothing,
    /// Both agreed; then the fullest folder was renamed.
    Rename,
    /// The same, and a line was changed in so many of the folder's files.
    RenameAndEdit(usize),
    /// Both agreed; then a line was changed in a text file of 200 KB.
    EditLine,
    /// One side holds the new state, the other is an empty folder.
    FirstCopy,
}

impl Story {
    /// What this looks like to a program that remembers nothing.
    pub(crate) fn without_history(self) -> Story {
        match self {
            Story::FirstContact => Story::Upgrade,
            Story::Equal => Story::Nothing,
            other => other,
        }
    }
}

/// Which side was changed; the other is brought to its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Changed {
    Near,
    Far,
}

/// A target for bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AtMost {
    /// In both directions together.
    Bytes(u64),
    /// So many times rsync's in the same case.
    TimesRsync(f64),
}

/// What psync is to cost at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Targets {
    pub(crate) bytes: Option<AtMost>,
    pub(crate) turns: Option<u64>,
    /// Times rsync's seconds.
    pub(crate) seconds: Option<f64>,
    /// Peak resident memory of psync on either end, in MiB.
    pub(crate) memory_mib: Option<u64>,
}

impl Targets {
    const NONE: Targets = Targets { bytes: None, turns: None, seconds: None, memory_mib: None };

    /// How many of them are set.
    pub(crate) fn count(&self) -> usize {
        let set = [
            self.bytes.is_some(),
            self.turns.is_some(),
            self.seconds.is_some(),
            self.memory_mib.is_some(),
        ];
        set.into_iter().filter(|set| *set).count()
    }

    const fn bytes(self, bytes: u64) -> Targets {
        Targets { bytes: Some(AtMost::Bytes(bytes)), ..self }
    }

    const fn times(self, times: f64) -> Targets {
        Targets { bytes: Some(AtMost::TimesRsync(times)), ..self }
    }

    const fn turns(self, turns: u64) -> Targets {
        Targets { turns: Some(turns), ..self }
    }

    const fn seconds(self, times: f64) -> Targets {
        Targets { seconds: Some(times), ..self }
    }

    const fn memory_mib(self, mib: u64) -> Targets {
        Targets { memory_mib: Some(mib), ..self }
    }
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) corpus: Corpus,
    pub(crate) story: Story,
    pub(crate) changed: Changed,
    /// Whether psync runs with `--no-store`, in the run that agrees too.
    pub(crate) no_store: bool,
    pub(crate) line: SlowLine,
    pub(crate) targets: Targets,
}

impl Case {
    pub(crate) fn named(name: &OsStr) -> Result<&'static str, String> {
        let found = ALL.iter().find(|case| name == case.name);
        found.map(|case| case.name).ok_or_else(|| format!("unknown case {}", name.display()))
    }

    /// Without a limit of the line the processor decides, and there one run says little.
    pub(crate) fn runs(&self) -> usize {
        if self.line == SlowLine::UNLIMITED { 3 } else { 1 }
    }

    /// Where Unison takes no more than a few seconds, whatever the tree.
    pub(crate) fn is_quick_with_unison(&self) -> bool {
        matches!(self.story, Story::Nothing | Story::EditLine) && self.corpus == Corpus::Tree
    }

    const fn tree(name: &'static str, title: &'static str, story: Story, targets: Targets) -> Case {
        let (corpus, changed, line) = (Corpus::Tree, Changed::Near, SlowLine::SLOW);
        Case { name, title, corpus, story, changed, no_store: false, line, targets }
    }

    const fn large(
        name: &'static str,
        title: &'static str,
        story: Story,
        targets: Targets,
    ) -> Case {
        Case { corpus: Corpus::LargeTree, ..Case::tree(name, title, story, targets) }
            .over(SlowLine::FAST)
    }

    const fn database(
        name: &'static str,
        title: &'static str,
        story: Story,
        targets: Targets,
    ) -> Case {
        Case { corpus: Corpus::Database, ..Case::tree(name, title, story, targets) }
            .over(SlowLine::FAST)
    }

    const fn over(self, line: SlowLine) -> Case {
        Case { line, ..self }
    }

    const fn far(self) -> Case {
        Case { changed: Changed::Far, ..self }
    }

    const fn no_store(self) -> Case {
        Case { no_store: true, ..self }
    }
}

const NO: Targets = Targets::NONE;
const UPGRADE: Targets = NO.times(0.24).turns(6).seconds(0.4);
const EDIT_LINE: Targets = NO.bytes(500).turns(4);
const EQUAL: Targets = NO.bytes(1_000).turns(4);

/// In the order of the table. Targets for trees are meant for two releases of Django, for large
/// trees of Linux, and for a database of 186 MB of which some thousand rows changed.
pub(crate) const ALL: [Case; 22] = [
    Case::tree("upgrade", "upgrade, both sides agreed before", Story::Upgrade, UPGRADE),
    Case::tree(
        "upgrade-no-store",
        "upgrade, `--no-store`",
        Story::Upgrade,
        NO.times(0.32).turns(6),
    )
    .no_store(),
    Case::tree("upgrade-far", "upgrade, the new state far", Story::Upgrade, UPGRADE).far(),
    Case::tree(
        "first-contact",
        "upgrade, first contact (`--mirror push`)",
        Story::FirstContact,
        NO.times(0.45).turns(10).seconds(0.6),
    ),
    Case::tree("equal", "two equal trees, first contact", Story::Equal, EQUAL),
    Case::tree("nothing", "nothing to do", Story::Nothing, NO.bytes(300).turns(2)),
    Case::tree("rename", "a folder renamed", Story::Rename, NO.bytes(2_000).turns(6)),
    Case::tree(
        "rename-edit",
        "a folder renamed, 10 of its files edited",
        Story::RenameAndEdit(10),
        NO.bytes(8_000),
    ),
    Case::tree("edit-line", "a line edited in 200 KB of text", Story::EditLine, EDIT_LINE),
    Case::tree("edit-line-far", "the same, edited far", Story::EditLine, EDIT_LINE).far(),
    Case::tree("first-copy", "first copy", Story::FirstCopy, NO.times(0.85).seconds(1.0))
        .over(SlowLine::FAST),
    Case::tree("first-copy-slow", "first copy", Story::FirstCopy, NO.times(0.72).seconds(1.0)),
    Case::tree("first-copy-unlimited", "first copy", Story::FirstCopy, NO.seconds(2.0))
        .over(SlowLine::UNLIMITED),
    Case::tree(
        "first-copy-unlimited-no-store",
        "first copy, `--no-store`",
        Story::FirstCopy,
        NO.seconds(1.3),
    )
    .over(SlowLine::UNLIMITED)
    .no_store(),
    Case::database(
        "sqlite",
        "database changed, both sides agreed before",
        Story::Upgrade,
        NO.times(0.06).seconds(1.0),
    ),
    Case::database(
        "sqlite-no-store",
        "database changed, `--no-store`",
        Story::Upgrade,
        NO.times(0.13).seconds(1.0),
    )
    .no_store(),
    Case::database(
        "sqlite-first-contact",
        "database changed, first contact",
        Story::FirstContact,
        NO.times(0.15).seconds(1.0),
    ),
    Case::large(
        "linux-upgrade",
        "large tree: upgrade, both sides agreed before",
        Story::Upgrade,
        NO.times(0.05).seconds(0.2).memory_mib(500),
    ),
    Case::large(
        "linux-first-contact",
        "large tree: upgrade, first contact",
        Story::FirstContact,
        NO.times(0.35).seconds(0.6),
    ),
    Case::large("linux-equal", "large tree: two equal ones, first contact", Story::Equal, EQUAL),
    Case::large("linux-first-copy", "large tree: first copy", Story::FirstCopy, NO.seconds(2.0))
        .over(SlowLine::UNLIMITED),
    Case::large(
        "linux-first-copy-no-store",
        "large tree: first copy, `--no-store`",
        Story::FirstCopy,
        NO.seconds(1.3),
    )
    .over(SlowLine::UNLIMITED)
    .no_store(),
];
