//! Responders that attack an end which a person has started: a server that was taken over.

use psync_protocol::codec::NUMBER_MAX;
use psync_protocol::message::{
    Base, Coverage, Demand, Done, Failure, FailureKind, Mark, Patched, Patches, Problem,
    ProblemKind, Proof, Statement, Verdict, Want, WantDelta, WantKind, Welcome,
};
use psync_protocol::{Check, Content, ContentHash, ErrorCode, Message, Props, Row, Time, manifest};

use super::common::tree::snapshot;
use super::common::write_file;
use super::ground::{Expect, Ground};
use super::mask::{Mask, path_of};
use super::voice::Voice;
use Expect::{Nothing, Refused, Told};

const PROTOCOL: ErrorCode = ErrorCode::Protocol;
const SIGNATURE: ErrorCode = ErrorCode::Signature;

/// A responder in somebody's name.
pub(crate) struct Host<'v> {
    pub(crate) mask: Mask,
    pub(crate) voice: &'v mut Voice,
}

impl Host<'_> {
    /// Hears the caller's first flight, and answers that it is welcome.
    pub(crate) fn welcome(&mut self) {
        self.voice.flight();
        let welcome = self.mask.welcome();
        self.voice.greet_as(&self.mask, &Message::Welcome(welcome));
    }

    /// Answers with these rows, and hears what is planned.
    pub(crate) fn state(&mut self, rows: &[Row<Check>]) -> Vec<Message> {
        self.welcome();
        self.rows(rows);
        self.voice.say(&Message::End);
        self.voice.flight()
    }

    fn rows(&mut self, rows: &[Row<Check>]) {
        let mut rows = rows.to_vec();
        rows.sort_by(|a, b| a.path.cmp(&b.path));
        let statement = self.mask.statement();
        self.voice.say(&Message::Statement(statement));
        for batch in manifest::encode(&rows) {
            self.voice.frame(4, &batch);
        }
    }

    pub(crate) fn content(&mut self, index: u64, content: &[u8]) {
        self.voice.say(&Message::File(index));
        for piece in content.chunks(512 << 10) {
            self.voice.say(&Message::Literal(piece.to_vec()));
        }
        self.voice.say(&Message::FileEnd(Some(ContentHash::of_bytes(content))));
    }

    pub(crate) fn done(&mut self) {
        let sequence = self.mask.sequence + 200;
        self.voice.say(&Message::Done(Done { sequence, failures: Vec::new() }));
    }

    /// Is done, and hears the caller out, which gets nothing more.
    pub(crate) fn finish(&mut self) {
        self.done();
        self.voice.say(&Message::End);
        for _ in 0..10 {
            let flight = self.voice.flight();
            let wants: Vec<u64> = flight.iter().filter_map(wanted).collect();
            if wants.is_empty() {
                return;
            }
            for index in wants {
                let (kind, text) = (FailureKind::System, "not for you".to_string());
                self.voice.say(&Message::FileFailed(Failure { index, kind, text }));
            }
            self.voice.say(&Message::End);
        }
    }

    /// Answers with these rows, and sends these contents for all that is wanted.
    fn give(&mut self, rows: &[Row<Check>], content: &[u8]) {
        let flight = self.state(rows);
        for index in flight.iter().filter_map(wanted) {
            self.content(index, content);
        }
        self.finish();
    }
}

fn wanted(message: &Message) -> Option<u64> {
    match message {
        Message::Want(want) => Some(want.index),
        _ => None,
    }
}

struct Attack {
    name: &'static str,
    expect: Expect,
    does: fn(&mut Host),
}

const fn attack(name: &'static str, expect: Expect, does: fn(&mut Host)) -> Attack {
    Attack { name, expect, does }
}

