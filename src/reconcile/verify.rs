//! What the responder does not take from a plan: it trusts the planner to choose, not to break the
//! rules that protect this side.

use std::collections::HashSet;

use psync_protocol::message::Flow;
use psync_protocol::session::{Access, Agreement, Stand};
use psync_protocol::{Content, ContentDecision, Decision, PropsDecision, ProtocolError, Role};

/// Checks a plan against what the responder said and asked for.
pub fn verify(agreement: &Agreement, flow: Flow, first_contact: bool) -> Result<(), ProtocolError> {
    let mut names = HashSet::new();
    for stand in agreement.paths.iter() {
        names.insert(stand.path());
    }
    for (stand, decision) in agreement.paths.iter().zip(&agreement.decisions) {
        if stand.access != Access::Open && !decision.is_postponed() {
            return refuse("it changes a path that this side cannot or will not sync");
        }
        if let ContentDecision::KeepBoth { clash, .. } = &decision.content
            && (clash.parent() != stand.path().parent() || !names.insert(clash))
        {
            return refuse("a clash file does not stand beside its path under a name of its own");
        }
        if !is_of_somebody(stand, decision) {
            return refuse("a decision takes what was never stated");
        }
        if let ContentDecision::Arrive { from, source } = decision.content {
            arrives_from(agreement.paths.get(source), from)?;
        }
        if flow == Flow::ToInitiator && changes_responder(decision) {
            return refuse("it changes this side, which is mirrored");
        }
        if flow == Flow::TwoWay && decision.content == ContentDecision::Take(Role::Initiator) {
            protects_files(stand, first_contact)?;
        }
    }
    Ok(())
}

fn refuse(why: &'static str) -> Result<(), ProtocolError> {
    Err(ProtocolError::Contradiction(why))
}

/// Whether what a decision takes was stated by whom it is taken from: a row that nobody has stated
/// would stand for an entry without mode and time, which no side has.
fn is_of_somebody(stand: &Stand, decision: &Decision) -> bool {
    let content = match decision.content {
        ContentDecision::Take(role) => Some(role),
        _ => None,
    };
    let props = match decision.props {
        PropsDecision::Take(role) => Some(role),
        PropsDecision::Merge(_) => None,
        PropsDecision::Agree => content.or(Some(Role::Initiator)),
    };
    // Where nothing stands afterwards it has no properties.
    let stays =
        [&stand.initiator, &stand.responder].into_iter().flatten().any(|row| row.content.is_live());
    let is_stated = |role: Role| stand.of(role).is_some();
    decision.is_postponed()
        || content.is_none_or(is_stated) && (!stays || props.is_none_or(is_stated))
}

/// What arrives has to be a file that its end has stated, at a path which is synced: the index knows
/// others, too.
fn arrives_from(source: Option<&Stand>, from: Role) -> Result<(), ProtocolError> {
    let open = source.filter(|stand| stand.access == Access::Open);
    let row = open.and_then(|stand| stand.of(from));
    match row.is_some_and(|row| matches!(row.content, Content::File { .. })) {
        true => Ok(()),
        false => refuse("what arrives was never stated where it comes from"),
    }
}

/// Whether something on the responder's side may have to change.
pub fn changes_responder(decision: &Decision) -> bool {
    match decision.content {
        ContentDecision::Agree | ContentDecision::Take(Role::Responder) => false,
        ContentDecision::Ignore | ContentDecision::Later => false,
        ContentDecision::Take(Role::Initiator)
        | ContentDecision::KeepBoth { .. }
        | ContentDecision::MovedAway(_)
        | ContentDecision::Arrive { .. } => true,
    }
}

/// Whether the content that stands on this side may have to go to the other one.
pub fn may_send(decision: &Decision, from: Role) -> bool {
    match decision.content {
        ContentDecision::Take(side) => side == from,
        ContentDecision::Agree | ContentDecision::Ignore | ContentDecision::Later => false,
        ContentDecision::KeepBoth { .. }
        | ContentDecision::MovedAway(_)
        | ContentDecision::Arrive { .. } => true,
    }
}

/// Nothing is deleted at a first contact.
fn protects_files(stand: &Stand, first_contact: bool) -> Result<(), ProtocolError> {
    let (Some(theirs), Some(ours)) = (&stand.initiator, &stand.responder) else { return Ok(()) };
    let deletes = matches!(theirs.content, Content::Deleted { .. }) && ours.content.is_live();
    if first_contact && deletes {
        return refuse("it deletes at a first contact");
    }
    Ok(())
}
