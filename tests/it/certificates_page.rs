//! docs/certificates.md tells which certificates work, as found out here (threats.md T7).
//!
//! Each row is made, shown to a running gate over TLS 1.2 and 1.3, and what came of it is the table. When the gate learns
//! or unlearns a form, `TIDEGATE_WRITE_PAGES=1 cargo nextest run certificates_page` writes the page anew.

use std::fmt::Write as _;
use std::path::Path;

use rcgen::{
    BasicConstraints, CustomExtension, ExtendedKeyUsagePurpose as Purpose, GeneralSubtree, IsCa,
    KeyUsagePurpose, NameConstraints,
};
use rustls::SupportedProtocolVersion;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use tempfile::TempDir;
use tidegate::mqtt::Version;
use tidegate::pki::{Authority, Issued, KeyKind, Order, Validity};

use crate::support::craft::{self, List, extension, tlv};
use crate::support::device::{Answer, Device, connect};
use crate::support::gate::{Gate, Plan, lay_out, tidegate};
use crate::support::openssl::{openssl, s_client};
use crate::support::shown::Shown;
use crate::support::until;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/certificates.md");
const DAY: i64 = 24 * 3600;

type Versions = &'static [&'static SupportedProtocolVersion];
const EACH: [(Versions, &str); 2] = [(&[&TLS12], "-tls1_2"), (&[&TLS13], "-tls1_3")];

/// A row: what it is, and what came of it, cell by cell.
type Row = (String, Vec<String>);

fn now() -> i64 {
    Validity::days(0).not_after
}

fn meter() -> Order {
    Order::device_named("meter-7")
}

fn issue(authority: &Authority, order: Order) -> Issued {
    authority.issue(order).expect("issued")
}

fn put(name: &str, text: impl AsRef<[u8]>) -> (String, Vec<u8>) {
    (name.to_owned(), text.as_ref().to_vec())
}

// ---- calls ----

