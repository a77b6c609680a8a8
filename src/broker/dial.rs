//! Finding a broker that takes the connection, in time.

use std::borrow::Cow;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::proxy_protocol::{Told, Version};
use crate::rules::device::DeviceId;
use crate::tls::client::{ClientTls, Towards};

use super::address::Address;
use super::socket::{BROKER, Socket, prepare, prepare_local};
use super::{Settings, secure};

/// How long to wait, at most, before a socket file whose queue is full is asked again.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// The brokers of a gate, in the order they are tried.
#[derive(Debug)]
pub struct Brokers {
    brokers: Vec<Broker>,
    dial_timeout: Duration,
}

/// One broker.
#[derive(Debug)]
pub struct Broker {
    /// Its address as configured: the label in metrics and logs.
    pub label: Arc<str>,
    target: Target,
    /// `None`: it is spoken to in plaintext.
    tls: Option<Towards>,
    /// What it must be sent first.
    proxy_protocol: Option<Version>,
    up: AtomicBool,
}

/// Where to dial.
#[derive(Debug)]
enum Target {
    /// An IP address: nothing to look up.
    Fixed(SocketAddr),
    /// A name; its addresses are looked up beside the path (threats.md V4) by [`Broker::resolve`].
    Named {
        host: String,
        port: u16,
        resolved: RwLock<Arc<[SocketAddr]>>,
    },
    /// A socket file.
    Unix(PathBuf),
}

/// For whom a broker is dialled.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Who was admitted.
    pub device: &'a DeviceId,
    /// What the broker is sent before anything else, as soon as it took the connection: a PROXY header; mostly nothing.
    pub preface: &'a [u8],
}

/// A broker took the connection.
#[derive(Debug)]
pub struct Dialled {
    /// The link to it, ready for a CONNECT.
    pub socket: Socket,
    /// Which one, in the order of the configuration.
    pub place: usize,
}

/// Why there is no link to a broker that a CONNECT could be sent on.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// It did not take the connection, or the connection broke.
    #[error("{0}")]
    Socket(#[from] io::Error),
    /// It took the connection, but TLS failed: a sentence for the one who mends it.
    #[error("TLS failed: {0}")]
    Tls(String),
}

impl NotReady {
    /// The word for the metric.
    fn result(&self) -> &'static str {
        match self {
            Self::Socket(_) => "refused",
            Self::Tls(_) => "tls_failed",
        }
    }
}

/// No broker took the connection.
#[derive(Debug)]
pub enum NoBroker {
    /// They refused, or said nothing in time.
    Away {
        /// What the last one tried said.
        last: String,
    },
    /// The gate has no file descriptor left.
    OutOfDescriptors,
}

impl Brokers {
    /// The brokers of `settings`, with its `[broker.tls]`; names are not looked up yet.
    ///
    /// # Panics
    /// When an address is `mqtts://` and there is no `tls`, or the address's host is no name that a certificate could be for.
    pub fn new(settings: &Settings, tls: Option<&ClientTls>) -> Self {
        let version = settings.proxy_protocol;
        let all = settings.addresses.iter();
        let brokers = all
            .map(|address| Broker::new(address, version, tls))
            .collect();
        Self {
            brokers,
            dial_timeout: settings.dial_timeout,
        }
    }

    /// Every broker, in the order of the configuration.
    pub fn all(&self) -> &[Broker] {
        &self.brokers
    }

