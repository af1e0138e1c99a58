//! `psync id`: this machine's key, as a person and a script see it.
//!
//!     cargo test --test id

mod common;

use common::pair::Said;
use common::{TempDir, psync, read_text, set_mode};

#[test]
fn the_key_is_made_at_first_use_and_stays() {
    let temp = TempDir::new();
    let first = Said::of(psync(&temp).arg("id"), 0);
    let again = Said::of(psync(&temp).arg("id"), 0);
    assert_eq!(first.out, again.out);
    let object = Said::of(psync(&temp).args(["id", "--json"]), 0).objects().remove(0);
    let text = |name: &str| object[name].as_str().expect("a text").to_string();
    for name in ["words", "digits", "key"] {
        first.has(&text(name));
    }
    assert!(text("key").starts_with("ed25519:"));
    assert!(first.out.lines().all(|line| line.len() <= 80));
    let secret = read_text(temp.join("home/.config/psync/id_ed25519"));
    assert!(!secret.contains(&text("key")["ed25519:".len()..]));
}

#[test]
fn a_key_that_others_could_read_is_refused() {
    let temp = TempDir::new();
    Said::of(psync(&temp).arg("id"), 0);
    set_mode(&temp.join("home/.config/psync/id_ed25519"), 0o644);
    Said::of(psync(&temp).arg("id"), 42).has("id_ed25519").has("chmod 600");
    let said = Said::of(psync(&temp).args(["id", "--json"]), 42);
    assert_eq!(said.objects()[0]["exit"], 42);
}

#[test]
fn the_configuration_may_be_elsewhere() {
    let temp = TempDir::new();
    let mut command = psync(&temp);
    Said::of(command.env("XDG_CONFIG_HOME", temp.join("elsewhere")).arg("id"), 0);
    assert!(temp.join("elsewhere/psync/id_ed25519").exists());
    assert!(!temp.join("home/.config").exists());
}
