//! In front of a real Mosquitto: who a device is decides which topics it has (threats.md I3), and a broker that dies
//! is told as the gate's trouble, not the device's (threats.md V5).

use std::process::{Output, Stdio};

use tidegate::mqtt::Version;
use tidegate::pki::{Authority, Issued, Order};
use tokio::process::Command;

use crate::support::broker::publish;
use crate::support::device::{Answer, BOTH, Device, Link, connect};
use crate::support::gate::{Gate, Plan, group, listener};
use crate::support::mosquitto::{Mosquitto, command};
use crate::support::wire::packet;
use crate::support::{soon, until};

/// Several connections of one device at once: the broker tells them apart, and knows them by one name.
const EACH_ITS_OWN: &str = "[connect]\nclient_id = \"{device}:{client_id}\"\n";

/// A device with its certificate and key in the gate's folder, as `NAME.pem` and `NAME.key`.
struct Owner {
    name: &'static str,
    /// What the broker is to call it.
    id: String,
}

impl Owner {
    fn new(gate: &Gate, name: &'static str, order: Order, id: impl Fn(&Issued) -> String) -> Self {
        let issued = gate.authority.issue(order).expect("issued");
        std::fs::write(gate.file(&format!("{name}.pem")), issued.chain_pem()).expect("written");
        std::fs::write(
            gate.file(&format!("{name}.key")),
            issued.key_pem().as_bytes(),
        )
        .expect("written");
        let id = id(&issued);
        Self { name, id }
    }

    /// Its own topic.
    fn topic(&self) -> String {
        format!("devices/{}/x", self.id)
    }

    /// `mosquitto_pub` or `mosquitto_sub` as this device.
    fn client(&self, program: &str, gate: &Gate, version: &str, tls: &str) -> Command {
        let mut client = Command::from(command(program));
        client
            .args(["-h", "localhost", "-p"])
            .arg(gate.address().port().to_string())
            .args(["-V", version, "-q", "1"])
            .args(["--tls-version", &format!("tlsv{tls}")])
            .env("OPENSSL_CONF", gate.file(&format!("tls-{tls}.cnf")))
            .arg("--cafile")
            .arg(gate.file("ca.pem"))
            .arg("--cert")
            .arg(gate.file(&format!("{}.pem", self.name)))
            .arg("--key")
            .arg(gate.file(&format!("{}.key", self.name)))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        client
    }
}

/// For each version of MQTT and of TLS: what another device publishes under a device's name does not reach it, what
/// another publishes under its own name does not either, and what it publishes itself does.
async fn has_its_own_topics_only(
    trust: &str,
    order: impl Fn(&str) -> Order,
    id: impl Fn(&str, &Issued) -> String,
) {
    let mosquitto = Mosquitto::start().await;
    let gate = Gate::plan(Plan {
        addresses: Some(format!("[\"{}\"]", mosquitto.address())),
        trust: trust.into(),
        more: EACH_ITS_OWN.into(),
        files: ["1.2", "1.3"].map(only).into(),
        ..Plan::default()
    })
    .await;
    let owner = |name: &'static str| Owner::new(&gate, name, order(name), |i| id(name, i));
    let (mine, other) = (owner("meter-7"), owner("meter-8"));
    for (version, word) in [("mqttv31", "3.1"), ("mqttv311", "3.1.1"), ("mqttv5", "5.0")] {
        for tls in ["1.2", "1.3"] {
            let call = format!("{word}-{tls}");
            let client = |owner: &Owner, program| owner.client(program, &gate, version, tls);
            let says = async |owner: &Owner, topic: &str, message: &str| {
                let mut says = client(owner, "mosquitto_pub");
                says.args([
                    "-i", &call, "-u", "root", "-P", "secret", "-t", topic, "-m", message,
                ]);
                done(says).await
            };
            let mut listens = client(&mine, "mosquitto_sub");
            listens.args(["-i", &format!("s{call}"), "-t", "#", "-v", "-C", "1"]);
            let listens = listens.stdout(Stdio::piped()).stderr(Stdio::piped());
            let listens = listens.spawn().expect("mosquitto_sub starts");
            mosquitto
                .logs(&format!("Sending SUBACK to {}:s{call}", mine.id))
                .await;

            says(&other, &mine.topic(), "forged").await;
            mosquitto
                .logs(&format!("Denied PUBLISH from {}:{call}", other.id))
                .await;
            says(&other, &other.topic(), "not for you").await;
            let said = says(&mine, &mine.topic(), "mine").await;
            assert!(said.status.success(), "{call}: {said:?}");

            let heard = soon("mosquitto_sub to end", listens.wait_with_output()).await;
            let heard = heard.expect("a child");
            let expected = format!("{} mine\n", mine.topic());
            assert_eq!(String::from_utf8_lossy(&heard.stdout), expected, "{call}");
            let line = gate
                .line("closed", |line| {
                    line["client_id_asked"] == *call && line["device"] == *mine.id
                })
                .await;
            assert_eq!(line["tls_version"], tls);
            assert_eq!(line["mqtt_version"], word);
        }
    }
}

