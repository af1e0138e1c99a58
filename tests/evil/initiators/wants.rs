//! Requests that nobody agreed to.

use super::*;

fn blocks(old_len: u64, block_len: u32, hash_len: u8, signature_len: u64) -> WantDelta {
    WantDelta { old_len, block_len, hash_len, attempt: 0, signature_len }
}

/// A conflict that waits, in which the server has stated its own file.
fn conflict(peer: &mut Guise) {
    // Everything that is there is stated if this end has forgotten it.
    peer.hello.processed = 0;
    let row = peer.mask.edit("docs/b.txt", b"mine");
    let row = Row {
        content_version: Version::from_pairs(vec![(peer.mask.replica, peer.mask.clock + 1000)]),
        ..row
    };
    peer.state(&[row]);
    let paths: usize = peer
        .answer
        .iter()
        .map(|message| match message {
            Message::Rows(payload) => usize::from(payload[0]),
            _ => 0,
        })
        .sum();
    peer.plan(&vec![of(ContentDecision::Later); paths]);
}

/// The number of docs/b.txt among all paths of the tree.
const B: u64 = 2;

const WANTS: &[Attack] = &[
    attack("a content beyond the plan", Refused(PROTOCOL, "a want is not of the plan"), |peer| {
        one_edit(peer);
        peer.plan(&[of(ContentDecision::Later)]);
        peer.want(1, WantKind::Whole);
    }),
    attack("a content of path 2^64 - 1", Refused(PROTOCOL, "a want is not of the plan"), |peer| {
        one_edit(peer);
        peer.plan(&[of(ContentDecision::Later)]);
        peer.want(u64::MAX, WantKind::Whole);
    }),
    attack(
        "the same content twice",
        Refused(PROTOCOL, "the same content is wanted twice"),
        |peer| {
            conflict(peer);
            peer.voice.say(&Message::Want(Want { index: B, kind: WantKind::Whole }));
            peer.want(B, WantKind::Base);
        },
    ),
    attack("a content that the server has not stated", Told("has not stated it"), |peer| {
        one_edit(peer);
        peer.plan(&[of(ContentDecision::Later)]);
        let flight = peer.want(0, WantKind::Whole);
        assert!(
            !flight
                .iter()
                .any(|message| matches!(message, Message::Literal(_) | Message::Patches(_)))
        );
        peer.finish();
    }),
    attack("a content that a filter leaves alone", Told("has not stated it"), |peer| {
        peer.hello.filters = vec![Filter { include: false, pattern: "a.txt".into() }];
        let row = peer.mask.edit("a.txt", b"1");
        let everything = Statement { coverage: Coverage::Everything, ..peer.mask.statement() };
        peer.state_as(everything, &[row]);
        let rows = peer.answer.iter().map(|message| match message {
            Message::Rows(payload) => usize::from(payload[0]),
            _ => 0,
        });
        let paths = 1 + rows.sum::<usize>();
        peer.plan(&vec![of(ContentDecision::Later); paths]);
        let flight = peer.want(0, WantKind::Whole);
        assert!(
            !flight
                .iter()
                .any(|message| matches!(message, Message::Literal(_) | Message::Patches(_)))
        );
        peer.finish();
    }),
    attack("blocks of no length", Told("block"), |peer| {
        conflict(peer);
        peer.want(B, WantKind::Delta(blocks(1000, 0, 2, 0)));
        peer.finish();
    }),
    attack("blocks of 63 bytes", Told("block"), |peer| {
        conflict(peer);
        peer.voice
            .say(&Message::Want(Want { index: B, kind: WantKind::Delta(blocks(63, 63, 2, 2)) }));
        peer.voice.say_all(&[Message::Signature(vec![0; 2]), Message::End]);
        peer.voice.flight();
        peer.finish();
    }),
    attack("blocks of 2^32 - 1 bytes", Told("block"), |peer| {
        conflict(peer);
        peer.voice.say(&Message::Want(Want {
            index: B,
            kind: WantKind::Coarse(blocks(9, u32::MAX, 2, 2)),
        }));
        peer.voice.say_all(&[Message::Signature(vec![0; 2]), Message::End]);
        peer.voice.flight();
        peer.finish();
    }),
    attack("hashes of no bytes", Told(""), |peer| {
        conflict(peer);
        peer.want(B, WantKind::Delta(blocks(1000, 64, 0, 0)));
        peer.finish();
    }),
    attack("hashes of 255 bytes", Told(""), |peer| {
        conflict(peer);
        peer.want(B, WantKind::Delta(blocks(0, 64, 255, 0)));
        peer.finish();
    }),
    attack("fewer hashes than blocks", Told(""), |peer| {
        conflict(peer);
        peer.voice.say(&Message::Want(Want {
            index: B,
            kind: WantKind::Delta(blocks(NUMBER_MAX, 64, 2, 2)),
        }));
        peer.voice.say_all(&[Message::Signature(vec![0; 2]), Message::End]);
        peer.voice.flight();
        peer.finish();
    }),
    attack("finer hashes of what had no coarse ones", Told("do not belong to any"), |peer| {
        conflict(peer);
        peer.voice
            .say(&Message::Want(Want { index: B, kind: WantKind::Fine(blocks(64, 64, 2, 2)) }));
        peer.voice.say_all(&[Message::Signature(vec![0; 2]), Message::End]);
        peer.voice.flight();
        peer.finish();
    }),
    attack("a signature of 16 MiB and a byte", Refused(PROTOCOL, "a signature's length"), |peer| {
        conflict(peer);
        peer.want(B, WantKind::Delta(blocks(1000, 64, 2, (16 << 20) + 1)));
    }),
    attack(
        "a signature longer than announced",
        Refused(PROTOCOL, "longer than announced"),
        |peer| {
            conflict(peer);
            peer.voice.say(&Message::Want(Want {
                index: B,
                kind: WantKind::Delta(blocks(64, 64, 2, 2)),
            }));
            peer.voice.say(&Message::Signature(vec![0; 3]));
        },
    ),
    attack("a signature cut short", Refused(PROTOCOL, "a signature is incomplete"), |peer| {
        conflict(peer);
        peer.voice
            .say(&Message::Want(Want { index: B, kind: WantKind::Delta(blocks(128, 64, 2, 4)) }));
        peer.voice.say_all(&[Message::Signature(vec![0; 2]), Message::End]);
    }),
    attack("hashes that nobody asked for", Refused(PROTOCOL, "longer than announced"), |peer| {
        conflict(peer);
        peer.voice.say(&Message::Signature(vec![0; 3]));
    }),
    attack("more than 32 MiB of hashes", Refused(PROTOCOL, "too many block hashes"), |peer| {
        conflict(peer);
        for index in [0, B, B + 2] {
            let want = Want { index, kind: WantKind::Delta(blocks(64, 64, 2, 16 << 20)) };
            peer.voice.say(&Message::Want(want));
            (0..32).for_each(|_| peer.voice.say(&Message::Signature(vec![0; 512 << 10])));
        }
    }),
];

