//! Devices' certificates: keys, signatures, forms and chains.

use rcgen::{
    BasicConstraints, CustomExtension, ExtendedKeyUsagePurpose as Purpose, GeneralSubtree, IsCa,
    KeyUsagePurpose, NameConstraints,
};
use rustls::pki_types::CertificateDer;
use tidegate::mqtt::Version;
use tidegate::pki::{Authority, KeyKind, Order, Validity};

use super::workshop::Workshop;
use super::{DAY, EACH, Row, Versions, issue, meter, now, put};
use crate::support::craft;
use crate::support::device::{Answer, Device, connect};
use crate::support::gate::{Gate, Plan};
use crate::support::openssl::s_client;
use crate::support::shown::Shown;
use crate::support::until;

/// What comes of a call: `admitted`, or the reason.
pub(super) async fn outcome(gate: &Gate, shown: &Shown, versions: Versions) -> String {
    let ca = gate.authority.certificate();
    let (device, _) = Device::showing(gate.address(), ca, Some(shown), versions);
    let before = gate.lines("refused").len();
    let asks = connect("meter-7", Version::V311);
    let answer = served(gate, device.asks(&asks)).await.0;
    match answer {
        Answer::Admitted => "admitted".into(),
        _ => reason(gate, before).await,
    }
}

/// The same with OpenSSL as the device, for keys that rustls has none of; the files lie in the gate's folder.
async fn outcome_by_openssl(gate: &Gate, name: &str, version: &str) -> String {
    let (certificate, key) = (format!("{name}.pem"), format!("{name}.key"));
    let arguments = [
        version,
        "-quiet",
        "-cipher",
        "DEFAULT@SECLEVEL=0",
        "-cert",
        &certificate,
        "-key",
        &key,
    ];
    let before = gate.lines("refused").len();
    let asks = connect("meter-7", Version::V311).encode().expect("fits");
    let call = s_client(gate.folder.path(), gate.address(), &arguments, &asks);
    let met = served(gate, call).await;
    match met.answer.as_slice() {
        [0x20, 2, 0, 0] => "admitted".into(),
        _ => reason(gate, before).await,
    }
}

/// Lets a device call while the broker welcomes whoever comes.
pub(super) async fn served<T>(gate: &Gate, call: impl Future<Output = T>) -> T {
    let broker = async {
        loop {
            drop(gate.broker().welcome().await);
        }
    };
    tokio::select! {
        biased;
        outcome = call => outcome,
        () = broker => unreachable!("it goes on for ever"),
    }
}

/// The reason of the refusal after the first `before`.
pub(super) async fn reason(gate: &Gate, before: usize) -> String {
    let line = until("one more refusal", async || {
        gate.lines("refused").get(before).cloned()
    })
    .await;
    format!("`{}`", line["reason"].as_str().expect("a reason"))
}

/// What comes of a certificate, in both TLS versions.
pub(super) async fn both(gate: &Gate, shown: &Shown) -> Vec<String> {
    let mut cells = Vec::new();
    for (versions, _) in EACH {
        cells.push(outcome(gate, shown, versions).await);
    }
    cells
}

