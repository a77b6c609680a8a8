//! Certificates that no group vouches for, where the gate has a registry that may know them.

use super::*;

fn judges(groups: Groups, pins: bool) -> Arc<DeviceVerifier> {
    DeviceVerifier::new(Arc::new(groups), true, pins)
}

/// What a verifier makes of a chain whose device holds its key.
fn seen_by(verifier: &DeviceVerifier, chain: &[CertificateDer<'static>]) -> (Seen, bool) {
    let mut seen = Seen::default();
    let taken = witness(&mut seen, || {
        let result = verifier.verify_client_cert(&chain[0], &chain[1..], unix(NOW));
        if result.is_ok() {
            let proof = Ok(HandshakeSignatureValid::assertion());
            verifier.possessed(proof, &chain[0]).unwrap();
        }
        result.is_ok()
    });
    (seen, taken)
}

fn unvouched(seen: &Seen) -> Option<&Unvouched> {
    match &seen.shown {
        Some(Shown::Unvouched(unvouched)) => Some(unvouched),
        _ => None,
    }
}

/// T1: the chain's verdict waits for the verdict after CONNECT, in the same words; without pins it is final.
#[test]
fn what_no_group_vouches_for_may_be_pinned_and_is_told_in_the_same_words() {
    let root = root("Factory CA");
    let revoked = root.device("revoked");
    let lists = [root.crl_pem(&[&revoked])];
    let key = || KeyPair::generate().unwrap();
    let self_signed = |params| crate::tls::testing::self_signed(params, key());
    let cases = [
        (self_signed(device("alone")), "certificate_unknown_issuer"),
        (self_signed(ca("a CA")), "certificate_wrong_purpose"),
        (
            root.issues(device("old"), |d| d.not_after = now() - days(1)),
            "certificate_expired",
        ),
        (
            root.issues(device("young"), |d| d.not_before = now() + days(1)),
            "certificate_not_yet_valid",
        ),
        (revoked, "certificate_revoked"),
        (
            crate::tls::testing::root("Factory CA").device("impostor"),
            "certificate_bad_signature",
        ),
    ];
    for (made, reason) in &cases {
        let chain = [made.der.clone()];
        let pinned = judges(group(&[&root], &[], &lists), true);
        let (seen, taken) = seen_by(&pinned, &chain);
        let unvouched = unvouched(&seen).expect("for the time being");
        assert!(taken && seen.refused.is_none(), "{reason}");
        let sha256 = ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, &made.der);
        assert_eq!(unvouched.certificate.print, sha256.as_ref());
        assert_eq!(pinned.known.count(), 0, "nobody vouches for it");

        let (seen, taken) = seen_by(&judges(group(&[&root], &[], &lists), false), &chain);
        assert!(!taken && seen.shown.is_none(), "{reason}");
        assert_eq!(seen.refused.as_ref(), Some(&unvouched.refusal));
        assert_refused(&seen, reason, &[]);
    }
}

/// T1: pins change nothing for a certificate that a group vouches for.
#[test]
fn a_vouched_certificate_is_vouched_for_and_known_with_pins_too() {
    let root = root("Factory CA");
    let device = root.device("meter-7");
    let verifier = judges(group(&[&root], &[], &[]), true);
    for _ in 0..2 {
        let (seen, taken) = seen_by(&verifier, std::slice::from_ref(&device.der));
        assert!(taken);
        assert_vouched(&seen, "fleet");
        assert_eq!(verifier.known.count(), 1);
    }
}

