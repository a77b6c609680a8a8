//! What a listener offers: its mode, its addresses (design.md §1, §3).

use std::net::SocketAddr;

use tidegate::mqtt::Version;
use tidegate::mqtt::properties::{Id, Property, Value};

use crate::support::device::{Answer, BOTH, Device, connect};
use crate::support::gate::{Gate, Plan, group, listener};

const PLAIN: &str = "[[listener]]\nname = \"plain\"\nbind = \"127.0.0.1:0\"\nmode = \"plain\"\n";

/// One listener of each mode, one trust group.
async fn every_mode() -> Gate {
    let listeners = [
        listener("mutual", "mutual-tls", "", ""),
        listener("mixed", "mixed-tls", "", ""),
        listener("server", "server-tls", "", ""),
        PLAIN.to_owned(),
        group("fleet", "ca.pem", ""),
    ];
    Gate::plan(Plan {
        listeners: Some(listeners.concat()),
        ..Plan::default()
    })
    .await
}

/// A device known by nothing is told so once its CONNECT names its version; it is never let in for want of tokens.
#[tokio::test]
async fn without_a_certificate_no_device_is_admitted() {
    let gate = every_mode().await;
    let ca = gate.authority.certificate();
    let issued = gate
        .authority
        .device(&"meter-7".parse().expect("a device id"))
        .expect("issued");
    let at = |name: &str| gate.addresses[name];
    let callers = [
        (
            "mixed",
            "server-tls",
            Device::new(at("mixed"), ca, None, BOTH),
        ),
        (
            "server",
            "server-tls",
            Device::new(at("server"), ca, None, BOTH),
        ),
        // This listener asks for no certificate, so one that the device has makes no difference.
        (
            "server",
            "server-tls",
            Device::issued(at("server"), ca, &issued, BOTH),
        ),
        ("plain", "plain", Device::plain(at("plain"))),
    ];
    for (listener, mode, device) in callers {
        for (version, code) in [
            (Version::V31, 0x05),
            (Version::V311, 0x05),
            (Version::V5, 0x87),
        ] {
            let labels = [("listener", listener), ("reason", "no_token")];
            let before = gate.metric("tidegate_refusals_total", &labels).await;
            let mut asks = connect("meter-7", version);
            asks.username = Some("meter-7".into());
            asks.password = Some(tidegate::mqtt::connect::Password::new("secret-7".into()));

            let (answer, _) = device.asks(&asks).await;

            assert_eq!(answer, Answer::Refused(code), "{listener}, {version}");
            gate.metric_becomes("tidegate_refusals_total", &labels, before + 1.0)
                .await;
            let line = gate
                .line("refused", |line| {
                    line["listener"] == listener && line["mqtt_version"] == version.to_string()
                })
                .await;
            assert_eq!(line["reason"], "no_token");
            assert_eq!(line["mode"], mode);
            assert_eq!(line["client_id_asked"], "meter-7");
            for unknown in ["device", "trust", "certificate_subject", "broker"] {
                assert_eq!(line.get(unknown), None, "{listener}: {unknown}");
            }
            assert_eq!(line.get("tls_version").is_some(), mode == "server-tls");
        }
    }
    assert_eq!(gate.broker().visits(), 0, "no broker hears of them");
    assert!(!gate.log_text().contains("secret-7"), "a token in the log");
}

/// threats.md §5: whoever asks for enhanced authentication is told that there is none (MQTT 5.0 §4.12), certificate or not.
#[tokio::test]
async fn enhanced_authentication_is_refused_without_a_certificate_too() {
    let gate = every_mode().await;
    let mut asks = connect("meter-7", Version::V5);
    asks.properties.push(Property {
        id: Id::AuthenticationMethod,
        value: Value::Text("SCRAM-SHA-1".into()),
    });
    for listener in ["mixed", "server", "plain"] {
        let (at, ca) = (gate.addresses[listener], gate.authority.certificate());
        let device = match listener {
            "plain" => Device::plain(at),
            _ => Device::new(at, ca, None, BOTH),
        };
        let (answer, _) = device.asks(&asks).await;
        assert_eq!(answer, Answer::Refused(0x8c), "{listener}"); // Bad authentication method
        let labels = [
            ("listener", listener),
            ("reason", "enhanced_authentication"),
        ];
        gate.metric_becomes("tidegate_refusals_total", &labels, 1.0)
            .await;
    }
}

