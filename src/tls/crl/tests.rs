#![allow(clippy::unwrap_used)] // a test that panics has failed

use std::sync::Arc;

use super::*;
use crate::tls::der::Front;
use crate::tls::testing::*;
use crate::tls::trust::{GroupFault, Groups};
use crate::tls::verify::algorithms;

/// A revocation list made by hand: what rcgen would not write.
struct Raw<'a> {
    version: Option<u8>,
    /// Serial numbers' contents, each with the extensions of its entry.
    entries: Vec<(&'a [u8], Vec<u8>)>,
    extensions: Vec<u8>,
    next_update: bool,
}

const V1: Raw<'static> = Raw {
    version: None,
    entries: vec![],
    extensions: vec![],
    next_update: true,
};

const V2: Raw<'static> = Raw {
    version: Some(1),
    entries: vec![],
    extensions: vec![],
    next_update: true,
};

impl Raw<'_> {
    fn signed_by(&self, ca: &Made) -> Vec<u8> {
        let mut body = Vec::new();
        if let Some(version) = self.version {
            body.extend(tlv(INTEGER_TAG, &[version]));
        }
        body.extend(tlv(der::SEQUENCE, ECDSA_SHA256));
        body.extend(tlv(der::SEQUENCE, Front::read(&ca.der).unwrap().subject));
        body.extend(tlv(0x17, b"251231000000Z"));
        if self.next_update {
            body.extend(tlv(0x18, b"20260108000000Z"));
        }
        let mut entries = Vec::new();
        for (serial, extensions) in &self.entries {
            let mut entry = tlv(INTEGER_TAG, serial);
            entry.extend(tlv(0x17, b"251230000000Z"));
            if !extensions.is_empty() {
                entry.extend(tlv(der::SEQUENCE, extensions));
            }
            entries.extend(tlv(der::SEQUENCE, &entry));
        }
        if !entries.is_empty() {
            body.extend(tlv(der::SEQUENCE, &entries));
        }
        if !self.extensions.is_empty() {
            body.extend(tlv(0xa0, &tlv(der::SEQUENCE, &self.extensions)));
        }
        let body = tlv(der::SEQUENCE, &body);
        signed(&body, &ca.key)
    }
}

const INTEGER_TAG: u8 = der::INTEGER;

fn extension(id: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let mut content = tlv(der::OID, id);
    if critical {
        content.extend(tlv(der::BOOLEAN, &[0xff]));
    }
    content.extend(tlv(der::OCTET_STRING, value));
    tlv(der::SEQUENCE, &content)
}

fn scope(fields: &[u8]) -> Vec<u8> {
    extension(
        ISSUING_DISTRIBUTION_POINT,
        true,
        &tlv(der::SEQUENCE, fields),
    )
}

#[track_caller]
fn refused(raw: &Raw<'_>, ca: &Made) -> CrlFault {
    read(&raw.signed_by(ca)).err().expect("a fault")
}

fn load(ca: &[&Made], crl: &[u8]) -> Result<Groups, Vec<GroupFault>> {
    let folder = Folder::new();
    let mut settings = folder.group("fleet", ca, &[], &[]);
    settings.crl = vec![folder.file("fleet.crl", crl)];
    Groups::load(&[&settings])
}

#[test]
fn version_1_and_version_2_are_read_and_looked_up() {
    let ca = root("Factory CA");
    let ca_front = Front::read(&ca.der).unwrap();
    for version in [None, Some(1)] {
        let raw = Raw {
            version,
            entries: vec![(&[5], vec![]), (&[0, 0x80], vec![])],
            ..V1
        };
        let der = raw.signed_by(&ca);
        let list = read(&der).unwrap();
        assert_eq!(list.is_signed_by(ca_front.spki, algorithms()), Ok(()));
        assert_eq!(list.issuer_text(), "CN=Factory CA");
        let mut lists = Lists::default();
        lists.add(list, ca_front.spki);
        let look_up = |serial: &[u8]| lists.look_up(ca_front.subject, ca_front.spki, serial, true);
        for revoked in [&[5][..], &[0, 5], &[0, 0x80], &[0, 0, 0x80]] {
            assert!(matches!(look_up(revoked), Standing::Revoked), "{revoked:?}");
        }
        for good in [&[6][..], &[0x80], &[5, 0], &[]] {
            assert!(matches!(look_up(good), Standing::Good(_)), "{good:?}");
        }
        let other = root("Factory CA");
        let other = Front::read(&other.der).unwrap();
        let elsewhere = lists.look_up(other.subject, other.spki, &[5], true);
        assert!(matches!(elsewhere, Standing::Unlisted));
    }
}

