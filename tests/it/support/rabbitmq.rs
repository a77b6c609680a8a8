//! A real RabbitMQ that speaks MQTT, in a folder of its own.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{free_port, soon};

/// It boots a virtual machine, a database and its plugins; a busy host takes its time over that.
const BOOT: Duration = Duration::from_secs(90);

const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// A RabbitMQ that runs; it ends with the test.
pub struct RabbitMq {
    child: Child,
    folder: TempDir,
    /// MQTT.
    pub mqtt: SocketAddr,
    management: SocketAddr,
}

impl RabbitMq {
    /// One on loopback ports, which takes whoever calls behind a PROXY header.
    ///
    /// # Panics
    /// When it is not installed.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mqtt = free_port();
        let settings = format!(
            "listeners.tcp = none\nmqtt.listeners.tcp.default = {mqtt}\nmqtt.proxy_protocol = true\nmqtt.allow_anonymous = true\n"
        );
        Self::start_as(folder, &settings, mqtt).await
    }

    /// One with this configuration, in `folder`, where the files are that it names; `mqtt` is its MQTT port. Its definitions,
    /// if it has some, must know guest as an administrator: that is how it is asked whether it is up.
    pub async fn start_as(folder: TempDir, settings: &str, mqtt: SocketAddr) -> Self {
        assert!(
            Path::new(SERVER).is_file(),
            "there is no RabbitMQ: run ./check, or apt-get install rabbitmq-server"
        );
        let management = free_port();
        write_settings(&folder, settings, management);
        let child = command(&folder).spawn().expect("rabbitmq-server starts");
        let mut rabbit = Self {
            child,
            folder,
            mqtt,
            management,
        };
        rabbit.boot().await;
        rabbit
    }

    async fn boot(&mut self) {
        let began = std::time::Instant::now();
        while TcpStream::connect(self.mqtt).await.is_err() || self.connections().await.is_none() {
            if let Some(status) = self.child.try_wait().expect("a child") {
                panic!("RabbitMQ ended: {status}\n{}", self.log());
            }
            assert!(
                began.elapsed() < BOOT,
                "not up in {BOOT:?}:\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The connections that its management API tells of; `None`: it does not answer.
    pub async fn connections(&self) -> Option<Vec<Value>> {
        soon("RabbitMQ's management", async {
            let mut socket = TcpStream::connect(self.management).await.ok()?;
            let login = base64::engine::general_purpose::STANDARD.encode("guest:guest");
            let request = format!(
                "GET /api/connections HTTP/1.0\r\nHost: localhost\r\nAuthorization: Basic {login}\r\n\r\n"
            );
            socket.write_all(request.as_bytes()).await.ok()?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await.ok()?;
            let (head, body) = answer.split_once("\r\n\r\n")?;
            let good = head.split(' ').nth(1) == Some("200");
            good.then(|| serde_json::from_str(body).expect("JSON"))
        })
        .await
    }

    /// Everything that it said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("said")).unwrap_or_default()
    }
}

fn write_settings(folder: &TempDir, settings: &str, management: SocketAddr) {
    let settings = format!(
        "{settings}\nmanagement.tcp.ip = {}\nmanagement.tcp.port = {}\ndistribution.listener.interface = 127.0.0.1\n",
        management.ip(),
        management.port()
    );
    let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("written");
    put("rabbitmq.conf", &settings);
    put("plugins", "[rabbitmq_mqtt,rabbitmq_management].\n");
    put("env.conf", "");
}

fn command(folder: &TempDir) -> Command {
    let file = |name: &str| folder.path().join(name);
    let said = fs::File::create(file("said")).expect("a file");
    let mut command = Command::new(SERVER);
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", folder.path())
        .env("LANG", "C.UTF-8")
        .env("RABBITMQ_MNESIA_BASE", file("mnesia"))
        .env("RABBITMQ_LOG_BASE", file("log"))
        .env("RABBITMQ_LOGS", "-")
        .env("RABBITMQ_PID_FILE", file("pid"))
        .env("RABBITMQ_CONFIG_FILE", file("rabbitmq.conf"))
        .env("RABBITMQ_CONF_ENV_FILE", file("env.conf"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", file("plugins"))
        .env("RABBITMQ_NODENAME", "tidegate@localhost")
        .env("RABBITMQ_DIST_PORT", free_port().port().to_string())
        .env("ERL_EPMD_PORT", free_port().port().to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .stdin(Stdio::null())
        .stdout(said.try_clone().expect("a file"))
        .stderr(said)
        .process_group(0); // it starts others, which end with it
    command
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        let group = i32::try_from(self.child.id()).ok();
        if let Some(group) = group.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.wait();
        end_daemon(self.folder.path());
        if std::thread::panicking() {
            let log = self.log();
            let skip = log.lines().count().saturating_sub(60);
            let last: Vec<_> = log.lines().skip(skip).collect();
            eprintln!("RabbitMQ's last words:\n{}", last.join("\n"));
        }
    }
}

/// Erlang's port mapper leaves the group that it was started in; it is known by the folder that it calls home.
fn end_daemon(home: &Path) {
    let mark = format!("HOME={}\0", home.display());
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) else {
            continue;
        };
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let ours = environment
            .windows(mark.len())
            .any(|some| some == mark.as_bytes());
        if ours {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}
