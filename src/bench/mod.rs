//! The harness: loads any endpoint that speaks MQTT over TLS, and tells what it took.
//!
//! A run has threads of its own, each with its own runtime and its own counts (`tally`); the calling thread gathers
//! them once a second (`stage`) and makes one [`Report`] of them. Times are taken from the moment that the schedule
//! names, not from when the harness came to it: a server that stands still is seen by everyone who should have
//! come meanwhile ([`arrivals`]).

pub mod arrivals;
pub mod connections;
pub mod devices;
pub mod handshake;
pub mod html;
pub mod json;
pub mod kinds;
pub mod live;
pub mod relay;
pub mod report;
pub mod settings;
pub mod sink;
pub mod sources;
pub mod table;
pub mod times;

mod chart;
mod cue;
mod held;
mod interrupt;
mod limits;
mod link;
mod meeting;
mod pace;
mod phases;
mod plots;
mod process;
mod setup;
mod speaker;
mod stage;
mod tally;
mod timer;
mod tls;
mod trouble;
mod watch;
mod words;

pub use report::Report;
pub use stage::{Found, Pulse};

/// Why a run did not take place.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// What was asked for cannot be done; what, and the way out.
    #[error("{0}")]
    Asked(String),
    /// It could be, but this host or a file did not play along.
    #[error("{0}")]
    Failed(String),
}

impl From<crate::pki::Fault> for Fault {
    fn from(fault: crate::pki::Fault) -> Self {
        Self::Failed(fault.to_string())
    }
}
