//! Shows that psync may be killed at any moment, at either end, and nothing is lost.
//!
//! Two users change their sides of a pair of roots at random; psync runs, and `kill -9` hits the
//! local or the remote end at a random moment. After every kill each file in both trees is wholly
//! a version that a user wrote to that path or moved there. Then a run that is left alone succeeds
//! and makes both trees the same, another finds nothing to do, and every version that was live
//! when psync started is in a tree or in the trash.
//!
//!     cargo test --test kills
//!     PSYNC_KILL_ROUNDS=500 cargo test --release --test kills -- --nocapture
//!
//! `PSYNC_KILL_SEED` repeats the changes of an earlier test, though not its timing, which depends
//! on the machine; `PSYNC_KEEP_TEMP` keeps the trees of a failure.

mod common;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use common::tree::{Rng, Snapshot, differences, now_ns, snapshot};
use common::user::User;
use common::witness::{Witness, has_clash_name};
use common::{TempDir, local_rsh, psync_over};

/// After so many rounds the trees are made anew: that tries first contact too, and keeps the
/// trash small.
const ROUNDS_PER_WORLD: usize = 20;

/// By then both ends of a run have ended, even where one of them was killed.
const LONGEST_RUN: Duration = Duration::from_secs(60);

/// Exit codes of a run that made both sides equal: without conflicts, and with some of which both
/// versions are kept.
const DONE: i32 = 0;
const DONE_WITH_CONFLICTS: i32 = 40;

/// How a run may end whose other end was killed: rsync's codes for a broken connection. (0, where
/// the kill came after all was done, is checked by comparing the trees.)
const BROKEN_CONNECTION: [i32; 3] = [10, 12, 30];

#[test]
fn killing_either_end_at_any_moment_loses_nothing() {
    let rounds = number_from_env("PSYNC_KILL_ROUNDS").unwrap_or(25) as usize;
    let seed = number_from_env("PSYNC_KILL_SEED").unwrap_or_else(|| now_ns() as u64);
    println!("kills: {rounds} rounds, PSYNC_KILL_SEED={seed}");
    let mut rng = Rng::new(seed);
    let mut tally = Tally::default();
    let mut world = World::new();
    for round in 0..rounds {
        if round > 0 && round % ROUNDS_PER_WORLD == 0 {
            world = World { usual_run: world.usual_run, ..World::new() };
        }
        world.context = format!("round {round}, PSYNC_KILL_SEED={seed}");
        world.live_through_a_round(&mut rng, &mut tally);
    }
    println!("kills: {tally}, usual run {:?}", world.usual_run);
}

/// Two roots, the remote shell between them, and the witness of what their users do.
struct World {
    temp: TempDir,
    near: PathBuf,
    far: PathBuf,
    rsh: String,
    witness: Witness,
    clash_files_seen: BTreeSet<PathBuf>,
    /// How long a run takes that has changes to carry and is not killed, as measured so far.
    usual_run: Duration,
    /// Says in messages which round this is.
    context: String,
}

impl World {
    fn new() -> World {
        let temp = TempDir::new();
        World {
            near: temp.folder("near"),
            far: temp.folder("far"),
            rsh: local_rsh(&temp),
            temp,
            witness: Witness::default(),
            clash_files_seen: BTreeSet::new(),
            usual_run: Duration::from_millis(200),
            context: String::new(),
        }
    }

    fn live_through_a_round(&mut self, rng: &mut Rng, tally: &mut Tally) {
        tally.rounds += 1;
        let seen_before = self.clash_files_seen.len();
        for _ in 0..=rng.below(3) {
            self.users_change_both_sides(rng);
            self.killed_run(rng, tally);
        }
        let agreed = self.undisturbed_run();
        self.note_clash_files(&agreed);
        self.run_with_nothing_to_do(&agreed);
        tally.clash_files += self.clash_files_seen.len() - seen_before;
    }

    fn users_change_both_sides(&mut self, rng: &mut Rng) {
        for root in [&self.near, &self.far] {
            let count = rng.below(8);
            User { root, rng, witness: &mut self.witness }.make_changes(count);
        }
    }

