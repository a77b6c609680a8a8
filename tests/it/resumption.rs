//! Sessions that devices resume by tickets: where, how long, and what decides (threats.md T5).

use std::net::SocketAddr;
use std::time::Duration;

use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};
use serde_json::Value;
use tidegate::mqtt::Version;
use tidegate::pki::{Authority, Issued, Order, Validity};
use tokio::time::MissedTickBehavior;

use crate::support::device::{Answer, Device, connect};
use crate::support::estate::{Estate, id, record};
use crate::support::gate::{Gate, Plan, group, lay_out, listener, tidegate};
use crate::support::openssl::s_client;
use crate::support::until;

const EACH: [(&[&SupportedProtocolVersion], &str); 2] = [(&[&TLS12], "1.2"), (&[&TLS13], "1.3")];
const TICKETS: &str = "resumption = \"tickets\"\nticket_secret_file = \"ticket.secret\"";
const SECRET: &str = "0123456789abcdef0123456789abcdef\n";

/// There is no broker: who is told so was let in.
const LET_IN: Answer = Answer::Refused(3);

/// What the replicas of a gate have in common.
struct Site {
    server: Issued,
    servers: Authority,
    devices: Authority,
}

impl Site {
    fn new() -> Self {
        let servers = Authority::new("Server CA").expect("a CA");
        Self {
            server: servers.server(&["localhost"]).expect("issued"),
            servers,
            devices: Authority::new("Device CA").expect("a CA"),
        }
    }

    /// A gate with these listeners, and `trust` behind the CA of its one group.
    fn plan(&self, listeners: &str, trust: &str, secret: &str, more: Vec<(&str, &str)>) -> Plan {
        let mut files = vec![
            ("server.pem", self.server.chain_pem()),
            ("server.key", self.server.key_pem().to_string()),
            ("devices.pem", self.devices.certificate_pem().to_owned()),
            ("ticket.secret", secret.to_owned()),
        ];
        files.extend(more.into_iter().map(|(name, text)| (name, text.to_owned())));
        Plan {
            listeners: Some(format!(
                "{listeners}{}",
                group("fleet", "devices.pem", trust)
            )),
            files: files
                .into_iter()
                .map(|(name, text)| (name.to_owned(), text.into_bytes()))
                .collect(),
            addresses: Some("[\"unix:///nobody/is/here\"]".into()),
            ..Plan::default()
        }
    }

    async fn gate(&self, tls: &str, secret: &str) -> Gate {
        let devices = listener("devices", "mutual-tls", "", tls);
        Gate::plan(self.plan(&devices, "", secret, vec![])).await
    }

    fn issue(&self, order: Order) -> Issued {
        self.devices.issue(order).expect("issued")
    }

