//! What a run is to do.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::ServerName;

use crate::mqtt::Version;
use crate::pki::KeyKind;

/// What every run has.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the load goes.
    pub target: Target,
    /// How TLS is spoken.
    pub tls: Tls,
    /// Who calls.
    pub devices: Devices,
    /// Threads that make load; at least 1.
    pub threads: usize,
    /// The local addresses that calls come from, in turn; empty: the system chooses.
    pub sources: Vec<IpAddr>,
    /// The processes of the server; their children count with them.
    pub pids: Vec<u32>,
    /// How long any attempt may take before it counts as failed.
    pub timeout: Duration,
    /// When all is prepared, wait for a line on standard input.
    pub begin_on_line: bool,
}

/// Where the load goes.
#[derive(Clone, Debug)]
pub struct Target {
    /// As the operator wrote it.
    pub shown: String,
    /// Where that is.
    pub address: SocketAddr,
    /// The name that the server's certificate must have, and that is sent as SNI.
    pub name: ServerName<'static>,
}

/// How TLS is spoken.
#[derive(Clone, Debug)]
pub struct Tls {
    /// There is none: MQTT goes over TCP as it is, and of the rest nothing counts.
    pub plain: bool,
    /// The CAs that the server's certificate is judged by; `None`: it is not judged.
    pub ca: Option<PathBuf>,
    /// The only version offered; `None`: both.
    pub version: Option<TlsVersion>,
    /// The key exchange offered, and no other; but X25519, unless TLS 1.3 is the only `version`, names P-256 and P-384
    /// too: in TLS 1.2 the list says as well on which curves a certificate may be (RFC 8422 §5.1).
    pub key_exchange: KeyExchange,
    /// The only cipher offered; `None`: all, AES-256 first.
    pub cipher: Option<Cipher>,
    /// The only kind of signature that the server may use; `None`: any.
    pub signature: Option<Signature>,
    /// Which part of the handshakes resume an earlier TLS session: 0.0 to 1.0.
    pub resume: f64,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TlsVersion {
    /// TLS 1.2
    V12,
    /// TLS 1.3
    V13,
}

/// How the secret of a TLS session is agreed on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum KeyExchange {
    /// Curve25519
    #[default]
    X25519,
    /// NIST P-256
    P256,
    /// NIST P-384
    P384,
    /// Curve25519 and ML-KEM-768 together; TLS 1.3 only
    X25519MlKem768,
}

/// What encrypts, and the hash that goes with it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cipher {
    /// AES-128-GCM with SHA-256
    Aes128,
    /// AES-256-GCM with SHA-384
    Aes256,
    /// ChaCha20-Poly1305 with SHA-256
    ChaCha20,
}

/// What a server signs the handshake with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Signature {
    /// ECDSA over P-256, P-384 or P-521
    Ecdsa,
    /// RSA, PSS and PKCS #1
    Rsa,
    /// Ed25519
    Ed25519,
}

/// Who calls.
#[derive(Clone, Debug)]
pub struct Devices {
    /// How many: 1 to [`MOST_DEVICES`]; `None`: [`USUAL_DEVICES`], or all of the folder.
    pub count: Option<usize>,
    /// What they show.
    pub certificates: Certificates,
    /// The username in CONNECT, `{device}` in it being the device's name; `None`: none.
    pub username: Option<String>,
    /// The password in CONNECT; `None`: none.
    pub password: Option<Vec<u8>>,
    /// The version of MQTT that they speak.
    pub mqtt: Version,
}

/// More devices are not made: their keys are held in memory.
pub const MOST_DEVICES: usize = 100_000;

/// How many devices there are when nobody says.
pub const USUAL_DEVICES: usize = 1000;

/// What devices show to the server.
#[derive(Clone, Debug)]
pub enum Certificates {
    /// Nothing: only the server has a certificate.
    None,
    /// Certificates made now, signed by the CA in that folder.
    Made {
        /// The folder, as `tidegate ca init` made it.
        ca: PathBuf,
        /// The kind of each key.
        key: KeyKind,
    },
    /// The pairs `ID.pem` and `ID.key` of a folder.
    Folder(PathBuf),
}

/// When attempts are begun.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// Closed loop: so many at once, and the next as soon as one is done.
    Closed(usize),
    /// Open loop: by schedule, whatever the server does.
    Open(Rate),
}

/// Attempts per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// At the beginning; not below 0.
    pub from: f64,
    /// At the end; above 0. The same as `from` unless it is a ramp.
    pub to: f64,
}

/// A part of a run in open loop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Phase {
    /// How many attempts are begun; here it may be 0 to the end: a pause.
    pub rate: Rate,
    /// How long it lasts.
    pub time: Duration,
}

/// When no more attempts are begun.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Until {
    /// After so long.
    Time(Duration),
    /// After so many.
    Count(u64),
}
