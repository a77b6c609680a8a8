//! Revoking: the list of a CA, written anew.
//!
//! What a list holds stays on it until its certificate has ended; the new list has the next number and takes the old one's
//! place in one step.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use rcgen::{RevocationReason, RevokedCertParams, SerialNumber};
use x509_parser::num_bigint::BigUint;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::revocation_list::{CertificateRevocationList, RevokedCertificate};

use super::folder::{self, CRL, KEY};
use super::index::{self, Entry, serial_text};
use super::{Authority, Fault, order};

const DAY: i64 = 24 * 3600;
/// The most octets of a serial (RFC 5280 §4.1.2.2).
const LONGEST_SERIAL: usize = 20;

/// What is to be revoked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wanted {
    /// As [`serial_text`] writes it.
    pub serial: String,
    /// The last second of the certificate's validity, in seconds since 1970, if that is known.
    pub not_after: Option<i64>,
}

/// The list that was written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Written {
    /// The file.
    pub path: PathBuf,
    /// The serials that were not on the old list.
    pub added: Vec<String>,
    /// How many serials are on the list.
    pub listed: usize,
    /// How many were left out, because their certificates have ended.
    pub dropped: usize,
    /// The number of the list.
    pub number: String,
    /// When the next list is due, in seconds since 1970.
    pub next_update: i64,
}

/// The serial of a certificate that this CA issued; `None`, if another did.
pub fn issued_by(authority: &Authority, certificate: &[u8]) -> Option<Wanted> {
    let (_, ca) = X509Certificate::from_der(authority.certificate()).ok()?;
    let (_, it) = X509Certificate::from_der(certificate).ok()?;
    let own = it.as_raw() == ca.as_raw();
    let signed = it.verify_signature(Some(ca.public_key())).is_ok();
    (signed && !own).then(|| Wanted {
        serial: serial_text(it.raw_serial()),
        not_after: Some(it.validity().not_after.timestamp()),
    })
}

/// Reads a serial in hex, with or without colons; `None`, if it cannot be one.
pub fn serial(text: &str) -> Option<String> {
    let plain = text.replace(':', "").to_ascii_lowercase();
    let even = if plain.len() % 2 == 1 {
        format!("0{plain}")
    } else {
        plain
    };
    let bytes = hex::decode(even).ok()?;
    let told = serial_text(&bytes);
    ((1..=LONGEST_SERIAL * 2).contains(&told.len()) && told != "00").then_some(told)
}

/// Adds `wanted` to the list of the CA in `folder`; with none, the list is only renewed. `days`: when the next one is due; else
/// as late as it was for the list before.
///
/// # Errors
/// [`Fault::Read`], [`Fault::Unusable`]: the list that is there; [`Fault::Write`]. Then it is left as it was.
pub fn revoke(
    folder: &Path,
    authority: &Authority,
    wanted: &[Wanted],
    days: Option<u32>,
) -> Result<Written, Fault> {
    // Two at once would lose what one of them revoked. The key is there for sure, and nobody else locks it.
    let key = folder.join(KEY);
    let lock = File::open(&key).map_err(|why| Fault::Read {
        path: key.clone(),
        why,
    })?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).map_err(|why| {
        Fault::Write {
            path: key,
            why: why.into(),
        }
    })?;
    let path = folder.join(CRL);
    let old = match std::fs::read(&path) {
        Ok(bytes) => Some(bytes),
        // Renewing is how a list comes back that got lost.
        Err(why) if why.kind() == std::io::ErrorKind::NotFound && wanted.is_empty() => None,
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => {
            let why = "it is not there, and whatever it listed would be good again; restore it, or begin a new one with `tidegate ca crl`";
            return Err(Fault::Unusable {
                path,
                why: why.into(),
            });
        }
        Err(why) => return Err(Fault::Read { path, why }),
    };
    let der = old.map(|bytes| decode(&path, bytes)).transpose()?;
    let known = index::read(folder)?;
    let draft = Draft::new(der.as_deref(), &path, authority, &known, days)?;
    let (list, written) = draft.with(wanted, &path, authority)?;
    folder::replace(&path, list.pem()?.as_bytes()).map_err(|why| Fault::Write {
        path: path.clone(),
        why,
    })?;
    Ok(written)
}

fn decode(path: &Path, bytes: Vec<u8>) -> Result<Vec<u8>, Fault> {
    if bytes.first() == Some(&0x30) {
        return Ok(bytes);
    }
    let section = x509_parser::pem::Pem::iter_from_buffer(&bytes).next();
    match section {
        Some(Ok(section)) if section.label == "X509 CRL" => Ok(section.contents),
        _ => Err(unusable(path, "it holds no revocation list in PEM or DER")),
    }
}

fn unusable(path: &Path, what: &str) -> Fault {
    Fault::Unusable {
        path: path.to_owned(),
        why: format!(
            "{what}; restore it from a copy, or move it away and begin a new one with `tidegate ca crl`"
        ),
    }
}

/// The next list, before anything is added to it.
struct Draft {
    kept: Vec<RevokedCertParams>,
    dropped: usize,
    ends: HashMap<String, i64>,
    number: BigUint,
    now: i64,
    next_update: i64,
}

