//! A gate that is told to end takes nobody new, lets packets under way arrive, and ends in time (threats.md V10).

use std::time::Duration;

use tidegate::mqtt::Version;
use tidegate::mqtt::properties::{Id, Property, Value};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::broker::{Visit, publish};
use crate::support::device::{Answer, Device, Link, connect};
use crate::support::gate::{Gate, Plan};
use crate::support::until;

/// DISCONNECT, "server shutting down": MQTT 5.0 §3.14.2.1.
const SHUTTING_DOWN: [u8; 3] = [0xe0, 1, 0x8b];

async fn gate(limits: &str) -> Gate {
    Gate::plan(Plan {
        limits: limits.into(),
        ..Plan::default()
    })
    .await
}

/// A device that was let in, and the broker's end of it.
async fn linked(gate: &Gate, device: &Device, version: Version) -> (Link, Visit) {
    let asks = connect("anybody", version);
    let ((answer, link), visit) = tokio::join!(device.asks(&asks), gate.broker().welcome());
    assert_eq!(answer, Answer::Admitted);
    (link.expect("admitted"), visit)
}

/// A device of `version` that has sent the front of a large PUBLISH, which has reached the broker; and the rest of it.
async fn in_mid_packet(gate: &Gate, version: Version) -> (Link, Visit, Vec<u8>, Vec<u8>) {
    let (mut link, mut visit) = linked(gate, &gate.device("meter-7"), version).await;
    let packet = publish(version, "devices/meter-7/image", &vec![7; 300_000]);
    let (front, rest) = packet.split_at(20_000);
    link.say(front).await.expect("the gate reads");
    while visit.socket.buffer.len() < front.len() {
        use tokio::io::AsyncReadExt as _;
        let socket = &mut visit.socket;
        let read = socket.stream.read_buf(&mut socket.buffer);
        assert_ne!(read.await.expect("the gate writes"), 0);
    }
    let rest = rest.to_vec();
    (link, visit, packet, rest)
}

async fn not_ready(gate: &Gate) {
    until("the gate to be not ready", async || {
        (gate.admin_get("/readyz").await == (503, "draining\n".into())).then_some(())
    })
    .await;
}

/// Not ready, then no new connections; what a device was sending reaches the broker whole; then it is told why.
#[tokio::test]
async fn a_packet_under_way_to_the_broker_is_finished_first() {
    for signal in ["TERM", "INT"] {
        let mut gate = gate("").await;
        let (mut link, mut visit, packet, rest) = in_mid_packet(&gate, Version::V5).await;

        gate.signal(signal);
        not_ready(&gate).await;
        assert_eq!(gate.admin_get("/livez").await.0, 200, "it is alive");
        until("the door to be shut", async || {
            TcpStream::connect(gate.address()).await.err()
        })
        .await;

        // A device that hears DISCONNECT closes at once (MQTT 5.0 §3.14.4), in the middle of a packet too. So it must
        // not hear it yet: asked is what has come by now, not what comes later.
        let early = tokio::time::timeout(Duration::from_millis(300), link.stream.packet()).await;
        assert!(
            early.is_err(),
            "told in the middle of its packet: {early:?}"
        );

        link.say(&rest).await.expect("the gate reads on");
        assert_eq!(visit.packet().await, Some(packet));
        assert_eq!(visit.packet().await, None);
        assert_eq!(link.packet().await, Some(SHUTTING_DOWN.to_vec()));
        assert_eq!(link.packet().await, None);
        drop((link, visit));
        assert_eq!(gate.exit().await.code(), Some(0));
        let told = gate.line("draining", |line| line["signal"] == signal).await;
        assert_eq!(told["level"], "info");
        let ended = gate
            .line("closed", |line| line["device"] == "meter-7")
            .await;
        assert_eq!(ended["reason"], "drained");
        gate.line("drained", |_| true).await;
    }
}

#[tokio::test]
async fn a_packet_under_way_to_a_device_is_finished_first() {
    for version in Version::ALL {
        let mut gate = gate("").await;
        let (mut link, mut visit) = linked(&gate, &gate.device("meter-7"), version).await;
        let packet = publish(version, "devices/meter-7/firmware", &vec![7; 300_000]);
        let (front, rest) = packet.split_at(20_000);
        visit.say(front).await;
        gate.metric_becomes(
            "tidegate_relayed_bytes_total",
            &[("direction", "to_device")],
            20_000.0,
        )
        .await;

        gate.signal("TERM");
        not_ready(&gate).await;
        visit.say(rest).await;

        assert_eq!(link.packet().await, Some(packet), "{version}");
        // MQTT 3 knows no DISCONNECT from a server.
        let told = (version == Version::V5).then(|| SHUTTING_DOWN.to_vec());
        assert_eq!(link.packet().await, told, "{version}");
        assert_eq!(link.packet().await, None);
        assert_eq!(visit.packet().await, None, "the broker is told, too");
        drop((link, visit));
        assert_eq!(gate.exit().await.code(), Some(0), "{version}");
    }
}

