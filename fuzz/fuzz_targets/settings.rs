//! A file of settings, as that of a person and as that of a root: understood, or refused by file and
//! line.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use psync::reconcile::Counsel;
use psync::settings::{Layer, Machine, ROOT_FILE, Sources};

static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let base =
        if fs::metadata("/dev/shm").is_ok() { "/dev/shm".into() } else { std::env::temp_dir() };
    let folder = base.join(format!("psync-fuzz-settings-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a place for settings");
    folder
});

fuzz_target!(|text: &[u8]| {
    let user = FOLDER.join("psync.toml");
    let files = [&user, &FOLDER.join(ROOT_FILE)];
    for file in files {
        fs::write(file, text).expect("a place for settings");
    }
    let sources = |user| Sources { user, system: FOLDER.join("none"), ..Sources::default() };
    let as_root = Machine::read(sources(None))
        .and_then(|machine| machine.settings(Some(&FOLDER), None, Layer::default(), "peer"));
    let as_user = Machine::read(sources(Some(user)))
        .and_then(|machine| machine.settings(None, None, Layer::default(), "peer"));
    for settings in [as_root, as_user] {
        match settings {
            Ok(settings) => {
                assert!(!settings.shown().is_empty());
                let _ = Counsel::new(settings.rulebook());
                settings.retention();
            }
            Err(error) => assert!(error.to_string().contains(".toml"), "{error}"),
        }
    }
});
