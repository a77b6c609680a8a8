//! Where calls come from: a port belongs to an address, so more addresses are more ports.
//!
//! An address has some 28,000 ports for calls of its own (ip_local_port_range), and one that ended a connection rests
//! for a minute.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::str::FromStr;

use super::Fault;

/// The most addresses that one network is spelt out to.
const MOST: u32 = 4096;

/// One address, or the hosts of a network: `192.0.2.7` or `127.0.1.0/24`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sources(pub Vec<IpAddr>);

impl FromStr for Sources {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is neither an IP address nor a network such as 127.0.1.0/24");
        let Some((address, prefix)) = text.split_once('/') else {
            return Ok(Self(vec![text.parse().map_err(|_| wrong())?]));
        };
        let network: Ipv4Addr = address.parse().map_err(|_| wrong())?;
        let prefix: u32 = prefix.parse().map_err(|_| wrong())?;
        if !(8..=32).contains(&prefix) {
            return Err(format!(
                "{text:?}: a network of sources has a prefix of 8 to 32"
            ));
        }
        let size = 1_u32 << (32 - prefix);
        let first = network.to_bits() & !(size - 1);
        // The first and the last address of a network are no hosts.
        let hosts = if size > 2 { 1..size - 1 } else { 0..size };
        let hosts = hosts.take(MOST as usize);
        Ok(Self(
            hosts
                .map(|n| Ipv4Addr::from_bits(first + n).into())
                .collect(),
        ))
    }
}

/// Where calls come from when nobody says: for a target on IPv4 loopback 254 addresses of it, whose ports never run
/// out; else what the system chooses.
pub fn usual(target: IpAddr) -> Vec<IpAddr> {
    if target.is_loopback() && target.is_ipv4() {
        (1..=254)
            .map(|n| Ipv4Addr::new(127, 0, 1, n).into())
            .collect()
    } else {
        Vec::new()
    }
}

/// Sees that this host has each of `sources`: a call from elsewhere fails as one without a port does.
///
/// # Errors
/// [`Fault::Asked`], for the first that it does not have.
pub(super) fn are_here(sources: &[IpAddr]) -> Result<(), Fault> {
    for source in sources {
        UdpSocket::bind((*source, 0)).map_err(|why| {
            Fault::Asked(format!(
                "--source {source}: {why}; name addresses of this host (ip address), or give it this one"
            ))
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_somebody_else_is_no_source() {
        let ip = |text: &str| text.parse::<IpAddr>().expect(text);
        assert!(are_here(&[ip("127.0.0.1"), ip("127.0.1.254")]).is_ok());
        let told = are_here(&[ip("127.0.0.1"), ip("192.0.2.7")]).expect_err("for documentation");
        assert!(told.to_string().contains("--source 192.0.2.7"), "{told}");
    }

    #[test]
    fn a_network_is_its_hosts() {
        let of = |text: &str| text.parse::<Sources>().map(|sources| sources.0);
        let ip = |text: &str| text.parse::<IpAddr>().expect(text);
        assert_eq!(of("192.0.2.7"), Ok(vec![ip("192.0.2.7")]));
        assert_eq!(of("::1"), Ok(vec![ip("::1")]));
        assert_eq!(
            of("127.0.1.9/30"),
            Ok(vec![ip("127.0.1.9"), ip("127.0.1.10")])
        );
        assert_eq!(of("127.0.1.9/32"), Ok(vec![ip("127.0.1.9")]));
        assert_eq!(of("127.0.0.0/8").map(|all| all.len()), Ok(4096));
        for wrong in [
            "",
            "a",
            "127.0.0.0/7",
            "127.0.0.0/33",
            "127.0.0.0/",
            "::1/64",
        ] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn loopback_has_many() {
        assert_eq!(usual(IpAddr::from([127, 0, 0, 1])).len(), 254);
        assert!(usual(IpAddr::from([192, 0, 2, 1])).is_empty());
    }
}
