//! Messages at the wrong time.

use super::*;

fn welcome() -> Message {
    Message::Welcome(Welcome {
        version: 1,
        features: 0,
        codec: StreamCodec::Raw,
        who: Some((psync_protocol::ReplicaId([4; 16]), psync_protocol::IndexId([4; 8]))),
        joined: false,
        nonce: [4; 16],
        verdict: psync_protocol::message::Verdict::Proceed { first_contact: false },
        place: None,
    })
}

const ORDER: &[Attack] = &[
    attack("a greeting that is another's", Refused(PROTOCOL, "the peer sent Welcome"), |peer| {
        peer.voice.greet(&welcome());
    }),
    attack("two greetings", Refused(PROTOCOL, "the peer sent Hello"), |peer| {
        peer.greet();
        peer.voice.say(&Message::Hello(peer.hello.clone()));
    }),
    attack("the other end's answer", Refused(PROTOCOL, "the peer sent Marks"), |peer| {
        peer.greet();
        peer.voice.say(&Message::Statement(peer.mask.statement()));
        peer.voice.say(&Message::Marks(vec![psync_protocol::message::Mark::Equal]));
    }),
    attack("rows without a statement", Refused(PROTOCOL, "the peer sent Rows"), |peer| {
        let rows = peer.mask.raw_rows(&[b"a"]);
        peer.greet();
        peer.voice.frame(4, &rows);
    }),
    attack("two statements", Refused(PROTOCOL, "the peer sent Statement"), |peer| {
        peer.greet();
        peer.voice.say(&Message::Statement(peer.mask.statement()));
        peer.voice.say(&Message::Statement(peer.mask.statement()));
    }),
    attack("contents before anything is agreed", Refused(PROTOCOL, "the peer sent File"), |peer| {
        peer.greet();
        peer.voice.say(&Message::Statement(peer.mask.statement()));
        peer.content(0, b"x");
    }),
    attack("a want instead of a plan", Refused(PROTOCOL, "the peer sent Want"), |peer| {
        let row = peer.mask.edit("a.txt", b"x");
        peer.state(&[row]);
        peer.want(0, WantKind::Whole);
    }),
    attack("a plan before the answer", Refused(PROTOCOL, "the peer sent Plan"), |peer| {
        peer.greet();
        peer.voice.say(&Message::Statement(peer.mask.statement()));
        peer.plan(&[Decision::agree()]);
    }),
    attack("a plan, and then another", Refused(PROTOCOL, "the peer sent Plan"), |peer| {
        let row = peer.mask.props("a.txt", 0o644, 5);
        peer.state(&[row]);
        peer.plan(&[Decision { content: ContentDecision::Later, ..Decision::agree() }]);
        peer.plan(&[Decision { content: ContentDecision::Later, ..Decision::agree() }]);
    }),
    attack("a tree among changes", Refused(PROTOCOL, "the peer sent Tree"), |peer| {
        peer.greet();
        peer.voice.say(&Message::Statement(peer.mask.statement()));
        let mut tree = Vec::new();
        tree.put_raw(&[0, 0, 0, 0]);
        tree.put_raw(&[0; 16 + 128]);
        peer.voice.frame(24, &tree);
    }),
    attack("what is common, unasked", Refused(PROTOCOL, "the peer sent Common"), |peer| {
        let row = peer.mask.edit("a.txt", b"x");
        peer.state(&[row]);
        peer.voice.say(&Message::Statement(Statement {
            coverage: Coverage::Everything,
            ..peer.mask.statement()
        }));
        let mut common = vec![0, 0, 0];
        common.put_raw(&[0; 16]);
        common.put_bytes(b"");
        peer.voice.frame(26, &common);
    }),
    attack("changes of what is not known", Refused(PROTOCOL, "the peer sent Changes"), |peer| {
        peer.greet();
        peer.voice.say(&Message::Statement(peer.mask.statement()));
        peer.voice.say(&Message::Changes(vec![0]));
    }),
    attack(
        "counted contents outside a rehearsal",
        Refused(PROTOCOL, "the peer sent Counted"),
        |peer| {
            let row = peer.mask.edit("a.txt", b"x");
            peer.impose(&[row]);
            peer.voice.say(&Message::Counted(Counted {
                contents: std::iter::once(0..1).collect(),
                costs: [0; 7],
            }));
        },
    ),
    attack("a message of type 0", Refused(PROTOCOL, "type"), |peer| {
        peer.greet();
        peer.voice.frame(0, b"");
    }),
    attack("a message of type 255", Refused(PROTOCOL, "type"), |peer| {
        peer.greet();
        peer.voice.frame(255, b"x");
    }),
];

#[test]
fn messages_at_the_wrong_time_are_refused() {
    all_are_refused(ORDER);
}
