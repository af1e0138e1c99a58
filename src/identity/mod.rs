//! Who is who: this machine's key, the keys of machines that it has met, and who may do what here.
//! The files are parsed and asked as values; only `key` and `book` touch a disk.

mod authorized;
mod book;
mod key;
mod known;
mod lines;
pub mod pairing;
mod replica;
mod words;

pub use authorized::{Admitted, AuthorizedPeers, NotAdmitted, is_module_name};
pub use book::{BookError, Terms, Written, check_peer, check_place, write_peer, write_place};
pub use key::{KeyError, MachineKey, PublicKey};
pub use known::{KnownPeers, Recognised};
pub use lines::LineError;
pub use replica::ReplicaKey;
pub use words::Fingerprint;

/// The file of this machine's key, in the directory of a person's configuration.
pub const KEY_FILE: &str = "id_ed25519";
/// The file of a replica's key, in its state directory.
pub const REPLICA_FILE: &str = "replica.key";
/// The file of servers and their keys, beside it.
pub const KNOWN_FILE: &str = "known_peers";
/// The file of who may do what, beside it.
pub const AUTHORIZED_FILE: &str = "authorized_peers";
