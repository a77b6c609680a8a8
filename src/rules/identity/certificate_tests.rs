//! What is read of a certificate, honest or hostile.

use proptest::prelude::*;
use rcgen::string::{BmpString, Ia5String, PrintableString, TeletexString};
use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType, SerialNumber};

use super::super::crafted::{Parts, attribute, extension, name, rdn, san, tlv};
use super::super::der::{INTEGER, SEQUENCE, UTF8_STRING};
use super::super::name::{CN, OU};
use super::*;

/// A real, self-signed certificate.
fn issued(change: impl FnOnce(&mut CertificateParams)) -> Certificate {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    Certificate::read(params.self_signed(&key).unwrap().der()).expect("rcgen issues good ones")
}

fn crafted(parts: &Parts) -> Certificate {
    Certificate::read(&parts.der()).expect("the structure is whole")
}

fn with_subject(sets: &[Vec<u8>]) -> Certificate {
    crafted(&Parts {
        subject: name(sets),
        ..Parts::default()
    })
}

fn with_extensions(extensions: Vec<Vec<u8>>) -> Certificate {
    crafted(&Parts {
        extensions,
        ..Parts::default()
    })
}

fn ia5(text: &str) -> Ia5String {
    text.try_into().unwrap()
}

#[test]
fn a_certificate_tells_all_its_fields() {
    let it = issued(|params| {
        let dn = &mut params.distinguished_name;
        dn.push(DnType::CountryName, "DE");
        dn.push(DnType::OrganizationalUnitName, "gas");
        dn.push(DnType::CustomDnType(vec![2, 5, 4, 5]), "00017");
        dn.push(DnType::CommonName, "meter-7");
        params.serial_number = Some(SerialNumber::from_slice(&[0xab, 0x01]));
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2050, 1, 1);
        params.subject_alt_names = vec![
            SanType::URI(ia5("urn:device:meter-7")),
            SanType::DnsName(ia5("meter-7.example.net")),
            SanType::Rfc822Name(ia5("meter-7@example.net")),
            SanType::IpAddress([192, 0, 2, 1].into()),
        ];
    });

    assert_eq!(it.subject, "CN=meter-7,serialNumber=00017,OU=gas,C=DE");
    assert_eq!(it.issuer, it.subject);
    assert_eq!(it.serial, "ab01");
    assert_eq!(
        (it.not_before, it.not_after),
        (1_767_225_600, 2_524_608_000)
    );
    assert_eq!(it.cn(), Ok("meter-7"));
    assert_eq!(it.san_uri(), Ok("urn:device:meter-7"));
    assert_eq!(it.san_dns(), Ok("meter-7.example.net"));
    assert_eq!(it.value(Field::SanEmail), Ok("meter-7@example.net"));
    assert_eq!(it.value(Field::SubjectOu), Ok("gas"));
    assert_eq!(it.value(Field::SubjectSerialNumber), Ok("00017"));
    assert_eq!(it.value(Field::Serial), Ok("ab01"));
    assert_eq!(it.value(Field::Fingerprint), Ok(it.fingerprint().as_str()));
}

/// SHA-256 and the serial number as `openssl x509 -noout -fingerprint -sha256 -serial` shows them, without colons, in
/// lower case.
#[test]
fn hex_is_lower_case_and_whole() {
    let der = Parts::default().der();
    let it = Certificate::read(&der).unwrap();
    let sha256 = digest::digest(&digest::SHA256, &der);
    assert_eq!(it.fingerprint(), hex::encode(sha256.as_ref()));
    assert_eq!(it.fingerprint().len(), 64);
    assert_eq!(it.print, sha256.as_ref());
    let printed = Certificate::read_printed(&der, it.print).unwrap();
    assert_eq!(printed, it);
    assert_eq!(it.serial, "ab01", "without the sign octet 00");
}

