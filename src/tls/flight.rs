//! What a device must be able to receive before it knows whom it is talking to (threats.md T6).
//!
//! Measured, not reckoned: a handshake with the listener's own configuration, in memory, by a device that takes whatever certificate
//! it is shown.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::SupportedKxGroup;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, ServerConnection,
    SignatureScheme, SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::der::{self, Front};
use super::server::ServerTls;

/// What comes from the gate between a device's ClientHello and its answer, in one full handshake.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Flight {
    /// `1.2` or `1.3`
    pub version: &'static str,
    /// For the metric and for sentences: the name of the certificate that was shown.
    pub name: String,
    /// The kind and size of its key: `EC 256`, `RSA 2048`.
    pub key: String,
    /// The bits of an RSA key; 0 for another kind.
    pub rsa_bits: usize,
    /// How many certificates are shown.
    pub certificates: usize,
    /// The size of the last one, in bytes, if it is a root that follows those it stands for: nobody needs to be shown it.
    pub root: Option<usize>,
    /// Everything that comes, record headers included, in bytes. An ECDSA signature has a few more or less by chance.
    pub bytes: usize,
    /// In so many records.
    pub records: usize,
    /// The longest of these: of plaintext, in bytes.
    pub largest_record: usize,
    /// The Certificate message, in bytes: the longest of the handshake.
    pub largest_message: usize,
    /// So many bytes more, if the device offers X25519MLKEM768; 0 in TLS 1.2.
    pub more_by_ml_kem: usize,
}

/// The kinds of devices, by what signatures they can check.
const KINDS: [&[SignatureScheme]; 3] = [
    &[
        SignatureScheme::ECDSA_NISTP256_SHA256,
        SignatureScheme::ECDSA_NISTP384_SHA384,
        SignatureScheme::ECDSA_NISTP521_SHA512,
    ],
    &[
        SignatureScheme::RSA_PSS_SHA256,
        SignatureScheme::RSA_PKCS1_SHA256,
    ],
    &[SignatureScheme::ED25519],
];

/// What a device asks for that asks for no name of ours.
const UNKNOWN: &str = "none.invalid";

