#![allow(clippy::unwrap_used)] // a test that panics has failed

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, GeneralSubtree,
    IsCa, KeyPair, NameConstraints, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
    PKCS_RSA_SHA256,
};
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, CertificateError};

use super::*;
use crate::tls::server::{MinVersion, Resumption, ServerTls, Settings};
use crate::tls::testing::*;
use crate::tls::witness::{Seen, witness};

/// What the verifier makes of a device's chain.
fn judged(groups: Groups, chain: &[&Made]) -> Seen {
    let ders: Vec<_> = chain.iter().map(|made| made.der.clone()).collect();
    judged_ders(groups, &ders)
}

fn judged_ders(groups: Groups, chain: &[CertificateDer<'static>]) -> Seen {
    judged_at(groups, chain, NOW).0
}

fn judged_at(
    groups: Groups,
    chain: &[CertificateDer<'static>],
    at: i64,
) -> (Seen, Result<ClientCertVerified, rustls::Error>) {
    let verifier = DeviceVerifier::new(Arc::new(groups), true, false);
    let mut seen = Seen::default();
    let result = witness(&mut seen, || {
        verifier.verify_client_cert(&chain[0], &chain[1..], unix(at))
    });
    assert_eq!(result.is_ok(), seen.shown.is_some());
    assert_eq!(result.is_err(), seen.refused.is_some());
    (seen, result)
}

/// Asserts that the chain is refused with this label, and that the sentence holds each of `words`.
#[track_caller]
fn assert_refused(seen: &Seen, reason: &str, words: &[&str]) {
    let refused = seen.refused.as_ref().expect("a refusal");
    assert_eq!(refused.reason, reason, "{}", refused.why);
    assert!(CertificateRefusal::LABELS.contains(&refused.reason));
    for word in words {
        assert!(
            refused.why.contains(word),
            "{word:?} is not in: {}",
            refused.why
        );
    }
    assert!(refused.why.contains("; "), "no way out: {}", refused.why);
}

fn vouched(seen: &Seen) -> Option<&Vouched> {
    seen.shown.as_ref().and_then(Shown::vouched)
}

#[track_caller]
fn assert_vouched(seen: &Seen, group: &str) {
    let why = seen.refused.as_ref().map(|refused| &refused.why);
    let vouched = vouched(seen).unwrap_or_else(|| panic!("{why:?}"));
    assert_eq!(&*vouched.group.name, group);
}

#[test]
fn a_chain_to_an_anchor_is_good() {
    let root = root("Factory CA");
    let sub = root.sub_ca("Line 1");
    let subsub = sub.sub_ca("Line 1 b");
    let device = subsub.device("meter-7");
    let seen = judged(group(&[&root], &[], &[]), &[&device, &subsub, &sub]);
    assert_vouched(&seen, "fleet");
    // Order does not matter, nor do doubles, nor the anchor itself, nor a stranger's certificate.
    let other = super::super::testing::root("Other");
    let chain = [&device, &other, &sub, &subsub, &sub, &root];
    let seen = judged(group(&[&root], &[], &[]), &chain);
    assert_vouched(&seen, "fleet");
    assert_eq!(seen.certificate.expect("readable").subject, "CN=meter-7");
}

#[test]
fn a_leaf_alone_is_good_when_its_intermediate_is_configured() {
    let root = root("Factory CA");
    let sub = root.sub_ca("Line 1");
    let subsub = sub.sub_ca("Line 1 b");
    let device = subsub.device("meter-7");
    let seen = judged(group(&[&root], &[&sub, &subsub], &[]), &[&device]);
    assert_vouched(&seen, "fleet");

    let seen = judged(group(&[&root], &[&sub], &[]), &[&device]);
    let words = [
        "certificate 1 of the chain, \"CN=meter-7\"",
        "\"CN=Line 1 b\"",
        "intermediates",
    ];
    assert_refused(&seen, "certificate_unknown_issuer", &words);
}

#[test]
fn the_end_is_that_of_the_certificate_that_ends_first() {
    let root = root("Factory CA");
    let sub = root.issues(ca("Line 1"), |ca| ca.not_after = now() + days(3));
    let device = sub.device("meter-7");
    let seen = judged(group(&[&root], &[&sub], &[]), &[&device]);
    assert_eq!(vouched(&seen).expect("good").not_after, NOW + 3 * 24 * 3600);
}

#[test]
fn what_is_over_or_not_yet_begun_is_named() {
    let root = root("Factory CA");
    let trusting = || group(&[&root], &[], &[]);
    let old = root.issues(device("old"), |d| d.not_after = now() - days(1));
    let seen = judged(trusting(), &[&old]);
    let words = ["certificate 1 of the chain, \"CN=old\", ended on 2025-12-31T00:00:00Z"];
    assert_refused(&seen, "certificate_expired", &words);

    let young = root.issues(device("young"), |d| d.not_before = now() + days(1));
    let seen = judged(trusting(), &[&young]);
    let words = ["\"CN=young\", begins on 2026-01-02T00:00:00Z", "clock"];
    assert_refused(&seen, "certificate_not_yet_valid", &words);

    let sub = root.issues(ca("Line 1"), |ca| ca.not_after = now() - days(1));
    let device = sub.device("meter-7");
    let seen = judged(trusting(), &[&device, &sub]);
    let words = ["certificate 2 of the chain, \"CN=Line 1\", ended on 2025-12-31"];
    assert_refused(&seen, "certificate_expired", &words);
    let seen = judged(group(&[&root], &[&sub], &[]), &[&device]);
    let words = ["intermediate \"CN=Line 1\" of trust group fleet ended on"];
    assert_refused(&seen, "certificate_expired", &words);
}

#[test]
fn an_unknown_ca_is_told_by_name() {
    let (ours, theirs) = (root("Factory CA"), root("Their CA"));
    let sub = theirs.sub_ca("Their line");
    let device = sub.device("meter-7");
    let seen = judged(group(&[&ours], &[], &[]), &[&device, &sub]);
    let words = [
        "certificate 2 of the chain, \"CN=Their line\", was issued by \"CN=Their CA\", which no trust group",
        "[[trust]] ca",
    ];
    assert_refused(&seen, "certificate_unknown_issuer", &words);
    // With its root sent along, which proves nothing.
    let seen = judged(group(&[&ours], &[], &[]), &[&device, &sub, &theirs]);
    assert_refused(
        &seen,
        "certificate_unknown_issuer",
        &["certificate 3", "signed itself"],
    );
    let alone = self_signed(
        crate::tls::testing::device("alone"),
        KeyPair::generate().unwrap(),
    );
    let seen = judged(group(&[&ours], &[], &[]), &[&alone]);
    assert_refused(
        &seen,
        "certificate_unknown_issuer",
        &["certificate 1", "signed itself"],
    );
}

#[test]
fn a_name_is_not_a_key() {
    let (ours, theirs) = (root("Factory CA"), root("Factory CA"));
    let device = theirs.device("meter-7");
    let seen = judged(group(&[&ours], &[], &[]), &[&device]);
    let words = [
        "certificate 1 of the chain",
        "\"CN=Factory CA\"",
        "another CA of that name",
    ];
    assert_refused(&seen, "certificate_bad_signature", &words);
}

#[test]
fn wire_text_is_escaped_and_cut() {
    let ours = root("Factory CA");
    let name = format!("evil\n\u{1b}[31m{}", "x".repeat(2000));
    let device = root("y\u{7}").device(&name);
    let seen = judged(group(&[&ours], &[], &[]), &[&device]);
    let why = seen.refused.expect("refused").why;
    assert!(
        why.chars().all(|c| !c.is_control()) && why.len() < 600,
        "{why}"
    );
}

/// I7: the anchor that vouches decides the group; a name in the certificate does not.
#[test]
fn a_device_belongs_to_the_group_of_its_anchor() {
    let (fleet, vendor) = (root("Fleet CA"), root("Vendor CA"));
    let folder = Folder::new();
    let settings = [
        folder.group("fleet", &[&fleet], &[], &[]),
        folder.group("vendor", &[&vendor], &[], &[]),
    ];
    let groups = || Groups::load(&[&settings[0], &settings[1]]).unwrap();
    assert_vouched(&judged(groups(), &[&fleet.device("meter-7")]), "fleet");
    assert_vouched(&judged(groups(), &[&vendor.device("meter-7")]), "vendor");
    // The other group's anchor, sent along, changes nothing; a sub CA of one group belongs to that group.
    let seen = judged(groups(), &[&vendor.device("meter-7"), &fleet, &vendor]);
    assert_vouched(&seen, "vendor");
    let sub = vendor.sub_ca("Fleet CA");
    let seen = judged(groups(), &[&sub.device("meter-7"), &sub]);
    assert_vouched(&seen, "vendor");
    // At a listener where the vendor's group does not count, the same certificate is a stranger's.
    let fleet_only = Groups::load(&[&settings[0]]).unwrap();
    let seen = judged(fleet_only, &[&vendor.device("meter-7")]);
    assert_refused(&seen, "certificate_unknown_issuer", &["\"CN=Vendor CA\""]);
}

#[test]
fn a_certificate_serves_its_purpose_only() {
    let root = root("Factory CA");
    let trusting = || group(&[&root], &[], &[]);
    let seen = judged(trusting(), &[&root.sub_ca("Line 1")]);
    assert_refused(
        &seen,
        "certificate_wrong_purpose",
        &["certificate 1", "is a CA's"],
    );

    let web = root.issues(device("web"), |d| {
        d.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let seen = judged(trusting(), &[&web]);
    assert_refused(
        &seen,
        "certificate_wrong_purpose",
        &["certificate 1", "clientAuth"],
    );
    let any = root.issues(device("any"), |d| d.extended_key_usages.clear());
    assert_vouched(&judged(trusting(), &[&any]), "fleet");

    let sub = root.issues(ca("Line 1"), |ca| {
        ca.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let seen = judged(trusting(), &[&sub.device("meter-7"), &sub]);
    assert_refused(
        &seen,
        "certificate_wrong_purpose",
        &["certificate 2", "clientAuth"],
    );

    let no_ca = root.issues(device("no CA"), |_| ());
    let seen = judged(trusting(), &[&no_ca.device("meter-7"), &no_ca]);
    assert_refused(
        &seen,
        "certificate_wrong_purpose",
        &["certificate 2", "used as a CA"],
    );

    let narrow = root.issues(ca("narrow"), |ca| {
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    let below = narrow.sub_ca("below");
    let seen = judged(trusting(), &[&below.device("meter-7"), &below, &narrow]);
    let words = [
        "certificate 3 of the chain, \"CN=narrow\"",
        "pathLenConstraint",
    ];
    assert_refused(&seen, "certificate_wrong_purpose", &words);
    assert_vouched(
        &judged(trusting(), &[&narrow.device("meter-7"), &narrow]),
        "fleet",
    );

    let named = root.issues(ca("named"), |ca| {
        ca.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("a.example".into())],
            excluded_subtrees: vec![],
        });
    });
    let device = named.issues(device("meter-7"), |d| {
        d.subject_alt_names = CertificateParams::new(vec!["b.example".to_owned()])
            .unwrap()
            .subject_alt_names;
    });
    let seen = judged(trusting(), &[&device, &named]);
    assert_refused(&seen, "certificate_wrong_purpose", &["nameConstraints"]);
}

#[test]
fn an_unknown_critical_extension_is_told_by_number() {
    let root = root("Factory CA");
    let odd = root.issues(device("odd"), |d| {
        let mut extension =
            CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
        extension.set_criticality(true);
        d.custom_extensions.push(extension);
    });
    let seen = judged(group(&[&root], &[], &[]), &[&odd]);
    assert_refused(
        &seen,
        "certificate_unsupported",
        &["1.3.6.1.4.1.99999.1", "critical"],
    );
}

#[test]
fn version_1_is_taken_of_an_anchor_and_told_of_a_device() {
    let root = root("Factory CA");
    let device = root.device("meter-7");
    let old = version_1(&device, &root.key);
    let seen = judged_ders(group(&[&root], &[], &[]), &[old]);
    let words = ["certificate 1 of the chain, \"CN=meter-7\", is not of version 3"];
    assert_refused(&seen, "certificate_unsupported", &words);
    let sub = root.sub_ca("Line 1");
    let chain = [sub.device("meter-8").der, version_1(&sub, &root.key)];
    let seen = judged_ders(group(&[&root], &[], &[]), &chain);
    assert_refused(
        &seen,
        "certificate_unsupported",
        &["certificate 2 of the chain"],
    );

    let folder = Folder::new();
    let mut settings = folder.group("fleet", &[], &[], &[]);
    let pem = one_line_pem(&version_1(&root, &root.key));
    settings.ca = vec![folder.file("v1.pem", pem)];
    let seen = judged(Groups::load(&[&settings]).unwrap(), &[&device]);
    assert_vouched(&seen, "fleet");
}

/// A certificate as PEM, on one long line as some tools write it.
fn one_line_pem(der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for bytes in der.chunks(3) {
        let triple = [0, 1, 2].map(|n| u32::from(bytes.get(n).copied().unwrap_or(0)));
        let bits = triple[0] << 16 | triple[1] << 8 | triple[2];
        for n in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * n) & 63) as usize];
            text.push(if n > bytes.len() { '=' } else { digit.into() });
        }
    }
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

#[test]
fn bytes_that_are_no_certificate_are_told_by_place() {
    let root = root("Factory CA");
    let trusting = || group(&[&root], &[], &[]);
    let garbage = CertificateDer::from(vec![0x30, 3, 1, 2, 3]);
    let seen = judged_ders(trusting(), std::slice::from_ref(&garbage));
    assert_refused(&seen, "certificate_malformed", &["certificate 1"]);
    assert!(seen.certificate.is_none());
    // Garbage behind a good chain is no concern of ours.
    let seen = judged_ders(trusting(), &[root.device("meter-7").der, garbage]);
    assert_vouched(&seen, "fleet");
}

/// T2: what a stranger sends is bounded before any path is built.
#[test]
fn a_chain_is_bounded_in_count_bytes_and_names() {
    let root = root("Factory CA");
    let trusting = || group(&[&root], &[], &[]);
    let subs: Vec<Made> = (0..8).map(|n| root.sub_ca(&format!("Line {n}"))).collect();
    let device = root.device("meter-7");
    let mut chain = vec![&device];
    chain.extend(&subs[..7]);
    assert_vouched(&judged(trusting(), &chain), "fleet");
    chain.push(&subs[7]);
    let seen = judged(trusting(), &chain);
    assert_refused(
        &seen,
        "certificate_chain_too_large",
        &["9 certificates", "at most 8"],
    );

    let fat = |name: &str, bytes: usize| {
        let extension =
            CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 2], vec![7; bytes]);
        root.issues(ca(name), |ca| ca.custom_extensions.push(extension))
    };
    let three = [fat("a", 13_000), fat("b", 13_000), fat("c", 13_000)];
    let seen = judged(trusting(), &[&device, &three[0], &three[1]]);
    assert_vouched(&seen, "fleet");
    let seen = judged(trusting(), &[&device, &three[0], &three[1], &three[2]]);
    assert_refused(
        &seen,
        "certificate_chain_too_large",
        &["bytes of certificates", "32768"],
    );
    let seen = judged(trusting(), &[&device, &fat("d", 17_000)]);
    assert_refused(
        &seen,
        "certificate_chain_too_large",
        &["certificate 2", "16384"],
    );

    let alike: Vec<Made> = (0..3).map(|_| crate::tls::testing::root("Line")).collect();
    let seen = judged(trusting(), &[&device, &alike[0], &alike[1]]);
    assert_vouched(&seen, "fleet");
    let seen = judged(trusting(), &[&device, &alike[0], &alike[1], &alike[2]]);
    assert_refused(
        &seen,
        "certificate_chain_too_large",
        &["3 different certificates"],
    );
}

