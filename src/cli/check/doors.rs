//! Whether a stranger gets into a broker: where the gate goes in, and where else it may be open (threats.md N3).

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;

use futures_util::future::join_all;
use nix::ifaddrs::getifaddrs;

use super::brokers::{Visitor, Who};
use super::finding::Finding;
use crate::broker::knock::{Answer, At};
use crate::gate::ListenerSettings;
use crate::proxy_protocol::Version;
use crate::rules::policy::Password;

/// The most addresses of this host at which a broker is looked for: a node of a cluster may have hundreds.
const MOST: usize = 16;

/// Where brokers mostly listen without TLS.
const USUAL_PORT: u16 = 1883;

/// One place to call at.
#[derive(Clone, Debug)]
pub(super) struct Door<'a> {
    /// The key of the broker.
    pub(super) key: &'a str,
    /// For sentences.
    pub(super) name: String,
    /// The host that its certificate is for; `None`: it is spoken to in plaintext.
    pub(super) tls_host: Option<&'a str>,
    pub(super) at: At,
}

/// The addresses of this host, but for loopback and link-local ones.
pub(super) fn here() -> Result<Vec<IpAddr>, String> {
    let all = getifaddrs().map_err(|fault| fault.to_string())?;
    let ips = all.filter_map(|one| {
        let address = one.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    });
    let mut ips: Vec<_> = ips.filter(is_of_a_network).collect();
    ips.sort_unstable();
    ips.dedup();
    ips.truncate(MOST);
    Ok(ips)
}

fn is_of_a_network(ip: &IpAddr) -> bool {
    let is_link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast() && !is_link_local
}

/// What became of a stranger.
enum Entry {
    /// It was let in.
    Open {
        /// Only with a username.
        by_name: bool,
    },
    /// It was asked for more, by a CONNACK of this code.
    Refused(u8),
    /// It did not come so far.
    Shut,
}

impl Visitor<'_> {
    /// What a stranger finds where the gate goes in; `header`: the one with which it is answered there.
    pub(super) async fn stranger(
        &self,
        door: &Door<'_>,
        header: Option<Version>,
    ) -> Option<Finding> {
        match self.enter(door, header).await {
            Entry::Open { by_name } => is_open(door, by_name, header.is_some()),
            Entry::Refused(code) => self.asks_no_certificate(door, code),
            Entry::Shut => None,
        }
    }

    async fn enter(&self, door: &Door<'_>, header: Option<Version>) -> Entry {
        let nobody = self.call(door, header, Who::Nobody).await.answer;
        if nobody == Answer::Connack(0) {
            return Entry::Open { by_name: false };
        }
        let somebody = self.call(door, header, Who::Somebody).await.answer;
        match (somebody, nobody) {
            (Answer::Connack(0), _) => Entry::Open { by_name: true },
            (Answer::Connack(code), _) | (_, Answer::Connack(code)) => Entry::Refused(code),
            _ => Entry::Shut,
        }
    }

    /// It refused a made-up name, but a device's own would do: nothing else tells the gate from others.
    fn asks_no_certificate(&self, door: &Door<'_>, code: u8) -> Option<Finding> {
        let tls = self.settings().broker.tls.as_ref()?;
        door.tls_host?;
        let has_password = matches!(self.settings().connect.password, Password::Fixed(_));
        if tls.identity.is_none() || has_password {
            return None;
        }
        Some(Finding::warning(
            "broker_asks_no_certificate",
            door.key,
            format!(
                "{} goes on without a client certificate, and refuses only the made-up name (CONNACK 0x{code:02x}): it would take a device's name from anybody",
                door.name
            ),
            "have it require a certificate of the gate's CA (Mosquitto: require_certificate true), or write connect.password_file",
        ))
    }

    /// What a stranger finds at other doors of the same broker.
    pub(super) async fn elsewhere(&self, door: &Door<'_>, header: Option<Version>) -> Vec<Finding> {
        let others = self.others(door);
        let looks = others.iter().map(async |(other, is_same_port)| {
            let header = header.filter(|_| *is_same_port);
            let entry = self.enter(other, header).await;
            told(door, other, &entry, header.is_some())
        });
        join_all(looks).await.into_iter().flatten().collect()
    }

    /// Where else the broker behind `door` may listen, and whether at the same port: at the other addresses of this host, if it is on it; and
    /// at the usual port without TLS.
    fn others<'d>(&self, door: &Door<'d>) -> Vec<(Door<'d>, bool)> {
        let here = self.here.as_deref().unwrap_or_default();
        let (ips, port) = match &door.at {
            At::Unix(_) => (here.to_vec(), None),
            At::Tcp(at) if at.ip().is_loopback() || here.contains(&at.ip()) => {
                (here.to_vec(), Some(at.port()))
            }
            At::Tcp(at) => (vec![at.ip()], Some(at.port())),
        };
        let mut others = Vec::new();
        let mut add = |at: SocketAddr, tls_host: Option<&'d str>, is_same_port| {
            if !is_the_gates(&self.settings().listeners, at) && self.is_new(at) {
                let scheme = if tls_host.is_some() { "mqtts" } else { "mqtt" };
                let name = format!("{scheme}://{at}");
                let (key, at) = (door.key, At::Tcp(at));
                let other = Door {
                    key,
                    name,
                    tls_host,
                    at,
                };
                others.push((other, is_same_port));
            }
        };
        for ip in ips {
            if let Some(port) = port {
                add((ip, port).into(), door.tls_host, true);
            }
            add((ip, USUAL_PORT).into(), None, false);
        }
        others
    }
}

