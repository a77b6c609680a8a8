//! A device speaks under its own name, whatever its CONNECT asks for (threats.md I1, I3, I4).

use tidegate::mqtt::Version;
use tidegate::mqtt::properties::{Id, Property, Value};

use crate::support::device::{Answer, connect};
use crate::support::gate::{Gate, Plan};

#[tokio::test]
async fn a_device_cannot_borrow_anothers_name() {
    let gate = Gate::start().await;
    for version in Version::ALL {
        let mut asks = connect("meter-8", version);
        asks.username = Some("meter-8".into());
        let device = gate.device("meter-7");
        let asked = device.asks(&asks);
        let heard = gate.broker().welcome();
        let ((answer, _link), visit) = tokio::join!(asked, heard);

        assert_eq!(answer, Answer::Admitted, "{version}");
        assert_eq!(visit.connect.client_id, "meter-7");
        assert_eq!(visit.connect.username.as_deref(), Some("meter-7"));
        assert_eq!(
            visit.connect.password, None,
            "a device's password is its own affair"
        );
    }
}

#[tokio::test]
async fn a_device_that_must_ask_for_its_own_name_is_refused_another() {
    let plan = Plan {
        more: "[connect]\nasked_client_id = \"device\"\n".into(),
        ..Plan::default()
    };
    let gate = Gate::plan(plan).await;

    for (version, code) in [
        (Version::V31, 0x02),
        (Version::V311, 0x02),
        (Version::V5, 0x85),
    ] {
        let answer = gate.device("meter-7").connects_as("meter-8", version).await;
        assert_eq!(answer, Answer::Refused(code), "{version}"); // identifier rejected: MQTT 3.1.1 §3.2.2.3
    }

    let line = gate.refusal("client_id_not_own").await;
    assert_eq!(line["device"], "meter-7");
    assert_eq!(line["client_id_asked"], "meter-8");
    gate.metric_becomes(
        "tidegate_refusals_total",
        &[("reason", "client_id_not_own")],
        3.0,
    )
    .await;
    assert_eq!(
        gate.broker().visits(),
        0,
        "a refused device must not reach the broker"
    );
}

/// T3: whoever is refused for what it asks is known by then, and the log tells who it is.
#[tokio::test]
async fn a_refusal_after_the_identity_tells_the_device() {
    let gate = Gate::plan(Plan {
        more:
            "[connect]\nclient_id = \"{device}/{client_id}\"\nusername = \"{device}/{username}\"\n"
                .into(),
        limits: "connect_bytes = \"256KiB\"\n".into(),
        ..Plan::default()
    })
    .await;
    let long = "x".repeat(65_535);
    for (reason, client_id, username) in [
        ("client_id_not_allowed", "a b", Some("u")),
        ("username_not_allowed", "a", None),
        ("text_too_long", "a", Some(&*long)),
    ] {
        let mut asks = connect(client_id, Version::V311);
        asks.username = username.map(Into::into);
        let (answer, _) = gate.device("meter-7").asks(&asks).await;
        assert!(matches!(answer, Answer::Refused(_)), "{reason}");
        let line = gate.refusal(reason).await;
        assert_eq!(line["device"], "meter-7", "{line}");
    }
    assert_eq!(gate.broker().visits(), 0);
}

#[tokio::test]
async fn what_looks_like_our_word_is_removed_before_ours_is_added() {
    let more =
        "[connect]\nuser_properties = { \"x-device\" = \"{device}\", \"x-mode\" = \"{mode}\" }\n";
    let gate = Gate::plan(Plan {
        more: more.into(),
        ..Plan::default()
    })
    .await;
    let mut asks = connect("meter-7", Version::V5);
    let user = |name: &str, value: &str| Property {
        id: Id::UserProperty,
        value: Value::Pair(name.into(), value.into()),
    };
    for (name, value) in [
        ("x-device", "admin"),
        ("site", "north"),
        ("X-MODE", "root"),
        ("x-device", "again"),
    ] {
        asks.properties.push(user(name, value));
    }

    let device = gate.device("meter-7");
    let (_, visit) = tokio::join!(device.asks(&asks), gate.broker().welcome());

    let told: Vec<_> = visit
        .connect
        .properties
        .users()
        .map(|(n, v)| (n.to_owned(), v.to_owned()))
        .collect();
    let told: Vec<_> = told.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(
        told,
        [
            ("site", "north"),
            ("x-device", "meter-7"),
            ("x-mode", "mutual-tls")
        ]
    );
}

#[tokio::test]
async fn a_device_without_a_client_id_is_told_the_one_it_got() {
    let gate = Gate::start().await;
    let mut link = gate.device("meter-7").dial().await.expect("a handshake");
    link.say(&connect("", Version::V5).encode().expect("fits"))
        .await
        .expect("sent");
    let visit = gate.broker().welcome().await;
    assert_eq!(visit.connect.client_id, "meter-7");

    let connack = link.packet().await.expect("a CONNACK");

    // MQTT 5.0 §3.2.2.3.7: 0x12, then the text.
    let expected = [&[0x20, 13, 0, 0, 10, 0x12, 0, 7][..], b"meter-7"].concat();
    assert_eq!(connack, expected);
}

/// A refused handshake ends with an alert, a log line and a count, and the gate goes on (threats.md T3, V9).
#[tokio::test]
async fn a_certificate_of_another_ca_is_refused_and_told() {
    let gate = Gate::start().await;
    let other = tidegate::pki::Authority::new("Another CA").expect("a CA");
    let forged = other
        .device(&"meter-7".parse().expect("a device id"))
        .expect("issued");

    let answer = gate
        .device_with(&forged, crate::support::device::BOTH)
        .connects_as("meter-7", Version::V311)
        .await;

    assert!(
        matches!(&answer, Answer::NoTls(alert) if alert.contains("UnknownCA")),
        "{answer:?}"
    );
    let line = gate.refusal("certificate_unknown_issuer").await;
    assert_eq!(line["certificate_subject"], "CN=meter-7");
    assert_eq!(gate.lines("panicked").len(), 0);
    assert_eq!(gate.broker().visits(), 0);
}
