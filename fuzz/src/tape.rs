//! An input as a list of messages: for each its type, the length of its payload in two bytes, the
//! low one first, and the payload. Lengths go beyond the end as they like: the last payload is what
//! is left.

use psync_protocol::Message;

/// Longest payload that an input can hold, in bytes.
pub const PAYLOAD_MAX: usize = u16::MAX as usize;

/// Types and payloads, in order.
pub fn parts(input: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = input;
    std::iter::from_fn(move || {
        let [kind, low, high, more @ ..] = rest else { return None };
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(more.len());
        let (payload, after) = more.split_at(len);
        rest = after;
        Some((*kind, payload))
    })
}

/// The messages of an input; what is none is left out.
pub fn messages(input: &[u8]) -> impl Iterator<Item = Message> {
    parts(input).filter_map(|(kind, payload)| Message::decode(kind, payload).ok())
}

/// Writes a message down, if its payload is short enough.
pub fn write(message: &Message, tape: &mut Vec<u8>) {
    let payload = message.encode();
    if let Ok(len) = u16::try_from(payload.len()) {
        tape.push(message.type_byte());
        tape.extend(len.to_le_bytes());
        tape.extend(payload);
    }
}
