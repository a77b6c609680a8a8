//! A reload takes in the whole configuration, all of it or nothing, and tells how it went (threats.md R2, R3).

use std::fs;

use serde_json::json;
use tidegate::mqtt::Version;
use tidegate::pki::Authority;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::broker::{Broker, Visit};
use crate::support::device::{Answer, Device, Link, connect};
use crate::support::gate::{Gate, MUTUAL, Plan, group, tidegate};
use crate::support::http::Caller;
use crate::support::until;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const SECRET: &str = "b1946ac92492d2347c6235b4d2611184f1d3ff8443297732862df21dc4e57262";
const FAILED: &str = "tidegate_config_last_reload_successful";

/// A gate whose admin API has a token.
async fn gate(plan: Plan) -> Gate {
    let mut files = plan.files;
    files.push(("admin.token".into(), TOKEN.as_bytes().to_vec()));
    Gate::plan(Plan {
        admin: "token_file = \"admin.token\"".into(),
        files,
        ..plan
    })
    .await
}

fn caller(gate: &Gate) -> Caller {
    Caller {
        address: gate.admin,
        token: TOKEN.into(),
    }
}

fn written(gate: &Gate) -> String {
    fs::read_to_string(gate.file("tidegate.toml")).expect("its file")
}

/// Puts `new` for `old` in the configuration; nothing is told to the gate.
fn edit(gate: &Gate, old: &str, new: &str) {
    let text = written(gate);
    assert!(text.contains(old), "{old} is not in\n{text}");
    let new = text.replacen(old, new, 1);
    let beside = gate.file("tidegate.toml_new");
    fs::write(&beside, new).expect("written");
    fs::rename(beside, gate.file("tidegate.toml")).expect("renamed");
}

/// Waits for the next reload, after `change`.
async fn reloaded(gate: &Gate, change: impl FnOnce()) {
    let before = gate.count("reloaded");
    change();
    gate.next_line("reloaded", before).await;
}

async fn linked(device: &Device, broker: &Broker) -> (Link, Visit) {
    let asks = connect("anybody", Version::V5);
    let ((answer, link), visit) = tokio::join!(device.asks(&asks), broker.welcome());
    assert_eq!(answer, Answer::Admitted);
    (link.expect("admitted"), visit)
}

/// Whether both ends of a connection are still there.
async fn goes_on(link: &mut Link, visit: &mut Visit) {
    link.say(&[0xc0, 0]).await.expect("it stays");
    assert_eq!(visit.packet().await, Some(vec![0xc0, 0]));
}

/// Open connections stay with the broker that they have; new ones go to the new one; what is gone leaves the metrics.
#[tokio::test]
async fn other_brokers_get_the_new_connections() {
    let gate = gate(Plan::default()).await;
    let other = Broker::start().await;
    let device = gate.device("meter-7");
    let [old_name, new_name] =
        [gate.broker().address, other.address].map(|address| format!("mqtt://{address}"));
    let (mut link, mut visit) = linked(&device, gate.broker()).await;

    reloaded(&gate, || edit(&gate, &old_name, &new_name)).await;
    let (mut second, mut its) = linked(&device, &other).await;
    goes_on(&mut link, &mut visit).await;
    goes_on(&mut second, &mut its).await;
    gate.metric_becomes("tidegate_broker_up", &[("broker", &new_name)], 1.0)
        .await;
    let text = gate.metrics().await;
    let of_old: Vec<_> = text
        .lines()
        .filter(|line| line.contains(&old_name))
        .collect();
    let open = format!("tidegate_broker_connections_open{{broker=\"{old_name}\"}} 1");
    assert_eq!(of_old, [&open]);

    drop((link, visit));
    until("the old broker to leave the metrics", async || {
        (!gate.metrics().await.contains(&old_name)).then_some(())
    })
    .await;

    // Two brokers: the one that has a connection is counted on.
    let both = format!("\"{new_name}\", \"{old_name}\"");
    reloaded(&gate, || edit(&gate, &format!("\"{new_name}\""), &both)).await;
    gate.metric_becomes("tidegate_broker_up", &[], 2.0).await;
    let (_third, _) = linked(&device, gate.broker()).await;
    assert_eq!(other.visits(), 1, "it had one more already");
}

