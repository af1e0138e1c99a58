//! Bytes from a line: frames of a compressed or a plain stream, in pieces of any size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use psync_protocol::frame::{FRAME_MAX, FrameDecoder};

/// More than a decoder may hold: a frame, what it is unpacked from, and a piece that was fed.
const HELD_MAX: usize = 4 * FRAME_MAX + (1 << 20);

fuzz_target!(|input: (u16, &[u8])| {
    let (chunk, bytes) = input;
    let mut decoder = FrameDecoder::new();
    for piece in bytes.chunks(usize::from(chunk).max(1)) {
        decoder.feed(piece);
        loop {
            match decoder.message() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(decoder.held() <= HELD_MAX, "{} bytes held", decoder.held());
    }
});