    /// Connects to the first broker that takes the connection, and finishes TLS where it is `mqtts://`, within `dial_timeout`. Those that answered their last
    /// probe come first. Only the connecting is tried again elsewhere, never a CONNECT (threats.md V5).
    ///
    /// `tried` is told of each attempt: which broker, how it went, how long it took. Dropping it half-way drops the
    /// attempt.
    ///
    /// # Errors
    /// [`NoBroker`] once all were tried or the time is over.
    pub async fn dial(
        &self,
        call: Call<'_>,
        mut tried: impl FnMut(usize, &'static str, Duration),
    ) -> Result<Dialled, NoBroker> {
        let deadline = Instant::now() + self.dial_timeout;
        let mut order: Vec<usize> = (0..self.brokers.len()).collect();
        order.sort_by_key(|&place| !self.brokers[place].is_up()); // stable: ties keep the configured order
        let mut last = String::from("no address is known");
        for (nth, &place) in order.iter().enumerate() {
            let began = Instant::now();
            let left = deadline.saturating_duration_since(began);
            // A broker that swallows the attempt must leave time for those after it.
            let share = left / u32::try_from(order.len() - nth).unwrap_or(u32::MAX);
            let broker = &self.brokers[place];
            match timeout(share, broker.connect(call.preface)).await {
                Ok(Ok(socket)) => {
                    tried(place, "ok", began.elapsed());
                    return Ok(Dialled { socket, place });
                }
                Ok(Err(NotReady::Socket(fault))) if is_out_of_descriptors(&fault) => {
                    tried(place, "out_of_descriptors", began.elapsed());
                    return Err(NoBroker::OutOfDescriptors);
                }
                Ok(Err(fault)) => {
                    tried(place, fault.result(), began.elapsed());
                    last = format!("{}: {fault}", broker.label);
                }
                Err(_) => {
                    tried(place, "timeout", began.elapsed());
                    last = format!("{}: did not answer within {share:?}", broker.label);
                }
            }
        }
        Err(NoBroker::Away { last })
    }
}

impl Broker {
    fn new(address: &Address, proxy_protocol: Option<Version>, tls: Option<&ClientTls>) -> Self {
        let target = match address {
            Address::Unix(path) => Target::Unix(path.clone()),
            Address::Tcp { host, port } | Address::Tls { host, port } => {
                match host.parse::<IpAddr>() {
                    Ok(ip) => Target::Fixed(SocketAddr::new(ip, *port)),
                    Err(_) => Target::Named {
                        host: host.clone(),
                        port: *port,
                        resolved: RwLock::new(Arc::from(Vec::new())),
                    },
                }
            }
        };
        Self {
            label: address.to_string().into(),
            target,
            tls: address.tls_host().map(|host| {
                let towards = tls.and_then(|tls| tls.towards(host));
                towards.expect("the configuration is refused without [broker.tls] and a name")
            }),
            proxy_protocol,
            up: AtomicBool::new(false),
        }
    }

    /// Whether the last probe found it answering.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Notes what a probe found; gives whether that is news.
    pub fn set_up(&self, up: bool) -> bool {
        self.up.swap(up, Ordering::Relaxed) != up
    }

    /// Looks its name up, if it has one; on a failure the addresses known before stay.
    ///
    /// # Errors
    /// When the look-up fails or finds nothing.
    pub async fn resolve(&self) -> io::Result<()> {
        let Target::Named {
            host,
            port,
            resolved,
        } = &self.target
        else {
            return Ok(());
        };
        let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), *port))
            .await?
            .collect();
        if found.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("{host} has no address"),
            ));
        }
        *resolved.write().unwrap_or_else(PoisonError::into_inner) = found.into();
        Ok(())
    }

    /// Connects, sends `preface`, and does the TLS handshake where it is `mqtts://`: what it gives is ready for a CONNECT. Of a
    /// name with several addresses, the first that gets so far.
    ///
    /// # Errors
    /// The last address's [`NotReady`]. It has no deadline of its own. Dropping it half-way drops the connection.
    pub async fn connect(&self, preface: &[u8]) -> Result<Socket, NotReady> {
        self.reach(Preface::Given(preface)).await
    }

    /// Connects for a look only, and tells so, if the broker must be told who calls: the gate itself.
    ///
    /// A header that says so outright (LOCAL, UNKNOWN) would not do: RabbitMQ 3.10 tells of a crash for either, and Mosquitto 2.1 closes
    /// at once.
    ///
    /// # Errors
    /// As [`Broker::connect`].
    pub async fn probe(&self) -> Result<Socket, NotReady> {
        self.reach(
            self.proxy_protocol
                .map_or(Preface::Given(&[]), Preface::Own),
        )
        .await
    }

    async fn reach(&self, preface: Preface<'_>) -> Result<Socket, NotReady> {
        match &self.target {
            Target::Fixed(address) => self.link(*address, preface).await,
            Target::Unix(path) => {
                let mut socket = unix(path).await?;
                // On this host, where no port has that number: RabbitMQ takes no 0.
                let here = SocketAddr::from(([127, 0, 0, 1], 1));
                socket
                    .write_all(&preface.bytes(|| Ok((here, here)))?)
                    .await?;
                Ok(Socket::Unix(socket))
            }
            Target::Named { host, resolved, .. } => {
                let known = resolved
                    .read()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                let mut last =
                    io::Error::new(io::ErrorKind::NotFound, format!("{host} is not resolved"))
                        .into();
                for (nth, address) in (1..).zip(known.iter()) {
                    let link = self.link(*address, preface);
                    if nth == known.len() {
                        return link.await; // nobody waits behind it
                    }
                    let soon = Instant::now() + Duration::from_secs(1);
                    match timeout_at(soon, link).await {
                        Ok(Ok(socket)) => return Ok(socket),
                        Ok(Err(fault)) => last = fault,
                        Err(_) => last = io::Error::from(io::ErrorKind::TimedOut).into(),
                    }
                }
                Err(last)
            }
        }
    }

    /// The same to one address.
    async fn link(&self, address: SocketAddr, preface: Preface<'_>) -> Result<Socket, NotReady> {
        let mut socket = tcp(address).await?;
        let first = preface.bytes(|| Ok((socket.local_addr()?, socket.peer_addr()?)))?;
        socket.write_all(&first).await?;
        let Some(tls) = &self.tls else {
            return Ok(Socket::Tcp(socket));
        };
        let stream = tls.secure(socket).await.map_err(secure::failed)?;
        Ok(Socket::Tls(Box::new(stream)))
    }
}