/// Templates and secrets of [connect] count for who comes next.
#[tokio::test]
async fn other_templates_and_secrets_count_for_who_comes_next() {
    let gate = gate(Plan {
        more: "[connect]\nusername = \"{device}\"\npassword_file = \"broker.secret\"\n".into(),
        files: vec![("broker.secret".into(), b"one".to_vec())],
        ..Plan::default()
    })
    .await;
    let device = gate.device("meter-7");
    let told = async || {
        let (_link, visit) = linked(&device, gate.broker()).await;
        let password = visit.connect.password.as_ref().expect("sent");
        let password = String::from_utf8(password.reveal().to_vec()).expect("text");
        (visit.connect.username.expect("sent"), password)
    };
    assert_eq!(told().await, ("meter-7".into(), "one".into()));
    let (mut open, mut its) = linked(&device, gate.broker()).await;
    reloaded(&gate, || {
        fs::write(gate.file("broker.secret"), "two\n").expect("written");
    })
    .await;
    assert_eq!(told().await, ("meter-7".into(), "two".into()));
    let [old, new] = [
        "username = \"{device}\"",
        "username = \"{device}/{listener}\"",
    ];
    reloaded(&gate, || edit(&gate, old, new)).await;
    assert_eq!(told().await, ("meter-7/devices".into(), "two".into()));
    goes_on(&mut open, &mut its).await;
    assert!(!gate.log_text().contains("\"two"), "K2");
}

/// A device id that the alphabet did not hold.
#[tokio::test]
async fn another_alphabet_counts_for_who_comes_next() {
    let mut gate = gate(Plan {
        more: "[connect]\nextra_characters = \"\"\n".into(),
        ..Plan::default()
    })
    .await;
    gate.take_broker().welcome_all();
    let order = tidegate::pki::Order::device_named("meter:7");
    let device = gate.device_ordered(order);
    assert_ne!(device.connects_as("a", Version::V5).await, Answer::Admitted);
    let [old, new] = ["extra_characters = \"\"", "extra_characters = \":\""];
    reloaded(&gate, || edit(&gate, old, new)).await;
    assert_eq!(device.connects_as("a", Version::V5).await, Answer::Admitted);
}

/// Limits count for who comes next; who is in stays, and is counted.
#[tokio::test]
async fn other_limits_count_for_who_comes_next() {
    let mut gate = gate(Plan {
        limits: "connections = 5\nconnect_bytes = \"16KiB\"\nhandshakes = 64".into(),
        ..Plan::default()
    })
    .await;
    gate.take_broker().welcome_all();
    let device = gate.device("meter-7");
    let asks = connect("anybody", Version::V5);
    let mut open = Vec::new();
    for _ in 0..3 {
        let (answer, link) = device.asks(&asks).await;
        assert_eq!(answer, Answer::Admitted);
        open.extend(link);
    }
    let [old, new] = ["connections = 5", "connections = 3"];
    reloaded(&gate, || edit(&gate, old, new)).await;
    assert!(device.dial().await.is_err(), "three are in");
    gate.refusal("full").await;
    for link in &mut open {
        link.say(&[0xc0, 0]).await.expect("it stays");
    }
    let [old, new] = [
        "connections = 3",
        "connections = 4\nhandshake_timeout = \"5s\"",
    ];
    reloaded(&gate, || edit(&gate, old, new)).await;
    assert_eq!(device.asks(&asks).await.0, Answer::Admitted);

    let [old, new] = ["connect_bytes = \"16KiB\"", "connect_bytes = \"128B\""];
    reloaded(&gate, || edit(&gate, old, new)).await;
    let long = connect(&"x".repeat(200), Version::V5);
    assert_ne!(device.asks(&long).await.0, Answer::Admitted);
    let [old, new] = [
        "handshakes = 64",
        "handshakes = 1\nconnections_per_device = 1",
    ];
    reloaded(&gate, || edit(&gate, old, new)).await;
    let (answer, _link) = device.asks(&asks).await;
    assert_eq!(answer, Answer::Admitted);
    gate.metric_becomes("tidegate_connections_open", &[], 1.0)
        .await;
}

