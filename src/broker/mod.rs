//! The brokers: their addresses, dialling one in time, and whether they answer.

use std::time::Duration;

pub mod address;
pub mod dial;
pub mod health;
mod secure;
pub mod socket;

use crate::proxy_protocol;
use address::Address;

use crate::tls;

/// `[broker]` as the gate obeys it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the brokers are, in the order they are tried; at least one.
    pub addresses: Vec<Address>,
    /// `[broker.tls]`; there if an address is `mqtts://`, and only then.
    pub tls: Option<tls::client::Settings>,
    /// The whole time for finding a broker that takes the connection, all addresses together.
    pub dial_timeout: Duration,
    /// How often each broker is asked whether it answers.
    pub health_interval: Duration,
    /// Which PROXY header a broker is sent before anything else; `None`: none.
    pub proxy_protocol: Option<proxy_protocol::Version>,
}
