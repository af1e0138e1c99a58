//! The responder's answer: marks for what the initiator has stated, and rows of its own.

use std::collections::HashSet;

use psync_protocol::message::{Coverage, Demand, Flow, Intent, Statement, Verdict, Welcome};
use psync_protocol::session::{Answering, AwaitingPlan, Stated, Twin, common_version};
use psync_protocol::{Check, CheckKey, Message, RelPath, Row};

use super::Responder;
use super::judging::Compared;
use crate::index::Index;
use crate::manifest::{self, Answered, LocalAccess, Outline, Stored, Terms};
use crate::root::{Staging, places};
use crate::scan::Survey;
use crate::sync::SyncError;
use crate::sync::exchange;
use crate::sync::record::{self, Relation};
use crate::sync::send::given_with_rows;

/// What this end has, for the answer.
struct Own<'a> {
    index: &'a mut Index,
    survey: &'a Survey,
    key: &'a CheckKey,
    staging: &'a Staging,
    /// Rows in the order in which they will be asked for first, with their paths.
    ahead: std::iter::Peekable<std::vec::IntoIter<(RelPath, Option<Stored>)>>,
    /// The checks of all files here, once somebody had to ask.
    files: Option<HashSet<Check>>,
}

impl manifest::Own for Own<'_> {
    type Error = SyncError;

    fn row(&mut self, row: &Row<Check>) -> Result<(Option<Stored>, LocalAccess), SyncError> {
        let access = record::access(self.survey, &row.path, Some(row));
        let stored = match self.ahead.next_if(|(path, _)| *path == row.path) {
            Some((_, stored)) => stored,
            None => self.index.row(&row.path)?,
        };
        Ok((stored, access))
    }

    fn has(&mut self, content: Check) -> Result<bool, SyncError> {
        if self.files.is_none() {
            let mut files = HashSet::new();
            self.index.files(|path, _, hash| {
                // Whatever may be listed is in the scope.
                if RelPath::new(path).is_ok_and(|path| self.survey.speaks_at(&path, false)) {
                    files.insert(self.key.check(&hash));
                }
            })?;
            self.files = Some(files);
        }
        Ok(self.files.as_ref().is_some_and(|files| files.contains(&content)))
    }

    fn has_begun(&self, path: &RelPath) -> bool {
        self.staging.begun_len(path).is_some()
    }
}

impl Responder<'_> {
    pub(super) fn our_key(&self) -> CheckKey {
        CheckKey::new(self.site.index.replica(), &self.nonce)
    }

    pub(super) fn answer_first(
        &mut self,
        stated: Stated,
        mut answering: Answering,
        verdict: Verdict,
        compared: Compared,
        their_key: &CheckKey,
    ) -> Result<AwaitingPlan, SyncError> {
        let welcome = answering.welcome(Welcome {
            version: common_version(&self.hello),
            features: crate::sync::features_of(self.site.folding),
            codec: self.compression.codec(),
            who: (!self.seals.is_addressed())
                .then(|| (self.site.index.replica(), self.site.index.index_id())),
            joined: self.seals.is_joined(),
            nonce: self.nonce,
            verdict,
            place: self.hello.expected.and(places(&self.site.place).first().copied()),
        });
        self.line.remember(record::rates(&self.site.index, self.hello.replica)?);
        if self.hello.intent == Intent::Rehearse {
            self.line.rehearse();
        }
        self.line.greet(&welcome, self.compression)?;
        if let Message::Welcome(welcome) = &welcome {
            self.seals.welcomed(&self.site.index, welcome)?;
        }
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
    pub(super) fn demand(
        &mut self,
        compared: Compared,
        their_key: &CheckKey,
    ) -> Result<Option<Demand>, SyncError> {
        let own = self.all_rows()?;
        let blank = own.is_empty() && self.survey.sees_all() && self.survey.live == 0;
        // Where contents were begun it is asked which rows these are of.
        let blank = blank && !self.site.staging.has_begun();
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
    pub(super) fn answer_again(
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

    pub(super) fn answer(
        &mut self,
        stated: Stated,
        mut answering: Answering,
        relation: Relation,
        their_key: &CheckKey,
        mut problems: Vec<psync_protocol::message::Problem>,
    ) -> Result<(Vec<Message>, AwaitingPlan), SyncError> {
        let (answered, candidates) = self.answers(&stated, relation, their_key, &[])?;
        let (root, effort) = (&self.site.root, exchange::patch_effort(&self.line.rates()));
        // It is opened once in a run: whatever is wrong with it has to be told now.
        let store = match candidates.iter().any(|stored| stored.row.base.is_some()) {
            true => self.site.old.open(&mut self.site.index, &mut problems),
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
    pub(super) fn coverage(&self, stated: &Stated) -> Coverage {
        match stated.statement.coverage {
            Coverage::Everything => Coverage::Everything,
            Coverage::Changes { .. } => Coverage::Changes { since: self.hello.processed },
        }
    }

    /// Marks, and this end's rows but for the `twins`, which both have; then those rows whose
    /// contents may be sent along.
    pub(super) fn answers(
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
        let may_give =
            since > 0 && self.hello.intent != Intent::Show && self.hello.flow != Flow::ToResponder;
        let mut candidates = if may_give { news.clone() } else { Vec::new() };
        candidates.retain(|stored| self.permit.rights(stored.row.path.as_bytes()).read);
        let terms = Terms {
            their_key,
            our_key: &self.our_key(),
            flow: self.hello.flow,
            first_contact: relation.first_contact,
        };
        let survey = &self.survey;
        let paths: Vec<&RelPath> = stated.rows.iter().map(|row| &row.path).collect();
        let rows = self.site.index.rows_at(&paths)?;
        let ahead: Vec<_> = paths.into_iter().cloned().zip(rows).collect();
        let mut own = Own {
            index: &mut self.site.index,
            survey,
            key: their_key,
            staging: &self.site.staging,
            ahead: ahead.into_iter().peekable(),
            files: None,
        };
        Ok((manifest::answer(&stated.rows, news, terms, &mut own)?, candidates))
    }

    /// Says by number what has become of entries that the initiator knows, if there is enough of it.
    pub(super) fn number(
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
        let every: Vec<&RelPath> = rows.iter().map(|row| &row.path).collect();
        // What is stated of a path that has never been here is in no index.
        for (at, stored) in self.site.index.rows_at(&every)?.into_iter().enumerate() {
            told.extend(stored.is_some().then_some(at));
            own.push(stored.unwrap_or_else(|| Stored::absent(rows[at].path.clone())));
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

    pub(super) fn statement(&self, coverage: Coverage) -> Statement {
        Statement {
            sequence: self.site.index.sequence_at_start(),
            live: self.survey.live,
            scope: self.seals.scope(self.survey.scope.digest()),
            coverage,
        }
    }
}
