//! For the tests of this room: CAs, certificates and lists made on the spot, and a handshake in memory.

#![allow(clippy::unwrap_used)] // a test that panics has failed

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber, SignatureAlgorithm, SigningKey,
};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind,
    ServerConfig, ServerConnection, SignatureScheme,
};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};

use super::der;
use super::server::{self, MinVersion, Resumption, ServerTls};
use super::trust::{CrlStale, Groups, Settings};
use super::verify::algorithms;
use super::witness::{Seen, witness};
use crate::rules::device::Alphabet;
use crate::rules::identity::{Field, Naming};

/// The moment that the certificates of the tests are made around: 2026-01-01.
pub(crate) const NOW: i64 = 1_767_225_600;

pub(crate) fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(NOW).expect("in range")
}

pub(crate) fn unix(seconds: i64) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(
        u64::try_from(seconds).expect("after 1970"),
    ))
}

pub(crate) fn days(count: i64) -> Duration {
    Duration::days(count)
}

/// A certificate with its key.
pub(crate) struct Made {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) pem: String,
    pub(crate) params: CertificateParams,
    pub(crate) key: KeyPair,
}

impl Made {
    pub(crate) fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    /// Issues with the parameters as `change` leaves them.
    pub(crate) fn issues(
        &self,
        params: CertificateParams,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Made {
        self.issues_for(KeyPair::generate().unwrap(), params, change)
    }

    pub(crate) fn issues_for(
        &self,
        key: KeyPair,
        mut params: CertificateParams,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Made {
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer()).unwrap();
        made(&certificate, params, key)
    }

    pub(crate) fn device(&self, name: &str) -> Made {
        self.issues(device(name), |_| ())
    }

    pub(crate) fn device_with(&self, name: &str, alg: &'static SignatureAlgorithm) -> Made {
        self.issues_for(KeyPair::generate_for(alg).unwrap(), device(name), |_| ())
    }

    pub(crate) fn sub_ca(&self, name: &str) -> Made {
        self.issues(ca(name), |_| ())
    }

    pub(crate) fn crl(&self, revoked: &[&Made]) -> CertificateRevocationListParams {
        let _ = self;
        CertificateRevocationListParams {
            this_update: now() - days(1),
            next_update: now() + days(7),
            crl_number: SerialNumber::from(7_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(|made| entry(made)).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        }
    }

    pub(crate) fn crl_pem(&self, revoked: &[&Made]) -> String {
        let crl = self.crl(revoked).signed_by(&self.issuer()).unwrap();
        crl.pem().unwrap()
    }
}

fn entry(made: &Made) -> RevokedCertParams {
    RevokedCertParams {
        serial_number: made.params.serial_number.clone().unwrap(),
        revocation_time: now() - days(2),
        reason_code: None,
        invalidity_date: None,
    }
}

fn made(certificate: &rcgen::Certificate, params: CertificateParams, key: KeyPair) -> Made {
    Made {
        der: certificate.der().clone(),
        pem: certificate.pem(),
        params,
        key,
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = now() - days(10);
    params.not_after = now() + days(365);
    let serial: [u8; 12] = std::array::from_fn(|_| fastrand::u8(1..0x7f));
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

pub(crate) fn ca(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

pub(crate) fn device(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

pub(crate) fn server(names: &[&str]) -> CertificateParams {
    let mut params = named("server");
    params.subject_alt_names =
        CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())
            .unwrap()
            .subject_alt_names;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

pub(crate) fn root(name: &str) -> Made {
    self_signed(ca(name), KeyPair::generate().unwrap())
}

pub(crate) fn self_signed(params: CertificateParams, key: KeyPair) -> Made {
    let certificate = params.self_signed(&key).unwrap();
    made(&certificate, params, key)
}

/// An element of DER.
pub(crate) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match u8::try_from(content.len()) {
        Ok(short @ 0..0x80) => out.push(short),
        Ok(length) => out.extend([0x81, length]),
        Err(_) => {
            out.push(0x82);
            out.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
        }
    }
    out.extend_from_slice(content);
    out
}

/// The content of the AlgorithmIdentifier that the tests' CAs sign with.
pub(crate) const ECDSA_SHA256: &[u8] = &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

/// What is signed, with the algorithm and `ca`'s signature.
pub(crate) fn signed(body: &[u8], ca: &KeyPair) -> Vec<u8> {
    let mut signature = vec![0];
    signature.extend(ca.sign(body).unwrap());
    let algorithm = tlv(der::SEQUENCE, ECDSA_SHA256);
    let signature = tlv(der::BIT_STRING, &signature);
    tlv(der::SEQUENCE, &[body, &algorithm, &signature].concat())
}

/// The certificate as version 1 would have it: without a version and without extensions.
pub(crate) fn version_1(made: &Made, ca: &KeyPair) -> CertificateDer<'static> {
    let mut parts = der::Reader::new(der::Signed::read(&made.der).unwrap().body);
    parts.optional(0xa0).unwrap();
    let six: Vec<u8> = (0..6)
        .flat_map(|_| parts.any().unwrap().whole.to_vec())
        .collect();
    signed(&tlv(der::SEQUENCE, &six), ca).into()
}

/// A folder of files that goes away with it.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// A group named `name` from PEM texts.
    pub(crate) fn group(
        &self,
        name: &str,
        ca: &[&Made],
        intermediates: &[&Made],
        crl: &[String],
    ) -> Settings {
        let pem = |made: &[&Made]| {
            made.iter()
                .map(|made| made.pem.as_str())
                .collect::<String>()
        };
        let files = |what: &str, made: &[&Made]| match made {
            [] => Vec::new(),
            _ => vec![self.file(&format!("{name}-{what}.pem"), pem(made))],
        };
        Settings {
            name: name.into(),
            ca: files("ca", ca),
            intermediates: files("intermediates", intermediates),
            crl: (0..)
                .zip(crl)
                .map(|(n, text)| self.file(&format!("{name}-{n}.crl"), text))
                .collect(),
            crl_stale: CrlStale::Refuse,
            naming: Naming {
                field: Field::SubjectCn,
                pattern: None,
                alphabet: Alphabet::default(),
            },
        }
    }
}

/// A listener's one group.
pub(crate) fn group(ca: &[&Made], intermediates: &[&Made], crl: &[String]) -> Groups {
    let folder = Folder::new();
    Groups::load(&[&folder.group("fleet", ca, intermediates, crl)]).unwrap()
}

/// A listener's TLS that asks for no certificate, and shows one for `gate.example.net` with that kind of key.
pub(crate) fn server_tls(kind: &'static SignatureAlgorithm) -> ServerTls {
    server_tls_resuming(kind, Resumption::Off)
}

/// The same, which may give tickets.
pub(crate) fn server_tls_resuming(
    kind: &'static SignatureAlgorithm,
    resumption: Resumption,
) -> ServerTls {
    let key = KeyPair::generate_for(kind).unwrap();
    let made = root("Server CA").issues_for(key, server(&["gate.example.net"]), |_| ());
    let folder = Folder::new();
    let settings = server::Settings {
        certificate: folder.file("server.pem", &made.pem),
        key: folder.file("server.key", made.key.serialize_pem()),
        min_version: MinVersion::Tls12,
        max_record: None,
        alpn: vec![],
        also: vec![],
        resumption,
    };
    ServerTls::load("devices", &settings, None).unwrap()
}

/// What a handshake in memory came to.
pub(crate) struct Outcome {
    pub(crate) seen: Seen,
    /// The alert that the device was sent.
    pub(crate) alert: Option<AlertDescription>,
    pub(crate) server: Result<(), rustls::Error>,
    /// The server's certificate, as the device saw it.
    pub(crate) shown: Option<CertificateDer<'static>>,
    /// The device's chain, as the server has it.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) device: ClientConnection,
}

impl Outcome {
    pub(crate) fn is_resumed(&self) -> bool {
        assert_eq!(self.server, Ok(()));
        self.device.handshake_kind() == Some(HandshakeKind::Resumed)
    }
}

/// A clock that is set by hand; it stands at [`NOW`].
#[derive(Debug)]
pub(crate) struct Clock(AtomicI64);

impl Clock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(NOW)))
    }

    pub(crate) fn now(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, now: i64) {
        self.0.store(now, Ordering::Relaxed);
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix(self.now()))
    }
}

