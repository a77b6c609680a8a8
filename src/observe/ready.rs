//! Whether the gate wants more devices: what `/readyz` answers.

use std::sync::atomic::{AtomicBool, Ordering};

/// Shared by the gate, which sets it, and the admin listener, which tells it.
#[derive(Debug, Default)]
pub struct Ready {
    /// The gate is on its way out and takes nobody new.
    pub draining: AtomicBool,
    /// At least one broker answers.
    pub broker_up: AtomicBool,
}

impl Ready {
    /// The gate takes nobody new from now on.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Notes whether any broker answers.
    pub fn set_broker_up(&self, up: bool) {
        self.broker_up.store(up, Ordering::Relaxed);
    }
}
