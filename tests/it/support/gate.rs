//! A gate: the real binary, with a configuration of the test's own.

use std::collections::HashMap;
use std::io::BufRead as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use rustls::SupportedProtocolVersion;
use serde_json::Value;
use tempfile::TempDir;
use tidegate::pki::{Authority, Issued, Order};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::broker::Broker;
use super::device::{BOTH, Device};
use super::{soon, until};

/// A running gate, its CA, and its folder; it ends with the test.
pub struct Gate {
    child: Child,
    pub folder: TempDir,
    pub authority: Authority,
    /// Listener name → address.
    pub addresses: HashMap<String, SocketAddr>,
    pub admin: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
    broker: Option<Broker>,
}

/// What a test changes in the configuration.
pub struct Plan {
    pub authority: Authority,
    /// The whole configuration; absent: made of the parts below.
    pub config: Option<String>,
    /// `[[listener]]` and `[[trust]]`: everything before `[broker]`; absent: one mutual-tls listener, one group.
    pub listeners: Option<String>,
    /// Lines of `[[trust]]` behind `name` and `ca`.
    pub trust: String,
    /// Further sections.
    pub more: String,
    /// Lines of `[admin]` behind `bind`.
    pub admin: String,
    /// Lines of `[broker]` behind `addresses`.
    pub broker: String,
    /// The broker's addresses; absent: the recording broker.
    pub addresses: Option<String>,
    /// Files to put into the folder.
    pub files: Vec<(String, Vec<u8>)>,
    /// The lines of `[limits]`.
    pub limits: String,
    /// Where the log goes; absent: to the test.
    pub log_to: Option<Stdio>,
    /// Whoever reads the log stops reading, but does not leave, once the gate has started.
    pub log_stalls: bool,
    /// A command that the gate is started under, such as `prlimit --nofile=64`.
    pub under: Vec<String>,
    /// The arguments behind `run`, and the working directory is the gate's folder; absent: `--config FILE`.
    pub flags: Option<Vec<String>>,
    /// The environment.
    pub env: Vec<(String, String)>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            authority: Authority::new("Test CA").expect("a CA"),
            config: None,
            listeners: None,
            trust: String::new(),
            more: String::new(),
            admin: String::new(),
            broker: String::new(),
            addresses: None,
            files: Vec::new(),
            limits: String::new(),
            log_to: None,
            log_stalls: false,
            under: Vec::new(),
            flags: None,
            env: Vec::new(),
        }
    }
}

/// For [`Plan::env`]: jemalloc keeps nothing that is free, so that memory tells what is in use.
pub fn nothing_kept() -> (String, String) {
    let keys = ["dirty_decay_ms:0", "muzzy_decay_ms:0"];
    ("MALLOC_CONF".into(), keys.join(","))
}

/// One mutual-tls listener called `devices`.
pub const MUTUAL: &str = r#"
[[listener]]
name = "devices"
bind = "127.0.0.1:0"
mode = "mutual-tls"
[listener.tls]
certificate = "server.pem"
key = "server.key"
"#;

impl Gate {
    /// A gate with one mutual-tls listener in front of a recording broker.
    pub async fn start() -> Self {
        Self::plan(Plan::default()).await
    }

