//! The verifier of devices' certificates that rustls asks in the handshake.
//!
//! One path is built over the anchors of all groups of the listener; the anchor that ends it decides whose device it is.
//! Before that the chain is bounded in count, bytes and names, and what could take part in a path is picked by name, so that
//! the cost depends neither on how much the operator trusts nor on what a stranger sends (threats.md T2). A chain that was
//! found good before is not verified again while the verdict stands (`known`).
//!
//! Where the gate has a registry, a certificate that no group vouches for may be pinned there. That look-up is not for a
//! handshake, so such a certificate is taken for the time being, once its key was proved ([`Unvouched`]): the verdict after
//! CONNECT looks the pin up, or refuses with what the chain would have been refused with (threats.md T1).

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use super::ca_keys;
use super::crl::Standing;
use super::der::Front;
use super::diagnose::{Chain, Refused, too_large};
use super::known::{Known, Prints, Span, Unproved};
use super::possession;
use super::tickets::Scope;
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

/// No group vouches for a certificate, and the device holds its key: only a pin could let it in.
#[derive(Clone, Debug)]
pub struct Unvouched {
    /// The device's own certificate.
    pub certificate: Arc<Certificate>,
    /// What it is refused with, if it is not pinned.
    pub refusal: CertificateRefusal,
}

/// A certificate that a device showed, and whose key it holds.
#[derive(Clone, Debug)]
pub enum Shown {
    /// A group vouches for it.
    Vouched(Vouched),
    /// No group does.
    Unvouched(Unvouched),
}

impl Shown {
    /// The device's own certificate.
    pub fn certificate(&self) -> &Arc<Certificate> {
        match self {
            Self::Vouched(vouched) => &vouched.certificate,
            Self::Unvouched(unvouched) => &unvouched.certificate,
        }
    }

    /// The group's word, if a group vouches for it.
    pub fn vouched(&self) -> Option<&Vouched> {
        match self {
            Self::Vouched(vouched) => Some(vouched),
            Self::Unvouched(_) => None,
        }
    }
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
    pins: bool,
    known: Known,
}

/// What was found out about a chain.
pub(super) struct Judged {
    /// The device's own certificate, if it can be read.
    pub(super) certificate: Option<Arc<Certificate>>,
    verdict: Result<Vouched, Refused>,
    /// To be remembered, once the device proved its key; `None`: it is known already, or not good.
    unproved: Option<Unproved>,
}

impl Judged {
    /// What the device showed, where one that nobody vouches for may be pinned.
    ///
    /// # Errors
    /// What no pin can make good: it cannot be read, or is more than is spent on a stranger (threats.md T2).
    fn or_pinned(self) -> Result<Shown, Refused> {
        match (self.verdict, self.certificate) {
            (Ok(vouched), _) => Ok(Shown::Vouched(vouched)),
            (Err(refused), Some(certificate)) if !refused.is_too_large() => {
                Ok(Shown::Unvouched(Unvouched {
                    certificate,
                    refusal: refused.refusal,
                }))
            }
            (Err(refused), _) => Err(refused),
        }
    }
}

impl DeviceVerifier {
    /// A verifier for one listener; `mandatory`: a device without a certificate is refused in the handshake; `pins`: one
    /// that no group vouches for may be pinned in a registry, so its certificate is not refused there.
    pub fn new(groups: Arc<Groups>, mandatory: bool, pins: bool) -> Arc<Self> {
        Arc::new(Self {
            groups,
            mandatory,
            pins,
            known: Known::new(),
        })
    }

