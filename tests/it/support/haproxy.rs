//! A real HAProxy in front of a gate, copying bytes, with a PROXY header in front of them.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio::net::TcpStream;

use super::{free_port, until};

const HAPROXY: &str = "/usr/sbin/haproxy";

/// An HAProxy that runs; it ends with the test.
pub struct HaProxy {
    child: Child,
    _folder: TempDir,
    /// Where devices call.
    pub address: SocketAddr,
}

impl HaProxy {
    /// One that leads to `gate`; `how`: `send-proxy` or `send-proxy-v2`, and whatever else stands behind a server.
    ///
    /// # Panics
    /// When it is not installed.
    pub async fn start(gate: SocketAddr, how: &str) -> Self {
        assert!(
            Path::new(HAPROXY).is_file(),
            "there is no HAProxy: run ./check, or apt-get install haproxy"
        );
        let folder = tempfile::tempdir().expect("a folder");
        let address = free_port();
        let settings = format!(
            "defaults\n  mode tcp\n  timeout connect 10s\n  timeout client 60s\n  timeout server 60s\n\
             listen devices\n  bind {address}\n  server gate {gate} {how}\n"
        );
        let file = folder.path().join("haproxy.cfg");
        std::fs::write(&file, settings).expect("written");
        let child = Command::new(HAPROXY)
            .arg("-db")
            .arg("-f")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("haproxy starts");
        until("HAProxy to listen", async || {
            TcpStream::connect(address).await.ok()
        })
        .await;
        Self {
            child,
            _folder: folder,
            address,
        }
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
