//! The peak resident memory of a running process, as Linux counts it in `/proc`.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The kernel keeps the peak itself; only what is added in a process's last moments is missed.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// Looks at one process until it is stopped.
pub(crate) struct MemoryWatch {
    peak: Arc<AtomicU64>,
    stopped: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl MemoryWatch {
    /// Watches the process with this id, alone: not those that it starts.
    pub(crate) fn start(process: u32) -> MemoryWatch {
        let peak = Arc::new(AtomicU64::new(0));
        let stopped = Arc::new(AtomicBool::new(false));
        let (seen, stop) = (Arc::clone(&peak), Arc::clone(&stopped));
        let thread = thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                seen.fetch_max(peak_of(process).unwrap_or(0), Ordering::Relaxed);
                thread::sleep(BETWEEN_LOOKS);
            }
        });
        MemoryWatch { peak, stopped, thread }
    }

    /// The peak in bytes; 0 where `/proc` does not say.
    pub(crate) fn stop(self) -> u64 {
        self.stopped.store(true, Ordering::Relaxed);
        // A watch that panicked has still left what it saw.
        let _ = self.thread.join();
        self.peak.load(Ordering::Relaxed)
    }
}

fn peak_of(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}
