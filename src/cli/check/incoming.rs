//! Whether `listener.proxy_protocol_from` can do what it says.

use std::net::SocketAddr;

use ipnet::IpNet;

use super::finding::Finding;
use crate::gate::ListenerSettings;

/// Tells the networks from which nobody can call this listener, so that no header is ever expected there.
pub(super) fn judge(listener: &ListenerSettings) -> Option<Finding> {
    let networks = listener.proxy_protocol_from.iter();
    let lost: Vec<_> = networks
        .filter(|network| !listener.bind.iter().any(|bind| can_call(**network, *bind)))
        .map(ToString::to_string)
        .collect();
    if lost.is_empty() {
        return None;
    }
    let binds: Vec<_> = listener.bind.iter().map(ToString::to_string).collect();
    Some(Finding::warning(
        "proxy_networks_unreachable",
        format!("listener[{}].proxy_protocol_from", listener.name),
        format!(
            "nobody in {} can call {}, so what calls there is never taken for a balancer, and its header is refused",
            lost.join(", "),
            binds.join(", ")
        ),
        "list the address that the balancer calls from, as this host sees it, or bind an address that it can call",
    ))
}

/// Whether somebody in `network` may call `bind`: of its family, and on this host where it is loopback.
fn can_call(network: IpNet, bind: SocketAddr) -> bool {
    let loopback: IpNet = match bind {
        SocketAddr::V4(_) => "127.0.0.0/8",
        SocketAddr::V6(_) => "::1/128",
    }
    .parse()
    .expect("a network");
    let same_family = network.addr().is_ipv4() == bind.is_ipv4();
    let touches = network.contains(&loopback.addr()) || loopback.contains(&network);
    same_family && (!bind.ip().is_loopback() || touches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_can_call_what() {
        for (network, bind, can) in [
            ("10.0.0.0/8", "0.0.0.0:1", true),
            ("10.0.0.0/8", "127.0.0.1:1", false),
            ("10.0.0.0/8", "[::]:1", false),
            ("127.0.0.1/32", "127.0.0.1:1", true),
            ("0.0.0.0/0", "127.0.0.1:1", true),
            ("2001:db8::/32", "[::]:1", true),
            ("::/0", "[::1]:1", true),
        ] {
            let (network, bind) = (network.parse().expect(network), bind.parse().expect(bind));
            assert_eq!(can_call(network, bind), can, "{network} {bind}");
        }
    }
}
