//! Lines for people, and a progress bar where there is a terminal.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use psync_protocol::path::printable;
use psync_protocol::{RelPath, Role};

use super::output::Output;
use super::summary::{LineNumbers, SideTally, TroubleCount};
use crate::report::{Action, Conflict, Deed, Kind, Phase, Report, Trouble, TroubleKind};
use crate::sync::{Outcome, Predicted};
use crate::transport::Purpose;

/// How much is said.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    pub(super) quiet: bool,
    pub(super) verbosity: u8,
    pub(super) itemize: bool,
    pub(super) stats: bool,
    pub(super) progress: bool,
    pub(super) dry_run: bool,
}

/// Prints for people.
#[derive(Debug)]
pub(super) struct Terminal {
    manner: Manner,
    /// What the local and the other side are called.
    names: (String, String),
    output: Output,
    bar: Mutex<Option<ProgressBar>>,
    pub(super) troubles: Mutex<TroubleCount>,
}

impl Terminal {
    pub(super) fn new(manner: Manner, names: (String, String), output: Output) -> Terminal {
        Terminal { manner, names, output, bar: Mutex::new(None), troubles: Mutex::default() }
    }

    fn name(&self, role: Role) -> &str {
        match role {
            Role::Initiator => &self.names.0,
            Role::Responder => &self.names.1,
        }
    }

    /// Prints a line above the bar.
    fn say(&self, line: &str) {
        self.above_bar(|| self.output.say(line));
    }

    pub(super) fn complain(&self, line: &str) {
        self.above_bar(|| self.output.complain(line));
    }

    fn above_bar(&self, print: impl FnOnce()) {
        let bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn show(&self, style: &str, length: Option<u64>, message: &str) {
        if !self.manner.progress {
            return;
        }
        let mut bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = bar.take() {
            old.finish_and_clear();
        }
        let new = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr_with_hz(8));
        // The style is a constant of this file; an unknown one would leave indicatif's own.
        new.set_style(
            ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        new.set_message(message.to_string());
        new.enable_steady_tick(Duration::from_millis(200));
        *bar = Some(new);
    }

    /// Takes the bar away.
    pub(super) fn clear(&self) {
        if let Some(bar) = self.bar.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
    }

    pub(super) fn start(&self, left: &str, right: &str, flow: &str) {
        if !self.manner.quiet {
            self.say(&format!("{left} {flow} {right}"));
        }
    }

    pub(super) fn summary(&self, outcome: &Outcome, line: LineNumbers) {
        self.clear();
        if self.manner.quiet {
            return;
        }
        let mut parts = Vec::new();
        for role in [Role::Responder, Role::Initiator] {
            let tally = SideTally::of(&outcome.actions, role);
            let words: Vec<String> = tally
                .parts()
                .into_iter()
                .filter(|(_, part)| part.all() > 0)
                .map(|(name, part)| {
                    let bytes = if part.bytes > 0 {
                        format!(" ({})", HumanBytes(part.bytes))
                    } else {
                        String::new()
                    };
                    format!("{} {name}{bytes}", part.all())
                })
                .collect();
            if !words.is_empty() {
                parts.push(format!("on {}: {}", self.name(role), words.join(", ")));
            }
        }
        let would = if self.manner.dry_run { "dry run: " } else { "" };
        if parts.is_empty() {
            self.say("nothing to do");
        } else {
            self.say(&format!("{would}{}", parts.join(&format!("\n{would}"))));
        }
        if !outcome.conflicts.is_empty() {
            self.say(&format!("conflicts: {} (see above)", outcome.conflicts.len()));
        }
        if self.manner.stats {
            self.stats(outcome, line);
        } else if !parts.is_empty() {
            self.say(&format!(
                "{} over the line in {:.1} s",
                HumanBytes(line.sent + line.received),
                line.seconds
            ));
        }
    }

    fn stats(&self, outcome: &Outcome, line: LineNumbers) {
        self.say(&format!("entries on {}: {}", self.name(Role::Initiator), outcome.entries.0));
        self.say(&format!("entries on {}: {}", self.name(Role::Responder), outcome.entries.1));
        self.say(&format!("bytes sent: {}", line.sent));
        self.say(&format!("bytes received: {}", line.received));
        self.purposes(&line.by_purpose);
        self.say(&format!("turns of the line: {}", line.turns));
        self.say(&format!("seconds: {:.2}", line.seconds));
        if let Some(predicted) = &outcome.predicted {
            self.predicted(predicted);
        }
    }

    fn purposes(&self, by_purpose: &[(Purpose, u64, u64)]) {
        for (purpose, sent, received) in by_purpose {
            let name = purpose.name().replace('_', " ");
            if sent + received > 0 {
                self.say(&format!("  {name}: {sent} sent, {received} received"));
            }
        }
    }

    /// What the run would cost that was only shown.
    fn predicted(&self, predicted: &Predicted) {
        let (sent, received) = (predicted.sent(), predicted.received());
        let all = HumanBytes(sent + received);
        self.say(&format!("a run would cost {all}: {sent} bytes sent, {received} received"));
        self.purposes(&predicted.by_purpose);
        let seconds = match predicted.seconds {
            Some(seconds) => format!(", about {seconds:.1} s on the line"),
            None => String::new(),
        };
        self.say(&format!("  in {} turns of the line{seconds}", predicted.turns));
    }

    fn plain(&self, action: &Action) -> String {
        let path = &action.path;
        let on = self.name(action.on);
        let mut text = match &action.deed {
            Deed::Create => format!("create on {on}: {path}"),
            Deed::Update => format!("update on {on}: {path}"),
            Deed::Properties { .. } => format!("set properties on {on}: {path}"),
            Deed::Delete => format!("delete on {on}: {path}"),
            Deed::Move { from } => format!("move on {on}: {from} -> {path}"),
            Deed::KeepBoth { clash } => format!("keep both on {on}: {path}, {clash}"),
        };
        if self.manner.verbosity > 1 {
            text.push_str(&format!(" ({})", action.why));
        }
        text
    }
}

/// rsync's eleven letters; `<` goes to the other side, `>` comes to this one. Moves are marked `~`,
/// conflicts `!`.
fn itemized(action: &Action) -> String {
    let way = match action.on {
        Role::Responder => '<',
        Role::Initiator => '>',
    };
    let kind = match action.kind {
        Kind::File => 'f',
        Kind::Directory => 'd',
        Kind::Symlink => 'L',
    };
    let path = &action.path;
    match &action.deed {
        Deed::Create => format!("{way}{kind}+++++++++ {path}"),
        Deed::Update => format!("{way}{kind}c.t...... {path}"),
        Deed::Properties { mode, time } => {
            let (time, mode) = (if *time { 't' } else { '.' }, if *mode { 'p' } else { '.' });
            format!(".{kind}..{time}{mode}..... {path}")
        }
        Deed::Delete => format!("*deleting   {path}"),
        Deed::Move { from } => format!("{way}{kind}~........ {from} -> {path}"),
        Deed::KeepBoth { clash } => format!("{way}{kind}!........ {path} ({clash})"),
    }
}

impl Report for Terminal {
    fn phase(&self, phase: Phase) {
        match phase {
            Phase::Scanning(entries) => {
                let bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner).clone();
                match bar {
                    Some(bar) => bar.set_position(entries),
                    None => self.show("{spinner} scanning: {pos} entries {elapsed}", None, ""),
                }
            }
            Phase::Waiting => {
                self.show("{spinner} {msg} {elapsed}", None, "waiting for the other side")
            }
            Phase::Transfer { bytes } => self.show(
                "[{bar:24}] {bytes}/{total_bytes} {bytes_per_sec} {eta} {wide_msg}",
                Some(bytes),
                "",
            ),
            Phase::Remembering { bytes } => {
                self.show("remembering [{bar:24}] {bytes}/{total_bytes} {elapsed}", Some(bytes), "")
            }
        }
    }

