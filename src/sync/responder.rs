//! The end that was started by the other: it answers, and checks what it is told against what it
//! knows.

use std::collections::HashSet;
use std::path::Path;

use psync_protocol::message::{
    Coverage, Demand, Flow, Hello, Statement, StreamCodec, Tree, Verdict, Welcome,
};
use psync_protocol::session::{
    Answering, AwaitingHello, AwaitingPlan, AwaitingStatement, PlanStep, Planned, Stated,
    StatementStep, Twin, common_version,
};
use psync_protocol::{Check, CheckKey, Message, ProtocolError, RelPath, Role, Row};

use super::exchange::{self, Worker};
use super::record::{self, Relation};
use super::remember::remember_quietly;
use super::send::given_with_rows;
use super::{Keeping, Site, SyncError, random};
use crate::apply::{Keys, RunNames};
use crate::index::{Index, Peer};
use crate::manifest::{self, Answered, LocalAccess, Outline, Stored, Terms};
use crate::reconcile;
use crate::report::Report;
use crate::root::{Place, places};
use crate::scan::{self, Rules, Survey};
use crate::transport::{Compression, Line, LineError};

/// Serves the root at `path` to whoever is at the other end of `line`, for one sync.
///
/// A root that is missing is made, if the directory above it exists, unless it `must_exist`.
/// `compression` is for what this end sends, if the other end wants any.
pub fn respond(
    path: &Path,
    must_exist: bool,
    compression: Compression,
    mut line: Line,
    keeping: &Keeping,
    names: RunNames,
    report: &dyn Report,
) -> Result<(), SyncError> {
    let result = serve(path, must_exist, compression, &mut line, keeping, names, report);
    match &result {
        Ok(_) => line.finish()?,
        Err(SyncError::Line(
            LineError::Io(_)
            | LineError::Protocol(ProtocolError::Peer { .. } | ProtocolError::Ended(_)),
        )) => {}
        Err(error) => line.give_up(&error.to_message()),
    }
    if let Some(mut site) = result? {
        remember_quietly(&mut site, report);
    }
    Ok(())
}

/// What is left of the session: the site, if there may be something to remember.
fn serve(
    path: &Path,
    must_exist: bool,
    compression: Compression,
    line: &mut Line,
    keeping: &Keeping,
    names: RunNames,
    report: &dyn Report,
) -> Result<Option<Site>, SyncError> {
    let greeting = line.receive("waiting for a greeting")?;
    let (hello, awaiting) = AwaitingHello.receive(greeting)?;
    let rules = Rules::new(&hello.filters).map_err(SyncError::Filter)?;
    refuse_overlap(path, &hello)?;
    let made = !must_exist && Site::create_root(path)?;
    let dry_run = hello.dry_run;
    let compression = if hello.codec == StreamCodec::Raw { Compression::Off } else { compression };
    let session = (hello, awaiting, rules);
    let served = serve_root(path, compression, line, keeping, names, report, session)
        .map(|site| (!dry_run).then_some(site));
    if made && !matches!(served, Ok(Some(_))) {
        Site::remove_unused_root(path);
    }
    served
}

fn serve_root(
    path: &Path,
    compression: Compression,
    line: &mut Line,
    keeping: &Keeping,
    names: RunNames,
    report: &dyn Report,
    (hello, awaiting, rules): (Hello, AwaitingStatement, Rules),
) -> Result<Site, SyncError> {
    let mut site = Site::open(path, keeping)?;
    if site.index.replica() == hello.replica {
        return Err(SyncError::Clone);
    }
    let survey = scan::scan(&site.root, &mut site.index, rules, hello.accepts_empty, report)
        .map_err(|error| SyncError::Scan { path: path.to_path_buf(), error })?;
    let mut nonce = [0; 16];
    random(&mut nonce);
    let responder = Responder {
        site: &mut site,
        held_back: Vec::new(),
        may_number: true,
        outline: None,
        line,
        hello,
        compression,
        survey,
        nonce,
        names,
        report,
    };
    responder.run(awaiting)?;
    Ok(site)
}

