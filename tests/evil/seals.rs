//! Signatures that are none: made with another key, of something else, for somebody else, or in
//! another session. Whoever says these things has all that can be read of a line, but not the key.

use psync::identity::ReplicaKey;
use psync::index::Index;
use psync_protocol::message::{Hello, Plan, Statement};
use psync_protocol::signed::{Claim, Digest};
use psync_protocol::{ContentDecision, Decision, ErrorCode, Message, ReplicaId, Role, manifest};

use super::common::pair::Said;
use super::common::tree::snapshot;
use super::common::{psync, write_file};
use super::ground::{Expect, Ground};
use super::hand::Hand;
use super::initiators::Guise;
use super::mask::Mask;
use super::voice::Voice;
use Expect::Refused;

const FORGED: Expect = Refused(ErrorCode::Signature, "not signed with its key");
const PROTOCOL: ErrorCode = ErrorCode::Protocol;

/// One thing that an end may not state, whichever end it is; it has greeted before.
struct Forgery {
    name: &'static str,
    expect: Expect,
    states: fn(&Mask, &mut Voice),
}

const fn forgery(name: &'static str, expect: Expect, states: fn(&Mask, &mut Voice)) -> Forgery {
    Forgery { name, expect, states }
}

fn hand(voice: &mut Voice) -> &mut Hand {
    voice.hand.as_mut().expect("whoever has greeted has a hand")
}

fn another_key() -> ReplicaKey {
    ReplicaKey::from_secret(&[0x66; 32]).unwrap()
}

fn rows(mask: &Mask, content: &[u8]) -> Message {
    Message::Rows(manifest::encode(&[mask.edit("a.txt", content)]).remove(0))
}

/// An edit, as it is stated in good order.
fn an_edit(mask: &Mask, voice: &mut Voice) {
    voice.say_all(&[Message::Statement(mask.statement()), rows(mask, b"mine"), Message::End]);
}

/// The same, with another claim under the signature than the statement makes.
fn claiming(mask: &Mask, voice: &mut Voice, bends: fn(&mut Claim)) {
    hand(voice).bends = bends;
    an_edit(mask, voice);
}

