//! Every message in every state: what may come is taken, what may not is refused by name.

use psync_protocol::message::{
    Coverage, Demand, Done, Hello, Intent, Mark, Message, Plan, Statement, Verdict, Welcome,
};
use psync_protocol::session::{
    AnswerStep, AwaitingAnswer, AwaitingHello, AwaitingPlan, AwaitingStatement, Heard, Listening,
    Next, Opening, PlanStep, StatementStep, Talking,
};
use psync_protocol::{ContentDecision, Decision, ErrorCode, ProtocolError};

use crate::samples::Sealed;
use crate::samples::{
    self, ALICE, BOB, batch, file, hello, one_of_each, stated, statement, want, want_delta, welcome,
};
use crate::trees;

type Outcome = Result<(), ProtocolError>;

/// A state to be in, and the messages that it takes.
struct Case {
    state: &'static str,
    takes: &'static [&'static str],
    receive: fn(Message) -> Outcome,
}

/// In the flight of the plan, where contents may come that were not asked for.
const FIRST_FLIGHT: &[&str] =
    &["FileFailed", "Want", "File", "Done", "Problem", "Ping", "End", "Patches"];
/// The same where contents are only counted.
const REHEARSAL: &[&str] = &["FileFailed", "Want", "Done", "Problem", "Ping", "End", "Counted"];
const OPEN_FILE: &[&str] = &[
    "Want",
    "Literal",
    "Delta",
    "FileEnd",
    "FileFailed",
    "Done",
    "Problem",
    "Ping",
    "Against",
    "Segment",
];

