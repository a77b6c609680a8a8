//! What operators rely on: the log, the metrics, the admin port (threats.md K2, N2, T3, V3, V4, V11).

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;

use futures_util::future::join_all;
use serde_json::Value;
use tidegate::mqtt::Version;
use tidegate::mqtt::connect::{Connect, Password};
use tidegate::pki::{Authority, Order};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::broker::Broker;
use crate::support::device::{Answer, BOTH, Device, connect};
use crate::support::gate::{Gate, MUTUAL, Plan, http_get, tidegate};
use crate::support::{soon, until};

/// What a device must never find in a log.
const PASSWORD: &str = "hunter2-correct-horse-battery";
/// Looks like a JWT: some fleets put theirs into the username.
const TOKEN: &str = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJtZXRlci03In0.c2lnbmF0dXJlLW9mLW5vYm9keQ";

/// Comes, is let in, and goes.
async fn come_and_go(device: Device) {
    let (answer, link) = device.asks(&connect("anybody", Version::V311)).await;
    assert_eq!(answer, Answer::Admitted);
    let mut link = link.expect("admitted");
    link.close_write().await;
    assert_eq!(link.packet().await, None);
}

async fn hundreds_come_and_go(device: &Device) {
    for _ in 0..15 {
        let wave = (0..20).map(|_| tokio::spawn(come_and_go(device.clone())));
        for gone in join_all(wave).await {
            gone.expect("let in");
        }
    }
}

// ── The log

/// V4: whoever reads the log may stop reading; no device waits for it, and the gate ends in time.
#[tokio::test]
async fn a_reader_that_does_not_read_stalls_no_device() {
    let mut gate = Gate::plan(Plan {
        log_stalls: true,
        more: "level = \"trace\"\n".into(),
        ..Plan::default()
    })
    .await;
    let _house = gate.take_broker().welcome_all();

    hundreds_come_and_go(&gate.device("meter-7")).await;

    assert_eq!(gate.admin_get("/readyz").await.0, 200);
    assert!(
        gate.lines("closed").is_empty(),
        "the reader did read after all"
    );
    gate.signal("TERM");
    assert_eq!(gate.exit().await.code(), Some(0));
}

/// V3, V4: nor does a full disk; the lines it cost are counted.
#[tokio::test]
async fn a_full_disk_stalls_no_device() {
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .expect("Linux");
    let listeners = format!("{MUTUAL}\n[[trust]]\nname = \"fleet\"\nca = [\"ca.pem\"]\n")
        .replace("127.0.0.1:0", "127.0.0.2:0"); // told apart from the admin port, for want of a log
    let mut gate = Gate::plan(Plan {
        log_to: Some(Stdio::from(full)),
        listeners: Some(listeners),
        ..Plan::default()
    })
    .await;
    let _house = gate.take_broker().welcome_all();
    let ports = until("the gate to listen", async || {
        Some(gate.listens_on()).filter(|ports| ports.len() == 2)
    })
    .await;
    gate.admin = ports[0];
    gate.addresses.insert("devices".into(), ports[1]);

    hundreds_come_and_go(&gate.device("meter-7")).await;

    until("every lost line to be counted", async || {
        let lost = gate.metric("tidegate_log_lines_lost_total", &[]).await;
        (lost >= 300.0).then_some(())
    })
    .await;
    gate.signal("TERM");
    assert_eq!(gate.exit().await.code(), Some(0));
}

