//! Payloads: whatever is a message is written as the same message again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use psync_fuzz::tape;
use psync_protocol::Message;

fuzz_target!(|input: &[u8]| {
    for (kind, payload) in tape::parts(input) {
        if let Ok(message) = Message::decode(kind, payload) {
            let again = Message::decode(kind, &message.encode());
            assert_eq!(again.as_ref(), Ok(&message));
        }
    }
});