const FORGERIES: &[Forgery] = &[
    forgery(
        "another key, which is shown",
        Refused(ErrorCode::Signature, "shows another key"),
        |mask, voice| {
            let hand = hand(voice);
            (hand.key, hand.shows) = (another_key(), true);
            an_edit(mask, voice);
        },
    ),
    forgery("another key, which is not shown", FORGED, |mask, voice| {
        let hand = hand(voice);
        (hand.key, hand.shows) = (another_key(), false);
        an_edit(mask, voice);
    }),
    forgery("no seal", Refused(PROTOCOL, "the peer sent End"), |mask, voice| {
        voice.hand = None;
        an_edit(mask, voice);
    }),
    forgery("two seals", Refused(PROTOCOL, "the peer sent Seal"), |mask, voice| {
        voice.say_all(&[Message::Statement(mask.statement()), rows(mask, b"mine")]);
        voice.seal();
        let seal = voice.seal.clone().expect("made just now");
        voice.say_all(&[seal, Message::End]);
    }),
    forgery("a seal of nothing", Refused(PROTOCOL, "the peer sent Seal"), |mask, voice| {
        let key = Some(*mask.secret.public().as_bytes());
        let signature = mask.secret.sign(&Digest([0; 32]));
        voice.say(&Message::Seal(psync_protocol::message::Seal { signature, key }));
        an_edit(mask, voice);
    }),
    forgery("rows after the seal", Refused(PROTOCOL, "the peer sent Rows"), |mask, voice| {
        voice.say(&Message::Statement(mask.statement()));
        voice.seal();
        voice.say_all(&[rows(mask, b"mine"), Message::End]);
    }),
    forgery("a row altered under a good seal", FORGED, |mask, voice| {
        voice.say(&Message::Statement(mask.statement()));
        voice.say_instead(&rows(mask, b"mine"), &rows(mask, b"evil"));
        voice.say(&Message::End);
    }),
    forgery("a row left out under a good seal", FORGED, |mask, voice| {
        voice.say(&Message::Statement(mask.statement()));
        voice.say_instead(&rows(mask, b"mine"), &Message::Ping(0));
        voice.say(&Message::End);
    }),
    forgery("a row added under a good seal", FORGED, |mask, voice| {
        voice.say(&Message::Statement(mask.statement()));
        let Message::Rows(payload) = rows(mask, b"evil") else { unreachable!("they are rows") };
        voice.bytes(&super::voice::frame(4, &payload));
        voice.say(&Message::End);
    }),
    forgery("another number of entries under a good seal", FORGED, |mask, voice| {
        let statement = mask.statement();
        let said = Statement { live: 0, ..statement.clone() };
        voice.say_instead(&Message::Statement(statement), &Message::Statement(said));
        voice.say_all(&[rows(mask, b"mine"), Message::End]);
    }),
    forgery("a signature for somebody else", FORGED, |mask, voice| {
        claiming(mask, voice, |claim| claim.reader = ReplicaId([5; 16]));
    }),
    forgery("a signature of somebody else", FORGED, |mask, voice| {
        claiming(mask, voice, |claim| claim.signer = ReplicaId([5; 16]));
    }),
    forgery("a signature of the other end", FORGED, |mask, voice| {
        claiming(mask, voice, |claim| claim.role = claim.role.other());
    }),
    forgery("a signature in another session", FORGED, |mask, voice| {
        claiming(mask, voice, |claim| claim.session.hello = Digest([5; 32]));
    }),
    forgery("a signature over another connection", FORGED, |mask, voice| {
        claiming(mask, voice, |claim| claim.session.exporter = [5; 32]);
    }),
    forgery("a signature that follows on another one", FORGED, |mask, voice| {
        claiming(mask, voice, |claim| claim.previous = Digest([5; 32]));
    }),
    forgery("a signature of other features", FORGED, |mask, voice| {
        claiming(mask, voice, |claim| claim.features ^= 1);
    }),
    forgery("a signature of another version", FORGED, |mask, voice| {
        claiming(mask, voice, |claim| claim.version += 1);
    }),
    forgery("a signature of another sequence number", FORGED, |mask, voice| {
        claiming(mask, voice, |claim| claim.sequence += 1);
    }),
    forgery("a signature of other filters", FORGED, |mask, voice| {
        claiming(mask, voice, |claim| claim.scope = [5; 8]);
    }),
    forgery("a signature of fewer rows", FORGED, |mask, voice| {
        claiming(mask, voice, |claim| claim.sum.rows -= 1);
    }),
    forgery("an older statement", Refused(ErrorCode::RolledBack, "older"), |mask, voice| {
        let statement = Statement { sequence: mask.sequence - 1, ..mask.statement() };
        voice.say_all(&[Message::Statement(statement), rows(mask, b"mine"), Message::End]);
    }),
];

/// Both ends have signed what the first session between them led to.
fn settled() -> Ground {
    let ground = Ground::new();
    ground.agree();
    ground
}

