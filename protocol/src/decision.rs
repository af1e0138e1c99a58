//! What the plan says about one path, and how a column of decisions travels.

use crate::Role;
use crate::codec::{Put, Reader};
use crate::entry::{Check, MODE_MASK, Props, Row, Time};
use crate::error::DecodeError;
use crate::path::RelPath;
use crate::version::{ReplicaId, Version};

/// What becomes of the content at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentDecision {
    /// Both have the same already; only versions are joined.
    Agree,
    /// The content (or absence) of this end is taken by the other.
    Take(Role),
    /// Both stay: this end's keeps the name, the other's becomes the clash file, on both ends.
    KeepBoth {
        /// Whose content keeps the name.
        winner: Role,
        /// Where the loser's content goes.
        clash: RelPath,
    },
    /// Gone from here on both, where this end has nothing already: moved by this end and edited by
    /// the other (see `Arrive`), or moved here by the other, and another place was chosen.
    MovedAway(Role),
    /// What the end that did not move the file has at another path of the plan arrives here.
    Arrive {
        /// Whose content.
        from: Role,
        /// The number of the path, in the plan's order, at which it has it.
        source: usize,
    },
    /// Out of an end's scope (a filter): left alone, and not said again.
    Ignore,
    /// Left alone this time (unreadable, held); both ends say it again next time.
    Later,
}

/// What becomes of the properties at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PropsDecision {
    /// Nothing to do, or nothing there.
    Agree,
    /// This end's properties are taken.
    Take(Role),
    /// Merged field by field.
    Merge(Props),
}

/// One path's decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Of the content.
    pub content: ContentDecision,
    /// Of the properties.
    pub props: PropsDecision,
    /// Whether the planner chose between contents changed on both sides: then the result is a
    /// change of its own, newer than both.
    pub content_resolved: bool,
    /// The same for the properties.
    pub props_resolved: bool,
}

/// Versions and properties that a path has on both ends once a decision is carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    /// The properties.
    pub props: Props,
    /// The version of the content.
    pub content_version: Version,
    /// The version of the properties.
    pub props_version: Version,
}

/// Who plans, and the planner's own counter for this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planner {
    /// The initiator's replica.
    pub replica: ReplicaId,
    /// Its clock: above every counter it has ever put into a version.
    pub counter: u64,
}

impl Decision {
    /// Nothing to do but to join versions.
    pub fn agree() -> Decision {
        Decision {
            content: ContentDecision::Agree,
            props: PropsDecision::Agree,
            content_resolved: false,
            props_resolved: false,
        }
    }

    /// One end's content and properties, whole.
    pub fn take(role: Role) -> Decision {
        Decision {
            content: ContentDecision::Take(role),
            props: PropsDecision::Take(role),
            content_resolved: false,
            props_resolved: false,
        }
    }

    /// The same decision, marked as a choice between two changes of content and properties.
    pub fn resolved(self) -> Decision {
        Decision { content_resolved: true, props_resolved: true, ..self }
    }

    /// What both ends record, given both rows of the path. An end that did not state a row has
    /// one that is included in the other's.
    pub fn agreed(
        &self,
        initiator: &Row<Check>,
        responder: &Row<Check>,
        planner: Planner,
    ) -> Agreed {
        let of = |role| match role {
            Role::Initiator => initiator,
            Role::Responder => responder,
        };
        let props = match (self.props, &self.content) {
            (PropsDecision::Take(role), _) => of(role).props,
            (PropsDecision::Merge(props), _) => props,
            (PropsDecision::Agree, ContentDecision::Take(role)) => of(*role).props,
            (PropsDecision::Agree, _) => initiator.props,
        };
        let mut content_version = initiator.content_version.join(&responder.content_version);
        let mut props_version = initiator.props_version.join(&responder.props_version);
        if self.content_resolved {
            content_version = match self.winner() {
                Some((code, role)) => {
                    let (won, lost) = (of(role), of(role.other()));
                    let choice = choice(&won.content_version, &lost.content_version, &[code]);
                    content_version.bump(choice, 1)
                }
                None => content_version.bump(planner.replica, planner.counter),
            };
        }
        if self.props_resolved {
            let mut chosen = Vec::new();
            put_props(&props, &mut chosen);
            let mut both = [&initiator.props_version, &responder.props_version];
            both.sort_by(|a, b| a.pairs().cmp(b.pairs()));
            props_version = props_version.bump(choice(both[0], both[1], &chosen), 1);
        }
        Agreed { props, content_version, props_version }
    }

