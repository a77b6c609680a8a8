//! The pure parts of the path and a look into the registry's memory, one at a time: what each adds to a connection or to a relayed byte.
//!
//! ```text
//! cargo bench --bench pure
//! cargo bench --bench pure -- connect/decode
//! ```

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::FutureExt as _;
use tidegate::mqtt::Version;
use tidegate::mqtt::connect::{Connect, Password as MqttPassword, Will};
use tidegate::mqtt::framing::{Framer, From};
use tidegate::mqtt::properties::{Id, Properties, Property, Value};
use tidegate::pki::Authority;
use tidegate::registry::directory::{Directory, Found, Whom};
use tidegate::registry::{Registry, Settings, StoreSettings};
use tidegate::rules::device::{Alphabet, DeviceId, Mode};
use tidegate::rules::identity::{Certificate, Field, Naming, Pattern};
use tidegate::rules::policy::{
    AskedClientId, Caller, ConnectSettings, Credential, Password, Shown, Standing, Tokens, claim,
    decide,
};
use tidegate::rules::record::{Proof, Record, Valid};
use tidegate::rules::template::{Facts, Template, Use};
use tidegate::rules::token::{Token, TokenKey};

criterion_group!(
    pure, connect, framer, identity, template, verdict, token, look_up
);
criterion_main!(pure);

const DEVICE: &str = "meter-0123456789";
const IP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

fn connect(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("connect");
    for (name, model) in [("3.1.1", plain_connect()), ("5.0", full_connect())] {
        let packet = model.encode().expect("it fits");
        group.bench_function(BenchmarkId::new("decode", name), |b| {
            b.iter(|| Connect::decode(black_box(&packet)).expect("a good one"));
        });
        group.bench_function(BenchmarkId::new("encode", name), |b| {
            b.iter(|| black_box(&model).encode().expect("it fits"));
        });
    }
    group.finish();
}

/// Follows 64 KiB of QoS 0 messages, in the pieces of 16 KiB that a relay reads.
fn framer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("framer");
    for (name, payload) in [("64 B", 64), ("1 KB", 1024), ("16 KB", 16 * 1024)] {
        let message = publish(payload);
        let stream = message.repeat((64 * 1024_usize).div_ceil(message.len()));
        group.throughput(Throughput::Bytes(stream.len() as u64));
        group.bench_function(name, |b| {
            let mut framer = Framer::new(From::Device, Version::V311);
            b.iter(|| {
                for piece in black_box(&stream).chunks(16 * 1024) {
                    assert_eq!(framer.walk(piece).stop, None);
                }
            });
            assert!(framer.at_boundary());
        });
    }
    group.finish();
}

fn identity(criterion: &mut Criterion) {
    let der = device_certificate();
    let certificate = Certificate::read(&der).expect("readable");
    let mut group = criterion.benchmark_group("identity");
    group.bench_function("read certificate", |b| {
        b.iter(|| Certificate::read(black_box(&der)).expect("readable"));
    });
    let pattern = Pattern::parse("^urn:device:(?<device>.+)$").expect("a pattern");
    for (name, field, pattern) in [
        ("name by subject.cn", Field::SubjectCn, None),
        ("name by san.uri and pattern", Field::SanUri, Some(pattern)),
    ] {
        let naming = Naming {
            field,
            pattern,
            alphabet: Alphabet::default(),
        };
        group.bench_function(name, |b| {
            b.iter(|| naming.device(black_box(&certificate)).expect("a name"));
        });
    }
    group.finish();
}

fn template(criterion: &mut Criterion) {
    let certificate = Certificate::read(&device_certificate()).expect("readable");
    let device: DeviceId = DEVICE.parse().expect("a device id");
    let facts = Facts {
        device: &device,
        client_id: "asked",
        username: None,
        mode: Mode::MutualTls,
        listener: "devices",
        trust: Some("fleet"),
        ip: IP,
        certificate: Some(&certificate),
    };
    let mut group = criterion.benchmark_group("template");
    for text in ["{device}", "{trust}:{device}:{cert.serial}"] {
        let template = parsed(text, Use::Name);
        group.bench_function(text, |b| {
            b.iter(|| template.render(black_box(&facts)).expect("renderable"));
        });
    }
    group.finish();
}

