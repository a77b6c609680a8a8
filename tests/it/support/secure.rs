//! A broker that speaks TLS, by rustls: it records how each handshake went, and hands the test what called.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tidegate::mqtt::connack::Connack;
use tidegate::mqtt::connect::Connect;
use tidegate::mqtt::properties::Properties;
use tidegate::pki::{Authority, Issued};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::soon;
use super::wire::Reader;

/// A broker on a loopback port.
pub struct SecureBroker {
    pub address: SocketAddr,
    handshakes: Arc<Mutex<Vec<HandshakeKind>>>,
    visits: tokio::sync::Mutex<mpsc::UnboundedReceiver<SecureVisit>>,
}

/// A connection that the gate made, with the CONNECT it sent.
pub struct SecureVisit {
    pub socket: Reader<TlsStream<TcpStream>>,
    pub connect: Connect,
}

impl SecureBroker {
    /// One that shows `own`, and asks for a certificate of `clients` if there is one.
    pub async fn start(
        own: &Issued,
        clients: Option<&Authority>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .expect("versions");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.certificate().clone()).expect("a CA");
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
                builder.with_client_cert_verifier(verifier.expect("a verifier"))
            }
        };
        let config = builder
            .with_single_cert(own.chain(), own.key())
            .expect("a key that fits");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let handshakes = Arc::new(Mutex::new(Vec::new()));
        let (to, visits) = mpsc::unbounded_channel();
        let noted = handshakes.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, to, noted) = (acceptor.clone(), to.clone(), noted.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(socket).await else {
                        return;
                    };
                    let kind = stream.get_ref().1.handshake_kind().expect("it is over");
                    noted.lock().expect("no panic while held").push(kind);
                    let mut socket = Reader::new(stream);
                    // The gate's probe says nothing.
                    if let Some(packet) = socket.packet().await {
                        let connect = Connect::decode(&packet).expect("a CONNECT");
                        let _ = to.send(SecureVisit { socket, connect });
                    }
                });
            }
        });
        Self {
            address,
            handshakes,
            visits: tokio::sync::Mutex::new(visits),
        }
    }

    /// How the handshakes went, in their order; those that failed are not there.
    pub fn handshakes(&self) -> Vec<HandshakeKind> {
        self.handshakes.lock().expect("no panic while held").clone()
    }

    /// The next connection, answered with a CONNACK that admits.
    pub async fn welcome(&self) -> SecureVisit {
        self.answer(0).await
    }

    /// The next connection, answered with a CONNACK of this code.
    pub async fn answer(&self, code: u8) -> SecureVisit {
        soon("the gate to call the broker", async {
            let mut visit = self
                .visits
                .lock()
                .await
                .recv()
                .await
                .expect("the broker lives");
            let connack = Connack {
                session_present: false,
                code,
                properties: Properties::default(),
            };
            visit.say(&connack.encode(visit.connect.version)).await;
            visit
        })
        .await
    }
}

impl SecureVisit {
    pub async fn say(&mut self, bytes: &[u8]) {
        let stream = &mut self.socket.stream;
        stream.write_all(bytes).await.expect("the gate takes it");
        stream.flush().await.expect("the gate takes it");
    }

    /// The next packet that reaches the broker; `None` at the end of the stream.
    pub async fn packet(&mut self) -> Option<Vec<u8>> {
        soon("a packet at the broker", self.socket.packet()).await
    }
}