    /// A gate as planned, started and listening.
    pub async fn plan(mut plan: Plan) -> Self {
        let log_to = plan.log_to.take();
        let (folder, broker) = lay_out(&plan).await;
        let authority = plan.authority;
        let log = Arc::new(Mutex::new(Vec::new()));
        let quiet = log_to.is_some();
        let mut command = match plan.under.as_slice() {
            [] => Command::new(env!("CARGO_BIN_EXE_tidegate")),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(env!("CARGO_BIN_EXE_tidegate"));
                command
            }
        };
        command.arg("run");
        match &plan.flags {
            Some(flags) => {
                std::fs::remove_file(folder.path().join("tidegate.toml")).expect("its file");
                command.args(flags).current_dir(folder.path());
            }
            None => {
                command
                    .arg("--config")
                    .arg(folder.path().join("tidegate.toml"));
            }
        }
        let (flags_alone, stalls) = (plan.flags.is_some(), plan.log_stalls);
        let mut child = command
            .env_clear()
            .envs(plan.env)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log_to.unwrap_or_else(Stdio::piped))
            .spawn()
            .expect("the gate starts");
        if let Some(pipe) = child.stderr.take() {
            let log = log.clone();
            std::thread::spawn(move || {
                let mut lines = std::io::BufReader::new(pipe).lines();
                for line in lines.by_ref().map_while(Result::ok) {
                    let started = line.contains("\"started\"");
                    log.lock().expect("no panic while held").push(line);
                    if stalls && started {
                        std::mem::forget(lines); // the pipe stays open, and nobody reads it
                        return;
                    }
                }
            });
        }
        let mut gate = Self {
            addresses: HashMap::new(),
            admin: SocketAddr::from(([127, 0, 0, 1], 0)),
            folder,
            authority,
            log,
            broker,
            child,
        };
        if quiet {
            return gate;
        }
        gate.admin = gate.address_of("admin").await;
        let names = if flags_alone {
            vec!["default".to_owned()]
        } else {
            gate.listener_names()
        };
        for name in names {
            let address = gate.address_of(&name).await;
            gate.addresses.insert(name, address);
        }
        gate
    }

    fn listener_names(&self) -> Vec<String> {
        let text =
            std::fs::read_to_string(self.folder.path().join("tidegate.toml")).expect("its file");
        let config: toml::Table = text.parse().expect("TOML");
        let listeners = config["listener"].as_array().expect("listeners");
        listeners
            .iter()
            .map(|l| l["name"].as_str().expect("a name").to_owned())
            .collect()
    }

    async fn address_of(&mut self, listener: &str) -> SocketAddr {
        let found = async || {
            self.lines("listening")
                .iter()
                .find(|line| line["listener"] == listener)
                .map(|line| {
                    line["address"]
                        .as_str()
                        .expect("text")
                        .parse()
                        .expect("ip:port")
                })
        };
        match tokio::time::timeout(super::PATIENCE, until("the gate to listen", found)).await {
            Ok(address) => address,
            Err(_) => panic!(
                "no listener {listener}; the gate said:\n{}",
                self.log_text()
            ),
        }
    }

    /// The recording broker.
    pub fn broker(&self) -> &Broker {
        self.broker
            .as_ref()
            .expect("this gate has a recording broker")
    }

    /// Takes the recording broker away from the gate's keeping: to stop it.
    pub fn take_broker(&mut self) -> Broker {
        self.broker
            .take()
            .expect("this gate has a recording broker")
    }

    /// The only listener's address, or that of `devices`.
    pub fn address(&self) -> SocketAddr {
        let named = self.addresses.get("devices");
        *named.unwrap_or_else(|| self.addresses.values().next().expect("a listener"))
    }

    /// A device of that name, with a certificate of the gate's CA.
    pub fn device(&self, name: &str) -> Device {
        self.device_over(name, BOTH)
    }

    /// The same, over the TLS versions given.
    pub fn device_over(
        &self,
        name: &str,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Device {
        let issued = self
            .authority
            .device(&name.parse().expect("a device id"))
            .expect("issued");
        self.device_with(&issued, versions)
    }

    /// A device with this certificate.
    pub fn device_with(
        &self,
        issued: &Issued,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Device {
        Device::issued(
            self.address(),
            self.authority.certificate(),
            issued,
            versions,
        )
    }

    /// A device whose certificate was ordered so.
    pub fn device_ordered(&self, order: Order) -> Device {
        self.device_with(&self.authority.issue(order).expect("issued"), BOTH)
    }

    /// A device without a certificate.
    pub fn stranger(&self) -> Device {
        Device::new(self.address(), self.authority.certificate(), None, BOTH)
    }

    /// The path of a file in the gate's folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Log lines of one event so far, as JSON.
    pub fn lines(&self, event: &str) -> Vec<Value> {
        let log = self.log.lock().expect("no panic while held");
        let lines = log.iter().filter(|line| is_of(line, event));
        lines
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// How many log lines of one event there are so far.
    pub fn count(&self, event: &str) -> usize {
        let log = self.log.lock().expect("no panic while held");
        log.iter().filter(|line| is_of(line, event)).count()
    }

    /// The log line of one event that is the next after the first `before`, once it is there.
    pub async fn next_line(&self, event: &str, before: usize) -> Value {
        until(&format!("one more log line {event}"), async || {
            let log = self.log.lock().expect("no panic while held");
            let line = log.iter().filter(|line| is_of(line, event)).nth(before)?;
            serde_json::from_str(line).ok()
        })
        .await
    }

    /// Everything logged so far.
    pub fn log_text(&self) -> String {
        self.log.lock().expect("no panic while held").join("\n")
    }

    /// The first log line of that event that `wanted` likes.
    pub async fn line(&self, event: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        until(&format!("a log line {event}"), async || {
            self.lines(event).into_iter().find(|line| wanted(line))
        })
        .await
    }

    /// The next refusal that is told: its log line.
    pub async fn refusal(&self, reason: &str) -> Value {
        self.line("refused", |line| line["reason"] == reason).await
    }

    /// The text of `/metrics`.
    pub async fn metrics(&self) -> String {
        http_get(self.admin, "/metrics").await.1
    }

    /// The sum over all series of `family` whose labels hold every `name="value"` of `labels`.
    pub async fn metric(&self, family: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{value}\""))
            .collect();
        let text = self.metrics().await;
        let series = text.lines().filter(|line| {
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            name == family && wanted.iter().all(|label| line.contains(label.as_str()))
        });
        series
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Waits until the metric is `wanted`.
    pub async fn metric_becomes(&self, family: &str, labels: &[(&str, &str)], wanted: f64) {
        let what = format!("{family} {labels:?} to become {wanted}");
        until(&what, async || {
            ((self.metric(family, labels).await - wanted).abs() < f64::EPSILON).then_some(())
        })
        .await;
    }

    /// Status and body of an admin path.
    pub async fn admin_get(&self, path: &str) -> (u16, String) {
        http_get(self.admin, path).await
    }

    /// Sends the gate a signal: `TERM`, `INT` …
    pub fn signal(&self, name: &str) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
        let signal = match name {
            "TERM" => rustix::process::Signal::TERM,
            "INT" => rustix::process::Signal::INT,
            "HUP" => rustix::process::Signal::HUP,
            "STOP" => rustix::process::Signal::STOP,
            "CONT" => rustix::process::Signal::CONT,
            other => panic!("no signal {other}"),
        };
        rustix::process::kill_process(pid, signal).expect("the gate is there");
    }

    /// Waits for its end.
    pub async fn exit(&mut self) -> ExitStatus {
        until("the gate to end", async || {
            self.child.try_wait().expect("a child")
        })
        .await
    }

    /// A field of `/proc/PID/status`, in its own unit (kB for memory).
    pub fn proc_status(&self, field: &str) -> u64 {
        let text =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it lives");
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{field}:")))
            .expect("a field");
        line.split_whitespace()
            .nth(1)
            .expect("a value")
            .parse()
            .expect("a number")
    }

    /// Where it listens, by what the kernel says: for a gate whose log cannot be read.
    pub fn listens_on(&self) -> Vec<SocketAddr> {
        let links = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("it lives");
        let own: Vec<String> = links
            .filter_map(|link| std::fs::read_link(link.ok()?.path()).ok())
            .filter_map(|to| {
                let inode = to.to_str()?.strip_prefix("socket:[")?;
                Some(inode.strip_suffix(']')?.to_owned())
            })
            .collect();
        let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
        let mut found: Vec<SocketAddr> = table
            .lines()
            .skip(1)
            .filter_map(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                if fields[3] != "0A" || !own.iter().any(|inode| inode == fields[9]) {
                    return None;
                }
                let (ip, port) = fields[1].split_once(':')?;
                let ip = u32::from_str_radix(ip, 16).ok()?.to_ne_bytes();
                Some((ip, u16::from_str_radix(port, 16).ok()?).into())
            })
            .collect();
        found.sort();
        found.dedup();
        found
    }

    /// How often its threads whose name begins so went to sleep and were woken again.
    pub fn wakes(&self, name: &str) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it lives");
        let status = tasks
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("status")).ok())
            .filter(|status| status.starts_with(&format!("Name:\t{name}")));
        let switches = status.filter_map(|status| {
            let line = status
                .lines()
                .find(|line| line.starts_with("voluntary_ctxt_switches:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        });
        switches.sum()
    }

    /// The number of its thread of that name.
    pub fn thread(&self, name: &str) -> i32 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it lives");
        let mut paths = tasks.map(|task| task.expect("it lives").path());
        let of_name = |path: &PathBuf| {
            std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        };
        let path = paths.find(of_name).expect("a thread of that name");
        let number = path
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a number");
        number.parse().expect("a number")
    }

    /// How many file descriptors it has open.
    pub fn descriptors(&self) -> usize {
        self.descriptors_below(u32::MAX)
    }

    /// From now on it may have `limit`: fewer than it reckoned with at its start.
    pub fn allow_descriptors(&self, limit: u64) {
        use rustix::process::{Pid, Resource, Rlimit, prlimit};
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a pid"));
        let limit = Rlimit {
            current: Some(limit),
            maximum: Some(limit),
        };
        prlimit(pid, Resource::Nofile, limit).expect("it is ours");
    }

    /// How many of those that a limit of `limit` allows. It may have inherited some beyond, which count no more.
    pub fn descriptors_below(&self, limit: u32) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("it lives");
        let numbers = open.filter_map(|one| one.ok()?.file_name().to_str()?.parse::<u32>().ok());
        numbers.filter(|number| *number < limit).count()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the gate said:\n{}", self.log_text());
        }
    }
}

