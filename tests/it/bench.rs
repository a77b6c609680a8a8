//! The harness tells the truth: about the target, about what failed, and about the time in which nothing happened.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use serde_json::Value;
use tempfile::TempDir;
use tidegate::pki::{Authority, Order, folder};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio_rustls::TlsAcceptor;

use crate::support::gate::{Gate, Plan, tidegate};
use crate::support::{soon, until};

/// A run of the harness: what it printed, and how it ended.
struct Run {
    code: i32,
    report: Value,
    told: String,
}

fn harness(folder: &Path, line: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .arg("bench")
        .args(line.split_whitespace())
        .current_dir(folder)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the harness starts")
}

async fn ended(harness: Child) -> Run {
    let Output {
        status,
        stdout,
        stderr,
    } = soon("the harness to end", harness.wait_with_output())
        .await
        .expect("it ran");
    Run {
        code: status.code().expect("an exit code"),
        report: serde_json::from_slice(&stdout).unwrap_or_default(),
        told: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

async fn bench(folder: &Path, line: &str) -> Run {
    ended(harness(folder, line)).await
}

/// Ctrl-C.
fn interrupt(harness: &Child) {
    let pid = i32::try_from(harness.id().expect("it runs")).expect("a pid");
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
}

impl Run {
    fn count(&self, name: &str) -> u64 {
        let value = &self.report[name];
        value
            .as_u64()
            .unwrap_or_else(|| panic!("{name}: {value}; {}", self.told))
    }

    fn errors(&self) -> Vec<(String, u64)> {
        let errors = self.report["errors"].as_object().expect("errors");
        let count = |value: &Value| value.as_u64().expect("a count");
        errors
            .iter()
            .map(|(word, value)| (word.clone(), count(value)))
            .collect()
    }

    /// A figure of a time, in microseconds.
    fn micros(&self, name: &str, figure: &str) -> u64 {
        let value = &self.report["latency_us"][name][figure];
        value
            .as_u64()
            .unwrap_or_else(|| panic!("{name} {figure} in {}", self.report))
    }

    /// How many handshakes were agreed on whose words hold all of `words`.
    fn agreed(&self, words: &[&str]) -> u64 {
        let negotiated = self.report["negotiated"].as_object().expect("negotiated");
        let wanted = negotiated
            .iter()
            .filter(|(told, _)| words.iter().all(|word| told.contains(word)));
        wanted
            .map(|(_, count)| count.as_u64().expect("a count"))
            .sum()
    }
}

/// A gate whose CA lies in `pki` of its folder, in front of the broker given, or of one that takes everybody.
async fn gate(addresses: Option<String>) -> Gate {
    let own_broker = addresses.is_none();
    let mut gate = Gate::plan(Plan {
        addresses,
        ..Plan::default()
    })
    .await;
    if own_broker {
        gate.take_broker().welcome_all();
    }
    save(&gate.file("pki"), &gate.authority);
    gate
}

fn save(at: &Path, authority: &Authority) {
    folder::save_authority(at, authority).expect("a CA's folder");
}

/// `tidegate bench sink`, and where it listens, as a gate's configuration has it.
async fn sink() -> (Child, String) {
    let mut sink = harness(Path::new("/"), "sink 127.0.0.1:0");
    let mut told = BufReader::new(sink.stdout.take().expect("piped")).lines();
    let line = soon("the sink to listen", told.next_line()).await;
    let line = line.expect("readable").expect("a line");
    let address = line.rsplit(' ').next().expect("an address");
    (sink, format!("[\"mqtt://{address}\"]"))
}

/// A TLS server without MQTT: gives tickets, closes when the device does; stands still for `stop` at connection `at`.
struct Server {
    address: SocketAddr,
    folder: TempDir,
}

impl Server {
    fn start(stop: Option<(usize, Duration)>) -> Self {
        let authority = Authority::new("Test CA").expect("a CA");
        let issued = authority.server(&["127.0.0.1"]).expect("issued");
        let folder = tempfile::tempdir().expect("a folder");
        save(folder.path(), &authority);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(issued.chain(), issued.key())
            .expect("a key that fits");
        config.ticketer = aws_lc_rs::Ticketer::new().expect("randomness");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (to, address) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(serve(acceptor, stop, to));
        });
        let address = address.recv().expect("it listens");
        Self { address, folder }
    }
}

