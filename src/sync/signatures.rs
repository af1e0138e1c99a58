//! Checking what was signed: the statements of the last sessions with each peer, and how each names the
//! one before it.

use psync_protocol::ReplicaId;

use super::{Sight, SyncError};
use crate::identity::PublicKey;
use crate::index::{Link, Pair};

/// What the chain of sessions with one peer came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Whose.
    pub peer: ReplicaId,
    /// The key that it signs with.
    pub key: PublicKey,
    /// How many sessions are kept.
    pub sessions: u64,
    /// How many older ones are not kept any more.
    pub dropped: u64,
    /// How often the two did not agree on which their last session was, and began anew.
    pub restarts: u64,
    /// What does not hold.
    pub faults: Vec<String>,
}

/// Checks the chains with all peers of a root.
pub fn signatures(sight: &Sight) -> Result<Vec<Chain>, SyncError> {
    let index = &sight.index;
    let own = index.signing_key().map(PublicKey::new);
    let mut chains = Vec::new();
    for (peer, signer) in index.signers()? {
        let mut pairs = index.chain(peer, usize::MAX >> 1)?;
        pairs.reverse();
        let key = PublicKey::new(signer.key);
        let mut chain = Chain {
            peer,
            key,
            sessions: pairs.len() as u64,
            dropped: pairs.first().map_or(0, |pair| pair.number.saturating_sub(1)),
            restarts: 0,
            faults: Vec::new(),
        };
        let mut before = None;
        for pair in &pairs {
            chain.restarts += u64::from(before.is_some() && is_anew(pair));
            for (who, ends, link, key, last) in [
                (
                    "this root",
                    (index.replica(), peer),
                    &pair.said,
                    own,
                    before.map(|pair: &Pair| &pair.said),
                ),
                (
                    "the other root",
                    (peer, index.replica()),
                    &pair.heard,
                    Some(key),
                    before.map(|pair: &Pair| &pair.heard),
                ),
            ] {
                let fault = fault(link, ends, key, last);
                let tell = |fault| format!("session {}: what {who} stated {fault}", pair.number);
                chain.faults.extend(fault.map(tell));
            }
            before = Some(pair);
        }
        let seen = pairs.last().map(|pair| &pair.heard.claim);
        if seen
            .is_some_and(|claim| claim.index == signer.index_id && claim.sequence > signer.sequence)
        {
            chain.faults.push("a higher number was signed than is remembered".into());
        }
        chains.push(chain);
    }
    Ok(chains)
}

/// Whether the two did not agree on a session before this one.
fn is_anew(pair: &Pair) -> bool {
    [&pair.said, &pair.heard].iter().any(|link| link.claim.previous == Default::default())
}

/// What is wrong with a link that follows another one.
fn fault(
    link: &Link,
    (signer, reader): (ReplicaId, ReplicaId),
    key: Option<PublicKey>,
    before: Option<&Link>,
) -> Option<&'static str> {
    let Link { claim, signature } = link;
    if !key.is_some_and(|key| key.has_signed(&claim.digest(), signature)) {
        return Some("is not signed with its key");
    }
    if claim.signer != signer || ![reader, ReplicaId([0; 16])].contains(&claim.reader) {
        return Some("is of somebody else, or for somebody else");
    }
    let before = before?;
    if claim.previous != Default::default() && claim.previous != before.digest() {
        return Some("does not follow what it stated in the session before");
    }
    if claim.index == before.claim.index && claim.sequence < before.claim.sequence {
        return Some("is older than what it stated in the session before");
    }
    None
}
