//! The plainest proxy there is, on tokio-rustls: accept, handshake, connect, copy. What tidegate is measured against.
//!
//! ```text
//! cargo run --release --features bench-tools --bin minimal-proxy -- \
//!     --listen 127.0.0.1:8883 --broker 127.0.0.1:1883 \
//!     --certificate server.pem --key server.key --client-ca ca.pem
//! ```
//!
//! One thread. It reads nothing of MQTT, judges nothing but the chain, and knows no deadline: it is no gate, it is the
//! cost of the parts. Its first line on stderr tells where it listens, as tidegate's log does.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Parser;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A minimal TLS proxy, to measure against
#[derive(Debug, Parser)]
#[command(name = "minimal-proxy")]
pub(crate) struct MinimalProxy {
    /// Where devices come in; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT")]
    listen: SocketAddr,
    /// Where their bytes go
    #[arg(long, value_name = "IP:PORT")]
    broker: SocketAddr,
    /// The server's chain, PEM, leaf first
    #[arg(long, value_name = "FILE", required_unless_present = "plain")]
    certificate: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", required_unless_present = "plain")]
    key: Option<PathBuf>,
    /// The CA of the devices; without it no certificate is asked for
    #[arg(long, value_name = "FILE")]
    client_ca: Option<PathBuf>,
    /// The one TLS version taken; without it both are
    #[arg(long, value_name = "1.2|1.3", value_parser = version)]
    tls: Option<&'static SupportedProtocolVersion>,
    /// Gives out tickets: rustls's own ticketer, and as many as rustls does
    #[arg(long)]
    tickets: bool,
    /// No TLS at all
    #[arg(long)]
    plain: bool,
}

fn main() {
    MinimalProxy::parse().run();
}

fn version(word: &str) -> Result<&'static SupportedProtocolVersion, &'static str> {
    match word {
        "1.2" => Ok(&rustls::version::TLS12),
        "1.3" => Ok(&rustls::version::TLS13),
        _ => Err("it is 1.2 or 1.3"),
    }
}

impl MinimalProxy {
    /// Serves, on this thread, until the process ends.
    pub(crate) fn run(&self) {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(self.serve());
    }

    async fn serve(&self) {
        let acceptor = (!self.plain).then(|| TlsAcceptor::from(Arc::new(self.config())));
        let listener = TcpListener::bind(self.listen).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        eprintln!(r#"{{"event":"listening","listener":"devices","address":"{address}"}}"#);
        loop {
            let Ok((socket, _)) = listener.accept().await else {
                continue;
            };
            tokio::spawn(walk(socket, acceptor.clone(), self.broker));
        }
    }

    fn config(&self) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions = self
            .tls
            .map_or(rustls::ALL_VERSIONS.to_vec(), |one| vec![one]);
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions)
            .expect("versions");
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(chain(ca));
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
            }
        };
        let (certificate, key) = (self.certificate.as_deref(), self.key.as_deref());
        let certificate = chain(certificate.expect("asked for unless --plain"));
        let key = PrivateKeyDer::from_pem_file(key.expect("asked for unless --plain"));
        let mut config = builder
            .with_single_cert(certificate, key.expect("a key"))
            .expect("a certificate and its key");
        if self.tickets {
            config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().expect("randomness");
        } else {
            config.send_tls13_tickets = 0;
            config.session_storage = Arc::new(NoServerSessionStorage {});
        }
        config
    }
}

fn chain(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path)
        .expect("PEM")
        .collect::<Result<_, _>>()
        .expect("certificates")
}

async fn walk(
    device: TcpStream,
    acceptor: Option<TlsAcceptor>,
    broker: SocketAddr,
) -> io::Result<()> {
    device.set_nodelay(true)?;
    match acceptor {
        None => relay(device, broker).await,
        Some(acceptor) => relay(acceptor.accept(device).await?, broker).await,
    }
}

async fn relay(
    mut device: impl AsyncRead + AsyncWrite + Unpin,
    broker: SocketAddr,
) -> io::Result<()> {
    let mut broker = TcpStream::connect(broker).await?;
    broker.set_nodelay(true)?;
    copy_bidirectional(&mut device, &mut broker)
        .await
        .map(|_| ())
}
