//! A line over TCP: TLS 1.3 between two machines that know each other by their Ed25519 keys.
//!
//! Raw public keys (RFC 7250) take the place of certificates: there is nothing to expire, to parse or
//! to trust but the key. No resumption, no 0-RTT, no name in the clear.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, Connection,
    DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, ServerConfig,
    ServerConnection, SignatureScheme,
};
use thiserror::Error as ThisError;

use crate::identity::{MachineKey, PublicKey};

/// What is spoken inside (ALPN).
const ALPN: &[u8] = b"psync/1";
/// The same where two machines get to know each other.
const PAIRING: &[u8] = b"psync-pair/1";

/// Says whether a key may be at the other end. It is asked before that end has proved that it has
/// the key; without that proof there is no line.
pub type Judge = Arc<dyn Fn(&PublicKey) -> bool + Send + Sync>;

/// No line came of a connection, or it broke.
#[derive(Debug, ThisError)]
pub enum TlsError {
    /// The judge does not want this key.
    #[error("its key is not the one that is wanted: {0}")]
    Unwanted(PublicKey),
    /// The other end does not want our key.
    #[error("it does not know this machine, or lets it in no longer")]
    Refused,
    /// What answers does not speak psync.
    #[error("it does not speak psync over TLS 1.3 ({0})")]
    Foreign(Error),
    /// Nothing has come for too long, not even a sign of life.
    #[error("nothing came for {} seconds", .0.as_secs())]
    Silent(Duration),
    /// It takes nothing of what it is sent, though it gives signs of life.
    #[error("it has taken nothing for {} seconds", .0.as_secs())]
    Stalled(Duration),
    /// It takes too long.
    #[error("it did not say who it is within {} seconds", .0.as_secs())]
    TooSlow(Duration),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
}

/// The label under which both ends derive what binds a session to their connection.
const EXPORTER: &[u8] = b"EXPORTER-psync-1";

/// Both ends are known to each other, and everything between them is theirs alone.
pub struct Secured {
    pub(super) connection: Connection,
    pub(super) stream: TcpStream,
    peer: PublicKey,
    exporter: [u8; 32],
}

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secured").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Secured {
    /// Who is at the other end.
    pub fn peer(&self) -> PublicKey {
        self.peer
    }

    /// What both ends derive from this connection, and nobody else can (RFC 8446, 7.5).
    pub fn exporter(&self) -> [u8; 32] {
        self.exporter
    }

    /// As the end that has connected. The key of the other end goes past the judge.
    pub fn connect(
        stream: TcpStream,
        key: &MachineKey,
        judge: Judge,
        within: Duration,
    ) -> Result<Secured, TlsError> {
        Secured::connect_speaking(vec![ALPN.to_vec()], ALPN, stream, key, judge, within)
    }

    /// As the end that has connected to one that it does not know yet, to pair with it.
    pub fn connect_to_pair(
        stream: TcpStream,
        key: &MachineKey,
        judge: Judge,
        within: Duration,
    ) -> Result<Secured, TlsError> {
        Secured::connect_speaking(vec![PAIRING.to_vec()], PAIRING, stream, key, judge, within)
    }

    fn connect_speaking(
        protocols: Vec<Vec<u8>>,
        wanted: &[u8],
        stream: TcpStream,
        key: &MachineKey,
        judge: Judge,
        within: Duration,
    ) -> Result<Secured, TlsError> {
        let judge = Arc::new(Verifier::new(judge));
        let certified = certified(key);
        let mut config = ClientConfig::builder_with_provider(judge.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(TlsError::Foreign)?
            .dangerous()
            .with_custom_certificate_verifier(judge)
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(certified)));
        config.alpn_protocols = protocols;
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        // Names say nothing here: the key does.
        let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into());
        let connection =
            ClientConnection::new(Arc::new(config), name).map_err(TlsError::Foreign)?;
        shake_hands(connection.into(), wanted, stream, within)
    }

    /// As the end that was connected to. The key of the other end goes past the judge.
    pub fn accept(
        stream: TcpStream,
        key: &MachineKey,
        judge: Judge,
        within: Duration,
    ) -> Result<Secured, TlsError> {
        Secured::accept_speaking(ALPN, stream, key, judge, within)
    }

    /// As the end that was connected to, to pair with one that it does not know yet.
    pub fn accept_to_pair(
        stream: TcpStream,
        key: &MachineKey,
        judge: Judge,
        within: Duration,
    ) -> Result<Secured, TlsError> {
        Secured::accept_speaking(PAIRING, stream, key, judge, within)
    }

    fn accept_speaking(
        wanted: &[u8],
        stream: TcpStream,
        key: &MachineKey,
        judge: Judge,
        within: Duration,
    ) -> Result<Secured, TlsError> {
        let judge = Arc::new(Verifier::new(judge));
        let certified = certified(key);
        let mut config = ServerConfig::builder_with_provider(judge.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(TlsError::Foreign)?
            .with_client_cert_verifier(judge)
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified)));
        config.alpn_protocols = vec![wanted.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let connection = ServerConnection::new(Arc::new(config)).map_err(TlsError::Foreign)?;
        shake_hands(connection.into(), wanted, stream, within)
    }
}

fn certified(key: &MachineKey) -> Arc<CertifiedKey> {
    let spki = CertificateDer::from(key.public().to_spki());
    Arc::new(CertifiedKey::new(vec![spki], key.signing()))
}