/// The flights of a listener: of each version that it takes, and of each certificate that some device would be shown.
pub fn measure(tls: &ServerTls) -> Vec<Flight> {
    let mut names = tls.one_name_each();
    names.push(UNKNOWN.to_owned());
    let mut flights: Vec<Flight> = Vec::new();
    let mut leaves: Vec<(&str, CertificateDer<'static>)> = Vec::new();
    for version in [&TLS12, &TLS13] {
        for name in &names {
            for schemes in KINDS {
                let device = Device::new(schemes, &[kx_group::X25519], version);
                let Some(called) = device.calls(tls, name) else {
                    continue; // no device of this kind is served
                };
                let Called {
                    flight,
                    leaf,
                    hello,
                } = called;
                if leaves.contains(&(flight.version, leaf.clone())) {
                    continue;
                }
                leaves.push((flight.version, leaf));
                let more_by_ml_kem = more_by_ml_kem(tls, name, schemes, version, hello);
                flights.push(Flight {
                    more_by_ml_kem,
                    ..flight
                });
            }
        }
    }
    flights
}

/// For each certificate that can be read: its subject, and when it ends, in seconds since 1970.
pub fn ends(chain: &[CertificateDer<'_>]) -> Vec<(String, i64)> {
    let read = chain.iter().filter_map(|one| Front::read(one).ok());
    read.map(|front| (der::name_text(front.subject), front.not_after))
        .collect()
}

fn more_by_ml_kem(
    tls: &ServerTls,
    name: &str,
    schemes: &'static [SignatureScheme],
    version: &'static SupportedProtocolVersion,
    without: usize,
) -> usize {
    if version == &TLS12 {
        return 0;
    }
    let device = Device::new(schemes, &[kx_group::X25519MLKEM768], version);
    let with = device.calls(tls, name);
    with.map_or(0, |called| called.hello.saturating_sub(without))
}

/// What a device was answered.
struct Called {
    flight: Flight,
    /// The certificate that it was shown.
    leaf: CertificateDer<'static>,
    /// What comes in the clear, in bytes: in TLS 1.3 the ServerHello, in which no length is up to chance.
    hello: usize,
}

/// A device that exists in memory only.
struct Device {
    config: Arc<ClientConfig>,
    version: &'static SupportedProtocolVersion,
}

impl Device {
    fn new(
        schemes: &'static [SignatureScheme],
        groups: &[&'static dyn SupportedKxGroup],
        version: &'static SupportedProtocolVersion,
    ) -> Self {
        let mut provider = default_provider();
        provider.kx_groups = groups.to_vec();
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[version])
            .expect("the provider has suites for TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Gullible(schemes)))
            .with_no_client_auth();
        Self {
            config: Arc::new(config),
            version,
        }
    }

    /// Calls the server `name`; `None`: it is not served.
    fn calls(&self, tls: &ServerTls, name: &str) -> Option<Called> {
        let name = ServerName::try_from(name.to_owned()).ok()?;
        let mut client = ClientConnection::new(self.config.clone(), name).ok()?;
        let none = None::<std::iter::Empty<&[u8]>>;
        let mut server = ServerConnection::new(tls.config_for(none, false).clone()).ok()?;
        let mut hello = Vec::new();
        client.write_tls(&mut hello).ok()?;
        server.read_tls(&mut hello.as_slice()).ok()?;
        server.process_new_packets().ok()?;
        let mut answer = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut answer).ok()?;
        }
        let mut left = answer.as_slice();
        while !left.is_empty() {
            client.read_tls(&mut left).ok()?;
            client.process_new_packets().ok()?;
        }
        let chain = client.peer_certificates()?;
        Some(Called {
            flight: told(self.version, chain, &answer)?,
            leaf: chain.first()?.clone().into_owned(),
            hello: records(&answer)
                .take_while(Record::is_clear)
                .map(|record| record.whole)
                .sum(),
        })
    }
}

fn told(
    version: &'static SupportedProtocolVersion,
    chain: &[CertificateDer<'_>],
    answer: &[u8],
) -> Option<Flight> {
    let (key, rsa_bits) = key(chain.first()?);
    let is_13 = version == &TLS13;
    Some(Flight {
        version: if is_13 { "1.3" } else { "1.2" },
        name: name(chain.first()?),
        key,
        rsa_bits,
        certificates: chain.len(),
        root: root(chain),
        bytes: answer.len(),
        records: records(answer).count(),
        largest_record: records(answer).map(|record| record.plain).max()?,
        largest_message: certificate_message(chain, is_13),
        more_by_ml_kem: 0,
    })
}

/// One record (RFC 8446 §5.1, §5.2).
struct Record {
    kind: u8,
    /// On the wire, in bytes, its header of five included.
    whole: usize,
    /// Of plaintext, in bytes: encryption adds a tag of 16, and one for what it is.
    plain: usize,
}

impl Record {
    const HANDSHAKE: u8 = 22;
    const ENCRYPTED: u8 = 23;

    fn is_clear(&self) -> bool {
        self.kind == Self::HANDSHAKE
    }
}

fn records(mut bytes: &[u8]) -> impl Iterator<Item = Record> {
    std::iter::from_fn(move || {
        let [kind, _, _, high, low, rest @ ..] = bytes else {
            return None;
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        bytes = rest.get(length..).unwrap_or_default();
        Some(Record {
            kind: *kind,
            whole: 5 + length,
            plain: if *kind == Record::ENCRYPTED {
                length.saturating_sub(17)
            } else {
                length
            },
        })
    })
}

/// The bytes of a Certificate message with this chain, its header of four included (RFC 5246 §7.4.2, RFC 8446 §4.4.2).
fn certificate_message(chain: &[CertificateDer<'_>], is_13: bool) -> usize {
    let (once, each) = if is_13 { (1 + 3, 3 + 2) } else { (3, 3) };
    4 + once + chain.iter().map(|one| one.len() + each).sum::<usize>()
}

/// The size of the last certificate, if it issued itself and others stand before it.
fn root(chain: &[CertificateDer<'_>]) -> Option<usize> {
    let last = chain.last().filter(|_| chain.len() > 1)?;
    let front = Front::read(last).ok()?;
    (front.issuer == front.subject).then_some(last.len())
}

fn name(leaf: &CertificateDer<'_>) -> String {
    let Ok((_, read)) = X509Certificate::from_der(leaf) else {
        return String::new();
    };
    let names = read.subject_alternative_name().ok().flatten();
    let dns = names.and_then(|names| {
        names
            .value
            .general_names
            .iter()
            .find_map(|name| match name {
                x509_parser::extensions::GeneralName::DNSName(dns) => Some((*dns).to_owned()),
                _ => None,
            })
    });
    dns.unwrap_or_else(|| read.subject().to_string())
}

fn key(leaf: &CertificateDer<'_>) -> (String, usize) {
    let Ok((_, read)) = X509Certificate::from_der(leaf) else {
        return (String::new(), 0);
    };
    match read.public_key().parsed() {
        Ok(PublicKey::RSA(rsa)) => (format!("RSA {}", rsa.key_size()), rsa.key_size()),
        Ok(PublicKey::EC(point)) => (format!("EC {}", point.key_size().min(521)), 0),
        _ => ("Ed25519".into(), 0),
    }
}

/// Takes whatever certificate it is shown: what is measured is how long it is, not whether it is good.
#[derive(Debug)]
struct Gullible(&'static [SignatureScheme]);

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.to_vec()
    }
}