/// Who has to send a PROXY header is another question after a reload.
#[tokio::test]
async fn other_networks_have_to_send_a_header() {
    let listener = MUTUAL.replace("[listener.tls]", "proxy_protocol_from = []\n[listener.tls]");
    let mut gate = gate(Plan {
        listeners: Some(format!("{listener}\n{}", group("fleet", "ca.pem", ""))),
        ..Plan::default()
    })
    .await;
    gate.take_broker().welcome_all();
    let device = gate.device("meter-7");
    assert_eq!(device.connects_as("a", Version::V5).await, Answer::Admitted);
    let [old, new] = [
        "proxy_protocol_from = []",
        "proxy_protocol_from = [\"127.0.0.0/8\"]",
    ];
    reloaded(&gate, || edit(&gate, old, new)).await;
    assert!(device.dial().await.is_err(), "a ClientHello is no header");
    gate.refusal("proxy_header_missing").await;
}

/// The admin token and the log.
#[tokio::test]
async fn another_admin_token_and_another_log_count_at_once() {
    let gate = gate(Plan::default()).await;
    let other = Caller {
        token: TOKEN.replace('0', "x"),
        ..caller(&gate)
    };
    assert_eq!(other.get("/v1/connections").await.status, 401);
    reloaded(&gate, || {
        fs::write(gate.file("admin.token"), &other.token).expect("written");
    })
    .await;
    assert_eq!(other.get("/v1/connections").await.status, 200);
    assert_eq!(caller(&gate).get("/v1/connections").await.status, 401);

    reloaded(&gate, || {
        edit(
            &gate,
            "format = \"json\"",
            "format = \"json\"\nlevel = \"debug\"",
        );
    })
    .await;
    gate.signal("HUP");
    until("a line of level debug", async || {
        gate.log_text()
            .contains("\"level\":\"debug\"")
            .then_some(())
    })
    .await;
    edit(&gate, "format = \"json\"", "format = \"text\"");
    until("a line for people", async || {
        let log = gate.log_text();
        log.lines()
            .any(|line| line.contains("info  reloaded "))
            .then_some(())
    })
    .await;
}