fn shake_hands(
    mut connection: Connection,
    wanted: &[u8],
    mut stream: TcpStream,
    within: Duration,
) -> Result<Secured, TlsError> {
    let deadline = Instant::now() + within;
    stream.set_nodelay(true)?;
    let shaken = steps(&mut connection, &mut stream, deadline).and_then(|()| {
        // A peer that names no protocol gets no further than one that names another.
        match connection.alpn_protocol() {
            Some(spoken) if spoken == wanted => Ok(()),
            Some(_) | None => Err(TlsError::Foreign(Error::NoApplicationProtocol)),
        }
    });
    if let Err(error) = shaken {
        say_goodbye(&mut connection, &mut stream);
        return Err(match error {
            TlsError::Io(error) if is_timeout(&error) => TlsError::TooSlow(within),
            error => error,
        });
    }
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    let spki = connection.peer_certificates().and_then(|keys| keys.first());
    let peer = spki.and_then(|spki| PublicKey::from_spki(spki));
    let peer = peer.ok_or(TlsError::Foreign(Error::NoCertificatesPresented))?;
    let exporter = connection.export_keying_material([0; 32], EXPORTER, None);
    let exporter = exporter.map_err(TlsError::Foreign)?;
    Ok(Secured { connection, stream, peer, exporter })
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The handshake as far as it concerns this end. However little comes at a time, it ends in time.
fn steps(
    connection: &mut Connection,
    stream: &mut TcpStream,
    deadline: Instant,
) -> Result<(), TlsError> {
    while connection.is_handshaking() || connection.wants_write() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
        stream.set_read_timeout(Some(left))?;
        stream.set_write_timeout(Some(left))?;
        if connection.wants_write() {
            connection.write_tls(stream)?;
            continue;
        }
        if connection.read_tls(stream)? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        connection.process_new_packets().map_err(TlsError::from_rustls)?;
    }
    Ok(())
}

/// Lets an alert leave, and the other end read it: whoever closes a socket with bytes unread takes
/// back what was written.
fn say_goodbye(connection: &mut Connection, stream: &mut TcpStream) {
    let patience = Duration::from_millis(500);
    let deadline = Instant::now() + patience;
    let _ = stream.set_write_timeout(Some(patience));
    while connection.wants_write() && connection.write_tls(stream).is_ok() {}
    let _ = stream.flush().and_then(|()| stream.shutdown(Shutdown::Write));
    let mut rest = [0; 4096];
    while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|d| !d.is_zero())
    {
        let _ = stream.set_read_timeout(Some(left));
        if !matches!(stream.read(&mut rest), Ok(1..)) {
            break;
        }
    }
}

impl TlsError {
    /// What an error of the library means here.
    pub(super) fn from_rustls(error: Error) -> TlsError {
        match error {
            Error::InvalidCertificate(CertificateError::Other(other)) => {
                match other.0.downcast_ref::<Unwanted>() {
                    Some(Unwanted(key)) => TlsError::Unwanted(*key),
                    None => {
                        TlsError::Foreign(Error::InvalidCertificate(CertificateError::Other(other)))
                    }
                }
            }
            Error::AlertReceived(
                AlertDescription::AccessDenied
                | AlertDescription::CertificateUnknown
                | AlertDescription::BadCertificate,
            ) => TlsError::Refused,
            other => TlsError::Foreign(other),
        }
    }
}

/// A key that the judge did not want.
#[derive(Debug)]
struct Unwanted(PublicKey);

impl fmt::Display for Unwanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the key is not wanted: {}", self.0)
    }
}

impl std::error::Error for Unwanted {}

/// Trusts keys that the judge wants, and nothing else.
struct Verifier {
    provider: Arc<CryptoProvider>,
    judge: Judge,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

impl Verifier {
    fn new(judge: Judge) -> Verifier {
        Verifier { provider: Arc::new(ring::default_provider()), judge }
    }

    fn judge(&self, key: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), Error> {
        let parsed = PublicKey::from_spki(key).filter(|_| others.is_empty());
        let parsed = parsed.ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        if (self.judge)(&parsed) {
            return Ok(());
        }
        let unwanted = rustls::OtherError(Arc::new(Unwanted(parsed)));
        Err(Error::InvalidCertificate(CertificateError::Other(unwanted)))
    }

    fn verify(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let spki = SubjectPublicKeyInfoDer::from(key.as_ref());
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &spki, signed, algorithms)
    }
}

fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(PeerIncompatible::ServerDoesNotSupportTls12Or13.into())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(key, others).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(message, key, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(key, others).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(message, key, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn who_wants_to_speak_another_protocol_or_names_none_gets_no_line() {
        for protocols in [vec![b"h2".to_vec()], vec![PAIRING.to_vec()], Vec::new()] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let key = |byte| MachineKey::from_secret(&[byte; 32]).unwrap();
            let limit = Duration::from_secs(10);
            let server = thread::spawn(move || {
                let stream = listener.accept().unwrap().0;
                Secured::accept(stream, &key(2), Arc::new(|_| true), limit).map(|_| ())
            });
            let judge: Judge = Arc::new(|_| true);
            let client =
                Secured::connect_speaking(protocols.clone(), ALPN, stream, &key(1), judge, limit);
            assert!(client.is_err(), "{protocols:?}");
            let refused = server.join().unwrap();
            assert!(
                matches!(refused, Err(TlsError::Foreign(Error::NoApplicationProtocol))),
                "{protocols:?}: {refused:?}"
            );
        }
    }
}
