//! Certificates that the gate takes and refuses, and who is told what (threats.md §3).
//!
//! The device gets the proper alert, the operator one log line and one count, the broker nothing (I1, T3).

use std::net::SocketAddr;

use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};
use tidegate::mqtt::Version;
use tidegate::pki::{Authority, Issued, KeyKind, Order, Validity};
use tidegate::rules::identity::Certificate;

use crate::support::broker::Visit;
use crate::support::device::{Answer, BOTH, Device, Link, connect};
use crate::support::gate::{Gate, Plan, group, lay_out, listener, tidegate};
use crate::support::shown::Shown;

const DAY: i64 = 24 * 3600;

/// Today, in seconds since 1970.
fn now() -> i64 {
    Validity::days(0).not_after
}

fn authority(name: &str) -> Authority {
    Authority::new(name).expect("a CA")
}

fn order(name: &str) -> Order {
    Order::device(&name.parse().expect("a device id"))
}

fn issue(authority: &Authority, order: Order) -> Issued {
    authority.issue(order).expect("issued")
}

fn put(name: &str, text: impl AsRef<[u8]>) -> (String, Vec<u8>) {
    (name.to_owned(), text.as_ref().to_vec())
}

/// Where several groups count, the broker is told the group, too.
const WITH_GROUPS: &str =
    "[connect]\nclient_id = \"{trust}:{device}\"\nusername = \"{trust}:{device}\"\n";

/// The TLS versions, each alone, and how they are called.
const EACH: [(&[&SupportedProtocolVersion], &str); 2] = [(&[&TLS12], "1.2"), (&[&TLS13], "1.3")];

/// A device that shows `shown` at the listener of that name.
fn device_at(
    gate: &Gate,
    listener: &str,
    shown: &Shown,
    versions: &[&'static SupportedProtocolVersion],
) -> Device {
    let address: SocketAddr = gate.addresses[listener];
    Device::showing(address, gate.authority.certificate(), Some(shown), versions).0
}

/// What is to be told of a certificate that is refused in the handshake.
struct Told<'a> {
    reason: &'a str,
    /// The TLS alert that the device gets, as rustls spells it.
    alert: &'a str,
    /// What the sentence for the operator holds: which certificate, which rule, the way out.
    why: &'a [&'a str],
}

/// A device calls over both TLS versions, and all are told what they must be told.
async fn assert_refused(gate: &Gate, listener: &str, shown: &Shown, told: &Told<'_>) {
    let certificate = Certificate::read(&shown.chain[0]).expect("a certificate");
    for (versions, version) in EACH {
        let refusals = [("listener", listener), ("reason", told.reason)];
        let handshakes = [
            ("listener", listener),
            ("result", told.reason),
            ("tls_version", version),
            ("resumed", "false"),
        ];
        let before = gate.metric("tidegate_refusals_total", &refusals).await;
        let failed = gate.metric("tidegate_handshakes_total", &handshakes).await;

        let device = device_at(gate, listener, shown, versions);
        let answer = device.connects_as("meter-7", Version::V311).await;

        let alert = format!("received fatal alert: {}", told.alert);
        let what = format!("TLS {version}, {}", certificate.subject);
        assert_eq!(answer, Answer::NoTls(alert), "{what}");
        let line = gate
            .line("refused", |line| {
                line["certificate_fingerprint"] == certificate.fingerprint().as_str()
                    && line["tls_version"] == version
                    && line["listener"] == listener
            })
            .await;
        assert_eq!(line["reason"], told.reason, "{what}: {line}");
        assert_eq!(line["level"], "info", "{what}");
        for word in told.why {
            let why = line["why"].as_str().expect("a sentence");
            assert!(why.contains(word), "{what}: {word:?} is not in: {why}");
        }
        assert_eq!(line["certificate_subject"], certificate.subject.as_str());
        assert_eq!(line["certificate_issuer"], certificate.issuer.as_str());
        assert_eq!(line["certificate_serial"], certificate.serial.as_str());
        assert_eq!(line["sni"], "localhost", "{what}");
        let address: SocketAddr = line["address"]
            .as_str()
            .and_then(|text| text.parse().ok())
            .expect("ip:port");
        assert!(address.ip().is_loopback() && address.port() != 0);
        for unknown in ["device", "mode", "trust", "mqtt_version", "broker"] {
            assert_eq!(line.get(unknown), None, "{what}: {unknown} is not known");
        }
        gate.metric_becomes("tidegate_refusals_total", &refusals, before + 1.0)
            .await;
        gate.metric_becomes("tidegate_handshakes_total", &handshakes, failed + 1.0)
            .await;
    }
}

