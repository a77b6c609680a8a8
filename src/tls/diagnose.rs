//! Which certificate of a refused chain broke which rule, and the way out.
//!
//! webpki tells the rule that was broken last on the way it liked best, not where. Here the chain is walked
//! once more by names, to put it into words. What comes from the wire is cut short and escaped; the
//! work is bounded by the same counts as the verification.

use std::sync::Arc;

use rustls::{CertificateError, OtherError};
use rustls_pki_types::CertificateDer;
use webpki::EndEntityCert;
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::crl::List;
use super::der::{self, Front, Reader, Signed};
use super::trust::{Group, Groups, date};
use super::verify::{CertificateRefusal, MOST_CERTIFICATES, algorithms};
use crate::rules::identity::Certificate;

/// A refusal, as rustls needs it for the alert, and in words.
pub(super) struct Refused {
    pub(super) error: CertificateError,
    pub(super) refusal: CertificateRefusal,
}

const TOO_LARGE: &str = "certificate_chain_too_large";

impl Refused {
    /// It would have taken more than is spent on a stranger.
    pub(super) fn is_too_large(&self) -> bool {
        self.refusal.reason == TOO_LARGE
    }
}

/// What a device sent, and whom the listener knows.
pub(super) struct Chain<'a> {
    pub(super) groups: &'a Groups,
    pub(super) leaf: &'a CertificateDer<'a>,
    pub(super) sent: &'a [CertificateDer<'a>],
}

/// The chain needs more than is spent on a stranger.
#[derive(Debug, thiserror::Error)]
#[error("the certificate chain is too large")]
struct TooLarge;

const ISSUE_ANEW: &str = "have it issued anew";

