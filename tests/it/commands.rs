//! The command line: what is asked wrongly is told with the way out, and what is made works with the gate.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tidegate::mqtt::Version;
use tidegate::pki::{Authority, Order, Validity};
use tokio::net::TcpStream;

use crate::support::device::{Answer, BOTH, Device, connect};
use crate::support::gate::{Gate, MUTUAL, Plan, lay_out, tidegate};
use crate::support::{soon, until};

const CONFIG: &str = "tidegate.toml";

/// A folder with a good configuration and its files.
async fn good() -> tempfile::TempDir {
    lay_out(&Plan::default()).await.0
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).expect("a readable file")
}

/// The flags of a sidecar, as the README has them.
fn sidecar(broker: &str) -> Vec<String> {
    let line = format!(
        "--listen 127.0.0.1:0 --mode mutual-tls --certificate server.pem --key server.key --client-ca ca.pem \
         --broker mqtt://{broker} --admin 127.0.0.1:0"
    );
    line.split_whitespace().map(str::to_owned).collect()
}

// ── run

/// Without a file: flags alone, the rest from the environment, and devices are served.
#[tokio::test]
async fn a_sidecar_needs_no_file() {
    let broker = crate::support::broker::Broker::start().await;
    let gate = Gate::plan(Plan {
        flags: Some(sidecar(&broker.address.to_string())),
        env: [
            ("TIDEGATE_CONNECT__USERNAME", "edge:{device}"),
            ("TIDEGATE_LOG__FORMAT", "json"),
            ("TIDEGATE_SERVICE_HOST", "10.0.0.1"), // Kubernetes gives this to every container
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec(),
        ..Plan::default()
    })
    .await;
    let device = gate.device("meter-7");

    let asks = connect("anybody", Version::V5);
    let ((answer, _link), visit) = tokio::join!(device.asks(&asks), broker.welcome());

    assert_eq!(answer, Answer::Admitted);
    assert_eq!(visit.connect.client_id, "meter-7");
    assert_eq!(visit.connect.username.as_deref(), Some("edge:meter-7"));
    assert_eq!(gate.admin_get("/livez").await.0, 200);
}

/// Exit code 2 for usage and configuration, and a sentence for each fault, by key, with the way out.
#[tokio::test]
async fn what_is_asked_wrongly_is_told() {
    let folder = good().await;
    for (arguments, told) in [
        (&["run", "--lisen", "x"][..], "--lis"),
        (&["walk"], "walk"),
        (&[], "Usage"),
        (&["run", "--config", "nowhere.toml"], "nowhere.toml"),
        (&["healthcheck", "--timeout", "soon"], "--timeout"),
        (&["ca", "init"], "<DIR>"),
        (&["device", "add", "a/b", "--ca", "x", "--out", "y"], "a/b"),
        (&["ca", "server", "--ca", "x", "--out", "y"], "--san"),
    ] {
        let (code, out, err) = tidegate(arguments, folder.path());
        assert_eq!(code, 2, "{arguments:?}: {err}");
        assert_eq!(out, "", "{arguments:?}");
        assert!(err.contains(told), "{arguments:?}: {err}");
        assert!(!err.contains("panicked"), "{err}");
    }

    let faulty = text(&folder.path().join(CONFIG))
        .replace("mode = ", "mod = ")
        .replace(
            "[limits]",
            "[limits]\nconnections = 0\nconnect_timeout = 10",
        );
    std::fs::write(folder.path().join(CONFIG), faulty).expect("written");
    for command in ["run", "config"] {
        let (code, out, err) = tidegate(&[command], folder.path());
        assert_eq!((code, out.as_str()), (2, ""), "{err}");
        for told in [
            "listener[devices].mod: ",
            "did you mean mode?",
            "limits.connections: ",
            "limits.connect_timeout: ",
        ] {
            assert!(err.contains(told), "{told} is not in\n{err}");
        }
    }
}

/// Exit code 1 for an address that somebody else has, by key.
#[tokio::test]
async fn an_address_in_use_is_a_failure() {
    let folder = good().await;
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = holder.local_addr().expect("bound").to_string();
    for (variable, key) in [
        ("TIDEGATE_ADMIN__BIND", "admin.bind"),
        ("TIDEGATE_LISTENER__0__BIND", "listener[devices].bind"),
    ] {
        let run = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .arg("run")
            .current_dir(folder.path())
            .env_clear()
            .env(variable, &taken)
            .output()
            .expect("the binary runs");
        let told = String::from_utf8(run.stderr).expect("UTF-8");
        assert_eq!(run.status.code(), Some(1), "{told}");
        let way_out = told.contains(key) && told.contains(&taken) && told.contains("in use");
        assert!(way_out, "{told}");
    }
    drop(holder);
}

/// A second gate on the port of the first would share it, and take half of its devices, without a word.
#[tokio::test]
async fn a_second_gate_on_one_port_is_a_failure() {
    let first = Gate::start().await;
    let folder = good().await;
    for ip in ["127.0.0.1", "0.0.0.0"] {
        let taken = format!("{ip}:{}", first.address().port());
        let run = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .arg("run")
            .current_dir(folder.path())
            .env_clear()
            .env("TIDEGATE_LISTENER__0__BIND", &taken)
            .kill_on_drop(true)
            .output();
        let run = soon("the second gate to end", run).await;
        let run = run.expect("the binary runs");
        let told = String::from_utf8(run.stderr).expect("UTF-8");
        assert_eq!(run.status.code(), Some(1), "{told}");
        let fault = format!("listener[devices].bind: cannot listen on {taken}");
        assert!(
            told.contains(&fault) && told.contains("another gate"),
            "{told}"
        );
    }
}

/// A second gate beside the first has none of its ports; all of them are told at once.
#[tokio::test]
async fn every_address_in_use_is_told() {
    let first = Gate::start().await;
    let folder = good().await;
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
    let admin = holder.local_addr().expect("bound").to_string();
    let devices = first.address().to_string();
    let run = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .arg("run")
        .current_dir(folder.path())
        .env_clear()
        .env("TIDEGATE_ADMIN__BIND", &admin)
        .env("TIDEGATE_LISTENER__0__BIND", &devices)
        .kill_on_drop(true)
        .output();
    let run = soon("the second gate to end", run).await;
    let run = run.expect("the binary runs");
    let told = String::from_utf8(run.stderr).expect("UTF-8");
    assert_eq!(run.status.code(), Some(1), "{told}");
    for fault in [
        format!("tidegate: admin.bind: cannot listen on {admin}: "),
        format!("tidegate: listener[devices].bind: cannot listen on {devices}: "),
    ] {
        assert!(told.contains(&fault), "{fault} is not in\n{told}");
    }
    drop(holder);
}

/// A gate comes back to its port at once, whatever connections of the one before are still closing.
#[tokio::test]
async fn a_gate_comes_back_to_its_port_at_once() {
    let mut first = Gate::start().await;
    let address = first.address();
    let device = first.device("meter-7");
    let (_, visit) = tokio::join!(
        device.connects_as("meter-7", Version::V311),
        first.broker().welcome()
    );
    first.signal("TERM"); // it closes first, and its end of the connection stays behind in TIME_WAIT
    assert_eq!(first.exit().await.code(), Some(0));
    drop(visit);

    let listeners = format!(
        "{}[[trust]]\nname = \"fleet\"\nca = [\"ca.pem\"]\n",
        MUTUAL.replace("127.0.0.1:0", &address.to_string())
    );
    let second = Gate::plan(Plan {
        listeners: Some(listeners),
        ..Plan::default()
    })
    .await;
    assert_eq!(second.address(), address);
}

#[tokio::test]
async fn a_missing_key_file_is_told_by_check_and_run_alike() {
    let folder = good().await;
    std::fs::remove_file(folder.path().join("server.key")).expect("removed");
    for (command, to_stdout) in [("check", true), ("run", false)] {
        let (code, out, err) = tidegate(&[command], folder.path());
        assert_eq!(code, 2, "{out}{err}");
        let told = if to_stdout { out } else { err };
        assert!(told.contains("listener[devices].tls.key"), "{told}");
        assert!(told.contains("server.key"), "{told}");
    }
}

// ── check and config

#[tokio::test]
async fn check_finds_a_good_configuration_good() {
    let folder = good().await;
    let (code, out, err) = tidegate(&["check"], folder.path());
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("good, no faults, no warnings"), "{out}");

    let (code, out, _) = tidegate(&["check", "--json"], folder.path());
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &report["ok"]), (0, &true.into()));
}

