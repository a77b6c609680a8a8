//! The gate, as `tidegate run` starts it, but inside this process.

use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use tidegate::admin;
use tidegate::config::{self, Source};
use tidegate::gate::{Inherited, Loaded, Running};
use tidegate::observe::logging::Logger;
use tidegate::observe::ready::Ready;

use super::Anything;

/// A gate at work.
pub(crate) struct Gate {
    running: Arc<Running>,
    port: u16,
    metrics: SocketAddr,
    surprises: Vec<String>,
}

impl Gate {
    /// Writes `tidegate.toml` into `home`, and starts what it says.
    pub(crate) async fn start(home: &Path, broker: &str) -> Result<Self, Anything> {
        let mut surprises = Vec::new();
        let port = free_port(8883, &mut surprises)?;
        let admin_port = free_port(9883, &mut surprises)?;
        let path = home.join("tidegate.toml");
        std::fs::write(&path, settings(port, admin_port, broker))?;

        let source = Source {
            path: Some(path),
            ..Source::default()
        };
        let config = config::load(&source).map_err(|faults| all(&faults))?;
        let loaded = Loaded::load(config.gate).map_err(|faults| all(&faults))?;
        let (metrics, ready) = (loaded.metrics(), Arc::new(Ready::default()));
        let logger = Logger::counted(metrics.clone());
        let running = loaded
            .start(Inherited::default(), metrics.clone(), logger, ready.clone())
            .map_err(|faults| all(&faults))?;
        let running = Arc::new(running);

        let operators = config.admin.ok_or("[admin] is off")?;
        let listener = tokio::net::TcpListener::bind(operators.bind).await?;
        let (_, devices) = running.addresses().first().ok_or("no listener")?;
        let gate = Self {
            port: devices.port(),
            metrics: listener.local_addr()?,
            surprises,
            running: running.clone(),
        };
        let desk = admin::Desk {
            metrics,
            ready,
            api: None,
        };
        tokio::spawn(admin::serve(listener, desk));
        tokio::spawn(async move { running.watch_brokers().await });
        Ok(gate)
    }

    /// Where devices come in.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn metrics_url(&self) -> String {
        format!("http://{}/metrics", self.metrics)
    }

    /// What is not as the newcomer was promised, in words.
    pub(crate) fn surprises(&self) -> &[String] {
        &self.surprises
    }

    /// Ends every connection.
    pub(crate) fn stop(&self) {
        self.running.cut();
    }
}

/// The whole configuration: the rest is defaults.
fn settings(port: u16, admin_port: u16, broker: &str) -> String {
    format!(
        r#"[[listener]]
name = "devices"
bind = "127.0.0.1:{port}"
mode = "mutual-tls"

[listener.tls]
certificate = "server.pem"
key = "server.key"

[[trust]]
name = "fleet"
ca = ["ca.pem"]
crl = ["ca.crl"]
device = "subject.cn"

[connect]
client_id = "{{device}}"
username = "{{device}}"

[broker]
addresses = ["{broker}"]

[admin]
bind = "127.0.0.1:{admin_port}"
"#
    )
}

/// `wanted`, or another with a word on it. A plain socket is tried, because the gate's may share their port.
fn free_port(wanted: u16, surprises: &mut Vec<String>) -> std::io::Result<u16> {
    let try_at = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port))?.local_addr();
    if let Ok(at) = try_at(wanted) {
        return Ok(at.port());
    }
    let port = try_at(0)?.port();
    surprises.push(format!(
        "{wanted} is taken by something else: {port} instead"
    ));
    Ok(port)
}

fn all(faults: &[impl Display]) -> String {
    let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
    lines.join("\n")
}