/// A device is admitted; gives what the broker was told.
async fn admitted(device: &Device) -> (Link, Answer) {
    let (answer, link) = device.asks(&connect("asked", Version::V311)).await;
    (link.expect("a handshake"), answer)
}

/// A device calls over both TLS versions, is admitted as `name`, and belongs to `trust`.
async fn assert_admitted(gate: &Gate, listener: &str, shown: &Shown, name: &str, trust: &str) {
    let file = std::fs::read_to_string(gate.file("tidegate.toml")).expect("its file");
    let told = if file.contains(WITH_GROUPS) {
        format!("{trust}:{name}")
    } else {
        name.to_owned()
    };
    let fingerprint = Certificate::read(&shown.chain[0])
        .expect("a certificate")
        .fingerprint();
    for (versions, version) in EACH {
        let device = device_at(gate, listener, shown, versions);
        let calls = admitted(&device);
        let ((link, answer), visit): (_, Visit) = tokio::join!(calls, gate.broker().welcome());
        assert_eq!(answer, Answer::Admitted, "TLS {version}");
        assert_eq!(visit.connect.client_id, told, "TLS {version}");
        assert_eq!(visit.connect.username.as_deref(), Some(&*told));
        drop((link, visit));
        let line = gate
            .line("closed", |line| {
                line["certificate_fingerprint"] == fingerprint.as_str()
                    && line["tls_version"] == version
                    && line["listener"] == listener
            })
            .await;
        assert_eq!(line["trust"], trust);
        assert_eq!(line["device"], name);
        assert_eq!(line["mode"], "mutual-tls");
    }
}

fn nobody_called(gate: &Gate) {
    let visits = gate.broker().visits();
    assert_eq!(visits, 0, "a refused device must not reach the broker");
    let panics = gate.lines("panicked");
    assert!(panics.is_empty(), "{panics:?}"); // threats.md V9
}

#[tokio::test]
async fn a_certificate_out_of_its_time_is_refused() {
    let gate = Gate::start().await;
    let at = |from: i64, to: i64| Validity {
        not_before: now() + from,
        not_after: now() + to,
    };
    let expired = issue(&gate.authority, order("old").valid(at(-2 * DAY, -DAY)));
    let told = Told {
        reason: "certificate_expired",
        alert: "CertificateExpired",
        why: &["certificate 1 of the chain", "CN=old", "ended on 20", "; "],
    };
    assert_refused(&gate, "devices", &Shown::from(&expired), &told).await;

    let early = issue(&gate.authority, order("young").valid(at(DAY, 2 * DAY)));
    let told = Told {
        reason: "certificate_not_yet_valid",
        alert: "CertificateExpired", // RFC 8446 §6.2: "has expired or is not currently valid"
        why: &["certificate 1", "CN=young", "begins on 20", "clock"],
    };
    assert_refused(&gate, "devices", &Shown::from(&early), &told).await;
    nobody_called(&gate);
}

#[tokio::test]
async fn an_intermediate_out_of_its_time_is_told_by_its_place() {
    let gate = Gate::start().await;
    let past = Validity {
        not_before: now() - 2 * DAY,
        not_after: now() - DAY,
    };
    let line = gate
        .authority
        .intermediate(Order::ca("Line 1").valid(past))
        .expect("a CA");
    let device = issue(&line, order("meter-7"));
    let told = Told {
        reason: "certificate_expired",
        alert: "CertificateExpired",
        why: &["certificate 2 of the chain", "CN=Line 1", "ended on 20"],
    };
    assert_refused(&gate, "devices", &Shown::from(&device), &told).await;
    nobody_called(&gate);
}