#[test]
fn a_path_longer_than_webpki_takes_is_told() {
    let root = root("Factory CA");
    let mut cas = vec![root.sub_ca("Line 0")];
    for n in 1..7 {
        let next = cas[n - 1].sub_ca(&format!("Line {n}"));
        cas.push(next);
    }
    let device = cas[6].device("meter-7");
    let mut chain = vec![&device];
    chain.extend(&cas);
    let seen = judged(group(&[&root], &[], &[]), &chain);
    assert_refused(
        &seen,
        "certificate_chain_too_large",
        &["too many CAs", "six"],
    );
}

#[test]
fn the_revoked_are_refused_wherever_they_stand_in_the_path() {
    let root = root("Factory CA");
    let sub = root.sub_ca("Line 1");
    let (good, bad) = (sub.device("good"), sub.device("bad"));
    let lists = [root.crl_pem(&[]), sub.crl_pem(&[&bad])];
    let groups = || group(&[&root], &[&sub], &lists);
    assert_vouched(&judged(groups(), &[&good]), "fleet");
    let seen = judged(groups(), &[&bad]);
    let words = [
        "certificate 1 of the chain, \"CN=bad\", is revoked",
        "fleet",
    ];
    assert_refused(&seen, "certificate_revoked", &words);

    let lists = [root.crl_pem(&[&sub]), sub.crl_pem(&[])];
    let seen = judged(group(&[&root], &[&sub], &lists), &[&good, &sub]);
    let words = ["certificate 2 of the chain, \"CN=Line 1\", is revoked"];
    assert_refused(&seen, "certificate_revoked", &words);
}

