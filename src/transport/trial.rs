//! Trying whether more files pass with less work for both ends, as they are or as they are packed for the store: a
//! line looks slow, too, where it is the other end that is busy, as one is that shares a processor with this one.

use std::time::Duration;

/// Time within flights before the second trial; each further one waits twice as long.
const PAUSE: Duration = Duration::from_secs(2);
/// So many trials at most.
const TRIALS: u32 = 4;

/// Trials of sending files with less work. Speeds are KiB of files a second.
#[derive(Debug, Default)]
pub(super) struct Trials {
    begun: u32,
    /// When the next one is due, in time within flights.
    due: Duration,
    state: State,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// Files are compressed for the line.
    #[default]
    Off,
    /// It is being tried, and files passed so fast before.
    Running { before: u64 },
    /// It was worth it, and files passed so fast before. Of late fewer pass.
    Won { before: u64, is_in_doubt: bool },
}

impl Trials {
    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.state == State::Off && self.begun < TRIALS && now >= self.due
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// Whether files should go with less work, to try it or because that was worth it.
    pub(super) fn is_on(&self) -> bool {
        self.state != State::Off
    }

    /// Begins one; files have passed so fast up to now.
    pub(super) fn begin(&mut self, before: u64) {
        self.begun += 1;
        self.state = State::Running { before };
    }

    /// Ends it; files have passed so fast meanwhile. It stays like that where a tenth more did.
    pub(super) fn end(&mut self, through: u64, now: Duration) {
        self.due = now + PAUSE * 2u32.pow(self.begun.clamp(1, TRIALS) - 1);
        self.state = match self.state {
            State::Running { before } if through > before / 10 * 11 => {
                State::Won { before, is_in_doubt: false }
            }
            State::Running { .. } | State::Off | State::Won { .. } => State::Off,
        };
    }

    /// Files pass so fast now: where that is less than before the trial twice in succession, it is worth it no
    /// more. Once the other end may have stopped to put what it has in its place.
    pub(super) fn look(&mut self, through: u64) {
        if let State::Won { before, is_in_doubt } = self.state {
            let is_less = through < before;
            self.state = match is_less && is_in_doubt {
                true => State::Off,
                false => State::Won { before, is_in_doubt: is_less },
            };
        }
    }

    /// One that is running can show nothing: something else goes over the line now. It
    /// counts: what interrupts it may be what it tries.
    pub(super) fn abort(&mut self) {
        if self.is_running() {
            self.state = State::Off;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lets_more_pass_stays_until_less_does() {
        let mut trials = Trials::default();
        assert!(trials.is_due(Duration::ZERO) && !trials.is_on());
        trials.begin(80_000);
        assert!(trials.is_running() && !trials.is_due(Duration::from_secs(100)));
        trials.end(90_000, Duration::from_secs(1));
        trials.look(80_000);
        assert!(trials.is_on() && !trials.is_running());
        for through in [79_999, 80_000, 79_999] {
            trials.look(through);
            assert!(trials.is_on());
        }
        trials.look(79_999);
        assert!(!trials.is_on());
    }

    #[test]
    fn what_lets_no_more_pass_is_given_up_and_tried_again_ever_less_often() {
        let mut trials = Trials::default();
        let mut now = Duration::ZERO;
        let mut waited = Vec::new();
        while trials.is_due(now) {
            trials.begin(80_000);
            trials.end(85_000, now);
            assert!(!trials.is_on());
            let before = now;
            while !trials.is_due(now) && now < before + Duration::from_secs(100) {
                now += Duration::from_secs(1);
            }
            waited.push((now - before).as_secs());
        }
        assert_eq!(waited, [2, 4, 8, 100]);
    }

    #[test]
    fn one_that_is_interrupted_shows_nothing_and_counts() {
        let mut trials = Trials::default();
        trials.begin(80_000);
        trials.abort();
        assert!(!trials.is_on() && trials.is_due(Duration::ZERO));
        let mut many = Trials::default();
        for _ in 0..TRIALS {
            many.begin(80_000);
            many.abort();
        }
        assert!(!many.is_due(Duration::MAX));
        trials.begin(80_000);
        trials.end(100_000, Duration::ZERO);
        trials.abort();
        assert!(trials.is_on());
    }
}