impl<'a> Chain<'a> {
    /// All that the device sent, its own certificate first.
    pub(super) fn all(&self) -> impl Iterator<Item = &'a [u8]> {
        let leaf = self.leaf.as_ref();
        std::iter::once(leaf).chain(self.sent.iter().map(AsRef::as_ref))
    }

    pub(super) fn unreadable(&self) -> Refused {
        let why = format!("{} is malformed; {ISSUE_ANEW}", self.called(self.leaf));
        refuse(CertificateError::BadEncoding, "certificate_malformed", why)
    }

    pub(super) fn revoked(&self, der: &[u8], group: &Group) -> Refused {
        let why = format!(
            "{} is revoked by a list of trust group {}; if the device is to come back, have a new certificate issued for it",
            self.called(der),
            group.name
        );
        refuse(CertificateError::Revoked, "certificate_revoked", why)
    }

    pub(super) fn stale(&self, der: &[u8], group: &Group, list: &List) -> Refused {
        let why = format!(
            "whether {} is revoked cannot be told: the list of {} in trust group {} was to be replaced by {}; give \
             tidegate the new list, or set crl_stale = \"use\"",
            self.called(der),
            shown(&list.issuer),
            group.name,
            date(list.next_update.unwrap_or_default())
        );
        refuse(CertificateError::ExpiredRevocationList, "crl_stale", why)
    }

    pub(super) fn unlisted(&self, der: &[u8], group: &Group) -> Refused {
        let issuer = Front::read(der).map(|front| der::name_text(front.issuer));
        let why = format!(
            "whether {} is revoked cannot be told: trust group {} has revocation lists, but none by {}; add that CA's \
             list to crl",
            self.called(der),
            group.name,
            shown(&issuer.unwrap_or_default())
        );
        refuse(
            CertificateError::UnknownRevocationStatus,
            "crl_missing",
            why,
        )
    }

    /// Puts webpki's error into words. `intermediates`: all that a path could have gone by.
    pub(super) fn refused(
        &self,
        error: &webpki::Error,
        intermediates: &[CertificateDer<'_>],
    ) -> Refused {
        use webpki::Error as E;
        let path = Path::walk(self, intermediates);
        match error {
            E::CertExpired { not_after, time } => {
                let at = seconds(*not_after);
                let which = self.find(intermediates, |front| front.not_after == at);
                let why = format!("{which} ended on {}; {ISSUE_ANEW}", date(at));
                let (time, not_after) = (*time, *not_after);
                let error = CertificateError::ExpiredContext { time, not_after };
                refuse(error, "certificate_expired", why)
            }
            E::InvalidCertValidity => {
                let which = self.find(intermediates, |front| front.not_before > front.not_after);
                let why = format!("{which} ends before it begins; {ISSUE_ANEW}");
                refuse(CertificateError::Expired, "certificate_expired", why)
            }
            E::CertNotValidYet { not_before, time } => {
                let at = seconds(*not_before);
                let which = self.find(intermediates, |front| front.not_before == at);
                let why = format!(
                    "{which} begins on {} only; wait, or see to the clocks of the CA and of this host",
                    date(at)
                );
                let (time, not_before) = (*time, *not_before);
                let error = CertificateError::NotValidYetContext { time, not_before };
                refuse(error, "certificate_not_yet_valid", why)
            }
            E::UnknownIssuer => {
                let error = CertificateError::UnknownIssuer;
                refuse(error, "certificate_unknown_issuer", path.unknown_issuer())
            }
            E::InvalidSignatureForPublicKey => match path.short_key() {
                // The alert is unsupported_certificate.
                Some(why) => refuse(
                    CertificateError::InvalidPurpose,
                    "certificate_unsupported",
                    why,
                ),
                None => {
                    let error = CertificateError::BadSignature;
                    refuse(error, "certificate_bad_signature", path.bad_signature())
                }
            },
            E::RequiredEkuNotFoundContext(_)
            | E::EmptyEkuExtension
            | E::CaUsedAsEndEntity
            | E::EndEntityUsedAsCa
            | E::PathLenConstraintViolated => {
                let error_for_alert = CertificateError::InvalidPurpose;
                let why = path.wrong_purpose(error);
                refuse(error_for_alert, "certificate_wrong_purpose", why)
            }
            E::NameConstraintViolation => {
                let why = format!(
                    "{} holds a name that a CA above it may not give (nameConstraints); have it issued by another CA, or \
                     with other names",
                    self.called(self.leaf)
                );
                let error = CertificateError::Other(OtherError(Arc::new(error.clone())));
                refuse(error, "certificate_wrong_purpose", why)
            }
            E::UnsupportedCertVersion
            | E::UnsupportedCriticalExtension
            | E::UnsupportedSignatureAlgorithmContext(_)
            | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
                // The alert is unsupported_certificate; rustls would tell of a failed decryption.
                let alert = CertificateError::InvalidPurpose;
                refuse(alert, "certificate_unsupported", path.unsupported(error))
            }
            E::MaximumPathDepthExceeded
            | E::MaximumPathBuildCallsExceeded
            | E::MaximumSignatureChecksExceeded
            | E::MaximumNameConstraintComparisonsExceeded => too_large(
                "the chain has too many CAs",
                "a path may have six between device and anchor",
            ),
            _ => {
                let bad = |der: &[u8]| EndEntityCert::try_from(&CertificateDer::from(der)).is_err();
                let which = self.all().find(|der| bad(der)).unwrap_or(self.leaf);
                let why = format!(
                    "{} is malformed ({error}); {ISSUE_ANEW}",
                    self.called(which)
                );
                refuse(CertificateError::BadEncoding, "certificate_malformed", why)
            }
        }
    }

    /// The first certificate of which this is true, in words; the device's own is looked at first.
    fn find(&self, known: &[CertificateDer<'_>], is: impl Fn(&Front<'_>) -> bool) -> String {
        let known = known.iter().map(AsRef::as_ref);
        let found = self
            .all()
            .chain(known)
            .find(|der| Front::read(der).is_ok_and(|front| is(&front)));
        self.called(found.unwrap_or(self.leaf))
    }

    /// What a certificate is called in a sentence.
    fn called(&self, der: &[u8]) -> String {
        let subject = match (Certificate::read(der), Front::read(der)) {
            (Ok(certificate), _) => shown(&certificate.subject),
            (Err(_), Ok(front)) => shown(&der::name_text(front.subject)),
            (Err(_), Err(_)) => "of no readable subject".into(),
        };
        if let Some(at) = self.all().position(|sent| sent == der) {
            return format!("certificate {} of the chain, {subject},", at + 1);
        }
        let configured = Front::read(der).ok().and_then(|front| {
            let mut alike = self.groups.named(front.subject);
            alike.find(|(_, authority)| authority.der.as_ref() == der)
        });
        match configured {
            Some((group, _)) => format!("intermediate {subject} of trust group {}", group.name),
            None => format!("the certificate of {subject}"),
        }
    }
}

/// The RSA key that a SubjectPublicKeyInfo holds, in words, if no signature of it is taken: it is below 2048 bits, or negative.
pub(super) fn weak_rsa(spki: &[u8]) -> Option<String> {
    let (_, spki) = SubjectPublicKeyInfo::from_der(spki).ok()?;
    let PublicKey::RSA(key) = spki.parsed().ok()? else {
        return None;
    };
    let zeros = key.modulus.iter().take_while(|byte| **byte == 0).count();
    let bits = match &key.modulus[zeros..] {
        // X.690 §8.3.3; a library that leaves the byte out makes keys that others cannot read.
        [first, ..] if zeros == 0 && *first >= 0x80 => {
            return Some(
                "an RSA key with a negative modulus (the zero byte in front is missing)".into(),
            );
        }
        [first, rest @ ..] => u8::BITS as usize * (1 + rest.len()) - first.leading_zeros() as usize,
        [] => 0,
    };
    (bits < 2048).then(|| format!("an RSA key of {bits} bits"))
}

