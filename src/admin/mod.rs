//! HTTP for operators: pages that are open to whoever reaches the port, and the admin API for whoever has the token.
//!
//! The pages come from memory and are made at once. Whoever calls is bounded in number, bytes and time, so that a hostile or
//! careless caller costs the gate nothing that devices need (threats.md N2, V2, V3).

use std::net::SocketAddr;

mod http;
mod pages;
mod token;
pub mod v1;

pub use http::{Desk, serve};
pub use token::Token;

/// `[admin]` as the gate obeys it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens. Port 0 takes a free port.
    pub bind: SocketAddr,
    /// What whoever asks `/v1` has to show; `None`: `/v1` is off.
    pub token: Option<Token>,
}