/// What it means that a stranger gets in where the gate does.
fn is_open(door: &Door<'_>, by_name: bool, by_header: bool) -> Option<Finding> {
    let who = who(by_name, by_header);
    let name = &door.name;
    let only_here = match &door.at {
        At::Tcp(at) => at.ip().is_loopback(),
        At::Unix(path) => {
            let mode = path.metadata().map(|data| data.permissions().mode());
            if mode.is_ok_and(|mode| mode & 0o002 == 0) {
                return None; // whoever may write it is trusted (unix(7))
            }
            true
        }
    };
    if only_here {
        return Some(Finding::note(
            "broker_open_here",
            door.key,
            format!(
                "{name} lets {who} in: every process of this host can say that it is any device"
            ),
            "let nobody else run here, or give the broker a password and write connect.password_file",
        ));
    }
    Some(Finding::warning(
        "broker_open",
        door.key,
        format!(
            "{name} lets {who} in: whoever reaches it past the gate can say that it is any device"
        ),
        "have it ask for a client certificate (broker.tls.certificate) or a password (connect.password_file), or close its port to all but the gate; \
         this was seen from here, so run this command in the devices' network, too",
    ))
}

fn told(door: &Door<'_>, other: &Door<'_>, entry: &Entry, by_header: bool) -> Option<Finding> {
    let (name, other) = (&door.name, &other.name);
    match *entry {
        Entry::Open { by_name } => Some(Finding::warning(
            "broker_open_elsewhere",
            door.key,
            format!(
                "past {name}, {other} lets {} in: whoever reaches it can say that it is any device",
                who(by_name, by_header)
            ),
            "bind the broker to the gate's address alone (Mosquitto: listener 1883 127.0.0.1), or close that port to all but the gate; \
             a firewall that keeps others out is not seen from this host",
        )),
        Entry::Refused(code) => Some(Finding::note(
            "broker_reachable_elsewhere",
            door.key,
            format!(
                "past {name}, MQTT answers at {other}, too, and refuses a stranger (CONNACK 0x{code:02x})"
            ),
            "close that port to all but the gate, if it is the same broker",
        )),
        Entry::Shut => None,
    }
}

fn who(by_name: bool, by_header: bool) -> String {
    let with = if by_name {
        "a made-up username"
    } else {
        "anybody"
    };
    let behind = if by_header {
        " behind a PROXY header that anybody can write"
    } else {
        ""
    };
    format!("{with} without a password{behind}")
}

/// Whether the gate itself listens there.
fn is_the_gates(listeners: &[ListenerSettings], at: SocketAddr) -> bool {
    let binds = listeners.iter().flat_map(|listener| &listener.bind);
    let mut same_port = binds.filter(|bind| bind.port() == at.port());
    same_port.any(|bind| {
        bind.ip() == at.ip() || bind.ip().is_unspecified() && bind.is_ipv4() == at.is_ipv4()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_a_network_are_tried() {
        let of = |text: &str| is_of_a_network(&text.parse().expect(text));
        assert!(of("10.0.0.5") && of("192.0.2.1") && of("2001:db8::1"));
        assert!(!of("127.0.0.1") && !of("::1") && !of("0.0.0.0") && !of("fe80::1"));
        assert!(!of("169.254.1.1"));
    }
}
