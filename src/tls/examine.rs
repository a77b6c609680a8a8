//! What a handshake would make of a chain, and by which way up: for people who ask. No connection comes here.

use std::sync::Arc;

use rustls::AlertDescription;
use rustls_pki_types::CertificateDer;
use webpki::VerifiedPath;
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};
use x509_parser::public_key::PublicKey;

use super::der::Front;
use super::diagnose::{Chain, Refused, unfit_key};
use super::trust::{Authority, CrlStale, Group, Groups};
use super::verify::{CertificateRefusal, DeviceVerifier, MOST_CERTIFICATES, Shown, bound, verify};
use crate::rules::identity::{Certificate, Naming};

/// What a handshake would make of a chain, but for the proof that the device holds its key: only that there can be one.
#[derive(Debug)]
pub struct Examined {
    /// What it would go on with.
    pub outcome: Result<Shown, Ended>,
    /// The device's own certificate, if it can be read.
    pub certificate: Option<Arc<Certificate>>,
    /// From the device's own certificate up.
    pub links: Vec<Link>,
    /// The links are the path that was verified; else only the names link them, as far as they go.
    pub is_path: bool,
    /// The group of the anchor at the end of the links, if they end in one: its name, and how it names devices.
    pub group: Option<(Arc<str>, Naming)>,
}

/// The handshake would end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ended {
    /// Why.
    pub refusal: CertificateRefusal,
    /// The alert that the device would see, as RFC 8446 §6 spells it.
    pub alert: String,
}

/// One certificate on the way up.
#[derive(Clone, Debug)]
pub struct Link {
    /// `None`: it cannot be read.
    pub certificate: Option<Certificate>,
    /// Where it is from.
    pub source: Source,
}

/// Where a certificate of a chain is from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// The device sent it, in this place, from 1.
    Sent(usize),
    /// `intermediates` of this trust group.
    Intermediate(Arc<str>),
    /// `ca` of this trust group.
    Anchor(Arc<str>),
}

impl DeviceVerifier {
    /// What a handshake would make of the chain of a device that holds the key of `leaf`, at `now` (seconds since 1970).
    /// Nothing of it is remembered.
    pub fn examine(
        &self,
        leaf: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
        now: i64,
    ) -> Examined {
        let groups = self.groups();
        let chain = Chain { groups, leaf, sent };
        let judged = self.judge(leaf, sent, now);
        let certificate = judged.certificate.clone();
        let mut path = None;
        if bound(&chain).is_ok() {
            // Once more, for the way that it went; the outcome is what was judged.
            let _ = verify(
                &chain,
                certificate.clone(),
                now,
                CrlStale::Refuse,
                |found, group| {
                    path = Some(by_path(&chain, found, group));
                },
            );
        }
        let is_path = path.is_some();
        let (links, group) = path.unwrap_or_else(|| by_names(&chain));
        let outcome = match (self.taken(judged), unfit_key(leaf)) {
            (Ok(_), Some(refused)) => Err(refused),
            (outcome, _) => outcome,
        };
        Examined {
            outcome: outcome.map_err(Ended::of),
            certificate,
            links,
            is_path,
            group: group.map(|group| (group.name.clone(), group.naming.clone())),
        }
    }
}

impl Ended {
    fn of(refused: Refused) -> Self {
        Self {
            alert: alert(refused.error.into()),
            refusal: refused.refusal,
        }
    }
}

/// `UnknownCA` as the standard spells it: `unknown_ca`.
fn alert(alert: AlertDescription) -> String {
    let mut word = String::new();
    let mut in_capitals = true;
    for c in format!("{alert:?}").chars() {
        if c.is_ascii_uppercase() && !in_capitals {
            word.push('_');
        }
        in_capitals = c.is_ascii_uppercase();
        word.push(c.to_ascii_lowercase());
    }
    word
}

type Way<'a> = (Vec<Link>, Option<&'a Group>);

/// The links of a path that was verified; it ends in an anchor of the group called so.
fn by_path<'a>(chain: &Chain<'a>, path: &VerifiedPath<'_>, group: &Group) -> Way<'a> {
    let mut links = vec![sent(chain, chain.leaf)];
    for certificate in path.intermediate_certificates() {
        links.push(above(chain, &certificate.der()));
    }
    let anchor = path.anchor();
    let key = webpki::spki_for_anchor(anchor);
    let mut alike = chain.groups.named(&anchor.subject);
    let found = alike.find(|(owner, authority)| {
        owner.name == group.name && authority.is_anchor && authority.spki == *key
    });
    links.extend(found.map(|(group, authority)| configured(group, authority)));
    (links, found.map(|(group, _)| group))
}

