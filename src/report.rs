//! What a run tells the person (or script) that started it. Any layer may call [`Report`]; what
//! becomes of it - lines, a progress bar, JSON - is decided where the run was started.

use psync_protocol::message::ProblemKind;
use psync_protocol::{ContentHash, RelPath, Role, Time, Version};

/// What kind of thing an action acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
}

/// What is done to a path on one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// It comes to be.
    Create,
    /// Its content is replaced.
    Update,
    /// Only its mode or time changes; the flags say which.
    Properties {
        /// The mode.
        mode: bool,
        /// The modification time.
        time: bool,
    },
    /// It goes to the trash.
    Delete,
    /// It stands under another name; no content crosses the line.
    Move {
        /// Where it stood.
        from: RelPath,
    },
    /// Both versions are kept: the older one under this name.
    KeepBoth {
        /// The clash file.
        clash: RelPath,
    },
}

/// One action of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// The side on which something changes.
    pub on: Role,
    /// What stands there afterwards (before, for a deletion).
    pub kind: Kind,
    /// What is done.
    pub deed: Deed,
    /// Where.
    pub path: RelPath,
    /// Size in bytes of the file that arrives; 0 where none does.
    pub size: u64,
    /// Why, in a few words.
    pub why: &'static str,
}

/// Two changes that exclude each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Where.
    pub path: RelPath,
    /// The kind, in the words of the rule matrix.
    pub kind: ConflictKind,
    /// What each side had, the initiator's first; none where it had nothing (any more).
    pub sides: [Option<Facts>; 2],
    /// The versions of both contents, the initiator's first: as long as these stand, it is the
    /// same conflict.
    pub seen: (Version, Version),
    /// What both had before, if they had the same and this end knows it.
    pub ancestor: Option<ContentHash>,
    /// Which rule, policy or choice spoke, and where it was written.
    pub rule: String,
    /// Whether it waits.
    pub state: State,
    /// What was done about it.
    pub outcome: String,
    /// One side's was taken because a person had said so: nobody has to look at it.
    pub chosen: bool,
    /// While it waits: what a person may choose.
    pub ways: Ways,
}

/// Which ways out of a conflict are open: units and rules close some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ways {
    /// This side's can be taken.
    pub local: bool,
    /// The other side's can be taken.
    pub remote: bool,
    /// Both can be kept.
    pub both: bool,
    /// Both can be merged on this side.
    pub merge: bool,
}

impl Ways {
    /// All of them.
    pub const ALL: Ways = Ways { local: true, remote: true, both: true, merge: true };
    /// None.
    pub const NONE: Ways = Ways { local: false, remote: false, both: false, merge: false };

    /// In words, as they are chosen.
    pub fn names(self) -> Vec<&'static str> {
        let named = [
            (self.local, "local"),
            (self.remote, "remote"),
            (self.both, "both"),
            (self.merge, "a merge"),
        ];
        named.into_iter().filter(|(open, _)| *open).map(|(_, name)| name).collect()
    }
}

/// What spoke about a conflict where a person has laid down nothing.
pub const DEFAULT_RULE: &str = "keep-both, the default";

/// What one side of a conflict has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// What it is.
    pub kind: Kind,
    /// Length in bytes; 0 where it is no file.
    pub size: u64,
    /// When it was last changed; the epoch for a directory.
    pub mtime: Time,
    /// Its permission bits.
    pub mode: u16,
    /// The hash of its content; of the other side's it is known only where this side has it, too.
    pub hash: Option<ContentHash>,
}

/// What has become of a conflict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Both sides are as they were, and it waits.
    Held {
        /// For a merge of both texts, which is to be tried after the run; otherwise for a person.
        to_merge: bool,
    },
    /// It was settled by this run.
    Settled {
        /// Where the other content stands now, if both were kept.
        clash: Option<RelPath>,
    },
}

impl Conflict {
    /// Whether it waits for a person, or for a merge.
    pub fn is_held(&self) -> bool {
        matches!(self.state, State::Held { .. })
    }
}

