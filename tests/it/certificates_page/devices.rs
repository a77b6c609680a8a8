//! Devices' certificates: keys, signatures, forms and chains.

use rcgen::{
    BasicConstraints, CustomExtension, ExtendedKeyUsagePurpose as Purpose, GeneralSubtree, IsCa,
    KeyUsagePurpose, NameConstraints,
};
use rustls::pki_types::CertificateDer;
use tidegate::pki::{Authority, Order, Validity};

use super::doors::Case;
use super::workshop::Workshop;
use super::{DAY, issue, meter, now};
use crate::support::craft;
use crate::support::openssl::{
    ED25519, P_256, P_384, P_521, RSA_1024, RSA_2048, RSA_3072, RSA_4096,
};
use crate::support::shown::Shown;

/// The CAs of the signature rows: name, key for `openssl genpkey`.
const SIGNERS: [(&str, &str); 5] = [
    ("rsa", RSA_2048),
    ("p256", P_256),
    ("p384", P_384),
    ("p521", P_521),
    ("ed25519", ED25519),
];

/// What a CA signs with: the words of the table, the CA, `openssl x509`'s way to say it.
const SIGNATURES: [(&str, &str, &[&str]); 13] = [
    ("RSA PKCS #1, SHA-1", "rsa", &["-sha1"]),
    ("RSA PKCS #1, SHA-224", "rsa", &["-sha224"]),
    ("RSA PKCS #1, SHA-256", "rsa", &["-sha256"]),
    ("RSA PKCS #1, SHA-384", "rsa", &["-sha384"]),
    ("RSA PKCS #1, SHA-512", "rsa", &["-sha512"]),
    (
        "RSA-PSS, SHA-256",
        "rsa",
        &[
            "-sha256",
            "-sigopt",
            "rsa_padding_mode:pss",
            "-sigopt",
            "rsa_pss_saltlen:32",
        ],
    ),
    ("ECDSA P-256, SHA-1", "p256", &["-sha1"]),
    ("ECDSA P-256, SHA-256", "p256", &["-sha256"]),
    ("ECDSA P-256, SHA-384", "p256", &["-sha384"]),
    ("ECDSA P-384, SHA-256", "p384", &["-sha256"]),
    ("ECDSA P-384, SHA-384", "p384", &["-sha384"]),
    ("ECDSA P-521, SHA-512", "p521", &["-sha512"]),
    ("Ed25519", "ed25519", &[]),
];

/// A workshop with the CAs of [`SIGNERS`], and with `authority` as `own`.
pub(super) fn workshop(authority: &Authority) -> Workshop {
    let shop = Workshop::new();
    for (name, kind) in SIGNERS {
        shop.key(name, kind);
        shop.authority(name, &format!("{name} CA"));
    }
    shop.put("own.pem", authority.certificate_pem());
    shop.put("own.key", &authority.key_pem());
    shop
}

/// The certificates of all its CAs, in PEM.
pub(super) fn cas(shop: &Workshop) -> String {
    let names = SIGNERS.iter().map(|(name, _)| *name).chain(["own"]);
    let pem = names.map(|name| shop.read(&format!("{name}.pem")));
    String::from_utf8(pem.collect::<Vec<_>>().concat()).expect("PEM is ASCII")
}

/// Kinds of keys: those that rustls has, too, and those that only OpenSSL has.
const KEYS: [(&str, &str, bool); 13] = [
    // rustls has no RSA keys below 2048 bits.
    ("RSA, 1024 bits", RSA_1024, false),
    ("RSA, 2048 bits", RSA_2048, true),
    ("RSA, 3072 bits", RSA_3072, true),
    ("RSA, 4096 bits", RSA_4096, true),
    (
        "RSA, 2048 bits, for PSS alone (id-RSASSA-PSS)",
        "RSA-PSS -pkeyopt rsa_keygen_bits:2048",
        false,
    ),
    ("ECDSA P-256", P_256, true),
    (
        "ECDSA P-256, its curve spelt out",
        "EC -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:explicit",
        false,
    ),
    ("ECDSA P-384", P_384, true),
    ("ECDSA P-521", P_521, true),
    (
        "ECDSA secp256k1",
        "EC -pkeyopt ec_paramgen_curve:secp256k1",
        false,
    ),
    (
        "ECDSA brainpoolP256r1",
        "EC -pkeyopt ec_paramgen_curve:brainpoolP256r1",
        false,
    ),
    ("Ed25519", ED25519, true),
    ("Ed448", "ED448", false),
];

