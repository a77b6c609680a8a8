//! Whether what a device showed lets it in: asked for a new connection, and again for open ones when something changed.

use std::sync::Arc;

use super::{Standing, Unknown};
use crate::rules::device::{DeviceId, Mode};
use crate::rules::identity::{Certificate, Field};
use crate::rules::reason::Refusal;
use crate::rules::record::{Credential, ISSUER, Pin, Print, Proof, Record};
use crate::rules::token;

/// What a device showed, read and proved; kept while its connection is open, to be judged again.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The mode of its connection.
    pub mode: Mode,
    /// Its certificate, whose key it has proved to hold.
    pub certificate: Option<CertificateEvidence>,
    /// Its token.
    pub token: Option<Box<TokenEvidence>>,
}

/// What matters of a certificate.
#[derive(Clone, Debug)]
pub struct CertificateEvidence {
    /// What it says; shared with whoever else keeps it.
    pub certificate: Arc<Certificate>,
    /// Who vouches for it; `None`: nobody, and only a pin counts.
    pub voucher: Option<Voucher>,
}

/// A trust group that vouches for a certificate.
#[derive(Clone, Debug)]
pub struct Voucher {
    /// The group's name.
    pub group: Arc<str>,
    /// The field that names the device.
    pub field: Field,
    /// The device that it names; `None`: it names none.
    pub device: Option<DeviceId>,
    /// The end of the earliest validity in the chain, in seconds since 1970.
    pub not_after: i64,
}

/// What matters of a token. Its text is not kept.
#[derive(Clone)]
pub enum TokenEvidence {
    /// The keyed hash of an opaque one.
    Opaque(Print),
    /// One that its issuer signed.
    Jwt {
        /// Its `exp`, in seconds since 1970.
        not_after: i64,
        /// Which of the issuer's keys signed it.
        key: Print,
    },
}

impl std::fmt::Debug for TokenEvidence {
    /// The hash of a token is not shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Opaque(_) => f.write_str("Opaque(…)"),
            Self::Jwt { not_after, .. } => f
                .debug_struct("Jwt")
                .field("not_after", not_after)
                .finish_non_exhaustive(),
        }
    }
}

/// Judges evidence by the standing of its device, at `now` (seconds since 1970). Gives the last second in which it counts;
/// `None`: no end.
///
/// A wrong credential is told before all else: who has none learns nothing of a device (threats.md §5).
///
/// # Errors
/// The [`Refusal`].
pub fn judge(
    evidence: &Evidence,
    device: Option<&DeviceId>,
    standing: Standing<'_>,
    now: i64,
) -> Result<Option<i64>, Refusal> {
    match standing {
        Standing::Away(why) => Err(Refusal::RegistryAway {
            why: why.to_owned(),
        }),
        Standing::Full(why) => Err(Refusal::RegistrationFull {
            why: why.to_owned(),
        }),
        Standing::NoRegistry | Standing::Unknown(Unknown::Admit) => vouched(evidence, device, now),
        Standing::Unknown(Unknown::Refuse | Unknown::Register { .. }) => {
            Err(unknown(evidence, device))
        }
        Standing::Known(record) => registered(evidence, record, now),
    }
}

fn unknown(evidence: &Evidence, device: Option<&DeviceId>) -> Refusal {
    Refusal::DeviceUnknown {
        device: device.cloned(),
        by_token: evidence.certificate.is_none(),
    }
}

/// How far the clock of whoever wrote the registry may be ahead of ours, in seconds.
const SKEW: i64 = 300;

/// Whether a credential counts at `now`. One that its owner has ended is over whatever our clock says: its end was not to come
/// when it was written.
fn counts(credential: &Credential, record: &Record, now: i64) -> bool {
    let valid = credential.valid;
    let ended = valid.until.is_some_and(|until| until < record.changed);
    !ended && valid.from.saturating_sub(SKEW) <= now && valid.until.is_none_or(|until| now <= until)
}

