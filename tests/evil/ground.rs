//! Two roots that have met, a sentinel beside them, and psync as one of the two ends, watched.

use std::fs;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use psync_protocol::{ErrorCode, Message};

use super::common::pair::Said;
use super::common::tree::{Snapshot, differences, files_below, snapshot};
use super::common::wire::Wire;
use super::common::{TempDir, local_rsh, psync, psync_over, set_mode, write_file};
use super::mask::Mask;
use super::trace;
use super::voice::Voice;

/// What stands in the sentinel's files: it may never be found in a root, or come over a line.
pub(crate) const SECRET: &str = "the sentinel's own words, which nobody may read";
/// How long one session may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Memory that a session with a small tree may take, in KiB.
const MEMORY: u64 = 256 << 10;

/// The two roots are `far` and `near`; `outside` is the sentinel.
pub(crate) struct Ground {
    pub(crate) temp: TempDir,
    pub(crate) far: PathBuf,
    pub(crate) near: PathBuf,
    outside: PathBuf,
    sentinel: Snapshot,
}

/// How a session ended.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) said: Said,
    /// All that psync said to its peer.
    pub(crate) heard: Vec<Message>,
    /// The most memory that it held, in KiB.
    pub(crate) memory: u64,
    pub(crate) took: Duration,
    /// What it did that no attack may bring it to.
    faults: Vec<String>,
}

impl Ground {
    /// Both hold the same few files, and have agreed on them.
    pub(crate) fn new() -> Ground {
        Ground::with(|_| {})
    }

    /// The same with more in the root that is first.
    pub(crate) fn with(more: impl FnOnce(&Ground)) -> Ground {
        let temp = TempDir::in_memory();
        let (far, near, outside) =
            (temp.folder("far"), temp.folder("near"), temp.folder("outside"));
        write_file(outside.join("secret"), SECRET);
        write_file(outside.join("dir/inner"), SECRET);
        set_mode(&outside.join("secret"), 0o600);
        set_mode(&outside.join("dir"), 0o750);
        write_file(far.join("a.txt"), "first\n".repeat(100));
        write_file(far.join("docs/b.txt"), "second\n".repeat(500));
        write_file(far.join("docs/deep/c.txt"), "third\n");
        symlink("../outside", far.join("way-out")).unwrap();
        let sentinel = snapshot(&outside);
        let ground = Ground { temp, far, near, outside, sentinel };
        more(&ground);
        ground.agree();
        ground
    }

    /// An honest run.
    pub(crate) fn agree(&self) {
        let mut command = psync_over(&self.temp, &local_rsh(&self.temp));
        Said::of(command.arg(self.place()).arg(&self.near), 0);
    }

    fn place(&self) -> String {
        format!("host:{}", self.far.display())
    }

    /// Who `near` is to `far`.
    pub(crate) fn as_near(&self) -> Mask {
        Mask::of(&self.near, &self.far)
    }

    /// Who `far` is to `near`.
    pub(crate) fn as_far(&self) -> Mask {
        Mask::of(&self.far, &self.near)
    }

    /// A server of `far`, with a peer of ours.
    pub(crate) fn server(&self, options: &[&str], peer: impl FnOnce(&mut Voice)) -> Ended {
        let mut command = psync(&self.temp);
        command.arg("--server").args(options).arg("--").arg(&self.far);
        let (mut watched, stdin, stdout) = self.watch(&command, true);
        let mut voice = Voice::new(stdout, stdin);
        peer(&mut voice);
        voice.close();
        voice.hear_out();
        watched.heard = voice.heard;
        self.ended(watched)
    }

    /// An end that a person has started on `near`, which calls a peer of ours.
    pub(crate) fn caller(
        &self,
        options: &[&str],
        peer: impl FnOnce(&mut Voice) + Send + 'static,
    ) -> Ended {
        for pipe in ["up", "down"] {
            let _ = fs::remove_file(self.temp.join(pipe));
        }
        // It stays until psync has ended, which may have called once more.
        let wire = Arc::new(Wire::new(&self.temp));
        let answered = wire.clone();
        let mut command = psync_over(&self.temp, &wire.rsh());
        command.args(options).arg(self.place()).arg(&self.near);
        let speaker = thread::spawn(move || {
            let end = answered.accept();
            let mut voice = Voice::new(end.from_psync, end.to_psync);
            peer(&mut voice);
            voice.close();
            voice.hear_out();
            voice.heard
        });
        let (mut watched, stdin, stdout) = self.watch(&command, false);
        drop((stdin, stdout));
        watched.heard = speaker.join().unwrap();
        let ended = self.ended(watched);
        drop(wire);
        ended
    }

