//! Contents that nobody asked for, or that are others than was stated.

use super::*;

const CONTENTS: &[Attack] = &[
    attack("a content beyond the plan", Refused(PROTOCOL, "a content was not asked for"), |peer| {
        let row = peer.mask.file("new", b"new");
        peer.impose(&[row]);
        peer.content(1, b"new");
    }),
    attack(
        "a content of path 2^64 - 1",
        Refused(PROTOCOL, "a content was not asked for"),
        |peer| {
            let row = peer.mask.file("new", b"new");
            peer.impose(&[row]);
            peer.content(u64::MAX, b"new");
        },
    ),
    attack("a content given twice", Refused(PROTOCOL, "a content was not asked for"), |peer| {
        let row = peer.mask.file("new", b"new");
        peer.impose(&[row]);
        peer.content(0, b"wrong");
        peer.content(0, b"new");
    }),
    attack(
        "a content within a content",
        Refused(PROTOCOL, "a content was not asked for"),
        |peer| {
            let rows = [peer.mask.file("new", b"new"), peer.mask.file("newer", b"newer")];
            peer.impose(&rows);
            peer.voice.say(&Message::File(0));
            peer.content(1, b"newer");
        },
    ),
    attack("bytes of no content", Refused(PROTOCOL, "the peer sent Literal"), |peer| {
        let row = peer.mask.file("new", b"new");
        peer.impose(&[row]);
        peer.voice.say(&Message::Literal(vec![0; 10]));
    }),
    attack("the end of no content", Refused(PROTOCOL, "the peer sent FileEnd"), |peer| {
        let row = peer.mask.file("new", b"new");
        peer.impose(&[row]);
        peer.voice.say(&Message::FileEnd(None));
    }),
    attack("a proof of nothing", Refused(PROTOCOL, "the peer sent Proof"), |peer| {
        let row = peer.mask.file("new", b"new");
        peer.impose(&[row]);
        peer.voice.say(&Message::Proof(Proof::of(&[ContentHash([0; 32])])));
    }),
    attack("contents that nothing proves", Refused(PROTOCOL, "contents were not proved"), |peer| {
        let row = peer.mask.file("new", b"new");
        peer.impose(&[row]);
        peer.voice.say_all(&[
            Message::File(0),
            Message::Literal(b"new".to_vec()),
            Message::FileEnd(None),
            Message::End,
        ]);
    }),
    attack("a content left open", Refused(PROTOCOL, "a wanted content did not come"), |peer| {
        let row = peer.mask.file("new", b"new");
        peer.impose(&[row]);
        peer.voice.say_all(&[Message::File(0), Message::End]);
    }),
    attack(
        "a failure of another content",
        Refused(PROTOCOL, "a failure is of another file"),
        |peer| {
            let rows = [peer.mask.file("new", b"new"), peer.mask.file("newer", b"newer")];
            peer.impose(&rows);
            peer.voice.say(&Message::File(0));
            let (kind, text) = (FailureKind::System, String::new());
            peer.voice.say(&Message::FileFailed(Failure { index: 1, kind, text }));
        },
    ),
    attack("done twice", Refused(PROTOCOL, "the peer sent Done"), |peer| {
        let row = peer.mask.props("a.txt", 0o644, 5);
        peer.state(&[row]);
        peer.plan(&[of(ContentDecision::Later)]);
        peer.done();
        peer.done();
    }),
    attack("a want after it is done", Refused(PROTOCOL, "a want is not of the plan"), |peer| {
        let row = peer.mask.props("a.txt", 0o644, 5);
        peer.state(&[row]);
        peer.plan(&[of(ContentDecision::Later)]);
        peer.done();
        peer.want(0, WantKind::Whole);
    }),
    attack("another content than was stated", Told("not for you"), |peer| {
        let row = peer.mask.file("new", b"new");
        peer.impose(&[row]);
        peer.content(0, b"wen");
        peer.finish();
    }),
    attack("a content longer than was stated", Told("not for you"), |peer| {
        let row = peer.mask.file("new", b"new");
        peer.impose(&[row]);
        peer.content(0, &vec![b'x'; 4 << 20]);
        peer.finish();
    }),
    attack("a hash that is another's", Told("not for you"), |peer| {
        let row = peer.mask.file("new", b"new");
        peer.impose(&[row]);
        peer.voice.say_all(&[
            Message::File(0),
            Message::Literal(b"new".to_vec()),
            Message::FileEnd(Some(ContentHash([9; 32]))),
        ]);
        peer.finish();
    }),
    attack("a content of a directory", Nothing, |peer| {
        let row = peer.mask.props("docs", 0o755, 0);
        peer.state(&[row]);
        peer.plan(&[of(ContentDecision::Later)]);
        peer.content(0, b"x");
        peer.finish();
    }),
    attack("a content where nothing is to be done", Nothing, |peer| {
        let row = peer.mask.edit("a.txt", b"another");
        peer.state(&[row]);
        peer.plan(&[of(ContentDecision::Later)]);
        peer.content(0, b"another");
        peer.finish();
    }),
    attack("blocks of a file that no hash was sent of", Told(""), |peer| {
        let row = peer.mask.edit("a.txt", &[b'x'; 600]);
        peer.impose(&[row]);
        peer.voice.say(&Message::File(0));
        peer.voice.say(&Message::Delta(DeltaOp {
            pieces: vec![DeltaPiece { block: u64::MAX - 9, count: 9, fresh: 0 }],
            coded: false,
            data: Vec::new(),
        }));
        peer.voice.say(&Message::FileEnd(Some(ContentHash([0; 32]))));
        peer.finish();
    }),
    attack("blocks of no length", Told(""), |peer| {
        let row = peer.mask.edit("a.txt", &[b'x'; 600]);
        peer.impose(&[row]);
        peer.voice.say(&Message::File(0));
        peer.voice.say(&Message::Against(Against { base: Base::Blocks(0), old_len: 600 }));
        peer.voice.say(&Message::Delta(DeltaOp {
            pieces: vec![DeltaPiece { block: 0, count: 1 << 40, fresh: 0 }],
            coded: false,
            data: Vec::new(),
        }));
        peer.voice.say(&Message::FileEnd(Some(ContentHash([0; 32]))));
        peer.finish();
    }),
    attack(
        "a segment of more than there may be",
        Refused(PROTOCOL, "a segment's length"),
        |peer| {
            let row = peer.mask.edit("a.txt", &[b'x'; 600]);
            peer.impose(&[row]);
            peer.voice.say(&Message::File(0));
            let mut segment = Vec::new();
            segment.put_varint((8 << 20) + 1);
            segment.put_varint(0);
            peer.voice.frame(23, &segment);
        },
    ),
    attack("a segment of parts that are not there", Told(""), |peer| {
        let row = peer.mask.edit("a.txt", &[b'x'; 600]);
        peer.impose(&[row]);
        let own = peer.mask.rows["a.txt"].row.content.clone();
        let Content::File { size, .. } = own else { return };
        peer.voice.say(&Message::File(0));
        peer.voice.say(&Message::Against(Against { base: Base::Own, old_len: size }));
        let mut bytes = vec![1];
        bytes.put_signed(i64::MIN);
        bytes.put_varint(u64::MAX);
        peer.voice.say(&Message::Segment(Segment { new_len: 600, missing: 0, bytes }));
        peer.voice.say(&Message::FileEnd(Some(ContentHash([0; 32]))));
        peer.finish();
    }),
    attack("a patch of a content that is not here", Told(""), |peer| {
        let row = peer.mask.file("new", &[b'x'; 600]);
        peer.impose(&[row]);
        let contents = vec![Patched { index: 0, base: Base::Other(Check(77)) }];
        peer.voice.say(&Message::Patches(Patches { contents, patch: vec![0xff; 40] }));
        peer.voice.say(&Message::Proof(Proof::of(&[ContentHash([0; 32])])));
        peer.finish();
    }),
    attack("a patch that is a bomb", Told(""), |peer| {
        // 1 TiB, as its header says.
        let size = 1u64 << 40;
        let hash = peer.mask.key().check(&ContentHash([1; 32]));
        let row =
            Row { base: None, ..peer.mask.change("new", Content::File { size, hash }, 0o644) };
        peer.impose(&[row]);
        let contents = vec![Patched { index: 0, base: Base::Nothing }];
        let mut patch = Vec::new();
        patch.put_varint(u64::MAX);
        patch.put_varint(3);
        patch.put_raw(&[0xff; 900]);
        peer.voice.say(&Message::Patches(Patches { contents, patch }));
        peer.voice.say(&Message::Proof(Proof::of(&[ContentHash([0; 32])])));
        peer.finish();
    }),
];

#[test]
fn contents_that_nobody_asked_for_or_that_are_others_stay_out() {
    all_are_refused(CONTENTS);
}
