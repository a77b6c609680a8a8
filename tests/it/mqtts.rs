//! `mqtts://`: TLS towards the broker, which judges the gate as the gate judges it (threats.md N3).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rcgen::ExtendedKeyUsagePurpose;
use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};
use tempfile::TempDir;
use tidegate::mqtt::Version;
use tidegate::pki::{Authority, Issued, Order, Validity};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::broker::{Broker, publish};
use crate::support::device::{Answer, BOTH, Link, connect};
use crate::support::gate::{Gate, Plan, lay_out, tidegate};
use crate::support::mosquitto::Mosquitto;
use crate::support::secure::{SecureBroker, SecureVisit};
use crate::support::wire::packet;
use crate::support::{free_port, soon, until};

/// Whose word counts between a gate and its brokers.
struct Site {
    brokers: Authority,
    gates: Authority,
    gate: Issued,
}

impl Site {
    fn new() -> Self {
        let gates = Authority::new("Gate CA").expect("a CA");
        Self {
            brokers: Authority::new("Broker CA").expect("a CA"),
            gate: gates.issue(gate_order()).expect("issued"),
            gates,
        }
    }

    fn broker(&self) -> Issued {
        let names = ["broker.internal", "127.0.0.1"];
        self.brokers.server(&names).expect("issued")
    }

    /// A gate in front of these addresses, with `tls` as lines of `[broker.tls]` behind `ca`.
    fn plan(&self, addresses: &[String], tls: &str) -> Plan {
        let files = [
            ("broker-ca.pem", self.brokers.certificate_pem().to_owned()),
            ("gate.pem", self.gate.chain_pem()),
            ("gate.key", self.gate.key_pem().to_string()),
        ];
        Plan {
            addresses: Some(format!("{addresses:?}")),
            broker: format!(
                "[broker.health]\ninterval = \"1h\"\n[broker.tls]\nca = \"broker-ca.pem\"\n{tls}\n"
            ),
            files: files
                .map(|(name, text)| (name.to_owned(), text.into_bytes()))
                .into(),
            ..Plan::default()
        }
    }

    async fn in_front_of(&self, broker: &SecureBroker) -> Gate {
        let gate = Gate::plan(self.plan(&[address(broker.address)], OWN)).await;
        gate.metric_becomes("tidegate_broker_up", &[], 1.0).await;
        gate
    }
}

/// The lines that name the gate's own certificate.
const OWN: &str = "certificate = \"gate.pem\"\nkey = \"gate.key\"";

fn gate_order() -> Order {
    Order::device_named("tidegate").purposes(vec![ExtendedKeyUsagePurpose::ClientAuth])
}

fn address(address: SocketAddr) -> String {
    format!("mqtts://{address}")
}

async fn linked(gate: &Gate, broker: &SecureBroker, version: Version) -> (Link, SecureVisit) {
    let device = gate.device("meter-7");
    let asks = connect("x", version);
    let ((answer, link), visit) = tokio::join!(device.asks(&asks), broker.welcome());
    assert_eq!(answer, Answer::Admitted);
    (link.expect("admitted"), visit)
}

// ── real brokers

/// A Mosquitto with a TLS listener beside its plain one; `more`: further lines of the TLS listener.
async fn mosquitto(site: &Site, more: &str) -> (Mosquitto, String, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let own = site.broker();
    let put = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let (ca, certificate, key) = (
        put("ca.pem", site.gates.certificate_pem()),
        put("broker.pem", &own.chain_pem()),
        put("broker.key", &own.key_pem()),
    );
    let at = free_port();
    let lines = format!(
        "listener {} 127.0.0.1\ncafile {ca}\ncertfile {certificate}\nkeyfile {key}\n{more}\n",
        at.port()
    );
    (Mosquitto::start_with(&lines).await, address(at), folder)
}