/// The kinds of conflict in the rule matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConflictKind {
    /// Both sides changed the content.
    ModifiedBoth,
    /// Both sides created it, differently.
    CreatedBoth,
    /// Both sides changed the same property, differently.
    PropertiesBoth,
    /// Both sides moved it, to different places.
    MovedBoth,
    /// It became different kinds of thing.
    Type,
    /// One side deleted what the other changed.
    DeleteModify,
}

impl ConflictKind {
    /// All of them, in the order in which they are documented.
    pub const ALL: [ConflictKind; 6] = [
        ConflictKind::ModifiedBoth,
        ConflictKind::CreatedBoth,
        ConflictKind::PropertiesBoth,
        ConflictKind::MovedBoth,
        ConflictKind::Type,
        ConflictKind::DeleteModify,
    ];
}

impl ConflictKind {
    /// The name in reports and in configuration.
    pub fn name(self) -> &'static str {
        match self {
            ConflictKind::ModifiedBoth => "modified-both",
            ConflictKind::CreatedBoth => "created-both",
            ConflictKind::PropertiesBoth => "properties-both",
            ConflictKind::MovedBoth => "moved-both",
            ConflictKind::Type => "type",
            ConflictKind::DeleteModify => "delete-modify",
        }
    }
}

/// Something that went wrong with one path, or that a person should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// On which side.
    pub on: Role,
    /// The path relative to the root; empty for the root itself.
    pub path: Vec<u8>,
    /// The kind.
    pub kind: TroubleKind,
    /// What happened and what to do, for people.
    pub text: String,
}

/// The kinds of trouble; they decide the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TroubleKind {
    /// To know; no fault.
    Note,
    /// A device, socket or FIFO: not synced.
    Special,
    /// A filter line that is no pattern.
    Pattern,
    /// Could not be read, written, or was refused by the system.
    System,
    /// Changed while the run was at work.
    Changed,
}

impl From<ProblemKind> for TroubleKind {
    fn from(kind: ProblemKind) -> TroubleKind {
        match kind {
            ProblemKind::Special => TroubleKind::Special,
            ProblemKind::Unreadable => TroubleKind::System,
            ProblemKind::Changed => TroubleKind::Changed,
            ProblemKind::Pattern => TroubleKind::Pattern,
            ProblemKind::Note => TroubleKind::Note,
        }
    }
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Walking this side's tree; entries so far.
    Scanning(u64),
    /// Waiting for the other side.
    Waiting,
    /// Contents are on their way; how many bytes of files the plan moves in all.
    Transfer {
        /// Bytes of files that arrive on either side.
        bytes: u64,
    },
    /// Everything is done, and what was agreed is remembered on this side for the next edit.
    Remembering {
        /// Bytes of files that are read for it.
        bytes: u64,
    },
}

/// Receives what a run has to say. Every method may be called from any thread.
pub trait Report: Sync {
    /// The run has come to this point.
    fn phase(&self, phase: Phase);
    /// An action of the plan (told before anything is done).
    fn action(&self, action: &Action);
    /// A conflict (told before anything is done).
    fn conflict(&self, conflict: &Conflict);
    /// Trouble with one path.
    fn trouble(&self, trouble: &Trouble);
    /// A change that a rule leaves alone, and why (told before anything is done).
    fn left_alone(&self, _: &RelPath, _: &str) {}
    /// A conflict was merged after the run; or it was not, and both versions will be kept.
    fn merged(&self, _: &RelPath, _clean: bool) {}
    /// So many more bytes of this file have been sent or received.
    fn progress(&self, path: &RelPath, bytes: u64);
}

/// Says nothing: for the side that has nobody to talk to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Report for Silent {
    fn phase(&self, _: Phase) {}
    fn action(&self, _: &Action) {}
    fn conflict(&self, _: &Conflict) {}
    fn trouble(&self, _: &Trouble) {}
    fn progress(&self, _: &RelPath, _: u64) {}
}
