//! A device: a TLS stack with or without a certificate, and MQTT by hand.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tidegate::mqtt::Version;
use tidegate::mqtt::connack::Connack;
use tidegate::mqtt::connect::Connect;
use tidegate::mqtt::properties::Properties;
use tidegate::pki::Issued;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use super::soon;
use super::wire::Reader;

/// Any stream.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// How a device calls.
#[derive(Clone)]
pub struct Device {
    pub gate: SocketAddr,
    pub server_name: ServerName<'static>,
    pub config: Option<ClientConfig>,
    /// The address it calls from; absent: whatever the kernel takes.
    pub from: Option<IpAddr>,
}

/// What a device was told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// CONNACK with code 0.
    Admitted,
    /// CONNACK with another code.
    Refused(u8),
    /// The connection was closed without a CONNACK.
    Closed,
    /// The TLS handshake failed, as the device saw it: the alert's name, or what the socket said.
    NoTls(String),
}

impl Device {
    /// A device that trusts `ca` and shows `certificate`, if any, over the TLS versions given.
    pub fn new(
        gate: SocketAddr,
        ca: &CertificateDer<'static>,
        certificate: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone()).expect("a CA");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots);
        let config = match certificate {
            Some((chain, key)) => config
                .with_client_auth_cert(chain, key)
                .expect("a key that fits"),
            None => config.with_no_client_auth(),
        };
        Self {
            gate,
            server_name: "localhost".try_into().expect("a name"),
            config: Some(config),
            from: None,
        }
    }

    /// A device without TLS.
    pub fn plain(gate: SocketAddr) -> Self {
        Self {
            gate,
            server_name: "localhost".try_into().expect("a name"),
            config: None,
            from: None,
        }
    }

    /// The same device over TLS 1.2 or 1.3 only.
    pub fn issued(
        gate: SocketAddr,
        ca: &CertificateDer<'static>,
        issued: &Issued,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        Self::new(gate, ca, Some((issued.chain(), issued.key())), versions)
    }

    /// Connects and does its part of the handshake. In TLS 1.3 a device learns that it was refused only when it reads.
    pub async fn dial(&self) -> io::Result<Link> {
        soon("the gate to take a device", async {
            let socket = match self.from {
                None => TcpStream::connect(self.gate).await?,
                Some(from) => call_from(from, self.gate).await?,
            };
            socket.set_nodelay(true)?;
            let stream: Box<dyn Stream> = match &self.config {
                None => Box::new(socket),
                Some(config) => {
                    let connector = TlsConnector::from(Arc::new(config.clone()));
                    Box::new(connector.connect(self.server_name.clone(), socket).await?)
                }
            };
            Ok(Link {
                stream: Reader::new(stream),
            })
        })
        .await
    }

    /// Connects, sends `connect` and waits for the answer.
    pub async fn asks(&self, connect: &Connect) -> (Answer, Option<Link>) {
        self.sends(
            &connect.encode().expect("a CONNECT that fits"),
            connect.version,
        )
        .await
    }

    /// Connects, sends `bytes` and waits for an answer of `version`.
    pub async fn sends(&self, bytes: &[u8], version: Version) -> (Answer, Option<Link>) {
        let mut link = match self.dial().await {
            Ok(link) => link,
            Err(fault) => return (Answer::NoTls(fault.to_string()), None),
        };
        if let Err(fault) = link.say(bytes).await {
            return (Answer::NoTls(fault.to_string()), None);
        }
        let answer = link.answer(version).await;
        (answer, Some(link))
    }

    /// Asks to be `client_id` and gives the answer.
    pub async fn connects_as(&self, client_id: &str, version: Version) -> Answer {
        self.asks(&connect(client_id, version)).await.0
    }
}

/// Connects to `gate` from an address of this host.
pub async fn call_from(from: IpAddr, gate: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(gate).await
}

/// A connection of a device to the gate.
pub struct Link {
    pub stream: Reader<Box<dyn Stream>>,
}

impl Link {
    pub async fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.stream.write_all(bytes).await?;
        self.stream.stream.flush().await
    }

    /// The next packet; `None` when the gate closed.
    pub async fn packet(&mut self) -> Option<Vec<u8>> {
        soon("a packet at the device", self.stream.packet()).await
    }

    /// Reads the CONNACK.
    pub async fn answer(&mut self, version: Version) -> Answer {
        use tokio::io::AsyncReadExt as _;
        // A refusal in TLS 1.3 comes as an alert on the first read.
        let read = soon(
            "an answer",
            self.stream.stream.read_buf(&mut self.stream.buffer),
        )
        .await;
        match read {
            Err(fault) if fault.kind() == io::ErrorKind::InvalidData => {
                return Answer::NoTls(fault.to_string());
            }
            Err(_) | Ok(0) => return Answer::Closed,
            Ok(_) => {}
        }
        match self.packet().await {
            None => Answer::Closed,
            Some(packet) => match Connack::decode(&packet, version).expect("a CONNACK").code {
                0 => Answer::Admitted,
                code => Answer::Refused(code),
            },
        }
    }

    /// Says close_notify and FIN.
    pub async fn close_write(&mut self) {
        self.stream
            .stream
            .shutdown()
            .await
            .expect("the gate hears the end");
    }
}

/// A plain CONNECT: clean, keep alive 60 s, no will, no credentials.
pub fn connect(client_id: &str, version: Version) -> Connect {
    Connect {
        version,
        clean_start: true,
        keep_alive: 60,
        properties: Properties::default(),
        client_id: client_id.into(),
        will: None,
        username: None,
        password: None,
    }
}

/// Both TLS versions.
pub const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
