//! What the two ends sign: every statement, and the plan. An end signs what has left, and verifies what
//! has come, before it makes anything of it.

use psync_protocol::message::{Coverage, Hello, Seal, Statement, Welcome};
use psync_protocol::signed::{Claim, Expected, Heads, Opened, Sealing, Session, plan_digest};
use psync_protocol::{IndexId, Message, ProtocolError, ReplicaId, Role, VERSION_MAX};

use super::SyncError;
use crate::identity::{PublicKey, ReplicaKey};
use crate::index::{Index, IndexError, Link, Pair, Peer, Signer};
use crate::transport::Line;

/// How far back two replicas may differ about their last session: one of them may have taken it to its
/// end, and the other not.
const DOUBTFUL: usize = 2;

/// What a signature came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verified {
    /// The replica that it names has signed it.
    Yes,
    /// It builds on what this end does not know, or is meant for somebody else: it is as good as
    /// unsaid.
    Unknown,
}

/// One end's part in what is signed in a session.
#[derive(Debug)]
pub(super) struct Seals {
    role: Role,
    key: ReplicaKey,
    me: (ReplicaId, IndexId),
    /// Feature bits of this end's greeting, and of the other's.
    features: (u64, u64),
    version: u64,
    /// Whether both have greeted.
    greeted: bool,
    /// Whom the initiator has addressed in its greeting, as far as this end can tell.
    addressed: Addressed,
    peer: Option<(ReplicaId, IndexId)>,
    signer: Option<Signer>,
    /// How much of the peer's index this end has taken in.
    processed: u64,
    /// The last sessions with the peer.
    pairs: Vec<Pair>,
    /// The one of these that the peer has taken for the last one, too.
    joined: Option<Pair>,
    ours: Sealing,
    theirs: Sealing,
    stating: Option<Statement>,
    hearing: Option<Statement>,
    said: Option<Link>,
    heard: Option<Link>,
    /// The key that the peer has signed with.
    shown: Option<PublicKey>,
}

/// Whom a greeting is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Addressed {
    Nobody,
    Replica(ReplicaId),
    SomebodyElse,
}

impl Seals {
    fn new(role: Role, key: ReplicaKey, index: &Index, features: u64) -> Seals {
        Seals {
            role,
            key,
            me: (index.replica(), index.index_id()),
            features: (features, 0),
            version: VERSION_MAX,
            greeted: false,
            addressed: Addressed::Nobody,
            peer: None,
            signer: None,
            processed: 0,
            pairs: Vec::new(),
            joined: None,
            ours: Sealing::default(),
            theirs: Sealing::default(),
            stating: None,
            hearing: None,
            said: None,
            heard: None,
            shown: None,
        }
    }

    /// For the end that speaks first.
    pub(super) fn of_initiator(
        key: ReplicaKey,
        index: &Index,
        features: u64,
        expected: Option<&Peer>,
    ) -> Result<Seals, IndexError> {
        let mut seals = Seals::new(Role::Initiator, key, index, features);
        if let Some(peer) = expected {
            seals.addressed = Addressed::Replica(peer.replica);
            seals.meet(index, (peer.replica, peer.index_id))?;
            seals.joined = seals.pairs.first().filter(|_| seals.signer.is_some()).cloned();
        }
        Ok(seals)
    }

    /// For the end that has been greeted.
    pub(super) fn of_responder(
        key: ReplicaKey,
        index: &Index,
        features: u64,
        hello: &Hello,
    ) -> Result<Seals, IndexError> {
        let mut seals = Seals::new(Role::Responder, key, index, features);
        seals.features.1 = hello.features;
        seals.meet(index, (hello.replica, hello.index))?;
        let Some(expected) = hello.expected else { return Ok(seals) };
        let says = |pair: &Pair| {
            let heads = heads(Role::Responder, pair);
            Expected::new(&hello.nonce, seals.me, &heads)
        };
        let me = Expected::new(&hello.nonce, seals.me, &Heads::default()).replica;
        seals.addressed = match expected.replica == me {
            true => Addressed::Replica(seals.me.0),
            false => Addressed::SomebodyElse,
        };
        let joined = seals.pairs.iter().find(|pair| says(pair) == expected).cloned();
        seals.joined = joined.filter(|_| seals.signer.is_some());
        Ok(seals)
    }

