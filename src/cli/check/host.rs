//! Whether this host lets the gate have as many connections as it is to take.

use std::fs;
use std::str::FromStr;

use rustix::process::{Resource, getrlimit};

use super::finding::{Finding, Level};
use crate::broker::address::Address;
use crate::broker::{self, sources};
use crate::config::Config;
use crate::gate::{self, BACKLOG};

/// Descriptors that a gate of a few cores and listeners has open before the first device comes.
const AT_REST: u64 = 64;

/// `limits.connections`
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) connections: u32,
    /// What nobody wrote is no wish, and what is too little for it is only noted.
    pub(super) is_written: bool,
}

impl Wanted {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            connections: config.gate.limits.connections,
            is_written: config.connections_written,
        }
    }
}

/// What the kernel allows; `None`: that cannot be seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Host {
    /// The hard limit of descriptors, of a process that is started here.
    descriptors: Option<u64>,
    /// How many connections wait for accept, at each socket.
    somaxconn: Option<u64>,
    /// Local ports of one address, to one endpoint.
    ports: Option<u32>,
    /// Connections that the firewall keeps in mind.
    conntrack: Option<u64>,
}

impl Host {
    pub(super) fn read() -> Self {
        Self {
            descriptors: getrlimit(Resource::Nofile).maximum,
            somaxconn: number("/proc/sys/net/core/somaxconn"),
            ports: sources::ports(),
            conntrack: number("/proc/sys/net/netfilter/nf_conntrack_max"),
        }
    }

    /// `warned`: what is told anyway.
    pub(super) fn judge(
        &self,
        wanted: Wanted,
        broker: &broker::Settings,
        warned: &[String],
    ) -> Vec<Finding> {
        let level = if wanted.is_written {
            Level::Warning
        } else {
            Level::Note
        };
        let is_told = warned
            .iter()
            .any(|one| one.starts_with("limits.connections: "));
        let places = self
            .descriptors
            .map_or(u32::MAX, |allowed| gate::places(allowed, AT_REST));
        let mut found = Vec::new();
        if places < wanted.connections && !is_told {
            found.push(Finding::new(
                "descriptors_few",
                level,
                "limits.connections",
                format!(
                    "a process that is started here may have {} file descriptors, enough for some {places} connections, not for {}",
                    self.descriptors.unwrap_or_default(),
                    wanted.connections
                ),
                "raise the hard limit (LimitNOFILE=, ulimit -Hn) to more than twice the number, or write a lower number",
            ));
        }
        // What descriptors do not allow needs no ports.
        let wanted = wanted.connections.min(places);
        found.extend(self.judge_ports(wanted, level, broker));
        found.extend(self.judge_kernel(wanted, level));
        found
    }

    fn judge_ports(&self, wanted: u32, level: Level, broker: &broker::Settings) -> Option<Finding> {
        let is_tcp = |address: &&Address| !matches!(address, Address::Unix(_));
        let brokers = broker.addresses.iter().filter(is_tcp).count();
        if brokers < broker.addresses.len() {
            return None; // a socket file takes as many as come
        }
        let sources = broker.source_addresses.len().max(1);
        let each = u64::from(self.ports?) * u64::try_from(sources).unwrap_or(u64::MAX);
        let room = each.saturating_mul(u64::try_from(brokers).unwrap_or(u64::MAX));
        if room >= u64::from(wanted) {
            return None;
        }
        Some(Finding::new(
            "ports_few",
            level,
            "broker.source_addresses",
            format!(
                "this host has local ports for {each} connections to one address of a broker, so for {room} to the {brokers} configured, not for {wanted} \
                 (a name with more addresses has room for more)"
            ),
            "add addresses of this host to broker.source_addresses, widen net.ipv4.ip_local_port_range, add a broker, or write a lower limits.connections",
        ))
    }

