//! The verifier of devices' certificates that rustls asks in the handshake.

use std::sync::Arc;

use rustls::DigitallySignedStruct;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::trust::{Group, Groups};
use crate::rules::identity::Certificate;

/// A certificate was found good.
#[derive(Clone, Debug)]
pub struct Vouched {
    /// The group whose anchor ends the path: its naming says who the device is (threats.md I7).
    pub group: Arc<Group>,
    /// The device's own certificate.
    pub certificate: Certificate,
    /// When the first certificate of the path ends, in seconds since 1970.
    pub not_after: i64,
}

/// Why a certificate was refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateRefusal {
    /// The reason label, one of [`CertificateRefusal::LABELS`].
    pub reason: &'static str,
    /// Which certificate of the chain, which rule, and the way out.
    pub why: String,
}

impl CertificateRefusal {
    /// Every reason label.
    pub const LABELS: [&'static str; 11] = [
        "certificate_expired",
        "certificate_not_yet_valid",
        "certificate_unknown_issuer",
        "certificate_revoked",
        "crl_stale",
        "crl_missing",
        "certificate_bad_signature",
        "certificate_malformed",
        "certificate_wrong_purpose",
        "certificate_unsupported",
        "certificate_chain_too_large",
    ];
}

/// Verifies devices' certificates against the trust groups of one listener.
#[derive(Debug)]
pub struct DeviceVerifier {
    groups: Arc<Groups>,
    mandatory: bool,
}

impl DeviceVerifier {
    /// A verifier for one listener; `mandatory`: a device without a certificate is refused in the handshake.
    pub fn new(groups: Arc<Groups>, mandatory: bool) -> Arc<Self> {
        Arc::new(Self { groups, mandatory })
    }
}

impl ClientCertVerifier for DeviceVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[] // hints cost small devices memory, and tell strangers whom we trust (threats.md T6)
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let _ = &self.groups;
        todo!()
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        todo!()
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        todo!()
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        todo!()
    }
}