/// R1: an open connection goes on by a list that nobody has renewed; not past another one, which names its CA.
#[test]
fn a_stale_list_hides_no_revoked_ca() {
    let root = root("Factory CA");
    let sub = root.sub_ca("Line 1");
    let device = sub.device("meter-7");
    let later = NOW + 8 * 24 * 3600;
    for (revoked, reason) in [(None, "crl_stale"), (Some(&sub), "certificate_revoked")] {
        let lists = [root.crl_pem(revoked.as_slice()), sub.crl_pem(&[])];
        let verifier = DeviceVerifier::new(Arc::new(group(&[&root], &[&sub], &lists)), true, false);
        assert_eq!(verdict(&verifier, &[&device, &sub], later), Some(reason));
        let chain = [device.der.clone(), sub.der.clone()];
        let again = verifier.judge_again(&chain, later).expect_err("refused");
        assert_eq!(again.reason, reason);
        let open = verifier.judge_open(&chain, later);
        let group = open.as_ref().map(|vouched| &*vouched.group.name);
        match revoked {
            None => assert_eq!(group.expect("it stays"), "fleet"),
            Some(_) => assert_eq!(group.expect_err("it goes").reason, reason),
        }
    }
}

#[test]
fn a_leaf_without_a_list_is_refused_once_its_group_has_lists() {
    let root = root("Factory CA");
    let sub = root.sub_ca("Line 1");
    let seen = judged(
        group(&[&root], &[], &[root.crl_pem(&[])]),
        &[&sub.device("meter-7"), &sub],
    );
    assert_refused(&seen, "crl_missing", &["none by \"CN=Line 1\"", "crl"]);
    // An intermediate is looked up only where its issuer's list is there.
    let seen = judged(
        group(&[&root], &[&sub], &[sub.crl_pem(&[])]),
        &[&sub.device("meter-7")],
    );
    assert_vouched(&seen, "fleet");
}

