//! Certificates as a device shows them: whatever it holds, fitting or not.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedProtocolVersion,
};
use tidegate::pki::Issued;

use super::device::Device;

/// A chain, the device's own certificate first, and a private key.
#[derive(Clone, Debug)]
pub struct Shown {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: Arc<PrivateKeyDer<'static>>,
}

impl From<&Issued> for Shown {
    fn from(issued: &Issued) -> Self {
        Self::new(issued.chain(), issued.key())
    }
}

impl Shown {
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Self {
        Self {
            chain,
            key: Arc::new(key),
        }
    }

    /// Without the intermediates.
    pub fn leaf_only(mut self) -> Self {
        self.chain.truncate(1);
        self
    }
}

/// What a server asked for in its CertificateRequest.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// How many CA names it hinted at.
    pub hints: usize,
    /// The signatures that it takes.
    pub schemes: Vec<SignatureScheme>,
}

/// Answers a CertificateRequest with what it holds, and remembers the request.
#[derive(Debug)]
pub struct Shows {
    certified: Option<Arc<CertifiedKey>>,
    pub request: Mutex<Option<Request>>,
}

impl ResolvesClientCert for Shows {
    fn resolve(&self, hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        *self.request.lock().expect("no panic while held") = Some(Request {
            hints: hints.len(),
            schemes: schemes.to_vec(),
        });
        self.certified.clone()
    }

    fn has_certs(&self) -> bool {
        self.certified.is_some()
    }
}

impl Device {
    /// A device that shows `shown` without a look at it: rustls would keep it from showing what does not fit.
    pub fn showing(
        gate: SocketAddr,
        ca: &CertificateDer<'static>,
        shown: Option<&Shown>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> (Self, Arc<Shows>) {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let certified = shown.map(|shown| {
            let key = provider
                .key_provider
                .load_private_key(shown.key.clone_key())
                .expect("a key that this device's TLS stack can use");
            Arc::new(CertifiedKey::new(shown.chain.clone(), key))
        });
        let shows = Arc::new(Shows {
            certified,
            request: Mutex::new(None),
        });
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone()).expect("a CA");
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots)
            .with_client_cert_resolver(shows.clone());
        let device = Self {
            gate,
            server_name: "localhost".try_into().expect("a name"),
            config: Some(config),
            from: None,
        };
        (device, shows)
    }
}

/// Takes any server, checks signatures of `schemes` only, and remembers the certificate that it was shown.
#[derive(Debug)]
pub struct Trusting {
    schemes: Vec<SignatureScheme>,
    pub shown: Mutex<Option<CertificateDer<'static>>>,
}

impl Trusting {
    /// `schemes`: `None`, every one.
    pub fn new(schemes: Option<Vec<SignatureScheme>>) -> Arc<Self> {
        let known = provider().signature_verification_algorithms;
        Arc::new(Self {
            schemes: schemes.unwrap_or_else(|| known.supported_schemes()),
            shown: Mutex::new(None),
        })
    }

    /// The server's own certificate.
    pub fn certificate(&self) -> CertificateDer<'static> {
        let shown = self.shown.lock().expect("no panic while held");
        shown
            .clone()
            .expect("a handshake in which the server showed one")
    }
}

fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.shown.lock().expect("no panic while held") = Some(end_entity.clone().into_owned());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, &known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, &known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}
