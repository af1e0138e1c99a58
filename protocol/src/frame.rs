//! Frames on the line: varint length, type byte, payload. From the first flight on in which an end
//! has more to say than a few bytes its frames run through zstd (unless its greeting says otherwise),
//! flushed where the other end has to act, or more takes a while to make. The stream may change its
//! level between two messages: one zstd frame ends and another begins.

use zstd::stream::raw::{CParameter, DParameter, Decoder, Encoder, InBuffer, Operation, OutBuffer};

use crate::codec::{Put, Reader};
use crate::error::{DecodeError, ProtocolError};
use crate::message::{Message, StreamCodec};
use crate::signed::{Digest, Sum, Transcript};

/// The first bytes of each direction. The zero byte keeps apart a shell that prints a banner.
pub const PREFACE: &[u8; 6] = b"\0psync";
/// Longest payload of a frame, in bytes; checked before anything is allocated.
pub const FRAME_MAX: usize = 1 << 20;
/// Largest window of a zstd frame (8 MiB): what an end has to be ready to allocate.
pub const WINDOW_LOG_MAX: u32 = 23;
/// How many decompressed bytes are taken at a time.
const STEP: usize = 64 << 10;
/// Most bytes of a block (RFC 8878).
const BLOCK_MAX: usize = 128 << 10;
/// Stands before the first byte of zstd: a frame of type 0 without a payload.
const PACKED: [u8; 2] = [0, 0];
/// A flight of more bytes than this begins to be compressed. In a shorter one, which is mostly hashes
/// and signatures, zstd saves less than its headers take: eleven bytes.
const SHORT: usize = 256;
/// Magic number and header of a zstd frame with a window of one block (RFC 8878, 3.1.1).
const STORED_HEADER: [u8; 6] = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38];
/// A raw block of no bytes that is the last of its frame.
const LAST_BLOCK: [u8; 3] = [1, 0, 0];

/// How hard a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Not at all: zstd frames of raw blocks, for what does not become smaller.
    Stored,
    /// A level of zstd.
    Level(i32),
}

/// Where the frames of a direction go.
enum Stream {
    /// As they are.
    Raw,
    /// As they are, for as long as there is little to say.
    Short {
        /// How hard more will be compressed.
        effort: Effort,
        /// What this flight says, until it ends or is more.
        waiting: Vec<u8>,
    },
    /// Through zstd.
    Zstd(Compressor),
}

/// Puts bytes into zstd frames.
struct Compressor {
    effort: Effort,
    /// What compresses; nothing does where bytes are stored.
    encoder: Option<Encoder<'static>>,
    /// Whether a zstd frame has begun and not ended.
    open: bool,
}

impl Compressor {
    fn new(effort: Effort) -> std::io::Result<Compressor> {
        let encoder = match effort {
            Effort::Stored => None,
            Effort::Level(level) => Some(zstd_encoder(level)?),
        };
        Ok(Compressor { effort, encoder, open: false })
    }

    fn set_effort(&mut self, wanted: Effort, out: &mut Vec<u8>) -> std::io::Result<()> {
        if self.effort == wanted {
            return Ok(());
        }
        if self.open {
            match &mut self.encoder {
                Some(encoder) => run_until_done(out, |output| encoder.finish(output, true))?,
                None => out.put_raw(&LAST_BLOCK),
            }
        }
        // The old tables go before new ones come.
        self.encoder = None;
        *self = Compressor::new(wanted)?;
        Ok(())
    }

    fn compress(&mut self, plain: &[u8], out: &mut Vec<u8>) -> std::io::Result<()> {
        let was_open = std::mem::replace(&mut self.open, true);
        let Some(encoder) = &mut self.encoder else {
            if !was_open {
                out.put_raw(&STORED_HEADER);
            }
            plain.chunks(BLOCK_MAX).for_each(|block| put_raw_block(block, out));
            return Ok(());
        };
        let mut input = InBuffer::around(plain);
        while input.pos() < plain.len() {
            out.reserve(STEP);
            let end = out.len();
            encoder.run(&mut input, &mut OutBuffer::around_pos(out, end))?;
        }
        Ok(())
    }

    fn flush(&mut self, out: &mut Vec<u8>) -> std::io::Result<()> {
        match &mut self.encoder {
            Some(encoder) if self.open => run_until_done(out, |output| encoder.flush(output)),
            Some(_) | None => Ok(()),
        }
    }
}

/// Turns messages into the bytes of one direction.
pub struct FrameEncoder {
    stream: Stream,
    plain: Vec<u8>,
    out: Vec<u8>,
    pushed: u64,
    transcript: Transcript,
}

