//! What an owner may change of a device's credentials: pure, for every way to ask for it.

use x509_parser::prelude::{FromDer as _, X509Certificate, X509Version};

use super::device::{DeviceId, Mode};
use super::identity::{Certificate, Naming, Unreadable};
use super::record::{Credential, Pin, Proof, Record, Valid};

/// A trust group, as far as a credential names it.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// How its certificates name devices.
    pub naming: Naming,
}

impl Group {
    /// A certificate of this group that names the device: any, or the one that is pinned.
    pub fn proof(&self, pin: Option<Pin>) -> Proof {
        Proof::Vouched {
            group: self.name.clone(),
            field: self.naming.field,
            pin,
        }
    }
}

/// What of a certificate is pinned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    /// The certificate.
    Certificate,
    /// Its key: any certificate with it counts.
    Key,
}

/// Why a certificate is not taken; the way out depends on how it was asked for.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotTaken {
    /// It is no certificate.
    #[error("{0}")]
    Unreadable(#[from] Unreadable),
    /// It is over; when, in seconds since 1970.
    #[error("the certificate has ended")]
    Ended(i64),
    /// No chain of a trust group is ever judged for one like it.
    #[error("{0}")]
    NotADevices(&'static str),
    /// The trust group takes another device, or none, from it.
    #[error("{0}")]
    NotIts(String),
}

/// Takes a certificate that was made elsewhere for `device`, whatever may be odd about it, unless a trust group is to vouch for it.
/// It counts from `now` to `until`, without that to the certificate's own end; a pinned key has none.
///
/// # Errors
/// [`NotTaken`]: it cannot be read, has ended, or `group` would not take it as this device's.
pub fn take_certificate(
    der: &[u8],
    part: Part,
    group: Option<&Group>,
    device: &DeviceId,
    until: Option<i64>,
    now: i64,
) -> Result<(Proof, Valid), NotTaken> {
    let certificate = Certificate::read(der)?;
    let is_key = part == Part::Key;
    if certificate.not_after < now && !is_key && until.is_none() {
        return Err(NotTaken::Ended(certificate.not_after));
    }
    let pin = if is_key {
        Pin::Key(certificate.key)
    } else {
        Pin::Certificate(certificate.print)
    };
    let end = (!is_key).then_some(certificate.not_after);
    let valid = Valid {
        from: now,
        until: until.or(end),
    };
    let Some(group) = group else {
        return Ok((Proof::Pinned(pin), valid));
    };
    refuse_authority(der)?;
    check_name(group, &certificate, device)?;
    Ok((group.proof(Some(pin)), valid))
}

/// The group must name the device by this certificate as it is called here, or it would come in as somebody else.
///
/// # Errors
/// [`NotTaken::NotIts`]
pub fn check_name(
    group: &Group,
    certificate: &Certificate,
    device: &DeviceId,
) -> Result<(), NotTaken> {
    let Group { name, naming } = group;
    match naming.device(certificate) {
        Ok(named) if named == *device => Ok(()),
        Ok(named) => Err(NotTaken::NotIts(format!(
            "trust[{name}] takes {named} from {} of this certificate, and not {device}",
            naming.field
        ))),
        Err(unnamed) => Err(NotTaken::NotIts(format!(
            "trust[{name}] could not name {device} by this certificate: {unnamed}"
        ))),
    }
}

/// A group's chain is never judged for a certificate that is a CA's, or of version 1 (RFC 5280 §4.2.1.9).
fn refuse_authority(der: &[u8]) -> Result<(), NotTaken> {
    let (_, certificate) = X509Certificate::from_der(der)
        .map_err(|_| NotTaken::NotADevices("the certificate cannot be read as X.509"))?;
    if certificate.version() != X509Version::V3 {
        let what = "the certificate is of version 1, which no chain can end in";
        return Err(NotTaken::NotADevices(what));
    }
    if certificate.is_ca() {
        let what = "the certificate is a CA's, and no trust group takes that as a device's";
        return Err(NotTaken::NotADevices(what));
    }
    Ok(())
}

impl Record {
    /// Adds credentials that it has not.
    ///
    /// # Errors
    /// A sentence, when it has one of them already, ended or not.
    pub fn enrol(&mut self, new: &[(Proof, Valid)]) -> Result<(), String> {
        for (proof, valid) in new {
            let same = self.credentials.iter().find(|one| one.proof == *proof);
            if let Some(same) = same {
                return Err(format!(
                    "{} has this already, as credential {}; see `tidegate device show {0}`",
                    self.device, same.number
                ));
            }
            self.add_credential(proof.clone(), *valid);
        }
        Ok(())
    }

    /// Adds `new`, and lets what it has of their kind, tokens or certificates, end in `overlap` seconds. What ended before is
    /// forgotten.
    ///
    /// # Errors
    /// As [`Record::enrol`].
    pub fn rotate(&mut self, new: &[(Proof, Valid)], now: i64, overlap: i64) -> Result<(), String> {
        let is_token = |proof: &Proof| matches!(proof, Proof::Token(_));
        let tokens = new.iter().any(|(proof, _)| is_token(proof));
        let old = self.credentials.len();
        self.enrol(new)?;
        // The last second is included, so without an overlap it is the one before.
        let end = now.saturating_add(overlap).saturating_sub(1);
        for credential in &mut self.credentials[..old] {
            if is_token(&credential.proof) == tokens {
                let until = credential.valid.until.map_or(end, |until| until.min(end));
                credential.valid.until = Some(until);
            }
        }
        self.credentials.retain(|one| !one.valid.has_ended(now));
        Ok(())
    }

    /// Ends the credential of this number now; one that has ended is forgotten, and what it pinned is free for others.
    ///
    /// # Errors
    /// A sentence, when there is none of that number.
    pub fn end_credential(&mut self, number: u32, now: i64) -> Result<(), String> {
        let credential = self.credential(number)?;
        if credential.valid.has_ended(now) {
            self.credentials.retain(|one| one.number != number);
        } else {
            // The last second is included, so it is the one before.
            credential.valid.until = Some(now.saturating_sub(1));
        }
        Ok(())
    }

    /// The credential of this number.
    ///
    /// # Errors
    /// A sentence, when there is none.
    pub fn credential(&mut self, number: u32) -> Result<&mut Credential, String> {
        let device = &self.device;
        let mut all = self.credentials.iter_mut();
        all.find(|one| one.number == number).ok_or_else(|| {
            format!("{device} has no credential {number}; see `tidegate device show {device}`")
        })
    }

    /// From now on it belongs to `group`, and to no other: any certificate of that group that names it (threats.md I7).
    pub fn bind(&mut self, group: &Group, now: i64) {
        let proof = group.proof(None);
        for credential in &mut self.credentials {
            if let Proof::Vouched { group: other, .. } = &credential.proof
                && *other != group.name
                && !credential.valid.has_ended(now)
            {
                credential.valid.until = Some(now.saturating_sub(1));
            }
        }
        let there = self.credentials.iter_mut().find(|one| one.proof == proof);
        match there {
            Some(credential) => credential.valid.until = None,
            None => {
                self.add_credential(proof, Valid::since(now));
            }
        }
    }

    /// Why it could not enter, whatever it shows, though it is enabled.
    pub fn locked_out(&self, now: i64) -> Option<&'static str> {
        let mut good = self
            .credentials
            .iter()
            .filter(|one| !one.valid.has_ended(now))
            .peekable();
        if good.peek().is_none() {
            return Some(
                "it has nothing to show, and cannot enter: give it a certificate, a pin or a token",
            );
        }
        let only_tokens = good.all(|one| matches!(one.proof, Proof::Token(_)));
        (only_tokens && self.min_mode == Mode::MutualTls)
            .then_some("it has only tokens, which are of no use by mutual-tls: it cannot enter")
    }
}

