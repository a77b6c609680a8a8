//! A real Prometheus, with a configuration and a folder of its own; and its promtool.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{free_port, soon, until};

/// A Prometheus that runs; it ends with the test.
pub struct Prometheus {
    child: Child,
    folder: TempDir,
    address: SocketAddr,
}

impl Prometheus {
    /// One on a loopback port, with this `prometheus.yml`, in `folder`, where the files are that it names.
    ///
    /// # Panics
    /// When it is not installed.
    pub async fn start(folder: TempDir, config: &str) -> Self {
        let file = |name: &str| folder.path().join(name);
        std::fs::write(file("prometheus.yml"), config).expect("written");
        let said = std::fs::File::create(file("said")).expect("a file");
        let address = free_port();
        let child = Command::new("prometheus")
            .arg(format!(
                "--config.file={}",
                file("prometheus.yml").display()
            ))
            .arg(format!("--storage.tsdb.path={}", file("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            .spawn()
            .unwrap_or_else(|fault| {
                panic!("prometheus: {fault}; run ./check, or apt-get install prometheus")
            });
        let prometheus = Self {
            child,
            folder,
            address,
        };
        until("Prometheus to be ready", async || {
            let (status, _) = prometheus.get("/-/ready").await?;
            (status == 200).then_some(())
        })
        .await;
        prometheus
    }

    /// What a query gives now: the samples.
    ///
    /// # Panics
    /// When it cannot be read.
    pub async fn query(&self, query: &str) -> Vec<Value> {
        let asked: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let answer = self.api(&format!("/api/v1/query?query={asked}")).await;
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let result = answer["data"]["result"].as_array().expect("a list");
        result.clone()
    }

    /// What a path of its API answers.
    pub async fn api(&self, path: &str) -> Value {
        let (_, body) = self.get(path).await.expect("an answer");
        serde_json::from_str(&body).expect("JSON")
    }

    /// Status and body; `None`: it does not answer. (HTTP/1.0, so that the answer comes in one piece.)
    async fn get(&self, path: &str) -> Option<(u16, String)> {
        soon("Prometheus to answer", async {
            let mut socket = TcpStream::connect(self.address).await.ok()?;
            let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
            socket.write_all(request.as_bytes()).await.ok()?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await.ok()?;
            let (head, body) = answer.split_once("\r\n\r\n")?;
            let status = head.split(' ').nth(1)?.parse().ok()?;
            Some((status, body.to_owned()))
        })
        .await
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let said = std::fs::read_to_string(self.folder.path().join("said"));
            eprintln!("Prometheus said:\n{}", said.unwrap_or_default());
        }
    }
}
