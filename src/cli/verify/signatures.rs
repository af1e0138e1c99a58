//! `psync verify --signatures`: whether what was signed still holds.

use std::path::Path;

use serde_json::json;

use super::look;
use crate::cli::exit::Exit;
use crate::cli::run::print_out;
use crate::cli::subject::Failure;
use crate::sync::{Chain, Keeping, signatures};

/// Checks what is kept of the sessions of a root with each peer.
pub(super) fn check(root: &Path, keeping: &Keeping, json: bool) -> Result<Exit, Failure> {
    let sight = look(root, keeping)?;
    let chains = signatures(&sight).map_err(|error| super::failure(&error))?;
    chains.iter().for_each(|chain| tell(chain, json));
    if chains.is_empty() && !json {
        print_out("nothing has been signed yet: this root was not synced with another one\n");
    }
    let holds = chains.iter().all(|chain| chain.faults.is_empty());
    Ok(if holds { Exit::Ok } else { Exit::Identity })
}

fn tell(chain: &Chain, json: bool) {
    let peer: String = chain.peer.0.iter().map(|byte| format!("{byte:02x}")).collect();
    let Chain { key, sessions, dropped, restarts, faults, .. } = chain;
    if json {
        let object = json!({
            "type": "chain", "peer": peer, "key": key.to_string(), "sessions": sessions,
            "dropped": dropped, "restarts": restarts, "faults": faults,
        });
        print_out(&format!("{object}\n"));
        return;
    }
    let holds = if faults.is_empty() { "all signatures hold" } else { "NOT all signatures hold" };
    print_out(&format!("root {} (key {}): {holds}\n", &peer[..8], key.fingerprint()));
    print_out(&format!("    {sessions} sessions kept, {dropped} older ones dropped"));
    if *restarts > 0 {
        print_out(&format!(", begun anew {restarts} times"));
    }
    print_out("\n");
    faults.iter().for_each(|fault| print_out(&format!("    {fault}\n")));
}
