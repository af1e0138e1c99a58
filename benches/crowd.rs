//! What a crowd at its door costs a daemon's real peers, and what TLS over TCP costs a line.
//!
//!     cargo bench --bench crowd
//!
//! Whole processes on this machine: runs with nothing to do and with one small change, alone and with
//! 500 connections that trickle a handshake from 100 addresses and come again when they are thrown
//! out; then one large file over a pipe and over the daemon, uncompressed. It fails where a crowd more
//! than doubles the time, or TLS leaves less than 0.7 of the pipe's throughput.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot be made has to say so loudly")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use common::crowd::Crowd;
use common::daemon::Served;
use common::pair::noise;
use common::{TempDir, local_rsh, psync_over, run_ok, write_file};

const ALL: &str = "p1=read,write,delete";
const CONNECTIONS: usize = 500;
const ADDRESSES: usize = 100;
/// Runs of each kind, of which the median counts.
const RUNS: usize = 11;
/// Bytes of the large file, and how often it is carried.
const LARGE: usize = 512 << 20;
const CARRIED: usize = 3;

fn main() {
    let served = crowd();
    let line = throughput();
    assert!(served <= 2.0, "a crowd makes a run {served:.2} times as long");
    assert!(line >= 0.7, "TLS over TCP has {line:.2} of the throughput of a pipe");
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

fn timed(command: &mut Command) -> Duration {
    let started = Instant::now();
    run_ok(command);
    started.elapsed()
}

/// Seconds of a run with nothing to do, and of one with a change.
fn served(daemon: &Served) -> (f64, f64) {
    let idle = (0..RUNS).map(|_| timed(&mut daemon.command(&[]))).collect();
    let changed = (0..RUNS).map(|round| {
        write_file(daemon.mine.join("changed"), noise(round as u64, 10_000));
        timed(&mut daemon.command(&[]))
    });
    (median(idle), median(changed.collect()))
}

/// How many times as long a run takes in a crowd, at worst.
fn crowd() -> f64 {
    let daemon = Served::granting(ALL);
    for number in 0..1000 {
        write_file(
            daemon.mine.join(format!("folder{}/file{number}", number % 20)),
            noise(number, 500),
        );
    }
    run_ok(&mut daemon.command(&[]));
    let quiet = served(&daemon);
    let crowd = Crowd::gather(daemon.port, CONNECTIONS, ADDRESSES);
    let deadline = Instant::now() + Duration::from_secs(30);
    while crowd.connected() < CONNECTIONS || crowd.thrown_out() < CONNECTIONS / 2 {
        assert!(Instant::now() < deadline, "the crowd does not gather");
        std::thread::sleep(Duration::from_millis(50));
    }
    let (before, started) = (crowd.connected(), Instant::now());
    let crowded = served(&daemon);
    let rate = (crowd.connected() - before) as f64 / started.elapsed().as_secs_f64();
    println!("{CONNECTIONS} connections from {ADDRESSES} addresses, {rate:.0} new ones a second");
    let ratios = [("nothing to do", quiet.0, crowded.0), ("one change", quiet.1, crowded.1)];
    for (name, quiet, crowded) in ratios {
        println!(
            "{name:14} quiet {quiet:.4} s, crowded {crowded:.4} s, ratio {:.2}",
            crowded / quiet
        );
    }
    ratios.iter().map(|(_, quiet, crowded)| crowded / quiet).fold(0.0, f64::max)
}

/// What share of a pipe's throughput is left with TLS over TCP.
fn throughput() -> f64 {
    let daemon = Served::granting(ALL);
    let temp = TempDir::new();
    let rsh = local_rsh(&temp);
    let content = noise(1, LARGE);
    let options = ["--no-compress", "--no-store"];
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..CARRIED {
        let (here, there) =
            (temp.folder(format!("here{round}")), temp.folder(format!("there{round}")));
        fs::write(here.join("large"), &content).unwrap();
        let mut pipe = psync_over(&temp, &rsh);
        let place = format!("host:{}", there.display());
        times[0].push(timed(pipe.args(options).arg(here).arg(place)));
        fs::remove_dir_all(&there).unwrap();
        fs::write(daemon.mine.join("large"), &content).unwrap();
        times[1].push(timed(&mut daemon.command(&options)));
        fs::remove_file(daemon.mine.join("large")).unwrap();
        run_ok(&mut daemon.command(&["--max-delete", "10"]));
        let _ = fs::remove_dir_all(daemon.served.join(".psync/trash"));
    }
    let mebibytes = LARGE as f64 / f64::from(1 << 20);
    let [pipe, line] = times.map(median).map(|seconds| mebibytes / seconds);
    println!("pipe {pipe:.0} MiB/s, TLS over TCP {line:.0} MiB/s, ratio {:.2}", line / pipe);
    line / pipe
}