    /// Whose content at this very path the result is, with the code of the decision; none where it
    /// is another path's.
    fn winner(&self) -> Option<(u8, Role)> {
        match self.content {
            ContentDecision::Take(role) => Some((1, role)),
            ContentDecision::KeepBoth { winner, .. } => Some((2, winner)),
            ContentDecision::MovedAway(mover) => Some((3, mover)),
            ContentDecision::Agree
            | ContentDecision::Arrive { .. }
            | ContentDecision::Ignore
            | ContentDecision::Later => None,
        }
    }

    /// Whether files on either end are left exactly as they are and versions too.
    pub fn is_postponed(&self) -> bool {
        matches!(self.content, ContentDecision::Ignore | ContentDecision::Later)
    }
}

/// Who has made a choice between two versions, as far as versions tell: not the planner, but the
/// choice itself. Wherever the same two meet and the same is chosen, the result has the same
/// version, so that two pairs of replicas that settle one conflict each by themselves agree.
fn choice(won: &Version, lost: &Version, chosen: &[u8]) -> ReplicaId {
    let mut input = Vec::new();
    for version in [won, lost] {
        input.put_varint(version.pairs().len() as u64);
        for (replica, counter) in version.pairs() {
            input.extend_from_slice(&replica.0);
            input.put_varint(*counter);
        }
    }
    input.extend_from_slice(chosen);
    let hash = blake3::derive_key("psync 2026-11 choice", &input);
    let (first, _) = hash.split_first_chunk::<16>().expect("a hash has 32 bytes");
    ReplicaId(*first)
}

fn put_props(props: &Props, out: &mut Vec<u8>) {
    out.put_varint(u64::from(props.mode));
    out.put_signed(props.mtime.secs);
    out.put_varint(u64::from(props.mtime.nanos));
}

const CONTENT: u8 = 0b0000_1111;
const PROPS_SHIFT: u8 = 4;
const PROPS: u8 = 0b0011_0000;
const CONTENT_RESOLVED: u8 = 1 << 6;
const PROPS_RESOLVED: u8 = 1 << 7;

/// A column is closed when its decisions may take this many bytes, so that it fits a frame.
const PART_BYTES: usize = 768 << 10;

/// Appends a column: runs of equal codes, then what some codes need besides, in order.
pub fn encode(decisions: &[Decision], out: &mut Vec<u8>) {
    out.put_varint(decisions.len() as u64);
    let codes: Vec<u8> = decisions.iter().map(code).collect();
    for run in codes.chunk_by(|a, b| a == b) {
        out.push(run[0]);
        out.put_varint(run.len() as u64);
    }
    for decision in decisions {
        match &decision.content {
            ContentDecision::KeepBoth { clash, .. } => out.put_bytes(clash.as_bytes()),
            ContentDecision::Arrive { source, .. } => out.put_varint(*source as u64),
            _ => {}
        }
        if let PropsDecision::Merge(props) = decision.props {
            put_props(&props, out);
        }
    }
}

fn code(decision: &Decision) -> u8 {
    use Role::{Initiator, Responder};
    let content = match decision.content {
        ContentDecision::Agree => 0,
        ContentDecision::Take(Initiator) => 1,
        ContentDecision::Take(Responder) => 2,
        ContentDecision::KeepBoth { winner: Initiator, .. } => 3,
        ContentDecision::KeepBoth { winner: Responder, .. } => 4,
        ContentDecision::MovedAway(Initiator) => 5,
        ContentDecision::MovedAway(Responder) => 6,
        ContentDecision::Arrive { from: Initiator, .. } => 7,
        ContentDecision::Arrive { from: Responder, .. } => 8,
        ContentDecision::Ignore => 9,
        ContentDecision::Later => 10,
    };
    let props = match decision.props {
        PropsDecision::Agree => 0,
        PropsDecision::Take(Initiator) => 1,
        PropsDecision::Take(Responder) => 2,
        PropsDecision::Merge(_) => 3,
    };
    let mut code = content | props << PROPS_SHIFT;
    if decision.content_resolved {
        code |= CONTENT_RESOLVED;
    }
    if decision.props_resolved {
        code |= PROPS_RESOLVED;
    }
    code
}

