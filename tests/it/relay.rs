//! The relay through a running gate: every byte, in order, both ways, and nothing that could change who the device is
//! (threats.md I10, M3 to M6, V7).

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};
use socket2::SockRef;
use tidegate::mqtt::Version;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use crate::support::broker::{Visit, publish};
use crate::support::device::{Answer, Device, Link, connect};
use crate::support::gate::{Gate, MUTUAL, Plan};
use crate::support::{soon, until};

/// A device that the broker has admitted.
async fn linked(gate: &Gate, device: &Device, version: Version) -> (Link, Visit) {
    let mut link = device.dial().await.expect("a handshake");
    let packet = connect("meter-7", version).encode().expect("fits");
    link.say(&packet).await.expect("sent");
    let visit = gate.broker().welcome().await;
    assert_eq!(link.answer(version).await, Answer::Admitted);
    (link, visit)
}

/// Everything that comes until the end; the end must be a proper one (`close_notify`, FIN).
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut came = Vec::new();
    let end = soon("the end of the stream", stream.read_to_end(&mut came)).await;
    end.expect("a proper end");
    came
}

async fn rest_at_device(link: &mut Link) -> Vec<u8> {
    let mut came = std::mem::take(&mut link.stream.buffer);
    came.extend(rest(&mut link.stream.stream).await);
    came
}

async fn rest_at_broker(visit: &mut Visit) -> Vec<u8> {
    let mut came = std::mem::take(&mut visit.socket.buffer);
    came.extend(rest(&mut visit.socket.stream).await);
    came
}

/// What an MQTT 5 device is told at an end of ours; the others are told nothing.
fn farewell(version: Version, code: u8) -> Vec<u8> {
    match version {
        Version::V5 => vec![0xe0, 1, code],
        _ => Vec::new(),
    }
}

/// I10, M5: what came before it reaches the broker, it does not, nor does what comes behind.
#[tokio::test]
async fn a_second_connect_never_reaches_the_broker() {
    let gate = Gate::start().await;
    let device = gate.device("meter-7");
    for version in Version::ALL {
        let before = publish(version, "a", b"before");
        let again = connect("meter-8", version).encode().expect("fits");
        let behind = publish(version, "a", b"behind");

        let (mut link, mut visit) = linked(&gate, &device, version).await;
        let said = [&before[..], &again, &behind].concat();
        link.say(&said).await.expect("sent");
        assert_eq!(rest_at_broker(&mut visit).await, before, "{version}");
        assert_eq!(rest_at_device(&mut link).await, farewell(version, 0x82));

        // Right behind the first, in one TLS record.
        let first = connect("meter-7", version).encode().expect("fits");
        let mut link = device.dial().await.expect("a handshake");
        link.say(&[&first[..], &said].concat()).await.expect("sent");
        let mut visit = gate.broker().welcome().await;
        assert_eq!(link.answer(version).await, Answer::Admitted);
        assert_eq!(rest_at_broker(&mut visit).await, before, "{version}");
        assert_eq!(rest_at_device(&mut link).await, farewell(version, 0x82));
    }
    gate.line("closed", |line| line["reason"] == "second_connect")
        .await;
    assert_eq!(gate.broker().visits(), 6);
}

/// M4: the DISCONNECT of ours falls between packets, also when the broker never stops talking.
#[tokio::test]
async fn a_disconnect_of_ours_falls_between_the_packets_of_a_broker_that_talks_on() {
    let gate = Gate::start().await;
    for size in [700, 100_000, 3_000_000] {
        let (mut link, visit) = linked(&gate, &gate.device("meter-7"), Version::V5).await;
        let expected = publish(Version::V5, "a", &vec![b'x'; size]);
        // Every write ends in the middle of a packet, so that the broker never pauses between two.
        let (front, back) = expected.split_at(expected.len() / 2);
        let (front, on) = (front.to_vec(), [back, front].concat());
        let (_hears, mut says) = visit.socket.stream.into_split();
        let talking = tokio::spawn(async move {
            let _ = says.write_all(&front).await;
            while says.write_all(&on).await.is_ok() {}
        });
        assert_eq!(link.packet().await.as_ref(), Some(&expected));

        let again = connect("meter-7", Version::V5).encode().expect("fits");
        link.say(&again).await.expect("sent");

        let last = loop {
            let packet = link.packet().await.expect("a DISCONNECT before the end");
            if packet != expected {
                break packet;
            }
        };
        assert_eq!(last, [0xe0, 1, 0x82], "{size}");
        assert_eq!(rest_at_device(&mut link).await, b"");
        drop(link);
        soon("the broker to be let go", talking)
            .await
            .expect("no panic");
    }
}