    fn device(&self, issued: &Issued, versions: &[&'static SupportedProtocolVersion]) -> Device {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Device::issued(nowhere, self.servers.certificate(), issued, versions)
    }
}

fn meter() -> Order {
    Order::device_named("meter-7")
}

/// A call of `device` with what it remembers: the answer, and the gate's log line.
async fn calls(device: &Device, gate: &Gate, at: SocketAddr, version: Version) -> (Answer, Value) {
    let before = gate.lines("refused").len();
    let device = Device {
        gate: at,
        ..device.clone()
    };
    let answer = device.connects_as("x", version).await;
    let line = until("the gate to tell of it", async || {
        gate.lines("refused").get(before).cloned()
    });
    (answer, line.await)
}

/// The same at its only listener, in MQTT 3.1.1.
async fn calls_at(device: &Device, gate: &Gate) -> (Answer, Value) {
    calls(device, gate, gate.address(), Version::V311).await
}

/// T5: with the same secret every replica resumes, and knows the device as in a full handshake; with another none does.
#[tokio::test]
async fn a_session_is_resumed_at_every_replica_that_has_the_secret() {
    let site = Site::new();
    let (one, other) = (
        site.gate(TICKETS, SECRET).await,
        site.gate(TICKETS, SECRET).await,
    );
    let stranger = site.gate(TICKETS, &SECRET.replace('0', "f")).await;
    let issued = site.issue(meter());
    for (nth, (versions, version)) in EACH.into_iter().enumerate() {
        let device = site.device(&issued, versions);
        let first = calls_at(&device, &one).await;
        assert_eq!((&first.0, &first.1["resumed"]), (&LET_IN, &false.into()));
        for gate in [&other, &one, &other] {
            let (answer, line) = calls_at(&device, gate).await;
            assert_eq!(answer, LET_IN, "TLS {version}");
            assert_eq!(line["resumed"], true, "TLS {version}");
            for key in [
                "device",
                "mode",
                "trust",
                "reason",
                "tls_version",
                "certificate_subject",
                "certificate_fingerprint",
            ] {
                assert!(line[key].is_string() && line[key] == first.1[key], "{key}");
            }
        }
        let labels = [
            ("tls_version", version),
            ("resumed", "true"),
            ("result", "ok"),
        ];
        other
            .metric_becomes("tidegate_handshakes_total", &labels, 2.0)
            .await;
        let (answer, line) = calls_at(&device, &stranger).await;
        assert_eq!((answer, &line["resumed"]), (LET_IN, &false.into()));
        let all = [("resumed", "false")];
        let so_far = f64::from(u8::try_from(nth).expect("small") + 1);
        stranger
            .metric_becomes("tidegate_handshakes_total", &all, so_far)
            .await;
    }
}

/// T5: what was revoked since is refused when it resumes, told as ever: the handshake is over, so by CONNACK.
#[tokio::test]
async fn a_revoked_device_cannot_resume_its_way_in() {
    let site = Site::new();
    let issued = site.issue(meter());
    let valid = Validity::days(30);
    let list = |revoked: &[&[u8]]| {
        let list = site.devices.crl(revoked, valid.not_before, valid.not_after);
        list.expect("a list").pem().expect("PEM")
    };
    let (empty, full) = (list(&[]), list(&[issued.serial()]));
    let devices = listener("devices", "mutual-tls", "", TICKETS);
    let plan = |list| {
        site.plan(
            &devices,
            "crl = [\"list.crl\"]",
            SECRET,
            vec![("list.crl", list)],
        )
    };
    let (before, after) = (
        Gate::plan(plan(&empty)).await,
        Gate::plan(plan(&full)).await,
    );
    for (versions, version) in EACH {
        let device = site.device(&issued, versions);
        assert_eq!(calls_at(&device, &before).await.0, LET_IN);
        for (mqtt, code) in [(Version::V311, 0x05), (Version::V5, 0x87)] {
            let (answer, line) = calls(&device, &after, after.address(), mqtt).await;
            assert_eq!(answer, Answer::Refused(code), "TLS {version}");
            assert_eq!(line["reason"], "certificate_revoked", "TLS {version}");
            assert_eq!(line["resumed"], true, "TLS {version}");
            assert_eq!(line["certificate_subject"], "CN=meter-7");
        }
    }
}

/// T5: no chain of resumptions outlives the certificate.
#[tokio::test]
async fn a_certificate_that_is_over_ends_its_sessions() {
    let site = Site::new();
    let gate = site.gate(TICKETS, SECRET).await;
    let now = || Validity::days(0).not_after;
    let valid = Validity {
        not_before: now() - 60,
        not_after: now() + 5,
    };
    let issued = site.issue(meter().valid(valid));
    let devices = EACH.map(|(versions, _)| site.device(&issued, versions));
    for device in &devices {
        for resumed in [false, true] {
            let (answer, line) = calls_at(device, &gate).await;
            assert_eq!((answer, &line["resumed"]), (LET_IN, &resumed.into()));
        }
    }
    until("the certificate to end", async || {
        (now() > valid.not_after).then_some(())
    })
    .await;
    for device in &devices {
        let (answer, line) = calls_at(device, &gate).await;
        assert_eq!(answer, Answer::Refused(0x05));
        assert_eq!(line["reason"], "certificate_expired");
        assert_eq!(line["resumed"], true);
    }
}

/// T5: a ticket is good at its own listener and for its policy, whatever the secret.
#[tokio::test]
async fn a_session_is_resumed_at_its_own_listener_only() {
    let site = Site::new();
    let names = ["devices", "others", "lax"];
    let modes = ["mutual-tls", "mutual-tls", "mixed-tls"];
    let listeners = names
        .iter()
        .zip(modes)
        .map(|(name, mode)| listener(name, mode, "", TICKETS));
    let listeners: String = listeners.collect();
    let gate = Gate::plan(site.plan(&listeners, "", SECRET, vec![])).await;
    let issued = site.issue(meter());
    for (versions, version) in EACH {
        for other in ["others", "lax"] {
            let device = site.device(&issued, versions);
            for (name, resumed) in [("devices", false), ("devices", true), (other, false)] {
                let at = gate.addresses[name];
                let (answer, line) = calls(&device, &gate, at, Version::V311).await;
                assert_eq!(answer, LET_IN, "{name}, TLS {version}");
                assert_eq!(line["resumed"], resumed, "{name}, TLS {version}");
            }
        }
    }
}

/// Without a secret of the operator's each start has its own; and `check` tells of it, and of a secret that is none.
#[tokio::test]
async fn without_a_secret_file_no_other_start_takes_a_ticket() {
    let site = Site::new();
    let alone = "resumption = \"tickets\"";
    let (one, other) = (
        site.gate(alone, SECRET).await,
        site.gate(alone, SECRET).await,
    );
    let device = site.device(&site.issue(meter()), &[&TLS13]);
    for (gate, resumed) in [(&one, false), (&one, true), (&other, false)] {
        let (answer, line) = calls_at(&device, gate).await;
        assert_eq!((answer, &line["resumed"]), (LET_IN, &resumed.into()));
    }

    let checked = async |tls: &str, secret: &str| {
        let devices = listener("devices", "mutual-tls", "", tls);
        let (folder, _broker) = lay_out(&site.plan(&devices, "", secret, vec![])).await;
        let (code, told, _) = tidegate(&["check"], folder.path());
        (code, told)
    };
    let (code, told) = checked(alone, SECRET).await;
    let warning =
        "warning: listener[devices].tls.resumption: tickets by a secret of each start's own";
    assert!(code == 0 && told.contains(warning), "{told}");
    let (code, told) = checked(TICKETS, "short").await;
    let fault = "fault: listener[devices].tls.ticket_secret_file: ";
    assert!(code == 2 && told.contains(fault), "{told}");
    assert!(
        told.contains("it has 5 bytes, and 32 are needed; make one: openssl rand"),
        "{told}"
    );
}

/// Another TLS stack resumes as well, and without its certificate at hand: the ticket tells it.
#[tokio::test]
async fn openssl_resumes_at_any_replica() {
    let site = Site::new();
    let (one, other) = (
        site.gate(TICKETS, SECRET).await,
        site.gate(TICKETS, SECRET).await,
    );
    let issued = site.issue(meter());
    let folder = tempfile::tempdir().expect("a folder");
    let put = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("written");
    };
    put("device.pem", &issued.chain_pem());
    put("device.key", &issued.key_pem());
    let asks = connect("x", Version::V311).encode().expect("fits");
    for (version, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let call = async |gate: &Gate, more: &[&str]| {
            let before = gate.lines("refused").len();
            let arguments = [&[version, "-servername", "localhost"], more].concat();
            let met = s_client(folder.path(), gate.address(), &arguments, &asks).await;
            let line = until("the gate to tell of it", async || {
                gate.lines("refused").get(before).cloned()
            })
            .await;
            (String::from_utf8_lossy(&met.answer).into_owned(), line)
        };
        let shows = [
            "-cert",
            "device.pem",
            "-key",
            "device.key",
            "-sess_out",
            "session",
        ];
        let (said, line) = call(&one, &shows).await;
        assert!(said.contains(&format!("New, {name}")), "{said}");
        assert_eq!(
            (&line["resumed"], &line["reason"]),
            (&false.into(), &"broker_away".into())
        );
        for gate in [&other, &one] {
            let (said, line) = call(gate, &["-sess_in", "session", "-sess_out", "session"]).await;
            assert!(said.contains(&format!("Reused, {name}")), "{said}");
            assert_eq!(
                (&line["resumed"], &line["device"]),
                (&true.into(), &"meter-7".into())
            );
            assert_eq!(line["reason"], "broker_away");
        }
    }
}