/// A configuration of OpenSSL that allows one version of TLS: for `--tls-version` is the lowest allowed.
fn only(tls: &str) -> (String, Vec<u8>) {
    let text = format!(
        "openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = one\n\
         [one]\nMinProtocol = TLSv{tls}\nMaxProtocol = TLSv{tls}\n"
    );
    (format!("tls-{tls}.cnf"), text.into_bytes())
}

/// Runs a client to its end.
async fn done(mut client: Command) -> Output {
    soon("the client to end", client.output())
        .await
        .expect("it runs")
}

#[tokio::test]
async fn a_device_named_by_its_common_name_has_its_own_topics_only() {
    let id = |name: &str, _: &Issued| name.to_owned();
    has_its_own_topics_only("device = \"subject.cn\"", Order::device_named, id).await;
}

#[tokio::test]
async fn a_device_named_by_a_uri_has_its_own_topics_only() {
    let trust = "device = \"san.uri\"\npattern = '^urn:device:(?<device>.+)$'";
    let order = |name: &str| Order::device_unnamed().uri(&format!("urn:device:{name}"));
    has_its_own_topics_only(trust, order, |name, _| name.to_owned()).await;
}

#[tokio::test]
async fn a_device_named_by_a_dns_name_has_its_own_topics_only() {
    let dns = |name: &str| format!("{name}.fleet.example.net");
    let order = |name: &str| Order::device_named("the same for all").dns(&dns(name));
    has_its_own_topics_only("device = \"san.dns\"", order, |name, _| dns(name)).await;
}

#[tokio::test]
async fn a_device_named_by_its_serial_has_its_own_topics_only() {
    let id = |_: &str, issued: &Issued| hex::encode(issued.serial());
    has_its_own_topics_only("device = \"serial\"", Order::device_named, id).await;
}

#[tokio::test]
async fn a_device_named_by_its_fingerprint_has_its_own_topics_only() {
    let id = |_: &str, issued: &Issued| {
        let der = issued.chain().swap_remove(0);
        hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der))
    };
    has_its_own_topics_only("device = \"fingerprint\"", Order::device_named, id).await;
}

/// threats.md I3, I7: the CAs of two groups each make a device of one name; to the broker they are two, and neither has the
/// other's topics. (Mosquitto reads `+ # /` in a `%u` as part of the topic, or refuses it; a `:` is plain text to it.)
#[tokio::test]
async fn devices_of_two_groups_have_their_own_topics_only() {
    let mosquitto = Mosquitto::start().await;
    let vendor = Authority::new("Vendor CA").expect("a CA");
    let listeners = [
        listener("devices", "mutual-tls", "", ""),
        group("fleet", "ca.pem", ""),
        group("vendor", "vendor.pem", ""),
    ];
    let name = "\"{trust}:{device}\"";
    let gate = Gate::plan(Plan {
        listeners: Some(listeners.concat()),
        files: vec![("vendor.pem".into(), vendor.certificate_pem().into())],
        more: format!("[connect]\nclient_id = {name}\nusername = {name}\n"),
        ..in_front_of(&[&mosquitto])
    })
    .await;
    gate.metric_becomes("tidegate_broker_up", &[], 1.0).await;
    let theirs = vendor
        .issue(Order::device_named("meter-7"))
        .expect("issued");
    for version in Version::ALL {
        let mut ours = admitted(&gate.device("meter-7"), version).await;
        let mut theirs = admitted(&gate.device_with(&theirs, BOTH), version).await;
        subscribe(&mut ours, version, "devices/#").await;
        for topic in [
            "devices/fleet:meter-7/x",
            "devices/meter-7/x",
            "devices/vendor:meter-7/x",
        ] {
            let says = publish(version, topic, b"forged");
            theirs.say(&says).await.expect("sent");
        }
        for topic in ["devices/fleet:meter-7/x", "devices/meter-7/x"] {
            let denied = format!("Denied PUBLISH from vendor:meter-7 (d0, q0, r0, m0, '{topic}'");
            mosquitto.logs(&denied).await;
        }
        let received =
            "Received PUBLISH from vendor:meter-7 (d0, q0, r0, m0, 'devices/vendor:meter-7/x'";
        mosquitto.logs(received).await;
        let says = publish(version, "devices/fleet:meter-7/x", b"mine");
        ours.say(&says).await.expect("sent");
        assert_eq!(ours.packet().await, Some(says), "{version}");
    }
}

