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
    /// Others were at work before it: what its name leads to first has still to show that it answers.
    late: bool,
    /// A look-up has ended, well or not, or takes long.
    looked: AtomicBool,
}

impl Broker {
    /// Notes that a look-up ended, or takes long; gives whether that was so before.
    pub(super) fn set_looked(&self) -> bool {
        self.looked.swap(true, Relaxed) || self.late
    }

    /// Whether nothing is known yet of where it is.
    pub(super) fn is_looked_for(&self) -> bool {
        self.name.is_some() && !self.looked.load(Relaxed)
    }
}

/// The brokers that others come after.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before<'a> {
    pub(super) brokers: &'a [Broker],
    pub(super) endpoints: &'a Endpoints,
    /// Those that are spoken to in TLS are so by the same settings and files.
    pub(super) same_tls: bool,
}

impl Before<'_> {
    /// The endpoints of whoever had this address or this name, and whether anybody had, and knew where that is.
    fn of(self, at: Option<&At>, name: Option<&(String, u16)>) -> (All, bool) {
        let mut its = All::new();
        if let Some(at) = at {
            let all = self.endpoints.load();
            its.extend(all.iter().find(|one| one.at == *at).cloned());
            let known = !its.is_empty();
            return (its, known);
        }
        let had = |one: &&Broker| one.name.as_ref() == name && one.looked.load(Relaxed);
        let found = self.brokers.iter().position(|one| had(&one));
        if let Some(place) = found {
            its = self.endpoints.of(place);
        }
        (its, found.is_some())
    }
}

/// All endpoints, in the order of the configuration.
type All = Vec<Arc<Endpoint>>;

/// The endpoints of every broker: of each broker its own, of a name each address.
#[derive(Debug)]
pub(super) struct Endpoints(ArcSwap<All>);

impl Endpoints {
    /// The brokers at `addresses`, and their endpoints; names are not looked up yet, but for those that `before` knew.
    ///
    /// # Panics
    /// When an address is `mqtts://` and there is no `tls`, or its host is no name that a certificate could be for.
    pub(super) fn new(
        addresses: &[Address],
        proxy_protocol: Option<Version>,
        tls: Option<&ClientTls>,
        before: Option<Before<'_>>,
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
            let known = before.map(|before| before.of(at.as_ref(), name.as_ref()));
            let (known, looked) = known.unwrap_or_default();
            let late = before.is_some() && !looked;
            if looked {
                let same_tls = before.is_some_and(|before| before.same_tls);
                let again = |one: &Arc<Endpoint>| one.again(place, first.clone(), same_tls);
                all.extend(known.iter().map(again));
            } else {
                all.extend(at.map(|at| Endpoint::new(place, at, first.clone(), late)));
            }
            brokers.push(Broker {
                label: address.to_string().into(),
                name,
                first,
                late,
                looked: AtomicBool::new(looked),
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
        let (brokers, endpoints) = Endpoints::new(&addresses, None, None, None);
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

    /// Other settings: what is known of an address that stays goes on, and who is new has to show that it answers.
    #[test]
    fn brokers_come_after_others_with_what_is_known_of_them() {
        let parse = |texts: &[&str]| -> Vec<Address> {
            let parse = |text: &&str| text.parse().expect("an address");
            texts.iter().map(parse).collect()
        };
        let (brokers, endpoints) = Endpoints::new(
            &parse(&["mqtt://brokers.example", "mqtt://127.0.0.1:9"]),
            None,
            None,
            None,
        );
        endpoints.lead(0, &brokers[0], &at(&[1, 2]), false);
        brokers[0].set_looked();
        let (gone, stays) = (endpoints.of(0)[0].clone(), endpoints.of(1)[0].clone());
        let open = stays.clone().take();
        stays.standing.fell(false);
        let before = Before {
            brokers: &brokers,
            endpoints: &endpoints,
            same_tls: false,
        };

        let addresses = parse(&["mqtt://127.0.0.1:9", "mqtt://127.0.0.1:7"]);
        let (_, now) = Endpoints::new(&addresses, None, None, Some(before));
        let [again, new] = &now.load()[..] else {
            panic!("two");
        };
        assert_eq!(
            (again.open(), again.place, again.known),
            (1, 0, Some(false))
        );
        assert!(again.standing.is_down());
        assert!(new.standing.is_doubtful() && new.known.is_none());
        drop(open);
        assert_eq!((again.open(), gone.open()), (0, 0));

        let (_, now) = Endpoints::new(
            &parse(&["mqtt://brokers.example"]),
            Some(Version::V2),
            None,
            Some(before),
        );
        assert_eq!(ports(&now), [Some(1), Some(2)], "a name leads where it led");
        let (_, now) = Endpoints::new(&addresses[..1], Some(Version::V2), None, Some(before));
        let again = now.load()[0].clone();
        assert!(!again.standing.is_down(), "it is spoken to in another way");
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
