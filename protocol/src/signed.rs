//! What a replica signs. Everything that an end states, from `Statement` to `Seal`, and every plan is
//! summed up while it goes through a frame encoder or decoder (`Transcript`); a [`Claim`] says of such a
//! sum whose it is, for whom, in which session and after what. The Ed25519 signature over the digest of
//! a claim is made and verified by whoever has keys.

use crate::codec::Reader;
use crate::error::DecodeError;
use crate::version::{IndexId, ReplicaId};
use crate::{Message, Role};

/// A digest of what was signed; signatures are over these bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Digest(pub [u8; 32]);

/// Digests of all messages of a statement or a plan, as they travelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sum {
    /// BLAKE3 over type, length and payload of each of them but `Ping`.
    pub messages: [u8; 32],
    /// How many rows their `Rows` hold, by their own account.
    pub rows: u64,
}

/// Sums up one direction of a line.
#[derive(Debug, Default)]
pub(crate) struct Transcript {
    greeting: Digest,
    open: Option<(Box<blake3::Hasher>, u64)>,
    last: Option<Sum>,
}

impl Transcript {
    /// Takes note of a frame, in the order of the line.
    pub(crate) fn note(&mut self, kind: u8, payload: &[u8]) {
        match kind {
            HELLO | WELCOME => {
                let mut hasher = blake3::Hasher::new_derive_key("psync 2026-11 greeting");
                self.greeting = Digest(*hasher.update(payload).finalize().as_bytes());
            }
            SEAL => {
                self.last = self.sum();
                self.open = None;
                return;
            }
            PING => return,
            STATEMENT => self.open = Some(opened()),
            PLAN if self.open.is_none() => self.open = Some(opened()),
            _ => {}
        }
        let Some((hasher, rows)) = &mut self.open else { return };
        hasher.update(&[kind]).update(&(payload.len() as u64).to_le_bytes()).update(payload);
        if kind == ROWS {
            // What is no count is found out by whoever reads the rows.
            let count = Reader::new(payload).varint("a count of rows").unwrap_or(0);
            *rows = rows.saturating_add(count);
        }
    }

    /// Digest of the greeting.
    pub(crate) fn greeting(&self) -> Digest {
        self.greeting
    }

    /// Of what has been stated since the last seal; none where nothing is left to be sealed.
    pub(crate) fn sum(&self) -> Option<Sum> {
        let (hasher, rows) = self.open.as_ref()?;
        Some(Sum { messages: *hasher.finalize().as_bytes(), rows: *rows })
    }

    /// Of what the last seal was about.
    pub(crate) fn sealed(&self) -> Option<Sum> {
        self.last
    }
}

fn opened() -> (Box<blake3::Hasher>, u64) {
    (Box::new(blake3::Hasher::new_derive_key("psync 2026-11 sealed messages")), 0)
}

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const STATEMENT: u8 = 3;
const ROWS: u8 = 4;
const PLAN: u8 = 6;
const PING: u8 = 18;
const SEAL: u8 = 33;

/// Tells whoever sends messages where a `Seal` has to stand.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sealing(Option<Opened>);

/// What has begun and is not sealed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// A statement.
    Statement,
    /// A plan.
    Plan,
}

impl Sealing {
    /// What has to be sealed before this message is sent, if anything.
    pub fn is_due(&self, next: &Message) -> Option<Opened> {
        let ends = match (self.0?, next) {
            (_, Message::Ping(_)) => false,
            (Opened::Statement, Message::End | Message::Plan(_)) => true,
            (Opened::Statement, _) => false,
            (Opened::Plan, Message::Plan(_) | Message::Rows(_)) => false,
            (Opened::Plan, _) => true,
        };
        self.0.filter(|_| ends)
    }

    /// What has begun and is not sealed.
    pub fn opened(&self) -> Option<Opened> {
        self.0
    }

    /// Takes note of a message.
    pub fn sent(&mut self, message: &Message) {
        match message {
            Message::Statement(_) => self.0 = Some(Opened::Statement),
            Message::Plan(_) => self.0 = Some(Opened::Plan),
            Message::Seal(_) => self.0 = None,
            _ => {}
        }
    }
}

/// Binds what is signed to one session: the digests of both greetings, which hold a fresh nonce each,
/// and what both ends of a TLS connection have derived from it (RFC 8446, 7.5), if the line is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Session {
    /// Digest of the initiator's greeting.
    pub hello: Digest,
    /// Digest of the responder's greeting; zeros in what the initiator states before it knows it.
    pub welcome: Digest,
    /// What the connection exports; zeros where it is none that does.
    pub exporter: [u8; 32],
}

