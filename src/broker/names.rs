//! Where the brokers of the configuration are: their endpoints, which change as the records of their names do.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use arc_swap::{ArcSwap, Guard};

use crate::proxy_protocol::Version;
use crate::tls::client::ClientTls;

use super::address::Address;
use super::endpoint::{At, Endpoint, First};

/// The most addresses that are taken of one name.
const MOST: usize = 256;

/// One broker of the configuration.
#[derive(Debug)]
pub struct Broker {
    /// Its address as configured: the label in metrics and logs.
    pub label: Arc<str>,
    /// What is looked up beside the path (threats.md V4); `None`: nothing.
    pub(super) name: Option<(String, u16)>,
    /// What its endpoints are sent first.
    first: First,
    /// A look-up has ended, well or not, or takes long.
    looked: AtomicBool,
}

impl Broker {
    /// Notes that a look-up ended, or takes long; gives whether that was so before.
    pub(super) fn set_looked(&self) -> bool {
        self.looked.swap(true, Relaxed)
    }

    /// Whether nothing is known yet of where it is.
    pub(super) fn is_looked_for(&self) -> bool {
        self.name.is_some() && !self.looked.load(Relaxed)
    }
}

/// All endpoints, in the order of the configuration.
type All = Vec<Arc<Endpoint>>;

/// The endpoints of every broker: of each broker its own, of a name each address.
#[derive(Debug)]
pub(super) struct Endpoints(ArcSwap<All>);

impl Endpoints {
    /// The brokers at `addresses`, and their endpoints; names are not looked up yet.
    ///
    /// # Panics
    /// When an address is `mqtts://` and there is no `tls`, or its host is no name that a certificate could be for.
    pub(super) fn new(
        addresses: &[Address],
        proxy_protocol: Option<Version>,
        tls: Option<&ClientTls>,
    ) -> (Vec<Broker>, Self) {
        let (mut brokers, mut all) = (Vec::new(), Vec::new());
        for (place, address) in addresses.iter().enumerate() {
            let (at, name) = match address {
                Address::Unix(path) => (Some(At::Unix(path.clone())), None),
                Address::Tcp { host, port } | Address::Tls { host, port } => {
                    match host.parse::<IpAddr>() {
                        Ok(ip) => (Some(At::Tcp(SocketAddr::new(ip, *port))), None),
                        Err(_) => (None, Some((host.clone(), *port))),
                    }
                }
            };
            let first = First {
                proxy_protocol,
                tls: address.tls_host().map(|host| {
                    let towards = tls.and_then(|tls| tls.towards(host));
                    towards.expect("the configuration is refused without [broker.tls] and a name")
                }),
            };
            all.extend(at.map(|at| Endpoint::new(place, at, first.clone(), false)));
            brokers.push(Broker {
                label: address.to_string().into(),
                name,
                first,
                looked: AtomicBool::new(false),
            });
        }
        (brokers, Self(ArcSwap::from_pointee(all)))
    }

    /// All that there are now.
    pub(super) fn load(&self) -> Guard<Arc<All>> {
        self.0.load()
    }

    /// Those of the broker at `place`.
    pub(super) fn of(&self, place: usize) -> All {
        let all = self.0.load();
        let its = all.iter().filter(|one| one.place == place);
        its.cloned().collect()
    }

    /// The name of the broker at `place` leads to `addresses` now: those that it led to before stay as they are, those that it leads
    /// to no longer get no new connections. `late`: it led somewhere before. Gives whether anything changed.
    pub(super) fn lead(
        &self,
        place: usize,
        broker: &Broker,
        addresses: &[SocketAddr],
        late: bool,
    ) -> bool {
        let mut left = All::new();
        let mut changed = false;
        self.0.rcu(|all| {
            let (old, others): (All, All) = all.iter().cloned().partition(|one| one.place == place);
            let kept = |address: SocketAddr| {
                let at = At::Tcp(address);
                let known = old.iter().find(|one| one.at == at).cloned();
                known.unwrap_or_else(|| Endpoint::new(place, at, broker.first.clone(), late))
            };
            let new: All = addresses.iter().copied().map(kept).collect();
            let stays = |one: &Arc<Endpoint>| new.iter().any(|other| Arc::ptr_eq(one, other));
            left = old.iter().filter(|one| !stays(one)).cloned().collect();
            changed = !left.is_empty() || new.len() != old.len();
            let mut all: All = others.into_iter().chain(new).collect();
            all.sort_by_key(|one| one.place); // stable: those of one name in the order of their addresses
            all
        });
        for one in left {
            one.leave();
        }
        changed
    }
}

/// Asks the system for the addresses of `host`, as it is configured to (files, DNS): sorted, each once.
///
/// # Errors
/// When the look-up fails or finds nothing.
pub(super) async fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let found = tokio::net::lookup_host((host, port)).await?;
    let own = |found: SocketAddr| SocketAddr::new(found.ip().to_canonical(), port);
    let mut found: Vec<_> = found.map(own).collect();
    found.sort_unstable();
    found.dedup();
    found.truncate(MOST);
    if found.is_empty() {
        let why = format!("{host} has no address");
        return Err(io::Error::new(io::ErrorKind::NotFound, why));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ports: &[u16]) -> Vec<SocketAddr> {
        let one = |port: &u16| SocketAddr::from(([127, 0, 0, 1], *port));
        ports.iter().map(one).collect()
    }

    fn ports(endpoints: &Endpoints) -> Vec<Option<u16>> {
        endpoints.load().iter().map(|one| one.port()).collect()
    }

    #[test]
    fn each_address_of_a_name_is_an_endpoint_and_one_that_stays_is_the_same() {
        let addresses = [
            "mqtt://brokers.example",
            "unix:///b.sock",
            "mqtt://127.0.0.1:9",
        ];
        let addresses = addresses.map(|text| text.parse().expect("an address"));
        let (brokers, endpoints) = Endpoints::new(&addresses, None, None);
        assert!(brokers[0].is_looked_for() && !brokers[1].is_looked_for());
        assert_eq!(ports(&endpoints), [None, Some(9)]);

        assert!(endpoints.lead(0, &brokers[0], &at(&[1, 2, 3]), false));
        assert_eq!(
            ports(&endpoints),
            [1, 2, 3, 0, 9].map(|port| Some(port).filter(|it| *it > 0))
        );
        let second = endpoints.of(0)[1].clone();
        let open = second.clone().take();
        second.standing.fell(false);
        assert!(
            !endpoints.lead(0, &brokers[0], &at(&[1, 2, 3]), true),
            "nothing new"
        );

        assert!(endpoints.lead(0, &brokers[0], &at(&[2, 4]), true));
        assert_eq!(ports(&endpoints)[..2], [Some(2), Some(4)]);
        let now = endpoints.of(0);
        assert!(Arc::ptr_eq(&now[0], &second) && second.standing.is_down());
        assert!(now[1].standing.is_doubtful() && !now[1].standing.is_down());

        assert!(endpoints.lead(0, &brokers[0], &at(&[4]), true));
        assert!(second.has_left());
        assert_eq!(second.open(), 1, "what is open stays");
        drop(open);
        assert_eq!(second.open(), 0);
    }

    #[tokio::test]
    async fn the_addresses_of_a_name_come_sorted_and_once() {
        let found = look_up("localhost", 1883)
            .await
            .expect("a host knows itself");
        assert!(!found.is_empty() && found.is_sorted());
        assert!(
            found
                .iter()
                .all(|one| one.port() == 1883 && one.ip().is_loopback())
        );
        assert!(look_up("broker.invalid", 1883).await.is_err());
    }
}
