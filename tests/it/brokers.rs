//! Several brokers: who gets a connection, what is found of one that dies, freezes and comes back, where a name leads, and from
//! which address and port a broker is dialled (threats.md V3, V5).

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tidegate::mqtt::Version;
use tokio::time::timeout;

use crate::support::broker::{Broker, Visit};
use crate::support::device::{Answer, Device, Link, connect};
use crate::support::gate::{Gate, Plan, tidegate};
use crate::support::mosquitto::Mosquitto;
use crate::support::namespaces::has_its_own_namespaces;
use crate::support::wire::packet;
use crate::support::{free_port, soon, until};

const V311: Version = Version::V311;

/// The code that means: not now, come back.
const NOT_NOW: Answer = Answer::Refused(0x03);

fn address(broker: &Broker) -> String {
    format!("mqtt://{}", broker.address)
}

async fn gate_to(addresses: &[String], broker: &str, limits: &str) -> Gate {
    Gate::plan(Plan {
        addresses: Some(format!("{addresses:?}")),
        broker: broker.into(),
        limits: limits.into(),
        ..Plan::default()
    })
    .await
}

/// A device that was admitted.
async fn enters(device: &Device) -> Link {
    let (answer, link) = device.asks(&connect("any", V311)).await;
    assert_eq!(answer, Answer::Admitted);
    link.expect("it was admitted")
}

/// A gate in front of two recording brokers, both known to answer, with this balance.
async fn two(balance: &str) -> (Gate, [Broker; 2]) {
    let brokers = [Broker::start().await, Broker::start().await];
    let gate = gate_to(
        &brokers.each_ref().map(address),
        &format!("balance = \"{balance}\""),
        "",
    )
    .await;
    gate.metric_becomes("tidegate_broker_up", &[], 2.0).await;
    (gate, brokers)
}

/// The device's connection, and which broker it went to.
async fn goes(device: &Device, brokers: &[Broker; 2]) -> (Link, Visit, usize) {
    let (link, (visit, place)) = tokio::join!(enters(device), async {
        tokio::select! {
            visit = brokers[0].welcome() => (visit, 0),
            visit = brokers[1].welcome() => (visit, 1),
        }
    });
    (link, visit, place)
}

#[tokio::test]
async fn in_turn_each_broker_has_its_turn() {
    let (gate, brokers) = two("round-robin").await;
    let device = gate.device("meter-7");
    for _ in 0..6 {
        drop(goes(&device, &brokers).await);
    }
    assert_eq!(brokers.each_ref().map(Broker::visits), [3, 3]);
}

#[tokio::test]
async fn the_broker_with_the_fewest_connections_is_next() {
    let (gate, brokers) = two("least-connections").await;
    let device = gate.device("meter-7");
    let mut held = [Vec::new(), Vec::new()];
    for _ in 0..6 {
        let (link, visit, place) = goes(&device, &brokers).await;
        held[place].push((link, visit));
    }
    assert_eq!(brokers.each_ref().map(Broker::visits), [3, 3]);
    held[1].clear();
    let second = address(&brokers[1]);
    gate.metric_becomes(
        "tidegate_broker_connections_open",
        &[("broker", &second)],
        0.0,
    )
    .await;
    for _ in 0..3 {
        let (link, visit, place) = goes(&device, &brokers).await;
        assert_eq!(place, 1);
        held[1].push((link, visit));
    }
}

/// `balance = "device"`: a device keeps its broker, and when that is gone only its own devices go to the other.
#[tokio::test]
async fn a_device_keeps_its_broker_until_that_is_gone() {
    let (gate, brokers) = two("device").await;
    let mut homes = Vec::new();
    for number in 0..12 {
        let device = gate.device(&format!("meter-{number}"));
        let (_, _, place) = goes(&device, &brokers).await;
        for _ in 0..2 {
            assert_eq!(goes(&device, &brokers).await.2, place, "meter-{number}");
        }
        homes.push((device, place));
    }
    let used: BTreeSet<_> = homes.iter().map(|(_, place)| *place).collect();
    assert_eq!(used.len(), 2, "twelve devices, and all at one broker");
    let [first, second] = brokers;
    first.stop();
    for (device, _) in &homes {
        let (_link, _visit) = tokio::join!(enters(device), second.welcome());
    }
}

