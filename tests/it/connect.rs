//! CONNECT through a running gate: the broker sees what the gate understood, to the byte; what is malformed gets the
//! answer that the standard wants and reaches no broker (threats.md I1, M1 to M4, V2).

use std::io;
use std::time::Duration;

use rustls::version::TLS13;
use tidegate::mqtt::Version;
use tidegate::mqtt::connect::Password;
use tidegate::mqtt::properties::{Id, Property, Value};
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;

use crate::relay::ByHand;
use crate::support::broker::{Visit, publish};
use crate::support::device::{Answer, Device, Link, connect};
use crate::support::gate::{Gate, Plan};
use crate::support::soon;
use crate::support::wire::packet;

/// A gate whose `[limits]` and further sections are these.
async fn gate(limits: &str, more: &str) -> Gate {
    Gate::plan(Plan {
        limits: limits.into(),
        more: more.into(),
        ..Plan::default()
    })
    .await
}

/// Sends `bytes` in one piece; gives the link.
async fn say(device: &Device, bytes: &[u8]) -> Link {
    let mut link = device.dial().await.expect("a handshake");
    link.say(bytes).await.expect("sent");
    link
}

/// What meter-7 sends, and what a broker that admits it has heard.
async fn heard(gate: &Gate, bytes: &[u8]) -> (Link, Visit) {
    let link = say(&gate.device("meter-7"), bytes).await;
    (link, gate.broker().welcome().await)
}

/// Everything that the gate says until it closes.
async fn until_closed(link: &mut Link) -> Vec<u8> {
    let mut said = std::mem::take(&mut link.stream.buffer);
    let end = soon(
        "the gate to close",
        link.stream.stream.read_to_end(&mut said),
    )
    .await;
    end.expect("a close that the device understands");
    said
}

/// A length-prefixed field.
fn field(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("at most 65 535");
    [&length.to_be_bytes(), bytes].concat()
}

/// M2: each line of the table gets its answer and is counted once; no broker hears of any.
#[tokio::test]
async fn what_is_malformed_gets_its_answer_and_reaches_no_broker() {
    let gate = Gate::start().await;
    let device = gate.device("meter-7");
    let table = include_str!("../data/malformed_connects.txt");
    let lines: Vec<_> = table
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    assert!(lines.len() >= 60, "{} lines", lines.len());

    let mut asking = JoinSet::new();
    for line in &lines {
        let device = device.clone();
        let parts: Vec<_> = line.splitn(3, " | ").map(str::to_owned).collect();
        asking.spawn(async move {
            let mut link = say(&device, &hex::decode(&parts[0]).expect("hex")).await;
            let said = until_closed(&mut link).await;
            let expected = match parts[1].split_once(' ') {
                None => Vec::new(),
                Some((version, code)) => {
                    let code = u8::from_str_radix(&code[2..], 16).expect("a code");
                    match version {
                        "5.0" => vec![0x20, 3, 0, code, 0],
                        _ => vec![0x20, 2, 0, code],
                    }
                }
            };
            assert_eq!(said, expected, "{}", parts[2]);
        });
        while asking.len() >= 8 {
            asking.join_next().await.expect("some").expect("its answer");
        }
    }
    while let Some(answered) = asking.join_next().await {
        answered.expect("its answer");
    }

    #[expect(clippy::cast_precision_loss, reason = "some hundreds")]
    let count = lines.len() as f64;
    gate.metric_becomes("tidegate_refusals_total", &[], count)
        .await;
    gate.metric_becomes("tidegate_connections_open", &[], 0.0)
        .await;
    assert_eq!(gate.broker().visits(), 0);
    let dialled = gate.metric("tidegate_broker_dials_total", &[]).await;
    assert!(dialled < 0.5, "no broker was dialled, yet {dialled} were");
}