/// Where there is nothing at all, it is the file that is missing.
#[test]
fn an_empty_folder_has_no_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let told = "tidegate.toml: cannot read the configuration: no such file or directory; write one, name another by \
                --config FILE, or use flags alone (tidegate run --help)\n";
    let (code, out, _) = tidegate(&["check"], folder.path());
    let summary = "tidegate.toml: not good, 1 fault, no warnings\n";
    assert_eq!((code, out), (2, format!("fault: {told}{summary}")));
    for command in ["run", "config"] {
        let (code, _, err) = tidegate(&[command], folder.path());
        let summary = "tidegate: tidegate.toml: 1 thing is wrong; nothing was started\n";
        assert_eq!((code, err), (2, format!("tidegate: {told}{summary}")));
    }
}

/// Every fault at once: of the configuration and of the files it names.
#[tokio::test]
async fn check_tells_every_fault_at_once() {
    let folder = good().await;
    let path = folder.path().join(CONFIG);
    let other = Authority::new("Other CA").expect("a CA");
    let other = other.server(&["localhost"]).expect("issued");
    std::fs::write(folder.path().join("server.key"), other.key_pem()).expect("written");
    std::fs::write(folder.path().join("empty.pem"), "").expect("written");
    let faulty = text(&path)
        .replace(
            "ca = [\"ca.pem\"]",
            "ca = [\"empty.pem\"]\ncrl = [\"nowhere.crl\"]",
        )
        .replace("[limits]", "[limits]\nconection = 5\n");
    std::fs::write(&path, faulty).expect("written");

    let (code, out, _) = tidegate(&["check", "--json"], folder.path());

    assert_eq!(code, 2);
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(report["ok"], false);
    let found = report["faults"].as_array().expect("a list");
    for (key, told) in [
        ("limits.conection", "connections"),
        ("trust[fleet].ca", "empty.pem"),
        ("trust[fleet].crl", "nowhere.crl"),
        ("listener[devices].tls.key", "server.key"),
    ] {
        let known = found.iter().any(|fault| {
            fault["key"] == key && fault["why"].as_str().is_some_and(|why| why.contains(told))
        });
        assert!(known, "{key}: {told} is not in {out}");
    }

    // `run` does not tell them in rounds.
    let (code, _, err) = tidegate(&["run"], folder.path());
    assert_eq!(code, 2);
    for fault in found {
        let (key, why) = (fault["key"].as_str(), fault["why"].as_str());
        let line = format!("tidegate: {}: {}", key.expect("text"), why.expect("text"));
        assert!(err.contains(&line), "{line} is not in\n{err}");
    }
    let summary = format!("{} things are wrong; nothing was started", found.len());
    assert!(err.contains(&summary), "{err}");
}

