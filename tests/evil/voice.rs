//! A peer's voice: it says messages that are in order, or any bytes at all.

use std::fs::File;
use std::io::{Read, Write};

use psync_protocol::Message;
use psync_protocol::codec::Put;
use psync_protocol::frame::{FrameDecoder, FrameEncoder};
use psync_protocol::message::StreamCodec;

use super::hand::Hand;
use super::mask::Mask;

/// One end of a line that carries frames as they are in the direction to psync.
pub(crate) struct Voice {
    from_psync: File,
    /// None once the line is closed in this direction.
    to_psync: Option<File>,
    decoder: FrameDecoder,
    /// Sums up what is said, from the greeting on.
    encoder: Option<FrameEncoder>,
    /// What seals it; without one nothing is sealed.
    pub(crate) hand: Option<Hand>,
    /// The last seal that was made.
    pub(crate) seal: Option<Message>,
    /// Every byte that was said.
    pub(crate) said: Vec<u8>,
    /// Everything that was heard.
    pub(crate) heard: Vec<Message>,
}

impl Voice {
    pub(crate) fn new(from_psync: File, to_psync: File) -> Voice {
        Voice {
            from_psync,
            to_psync: Some(to_psync),
            decoder: FrameDecoder::new(),
            encoder: None,
            hand: None,
            seal: None,
            said: Vec::new(),
            heard: Vec::new(),
        }
    }

    /// Bytes as they are. That psync has gone is no matter: what it said before tells why.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.said.extend_from_slice(bytes);
        if let Some(line) = &mut self.to_psync {
            let _ = line.write_all(bytes);
        }
    }

    /// The first message of this direction, from somebody who signs nothing.
    pub(crate) fn greet(&mut self, greeting: &Message) {
        let mut encoder = FrameEncoder::start(greeting, StreamCodec::Raw, 0).unwrap();
        self.bytes(&encoder.take());
        self.encoder = Some(encoder);
    }

    /// The first message, from whoever this is the mask of: all that follows is sealed where it has
    /// to be.
    pub(crate) fn greet_as(&mut self, mask: &Mask, greeting: &Message) {
        self.hand = Hand::of(mask, greeting);
        self.greet(greeting);
    }

    pub(crate) fn say(&mut self, message: &Message) {
        if self.hand.as_ref().is_some_and(|hand| hand.is_due(message)) {
            self.seal();
        }
        let bytes = self.sum_up(message);
        self.bytes(&bytes);
    }

    /// Seals one message, and says another in its place.
    pub(crate) fn say_instead(&mut self, sealed: &Message, said: &Message) {
        self.sum_up(sealed);
        self.bytes(&frame(said.type_byte(), &said.encode()));
    }

    /// The bytes of a message, which are sealed with what comes after.
    fn sum_up(&mut self, message: &Message) -> Vec<u8> {
        if let Some(hand) = &mut self.hand {
            hand.say(message);
        }
        let Some(encoder) = &mut self.encoder else {
            return frame(message.type_byte(), &message.encode());
        };
        encoder.push(message).unwrap();
        encoder.take()
    }

    /// Seals what has been said so far.
    pub(crate) fn seal(&mut self) {
        if let Some(seal) = self.next_seal() {
            let bytes = self.sum_up(&seal);
            self.bytes(&bytes);
            self.seal = Some(seal);
        }
    }

    fn next_seal(&mut self) -> Option<Message> {
        let (hand, encoder) = (self.hand.as_mut()?, self.encoder.as_ref()?);
        let session = hand.session(encoder.greeting(), self.decoder.greeting());
        hand.seal(session, encoder.to_seal())
    }

    /// A plan is sealed when nothing more follows.
    fn seal_plan(&mut self) {
        if self.hand.as_ref().is_some_and(Hand::has_planned) {
            self.seal();
        }
    }

    pub(crate) fn say_all(&mut self, messages: &[Message]) {
        messages.iter().for_each(|message| self.say(message));
    }

    /// A frame with any payload. What is no message is not sealed, either.
    pub(crate) fn frame(&mut self, kind: u8, payload: &[u8]) {
        match Message::decode(kind, payload) {
            Ok(message) if message.encode() == payload => self.say(&message),
            Ok(_) | Err(_) => self.bytes(&frame(kind, payload)),
        }
    }

    /// Says no more.
    pub(crate) fn close(&mut self) {
        self.seal_plan();
        self.to_psync = None;
    }

    /// The next message; none where psync says no more.
    pub(crate) fn hear(&mut self) -> Option<Message> {
        let mut buffer = [0; 1 << 16];
        loop {
            match self.decoder.message() {
                Ok(Some(message)) => {
                    self.take_note(&message);
                    self.heard.push(message.clone());
                    return Some(message);
                }
                Ok(None) => {}
                Err(error) => panic!("psync itself says nonsense: {error}"),
            }
            match self.from_psync.read(&mut buffer) {
                Ok(0) | Err(_) => return None,
                Ok(n) => self.decoder.feed(&buffer[..n]),
            }
        }
    }

    fn take_note(&mut self, message: &Message) {
        if let (Some(hand), Some(encoder)) = (&mut self.hand, &self.encoder) {
            let session = hand.session(encoder.greeting(), self.decoder.greeting());
            hand.hear(message, session, self.decoder.sealed());
        }
    }

    /// Messages up to the end of psync's flight, or of all that it says.
    pub(crate) fn flight(&mut self) -> Vec<Message> {
        self.seal_plan();
        let mut flight = Vec::new();
        while let Some(message) = self.hear() {
            let last = matches!(message, Message::End | Message::Error { .. });
            flight.push(message);
            if last {
                break;
            }
        }
        flight
    }

    /// Hears psync out, with the line open in the other direction until it ends or `close` was called.
    pub(crate) fn hear_out(&mut self) {
        while self.hear().is_some() {}
    }
}

/// A frame as it stands on the line.
pub(crate) fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + 6);
    bytes.put_varint(payload.len() as u64);
    bytes.push(kind);
    bytes.put_raw(payload);
    bytes
}
