//! How what was measured is shown: a block for each case, or one Markdown table.

use crate::case::{AtMost, Case, SlowLine};
use crate::program::{Program, rsync_name};
use crate::scene::Measured;

/// What the programs cost in one case. A program that was left out is None.
pub(crate) struct Outcome<'a> {
    pub(crate) case: &'a Case,
    pub(crate) line: SlowLine,
    pub(crate) rsync: Option<Measured>,
    pub(crate) unison: Option<Measured>,
    pub(crate) psync: Option<Measured>,
}

/// One of psync's figures beside its target.
struct Judged {
    what: &'static str,
    measured: String,
    at_most: String,
    reached: bool,
}

impl Outcome<'_> {
    fn of(&self, program: Program) -> Option<&Measured> {
        match program {
            Program::Rsync => self.rsync.as_ref(),
            Program::Unison => self.unison.as_ref(),
            Program::Psync => self.psync.as_ref(),
        }
    }

    /// How many times rsync's figure this is; None where rsync was left out or failed.
    fn times_rsync(&self, own: f64, of: fn(&Measured) -> f64) -> Option<f64> {
        let rsync = self.rsync.as_ref().filter(|rsync| rsync.complaint.is_none())?;
        Some(own / of(rsync))
    }

    fn times_bytes(&self, measured: &Measured) -> Option<f64> {
        self.times_rsync(measured.counts.bytes() as f64, |rsync| rsync.counts.bytes() as f64)
    }

    fn times_seconds(&self, measured: &Measured) -> Option<f64> {
        self.times_rsync(measured.seconds(), Measured::seconds)
    }

    /// All of the case's targets that can be judged.
    fn judged(&self) -> Vec<Judged> {
        let Some(psync) = &self.psync else {
            return Vec::new();
        };
        let targets = self.case.targets;
        let mut judged = Vec::new();
        let mut times = |what, measured: Option<f64>, at_most: f64| {
            judged.extend(measured.map(|measured| Judged {
                what,
                measured: format!("{measured:.3} x"),
                at_most: format!("{at_most:.2} x"),
                reached: measured <= at_most,
            }));
        };
        if let Some(AtMost::TimesRsync(at_most)) = targets.bytes {
            times("bytes", self.times_bytes(psync), at_most);
        }
        if let Some(at_most) = targets.seconds {
            times("seconds", self.times_seconds(psync), at_most);
        }
        let mut whole = |what, measured: u64, at_most: u64| {
            judged.push(Judged {
                what,
                measured: grouped(measured),
                at_most: grouped(at_most),
                reached: measured <= at_most,
            });
        };
        if let Some(AtMost::Bytes(at_most)) = targets.bytes {
            whole("bytes", psync.counts.bytes(), at_most);
        }
        if let Some(at_most) = targets.turns {
            whole("turns", psync.counts.turns, at_most);
        }
        if let Some(at_most) = targets.memory_mib {
            whole("MiB", mib(psync.near_memory.max(psync.counts.far_memory)), at_most);
        }
        judged
    }

    /// `reached`, or what was not.
    fn verdict(&self) -> String {
        match &self.psync {
            None => return "not measured".to_owned(),
            Some(Measured { complaint: Some(complaint), .. }) => {
                return format!("FAILED: {complaint}");
            }
            Some(_) => {}
        }
        let judged = self.judged();
        let missed: Vec<&str> =
            judged.iter().filter(|one| !one.reached).map(|one| one.what).collect();
        if !missed.is_empty() {
            format!("NOT reached: {}", missed.join(", "))
        } else if judged.len() < self.case.targets.count() {
            "not judged: no rsync to compare with".to_owned()
        } else {
            "reached".to_owned()
        }
    }
}

/// The block of one case: a row for each program, then the targets.
pub(crate) fn print_block(outcome: &Outcome<'_>) {
    let Outcome { case, line, .. } = outcome;
    println!("\n{}: {} ({})", case.name, case.title, described(*line));
    println!(
        "  {:<10} {:>12} {:>12} {:>7} {:>9} {:>8} {:>8} {:>8} {:>9}  trees after",
        "program",
        "bytes out",
        "bytes back",
        "turns",
        "seconds",
        "near MiB",
        "far MiB",
        "x bytes",
        "x seconds"
    );
    for program in Program::ALL {
        if let Some(measured) = outcome.of(program) {
            println!("{}", block_row(outcome, program, measured));
        }
    }
    let targets: Vec<String> = outcome
        .judged()
        .into_iter()
        .map(|Judged { what, measured, at_most, .. }| {
            format!("{what} {measured} (at most {at_most})")
        })
        .collect();
    println!("  psync: {}: {}", targets.join(", "), outcome.verdict());
}

