//! A root with a few files, a sentinel beside it, and a whole end of psync that is fed an input.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use psync::apply::RunNames;
use psync::reconcile::DeleteLimit;
use psync::report::Silent;
use psync::sync::{self, Keeping, Request, Site};
use psync::transport::{Compression, Line, LineLimits};
use psync_protocol::frame::FrameEncoder;
use psync_protocol::message::{Flow, Intent, StreamCodec};
use psync_protocol::{Message, Role};

use crate::tape;

/// What stands outside the root and must stay as it is.
const SENTINEL: &[u8] = b"nobody may touch this";

/// A directory in memory that goes when the value does.
#[derive(Debug)]
pub struct Ground {
    folder: PathBuf,
}

impl Ground {
    /// A ground of this name, new.
    pub fn new(name: &str) -> Ground {
        let base =
            if fs::metadata("/dev/shm").is_ok() { "/dev/shm".into() } else { std::env::temp_dir() };
        let folder = base.join(format!("psync-fuzz-{name}-{}", std::process::id()));
        let ground = Ground { folder };
        ground.renew();
        ground
    }

    /// The root.
    pub fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    /// Puts the root back to how it was first.
    pub fn renew(&self) {
        let _ = fs::remove_dir_all(&self.folder);
        let make = || -> std::io::Result<()> {
            let outside = self.folder.join("outside");
            fs::create_dir_all(&outside)?;
            fs::write(outside.join("sentinel"), SENTINEL)?;
            let root = self.root();
            fs::create_dir_all(root.join("docs/deep"))?;
            fs::write(root.join("same.txt"), "same on both sides\n")?;
            fs::write(root.join("docs/text.txt"), "a line of text\n".repeat(200))?;
            fs::write(root.join("docs/deep/empty"), "")?;
            symlink("../outside", root.join("way-out"))
        };
        make().expect("a place for the root");
    }

    /// Nothing outside the root was touched.
    ///
    /// # Panics
    ///
    /// If something was.
    pub fn check(&self) {
        let outside = self.folder.join("outside");
        let names: Vec<_> = fs::read_dir(&outside).expect("outside").flatten().collect();
        assert_eq!(names.len(), 1, "something was put outside the root");
        assert_eq!(fs::read(outside.join("sentinel")).expect("the sentinel"), SENTINEL);
        let beside = fs::read_dir(&self.folder).expect("the folder").count();
        assert_eq!(beside, 2, "something was put beside the root");
    }

    /// Lets a real end play `role` against a peer that says what the input holds and hangs up.
    pub fn play(&self, role: Role, input: &[u8]) {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let feed = frames(input);
        let peer = std::thread::spawn(move || hostile_peer(theirs, &feed));
        let output = ours.try_clone().expect("a descriptor");
        let limits = LineLimits { timeout: Some(Duration::from_secs(20)), ..LineLimits::default() };
        if let Ok(line) = Line::new(ours.into(), output.into(), limits) {
            let keeping = Keeping::default();
            match role {
                Role::Responder => {
                    let off = Compression::Off;
                    let root = self.root();
                    // An error is what is expected.
                    let _ = sync::respond(&root, true, off, line, &keeping, names(), &Silent);
                }
                Role::Initiator => {
                    if let Ok(mut site) = Site::open(&self.root(), &keeping) {
                        let _ = sync::initiate(&mut site, line, &request(keeping), &Silent);
                    }
                }
            }
        }
        let _ = peer.join();
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The names of a run.
pub fn names() -> RunNames {
    RunNames { trash: "20260101T000000Z".into(), clash: "202601010000".into(), now: 1_767_225_600 }
}

/// A run with everything as usual.
pub fn request(keeping: Keeping) -> Request {
    Request {
        flow: Flow::TwoWay,
        intent: Intent::CarryOut,
        filters: Vec::new(),
        rules: Default::default(),
        change_limit: Default::default(),
        delete_limit: DeleteLimit::Count(1_000_000),
        empty_is_meant: false,
        doubt: None,
        keeping,
        location: "fuzz".into(),
        compression: Compression::Off,
        names: names(),
        plan: psync::sync::PlanUse::Fresh,
    }
}

/// The messages of an input as they stand on a line without compression.
fn frames(input: &[u8]) -> Vec<u8> {
    let mut messages = tape::messages(input);
    let Some(greeting) = messages.next() else { return Vec::new() };
    let greeting = uncompressed(greeting);
    let started = FrameEncoder::start(&greeting, StreamCodec::Raw, 1);
    let Ok(mut encoder) = started else { return FrameEncoder::only(&greeting) };
    for message in messages {
        if encoder.push(&message).is_err() {
            break;
        }
    }
    let _ = encoder.flush();
    encoder.take()
}

/// A greeting that announces a compressed stream would make noise of all that follows.
fn uncompressed(greeting: Message) -> Message {
    match greeting {
        Message::Hello(mut hello) => {
            hello.codec = StreamCodec::Raw;
            Message::Hello(hello)
        }
        Message::Welcome(mut welcome) => {
            welcome.codec = StreamCodec::Raw;
            Message::Welcome(welcome)
        }
        other => other,
    }
}

/// Says what it has to say, reads whatever comes, and hangs up.
fn hostile_peer(mut line: UnixStream, feed: &[u8]) {
    let Ok(mut reading) = line.try_clone() else { return };
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 1 << 16];
        while reading.read(&mut buffer).is_ok_and(|n| n > 0) {}
    });
    let _ = line.write_all(feed);
    let _ = line.shutdown(Shutdown::Write);
    let _ = reader.join();
}
