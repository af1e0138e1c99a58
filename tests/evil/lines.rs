//! Peers that bend the line itself: frames that are none, bombs, silence.

use psync_protocol::codec::Put;
use psync_protocol::frame::{FrameEncoder, PREFACE};
use psync_protocol::message::{Filter, Hello, StreamCodec, Welcome};
use psync_protocol::{ErrorCode, Message};

use super::common::pair::noise;
use super::common::tree::snapshot;
use super::common::write_file;
use super::ground::{Expect, Ground};
use super::mask::{Mask, SPELLED_OUT};
use super::voice::Voice;
use Expect::Refused;

/// What comes after a greeting that says how it is compressed.
struct Bomb {
    name: &'static str,
    codec: StreamCodec,
    says: &'static str,
    bytes: fn() -> Vec<u8>,
}

impl Bomb {
    /// Its bytes, behind those that announce them.
    fn line(&self) -> Vec<u8> {
        let announced: &[u8] = match self.codec {
            StreamCodec::Raw => &[],
            StreamCodec::Zstd => &[0, 0],
        };
        [announced, &(self.bytes)()].concat()
    }
}

/// A zstd frame of these blocks, with a window of 2^log bytes.
fn zstd_frame(log: u8, blocks: &[u8]) -> Vec<u8> {
    [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, (log - 10) << 3], blocks].concat()
}

/// `count` blocks that each say: 128 KiB of this byte.
fn runs(byte: u8, count: usize) -> Vec<u8> {
    let header = ((128u32 << 10) << 3 | 1 << 1).to_le_bytes();
    [&header[..3], &[byte]].concat().repeat(count)
}

const BOMBS: &[Bomb] = &[
    Bomb {
        name: "a frame of 1 MiB and a byte",
        codec: StreamCodec::Raw,
        says: "a frame's length is 1048577",
        bytes: || {
            let mut bytes = Vec::new();
            bytes.put_varint((1 << 20) + 1);
            bytes.push(3);
            bytes
        },
    },
    Bomb {
        name: "a frame of 2^64 - 1 bytes",
        codec: StreamCodec::Raw,
        says: "a frame's length",
        bytes: || {
            let mut bytes = Vec::new();
            bytes.put_varint(u64::MAX);
            bytes
        },
    },
    Bomb {
        name: "a length that does not end",
        codec: StreamCodec::Raw,
        says: "a frame's length",
        bytes: || vec![0xff; 64],
    },
    Bomb {
        name: "a length with needless groups",
        codec: StreamCodec::Raw,
        says: "a frame's length",
        bytes: || vec![0x80, 0x80, 0x00, 3],
    },
    Bomb {
        name: "a stream that is not compressed as it says",
        codec: StreamCodec::Zstd,
        says: "the compressed stream is damaged",
        bytes: || vec![0x55; 300],
    },
    Bomb {
        name: "a window of 16 MiB",
        codec: StreamCodec::Zstd,
        says: "the compressed stream is damaged",
        bytes: || zstd_frame(24, &runs(0, 4)),
    },
    Bomb {
        name: "a window of 128 MiB",
        codec: StreamCodec::Zstd,
        says: "the compressed stream is damaged",
        bytes: || zstd_frame(27, &runs(0, 4)),
    },
    Bomb {
        name: "4 GiB of zeros in 128 KiB",
        codec: StreamCodec::Zstd,
        says: "",
        bytes: || zstd_frame(23, &runs(0, 32 << 10)),
    },
    Bomb {
        name: "4 GiB of signs of life in 128 KiB",
        codec: StreamCodec::Zstd,
        // Ping has type 18; frames of one byte each: length 1, type, a rate of 18.
        says: "",
        bytes: || zstd_frame(23, &runs(18, 32 << 10)),
    },
    Bomb {
        name: "a million empty frames of zstd",
        codec: StreamCodec::Zstd,
        says: "",
        bytes: || zstd_frame(20, &[1, 0, 0]).repeat(1_000_000),
    },
];

