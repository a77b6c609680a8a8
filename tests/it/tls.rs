//! TLS as small devices, large ones and strangers speak it (threats.md T4, T6, V2).

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
    Tls13ClientSessionValue,
};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, NamedGroup, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};
use serde_json::Value;
use tidegate::mqtt::Version;
use tidegate::pki::{Authority, Issued, KeyKind, Order, Validity};
use tidegate::rules::identity::Certificate;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::broker::publish;
use crate::support::device::{Answer, Device, connect};
use crate::support::gate::{Gate, Plan, group, listener};
use crate::support::openssl::s_client;
use crate::support::shown::{Shown, Trusting};
use crate::support::wire::Reader;
use crate::support::{soon, until};

const EACH: [(&[&SupportedProtocolVersion], &str); 2] = [(&[&TLS12], "1.2"), (&[&TLS13], "1.3")];

/// A gate with one listener, `devices`, of that mode.
async fn one(mode: &str, tls: &str, plan: Plan) -> Gate {
    let listeners = [
        listener("devices", mode, "", tls),
        group("fleet", "ca.pem", ""),
    ];
    Gate::plan(Plan {
        listeners: Some(listeners.concat()),
        ..plan
    })
    .await
}

fn put(name: &str, text: impl AsRef<[u8]>) -> (String, Vec<u8>) {
    (name.to_owned(), text.as_ref().to_vec())
}

/// The log line of the refusal of who called from `address`.
async fn refusal_of(gate: &Gate, address: SocketAddr) -> Value {
    let address = address.to_string();
    gate.line("refused", |line| line["address"] == address.as_str())
        .await
}

fn why(line: &Value) -> &str {
    line["why"].as_str().expect("a sentence")
}

/// A device's own view of its TLS connection, and the socket that it called from.
struct Dialled<S> {
    tls: io::Result<tokio_rustls::client::TlsStream<S>>,
    from: SocketAddr,
}

/// Does a handshake over a socket that `wrap` makes of the TCP connection.
async fn dial<S: AsyncRead + AsyncWrite + Unpin>(
    device: &Device,
    wrap: impl FnOnce(TcpStream) -> S,
) -> Dialled<S> {
    soon("a handshake", async {
        let socket = TcpStream::connect(device.gate).await.expect("a listener");
        socket.set_nodelay(true).expect("a TCP socket");
        let from = socket.local_addr().expect("connected");
        let config = device.config.clone().expect("a device with TLS");
        let tls = TlsConnector::from(Arc::new(config))
            .connect(device.server_name.clone(), wrap(socket))
            .await;
        Dialled { tls, from }
    })
    .await
}

/// Sends a CONNECT and reads what the broker is made to answer, so that all that TLS says after the handshake came, too.
async fn converses<S: AsyncRead + AsyncWrite + Unpin>(
    gate: &Gate,
    tls: tokio_rustls::client::TlsStream<S>,
) -> tokio_rustls::client::TlsStream<S> {
    let mut link = Reader::new(tls);
    let packet = connect("asked", Version::V311).encode().expect("fits");
    link.stream.write_all(&packet).await.expect("sent");
    link.stream.flush().await.expect("sent");
    let _visit = gate.broker().welcome().await;
    let connack = soon("a CONNACK", link.packet()).await;
    assert_eq!(connack.as_deref(), Some(&[0x20, 2, 0, 0][..]));
    link.stream
}

// ---- versions and parameters ----

#[tokio::test]
async fn min_version_keeps_older_devices_out() {
    let gate = one("mutual-tls", "min_version = \"1.3\"", Plan::default()).await;
    let old = dial(&gate.device_over("meter-7", &[&TLS12]), |socket| socket).await;
    let told = old.tls.expect_err("no TLS 1.2 here").to_string();
    assert_eq!(told, "received fatal alert: ProtocolVersion");
    let line = refusal_of(&gate, old.from).await;
    assert_eq!(line["reason"], "nothing_in_common");
    assert_eq!(line.get("tls_version"), None, "none was agreed on");
    let labels = [("result", "nothing_in_common"), ("tls_version", "none")];
    gate.metric_becomes("tidegate_handshakes_total", &labels, 1.0)
        .await;
    assert_eq!(gate.broker().visits(), 0);

    let device = gate.device_over("meter-7", &[&TLS13]);
    let asks = connect("asked", Version::V311);
    let ((answer, _link), _visit) = tokio::join!(device.asks(&asks), gate.broker().welcome());
    assert_eq!(answer, Answer::Admitted);
}

