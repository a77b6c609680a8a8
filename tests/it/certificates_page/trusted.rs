//! What the operator gives the gate: CAs, lists, and the server's own certificate.

use rcgen::{IsCa, KeyUsagePurpose};
use tidegate::pki::{Authority, KeyKind, Order, Validity};

use super::doors::both;
use super::workshop::{Workshop, pem};
use super::{DAY, Row, issue, meter, now, put};
use crate::support::craft::{self, List, extension, tlv};
use crate::support::gate::{Gate, Plan, lay_out, tidegate};
use crate::support::openssl::{
    ED25519, P_256, P_384, P_521, RSA_1024, RSA_2048, RSA_3072, RSA_4096,
};
use crate::support::shown::Shown;

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

/// The certificate of a CA with an RSA key of 1024 bits.
fn short_authority() -> String {
    let shop = Workshop::new();
    shop.key("short", RSA_1024);
    shop.authority("short", "Short CA");
    String::from_utf8(shop.read("short.pem")).expect("PEM is ASCII")
}

/// Anchors: what stands in `trust.ca`.
pub(super) async fn anchors() -> Vec<Row> {
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
            None => {
                let gate = Gate::plan(plan).await;
                both(&gate, gate.authority.certificate(), &device).await
            }
        };
        rows.push((what.to_owned(), cells));
    }
    rows
}

/// Revocation lists: what becomes of a device that stands in it, and of one that does not.
pub(super) async fn lists() -> Vec<Row> {
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
        let told = both(&gate, gate.authority.certificate(), &shown).await;
        assert_eq!(
            told[0], told[1],
            "{what}: TLS versions do not differ in this"
        );
        cells.push(told[0].clone());
    }
    (what.to_owned(), cells)
}

/// The server's own key: what a device that takes everything is served with.
pub(super) async fn servers() -> Vec<Row> {
    let shop = Workshop::new();
    let authority = Authority::new("Test CA").expect("a CA");
    shop.put("own.pem", authority.certificate_pem());
    shop.put("own.key", &authority.key_pem());
    shop.put("config", "[req]\ndistinguished_name = dn\nprompt = no\n[dn]\nCN = localhost\n[leaf]\nsubjectAltName = DNS:localhost\n");
    let mut rows = Vec::new();
    for (what, kind) in [
        ("RSA, 1024 bits", RSA_1024),
        ("RSA, 2048 bits", RSA_2048),
        ("RSA, 3072 bits", RSA_3072),
        ("RSA, 4096 bits", RSA_4096),
        ("ECDSA P-256", P_256),
        ("ECDSA P-384", P_384),
        ("ECDSA P-521", P_521),
        ("Ed25519", ED25519),
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
        let mut cells = both(&gate, authority.certificate(), &shown).await;
        for cell in &mut cells {
            assert_eq!(cell, "admitted", "{what}");
            *cell = "served".into();
        }
        rows.push((what.to_owned(), cells));
    }
    rows
}
