//! How much a daemon takes on: the table `[limits]` of `psyncd.toml`, and that of a module.
//!
//! Only this machine's own file says so; nothing that a peer sends raises a limit.

use std::ops::RangeInclusive;
use std::time::Duration;

use psync_protocol::Bounds;
use toml::Spanned;
use toml::de::DeValue;

use crate::root::{KeepFree, Space};
use crate::settings::{Bytes, Patience, Quota, Setting, did_you_mean};
use crate::sync::Keeping;

/// What all sessions of a daemon may take together, and each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long a peer may take to say who it is, and then what it wants.
    pub handshake: Duration,
    /// How long nothing may come, not even a sign of life.
    pub idle: Duration,
    /// Connections of which it is not known yet who they are.
    pub strangers: usize,
    /// The same, from one address.
    pub strangers_of_address: usize,
    /// Sessions at a time.
    pub sessions: usize,
    /// Sessions of one peer at a time.
    pub sessions_of_peer: usize,
    /// What one session may take; a module may say otherwise.
    pub session: SessionLimits,
}

/// What one session may take of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionLimits {
    /// What it may state, and make this end hold in memory.
    pub bounds: Bounds,
    /// How much of the disk it leaves free; none: what the settings of the root say.
    pub keep_free: Option<KeepFree>,
    /// How many bytes may be staged at a time; none: what the settings of the root say.
    pub staging: Option<Quota>,
}

/// Bytes that a session may make a daemon hold, unless its file says otherwise.
const SESSION_MEMORY: u64 = 256 << 20;

impl SessionLimits {
    /// What an end keeps, held to these limits.
    pub(super) fn hold(self, keeping: Keeping) -> Keeping {
        let space = Space {
            keep_free: self.keep_free.unwrap_or(keeping.space.keep_free),
            staging: self.staging.map_or(keeping.space.staging, |quota| quota.0),
        };
        Keeping { bounds: self.bounds, space, ..keeping }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            strangers: 64,
            strangers_of_address: 8,
            sessions: 32,
            sessions_of_peer: 2,
            session: SessionLimits {
                bounds: Bounds { memory: SESSION_MEMORY, ..Bounds::default() },
                keep_free: None,
                staging: None,
            },
        }
    }
}

/// A limit that is a number.
struct Number {
    name: &'static str,
    unit: Unit,
    range: RangeInclusive<u64>,
    place: Place,
}

#[derive(Clone, Copy)]
enum Unit {
    Count,
    Seconds,
    Bytes,
}

/// Where a limit holds, and how it is set.
enum Place {
    Daemon(fn(&mut Limits, u64)),
    /// Also in the table of a module.
    Session(fn(&mut Bounds, u64)),
}

const DAY: u64 = 86_400;

const NUMBERS: [Number; 12] = [
    Number {
        name: "handshake",
        unit: Unit::Seconds,
        range: 1..=DAY,
        place: Place::Daemon(|limits, n| limits.handshake = Duration::from_secs(n)),
    },
    Number {
        name: "idle",
        unit: Unit::Seconds,
        range: 3..=DAY,
        place: Place::Daemon(|limits, n| limits.idle = Duration::from_secs(n)),
    },
    Number {
        name: "strangers",
        unit: Unit::Count,
        range: 1..=65_536,
        place: Place::Daemon(|limits, n| limits.strangers = n as usize),
    },
    Number {
        name: "strangers-per-address",
        unit: Unit::Count,
        range: 1..=65_536,
        place: Place::Daemon(|limits, n| limits.strangers_of_address = n as usize),
    },
    Number {
        name: "sessions",
        unit: Unit::Count,
        range: 1..=4096,
        place: Place::Daemon(|limits, n| limits.sessions = n as usize),
    },
    Number {
        name: "sessions-per-peer",
        unit: Unit::Count,
        range: 1..=4096,
        place: Place::Daemon(|limits, n| limits.sessions_of_peer = n as usize),
    },
    Number {
        name: "frame",
        unit: Unit::Bytes,
        range: Bounds::FRAME_LEAST as u64..=Bounds::MOST.frame as u64,
        place: Place::Session(|bounds, n| bounds.frame = n as usize),
    },
    Number {
        name: "entries",
        unit: Unit::Count,
        range: 1..=Bounds::MOST.entries,
        place: Place::Session(|bounds, n| bounds.entries = n),
    },
    Number {
        name: "path",
        unit: Unit::Bytes,
        range: 1..=Bounds::MOST.path as u64,
        place: Place::Session(|bounds, n| bounds.path = n as usize),
    },
    Number {
        name: "component",
        unit: Unit::Bytes,
        range: 1..=Bounds::MOST.component as u64,
        place: Place::Session(|bounds, n| bounds.component = n as usize),
    },
    Number {
        name: "depth",
        unit: Unit::Count,
        range: 1..=Bounds::MOST.depth as u64,
        place: Place::Session(|bounds, n| bounds.depth = n as usize),
    },
    Number {
        name: "memory",
        unit: Unit::Bytes,
        range: Bounds::MEMORY_LEAST..=1 << 50,
        place: Place::Session(|bounds, n| bounds.memory = n),
    },
];

