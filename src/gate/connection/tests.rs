//! A fault of ours inside one connection (threats.md V9), and what is kept of a long one.

use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::gate::door::Door;
use crate::gate::listener::{Listener, Secure, accept, bind};
use crate::gate::testing::{ROOM, gate_with};
use crate::tls::server::{MinVersion, Resumption, ServerTls, Settings};
use crate::tls::testing::{Folder, root, server};

/// A certificate resolver with a fault: a device that asks for `trap.test` springs it.
#[derive(Debug)]
struct Trap(Arc<dyn ResolvesServerCert>);

impl ResolvesServerCert for Trap {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        assert_ne!(hello.server_name(), Some("trap.test"), "sprung");
        self.0.resolve(hello)
    }
}

/// TLS of a listener whose resolver is the [`Trap`].
fn trapped() -> Arc<Secure> {
    let (folder, ca) = (Folder::new(), root("CA"));
    let shown = ca.issues(server(&["good.test"]), |_| ());
    let mut tls = ServerTls::load(
        "devices",
        &Settings {
            certificate: folder.file("server.pem", &shown.pem),
            key: folder.file("server.key", shown.key.serialize_pem()),
            min_version: MinVersion::Tls12,
            max_record: None,
            alpn: Vec::new(),
            also: Vec::new(),
            resumption: Resumption::Off,
        },
        None,
    )
    .expect("good files");
    let mut config = (*tls.with_alpn).clone();
    config.cert_resolver = Arc::new(Trap(config.cert_resolver));
    tls.with_alpn = Arc::new(config);
    tls.without_alpn = tls.with_alpn.clone();
    Arc::new(Secure { tls, groups: None })
}

/// A device's ClientHello, asking for `name`.
fn hello(name: &'static str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = name.try_into().expect("a name");
    let mut device = ClientConnection::new(Arc::new(config), name).expect("a device");
    let mut hello = Vec::new();
    device.write_tls(&mut hello).expect("a buffer takes all");
    hello
}

/// threats.md V9: a panic ends the connection that it happened in, is told and counted, and nothing else notices.
#[tokio::test]
async fn a_panic_ends_one_connection_and_is_counted() {
    let gate = gate_with(Some(trapped()));
    let (roll, draining) = (Arc::new(Roll::default()), gate.draining.subscribe());
    let socket = bind("127.0.0.1:0".parse().expect("an address"), 1).expect("a port");
    let socket = socket.into_iter().flatten().next().expect("one worker");
    let socket = Arc::new(tokio::net::TcpListener::from_std(socket).expect("in a runtime"));
    let address = socket.local_addr().expect("bound");
    let door = Arc::new(Door::new(gate.handshakes.clone(), gate.patience.clone()));
    let opened = door.clone();
    let opening = tokio::spawn(async move { opened.open(|| true).await });
    let accepting = tokio::spawn(accept(
        socket,
        false,
        Arc::new(Listener::new(0, "devices".into())),
        gate.clone(),
        roll,
        door,
        draining,
    ));
    let call = async |name| {
        let mut device = TcpStream::connect(address).await.expect("it listens");
        device.write_all(&hello(name)).await.expect("sent");
        let mut answer = [0];
        (device.read(&mut answer).await.ok(), answer[0], device)
    };

    let (_, _, other) = call("good.test").await; // in the middle of its handshake
    for _ in 0..3 {
        let (read, _, _) = call("trap.test").await;
        assert!(matches!(read, None | Some(0)), "it has no answer");
    }
    let (read, first, one_more) = call("good.test").await;
    assert_eq!((read, first), (Some(1), 22), "a ServerHello");

    let told = gate.metrics.render();
    let counted = "tidegate_refusals_total{listener=\"devices\",reason=\"gate_fault\"} 3";
    assert!(told.contains(counted), "{told}");
    assert!(!accepting.is_finished(), "the listener goes on");
    // The places and the turns to handshake are given back: but for those who are still here.
    assert_eq!(gate.places.open(), 2);
    drop((other, one_more));
    while gate.places.open() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(gate.handshakes.available_permits(), ROOM);
    accepting.abort();
    opening.abort();
}

/// threats.md V3: a connection that stays for weeks keeps of a long client id what its log line shows.
#[test]
fn of_a_long_client_id_only_what_the_log_shows_is_kept() {
    let mut facts = Facts::default();
    facts.note_asked(&"é".repeat(30_000));
    facts.note_given("meter-7");
    let asked = facts.client_id_asked.expect("noted");
    assert_eq!(asked.chars().count(), LONGEST_VALUE + 1); // so that the line shows the cut
    assert_eq!(facts.client_id_given.as_deref(), Some("meter-7"));
}