/// The links as their names go on, up to an anchor, or to where nobody is known.
fn by_names<'a>(chain: &Chain<'a>) -> Way<'a> {
    let mut links = vec![sent(chain, chain.leaf)];
    let mut ders = vec![chain.leaf.as_ref()];
    while ders.len() < MOST_CERTIFICATES
        && let Some(front) = ders.last().and_then(|der| Front::read(der).ok())
    {
        let groups: &Groups = chain.groups;
        if let Some((group, anchor)) = groups.named(front.issuer).find(|(_, ca)| ca.is_anchor) {
            links.push(configured(group, anchor));
            return (links, Some(group));
        }
        let issuer = |der: &&[u8]| Front::read(der).is_ok_and(|one| one.subject == front.issuer);
        let known = groups.named(front.issuer).map(|(_, ca)| ca.der.as_ref());
        let mut all = chain.sent.iter().map(AsRef::as_ref).chain(known);
        let Some(next) = all.find(|der| issuer(der) && !ders.contains(der)) else {
            break;
        };
        links.push(above(chain, next));
        ders.push(next);
    }
    (links, None)
}

fn sent(chain: &Chain<'_>, der: &[u8]) -> Link {
    let place = chain.all().position(|sent| sent == der).unwrap_or_default();
    Link {
        certificate: Certificate::read(der).ok(),
        source: Source::Sent(place + 1),
    }
}

/// A certificate above the device's own: sent, or else configured.
fn above(chain: &Chain<'_>, der: &[u8]) -> Link {
    let subject = Front::read(der).map(|front| front.subject);
    let mut alike = chain.groups.named(subject.unwrap_or_default());
    let is_sent = chain.all().any(|sent| sent == der);
    match alike.find(|(_, authority)| authority.der.as_ref() == der) {
        Some((group, authority)) if !is_sent => configured(group, authority),
        _ => sent(chain, der),
    }
}

fn configured(group: &Group, authority: &Authority) -> Link {
    let name = group.name.clone();
    Link {
        certificate: Some(authority.facts.clone()),
        source: if authority.is_anchor {
            Source::Anchor(name)
        } else {
            Source::Intermediate(name)
        },
    }
}

/// The kind of key that a certificate is for, and its size: `ECDSA P-256`, `RSA 2048` …
pub fn key_words(der: &[u8]) -> String {
    const UNREADABLE: &str = "not readable";
    let Ok(key) = Certificate::public_key(der) else {
        return UNREADABLE.into();
    };
    let Ok((_, key)) = SubjectPublicKeyInfo::from_der(key) else {
        return UNREADABLE.into();
    };
    let kind = key.algorithm.algorithm.to_id_string();
    match (kind.as_str(), key.parsed()) {
        ("1.3.101.112", _) => "Ed25519".into(),
        ("1.3.101.113", _) => "Ed448".into(),
        (_, Ok(PublicKey::RSA(rsa))) => format!("RSA {}", rsa.key_size()),
        (_, Ok(PublicKey::EC(_))) => {
            let curve = key.algorithm.parameters.as_ref();
            let curve = curve.and_then(|any| any.as_oid().ok());
            let curve = curve.map_or_else(|| "of no named curve".into(), |id| id.to_id_string());
            let name = match curve.as_str() {
                "1.2.840.10045.3.1.7" => "P-256",
                "1.3.132.0.34" => "P-384",
                "1.3.132.0.35" => "P-521",
                "1.3.132.0.10" => "secp256k1",
                other => other,
            };
            format!("ECDSA {name}")
        }
        (other, _) => format!("of the kind {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_are_spelt_as_in_the_standard() {
        for (is, spelt) in [
            (AlertDescription::UnknownCA, "unknown_ca"),
            (AlertDescription::CertificateExpired, "certificate_expired"),
            (AlertDescription::DecryptError, "decrypt_error"),
        ] {
            assert_eq!(alert(is), spelt);
        }
    }
}