impl Valid {
    /// Whether it was over before `now`.
    pub fn has_ended(self, now: i64) -> bool {
        self.until.is_some_and(|until| until < now)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};

    use super::super::device::Alphabet;
    use super::super::identity::Field;
    use super::*;

    const OLD: Proof = Proof::Pinned(Pin::Certificate([1; 32]));
    const NEW: Proof = Proof::Pinned(Pin::Certificate([2; 32]));
    const TOKEN: Proof = Proof::Token([3; 32]);

    fn record(proofs: &[Proof]) -> Record {
        let mut record = Record::new("meter-7".parse().expect("a device id"), 0);
        for proof in proofs {
            record.add_credential(proof.clone(), Valid::since(0));
        }
        record
    }

    #[test]
    fn old_and_new_count_together_for_the_overlap() {
        let mut it = record(&[OLD, TOKEN]);
        it.rotate(&[(NEW, Valid::since(100))], 100, 50)
            .expect("rotated");
        let holds = |proof: &Proof, at: i64| {
            let mut all = it.credentials.iter();
            all.any(|one| one.proof == *proof && one.valid.holds(at))
        };
        assert!(holds(&OLD, 149) && !holds(&OLD, 150));
        assert!(holds(&NEW, 100) && holds(&TOKEN, 1_000));
        let numbers: Vec<_> = it.credentials.iter().map(|one| one.number).collect();
        assert_eq!(numbers, [1, 2, 3]);
    }