    /// Runs psync, kills one end of it, and checks what the kill has left behind.
    fn killed_run(&mut self, rng: &mut Rng, tally: &mut Tally) {
        self.witness_both_sides();
        let victim = *rng.pick(&[Victim::Local, Victim::Remote]);
        let patience = self.usual_run.mul_f64(rng.below(1_500) as f64 / 1_000.0);
        let mut run = self.start();
        let hit = run.kill(victim, patience);
        let end = self.wait_for(run);
        tally.count(victim, hit);

        let (near, far) = (snapshot(&self.near), snapshot(&self.far));
        self.check_all_explained(&near, &far, &end);
        match end.status.code() {
            None if hit && victim == Victim::Local => {}
            Some(DONE | DONE_WITH_CONFLICTS) => {
                self.check_same(&near, &far, &end);
                self.usual_run = (self.usual_run + end.took) / 2;
            }
            Some(code) if hit && victim == Victim::Remote && BROKEN_CONNECTION.contains(&code) => {}
            _ => self.fail("psync ended as it should not", &[], &end),
        }
    }

    /// A run that nobody kills must succeed, bring both sides to the same state, and have kept
    /// every version. Returns that state. Nothing else is right here: no file changes while psync
    /// reads it, so none may be skipped (24), and none is out of reach (23).
    fn undisturbed_run(&mut self) -> BothSides {
        self.witness_both_sides();
        let run = self.start();
        let end = self.wait_for(run);
        self.usual_run = self.usual_run.max(end.took);
        if !matches!(end.status.code(), Some(DONE | DONE_WITH_CONFLICTS)) {
            self.fail("the run after a kill failed", &[], &end);
        }
        let (near, far) = (snapshot(&self.near), snapshot(&self.far));
        self.check_same(&near, &far, &end);
        self.check_all_explained(&near, &far, &end);
        let lost = self.witness.lost(&[&near, &far], &[&self.near, &self.far]);
        if !lost.is_empty() {
            self.fail("versions are lost", &lost, &end);
        }
        self.witness.saw_agreement(&near);
        BothSides { near, far }
    }

    fn run_with_nothing_to_do(&self, agreed: &BothSides) {
        let run = self.start();
        let end = self.wait_for(run);
        if !end.status.success() {
            self.fail("the run with nothing to do failed", &[], &end);
        }
        if agreed.near != snapshot(&self.near) || agreed.far != snapshot(&self.far) {
            self.fail("the run with nothing to do changed something", &[], &end);
        }
    }

    fn witness_both_sides(&mut self) {
        for root in [&self.near, &self.far] {
            self.witness.saw_before_run(&snapshot(root));
        }
    }

    fn note_clash_files(&mut self, agreed: &BothSides) {
        let names = agreed.near.keys();
        let paths = names.map(|bytes| PathBuf::from(OsStr::from_bytes(bytes)));
        self.clash_files_seen.extend(paths.filter(|path| has_clash_name(path)));
    }
}

/// Checks; each ends the test with all that is needed to understand what went wrong.
impl World {
    fn check_all_explained(&self, near: &Snapshot, far: &Snapshot, end: &End) {
        for (side, tree) in [("near", near), ("far", far)] {
            let lines = self.witness.unexplained(tree);
            if !lines.is_empty() {
                self.fail(
                    &format!("the {side} tree holds what no user's action explains"),
                    &lines,
                    end,
                );
            }
        }
    }

    fn check_same(&self, near: &Snapshot, far: &Snapshot, end: &End) {
        let lines = differences(near, far);
        if !lines.is_empty() {
            self.fail("psync reported success, but near and far differ", &lines, end);
        }
    }

    fn fail(&self, what: &str, lines: &[String], end: &End) -> ! {
        let lines = lines.join("\n  ");
        panic!(
            "{}: {what}\n  {lines}\npsync {}, and said:\n{}",
            self.context, end.status, end.said
        );
    }
}

/// Runs of psync.
impl World {
    fn start(&self) -> Run {
        let pid_file = self.temp.join("remote.pid");
        let _ = fs::remove_file(&pid_file);
        let mut command = psync_over(&self.temp, &self.rsh);
        command.arg(format!("host:{}", self.far.display())).arg(&self.near);
        Run::start(command, pid_file)
    }

