//! Who is refused a thousand times a second does not fill the log as often.

use std::time::Instant;

/// Lines about strangers that are written in one second.
const LINES: u32 = 20;

/// Counts what is written in the second at hand, and what is left out.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    second: Option<Instant>,
    written: u32,
    left_out: u64,
}

impl Throttle {
    /// Whether something may be written now; then also how much was left out before it.
    pub(super) fn admit(&mut self, now: Instant) -> Option<u64> {
        let is_over =
            self.second.is_none_or(|second| now.duration_since(second).as_millis() >= 1000);
        if is_over {
            (self.second, self.written) = (Some(now), 0);
        }
        if self.written == LINES {
            self.left_out += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn so_many_are_written_in_a_second_and_the_next_one_says_how_many_were_not() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        let written = (0..100).filter(|_| throttle.admit(start).is_some()).count();
        assert_eq!(written, LINES as usize);
        assert_eq!(throttle.admit(start + Duration::from_secs(1)), Some(100 - u64::from(LINES)));
        assert_eq!(throttle.admit(start + Duration::from_secs(1)), Some(0));
    }
}
