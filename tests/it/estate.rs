//! The broker's side, as deploy/ has it, before real brokers: a device has its own topics and no others, and who goes round the
//! gate gets nowhere (threats.md N3).

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::Value;
use tempfile::TempDir;
use tidegate::mqtt::Version;
use tidegate::mqtt::connect::{Connect, Password};
use tidegate::pki::Order;
use tokio::io::AsyncReadExt as _;

use crate::deployment::Report;
use crate::docs::page;
use crate::support::broker::publish;
use crate::support::device::{Answer, BOTH, Device, Link, connect};
use crate::support::gate::{Gate, Plan, tidegate};
use crate::support::mosquitto::{self, Mosquitto};
use crate::support::rabbitmq::RabbitMq;
use crate::support::wire::packet;
use crate::support::{free_port, soon};

/// Runs `tidegate` with these words in `folder`.
fn typed(words: &str, folder: &Path) -> String {
    let words: Vec<&str> = words.split(' ').collect();
    let (code, told, complaint) = tidegate(&words, folder);
    assert_eq!(code, 0, "{words:?}: {told}{complaint}");
    told
}

/// A file of deploy/, with what stands for this machine changed; each change must have something to change.
fn deployed(path: &str, changes: &[(&str, &str)]) -> String {
    changes.iter().fold(page(path), |text, (from, to)| {
        assert!(text.contains(from), "{path} has no {from}");
        text.replace(from, to)
    })
}

fn put(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).expect("written");
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()))
}

fn certificate(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(&read(path)).expect("PEM")
}

/// Who calls `at` and shows the certificate NAME.pem of `folder`; its server is judged by `ca`.
fn caller(at: SocketAddr, ca: &Path, folder: &Path, name: Option<&str>) -> Device {
    let own = name.map(|name| {
        let key = PrivateKeyDer::from_pem_slice(&read(&folder.join(format!("{name}.key"))));
        let chain = vec![certificate(&folder.join(format!("{name}.pem")))];
        (chain, key.expect("PEM"))
    });
    Device::new(at, &certificate(ca), own, BOTH)
}

/// The CAs and certificates of a leg of `mqtts://`, made as the comments in deploy/ say.
pub(crate) fn pki_of_the_leg(folder: &Path) {
    typed("ca init gates", folder);
    typed("device add gate --ca gates --out gates", folder);
    typed("ca init broker", folder);
    typed(
        "ca server --ca broker --san localhost --san 127.0.0.1 --out broker",
        folder,
    );
    let copies = [
        ("gates/ca.pem", "gates-ca.pem"),
        ("broker/server.pem", "broker.pem"),
        ("broker/server.key", "broker.key"),
    ];
    for (from, to) in copies {
        std::fs::copy(folder.join(from), folder.join(to)).expect("copied");
    }
}

/// `[broker.tls]` and its files, for a plan.
fn by_certificate(folder: &Path) -> (String, Vec<(String, Vec<u8>)>) {
    let lines =
        "[broker.tls]\nca = \"broker-ca.pem\"\ncertificate = \"gate.pem\"\nkey = \"gate.key\"\n";
    let files = [
        ("broker/ca.pem", "broker-ca.pem"),
        ("gates/gate.pem", "gate.pem"),
        ("gates/gate.key", "gate.key"),
    ];
    let files = files.map(|(from, to)| (to.to_owned(), read(&folder.join(from))));
    (lines.into(), files.into())
}

// ── topics

async fn linked(gate: &Gate, name: &str, version: Version) -> Link {
    let (answer, link) = gate.device(name).asks(&connect("x", version)).await;
    assert_eq!(answer, Answer::Admitted, "{name} {version}");
    link.expect("a link")
}

fn subscribe(version: Version, topic: &str) -> Vec<u8> {
    let properties: &[u8] = if version == Version::V5 { &[0] } else { &[] };
    let length = u16::try_from(topic.len()).expect("short").to_be_bytes();
    packet(
        0x82,
        &[&[0, 1], properties, &length, topic.as_bytes(), &[0]].concat(),
    )
}

/// Subscribes; whatever the broker thinks of it, it has seen it then. `false`: it closed.
async fn tries(link: &mut Link, version: Version, topic: &str) -> bool {
    let sent = link.say(&subscribe(version, topic)).await.is_ok();
    let answer = if sent { link.packet().await } else { None };
    answer.is_some_and(|packet| packet[0] == 0x90)
}

