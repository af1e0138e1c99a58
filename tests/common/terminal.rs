//! A program at a terminal of its own, and a person who types.

#![allow(dead_code)]

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// How long a program may take to say what is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program whose standard streams are a terminal.
pub(crate) struct Terminal {
    keyboard: File,
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Terminal {
    /// Starts a program.
    pub(crate) fn run(mut command: Command) -> Terminal {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&keyboard).and_then(|()| unlockpt(&keyboard)).expect("a terminal of our own");
        let name = ptsname(&keyboard, Vec::new()).expect("a name");
        let name = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
        let no_control = rustix::fs::OFlags::NOCTTY.bits() as i32;
        let screen = OpenOptions::new().read(true).write(true).custom_flags(no_control).open(name);
        let screen = screen.expect("the terminal can be opened");
        let copy = || screen.try_clone().expect("a descriptor");
        let child = command.stdin(copy()).stdout(copy()).stderr(copy()).spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        drop((command, screen));
        let keyboard = File::from(keyboard);
        let said = Arc::new(Mutex::new(String::new()));
        let (mut from, into) = (keyboard.try_clone().expect("a descriptor"), said.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // It fails once nobody has the other side open.
            while let Ok(n @ 1..) = from.read(&mut bytes) {
                into.lock().expect("it is whole").push_str(&String::from_utf8_lossy(&bytes[..n]));
            }
        });
        Terminal { keyboard, child, said }
    }

    /// What it has said so far, and what was typed.
    pub(crate) fn said(&self) -> String {
        self.said.lock().expect("it is whole").replace("\r\n", "\n")
    }

    /// Waits until it has said this; gives what stands after it in the line, once that has ended.
    #[track_caller]
    pub(crate) fn told(&self, text: &str) -> String {
        let mut rest = None;
        self.wait(text, |said| {
            let after = said.split_once(text).map(|(_, after)| after);
            rest = after.and_then(|after| after.split_once('\n')).map(|(line, _)| line.to_string());
            rest.is_some()
        });
        rest.expect("it was seen")
    }

    /// Waits until it asks this, then types an answer.
    #[track_caller]
    pub(crate) fn answer(&mut self, question: &str, answer: &str) {
        self.wait(question, |said| said.contains(question));
        self.keyboard.write_all(format!("{answer}\n").as_bytes()).expect("somebody reads it");
    }

    #[track_caller]
    pub(crate) fn wait(&self, what: &str, mut is_so: impl FnMut(&str) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(&self.said()) {
            assert!(Instant::now() < deadline, "'{what}' was not said; but:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
    }

    /// Waits until it has ended, which it must do with this code; gives what it has said.
    #[track_caller]
    pub(crate) fn ends(mut self, code: i32) -> String {
        let ended = self.wait_for_the_end();
        assert_eq!(ended, code, "{}", self.said());
        self.said()
    }

    /// Waits until it has ended, and gives its exit code.
    #[track_caller]
    pub(crate) fn ends_somehow(mut self) -> i32 {
        self.wait_for_the_end()
    }

    #[track_caller]
    fn wait_for_the_end(&mut self) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                // What it said last is on its way to us.
                std::thread::sleep(Duration::from_millis(50));
                return status.code().expect("no signal");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("it does not end:\n{}", self.said());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