/// M5: AUTH, and whatever only a broker says.
#[tokio::test]
async fn what_a_device_may_not_send_never_reaches_the_broker() {
    let gate = Gate::start().await;
    let device = gate.device("meter-7");
    for version in Version::ALL {
        for kind in [0, 2, 9, 11, 13, 15] {
            let before = publish(version, "a", b"before");
            let (mut link, mut visit) = linked(&gate, &device, version).await;
            link.say(&[&before[..], &[kind << 4, 2, 0, 0]].concat())
                .await
                .expect("sent");
            assert_eq!(rest_at_broker(&mut visit).await, before, "{version} {kind}");
            let told = rest_at_device(&mut link).await;
            assert_eq!(told, farewell(version, 0x82), "{version} {kind}");
        }
    }
    drop(device);
    gate.line("closed", |line| line["reason"] == "forbidden_packet")
        .await;
}

/// M5: CONNECT, a second CONNACK, AUTH, and whatever only a device says.
#[tokio::test]
async fn what_a_broker_may_not_send_never_reaches_the_device() {
    let gate = Gate::start().await;
    let device = gate.device("meter-7");
    for version in Version::ALL {
        let mut kinds = vec![0, 1, 2, 8, 10, 12, 15];
        if version != Version::V5 {
            kinds.push(14);
        }
        for kind in kinds {
            let before = publish(version, "a", b"before");
            let (mut link, mut visit) = linked(&gate, &device, version).await;
            visit
                .say(&[&before[..], &[kind << 4, 2, 0, 0]].concat())
                .await;
            let expected = [before, farewell(version, 0x80)].concat();
            assert_eq!(
                rest_at_device(&mut link).await,
                expected,
                "{version} {kind}"
            );
            assert_eq!(rest_at_broker(&mut visit).await, b"");
        }
    }
    gate.line("closed", |line| line["reason"] == "broker_garbage")
        .await;
}

/// MQTT 5.0 §1.5.5: four length bytes at most. A packet that was begun is not finished by ours (M4).
#[tokio::test]
async fn a_length_of_five_bytes_ends_the_connection() {
    let gate = Gate::start().await;
    let device = gate.device("meter-7");
    for version in Version::ALL {
        let before = publish(version, "a", b"before");
        let bad = [&before[..], b"\x30\x80\x80\x80\x80\x01"].concat();
        let passed = [&before[..], b"\x30\x80\x80\x80"].concat();

        let (mut link, mut visit) = linked(&gate, &device, version).await;
        link.say(&bad).await.expect("sent");
        assert_eq!(rest_at_broker(&mut visit).await, passed, "{version}");
        assert_eq!(rest_at_device(&mut link).await, farewell(version, 0x81));

        let (mut link, mut visit) = linked(&gate, &device, version).await;
        visit.say(&bad).await;
        assert_eq!(rest_at_device(&mut link).await, passed, "{version}");
        assert_eq!(rest_at_broker(&mut visit).await, b"");
    }
    gate.line("closed", |line| line["reason"] == "malformed_packet")
        .await;
}

/// M5, MQTT 5.0 §3.14.2.2.5: a Server Reference would lead the device round the gate. All else stays to the byte, in
/// whatever pieces it comes, and nothing follows it.
#[tokio::test]
async fn a_brokers_disconnect_reaches_the_device_without_its_server_reference() {
    let gate = Gate::start().await;
    let device = gate.device("meter-7");
    let cases: [(&[u8], &[u8]); 6] = [
        (b"\xe0\x00", b"\xe0\x00"),
        (b"\xe0\x01\x8b", b"\xe0\x01\x8b"),
        (
            b"\xe0\x09\x8b\x07\x1f\x00\x04busy",
            b"\xe0\x09\x8b\x07\x1f\x00\x04busy",
        ),
        (b"\xe0\x09\x9c\x07\x1c\x00\x04evil", b"\xe0\x02\x9c\x00"),
        (
            b"\xe0\x17\x9d\x15\x26\x00\x01b\x00\x012\x1c\x00\x04evil\x26\x00\x01a\x00\x011",
            b"\xe0\x10\x9d\x0e\x26\x00\x01b\x00\x012\x26\x00\x01a\x00\x011",
        ),
        // Malformed: a property cut short. Nothing of it passes; the gate says its own word.
        (b"\xe0\x05\x9c\x03\x1c\x00\x04", b"\xe0\x01\x80"),
    ];
    let before = publish(Version::V5, "a", b"before");
    let behind = publish(Version::V5, "a", b"behind");
    for (said, expected) in cases {
        for piece in [usize::MAX, 1, 3] {
            let (mut link, mut visit) = linked(&gate, &device, Version::V5).await;
            let said = [&before[..], said, &behind].concat();
            for piece in said.chunks(piece.min(said.len())) {
                visit.say(piece).await; // TCP_NODELAY is not needed: the pieces are only likely, not certain
            }
            let expected = [&before[..], expected].concat();
            assert_eq!(rest_at_device(&mut link).await, expected, "{said:02x?}");
        }
    }
}