/// Subscribes to its own topic, says `payload` there and hears it.
async fn speaks_to_itself(link: &mut Link, version: Version, payload: &[u8]) {
    let topic = "devices/meter-7/x";
    let mut body = vec![0, 1];
    if version == Version::V5 {
        body.push(0);
    }
    body.extend_from_slice(&u16::try_from(topic.len()).expect("short").to_be_bytes());
    body.extend_from_slice(topic.as_bytes());
    body.push(0);
    link.say(&packet(0x82, &body)).await.expect("sent");
    assert_eq!(link.packet().await.expect("a SUBACK")[0], 0x90);
    let says = publish(version, topic, payload);
    let heard = async {
        link.say(&says).await.expect("sent");
        link.packet().await
    };
    assert!(heard.await.as_ref() == Some(&says), "{version}");
}

#[tokio::test]
async fn mosquitto_is_spoken_to_over_tls_with_and_without_a_certificate() {
    let site = Site::new();
    for (more, tls) in [
        ("require_certificate false", ""),
        ("require_certificate true", OWN),
        ("require_certificate true\ntls_version tlsv1.3", OWN),
        (
            "require_certificate true\nciphers ECDHE-ECDSA-AES128-GCM-SHA256\ntls_version tlsv1.2",
            OWN,
        ),
    ] {
        let (_mosquitto, address, _folder) = mosquitto(&site, more).await;
        let gate = Gate::plan(site.plan(std::slice::from_ref(&address), tls)).await;
        for version in Version::ALL {
            let (answer, link) = gate.device("meter-7").asks(&connect("x", version)).await;
            assert_eq!(answer, Answer::Admitted, "{more} {version}");
            let mut link = link.expect("admitted");
            speaks_to_itself(&mut link, version, b"hello").await;
            let megabyte: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
            speaks_to_itself(&mut link, version, &megabyte).await;
        }
        let line = gate.line("closed", |_| true).await;
        assert_eq!(line["broker"], address);
    }
}

/// The gate shows nothing, and Mosquitto wants a certificate: whatever the version of TLS, the device is to come back, and the
/// operator is told what is missing.
#[tokio::test]
async fn a_broker_that_wants_a_certificate_says_so() {
    let site = Site::new();
    let words = "broker.tls.certificate";
    let (_mosquitto, address, _folder) = mosquitto(&site, "require_certificate true").await;
    let gate = Gate::plan(site.plan(&[address], "")).await;
    for version in Version::ALL {
        let answer = gate.device("meter-7").connects_as("x", version).await;
        assert_eq!(answer, not_now(version), "{version}");
    }
    // TLS 1.3: the broker judges after the handshake.
    let line = gate.refusal("broker_closed").await;
    assert!(
        line["why"].as_str().expect("text").contains(words),
        "{line}"
    );

    let broker = SecureBroker::start(&site.broker(), Some(&site.gates), &[&TLS12]).await;
    let gate = Gate::plan(site.plan(&[crate::mqtts::address(broker.address)], "")).await;
    let answer = gate.device("meter-7").connects_as("x", Version::V5).await;
    assert_eq!(answer, not_now(Version::V5));
    let line = gate.refusal("broker_away").await;
    assert!(
        line["why"].as_str().expect("text").contains(words),
        "{line}"
    );
    let failed = [("result", "tls_failed")];
    gate.metric_becomes("tidegate_broker_dials_total", &failed, 1.0)
        .await;
}

#[tokio::test]
async fn a_mosquitto_that_is_killed_amid_traffic_is_a_broker_that_is_lost() {
    let site = Site::new();
    let (mut mosquitto, address, _folder) = mosquitto(&site, "require_certificate true").await;
    let gate = Gate::plan(site.plan(&[address], OWN)).await;
    let (answer, link) = gate
        .device("meter-7")
        .asks(&connect("x", Version::V5))
        .await;
    assert_eq!(answer, Answer::Admitted);
    let mut link = link.expect("admitted");
    speaks_to_itself(&mut link, Version::V5, b"hello").await;
    let talk = tokio::spawn(async move {
        let says = publish(Version::V5, "devices/meter-7/x", &[0; 5000]);
        while link.say(&says).await.is_ok() && link.packet().await.is_some() {}
    });
    until("traffic", async || {
        let bytes = gate.metric("tidegate_relayed_bytes_total", &[]).await;
        (bytes > 100_000.0).then_some(())
    })
    .await;
    mosquitto.kill();
    soon("the device to see the end", talk)
        .await
        .expect("no panic");
    let line = gate.line("closed", |_| true).await;
    let reason = line["reason"].as_str().expect("text");
    assert!(matches!(reason, "broker_lost" | "broker_closed"), "{line}");

    mosquitto.come_back().await;
    let answer = gate.device("meter-7").connects_as("x", Version::V5).await;
    assert_eq!(answer, Answer::Admitted);
}