fn block_row(outcome: &Outcome<'_>, program: Program, measured: &Measured) -> String {
    let Measured { counts, near_memory, complaint, .. } = measured;
    format!(
        "  {:<10} {:>12} {:>12} {:>7} {:>9.2} {:>6} {:>6} {:>8} {:>9}  {}",
        program.name_in(outcome.case),
        counts.out,
        counts.back,
        counts.turns,
        measured.seconds(),
        mib(*near_memory),
        mib(counts.far_memory),
        ratio(outcome.times_bytes(measured)),
        ratio(outcome.times_seconds(measured)),
        complaint.as_deref().unwrap_or("equal"),
    )
}

const COLUMNS: [&str; 13] = [
    "line",
    "psync bytes",
    "x rsync",
    "turns",
    "seconds",
    "x rsync",
    "MiB near / far",
    "rsync bytes",
    "turns",
    "seconds",
    "Unison bytes",
    "seconds",
    "targets",
];

pub(crate) fn print_markdown_head() {
    println!("| case | {} |", COLUMNS.join(" | "));
    let rulers = COLUMNS.map(|column| match column {
        "line" | "targets" => "---",
        _ => "---:",
    });
    println!("|---|{}|", rulers.join("|"));
}

/// The row of one case; targets stand in brackets.
pub(crate) fn print_markdown_row(outcome: &Outcome<'_>) {
    let Outcome { case, line, .. } = outcome;
    let targets = case.targets;
    let (bytes_at_most, times_at_most) = match targets.bytes {
        None => (None, None),
        Some(AtMost::Bytes(bytes)) => (Some(grouped(bytes)), None),
        Some(AtMost::TimesRsync(times)) => (None, Some(format!("{times:.2}"))),
    };
    let mut cells = vec![case.title.to_owned(), described(*line)];
    match &outcome.psync {
        None => cells.extend(["–"; 6].map(str::to_owned)),
        Some(psync) => cells.extend([
            with_target(grouped(psync.counts.bytes()), bytes_at_most),
            with_target(ratio(outcome.times_bytes(psync)), times_at_most),
            with_target(grouped(psync.counts.turns), targets.turns.map(grouped)),
            format!("{:.2}", psync.seconds()),
            with_target(
                ratio(outcome.times_seconds(psync)),
                targets.seconds.map(|times| format!("{times:.2}")),
            ),
            with_target(
                format!("{} / {}", mib(psync.near_memory), mib(psync.counts.far_memory)),
                targets.memory_mib.map(grouped),
            ),
        ]),
    }
    cells.extend(peer_cells(outcome.rsync.as_ref()));
    if rsync_name(case) == "rsync -a" && outcome.rsync.is_some() {
        cells[8] += " (`-a`)";
    }
    let [bytes, _, seconds] = peer_cells(outcome.unison.as_ref());
    cells.extend([bytes, seconds, outcome.verdict()]);
    println!("| {} |", cells.join(" | "));
}

/// Bytes, turns and seconds.
fn peer_cells(measured: Option<&Measured>) -> [String; 3] {
    match measured {
        None => ["–"; 3].map(str::to_owned),
        Some(Measured { complaint: Some(_), .. }) => ["failed"; 3].map(str::to_owned),
        Some(measured) => [
            grouped(measured.counts.bytes()),
            grouped(measured.counts.turns),
            format!("{:.2}", measured.seconds()),
        ],
    }
}

fn with_target(measured: String, at_most: Option<String>) -> String {
    match at_most {
        None => measured,
        Some(at_most) => format!("{measured} (≤ {at_most})"),
    }
}

fn ratio(times: Option<f64>) -> String {
    times.map_or("–".to_owned(), |times| format!("{times:.3}"))
}

fn described(line: SlowLine) -> String {
    if line == SlowLine::UNLIMITED {
        return "no limit".to_owned();
    }
    format!("{} Mbit/s, {} ms", line.rate as f64 / 1e6, line.rtt_ms)
}

/// Rounded up: a target that is missed by less than a MiB is missed.
fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// With a comma before each three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