/// A certificate near its end is a warning, not a fault.
#[tokio::test]
async fn check_warns_of_a_certificate_near_its_end() {
    let plan = Plan::default();
    let order = Order::server(&["localhost"]).expect("a name");
    let server = plan
        .authority
        .issue(order.valid(Validity::days(3)))
        .expect("issued");
    let (folder, _broker) = lay_out(&plan).await;
    std::fs::write(folder.path().join("server.pem"), server.chain_pem()).expect("written");
    std::fs::write(folder.path().join("server.key"), server.key_pem()).expect("written");

    let (code, out, _) = tidegate(&["check"], folder.path());

    assert_eq!(code, 0, "{out}");
    let warned = out.lines().any(|line| {
        line.starts_with("warning: listener[devices].tls") && line.contains("have it renewed")
    });
    assert!(warned, "{out}");
}

/// threats.md T8, T9: devices of a CA without a list would all be refused as soon as another CA of its group has one.
#[tokio::test]
async fn check_warns_of_a_ca_that_has_no_list_beside_one_that_has() {
    let other = Authority::new("Vendor CA").expect("a CA");
    let plan = Plan {
        trust: "crl = [\"list.pem\"]".into(),
        ..Plan::default()
    };
    let from = Validity::days(0).not_after;
    let list = plan
        .authority
        .crl::<&[u8]>(&[], from - 60, from + 24 * 3600);
    let list = list.expect("a list").pem().expect("PEM");
    let both = [plan.authority.certificate_pem(), other.certificate_pem()].concat();
    let (folder, _broker) = lay_out(&plan).await;
    std::fs::write(folder.path().join("list.pem"), list).expect("written");
    std::fs::write(folder.path().join("ca.pem"), both).expect("written");

    let (code, out, _) = tidegate(&["check"], folder.path());

    assert_eq!(code, 0, "{out}");
    let warnings: Vec<_> = out
        .lines()
        .filter(|line| line.starts_with("warning: "))
        .collect();
    assert_eq!(
        warnings,
        [
            "warning: trust[fleet].crl: \"CN=Vendor CA\" has no revocation list, so devices that it issued are refused (crl_missing); \
          add its list"
        ],
        "{out}"
    );
}