async fn serve(
    acceptor: TlsAcceptor,
    stop: Option<(usize, Duration)>,
    to: mpsc::Sender<SocketAddr>,
) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a loopback port");
    to.send(listener.local_addr().expect("bound"))
        .expect("asked");
    let (_never, nothing) = mpsc::channel::<()>();
    for nth in 0.. {
        let (socket, _) = listener.accept().await.expect("a device");
        if let Some((at, time)) = stop
            && nth == at
        {
            // The whole server: no task of this thread runs.
            let _ = nothing.recv_timeout(time);
        }
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            if let Ok(mut tls) = acceptor.accept(socket).await {
                let _ = tls.read_to_end(&mut Vec::new()).await;
                let _ = tls.shutdown().await;
            }
        });
    }
}

#[tokio::test]
async fn its_counts_are_those_of_the_target() {
    let gate = gate(None).await;
    let (to, pid) = (gate.address(), gate.pid());
    let rest = format!("{to} --ca ca.pem --device-ca pki --devices 20 --json");

    let line = format!("handshake {rest} --connect --count 300 --pid {pid}");
    let run = bench(gate.folder.path(), &line).await;

    assert_eq!(run.code, 0, "{}", run.told);
    assert_eq!((run.count("attempts"), run.count("succeeded")), (300, 300));
    let handshakes = [("result", "ok")];
    let counted = gate.metric("tidegate_handshakes_total", &handshakes).await;
    assert!((297.0..=303.0).contains(&counted), "{counted}");
    let admitted = gate.metric("tidegate_connack_total", &[]).await;
    assert!((297.0..=303.0).contains(&admitted), "{admitted}");
    assert_eq!(run.agreed(&["TLS 1.3", "X25519 full"]), 300);
    assert_eq!(run.micros("connack", "count"), 300);
    let seconds = run.report["timeline"].as_array().expect("a timeline");
    let succeeded = seconds
        .iter()
        .map(|row| row["succeeded"].as_u64().expect("a count"));
    assert_eq!(succeeded.sum::<u64>(), 300);
    assert!(run.report["server"]["cpu_us_each"].as_f64() > Some(1.0));

    for (flags, words) in [
        ("--tls 1.2 --key-exchange p256", ["TLS 1.2", "secp256r1"]),
        (
            "--key-exchange x25519mlkem768",
            ["TLS 1.3", "X25519MLKEM768"],
        ),
        (
            "--rate 200 --device-key ed25519 --mqtt 5.0",
            ["TLS 1.3", "X25519"],
        ),
    ] {
        let line = format!("handshake {rest} --connect --count 20 {flags}");
        let run = bench(gate.folder.path(), &line).await;
        assert_eq!(run.count("succeeded"), 20, "{flags}: {}", run.told);
        assert_eq!(
            run.agreed(&words),
            20,
            "{flags}: {}",
            run.report["negotiated"]
        );
    }
}

#[tokio::test]
async fn without_tls_it_goes_to_a_listener_that_has_none() {
    let (_sink, addresses) = sink().await;
    let to = addresses
        .trim_start_matches("[\"mqtt://")
        .trim_end_matches("\"]");
    let folder = tempfile::tempdir().expect("a folder");

    for line in [
        format!("handshake {to} --connect --count 50 --devices 5"),
        format!("connections {to} --connections 5 --hold 100ms"),
        format!("relay {to} --connections 2 --size 200KiB --duration 200ms --qos 1"),
    ] {
        let run = bench(folder.path(), &format!("{line} --plain --json")).await;
        assert_eq!(
            (run.code, run.errors()),
            (0, vec![]),
            "{line}: {}",
            run.told
        );
        assert_eq!(run.count("succeeded"), run.count("attempts"), "{line}");
        assert_eq!(run.report["negotiated"], serde_json::json!({}), "{line}");
        assert_eq!(run.report["setup"]["tls"], "none (--plain)", "{line}");
        assert_eq!(run.report["latency_us"].get("handshake"), None, "{line}");
    }
}

