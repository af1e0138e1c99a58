//! A peer's hand: it seals what is said in somebody's name, as that one would have done it.

use psync::identity::ReplicaKey;
use psync::index::Pair;
use psync_protocol::message::{Coverage, Seal, Statement};
use psync_protocol::signed::{Claim, Digest, Opened, Sealing, Session, Sum, plan_digest};
use psync_protocol::{IndexId, Message, ReplicaId, Role, VERSION_MAX};

use super::mask::Mask;

/// What signs for one end in one session.
pub(crate) struct Hand {
    pub(crate) key: ReplicaKey,
    /// Whether the public key is shown; else it has to be known.
    pub(crate) shows: bool,
    /// Bends what is signed.
    pub(crate) bends: fn(&mut Claim),
    role: Role,
    me: (ReplicaId, IndexId),
    victim: (ReplicaId, IndexId),
    /// Feature bits of this end's greeting, and of the victim's.
    features: (u64, u64),
    version: u64,
    greeted: bool,
    /// Whether the statement before the other's greeting is meant for the victim.
    addressed: bool,
    exporter: [u8; 32],
    joined: Option<Pair>,
    sealing: Sealing,
    stating: Option<Statement>,
    hearing: Option<Statement>,
    said: Option<Claim>,
    heard: Option<Claim>,
}

impl Hand {
    /// The hand of whoever greets so; none where that is no greeting.
    ///
    /// An initiator goes on from its last session with the victim. A responder says that it knows of
    /// none, which every responder may.
    pub(crate) fn of(mask: &Mask, greeting: &Message) -> Option<Hand> {
        let own = mask.hello();
        let (role, me, features, addressed, joined) = match greeting {
            Message::Hello(hello) => {
                let addressed = hello.expected.is_some();
                let joined = mask.pair.clone().filter(|_| hello.expected == own.expected);
                let me = (hello.replica, hello.index);
                (Role::Initiator, me, hello.features, addressed, joined)
            }
            Message::Welcome(welcome) => {
                let me = welcome.who.unwrap_or((mask.replica, mask.index));
                (Role::Responder, me, welcome.features, true, None)
            }
            _ => return None,
        };
        Some(Hand {
            key: mask.secret.clone(),
            shows: joined.is_none(),
            bends: |_| {},
            role,
            me,
            victim: (mask.victim.replica, mask.victim.index_id),
            features: (features, 0),
            version: VERSION_MAX,
            greeted: role == Role::Responder,
            addressed,
            exporter: mask.exporter,
            joined,
            sealing: Sealing::default(),
            stating: None,
            hearing: None,
            said: None,
            heard: None,
        })
    }

    /// What has to be sealed before this is said.
    pub(crate) fn is_due(&self, next: &Message) -> bool {
        self.sealing.is_due(next).is_some()
    }

    /// Whether a plan has been told that is not sealed yet: nothing follows that would end it.
    pub(crate) fn has_planned(&self) -> bool {
        self.sealing.opened() == Some(Opened::Plan)
    }

    /// Takes note of what is said.
    pub(crate) fn say(&mut self, message: &Message) {
        self.sealing.sent(message);
        if let Message::Statement(statement) = message {
            self.stating = Some(statement.clone());
        }
    }

    /// Takes note of what the victim says; `sum` is of what its last seal is about.
    pub(crate) fn hear(&mut self, message: &Message, session: Session, sum: Option<Sum>) {
        match message {
            Message::Welcome(welcome) => {
                self.greeted = true;
                self.version = welcome.version;
                self.features.1 = welcome.features;
                self.victim = welcome.who.unwrap_or(self.victim);
                self.joined = self.joined.take().filter(|_| welcome.joined);
                self.shows |= self.joined.is_none();
            }
            Message::Statement(statement) => self.hearing = Some(statement.clone()),
            Message::Seal(_) => self.heard = self.hear_seal(session, sum).or(self.heard.take()),
            _ => {}
        }
    }

    fn hear_seal(&self, session: Session, sum: Option<Sum>) -> Option<Claim> {
        let statement = self.hearing.as_ref()?;
        let joined = self.joined.as_ref().map(|pair| &pair.heard);
        Some(Claim {
            version: self.version,
            features: self.features.1,
            role: self.role.other(),
            signer: self.victim.0,
            reader: self.me.0,
            session,
            index: self.victim.1,
            since: since(statement),
            sequence: statement.sequence,
            previous: joined.map(|link| link.digest()).unwrap_or_default(),
            scope: statement.scope.or(joined.map(|link| link.claim.scope))?,
            sum: sum?,
        })
    }

    /// The seal of what has been said; none where nothing was that can be sealed.
    pub(crate) fn seal(&mut self, session: Session, sum: Option<Sum>) -> Option<Message> {
        let (digest, key) = match self.sealing.opened()? {
            Opened::Plan => {
                let (said, heard) = (self.said.as_ref()?, self.heard.as_ref()?);
                (plan_digest(said.digest(), heard.digest(), sum?), None)
            }
            Opened::Statement => {
                let mut claim = self.claim(session, sum?)?;
                (self.bends)(&mut claim);
                let digest = claim.digest();
                self.said = Some(claim);
                (digest, self.shows.then(|| *self.key.public().as_bytes()))
            }
        };
        Some(Message::Seal(Seal { signature: self.key.sign(&digest), key }))
    }

    fn claim(&self, session: Session, sum: Sum) -> Option<Claim> {
        let statement = self.stating.as_ref()?;
        let joined = self.joined.as_ref().map(|pair| &pair.said).filter(|_| !self.shows);
        let welcome = if self.greeted { session.welcome } else { Digest::default() };
        let to_victim = self.greeted || self.addressed;
        Some(Claim {
            version: self.version,
            features: self.features.0,
            role: self.role,
            signer: self.me.0,
            reader: if to_victim { self.victim.0 } else { ReplicaId([0; 16]) },
            session: Session { welcome, ..session },
            index: self.me.1,
            since: since(statement),
            sequence: statement.sequence,
            previous: joined.map(|link| link.digest()).unwrap_or_default(),
            scope: statement.scope.or(joined.map(|link| link.claim.scope))?,
            sum,
        })
    }

    /// Which of these digests of greetings is whose.
    pub(crate) fn session(&self, sent: Digest, received: Digest) -> Session {
        let (hello, welcome) = match self.role {
            Role::Initiator => (sent, received),
            Role::Responder => (received, sent),
        };
        Session { hello, welcome, exporter: self.exporter }
    }
}

fn since(statement: &Statement) -> u64 {
    match statement.coverage {
        Coverage::Changes { since } => since,
        Coverage::Everything => 0,
    }
}