/// V11: strangers cannot fill the log; what was held back is counted, and told as a number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_refusals_is_held_back_and_told() {
    let gate = Gate::start().await;
    let address = gate.address();
    let knock = move || async move {
        let mut socket = TcpStream::connect(address).await.expect("a listener");
        let _ = socket.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
        let mut scrap = [0; 16];
        let _ = soon("the gate to close", socket.read(&mut scrap)).await;
    };
    until("lines to be held back", async || {
        join_all((0..500).map(|_| tokio::spawn(knock()))).await;
        let held = gate.metric("tidegate_log_lines_suppressed_total", &[]);
        (held.await > 100.0).then_some(())
    })
    .await;
    until("the log to account for every refusal", async || {
        let lines = gate.lines("refused");
        let suppressed: u64 = gate
            .lines("suppressed")
            .iter()
            .filter_map(|line| line["suppressed"].as_u64())
            .sum();
        let told = lines.len() as u64 + suppressed;
        let refused = gate
            .metric("tidegate_refusals_total", &[("reason", "not_tls")])
            .await;
        let held = gate
            .metric("tidegate_log_lines_suppressed_total", &[])
            .await;
        let told = f64::from(u32::try_from(told).expect("a few thousand"));
        let lines = f64::from(u32::try_from(lines.len()).expect("a few thousand"));
        let all = |n: f64, of: f64| (n - of).abs() < f64::EPSILON;
        (all(told, refused) && all(lines, refused - held)).then_some(())
    })
    .await;
}

/// The keys of a line, in their order, and their values.
fn keys(line: &str) -> (Vec<String>, Value) {
    let value: Value = serde_json::from_str(line).expect("JSON");
    let mut keys: Vec<(usize, String)> = value
        .as_object()
        .expect("an object")
        .keys()
        .map(|key| {
            let at = line.find(&format!("\"{key}\":")).expect("it stands there");
            (at, key.clone())
        })
        .collect();
    keys.sort();
    (keys.into_iter().map(|(_, key)| key).collect(), value)
}

fn line_of(gate: &Gate, event: &str) -> (Vec<String>, Value) {
    let log = gate.log_text();
    let wanted = format!("\"event\":\"{event}\"");
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(&wanted)).collect();
    assert_eq!(lines.len(), 1, "one line for one connection: {lines:?}");
    keys(lines[0])
}

/// design.md §5: one line per connection, every key, in this order.
#[tokio::test]
async fn a_closed_connection_is_told_in_one_line_with_every_key() {
    let gate = Gate::plan(Plan {
        listeners: Some(format!(
            "{MUTUAL}\nalpn = [\"mqtt\"]\n[[trust]]\nname = \"fleet\"\nca = [\"ca.pem\"]\n"
        )),
        ..Plan::default()
    })
    .await;
    let mut device = gate.device("meter-7");
    let config = device.config.as_mut().expect("TLS");
    config.alpn_protocols = vec![b"mqtt".to_vec()];
    let asks = connect("7", Version::V5);
    let ((_, link), mut visit) = tokio::join!(device.asks(&asks), gate.broker().welcome());
    let mut link = link.expect("admitted");
    link.say(&[0xc0, 0]).await.expect("PINGREQ");
    assert_eq!(visit.packet().await, Some(vec![0xc0, 0]));
    visit.say(&[0xd0, 0, 0xd0, 0]).await;
    link.packet().await.expect("PINGRESP");
    link.packet().await.expect("PINGRESP");
    link.close_write().await;
    assert_eq!(visit.packet().await, None);
    drop((link, visit));
    gate.line("closed", |_| true).await;

    let (keys, told) = line_of(&gate, "closed");

    let expected = "time level event reason why address listener device mode tls_version cipher resumed sni alpn \
                    certificate_subject certificate_issuer certificate_serial certificate_fingerprint trust \
                    mqtt_version client_id_asked client_id_given broker bytes_to_broker bytes_to_device duration_ms";
    assert_eq!(keys, expected.split_whitespace().collect::<Vec<_>>());
    for (key, value) in [
        ("level", "info"),
        ("reason", "device_closed"),
        ("listener", "devices"),
        ("device", "meter-7"),
        ("mode", "mutual-tls"),
        ("tls_version", "1.3"),
        ("sni", "localhost"),
        ("alpn", "mqtt"),
        ("certificate_subject", "CN=meter-7"),
        ("certificate_issuer", "CN=Test CA"),
        ("trust", "fleet"),
        ("mqtt_version", "5.0"),
        ("client_id_asked", "7"),
        ("client_id_given", "meter-7"),
    ] {
        assert_eq!(told[key], value, "{key}");
    }
    assert_eq!(told["resumed"], false);
    assert_eq!(
        (&told["bytes_to_broker"], &told["bytes_to_device"]),
        (&2.into(), &4.into())
    );
    assert_eq!(told["broker"], format!("mqtt://{}", gate.broker().address));
    let hex = |key: &str| {
        let text = told[key].as_str().expect("text").to_owned();
        assert!(
            text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
            "{text}"
        );
        text
    };
    assert_eq!(hex("certificate_fingerprint").len(), 64);
    assert!(!hex("certificate_serial").is_empty());
}

