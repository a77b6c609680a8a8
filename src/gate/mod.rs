//! THE PATH: accept → handshake → read CONNECT → identity → verdict → rewrite → dial → CONNACK → relay → close.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::rules::device::{Alphabet, Offer};
use crate::rules::policy;
use crate::tls;

/// `[[listener]]` as the gate obeys it.
#[derive(Clone, Debug)]
pub struct ListenerSettings {
    /// The label in metrics and logs.
    pub name: Arc<str>,
    /// Where it listens; at least one. Port 0 takes a free port.
    pub bind: Vec<SocketAddr>,
    /// What it offers.
    pub offer: Offer,
    /// `[listener.tls]`; `None` for, and only for, a plain listener.
    pub tls: Option<tls::server::Settings>,
    /// Which trust groups count here, by name.
    pub trust: Vec<String>,
}

/// `[limits]` as the gate obeys it.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections, all listeners together. A full house waits before accept. Default 100 000.
    pub connections: u32,
    /// Handshakes at once, from a whole ClientHello to the end; 0: 1 024 for each core. Default 0.
    pub handshakes: u32,
    /// From accept to the end of the handshake. Default 10 s.
    pub handshake_timeout: Duration,
    /// From the end of the handshake to a whole CONNECT; and again from the dial to the broker's CONNACK. Default 10 s.
    pub connect_timeout: Duration,
    /// Largest CONNECT taken, in bytes, fixed header included. Default 16 KiB.
    pub connect_bytes: u32,
    /// The window over which a drain spreads the ends of open connections. Default 30 s.
    pub drain_timeout: Duration,
}

/// Everything that the gate obeys.
#[derive(Clone, Debug)]
pub struct Settings {
    /// At least one.
    pub listeners: Vec<ListenerSettings>,
    /// Every trust group of the configuration.
    pub trust: Vec<tls::trust::Settings>,
    /// What the broker is told of a device.
    pub connect: policy::ConnectSettings,
    /// The alphabet of device ids.
    pub alphabet: Alphabet,
    /// The brokers.
    pub broker: crate::broker::Settings,
    /// The limits.
    pub limits: Limits,
}

/// How a gate ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// Every connection ended in its own time or within the window.
    Drained,
    /// Connections were cut at the end of the window: bytes were lost.
    Cut,
}

/// Why a gate did not start.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StartFault {
    /// Keys, certificates, CAs or lists cannot be used: the sentences of `tidegate check`.
    #[error("{}", .0.join("\n"))]
    Files(Vec<String>),
    /// The system did not give what a gate needs: an address, a thread …
    #[error("{0}")]
    System(String),
}

/// Runs a gate until it is told to stop.
///
/// # Errors
/// When it does not start.
pub fn run(
    settings: Settings,
    admin: Option<crate::admin::Settings>,
    log: crate::observe::logging::Settings,
) -> Result<Outcome, StartFault> {
    let _ = (settings, admin, log);
    Err(StartFault::System("not built yet".into()))
}