const CASES: &[Case] = &[
    Case {
        state: "before the greeting",
        takes: &["Hello"],
        receive: |m| AwaitingHello.receive(m).map(drop),
    },
    Case {
        state: "before the statement",
        takes: &["Statement", "Ping"],
        receive: |m| awaiting_statement().receive(m).map(drop),
    },
    Case {
        state: "in the statement",
        takes: &["Rows", "Moved", "Known", "Seal", "Ping"],
        receive: |m| stating(awaiting_statement(), introduction()).receive(m).map(drop),
    },
    Case {
        state: "in a statement of everything",
        takes: &["Rows", "Tree", "Seal", "Ping"],
        receive: |m| {
            let everything = Statement { coverage: Coverage::Everything, ..statement() };
            stating(awaiting_statement(), Message::Statement(everything)).receive(m).map(drop)
        },
    },
    Case {
        // The same directory once more.
        state: "after a moved directory",
        takes: &["Known", "Seal", "Ping"],
        receive: |m| {
            let state = stating(awaiting_statement(), introduction());
            let moved = Message::Moved(crate::moves::moved());
            stating(state, moved).receive(m).map(drop)
        },
    },
    Case {
        state: "in changes of known entries",
        takes: &["Changes", "Seal", "Ping"],
        receive: |m| {
            let state = stating(awaiting_statement(), introduction());
            stating(state, Message::Known(crate::known::known())).receive(m).map(drop)
        },
    },
    Case {
        state: "after a tree",
        takes: &["Seal", "Ping"],
        receive: |m| {
            let everything = Statement { coverage: Coverage::Everything, ..statement() };
            let state = stating(awaiting_statement(), Message::Statement(everything));
            stating(state, Message::Tree(trees::tree())).receive(m).map(drop)
        },
    },
    Case {
        state: "before the welcome",
        takes: &["Welcome"],
        receive: |m| awaiting_answer(&[]).receive(m).map(drop),
    },
    Case {
        state: "before the answer's statement",
        takes: &["Problem", "Statement", "Ping"],
        receive: |m| awaiting_answer(&[greeting()]).receive(m).map(drop),
    },
    Case {
        state: "before the marks",
        takes: &["Marks", "Rows", "Known", "Seal", "Ping", "Patches"],
        receive: |m| awaiting_answer(&[greeting(), introduction()]).receive(m).map(drop),
    },
    Case {
        state: "after the marks",
        takes: &["Rows", "Known", "Seal", "Ping", "Patches"],
        receive: |m| awaiting_answer(&[greeting(), introduction(), marks()]).receive(m).map(drop),
    },
    Case {
        state: "in the answer's rows",
        takes: &["Known", "Seal", "Ping", "Patches"],
        receive: |m| {
            let rows = Message::Rows(batch());
            awaiting_answer(&[greeting(), introduction(), marks(), rows]).receive(m).map(drop)
        },
    },
    Case {
        state: "in the answer's changes",
        takes: &["Changes", "Seal", "Ping"],
        receive: |m| {
            let known = Message::Known(crate::known::known());
            awaiting_answer(&[greeting(), introduction(), marks(), known]).receive(m).map(drop)
        },
    },
    Case {
        state: "after the answer's contents",
        takes: &["Proof", "Seal", "Ping"],
        receive: |m| {
            let patches = Message::Patches(samples::patches(&[0]));
            let heard = [greeting(), introduction(), marks(), Message::Rows(batch()), patches];
            awaiting_answer(&heard).receive(m).map(drop)
        },
    },
    Case {
        state: "after a demand for more rows",
        takes: &["Rows", "Marks", "Demand", "Seal", "Ping", "Patches"],
        receive: |m| awaiting_answer(&[demand_of(0), introduction()]).receive(m).map(drop),
    },
    Case {
        state: "after a demand for some rows",
        takes: &["Rows", "Marks", "Seal", "Ping", "Patches"],
        receive: |m| awaiting_answer(&[demand_of(7), introduction()]).receive(m).map(drop),
    },
    Case {
        state: "after it was said which rows are demanded",
        takes: &["Seal", "Ping"],
        receive: |m| {
            let differences = Message::Demand(Demand::Differences(trees::summary()));
            awaiting_answer(&[demand_of(0), introduction(), differences]).receive(m).map(drop)
        },
    },
    Case {
        state: "in the answer to differences",
        takes: &["Marks", "Rows", "Counterparts", "Props", "Demand", "Seal", "Ping"],
        receive: |m| awaiting_twins(&[introduction()]).receive(m).map(drop),
    },
    Case {
        state: "after the marks of an answer to differences",
        takes: &["Rows", "Counterparts", "Props", "Seal", "Ping"],
        receive: |m| awaiting_twins(&[introduction(), marks()]).receive(m).map(drop),
    },
    Case {
        state: "after counterparts",
        takes: &["Props", "Seal", "Ping"],
        receive: |m| {
            let others = Message::Counterparts(trees::counterparts(&[0]));
            awaiting_twins(&[introduction(), marks(), others]).receive(m).map(drop)
        },
    },
    Case {
        state: "after the properties of an answer to differences",
        takes: &["Seal", "Ping"],
        receive: |m| {
            let props = Message::Props(trees::steps());
            awaiting_twins(&[introduction(), marks(), props]).receive(m).map(drop)
        },
    },
    Case {
        state: "before the plan",
        takes: &["Statement", "Plan", "Ping"],
        receive: |m| {
            awaiting_plan(Verdict::Proceed { first_contact: false }, &[]).receive(m).map(drop)
        },
    },
    Case {
        state: "before rows that were demanded",
        takes: &["Statement", "Ping"],
        receive: |m| {
            let demand = Verdict::Restate { since: 0, first_contact: false };
            awaiting_plan(demand, &[]).receive(m).map(drop)
        },
    },
    Case {
        state: "before differences that were demanded",
        takes: &["Statement", "Ping"],
        receive: |m| awaiting_demanded(differences(), &[]).receive(m).map(drop),
    },
    Case {
        state: "in a statement of differences",
        takes: &["Rows", "Common", "Seal", "Ping"],
        receive: |m| awaiting_demanded(differences(), &[all()]).receive(m).map(drop),
    },
    Case {
        state: "in a statement of changes where differences were demanded",
        takes: &["Rows", "Seal", "Ping"],
        receive: |m| awaiting_demanded(differences(), &[introduction()]).receive(m).map(drop),
    },
    Case {
        state: "after what both have",
        takes: &["Props", "Seal", "Ping"],
        receive: |m| {
            let common = Message::Common(trees::common());
            awaiting_demanded(differences(), &[all(), common]).receive(m).map(drop)
        },
    },
    Case {
        state: "before a blank responder's rows",
        takes: &["Statement", "Ping"],
        receive: |m| awaiting_demanded(Demand::Blank, &[]).receive(m).map(drop),
    },
    Case {
        state: "in the statement to a blank responder",
        takes: &["Rows", "Plan", "Seal", "Ping"],
        receive: |m| {
            let rows = Message::Rows(batch());
            let state = awaiting_demanded(Demand::Blank, &[all()]);
            // The plan is for one path: it fits where the row has come.
            let state = match m {
                Message::Plan(_) => heard(state, rows).sealed(),
                _ => state,
            };
            state.receive(m).map(drop)
        },
    },
    Case {
        state: "in a second statement",
        takes: &["Rows", "Seal", "Ping"],
        receive: |m| {
            let verdict = Verdict::Proceed { first_contact: false };
            awaiting_plan(verdict, &[introduction()]).receive(m).map(drop)
        },
    },
    Case {
        state: "before the plan's extra rows",
        takes: &["Rows", "Ping"],
        receive: |m| {
            let plan = Message::Plan(Plan::new(9, 1, &[Decision::agree()]));
            awaiting_plan(Verdict::Proceed { first_contact: false }, &[plan]).receive(m).map(drop)
        },
    },
    Case {
        state: "after the seal of a statement",
        takes: &["End", "Ping"],
        receive: |m| stating(awaiting_statement(), introduction()).sealed().receive(m).map(drop),
    },
    Case {
        state: "after the seal of an answer",
        takes: &["End", "Ping"],
        receive: |m| {
            let state = awaiting_answer(&[greeting(), introduction(), marks()]);
            state.sealed().receive(m).map(drop)
        },
    },
    Case {
        state: "after the seal of a second statement",
        takes: &["End", "Ping"],
        receive: |m| {
            let verdict = Verdict::Proceed { first_contact: false };
            awaiting_plan(verdict, &[introduction()]).sealed().receive(m).map(drop)
        },
    },
    Case {
        state: "after a plan without its seal",
        takes: &["Seal", "Ping"],
        receive: |m| {
            let plan = Message::Plan(Plan::new(9, 0, &[Decision::agree()]));
            awaiting_plan(Verdict::Proceed { first_contact: false }, &[plan]).receive(m).map(drop)
        },
    },
    Case {
        state: "at the start of a flight",
        takes: FIRST_FLIGHT,
        receive: |m| hear(listening(), m),
    },
    Case {
        state: "before the content that is owed",
        takes: &["Want", "File", "FileFailed", "Done", "Problem", "Ping", "Patches", "Unresolved"],
        receive: |m| hear(owed(), m),
    },
    Case {
        state: "at the start of a rehearsed flight",
        takes: REHEARSAL,
        receive: |m| hear(exchange_of(rehearsed()).1, m),
    },
    Case {
        state: "before a content of a rehearsal that is owed",
        takes: &["Want", "FileFailed", "Done", "Problem", "Ping", "Unresolved", "Counted"],
        receive: |m| hear(owed_by(exchange_of(rehearsed()).0), m),
    },
    Case {
        state: "after a content of a rehearsal",
        takes: &["Want", "Done", "Problem", "Ping", "End"],
        receive: |m| {
            let counted = Message::Counted(samples::counted(&[0]));
            hear(after(exchange_of(rehearsed()).1, counted), m)
        },
    },
    Case {
        state: "inside a content",
        takes: OPEN_FILE,
        receive: |m| hear(after(owed(), Message::File(0)), m),
    },
    Case {
        state: "after a content without a hash",
        takes: &["Want", "Done", "Problem", "Ping", "Proof"],
        receive: |m| {
            let given = Message::Patches(samples::patches(&[0]));
            hear(after(listening(), given), m)
        },
    },
    Case {
        state: "inside a signature",
        takes: &["Signature", "Ping"],
        receive: |m| hear(after(listening(), Message::Want(want_delta(0, 9))), m),
    },
    Case {
        state: "after a want of the same content",
        takes: &["File", "FileFailed", "Problem", "Ping", "End", "Patches"],
        receive: |m| hear(after(listening(), Message::Want(want(0))), m),
    },
    Case {
        state: "after Done",
        takes: &["File", "FileFailed", "Problem", "Ping", "End", "Patches"],
        receive: |m| {
            let done = Message::Done(Done { sequence: 1, failures: Vec::new() });
            hear(after(listening(), done), m)
        },
    },
    Case {
        state: "in this end's own flight",
        takes: &["Want", "File", "FileFailed", "Done", "Problem", "Ping", "Patches"],
        receive: |m| match m {
            Message::End => Err(ProtocolError::Contradiction("checked by Talking::end")),
            other => talking().send(&other),
        },
    },
];