/// What `config` prints can be used as a file, and then prints itself; secrets stay in their own files.
#[tokio::test]
async fn config_prints_what_can_be_used_as_a_file() {
    let folder = good().await;
    std::fs::write(folder.path().join("broker.secret"), "open-sesame-1234\n").expect("written");
    let path = folder.path().join(CONFIG);
    let more = text(&path) + "[connect]\npassword_file = \"broker.secret\"\n";
    std::fs::write(&path, more).expect("written");
    let (code, first, err) = tidegate(&["config"], folder.path());
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(!first.contains("open-sesame"), "{first}");
    assert!(first.contains("broker.secret"), "{first}");

    let second = folder.path().join("second.toml");
    std::fs::write(&second, &first).expect("written");
    let (code, again, err) = tidegate(&["config", "--config", "second.toml"], folder.path());

    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(first, again);
    let (code, out, _) = tidegate(&["check", "--config", "second.toml"], folder.path());
    assert_eq!(code, 0, "{out}");
}

/// Flags win over the environment, that over the file, that over defaults.
#[tokio::test]
async fn who_wins_is_as_promised() {
    let folder = good().await;
    let in_force = |arguments: &[&str]| {
        let run = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .arg("config")
            .args(arguments)
            .current_dir(folder.path())
            .env_clear()
            .env("TIDEGATE_LIMITS__CONNECTIONS", "5000")
            .env("TIDEGATE_ADMIN__BIND", "127.0.0.1:1111")
            .output()
            .expect("the binary runs");
        String::from_utf8(run.stdout).expect("UTF-8")
    };
    let told = in_force(&["--admin", "127.0.0.1:2222"]);
    let told: toml::Table = told.parse().expect("TOML");
    assert_eq!(told["limits"]["connections"].as_integer(), Some(5000));
    assert_eq!(told["admin"]["bind"].as_str(), Some("127.0.0.1:2222"));
    assert_eq!(told["log"]["format"].as_str(), Some("json"));
    assert_eq!(told["broker"]["dial_timeout"].as_str(), Some("3s"));
}

// ── healthcheck