#[tokio::test]
async fn a_certificate_of_a_stranger_is_refused() {
    let gate = Gate::start().await;

    let theirs = issue(&authority("Their CA"), order("meter-7"));
    let told = Told {
        reason: "certificate_unknown_issuer",
        alert: "UnknownCA",
        why: &["certificate 1", "\"CN=Their CA\"", "[[trust]] ca"],
    };
    assert_refused(&gate, "devices", &Shown::from(&theirs), &told).await;

    let alone = Authority::root(order("meter-7")).expect("made");
    let shown = Shown::new(
        vec![alone.certificate().clone()],
        rustls::pki_types::PrivateKeyDer::try_from(pem(&alone.key_pem())).expect("a key"),
    );
    let told = Told {
        reason: "certificate_unknown_issuer",
        alert: "UnknownCA",
        why: &["certificate 1", "signed itself"],
    };
    assert_refused(&gate, "devices", &shown, &told).await;

    // A CA that merely bears our CA's name: its key decides.
    let namesake = issue(&authority("Test CA"), order("meter-7"));
    let told = Told {
        reason: "certificate_bad_signature",
        alert: "DecryptError",
        why: &["certificate 1", "\"CN=Test CA\"", "another CA of that name"],
    };
    assert_refused(&gate, "devices", &Shown::from(&namesake), &told).await;
    nobody_called(&gate);
}

/// The DER of a PEM text with one thing in it.
fn pem(text: &str) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject as _;
    rustls::pki_types::PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes())
        .expect("a PKCS #8 key")
        .secret_pkcs8_der()
        .to_vec()
}

/// Two groups, two customers: the right name from the wrong CA is a stranger's (threats.md I7). Where both count, each has
/// a device of that name, and they are two devices (I3).
#[tokio::test]
async fn a_trust_group_vouches_for_its_own_listeners_only() {
    let fleet = authority("Device CA");
    let vendor = authority("Device CA"); // of the same name: only keys tell them apart
    let devices = [
        issue(&fleet, order("meter-7")),
        issue(&vendor, order("meter-7")),
    ];
    let plan = Plan {
        listeners: Some(
            [
                listener("fleet-only", "mutual-tls", "[\"fleet\"]", ""),
                listener("vendor-only", "mixed-tls", "[\"vendor\"]", ""),
                listener("both", "mutual-tls", "", ""),
                group("fleet", "fleet.pem", ""),
                group(
                    "vendor",
                    "vendor.pem",
                    "device = \"san.uri\"\npattern = '^urn:device:(?<device>.+)$'",
                ),
            ]
            .concat(),
        ),
        files: vec![
            put("fleet.pem", fleet.certificate_pem()),
            put("vendor.pem", vendor.certificate_pem()),
        ],
        more: WITH_GROUPS.into(),
        ..Plan::default()
    };
    let gate = Gate::plan(plan).await;
    let [fleets, vendors] = devices.each_ref().map(Shown::from);

    let told = Told {
        reason: "certificate_bad_signature",
        alert: "DecryptError",
        why: &["another CA of that name"],
    };
    assert_refused(&gate, "fleet-only", &vendors, &told).await;
    assert_refused(&gate, "vendor-only", &fleets, &told).await;
    nobody_called(&gate);

    assert_admitted(&gate, "fleet-only", &fleets, "meter-7", "fleet").await;
    assert_admitted(&gate, "vendor-only", &vendors, "meter-7", "vendor").await;
    assert_admitted(&gate, "both", &fleets, "meter-7", "fleet").await;
    assert_admitted(&gate, "both", &vendors, "meter-7", "vendor").await;
}

/// threats.md I3, I7: without the group in its names, a gate whose groups could name each other's devices does not start.
#[tokio::test]
async fn two_groups_cannot_mint_each_others_devices() {
    let vendor = authority("Vendor CA");
    let plan = Plan {
        listeners: Some(
            [
                listener("devices", "mutual-tls", "", ""),
                group("fleet", "ca.pem", ""),
                group("vendor", "vendor.pem", ""),
            ]
            .concat(),
        ),
        files: vec![put("vendor.pem", vendor.certificate_pem())],
        ..Plan::default()
    };
    let (folder, _broker) = lay_out(&plan).await;
    let (code, said, _) = tidegate(&["check"], folder.path());
    assert_eq!(code, 2, "{said}");
    for key in ["client_id", "username"] {
        let told = format!(
            "connect.{key}: \"{{device}}\" could name devices of different trust groups alike"
        );
        assert!(said.contains(&told), "{told} is not in\n{said}");
        let way_out = format!("write {key} = \"{{trust}}:{{device}}\"");
        assert!(said.contains(&way_out), "{way_out} is not in\n{said}");
    }
    let (code, _, said) = tidegate(&["run"], folder.path());
    assert_eq!(code, 2, "{said}");
}

