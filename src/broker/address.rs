//! Where a broker is: `mqtt://host:port` or `unix:///path`.

use std::fmt;
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
    /// `unix:///path`
    Unix(PathBuf),
}

/// The text is no address of a broker.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotAnAddress {
    /// Neither `mqtt://` nor `unix://`.
    #[error(
        "{0:?} is not an address of a broker: write mqtt://host:1883 or unix:///path/to/socket"
    )]
    Scheme(String),
    /// The host is missing or the port is no number from 1 to 65535.
    #[error("{0:?} needs a host and, if any, a port from 1 to 65535: mqtt://host:1883")]
    HostOrPort(String),
    /// The path of a socket is missing or not absolute.
    #[error("{0:?} needs an absolute path: unix:///run/mosquitto.sock")]
    Path(String),
}

impl FromStr for Address {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        if let Some(path) = text.strip_prefix("unix://") {
            let absolute = path.starts_with('/') && path.len() > 1 && !path.contains('\0');
            return if absolute {
                Ok(Self::Unix(path.into()))
            } else {
                Err(NotAnAddress::Path(text.into()))
            };
        }
        let rest = text
            .strip_prefix("mqtt://")
            .ok_or_else(|| NotAnAddress::Scheme(text.into()))?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let fault = || NotAnAddress::HostOrPort(text.into());
        let (host, port) = match rest.strip_prefix('[') {
            Some(v6) => {
                let (host, after) = v6.split_once(']').ok_or_else(fault)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| fault())?;
                let port = if after.is_empty() {
                    None
                } else {
                    Some(after.strip_prefix(':').ok_or_else(fault)?)
                };
                (host, port)
            }
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        if host.is_empty() || host.len() > 253 || !host.chars().all(plain) {
            return Err(fault());
        }
        let port = port.map_or(Ok(1883), |p| p.parse::<u16>().map_err(|_| fault()))?;
        if port == 0 {
            return Err(fault());
        }
        Ok(Self::Tcp {
            host: host.into(),
            port,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "mqtt://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "mqtt://{host}:{port}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

impl Address {
    /// Whether bytes to this broker stay on this host, as far as the address alone tells: a socket file, a loopback
    /// address, or `localhost`.
    pub fn is_this_host(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp { host, .. } => {
                host == "localhost"
                    || host
                        .parse::<std::net::IpAddr>()
                        .is_ok_and(|ip| ip.to_canonical().is_loopback())
            }
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
            "mqtts://b",
            "mqtt://",
            "mqtt://:1883",
            "mqtt://b:0",
            "mqtt://b:x",
            "mqtt://b:70000",
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
                fault.contains("mqtt://") || fault.contains("unix:///"),
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
                && here("unix:///s")
        );
        assert!(!here("mqtt://10.0.0.1") && !here("mqtt://broker.internal"));
    }
}
