//! Names and words that steer a terminal, from a server that was taken over, in everything that psync
//! prints: as text and as JSON, during the run and long after.

use psync_protocol::Row;

use super::common::{describe, psync, run};
use super::ground::{Ground, assert_plain};
use super::responders::Host;

/// What names can hold to deceive.
const NAMES: &[&str] = &[
    "\x1b[2Jcleared",
    "\x1b]0;title\x07",
    "\u{9b}31mred",
    "\u{202e}gpj.exe",
    "\u{2066}isolated",
    "bell\x07",
    "back\x08\x08",
    "carriage\rreturn",
    "two\nlines: error: all is lost",
    "tab\there",
    "\u{200b}\u{feff}unseen",
    "delete\x7f",
    "\u{2028}separator",
];

#[test]
fn no_name_of_a_peer_steers_a_terminal() {
    let every: &[&[&str]] =
        &[&["-v"], &["-vv"], &["--json"], &["-i"], &["-n"], &["-n", "--json"], &["--stats"]];
    for options in every {
        let ground = Ground::new();
        let mask = ground.as_far();
        // What is printed is looked at, too.
        let ended = ground.caller(options, move |voice| {
            let mut rows: Vec<Row<_>> = NAMES.iter().map(|name| mask.file(name, b"")).collect();
            rows.extend(NAMES.iter().map(|name| mask.link(&format!("l{name}"), name.as_bytes())));
            // These are announced, and then do not come.
            rows.extend(NAMES.iter().map(|name| mask.file(&format!("f{name}"), &[b'x'; 900])));
            rows.push(mask.file("way-out/\x1b[2J", b""));
            rows.push(mask.edit("docs/b.txt", b"mine"));
            rows.push(mask.gone("docs/deep/c.txt"));
            let mut peer = Host { mask, voice };
            peer.state(&rows);
            let text = "no\x1b[2J\u{202e}\u{9b}\r".to_string();
            for index in 0..200 {
                let wanted = peer.voice.heard.iter().any(|message| {
                    matches!(message, psync_protocol::Message::Want(want) if want.index == index)
                });
                if wanted {
                    let kind = psync_protocol::message::FailureKind::System;
                    let failure =
                        psync_protocol::message::Failure { index, kind, text: text.clone() };
                    peer.voice.say(&psync_protocol::Message::FileFailed(failure));
                }
            }
            peer.finish();
        });
        ended.assert_bounds();
        let near = ground.near.display().to_string();
        let later: &[&[&str]] = &[
            &["log", &near],
            &["log", "--json", &near],
            &["conflicts", &near],
            &["conflicts", "--json", &near],
            &["trash", "list", &near],
            &["status", &near],
            &["status", "--json", &near],
            &["verify", &near],
            &["verify", "--json", &near],
            &["plan", &near, &ground.far.display().to_string()],
        ];
        for words in later {
            let mut command = psync(&ground.temp);
            let output = run(command.args(*words));
            assert!(
                output.status.code().is_some_and(|code| code != 101),
                "{}",
                describe(&command, &output)
            );
            assert_plain(&output.stdout);
            assert_plain(&output.stderr);
        }
        let mut command = psync(&ground.temp);
        let output = run(command.args(["why", "--root", &near, "two\nlines: error: all is lost"]));
        assert_plain(&output.stdout);
        assert_plain(&output.stderr);
    }
}