#[test]
fn requests_that_nobody_agreed_to_get_nothing() {
    all_are_refused(WANTS);
}

#[test]
fn a_million_equal_hashes_cost_no_more_than_others() {
    let zeros = vec![0; 24 << 20];
    let ground = Ground::with(|ground| write_file(ground.far.join("zeros"), &zeros));
    let mask = ground.as_near();
    for hash in [0, 0xff] {
        let ended = ground.server(&[], |voice| {
            let mut peer = Guise::new(mask.clone(), voice);
            peer.hello.processed = 0;
            peer.state(&[mask.props("zeros", 0o600, 5)]);
            let paths: usize = peer
                .answer
                .iter()
                .map(|message| match message {
                    Message::Rows(payload) => usize::from(payload[0]),
                    _ => 0,
                })
                .sum();
            peer.plan(&vec![of(ContentDecision::Later); paths]);
            let million = blocks(64 << 20, 64, 8, 8 << 20);
            let index = paths as u64 - 1;
            peer.voice.say(&Message::Want(Want { index, kind: WantKind::Delta(million) }));
            (0..16).for_each(|_| peer.voice.say(&Message::Signature(vec![hash; 512 << 10])));
            peer.voice.say(&Message::End);
            let flight = peer.voice.flight();
            assert!(!flight.is_empty());
            peer.finish();
        });
        assert!(ended.took.as_secs() < 30, "{}", ended.all());
    }
}