/// The field that names the device is that of the group that vouched, not of another that counts there, too.
#[tokio::test]
async fn a_group_names_its_devices_by_its_own_field() {
    let vendor = authority("Vendor CA");
    let plan = Plan {
        listeners: Some(
            [
                listener("devices", "mutual-tls", "", ""),
                group("fleet", "ca.pem", ""),
                group("vendor", "vendor.pem", "device = \"serial\""),
            ]
            .concat(),
        ),
        files: vec![put("vendor.pem", vendor.certificate_pem())],
        more: WITH_GROUPS.into(),
        ..Plan::default()
    };
    let gate = Gate::plan(plan).await;
    let ours = issue(&gate.authority, order("meter-7"));
    let posing = issue(&vendor, order("meter-7").serial(&[0x42, 0x07]));
    assert_admitted(&gate, "devices", &Shown::from(&ours), "meter-7", "fleet").await;
    assert_admitted(&gate, "devices", &Shown::from(&posing), "4207", "vendor").await;
}

/// threats.md T9: a revoked certificate is refused, whichever form the list has.
#[tokio::test]
async fn a_revoked_certificate_is_refused() {
    let ours = authority("Test CA");
    let (good, lost) = (issue(&ours, order("good")), issue(&ours, order("lost")));
    let list = ours
        .crl(&[lost.serial()], now() - 60, now() + DAY)
        .expect("a list");
    let plan = Plan {
        listeners: Some(
            [
                listener("by-pem", "mutual-tls", "[\"pem\"]", ""),
                listener("by-der", "mixed-tls", "[\"der\"]", ""),
                group("pem", "ca.pem", "crl = [\"list.pem\"]"),
                group("der", "ca.pem", "crl = [\"list.crl\"]"),
            ]
            .concat(),
        ),
        files: vec![
            put("list.pem", list.pem().expect("PEM")),
            put("list.crl", list.der()),
        ],
        authority: ours,
        more: WITH_GROUPS.into(),
        ..Plan::default()
    };
    let gate = Gate::plan(plan).await;
    for (listener, group) in [("by-pem", "pem"), ("by-der", "der")] {
        let told = Told {
            reason: "certificate_revoked",
            alert: "CertificateRevoked",
            why: &[
                "certificate 1",
                "CN=lost",
                &format!("trust group {group}"),
                "; ",
            ],
        };
        assert_refused(&gate, listener, &Shown::from(&lost), &told).await;
    }
    nobody_called(&gate);
    for (listener, group) in [("by-pem", "pem"), ("by-der", "der")] {
        assert_admitted(&gate, listener, &Shown::from(&good), "good", group).await;
    }
}

/// threats.md T9: a list that lapses while the gate runs raises an alarm by itself, once, however many listeners use it.
#[tokio::test]
async fn a_list_that_lapses_is_told_when_it_does() {
    let ours = authority("Test CA");
    let none: [&[u8]; 0] = [];
    let list = ours.crl(&none, now() - DAY, now() + 8).expect("a list");
    let plan = Plan {
        listeners: Some(
            [
                listener("devices", "mutual-tls", "", ""),
                listener("others", "mutual-tls", "", ""),
                group("fleet", "ca.pem", "crl = [\"list.pem\"]"),
            ]
            .concat(),
        ),
        files: vec![put("list.pem", list.pem().expect("PEM"))],
        broker: "[broker.health]\ninterval = \"100ms\"\n".into(),
        authority: ours,
        ..Plan::default()
    };
    let gate = Gate::plan(plan).await;
    assert_admitted(
        &gate,
        "devices",
        &Shown::from(&issue(&gate.authority, order("early"))),
        "early",
        "fleet",
    )
    .await;
    assert!(gate.lines("lapsed").is_empty());

    let line = gate.line("lapsed", |_| true).await;

    assert_eq!(line["level"], "warn");
    let why = line["why"].as_str().expect("a sentence");
    assert!(
        why.starts_with("trust[fleet].crl: the list of \"CN=Test CA\" was to be replaced by"),
        "{why}"
    );
    let late = issue(&gate.authority, order("late"));
    let answer = gate
        .device_with(&late, BOTH)
        .connects_as("late", Version::V311)
        .await;
    assert!(matches!(answer, Answer::NoTls(_)), "{answer:?}");
    gate.refusal("crl_stale").await;
    assert_eq!(gate.lines("lapsed").len(), 1, "{}", gate.log_text());
}