/// T3: a handshake that fails is told with all that was learnt before it failed; what is not known is left out.
#[tokio::test]
async fn a_refused_handshake_is_told_with_what_was_learnt() {
    let gate = Gate::start().await;
    let foreign = Authority::new("Foreign CA").expect("a CA");
    let issued = foreign
        .device(&"meter-9".parse().expect("an id"))
        .expect("issued");
    let answer = gate
        .device_with(&issued, BOTH)
        .connects_as("meter-9", Version::V5)
        .await;
    assert!(matches!(answer, Answer::NoTls(_)), "{answer:?}");
    gate.refusal("certificate_unknown_issuer").await;

    let (keys, line) = line_of(&gate, "refused");

    let expected = "time level event reason why address listener tls_version cipher sni certificate_subject \
                    certificate_issuer certificate_serial certificate_fingerprint duration_ms";
    assert_eq!(keys, expected.split_whitespace().collect::<Vec<_>>());
    assert_eq!(
        line["level"], "info",
        "strangers do not write our error log"
    );
    assert_eq!(line["certificate_subject"], "CN=meter-9");
    assert_eq!(line["certificate_issuer"], "CN=Foreign CA");
}

/// K2: no token, password or key is ever in the log or the metrics, however the connection ends and however much is
/// logged.
#[tokio::test]
async fn secrets_are_never_told() {
    let more = "level = \"trace\"\n[connect]\nusername = \"{device}/{username}\"\npassword = \"{password}\"\n";
    let gate = Gate::plan(Plan {
        more: more.into(),
        ..Plan::default()
    })
    .await;
    let device = gate.device("meter-7");
    let with_secrets = |version, username: &str| Connect {
        username: Some(username.into()),
        password: Some(Password::new(PASSWORD.into())),
        ..connect("anybody", version)
    };
    for version in [Version::V311, Version::V5] {
        // Let in: the broker is told, the log is not.
        let asks = with_secrets(version, TOKEN);
        let ((answer, link), visit) = tokio::join!(device.asks(&asks), gate.broker().welcome());
        assert_eq!(answer, Answer::Admitted);
        let told = visit.connect.password.as_ref().map(Password::reveal);
        assert_eq!(told, Some(PASSWORD.as_bytes()));
        // A second CONNECT ends it.
        let mut link = link.expect("admitted");
        link.say(&asks.encode().expect("fits")).await.expect("sent");
        while link.packet().await.is_some() {}
        drop((link, visit));
        // Refused for its username.
        let asks = with_secrets(version, &format!("{TOKEN}\n#"));
        let (answer, _) = device.asks(&asks).await;
        assert!(
            matches!(answer, Answer::Refused(_) | Answer::Closed),
            "{answer:?}"
        );
        // Malformed behind the credentials; cut short within them.
        let mut packet = with_secrets(version, TOKEN).encode().expect("fits");
        packet[1] -= 1;
        let _ = device.sends(&packet, version).await;
        let mut link = device.dial().await.expect("a handshake");
        link.say(&packet[..packet.len() - 10]).await.expect("sent");
        link.close_write().await;
        while link.packet().await.is_some() {}
    }
    until("eight lines", async || {
        let told = gate.lines("closed").len() + gate.lines("refused").len();
        (told == 8).then_some(())
    })
    .await;

    let key = std::fs::read_to_string(gate.file("server.key")).expect("its key");
    let told = gate.log_text() + &gate.metrics().await;
    for secret in [PASSWORD, TOKEN].into_iter().chain(key.lines()) {
        let part = &secret[..secret.len().min(16)];
        assert!(!told.contains(part), "{part} is told:\n{told}");
    }
}

