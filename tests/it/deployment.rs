//! `tidegate check --deployment`: what people get wrong around a gate (threats.md N3, T6).

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::ExtendedKeyUsagePurpose;
use rustls::version::TLS13;
use serde_json::Value;
use tempfile::TempDir;
use tidegate::pki::{Authority, Issued, KeyKind, Order, Validity};

use crate::support::craft::List;
use crate::support::estate::now;
use crate::support::free_port;
use crate::support::gate::{Gate, Plan, group, lay_out, listener, tidegate};
use crate::support::mosquitto::Mosquitto;
use crate::support::namespaces::{Host, has_its_own_namespaces};
use crate::support::postgres::Cluster;
use crate::support::rabbitmq::RabbitMq;
use crate::support::secure::SecureBroker;

/// What `check --deployment --json` says.
pub(crate) struct Report {
    code: i32,
    whole: Value,
}

impl Report {
    fn of(folder: &Path) -> Self {
        let (code, out, err) = tidegate(&["check", "--deployment", "--json"], folder);
        let whole = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"));
        assert_eq!(err, "");
        Self { code, whole }
    }

    async fn with(plan: &Plan) -> Self {
        let (folder, _broker) = lay_out(plan).await;
        Self::of(folder.path())
    }

    /// Of the configuration of a gate that runs; there is no fault in it.
    pub(crate) fn beside(gate: &Gate) -> Self {
        let file = gate.file("tidegate.toml");
        let report = Self::of(file.parent().expect("a folder"));
        assert_eq!(report.code, 0, "{:#}", report.whole);
        assert_eq!(report.whole["deployment"]["finished"], true);
        report
    }

    fn findings(&self) -> Vec<&Value> {
        let findings = self.whole["deployment"]["findings"].as_array();
        findings.expect("a list").iter().collect()
    }

    /// The ids of one level that are not about the host that the test happens to run on.
    pub(crate) fn ids(&self, level: &str) -> Vec<&str> {
        const OF_THE_HOST: [&str; 5] = [
            "descriptors_few",
            "ports_few",
            "somaxconn_few",
            "conntrack_few",
            "tls_flight",
        ];
        let findings = self.findings().into_iter();
        let ids = findings.filter(|one| one["level"] == level);
        let ids = ids.map(|one| one["id"].as_str().expect("text"));
        ids.filter(|id| !OF_THE_HOST.contains(id) && !id.starts_with("clock_"))
            .collect()
    }

    /// What the finding of this id says; the first, if there are several.
    fn what(&self, id: &str) -> &str {
        let found = self.findings().into_iter().find(|one| one["id"] == id);
        let found = found.unwrap_or_else(|| panic!("{id} is not in {:#}", self.whole));
        assert_ne!(found["key"], "");
        found["what"].as_str().expect("text")
    }

    fn tells(&self, id: &str, words: &str) {
        let what = self.what(id);
        assert!(what.contains(words), "{words}: {:#}", self.whole);
    }
}

fn at(addresses: &[String], broker: &str) -> Plan {
    Plan {
        addresses: Some(format!("{addresses:?}")),
        broker: broker.into(),
        ..Plan::default()
    }
}

fn mqtt(address: SocketAddr) -> String {
    format!("mqtt://{address}")
}

/// What is right is not warned of, and neither a device's name nor anything lasting reaches the broker.
#[tokio::test]
async fn a_good_deployment_is_good_and_the_broker_hears_of_no_device() {
    let broker = Mosquitto::start().await;
    let report = Report::with(&at(&[broker.address()], "")).await;
    assert_eq!(report.code, 0, "{:#}", report.whole);
    assert_eq!(report.ids("warning"), [""; 0], "{:#}", report.whole);
    assert_eq!(report.ids("note"), ["broker_open_here"]);
    assert_eq!(report.whole["deployment"]["finished"], true);
    let calls = report.whole["deployment"]["calls"].as_u64();
    assert!(calls >= Some(2), "{calls:?}");
    broker.logs("New client connected").await;
    for line in broker.logged("New client connected") {
        let is_ours = line.contains(" as tidegateprobe") && line.contains("c1");
        assert!(is_ours || line.contains("is-it-there"), "{line}");
    }
}