/// Keys of devices.
pub(super) fn keys(shop: &Workshop, authority: &Authority) -> Vec<Case> {
    let mut cases = Vec::new();
    for (what, kind, has_rustls) in KEYS {
        shop.key("device", kind);
        shop.issue("device", "device", "own", &["-sha256"]);
        let case = Case::new(what, shop.shown("device", "device"));
        cases.push(if has_rustls { case } else { case.by_openssl() });
    }
    let plain = issue(authority, meter());
    for (what, kind) in craft::ML_DSA {
        let shown = craft::ml_dsa(authority, plain.certificate(), kind);
        cases.push(Case::new(what, shown));
    }
    cases
}

/// Signatures of CAs.
pub(super) fn signatures(shop: &Workshop) -> Vec<Case> {
    let mut cases = Vec::new();
    shop.key("device", P_256);
    for (what, signer, how) in SIGNATURES {
        shop.issue("device", "device", signer, how);
        cases.push(Case::new(what, shop.shown("device", "device")));
    }
    let what = "RSA PKCS #1, SHA-256, of an intermediate with 1024 bits";
    cases.push(Case::new(what, shop.below_a_short_key()));
    cases
}

fn unknown_extension(critical: bool) -> CustomExtension {
    let mut extension =
        CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    extension.set_criticality(critical);
    extension
}

