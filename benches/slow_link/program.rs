//! The programs that are measured, and how each is told to make one side as the other.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::case::{Case, Changed, SlowLine, Story};
use crate::common;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Rsync,
    Unison,
    Psync,
}

impl Program {
    /// rsync first: psync is measured against it.
    pub(crate) const ALL: [Program; 3] = [Program::Rsync, Program::Unison, Program::Psync];

    /// As the table names it.
    pub(crate) fn name_in(self, case: &Case) -> &'static str {
        match self {
            Program::Rsync => rsync_name(case),
            Program::Unison => "unison",
            Program::Psync => "psync",
        }
    }

    pub(crate) fn executable(self) -> PathBuf {
        match self {
            Program::Rsync => "rsync".into(),
            Program::Unison => "unison".into(),
            Program::Psync => {
                std::env::var_os("PSYNC_BIN").map_or(common::PSYNC.into(), PathBuf::from)
            }
        }
    }

    pub(crate) fn is_installed(self) -> bool {
        let version = if self == Program::Unison { "-version" } else { "--version" };
        Command::new(self.executable()).arg(version).stdout(Stdio::null()).status().is_ok()
    }

    /// The command that brings the side that was not changed to the state of the other.
    pub(crate) fn command(self, case: &Case, rsh: &Path, near: &Path, far: &Path) -> Command {
        let mut command = Command::new(self.executable());
        let remote = format!("host:{}", far.display());
        let one_way = case.story == Story::FirstContact;
        match self {
            Program::Rsync => {
                let options = if compresses(case) { "-az" } else { "-a" };
                command.args([options, "--delete", "--rsync-path", "rsync", "-e"]).arg(rsh);
                match case.changed {
                    Changed::Near => command.arg(near.join("")).arg(remote),
                    Changed::Far => command.arg(remote + "/").arg(near),
                };
            }
            Program::Unison => {
                let remote = format!("ssh://host/{}", far.display());
                command.args(["-ui", "text", "-batch", "-times", "-confirmbigdel=false"]);
                command.arg("-sshcmd").arg(rsh).args(["-servercmd", "unison"]);
                match case.changed {
                    Changed::Near if one_way => drop(command.arg("-force").arg(near)),
                    Changed::Far if one_way => drop(command.arg("-force").arg(&remote)),
                    Changed::Near | Changed::Far => {}
                }
                command.arg(near).arg(remote);
            }
            Program::Psync => {
                command.arg("--rsh").arg(rsh).arg("--psync-path").arg(self.executable());
                match case.changed {
                    Changed::Near if one_way => drop(command.args(["--mirror", "push"])),
                    Changed::Far if one_way => drop(command.args(["--mirror", "pull"])),
                    Changed::Near | Changed::Far => {}
                }
                if case.no_store {
                    command.arg("--no-store");
                }
                command.arg(near).arg(remote);
            }
        }
        command
    }

    /// rsync keeps no state that two sides could agree on.
    pub(crate) fn keeps_state(self) -> bool {
        self != Program::Rsync
    }
}

/// The command of rsync that a case is compared with.
pub(crate) fn rsync_name(case: &Case) -> &'static str {
    if compresses(case) { "rsync -az" } else { "rsync -a" }
}

/// Where the line has no limit, compression only costs rsync time.
fn compresses(case: &Case) -> bool {
    case.line != SlowLine::UNLIMITED
}

/// Whether the psync that is measured knows this option.
pub(crate) fn psync_knows(option: &str) -> bool {
    let help = Command::new(Program::Psync.executable()).arg("--help").output();
    help.is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains(option))
}