/// R2: what a running gate cannot change is told together with every other fault, by whichever way was asked, and nothing changes.
#[tokio::test]
async fn all_faults_are_told_at_once_and_nothing_changes() {
    let gate = gate(Plan::default()).await;
    let device = gate.device("meter-7");
    let (mut open, mut its) = linked(&device, gate.broker()).await;
    let good = written(&gate);
    let text = good
        .replacen("bind = \"127.0.0.1:0\"", "bind = \"127.0.0.2:0\"", 1)
        .replacen("bind = \"127.0.0.1:0\"", "bind = \"127.0.0.3:0\"", 1)
        .replace(
            "\n[broker]",
            "\n[broker]\nsource_addresses = [\"203.0.113.7\"]",
        )
        .replace("[limits]", "[limits]\nconnections = 1")
        + "[[listener]]\nname = \"more\"\nbind = \"127.0.0.1:0\"\nmode = \"plain\"\n[registry]\nurl = \"sqlite://new.db\"\n";
    fs::write(gate.file("server.key"), "nothing").expect("written");
    fs::write(gate.file("tidegate.toml"), text).expect("written");
    let keys = [
        "listener[devices].bind: ",
        "listener[devices].tls.key: ",
        "listener[more]: ",
        "registry: ",
        "admin.bind: ",
        "broker.source_addresses[0]: ",
    ];
    let answer = caller(&gate).send("POST", "/v1/reload", None).await;
    assert_eq!(answer.problem(), (409, "reload_failed"));
    let faults = answer.body["faults"].as_array().expect("faults").clone();
    let told: Vec<_> = faults
        .iter()
        .map(|one| one.as_str().expect("text"))
        .collect();
    for key in keys {
        let of_it = told.iter().filter(|fault| fault.starts_with(key)).count();
        assert_eq!(of_it, 1, "{key}: {told:#?}");
    }
    assert_eq!(told.len(), keys.len(), "{told:#?}");
    let folder = gate.folder.path();
    let address = gate.admin.to_string();
    let arguments = [
        "reload",
        "--address",
        &address,
        "--token-file",
        "admin.token",
    ];
    let (code, _, err) = tidegate(&arguments, folder);
    assert_eq!(code, 1);
    for key in keys {
        assert!(err.contains(&format!("tidegate: {key}")), "{key}: {err}");
    }
    assert!(err.ends_with("tidegate: nothing was changed: what was in force stays\n"));
    assert!(gate.count("reload_failed") >= keys.len());
    gate.metric_becomes(FAILED, &[], 0.0).await;
    let (status, page) = gate.admin_get("/readyz?verbose").await;
    assert!(
        status == 200
            && page.contains("[!] what was read last is not in force, faults: 6")
            && page.contains(" generation: 1 "),
        "{page}"
    );

    goes_on(&mut open, &mut its).await;
    let (_second, _) = linked(&device, gate.broker()).await;
    assert!(!gate.file("new.db").exists());

    // What is not TOML is told with its line.
    fs::write(gate.file("tidegate.toml"), "[broker\n").expect("written");
    let (_, _, err) = tidegate(&arguments, folder);
    assert!(err.contains("line 1"), "{err}");

    let server = gate.authority.server(&["localhost"]).expect("issued");
    fs::write(gate.file("server.pem"), server.chain_pem()).expect("written");
    fs::write(gate.file("server.key"), server.key_pem()).expect("written");
    fs::write(gate.file("tidegate.toml"), good).expect("written");
    let (code, out, err) = tidegate(&arguments, folder);
    assert!(
        code == 0 && out.ends_with("reloaded, generation 2\n"),
        "{out}{err}"
    );
    gate.metric_becomes(FAILED, &[], 1.0).await;
    let (_, page) = gate.admin_get("/readyz?verbose").await;
    assert!(
        page.contains("[+] what was read last is in force, generation: 2\n"),
        "{page}"
    );
    let at = gate.metric("tidegate_config_last_reload_success_timestamp_seconds", &[]);
    assert!(at.await > 1e9);
    let answer = caller(&gate).send("POST", "/v1/reload", None).await;
    let warnings = answer.body["warnings"].to_string();
    assert!(
        answer.status == 200 && warnings.contains("admin.token can be read by every user"),
        "{warnings}"
    );
}

