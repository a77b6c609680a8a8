//! What the gate tells: metrics, logs, and the service manager.

pub mod logging;
pub mod metrics;
pub mod ready;
pub mod service;
