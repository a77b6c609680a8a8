//! Devices whose certificates are pinned in the registry, at the real gate (threats.md T1, I6, I8, R1).

use std::time::Instant;

use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};
use tidegate::mqtt::Version;
use tidegate::mqtt::connect::Connect;
use tidegate::pki::{Authority, Order};
use tidegate::rules::device::Mode;
use tidegate::rules::identity::Certificate;
use tidegate::rules::record::{Pin, Proof, Record, Valid};
use tidegate::rules::token::{Token, TokenKey};

use crate::support::device::{Answer, BOTH, Device, connect};
use crate::support::estate::{
    Estate, KEY, MIXED, admitted, ends, id, list, now, record, with_token,
};
use crate::support::gate::{Gate, Plan};
use crate::support::odd::self_signed;
use crate::support::openssl::{ED25519, P_256, private_key};
use crate::support::shown::Shown;

type Versions = &'static [&'static SupportedProtocolVersion];
const EACH: [(Versions, &str); 2] = [(&[&TLS12], "1.2"), (&[&TLS13], "1.3")];

/// A certificate that its device made itself, in the name of `meter-7`.
fn alone() -> Shown {
    self_signed(&private_key(P_256))
}

fn by_certificate(shown: &Shown) -> Pin {
    Pin::Certificate(Certificate::read(&shown.chain[0]).expect("readable").print)
}

fn by_key(shown: &Shown) -> Pin {
    Pin::Key(Certificate::read(&shown.chain[0]).expect("readable").key)
}

/// The record of a device that is known by these pins.
fn pinned(name: &str, pins: &[Pin]) -> Record {
    let mut record = Record::new(id(name), now());
    for pin in pins {
        record.add_credential(Proof::Pinned(*pin), Valid::since(now() - 60));
    }
    record
}

fn device(gate: &Gate, shown: &Shown, versions: Versions) -> Device {
    let ca = gate.authority.certificate();
    Device::showing(gate.address(), ca, Some(shown), versions).0
}

/// It is refused after CONNECT, in each TLS and MQTT version, with the word that the chain was refused with.
async fn assert_refused(
    estate: &Estate,
    shown: &Shown,
    asks: impl Fn(Version) -> Connect,
    reason: &str,
) {
    let counted = [("reason", reason)];
    let metric = "tidegate_refusals_total";
    let mut count = estate.gate.metric(metric, &counted).await;
    for (versions, _) in EACH {
        for (version, code) in [(Version::V311, 0x05), (Version::V5, 0x87)] {
            let device = device(&estate.gate, shown, versions);
            let answer = device.asks(&asks(version)).await.0;
            assert_eq!(answer, Answer::Refused(code), "{reason}, {version:?}");
            count += 1.0;
            estate.gate.metric_becomes(metric, &counted, count).await;
        }
    }
}

/// threats.md T1, I6: a pin says who a device is; what its certificate calls it says nothing, as nobody vouches for it.
#[tokio::test]
async fn a_pin_needs_nobodys_word_and_says_who_a_device_is() {
    let gate = Gate::plan(Plan {
        listeners: Some(MIXED.into()),
        more: "[registry]\nurl = \"sqlite://tidegate.db\"\n".into(),
        ..Plan::default()
    })
    .await;
    let estate = Estate::of(gate).await;
    let (first, second, unknown) = (alone(), alone(), alone());
    estate.add(record("meter-7", None)).await;
    estate
        .add(pinned("pump-1", &[by_certificate(&first)]))
        .await;
    estate.add(pinned("pump-2", &[by_key(&second)])).await;
    for (name, shown) in [("pump-1", &first), ("pump-2", &second)] {
        for (versions, tls) in EACH {
            let device = device(&estate.gate, shown, versions);
            let asks = connect("meter-7", Version::V5);
            let (link, visit) = tokio::join!(device.asks(&asks), estate.gate.broker().welcome());
            assert_eq!(link.0, Answer::Admitted, "{name}, TLS {tls}");
            assert_eq!(visit.connect.client_id, name);
            assert_eq!(visit.connect.username.as_deref(), Some(name));
            drop((link, visit));
            let is_it =
                |line: &serde_json::Value| line["device"] == name && line["tls_version"] == tls;
            let line = estate.gate.line("closed", is_it).await;
            assert_eq!(line["mode"], "mutual-tls");
            assert_eq!(line.get("trust"), None, "nobody vouched for it");
            assert_eq!(line["certificate_subject"], "CN=meter-7");
        }
    }
    let visits = estate.gate.broker().visits();
    let asks = |version| connect("meter-7", version);
    assert_refused(&estate, &unknown, asks, "certificate_wrong_purpose").await;
    assert_eq!(estate.gate.broker().visits(), visits, "I1");
}

