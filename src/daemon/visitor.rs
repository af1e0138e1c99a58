//! Who is there, as the audit log has it.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::audit::{Clerk, text};
use super::{Audit, AuditError};
use crate::identity::{Admitted, PublicKey};
use crate::journal::Witness;
use crate::manifest::{Permit, Rights};

/// A connection, and once that is known, who it is.
#[derive(Debug)]
pub(super) struct Visitor(Vec<(&'static str, Value)>);

impl Visitor {
    /// Somebody of whom only the address is known.
    pub(super) fn new(session: &str, address: &SocketAddr) -> Visitor {
        Visitor(vec![("session", text(session)), ("address", address.to_string().into())])
    }

    /// The same, with a name and a key.
    pub(super) fn known(mut self, peer: &Admitted, key: &PublicKey) -> Visitor {
        self.0.extend([("peer", text(&peer.name)), ("key", key.to_string().into())]);
        self
    }

    /// What is known.
    pub(super) fn facts(&self) -> Vec<(&'static str, Value)> {
        self.0.clone()
    }

    /// The visitor may do this in a module: who will write it down, and what is to be written first.
    pub(super) fn authorised(
        &self,
        audit: &Arc<Audit>,
        module: &str,
        permit: &Permit,
    ) -> (Clerk, Vec<(&'static str, Value)>) {
        let mut session = self.facts();
        session.push(("module", text(module)));
        let mut facts = session.clone();
        facts.push(("rights", rights(permit)));
        (Clerk { audit: audit.clone(), session }, facts)
    }
}

/// Writes down what is done for somebody whom the remote shell lets in, from this address.
pub fn by_shell(
    audit: Arc<Audit>,
    address: String,
) -> impl Fn(&str, &Permit) -> Result<Option<Arc<dyn Witness>>, AuditError> {
    move |module, permit| {
        let (session, peer) = (format!("pid-{}", std::process::id()), "remote shell");
        let visitor = Visitor(vec![
            ("session", text(session)),
            ("address", text(&address)),
            ("peer", peer.into()),
        ]);
        let (clerk, facts) = visitor.authorised(&audit, module, permit);
        audit.note("authorised", &facts)?;
        Ok(Some(Arc::new(clerk)))
    }
}

/// What may be done below each path, by its name; the empty one is the module itself.
fn rights(permit: &Permit) -> Value {
    let rules = permit.rules().iter().map(|(prefix, rights)| {
        let path = prefix.as_ref().map_or(&b""[..], |path| path.as_bytes());
        (psync_protocol::path::printable(path), words(rights).into())
    });
    Value::Object(rules.collect::<Map<String, Value>>())
}

fn words(rights: &Rights) -> String {
    let Rights { list, read, write, delete } = *rights;
    let words = [(list, "list"), (read, "read"), (write, "write"), (delete, "delete")];
    let granted: Vec<&str> = words.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
    if granted.is_empty() { "none".into() } else { granted.join(",") }
}