/// M1: nothing but client id, user name and password is changed.
#[tokio::test]
async fn the_broker_sees_to_the_byte_what_the_gate_does_not_mean_to_change() {
    let gate = Gate::start().await;
    let cases: [(&str, &[u8], &[u8]); 8] = [
        (
            "3.1, clean",
            b"\x10\x10\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x02m9",
            b"\x10\x1e\x00\x06MQIsdp\x03\x82\x00\x3c\x00\x07meter-7\x00\x07meter-7",
        ),
        (
            "3.1, a retained will of QoS 1, user name and password, session kept",
            b"\x10\x27\x00\x06MQIsdp\x03\xec\x02\x58\x00\x02m9\x00\x03a/b\x00\x04gone\x00\x04user\x00\x04pass",
            b"\x10\x29\x00\x06MQIsdp\x03\xac\x02\x58\x00\x07meter-7\x00\x03a/b\x00\x04gone\x00\x07meter-7",
        ),
        (
            "3.1.1, clean, an empty client id, no keep alive",
            b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00",
            b"\x10\x1c\x00\x04MQTT\x04\x82\x00\x00\x00\x07meter-7\x00\x07meter-7",
        ),
        (
            "3.1.1, a will of QoS 2 whose payload is empty, session kept, keep alive 65535",
            b"\x10\x13\x00\x04MQTT\x04\x14\xff\xff\x00\x02m9\x00\x01t\x00\x00",
            b"\x10\x21\x00\x04MQTT\x04\x94\xff\xff\x00\x07meter-7\x00\x01t\x00\x00\x00\x07meter-7",
        ),
        (
            "3.1.1, a will whose payload is no text",
            b"\x10\x15\x00\x04MQTT\x04\x06\x00\x3c\x00\x02m9\x00\x01t\x00\x02\xff\x00",
            b"\x10\x23\x00\x04MQTT\x04\x86\x00\x3c\x00\x07meter-7\x00\x01t\x00\x02\xff\x00\x00\x07meter-7",
        ),
        (
            "5.0, nothing but what must be",
            b"\x10\x0f\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x02m9",
            b"\x10\x1d\x00\x04MQTT\x05\x82\x00\x3c\x00\x00\x07meter-7\x00\x07meter-7",
        ),
        (
            "5.0, every property that may be there, highest identifier first, user properties among them",
            b"\x10\x37\x00\x04MQTT\x05\x00\x00\x0a\x28\x27\x00\x01\x00\x00\x26\x00\x01b\x00\x012\x22\x00\x05\x26\x00\x01a\x00\x011\x21\x00\x0a\x19\x01\x17\x00\x11\xff\xff\xff\xff\x26\x00\x01b\x00\x00\x00\x02m9",
            b"\x10\x45\x00\x04MQTT\x05\x80\x00\x0a\x28\x27\x00\x01\x00\x00\x26\x00\x01b\x00\x012\x22\x00\x05\x26\x00\x01a\x00\x011\x21\x00\x0a\x19\x01\x17\x00\x11\xff\xff\xff\xff\x26\x00\x01b\x00\x00\x00\x07meter-7\x00\x07meter-7",
        ),
        (
            "5.0, a will with every property of its own in odd order; a password without a user name goes",
            b"\x10\x44\x00\x04MQTT\x05\x74\x00\x3c\x03\x21\x00\x02\x00\x02m9\x27\x26\x00\x01k\x00\x01v\x18\x00\x00\x00\x1e\x09\x00\x02\x00\xff\x08\x00\x01r\x03\x00\x01c\x02\x00\x00\x0e\x10\x01\x01\x26\x00\x01k\x00\x01w\x00\x01t\x00\x01p\x00\x02pw",
            b"\x10\x4e\x00\x04MQTT\x05\xb4\x00\x3c\x03\x21\x00\x02\x00\x07meter-7\x27\x26\x00\x01k\x00\x01v\x18\x00\x00\x00\x1e\x09\x00\x02\x00\xff\x08\x00\x01r\x03\x00\x01c\x02\x00\x00\x0e\x10\x01\x01\x26\x00\x01k\x00\x01w\x00\x01t\x00\x01p\x00\x07meter-7",
        ),
    ];
    for (what, sent, expected) in cases {
        let (mut link, visit) = heard(&gate, sent).await;
        assert_eq!(visit.packet, expected, "{what}");
        assert_eq!(link.answer(visit.version()).await, Answer::Admitted);
    }
}