#[test]
fn a_stale_list_refuses_or_is_used_as_configured() {
    let root = root("Factory CA");
    let (good, bad) = (root.device("good"), root.device("bad"));
    let later = NOW + 8 * 24 * 3600;
    let folder = Folder::new();
    let mut settings = folder.group("fleet", &[&root], &[], &[root.crl_pem(&[&bad])]);
    let judged = |settings: &crate::tls::trust::Settings, made: &Made| {
        let groups = Groups::load(&[settings]).unwrap();
        judged_at(groups, std::slice::from_ref(&made.der), later)
    };
    let (seen, result) = judged(&settings, &good);
    let words = ["was to be replaced by 2026-01-08T00:00:00Z", "crl_stale"];
    assert_refused(&seen, "crl_stale", &words);
    assert_eq!(
        result.unwrap_err(),
        CertificateError::ExpiredRevocationList.into()
    );
    assert_refused(&judged(&settings, &bad).0, "certificate_revoked", &[]);

    settings.crl_stale = CrlStale::Use;
    assert_vouched(&judged(&settings, &good).0, "fleet");
    assert_refused(&judged(&settings, &bad).0, "certificate_revoked", &[]);
}

/// What `verifier` makes of a chain at a time, in seconds since 1970: the reason label of the refusal, if any. The device
/// holds its key.
fn verdict(verifier: &DeviceVerifier, chain: &[&Made], at: i64) -> Option<&'static str> {
    let ders: Vec<_> = chain.iter().map(|made| made.der.clone()).collect();
    shown(verifier, &ders, at, true)
}