/// In TLS 1.3 a device is done with the handshake before the server has looked at its certificate.
#[tokio::test]
async fn wrong_certificates_are_refusals_and_not_successes() {
    let gate = gate(None).await;
    let to = gate.address();
    let of_another_name = Authority::root(Order::ca("Somebody else")).expect("a CA");
    save(&gate.file("other"), &of_another_name);
    save(
        &gate.file("alike"),
        &Authority::new("Test CA").expect("a CA"),
    );

    for devices in ["--device-ca other", "--device-ca alike", ""] {
        for more in ["--tls 1.3", "--tls 1.3 --connect", "--tls 1.2 --connect"] {
            if devices.is_empty() && more.contains("1.2") {
                continue; // there a missing certificate is a plain handshake_failure
            }
            let line = format!(
                "handshake {to} --ca ca.pem {devices} --devices 5 --count 20 {more} --json"
            );
            let run = bench(gate.folder.path(), &line).await;
            assert_eq!(run.code, 1, "{devices} {more}: {}", run.told);
            assert_eq!(run.count("succeeded"), 0, "{devices} {more}");
            let refused = [("certificate_refused".to_owned(), 20)];
            assert_eq!(run.errors(), refused, "{devices} {more}: {}", run.told);
        }
    }
    let taken = gate
        .metric("tidegate_handshakes_total", &[("result", "ok")])
        .await;
    assert_eq!(taken, 0.0);
}

#[tokio::test]
async fn a_wrong_server_is_no_success_either() {
    let server = Server::start(None);
    let stranger = Authority::new("Somebody else").expect("a CA");
    save(&server.folder.path().join("other"), &stranger);

    let line = format!("handshake {} --count 5 --json", server.address);
    let run = bench(server.folder.path(), &format!("{line} --ca other/ca.pem")).await;
    assert_eq!(
        (run.code, run.errors()),
        (1, vec![("tls_failed".to_owned(), 5)])
    );
    assert!(
        run.told.contains("tls_failed, for example:"),
        "{}",
        run.told
    );

    let run = bench(server.folder.path(), &format!("{line} --insecure")).await;
    assert_eq!((run.code, run.count("succeeded")), (0, 5), "{}", run.told);
    let said = run.report["setup"]["server certificate"].as_str();
    assert!(said.expect("told").contains("NOT VERIFIED"), "{said:?}");
}

/// No coordinated omission: whoever should have come while the server stood still is seen to wait.
#[tokio::test]
async fn a_server_that_stops_for_a_second_is_seen_as_a_second_of_latency() {
    let server = Server::start(Some((50, Duration::from_secs(1))));

    let line = format!(
        "handshake {} --ca ca.pem --rate 50 --duration 4s --json",
        server.address
    );
    let run = bench(server.folder.path(), &line).await;

    assert_eq!((run.count("attempts"), run.count("succeeded")), (200, 200));
    assert!(run.micros("verdict", "max") >= 900_000, "{}", run.report);
    // A quarter of them came in that second; the other three see nothing of it.
    assert!(run.micros("verdict", "p90") >= 400_000, "{}", run.report);
    assert!(run.micros("verdict", "p50") < 400_000, "{}", run.report);
}

/// One that comes late is seen as one, and not as half of the rate.
#[tokio::test]
async fn a_straggler_does_not_thin_the_rate() {
    let server = Server::start(Some((39, Duration::from_secs(2))));
    let line = format!(
        "handshake {} --ca ca.pem --rate 20 --duration 2s --json",
        server.address
    );
    let run = bench(server.folder.path(), &line).await;
    assert_eq!(run.count("succeeded"), 40, "{}", run.told);
    let rated = |name: &str| run.report[name].as_f64().expect("a number");
    assert!(rated("seconds") > 3.0, "{}", run.report);
    assert_eq!(rated("rated_seconds"), 2.0);
    assert_eq!(rated("per_second") * 2.0, rated("rated_succeeded"));
    assert!(rated("rated_succeeded") < 40.0, "{}", run.report);
}

#[tokio::test]
async fn sessions_are_resumed_as_often_as_asked() {
    let server = Server::start(None);
    for version in ["1.2", "1.3"] {
        let line = format!(
            "handshake {} --ca ca.pem --devices 10 --count 100 --concurrency 1 --resume 0.5 --tls {version} --json",
            server.address
        );
        let run = bench(server.folder.path(), &line).await;
        assert_eq!(run.count("succeeded"), 100, "{}", run.told);
        let version = format!("TLS {version}");
        let agreed = [
            run.agreed(&[&version, "resumed"]),
            run.agreed(&[&version, "full"]),
        ];
        assert_eq!(agreed, [50, 50], "{}", run.report["negotiated"]);
        assert_eq!(
            run.report["setup"]["sessions"],
            "10 of 10 devices have one to resume"
        );
    }
}