/// What is older than TLS 1.2, or has only ciphers of that age, is told that there is nothing in common.
#[tokio::test]
async fn what_is_too_old_is_told_so() {
    let gate = one("mixed-tls", "", Plan::default()).await;
    let folder = gate.folder.path();
    for (arguments, sentence) in [
        (
            &["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"][..],
            "TLS 1.1 at most",
        ),
        (
            &["-tls1_2", "-cipher", "AES128-SHA"][..],
            "none of its key exchanges; the gate takes ECDHE",
        ),
        (
            &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256"][..],
            "cipher suites",
        ),
        (
            &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"][..],
            "for ECDSA or RSA",
        ), // our key is ECDSA
        (
            &["-tls1_2", "-sigalgs", "rsa_pss_rsae_sha256"][..],
            "listener.tls.also",
        ),
        (
            &["-tls1_3", "-sigalgs", "rsa_pss_rsae_sha256"][..],
            "listener.tls.also",
        ),
        (
            &["-tls1_3", "-curves", "brainpoolP256r1:X448"][..],
            "none of its key exchanges",
        ),
    ] {
        let before = gate.lines("refused").len();
        let met = s_client(folder, gate.address(), arguments, b"").await;
        let alert = if arguments[0] == "-tls1_1" {
            "alert protocol version"
        } else {
            "alert handshake failure"
        };
        assert!(met.said.contains(alert), "{arguments:?}: {}", met.said);
        let line = until("one more refusal", async || {
            let lines = gate.lines("refused");
            lines.get(before).cloned()
        })
        .await;
        assert_eq!(line["reason"], "nothing_in_common", "{arguments:?}: {line}");
        assert!(why(&line).contains(sentence), "{arguments:?}: {line}");
    }
    let labels = [("result", "nothing_in_common")];
    gate.metric_becomes("tidegate_handshakes_total", &labels, 7.0)
        .await;
    assert_eq!(gate.broker().visits(), 0);
}

/// ALPN is a hint: who offers what we know gets it, everybody else is served without (threats.md T6).
#[tokio::test]
async fn alpn_turns_nobody_away() {
    let gate = one(
        "mutual-tls",
        "alpn = [\"mqtt\", \"x-amzn-mqtt-ca\"]",
        Plan::default(),
    )
    .await;
    let cases: [(&[&str], Option<&str>); 5] = [
        (&["mqtt"], Some("mqtt")),
        (&["h2", "x-amzn-mqtt-ca"], Some("x-amzn-mqtt-ca")),
        (&["x-amzn-mqtt-ca", "mqtt"], Some("mqtt")), // ours is the order that counts
        (&["h2", "http/1.1"], None),
        (&[], None),
    ];
    for (versions, version) in EACH {
        for (offered, agreed) in cases {
            // A hello in one record, in many, and in many that come one by one.
            for (fragment, most) in [(None, 4096), (Some(64), 4096), (Some(64), 50)] {
                let mut device = gate.device_over("meter-7", versions);
                let config = device.config.as_mut().expect("TLS");
                config.alpn_protocols = offered.iter().map(|name| name.as_bytes().into()).collect();
                config.max_fragment_size = fragment;
                let dialled = dial(&device, |socket| Chopped { socket, most }).await;
                let what = format!("TLS {version}, {offered:?}, {fragment:?}, {most}");
                let tls = dialled
                    .tls
                    .unwrap_or_else(|fault| panic!("{what}: {fault}"));
                let tls = converses(&gate, tls).await;
                let got = tls.get_ref().1.alpn_protocol();
                assert_eq!(got, agreed.map(str::as_bytes), "{what}");
                drop(tls);
                let from = dialled.from.to_string();
                let line = gate
                    .line("closed", |line| line["address"] == from.as_str())
                    .await;
                assert_eq!(line.get("alpn").and_then(Value::as_str), agreed, "{what}");
            }
        }
    }
}

// ---- which certificate we show ----

