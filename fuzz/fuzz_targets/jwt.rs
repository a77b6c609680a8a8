//! JWTs and key sets: whatever the bytes, judging them ends, and what is taken fits its promises.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tidegate::rules::device::{Alphabet, DeviceId};
use tidegate::rules::jwt::{Algorithm, Bad, Keys, LEEWAY, LONGEST, Settings, fuzzing, verify};

/// The private key of this one is gone.
const JWKS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"fuzz","x":"uCJu69QbfACHL7CamBXQox9o3AlRysYQ7pOOwyKlEas"}]}"#;
const NOW: i64 = 1_800_000_000;
static SETTINGS: LazyLock<Settings> = LazyLock::new(|| Settings {
    issuer: "https://issuer.example".into(),
    audience: "mqtt".into(),
    algorithms: Algorithm::ALL.to_vec(),
    device_claim: "sub".into(),
    alphabet: Alphabet::default(),
});
static KEYS: LazyLock<Keys> =
    LazyLock::new(|| Keys::read(JWKS.as_bytes(), &Algorithm::ALL).expect("a good set"));

fuzz_target!(|bytes: &[u8]| {
    a_token(bytes);
    claims(bytes);
    a_key_set(bytes);
});

fn a_token(bytes: &[u8]) {
    let judged = verify(bytes, &SETTINGS, &KEYS, NOW);
    assert_eq!(verify(bytes, &SETTINGS, &KEYS, NOW), judged, "the same bytes, the same verdict");
    assert!(bytes.len() <= LONGEST || judged == Err(Bad::TooLong));
    match judged {
        Ok(claims) => {
            assert!(KEYS.holds(&claims.key));
            // A token is exactly these bytes, and nobody else's.
            assert!(verify(&[bytes, b"A"].concat(), &SETTINGS, &KEYS, NOW).is_err());
            assert!(verify(&bytes[..bytes.len() - 1], &SETTINGS, &KEYS, NOW).is_err());
            assert!(verify(bytes, &SETTINGS, &Keys::default(), NOW).is_err());
        }
        // K2: sentences hold nothing of the token, so they are short and one line.
        Err(bad) => {
            let sentence = bad.to_string();
            assert!(sentence.len() < 300 && !sentence.contains(char::is_control));
        }
    }
}

fn claims(bytes: &[u8]) {
    if let Some(claims) = fuzzing::claims(bytes, &SETTINGS, NOW) {
        assert!((NOW..=253_402_300_799 + LEEWAY).contains(&claims.not_after));
        assert_eq!(claims.device.as_str().parse::<DeviceId>().as_ref(), Ok(&claims.device));
        let text = str::from_utf8(bytes).expect("JSON is UTF-8");
        for member in ["\"iss\"", "\"aud\""] {
            // Not by another spelling: then there is an escape.
            assert!(text.contains(member) || text.contains('\\'));
        }
    }
}

fn a_key_set(bytes: &[u8]) {
    match Keys::read(bytes, &Algorithm::ALL) {
        Ok(keys) => {
            assert!(keys.count() > 0 && keys.are_those_of(&keys));
            assert!(Keys::read(&[bytes, b"x"].concat(), &Algorithm::ALL).is_err(), "nothing may follow it");
        }
        Err(bad) => assert!(bad.to_string().len() < 300),
    }
}