/// Those who hold still do not come back all in one moment: their ends are spread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_connections_end_spread_over_the_window() {
    let mut gate = gate("drain_timeout = \"4s\"\n").await;
    let _house = gate.take_broker().welcome_all();
    let device = gate.device("meter-7");
    let mut links = JoinSet::new();
    for _ in 0..300 {
        let (answer, link) = device.asks(&connect("", Version::V5)).await;
        assert_eq!(answer, Answer::Admitted);
        let mut link = link.expect("admitted");
        links.spawn(async move {
            let told = link.packet().await;
            (told, link.packet().await, std::time::Instant::now())
        });
    }

    gate.signal("TERM");

    let mut ends = Vec::new();
    while let Some(link) = links.join_next().await {
        let (told, end, at) = link.expect("no panic");
        assert_eq!((told, end), (Some(SHUTTING_DOWN.to_vec()), None));
        ends.push(at);
    }
    assert_eq!(gate.exit().await.code(), Some(0));
    // Far less than the window, so that a slow machine does not fail it; a drain all at once takes far less.
    let spread = *ends.iter().max().expect("300") - *ends.iter().min().expect("300");
    assert!(spread > Duration::from_secs(1), "all within {spread:?}");
}

/// A broker that says so much that no buffer on the way holds it all, to a device that reads nothing.
async fn flooded(gate: &Gate, version: Version) -> (Link, tokio::task::JoinHandle<()>) {
    use tokio::io::AsyncWriteExt as _;
    let (link, mut visit) = linked(gate, &gate.device("meter-7"), version).await;
    let flood = tokio::spawn(async move {
        let packet = publish(version, "devices/meter-7/firmware", &[7; 1000]);
        while visit.socket.stream.write_all(&packet).await.is_ok() {}
    });
    // Full is full when a while brings nothing more.
    let mut last = 0.0;
    let mut still = 0;
    until("the buffers to be full", async || {
        let now = gate
            .metric(
                "tidegate_relayed_bytes_total",
                &[("direction", "to_device")],
            )
            .await;
        still = if now > last { 0 } else { still + 1 };
        last = now;
        (now > 0.0 && still == 20).then_some(())
    })
    .await;
    (link, flood)
}

/// Exit code 3: what the gate had taken over for a device that does not read is lost, and the operator is told.
#[tokio::test]
async fn what_a_device_does_not_read_is_lost_and_told() {
    for window in ["1s", "30s"] {
        let mut gate = gate(&format!("drain_timeout = \"{window}\"\n")).await;
        let (link, flood) = flooded(&gate, Version::V311).await;

        gate.signal("TERM");

        assert_eq!(gate.exit().await.code(), Some(3), "{window}");
        until("the last word of the gate", async || {
            let told = gate.log_text();
            told.contains("drain_timeout gives them more time")
                .then_some(())
        })
        .await;
        drop(link);
        flood.abort();
    }
}

/// A packet that is cut in the middle is a loss, whoever is to blame.
#[tokio::test]
async fn a_packet_that_never_ends_is_a_loss() {
    let mut gate = gate("").await;
    let (_link, _visit, ..) = in_mid_packet(&gate, Version::V311).await;

    gate.signal("TERM");

    assert_eq!(gate.exit().await.code(), Some(3));
}