/// threats.md N3: the commonest mistake. Mosquitto's `listener 1883` listens everywhere, though the gate calls loopback.
#[tokio::test]
async fn a_broker_that_listens_everywhere_is_found() {
    let test = "deployment::a_broker_that_listens_everywhere_is_found";
    if !has_its_own_namespaces(test) {
        return;
    }
    let _network = Host::new(1); // this host is 10.77.1.1 there
    let (wide, narrow) = (free_port().port(), free_port().port());
    let lines = format!("listener {wide}\nlistener {narrow} 127.0.0.1\n");
    let mut broker = Mosquitto::start_with(&lines).await;

    let report = Report::with(&at(&[format!("mqtt://127.0.0.1:{narrow}")], "")).await;
    assert_eq!(report.ids("warning"), [""; 0], "{:#}", report.whole);

    let report = Report::with(&at(&[format!("mqtt://127.0.0.1:{wide}")], "")).await;
    assert_eq!(report.code, 0);
    assert_eq!(report.ids("warning"), ["broker_open_elsewhere"]);
    report.tells(
        "broker_open_elsewhere",
        &format!("mqtt://10.77.1.1:{wide} lets anybody without a password in"),
    );

    // Where the gate itself calls an address that others reach.
    let wide = [format!("mqtt://10.77.1.1:{wide}")];
    let report = Report::with(&at(&wide, "allow_plaintext = true")).await;
    assert_eq!(report.ids("warning"), ["broker_open"], "{:#}", report.whole);

    // The usual port, beside the one that is configured; it asks for a password.
    broker.kill();
    let folder = tempfile::tempdir().expect("a folder");
    let users = folder.path().join("users");
    std::fs::write(&users, "").expect("written");
    let lines = format!(
        "listener {narrow} 127.0.0.1\nper_listener_settings true\nallow_anonymous true\n\
         listener 1883\nallow_anonymous false\npassword_file {}\n",
        users.display()
    );
    // Its own first listener is anonymous only where that is said before it.
    let config = folder.path().join("mosquitto.conf");
    std::fs::write(&config, format!("user root\n{}", reordered(&lines))).expect("written");
    let mut child = crate::support::mosquitto::command("mosquitto")
        .arg("-c")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("mosquitto starts");
    let there: SocketAddr = ([127, 0, 0, 1], narrow).into();
    crate::support::until("Mosquitto", async || {
        tokio::net::TcpStream::connect(there).await.ok()
    })
    .await;
    let report = Report::with(&at(&[mqtt(there)], "")).await;
    child.kill().expect("killed");
    child.wait().expect("it ends");
    assert_eq!(report.ids("warning"), [""; 0], "{:#}", report.whole);
    report.tells(
        "broker_reachable_elsewhere",
        "mqtt://10.77.1.1:1883, too, and refuses a stranger (CONNACK 0x05)",
    );
}

/// `per_listener_settings` counts for what follows it.
fn reordered(lines: &str) -> String {
    const FIRST: &str = "per_listener_settings true\n";
    format!("{FIRST}{}", lines.replace(FIRST, ""))
}

/// Both ways round, with brokers that are what they are.
#[tokio::test]
async fn a_proxy_header_that_nobody_expects_or_that_is_missing_is_told() {
    let broker = Mosquitto::start().await;
    let v2 = "proxy_protocol = \"v2\"";
    let report = Report::with(&at(&[broker.address()], v2)).await;
    assert_eq!(
        report.ids("warning"),
        ["broker_proxy_mismatch"],
        "{:#}",
        report.whole
    );
    report.tells(
        "broker_proxy_mismatch",
        "expects no PROXY header, and the gate sends one (v2)",
    );

    let rabbit = RabbitMq::start().await;
    let rabbit = [mqtt(rabbit.mqtt)];
    let report = Report::with(&at(&rabbit, "")).await;
    assert_eq!(
        report.ids("warning"),
        ["broker_proxy_mismatch"],
        "{:#}",
        report.whole
    );
    report.tells(
        "broker_proxy_mismatch",
        "answers only behind a PROXY header (v2), and the gate sends none",
    );

    // It lets in who has no name at all, and no name without a password: such as every device's.
    let report = Report::with(&at(&rabbit, v2)).await;
    assert_eq!(
        report.ids("warning"),
        ["broker_refuses"],
        "{:#}",
        report.whole
    );
    report.tells(
        "broker_open_here",
        "behind a PROXY header that anybody can write",
    );
}

