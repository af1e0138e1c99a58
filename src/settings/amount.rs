//! Settings that are amounts: of bytes, of time, of entries, of versions.

use std::time::Duration;

use toml::de::DeValue;

use super::value::{Setting, string_or_number, toml_string};
use crate::reconcile::{ChangeLimit, DeleteLimit};
use crate::root::KeepFree;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl Setting for Bytes {
    const EXPECTED: &'static str = "an amount of bytes, as in \"64M\" or \"1.5G\"";

    fn from_text(text: &str) -> Option<Bytes> {
        let (number, shift) = with_unit(text, 0)?;
        scaled(number, shift).map(Bytes)
    }

    fn is_as_strict_as(&self, other: &Bytes) -> bool {
        self.0 >= other.0
    }

    fn written(&self) -> Option<String> {
        Some(toml_string(&amount(self.0)))
    }
}

impl Setting for KeepFree {
    const EXPECTED: &'static str =
        "an amount of bytes, a share of the file system, or \"auto\", as in \"1G\" or \"5%\"";

    fn from_text(text: &str) -> Option<KeepFree> {
        match text {
            "auto" => Some(KeepFree::Usual),
            text if text.ends_with('%') => percent(text).map(KeepFree::Percent),
            text => Bytes::from_text(text).map(|bytes| KeepFree::Bytes(bytes.0)),
        }
    }

    fn from_toml(value: &DeValue<'_>) -> Option<KeepFree> {
        string_or_number(value)
    }

    fn written(&self) -> Option<String> {
        Some(match self {
            KeepFree::Usual => "\"auto\"".into(),
            KeepFree::Bytes(bytes) => toml_string(&amount(*bytes)),
            KeepFree::Percent(percent) => format!("\"{percent}%\""),
        })
    }
}

/// Most bytes; none for any number of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota(pub Option<u64>);

impl Setting for Quota {
    const EXPECTED: &'static str = "an amount of bytes, as in \"10G\", or 0 for no limit";

    fn from_text(text: &str) -> Option<Quota> {
        Bytes::from_text(text).map(|bytes| Quota((bytes.0 > 0).then_some(bytes.0)))
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Quota> {
        string_or_number(value)
    }

    fn written(&self) -> Option<String> {
        Some(self.0.map_or("0".into(), |bytes| toml_string(&amount(bytes))))
    }
}

/// How much memory may be taken; none: half of what the machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory(pub Option<u64>);

impl Memory {
    /// What it comes to, in bytes.
    pub fn bytes(self) -> u64 {
        self.0.unwrap_or_else(|| {
            let machine = rustix::system::sysinfo();
            (machine.totalram as u64).saturating_mul(machine.mem_unit.into()) / 2
        })
    }
}

impl Setting for Memory {
    const EXPECTED: &'static str = "an amount of bytes, or \"auto\", as in \"2G\"";

    fn from_text(text: &str) -> Option<Memory> {
        match text {
            "auto" => Some(Memory(None)),
            text => Bytes::from_text(text).map(|bytes| Memory(Some(bytes.0))),
        }
    }

    fn written(&self) -> Option<String> {
        Some(self.0.map_or("\"auto\"".into(), |bytes| toml_string(&amount(bytes))))
    }
}

/// A number with a binary suffix: the number, and the power of two; `bare` is that of a number
/// without suffix.
fn with_unit(text: &str, bare: u32) -> Option<(f64, u32)> {
    let (number, unit) = match text.find(|c: char| c.is_ascii_alphabetic()) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" => bare,
        "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        _ => return None,
    };
    Some((number.trim().parse().ok()?, shift))
}

fn scaled(number: f64, shift: u32) -> Option<u64> {
    let bytes = number * (1u64 << shift) as f64;
    (0.0..1e18).contains(&bytes).then_some(bytes as u64)
}

/// Bytes with the largest suffix that says them exactly.
fn amount(bytes: u64) -> String {
    let exact = |&(shift, _): &(u32, &str)| bytes > 0 && bytes.is_multiple_of(1u64 << shift);
    match [(40, "T"), (30, "G"), (20, "M"), (10, "K")].iter().find(|unit| exact(unit)) {
        Some((shift, suffix)) => format!("{}{suffix}", bytes >> shift),
        None => bytes.to_string(),
    }
}

