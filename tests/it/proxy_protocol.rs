//! The PROXY protocol: whose address counts behind a balancer, and what a broker is told (threats.md N1).

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use proxy_header::{ParseConfig, ProxyHeader};
use rustls::version::{TLS12, TLS13};
use serde_json::Value;
use tidegate::mqtt::Version;
use tidegate::mqtt::connack::Connack;
use tidegate::mqtt::connect::{Connect, measure};
use tidegate::mqtt::properties::Properties;
use tidegate::pki::Authority;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use crate::support::device::{Answer, BOTH, Device, Link, Stream, connect};
use crate::support::gate::{Gate, MUTUAL, Plan, group, tidegate};
use crate::support::haproxy::HaProxy;
use crate::support::rabbitmq::RabbitMq;
use crate::support::wire::Reader;
use crate::support::{soon, until};

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const LINE: &[u8] = b"PROXY TCP4 203.0.113.7 198.51.100.1 49000 8883\r\n";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// A header of version 2 over TCP and IPv4, with these fields.
fn v2(fields: &[u8]) -> Vec<u8> {
    let ends = [203, 0, 113, 7, 198, 51, 100, 1, 0xbf, 0x68, 0x22, 0xb3];
    let length = u16::try_from(ends.len() + fields.len()).expect("short");
    [V2, b"\x21\x11", &length.to_be_bytes(), &ends, fields].concat()
}

/// The listener of [`MUTUAL`], with this mode, that expects headers from `networks`.
fn behind(networks: &str, mode: &str) -> String {
    let lines = format!("mode = \"{mode}\"\nproxy_protocol_from = {networks}\n");
    let listener = MUTUAL.replace("mode = \"mutual-tls\"\n", &lines);
    let listener = match mode {
        "plain" => listener
            .split("[listener.tls]")
            .next()
            .expect("a part")
            .to_owned(),
        _ => listener,
    };
    listener + &group("fleet", "ca.pem", "")
}

async fn gate_behind(networks: &str, mode: &str, limits: &str) -> Gate {
    Gate::plan(Plan {
        listeners: Some(behind(networks, mode)),
        limits: limits.into(),
        more: "[connect]\nuser_properties = { \"x-ip\" = \"{ip}\" }\n".into(),
        ..Plan::default()
    })
    .await
}

/// A socket that sends `front` before all else, in the same breath, and never more than `most` bytes at once.
struct Fronted {
    socket: TcpStream,
    front: Vec<u8>,
    most: usize,
}