/// The limits that are no plain numbers; both are of sessions.
const OTHERS: [&str; 2] = ["keep-free", "staging"];

impl Number {
    fn is_of_sessions(&self) -> bool {
        matches!(self.place, Place::Session(_))
    }

    /// The value that was written, if it is one that may be.
    fn read(&self, value: &DeValue<'_>) -> Option<u64> {
        let number = match self.unit {
            Unit::Count => whole(value),
            Unit::Seconds => {
                Patience::from_toml(value).map(|wait| wait.0.map_or(0, |d| d.as_secs()))
            }
            Unit::Bytes => whole(value).or_else(|| Bytes::from_toml(value).map(|bytes| bytes.0)),
        };
        number.filter(|number| self.range.contains(number))
    }

    fn expected(&self) -> String {
        let (least, most) = (self.range.start(), self.range.end());
        match self.unit {
            Unit::Count => format!("a number from {least} to {most}"),
            Unit::Seconds => {
                format!("a number of seconds, or a time as in \"5min\", of {least} s to a day")
            }
            Unit::Bytes if *most < 1 << 20 => format!("a number of bytes from {least} to {most}"),
            Unit::Bytes => {
                let (least, most) = (Bytes(*least).written(), Bytes(*most).written());
                let [least, most] = [least, most].map(Option::unwrap_or_default);
                format!("an amount of bytes from {least} to {most}")
            }
        }
    }
}

fn whole(value: &DeValue<'_>) -> Option<u64> {
    let number = value.as_integer().filter(|number| number.radix() == 10)?;
    number.as_str().replace('_', "").parse().ok()
}

/// What is wrong, and where in the text.
type Wrong = (usize, String);

impl Limits {
    /// Reads the table `[limits]`.
    pub(super) fn read(&mut self, value: &Spanned<DeValue<'_>>) -> Result<(), Wrong> {
        for (name, value) in entries(value)? {
            let known = NUMBERS.iter().find(|number| number.name == name.1);
            match known.map(|number| (number, &number.place)) {
                Some((number, Place::Daemon(set))) => set(self, number_of(number, value)?),
                _ => self.session.set(name, value, |_| true)?,
            }
        }
        Ok(())
    }
}

impl SessionLimits {
    /// Reads the table of limits of a module.
    pub(super) fn read(&mut self, value: &Spanned<DeValue<'_>>) -> Result<(), Wrong> {
        entries(value)?
            .into_iter()
            .try_for_each(|(name, value)| self.set(name, value, Number::is_of_sessions))
    }

    fn set(
        &mut self,
        (at, name): (usize, &str),
        value: &Spanned<DeValue<'_>>,
        may_be_meant: impl Fn(&Number) -> bool,
    ) -> Result<(), Wrong> {
        match name {
            "keep-free" => self.keep_free = Some(value_of(name, value)?),
            "staging" => self.staging = Some(value_of(name, value)?),
            _ => match NUMBERS.iter().find(|number| number.name == name) {
                Some(number @ Number { place: Place::Session(set), .. }) => {
                    set(&mut self.bounds, number_of(number, value)?);
                }
                Some(_) => {
                    let text = format!("'{name}' is for all modules together, in [limits]");
                    return Err((at, text));
                }
                None => {
                    let meant = NUMBERS.iter().filter(|number| may_be_meant(number));
                    let meant: Vec<&str> = meant.map(|number| number.name).chain(OTHERS).collect();
                    let hint = match did_you_mean(name, meant.iter().copied()) {
                        hint if hint.is_empty() => format!("; there are {}", meant.join(", ")),
                        hint => hint,
                    };
                    let shown = psync_protocol::path::printable(name.as_bytes());
                    return Err((at, format!("there is no limit '{shown}'{hint}")));
                }
            },
        }
        Ok(())
    }
}