/// A device whose own key can prove nothing here: it is too short, or of a kind that is not taken; `None`: it could.
pub(super) fn unfit_key(leaf: &[u8]) -> Option<Refused> {
    let spki = Front::read(leaf).ok()?.spki;
    let key = weak_rsa(spki).or_else(|| strange_kind(spki))?;
    let why = format!("the device's certificate has {key}; {ALGORITHMS}");
    Some(refuse(
        CertificateError::InvalidPurpose,
        "certificate_unsupported",
        why,
    ))
}

/// The kind of key that a SubjectPublicKeyInfo holds, in words, if no signature of such a key is taken.
fn strange_kind(spki: &[u8]) -> Option<String> {
    const EC: &str = "1.2.840.10045.2.1";
    let (kind, _) = der::key_of(spki).ok()?;
    let mut taken = algorithms().all.iter();
    if taken.any(|taken| taken.public_key_alg_id().as_ref() == kind) {
        return None;
    }
    let mut parts = Reader::new(kind);
    let id = der::dotted(parts.expect(der::OID).ok()?.content);
    Some(match parts.expect(der::OID) {
        Ok(curve) if id == EC => format!(
            "an elliptic-curve key on a curve that is not taken ({})",
            der::dotted(curve.content)
        ),
        // RFC 5480 §2.1.1: the curve is named.
        Err(_) if id == EC => {
            "an elliptic-curve key that spells its curve out instead of naming it".into()
        }
        _ => format!("a key of a kind that is not taken ({id})"),
    })
}

/// A chain that needs more than is spent on a stranger.
pub(super) fn too_large(what: &str, rule: &str) -> Refused {
    Refused {
        error: CertificateError::Other(OtherError(Arc::new(TooLarge))),
        refusal: CertificateRefusal {
            reason: TOO_LARGE,
            why: format!("{what}, and {rule}; let it send its own and the intermediates only"),
        },
    }
}

fn refuse(error: CertificateError, reason: &'static str, why: String) -> Refused {
    Refused {
        error,
        refusal: CertificateRefusal { reason, why },
    }
}

fn seconds(time: rustls_pki_types::UnixTime) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// Text from the wire, in quotes, escaped and cut short.
fn shown(text: &str) -> String {
    const LONGEST: usize = 128;
    match text.char_indices().nth(LONGEST) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", &text[..end]),
    }
}

/// The chain as its names link it, from the device's own certificate up.
struct Path<'a> {
    chain: &'a Chain<'a>,
    links: Vec<(&'a [u8], Front<'a>)>,
    intermediates: &'a [CertificateDer<'a>],
}