#[test]
fn every_message_is_taken_where_it_may_come_and_refused_where_it_may_not() {
    for case in CASES {
        for message in one_of_each() {
            let name = message.name();
            let outcome = (case.receive)(message);
            let expected = match outcome {
                Ok(()) => case.takes.contains(&name),
                Err(ProtocolError::Peer { code, .. }) => name == "Error" && code == ErrorCode::Busy,
                Err(ProtocolError::Unexpected { got, .. }) => {
                    got == name && !case.takes.contains(&name)
                }
                Err(ProtocolError::Contradiction(_)) => !case.takes.contains(&name),
                // The same rows once more.
                Err(ProtocolError::Decode { message: "Rows", .. }) => {
                    case.state == "in the answer's rows"
                }
                Err(_) => false,
            };
            assert!(expected, "{}: {name} gives {outcome:?}", case.state);
        }
    }
}

#[test]
fn a_content_may_be_wanted_to_be_looked_at_where_the_plan_leaves_the_path_alone() {
    let later = Decision { content: ContentDecision::Later, ..Decision::agree() };
    let (mut talking, listening) = exchange_after(hello(), later);
    talking.send(&Message::Want(want(0))).unwrap();
    let listening = after(listening, Message::Want(want(0)));
    let Heard::Turn(responder) = listening.receive(Message::End).unwrap() else {
        panic!("a content is owed");
    };
    assert_eq!(responder.owed().collect::<Vec<_>>(), [0]);
    assert!(matches!(talking.end().unwrap(), Next::Listen(_)));
}

