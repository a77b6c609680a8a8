//! What the gate tells: metrics and logs.

pub mod logging;
pub mod metrics;
pub mod ready;