impl FrameEncoder {
    /// Starts a direction: the preface and the greeting, which is never compressed. `level` is the
    /// zstd level of what follows.
    pub fn start(
        greeting: &Message,
        codec: StreamCodec,
        level: i32,
    ) -> std::io::Result<FrameEncoder> {
        let stream = match codec {
            StreamCodec::Raw => Stream::Raw,
            StreamCodec::Zstd => {
                Stream::Short { effort: Effort::Level(level), waiting: Vec::new() }
            }
        };
        let mut encoder = FrameEncoder {
            stream,
            plain: Vec::new(),
            out: Vec::new(),
            pushed: 0,
            transcript: Transcript::default(),
        };
        encoder.out.put_raw(PREFACE);
        put_frame(greeting, &mut encoder.out, &mut encoder.transcript)?;
        Ok(encoder)
    }

    /// A direction that carries nothing but its greeting (an error instead of a welcome).
    pub fn only(greeting: &Message) -> Vec<u8> {
        let mut out = PREFACE.to_vec();
        put_frame(greeting, &mut out, &mut Transcript::default())
            .expect("greetings of bounded fields fit into a frame");
        out
    }

    /// How what is pushed now is compressed; none where the greeting says that nothing is.
    pub fn effort(&self) -> Option<Effort> {
        match &self.stream {
            Stream::Raw => None,
            Stream::Short { effort, .. } | Stream::Zstd(Compressor { effort, .. }) => Some(*effort),
        }
    }

    /// Compresses the messages that follow in another way. Costs about nine bytes, and what
    /// follows cannot refer to what came before. Without effect where nothing is compressed.
    pub fn set_effort(&mut self, wanted: Effort) -> std::io::Result<()> {
        match &mut self.stream {
            Stream::Raw => Ok(()),
            Stream::Short { effort, .. } => {
                *effort = wanted;
                Ok(())
            }
            Stream::Zstd(compressor) => compressor.set_effort(wanted, &mut self.out),
        }
    }

    /// Appends a message; nothing of one that does not fit into a frame. Bytes may stay inside
    /// until [`FrameEncoder::flush`].
    pub fn push(&mut self, message: &Message) -> std::io::Result<()> {
        self.plain.clear();
        put_frame(message, &mut self.plain, &mut self.transcript)?;
        self.pushed += self.plain.len() as u64;
        match &mut self.stream {
            Stream::Raw => self.out.put_raw(&self.plain),
            Stream::Short { effort, waiting } => {
                waiting.put_raw(&self.plain);
                if waiting.len() > SHORT {
                    let mut compressor = Compressor::new(*effort)?;
                    self.out.put_raw(&PACKED);
                    compressor.compress(waiting, &mut self.out)?;
                    self.stream = Stream::Zstd(compressor);
                }
            }
            Stream::Zstd(compressor) => compressor.compress(&self.plain, &mut self.out)?,
        }
        Ok(())
    }

    /// Makes sure that all messages so far are in the bytes.
    pub fn flush(&mut self) -> std::io::Result<()> {
        match &mut self.stream {
            Stream::Raw => Ok(()),
            Stream::Short { waiting, .. } => {
                self.out.append(waiting);
                Ok(())
            }
            Stream::Zstd(compressor) => compressor.flush(&mut self.out),
        }
    }

    /// The same in the middle of a flight, which costs a few bytes. A flight that is still too short to be
    /// compressed stays inside, as more of it may make that worth while. Says whether all messages so far
    /// are in the bytes.
    pub fn flush_compressed(&mut self) -> std::io::Result<bool> {
        match &mut self.stream {
            Stream::Raw => Ok(true),
            Stream::Short { waiting, .. } => Ok(waiting.is_empty()),
            Stream::Zstd(compressor) => compressor.flush(&mut self.out).map(|()| true),
        }
    }

    /// How many bytes all frames after the greeting had before compression.
    pub fn pushed(&self) -> u64 {
        self.pushed
    }

    /// Digest of the greeting.
    pub fn greeting(&self) -> Digest {
        self.transcript.greeting()
    }

    /// What has been stated or planned and not sealed; none if nothing has.
    pub fn to_seal(&self) -> Option<Sum> {
        self.transcript.sum()
    }

    /// How many bytes are ready for the line.
    pub fn ready(&self) -> usize {
        self.out.len()
    }

    /// Takes the bytes that are ready.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }
}