    fn action(&self, action: &Action) {
        if self.manner.itemize {
            self.say(&itemized(action));
        } else if self.manner.verbosity > 0 || self.manner.dry_run && !self.manner.quiet {
            self.say(&self.plain(action));
        }
    }

    fn conflict(&self, conflict: &Conflict) {
        let (kind, path, outcome) = (conflict.kind.name(), &conflict.path, &conflict.outcome);
        let spoke = match self.manner.verbosity > 0 || self.manner.dry_run {
            false => String::new(),
            true => format!(" ({})", printable(conflict.rule.as_bytes())),
        };
        self.complain(&format!("conflict ({kind}): {path}: {outcome}{spoke}"));
    }

    fn merged(&self, path: &RelPath, clean: bool) {
        self.say(&match clean {
            true => format!("merged: {path}"),
            false => format!("cannot be merged, both are kept: {path}"),
        });
    }

    fn left_alone(&self, path: &RelPath, why: &str) {
        if self.manner.verbosity > 0 {
            self.say(&format!("left alone: {path}: {why}"));
        }
    }

    fn trouble(&self, trouble: &Trouble) {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).add(trouble.kind);
        let label = match trouble.kind {
            TroubleKind::Note | TroubleKind::Special | TroubleKind::Pattern => "note",
            TroubleKind::System => "failed",
            TroubleKind::Changed => "skipped",
        };
        let on = self.name(trouble.on);
        let place = match trouble.path.is_empty() {
            true => on.to_string(),
            false => format!("{on}: {}", printable(&trouble.path)),
        };
        self.complain(&format!("{label}: {place}: {}", trouble.text));
    }

    fn progress(&self, path: &RelPath, bytes: u64) {
        let bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(bar) = bar {
            bar.inc(bytes);
            bar.set_message(path.to_string());
        }
    }
}
