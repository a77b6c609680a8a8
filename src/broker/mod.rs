//! The brokers: their addresses, dialling one in time, and whether they answer.

use std::net::IpAddr;
use std::time::Duration;

pub mod address;
pub mod answer;
mod balance;
pub mod dial;
mod endpoint;
pub mod health;
pub mod knock;
mod names;
mod pace;
mod probe;
mod secure;
pub mod socket;
pub mod sources;
mod standing;

use crate::proxy_protocol;
use address::Address;

use crate::tls;

/// `[broker]` as the gate obeys it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the brokers are; at least one. Each address of a name is an endpoint of its own.
    pub addresses: Vec<Address>,
    /// `[broker.tls]`; there if an address is `mqtts://`, and only then.
    pub tls: Option<tls::client::Settings>,
    /// Which endpoint a connection goes to. Default [`Balance::LeastConnections`].
    pub balance: Balance,
    /// Local addresses to dial from; empty: the system chooses. Default empty.
    pub source_addresses: Vec<IpAddr>,
    /// The whole time for finding a broker that takes the connection, all addresses together.
    pub dial_timeout: Duration,
    /// How often each broker is asked whether it answers, and how often names are looked up.
    pub health_interval: Duration,
    /// Which PROXY header a broker is sent before anything else; `None`: none.
    pub proxy_protocol: Option<proxy_protocol::Version>,
    /// How a broker is asked. Default [`Probe::Tcp`].
    pub probe: Probe,
}

/// Which endpoint a connection goes to, of those that answer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Balance {
    /// Each in its turn.
    RoundRobin,
    /// The one with the fewest connections of this gate.
    #[default]
    LeastConnections,
    /// A device keeps its endpoint: when one leaves, only its devices move, and every gate chooses alike.
    Device,
}

/// How a broker is asked whether it answers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Probe {
    /// It takes a connection.
    #[default]
    Tcp,
    /// It answers an MQTT CONNECT.
    Mqtt,
}