/// By the word of a trust group or of a JWT's issuer alone.
fn vouched(
    evidence: &Evidence,
    device: Option<&DeviceId>,
    now: i64,
) -> Result<Option<i64>, Refusal> {
    let mut end = End::none();
    if let Some(shown) = &evidence.certificate {
        let voucher = shown
            .voucher
            .as_ref()
            .ok_or_else(|| unknown(evidence, device))?;
        end.within(voucher.not_after, now, expired_certificate)?;
    }
    match evidence.token.as_deref() {
        Some(TokenEvidence::Jwt { not_after, .. }) => {
            end.within(*not_after, now, || expired_token("its exp has passed"))?;
        }
        Some(TokenEvidence::Opaque(_)) => return Err(unknown(evidence, device)),
        None => {}
    }
    // Who has no record has no owner that would have loosened this (threats.md K3).
    if let (Mode::Plain, Some(device)) = (evidence.mode, device) {
        return Err(Refusal::ModeNotAllowed {
            device: device.clone(),
            mode: evidence.mode,
            least: Mode::ServerTls,
        });
    }
    Ok(end.0)
}

/// By the record of the registry.
fn registered(evidence: &Evidence, record: &Record, now: i64) -> Result<Option<i64>, Refusal> {
    let mut end = End::none();
    if let Some(shown) = &evidence.certificate {
        certificate(shown, record, now, &mut end)?;
    }
    match evidence.token.as_deref() {
        Some(TokenEvidence::Opaque(hash)) => opaque(hash, record, now, &mut end)?,
        Some(TokenEvidence::Jwt { not_after, .. }) => {
            end.within(*not_after, now, || expired_token("its exp has passed"))?;
            issuer(record, now, &mut end)?;
        }
        None => {}
    }
    if !record.enabled {
        return Err(Refusal::DeviceDisabled {
            device: record.device.clone(),
            waits: record.registered_by.is_some() && record.changed == record.created,
        });
    }
    if evidence.mode < record.min_mode {
        return Err(Refusal::ModeNotAllowed {
            device: record.device.clone(),
            mode: evidence.mode,
            least: record.min_mode,
        });
    }
    Ok(end.0)
}

/// The credential that the shown certificate is.
fn certificate(
    shown: &CertificateEvidence,
    record: &Record,
    now: i64,
    end: &mut End,
) -> Result<(), Refusal> {
    let is_shown = |one: &&Credential| is_certificate(one, shown, record, now);
    let found: Vec<_> = record.credentials.iter().filter(is_shown).collect();
    if found.is_empty() {
        return Err(Refusal::CertificateNotRegistered {
            device: record.device.clone(),
            why: why_not(shown, record, now),
        });
    }
    let valid = || found.iter().filter(|one| counts(one, record, now));
    let last = |credential: &Credential| {
        let chain = match (&credential.proof, &shown.voucher) {
            (Proof::Vouched { .. }, Some(voucher)) => voucher.not_after,
            _ => i64::MAX,
        };
        credential.valid.until.unwrap_or(i64::MAX).min(chain)
    };
    let Some(last) = valid().map(|one| last(one)).max() else {
        return Err(Refusal::CredentialExpired {
            device: record.device.clone(),
            number: found[0].number,
            early: found[0].valid.from > now,
        });
    };
    end.cut(last);
    Ok(())
}

/// The credential that lets the issuer's word count for this device (threats.md I8).
fn issuer(record: &Record, now: i64, end: &mut End) -> Result<(), Refusal> {
    let is_issuer = |one: &&Credential| match &one.proof {
        Proof::Vouched { group, .. } => group == ISSUER,
        _ => false,
    };
    let bound: Vec<_> = record.credentials.iter().filter(is_issuer).collect();
    let last = bound
        .iter()
        .filter(|one| counts(one, record, now))
        .map(|one| one.valid.until.unwrap_or(i64::MAX))
        .max();
    match last {
        Some(last) => {
            end.cut(last);
            Ok(())
        }
        None if bound.is_empty() => Err(Refusal::TokenBad {
            why: format!(
                "the issuer's word does not count for {0}; `tidegate device set {0} --trust {ISSUER}` lets it",
                record.device
            ),
        }),
        None => Err(expired_token(
            "the registry has ended the issuer's word for it",
        )),
    }
}

/// Whether a credential of `record` is the certificate shown; not whether it counts now.
fn is_certificate(
    credential: &Credential,
    shown: &CertificateEvidence,
    record: &Record,
    now: i64,
) -> bool {
    let is = |pin: &Pin| match pin {
        Pin::Certificate(print) => *print == shown.certificate.print,
        Pin::Key(key) => *key == shown.certificate.key,
    };
    match &credential.proof {
        // A pinned one does not need the word of a group; so neither does it end with the group's chain.
        Proof::Pinned(pin) => is(pin),
        Proof::Vouched { group, field, pin } => {
            let voucher = shown.voucher.as_ref();
            let names_it = |by: &Voucher| by.device.as_ref() == Some(&record.device);
            let counts =
                |by: &Voucher| *by.group == **group && by.field == *field && by.not_after >= now;
            voucher.is_some_and(|by| names_it(by) && counts(by)) && pin.as_ref().is_none_or(is)
        }
        Proof::Token(_) => false,
    }
}

