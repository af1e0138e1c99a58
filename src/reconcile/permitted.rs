//! Whether a peer may have done what its plan wants: everything that would change the responder's
//! side, or carry its contents away, needs a right for its path.

use psync_protocol::session::{Agreement, AtHand, Stand};
use psync_protocol::{Content, ContentDecision, Decision, PropsDecision, RelPath, Role};
use thiserror::Error;

use crate::manifest::Permit;

/// What a peer has no right to.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("{path}: this peer may not {deed} it here; nothing was changed. {advice}")]
pub struct Forbidden {
    /// Where.
    pub path: RelPath,
    /// What the plan wanted with it.
    pub deed: &'static str,
    advice: &'static str,
}

/// What a plan may want at a path, beside to know that it exists.
#[derive(Debug, Clone, Copy)]
enum Deed {
    Read,
    Write,
    Delete,
}

/// Checks that a plan, which the peer has made as initiator, keeps to what it may do.
pub fn permitted(agreement: &Agreement, permit: &Permit) -> Result<(), Forbidden> {
    for (stand, decision) in agreement.paths.iter().zip(&agreement.decisions) {
        for (path, deed) in deeds(agreement, stand, decision) {
            check(permit, path, deed)?;
        }
    }
    Ok(())
}

fn check(permit: &Permit, path: &RelPath, deed: Deed) -> Result<(), Forbidden> {
    let rights = permit.rights(path.as_bytes());
    let pull = "To take this side's changes and send none, run with --mirror pull";
    let ask = "Whoever runs the other side can grant it";
    let (granted, deed, advice) = match deed {
        Deed::Read => (rights.read, "read", ask),
        Deed::Write => (rights.write, "change", if rights.read { pull } else { ask }),
        Deed::Delete => (rights.delete, "delete", if rights.write { ask } else { pull }),
    };
    if granted { Ok(()) } else { Err(Forbidden { path: path.clone(), deed, advice }) }
}

/// What one decision does on the responder's side, or takes from it.
fn deeds<'a>(
    agreement: &'a Agreement,
    stand: &'a Stand,
    decision: &'a Decision,
) -> Vec<(&'a RelPath, Deed)> {
    let path = stand.path();
    let mut deeds = Vec::new();
    match &decision.content {
        ContentDecision::Ignore | ContentDecision::Later => return deeds,
        ContentDecision::Agree => {}
        ContentDecision::Take(Role::Initiator) if is_deletion(stand) => {
            // Where nothing stands, only that it is gone is written down.
            let stands = stand.at_hand != AtHand::Nothing;
            deeds.extend(stands.then_some((path, Deed::Delete)));
            return deeds;
        }
        ContentDecision::Take(Role::Initiator) => deeds.push((path, Deed::Write)),
        ContentDecision::Take(Role::Responder) => {
            // Of what is no file the row has said everything.
            let told = stand
                .responder
                .as_ref()
                .is_some_and(|row| !matches!(row.content, Content::File { .. }));
            deeds.extend((!told).then_some((path, Deed::Read)));
        }
        ContentDecision::KeepBoth { clash, .. } => {
            deeds.extend([(path, Deed::Read), (path, Deed::Write), (clash, Deed::Write)]);
        }
        ContentDecision::MovedAway(_) => {
            deeds.push((path, Deed::Delete));
            return deeds;
        }
        ContentDecision::Arrive { from, source } => {
            deeds.push((path, Deed::Write));
            let source = agreement.paths.get(*source).filter(|_| *from == Role::Responder);
            deeds.extend(source.map(|stand| (stand.path(), Deed::Read)));
        }
    }
    let ours = stand.responder.as_ref().map(|row| row.props);
    let theirs = stand.initiator.as_ref().map(|row| row.props);
    let agreed = match (decision.props, &decision.content) {
        (PropsDecision::Merge(props), _) => Some(props),
        (PropsDecision::Take(Role::Responder), _)
        | (PropsDecision::Agree, ContentDecision::Take(Role::Responder)) => ours,
        (PropsDecision::Take(Role::Initiator) | PropsDecision::Agree, _) => theirs,
    };
    // Where nothing stands there is nothing to set.
    let stands = [&stand.responder, &stand.initiator].into_iter().flatten();
    if agreed != ours && stands.into_iter().any(|row| row.content.is_live()) {
        deeds.push((path, Deed::Write));
    }
    deeds
}

fn is_deletion(stand: &Stand) -> bool {
    let row = stand.initiator.as_ref();
    row.is_none_or(|row| matches!(row.content, Content::Deleted { .. }))
}