#[tokio::test]
async fn a_device_that_gives_up_comes_back_as_often_as_told() {
    // It takes connections, and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let to = silent.local_addr().expect("bound");
    let folder = tempfile::tempdir().expect("a folder");

    let line = format!(
        "handshake {to} --insecure --count 4 --concurrency 2 --give-up 50ms --retry=2 --json"
    );
    let run = bench(folder.path(), &line).await;

    assert_eq!((run.code, run.count("attempts")), (1, 12));
    assert_eq!(run.errors(), [("gave_up".to_owned(), 12)]);
    assert_eq!(run.micros("waited", "count"), 12);
    assert!(run.micros("waited", "min") >= 49_900, "{}", run.report);
    let storm = run.report["setup"]["storm"].as_str().expect("a storm");
    assert!(storm.contains("4 arrived, 0 got in"), "{storm}");
}

/// Devices lose patience with a broker that says nothing, and get in when it speaks; the gate has seen the same.
#[tokio::test]
async fn a_storm_is_told_as_the_gate_has_seen_it() {
    let mut gate = Gate::start().await;
    save(&gate.file("pki"), &gate.authority);
    let broker = gate.take_broker();
    let line = format!(
        "handshake {} --ca ca.pem --device-ca pki --devices 6 --connect --count 6 --concurrency 6 --give-up 1s --retry=100 --json",
        gate.address()
    );
    let harness = harness(gate.folder.path(), &line);
    let mut unheard = Vec::new();
    for _ in 0..6 {
        unheard.push(broker.visit().await);
    }
    broker.welcome_all();

    let run = ended(harness).await;
    assert_eq!((run.code, run.count("succeeded")), (0, 6), "{}", run.told);
    let [(word, gave_up)] = &run.errors()[..] else {
        panic!("{:?}", run.errors());
    };
    assert!(word == "gave_up" && *gave_up >= 6, "{word}: {gave_up}");
    let attempts = run.count("attempts");
    assert_eq!(attempts, 6 + gave_up);
    assert_eq!(run.micros("waited", "count"), *gave_up);
    assert!(run.micros("waited", "min") >= 990_000, "{}", run.report);
    assert!(run.micros("got_in", "min") >= 990_000, "{}", run.report);
    let storm = run.report["setup"]["storm"].as_str().expect("a storm");
    assert!(storm.contains("6 arrived, 6 got in"), "{storm}");

    let accepted = "tidegate_connections_accepted_total";
    gate.metric_becomes(accepted, &[], attempts as f64).await;
    gate.metric_becomes("tidegate_connack_total", &[], 6.0)
        .await;
}

#[tokio::test]
async fn a_ramp_begins_slowly_and_has_all_of_its_attempts() {
    let server = Server::start(None);
    let line = format!(
        "handshake {} --ca ca.pem --rate 0..100 --duration 2s --json",
        server.address
    );
    let run = bench(server.folder.path(), &line).await;
    assert_eq!((run.count("attempts"), run.count("succeeded")), (100, 100));
    let seconds = run.report["timeline"].as_array().expect("a timeline");
    let begun = |row: &Value| row["begun"].as_u64().expect("a count");
    // 25 are due in the first second; nothing begins before its time.
    assert!(begun(&seconds[0]) <= 26, "{seconds:?}");
    assert_eq!(seconds.iter().map(begun).sum::<u64>(), 100);
    let told = run.report["setup"]["load"].as_str();
    assert_eq!(told, Some("open loop, 0 to 100 per second"));
}

/// Phases follow each other in one run, and each try counts in the one in which it was due.
#[tokio::test]
async fn a_run_in_phases_tells_what_became_of_each() {
    let server = Server::start(None);
    let line = format!(
        "handshake {} --ca ca.pem --rate 40 --duration 1s --then 0:1s --then 20:1s --give-up 1s --json",
        server.address
    );
    let run = bench(server.folder.path(), &line).await;
    assert_eq!((run.count("attempts"), run.count("succeeded")), (60, 60));
    let rows = |name: &str| run.report[name].as_array().expect(name).clone();
    let count = |row: &Value, name: &str| row[name].as_u64().expect("a count");
    let phases: Vec<_> = (rows("phases").iter())
        .map(|row| {
            let begin = row["begin"].as_f64().expect("seconds");
            (begin, count(row, "begun"), count(row, "succeeded"))
        })
        .collect();
    assert_eq!(phases, [(0.0, 40, 40), (1.0, 0, 0), (2.0, 20, 20)]);
    let arrivals = rows("arrivals");
    assert_eq!(arrivals.len(), 12, "quarters of a second: {arrivals:?}");
    let begun = arrivals.iter().map(|row| count(row, "begun"));
    let even = [10, 10, 10, 10, 0, 0, 0, 0, 5, 5, 5, 5];
    assert_eq!(begun.collect::<Vec<_>>(), even);
    let lasts = run.report["setup"]["lasts"].as_str();
    let told = "1s, then 0 per second for 1s, then 20 per second for 1s";
    assert_eq!(lasts, Some(told));
}