#[test]
fn lists_that_tell_less_than_they_seem_to_are_refused() {
    let ca = root("Factory CA");
    let number = tlv(der::INTEGER, &[1]);
    let with = |extensions: Vec<u8>| Raw { extensions, ..V2 };
    let entry = |extensions: Vec<u8>| Raw {
        entries: vec![(&[5], extensions)],
        ..V2
    };
    let cases = [
        (
            with(extension(DELTA_CRL_INDICATOR, true, &number)),
            CrlFault::Delta,
        ),
        (with(scope(&[0x84, 1, 0xff])), CrlFault::Indirect),
        (
            with(scope(&[0x83, 2, 1, 6])),
            CrlFault::Partial("onlySomeReasons"),
        ),
        (
            with(scope(&[0x85, 1, 0xff])),
            CrlFault::Partial("onlyContainsAttributeCerts"),
        ),
        (
            with(scope(&[0xa0, 2, 0xa0, 0])),
            CrlFault::Partial("distributionPoint"),
        ),
        (
            with(scope(&[0x81, 1, 0xff, 0x82, 1, 0xff])),
            CrlFault::Malformed,
        ),
        (
            with(extension(&[0x55, 0x1d, 99], true, &number)),
            CrlFault::CriticalExtension("2.5.29.99".into()),
        ),
        (
            entry(extension(
                CERTIFICATE_ISSUER,
                true,
                &tlv(der::SEQUENCE, &[]),
            )),
            CrlFault::Indirect,
        ),
        (
            entry(extension(REASON_CODE, false, &tlv(der::ENUMERATED, &[8]))),
            CrlFault::RemoveFromCrl,
        ),
        (
            entry(extension(&[0x55, 0x1d, 99], true, &number)),
            CrlFault::CriticalExtension("2.5.29.99".into()),
        ),
        (
            Raw {
                version: Some(2),
                ..V1
            },
            CrlFault::Version,
        ),
        (
            Raw {
                version: None,
                ..with(extension(CRL_NUMBER, false, &number))
            },
            CrlFault::Version,
        ),
    ];
    for (raw, fault) in cases {
        assert_eq!(refused(&raw, &ca), fault);
    }
    // What is fine: a hold and a date of an entry, a number, an unknown extension that is not critical.
    let entry_extensions = [
        extension(REASON_CODE, false, &tlv(der::ENUMERATED, &[6])),
        extension(INVALIDITY_DATE, false, &tlv(0x18, b"20251230000000Z")),
    ]
    .concat();
    let extensions = [
        extension(CRL_NUMBER, false, &number),
        extension(AUTHORITY_KEY_IDENTIFIER, false, &tlv(der::SEQUENCE, &[])),
        extension(&[0x55, 0x1d, 99], false, &number),
    ]
    .concat();
    let raw = Raw {
        entries: vec![(&[5], entry_extensions)],
        extensions,
        ..V2
    };
    assert!(read(&raw.signed_by(&ca)).is_ok());
}

#[test]
fn a_list_for_one_kind_of_certificate_speaks_for_that_kind() {
    let ca = root("Factory CA");
    let front = Front::read(&ca.der).unwrap();
    let only = |field: u8, serial: &'static [u8]| {
        let raw = Raw {
            extensions: scope(&[field, 1, 0xff]),
            entries: vec![(serial, vec![])],
            ..V2
        };
        raw.signed_by(&ca)
    };
    let (devices, authorities) = (only(0x81, &[5]), only(0x82, &[6]));
    let mut lists = Lists::default();
    lists.add(read(&authorities).unwrap(), front.spki);
    let look_up = |lists: &Lists, serial, is_device| match lists.look_up(
        front.subject,
        front.spki,
        serial,
        is_device,
    ) {
        Standing::Revoked => "revoked",
        Standing::Good(_) => "good",
        Standing::Unlisted => "unlisted",
    };
    assert_eq!(look_up(&lists, &[7], true), "unlisted");
    assert_eq!(look_up(&lists, &[6], false), "revoked");
    lists.add(read(&devices).unwrap(), front.spki);
    assert_eq!(look_up(&lists, &[7], true), "good");
    assert_eq!(look_up(&lists, &[5], true), "revoked");
    assert_eq!(look_up(&lists, &[5], false), "good");
}