// ── what is not trusted

fn not_now(version: Version) -> Answer {
    Answer::Refused(if version == Version::V5 { 0x88 } else { 0x03 })
}

/// Each is trouble of ours: no byte of the CONNECT is sent, the next broker is tried, and the log says what to mend.
#[tokio::test]
async fn a_broker_that_is_not_who_it_should_be_hears_no_connect() {
    let site = Site::new();
    let other = Authority::new("Other CA").expect("a CA");
    let renewed = Authority::new("Broker CA").expect("another key");
    let day = 24 * 3600;
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let valid = |not_before, not_after| {
        let order = Order::server(&["127.0.0.1"]).expect("names");
        let validity = Validity {
            not_before,
            not_after,
        };
        site.brokers.issue(order.valid(validity)).expect("issued")
    };
    let server = |names: &[&str]| site.brokers.server(names).expect("issued");
    let cases = [
        (
            other.server(&["127.0.0.1"]).expect("issued"),
            "",
            "no CA in broker.tls.ca",
        ),
        (
            renewed.server(&["127.0.0.1"]).expect("issued"),
            "",
            "a CA in broker.tls.ca has the name of the one",
        ),
        (
            valid(now - 2 * day, now - day),
            "",
            "its certificate ended on ",
        ),
        (
            valid(now + day, now + 2 * day),
            "",
            "its certificate begins on ",
        ),
        (
            server(&["broker.internal"]),
            "",
            "is not for 127.0.0.1, but for broker.internal; write",
        ),
        (
            server(&["127.0.0.1"]),
            "server_name = \"broker.internal\"",
            "is not for broker.internal, but for 127.0.0.1; write",
        ),
        (
            site.brokers
                .issue(gate_order().ip([127, 0, 0, 1].into()))
                .expect("issued"),
            "",
            "not one for servers",
        ),
    ];
    for (own, tls, words) in cases {
        let broker = SecureBroker::start(&own, None, BOTH).await;
        let address = address(broker.address);
        let plan = site.plan(std::slice::from_ref(&address), tls);
        let gate = Gate::plan(plan).await;
        for version in Version::ALL {
            let answer = gate.device("meter-7").connects_as("x", version).await;
            assert_eq!(answer, not_now(version), "{words}");
        }
        for line in [
            gate.refusal("broker_away").await,
            gate.line("broker_down", |_| true).await,
        ] {
            let why = line["why"].as_str().expect("text");
            assert!(why.contains(words), "{words}: {line}");
        }
        let failed = [("result", "tls_failed")];
        gate.metric_becomes("tidegate_broker_dials_total", &failed, 3.0)
            .await;
        assert_eq!(broker.handshakes(), []);

        // The next broker is tried.
        let good =
            SecureBroker::start(&server(&["127.0.0.1", "broker.internal"]), None, BOTH).await;
        let gate =
            Gate::plan(site.plan(&[address, crate::mqtts::address(good.address)], tls)).await;
        let (_link, visit) = linked(&gate, &good, Version::V311).await;
        assert_eq!(visit.connect.client_id, "meter-7");
    }
}

