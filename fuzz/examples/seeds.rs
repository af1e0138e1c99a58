//! Writes the first inputs of all targets: every message that the golden vectors have, and what two
//! honest ends say to each other.
//!
//!     cargo run --manifest-path fuzz/Cargo.toml --example seeds -- fuzz/corpus

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use psync::report::Silent;
use psync::sync::{self, Keeping, Site};
use psync::transport::{Compression, Line, LineLimits};
use psync_fuzz::{ground, tape};
use psync_protocol::Message;
use psync_protocol::frame::FrameDecoder;

fn main() -> std::io::Result<()> {
    let folder = std::env::args_os().nth(1).unwrap_or_else(|| "fuzz/corpus".into());
    let corpus = Path::new(&folder);
    for target in ["frame", "message", "manifest", "delta", "path", "ignore_file", "settings"] {
        fs::create_dir_all(corpus.join(target))?;
    }
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/vectors");
    for entry in fs::read_dir(vectors)?
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|end| end == "txt"))
    {
        let name = entry.file_name();
        let frame = bytes_of(&fs::read_to_string(entry.path())?);
        let Some(payload) = message_tape(&frame) else { continue };
        fs::write(corpus.join("message").join(&name), &payload)?;
        fs::write(corpus.join("manifest").join(&name), &payload)?;
        fs::write(corpus.join("delta").join(&name), frame)?;
    }
    for (target, texts) in [
        ("path", &["a/b", "\u{202e}x/..", "a//b", "/a", ".psync/index.db", "a\u{7}b"]),
        (
            "settings",
            &[
                "mode = \"push\"\n[policy]\ntype = \"hold\"\n",
                "[[rule]]\npattern = \"*.o\"\nmode = \"off\"\nmax-size = \"20M\"\npolicy = { type = \"newest\" }\n",
                "[trash]\nretention = \"30d\"\nbudget = \"10%\"\n[store]\nlargest-file = \"1.5G\"\n",
                "[pair.p1]\nlocal = \"~/p1\"\nremote = \"host:/p1\"\nexclude = [\"*~\"]\n",
                "units = [\"*.bundle/\"]\nprofiles = [\"python\"]\nbwlimit = \"1M\"\n",
                "mode = 'sideways'",
            ],
        ),
        ("ignore_file", &["*.o\n!keep.o", "/build/\n**/x", "[a-", "a/**/b\n\\#c", "!", "foo*\\"]),
    ] {
        for (number, text) in texts.iter().enumerate() {
            fs::write(corpus.join(target).join(format!("text-{number}")), text)?;
        }
    }
    honest_sessions(corpus)
}

/// The bytes of an annotated file.
fn bytes_of(text: &str) -> Vec<u8> {
    let code = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let words = code.flat_map(str::split_whitespace);
    words.filter_map(|word| u8::from_str_radix(word, 16).ok()).collect()
}

/// A frame of a vector as a tape of one message.
fn message_tape(frame: &[u8]) -> Option<Vec<u8>> {
    let start = frame.iter().position(|byte| byte & 0x80 == 0)? + 1;
    let (kind, payload) = frame.get(start..)?.split_first()?;
    let message = Message::decode(*kind, payload).ok()?;
    let mut out = Vec::new();
    tape::write(&message, &mut out);
    Some(out)
}

/// Two real ends meet, then meet again after edits; what each says is an input for the other.
fn honest_sessions(corpus: &Path) -> std::io::Result<()> {
    let folder = std::env::temp_dir().join(format!("psync-seeds-{}", std::process::id()));
    let (near, far) = (folder.join("near"), folder.join("far"));
    for (root, text) in [(&near, "near\n"), (&far, "far\n")] {
        fs::create_dir_all(root.join("docs"))?;
        fs::write(root.join("same.txt"), "same on both sides\n")?;
        fs::write(root.join("docs/text.txt"), text.repeat(300))?;
        fs::write(root.join(format!("only-{}", text.trim())), text)?;
    }
    for round in 0..3 {
        let (said, heard) = one_session(&near, &far)?;
        for (target, bytes) in [("responder", said), ("initiator", heard)] {
            let messages = messages_of(&bytes);
            let mut whole = Vec::new();
            messages.iter().for_each(|message| tape::write(message, &mut whole));
            for (target, name) in [(target, "session"), ("manifest", target), ("message", target)] {
                fs::create_dir_all(corpus.join(target))?;
                fs::write(corpus.join(target).join(format!("{name}-{round}")), &whole)?;
            }
            fs::create_dir_all(corpus.join("session"))?;
            let ends = if target == "initiator" { 1 } else { 0 };
            // Integers are taken from the end of an input.
            let input = [&whole[..], &[ends, round]].concat();
            fs::write(corpus.join("session").join(format!("{target}-{round}")), input)?;
            fs::write(corpus.join("frame").join(format!("{target}-{round}")), &bytes)?;
        }
        fs::write(
            near.join("docs/text.txt"),
            "near\n".repeat(300) + &"edited\n".repeat(round.into()),
        )?;
        fs::rename(near.join("same.txt"), near.join("moved.txt"))
            .or_else(|_| fs::write(near.join("new"), "new"))?;
        fs::write(far.join("new-there"), "there\n".repeat(100))?;
    }
    fs::remove_dir_all(folder)
}

/// What the initiator said and what the responder said, byte for byte.
fn one_session(near: &Path, far: &Path) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
    let (here, here_far) = UnixStream::pair()?;
    let (there, there_far) = UnixStream::pair()?;
    let keeping = Keeping::default;
    let line = |end: UnixStream| -> std::io::Result<Line> {
        Line::new(end.try_clone()?.into(), end.into(), LineLimits::default())
    };
    let (initiating, responding) = (line(here)?, line(there)?);
    std::thread::scope(|scope| {
        let said = relay(scope, here_far.try_clone()?, there_far.try_clone()?);
        let heard = relay(scope, there_far, here_far);
        let off = Compression::Off;
        scope.spawn(move || {
            let _ = sync::respond(far, true, off, responding, &keeping(), ground::names(), &Silent);
        });
        if let Ok(mut site) = Site::open(near, &keeping()) {
            let _ = sync::initiate(&mut site, initiating, &ground::request(keeping()), &Silent);
        }
        let gone = |_| std::io::Error::other("a relay ended");
        Ok((said.join().map_err(gone)?, heard.join().map_err(gone)?))
    })
}

/// Passes on what comes, and keeps it.
fn relay<'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    mut from: UnixStream,
    mut to: UnixStream,
) -> std::thread::ScopedJoinHandle<'scope, Vec<u8>> {
    scope.spawn(move || {
        let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            kept.extend_from_slice(&buffer[..count]);
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
        kept
    })
}

fn messages_of(bytes: &[u8]) -> Vec<Message> {
    let mut decoder = FrameDecoder::new();
    decoder.feed(bytes);
    std::iter::from_fn(|| decoder.message().ok().flatten()).collect()
}