/// The CAs of the signature rows: name, key for `openssl genpkey`.
const SIGNERS: [(&str, &[&str]); 5] = [
    ("rsa", &["RSA", "-pkeyopt", "rsa_keygen_bits:2048"]),
    ("p256", &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"]),
    ("p384", &["EC", "-pkeyopt", "ec_paramgen_curve:P-384"]),
    ("p521", &["EC", "-pkeyopt", "ec_paramgen_curve:P-521"]),
    ("ed25519", &["ED25519"]),
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

/// Keys of devices, and signatures of CAs.
pub(super) async fn keys_and_signatures() -> (Vec<Row>, Vec<Row>) {
    let shop = Workshop::new();
    let mut files = Vec::new();
    for (name, kind) in SIGNERS {
        shop.key(name, kind);
        shop.authority(name, &format!("{name} CA"));
        files.push(put(
            &format!("{name}.pem"),
            shop.read(&format!("{name}.pem")),
        ));
    }
    let authority = Authority::new("Test CA").expect("a CA");
    shop.put("own.pem", authority.certificate_pem());
    shop.put("own.key", &authority.key_pem());
    let sizes = ["1024", "2048", "3072", "4096"];
    for bits in sizes {
        let (name, size) = (format!("rsa-{bits}"), format!("rsa_keygen_bits:{bits}"));
        shop.key(&name, &["RSA", "-pkeyopt", &size]);
        shop.issue(&name, &name, "own", &["-sha256"]);
        for file in [format!("{name}.pem"), format!("{name}.key")] {
            let text = shop.read(&file);
            files.push((file, text));
        }
    }
    let names: Vec<String> = SIGNERS
        .iter()
        .map(|(name, _)| format!("\"{name}.pem\""))
        .collect();
    let cas = format!("ca = [\"ca.pem\", {}]", names.join(", "));
    let listeners = format!(
        "{}[[trust]]\nname = \"fleet\"\n{cas}\n",
        crate::support::gate::MUTUAL
    );
    let gate = Gate::plan(Plan {
        listeners: Some(listeners),
        files,
        authority,
        ..Plan::default()
    })
    .await;

    let mut keys = Vec::new();
    for bits in sizes {
        let name = format!("rsa-{bits}");
        let mut cells = Vec::new();
        for (versions, option) in EACH {
            // rustls has no RSA keys below 2048 bits.
            cells.push(match bits {
                "1024" => outcome_by_openssl(&gate, &name, option).await,
                _ => outcome(&gate, &shop.shown(&name, &name), versions).await,
            });
        }
        keys.push((format!("RSA, {bits} bits"), cells));
    }
    for (what, kind) in [
        ("ECDSA P-256", KeyKind::EcdsaP256),
        ("ECDSA P-384", KeyKind::EcdsaP384),
        ("ECDSA P-521", KeyKind::EcdsaP521),
        ("Ed25519", KeyKind::Ed25519),
    ] {
        let device = issue(&gate.authority, meter().key(kind));
        keys.push((what.into(), both(&gate, &Shown::from(&device)).await));
    }

    let mut signatures = Vec::new();
    shop.key("device", SIGNERS[1].1);
    for (what, signer, how) in SIGNATURES {
        shop.issue("device", "device", signer, how);
        let cells = both(&gate, &shop.shown("device", "device")).await;
        signatures.push((what.into(), cells));
    }
    let what = "RSA PKCS #1, SHA-256, of an intermediate with 1024 bits";
    signatures.push((what.into(), both(&gate, &shop.below_a_short_key()).await));
    // Not that the device had failed to prove anything: what is wrong is the key (T3).
    for which in [
        "the device's certificate",
        "certificate 2 of the chain, \"CN=Short CA\",",
    ] {
        let told = format!("{which} has an RSA key of 1024 bits; have it issued");
        gate.line("refused", |line| {
            line["why"]
                .as_str()
                .is_some_and(|why| why.starts_with(&told))
        })
        .await;
    }
    (keys, signatures)
}

fn unknown_extension(critical: bool) -> CustomExtension {
    let mut extension =
        CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    extension.set_criticality(critical);
    extension
}

/// Forms of a device's certificate.
pub(super) async fn forms() -> Vec<Row> {
    let gate = Gate::start().await;
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
        gate.authority.intermediate(order).expect("a CA")
    };
    let narrow = names(vec![GeneralSubtree::DnsName("a.example".into())]);
    let made = |order: Order| Shown::from(&issue(&gate.authority, order));
    let last_day = 253_402_300_799; // 9999-12-31T23:59:59Z, "no end" (RFC 5280 §4.1.2.5)
    let plain = issue(&gate.authority, meter());
    let old = craft::version_1(&gate.authority, plain.certificate());
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
    rows(&gate, orders).await
}

async fn rows(gate: &Gate, all: Vec<(&str, Shown)>) -> Vec<Row> {
    let mut rows = Vec::new();
    for (what, shown) in all {
        rows.push((what.to_owned(), both(gate, &shown).await));
    }
    rows
}

/// Chains: what a device sends beside its own certificate.
pub(super) async fn chains() -> Vec<Row> {
    let gate = Gate::start().await;
    let root = &gate.authority;
    let mut rows = Vec::new();
    let mut below: Option<Authority> = None;
    for count in 0..=8 {
        let device = issue(below.as_ref().unwrap_or(root), meter());
        let what = match count {
            0 => "its own certificate, issued by the anchor".to_owned(),
            1 => "and 1 intermediate".to_owned(),
            n => format!("and {n} intermediates"),
        };
        rows.push((what, both(&gate, &Shown::from(&device)).await));
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
    rows.extend(self::rows(&gate, more).await);
    rows
}
