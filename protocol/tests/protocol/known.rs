//! Changes of known entries: what is stated by number comes out as it was put in, and what makes no
//! sense is refused.

use proptest::prelude::*;
use psync_protocol::changes::{Altered, Change, ChangesReader, Fate, Known, encode};
use psync_protocol::codec::Put;
use psync_protocol::error::DecodeError;
use psync_protocol::manifest::ENTRIES_MAX;
use psync_protocol::message::{Coverage, Demand, Mark, Message, Plan, Statement, Verdict, Welcome};
use psync_protocol::session::{
    AnswerStep, AwaitingHello, AwaitingStatement, Manners, Opening, PlanStep, Stated, StatementStep,
};
use psync_protocol::{
    Check, CheckKey, Content, ContentDecision, Decision, PropsDecision, ProtocolError, ReplicaId,
    Role, Row,
};

use crate::samples::Sealed;
use crate::samples::{self, ALICE, BOB, deleted, file, hello, path, stated, statement, version};

/// The list that Alice and Bob both have.
pub(crate) fn known() -> Known {
    Known { count: 300, digest: [0x99; 16] }
}

/// Some changes of it: of each kind, with numbers that lie between each other.
pub(crate) fn changes() -> Vec<Change> {
    let content_version = || version(&[(ALICE, 1)]);
    let both = || version(&[(ALICE, 7), (BOB, 300)]);
    let row = file("a", b"one\n", ALICE, 1);
    let check = key().check(&row.content.fingerprint().unwrap());
    let kept = Fate::Kept { props: row.props, agreed_mode: row.props.mode };
    let fates = [
        (2, kept),
        (3, Fate::Edited { size: 4, check, props: row.props, agreed_mode: 0o600 }),
        (4, kept),
        (5, Fate::Deleted),
        (260, kept),
    ];
    let change = |(number, fate): (usize, Fate)| {
        let content_version = if fate == kept { content_version() } else { both() };
        Change { number, fate, content_version, props_version: both() }
    };
    fates.map(change).to_vec()
}

/// Where the known entry stands that the actors of whole sessions tell of by number.
const NUMBERED: &str = "docs/new.txt";

/// Rows of which one goes by number, and the others.
pub(crate) fn by_number(rows: &[Row<Check>]) -> ((Altered, Manners), Vec<Row<Check>>) {
    let (numbered, plain): (Vec<_>, Vec<_>) =
        rows.iter().cloned().partition(|row| row.path == path(NUMBERED));
    let mut manners = Manners::default();
    let change = |row: Row<Check>| {
        let Content::File { size, hash: check } = row.content else { panic!("it is a file") };
        let fate = Fate::Edited { size, check, props: row.props, agreed_mode: row.agreed_mode };
        manners.note(row.path, &fate);
        let (content_version, props_version) = (row.content_version, row.props_version);
        Change { number: 3, fate, content_version, props_version }
    };
    let changes = numbered.into_iter().map(change).collect();
    ((Altered { known: known(), changes }, manners), plain)
}

/// A statement with the row of each change, as far as these actors can tell.
pub(crate) fn from_numbers(mut stated: Stated) -> (Stated, Manners) {
    let mut manners = Manners::default();
    for change in stated.altered.take().into_iter().flat_map(|altered| altered.changes) {
        let Fate::Edited { size, check, props, agreed_mode } = change.fate else { continue };
        manners.note(path(NUMBERED), &change.fate);
        stated.rows.push(Row {
            content: Content::File { size, hash: check },
            props,
            agreed_mode,
            content_version: change.content_version,
            props_version: change.props_version,
            ..Row::absent(path(NUMBERED))
        });
    }
    (stated, manners)
}

fn key() -> CheckKey {
    CheckKey::new(ALICE, &[0x33; 16])
}

fn read(known: Known, payloads: &[Vec<u8>]) -> Result<Altered, DecodeError> {
    let mut reader = ChangesReader::new(known);
    payloads.iter().try_for_each(|payload| reader.batch(payload))?;
    Ok(reader.finish())
}

