//! `[broker]`

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::broker_tls;
use super::fault::quoted;
use super::listener::Draft;
use super::quantities::Bounds;
use super::reader::{Got, Section};
use crate::broker::address::Address;
use crate::broker::sources::{is_here, serves};
use crate::broker::{Balance, Probe, Settings};
use crate::proxy_protocol::Version;

/// `[broker]` as far as it could be read.
pub(super) struct Broker<'n> {
    pub(super) settings: Settings,
    pub(super) allow_plaintext: bool,
    section: Section<'n>,
    /// Each address with the key that faults name it by.
    addresses: Vec<(String, Address)>,
}

/// The words of `broker.balance`.
pub(super) const BALANCES: [(&str, Balance); 3] = [
    ("round-robin", Balance::RoundRobin),
    ("least-connections", Balance::LeastConnections),
    ("device", Balance::Device),
];

/// The words of `broker.health.probe`.
pub(super) const PROBES: [(&str, Probe); 2] = [("tcp", Probe::Tcp), ("mqtt", Probe::Mqtt)];

/// The words of `broker.proxy_protocol`.
pub(super) const PROXY_PROTOCOL: [(&str, Option<Version>); 3] = [
    ("off", None),
    ("v1", Some(Version::V1)),
    ("v2", Some(Version::V2)),
];

