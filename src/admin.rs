//! HTTP for operators: `/metrics`, `/livez`, `/readyz`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::net::TcpListener;

use crate::observe::metrics::Metrics;

/// `[admin]` as the gate obeys it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens. Port 0 takes a free port.
    pub bind: SocketAddr,
}

/// Whether the gate can serve devices now. Written by the gate, read by `/readyz`.
#[derive(Debug, Default)]
pub struct Ready {
    /// The gate is on its way out and takes nobody new.
    pub draining: AtomicBool,
    /// At least one broker answers.
    pub broker_up: AtomicBool,
}

/// Serves operators on `listener`, until the future is dropped; then every connection ends with it.
pub async fn serve(_listener: TcpListener, _metrics: Arc<Metrics>, _ready: Arc<Ready>) {
    std::future::pending().await
}