    fn wait_for(&self, run: Run) -> End {
        run.wait().unwrap_or_else(|| {
            panic!("{}: psync is still running after {LONGEST_RUN:?}", self.context);
        })
    }
}

/// What both roots hold at one moment; the times of folders may differ between them.
struct BothSides {
    near: Snapshot,
    far: Snapshot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Local,
    Remote,
}

/// A psync that is running.
struct Run {
    local: Child,
    pid_file: PathBuf,
    started: Instant,
    /// Receives all that both ends printed, when both have ended: each holds the other end of the
    /// pipe as long as it lives.
    said: Receiver<String>,
}

/// How a run ended.
struct End {
    status: ExitStatus,
    said: String,
    took: Duration,
}

impl Run {
    fn start(mut command: Command, pid_file: PathBuf) -> Run {
        let (mut reader, writer) = std::io::pipe().expect("a pipe can be made");
        command.stdout(writer.try_clone().expect("a pipe's end can be copied")).stderr(writer);
        command.stdin(Stdio::null());
        let started = Instant::now();
        let local = command.spawn().expect("psync can be started");
        drop(command); // and with it our copies of the pipe's writing end
        let (send, said) = channel();
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = reader.read_to_end(&mut bytes);
            let _ = send.send(String::from_utf8_lossy(&bytes).into_owned());
        });
        Run { local, pid_file, started, said }
    }

    /// Kills one end after a while; false if it had already ended.
    fn kill(&mut self, victim: Victim, patience: Duration) -> bool {
        thread::sleep(patience);
        match victim {
            Victim::Local => {
                let running = self.is_running();
                self.local.kill().expect("a child that was not waited for can be killed");
                running
            }
            Victim::Remote => {
                self.remote().is_some_and(|remote| kill_process(remote, Signal::KILL).is_ok())
            }
        }
    }

    /// The remote end, as soon as it is there; none when the run is over.
    fn remote(&mut self) -> Option<Pid> {
        while self.is_running() {
            if let Some(pid) = read_pid(&self.pid_file) {
                return Some(pid);
            }
            thread::sleep(Duration::from_micros(200));
        }
        None
    }

    fn is_running(&mut self) -> bool {
        self.local.try_wait().expect("a child can be waited for").is_none()
    }

    /// Waits until both ends have ended; none if they do not.
    fn wait(mut self) -> Option<End> {
        match self.said.recv_timeout(LONGEST_RUN) {
            Ok(said) => {
                let took = self.started.elapsed();
                let status = self.local.wait().expect("a child can be waited for");
                Some(End { status, said, took })
            }
            Err(RecvTimeoutError::Disconnected) => unreachable!("the reading thread always sends"),
            Err(RecvTimeoutError::Timeout) => {
                let _ = self.local.kill();
                let _ = self.local.wait();
                None
            }
        }
    }
}

/// The id in a file that is written in one go, with a newline at its end.
fn read_pid(file: &Path) -> Option<Pid> {
    let text = fs::read_to_string(file).ok()?;
    Pid::from_raw(text.strip_suffix('\n')?.parse().ok()?)
}

#[derive(Default)]
struct Tally {
    rounds: usize,
    local_kills: usize,
    local_hits: usize,
    remote_kills: usize,
    remote_hits: usize,
    clash_files: usize,
}

impl Tally {
    fn count(&mut self, victim: Victim, hit: bool) {
        let (kills, hits) = match victim {
            Victim::Local => (&mut self.local_kills, &mut self.local_hits),
            Victim::Remote => (&mut self.remote_kills, &mut self.remote_hits),
        };
        *kills += 1;
        *hits += usize::from(hit);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} rounds, {} of {} kills hit a running local end, {} of {} a running remote end, \
             {} clash files seen",
            self.rounds,
            self.local_hits,
            self.local_kills,
            self.remote_hits,
            self.remote_kills,
            self.clash_files
        )
    }
}

fn number_from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not '{text}'")))
}
