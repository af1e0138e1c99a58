//! How hard to compress: as hard as the line leaves time for, and no harder than this processor can.

use std::time::Duration;

use psync_protocol::Message;
use psync_protocol::frame::Effort;
use psync_protocol::message::{Base, Patched, Patches, StreamCodec};

use super::rate::per_second;
use super::trial::Trials;

/// What a person asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// None.
    Off,
    /// This level of zstd, 1 to 19.
    Level(i32),
    /// Whatever fits the line.
    Fitting,
}

impl Compression {
    /// What a greeting says of it.
    pub fn codec(self) -> StreamCodec {
        match self {
            Compression::Off => StreamCodec::Raw,
            Compression::Level(_) | Compression::Fitting => StreamCodec::Zstd,
        }
    }
}

/// With how little work files may pass, where it is worth trying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Less {
    /// As they are packed for something else, beside the quickest level.
    Packed,
    /// As they are.
    AsTheyAre,
}

/// Up to which rate of the line, in KiB a second, each level is the right one. Measured on one core
/// of this kind of machine with the 45 MB of Django's files (zstd 1.5, window 8 MiB), in MB of
/// files a second and size after compression:
///
/// ```text
/// level      1    2    3    5    6    9   12   15   17   19
/// MB/s     281  265  205  129   96   46   21  5.3  3.7  1.7
/// size MB 10.6 10.0  9.5  8.7  8.4  8.0  7.8  7.6  7.2  7.1
/// ```
///
/// A level fits while its output is at least half as much again as what the line takes, as the
/// core reads and hashes files, too.
const BANDS: [(u64, i32); 8] = [
    (180, 19),
    (300, 17),
    (500, 15),
    (2_400, 12),
    (5_500, 9),
    (14_000, 6),
    (30_000, 3),
    (COMPRESSED_MAX, FASTEST),
];
/// What is known of a line is given up where what is observed lies so many bands from it.
const BANDS_OFF: usize = 2;
/// The level for the fastest lines that are worth compressing for.
const FASTEST: i32 = 1;
/// A line that takes more than this, in KiB a second, is as fast as the quickest level, or is none at
/// all: a pipe on one machine. It takes files as they are. A line of 1 Gbit/s is below this.
const COMPRESSED_MAX: u64 = 130_000;
/// What is known of a line that is faster than all these.
const BEYOND: u64 = COMPRESSED_MAX + 1;
/// The level as long as nothing is known.
const UNKNOWN: i32 = 6;
/// The strongest level before a flight has shown to be long: those above need tens of megabytes of
/// tables, too much for a run with nothing to do.
const START_MAX: i32 = 9;
/// Above this level the processor has time for everything.
const STORING_MAX: i32 = 6;

/// How long it is watched before and after it is tried whether more files pass with less work.
const TRIAL: Duration = Duration::from_millis(500);
/// The strongest level from which that is tried: from stronger ones on it is the line that is slow.
const TRIED_FROM: i32 = 3;

/// Bytes before compression after which a flight counts as long.
const LONG: u64 = 256 << 10;
/// How long the line is watched before a level that is too strong for it is left.
const WATCH: Duration = Duration::from_millis(250);
/// How long it is watched before its rate is taken from here, as buffers fill first, and before one
/// of the strong levels is left: they take a while to begin, and what they save is worth more.
const WATCH_LONG: Duration = Duration::from_millis(1000);

/// Which part of the time a line is busy that is slower than what it is to carry.
const FULL: f64 = 0.9;
/// The same where files go as they are. They are made in one stride: a line that waits for who makes and takes
/// them, on processors that both ends share, is busy nearly as long.
const CHOKED: f64 = 0.97;

/// Bytes of a piece of a file that are compressed to see if they can be.
const SAMPLE: usize = 4 << 10;
/// Bytes of files of which one piece is tried, at least: trying each small file would take as long as a
/// third of compressing it.
const SAMPLE_EVERY: usize = 64 << 10;
/// So many bytes of files in succession that do not become smaller are stored from there on: what
/// the window held is mostly gone by then.
const STORE_AFTER: usize = 1 << 20;
/// To make a file takes an end as long as so many bytes of it do, about. Without that one stretch of small files
/// could not be compared with the next of large ones.
const FILE_WORTH: u64 = 16 << 10;
/// Messages up to this size come between contents and do not end a succession.
const SMALL: u64 = 256;