/// The gate's own certificate for brokers, and their CA, end while it runs: it is told by then, and not only at the start.
#[tokio::test]
async fn what_ends_of_the_tls_to_brokers_is_told_when_it_does() {
    let mut site = Site::new();
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let validity = Validity {
        not_before: now - 60,
        not_after: now + 8,
    };
    site.gate = site
        .gates
        .issue(gate_order().valid(validity))
        .expect("issued");
    let broker = SecureBroker::start(&site.broker(), None, BOTH).await;
    let mut plan = site.plan(&[address(broker.address)], OWN);
    plan.broker = plan.broker.replace("\"1h\"", "\"100ms\"");
    let gate = Gate::plan(plan).await;
    let told = |event| {
        let lines = gate.lines(event).into_iter();
        let whys = lines.map(|line| line["why"].as_str().expect("text").to_owned());
        whys.filter(|why| why.starts_with("broker.tls.certificate: "))
            .collect::<Vec<_>>()
    };
    assert!(told("configuration")[0].contains("ends on"));
    assert_eq!(told("lapsed"), [""; 0]);

    let line = gate.line("lapsed", |_| true).await;

    assert_eq!(line["level"], "warn");
    let told = told("lapsed");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("ended on") && told[0].contains("brokers refuse it"),
        "{told:?}"
    );
}

/// When the gate's certificate for brokers, their CA and the devices' CA end is a metric, by file and by group; what a reload takes out is not told any more.
#[tokio::test]
async fn when_what_brokers_and_devices_are_judged_by_ends_is_a_metric() {
    let mut site = Site::new();
    let validity = Validity::days(40);
    let gate_order = gate_order().valid(validity);
    site.gate = site.gates.issue(gate_order).expect("issued");
    let broker = SecureBroker::start(&site.broker(), None, BOTH).await;
    let gate = Gate::plan(site.plan(&[address(broker.address)], OWN)).await;
    let family = "tidegate_certificate_not_after_timestamp_seconds";
    let end = |certificate: &[u8]| {
        let read = tidegate::rules::identity::Certificate::read(certificate);
        read.expect("a certificate").not_after
    };
    for (whose, name, ends) in [
        ("broker_client", "gate.pem", end(site.gate.certificate())),
        (
            "broker_ca",
            "broker-ca.pem",
            end(site.brokers.certificate()),
        ),
        ("trust_ca", "fleet", end(gate.authority.certificate())),
    ] {
        let told = gate.metric(family, &[("use", whose), ("name", name)]).await;
        assert_eq!(told as i64, ends, "{whose}");
    }

    // Renewed, it has another end; and without [broker.tls] there is none.
    let longer = self::gate_order().valid(Validity::days(80));
    let renewed = site.gates.issue(longer).expect("issued");
    std::fs::write(gate.file("gate.pem"), renewed.chain_pem()).expect("written");
    std::fs::write(gate.file("gate.key"), &*renewed.key_pem()).expect("written");
    let labels = [("use", "broker_client"), ("name", "gate.pem")];
    gate.metric_becomes(family, &labels, end(renewed.certificate()) as f64)
        .await;
    let file = gate.file("tidegate.toml");
    let text = std::fs::read_to_string(&file).expect("its file");
    let (head, rest) = text.split_once("[broker.tls]").expect("it is there");
    let (_, tail) = rest.split_once("\n[").expect("a section behind it");
    let text = format!("{head}[{tail}").replace("mqtts://", "mqtt://");
    std::fs::write(file, text).expect("written");
    until(
        "the brokers' certificates to leave the metrics",
        async || {
            let told = gate.metrics().await;
            let is_of = |whose: &str| {
                told.lines()
                    .any(|line| line.starts_with(family) && line.contains(whose))
            };
            (!is_of("broker_client") && !is_of("broker_ca") && is_of("trust_ca")).then_some(())
        },
    )
    .await;
}

