//! The signature of what an end states, and of a plan.

use crate::codec::{Put, Reader};
use crate::error::DecodeError;

/// Ends a statement or a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// An Ed25519 signature (RFC 8032), see [`crate::signed`].
    pub signature: [u8; 64],
    /// The public key that it was made with, where the other end may not know it.
    pub key: Option<[u8; 32]>,
}

impl Seal {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_raw(&self.signature);
        self.key.iter().for_each(|key| out.put_raw(key));
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Seal, DecodeError> {
        let signature = r.array("a signature")?;
        let key = match r.remaining() {
            0..32 => None,
            _ => Some(r.array("a public key")?),
        };
        Ok(Seal { signature, key })
    }
}