/// Each against one tree that nobody may change by it.
#[track_caller]
fn all_are_refused(attacks: &[Attack]) {
    let ground = Ground::new();
    let mask = ground.as_far();
    let before = snapshot(&ground.near);
    let mut faults = Vec::new();
    for Attack { name, expect, does } in attacks {
        let (mask, does) = (mask.clone(), *does);
        let ended = ground.caller(&["-v"], move |voice| does(&mut Host { mask, voice }));
        let wrong = ended.wrong(*expect, &before, &snapshot(&ground.near));
        faults.extend(wrong.map(|wrong| format!("{name}: {wrong}")));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
    ground.agree();
}

/// Each against a tree of its own.
#[track_caller]
fn each_is_met(attacks: &[Attack]) {
    let mut faults = Vec::new();
    for Attack { name, expect, does } in attacks {
        let ground = Ground::new();
        let (mask, does) = (ground.as_far(), *does);
        let before = snapshot(&ground.near);
        let ended = ground.caller(&["-v"], move |voice| does(&mut Host { mask, voice }));
        let wrong = ended.wrong(*expect, &before, &snapshot(&ground.near));
        faults.extend(wrong.map(|wrong| format!("{name}: {wrong}")));
        let fresh = ground.temp.folder("fresh");
        let mut command = super::common::psync(&ground.temp);
        let output = super::common::run(command.arg(&ground.near).arg(&fresh));
        let code = output.status.code();
        let all = super::common::describe(&command, &output);
        assert!(matches!(code, Some(0 | 23 | 40)), "{name}: {code:?}\n{all}");
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

const ANSWERS: &[Attack] = &[
    attack(
        "a greeting that is the caller's own",
        Refused(PROTOCOL, "the peer sent Hello"),
        |peer| {
            peer.voice.flight();
            let hello = peer.mask.hello();
            peer.voice.greet(&Message::Hello(hello));
        },
    ),
    attack("rows before a statement", Refused(PROTOCOL, "the peer sent Rows"), |peer| {
        peer.welcome();
        let rows = peer.mask.raw_rows(&[b"a"]);
        peer.voice.frame(4, &rows);
    }),
    attack("rows that descend", Refused(PROTOCOL, "the order of the rows"), |peer| {
        peer.welcome();
        let (statement, rows) = (peer.mask.statement(), peer.mask.raw_rows(&[b"b", b"a"]));
        peer.voice.say(&Message::Statement(statement));
        peer.voice.frame(4, &rows);
    }),
    attack(
        "marks of rows that were not stated",
        Refused(PROTOCOL, "the peer sent Marks"),
        |peer| {
            peer.welcome();
            let statement = peer.mask.statement();
            peer.voice.say(&Message::Statement(statement));
            peer.voice.say(&Message::Marks(vec![Mark::Equal]));
        },
    ),
    attack("a demand that may not be", Refused(PROTOCOL, "the peer sent Demand"), |peer| {
        peer.welcome();
        let statement = peer.mask.statement();
        peer.voice.say(&Message::Statement(statement));
        peer.voice.say(&Message::Demand(Demand::Everything));
    }),
    attack("counterparts of nothing", Refused(PROTOCOL, "the peer sent Counterparts"), |peer| {
        peer.welcome();
        let statement = peer.mask.statement();
        peer.voice.say(&Message::Statement(statement));
        peer.voice.frame(28, &[0, 1, 0, 0, 0, 0, 0]);
    }),
    attack("a plan of its own", Refused(PROTOCOL, "the peer sent Plan"), |peer| {
        peer.welcome();
        peer.voice.frame(6, &[1, 0, 0]);
    }),
    attack("an answer cut short", Refused(PROTOCOL, "ended too early"), |peer| {
        peer.welcome();
    }),
    attack("the caller's own identity", Refused(SIGNATURE, "not signed with its key"), |peer| {
        peer.voice.flight();
        let who = Some((peer.mask.victim.replica, peer.mask.index));
        let welcome = Welcome { who, ..peer.mask.welcome() };
        peer.voice.greet_as(&peer.mask, &Message::Welcome(welcome));
        peer.rows(&[]);
        peer.voice.say(&Message::End);
        peer.voice.flight();
    }),
    attack("demands without end", Refused(PROTOCOL, "the peer sent Demand"), |peer| {
        peer.voice.flight();
        let verdict = Verdict::Restate { since: 0, first_contact: false };
        let welcome = Welcome { verdict, ..peer.mask.welcome() };
        peer.voice.greet_as(&peer.mask, &Message::Welcome(welcome));
        let statement = Statement { coverage: Coverage::Everything, ..peer.mask.statement() };
        for _ in 0..10 {
            peer.voice.say_all(&[
                Message::Statement(statement.clone()),
                Message::Demand(Demand::Everything),
                Message::End,
            ]);
            peer.voice.flight();
        }
    }),
    attack(
        "contents of rows that there are not",
        Refused(PROTOCOL, "a content is of no row"),
        |peer| {
            peer.welcome();
            peer.rows(&[]);
            let contents = vec![Patched { index: 7, base: Base::Own }];
            peer.voice.say(&Message::Patches(Patches { contents, patch: vec![1; 9] }));
            peer.voice.say(&Message::Proof(Proof::of(&[ContentHash([0; 32])])));
            peer.voice.say(&Message::End);
            peer.voice.flight();
        },
    ),
    attack(
        "contents along with rows, that nothing proves",
        Refused(PROTOCOL, "not proved"),
        |peer| {
            let row = peer.mask.edit("a.txt", b"x");
            peer.welcome();
            peer.rows(&[row]);
            let contents = vec![Patched { index: 0, base: Base::Own }];
            peer.voice.say(&Message::Patches(Patches { contents, patch: vec![1; 9] }));
            peer.voice.say(&Message::End);
            peer.voice.flight();
        },
    ),
    attack("known entries that nobody knows", Nothing, |peer| {
        peer.welcome();
        peer.rows(&[]);
        peer.voice.frame(30, &[9; 17]);
        peer.voice.say(&Message::End);
        peer.voice.flight();
    }),
    attack("an error with words that steer", Refused(PROTOCOL, "stop"), |peer| {
        peer.voice.flight();
        let text = "stop \x1b[2J\u{202e}\u{9b}31m\r\n\x07".to_string();
        peer.voice.greet(&Message::Error { code: PROTOCOL, text });
    }),
];

#[test]
fn answers_that_make_no_sense_are_refused() {
    all_are_refused(ANSWERS);
}

const EXCHANGE: &[Attack] = &[
    attack(
        "a content that was not asked for",
        Refused(PROTOCOL, "a content was not asked for"),
        |peer| {
            let row = peer.mask.props("a.txt", 0o600, 5);
            peer.state(&[row]);
            peer.content(0, b"x");
        },
    ),
    attack("a content beyond the plan", Refused(PROTOCOL, "a content was not asked for"), |peer| {
        let row = peer.mask.props("a.txt", 0o600, 5);
        peer.state(&[row]);
        peer.content(u64::MAX, b"x");
    }),
    attack("a want beyond the plan", Refused(PROTOCOL, "a want is not of the plan"), |peer| {
        let row = peer.mask.props("a.txt", 0o600, 5);
        peer.state(&[row]);
        peer.voice.say(&Message::Want(Want { index: 1, kind: WantKind::Whole }));
    }),
    attack(
        "nothing of what was wanted",
        Refused(PROTOCOL, "a wanted content did not come"),
        |peer| {
            let row = peer.mask.file("new", &[b'x'; 4000]);
            peer.state(&[row]);
            peer.done();
            peer.voice.say(&Message::End);
        },
    ),
    attack("rows in the middle of contents", Refused(PROTOCOL, "the peer sent Rows"), |peer| {
        let row = peer.mask.file("new", &[b'x'; 4000]);
        peer.state(&[row]);
        let rows = peer.mask.raw_rows(&[b"a"]);
        peer.voice.frame(4, &rows);
    }),
];

#[test]
fn what_the_caller_has_not_asked_for_is_refused() {
    let mut faults = Vec::new();
    for Attack { name, expect, does } in EXCHANGE {
        let ground = Ground::new();
        let (mask, does) = (ground.as_far(), *does);
        let ended = ground.caller(&["-v"], move |voice| does(&mut Host { mask, voice }));
        // Properties that were agreed may have been set by then.
        let now = snapshot(&ground.near);
        let wrong = ended.wrong(*expect, &now, &now);
        faults.extend(wrong.map(|wrong| format!("{name}: {wrong}")));
        assert_eq!(ended.code, Some(12), "{name}: {}", ended.all());
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

const LINKS: &[Attack] = &[
    attack("a new link, and files behind it", Told("cannot"), |peer| {
        let rows = [
            peer.mask.link("zone", b"../outside"),
            peer.mask.file("zone/new", &[b'x'; 4000]),
            peer.mask.file("zone/secret", &[b'x'; 4000]),
        ];
        peer.give(&rows, &[b'x'; 4000]);
    }),
    attack(
        "a new link, and directories and links behind it",
        Told("something else stands there"),
        |peer| {
            let rows = [
                peer.mask.link("zone", b"../outside"),
                peer.mask.dir("zone/dir"),
                peer.mask.link("zone/new", b"x"),
            ];
            peer.give(&rows, b"");
        },
    ),
    attack("a link in the place of a directory that is in use", Nothing, |peer| {
        let rows = [
            peer.mask.link("docs", b"../outside"),
            peer.mask.edit("docs/b.txt", &[b'x'; 4000]),
            peer.mask.file("docs/secret", &[b'x'; 4000]),
        ];
        let flight = peer.state(&rows);
        // The directory is known to hold what is not spoken of: it has to stay.
        for index in flight.iter().filter_map(wanted) {
            peer.voice.say(&Message::FileFailed(Failure {
                index,
                kind: FailureKind::System,
                text: "no".into(),
            }));
        }
        peer.voice.close();
    }),
    attack("files behind a link that stands there", Told("cannot"), |peer| {
        let rows = [
            peer.mask.file("way-out/secret", &[b'x'; 4000]),
            peer.mask.file("way-out/dir/inner", &[b'x'; 4000]),
        ];
        peer.give(&rows, &[b'x'; 4000]);
    }),
    attack("deletions behind a link", Nothing, |peer| {
        let rows = [
            peer.mask.gone("way-out/dir"),
            peer.mask.gone("way-out/dir/inner"),
            peer.mask.gone("way-out/secret"),
        ];
        peer.give(&rows, b"");
    }),
    attack("a move from behind a link", Told(""), |peer| {
        let gone = peer.mask.gone("way-out/secret");
        let moved = Row {
            content: Content::Deleted { moved_to: Some(path_of("stolen")) },
            base: None,
            ..gone
        };
        let new = peer.mask.file("stolen", super::ground::SECRET.as_bytes());
        let base = new.content.fingerprint();
        let rows = [new, Row { base, ..moved }];
        let flight = peer.state(&rows);
        for index in flight.iter().filter_map(wanted) {
            peer.voice.say(&Message::FileFailed(Failure {
                index,
                kind: FailureKind::System,
                text: "no".into(),
            }));
        }
        peer.finish();
    }),
    attack("mode and time behind a link", Nothing, |peer| {
        let rows =
            [peer.mask.props("way-out/dir", 0o777, 0), peer.mask.props("way-out/secret", 0o777, 5)];
        let rows = rows.map(|row| Row {
            content: Content::Directory,
            props: Props { mode: 0o777, mtime: Time::default() },
            ..row
        });
        peer.give(&rows, b"");
    }),
];

/// Each against a tree of its own; it may change, but not outside.
#[test]
fn nothing_is_done_through_a_link_that_leads_outside() {
    let mut faults = Vec::new();
    for Attack { name, expect, does } in LINKS {
        let ground = Ground::new();
        let (mask, does) = (ground.as_far(), *does);
        let ended = ground.caller(&["-v"], move |voice| does(&mut Host { mask, voice }));
        let now = snapshot(&ground.near);
        let wrong = ended.wrong(*expect, &now, &now);
        faults.extend(wrong.map(|wrong| format!("{name}: {wrong}")));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

#[test]
fn what_is_excluded_here_is_not_sent_however_it_is_asked_for() {
    let ground = Ground::new();
    let mask = ground.as_far();
    // Synced once without the filter: the index knows the file.
    let ended = ground.caller(&["-v", "--exclude", "a.txt"], move |voice| {
        let mut peer = Host { mask, voice };
        // Another scope: everything is stated, and so everything has a mark.
        let flight = peer.voice.flight();
        let welcome = peer.mask.welcome();
        peer.voice.greet_as(&peer.mask, &Message::Welcome(welcome));
        let stated: usize = flight
            .iter()
            .map(|message| match message {
                Message::Rows(payload) => usize::from(payload[0]),
                Message::Tree(tree) => tree.count as usize,
                _ => 0,
            })
            .sum();
        let row = peer.mask.edit("a.txt", b"mine");
        let statement = Statement { coverage: Coverage::Everything, ..peer.mask.statement() };
        peer.voice.say(&Message::Statement(statement));
        peer.voice.say(&Message::Marks(vec![Mark::Equal; stated]));
        for batch in manifest::encode(&[row, peer.mask.props("way-out", 0, 77)]) {
            peer.voice.frame(4, &batch);
        }
        peer.voice.say(&Message::End);
        let flight = peer.voice.flight();
        assert!(flight.iter().any(|message| matches!(message, Message::Plan(_))), "{flight:?}");
        peer.voice.say(&Message::Want(Want { index: 0, kind: WantKind::Whole }));
        peer.voice.say(&Message::End);
        let flight = peer.voice.flight();
        let sent =
            flight.iter().any(|message| matches!(message, Message::File(_) | Message::Patches(_)));
        assert!(!sent, "{flight:?}");
        peer.finish();
    });
    let refused = ended.heard.iter().any(|message| {
        matches!(message, Message::FileFailed(failure) if failure.text.contains("has not stated it"))
    });
    assert!(refused, "{}", ended.all());
}

#[test]
fn a_server_that_has_lost_everything_deletes_nothing_here() {
    let ground = Ground::with(|ground| {
        (0..250).for_each(|n| write_file(ground.far.join(format!("many/{n:03}")), "x"));
    });
    let mask = ground.as_far();
    let before = snapshot(&ground.near);
    let own = mask.clone();
    let ended = ground.caller(&[], move |voice| {
        let rows: Vec<_> = (0..250).map(|n| own.gone(&format!("many/{n:03}"))).collect();
        Host { mask: own, voice }.state(&rows);
    });
    let wrong = ended.wrong(Refused(ErrorCode::Guard, "at most"), &before, &snapshot(&ground.near));
    assert!(wrong.is_none(), "{}", wrong.unwrap_or_default());
    assert_eq!(ended.code, Some(41));
    // Nor does somebody else in its place.
    let stranger = mask.stranger();
    ground.caller(&[], move |voice| {
        let rows: Vec<_> = (0..250).map(|n| stranger.gone(&format!("many/{n:03}"))).collect();
        Host { mask: stranger, voice }.state(&rows);
    });
    assert!(super::common::tree::differences(&before, &snapshot(&ground.near)).is_empty());
}

const EXTREMES: &[Attack] = &[
    attack("another content than was stated", Told("not for you"), |peer| {
        let row = peer.mask.file("new", &[b'x'; 4000]);
        peer.give(&[row], &[b'y'; 4000]);
    }),
    attack("a content longer than was stated", Told("not for you"), |peer| {
        let row = peer.mask.file("new", &[b'x'; 4000]);
        peer.give(&[row], &vec![b'x'; 4 << 20]);
    }),
    attack("failures of paths that there are not", Nothing, |peer| {
        peer.state(&[peer.mask.props("a.txt", 0o644, 1_700_000_000)]);
        let failure =
            |index| Failure { index, kind: FailureKind::System, text: "no \x1b[2J".into() };
        let failures = vec![failure(1), failure(u64::MAX)];
        peer.voice.say(&Message::Done(Done { sequence: NUMBER_MAX, failures }));
        peer.voice.say(&Message::End);
    }),
    attack("times at both ends of time, and a set-id bit", Told(""), |peer| {
        let time = |path: &str, secs, nanos| Row {
            props: Props { mode: 0o6755, mtime: Time { secs, nanos } },
            ..peer.mask.file(path, b"")
        };
        let rows = [time("t1", i64::MIN, 0), time("t2", i64::MAX, 999_999_999)];
        peer.give(&rows, b"");
    }),
    attack("a file of 2^63 - 1 bytes", Told("no room for"), |peer| {
        let content = Content::File { size: NUMBER_MAX, hash: Check(1) };
        let row = Row { base: None, ..peer.mask.change("huge", content, 0o644) };
        peer.give(&[row], b"short");
    }),
    attack("hashes of blocks of no length", Told(""), |peer| {
        // An edit here: the caller has something to send.
        let row = peer.mask.props("a.txt", 0o600, 5);
        peer.state(&[row]);
        let delta =
            WantDelta { old_len: 10, block_len: 0, hash_len: 0, attempt: 0, signature_len: 0 };
        peer.voice.say(&Message::Want(Want { index: 0, kind: WantKind::Delta(delta) }));
        peer.voice.say(&Message::End);
        peer.voice.flight();
        peer.finish();
    }),
    attack("20,000 problems with names that steer", Told("x"), |peer| {
        peer.welcome();
        for number in 0..20_000 {
            let path = format!("\x1b]0;{number}\x07\u{202e}\n").into_bytes();
            let text = "x\x1b[2J\u{9b}\u{2066}\r".to_string();
            peer.voice.say(&Message::Problem(Problem { kind: ProblemKind::Note, path, text }));
        }
        peer.rows(&[]);
        peer.voice.say(&Message::End);
    }),
    attack("somebody whom nobody has met", Nothing, |peer| {
        peer.mask = peer.mask.clone().stranger();
        let gone = Row { base: None, ..peer.mask.gone("a.txt") };
        peer.state(&[gone]);
    }),
];

#[test]
fn what_is_legal_and_extreme_leaves_a_root_that_works() {
    each_is_met_with_changes(EXTREMES);
}

#[track_caller]
fn each_is_met_with_changes(attacks: &[Attack]) {
    for Attack { name, expect, does } in attacks {
        let expect = if let Nothing = expect { Told("") } else { *expect };
        each_is_met(&[Attack { name, expect, does: *does }]);
    }
}

/// What an honest-looking peer says up to the end, cut after each message.
#[test]
fn a_session_that_breaks_off_after_any_message_leaves_the_tree_as_it_was() {
    let ground = Ground::new();
    let mask = ground.as_far();
    let before = snapshot(&ground.near);
    for cut in 0..6 {
        let own = mask.clone();
        let ended = ground.caller(&[], move |voice| {
            let row = own.file("new", &[b'x'; 4000]);
            voice.flight();
            let rows = manifest::encode(&[row]).remove(0);
            let messages = [
                Message::Statement(own.statement()),
                Message::Rows(rows),
                Message::End,
                Message::File(0),
                Message::Literal(vec![b'x'; 4000]),
            ];
            voice.greet_as(&own, &Message::Welcome(own.welcome()));
            for message in messages.iter().take(cut) {
                voice.say(message);
                if matches!(message, Message::End) {
                    voice.flight();
                }
            }
        });
        let wrong =
            ended.wrong(Refused(PROTOCOL, "ended too early"), &before, &snapshot(&ground.near));
        assert!(wrong.is_none(), "after {cut}: {}", wrong.unwrap_or_default());
    }
}