/// Bytes that cannot be guessed, the same for the same seed, shaped as PUBLISH packets.
fn traffic(
    version: Version,
    seed: u64,
    sizes: impl Fn(&mut fastrand::Rng) -> usize,
    total: usize,
) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = Vec::with_capacity(total + 1024);
    while bytes.len() < total {
        let mut payload = vec![0; sizes(&mut random)];
        random.fill(&mut payload);
        bytes.extend(publish(version, "t", &payload));
    }
    bytes
}

/// Writes `bytes`, counting those taken; stops the count when writing stalls. Gives the stream back.
async fn flood<S: AsyncWrite + AsyncRead + Unpin + Send + 'static>(
    mut stream: S,
    bytes: std::sync::Arc<Vec<u8>>,
    written: std::sync::Arc<std::sync::atomic::AtomicUsize>,
) -> S {
    for piece in bytes.chunks(64 * 1024) {
        stream
            .write_all(piece)
            .await
            .expect("taken, sooner or later");
        stream.flush().await.expect("taken, sooner or later");
        written.fetch_add(piece.len(), std::sync::atomic::Ordering::SeqCst);
    }
    stream
}

/// Waits until nothing more is taken: the same count, often in a row. Gives it.
async fn stalled(written: &std::sync::atomic::AtomicUsize) -> usize {
    let (mut last, mut same) = (0, 0);
    until("the writer to stall", async || {
        let now = written.load(std::sync::atomic::Ordering::SeqCst);
        same = if now == last && now > 0 { same + 1 } else { 0 };
        last = now;
        (same >= 50).then_some(now)
    })
    .await
}

const FLOOD: usize = 64 << 20;

