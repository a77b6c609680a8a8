//! That a device holds the private key of its certificate: proved in every full handshake, whoever vouches for it.
//!
//! The proof is of the key that stands in the certificate, by the reader that gives a certificate its
//! [`key`](Certificate::key): what a pin is compared with is what was proved. Nothing else of the certificate is looked at,
//! so odd ones prove as well as others (threats.md T1): version 1, CAs, critical extensions that nobody knows.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::{CertificateError, DigitallySignedStruct, Error, PeerMisbehaved};
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use webpki::RawPublicKeyEntity;

use super::diagnose::{Refused, unfit_key};
use super::verify::{CertificateRefusal, algorithms};
use crate::rules::identity::Certificate;

/// Checks the CertificateVerify of a TLS 1.3 handshake.
///
/// # Errors
/// When the key of `cert` did not sign `message`, or by a scheme that TLS 1.3 does not have (RFC 8446 §4.2.3).
pub(super) fn tls13(
    message: &[u8],
    cert: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let key = key_of(cert)?;
    rustls::crypto::verify_tls13_signature_with_raw_key(message, &key, dss, algorithms())
}

/// Checks the CertificateVerify of a TLS 1.2 handshake.
///
/// A scheme of TLS 1.2 names a hash and a kind of key, but no curve (RFC 5246 §7.4.1.4.1): each algorithm that it could be
/// is tried.
///
/// # Errors
/// When the key of `cert` did not sign `message`, or by a scheme that was not asked for.
pub(super) fn tls12(
    message: &[u8],
    cert: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    const WRONG: Error = Error::InvalidCertificate(CertificateError::BadSignature);
    let asked_for = algorithms().mapping.iter();
    let (_, could_be) = asked_for
        .copied()
        .find(|(scheme, _)| *scheme == dss.scheme)
        .ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
    let key = key_of(cert)?;
    let key = RawPublicKeyEntity::try_from(&key).map_err(|_| UNREADABLE)?;
    for algorithm in could_be {
        match key.verify_signature(*algorithm, message, dss.signature()) {
            Ok(()) => return Ok(HandshakeSignatureValid::assertion()),
            Err(webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)) => {}
            Err(_) => return Err(WRONG),
        }
    }
    Err(WRONG)
}

const UNREADABLE: Error = Error::InvalidCertificate(CertificateError::BadEncoding);

fn key_of<'a>(cert: &'a CertificateDer<'_>) -> Result<SubjectPublicKeyInfoDer<'a>, Error> {
    let key = Certificate::public_key(cert).map_err(|_| UNREADABLE)?;
    Ok(key.into())
}

/// Why a device proved nothing: the error for its alert, and the words for the operator.
pub(super) fn refusal(error: Error, cert: &CertificateDer<'_>) -> (Error, CertificateRefusal) {
    // No signature of such a key counts, so a failed proof says nothing of who holds it.
    if let Some(Refused { error, refusal }) = unfit_key(cert) {
        return (error.into(), refusal);
    }
    let refusal = CertificateRefusal {
        reason: "certificate_bad_signature",
        why: "the device did not prove that it holds the private key of its certificate; \
              see that its key and its certificate belong together"
            .into(),
    };
    (error, refusal)
}