/// Whether a log line is of that event. What a device sent has its quotes escaped, so it cannot look like this.
fn is_of(line: &str, event: &str) -> bool {
    line.contains(&format!("\"event\":\"{event}\""))
}

/// Writes the files of a plan into a folder of its own.
pub async fn lay_out(plan: &Plan) -> (TempDir, Option<Broker>) {
    let folder = tempfile::tempdir().expect("a folder");
    let server = plan
        .authority
        .server(&["localhost", "127.0.0.1"])
        .expect("issued");
    let put = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        if name.ends_with(".key") {
            let own = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(&path, own).expect("its own file");
        }
    };
    put("ca.pem", plan.authority.certificate_pem().as_bytes());
    put("server.pem", server.chain_pem().as_bytes());
    put("server.key", server.key_pem().as_bytes());
    for (name, bytes) in &plan.files {
        put(name, bytes);
    }
    let (addresses, broker) = match &plan.addresses {
        Some(addresses) => (addresses.clone(), None),
        None if plan.config.is_some() => (String::new(), None),
        None => {
            let broker = Broker::start().await;
            (format!("[\"mqtt://{}\"]", broker.address), Some(broker))
        }
    };
    let listeners = plan.listeners.clone().unwrap_or_else(|| {
        format!(
            "{MUTUAL}\n[[trust]]\nname = \"fleet\"\nca = [\"ca.pem\"]\n{}\n",
            plan.trust
        )
    });
    let config = format!(
        "{listeners}\n[broker]\naddresses = {addresses}\n{}\n[limits]\n{}\n[admin]\nbind = \"127.0.0.1:0\"\n{}\n[log]\nformat = \"json\"\n{}\n",
        plan.broker, plan.limits, plan.admin, plan.more
    );
    let config = plan.config.as_ref().unwrap_or(&config);
    put("tidegate.toml", config.as_bytes());
    (folder, broker)
}