#[test]
fn bombs_take_neither_memory_nor_time() {
    let ground = Ground::new();
    let (near, far) = (ground.as_near(), ground.as_far());
    let before = (snapshot(&ground.near), snapshot(&ground.far));
    let mut faults = Vec::new();
    for bomb @ Bomb { name, codec, says, .. } in BOMBS {
        let hello = Hello { codec: *codec, ..near.hello() };
        let ended = ground.server(&[], |voice| {
            voice.greet_as(&near, &Message::Hello(hello));
            voice.bytes(&bomb.line());
        });
        let refused =
            ended.wrong(Refused(ErrorCode::Protocol, says), &before.1, &snapshot(&ground.far));
        let broken = says.is_empty() && ended.code == Some(12);
        faults.extend(refused.filter(|_| !broken).map(|wrong| format!("{name}: {wrong}")));
        let welcome = Welcome { codec: *codec, ..far.welcome() };
        let ended = ground.caller(&[], move |voice| {
            voice.flight();
            voice.greet(&Message::Welcome(welcome));
            voice.bytes(&bomb.line());
        });
        let refused =
            ended.wrong(Refused(ErrorCode::Protocol, says), &before.0, &snapshot(&ground.near));
        faults.extend(refused.filter(|_| !broken).map(|wrong| format!("{name}: {wrong}")));
        assert_eq!(ended.code, Some(12), "{name}: {}", ended.all());
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

/// Batches of rows that hardly take a byte on the line and much in memory: versions of 4,096 pairs.
#[test]
fn versions_that_compress_well_do_not_fill_the_memory() {
    let ground = Ground::new();
    let mask = ground.as_near();
    let before = snapshot(&ground.far);
    let ended = ground.server(&[], |voice| {
        let hello = Message::Hello(Hello { codec: StreamCodec::Zstd, ..mask.hello() });
        let mut encoder = FrameEncoder::start(&hello, StreamCodec::Zstd, 3).unwrap();
        encoder.push(&Message::Statement(mask.statement())).unwrap();
        for batch in 0..400 {
            encoder.push(&Message::Rows(heavy_rows(batch))).unwrap();
            let bytes = encoder.take();
            voice.bytes(&bytes);
        }
        encoder.push(&Message::End).unwrap();
        encoder.flush().unwrap();
        let bytes = encoder.take();
        voice.bytes(&bytes);
    });
    let expect = Refused(ErrorCode::Protocol, "versions");
    let wrong = ended.wrong(expect, &before, &snapshot(&ground.far));
    assert!(wrong.is_none(), "{}", wrong.unwrap_or_default());
}

/// Tombstones, each with two versions of its own that name all of 2,000 replicas.
fn heavy_rows(batch: usize) -> Vec<u8> {
    const REPLICAS: usize = 2000;
    const ROWS: usize = 100;
    let mut out = Vec::new();
    out.put_varint(ROWS as u64);
    out.put_varint(REPLICAS as u64);
    for replica in 0..REPLICAS as u128 {
        out.push(SPELLED_OUT);
        out.put_raw(&replica.to_le_bytes());
    }
    out.put_varint(ROWS as u64);
    for row in 0..ROWS {
        out.put_varint(REPLICAS as u64);
        for replica in 0..REPLICAS {
            out.put_varint(replica as u64);
            out.put_varint(1 + row as u64);
        }
    }
    (0..2).for_each(|_| (0..ROWS as u64).for_each(|row| out.put_varint(row)));
    out.put_raw(&[0; ROWS]);
    (0..ROWS).for_each(|_| out.put_varint(8));
    (0..ROWS).for_each(|row| out.put_raw(format!("{:08}", batch * ROWS + row).as_bytes()));
    out.put_raw(&[0; ROWS]);
    out
}

#[test]
fn a_peer_that_never_reads_is_given_up() {
    let ground = Ground::new();
    (0..40).for_each(|n| write_file(ground.near.join(format!("noise/{n}")), noise(n, 300_000)));
    let mask = ground.as_far();
    let (over, wait) = std::sync::mpsc::channel::<()>();
    let ended = ground.caller(&["--timeout=2", "--mirror=push"], move |voice| {
        let flight = voice.flight();
        let stated: usize = flight
            .iter()
            .map(|message| match message {
                Message::Rows(payload) => usize::from(payload[0]),
                _ => 0,
            })
            .sum();
        voice.greet_as(&mask, &Message::Welcome(mask.welcome()));
        voice.say(&Message::Statement(mask.statement()));
        let marks = vec![psync_protocol::message::Mark::Absent; stated];
        voice.say_all(&[Message::Marks(marks), Message::End]);
        // Reads nothing more, and keeps the line open.
        let _ = wait.recv_timeout(std::time::Duration::from_secs(8));
    });
    drop(over);
    assert_eq!(ended.code, Some(30), "{}", ended.all());
    ended.said.has("--timeout");
    assert!(ended.took.as_secs() < 6, "{}", ended.all());
}

#[test]
fn a_peer_that_reads_nothing_of_an_answer_and_leaves_ends_the_server() {
    let ground = Ground::with(|ground| write_file(ground.far.join("noise"), noise(1, 8 << 20)));
    let mask = ground.as_near();
    let ended = ground.server(&[], |voice| {
        let mut peer = super::initiators::Guise::new(mask.clone(), voice);
        peer.hello.processed = 0;
        peer.state(&[mask.props("noise", 0o600, 5)]);
        let paths: usize = peer
            .answer
            .iter()
            .map(|message| match message {
                Message::Rows(payload) => usize::from(payload[0]),
                _ => 0,
            })
            .sum();
        let later = psync_protocol::Decision {
            content: psync_protocol::ContentDecision::Later,
            ..psync_protocol::Decision::agree()
        };
        peer.plan(&vec![later; paths]);
        let want = psync_protocol::message::Want {
            index: 4,
            kind: psync_protocol::message::WantKind::Whole,
        };
        peer.voice.say_all(&[Message::Want(want), Message::End]);
        peer.voice.close();
        std::thread::sleep(std::time::Duration::from_millis(300));
    });
    assert!(ended.code.is_some_and(|code| code != 0), "{}", ended.all());
}

#[test]
fn a_session_that_breaks_off_after_any_message_leaves_the_tree_as_it_was() {
    let ground = Ground::new();
    let mask = ground.as_near();
    let before = snapshot(&ground.far);
    for cut in 0..5 {
        let ended = ground.server(&[], |voice| broken_off(&mask, voice, cut));
        let changed = super::common::tree::differences(&before, &snapshot(&ground.far));
        assert!(changed.is_empty(), "after {cut}: {changed:?}\n{}", ended.all());
        assert_eq!(ended.code, Some(12), "after {cut}: {}", ended.all());
    }
    ground.agree();
}

fn broken_off(mask: &Mask, voice: &mut Voice, cut: usize) {
    let row = mask.edit("a.txt", &[b'x'; 4000]);
    let rows = psync_protocol::manifest::encode(&[row]).remove(0);
    let statement = Message::Statement(mask.statement());
    match cut {
        0 => voice.bytes(&PREFACE[..3]),
        1 => voice.greet_as(mask, &Message::Hello(mask.hello())),
        2 => {
            voice.greet_as(mask, &Message::Hello(mask.hello()));
            voice.say_all(&[statement, Message::Rows(rows)]);
        }
        _ => {
            voice.greet_as(mask, &Message::Hello(mask.hello()));
            voice.say_all(&[statement, Message::Rows(rows), Message::End]);
            voice.flight();
            let take = psync_protocol::Decision::take(psync_protocol::Role::Initiator);
            let plan = psync_protocol::message::Plan::new(mask.clock + 2000, 0, &[take]);
            voice.say(&Message::Plan(plan));
            if cut == 4 {
                voice.say_all(&[Message::File(0), Message::Literal(vec![b'x'; 4000])]);
            }
        }
    }
}

/// The filters of a caller are the server's work.
#[test]
fn filters_that_are_as_costly_as_can_be_cost_little() {
    let ground = Ground::with(|ground| {
        let name = "a".repeat(250);
        (0..200).for_each(|n| write_file(ground.far.join(format!("{name}{n:03}")), ""));
    });
    let mask = ground.as_near();
    let patterns = [
        "*a".repeat(2000),
        "[a-z]*".repeat(600),
        format!("{}x", "**/".repeat(1300)),
        "?".repeat(4000),
        format!("{}b", "{a,aa}".repeat(600)),
    ];
    for pattern in patterns {
        let filter = Filter { include: false, pattern: pattern.clone() };
        let hello = Hello { filters: vec![filter; 240], ..mask.hello() };
        let ended = ground.server(&[], |voice| {
            voice.greet_as(&mask, &Message::Hello(hello));
            voice.say_all(&[Message::Statement(mask.statement()), Message::End]);
            voice.flight();
        });
        ended.assert_bounds();
        let (_, told) = ended.error().unwrap_or_else(|| panic!("{}", ended.all()));
        assert!(told.contains("wildcards"), "{told}");
        assert!(ended.took.as_secs() < 20, "{}: {}", &pattern[..20], ended.all());
    }
}
