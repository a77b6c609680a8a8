//! Trust groups: whose word counts, and which field of a certificate names the device.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls_pki_types::{CertificateDer, Der, TrustAnchor};
use webpki::EndEntityCert;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::crl::{self, Lists};
use super::der::{Front, SignatureFault};
use super::diagnose::weak_rsa;
use super::files;
use super::tickets::Scope;
use super::verify::algorithms;
use crate::rules::change;
use crate::rules::device::Alphabet;
use crate::rules::identity::{Certificate, Field, Naming};
use crate::rules::record::ISSUER;

/// `[[trust]]` as the gate obeys it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The group's name, for logs, templates and `listener.trust`.
    pub name: String,
    /// PEM files of anchors; at least one.
    pub ca: Vec<PathBuf>,
    /// PEM files of intermediates, for devices that send only their leaf.
    pub intermediates: Vec<PathBuf>,
    /// CRL files, PEM or DER.
    pub crl: Vec<PathBuf>,
    /// What a list past its nextUpdate means.
    pub crl_stale: CrlStale,
    /// Which field names the device.
    pub naming: Naming,
}

impl Settings {
    /// What stands for the issuer of JWTs where a device is bound to a group: it names devices itself, and vouches for no certificate.
    pub fn issuer() -> Self {
        Self {
            name: ISSUER.to_owned(),
            ca: Vec::new(),
            intermediates: Vec::new(),
            crl: Vec::new(),
            crl_stale: CrlStale::Refuse,
            naming: Naming {
                field: Field::SubjectCn,
                pattern: None,
                alphabet: Alphabet::default(),
            },
        }
    }

    /// The group, as far as a device's credentials name it.
    pub fn group(&self) -> change::Group {
        change::Group {
            name: self.name.clone(),
            naming: self.naming.clone(),
        }
    }
}

/// `crl_stale`: what a list past its nextUpdate means for the devices of its group.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CrlStale {
    /// They are refused.
    Refuse,
    /// The old list is used on.
    Use,
}

/// A trust group as the verifier uses it.
#[derive(Debug)]
pub struct Group {
    /// Its name.
    pub name: Arc<str>,
    /// Which field of its certificates names the device.
    pub naming: Naming,
    pub(super) crl_stale: CrlStale,
    /// Empty: revocation is not looked at.
    pub(super) lists: Lists,
    authorities: Vec<Authority>,
}

/// The trust groups that count at one listener.
#[derive(Debug)]
pub struct Groups {
    all: Vec<Arc<Group>>,
    /// By the content of the subject's name: which group, which of its authorities, and the anchor made of it.
    anchors: HashMap<Vec<u8>, Vec<(usize, usize, TrustAnchor<'static>)>>,
    /// By the content of the subject's name: which group, and which of its authorities.
    intermediates: HashMap<Vec<u8>, Vec<(usize, usize)>>,
}

/// Something in `[[trust]]` that cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{key}: {sentence}")]
pub struct GroupFault {
    /// The key at fault, such as `trust[fleet].ca`.
    pub key: String,
    /// What is wrong, where, and the way out.
    pub sentence: String,
}

/// The certificate of a CA that the operator configured.
#[derive(Debug)]
pub(super) struct Authority {
    pub(super) der: CertificateDer<'static>,
    pub(super) facts: Certificate,
    pub(super) is_anchor: bool,
    /// The content of its subject's name.
    subject: Vec<u8>,
    /// The content of its issuer's name.
    issuer: Vec<u8>,
    /// Its whole SubjectPublicKeyInfo.
    pub(super) spki: Vec<u8>,
    may_sign_lists: bool,
}

/// What a path for one certificate could be built of. Borrowed, and as small as the chain wants it (threats.md T2).
pub(super) struct Candidates<'a> {
    pub(super) anchors: Vec<TrustAnchor<'a>>,
    /// The group of each of `anchors`.
    pub(super) owners: Vec<&'a Arc<Group>>,
    pub(super) intermediates: Vec<&'a CertificateDer<'static>>,
}