/// A device that takes any server and remembers the certificate it was shown.
fn trusting(
    gate: &Gate,
    name: &str,
    versions: &[&'static SupportedProtocolVersion],
    schemes: Option<Vec<SignatureScheme>>,
) -> (Device, Arc<Trusting>) {
    let trusting = Trusting::new(schemes);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(trusting.clone())
        .with_no_client_auth();
    let device = Device {
        gate: gate.address(),
        server_name: ServerName::try_from(name.to_owned()).expect("a name"),
        config: Some(config),
        from: None,
    };
    (device, trusting)
}

fn also(names: &str, file: &str) -> String {
    format!("[[listener.tls.also]]\n{names}certificate = \"{file}.pem\"\nkey = \"{file}.key\"\n")
}

/// The plan's files for server certificates, each as `NAME.pem` and `NAME.key`.
fn servers(all: &[(&str, &Issued)]) -> Vec<(String, Vec<u8>)> {
    all.iter()
        .flat_map(|(name, issued)| {
            let (chain, key) = (issued.chain_pem(), issued.key_pem());
            [
                put(&format!("{name}.pem"), chain),
                put(&format!("{name}.key"), key),
            ]
        })
        .collect()
}

/// The server's certificate is chosen by SNI; a name that nobody knows, or none, gets the main one.
#[tokio::test]
async fn the_name_that_a_device_dials_chooses_the_certificate() {
    let authority = Authority::new("Test CA").expect("a CA");
    let main = authority.server(&["main.example.net"]).expect("issued");
    let eu = authority.server(&["eu.example.net"]).expect("issued");
    let wild = authority.server(&["*.ap.example.net"]).expect("issued");
    let tls = [
        also("", "eu"), // its names are those in the certificate
        also(
            "names = [\"*.ap.example.net\", \"ap.example.org\"]\n",
            "wild",
        ),
    ]
    .concat();
    let plan = Plan {
        files: servers(&[("server", &main), ("eu", &eu), ("wild", &wild)]),
        authority,
        ..Plan::default()
    };
    let gate = one("mixed-tls", &tls, plan).await;
    let cases = [
        ("main.example.net", Some("main.example.net"), &main),
        ("eu.example.net", Some("eu.example.net"), &eu),
        ("EU.Example.NET", Some("eu.example.net"), &eu),
        ("one.ap.example.net", Some("one.ap.example.net"), &wild),
        ("ap.example.org", Some("ap.example.org"), &wild),
        ("ap.example.net", Some("ap.example.net"), &main), // a wildcard stands for one label,
        ("a.b.ap.example.net", Some("a.b.ap.example.net"), &main), // and one only
        ("unknown.example.com", Some("unknown.example.com"), &main),
        ("127.0.0.1", None, &main), // addresses are no names: rustls sends none
        ("::1", None, &main),
    ];
    for (versions, version) in EACH {
        for (dials, sni, expected) in &cases {
            let (device, trusting) = trusting(&gate, dials, versions, None);
            let dialled = dial(&device, |socket| socket).await;
            let mut tls = dialled
                .tls
                .unwrap_or_else(|fault| panic!("{dials}: {fault}"));
            assert_eq!(
                trusting.certificate(),
                *expected.certificate(),
                "TLS {version}, {dials}"
            );
            tls.shutdown().await.expect("a clean end");
            let line = refusal_of(&gate, dialled.from).await;
            assert_eq!(line["reason"], "device_gone");
            assert_eq!(line.get("sni").and_then(Value::as_str), *sni, "{dials}");
        }
    }
    // Some stacks put an address into SNI all the same (RFC 6066 §3 forbids it): they are served as if they had not.
    let asks = connect("meter-7", Version::V311).encode().expect("fits");
    let arguments = ["-quiet", "-servername", "127.0.0.1"];
    let met = s_client(gate.folder.path(), gate.address(), &arguments, &asks).await;
    assert_eq!(met.answer, [0x20, 2, 0, 5], "{}", met.said);
    let line = gate.refusal("no_token").await;
    assert_eq!(line.get("sni"), None);
}

/// Two certificates of one name, for devices that check different signatures: the metric tells the end that comes first.
#[tokio::test]
async fn of_two_certificates_of_one_name_the_first_end_is_told() {
    let authority = Authority::new("Test CA").expect("a CA");
    let [sooner, later] = [(KeyKind::Rsa2048, 40), (KeyKind::EcdsaP256, 80)].map(|(kind, days)| {
        let order = Order::server(&["localhost"]).expect("a name");
        let order = order.key(kind).valid(Validity::days(days));
        authority.issue(order).expect("issued")
    });
    for (first, second) in [(&sooner, &later), (&later, &sooner)] {
        let plan = Plan {
            files: servers(&[("server", first), ("other", second)]),
            ..Plan::default()
        };
        let gate = one("mutual-tls", &also("", "other"), plan).await;
        let ends = gate
            .metric(
                "tidegate_server_certificate_not_after_timestamp_seconds",
                &[("listener", "devices")],
            )
            .await;
        let certificate = Certificate::read(sooner.certificate()).expect("a certificate");
        assert_eq!(ends as i64, certificate.not_after);
    }
}

/// Of the certificates for a name the device is shown one whose signature it can check.
#[tokio::test]
async fn the_signatures_that_a_device_can_check_choose_the_certificate() {
    use SignatureScheme as S;
    let authority = Authority::new("Test CA").expect("a CA");
    let server = |kind| {
        let order = Order::server(&["localhost"]).expect("a name").key(kind);
        authority.issue(order).expect("issued")
    };
    let (p256, rsa) = (server(KeyKind::EcdsaP256), server(KeyKind::Rsa2048));
    let (p384, ed) = (server(KeyKind::EcdsaP384), server(KeyKind::Ed25519));
    let tls = [also("", "rsa"), also("", "p384"), also("", "ed")].concat();
    let plan = Plan {
        files: servers(&[
            ("server", &p256),
            ("rsa", &rsa),
            ("p384", &p384),
            ("ed", &ed),
        ]),
        authority,
        ..Plan::default()
    };
    let gate = one("mixed-tls", &tls, plan).await;
    for (versions, version) in EACH {
        for (schemes, expected) in [
            (vec![S::ECDSA_NISTP256_SHA256], &p256),
            (vec![S::RSA_PSS_SHA256], &rsa),
            (vec![S::ECDSA_NISTP384_SHA384], &p384),
            (vec![S::ED25519], &ed),
            (
                vec![S::ED25519, S::ECDSA_NISTP256_SHA256, S::RSA_PSS_SHA512],
                &p256,
            ), // ours is the order
        ] {
            for name in ["localhost", "unknown.example.net", "127.0.0.1"] {
                let (device, trusting) = trusting(&gate, name, versions, Some(schemes.clone()));
                let dialled = dial(&device, |socket| socket).await;
                let what = format!("TLS {version}, {schemes:?}, {name}");
                dialled
                    .tls
                    .unwrap_or_else(|fault| panic!("{what}: {fault}"));
                assert_eq!(trusting.certificate(), *expected.certificate(), "{what}");
            }
        }
        let (device, _) = trusting(
            &gate,
            "localhost",
            versions,
            Some(vec![S::ECDSA_NISTP521_SHA512]),
        );
        let dialled = dial(&device, |socket| socket).await;
        let told = dialled.tls.expect_err("no P-521 here").to_string();
        assert_eq!(told, "received fatal alert: HandshakeFailure");
        let line = refusal_of(&gate, dialled.from).await;
        assert_eq!(line["reason"], "nothing_in_common", "TLS {version}");
    }
}

// ---- nothing that small devices did not ask for ----

/// Remembers whether a server ever gave it something to come back with.
#[derive(Debug)]
struct Tickets {
    given: Mutex<Vec<&'static str>>,
    store: ClientSessionMemoryCache,
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.store.set_kx_hint(name, group);
    }
    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.store.kx_hint(name)
    }
    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.given.lock().expect("not poisoned").push("1.2");
        self.store.set_tls12_session(name, value);
    }
    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.store.tls12_session(name)
    }
    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.store.remove_tls12_session(name);
    }
    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.given.lock().expect("not poisoned").push("1.3");
        self.store.insert_tls13_ticket(name, value);
    }
    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.store.take_tls13_ticket(name)
    }
}

