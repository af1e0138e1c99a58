//! Replicas in memory: rows without files, and sessions between them over the pure functions that
//! real sessions use.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use psync_protocol::decision::{Agreed, Planner};
use psync_protocol::manifest::{ENTRIES_MAX, ManifestReader};
use psync_protocol::message::{Flow, Mark};
use psync_protocol::session::{Paths, Shared, Twin};
use psync_protocol::{
    Check, CheckKey, Content, ContentDecision, ContentHash, Decision, Props, RelPath, ReplicaId,
    Role, Row, Version,
};

use super::{Context, numbered, path, time};
use crate::manifest::{
    LocalAccess, Outline, Own, Stamp, Stored, Terms, Trace, answer, find_common, fold, plain_from,
    their_row, tree, unfold, untold,
};
use crate::reconcile::{Counsel, Draft, Folding, Keys, Local, draft};

/// One replica.
#[derive(Debug, Clone)]
pub(super) struct Replica {
    pub(super) id: ReplicaId,
    clock: u64,
    sequence: u64,
    rows: BTreeMap<RelPath, (Stored, u64)>,
    traces: BTreeMap<RelPath, Trace>,
    peers: HashMap<ReplicaId, Peer>,
    pub(super) ignored: BTreeSet<RelPath>,
    pub(super) blind: BTreeSet<RelPath>,
}

#[derive(Debug, Clone, Default)]
struct Peer {
    ours: u64,
    theirs: u64,
    pending: BTreeSet<RelPath>,
}

/// What a person does between two sessions, recorded as a scan records it.
impl Replica {
    pub(super) fn new(id: u8) -> Replica {
        Replica {
            id: ReplicaId([id; 16]),
            clock: 0,
            sequence: 0,
            rows: BTreeMap::new(),
            traces: BTreeMap::new(),
            peers: HashMap::new(),
            ignored: BTreeSet::new(),
            blind: BTreeSet::new(),
        }
    }

    pub(super) fn row(&self, name: &RelPath) -> Option<&Stored> {
        self.rows.get(name).map(|(stored, _)| stored)
    }

    fn live(&self, name: &RelPath) -> Option<&Stored> {
        self.row(name).filter(|stored| stored.row.content.is_live())
    }

    fn put(&mut self, stored: Stored) {
        self.sequence += 1;
        let name = stored.row.path.clone();
        let trace = numbered::trace(self.traces.get(&name), &stored, self.sequence);
        self.traces.insert(name, trace);
        self.rows.insert(stored.row.path.clone(), (stored, self.sequence));
    }

    fn bump(&self, version: &Version) -> Version {
        version.bump(self.id, self.clock)
    }

    /// The rules of `scan::changes`.
    fn advance(&mut self, name: &RelPath, content: Content<ContentHash>, props: Props) {
        let absent = || Stored {
            row: Row::absent(name.clone()),
            stamp: Stamp::UNKNOWN,
            inode: 0,
            shared: false,
            deleted_at: 0,
        };
        let Stored { mut row, mut shared, .. } = self.row(name).cloned().unwrap_or_else(absent);
        let was_live = row.content.is_live();
        let content_changed = !row.content.same(&content);
        if content_changed {
            if shared || !was_live {
                row.base = row.content.fingerprint();
            }
            shared = false;
            row.content_version = self.bump(&row.content_version);
            if !was_live || matches!(row.content, Content::Directory) {
                row.agreed_mode = props.mode;
            }
            row.content = content;
        }
        if row.props != props || !was_live {
            row.props_version = self.bump(&row.props_version);
            row.props = props;
        }
        self.put(Stored { row, shared, ..absent() });
    }

    fn bury(&mut self, name: &RelPath, moved_to: Option<RelPath>) {
        let mut stored = self.live(name).expect("only what is there is deleted").clone();
        if stored.shared {
            stored.row.base = stored.row.content.fingerprint();
        }
        stored.row.content = Content::Deleted { moved_to };
        stored.row.content_version = self.bump(&stored.row.content_version);
        stored.row.agreed_mode = stored.row.props.mode;
        stored.row.props = Props::default();
        stored.shared = false;
        self.put(stored);
    }

    fn make_parents(&mut self, name: &RelPath) {
        let mut parents: Vec<RelPath> = name.ancestors().collect();
        parents.reverse();
        for parent in parents {
            if self.live(&parent).is_none() {
                let props = Props { mode: 0o755, ..Props::default() };
                self.advance(&parent, Content::Directory, props);
            }
        }
    }