/// A port without TLS, one that talks garbage, and one that takes the connection and says no more.
#[tokio::test]
async fn what_speaks_no_tls_is_passed_over_in_time() {
    let site = Site::new();
    let good = SecureBroker::start(&site.broker(), None, BOTH).await;
    let plain = Mosquitto::start().await;
    let garbage = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = |listener: &TcpListener| address(listener.local_addr().expect("bound"));
    let (talks, silent_at) = (at(&garbage), at(&silent));
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = garbage.accept().await {
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            tokio::spawn(async move { while let Ok(1..) = socket.read(&mut [0; 512]).await {} });
        }
    });
    for (bad, result) in [
        (plain.address().replace("mqtt:", "mqtts:"), "tls_failed"),
        (talks, "tls_failed"),
        (silent_at, "timeout"),
    ] {
        let mut plan = site.plan(&[bad.clone(), address(good.address)], "");
        plan.broker = format!("dial_timeout = \"600ms\"\n{}", plan.broker);
        let gate = Gate::plan(plan).await;
        // Before the good one has answered its first probe, too.
        let (_link, _visit) = linked(&gate, &good, Version::V5).await;
        gate.metric_becomes("tidegate_broker_up", &[], 1.0).await;
        let (_link, _visit) = linked(&gate, &good, Version::V5).await;

        let mut plan = site.plan(std::slice::from_ref(&bad), "");
        plan.broker = format!("dial_timeout = \"600ms\"\n{}", plan.broker);
        let gate = Gate::plan(plan).await;
        let answer = gate.device("meter-7").connects_as("x", Version::V5).await;
        assert_eq!(answer, not_now(Version::V5), "{bad}");
        gate.refusal("broker_away").await;
        let dials = "tidegate_broker_dials_total";
        gate.metric_becomes(dials, &[("result", result)], 1.0).await;
    }
    drop(silent);
}

// ── sessions

/// The probe brings the first session; from then on every link resumes one, whatever worker it is on.
#[tokio::test]
async fn sessions_with_a_broker_are_resumed() {
    let site = Site::new();
    for versions in [&[&TLS13][..], &[&TLS12]] {
        let broker = SecureBroker::start(&site.broker(), Some(&site.gates), versions).await;
        let gate = site.in_front_of(&broker).await;
        for version in Version::ALL.iter().cycle().take(8) {
            drop(linked(&gate, &broker, *version).await);
        }
        let kinds = broker.handshakes();
        assert_eq!(kinds.len(), 9, "{kinds:?}");
        let resumed = |kind: &&HandshakeKind| **kind == HandshakeKind::Resumed;
        // Of TLS 1.3 the probe's tickets went unread, so the first link begins anew.
        assert!(kinds.iter().filter(resumed).count() >= 7, "{kinds:?}");
        assert!(kinds[2..].iter().all(|kind| resumed(&kind)), "{kinds:?}");
    }
}

// ── the stream

/// What each side says goes through to the byte, and so does its end.
#[tokio::test]
async fn both_sides_close_in_their_own_time_over_tls() {
    let site = Site::new();
    for versions in [&[&TLS13][..], &[&TLS12]] {
        let broker = SecureBroker::start(&site.broker(), Some(&site.gates), versions).await;
        let gate = site.in_front_of(&broker).await;
        let (mut link, mut visit) = linked(&gate, &broker, Version::V311).await;
        let last = publish(Version::V311, "a", &vec![7; 300_000]);
        link.say(&last).await.expect("sent");
        link.close_write().await;
        assert!(visit.packet().await.as_ref() == Some(&last));
        // rustls takes a stream without close_notify for a fault.
        let end = visit.socket.stream.read(&mut [0; 8]).await;
        assert!(matches!(end, Ok(0)), "{end:?}");
        visit.say(&last).await;
        assert!(link.packet().await.as_ref() == Some(&last));
        visit.socket.stream.shutdown().await.expect("its end");
        assert_eq!(link.packet().await, None);
        let line = gate.line("closed", |_| true).await;
        assert_eq!(line["reason"], "device_closed");
    }
}

