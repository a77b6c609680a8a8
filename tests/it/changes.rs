//! What an owner decides takes effect on the connections that are open (threats.md R1, I8, T5, V4).

use std::time::Instant;

use tidegate::mqtt::Version;
use tidegate::pki::{Authority, Issued};
use tidegate::rules::device::Mode;
use tidegate::rules::identity::{Certificate, Field};
use tidegate::rules::record::{Pin, Proof, Record, Valid};
use tidegate::rules::token::{Token, TokenKey};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use crate::support::device::{Answer, BOTH, connect};
use crate::support::estate::{
    Estate, KEY, MIXED, admitted, ends, id, last_words, now, record, with_token,
};
use crate::support::gate::{Gate, Plan, tidegate};
use crate::support::{soon, until};

/// threats.md R1, T9: a new list counts for open connections, and for nobody else's.
#[tokio::test]
async fn a_new_list_ends_the_connections_of_whom_it_names() {
    let estate = Estate::without_registry().await;
    let issued = |name: &str| estate.gate.authority.device(&id(name)).expect("issued");
    let (bad, good) = (issued("stolen"), issued("mine"));
    let link = async |issued: &Issued, name: &str| {
        let device = estate.gate.device_with(issued, BOTH);
        admitted(&device, &connect(name, Version::V5)).await
    };
    let mut stolen = link(&bad, "stolen").await;
    let mut mine = link(&good, "mine").await;

    let began = estate.write_list(&[bad.serial()]);
    ends(
        &estate,
        &mut stolen,
        Version::V5,
        "trust_ended",
        0x87,
        began,
    )
    .await;
    mine.say(&[0xc0, 0]).await.expect("not on the list");
    let again = estate.gate.device_with(&bad, BOTH);
    assert_ne!(
        again.asks(&connect("stolen", Version::V5)).await.0,
        Answer::Admitted
    );
}

/// threats.md R2: a list that cannot be read changes nothing, and is told.
#[tokio::test]
async fn a_garbled_list_leaves_what_was_in_force() {
    let estate = Estate::without_registry().await;
    let mut link = estate.linked("meter-7", Version::V5).await;
    std::fs::write(estate.gate.file("devices.crl"), "no list at all").expect("written");
    estate.gate.signal("HUP");
    let told = estate.gate.line("reload_failed", |_| true).await;
    assert!(
        told["why"]
            .as_str()
            .is_some_and(|why| why.contains("devices.crl")),
        "{told}"
    );
    let metric = "tidegate_config_last_reload_successful";
    estate.gate.metric_becomes(metric, &[], 0.0).await;
    link.say(&[0xc0, 0]).await.expect("it stays");
    let _another = estate.linked("meter-8", Version::V5).await;

    estate.write_list(&[]);
    estate.gate.metric_becomes(metric, &[], 1.0).await;
}

/// A trust group that is taken away takes its devices along; a device that is pinned stays.
#[tokio::test]
async fn a_trust_group_taken_away_ends_its_connections() {
    let estate = Estate::new().await;
    estate.add(record("meter-7", None)).await;
    let pinned = estate
        .gate
        .authority
        .device(&id("meter-8"))
        .expect("issued");
    let certificate = Certificate::read(pinned.certificate()).expect("readable");
    let mut by_pin = Record::new(id("meter-8"), now());
    let proof = Proof::Pinned(Pin::Certificate(certificate.print));
    by_pin.add_credential(proof, Valid::since(now() - 60));
    estate.add(by_pin).await;
    let mut vouched = estate.linked("meter-7", Version::V5).await;
    let device = estate.gate.device_with(&pinned, BOTH);
    let mut stays = admitted(&device, &connect("meter-8", Version::V5)).await;

    let other = Authority::new("Other CA").expect("a CA");
    std::fs::write(estate.gate.file("ca.pem"), other.certificate_pem()).expect("written");
    let began = Instant::now();
    estate.gate.signal("HUP");
    ends(
        &estate,
        &mut vouched,
        Version::V5,
        "trust_ended",
        0x87,
        began,
    )
    .await;
    stays.say(&[0xc0, 0]).await.expect("it is pinned");
    admitted(&device, &connect("meter-8", Version::V5)).await;
}

