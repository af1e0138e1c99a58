//! A whole initiator on a real root, against a responder that says what it likes: nothing outside the
//! root is touched, and it comes to an end.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use psync_fuzz::ground::Ground;
use psync_protocol::Role;

static GROUND: LazyLock<Ground> = LazyLock::new(|| Ground::new("initiator"));

fuzz_target!(|input: &[u8]| {
    GROUND.renew();
    GROUND.play(Role::Initiator, input);
    GROUND.check();
});
