//! The verifier of devices' certificates that rustls asks in the handshake.
//!
//! One path is built over the anchors of all groups of the listener; the anchor that ends it decides whose device it is.
//! Before that the chain is bounded in count, bytes and names, and what could take part in a path is picked by name, so that
//! the cost depends neither on how much the operator trusts nor on what a stranger sends (threats.md T2). A chain that was
//! found good before is not verified again while the verdict stands (`known`).

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use super::crl::Standing;
use super::der::Front;
use super::diagnose::{Chain, Refused, short_key, too_large};
use super::known::{Known, Prints, Span, Unproved};
use super::trust::{CrlStale, Group, Groups};
use super::witness;
use crate::rules::identity::Certificate;

/// A certificate was found good.
#[derive(Clone, Debug)]
pub struct Vouched {
    /// The group whose anchor ends the path: its naming says who the device is (threats.md I7).
    pub group: Arc<Group>,
    /// The device's own certificate.
    pub certificate: Arc<Certificate>,
    /// When the first certificate of the path ends, in seconds since 1970.
    pub not_after: i64,
    /// The anchor itself issued the certificate: there is no intermediate in the path.
    pub direct: bool,
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

/// The most certificates a device may send.
pub(super) const MOST_CERTIFICATES: usize = 8;
/// The most bytes one certificate may have.
pub(super) const LARGEST_CERTIFICATE: usize = 16 * 1024;
/// The most bytes all certificates of a device may have together.
pub(super) const LARGEST_CHAIN: usize = 32 * 1024;
/// The most CA certificates with one name that a device may send. Paths multiply by it at each step; two is what an
/// exchange of a CA's key needs.
pub(super) const MOST_NAMESAKES: usize = 2;

/// The signature algorithms of certificates, revocation lists and handshakes.
pub(super) fn algorithms() -> &'static WebPkiSupportedAlgorithms {
    static ALGORITHMS: LazyLock<WebPkiSupportedAlgorithms> =
        LazyLock::new(|| aws_lc_rs::default_provider().signature_verification_algorithms);
    &ALGORITHMS
}

/// Verifies devices' certificates against the trust groups of one listener.
#[derive(Debug)]
pub struct DeviceVerifier {
    groups: Arc<Groups>,
    mandatory: bool,
    known: Known,
}

impl DeviceVerifier {
    /// A verifier for one listener; `mandatory`: a device without a certificate is refused in the handshake.
    pub fn new(groups: Arc<Groups>, mandatory: bool) -> Arc<Self> {
        Arc::new(Self {
            groups,
            mandatory,
            known: Known::new(),
        })
    }

    /// Judges the chain that a device sent, its own certificate first; `now` in seconds since 1970.
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
        now: i64,
    ) -> Result<Vouched, Refused> {
        let chain = Chain {
            groups: &self.groups,
            leaf,
            sent,
        };
        let bounded = bound(&chain);
        let prints = bounded.is_ok().then(|| Prints::of(leaf, sent));
        if let Some(vouched) = prints.and_then(|prints| self.known.recall(&prints, now)) {
            witness::note(|seen| seen.certificate = Some(vouched.certificate.clone()));
            return Ok(vouched);
        }
        let certificate = match leaf.len() {
            0..=LARGEST_CERTIFICATE => Certificate::read(leaf).ok().map(Arc::new),
            _ => None,
        };
        witness::note(|seen| seen.certificate.clone_from(&certificate));
        bounded?;
        let (vouched, span) = verify(&chain, certificate, now)?;
        if let Some(prints) = prints {
            let unproved = Unproved {
                prints,
                vouched: vouched.clone(),
                span,
            };
            witness::note(|seen| seen.unproved = Some(unproved));
        }
        Ok(vouched)
    }

    /// What a device proved, or did not. One that did is known from now on; nobody vouches for one that did not.
    fn possessed(
        &self,
        proof: Result<HandshakeSignatureValid, rustls::Error>,
        cert: &CertificateDer<'_>,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if proof.is_err() {
            return not_possessed(proof, cert);
        }
        let mut unproved = None;
        witness::note(|seen| unproved = seen.unproved.take());
        if let Some(proved) = unproved {
            self.known.remember(proved);
        }
        proof
    }
}

/// Builds a path for a chain of bounded size and looks its certificates up in the lists: the verdict, and when it stands.
/// `certificate` is what was read of the device's own; `now` in seconds since 1970.
fn verify(
    chain: &Chain<'_>,
    certificate: Option<Arc<Certificate>>,
    now: i64,
) -> Result<(Vouched, Span), Refused> {
    let parsed = EndEntityCert::try_from(chain.leaf).map_err(|error| chain.refused(&error, &[]))?;
    let certificate = certificate.ok_or_else(|| chain.unreadable())?;

    let links = links(chain)?;
    let mut issuers = vec![parsed.issuer()];
    issuers.extend(links.iter().map(|(_, front)| front.issuer));
    let candidates = chain.groups.candidates(issuers);
    let mut intermediates: Vec<CertificateDer<'_>> = Vec::new();
    let configured = candidates.intermediates.iter().map(AsRef::as_ref);
    for der in links.iter().map(|(der, _)| *der).chain(configured) {
        if !intermediates.iter().any(|known| known.as_ref() == der) {
            intermediates.push(CertificateDer::from(der));
        }
    }
    let path = parsed
        .verify_for_usage(
            algorithms().all,
            &candidates.anchors,
            &intermediates,
            UnixTime::since_unix_epoch(Duration::from_secs(now.unsigned_abs())),
            KeyUsage::client_auth(),
            None, // revocation is looked up below
            None,
        )
        .map_err(|error| chain.refused(&error, &intermediates))?;

    let anchor = candidates
        .anchors
        .iter()
        .position(|anchor| std::ptr::eq(anchor, path.anchor()));
    let group = candidates.owners[anchor.expect("a path ends in one of the anchors given")];
    let lists_until = check_revocation(chain, group, &path, now)?;
    let ends = path.intermediate_certificates().filter_map(|cert| {
        let der = cert.der();
        Front::read(&der).ok().map(|front| front.not_after)
    });
    let mut span = Span::ALWAYS;
    span.cut(certificate.not_before, certificate.not_after, now);
    span.cut(i64::MIN, lists_until, now);
    // At another time the path could go by one that was passed over, and end in another group.
    for der in &intermediates {
        let front = Front::read(der).map_err(|_| chain.unreadable())?;
        span.cut(front.not_before, front.not_after, now);
    }
    let vouched = Vouched {
        group: Arc::clone(group),
        not_after: ends.fold(certificate.not_after, i64::min),
        certificate,
        direct: path.intermediate_certificates().next().is_none(),
    };
    Ok((vouched, span))
}

