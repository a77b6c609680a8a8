//! Revocation lists: read and checked once, then looked up in constant time (threats.md T9, T2).
//!
//! Version 1 and version 2 lists are taken (RFC 5280 §5; x509-parser and webpki skip or refuse some of what is told here by name).
//! A list that speaks for a part of its issuer's certificates only would, taken as the whole, let
//! revoked devices in: it is refused when it is loaded.

use std::collections::{HashMap, HashSet};

use rustls::crypto::WebPkiSupportedAlgorithms;

use super::der::{self, Bad, Reader, SignatureFault, Signed};

/// Why a list cannot be used; a sentence with the way out.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum CrlFault {
    /// It is not a revocation list.
    #[error("it is no well-formed revocation list; fetch it again")]
    Malformed,
    /// Neither version 1 nor version 2.
    #[error("its version is neither 1 nor 2; have the CA issue a version 2 list")]
    Version,
    /// A delta list.
    #[error("it is a delta list (RFC 5280 §5.2.4); give the complete list instead")]
    Delta,
    /// An indirect list.
    #[error(
        "it is an indirect list, which speaks for other CAs too (RFC 5280 §5.2.5); give each CA's own list"
    )]
    Indirect,
    /// It covers a part of the CA's certificates only.
    #[error(
        "it covers only some of its CA's certificates ({0}, RFC 5280 §5.2.5); have the CA issue one complete list"
    )]
    Partial(&'static str),
    /// An extension that must be understood, and is not.
    #[error(
        "it has a critical extension {0} that tidegate does not know; have the CA leave it out"
    )]
    CriticalExtension(String),
    /// An entry takes a certificate off the list, which only a delta list can.
    #[error(
        "an entry has the reason removeFromCRL, which only a delta list may hold; give the complete list"
    )]
    RemoveFromCrl,
}

/// Which certificates of its issuer a list speaks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Scope {
    All,
    Devices,
    Authorities,
}

/// A revocation list whose signature is good.
#[derive(Debug)]
pub(super) struct List {
    /// The issuer's name as text.
    pub(super) issuer: String,
    /// In seconds since 1970.
    pub(super) this_update: i64,
    /// In seconds since 1970; `None`: the list never counts as stale.
    pub(super) next_update: Option<i64>,
    number: Option<Box<[u8]>>,
    scope: Scope,
    serials: HashSet<Box<[u8]>>,
}

impl List {
    /// Whether `now`, in seconds since 1970, is past its nextUpdate.
    pub(super) fn is_stale(&self, now: i64) -> bool {
        self.next_update.is_some_and(|next| next < now)
    }

    fn is_newer_than(&self, other: &Self) -> bool {
        let by_number = match (&self.number, &other.number) {
            (Some(a), Some(b)) => (a.len(), a).cmp(&(b.len(), b)),
            _ => std::cmp::Ordering::Equal,
        };
        by_number
            .then(self.this_update.cmp(&other.this_update))
            .is_gt()
    }
}

/// A list that was read, but whose signature was not looked at.
pub(super) struct Unchecked<'a> {
    signed: Signed<'a>,
    /// The content of its issuer's name.
    pub(super) issuer: &'a [u8],
    list: List,
}

impl Unchecked<'_> {
    /// The issuer's name as text.
    pub(super) fn issuer_text(&self) -> &str {
        &self.list.issuer
    }

    /// Whether the key `spki` signed it.
    pub(super) fn is_signed_by(
        &self,
        spki: &[u8],
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<(), SignatureFault> {
        self.signed.verify(spki, algorithms)
    }
}

/// The lists of one trust group, by issuer.
#[derive(Debug, Default)]
pub(super) struct Lists {
    by_issuer: HashMap<Vec<u8>, Vec<List>>,
}

/// What the lists say of one certificate.
pub(super) enum Standing<'a> {
    /// No list of its issuer speaks for it.
    Unlisted,
    /// It is revoked.
    Revoked,
    /// It is not revoked; by these lists, of which the one to lapse first.
    Good(&'a List),
}