impl Groups {
    /// Reads the files of the groups that count at one listener.
    ///
    /// # Errors
    /// Every fault of every group.
    pub fn load(settings: &[&Settings]) -> Result<Self, Vec<GroupFault>> {
        let mut faults = Vec::new();
        let mut loaded = Self {
            all: Vec::new(),
            anchors: HashMap::new(),
            intermediates: HashMap::new(),
        };
        for settings in settings {
            let group = Group::load(settings, &mut faults);
            loaded.add(group, &mut faults);
        }
        if faults.is_empty() {
            Ok(loaded)
        } else {
            Err(faults)
        }
    }

    fn add(&mut self, group: Group, faults: &mut Vec<GroupFault>) {
        let index = self.all.len();
        for (place, authority) in group.authorities.iter().enumerate() {
            let subject = authority.subject.clone();
            if !authority.is_anchor {
                let alike = self.intermediates.entry(subject).or_default();
                alike.push((index, place));
                continue;
            }
            let alike = self.anchors.entry(subject).or_default();
            // Which of the two groups a device belongs to would be a matter of chance (threats.md I7).
            let elsewhere = alike.iter().find(|(other, at, _)| {
                *other != index && self.all[*other].authorities[*at].spki == authority.spki
            });
            if let Some((other, ..)) = elsewhere {
                faults.push(GroupFault {
                    key: format!("trust[{}].ca", group.name),
                    sentence: format!(
                        "{:?} is an anchor of trust[{}] too, so its devices would belong to both; keep it in one, or \
                         give the groups to different listeners (listener.trust)",
                        authority.facts.subject, self.all[*other].name
                    ),
                });
            }
            if let Ok(anchor) = webpki::anchor_from_trusted_cert(&authority.der) {
                alike.push((index, place, anchor.to_owned()));
            }
        }
        self.all.push(Arc::new(group));
    }

    /// What an operator should look after, `now` in seconds since 1970.
    pub fn warnings(&self, now: i64) -> Vec<String> {
        self.all
            .iter()
            .flat_map(|group| group.warnings(now))
            .collect()
    }

    /// What has lapsed since it was loaded, or nearly so, `now` in seconds since 1970: CAs and revocation lists.
    pub fn lapsed(&self, now: i64) -> Vec<String> {
        self.all
            .iter()
            .flat_map(|group| group.lapsed(now))
            .collect()
    }

    /// For each CA: its group, whether it is an anchor or an intermediate, and when it ends, in seconds since 1970.
    pub fn authority_ends(&self) -> Vec<(Arc<str>, bool, i64)> {
        let of = |group: &Arc<Group>| {
            let name = group.name.clone();
            let all = group.authorities.iter();
            let all = all.map(move |ca| (name.clone(), ca.is_anchor, ca.facts.not_after));
            all.collect::<Vec<_>>()
        };
        self.all.iter().flat_map(of).collect()
    }

    /// For each revocation list: the group and its issuer, and its nextUpdate in seconds since 1970. CAs of one name are told alike.
    pub fn next_updates(&self) -> Vec<(String, i64)> {
        let periods = self.periods().into_iter();
        periods
            .map(|(group, issuer, _, next)| (format!("{group}: {issuer}"), next))
            .collect()
    }

    /// For each revocation list that has a nextUpdate: the group and its issuer, its thisUpdate and its nextUpdate, in seconds since
    /// 1970.
    pub fn periods(&self) -> Vec<(Arc<str>, String, i64, i64)> {
        let lists = self
            .all
            .iter()
            .flat_map(|group| group.lists.iter().map(move |list| (group, list)));
        lists
            .filter_map(|(group, list)| {
                let issuer = list.issuer.clone();
                Some((
                    group.name.clone(),
                    issuer,
                    list.this_update,
                    list.next_update?,
                ))
            })
            .collect()
    }

