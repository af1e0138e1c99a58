//! Messages in any order to either end of a session: accepted in their place, or refused by name.
//! The ends are those of the protocol's own tests.
#![no_main]
#![allow(dead_code, unused_imports)]

#[path = "../../protocol/tests/protocol/actors.rs"]
mod actors;
#[path = "../../protocol/tests/protocol/known.rs"]
mod known;
#[path = "../../protocol/tests/protocol/moves.rs"]
mod moves;
#[path = "../../protocol/tests/protocol/pair.rs"]
mod pair;
#[path = "../../protocol/tests/protocol/samples.rs"]
mod samples;
#[path = "../../protocol/tests/protocol/trees.rs"]
mod trees;

use actors::{Alice, Bob, Manner};
use libfuzzer_sys::fuzz_target;
use pair::{Actor, Step};
use psync_fuzz::tape;
use psync_protocol::message::StreamCodec;

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (manner, initiates, messages) = input;
    let manner = Manner::ALL[usize::from(manner) % Manner::ALL.len()];
    let mut alice = Alice::new(StreamCodec::Raw, manner);
    let mut bob = Bob::new(StreamCodec::Raw, manner);
    let actor: &mut dyn Actor = if initiates { &mut alice } else { &mut bob };
    actor.open();
    for message in tape::messages(messages) {
        match actor.hear(message) {
            Ok(Step::Wait | Step::Say(_)) => {}
            Ok(Step::Close(_)) | Err(_) => return,
        }
    }
    let _ = actor.lost(true);
});