/// What the writing thread has done so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Written {
    pub(super) bytes: u64,
    /// Time in which the line took bytes.
    pub(super) busy: Duration,
    /// Time within flights in which the line could have taken more.
    pub(super) idle: Duration,
}

impl Written {
    fn since(self, before: Written) -> Written {
        Written {
            bytes: self.bytes - before.bytes,
            busy: self.busy.saturating_sub(before.busy),
            idle: self.idle.saturating_sub(before.idle),
        }
    }

    fn time(self) -> Duration {
        self.busy + self.idle
    }

    /// Whether the line was busy for this part of the time, which has to be so long.
    fn is_full(self, time: Duration, share: f64) -> bool {
        self.time() >= time && self.share() >= share
    }

    /// Which part of the time the line was busy.
    fn share(self) -> f64 {
        self.busy.as_secs_f64() / self.time().as_secs_f64().max(1e-9)
    }
}

/// Decides how hard to compress what is sent next.
pub(super) struct Fitter {
    compression: Compression,
    /// KiB a second from here to the other end.
    rate: Option<u64>,
    effort: Effort,
    /// Whether the line has been the slower part with files as they are.
    is_no_pipe: bool,
    /// What compressing less has shown.
    trials: Trials,
    /// Bytes before compression since the last look.
    passed: u64,
    /// The same since the start of the watch, with what each file is worth besides.
    watched: u64,
    /// What had been written at the last look, at the start of the watch, and of the flight.
    watch: Written,
    flight: Written,
    sampler: Option<zstd::bulk::Compressor<'static>>,
    /// Bytes of files since the last piece that was tried.
    untried: usize,
    incompressible: usize,
    /// With how little work files may pass that go now.
    less: Option<Less>,
    /// Whether something else than files passed in this watch, or nothing for a while: it shows nothing of what a
    /// trial could change.
    is_uneven: bool,
    /// Whether something was coded in this watch, for which the line may have waited: not for the compressor.
    is_coded: bool,
    /// Time within flights at the last look.
    looked: Duration,
    /// What the trials are of.
    tried: Option<Less>,
    /// Whether they go as they are packed for something else.
    is_packed: bool,
}

impl Fitter {
    pub(super) fn new(compression: Compression, rate: Option<u64>) -> Fitter {
        let effort = match (compression, effort_for(rate)) {
            (Compression::Off, _) => Effort::Level(FASTEST),
            (Compression::Level(level), _) => Effort::Level(level),
            // What comes first is rows, which are worth it.
            (Compression::Fitting, Effort::Stored) => Effort::Level(FASTEST),
            (Compression::Fitting, Effort::Level(level)) => Effort::Level(level.min(START_MAX)),
        };
        Fitter {
            compression,
            rate,
            effort,
            is_no_pipe: false,
            trials: Trials::default(),
            passed: 0,
            watched: 0,
            watch: Written::default(),
            flight: Written::default(),
            sampler: None,
            untried: 0,
            incompressible: 0,
            less: None,
            is_uneven: false,
            is_coded: false,
            looked: Duration::ZERO,
            tried: None,
            is_packed: false,
        }
    }

    /// The level to start with, or that has been come to.
    pub(super) fn level(&self) -> i32 {
        match self.effort {
            Effort::Level(level) => level,
            Effort::Stored => FASTEST,
        }
    }

    /// Whether it has come to the quickest level, or beyond.
    pub(super) fn is_quickest(&self) -> bool {
        self.compression == Compression::Fitting && self.level() <= FASTEST
    }

    /// The rate from here to the other end, as far as it is known.
    pub(super) fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// The other end has measured how fast our bytes come. Where they came as fast as this end
    /// made them it was this end that was slow: the line is at least as fast as that.
    pub(super) fn told(&mut self, rate: u64, now: Written) {
        let flight = now.since(self.flight);
        let made = per_second(flight.bytes, flight.time());
        let line_was_slow = flight.share() >= 0.5 || rate < made / 4 * 3;
        self.rate = match self.rate {
            _ if line_was_slow => Some(rate),
            Some(known) => Some(known.max(rate)),
            None => Some(rate).filter(|rate| match effort_for(Some(*rate)) {
                Effort::Level(level) => level <= UNKNOWN,
                Effort::Stored => true,
            }),
        };
    }

