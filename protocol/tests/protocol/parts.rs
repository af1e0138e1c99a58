//! Plans and marks that are larger than a frame travel in parts.

use psync_protocol::frame::FRAME_MAX;
use psync_protocol::message::{
    CHUNK_MAX, MARKS_MAX, Mark, Message, Plan, SIGNATURE_MAX, Verdict, Welcome,
};
use psync_protocol::session::{
    AnswerStep, AwaitingAnswer, AwaitingHello, AwaitingPlan, Heard, Opening, PlanStep,
    StatementStep,
};
use psync_protocol::{Check, ContentDecision, Decision, ProtocolError, Role, Row};

use crate::samples::Sealed;
use crate::samples::{ALICE, BOB, file, hello, path, statement, version, want_delta, welcome};

fn rows(count: usize) -> Vec<Row<Check>> {
    let stating = Opening::new(&hello()).greeted();
    let key = stating.key();
    (0..count).map(|n| file(&format!("{n:07}"), b"", ALICE, n as u64 + 1).stated(key)).collect()
}

/// The initiator, having stated these rows and heard the start of an answer.
fn awaiting_marks(rows: Vec<Row<Check>>) -> AwaitingAnswer {
    let (_, mut state) = Opening::new(&hello()).greeted().state(statement(), rows);
    for message in [Message::Welcome(welcome()), Message::Statement(statement())] {
        state = match state.receive(message).unwrap() {
            AnswerStep::More(state) => state,
            _ => panic!("the answer goes on"),
        };
    }
    state
}

/// The responder, having answered to these rows; and its answer after the greeting.
fn answered(rows: Vec<Row<Check>>, marks: Vec<Mark>) -> (Vec<Message>, AwaitingPlan) {
    let (_, state) = AwaitingHello.receive(Message::Hello(hello())).unwrap();
    let (messages, _) = Opening::new(&hello()).greeted().state(statement(), rows);
    let mut state = Some(state);
    for message in crate::samples::with_seals(messages) {
        match state.take().unwrap().receive(message).unwrap() {
            StatementStep::More(next) => state = Some(next),
            StatementStep::Turn(stated, mut answering) => {
                let verdict = Verdict::Proceed { first_contact: true };
                answering.welcome(Welcome { verdict, ..welcome() });
                let ours = Vec::new();
                return answering.answer(stated.rows, Vec::new(), statement(), marks, ours, None);
            }
        }
    }
    panic!("the statement has an end");
}

fn planning(state: AwaitingPlan, message: Message) -> Result<AwaitingPlan, ProtocolError> {
    match state.receive(message)? {
        PlanStep::More(state) => Ok(state),
        _ => panic!("the plan goes on"),
    }
}

#[test]
fn equal_trees_that_never_met_have_more_marks_than_a_frame_holds() {
    let count = 150_000;
    let same = |n: u64| Mark::Same { content: version(&[(BOB, n)]), props: version(&[(BOB, n)]) };
    let marks: Vec<Mark> = (1..=count as u64).map(same).collect();
    let (messages, _) = answered(rows(count), marks.clone());
    let mut state = awaiting_marks(rows(count));
    for message in crate::samples::with_seals(messages).into_iter().skip(1) {
        let payload = message.encode();
        assert!(payload.len() <= FRAME_MAX);
        match state.receive(Message::decode(message.type_byte(), &payload).unwrap()).unwrap() {
            AnswerStep::More(next) => state = next,
            AnswerStep::Turn(deciding) => {
                assert!(deciding.answer.marks == marks);
                return;
            }
            AnswerStep::Problem(..) => panic!("there was none"),
        }
    }
    panic!("the answer has an end");
}

#[test]
fn marks_from_very_many_replicas_fit_frames_too() {
    let replica = |n: usize| psync_protocol::ReplicaId((n as u128).to_be_bytes());
    let same = |n: usize| {
        let pairs: Vec<_> = (n..n + 40).map(|n| (replica(n), u64::MAX >> 1)).collect();
        Mark::Same { content: version(&pairs), props: version(&pairs[..9]) }
    };
    let marks: Vec<Mark> = (0..9000).map(|n| same(3 * n)).collect();
    let (messages, _) = answered(rows(marks.len()), marks.clone());
    let mut heard = Vec::new();
    for message in messages {
        let payload = message.encode();
        assert!(payload.len() <= FRAME_MAX);
        if let Message::Marks(part) = Message::decode(message.type_byte(), &payload).unwrap() {
            heard.extend(part);
        }
    }
    assert!(heard == marks);
}

#[test]
fn a_run_of_marks_is_cut_where_a_message_may_hold_no_more() {
    let marks = vec![Mark::Equal; 2 * MARKS_MAX + 1];
    let (messages, _) = answered(rows(marks.len()), marks);
    let lengths: Vec<usize> = messages
        .iter()
        .filter_map(|message| match message {
            Message::Marks(part) => Some(part.len()),
            _ => None,
        })
        .collect();
    assert_eq!(lengths, [MARKS_MAX, MARKS_MAX, 1]);
}

#[test]
fn a_row_that_has_no_mark_is_in_the_plan_all_the_same() {
    let (_, state) = answered(rows(3), vec![Mark::Equal]);
    let state = planning(state, Message::Plan(Plan::new(9, 0, &vec![Decision::agree(); 3])));
    let PlanStep::Planned(planned, _) = state.unwrap().sealed().receive(Message::End).unwrap()
    else {
        panic!()
    };
    let known = planned.agreement.paths.iter().map(|stand| stand.responder.is_some());
    assert_eq!(known.collect::<Vec<bool>>(), [true, false, false]);
}

