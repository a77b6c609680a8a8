//! A real Mosquitto, with a configuration, an ACL and a folder of its own.

use std::io::{self, BufRead as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tidegate::mqtt::Version;
use tidegate::mqtt::connack::Connack;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UnixStream};

use super::device::{Stream, connect};
use super::wire::Reader;
use super::{free_port, until};

/// The only rule: whoever is called `%u` has the topics below `devices/%u/`.
const ACL: &str = "pattern readwrite devices/%u/#\n";

/// A Mosquitto that runs, or was killed and can come back; it ends with the test.
pub struct Mosquitto {
    child: Option<Child>,
    folder: TempDir,
    place: Place,
    log: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone)]
enum Place {
    Tcp(SocketAddr),
    /// Who calls has to show a certificate, so it is not asked whether it admits.
    Tls(SocketAddr),
    Unix(PathBuf),
}

impl Mosquitto {
    /// One on a loopback port.
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// One on a loopback port, with these lines in its configuration.
    pub async fn start_with(more: &str) -> Self {
        Self::at(|_| Place::Tcp(free_port()), more).await
    }

    /// One on a socket file in its folder.
    pub async fn start_on_socket_file() -> Self {
        Self::at(|folder| Place::Unix(folder.path().join("broker.sock")), "").await
    }

    async fn at(place: impl FnOnce(&TempDir) -> Place, more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let place = place(&folder);
        let listener = match &place {
            Place::Tcp(address) | Place::Tls(address) => {
                format!("{} {}", address.port(), address.ip())
            }
            Place::Unix(path) => format!("0 {}", path.display()),
        };
        let acl = folder.path().join("acl");
        std::fs::write(&acl, ACL).expect("written");
        // Started by root, it would become another user and could not look into the folder any more.
        let config = format!(
            "user root\nlistener {listener}\nallow_anonymous true\nacl_file {}\nset_tcp_nodelay true\n\
             log_dest stderr\nlog_type all\n{more}",
            acl.display()
        );
        std::fs::write(folder.path().join("mosquitto.conf"), config).expect("written");
        Self::begin(folder, place).await
    }

    /// One with this whole configuration, in `folder`, where the files are that it names; the gate calls it at `address`, as
    /// `broker.addresses` has it.
    pub async fn start_as(folder: TempDir, config: &str, address: &str) -> Self {
        let socket = |text: &str| text.parse().expect("ip:port");
        let place = match address.split_once("://").expect("a scheme") {
            ("unix", path) => Place::Unix(path.into()),
            ("mqtts", text) => Place::Tls(socket(text)),
            (_, text) => Place::Tcp(socket(text)),
        };
        // Started by root, it would become another user and could not look into the folder any more.
        let config = format!("user root\n{config}");
        std::fs::write(folder.path().join("mosquitto.conf"), config).expect("written");
        Self::begin(folder, place).await
    }

    async fn begin(folder: TempDir, place: Place) -> Self {
        let mut mosquitto = Self {
            child: None,
            folder,
            place,
            log: Arc::default(),
        };
        mosquitto.come_back().await;
        mosquitto
    }

    /// Starts it, at the same place as before, and waits until it admits.
    pub async fn come_back(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let mut child = command("mosquitto")
            .arg("-c")
            .arg(self.folder.path().join("mosquitto.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("mosquitto starts");
        let pipe = child.stderr.take().expect("piped");
        let log = self.log.clone();
        std::thread::spawn(move || {
            for line in io::BufReader::new(pipe).lines().map_while(Result::ok) {
                log.lock().expect("no panic while held").push(line);
            }
        });
        self.child = Some(child);
        until("Mosquitto to answer", async || self.answers().await.ok()).await;
    }

    async fn answers(&self) -> io::Result<()> {
        let mut stream: Box<dyn Stream> = match &self.place {
            Place::Tcp(address) => Box::new(TcpStream::connect(address).await?),
            Place::Tls(address) => return TcpStream::connect(address).await.map(drop),
            Place::Unix(path) => Box::new(UnixStream::connect(path).await?),
        };
        let asks = connect("is-it-there", Version::V311)
            .encode()
            .expect("fits");
        stream.write_all(&asks).await?;
        let packet = Reader::new(stream).packet().await;
        let packet = packet.ok_or(io::ErrorKind::UnexpectedEof)?;
        let connack = Connack::decode(&packet, Version::V311).expect("a CONNACK");
        assert_eq!(connack.code, 0);
        Ok(())
    }

    /// Ends it at once, in the middle of whatever it does.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("killed");
        child.wait().expect("it ends");
    }

    /// Lets it stand still: it takes nothing and says nothing, but the kernel still queues for it.
    pub fn freeze(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let child = self.child.as_ref().expect("it runs");
        let pid = i32::try_from(child.id()).expect("a pid");
        let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
        rustix::process::kill_process(pid, signal).expect("it is there");
    }

    /// Its address for `broker.addresses`.
    pub fn address(&self) -> String {
        match &self.place {
            Place::Tcp(address) => format!("mqtt://{address}"),
            Place::Tls(address) => format!("mqtts://{address}"),
            Place::Unix(path) => format!("unix://{}", path.display()),
        }
    }

    /// The lines of its log so far that hold `words`.
    pub fn logged(&self, words: &str) -> Vec<String> {
        let log = self.log.lock().expect("no panic while held");
        let lines = log.iter().filter(|line| line.contains(words));
        lines.cloned().collect()
    }

    /// Waits for a line of its log that holds `words`.
    pub async fn logs(&self, words: &str) {
        until(&format!("Mosquitto to log {words:?}"), async || {
            let log = self.log.lock().expect("no panic while held");
            log.iter().any(|line| line.contains(words)).then_some(())
        })
        .await;
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log.lock().expect("no panic while held");
            let skip = log.len().saturating_sub(60);
            eprintln!("Mosquitto's last words:\n{}", log[skip..].join("\n"));
        }
    }
}

/// A program of the packages `mosquitto` and `mosquitto-clients`, to be given its arguments.
///
/// # Panics
/// When it is not installed.
pub fn command(name: &str) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = folders
        .map(|folder| folder.join(name))
        .find(|program| program.is_file());
    let program = found.unwrap_or_else(|| {
        panic!("there is no {name}: run ./check, or apt-get install mosquitto mosquitto-clients")
    });
    Command::new(program)
}