/// What a signature of a statement is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The protocol version: the newest that the signer offers in its greeting, or the one that was
    /// agreed on.
    pub version: u64,
    /// Feature bits of the signer's greeting.
    pub features: u64,
    /// Which end the signer is.
    pub role: Role,
    /// Who signs.
    pub signer: ReplicaId,
    /// For whom; zeros where the initiator does not expect anybody.
    pub reader: ReplicaId,
    /// In which session.
    pub session: Session,
    /// The life of the signer's index.
    pub index: IndexId,
    /// Rows above this number are stated; 0: all.
    pub since: u64,
    /// The highest sequence number of the signer's index before its scan.
    pub sequence: u64,
    /// What the signer last signed for this reader in a session that both took to its end; zeros
    /// where they do not agree on one.
    pub previous: Digest,
    /// Digest of the filters in force.
    pub scope: [u8; 8],
    /// What was stated.
    pub sum: Sum,
}

/// Bytes of a claim.
pub const CLAIM_BYTES: usize = 249;

impl Claim {
    /// The bytes that are digested.
    pub fn to_bytes(&self) -> Vec<u8> {
        let role = match self.role {
            Role::Initiator => 0,
            Role::Responder => 1,
        };
        let mut out = Vec::with_capacity(CLAIM_BYTES);
        out.extend(self.version.to_le_bytes());
        out.extend(self.features.to_le_bytes());
        out.push(role);
        out.extend(self.signer.0);
        out.extend(self.reader.0);
        out.extend(self.session.hello.0);
        out.extend(self.session.welcome.0);
        out.extend(self.session.exporter);
        out.extend(self.index.0);
        out.extend(self.since.to_le_bytes());
        out.extend(self.sequence.to_le_bytes());
        out.extend(self.previous.0);
        out.extend(self.scope);
        out.extend(self.sum.rows.to_le_bytes());
        out.extend(self.sum.messages);
        out
    }

    /// From the bytes that are digested.
    pub fn from_bytes(bytes: &[u8]) -> Result<Claim, DecodeError> {
        let mut reader = Reader::new(bytes);
        let r = &mut reader;
        let number =
            |r: &mut Reader<'_>| Ok::<_, DecodeError>(u64::from_le_bytes(r.array("a claim")?));
        let claim = Claim {
            version: number(r)?,
            features: number(r)?,
            role: match r.u8("a role")? {
                0 => Role::Initiator,
                1 => Role::Responder,
                _ => return Err(DecodeError::Invalid("a role")),
            },
            signer: ReplicaId(r.array("a replica's id")?),
            reader: ReplicaId(r.array("a replica's id")?),
            session: Session {
                hello: Digest(r.array("a digest")?),
                welcome: Digest(r.array("a digest")?),
                exporter: r.array("a digest")?,
            },
            index: IndexId(r.array("an index id")?),
            since: number(r)?,
            sequence: number(r)?,
            previous: Digest(r.array("a digest")?),
            scope: r.array("a scope digest")?,
            sum: {
                let rows = number(r)?;
                Sum { rows, messages: r.array("a digest")? }
            },
        };
        reader.end("a claim")?;
        Ok(claim)
    }

    /// What the signature is over.
    pub fn digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new_derive_key("psync 2026-11 signed statement");
        Digest(*hasher.update(&self.to_bytes()).finalize().as_bytes())
    }
}

/// What the signature of a plan is over: the last statements of both ends, and the messages of the plan
/// with its extra rows.
pub fn plan_digest(initiator: Digest, responder: Digest, sum: Sum) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key("psync 2026-11 signed plan");
    hasher.update(&initiator.0).update(&responder.0);
    hasher.update(&sum.rows.to_le_bytes()).update(&sum.messages);
    Digest(*hasher.finalize().as_bytes())
}

/// How the last session of two replicas that both took to its end ended, as the initiator of the
/// next one has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Heads {
    /// Digest of what the initiator signed last for the responder.
    pub initiator: Digest,
    /// Digest of what the responder signed last for the initiator.
    pub responder: Digest,
    /// Digest of the initiator's filters then.
    pub initiator_scope: [u8; 8],
    /// Digest of the responder's filters then.
    pub responder_scope: [u8; 8],
}

/// Whom the initiator expects, in a form that only says something to who knows it: digests over
/// the initiator's nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Expected {
    /// Of the responder's replica id and index id.
    pub replica: [u8; 4],
    /// Of how their last session ended.
    pub heads: [u8; 4],
}

impl Expected {
    /// What is said of this replica, under this nonce.
    pub fn new(nonce: &[u8; 16], who: (ReplicaId, IndexId), heads: &Heads) -> Expected {
        let short = |context, parts: &[&[u8]]| {
            let mut hasher = blake3::Hasher::new_derive_key(context);
            hasher.update(nonce);
            parts.iter().for_each(|part| {
                hasher.update(part);
            });
            let mut first = [0; 4];
            hasher.finalize_xof().fill(&mut first);
            first
        };
        Expected {
            replica: short("psync 2026-11 expected replica", &[&who.0.0, &who.1.0]),
            heads: short(
                "psync 2026-11 expected heads",
                &[
                    &heads.initiator.0,
                    &heads.responder.0,
                    &heads.initiator_scope,
                    &heads.responder_scope,
                ],
            ),
        }
    }
}