impl Draft {
    fn new(
        old: Option<&[u8]>,
        path: &Path,
        authority: &Authority,
        index: &[Entry],
        days: Option<u32>,
    ) -> Result<Self, Fault> {
        let end = authority.validity().not_after;
        let now = order::now().min(end - 1);
        let span = |days: u32| now + i64::from(days) * DAY;
        let mut draft = Self {
            kept: Vec::new(),
            dropped: 0,
            ends: index
                .iter()
                .map(|entry| (entry.serial.clone(), entry.not_after))
                .collect(),
            number: now.unsigned_abs().into(),
            now,
            next_update: days.map_or(end, span).min(end),
        };
        let Some(old) = old else {
            return Ok(draft);
        };
        let (rest, old) = CertificateRevocationList::from_der(old)
            .map_err(|_| unusable(path, "it cannot be read as a revocation list"))?;
        let (_, ca) = X509Certificate::from_der(authority.certificate())
            .map_err(|_| unusable(path, "its CA cannot be read"))?;
        if !rest.is_empty() || old.verify_signature(ca.public_key()).is_err() {
            return Err(unusable(path, "it is not signed by this CA"));
        }
        draft.number = old
            .crl_number()
            .map_or(draft.number, |number| number + 1_u32);
        if let (None, Some(due)) = (days, old.next_update()) {
            let due = due.timestamp();
            let as_before = now + (due - old.last_update().timestamp()).max(1);
            // One that was good for as long as the CA stays so: see `folder::save_authority`.
            draft.next_update = if due >= end { end } else { as_before.min(end) };
        }
        for entry in old.iter_revoked_certificates() {
            draft.keep(entry)?;
        }
        Ok(draft)
    }

    /// Takes an entry over, unless its certificate has ended for good: a day later by every clock.
    fn keep(&mut self, entry: &RevokedCertificate<'_>) -> Result<(), Fault> {
        let serial = entry.raw_serial();
        let ended = self.ends.get(&serial_text(serial));
        if ended.is_some_and(|end| *end < self.now - DAY) {
            self.dropped += 1;
            return Ok(());
        }
        let invalid = entry
            .invalidity_date()
            .map(|(_, at)| order::moment(at.timestamp()));
        self.kept.push(RevokedCertParams {
            serial_number: serial.to_vec().into(),
            revocation_time: order::moment(entry.revocation_date.timestamp())?,
            reason_code: entry.reason_code().and_then(|(_, code)| reason(code.0)),
            invalidity_date: invalid.transpose()?,
        });
        Ok(())
    }

    fn with(
        mut self,
        wanted: &[Wanted],
        path: &Path,
        authority: &Authority,
    ) -> Result<(rcgen::CertificateRevocationList, Written), Fault> {
        let mut added = Vec::new();
        for one in wanted {
            let listed = |entry: &RevokedCertParams| {
                serial_text(&entry.serial_number.to_bytes()) == one.serial
            };
            if self.kept.iter().any(listed) {
                continue;
            }
            let serial = hex::decode(&one.serial)
                .map_err(|_| Fault::Unmakeable(format!("{} is no serial", one.serial)))?;
            self.kept.push(RevokedCertParams {
                serial_number: serial.into(),
                revocation_time: order::moment(self.now)?,
                reason_code: None,
                invalidity_date: None,
            });
            added.push(one.serial.clone());
        }
        let written = Written {
            path: path.to_owned(),
            added,
            listed: self.kept.len(),
            dropped: self.dropped,
            number: self.number.to_string(),
            next_update: self.next_update,
        };
        let number = SerialNumber::from(self.number.to_bytes_be());
        let list = authority.list(self.kept, number, self.now, self.next_update)?;
        Ok((list, written))
    }
}

