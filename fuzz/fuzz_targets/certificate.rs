//! Certificate identity: whatever the bytes, reading them ends with a verdict, and what is read fits its promises.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tidegate::rules::device::{Alphabet, DeviceId};
use tidegate::rules::identity::{Certificate, Field, Naming, Pattern, Unnamed};

/// Each field alone, and each through the pattern of the documentation.
static NAMINGS: LazyLock<Vec<Naming>> = LazyLock::new(|| {
    let pattern = Pattern::parse("^(?:urn:device:)?(?<device>.+)$").expect("a good pattern");
    let naming = |pattern: Option<&Pattern>, field| Naming {
        field,
        pattern: pattern.cloned(),
        alphabet: Alphabet::default(),
    };
    let plain = Field::ALL.map(|field| naming(None, field));
    let picked = Field::ALL.map(|field| naming(Some(&pattern), field));
    plain.into_iter().chain(picked).collect()
});

fuzz_target!(|der: &[u8]| {
    let Ok(certificate) = Certificate::read(der) else {
        return;
    };
    assert_eq!(Certificate::read(der).as_ref(), Ok(&certificate), "the same bytes, the same facts");
    // One certificate is exactly these bytes.
    assert!(Certificate::read(&[der, &[0]].concat()).is_err());
    assert!(Certificate::read(&der[..der.len() - 1]).is_err());

    // What goes to the log is short and one line.
    for name in [&certificate.subject, &certificate.issuer] {
        assert!(name.len() <= 512 + '…'.len_utf8());
        assert!(!name.contains(char::is_control));
    }
    let hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let fingerprint = certificate.fingerprint();
    assert!(fingerprint.len() == 64 && hex(&fingerprint));
    let serial = &certificate.serial;
    let magnitude = serial.strip_prefix('-').unwrap_or(serial);
    assert!(!magnitude.is_empty() && hex(magnitude));

    for naming in NAMINGS.iter() {
        let value = certificate.value(naming.field);
        if let Ok(value) = value {
            assert!(value.len() <= 1024 && !value.contains(char::is_control));
        }
        match naming.device(&certificate) {
            Ok(device) => {
                // I5, I6: a device id is a part of the one value, and of the alphabet; without a pattern it is all of it.
                let value = value.expect("a device has a value");
                assert!(value.contains(device.as_str()));
                assert!(naming.pattern.is_some() || value == device.as_str());
                assert_eq!(device.as_str().parse::<DeviceId>().as_ref(), Ok(&device));
            }
            Err(why @ (Unnamed::NotMatched(..) | Unnamed::NotAllowed(..))) => {
                assert!(value.is_ok());
                let sentence = why.to_string();
                assert!(sentence.len() < 2_048 && !sentence.contains(char::is_control));
            }
            Err(why) => assert_eq!(value, Err(why)),
        }
    }
});
