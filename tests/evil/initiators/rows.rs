//! Rows that make no sense.

use super::*;

/// A batch of tombstones, with these columns broken.
#[derive(Clone)]
struct Batch {
    count: u64,
    replicas: u64,
    counter: u64,
    pair_replica: u64,
    version: u64,
    shared: u64,
    flags: u8,
    path: &'static [u8],
    rest: Vec<u8>,
}

impl Batch {
    /// One file, in order.
    fn file() -> Batch {
        let mut rest = Vec::new();
        rest.put_varint(0o644);
        rest.put_raw(&[0, 0, 5]);
        rest.put_raw(&[9; 8]);
        Batch { rest, ..Batch::gone() }.with_flags(2)
    }

    fn gone() -> Batch {
        Batch {
            count: 1,
            replicas: 1,
            counter: 5,
            pair_replica: 0,
            version: 0,
            shared: 0,
            flags: 0,
            path: b"x",
            rest: Vec::new(),
        }
    }

    fn with_flags(self, flags: u8) -> Batch {
        Batch { flags, ..self }
    }

    fn with_rest(self, rest: &[u8]) -> Batch {
        Batch { rest: rest.to_vec(), ..self }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_varint(self.count);
        out.put_varint(self.replicas);
        out.push(SPELLED_OUT);
        out.put_raw(&[4; 16]);
        out.put_varint(1);
        out.put_varint(1);
        out.put_varint(self.pair_replica);
        out.put_varint(self.counter);
        out.put_varint(self.version);
        out.put_varint(0);
        out.put_varint(self.shared);
        out.put_varint(self.path.len() as u64);
        out.put_raw(self.path);
        out.push(self.flags);
        out.put_raw(&self.rest);
        out
    }
}

/// The rest of a file's row: mode, seconds, nanoseconds, size, and its check.
fn file_rest(mode: u64, nanos: u64, size: u64) -> Vec<u8> {
    let mut rest = Vec::new();
    rest.put_varint(mode);
    rest.put_signed(0);
    rest.put_varint(nanos);
    rest.put_varint(size);
    rest.put_raw(&[9; 8]);
    rest
}

fn link_rest(target: &[u8]) -> Vec<u8> {
    let mut rest = vec![0, 0];
    rest.put_bytes(target);
    rest
}