/// threats.md T1, I9: a pin is of a key that is proved; whoever copied the certificate gets nowhere, and disturbs nobody.
#[tokio::test]
async fn a_borrowed_pinned_certificate_is_refused() {
    let estate = Estate::with("", "connections_per_device = 1").await;
    let (by_print, by_its_key) = (alone(), alone());
    estate
        .add(pinned("pump-1", &[by_certificate(&by_print)]))
        .await;
    estate.add(pinned("pump-2", &[by_key(&by_its_key)])).await;
    for (name, shown) in [("pump-1", &by_print), ("pump-2", &by_its_key)] {
        let owner = device(&estate.gate, shown, BOTH);
        let mut link = admitted(&owner, &connect(name, Version::V5)).await;
        for key in [P_256, ED25519] {
            let thief = Shown {
                chain: shown.chain.clone(),
                key: self_signed(&private_key(key)).key,
            };
            for (versions, tls) in EACH {
                let before = estate.gate.count("refused");
                let thief = device(&estate.gate, &thief, versions);
                let answer = thief.asks(&connect(name, Version::V5)).await.0;
                assert!(matches!(answer, Answer::NoTls(_)), "TLS {tls}: {answer:?}");
                let line = estate.gate.next_line("refused", before).await;
                assert_eq!(line["reason"], "certificate_bad_signature", "TLS {tls}");
                assert_eq!(line.get("device"), None, "it is nobody");
            }
        }
        link.say(&[0xc0, 0]).await.expect("its owner stays");
    }
}

/// threats.md T1: a pin of a key holds for each certificate of that key; one of a certificate for that one alone.
#[tokio::test]
async fn a_pinned_key_survives_a_renewed_certificate() {
    let estate = Estate::new().await;
    let keys = [private_key(P_256), private_key(P_256)];
    let [first, second] = keys.each_ref().map(|key| self_signed(key));
    estate.add(pinned("by-key", &[by_key(&first)])).await;
    estate
        .add(pinned("by-print", &[by_certificate(&second)]))
        .await;
    let [mut one, mut two] = [
        admitted(
            &device(&estate.gate, &first, BOTH),
            &connect("a", Version::V5),
        )
        .await,
        admitted(
            &device(&estate.gate, &second, BOTH),
            &connect("b", Version::V5),
        )
        .await,
    ];

    let [first, second] = keys.each_ref().map(|key| self_signed(key));
    for (versions, _) in EACH {
        let renewed = device(&estate.gate, &first, versions);
        admitted(&renewed, &connect("a", Version::V311)).await;
    }
    let asks = |version| connect("b", version);
    assert_refused(&estate, &second, asks, "certificate_wrong_purpose").await;
    for link in [&mut one, &mut two] {
        link.say(&[0xc0, 0]).await.expect("what was open stays");
    }
}

/// threats.md R1: without its pin a device is what it was before: one with a certificate that nobody vouches for.
#[tokio::test]
async fn a_pin_taken_away_takes_its_connections_along() {
    let estate = Estate::new().await;
    for (name, version) in [("old", Version::V311), ("new", Version::V5)] {
        let (shown, spare) = (alone(), alone());
        let pins = [by_certificate(&shown), by_key(&spare)];
        estate.add(pinned(name, &pins)).await;
        let asks = connect(name, version);
        let mut link = admitted(&device(&estate.gate, &shown, BOTH), &asks).await;
        let other = device(&estate.gate, &spare, BOTH);
        let mut stays = admitted(&other, &asks).await;

        let take = |record: &mut Record| record.credentials.retain(|one| one.number != 1);
        let began = estate.change(name, take).await;
        ends(&estate, &mut link, version, "credential_ended", 0x87, began).await;
        stays
            .say(&[0xc0, 0])
            .await
            .expect("it came by the other pin");
        let asks = |version| connect(name, version);
        assert_refused(&estate, &shown, asks, "certificate_wrong_purpose").await;
        admitted(&other, &connect(name, version)).await;
    }
    let metric = "tidegate_revoked_connections_total";
    let ended = [("cause", "credential_ended")];
    estate.gate.metric_becomes(metric, &ended, 2.0).await;
}

/// What the registry says of a pin's time counts, and ends the connection; what the certificate says does not.
#[tokio::test]
async fn a_pin_ends_when_the_registry_says_so() {
    let estate = Estate::new().await;
    let day = 24 * 3600;
    let over = Order::device_named("meter-7").valid(tidegate::pki::Validity {
        not_before: now() - 9 * day,
        not_after: now() - day,
    });
    let vendor = Authority::new("Vendor CA").expect("a CA");
    let shown = Shown::from(&vendor.issue(over).expect("issued"));
    let mut pump = pinned("pump-1", &[by_certificate(&shown)]);
    pump.credentials[0].valid.until = Some(now() + 2);
    estate.add(pump).await;
    let asks = connect("pump-1", Version::V5);
    let mut link = admitted(&device(&estate.gate, &shown, BOTH), &asks).await;
    ends(
        &estate,
        &mut link,
        Version::V5,
        "expired",
        0xa0,
        Instant::now(),
    )
    .await;
    let asks = |version| connect("pump-1", version);
    assert_refused(&estate, &shown, asks, "credential_expired").await;
}

