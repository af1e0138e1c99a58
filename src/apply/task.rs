//! From an agreement to what one end has to do about each path. Pure but for looking up rows.

use psync_protocol::decision::Agreed;
use psync_protocol::session::{Agreement, Stand};
use psync_protocol::{
    Check, CheckKey, Content, ContentDecision, ContentHash, ProtocolError, RelPath, Role, Row,
    Version,
};

use crate::manifest::{Permit, Stamp, Stored};

/// What one end has to do at one path.
#[derive(Debug, Clone)]
pub struct Task {
    /// The number of the path in the plan, for failures and wants.
    pub index: usize,
    /// Where; the clash file's path if that is what arrives.
    pub path: RelPath,
    /// Properties and versions afterwards.
    pub agreed: Agreed,
    /// This end's row at `path` now.
    pub old: Option<Stored>,
    /// What to do.
    pub act: Act,
    /// What has to happen in the same step.
    pub beside: Beside,
}

/// What to do at a path.
#[derive(Debug, Clone)]
pub enum Act {
    /// Nothing on disk: versions only, or a tombstone where nothing stands.
    Adopt,
    /// Set mode and time.
    SetProps,
    /// Take it out of the tree.
    Remove,
    /// Make a directory.
    MakeDir,
    /// Make a symlink.
    MakeLink {
        /// Where it points.
        target: Box<[u8]>,
    },
    /// Put a file there whose content the peer has.
    Fetch {
        /// Its length in bytes.
        size: u64,
        /// Its check under the peer's key.
        check: Check,
        /// At which path of the plan the peer has it.
        source: usize,
    },
    /// Put a file there that stands elsewhere on this side.
    Arrive {
        /// The row of where it stands.
        from: Box<Stored>,
    },
}

/// What belongs to a task.
#[derive(Debug, Clone)]
pub enum Beside {
    /// Nothing.
    Nothing,
    /// What stands at the path goes to this clash file first.
    Aside(RelPath),
    /// With the clash file in place, this row of the contested path is agreed.
    Agrees(Box<Stored>),
}

impl Task {
    /// Whether the peer may have this done. What changes the tree was looked at with the plan as a
    /// whole; what is only written down needs the right to change what it is about, too: by a
    /// version, or by a deletion of what is not here, others would lose what they have.
    fn is_within(&self, permit: &Permit) -> bool {
        let rights = permit.rights(self.path.as_bytes());
        match self.act {
            Act::Adopt if is_live(&self.old) => rights.write,
            Act::Adopt => rights.delete,
            _ => true,
        }
    }
}

/// What the tasks of one end are derived from.
#[derive(Debug, Clone, Copy)]
pub struct Brief<'a> {
    /// Which end this is.
    pub role: Role,
    /// What both ends know.
    pub agreement: &'a Agreement,
    /// The key under which the peer states its rows.
    pub their_key: &'a CheckKey,
    /// What the peer may do here.
    pub permit: &'a Permit,
}

/// Lists the tasks in the order of the paths. `own` looks up this end's rows: of each of these paths
/// in its place.
pub fn tasks<E: From<ProtocolError>>(
    brief: Brief<'_>,
    mut own: impl FnMut(&[&RelPath]) -> Result<Vec<Option<Stored>>, E>,
) -> Result<Vec<Task>, E> {
    let Agreement { paths, decisions, planner } = brief.agreement;
    let mut open = Vec::new();
    for (index, (stand, decision)) in paths.iter().zip(decisions).enumerate() {
        if decision.is_postponed() {
            continue;
        }
        let absent = Row::absent(stand.path().clone());
        let initiator = stand.initiator.as_ref().unwrap_or(&absent);
        let responder = stand.responder.as_ref().unwrap_or(&absent);
        let agreed = decision.agreed(initiator, responder, *planner);
        if !is_true_already(brief.role, stand, &decision.content, &agreed) {
            open.push((index, agreed));
        }
    }
    let every: Vec<&RelPath> = open.iter().map(|(index, _)| paths[*index].path()).collect();
    let olds = own(&every)?;
    let mut tasks = Vec::new();
    for ((index, agreed), old) in open.into_iter().zip(olds) {
        let decision = &decisions[index].content;
        let arriving = match decision {
            ContentDecision::Arrive { from, source } if *from == brief.role => {
                own(&[paths[*source].path()])?.pop().flatten()
            }
            _ => None,
        };
        let task = task(brief, index, &paths[index], decision, agreed, old, arriving)?;
        tasks.extend(task.filter(|task| task.is_within(brief.permit)));
    }
    Ok(tasks)
}

/// Whether what this end has stated is what was agreed: then its row need not be looked up.
fn is_true_already(me: Role, stand: &Stand, decision: &ContentDecision, agreed: &Agreed) -> bool {
    let stays = match decision {
        ContentDecision::Agree => true,
        ContentDecision::Take(from) => *from == me,
        _ => false,
    };
    let is_agreed = |row: &Row<Check>| {
        row.content.is_live()
            && row.props == agreed.props
            && row.content_version == agreed.content_version
            && row.props_version == agreed.props_version
    };
    stays && stand.of(me).is_some_and(is_agreed)
}