fn zstd_encoder(level: i32) -> std::io::Result<Encoder<'static>> {
    let mut encoder = Encoder::new(level)?;
    encoder.set_parameter(CParameter::WindowLog(WINDOW_LOG_MAX.min(window(level))))?;
    Ok(encoder)
}

/// Lets a compressor write until it has nothing left to write.
fn run_until_done(
    out: &mut Vec<u8>,
    mut step: impl FnMut(&mut OutBuffer<'_, Vec<u8>>) -> std::io::Result<usize>,
) -> std::io::Result<()> {
    loop {
        out.reserve(STEP);
        let end = out.len();
        if step(&mut OutBuffer::around_pos(out, end))? == 0 {
            return Ok(());
        }
    }
}

/// Appends a block that holds its bytes as they are.
fn put_raw_block(bytes: &[u8], out: &mut Vec<u8>) {
    let header = (bytes.len() as u32) << 3;
    out.put_raw(&header.to_le_bytes()[..3]);
    out.put_raw(bytes);
}

/// A window no larger than the level can make use of.
fn window(level: i32) -> u32 {
    match level {
        ..=2 => 19,
        3..=5 => 21,
        6..=11 => 22,
        12.. => 23,
    }
}

/// Appends nothing where the message is longer than a frame may be: the peer could not take it.
fn put_frame(
    message: &Message,
    out: &mut Vec<u8>,
    transcript: &mut Transcript,
) -> std::io::Result<()> {
    let payload = message.payload();
    if payload.len() > FRAME_MAX {
        let (name, length) = (message.name(), payload.len());
        let text = format!("a {name} message of {length} bytes does not fit into a frame");
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, text));
    }
    out.put_varint(payload.len() as u64);
    out.push(message.type_byte());
    out.put_raw(&payload);
    transcript.note(message.type_byte(), &payload);
    Ok(())
}

/// Where a direction stands in its bytes.
enum Stage {
    Preface,
    Greeting,
    Raw,
    /// As in [`Stage::Raw`], until zstd begins.
    Short,
    Zstd(Box<Decoder<'static>>),
}

/// Turns the bytes of one direction into messages. Holds at most one frame, what was fed and one
/// decompression step: the caller feeds when [`FrameDecoder::message`] has no more.
pub struct FrameDecoder {
    stage: Stage,
    input: Vec<u8>,
    taken: usize,
    /// Bytes from `read` to `filled`, and room for more: kept, as a step may come to nothing and cost hardly a byte.
    plain: Vec<u8>,
    read: usize,
    filled: usize,
    /// The last decompression step was full: more may come without further input.
    more: bool,
    pulled: u64,
    transcript: Transcript,
    /// Most bytes in a frame.
    limit: usize,
}

impl Default for FrameDecoder {
    fn default() -> FrameDecoder {
        FrameDecoder::new()
    }
}

impl FrameDecoder {
    /// Before the first byte.
    pub fn new() -> FrameDecoder {
        FrameDecoder {
            stage: Stage::Preface,
            input: Vec::new(),
            taken: 0,
            plain: Vec::new(),
            read: 0,
            filled: 0,
            more: false,
            pulled: 0,
            transcript: Transcript::default(),
            limit: FRAME_MAX,
        }
    }

    /// Takes no longer frames from now on; never longer ones than [`FRAME_MAX`].
    pub fn limit_frames(&mut self, bytes: usize) {
        self.limit = bytes.min(FRAME_MAX);
    }

    /// Takes bytes from the line.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.input.drain(..self.taken);
        self.taken = 0;
        self.input.extend_from_slice(bytes);
    }

    /// The next whole message; none until more bytes are fed.
    pub fn message(&mut self) -> Result<Option<Message>, ProtocolError> {
        if let Stage::Preface = self.stage {
            let length = self.input.len().min(PREFACE.len());
            if self.input[..length] != PREFACE[..length] {
                return Err(ProtocolError::NotPsync(crate::path::printable(self.start_of_input())));
            }
            if length < PREFACE.len() {
                return Ok(None);
            }
            self.taken = PREFACE.len();
            self.stage = Stage::Greeting;
        }
        loop {
            if let Some(message) = self.frame()? {
                return Ok(Some(message));
            }
            if !self.advance()? {
                return Ok(None);
            }
        }
    }

    /// Whether every byte so far belongs to a whole message, as far as can be seen: the compressor's
    /// own buffer may hold the beginning of another one.
    pub fn is_at_boundary(&self) -> bool {
        self.read == self.filled && self.taken == self.input.len()
    }

