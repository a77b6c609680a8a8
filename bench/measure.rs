//! One small, honest measurement: what a full mutual-TLS handshake with CONNECT costs the gate in CPU time, and what an
//! idle connection holds in memory; beside a minimal tokio-rustls proxy, in the same run, on the same core.
//!
//! ```text
//! cargo bench --bench measure
//! cargo bench --bench measure -- --handshakes 5000 --idle 5000 --rounds 5 --tls 1.2
//! ```
//!
//! CPU time is that of the server process (all its threads), memory the growth of its resident set; both are steadier
//! than rates. The server runs on core 0, load and broker on the others. Rounds alternate; medians are printed.

#![allow(
    clippy::cast_precision_loss,
    reason = "nanoseconds and kibibytes of one run are far below 2^52"
)]

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Parser as _;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tidegate::mqtt::Version;
use tidegate::mqtt::connect::Connect;
use tidegate::mqtt::properties::Properties;
use tidegate::pki::Authority;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

#[path = "minimal_proxy.rs"]
#[allow(dead_code, reason = "its main is that of the program")]
mod minimal_proxy;

/// How many devices handshake at once.
const AT_ONCE: usize = 16;

struct Plan {
    handshakes: usize,
    idle: usize,
    rounds: usize,
    tls: &'static rustls::SupportedProtocolVersion,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments
        .first()
        .is_some_and(|word| word == "minimal-proxy")
    {
        minimal_proxy::MinimalProxy::parse_from(arguments).run();
        return;
    }
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(measure(&plan(&arguments)));
}

fn plan(arguments: &[String]) -> Plan {
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)
    };
    let number =
        |name, default| value(name).map_or(default, |text| text.parse().expect("a number"));
    Plan {
        handshakes: number("--handshakes", 2000),
        idle: number("--idle", 2000),
        rounds: number("--rounds", 3),
        tls: match value("--tls").map(String::as_str) {
            Some("1.2") => &rustls::version::TLS12,
            _ => &rustls::version::TLS13,
        },
    }
}

async fn measure(plan: &Plan) {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new("Bench CA").expect("a CA");
    let server = authority.server(&["localhost"]).expect("issued");
    let put =
        |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
    put("ca.pem", authority.certificate_pem());
    put("server.pem", &server.chain_pem());
    put("server.key", &server.key_pem());
    let broker = sink_broker().await;
    put("tidegate.toml", &configuration(broker));
    let devices = devices(&authority, plan);

    let mut cpu = [Vec::new(), Vec::new()];
    let mut memory = [Vec::new(), Vec::new()];
    for round in 1..=plan.rounds {
        for (which, name) in ["tidegate", "minimal proxy"].into_iter().enumerate() {
            let server = Server::start(which == 0, folder.path(), broker);
            handshakes(server.address, &devices, AT_ONCE * 8).await; // warm up
            let before = server.cpu_ns();
            handshakes(server.address, &devices, plan.handshakes).await;
            let each = (server.cpu_ns() - before) as f64 / plan.handshakes as f64 / 1000.0;
            let empty = server.resident_kib();
            let held = hold(server.address, &devices, plan.idle).await;
            let kib = (server.resident_kib() as f64 - empty as f64) / plan.idle as f64;
            drop(held);
            println!(
                "round {round}: {name:<14} {each:7.1} µs of CPU per handshake + CONNECT   {kib:5.1} KiB per idle connection"
            );
            cpu[which].push(each);
            memory[which].push(kib);
        }
    }
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let [gate_cpu, base_cpu] = cpu.each_mut().map(median);
    let [gate_memory, base_memory] = memory.each_mut().map(median);
    println!();
    println!(
        "TLS {}, full mutual-TLS handshakes, ECDSA P-256, {} at once; medians of {}",
        version(plan),
        AT_ONCE,
        plan.rounds
    );
    println!(
        "handshake + CONNECT + CONNACK  {gate_cpu:7.1} µs   {:.2} × minimal proxy ({base_cpu:.1} µs)",
        gate_cpu / base_cpu
    );
    println!(
        "idle connection                {gate_memory:7.1} KiB  {:.2} × minimal proxy ({base_memory:.1} KiB), {} held",
        gate_memory / base_memory,
        plan.idle
    );
}

fn version(plan: &Plan) -> &'static str {
    if plan.tls.version == rustls::ProtocolVersion::TLSv1_2 {
        "1.2"
    } else {
        "1.3"
    }
}

fn configuration(broker: SocketAddr) -> String {
    format!(
        r#"
[[listener]]
name = "devices"
bind = "127.0.0.1:0"
mode = "mutual-tls"
[listener.tls]
certificate = "server.pem"
key = "server.key"
[[trust]]
name = "fleet"
ca = ["ca.pem"]
[broker]
addresses = ["mqtt://{broker}"]
[admin]
bind = "127.0.0.1:0"
[log]
format = "json"
"#
    )
}