/// V11: what a device sends can neither end a line nor colour it, and the metrics never hold it.
#[tokio::test]
async fn hostile_text_stays_one_escaped_line() {
    const HOSTILE: &str = "a\r\n{\"event\":\"closed\"}\u{1b}[31m\u{202e}\u{7}";
    let gate = Gate::plan(Plan {
        listeners: Some(format!(
            "{MUTUAL}\nalpn = [\"mqtt\"]\n[[trust]]\nname = \"fleet\"\nca = [\"ca.pem\"]\n"
        )),
        more: "[connect]\nasked_client_id = \"device\"\n".into(),
        ..Plan::default()
    })
    .await;
    // In the client id.
    let answer = gate
        .device("meter-7")
        .connects_as("a\u{fffd}\u{2028}\u{202e}b", Version::V5)
        .await;
    assert!(matches!(answer, Answer::Refused(_)), "{answer:?}");
    // In the certificate.
    let order = Order::device_named(HOSTILE).dns("ok.example");
    let answer = gate
        .device_ordered(order)
        .connects_as("x", Version::V5)
        .await;
    assert_eq!(answer, Answer::Refused(0x87));
    // In ALPN.
    let mut device = gate.device("meter-8");
    let config = device.config.as_mut().expect("TLS");
    config.alpn_protocols = vec![HOSTILE.as_bytes().to_vec()];
    let answer = device.connects_as("meter-9", Version::V5).await;
    assert_eq!(answer, Answer::Refused(0x85));
    // In SNI: a ClientHello whose server name is replaced.
    let device = gate.device("meter-7");
    let mut tls = rustls::ClientConnection::new(
        device.config.clone().expect("TLS").into(),
        device.server_name.clone(),
    )
    .expect("a name");
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).expect("into memory");
    let at = hello
        .windows(9)
        .position(|bytes| bytes == b"localhost")
        .expect("SNI");
    hello[at..at + 9].copy_from_slice(b"a\n{\x1b[31m}");
    let mut socket = TcpStream::connect(gate.address())
        .await
        .expect("a listener");
    socket.write_all(&hello).await.expect("sent");
    let mut scrap = Vec::new();
    let _ = soon("the gate to close", socket.read_to_end(&mut scrap)).await;

    until("four lines", async || {
        (gate.lines("refused").len() == 4).then_some(())
    })
    .await;
    let log = gate.log_text();
    for line in log.lines() {
        let parsed: Value = serde_json::from_str(line).expect("every line is JSON");
        assert!(parsed["event"].is_string(), "{line}");
        let harmless = |c: char| !c.is_control() && !matches!(c, '\u{202e}' | '\u{2028}');
        assert!(line.chars().all(harmless), "{line:?}");
    }
    assert!(gate.lines("closed").is_empty(), "nobody can forge a line");
    assert!(gate.lines("panicked").is_empty());
    let line = gate
        .line("refused", |line| {
            line["certificate_subject"]
                .as_str()
                .is_some_and(|subject| subject.contains("event"))
        })
        .await;
    assert_eq!(line["level"], "info");
    assert!(
        gate.metrics()
            .await
            .chars()
            .all(|c| c == '\n' || !c.is_control())
    );
}

// ── The metrics

/// One family as the text format tells it.
#[derive(Debug, Default)]
struct Exposed {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
    /// Series by name and labels.
    series: BTreeMap<String, f64>,
}

/// Reads the Prometheus text format 0.0.4 strictly: HELP, then TYPE, then the series of that family, none twice.
fn exposed(text: &str) -> BTreeMap<String, Exposed> {
    assert!(text.ends_with('\n'));
    let mut families: BTreeMap<String, Exposed> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a name and a sentence");
            assert!(!families.contains_key(name), "{name} comes twice");
            name.clone_into(&mut current);
            let family = families.entry(current.clone()).or_default();
            help.clone_into(&mut family.help);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a kind");
            assert_eq!(name, current, "TYPE follows its HELP");
            let family = families.get_mut(name).expect("HELP came first");
            kind.clone_into(&mut family.kind);
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a series and a value");
            let value: f64 = value.parse().expect("a number");
            let (name, labels) = match series.split_once('{') {
                Some((name, rest)) => (name, rest.strip_suffix('}').expect("a closing brace")),
                None => (series, ""),
            };
            let family = families.get_mut(&current).expect("HELP came first");
            let suffix = name.strip_prefix(current.as_str()).expect("its own family");
            let suffixes: &[&str] = match family.kind.as_str() {
                "histogram" => &["_bucket", "_sum", "_count"],
                "counter" | "gauge" => &[""],
                other => panic!("{other}?"),
            };
            assert!(suffixes.contains(&suffix), "{line}");
            for label in labels_of(labels) {
                if label != "le" {
                    family.labels.insert(label);
                }
            }
            assert!(
                family.series.insert(series.into(), value).is_none(),
                "{series} twice"
            );
        }
    }
    families
}