/// Reads `[broker]`. `has_password`: `connect.password_file` is written, well or not.
pub(super) fn read(mut section: Section<'_>, has_password: bool) -> Broker<'_> {
    let addresses = read_addresses(&mut section);
    let tls = broker_tls::read(&mut section, &addresses);
    let dial = Bounds {
        least: Duration::from_millis(10),
        most: Duration::from_mins(10),
        default: Duration::from_secs(3),
    };
    let dial_timeout = section.duration("dial_timeout", dial).or(dial.default);
    let balance = one_of(&mut section, "balance", &BALANCES);
    let source_addresses = read_sources(&mut section, &addresses);
    let plaintext = section.boolean("allow_plaintext");
    let judged = !matches!(plaintext, Got::Faulty);
    let allow_plaintext = plaintext.or(false);
    let proxy_protocol = one_of(&mut section, "proxy_protocol", &PROXY_PROTOCOL);
    let mut health = section.section("health");
    let interval = Bounds {
        least: Duration::from_millis(100),
        most: Duration::from_hours(1),
        default: Duration::from_secs(5),
    };
    let health_interval = health.duration("interval", interval).or(interval.default);
    let probe = one_of(&mut health, "probe", &PROBES);
    health.finish();
    section.finish();
    if judged {
        let knows_us = tls.has_certificate || has_password;
        for (key, address) in &addresses {
            check_leg(&section, key, address, knows_us, allow_plaintext);
        }
    }
    Broker {
        settings: Settings {
            addresses: addresses.iter().map(|(_, at)| at.clone()).collect(),
            tls: tls.settings,
            balance,
            source_addresses,
            dial_timeout,
            health_interval,
            proxy_protocol,
            probe,
        },
        allow_plaintext,
        section,
        addresses,
    }
}

impl Broker<'_> {
    /// A gate that is its own broker calls itself for each device until nothing is left.
    pub(super) fn check_loops(&self, listeners: &[Draft<'_>]) {
        for (key, address) in &self.addresses {
            let here = |at: &SocketAddr| at.ip().is_loopback() || is_here(at.ip()).is_ok();
            let places = address.known().unwrap_or_default();
            let own = places.iter().filter(|at| here(at)).find_map(|at| {
                let mut listeners = listeners.iter();
                listeners.find(|listener| listener.listens_at(*at))
            });
            if let Some(listener) = own {
                let what = format!("{address} is where {} listens", listener.bind_name());
                let way_out = "name the broker's own address and port: the gate would call itself";
                self.section.fault(key, what, way_out);
            }
        }
    }
}

/// Whoever reads or writes the leg to a broker can be any device (threats.md N3). `knows_us`: over TLS, the broker can tell the gate
/// from others by a certificate or a password.
fn check_leg(section: &Section<'_>, key: &str, address: &Address, knows_us: bool, allowed: bool) {
    if address.is_this_host() {
        return;
    }
    let over_tls = address.tls_host().is_some();
    match (over_tls, allowed) {
        (true, _) if knows_us => {}
        (false, true) => {
            let sentence = format!(
                "{address} is told who a device is in plaintext; nobody else may reach this network or the broker's port"
            );
            section.warn(key, &sentence);
        }
        (true, true) => {
            let sentence = format!(
                "{address} cannot tell the gate from others; nobody else may reach the broker's port"
            );
            section.warn(key, &sentence);
        }
        (false, false) => {
            let what =
                format!("{address} is not on this host, and the gate would speak plaintext to it");
            let way_out = "use mqtts://, put the gate beside the broker, or write broker.allow_plaintext = true if nobody else can reach that network";
            section.fault(key, what, way_out);
        }
        (true, false) => {
            let what = format!(
                "{address} is not on this host, and could not tell the gate from others, who could be any device"
            );
            let way_out = "write broker.tls.certificate and key, or connect.password_file, or broker.allow_plaintext = true if nobody else can reach that network";
            section.fault(key, what, way_out);
        }
    }
}

/// One of `words`; left out, the default.
fn one_of<T: Copy + Default>(section: &mut Section<'_>, key: &str, words: &[(&str, T)]) -> T {
    let find = |word: &str| words.iter().find(|(known, _)| *known == word);
    let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
    let got = section.word(key, &known, |word| find(word).map(|(_, value)| *value));
    got.or(T::default())
}

/// Whether this host has them, is seen when the gate starts, and by `tidegate check`.
fn read_sources(section: &mut Section<'_>, brokers: &[(String, Address)]) -> Vec<IpAddr> {
    const KEY: &str = "source_addresses";
    let texts = section.texts(KEY, "10.0.0.7").or(Vec::new());
    let mut sources: Vec<IpAddr> = Vec::new();
    for (key, text) in texts {
        let Ok(source) = text.parse::<IpAddr>().map(|ip| ip.to_canonical()) else {
            let way_out = "write an address of this host, without a port: 10.0.0.7";
            section.fault(&key, format!("{} is no IP address", quoted(&text)), way_out);
            continue;
        };
        let is_broadcast = source == IpAddr::from(Ipv4Addr::BROADCAST);
        if source.is_unspecified() || source.is_multicast() || is_broadcast {
            let way_out = "write each address of this host that is to be used";
            section.fault(
                &key,
                format!("{source} is not one address of a host"),
                way_out,
            );
        } else if sources.contains(&source) {
            section.fault(&key, format!("{source} is there twice"), "write it once");
        } else {
            sources.push(source);
        }
    }
    if sources.is_empty() {
        return sources;
    }
    for (key, address) in brokers {
        let without = match address {
            Address::Unix(_) => true,
            Address::Tcp { host, .. } | Address::Tls { host, .. } => host
                .parse::<IpAddr>()
                .is_ok_and(|ip| !sources.iter().any(|source| serves(*source, ip))),
        };
        if without {
            let sentence = format!(
                "none of broker.source_addresses leads to {address}: it is dialled from where the system chooses"
            );
            section.warn(key, &sentence);
        }
    }
    sources
}

fn read_addresses(section: &mut Section<'_>) -> Vec<(String, Address)> {
    let example = "mqtt://127.0.0.1:1883";
    let texts = match section.texts("addresses", example) {
        Got::Good(texts) if !texts.is_empty() => texts,
        Got::Faulty => return Vec::new(),
        Got::Absent | Got::Good(_) => {
            let way_out = format!("write [broker] with addresses = [{example:?}], or use --broker");
            section.fault("addresses", "is missing", way_out);
            return Vec::new();
        }
    };
    let mut addresses: Vec<(String, Address)> = Vec::new();
    for (key, text) in texts {
        if text.contains('@') && !text.starts_with("unix://") {
            // Not told: what stands before the @ is probably a secret (threats.md K2).
            let way_out =
                "write mqtt://host:1883; what the broker is told of a device stands in [connect]";
            section.fault(&key, "holds a username or a password", way_out);
            continue;
        }
        match text.parse::<Address>() {
            Err(fault) => section.fault(&key, fault.to_string(), ""),
            Ok(address) if addresses.iter().any(|(_, other)| *other == address) => {
                section.fault(
                    &key,
                    format!("{} is there twice", quoted(&text)),
                    "write it once",
                );
            }
            Ok(address) => addresses.push((key, address)),
        }
    }
    addresses
}