/// All of them within the time of the silent one.
#[tokio::test]
async fn brokers_that_do_not_answer_are_told_apart() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let closes = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addresses = [
        mqtt(silent.local_addr().expect("bound")),
        mqtt(free_port()),
        "mqtt://broker.invalid".to_owned(),
        mqtt(closes.local_addr().expect("bound")),
    ];
    std::thread::spawn(move || {
        for socket in closes.incoming() {
            drop(socket);
        }
    });
    let report = Report::with(&at(&addresses, "allow_plaintext = true")).await;
    assert_eq!(report.code, 0);
    let mut ids = report.ids("warning");
    ids.sort_unstable();
    let all = [
        "broker_away",
        "broker_name",
        "broker_no_answer",
        "broker_silent",
    ];
    assert_eq!(ids, all, "{:#}", report.whole);
    report.tells("broker_away", &addresses[1]);
    report.tells("broker_name", "broker.invalid");
    report.tells("broker_silent", &addresses[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_refuses_or_is_unavailable_is_told() {
    let own = Authority::new("Broker CA").expect("a CA");
    let gates = Authority::new("Gate CA").expect("a CA");
    for (code, warnings, notes) in [
        (
            3,
            &["broker_unavailable", "broker_asks_no_certificate"][..],
            &[][..],
        ),
        (5, &["broker_asks_no_certificate"], &["broker_refuses"]),
        (1, &["broker_refuses", "broker_asks_no_certificate"], &[]),
    ] {
        let issued = own.server(&["127.0.0.1"]).expect("issued");
        let broker = SecureBroker::start(&issued, None, &[&TLS13]).await;
        let plan = over_tls(&[format!("mqtts://{}", broker.address)], &own, &gates, OWN);
        let answers = tokio::spawn(async move {
            loop {
                broker.answer(code).await;
            }
        });
        let report = Report::with(&plan).await;
        answers.abort();
        assert_eq!(
            report.ids("warning"),
            warnings,
            "{code}: {:#}",
            report.whole
        );
        assert_eq!(report.ids("note"), notes, "{code}: {:#}", report.whole);
    }
}

/// The lines that name the gate's own certificate.
const OWN: &str = "certificate = \"gate.pem\"\nkey = \"gate.key\"";

/// A gate whose brokers are judged by `brokers`, and which shows a certificate of `gates`.
fn over_tls(addresses: &[String], brokers: &Authority, gates: &Authority, tls: &str) -> Plan {
    let order = Order::device_named("tidegate");
    let gate = gates.issue(order.purposes(vec![ExtendedKeyUsagePurpose::ClientAuth]));
    let gate = gate.expect("issued");
    let files = [
        ("broker-ca.pem", brokers.certificate_pem().to_owned()),
        ("gate.pem", gate.chain_pem()),
        ("gate.key", gate.key_pem().to_string()),
    ];
    let files = files.map(|(name, text)| (name.to_owned(), text.into_bytes()));
    Plan {
        files: files.into(),
        ..at(
            addresses,
            &format!("[broker.tls]\nca = \"broker-ca.pem\"\n{tls}\n"),
        )
    }
}

/// A Mosquitto with a TLS listener that shows `own`.
async fn mosquitto_over_tls(
    own: &Issued,
    clients: &Authority,
    requires: bool,
) -> (Mosquitto, String, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let put = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let port = free_port().port();
    let lines = format!(
        "listener {port} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate {requires}\n",
        put("ca.pem", clients.certificate_pem()),
        put("broker.pem", &own.chain_pem()),
        put("broker.key", &own.key_pem()),
    );
    let broker = Mosquitto::start_with(&lines).await;
    (broker, format!("mqtts://127.0.0.1:{port}"), folder)
}

#[tokio::test]
async fn tls_to_a_broker_is_tried_as_the_gate_and_as_a_stranger() {
    let brokers = Authority::new("Broker CA").expect("a CA");
    let gates = Authority::new("Gate CA").expect("a CA");
    let order = Order::server(&["127.0.0.1"]).expect("a name");
    let own = brokers
        .issue(order.valid(Validity::days(3)))
        .expect("issued");

    let (_broker, address, _folder) = mosquitto_over_tls(&own, &gates, true).await;
    let address = [address];
    let report = Report::with(&over_tls(&address, &brokers, &gates, OWN)).await;
    assert_eq!(
        report.ids("warning"),
        ["broker_certificate_ends"],
        "{:#}",
        report.whole
    );
    assert_eq!(report.ids("note"), [""; 0], "a stranger does not get in");

    let report = Report::with(&over_tls(&address, &gates, &gates, OWN)).await;
    assert_eq!(report.ids("warning"), ["broker_tls"], "{:#}", report.whole);
    let report = Report::with(&over_tls(&address, &brokers, &brokers, OWN)).await;
    assert_eq!(
        report.ids("warning").last(),
        Some(&"broker_no_answer"),
        "{:#}",
        report.whole
    );
    report.tells(
        "broker_no_answer",
        "it does not know the CA of the gate's certificate",
    );

    let (_broker, address, _folder) = mosquitto_over_tls(&own, &gates, false).await;
    let report = Report::with(&over_tls(&[address], &brokers, &gates, OWN)).await;
    assert_eq!(
        report.ids("note"),
        ["broker_open_here"],
        "{:#}",
        report.whole
    );
}

/// Who may write a socket file may call the broker (unix(7)).
#[tokio::test]
async fn a_socket_file_is_as_open_as_its_mode() {
    let broker = Mosquitto::start_on_socket_file().await;
    let address = broker.address();
    let path = address
        .strip_prefix("unix://")
        .expect("a socket file")
        .to_owned();
    for (mode, notes) in [(0o770, &[][..]), (0o777, &["broker_open_here"])] {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&path, mode).expect("set");
        let report = Report::with(&at(std::slice::from_ref(&address), "")).await;
        assert_eq!(report.ids("note"), notes, "{:#}", report.whole);
    }
}

/// Without the word, nobody is called; with faults, neither.
#[tokio::test]
async fn nobody_is_called_unasked() {
    let broker = TcpListener::bind("127.0.0.1:0").expect("a port");
    broker.set_nonblocking(true).expect("set");
    let address = mqtt(broker.local_addr().expect("bound"));
    let (folder, _) = lay_out(&at(&[address], "")).await;
    let (code, out, _) = tidegate(&["check", "--json"], folder.path());
    assert_eq!(code, 0, "{out}");
    let plain: Value = serde_json::from_str(&out).expect("JSON");
    assert!(plain.get("deployment").is_none(), "{out}");

    std::fs::remove_file(folder.path().join("server.key")).expect("removed");
    let report = Report::of(folder.path());
    assert_eq!(report.code, 2);
    assert_eq!(report.ids("note"), ["not_looked_at"]);
    assert!(broker.accept().is_err(), "nobody called");
}

/// threats.md T6: what is told of a handshake is what comes.
#[tokio::test]
async fn what_a_small_device_must_receive_is_what_it_receives() {
    let plan = || Plan {
        listeners: Some(listener("devices", "mixed-tls", "", "") + &group("fleet", "ca.pem", "")),
        ..Plan::default()
    };
    let gate = Gate::plan(plan()).await;
    let report = Report::beside(&gate);
    let address = gate.address().to_string();
    for version in ["1.2", "1.3"] {
        let flag = format!("-tls{}", version.replace('.', "_"));
        let called = Command::new("openssl")
            .args([
                "s_client",
                "-connect",
                &address,
                &flag,
                "-groups",
                "X25519:P-256",
                "-no_ticket",
            ])
            .stdin(Stdio::null())
            .output()
            .expect("openssl");
        let said = String::from_utf8_lossy(&called.stdout).into_owned();
        let read = said
            .split("SSL handshake has read ")
            .nth(1)
            .expect("a handshake");
        let read: usize = read
            .split(' ')
            .next()
            .and_then(|n| n.parse().ok())
            .expect("a number");
        // In TLS 1.2 the gate says once more that it is done, behind the device's answer: ChangeCipherSpec and Finished.
        let answer = if version == "1.2" { 6 + 45 } else { 0 };
        let read = read - answer;
        let words = format!("a device that speaks TLS {version} must be able to receive ");
        let told = report.findings().into_iter().find_map(|one| {
            let rest = one["what"].as_str()?.strip_prefix(&words)?;
            rest.split(' ').next()?.parse::<usize>().ok()
        });
        let told = told.unwrap_or_else(|| panic!("{:#}", report.whole));
        // An ECDSA signature has 70 to 72 bytes, mostly; and which extensions are answered is up to the device.
        assert!(
            told.abs_diff(read) <= 16,
            "TLS {version}: {told} told, {read} came"
        );
    }
}

#[tokio::test]
async fn a_flight_that_is_too_large_is_told_with_its_reasons() {
    let names: Vec<_> = (0..240)
        .map(|n| format!("gate-{n}.some-long-name.example.net"))
        .collect();
    let order = Order::server(&names).expect("names").key(KeyKind::Rsa4096);
    let plan = Plan::default();
    let server = plan.authority.issue(order).expect("issued");
    let chain = server.certificate_pem().to_owned() + plan.authority.certificate_pem();
    let tls = "max_record = \"512B\"";
    let plan = Plan {
        listeners: Some(listener("devices", "mutual-tls", "", tls) + &group("fleet", "ca.pem", "")),
        files: vec![
            ("server.pem".into(), chain.into_bytes()),
            ("server.key".into(), server.key_pem().as_bytes().to_vec()),
        ],
        ..plan
    };
    let broker = Mosquitto::start().await;
    let plan = Plan {
        addresses: Some(format!("[{:?}]", broker.address())),
        ..plan
    };
    let report = Report::with(&plan).await;
    let mut ids = report.ids("warning");
    ids.sort_unstable();
    ids.dedup();
    let all = [
        "tls_flight_large",
        "tls_many_records",
        "tls_root_included",
        "tls_rsa_large",
    ];
    assert_eq!(ids, all, "{:#}", report.whole);
    report.tells("tls_rsa_large", "RSA 4096");
    report.tells("tls_flight", "of up to 512 bytes");
    // 1088 bytes of ciphertext, and the headers of two more records of 512.
    let ml_kem = report.findings().into_iter().any(|one| {
        one["what"]
            .as_str()
            .expect("text")
            .contains("; 1098 more if it offers X25519MLKEM768")
    });
    assert!(ml_kem, "{:#}", report.whole);
}

#[tokio::test]
async fn what_nears_its_end_or_can_never_count_is_told() {
    let plan = Plan::default();
    let day = 24 * 3600;
    let list = List {
        is_v2: true,
        this_update: now() - 19 * day,
        next_update: Some(now() + day),
        ..List::default()
    };
    let broker = Mosquitto::start().await;
    let devices = listener("devices", "mutual-tls", "", "");
    let devices = devices.replace(
        "[listener.tls]",
        "proxy_protocol_from = [\"10.0.0.0/8\"]\n[listener.tls]",
    );
    let plan = Plan {
        listeners: Some(devices + &group("fleet", "ca.pem", "crl = [\"fleet.crl\"]")),
        files: vec![("fleet.crl".into(), list.by(&plan.authority))],
        addresses: Some(format!("[{:?}]", broker.address())),
        ..plan
    };
    let (folder, _) = lay_out(&plan).await;
    let report = Report::of(folder.path());
    assert_eq!(
        report.ids("warning"),
        ["crl_ends", "proxy_networks_unreachable"],
        "{:#}",
        report.whole
    );
    report.tells(
        "proxy_networks_unreachable",
        "nobody in 10.0.0.0/8 can call 127.0.0.1:0",
    );

    let open = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(folder.path().join("fleet.crl"), open).expect("set");
    let report = Report::of(folder.path());
    report.tells("file_writable", "fleet.crl can be changed by every user");
}

/// The registry's server has a time of its own; here it is an hour late, as far as whoever asks can see.
#[tokio::test]
async fn clocks_that_differ_and_servers_that_are_away_are_told() {
    let cluster = Cluster::start().await;
    cluster.database("tidegate").await;
    let broker = Mosquitto::start().await;
    let registry = |url: &str| Plan {
        more: format!("[registry]\nurl = {url:?}\n"),
        ..at(&[broker.address()], "")
    };
    let url = cluster.url("tidegate");
    let report = Report::with(&registry(&url)).await;
    assert_eq!(report.ids("warning"), [""; 0], "{:#}", report.whole);
    let differs = |report: &Report| {
        report
            .findings()
            .iter()
            .any(|one| one["id"] == "clock_differs")
    };
    assert!(!differs(&report), "{:#}", report.whole);

    let late = "CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql \
                AS 'SELECT pg_catalog.clock_timestamp() - interval ''1 hour''';
                ALTER DATABASE tidegate SET search_path = public, pg_catalog";
    cluster.execute("tidegate", late).await;
    let report = Report::with(&registry(&url)).await;
    let what = report.what("clock_differs");
    assert!(
        what.contains("ahead of that of the registry's server"),
        "{what}"
    );

    let nobody = free_port();
    let jwt = format!(
        "[token.jwt]\nkeys = \"https://{nobody}/jwks\"\nca = \"ca.pem\"\nissuer = \"i\"\naudience = \"a\"\n"
    );
    let plan = registry(&format!("postgres://gate@{nobody}/tidegate"));
    let plan = Plan {
        more: plan.more.clone() + &jwt,
        ..plan
    };
    let report = Report::with(&plan).await;
    let mut ids = report.ids("warning");
    ids.sort_unstable();
    assert_eq!(ids, ["jwks_away", "registry_away"], "{:#}", report.whole);
}

/// docs/check.md: 10 s at the most, though ten brokers, the registry and the issuer take connections and say nothing. What the brokers would have
/// been told is not told to whoever reads the report.
#[tokio::test]
async fn whoever_is_silent_keeps_it_for_ten_seconds_at_the_most() {
    let silent: Vec<_> = (0..12)
        .map(|_| TcpListener::bind("127.0.0.1:0").expect("a port"))
        .collect();
    let at: Vec<_> = silent
        .iter()
        .map(|one| one.local_addr().expect("bound"))
        .collect();
    let (registry, issuer) = (at[10], at[11]);
    let brokers: Vec<_> = at[..10].iter().copied().map(mqtt).collect();
    let plan = Plan {
        addresses: Some(format!("{brokers:?}")),
        broker: "proxy_protocol = \"v2\"".into(),
        more: format!(
            "[connect]\npassword_file = \"broker.secret\"\n\
             [registry]\nurl = \"postgres://gate@{registry}/tidegate\"\n\
             [token.jwt]\nkeys = \"https://{issuer}/jwks\"\nca = \"ca.pem\"\nissuer = \"i\"\naudience = \"a\"\n"
        ),
        files: vec![("broker.secret".into(), b"correct horse".into())],
        ..Plan::default()
    };
    let (folder, _) = lay_out(&plan).await;
    let began = Instant::now();
    let report = Report::of(folder.path());
    let took = began.elapsed();
    assert!(took < Duration::from_millis(10_800), "{took:?}"); // and a moment to start and to end
    assert_eq!(report.code, 0);
    for id in ["broker_silent", "registry_away", "jwks_away"] {
        report.what(id);
    }
    let silent = report.ids("warning");
    assert_eq!(
        silent.iter().filter(|id| **id == "broker_silent").count(),
        10
    );
    assert!(!report.whole.to_string().contains("correct horse"));
}