    /// Tells whom the listener trusts, and for which names; not what becomes of a chain, which is judged each time.
    pub(super) fn tell_demands(&self, scope: &mut Scope) {
        scope.add(self.all.len().to_be_bytes());
        for group in &self.all {
            let Naming {
                field,
                pattern,
                alphabet,
            } = &group.naming;
            scope.add(&*group.name);
            scope.add(field.word());
            scope.add(pattern.as_ref().map_or(String::new(), ToString::to_string));
            scope.add(
                (' '..='~')
                    .filter(|c| alphabet.holds(*c))
                    .collect::<String>(),
            );
            let anchors = || group.authorities.iter().filter(|ca| ca.is_anchor);
            scope.add(anchors().count().to_be_bytes());
            anchors().for_each(|ca| scope.add(&ca.der));
        }
    }

    /// The anchors and intermediates that could have issued something whose issuers are among `wanted`.
    pub(super) fn candidates<'a>(&'a self, mut wanted: Vec<&'a [u8]>) -> Candidates<'a> {
        let mut candidates = Candidates {
            anchors: Vec::new(),
            owners: Vec::new(),
            intermediates: Vec::new(),
        };
        let mut next = 0;
        while let Some(&name) = wanted.get(next) {
            next += 1;
            if wanted[..next - 1].contains(&name) {
                continue;
            }
            for (group, _, anchor) in self.anchors.get(name).into_iter().flatten() {
                candidates.anchors.push(borrow(anchor));
                candidates.owners.push(&self.all[*group]);
            }
            for authority in self.intermediates_named(name) {
                candidates.intermediates.push(&authority.der);
                wanted.push(&authority.issuer);
            }
        }
        candidates
    }

    fn intermediates_named(&self, subject: &[u8]) -> impl Iterator<Item = &Authority> {
        let places = self.intermediates.get(subject).into_iter().flatten();
        places.map(|(group, at)| &self.all[*group].authorities[*at])
    }

    /// The configured CAs with this name, with their groups: anchors first.
    pub(super) fn named(&self, subject: &[u8]) -> impl Iterator<Item = (&Group, &Authority)> {
        let anchors = self.anchors.get(subject).into_iter().flatten();
        let intermediates = self.intermediates.get(subject).into_iter().flatten();
        anchors
            .map(|(group, at, _)| (*group, *at))
            .chain(intermediates.copied())
            .map(|(group, at)| {
                let group = self.all[group].as_ref();
                (group, &group.authorities[at])
            })
    }
}

/// The same anchor, borrowed: webpki wants them side by side.
fn borrow<'a>(anchor: &'a TrustAnchor<'static>) -> TrustAnchor<'a> {
    TrustAnchor {
        subject: Der::from_slice(&anchor.subject),
        subject_public_key_info: Der::from_slice(&anchor.subject_public_key_info),
        name_constraints: anchor
            .name_constraints
            .as_ref()
            .map(|constraints| Der::from_slice(constraints)),
    }
}

impl Group {
    fn load(settings: &Settings, faults: &mut Vec<GroupFault>) -> Self {
        let mut fault = |key: &str, sentence: String| {
            faults.push(GroupFault {
                key: format!("trust[{}].{key}", settings.name),
                sentence,
            });
        };
        let mut group = Self {
            name: settings.name.as_str().into(),
            naming: settings.naming.clone(),
            crl_stale: settings.crl_stale,
            lists: Lists::default(),
            authorities: Vec::new(),
        };
        if settings.ca.is_empty() {
            fault("ca", "no anchor is given; name at least one file".into());
        }
        for (key, paths, is_anchor) in [
            ("ca", &settings.ca, true),
            ("intermediates", &settings.intermediates, false),
        ] {
            for path in paths {
                match files::certificates(path) {
                    Err(file) => fault(key, file.to_string()),
                    Ok(certificates) => {
                        for (n, der) in (1..).zip(certificates) {
                            match Authority::read(&der, is_anchor) {
                                Ok(authority) => group.authorities.push(authority),
                                Err(why) => fault(key, place(path, "certificate", n, &why)),
                            }
                        }
                    }
                }
            }
        }
        // Serials are unique for one CA only (RFC 5280 §4.1.2.2). A CA's new certificate for its old key is the same CA.
        let issuers = group.authorities.iter().map(|ca| (&ca.subject, &ca.spki));
        if settings.naming.field == Field::Serial && issuers.collect::<HashSet<_>>().len() > 1 {
            let sentence = "\"serial\" cannot name the devices of more than one CA: each gives the same serials, so two devices \
                            could have one name; give each CA a trust group of its own, without intermediates, or name another \
                            field";
            fault("device", sentence.into());
        }
        for path in &settings.crl {
            match files::crls(path) {
                Err(file) => fault("crl", file.to_string()),
                Ok(lists) => {
                    for (n, der) in (1..).zip(lists) {
                        if let Err(why) = group.add_list(&der, algorithms()) {
                            fault("crl", place(path, "list", n, &why));
                        }
                    }
                }
            }
        }
        group
    }