fn task(
    brief: Brief<'_>,
    index: usize,
    stand: &Stand,
    decision: &ContentDecision,
    agreed: Agreed,
    old: Option<Stored>,
    arriving: Option<Stored>,
) -> Result<Option<Task>, ProtocolError> {
    let me = brief.role;
    let path = stand.path().clone();
    let missing = ProtocolError::Contradiction("a decision takes what was never stated");
    let plain = |act, old| {
        Some(Task {
            index,
            path: path.clone(),
            agreed: agreed.clone(),
            old,
            act,
            beside: Beside::Nothing,
        })
    };
    Ok(match decision {
        ContentDecision::Ignore | ContentDecision::Later => None,
        // The planner knows what it has itself; of what the responder has not told nobody can say
        // that it stays, nor what its properties are.
        ContentDecision::Agree | ContentDecision::Take(Role::Responder)
            if me == Role::Responder && stand.responder.is_none() && is_live(&old) =>
        {
            return Err(missing);
        }
        ContentDecision::Agree => stays(&agreed, &old).and_then(|act| plain(act, old)),
        ContentDecision::Take(from) if *from == me => {
            stays(&agreed, &old).and_then(|act| plain(act, old))
        }
        ContentDecision::Take(from) => {
            let row = stand.of(*from).ok_or(missing)?;
            incoming(brief, row, &agreed, &old, index).and_then(|act| plain(act, old))
        }
        ContentDecision::MovedAway(mover) if *mover == me => plain(Act::Adopt, old),
        ContentDecision::MovedAway(_) => plain(Act::Remove, old),
        ContentDecision::Arrive { from, .. } if *from == me => {
            let from = Box::new(arriving.ok_or(missing)?);
            plain(Act::Arrive { from }, old)
        }
        ContentDecision::Arrive { from, source } => {
            let row = brief.agreement.paths[*source].of(*from).ok_or(missing)?;
            incoming(brief, row, &agreed, &old, *source).and_then(|act| plain(act, old))
        }
        ContentDecision::KeepBoth { winner, clash } if *winner == me => {
            let loser = stand.of(winner.other()).ok_or(missing.clone())?;
            let kept = old.ok_or(missing)?;
            let kept = settled(
                &agreed,
                kept.row.content.clone(),
                Some(&kept),
                kept.stamp,
                kept.inode,
                path,
            );
            Some(Task {
                index,
                path: clash.clone(),
                agreed: fresh(loser, brief.agreement),
                old: None,
                act: incoming(brief, loser, &agreed, &None, index).unwrap_or(Act::Adopt),
                beside: Beside::Agrees(Box::new(kept)),
            })
        }
        ContentDecision::KeepBoth { winner, clash } => {
            let row = stand.of(*winner).ok_or(missing)?;
            let act = incoming(brief, row, &agreed, &old, index).unwrap_or(Act::Adopt);
            plain(act, old).map(|task| Task { beside: Beside::Aside(clash.clone()), ..task })
        }
    })
}

fn is_live(old: &Option<Stored>) -> bool {
    old.as_ref().is_some_and(|old| old.row.content.is_live())
}

/// What has to be done where this end's content stays.
fn stays(agreed: &Agreed, old: &Option<Stored>) -> Option<Act> {
    let Some(old) = old else { return Some(Act::Adopt) };
    let row = &old.row;
    if row.content.is_live() && row.props != agreed.props {
        Some(Act::SetProps)
    } else if row.content_version != agreed.content_version
        || row.props_version != agreed.props_version
    {
        Some(Act::Adopt)
    } else {
        None
    }
}

/// What has to be done for the peer's content to stand here; nothing if it does already.
fn incoming(
    brief: Brief<'_>,
    row: &Row<Check>,
    agreed: &Agreed,
    old: &Option<Stored>,
    source: usize,
) -> Option<Act> {
    let live = old.as_ref().filter(|old| old.row.content.is_live());
    if let Some(old) = live {
        let same = old.row.stated(brief.their_key).content.same(&row.content);
        if same {
            return stays(agreed, &Some(old.clone()));
        }
    }
    Some(match &row.content {
        Content::Deleted { .. } if live.is_some() => Act::Remove,
        Content::Deleted { .. } => Act::Adopt,
        Content::Directory => Act::MakeDir,
        Content::Symlink { target, .. } => Act::MakeLink { target: target.clone() },
        Content::File { size, hash } => Act::Fetch { size: *size, check: *hash, source },
    })
}

/// A clash file is a new file, made by the planner.
pub(super) fn fresh<H>(loser: &Row<H>, agreement: &Agreement) -> Agreed {
    let version = Version::default().bump(agreement.planner.replica, agreement.planner.counter);
    Agreed { props: loser.props, content_version: version.clone(), props_version: version }
}

/// The row of a path once its task is done.
pub(super) fn settled(
    agreed: &Agreed,
    content: Content<ContentHash>,
    old: Option<&Stored>,
    stamp: Stamp,
    inode: u64,
    path: RelPath,
) -> Stored {
    let base = match old {
        Some(old) if old.row.content.same(&content) => old.row.base,
        Some(old) => old.row.content.fingerprint(),
        None => None,
    };
    let live = content.is_live();
    let props = if live { agreed.props } else { Default::default() };
    Stored {
        row: Row {
            path,
            content,
            base,
            props,
            agreed_mode: if live { props.mode } else { old.map_or(0, |old| old.row.props.mode) },
            content_version: agreed.content_version.clone(),
            props_version: agreed.props_version.clone(),
        },
        stamp,
        inode,
        shared: true,
        deleted_at: 0,
    }
}