fn verdict(criterion: &mut Criterion) {
    let certificate = Arc::new(Certificate::read(&device_certificate()).expect("readable"));
    let naming = Naming {
        field: Field::SubjectCn,
        pattern: None,
        alphabet: Alphabet::default(),
    };
    let trust: Arc<str> = "fleet".into();
    let caller = Caller {
        listener: "devices",
        mode: Mode::MutualTls,
        ip: IP,
        certificate: Some(Shown::Vouched(Credential {
            certificate: &certificate,
            trust: &trust,
            naming: &naming,
            not_after: certificate.not_after,
            direct: true,
        })),
    };
    let mut record = Record::new(DEVICE.parse().expect("a device id"), 0);
    let proof = Proof::Vouched {
        group: "fleet".into(),
        field: Field::SubjectCn,
        pin: None,
    };
    record.add_credential(proof, Valid::since(0));
    let now = certificate.not_before;
    let mut group = criterion.benchmark_group("verdict");
    for (name, asks, user_properties) in [
        ("3.1.1", plain_connect(), vec![]),
        (
            "5.0",
            full_connect(),
            vec![("x-mode".to_owned(), parsed("{mode}", Use::Free))],
        ),
    ] {
        let settings = ConnectSettings {
            client_id: parsed("{device}", Use::Name),
            username: parsed("{device}", Use::Name),
            password: Password::None,
            asked_client_id: AskedClientId::Any,
            user_properties,
        };
        // The CONNECT is taken by value: its copy is made before, and is not counted.
        group.bench_function(name, |b| {
            b.iter_batched(
                || asks.clone(),
                |asks| {
                    let claim = claim(&caller, &asks, &Tokens::default(), now).expect("a claim");
                    let standing = Standing::Known(&record);
                    decide(&caller, &claim, asks, standing, &settings, now).expect("admitted")
                },
                criterion::BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// A device that comes by token: from its CONNECT to the verdict, and the hash alone.
fn token(criterion: &mut Criterion) {
    let key = TokenKey::new([7; 32]);
    let token = Token::from_chance(&[9; 32]);
    let mut record = Record::new(DEVICE.parse().expect("a device id"), 0);
    record.min_mode = Mode::ServerTls;
    record.add_credential(Proof::Token(key.hash(&token)), Valid::since(0));
    let caller = Caller {
        listener: "devices",
        mode: Mode::ServerTls,
        ip: IP,
        certificate: None,
    };
    let tokens = Tokens {
        key: Some(&key),
        ..Tokens::default()
    };
    let settings = ConnectSettings {
        client_id: parsed("{device}", Use::Name),
        username: parsed("{device}", Use::Name),
        password: Password::None,
        asked_client_id: AskedClientId::Any,
        user_properties: vec![],
    };
    let asks = Connect {
        username: Some(DEVICE.to_owned()),
        password: Some(MqttPassword::new(token.reveal().into())),
        ..plain_connect()
    };
    let mut group = criterion.benchmark_group("token");
    group.bench_function("verdict", |b| {
        b.iter_batched(
            || asks.clone(),
            |asks| {
                let claim = claim(&caller, &asks, &tokens, 1).expect("a claim");
                let standing = Standing::Known(&record);
                decide(&caller, &claim, asks, standing, &settings, 1).expect("admitted")
            },
            criterion::BatchSize::SmallInput,
        );
    });
    group.bench_function("hash", |b| b.iter(|| key.hash(black_box(&token))));
    group.finish();
}

/// The registry, asked by a worker for a device that is in memory.
fn look_up(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = Settings {
        store: StoreSettings::Sqlite {
            path: folder.path().join("registry.db"),
        },
        grace: Duration::from_hours(1),
        cache_bytes: 1 << 20,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let device: DeviceId = DEVICE.parse().expect("a device id");
    let record = Record::new(device.clone(), 0);
    runtime.block_on(async {
        let registry = Registry::open(&settings.store).await.expect("a registry");
        let added = registry.add(&[record], &mut |_| {}).await;
        added.expect("a new device");
    });
    let directory = Directory::start(&settings).expect("a directory");
    let whom = Whom::Device(device);
    while !matches!(runtime.block_on(directory.look_up(&whom)), Found::Known(_)) {
        std::thread::yield_now(); // it is being opened
    }
    let is_known = || {
        let found = directory.look_up(&whom).now_or_never();
        matches!(found, Some(Found::Known(_)))
    };
    criterion.bench_function("look-up in memory", |b| {
        b.iter(|| assert!(black_box(is_known())));
    });
}

fn parsed(text: &str, use_: Use) -> Template {
    Template::parse(text, use_, &Alphabet::default()).expect("a template")
}

fn device_certificate() -> Vec<u8> {
    let authority = Authority::new("Bench CA").expect("a CA");
    let device = DEVICE.parse().expect("a device id");
    authority
        .device(&device)
        .expect("issued")
        .certificate()
        .to_vec()
}

/// What most devices say.
fn plain_connect() -> Connect {
    Connect {
        version: Version::V311,
        clean_start: true,
        keep_alive: 60,
        properties: Properties::default(),
        client_id: DEVICE.to_owned(),
        will: None,
        username: None,
        password: None,
    }
}

/// A will, a name, a password, and properties of every kind.
fn full_connect() -> Connect {
    let listed = |all: Vec<Property>| {
        let mut properties = Properties::new();
        for one in all {
            properties.push(one);
        }
        properties
    };
    let property = |id, value| Property { id, value };
    Connect {
        version: Version::V5,
        properties: listed(vec![
            property(Id::SessionExpiryInterval, Value::Four(3600)),
            property(Id::ReceiveMaximum, Value::Two(20)),
            property(Id::MaximumPacketSize, Value::Four(65_536)),
            property(Id::TopicAliasMaximum, Value::Two(10)),
            property(Id::RequestProblemInformation, Value::Byte(1)),
            Property::user("firmware", "7.4.1"),
            Property::user("site", "north-12"),
        ]),
        will: Some(Will {
            qos: 1,
            retain: true,
            properties: listed(vec![
                property(Id::WillDelayInterval, Value::Four(30)),
                property(Id::ContentType, Value::Text("text/plain".to_owned())),
                property(Id::CorrelationData, Value::Binary(vec![7; 16])),
            ]),
            topic: format!("devices/{DEVICE}/state"),
            payload: b"gone".to_vec(),
        }),
        username: Some("meter".to_owned()),
        password: Some(MqttPassword::new(vec![b'x'; 32])),
        ..plain_connect()
    }
}

/// A PUBLISH of QoS 0 with that many bytes of payload (MQTT 3.1.1 §3.3).
fn publish(payload: usize) -> Vec<u8> {
    const TOPIC: &[u8] = b"\x00\x09devices/7";
    let mut packet = vec![0x30];
    let mut length = TOPIC.len() + payload;
    while length >= 0x80 {
        packet.push(0x80 | u8::try_from(length & 0x7f).expect("seven bits"));
        length >>= 7;
    }
    packet.push(u8::try_from(length).expect("seven bits"));
    packet.extend_from_slice(TOPIC);
    packet.resize(packet.len() + payload, b'x');
    packet
}
