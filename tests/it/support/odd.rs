//! Certificates that real devices carry, and that no chain of trust was made for.
//!
//! A table for whoever wants to know what becomes of them, in chain or in pinned mode (threats.md T1, T7).

use std::path::Path;

use rcgen::{BasicConstraints, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tidegate::pki::{Authority, Issued, KeyKind, Order, Validity};

use super::craft;
use super::openssl::{P_256, RSA_2048, RSA_3072, RSA_4096, openssl, private_key};
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
    let req = &[
        "req", "-x509", "-new", "-days", "30", "-key", "key", "-config", "config",
    ][..];
    let v3 = &[req, &["-extensions", "ca"]].concat();
    let last_day = ((LAST_DAY - now()) / DAY).to_string();
    let mut rows = Vec::new();
    for (what, kind, how, chained) in [
        (
            "self-signed by `openssl req -x509` (CA:TRUE)",
            P_256,
            v3.clone(),
            "certificate_wrong_purpose",
        ),
        (
            "self-signed by `openssl req -x509`, signed with SHA-1",
            RSA_2048,
            [v3, &["-sha1"][..]].concat(),
            "certificate_wrong_purpose",
        ),
        (
            "self-signed by `openssl req -x509`, signed with MD5",
            RSA_2048,
            [v3, &["-md5"][..]].concat(),
            "certificate_wrong_purpose",
        ),
        (
            "self-signed by `openssl req -x509`, with an empty subject",
            P_256,
            [v3, &["-subj", "/"][..]].concat(),
            "certificate_wrong_purpose",
        ),
        (
            "self-signed by `openssl req -x509`, with a serialNumber and no CN",
            P_256,
            [v3, &["-subj", "/O=Vendor/serialNumber=4711"][..]].concat(),
            "certificate_wrong_purpose",
        ),
        (
            "self-signed by `openssl req -x509`, until 9999-12-31",
            P_256,
            [v3, &["-days", &last_day][..]].concat(),
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
            P_256,
            "-sha256",
        ),
        ("the same, signed with MD5", RSA_2048, "-md5"),
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

fn key(folder: &Path, kind: &str) {
    std::fs::write(folder.join("key"), private_key(kind)).expect("written");
}

fn read(folder: &Path) -> Shown {
    let certificate = CertificateDer::from_pem_file(folder.join("out")).expect("PEM");
    let key = PrivateKeyDer::from_pem_file(folder.join("key")).expect("PEM");
    Shown::new(vec![certificate], key)
}

/// Self-signed by `openssl req -x509`, for a key in PEM.
pub fn self_signed(key: &str) -> Shown {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("key"), key).expect("written");
    let how = "req -x509 -new -key key -subj /CN=meter-7 -days 30 -out out";
    openssl(folder.path(), &how.split(' ').collect::<Vec<_>>());
    read(folder.path())
}

/// A CA of the device's own, which nobody knows.
fn own(order: Order) -> Authority {
    Authority::root(order).expect("a CA")
}

/// As ordered, signed by itself.
fn alone(order: Order) -> Shown {
    let one = own(order);
    let key = PrivateKeyDer::from_pem_slice(one.key_pem().as_bytes()).expect("PEM");
    Shown::new(vec![one.certificate().clone()], key)
}

fn now() -> i64 {
    Validity::days(0).not_after
}

/// Self-signed, of each kind of key that there is.
fn by_keys() -> Vec<Odd> {
    let mut rows: Vec<Odd> = [
        ("self-signed, ECDSA P-256", KeyKind::EcdsaP256),
        ("self-signed, ECDSA P-384", KeyKind::EcdsaP384),
        ("self-signed, ECDSA P-521", KeyKind::EcdsaP521),
        ("self-signed, Ed25519", KeyKind::Ed25519),
        ("self-signed, RSA, 2048 bits", KeyKind::Rsa2048),
    ]
    .map(|(what, kind)| {
        let shown = alone(Order::ca("meter-7").key(kind));
        row(what, shown, "certificate_wrong_purpose")
    })
    .into();
    for (what, kind) in [
        ("self-signed, RSA, 3072 bits", RSA_3072),
        ("self-signed, RSA, 4096 bits", RSA_4096),
    ] {
        let shown = self_signed(&private_key(kind));
        rows.push(row(what, shown, "certificate_wrong_purpose"));
    }
    rows
}

fn vendors_extension(is_critical: bool) -> CustomExtension {
    let mut extension =
        CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    extension.set_criticality(is_critical);
    extension
}

/// Of the CA that the gate trusts, or of one that nobody knows, but odd in itself.
fn by_authority(authority: &Authority) -> Vec<Odd> {
    let vendor = own(Order::ca("Vendor CA"));
    let namesake = own(Order::ca("Test CA"));
    let meter = || Order::device_named("meter-7");
    let made = |by: &Authority, order: Order| Shown::from(&issue(by, order));
    let now = now();
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
        row("self-signed, not a CA (CA:FALSE)", alone(meter()), strange),
        row(
            "self-signed, and over",
            alone(meter().valid(until(now - 9 * DAY, now - DAY))),
            "certificate_expired",
        ),
        row(
            "self-signed, with an extension of its vendor",
            alone(meter().adjust(|p| p.custom_extensions = vec![vendors_extension(false)])),
            strange,
        ),
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
                meter().adjust(|p| p.custom_extensions = vec![vendors_extension(true)]),
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
                meter().adjust(|p| p.custom_extensions = vec![vendors_extension(true)]),
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