/// M1: where a length takes one more byte to spell, before the rewrite or behind it.
#[tokio::test]
async fn lengths_at_their_edges_are_rewritten_exactly() {
    let gate = gate("connect_bytes = \"256KiB\"", "").await;
    let versions: [(&[u8], &[u8]); 3] = [
        (b"\x00\x06MQIsdp\x03", b""),
        (b"\x00\x04MQTT\x04", b""),
        (b"\x00\x04MQTT\x05", b"\x00"),
    ];
    let id = field(b"meter-7");
    for (opening, properties) in versions {
        let sent = |payload: usize| {
            let payload = field(&vec![b'x'; payload]);
            let body = [opening, b"\x06\x00\x3c", properties, b"\x00\x01m"];
            [&body.concat(), properties, b"\x00\x01t", &payload].concat()
        };
        let expected = |payload: usize| {
            let payload = field(&vec![b'x'; payload]);
            let body = [opening, b"\x86\x00\x3c", properties, &id].concat();
            [&body, properties, b"\x00\x01t", &payload, &id].concat()
        };
        let (before, behind) = (sent(0).len(), expected(0).len());
        for edge in [127, 128, 16_383, 16_384, 65_535 + before, 65_535 + behind] {
            for payload in [edge - before, edge.saturating_sub(behind)] {
                let payload = payload.min(65_535);
                let (_link, visit) = heard(&gate, &packet(0x10, &sent(payload))).await;
                assert!(
                    visit.packet == packet(0x10, &expected(payload)),
                    "{} with a payload of {payload}",
                    visit.version()
                );
            }
        }
    }
}

/// M1: no field is cut at any length that MQTT can spell.
#[tokio::test]
async fn fields_of_65535_bytes_go_through() {
    let gate = gate(
        "connect_bytes = \"1MiB\"",
        "[connect]\npassword = \"{password}\"\n",
    )
    .await;
    for version in Version::ALL {
        let long = "é".repeat(32_767) + "x";
        assert_eq!(long.len(), 65_535);
        let mut asks = connect(&long, version);
        asks.username = Some(long.clone());
        asks.password = Some(Password::new(vec![0xff; 65_535]));
        asks.will = Some(tidegate::mqtt::connect::Will {
            qos: 1,
            retain: true,
            properties: tidegate::mqtt::properties::Properties::default(),
            topic: long.clone(),
            payload: vec![0; 65_535],
        });
        if version == Version::V5 {
            asks.properties.push(Property {
                id: Id::UserProperty,
                value: Value::Pair(long.clone(), long.clone()),
            });
        }
        let (_link, visit) = heard(&gate, &asks.encode().expect("it fits")).await;
        asks.client_id = "meter-7".into();
        asks.username = Some("meter-7".into());
        assert!(visit.connect == asks, "{version}");
        assert!(visit.packet == asks.encode().expect("it fits"), "{version}");
    }
}

/// The password that the broker is told is the operator's choice: none, the device's own, or one for all.
#[tokio::test]
async fn the_broker_is_told_the_password_that_the_operator_chose() {
    let own = || Some(Password::new(b"my-0wn\0\xff".to_vec()));
    let rules = [
        ("", None, None),
        ("password = \"\"", None, None),
        ("password = \"{password}\"", own(), None),
        (
            "password_file = \"broker.secret\"",
            Some(Password::new(b"s3cret".to_vec())),
            Some(Password::new(b"s3cret".to_vec())),
        ),
    ];
    for (rule, with_one, without) in rules {
        let gate = Gate::plan(Plan {
            more: format!("[connect]\n{rule}\n"),
            files: vec![("broker.secret".into(), b"s3cret\n".to_vec())],
            ..Plan::default()
        })
        .await;
        for version in Version::ALL {
            let mut asks = connect("meter-7", version);
            asks.username = Some("user".into());
            asks.password = own();
            let (_link, visit) = heard(&gate, &asks.encode().expect("fits")).await;
            assert_eq!(visit.connect.username.as_deref(), Some("meter-7"));
            assert!(visit.connect.password == with_one, "{rule:?}, {version}");

            asks.username = None;
            asks.password = None;
            let (_link, visit) = heard(&gate, &asks.encode().expect("fits")).await;
            assert!(visit.connect.password == without, "{rule:?}, {version}");
        }
        let secrets = ["s3cret", "my-0wn"];
        let told = gate.log_text() + &gate.metrics().await;
        assert!(secrets.iter().all(|secret| !told.contains(secret)), "K2");
    }
}

