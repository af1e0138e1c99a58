//! Two ends in one process, joined by a simulated line: a queue of bytes each way that delivers in
//! chunks of any size, and cuts or damages what it is told to.

use std::collections::VecDeque;

use psync_protocol::frame::{FrameDecoder, FrameEncoder};
use psync_protocol::message::StreamCodec;
use psync_protocol::signed::Sealing;
use psync_protocol::{Message, ProtocolError, Role};

/// What an end does next.
pub(crate) enum Step {
    /// It waits for the other end.
    Wait,
    /// It says this.
    Say(Vec<Message>),
    /// It says this and hangs up.
    Close(Vec<Message>),
}

/// The application at one end.
pub(crate) trait Actor {
    /// What it says before it has heard anything; its greeting first.
    fn open(&mut self) -> Vec<Message>;
    /// Takes a message. An error ends the session.
    fn hear(&mut self, message: Message) -> Result<Step, ProtocolError>;
    /// The line has ended, between two messages or inside one: is that an orderly end here?
    fn lost(&self, between_messages: bool) -> Result<(), ProtocolError>;
}

/// What happens to the bytes of one direction.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Damage {
    /// The line breaks before the byte with this number.
    Cut(usize),
    /// The byte with this number is changed by these bits.
    Flip(usize, u8),
}

/// One end with everything it has said and accepted so far.
pub(crate) struct End<'a> {
    role: Role,
    actor: &'a mut dyn Actor,
    codec: StreamCodec,
    encoder: Option<FrameEncoder>,
    decoder: FrameDecoder,
    sealing: Sealing,
    line: VecDeque<u8>,
    sent: usize,
    damage: Option<Damage>,
    /// Said by this end and accepted by this end, in the order in which it happened.
    pub(crate) timeline: Vec<(Role, Message)>,
    /// How the session ended here; none while it goes on.
    pub(crate) outcome: Option<Result<(), ProtocolError>>,
}

impl<'a> End<'a> {
    pub(crate) fn new(
        role: Role,
        actor: &'a mut dyn Actor,
        codec: StreamCodec,
        damage: Option<Damage>,
    ) -> End<'a> {
        End {
            role,
            actor,
            codec,
            encoder: None,
            decoder: FrameDecoder::new(),
            sealing: Sealing::default(),
            line: VecDeque::new(),
            sent: 0,
            damage,
            timeline: Vec::new(),
            outcome: None,
        }
    }

    /// How many bytes this end has put on the line.
    pub(crate) fn sent(&self) -> usize {
        self.sent
    }

    fn say(&mut self, messages: Vec<Message>) {
        for message in messages {
            if self.sealing.is_due(&message).is_some() {
                self.sealing.sent(&Message::Seal(crate::samples::seal()));
                self.say_one(Message::Seal(crate::samples::seal()));
            }
            self.sealing.sent(&message);
            self.say_one(message);
        }
        let Some(encoder) = &mut self.encoder else { return };
        encoder.flush().unwrap();
        for mut byte in encoder.take() {
            match self.damage {
                Some(Damage::Cut(at)) if self.sent >= at => return,
                Some(Damage::Flip(at, bits)) if self.sent == at => byte ^= bits,
                _ => {}
            }
            self.line.push_back(byte);
            self.sent += 1;
        }
    }

    fn say_one(&mut self, message: Message) {
        match &mut self.encoder {
            Some(encoder) => encoder.push(&message).unwrap(),
            None => {
                self.encoder = Some(FrameEncoder::start(&message, self.codec, 3).unwrap());
            }
        }
        self.timeline.push((self.role, message));
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.decoder.feed(bytes);
        while self.outcome.is_none() {
            let step = match self.decoder.message() {
                Ok(None) => return,
                Ok(Some(message)) => self.actor.hear(message.clone()).inspect(|_| {
                    self.timeline.push((self.role.other(), message));
                }),
                Err(error) => Err(error),
            };
            match step {
                Ok(Step::Wait) => {}
                Ok(Step::Say(messages)) => self.say(messages),
                Ok(Step::Close(messages)) => {
                    self.say(messages);
                    self.outcome = Some(Ok(()));
                }
                Err(error) => self.outcome = Some(Err(error)),
            }
        }
    }
}

/// Runs both ends until each has ended. `chunk` says how many bytes arrive at a time.
pub(crate) fn run<'a>(initiator: &mut End<'a>, responder: &mut End<'a>, chunk: usize) {
    let opening = initiator.actor.open();
    initiator.say(opening);
    // The longest honest session here has a few thousand bytes.
    for _ in 0..1 << 20 {
        let to_responder: Vec<u8> = take(&mut initiator.line, chunk);
        responder.hear(&to_responder);
        let to_initiator: Vec<u8> = take(&mut responder.line, chunk);
        initiator.hear(&to_initiator);
        if to_responder.is_empty() && to_initiator.is_empty() {
            // Nothing is on the line any more: each end that still waits sees it end.
            for end in [initiator, responder] {
                if end.outcome.is_none() {
                    end.outcome = Some(end.actor.lost(end.decoder.is_at_boundary()));
                }
            }
            return;
        }
    }
    panic!("the two ends talk for ever");
}

fn take(line: &mut VecDeque<u8>, chunk: usize) -> Vec<u8> {
    line.drain(..line.len().min(chunk)).collect()
}