/// The key's print is that of what another parser finds in the key's place (threats.md T1, I7).
#[test]
fn the_print_of_the_key_is_that_of_the_whole_public_key() {
    use x509_parser::prelude::{FromDer as _, X509Certificate};
    let key = KeyPair::generate().unwrap();
    let made = |change: fn(&mut CertificateParams)| {
        let mut params = CertificateParams::default();
        change(&mut params);
        params.self_signed(&key).unwrap()
    };
    let one = made(|_| {});
    let other = made(|params| params.distinguished_name.push(DnType::CommonName, "other"));
    let (_, parsed) = X509Certificate::from_der(one.der()).unwrap();
    assert_eq!(
        Certificate::public_key(one.der()),
        Ok(parsed.public_key().raw)
    );
    let (one, other) = (
        Certificate::read(one.der()).unwrap(),
        Certificate::read(other.der()).unwrap(),
    );
    let sha256 = digest::digest(&digest::SHA256, parsed.public_key().raw);
    assert_eq!(one.key, sha256.as_ref());
    assert_eq!(one.key, other.key);
    assert_ne!(one.print, other.print);
}

/// Two numbers never look the same, or one device could take the other's name (threats.md I3).
#[test]
fn a_negative_number_is_not_its_positive_twin() {
    let serial = |body: &[u8]| {
        let parts = Parts {
            serial: tlv(INTEGER, &[body]),
            ..Parts::default()
        };
        Certificate::read(&parts.der()).map(|it| it.serial)
    };
    assert_eq!(serial(&[0x00, 0x80]).unwrap(), "80");
    assert_eq!(serial(&[0x80]).unwrap(), "-80");
    assert_eq!(serial(&[0x0f]).unwrap(), "0f");
    assert_eq!(serial(&[0x00]).unwrap(), "00");
    assert_eq!(serial(&[0xff]).unwrap(), "-01");
    for refused in [&[][..], &[0x00, 0x0f], &[0xff, 0x80], &[1; 65]] {
        assert!(serial(refused).is_err(), "{refused:x?}");
    }
}

#[test]
fn what_is_not_there_is_missing() {
    let it = issued(|_| {});
    for field in Field::ALL {
        if !matches!(field, Field::Serial | Field::Fingerprint) {
            assert_eq!(it.value(field), Err(Unnamed::Missing(field)));
        }
    }
    assert_eq!(it.subject, "");
}

/// threats.md I6: two names are no name, wherever they stand.
#[test]
fn two_of_a_kind_are_repeated() {
    let repeated = Err(Unnamed::Repeated(Field::SubjectCn));
    let twice = issued(|params| {
        let dn = &mut params.distinguished_name;
        dn.push(DnType::CommonName, "meter-7");
        dn.push(DnType::CustomDnType(vec![2, 5, 4, 3]), "meter-8");
    });
    assert_eq!(twice.cn(), repeated, "in two sets");

    let cn = |value: &[u8]| attribute(CN, UTF8_STRING, value);
    let one_set = with_subject(&[rdn(&[cn(b"meter-7"), cn(b"meter-8")])]);
    assert_eq!(one_set.cn(), repeated, "in one set of several values");
    let beside = with_subject(&[
        rdn(&[attribute(OU, UTF8_STRING, b"gas"), cn(b"meter-7")]),
        rdn(&[cn(b"meter-7")]),
    ]);
    assert_eq!(beside.cn(), repeated, "the same value twice is two values");
    assert_eq!(beside.value(Field::SubjectOu), Ok("gas"));
    let odd = with_subject(&[
        rdn(&[cn(b"meter-7")]),
        rdn(&[attribute(CN, 0x1e, &[0, b'x'])]),
    ]);
    assert_eq!(odd.cn(), repeated, "one that cannot be read counts");

    let names = issued(|params| {
        params.subject_alt_names = vec![
            SanType::URI(ia5("urn:a")),
            SanType::DnsName(ia5("a.example.net")),
            SanType::URI(ia5("urn:b")),
        ];
    });
    assert_eq!(names.san_uri(), Err(Unnamed::Repeated(Field::SanUri)));
    assert_eq!(names.san_dns(), Ok("a.example.net"));
}