/// R3: every file that the configuration names, noticed by what it holds; T8: and each taken in whole, or not at all.
#[tokio::test]
async fn every_file_counts_and_none_is_taken_half() {
    let (gates, brokers) = (
        Authority::new("Gates").expect("a CA"),
        Authority::new("Brokers").expect("a CA"),
    );
    let own = gates
        .device(&"gate".parse().expect("an id"))
        .expect("issued");
    let devices = Authority::new("Test CA").expect("a CA");
    let list = crate::support::estate::list(&devices, &[]);
    let jwks = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }] });
    let tls = "resumption = \"tickets\"\nticket_secret_file = \"ticket.secret\"\n";
    let listeners = format!(
        "{MUTUAL}{tls}{}",
        group("fleet", "ca.pem", "crl = [\"devices.crl\"]")
    );
    let file = |name: &str, bytes: &str| (name.to_owned(), bytes.as_bytes().to_vec());
    let gate = gate(Plan {
        authority: devices,
        listeners: Some(listeners),
        addresses: Some("[\"mqtts://127.0.0.1:1\"]".into()),
        more:
            "[broker.tls]\nca = \"broker-ca.pem\"\ncertificate = \"gate.pem\"\nkey = \"gate.key\"\n\
               [connect]\nclient_id = \"{trust}/{device}\"\nusername = \"{trust}/{device}\"\npassword_file = \"broker.secret\"\n\
               [token.jwt]\nkeys = \"jwks.json\"\nissuer = \"i\"\naudience = \"a\"\n"
                .into(),
        files: vec![
            file("devices.crl", &list),
            file("ticket.secret", SECRET),
            file("broker-ca.pem", brokers.certificate_pem()),
            file("gate.pem", &own.chain_pem()),
            file("gate.key", &own.key_pem()),
            file("broker.secret", "hunter22"),
            file("jwks.json", &jwks.to_string()),
        ],
        ..Plan::default()
    })
    .await;
    for (name, key, garbled) in [
        ("server.pem", "listener[devices].tls.certificate", "x"),
        ("server.key", "listener[devices].tls.key", "x"),
        (
            "ticket.secret",
            "listener[devices].tls.ticket_secret_file",
            "x",
        ),
        ("ca.pem", "trust[fleet].ca", "x"),
        ("devices.crl", "trust[fleet].crl", "x"),
        ("broker-ca.pem", "broker.tls.ca", "x"),
        ("gate.pem", "broker.tls.certificate", "x"),
        ("gate.key", "broker.tls.key", "x"),
        ("broker.secret", "connect.password_file", ""),
        ("jwks.json", "token.jwt.keys", "x"),
        ("admin.token", "admin.token_file", "x"),
        ("tidegate.toml", "tidegate.toml", "x"),
    ] {
        let good = fs::read(gate.file(name)).expect("its file");
        let before = gate.count("reload_failed");
        fs::write(gate.file(name), garbled).expect("written");
        gate.signal("HUP");
        let line = gate.next_line("reload_failed", before).await;
        let why = line["why"].as_str().expect("text");
        assert!(
            why.contains(key) && !why.contains("hunter22"),
            "{name}: {why}"
        );
        let whole = [&good[..], b"\n"].concat();
        reloaded(&gate, || {
            fs::write(gate.file(name), &whole).expect("written")
        })
        .await;
    }
    gate.metric_becomes(FAILED, &[], 1.0).await;
    let ok = gate.metric("tidegate_config_reloads_total", &[("result", "ok")]);
    assert!((ok.await - 12.0).abs() < 0.5);
    // R2: which configuration is in force is told alike wherever it is told.
    let generation = gate.metric("tidegate_config_generation", &[]).await;
    assert!((generation - 13.0).abs() < 0.5, "{generation}");
    let lines = gate.lines("reloaded");
    let told: Vec<_> = lines
        .iter()
        .map(|line| line["generation"].as_u64())
        .collect();
    assert_eq!(told, (2..=13).map(Some).collect::<Vec<_>>());
    let (_, page) = gate.admin_get("/readyz?verbose").await;
    assert!(page.contains("in force, generation: 13\n"), "{page}");
    let answer = caller(&gate).send("POST", "/v1/reload", None).await;
    assert_eq!(answer.body["generation"], json!(14));
}

/// R3: what was only touched, or written anew as it was, is no change.
#[tokio::test]
async fn what_holds_the_same_is_no_change() {
    let gate = gate(Plan::default()).await;
    for name in ["ca.pem", "server.key", "tidegate.toml"] {
        let bytes = fs::read(gate.file(name)).expect("its file");
        fs::write(gate.file("new"), &bytes).expect("written");
        fs::rename(gate.file("new"), gate.file(name)).expect("renamed");
    }
    let ca = fs::read(gate.file("ca.pem")).expect("its file");
    let mut seen = 0;
    // Time for several looks, by a clock that the gate has, too: names are looked up and probes sent all the while.
    until("some looks", async || {
        seen += 1;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        (seen > 60).then_some(())
    })
    .await;
    assert_eq!(gate.count("reloaded"), 0);
    let more = [&ca[..], b"\n"].concat();
    reloaded(&gate, || {
        fs::write(gate.file("ca.pem"), more).expect("written")
    })
    .await;
    assert_eq!(gate.count("reloaded"), 1);
    // HUP reads anew all the same.
    reloaded(&gate, || gate.signal("HUP")).await;
}