/// No tickets, no session ids, no early data: each connection is judged anew (threats.md T5).
#[tokio::test]
async fn no_session_is_ever_resumed() {
    let gate = Gate::start().await;
    for (versions, version) in EACH {
        let tickets = Arc::new(Tickets {
            given: Mutex::default(),
            store: ClientSessionMemoryCache::new(32),
        });
        let mut device = gate.device_over("meter-7", versions);
        let config = device.config.as_mut().expect("TLS");
        config.resumption = Resumption::store(tickets.clone());
        config.enable_early_data = true;
        for _ in 0..2 {
            let dialled = dial(&device, |socket| socket).await;
            let tls = converses(&gate, dialled.tls.expect("a handshake")).await;
            let connection = tls.get_ref().1;
            let kind = connection.handshake_kind();
            assert_ne!(kind, Some(HandshakeKind::Resumed), "TLS {version}");
            assert!(!connection.is_early_data_accepted());
            drop(tls);
            let from = dialled.from.to_string();
            let line = gate
                .line("closed", |line| line["address"] == from.as_str())
                .await;
            assert_eq!(line["resumed"], false);
        }
        let given = tickets.given.lock().expect("not poisoned").clone();
        assert_eq!(
            given, [""; 0],
            "TLS {version}: it was given something to resume"
        );
    }
}

/// No CA names in CertificateRequest: they cost small devices memory, and tell strangers whom we trust (threats.md T6).
#[tokio::test]
async fn no_ca_is_hinted_at() {
    let gate = Gate::start().await;
    let issued = gate
        .authority
        .device(&"meter-7".parse().expect("a device id"))
        .expect("issued");
    for (versions, version) in EACH {
        let ca = gate.authority.certificate();
        let shown = Shown::from(&issued);
        let (device, shows) = Device::showing(gate.address(), ca, Some(&shown), versions);
        let dialled = dial(&device, |socket| socket).await;
        converses(&gate, dialled.tls.expect("a handshake")).await;
        let request = shows.request.lock().expect("not poisoned").clone();
        let request = request.expect("it was asked for a certificate");
        assert_eq!(request.hints, 0, "TLS {version}");
        for scheme in [
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ED25519,
            SignatureScheme::RSA_PSS_SHA256,
        ] {
            assert!(
                request.schemes.contains(&scheme),
                "TLS {version}: {scheme:?}"
            );
        }
    }
}

/// The same, as OpenSSL sees it: message by message.
#[tokio::test]
async fn openssl_sees_neither_hints_nor_tickets() {
    let gate = one("mixed-tls", "", Plan::default()).await;
    let asks = connect("meter-7", Version::V311).encode().expect("fits");
    for version in ["-tls1_2", "-tls1_3"] {
        let met = s_client(
            gate.folder.path(),
            gate.address(),
            &[version, "-msg"],
            &asks,
        )
        .await;
        let report = String::from_utf8_lossy(&met.answer);
        assert!(
            report.contains("Finished"),
            "{version}: {report}{}",
            met.said
        );
        assert!(report.contains("CertificateRequest"), "{version}: {report}");
        assert!(
            report.contains("No client certificate CA names sent"),
            "{version}: {report}"
        );
        for unasked in [
            "NewSessionTicket",
            "CertificateStatus",
            "CompressedCertificate",
        ] {
            assert!(
                !report.contains(unasked),
                "{version}: {unasked} in {report}"
            );
        }
        assert!(!report.contains("Max Early Data: 1"), "{version}: {report}");
    }
}