impl AsyncRead for Fronted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Fronted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let front = self.front.len();
        let all = [&self.front, buf].concat();
        let piece = &all[..all.len().min(self.most)];
        match Pin::new(&mut self.socket).poll_write(cx, piece) {
            Poll::Ready(Ok(sent)) => {
                self.front.drain(..sent.min(front));
                if sent > front {
                    return Poll::Ready(Ok(sent - front));
                }
                cx.waker().wake_by_ref(); // the next piece is a packet of its own
                Poll::Pending
            }
            other => other,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// Dials as `device` would, with `front` before the first byte, in pieces of `most` bytes.
async fn dial(device: &Device, front: &[u8], most: usize) -> io::Result<(Link, SocketAddr)> {
    soon("the gate to take a device", async {
        let socket = TcpStream::connect(device.gate).await?;
        socket.set_nodelay(true)?;
        let from = socket.local_addr()?;
        let socket = Fronted {
            socket,
            front: front.to_vec(),
            most,
        };
        let stream: Box<dyn Stream> = match &device.config {
            None => Box::new(socket),
            Some(config) => {
                let connector = TlsConnector::from(Arc::new(config.clone()));
                Box::new(
                    connector
                        .connect(device.server_name.clone(), socket)
                        .await?,
                )
            }
        };
        let stream = Reader::new(stream);
        Ok((Link { stream }, from))
    })
    .await
}

/// Dials, and is admitted by the recording broker; gives what the gate logs of it, and the `x-ip` that the broker was told.
async fn conversation(gate: &Gate, front: &[u8], most: usize) -> (Value, String) {
    let before = gate.count("closed");
    let device = gate.device("meter-7");
    let (mut link, from) = dial(&device, front, most).await.expect("a handshake");
    let asks = connect("meter-7", Version::V5).encode().expect("fits");
    link.say(&asks).await.expect("sent");
    let visit = gate.broker().welcome().await;
    assert_eq!(link.answer(Version::V5).await, Answer::Admitted);
    let written = format!("{:?}", visit.connect.properties);
    drop((link, visit));
    let line = gate.next_line("closed", before).await;
    let told = line["proxy"].as_str().or(line["address"].as_str());
    assert_eq!(
        told,
        Some(from.to_string().as_str()),
        "the socket's address is told, too"
    );
    let ip = ["203.0.113.7", "2001:db8::7", "127.0.0.1"]
        .into_iter()
        .find(|ip| written.contains(ip))
        .unwrap_or_else(|| panic!("{written}"));
    (line, ip.to_owned())
}

#[tokio::test]
async fn the_address_in_the_header_is_the_devices() {
    let gate = gate_behind("[\"127.0.0.0/8\"]", "mutual-tls", "").await;
    let six = [
        &[0x20, 1, 0x0d, 0xb8][..],
        &[0; 11],
        &[7],
        &[0; 15],
        &[1],
        &[0, 5, 0, 6],
    ]
    .concat();
    let six = [V2, b"\x21\x21\0\x24", &six].concat();
    for (header, address) in [
        (LINE.to_vec(), "203.0.113.7:49000"),
        (
            b"PROXY TCP6 ::ffff:203.0.113.7 ::1 49000 8883\r\n".to_vec(),
            "203.0.113.7:49000",
        ),
        (
            b"PROXY TCP6 2001:db8::7 2001:db8::1 5 6\r\n".to_vec(),
            "[2001:db8::7]:5",
        ),
        (v2(b""), "203.0.113.7:49000"),
        (
            v2(&[&b"\x04\x01\x00"[..], &[0; 256]].concat()),
            "203.0.113.7:49000",
        ),
        (six, "[2001:db8::7]:5"),
    ] {
        let (line, ip) = conversation(&gate, &header, usize::MAX).await;
        assert_eq!(line["address"], address, "{line}");
        assert!(
            line["proxy"]
                .as_str()
                .is_some_and(|proxy| proxy.starts_with("127.0.0.1:")),
            "{line}"
        );
        assert_eq!(
            ip,
            address.parse::<SocketAddr>().expect("one").ip().to_string()
        );
    }
}

/// A balancer's own connections (health checks), and those of which it tells no address that TCP could have.
#[tokio::test]
async fn without_an_address_in_the_header_the_sockets_counts() {
    let gate = gate_behind("\"127.0.0.1\"", "mutual-tls", "").await;
    let unix = [V2, b"\x21\x31\0\xd8", &[b'x'; 216]].concat();
    for header in [
        LOCAL,
        b"PROXY UNKNOWN\r\n",
        &[V2, b"\x21\0\0\0"].concat(),
        &unix,
    ] {
        let (line, ip) = conversation(&gate, header, usize::MAX).await;
        assert!(
            line["address"]
                .as_str()
                .is_some_and(|address| address.starts_with("127.0.0.1:")),
            "{line}"
        );
        assert_eq!((ip.as_str(), &line["proxy"]), ("127.0.0.1", &Value::Null));
    }
}

/// A balancer's own connections are no crowd from its address, or its health checks would fail; whom its headers name is.
#[tokio::test]
async fn a_balancers_own_connections_are_not_counted_by_address() {
    let limits =
        "accepts_per_address = 1\nconnections_per_address = 1\nhandshake_timeout = \"5m\"\n";
    let gate = gate_behind("\"127.0.0.1\"", "mutual-tls", limits).await;
    let unix = [V2, b"\x21\x31\0\xd8", &[b'x'; 216]].concat();
    let mut checks = Vec::new();
    for _ in 0..5 {
        for header in [LOCAL, b"PROXY UNKNOWN\r\n", &unix] {
            let mut socket = TcpStream::connect(gate.address())
                .await
                .expect("it listens");
            socket.write_all(header).await.expect("sent");
            checks.push(socket);
        }
    }
    let (line, _) = conversation(&gate, LOCAL, usize::MAX).await;
    assert_eq!(line["reason"], "device_closed");
    assert_eq!(gate.count("refused"), 0, "{}", gate.log_text());

    let mut devices = Vec::new();
    for _ in 0..5 {
        let mut socket = TcpStream::connect(gate.address())
            .await
            .expect("it listens");
        socket.write_all(LINE).await.expect("sent");
        devices.push(socket);
    }
    let line = gate.refusal("address_full").await;
    assert_eq!(line["address"], "203.0.113.7:49000");
}

/// However it is cut, and with the device's first bytes right behind it: none is eaten, and none is lost.
#[tokio::test]
async fn a_header_may_come_in_pieces() {
    let gate = gate_behind("\"127.0.0.1\"", "mutual-tls", "").await;
    let longest = v2(&[&b"\xe0\x0f\xd0"[..], &[0xab; 4048]].concat());
    for (header, sizes) in [
        (LINE.to_vec(), &[1, 5, 46, 47, 48][..]),
        (v2(b""), &[1, 12, 15, 28, 29]),
        (longest, &[511, 512, 513, 4095]),
    ] {
        for most in sizes {
            let (line, _) = conversation(&gate, &header, *most).await;
            assert_eq!(line["address"], "203.0.113.7:49000", "{most}: {line}");
        }
    }
}

/// Sends `bytes`, and reads to the end, which must come without a word: the log line.
async fn refused(gate: &Gate, bytes: &[u8]) -> Value {
    let before = gate.count("refused");
    let mut socket = TcpStream::connect(gate.address())
        .await
        .expect("a listener");
    socket.write_all(bytes).await.expect("sent");
    let mut came = Vec::new();
    let _ = soon("the gate to close", socket.read_to_end(&mut came)).await; // a reset is an end, too
    assert_eq!(came, b"");
    gate.next_line("refused", before).await
}

#[tokio::test]
async fn a_header_is_required_from_listed_networks() {
    for mode in ["mutual-tls", "server-tls", "mixed-tls", "plain"] {
        let gate = gate_behind("[\"10.0.0.0/8\", \"::ffff:127.0.0.1/128\"]", mode, "").await;
        let asks = connect("meter-7", Version::V311).encode().expect("fits");
        let endless = [LINE.trim_ascii_end(), &[b' '; 120]].concat();
        let too_long = [V2, b"\x21\x11\xff\xff"].concat();
        let wrong_sum = v2(&[3, 0, 4, 1, 2, 3, 4]);
        for (bytes, reason, why) in [
            (
                b"\x16\x03\x01\x00\x05\x01".to_vec(),
                "proxy_header_missing",
                "proxy_protocol_from",
            ),
            (asks, "proxy_header_missing", "let the balancer send it"),
            (
                b"GET / HTTP/1.1\r\n\r\n".to_vec(),
                "proxy_header_missing",
                "no PROXY header",
            ),
            (
                b"PROXY TCP4 203.0.113.7 198.51.100.1 049000 8883\r\n".to_vec(),
                "proxy_header_malformed",
                "port",
            ),
            (endless, "proxy_header_malformed", "107 bytes"),
            (too_long, "proxy_header_malformed", "4096 bytes"),
            (wrong_sum, "proxy_header_malformed", "checksum"),
        ] {
            let line = refused(&gate, &bytes).await;
            assert_eq!(line["reason"], reason, "{line}");
            assert!(
                line["why"].as_str().is_some_and(|told| told.contains(why)),
                "{line}"
            );
        }
        for (reason, count) in [
            ("proxy_header_missing", 3.0),
            ("proxy_header_malformed", 4.0),
        ] {
            let labels = [("reason", reason), ("listener", "devices")];
            gate.metric_becomes("tidegate_refusals_total", &labels, count)
                .await;
        }
        // Behind a good one it goes on as ever.
        let line = refused(&gate, &[&v2(b""), &b"\0\0\0\0\0\0\0\0"[..]].concat()).await;
        assert_eq!(line["address"], "203.0.113.7:49000");
        assert_eq!(
            line["reason"],
            if mode == "plain" {
                "not_connect"
            } else {
                "not_tls"
            },
            "{line}"
        );
        assert_eq!(gate.broker().visits(), 0);
    }
}

/// Nothing is guessed: who is not in the list has no header to send.
#[tokio::test]
async fn a_header_from_elsewhere_is_refused() {
    for (mode, reason) in [("mutual-tls", "not_tls"), ("plain", "not_connect")] {
        let gate = gate_behind("[\"10.0.0.0/8\", \"::1\"]", mode, "").await;
        for header in [LINE.to_vec(), v2(b"")] {
            let line = refused(&gate, &header).await;
            assert_eq!(line["reason"], reason, "{line}");
            assert!(
                line["address"]
                    .as_str()
                    .is_some_and(|from| from.starts_with("127.0.0.1:")),
                "{line}"
            );
            assert_eq!(line["proxy"], Value::Null);
            let why = line["why"].as_str().expect("a sentence");
            assert!(
                mode == "plain" || why.contains("not in listener.proxy_protocol_from"),
                "{why}"
            );
        }
        if mode == "mutual-tls" {
            let (line, _) = conversation(&gate, b"", usize::MAX).await;
            assert_eq!(
                line["reason"], "device_closed",
                "and without one it is let in"
            );
        }
    }
}

/// threats.md V2: bytes that trickle in do not push the deadline back.
#[tokio::test]
async fn a_header_that_does_not_come_in_time_is_not_waited_for() {
    let gate = gate_behind("\"127.0.0.1\"", "plain", "handshake_timeout = \"300ms\"").await;
    for (header, step) in [(&b""[..], 1), (LINE, 1), (&v2(&[4, 2, 0])[..28], 3)] {
        let before = gate.count("refused");
        let socket = TcpStream::connect(gate.address())
            .await
            .expect("a listener");
        let (mut from, mut to) = socket.into_split();
        let trickle = async {
            for piece in header.chunks(step) {
                if to.write_all(piece).await.is_err() {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            std::future::pending().await
        };
        let mut came = Vec::new();
        let closed = soon("the gate to close", from.read_to_end(&mut came));
        tokio::select! {
            _ = closed => {}
            () = trickle => {}
        }
        let line = gate.next_line("refused", before).await;
        assert_eq!(line["reason"], "proxy_header_timeout", "{line}");
    }
}

/// A real balancer, in either version; and its health checks, which are told as its own.
#[tokio::test]
async fn behind_haproxy_the_devices_address_is_told() {
    for how in [
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2-ssl",
        "send-proxy-v2 proxy-v2-options crc32c,unique-id",
    ] {
        let gate = gate_behind("\"127.0.0.1\"", "mutual-tls", "").await;
        let haproxy = HaProxy::start(gate.address(), &format!("{how} check inter 200ms")).await;
        let mut device = gate.device("meter-7");
        device.gate = haproxy.address;
        let (mut link, from) = dial(&device, b"", usize::MAX).await.expect("a handshake");
        let asks = connect("meter-7", Version::V311).encode().expect("fits");
        link.say(&asks).await.expect("sent");
        let visit = gate.broker().welcome().await;
        assert_eq!(link.answer(Version::V311).await, Answer::Admitted);
        drop((link, visit));
        let line = gate
            .line("closed", |line| line["device"] == "meter-7")
            .await;
        assert_eq!(line["address"], from.to_string(), "{how}: {line}");
        assert_ne!(line["proxy"], Value::Null);
        let check = gate
            .line("refused", |line| line["reason"] == "device_gone")
            .await;
        assert!(
            check["why"]
                .as_str()
                .is_some_and(|why| why.contains("before its ClientHello")),
            "{how}: {check}"
        );
        assert_eq!(
            gate.metric(
                "tidegate_refusals_total",
                &[("reason", "proxy_header_malformed")]
            )
            .await,
            0.0
        );
    }
}

/// What a broker behind a gate is sent, as another implementation reads it.
struct Told {
    socket: TcpStream,
    came: Vec<u8>,
    header: ProxyHeader<'static>,
    connect: Connect,
}

/// A broker that expects a header: the next connection that brings a CONNECT. Probes are seen to bring one of their own.
async fn told(broker: &TcpListener) -> Told {
    soon("the gate to call the broker", async {
        loop {
            let (mut socket, peer) = broker.accept().await.expect("a connection");
            let mut came = Vec::new();
            let config = ParseConfig {
                include_tlvs: true,
                allow_v1: true,
                allow_v2: true,
            };
            let whole = loop {
                if let Ok((header, length)) = ProxyHeader::parse(&came, config) {
                    let header = header.into_owned();
                    if let Ok(Some(end)) = measure(&came[length..], 1 << 20) {
                        let connect =
                            Connect::decode(&came[length..length + end]).expect("a CONNECT");
                        break Some((header, connect));
                    }
                }
                match socket.read_buf(&mut came).await {
                    Ok(0) | Err(_) => break None,
                    Ok(_) => {}
                }
            };
            let Some((header, connect)) = whole else {
                let (header, length) =
                    ProxyHeader::parse(&came, config).expect("a probe has a header, too");
                assert_eq!(header.proxied_address().map(|ends| ends.source), Some(peer));
                assert_eq!(length, came.len());
                continue;
            };
            let connack = Connack {
                session_present: false,
                code: 0,
                properties: Properties::default(),
            };
            socket
                .write_all(&connack.encode(connect.version))
                .await
                .expect("sent");
            return Told {
                socket,
                came,
                header,
                connect,
            };
        }
    })
    .await
}

async fn gate_before(broker: &TcpListener, version: &str, listeners: Option<String>) -> Gate {
    let address = broker.local_addr().expect("bound");
    Gate::plan(Plan {
        listeners,
        addresses: Some(format!("[\"mqtt://{address}\"]")),
        broker: format!("proxy_protocol = \"{version}\"\n[broker.health]\ninterval = \"100ms\""),
        ..Plan::default()
    })
    .await
}

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a loopback port")
}

/// Is admitted by `broker`; gives what it was told, and where the device called from.
async fn calls(device: &Device, front: &[u8], broker: &TcpListener) -> (Told, SocketAddr, Link) {
    let (mut link, from) = dial(device, front, usize::MAX).await.expect("a handshake");
    let asks = connect("meter-7", Version::V311).encode().expect("fits");
    link.say(&asks).await.expect("sent");
    let told = told(broker).await;
    assert_eq!(link.answer(Version::V311).await, Answer::Admitted);
    assert_eq!(told.connect.client_id, "meter-7");
    (told, from, link)
}

#[tokio::test]
async fn a_broker_is_told_the_devices_address() {
    let broker = listen().await;
    let gate = gate_before(&broker, "v1", None).await;
    let (told, from, _link) = calls(&gate.device("meter-7"), b"", &broker).await;
    let line = format!(
        "PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n\x10",
        from.port(),
        gate.address().port()
    );
    assert!(
        told.came.starts_with(line.as_bytes()),
        "{:?}",
        String::from_utf8_lossy(&told.came)
    );

    // Behind a balancer, what its header tells goes on.
    let gate = gate_before(&broker, "v1", Some(behind("\"127.0.0.1\"", "mutual-tls"))).await;
    let (told, _, _link) = calls(&gate.device("meter-7"), &v2(b""), &broker).await;
    assert!(
        told.came.starts_with(LINE),
        "{:?}",
        String::from_utf8_lossy(&told.came)
    );
}

#[tokio::test]
async fn a_broker_is_told_what_tls_found_out() {
    let broker = listen().await;
    let tls = "alpn = [\"mqtt\"]\nresumption = \"tickets\"\n";
    let listeners = format!("{MUTUAL}{tls}{}", group("fleet", "ca.pem", ""));
    let gate = gate_before(&broker, "v2", Some(listeners)).await;
    for (versions, version, cipher) in [
        (&[&TLS13][..], "TLSv1.3", "TLS_AES_128_GCM_SHA256"),
        (&[&TLS12][..], "TLSv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256"),
    ] {
        let mut device = gate.device_over("meter-7", versions);
        device.config.as_mut().expect("TLS").alpn_protocols = vec![b"mqtt".to_vec()];
        let mut ids = Vec::new();
        for resumed in [false, true] {
            let before = gate.count("closed");
            let (told, from, mut link) = calls(&device, b"", &broker).await;
            let ends = told.header.proxied_address().expect("proxied");
            assert_eq!((ends.source, ends.destination), (from, gate.address()));
            assert_eq!(
                (told.header.authority(), told.header.alpn()),
                (Some("localhost"), Some(&b"mqtt"[..]))
            );
            assert!(
                told.header.crc32c().is_some() && told.header.tlvs().all(|field| field.is_ok())
            );
            let ssl = told.header.ssl().expect("over TLS");
            assert!(ssl.client_ssl() && ssl.client_cert_sess());
            assert_eq!((ssl.client_cert_conn(), ssl.verify()), (!resumed, 0));
            assert_eq!(
                (ssl.version(), ssl.cipher(), ssl.cn()),
                (Some(version), Some(cipher), Some("meter-7"))
            );
            assert_eq!(
                (ssl.sig_alg(), ssl.key_alg()),
                (Some("ecdsa-with-SHA256"), Some("EC256"))
            );
            // Tickets of TLS 1.3 come behind the handshake: they are read with what the gate says at the end.
            drop(told.socket);
            while link.packet().await.is_some() {}
            drop(link);
            let line = gate.next_line("closed", before).await;
            assert_eq!(line["resumed"], resumed, "{line}");
            let id = std::str::from_utf8(told.header.unique_id().expect("an id")).expect("hex");
            assert_eq!(line["unique_id"], id);
            ids.push(id.to_owned());
        }
        assert_ne!(ids[0], ids[1]);
    }
}

/// A real RabbitMQ, in either version: its management shows the device's address, and nothing of ours makes it stumble.
#[tokio::test]
async fn rabbitmq_shows_the_devices_address() {
    let rabbit = RabbitMq::start().await;
    for (version, front, address) in [
        ("v1", LINE.to_vec(), "203.0.113.7"),
        ("v2", v2(b""), "203.0.113.7"),
    ] {
        let gate = Gate::plan(Plan {
            listeners: Some(behind("\"127.0.0.1\"", "mutual-tls")),
            addresses: Some(format!("[\"mqtt://{}\"]", rabbit.mqtt)),
            broker: format!(
                "proxy_protocol = \"{version}\"\n[broker.health]\ninterval = \"100ms\""
            ),
            // The one user that RabbitMQ has from the start.
            more: "[connect]\npassword_file = \"broker.secret\"\n".into(),
            files: vec![("broker.secret".into(), b"guest".to_vec())],
            ..Plan::default()
        })
        .await;
        gate.metric_becomes("tidegate_broker_up", &[], 1.0).await;
        let (mut link, _) = dial(&gate.device_over("guest", BOTH), &front, usize::MAX)
            .await
            .expect("a handshake");
        let asks = connect("guest", Version::V311).encode().expect("fits");
        link.say(&asks).await.expect("sent");
        assert_eq!(
            link.answer(Version::V311).await,
            Answer::Admitted,
            "{}",
            rabbit.log()
        );
        let shown = until("RabbitMQ to show the connection", async || {
            let shown = rabbit.connections().await?;
            shown
                .into_iter()
                .find(|one| one["user"] == "guest" && one["peer_host"] != Value::Null)
        })
        .await;
        assert_eq!(
            (&shown["peer_host"], &shown["peer_port"]),
            (&address.into(), &49000.into()),
            "{shown}"
        );
        assert_eq!(
            (&shown["host"], &shown["port"]),
            (&"198.51.100.1".into(), &8883.into()),
            "{shown}"
        );
        if version == "v2" {
            assert_eq!(shown["ssl"], true, "{shown}");
        }
        drop(link);
        until("RabbitMQ to forget it", async || {
            rabbit.connections().await?.is_empty().then_some(())
        })
        .await;
    }
    let log = rabbit.log();
    assert!(errors(&log).is_empty(), "{log}");
}

/// What RabbitMQ calls an error. A supervisor's report is none that a channel had ended by itself when its connection closed (a
/// `shutdown_error` of `noproc`): it is told when a connection closes moments after it came.
fn errors(log: &str) -> Vec<&str> {
    let told = || log.lines().filter(|line| line.contains("[error]"));
    let who = |line: &str| {
        line.split_whitespace()
            .find(|word| word.starts_with("<0."))
            .map(str::to_owned)
    };
    let of = |text: &str| -> Vec<_> {
        told()
            .filter(|line| line.ends_with(text))
            .map(who)
            .collect()
    };
    let (late, gone) = (of("errorContext: shutdown_error"), of("reason: noproc"));
    told()
        .filter(|line| !(late.contains(&who(line)) && gone.contains(&who(line))))
        .collect()
}

/// threats.md N1: a list that lets anybody name any address is told of.
#[test]
fn a_list_of_everybody_is_warned_of() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new("Test CA").expect("a CA");
    let server = authority.server(&["localhost"]).expect("issued");
    let put =
        |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
    put("ca.pem", authority.certificate_pem());
    put("server.pem", &server.chain_pem());
    put("server.key", &server.key_pem());
    for (networks, warned) in [
        ("[\"10.0.0.0/8\", \"0.0.0.0/0\"]", true),
        ("\"::/0\"", true),
        ("[\"0.0.0.0/1\", \"128.0.0.0/1\"]", true),
        ("\"2000::/3\"", true),
        ("[\"fc00::/7\", \"2001:db8::/32\"]", false),
        ("\"10.0.0.0/8\"", false),
    ] {
        let broker = "[broker]\naddresses = \"mqtt://127.0.0.1\"\n";
        put(
            "tidegate.toml",
            &format!("{}{broker}", behind(networks, "mutual-tls")),
        );
        let (code, out, complaint) = tidegate(&["check"], folder.path());
        assert_eq!(code, 0, "{out}{complaint}");
        let told = format!("{out}{complaint}");
        assert_eq!(
            told.contains("call itself by any address"),
            warned,
            "{told}"
        );
    }
}