/// A pin is the owner's own word: a list of the CA's speaks of what the CA vouches for.
#[tokio::test]
async fn a_list_ends_what_a_trust_group_vouches_for_and_no_pin() {
    let authority = Authority::new("Test CA").expect("a CA");
    let empty = list(&authority, &[]);
    let mut gate = Gate::plan(Plan {
        authority,
        listeners: Some(MIXED.to_owned() + "crl = [\"devices.crl\"]\n"),
        files: vec![("devices.crl".into(), empty.into_bytes())],
        more: "[registry]\nurl = \"sqlite://tidegate.db\"\n".into(),
        ..Plan::default()
    })
    .await;
    gate.take_broker().welcome_all();
    let estate = Estate::of(gate).await;
    let issued = |name: &str| estate.gate.authority.device(&id(name)).expect("issued");
    let [bound, free] = [issued("bound"), issued("free")];
    let [by_group, by_pin] = [&bound, &free].map(Shown::from);
    let mut record = record("bound", None);
    let Proof::Vouched { pin, .. } = &mut record.credentials[0].proof else {
        panic!("{record:?}");
    };
    *pin = Some(by_certificate(&by_group));
    estate.add(record).await;
    estate.add(pinned("free", &[by_certificate(&by_pin)])).await;
    let link = async |name, shown| {
        admitted(
            &device(&estate.gate, shown, BOTH),
            &connect(name, Version::V5),
        )
        .await
    };
    let mut goes = link("bound", &by_group).await;
    let mut stays = link("free", &by_pin).await;

    let began = estate.write_list(&[bound.serial(), free.serial()]);
    estate.gate.signal("HUP");
    ends(&estate, &mut goes, Version::V5, "trust_ended", 0x87, began).await;
    stays.say(&[0xc0, 0]).await.expect("it is pinned");
    let asks = |version| connect("bound", version);
    assert_refused(&estate, &by_group, asks, "certificate_revoked").await;
    link("free", &by_pin).await;
}

/// threats.md I6, I8: on a port that takes tokens, too, none makes up for a certificate, pinned or not.
#[tokio::test]
async fn a_good_token_makes_up_for_no_bad_certificate() {
    let estate = Estate::new().await;
    let tokens = [1, 2].map(|seed| Token::from_chance(&[seed; 32]));
    let (unknown, own, ended) = (alone(), alone(), alone());
    let with = |name: &str, pin: Option<Pin>, token: &Token| {
        let mut record = pinned(name, pin.as_slice());
        record.min_mode = Mode::ServerTls;
        let hash = TokenKey::new(KEY).hash(token);
        record.add_credential(Proof::Token(hash), Valid::since(now() - 60));
        record
    };
    estate
        .add(with("pump-1", Some(by_certificate(&own)), &tokens[0]))
        .await;
    let mut over = with("pump-2", Some(by_key(&ended)), &tokens[1]);
    over.credentials[0].valid.until = Some(now() - 1);
    estate.add(over).await;

    // Each token is good where it is all there is.
    for (name, token) in [("pump-1", &tokens[0]), ("pump-2", &tokens[1])] {
        let asks = with_token(name, token, Version::V5);
        admitted(&estate.gate.stranger(), &asks).await;
    }
    let asks = |version| with_token("pump-1", &tokens[0], version);
    admitted(&device(&estate.gate, &own, BOTH), &asks(Version::V5)).await;
    assert_refused(&estate, &unknown, asks, "certificate_wrong_purpose").await;
    let of_another = with_token("pump-2", &tokens[1], Version::V5);
    let disagrees = device(&estate.gate, &own, BOTH).asks(&of_another).await.0;
    assert_eq!(disagrees, Answer::Refused(0x86));
    estate.gate.refusal("credentials_disagree").await;
    let asks = |version| with_token("pump-2", &tokens[1], version);
    assert_refused(&estate, &ended, asks, "credential_expired").await;
    let stolen = Shown {
        chain: own.chain.clone(),
        key: unknown.key.clone(),
    };
    let answer = device(&estate.gate, &stolen, BOTH)
        .asks(&asks(Version::V5))
        .await
        .0;
    assert!(matches!(answer, Answer::NoTls(_)), "{answer:?}");
    assert!(!estate.gate.log_text().contains("tdg_"), "K2");
}