/// Keeps a copy of what it reads.
struct Recording {
    socket: TcpStream,
    came: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Recording {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.socket).poll_read(cx, buffer);
        let mut came = self.came.lock().expect("not poisoned");
        came.extend_from_slice(&buffer.filled()[before..]);
        polled
    }
}

impl AsyncWrite for Recording {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// A device with a buffer of 512 bytes gets no larger record, neither in the handshake nor after it.
#[tokio::test]
async fn no_record_is_larger_than_the_device_can_hold() {
    let gate = one("mutual-tls", "max_record = \"512B\"", Plan::default()).await;
    for (versions, version) in EACH {
        let came = Arc::new(Mutex::new(Vec::new()));
        let device = gate.device_over("meter-7", versions);
        let dialled = dial(&device, |socket| Recording {
            socket,
            came: came.clone(),
        })
        .await;
        let mut link = Reader::new(dialled.tls.expect("a handshake"));
        let packet = connect("asked", Version::V311).encode().expect("fits");
        link.stream.write_all(&packet).await.expect("sent");
        let mut visit = gate.broker().welcome().await;
        let news = publish(Version::V311, "news", &[b'x'; 20_000]);
        visit.say(&news).await;
        soon("a CONNACK", link.packet()).await.expect("a CONNACK");
        assert_eq!(soon("a PUBLISH", link.packet()).await, Some(news));

        let came = came.lock().expect("not poisoned").clone();
        let mut rest = came.as_slice();
        let mut count = 0;
        while let [_, _, _, high, low, behind @ ..] = rest {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            // What AEAD adds: at most 8 bytes of nonce, 16 of tag, 1 of type.
            assert!(
                length <= 512 + 25,
                "TLS {version}: a record of {length} bytes"
            );
            rest = &behind[length..];
            count += 1;
        }
        assert!(count > 40, "TLS {version}: 20,000 bytes in {count} records");
    }
}

// ---- bytes as networks and strangers send them ----

/// Sends at most so many bytes in one segment.
struct Chopped {
    socket: TcpStream,
    most: usize,
}

impl AsyncRead for Chopped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Chopped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let most = self.most.min(bytes.len());
        Pin::new(&mut self.socket).poll_write(cx, &bytes[..most])
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// How a network cuts the bytes of a handshake makes no difference; nor into how many records the device does.
#[tokio::test]
async fn a_handshake_may_come_in_pieces() {
    let gate = Gate::start().await;
    for (versions, version) in EACH {
        for (most, fragment) in [
            (1, None),
            (100, None),
            (4096, Some(32)),
            (1, Some(64)),
            (37, Some(200)),
        ] {
            let mut device = gate.device_over("meter-7", versions);
            device.config.as_mut().expect("TLS").max_fragment_size = fragment;
            let dialled = dial(&device, |socket| Chopped { socket, most }).await;
            let tls = dialled
                .tls
                .unwrap_or_else(|fault| panic!("TLS {version}, {most}, {fragment:?}: {fault}"));
            converses(&gate, tls).await;
        }
    }
}

/// A socket that says `bytes` and then reads to the end: what came, and where it called from.
async fn says(gate: &Gate, bytes: &[u8], closes: bool) -> (Vec<u8>, SocketAddr) {
    soon("the gate to end it", async {
        let mut socket = TcpStream::connect(gate.address())
            .await
            .expect("a listener");
        let from = socket.local_addr().expect("connected");
        socket.write_all(bytes).await.expect("sent");
        if closes {
            socket.shutdown().await.expect("closed");
        }
        let mut came = Vec::new();
        let _ = socket.read_to_end(&mut came).await; // a reset is an end, too
        (came, from)
    })
    .await
}

/// threats.md V1: who leaves before its handshake was begun costs little: the kernel keeps nothing of it, and says no more to it.
#[tokio::test]
async fn who_leaves_before_its_handshake_is_reset() {
    let gate = Gate::plan(Plan {
        limits: "handshakes = 1\n".into(),
        ..Plan::default()
    })
    .await;
    let hello = client_hello();
    let mut has_the_turn = TcpStream::connect(gate.address())
        .await
        .expect("a listener");
    has_the_turn.write_all(&hello).await.expect("sent");
    soon("the gate's flight", has_the_turn.read(&mut [0]))
        .await
        .expect("an answer");

    for said in [&[][..], &hello[..hello.len() / 2], &hello] {
        let mut socket = TcpStream::connect(gate.address())
            .await
            .expect("a listener");
        let from = socket.local_addr().expect("connected");
        socket.write_all(said).await.expect("sent");
        socket.shutdown().await.expect("closed");
        let end = soon("the gate to end it", socket.read(&mut [0])).await;
        assert_eq!(
            end.map_err(|fault| fault.kind()),
            Err(ErrorKind::ConnectionReset)
        );
        assert_eq!(refusal_of(&gate, from).await["reason"], "device_gone");
    }
}

/// A device set up without TLS, and a browser: closed at once, and the sentence says what it was.
#[tokio::test]
async fn what_is_no_tls_is_told_by_its_looks() {
    let gate = Gate::start().await;
    let mqtt = connect("meter-7", Version::V311).encode().expect("fits");
    for (bytes, looks) in [
        (mqtt.as_slice(), "looks like MQTT without TLS"),
        (b"GET / HTTP/1.1\r\nHost: gate\r\n\r\n", "looks like HTTP"),
        (b"POST / HTTP/1.1\r\n\r\n", "looks like HTTP"),
        (
            b"PROXY TCP4 192.0.2.7 192.0.2.1 49152 8883\r\n",
            "or the PROXY protocol",
        ),
        (&[0x16, 3, 1, 0, 0], "no record of one"),
        (b"\0", "0x00"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "0x53"),
        (&[0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10], "0x80"), // SSL 2
        (&[0x15, 3, 1, 0, 2, 2, 0x28], "0x15"),                   // an alert
    ] {
        let labels = [("reason", "not_tls"), ("listener", "devices")];
        let before = gate.metric("tidegate_refusals_total", &labels).await;
        let (came, from) = says(&gate, bytes, false).await;
        assert_eq!(came, b"", "no word of TLS to who does not speak it");
        let line = refusal_of(&gate, from).await;
        assert_eq!(line["reason"], "not_tls");
        assert!(why(&line).contains(looks), "{looks:?} is not in: {line}");
        gate.metric_becomes("tidegate_refusals_total", &labels, before + 1.0)
            .await;
    }
    assert_eq!(gate.broker().visits(), 0);
}

/// The first record of a device that dials `localhost`.
fn client_hello() -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let mut device = ClientConnection::new(Arc::new(config), name).expect("a device");
    let mut hello = Vec::new();
    device.write_tls(&mut hello).expect("written");
    hello
}