/// T5, I2: a session resumed is judged by the registry like a new one: disabled, or removed.
#[tokio::test]
async fn the_registry_judges_resumed_sessions_like_new_ones() {
    let site = Site::new();
    let plan = site.plan(
        &listener("devices", "mutual-tls", "", TICKETS),
        "",
        SECRET,
        vec![],
    );
    let estate = Estate::of(
        Gate::plan(Plan {
            more: "[registry]\nurl = \"sqlite://tidegate.db\"\n".into(),
            ..plan
        })
        .await,
    )
    .await;
    // Without a broker a gate lets 20 a second begin their handshake (threats.md V5); whoever it turns away has lost its ticket.
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for (versions, version) in EACH {
        let name = format!("meter-{version}");
        estate.add(record(&name, None)).await;
        let issued = site.issue(Order::device_named(&name));
        let device = site.device(&issued, versions);
        let gate = &estate.gate;
        let (answer, first) = calls_at(&device, gate).await;
        assert_eq!(
            (answer, &first["resumed"]),
            (LET_IN, &false.into()),
            "{first}"
        );
        let (answer, second) = calls_at(&device, gate).await;
        assert_eq!(
            (answer, &second["resumed"]),
            (LET_IN, &true.into()),
            "{second}"
        );

        estate.change(&name, |record| record.enabled = false).await;
        until("the change to count", async || {
            pace.tick().await;
            let (answer, line) = calls_at(&device, gate).await;
            (answer == Answer::Refused(5) && line["reason"] == "device_disabled").then_some(())
        })
        .await;
        let (_, line) = calls_at(&device, gate).await;
        assert_eq!(line["resumed"], true, "{line}");
    }

    for (versions, version) in EACH {
        let name = format!("pump-{version}");
        estate.add(record(&name, None)).await;
        let issued = site.issue(Order::device_named(&name));
        let device = site.device(&issued, versions);
        let gate = &estate.gate;
        for resumed in [false, true] {
            let (answer, line) = calls_at(&device, gate).await;
            assert_eq!((answer, &line["resumed"]), (LET_IN, &resumed.into()));
        }
        let removed = estate.registry.remove(&id(&name)).await;
        removed.expect("removed");
        let line = until("the removal to count", async || {
            pace.tick().await;
            let (answer, line) = calls_at(&device, gate).await;
            (answer == Answer::Refused(5)).then_some(line)
        })
        .await;
        assert_eq!(line["reason"], "device_unknown", "{line}");
        assert_eq!(line["resumed"], true, "{line}");
    }
}