#[tokio::test]
async fn a_broker_that_stops_reading_over_tls_stops_its_device() {
    const FLOOD: usize = 64 << 20;
    let site = Site::new();
    let broker = SecureBroker::start(&site.broker(), None, BOTH).await;
    let gate = site.in_front_of(&broker).await;
    for to_broker in [true, false] {
        let (link, visit) = linked(&gate, &broker, Version::V311).await;
        let bytes = Arc::new(flood(FLOOD));
        let before = gate.proc_status("VmRSS");
        let written = Arc::new(AtomicUsize::new(0));
        let (all, counted) = (bytes.clone(), written.clone());
        let (device, at_broker) = (link.stream.stream, visit.socket.stream);
        let (mut writer, mut reader): (
            Box<dyn crate::support::device::Stream>,
            Box<dyn crate::support::device::Stream>,
        ) = if to_broker {
            (device, Box::new(at_broker))
        } else {
            (Box::new(at_broker), device)
        };
        let writing = tokio::spawn(async move {
            for chunk in all.chunks(16 * 1024) {
                writer.write_all(chunk).await.expect("taken");
                counted.fetch_add(chunk.len(), Ordering::Relaxed);
            }
            writer.shutdown().await.expect("its end");
            writer
        });
        let mut seen = 0;
        until("the writer to stand still", async || {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let now = written.load(Ordering::Relaxed);
            let still = now > 0 && now == seen;
            seen = now;
            still.then_some(())
        })
        .await;
        assert!(seen < FLOOD, "the writer was stopped");
        let during = gate.proc_status("VmRSS");
        assert!(during < before + 4096, "{before} kB, then {during} kB");
        let mut came = Vec::with_capacity(FLOOD);
        let reading = tokio::time::timeout(Duration::from_secs(60), reader.read_to_end(&mut came));
        reading.await.expect("in time").expect("a proper end");
        assert!(came == *bytes, "{} of {FLOOD} bytes", came.len());
        drop(reader);
        drop(soon("the writer to end", writing).await.expect("no panic"));
    }
}

/// PUBLISH packets of 1 MB, `total` bytes or a little more.
fn flood(total: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut n = 0_u8;
    while bytes.len() < total {
        bytes.extend(publish(Version::V311, "a", &vec![n; 1_000_000]));
        n = n.wrapping_add(1);
    }
    bytes
}

#[tokio::test]
async fn a_broker_whose_tls_breaks_is_lost_and_what_it_said_before_arrives() {
    let site = Site::new();
    let broker = SecureBroker::start(&site.broker(), None, BOTH).await;
    let gate = site.in_front_of(&broker).await;
    let (mut link, mut visit) = linked(&gate, &broker, Version::V311).await;
    let said = publish(Version::V311, "a", b"whole");
    visit.say(&said).await;
    let (socket, _) = visit.socket.stream.get_mut();
    socket.write_all(&[0x99; 100]).await.expect("sent");
    assert_eq!(link.packet().await, Some(said));
    assert_eq!(link.packet().await, None);
    let line = gate.line("closed", |_| true).await;
    assert_eq!(line["reason"], "broker_lost");
    assert!(
        line["why"].as_str().expect("text").contains("no TLS"),
        "{line}"
    );
}

// ── the operator

#[tokio::test]
async fn a_sidecar_speaks_tls_by_flags_alone() {
    let site = Site::new();
    let broker = SecureBroker::start(&site.broker(), Some(&site.gates), BOTH).await;
    let flags = format!(
        "--listen 127.0.0.1:0 --mode mutual-tls --certificate server.pem --key server.key --client-ca ca.pem \
         --broker mqtts://localhost:{} --broker-ca broker-ca.pem --broker-certificate gate.pem --broker-key gate.key \
         --broker-name broker.internal --admin 127.0.0.1:0",
        broker.address.port()
    );
    let gate = Gate::plan(Plan {
        flags: Some(flags.split_whitespace().map(str::to_owned).collect()),
        env: vec![("TIDEGATE_LOG__FORMAT".into(), "json".into())],
        ..site.plan(&[address(broker.address)], OWN)
    })
    .await;
    gate.metric_becomes("tidegate_broker_up", &[], 1.0).await; // its name is known
    let (_link, visit) = linked(&gate, &broker, Version::V311).await;
    assert_eq!(visit.connect.client_id, "meter-7");
}