/// Runs the binary to its end: exit code, stdout, stderr.
pub fn tidegate(arguments: &[&str], folder: &Path) -> (i32, String, String) {
    let run = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (
        run.status.code().expect("an exit code"),
        text(run.stdout),
        text(run.stderr),
    )
}

/// A GET by hand: status and body.
pub async fn http_get(address: SocketAddr, path: &str) -> (u16, String) {
    soon("an HTTP answer", async {
        let mut socket = TcpStream::connect(address)
            .await
            .expect("the admin listener");
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head
            .split(' ')
            .nth(1)
            .expect("a status")
            .parse()
            .expect("a number");
        (status, body.to_owned())
    })
    .await
}

/// A `[[listener]]` with TLS on a loopback port; `trust` as in TOML, empty: every group; `tls`: further lines.
pub fn listener(name: &str, mode: &str, trust: &str, tls: &str) -> String {
    let trust = match trust {
        "" => String::new(),
        groups => format!("trust = {groups}\n"),
    };
    format!(
        "[[listener]]\nname = \"{name}\"\nbind = \"127.0.0.1:0\"\nmode = \"{mode}\"\n{trust}\
         [listener.tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n{tls}\n"
    )
}

/// A `[[trust]]` with the CAs of the file `ca`; `more`: further lines.
pub fn group(name: &str, ca: &str, more: &str) -> String {
    format!("[[trust]]\nname = \"{name}\"\nca = [\"{ca}\"]\n{more}\n")
}
