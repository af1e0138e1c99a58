//! Trying whether more files pass as they are packed for the store, with less work for both ends: a line looks
//! slow, too, where it is the other end that is busy, as one is that shares a processor with this one.

use std::time::Duration;

/// Time within flights before the second trial; each further one waits twice as long.
const PAUSE: Duration = Duration::from_secs(2);
/// So many trials at most.
const TRIALS: u32 = 4;

/// Trials of sending files as they were packed.
#[derive(Debug, Default)]
pub(super) struct Trials {
    begun: u32,
    /// When the next one is due, in time within flights.
    due: Duration,
    running: Option<Before>,
    /// How fast files passed, in KiB a second, before a trial that was worth it.
    beaten: Option<u64>,
}

/// How things stood before a trial.
#[derive(Debug, Clone, Copy)]
struct Before {
    /// What was known of the line's rate.
    rate: u64,
    /// How fast files passed, both in KiB a second.
    through: u64,
}

impl Trials {
    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.running.is_none() && self.begun < TRIALS && now >= self.due
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Begins one; files have passed so fast up to now, on a line that is known to take `rate`, in KiB a
    /// second.
    pub(super) fn begin(&mut self, rate: u64, through: u64) {
        self.begun += 1;
        self.running = Some(Before { rate, through });
        self.beaten = None;
    }

    /// Ends it; files have passed so fast meanwhile. None where a tenth more did: it stays as it is. Else what was
    /// known of the line.
    pub(super) fn end(&mut self, through: u64, now: Duration) -> Option<u64> {
        self.due = now + PAUSE * 2u32.pow(self.begun.min(TRIALS) - 1);
        let before = self.running.take()?;
        if through > before.through / 10 * 11 {
            self.beaten = Some(before.through);
            return None;
        }
        Some(before.rate)
    }

    /// Whether files pass more slowly now than they did before the trial that was worth it; true where there was
    /// none.
    pub(super) fn is_worse(&self, through: u64) -> bool {
        self.beaten.is_none_or(|beaten| through < beaten)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lets_more_pass_stays_until_less_does() {
        let mut trials = Trials::default();
        assert!(trials.is_due(Duration::ZERO) && trials.is_worse(1));
        trials.begin(20_000, 80_000);
        assert!(trials.is_running() && !trials.is_due(Duration::from_secs(100)));
        assert_eq!(trials.end(90_000, Duration::from_secs(1)), None);
        assert!(!trials.is_worse(80_000) && trials.is_worse(79_999));
    }

    #[test]
    fn what_lets_no_more_pass_is_given_up_and_tried_again_ever_less_often() {
        let mut trials = Trials::default();
        let mut now = Duration::ZERO;
        let mut waited = Vec::new();
        while trials.is_due(now) {
            trials.begin(20_000, 80_000);
            assert_eq!(trials.end(85_000, now), Some(20_000));
            assert!(trials.is_worse(85_000));
            let before = now;
            while !trials.is_due(now) && now < before + Duration::from_secs(100) {
                now += Duration::from_secs(1);
            }
            waited.push((now - before).as_secs());
        }
        assert_eq!(waited, [2, 4, 8, 100]);
    }
}