/// threats.md V5: paced on recovery. A broker that came back is given 16 CONNECTs, and more as it answers them; who has no turn in
/// time is told that it is not for good, and who has not begun its handshake waits at no cost.
#[tokio::test]
async fn a_broker_that_came_back_is_given_few_connects_at_first() {
    let broker = Broker::start().await;
    let fast = "dial_timeout = \"500ms\"\n[broker.health]\ninterval = \"100ms\"";
    let gate = gate_to(&[address(&broker)], fast, "").await;
    gate.metric_becomes("tidegate_broker_up", &[], 1.0).await;
    let at = broker.stop();
    gate.line("broker_down", |_| true).await;
    let broker = Broker::start_at(at).await;
    until("the broker to be found up again", async || {
        (gate.count("broker_up") == 2).then_some(())
    })
    .await;

    let device = gate.device("meter-7");
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let device = device.clone();
        calls.spawn(async move { device.asks(&connect("any", V311)).await });
    }
    let mut visits = Vec::new();
    for _ in 0..16 {
        visits.push(broker.visit().await);
    }
    assert_eq!(broker.visits(), 16);
    // As each is answered, one more may come: of those who wait for their turn to handshake. Who was further is told to come back.
    for visit in &mut visits {
        visit.say_connack(0).await;
    }
    let _house = broker.welcome_all();
    let (mut admitted, mut later) = (0, 0);
    while let Some(call) = soon("an answer", calls.join_next()).await {
        match call.expect("no panic").0 {
            Answer::Admitted => admitted += 1,
            answer => {
                assert_eq!(answer, NOT_NOW);
                later += 1;
            }
        }
    }
    assert!(admitted >= 16, "{admitted}");
    gate.metric_becomes(
        "tidegate_refusals_total",
        &[("reason", "broker_away")],
        f64::from(later),
    )
    .await;
}

/// threats.md V5: a broker that takes connections and serves nobody has always the fewest, and does not swallow the fleet for that.
#[tokio::test]
async fn a_sick_broker_does_not_swallow_the_fleet() {
    for answer in [None, Some(3)] {
        let (good, sick) = (Broker::start().await, Broker::start().await);
        let addresses = [address(&good), address(&sick)];
        let gate = gate_to(&addresses, "", "").await;
        gate.metric_becomes("tidegate_broker_up", &[], 2.0).await;
        let _house = good.welcome_all();
        let turning_away = tokio::spawn(async move {
            loop {
                let mut visit = sick.visit().await;
                if let Some(code) = answer {
                    visit.say_connack(code).await;
                }
            }
        });

        let device = gate.device("meter-7");
        let mut inside = Vec::new();
        let mut turned_away = 0;
        for _ in 0..20 {
            match device.asks(&connect("any", V311)).await {
                (Answer::Admitted, link) => inside.push(link),
                (other, _) => {
                    assert_eq!(other, NOT_NOW);
                    turned_away += 1;
                }
            }
        }

        assert!(
            (1..=3).contains(&turned_away),
            "{turned_away}, by {answer:?}"
        );
        turning_away.abort();
    }
}

/// A device that publishes with QoS 1, and comes back and sends again until it has its PUBACK.
struct Publisher {
    device: Device,
    name: String,
    link: Option<Link>,
}

impl Publisher {
    async fn says(&mut self, number: u16) {
        while !self.tries(number).await {
            self.link = None;
        }
    }

    async fn tries(&mut self, number: u16) -> bool {
        let said = timeout(Duration::from_secs(1), async {
            let link = match &mut self.link {
                Some(link) => link,
                none => {
                    let (answer, link) = self.device.asks(&connect("any", V311)).await;
                    if answer != Answer::Admitted {
                        return None;
                    }
                    none.insert(link?)
                }
            };
            let topic = format!("devices/{}/{number}", self.name);
            let mut body = Vec::new();
            body.extend(u16::try_from(topic.len()).expect("short").to_be_bytes());
            body.extend(topic.as_bytes());
            body.extend(number.to_be_bytes());
            body.extend(b"17.3");
            link.say(&packet(0x32, &body)).await.ok()?;
            let [high, low] = number.to_be_bytes();
            let puback = link.packet().await?;
            assert_eq!(puback, [0x40, 2, high, low]);
            Some(())
        });
        matches!(said.await, Ok(Some(())))
    }
}

