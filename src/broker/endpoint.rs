//! One place to dial: an IP address and port, or a socket file.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::time::sleep;

use crate::proxy_protocol::{Told, Version};
use crate::tls::client::Towards;

use super::balance;
use super::secure;
use super::socket::{BROKER, Socket, prepare, prepare_local};
use super::sources::{NoSource, Sources};
use super::standing::Standing;

/// How long to wait, at most, before a socket file whose queue is full is asked again.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// One place to dial. It lives as long as a connection to it is open, also when its name leads elsewhere by now.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// Which broker of the configuration it belongs to.
    pub(super) place: usize,
    pub(super) at: At,
    /// Of where it is: what gates agree on.
    pub(super) hash: u64,
    /// Shared with the one at the same place that it came after.
    pub(super) standing: Arc<Standing>,
    /// What it is sent before a CONNECT.
    first: First,
    /// Likewise shared.
    pub(super) account: Arc<Account>,
    /// Its name leads elsewhere by now: nobody new comes.
    left: AtomicBool,
    /// What was told of it before it came after another one: whether it answers.
    pub(super) known: Option<bool>,
}

/// Who is at one place, whatever it is sent first.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// Connections under way or open.
    open: AtomicU32,
    /// How many of these wait for a place, without a socket.
    waiting: AtomicU32,
    /// That its ports run out was told.
    pub(super) told_ports: AtomicBool,
}

/// What stands before a CONNECT.
#[derive(Clone, Debug, Default)]
pub(super) struct First {
    /// Which PROXY header it expects; `None`: none.
    pub(super) proxy_protocol: Option<Version>,
    /// `None`: it is spoken to in plaintext.
    pub(super) tls: Option<Towards>,
}

/// Which PROXY header is sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Preface<'a> {
    /// This; none, if it is empty.
    Given(&'a [u8]),
    /// One that names the gate's own end of the socket, if the endpoint expects any: for a look only.
    ///
    /// A header that says so outright (LOCAL, UNKNOWN) would not do: RabbitMQ 3.10 tells of a crash for either, and Mosquitto 2.1 closes
    /// at once.
    Own,
}

/// Where it is.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum At {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A socket file.
    Unix(PathBuf),
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// One connection to an endpoint, counted until it is dropped.
#[derive(Debug)]
pub struct Kept(pub(super) Arc<Endpoint>);

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.account.open.fetch_sub(1, Relaxed);
    }
}

/// One that waits for a place, counted until it is dropped.
#[derive(Debug)]
pub(super) struct Waits<'a>(&'a AtomicU32);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Endpoint {
    /// `late`: others were known before it.
    pub(super) fn new(place: usize, at: At, first: First, late: bool) -> Arc<Self> {
        Arc::new(Self {
            place,
            hash: balance::hash(at.to_string().as_bytes()),
            at,
            standing: Arc::new(Standing::new(late)),
            first,
            account: Arc::default(),
            left: AtomicBool::new(false),
            known: None,
        })
    }

    /// The same place for a broker at `place` of other settings. Who is connected there is counted on; what is thought of it
    /// stays if it is spoken to as before. `same_tls`: so it is as far as `[broker.tls]` goes.
    pub(super) fn again(&self, place: usize, first: First, same_tls: bool) -> Arc<Self> {
        let same = self.first.proxy_protocol == first.proxy_protocol
            && match (&self.first.tls, &first.tls) {
                (None, None) => true,
                (Some(_), Some(_)) => same_tls,
                _ => false,
            };
        let standing = &self.standing;
        let known = standing.is_up() || standing.is_down();
        Arc::new(Self {
            place,
            at: self.at.clone(),
            hash: self.hash,
            standing: if same {
                standing.clone()
            } else {
                Arc::new(Standing::new(false))
            },
            first,
            account: self.account.clone(),
            left: AtomicBool::new(false),
            known: (same && known).then(|| standing.is_up()),
        })
    }

    /// Counts one connection until it is dropped.
    pub(super) fn take(self: Arc<Self>) -> Kept {
        self.account.open.fetch_add(1, Relaxed);
        Kept(self)
    }

    /// Connections under way or open.
    pub(super) fn open(&self) -> u32 {
        self.account.open.load(Relaxed)
    }

