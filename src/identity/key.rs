//! This machine's key.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use rustls::crypto::ring::sign::any_eddsa_type;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::sign::SigningKey;
use thiserror::Error;

use super::lines::bytes_of_hex;
use super::{Fingerprint, KEY_FILE};

/// What a public key begins with, wherever it is written.
const KIND: &str = "ed25519:";
/// What a key file begins with.
const SECRET_KIND: &str = "psync-secret-ed25519:";
/// PKCS #8 (RFC 8410, section 7) around the 32 bytes of an Ed25519 secret.
const PKCS8_START: [u8; 16] =
    [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
/// What stands before the 32 bytes of a public key in its SubjectPublicKeyInfo (RFC 8410, section 4).
const SPKI_START: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
/// Longest key file that is read, in bytes.
const FILE_MAX: u64 = 4096;

/// Who a machine is: an Ed25519 public key, written as `ed25519:` and 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// From its 32 bytes.
    pub fn new(bytes: [u8; 32]) -> PublicKey {
        PublicKey(bytes)
    }

    /// Its 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// As TLS carries it: a SubjectPublicKeyInfo. None where that holds a key of another kind.
    pub fn from_spki(der: &[u8]) -> Option<PublicKey> {
        der.strip_prefix(&SPKI_START)?.try_into().ok().map(PublicKey)
    }

    /// As TLS carries it.
    pub fn to_spki(self) -> Vec<u8> {
        [&SPKI_START[..], &self.0].concat()
    }

    /// For people to compare.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(KIND)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for PublicKey {
    type Err = String;

    fn from_str(text: &str) -> Result<PublicKey, String> {
        let bytes = text.strip_prefix(KIND).and_then(bytes_of_hex);
        let key = bytes.and_then(|bytes| bytes.try_into().ok().map(PublicKey));
        key.ok_or_else(|| {
            format!(
                "'{}' is not a key: {KIND} and 64 digits, as 'psync id' prints it",
                text.escape_debug()
            )
        })
    }
}

/// A key that cannot be had.
#[derive(Debug, Error)]
#[error("{}: {text}", .path.display())]
pub struct KeyError {
    path: PathBuf,
    text: String,
}

impl KeyError {
    pub(super) fn new(path: &Path, text: &str) -> KeyError {
        KeyError { path: path.to_path_buf(), text: text.to_string() }
    }
}

/// This machine's secret key, which never leaves its file but for signing.
#[derive(Debug, Clone)]
pub struct MachineKey {
    signing: Arc<dyn SigningKey>,
    public: PublicKey,
}

impl MachineKey {
    /// The key in a directory; `random` makes one at first use. Refused where anybody but its
    /// owner could have read it.
    pub fn open(directory: &Path, random: fn(&mut [u8])) -> Result<MachineKey, KeyError> {
        let path = directory.join(KEY_FILE);
        let advice = "if none of them has, chmod 600 it, else remove it: a new one is made, and every peer \
                      has to be told";
        let secret = match read_secret(&path, advice)? {
            Some(secret) => Some(secret),
            None => {
                let failed = |error: io::Error| {
                    KeyError::new(&path, &format!("cannot make this machine's key: {error}"))
                };
                create(directory, &path, random).map_err(failed)?;
                read_secret(&path, advice)?
            }
        };
        let secret = secret.ok_or_else(|| KeyError::new(&path, "is gone again"))?;
        MachineKey::from_secret(&secret).map_err(|text| KeyError::new(&path, &text))
    }

    /// From the 32 bytes of the secret.
    pub fn from_secret(secret: &[u8; 32]) -> Result<MachineKey, String> {
        let pkcs8 = PrivatePkcs8KeyDer::from([&PKCS8_START[..], secret].concat());
        let signing = any_eddsa_type(&pkcs8).map_err(|error| error.to_string())?;
        let public = signing.public_key().and_then(|spki| PublicKey::from_spki(&spki));
        let public = public.ok_or("does not give a public key")?;
        Ok(MachineKey { signing, public })
    }

    /// Who this machine is.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// What signs with it.
    pub fn signing(&self) -> Arc<dyn SigningKey> {
        self.signing.clone()
    }
}

