//! A broker that records: what it heard, to the byte; and says what the test wants.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidegate::mqtt::Version;
use tidegate::mqtt::connack::Connack;
use tidegate::mqtt::connect::Connect;
use tidegate::mqtt::properties::Properties;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::sync::mpsc;

use super::soon;
use super::wire::{Reader, packet};

/// A broker on a loopback port. Each connection is handed to the test: [`Broker::visit`].
pub struct Broker {
    pub address: SocketAddr,
    visits: Arc<AtomicUsize>,
    sockets: Mutex<mpsc::UnboundedReceiver<TcpStream>>,
    accepting: tokio::task::JoinHandle<()>,
}

/// A connection that the gate made, with the CONNECT it sent.
pub struct Visit {
    pub socket: Reader<TcpStream>,
    /// The CONNECT, to the byte.
    pub packet: Vec<u8>,
    pub connect: Connect,
}

impl Broker {
    pub async fn start() -> Self {
        Self::on(
            TcpListener::bind("127.0.0.1:0")
                .await
                .expect("a loopback port"),
        )
    }

    /// A broker on an address used before: a broker that comes back.
    pub async fn start_at(address: SocketAddr) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("reuse");
        socket.bind(address).expect("the same port again");
        Self::on(socket.listen(1024).expect("listen"))
    }

    /// A broker on a socket that listens, wherever it was made.
    pub fn listening(listener: std::net::TcpListener) -> Self {
        listener.set_nonblocking(true).expect("a socket");
        Self::on(TcpListener::from_std(listener).expect("a runtime"))
    }

    fn on(listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("bound");
        let visits = Arc::new(AtomicUsize::new(0));
        let (to, sockets) = mpsc::unbounded_channel();
        let counted = visits.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                // The gate's health probe connects and says nothing; only who speaks is a visit.
                let (to, counted) = (to.clone(), counted.clone());
                tokio::spawn(async move {
                    let mut first = [0];
                    if matches!(socket.peek(&mut first).await, Ok(1)) {
                        counted.fetch_add(1, Ordering::SeqCst);
                        let _ = to.send(socket);
                    }
                });
            }
        });
        Self {
            address,
            visits,
            sockets: Mutex::new(sockets),
            accepting,
        }
    }

    /// How many connections brought at least a byte.
    pub fn visits(&self) -> usize {
        self.visits.load(Ordering::SeqCst)
    }

    /// The next connection, its CONNECT read and not yet answered.
    pub async fn visit(&self) -> Visit {
        soon("the gate to call the broker", async {
            let socket = self
                .sockets
                .lock()
                .await
                .recv()
                .await
                .expect("the broker lives");
            let mut socket = Reader::new(socket);
            let packet = socket.packet().await.expect("a whole packet");
            let connect = Connect::decode(&packet).expect("what the gate writes is a CONNECT");
            Visit {
                socket,
                packet,
                connect,
            }
        })
        .await
    }

    /// The next connection, answered with a CONNACK that admits.
    pub async fn welcome(&self) -> Visit {
        let mut visit = self.visit().await;
        visit.say_connack(0).await;
        visit
    }

    /// Welcomes everybody from here on: reads and forgets what they say, and closes when they do.
    pub fn welcome_all(self) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move {
            while let Some(socket) = self.sockets.lock().await.recv().await {
                tokio::spawn(async move {
                    let mut socket = Reader::new(socket);
                    let Some(packet) = socket.packet().await else {
                        return;
                    };
                    let version = Connect::decode(&packet).expect("a CONNECT").version;
                    let connack = Connack {
                        session_present: false,
                        code: 0,
                        properties: Properties::default(),
                    };
                    if socket
                        .stream
                        .write_all(&connack.encode(version))
                        .await
                        .is_ok()
                    {
                        socket.drain().await;
                    }
                });
            }
        })
    }

    /// Stops listening; connections that were handed out stay.
    pub fn stop(self) -> SocketAddr {
        self.accepting.abort();
        self.address
    }
}

impl Visit {
    /// Answers with a CONNACK of `code`.
    pub async fn say_connack(&mut self, code: u8) {
        let connack = Connack {
            session_present: false,
            code,
            properties: Properties::default(),
        };
        self.say(&connack.encode(self.connect.version)).await;
    }

    pub async fn say(&mut self, bytes: &[u8]) {
        self.socket
            .stream
            .write_all(bytes)
            .await
            .expect("the gate takes what the broker says");
    }

    /// The next packet that reaches the broker; `None` at the end of the stream.
    pub async fn packet(&mut self) -> Option<Vec<u8>> {
        soon("a packet at the broker", self.socket.packet()).await
    }

    pub fn version(&self) -> Version {
        self.connect.version
    }
}

/// A PUBLISH of QoS 0 without properties for 3.x, with an empty property list for 5.0.
pub fn publish(version: Version, topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&u16::try_from(topic.len()).expect("short").to_be_bytes());
    body.extend_from_slice(topic.as_bytes());
    if version == Version::V5 {
        body.push(0);
    }
    body.extend_from_slice(payload);
    packet(0x30, &body)
}