#[test]
fn more_marks_than_rows_are_refused_and_fewer_are_no_answer() {
    let mark = |count: usize| Message::Marks(vec![Mark::Equal; count]);
    let AnswerStep::More(state) = awaiting_marks(rows(3)).receive(mark(2)).unwrap() else {
        panic!()
    };
    let error = state.receive(mark(2)).unwrap_err();
    assert_eq!(error, ProtocolError::Contradiction("there is not one mark for each row"));
    let AnswerStep::More(state) = awaiting_marks(rows(3)).receive(mark(2)).unwrap() else {
        panic!()
    };
    let error = state.sealed().receive(Message::End).unwrap_err();
    assert_eq!(error, ProtocolError::Contradiction("an answer is incomplete"));
}

#[test]
fn a_plan_with_many_clashes_travels_in_parts() {
    let count = 12_000;
    let clash = |n: usize| ContentDecision::KeepBoth {
        winner: Role::Responder,
        clash: path(&format!("{}/{n:07}_clash_202611201200", "d".repeat(200))),
    };
    let mut decisions: Vec<Decision> =
        (0..count).map(|n| Decision { content: clash(n), ..Decision::agree() }).collect();
    decisions[1].content = ContentDecision::Arrive { from: Role::Initiator, source: count - 1 };
    let parts = Plan::parts(9, 0, &decisions);
    assert!(parts.len() > 1);
    let (_, mut state) = answered(rows(count), vec![Mark::Behind; count]);
    for plan in parts {
        let payload = Message::Plan(plan).encode();
        assert!(payload.len() <= FRAME_MAX);
        state = planning(state, Message::decode(6, &payload).unwrap()).unwrap();
    }
    let PlanStep::Planned(planned, _) = state.sealed().receive(Message::End).unwrap() else {
        panic!()
    };
    assert!(planned.agreement.decisions == decisions);
}

#[test]
fn parts_of_a_plan_that_do_not_fit_together_are_refused() {
    let plan = |counter, extra, count| {
        Message::Plan(Plan::new(counter, extra, &vec![Decision::agree(); count]))
    };
    let start = |extra| {
        let (_, state) = answered(rows(3), vec![Mark::Behind; 3]);
        planning(state, plan(9, extra, 2)).unwrap()
    };
    for other in [plan(8, 0, 1), plan(9, 1, 1)] {
        let error = start(0).receive(other).unwrap_err();
        assert_eq!(error, ProtocolError::Contradiction("the parts of a plan differ"));
    }
    for count in [0, 2] {
        let error = start(0).receive(plan(9, 0, count)).unwrap_err();
        assert!(matches!(error, ProtocolError::Decode { message: "Plan", .. }), "{error}");
    }
    for message in [Message::End, Message::Rows(Vec::new()), Message::Statement(statement())] {
        let error = start(1).receive(message).unwrap_err();
        assert!(matches!(error, ProtocolError::Unexpected { .. }), "{error}");
    }
    let state = planning(start(0), plan(9, 0, 1)).unwrap();
    assert!(matches!(state.sealed().receive(Message::End), Ok(PlanStep::Planned(..))));
}

#[test]
fn more_extra_rows_than_announced_or_at_other_paths_are_refused() {
    let (_, state) = answered(Vec::new(), Vec::new());
    let state = planning(state, Message::Plan(Plan::new(9, 1, &[]))).unwrap();
    let two = psync_protocol::manifest::encode(&rows(2)).remove(0);
    let error = state.receive(Message::Rows(two)).unwrap_err();
    assert_eq!(error, ProtocolError::Contradiction("there are more extra rows than announced"));

    let (_, state) = answered(rows(1), vec![Mark::Behind]);
    let state = planning(state, Message::Plan(Plan::new(9, 1, &[Decision::agree()]))).unwrap();
    let again = psync_protocol::manifest::encode(&rows(1)).remove(0);
    let state = planning(state, Message::Rows(again)).unwrap();
    let error = state.sealed().receive(Message::End).unwrap_err();
    assert_eq!(error, ProtocolError::Contradiction("an extra row is not of the plan"));
}

#[test]
fn a_flight_carries_no_more_block_hashes_than_the_other_end_may_have_to_keep() {
    let (_, state) = answered(rows(3), vec![Mark::Behind; 3]);
    let state = planning(state, Message::Plan(Plan::new(9, 0, &vec![Decision::agree(); 3])));
    let want = |index| Message::Want(want_delta(index, SIGNATURE_MAX));
    let PlanStep::Planned(planned, first) = state.unwrap().sealed().receive(want(0)).unwrap()
    else {
        panic!()
    };
    let hashes = || std::iter::repeat_n(Message::Signature(vec![0; CHUNK_MAX]), 32);
    let mut state = planned.listening;
    for message in std::iter::once(first).chain(hashes()).chain([want(1)]).chain(hashes()) {
        state = match state.receive(message).unwrap() {
            Heard::More(state, _) => state,
            _ => panic!("the flight goes on"),
        };
    }
    let error = state.receive(Message::Want(want_delta(2, 1))).unwrap_err();
    assert_eq!(error, ProtocolError::Contradiction("a flight holds too many block hashes"));
}