    /// Starts a program under strace.
    fn watch(&self, command: &Command, speaks: bool) -> (Watched, File, File) {
        let trace = self.temp.join("trace");
        let _ = fs::remove_file(&trace);
        let mut traced = trace::traced(command, &trace);
        let (said, complained) = (self.temp.join("said"), self.temp.join("complained"));
        traced.stdin(Stdio::piped()).stderr(File::create(&complained).unwrap());
        let silent = || File::open("/dev/null").unwrap();
        match speaks {
            true => traced.stdout(Stdio::piped()),
            false => traced.stdout(File::create(&said).unwrap()),
        };
        if speaks {
            File::create(&said).unwrap();
        }
        let started = Instant::now();
        let mut child = traced.spawn().expect("strace starts");
        let stdin = child
            .stdin
            .take()
            .map_or_else(silent, |pipe| File::from(std::os::fd::OwnedFd::from(pipe)));
        let stdout = child
            .stdout
            .take()
            .map_or_else(silent, |pipe| File::from(std::os::fd::OwnedFd::from(pipe)));
        let watch = Watch::start(child.id());
        (Watched { child, watch, started, heard: Vec::new() }, stdin, stdout)
    }

    /// Waits for the end, and looks at what has been done.
    fn ended(&self, watched: Watched) -> Ended {
        let Watched { mut child, watch, started, heard } = watched;
        let process = child.id();
        let code = child.wait().unwrap().code();
        let (memory, took) = watch.stop();
        let took = took.unwrap_or_else(|| started.elapsed());
        let trace = trace::await_end(&self.temp.join("trace"), process);
        let text = |name: &str| {
            let mut bytes = Vec::new();
            File::open(self.temp.join(name)).unwrap().read_to_end(&mut bytes).unwrap();
            bytes
        };
        let (out, err) = (text("said"), text("complained"));
        let mut faults = self.touched_outside(&trace);
        faults.extend([&out, &err].into_iter().filter_map(|said| steering(said)));
        let said = Said {
            out: String::from_utf8_lossy(&out).into_owned(),
            err: String::from_utf8_lossy(&err).into_owned(),
        };
        if code.is_none() || said.err.contains("panicked") {
            faults.push(format!("it ended badly: {code:?}"));
        }
        if took > PATIENCE || memory > MEMORY {
            faults.push(format!("it took {took:?} and {memory} KiB of memory"));
        }
        Ended { code, said, heard, memory, took, faults }
    }

    /// The sentinel is as it was, nobody has been near it, and nothing of it is in a root; or what is
    /// wrong with that.
    fn touched_outside(&self, trace: &str) -> Vec<String> {
        let mut faults = differences(&self.sentinel, &snapshot(&self.outside));
        let temp = |name: &str| self.temp.join(name);
        // The last two belong to the remote shell of the tests.
        let owned = ["far", "near", "home", "up", "down"].map(temp);
        let readable = [temp("wire"), trace::program()];
        faults.extend(trace::offences(trace, &owned, &readable));
        for file in [&self.far, &self.near].into_iter().flat_map(|root| files_below(root)) {
            let content = fs::read(&file).unwrap_or_default();
            if content.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()) {
                faults.push(format!("{} has what stands outside", file.display()));
            }
        }
        faults
    }
}

/// What in this steers a terminal: a control character but for the end of a line, or something that
/// changes the order of text.
fn steering(bytes: &[u8]) -> Option<String> {
    let steers = |c: &char| {
        c.is_control() && *c != '\n'
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{61c}')
    };
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            let c = text.chars().find(steers)?;
            let line = text.lines().find(|line| line.contains(c)).unwrap_or_default();
            Some(format!("{c:?} was printed: {line:?}"))
        }
        Err(error) => Some(format!("what was printed is not UTF-8: {error}")),
    }
}

#[track_caller]
pub(crate) fn assert_plain(bytes: &[u8]) {
    assert_eq!(steering(bytes), None);
}

struct Watched {
    child: Child,
    watch: Watch,
    started: Instant,
    heard: Vec<Message>,
}