/// Cuts decisions into what fits one column, and one message, each; there is at least one.
pub(crate) fn parts(decisions: &[Decision]) -> Vec<&[Decision]> {
    let mut parts = Vec::new();
    let mut rest = decisions;
    loop {
        let (part, next) = rest.split_at(part_len(rest));
        parts.push(part);
        if next.is_empty() {
            return parts;
        }
        rest = next;
    }
}

fn part_len(decisions: &[Decision]) -> usize {
    let mut bytes = 0;
    for (at, decision) in decisions.iter().enumerate() {
        bytes += match &decision.content {
            ContentDecision::KeepBoth { clash, .. } => 2 + clash.as_bytes().len(),
            ContentDecision::Arrive { .. } => 4,
            _ => 0,
        };
        if let PropsDecision::Merge(_) = decision.props {
            bytes += 2 + 10 + 5;
        }
        if at == 0 || code(decision) != code(&decisions[at - 1]) {
            bytes += 1 + 4;
        }
        if bytes > PART_BYTES && at > 0 {
            return at;
        }
    }
    decisions.len()
}

/// Reads a column for exactly `paths` paths.
pub fn decode(reader: &mut Reader<'_>, paths: usize) -> Result<Vec<Decision>, DecodeError> {
    let decisions = decode_part(reader, paths, paths)?;
    if decisions.len() != paths {
        return Err(DecodeError::Invalid("the count of decisions"));
    }
    Ok(decisions)
}

/// Reads a column for some of the `missing` paths of a plan for `paths` paths.
pub(crate) fn decode_part(
    reader: &mut Reader<'_>,
    missing: usize,
    paths: usize,
) -> Result<Vec<Decision>, DecodeError> {
    let count = reader.bounded("a count of decisions", missing as u64)? as usize;
    if count == 0 && missing > 0 {
        return Err(DecodeError::Invalid("the count of decisions"));
    }
    let mut codes = Vec::with_capacity(count);
    while codes.len() < count {
        let code = reader.u8("a decision")?;
        let run = reader.bounded("a run of decisions", (count - codes.len()) as u64)? as usize;
        if run == 0 {
            return Err(DecodeError::Invalid("a run of decisions"));
        }
        codes.resize(codes.len() + run, code);
    }
    codes.into_iter().map(|code| decode_one(code, paths, reader)).collect()
}

fn decode_one(code: u8, paths: usize, reader: &mut Reader<'_>) -> Result<Decision, DecodeError> {
    use Role::{Initiator, Responder};
    let mut clash = || Ok::<_, DecodeError>(RelPath::new(reader.bytes("a clash name", 4096)?)?);
    let content = match code & CONTENT {
        0 => ContentDecision::Agree,
        1 => ContentDecision::Take(Initiator),
        2 => ContentDecision::Take(Responder),
        3 => ContentDecision::KeepBoth { winner: Initiator, clash: clash()? },
        4 => ContentDecision::KeepBoth { winner: Responder, clash: clash()? },
        5 => ContentDecision::MovedAway(Initiator),
        6 => ContentDecision::MovedAway(Responder),
        n @ (7 | 8) => {
            let source = reader.varint("an arrival's source")?;
            if source >= paths as u64 {
                return Err(DecodeError::Invalid("an arrival's source"));
            }
            let source = source as usize;
            ContentDecision::Arrive { from: if n == 7 { Initiator } else { Responder }, source }
        }
        9 => ContentDecision::Ignore,
        10 => ContentDecision::Later,
        _ => return Err(DecodeError::Invalid("a decision")),
    };
    let props = match (code & PROPS) >> PROPS_SHIFT {
        0 => PropsDecision::Agree,
        1 => PropsDecision::Take(Initiator),
        2 => PropsDecision::Take(Responder),
        _ => PropsDecision::Merge(Props {
            mode: reader.bounded("a mode", u64::from(MODE_MASK))? as u16,
            mtime: Time {
                secs: reader.signed("a time")?,
                nanos: reader.bounded("nanoseconds", 999_999_999)? as u32,
            },
        }),
    };
    Ok(Decision {
        content,
        props,
        content_resolved: code & CONTENT_RESOLVED != 0,
        props_resolved: code & PROPS_RESOLVED != 0,
    })
}