    /// One of those under way waits for a place until this is dropped.
    pub(super) fn wait(&self) -> Waits<'_> {
        self.account.waiting.fetch_add(1, Relaxed);
        Waits(&self.account.waiting)
    }

    /// Connections that have a port, or look for one.
    pub(super) fn with_port(&self) -> u32 {
        self.open()
            .saturating_sub(self.account.waiting.load(Relaxed))
    }

    pub(super) fn leave(&self) {
        self.left.store(true, Relaxed);
    }

    pub(super) fn has_left(&self) -> bool {
        self.left.load(Relaxed)
    }

    /// Connects, from one of `sources` where there are any for it, sends `preface`, and does the TLS handshake where it is
    /// `mqtts://`: what it gives is ready for a CONNECT. It has no deadline of its own. Dropping it half-way drops the connection.
    ///
    /// # Errors
    /// [`Unreached`]
    pub(super) async fn connect(
        &self,
        sources: &Sources,
        preface: Preface<'_>,
    ) -> Result<Socket, Unreached> {
        match &self.at {
            At::Unix(path) => {
                let mut socket = unix(path).await?;
                // On this host, where no port has that number: RabbitMQ takes no 0.
                let here = SocketAddr::from(([127, 0, 0, 1], 1));
                let first = self.preface(preface, || Ok((here, here)))?;
                socket.write_all(&first).await?;
                Ok(Socket::Unix(socket))
            }
            At::Tcp(address) => {
                let mut socket = sources.connect(*address).await?;
                if address.ip().is_loopback() {
                    prepare_local(&socket, BROKER)?;
                } else {
                    prepare(&socket, BROKER)?;
                }
                let ends = || Ok((socket.local_addr()?, socket.peer_addr()?));
                let first = self.preface(preface, ends)?;
                socket.write_all(&first).await?;
                let Some(tls) = &self.first.tls else {
                    return Ok(Socket::Tcp(socket));
                };
                let stream = tls.secure(socket).await.map_err(secure::failed)?;
                Ok(Socket::Tls(Box::new(stream)))
            }
        }
    }

    /// The bytes of `preface`, where the ends of the socket are these: ours, and the broker's.
    fn preface<'a>(
        &self,
        preface: Preface<'a>,
        ends: impl FnOnce() -> io::Result<(SocketAddr, SocketAddr)>,
    ) -> io::Result<Cow<'a, [u8]>> {
        match (preface, self.first.proxy_protocol) {
            (Preface::Given(bytes), _) => Ok(bytes.into()),
            (Preface::Own, None) => Ok(Cow::default()),
            (Preface::Own, Some(version)) => {
                let (from, to) = ends()?;
                Ok(Told::ends(from, to).header(version).into())
            }
        }
    }
}

/// Why an endpoint was not reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreached {
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Every local port for it is in use.
    #[error("no local port is left")]
    NoPort,
    /// It took the connection, but TLS failed: a sentence for the one who mends it.
    #[error("TLS failed: {0}")]
    Tls(String),
}

impl From<NoSource> for Unreached {
    fn from(none: NoSource) -> Self {
        match none {
            NoSource::Io(fault) => Self::Io(fault),
            NoSource::NoPort => Self::NoPort,
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

#[cfg(test)]
pub(super) mod tests {
    use socket2::SockRef;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;
    use crate::tls::{client, testing};

    impl Endpoint {
        pub(in crate::broker) fn port(&self) -> Option<u16> {
            match &self.at {
                At::Tcp(address) => Some(address.port()),
                At::Unix(_) => None,
            }
        }
    }

    pub(in crate::broker) fn endpoint(port: u16) -> Arc<Endpoint> {
        let at = At::Tcp(SocketAddr::from(([127, 0, 0, 1], port)));
        Endpoint::new(0, at, First::default(), false)
    }

    pub(in crate::broker) fn endpoints(ports: &[u16]) -> Vec<Arc<Endpoint>> {
        ports.iter().copied().map(endpoint).collect()
    }

    /// threats.md V7: a broker that is gone is found.
    #[tokio::test]
    async fn a_dialled_socket_finds_out_that_its_broker_is_gone() {
        let broker = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = endpoint(broker.local_addr().expect("bound").port());
        let dialled = endpoint
            .connect(&Sources::new(&[]), Preface::Given(&[]))
            .await;
        let Socket::Tcp(dialled) = dialled.expect("it listens") else {
            panic!("TCP was dialled");
        };
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
        let tls = client::ClientTls::load(&settings).expect("a CA");
        let first = First {
            proxy_protocol: None,
            tls: tls.towards("127.0.0.1"),
        };
        let at = At::Tcp(broker.local_addr().expect("bound"));
        let endpoint = Endpoint::new(0, at, first, false);
        let sources = Sources::new(&[]);
        let calls = endpoint.connect(&sources, Preface::Given(b"PROXY UNKNOWN\r\n"));
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
        assert!(matches!(ready, Err(Unreached::Tls(_))), "{ready:?}");
    }
}
