//! Certificates that real devices carry, and that no chain of trust was made for.
//!
//! A table for whoever wants to know what becomes of them, in chain or in pinned mode (threats.md T1, T7).

use std::path::Path;

use rcgen::{BasicConstraints, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tidegate::pki::{Authority, Issued, KeyKind, Order, Validity};

use super::craft;
use super::openssl::openssl;
use super::shown::Shown;

/// One of them.
pub struct Odd {
    pub what: &'static str,
    pub shown: Shown,
    /// What a gate that trusts [`odd`]'s authority makes of it in chain mode: `None`, it vouches for it; else the reason.
    pub chained: Option<&'static str>,
}

/// 9999-12-31T23:59:59Z, "no end" (RFC 5280 §4.1.2.5).
const LAST_DAY: i64 = 253_402_300_799;

const DAY: i64 = 24 * 3600;

/// All of them, named `meter-7` where they are named at all. `authority`: the CA that the gate trusts, with a P-256 key.
pub fn odd(authority: &Authority) -> Vec<Odd> {
    let mut all = self_made();
    all.extend(by_keys());
    all.extend(by_authority(authority));
    all
}

fn row(what: &'static str, shown: Shown, chained: &'static str) -> Odd {
    let chained = (!chained.is_empty()).then_some(chained);
    Odd {
        what,
        shown,
        chained,
    }
}

/// What people make with `openssl` by the first recipe they find.
fn self_made() -> Vec<Odd> {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let config = "[req]\ndistinguished_name = dn\nprompt = no\n[dn]\nCN = meter-7\n\
                  [ca]\nsubjectKeyIdentifier = hash\nauthorityKeyIdentifier = keyid\nbasicConstraints = critical, CA:TRUE\n";
    std::fs::write(folder.join("config"), config).expect("written");
    let p256 = &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"][..];
    let rsa = &["RSA", "-pkeyopt", "rsa_keygen_bits:2048"][..];
    let req = &[
        "req", "-x509", "-new", "-days", "30", "-key", "key", "-config", "config",
    ][..];
    let v3 = &[req, &["-extensions", "ca"]].concat();
    let mut rows = Vec::new();
    for (what, kind, how, chained) in [
        (
            "self-signed by `openssl req -x509` (CA:TRUE)",
            p256,
            v3.clone(),
            "certificate_wrong_purpose",
        ),
        (
            "self-signed by `openssl req -x509`, signed with SHA-1",
            rsa,
            [v3, &["-sha1"][..]].concat(),
            "certificate_wrong_purpose",
        ),
        (
            "self-signed by `openssl req -x509`, signed with MD5",
            rsa,
            [v3, &["-md5"][..]].concat(),
            "certificate_wrong_purpose",
        ),
        (
            "self-signed by `openssl req -x509`, with an empty subject",
            p256,
            [v3, &["-subj", "/"][..]].concat(),
            "certificate_wrong_purpose",
        ),
    ] {
        key(folder, kind);
        openssl(folder, &[&how[..], &["-out", "out"]].concat());
        rows.push(row(what, read(folder), chained));
    }
    for (what, kind, digest) in [
        (
            "self-signed by `openssl x509 -req` (version 1)",
            p256,
            "-sha256",
        ),
        ("the same, signed with MD5", rsa, "-md5"),
    ] {
        key(folder, kind);
        let ask = [
            "req", "-new", "-key", "key", "-config", "config", "-out", "ask",
        ];
        openssl(folder, &ask);
        let sign = [
            "x509", "-req", "-in", "ask", "-signkey", "key", "-days", "30",
        ];
        openssl(folder, &[&sign[..], &[digest, "-out", "out"]].concat());
        rows.push(row(what, read(folder), "certificate_unsupported"));
    }
    rows
}

fn key(folder: &Path, kind: &[&str]) {
    openssl(
        folder,
        &[&["genpkey", "-out", "key", "-algorithm"], kind].concat(),
    );
}

fn read(folder: &Path) -> Shown {
    let certificate = CertificateDer::from_pem_file(folder.join("out")).expect("PEM");
    let key = PrivateKeyDer::from_pem_file(folder.join("key")).expect("PEM");
    Shown::new(vec![certificate], key)
}

/// A CA of the device's own, which nobody knows.
fn own(order: Order) -> Authority {
    Authority::root(order).expect("a CA")
}

/// Self-signed, of each kind of key that there is.
fn by_keys() -> Vec<Odd> {
    let alone = |kind| {
        let order = Order::ca("meter-7").key(kind);
        let one = own(order);
        let key = PrivateKeyDer::from_pem_slice(one.key_pem().as_bytes()).expect("PEM");
        Shown::new(vec![one.certificate().clone()], key)
    };
    let mut rows: Vec<Odd> = [
        ("self-signed, ECDSA P-256", KeyKind::EcdsaP256),
        ("self-signed, ECDSA P-384", KeyKind::EcdsaP384),
        ("self-signed, ECDSA P-521", KeyKind::EcdsaP521),
        ("self-signed, Ed25519", KeyKind::Ed25519),
        ("self-signed, RSA, 2048 bits", KeyKind::Rsa2048),
    ]
    .map(|(what, kind)| row(what, alone(kind), "certificate_wrong_purpose"))
    .into();
    let folder = tempfile::tempdir().expect("a folder");
    for (what, bits) in [
        ("self-signed, RSA, 3072 bits", "rsa_keygen_bits:3072"),
        ("self-signed, RSA, 4096 bits", "rsa_keygen_bits:4096"),
    ] {
        key(folder.path(), &["RSA", "-pkeyopt", bits]);
        let how = [
            "req",
            "-x509",
            "-new",
            "-key",
            "key",
            "-subj",
            "/CN=meter-7",
        ];
        openssl(
            folder.path(),
            &[&how[..], &["-days", "30", "-out", "out"]].concat(),
        );
        rows.push(row(what, read(folder.path()), "certificate_wrong_purpose"));
    }
    rows
}

fn vendors_extension() -> CustomExtension {
    let mut extension =
        CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    extension.set_criticality(true);
    extension
}

/// Of the CA that the gate trusts, or of one that nobody knows, but odd in itself.
fn by_authority(authority: &Authority) -> Vec<Odd> {
    let vendor = own(Order::ca("Vendor CA"));
    let namesake = own(Order::ca("Test CA"));
    let meter = || Order::device_named("meter-7");
    let made = |by: &Authority, order: Order| Shown::from(&issue(by, order));
    let now = Validity::days(0).not_after;
    let until = |not_before, not_after| Validity {
        not_before,
        not_after,
    };
    let plain = issue(&vendor, meter());
    let old = Shown::new(
        vec![craft::version_1(&vendor, plain.certificate())],
        plain.key(),
    );
    let strange = "certificate_unknown_issuer";
    vec![
        row("of a CA that nobody knows", made(&vendor, meter()), strange),
        row("the same, version 1", old, "certificate_unsupported"),
        row(
            "of a CA that nobody knows, valid until 9999-12-31",
            made(&vendor, meter().valid(until(now - DAY, LAST_DAY))),
            strange,
        ),
        row(
            "with a serial of 20 bytes",
            made(&vendor, meter().serial(&[0x7f; 20])),
            strange,
        ),
        row(
            "without any name, in subject or subjectAltName",
            made(&vendor, Order::device_unnamed()),
            strange,
        ),
        row(
            "with a critical extension of its vendor",
            made(
                &vendor,
                meter().adjust(|p| p.custom_extensions = vec![vendors_extension()]),
            ),
            "certificate_unsupported",
        ),
        row(
            "for servers only (extendedKeyUsage)",
            made(
                &vendor,
                meter().purposes(vec![ExtendedKeyUsagePurpose::ServerAuth]),
            ),
            "certificate_wrong_purpose",
        ),
        row(
            "for key agreement only (keyUsage)",
            made(
                &vendor,
                meter().adjust(|p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement]),
            ),
            strange,
        ),
        row(
            "of a CA of the trusted one's name",
            made(&namesake, meter()),
            "certificate_bad_signature",
        ),
        row(
            "of the trusted CA, and over",
            made(authority, meter().valid(until(now - 9 * DAY, now - DAY))),
            "certificate_expired",
        ),
        row(
            "of the trusted CA, and not yet begun",
            made(authority, meter().valid(until(now + DAY, now + 9 * DAY))),
            "certificate_not_yet_valid",
        ),
        row(
            "of the trusted CA, with a critical extension of its vendor",
            made(
                authority,
                meter().adjust(|p| p.custom_extensions = vec![vendors_extension()]),
            ),
            "certificate_unsupported",
        ),
        row(
            "of the trusted CA, a CA itself",
            made(
                authority,
                meter().adjust(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            ),
            "certificate_wrong_purpose",
        ),
        row(
            "of the trusted CA, as it should be",
            made(authority, meter()),
            "",
        ),
    ]
}

fn issue(by: &Authority, order: Order) -> Issued {
    by.issue(order).expect("issued")
}
