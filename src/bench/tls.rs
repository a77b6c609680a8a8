//! What the harness offers in TLS, and how it judges the server.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CipherSuite, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::Fault;
use super::settings::{Cipher, KeyExchange, Signature, Tls, TlsVersion};

/// The configuration that every device begins with: no certificate, no resumption.
///
/// # Errors
/// When the CA file cannot be used, or version and key exchange do not go together.
pub(super) fn template(tls: &Tls) -> Result<ClientConfig, Fault> {
    let mut groups = vec![match tls.key_exchange {
        KeyExchange::X25519 => kx_group::X25519,
        KeyExchange::P256 => kx_group::SECP256R1,
        KeyExchange::P384 => kx_group::SECP384R1,
        KeyExchange::X25519MlKem768 => kx_group::X25519MLKEM768,
    }];
    // In TLS 1.2 the list also says on which curves a certificate may be (RFC 8422 §5.1), and OpenSSL holds to it.
    if tls.key_exchange == KeyExchange::X25519 && tls.version != Some(TlsVersion::V13) {
        groups.extend([kx_group::SECP256R1, kx_group::SECP384R1]);
    }
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = groups;
    if let Some(cipher) = tls.cipher {
        provider
            .cipher_suites
            .retain(|suite| cipher_of(suite.suite()) == Some(cipher));
    }
    let provider = Arc::new(provider);
    let versions = match tls.version {
        None if tls.key_exchange == KeyExchange::X25519MlKem768 => &[&TLS13][..],
        None => &[&TLS13, &TLS12][..],
        Some(TlsVersion::V12) => &[&TLS12],
        Some(TlsVersion::V13) => &[&TLS13],
    };
    if tls.version == Some(TlsVersion::V12) && tls.key_exchange == KeyExchange::X25519MlKem768 {
        let why = "x25519mlkem768 is a key exchange of TLS 1.3: leave out --tls 1.2";
        return Err(Fault::Asked(why.into()));
    }
    let judge = Judge::new(tls, &provider)?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("there is a suite and a group for each version");
    let mut config = config
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(judge))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn cipher_of(suite: CipherSuite) -> Option<Cipher> {
    let name = suite.as_str()?;
    let ciphers = [
        ("AES_128_GCM", Cipher::Aes128),
        ("AES_256_GCM", Cipher::Aes256),
        ("CHACHA20_POLY1305", Cipher::ChaCha20),
    ];
    let found = ciphers.into_iter().find(|(word, _)| name.contains(word))?;
    Some(found.1)
}

/// Judges the server's certificate: its chain once, and then whether it is the same to the byte. What a client thinks
/// of a chain costs the server nothing, and a harness that thinks it over each time has less left for load.
#[derive(Debug)]
struct Judge {
    /// `None`: neither chain nor signature is judged.
    anchors: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
    schemes: Vec<SignatureScheme>,
    /// The first chain that was found good.
    good: OnceLock<Vec<CertificateDer<'static>>>,
}

impl Judge {
    fn new(tls: &Tls, provider: &Arc<CryptoProvider>) -> Result<Self, Fault> {
        let anchors = match &tls.ca {
            None => None,
            Some(file) => {
                let unusable = |why: &dyn std::fmt::Display| {
                    Fault::Failed(format!("--ca {}: {why}", file.display()))
                };
                let mut roots = RootCertStore::empty();
                for certificate in
                    CertificateDer::pem_file_iter(file).map_err(|why| unusable(&why))?
                {
                    let certificate = certificate.map_err(|why| unusable(&why))?;
                    roots.add(certificate).map_err(|why| unusable(&why))?;
                }
                let verifier =
                    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
                Some(verifier.build().map_err(|why| unusable(&why))?)
            }
        };
        let all = provider
            .signature_verification_algorithms
            .supported_schemes();
        let schemes = all.into_iter().filter(|scheme| {
            tls.signature
                .is_none_or(|signature| is_of(*scheme, signature))
        });
        Ok(Self {
            anchors,
            provider: provider.clone(),
            schemes: schemes.collect(),
            good: OnceLock::new(),
        })
    }

    fn is_known(&self, leaf: &CertificateDer<'_>, between: &[CertificateDer<'_>]) -> bool {
        let known = self.good.get().and_then(|good| good.split_first());
        known.is_some_and(|(first, rest)| first == leaf && rest == between)
    }
}

fn is_of(scheme: SignatureScheme, signature: Signature) -> bool {
    use SignatureScheme as S;
    match signature {
        Signature::Ecdsa => matches!(
            scheme,
            S::ECDSA_NISTP256_SHA256 | S::ECDSA_NISTP384_SHA384 | S::ECDSA_NISTP521_SHA512
        ),
        Signature::Rsa => matches!(
            scheme,
            S::RSA_PSS_SHA256
                | S::RSA_PSS_SHA384
                | S::RSA_PSS_SHA512
                | S::RSA_PKCS1_SHA256
                | S::RSA_PKCS1_SHA384
                | S::RSA_PKCS1_SHA512
        ),
        Signature::Ed25519 => scheme == S::ED25519,
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        staple: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(anchors) = &self.anchors else {
            return Ok(ServerCertVerified::assertion());
        };
        // A run has one target and so one name; the name needs no place among what is compared.
        if self.is_known(leaf, between) {
            return Ok(ServerCertVerified::assertion());
        }
        let verified = anchors.verify_server_cert(leaf, between, name, staple, now)?;
        let chain = std::iter::once(leaf).chain(between);
        let _ = self
            .good
            .set(chain.map(|one| one.clone().into_owned()).collect());
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.anchors.is_none() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, leaf, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.anchors.is_none() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, leaf, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}