/// They wait before they come back, for as long as the phase and the pause behind it last; and those that got in come
/// again, too.
#[tokio::test]
async fn a_fleet_keeps_coming_back_until_its_phase_is_over() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let to = silent.local_addr().expect("bound");
    let folder = tempfile::tempdir().expect("a folder");
    let fleet = "--rate 20 --duration 500ms --then 0:1500ms --give-up 200ms --json";
    let line = format!("handshake {to} --insecure {fleet} --retry --retry-after 300ms");
    let run = bench(folder.path(), &line).await;
    // Ten devices in half a second, each of which comes every half second for two; the last of them has one try less at
    // most, for what it waits beyond its time.
    let attempts = run.count("attempts");
    assert!((30..=40).contains(&attempts), "{}", run.report);
    assert_eq!(run.errors(), [("gave_up".to_owned(), attempts)]);

    let server = Server::start(None);
    let line = format!(
        "handshake {} --ca ca.pem {fleet} --return-after 500ms",
        server.address
    );
    let run = bench(server.folder.path(), &line).await;
    let attempts = run.count("attempts");
    assert!((30..=40).contains(&attempts), "{}", run.report);
    assert_eq!(run.count("succeeded"), attempts, "{}", run.report);
}

/// Several harnesses begin together: each says when it is ready, and waits.
#[tokio::test]
async fn a_run_that_is_ready_waits_for_a_line() {
    let (_sink, addresses) = sink().await;
    let gate = gate(Some(addresses)).await;
    let rest = format!(
        "{} --ca ca.pem --device-ca pki --begin-on-line --json",
        gate.address()
    );
    for (what, ready) in [
        ("handshake", 0.0),
        ("relay --connections 3 --qos 1 --duration 100ms", 3.0),
    ] {
        let count = if ready > 0.0 {
            ""
        } else {
            "--connect --count 5"
        };
        let (command, flags) = what.split_once(' ').unwrap_or((what, count));
        let mut harness = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["bench", command])
            .args(rest.split_whitespace())
            .args(flags.split_whitespace())
            .current_dir(gate.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the harness starts");
        let mut told = BufReader::new(harness.stderr.take().expect("piped")).lines();
        let line = soon("it to be ready", told.next_line()).await;
        assert_eq!(line.expect("readable").as_deref(), Some("ready"), "{what}");
        let open = gate.metric("tidegate_connections_open", &[]).await;
        assert_eq!(open, ready, "{what}");
        let mut cue = harness.stdin.take().expect("piped");
        cue.write_all(b"\n").await.expect("it reads");
        let run = ended(harness).await;
        assert_eq!((run.code, run.count("failed")), (0, 0), "{what}");
        gate.metric_becomes("tidegate_connections_open", &[], 0.0)
            .await;
    }
}

#[tokio::test]
async fn calls_come_from_the_sources_in_turn() {
    let target = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let to = target.local_addr().expect("bound");
    let folder = tempfile::tempdir().expect("a folder");
    let line = format!(
        "handshake {to} --insecure --count 6 --concurrency 1 --source 127.0.3.7 --source 127.0.4.0/30 --json"
    );
    let harness = harness(folder.path(), &line);
    let mut from = Vec::new();
    for _ in 0..6 {
        let (_hung_up, peer) = soon("a device", target.accept()).await.expect("a device");
        from.push(peer.ip().to_string());
    }
    let sources = ["127.0.3.7", "127.0.4.1", "127.0.4.2"];
    assert_eq!(from, [sources, sources].concat());
    let run = ended(harness).await;
    assert_eq!(run.count("failed"), 6, "{:?}", run.errors());
}