/// Shows a certificate with a key, whether they fit or not, and whether rustls can read it or not.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The side of a device that shows whatever it is told to.
pub(crate) fn showing(
    chain: Vec<CertificateDer<'static>>,
    key: &KeyPair,
    version: &'static rustls::SupportedProtocolVersion,
) -> ClientConfig {
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
    let mut config = device_config(None, version, None);
    config.client_auth_cert_resolver = Arc::new(Shows(Arc::new(CertifiedKey::new(chain, key))));
    config
}

/// A device that takes any server.
#[derive(Debug)]
struct Trusting(Vec<SignatureScheme>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms())
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

/// A device's side: its chain and key, the TLS version, and the signatures it can check.
pub(crate) fn device_config(
    chain: Option<(Vec<CertificateDer<'static>>, &KeyPair)>,
    version: &'static rustls::SupportedProtocolVersion,
    schemes: Option<Vec<SignatureScheme>>,
) -> ClientConfig {
    device_config_by(default_provider(), chain, version, schemes)
}

/// The same, with these suites and key exchanges.
pub(crate) fn device_config_by(
    provider: CryptoProvider,
    chain: Option<(Vec<CertificateDer<'static>>, &KeyPair)>,
    version: &'static rustls::SupportedProtocolVersion,
    schemes: Option<Vec<SignatureScheme>>,
) -> ClientConfig {
    let provider = Arc::new(provider);
    let schemes = schemes.unwrap_or_else(|| algorithms().supported_schemes());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting(schemes)));
    match chain {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let key = PrivatePkcs8KeyDer::from(key.serialize_der());
            builder.with_client_auth_cert(chain, key.into()).unwrap()
        }
    }
}