    fn meet(&mut self, index: &Index, peer: (ReplicaId, IndexId)) -> Result<(), IndexError> {
        self.peer = Some(peer);
        self.signer = index.signer(peer.0)?;
        let known = index.peer(peer.0)?.filter(|known| known.index_id == peer.1);
        self.processed = known.map_or(0, |known| known.theirs);
        self.pairs = index.chain(peer.0, DOUBTFUL)?;
        Ok(())
    }

    /// Whom the initiator expects, as it says in its greeting.
    pub(super) fn expected(&self, nonce: &[u8; 16]) -> Option<Expected> {
        let heads = self.joined.as_ref().map(|pair| heads(Role::Initiator, pair));
        Some(Expected::new(nonce, self.peer?, &heads.unwrap_or_default()))
    }

    /// Whether the initiator has greeted this end, of whatever life of its index.
    pub(super) fn is_addressed(&self) -> bool {
        self.addressed == Addressed::Replica(self.me.0)
    }

    /// Whether both ends agree on which their last session was.
    pub(super) fn is_joined(&self) -> bool {
        self.joined.is_some()
    }

    /// The digest of filters as this end states it: none where the other end knows it.
    pub(super) fn scope(&self, scope: [u8; 8]) -> Option<[u8; 8]> {
        let known = self.joined.as_ref().is_some_and(|pair| pair.said.claim.scope == scope);
        (!known).then_some(scope)
    }

    /// The digest of the other end's filters as it has stated it.
    pub(super) fn their_scope(&self, statement: &Statement) -> Option<[u8; 8]> {
        statement.scope.or(self.joined.as_ref().map(|pair| pair.heard.claim.scope))
    }

    /// The responder's greeting has been sent or has come.
    pub(super) fn welcomed(&mut self, index: &Index, welcome: &Welcome) -> Result<(), SyncError> {
        self.greeted = true;
        self.version = welcome.version;
        if self.role == Role::Responder {
            return Ok(());
        }
        self.features.1 = welcome.features;
        if let Some(who) = welcome.who.filter(|who| self.peer != Some(*who)) {
            self.meet(index, who)?;
            self.joined = None;
        }
        match (welcome.joined, &self.joined) {
            (false, _) => self.joined = None,
            (true, Some(_)) => {}
            (true, None) => {
                return Err(ProtocolError::Contradiction(
                    "the responder agrees on a session that was not named",
                )
                .into());
            }
        }
        Ok(())
    }

    /// Sends messages, with a seal wherever one has to stand.
    pub(super) fn send(&mut self, line: &mut Line, messages: &[Message]) -> Result<(), SyncError> {
        for message in messages {
            if let Some(opened) = self.ours.is_due(message) {
                self.seal(line, opened)?;
            }
            if let Message::Statement(statement) = message {
                self.stating = Some(statement.clone());
            }
            line.send(message)?;
            self.ours.sent(message);
        }
        Ok(())
    }

    /// Seals what has been sent and is not sealed yet.
    pub(super) fn close(&mut self, line: &mut Line) -> Result<(), SyncError> {
        match self.ours.opened() {
            Some(opened) => self.seal(line, opened),
            None => Ok(()),
        }
    }