    fn judge_kernel(&self, wanted: u32, level: Level) -> Vec<Finding> {
        let mut found = Vec::new();
        let backlog = u64::try_from(BACKLOG).unwrap_or_default();
        if let Some(somaxconn) = self.somaxconn.filter(|somaxconn| *somaxconn < backlog) {
            found.push(Finding::warning(
                "somaxconn_few",
                "net.core.somaxconn",
                format!("{somaxconn} connections may wait at each socket, where the gate asks for {backlog}: in a storm of reconnects more are lost"),
                format!("sysctl net.core.somaxconn={backlog}, or more, before the gate starts"),
            ));
        }
        let both_legs = 2 * u64::from(wanted);
        if let Some(most) = self.conntrack.filter(|most| *most < both_legs) {
            found.push(Finding::new(
                "conntrack_few",
                level,
                "net.netfilter.nf_conntrack_max",
                format!("the firewall keeps {most} connections in mind, and {wanted} devices are {both_legs} with their brokers' legs: beyond, packets are dropped without a word"),
                format!("sysctl net.netfilter.nf_conntrack_max={}, or take these ports out of connection tracking", both_legs + both_legs / 4),
            ));
        }
        found
    }
}

fn number<T: FromStr>(path: &str) -> Option<T> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::broker::{Balance, Probe};

    fn judged(host: Host, wanted: Wanted, sources: &[&str], warned: &[String]) -> Vec<Finding> {
        let second = Duration::from_secs(1);
        let broker = broker::Settings {
            addresses: vec!["mqtt://127.0.0.1".parse().expect("an address")],
            tls: None,
            balance: Balance::default(),
            source_addresses: sources.iter().map(|ip| ip.parse().expect(ip)).collect(),
            dial_timeout: second,
            health_interval: second,
            proxy_protocol: None,
            probe: Probe::Tcp,
        };
        host.judge(wanted, &broker, warned)
    }

    fn written(connections: u32) -> Wanted {
        Wanted {
            connections,
            is_written: true,
        }
    }

    fn ids(found: &[Finding]) -> Vec<(&str, Level)> {
        found.iter().map(|one| (one.id, one.level)).collect()
    }

    const ENOUGH: Host = Host {
        descriptors: Some(1_000_000),
        somaxconn: Some(4096),
        ports: Some(28_232),
        conntrack: None,
    };

    #[test]
    fn what_is_enough_is_not_told() {
        assert_eq!(judged(ENOUGH, written(20_000), &[], &[]), []);
        assert_eq!(judged(Host::default(), written(20_000), &[], &[]), []);
    }

    #[test]
    fn what_is_too_little_is_told_with_its_number() {
        let few = Host {
            descriptors: Some(20_064),
            somaxconn: Some(128),
            ports: Some(5_000),
            conntrack: Some(10_000),
        };
        let found = judged(few, written(20_000), &[], &[]);
        let all = [
            "descriptors_few",
            "ports_few",
            "somaxconn_few",
            "conntrack_few",
        ];
        assert_eq!(ids(&found), all.map(|id| (id, Level::Warning)));
        assert!(
            found[0]
                .what
                .contains("some 9936 connections, not for 20000"),
            "{found:?}"
        );
        assert!(
            found[1]
                .what
                .contains("for 5000 to the 1 configured, not for 9936"),
            "{found:?}"
        );
        let told = ["limits.connections: 20000 connections need …".to_owned()];
        assert_eq!(
            ids(&judged(few, written(20_000), &[], &told)).len(),
            3,
            "told once"
        );
    }

    #[test]
    fn more_sources_are_more_ports_and_a_default_is_no_wish() {
        let default = Wanted {
            is_written: false,
            ..written(100_000)
        };
        let found = judged(ENOUGH, default, &[], &[]);
        assert_eq!(ids(&found), [("ports_few", Level::Note)]);
        let found = judged(ENOUGH, written(100_000), &[], &[]);
        assert_eq!(ids(&found), [("ports_few", Level::Warning)], "a wish");
        let sources = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"];
        assert_eq!(judged(ENOUGH, default, &sources, &[]), []);
    }
}
