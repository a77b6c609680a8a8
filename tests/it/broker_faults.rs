//! A broker that is away, silent, broken or hostile: the device is told that the trouble is temporary, never that it
//! was refused, and no CONNECT is sent twice (threats.md V5, M2).

use std::time::Duration;

use futures_util::future::join_all;
use socket2::{Domain, SockRef, Socket, Type};
use tidegate::mqtt::Version;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::broker::{Broker, publish};
use crate::support::device::{Answer, Device, Link, connect};
use crate::support::gate::{Gate, Plan};
use crate::support::{soon, until};

/// The code that means: not now, come back.
fn not_now(version: Version) -> Answer {
    Answer::Refused(match version {
        Version::V5 => 0x88,
        _ => 0x03,
    })
}

/// A gate in front of these addresses.
async fn gate_to(addresses: &[String], broker: &str) -> Gate {
    Gate::plan(Plan {
        addresses: Some(format!("{addresses:?}")),
        broker: broker.into(),
        limits: "connect_timeout = \"300ms\"".into(),
        ..Plan::default()
    })
    .await
}

/// A gate in front of a recording broker whose CONNACK must come soon.
async fn hasty_gate() -> Gate {
    Gate::plan(Plan {
        limits: "connect_timeout = \"300ms\"".into(),
        ..Plan::default()
    })
    .await
}

async fn asks(device: &Device, version: Version) -> Link {
    let mut link = device.dial().await.expect("a handshake");
    let packet = connect("meter-7", version).encode().expect("fits");
    link.say(&packet).await.expect("sent");
    link
}

/// An address where nobody listens, though nobody else will either: the socket is bound and never listens.
fn nobody() -> (Socket, String) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
    socket.bind(&any.into()).expect("bound");
    let address = socket.local_addr().expect("bound").as_socket().expect("IP");
    (socket, format!("mqtt://{address}"))
}

/// An address that swallows every SYN: its backlog is full and nobody accepts.
async fn swallower() -> (Socket, Vec<Socket>, String) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
    socket.bind(&any.into()).expect("bound");
    socket.listen(0).expect("listen");
    let address = socket.local_addr().expect("bound").as_socket().expect("IP");
    let mut waiting = Vec::new();
    // Fill the queue until one more is not answered.
    while waiting.len() < 64 {
        let caller = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let full = caller
            .connect_timeout(&address.into(), Duration::from_millis(200))
            .is_err();
        waiting.push(caller);
        if full {
            return (socket, waiting, format!("mqtt://{address}"));
        }
    }
    panic!("64 connections fitted into a backlog of 0");
}

#[tokio::test]
async fn a_broker_that_refuses_the_connection_is_temporary_trouble() {
    let (_socket, address) = nobody();
    let gate = gate_to(std::slice::from_ref(&address), "").await;
    for version in Version::ALL {
        let answer = gate.device("meter-7").connects_as("meter-7", version).await;
        assert_eq!(answer, not_now(version), "{version}");
    }
    let line = gate.refusal("broker_away").await;
    assert_eq!(line["device"], "meter-7");
    assert!(
        line["why"].as_str().expect("text").contains(&address),
        "the operator is told which: {line}"
    );
    gate.metric_becomes("tidegate_refusals_total", &[("reason", "broker_away")], 3.0)
        .await;
}

#[tokio::test]
async fn a_broker_without_its_socket_file_is_temporary_trouble() {
    let gate = gate_to(&["unix:///nonexistent/broker.sock".into()], "").await;
    for version in Version::ALL {
        let answer = gate.device("meter-7").connects_as("meter-7", version).await;
        assert_eq!(answer, not_now(version), "{version}");
    }
    gate.refusal("broker_away").await;
}

