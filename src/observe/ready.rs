//! Whether the gate wants more devices: what `/readyz` answers.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Shared by the gate, which sets it, and the admin listener, which tells it.
#[derive(Debug)]
pub struct Ready {
    /// The gate is on its way out and takes nobody new.
    pub draining: AtomicBool,
    /// At least one broker answers.
    pub broker_up: AtomicBool,
    /// What was read last has so many faults, and is not in force; 0: it is.
    pub faults: AtomicU32,
    /// How many configurations have been in force since the start, this one included.
    pub generation: AtomicU64,
}

/// The start's is the first.
impl Default for Ready {
    fn default() -> Self {
        Self {
            draining: AtomicBool::default(),
            broker_up: AtomicBool::default(),
            faults: AtomicU32::default(),
            generation: AtomicU64::new(1),
        }
    }
}

impl Ready {
    /// The gate takes nobody new from now on.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Notes how many faults the configuration has that was read last. What was in force before goes on, so the gate is as ready as it was.
    pub fn set_faults(&self, faults: usize) {
        let faults = u32::try_from(faults).unwrap_or(u32::MAX);
        self.faults.store(faults, Ordering::Relaxed);
    }

    /// Notes which configuration is in force.
    pub fn set_generation(&self, generation: u64) {
        self.generation.store(generation, Ordering::Relaxed);
    }

    /// Whether the gate wants more devices.
    pub fn is_ready(&self) -> bool {
        self.broker_up.load(Ordering::Relaxed) && !self.draining.load(Ordering::Relaxed)
    }

    /// Notes whether any broker answers.
    pub fn set_broker_up(&self, up: bool) {
        self.broker_up.store(up, Ordering::Relaxed);
    }
}