/// threats.md I5, I6: what has two readings has none. The other fields stay readable.
#[test]
fn a_name_in_an_odd_string_type_is_unreadable() {
    let odd = [
        DnValue::BmpString(BmpString::try_from("meter-7").unwrap()),
        DnValue::TeletexString(TeletexString::try_from("meter-7").unwrap()),
        DnValue::UniversalString("meter-7".try_into().unwrap()),
    ];
    for value in odd {
        let it = issued(|params| {
            params
                .distinguished_name
                .push(DnType::CommonName, value.clone());
            params
                .distinguished_name
                .push(DnType::OrganizationalUnitName, "gas");
        });
        assert_eq!(
            it.cn(),
            Err(Unnamed::Unreadable(Field::SubjectCn)),
            "{value:?}"
        );
        assert_eq!(it.value(Field::SubjectOu), Ok("gas"));
    }
    let plain = [
        DnValue::PrintableString(PrintableString::try_from("meter-7").unwrap()),
        DnValue::Ia5String(ia5("meter-7")),
        DnValue::Utf8String("meter-7".into()),
    ];
    for value in plain {
        let it = issued(|params| params.distinguished_name.push(DnType::CommonName, value));
        assert_eq!(it.cn(), Ok("meter-7"));
    }
}

/// threats.md I5: a NUL once made `good\0evil` read as `good` (CVE-2009-2408).
#[test]
fn a_name_with_control_characters_or_bad_encoding_is_unreadable() {
    let long = vec![b'x'; LONGEST_VALUE + 1];
    let cases: [(u8, &[u8]); 10] = [
        (UTF8_STRING, b"meter-7\0meter-8"),
        (UTF8_STRING, b"meter-7\n"),
        (UTF8_STRING, b"\x1b[31mmeter"),
        (UTF8_STRING, b"meter\x7f"),
        (UTF8_STRING, "meter\u{85}".as_bytes()),
        (UTF8_STRING, b"meter-\xff"),
        (UTF8_STRING, b"\xed\xa0\x80"), // a surrogate
        (0x13, "zähler".as_bytes()),    // PrintableString is ASCII
        (0x2c, b"\x0c\x07meter-7"),     // UTF8String in parts: BER, not DER
        (UTF8_STRING, &long),
    ];
    for (tag, value) in cases {
        let it = with_subject(&[
            rdn(&[attribute(CN, tag, value)]),
            rdn(&[attribute(OU, UTF8_STRING, b"gas")]),
        ]);
        assert_eq!(
            it.cn(),
            Err(Unnamed::Unreadable(Field::SubjectCn)),
            "{value:x?}"
        );
        assert_eq!(
            it.value(Field::SubjectOu),
            Ok("gas"),
            "the others stay readable"
        );
        assert!(!it.subject.contains(char::is_control), "{:?}", it.subject);
    }
}

/// threats.md I6: a second name must not hide behind what a lenient reader drops.
#[test]
fn a_broken_subject_names_nobody() {
    let good = rdn(&[attribute(CN, UTF8_STRING, b"meter-7")]);
    let broken = rdn(&[tlv(SEQUENCE, &[&[0x0c, 0x01, b'x']])]);
    let it = with_subject(&[good, broken]);
    for field in [
        Field::SubjectCn,
        Field::SubjectOu,
        Field::SubjectSerialNumber,
    ] {
        assert_eq!(it.value(field), Err(Unnamed::Unreadable(field)));
    }
    assert_eq!(it.subject, "(unreadable)");
    assert_eq!(it.issuer, "CN=devices-ca");
    assert_eq!(it.san_uri(), Err(Unnamed::Missing(Field::SanUri)));
}

/// threats.md I6.
#[test]
fn broken_alternative_names_name_nobody() {
    let uri = tlv(0x86, &[b"urn:device:meter-7"]);
    let cases = [
        (
            "two extensions",
            vec![san(std::slice::from_ref(&uri)), san(&[])],
        ),
        (
            "an unknown kind",
            vec![san(&[uri.clone(), tlv(0x89, &[b"x"])])],
        ),
        (
            "a URI in parts",
            vec![san(&[uri.clone(), tlv(0xa6, &[&uri])])],
        ),
        ("cut short", vec![san(&[uri.clone(), vec![0x86, 9, b'x']])]),
        (
            "something after the list",
            vec![extension(
                SUBJECT_ALT_NAME,
                &[tlv(SEQUENCE, &[&uri]), vec![5, 0]].concat(),
            )],
        ),
        ("not a list", vec![extension(SUBJECT_ALT_NAME, &uri)]),
        (
            "a broken neighbour",
            vec![san(std::slice::from_ref(&uri)), tlv(SEQUENCE, &[])],
        ),
        (
            "no extension",
            vec![san(std::slice::from_ref(&uri)), vec![5, 0]],
        ),
    ];
    for (what, extensions) in cases {
        let it = with_extensions(extensions);
        for field in [Field::SanUri, Field::SanDns, Field::SanEmail] {
            assert_eq!(it.value(field), Err(Unnamed::Unreadable(field)), "{what}");
        }
        assert_eq!(it.cn(), Ok("meter-7"), "{what}");
    }
}