/// A server under measurement, on core 0 if `taskset` is there.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(gate: bool, folder: &Path, broker: SocketAddr) -> Self {
        let program = if gate {
            env!("CARGO_BIN_EXE_tidegate").to_owned()
        } else {
            std::env::current_exe()
                .expect("this program")
                .to_string_lossy()
                .into_owned()
        };
        let file = |name: &str| folder.join(name).to_string_lossy().into_owned();
        let arguments = if gate {
            vec![
                "run".to_owned(),
                "--config".to_owned(),
                file("tidegate.toml"),
            ]
        } else {
            [
                ("--listen", "127.0.0.1:0".to_owned()),
                ("--broker", broker.to_string()),
                ("--certificate", file("server.pem")),
                ("--key", file("server.key")),
                ("--client-ca", file("ca.pem")),
            ]
            .into_iter()
            .fold(
                vec!["minimal-proxy".to_owned()],
                |mut all, (flag, value)| {
                    all.extend([flag.to_owned(), value]);
                    all
                },
            )
        };
        let pinned = Command::new("taskset")
            .arg("-V")
            .stdout(Stdio::null())
            .status()
            .is_ok();
        let mut command = if pinned {
            let mut command = Command::new("taskset");
            command.args(["-c", "0", &program]);
            command
        } else {
            Command::new(program)
        };
        let mut child = command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let address = loop {
            let line = lines
                .next()
                .expect("the server says where it listens")
                .expect("text");
            let told: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            if told["event"] == "listening" && told["listener"] == "devices" {
                break told["address"]
                    .as_str()
                    .expect("ip:port")
                    .parse()
                    .expect("ip:port");
            }
        };
        // Its log is read and forgotten: an unread pipe would be a load of its own.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }

    /// CPU time of all its threads, in nanoseconds.
    fn cpu_ns(&self) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it lives");
        tasks
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
            .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
            .sum()
    }

    /// Its resident set, in KiB.
    fn resident_kib(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it lives");
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .expect("a field");
        line.split_whitespace()
            .nth(1)
            .expect("a value")
            .parse()
            .expect("a number")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Takes every CONNECT, admits, and holds the connection until it ends.
async fn sink_broker() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 512];
                if matches!(socket.read(&mut buffer).await, Ok(1..)) {
                    let _ = socket.write_all(&[0x20, 2, 0, 0]).await;
                }
                while matches!(socket.read(&mut buffer).await, Ok(1..)) {}
            });
        }
    });
    address
}

/// Some devices of one fleet, each with its own certificate.
fn devices(authority: &Authority, plan: &Plan) -> Vec<(TlsConnector, Vec<u8>)> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone()).expect("a CA");
    let roots = Arc::new(roots);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    (0..64)
        .map(|number| {
            let id = format!("device-{number}");
            let issued = authority
                .device(&id.parse().expect("a device id"))
                .expect("issued");
            let mut config = ClientConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(&[plan.tls])
                .expect("versions")
                .with_root_certificates(roots.clone())
                .with_client_auth_cert(issued.chain(), issued.key())
                .expect("a key that fits");
            config.resumption = rustls::client::Resumption::disabled();
            let connect = Connect {
                version: Version::V311,
                clean_start: true,
                keep_alive: 0,
                properties: Properties::default(),
                client_id: id,
                will: None,
                username: None,
                password: None,
            };
            (
                TlsConnector::from(Arc::new(config)),
                connect.encode().expect("it fits"),
            )
        })
        .collect()
}

async fn connect(
    server: SocketAddr,
    (connector, packet): &(TlsConnector, Vec<u8>),
) -> TlsStream<TcpStream> {
    let socket = TcpStream::connect(server)
        .await
        .expect("the server takes it");
    socket.set_nodelay(true).expect("a socket");
    let name = ServerName::try_from("localhost").expect("a name");
    let mut stream = connector.connect(name, socket).await.expect("a handshake");
    stream.write_all(packet).await.expect("sent");
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).await.expect("a CONNACK");
    assert_eq!(connack, [0x20, 2, 0, 0], "admitted");
    stream
}

/// Does `count` handshakes, some at once, and closes each after its CONNACK.
async fn handshakes(server: SocketAddr, devices: &[(TlsConnector, Vec<u8>)], count: usize) {
    let next = Arc::new(AtomicUsize::new(0));
    let devices: Arc<[_]> = devices.into();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..AT_ONCE {
        let (next, devices) = (next.clone(), devices.clone());
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return;
                }
                let mut stream = connect(server, &devices[number % devices.len()]).await;
                let _ = stream.shutdown().await;
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("every handshake succeeds");
    }
}

/// Opens `count` connections and holds them.
async fn hold(
    server: SocketAddr,
    devices: &[(TlsConnector, Vec<u8>)],
    count: usize,
) -> Vec<TlsStream<TcpStream>> {
    let mut held = Vec::with_capacity(count);
    for number in 0..count {
        held.push(connect(server, &devices[number % devices.len()]).await);
    }
    held
}