/// Garbage that begins like TLS is answered with an alert, and ends at once.
#[tokio::test]
async fn garbage_records_end_the_connection() {
    let gate = Gate::start().await;
    let hello = client_hello();
    let mut garbled = hello.clone();
    garbled[9..60].fill(0xff);
    let mut cut = hello.clone();
    cut.truncate(hello.len() - 100);
    let twice = [hello.clone(), hello.clone()].concat();
    let then_junk = [hello.clone(), vec![0x17, 3, 3, 0, 32], vec![0x5a; 32]].concat();
    let then_noise = [hello.clone(), vec![0xa5; 300]].concat();
    let empty = vec![22, 3, 1, 0, 0];
    let oversized = vec![22, 3, 1, 0x40, 0x01];
    let ssl2_major = vec![22, 2, 0, 0, 5, 1, 0, 0, 1, 0];
    let server_hello = vec![22, 3, 3, 0, 6, 2, 0, 0, 2, 3, 3];
    for (what, bytes, reason, closes) in [
        ("a garbled ClientHello", &garbled, "tls_fault", false),
        (
            "a message of the wrong kind",
            &server_hello,
            "tls_fault",
            false,
        ),
        ("a second ClientHello", &twice, "tls_fault", false),
        (
            "junk that cannot be decrypted",
            &then_junk,
            "tls_fault",
            false,
        ),
        (
            "noise behind the ClientHello",
            &then_noise,
            "tls_fault",
            false,
        ),
        ("half a ClientHello", &cut, "device_gone", true),
        (
            "a whole ClientHello and the end",
            &hello,
            "device_gone",
            true,
        ),
        ("an empty record", &empty, "not_tls", false),
        ("an oversized record", &oversized, "not_tls", false),
        ("a version that never was", &ssl2_major, "not_tls", false),
    ] {
        let (came, from) = says(&gate, bytes, closes).await;
        let line = refusal_of(&gate, from).await;
        assert_eq!(line["reason"], reason, "{what}: {line}");
        let alerts = came.len() >= 7; // at the least 21, version, length 2, level, description
        assert!(
            alerts || reason != "tls_fault",
            "{what}: no alert in {came:x?}"
        );
    }
    let panics = gate.lines("panicked");
    assert!(panics.is_empty(), "{panics:?}");
    assert_eq!(gate.broker().visits(), 0);
    // And the gate is as it was.
    let device = gate.device("meter-7");
    let dialled = dial(&device, |socket| socket).await;
    converses(&gate, dialled.tls.expect("a handshake")).await;
}

