//! A device notices no difference between Mosquitto and Mosquitto behind the gate, to the byte (threats.md M3, M6).
//!
//! Two brokers, one behind a gate, hear the same conversations; what they answer must be the same.

use tidegate::mqtt::Version;
use tidegate::mqtt::connect::{Connect, Will};
use tidegate::mqtt::properties::{Id, Properties, Property, Value};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::device::{Stream, connect};
use crate::support::gate::{Gate, Plan};
use crate::support::mosquitto::Mosquitto;
use crate::support::soon;
use crate::support::wire::packet;

/// What a device sends behind its CONNECT.
type Says = Vec<Vec<u8>>;

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("short").to_be_bytes();
    [&length[..], text.as_bytes()].concat()
}

/// The empty property list of MQTT 5.0; nothing before.
fn none(version: Version) -> Vec<u8> {
    match version {
        Version::V5 => vec![0],
        _ => Vec::new(),
    }
}

fn subscribe(version: Version, id: u8, filters: &[(&str, u8)]) -> Vec<u8> {
    let mut body = [vec![0, id], none(version)].concat();
    for (filter, options) in filters {
        body.extend(text(filter));
        body.push(*options);
    }
    packet(0x82, &body)
}

fn unsubscribe(version: Version, id: u8, filter: &str) -> Vec<u8> {
    packet(0xa2, &[vec![0, id], none(version), text(filter)].concat())
}

/// `flags`: DUP, QoS and RETAIN, as in the first byte.
fn publish(version: Version, flags: u8, id: u8, topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut body = text(topic);
    if flags & 6 != 0 {
        body.extend([0, id]);
    }
    body.extend(none(version));
    body.extend(payload);
    packet(0x30 | flags, &body)
}

fn ping() -> Vec<u8> {
    vec![0xc0, 0]
}

fn goodbye() -> Vec<u8> {
    vec![0xe0, 0]
}

/// What devices say as they should.
fn good(version: Version) -> Vec<(&'static str, Says)> {
    let publish = |flags, id, topic, payload: &[u8]| publish(version, flags, id, topic, payload);
    let subscribe = |id, filters: &[(&str, u8)]| subscribe(version, id, filters);
    let (own, all) = ("devices/meter-7/x", "devices/meter-7/#");
    vec![
        ("nothing", vec![goodbye()]),
        ("a ping", vec![ping(), goodbye()]),
        (
            "its own messages",
            vec![
                subscribe(1, &[(all, 0), ("devices/+/y", 1), ("#", 2)]),
                publish(0, 0, own, b"zero"),
                publish(2, 7, own, b"one"),
                publish(4, 8, own, b"two"),
                vec![0x62, 2, 0, 8],
                publish(0, 0, own, &vec![7; 200_000]),
                ping(),
                goodbye(),
            ],
        ),
        (
            "what is retained",
            vec![
                publish(1, 0, own, b"kept"),
                publish(3, 1, "devices/meter-7/y", b"kept, too"),
                subscribe(2, &[(all, 0)]),
                ping(),
                publish(1, 0, own, b""),
                publish(1, 0, "devices/meter-7/y", b""),
                ping(),
                goodbye(),
            ],
        ),
        (
            "a subscription taken back",
            vec![
                subscribe(1, &[(all, 0)]),
                unsubscribe(version, 2, all),
                unsubscribe(version, 3, "never/there"),
                publish(0, 0, own, b"nobody hears"),
                ping(),
                goodbye(),
            ],
        ),
        (
            "another's topics",
            vec![
                subscribe(1, &[("devices/meter-8/#", 0), ("$SYS/#", 0)]),
                publish(0, 0, "devices/meter-8/x", b"forged"),
                publish(0, 0, "$SYS/x", b"forged"),
                ping(),
                goodbye(),
            ],
        ),
        (
            "a pubrel for nothing",
            vec![vec![0x62, 2, 0, 9], ping(), goodbye()],
        ),
        ("an end without goodbye", vec![ping()]),
        ("half a packet", vec![ping(), vec![0x30, 50, 0]]),
        ("bytes behind the goodbye", vec![goodbye(), ping(), ping()]),
        (
            "what a will left",
            vec![subscribe(1, &[(all, 2)]), ping(), goodbye()],
        ),
    ]
}

/// What no device should say. The broker closes with some of it unread, and then what it said last may be lost: it is
/// said to a broker that has little to say.
fn bad(version: Version) -> Vec<(&'static str, Says)> {
    let publish = |flags, id, topic, payload: &[u8]| publish(version, flags, id, topic, payload);
    let subscribe = |id, filters: &[(&str, u8)]| subscribe(version, id, filters);
    let (own, all) = ("devices/meter-7/x", "devices/meter-7/#");
    vec![
        (
            "no filter",
            vec![
                packet(0x82, &[vec![0, 1], none(version)].concat()),
                goodbye(),
            ],
        ),
        (
            "a bad filter",
            vec![subscribe(1, &[("a/#/b", 0)]), goodbye()],
        ),
        (
            "options that are none",
            vec![subscribe(1, &[(all, 3)]), goodbye()],
        ),
        (
            "flags that are none",
            vec![packet(0x80, &[0, 1, 0, 1, b'x', 0]), goodbye()],
        ),
        (
            "QoS 3",
            vec![packet(0x36, &[text(own), vec![0, 1]].concat()), goodbye()],
        ),
        (
            "a topic with a wildcard",
            vec![publish(0, 0, "devices/meter-7/+", b"x"), goodbye()],
        ),
        ("no topic", vec![publish(0, 0, "", b"x"), goodbye()]),
        (
            "a topic that is no text",
            vec![packet(0x30, &[0, 2, 0xc3, 0x28, 0]), goodbye()],
        ),
        (
            "a topic longer than its packet",
            vec![packet(0x30, &[0, 9, b'x']), goodbye()],
        ),
        ("packet id 0", vec![publish(2, 0, own, b"x"), goodbye()]),
        (
            "a ping with a body",
            vec![packet(0xc0, &[1]), ping(), goodbye()],
        ),
    ]
}

