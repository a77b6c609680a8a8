//! A real PostgreSQL: a cluster of the test's own, in a folder of its own.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tempfile::TempDir;
use tidegate::pki::Issued;
use tidegate::registry::StoreSettings;

use super::{free_port, until};

/// Everybody may come by the password-less user of the tests; `keyed` only by TLS and with its password.
const HBA: &str = "local all all trust\n\
                   hostssl all keyed all scram-sha-256\n\
                   host all keyed all reject\n\
                   host all all all trust\n";

/// A PostgreSQL that runs, or was stopped and can come back; it ends with the test, however that ends.
pub struct Cluster {
    child: Option<Child>,
    folder: TempDir,
    pub address: SocketAddr,
    frozen: Vec<Pid>,
}

impl Cluster {
    /// One on a loopback port, and a socket file in its folder.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// One that takes TLS with this certificate.
    pub async fn start_with_tls(server: &Issued) -> Self {
        Self::start_with(Some(server)).await
    }

    async fn start_with(server: Option<&Issued>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut cluster = Self {
            child: None,
            folder,
            address: free_port(),
            frozen: Vec::new(),
        };
        cluster.make(server);
        cluster.come_back().await;
        cluster
    }

    /// A cluster whose own order of texts is not that of their bytes, so that it is seen who relies on it.
    fn make(&self, server: Option<&Issued>) {
        let folder = self.folder.path();
        give(folder);
        let data = self.data();
        let made = command("initdb", folder)
            .arg("--pgdata")
            .arg(&data)
            .args([
                "--username=tidegate",
                "--auth=trust",
                "--encoding=UTF8",
                "--no-sync",
            ])
            .args([
                "--locale=C.UTF-8",
                "--locale-provider=icu",
                "--icu-locale=en",
            ])
            .output()
            .expect("initdb starts");
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "initdb failed:\n{said}");
        let socket = folder.display();
        let mut config = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{socket}'\nfsync = off\n\
             shared_buffers = 16MB\nmax_connections = 50\n",
            self.address.port()
        );
        if let Some(server) = server {
            config.push_str("ssl = on\n");
            fs::write(data.join("server.crt"), server.chain_pem()).expect("written");
            let key = data.join("server.key");
            fs::write(&key, server.key_pem().as_bytes()).expect("written");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            fs::set_permissions(&key, mode).expect("set");
            give(&key);
        }
        fs::write(data.join("postgresql.auto.conf"), config).expect("written");
        fs::write(data.join("pg_hba.conf"), HBA).expect("written");
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Starts it, at the same place as before, and waits until it answers.
    pub async fn come_back(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .expect("a log");
        let child = command("postgres", self.folder.path())
            .arg("-D")
            .arg(self.data())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("postgres starts");
        self.child = Some(child);
        until("PostgreSQL to answer", async || {
            self.connect("postgres").await.ok()
        })
        .await;
    }

    /// Ends it at once, in the middle of whatever it does.
    pub fn stop(&mut self) {
        self.thaw();
        let mut child = self.child.take().expect("it runs");
        let _ = kill_process(pid(&child), Signal::QUIT);
        child.wait().expect("it ends");
    }

    /// Lets it stand still, with all its processes: it says nothing, but the kernel still takes connections for it.
    pub fn freeze(&mut self) {
        let child = self.child.as_ref().expect("it runs");
        let parent = pid(child);
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        kill_process(parent, Signal::STOP).expect("it is there");
        let children = fs::read_to_string(children).expect("its children");
        let children = children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok());
        let children = children.filter_map(Pid::from_raw);
        self.frozen = std::iter::once(parent).chain(children).collect();
        for one in &self.frozen {
            let _ = kill_process(*one, Signal::STOP);
        }
    }

    /// Lets it go on.
    pub fn thaw(&mut self) {
        for one in self.frozen.drain(..) {
            let _ = kill_process(one, Signal::CONT);
        }
    }

    /// Makes a database, and gives where it is.
    pub async fn database(&self, name: &str) -> StoreSettings {
        self.execute("postgres", &format!("CREATE DATABASE {name}"))
            .await;
        StoreSettings::Postgres {
            url: self.url(name),
            password_file: None,
        }
    }

    /// The URL of a database, for the user that may do everything.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://tidegate@{}/{database}", self.address)
    }

    /// The folder of the socket file.
    pub fn socket(&self) -> &Path {
        self.folder.path()
    }

    /// A connection of the test's own.
    pub async fn connect(&self, database: &str) -> sqlx::Result<PgConnection> {
        PgConnection::connect(&self.url(database)).await
    }

    /// Does something to a database, behind everybody's back.
    pub async fn execute(&self, database: &str, sql: &str) {
        let mut connection = self.connect(database).await.expect("it answers");
        let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection);
        done.await.expect("done");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            eprintln!("--- the log of PostgreSQL:\n{log}");
        }
        if self.child.is_some() {
            self.stop();
        }
    }
}

fn pid(child: &Child) -> Pid {
    let pid = i32::try_from(child.id()).expect("a pid");
    Pid::from_raw(pid).expect("a pid")
}

/// A program of PostgreSQL, in `folder`; where Debian has it, or on the PATH. It does not run as root, and ends with who started it.
fn command(name: &str, folder: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]);
    if rustix::process::geteuid().is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    command
        .arg(program(name))
        .current_dir(folder)
        .env("LC_ALL", "C.UTF-8");
    command
}

fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let newest = versions
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .max();
    match newest {
        Some(version) => format!("/usr/lib/postgresql/{version}/bin/{name}").into(),
        None => {
            let paths = std::env::var_os("PATH").unwrap_or_default();
            let mut found = std::env::split_paths(&paths).map(|folder| folder.join(name));
            found.find(|path| path.exists()).expect(
                "PostgreSQL is needed here: `apt-get install postgresql`, or run ./check, which does",
            )
        }
    }
}

/// What root made belongs to the user that PostgreSQL runs as.
fn give(path: &Path) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let users = fs::read_to_string("/etc/passwd").expect("users");
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let mut fields = line
        .expect("Debian's package makes the user postgres")
        .split(':')
        .skip(2);
    let mut id = || fields.next().and_then(|id| id.parse().ok());
    chown(path, id(), id()).expect("given");
    assert_ne!(fs::metadata(path).expect("there").uid(), 0);
}