/// Three brokers under traffic of QoS 1: one is killed, one frozen, both return. Every message that a device had a PUBACK for was
/// taken by a broker, every device gets on, and those that returned are used again.
async fn no_acknowledged_message_is_lost(probe: &str) {
    const DEVICES: usize = 8;
    const EACH: u16 = 120;
    let mut brokers = Vec::new();
    for _ in 0..3 {
        brokers.push(Mosquitto::start().await);
    }
    let addresses: Vec<_> = brokers.iter().map(Mosquitto::address).collect();
    let settings = format!(
        "dial_timeout = \"1s\"\n[broker.health]\ninterval = \"200ms\"\nprobe = \"{probe}\""
    );
    let gate = gate_to(&addresses, &settings, "connect_timeout = \"300ms\"").await;
    gate.metric_becomes("tidegate_broker_up", &[], 3.0).await;

    let acknowledged = Arc::new(AtomicUsize::new(0));
    let mut devices = tokio::task::JoinSet::new();
    for number in 0..DEVICES {
        let name = format!("meter-{number}");
        let mut publisher = Publisher {
            device: gate.device(&name),
            name,
            link: None,
        };
        let acknowledged = acknowledged.clone();
        devices.spawn(async move {
            for number in 1..=EACH {
                publisher.says(number).await;
                acknowledged.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
    }
    let progress = async |so_many: usize| {
        until("messages to be acknowledged", async || {
            (acknowledged.load(Ordering::SeqCst) >= so_many).then_some(())
        })
        .await;
    };
    let all = DEVICES * usize::from(EACH);
    progress(all / 6).await;
    brokers[0].kill();
    progress(all * 2 / 6).await;
    brokers[1].freeze();
    progress(all * 3 / 6).await;
    brokers[0].come_back().await;
    progress(all * 4 / 6).await;
    brokers[1].thaw();
    while let Some(device) = soon("all to be acknowledged", devices.join_next()).await {
        device.expect("no panic");
    }

    for name in (0..DEVICES).map(|number| format!("meter-{number}")) {
        let taken = brokers
            .iter()
            .flat_map(|one| one.logged(&format!("Received PUBLISH from {name} ")));
        let taken: BTreeSet<String> = taken
            .filter_map(|line| Some(line.split('\'').nth(1)?.to_owned()))
            .collect();
        let said: BTreeSet<String> = (1..=EACH)
            .map(|number| format!("devices/{name}/{number}"))
            .collect();
        assert_eq!(taken, said);
    }
    gate.metric_becomes("tidegate_broker_up", &[], 3.0).await;
    let fresh = gate.device("meter-99");
    for broker in &brokers[..2] {
        let before = broker.logged("connected from").len();
        let mut held = Vec::new();
        until("who came back to be used again", async || {
            held.push(enters(&fresh).await);
            let named = broker.logged("as meter-99").len();
            (broker.logged("connected from").len() > before && named > 0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn no_acknowledged_message_is_lost_where_brokers_are_probed_by_tcp() {
    no_acknowledged_message_is_lost("tcp").await;
}

#[tokio::test]
async fn no_acknowledged_message_is_lost_where_brokers_are_probed_by_mqtt() {
    no_acknowledged_message_is_lost("mqtt").await;
}

/// threats.md V5: a frozen broker is found, too, where every device gives up before the gate does.
#[tokio::test]
async fn a_frozen_broker_is_found_by_devices_less_patient_than_the_gate() {
    let brokers = [Mosquitto::start().await, Mosquitto::start().await];
    let addresses = brokers.each_ref().map(Mosquitto::address);
    let gate = gate_to(&addresses, "[broker.health]\ninterval = \"1s\"", "").await;
    gate.metric_becomes("tidegate_broker_up", &[], 2.0).await;
    brokers[0].freeze();
    let device = gate.device("meter-7");
    let asks = connect("any", V311);
    let calls = async {
        let mut held = Vec::new();
        loop {
            let called = timeout(Duration::from_secs(1), device.asks(&asks)).await;
            held.extend(called.ok().and_then(|(_, link)| link));
        }
    };
    let line = tokio::select! {
        line = gate.line("broker_down", |_| true) => line,
        () = calls => unreachable!("it never ends"),
    };
    let why = line["why"].as_str().expect("text");
    assert!(why.contains("no CONNACK"), "{line}");
    for _ in 0..3 {
        enters(&device).await;
    }
    brokers[0].thaw();
    gate.metric_becomes("tidegate_broker_up", &[], 2.0).await;
}

/// Devices that leave without their CONNACK make the gate ask, and no more: a broker that answers the gate stays in use, whoever
/// leaves.
#[tokio::test]
async fn devices_that_leave_do_not_make_a_broker_look_dead() {
    let broker = Broker::start().await;
    let gate = gate_to(
        &[address(&broker)],
        "[broker.health]\ninterval = \"2s\"",
        "",
    )
    .await;
    gate.metric_becomes("tidegate_broker_up", &[], 1.0).await;
    let device = gate.device("meter-7");
    let asks = connect("any", V311);
    let mut unanswered = Vec::new();
    for _ in 0..3 {
        let waits = timeout(Duration::from_secs(1), device.asks(&asks));
        let (gone, visit) = tokio::join!(waits, broker.visit());
        assert!(gone.is_err(), "nobody answered");
        unanswered.push(visit);
    }
    let mut probe = broker.visit().await;
    assert!(
        probe.connect.client_id.starts_with("tidegateprobe"),
        "{:?}",
        probe.connect
    );
    probe.say_connack(0).await;
    let (_link, _visit) = tokio::join!(enters(&device), broker.welcome());
    assert_eq!(gate.count("broker_down"), 0);
}

/// A frozen broker takes connections: only a probe that asks for an answer finds it without a device that waits in vain.
#[tokio::test]
async fn an_mqtt_probe_finds_a_frozen_broker_also_on_a_socket_file() {
    for broker in [
        Mosquitto::start().await,
        Mosquitto::start_on_socket_file().await,
    ] {
        let probe = "[broker.health]\ninterval = \"200ms\"\nprobe = \"mqtt\"";
        let gate = gate_to(&[broker.address()], probe, "").await;
        gate.line("broker_up", |_| true).await;
        broker.logs("as tidegateprobe").await;
        broker.freeze();
        let line = gate.line("broker_down", |_| true).await;
        assert!(
            line["why"].as_str().expect("text").contains("no CONNACK"),
            "{line}"
        );
        gate.metric_becomes("tidegate_broker_up", &[], 0.0).await;
        assert_eq!(gate.admin_get("/readyz").await.0, 503);
        // Turned away at once, without a CONNECT that would wait for its answer.
        let answer = gate.device("meter-7").connects_as("meter-7", V311).await;
        assert_eq!(answer, NOT_NOW);
        gate.refusal("broker_away").await;
        broker.thaw();
        gate.metric_becomes("tidegate_broker_up", &[], 1.0).await;
        enters(&gate.device("meter-7")).await;
    }
}

/// The same gate on every address of loopback: with few ports, there are few connections from one address to another.
const EVERYWHERE: &str = r#"
[[listener]]
name = "devices"
bind = "0.0.0.0:0"
mode = "mutual-tls"
[listener.tls]
certificate = "server.pem"
key = "server.key"
[[trust]]
name = "fleet"
ca = ["ca.pem"]
"#;

/// How many connections a gate that dials from `sources` gets to a broker until it is out of ports; there are 32 for each address,
/// and some listen.
async fn connections_until_out_of_ports(sources: &[&str]) -> usize {
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "61000 61031")
        .expect("a namespace of its own");
    let at: SocketAddr = (Ipv4Addr::LOCALHOST, 1883).into();
    let broker = Broker::start_at(at).await;
    let _house = broker.welcome_all();
    let gate = Gate::plan(Plan {
        listeners: Some(EVERYWHERE.into()),
        addresses: Some(format!("[\"mqtt://{at}\"]")),
        broker: format!("source_addresses = {sources:?}\n[broker.health]\ninterval = \"1h\""),
        ..Plan::default()
    })
    .await;
    gate.line("broker_up", |_| true).await;
    let port = gate.address().port();
    let mut held = Vec::new();
    let answer = loop {
        let mut device = gate.device("meter-7");
        let host = u8::try_from(10 + held.len() / 8).expect("few");
        device.gate = (Ipv4Addr::new(127, 0, 1, host), port).into();
        match device.asks(&connect("any", V311)).await {
            (Answer::Admitted, link) => held.push(link),
            (answer, _) => break answer,
        }
        assert!(held.len() < 200, "the ports never end");
    };
    assert_eq!(answer, NOT_NOW);
    let line = gate.refusal("out_of_ports").await;
    for words in [
        "mqtt://127.0.0.1:1883",
        "broker.source_addresses",
        "ip_local_port_range",
    ] {
        assert!(
            line["why"].as_str().expect("text").contains(words),
            "{line}"
        );
        let told = gate.line("out_of_ports", |_| true).await;
        assert_eq!(told["level"], "error");
        assert!(
            told["why"].as_str().expect("text").contains(words),
            "{told}"
        );
    }
    assert_eq!(gate.line("few_ports", |_| true).await["level"], "warn");
    gate.metric_becomes(
        "tidegate_refusals_total",
        &[("reason", "out_of_ports")],
        1.0,
    )
    .await;
    gate.metric_becomes("tidegate_broker_dials_total", &[("result", "no_port")], 1.0)
        .await;
    // It was never the broker's fault, and it ends by itself.
    gate.metric_becomes("tidegate_broker_up", &[], 1.0).await;
    for link in held.iter_mut().flatten() {
        link.say(b"\xc0\x00").await.expect("what is open goes on");
    }
    let many = held.len();
    held.truncate(many / 2);
    until("a port to be free again", async || {
        let mut device = gate.device("meter-7");
        device.gate = (Ipv4Addr::new(127, 0, 2, 1), port).into();
        let (answer, _link) = device.asks(&connect("any", V311)).await;
        (answer == Answer::Admitted).then_some(())
    })
    .await;
    assert_eq!(gate.count("out_of_ports"), 1, "told once in ten seconds");
    many
}

/// threats.md V3: out of ports it refuses, counts, tells the way out, and recovers.
#[tokio::test]
async fn out_of_ports_devices_are_told_to_come_back() {
    if !has_its_own_namespaces("brokers::out_of_ports_devices_are_told_to_come_back") {
        return;
    }
    let many = connections_until_out_of_ports(&[]).await;
    assert!((26..=32).contains(&many), "{many}");
}

/// Each further address brings its own ports.
#[tokio::test]
async fn more_source_addresses_are_more_ports() {
    if !has_its_own_namespaces("brokers::more_source_addresses_are_more_ports") {
        return;
    }
    let many = connections_until_out_of_ports(&["127.0.0.2", "127.0.0.3", "127.0.0.4"]).await;
    assert!((3 * 26..=3 * 32).contains(&many), "{many}");
}

/// A headless service: each address of a name is a broker, and it is looked up again as it changes.
#[tokio::test]
async fn connections_go_where_a_name_leads_now() {
    if !has_its_own_namespaces("brokers::connections_go_where_a_name_leads_now") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let hosts = folder.path().join("hosts");
    let lead = |last: &[u8]| {
        let lines: String = last
            .iter()
            .map(|last| format!("127.0.0.{last} brokers.example\n"))
            .collect();
        std::fs::write(&hosts, lines).expect("written");
    };
    lead(&[2, 3]);
    let mounted = Command::new("mount")
        .arg("--bind")
        .arg(&hosts)
        .arg("/etc/hosts")
        .status();
    assert!(
        mounted.expect("mount, of the package mount").success(),
        "a mount namespace of its own"
    );
    let port = free_port().port();
    let at = async |last| Broker::start_at((Ipv4Addr::new(127, 0, 0, last), port).into()).await;
    let (two, three, four) = (at(2).await, at(3).await, at(4).await);
    let gate = gate_to(
        &[format!("mqtt://brokers.example:{port}")],
        "allow_plaintext = true\n[broker.health]\ninterval = \"100ms\"",
        "",
    )
    .await;
    until("both addresses to be found up", async || {
        (gate.count("broker_up") == 2).then_some(())
    })
    .await;
    let device = gate.device("meter-7");
    let brokers = [two, three];
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(goes(&device, &brokers).await);
    }
    assert_eq!(brokers.each_ref().map(Broker::visits), [3, 3]);
    assert!(gate.metrics().await.contains(&format!(
        "tidegate_broker_connections_open{{broker=\"mqtt://brokers.example:{port}\"}} 6"
    )));

    lead(&[3, 4]);
    gate.line("broker_up", |line| {
        line["why"]
            .as_str()
            .is_some_and(|why| why.contains("127.0.0.4"))
    })
    .await;
    let [two, three] = brokers;
    let before = two.visits();
    let brokers = [three, four];
    until("the new address to be used", async || {
        held.push(goes(&device, &brokers).await);
        (brokers[1].visits() > 2).then_some(())
    })
    .await;
    assert_eq!(
        two.visits(),
        before,
        "no new connection where it leads no longer"
    );
    for (link, visit, _) in &mut held[..6] {
        link.say(b"\xc0\x00").await.expect("sent");
        assert_eq!(
            visit.packet().await.as_deref(),
            Some(b"\xc0\x00".as_slice()),
            "what is open stays"
        );
    }
}

/// An address to dial from that this host does not have is told before anything starts, with the way out.
#[tokio::test]
async fn a_source_address_that_is_not_here_is_a_fault() {
    let gate = gate_to(
        &["mqtt://127.0.0.1:1883".into()],
        "source_addresses = [\"127.0.0.9\"]",
        "",
    )
    .await;
    let file = gate.file("tidegate.toml");
    let text = std::fs::read_to_string(&file).expect("its file");
    std::fs::write(&file, text.replace("127.0.0.9", "192.0.2.7")).expect("written");
    for command in ["check", "run"] {
        let (code, out, err) =
            tidegate(&[command, "--config", "tidegate.toml"], gate.folder.path());
        assert_eq!(code, 2, "{out}{err}");
        let told = out + &err;
        assert!(
            told.contains("broker.source_addresses[0]") && told.contains("ip address add"),
            "{told}"
        );
    }
}
