//! tidegate: the gate between a fleet of devices and the MQTT broker that you already run.
//!
//! It ends TLS, finds out which device is calling, writes that identity into the MQTT CONNECT, hands the connection
//! to the broker, and from then on copies bytes.
//!
//! The path of one connection (`gate`):
//!
//! ```text
//! accept → handshake → read CONNECT → identity → verdict → rewrite → dial → CONNACK → relay → close
//! ```
//!
//! Nothing is sent to a broker, and no broker is dialled, before the verdict. Rooms and arrows: ARCHITECTURE.md.

pub mod admin;
pub mod bench;
pub mod broker;
pub mod cli;
pub mod config;
pub mod gate;
pub mod jwks;
pub mod mqtt;
pub mod observe;
pub mod pki;
pub mod proxy_protocol;
pub mod registry;
pub mod rules;
pub mod sandbox;
pub mod tls;