/// Device `a` can speak to itself below `devices/a/`; what it says to `b` does not arrive, and `b` hears nothing of it, whatever it
/// subscribes to.
pub(crate) async fn each_has_its_own_topics(gate: &Gate, version: Version, a: &str, b: &str) {
    let topic = |name: &str| format!("devices/{name}/x");
    // b listens to all that it may; a broker that closes for too much has it come back for its own.
    let mut hears = linked(gate, b, version).await;
    for wish in [
        "#".to_owned(),
        format!("devices/{a}/#"),
        "devices/+/x".to_owned(),
    ] {
        if !tries(&mut hears, version, &wish).await {
            hears = linked(gate, b, version).await;
        }
    }
    assert!(
        tries(&mut hears, version, &format!("devices/{b}/#")).await,
        "{version}: its own"
    );

    let mut speaks = linked(gate, a, version).await;
    assert!(
        tries(&mut speaks, version, &format!("devices/{a}/#")).await,
        "{version}: its own"
    );
    let own = publish(version, &topic(a), b"own");
    speaks.say(&own).await.expect("sent");
    assert_eq!(
        speaks.packet().await.as_deref(),
        Some(&own[..]),
        "{version}"
    );
    let forged = publish(version, &topic(b), b"forged");
    speaks.say(&forged).await.expect("sent");
    // The broker has dealt with the forged one when it answers this, or closes for it.
    tries(&mut speaks, version, &format!("devices/{a}/y")).await;

    let mine = publish(version, &topic(b), b"mine");
    hears.say(&mine).await.expect("sent");
    assert_eq!(
        hears.packet().await.as_deref(),
        Some(&mine[..]),
        "{version}: nobody else's"
    );
}

/// A CONNECT with a username, and perhaps a password.
fn named(name: &str, password: Option<&str>) -> Connect {
    let mut asks = connect(name, Version::V311);
    asks.username = Some(name.into());
    asks.password = password.map(|text| Password::new(text.into()));
    asks
}

/// A device that speaks MQTT without TLS there hears nothing of MQTT: a close, or a TLS alert.
async fn plain_is_turned_away(at: SocketAddr) {
    let mut link = Device::plain(at).dial().await.expect("a socket");
    let asks = named("meter-8", None).encode().expect("fits");
    link.say(&asks).await.expect("sent");
    let mut first = [0];
    let read = soon("the broker", link.stream.stream.read(&mut first)).await;
    let heard = read.is_ok_and(|bytes| bytes == 1).then_some(first[0]);
    assert!(matches!(heard, None | Some(0x15)), "{heard:?}");
}

fn turned_away(answer: &Answer) -> bool {
    matches!(answer, Answer::NoTls(_) | Answer::Closed)
}

// ── Mosquitto

/// `check --deployment` finds no mistake where there is none, but for these notes (docs/check.md).
fn nothing_is_warned_of(gate: &Gate, notes: &[&str]) {
    let report = Report::beside(gate);
    assert_eq!(report.ids("warning"), [""; 0]);
    assert_eq!(report.ids("note"), notes);
}

