//! A crowd at the door is turned away before any cryptography: counted, cheap, and without filling the log
//! (threats.md V1, V3, V11).

use std::net::IpAddr;

use tidegate::mqtt::Version;
use tokio::net::TcpStream;

use crate::limits::{HERE, crowd, let_in, shown_out};
use crate::support::broker::publish;
use crate::support::device::{Answer, Device, connect};
use crate::support::gate::{Gate, Plan};
use crate::support::until;

/// A gate with these limits, whose handshakes nobody hurries.
async fn gate(limits: &str) -> Gate {
    Gate::plan(Plan {
        limits: format!("{limits}\nhandshake_timeout = \"5m\"\n"),
        ..Plan::default()
    })
    .await
}

/// Waits until the gate has refused `count` for this reason.
async fn refused(gate: &Gate, reason: &str, count: usize) {
    let count = u32::try_from(count).expect("few");
    gate.metric_becomes(
        "tidegate_refusals_total",
        &[("reason", reason)],
        count.into(),
    )
    .await;
}

/// Waits until the gate has closed just so many of them.
async fn shows_out(crowd: &[Option<TcpStream>], count: usize) {
    let all = async || (shown_out(crowd) == count).then_some(());
    until("the others to be shown out", all).await;
}

fn loopback(last: u8) -> IpAddr {
    [127, 0, 0, last].into()
}

/// Whether it was turned away at the door.
async fn is_turned_away(device: &Device) -> bool {
    let answer = device.connects_as("", Version::V311).await;
    matches!(answer, Answer::NoTls(_) | Answer::Closed)
}

/// V1: one address has so many connections, whatever they are doing; no other suffers, and whoever leaves makes room.
#[tokio::test]
async fn an_address_has_its_places_and_no_more() {
    let mut gate = gate("connections_per_address = 3").await;
    let _house = gate.take_broker().welcome_all();
    let here = gate.device("meter-7");
    let there = Device {
        from: Some(loopback(2)),
        ..gate.device("meter-8")
    };
    let admitted = let_in(&there).await;

    let greedy = crowd(&gate, loopback(2), 20).await;
    shows_out(&greedy, 18).await;
    refused(&gate, "address_full", 18).await;
    assert!(is_turned_away(&there).await);
    let mut inside = Vec::new();
    for _ in 0..3 {
        inside.push(let_in(&here).await);
    }
    gate.metric_becomes("tidegate_handshakes_total", &[("result", "ok")], 4.0)
        .await; // those at the door cost no handshake

    drop(admitted);
    until("the place to be free", async || {
        (!is_turned_away(&there).await).then_some(())
    })
    .await;
    let told = gate.refusal("address_full").await;
    assert!(
        told["address"]
            .as_str()
            .expect("text")
            .starts_with("127.0.0.2:")
    );
}

/// V1: whoever comes too fast is turned away, and nobody else.
#[tokio::test]
async fn an_address_that_comes_too_fast_is_turned_away() {
    let mut gate = gate("accepts_per_address = 1").await;
    let _house = gate.take_broker().welcome_all();

    let hasty = crowd(&gate, loopback(2), 40).await;
    gate.metric_becomes("tidegate_connections_accepted_total", &[], 40.0)
        .await;
    let counted = gate
        .metric("tidegate_refusals_total", &[("reason", "address_rate")])
        .await;
    let over = async || {
        let over = shown_out(&hasty);
        (over as f64 >= counted).then_some(over)
    };
    let over = until("them to be shown out", over).await;
    assert!(
        (over as f64 - counted).abs() < f64::EPSILON,
        "{over} {counted}"
    );
    assert!((1..40).contains(&over), "{over}");

    let_in(&gate.device("meter-7")).await; // from another address
    let hasty = Device {
        from: Some(loopback(2)),
        ..gate.device("meter-8")
    };
    until("its pace to be even again", async || {
        (!is_turned_away(&hasty).await).then_some(())
    })
    .await;
}

/// V1: a full house turns away at once; those inside notice nothing, and a place that is free is the next one's.
#[tokio::test]
async fn a_full_house_turns_away_until_somebody_leaves() {
    let mut gate = gate("connections = 4").await;
    let house = gate.take_broker();
    let device = gate.device("meter-7");
    let (mut inside, mut visits) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let asks = connect("", Version::V311);
        let ((answer, link), visit) = tokio::join!(device.asks(&asks), house.welcome());
        assert_eq!(answer, Answer::Admitted);
        inside.push(link.expect("admitted"));
        visits.push(visit);
    }

    let waiting = crowd(&gate, HERE, 30).await;
    shows_out(&waiting, 30).await;
    refused(&gate, "full", 30).await;
    assert!(is_turned_away(&device).await);
    for (link, visit) in inside.iter_mut().zip(&mut visits) {
        let packet = publish(Version::V311, "devices/meter-7/state", b"on");
        let (said, came) = tokio::join!(link.say(&packet), visit.packet());
        said.expect("the gate reads");
        assert_eq!(came, Some(packet));
    }
    gate.metric_becomes("tidegate_connections_accepted_total", &[], 35.0)
        .await;

    inside.pop();
    visits.pop();
    let _house = house.welcome_all();
    until("the next to be let in", async || {
        (!is_turned_away(&device).await).then_some(())
    })
    .await;
    let told = gate.refusal("full").await;
    let why = told["why"].as_str().expect("text");
    assert!(why.contains("limits.connections (4)"), "{why}");
}

/// V11: a crowd at the door fills no log: of each reason some are told, of the rest their number.
#[tokio::test]
async fn a_crowd_at_the_door_does_not_fill_the_log() {
    let mut gate = gate("connections = 1").await;
    let _house = gate.take_broker().welcome_all();
    let _inside = let_in(&gate.device("meter-7")).await;

    let crowd = crowd(&gate, HERE, 400).await;
    shows_out(&crowd, 400).await;
    refused(&gate, "full", 400).await;

    until("the log to account for all of them", async || {
        let of = |event| {
            let lines = gate.lines(event).into_iter();
            lines.filter(|line| line["reason"] == "full")
        };
        let suppressed = of("suppressed").filter_map(|line| line["suppressed"].as_u64());
        (of("refused").count() as u64 + suppressed.sum::<u64>() == 400).then_some(())
    })
    .await;
    let lines = gate.count("refused");
    assert!((50..400).contains(&lines), "{lines}");
    gate.metric_becomes(
        "tidegate_log_lines_suppressed_total",
        &[],
        f64::from(u32::try_from(400 - lines).expect("few")),
    )
    .await;
}

/// V3: who promises more connections than the host has descriptors for is told so at the start.
#[tokio::test]
async fn more_connections_than_descriptors_are_warned_of() {
    for (connections, warned) in [(34, false), (35, true)] {
        let gate = Gate::plan(Plan {
            under: ["prlimit", "--nofile=100:200"].map(str::to_owned).to_vec(),
            limits: format!("connections = {connections}\n"),
            ..Plan::default()
        })
        .await;
        let told = gate.lines("configuration");
        let why = told.iter().filter_map(|line| line["why"].as_str());
        let of_descriptors = why.filter(|why| why.starts_with("limits.connections: "));
        assert_eq!(
            of_descriptors.count() == 1,
            warned,
            "{connections} {told:?}"
        );
    }
}