/// A key with the place where it stands, and its value.
type Entry<'a> = ((usize, &'a str), &'a Spanned<DeValue<'a>>);

fn entries<'a>(value: &'a Spanned<DeValue<'a>>) -> Result<Vec<Entry<'a>>, Wrong> {
    let wrong = || (value.span().start, "limits are a table, as in [limits]".to_string());
    let table = value.get_ref().as_table().ok_or_else(wrong)?;
    Ok(table.iter().map(|(key, value)| ((key.span().start, &**key.get_ref()), value)).collect())
}

fn number_of(number: &Number, value: &Spanned<DeValue<'_>>) -> Result<u64, Wrong> {
    let wrong = || (value.span().start, format!("{} is not {}", number.name, number.expected()));
    number.read(value.get_ref()).ok_or_else(wrong)
}

fn value_of<T: Setting>(name: &str, value: &Spanned<DeValue<'_>>) -> Result<T, Wrong> {
    let wrong = || (value.span().start, format!("{name} is not {}", T::EXPECTED));
    T::from_toml(value.get_ref()).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use toml::de::DeTable;

    fn read(text: &str) -> Result<Limits, Wrong> {
        let table = DeTable::parse(text).unwrap();
        let mut limits = Limits::default();
        limits.read(table.get_ref().get("limits").unwrap())?;
        Ok(limits)
    }

    #[test]
    fn every_limit_can_be_set() {
        let text = "[limits]\nhandshake = 5\nidle = '2min'\nstrangers = 10\nstrangers-per-address = 2\n\
                    sessions = 3\nsessions-per-peer = 1\nframe = '512K'\nentries = 1_000\npath = 100\n\
                    component = 50\ndepth = 9\nmemory = '64M'\nkeep-free = '10%'\nstaging = '1G'\n";
        let limits = read(text).unwrap();
        let bounds = Bounds {
            frame: 512 << 10,
            entries: 1000,
            path: 100,
            component: 50,
            depth: 9,
            memory: 64 << 20,
        };
        let session = SessionLimits {
            bounds,
            keep_free: Some(KeepFree::Percent(10)),
            staging: Some(Quota(Some(1 << 30))),
        };
        let expected = Limits {
            handshake: Duration::from_secs(5),
            idle: Duration::from_secs(120),
            strangers: 10,
            strangers_of_address: 2,
            sessions: 3,
            sessions_of_peer: 1,
            session,
        };
        assert_eq!(limits, expected);
        assert_eq!(read("[limits]\n"), Ok(Limits::default()));
    }

    #[test]
    fn what_is_no_limit_is_told_with_the_nearest_one() {
        for (line, expected) in [
            ("handshakes = 5", "did you mean 'handshake'?"),
            ("stranger = 5", "did you mean 'strangers'?"),
            ("sessions_per_peer = 5", "did you mean 'sessions-per-peer'?"),
            ("something = 5", "there are handshake, idle"),
            ("handshake = 0", "handshake is not a number of seconds"),
            ("sessions = 'many'", "sessions is not a number from 1 to 4096"),
            ("entries = 10_000_001", "from 1 to 10000000"),
            ("depth = 257", "depth is not a number from 1 to 256"),
            ("frame = '2M'", "frame is not an amount of bytes"),
            ("memory = '1K'", "memory is not an amount of bytes"),
            ("keep-free = 'all'", "keep-free is not"),
            ("idle = -1", "idle is not"),
        ] {
            let (at, text) = read(&format!("[limits]\n{line}")).expect_err(line);
            assert!(at >= 9 && text.contains(expected), "{line}: {text}");
        }
    }

    #[test]
    fn every_limit_is_in_the_manual() {
        let manual = concat!(env!("CARGO_MANIFEST_DIR"), "/man/psyncd.toml.5");
        let manual = std::fs::read_to_string(manual).unwrap();
        let items = manual.lines().filter_map(|line| line.strip_prefix(".It Cm "));
        let words: Vec<&str> = items.flat_map(str::split_whitespace).collect();
        for name in NUMBERS.iter().map(|number| number.name).chain(OTHERS) {
            assert!(words.contains(&name), "{name}");
        }
    }

    #[test]
    fn a_module_has_no_say_in_what_is_for_all() {
        let table = DeTable::parse("limits = { sessions = 1 }").unwrap();
        let mut session = Limits::default().session;
        let (_, text) = session.read(table.get_ref().get("limits").unwrap()).unwrap_err();
        assert!(text.contains("for all modules together"), "{text}");
    }
}