fn reason(code: u8) -> Option<RevocationReason> {
    use RevocationReason as R;
    Some(match code {
        1 => R::KeyCompromise,
        2 => R::CaCompromise,
        3 => R::AffiliationChanged,
        4 => R::Superseded,
        5 => R::CessationOfOperation,
        6 => R::CertificateHold,
        8 => R::RemoveFromCrl,
        9 => R::PrivilegeWithdrawn,
        10 => R::AaCompromise,
        _ => return None, // unspecified is said by leaving it out (RFC 5280 §5.3.1)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test that cannot go on says so by panicking
mod tests {
    use super::*;
    use crate::pki::{Order, Validity};

    struct Listed {
        serials: Vec<String>,
        number: String,
        due: i64,
    }

    fn read(folder: &Path, authority: &Authority) -> Listed {
        let der = decode(Path::new(CRL), std::fs::read(folder.join(CRL)).unwrap()).unwrap();
        let (_, list) = CertificateRevocationList::from_der(&der).unwrap();
        let (_, ca) = X509Certificate::from_der(authority.certificate()).unwrap();
        list.verify_signature(ca.public_key()).unwrap();
        let serials = list.iter_revoked_certificates();
        Listed {
            serials: serials.map(|one| serial_text(one.raw_serial())).collect(),
            number: list.crl_number().unwrap().to_string(),
            due: list.next_update().unwrap().timestamp(),
        }
    }

    fn wanted(serial: &[u8]) -> Wanted {
        Wanted {
            serial: serial_text(serial),
            not_after: None,
        }
    }

    #[test]
    fn a_list_grows_and_its_number_with_it() {
        let home = tempfile::tempdir().unwrap();
        let ca = Authority::new("trial").unwrap();
        folder::save_authority(home.path(), &ca).unwrap();
        let first = read(home.path(), &ca);
        let a = ca.issue(Order::device_named("a")).unwrap();
        let told = revoke(
            home.path(),
            &ca,
            &[wanted(a.serial()), wanted(&[0, 0x8f])],
            None,
        )
        .unwrap();
        assert_eq!(told.added, [serial_text(a.serial()), "8f".into()]);
        let again = revoke(home.path(), &ca, &[wanted(a.serial()), wanted(&[7])], None).unwrap();
        assert_eq!((again.added, again.listed), (vec!["07".into()], 3));
        let last = read(home.path(), &ca);
        assert_eq!(
            last.serials,
            [serial_text(a.serial()), "8f".into(), "07".into()]
        );
        let number = |listed: &Listed| listed.number.parse::<u64>().unwrap();
        assert_eq!(number(&last), number(&first) + 2);
        assert_eq!(
            last.due,
            ca.validity().not_after,
            "as long as the CA, as before"
        );
        let names: Vec<_> = std::fs::read_dir(home.path()).unwrap().collect();
        assert_eq!(names.len(), 3, "no draft is left: {names:?}");
    }

    #[test]
    fn an_entry_stays_until_its_certificate_has_ended() {
        let home = tempfile::tempdir().unwrap();
        let ca = Authority::new("trial").unwrap();
        folder::save_authority(home.path(), &ca).unwrap();
        let note = |serial: &str, not_after: i64| {
            let entry = Entry {
                serial: serial.into(),
                device: Some("a".into()),
                server: None,
                not_after,
                fingerprint: String::new(),
            };
            index::note(home.path(), &entry).unwrap();
        };
        note("01", order::now() - 2 * DAY);
        note("02", order::now() - DAY / 2);
        let all = [[1], [2], [3]].map(|serial| wanted(&serial));
        revoke(home.path(), &ca, &all, None).unwrap();
        let told = revoke(home.path(), &ca, &[], Some(7)).unwrap();
        assert_eq!((told.dropped, told.listed), (1, 2));
        let listed = read(home.path(), &ca);
        assert_eq!(listed.serials, ["02", "03"]);
        assert!((listed.due - order::now() - 7 * DAY).abs() < 60);
        let kept = revoke(home.path(), &ca, &[], None).unwrap();
        assert!(
            (kept.next_update - order::now() - 7 * DAY).abs() < 60,
            "as long as the one before"
        );
    }

    #[test]
    fn a_list_that_is_lost_or_of_another_ca_is_not_made_up_for() {
        let home = tempfile::tempdir().unwrap();
        let (ca, other) = (
            Authority::new("trial").unwrap(),
            Authority::new("other").unwrap(),
        );
        folder::save_authority(home.path(), &ca).unwrap();
        let path = home.path().join(CRL);
        let told = || {
            revoke(home.path(), &ca, &[wanted(&[7])], None)
                .unwrap_err()
                .to_string()
        };
        let foreign = other.crl(&[[1]], 1_000_000_000, 2_000_000_000).unwrap();
        std::fs::write(&path, foreign.pem().unwrap()).unwrap();
        assert!(told().contains("not signed by this CA"), "{}", told());
        std::fs::write(&path, "").unwrap();
        assert!(told().contains("no revocation list"), "{}", told());
        std::fs::remove_file(&path).unwrap();
        assert!(told().contains("would be good again"), "{}", told());
        revoke(home.path(), &ca, &[], None).unwrap();
        revoke(home.path(), &ca, &[wanted(&[7])], None).unwrap();
        assert_eq!(read(home.path(), &ca).serials, ["07"]);
    }

    #[test]
    fn only_its_own_certificates_are_a_cas_to_revoke() {
        let (ca, other) = (
            Authority::new("trial").unwrap(),
            Authority::new("trial").unwrap(),
        );
        let order = || Order::device_named("a").valid(Validity::days(9));
        let own = ca.issue(order()).unwrap();
        let found = issued_by(&ca, own.certificate()).unwrap();
        assert_eq!(found.serial, serial_text(own.serial()));
        assert_eq!(found.not_after, Some(own.validity().not_after));
        let foreign = other.issue(order()).unwrap();
        assert_eq!(issued_by(&ca, foreign.certificate()), None);
        assert_eq!(issued_by(&ca, ca.certificate()), None, "the CA itself");
    }

    #[test]
    fn a_serial_is_read_as_others_write_it() {
        assert_eq!(serial("00:8F:01").as_deref(), Some("8f01"));
        assert_eq!(serial("7").as_deref(), Some("07"));
        for bad in ["", "0", "00", "meter-7", "8f01x", &"1".repeat(42)] {
            assert_eq!(serial(bad), None, "{bad:?}");
        }
    }
}