fn shown(
    verifier: &DeviceVerifier,
    chain: &[CertificateDer<'static>],
    at: i64,
    proves: bool,
) -> Option<&'static str> {
    let mut seen = Seen::default();
    let result = witness(&mut seen, || {
        let result = verifier.verify_client_cert(&chain[0], &chain[1..], unix(at));
        if result.is_ok() && proves {
            let proof = Ok(HandshakeSignatureValid::assertion());
            verifier.possessed(proof, &chain[0]).unwrap();
        }
        result
    });
    assert_eq!(result.is_ok(), seen.shown.is_some());
    assert_eq!(
        seen.certificate.unwrap().subject,
        "CN=meter-7",
        "told whether it is known or not"
    );
    seen.refused.map(|refused| refused.reason)
}

/// T5: a verdict that is remembered does not outlive what it rests on.
#[test]
fn a_known_chain_is_judged_by_the_time_like_a_new_one() {
    let root = root("Factory CA");
    let sub = root.issues(ca("Line 1"), |params| params.not_after = now() + days(3));
    let device = sub.device("meter-7");
    let verifier = DeviceVerifier::new(Arc::new(group(&[&root], &[], &[])), true, false);
    let chain = [&device, &sub];

    assert_eq!(verdict(&verifier, &chain, NOW), None);
    assert_eq!(verdict(&verifier, &chain, NOW), None, "known by now");
    let after = NOW + 4 * 24 * 3600;
    assert_eq!(
        verdict(&verifier, &chain, after),
        Some("certificate_expired"),
        "of an intermediate, too"
    );
    let before = NOW - 3650 * 24 * 3600;
    assert_eq!(
        verdict(&verifier, &chain, before),
        Some("certificate_not_yet_valid")
    );
    assert_eq!(verdict(&verifier, &chain, NOW), None);
}