/// Two roots on one machine may not be one, nor one in the other: seen before anything is made.
fn refuse_overlap(path: &Path, hello: &Hello) -> Result<(), SyncError> {
    let Ok(place) = Place::of_root(path) else { return Ok(()) };
    let ours = places(&place);
    let exists = path.exists();
    let inside_theirs = hello.places.first().is_some_and(|root| ours.contains(root));
    let theirs_inside = exists && ours.first().is_some_and(|root| hello.places.contains(root));
    if inside_theirs || theirs_inside { Err(SyncError::SameRoot) } else { Ok(()) }
}

/// What was found out about rows that were not stated one by one.
#[derive(Debug, Clone, Copy)]
enum Compared {
    /// They are known.
    Same,
    /// About so many of them are not.
    Different(u64),
    /// They are not, nor how many.
    Unknown,
}

impl Compared {
    fn is_same(self) -> bool {
        matches!(self, Compared::Same)
    }
}

struct Responder<'a> {
    site: &'a mut Site,
    held_back: Vec<RelPath>,
    /// Whether the initiator can be told by number what has become of what both know.
    may_number: bool,
    /// What the initiator was told of this tree.
    outline: Option<Outline>,
    line: &'a mut Line,
    hello: Hello,
    compression: Compression,
    survey: Survey,
    nonce: [u8; 16],
    names: RunNames,
    report: &'a dyn Report,
}

/// What this end has, for the answer.
struct Own<'a> {
    index: &'a mut Index,
    survey: &'a Survey,
    key: &'a CheckKey,
    /// The checks of all files here, once somebody had to ask.
    files: Option<HashSet<Check>>,
}

impl manifest::Own for Own<'_> {
    type Error = SyncError;

    fn row(&mut self, row: &Row<Check>) -> Result<(Option<Stored>, LocalAccess), SyncError> {
        let access = record::access(self.survey, &row.path, Some(row));
        Ok((self.index.row(&row.path)?, access))
    }

    fn has(&mut self, content: Check) -> Result<bool, SyncError> {
        if self.files.is_none() {
            let mut files = HashSet::new();
            self.index.files(|_, _, hash| {
                files.insert(self.key.check(&hash));
            })?;
            self.files = Some(files);
        }
        Ok(self.files.as_ref().is_some_and(|files| files.contains(&content)))
    }
}