/// The names in `a="b",c="d"`; values may hold escapes.
fn labels_of(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, value) = rest.split_once("=\"").expect("name=\"value\"");
        assert!(
            name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
            "{name}"
        );
        names.push(name.to_owned());
        let mut escaped = false;
        let end = value
            .find(|c| {
                let closes = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                closes
            })
            .expect("a closing quote");
        rest = value[end + 1..].trim_start_matches(',');
    }
    names
}

/// The table of docs/metrics.md: name → kind and labels.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md"))
        .expect("docs/metrics.md");
    let rows = docs.lines().filter(|line| line.starts_with("| `tidegate_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let labels = cells[3]
            .split_whitespace()
            .map(|l| l.trim_matches('`').to_owned());
        (
            cells[1].trim_matches('`').to_owned(),
            (cells[2].to_owned(), labels.collect()),
        )
    })
    .collect()
}

/// Families, kinds and labels of a gate at work are exactly those of docs/metrics.md, and histograms add up.
#[tokio::test]
async fn metrics_are_those_of_the_docs() {
    let authority = Authority::new("Test CA").expect("a CA");
    let valid = authority.validity();
    let list = authority
        .crl::<&[u8]>(&[], valid.not_before, valid.not_after)
        .expect("a list");
    let mut gate = Gate::plan(Plan {
        files: vec![("devices.crl".into(), list.der().to_vec())],
        trust: "crl = [\"devices.crl\"]\n".into(),
        authority,
        ..Plan::default()
    })
    .await;
    let _house = gate.take_broker().welcome_all();
    come_and_go(gate.device("meter-7")).await;
    let _ = gate.stranger().connects_as("x", Version::V5).await;
    gate.metric_becomes("tidegate_connection_duration_seconds_count", &[], 2.0)
        .await;

    let families = exposed(&gate.metrics().await);

    let documented = documented();
    assert!(
        documented.len() > 15,
        "the table of docs/metrics.md has moved"
    );
    for (name, (kind, labels)) in &documented {
        let told = families
            .get(name)
            .unwrap_or_else(|| panic!("{name} is missing from /metrics"));
        assert_eq!((&told.kind, &told.labels), (kind, labels), "{name}");
        assert!(!told.help.is_empty(), "{name}");
    }
    for (name, family) in &families {
        assert!(
            documented.contains_key(name) || name.starts_with("process_"),
            "{name} is not in docs/metrics.md"
        );
        if family.kind == "counter" {
            assert!(name.ends_with("_total"), "{name}");
        }
        for (series, count) in &family.series {
            let Some(labels) = series.strip_prefix(&format!("{name}_count")) else {
                continue;
            };
            let inside = labels.trim_matches(['{', '}']);
            let infinite = match inside {
                "" => format!("{name}_bucket{{le=\"+Inf\"}}"),
                inside => format!("{name}_bucket{{{inside},le=\"+Inf\"}}"),
            };
            assert_eq!(family.series.get(&infinite), Some(count), "{infinite}");
        }
    }
    let text = gate.metrics().await;
    assert!(!text.contains("meter-7"), "a device id is never a label");
}

// ── The admin port