/// A device and a broker with nothing under way lose nothing, however long they take to close.
#[tokio::test]
async fn who_is_slow_to_close_loses_nothing() {
    let mut gate = gate("drain_timeout = \"1s\"\n").await;
    let (_link, _visit) = linked(&gate, &gate.device("meter-7"), Version::V5).await;

    gate.signal("TERM");

    assert_eq!(gate.exit().await.code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    for (first, second) in [("TERM", "TERM"), ("INT", "TERM"), ("TERM", "INT")] {
        let mut gate = gate("drain_timeout = \"1h\"\n").await;
        let (_link, _visit, ..) = in_mid_packet(&gate, Version::V5).await;
        gate.signal(first);
        not_ready(&gate).await;

        gate.signal(second);

        assert_eq!(gate.exit().await.code(), Some(3));
        let line = gate.line("closed", |_| true).await;
        assert_eq!(line["reason"], "cut");
        gate.line("draining", |line| line["level"] == "warn").await;
    }
}

#[tokio::test]
async fn a_gate_without_connections_ends_at_once() {
    for signal in ["TERM", "INT"] {
        let mut gate = gate("drain_timeout = \"1h\"\n").await;
        gate.signal(signal);
        assert_eq!(gate.exit().await.code(), Some(0));
        gate.line("drained", |_| true).await;
    }
}

/// Who has been accepted is let in when it asks, and has its turn like the others; nobody is turned away for a drain while there is
/// room in its window.
#[tokio::test]
async fn a_device_in_the_middle_of_connecting_is_let_in_and_told_later() {
    let mut gate = gate("").await;
    let device = gate.device("meter-8");
    let mut silent = Vec::new();
    for version in Version::ALL {
        silent.push((device.dial().await.expect("a handshake"), version));
    }
    gate.metric_becomes("tidegate_handshakes_total", &[("result", "ok")], 3.0)
        .await;

    gate.signal("TERM");
    not_ready(&gate).await;
    until("the door to be shut", async || {
        TcpStream::connect(gate.address()).await.err()
    })
    .await;

    for (mut link, version) in silent {
        let packet = connect("meter-8", version).encode().expect("fits");
        let asks = async {
            link.say(&packet).await.expect("sent");
            link.answer(version).await
        };
        let (answer, visit) = tokio::join!(asks, gate.broker().welcome());
        assert_eq!(answer, Answer::Admitted, "{version}");
        let told = (version == Version::V5).then(|| SHUTTING_DOWN.to_vec());
        assert_eq!(link.packet().await, told, "{version}");
        drop(visit);
    }
    assert_eq!(gate.exit().await.code(), Some(0));
}

/// Late in the window whoever asks is told to come back, not that it may not come: as far as its version has a word for it.
#[tokio::test]
async fn a_device_that_asks_too_late_is_told_to_come_back() {
    for (tell, code) in [("", 0x88), ("[drain]\ntell = \"server-moved\"\n", 0x9d)] {
        let mut gate = Gate::plan(Plan {
            limits: "handshake_timeout = \"1s\"\n".into(),
            more: format!("level = \"debug\"\n{tell}"),
            ..Plan::default()
        })
        .await;
        // It keeps the gate open while the others ask.
        let (link, visit, ..) = in_mid_packet(&gate, Version::V5).await;
        let mut asking = Vec::new();
        for (version, code) in [
            (Version::V31, 0x03),
            (Version::V311, 0x03),
            (Version::V5, code),
        ] {
            let link = gate.device("meter-8").dial().await.expect("a handshake");
            asking.push((link, version, code));
        }
        gate.metric_becomes("tidegate_handshakes_total", &[("result", "ok")], 4.0)
            .await;

        gate.signal("TERM");
        gate.line("draining", |line| line["level"] == "debug").await;
        for (link, version, code) in &mut asking {
            let packet = connect("meter-8", *version).encode().expect("fits");
            link.say(&packet).await.expect("sent");
            assert_eq!(link.answer(*version).await, Answer::Refused(*code));
        }
        assert_eq!(gate.broker().visits(), 1, "only the one from before");
        drop((link, visit, asking));
        gate.exit().await;
        let told = gate.lines("refused");
        assert_eq!(told.len(), 3);
        assert!(told.iter().all(|line| line["reason"] == "draining"));
    }
}

/// MQTT 5.0 §4.11: where another server is named, a device is told of it, unless that is more than it takes in one packet.
#[tokio::test]
async fn a_device_may_be_told_where_to_go() {
    for (most, told) in [
        (None, &b"\xe0\x0d\x9c\x0b\x1c\x00\x08gate-2:1"[..]),
        (Some(14), b"\xe0\x01\x9c"),
    ] {
        let mut gate = Gate::plan(Plan {
            more: "[drain]\ntell = \"use-another-server\"\nserver_reference = \"gate-2:1\"\n"
                .into(),
            ..Plan::default()
        })
        .await;
        let mut asks = connect("meter-7", Version::V5);
        if let Some(most) = most {
            asks.properties.push(Property {
                id: Id::MaximumPacketSize,
                value: Value::Four(most),
            });
        }
        let device = gate.device("meter-7");
        let ((answer, link), _visit) = tokio::join!(device.asks(&asks), gate.broker().welcome());
        assert_eq!(answer, Answer::Admitted);

        gate.signal("TERM");

        assert_eq!(
            link.expect("admitted").packet().await.as_deref(),
            Some(told)
        );
        assert_eq!(gate.exit().await.code(), Some(0));
    }
}

/// `limits.drain_delay`: not ready first, so that balancers can take notice; who still comes is let in as ever. A second signal does
/// not wait for its end.
#[tokio::test]
async fn between_not_ready_and_the_drain_devices_still_come_in() {
    let mut gate = gate("drain_delay = \"1h\"\ndrain_timeout = \"1s\"\n").await;
    gate.signal("TERM");
    not_ready(&gate).await;
    let (mut link, _visit) = linked(&gate, &gate.device("meter-7"), Version::V5).await;
    link.say(&[0xc0, 0]).await.expect("it stays");

    gate.signal("TERM");
    assert_eq!(gate.exit().await.code(), Some(3));

    let mut gate = self::gate("drain_delay = \"1s\"\n").await;
    let (mut link, _visit) = linked(&gate, &gate.device("meter-7"), Version::V5).await;
    gate.signal("TERM");
    assert_eq!(link.packet().await, Some(SHUTTING_DOWN.to_vec()));
    assert_eq!(gate.exit().await.code(), Some(0));
}