/// By a socket file there is no port to try; and applications have a listener, names and rules of their own, so that a device with
/// an application's name is nothing but a device.
#[tokio::test]
async fn mosquitto_by_a_socket_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let applications = free_port();
    for name in ["devices.acl", "applications.acl"] {
        put(
            folder.path(),
            name,
            &page(&format!("deploy/mosquitto/{name}")),
        );
    }
    let made = mosquitto::command("mosquitto_passwd")
        .args([
            "-b",
            "-c",
            &at("applications.passwd"),
            "dashboard",
            "correct horse",
        ])
        .status();
    assert!(made.expect("mosquitto_passwd runs").success());
    let own = at("");
    let socket = at("gate.sock");
    let config = deployed(
        "deploy/mosquitto/socket.conf",
        &[
            ("/run/mosquitto/gate.sock", &socket),
            ("/etc/mosquitto/", &own),
        ],
    ) + &deployed(
        "deploy/mosquitto/applications.conf",
        &[
            ("/etc/mosquitto/", &own),
            (
                "1884 127.0.0.1",
                &format!("{} 127.0.0.1", applications.port()),
            ),
        ],
    );
    let broker = Mosquitto::start_as(folder, &config, &format!("unix://{socket}")).await;
    let gate = Gate::plan(Plan {
        addresses: Some(format!("[\"{}\"]", broker.address())),
        ..Plan::default()
    })
    .await;
    gate.metric_becomes("tidegate_broker_up", &[], 1.0).await;
    nothing_is_warned_of(&gate, &[]);

    for version in Version::ALL {
        each_has_its_own_topics(&gate, version, "meter-7", "meter-8").await;
        each_has_its_own_topics(&gate, version, "meter-7", "dashboard").await;
    }

    let application = Device::plain(applications);
    for asks in [
        named("meter-7", None),
        named("dashboard", None),
        named("dashboard", Some("battery staple")),
    ] {
        assert_eq!(
            application.asks(&asks).await.0,
            Answer::Refused(0x05),
            "{asks:?}"
        );
    }
    let (answer, link) = application
        .asks(&named("dashboard", Some("correct horse")))
        .await;
    assert_eq!(answer, Answer::Admitted);
    let mut dashboard = link.expect("a link");
    assert!(tries(&mut dashboard, Version::V311, "devices/#").await);
    let says = publish(Version::V311, "devices/meter-7/x", b"1 kWh");
    let mut device = linked(&gate, "meter-7", Version::V311).await;
    device.say(&says).await.expect("sent");
    assert_eq!(dashboard.packet().await, Some(says));
}

/// threats.md N3: over a network only the gate's certificate opens Mosquitto. A device that reaches its port gets nowhere, whatever
/// it calls itself.
#[tokio::test]
async fn mosquitto_over_a_network_takes_the_gate_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    pki_of_the_leg(folder.path());
    put(
        folder.path(),
        "devices.acl",
        &page("deploy/mosquitto/devices.acl"),
    );
    let address = free_port();
    let own = folder.path().join("").display().to_string();
    let listener = format!("listener {} 127.0.0.1\n", address.port());
    let config = deployed(
        "deploy/mosquitto/network.conf",
        &[("/etc/mosquitto/", &own), ("listener 8883\n", &listener)],
    );
    let (lines, files) = by_certificate(folder.path());
    let (ca, gates) = (
        folder.path().join("broker/ca.pem"),
        folder.path().join("gates"),
    );
    let direct = caller(address, &ca, &gates, None);
    let stolen = caller(address, &ca, &gates, Some("gate"));
    let broker = Mosquitto::start_as(folder, &config, &format!("mqtts://{address}")).await;
    let gate = Gate::plan(Plan {
        addresses: Some(format!("[\"{}\"]", broker.address())),
        broker: lines,
        files,
        ..Plan::default()
    })
    .await;
    gate.metric_becomes("tidegate_broker_up", &[], 1.0).await;
    nothing_is_warned_of(&gate, &[]);

    for version in Version::ALL {
        each_has_its_own_topics(&gate, version, "meter-7", "meter-8").await;
    }

    let asks = named("meter-8", None);
    let fleet = gate.authority.issue(Order::device_named("meter-7"));
    let with_its_own = Device::issued(address, &certificate(&ca), &fleet.expect("issued"), BOTH);
    for device in [&direct, &with_its_own] {
        let answer = device.asks(&asks).await.0;
        assert!(turned_away(&answer), "{answer:?}");
    }
    plain_is_turned_away(address).await;
    // It is the certificate that counts: whoever has the gate's key is the gate.
    assert_eq!(stolen.asks(&asks).await.0, Answer::Admitted);
}

// ── RabbitMQ

