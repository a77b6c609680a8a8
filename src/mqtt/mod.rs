//! The MQTT wire, sans-I/O: bytes in, models out, and back. Knows nothing of tidegate.
//!
//! Only what a gate needs: CONNECT whole ([`connect`]), CONNACK whole ([`connack`]), a DISCONNECT of our own
//! ([`disconnect`]), and of every other packet where it begins and ends ([`framing`]).
//!
//! A packet is read strictly into a model and written again from the model; bytes are never patched in place. What is
//! written is canonical: the shortest Remaining Length, and no bit that the version leaves undefined.

pub mod connack;
pub mod connect;
pub mod disconnect;
pub mod framing;
pub mod length;
pub mod properties;
pub mod text;

#[cfg(test)]
mod arbitrary;
mod fields;
mod malformed;

use std::fmt;

pub use fields::TooLong;
pub use malformed::{Kind, Malformed};

/// A version of MQTT, oldest first.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Version {
    /// MQTT 3.1: protocol name `MQIsdp`, level 3.
    V31,
    /// MQTT 3.1.1: protocol name `MQTT`, level 4.
    V311,
    /// MQTT 5.0: protocol name `MQTT`, level 5.
    V5,
}

impl Version {
    /// Every version, oldest first.
    pub const ALL: [Self; 3] = [Self::V31, Self::V311, Self::V5];

    /// The word for metrics, logs and templates: `3.1`, `3.1.1` or `5.0`.
    pub fn word(self) -> &'static str {
        match self {
            Self::V31 => "3.1",
            Self::V311 => "3.1.1",
            Self::V5 => "5.0",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