/// What a broker is sent first.
#[derive(Clone, Copy)]
enum Preface<'a> {
    /// This.
    Given(&'a [u8]),
    /// A header that names the gate's own end of the socket.
    Own(Version),
}

impl Preface<'_> {
    /// Its bytes, where the ends of the socket are these: ours, and the broker's.
    ///
    /// # Errors
    /// When `ends` fails.
    fn bytes(
        &self,
        ends: impl FnOnce() -> io::Result<(SocketAddr, SocketAddr)>,
    ) -> io::Result<Cow<'_, [u8]>> {
        match *self {
            Self::Given(bytes) => Ok(bytes.into()),
            Self::Own(version) => {
                let (from, to) = ends()?;
                Ok(Told::ends(from, to).header(version).into())
            }
        }
    }
}

/// Where TCP would wait for a place in the broker's queue, a socket file says `EAGAIN` at once (connect(2)), and
/// nothing wakes us when there is one: so it is asked again, until the caller's deadline.
async fn unix(path: &Path) -> io::Result<UnixStream> {
    let mut pause = Duration::from_millis(1);
    loop {
        match UnixStream::connect(path).await {
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            answer => return answer,
        }
    }
}

async fn tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(address).await?;
    if address.ip().is_loopback() {
        prepare_local(&socket, BROKER)?;
    } else {
        prepare(&socket, BROKER)?;
    }
    Ok(socket)
}

/// Whether the process or the host has no file descriptor left.
pub fn is_out_of_descriptors(fault: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = fault.raw_os_error();
    errno == Some(Errno::MFILE.raw_os_error()) || errno == Some(Errno::NFILE.raw_os_error())
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;
    use crate::tls::{client, testing};

    /// threats.md V7: a broker that is gone is found.
    #[tokio::test]
    async fn a_dialled_socket_finds_out_that_its_broker_is_gone() {
        let broker = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let dialled = tcp(broker.local_addr().expect("bound")).await;
        let dialled = dialled.expect("it listens");
        let socket = SockRef::from(&dialled);
        let second = Duration::from_secs(1); // docs/operation.md, "Dead links"
        assert!(socket.tcp_nodelay().expect("a socket"));
        assert_eq!(
            socket.tcp_user_timeout().expect("a socket"),
            Some(60 * second)
        );
        // Of a broker on this host the kernel knows without asking.
        assert!(!socket.keepalive().expect("a socket"));
        prepare(&dialled, BROKER).expect("a socket");
        assert!(socket.keepalive().expect("a socket") && socket.tcp_nodelay().expect("a socket"));
        assert_eq!(socket.tcp_keepalive_time().expect("a socket"), 30 * second);
        assert_eq!(
            socket.tcp_keepalive_interval().expect("a socket"),
            10 * second
        );
        assert_eq!(socket.tcp_keepalive_retries().expect("a socket"), 3);
        assert_eq!(
            socket.tcp_user_timeout().expect("a socket"),
            Some(60 * second)
        );
    }

    /// The header of the PROXY protocol stands before TLS, in the clear.
    #[tokio::test]
    async fn what_goes_before_tls_is_sent_before_tls() {
        let broker = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let folder = tempfile::tempdir().expect("a folder");
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, testing::root("CA").pem).expect("written");
        let settings = client::Settings {
            ca,
            identity: None,
            server_name: None,
        };
        let tls = ClientTls::load(&settings).expect("a CA");
        let address = broker.local_addr().expect("bound");
        let address: Address = format!("mqtts://{address}").parse().expect("an address");
        let dialled = Broker::new(&address, None, Some(&tls));
        let calls = dialled.connect(b"PROXY UNKNOWN\r\n");
        let hears = async {
            let (mut socket, _) = broker.accept().await.expect("a caller");
            let mut came = [0; 17];
            socket.read_exact(&mut came).await.expect("bytes");
            came
        };
        let (ready, came) = tokio::join!(calls, hears);
        // The preface, then a handshake record of TLS (RFC 8446 §5.1).
        assert_eq!(&came[..15], b"PROXY UNKNOWN\r\n");
        assert_eq!(came[15..], [22, 3]);
        assert!(matches!(ready, Err(NotReady::Tls(_))), "{ready:?}");
    }
}