#[tokio::test]
async fn healthcheck_tells_by_its_exit_code() {
    let mut gate = Gate::start().await;
    let folder = gate.folder.path().to_owned();
    let address = gate.admin.to_string();
    let healthcheck =
        |arguments: &[&str]| tidegate(&[&["healthcheck"], arguments].concat(), &folder);
    until("the gate to be ready", async || {
        (healthcheck(&["--address", &address]).0 == 0).then_some(())
    })
    .await;
    // It finds the address in the configuration; port 0 cannot be asked.
    let (code, _, told) = healthcheck(&[]);
    assert_eq!(code, 1);
    assert!(told.contains("--address"), "{told}");
    let run = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .arg("healthcheck")
        .current_dir(&folder)
        .env_clear()
        .env("TIDEGATE_ADMIN__BIND", &address)
        .status()
        .expect("the binary runs");
    assert_eq!(run.code(), Some(0));

    gate.signal("TERM");
    assert_eq!(gate.exit().await.code(), Some(0));
    let (code, out, told) = healthcheck(&["--address", &address]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(told.contains("nothing listens there"), "{told}");
    // Somebody who listens and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("bound").to_string();
    let (code, _, told) = healthcheck(&["--address", &address, "--timeout", "100ms"]);
    assert_eq!(code, 1);
    assert!(told.contains("no answer within 100ms"), "{told}");
}

// ── ca and device

fn mode(path: &Path) -> u32 {
    let metadata = std::fs::metadata(path).expect("it is there");
    metadata.permissions().mode() & 0o777
}

/// A trial needs no openssl: what `ca` and `device` make works with the gate, and keys are their owner's alone.
#[tokio::test]
async fn a_trial_from_nothing_to_a_device_that_is_served() {
    let home = tempfile::tempdir().expect("a folder");
    let typed = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (code, out, err) = tidegate(&words, home.path());
        assert_eq!((code, err.as_str()), (0, ""), "{line}");
        out
    };
    let told = typed("ca init pki");
    assert!(told.contains("tidegate ca server --ca pki"), "{told}");
    let told = typed("ca server --ca pki --san localhost --san 127.0.0.1 --out pki");
    assert!(told.contains("tidegate device add"), "{told}");
    assert!(told.contains("--client-ca pki/ca.pem"), "{told}");
    let told = typed("device add meter-7 --ca pki --out devices");
    assert!(told.contains("mosquitto_pub"), "{told}");
    for key in ["pki/ca.key", "pki/server.key", "devices/meter-7.key"] {
        assert_eq!(mode(&home.path().join(key)), 0o600, "{key}");
        assert!(
            text(&home.path().join(key)).contains("PRIVATE KEY"),
            "{key}"
        );
    }
    for public in [
        "pki/ca.pem",
        "pki/ca.crl",
        "pki/server.pem",
        "devices/meter-7.pem",
    ] {
        assert!(
            !text(&home.path().join(public)).contains("PRIVATE"),
            "{public}"
        );
    }

    // Nothing is ever overwritten, and the message has the way out.
    let before = text(&home.path().join("devices/meter-7.key"));
    for line in [
        "ca init pki",
        "ca server --ca pki --san localhost --out pki",
        "device add meter-7 --ca pki --out devices",
    ] {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (code, out, told) = tidegate(&words, home.path());
        assert_eq!((code, out.as_str()), (1, ""), "{line}");
        assert!(
            told.contains("never overwritten; name another folder"),
            "{told}"
        );
    }
    assert_eq!(text(&home.path().join("devices/meter-7.key")), before);

    let at = |name: &str| home.path().join(name).display().to_string();
    let broker = crate::support::broker::Broker::start().await;
    let mut flags = sidecar(&broker.address.to_string());
    for flag in &mut flags {
        *flag = match flag.as_str() {
            "server.pem" => at("pki/server.pem"),
            "server.key" => at("pki/server.key"),
            "ca.pem" => at("pki/ca.pem"),
            other => other.to_owned(),
        };
    }
    flags.extend(["--crl".into(), at("pki/ca.crl")]);
    let gate = Gate::plan(Plan {
        flags: Some(flags),
        ..Plan::default()
    })
    .await;
    let ca = CertificateDer::from_pem_file(at("pki/ca.pem")).expect("the CA");
    let chain = CertificateDer::pem_file_iter(at("devices/meter-7.pem"))
        .expect("its chain")
        .map(|certificate| certificate.expect("PEM"))
        .collect();
    let key = PrivateKeyDer::from_pem_file(at("devices/meter-7.key")).expect("its key");
    let device = Device::new(gate.address(), &ca, Some((chain, key)), BOTH);
    let asks = connect("", Version::V311);
    let ((answer, _link), visit) = tokio::join!(device.asks(&asks), broker.welcome());
    assert_eq!(answer, Answer::Admitted);
    assert_eq!(visit.connect.client_id, "meter-7");
    assert!(
        gate.lines("configuration").is_empty(),
        "no warnings in a fresh trial"
    );
}