/// Past nextUpdate the operator's word counts: refuse the group's devices, or use the old list; never ignore it.
#[tokio::test]
async fn a_stale_list_refuses_or_is_used_as_the_operator_says() {
    let ours = authority("Test CA");
    let (good, lost) = (issue(&ours, order("good")), issue(&ours, order("lost")));
    let ended = now() - 60;
    let list = ours
        .crl(&[lost.serial()], now() - DAY, ended)
        .expect("a list");
    let plan = Plan {
        listeners: Some(
            [
                listener("by-default", "mutual-tls", "[\"default\"]", ""),
                listener("strict", "mutual-tls", "[\"strict\"]", ""),
                listener("lenient", "mutual-tls", "[\"lenient\"]", ""),
                group("default", "ca.pem", "crl = [\"list.pem\"]"),
                group(
                    "strict",
                    "ca.pem",
                    "crl = [\"list.pem\"]\ncrl_stale = \"refuse\"",
                ),
                group(
                    "lenient",
                    "ca.pem",
                    "crl = [\"list.pem\"]\ncrl_stale = \"use\"",
                ),
            ]
            .concat(),
        ),
        files: vec![put("list.pem", list.pem().expect("PEM"))],
        authority: ours,
        more: WITH_GROUPS.into(),
        ..Plan::default()
    };
    let gate = Gate::plan(plan).await;

    for listener in ["by-default", "strict"] {
        let told = Told {
            reason: "crl_stale",
            alert: "UnknownCA",
            why: &[
                "CN=good",
                "CN=Test CA",
                "was to be replaced by 20",
                "crl_stale = \"use\"",
            ],
        };
        assert_refused(&gate, listener, &Shown::from(&good), &told).await;
    }
    // The old list still tells who is revoked, and that is told before its age.
    let told = Told {
        reason: "certificate_revoked",
        alert: "CertificateRevoked",
        why: &["CN=lost"],
    };
    for listener in ["strict", "lenient"] {
        assert_refused(&gate, listener, &Shown::from(&lost), &told).await;
    }
    nobody_called(&gate);
    assert_admitted(&gate, "lenient", &Shown::from(&good), "good", "lenient").await;

    #[allow(clippy::cast_precision_loss)] // a time of this century
    let due = ended as f64;
    for group in ["default", "strict", "lenient"] {
        let name = format!("{group}: CN=Test CA");
        let labels = [("name", name.as_str())];
        gate.metric_becomes("tidegate_crl_next_update_timestamp_seconds", &labels, due)
            .await;
    }
}

/// threats.md R4, T9: while a CA is exchanged for one of its name, their lists share a series, which tells the end that comes first.
#[tokio::test]
async fn of_the_lists_of_two_cas_of_one_name_the_first_end_is_told() {
    let list = |ca: &Authority, until| {
        let list = ca.crl::<&[u8]>(&[], now() - 60, until).expect("a list");
        list.pem().expect("PEM")
    };
    let (first, last) = (now() + DAY, now() + 9 * DAY);
    for (old, new) in [(first, last), (last, first)] {
        let (ours, successor) = (authority("Test CA"), authority("Test CA"));
        let plan = Plan {
            listeners: Some(
                [
                    listener("devices", "mutual-tls", "[\"fleet\"]", ""),
                    group("fleet", "both.pem", "crl = [\"old.crl\", \"new.crl\"]"),
                ]
                .concat(),
            ),
            files: vec![
                put(
                    "both.pem",
                    [ours.certificate_pem(), successor.certificate_pem()].concat(),
                ),
                put("old.crl", list(&ours, old)),
                put("new.crl", list(&successor, new)),
            ],
            authority: ours,
            ..Plan::default()
        };
        let gate = Gate::plan(plan).await;
        let labels = [("name", "fleet: CN=Test CA")];
        #[allow(clippy::cast_precision_loss)] // a time of this century
        let due = first as f64;
        gate.metric_becomes("tidegate_crl_next_update_timestamp_seconds", &labels, due)
            .await;
    }
}