/// `mixed-tls` is `mutual-tls` for who has a certificate; listeners side by side keep their own modes and counts.
#[tokio::test]
async fn listeners_stand_side_by_side() {
    let gate = every_mode().await;
    let ca = gate.authority.certificate().clone();
    for (listener, id) in [("mutual", "meter-1"), ("mixed", "meter-2")] {
        let issued = gate
            .authority
            .device(&id.parse().expect("a device id"))
            .expect("issued");
        let device = Device::issued(gate.addresses[listener], &ca, &issued, BOTH);
        let asks = connect("asked", Version::V5);
        let ((answer, link), visit) = tokio::join!(device.asks(&asks), gate.broker().welcome());
        assert_eq!(answer, Answer::Admitted);
        assert_eq!(visit.connect.client_id, id);
        let open = [("listener", listener), ("mode", "mutual-tls")];
        gate.metric_becomes("tidegate_connections_open", &open, 1.0)
            .await;
        drop((link, visit));
        gate.metric_becomes("tidegate_connections_open", &open, 0.0)
            .await;
        let line = gate
            .line("closed", |line| line["listener"] == listener)
            .await;
        assert_eq!(line["mode"], "mutual-tls");
        assert_eq!(line["device"], id);
        let accepted = [("listener", listener)];
        gate.metric_becomes("tidegate_connections_accepted_total", &accepted, 1.0)
            .await;
    }
    let others = gate.metric(
        "tidegate_connections_accepted_total",
        &[("listener", "server")],
    );
    assert!(others.await.abs() < f64::EPSILON);
}

/// A listener may have several addresses, of both families; for port 0 the log tells the port.
#[tokio::test]
async fn a_listener_takes_devices_at_each_of_its_addresses() {
    let devices = listener("devices", "mutual-tls", "", "").replace(
        "\"127.0.0.1:0\"",
        "[\"127.0.0.1:0\", \"[::1]:0\", \"127.0.0.2:0\"]",
    );
    let gate = Gate::plan(Plan {
        listeners: Some([devices, group("fleet", "ca.pem", "")].concat()),
        ..Plan::default()
    })
    .await;
    let addresses: Vec<SocketAddr> = gate
        .lines("listening")
        .iter()
        .filter(|line| line["listener"] == "devices")
        .map(|line| {
            line["address"]
                .as_str()
                .expect("text")
                .parse()
                .expect("ip:port")
        })
        .collect();
    let ips: Vec<String> = addresses
        .iter()
        .map(|address| address.ip().to_string())
        .collect();
    assert_eq!(ips, ["127.0.0.1", "::1", "127.0.0.2"]);

    for address in addresses {
        assert_ne!(address.port(), 0, "the log tells the port that was taken");
        let mut device = gate.device("meter-7");
        device.gate = address;
        let asks = connect("asked", Version::V311);
        let ((answer, link), visit) = tokio::join!(device.asks(&asks), gate.broker().welcome());
        assert_eq!(answer, Answer::Admitted, "{address}");
        drop((link, visit));
        let came_from = |line: &serde_json::Value| -> Option<SocketAddr> {
            line["address"].as_str()?.parse().ok()
        };
        gate.line("closed", |line| {
            came_from(line).is_some_and(|from| from.is_ipv6() == address.is_ipv6())
        })
        .await;
    }
    gate.metric_becomes(
        "tidegate_connections_accepted_total",
        &[("listener", "devices")],
        3.0,
    )
    .await;
}