/// The words of an owner's decisions, and what a device of each version is told.
#[tokio::test]
async fn each_decision_ends_the_connections_that_it_concerns_and_no_other() {
    let estate = Estate::new().await;
    let token = Token::from_chance(&[1; 32]);
    estate.add(record("bystander", None)).await;
    let mut bystander = estate.linked("bystander", Version::V5).await;
    type Decision = (&'static str, u8, fn(&mut Record));
    let decisions: [Decision; 4] = [
        ("device_disabled", 0x98, |record| record.enabled = false),
        ("mode_tightened", 0x87, |record| {
            record.min_mode = Mode::MutualTls
        }),
        ("credential_ended", 0x87, |record| {
            record.credentials.retain(|one| one.number == 1)
        }),
        ("credential_ended", 0x87, |record| {
            record.credentials[1].valid.until = Some(now() - 1)
        }),
    ];
    for version in [Version::V5, Version::V311] {
        for (nth, (reason, code, decision)) in decisions.into_iter().enumerate() {
            let name = format!("d{nth}-{}", if version == Version::V5 { 5 } else { 3 });
            estate.add(record(&name, Some(&token))).await;
            let asks = with_token(&name, &token, version);
            let mut link = admitted(&estate.gate.stranger(), &asks).await;
            let began = estate.change(&name, decision).await;
            ends(&estate, &mut link, version, reason, code, began).await;
            let (answer, _) = estate.gate.stranger().asks(&asks).await;
            assert_ne!(answer, Answer::Admitted, "{reason}: and it stays out");
        }
    }
    estate.add(record("removed", None)).await;
    let mut link = estate.linked("removed", Version::V5).await;
    estate
        .registry
        .remove(&id("removed"))
        .await
        .expect("removed");
    ends(
        &estate,
        &mut link,
        Version::V5,
        "device_removed",
        0x98,
        Instant::now(),
    )
    .await;

    bystander.say(&[0xc0, 0]).await.expect("still there");
    for (reason, count) in [
        ("device_disabled", 2.0),
        ("mode_tightened", 2.0),
        ("credential_ended", 4.0),
    ] {
        let labels = [("cause", reason)];
        let metric = "tidegate_revoked_connections_total";
        estate.gate.metric_becomes(metric, &labels, count).await;
    }
}

/// threats.md §5, V6: "refused" means that policy refused. What a device was given a moment ago counts when it shows it, though the
/// gate remembers the device as it was; and what it was not given does not.
#[tokio::test]
async fn a_credential_counts_at_once_for_a_device_that_the_gate_remembers() {
    let estate = Estate::new().await;
    let pin = |issued: &Issued| {
        let certificate = Certificate::read(issued.certificate()).expect("readable");
        Pin::Certificate(certificate.print)
    };
    let vouched = |issued: &Issued| Proof::Vouched {
        group: "fleet".into(),
        field: Field::SubjectCn,
        pin: Some(pin(issued)),
    };
    let issue = || {
        estate
            .gate
            .authority
            .device(&id("meter-7"))
            .expect("issued")
    };
    let mut meter = record("meter-7", Some(&Token::from_chance(&[0; 32])));
    meter.credentials[0].proof = vouched(&issue());
    estate.add(meter).await;
    for round in 1..=8 {
        let issued = issue();
        let device = estate.gate.device_with(&issued, BOTH);
        let asks = connect("meter-7", Version::V5);
        let (answer, _) = device.asks(&asks).await;
        assert_eq!(answer, Answer::Refused(0x87), "not before it is registered");
        let proof = vouched(&issued);
        let rotate = |record: &mut Record| {
            record.add_credential(proof.clone(), Valid::since(now()));
        };
        estate.change("meter-7", rotate).await;
        admitted(&device, &asks).await;

        let token = Token::from_chance(&[round; 32]);
        let asks = with_token("meter-7", &token, Version::V311);
        let (answer, _) = estate.gate.stranger().asks(&asks).await;
        assert_eq!(answer, Answer::Refused(0x04));
        let hash = TokenKey::new(KEY).hash(&token);
        let rotate = |record: &mut Record| {
            record.add_credential(Proof::Token(hash), Valid::since(now()));
        };
        estate.change("meter-7", rotate).await;
        admitted(&estate.gate.stranger(), &asks).await;
    }
}

/// threats.md R1: who is disabled while its broker is dialled is told at once, and the dial ends.
#[tokio::test]
async fn a_device_that_is_disabled_while_its_broker_is_dialled_is_let_go() {
    // It takes connections, and begins no TLS.
    let broker = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = broker.local_addr().expect("bound");
    let gate = Gate::plan(Plan {
        listeners: Some(MIXED.into()),
        addresses: Some(format!("[\"mqtts://{address}\"]")),
        broker: "dial_timeout = \"10m\"\n[broker.health]\ninterval = \"1h\"\n[broker.tls]\nca = \"ca.pem\""
            .into(),
        more: "[registry]\nurl = \"sqlite://tidegate.db\"\n".into(),
        files: vec![("token.key".into(), hex::encode(KEY).into_bytes())],
        ..Plan::default()
    })
    .await;
    let estate = Estate::of(gate).await;
    let _probe = soon("a probe", broker.accept()).await.expect("a call");
    estate.add(record("meter-7", None)).await;
    let device = estate.gate.device("meter-7");
    let asks = connect("meter-7", Version::V5);
    let disabled = async {
        let (mut dialled, _) = soon("a dial", broker.accept()).await.expect("a call");
        estate
            .change("meter-7", |record| record.enabled = false)
            .await;
        let mut hello = Vec::new();
        soon("the end of the dial", dialled.read_to_end(&mut hello))
            .await
            .expect("closed");
    };
    let ((answer, _link), ()) = tokio::join!(device.asks(&asks), disabled);
    assert_eq!(answer, Answer::Refused(0x87));
    estate.gate.refusal("revoked_meanwhile").await;
}

/// threats.md R1: whatever the moment, nobody stays who was disabled.
#[tokio::test]
async fn no_device_slips_through_while_it_is_disabled() {
    let estate = Estate::new().await;
    for round in 0..12_u32 {
        let name = format!("d{round}");
        estate.add(record(&name, None)).await;
        let device = estate.gate.device(&name);
        let asks = connect(&name, Version::V311);
        let disable = async {
            for _ in 0..round * 3 {
                tokio::task::yield_now().await;
            }
            estate.change(&name, |record| record.enabled = false).await
        };
        let calls = async {
            let mut links = Vec::new();
            for _ in 0..8 {
                let (_, link) = device.asks(&asks).await;
                links.extend(link);
            }
            links
        };
        let (_, links) = tokio::join!(disable, calls);
        for mut link in links {
            let _ = last_words(&mut link).await;
        }
    }
    let open = [("listener", "devices")];
    estate
        .gate
        .metric_becomes("tidegate_connections_open", &open, 0.0)
        .await;
}

/// threats.md T5: what ends by itself ends the connection, without anybody's word.
#[tokio::test]
async fn a_connection_ends_with_the_credential_that_let_it_in() {
    let estate = Estate::new().await;
    let mut short = record("short", None);
    short.credentials[0].valid.until = Some(now() + 2);
    estate.add(short).await;
    let mut link = estate.linked("short", Version::V5).await;
    ends(
        &estate,
        &mut link,
        Version::V5,
        "expired",
        0xa0,
        Instant::now(),
    )
    .await;
}

/// `connections_per_device`: the newest wins, also where only the record says so.
#[tokio::test]
async fn the_newest_connections_of_a_device_win() {
    let estate = Estate::with("", "connections_per_device = 1").await;
    estate.add(record("one", None)).await;
    let mut two = record("two", None);
    two.connections = Some(2);
    estate.add(two).await;

    let mut first = estate.linked("one", Version::V5).await;
    let mut second = estate.linked("one", Version::V5).await;
    ends(
        &estate,
        &mut first,
        Version::V5,
        "replaced",
        0x8e,
        Instant::now(),
    )
    .await;
    second.say(&[0xc0, 0]).await.expect("the newest stays");

    let mut first = estate.linked("two", Version::V5).await;
    let _second = estate.linked("two", Version::V5).await;
    first.say(&[0xc0, 0]).await.expect("two may stay");
    let _third = estate.linked("two", Version::V5).await;
    ends(
        &estate,
        &mut first,
        Version::V5,
        "replaced",
        0x8e,
        Instant::now(),
    )
    .await;
}

/// threats.md I9: who is refused displaces nobody.
#[tokio::test]
async fn an_impostor_ends_nobodys_connection() {
    let estate = Estate::with("", "connections_per_device = 1").await;
    let token = Token::from_chance(&[1; 32]);
    estate.add(record("meter-7", Some(&token))).await;
    let asks = with_token("meter-7", &token, Version::V5);
    let mut link = admitted(&estate.gate.stranger(), &asks).await;
    let wrong = with_token("meter-7", &Token::from_chance(&[2; 32]), Version::V5);
    let (answer, _) = estate.gate.stranger().asks(&wrong).await;
    assert_eq!(answer, Answer::Refused(0x86));
    link.say(&[0xc0, 0]).await.expect("still there");
    assert!(!estate.gate.log_text().contains("tdg_"), "K2");
    assert!(!estate.gate.metrics().await.contains("tdg_"), "K2");
}

/// `registry.unknown = "register"`: just in time, up to a quota, and with its owner's word where that is wanted.
#[tokio::test]
async fn a_device_that_is_vouched_for_registers_itself() {
    let estate = Estate::with("unknown = \"register\"\nregister_quota = 2", "").await;
    let _a = estate.linked("a", Version::V5).await;
    let _b = estate.linked("b", Version::V5).await;
    let (answer, _) = estate
        .gate
        .device("c")
        .asks(&connect("c", Version::V5))
        .await;
    assert_eq!(answer, Answer::Refused(0x89));
    let record = estate.registry.find(&id("a")).await.expect("answered");
    assert_eq!(
        record.expect("registered").registered_by.as_deref(),
        Some("fleet")
    );

    let estate = Estate::with("unknown = \"register\"\nregister_approval = true", "").await;
    let device = estate.gate.device("a");
    let asks = connect("a", Version::V311);
    assert_eq!(device.asks(&asks).await.0, Answer::Refused(0x05));
    estate.gate.refusal("device_disabled").await;
    estate.change("a", |record| record.enabled = true).await;
    until("its owner's word to count", async || {
        (device.asks(&asks).await.0 == Answer::Admitted).then_some(())
    })
    .await;
}

/// A device that was refused as unknown is admitted as soon as it is registered: no stale memory of a no.
#[tokio::test]
async fn who_is_registered_may_enter_at_once() {
    let estate = Estate::new().await;
    let device = estate.gate.device_over("late", BOTH);
    let asks = connect("late", Version::V311);
    assert_eq!(device.asks(&asks).await.0, Answer::Refused(0x05));
    estate.gate.refusal("device_unknown").await;
    estate.add(record("late", None)).await;
    until("its registration to count", async || {
        (device.asks(&asks).await.0 == Answer::Admitted).then_some(())
    })
    .await;
    // Written beside the path, in batches.
    until("it to be noted as seen", async || {
        estate.registry.last_seen(&id("late")).await.ok().flatten()
    })
    .await;
}

/// threats.md R1: whoever else opens and closes the file takes nothing from the gate: its locks stay, and so does its log.
#[tokio::test]
async fn a_look_at_the_file_from_outside_leaves_the_gate_its_sight() {
    let estate = Estate::new().await;
    estate.add(record("meter-7", None)).await;
    let mut link = estate.linked("meter-7", Version::V5).await;
    let file = estate.gate.file("tidegate.db");
    estate.registry.close().await;
    let look = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('select count(*) from device').fetchall(); c.close()";
    let looked = std::process::Command::new("python3")
        .args(["-c", look])
        .arg(&file)
        .status();
    assert!(looked.expect("python3").success());

    let config = estate.gate.file("tidegate.toml");
    let words = ["device", "disable", "meter-7", "--config"];
    let words = [&words[..], &[config.to_str().expect("text")]].concat();
    let (code, _, err) = tidegate(&words, estate.gate.folder.path());
    assert_eq!((code, err.as_str()), (0, ""));
    ends(
        &estate,
        &mut link,
        Version::V5,
        "device_disabled",
        0x98,
        Instant::now(),
    )
    .await;
}

/// threats.md V6: a registry that was taken away is away; nobody is refused for good because of it.
#[tokio::test]
async fn a_file_that_is_taken_away_is_a_registry_that_is_away() {
    let estate = Estate::new().await;
    estate.add(record("known", None)).await;
    let mut link = estate.linked("known", Version::V5).await;
    for end in ["", "-wal", "-shm"] {
        std::fs::remove_file(estate.gate.file(&format!("tidegate.db{end}"))).expect("it is there");
    }
    estate
        .gate
        .metric_becomes("tidegate_registry_up", &[], 0.0)
        .await;
    let known = estate.gate.device("known");
    let again = known.connects_as("known", Version::V5).await;
    assert_eq!(again, Answer::Admitted, "from memory");
    let nobody = estate.gate.device("nobody");
    let nobody = nobody.connects_as("nobody", Version::V5).await;
    assert_eq!(nobody, Answer::Refused(0x88), "come back");
    link.say(&[0xc0, 0]).await.expect("the open one stays");
}

/// threats.md I7, R2: a group does not come in without the registry that would keep its devices apart, which takes a new start.
#[tokio::test]
async fn no_group_comes_in_without_the_registry_that_it_leans_on() {
    let estate = Estate::without_registry().await;
    let vendor = Authority::new("Vendor CA").expect("a CA");
    std::fs::write(estate.gate.file("vendor.pem"), vendor.certificate_pem()).expect("written");
    let config = estate.gate.file("tidegate.toml");
    let text = std::fs::read_to_string(&config).expect("its file");
    let more = "[[trust]]\nname = \"vendor\"\nca = [\"vendor.pem\"]\n[registry]\nurl = \"sqlite://new.db\"\n";
    std::fs::write(&config, format!("{text}\n{more}")).expect("written");
    estate.gate.signal("HUP");
    let told = estate.gate.line("reload_failed", |_| true).await;
    assert!(
        told["why"]
            .as_str()
            .is_some_and(|why| why.starts_with("registry: ")),
        "{told}"
    );
    let minted = vendor.device(&id("meter-7")).expect("issued");
    let device = estate.gate.device_with(&minted, BOTH);
    let answer = device.connects_as("meter-7", Version::V5).await;
    assert_ne!(answer, Answer::Admitted);
    let _own = estate.linked("meter-7", Version::V5).await;
}