impl<'a> Path<'a> {
    fn walk(chain: &'a Chain<'a>, intermediates: &'a [CertificateDer<'a>]) -> Self {
        let mut path = Self {
            chain,
            links: Vec::new(),
            intermediates,
        };
        let mut next = Some(chain.leaf.as_ref());
        while let Some(der) = next.take()
            && let Ok(front) = Front::read(der)
            && path.links.len() < MOST_CERTIFICATES
        {
            let is_anchored = path.anchors(&front).next().is_some();
            path.links.push((der, front));
            if !is_anchored {
                let (_, last) = path.links.last().expect("just pushed");
                let issuer = last.issuer;
                let is_new = |der: &&[u8]| !path.links.iter().any(|(known, _)| known == der);
                next = path.issuers(issuer).find(is_new);
            }
        }
        path
    }

    /// The configured anchors that bear the issuer's name.
    fn anchors(&self, front: &Front<'_>) -> impl Iterator<Item = &'a [u8]> {
        let named = self.chain.groups.named(front.issuer);
        named.filter_map(|(_, ca)| ca.is_anchor.then_some(ca.spki.as_slice()))
    }

    /// The intermediates that bear this name.
    fn issuers(&self, name: &[u8]) -> impl Iterator<Item = &'a [u8]> {
        let all = self.intermediates.iter().map(AsRef::as_ref);
        all.filter(move |der: &&[u8]| Front::read(der).is_ok_and(|front| front.subject == name))
    }

    /// The certificate where `broken` is true, in words; the device's own, if there is none.
    fn called_where(&self, broken: impl Fn(usize, &X509Certificate<'_>) -> bool) -> String {
        let found = self.links.iter().enumerate().find(|(at, (der, _))| {
            X509Certificate::from_der(der).is_ok_and(|(_, parsed)| broken(*at, &parsed))
        });
        let der = found.map_or(self.chain.leaf.as_ref(), |(_, (der, _))| der);
        self.chain.called(der)
    }

    fn unknown_issuer(&self) -> String {
        let Some((der, front)) = self.links.last() else {
            return "no trust group of this listener knows its issuer; add that CA to [[trust]] ca"
                .into();
        };
        let which = self.chain.called(der);
        if front.issuer == front.subject {
            return format!(
                "{which} signed itself, and is no anchor of a trust group of this listener; add it to [[trust]] ca if it is \
                 your CA, else give the device a certificate of a CA that is"
            );
        }
        format!(
            "{which} was issued by {}, which no trust group of this listener knows; add that CA to [[trust]] ca, or if it \
             is an intermediate, to intermediates",
            shown(&der::name_text(front.issuer))
        )
    }

    /// Tells of the first CA of the chain whose key is too short for its signatures to count.
    fn short_key(&self) -> Option<String> {
        let issuers = self
            .links
            .iter()
            .flat_map(|(_, front)| self.issuers(front.issuer));
        issuers.take(MOST_CERTIFICATES).find_map(|der| {
            let key = weak_rsa(Front::read(der).ok()?.spki)?;
            let which = self.chain.called(der);
            Some(format!("{which} has {key}; {ALGORITHMS}"))
        })
    }

    fn bad_signature(&self) -> String {
        let mut left = 2 * MOST_CERTIFICATES; // signatures checked, at most
        for (der, front) in &self.links {
            let Ok(signed) = Signed::read(der) else {
                continue;
            };
            let intermediates = self.issuers(front.issuer);
            let keys = intermediates.filter_map(|der| Some(Front::read(der).ok()?.spki));
            let mut keys = self.anchors(front).chain(keys);
            let mut tried = false;
            let good = keys.by_ref().take(left).any(|spki| {
                (left, tried) = (left.saturating_sub(1), true);
                signed.verify(spki, algorithms()).is_ok()
            });
            if tried && !good {
                return format!(
                    "{} says that {} issued it, but was not signed with the key of that CA as known here: another CA \
                     of that name (a new key?), or an altered certificate; if the CA is yours, add its certificate with \
                     that key to [[trust]] ca or intermediates",
                    self.chain.called(der),
                    shown(&der::name_text(front.issuer))
                );
            }
        }
        let which = self.chain.called(self.chain.leaf);
        format!("{which} or one above it is not signed with its issuer's key; {ISSUE_ANEW}")
    }

    fn wrong_purpose(&self, error: &webpki::Error) -> String {
        use webpki::Error as E;
        match error {
            E::CaUsedAsEndEntity => format!(
                "{} is a CA's (basicConstraints), not a device's; give the device a certificate of its own",
                self.chain.called(self.chain.leaf)
            ),
            E::EndEntityUsedAsCa => {
                let which = self.called_where(|at, parsed| at > 0 && !parsed.is_ca());
                format!("{which} is used as a CA, but is none (basicConstraints); {ISSUE_ANEW}")
            }
            E::PathLenConstraintViolated => {
                let which = self.called_where(|at, parsed| {
                    let constraints = parsed.basic_constraints().ok().flatten();
                    let most = constraints.and_then(|c| c.value.path_len_constraint);
                    most.is_some_and(|most| at > 1 + most as usize)
                });
                format!(
                    "{which} allows fewer CAs below it than the chain has (pathLenConstraint); have the device's \
                     certificate issued by a CA nearer to it"
                )
            }
            _ => {
                let which = self.called_where(|_, parsed| {
                    let usage = parsed.extended_key_usage().ok().flatten();
                    usage.is_some_and(|usage| !usage.value.client_auth)
                });
                format!(
                    "{which} may be used for other purposes only (extendedKeyUsage lacks clientAuth); have it issued \
                     with clientAuth, or without that extension"
                )
            }
        }
    }

    fn unsupported(&self, error: &webpki::Error) -> String {
        use webpki::Error as E;
        match error {
            E::UnsupportedCertVersion => {
                let old = self.links.iter().find(|(_, front)| !front.is_v3);
                let which = old.map_or(self.chain.leaf.as_ref(), |(der, _)| der);
                let which = self.chain.called(which);
                format!("{which} is not of version 3; have it issued as version 3")
            }
            E::UnsupportedCriticalExtension => {
                let which = self.called_where(|_, parsed| unknown_critical(parsed).is_some());
                let ids = self
                    .links
                    .iter()
                    .find_map(|(der, _)| unknown_critical(&X509Certificate::from_der(der).ok()?.1));
                format!(
                    "{which} has a critical extension that is not known here ({}); have it issued without, or not critical",
                    ids.unwrap_or_default()
                )
            }
            _ => {
                let is_known = |algorithm: &[u8]| {
                    let mut known = algorithms().all.iter();
                    known.any(|known| known.signature_alg_id().as_ref() == algorithm)
                };
                let found = self
                    .links
                    .iter()
                    .find(|(_, front)| !is_known(front.algorithm));
                let Some((der, front)) = found else {
                    let which = self.chain.called(self.chain.leaf);
                    return format!(
                        "{which} or a CA above it is signed with an algorithm that does not fit its issuer's key, or with a \
                         key of a kind that is not supported; {ALGORITHMS}"
                    );
                };
                let id = Reader::new(front.algorithm).expect(der::OID);
                format!(
                    "{} is signed with an algorithm that is not supported ({}); {ALGORITHMS}",
                    self.chain.called(der),
                    id.map_or_else(|_| String::new(), |id| der::dotted(id.content))
                )
            }
        }
    }
}