/// MQTT 5.0 §4.12: Bad authentication method; the gate speaks for the device and cannot answer challenges.
#[tokio::test]
async fn enhanced_authentication_is_refused() {
    let gate = Gate::start().await;
    let mut asks = connect("meter-7", Version::V5);
    asks.properties.push(Property {
        id: Id::AuthenticationMethod,
        value: Value::Text("SCRAM-SHA-1".into()),
    });
    let mut link = say(&gate.device("meter-7"), &asks.encode().expect("fits")).await;

    assert_eq!(until_closed(&mut link).await, [0x20, 3, 0, 0x8c, 0]);
    gate.refusal("enhanced_authentication").await;
    assert_eq!(gate.broker().visits(), 0);
}

/// T3: a device whose TLS breaks before its CONNECT is whole did not just go away: the alert, or the rule, is told.
#[tokio::test]
async fn tls_that_breaks_before_the_connect_is_told_by_its_alert_or_its_rule() {
    const ALERT: u8 = 21;
    let gate = Gate::start().await;
    let device = gate.device_over("meter-7", &[&TLS13]);
    let broken = b"\x17\x03\x03\x00\x12 not what was said";
    for (reason, why, record) in [
        ("server_refused", "BadCertificate", None),
        ("tls_fault", "decrypt", Some(&broken[..])),
    ] {
        let mut hand = ByHand::dial(&device).await;
        let front = hand.record(23, b"\x10"); // a CONNECT has begun
        let alert = hand.record(ALERT, &[2, 42]); // fatal, bad_certificate
        hand.say(&[&front, record.unwrap_or(&alert)].concat(), usize::MAX)
            .await;
        let line = gate.refusal(reason).await;
        let told = line["why"].as_str().expect("a sentence");
        assert!(told.contains(why), "{told}");
        assert_eq!(line["certificate_subject"], "CN=meter-7");
    }
}

/// `limits.connect_bytes` counts the whole packet; one byte more is too many, and is not waited for.
#[tokio::test]
async fn a_connect_above_the_cap_is_turned_away_and_one_at_the_cap_is_not() {
    let gate = gate("connect_bytes = 512", "").await;
    let device = gate.device("meter-7");
    for version in Version::ALL {
        let sized = |size: usize| {
            let mut asks = connect("meter-7", version);
            asks.username = Some(String::new());
            let least = asks.encode().expect("fits").len() + 1; // the second byte of the length
            asks.username = Some("u".repeat(size - least));
            let packet = asks.encode().expect("fits");
            assert_eq!(packet.len(), size);
            packet
        };
        let mut link = say(&device, &sized(512)).await;
        gate.broker().welcome().await;
        assert_eq!(link.answer(version).await, Answer::Admitted, "{version}");

        let expected: &[u8] = match version {
            Version::V5 => &[0x20, 3, 0, 0x95, 0],
            _ => &[],
        };
        let whole = sized(513);
        for sent in [&whole[..], &whole[..12]] {
            let mut link = say(&device, sent).await;
            assert_eq!(until_closed(&mut link).await, expected, "{version}");
        }
    }
    gate.metric_becomes(
        "tidegate_refusals_total",
        &[("reason", "connect_too_large")],
        6.0,
    )
    .await;
    assert_eq!(gate.broker().visits(), 3);
}

/// V2: who says nothing is not waited for.
#[tokio::test]
async fn a_silent_device_is_closed_after_connect_timeout() {
    let gate = gate("connect_timeout = \"300ms\"", "").await;
    let mut link = gate.device("meter-7").dial().await.expect("a handshake");

    assert_eq!(until_closed(&mut link).await, b"");
    let line = gate.refusal("connect_timeout").await;
    assert!(line.get("device").is_none(), "nobody asked: {line}");
    assert_eq!(gate.broker().visits(), 0);
}

/// V2: the deadline is absolute. This device would go on for longer than any test waits.
#[tokio::test]
async fn bytes_that_trickle_in_do_not_push_the_connect_deadline_back() {
    let gate = gate("connect_timeout = \"300ms\"", "").await;
    for version in Version::ALL {
        let mut asks = connect("meter-7", version);
        asks.username = Some("u".repeat(16_000));
        let packet = asks.encode().expect("fits");
        let mut link = gate.device("meter-7").dial().await.expect("a handshake");
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        let mut said = Vec::new();
        soon("the gate to lose its patience", async {
            for byte in &packet {
                tokio::select! {
                    read = link.stream.stream.read_buf(&mut said) => {
                        assert!(matches!(read, Ok(0)), "closed without a word, not {read:?}: {said:02x?}");
                        return;
                    }
                    _ = pace.tick() => {}
                }
                link.say(&[*byte]).await.expect("the gate still listens");
            }
            panic!("a CONNECT that took minutes was taken");
        })
        .await;
    }
    gate.metric_becomes(
        "tidegate_refusals_total",
        &[("reason", "connect_timeout")],
        3.0,
    )
    .await;
    assert_eq!(gate.broker().visits(), 0);
}