fn any_fate() -> impl Strategy<Value = Fate> {
    let props = || (0u16..0o10000, any::<i64>(), 0u32..1_000_000_000, 0u16..0o10000);
    let told = |(mode, secs, nanos, agreed): (u16, i64, u32, u16)| {
        let mtime = psync_protocol::Time { secs, nanos };
        (psync_protocol::Props { mode, mtime }, agreed)
    };
    prop_oneof![
        Just(Fate::Deleted),
        props().prop_map(told).prop_map(|(props, agreed_mode)| Fate::Kept { props, agreed_mode }),
        (props().prop_map(told), 0..=i64::MAX as u64, any::<u64>()).prop_map(
            |((props, agreed_mode), size, check)| {
                Fate::Edited { size, check: Check(check), props, agreed_mode }
            }
        ),
    ]
}

/// Changes with ascending numbers below a count.
pub(crate) fn any_changes() -> impl Strategy<Value = (Known, Vec<Change>)> {
    let replicas = [ALICE, BOB, ReplicaId([7; 16])];
    let any_version = || {
        let pairs = prop::collection::vec((prop::sample::select(replicas.to_vec()), 1..9u64), 0..3);
        pairs.prop_map(psync_protocol::Version::from_pairs)
    };
    let entry = (1usize..4, any_fate(), any_version(), any_version());
    (prop::collection::vec(entry, 1..40), 0..3usize, any::<[u8; 16]>()).prop_map(
        |(entries, more, digest)| {
            let mut next = 0;
            let mut changes = Vec::new();
            for (step, fate, content_version, props_version) in entries {
                next += step;
                let number = next - 1;
                changes.push(Change { number, fate, content_version, props_version });
            }
            (Known { count: (next + more) as u64, digest }, changes)
        },
    )
}

proptest! {
    #[test]
    fn changes_are_read_as_they_were_written((known, changes) in any_changes()) {
        let altered = read(known, &encode(&changes)).unwrap();
        prop_assert_eq!(altered, Altered { known, changes });
    }

    #[test]
    fn damaged_changes_never_panic(
        (known, changes) in any_changes(),
        (at, by) in (any::<prop::sample::Index>(), 1u8..),
    ) {
        let mut payloads = encode(&changes);
        let which = at.index(payloads.len());
        let byte = at.index(payloads[which].len());
        payloads[which][byte] ^= by;
        if let Ok(altered) = read(known, &payloads) {
            prop_assert!(altered.changes.is_sorted_by(|a, b| a.number < b.number));
            prop_assert!(altered.changes.iter().all(|c| (c.number as u64) < known.count));
        }
    }
}

#[test]
fn many_changes_take_several_messages() {
    let one = changes().remove(0);
    let many: Vec<Change> = (0..10_000)
        .map(|number| Change {
            number: 3 * number,
            fate: if number % 3 == 0 { Fate::Deleted } else { one.fate },
            ..one.clone()
        })
        .collect();
    let payloads = encode(&many);
    assert_eq!(payloads.iter().map(|payload| payload[0]).collect::<Vec<_>>(), [0, 2, 2]);
    let known = Known { count: 30_000, ..known() };
    assert_eq!(read(known, &payloads).unwrap().changes, many);
}

#[test]
fn a_steady_column_takes_a_byte_for_each_row_at_most() {
    let one = changes().remove(0);
    let many = |count| -> Vec<Change> {
        (0..count).map(|number| Change { number, ..one.clone() }).collect()
    };
    let lens = [1000, 2000].map(|count| encode(&many(count)).iter().map(Vec::len).sum::<usize>());
    // Two versions, mode (two bytes), agreed mode, seconds, nanoseconds (up to five bytes).
    assert!(lens[1] - lens[0] <= 11 * 1000, "{lens:?}");
}