/// What RabbitMQ is to be told of the devices in `list`, and what the command said.
fn definitions(folder: &Path, list: &str) -> (bool, String, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/rabbitmq/definitions.py");
    put(folder, "list.json", list);
    let list = std::fs::File::open(folder.join("list.json")).expect("it is there");
    let run = Command::new("python3")
        .arg("-B")
        .arg(script)
        .arg("broker.secret")
        .current_dir(folder)
        .stdin(Stdio::from(list))
        .output()
        .expect("python3 runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (run.status.success(), text(run.stdout), text(run.stderr))
}

/// A registry in `folder` with these devices; gives `tidegate device list --json`.
fn registered(folder: &Path, devices: &[&str]) -> String {
    let config = "[[listener]]\nbind = \"127.0.0.1:0\"\n[listener.tls]\ncertificate = \"s.pem\"\nkey = \"s.key\"\n\
                  [[trust]]\nname = \"fleet\"\nca = \"ca.pem\"\n[registry]\nurl = \"sqlite://tidegate.db\"\n\
                  [broker]\naddresses = \"mqtt://127.0.0.1\"\n";
    put(folder, "tidegate.toml", config);
    for device in devices {
        typed(&format!("device add {device} --trust fleet"), folder);
    }
    let list = typed("device list --json", folder);
    std::fs::remove_file(folder.join("tidegate.toml")).expect("it was there");
    list
}

/// Tells RabbitMQ of these devices, as docs/brokers.md says: its files go into `folder`, where `broker.secret` and the leg's certificates
/// are. Gives its settings.
pub(crate) fn rabbitmq_for(folder: &Path, devices: &[&str], address: SocketAddr) -> String {
    let (good, text, complaint) = definitions(folder, &registered(folder, devices));
    assert!(good, "{complaint}");
    let mut told: Value = serde_json::from_str(&text).expect("JSON");
    // Only for the tests, which ask RabbitMQ whether it is up.
    let guest = serde_json::json!({"name": "guest", "password": "guest", "tags": "administrator"});
    told["users"].as_array_mut().expect("users").push(guest);
    put(folder, "definitions.json", &told.to_string());
    let own = folder.join("").display().to_string();
    let bind = format!("mqtt.listeners.ssl.default = {address}");
    deployed(
        "deploy/rabbitmq/rabbitmq.conf",
        &[
            ("/etc/rabbitmq/", &own),
            ("mqtt.listeners.ssl.default = 8883", &bind),
        ],
    )
}

/// RabbitMQ knows the devices by name, and believes a name only with the password that the gate alone has; only who shows the
/// gate's certificate may try (threats.md N3).
#[tokio::test]
async fn rabbitmq_takes_the_gate_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    pki_of_the_leg(folder.path());
    put(folder.path(), "broker.secret", "correct horse\n");
    let address = free_port();
    let settings = rabbitmq_for(folder.path(), &["meter-7", "meter-8"], address);
    assert_eq!(
        page("deploy/rabbitmq/enabled_plugins"),
        "[rabbitmq_mqtt].\n"
    );
    let (lines, mut files) = by_certificate(folder.path());
    files.push((
        "broker.secret".into(),
        read(&folder.path().join("broker.secret")),
    ));
    let (ca, gates) = (
        folder.path().join("broker/ca.pem"),
        folder.path().join("gates"),
    );
    let direct = caller(address, &ca, &gates, None);
    let stolen = caller(address, &ca, &gates, Some("gate"));
    let rabbit = RabbitMq::start_as(folder, &settings, address).await;
    let gate = Gate::plan(Plan {
        addresses: Some(format!("[\"mqtts://{address}\"]")),
        broker: lines,
        trust: "pattern = '(?<device>[A-Za-z0-9_-]+)'\n".into(),
        more: "[connect]\npassword_file = \"broker.secret\"\n".into(),
        files,
        ..Plan::default()
    })
    .await;
    gate.metric_becomes("tidegate_broker_up", &[], 1.0).await;
    nothing_is_warned_of(&gate, &["broker_refuses"]);

    each_has_its_own_topics(&gate, Version::V311, "meter-7", "meter-8").await;

    // RabbitMQ takes a dot for a slash in topics, and for any character in rules: such a device does not come that far.
    let dotted = gate.device("meter.7").connects_as("x", Version::V311).await;
    assert_eq!(dotted, Answer::Refused(0x05));
    gate.refusal("identity_not_matched").await;
    // A device that the gate would admit, and RabbitMQ does not know.
    let unknown = gate.device("meter-9").connects_as("x", Version::V311).await;
    assert!(
        matches!(unknown, Answer::Refused(0x04 | 0x05)),
        "{unknown:?}"
    );

    let answer = direct
        .asks(&named("meter-8", Some("correct horse")))
        .await
        .0;
    assert!(turned_away(&answer), "{answer:?}");
    plain_is_turned_away(address).await;
    for password in [None, Some("battery staple")] {
        let answer = stolen.asks(&named("meter-8", password)).await.0;
        assert!(
            matches!(answer, Answer::Refused(0x04 | 0x05)),
            "{password:?}: {answer:?}"
        );
    }
    drop(rabbit);
}