/// The table and the page tell the same run, and the page needs nothing but itself.
#[tokio::test]
async fn a_run_is_told_on_the_terminal_and_as_a_page() {
    let server = Server::start(None);
    let to = server.address.to_string();
    let folder = server.folder.path();
    let line = ["bench", "handshake", &to, "--insecure", "--count", "20"];
    let line = [line.as_slice(), &["--report", "run.html"]].concat();
    let (code, table, told) = tidegate(&line, folder);
    assert_eq!(code, 0, "{told}");
    assert!(table.starts_with("20 of 20 handshakes in "), "{table}");
    assert!(table.contains("NOT VERIFIED"), "{table}");

    let page = std::fs::read_to_string(folder.join("run.html")).expect("a page");
    let headline = table.lines().next().expect("a line");
    assert!(page.contains(&format!("<h1>{headline}</h1>")), "{headline}");
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
    assert!(page.contains("NOT VERIFIED") && page.contains(&to));
    let typed = format!("<td>tidegate {}</td>", line.join(" "));
    assert!(page.contains(&typed), "{typed} is not in {page}");
    let told = "too few: p90 is told of at least 10 times";
    assert!(
        page.contains(told) && table.contains("  too few  "),
        "{table}"
    );
    for fetched in [
        "<script", "<link", "<img", " src=", " href=", "url(", "@import",
    ] {
        assert!(!page.contains(fetched), "{fetched}");
    }
}

#[tokio::test]
async fn nobody_there_is_a_failure_and_a_wrong_wish_is_usage() {
    let folder = tempfile::tempdir().expect("a folder");
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let nobody = free.local_addr().expect("bound");
    drop(free);
    let run = bench(
        folder.path(),
        &format!("handshake {nobody} --insecure --count 3 --json"),
    )
    .await;
    assert_eq!(
        (run.code, run.errors()),
        (1, vec![("refused".to_owned(), 3)])
    );
    // The target is no number of times.
    let line = format!("handshake --insecure --duration 100ms --json --retry {nobody}");
    assert!(bench(folder.path(), &line).await.count("failed") > 0);

    for wrong in [
        "handshake 127.0.0.1:1",
        "handshake 127.0.0.1 --insecure",
        "handshake 127.0.0.1:1 --insecure --rate 0",
        "handshake 127.0.0.1:1 --insecure --hold",
        "handshake 127.0.0.1:1 --insecure --rate 5 --concurrency 5",
        "handshake 127.0.0.1:1 --insecure --tls 1.2 --key-exchange x25519mlkem768",
        "handshake 127.0.0.1:1 --insecure --source ::1",
        "handshake 127.0.0.1:1 --insecure --source 192.0.2.7",
        "relay 127.0.0.1:1 --insecure --pid 4194305",
        "handshake 127.0.0.1:1 --insecure --retry --count 5",
        "handshake 127.0.0.1:1 --insecure --retry-after 1s",
        "handshake 127.0.0.1:1 --insecure --then 5:1s",
        "handshake 127.0.0.1:1 --insecure --rate 5 --then 5",
        "handshake 127.0.0.1:1 --insecure --rate 5 --count 5 --then 5:1s",
        "handshake 127.0.0.1:1 --insecure --rate 5 --count 5 --return-after 1s",
        "connections 127.0.0.1:1 --insecure --connections 4000000000",
        "handshake 127.0.0.1:1 --plain",
        "handshake 127.0.0.1:1 --plain --connect --insecure",
        "handshake 127.0.0.1:1 --plain --connect --resume 0.5",
        "relay 127.0.0.1:1 --insecure --qos 2",
        "relay 127.0.0.1:1 --insecure --topic a/#",
        "relay 127.0.0.1:1 --insecure --topic a --ping-pong",
    ] {
        let run = bench(folder.path(), wrong).await;
        assert_eq!(run.code, 2, "{wrong}: {}", run.told);
        assert!(!run.told.is_empty(), "{wrong}");
    }
}

#[tokio::test]
async fn an_interrupted_run_tells_what_there_is() {
    let gate = gate(None).await;
    let line = format!(
        "handshake {} --ca ca.pem --device-ca pki --devices 5 --duration 1h --rate 50 --json",
        gate.address()
    );
    let harness = harness(gate.folder.path(), &line);
    until("some handshakes", async || {
        let done = gate
            .metric("tidegate_handshakes_total", &[("result", "ok")])
            .await;
        (done >= 5.0).then_some(())
    })
    .await;
    interrupt(&harness);

    let run = ended(harness).await;
    assert_eq!(
        (run.code, &run.report["interrupted"]),
        (0, &Value::Bool(true))
    );
    assert!(run.count("succeeded") > 0);
}