#[test]
fn a_server_takes_no_statement_that_is_not_signed_as_it_should_be() {
    let ground = settled();
    let (mask, before) = (ground.as_near(), snapshot(&ground.far));
    let mut faults = Vec::new();
    for Forgery { name, expect, states } in FORGERIES {
        let ended = ground.server(&[], |voice| {
            voice.greet_as(&mask, &Message::Hello(mask.hello()));
            states(&mask, voice);
        });
        let wrong = ended.wrong(*expect, &before, &snapshot(&ground.far));
        faults.extend(wrong.map(|wrong| format!("{name}: {wrong}")));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
    ground.agree();
}

#[test]
fn a_caller_takes_no_statement_that_is_not_signed_as_it_should_be() {
    let ground = settled();
    let (mask, before) = (ground.as_far(), snapshot(&ground.near));
    let mut faults = Vec::new();
    for Forgery { name, expect, states } in FORGERIES {
        let (mask, states) = (mask.clone(), *states);
        // Where one statement is older psync tries once more, and nobody answers.
        let ended = ground.caller(&["--timeout=2"], move |voice| {
            voice.flight();
            voice.greet_as(&mask, &Message::Welcome(mask.welcome()));
            states(&mask, voice);
        });
        let wrong = ended.wrong(*expect, &before, &snapshot(&ground.near));
        faults.extend(wrong.map(|wrong| format!("{name}: {wrong}")));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
    ground.agree();
}

/// What an initiator may not plan, after a statement in good order.
type Plot = (&'static str, Expect, fn(&mut Guise));

fn plan_of(mask: &Mask, decision: Decision) -> Message {
    Message::Plan(Plan::new(mask.clock + 2000, 0, &[decision]))
}

const PLOTS: &[Plot] = &[
    ("no seal", Refused(PROTOCOL, "the peer sent File"), |peer| {
        peer.voice.hand = None;
        peer.plan(&[Decision::take(Role::Initiator)]);
        peer.content(0, b"mine");
    }),
    ("another key", FORGED, |peer| {
        hand(peer.voice).key = another_key();
        peer.plan(&[Decision::take(Role::Initiator)]);
        peer.content(0, b"mine");
    }),
    ("a decision altered under a good seal", FORGED, |peer| {
        let later = Decision { content: ContentDecision::Later, ..Decision::agree() };
        let sealed = plan_of(&peer.mask, later);
        let said = plan_of(&peer.mask, Decision::take(Role::Initiator));
        peer.voice.say_instead(&sealed, &said);
        peer.content(0, b"mine");
    }),
    ("the seal of the statement", FORGED, |peer| {
        let seal = peer.voice.seal.clone().expect("the statement was sealed");
        peer.voice.hand = None;
        peer.plan(&[Decision::take(Role::Initiator)]);
        peer.voice.say(&seal);
        peer.content(0, b"mine");
    }),
];

#[test]
fn a_server_carries_out_no_plan_that_is_not_signed_as_it_should_be() {
    let ground = Ground::new();
    let (mask, before) = (ground.as_near(), snapshot(&ground.far));
    let mut faults = Vec::new();
    for (name, expect, plots) in PLOTS {
        let ended = ground.server(&[], |voice| {
            let mut peer = Guise::new(mask.clone(), voice);
            let row = mask.edit("a.txt", b"mine");
            peer.state(&[row]);
            plots(&mut peer);
        });
        let wrong = ended.wrong(*expect, &before, &snapshot(&ground.far));
        faults.extend(wrong.map(|wrong| format!("{name}: {wrong}")));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

/// The seal of a statement that was made in this session, and the same rows in the next one.
#[test]
fn a_statement_of_an_earlier_session_is_worth_nothing_to_a_server() {
    let ground = Ground::new();
    let (mask, before) = (ground.as_near(), snapshot(&ground.far));
    let mut seal = None;
    ground.server(&[], |voice| {
        voice.greet_as(&mask, &Message::Hello(mask.hello()));
        an_edit(&mask, voice);
        let answer = voice.flight();
        assert!(matches!(answer[..], [Message::Welcome(_), ..]), "it was good then: {answer:?}");
        seal = voice.seal.take();
    });
    let next = Mask { nonce: [8; 16], ..mask.clone() };
    let ended = ground.server(&[], |voice| {
        let hello: Hello = next.hello();
        voice.greet(&Message::Hello(hello));
        voice.say_all(&[Message::Statement(mask.statement()), rows(&mask, b"mine")]);
        voice.say_all(&[seal.expect("a statement has one"), Message::End]);
    });
    let wrong = ended.wrong(FORGED, &before, &snapshot(&ground.far));
    assert!(wrong.is_none(), "{}", wrong.unwrap_or_default());
}

#[test]
fn a_statement_of_an_earlier_session_is_worth_nothing_to_a_caller() {
    let ground = Ground::new();
    let (mask, before) = (ground.as_far(), snapshot(&ground.near));
    let (keep, kept) = std::sync::mpsc::channel();
    let earlier = mask.clone();
    ground.caller(&["-n"], move |voice| {
        voice.flight();
        voice.greet_as(&earlier, &Message::Welcome(earlier.welcome()));
        an_edit(&earlier, voice);
        keep.send(voice.seal.take().expect("a statement has one")).unwrap();
    });
    let seal = kept.recv().unwrap();
    let ended = ground.caller(&[], move |voice| {
        voice.flight();
        voice.greet(&Message::Welcome(mask.welcome()));
        voice.say_all(&[Message::Statement(mask.statement()), rows(&mask, b"mine")]);
        voice.say_all(&[seal, Message::End]);
    });
    let wrong = ended.wrong(FORGED, &before, &snapshot(&ground.near));
    assert!(wrong.is_none(), "{}", wrong.unwrap_or_default());
}

/// Byte for byte what was said before: the first flight has to be taken, as nothing in it is of the
/// server; the plan is bound to the server's own statement.
#[test]
fn a_whole_session_that_is_repeated_changes_nothing() {
    let ground = Ground::new();
    let (mask, before) = (ground.as_near(), snapshot(&ground.far));
    let mut said = Vec::new();
    let ended = ground.server(&[], |voice| {
        let mut peer = Guise::new(mask.clone(), voice);
        peer.impose(&[mask.edit("a.txt", b"mine")]);
        peer.voice.close();
        said = std::mem::take(&mut peer.voice.said);
    });
    assert!(ended.error().is_none_or(|(code, _)| code == PROTOCOL), "{}", ended.all());
    let ended = ground.server(&[], |voice| {
        voice.bytes(&said);
        voice.say_all(&[Message::File(0), Message::Literal(b"mine".to_vec())]);
    });
    let answered = ended.heard.iter().any(|message| matches!(message, Message::Statement(_)));
    assert!(answered, "{}", ended.all());
    let wrong = ended.wrong(FORGED, &before, &snapshot(&ground.far));
    assert!(wrong.is_none(), "{}", wrong.unwrap_or_default());
}

/// Ids of replicas stand in versions, where everybody reads them: also of one that has yet to come.
#[test]
fn nobody_takes_an_id_that_is_not_made_of_its_key() {
    let ground = Ground::new();
    let (third, fourth) = (ground.temp.folder("third"), ground.temp.folder("fourth"));
    write_file(third.join("own"), "of the third root");
    Said::of(psync(&ground.temp).arg(&third).arg(&fourth), 0);
    let id = Index::look(&third.join(".psync")).unwrap().unwrap().replica();
    let squatting = |mask: Mask| Mask { replica: id, ..mask.stranger() };
    let before = snapshot(&ground.far);
    let mask = squatting(ground.as_near());
    let ended = ground.server(&[], |voice| {
        let mut peer = Guise::new(mask, voice);
        peer.hello = Hello { expected: None, processed: 0, ..peer.mask.hello() };
        peer.state(&[]);
    });
    assert_eq!(ended.wrong(FORGED, &before, &snapshot(&ground.far)), None);
    let (mask, before) = (squatting(ground.as_far()), snapshot(&ground.near));
    let ended = ground.caller(&[], move |voice| {
        voice.flight();
        voice.greet_as(&mask, &Message::Welcome(mask.welcome()));
        an_edit(&mask, voice);
    });
    assert_eq!(ended.wrong(FORGED, &before, &snapshot(&ground.near)), None);
    for root in [&ground.far, &ground.near] {
        Said::of(psync(&ground.temp).arg(root).arg(&third), 0);
    }
}