impl Responder<'_> {
    fn run(mut self, mut awaiting: AwaitingStatement) -> Result<(), SyncError> {
        let their_key = awaiting.their_key().clone();
        let (stated, answering) = loop {
            let message = self.line.receive("waiting for a statement")?;
            awaiting = match awaiting.receive(message)? {
                StatementStep::More(awaiting) => awaiting,
                StatementStep::Turn(stated, answering) => break (stated, answering),
            };
        };
        let mut answering = answering;
        let (stated, unnumbered) = self.unnumber(stated, &mut answering)?;
        let (stated, compared) = self.unfold(stated)?;
        let compared = if unnumbered { compared } else { Compared::Unknown };
        let verdict = self.judge(&stated, compared.is_same())?;
        let mut statement = stated.statement.clone();
        let mut waiting = self.answer_first(stated, answering, verdict, compared, &their_key)?;
        let relation = match verdict {
            Verdict::Proceed { first_contact } | Verdict::Restate { first_contact, .. } => {
                Relation { first_contact }
            }
        };
        loop {
            let Some(message) = self.line.receive_or_end("waiting for the plan")? else {
                if waiting.may_end() {
                    // The initiator has nothing to do, or only wanted to see.
                    return Ok(());
                }
                return Err(ProtocolError::Ended("in the middle of the plan").into());
            };
            waiting = match waiting.receive(message)? {
                PlanStep::More(waiting) => waiting,
                PlanStep::Restated(stated, answering) => {
                    statement = stated.statement.clone();
                    self.may_number = false;
                    let (messages, waiting) =
                        self.answer_again(stated, answering, relation, &their_key)?;
                    self.send_all(messages)?;
                    waiting
                }
                PlanStep::Planned(planned, first) => {
                    let paths = &planned.agreement.paths;
                    self.refuse_forgotten(paths.iter().filter_map(|s| s.initiator.as_ref()))?;
                    reconcile::verify(&planned.agreement, self.hello.flow, relation.first_contact)?;
                    return self.carry_out(planned, first, their_key, &statement);
                }
            };
        }
    }

    /// Puts rows in the place of changes that were stated by number. Says whether that was possible.
    fn unnumber(
        &mut self,
        mut stated: Stated,
        answering: &mut Answering,
    ) -> Result<(Stated, bool), SyncError> {
        let Some(altered) = stated.altered.take() else { return Ok((stated, true)) };
        let (since, peer) = (self.hello.processed, self.hello.replica);
        let key = CheckKey::new(peer, &self.hello.nonce);
        let references = record::references(&self.site.index, &self.survey, since, peer)?;
        let index = &mut self.site.index;
        let rows = manifest::unnumber(&altered, &references, &key, |path| index.row(path))?;
        let Some((rows, manners)) =
            rows.filter(|(rows, _)| rows.len() <= manifest::room(stated.rows.len()))
        else {
            return Ok((stated, false));
        };
        stated.rows.extend(rows);
        answering.altered(manners);
        Ok((stated, true))
    }

    /// Puts rows in the place of what stands for them, as far as that is possible.
    fn unfold(&mut self, mut stated: Stated) -> Result<(Stated, Compared), SyncError> {
        let key = CheckKey::new(self.hello.replica, &self.hello.nonce);
        if let Some(tree) = stated.tree.take() {
            return self.compare(stated, tree, &key);
        }
        for moved in std::mem::take(&mut stated.moved) {
            let own = self.site.index.rows_below(&moved.from)?;
            let room = manifest::room(stated.rows.len());
            match manifest::unfold(&moved, &own, self.hello.replica, room) {
                Some(rows) => stated.rows.extend(rows.iter().map(|row| row.stated(&key))),
                None => return Ok((stated, Compared::Unknown)),
            }
        }
        stated.rows.sort_by(|a, b| a.path.cmp(&b.path));
        let doubled = stated.rows.windows(2).any(|pair| pair[0].path == pair[1].path);
        Ok((stated, if doubled { Compared::Unknown } else { Compared::Same }))
    }

    /// Compares the initiator's tree with this one; where they are the same, its rows are known.
    fn compare(
        &mut self,
        mut stated: Stated,
        theirs: Tree,
        key: &CheckKey,
    ) -> Result<(Stated, Compared), SyncError> {
        let own = self.all_rows()?;
        let alike = manifest::untold(&own, &stated.rows);
        let ours = manifest::tree(alike.iter().copied(), theirs.versions.clone(), key);
        let room = manifest::room(stated.rows.len());
        if ours != theirs || alike.len() > room {
            let differences = manifest::differences(&theirs, &ours);
            return Ok((stated, Compared::Different(differences)));
        }
        let versions = &theirs.versions;
        let rows = alike.iter().map(|own| &own.row);
        stated.rows.extend(rows.map(|row| manifest::their_row(row, row.props, versions, key)));
        stated.rows.sort_by(|a, b| a.path.cmp(&b.path));
        Ok((stated, Compared::Same))
    }

    /// Every row that this end can speak of.
    fn all_rows(&mut self) -> Result<Vec<Stored>, SyncError> {
        let peer = Some(self.hello.replica);
        let all = record::rows_to_state(&mut self.site.index, &self.survey, 0, peer)?;
        self.held_back = all.held_back;
        Ok(all.rows)
    }

    /// A counter of this replica that it has never given away: it is this end that was rolled back.
    fn refuse_forgotten<'r>(
        &mut self,
        mut rows: impl Iterator<Item = &'r Row<Check>>,
    ) -> Result<(), SyncError> {
        if rows.any(|row| self.site.index.has_forgotten(row)) {
            self.site.index.mark_rolled_back()?;
            return Err(SyncError::StartAnew);
        }
        Ok(())
    }

    /// Whether what was stated is enough to plan on, in the light of what is known of the peer.
    /// Where not all rows are `known` it has to be stated row by row.
    fn judge(&mut self, stated: &Stated, known: bool) -> Result<Verdict, SyncError> {
        let (hello, statement) = (&self.hello, &stated.statement);
        let me = (self.site.index.replica(), self.site.index.index_id());
        let peer = self.site.index.peer(hello.replica)?.filter(|peer| peer.index_id == hello.index);
        if peer.as_ref().is_some_and(|peer| statement.sequence < peer.theirs) {
            return Err(SyncError::RolledBack);
        }
        let knows_me = hello.expected == Some(me);
        let forgotten = stated.rows.iter().any(|row| self.site.index.has_forgotten(row));
        if forgotten || knows_me && hello.processed > self.site.index.sequence_at_start() {
            // It is this end that was rolled back.
            self.site.index.mark_rolled_back()?;
            return Err(SyncError::StartAnew);
        }
        let first_contact = peer.is_none();
        let scope = self.survey.scope.digest();
        Ok(match (statement.coverage, peer) {
            (Coverage::Everything, _) if known => Verdict::Proceed { first_contact },
            (Coverage::Everything, _) => Verdict::Restate { since: 0, first_contact },
            (Coverage::Changes { since }, Some(peer))
                if knows_me && scope == peer.our_scope && statement.scope == peer.their_scope =>
            {
                if since <= peer.theirs && known {
                    Verdict::Proceed { first_contact }
                } else {
                    Verdict::Restate { since: since.min(peer.theirs), first_contact }
                }
            }
            (Coverage::Changes { .. }, _) => Verdict::Restate { since: 0, first_contact },
        })
    }

    fn our_key(&self) -> CheckKey {
        CheckKey::new(self.site.index.replica(), &self.nonce)
    }

    fn answer_first(
        &mut self,
        stated: Stated,
        mut answering: Answering,
        verdict: Verdict,
        compared: Compared,
        their_key: &CheckKey,
    ) -> Result<AwaitingPlan, SyncError> {
        let welcome = answering.welcome(Welcome {
            version: common_version(&self.hello),
            features: 0,
            codec: self.compression.codec(),
            replica: self.site.index.replica(),
            index: self.site.index.index_id(),
            nonce: self.nonce,
            verdict,
        });
        self.line.remember(record::rates(&self.site.index, self.hello.replica)?);
        self.line.greet(&welcome, self.compression)?;
        let problems = std::mem::take(&mut self.site.notes)
            .into_iter()
            .chain(std::mem::take(&mut self.survey.problems));
        let problems = problems.collect();
        let (messages, waiting) = match verdict {
            Verdict::Proceed { first_contact } => {
                self.answer(stated, answering, Relation { first_contact }, their_key, problems)?
            }
            Verdict::Restate { since, .. } => {
                let statement = self.statement(Coverage::Everything);
                let demand = if since == 0 { self.demand(compared, their_key)? } else { None };
                match demand {
                    Some(demand) => answering.demand(problems, statement, demand),
                    None => answering.answer(
                        stated.rows,
                        problems,
                        statement,
                        Vec::new(),
                        Vec::new(),
                        None,
                    ),
                }
            }
        };
        self.send_all(messages)?;
        Ok(waiting)
    }

    /// What all rows of the initiator are demanded with: what may be left out.
    fn demand(
        &mut self,
        compared: Compared,
        their_key: &CheckKey,
    ) -> Result<Option<Demand>, SyncError> {
        let own = self.all_rows()?;
        let blank = own.is_empty() && self.survey.sees_all() && self.survey.live == 0;
        if blank && self.hello.flow != Flow::ToInitiator {
            return Ok(Some(Demand::Blank));
        }
        let Some((versions, plain)) = manifest::plain(&own) else { return Ok(None) };
        let differences = match compared {
            Compared::Different(differences) => differences,
            Compared::Same | Compared::Unknown => manifest::unknown_differences(own.len()),
        };
        let rows = own.into_iter().zip(plain).filter(|(_, plain)| *plain);
        let rows = rows.map(|(stored, _)| stored).collect();
        let (outline, summary) = Outline::new(rows, versions, their_key, differences);
        self.outline = Some(outline);
        Ok(Some(Demand::Differences(summary)))
    }

    /// The answer to rows that were demanded.
    fn answer_again(
        &mut self,
        mut stated: Stated,
        answering: Answering,
        relation: Relation,
        their_key: &CheckKey,
    ) -> Result<(Vec<Message>, AwaitingPlan), SyncError> {
        self.refuse_forgotten(stated.rows.iter())?;
        let outline = self.outline.take();
        let Some(shared) = stated.shared.take() else {
            return self.answer(stated, answering, relation, their_key, Vec::new());
        };
        let our_key = self.our_key();
        let room = manifest::room(stated.rows.len());
        let twins = outline
            .and_then(|outline| outline.twins(&shared, (their_key, &our_key)))
            .filter(|twins| twins.len() <= room);
        let Some(twins) = twins else {
            let statement = self.statement(Coverage::Everything);
            return Ok(answering.demand(Vec::new(), statement, Demand::Everything));
        };
        self.refuse_forgotten(twins.iter().map(|twin| &twin.initiator))?;
        let (answered, _) = self.answers(&stated, relation, their_key, &twins)?;
        let statement = self.statement(Coverage::Everything);
        let Answered { marks, rows } = answered;
        // Whoever mirrors its own files onto this side overwrites what is here.
        let checked = self.hello.flow != Flow::ToResponder;
        Ok(answering.answer_differences(stated.rows, statement, marks, rows, twins, checked)?)
    }

    fn answer(
        &mut self,
        stated: Stated,
        mut answering: Answering,
        relation: Relation,
        their_key: &CheckKey,
        problems: Vec<psync_protocol::message::Problem>,
    ) -> Result<(Vec<Message>, AwaitingPlan), SyncError> {
        let (answered, candidates) = self.answers(&stated, relation, their_key, &[])?;
        let (root, effort) = (&self.site.root, exchange::patch_effort(&self.line.rates()));
        // Whatever is wrong with the store is told when it is needed in earnest.
        let store = match candidates.iter().any(|stored| stored.row.base.is_some()) {
            true => self.site.old.open(&mut self.site.index, &mut Vec::new()),
            false => None,
        };
        let given = given_with_rows(root, store, candidates, &answered.rows, effort);
        let coverage = self.coverage(&stated);
        let statement = self.statement(coverage);
        let (marks, mut rows) = (answered.marks, answered.rows);
        if let Coverage::Changes { since: since @ 1.. } = coverage
            && self.may_number
        {
            self.number(&mut rows, since, &mut answering)?;
        }
        Ok(answering.answer(stated.rows, problems, statement, marks, rows, given))
    }

    /// What this end's rows cover in the answer to a statement.
    fn coverage(&self, stated: &Stated) -> Coverage {
        match stated.statement.coverage {
            Coverage::Everything => Coverage::Everything,
            Coverage::Changes { .. } => Coverage::Changes { since: self.hello.processed },
        }
    }

    /// Marks, and this end's rows but for the `twins`, which both have; then those rows whose
    /// contents may be sent along.
    fn answers(
        &mut self,
        stated: &Stated,
        relation: Relation,
        their_key: &CheckKey,
        twins: &[Twin],
    ) -> Result<(Answered, Vec<Stored>), SyncError> {
        let since = match self.coverage(stated) {
            Coverage::Everything => 0,
            Coverage::Changes { since } => since,
        };
        let to_state = record::rows_to_state(
            &mut self.site.index,
            &self.survey,
            since,
            Some(self.hello.replica),
        )?;
        self.held_back = to_state.held_back;
        let mut news = to_state.rows;
        let is_twin = |stored: &Stored| {
            twins.binary_search_by(|twin| twin.initiator.path.cmp(&stored.row.path)).is_ok()
        };
        news.retain(|stored| !is_twin(stored));
        let may_give = since > 0 && !self.hello.dry_run && self.hello.flow != Flow::ToResponder;
        let candidates = if may_give { news.clone() } else { Vec::new() };
        let terms = Terms {
            their_key,
            our_key: &self.our_key(),
            flow: self.hello.flow,
            first_contact: relation.first_contact,
        };
        let survey = &self.survey;
        let mut own = Own { index: &mut self.site.index, survey, key: their_key, files: None };
        Ok((manifest::answer(&stated.rows, news, terms, &mut own)?, candidates))
    }

    /// Says by number what has become of entries that the initiator knows, if there is enough of it.
    fn number(
        &mut self,
        rows: &mut [Row<Check>],
        since: u64,
        answering: &mut Answering,
    ) -> Result<(), SyncError> {
        if rows.len() < manifest::WORTH {
            return Ok(());
        }
        let peer = self.hello.replica;
        let references = record::references(&self.site.index, &self.survey, since, peer)?;
        let (mut own, mut told) = (Vec::with_capacity(rows.len()), Vec::new());
        for (at, row) in rows.iter().enumerate() {
            // What is stated of a path that has never been here is in no index.
            let stored = self.site.index.row(&row.path)?;
            told.extend(stored.is_some().then_some(at));
            own.push(stored.unwrap_or_else(|| Stored::absent(row.path.clone())));
        }
        let worth = manifest::WORTH;
        let Some(numbered) = manifest::number(&own, rows, &told, &references, worth) else {
            return Ok(());
        };
        let plain: HashSet<usize> = numbered.told.into_iter().collect();
        let is_told = |at: &usize| plain.contains(at) || told.binary_search(at).is_err();
        let told = (0..rows.len()).filter(is_told).map(|at| rows[at].clone()).collect();
        answering.number(told, numbered.altered, numbered.manners);
        Ok(())
    }

    fn statement(&self, coverage: Coverage) -> Statement {
        Statement {
            sequence: self.site.index.sequence_at_start(),
            live: self.survey.live,
            scope: self.survey.scope.digest(),
            coverage,
        }
    }

    fn send_all(&mut self, messages: Vec<Message>) -> Result<(), SyncError> {
        for message in &messages {
            self.line.send(message)?;
        }
        Ok(self.line.flush()?)
    }

    fn carry_out(
        self,
        planned: Planned,
        first: Message,
        their_key: CheckKey,
        statement: &Statement,
    ) -> Result<(), SyncError> {
        if self.hello.dry_run {
            return Err(ProtocolError::Contradiction("a dry run is followed by a plan").into());
        }
        let Planned { agreement, listening } = planned;
        if !self.site.writable && agreement.decisions.iter().any(reconcile::changes_responder) {
            return Err(SyncError::ReadOnly(self.site.root.path().to_path_buf()));
        }
        let keys = Keys { ours: self.our_key(), theirs: their_key };
        let worker = Worker::new(
            self.site,
            &agreement,
            Role::Responder,
            keys,
            self.names.clone(),
            self.report,
        )?;
        let closing = exchange::listen_first(worker, self.line, listening, first)?;
        let peer = Peer {
            replica: self.hello.replica,
            index_id: self.hello.index,
            theirs: closing.theirs.sequence,
            ours: self.site.index.sequence(),
            our_scope: self.survey.scope.digest(),
            their_scope: statement.scope,
        };
        record::conclude(
            &mut self.site.index,
            &peer,
            &agreement,
            &closing,
            self.held_back,
            self.names.now,
        )?;
        Ok(record::keep_rates(&mut self.site.index, peer.replica, self.line.rates())?)
    }
}
