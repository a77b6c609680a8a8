//! The front of the README is typed in, file by file and command by command, before a real Mosquitto.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::docs::{blocks, commands, page};
use crate::support::gate::tidegate;
use crate::support::{soon, until};

/// Whoever types in what the README shows has a gate before Mosquitto in which a device has its own topics and no
/// other's. Only ports differ here.
#[tokio::test]
async fn the_front_of_the_readme_works() {
    let readme = page("README.md");
    let front = readme
        .split("\n## In front of Mosquitto\n")
        .nth(1)
        .expect("the section");
    let front = front.split("\n## ").next().expect("its text");
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let port = free_port();
    let ports = |text: &str| {
        let text = text.replace("1883", &port.to_string());
        text.replace("0.0.0.0:8883", "127.0.0.1:0")
    };

    for block in [blocks(front, "conf"), blocks(front, "toml")].concat() {
        let name = block
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("# "));
        let name = name.expect("a block begins with the name of its file");
        std::fs::write(folder.join(name), ports(&block)).expect("written");
    }
    // Started by root, Mosquitto would become another user and could not look into the folder any more.
    let own = std::fs::read_to_string(folder.join("mosquitto.conf")).expect("from the README");
    std::fs::write(folder.join("mosquitto.conf"), own + "user root\n").expect("written");
    let _mosquitto = spawn("mosquitto", &["-c", "mosquitto.conf"], folder);
    until("Mosquitto to listen", async || {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()
    })
    .await;

    let shell = blocks(front, "sh");
    let typed: Vec<_> = shell.iter().flat_map(|block| commands(block)).collect();
    let mut gate = None;
    let mut address = None;
    let mut published = false;
    for command in &typed {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["tidegate", "run"] => {
                let mut running = run_gate(folder);
                address = Some(listening(&mut running).await);
                gate = Some(running);
            }
            ["tidegate", arguments @ ..] => {
                let (code, told, complaint) = tidegate(arguments, folder);
                assert_eq!(code, 0, "{command:?}:\n{told}{complaint}");
            }
            ["mosquitto_pub", arguments @ ..] => {
                let port = address
                    .as_deref()
                    .expect("the gate runs before a device calls");
                // Kept by the broker, so that it is there to be seen.
                let arguments = with_port(arguments, port, &["-r", "-q", "1"]);
                let output = ends("mosquitto_pub", &arguments, folder).await;
                assert!(output.status.success(), "{command:?}: {output:?}");
                published = true;
            }
            other => panic!("nobody sees to it that this works: {other:?}"),
        }
    }
    assert!(published, "the front ends with a device that publishes");
    let port = address.expect("the gate runs");

    let (code, _, complaint) = tidegate(
        &[
            "device", "add", "meter-8", "--ca", "pki", "--out", "devices",
        ],
        folder,
    );
    assert_eq!(code, 0, "{complaint}");
    let stolen = device(
        "meter-8",
        &[
            "-t",
            "devices/meter-7/hello",
            "-m",
            "stolen",
            "-r",
            "-q",
            "1",
        ],
    );
    ends("mosquitto_pub", &with_port(&stolen, &port, &[]), folder).await;
    let look = device("meter-7", &["-t", "devices/meter-7/hello", "-C", "1"]);
    let seen = ends("mosquitto_sub", &with_port(&look, &port, &[]), folder).await;
    assert_eq!(
        String::from_utf8_lossy(&seen.stdout),
        "world\n",
        "a device sees its own, which another could not overwrite: {seen:?}"
    );
    drop(gate);
}

/// The one command of the sidecar names files and flags that `tidegate check` finds good.
#[test]
fn the_sidecar_of_the_readme_is_good() {
    let readme = page("README.md");
    let section = readme
        .split("\n## As a sidecar\n")
        .nth(1)
        .expect("the section");
    let command = commands(&blocks(section, "sh")[0]).remove(0);
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    for arguments in [
        &["ca", "init", "pki"][..],
        &[
            "ca",
            "server",
            "--ca",
            "pki",
            "--san",
            "localhost",
            "--out",
            "pki",
        ],
    ] {
        assert_eq!(tidegate(arguments, folder).0, 0);
    }
    for (made, named) in [
        ("server.pem", "s.pem"),
        ("server.key", "s.key"),
        ("ca.pem", "ca.pem"),
    ] {
        std::fs::copy(folder.join("pki").join(made), folder.join(named)).expect("copied");
    }

    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let ["tidegate", "run", flags @ ..] = words.as_slice() else {
        panic!("{command:?}");
    };
    let (code, told, complaint) = tidegate(&[&["check"], flags].concat(), folder);

    assert_eq!(code, 0, "{told}{complaint}");
}

/// The arguments of one of Mosquitto's clients, as that device.
fn device(name: &str, more: &[&str]) -> Vec<String> {
    let line = format!(
        "-h localhost -p 8883 --cafile pki/ca.pem --cert devices/{name}.pem --key devices/{name}.key"
    );
    let words = line.split(' ').chain(more.iter().copied());
    words.map(str::to_owned).collect()
}

fn with_port(arguments: &[impl AsRef<str>], port: &str, more: &[&str]) -> Vec<String> {
    let ours = |word: &str| if word == "8883" { port } else { word }.to_owned();
    let words = arguments.iter().map(|word| ours(word.as_ref()));
    words
        .chain(more.iter().map(|&word| word.to_owned()))
        .collect()
}

fn free_port() -> u16 {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
    socket.local_addr().expect("bound").port()
}

/// Debian keeps brokers where only root's PATH looks.
fn command(program: &str, folder: &Path) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command
        .env("PATH", format!("{path}:/usr/sbin:/usr/local/sbin"))
        .current_dir(folder)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

fn spawn(program: &str, arguments: &[&str], folder: &Path) -> Child {
    let spawned = command(program, folder)
        .args(arguments)
        .stderr(Stdio::null())
        .spawn();
    spawned.unwrap_or_else(|fault| missing(program, &fault))
}

async fn ends(program: &str, arguments: &[String], folder: &Path) -> Output {
    let output = command(program, folder).args(arguments).output();
    let output = soon(&format!("{program} to end"), output).await;
    output.unwrap_or_else(|fault| missing(program, &fault))
}

fn missing(program: &str, fault: &std::io::Error) -> ! {
    panic!("{program}: {fault}; install mosquitto and mosquitto-clients (./check does)");
}

fn run_gate(folder: &Path) -> Child {
    let mut gate = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    gate.arg("run")
        .current_dir(folder)
        .env_clear()
        .env("TIDEGATE_ADMIN__BIND", "127.0.0.1:0")
        .env("TIDEGATE_LOG__FORMAT", "json")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    gate.spawn().expect("the gate starts")
}

/// The port of the only listener, once a broker answers, too.
async fn listening(gate: &mut Child) -> String {
    let mut lines = BufReader::new(gate.stderr.take().expect("piped")).lines();
    let (mut port, mut told) = (None, String::new());
    let found = soon("the gate to be ready", async {
        let mut broker = false;
        while let Some(line) = lines.next_line().await.expect("text") {
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            if event["event"] == "listening" && event["listener"] == "default" {
                let address = event["address"].as_str().expect("text");
                port = address.rsplit(':').next().map(str::to_owned);
            }
            broker |= event["event"] == "broker_up";
            told += &(line + "\n");
            if broker && port.is_some() {
                break;
            }
        }
    });
    found.await;
    // Whoever starts the gate reads its log.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    port.unwrap_or_else(|| panic!("the gate ended:\n{told}"))
}
