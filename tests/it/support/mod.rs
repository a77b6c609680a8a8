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
pub mod device;
pub mod estate;
pub mod gate;
pub mod mosquitto;
pub mod odd;
pub mod openssl;
pub mod shown;
pub mod wire;

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