    pub(super) fn write(&mut self, name: &str, text: &str, at: i64) {
        self.clock += 1;
        let name = path(name);
        self.make_parents(&name);
        let mode = self.live(&name).map_or(0o644, |stored| stored.row.props.mode);
        let hash = ContentHash::of_bytes(text.as_bytes());
        let content = Content::File { size: text.len() as u64, hash };
        self.advance(&name, content, Props { mode, mtime: time(at) });
    }

    /// Another mode for what is there.
    pub(super) fn chmod(&mut self, name: &str, mode: u16) {
        self.clock += 1;
        let row = self.live(&path(name)).unwrap().row.clone();
        self.advance(&path(name), row.content, Props { mode, ..row.props });
    }

    /// Something else in the place of what is there, if anything.
    pub(super) fn replace(&mut self, name: &str, content: Content<ContentHash>, at: i64) {
        self.clock += 1;
        for below in self.tree_below(name) {
            if below != path(name) {
                self.bury(&below, None);
            }
        }
        self.make_parents(&path(name));
        let props = match &content {
            Content::Directory => Props { mode: 0o755, ..Props::default() },
            Content::Symlink { .. } => Props { mode: 0, mtime: time(at) },
            Content::File { .. } | Content::Deleted { .. } => {
                Props { mode: 0o644, mtime: time(at) }
            }
        };
        self.advance(&path(name), content, props);
    }

    /// A directory goes with what is in it.
    pub(super) fn delete(&mut self, name: &str) {
        self.clock += 1;
        for name in self.tree_below(name) {
            self.bury(&name, None);
        }
    }

    /// A directory goes with what is in it.
    pub(super) fn rename(&mut self, from: &str, to: &str) {
        self.clock += 1;
        let target = |name: &RelPath| {
            path(&format!("{to}{}", &String::from_utf8_lossy(name.as_bytes())[from.len()..]))
        };
        self.make_parents(&path(to));
        for name in self.tree_below(from) {
            let row = self.live(&name).unwrap().row.clone();
            let has_content = matches!(row.content, Content::File { size: 1.., .. });
            self.advance(&target(&name), row.content, row.props);
            self.bury(&name, has_content.then(|| target(&name)));
        }
    }

    /// A file that is moved and edited between two scans.
    pub(super) fn rename_and_edit(&mut self, from: &str, to: &str, text: &str, at: i64) {
        self.rename(from, to);
        let known = self.row(&path(from)).unwrap().row.base;
        let (mut stored, _) = self.rows.remove(&path(to)).unwrap();
        let hash = ContentHash::of_bytes(text.as_bytes());
        stored.row.content = Content::File { size: text.len() as u64, hash };
        stored.row.props.mtime = time(at);
        stored.row.base = known;
        self.put(stored);
    }

    fn tree_below(&self, name: &str) -> Vec<RelPath> {
        let top = path(name);
        let inside = |name: &&RelPath| **name == top || name.is_below(&top);
        let live = self.rows.keys().filter(inside).filter(|name| self.live(name).is_some());
        live.cloned().collect()
    }

    /// Every live path with its content and properties.
    pub(super) fn tree(&self) -> BTreeMap<RelPath, (Content<ContentHash>, Props)> {
        let live = self.rows.iter().filter(|(_, (stored, _))| stored.row.content.is_live());
        live.map(|(name, (stored, _))| {
            (name.clone(), (stored.row.content.clone(), stored.row.props))
        })
        .collect()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.live(&path(name)).is_some()
    }

    pub(super) fn is_file(&self, name: &str) -> bool {
        let live = self.live(&path(name));
        live.is_some_and(|stored| matches!(stored.row.content, Content::File { .. }))
    }

    pub(super) fn is_directory(&self, name: &str) -> bool {
        let live = self.live(&path(name));
        live.is_some_and(|stored| matches!(stored.row.content, Content::Directory))
    }

    /// What is known of every path but for the versions.
    pub(super) fn shape(&self) -> Vec<(RelPath, Content<ContentHash>, Props)> {
        let rows = self.rows.values().map(|(stored, _)| &stored.row);
        rows.map(|row| (row.path.clone(), row.content.clone(), row.props)).collect()
    }

    pub(super) fn holds(&self, name: &str, text: &str) -> bool {
        let hash = ContentHash::of_bytes(text.as_bytes());
        self.live(&path(name)).is_some_and(|stored| stored.row.content.fingerprint() == Some(hash))
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.tree().keys().map(RelPath::to_string).collect()
    }

