//! HTTP for operators: `/metrics`, `/livez`, `/readyz`.

use std::net::SocketAddr;

/// `[admin]` as the gate obeys it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens. Port 0 takes a free port.
    pub bind: SocketAddr,
}