/// What `check` tells of the files, `run` tells, too.
#[tokio::test]
async fn the_gates_own_certificate_is_looked_after() {
    let mut site = Site::new();
    let soon_over = gate_order().valid(Validity::days(7));
    site.gate = site.gates.issue(soon_over).expect("issued");
    let broker = Broker::start().await;
    let plan = site.plan(&[address(broker.address)], OWN);
    let (folder, _) = lay_out(&plan).await;
    let (code, out, _) = tidegate(&["check"], folder.path());
    assert_eq!(code, 0, "{out}");
    assert!(
        out.contains("warning: broker.tls.certificate: \"CN=tidegate\" ends on "),
        "{out}"
    );

    std::fs::write(folder.path().join("gate.key"), "nothing").expect("written");
    std::fs::write(folder.path().join("broker-ca.pem"), "nothing").expect("written");
    for command in ["check", "run"] {
        let (code, out, err) = tidegate(&[command], folder.path());
        let told = out + &err;
        assert_eq!(code, 2, "{told}");
        for key in ["broker.tls.ca: ", "broker.tls.key: "] {
            assert!(told.contains(key), "{command}: {told}");
        }
    }

    let gate = Gate::plan(plan).await;
    let warned = |words: &'static str| {
        let gate = &gate;
        async move {
            let told = |line: &serde_json::Value| {
                line["why"].as_str().is_some_and(|why| why.contains(words))
            };
            gate.line("configuration", told).await
        }
    };
    warned("broker.tls.certificate").await;
    let renewed = site.gates.issue(gate_order()).expect("issued");
    std::fs::write(gate.file("gate.pem"), renewed.chain_pem()).expect("written");
    std::fs::write(gate.file("gate.key"), renewed.key_pem()).expect("written");
    gate.line("reloaded", |_| true).await;
}

/// Other CAs, and another certificate of the gate: new connections are made with them, and open ones stay.
#[tokio::test]
async fn what_brokers_are_judged_by_and_shown_is_exchanged() {
    let mut site = Site::new();
    let broker = SecureBroker::start(&site.broker(), Some(&site.gates), BOTH).await;
    let gate = Gate::plan(site.plan(&[format!("mqtts://{}", broker.address)], OWN)).await;
    let device = gate.device("meter-7");
    let asks = connect("meter-7", Version::V311);
    let ((answer, link), mut visit) = tokio::join!(device.asks(&asks), broker.welcome());
    assert_eq!(answer, Answer::Admitted);
    let mut link = link.expect("admitted");

    // All of the broker's side is new: its CA, and the CA of those that it lets in.
    site.brokers = Authority::new("Other brokers").expect("a CA");
    site.gates = Authority::new("Other gates").expect("a CA");
    let other = SecureBroker::start(&site.broker(), Some(&site.gates), BOTH).await;
    let own = site.gates.issue(gate_order()).expect("issued");
    for (name, text) in [
        ("broker-ca.pem", site.brokers.certificate_pem().to_owned()),
        ("gate.pem", own.chain_pem()),
        ("gate.key", own.key_pem().to_string()),
    ] {
        std::fs::write(gate.file(name), text).expect("written");
    }
    let config = gate.file("tidegate.toml");
    let text = std::fs::read_to_string(&config).expect("its file");
    let [old, new] = [broker.address, other.address].map(|at| at.to_string());
    std::fs::write(&config, text.replace(&old, &new)).expect("written");
    gate.line("reloaded", |_| true).await;

    let ((answer, _second), _) = tokio::join!(device.asks(&asks), other.welcome());
    assert_eq!(answer, Answer::Admitted);
    link.say(&[0xc0, 0]).await.expect("it stays");
    assert_eq!(visit.packet().await, Some(vec![0xc0, 0]));
}

/// What brokers would refuse, and what no broker can be judged by, is told before anything starts.
#[tokio::test]
async fn a_server_certificate_is_no_clients_and_a_leaf_no_ca() {
    let mut site = Site::new();
    site.gate = site.gates.server(&["gate.internal"]).expect("issued");
    let leaf = site.broker().chain_pem();
    let mut plan = site.plan(&["mqtts://127.0.0.1:8884".to_owned()], OWN);
    for (name, bytes) in &mut plan.files {
        if name == "broker-ca.pem" {
            *bytes = leaf.clone().into_bytes();
        }
    }
    let (folder, _) = lay_out(&plan).await;
    let (code, out, _) = tidegate(&["check"], folder.path());
    assert_eq!(code, 0, "{out}");
    for (key, words) in [
        ("broker.tls.certificate", "is not for clients"),
        ("broker.tls.ca", "is no CA"),
    ] {
        let told = |line: &str| line.contains(key) && line.contains(words);
        assert!(out.lines().any(told), "{key} {words}: {out}");
    }
}