/// Once a group has lists, a CA without one leaves open whether its devices are revoked.
#[tokio::test]
async fn a_device_whose_issuer_has_no_list_is_refused() {
    let ours = authority("Test CA");
    let line = ours.intermediate(Order::ca("Line 1")).expect("a CA");
    let list = ours
        .crl::<&[u8]>(&[], now() - 60, now() + DAY)
        .expect("a list");
    let plan = Plan {
        trust: "crl = [\"list.pem\"]".into(),
        files: vec![put("list.pem", list.pem().expect("PEM"))],
        authority: ours,
        ..Plan::default()
    };
    let gate = Gate::plan(plan).await;
    let device = issue(&line, order("meter-7"));
    let told = Told {
        reason: "crl_missing",
        alert: "UnknownCA",
        why: &[
            "certificate 1",
            "none by \"CN=Line 1\"",
            "add that CA's list to crl",
        ],
    };
    assert_refused(&gate, "devices", &Shown::from(&device), &told).await;
    nobody_called(&gate);
    let direct = issue(&gate.authority, order("meter-8"));
    assert_admitted(&gate, "devices", &Shown::from(&direct), "meter-8", "fleet").await;
}

/// A revoked intermediate takes its devices with it.
#[tokio::test]
async fn a_device_below_a_revoked_ca_is_refused() {
    let ours = authority("Test CA");
    let line = ours
        .intermediate(Order::ca("Line 1").serial(&[0x77]))
        .expect("a CA");
    let root_list = ours
        .crl(&[[0x77]], now() - 60, now() + DAY)
        .expect("a list");
    let line_list = line
        .crl::<&[u8]>(&[], now() - 60, now() + DAY)
        .expect("a list");
    let plan = Plan {
        trust: "crl = [\"root.crl\", \"line.crl\"]\nintermediates = [\"line.pem\"]".into(),
        files: vec![
            put("root.crl", root_list.der()),
            put("line.crl", line_list.der()),
            put("line.pem", line.certificate_pem()),
        ],
        authority: ours,
        ..Plan::default()
    };
    let gate = Gate::plan(plan).await;
    let device = Shown::from(&issue(&line, order("meter-7")));
    let told = Told {
        reason: "certificate_revoked",
        alert: "CertificateRevoked",
        why: &["CN=Line 1", "fleet"],
    };
    assert_refused(&gate, "devices", &device, &told).await;
    assert_refused(&gate, "devices", &device.leaf_only(), &told).await;
    nobody_called(&gate);
}

/// Small devices send their own certificate alone; the operator can give the rest.
#[tokio::test]
async fn a_leaf_alone_needs_its_intermediates_configured() {
    let ours = authority("Test CA");
    let line = ours.intermediate(Order::ca("Line 1")).expect("a CA");
    let plan = Plan {
        listeners: Some(
            [
                listener("without", "mutual-tls", "[\"without\"]", ""),
                listener("with", "mutual-tls", "[\"with\"]", ""),
                group("without", "ca.pem", ""),
                group("with", "ca.pem", "intermediates = [\"line.pem\"]"),
            ]
            .concat(),
        ),
        files: vec![put("line.pem", line.certificate_pem())],
        authority: ours,
        more: WITH_GROUPS.into(),
        ..Plan::default()
    };
    let gate = Gate::plan(plan).await;
    let whole = Shown::from(&issue(&line, order("meter-7")));
    let told = Told {
        reason: "certificate_unknown_issuer",
        alert: "UnknownCA",
        why: &["certificate 1", "\"CN=Line 1\"", "intermediates"],
    };
    assert_refused(&gate, "without", &whole.clone().leaf_only(), &told).await;
    nobody_called(&gate);
    assert_admitted(&gate, "without", &whole, "meter-7", "without").await;
    assert_admitted(&gate, "with", &whole, "meter-7", "with").await;
    assert_admitted(&gate, "with", &whole.leaf_only(), "meter-7", "with").await;
}

#[tokio::test]
async fn devices_with_every_usual_kind_of_key_are_admitted() {
    let gate = Gate::start().await;
    for kind in [
        KeyKind::Rsa2048,
        KeyKind::EcdsaP256,
        KeyKind::EcdsaP384,
        KeyKind::EcdsaP521,
        KeyKind::Ed25519,
    ] {
        let device = issue(&gate.authority, order("meter-7").key(kind));
        assert_admitted(&gate, "devices", &Shown::from(&device), "meter-7", "fleet").await;
    }
}