    /// Judges a chain whose device proved its key in an earlier handshake, as its certificate would be judged in a new one:
    /// of a resumed connection, or of an open one when the trust has changed (threats.md T5, R1). `chain` has the device's
    /// own certificate first; `now` in seconds since 1970.
    ///
    /// # Errors
    /// Why it is refused; an empty chain is.
    pub fn judge_again(
        &self,
        chain: &[CertificateDer<'_>],
        now: i64,
    ) -> Result<Vouched, CertificateRefusal> {
        let judged = self.judge_proved(chain, now)?;
        judged.verdict.map_err(|refused| refused.refusal)
    }

    /// The same for an open connection, but that a list which nobody has renewed says nothing new of who is in.
    ///
    /// # Errors
    /// As [`DeviceVerifier::judge_again`].
    pub fn judge_open(
        &self,
        chain: &[CertificateDer<'_>],
        now: i64,
    ) -> Result<Vouched, CertificateRefusal> {
        match (self.judge_again(chain, now), chain) {
            (Err(refused), [leaf, sent @ ..]) if refused.reason == "crl_stale" => {
                let groups = &self.groups;
                let chain = Chain { groups, leaf, sent };
                let certificate = Certificate::read(leaf).ok().map(Arc::new);
                let verified = verify(&chain, certificate, now, CrlStale::Use, |_, _| ());
                verified
                    .map(|(vouched, _)| vouched)
                    .map_err(|refused| refused.refusal)
            }
            (judged, _) => judged,
        }
    }

    /// The same for a resumed handshake: no alert can be sent any more, so one that nobody vouches for is for the verdict
    /// after CONNECT to refuse, whether there are pins or not.
    ///
    /// # Errors
    /// What no pin can make good.
    pub fn show_again(
        &self,
        chain: &[CertificateDer<'_>],
        now: i64,
    ) -> Result<Shown, CertificateRefusal> {
        let judged = self.judge_proved(chain, now)?;
        judged.or_pinned().map_err(|refused| refused.refusal)
    }

    /// Tells what a certificate must be, for the tickets of those that were.
    pub(super) fn tell_demands(&self, scope: &mut Scope) {
        scope.add(if self.mandatory {
            "a certificate"
        } else {
            "a certificate, or none"
        });
        scope.add(if self.pins { "or pinned" } else { "" });
        self.groups.tell_demands(scope);
    }

    fn judge_proved(
        &self,
        chain: &[CertificateDer<'_>],
        now: i64,
    ) -> Result<Judged, CertificateRefusal> {
        let Some((leaf, sent)) = chain.split_first() else {
            return Err(CertificateRefusal {
                reason: "certificate_malformed",
                why: "there is no certificate to judge again; have the device connect anew".into(),
            });
        };
        let mut judged = self.judge(leaf, sent, now);
        if let Some(proved) = judged.unproved.take() {
            self.known.remember(proved);
        }
        Ok(judged)
    }

    /// What a handshake goes on with.
    ///
    /// # Errors
    /// What it ends with.
    pub(super) fn taken(&self, judged: Judged) -> Result<Shown, Refused> {
        if self.pins {
            judged.or_pinned()
        } else {
            judged.verdict.map(Shown::Vouched)
        }
    }

    pub(super) fn groups(&self) -> &Groups {
        &self.groups
    }

    /// Judges the chain that a device sent, its own certificate first; `now` in seconds since 1970.
    pub(super) fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
        now: i64,
    ) -> Judged {
        let groups = &self.groups;
        let chain = Chain { groups, leaf, sent };
        if let Err(refused) = bound(&chain) {
            let is_short = leaf.len() <= LARGEST_CERTIFICATE;
            let certificate = is_short.then(|| Certificate::read(leaf).ok().map(Arc::new));
            return Judged {
                certificate: certificate.flatten(),
                verdict: Err(refused),
                unproved: None,
            };
        }
        let prints = Prints::of(leaf, sent);
        if let Some(vouched) = self.known.recall(&prints, now) {
            return Judged {
                certificate: Some(vouched.certificate.clone()),
                verdict: Ok(vouched),
                unproved: None,
            };
        }
        let certificate = Certificate::read_printed(leaf, prints.leaf);
        let certificate = certificate.ok().map(Arc::new);
        let verified = verify(
            &chain,
            certificate.clone(),
            now,
            CrlStale::Refuse,
            |_, _| (),
        );
        let unproved = verified.as_ref().ok().map(|(vouched, span)| Unproved {
            prints,
            vouched: vouched.clone(),
            span: *span,
        });
        Judged {
            certificate,
            verdict: verified.map(|(vouched, _)| vouched),
            unproved,
        }
    }

    /// What a device proved, or did not. One that did is known from now on; nobody vouches for one that did not.
    fn possessed(
        &self,
        proof: Result<HandshakeSignatureValid, rustls::Error>,
        cert: &CertificateDer<'_>,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match proof {
            Ok(proof) => {
                let mut unproved = None;
                witness::note(|seen| unproved = seen.unproved.take());
                if let Some(proved) = unproved {
                    self.known.remember(proved);
                }
                Ok(proof)
            }
            Err(error) => {
                let (error, refusal) = possession::refusal(error, cert);
                witness::note(|seen| {
                    seen.shown = None;
                    seen.refused = Some(refusal);
                });
                Err(error)
            }
        }
    }
}

/// Builds a path for a chain of bounded size and looks its certificates up in the lists: the verdict, and when it stands.
/// `certificate` is what was read of the device's own; `now` in seconds since 1970; `stale`: whether stale lists are used in every
/// group, or refuse where the group says so. `found` is told the path, and whose it is,
/// before the lists are asked.
pub(super) fn verify(
    chain: &Chain<'_>,
    certificate: Option<Arc<Certificate>>,
    now: i64,
    stale: CrlStale,
    found: impl FnOnce(&VerifiedPath<'_>, &Group),
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
            ca_keys::algorithms(),
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
    found(&path, group);
    let lists_until = check_revocation(chain, group, &path, (now, stale))?;
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
pub(super) fn bound(chain: &Chain<'_>) -> Result<(), Refused> {
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
    (now, stale): (i64, CrlStale),
) -> Result<i64, Refused> {
    let mut until = i64::MAX;
    let refuses = stale == CrlStale::Refuse && group.crl_stale == CrlStale::Refuse;
    let mut refused = None;
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
            Standing::Good(list) if refuses => {
                if list.is_stale(now) {
                    // That another one names a CA of the path is worse.
                    refused.get_or_insert_with(|| chain.stale(&der, group, list));
                }
                until = until.min(list.next_update.unwrap_or(i64::MAX));
            }
            Standing::Unlisted if is_device => return Err(chain.unlisted(&der, group)),
            Standing::Good(_) | Standing::Unlisted => {}
        }
        is_device = false;
    }
    refused.map_or(Ok(until), Err)
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
        let mut judged = self.judge(end_entity, intermediates, now);
        witness::note(|seen| {
            seen.certificate.clone_from(&judged.certificate);
            seen.unproved = judged.unproved.take();
            // A full handshake: whatever ticket was opened before is not the one that goes on.
            seen.began = None;
        });
        match self.taken(judged) {
            Ok(shown) => {
                witness::note(|seen| seen.shown = Some(shown));
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
        self.possessed(possession::tls12(message, cert, dss), cert)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.possessed(possession::tls13(message, cert, dss), cert)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

#[cfg(test)]
mod tests;