/// Where the records of TLS in `bytes` end, that are no ChangeCipherSpec.
fn records(mut bytes: &[u8]) -> Vec<usize> {
    let (mut ends, mut at) = (Vec::new(), 0);
    while let [kind, _, _, high, low, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        at += 5 + length;
        bytes = &rest[length..];
        if *kind != 20 {
            ends.push(at);
        }
    }
    ends
}

/// threats.md V9: a device that says a part of its Certificate message, in whole records, and goes away hurts nobody.
#[tokio::test]
async fn a_device_that_leaves_amid_a_handshake_message_hurts_nobody() {
    let gate = Gate::start().await;
    for (versions, version) in EACH {
        for count in [1, 2] {
            let mut device = gate.device_over("meter-7", versions);
            let mut config = device.config.take().expect("TLS");
            config.max_fragment_size = Some(64); // so that the message needs many records
            let name = device.server_name.clone();
            let mut tls = ClientConnection::new(Arc::new(config), name).expect("a device");
            let mut socket = TcpStream::connect(device.gate).await.expect("a listener");
            let from = socket.local_addr().expect("connected");
            let mut flight = Vec::new();
            while tls.wants_write() {
                tls.write_tls(&mut flight).expect("a buffer takes all");
            }
            socket.write_all(&flight).await.expect("sent");
            flight.clear();
            while records(&flight).len() <= count {
                let mut came = vec![0; 4096];
                let read = soon("the server's flight", socket.read(&mut came)).await;
                let mut came = &came[..read.expect("open")];
                assert!(!came.is_empty(), "TLS {version}: the gate closed");
                while !came.is_empty() {
                    tls.read_tls(&mut came).expect("read");
                    tls.process_new_packets().expect("a good server");
                }
                while tls.wants_write() {
                    tls.write_tls(&mut flight).expect("a buffer takes all");
                }
            }
            let front = &flight[..records(&flight)[count - 1]];
            socket.write_all(front).await.expect("sent");
            socket.shutdown().await.expect("closed");

            let mut rest = Vec::new();
            let _ = soon("the end", socket.read_to_end(&mut rest)).await;
            let line = refusal_of(&gate, from).await;
            assert_eq!(line["reason"], "device_gone", "TLS {version}: {line}");
            assert_eq!(line["tls_version"], version);
        }
    }
    let panics = gate.lines("panicked");
    assert!(panics.is_empty(), "{panics:?}");
    let faults = [("reason", "gate_fault")];
    let faults = gate.metric("tidegate_refusals_total", &faults).await;
    assert!(faults.abs() < f64::EPSILON);
    let device = gate.device("meter-7");
    let dialled = dial(&device, |socket| socket).await;
    converses(&gate, dialled.tls.expect("a handshake")).await;
}

/// threats.md T2: what comes after TLS failed is read, so that the alert is not lost, but not without end.
#[tokio::test]
async fn who_floods_after_tls_failed_is_cut_off() {
    let gate = Gate::start().await;
    let mut socket = TcpStream::connect(gate.address())
        .await
        .expect("a listener");
    let junk = [&client_hello()[..], &[0x17, 3, 3, 0, 32], &[0x5a; 32]].concat();
    socket.write_all(&junk).await.expect("sent");
    let flood = vec![0; 64 * 1024];
    let mut sent = 0;
    let cut_off = async {
        while let Ok(n) = socket.write(&flood).await {
            sent += n;
        }
    };
    soon("the gate to close", cut_off).await;
    gate.refusal("tls_fault").await;
    // 1 MiB, and what the kernel had taken in on both sides.
    assert!(sent < 16 * 1024 * 1024, "it read {sent} bytes");
}

/// Every way of falling silent ends with the handshake's own deadline, which bytes do not push back (threats.md V2).
#[tokio::test]
async fn silence_in_the_handshake_ends_by_its_deadline() {
    let plan = Plan {
        limits: "handshake_timeout = \"300ms\"".into(),
        ..Plan::default()
    };
    let gate = Gate::plan(plan).await;
    let hello = client_hello();
    for bytes in [
        &hello[..],
        &hello[..1],
        &hello[..5],
        &hello[..hello.len() - 1],
        &[],
    ] {
        let (came, from) = says(&gate, bytes, false).await;
        let line = refusal_of(&gate, from).await;
        assert_eq!(line["reason"], "handshake_timeout", "{} bytes", bytes.len());
        assert!(why(&line).contains("limits.handshake_timeout"), "{line}");
        assert_eq!(came.is_empty(), bytes.len() < hello.len());
        let known = line.get("sni").is_some();
        assert_eq!(
            known,
            bytes.len() == hello.len(),
            "what was learnt is told: {line}"
        );
    }
    let labels = [("result", "handshake_timeout")];
    gate.metric_becomes("tidegate_handshakes_total", &labels, 5.0)
        .await;
    gate.metric_becomes("tidegate_handshakes_in_progress", &[], 0.0)
        .await;
    assert_eq!(gate.broker().visits(), 0);
}