    /// A flight of ours begins.
    pub(super) fn flight_begins(&mut self, now: Written) {
        self.flight = now;
        self.is_packed = false;
        self.trials.abort();
        self.watch_from(now);
    }

    /// How to compress this message and what follows it.
    pub(super) fn fit(&mut self, message: &Message, now: Written) -> Effort {
        if self.compression != Compression::Fitting {
            return self.effort;
        }
        if self.passed >= LONG {
            self.passed = 0;
            self.look(now);
        }
        match self.effort {
            Effort::Level(level) if level <= STORING_MAX => {}
            effort => return effort,
        }
        match message {
            // Compressing it once more gains nothing.
            Message::Patches(patches) => self.is_packed = is_parcel(patches),
            // To begin anew for what stands between two such takes more than it saves.
            Message::Proof(_) | Message::FileFailed(_) => {}
            _ => self.is_packed = false,
        }
        if self.is_packed && self.is_quickest() {
            return Effort::Stored;
        }
        if let Message::Literal(bytes) = message {
            self.untried += bytes.len();
            if bytes.len() >= SAMPLE && self.untried >= SAMPLE_EVERY {
                let tried = std::mem::take(&mut self.untried);
                self.incompressible = match self.becomes_smaller(bytes) {
                    true => 0,
                    false => self.incompressible.saturating_add(tried),
                };
            }
        }
        if self.incompressible >= STORE_AFTER { Effort::Stored } else { self.effort }
    }

    /// The message took so many bytes before compression.
    pub(super) fn pushed(&mut self, message: &Message, bytes: u64) {
        self.stands_for(bytes);
        if begins_file(message) {
            self.watched += FILE_WORTH;
        }
        let is_small = bytes <= SMALL;
        if !is_small && !matches!(message, Message::Literal(_)) {
            self.incompressible = 0;
        }
    }

    /// With how little work files may pass from now on.
    pub(super) fn may_do(&mut self, less: Option<Less>) {
        if less.is_some() && less != self.tried {
            self.tried = less;
            self.trials = Trials::default();
        }
        self.less = less;
        self.trials.abort();
        // What was sent until now says nothing of what follows.
        self.is_uneven = true;
    }

    /// What was sent last stands for so many bytes more, which were compressed before.
    pub(super) fn stands_for(&mut self, bytes: u64) {
        self.passed += bytes;
        self.watched += bytes;
    }

    /// Something is coded before more is sent: what is watched now shows nothing of the compressor.
    pub(super) fn codes(&mut self) {
        self.is_coded = true;
    }

    fn watch_from(&mut self, now: Written) {
        self.watch = now;
        self.watched = 0;
        self.is_uneven = false;
        self.is_coded = false;
    }

    /// Compares what the line takes with what comes out of the compressor.
    fn look(&mut self, now: Written) {
        let pause = now.time().saturating_sub(std::mem::replace(&mut self.looked, now.time()));
        if pause >= WATCH {
            self.is_uneven = true;
            self.trials.abort();
        }
        if self.is_coded {
            self.trials.abort();
            self.watch_from(now);
        }
        let seen = now.since(self.watch);
        let through = per_second(self.watched, seen.time());
        let watch = if self.level() <= START_MAX { WATCH } else { WATCH_LONG };
        if self.trials.is_running() {
            if seen.time() >= TRIAL {
                self.trials.end(through, now.time());
                self.watch_from(now);
            }
        } else if self.may_try(seen) && self.trials.is_due(now.time()) {
            // Is it the line that is slow, or one of the ends?
            self.trials.begin(through);
            self.watch_from(now);
        } else if seen.time() >= watch && seen.share() < 0.75 && self.rate < self.left_behind() {
            // The line waits for the compressor: it is faster than what this level is for.
            self.rate = self.left_behind();
            self.watch_from(now);
        } else if seen.time() >= WATCH_LONG {
            let observed = per_second(seen.bytes, seen.busy);
            let is_stored = self.effort == Effort::Stored;
            let full = if is_stored { CHOKED } else { FULL };
            let is_slow = is_stored && observed <= COMPRESSED_MAX;
            self.trials.look(through);
            if seen.is_full(WATCH_LONG, full) {
                self.is_no_pipe |= is_slow;
                self.rate = Some(match self.rate {
                    Some(known) if !is_slow => corrected(known, observed),
                    Some(_) | None => observed,
                });
            }
            self.watch_from(now);
        }
        self.effort = match effort_for(self.rate) {
            Effort::Level(level) if self.trials.is_on() => match self.less {
                Some(Less::Packed) => Effort::Level(level.min(FASTEST)),
                Some(Less::AsTheyAre) => Effort::Stored,
                None => Effort::Level(level),
            },
            effort => effort,
        };
    }

