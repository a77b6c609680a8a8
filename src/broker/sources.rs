//! Where dials come from: a port belongs to an address, so more addresses are more ports.
//!
//! To one endpoint an address has as many ports as `net.ipv4.ip_local_port_range` says, some 28 000. They are chosen when the
//! connection is made (`IP_BIND_ADDRESS_NO_PORT`, ip(7)), so the same port serves several endpoints.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

/// What Linux has when nobody changed it: 32768 to 60999.
const USUAL_PORTS: u32 = 28_232;

const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// The local addresses to dial from; none: the system chooses.
#[derive(Debug)]
pub(super) struct Sources {
    pool: Box<[IpAddr]>,
    turn: AtomicUsize,
    /// How many ports an address has.
    ports: AtomicU32,
}

/// Why no connection was made.
#[derive(Debug)]
pub(super) enum NoSource {
    Io(io::Error),
    /// Each address has used all its ports.
    NoPort,
}

impl Sources {
    pub(super) fn new(pool: &[IpAddr]) -> Self {
        let sources = Self {
            pool: pool.into(),
            turn: AtomicUsize::new(0),
            ports: AtomicU32::new(USUAL_PORTS),
        };
        sources.read_ports();
        sources
    }

    /// Reads how many ports an address has, which may change at any time. Not for the path: it reads a file.
    pub(super) fn read_ports(&self) {
        if let Some(ports) = ports() {
            self.ports.store(ports, Relaxed);
        }
    }

    /// How many connections to `endpoint` there are ports for.
    pub(super) fn room_for(&self, endpoint: SocketAddr) -> u32 {
        let addresses = self.serving(endpoint).count().max(1);
        let addresses = u32::try_from(addresses).unwrap_or(u32::MAX);
        self.ports.load(Relaxed).saturating_mul(addresses)
    }

    /// Those that lead to `endpoint`: of its family, and on loopback where it is, as the kernel wants it.
    fn serving(&self, endpoint: SocketAddr) -> impl Iterator<Item = IpAddr> {
        let leads = move |source: &IpAddr| serves(*source, endpoint.ip());
        self.pool.iter().copied().filter(leads)
    }

    /// Connects from the next address; from the one after it, where a port is wanting.
    pub(super) async fn connect(&self, endpoint: SocketAddr) -> Result<TcpStream, NoSource> {
        let many = self.serving(endpoint).count();
        if many == 0 {
            let socket = socket_for(endpoint).map_err(NoSource::Io)?;
            return socket
                .connect(endpoint)
                .await
                .map_err(|fault| match fault.kind() {
                    io::ErrorKind::AddrNotAvailable if has_way(endpoint) => NoSource::NoPort,
                    _ => NoSource::Io(fault),
                });
        }
        let turn = self.turn.fetch_add(1, Relaxed) % many;
        let mut gone = None;
        for nth in 0..many {
            let source = self.serving(endpoint).nth((turn + nth) % many);
            let source = source.expect("below their number");
            let socket = match bound(source, endpoint) {
                Ok(socket) => socket,
                Err(fault) if fault.kind() == io::ErrorKind::AddrNotAvailable => {
                    gone = Some(source);
                    continue;
                }
                Err(fault) => return Err(NoSource::Io(fault)),
            };
            match socket.connect(endpoint).await {
                Err(fault) if fault.kind() == io::ErrorKind::AddrNotAvailable => {}
                made => return made.map_err(NoSource::Io),
            }
        }
        Err(gone.map_or(NoSource::NoPort, |source| {
            NoSource::Io(io::Error::other(format!(
                "this host has no address {source} any more (broker.source_addresses), or its ports are all in use"
            )))
        }))
    }
}

/// How many ports an address of this host has for connections to one endpoint; `None`: that cannot be read.
pub fn ports() -> Option<u32> {
    count_ports(&fs::read_to_string(RANGE).ok()?)
}

/// Whether the kernel would dial `endpoint` from `source`.
pub fn serves(source: IpAddr, endpoint: IpAddr) -> bool {
    source.is_ipv4() == endpoint.is_ipv4() && source.is_loopback() == endpoint.is_loopback()
}

/// Whether the system knows an address to dial `endpoint` from: the kernel has one word for none and for no port (connect(2)).
fn has_way(endpoint: SocketAddr) -> bool {
    let any: SocketAddr = if endpoint.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    UdpSocket::bind(any).is_ok_and(|socket| socket.connect(endpoint).is_ok())
}

/// A socket to dial `endpoint` with. On this host the last packet of the TCP handshake waits for what is said first and goes with it: one
/// packet less for each dial (Linux: `tcp_rcv_synsent_state_process`; tcp(7): `TCP_QUICKACK`). If nothing is said, it goes after 0.2 s.
/// Elsewhere a firewall in between may open the window only when it has seen that packet, and what is said first would wait for it.
fn socket_for(endpoint: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if endpoint.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    if endpoint.ip().is_loopback() {
        let _ = SockRef::from(&socket).set_tcp_quickack(false); // if it cannot be set: one packet more
    }
    Ok(socket)
}

fn bound(source: IpAddr, endpoint: SocketAddr) -> io::Result<TcpSocket> {
    let socket = socket_for(endpoint)?;
    setsockopt(&socket, IpBindAddressNoPort, &true)?;
    socket.bind(SocketAddr::new(source, 0))?;
    Ok(socket)
}

/// Sees whether this host has `source`.
///
/// # Errors
/// What the system says.
pub fn is_here(source: IpAddr) -> io::Result<()> {
    UdpSocket::bind((source, 0)).map(drop)
}

/// How many ports `32768\t60999` are.
fn count_ports(range: &str) -> Option<u32> {
    let mut ends = range.split_whitespace().map(str::parse::<u32>);
    let (first, last) = (ends.next()?.ok()?, ends.next()?.ok()?);
    last.checked_sub(first)?.checked_add(1)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_range_of_ports_is_counted() {
        assert_eq!(count_ports("32768\t60999\n"), Some(USUAL_PORTS));
        assert_eq!(count_ports("5 5"), Some(1));
        for wrong in ["", "1", "a b", "6 5"] {
            assert_eq!(count_ports(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_address_of_somebody_else_is_no_source() {
        assert!(is_here(ip("127.0.0.9")).is_ok());
        assert!(is_here(ip("192.0.2.7")).is_err()); // for documentation
    }

    #[tokio::test]
    async fn dials_come_from_each_address_in_turn_and_only_from_those_that_lead_there() {
        let pool = ["127.0.0.2", "192.0.2.7", "::1", "127.0.0.3"].map(ip);
        let sources = Sources::new(&pool);
        let broker = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = broker.local_addr().expect("bound");
        let one = Sources::new(&[]).room_for(address);
        assert_eq!(sources.room_for(address), 2 * one);
        let mut from = Vec::new();
        let mut ports = Vec::new();
        for _ in 0..4 {
            let socket = sources.connect(address).await.expect("it listens");
            let own = socket.local_addr().expect("bound");
            from.push(own.ip());
            ports.push(own.port());
        }
        let [two, _, _, three] = pool;
        assert_eq!(from, [two, three, two, three]);
        assert!(ports.iter().all(|port| *port > 0));
        let v6 = TcpListener::bind("[::1]:0").await.expect("IPv6 loopback");
        let there = sources.connect(v6.local_addr().expect("bound")).await;
        assert_eq!(
            there.expect("it listens").local_addr().expect("bound").ip(),
            ip("::1")
        );
    }
}