/// A payload of the class *deleted* up to its versions.
fn runs(class: u8, skips_and_takes: &[(u64, u64)]) -> Vec<u8> {
    let mut out = vec![class];
    out.put_varint(skips_and_takes.len() as u64);
    skips_and_takes.iter().for_each(|(skip, _)| out.put_varint(*skip));
    skips_and_takes.iter().for_each(|(_, take)| out.put_varint(*take));
    let rows: u64 = skips_and_takes.iter().map(|(_, take)| take).sum();
    // One version, the empty one, in both columns.
    out.extend([0, 1, 0]);
    out.extend(vec![0; 2 * rows as usize]);
    out
}

#[test]
fn numbers_that_do_not_add_up_are_refused() {
    let known = Known { count: 10, ..known() };
    let error = |payloads: &[Vec<u8>]| read(known, payloads).unwrap_err();
    let number = DecodeError::Invalid("the number of a known entry");
    assert!(read(known, &[runs(0, &[(0, 10)])]).is_ok());
    assert_eq!(error(&[runs(0, &[(0, 11)])]), number);
    assert_eq!(error(&[runs(0, &[(5, 5), (0, 1)])]), number);
    assert_eq!(error(&[runs(0, &[(10, 1)])]), number);
    // Across messages of one class the count goes on.
    assert!(read(known, &[runs(0, &[(0, 5)]), runs(0, &[(0, 5)])]).is_ok());
    assert_eq!(error(&[runs(0, &[(0, 5)]), runs(0, &[(0, 6)])]), number);
    let run = DecodeError::Invalid("a run of known entries");
    assert_eq!(error(&[runs(0, &[(0, 0)])]), run);
    assert_eq!(error(&[runs(0, &[])]), run);
    let (what, value, limit) = ("known entries left alone", 11, 10);
    assert_eq!(error(&[runs(0, &[(11, 1)])]), DecodeError::TooLarge { what, value, limit });
    let (what, value, limit) = ("a run of known entries", 4097, 4096);
    let large = Known { count: 9_000, ..known };
    let error = read(large, &[runs(0, &[(0, 4097)])]).unwrap_err();
    assert_eq!(error, DecodeError::TooLarge { what, value, limit });
}

