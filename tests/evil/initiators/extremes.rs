//! Numbers, times and names at their ends.

use super::*;

const NUMBERS: &[Attack] = &[
    attack("rows beyond all that this side ever had", Nothing, |peer| {
        peer.hello.processed = NUMBER_MAX;
        one_edit(peer);
    }),
    attack("a sequence of 2^64 - 1", Refused(PROTOCOL, "a sequence number"), |peer| {
        peer.greet();
        let mut statement = Vec::new();
        statement.put_varint(u64::MAX);
        statement.put_raw(&[0; 10]);
        peer.voice.frame(3, &statement);
    }),
    attack("a sequence that goes back", Refused(ErrorCode::RolledBack, "older"), |peer| {
        let statement = Statement { sequence: 0, ..peer.mask.statement() };
        peer.state_as(statement, &[]);
    }),
    attack("a change that this side never made", Refused(ErrorCode::StartAnew, "older"), |peer| {
        let row = peer.mask.edit("a.txt", b"1");
        let version = Version::from_pairs(vec![(peer.mask.victim.replica, NUMBER_MAX)]);
        peer.state(&[Row { content_version: version, ..row }]);
    }),
];

#[test]
fn numbers_at_their_ends_are_met() {
    each_is_met(NUMBERS);
}

const EXTREMES: &[Attack] = &[
    attack("a counter that leaves no room for another", Told(""), |peer| {
        let highest = Version::from_pairs(vec![(peer.mask.replica, NUMBER_MAX)]);
        let row = Row {
            content_version: highest.clone(),
            props_version: highest,
            ..peer.mask.file("new", b"new")
        };
        peer.state(&[row]);
        let counter = NUMBER_MAX;
        peer.voice.say(&Message::Plan(Plan::new(counter, 0, &[take().resolved()])));
        peer.content(0, b"new");
        peer.finish();
    }),
    attack("a planner whose clock is at its end", Told(""), |peer| {
        let highest = Version::from_pairs(vec![(peer.mask.replica, NUMBER_MAX)]);
        let row = Row {
            content_version: highest.clone(),
            props_version: highest,
            ..peer.mask.edit("a.txt", b"new")
        };
        peer.state(&[row]);
        let arrive = Decision {
            content: ContentDecision::Arrive { from: Role::Initiator, source: 0 },
            content_resolved: true,
            props_resolved: true,
            props: PropsDecision::Agree,
        };
        peer.voice.say(&Message::Plan(Plan::new(NUMBER_MAX, 0, &[arrive])));
        peer.content(0, b"new");
        peer.finish();
    }),
    attack("a file of 2^63 - 1 bytes", Told("no room for"), |peer| {
        let content = Content::File { size: NUMBER_MAX, hash: Check(1) };
        let row = Row { base: None, ..peer.mask.change("huge", content, 0o644) };
        peer.impose(&[row]);
        peer.content(0, b"short");
        peer.finish();
    }),
    attack("times at both ends of time", Told(""), |peer| {
        let time = |path: &str, secs, nanos| Row {
            props: Props { mode: 0o644, mtime: Time { secs, nanos } },
            ..peer.mask.file(path, b"")
        };
        let rows = [
            time("t1", i64::MIN, 0),
            time("t2", i64::MAX, 999_999_999),
            time("t3", -1, 999_999_999),
        ];
        let merged =
            PropsDecision::Merge(Props { mode: 0o7777, mtime: Time { secs: i64::MIN, nanos: 1 } });
        peer.state(&rows);
        peer.plan(&[take(), take(), Decision { props: merged, ..take() }]);
        peer.finish();
    }),
    attack("times of links and directories", Told(""), |peer| {
        let link = peer.mask.link("l", b"nowhere");
        let link =
            Row { props: Props { mtime: Time { secs: i64::MAX, nanos: 0 }, ..link.props }, ..link };
        let rows = [peer.mask.dir("d"), link];
        let merged =
            PropsDecision::Merge(Props { mode: 0o7777, mtime: Time { secs: i64::MAX, nanos: 1 } });
        peer.state(&rows);
        peer.plan(&[Decision { props: merged, ..take() }, Decision { props: merged, ..take() }]);
        peer.finish();
    }),
    attack("a set-id bit", Told(""), |peer| {
        let row = Row {
            props: Props { mode: 0o6755, mtime: Time { secs: 5, nanos: 0 } },
            ..peer.mask.file("s", b"")
        };
        peer.impose(&[row]);
        peer.finish();
    }),
    attack("properties of what is gone", Told(""), |peer| {
        let row = peer.mask.gone("a.txt");
        let merged =
            PropsDecision::Merge(Props { mode: 0o7777, mtime: Time { secs: 5, nanos: 1 } });
        peer.state(&[row]);
        peer.plan(&[Decision { props: merged, ..take() }]);
        peer.finish();
    }),
    attack("a sequence at its end when all is done", Told(""), |peer| {
        let row = peer.mask.edit("a.txt", b"another");
        peer.impose(&[row]);
        peer.content(0, b"another");
        peer.voice.say(&Message::Done(Done { sequence: NUMBER_MAX, failures: Vec::new() }));
        peer.voice.say(&Message::End);
        peer.voice.flight();
    }),
    attack("names that the stage and the trash have, too", Told(""), |peer| {
        let rows = [
            peer.mask.file("00000000", b"0"),
            peer.mask.file("00000001", b"1"),
            peer.mask.dir("stage"),
            peer.mask.file("stage/00000000", b"2"),
            peer.mask.dir("trash"),
            peer.mask.file("trash/x", b"3"),
            peer.mask.file("unfinished", b"4"),
        ];
        peer.impose(&rows);
        for (index, content) in [(0, b"0"), (1, b"1"), (3, b"2"), (5, b"3"), (6, b"4")] {
            peer.content(index, content);
        }
        peer.finish();
    }),
    attack("a directory in the place of a file that stays", Told(""), |peer| {
        let rows = [peer.mask.dir("a.txt"), peer.mask.file("a.txt/x", b"x")];
        peer.impose(&rows);
        peer.content(1, b"x");
        peer.finish();
    }),
    attack("a file in the place of a directory that is in use", Told("cannot"), |peer| {
        let row = peer.mask.file("docs", b"x");
        peer.impose(&[row]);
        peer.content(0, b"x");
        peer.finish();
    }),
    attack("two arrivals of one file", Told(""), |peer| {
        let rows = [peer.mask.file("n1", b"n"), peer.mask.file("n2", b"n")];
        peer.state(&rows);
        let arrive = of(ContentDecision::Arrive { from: Role::Initiator, source: 0 });
        peer.plan(&[arrive.clone(), arrive]);
        peer.content(0, b"n");
        peer.finish();
    }),
];

/// Whatever comes of these, the root can be synced afterwards, and nothing is lost of it.
#[test]
fn what_is_legal_and_extreme_leaves_a_root_that_works() {
    let mut faults = Vec::new();
    for Attack { name, expect, does } in EXTREMES {
        let ground = Ground::new();
        let mask = ground.as_near();
        let before = snapshot(&ground.far);
        let ended = ground.server(&[], |voice| does(&mut Guise::new(mask.clone(), voice)));
        let wrong = ended.wrong(*expect, &before, &snapshot(&ground.far));
        faults.extend(wrong.map(|wrong| format!("{name}: {wrong}")));
        let fresh = ground.temp.folder("fresh");
        let mut command = crate::common::psync(&ground.temp);
        let output = crate::common::run(command.arg(&ground.far).arg(&fresh));
        let code = output.status.code();
        assert!(
            code == Some(0) || code == Some(23),
            "{name}: {code:?}\n{}",
            crate::common::describe(&command, &output)
        );
        assert_eq!(read_text(fresh.join("docs/deep/c.txt")), "third\n", "{name}");
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}