/// What comes of a call: `admitted`, or the reason.
async fn outcome(gate: &Gate, shown: &Shown, versions: Versions) -> String {
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
async fn served<T>(gate: &Gate, call: impl Future<Output = T>) -> T {
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
async fn reason(gate: &Gate, before: usize) -> String {
    let line = until("one more refusal", async || {
        gate.lines("refused").get(before).cloned()
    })
    .await;
    format!("`{}`", line["reason"].as_str().expect("a reason"))
}

/// What comes of a certificate, in both TLS versions.
async fn both(gate: &Gate, shown: &Shown) -> Vec<String> {
    let mut cells = Vec::new();
    for (versions, _) in EACH {
        cells.push(outcome(gate, shown, versions).await);
    }
    cells
}

/// What `tidegate check` says of a plan; `None`: it is good.
async fn fault(plan: &Plan, telling: &str) -> Option<String> {
    let (folder, _broker) = lay_out(plan).await;
    let (code, told, _) = tidegate(&["check"], folder.path());
    let line = told.lines().find(|line| line.starts_with("fault: "));
    match (code, line) {
        (0, None) => None,
        (2, Some(line)) => {
            let (_, why) = line
                .rsplit_once(telling)
                .unwrap_or_else(|| panic!("{line}"));
            Some(why.to_owned())
        }
        _ => panic!("{code}: {told}"),
    }
}

// ---- OpenSSL's certificates ----

/// A folder in which `openssl` makes keys and certificates.
struct Workshop(TempDir);

impl Workshop {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = "[req]\ndistinguished_name = dn\nprompt = no\n[dn]\nCN = meter-7\n\
                      [ca]\nbasicConstraints = critical, CA:TRUE\n[leaf]\nbasicConstraints = CA:FALSE\n";
        std::fs::write(folder.path().join("config"), config).expect("written");
        Self(folder)
    }

    fn run(&self, arguments: &[&str]) -> Vec<u8> {
        openssl(self.0.path(), arguments)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.0.path().join(name)).expect("a file")
    }

    fn put(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).expect("written");
    }

    /// Makes `NAME.key`: `kind` as for `openssl genpkey`.
    fn key(&self, name: &str, kind: &[&str]) {
        let file = format!("{name}.key");
        self.run(&[&["genpkey", "-out", &file, "-algorithm"], kind].concat());
    }

    /// Makes `NAME.pem`, a CA for the key that is there.
    fn authority(&self, name: &str, subject: &str) {
        let (key, out) = (format!("{name}.key"), format!("{name}.pem"));
        let subject = format!("/CN={subject}");
        self.run(&[
            "req",
            "-x509",
            "-new",
            "-config",
            "config",
            "-extensions",
            "ca",
            "-days",
            "30",
            "-key",
            &key,
            "-subj",
            &subject,
            "-out",
            &out,
        ]);
    }

    /// Makes `NAME.pem` for the key `KEY.key`, signed by the CA `AUTHORITY.pem` as `how` says.
    fn issue(&self, name: &str, key: &str, authority: &str, how: &[&str]) {
        let (key, out) = (format!("{key}.key"), format!("{name}.pem"));
        let (ca, ca_key) = (format!("{authority}.pem"), format!("{authority}.key"));
        self.run(&[
            "req", "-new", "-config", "config", "-key", &key, "-out", "request",
        ]);
        let issue = [
            "x509",
            "-req",
            "-in",
            "request",
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-set_serial",
            "4711",
            "-days",
            "20",
            "-extfile",
            "config",
            "-extensions",
            "leaf",
            "-out",
            &out,
        ];
        self.run(&[&issue, how].concat());
    }

    /// A device below an intermediate of the CA `rsa`, whose key has 1024 bits.
    fn below_a_short_key(&self) -> Shown {
        self.key("short", &["RSA", "-pkeyopt", "rsa_keygen_bits:1024"]);
        let ask = [
            "req",
            "-new",
            "-config",
            "config",
            "-key",
            "short.key",
            "-subj",
            "/CN=Short CA",
            "-out",
            "request",
        ];
        self.run(&ask);
        self.run(&[
            "x509",
            "-req",
            "-in",
            "request",
            "-CA",
            "rsa.pem",
            "-CAkey",
            "rsa.key",
            "-set_serial",
            "4712",
            "-days",
            "20",
            "-extfile",
            "config",
            "-extensions",
            "ca",
            "-out",
            "short.pem",
        ]);
        self.issue("device", "device", "short", &["-sha256"]);
        let mut shown = self.shown("device", "device");
        shown.chain.extend(self.shown("short", "device").chain);
        shown
    }

    fn shown(&self, name: &str, key: &str) -> Shown {
        let certificate = self.read(&format!("{name}.pem"));
        let key = self.read(&format!("{key}.key"));
        Shown::new(
            vec![CertificateDer::from_pem_slice(&certificate).expect("PEM")],
            PrivateKeyDer::from_pem_slice(&key).expect("PEM"),
        )
    }
}