fn percent(text: &str) -> Option<u64> {
    let number = text.strip_suffix('%')?.trim_end();
    number.parse().ok().filter(|&percent| percent <= 100)
}

/// How much may be kept on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Budget {
    /// What psync thinks right.
    #[default]
    Default,
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the bytes in the tree's files.
    Percent(u64),
}

impl Setting for Budget {
    const EXPECTED: &'static str =
        "an amount of bytes, a share of the tree, or \"auto\", as in \"1G\" or \"10%\"";

    fn from_text(text: &str) -> Option<Budget> {
        match text {
            "auto" => Some(Budget::Default),
            text if text.ends_with('%') => percent(text).map(Budget::Percent),
            text => Bytes::from_text(text).map(|bytes| Budget::Bytes(bytes.0)),
        }
    }

    /// Which of two is more depends on the tree.
    fn is_as_strict_as(&self, other: &Budget) -> bool {
        self == other
    }

    fn written(&self) -> Option<String> {
        Some(match self {
            Budget::Default => "\"auto\"".into(),
            Budget::Bytes(bytes) => toml_string(&amount(*bytes)),
            Budget::Percent(percent) => format!("\"{percent}%\""),
        })
    }
}

impl Setting for DeleteLimit {
    const EXPECTED: &'static str =
        "a number of entries, a percentage, or \"auto\", as in 50 or \"10%\"";

    fn from_text(text: &str) -> Option<DeleteLimit> {
        match text {
            "auto" => Some(DeleteLimit::Half),
            text if text.ends_with('%') => percent(text).map(DeleteLimit::Percent),
            text => text.parse().ok().map(DeleteLimit::Count),
        }
    }

    fn from_toml(value: &DeValue<'_>) -> Option<DeleteLimit> {
        string_or_number(value)
    }

    /// The share of a tree says nothing of the number, and the other way round; of `auto` it is
    /// known what it allows at least.
    fn is_as_strict_as(&self, other: &DeleteLimit) -> bool {
        match (self, other) {
            (DeleteLimit::Count(count), DeleteLimit::Half) => *count <= DeleteLimit::Half.of(0),
            (DeleteLimit::Percent(percent), DeleteLimit::Half) => *percent <= 50,
            (one, other) => one == other,
        }
    }

    fn written(&self) -> Option<String> {
        Some(match self {
            DeleteLimit::Half => "\"auto\"".into(),
            DeleteLimit::Count(count) => count.to_string(),
            DeleteLimit::Percent(percent) => format!("\"{percent}%\""),
        })
    }
}

impl Setting for ChangeLimit {
    const EXPECTED: &'static str =
        "a number of files, a percentage, or \"auto\", as in 50 or \"10%\"";

    fn from_text(text: &str) -> Option<ChangeLimit> {
        match text {
            "auto" => Some(ChangeLimit::NineTenths),
            text if text.ends_with('%') => percent(text).map(ChangeLimit::Percent),
            text => text.parse().ok().map(ChangeLimit::Count),
        }
    }

    fn from_toml(value: &DeValue<'_>) -> Option<ChangeLimit> {
        string_or_number(value)
    }

    /// As with deletions.
    fn is_as_strict_as(&self, other: &ChangeLimit) -> bool {
        match (self, other) {
            (ChangeLimit::Count(count), ChangeLimit::NineTenths) => {
                *count <= ChangeLimit::NineTenths.of(0)
            }
            (ChangeLimit::Percent(percent), ChangeLimit::NineTenths) => *percent <= 90,
            (one, other) => one == other,
        }
    }

    fn written(&self) -> Option<String> {
        Some(match self {
            ChangeLimit::NineTenths => "\"auto\"".into(),
            ChangeLimit::Count(count) => count.to_string(),
            ChangeLimit::Percent(percent) => format!("\"{percent}%\""),
        })
    }
}

/// Bytes a second; none for as fast as the line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(pub Option<u64>);

