//! How fast the line is: measured where bytes come in, as only there the line itself is seen and
//! not the buffers before it.

use std::time::{Duration, Instant};

/// Fewer bytes than this at a stretch say nothing about a line.
const BURST_MIN: u64 = 16 << 10;
/// A longer wait than this is for the other end's work, not for the line.
const PAUSE: Duration = Duration::from_millis(500);
/// Bytes that were there before this wait was over had come while this end was working.
const AT_ONCE: Duration = Duration::from_micros(100);

/// An answer that takes longer than this is late for the other end's work, not for the line.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(2);

/// How fast a line is; none where that is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    /// KiB a second from this end to the other.
    pub sending: Option<u64>,
    /// KiB a second from the other end to this one.
    pub receiving: Option<u64>,
    /// How long a byte takes there and another one back.
    pub round_trip: Option<Duration>,
}

/// Measures how long a question takes there and its answer back: the shortest time between the end of
/// a flight and the first byte of the next one. The other end has some work to do before it answers,
/// so that this is a bound from above; it is a good one where little has changed, as what is stated
/// then is answered at once.
#[derive(Debug, Default)]
pub(super) struct Stopwatch {
    /// When this end's last flight left, until something comes.
    asked: Option<Instant>,
    shortest: Option<Duration>,
}

impl Stopwatch {
    /// A flight of this end has left.
    pub(super) fn start(&mut self) {
        self.asked = Some(Instant::now());
    }

    /// Something has come, for which this end had waited since then. What came while it was working
    /// says nothing.
    pub(super) fn stop(&mut self, waited_since: Instant, came: Instant) {
        let waited = came.saturating_duration_since(waited_since);
        let Some(asked) = self.asked.take().filter(|_| waited >= AT_ONCE) else { return };
        let time = came.saturating_duration_since(asked);
        self.shortest = Some(self.shortest.map_or(time, |shortest| shortest.min(time)));
    }

    /// The round trip as it is known now, given what it was another time. A line may have become
    /// slower; as an answer may have been late instead, more is believed only little by little.
    pub(super) fn round_trip(&self, before: Option<Duration>) -> Option<Duration> {
        let measured = self.shortest.map(|time| time.min(ROUND_TRIP_MAX));
        match (measured, before) {
            (Some(now), Some(before)) => Some(now.min(before + before / 4)),
            (now, before) => now.or(before),
        }
    }
}

/// Measures the rate at which bytes come while this end empties the line faster than it fills: only
/// reads that had to wait count. Whatever came since the read before came at the rate of the line.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    bytes: u64,
    time: Duration,
    /// The next bytes are the first after a pause: what this end waited for was the other at work.
    resumes: bool,
    rate: Option<u64>,
    told: Option<u64>,
}

impl Gauge {
    /// Bytes came after this end had waited for them; `between` is the time since the read before.
    pub(super) fn note(&mut self, bytes: usize, waited: Duration, between: Duration) {
        if waited > PAUSE {
            self.turn();
        }
        let resumes = std::mem::replace(&mut self.resumes, false);
        if resumes || waited < AT_ONCE {
            return;
        }
        self.bytes += bytes as u64;
        self.time += between;
        if self.bytes >= BURST_MIN {
            self.rate = Some(per_second(self.bytes, self.time));
        }
    }

    /// The other end has stopped talking: what it says next comes after a pause.
    pub(super) fn turn(&mut self) {
        self.bytes = 0;
        self.time = Duration::ZERO;
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
    fn a_burst_is_measured_over_the_time_in_which_it_came() {
        let mut gauge = Gauge::default();
        gauge.note(1000, Duration::from_secs(3), Duration::from_secs(3));
        for _ in 0..100 {
            gauge.note(1024, STEP / 2, STEP);
        }
        assert_eq!(gauge.rate(), Some(100));
    }

    #[test]
    fn what_came_while_this_end_was_working_says_nothing() {
        let mut gauge = Gauge::default();
        gauge.note(20 << 10, STEP, STEP);
        gauge.note(64 << 10, Duration::ZERO, Duration::from_secs(10));
        assert_eq!(gauge.rate(), Some(2000));
    }

    #[test]
    fn a_few_bytes_and_the_first_after_a_pause_say_nothing() {
        let mut gauge = Gauge::default();
        gauge.note(64 << 10, Duration::from_secs(1), Duration::from_secs(1));
        gauge.note(15 << 10, STEP, STEP);
        gauge.turn();
        gauge.note(64 << 10, PAUSE, PAUSE);
        gauge.note(15 << 10, STEP, STEP);
        assert_eq!(gauge.rate(), None);
    }

    #[test]
    fn the_shortest_answer_tells_how_long_a_round_trip_takes() {
        let mut watch = Stopwatch::default();
        let before = Some(Duration::from_millis(100));
        assert_eq!((watch.round_trip(None), watch.round_trip(before)), (None, before));
        let start = Instant::now();
        for late in [STEP * 6, STEP * 2, STEP * 3] {
            watch.asked = Some(start);
            watch.stop(start, start + late);
        }
        // It had come while this end was working.
        watch.asked = Some(start);
        watch.stop(start + STEP, start + STEP);
        assert_eq!(watch.round_trip(None), Some(STEP * 2));
        assert_eq!(watch.round_trip(before), Some(STEP * 2));
        // An answer that was late is hardly believed.
        assert_eq!(watch.round_trip(Some(STEP)), Some(STEP * 5 / 4));
    }

    #[test]
    fn the_other_end_hears_only_what_is_new() {
        let mut gauge = Gauge::default();
        assert_eq!(gauge.news(), None);
        let mut burst = |kib: usize| {
            gauge.turn();
            gauge.note(1, PAUSE, PAUSE);
            gauge.note(kib << 10, STEP, STEP * 10);
            gauge.news()
        };
        assert_eq!(burst(100), Some(1000));
        assert_eq!(burst(100), None);
        assert_eq!(burst(110), None);
        assert_eq!(burst(200), Some(2000));
    }
}
