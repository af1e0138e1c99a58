//! The key of a replica: one root on one machine. It lies beside the root's index, gives the
//! replica its id, and signs what the replica states.

use std::io;
use std::path::Path;
use std::sync::Arc;

use psync_protocol::ReplicaId;
use psync_protocol::signed::Digest;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use super::key::{self, KeyError};
use super::{PublicKey, REPLICA_FILE};

/// A replica's secret key, which never leaves its file but for signing.
#[derive(Debug, Clone)]
pub struct ReplicaKey {
    pair: Arc<Ed25519KeyPair>,
    public: PublicKey,
}

impl ReplicaKey {
    /// The key in a state directory; none where there is none. Refused where anybody but its
    /// owner could have read it.
    pub fn read(directory: &Path) -> Result<Option<ReplicaKey>, KeyError> {
        let path = directory.join(REPLICA_FILE);
        let advice = "chmod 600 it if none of them has; else remove it, and this root becomes a new replica: \
                      it meets everybody for the first time, and nothing is deleted";
        match key::read_secret(&path, advice) {
            Ok(None) => Ok(None),
            Ok(Some(secret)) => {
                let key = ReplicaKey::from_secret(&secret);
                key.map(Some).map_err(|text| KeyError::new(&path, &text))
            }
            Err(error) => Err(error),
        }
    }

    /// Makes a key, and puts it in the place of any that was there.
    pub fn make(directory: &Path, random: impl Fn(&mut [u8])) -> Result<ReplicaKey, KeyError> {
        let path = directory.join(REPLICA_FILE);
        let failed = |error: io::Error| {
            KeyError::new(&path, &format!("cannot make the key of this root: {error}"))
        };
        let mut secret = [0; 32];
        random(&mut secret);
        key::replace_secret(directory, REPLICA_FILE, &secret).map_err(failed)?;
        ReplicaKey::from_secret(&secret).map_err(|text| KeyError::new(&path, &text))
    }

    /// From the 32 bytes of the secret (RFC 8032, 5.1.5).
    pub fn from_secret(secret: &[u8; 32]) -> Result<ReplicaKey, String> {
        let pair =
            Ed25519KeyPair::from_seed_unchecked(secret).map_err(|error| error.to_string())?;
        let public = pair.public_key().as_ref().try_into().map(PublicKey::new);
        let public = public.map_err(|_| "does not give a public key")?;
        Ok(ReplicaKey { pair: Arc::new(pair), public })
    }

    /// Who signs with it.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The signature of a digest.
    pub fn sign(&self, digest: &Digest) -> [u8; 64] {
        let mut bytes = [0; 64];
        let signature = self.pair.sign(&digest.0);
        bytes.iter_mut().zip(signature.as_ref()).for_each(|(byte, signed)| *byte = *signed);
        bytes
    }
}

impl PublicKey {
    /// The id of the replica that signs with this key. Nobody else has a key with this id, so nobody can
    /// take it for his own, however many know it from versions.
    pub fn replica_id(&self) -> ReplicaId {
        let hash = blake3::derive_key("psync 2026-11 replica id", self.as_bytes());
        let (first, _) = hash.split_first_chunk::<16>().expect("a hash has 32 bytes");
        ReplicaId(*first)
    }

    /// Whether a signature of a digest was made with this key.
    pub fn has_signed(&self, digest: &Digest, signature: &[u8; 64]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.as_bytes()).verify(&digest.0, signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use psync_protocol::signed::{CLAIM_BYTES, Claim};

    use super::*;

    #[test]
    fn a_signature_holds_for_its_digest_and_its_key_only() {
        let one = ReplicaKey::from_secret(&[1; 32]).unwrap();
        let other = ReplicaKey::from_secret(&[2; 32]).unwrap();
        let signature = one.sign(&Digest([7; 32]));
        assert!(one.public().has_signed(&Digest([7; 32]), &signature));
        assert!(!one.public().has_signed(&Digest([8; 32]), &signature));
        assert!(!other.public().has_signed(&Digest([7; 32]), &signature));
        let mut flipped = signature;
        flipped[63] ^= 1;
        assert!(!one.public().has_signed(&Digest([7; 32]), &flipped));
    }

    /// The bytes of an annotated file.
    fn vector(text: &str) -> Vec<u8> {
        let code = text.lines().map(|line| line.split('#').next().unwrap_or_default());
        let words = code.flat_map(str::split_whitespace);
        words.map(|hex| u8::from_str_radix(hex, 16).unwrap()).collect()
    }

    #[test]
    fn the_signature_of_the_golden_vector_is_made_and_holds() {
        let golden = vector(include_str!("../../protocol/vectors/signed.txt"));
        let (said, golden) = golden.split_at(CLAIM_BYTES);
        let (digest, golden) = golden.split_at(32);
        let (secret, golden) = golden[32 + 8..].split_first_chunk::<32>().unwrap();
        let (public, signature) = golden.split_at(32);
        let claimed = Claim::from_bytes(said).unwrap().digest();
        assert_eq!(claimed.0, digest);
        let key = ReplicaKey::from_secret(secret).unwrap();
        assert_eq!(key.public().as_bytes(), public);
        assert_eq!(key.sign(&claimed), signature);
    }

    #[test]
    fn a_key_that_was_made_is_read_again_and_is_for_its_owner_only() {
        let folder = std::env::temp_dir().join(format!("psync-replica-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        assert!(ReplicaKey::read(&folder).unwrap().is_none());
        let first = ReplicaKey::make(&folder, |bytes| bytes.fill(1)).unwrap();
        assert_eq!(ReplicaKey::read(&folder).unwrap().unwrap().public(), first.public());
        let second = ReplicaKey::make(&folder, |bytes| bytes.fill(2)).unwrap();
        assert_eq!(ReplicaKey::read(&folder).unwrap().unwrap().public(), second.public());
        assert_ne!(first.public(), second.public());
        let path = folder.join(REPLICA_FILE);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(ReplicaKey::read(&folder).unwrap_err().to_string().contains("chmod 600"));
        fs::remove_dir_all(folder).unwrap();
    }
}