    /// Reads a revocation list and checks it against the CA of this group that issued it.
    fn add_list(&mut self, der: &[u8], known: &WebPkiSupportedAlgorithms) -> Result<(), String> {
        let list = crl::read(der).map_err(|fault| fault.to_string())?;
        let mut verdict = None;
        for authority in self
            .authorities
            .iter()
            .filter(|ca| ca.subject == list.issuer)
        {
            match list.is_signed_by(&authority.spki, known) {
                Ok(()) if authority.may_sign_lists => {
                    let spki = authority.spki.clone();
                    self.lists.add(list, &spki);
                    return Ok(());
                }
                Ok(()) => {
                    let why = "the certificate of {:?} does not allow its key to sign lists (keyUsage lacks cRLSign); \
                         have the CA's certificate issued anew";
                    verdict = Some(why.replace("{:?}", &format!("{:?}", list.issuer_text())));
                }
                Err(fault) if verdict.is_none() => {
                    verdict = Some(match fault {
                        SignatureFault::Wrong => format!(
                            "it says that {:?} issued it, but the key of that CA did not sign it: another CA of that \
                             name, or an altered list; fetch it again, or add the CA that signed it to ca or \
                             intermediates",
                            list.issuer_text()
                        ),
                        SignatureFault::Unsupported => format!(
                            "it is signed with an algorithm that is not supported, or does not fit the key of {:?}; \
                             have it signed with ECDSA, Ed25519, or RSA (2048 bits and up) with SHA-256 or better",
                            list.issuer_text()
                        ),
                    });
                }
                Err(_) => {}
            }
        }
        Err(verdict.unwrap_or_else(|| {
            format!(
                "it was issued by {:?}, which is neither among ca nor among intermediates of this group; add that CA",
                list.issuer_text()
            )
        }))
    }

    fn warnings(&self, now: i64) -> Vec<String> {
        let mut warnings = self.lapsed(now);
        let mut warn = |sentence| warnings.push(self.warning("crl", sentence));
        for sentence in self.unlisted() {
            warn(sentence);
        }
        for list in self.lists.iter() {
            let issuer = &list.issuer;
            if list.next_update.is_none() {
                warn(format!(
                    "the list of {issuer:?} has no nextUpdate, so it never counts as stale"
                ));
            }
            if list.this_update > now {
                let from = date(list.this_update);
                warn(format!(
                    "the list of {issuer:?} is dated {from}, which is still to come; see to this host's clock"
                ));
            }
        }
        warnings
    }

    /// Once there are lists, each CA whose devices none of them speaks for: all of these are refused (threats.md T9).
    fn unlisted(&self) -> Vec<String> {
        if self.lists.is_empty() {
            return Vec::new();
        }
        let mut told = HashSet::new();
        let bare = self.authorities.iter().filter(|ca| {
            // The same CA may be there with several certificates.
            !self.lists.speaks_for_devices(&ca.subject, &ca.spki)
                && told.insert((&ca.subject, &ca.spki))
        });
        bare.map(|ca| {
            let subject = &ca.facts.subject;
            let has_namesake =
                |other: &Authority| other.subject == ca.subject && other.spki != ca.spki;
            let which = if self.authorities.iter().any(has_namesake) {
                format!(" (serial {})", ca.facts.serial)
            } else {
                String::new()
            };
            let has = if self.lists.covers(&ca.subject, &ca.spki) {
                "has a revocation list for CAs only"
            } else {
                "has no revocation list"
            };
            let way_out = "so devices that it issued are refused (crl_missing); add its list";
            format!("{subject:?}{which} {has}, {way_out}")
        })
        .collect()
    }

