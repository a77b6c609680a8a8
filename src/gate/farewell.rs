//! What an MQTT 5 device is told when the gate drains: that it shuts down, or where to go (MQTT 5.0 §4.11).

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use crate::mqtt::Version;
use crate::mqtt::connack::Connack;
use crate::mqtt::disconnect;
use crate::mqtt::properties::{Id, Properties, Property, Value};

/// The longest Server Reference taken, in bytes: small devices have small buffers.
const LONGEST: usize = 512;

/// What MQTT 5 devices are told when the gate drains.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Farewell {
    /// 0x8B: it shuts down. The device comes back to the same address.
    #[default]
    ShuttingDown,
    /// 0x9C: it should use another server for the time being.
    UseAnother(Option<Server>),
    /// 0x9D: the server has moved for good.
    Moved(Option<Server>),
}

impl Farewell {
    /// A DISCONNECT for a device that takes no packet of more than `most` bytes; a reference that makes it too long is left out.
    pub(crate) fn disconnect(&self, most: usize) -> Vec<u8> {
        let code = self.code();
        let alone = || disconnect::packet(code);
        self.server().map_or_else(alone, |server| {
            let whole = disconnect::with_properties(code, &server.properties());
            Some(whole)
                .filter(|packet| packet.len() <= most)
                .unwrap_or_else(alone)
        })
    }

    /// The CONNACK for an MQTT 5 device that asks at the end of a drain: likewise. `None`: the usual one, Server unavailable.
    pub(crate) fn connack(&self, most: usize) -> Option<Vec<u8>> {
        if *self == Self::ShuttingDown {
            return None; // 0x8B is no code of CONNACK (MQTT 5.0 §3.2.2.2)
        }
        let mut connack = Connack::refusal(Version::V5, self.code());
        if let Some(server) = self.server() {
            connack.properties = server.properties();
            let packet = connack.encode(Version::V5);
            if packet.len() <= most {
                return Some(packet);
            }
            connack.properties = Properties::new();
        }
        Some(connack.encode(Version::V5))
    }

    /// The reason code (MQTT 5.0 §3.14.2.1).
    fn code(&self) -> u8 {
        match self {
            Self::ShuttingDown => 0x8b,
            Self::UseAnother(_) => 0x9c,
            Self::Moved(_) => 0x9d,
        }
    }

    /// Where to go, if that is told.
    pub fn server(&self) -> Option<&Server> {
        match self {
            Self::ShuttingDown => None,
            Self::UseAnother(server) | Self::Moved(server) => server.as_ref(),
        }
    }
}

/// A Server Reference: one server or more, `name`, `name:port`, `192.0.2.1:8883` or `[2001:db8::1]:8883`, with a space between
/// (MQTT 5.0 §4.11).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Server(String); // private field: parsing is the only way in

impl Server {
    fn properties(&self) -> Properties {
        let mut properties = Properties::new();
        properties.push(Property {
            id: Id::ServerReference,
            value: Value::Text(self.0.clone()),
        });
        properties
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no Server Reference.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotAServer {
    /// It is too long.
    #[error("has more than {LONGEST} bytes, and small devices have small buffers")]
    TooLong,
    /// One of its parts names no server; it is empty where two spaces meet.
    #[error("names no server by {0:?}")]
    Part(String),
}

impl FromStr for Server {
    type Err = NotAServer;

    fn from_str(text: &str) -> Result<Self, NotAServer> {
        if text.len() > LONGEST {
            return Err(NotAServer::TooLong);
        }
        match text.split(' ').find(|part| !names_a_server(part)) {
            Some(part) => Err(NotAServer::Part(part.to_owned())),
            None => Ok(Self(text.to_owned())),
        }
    }
}

/// Whether `part` is a host name or an address, with a port or without.
fn names_a_server(part: &str) -> bool {
    if let Some(rest) = part.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else {
            return false;
        };
        return address.parse::<Ipv6Addr>().is_ok()
            && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    }
    match part.split_once(':') {
        Some((name, port)) => is_name(name) && is_port(port),
        None => is_name(part),
    }
}

fn is_port(port: &str) -> bool {
    port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// A host name (RFC 1123 §2.1), or an IPv4 address, which looks like one.
fn is_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    (1..=253).contains(&name.len()) && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_names_or_addresses_with_a_port_or_without() {
        for good in [
            "b",
            "b:1",
            "gate-2.example.net:8883",
            "192.0.2.1:8883",
            "[2001:db8::1]",
            "[2001:db8::1]:8883",
            "a.example.net b.example.net:8883",
        ] {
            assert_eq!(good.parse::<Server>().expect(good).to_string(), good);
        }
        for (bad, part) in [
            ("", ""),
            (" a", ""),
            ("a  b", ""),
            ("a,b", "a,b"),
            ("mqtts://a", "mqtts://a"),
            ("a:", "a:"),
            ("a:0", "a:0"),
            ("a:+1", "a:+1"),
            ("a:65536", "a:65536"),
            ("2001:db8::1", "2001:db8::1"),
            ("[a]:1", "[a]:1"),
            ("[::1]1", "[::1]1"),
            ("-a", "-a"),
            ("a..b", "a..b"),
            ("ä", "ä"),
        ] {
            assert_eq!(bad.parse::<Server>(), Err(NotAServer::Part(part.into())));
        }
        assert_eq!("a ".repeat(300).parse::<Server>(), Err(NotAServer::TooLong));
    }

    /// MQTT 5.0 §3.14.2, §3.2.2: literal bytes; what does not fit the device's Maximum Packet Size goes without the reference.
    #[test]
    fn a_device_is_told_where_to_go() {
        let server = Some("b:1".parse::<Server>().expect("good"));
        let (another, moved) = (
            Farewell::UseAnother(server.clone()),
            Farewell::Moved(server),
        );
        assert_eq!(Farewell::default().disconnect(2), b"\xe0\x01\x8b");
        assert_eq!(another.disconnect(10), b"\xe0\x08\x9c\x06\x1c\x00\x03b:1");
        assert_eq!(another.disconnect(9), b"\xe0\x01\x9c");
        assert_eq!(Farewell::Moved(None).disconnect(100), b"\xe0\x01\x9d");
        assert_eq!(Farewell::default().connack(100), None);
        let whole = b"\x20\x09\x00\x9d\x06\x1c\x00\x03b:1";
        assert_eq!(moved.connack(11).as_deref(), Some(&whole[..]));
        let alone = b"\x20\x03\x00\x9d\x00";
        assert_eq!(moved.connack(10).as_deref(), Some(&alone[..]));
        assert_eq!(
            Farewell::Moved(None).connack(100).as_deref(),
            Some(&alone[..])
        );
    }
}