    /// Whether a session with this peer would be the first.
    pub(super) fn knows(&self, peer: &Replica) -> bool {
        self.peers.contains_key(&peer.id)
    }

    /// What the index tells of the past.
    pub(super) fn traces(&self) -> Vec<Trace> {
        self.traces.values().cloned().collect()
    }

    /// Where the sequence numbers of this replica and a peer were when they met.
    pub(super) fn met(&self, peer: &Replica) -> Option<(u64, u64)> {
        self.peers.get(&peer.id).map(|peer| (peer.ours, peer.theirs))
    }

    pub(super) fn is_pending(&self, name: &RelPath, peer: &Replica) -> bool {
        self.peers.get(&peer.id).is_some_and(|peer| peer.pending.contains(name))
    }

    /// What this replica has to tell a peer.
    pub(super) fn news_for(&self, peer: &Replica) -> Vec<Stored> {
        let knows = self.peers.get(&peer.id);
        self.news(knows.map_or(0, |peer| peer.ours), knows)
    }

    pub(super) fn access(&self, name: &RelPath) -> LocalAccess {
        if self.blind.contains(name) {
            LocalAccess::Blind
        } else if self.ignored.contains(name) {
            LocalAccess::Ignored
        } else {
            LocalAccess::Open
        }
    }

    fn news(&self, since: u64, peer: Option<&Peer>) -> Vec<Stored> {
        let pending = |name| peer.is_some_and(|peer| peer.pending.contains(name));
        self.rows
            .iter()
            .filter(|(name, (_, sequence))| *sequence > since || pending(name))
            .filter(|(name, _)| self.access(name) == LocalAccess::Open)
            .map(|(_, (stored, _))| stored.clone())
            .collect()
    }
}

/// How a session goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Session<'a> {
    pub(super) flow: Flow,
    pub(super) stamp: &'static str,
    /// After how many paths the line breaks, on each side.
    pub(super) breaks: Option<[usize; 2]>,
    /// What a person has laid down, if anything.
    pub(super) counsel: Option<&'a Counsel>,
    /// What each side's file system does not tell apart, the initiator's first.
    pub(super) folding: [Folding; 2],
}

/// A whole session in both directions.
pub(super) const WHOLE: Session<'_> = Session {
    flow: Flow::TwoWay,
    stamp: "202611020304",
    breaks: None,
    counsel: None,
    folding: [EXACT; 2],
};
const EXACT: Folding = Folding { case: false, form: false };

/// A session that was held, with what it was about.
#[derive(Debug)]
pub(super) struct Meeting {
    pub(super) paths: Paths,
    at_responder: Paths,
    pub(super) locals: Vec<Local>,
    pub(super) draft: Draft,
}

impl Meeting {
    pub(super) fn decision(&self, name: &str) -> &Decision {
        let at = self.paths.iter().position(|stand| *stand.path() == path(name));
        &self.draft.decisions[at.expect("the path is in the plan")]
    }

    pub(super) fn conflicts(&self) -> Vec<(String, &'static str)> {
        let told =
            |conflict: &crate::report::Conflict| (conflict.path.to_string(), conflict.kind.name());
        self.draft.conflicts.iter().map(told).collect()
    }
}

/// Holds a whole two-way session.
pub(super) fn sync(a: &mut Replica, b: &mut Replica) -> Meeting {
    hold(a, b, WHOLE)
}

/// Holds a session that `a` starts.
pub(super) fn hold(a: &mut Replica, b: &mut Replica, terms: Session<'_>) -> Meeting {
    let planned = plan(a, b, terms);
    a.clock += 1;
    let planner = Planner { replica: a.id, counter: a.clock };
    let mut both = [planned.paths.clone(), planned.at_responder.clone()];
    both.iter_mut().for_each(|paths| paths.add_extra(planned.draft.extra.clone()).unwrap());
    let before = [a.clone(), b.clone()];
    for (role, end) in [(Role::Initiator, &mut *a), (Role::Responder, &mut *b)] {
        let side = usize::from(role == Role::Responder);
        let cut = terms.breaks.map_or(usize::MAX, |cuts| cuts[side]);
        let plan = Carried { role, paths: &both[side], planner, before: &before };
        let decisions = planned.draft.decisions.iter().enumerate().take(cut);
        let rows: Vec<Stored> =
            decisions.flat_map(|(at, decision)| plan.rows(at, decision)).collect();
        rows.into_iter().for_each(|stored| end.put(stored));
    }
    if terms.breaks.is_none() {
        conclude(a, b, &both[0], &planned.draft.decisions);
    }
    planned
}

