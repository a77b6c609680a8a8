//! Where a broker is: `mqtt://host:port`, `mqtts://host:port` or `unix:///path`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// Where a broker is.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Address {
    /// `mqtt://host[:port]`; the port is 1883 if left out. `host` is a name or an IP address, an IPv6 one without its brackets.
    Tcp {
        /// Name or IP address.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// `mqtts://host[:port]`: over TLS; the port is 8883 if left out, the rest as above.
    Tls {
        /// Name or IP address.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// `unix:///path`
    Unix(PathBuf),
}

/// The text is no address of a broker.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotAnAddress {
    /// None of `mqtt://`, `mqtts://`, `unix://`.
    #[error(
        "{0:?} is not an address of a broker: write mqtt://host:1883, mqtts://host:8883 or unix:///path/to/socket"
    )]
    Scheme(String),
    /// The host is missing or the port is no number from 1 to 65535.
    #[error("{0:?} needs a host and, if any, a port from 1 to 65535: {1}")]
    HostOrPort(String, &'static str),
    /// The system knows no socket of so long a path (unix(7)).
    #[error(
        "{0:?} has a path of more than {LONGEST_PATH} bytes, which no socket can have: give the socket a shorter one"
    )]
    LongPath(String),
    /// The path of a socket is missing or not absolute.
    #[error("{0:?} needs an absolute path: unix:///run/mosquitto.sock")]
    Path(String),
}

/// Of a socket's path, in bytes: `sun_path` without the NUL at its end (unix(7)).
const LONGEST_PATH: usize = 107;

impl FromStr for Address {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        if let Some(path) = text.strip_prefix("unix://") {
            let absolute = path.starts_with('/') && path.len() > 1 && !path.contains('\0');
            return if !absolute {
                Err(NotAnAddress::Path(text.into()))
            } else if path.len() > LONGEST_PATH {
                Err(NotAnAddress::LongPath(text.into()))
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        if let Some(rest) = text.strip_prefix("mqtts://") {
            let fault = || NotAnAddress::HostOrPort(text.into(), "mqtts://host:8883");
            let (host, port) = host_and_port(rest, 8883).ok_or_else(fault)?;
            return Ok(Self::Tls { host, port });
        }
        let rest = text
            .strip_prefix("mqtt://")
            .ok_or_else(|| NotAnAddress::Scheme(text.into()))?;
        let fault = || NotAnAddress::HostOrPort(text.into(), "mqtt://host:1883");
        let (host, port) = host_and_port(rest, 1883).ok_or_else(fault)?;
        Ok(Self::Tcp { host, port })
    }
}

/// Reads `host[:port]`; an IPv6 address stands in brackets there, and is given without.
fn host_and_port(text: &str, default: u16) -> Option<(String, u16)> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let (host, port) = match text.strip_prefix('[') {
        Some(v6) => {
            let (host, after) = v6.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            let port = match after {
                "" => None,
                after => Some(after.strip_prefix(':')?),
            };
            (host, port)
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    let is_host = !host.is_empty() && host.len() <= 253 && host.chars().all(plain);
    let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()); // parse takes a sign, too
    let read = |port: &str| port.parse().ok().filter(|_| digits(port));
    let port = port.map_or(Some(default), read)?;
    (is_host && port != 0).then(|| (host.to_owned(), port))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host, port) = match self {
            Self::Tcp { host, port } => ("mqtt", host, port),
            Self::Tls { host, port } => ("mqtts", host, port),
            Self::Unix(path) => return write!(f, "unix://{}", path.display()),
        };
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}")
        } else {
            write!(f, "{scheme}://{host}:{port}")
        }
    }
}

impl Address {
    /// Whether bytes to this broker stay on this host, as far as the address alone tells: a socket file, a loopback
    /// address, or `localhost`.
    pub fn is_this_host(&self) -> bool {
        match self.known() {
            None => matches!(self, Self::Unix(_)),
            Some(known) => known.iter().all(|at| at.ip().is_loopback()),
        }
    }

    /// Where it is, in canonical IP addresses, if that can be told without a look-up; a socket file is nowhere there.
    pub fn known(&self) -> Option<Vec<SocketAddr>> {
        let (Self::Tcp { host, port } | Self::Tls { host, port }) = self else {
            return None;
        };
        let name = host.strip_suffix('.').unwrap_or(host);
        let ips = if name.eq_ignore_ascii_case("localhost") {
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        } else {
            vec![host.parse::<IpAddr>().ok()?.to_canonical()]
        };
        let at = |ip| SocketAddr::new(ip, *port);
        Some(ips.into_iter().map(at).collect())
    }

    /// The host of an address that is spoken to in TLS.
    pub fn tls_host(&self) -> Option<&str> {
        match self {
            Self::Tls { host, .. } => Some(host),
            Self::Tcp { .. } | Self::Unix(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for (text, again) in [
            ("mqtt://broker", "mqtt://broker:1883"),
            ("mqtt://10.0.0.1:1884/", "mqtt://10.0.0.1:1884"),
            ("mqtt://[::1]:1884", "mqtt://[::1]:1884"),
            ("mqtt://[::1]", "mqtt://[::1]:1883"),
            ("mqtts://broker", "mqtts://broker:8883"),
            ("mqtts://[::1]:8884/", "mqtts://[::1]:8884"),
            ("unix:///run/b.sock", "unix:///run/b.sock"),
        ] {
            assert_eq!(text.parse::<Address>().expect(text).to_string(), again);
        }
    }

    #[test]
    fn what_is_no_address_is_told_with_the_way_out() {
        for text in [
            "",
            "broker:1883",
            "http://b",
            "mqtt+tls://b",
            "mqtts://",
            "mqtts://b:x",
            "mqtt://",
            "mqtt://:1883",
            "mqtt://b:0",
            "mqtt://b:x",
            "mqtt://b:70000",
            "mqtt://b:+1883",
            "mqtts://[::1]:+8883",
            "mqtt://b:",
            "mqtt://[::1",
            "mqtt://[zz]:1",
            "mqtt://[::1]x",
            "mqtt://a b",
            "unix://",
            "unix://rel",
            "unix:///",
        ] {
            let fault = text.parse::<Address>().expect_err(text).to_string();
            assert!(
                ["mqtt://host", "mqtts://host", "unix:///"]
                    .iter()
                    .any(|right| fault.contains(right)),
                "{fault}"
            );
        }
    }

    #[test]
    fn only_loopback_and_sockets_are_this_host() {
        let here = |text: &str| text.parse::<Address>().expect(text).is_this_host();
        assert!(
            here("mqtt://127.9.9.9")
                && here("mqtt://[::1]")
                && here("mqtt://localhost")
                && here("mqtt://localhost.")
                && here("mqtts://LocalHost")
                && here("unix:///s")
                && here("mqtts://127.0.0.1")
        );
        assert!(!here("mqtt://10.0.0.1") && !here("mqtts://broker.internal"));
        assert!(!here("mqtt://localhost.example.net") && !here("mqtt://localhost.."));
    }

    #[test]
    fn a_path_is_as_long_as_the_system_takes_it() {
        let path = |length: usize| format!("unix:///{}", "s".repeat(length - 1));
        assert!(path(LONGEST_PATH).parse::<Address>().is_ok());
        let fault = path(LONGEST_PATH + 1).parse::<Address>();
        assert!(matches!(fault, Err(NotAnAddress::LongPath(_))));
        let bind = |length| std::os::unix::net::SocketAddr::from_pathname("s".repeat(length));
        assert!(bind(LONGEST_PATH).is_ok() && bind(LONGEST_PATH + 1).is_err());
    }
}
