//! One gate is replaced by another at the same port, and no device notices but by being told to come back (threats.md V10).

use std::io::BufRead as _;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::TempDir;
use tidegate::mqtt::Version;
use tidegate::mqtt::disconnect;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::support::device::{Answer, BOTH, Device, connect};
use crate::support::gate::{MUTUAL, Plan, group, http_get, lay_out, tidegate};
use crate::support::{free_port, until};

/// DISCONNECT, "server shutting down": MQTT 5.0 §3.14.2.1.
const SHUTTING_DOWN: u8 = 0x8b;

/// How many devices come, go and come again all the time.
const RESTLESS: usize = 12;
/// How many come and stay for as long as they are let.
const STEADY: usize = 40;

/// A host: one configuration, one port for devices and one for operators, a broker that welcomes everybody.
struct Host {
    folder: TempDir,
    plan: Plan,
    devices: SocketAddr,
    admin: SocketAddr,
    broker: JoinHandle<()>,
}

impl Host {
    async fn new(limits: &str) -> Self {
        let (devices, admin) = (free_port(), free_port());
        let listener = MUTUAL.replace("127.0.0.1:0", &devices.to_string());
        let plan = Plan {
            listeners: Some(format!("{listener}\n{}", group("fleet", "ca.pem", ""))),
            limits: limits.into(),
            ..Plan::default()
        };
        let (folder, broker) = lay_out(&plan).await;
        let host = Self {
            folder,
            plan,
            devices,
            admin,
            broker: broker.expect("a recording one").welcome_all(),
        };
        host.rewrite("bind = \"127.0.0.1:0\"", &format!("bind = \"{admin}\""));
        host
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("tidegate.toml")
    }

    fn rewrite(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.config()).expect("its file");
        assert!(text.contains(from));
        std::fs::write(self.config(), text.replace(from, to)).expect("written");
    }

    /// Starts a gate that takes over by a file of the host's.
    fn takes_over(&self) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["run", "--handover"]);
        command.arg(self.folder.path().join("handover"));
        Process::spawn(
            command
                .arg("--config")
                .arg(self.config())
                .env_clear()
                .stdin(Stdio::null()),
        )
    }

    /// Starts a gate with these sockets, as systemd does (sd_listen_fds(3)).
    fn is_passed(&self, names: &str, sockets: [&TcpListener; 2]) -> Process {
        let [stdin, stdout] = sockets.map(|one| OwnedFd::from(one.try_clone().expect("a copy")));
        let mut command = Command::new("/bin/sh");
        let script = "LISTEN_PID=$$ LISTEN_FDS=2 exec \"$@\" 3<&0 4<&1 </dev/null >/dev/null";
        command.args([
            "-c",
            script,
            "sh",
            env!("CARGO_BIN_EXE_tidegate"),
            "run",
            "--config",
        ]);
        command.arg(self.config());
        command.env_clear().env("LISTEN_FDNAMES", names);
        Process::spawn(command.stdin(stdin).stdout(stdout))
    }

    fn device(&self, name: &str) -> Device {
        let authority = &self.plan.authority;
        let issued = authority.device(&name.parse().expect("a device id"));
        let (ca, issued) = (authority.certificate(), issued.expect("issued"));
        Device::issued(self.devices, ca, &issued, BOTH)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.broker.abort();
    }
}

/// A gate.
struct Process {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Process {
    fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stderr(Stdio::piped())
            .spawn()
            .expect("the gate starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        let (pipe, into) = (child.stderr.take().expect("a pipe"), log.clone());
        std::thread::spawn(move || {
            for line in std::io::BufReader::new(pipe).lines().map_while(Result::ok) {
                into.lock().expect("no panic while held").push(line);
            }
        });
        Self { child, log }
    }

    fn lines(&self, event: &str) -> Vec<Value> {
        let log = self.log.lock().expect("no panic while held");
        let lines = log
            .iter()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["event"] == event).collect()
    }

    async fn line(&self, event: &str) -> Value {
        until(&format!("a log line {event}"), async || {
            self.lines(event).pop()
        })
        .await
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
        rustix::process::kill_process(pid, signal).expect("it is there");
    }

    fn term(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    async fn exit(&mut self) -> ExitStatus {
        until("the gate to end", async || {
            self.child.try_wait().expect("a child")
        })
        .await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log.lock().expect("no panic while held");
            eprintln!("a gate said:\n{}", log.join("\n"));
        }
    }
}

/// Devices that come without a pause.
struct Load {
    over: Arc<AtomicBool>,
    told: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    devices: Vec<JoinHandle<(usize, Vec<String>)>>,
}