#[tokio::test]
async fn a_connect_that_comes_byte_by_byte_is_admitted() {
    let gate = Gate::start().await;
    for version in Version::ALL {
        let device = gate.device("meter-7");
        let mut link = device.dial().await.expect("a handshake");
        for byte in connect("meter-7", version).encode().expect("fits") {
            link.say(&[byte]).await.expect("sent"); // a TLS record each
        }
        let visit = gate.broker().welcome().await;
        assert_eq!(visit.connect.client_id, "meter-7");
        assert_eq!(link.answer(version).await, Answer::Admitted, "{version}");
    }
}

/// A SUBSCRIBE to `a`, packet identifier 1.
fn subscribe(version: Version) -> &'static [u8] {
    match version {
        Version::V5 => b"\x82\x07\x00\x01\x00\x00\x01a\x00",
        _ => b"\x82\x06\x00\x01\x00\x01a\x00",
    }
}

/// M3: a device need not wait for its CONNACK (MQTT 3.1.1 §3.1.4, MQTT 5.0 §3.1.4); the broker is not told before.
#[tokio::test]
async fn what_comes_with_the_connect_is_delivered_in_order_after_the_connack() {
    let gate = Gate::start().await;
    for version in Version::ALL {
        let said = [
            connect("meter-7", version).encode().expect("fits"),
            subscribe(version).to_vec(),
            publish(version, "a", b"1"),
            publish(version, "a", b"2"),
        ];
        let mut link = say(&gate.device("meter-7"), &said.concat()).await;

        let mut visit = gate.broker().visit().await;
        let mut early = [0];
        let came = visit.socket.stream.try_read(&mut early);
        assert_eq!(visit.socket.buffer, b"", "{version}");
        assert_eq!(
            came.expect_err("only the CONNECT").kind(),
            io::ErrorKind::WouldBlock
        );
        visit.say_connack(0).await;

        assert_eq!(link.answer(version).await, Answer::Admitted);
        for expected in &said[1..] {
            assert_eq!(visit.packet().await.as_ref(), Some(expected), "{version}");
        }
    }
}

/// M3: a half packet behind the CONNECT is no exception.
#[tokio::test]
async fn a_packet_begun_with_the_connect_is_delivered_when_it_is_finished() {
    let gate = Gate::start().await;
    let publish = publish(Version::V5, "a", &[b'x'; 300]);
    for cut in [1, 2, 3, 100] {
        let said = [
            &connect("meter-7", Version::V5).encode().expect("fits"),
            &publish[..cut],
        ];
        let mut link = say(&gate.device("meter-7"), &said.concat()).await;
        let mut visit = gate.broker().welcome().await;
        assert_eq!(link.answer(Version::V5).await, Answer::Admitted);
        link.say(&publish[cut..]).await.expect("sent");
        assert_eq!(
            visit.packet().await.as_ref(),
            Some(&publish),
            "cut at {cut}"
        );
    }
}

/// M3: what came with a CONNECT that is refused goes nowhere, whoever refused it.
#[tokio::test]
async fn what_comes_with_a_refused_connect_is_discarded() {
    let gate = gate("", "[connect]\nasked_client_id = \"device\"\n").await;
    let device = gate.device("meter-7");
    for version in Version::ALL {
        let said = |client_id| {
            let connect = connect(client_id, version).encode().expect("fits");
            [&connect, subscribe(version), &publish(version, "a", b"1")].concat()
        };
        let visits = gate.broker().visits();
        let mut link = say(&device, &said("meter-8")).await;
        let ours = until_closed(&mut link).await;
        assert_eq!(gate.broker().visits(), visits, "the gate refused it");

        let mut link = say(&device, &said("meter-7")).await;
        let mut visit = gate.broker().visit().await;
        let theirs = match version {
            Version::V5 => 0x87,
            _ => 0x05,
        };
        visit.say_connack(theirs).await;
        assert_eq!(visit.packet().await, None, "the broker refused it");
        let brokers = until_closed(&mut link).await;
        match version {
            Version::V5 => {
                assert_eq!(ours, [0x20, 3, 0, 0x85, 0]);
                assert_eq!(brokers, [0x20, 3, 0, 0x87, 0]);
            }
            _ => {
                assert_eq!(ours, [0x20, 2, 0, 0x02], "{version}");
                assert_eq!(brokers, [0x20, 2, 0, 0x05], "{version}");
            }
        }
    }
}