/// T5, T9: nor does it outlive the revocation list that it was checked against.
#[test]
fn a_known_chain_is_refused_once_its_list_is_stale() {
    let root = root("Factory CA");
    let device = root.device("meter-7");
    let listed = group(&[&root], &[], &[root.crl_pem(&[])]);
    let verifier = DeviceVerifier::new(Arc::new(listed), true, false);
    assert_eq!(verdict(&verifier, &[&device], NOW), None);
    let later = NOW + 8 * 24 * 3600;
    assert_eq!(verdict(&verifier, &[&device], later), Some("crl_stale"));
}

/// A known certificate is known with the chain that it came with, and to the verifier that judged it.
#[test]
fn what_is_known_of_one_chain_says_nothing_of_another() {
    let root = root("Factory CA");
    let sub = root.sub_ca("Line 1");
    let device = sub.device("meter-7");
    let verifier = DeviceVerifier::new(Arc::new(group(&[&root], &[], &[])), true, false);
    assert_eq!(verdict(&verifier, &[&device, &sub], NOW), None);
    assert_eq!(
        verdict(&verifier, &[&device], NOW),
        Some("certificate_unknown_issuer"),
        "without the intermediate"
    );
    let revoked = group(&[&root], &[&sub], &[sub.crl_pem(&[&device])]);
    let other = DeviceVerifier::new(Arc::new(revoked), true, false);
    assert_eq!(
        verdict(&other, &[&device, &sub], NOW),
        Some("certificate_revoked")
    );
}