impl Load {
    /// Returns when every steady device is in.
    async fn on(host: &Host) -> Self {
        let [told, open] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let over = Arc::new(AtomicBool::new(false));
        let restless = host.device("restless");
        let steady = host.device("steady");
        let mut devices = Vec::new();
        for nth in 0..RESTLESS + STEADY {
            let stays = nth >= RESTLESS;
            let device = if stays {
                steady.clone()
            } else {
                restless.clone()
            };
            let (over, told, open) = (over.clone(), told.clone(), open.clone());
            devices.push(tokio::spawn(async move {
                let (mut came, mut failed) = (0, Vec::new());
                while !over.load(Ordering::Relaxed) {
                    let (answer, link) = device.asks(&connect("", Version::V5)).await;
                    came += 1;
                    let (Answer::Admitted, Some(mut link)) = (&answer, link) else {
                        failed.push(format!("{answer:?}"));
                        continue;
                    };
                    if !stays {
                        let _ = link.say(&disconnect::packet(0)).await;
                        continue;
                    }
                    open.fetch_add(1, Ordering::Relaxed);
                    let end = async {
                        use tokio::io::AsyncReadExt as _;
                        let mut said = std::mem::take(&mut link.stream.buffer);
                        let read = link.stream.stream.read_to_end(&mut said).await;
                        (read.is_ok(), said)
                    };
                    tokio::select! {
                        (clean, said) = end => {
                            told.fetch_add(1, Ordering::Relaxed);
                            if !clean || said != disconnect::packet(SHUTTING_DOWN) {
                                failed.push(format!("ended by {said:02x?}, clean: {clean}"));
                            }
                        }
                        () = until_over(&over) => {}
                    }
                    open.fetch_sub(1, Ordering::Relaxed);
                }
                (came, failed)
            }));
        }
        let load = Self {
            over,
            told,
            open,
            devices,
        };
        load.all_are_in().await;
        load
    }

    async fn all_are_in(&self) {
        until("every steady device to be in", async || {
            (self.open.load(Ordering::Relaxed) == STEADY).then_some(())
        })
        .await;
    }

    /// How many steady devices were told to come back.
    fn told(&self) -> usize {
        self.told.load(Ordering::Relaxed)
    }

    /// How many connections there were; none may have failed.
    async fn ends(self) -> usize {
        self.over.store(true, Ordering::Relaxed);
        let (mut came, mut failed) = (0, Vec::new());
        for device in self.devices {
            let (its, faults) = device.await.expect("no panic");
            came += its;
            failed.extend(faults);
        }
        assert_eq!(failed, [""; 0], "of {came} connections");
        came
    }
}

async fn until_over(over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// The listening sockets themselves pass on: under load, three times, not one device is refused or reset; those that were in are told, and
/// come back to the new gate, which is there already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gate_takes_over_from_another_and_no_device_fails() {
    let host = Host::new("drain_timeout = \"5s\"\n").await;
    let mut gate = host.takes_over();
    gate.line("started").await;
    let load = Load::on(&host).await;
    for round in 1..=3 {
        let next = host.takes_over();
        let took = next.line("took_over").await;
        assert_eq!(took["pid"], gate.child.id());
        let drains = gate.line("draining").await;
        assert_eq!(drains["pid"], next.child.id());
        assert_eq!(
            http_get(host.admin, "/readyz").await.0,
            200,
            "the new one answers"
        );
        assert_eq!(gate.exit().await.code(), Some(0), "drained");
        load.all_are_in().await;
        assert_eq!(load.told(), round * STEADY);
        let ends = gate.lines("closed");
        assert!(!ends.is_empty() && gate.lines("refused").is_empty());
        gate = next;
    }
    let came = load.ends().await;
    eprintln!("{came} connections over three replacements");
    assert!(came > 3 * (STEADY + RESTLESS));
    gate.term();
    assert_eq!(gate.exit().await.code(), Some(0));
    TcpStream::connect(host.devices)
        .await
        .expect_err("nobody listens any more");
}

/// systemd keeps the sockets while the service restarts: whoever calls meanwhile waits in them for the next gate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passed_socket_outlives_the_gate_and_no_device_fails() {
    let host = Host::new("drain_timeout = \"2s\"\n").await;
    let listen = |address: SocketAddr| TcpListener::bind(address).expect("free");
    let sockets = [listen(host.devices), listen(host.admin)];
    let start = || host.is_passed("devices:admin", [&sockets[0], &sockets[1]]);
    let mut gate = start();
    gate.line("started").await;
    let load = Load::on(&host).await;
    for round in 1..=3 {
        gate.term();
        assert_eq!(gate.exit().await.code(), Some(0), "drained");
        gate = start();
        gate.line("started").await;
        load.all_are_in().await;
        assert_eq!(load.told(), round * STEADY);
        assert_eq!(http_get(host.admin, "/livez").await.0, 200);
    }
    let came = load.ends().await;
    eprintln!("{came} connections over three restarts");
    assert!(came > 3 * (STEADY + RESTLESS));
}