/// What was said when Ctrl-C came is confirmed: by PUBACK, by coming back, and messages of QoS 0 by the fence alone.
#[tokio::test]
async fn interrupted_messages_are_counted_as_far_as_they_went() {
    let (_sink, addresses) = sink().await;
    let gate = gate(Some(addresses)).await;
    let to_broker = [("direction", "to_broker")];
    let family = "tidegate_relayed_bytes_total";
    for flags in [
        "",
        "--rate 200",
        "--qos 1",
        "--qos 1 --rate 200",
        "--ping-pong",
    ] {
        let before = gate.metric(family, &to_broker).await;
        let line = format!(
            "relay {} --ca ca.pem --device-ca pki --connections 3 --duration 1h --json {flags}",
            gate.address()
        );
        let harness = harness(gate.folder.path(), &line);
        until("some messages", async || {
            let relayed = gate.metric(family, &to_broker).await - before;
            (relayed >= 10_000.0).then_some(())
        })
        .await;
        interrupt(&harness);

        let run = ended(harness).await;
        assert_eq!(run.code, 0, "{flags}: {}", run.told);
        assert_eq!(run.report["interrupted"], true, "{flags}");
        assert!(run.count("succeeded") >= 9, "{flags}: {}", run.report);
        assert_eq!(run.count("attempts"), run.count("succeeded"), "{flags}");
    }
}

/// A broker that acknowledges nothing: the first Ctrl-C waits for it, the second does not.
#[tokio::test]
async fn a_second_interrupt_ends_the_process() {
    let mut gate = Gate::start().await;
    save(&gate.file("pki"), &gate.authority);
    let broker = gate.take_broker();
    let line = format!(
        "relay {} --ca ca.pem --device-ca pki --connections 1 --qos 1 --duration 1h --timeout 1h",
        gate.address()
    );
    let mut harness = harness(gate.folder.path(), &line);
    let mut device = broker.welcome().await;
    device.packet().await.expect("a message");

    let ended = until("the harness to end", async || {
        let ended = harness.try_wait().expect("it is ours");
        if ended.is_none() {
            interrupt(&harness);
        }
        ended
    })
    .await;
    assert_eq!(ended.code(), Some(130));
}

#[tokio::test]
async fn an_interrupted_priming_is_the_end() {
    // It takes connections, and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let to = silent.local_addr().expect("bound");
    let folder = tempfile::tempdir().expect("a folder");
    let line = format!("handshake {to} --insecure --resume 1 --timeout 1h --duration 1h");
    let harness = harness(folder.path(), &line);
    let _held = soon("a device to come", silent.accept())
        .await
        .expect("a device");
    interrupt(&harness);

    let run = ended(harness).await;
    assert_eq!(run.code, 1);
    assert!(run.told.contains("nothing was measured"), "{}", run.told);
}

#[tokio::test]
async fn every_message_that_is_counted_went_through() {
    let (_sink, addresses) = sink().await;
    let gate = gate(Some(addresses)).await;
    let rest = format!(
        "{} --ca ca.pem --device-ca pki --connections 4 --size 500 --json",
        gate.address()
    );

    let mut payload = 0;
    for (flags, time) in [
        ("--duration 300ms", None),
        ("--duration 300ms --records packed --mqtt 5.0", None),
        ("--duration 300ms --qos 1", Some("puback")),
        ("--duration 1s --qos 1 --rate 100", Some("puback")),
        (
            "--duration 300ms --ping-pong --mqtt 3.1",
            Some("round_trip"),
        ),
        (
            "--duration 1s --ping-pong --rate 100 --mqtt 5.0",
            Some("round_trip"),
        ),
    ] {
        let line = format!("relay {rest} {flags} --pid {}", gate.pid());
        let run = bench(gate.folder.path(), &line).await;
        assert_eq!(run.code, 0, "{flags}: {}", run.told);
        let messages = run.count("succeeded");
        assert_eq!(run.count("attempts"), messages, "{flags}: {}", run.report);
        assert_eq!(run.count("payload_bytes"), messages * 500, "{flags}");
        if let Some(time) = time {
            assert_eq!(run.micros(time, "count"), messages, "{flags}");
        }
        if flags.contains("--rate 100") {
            assert_eq!(messages, 100, "{flags}");
        }
        assert!(
            run.report["server"]["cpu_ns_per_byte"].as_f64() > Some(0.0),
            "{flags}"
        );
        payload += run.count("payload_bytes");
    }
    gate.metric_becomes("tidegate_connections_open", &[], 0.0)
        .await;
    let to_broker = [("direction", "to_broker")];
    let relayed = gate
        .metric("tidegate_relayed_bytes_total", &to_broker)
        .await;
    assert!(relayed >= payload as f64, "{relayed} of {payload}");
}

