//! An emulated line between two programs on one machine: a rate, a round trip, and a count of what
//! crossed it. Called in place of ssh, it runs the remote command here and carries the command's
//! standard input and output over the line.
//!
//! What is sent leaves at the line's rate and arrives half a round trip later. Each direction holds
//! at most what a line of this rate and round trip holds, and 64 KiB more; then its sender has to
//! wait, as at a socket. It also watches the memory of the remote command. The headers of TCP and ssh, lost packets and slow start are not emulated.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde_json::{Value, json};

use crate::memory::MemoryWatch;

/// Bits per second, each way; 0 is without limit.
pub(crate) const RATE: &str = "PSYNC_LINE_RATE";
pub(crate) const RTT_MS: &str = "PSYNC_LINE_RTT_MS";
/// A file to which each line adds its counts, as one line of JSON, when it closes.
pub(crate) const STATS: &str = "PSYNC_LINE_STATS";

/// How long after a program's end its line may take to report.
const REPORT_WAIT: Duration = Duration::from_secs(5);

/// What one TCP segment carries.
const SEGMENT: usize = 1460;

/// A pipe that is ready for writing takes this much without blocking.
const PIPE_TAKES: usize = 4096;

/// Acts as the remote shell: `[OPTIONS] HOST [OPTIONS] COMMAND...`. Returns the exit code.
pub(crate) fn run_as_remote_shell(arguments: &[OsString]) -> i32 {
    let Some(command) = remote_command(arguments) else {
        eprintln!("line: usage: line [OPTIONS] HOST COMMAND...");
        return 2;
    };
    match carry(&command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("line: {error}");
            255
        }
    }
}

/// What ssh would hand to the remote user's shell, once its own options and the host are dropped.
fn remote_command(arguments: &[OsString]) -> Option<OsString> {
    let (_host, after_host) = after_options(arguments).split_first()?;
    let words = after_options(after_host);
    (!words.is_empty()).then(|| words.join(" ".as_ref()))
}

/// The arguments behind leading ssh options, of which some take a value.
fn after_options(mut arguments: &[OsString]) -> &[OsString] {
    while let [option, rest @ ..] = arguments {
        let option = option.as_encoded_bytes();
        if !option.starts_with(b"-") {
            break;
        }
        let takes_value =
            matches!(option, [b'-', letter] if b"BbcDEeFIiJLlmOoPpRSWw".contains(letter));
        arguments = if takes_value { rest.get(1..).unwrap_or_default() } else { rest };
    }
    arguments
}

