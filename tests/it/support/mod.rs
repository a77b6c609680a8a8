//! The vocabulary of the tests: a gate (the real binary), its broker, its devices.
//!
//! Real TLS, real sockets, port 0, a CA of its own in a folder of its own. Nothing here sleeps: it waits for what it
//! wants to see, and gives up loudly after [`PATIENCE`].

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "a vocabulary: each promise uses its own part of it"
)]

pub mod broker;
pub mod craft;
pub mod desk;
pub mod device;
pub mod estate;
pub mod gate;
pub mod haproxy;
pub mod held;
pub mod http;
pub mod kubernetes;
pub mod mosquitto;
pub mod namespaces;
pub mod odd;
pub mod openssl;
pub mod podman;
pub mod postgres;
pub mod prometheus;
pub mod rabbitmq;
pub mod secure;
pub mod shown;
pub mod wire;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

/// How long a test waits for what must come. Only a failing test ever waits so long.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for `future`, but not for ever.
///
/// # Panics
/// When it takes longer than [`PATIENCE`].
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} in vain for {what}"),
    }
}

/// Asks again and again until `found` says yes; between two questions the other tasks run.
///
/// # Panics
/// When it takes longer than [`PATIENCE`].
pub async fn until<T>(what: &str, mut found: impl AsyncFnMut() -> Option<T>) -> T {
    soon(what, async {
        loop {
            if let Some(value) = found().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

/// A loopback port that nobody holds, below those that the kernel gives for port 0: it is still free when a broker
/// comes back to it.
pub fn free_port() -> SocketAddr {
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let port = std::iter::repeat_with(|| fastrand::u16(10_000..32_000)).find(free);
    (Ipv4Addr::LOCALHOST, port.expect("endless")).into()
}