#[tokio::test]
async fn a_message_that_the_broker_refuses_is_a_failure() {
    let mut gate = Gate::start().await;
    save(&gate.file("pki"), &gate.authority);
    let broker = gate.take_broker();
    let line = format!(
        "relay {} --ca ca.pem --device-ca pki --connections 1 --qos 1 --mqtt 5.0 --duration 1h --in-flight 2 --json",
        gate.address()
    );
    let harness = harness(gate.folder.path(), &line);
    let mut device = broker.welcome().await;
    let mut told = 0;
    while let Some(packet) = device.packet().await {
        match packet[0] >> 4 {
            // Behind the topic's length, "devices/bench-000001/bench" and no properties.
            3 => {
                let topic = usize::from(packet[4]) + 5;
                let code = if told == 0 { 0x97 } else { 0x10 };
                told += 1;
                device
                    .say(&[0x40, 3, packet[topic], packet[topic + 1], code])
                    .await;
                if told == 10 {
                    interrupt(&harness);
                }
            }
            12 => device.say(&[0xd0, 0]).await,
            _ => {}
        }
    }
    let run = ended(harness).await;
    assert_eq!(run.code, 0, "{}", run.told);
    assert_eq!(run.errors(), [("publish_refused".to_owned(), 1)]);
    assert_eq!(run.count("succeeded"), told - 1, "{}", run.report);
    assert!(run.told.contains("code 0x97"), "{}", run.told);
}

#[tokio::test]
async fn connections_are_held_and_their_cost_is_told() {
    let (_sink, addresses) = sink().await;
    let gate = gate(Some(addresses)).await;
    let line = format!(
        "connections {} --ca ca.pem --device-ca pki --connections 30 --hold 1s --keep-alive 200ms --json --pid {}",
        gate.address(),
        gate.pid()
    );
    let run = bench(gate.folder.path(), &line).await;
    assert_eq!(run.code, 0, "{}", run.told);
    assert_eq!((run.count("succeeded"), run.errors()), (30, vec![]));
    assert!(run.micros("ping", "count") >= 30, "{}", run.report);
    // The report is of the whole run, its rate of the opening.
    let seconds = |name: &str| run.report[name].as_f64().expect("a number");
    assert!(seconds("seconds") >= 1.0 && seconds("rated_seconds") < seconds("seconds"));
    let server = &run.report["server"];
    assert!(server["resident_kib_each"].as_f64() > Some(0.0), "{server}");
    assert!(server["cpu_us_at_rest"].as_f64().is_some(), "{server}");
    assert!(server["seconds_at_rest"].as_f64() >= Some(1.0), "{server}");
}

#[tokio::test]
async fn handshakes_that_are_held_and_lost_are_failures() {
    let mut gate = gate(None).await;
    let line = format!(
        "handshake {} --ca ca.pem --device-ca pki --connect --rate 20 --duration 4s --hold --json",
        gate.address()
    );
    let harness = harness(gate.folder.path(), &line);
    until("connections to be held", async || {
        let open = gate.metric("tidegate_connections_open", &[]).await;
        (open >= 10.0).then_some(())
    })
    .await;
    gate.signal("TERM");
    gate.signal("TERM");
    gate.exit().await;

    let run = ended(harness).await;
    assert_eq!((run.code, run.count("succeeded")), (1, 0), "{}", run.told);
    let held = run.errors().into_iter();
    let held = held.filter(|(word, _)| word.ends_with("_while_held"));
    let held: u64 = held.map(|(_, count)| count).sum();
    assert!(held >= 10, "{:?}", run.errors());
    assert_eq!(run.count("attempts"), run.count("failed"), "{}", run.report);
}

#[tokio::test]
async fn connections_that_are_lost_while_held_are_failures() {
    let gate = gate(None).await;
    let line = format!(
        "connections {} --ca ca.pem --device-ca pki --connections 10 --hold 1h --json",
        gate.address()
    );
    let harness = harness(gate.folder.path(), &line);
    gate.metric_becomes("tidegate_connections_open", &[], 10.0)
        .await;
    gate.signal("TERM");
    gate.signal("TERM");

    let run = ended(harness).await;
    assert_eq!((run.code, run.count("succeeded")), (1, 0), "{}", run.told);
    let errors = run.errors();
    assert!(
        errors.iter().all(|(word, _)| word.ends_with("_while_held")),
        "{errors:?}"
    );
    assert_eq!(errors.iter().map(|(_, count)| count).sum::<u64>(), 10);
}