impl Lists {
    /// Adds a list that the CA with this key signed; of two with the same scope the newer stays.
    pub(super) fn add(&mut self, unchecked: Unchecked<'_>, spki: &[u8]) {
        let lists = self
            .by_issuer
            .entry(key(unchecked.issuer, spki))
            .or_default();
        let new = unchecked.list;
        match lists.iter_mut().find(|old| old.scope == new.scope) {
            Some(old) if new.is_newer_than(old) => *old = new,
            Some(_) => {}
            None => lists.push(new),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_issuer.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &List> {
        self.by_issuer.values().flatten()
    }

    /// Whether there is a list of the CA with this name and key.
    pub(super) fn covers(&self, issuer: &[u8], spki: &[u8]) -> bool {
        self.by_issuer.contains_key(&key(issuer, spki))
    }

    /// Whether one of them speaks for its devices.
    pub(super) fn speaks_for_devices(&self, issuer: &[u8], spki: &[u8]) -> bool {
        let lists = self.by_issuer.get(&key(issuer, spki)).into_iter().flatten();
        let mut scopes = lists.map(|list| list.scope);
        scopes.any(|scope| scope != Scope::Authorities)
    }

    /// What the lists of the CA with this name and key say of its certificate with this serial number.
    pub(super) fn look_up(
        &self,
        issuer: &[u8],
        spki: &[u8],
        serial: &[u8],
        is_device: bool,
    ) -> Standing<'_> {
        let other = if is_device {
            Scope::Authorities
        } else {
            Scope::Devices
        };
        let lists = self.by_issuer.get(&key(issuer, spki));
        let speaking = || {
            lists
                .into_iter()
                .flatten()
                .filter(|list| list.scope != other)
        };
        if speaking().any(|list| list.serials.contains(shortest(serial))) {
            return Standing::Revoked;
        }
        let lapse = |list: &&List| list.next_update.unwrap_or(i64::MAX);
        speaking()
            .min_by_key(lapse)
            .map_or(Standing::Unlisted, Standing::Good)
    }
}

/// Name and key together are the issuer: another CA may bear the same name.
fn key(issuer: &[u8], spki: &[u8]) -> Vec<u8> {
    let length = u32::try_from(issuer.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), issuer, spki].concat()
}

/// An INTEGER's content without bytes that add nothing, so that differently spelt equals are equal.
fn shortest(mut integer: &[u8]) -> &[u8] {
    while let [0, next, ..] = integer
        && *next < 0x80
    {
        integer = &integer[1..];
    }
    integer
}

/// Reads a list without looking at its signature. Cost is linear in its size.
pub(super) fn read(der: &[u8]) -> Result<Unchecked<'_>, CrlFault> {
    let signed = Signed::read(der)?;
    let mut parts = Reader::new(signed.body);
    let is_v2 = match parts.optional(der::INTEGER)?.map(|version| version.content) {
        None => false,
        Some([1]) => true,
        Some(_) => return Err(CrlFault::Version),
    };
    if parts.expect(der::SEQUENCE)?.content != signed.algorithm {
        return Err(CrlFault::Malformed); // RFC 5280 §5.1.1.2
    }
    let issuer = parts.expect(der::SEQUENCE)?.content;
    let this_update = parts.optional_time()?.ok_or(Bad)?;
    let next_update = parts.optional_time()?;
    let serials = match parts.optional(der::SEQUENCE)? {
        Some(entries) => read_entries(entries.content, is_v2)?,
        None => HashSet::new(),
    };
    let mut list = List {
        issuer: der::name_text(issuer),
        this_update,
        next_update,
        number: None,
        scope: Scope::All,
        serials,
    };
    if let Some(extensions) = parts.optional(0xa0)? {
        if !is_v2 {
            return Err(CrlFault::Version); // RFC 5280 §5.1.2.7
        }
        read_extensions(der::only(extensions.content, der::SEQUENCE)?, &mut list)?;
    }
    parts.end()?;
    Ok(Unchecked {
        signed,
        issuer,
        list,
    })
}

impl From<Bad> for CrlFault {
    fn from(_: Bad) -> Self {
        Self::Malformed
    }
}

fn read_entries(entries: &[u8], is_v2: bool) -> Result<HashSet<Box<[u8]>>, CrlFault> {
    let mut serials = HashSet::new();
    let mut entries = Reader::new(entries);
    while !entries.is_empty() {
        let mut entry = Reader::new(entries.expect(der::SEQUENCE)?.content);
        let serial = entry.expect(der::INTEGER)?.content;
        entry.optional_time()?.ok_or(Bad)?;
        if let Some(extensions) = entry.optional(der::SEQUENCE)? {
            if !is_v2 {
                return Err(CrlFault::Version);
            }
            read_entry_extensions(extensions.content)?;
        }
        entry.end()?;
        serials.insert(shortest(serial).into());
    }
    Ok(serials)
}

