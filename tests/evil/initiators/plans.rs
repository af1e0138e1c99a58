//! Plans that nobody may make.

use super::*;

/// The payload of a plan.
fn plan_of(counter: u64, extra: u64, column: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_varint(counter);
    out.put_varint(extra);
    out.put_raw(column);
    out
}

const PLANS: &[Attack] = &[
    attack(
        "a deletion at the first contact",
        Refused(PROTOCOL, "deletes at a first contact"),
        |peer| {
            peer.mask = peer.mask.clone().stranger();
            peer.hello = Hello { expected: None, processed: 0, ..peer.mask.hello() };
            let row = Row { base: None, ..peer.mask.gone("a.txt") };
            let everything = Statement { coverage: Coverage::Everything, ..peer.mask.statement() };
            peer.state_as(everything, &[row]);
            let stated = peer.answer.iter().filter_map(|message| match message {
                Message::Rows(payload) => Some(usize::from(payload[0])),
                _ => None,
            });
            let paths = stated.sum();
            let plan = vec![take(); paths];
            peer.plan(&plan);
        },
    ),
    attack("a decision too few", Refused(PROTOCOL, "waiting for a plan"), |peer| {
        let rows = [peer.mask.edit("a.txt", b"1"), peer.mask.edit("docs/b.txt", b"2")];
        peer.state(&rows);
        peer.plan(&[take()]);
        peer.content(0, b"1");
    }),
    attack("a decision too many", Refused(PROTOCOL, "a count of decisions"), |peer| {
        one_edit(peer);
        peer.plan(&[take(), take()]);
    }),
    attack("no decision", Refused(PROTOCOL, "the count of decisions"), |peer| {
        one_edit(peer);
        peer.plan(&[]);
    }),
    attack("a decision without meaning", Refused(PROTOCOL, "a decision"), |peer| {
        one_edit(peer);
        let plan = plan_of(peer.mask.clock + 9, 0, &[1, 15, 1]);
        peer.voice.frame(6, &plan);
    }),
    attack("a run of no decisions", Refused(PROTOCOL, "a run of decisions"), |peer| {
        one_edit(peer);
        let plan = plan_of(peer.mask.clock + 9, 0, &[1, 1, 0]);
        peer.voice.frame(6, &plan);
    }),
    attack("2^63 decisions in a run", Refused(PROTOCOL, "a run of decisions"), |peer| {
        one_edit(peer);
        let mut column = vec![1, 1];
        column.put_varint(1 << 63);
        let plan = plan_of(peer.mask.clock + 9, 0, &column);
        peer.voice.frame(6, &plan);
    }),
    attack("2^63 decisions", Refused(PROTOCOL, "a count of decisions"), |peer| {
        one_edit(peer);
        let mut column = Vec::new();
        column.put_varint(1 << 63);
        let plan = plan_of(peer.mask.clock + 9, 0, &column);
        peer.voice.frame(6, &plan);
    }),
    attack("bytes after the decisions", Refused(PROTOCOL, "left over"), |peer| {
        one_edit(peer);
        let plan = plan_of(peer.mask.clock + 9, 0, &[1, 1, 1, 0, 0]);
        peer.voice.frame(6, &plan);
    }),
    attack("an arrival from nowhere", Refused(PROTOCOL, "an arrival's source"), |peer| {
        one_edit(peer);
        let plan = plan_of(peer.mask.clock + 9, 0, &[1, 7, 1, 1]);
        peer.voice.frame(6, &plan);
    }),
    attack("an arrival from 2^64 - 1", Refused(PROTOCOL, "an arrival's source"), |peer| {
        one_edit(peer);
        let mut column = vec![1, 8, 1];
        column.put_varint(u64::MAX);
        let plan = plan_of(peer.mask.clock + 9, 0, &column);
        peer.voice.frame(6, &plan);
    }),
    attack("the parts of a plan differ", Refused(PROTOCOL, "the parts of a plan differ"), |peer| {
        let rows = [peer.mask.edit("a.txt", b"1"), peer.mask.edit("docs/b.txt", b"2")];
        peer.state(&rows);
        let clock = peer.mask.clock;
        peer.voice.frame(6, &plan_of(clock + 9, 0, &[1, 1, 1]));
        peer.voice.frame(6, &plan_of(clock + 10, 0, &[1, 1, 1]));
    }),
    attack(
        "an extra row of another path",
        Refused(PROTOCOL, "an extra row is not of the plan"),
        |peer| {
            one_edit(peer);
            let plan = plan_of(peer.mask.clock + 9, 1, &[1, 9, 1]);
            peer.voice.frame(6, &plan);
            let rows = peer.mask.raw_rows(&[b"new"]);
            peer.voice.frame(4, &rows);
            peer.voice.say(&Message::End);
        },
    ),
    attack(
        "an extra row in the place of one stated",
        Refused(PROTOCOL, "an extra row is not of the plan"),
        |peer| {
            one_edit(peer);
            let plan = plan_of(peer.mask.clock + 9, 1, &[1, 9, 1]);
            peer.voice.frame(6, &plan);
            let rows = peer.mask.raw_rows(&[b"a.txt"]);
            peer.voice.frame(4, &rows);
            peer.voice.say(&Message::End);
        },
    ),
    attack(
        "more extra rows than announced",
        Refused(PROTOCOL, "more extra rows than announced"),
        |peer| {
            one_edit(peer);
            let plan = plan_of(peer.mask.clock + 9, 1, &[1, 9, 1]);
            peer.voice.frame(6, &plan);
            let rows = peer.mask.raw_rows(&[b"new", b"newer"]);
            peer.voice.frame(4, &rows);
        },
    ),
    attack("10,000,001 extra rows", Refused(PROTOCOL, "a count of rows"), |peer| {
        one_edit(peer);
        let plan = plan_of(peer.mask.clock + 9, 10_000_001, &[1, 9, 1]);
        peer.voice.frame(6, &plan);
    }),
    attack("what nobody has stated", Refused(PROTOCOL, "takes what was never stated"), |peer| {
        one_edit(peer);
        peer.plan(&[Decision::take(Role::Responder)]);
        peer.finish();
    }),
    attack(
        "a clash file in another directory",
        Refused(PROTOCOL, "a clash file does not stand beside"),
        |peer| {
            one_edit(peer);
            peer.plan(&[keep_both("docs/a_clash.txt")]);
        },
    ),
    attack("a clash file above", Refused(PROTOCOL, "a clash file does not stand beside"), |peer| {
        let row = peer.mask.edit("docs/deep/c.txt", b"another");
        peer.state(&[row]);
        peer.plan(&[keep_both("docs/c_clash.txt")]);
    }),
    attack(
        "a clash file in the place itself",
        Refused(PROTOCOL, "a clash file does not stand beside"),
        |peer| {
            one_edit(peer);
            peer.plan(&[keep_both("a.txt")]);
        },
    ),
    attack(
        "two clash files of one name",
        Refused(PROTOCOL, "a clash file does not stand beside"),
        |peer| {
            let rows = [peer.mask.edit("a.txt", b"1"), peer.mask.link("way-out", b"elsewhere")];
            peer.state(&rows);
            peer.plan(&[keep_both("clash"), keep_both("clash")]);
        },
    ),
    attack("what a filter leaves alone", Refused(PROTOCOL, "cannot or will not sync"), |peer| {
        peer.hello.filters = vec![Filter { include: false, pattern: "a.txt".into() }];
        peer.mask.victim.our_scope = [0; 8];
        let row = peer.mask.edit("a.txt", b"1");
        let everything = Statement { coverage: Coverage::Everything, ..peer.mask.statement() };
        peer.state_as(everything, &[row]);
        let rows = peer.answer.iter().filter_map(|message| match message {
            Message::Rows(payload) => Some(usize::from(payload[0])),
            _ => None,
        });
        let paths = 1 + rows.sum::<usize>();
        peer.plan(&vec![take(); paths]);
    }),
    attack(
        "a change of a side that is mirrored",
        Refused(PROTOCOL, "it changes this side, which is mirrored"),
        |peer| {
            peer.hello.flow = Flow::ToInitiator;
            one_edit(peer);
            peer.plan(&[take()]);
        },
    ),
    attack(
        "a plan after a dry run",
        Refused(PROTOCOL, "a dry run is followed by a plan"),
        |peer| {
            peer.hello.intent = Intent::Show;
            one_edit(peer);
            peer.plan(&[take()]);
            peer.content(0, b"another");
        },
    ),
    attack(
        "a plan instead of the rows that were asked for",
        Refused(PROTOCOL, "the peer sent Plan"),
        |peer| {
            peer.hello.expected = None;
            one_edit(peer);
            peer.plan(&[take()]);
        },
    ),
];

#[test]
fn plans_that_nobody_may_make_are_refused() {
    all_are_refused(PLANS);
}

#[test]
fn a_plan_that_deletes_most_of_a_tree_is_refused_whoever_made_it() {
    let ground = Ground::with(|ground| {
        (0..250).for_each(|n| write_file(ground.far.join(format!("many/{n:03}")), "x"));
    });
    let mask = ground.as_near();
    let before = snapshot(&ground.far);
    let ended = ground.server(&[], |voice| {
        let mut peer = Guise::new(mask.clone(), voice);
        let rows: Vec<_> = (0..250).map(|n| mask.gone(&format!("many/{n:03}"))).collect();
        peer.impose(&rows);
        peer.finish();
    });
    let expect = Refused(ErrorCode::Guard, "at most");
    let wrong = ended.wrong(expect, &before, &snapshot(&ground.far));
    assert!(wrong.is_none(), "{}", wrong.unwrap_or_default());
    assert_eq!(ended.code, Some(41));
}