/// A certificate is public: only its key makes a device of who shows it (threats.md T1).
#[tokio::test]
async fn a_borrowed_certificate_is_worth_nothing() {
    let plan = Plan {
        listeners: Some(
            [
                listener("devices", "mutual-tls", "", ""),
                listener("mixed", "mixed-tls", "", ""),
                group("fleet", "ca.pem", ""),
            ]
            .concat(),
        ),
        ..Plan::default()
    };
    let gate = Gate::plan(plan).await;
    for kind in [KeyKind::EcdsaP256, KeyKind::Rsa2048, KeyKind::Ed25519] {
        let owner = issue(&gate.authority, order("meter-7").key(kind));
        let thief = issue(&gate.authority, order("meter-8").key(kind));
        let shown = Shown::new(owner.chain(), thief.key());
        let told = Told {
            reason: "certificate_bad_signature",
            alert: "DecryptError",
            why: &["did not prove that it holds the private key", "; "],
        };
        for listener in ["devices", "mixed"] {
            assert_refused(&gate, listener, &shown, &told).await;
        }
    }
    nobody_called(&gate);
}

/// Who shows a certificate is judged by it; there is no second try by token (threats.md I6, design.md §1).
#[tokio::test]
async fn a_bad_certificate_never_falls_back_to_a_token() {
    let ours = authority("Test CA");
    let lost = issue(&ours, order("lost"));
    let past = Validity {
        not_before: now() - 2 * DAY,
        not_after: now() - DAY,
    };
    let expired = issue(&ours, order("old").valid(past));
    let list = ours
        .crl(&[lost.serial()], now() - 60, now() + DAY)
        .expect("a list");
    let plan = Plan {
        listeners: Some(
            [
                listener("devices", "mixed-tls", "", ""),
                group("fleet", "ca.pem", "crl = [\"list.pem\"]"),
            ]
            .concat(),
        ),
        files: vec![put("list.pem", list.pem().expect("PEM"))],
        authority: ours,
        ..Plan::default()
    };
    let gate = Gate::plan(plan).await;
    let theirs = issue(&authority("Their CA"), order("meter-7"));
    for (issued, reason, alert) in [
        (&lost, "certificate_revoked", "CertificateRevoked"),
        (&expired, "certificate_expired", "CertificateExpired"),
        (&theirs, "certificate_unknown_issuer", "UnknownCA"),
    ] {
        let told = Told {
            reason,
            alert,
            why: &[],
        };
        assert_refused(&gate, "devices", &Shown::from(issued), &told).await;
    }
    nobody_called(&gate);
}

/// What a device is told when its certificate is good and names nobody: a CONNACK, as it may be right elsewhere.
async fn assert_unnamed(gate: &Gate, order: Order, reason: &str, why: &str) {
    assert_names_nobody(gate, &issue(&gate.authority, order), reason, why).await;
}

async fn assert_names_nobody(gate: &Gate, issued: &Issued, reason: &str, why: &str) {
    let certificate = Certificate::read(issued.certificate()).expect("a certificate");
    let subject = &certificate.subject;
    for (version, code) in [
        (Version::V31, 0x05),
        (Version::V311, 0x05),
        (Version::V5, 0x87),
    ] {
        let labels = [("reason", reason)];
        let before = gate.metric("tidegate_refusals_total", &labels).await;
        let device = gate.device_with(issued, BOTH);
        let answer = device.connects_as("meter-7", version).await;
        assert_eq!(answer, Answer::Refused(code), "{version}, {subject}");
        let line = gate
            .line("refused", |line| {
                line["certificate_fingerprint"] == certificate.fingerprint().as_str()
                    && line["mqtt_version"] == version.to_string()
            })
            .await;
        assert_eq!(line["reason"], reason, "{subject}");
        let logged = line["certificate_subject"].as_str().expect("text");
        assert!(subject.starts_with(logged.trim_end_matches('…')), "{line}"); // docs/logs.md: cut after 256
        assert_eq!(line["client_id_asked"], "meter-7");
        assert_eq!(line["mode"], "mutual-tls");
        assert_eq!(line["trust"], "fleet");
        assert_eq!(line.get("device"), None, "it names no device");
        let told = line["why"].as_str().expect("a sentence");
        assert!(told.contains(why), "{why:?} is not in: {told}");
        gate.metric_becomes("tidegate_refusals_total", &labels, before + 1.0)
            .await;
    }
}

