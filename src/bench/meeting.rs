//! Where the threads of a run wait for each other, and what is looked at while they do.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Barrier;

use super::process::{self, Snapshot};

/// The common moments of a run. Each is one on which the server is looked at.
pub(super) struct Meeting {
    barrier: Barrier,
    pids: Vec<u32>,
    looks: Mutex<Vec<(Instant, Snapshot)>>,
}

impl Meeting {
    /// Of so many threads, about these processes.
    pub(super) fn new(threads: usize, pids: &[u32]) -> Self {
        Self {
            barrier: Barrier::new(threads),
            pids: pids.to_vec(),
            looks: Mutex::default(),
        }
    }

    /// Waits until all threads are here and the server was looked at; gives the moment, the same for all.
    ///
    /// Every thread must come as often as every other, or all wait for ever.
    pub(super) async fn meet(&self) -> Instant {
        if self.barrier.wait().await.is_leader() {
            let look = process::look(&self.pids);
            self.looks().push((Instant::now(), look));
        }
        self.barrier.wait().await;
        self.looks().last().map_or_else(Instant::now, |look| look.0)
    }

    /// Waits until all threads are here; one of them is told `true`.
    pub(super) async fn gather(&self) -> bool {
        self.barrier.wait().await.is_leader()
    }

    /// What was seen each time.
    pub(super) fn looks(&self) -> std::sync::MutexGuard<'_, Vec<(Instant, Snapshot)>> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
