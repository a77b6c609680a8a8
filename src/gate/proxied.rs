//! The PROXY header in front of a connection: `Accepted` → `Accepted`, with the device's address instead of its balancer's.
//!
//! Behind this step, and before the first byte of TLS, stands whose address counts: in limits, names, logs and the registry.

use std::io;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::proxy_protocol::{self, Header, canonical};
use crate::rules::reason::Refusal;

use super::connection::Facts;
use super::handshake::Accepted;
use super::in_force::InForce;

/// The longest that a header is waited for. It is the first thing a balancer sends, and three seconds are for a packet that is
/// lost on the way (PROXY protocol §2).
const HEADER: Duration = Duration::from_secs(5);

/// How many bytes are looked at at once.
const GLANCE: usize = 512;

impl Accepted {
    /// Reads the PROXY header, where the peer has to send one, within 5 s and `handshake_timeout`; to the byte: what follows
    /// it stays in the socket. A peer that must not send one is left as it is. Dropping it half-way drops the connection.
    ///
    /// # Errors
    /// The [`Refusal`]; nothing was said to the peer.
    pub(crate) async fn proxied(
        mut self,
        in_force: &InForce,
        facts: &mut Facts,
    ) -> Result<Self, Refusal> {
        let entrance = &in_force.entrances[self.listener.place];
        if entrance.takes_header_from(self.address.ip()) {
            let limit = HEADER.min(in_force.limits.handshake_timeout);
            // In a box, so that those without one carry no room for it.
            let header = Box::pin(timeout(limit, header(&mut self.socket))).await;
            match header.unwrap_or(Err(Refusal::ProxyHeaderTimeout { limit }))? {
                Header::Proxied { from, to } => {
                    facts.from = Some(from);
                    self.address = from;
                    self.to = Some(to);
                }
                Header::Local => {}
            }
        }
        if in_force.fleet.proxy_protocol.is_some() && self.to.is_none() {
            // Who calls where nobody knows is refused before its broker is called.
            self.to = self.socket.local_addr().ok().map(canonical);
        }
        Ok(self)
    }

    /// Whether this is a balancer's own connection, as a health check is: its header named nobody, so the address is that
    /// of the balancer, which is no device's.
    pub(crate) fn is_a_balancers_own(&self, in_force: &InForce, facts: &Facts) -> bool {
        let entrance = &in_force.entrances[self.listener.place];
        facts.from.is_none() && entrance.takes_header_from(self.address.ip())
    }
}

async fn header(socket: &mut TcpStream) -> Result<Header, Refusal> {
    const GONE: Refusal = Refusal::DeviceGone {
        during: "before its PROXY header",
    };
    let gone = |_: io::Error| GONE;
    let mut came = Vec::new();
    loop {
        socket.readable().await.map_err(gone)?;
        let known = came.len();
        came.resize(known + GLANCE, 0);
        let seen = socket.peek(&mut came[known..]).await.map_err(gone)?;
        if seen == 0 {
            return Err(GONE);
        }
        came.truncate(known + seen);
        let whole = proxy_protocol::read(&came).map_err(Refusal::ProxyHeader)?;
        // Of a header that is not whole, every byte is its own.
        let end = whole.map_or(came.len(), |(_, length)| length);
        socket
            .read_exact(&mut came[known..end])
            .await
            .map_err(gone)?;
        if let Some((header, _)) = whole {
            return Ok(header);
        }
    }
}