/// V7: 64 MB towards who does not read: its writer waits, the gate holds next to nothing, and no byte is lost.
async fn a_reader_that_stops_stops_its_writer(
    to_broker: bool,
    tls: &[&'static SupportedProtocolVersion],
) {
    let gate = Gate::start().await;
    let device = gate.device_over("meter-7", tls);
    let (link, visit) = linked(&gate, &device, Version::V311).await;
    // Buffers of the threads, grown once.
    let (mut other, mut other_visit) = linked(&gate, &device, Version::V311).await;
    let warm = publish(Version::V311, "t", &[0; 200_000]);
    other.say(&warm).await.expect("sent");
    assert_eq!(other_visit.packet().await.as_ref(), Some(&warm));
    other_visit.say(&warm).await;
    assert_eq!(other.packet().await.as_ref(), Some(&warm));
    let before = gate.proc_status("VmRSS");

    let bytes = std::sync::Arc::new(traffic(Version::V311, 7, |_| 1 << 20, FLOOD));
    let written = std::sync::Arc::default();
    let (from_device, at_broker) = (link.stream.stream, visit.socket.stream);
    let (writing, mut reader): (_, Box<dyn AsyncRead + Unpin + Send>) = if to_broker {
        let flood = flood(from_device, bytes.clone(), std::sync::Arc::clone(&written));
        (
            tokio::spawn(async { drop(flood.await.shutdown().await) }),
            Box::new(at_broker),
        )
    } else {
        let flood = flood(at_broker, bytes.clone(), std::sync::Arc::clone(&written));
        (
            tokio::spawn(async { drop(flood.await.shutdown().await) }),
            Box::new(from_device),
        )
    };

    let taken = stalled(&written).await;
    assert!(taken < FLOOD, "the writer was stopped");
    let during = gate.proc_status("VmRSS");
    assert!(
        during < before + 4096,
        "memory stays flat: {before} kB, then {during} kB with {taken} bytes under way"
    );

    let mut came = Vec::with_capacity(bytes.len());
    let reading = tokio::time::timeout(Duration::from_secs(60), reader.read_to_end(&mut came));
    reading.await.expect("64 MB in time").expect("a proper end");
    assert!(came == *bytes, "{} bytes of {}", came.len(), bytes.len());
    soon("the writer to end", writing).await.expect("no panic");
    // What else was open is as it was.
    other.say(&warm).await.expect("sent");
    assert_eq!(other_visit.packet().await.as_ref(), Some(&warm));
    let after = gate.proc_status("VmHWM");
    assert!(after < before + 8192, "nor was it ever more: {after} kB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stops_reading_stops_its_device() {
    a_reader_that_stops_stops_its_writer(true, &[&TLS13]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_stops_reading_stops_its_broker() {
    a_reader_that_stops_stops_its_writer(false, &[&TLS13]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_it_is_over_tls_1_2() {
    a_reader_that_stops_stops_its_writer(true, &[&TLS12]).await;
    a_reader_that_stops_stops_its_writer(false, &[&TLS12]).await;
}

/// Half-close is kept: a device that has said all it has to say still hears the broker.
#[tokio::test]
async fn a_device_that_closed_its_side_still_hears_the_broker() {
    let gate = Gate::start().await;
    for tls in [&TLS13, &TLS12] {
        let device = gate.device_over("meter-7", &[tls]);
        let (mut link, mut visit) = linked(&gate, &device, Version::V311).await;
        let said = publish(Version::V311, "a", b"last");
        link.say(&said).await.expect("sent");
        link.close_write().await;
        assert_eq!(rest_at_broker(&mut visit).await, said, "then the end");

        for n in 0..3 {
            let more = publish(Version::V311, "a", &[n; 50_000]);
            visit.say(&more).await;
            assert_eq!(link.packet().await, Some(more));
        }
        drop(visit);
        assert_eq!(rest_at_device(&mut link).await, b"", "close_notify");
    }
    let line = gate.line("closed", |_| true).await;
    assert_eq!(line["reason"], "device_closed");
}

/// M3: what a device says in one breath with its end comes whole, whether or not the broker's socket takes it at once; then the end.
#[tokio::test]
async fn what_a_device_says_with_its_end_comes_whole() {
    let gate = Gate::start().await;
    for (tls, size) in [(&TLS13, 1), (&TLS12, 60_000), (&TLS13, 3_000_000)] {
        let device = gate.device_over("meter-7", &[tls]);
        let connector = TlsConnector::from(Arc::new(device.config.clone().expect("TLS")));
        let socket = TcpStream::connect(device.gate).await.expect("a listener");
        let link = connector.connect(device.server_name.clone(), socket);
        let mut link = link.await.expect("a handshake");
        let asks = connect("meter-7", Version::V311).encode().expect("fits");
        link.write_all(&asks).await.expect("sent");
        link.flush().await.expect("sent");
        let mut visit = gate.broker().welcome().await;
        link.read_exact(&mut [0; 4]).await.expect("a CONNACK");

        let said = publish(Version::V311, "a", &vec![7; size]);
        let (socket, session) = link.get_mut();
        session.set_buffer_limit(None);
        session.writer().write_all(&said).expect("there is room");
        session.send_close_notify();
        let mut breath = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut breath).expect("there is room");
        }
        let sent = async {
            socket.write_all(&breath).await?;
            socket.shutdown().await
        };
        let (sent, came) = tokio::join!(sent, rest_at_broker(&mut visit));

        sent.expect("sent");
        assert!(came == said, "{} of {} bytes", came.len(), said.len());
    }
}

#[tokio::test]
async fn a_broker_that_closed_its_side_still_hears_the_device() {
    let gate = Gate::start().await;
    for tls in [&TLS13, &TLS12] {
        let device = gate.device_over("meter-7", &[tls]);
        let (mut link, mut visit) = linked(&gate, &device, Version::V311).await;
        let said = publish(Version::V311, "a", b"last");
        visit.say(&said).await;
        visit.socket.stream.shutdown().await.expect("half a close");
        assert_eq!(rest_at_device(&mut link).await, said, "then close_notify");

        for n in 0..3 {
            let more = publish(Version::V311, "a", &[n; 50_000]);
            link.say(&more).await.expect("sent");
            assert_eq!(visit.packet().await, Some(more));
        }
        link.close_write().await;
        assert_eq!(rest_at_broker(&mut visit).await, b"");
    }
    let line = gate.line("closed", |_| true).await;
    assert_eq!(line["reason"], "broker_closed");
}

/// Writes `bytes` in pieces of any size, with a turn for others here and there.
async fn in_pieces(mut to: impl AsyncWrite + Unpin, bytes: Vec<u8>, mut random: fastrand::Rng) {
    let mut left = &bytes[..];
    while !left.is_empty() {
        let most = [1, 7, 100, 5_000, 70_000][random.usize(..5)];
        let (piece, others) = left.split_at(random.usize(1..=most).min(left.len()));
        to.write_all(piece).await.expect("taken");
        if random.bool() {
            to.flush().await.expect("taken");
            tokio::task::yield_now().await;
        }
        left = others;
    }
    to.shutdown().await.expect("taken");
}

/// M6: sizes and splits of any kind, both ways at once.
#[tokio::test]
async fn random_traffic_both_ways_at_once_is_delivered_exactly() {
    let gate = Gate::start().await;
    for seed in 0..12 {
        let version = Version::ALL[seed % 3];
        let tls = [&TLS13, &TLS12][seed % 2];
        let device = gate.device_over("meter-7", &[tls]);
        let (link, visit) = linked(&gate, &device, version).await;
        let seed = seed as u64;
        let size = |random: &mut fastrand::Rng| match random.u8(..8) {
            0 => random.usize(100_000..300_000),
            1 | 2 => random.usize(10_000..40_000),
            3 => random.usize(120..130),
            _ => random.usize(..200),
        };
        let up = traffic(version, seed, size, 600_000);
        let down = traffic(version, seed + 1000, size, 600_000);
        let (mut device_hears, device_says) = tokio::io::split(link.stream.stream);
        let (mut broker_hears, broker_says) = visit.socket.stream.into_split();
        let random = || fastrand::Rng::with_seed(seed + 2000);
        let (_, _, at_broker, at_device) = soon("all to arrive", async {
            tokio::join!(
                in_pieces(device_says, up.clone(), random()),
                in_pieces(broker_says, down.clone(), random()),
                rest(&mut broker_hears),
                rest(&mut device_hears),
            )
        })
        .await;
        assert!(at_broker == up, "seed {seed}: to the broker");
        assert!(at_device == down, "seed {seed}: to the device");
    }
    // Counted to the byte as well.
    let relayed = |direction: &'static str| {
        let gate = &gate;
        async move {
            gate.metric("tidegate_relayed_bytes_total", &[("direction", direction)])
                .await
        }
    };
    let lines = async || (gate.lines("closed").len() == 12).then(|| gate.lines("closed"));
    let lines = until("twelve lines", lines).await;
    for (key, direction) in [
        ("bytes_to_broker", "to_broker"),
        ("bytes_to_device", "to_device"),
    ] {
        let logged: u64 = lines
            .iter()
            .map(|line| line[key].as_u64().expect("a count"))
            .sum();
        assert!(logged > 12 * 600_000);
        #[expect(clippy::cast_precision_loss, reason = "some millions")]
        let logged = logged as f64;
        assert!(
            (relayed(direction).await - logged).abs() < 0.5,
            "{direction}"
        );
    }
}

/// Bytes sent from this end of a loopback socket that the other end has not acknowledged.
fn unacknowledged(socket: &TcpStream) -> u64 {
    let local = socket.local_addr().expect("bound").port();
    let remote = socket.peer_addr().expect("connected").port();
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    let (local, remote) = (format!(":{local:04X}"), format!(":{remote:04X}"));
    let line = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|line| line[1].ends_with(&local) && line[2].ends_with(&remote))
        .expect("the socket is in the table");
    let queue = line[4].split(':').next().expect("tx_queue");
    u64::from_str_radix(queue, 16).expect("hex")
}

/// Waits until the other kernel end has all, then closes with a reset.
async fn reset(socket: TcpStream) {
    until("all to be acknowledged", async || {
        (unacknowledged(&socket) == 0).then_some(())
    })
    .await;
    SockRef::from(&socket)
        .set_linger(Some(Duration::ZERO))
        .expect("a reset");
}

/// A broker that dies takes nothing with it that it had said, and the device learns of it at once.
#[tokio::test]
async fn what_a_broker_said_before_its_reset_reaches_the_device() {
    let gate = Gate::start().await;
    for tls in [&TLS13, &TLS12] {
        let device = gate.device_over("meter-7", &[tls]);
        let (mut link, mut visit) = linked(&gate, &device, Version::V5).await;
        let said = traffic(Version::V5, 5, |_| 5_000, 40_000);
        visit.say(&said).await;
        reset(visit.socket.stream).await;
        assert!(rest_at_device(&mut link).await == said);
    }
    gate.line("closed", |line| line["reason"] == "broker_lost")
        .await;
}

/// A device that dies: what it had said reaches the broker, and then the end.
#[tokio::test]
async fn what_a_device_said_before_its_reset_reaches_the_broker() {
    let gate = Gate::start().await;
    for tls in [&TLS13, &TLS12] {
        let device = gate.device_over("meter-7", &[tls]);
        let mut stream = dial_tls(&device).await;
        let asks = connect("meter-7", Version::V311).encode().expect("fits");
        stream.write_all(&asks).await.expect("sent");
        let mut visit = gate.broker().welcome().await;
        let said = traffic(Version::V311, 5, |_| 5_000, 40_000);
        stream.write_all(&said).await.expect("sent");
        stream.flush().await.expect("sent");
        reset(stream.into_inner().0).await;
        assert!(rest_at_broker(&mut visit).await == said);
    }
    gate.line("closed", |line| line["reason"] == "device_lost")
        .await;
}

/// A device says its last and leaves, the broker is slow and still talking: what the device said arrives all the same.
/// (A socket closed with unread bytes in it throws away what it had still to send.)
#[tokio::test]
async fn what_a_device_said_before_it_left_reaches_a_slow_broker_that_still_talks() {
    let gate = Gate::start().await;
    for tls in [&TLS13, &TLS12] {
        let device = gate.device_over("meter-7", &[tls]);
        let mut stream = dial_tls(&device).await;
        let asks = connect("meter-7", Version::V311).encode().expect("fits");
        stream.write_all(&asks).await.expect("sent");
        let mut visit = gate.broker().welcome().await;
        let mut connack = [0; 4];
        stream.read_exact(&mut connack).await.expect("a CONNACK");
        let said = traffic(Version::V311, 5, |_| 5_000, 400_000);
        let said = [&said[..], b"\xe0\x00"].concat();
        stream.write_all(&said).await.expect("sent");
        stream.flush().await.expect("sent");
        until("all to be acknowledged", async || {
            (unacknowledged(stream.get_ref().0) == 0).then_some(())
        })
        .await;
        drop(stream);

        let talk = publish(Version::V311, "a", &[0; 1000]);
        visit.say(&talk).await; // is answered by a reset
        until("the gate to see that the device has gone", async || {
            let gone = gate.metric("tidegate_connections_open", &[]).await < 0.5;
            if !gone {
                visit.say(&talk).await;
            }
            gone.then_some(())
        })
        .await;
        visit.say(&talk).await;
        let mut came = Vec::new();
        let reading = visit.socket.stream.read_to_end(&mut came);
        let _ = soon("the end of the stream", reading).await;
        assert!(came == said, "{} bytes of {}", came.len(), said.len());
    }
}

/// The TLS connection of a device, in the open.
async fn dial_tls(device: &Device) -> tokio_rustls::client::TlsStream<TcpStream> {
    let config = device.config.clone().expect("TLS");
    let socket = TcpStream::connect(device.gate).await.expect("the gate");
    socket.set_nodelay(true).expect("no delay");
    TlsConnector::from(std::sync::Arc::new(config))
        .connect(device.server_name.clone(), socket)
        .await
        .expect("a handshake")
}

/// A wire between device and gate that looks at the records from the gate: their types and lengths, in order.
struct Tap {
    address: std::net::SocketAddr,
    records: tokio::task::JoinHandle<Vec<(u8, usize)>>,
}

impl Tap {
    async fn before(gate: std::net::SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let records = tokio::spawn(async move {
            let (device, _) = listener.accept().await.expect("a device");
            let gate = TcpStream::connect(gate).await.expect("the gate");
            let (mut from_device, mut to_device) = device.into_split();
            let (mut from_gate, mut to_gate) = gate.into_split();
            tokio::spawn(async move {
                let _ = tokio::io::copy(&mut from_device, &mut to_gate).await;
                let _ = to_gate.shutdown().await;
            });
            let mut records = Vec::new();
            let mut head = [0; 5];
            while from_gate.read_exact(&mut head).await.is_ok() {
                let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
                let mut body = vec![0; length];
                from_gate
                    .read_exact(&mut body)
                    .await
                    .expect("a whole record");
                records.push((head[0], length));
                to_device.write_all(&head).await.expect("sent");
                to_device.write_all(&body).await.expect("sent");
            }
            let _ = to_device.shutdown().await;
            records
        });
        Self { address, records }
    }
}

/// T6: `max_record` holds for every record that the gate sends, the handshake's too; without it, they are as large as
/// TLS allows.
#[tokio::test]
async fn no_record_is_larger_than_max_record() {
    for (set, most) in [("", 16 * 1024), ("max_record = \"1KiB\"", 1024)] {
        let gate = Gate::plan(Plan {
            listeners: Some(format!(
                "{MUTUAL}{set}\n[[trust]]\nname = \"fleet\"\nca = [\"ca.pem\"]\n"
            )),
            ..Plan::default()
        })
        .await;
        for tls in [&TLS13, &TLS12] {
            let mut device = gate.device_over("meter-7", &[tls]);
            let tap = Tap::before(device.gate).await;
            device.gate = tap.address;
            let (mut link, mut visit) = linked(&gate, &device, Version::V311).await;
            let said = traffic(Version::V311, 1, |_| 100_000, 400_000);
            let heard = tokio::join!(rest_at_device(&mut link), async {
                visit.say(&said).await;
                drop(visit);
            })
            .0;
            assert!(heard == said, "{set:?}");
            drop(link);
            let records = soon("the tap to close", tap.records)
                .await
                .expect("no panic");
            let longest = records
                .iter()
                .map(|(_, length)| *length)
                .max()
                .expect("some");
            // TLS adds at most 256 bytes to what a record carries (RFC 8446 §5.2); AES-GCM adds 17, or 24 in TLS 1.2.
            assert!(longest <= most + 24, "{set:?}: a record of {longest} bytes");
            assert!(longest > most - 64, "{set:?}: room is used, yet {longest}");
        }
    }
}

/// RFC 8446 §4.6.3: a device changes its keys in the middle of traffic.
#[tokio::test]
async fn a_device_may_update_its_keys_at_any_time() {
    let gate = Gate::start().await;
    let device = gate.device_over("meter-7", &[&TLS13]);
    let mut stream = dial_tls(&device).await;
    let asks = connect("meter-7", Version::V311).encode().expect("fits");
    stream.write_all(&asks).await.expect("sent");
    let mut visit = gate.broker().welcome().await;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).await.expect("a CONNACK");
    for n in 0..20 {
        stream.get_mut().1.refresh_traffic_keys().expect("TLS 1.3");
        let up = publish(Version::V311, "a", &vec![n; 1 + 3_000 * usize::from(n)]);
        stream.write_all(&up).await.expect("sent");
        stream.flush().await.expect("sent");
        assert_eq!(visit.packet().await, Some(up));
        // The gate answers with a key update of its own, in front of what comes next.
        let down = publish(Version::V311, "a", &vec![n; 1 + 3_000 * usize::from(n)]);
        visit.say(&down).await;
        let mut came = vec![0; down.len()];
        soon("what the broker said", stream.read_exact(&mut came))
            .await
            .expect("under the new keys");
        assert!(came == down, "{n}");
    }
    stream.shutdown().await.expect("sent");
    assert_eq!(rest_at_broker(&mut visit).await, b"");
}

/// A device of TLS 1.3 that writes its records by hand once the handshake is over.
pub(crate) struct ByHand {
    socket: TcpStream,
    key: aws_lc_rs::aead::LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl ByHand {
    pub(crate) async fn dial(device: &Device) -> Self {
        let mut device = device.clone();
        let config = device.config.as_mut().expect("TLS");
        config.enable_secret_extraction = true;
        let stream = dial_tls(&device).await;
        let (socket, tls) = stream.into_inner();
        let (sequence, secrets) = tls.dangerous_extract_secrets().expect("secrets").tx;
        let rustls::ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else {
            panic!("the gate prefers AES-128-GCM");
        };
        let key = aws_lc_rs::aead::UnboundKey::new(&aws_lc_rs::aead::AES_128_GCM, key.as_ref());
        Self {
            socket,
            key: aws_lc_rs::aead::LessSafeKey::new(key.expect("a key")),
            iv: iv.as_ref().try_into().expect("12 bytes"),
            sequence,
        }
    }

    /// A record of that type (RFC 8446 §5.2).
    pub(crate) fn record(&mut self, kind: u8, body: &[u8]) -> Vec<u8> {
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        self.sequence += 1;
        let mut sealed = [body, &[kind]].concat();
        let length = u16::try_from(sealed.len() + 16).expect("a record");
        let head = [&[23, 3, 3], &length.to_be_bytes()[..]].concat();
        let nonce = aws_lc_rs::aead::Nonce::assume_unique_for_key(nonce);
        self.key
            .seal_in_place_append_tag(nonce, aws_lc_rs::aead::Aad::from(&head), &mut sealed)
            .expect("sealed");
        [head, sealed].concat()
    }

    /// Sends `bytes`, in pieces of `size`.
    pub(crate) async fn say(&mut self, bytes: &[u8], size: usize) {
        for piece in bytes.chunks(size) {
            if self.socket.write_all(piece).await.is_err() {
                return; // the gate has closed
            }
        }
    }
}

/// V9, T2: messages behind the handshake in fragments of any kind hurt nobody, and what was said before them arrives.
#[tokio::test]
async fn odd_fragments_of_messages_behind_the_handshake_end_at_most_their_own_connection() {
    const HANDSHAKE: u8 = 22;
    const DATA: u8 = 23;
    let gate = Gate::start().await;
    let good = gate.device("meter-8");
    let (mut good, mut good_visit) = {
        let mut link = good.dial().await.expect("a handshake");
        link.say(&connect("meter-8", Version::V311).encode().expect("fits"))
            .await
            .expect("sent");
        let visit = gate.broker().welcome().await;
        assert_eq!(link.answer(Version::V311).await, Answer::Admitted);
        (link, visit)
    };
    let device = gate.device_over("meter-7", &[&TLS13]);
    let pings = b"\xc0\x00";
    let huge = [&[4, 0, 0xff, 0xff][..], &[0; 16_000]].concat();
    let cases: [&[(u8, &[u8])]; 9] = [
        &[(HANDSHAKE, &[24, 0, 0, 1]), (HANDSHAKE, &[0])],
        &[
            (HANDSHAKE, &[24]),
            (HANDSHAKE, &[0]),
            (HANDSHAKE, &[0, 1]),
            (HANDSHAKE, &[1]),
        ],
        &[
            (HANDSHAKE, &[24, 0]),
            (DATA, pings),
            (HANDSHAKE, &[0, 1, 0]),
        ],
        &[
            (HANDSHAKE, &[24, 0, 0, 1, 0, 24]),
            (HANDSHAKE, &[0, 0, 1, 0]),
        ],
        &[(HANDSHAKE, &[24, 0, 0, 1, 7])],
        &[(HANDSHAKE, &[24, 0xff, 0xff, 0xff])],
        &[
            (HANDSHAKE, &huge),
            (HANDSHAKE, &[0; 16_000]),
            (HANDSHAKE, &[0; 16_000]),
            (HANDSHAKE, &[0; 16_000]),
            (HANDSHAKE, &[0; 16_000]),
            (HANDSHAKE, &[0; 16_000]),
            (HANDSHAKE, &[0; 16_000]),
        ],
        &[(HANDSHAKE, &[])],
        &[(HANDSHAKE, &[1, 0, 0, 0])],
    ];
    for records in cases {
        for size in [1, 3, usize::MAX] {
            let mut hand = ByHand::dial(&device).await;
            let asks = connect("meter-7", Version::V311).encode().expect("fits");
            let before = publish(Version::V311, "a", b"before");
            let mut said = hand.record(DATA, &[asks, before.clone()].concat());
            hand.say(&said, usize::MAX).await;
            let mut visit = gate.broker().welcome().await;
            assert_eq!(visit.packet().await, Some(before));
            said.clear();
            for (kind, body) in records {
                said.extend(hand.record(*kind, body));
            }
            hand.say(&said, size.min(said.len())).await;
            // Whatever the gate made of it: it ends with its socket, and nobody else notices.
            // The broker is not written to from the other side meanwhile: the gate writes its alert, or a key update.
            visit.say(&publish(Version::V311, "a", b"down")).await;
            drop(hand);
            let mut came = Vec::new();
            let end = soon("the end", visit.socket.stream.read_to_end(&mut came)).await;
            drop(end);
            assert!(came.is_empty() || came == pings, "{came:02x?}");

            let ping = publish(Version::V311, "a", b"good");
            good.say(&ping).await.expect("sent");
            assert_eq!(good_visit.packet().await, Some(ping));
        }
    }
    gate.metric_becomes("tidegate_broker_connections_open", &[], 1.0)
        .await;
    assert!(!gate.log_text().contains("gate_fault"));
}