/// T2, V6: strangers with a copy of a certificate, and devices that send junk along, leave others' places alone.
#[test]
fn a_device_has_one_place_and_a_stranger_none() {
    let root = root("Factory CA");
    let device = root.device("meter-7");
    let verifier = DeviceVerifier::new(Arc::new(group(&[&root], &[], &[])), true, false);
    let with_junk = |n: u8| vec![device.der.clone(), CertificateDer::from(vec![n; 10])];

    assert_eq!(shown(&verifier, &with_junk(0), NOW, false), None);
    assert_eq!(
        verifier.known.count(),
        0,
        "it did not prove to hold the key"
    );
    for n in 0..200 {
        assert_eq!(shown(&verifier, &with_junk(n), NOW, true), None);
    }
    assert_eq!(verifier.known.count(), 1);
}

/// I7: at another time another path may be the one, so a verdict is kept only until then.
#[test]
fn a_known_chain_does_not_outlive_an_intermediate_that_was_passed_over() {
    let (old, new) = (root("Old CA"), root("New CA"));
    let shared = KeyPair::generate().unwrap().serialize_pem();
    let key = || KeyPair::from_pem(&shared).unwrap();
    let crossed =
        |by: &Made, change: fn(&mut CertificateParams)| by.issues_for(key(), ca("Line 1"), change);
    let by_old = crossed(&old, |params| params.not_before = now() + days(2));
    let by_new = crossed(&new, |_| ());
    let device = by_new.device("meter-7");
    let folder = Folder::new();
    let settings = [
        folder.group("old", &[&old], &[], &[]),
        folder.group("new", &[&new], &[], &[]),
    ];
    let groups = Groups::load(&settings.each_ref()).unwrap();
    let verifier = DeviceVerifier::new(Arc::new(groups), true, false);
    let chain = [device.der.clone(), by_old.der.clone(), by_new.der.clone()];
    let group_at = |at: i64| {
        let mut seen = Seen::default();
        witness(&mut seen, || {
            let result = verifier.verify_client_cert(&chain[0], &chain[1..], unix(at));
            let proof = Ok(HandshakeSignatureValid::assertion());
            verifier.possessed(proof, &chain[0]).unwrap();
            result.unwrap();
        });
        vouched(&seen).unwrap().group.name.to_string()
    };
    let later = NOW + 3 * 24 * 3600;
    assert_eq!(group_at(NOW), "new", "the other is not valid yet");
    let fresh = {
        let groups = Groups::load(&settings.each_ref()).unwrap();
        let seen = judged_at(groups, &chain, later).0;
        vouched(&seen).unwrap().group.name.to_string()
    };
    assert_eq!(group_at(later), fresh, "as if it had never been seen");
}

/// The whole handshake: which devices come through, and what those that do not are told.
#[test]
fn devices_of_every_key_kind_come_through() {
    let root = root("Factory CA");
    let server = server_tls(group(&[&root], &[], &[]), true);
    let kinds = [
        &PKCS_ECDSA_P256_SHA256,
        &PKCS_ECDSA_P384_SHA384,
        &PKCS_ED25519,
        &PKCS_RSA_SHA256,
    ];
    for kind in kinds {
        let device = root.device_with("meter-7", kind);
        for version in [&TLS12, &TLS13] {
            let chain = Some((vec![device.der.clone()], &device.key));
            let outcome = handshake(
                &server.with_alpn,
                device_config(chain, version, None),
                "gate.example.net",
            );
            assert_eq!(outcome.server, Ok(()), "{kind:?} {version:?}");
            assert_vouched(&outcome.seen, "fleet");
        }
    }
}

fn server_tls(groups: Groups, mandatory: bool) -> ServerTls {
    server_with(DeviceVerifier::new(Arc::new(groups), mandatory, false))
}

fn server_with(verifier: Arc<DeviceVerifier>) -> ServerTls {
    let folder = Folder::new();
    let shown =
        root("Server CA").issues(crate::tls::testing::server(&["gate.example.net"]), |_| ());
    let settings = Settings {
        certificate: folder.file("server.pem", &shown.pem),
        key: folder.file("server.key", shown.key.serialize_pem()),
        min_version: MinVersion::Tls12,
        max_record: None,
        alpn: vec![],
        also: vec![],
        resumption: Resumption::Off,
    };
    ServerTls::load("devices", &settings, Some(verifier)).unwrap()
}

