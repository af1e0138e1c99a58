//! Links that lead outside, and what would lie behind them.

use super::*;

/// States a link to the sentinel, and what would lie behind it.
fn through(peer: &mut Guise, link: &str, below: &[Row<Check>]) {
    let mut rows = vec![peer.mask.link(link, b"../outside")];
    rows.extend_from_slice(below);
    rows.sort_by(|a, b| a.path.cmp(&b.path));
    let files: Vec<u64> =
        (0..).zip(&rows).filter(|(_, row)| is_file(row)).map(|(at, _)| at).collect();
    peer.impose(&rows);
    for index in files {
        peer.content(index, b"planted");
    }
    peer.finish();
}

fn is_file(row: &Row<Check>) -> bool {
    matches!(row.content, Content::File { .. })
}

const LINKS: &[Attack] = &[
    attack("a new link, and a file behind it", Told("cannot move it into place"), |peer| {
        let below = [peer.mask.file("zone/secret", b"planted")];
        through(peer, "zone", &below);
    }),
    attack("a new link, and a new file behind it", Told("cannot move it into place"), |peer| {
        let below = [peer.mask.file("zone/new", b"planted")];
        through(peer, "zone", &below);
    }),
    attack("a new link, and a directory behind it", Told(""), |peer| {
        let below = [peer.mask.dir("zone/new"), peer.mask.dir("zone/dir")];
        through(peer, "zone", &below);
    }),
    attack("a new link, and a link behind it", Told("cannot"), |peer| {
        let below = [peer.mask.link("zone/new", b"secret")];
        through(peer, "zone", &below);
    }),
    attack("a link in the place of a directory that is in use", Told("cannot"), |peer| {
        let below = [peer.mask.edit("docs/b.txt", b"planted")];
        through(peer, "docs", &below);
    }),
    attack("a link in the place of a directory, emptied before", Told(""), |peer| {
        // What is behind it comes in another session.
        let rows = [
            peer.mask.link("docs", b"../outside"),
            peer.mask.gone("docs/b.txt"),
            peer.mask.gone("docs/deep"),
            peer.mask.gone("docs/deep/c.txt"),
        ];
        peer.impose(&rows);
        peer.voice.close();
    }),
    attack("a file behind a link that stands there", Told("cannot"), |peer| {
        let row = peer.mask.file("way-out/secret", b"planted");
        peer.impose(&[row]);
        peer.content(0, b"planted");
        peer.finish();
    }),
    attack("an edit behind a link that stands there", Told("cannot"), |peer| {
        let row = Row { base: Some(Check(5)), ..peer.mask.file("way-out/dir/inner", b"planted") };
        peer.impose(&[row]);
        peer.content(0, b"planted");
        peer.finish();
    }),
    attack("a deletion behind a link", Nothing, |peer| {
        let rows = [peer.mask.gone("way-out/dir/inner"), peer.mask.gone("way-out/secret")];
        peer.impose(&rows);
        peer.finish();
    }),
    attack("the deletion of a directory behind a link", Nothing, |peer| {
        let row = peer.mask.gone("way-out/dir");
        peer.impose(&[row]);
        peer.finish();
    }),
    attack("mode and time behind a link", Nothing, |peer| {
        let rows =
            [peer.mask.props("way-out/dir", 0o777, 0), peer.mask.props("way-out/secret", 0o777, 5)];
        peer.impose(&rows);
        peer.finish();
    }),
    attack("a move from behind a link", Refused(PROTOCOL, "never stated"), |peer| {
        let rows = [peer.mask.file("stolen", SECRET.as_bytes()), peer.mask.gone("way-out/secret")];
        peer.state(&rows);
        peer.plan(&[
            of(ContentDecision::Arrive { from: Role::Responder, source: 1 }),
            of(ContentDecision::MovedAway(Role::Initiator)),
        ]);
        peer.finish();
    }),
    attack("a move of a whole directory from behind a link", Nothing, |peer| {
        peer.greet();
        peer.voice.say(&Message::Statement(peer.mask.statement()));
        peer.voice.frame(19, &crate::paths::moved_payload(b"way-out/dir", b"stolen", b""));
        peer.voice.say(&Message::End);
        peer.voice.flight();
    }),
    attack("a move to behind a link", Told("cannot"), |peer| {
        let rows = [
            peer.mask.gone("a.txt"),
            Row { path: path_of("way-out/new"), base: None, ..peer.mask.props("a.txt", 0o644, 5) },
        ];
        let rows =
            [rows[0].clone(), Row { content_version: peer.mask.version(), ..rows[1].clone() }];
        peer.impose(&rows);
        peer.finish();
    }),
    attack("the content of what is behind a link", Told("has not stated it"), |peer| {
        let row = peer.mask.file("way-out/secret", b"x");
        peer.state(&[row]);
        peer.plan(&[of(ContentDecision::Later)]);
        peer.want(0, WantKind::Whole);
        peer.finish();
    }),
    attack(
        "a clash file behind a link",
        Refused(PROTOCOL, "a clash file does not stand beside"),
        |peer| {
            one_edit(peer);
            peer.plan(&[keep_both("way-out/a.txt")]);
        },
    ),
];

#[test]
fn nothing_is_done_through_a_link_that_leads_outside() {
    each_is_met(LINKS);
}

#[test]
fn a_link_that_was_planted_in_one_session_is_not_followed_in_the_next() {
    let ground = Ground::new();
    let mask = ground.as_near();
    ground.server(&[], |voice| {
        let mut peer = Guise::new(mask.clone(), voice);
        let rows = [
            mask.link("docs", b"../outside"),
            mask.gone("docs/b.txt"),
            mask.gone("docs/deep"),
            mask.gone("docs/deep/c.txt"),
        ];
        peer.impose(&rows);
        peer.finish();
    });
    let planted = std::fs::read_link(ground.far.join("docs")).unwrap();
    assert_eq!(planted, std::path::Path::new("../outside"));
    for secret in ["docs/secret", "docs/dir/inner"] {
        let ended = ground.server(&[], |voice| {
            let mut peer = Guise::new(mask.clone(), voice);
            peer.mask.sequence += 500;
            peer.hello.processed = 0;
            peer.mask.clock += 5000;
            let row = peer.mask.file(secret, b"planted");
            peer.state(&[row]);
            let rows = peer.answer.iter().filter(|message| matches!(message, Message::Rows(_)));
            assert!(rows.count() <= 1);
            let paths = 1 + peer
                .answer
                .iter()
                .map(|message| match message {
                    Message::Rows(payload) => usize::from(payload[0]),
                    _ => 0,
                })
                .sum::<usize>();
            peer.plan(&vec![take(); paths]);
            peer.content(0, b"planted");
            peer.finish();
        });
        assert!(ended.code.is_some());
    }
}