fn awaiting_statement() -> AwaitingStatement {
    awaiting_statement_after(hello())
}

fn awaiting_statement_after(hello: Hello) -> AwaitingStatement {
    AwaitingHello.receive(Message::Hello(hello)).unwrap().1
}

fn rehearsed() -> Hello {
    Hello { intent: Intent::Rehearse, ..hello() }
}

fn stating(state: AwaitingStatement, message: Message) -> AwaitingStatement {
    match state.receive(message).unwrap() {
        StatementStep::More(state) => state,
        StatementStep::Turn(..) => panic!("the statement goes on"),
    }
}

fn greeting() -> Message {
    Message::Welcome(welcome())
}

fn introduction() -> Message {
    Message::Statement(statement())
}

fn marks() -> Message {
    Message::Marks(vec![Mark::Behind])
}

fn rows() -> Vec<psync_protocol::Row<psync_protocol::Check>> {
    let stating = Opening::new(&hello()).greeted();
    stated(&[file("a.txt", b"one", ALICE, 1)], stating.key())
}

fn awaiting_answer(heard: &[Message]) -> AwaitingAnswer {
    awaiting_answer_after(&hello(), heard)
}

fn awaiting_answer_after(hello: &Hello, heard: &[Message]) -> AwaitingAnswer {
    let (_, mut state) = Opening::new(hello).greeted().state(statement(), rows());
    for message in heard {
        state = match state.receive(message.clone()).unwrap() {
            AnswerStep::More(state) => state,
            _ => panic!("the answer goes on"),
        };
    }
    state
}

fn demand_of(since: u64) -> Message {
    let verdict = Verdict::Restate { since, first_contact: false };
    Message::Welcome(Welcome { verdict, ..welcome() })
}

fn all() -> Message {
    Message::Statement(Statement { coverage: Coverage::Everything, ..statement() })
}

fn differences() -> Demand {
    Demand::Differences(trees::summary())
}

/// The initiator after it has stated one row, and left out another that both have.
fn awaiting_twins(heard: &[Message]) -> AwaitingAnswer {
    let demand = [demand_of(0), introduction(), Message::Demand(differences())];
    let AnswerStep::Turn(deciding) =
        awaiting_answer(&demand).sealed().receive(Message::End).unwrap()
    else {
        panic!("the demand is complete");
    };
    let twins = crate::actors::twins();
    let steps = trees::steps();
    let (_, mut state) =
        deciding.restate_differences(statement(), rows(), trees::common(), &steps, twins);
    for message in heard {
        state = match state.receive(message.clone()).unwrap() {
            AnswerStep::More(state) => state,
            _ => panic!("the answer goes on"),
        };
    }
    state
}