/// threats.md I5.
#[test]
fn one_odd_alternative_name_is_unreadable_alone() {
    let it = with_extensions(vec![san(&[
        tlv(0x86, &["urn:device:zähler".as_bytes()]),
        tlv(0x82, &[b"a.example.net\0"]),
        tlv(0x81, &[b"a@example.net"]),
        tlv(0xa0, &[b"whatever"]),
    ])]);
    assert_eq!(it.san_uri(), Err(Unnamed::Unreadable(Field::SanUri)));
    assert_eq!(it.san_dns(), Err(Unnamed::Unreadable(Field::SanDns)));
    assert_eq!(it.value(Field::SanEmail), Ok("a@example.net"));
}

#[test]
fn what_is_not_exactly_one_certificate_is_refused() {
    let good = Parts::default().der();
    assert!(Certificate::read(&good).is_ok());
    assert!(Certificate::read(&[]).is_err());
    assert!(
        Certificate::read(&[&good[..], &[0]].concat()).is_err(),
        "trailing bytes"
    );
    assert!(
        Certificate::read(&[&good[..], &good].concat()).is_err(),
        "two of them"
    );
    for end in 0..good.len() {
        assert!(Certificate::read(&good[..end]).is_err(), "cut at {end}");
    }
    for after in [vec![5, 0], tlv(0xa3, &[&tlv(SEQUENCE, &[])]).repeat(2)] {
        let parts = Parts {
            after,
            ..Parts::default()
        };
        assert!(Certificate::read(&parts.der()).is_err(), "an unknown part");
    }
    for validity in [
        tlv(SEQUENCE, &[]),
        tlv(SEQUENCE, &[&tlv(0x17, &[b"260101000000Z"])]),
        tlv(SEQUENCE, &[&tlv(0x17, &[b"261301000000Z"]).repeat(2)]),
        tlv(SEQUENCE, &[&tlv(0x17, &[b"260101000000Z"]).repeat(3)]),
    ] {
        let parts = Parts {
            validity,
            ..Parts::default()
        };
        let why = Certificate::read(&parts.der()).unwrap_err();
        assert!(why.to_string().contains("the validity is broken"), "{why}");
    }
    let huge = Parts {
        subject: super::super::crafted::common_name(&"x".repeat(LARGEST)),
        ..Parts::default()
    };
    assert!(
        Certificate::read(&huge.der())
            .unwrap_err()
            .to_string()
            .contains("64 KiB")
    );
}

proptest! {
    /// However a certificate is bent, reading it ends with a verdict, and what is shown stays one line.
    #[test]
    fn hostile_bytes_never_panic(
        bends in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        let mut der = Parts {
            subject: name(&[
                rdn(&[attribute(CN, UTF8_STRING, "zähler".as_bytes()), attribute(OU, 0x13, b"gas")]),
                rdn(&[attribute(&[0x2b, 0x83, 0x7d], 0x1e, &[0, 1])]),
            ]),
            extensions: vec![san(&[tlv(0x86, &[b"urn:x"]), tlv(0x82, &[b"x"]), tlv(0x81, &[b"x"])])],
            ..Parts::default()
        }
        .der();
        for (at, byte) in bends {
            let at = at.index(der.len());
            der[at] = byte;
        }
        if cuts {
            der.truncate(cut.index(der.len()));
        }
        if let Ok(it) = Certificate::read(&der) {
            prop_assert!(!it.subject.contains(char::is_control));
            prop_assert!(!it.issuer.contains(char::is_control));
            for field in Field::ALL {
                if let Ok(value) = it.value(field) {
                    prop_assert!(!value.contains(char::is_control));
                }
            }
        }
    }

    /// Bytes from nowhere.
    #[test]
    fn noise_never_panics(der in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = Certificate::read(&der);
    }
}