/// Whether something was shown that is no credential of `record`: it may be one that its owner has added since the record was
/// read. One that is there and has ended is not lacking. `now` in seconds since 1970.
pub fn is_lacking(record: &Record, evidence: &Evidence, now: i64) -> bool {
    matches!(
        registered(evidence, record, now),
        Err(Refusal::CertificateNotRegistered { .. } | Refusal::TokenBad { .. })
    )
}

/// The numbers of the credentials of `record` that were shown, whether they count at `now` (seconds since 1970) or not: for
/// whoever asks why. [`judge`] alone says who enters.
pub fn matching(evidence: &Evidence, record: &Record, now: i64) -> Vec<u32> {
    let is_shown = |one: &&Credential| {
        let shown = evidence.certificate.as_ref();
        let token = match (evidence.token.as_deref(), &one.proof) {
            (Some(TokenEvidence::Opaque(hash)), Proof::Token(known)) => {
                token::is_equal(known, hash)
            }
            _ => false,
        };
        token || shown.is_some_and(|shown| is_certificate(one, shown, record, now))
    };
    let found = record.credentials.iter().filter(is_shown);
    found.map(|one| one.number).collect()
}

/// Why no credential of the record is the certificate shown.
fn why_not(shown: &CertificateEvidence, record: &Record, now: i64) -> String {
    let enrolled = record.credentials.iter().find_map(|one| match &one.proof {
        Proof::Vouched { group, field, pin } => Some((group, field, pin)),
        _ => None,
    });
    match (&shown.voucher, enrolled) {
        (Some(by), _) if by.not_after < now => {
            "the certificate, or one of its issuers, has ended".into()
        }
        (Some(by), Some((group, ..))) if *by.group != **group => format!(
            "it was enrolled under trust[{group}], and trust[{}] vouches for this certificate",
            by.group
        ),
        (Some(by), Some((_, field, _))) if by.field != *field => format!(
            "it was enrolled by {field}, and trust[{}] now names devices by {}",
            by.group, by.field
        ),
        (_, Some((_, _, Some(_)))) => "it is another certificate than the one registered".into(),
        (Some(by), None) => format!("no certificate of trust[{}] is registered for it", by.group),
        (None, _) => "no trust group vouches for the certificate, and it is not pinned".into(),
        (Some(_), Some(_)) => "its registered certificate is another one".into(),
    }
}

/// The credential that the shown token is: each is compared, in a time that tells nothing (threats.md K2).
fn opaque(hash: &Print, record: &Record, now: i64, end: &mut End) -> Result<(), Refusal> {
    let mut found: Option<&Credential> = None;
    let mut last = None;
    for one in &record.credentials {
        let Proof::Token(known) = &one.proof else {
            continue;
        };
        if token::is_equal(known, hash) {
            found = Some(one);
            if counts(one, record, now) {
                last = last.max(Some(one.valid.until.unwrap_or(i64::MAX)));
            }
        }
    }
    match (found, last) {
        (None, _) => Err(Refusal::TokenBad {
            why: format!(
                "it is no token of {}; make one with `tidegate device rotate-token {}`",
                record.device, record.device
            ),
        }),
        (Some(_), Some(last)) => {
            end.cut(last);
            Ok(())
        }
        (Some(_), None) => Err(expired_token("the registry has ended it")),
    }
}

/// The last second in which all that was shown counts.
struct End(Option<i64>);

impl End {
    fn none() -> Self {
        Self(None)
    }

    fn cut(&mut self, last: i64) {
        if last < i64::MAX {
            self.0 = Some(self.0.map_or(last, |known| known.min(last)));
        }
    }

    fn within(
        &mut self,
        last: i64,
        now: i64,
        refusal: impl FnOnce() -> Refusal,
    ) -> Result<(), Refusal> {
        if last < now {
            return Err(refusal());
        }
        self.cut(last);
        Ok(())
    }
}

fn expired_certificate() -> Refusal {
    Refusal::Certificate {
        label: "certificate_expired",
        why: "the certificate, or one of its issuers, has ended".into(),
    }
}

fn expired_token(why: &str) -> Refusal {
    Refusal::TokenExpired {
        why: why.to_owned(),
    }
}