/// T2: what is too large, or no certificate at all, is refused in the handshake; no registry is asked.
#[test]
fn no_pin_makes_good_what_is_too_large_or_unreadable() {
    let root = root("Factory CA");
    let device = root.device("meter-7").der;
    let large = [vec![0x30], vec![0; LARGEST_CERTIFICATE]].concat();
    let mut broken = device.to_vec();
    broken.pop();
    let cases: [(Vec<CertificateDer<'static>>, _); 3] = [
        (
            vec![device.clone(); MOST_CERTIFICATES + 1],
            "certificate_chain_too_large",
        ),
        (vec![large.into()], "certificate_chain_too_large"),
        (vec![broken.into()], "certificate_malformed"),
    ];
    for (chain, reason) in cases {
        let (seen, taken) = seen_by(&judges(group(&[&root], &[], &[]), true), &chain);
        assert!(!taken && seen.shown.is_none(), "{reason}");
        assert_eq!(seen.refused.expect("refused").reason, reason);
    }
}

/// T1: whoever shows somebody's certificate with a key of its own is refused, whatever the registry knows.
#[test]
fn a_pinned_certificate_without_its_key_proves_nothing() {
    let root = root("Factory CA");
    let victims = [
        self_signed(ca("alone"), KeyPair::generate().unwrap()).der,
        version_1(&root.device("old"), &root.key),
        root.device("meter-7").der,
    ];
    let server = server_with(judges(group(&[&root], &[], &[]), true));
    let thief = KeyPair::generate().unwrap();
    for victim in &victims {
        for version in [&TLS12, &TLS13] {
            let config = showing(vec![victim.clone()], &thief, version);
            let outcome = handshake(&server.with_alpn, config, "a.b");
            assert!(outcome.server.is_err());
            assert_eq!(outcome.alert, Some(AlertDescription::DecryptError));
            assert_refused(&outcome.seen, "certificate_bad_signature", &["private key"]);
            assert!(outcome.seen.shown.is_none());
        }
    }
}

/// T1: the key alone is looked at, so what webpki cannot read proves as well as any other.
#[test]
fn odd_certificates_prove_their_keys() {
    let root = root("Factory CA");
    let kinds = [
        &PKCS_ECDSA_P256_SHA256,
        &PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ECDSA_P521_SHA512,
        &PKCS_ED25519,
        &PKCS_RSA_SHA256,
    ];
    let server = server_with(judges(group(&[&root], &[], &[]), true));
    for kind in kinds {
        let made = root.device_with("meter-7", kind);
        let old = version_1(&made, &root.key);
        for version in [&TLS12, &TLS13] {
            let config = showing(vec![old.clone()], &made.key, version);
            let outcome = handshake(&server.with_alpn, config, "a.b");
            assert_eq!(outcome.server, Ok(()), "{kind:?} {version:?}");
            let unvouched = unvouched(&outcome.seen).expect("for the time being");
            assert_eq!(unvouched.refusal.reason, "certificate_unsupported");
            let key = Certificate::read(&made.der).unwrap().key;
            assert_eq!(unvouched.certificate.key, key, "a pin of the key finds it");
        }
    }
}

/// RFC 8446 §4.2.3: a scheme that TLS 1.3 does not have proves nothing in it, and one that was not asked for nothing at all.
#[test]
fn a_signature_by_another_scheme_proves_nothing() {
    use rustls::internal::msgs::codec::{Codec as _, Reader};
    let made = root("Factory CA").device_with("meter-7", &PKCS_RSA_SHA256);
    let pair = made.key.serialize_der();
    let pair = ::aws_lc_rs::signature::RsaKeyPair::from_pkcs8(&pair).unwrap();
    let random = ::aws_lc_rs::rand::SystemRandom::new();
    let mut signature = vec![0; pair.public_modulus_len()];
    let pkcs1 = &::aws_lc_rs::signature::RSA_PKCS1_SHA256;
    pair.sign(pkcs1, &random, b"said", &mut signature).unwrap();
    let said_by = |scheme: [u8; 2]| {
        let length = u16::try_from(signature.len()).unwrap().to_be_bytes();
        let bytes = [&scheme[..], &length, &signature].concat();
        DigitallySignedStruct::read(&mut Reader::init(&bytes)).unwrap()
    };
    let pkcs1 = said_by([4, 1]);
    assert!(possession::tls12(b"said", &made.der, &pkcs1).is_ok());
    assert!(possession::tls12(b"else", &made.der, &pkcs1).is_err());
    assert!(possession::tls13(b"said", &made.der, &pkcs1).is_err());
    for scheme in [[4, 3], [2, 1], [8, 4], [0xfe, 0xfe]] {
        let other = said_by(scheme); // ECDSA, RSA with SHA-1, RSA-PSS, nothing known
        assert!(possession::tls12(b"said", &made.der, &other).is_err());
        assert!(possession::tls13(b"said", &made.der, &other).is_err());
    }
}

/// T5: a resumed connection, and an open one when the trust has changed, is judged like a new one; nothing is proved by it, so
/// strangers' chains leave no trace.
#[test]
fn a_chain_is_judged_again_like_a_new_one() {
    let root = root("Factory CA");
    let device = root.issues(device("meter-7"), |d| d.not_after = now() + days(1));
    let chain = [device.der.clone()];
    let judged = |groups, at| {
        let verifier = judges(groups, false);
        let again = verifier.judge_again(&chain, at);
        let shown = verifier.show_again(&chain, at).expect("it can be read");
        assert_eq!(shown.vouched().is_some(), again.is_ok());
        again.map_err(|refused| refused.reason)
    };
    let good = judged(group(&[&root], &[], &[]), NOW).expect("good");
    assert_eq!((&*good.group.name, good.direct), ("fleet", true));
    let later = NOW + 2 * 24 * 3600;
    for (groups, at, reason) in [
        (group(&[&root], &[], &[]), later, "certificate_expired"),
        (
            group(&[&root], &[], &[root.crl_pem(&[&device])]),
            NOW,
            "certificate_revoked",
        ),
        (
            group(&[&crate::tls::testing::root("Another CA")], &[], &[]),
            NOW,
            "certificate_unknown_issuer",
        ),
    ] {
        assert_eq!(judged(groups, at).unwrap_err(), reason);
    }
    let verifier = judges(group(&[&root], &[], &[]), false);
    assert!(verifier.judge_again(&[], NOW).is_err());
    assert!(verifier.judge_again(&chain, NOW).is_ok());
    assert_eq!(
        verifier.known.count(),
        1,
        "the next time costs no signature"
    );
    assert!(verifier.judge_again(&chain, later).is_err());
    assert_eq!(verifier.known.count(), 1);
}