#[test]
fn of_two_lists_of_one_ca_the_newer_counts_in_either_order() {
    let ca = root("Factory CA");
    let (a, b) = (ca.device("a"), ca.device("b"));
    let mut old = ca.crl(&[&a]);
    old.crl_number = rcgen::SerialNumber::from(255_u64);
    let mut new = ca.crl(&[&b]);
    new.crl_number = rcgen::SerialNumber::from(256_u64);
    let [old, new] = [old, new].map(|list| list.signed_by(&ca.issuer()).unwrap());
    let front = Front::read(&ca.der).unwrap();
    for order in [[&old, &new], [&new, &old]] {
        let mut lists = Lists::default();
        for list in order {
            lists.add(read(list.der()).unwrap(), front.spki);
        }
        assert_eq!(lists.iter().count(), 1);
        let serial = |made: &Made| made.params.serial_number.clone().unwrap().to_bytes();
        let stands = |made| lists.look_up(front.subject, front.spki, &serial(made), true);
        assert!(matches!(stands(&b), Standing::Revoked));
        assert!(matches!(stands(&a), Standing::Good(_)));
    }
}

#[test]
fn der_and_pem_files_are_loaded() {
    let ca = root("Factory CA");
    let list = ca.crl(&[]).signed_by(&ca.issuer()).unwrap();
    for bytes in [
        list.der().to_vec(),
        list.pem().unwrap().into_bytes(),
        V1.signed_by(&ca),
    ] {
        let groups = load(&[&ca], &bytes).unwrap();
        let updates = groups.next_updates();
        assert_eq!(updates.len(), 1);
        assert_eq!(updates[0].0, "fleet: CN=Factory CA");
    }
    let eternal = Raw {
        next_update: false,
        ..V1
    };
    let groups = load(&[&ca], &eternal.signed_by(&ca)).unwrap();
    assert!(groups.next_updates().is_empty());
    assert!(groups.warnings(NOW)[0].contains("no nextUpdate"));
}

#[test]
fn a_list_is_bound_to_the_key_of_its_ca() {
    let (ca, namesake, stranger) = (root("Factory CA"), root("Factory CA"), root("Other CA"));
    let list = |ca: &Made| ca.crl(&[]).signed_by(&ca.issuer()).unwrap().der().to_vec();
    let why = |loaded: Result<Groups, Vec<GroupFault>>| {
        let faults = loaded.expect_err("a fault");
        assert_eq!(
            (faults.len(), faults[0].key.as_str()),
            (1, "trust[fleet].crl")
        );
        faults[0].sentence.clone()
    };
    let sentence = why(load(&[&ca], &list(&namesake)));
    assert!(
        sentence.contains("\"CN=Factory CA\"") && sentence.contains("did not sign it"),
        "{sentence}"
    );
    let sentence = why(load(&[&ca], &list(&stranger)));
    assert!(
        sentence.contains("\"CN=Other CA\"") && sentence.contains("add that CA"),
        "{sentence}"
    );
    // With both namesakes configured, the one that signed it is found.
    assert!(load(&[&ca, &namesake], &list(&namesake)).is_ok());
    // One bit altered.
    let mut altered = list(&ca);
    let middle = altered.len() / 2;
    altered[middle] ^= 1;
    assert!(load(&[&ca], &altered).is_err());
    // A CA whose certificate does not let it sign lists.
    let mut params = ca_params("Factory CA");
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let mute = self_signed(params, rcgen::KeyPair::generate().unwrap());
    let sentence = why(load(&[&mute], &V1.signed_by(&mute)));
    assert!(
        sentence.contains("cRLSign") && !sentence.contains("{:?}"),
        "{sentence}"
    );
}

fn ca_params(name: &str) -> rcgen::CertificateParams {
    crate::tls::testing::ca(name)
}

#[test]
fn no_cut_or_flipped_list_is_taken_for_another() {
    let ca = root("Factory CA");
    let spki = Arc::new(Front::read(&ca.der).unwrap().spki.to_vec());
    let good = Raw {
        entries: vec![(
            &[5],
            extension(REASON_CODE, false, &tlv(der::ENUMERATED, &[1])),
        )],
        extensions: extension(CRL_NUMBER, false, &tlv(der::INTEGER, &[1])),
        ..V2
    }
    .signed_by(&ca);
    for end in 0..good.len() {
        assert!(read(&good[..end]).is_err());
    }
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x11;
        if let Ok(list) = read(&bad) {
            assert!(list.is_signed_by(&spki, algorithms()).is_err(), "byte {at}");
        }
    }
}