/// Forms of a device's certificate.
pub(super) fn forms(authority: &Authority) -> Vec<Case> {
    let valid = |not_before, not_after| Validity {
        not_before,
        not_after,
    };
    let with = |purposes: Vec<Purpose>| meter().purposes(purposes);
    let usage = |usages: Vec<KeyUsagePurpose>| meter().adjust(|p| p.key_usages = usages);
    let names = |permitted: Vec<GeneralSubtree>| {
        let order = Order::ca("Narrow CA").adjust(|p| {
            p.name_constraints = Some(NameConstraints {
                permitted_subtrees: permitted,
                excluded_subtrees: vec![],
            });
        });
        authority.intermediate(order).expect("a CA")
    };
    let narrow = names(vec![GeneralSubtree::DnsName("a.example".into())]);
    let made = |order: Order| Shown::from(&issue(authority, order));
    let last_day = 253_402_300_799; // 9999-12-31T23:59:59Z, "no end" (RFC 5280 §4.1.2.5)
    let plain = issue(authority, meter());
    let old = craft::version_1(authority, plain.certificate());
    let orders: Vec<(&str, Shown)> = vec![
        ("version 3, `CA:FALSE`, clientAuth", Shown::from(&plain)),
        ("version 1", Shown::new(vec![old], plain.key())),
        (
            "without basicConstraints",
            made(meter().adjust(|p| p.is_ca = IsCa::NoCa)),
        ),
        (
            "`CA:TRUE`",
            made(meter().adjust(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
        ),
        ("without SAN", made(meter())),
        (
            "with SAN: DNS, URI, mail and IP address",
            made(
                meter()
                    .dns("a.example")
                    .uri("urn:device:meter-7")
                    .email("a@a.example")
                    .ip([192, 0, 2, 7].into()),
            ),
        ),
        (
            "ends on 9999-12-31",
            made(meter().valid(valid(now() - DAY, last_day))),
        ),
        (
            "began in 1950",
            made(meter().valid(valid(-631_152_000, now() + DAY))),
        ),
        (
            "ended yesterday",
            made(meter().valid(valid(now() - 9 * DAY, now() - DAY))),
        ),
        (
            "begins tomorrow",
            made(meter().valid(valid(now() + DAY, now() + 9 * DAY))),
        ),
        ("serial of 1 byte", made(meter().serial(&[7]))),
        ("serial of 20 bytes", made(meter().serial(&[0x7f; 20]))),
        (
            "serial of 21 bytes, the first 0",
            made(meter().serial(&[0xff; 20])),
        ),
        ("serial 0", made(meter().serial(&[0]))),
        ("extendedKeyUsage: none", made(with(vec![]))),
        (
            "extendedKeyUsage: clientAuth and serverAuth",
            made(with(vec![Purpose::ClientAuth, Purpose::ServerAuth])),
        ),
        (
            "extendedKeyUsage: serverAuth",
            made(with(vec![Purpose::ServerAuth])),
        ),
        (
            "extendedKeyUsage: codeSigning",
            made(with(vec![Purpose::CodeSigning])),
        ),
        (
            "extendedKeyUsage: anyExtendedKeyUsage",
            made(with(vec![Purpose::Any])),
        ),
        ("keyUsage: none", made(usage(vec![]))),
        (
            "keyUsage: keyEncipherment only",
            made(usage(vec![KeyUsagePurpose::KeyEncipherment])),
        ),
        (
            "an unknown extension, not critical",
            made(meter().adjust(|p| p.custom_extensions = vec![unknown_extension(false)])),
        ),
        (
            "an unknown extension, critical",
            made(meter().adjust(|p| p.custom_extensions = vec![unknown_extension(true)])),
        ),
        (
            "a name that the CA may give (nameConstraints)",
            Shown::from(&issue(&narrow, meter().dns("b.a.example"))),
        ),
        (
            "a name that the CA may not give",
            Shown::from(&issue(&narrow, meter().dns("b.example"))),
        ),
    ];
    cases(orders)
}

fn cases(all: Vec<(&str, Shown)>) -> Vec<Case> {
    all.into_iter()
        .map(|(what, shown)| Case::new(what, shown))
        .collect()
}

/// Chains: what a device sends beside its own certificate.
pub(super) fn chains(root: &Authority) -> Vec<Case> {
    let mut rows: Vec<Case> = Vec::new();
    let mut below: Option<Authority> = None;
    for count in 0..=8 {
        let device = issue(below.as_ref().unwrap_or(root), meter());
        let what = match count {
            0 => "its own certificate, issued by the anchor".to_owned(),
            1 => "and 1 intermediate".to_owned(),
            n => format!("and {n} intermediates"),
        };
        rows.push(Case::new(what, &device));
        let order = Order::ca(&format!("Line {count}"));
        below = Some(
            below
                .as_ref()
                .unwrap_or(root)
                .intermediate(order)
                .expect("a CA"),
        );
    }
    let line = root.intermediate(Order::ca("Line")).expect("a CA");
    let part = line.intermediate(Order::ca("Part")).expect("a CA");
    let whole = Shown::from(&issue(&part, meter()));
    let mut more = Vec::new();
    let mut with = |what: &'static str, change: &dyn Fn(&mut Vec<CertificateDer<'static>>)| {
        let mut shown = whole.clone();
        change(&mut shown.chain);
        more.push((what, shown));
    };
    let stranger = Authority::new("Another CA").expect("a CA");
    with("the anchor sent along", &|chain| {
        chain.push(root.certificate().clone())
    });
    with("intermediates in the wrong order", &|chain| {
        chain.swap(1, 2)
    });
    with("an intermediate sent twice", &|chain| {
        chain.push(chain[1].clone())
    });
    with("a stranger's CA sent along", &|chain| {
        chain.push(stranger.certificate().clone())
    });
    with("an intermediate missing, and not configured", &|chain| {
        drop(chain.remove(1))
    });
    with("junk sent along", &|chain| {
        chain.push(vec![0x30, 3, 1, 2, 3].into())
    });
    let narrow =
        Order::ca("Narrow").adjust(|p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let narrow = root.intermediate(narrow).expect("a CA");
    let deep = narrow.intermediate(Order::ca("Deep")).expect("a CA");
    more.push((
        "more CAs than pathLenConstraint allows",
        Shown::from(&issue(&deep, meter())),
    ));
    let large = |length: usize| {
        meter().adjust(|p| {
            let mut padding = unknown_extension(false);
            padding = CustomExtension::from_oid_content(
                padding.oid_components().collect::<Vec<_>>().as_slice(),
                vec![0; length],
            );
            p.custom_extensions = vec![padding];
        })
    };
    more.push((
        "its own certificate of 15 KiB",
        Shown::from(&issue(root, large(15 << 10))),
    ));
    more.push((
        "its own certificate of 17 KiB",
        Shown::from(&issue(root, large(17 << 10))),
    ));
    rows.extend(cases(more));
    rows
}