/// The secret in a key file; none where there is none. `advice` says what to do where others may read it.
pub(super) fn read_secret(path: &Path, advice: &str) -> Result<Option<[u8; 32]>, KeyError> {
    let failed =
        |error: io::Error| KeyError::new(path, &format!("cannot read the secret key: {error}"));
    let refused = |text: &str| Err(KeyError::new(path, text));
    let file = match open_plain(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed)?,
    };
    let about = file.metadata().map_err(failed)?;
    if !about.is_file() || about.uid() != rustix::process::geteuid().as_raw() {
        return refused("is not a file that belongs to whoever runs psync");
    }
    if about.mode() & 0o077 != 0 {
        return refused(&format!("other users of this machine can read the secret key; {advice}"));
    }
    let mut text = String::new();
    file.take(FILE_MAX).read_to_string(&mut text).map_err(failed)?;
    match text.trim_end().strip_prefix(SECRET_KIND).and_then(bytes_of_hex).map(<[u8; 32]>::try_from)
    {
        Some(Ok(secret)) => Ok(Some(secret)),
        Some(Err(_)) | None => refused("does not hold a key that psync has made"),
    }
}

/// Puts a secret into a key file, in the place of any other; all of it is there, or nothing.
pub(super) fn replace_secret(directory: &Path, name: &str, secret: &[u8; 32]) -> io::Result<()> {
    let beside = directory.join(format!("{name}.new"));
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    write_secret(&beside, secret)?;
    fs::rename(&beside, directory.join(name))?;
    File::open(directory)?.sync_all()
}

fn write_secret(path: &Path, secret: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{SECRET_KIND}{}", hex(secret))?;
    file.sync_all()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn open_plain(path: &Path) -> io::Result<File> {
    // A pipe in its place should not make anybody wait.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)
}

/// Writes a new key beside its place and links it there: whoever finds the file finds all of it, and
/// of two that make one at the same time the first one counts.
fn create(directory: &Path, path: &Path, random: fn(&mut [u8])) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mut bytes = [0; 40];
    random(&mut bytes);
    let (secret, name) = bytes.split_at(32);
    let beside = directory.join(format!("{KEY_FILE}.{}", hex(name)));
    let linked = write_secret(&beside, secret).and_then(|()| match fs::hard_link(&beside, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    });
    fs::remove_file(&beside)?;
    linked
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("psync-key-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        folder
    }

    fn count_up(bytes: &mut [u8]) {
        bytes.iter_mut().zip(1..).for_each(|(byte, n)| *byte = n);
    }

    #[test]
    fn the_public_key_of_a_secret_is_that_of_rfc_8032() {
        let secret = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let public = "ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        let secret = bytes_of_hex(secret).unwrap().try_into().unwrap();
        let key = MachineKey::from_secret(&secret).unwrap();
        assert_eq!(key.public().to_string(), public);
        assert_eq!(public.parse(), Ok(key.public()));
        assert_eq!(PublicKey::from_spki(&key.public().to_spki()), Some(key.public()));
    }

    #[test]
    fn a_key_is_made_once_and_nobody_else_may_read_it() {
        let folder = folder("made").join("deep");
        let key = MachineKey::open(&folder, count_up).unwrap();
        let again = MachineKey::open(&folder, |_| panic!("a second key")).unwrap();
        assert_eq!(key.public(), again.public());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        let path = folder.join(KEY_FILE);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = MachineKey::open(&folder, count_up).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
        fs::remove_dir_all(folder.parent().unwrap()).unwrap();
    }

    #[test]
    fn what_is_no_key_is_refused_and_stays() {
        let folder = folder("wrong");
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(KEY_FILE);
        fs::write(&path, "psync-secret-ed25519:12\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(MachineKey::open(&folder, count_up).is_err());
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(MachineKey::open(&folder, count_up).is_err());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn other_texts_are_no_public_keys() {
        for text in [
            "",
            "ed25519:",
            "ed25519:12",
            "rsa:00",
            &"0".repeat(64),
            &format!("ed25519:{}", "é".repeat(32)),
        ] {
            assert!(text.parse::<PublicKey>().is_err(), "{text}");
        }
    }
}