fn in_front_of(brokers: &[&Mosquitto]) -> Plan {
    let addresses: Vec<String> = brokers
        .iter()
        .map(|broker| format!("\"{}\"", broker.address()))
        .collect();
    Plan {
        addresses: Some(format!("[{}]", addresses.join(", "))),
        broker: "[broker.health]\ninterval = \"1s\"\n".into(),
        ..Plan::default()
    }
}

async fn admitted(device: &Device, version: Version) -> Link {
    let (answer, link) = device.asks(&connect("x", version)).await;
    assert_eq!(answer, Answer::Admitted, "{version}");
    link.expect("admitted")
}

/// Subscribes to `topic` with QoS 0 and waits for the SUBACK.
async fn subscribe(link: &mut Link, version: Version, topic: &str) {
    let mut body = vec![0, 1];
    if version == Version::V5 {
        body.push(0);
    }
    body.extend_from_slice(&u16::try_from(topic.len()).expect("short").to_be_bytes());
    body.extend_from_slice(topic.as_bytes());
    body.push(0);
    link.say(&packet(0x82, &body)).await.expect("sent");
    assert_eq!(link.packet().await.expect("a SUBACK")[0], 0x90);
}

/// Publishes to itself again and again until the connection ends.
async fn chatters(mut link: Link, version: Version, topic: String) {
    let says = publish(version, &topic, &[0; 500]);
    while link.say(&says).await.is_ok() && link.packet().await.is_some() {}
}

async fn is_killed_amid_traffic_and_comes_back(mut mosquitto: Mosquitto) {
    let gate = Gate::plan(in_front_of(&[&mosquitto])).await;
    let mut talks = Vec::new();
    let mut devices = Vec::new();
    for n in 0..12 {
        let name = format!("meter-{n}");
        let (device, version) = (gate.device(&name), Version::ALL[n % 3]);
        let topic = format!("devices/{name}/x");
        let mut link = admitted(&device, version).await;
        subscribe(&mut link, version, &topic).await;
        talks.push(tokio::spawn(chatters(link, version, topic)));
        devices.push((device, version));
    }
    let open = "tidegate_connections_open";
    gate.metric_becomes(open, &[], 12.0).await;
    until("traffic", async || {
        let bytes = gate.metric("tidegate_relayed_bytes_total", &[]).await;
        (bytes > 100_000.0).then_some(())
    })
    .await;

    mosquitto.kill();

    for talk in talks {
        soon("a device to see the end", talk)
            .await
            .expect("no panic");
    }
    gate.metric_becomes(open, &[], 0.0).await;
    for (device, version) in &devices {
        let code = if *version == Version::V5 { 0x88 } else { 0x03 };
        let answer = device.connects_as("x", *version).await;
        assert_eq!(answer, Answer::Refused(code), "{version}"); // Server unavailable, not its identity
    }
    let closed = until("one line for each", async || {
        let closed = gate.lines("closed");
        (closed.len() == devices.len()).then_some(closed)
    })
    .await;
    for line in closed {
        // What the kernel says of a killed process differs: a reset where it had not read all, else an end of stream.
        let reason = line["reason"].as_str().expect("text");
        assert!(matches!(reason, "broker_lost" | "broker_closed"), "{line}");
    }

    mosquitto.come_back().await;

    for (n, (device, version)) in devices.iter().enumerate() {
        let topic = format!("devices/meter-{n}/x");
        let mut link = admitted(device, *version).await;
        subscribe(&mut link, *version, &topic).await;
        let says = publish(*version, &topic, b"again");
        link.say(&says).await.expect("sent");
        assert_eq!(link.packet().await.as_deref(), Some(&says[..]));
    }
}

#[tokio::test]
async fn devices_come_back_when_their_broker_does() {
    is_killed_amid_traffic_and_comes_back(Mosquitto::start().await).await;
}

#[tokio::test]
async fn devices_come_back_when_their_broker_does_on_a_socket_file() {
    is_killed_amid_traffic_and_comes_back(Mosquitto::start_on_socket_file().await).await;
}

/// The second alone is used while the first is away, and the first again when it is back.
#[tokio::test]
async fn another_broker_stands_in_for_one_that_is_down() {
    let mut first = Mosquitto::start().await;
    let second = Mosquitto::start_on_socket_file().await;
    let gate = Gate::plan(in_front_of(&[&first, &second])).await;
    let up = "tidegate_broker_up";
    gate.metric_becomes(up, &[], 2.0).await;
    let device = gate.device("meter-7");
    let goes_to = async |version| {
        let before = gate.lines("closed").len();
        drop(admitted(&device, version).await);
        until("the line of the connection", async || {
            gate.lines("closed")
                .get(before)
                .map(|line| line["broker"].clone())
        })
        .await
    };
    let takes_part = async |version, broker: String| {
        until("a device to go to each", async || {
            (goes_to(version).await == broker).then_some(())
        })
        .await;
    };
    for version in Version::ALL {
        takes_part(version, first.address()).await;

        first.kill();
        // At once, whatever the last probe found.
        assert_eq!(goes_to(version).await, second.address(), "{version}");
        gate.metric_becomes(up, &[("broker", &first.address())], 0.0)
            .await;
        assert_eq!(goes_to(version).await, second.address(), "{version}");

        first.come_back().await;
        gate.metric_becomes(up, &[("broker", &first.address())], 1.0)
            .await;
    }
    takes_part(Version::V5, first.address()).await;
}