/// The old gate goes on until the new one is ready: one that never is, or ends, has changed nothing.
#[tokio::test]
async fn a_gate_that_does_not_get_ready_takes_nothing_over() {
    let host = Host::new("").await;
    let gate = host.takes_over();
    gate.line("started").await;
    let good = std::fs::read_to_string(host.config()).expect("its file");
    host.rewrite("\"mqtt://127.0.0.1:", "\"mqtt://127.0.0.9:"); // where no broker is
    let mut next = host.takes_over();
    next.line("started").await;
    next.line("broker_down").await;
    for _ in 0..10 {
        let answer = host.device("meter-7").connects_as("", Version::V311).await;
        assert_eq!(answer, Answer::Admitted);
    }
    next.term();
    assert_eq!(next.exit().await.code(), Some(0));
    std::fs::write(host.config(), good).expect("written");
    let answer = host.device("meter-7").connects_as("", Version::V311).await;
    assert_eq!(answer, Answer::Admitted);
    assert!(gate.lines("draining").is_empty());

    // And one that loses the gate before while it waits is on its own.
    let mut gate = gate;
    gate.signal(rustix::process::Signal::KILL);
    gate.exit().await;
    let last = host.takes_over();
    last.line("started").await;
    assert!(last.lines("took_over").is_empty(), "nobody was there");
}

/// While one waits for its turn, nobody else gets one: two would go on beside each other, with two configurations.
#[tokio::test]
async fn a_third_gate_waits_for_its_turn_and_gives_up() {
    let host = Host::new("").await;
    let mut gate = host.takes_over();
    gate.line("started").await;
    host.rewrite("\"mqtt://127.0.0.1:", "\"mqtt://127.0.0.9:"); // where no broker is
    let mut next = host.takes_over();
    next.line("broker_down").await;
    let mut third = host.takes_over();
    assert_eq!(third.exit().await.code(), Some(1));
    until("the fault", async || {
        let log = third.log.lock().expect("no panic while held").join("\n");
        log.contains("another gate waited there").then_some(())
    })
    .await;
    assert!(gate.lines("draining").is_empty() && next.lines("draining").is_empty());

    // As soon as the one that waited is gone, the next one takes over from the first.
    next.term();
    assert_eq!(next.exit().await.code(), Some(0));
    host.rewrite("\"mqtt://127.0.0.9:", "\"mqtt://127.0.0.1:");
    let last = host.takes_over();
    last.line("took_over").await;
    assert_eq!(gate.exit().await.code(), Some(0));
}

/// Whoever waits for a gate that goes away takes its place at once.
#[tokio::test]
async fn a_gate_whose_predecessor_dies_takes_its_place() {
    let host = Host::new("").await;
    let mut gate = host.takes_over();
    gate.line("started").await;
    host.rewrite("\"mqtt://127.0.0.1:", "\"mqtt://127.0.0.9:");
    let next = host.takes_over();
    next.line("broker_down").await;
    gate.signal(rustix::process::Signal::KILL);
    gate.exit().await;
    assert_eq!(next.line("took_over").await["level"], "warn");
    let answer = host.device("meter-7").connects_as("", Version::V311).await;
    assert_eq!(
        answer,
        Answer::Refused(0x03),
        "it says that no broker is there"
    );
}

/// Without being asked for, no port is shared; and what is wrong is told with the way out.
#[tokio::test]
async fn a_port_is_shared_only_by_those_who_agree() {
    let host = Host::new("").await;
    let gate = host.takes_over();
    gate.line("started").await;
    let (code, _, err) = tidegate(&["run"], host.folder.path());
    assert_eq!(code, 1);
    assert!(err.contains("--handover"), "{err}");

    let file = Path::new("tidegate.toml");
    let words = ["run", "--handover", file.to_str().expect("text")];
    let (code, _, err) = tidegate(&words, host.folder.path());
    assert_eq!(code, 1);
    assert!(
        err.contains("--handover: cannot use tidegate.toml"),
        "{err}"
    );

    let elsewhere = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    let mut lost = host.is_passed("devices:admin", [&elsewhere[0], &elsewhere[1]]);
    assert_eq!(lost.exit().await.code(), Some(1));
    until("the fault", async || {
        let log = lost.log.lock().expect("no panic while held").join("\n");
        log.contains("write the same address into both")
            .then_some(())
    })
    .await;
}