#[test]
fn entries_that_an_earlier_class_took_are_not_counted() {
    // Deleted: 1 and 2. The rest of the list is 0, 3, 4: of these the second and the third.
    let mut kept = runs(2, &[(1, 2)]);
    kept.extend([0; 4 * 2]);
    let altered = read(Known { count: 5, ..known() }, &[runs(0, &[(1, 2)]), kept.clone()]).unwrap();
    let numbers: Vec<usize> = altered.changes.iter().map(|change| change.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    let error = read(Known { count: 4, ..known() }, &[runs(0, &[(1, 2)]), kept.clone()]);
    assert_eq!(error.unwrap_err(), DecodeError::Invalid("the number of a known entry"));
    let error = read(Known { count: 5, ..known() }, &[kept, runs(0, &[(1, 2)])]).unwrap_err();
    assert_eq!(error, DecodeError::Invalid("the order of changes"));
    let error = read(known(), &[runs(3, &[(0, 1)])]).unwrap_err();
    assert_eq!(error, DecodeError::Invalid("a class of changes"));
}

#[test]
fn no_more_entries_are_known_than_a_tree_may_have() {
    let message = |count| Message::Known(Known { count, ..known() }).encode();
    assert!(Message::decode(30, &message(ENTRIES_MAX as u64)).is_ok());
    let (what, limit) = ("a count of known entries", ENTRIES_MAX as u64);
    let error = DecodeError::TooLarge { what, value: limit + 1, limit };
    let refused = Message::decode(30, &message(limit + 1)).unwrap_err();
    assert_eq!(refused, ProtocolError::Decode { message: "Known", error });
}

fn awaiting(messages: &[Message]) -> Result<AwaitingStatement, ProtocolError> {
    let (_, mut state) = AwaitingHello.receive(Message::Hello(hello()))?;
    for message in messages {
        state = match state.receive(message.clone())? {
            StatementStep::More(state) => state,
            StatementStep::Turn(..) => unreachable!("no message is the last"),
        };
    }
    Ok(state)
}

#[test]
fn changes_come_once_and_after_everything_else() {
    let start = Message::Statement(statement());
    let known = || Message::Known(known());
    let changes = || encode(&changes()).into_iter().map(Message::Changes).collect::<Vec<_>>();
    let after = |messages: Vec<Message>| awaiting(&[vec![start.clone()], messages].concat());
    assert!(after([vec![known()], changes()].concat()).is_ok());
    assert!(after(changes()).is_err(), "of what?");
    assert!(after(vec![known(), known()]).is_err());
    assert!(after(vec![known(), Message::Rows(samples::batch())]).is_err());
    assert!(after(vec![known(), Message::Moved(crate::moves::moved())]).is_err());
    assert!(after(vec![Message::Moved(crate::moves::moved()), known()]).is_ok());
    let everything = Statement { coverage: Coverage::Everything, ..statement() };
    assert!(awaiting(&[Message::Statement(everything), known()]).is_err());
}

/// What Alice states: of four paths two by number.
fn alices_rows(key: &CheckKey) -> Vec<Row<Check>> {
    let gone = deleted("b/gone", b"old", ALICE, 5);
    let rows = ["a", "b", "c", "d"].map(|name| file(name, name.as_bytes(), ALICE, 6));
    let [a, b, c, d] = rows;
    stated(&[a, b, gone, c, d], key)
}

fn manners() -> Manners {
    let mut manners = Manners::default();
    let kept = changes()[0].fate;
    manners.note(path("a"), &changes()[1].fate);
    manners.note(path("b"), &kept);
    manners.note(path("c"), &changes()[1].fate);
    manners.note(path("d"), &kept);
    manners
}

/// Alice has stated nothing; Bob answers with two edited and two touched files, by number.
#[test]
fn an_answer_by_number_has_to_become_rows_before_a_plan_is_made() {
    let answered = || {
        let (said, mut waiting) = Opening::new(&hello()).greeted().state(statement(), Vec::new());
        let mut state = awaiting(&[]).unwrap();
        let mut said = samples::with_seals(said).into_iter();
        let (heard, mut answering) = loop {
            match state.receive(said.next().unwrap()).unwrap() {
                StatementStep::More(next) => state = next,
                StatementStep::Turn(heard, answering) => break (heard, answering),
            }
        };
        let verdict = Verdict::Proceed { first_contact: false };
        let welcome = answering.welcome(Welcome { verdict, ..samples::welcome() });
        let rows = alices_rows(&key());
        let told = rows.iter().filter(|row| !row.content.is_live()).cloned().collect();
        answering.number(told, Altered { known: known(), changes: changes() }, manners());
        let (answer, planning) =
            answering.answer(heard.rows, Vec::new(), statement(), Vec::new(), rows, None);
        let names: Vec<&str> = answer.iter().map(Message::name).collect();
        assert_eq!(names, ["Statement", "Rows", "Known", "Changes", "Changes", "Changes", "End"]);
        let mut deciding = None;
        for message in std::iter::once(welcome).chain(samples::with_seals(answer)) {
            match waiting.receive(message).unwrap() {
                AnswerStep::More(next) | AnswerStep::Problem(next, _) => waiting = next,
                AnswerStep::Turn(turn) => {
                    deciding = Some(turn);
                    break;
                }
            }
        }
        (deciding.unwrap(), planning)
    };
    let (mut early, _) = answered();
    assert_eq!(early.answer.altered, Some(Altered { known: known(), changes: changes() }));
    let paths = early.paths().unwrap();
    let agree = vec![Decision::agree(); paths.len()];
    assert!(early.plan(paths, agree, 9, Vec::new()).is_err());

    let (mut deciding, planning) = answered();
    let live = alices_rows(&key()).into_iter().filter(|row| row.content.is_live()).collect();
    assert!(deciding.unnumbered(live, manners()));
    let paths = deciding.paths().unwrap();
    let take = Decision::take(Role::Responder);
    let props = Decision { props: PropsDecision::Take(Role::Responder), ..Decision::agree() };
    // a, b, b/gone, c, d
    let decisions = [&take, &props, &Decision::agree(), &take, &props].map(Clone::clone).to_vec();
    let order = [&decisions[2], &props, &props, &take, &take].map(Clone::clone);
    let (plan, agreement, _) = deciding.plan(paths, decisions.clone(), 9, Vec::new()).unwrap();
    assert_eq!(plan[..], [Message::Plan(Plan::new(9, 0, &order))]);
    assert_eq!(agreement.decisions, decisions);
    let PlanStep::More(planning) = planning.receive(plan[0].clone()).unwrap() else {
        panic!("the plan is complete only when something else comes")
    };
    let PlanStep::Planned(planned, _) = planning.sealed().receive(Message::End).unwrap() else {
        panic!("the plan is complete")
    };
    assert_eq!(planned.agreement.decisions, decisions);

    let (mut doubled, _) = answered();
    assert!(!doubled.unnumbered(alices_rows(&key()), manners()), "b/gone is there already");
}

#[test]
fn marks_and_decisions_travel_like_beside_like_and_arrive_in_order() {
    let opening = Opening::new(&hello());
    let stating = opening.greeted();
    let rows = alices_rows(stating.key());
    let told: Vec<Row<Check>> = rows.iter().filter(|row| !row.content.is_live()).cloned().collect();
    let altered = Altered { known: known(), changes: changes() };
    let (said, mut waiting) =
        stating.state_altered(statement(), rows.clone(), &told, Vec::new(), (altered, manners()));
    let names: Vec<&str> = said.iter().map(Message::name).collect();
    assert_eq!(names, ["Statement", "Rows", "Known", "Changes", "Changes", "Changes", "End"]);

    let mut state = awaiting(&[]).unwrap();
    let mut said = samples::with_seals(said).into_iter();
    let (heard, mut answering) = loop {
        match state.receive(said.next().unwrap()).unwrap() {
            StatementStep::More(next) => state = next,
            StatementStep::Turn(heard, answering) => break (heard, answering),
        }
    };
    assert_eq!(heard.rows.len(), 1);
    assert_eq!(heard.altered, Some(Altered { known: known(), changes: changes() }));

    answering.altered(manners());
    let verdict = Verdict::Proceed { first_contact: false };
    let welcome = answering.welcome(Welcome { verdict, ..samples::welcome() });
    let marks = [Mark::OnBase, Mark::Behind, Mark::Equal, Mark::OnBase, Mark::Behind];
    let theirs = stated(&[file("b.txt", b"two\n", BOB, 5)], &key());
    let (answer, planning) =
        answering.answer(rows, Vec::new(), statement(), marks.to_vec(), theirs, None);
    let [_, Message::Marks(travelled), ..] = &answer[..] else { panic!("marks were said") };
    use Mark::{Behind, Equal, OnBase};
    assert_eq!(travelled[..], [Behind, Behind, OnBase, OnBase, Equal]);

    let mut deciding = None;
    for message in std::iter::once(welcome).chain(samples::with_seals(answer)) {
        match waiting.receive(message).unwrap() {
            AnswerStep::More(next) | AnswerStep::Problem(next, _) => waiting = next,
            AnswerStep::Turn(turn) => {
                deciding = Some(turn);
                break;
            }
        }
    }
    let mut deciding = deciding.unwrap();
    assert_eq!(deciding.answer.marks, marks);
    let paths = deciding.paths().unwrap();
    let take = Decision::take(Role::Initiator);
    let props = Decision { props: PropsDecision::Take(Role::Initiator), ..Decision::agree() };
    assert_eq!(props.content, ContentDecision::Agree);
    // a, b, b.txt, b/gone, c, d
    let decisions = vec![
        take.clone(),
        props.clone(),
        Decision::take(Role::Responder),
        Decision::agree(),
        take.clone(),
        props.clone(),
    ];
    let order = [&props, &props, &take, &take, &decisions[3], &decisions[2]].map(Clone::clone);
    let (plan, agreement, _) = deciding.plan(paths, decisions.clone(), 9, Vec::new()).unwrap();
    assert_eq!(plan[..], [Message::Plan(Plan::new(9, 0, &order))]);
    assert_eq!(agreement.decisions, decisions);

    let PlanStep::More(planning) = planning.receive(plan[0].clone()).unwrap() else {
        panic!("the plan is complete only when something else comes")
    };
    let PlanStep::Planned(planned, _) = planning.sealed().receive(Message::End).unwrap() else {
        panic!("the plan is complete")
    };
    assert_eq!(planned.agreement.decisions, decisions);
    let live = |stand: &psync_protocol::session::Stand| {
        stand.initiator.as_ref().is_some_and(|row| matches!(row.content, Content::File { .. }))
    };
    assert_eq!(planned.agreement.paths.iter().filter(|stand| live(stand)).count(), 4);
}

/// Alice stated by number, and Bob has nothing: she states her rows anew, and the plan at once.
#[test]
fn a_plan_for_a_blank_responder_is_in_the_order_of_paths() {
    let stating = Opening::new(&hello()).greeted();
    let rows = alices_rows(stating.key());
    let altered = (Altered { known: known(), changes: changes() }, manners());
    let (said, mut waiting) =
        stating.state_altered(statement(), rows.clone(), &[], Vec::new(), altered);
    let mut state = awaiting(&[]).unwrap();
    let mut said = samples::with_seals(said).into_iter();
    let mut answering = loop {
        match state.receive(said.next().unwrap()).unwrap() {
            StatementStep::More(next) => state = next,
            StatementStep::Turn(_, answering) => break answering,
        }
    };
    answering.altered(manners());
    let verdict = Verdict::Restate { since: 0, first_contact: true };
    let welcome = answering.welcome(Welcome { verdict, ..samples::welcome() });
    let everything = Statement { coverage: Coverage::Everything, ..statement() };
    let (answer, mut planning) = answering.demand(Vec::new(), everything.clone(), Demand::Blank);
    let mut deciding = None;
    for message in std::iter::once(welcome).chain(samples::with_seals(answer)) {
        match waiting.receive(message).unwrap() {
            AnswerStep::More(next) | AnswerStep::Problem(next, _) => waiting = next,
            AnswerStep::Turn(turn) => {
                deciding = Some(turn);
                break;
            }
        }
    }
    let (restated, mut deciding) = deciding.unwrap().restate_to_blank(everything, rows).unwrap();
    let paths = deciding.paths().unwrap();
    let take = Decision::take(Role::Initiator);
    // a, b, b/gone, c, d
    let decisions = [&take, &take, &Decision::agree(), &take, &take].map(Clone::clone).to_vec();
    let (plan, agreement, _) = deciding.plan(paths, decisions.clone(), 9, Vec::new()).unwrap();
    assert_eq!(plan[..], [Message::Plan(Plan::new(9, 0, &decisions))]);
    assert_eq!(agreement.decisions, decisions);
    for message in samples::with_seals([restated, plan].concat()) {
        let PlanStep::More(next) = planning.receive(message).unwrap() else {
            panic!("the plan is complete only when something else comes")
        };
        planning = next;
    }
    let PlanStep::Planned(planned, _) = planning.sealed().receive(Message::End).unwrap() else {
        panic!("the plan is complete")
    };
    assert_eq!(planned.agreement.decisions, decisions);
}