/// A name that RabbitMQ would read as a pattern is told of, and nothing is written.
#[test]
fn rabbitmq_is_told_of_no_name_that_it_would_read_as_a_pattern() {
    let folder = tempfile::tempdir().expect("a folder");
    put(folder.path(), "broker.secret", "correct horse\n");
    let list = registered(folder.path(), &["meter-7", "meter..8"]);

    let (good, text, complaint) = definitions(folder.path(), &list);

    assert!(!good && text.is_empty(), "{text}");
    assert!(
        complaint.contains("meter..8") && !complaint.contains("meter-7"),
        "{complaint}"
    );
}

// ── docker compose

/// The commands of the one-shot services of a compose file, in their order.
fn one_shots(path: &str) -> Vec<Vec<String>> {
    let text = page(path).replace("${TIDEGATE_NAME:-gate.example.net}", "gate.example.net");
    let commands = text.lines().filter_map(|line| {
        let list = line.trim().strip_prefix("command: [")?.strip_suffix(']')?;
        let words = list
            .split(", ")
            .map(|word| word.trim_matches('"').to_owned());
        Some(words.collect::<Vec<_>>())
    });
    commands
        .filter(|words| ["ca", "device"].contains(&words[0].as_str()))
        .collect()
}

/// Runs the one-shot services of these files, `/pki` being in `folder`; twice, as at a second `up`.
fn certificates_are_made(folder: &Path, files: &[&str]) {
    let commands: Vec<_> = files.iter().flat_map(|path| one_shots(path)).collect();
    assert!(commands.len() > 2, "{commands:?}");
    for _ in 0..2 {
        for command in &commands {
            let words: Vec<_> = command
                .iter()
                .map(|word| word.replace("/pki", "pki"))
                .collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let (code, told, complaint) = tidegate(&words, folder);
            assert_eq!(code, 0, "{words:?}: {told}{complaint}");
        }
    }
}

/// The gate of a compose file: its own configuration, with paths and ports of this test.
async fn composed(config: &str, folder: &Path, broker: (&str, &str)) -> Gate {
    let pki = format!("\"{}/", folder.join("pki").display());
    let config = deployed(
        config,
        &[
            ("\"/pki/", &pki),
            ("0.0.0.0:8883", "127.0.0.1:0"),
            ("0.0.0.0:9883", "127.0.0.1:0"),
            broker,
        ],
    );
    let gate = Gate::plan(Plan {
        config: Some(config),
        ..Plan::default()
    })
    .await;
    gate.metric_becomes("tidegate_broker_up", &[], 1.0).await;
    gate
}

/// The device that compose makes comes in at the gate that compose starts, and speaks to itself.
async fn its_device_comes_in(gate: &Gate, folder: &Path) {
    let (ca, devices) = (folder.join("pki/ca/ca.pem"), folder.join("pki/devices"));
    let device = caller(gate.address(), &ca, &devices, Some("meter-7"));
    let (answer, link) = device.asks(&connect("x", Version::V5)).await;
    assert_eq!(answer, Answer::Admitted);
    let mut link = link.expect("a link");
    assert!(tries(&mut link, Version::V5, "devices/meter-7/#").await);
    let says = publish(Version::V5, "devices/meter-7/x", b"1 kWh");
    link.say(&says).await.expect("sent");
    assert_eq!(link.packet().await, Some(says));
    let stranger = caller(gate.address(), &ca, &devices, None);
    assert!(turned_away(&stranger.connects_as("x", Version::V5).await));
    let address = gate.admin.to_string();
    typed(&format!("healthcheck --address {address}"), folder);
}