    /// The least rate of a line for which the present level is too strong.
    fn left_behind(&self) -> Option<u64> {
        let is_left = |level: i32| self.effort == Effort::Stored || level >= self.level();
        let left = BANDS.iter().filter(|(_, level)| is_left(*level));
        let most = if self.is_no_pipe { COMPRESSED_MAX } else { BEYOND };
        left.map(|(up_to, _)| (up_to + 1).min(most)).max()
    }

    /// Whether less work may be worth trying, after what was seen.
    fn may_try(&self, seen: Written) -> bool {
        let least = match self.less {
            _ if self.is_uneven => return false,
            Some(Less::Packed) if seen.is_full(TRIAL, FULL) => FASTEST + 1,
            // Also where the line waits: more may pass of what does not have to be compressed. Of what cannot
            // be, no less does in any case.
            Some(Less::AsTheyAre) if seen.time() >= TRIAL && self.incompressible < STORE_AFTER => {
                FASTEST
            }
            Some(_) | None => return false,
        };
        matches!(self.effort, Effort::Level(level) if (least..=TRIED_FROM).contains(&level))
    }

    /// Tries with a piece from the middle.
    fn becomes_smaller(&mut self, bytes: &[u8]) -> bool {
        if self.sampler.is_none() {
            self.sampler = zstd::bulk::Compressor::new(1).ok();
        }
        let Some(sampler) = &mut self.sampler else { return true };
        let start = (bytes.len() - SAMPLE) / 2;
        let compressed = sampler.compress(&bytes[start..start + SAMPLE]);
        compressed.is_ok_and(|compressed| compressed.len() < SAMPLE - SAMPLE / 16)
    }
}

/// Whether a message is a content that was packed before.
fn is_parcel(patches: &Patches) -> bool {
    matches!(&patches.contents[..], [Patched { base: Base::Nothing, .. }])
}

/// Whether a file that goes whole begins with a message.
fn begins_file(message: &Message) -> bool {
    match message {
        Message::File(_) => true,
        Message::Patches(patches) => is_parcel(patches),
        _ => false,
    }
}

/// The band in which a rate lies; the one after the last is for files as they are.
fn band(rate: u64) -> usize {
    BANDS.partition_point(|(up_to, _)| *up_to < rate)
}

/// What to take a line for that was known to have one rate and has been observed to have another.
fn corrected(known: u64, observed: u64) -> u64 {
    match (band(known), band(observed)) {
        // It was found to be faster than that before, at least for as long as the compressor took: so not all of
        // what was known is given up.
        (from, to) if from >= to + BANDS_OFF => BANDS[to].0 + 1,
        (from, to) if to >= from + BANDS_OFF => observed,
        _ => known,
    }
}