    #[test]
    fn without_an_overlap_the_old_one_ends_at_once_and_a_shorter_end_stays() {
        let mut it = record(&[OLD]);
        it.rotate(&[(NEW, Valid::since(100))], 100, 0)
            .expect("rotated");
        assert_eq!(it.credentials.len(), 1);
        assert_eq!(it.credentials[0].proof, NEW);
        it.credentials[0].valid.until = Some(110);
        it.rotate(&[(OLD, Valid::since(100))], 100, 50)
            .expect("rotated");
        assert_eq!(it.credentials[0].valid.until, Some(110));
        let told = it
            .rotate(&[(OLD, Valid::since(100))], 100, 50)
            .expect_err("again");
        assert!(told.contains("credential 3"), "{told}");
    }

    #[test]
    fn a_credential_ends_now_and_is_forgotten_when_told_again() {
        let mut it = record(&[OLD, TOKEN]);
        it.end_credential(1, 100).expect("there");
        assert!(!it.credentials[0].valid.holds(100) && it.credentials[0].valid.holds(99));
        it.end_credential(1, 100).expect("there");
        assert_eq!(it.credentials.len(), 1);
        let told = it.end_credential(1, 100).expect_err("gone");
        assert!(told.contains("no credential 1"), "{told}");
    }

    /// threats.md I7
    #[test]
    fn a_device_belongs_to_one_group_at_a_time() {
        let vendor = Group {
            name: "vendor".into(),
            ..fleet()
        };
        let mut it = record(&[fleet().proof(None), OLD]);
        it.bind(&vendor, 100);
        let holds = |it: &Record, proof: &Proof| {
            let mut all = it.credentials.iter();
            all.any(|one| one.proof == *proof && one.valid.holds(100))
        };
        assert!(!holds(&it, &fleet().proof(None)) && holds(&it, &vendor.proof(None)));
        assert!(holds(&it, &OLD), "a pin belongs to no group");
        it.bind(&fleet(), 100);
        assert!(holds(&it, &fleet().proof(None)) && !holds(&it, &vendor.proof(None)));
        assert_eq!(it.credentials.len(), 3);
    }

    fn certificate(name: &str, change: fn(&mut CertificateParams)) -> (Vec<u8>, i64) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let end = params.not_after.unix_timestamp();
        let key = KeyPair::generate().expect("a key");
        (
            params.self_signed(&key).expect("signed").der().to_vec(),
            end,
        )
    }

    fn fleet() -> Group {
        Group {
            name: "fleet".into(),
            naming: Naming {
                field: Field::SubjectCn,
                pattern: None,
                alphabet: Alphabet::default(),
            },
        }
    }

    #[test]
    fn a_pin_takes_what_a_group_would_not() {
        let device = "meter-7".parse().expect("a device id");
        let (ca, end) = certificate("other", |params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        });
        let (proof, valid) =
            take_certificate(&ca, Part::Certificate, None, &device, None, 9).expect("a pin");
        assert!(matches!(proof, Proof::Pinned(Pin::Certificate(_))));
        assert_eq!((valid.from, valid.until), (9, Some(end)));
        let (proof, valid) =
            take_certificate(&ca, Part::Key, None, &device, None, 9).expect("a pin");
        assert!(matches!(proof, Proof::Pinned(Pin::Key(_))));
        assert_eq!(valid, Valid::since(9));

        let group = fleet();
        let told =
            |der: &[u8]| take_certificate(der, Part::Certificate, Some(&group), &device, None, 9);
        assert!(told(&ca).expect_err("a CA").to_string().contains("a CA's"));
        let (other, _) = certificate("other", |_| {});
        assert!(
            told(&other)
                .expect_err("another")
                .to_string()
                .contains("takes other")
        );
        let (own, _) = certificate("meter-7", |_| {});
        let (proof, _) = told(&own).expect("its own");
        assert!(matches!(proof, Proof::Vouched { pin: Some(_), .. }));
        assert!(told(&[0x30, 0]).is_err());
    }

    #[test]
    fn what_has_ended_needs_an_end_of_its_own() {
        let device = "meter-7".parse().expect("a device id");
        let (it, end) = certificate("meter-7", |_| {});
        let take = |part, until| take_certificate(&it, part, None, &device, until, end + 1);
        assert_eq!(take(Part::Certificate, None), Err(NotTaken::Ended(end)));
        assert!(take(Part::Certificate, Some(end + 9)).is_ok());
        assert!(take(Part::Key, None).is_ok());
    }

    #[test]
    fn who_cannot_enter_is_told() {
        assert!(record(&[OLD]).locked_out(5).is_none());
        assert!(record(&[]).locked_out(5).is_some());
        let mut it = record(&[TOKEN]);
        assert!(it.locked_out(5).is_some());
        it.min_mode = Mode::Plain;
        assert!(it.locked_out(5).is_none());
    }
}