fn carry(command: &OsString) -> io::Result<i32> {
    let started = Instant::now();
    // The shell becomes the command, so that the memory that is watched is the command's.
    let mut exec = OsString::from("exec ");
    exec.push(command);
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(exec)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let memory = MemoryWatch::start(child.id());
    let our_input = io::stdin().as_fd().try_clone_to_owned()?;
    let our_output = io::stdout().as_fd().try_clone_to_owned()?;
    let child_input = OwnedFd::from(child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?);
    let child_output = OwnedFd::from(child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?);

    let mut line = Line {
        out: Lane::new(our_input, child_input),
        back: Lane::new(child_output, our_output),
        turns: Turns::default(),
    };
    line.run()?;
    // At once: Unison ends its remote shell as soon as it has what it wants.
    let (out, back, turns) = (line.out.carried, line.back.carried, line.turns.count);
    Counts { out, back, turns, far_memory: memory.stop() }.report(started.elapsed())?;
    drop(line);
    let status = child.wait()?;
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

struct Line {
    out: Lane,
    back: Lane,
    turns: Turns,
}

impl Line {
    /// Carries both ways until the remote program's output has ended and arrived.
    fn run(&mut self) -> io::Result<()> {
        loop {
            let now = Instant::now();
            self.out.deliver(now)?;
            self.back.deliver(now)?;
            if self.back.is_closed() {
                return Ok(());
            }
            let ready = wait_for_any(&self.out, &self.back)?;
            if ready[0] && self.out.take_in()? {
                self.turns.note(Side::Local);
            }
            if ready[1] && self.back.take_in()? {
                self.turns.note(Side::Remote);
            }
        }
    }
}

/// Waits until something can be taken in or delivered; says which lanes' sources are readable.
fn wait_for_any(out: &Lane, back: &Lane) -> io::Result<[bool; 2]> {
    let mut waits = Vec::with_capacity(4);
    let mut source_at = [None; 2];
    for (lane, place) in [out, back].into_iter().zip(&mut source_at) {
        if let Some(source) = lane.source_to_read() {
            *place = Some(waits.len());
            waits.push(PollFd::new(source, PollFlags::IN));
        }
        if let Some(sink) = lane.sink_to_write() {
            waits.push(PollFd::new(sink, PollFlags::OUT));
        }
    }
    let next_arrival = [out, back].into_iter().filter_map(Lane::next_arrival).min();
    let timeout = next_arrival.map(|at| {
        let left = at.saturating_duration_since(Instant::now());
        Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
    });
    match poll(&mut waits, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(source_at.map(|place| place.is_some_and(|at: usize| !waits[at].revents().is_empty())))
}

/// One direction of the line.
struct Lane {
    /// None when it has ended.
    source: Option<OwnedFd>,
    /// None when all has arrived, or nobody reads it any more.
    sink: Option<OwnedFd>,
    under_way: VecDeque<Segment>,
    bytes_under_way: usize,
    arrived: VecDeque<u8>,
    /// When the line has put out all that it was given so far.
    free_at: Instant,
    carried: u64,
    bytes_per_second: f64,
    one_way: Duration,
}

struct Segment {
    arrives: Instant,
    bytes: Vec<u8>,
}

impl Lane {
    fn new(source: OwnedFd, sink: OwnedFd) -> Lane {
        Lane {
            source: Some(source),
            sink: Some(sink),
            under_way: VecDeque::new(),
            bytes_under_way: 0,
            arrived: VecDeque::new(),
            free_at: Instant::now(),
            carried: 0,
            bytes_per_second: number_from_env(RATE) / 8.0,
            one_way: Duration::from_secs_f64(number_from_env(RTT_MS) / 2_000.0),
        }
    }

    fn capacity(&self) -> usize {
        let in_a_round_trip = self.bytes_per_second * self.one_way.as_secs_f64() * 2.0;
        in_a_round_trip as usize + (64 << 10)
    }

    fn is_closed(&self) -> bool {
        self.sink.is_none()
    }

    fn source_to_read(&self) -> Option<&OwnedFd> {
        let held = self.bytes_under_way + self.arrived.len();
        self.source.as_ref().filter(|_| held < self.capacity())
    }

    fn sink_to_write(&self) -> Option<&OwnedFd> {
        self.sink.as_ref().filter(|_| !self.arrived.is_empty())
    }

    fn next_arrival(&self) -> Option<Instant> {
        self.under_way.front().map(|segment| segment.arrives)
    }

    /// Takes one segment from the source, which is readable; false if none came.
    fn take_in(&mut self) -> io::Result<bool> {
        let Some(source) = &self.source else {
            return Ok(false);
        };
        let mut buffer = vec![0; if self.bytes_per_second > 0.0 { SEGMENT } else { 64 << 10 }];
        let count = match rustix::io::read(source, &mut buffer) {
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(Errno::CONNRESET | Errno::IO) => 0,
            Err(error) => return Err(error.into()),
        };
        if count == 0 {
            // An empty segment is the end: it arrives after all that was sent before it.
            self.source = None;
        }
        buffer.truncate(count);
        self.send(buffer);
        Ok(count > 0)
    }

    fn send(&mut self, bytes: Vec<u8>) {
        self.free_at = self.free_at.max(Instant::now());
        if self.bytes_per_second > 0.0 {
            self.free_at += Duration::from_secs_f64(bytes.len() as f64 / self.bytes_per_second);
        }
        self.carried += bytes.len() as u64;
        self.bytes_under_way += bytes.len();
        self.under_way.push_back(Segment { arrives: self.free_at + self.one_way, bytes });
    }

    /// Hands what has arrived by now to the sink, as far as the sink takes it.
    fn deliver(&mut self, now: Instant) -> io::Result<()> {
        while self.next_arrival().is_some_and(|at| at <= now) {
            let Some(segment) = self.under_way.pop_front() else {
                break;
            };
            self.bytes_under_way -= segment.bytes.len();
            self.arrived.extend(segment.bytes);
        }
        while let Some(sink) = self.sink_to_write() {
            let mut waits = [PollFd::new(sink, PollFlags::OUT)];
            if poll(&mut waits, Some(&Timespec::default()))? == 0 {
                return Ok(());
            }
            let (bytes, _) = self.arrived.as_slices();
            match rustix::io::write(sink, &bytes[..bytes.len().min(PIPE_TAKES)]) {
                Ok(count) => drop(self.arrived.drain(..count)),
                Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
                Err(Errno::PIPE | Errno::CONNRESET) => self.abandon(),
                Err(error) => return Err(error.into()),
            }
        }
        if self.source.is_none() && self.under_way.is_empty() && self.arrived.is_empty() {
            self.sink = None;
        }
        Ok(())
    }

    /// Nobody reads what arrives any more.
    fn abandon(&mut self) {
        self.source = None;
        self.sink = None;
        self.under_way.clear();
        self.arrived.clear();
    }
}

/// How often the talking side changed. Two turns are one round trip, when nothing overlaps.
#[derive(Default)]
struct Turns {
    talking: Option<Side>,
    count: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Local,
    Remote,
}

impl Turns {
    fn note(&mut self, side: Side) {
        if self.talking != Some(side) {
            self.talking = Some(side);
            self.count += 1;
        }
    }
}

/// What crossed a line, or several lines together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) out: u64,
    pub(crate) back: u64,
    pub(crate) turns: u64,
    /// Peak resident memory of the remote command, in bytes.
    pub(crate) far_memory: u64,
}

impl Counts {
    fn report(&self, open_for: Duration) -> io::Result<()> {
        let Some(path) = std::env::var_os(STATS) else {
            return Ok(());
        };
        let Counts { out, back, turns, far_memory } = self;
        let seconds = open_for.as_secs_f64();
        let text = json!({
            "out": out, "back": back, "turns": turns, "seconds": seconds, "memory": far_memory,
        });
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        file.write_all(format!("{text}\n").as_bytes())
    }

    /// The counts of all lines that reported to this file, together. A program that does not wait
    /// for its remote shell may end before the line has closed and reported.
    pub(crate) fn read_when_written(path: &Path) -> Counts {
        let deadline = Instant::now() + REPORT_WAIT;
        while !path.exists() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.fold(Counts::default(), |sum, line| Counts {
            out: sum.out + line["out"].as_u64().unwrap_or(0),
            back: sum.back + line["back"].as_u64().unwrap_or(0),
            turns: sum.turns + line["turns"].as_u64().unwrap_or(0),
            far_memory: sum.far_memory.max(line["memory"].as_u64().unwrap_or(0)),
        })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.out + self.back
    }
}

fn number_from_env(name: &str) -> f64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(0.0)
}
