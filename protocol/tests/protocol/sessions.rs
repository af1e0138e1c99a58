//! Whole sessions of two ends, over lines of all kinds.

use psync_protocol::message::StreamCodec;
use psync_protocol::{Decision, Message, ProtocolError, Role};

use crate::actors::{Alice, Bob, Manner, alices_rows, bobs_rows, twins};
use crate::moves;
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

fn damaged(way: Way, damage: Option<(Role, Damage)>) -> Session {
    let Way { codec, manner } = way;
    let (mut alice, mut bob) = (Alice::new(codec, manner), Bob::new(codec, manner));
    session(&mut alice, &mut bob, codec, 1 << 20, damage)
}

/// How a session goes.
#[derive(Debug, Clone, Copy)]
struct Way {
    codec: StreamCodec,
    manner: Manner,
}

fn ways() -> impl Iterator<Item = Way> {
    let codecs = [StreamCodec::Raw, StreamCodec::Zstd].into_iter();
    codecs.flat_map(|codec| Manner::ALL.map(|manner| Way { codec, manner }))
}

/// What is not said, and how many statements there are.
fn expected(manner: Manner) -> (&'static [&'static str], usize) {
    match manner {
        // Problems are told with the demand for more rows.
        Manner::Proceed => (&["Problem", "Tree", "Demand", "Common", "Counterparts", "Props"], 2),
        Manner::AsksAgain => (&["Tree", "Demand", "Common", "Counterparts", "Props"], 4),
        Manner::SameTree => (
            &["Problem", "Moved", "Known", "Changes", "Demand", "Common", "Counterparts", "Props"],
            2,
        ),
        Manner::Differences => (&["Moved", "Known", "Changes"], 4),
        Manner::DifferencesInVain => (&["Moved", "Known", "Changes", "Counterparts"], 6),
        // Patches and their proof come along with the answer's rows.
        Manner::Rehearsed => (
            &[
                "Problem",
                "Tree",
                "Demand",
                "Common",
                "Counterparts",
                "Props",
                "File",
                "Against",
                "Literal",
                "Delta",
                "Segment",
                "FileEnd",
            ],
            2,
        ),
        Manner::Blank => (
            &[
                "Moved",
                "Known",
                "Changes",
                "Common",
                "Counterparts",
                "Props",
                "Marks",
                "Signature",
                "Unresolved",
            ],
            3,
        ),
    }
}

#[test]
fn a_session_with_everything_in_it_ends_well_at_both_ends() {
    for way in ways() {
        let codec = way.codec;
        for chunk in [1, 2, 7, 100, 1 << 20] {
            let (mut alice, mut bob) = (Alice::new(codec, way.manner), Bob::new(codec, way.manner));
            let session = session(&mut alice, &mut bob, codec, chunk, None);
            assert_eq!(session.initiator.outcome, Ok(()), "{way:?} {chunk}");
            assert_eq!(session.responder.outcome, Ok(()), "{way:?} {chunk}");
            assert_eq!(referee::breach(&session.initiator.timeline), None);
            assert_eq!(referee::breach(&session.responder.timeline), None);
            for role in [Role::Initiator, Role::Responder] {
                assert_eq!(session.initiator.of_role(role), session.responder.of_role(role));
            }
            let names: Vec<&str> =
                session.initiator.timeline.iter().map(|(_, message)| message.name()).collect();
            let (unsaid, count) = expected(way.manner);
            for (_, name) in psync_protocol::message::TYPES {
                let may_be_counted = *name != "Counted" || way.manner == Manner::Rehearsed;
                let expected = *name != "Error" && !unsaid.contains(name) && may_be_counted;
                assert_eq!(names.contains(name), expected, "{way:?} {name}");
            }
            let statements = names.iter().filter(|name| **name == "Statement").count();
            assert_eq!(statements, count, "{way:?}");
        }
    }
}

#[test]
fn a_move_that_the_responder_cannot_follow_is_stated_again_row_by_row() {
    let way = Way { codec: StreamCodec::Raw, manner: Manner::Proceed };
    let whole = damaged(way, None);
    let digest = moves::moved().digest;
    let line = whole.initiator.of_role(Role::Initiator);
    assert_eq!(line.iter().filter(|message| message.name() == "Statement").count(), 1);
    // One bit of the digest is another one.
    let at = before_the_end_of_moved(&whole);
    for byte in 0..digest.len() {
        let damage = Some((Role::Initiator, Damage::Flip(at - 1 - byte, 1)));
        let session = damaged(way, damage);
        assert_eq!(session.initiator.outcome, Ok(()));
        assert_eq!(session.responder.outcome, Ok(()));
        let said = session.initiator.of_role(Role::Initiator);
        let statements = said.iter().filter(|message| message.name() == "Statement").count();
        assert_eq!(statements, 2);
    }
}