/// Looks at the memory of a process as long as it lives, and ends it when its time is over.
struct Watch {
    over: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    /// Says how long it lived, if that was seen.
    thread: JoinHandle<Option<Duration>>,
}

impl Watch {
    fn start(process: u32) -> Watch {
        let (over, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (is_over, highest) = (over.clone(), peak.clone());
        let thread = thread::spawn(move || {
            let started = Instant::now();
            while !is_over.load(Ordering::Relaxed) {
                let status =
                    fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
                if status.contains("State:\tZ") {
                    return Some(started.elapsed());
                }
                // Before it is psync it is strace.
                let of_psync = status.starts_with("Name:\tpsync");
                let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
                let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
                highest.fetch_max(number.filter(|_| of_psync).unwrap_or(0), Ordering::Relaxed);
                if started.elapsed() > PATIENCE {
                    let id = rustix::process::Pid::from_raw(process as i32);
                    let _ = id
                        .map(|id| rustix::process::kill_process(id, rustix::process::Signal::KILL));
                    return None;
                }
                thread::sleep(Duration::from_millis(4));
            }
            None
        });
        Watch { over, peak, thread }
    }

    fn stop(self) -> (u64, Option<Duration>) {
        self.over.store(true, Ordering::Relaxed);
        let took = self.thread.join().unwrap();
        (self.peak.load(Ordering::Relaxed), took)
    }
}

/// What has to come of an attack.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expect {
    /// The session ends with this code, and words that have these in them; nothing has changed.
    Refused(ErrorCode, &'static str),
    /// The session goes on, and somebody is told these words; nothing outside has changed.
    Told(&'static str),
    /// Nothing comes of it.
    Nothing,
}

impl Ended {
    /// Everything, for the message of a failed test.
    pub(crate) fn all(&self) -> String {
        format!(
            "exit code {:?}, {} KiB, {:?}\n--- stdout ---\n{}--- stderr ---\n{}--- to its peer ---\n{:?}",
            self.code,
            self.memory,
            self.took,
            self.said.out,
            self.said.err,
            self.heard.iter().map(brief).collect::<Vec<_>>()
        )
    }

    /// Nothing outside was touched, and it kept its bounds.
    #[track_caller]
    pub(crate) fn assert_bounds(&self) {
        assert!(self.faults.is_empty(), "{}\n{}", self.faults.join("\n"), self.all());
    }

    /// The error that it told its peer.
    pub(crate) fn error(&self) -> Option<(ErrorCode, String)> {
        self.heard.iter().find_map(|message| match message {
            Message::Error { code, text } => Some((*code, text.clone())),
            _ => None,
        })
    }

    fn told(&self, words: &str) -> bool {
        let failures = self.heard.iter().flat_map(|message| match message {
            Message::Done(done) => {
                done.failures.iter().map(|failure| failure.text.clone()).collect()
            }
            Message::FileFailed(failure) => vec![failure.text.clone()],
            Message::Problem(problem) => vec![problem.text.clone()],
            Message::Error { text, .. } => vec![text.clone()],
            _ => Vec::new(),
        });
        failures
            .chain([self.said.out.clone(), self.said.err.clone()])
            .any(|text| text.contains(words))
    }

    /// Whether this came of an attack on an end whose tree was `before` and is `after` now. Says
    /// what did not.
    pub(crate) fn wrong(
        &self,
        expect: Expect,
        before: &Snapshot,
        after: &Snapshot,
    ) -> Option<String> {
        let changed = differences(before, after);
        if !self.faults.is_empty() {
            return Some(format!("{}\n{}", self.faults.join("\n"), self.all()));
        }
        match expect {
            Expect::Refused(code, words) => {
                let named = match self.error() {
                    Some((found, text)) => found == code && text.contains(words),
                    None => self.said.err.contains(words),
                };
                let ended = self.code.is_some_and(|code| code != 0);
                (!named || !ended || !changed.is_empty()).then(|| {
                    format!("expected {code:?} '{words}', changed {changed:?}\n{}", self.all())
                })
            }
            Expect::Told(words) => {
                (!self.told(words)).then(|| format!("nobody was told '{words}'\n{}", self.all()))
            }
            Expect::Nothing => {
                (!changed.is_empty()).then(|| format!("changed {changed:?}\n{}", self.all()))
            }
        }
    }
}

fn brief(message: &Message) -> String {
    let text = format!("{message:?}");
    text.chars().take(400).collect()
}
