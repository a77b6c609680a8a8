//! Brokers on other hosts, and a cable that is pulled out (threats.md V5, V7).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use tidegate::mqtt::Version;

use crate::support::broker::{Broker, Visit};
use crate::support::device::{Answer, Device, Link, connect};
use crate::support::gate::{Gate, Plan};
use crate::support::namespaces::{Host, has_its_own_namespaces};
use crate::support::until;

/// The gate's addresses for dialling, beside those that it has by the way.
const SOURCES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 9, 1), Ipv4Addr::new(10, 77, 9, 2)];

const PING: &[u8] = b"\xc0\x00";

/// The hosts of a gate's brokers, and the gate. Devices go to one broker after the other.
struct Site {
    hosts: Vec<Host>,
    brokers: Vec<Broker>,
    gate: Gate,
}

impl Site {
    async fn of(count: u8) -> Self {
        let hosts: Vec<_> = (1..=count).map(Host::new).collect();
        for address in SOURCES {
            hosts[0].add_address_here(address);
        }
        let brokers: Vec<_> = hosts
            .iter()
            .map(|host| Broker::listening(host.listen()))
            .collect();
        let at = brokers.iter().map(|one| format!("mqtt://{}", one.address));
        let gate = Gate::plan(Plan {
            addresses: Some(format!("{:?}", at.collect::<Vec<_>>())),
            broker: format!(
                "allow_plaintext = true\nbalance = \"round-robin\"\ndial_timeout = \"3s\"\n\
                 source_addresses = {:?}\n[broker.health]\ninterval = \"1s\"",
                SOURCES.map(|source| source.to_string())
            ),
            ..Plan::default()
        })
        .await;
        gate.metric_becomes("tidegate_broker_up", &[], f64::from(count))
            .await;
        Self {
            hosts,
            brokers,
            gate,
        }
    }

    /// Lets a device in: its connection, and at which broker.
    async fn lets_in(&self, device: &Device) -> (Link, Visit, usize) {
        let asks = connect("any", Version::V311);
        let ((answer, link), (visit, place)) = tokio::join!(device.asks(&asks), async {
            let [first, second] = self.brokers.as_slice() else {
                return (self.brokers[0].welcome().await, 0);
            };
            tokio::select! {
                visit = first.welcome() => (visit, 0),
                visit = second.welcome() => (visit, 1),
            }
        });
        assert_eq!(answer, Answer::Admitted);
        (link.expect("admitted"), visit, place)
    }

    /// How many connections the broker at `place` has from the gate.
    async fn open_at(&self, place: usize) -> f64 {
        let label = format!("mqtt://{}", self.brokers[place].address);
        let labels = [("broker", label.as_str())];
        self.gate
            .metric("tidegate_broker_connections_open", &labels)
            .await
    }
}

/// Where a broker sees the gate.
fn source(visit: &Visit) -> IpAddr {
    visit.socket.stream.peer_addr().expect("connected").ip()
}

/// A broker on another host is dialled from each of `broker.source_addresses` in turn.
#[tokio::test]
async fn another_host_is_dialled_from_each_source_address() {
    if !has_its_own_namespaces("hosts::another_host_is_dialled_from_each_source_address") {
        return;
    }
    let site = Site::of(1).await;
    let device = site.gate.device("meter-7");
    let mut seen = BTreeSet::new();
    let mut held = Vec::new();
    // A probe takes a turn, too, so two in a row may be from one.
    until("both addresses to be used", async || {
        let (link, visit, _) = site.lets_in(&device).await;
        seen.insert(source(&visit));
        held.push((link, visit));
        (seen.len() == 2).then_some(())
    })
    .await;
    assert_eq!(seen, SOURCES.map(IpAddr::from).into());
    assert!(held.len() < 8, "{} and still one address", held.len());
}

/// V5, V7: a cable is pulled out. New devices get to the other broker within `broker.dial_timeout`; those linked are not ended for
/// it, and what they said arrives when it is plugged in again; then that broker gets its turns as before.
#[tokio::test]
async fn a_cable_that_is_pulled_out_hurts_no_new_device_and_ends_no_link_at_once() {
    if !has_its_own_namespaces(
        "hosts::a_cable_that_is_pulled_out_hurts_no_new_device_and_ends_no_link_at_once",
    ) {
        return;
    }
    let site = Site::of(2).await;
    let device = site.gate.device("meter-7");
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(site.lets_in(&device).await);
    }
    let far = |held: &[(Link, Visit, usize)]| held.iter().filter(|one| one.2 == 1).count();
    assert_eq!(far(&held), 3);

    site.hosts[1].pull_out();
    for _ in 0..6 {
        let (mut link, mut visit, place) = site.lets_in(&device).await;
        assert_eq!(place, 0, "no other is there");
        link.say(PING).await.expect("sent");
        assert_eq!(visit.packet().await.as_deref(), Some(PING));
        held.push((link, visit, place));
    }
    let line = site.gate.line("broker_down", |_| true).await;
    assert_eq!(
        line["broker"],
        format!("mqtt://{}", site.brokers[1].address)
    );
    for (link, _, _) in held.iter_mut().filter(|one| one.2 == 1) {
        link.say(PING).await.expect("the gate takes it");
    }
    assert!((site.open_at(1).await - 3.0).abs() < 0.5);
    assert_eq!(site.gate.count("closed") + site.gate.count("refused"), 0);

    site.hosts[1].plug_in();
    for (_, visit, _) in held.iter_mut().filter(|one| one.2 == 1) {
        assert_eq!(
            visit.packet().await.as_deref(),
            Some(PING),
            "nothing is lost"
        );
    }
    until("it to be used again", async || {
        held.push(site.lets_in(&device).await);
        (far(&held) > 3).then_some(())
    })
    .await;
}