// ---- the tables ----

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
async fn keys_and_signatures() -> (Vec<Row>, Vec<Row>) {
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
async fn forms() -> Vec<Row> {
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
async fn chains() -> Vec<Row> {
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

/// The certificate of a CA with an RSA key of 1024 bits.
fn short_authority() -> String {
    let shop = Workshop::new();
    shop.key("short", &["RSA", "-pkeyopt", "rsa_keygen_bits:1024"]);
    shop.authority("short", "Short CA");
    String::from_utf8(shop.read("short.pem")).expect("PEM is ASCII")
}

/// Anchors: what stands in `trust.ca`.
async fn anchors() -> Vec<Row> {
    let past = Validity {
        not_before: now() - 9 * DAY,
        not_after: now() - DAY,
    };
    let order = || Order::ca("Test CA");
    let authority = |order: Order| Authority::root(order).expect("a CA");
    let usual = authority(order());
    let old = authority(order());
    let old_pem = pem("CERTIFICATE", &craft::version_1(&old, old.certificate()));
    let no_usage = authority(order().adjust(|p| p.key_usages = vec![]));
    let not_ca = authority(order().adjust(|p| p.is_ca = IsCa::ExplicitNoCa));
    let mut rows = Vec::new();
    for (what, authority, file) in [
        ("version 3, `CA:TRUE`, keyCertSign", usual, None),
        ("version 1", old, Some(old_pem)),
        ("without keyUsage", no_usage, None),
        ("ended yesterday", authority(order().valid(past)), None),
        (
            "RSA, 2048 bits",
            authority(order().key(KeyKind::Rsa2048)),
            None,
        ),
        (
            "RSA, 1024 bits",
            authority(order()),
            Some(short_authority()),
        ),
        ("Ed25519", authority(order().key(KeyKind::Ed25519)), None),
        ("not a CA (`CA:FALSE`)", not_ca, None),
    ] {
        let device = Shown::from(&issue(&authority, meter()));
        // The server's certificate comes from a CA of its own, so that the anchor alone is judged.
        let servers = Authority::new("Server CA").expect("a CA");
        let anchor = file.unwrap_or_else(|| authority.certificate_pem().to_owned());
        let plan = Plan {
            authority: servers,
            files: vec![put("anchor.pem", anchor)],
            listeners: Some(format!(
                "{}[[trust]]\nname = \"fleet\"\nca = [\"anchor.pem\"]\n",
                crate::support::gate::MUTUAL
            )),
            ..Plan::default()
        };
        let cells = match fault(&plan, ": certificate 1 of the file: ").await {
            Some(_) => vec!["not loaded".into(); 2],
            None => both(&Gate::plan(plan).await, &device).await,
        };
        rows.push((what.to_owned(), cells));
    }
    rows
}

fn pem(kind: &str, der: &[u8]) -> String {
    let shop = Workshop::new();
    std::fs::write(shop.0.path().join("in.der"), der).expect("written");
    let command = if kind == "CERTIFICATE" { "x509" } else { "crl" };
    let text = shop.run(&[
        command, "-inform", "DER", "-in", "in.der", "-outform", "PEM",
    ]);
    String::from_utf8(text).expect("PEM is ASCII")
}

/// Revocation lists: what becomes of a device that stands in it, and of one that does not.
async fn lists() -> Vec<Row> {
    const NUMBER: &[u8] = &[0x55, 0x1d, 20];
    const REASON: &[u8] = &[0x55, 0x1d, 21];
    const DELTA: &[u8] = &[0x55, 0x1d, 27];
    const POINT: &[u8] = &[0x55, 0x1d, 28];
    const OTHER: &[u8] = &[0x2b, 6, 1, 4, 1, 0x86, 0x8d, 0x1f, 1];
    let list = |extensions: Vec<Vec<u8>>| List {
        is_v2: true,
        revoked: vec![vec![0x51]],
        this_update: now() - 60,
        next_update: Some(now() + DAY),
        extensions,
        entry_extensions: Vec::new(),
    };
    let point = |fields: &[u8]| list(vec![extension(POINT, true, &tlv(0x30, &[fields]))]);
    let number = || vec![extension(NUMBER, false, &tlv(2, &[&[7]]))];
    let entry = |reason: u8| List {
        entry_extensions: vec![extension(REASON, false, &[10, 1, reason])],
        ..list(number())
    };
    let uri = tlv(
        0xa0,
        &[&tlv(0xa0, &[&tlv(0x86, &[b"http://a.example/crl"])])],
    );
    let first = List {
        is_v2: false,
        ..list(vec![])
    };
    let cases: Vec<(&str, List)> = vec![
        ("version 2", list(number())),
        ("version 1", first),
        ("without a number", list(vec![])),
        (
            "without nextUpdate",
            List {
                next_update: None,
                ..list(number())
            },
        ),
        (
            "past nextUpdate, `crl_stale = \"refuse\"`",
            List {
                next_update: Some(now() - 30),
                ..list(number())
            },
        ),
        (
            "dated tomorrow",
            List {
                this_update: now() + DAY,
                next_update: Some(now() + 2 * DAY),
                ..list(number())
            },
        ),
        (
            "empty",
            List {
                revoked: vec![],
                ..list(number())
            },
        ),
        ("an entry with a reason", entry(1)),
        ("an entry on hold (certificateHold)", entry(6)),
        ("an entry taken off (removeFromCRL)", entry(8)),
        (
            "an entry whose serial has a needless 0 byte",
            List {
                revoked: vec![vec![0, 0x51]],
                ..list(number())
            },
        ),
        (
            "for devices only (onlyContainsUserCerts)",
            point(&[0x81, 1, 0xff]),
        ),
        (
            "for CAs only (onlyContainsCACerts)",
            point(&[0x82, 1, 0xff]),
        ),
        ("of one distribution point", point(&uri)),
        ("of some reasons only", point(&[0x83, 2, 7, 0x80])),
        ("indirect", point(&[0x84, 1, 0xff])),
        (
            "a delta list",
            list(vec![extension(DELTA, true, &tlv(2, &[&[3]]))]),
        ),
        (
            "an unknown extension, not critical",
            list(vec![extension(OTHER, false, &[5, 0])]),
        ),
        (
            "an unknown extension, critical",
            list(vec![extension(OTHER, true, &[5, 0])]),
        ),
    ];
    let mut rows = Vec::new();
    for (what, list) in cases {
        let authority = Authority::new("Test CA").expect("a CA");
        let der = list.by(&authority);
        rows.push(listed(what, authority, put("list.crl", der)).await);
    }
    // Who signed it, and in which form it comes.
    let authority = Authority::new("Test CA").expect("a CA");
    let text = pem("X509 CRL", &list(number()).by(&authority));
    rows.push(listed("as PEM", authority, put("list.crl", text)).await);
    let authority = Authority::new("Test CA").expect("a CA");
    let older = List {
        revoked: vec![],
        this_update: now() - 120,
        ..list(vec![extension(NUMBER, false, &tlv(2, &[&[6]]))])
    };
    let text = [list(number()), older]
        .map(|list| pem("X509 CRL", &list.by(&authority)))
        .concat();
    rows.push(
        listed(
            "an older and a newer one, in one PEM file",
            authority,
            put("list.crl", text),
        )
        .await,
    );
    let namesake = list(number()).by(&Authority::new("Test CA").expect("a CA"));
    let authority = Authority::new("Test CA").expect("a CA");
    rows.push(
        listed(
            "signed by another CA of the same name",
            authority,
            put("list.crl", namesake),
        )
        .await,
    );
    let no_sign =
        Order::ca("Test CA").adjust(|p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign]);
    let authority = Authority::root(no_sign).expect("a CA");
    let der = list(number()).by(&authority);
    rows.push(
        listed(
            "of a CA that may not sign lists (no cRLSign)",
            authority,
            put("list.crl", der),
        )
        .await,
    );
    rows
}

/// The row of one list: the devices have the serials 0x51, which it may hold, and 0x52.
async fn listed(what: &str, authority: Authority, file: (String, Vec<u8>)) -> Row {
    let plan = Plan {
        authority,
        trust: "crl = [\"list.crl\"]".into(),
        files: vec![file],
        ..Plan::default()
    };
    if fault(&plan, ": list 1 of the file: ").await.is_some() {
        return (what.to_owned(), vec!["not loaded".into(); 2]);
    }
    let gate = Gate::plan(plan).await;
    let mut cells = Vec::new();
    for serial in [0x51, 0x52] {
        let shown = Shown::from(&issue(&gate.authority, meter().serial(&[serial])));
        let told = both(&gate, &shown).await;
        assert_eq!(
            told[0], told[1],
            "{what}: TLS versions do not differ in this"
        );
        cells.push(told[0].clone());
    }
    (what.to_owned(), cells)
}

/// The server's own key: what a device that takes everything is served with.
async fn servers() -> Vec<Row> {
    let shop = Workshop::new();
    let authority = Authority::new("Test CA").expect("a CA");
    shop.put("own.pem", authority.certificate_pem());
    shop.put("own.key", &authority.key_pem());
    shop.put("config", "[req]\ndistinguished_name = dn\nprompt = no\n[dn]\nCN = localhost\n[leaf]\nsubjectAltName = DNS:localhost\n");
    let mut rows = Vec::new();
    for (what, kind) in [
        (
            "RSA, 1024 bits",
            &["RSA", "-pkeyopt", "rsa_keygen_bits:1024"][..],
        ),
        (
            "RSA, 2048 bits",
            &["RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        ),
        (
            "RSA, 3072 bits",
            &["RSA", "-pkeyopt", "rsa_keygen_bits:3072"],
        ),
        (
            "RSA, 4096 bits",
            &["RSA", "-pkeyopt", "rsa_keygen_bits:4096"],
        ),
        (
            "ECDSA P-256",
            &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        ),
        (
            "ECDSA P-384",
            &["EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
        ),
        (
            "ECDSA P-521",
            &["EC", "-pkeyopt", "ec_paramgen_curve:P-521"],
        ),
        ("Ed25519", &["ED25519"]),
    ] {
        shop.key("server", kind);
        shop.issue("server", "server", "own", &[]);
        // The devices' CA is the server's, too: its file is what the devices of the test trust.
        let devices = Authority::new("Device CA").expect("a CA");
        let shown = Shown::from(&issue(&devices, meter()));
        let plan = Plan {
            authority: devices,
            files: vec![
                put("server.pem", shop.read("server.pem")),
                put("server.key", shop.read("server.key")),
            ],
            ..Plan::default()
        };
        if fault(&plan, ": ").await.is_some() {
            rows.push((what.to_owned(), vec!["not loaded".into(); 2]));
            continue;
        }
        let gate = Gate::plan(plan).await;
        let ca = authority.certificate();
        let mut cells = Vec::new();
        for (versions, _) in EACH {
            let (device, _) = Device::showing(gate.address(), ca, Some(&shown), versions);
            let before = gate.lines("refused").len();
            let asks = connect("meter-7", Version::V311);
            cells.push(match served(&gate, device.asks(&asks)).await.0 {
                Answer::Admitted => "served".into(),
                _ => reason(&gate, before).await,
            });
        }
        rows.push((what.to_owned(), cells));
    }
    rows
}

// ---- the page ----

fn table(head: [&str; 3], rows: &[Row]) -> String {
    let mut text = format!("| {} |\n|---|---|---|\n", head.join(" | "));
    for (what, cells) in rows {
        let _ = writeln!(text, "| {what} | {} |", cells.join(" | "));
    }
    text
}

/// The page with `table` between the marks of that name.
fn with_table(page: &str, name: &str, table: &str) -> String {
    let begin = format!("<!-- {name}: made by a test; see the end of the page -->\n");
    let end = format!("<!-- {name} ends -->");
    let (before, rest) = page
        .split_once(&begin)
        .unwrap_or_else(|| panic!("docs/certificates.md has no line {begin}"));
    let above = before.trim_end().lines().next_back().unwrap_or_default();
    assert!(
        above.starts_with("### "),
        "{name}: a table needs a heading, and stands below {above:?}"
    );
    let (_, after) = rest
        .split_once(&end)
        .unwrap_or_else(|| panic!("docs/certificates.md has no line {end}"));
    format!("{before}{begin}{table}{end}{after}")
}

#[tokio::test]
async fn the_page_tells_what_works() {
    let (keys, signatures) = keys_and_signatures().await;
    let device = |what| [what, "TLS 1.2", "TLS 1.3"];
    let tables = [
        ("keys", table(device("key of the device"), &keys)),
        (
            "signatures",
            table(device("signature of the CA"), &signatures),
        ),
        (
            "forms",
            table(device("certificate of the device"), &forms().await),
        ),
        (
            "chains",
            table(device("what the device sends"), &chains().await),
        ),
        (
            "anchors",
            table(device("certificate in `trust.ca`"), &anchors().await),
        ),
        (
            "lists",
            table(["list", "a device in it", "another device"], &lists().await),
        ),
        (
            "servers",
            table(
                device("key of `listener.tls.certificate`"),
                &servers().await,
            ),
        ),
    ];
    let page = std::fs::read_to_string(PAGE).expect("docs/certificates.md");
    let mut fresh = page.clone();
    for (name, table) in &tables {
        fresh = with_table(&fresh, name, table);
    }
    if std::env::var_os("TIDEGATE_WRITE_PAGES").is_some() {
        std::fs::write(Path::new(PAGE), &fresh).expect("written");
        return;
    }
    let known: Vec<&str> = page.lines().collect();
    let news: Vec<&str> = fresh.lines().filter(|line| !known.contains(line)).collect();
    assert!(
        page == fresh,
        "docs/certificates.md does not tell what the gate does. If what it does is right, run\n  \
         TIDEGATE_WRITE_PAGES=1 cargo nextest run certificates_page\nand look at the difference. New lines:\n{}",
        news.join("\n")
    );
}