impl Setting for Rate {
    const EXPECTED: &'static str = "a rate, as in \"500\" (KiB a second) or \"1.5M\"";

    fn from_text(text: &str) -> Option<Rate> {
        let (number, shift) = with_unit(text, 10)?;
        scaled(number, shift).map(|rate| Rate((rate > 0).then_some(rate)))
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Rate> {
        string_or_number(value)
    }

    fn written(&self) -> Option<String> {
        Some(match self.0 {
            None => "0".into(),
            Some(rate) if rate.is_multiple_of(1024) => toml_string(&amount(rate)),
            Some(rate) => format!("\"{rate}B\""),
        })
    }
}

/// How long something is waited for; none for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience(pub Option<Duration>);

impl Setting for Patience {
    const EXPECTED: &'static str = "a number of seconds, or a time as in \"5min\"";

    fn from_text(text: &str) -> Option<Patience> {
        let bare = text.parse().ok();
        let seconds = bare.or_else(|| seconds(text))?;
        let wait = (seconds > 0).then(|| Duration::from_secs(seconds));
        (seconds <= 365 * DAY).then_some(Patience(wait))
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Patience> {
        string_or_number(value)
    }

    fn written(&self) -> Option<String> {
        Some(self.0.map_or(0, |wait| wait.as_secs()).to_string())
    }
}

const DAY: u64 = 86_400;

/// The units of time, in seconds, the largest first.
const TIMES: [(&str, u64); 6] =
    [("y", 365 * DAY), ("w", 7 * DAY), ("d", DAY), ("h", 3600), ("min", 60), ("s", 1)];

fn seconds(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic())?);
    let unit = TIMES.iter().find(|(name, _)| *name == unit)?.1;
    number.trim().parse::<u64>().ok()?.checked_mul(unit)
}

/// How long something is kept; none for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Age(pub Option<Duration>);

impl Age {
    /// So many days.
    pub(super) const fn days(days: u64) -> Age {
        Age(Some(Duration::from_secs(days * DAY)))
    }
}

impl Setting for Age {
    const EXPECTED: &'static str = "a time in s, min, h, d, w or y, or \"forever\", as in \"30d\"";

    fn from_text(text: &str) -> Option<Age> {
        match text {
            "forever" => Some(Age(None)),
            text => seconds(text).map(|seconds| Age(Some(Duration::from_secs(seconds)))),
        }
    }

    fn is_as_strict_as(&self, other: &Age) -> bool {
        self.0.unwrap_or(Duration::MAX) >= other.0.unwrap_or(Duration::MAX)
    }

    fn written(&self) -> Option<String> {
        let Some(kept) = self.0.map(|kept| kept.as_secs()) else {
            return Some("\"forever\"".into());
        };
        // In days as long as that is exact: that is how people count.
        let exact = |(_, unit): &&(&str, u64)| *unit <= DAY && kept.is_multiple_of(*unit);
        TIMES.iter().find(exact).map(|(name, unit)| format!("\"{}{name}\"", kept / unit))
    }
}

/// A level of zstd; none for what fits the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompressLevel(pub Option<i32>);

impl Setting for CompressLevel {
    const EXPECTED: &'static str = "a level from 1 to 19, or \"auto\"";

    fn from_text(text: &str) -> Option<CompressLevel> {
        match text {
            "auto" => Some(CompressLevel(None)),
            text => {
                let level = text.parse().ok().filter(|level| (1..=19).contains(level));
                level.map(|level| CompressLevel(Some(level)))
            }
        }
    }

    fn from_toml(value: &DeValue<'_>) -> Option<CompressLevel> {
        string_or_number(value)
    }

    fn written(&self) -> Option<String> {
        Some(self.0.map_or("\"auto\"".into(), |level| level.to_string()))
    }
}

/// How many old versions are kept; none for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepVersions(pub Option<u32>);

impl Setting for KeepVersions {
    const EXPECTED: &'static str = "a number, or \"all\"";

    fn from_text(text: &str) -> Option<KeepVersions> {
        match text {
            "all" => Some(KeepVersions(None)),
            text => text.parse().ok().map(|count| KeepVersions(Some(count))),
        }
    }

