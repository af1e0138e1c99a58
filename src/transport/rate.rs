//! How fast the line is: measured where bytes come in, as only there the line itself is seen and
//! not the buffers before it.

use std::time::Duration;

/// Fewer bytes than this at a stretch say nothing about a line.
const BURST_MIN: u64 = 32 << 10;
/// A longer pause than this is the other end at work, not the line.
const PAUSE: Duration = Duration::from_millis(500);

/// How fast a line is in each direction, in KiB a second; none where that is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    /// From this end to the other.
    pub sending: Option<u64>,
    /// From the other end to this one.
    pub receiving: Option<u64>,
}

/// Measures the rate at which bytes come: over the time in which this end waited for them. While it
/// was working they came by themselves, and took no time.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    bytes: u64,
    waited: Duration,
    /// The next bytes are the first after a pause: what this end waited for was the other at work.
    resumes: bool,
    rate: Option<u64>,
    told: Option<u64>,
}

impl Gauge {
    /// Bytes came after this end had waited for them.
    pub(super) fn note(&mut self, bytes: usize, waited: Duration) {
        let resumes = std::mem::replace(&mut self.resumes, false);
        if waited > PAUSE {
            self.turn();
        }
        if waited > PAUSE || resumes {
            self.resumes = false;
            return;
        }
        self.bytes += bytes as u64;
        self.waited += waited;
        if self.bytes >= BURST_MIN {
            self.rate = Some(per_second(self.bytes, self.waited));
        }
    }

    /// The other end has stopped talking: what it says next comes after a pause.
    pub(super) fn turn(&mut self) {
        self.bytes = 0;
        self.waited = Duration::ZERO;
        self.resumes = true;
    }

    /// The rate of the latest burst, in KiB a second.
    pub(super) fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// The rate, if the other end should hear of it: it is new, or off by a quarter.
    pub(super) fn news(&mut self) -> Option<u64> {
        let rate = self.rate?;
        let known = self.told.is_some_and(|told| rate.abs_diff(told) <= told / 4);
        (!known).then(|| {
            self.told = Some(rate);
            rate
        })
    }
}

/// KiB a second, at least one.
pub(super) fn per_second(bytes: u64, time: Duration) -> u64 {
    let seconds = time.as_secs_f64().max(1e-6);
    ((bytes as f64 / 1024.0 / seconds) as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(10);

    #[test]
    fn a_burst_is_measured_over_the_time_waited_for_it() {
        let mut gauge = Gauge::default();
        gauge.note(1000, Duration::from_secs(3));
        for _ in 0..100 {
            gauge.note(1024, STEP);
        }
        assert_eq!(gauge.rate(), Some(100));
    }

    #[test]
    fn a_few_bytes_and_the_first_after_a_pause_say_nothing() {
        let mut gauge = Gauge::default();
        gauge.note(64 << 10, Duration::from_secs(1));
        gauge.note(31 << 10, STEP);
        gauge.turn();
        gauge.note(64 << 10, PAUSE);
        gauge.note(31 << 10, STEP);
        assert_eq!(gauge.rate(), None);
    }

    #[test]
    fn the_other_end_hears_only_what_is_new() {
        let mut gauge = Gauge::default();
        assert_eq!(gauge.news(), None);
        gauge.note(100 << 10, Duration::from_millis(100));
        assert_eq!(gauge.news(), Some(1000));
        assert_eq!(gauge.news(), None);
        gauge.turn();
        gauge.note(1, PAUSE);
        gauge.note(110 << 10, Duration::from_millis(100));
        assert_eq!(gauge.news(), None);
        gauge.turn();
        gauge.note(1, PAUSE);
        gauge.note(200 << 10, Duration::from_millis(100));
        assert_eq!(gauge.news(), Some(2000));
    }
}