/// A replica that answers another's statement.
struct Answering<'a> {
    replica: &'a Replica,
    key: &'a CheckKey,
}

impl Own for Answering<'_> {
    type Error = std::convert::Infallible;

    fn row(&mut self, row: &Row<Check>) -> Result<(Option<Stored>, LocalAccess), Self::Error> {
        Ok((self.replica.row(&row.path).cloned(), self.replica.access(&row.path)))
    }

    fn has(&mut self, content: Check) -> Result<bool, Self::Error> {
        let mut rows = self.replica.rows.values().map(|(stored, _)| stored.row.stated(self.key));
        Ok(rows.any(|row| row.content.fingerprint() == Some(content)))
    }

    fn has_begun(&self, _: &RelPath) -> bool {
        false
    }
}

/// Makes the plan of a session and carries nothing out.
pub(super) fn plan(a: &Replica, b: &Replica, terms: Session<'_>) -> Meeting {
    let keys = [CheckKey::new(a.id, &[8; 16]), CheckKey::new(b.id, &[9; 16])];
    let first_contact = !a.knows(b) || !b.knows(a);
    let a_knows = a.peers.get(&b.id);
    let news = a.news_for(b);
    // Checks that what is folded is unfolded to the same rows.
    fold_and_unfold(&news, a, b);
    let stated: Vec<_> = news.iter().map(|stored| stored.row.stated(&keys[0])).collect();
    let b_knows = b.peers.get(&a.id);
    let b_since = a_knows.map_or(0, |peer| peer.theirs);
    let everything = b_since == 0 && a_knows.is_none_or(|peer| peer.ours == 0);
    let b_news = b.news(b_since, b_knows);
    let known = match everything {
        true => by_tree(&news, &b_news, &keys),
        false => Known::default(),
    };
    let met = a.met(b).filter(|_| !everything);
    let is_twin = |name: &RelPath| known.twins.iter().any(|[ours, _]| ours.initiator.path == *name);
    let stated: Vec<_> = stated.into_iter().filter(|row| !is_twin(&row.path)).collect();
    let (stated, heard) = match known.heard {
        Some(heard) => (stated, heard),
        None => {
            let said = numbered::state(stated, [a, b], met, &keys[0]);
            (said.meant, said.heard)
        }
    };
    let answered = answer(
        &heard,
        b_news.into_iter().filter(|stored| !is_twin(&stored.row.path)).collect(),
        Terms { their_key: &keys[0], our_key: &keys[1], flow: terms.flow, first_contact },
        &mut Answering { replica: b, key: &keys[0] },
    );
    let Ok(answered) = answered;
    let met = met.map(|(ours, theirs)| (theirs, ours));
    let said = numbered::state(answered.rows, [b, a], met, &keys[1]);
    let joined = |end: usize, ours: Vec<Row<Check>>, theirs: Vec<Row<Check>>| {
        let mut ours: Vec<_> = ours.into_iter().zip(answered.marks.clone()).collect();
        let twins = known.twins.iter().map(|twin| &twin[end]);
        ours.extend(twins.clone().map(|twin| (twin.initiator.clone(), Mark::Behind)));
        ours.sort_by(|x, y| x.0.path.cmp(&y.0.path));
        let (ours, marks): (Vec<_>, Vec<_>) = ours.into_iter().unzip();
        let mut theirs = theirs;
        theirs.extend(twins.map(|twin| twin.responder.clone()));
        theirs.sort_by(|x, y| x.path.cmp(&y.path));
        Paths::join(ours, &marks, theirs)
    };
    let at_responder = joined(1, heard, said.meant);
    let paths = joined(0, stated, said.heard);
    let locals: Vec<Local> = paths
        .iter()
        .map(|stand| Local {
            row: a.row(stand.path()).cloned(),
            access: match &stand.initiator {
                Some(_) => LocalAccess::Open,
                None => a.access(stand.path()),
            },
        })
        .collect();
    let tie = if a.id > b.id { Role::Initiator } else { Role::Responder };
    let context = Context { flow: terms.flow, first_contact, tie };
    let both = Keys { initiator: &keys[0], responder: &keys[1] };
    let mut is_taken = |name: &RelPath| a.row(name).is_some();
    let nothing = Counsel::default();
    let with = crate::reconcile::Terms {
        keys: both,
        context: &context,
        counsel: terms.counsel.unwrap_or(&nothing),
        stamp: terms.stamp,
        folding: terms.folding,
        known: &a.tree().into_keys().collect::<Vec<_>>(),
    };
    let draft = draft(&paths, &locals, with, &mut is_taken);
    Meeting { paths, at_responder, locals, draft }
}