    fn from_toml(value: &DeValue<'_>) -> Option<KeepVersions> {
        string_or_number(value)
    }

    fn is_as_strict_as(&self, other: &KeepVersions) -> bool {
        self.0.unwrap_or(u32::MAX) >= other.0.unwrap_or(u32::MAX)
    }

    fn written(&self) -> Option<String> {
        Some(self.0.map_or("\"all\"".into(), |count| count.to_string()))
    }
}
#[cfg(test)]
mod tests {
    use super::super::value::Words;
    use super::*;

    fn bytes(text: &str) -> Option<u64> {
        Bytes::from_text(text).map(|bytes| bytes.0)
    }

    #[test]
    fn amounts_have_binary_units() {
        assert_eq!(bytes("1.5G"), Some(3 << 29));
        assert_eq!(bytes("20M"), Some(20 << 20));
        assert_eq!(bytes("7"), Some(7));
        assert_eq!(bytes("64 KiB"), Some(64 << 10));
        for wrong in ["", "five", "-1G", "1X", "M", "1e30"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn bare_rates_are_kibibytes_as_for_rsync() {
        let rate = |text: &str| Rate::from_text(text).map(|rate| rate.0);
        assert_eq!(rate("100"), Some(Some(102_400)));
        assert_eq!(rate("1.5m"), Some(Some(1_572_864)));
        assert_eq!(rate("100B"), Some(Some(100)));
        assert_eq!(rate("0"), Some(None));
        assert_eq!(rate("fast"), None);
    }

    #[test]
    fn ages_and_waits_have_units_of_time() {
        let age = |text: &str| Age::from_text(text).map(|age| age.0.map(|kept| kept.as_secs()));
        assert_eq!(age("30d"), Some(Some(30 * DAY)));
        assert_eq!(age("2w"), Some(Some(14 * DAY)));
        assert_eq!(age("forever"), Some(None));
        for wrong in ["30", "d", "30x", "-1d", "99999999999999999999y"] {
            assert_eq!(age(wrong), None, "{wrong}");
        }
        assert_eq!(Patience::from_text("0"), Some(Patience(None)));
        assert_eq!(Patience::from_text("5min"), Some(Patience(Some(Duration::from_secs(300)))));
        assert_eq!(Patience::from_text("soon"), None);
    }

    #[test]
    fn what_is_shown_is_understood_again() {
        fn again<T: Setting + PartialEq + std::fmt::Debug>(value: T) {
            let text = value.written().unwrap();
            let file = format!("x = {text}");
            let table = toml::de::DeTable::parse(&file).unwrap();
            let read = T::from_toml(table.get_ref()["x"].get_ref());
            assert_eq!(read, Some(value), "{text}");
        }
        let bytes = [0, 1, 1024, 1025, 20 << 20, 3 << 40];
        bytes.into_iter().map(Bytes).for_each(again);
        let budgets = [Budget::Default, Budget::Bytes(1 << 30), Budget::Percent(7)];
        budgets.into_iter().for_each(again);
        let limits = [DeleteLimit::Half, DeleteLimit::Count(5), DeleteLimit::Percent(5)];
        limits.into_iter().for_each(again);
        let rates = [None, Some(1), Some(1024), Some(102_500)];
        rates.into_iter().map(Rate).for_each(again);
        let ages = [None, Some(1), Some(90), Some(DAY), Some(400 * DAY)];
        ages.map(|age| age.map(Duration::from_secs)).into_iter().map(Age).for_each(again);
        let waits = [None, Some(300)].map(|wait| wait.map(Duration::from_secs));
        waits.into_iter().map(Patience).for_each(again);
        [None, Some(19)].into_iter().map(CompressLevel).for_each(again);
        [None, Some(0), Some(7)].into_iter().map(KeepVersions).for_each(again);
        [true, false].into_iter().for_each(again);
        again(String::from("a \"quoted\" \\ word\tü\u{1}"));
        again(Words::from_text("ssh -p '22'").unwrap());
    }
}
