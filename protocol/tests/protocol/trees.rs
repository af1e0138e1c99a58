//! What stands for whole trees: its measures, and what is refused of it.

use psync_protocol::codec::Put;
use psync_protocol::error::DecodeError;
use psync_protocol::message::{
    COUNTERPARTS_MAX, Common, Counterpart, Counterparts, Demand, Mark, Message, PROPS_MAX,
    PropsStep, RUNS_MAX, Statement, Summary, Tree, Verdict, Versions, Welcome,
};
use psync_protocol::session::{AnswerStep, AwaitingAnswer, Opening, Twin};
use psync_protocol::{Check, Content, Props, ProtocolError, Row, Time};

use crate::actors::twins;
use crate::samples::Sealed;
use crate::samples::{self, ALICE, BOB, file, hello, stated, statement, version, welcome};

fn versions() -> Versions {
    Versions { content: version(&[(ALICE, 1)]), props: version(&[(ALICE, 2), (BOB, 300)]) }
}

pub(crate) fn tree() -> Tree {
    let mut sketch = [0; 64];
    sketch[0] = 0x0102;
    sketch[63] = 0xfffe;
    Tree { count: 300, versions: versions(), digest: [0x77; 16], sketch }
}

/// Three runs; the last value stands at the limit.
pub(crate) fn summary() -> Summary {
    let values = vec![5, 0x0123, (3 << 8) - 1];
    Summary { spread: 2, versions: versions(), bits: 8, values }
}

pub(crate) fn common() -> Common {
    Common { versions: versions(), digest: [0x88; 16], runs: vec![0b101] }
}

/// As many as there are twins in the sessions of the tests.
pub(crate) fn steps() -> Vec<PropsStep> {
    vec![PropsStep { mode: 0, secs: 1_000, nanos: -5 }]
}

pub(crate) fn golden_steps() -> Vec<PropsStep> {
    vec![
        PropsStep { mode: 0o644, secs: 1_790_000_000, nanos: 5 },
        PropsStep { mode: 0, secs: -1, nanos: -5 },
        PropsStep::default(),
    ]
}

/// Files at the paths of these rows.
pub(crate) fn counterparts(numbers: &[u64]) -> Counterparts {
    let props = PropsStep { mode: 0o111, secs: -2, nanos: 1 };
    let file =
        |&number| Counterpart { number, props, size: 3, check: Check(0x0123_4567_89ab_cdef) };
    Counterparts { checked: true, files: numbers.iter().map(file).collect() }
}