/// Calls `known` with each extension's identifier and value; `false`: not known, which is a fault if it is critical.
fn each_extension(
    extensions: &[u8],
    mut known: impl FnMut(&[u8], &[u8]) -> Result<bool, CrlFault>,
) -> Result<(), CrlFault> {
    let mut extensions = Reader::new(extensions);
    while !extensions.is_empty() {
        let mut extension = Reader::new(extensions.expect(der::SEQUENCE)?.content);
        let id = extension.expect(der::OID)?.content;
        let critical = match extension.optional(der::BOOLEAN)?.map(|flag| flag.content) {
            None | Some([0]) => false, // FALSE need not be spelt, but some CAs do
            Some([0xff]) => true,
            Some(_) => return Err(CrlFault::Malformed),
        };
        let value = extension.expect(der::OCTET_STRING)?.content;
        extension.end()?;
        if !known(id, value)? && critical {
            return Err(CrlFault::CriticalExtension(der::dotted(id)));
        }
    }
    Ok(())
}

// id-ce, 2.5.29.x (RFC 5280 §5.2, §5.3)
const CRL_NUMBER: &[u8] = &[0x55, 0x1d, 20];
const REASON_CODE: &[u8] = &[0x55, 0x1d, 21];
const INVALIDITY_DATE: &[u8] = &[0x55, 0x1d, 24];
const DELTA_CRL_INDICATOR: &[u8] = &[0x55, 0x1d, 27];
const ISSUING_DISTRIBUTION_POINT: &[u8] = &[0x55, 0x1d, 28];
const CERTIFICATE_ISSUER: &[u8] = &[0x55, 0x1d, 29];
const AUTHORITY_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 35];

fn read_extensions(extensions: &[u8], list: &mut List) -> Result<(), CrlFault> {
    each_extension(extensions, |id, value| {
        match id {
            CRL_NUMBER => {
                let number = shortest(der::only(value, der::INTEGER)?);
                list.number = Some(number.into());
            }
            DELTA_CRL_INDICATOR => return Err(CrlFault::Delta),
            ISSUING_DISTRIBUTION_POINT => list.scope = read_scope(value)?,
            AUTHORITY_KEY_IDENTIFIER => {} // the signature tells more
            _ => return Ok(false),
        }
        Ok(true)
    })
}

fn read_entry_extensions(extensions: &[u8]) -> Result<(), CrlFault> {
    const REMOVE_FROM_CRL: &[u8] = &[8];
    each_extension(extensions, |id, value| match id {
        REASON_CODE if der::only(value, der::ENUMERATED)? == REMOVE_FROM_CRL => {
            Err(CrlFault::RemoveFromCrl)
        }
        REASON_CODE | INVALIDITY_DATE => Ok(true),
        CERTIFICATE_ISSUER => Err(CrlFault::Indirect),
        _ => Ok(false),
    })
}

/// Reads an issuing distribution point: which of its CA's certificates the list is about.
fn read_scope(value: &[u8]) -> Result<Scope, CrlFault> {
    let mut scope = Scope::All;
    let mut fields = Reader::new(der::only(value, der::SEQUENCE)?);
    while !fields.is_empty() {
        let field = fields.any()?;
        match (field.tag, field.content) {
            (0x81 | 0x82 | 0x84 | 0x85, [0]) => {} // FALSE
            (0x81, [0xff]) if scope == Scope::All => scope = Scope::Devices,
            (0x82, [0xff]) if scope == Scope::All => scope = Scope::Authorities,
            (0x84, [0xff]) => return Err(CrlFault::Indirect),
            // A list with a distribution point is complete for the certificates that name that point, not for its CA's.
            (0xa0, _) => return Err(CrlFault::Partial("distributionPoint")),
            (0x83, _) => return Err(CrlFault::Partial("onlySomeReasons")),
            (0x85, [0xff]) => return Err(CrlFault::Partial("onlyContainsAttributeCerts")),
            _ => return Err(CrlFault::Malformed),
        }
    }
    Ok(scope)
}

#[cfg(test)]
mod tests;