    /// How many bytes it holds: of the line, and decompressed. At most what was fed last, one frame
    /// and one step; the window of the decompressor comes on top.
    pub fn held(&self) -> usize {
        self.input.len() + self.filled
    }

    /// How many bytes all frames so far had, after decompression.
    pub fn pulled(&self) -> u64 {
        self.pulled
    }

    /// Digest of the greeting.
    pub fn greeting(&self) -> Digest {
        self.transcript.greeting()
    }

    /// What the last `Seal` was about; none where nothing stood before it.
    pub fn sealed(&self) -> Option<Sum> {
        self.transcript.sealed()
    }

    /// What stands where the preface should: for the message to the user.
    fn start_of_input(&self) -> &[u8] {
        &self.input[..self.input.len().min(200)]
    }

    /// A whole frame from the plain bytes.
    fn frame(&mut self) -> Result<Option<Message>, ProtocolError> {
        let decode = |error| ProtocolError::Decode { message: "frame", error };
        let plain = &self.plain[self.read..self.filled];
        if matches!(self.stage, Stage::Short) && plain.starts_with(&PACKED) {
            self.read += PACKED.len();
            self.begin_zstd()?;
            return Ok(None);
        }
        let mut reader = Reader::new(plain);
        let length = match reader.varint("a frame's length") {
            Ok(length) => length,
            Err(DecodeError::Truncated(_)) => return Ok(None),
            Err(error) => return Err(decode(error)),
        };
        if length > self.limit as u64 {
            let what = "a frame's length";
            let limit = self.limit as u64;
            return Err(decode(DecodeError::TooLarge { what, value: length, limit }));
        }
        if (reader.remaining() as u64) < length + 1 {
            return Ok(None);
        }
        let (kind, payload) =
            (|| Ok((reader.u8("a type")?, reader.raw(length as usize, "a payload")?)))()
                .map_err(decode)?;
        let message = Message::decode(kind, payload)?;
        self.transcript.note(kind, payload);
        let read = self.filled - reader.remaining();
        self.pulled += (read - self.read) as u64;
        self.read = read;
        if let Stage::Greeting = self.stage {
            self.after_greeting(&message);
        }
        Ok(Some(message))
    }

    /// The greeting says how the rest travels.
    fn after_greeting(&mut self, message: &Message) {
        let codec = match message {
            Message::Hello(hello) => hello.codec,
            Message::Welcome(welcome) => welcome.codec,
            _ => StreamCodec::Raw,
        };
        self.stage = match codec {
            StreamCodec::Raw => Stage::Raw,
            StreamCodec::Zstd => Stage::Short,
        };
    }

    /// The rest is compressed; what was read of it goes back.
    fn begin_zstd(&mut self) -> Result<(), ProtocolError> {
        let mut decoder = Decoder::new().map_err(damaged)?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(damaged)?;
        self.stage = Stage::Zstd(Box::new(decoder));
        let beyond = self.plain[self.read..self.filled].to_vec();
        self.input.splice(..self.taken, beyond);
        self.taken = 0;
        (self.read, self.filled) = (0, 0);
        Ok(())
    }

    /// Moves some input to the plain bytes; false when there is none left to move.
    fn advance(&mut self) -> Result<bool, ProtocolError> {
        // Once for each frame at most: one that comes byte by byte is not moved for each.
        if self.read > 0 {
            self.plain.copy_within(self.read..self.filled, 0);
            self.filled -= std::mem::take(&mut self.read);
        }
        let rest = &self.input[self.taken..];
        match &mut self.stage {
            Stage::Preface | Stage::Greeting | Stage::Raw | Stage::Short => {
                self.plain.truncate(self.filled);
                self.plain.extend_from_slice(rest);
                self.filled = self.plain.len();
                self.taken = self.input.len();
                Ok(!rest.is_empty())
            }
            // To ask for what cannot come is an error for zstd, after a few times.
            Stage::Zstd(_) if rest.is_empty() && !self.more => Ok(false),
            Stage::Zstd(decoder) => {
                let most = self.filled + STEP;
                self.plain.resize(self.plain.len().max(most), 0);
                let room = &mut self.plain[self.filled..most];
                let status = decoder.run_on_buffers(rest, room).map_err(damaged)?;
                self.filled += status.bytes_written;
                self.taken += status.bytes_read;
                self.more = status.bytes_written == STEP;
                Ok(status.bytes_written > 0 || status.bytes_read > 0)
            }
        }
    }
}

fn damaged(error: std::io::Error) -> ProtocolError {
    ProtocolError::Decode { message: "frame", error: DecodeError::Stream(error.to_string()) }
}