/// A CONNECT of MQTT 5.0 whose sender takes packets of at most `most` bytes.
fn with_maximum_packet(client_id: &str, most: u32) -> Vec<u8> {
    let mut asks = connect(client_id, Version::V5);
    asks.properties.push(Property {
        id: Id::MaximumPacketSize,
        value: Value::Four(most),
    });
    asks.encode().expect("fits")
}

/// M4: a CONNACK of ours is never larger than the device's Maximum Packet Size; if it must be, there is none.
#[tokio::test]
async fn a_refusal_is_told_only_to_a_device_that_can_take_it() {
    let gate = gate("", "[connect]\nasked_client_id = \"device\"\n").await;
    for (most, expected) in [(5, &[0x20, 3, 0, 0x85, 0][..]), (4, &[])] {
        let device = gate.device("meter-7");
        let mut link = say(&device, &with_maximum_packet("meter-8", most)).await;
        assert_eq!(until_closed(&mut link).await, expected, "at most {most}");
    }
}

/// M1, M5: the broker's CONNACK reaches the device to the byte, but for what would lead it round the gate.
#[tokio::test]
async fn the_brokers_connack_reaches_the_device_to_the_byte_but_for_a_server_reference() {
    let gate = Gate::start().await;
    // Properties in no order at all; user properties may come again and again.
    let many = b"\x24\x01\x26\x00\x01k\x00\x01v\x13\x00\x1e\x21\x00\x14\x26\x00\x01k\x00\x00\x25\x00\x27\x00\x01\x00\x00\x1f\x00\x02hi\x22\x00\x0a\x28\x01\x29\x00\x2a\x01\x11\x00\x00\x00\x3c\x1a\x00\x01r";
    let length = u8::try_from(many.len()).expect("short");
    let everything = packet(0x20, &[&[1, 0, length], &many[..]].concat());
    let cases: [(&[u8], &[u8]); 5] = [
        (b"\x20\x03\x00\x00\x00", b"\x20\x03\x00\x00\x00"),
        (&everything, &everything),
        (b"\x20\x0e\x00\x00\x0b\x1c\x00\x04evil\x22\x00\x05\x24", b""),
        (
            b"\x20\x0e\x00\x9d\x0b\x22\x00\x05\x1c\x00\x05other",
            b"\x20\x06\x00\x9d\x03\x22\x00\x05",
        ),
        (
            b"\x20\x0a\x00\x9c\x07\x1c\x00\x04evil",
            b"\x20\x03\x00\x9c\x00",
        ),
    ];
    for (said, expected) in cases {
        let sent = connect("meter-7", Version::V5).encode().expect("fits");
        let mut link = say(&gate.device("meter-7"), &sent).await;
        let mut visit = gate.broker().visit().await;
        visit.say(said).await;
        if expected.is_empty() {
            // Malformed: a property cut short. Temporary trouble, in the gate's own words.
            assert_eq!(until_closed(&mut link).await, [0x20, 3, 0, 0x88, 0]);
        } else {
            assert_eq!(link.packet().await.as_deref(), Some(expected));
        }
    }
    for (version, said) in [
        (Version::V31, b"\x20\x02\x00\x00"),
        (Version::V311, b"\x20\x02\x01\x00"),
    ] {
        let sent = connect("meter-7", version).encode().expect("fits");
        let mut link = say(&gate.device("meter-7"), &sent).await;
        gate.broker().visit().await.say(said).await;
        assert_eq!(link.packet().await.as_deref(), Some(&said[..]), "{version}");
    }
}

