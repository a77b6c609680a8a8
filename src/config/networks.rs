//! Lists of networks, such as `10.0.0.0/8`.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use super::fault::quoted;
use super::reader::Section;

/// Where the IPv4 addresses are that IPv6 sockets tell of: `::ffff:0:0/96` (RFC 4291 §2.5.5.2).
const MAPPED: u8 = 96;

/// Reads a list of networks; an address alone is a network of one. What it gives is canonical: IPv4 inside of IPv6 is IPv4.
pub(super) fn read(section: &mut Section<'_>, key: &str) -> Vec<IpNet> {
    let mut networks: Vec<IpNet> = Vec::new();
    for (at, text) in section.texts(key, "10.0.0.0/8").or(Vec::new()) {
        match network(&text) {
            Ok(network) if networks.contains(&network) => {
                let what = format!("{} is there twice", quoted(&text));
                section.fault(&at, what, "write it once");
            }
            Ok(network) => networks.push(network),
            Err((what, way_out)) => section.fault(&at, what, way_out),
        }
    }
    networks
}

/// One network; the error is what is wrong and the way out.
fn network(text: &str) -> Result<IpNet, (String, String)> {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    let Some(network) = text.parse::<IpNet>().ok().or_else(address) else {
        let what = format!("{} is no network", quoted(text));
        return Err((
            what,
            "write 10.0.0.0/8, 2001:db8::/32 or an IP address".into(),
        ));
    };
    if network.trunc() != network {
        let what = format!("{} is an address within a network", quoted(text));
        let way_out = format!(
            "write {} for the network, or {} alone",
            network.trunc(),
            network.addr()
        );
        return Err((what, way_out));
    }
    Ok(canonical(network))
}

fn canonical(network: IpNet) -> IpNet {
    match (
        network.addr().to_canonical(),
        network.prefix_len().checked_sub(MAPPED),
    ) {
        (IpAddr::V4(ip), Some(length)) if matches!(network, IpNet::V6(_)) => {
            Ipv4Net::new(ip, length).map_or(network, IpNet::V4)
        }
        _ => network,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_one_spelling() {
        for (text, read) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.1.2.3", "10.1.2.3/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(network(text).expect(text).to_string(), read, "{text}");
        }
    }

    #[test]
    fn what_is_no_network_is_told_with_the_way_out() {
        for text in [
            "",
            "10.0.0.0/33",
            "10.0.0/8",
            "balancer",
            "10.0.0.0/255.0.0.0",
            "::1%eth0",
        ] {
            let (what, _) = network(text).expect_err(text);
            assert!(what.contains("is no network"), "{text}: {what}");
        }
        let (_, way_out) = network("10.1.2.3/8").expect_err("bits of an address");
        assert_eq!(
            way_out,
            "write 10.0.0.0/8 for the network, or 10.1.2.3 alone"
        );
    }
}