/// Runs a handshake to its end or failure, at [`NOW`].
pub(crate) fn handshake(server: &Arc<ServerConfig>, device: ClientConfig, name: &str) -> Outcome {
    handshake_at(&Clock::new(), server, device, name)
}

/// The same by a clock of the test's own.
pub(crate) fn handshake_at(
    clock: &Arc<Clock>,
    server: &Arc<ServerConfig>,
    device: ClientConfig,
    name: &str,
) -> Outcome {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut device = ClientConnection::new(Arc::new(device), name).unwrap();
    let mut server = ServerConfig::clone(server);
    server.time_provider = clock.clone();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    let mut seen = Seen::default();
    let (mut alert, mut result) = (None, Ok(()));
    for _ in 0..12 {
        let mut to_server = Vec::new();
        while device.wants_write() {
            device.write_tls(&mut to_server).unwrap();
        }
        let mut input = to_server.as_slice();
        while !input.is_empty() && result.is_ok() {
            server.read_tls(&mut input).unwrap();
            result = witness(&mut seen, || server.process_new_packets().map(drop));
        }
        let mut to_device = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut to_device).unwrap();
        }
        let mut input = to_device.as_slice();
        while !input.is_empty() && alert.is_none() {
            device.read_tls(&mut input).unwrap();
            if let Err(rustls::Error::AlertReceived(received)) = device.process_new_packets() {
                alert = Some(received);
            }
        }
    }
    if result.is_ok() && alert.is_none() {
        device.writer().write_all(b"hello").unwrap();
        let mut bytes = Vec::new();
        device.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut bytes.as_slice()).unwrap();
        server.process_new_packets().unwrap();
        let mut got = [0; 5];
        server.reader().read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello");
    }
    Outcome {
        seen,
        alert,
        server: result,
        shown: device
            .peer_certificates()
            .and_then(|chain| chain.first())
            .map(|der| der.clone().into_owned()),
        chain: server.peer_certificates().unwrap_or_default().to_vec(),
        device,
    }
}