/// What a broken broker does with a CONNECT.
#[derive(Clone, Copy, Debug)]
enum Does {
    Nothing,
    Resets,
    Closes,
    Says(&'static [u8]),
    SaysAndCloses(&'static [u8]),
}

/// However a broker fails to answer, the device hears 0x03 / 0x88, the operator the reason, and the broker, whichever
/// of the two, one CONNECT in all.
#[tokio::test]
async fn a_broker_that_does_not_answer_well_is_temporary_trouble_and_is_asked_once() {
    use Does::{Closes, Nothing, Resets, Says, SaysAndCloses};
    let cases: [(Does, &str); 15] = [
        // Three in a row that were silent would be a broker that is down.
        (Nothing, "broker_silent"),
        (Says(b"\x20"), "broker_silent"),
        (Resets, "broker_closed"),
        (Says(b"\x20\x03\x00"), "broker_silent"),
        (Closes, "broker_closed"),
        (SaysAndCloses(b"\x20\x02\x00"), "broker_closed"),
        (Says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "broker_garbage"),
        (Says(b"\x00\x00\x00\x00"), "broker_garbage"),
        (Says(b"\xe0\x00"), "broker_garbage"),
        (Says(b"\x30\x03\x00\x01a"), "broker_garbage"),
        (Says(b"\x20\xff\xff\xff\x7f"), "broker_garbage"), // 256 MB announced
        (Says(b"\x20\xff\xff\xff\xff"), "broker_garbage"), // a length that is none
        (Says(b"\x20\x02\x01\x05"), "broker_garbage"),     // a session, and refused
        (Says(b"\x20\x03\x02\x00\x00"), "broker_garbage"), // a reserved flag
        (Says(b"\x20\x00"), "broker_garbage"),
    ];
    let (first, second) = (Broker::start().await, Broker::start().await);
    let address = |broker: &Broker| format!("mqtt://{}", broker.address);
    let gate = gate_to(&[address(&first), address(&second)], "").await;
    gate.metric_becomes("tidegate_broker_up", &[], 2.0).await;
    let device = gate.device("meter-7");
    let mut sent = 0;
    let cases = Version::ALL.map(|version| cases.map(|case| (version, case)));
    for (version, (does, reason)) in cases.into_iter().flatten() {
        let mut link = asks(&device, version).await;
        let mut visit = tokio::select! {
            visit = first.visit() => visit,
            visit = second.visit() => visit,
        };
        match does {
            Nothing | Closes => {}
            Resets => {
                let socket = SockRef::from(&visit.socket.stream);
                socket.set_linger(Some(Duration::ZERO)).expect("a reset");
            }
            Says(bytes) | SaysAndCloses(bytes) => visit.say(bytes).await,
        }
        let kept = match does {
            Resets | Closes | SaysAndCloses(_) => {
                drop(visit);
                None
            }
            _ => Some(visit),
        };
        assert_eq!(link.answer(version).await, not_now(version), "{does:?}");
        assert_eq!(link.packet().await, None, "closed behind it");
        drop(link);
        if let Some(mut visit) = kept {
            assert_eq!(visit.packet().await, None, "the broker is let go");
        }
        sent += 1;
        gate.metric_becomes("tidegate_refusals_total", &[], f64::from(sent))
            .await;
        let line = until("the log line", async || {
            let told = gate.lines("refused");
            (told.len() == sent as usize).then(|| told[sent as usize - 1].clone())
        })
        .await;
        assert_eq!(line["reason"], reason, "{does:?}: {line}");
        assert_eq!(line["level"], "info", "{line}");
    }
    assert_eq!(
        first.visits() + second.visits(),
        sent as usize,
        "a CONNECT that was sent is never sent again"
    );
    let growth = gate.proc_status("VmHWM");
    assert!(
        growth < 200_000,
        "256 MB were announced, not taken: {growth} kB"
    );
}

/// The broker's own verdict is passed on as it was said.
#[tokio::test]
async fn a_refusal_of_the_broker_is_passed_on_in_its_own_words() {
    let gate = hasty_gate().await;
    let device = gate.device("meter-7");
    for version in Version::ALL {
        let codes: &[u8] = match version {
            Version::V5 => &[0x80, 0x87, 0x88, 0x89, 0x8a, 0x97, 0x9f],
            _ => &[1, 2, 3, 4, 5],
        };
        for &code in codes {
            let mut link = asks(&device, version).await;
            let mut visit = gate.broker().visit().await;
            visit.say_connack(code).await;
            assert_eq!(
                link.answer(version).await,
                Answer::Refused(code),
                "{version}"
            );
            assert_eq!(link.packet().await, None);
            drop(link);
            assert_eq!(visit.packet().await, None);
            let line = gate
                .line("closed", |line| {
                    let why = line["why"].as_str().expect("text");
                    line["mqtt_version"] == version.to_string().as_str()
                        && why.contains(&format!("{code:#04x}"))
                })
                .await;
            assert_eq!(line["reason"], "broker_refused");
            assert_eq!(line["client_id_given"], "meter-7");
        }
    }
    assert_eq!(
        gate.metric("tidegate_refusals_total", &[]).await.to_bits(),
        0
    );
}

/// A CONNACK that comes in pieces is still one.
#[tokio::test]
async fn a_connack_may_come_byte_by_byte_with_packets_behind_it() {
    let gate = Gate::start().await;
    let mut link = asks(&gate.device("meter-7"), Version::V5).await;
    let mut visit = gate.broker().visit().await;
    let said = b"\x20\x06\x00\x00\x03\x22\x00\x0a\x30\x04\x00\x01a\x00\x30\x05\x00\x01a\x00b";
    for byte in said {
        visit.say(&[*byte]).await;
    }
    for expected in [&said[..8], &said[8..14], &said[14..]] {
        assert_eq!(link.packet().await.as_deref(), Some(expected));
    }
}

/// All the brokers are tried within `dial_timeout`, one that swallows the attempt, too.
#[tokio::test]
async fn the_next_broker_is_tried_when_one_refuses_or_swallows_the_attempt() {
    let (_bound, refusing) = nobody();
    let (_listening, _waiting, swallowing) = swallower().await;
    let good = Broker::start().await;
    let addresses = [
        refusing.clone(),
        swallowing.clone(),
        format!("mqtt://{}", good.address),
    ];
    let gate = gate_to(&addresses, "dial_timeout = \"900ms\"").await;
    for version in Version::ALL {
        let device = gate.device("meter-7");
        let mut link = device.dial().await.expect("a handshake");
        link.say(&connect("meter-7", version).encode().expect("fits"))
            .await
            .expect("sent");
        let _visit = good.welcome().await;
        assert_eq!(link.answer(version).await, Answer::Admitted, "{version}");
    }
    assert_eq!(good.visits(), 3);
}

#[tokio::test]
async fn brokers_that_all_swallow_the_attempt_are_temporary_trouble() {
    let (_listening, _waiting, swallowing) = swallower().await;
    let gate = gate_to(
        std::slice::from_ref(&swallowing),
        "dial_timeout = \"300ms\"",
    )
    .await;
    for version in Version::ALL {
        let answer = gate.device("meter-7").connects_as("meter-7", version).await;
        assert_eq!(answer, not_now(version), "{version}");
    }
    gate.metric_becomes("tidegate_broker_dials_total", &[("result", "timeout")], 3.0)
        .await;
    let line = gate.refusal("broker_away").await;
    assert!(line["why"].as_str().expect("text").contains(&swallowing));
}

/// A broker may be given by its host name: it is looked up beside the path, and known by the name.
#[tokio::test]
async fn a_broker_is_found_by_its_host_name() {
    let broker = Broker::start().await;
    let address = format!("mqtt://localhost:{}", broker.address.port());
    let gate = gate_to(std::slice::from_ref(&address), "").await;
    let up = [("broker", &*address)];
    gate.metric_becomes("tidegate_broker_up", &up, 1.0).await;
    assert_eq!(gate.admin_get("/readyz").await.0, 200);

    let mut link = asks(&gate.device("meter-7"), Version::V5).await;
    let visit = broker.welcome().await;
    assert_eq!(link.answer(Version::V5).await, Answer::Admitted);
    drop((link, visit));
    let line = gate.line("closed", |_| true).await;
    assert_eq!(line["broker"], *address);
}

/// V2: a device that goes away while the broker thinks takes its place at the broker with it, at once; and is counted.
#[tokio::test]
async fn a_device_that_leaves_before_its_connack_leaves_nothing_behind() {
    let gate = Gate::start().await;
    let device = gate.device("meter-7");
    for version in Version::ALL {
        for by_reset in [false, true] {
            let socket = leaves(&device, version, b"").await;
            let mut visit = gate.broker().visit().await;
            if by_reset {
                socket.set_linger(Some(Duration::ZERO)).expect("a reset");
            }
            drop(socket);
            assert_eq!(visit.packet().await, None, "the broker is let go");
        }
    }
    gate.metric_becomes("tidegate_broker_connections_open", &[], 0.0)
        .await;
    gate.metric_becomes("tidegate_refusals_total", &[("reason", "device_gone")], 6.0)
        .await;
    let line = gate.refusal("device_gone").await;
    assert_eq!(line["device"], "meter-7");
    assert!(
        line["why"]
            .as_str()
            .is_some_and(|why| why.contains("CONNACK"))
    );
}

/// A device that has sent its CONNECT and `more`: the bare socket, to leave by.
async fn leaves(device: &Device, version: Version, more: &[u8]) -> Socket {
    let config = device.config.clone().expect("TLS").into();
    let socket = tokio::net::TcpStream::connect(device.gate)
        .await
        .expect("the gate");
    let connector =
        tokio_rustls::TlsConnector::from(std::sync::Arc::<rustls::ClientConfig>::clone(&config));
    let mut stream = connector
        .connect(device.server_name.clone(), socket)
        .await
        .expect("a handshake");
    let packet = connect("meter-7", version).encode().expect("fits");
    stream
        .write_all(&[&packet[..], more].concat())
        .await
        .expect("sent");
    stream.flush().await.expect("sent");
    let socket = stream.into_inner().0.into_std().expect("a socket");
    Socket::from(socket)
}

/// V2: nor is a broker dialled on for a device that has left.
#[tokio::test]
async fn a_device_that_leaves_while_its_broker_is_dialled_is_let_go() {
    let (_listening, _waiting, swallowing) = swallower().await;
    let gate = gate_to(&[swallowing], "dial_timeout = \"10m\"").await;
    let device = gate.device("meter-7");
    for version in Version::ALL {
        drop(leaves(&device, version, b"").await);
    }
    gate.metric_becomes("tidegate_refusals_total", &[("reason", "device_gone")], 3.0)
        .await;
    let line = gate.refusal("device_gone").await;
    assert!(
        line["why"]
            .as_str()
            .is_some_and(|why| why.contains("took its connection"))
    );
}

/// M3: what a device had said behind its CONNECT before it left reaches the broker all the same.
#[tokio::test]
async fn what_a_device_said_before_it_left_waits_for_the_connack() {
    let gate = Gate::start().await;
    let device = gate.device("meter-7");
    for version in Version::ALL {
        let last = publish(version, "a", b"last");
        let socket = leaves(&device, version, &[&last[..], b"\xe0\x00"].concat()).await;
        drop(socket);
        let mut visit = gate.broker().visit().await;
        visit.say_connack(0).await;
        assert_eq!(visit.packet().await, Some(last), "{version}");
        assert_eq!(
            visit.packet().await,
            Some(b"\xe0\x00".to_vec()),
            "{version}"
        );
        assert_eq!(visit.packet().await, None, "{version}");
    }
}

/// V3, V5: a broker that announces 256 MB once it has taken a device costs what comes, and no more; when it dies in the
/// middle, the device is let go.
#[tokio::test]
async fn a_length_of_256_mb_behind_the_connack_is_not_taken_at_its_word() {
    let gate = Gate::start().await;
    let before = gate.proc_status("VmRSS");
    for version in Version::ALL {
        let mut link = asks(&gate.device("meter-7"), version).await;
        let mut visit = gate.broker().welcome().await;
        assert_eq!(link.answer(version).await, Answer::Admitted);
        let said = [&b"\x30\xff\xff\xff\x7f\x00\x01a"[..], &[0; 300_000]].concat();
        visit.say(&said).await;
        let mut came = std::mem::take(&mut link.stream.buffer);
        while came.len() < said.len() {
            let read = link.stream.stream.read_buf(&mut came);
            assert_ne!(soon("what came so far", read).await.expect("relayed"), 0);
        }
        assert!(came == said, "{version}");
        SockRef::from(&visit.socket.stream)
            .set_linger(Some(Duration::ZERO))
            .expect("a reset");
        drop(visit);
        assert_eq!(link.packet().await, None, "{version}");
    }
    gate.line("closed", |line| line["reason"] == "broker_lost")
        .await;
    gate.metric_becomes("tidegate_connections_open", &[], 0.0)
        .await;
    let grown = gate.proc_status("VmHWM").saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} kB for 256 MB that never came");
}

/// V5: the broker is killed and comes back; the gate notices both by itself.
#[tokio::test]
async fn a_broker_that_comes_back_is_used_again() {
    let mut gate = hasty_gate().await;
    let device = gate.device("meter-7");
    let mut link = asks(&device, Version::V5).await;
    let visit = gate.broker().welcome().await;
    assert_eq!(link.answer(Version::V5).await, Answer::Admitted);

    let address = gate.take_broker().stop();
    drop(visit);
    assert_eq!(link.packet().await, None, "what was linked ends");
    let answer = until("the port to be free", async || {
        let answer = device.connects_as("meter-7", Version::V5).await;
        (answer == not_now(Version::V5)).then_some(answer)
    })
    .await;
    assert_eq!(answer, not_now(Version::V5));

    let broker = Broker::start_at(address).await;
    let mut link = asks(&device, Version::V5).await;
    let _visit = broker.welcome().await;
    assert_eq!(link.answer(Version::V5).await, Answer::Admitted);
}

/// threats.md V5: with all brokers known to be away a few devices a second are told so, and the others cost nothing; each is
/// counted, and when a broker is back they get in.
#[tokio::test]
async fn while_all_brokers_are_away_devices_are_turned_away_before_the_costly_part() {
    const CALLS: usize = 100;
    let mut gate = Gate::plan(Plan {
        broker: "[broker.health]\ninterval = \"100ms\"\n".into(),
        ..Plan::default()
    })
    .await;
    let address = gate.take_broker().stop();
    gate.line("broker_down", |_| true).await;
    let device = gate.device("meter-7");
    let call = async || device.connects_as("meter-7", Version::V311).await;

    let answers = join_all((0..CALLS).map(|_| call())).await;

    let told = answers.iter().filter(|one| **one == not_now(Version::V311));
    let told = told.count();
    let closed = answers.iter().filter(|one| matches!(one, Answer::NoTls(_)));
    assert_eq!(told + closed.count(), CALLS, "{answers:?}");
    assert!((1..CALLS).contains(&told), "{told}");
    #[expect(clippy::cast_precision_loss, reason = "a hundred")]
    let calls = CALLS as f64;
    gate.metric_becomes(
        "tidegate_refusals_total",
        &[("reason", "broker_away")],
        calls,
    )
    .await;

    let broker = Broker::start_at(address).await;
    let _house = broker.welcome_all();
    until("a device to be let in again", async || {
        (call().await == Answer::Admitted).then_some(())
    })
    .await;
}