    fn seal(&mut self, line: &mut Line, opened: Opened) -> Result<(), SyncError> {
        let unsaid = ProtocolError::Contradiction("nothing was said that could be signed");
        let sum = line.to_seal().ok_or(unsaid.clone())?;
        let (digest, key) = match opened {
            Opened::Plan => {
                let statements = self.said.as_ref().zip(self.heard.as_ref());
                let (said, heard) = statements.ok_or(unsaid)?;
                (plan_digest(said.digest(), heard.digest(), sum), None)
            }
            Opened::Statement => {
                let stating = self.stating.as_ref().ok_or(unsaid.clone())?;
                let joined = self.joined.as_ref().map(|pair| &pair.said);
                let scope = stating.scope.or(joined.map(|link| link.claim.scope)).ok_or(unsaid)?;
                let claim = Claim {
                    version: self.version,
                    features: self.features.0,
                    role: self.role,
                    signer: self.me.0,
                    reader: self.reader().unwrap_or(NOBODY),
                    session: self.session(line),
                    index: self.me.1,
                    since: since(stating),
                    sequence: stating.sequence,
                    previous: joined.map(Link::digest).unwrap_or_default(),
                    scope,
                    sum,
                };
                let digest = claim.digest();
                self.said = Some(Link { claim, signature: self.key.sign(&digest) });
                let key = self.joined.is_none().then(|| *self.key.public().as_bytes());
                (digest, key)
            }
        };
        let seal = Message::Seal(Seal { signature: self.key.sign(&digest), key });
        line.send(&seal)?;
        self.ours.sent(&seal);
        Ok(())
    }

    /// For whom this end states; none where the initiator expects nobody.
    fn reader(&self) -> Option<ReplicaId> {
        match (self.greeted, self.addressed) {
            (true, _) => self.peer.map(|(replica, _)| replica),
            (false, Addressed::Replica(replica)) => Some(replica),
            (false, Addressed::Nobody | Addressed::SomebodyElse) => None,
        }
    }

    fn session(&self, line: &Line) -> Session {
        let (hello, welcome) = match self.role {
            Role::Initiator => (line.greeting_sent(), line.greeting_received()),
            Role::Responder => (line.greeting_received(), line.greeting_sent()),
        };
        let welcome = if self.greeted { welcome } else { Default::default() };
        Session { hello, welcome, exporter: line.exporter() }
    }

    /// Takes note of a message that has come and may come now. Of a seal it says what it is worth:
    /// an error where it was not made by whom it should be.
    pub(super) fn hear(
        &mut self,
        line: &Line,
        message: &Message,
    ) -> Result<Option<Verified>, SyncError> {
        let verified = match message {
            Message::Statement(statement) => {
                self.hearing = Some(statement.clone());
                None
            }
            Message::Seal(seal) => Some(self.verify(line, seal)?),
            _ => None,
        };
        self.theirs.sent(message);
        Ok(verified)
    }

    fn verify(&mut self, line: &Line, seal: &Seal) -> Result<Verified, SyncError> {
        let sum = line.sealed().ok_or(SyncError::Forged)?;
        if self.theirs.opened() == Some(Opened::Plan) {
            let (Some(said), Some(heard), Some(key)) = (&self.said, &self.heard, self.shown) else {
                return Err(SyncError::Forged);
            };
            let digest = plan_digest(heard.digest(), said.digest(), sum);
            let good = key.has_signed(&digest, &seal.signature);
            return if good { Ok(Verified::Yes) } else { Err(SyncError::Forged) };
        }
        let (Some(hearing), Some((signer, index))) = (&self.hearing, self.peer) else {
            return Err(SyncError::Forged);
        };
        let reader = match (self.greeted, self.addressed) {
            (true, _) => self.me.0,
            (false, Addressed::Replica(_)) => self.me.0,
            (false, Addressed::Nobody) => NOBODY,
            (false, Addressed::SomebodyElse) => return Ok(Verified::Unknown),
        };
        // Whoever shows its key names no statement before.
        let joined = match (seal.key, &self.joined) {
            (Some(_), _) => None,
            (None, Some(pair)) => Some(&pair.heard),
            (None, None) if !self.greeted => return Ok(Verified::Unknown),
            (None, None) => return Err(SyncError::Forged),
        };
        let key = self.key_of_peer(seal)?;
        let scope = hearing.scope.or(joined.map(|link| link.claim.scope));
        let claim = Claim {
            version: self.version,
            features: self.features.1,
            role: self.role.other(),
            signer,
            reader,
            session: self.session(line),
            index,
            since: since(hearing),
            sequence: hearing.sequence,
            previous: joined.map(Link::digest).unwrap_or_default(),
            scope: scope.ok_or(SyncError::Forged)?,
            sum,
        };
        if !key.has_signed(&claim.digest(), &seal.signature) {
            return Err(SyncError::Forged);
        }
        if seal.key.is_some() {
            self.joined = None;
        }
        self.shown = Some(key);
        self.heard = Some(Link { claim, signature: seal.signature });
        Ok(Verified::Yes)
    }