/// How a device may ask. Each is asked twice: a session may be there the second time.
fn asks(version: Version) -> Vec<(&'static str, Connect)> {
    let plain = || Connect {
        username: Some("meter-7".into()),
        ..connect("meter-7", version)
    };
    let mut asks = vec![
        ("plainly", plain()),
        (
            "for a session that stays",
            Connect {
                clean_start: false,
                ..plain()
            },
        ),
        ("afresh", plain()),
        (
            "with a will",
            Connect {
                keep_alive: 0,
                will: Some(Will {
                    qos: 1,
                    retain: true,
                    properties: Properties::default(),
                    topic: "devices/meter-7/will".into(),
                    payload: b"gone".to_vec(),
                }),
                ..plain()
            },
        ),
    ];
    if version == Version::V5 {
        let mut with = |what, clean_start, properties: &[(Id, Value)]| {
            let mut asks_for = Connect {
                clean_start,
                ..plain()
            };
            for (id, value) in properties {
                let value = value.clone();
                asks_for.properties.push(Property { id: *id, value });
            }
            asks.push((what, asks_for));
        };
        with(
            "for a session that ends",
            false,
            &[(Id::SessionExpiryInterval, Value::Four(0))],
        );
        with(
            "for one that stays",
            false,
            &[(Id::SessionExpiryInterval, Value::Four(3600))],
        );
        with(
            "for small packets",
            true,
            &[(Id::MaximumPacketSize, Value::Four(128))],
        );
        with(
            "for one at a time",
            true,
            &[
                (Id::ReceiveMaximum, Value::Two(1)),
                (Id::TopicAliasMaximum, Value::Two(3)),
                (Id::RequestProblemInformation, Value::Byte(0)),
                (Id::RequestResponseInformation, Value::Byte(1)),
                (Id::UserProperty, Value::Pair("a".into(), "b".into())),
            ],
        );
    }
    asks
}

/// Says everything, at once or byte by byte, closes its side, and reads to the end.
async fn talk(mut stream: impl Stream, asks: &Connect, says: &Says, dribble: bool) -> Vec<u8> {
    let bytes = [asks.encode().expect("fits"), says.concat()].concat();
    let mut heard = Vec::new();
    soon("the end of the conversation", async {
        let (mut from, mut to) = tokio::io::split(&mut stream);
        let write = async {
            let pieces = if dribble { 1 } else { bytes.len() };
            for piece in bytes.chunks(pieces) {
                // A broker that has had enough may close before it has heard everything.
                if to.write_all(piece).await.is_err() || to.flush().await.is_err() {
                    return;
                }
            }
            let _ = to.shutdown().await;
        };
        let read = async {
            let _ = from.read_to_end(&mut heard).await;
        };
        tokio::join!(write, read);
    })
    .await;
    heard
}

/// Two Mosquittos and a gate before one of them.
struct Pair {
    direct: Mosquitto,
    // Behind the gate.
    _hidden: Mosquitto,
    gate: Gate,
}

impl Pair {
    async fn start() -> Self {
        let (direct, hidden) = (Mosquitto::start().await, Mosquitto::start().await);
        let gate = Gate::plan(Plan {
            addresses: Some(format!("[\"{}\"]", hidden.address())),
            ..Plan::default()
        })
        .await;
        Self {
            direct,
            _hidden: hidden,
            gate,
        }
    }

    /// Has the conversation with both brokers.
    async fn talk(&self, asks: &Connect, says: &Says, dribble: bool) -> (Vec<u8>, Vec<u8>) {
        let address = self.direct.address().replace("mqtt://", "");
        let socket = TcpStream::connect(address).await.expect("Mosquitto");
        socket.set_nodelay(true).expect("set");
        let direct = talk(socket, asks, says, dribble).await;
        let link = self.gate.device("meter-7").dial().await.expect("a gate");
        (direct, talk(link.stream.stream, asks, says, dribble).await)
    }
}

#[tokio::test]
async fn every_conversation_is_answered_as_by_mosquitto_itself() {
    let pair = Pair::start().await;
    for version in Version::ALL {
        let asks = &asks(version)[0].1;
        for (what, says) in good(version).into_iter().chain(bad(version)) {
            let (direct, gated) = pair.talk(asks, &says, false).await;
            assert_eq!(gated, direct, "{version}, {what}");
            let least = match what {
                "its own messages" => 200_000,
                _ => 4, // the CONNACK
            };
            assert!(direct.len() >= least, "{version}, {what}: {direct:?}");
        }
    }
}

#[tokio::test]
async fn a_conversation_byte_by_byte_is_answered_as_by_mosquitto_itself() {
    let pair = Pair::start().await;
    for version in Version::ALL {
        let asks = &asks(version)[0].1;
        for (what, says) in good(version).into_iter().chain(bad(version)) {
            if says.concat().len() < 1000 {
                let (direct, gated) = pair.talk(asks, &says, true).await;
                assert_eq!(gated, direct, "{version}, {what}");
            }
        }
    }
}

#[tokio::test]
async fn however_a_device_asks_it_is_answered_as_by_mosquitto_itself() {
    let pair = Pair::start().await;
    for version in Version::ALL {
        for (how, asks) in asks(version) {
            for _ in 0..2 {
                for (what, says) in good(version) {
                    let (direct, gated) = pair.talk(&asks, &says, false).await;
                    assert_eq!(gated, direct, "{version}, asks {how}, {what}");
                }
            }
        }
    }
}
