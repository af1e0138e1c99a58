//! Batches of rows, and batches of changes to known entries: in order and sound, or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use psync_fuzz::tape;
use psync_protocol::changes::ChangesReader;
use psync_protocol::manifest::{self, ManifestReader};
use psync_protocol::{CheckKey, Message, ReplicaId};

fn key() -> CheckKey {
    CheckKey::new(ReplicaId([1; 16]), &[3; 16])
}

fuzz_target!(|input: &[u8]| {
    let mut rows = ManifestReader::new(key());
    let mut changes: Option<ChangesReader> = None;
    for (kind, payload) in tape::parts(input) {
        match (Message::decode(kind, payload), &mut changes) {
            (Ok(Message::Known(known)), None) => changes = Some(ChangesReader::new(known)),
            (_, Some(changes)) if kind % 2 == 0 => {
                if changes.batch(payload).is_err() {
                    return;
                }
            }
            _ => {
                if rows.batch(payload).is_err() {
                    return;
                }
            }
        }
    }
    if let Some(changes) = changes {
        changes.finish();
    }
    let Ok(rows) = rows.finish() else { return };
    assert!(rows.is_sorted_by(|a, b| a.path < b.path));
    let mut again = ManifestReader::new(key());
    for batch in manifest::encode(&rows) {
        again.batch(&batch).expect("what was read is written soundly");
    }
    assert_eq!(again.finish().expect("all of it"), rows);
});