#[test]
fn a_refused_device_is_told_by_the_proper_alert() {
    let (root, stranger) = (root("Factory CA"), root("Other CA"));
    let revoked = root.device("revoked");
    let sub = root.sub_ca("Line 1");
    let lists = [root.crl_pem(&[&revoked])];
    let server = server_tls(group(&[&root], &[], &lists), true);
    let old = root.issues(device("old"), |d| d.not_after = now() - days(1));
    let web = root.issues(device("web"), |d| {
        d.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let impostor = crate::tls::testing::root("Factory CA").device("impostor");
    let unlisted = sub.device("unlisted");
    let cases = [
        (
            vec![&old],
            "certificate_expired",
            AlertDescription::CertificateExpired,
        ),
        (
            vec![&revoked],
            "certificate_revoked",
            AlertDescription::CertificateRevoked,
        ),
        (
            vec![&stranger.device("a")],
            "certificate_unknown_issuer",
            AlertDescription::UnknownCA,
        ),
        (
            vec![&unlisted, &sub],
            "crl_missing",
            AlertDescription::UnknownCA,
        ),
        (
            vec![&web],
            "certificate_wrong_purpose",
            AlertDescription::UnsupportedCertificate,
        ),
        (
            vec![&impostor],
            "certificate_bad_signature",
            AlertDescription::DecryptError,
        ),
        (
            [&root.device("b")].into_iter().chain([&sub; 8]).collect(),
            "certificate_chain_too_large",
            AlertDescription::CertificateUnknown,
        ),
    ]
    .map(|(chain, reason, alert): (Vec<&Made>, _, _)| {
        let ders: Vec<_> = chain.iter().map(|made| made.der.clone()).collect();
        let key = KeyPair::try_from(chain[0].key.serialize_der()).unwrap();
        (ders, key, reason, alert)
    });
    for (ders, key, reason, alert) in &cases {
        for version in [&TLS12, &TLS13] {
            let config = device_config(Some((ders.clone(), key)), version, None);
            let outcome = handshake(&server.with_alpn, config, "gate.example.net");
            assert!(outcome.server.is_err());
            assert_eq!(outcome.alert, Some(*alert), "{reason} {version:?}");
            assert_refused(&outcome.seen, reason, &[]);
            assert!(outcome.seen.certificate.is_some(), "{reason}");
        }
    }
}

#[test]
fn a_device_without_a_certificate_is_refused_where_one_is_mandatory() {
    let root = root("Factory CA");
    for version in [&TLS12, &TLS13] {
        let server = server_tls(group(&[&root], &[], &[]), true);
        let outcome = handshake(&server.with_alpn, device_config(None, version, None), "a.b");
        assert_eq!(outcome.server, Err(rustls::Error::NoCertificatesPresented));
        assert!(outcome.alert.is_some() && outcome.seen.refused.is_none());

        let server = server_tls(group(&[&root], &[], &[]), false);
        let outcome = handshake(&server.with_alpn, device_config(None, version, None), "a.b");
        assert_eq!(outcome.server, Ok(()));
        assert!(outcome.seen.shown.is_none());
    }
}

#[test]
fn a_certificate_without_its_key_proves_nothing() {
    let root = root("Factory CA");
    let server = server_tls(group(&[&root], &[], &[]), true);
    let (victim, thief) = (root.device("victim"), KeyPair::generate().unwrap());
    for version in [&TLS12, &TLS13] {
        let config = showing(vec![victim.der.clone()], &thief, version);
        let outcome = handshake(&server.with_alpn, config, "a.b");
        assert_eq!(outcome.alert, Some(AlertDescription::DecryptError));
        assert_refused(&outcome.seen, "certificate_bad_signature", &["private key"]);
        assert!(outcome.seen.shown.is_none());
    }
}

#[test]
fn no_hints_of_cas_are_given() {
    let verifier = DeviceVerifier::new(
        Arc::new(group(&[&root("Factory CA")], &[], &[])),
        true,
        false,
    );
    assert!(verifier.root_hint_subjects().is_empty());
    assert!(verifier.offer_client_auth() && verifier.client_auth_mandatory());
}

mod pinned;