/// Refuses a chain that would cost too much, before any of it is parsed.
fn bound(chain: &Chain<'_>) -> Result<(), Refused> {
    let lengths = || chain.all().map(<[u8]>::len);
    let (count, bytes) = (lengths().count(), lengths().sum::<usize>());
    if count > MOST_CERTIFICATES {
        let what = format!("the device sent {count} certificates");
        return Err(too_large(
            &what,
            &format!("at most {MOST_CERTIFICATES} are taken"),
        ));
    }
    if let Some(at) = lengths().position(|length| length > LARGEST_CERTIFICATE) {
        let what = format!("certificate {} of the chain is too large", at + 1);
        let rule = format!("one may have {LARGEST_CERTIFICATE} bytes");
        return Err(too_large(&what, &rule));
    }
    if bytes > LARGEST_CHAIN {
        let what = format!("the device sent {bytes} bytes of certificates");
        return Err(too_large(
            &what,
            &format!("at most {LARGEST_CHAIN} are taken"),
        ));
    }
    Ok(())
}

/// The CA certificates that the device sent and that can be read, each once.
fn links<'a>(chain: &Chain<'a>) -> Result<Vec<(&'a [u8], Front<'a>)>, Refused> {
    let mut links: Vec<(&[u8], Front<'_>)> = Vec::new();
    let mut namesakes: HashMap<&[u8], usize> = HashMap::new();
    for der in chain.sent.iter().map(AsRef::as_ref) {
        let Ok(front) = Front::read(der) else {
            continue; // no path can go by it; if one needs it, the diagnosis finds it
        };
        if links.iter().any(|(known, _)| *known == der) {
            continue;
        }
        let count = namesakes.entry(front.subject).or_default();
        *count += 1;
        if *count > MOST_NAMESAKES {
            let what = format!("the device sent {count} different certificates of one CA name");
            let rule = format!("at most {MOST_NAMESAKES} are taken");
            return Err(too_large(&what, &rule));
        }
        links.push((der, front));
    }
    Ok(links)
}

/// Looks up the device's certificate and the intermediates of its path in the group's lists. Gives until when they say
/// the same, in seconds since 1970.
fn check_revocation(
    chain: &Chain<'_>,
    group: &Group,
    path: &VerifiedPath<'_>,
    now: i64,
) -> Result<i64, Refused> {
    let mut until = i64::MAX;
    if group.lists.is_empty() {
        return Ok(until);
    }
    let mut subject = std::iter::once(&**path.end_entity())
        .chain(path.intermediate_certificates())
        .peekable();
    let mut is_device = true;
    while let Some(cert) = subject.next() {
        let issuer = match subject.peek() {
            Some(issuer) => issuer.subject_public_key_info(),
            None => webpki::spki_for_anchor(path.anchor()),
        };
        let der = cert.der();
        match group
            .lists
            .look_up(cert.issuer(), &issuer, cert.serial(), is_device)
        {
            Standing::Revoked => return Err(chain.revoked(&der, group)),
            Standing::Good(list) if group.crl_stale == CrlStale::Refuse => {
                if list.is_stale(now) {
                    return Err(chain.stale(&der, group, list));
                }
                until = until.min(list.next_update.unwrap_or(i64::MAX));
            }
            Standing::Unlisted if is_device => return Err(chain.unlisted(&der, group)),
            Standing::Good(_) | Standing::Unlisted => {}
        }
        is_device = false;
    }
    Ok(until)
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
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        match self.judge(end_entity, intermediates, now) {
            Ok(vouched) => {
                witness::note(|seen| seen.vouched = Some(vouched));
                Ok(ClientCertVerified::assertion())
            }
            Err(refused) => {
                witness::note(|seen| seen.refused = Some(refused.refusal));
                Err(refused.error.into())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let proof = rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms());
        self.possessed(proof, cert)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let proof = rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms());
        self.possessed(proof, cert)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// Notes a failed proof that the device holds its certificate's key.
fn not_possessed(
    proof: Result<HandshakeSignatureValid, rustls::Error>,
    cert: &CertificateDer<'_>,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    proof.map_err(|error| {
        // No signature of a short key counts, so a failed proof says nothing of who holds it.
        let (error, refusal) = match short_key(cert) {
            Some(Refused { error, refusal }) => (error.into(), refusal),
            None => {
                let refusal = CertificateRefusal {
                    reason: "certificate_bad_signature",
                    why: "the device did not prove that it holds the private key of its certificate; \
                          see that its key and its certificate belong together"
                        .into(),
                };
                (error, refusal)
            }
        };
        witness::note(|seen| {
            seen.vouched = None;
            seen.refused = Some(refusal);
        });
        error
    })
}

#[cfg(test)]
mod tests;