fn decode(message: &Message, payload: &[u8]) -> Result<(), DecodeError> {
    match Message::decode(message.type_byte(), payload) {
        Ok(_) => Ok(()),
        Err(ProtocolError::Decode { error, .. }) => Err(error),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_message_about_a_tree_that_is_cut_or_goes_on_is_refused() {
    for message in [
        Message::Tree(tree()),
        Message::Demand(Demand::Differences(summary())),
        Message::Demand(Demand::Blank),
        Message::Common(common()),
        Message::Props(golden_steps()),
        Message::Counterparts(counterparts(&[3, 9])),
    ] {
        let whole = message.encode();
        for length in 0..whole.len() {
            let error = decode(&message, &whole[..length]);
            assert!(matches!(error, Err(DecodeError::Truncated(_))), "{length} {error:?}");
        }
        let more = [&whole[..], &[0]].concat();
        assert_eq!(decode(&message, &more), Err(DecodeError::Trailing(1, "a message")));
    }
    let demand = Message::Demand(Demand::Blank);
    assert_eq!(decode(&demand, &[3]), Err(DecodeError::Invalid("a demand")));
}

/// A summary without versions, of these measures and bytes.
fn demanded(spread: u8, bits: u8, count: u64, data: &[u8]) -> Result<(), DecodeError> {
    let mut out = vec![2, spread, 0, 0, 0, bits];
    out.put_varint(count);
    out.put_raw(data);
    decode(&Message::Demand(Demand::Blank), &out)
}

#[test]
fn a_summary_keeps_its_measures() {
    assert_eq!(demanded(20, 8, 0, &[]), Ok(()));
    assert_eq!(demanded(20, 40, 0, &[]), Ok(()));
    let error = Err(DecodeError::Invalid("a summary's measures"));
    for (spread, bits) in [(21, 8), (0, 7), (0, 41), (0, 0), (255, 255)] {
        assert_eq!(demanded(spread, bits, 0, &[]), error, "{spread} {bits}");
    }
    let (what, value, limit) = ("a count of runs", RUNS_MAX as u64 + 1, RUNS_MAX as u64);
    assert_eq!(demanded(0, 8, value, &[]), Err(DecodeError::TooLarge { what, value, limit }));
    assert_eq!(demanded(0, 8, limit, &[0; 9]), Err(DecodeError::Truncated(what)));
}

#[test]
fn the_values_of_a_summary_stay_below_their_limit() {
    // One run: a bit of zero, then eight bits.
    assert_eq!(demanded(0, 8, 1, &[0xfe, 0x01]), Ok(()));
    let error = Err(DecodeError::Invalid("a run's value"));
    // 256 is as many as there may be.
    assert_eq!(demanded(0, 8, 1, &[0x01, 0x00]), error);
    assert_eq!(demanded(0, 8, 1, &[0xff; 2]), error, "ones for ever");
    // Two runs: 511 is the last, and then one more.
    assert_eq!(demanded(0, 8, 2, &[0xfd, 0x03, 0x00]), Ok(()));
    assert_eq!(demanded(0, 8, 2, &[0xfd, 0x0b, 0x00]), error);
    // What fills the last byte.
    let filled = Err(DecodeError::Invalid("the end of a summary"));
    assert_eq!(demanded(0, 8, 1, &[0xfe, 0x03]), filled);
}

#[test]
fn a_summary_of_the_most_runs_fits_a_frame() {
    let count = RUNS_MAX as u64;
    let values = (0..count).map(|at| (at << 40) + 77).collect();
    let summary = Summary { spread: 20, versions: versions(), bits: 40, values };
    let message = Message::Demand(Demand::Differences(summary));
    let payload = message.encode();
    assert!(payload.len() < 1 << 20, "{}", payload.len());
    assert_eq!(Message::decode(25, &payload), Ok(message));
}

#[test]
fn properties_and_sets_of_runs_keep_their_limits() {
    let props = Message::Props(vec![
        PropsStep { mode: 0o7777, secs: i64::MIN, nanos: i64::MIN };
        PROPS_MAX
    ]);
    let payload = props.encode();
    assert!(payload.len() < 1 << 20, "{}", payload.len());
    assert_eq!(Message::decode(27, &payload), Ok(props.clone()));
    let error = decode(&props, &[0]);
    assert_eq!(error, Err(DecodeError::Invalid("a count of properties")));
    let mut many = Vec::new();
    many.put_varint(PROPS_MAX as u64 + 1);
    many.resize(PROPS_MAX * 4, 0);
    assert!(matches!(decode(&props, &many), Err(DecodeError::TooLarge { .. })));
    let mut mode = vec![1];
    mode.put_varint(0o10000);
    mode.extend([0, 0]);
    assert!(matches!(decode(&props, &mode), Err(DecodeError::TooLarge { what: "a mode", .. })));
    let runs = Common { runs: vec![0; RUNS_MAX / 8 + 1], ..common() };
    let message = Message::Common(runs);
    assert!(matches!(decode(&message, &message.encode()), Err(DecodeError::TooLarge { .. })));
}

#[test]
fn a_step_leads_back_or_nowhere() {
    let props = |mode, secs, nanos| Props { mode, mtime: Time { secs, nanos } };
    let ends = [
        props(0, 0, 0),
        props(0o7777, i64::MAX, 999_999_999),
        props(0o644, i64::MIN, 1),
        props(0o755, -1, 500),
    ];
    for from in ends {
        for to in ends {
            assert_eq!(PropsStep::between(&from, &to).from(&from), Some(to));
        }
        for nanos in [i64::MIN, i64::MAX, -1_000_000_000, 1_000_000_000] {
            assert_eq!(PropsStep { mode: 0, secs: 0, nanos }.from(&from), None);
        }
    }
}

/// Alice after she has left out the twins, at what is to come after the statement.
fn answer_to(twins: Vec<Twin>) -> AwaitingAnswer {
    let alice = Opening::new(&hello()).greeted();
    let rows = stated(&[file("a.txt", b"one", ALICE, 1)], alice.key());
    let (_, mut state) = alice.state(statement(), rows.clone());
    let verdict = Verdict::Restate { since: 0, first_contact: true };
    for message in [
        Message::Welcome(Welcome { verdict, ..welcome() }),
        Message::Statement(statement()),
        Message::Demand(Demand::Differences(summary())),
    ] {
        state = more(state, message).unwrap();
    }
    let AnswerStep::Turn(deciding) = state.sealed().receive(Message::End).unwrap() else {
        panic!()
    };
    let steps = vec![PropsStep::default(); twins.len()];
    let (_, state) = deciding.restate_differences(statement(), rows, common(), &steps, twins);
    more(state, Message::Statement(statement())).unwrap()
}

fn more(state: AwaitingAnswer, message: Message) -> Result<AwaitingAnswer, ProtocolError> {
    match state.receive(message)? {
        AnswerStep::More(state) => Ok(state),
        _ => panic!("the answer goes on"),
    }
}

/// What comes of an answer: the paths of the plan, each with whether both have a row there.
fn end(state: AwaitingAnswer) -> Result<Vec<(String, bool)>, ProtocolError> {
    let AnswerStep::Turn(mut deciding) = state.sealed().receive(Message::End)? else { panic!() };
    let paths = deciding.paths()?;
    let both = |stand: &psync_protocol::session::Stand| {
        (stand.path().to_string(), stand.initiator.is_some() && stand.responder.is_some())
    };
    Ok(paths.iter().map(both).collect())
}

#[test]
fn every_entry_that_both_have_wants_its_properties() {
    let step = || Message::Props(steps());
    let marks = || Message::Marks(vec![Mark::Behind]);
    let state = more(answer_to(twins()), marks()).unwrap();
    assert_eq!(end(state).unwrap_err(), ProtocolError::Contradiction("an answer is incomplete"));
    let state = more(more(answer_to(twins()), marks()).unwrap(), step()).unwrap();
    let error = more(state, step()).unwrap_err();
    assert_eq!(error, ProtocolError::Contradiction("there are more properties than entries"));
    let state = more(more(answer_to(twins()), marks()).unwrap(), step()).unwrap();
    let paths = [("a.txt".to_string(), false), ("twin.txt".to_string(), true)];
    assert_eq!(end(state).unwrap(), paths);
}

#[test]
fn properties_that_an_entry_cannot_have_are_refused() {
    let error = ProtocolError::Contradiction("an entry has properties that it cannot have");
    let after = |twin: Twin, step: PropsStep| {
        let state = more(answer_to(vec![twin]), Message::Marks(vec![Mark::Behind])).unwrap();
        end(more(state, Message::Props(vec![step])).unwrap()).map(drop)
    };
    let twin = || twins().remove(0);
    let too_late = PropsStep { nanos: 999_999_999, ..PropsStep::default() };
    assert_eq!(after(twin(), too_late), Err(error.clone()));
    let directory = |mut twin: Twin| {
        for row in [&mut twin.initiator, &mut twin.responder] {
            row.content = Content::Directory;
            row.props.mtime = Time::default();
        }
        twin
    };
    assert_eq!(after(directory(twin()), PropsStep::default()), Ok(()));
    let timed = PropsStep { secs: 1, ..PropsStep::default() };
    assert_eq!(after(directory(twin()), timed), Err(error.clone()));
    let link = |mut twin: Twin| {
        for row in [&mut twin.initiator, &mut twin.responder] {
            let (target, hash) = (b"x".as_slice().into(), Check(1));
            row.content = Content::Symlink { target, hash };
            row.props.mode = 0;
        }
        twin
    };
    let mode = PropsStep { mode: 0o644, ..PropsStep::default() };
    assert_eq!(after(link(twin()), mode), Err(error));
}

#[test]
fn a_responder_that_states_what_both_have_once_more_is_refused() {
    let key = psync_protocol::CheckKey::new(BOB, &welcome().nonce);
    let row: Row<Check> = file("twin.txt", b"other", BOB, 9).stated(&key);
    let rows = Message::Rows(psync_protocol::manifest::encode(&[row]).remove(0));
    let state = more(answer_to(twins()), Message::Marks(vec![Mark::Behind])).unwrap();
    let state = more(more(state, rows).unwrap(), Message::Props(steps())).unwrap();
    assert_eq!(end(state), Err(ProtocolError::Contradiction("a path is stated twice")));
}

#[test]
fn only_all_rows_are_demanded_of_whoever_has_left_some_out() {
    for demand in [Demand::Blank, Demand::Differences(summary())] {
        let error = more(answer_to(twins()), Message::Demand(demand)).unwrap_err();
        assert!(matches!(error, ProtocolError::Unexpected { got: "Demand", .. }), "{error}");
    }
    let state = more(answer_to(twins()), Message::Demand(Demand::Everything)).unwrap();
    let AnswerStep::Turn(deciding) = state.sealed().receive(Message::End).unwrap() else {
        panic!()
    };
    assert_eq!(deciding.answer.welcome.verdict, Verdict::Restate { since: 0, first_contact: true });
    let plan = Statement { live: 0, ..samples::statement() };
    let (messages, _) = deciding.restate(plan, Vec::new());
    assert_eq!(messages.len(), 2, "no row is left, and nothing is left out");
}

/// The row at a path of the plan that the responder has, after these counterparts.
fn row_after(files: Counterparts) -> Result<Option<Row<Check>>, ProtocolError> {
    let state = more(answer_to(twins()), Message::Marks(vec![Mark::Behind])).unwrap();
    let state = more(state, Message::Counterparts(files))?;
    let state = more(state, Message::Props(steps())).unwrap();
    let AnswerStep::Turn(mut deciding) = state.sealed().receive(Message::End)? else { panic!() };
    Ok(deciding.paths()?[0].responder.clone())
}

#[test]
fn a_counterpart_is_a_row_in_the_versions_of_what_both_have() {
    let row = row_after(counterparts(&[0])).unwrap().expect("it is told");
    let before = file("a.txt", b"one", ALICE, 1);
    assert_eq!(row.content, Content::File { size: 6, hash: Check(0x0123_4567_89ab_cdef) });
    assert_eq!(row.props.mode, before.props.mode ^ 0o111);
    assert_eq!(row.props.mtime.secs, before.props.mtime.secs - 2);
    assert_eq!(row.content_version, version(&[(BOB, 2)]));
    assert_eq!((row.base, row.agreed_mode), (None, row.props.mode));
}

#[test]
fn a_counterpart_of_no_row_or_with_what_no_file_has_is_refused() {
    let error = ProtocolError::Contradiction("a counterpart is of no row, or of one twice");
    assert_eq!(row_after(counterparts(&[1])), Err(error.clone()));
    assert_eq!(row_after(counterparts(&[0, 1])), Err(error.clone()));
    let state = more(answer_to(twins()), Message::Counterparts(counterparts(&[0]))).unwrap();
    assert_eq!(more(state, Message::Counterparts(counterparts(&[0]))).unwrap_err(), error);
    let error = ProtocolError::Contradiction("a counterpart is none of the row with its number");
    let changed = |change: fn(&mut Counterpart)| {
        let mut files = counterparts(&[0]);
        change(&mut files.files[0]);
        row_after(files)
    };
    assert_eq!(changed(|file| file.size = -4), Err(error.clone()));
    assert_eq!(changed(|file| file.size = i64::MAX), Err(error.clone()));
    assert_eq!(changed(|file| file.props.nanos = -6), Err(error.clone()));
    assert_eq!(changed(|file| file.props.nanos = 1_000_000_000), Err(error));
    assert!(changed(|file| file.size = -3).is_ok());
}

#[test]
fn a_row_that_is_stated_and_told_as_a_counterpart_is_refused() {
    let key = psync_protocol::CheckKey::new(BOB, &welcome().nonce);
    let row: Row<Check> = file("a.txt", b"other", BOB, 2).stated(&key);
    let rows = Message::Rows(psync_protocol::manifest::encode(&[row]).remove(0));
    let state = more(answer_to(twins()), Message::Marks(vec![Mark::Behind])).unwrap();
    let state = more(more(state, rows).unwrap(), Message::Counterparts(counterparts(&[0])));
    let state = more(state.unwrap(), Message::Props(steps())).unwrap();
    assert_eq!(end(state), Err(ProtocolError::Contradiction("a path is stated twice")));
}

#[test]
fn counterparts_keep_their_limits() {
    let numbers: Vec<u64> = (0..COUNTERPARTS_MAX as u64).map(|at| at * 600).collect();
    let mut files = counterparts(&numbers);
    for file in &mut files.files {
        file.props = PropsStep { mode: 0o7777, secs: i64::MIN, nanos: i64::MIN };
        file.size = i64::MIN;
    }
    let message = Message::Counterparts(files);
    let payload = message.encode();
    assert!(payload.len() < 1 << 20, "{}", payload.len());
    assert_eq!(Message::decode(28, &payload), Ok(message.clone()));
    assert_eq!(decode(&message, &[2]), Err(DecodeError::Invalid("whether there are checks")));
    assert_eq!(decode(&message, &[0, 0]), Err(DecodeError::Invalid("a count of counterparts")));
    let mut many = vec![0];
    many.put_varint(COUNTERPARTS_MAX as u64 + 1);
    many.resize(COUNTERPARTS_MAX * 8, 0);
    assert!(matches!(decode(&message, &many), Err(DecodeError::TooLarge { .. })));
    let mut far = vec![0, 1];
    far.put_varint(10_000_001);
    far.extend([0; 4]);
    let error = decode(&message, &far);
    assert!(matches!(error, Err(DecodeError::TooLarge { what: "a row's number", .. })));
}