/// What is known without rows where everything is stated.
#[derive(Default)]
struct Known {
    /// The initiator's rows, if its whole tree is the responder's.
    heard: Option<Vec<Row<Check>>>,
    /// What both have, as the initiator and as the responder see it.
    twins: Vec<[Twin; 2]>,
}

/// What two ends with these rows tell each other by digests.
fn by_tree(news: &[Stored], own: &[Stored], keys: &[CheckKey; 2]) -> Known {
    let Some((versions, plain)) = plain_from(1, news) else { return Known::default() };
    let left_out = news.iter().zip(&plain).filter(|(_, plain)| **plain).map(|(row, _)| row);
    let theirs = tree(left_out, versions.clone(), &keys[0]);
    let told = news.iter().zip(&plain).filter(|(_, plain)| !**plain);
    let told: Vec<_> = told.map(|(stored, _)| stored.row.stated(&keys[0])).collect();
    let told = on_the_line(&told, &keys[0]);
    let alike = untold(own, &told);
    let ours = tree(alike.iter().copied(), theirs.versions.clone(), &keys[0]);
    if ours == theirs {
        let mut heard = told;
        let row = |own: &&Stored| their_row(&own.row, own.row.props, &versions, &keys[0]);
        heard.extend(alike.iter().map(row));
        heard.sort_by(|x, y| x.path.cmp(&y.path));
        return Known { heard: Some(heard), twins: Vec::new() };
    }
    let Some((b_versions, b_plain)) = plain_from(1, own) else { return Known::default() };
    let rows = own.iter().zip(b_plain).filter(|(_, plain)| *plain).map(|(row, _)| row.clone());
    let (outline, summary) = Outline::new(rows.collect(), b_versions, &keys[0], 2);
    let Some(found) = find_common(news, &plain, versions, &summary, &keys[0]) else {
        return Known::default();
    };
    let shared = Shared { common: found.common, props: found.props };
    let at_b = outline.twins(&shared, (&keys[0], &keys[1])).expect("these are the runs");
    assert_eq!(at_b.len(), found.rows.len());
    let twins = found.rows.iter().zip(at_b).map(|(&at, there)| {
        let row = &news[at].row;
        let props = there.responder.props;
        let responder = their_row(row, props, &summary.versions, &keys[1]);
        [Twin { initiator: row.stated(&keys[0]), responder }, there]
    });
    Known { heard: None, twins: twins.collect() }
}

/// How many rows, and how many directories, cross the line; checks that the other end makes the
/// very same rows of them, or none.
fn fold_and_unfold(news: &[Stored], a: &Replica, b: &Replica) -> (usize, usize) {
    let folded = fold(news, a.id);
    let mut rows: Vec<_> = folded.told.iter().map(|&at| news[at].row.clone()).collect();
    for moved in &folded.moved {
        let own: Vec<Stored> = b
            .rows
            .iter()
            .filter(|(name, _)| **name == moved.from || name.is_below(&moved.from))
            .map(|(_, (stored, _))| stored.clone())
            .collect();
        match unfold(moved, &own, a.id, ENTRIES_MAX) {
            Some(more) => rows.extend(more),
            None => return (news.len(), 0),
        }
    }
    rows.sort_by(|x, y| x.path.cmp(&y.path));
    let key = CheckKey::new(a.id, &[0; 16]);
    let meant: Vec<_> = news.iter().map(|stored| stored.row.stated(&key)).collect();
    let made: Vec<_> = rows.iter().map(|row| row.stated(&key)).collect();
    let meant = on_the_line(&meant, &key);
    assert_eq!(on_the_line(&made, &key), meant, "unfolding makes the rows that were folded");
    (folded.told.len(), folded.moved.len())
}

/// Rows as the other end reads them.
pub(super) fn on_the_line(rows: &[Row<Check>], key: &CheckKey) -> Vec<Row<Check>> {
    let mut reader = ManifestReader::new(key.clone());
    for batch in psync_protocol::manifest::encode(rows) {
        reader.batch(&batch).unwrap();
    }
    reader.finish().unwrap()
}