/// The image that compose starts, and that the others name, is the one that docs/packages.md has made.
#[test]
fn the_image_has_one_name() {
    let version = env!("CARGO_PKG_VERSION");
    let image = format!("tidegate:{version}");
    for (path, words) in [
        (
            "deploy/compose/common.yaml",
            format!("${{TIDEGATE_IMAGE:-{image}}}"),
        ),
        (
            "deploy/compose/mosquitto.yaml",
            format!("${{TIDEGATE_IMAGE:-{image}}}"),
        ),
        (
            "deploy/compose/emqx.yaml",
            format!("${{TIDEGATE_IMAGE:-{image}}}"),
        ),
        (
            "deploy/compose/README.md",
            format!("TIDEGATE_IMAGE={image}\n"),
        ),
        (
            "deploy/kubernetes/base/kustomization.yaml",
            format!("newTag: {version:?}"),
        ),
        (
            "deploy/helm/tidegate/Chart.yaml",
            format!("appVersion: {version:?}"),
        ),
        (
            "deploy/image/Dockerfile",
            format!("--build-arg VERSION={version} --tag {image} "),
        ),
        (
            "docs/packages.md",
            format!("--build-arg VERSION={version} --tag {image} "),
        ),
        ("docs/packages.md", format!("ro {image}\n")),
        ("deploy/package", "tag=\"tidegate:$version\"".to_owned()),
    ] {
        assert!(page(path).contains(&words), "{path} has no {words}");
        assert!(!page(path).contains("tidegate:latest"), "{path}");
    }
}

fn folder_with(acl: bool) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    if acl {
        put(
            folder.path(),
            "devices.acl",
            &page("deploy/mosquitto/devices.acl"),
        );
    }
    folder
}

/// compose/mosquitto.yaml, without containers: its certificates, its Mosquitto and its gate.
#[tokio::test]
async fn compose_in_front_of_mosquitto() {
    let (folder, brokers) = (folder_with(false), folder_with(true));
    certificates_are_made(folder.path(), &["deploy/compose/common.yaml"]);
    let socket = brokers.path().join("gate.sock").display().to_string();
    let own = brokers.path().join("").display().to_string();
    let config = deployed(
        "deploy/mosquitto/socket.conf",
        &[
            ("/run/mosquitto/gate.sock", &socket),
            ("/etc/mosquitto/", &own),
        ],
    );
    let _broker = Mosquitto::start_as(brokers, &config, &format!("unix://{socket}")).await;
    let path = "deploy/compose/mosquitto/tidegate.toml";
    let gate = composed(path, folder.path(), ("/run/mosquitto/gate.sock", &socket)).await;

    its_device_comes_in(&gate, folder.path()).await;

    // Its health check, as compose types it.
    let checked = mosquitto::command("mosquitto_pub")
        .args(["--unix", &socket, "-i", "healthcheck", "-u", "healthcheck"])
        .args(["-t", "devices/healthcheck/alive", "-n", "-q", "1"])
        .status();
    assert!(checked.expect("mosquitto_pub runs").success());
}

/// compose/emqx.yaml, without containers and with Mosquitto in EMQX's place: its certificates, and its gate.
#[tokio::test]
async fn compose_in_front_of_a_broker_with_tls() {
    let (folder, brokers) = (folder_with(false), folder_with(true));
    let files = ["deploy/compose/common.yaml", "deploy/compose/emqx.yaml"];
    certificates_are_made(folder.path(), &files);
    let pki = folder.path().join("pki");
    let address = free_port();
    let at = |name: &str| pki.join(name).display().to_string();
    let config = deployed(
        "deploy/mosquitto/network.conf",
        &[
            (
                "listener 8883\n",
                &format!("listener {} 127.0.0.1\n", address.port()),
            ),
            ("/etc/mosquitto/gates-ca.pem", &at("gates/ca.pem")),
            ("/etc/mosquitto/broker.pem", &at("broker/server.pem")),
            ("/etc/mosquitto/broker.key", &at("broker/server.key")),
            (
                "/etc/mosquitto/",
                &brokers.path().join("").display().to_string(),
            ),
        ],
    );
    let _broker = Mosquitto::start_as(brokers, &config, &format!("mqtts://{address}")).await;
    // The name that the certificate is for is the container's.
    let dialled = format!("\"mqtts://{address}\"]\n\n[broker.tls]\nserver_name = \"broker\"\n#");
    let path = "deploy/compose/emqx/tidegate.toml";
    let config = page(path);
    let before = "\"mqtts://broker:8883\"]\n\n[broker.tls]\n";
    assert!(config.contains(before));
    let gate = composed(path, folder.path(), (before, &dialled.replace("\n#", "\n"))).await;

    its_device_comes_in(&gate, folder.path()).await;
}
