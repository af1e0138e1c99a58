//! Whole sessions of two ends, over lines of all kinds.

use psync_protocol::message::StreamCodec;
use psync_protocol::{Decision, Message, ProtocolError, Role};

use crate::actors::{Alice, Bob, alices_rows, bobs_rows};
use crate::pair::{Damage, End, run};
use crate::referee;

/// What remains of a session.
struct Session {
    initiator: Half,
    responder: Half,
}

struct Half {
    timeline: Vec<(Role, Message)>,
    outcome: Result<(), ProtocolError>,
    sent: usize,
}

impl Half {
    fn of(end: &End<'_>) -> Half {
        Half {
            timeline: end.timeline.clone(),
            outcome: end.outcome.clone().expect("each end has ended"),
            sent: end.sent(),
        }
    }

    fn of_role(&self, role: Role) -> Vec<&Message> {
        let said = self.timeline.iter().filter(|(who, _)| *who == role);
        said.map(|(_, message)| message).collect()
    }
}

fn session(
    alice: &mut Alice,
    bob: &mut Bob,
    codec: StreamCodec,
    chunk: usize,
    damage: Option<(Role, Damage)>,
) -> Session {
    let on = |role| damage.filter(|(on, _)| *on == role).map(|(_, damage)| damage);
    let mut initiator = End::new(Role::Initiator, alice, codec, on(Role::Initiator));
    let mut responder = End::new(Role::Responder, bob, codec, on(Role::Responder));
    run(&mut initiator, &mut responder, chunk);
    Session { initiator: Half::of(&initiator), responder: Half::of(&responder) }
}

fn damaged(codec: StreamCodec, chunk: usize, damage: Option<(Role, Damage)>) -> Session {
    session(&mut Alice::new(codec), &mut Bob::new(codec), codec, chunk, damage)
}

const CODECS: [StreamCodec; 2] = [StreamCodec::Raw, StreamCodec::Zstd];

#[test]
fn a_session_with_everything_in_it_ends_well_at_both_ends() {
    for codec in CODECS {
        for chunk in [1, 2, 7, 100, 1 << 20] {
            let (mut alice, mut bob) = (Alice::new(codec), Bob::new(codec));
            let session = session(&mut alice, &mut bob, codec, chunk, None);
            assert_eq!(session.initiator.outcome, Ok(()), "{codec:?} {chunk}");
            assert_eq!(session.responder.outcome, Ok(()), "{codec:?} {chunk}");
            assert_eq!(referee::breach(&session.initiator.timeline), None);
            assert_eq!(referee::breach(&session.responder.timeline), None);
            for role in [Role::Initiator, Role::Responder] {
                assert_eq!(session.initiator.of_role(role), session.responder.of_role(role));
            }
            let names: Vec<&str> =
                session.initiator.timeline.iter().map(|(_, message)| message.name()).collect();
            for (_, name) in psync_protocol::message::TYPES {
                assert!(*name == "Error" || names.contains(name), "{name} does not occur");
            }
        }
    }
}

#[test]
fn both_ends_know_the_same_plan() {
    let (mut alice, mut bob) = (Alice::new(StreamCodec::Raw), Bob::new(StreamCodec::Raw));
    session(&mut alice, &mut bob, StreamCodec::Raw, 100, None);
    let (ours, theirs) = (alice.planned.unwrap(), bob.planned.unwrap());
    assert_eq!(ours.decisions, theirs.decisions);
    assert_eq!(ours.planner, theirs.planner);
    assert_eq!(ours.paths.len(), alices_rows().len() + bobs_rows().len());
    for (ours, theirs) in ours.paths.iter().zip(theirs.paths.iter()) {
        assert_eq!(ours.initiator, theirs.initiator);
        assert_eq!(ours.responder, theirs.responder);
        if let (Some(ours), Some(theirs)) = (&ours.initiator, &ours.responder) {
            let planner = alice_plans();
            let decision = Decision::take(Role::Responder);
            assert_eq!(decision.agreed(ours, theirs, planner).props, theirs.props);
        }
    }
}

fn alice_plans() -> psync_protocol::decision::Planner {
    psync_protocol::decision::Planner { replica: crate::samples::ALICE, counter: 311 }
}

#[test]
fn where_nothing_is_to_be_done_the_initiator_hangs_up_after_the_answer() {
    for codec in CODECS {
        let (mut alice, mut bob) = (Alice::new(codec), Bob::new(codec));
        alice.leaves = true;
        let session = session(&mut alice, &mut bob, codec, 10, None);
        assert_eq!(session.initiator.outcome, Ok(()));
        assert_eq!(session.responder.outcome, Ok(()));
        assert!(bob.planned.is_none());
    }
}

#[test]
fn a_line_that_breaks_at_any_byte_leaves_a_clean_error_and_nothing_that_was_not_said() {
    for codec in CODECS {
        let whole = damaged(codec, 1 << 20, None);
        for (role, length) in lengths(&whole) {
            let mut clean = 0;
            for at in 0..length {
                let cut = damaged(codec, 1 << 20, Some((role, Damage::Cut(at))));
                let (talker, hearer) = match role {
                    Role::Initiator => (&cut.initiator, &cut.responder),
                    Role::Responder => (&cut.responder, &cut.initiator),
                };
                let (said, heard) = (talker.of_role(role), hearer.of_role(role));
                assert_eq!(heard, said[..heard.len()], "{codec:?} {role:?} {at}");
                match &hearer.outcome {
                    Ok(()) => clean += 1,
                    Err(error) => {
                        assert!(matches!(error, ProtocolError::Ended(_)), "{at}: {error}")
                    }
                }
            }
            // Cut where the initiator might have left of its own accord, it looks as if it had.
            let expected = usize::from(role == Role::Initiator);
            match codec {
                StreamCodec::Raw => assert_eq!(clean, expected, "{role:?}"),
                StreamCodec::Zstd => assert!(clean >= expected, "{role:?}"),
            }
        }
    }
}

#[test]
fn a_damaged_byte_never_makes_an_end_accept_what_may_not_come() {
    for codec in CODECS {
        let whole = damaged(codec, 1 << 20, None);
        for (role, length) in lengths(&whole) {
            for at in 0..length {
                for bits in [1 << (at % 8), 0xff] {
                    let damage = Some((role, Damage::Flip(at, bits)));
                    let session = damaged(codec, 1 << 20, damage);
                    for half in [&session.initiator, &session.responder] {
                        let breach = referee::breach(&half.timeline).map(|at| &half.timeline[at]);
                        assert!(breach.is_none(), "{codec:?} {role:?} {at} {bits}: {breach:?}");
                    }
                }
            }
        }
    }
}

fn lengths(whole: &Session) -> [(Role, usize); 2] {
    [(Role::Initiator, whole.initiator.sent), (Role::Responder, whole.responder.sent)]
}