/// R3: a certificate whose key comes a moment later is not half of a fault.
#[tokio::test]
async fn a_key_that_comes_a_moment_later_is_waited_for() {
    let gate = gate(Plan {
        more: "level = \"debug\"\n".into(),
        ..Plan::default()
    })
    .await;
    let other = Authority::new("Other CA").expect("a CA");
    let server = other.server(&["localhost"]).expect("issued");
    fs::write(gate.file("server.pem"), server.chain_pem()).expect("written");
    until("the certificate alone to be read", async || {
        let log = gate.log_text();
        let tried = |line: &str| line.contains("\"faults\":\"1\"") || line.contains("\"faults\":1");
        log.lines().any(tried).then_some(())
    })
    .await;
    let page = gate.admin_get("/readyz?verbose").await.1;
    assert!(
        page.contains("[+] what was read last is in force"),
        "{page}"
    );
    reloaded(&gate, || {
        fs::write(gate.file("server.key"), server.key_pem()).expect("written");
    })
    .await;
    assert_eq!(gate.count("reload_failed"), 0);
    let failed = gate.metric("tidegate_config_reloads_total", &[("result", "failed")]);
    assert!(failed.await < 0.5);
    let mut device = gate.device("meter-7");
    assert!(
        device.dial().await.is_err(),
        "another CA's certificate is shown"
    );
    let own = gate
        .authority
        .device(&"meter-7".parse().expect("an id"))
        .expect("issued");
    device = Device::issued(
        gate.address(),
        other.certificate(),
        &own,
        crate::support::device::BOTH,
    );
    device.dial().await.expect("it trusts that CA");
}

/// R2: reloads that are asked for all at once, by every way, come one after the other, and what was written last is in force.
#[tokio::test]
async fn reloads_do_not_race_each_other() {
    let mut gate = gate(Plan {
        more: "[connect]\nusername = \"{device}\"\n".into(),
        ..Plan::default()
    })
    .await;
    let device = gate.device("meter-7");
    let api = caller(&gate);
    let mut last = "username = \"{device}\"".to_owned();
    for number in 0..20 {
        let next = format!("username = \"{{device}}/{number}\"");
        edit(&gate, &last, &next);
        last = next;
        gate.signal("HUP");
        if number % 5 == 0 {
            let answers = tokio::join!(
                api.send("POST", "/v1/reload", None),
                api.send("POST", "/v1/reload", None)
            );
            assert_eq!((answers.0.status, answers.1.status), (200, 200));
        }
    }
    until("the last to count", async || {
        let (_link, visit) = linked(&device, gate.broker()).await;
        (visit.connect.username.as_deref() == Some("meter-7/19")).then_some(())
    })
    .await;
    assert_eq!(gate.count("reload_failed"), 0);
    gate.signal("TERM");
    assert_eq!(gate.exit().await.code(), Some(0));
}

/// `tidegate reload` by HUP, to tidegate and to nobody else.
#[tokio::test]
async fn hup_is_sent_to_tidegate_and_to_nobody_else() {
    let gate = gate(Plan::default()).await;
    let folder = gate.folder.path();
    fs::write(gate.file("gate.pid"), format!("{}\n", gate.pid())).expect("written");
    reloaded(&gate, || {
        let (code, out, err) = tidegate(&["reload", "--pid-file", "gate.pid"], folder);
        assert!(code == 0 && out.contains("sent HUP"), "{out}{err}");
    })
    .await;
    let own = std::process::id().to_string();
    let (code, _, err) = tidegate(&["reload", "--pid", &own], folder);
    assert!(code == 1 && err.contains("is not tidegate"), "{err}");
    // The configuration says where to ask; its admin port is 0 here, so it cannot.
    let (code, _, err) = tidegate(&["reload"], folder);
    assert!(code == 2 && err.contains("--address"), "{err}");
    fs::write(gate.file("wrong.token"), "f".repeat(32)).expect("written");
    let address = gate.admin.to_string();
    let wrong = [
        "reload",
        "--address",
        &address,
        "--token-file",
        "wrong.token",
    ];
    let (code, _, err) = tidegate(&wrong, folder);
    assert!(code == 1 && err.contains("not the token"), "{err}");
    let mut nobody = TcpStream::connect(gate.admin).await.expect("it listens");
    let head = "POST /v1/reload HTTP/1.1\r\nHost: gate\r\nConnection: close\r\n\r\n";
    nobody.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut nobody, &mut answer)
        .await
        .expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 401 "), "N2: {answer}");
}