#[test]
fn what_pki_cannot_do_is_told_with_the_way_out() {
    let home = tempfile::tempdir().expect("a folder");
    for (line, code, told) in [
        (
            "device add meter-7 --ca pki --out devices",
            1,
            "`tidegate ca init` makes a CA",
        ),
        (
            "ca server --ca pki --san localhost --out pki",
            1,
            "`tidegate ca init` makes a CA",
        ),
        ("ca init /dev/null/pki", 1, "cannot write"),
    ] {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (ended, out, err) = tidegate(&words, home.path());
        assert_eq!((ended, out.as_str()), (code, ""), "{err}");
        assert!(err.starts_with("tidegate: ") && err.contains(told), "{err}");
    }
    let (code, ..) = tidegate(&["ca", "init", "pki"], home.path());
    assert_eq!(code, 0);
    let server = [
        "ca",
        "server",
        "--ca",
        "pki",
        "--out",
        "x",
        "--san",
        "not a name",
    ];
    let (code, _, err) = tidegate(&server, home.path());
    assert_eq!(code, 2, "{err}");
    assert!(
        err.contains("neither a DNS name nor an IP address"),
        "{err}"
    );
    assert!(!home.path().join("x").exists(), "nothing was made");
}

// ── help

/// Every command shows examples, and fits a terminal of 100 columns.
#[test]
fn every_help_has_examples_and_fits() {
    let home = tempfile::tempdir().expect("a folder");
    for command in [
        "",
        "run",
        "check",
        "config",
        "explain",
        "healthcheck",
        "ca init",
        "ca server",
        "device add",
        "bench handshake",
        "bench connections",
        "bench relay",
        "bench sink",
    ] {
        for help in ["--help", "-h"] {
            let words: Vec<&str> = command.split_whitespace().chain([help]).collect();
            let (code, out, err) = tidegate(&words, home.path());
            assert_eq!((code, err.as_str()), (0, ""), "{words:?}");
            assert!(out.contains("Usage: tidegate"), "{words:?}: {out}");
            let examples = out.split_once("Examples:").expect("examples").1;
            let own = format!("tidegate {command}");
            assert!(examples.contains(own.trim_end()), "{words:?}: {out}");
            for line in out.lines() {
                let wide = line.chars().count();
                assert!(wide <= 100, "{words:?}: {wide} columns: {line}");
            }
        }
    }
    let (_, out, _) = tidegate(&["run", "--help"], home.path());
    assert!(out.contains("Tokens are"), "{out}");
    for command in ["ca", "device", "bench"] {
        let (code, out, _) = tidegate(&[command, "--help"], home.path());
        assert_eq!(code, 0);
        assert!(out.contains("Commands:"), "{out}");
    }
    let (code, out, _) = tidegate(&["--version"], home.path());
    assert_eq!(
        (code, out.as_str()),
        (0, concat!("tidegate ", env!("CARGO_PKG_VERSION"), "\n"))
    );
}

/// A reader that goes away early, as `head` does, is no reason to fail or to panic.
#[tokio::test]
async fn a_closed_standard_output_is_no_fault() {
    let folder = good().await;
    for arguments in [
        &["config"][..],
        &["check"],
        &["--help"],
        &["ca", "init", "pki"],
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let run = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(arguments)
            .current_dir(folder.path())
            .env_clear()
            .stdout(writer)
            .output()
            .expect("the binary runs");
        let told = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(0), "{arguments:?}: {told}");
        assert!(!told.contains("panicked"), "{arguments:?}: {told}");
    }
}

/// A plain listener takes TCP as it is; without tokens it refuses every device, and says so to its operator.
#[tokio::test]
async fn a_mode_that_knows_no_device_yet_is_warned_of() {
    let listeners = MUTUAL.replace("mutual-tls", "plain");
    let listeners = listeners.split("[listener.tls]").next().expect("a front");
    let gate = Gate::plan(Plan {
        listeners: Some(listeners.into()),
        ..Plan::default()
    })
    .await;
    let told = gate
        .line("configuration", |line| line["level"] == "warn")
        .await;
    assert!(
        told["why"]
            .as_str()
            .is_some_and(|why| why.contains("token")),
        "{told}"
    );
    let answer = Device::plain(gate.address())
        .connects_as("x", Version::V5)
        .await;
    assert_eq!(answer, Answer::Refused(0x87));
    drop(soon("the kernel", TcpStream::connect(gate.address())).await);
}