/// Where the bytes of `Moved` end on a line without compression.
fn before_the_end_of_moved(whole: &Session) -> usize {
    let said = whole.initiator.of_role(Role::Initiator);
    let end = said.iter().position(|message| message.name() == "Moved").unwrap() + 1;
    let codec = StreamCodec::Raw;
    let mut encoder = psync_protocol::frame::FrameEncoder::start(said[0], codec, 3).unwrap();
    said[1..end].iter().for_each(|message| encoder.push(message).unwrap());
    encoder.take().len()
}

#[test]
fn both_ends_know_the_same_plan() {
    let all = alices_rows().len();
    for (manner, stated) in [
        // Two changes and a directory of four entries.
        (Manner::Proceed, 2 + 2 * 4 + bobs_rows().len()),
        (Manner::AsksAgain, all + bobs_rows().len()),
        (Manner::SameTree, all + bobs_rows().len()),
        (Manner::Differences, all + twins().len() + bobs_rows().len()),
        (Manner::DifferencesInVain, all + bobs_rows().len()),
        (Manner::Blank, all),
        (Manner::Rehearsed, 2 + 2 * 4 + bobs_rows().len()),
    ] {
        both_know_the_plan(manner, stated);
    }
}

fn both_know_the_plan(manner: Manner, paths: usize) {
    let codec = StreamCodec::Raw;
    let (mut alice, mut bob) = (Alice::new(codec, manner), Bob::new(codec, manner));
    session(&mut alice, &mut bob, StreamCodec::Raw, 100, None);
    let (ours, theirs) = (alice.planned.unwrap(), bob.planned.unwrap());
    assert_eq!(ours.decisions, theirs.decisions);
    assert_eq!(ours.planner, theirs.planner);
    assert_eq!(ours.paths.len(), paths);
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
    for Way { codec, manner } in ways() {
        let (mut alice, mut bob) = (Alice::new(codec, manner), Bob::new(codec, manner));
        alice.leaves = true;
        let session = session(&mut alice, &mut bob, codec, 10, None);
        assert_eq!(session.initiator.outcome, Ok(()));
        assert_eq!(session.responder.outcome, Ok(()));
        assert!(bob.planned.is_none());
    }
}

#[test]
fn a_line_that_breaks_at_any_byte_leaves_a_clean_error_and_nothing_that_was_not_said() {
    for way in ways() {
        let whole = damaged(way, None);
        for (role, length) in lengths(&whole) {
            let mut clean = 0;
            for at in 0..length {
                let cut = damaged(way, Some((role, Damage::Cut(at))));
                let (talker, hearer) = match role {
                    Role::Initiator => (&cut.initiator, &cut.responder),
                    Role::Responder => (&cut.responder, &cut.initiator),
                };
                let (said, heard) = (talker.of_role(role), hearer.of_role(role));
                assert_eq!(heard, said[..heard.len()], "{way:?} {role:?} {at}");
                match &hearer.outcome {
                    Ok(()) => clean += 1,
                    Err(error) => {
                        assert!(matches!(error, ProtocolError::Ended(_)), "{at}: {error}")
                    }
                }
            }
            // Cut where the initiator might have left of its own accord, it looks as if it had.
            let expected = usize::from(role == Role::Initiator);
            match way.codec {
                StreamCodec::Raw => assert_eq!(clean, expected, "{role:?}"),
                StreamCodec::Zstd => assert!(clean >= expected, "{role:?}"),
            }
        }
    }
}

#[test]
fn a_damaged_byte_never_makes_an_end_accept_what_may_not_come() {
    for way in ways() {
        let whole = damaged(way, None);
        for (role, length) in lengths(&whole) {
            for at in 0..length {
                for bits in [1 << (at % 8), 0xff] {
                    let damage = Some((role, Damage::Flip(at, bits)));
                    let session = damaged(way, damage);
                    for half in [&session.initiator, &session.responder] {
                        let breach = referee::breach(&half.timeline).map(|at| &half.timeline[at]);
                        assert!(breach.is_none(), "{way:?} {role:?} {at} {bits}: {breach:?}");
                    }
                }
            }
        }
    }
}

fn lengths(whole: &Session) -> [(Role, usize); 2] {
    [(Role::Initiator, whole.initiator.sent), (Role::Responder, whole.responder.sent)]
}