// ---- a device that does not trust us ----

#[tokio::test]
async fn a_device_that_refuses_our_certificate_is_told_of_by_its_alert() {
    let gate = Gate::start().await;
    let issued = gate
        .authority
        .device(&"meter-7".parse().expect("a device id"))
        .expect("issued");
    let stranger = Authority::new("Another CA").expect("a CA");
    let wrong_ca =
        |versions| Device::issued(gate.address(), stranger.certificate(), &issued, versions);
    let wrong_name = |versions| {
        let mut device = gate.device_over("meter-7", versions);
        device.server_name = ServerName::try_from("elsewhere.example.net").expect("a name");
        device
    };
    for (versions, version) in EACH {
        for (device, alert, sni) in [
            (wrong_ca(versions), "UnknownCA", "localhost"),
            (
                wrong_name(versions),
                "BadCertificate",
                "elsewhere.example.net",
            ),
        ] {
            let labels = [("reason", "server_refused")];
            let before = gate.metric("tidegate_refusals_total", &labels).await;
            let dialled = dial(&device, |socket| socket).await;
            dialled.tls.expect_err("it does not trust us");
            let line = refusal_of(&gate, dialled.from).await;
            assert_eq!(line["reason"], "server_refused", "TLS {version}: {line}");
            assert!(why(&line).contains(alert), "{alert} is not in: {line}");
            assert!(why(&line).contains("check the CA in the device"), "{line}");
            assert_eq!(line["sni"], sni);
            assert_eq!(line["tls_version"], version);
            gate.metric_becomes("tidegate_refusals_total", &labels, before + 1.0)
                .await;
        }
    }
    assert_eq!(gate.broker().visits(), 0);
}

/// The same from OpenSSL, whose alert comes in its own way.
#[tokio::test]
async fn openssl_refusing_our_certificate_is_told_of_by_its_alert() {
    let stranger = Authority::new("Another CA").expect("a CA");
    let plan = Plan {
        files: vec![put("another.pem", stranger.certificate_pem())],
        ..Plan::default()
    };
    let gate = one("mixed-tls", "", plan).await;
    for (argument, version) in [("-tls1_2", "1.2"), ("-tls1_3", "1.3")] {
        let arguments = [
            argument,
            "-quiet",
            "-CAfile",
            "another.pem",
            "-verify_return_error",
            "-verify",
            "1",
        ];
        s_client(gate.folder.path(), gate.address(), &arguments, b"").await;
        let line = gate
            .line("refused", |line| line["tls_version"] == version)
            .await;
        assert_eq!(line["reason"], "server_refused", "{line}");
        assert!(why(&line).contains("UnknownCA"), "{line}");
    }
}

// ---- our own certificate ----

/// Every usual kind of server key works in both TLS versions, and so does a chain with an intermediate.
#[tokio::test]
async fn every_usual_server_key_is_served() {
    let root = Authority::new("Test CA").expect("a CA");
    let line = root.intermediate(Order::ca("Server CA")).expect("a CA");
    let kinds = [
        ("rsa", KeyKind::Rsa2048),
        ("p256", KeyKind::EcdsaP256),
        ("p384", KeyKind::EcdsaP384),
        ("ed25519", KeyKind::Ed25519),
    ];
    let issued: Vec<(&str, Issued)> = kinds
        .into_iter()
        .map(|(name, kind)| {
            let order = Order::server(&["localhost"]).expect("a name").key(kind);
            (name, line.issue(order).expect("issued"))
        })
        .collect();
    let mut listeners = String::new();
    for (name, _) in &issued {
        let one = listener(name, "mutual-tls", "", "");
        listeners += &one
            .replace("\"server.pem\"", &format!("\"{name}.pem\""))
            .replace("\"server.key\"", &format!("\"{name}.key\""));
    }
    listeners += &group("fleet", "ca.pem", "");
    let all: Vec<(&str, &Issued)> = issued
        .iter()
        .map(|(name, issued)| (*name, issued))
        .collect();
    let plan = Plan {
        files: servers(&all),
        listeners: Some(listeners),
        authority: root,
        ..Plan::default()
    };
    let gate = Gate::plan(plan).await;
    let meter = gate
        .authority
        .device(&"meter-7".parse().expect("a device id"))
        .expect("issued");
    for (name, issued) in &issued {
        for (versions, version) in EACH {
            let ca = gate.authority.certificate();
            let device = Device::issued(gate.addresses[*name], ca, &meter, versions);
            let dialled = dial(&device, |socket| socket).await;
            let tls = dialled
                .tls
                .unwrap_or_else(|fault| panic!("TLS {version}, {name}: {fault}"));
            let tls = converses(&gate, tls).await;
            let shown: Vec<CertificateDer<'_>> = tls
                .get_ref()
                .1
                .peer_certificates()
                .expect("a server's certificate")
                .to_vec();
            assert_eq!(shown, issued.chain(), "TLS {version}, {name}");
        }
    }
}