/// MQTT 5.0 §3.2.2.3.7: whoever sent no client id is told the one it got, behind the broker's own properties; a broker
/// that tells one, too, does not make it two. Nobody else is told anything.
#[tokio::test]
async fn an_assigned_client_identifier_is_the_gates() {
    let gate = Gate::start().await;
    let cases: [(&str, &[u8], &[u8]); 4] = [
        (
            "",
            b"\x20\x06\x00\x00\x03\x22\x00\x0a",
            b"\x20\x10\x00\x00\x0d\x22\x00\x0a\x12\x00\x07meter-7",
        ),
        (
            "",
            b"\x20\x0a\x01\x00\x07\x12\x00\x04auto",
            b"\x20\x0d\x01\x00\x0a\x12\x00\x07meter-7",
        ),
        (
            "meter-9",
            b"\x20\x0a\x00\x00\x07\x12\x00\x04auto",
            b"\x20\x03\x00\x00\x00",
        ),
        ("", b"\x20\x03\x00\x97\x00", b"\x20\x03\x00\x97\x00"),
    ];
    for (asked, said, expected) in cases {
        let sent = connect(asked, Version::V5).encode().expect("fits");
        let mut link = say(&gate.device("meter-7"), &sent).await;
        gate.broker().visit().await.say(said).await;
        assert_eq!(
            link.packet().await.as_deref(),
            Some(expected),
            "{asked:?}: {said:02x?}"
        );
    }
}

/// M4: with the client id it got, a CONNACK may be too large for its device: then it goes without what may be left
/// out (MQTT 5.0 §3.2.2.3.9, §3.2.2.3.10) ...
#[tokio::test]
async fn a_corrected_connack_keeps_within_the_devices_maximum_packet_size() {
    let gate = Gate::start().await;
    let said = b"\x20\x14\x00\x00\x11\x1f\x00\x02hi\x26\x00\x01k\x00\x01v\x22\x00\x0a\x24\x00";
    let sent = with_maximum_packet("", 24);
    let mut link = say(&gate.device("meter-7"), &sent).await;
    gate.broker().visit().await.say(said).await;
    assert_eq!(
        link.packet().await.as_deref(),
        Some(&b"\x20\x12\x00\x00\x0f\x22\x00\x0a\x24\x00\x12\x00\x07meter-7"[..])
    );
}

/// M4: ... and with the broker's other properties it may be too large even so: then the device is not sent it.
#[tokio::test]
async fn a_connack_that_cannot_be_made_to_fit_is_not_sent() {
    let gate = Gate::start().await;
    // Response Information (MQTT 5.0 §3.2.2.3.15) is the broker's to say.
    let said = b"\x20\x0d\x00\x00\x0a\x1a\x00\x07answers";
    for (client_id, most, expected) in [
        (
            "",
            25,
            &b"\x20\x17\x00\x00\x14\x1a\x00\x07answers\x12\x00\x07meter-7"[..],
        ),
        ("", 24, &[0x20, 3, 0, 0x95, 0]),
        ("meter-7", 15, said),
        ("meter-7", 14, &[0x20, 3, 0, 0x95, 0]),
    ] {
        let sent = with_maximum_packet(client_id, most);
        let mut link = say(&gate.device("meter-7"), &sent).await;
        let mut visit = gate.broker().visit().await;
        visit.say(said).await;
        assert_eq!(link.packet().await.as_deref(), Some(expected), "{most}");
        if expected[3] == 0x95 {
            assert_eq!(link.packet().await, None);
            assert_eq!(visit.packet().await, None, "the broker is told, too");
        }
    }
    let line = gate.refusal("rewrite_too_long").await;
    assert_eq!(line["device"], "meter-7");
    assert!(line["broker"].is_string(), "{line}");
}

/// M4: ... and a device that could not be told its client id at all is refused before a broker hears of it.
#[tokio::test]
async fn a_device_that_cannot_be_told_its_client_id_is_refused() {
    let gate = Gate::start().await;
    let device = gate.device("meter-7");
    let mut link = say(&device, &with_maximum_packet("", 14)).await;
    assert_eq!(until_closed(&mut link).await, [0x20, 3, 0, 0x95, 0]);
    let line = gate.refusal("rewrite_too_long").await;
    assert_eq!(line["device"], "meter-7");
    assert_eq!(gate.broker().visits(), 0);

    let (mut link, _visit) = heard(&gate, &with_maximum_packet("", 15)).await;
    let told = b"\x20\x0d\x00\x00\x0a\x12\x00\x07meter-7";
    assert_eq!(link.packet().await.as_deref(), Some(&told[..]));
}