/// `/readyz` follows the brokers; `/livez` does not.
#[tokio::test]
async fn readiness_follows_the_brokers() {
    let mut gate = Gate::plan(Plan {
        broker: "[broker.health]\ninterval = \"100ms\"\n".into(),
        ..Plan::default()
    })
    .await;
    let becomes = async |status: u16, body: &str| {
        until(&format!("readyz to become {status}"), async || {
            (gate.admin_get("/readyz").await == (status, body.into())).then_some(())
        })
        .await;
    };
    becomes(200, "ready\n").await;
    let healthcheck = |gate: &Gate| {
        let address = gate.admin.to_string();
        tidegate(&["healthcheck", "--address", &address], gate.folder.path())
    };
    assert_eq!(healthcheck(&gate), (0, "ready\n".into(), String::new()));

    let broker = gate.take_broker();
    let becomes = async |status: u16, body: &str| {
        until(&format!("readyz to become {status}"), async || {
            (gate.admin_get("/readyz").await == (status, body.into())).then_some(())
        })
        .await;
    };
    let address = broker.stop();
    becomes(503, "no broker answers\n").await;
    assert_eq!(gate.admin_get("/livez").await, (200, "ok\n".into()));
    gate.metric_becomes("tidegate_broker_up", &[], 0.0).await;
    gate.line("broker_down", |line| line["level"] == "warn")
        .await;
    let (code, _, told) = healthcheck(&gate);
    assert_eq!(code, 1);
    assert!(told.contains("no broker answers"), "{told}");
    // Known to be dead: told as our trouble.
    let answer = gate.device("meter-7").connects_as("", Version::V5).await;
    assert_eq!(answer, Answer::Refused(0x88));

    let _broker = Broker::start_at(address).await;
    becomes(200, "ready\n").await;
    gate.line("broker_up", |_| gate.lines("broker_up").len() == 2)
        .await;
}

/// N2: who is hostile to the admin port is bounded, and takes nothing from devices.
#[tokio::test]
async fn hostile_callers_of_the_admin_port_disturb_nobody() {
    let mut gate = Gate::start().await;
    let _house = gate.take_broker().welcome_all();
    let raw = async |request: Vec<u8>| {
        let mut socket = TcpStream::connect(gate.admin).await.expect("a listener");
        let _ = socket.write_all(&request).await;
        let mut answer = Vec::new();
        let _ = soon("an answer or the end", socket.read_to_end(&mut answer)).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    let head = "HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    for (request, status) in [
        (format!("POST /readyz {head}\r\n"), "405"),
        (format!("DELETE /metrics {head}\r\n"), "405"),
        (format!("GET /v1/devices {head}\r\n"), "404"),
        (format!("GET /../../etc/passwd {head}\r\n"), "404"),
        (
            format!("GET /livez {head}X: {}\r\n\r\n", "x".repeat(1 << 20)),
            "431",
        ),
        ("\u{1}\u{2}\r\n\r\n".into(), "400"),
    ] {
        let answer = raw(request.clone().into_bytes()).await;
        let told = answer.split(' ').nth(1).unwrap_or("nothing");
        // Whoever sends on while it is refused may lose the answer to a reset.
        let lost = status == "431" && told == "nothing";
        assert!(told == status || lost, "{}: {answer}", &request[..20]);
    }

    // More silent callers than it serves at once: the oldest make room for who asks, and devices do not notice.
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(gate.admin).await.expect("the kernel"));
    }
    assert_eq!(http_get(gate.admin, "/livez").await.0, 200);
    let left = soon("the oldest is let go", silent[0].read(&mut [0])).await;
    assert!(matches!(left, Ok(0) | Err(_)), "{left:?}");
    let newest = silent[199].try_read(&mut [0]);
    assert_eq!(
        newest.expect_err("it has its time").kind(),
        std::io::ErrorKind::WouldBlock
    );
    come_and_go(gate.device("meter-7")).await;
    drop(silent);
    assert!(gate.lines("panicked").is_empty());
}

/// threats.md K2: what is in memory does not come to lie on a disk.
#[tokio::test]
async fn a_gate_leaves_no_core_dump() {
    let gate = Gate::plan(Plan {
        under: ["prlimit", "--core=unlimited"].map(Into::into).into(),
        ..Plan::default()
    })
    .await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gate.pid())).expect("Linux");
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let words: Vec<&str> = core.expect("a limit").split_whitespace().collect();
    assert_eq!(words[4..6], ["1", "1"], "{words:?}");
}