const ROWS: &[Attack] = &[
    attack("rows that descend", Refused(PROTOCOL, "the order of the rows"), |peer| {
        let rows = peer.mask.raw_rows(&[b"b", b"a"]);
        peer.batch(&rows);
    }),
    attack("a path stated twice", Refused(PROTOCOL, "the order of the rows"), |peer| {
        let rows = peer.mask.raw_rows(&[b"a", b"a"]);
        peer.batch(&rows);
    }),
    attack(
        "a path stated twice in two batches",
        Refused(PROTOCOL, "the order of the rows"),
        |peer| {
            let rows = peer.mask.raw_rows(&[b"a"]);
            peer.greet();
            peer.voice.say(&Message::Statement(peer.mask.statement()));
            peer.voice.frame(4, &rows);
            peer.voice.frame(4, &rows);
        },
    ),
    attack("a prefix longer than the path before", Refused(PROTOCOL, "a shared prefix"), |peer| {
        peer.batch(&Batch { shared: 9, ..Batch::gone() }.encode());
    }),
    attack("a prefix of 2^64 - 1", Refused(PROTOCOL, "a shared p"), |peer| {
        peer.batch(&Batch { shared: u64::MAX, ..Batch::gone() }.encode());
    }),
    attack("4,097 rows in a batch", Refused(PROTOCOL, "4097, above the limit of 4096"), |peer| {
        let names: Vec<String> = (0..4097).map(|n| format!("{n:05}")).collect();
        let names: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
        let rows = peer.mask.raw_rows(&names);
        peer.batch(&rows);
    }),
    attack("2^64 - 1 rows in a batch", Refused(PROTOCOL, "a count of rows"), |peer| {
        peer.batch(&Batch { count: u64::MAX, ..Batch::gone() }.encode());
    }),
    attack("more rows than bytes", Refused(PROTOCOL, "a count of rows"), |peer| {
        peer.batch(&Batch { count: 4000, ..Batch::gone() }.encode());
    }),
    attack("no rows, and bytes left over", Refused(PROTOCOL, "left over"), |peer| {
        peer.batch(&[0, 0, 0, 1, 2, 3]);
    }),
    attack("2^63 replicas", Refused(PROTOCOL, "a count of replicas"), |peer| {
        peer.batch(&Batch { replicas: 1 << 63, ..Batch::gone() }.encode());
    }),
    attack("a replica that is not there", Refused(PROTOCOL, "a replica's number"), |peer| {
        peer.batch(&Batch { pair_replica: 1, ..Batch::gone() }.encode());
    }),
    attack("a version that is not there", Refused(PROTOCOL, "a version's number"), |peer| {
        peer.batch(&Batch { version: 1, ..Batch::gone() }.encode());
    }),
    attack("a version of number 2^64 - 1", Refused(PROTOCOL, "a version's number"), |peer| {
        peer.batch(&Batch { version: u64::MAX, ..Batch::gone() }.encode());
    }),
    attack("a counter of 2^63", Refused(PROTOCOL, "a counter"), |peer| {
        peer.batch(&Batch { counter: 1 << 63, ..Batch::gone() }.encode());
    }),
    attack("flags without meaning", Refused(PROTOCOL, "a row's flags"), |peer| {
        peer.batch(&Batch::gone().with_flags(0x40).encode());
    }),
    attack("a tombstone with a mode", Refused(PROTOCOL, "a row's flags"), |peer| {
        peer.batch(&Batch::gone().with_flags(8).encode());
    }),
    attack("the mode of a device", Refused(PROTOCOL, "a mode"), |peer| {
        peer.batch(&Batch::file().with_rest(&file_rest(0o20644, 0, 5)).encode());
    }),
    attack("nanoseconds of a whole second", Refused(PROTOCOL, "nanoseconds"), |peer| {
        peer.batch(&Batch::file().with_rest(&file_rest(0o644, 1_000_000_000, 5)).encode());
    }),
    attack("a size of 2^64 - 1", Refused(PROTOCOL, "a file's size"), |peer| {
        peer.batch(&Batch::file().with_rest(&file_rest(0o644, 0, u64::MAX)).encode());
    }),
    attack("a link to nowhere", Refused(PROTOCOL, "a symlink's target"), |peer| {
        peer.batch(&Batch::gone().with_flags(3).with_rest(&link_rest(b"")).encode());
    }),
    attack("a link with a zero byte", Refused(PROTOCOL, "a symlink's target"), |peer| {
        peer.batch(&Batch::gone().with_flags(3).with_rest(&link_rest(b"a\0b")).encode());
    }),
    attack("a link of 4,096 bytes", Refused(PROTOCOL, "a symlink's target"), |peer| {
        peer.batch(&Batch::gone().with_flags(3).with_rest(&link_rest(&[b'x'; 4096])).encode());
    }),
    attack("a move to no row", Refused(PROTOCOL, "a move"), |peer| {
        peer.batch(&Batch::gone().with_flags(16).with_rest(&[0x7e]).encode());
    }),
    attack("a move to itself", Refused(PROTOCOL, "a move"), |peer| {
        peer.batch(&Batch::gone().with_flags(16).with_rest(&[0]).encode());
    }),
    attack("a move far beyond", Refused(PROTOCOL, "a move"), |peer| {
        let mut rest = Vec::new();
        rest.put_signed(i64::MIN);
        peer.batch(&Batch::gone().with_flags(16).with_rest(&rest).encode());
    }),
    attack("an extension of 65,537 bytes", Refused(PROTOCOL, "a row's extensions"), |peer| {
        let mut rest = Vec::new();
        rest.put_bytes(&vec![0; 65_537]);
        peer.batch(&Batch::gone().with_flags(32).with_rest(&rest).encode());
    }),
    attack("a row cut short", Refused(PROTOCOL, "the bytes end"), |peer| {
        peer.batch(&Batch::file().with_rest(&[]).encode());
    }),
];

#[test]
fn rows_that_make_no_sense_are_refused() {
    all_are_refused(ROWS);
}