    /// The warnings that come with time.
    fn lapsed(&self, now: i64) -> Vec<String> {
        let mut warnings = Vec::new();
        for ca in &self.authorities {
            let key = if ca.is_anchor { "ca" } else { "intermediates" };
            let (subject, end) = (&ca.facts.subject, ca.facts.not_after);
            let consequence = if ca.is_anchor {
                "its devices are still taken, as an anchor's own dates are not judged"
            } else {
                "devices that need it are refused"
            };
            let sentence = if end < now {
                format!("{subject:?} ended on {}; {consequence}", date(end))
            } else if end < now + MONTH {
                format!("{subject:?} ends on {}; have it renewed", date(end))
            } else {
                continue;
            };
            warnings.push(self.warning(key, sentence));
        }
        for list in self.lists.iter() {
            let Some(next) = list.next_update.filter(|next| *next < now) else {
                continue;
            };
            let consequence = match self.crl_stale {
                CrlStale::Refuse => "the devices it speaks for are refused (crl_stale)",
                CrlStale::Use => "it is used on, as crl_stale says",
            };
            let (issuer, next) = (&list.issuer, date(next));
            let sentence = format!(
                "the list of {issuer:?} was to be replaced by {next}: {consequence}; fetch the new one"
            );
            warnings.push(self.warning("crl", sentence));
        }
        warnings
    }

    fn warning(&self, key: &str, sentence: impl Display) -> String {
        format!("trust[{}].{key}: {sentence}", self.name)
    }
}

/// In seconds: what ends within it is warned of.
pub(super) const MONTH: i64 = 30 * 24 * 3600;

/// The time as people write it, for sentences.
pub fn date(seconds: i64) -> String {
    let format = &time::format_description::well_known::Rfc3339;
    let time = time::OffsetDateTime::from_unix_timestamp(seconds).ok();
    time.and_then(|time| time.format(format).ok())
        .unwrap_or_else(|| format!("{seconds} s after 1970"))
}

fn place(path: &Path, what: &str, n: usize, why: &str) -> String {
    format!("{}: {what} {n} of the file: {why}", path.display())
}

impl Authority {
    /// Reads a CA's certificate; the error is a sentence with the way out.
    fn read(der: &CertificateDer<'static>, is_anchor: bool) -> Result<Self, String> {
        let malformed = || "it is no well-formed X.509 certificate; replace it".to_owned();
        let front = Front::read(der).map_err(|_| malformed())?;
        let Ok(([], parsed)) = X509Certificate::from_der(der) else {
            return Err(malformed());
        };
        let facts = Certificate::read(der).map_err(|_| malformed())?;
        let subject = &facts.subject;
        let is_ca = match parsed.basic_constraints() {
            Ok(Some(constraints)) => constraints.value.ca,
            Ok(None) => is_anchor && !front.is_v3, // version 1 has no extensions to say it in
            Err(_) => return Err(malformed()),
        };
        if !is_ca {
            return Err(format!(
                "{subject:?} is not a CA (basicConstraints); give the certificate of the CA that issues your devices'"
            ));
        }
        if let Some(key) = weak_rsa(front.spki) {
            return Err(format!(
                "{subject:?} has {key}, and no signature of a key below 2048 bits is taken; exchange \
                 the CA's key"
            ));
        }
        let usable = if is_anchor {
            webpki::anchor_from_trusted_cert(der).map(drop)
        } else {
            EndEntityCert::try_from(der).map(drop)
        };
        if let Err(error) = usable {
            return Err(format!(
                "{subject:?} cannot be used: {error}; have it issued anew"
            ));
        }
        let may_sign_lists = match parsed.key_usage() {
            Ok(usage) => usage.is_none_or(|usage| usage.value.crl_sign()),
            Err(_) => return Err(malformed()),
        };
        Ok(Self {
            subject: front.subject.to_vec(),
            issuer: front.issuer.to_vec(),
            spki: front.spki.to_vec(),
            facts,
            is_anchor,
            may_sign_lists,
            der: der.clone(),
        })
    }
}

#[cfg(test)]
mod tests;