/// How hard to compress for a line of this rate.
fn effort_for(rate: Option<u64>) -> Effort {
    let Some(rate) = rate else { return Effort::Level(UNKNOWN) };
    BANDS.get(band(rate)).map_or(Effort::Stored, |(_, level)| Effort::Level(*level))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(random: bool) -> Message {
        let mut bytes = vec![b'a'; 128 << 10];
        if random {
            blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        }
        Message::Literal(bytes)
    }

    /// Sends pieces of files; of each second `busy` of ten parts are the line's.
    fn seconds(fitter: &mut Fitter, from: Written, kib: u64, busy: u32, seconds: u32) -> Written {
        let mut now = from;
        for _ in 0..seconds * 4 {
            let part = Duration::from_millis(25);
            now.bytes += kib * 1024 / 4;
            now.busy += part * busy;
            now.idle += part * (10 - busy);
            for _ in 0..2 {
                fitter.fit(&literal(false), now);
                fitter.pushed(&literal(false), 128 << 10);
            }
            fitter.fit(&Message::End, now);
        }
        now
    }

    #[test]
    fn a_slower_line_is_given_a_stronger_level() {
        let rates = [100, 200, 400, 1_220, 5_000, 12_000, 20_000, 120_000];
        let levels = [19, 17, 15, 12, 9, 6, 3, 1].map(Effort::Level);
        assert_eq!(rates.map(Some).map(effort_for), levels);
        assert_eq!(effort_for(Some(130_001)), Effort::Stored);
        assert_eq!(effort_for(None), Effort::Level(UNKNOWN));
    }

    #[test]
    fn short_flights_never_see_a_level_that_needs_much_memory() {
        let mut fitter = Fitter::new(Compression::Fitting, Some(100));
        let effort = fitter.fit(&Message::End, Written::default());
        assert_eq!(effort, Effort::Level(START_MAX));
        seconds(&mut fitter, Written::default(), 100, 10, 1);
        assert_eq!(fitter.level(), 19);
    }

    #[test]
    fn a_compressor_that_the_line_waits_for_hurries_up() {
        let mut fitter = Fitter::new(Compression::Fitting, Some(100));
        let now = seconds(&mut fitter, Written::default(), 50, 10, 1);
        assert_eq!(fitter.level(), 19);
        seconds(&mut fitter, now, 50, 2, 8);
        assert_eq!(fitter.effort, Effort::Stored);
    }

    #[test]
    fn a_line_that_files_as_they_are_are_too_much_for_is_compressed_for_from_then_on() {
        let mut fitter = Fitter::new(Compression::Fitting, Some(100_000));
        let now = seconds(&mut fitter, Written::default(), 60_000, 2, 2);
        assert_eq!(fitter.effort, Effort::Stored);
        let now = seconds(&mut fitter, now, 115_000, 10, 3);
        assert_eq!((fitter.effort, fitter.rate()), (Effort::Level(FASTEST), Some(115_000)));
        seconds(&mut fitter, now, 60_000, 2, 8);
        assert_eq!(fitter.effort, Effort::Level(FASTEST));
    }

    #[test]
    fn a_level_that_was_too_strong_for_a_moment_is_nearly_come_back_to() {
        // As after two times at which the line waited for the compressor.
        let mut fitter = Fitter::new(Compression::Fitting, Some(14_001));
        assert_eq!(fitter.level(), 3);
        let now = seconds(&mut fitter, Written::default(), 4_400, 10, 2);
        assert_eq!((fitter.level(), fitter.rate()), (6, Some(5_501)));
        seconds(&mut fitter, now, 4_400, 10, 4);
        assert_eq!(fitter.level(), 6);
    }

    #[test]
    fn what_is_observed_of_a_line_counts_from_two_bands_away_on() {
        assert_eq!(corrected(4_400, 14_001), 14_001);
        assert_eq!(corrected(4_400, 14_000), 4_400);
        assert_eq!(corrected(BEYOND, 100), 181);
    }

    #[test]
    fn an_unknown_line_that_is_slow_is_noticed_while_it_is_busy() {
        let mut fitter = Fitter::new(Compression::Fitting, None);
        seconds(&mut fitter, Written::default(), 1_220, 10, 3);
        assert_eq!(fitter.level(), 12);
    }

    #[test]
    fn what_the_other_end_measured_counts_unless_this_end_was_the_slow_one() {
        let mut fitter = Fitter::new(Compression::Fitting, Some(10_000));
        let busy = Written { busy: Duration::from_secs(1), ..Written::default() };
        fitter.told(500, busy);
        assert_eq!(fitter.rate(), Some(500));
        let idle = Written { bytes: 300 << 10, idle: Duration::from_secs(3), ..busy };
        fitter.flight_begins(busy);
        fitter.told(100, idle);
        assert_eq!(fitter.rate(), Some(500));
        fitter.told(9_000, idle);
        assert_eq!(fitter.rate(), Some(9_000));
        // Buffers took everything at once.
        let swallowed = Written { bytes: busy.bytes + (3 << 20), ..idle };
        fitter.told(500, swallowed);
        assert_eq!(fitter.rate(), Some(500));
    }

    #[test]
    fn what_does_not_become_smaller_is_stored_after_a_while() {
        let mut fitter = Fitter::new(Compression::Fitting, None);
        let mut fit = |random| {
            let effort = fitter.fit(&literal(random), Written::default());
            fitter.pushed(&literal(random), 128 << 10);
            effort
        };
        let efforts: Vec<Effort> = (0..9).map(|_| fit(true)).collect();
        assert!(efforts[..7].iter().all(|effort| *effort == Effort::Level(UNKNOWN)));
        assert!(efforts[7..].iter().all(|effort| *effort == Effort::Stored));
        assert_eq!(fit(false), Effort::Level(UNKNOWN));
    }

    #[test]
    fn a_forced_level_stays() {
        let mut fitter = Fitter::new(Compression::Level(3), Some(1));
        seconds(&mut fitter, Written::default(), 10, 10, 2);
        assert_eq!(fitter.fit(&literal(true), Written::default()), Effort::Level(3));
    }

    fn patch_with(base: Base) -> Message {
        let contents = vec![Patched { index: 0, base }];
        Message::Patches(Patches { contents, patch: Vec::new() })
    }

    fn parcel() -> Message {
        patch_with(Base::Nothing)
    }

    /// Sends files over a line that is always busy, of which so many KiB a second pass as they were packed, or
    /// compressed for the line, for so many seconds.
    fn busy(
        fitter: &mut Fitter,
        mut now: Written,
        (packed, coded): (u64, u64),
        secs: u32,
    ) -> Written {
        let patches = parcel();
        for _ in 0..secs * 40 {
            let is_packed = fitter.is_quickest();
            let through = if is_packed { packed } else { coded };
            now.bytes += through * 1024 / 40 / 4;
            now.busy += Duration::from_millis(25);
            for _ in 0..through * 1024 / 40 / (128 << 10) {
                let message = if is_packed { &patches } else { &literal(false) };
                fitter.fit(message, now);
                fitter.pushed(message, 32 << 10);
                fitter.stands_for(96 << 10);
            }
        }
        now
    }

    #[test]
    fn where_it_is_the_other_end_that_is_slow_files_go_as_they_were_packed_after_a_trial() {
        let mut fitter = Fitter::new(Compression::Fitting, Some(20_000));
        let now = busy(&mut fitter, Written::default(), (120_000, 90_000), 3);
        assert!(!fitter.is_quickest(), "nothing is packed");
        fitter.may_do(Some(Less::Packed));
        let now = busy(&mut fitter, now, (120_000, 90_000), 6);
        assert!(fitter.is_quickest());
        assert_eq!(fitter.rate(), Some(20_000), "a trial says nothing of the line");
        // It has become slower than it was before the trial.
        busy(&mut fitter, now, (60_000, 90_000), 2);
        assert!(!fitter.is_quickest());
    }

    #[test]
    fn where_it_is_the_other_end_that_is_slow_files_go_as_they_are_after_a_trial() {
        let mut fitter = Fitter::new(Compression::Fitting, Some(100_000));
        fitter.may_do(Some(Less::AsTheyAre));
        let go = |fitter: &mut Fitter, mut now: Written, stored: u64, coded: u64, secs: u32| {
            for _ in 0..secs * 40 {
                let is_stored = fitter.effort == Effort::Stored;
                let (through, share) = if is_stored { (stored, 1) } else { (coded, 4) };
                now.bytes += through * 1024 / 40 / share;
                now.busy += Duration::from_millis(25);
                for _ in 0..through / 40 / 128 {
                    fitter.fit(&literal(false), now);
                    fitter.pushed(&literal(false), 128 << 10);
                }
            }
            now
        };
        let now = go(&mut fitter, Written::default(), 120_000, 90_000, 6);
        assert_eq!(fitter.effort, Effort::Stored);
        let now = go(&mut fitter, now, 60_000, 90_000, 4);
        assert_eq!(fitter.effort, Effort::Level(FASTEST), "it has become slower than before");
        fitter.may_do(None);
        go(&mut fitter, now, 120_000, 90_000, 20);
        assert_eq!(fitter.effort, Effort::Level(FASTEST), "what goes now is worth compressing");
    }

    /// Sends so many files of this size, as they are, over a line that takes so many of them a second and is busy
    /// for this part of the time.
    fn files(
        fitter: &mut Fitter,
        mut now: Written,
        (count, size): (u32, u64),
        per_second: u32,
        share: f64,
    ) -> Written {
        let time = Duration::from_secs(1) / per_second;
        let piece = Message::Literal(vec![b'a'; size as usize]);
        for _ in 0..count {
            now.bytes += size;
            now.busy += time.mul_f64(share);
            now.idle += time.mul_f64(1.0 - share);
            for (message, bytes) in [(&Message::File(1), 2), (&piece, size)] {
                fitter.fit(message, now);
                fitter.pushed(message, bytes);
            }
        }
        now
    }

    #[test]
    fn a_line_that_waits_for_what_is_coded_does_not_wait_for_the_compressor() {
        let rate_after = |codes: bool| {
            let mut fitter = Fitter::new(Compression::Fitting, Some(1_000));
            let mut now = seconds(&mut fitter, Written::default(), 1_000, 10, 2);
            if codes {
                fitter.codes();
            }
            now.idle += Duration::from_secs(2);
            seconds(&mut fitter, now, 1_000, 10, 2);
            fitter.rate()
        };
        assert_eq!(rate_after(true), Some(1_000));
        assert!(rate_after(false) > Some(1_000));
    }

    #[test]
    fn a_line_that_waits_for_who_makes_small_files_is_not_taken_for_a_slow_one() {
        let mut fitter = Fitter::new(Compression::Fitting, Some(BEYOND));
        let start = seconds(&mut fitter, Written::default(), 60_000, 2, 1);
        let now = files(&mut fitter, start, (30_000, 4 << 10), 10_000, 0.93);
        assert_eq!((fitter.effort, fitter.rate()), (Effort::Stored, Some(BEYOND)));
        files(&mut fitter, now, (3_000, 64 << 10), 1_000, 1.0);
        assert_eq!((fitter.effort, fitter.rate()), (Effort::Level(FASTEST), Some(64_000)));
    }

    #[test]
    fn small_files_during_a_trial_show_no_less_than_large_ones_before_it() {
        let mut fitter = Fitter::new(Compression::Fitting, Some(100_000));
        fitter.may_do(Some(Less::AsTheyAre));
        let mut now = Written::default();
        for _ in 0..3_000 {
            now = files(&mut fitter, now, (1, 112 << 10), 1_000, 1.0);
            if fitter.trials.is_running() {
                break;
            }
        }
        assert!(fitter.trials.is_running());
        // A seventh of the bytes, in eight times as many files.
        files(&mut fitter, now, (8_200, 2 << 10), 8_200, 1.0);
        assert!(fitter.trials.is_on() && !fitter.trials.is_running());
    }

    #[test]
    fn a_pause_before_files_go_is_no_reason_to_send_them_as_they_are() {
        let mut fitter = Fitter::new(Compression::Fitting, Some(60_000));
        let mut now = Written::default();
        fitter.may_do(Some(Less::AsTheyAre));
        for pause in [3000, 0, 0, 2000, 0, 0, 0, 700, 0, 0] {
            now.idle += Duration::from_millis(pause);
            for _ in 0..20 {
                let through = if fitter.effort == Effort::Stored { 60_000 } else { 180_000 };
                now.bytes += 60 << 20 >> 5;
                now.busy += Duration::from_millis(31);
                for _ in 0..through / 32 / 128 {
                    fitter.fit(&literal(false), now);
                    fitter.pushed(&literal(false), 128 << 10);
                }
            }
            assert!(!fitter.trials.is_on() || fitter.trials.is_running());
        }
    }

    #[test]
    fn a_line_that_is_slow_is_tried_now_and_then_and_compressed_for() {
        let mut fitter = Fitter::new(Compression::Fitting, Some(20_000));
        fitter.may_do(Some(Less::Packed));
        let mut packed = 0;
        let mut now = Written::default();
        for _ in 0..240 {
            now = busy(&mut fitter, now, (60_000, 80_000), 1);
            packed += u32::from(fitter.is_quickest());
        }
        assert!((1..=4).contains(&packed), "{packed} of 240 seconds as they were packed");
        assert_eq!(fitter.level(), 3);
    }

    #[test]
    fn what_was_packed_before_is_not_compressed_once_more() {
        let proof = Message::Proof(psync_protocol::message::Proof::of(&[]));
        let efforts = |rate, first: &Message| {
            let mut fitter = Fitter::new(Compression::Fitting, Some(rate));
            [first, &proof, &Message::End].map(|message| fitter.fit(message, Written::default()))
        };
        let (stored, quickest) = (Effort::Stored, Effort::Level(FASTEST));
        assert_eq!(efforts(100_000, &parcel()), [stored, stored, quickest]);
        assert_eq!(efforts(100_000, &patch_with(Base::Own)), [quickest; 3]);
        assert_eq!(efforts(20_000, &parcel()), [Effort::Level(3); 3]);
    }
}