const ALGORITHMS: &str = "have it issued with ECDSA (P-256, P-384, P-521), Ed25519, or RSA (2048 to 8192 bits) with SHA-256 or better";

/// The first critical extension that webpki does not know.
fn unknown_critical(certificate: &X509Certificate<'_>) -> Option<String> {
    const KNOWN: [&str; 6] = [
        "2.5.29.15",
        "2.5.29.17",
        "2.5.29.19",
        "2.5.29.30",
        "2.5.29.31",
        "2.5.29.37",
    ];
    let mut extensions = certificate.extensions().iter().filter(|e| e.critical);
    extensions.find_map(|extension| {
        let id = extension.oid.to_id_string();
        (!KNOWN.contains(&id.as_str())).then_some(id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::tlv;

    /// threats.md T3: the sentence tells what is wrong with the key.
    #[test]
    fn a_weak_rsa_key_is_told_by_its_length_or_its_sign() {
        let spki = |modulus: &[u8]| {
            let key = [tlv(2, modulus), tlv(2, &[1, 0, 1])].concat();
            let rsa = [tlv(6, b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01"), tlv(5, &[])].concat();
            let bits = [&[0][..], &tlv(0x30, &key)].concat();
            tlv(0x30, &[tlv(0x30, &rsa), tlv(3, &bits)].concat())
        };
        let with_zero = |first: u8, length: usize| {
            let mut modulus = vec![0, first];
            modulus.resize(1 + length, 7);
            modulus
        };
        for (modulus, told) in [
            (with_zero(0x80, 256), None),
            (with_zero(0x80, 128), Some("an RSA key of 1024 bits")),
            (
                with_zero(0x80, 256)[1..].to_vec(),
                Some("an RSA key with a negative modulus (the zero byte in front is missing)"),
            ),
            (
                [&[0x7f][..], &[7; 255]].concat(),
                Some("an RSA key of 2047 bits"),
            ),
            (vec![0], Some("an RSA key of 0 bits")),
        ] {
            assert_eq!(weak_rsa(&spki(&modulus)).as_deref(), told);
        }
    }

    /// threats.md T3: likewise of a key that nothing here can check.
    #[test]
    fn a_key_of_a_strange_kind_is_told_by_its_curve_or_its_number() {
        let ec = tlv(6, b"\x2a\x86\x48\xce\x3d\x02\x01");
        let p256 = tlv(6, b"\x2a\x86\x48\xce\x3d\x03\x01\x07");
        let secp256k1 = tlv(6, b"\x2b\x81\x04\x00\x0a");
        let ed25519 = tlv(6, b"\x2b\x65\x70");
        let ed448 = tlv(6, b"\x2b\x65\x71");
        for (kind, told) in [
            ([ec.clone(), p256].concat(), None),
            (ed25519, None),
            (
                [ec.clone(), secp256k1].concat(),
                Some("an elliptic-curve key on a curve that is not taken (1.3.132.0.10)"),
            ),
            (
                [ec, tlv(0x30, &[])].concat(),
                Some("an elliptic-curve key that spells its curve out instead of naming it"),
            ),
            (
                ed448,
                Some("a key of a kind that is not taken (1.3.101.113)"),
            ),
        ] {
            let spki = tlv(0x30, &[tlv(0x30, &kind), tlv(3, &[0, 4])].concat());
            assert_eq!(strange_kind(&spki).as_deref(), told);
        }
    }
}