    /// The key that the peer has to sign with: that of which its id is made.
    fn key_of_peer(&self, seal: &Seal) -> Result<PublicKey, SyncError> {
        let pinned = self.signer.map(|signer| PublicKey::new(signer.key)).or(self.shown);
        let shown = seal.key.map(PublicKey::new);
        match (pinned, shown) {
            (Some(pinned), Some(shown)) if pinned != shown => {
                Err(SyncError::OtherKey { known: pinned.fingerprint(), now: shown.fingerprint() })
            }
            (Some(key), _) => Ok(key),
            (None, Some(key)) if self.peer.is_some_and(|(id, _)| id == key.replica_id()) => Ok(key),
            (None, _) => Err(SyncError::Forged),
        }
    }

    /// Whether the peer has stated an older index than it has signed before, or than this end has taken in.
    pub(super) fn is_older(&self) -> bool {
        let Some(Link { claim, .. }) = &self.heard else { return false };
        let signed = self.signer.filter(|signer| signer.index_id == claim.index);
        claim.sequence < self.processed.max(signed.map_or(0, |signer| signer.sequence))
    }

    /// Keeps the peer's key, and how far it was seen. To be called within a transaction.
    pub(super) fn keep_signer(&self, index: &mut Index) -> Result<(), IndexError> {
        let (Some(heard), Some(key)) = (&self.heard, self.shown) else { return Ok(()) };
        let (key, claim) = (*key.as_bytes(), &heard.claim);
        let signer = Signer { key, index_id: claim.index, sequence: claim.sequence };
        if self.signer == Some(signer) {
            return Ok(());
        }
        index.put_signer(claim.signer, &signer)
    }

    /// Keeps what both have signed in this session. To be called within a transaction.
    pub(super) fn keep(&self, index: &mut Index, now: i64) -> Result<(), IndexError> {
        self.keep_signer(index)?;
        let (Some(said), Some(heard)) = (&self.said, &self.heard) else { return Ok(()) };
        let last = self.joined.as_ref().or(self.pairs.first());
        let number = last.map_or(0, |pair| pair.number) + 1;
        let pair = Pair { number, said: said.clone(), heard: heard.clone(), at: now };
        index.put_pair(heard.claim.signer, &pair)?;
        index.forget_strangers(heard.claim.signer)
    }
}

/// A message that matters for signatures.
pub(super) fn noted(message: &Message) -> Option<Message> {
    let matters = matches!(
        message,
        Message::Welcome(_) | Message::Statement(_) | Message::Plan(_) | Message::Seal(_)
    );
    matters.then(|| message.clone())
}

/// What stands in a claim for nobody.
const NOBODY: ReplicaId = ReplicaId([0; 16]);

fn since(statement: &Statement) -> u64 {
    match statement.coverage {
        Coverage::Changes { since } => since,
        Coverage::Everything => 0,
    }
}

/// How a session ended for an end of the next one that has this role.
fn heads(role: Role, pair: &Pair) -> Heads {
    let (initiator, responder) = match role {
        Role::Initiator => (&pair.said, &pair.heard),
        Role::Responder => (&pair.heard, &pair.said),
    };
    Heads {
        initiator: initiator.digest(),
        responder: responder.digest(),
        initiator_scope: initiator.claim.scope,
        responder_scope: responder.claim.scope,
    }
}