/// The responder after it has demanded rows.
fn awaiting_demanded(demand: Demand, messages: &[Message]) -> AwaitingPlan {
    let state = stating(awaiting_statement(), introduction());
    let StatementStep::Turn(_, mut answering) = state.sealed().receive(Message::End).unwrap()
    else {
        panic!("the statement is over");
    };
    answering.welcome(Welcome {
        verdict: Verdict::Restate { since: 0, first_contact: false },
        ..welcome()
    });
    let (_, state) = answering.demand(Vec::new(), statement(), demand);
    messages.iter().cloned().fold(state, heard)
}

fn heard(state: AwaitingPlan, message: Message) -> AwaitingPlan {
    match state.receive(message).unwrap() {
        PlanStep::More(state) => state,
        _ => panic!("the statement goes on"),
    }
}

fn awaiting_plan(verdict: Verdict, heard: &[Message]) -> AwaitingPlan {
    awaiting_plan_after(hello(), verdict, heard)
}

fn awaiting_plan_after(hello: Hello, verdict: Verdict, heard: &[Message]) -> AwaitingPlan {
    let state = stating(awaiting_statement_after(hello), introduction());
    let state = stating(state, Message::Rows(batch()));
    let StatementStep::Turn(stated, mut answering) = state.sealed().receive(Message::End).unwrap()
    else {
        panic!("the statement is over");
    };
    answering.welcome(Welcome { verdict, ..welcome() });
    let key = psync_protocol::CheckKey::new(BOB, &welcome().nonce);
    let ours = samples::stated(&[file("b.txt", b"two", BOB, 1)], &key);
    let ours = if heard.iter().any(|message| matches!(message, Message::Plan(_))) {
        // One path, which only the responder has stated: the extra row is missing.
        samples::stated(&[file("a.txt", b"two", BOB, 1)], &key)
    } else {
        ours[..0].to_vec()
    };
    let stated = if ours.is_empty() { stated.rows } else { Vec::new() };
    let marks = vec![Mark::Behind; stated.len()];
    let (_, mut state) = answering.answer(stated, Vec::new(), statement(), marks, ours, None);
    for message in heard {
        state = match state.receive(message.clone()).unwrap() {
            PlanStep::More(state) => state,
            _ => panic!("the plan goes on"),
        };
    }
    state
}

/// Both ends at the start of the first flight after a plan for one path.
fn exchange() -> (Talking, Listening) {
    exchange_of(hello())
}

fn exchange_of(hello: Hello) -> (Talking, Listening) {
    exchange_after(hello, Decision::agree())
}

fn exchange_after(hello: Hello, decision: Decision) -> (Talking, Listening) {
    let state = awaiting_answer_after(&hello, &[greeting(), introduction(), marks()]);
    let mut deciding = match state.sealed().receive(Message::End).unwrap() {
        AnswerStep::Turn(deciding) => deciding,
        _ => panic!("the answer is over"),
    };
    let paths = deciding.paths().unwrap();
    let (messages, _, talking) = deciding.plan(paths, vec![decision], 9, Vec::new()).unwrap();
    let plan = messages.into_iter().next().unwrap();
    let waiting = awaiting_plan_after(hello, Verdict::Proceed { first_contact: false }, &[]);
    let PlanStep::More(waiting) = waiting.receive(plan).unwrap() else {
        panic!("no more than a plan")
    };
    let PlanStep::Planned(planned, _) = waiting.sealed().receive(Message::End).unwrap() else {
        panic!("the plan is complete");
    };
    (talking, planned.listening)
}

fn listening() -> Listening {
    exchange().1
}

fn talking() -> Talking {
    exchange().0
}

/// The initiator after a flight in which it has wanted path 0.
fn owed() -> Listening {
    owed_by(talking())
}

fn owed_by(mut talking: Talking) -> Listening {
    talking.send(&Message::Want(want(0))).unwrap();
    match talking.end().unwrap() {
        Next::Listen(listening) => listening,
        Next::Closed => panic!("something is owed"),
    }
}

fn after(listening: Listening, message: Message) -> Listening {
    match listening.receive(message).unwrap() {
        Heard::More(listening, _) => listening,
        _ => panic!("the flight goes on"),
    }
}

fn hear(listening: Listening, message: Message) -> Outcome {
    listening.receive(message).map(drop)
}