fn conclude(a: &mut Replica, b: &mut Replica, paths: &Paths, decisions: &[Decision]) {
    let (a_id, b_id) = (a.id, b.id);
    let sequences = (a.sequence, b.sequence);
    let later = |decision: &Decision| decision.content == ContentDecision::Later;
    let pending: BTreeSet<RelPath> = paths
        .iter()
        .zip(decisions)
        .filter(|(_, decision)| later(decision))
        .map(|(stand, _)| stand.path().clone())
        .collect();
    for (end, peer, ours, theirs) in
        [(&mut *a, b_id, sequences.0, sequences.1), (&mut *b, a_id, sequences.1, sequences.0)]
    {
        for (stand, decision) in paths.iter().zip(decisions) {
            if let (false, Some((stored, _))) =
                (decision.is_postponed(), end.rows.get_mut(stand.path()))
            {
                stored.shared = true;
                stored.row.agreed_mode = stored.row.props.mode;
            }
        }
        end.peers.insert(peer, Peer { ours, theirs, pending: pending.clone() });
    }
}

/// The rules of `apply::task`, for one end.
struct Carried<'a> {
    role: Role,
    paths: &'a Paths,
    planner: Planner,
    before: &'a [Replica; 2],
}

impl Carried<'_> {
    fn of(&self, role: Role, at: usize) -> Option<&Stored> {
        let end = match role {
            Role::Initiator => &self.before[0],
            Role::Responder => &self.before[1],
        };
        end.row(self.paths[at].path())
    }

    /// The rows that one decision makes true.
    fn rows(&self, at: usize, decision: &Decision) -> Vec<Stored> {
        let stand = &self.paths[at];
        let absent = Row::absent(stand.path().clone());
        let initiator = stand.initiator.as_ref().unwrap_or(&absent);
        let responder = stand.responder.as_ref().unwrap_or(&absent);
        let agreed = decision.agreed(initiator, responder, self.planner);
        let old = self.of(self.role, at);
        let gone = Content::Deleted { moved_to: None };
        let own = old.map_or(gone.clone(), |old| old.row.content.clone());
        let settle = |content| settled(&agreed, content, old, stand.path().clone());
        let row = match &decision.content {
            ContentDecision::Ignore | ContentDecision::Later => return Vec::new(),
            ContentDecision::Agree => settle(own),
            ContentDecision::Take(from) => settle(self.taken(*from, at, own)),
            ContentDecision::MovedAway(mover) if *mover == self.role => settle(own),
            ContentDecision::MovedAway(_) => settle(gone),
            ContentDecision::Arrive { from, source } => {
                settle(self.of(*from, *source).unwrap().row.content.clone())
            }
            ContentDecision::KeepBoth { winner, clash } => {
                let loser = winner.other();
                let stated = stand.of(loser).expect("the loser's row was stated");
                let fresh = Version::default().bump(self.planner.replica, self.planner.counter);
                let fresh = Agreed {
                    props: stated.props,
                    content_version: fresh.clone(),
                    props_version: fresh,
                };
                let content = self.of(loser, at).unwrap().row.content.clone();
                let aside = settled(&fresh, content, None, clash.clone());
                return vec![aside, settle(self.taken(*winner, at, own))];
            }
        };
        match old {
            Some(old) if old.row == row.row => Vec::new(),
            _ => vec![row],
        }
    }

    /// What stands at a path once `from`'s content is taken.
    fn taken(&self, from: Role, at: usize, own: Content<ContentHash>) -> Content<ContentHash> {
        if from == self.role {
            return own;
        }
        let stated = self.paths[at].of(from).expect("what is taken was stated");
        let theirs = self.of(from, at).map(|stored| &stored.row.content);
        match theirs {
            _ if !stated.content.is_live() && !own.is_live() => own,
            Some(content) if content.is_live() => content.clone(),
            Some(_) | None => Content::Deleted { moved_to: None },
        }
    }
}

fn settled(
    agreed: &Agreed,
    content: Content<ContentHash>,
    old: Option<&Stored>,
    name: RelPath,
) -> Stored {
    let base = match old {
        Some(old) if old.row.content.same(&content) => old.row.base,
        Some(old) => old.row.content.fingerprint(),
        None => None,
    };
    let live = content.is_live();
    let props = if live { agreed.props } else { Props::default() };
    let row = Row {
        path: name,
        content,
        base,
        props,
        agreed_mode: if live { props.mode } else { old.map_or(0, |old| old.row.props.mode) },
        content_version: agreed.content_version.clone(),
        props_version: agreed.props_version.clone(),
    };
    Stored { row, stamp: Stamp::UNKNOWN, inode: 0, shared: true, deleted_at: 0 }
}