/// threats.md I3: a CA below the anchor gives the same serials as the anchor itself, and a device brings along which it likes.
#[tokio::test]
async fn a_serial_of_a_ca_that_the_device_brought_along_names_nobody() {
    let plan = Plan {
        trust: "device = \"serial\"".into(),
        ..Plan::default()
    };
    let gate = Gate::plan(plan).await;
    let line = gate.authority.intermediate(Order::ca("Line 1"));
    let line = line.expect("a CA");
    let [ours, posing] =
        [&gate.authority, &line].map(|ca| issue(ca, order("meter-7").serial(&[0x42, 0x07])));
    let why = "make the intermediate the CA of a trust group of its own";
    assert_names_nobody(&gate, &posing, "identity_not_allowed", why).await;
    nobody_called(&gate);
    assert_admitted(&gate, "devices", &Shown::from(&ours), "4207", "fleet").await;
}

/// A name that a broker could read as a topic, or that reads in two ways, is no name (threats.md I5, CVE-2017-7650).
#[tokio::test]
async fn a_name_that_is_none_is_refused_and_not_repaired() {
    let gate = Gate::start().await;
    let over_long = "x".repeat(129);
    for name in [
        "+",
        "#",
        "a/b",
        "meter/+",
        "$SYS",
        "",
        " ",
        "meter 7",
        " meter-7",
        "zähler",
        "\u{202e}7-retem",
        &over_long,
    ] {
        let order = Order::device_named(name);
        assert_unnamed(&gate, order, "identity_not_allowed", "trust.pattern").await;
    }
    let endless = "x".repeat(1025);
    for name in [
        "meter\0-7",
        "meter-7\0",
        "meter\n-7",
        "\u{1b}[31m",
        "meter\u{7f}",
        &endless,
    ] {
        let order = Order::device_named(name);
        assert_unnamed(
            &gate,
            order,
            "identity_unreadable",
            "NUL or another control",
        )
        .await;
    }
    let two = Order::device_named("meter-7").common_name("meter-7");
    assert_unnamed(&gate, two, "identity_repeated", "more than one subject.cn").await;
    // Nothing else in the certificate stands in for the one field.
    let none = Order::device_unnamed()
        .uri("urn:device:meter-7")
        .dns("meter-7");
    assert_unnamed(&gate, none, "identity_missing", "no subject.cn").await;
    nobody_called(&gate);

    let broken: Vec<String> = gate
        .log_text()
        .lines()
        .filter(|line| serde_json::from_str::<serde_json::Value>(line).is_err())
        .map(str::to_owned)
        .collect();
    assert_eq!(broken, [""; 0], "no name breaks a line of the log");
}

/// 128 characters are a name, and the broker is told all of them.
#[tokio::test]
async fn the_longest_name_is_taken() {
    let gate = Gate::start().await;
    let name = "a.B_9-".repeat(22)[..128].to_owned();
    let device = issue(&gate.authority, Order::device_named(&name));
    assert_admitted(&gate, "devices", &Shown::from(&device), &name, "fleet").await;
}

#[tokio::test]
async fn no_certificate_on_mutual_tls_is_an_alert() {
    let gate = Gate::start().await;
    for (versions, version) in EACH {
        let device = Device::showing(gate.address(), gate.authority.certificate(), None, versions);
        let answer = device.0.connects_as("meter-7", Version::V5).await;
        // RFC 8446 §6.2 made this alert; rustls says it in TLS 1.2, too.
        let alert = "received fatal alert: CertificateRequired";
        assert_eq!(answer, Answer::NoTls(alert.into()), "TLS {version}");
        let line = gate
            .line("refused", |line| line["tls_version"] == version)
            .await;
        assert_eq!(line["reason"], "no_certificate");
        assert!(line["why"].as_str().expect("text").contains("mixed-tls"));
        assert_eq!(line.get("certificate_subject"), None);
        assert_eq!(line["sni"], "localhost");
        let labels = [("result", "no_certificate"), ("tls_version", version)];
        gate.metric_becomes("tidegate_handshakes_total", &labels, 1.0)
            .await;
    }
    gate.metric_becomes(
        "tidegate_refusals_total",
        &[("reason", "no_certificate")],
        2.0,
    )
    .await;
    nobody_called(&gate);
}