/// More devices than its socket queues for come while the broker looks away for a moment: they wait, and get in
/// (threats.md V5).
async fn is_overrun_while_it_looks_away(mosquitto: Mosquitto) {
    const MANY: usize = 40; // Mosquitto queues ten on a socket file
    let gate = Gate::plan(Plan {
        broker: "dial_timeout = \"15s\"\n".into(),
        ..in_front_of(&[&mosquitto])
    })
    .await;
    gate.metric_becomes("tidegate_broker_up", &[], 1.0).await;
    mosquitto.freeze();
    let asks: Vec<_> = (0..MANY)
        .map(|n| {
            let device = gate.device(&format!("meter-{n}"));
            tokio::spawn(async move { device.connects_as("x", Version::V311).await })
        })
        .collect();
    let all = f64::from(u8::try_from(MANY).expect("small"));
    gate.metric_becomes("tidegate_connects_total", &[], all)
        .await;
    mosquitto.thaw();
    for ask in asks {
        assert_eq!(ask.await.expect("no panic"), Answer::Admitted);
    }
}

#[tokio::test]
async fn devices_wait_while_the_broker_looks_away() {
    is_overrun_while_it_looks_away(Mosquitto::start().await).await;
}

#[tokio::test]
async fn devices_wait_while_the_broker_looks_away_on_a_socket_file() {
    is_overrun_while_it_looks_away(Mosquitto::start_on_socket_file().await).await;
}

/// A Mosquitto is a device, too, when it bridges. It first asks for a protocol level of its own, 0x80 and the usual,
/// as bridges do among themselves, and gives that up when told that there is no such (MQTT 3.1.1 §3.1.2.2).
#[tokio::test]
async fn a_bridge_passes_messages_both_ways() {
    let central = Mosquitto::start().await;
    let gate = Gate::plan(Plan {
        more: EACH_ITS_OWN.into(),
        ..in_front_of(&[&central])
    })
    .await;
    let id = |_: &Issued| "site".to_owned();
    let site = Owner::new(&gate, "site", Order::device_named("site"), id);
    let file = |name: &str| gate.file(name).display().to_string();
    for (version, private) in [("mqttv31", false), ("mqttv311", true), ("mqttv50", false)] {
        let bridge = Mosquitto::start_with(&format!(
            "connection {version}\naddress localhost:{}\nbridge_protocol_version {version}\nrestart_timeout 1\n\
             bridge_cafile {}\nbridge_certfile {}\nbridge_keyfile {}\nnotifications false\n\
             cleansession true\ntry_private {private}\ntopic up/# out 1 devices/site/ devices/site/\n\
             topic down/# in 1 devices/site/ devices/site/\n",
            gate.address().port(),
            file("ca.pem"),
            file(&format!("{}.pem", site.name)),
            file(&format!("{}.key", site.name)),
        ))
        .await;
        bridge.logs("Received SUBACK").await;

        for (from, to, topic) in [
            (&bridge, &central, "devices/site/up/x"),
            (&central, &bridge, "devices/site/down/x"),
        ] {
            let at = |broker: &Mosquitto, program| {
                let mut client = Command::from(command(program));
                let address = broker.address();
                let (_, port) = address.rsplit_once(':').expect("a port");
                client.args(["-h", "127.0.0.1", "-p", port, "-u", "site", "-t", topic]);
                client.args(["-q", "1", "-i", version]).kill_on_drop(true);
                client
            };
            let mut listens = at(to, "mosquitto_sub");
            listens.args(["-C", "1"]).stdout(Stdio::piped());
            let listens = listens.spawn().expect("mosquitto_sub starts");
            to.logs(&format!("Sending SUBACK to {version}")).await;
            let mut says = at(from, "mosquitto_pub");
            says.args(["-m", version]);
            assert!(done(says).await.status.success());
            let heard = soon("a message", listens.wait_with_output()).await;
            let heard = heard.expect("a child").stdout;
            assert_eq!(String::from_utf8_lossy(&heard), format!("{version}\n"));
        }
    }
    gate.metric_becomes("tidegate_refusals_total", &[], 1.0)
        .await; // the level of its own
}
