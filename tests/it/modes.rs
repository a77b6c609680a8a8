//! A reload may change the mode of a listener: for who comes next, and for who is in by a mode that there is no more (threats.md R1, R2).

use std::fs;
use std::time::Instant;

use tidegate::mqtt::Version;
use tidegate::rules::device::Mode;
use tidegate::rules::token::Token;

use crate::support::device::{Answer, Device, Link, connect};
use crate::support::estate::{Estate, admitted, ends, last_words, record, with_token};

const TLS: &str = "[listener.tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n";

fn token() -> Token {
    Token::from_chance(&[1; 32])
}

/// An estate with one device, `meter-7`, that may come by every mode.
async fn estate() -> Estate {
    let estate = Estate::new().await;
    let mut anyhow = record("meter-7", Some(&token()));
    anyhow.min_mode = Mode::Plain;
    estate.add(anyhow).await;
    estate
}

/// Puts `new` for `old` in the configuration, and waits until it is in force.
async fn change(estate: &Estate, changes: &[(&str, &str)]) {
    let gate = &estate.gate;
    let path = gate.file("tidegate.toml");
    let mut text = fs::read_to_string(&path).expect("its file");
    for (old, new) in changes {
        assert!(text.contains(old), "{old} is not in\n{text}");
        text = text.replacen(old, new, 1);
    }
    let before = gate.count("reloaded");
    fs::write(gate.file("new"), text).expect("written");
    fs::rename(gate.file("new"), path).expect("renamed");
    gate.next_line("reloaded", before).await;
}

fn by_token() -> tidegate::mqtt::connect::Connect {
    with_token("meter-7", &token(), Version::V5)
}

async fn goes_on(link: &mut Link) {
    link.say(&[0xc0, 0]).await.expect("it stays");
}

/// Whoever is in by a mode that its listener has no more ends; whoever is in by one that it still has stays.
#[tokio::test]
async fn another_mode_counts_for_who_comes_next_and_ends_what_there_is_no_more() {
    let estate = estate().await;
    let gate = &estate.gate;
    let (own, stranger) = (gate.device("meter-7"), gate.stranger());
    let plain = Device::plain(gate.address());
    let mut certified = admitted(&own, &connect("x", Version::V5)).await;
    let mut tokened = admitted(&stranger, &by_token()).await;
    let gone = async |link: &mut Link| {
        ends(
            &estate,
            link,
            Version::V5,
            "mode_tightened",
            0x87,
            Instant::now(),
        )
        .await;
    };

    change(&estate, &[("\"mixed-tls\"", "\"mutual-tls\"")]).await;
    gone(&mut tokened).await;
    goes_on(&mut certified).await;
    let answer = stranger.asks(&by_token()).await.0;
    assert_ne!(answer, Answer::Admitted, "it shows no certificate");

    change(&estate, &[("\"mutual-tls\"", "\"server-tls\"")]).await;
    gone(&mut certified).await;
    let mut tokened = admitted(&stranger, &by_token()).await;
    assert_ne!(own.connects_as("x", Version::V5).await, Answer::Admitted);

    change(&estate, &[("\"server-tls\"", "\"plain\""), (TLS, "")]).await;
    gone(&mut tokened).await;
    let mut open = admitted(&plain, &by_token()).await;
    assert!(stranger.dial().await.is_err(), "there is no TLS");

    let back = format!("mode = \"mixed-tls\"\n{TLS}");
    change(&estate, &[("mode = \"plain\"\n", &back)]).await;
    gone(&mut open).await;
    assert_ne!(plain.asks(&by_token()).await.0, Answer::Admitted);
    let mut certified = admitted(&own, &connect("x", Version::V5)).await;
    let mut tokened = admitted(&stranger, &by_token()).await;
    change(&estate, &[("\"mixed-tls\"\n", "\"mixed-tls\" # still\n")]).await;
    goes_on(&mut certified).await;
    goes_on(&mut tokened).await;
    gate.metric_becomes(
        "tidegate_revoked_connections_total",
        &[("cause", "mode_tightened")],
        4.0,
    )
    .await;
}

/// None slips in between: who has done its handshake, or has been accepted, by a mode that is gone when it says who it is, reaches no broker.
#[tokio::test]
async fn who_is_on_its_way_in_by_a_mode_that_goes_is_turned_away() {
    let estate = estate().await;
    let gate = &estate.gate;
    let late = async |link: &mut Link| {
        link.say(&by_token().encode().expect("it fits"))
            .await
            .expect("sent");
        let answer = link.answer(Version::V5).await;
        assert_eq!(answer, Answer::Refused(0x87));
    };
    let mut secured = gate.stranger().dial().await.expect("secured");
    // Its ClientHello went first, so the gate has it.
    gate.metric_becomes("tidegate_handshakes_total", &[("result", "ok")], 1.0)
        .await;
    change(&estate, &[("\"mixed-tls\"", "\"mutual-tls\"")]).await;
    late(&mut secured).await;
    gate.refusal("revoked_meanwhile").await;

    change(&estate, &[("\"mutual-tls\"", "\"plain\""), (TLS, "")]).await;
    let mut accepted = Device::plain(gate.address()).dial().await.expect("called");
    // The first byte, so that it was accepted by then.
    let packet = by_token().encode().expect("it fits");
    accepted.say(&packet[..1]).await.expect("sent");
    gate.metric_becomes("tidegate_connections_accepted_total", &[], 2.0)
        .await;
    let back = format!("mode = \"server-tls\"\n{TLS}");
    change(&estate, &[("mode = \"plain\"\n", &back)]).await;
    accepted.say(&packet[1..]).await.expect("sent");
    assert_eq!(last_words(&mut accepted).await.first(), Some(&0x20));
    let told = gate.next_line("refused", 1).await;
    assert_eq!(told["reason"], "revoked_meanwhile", "{told}");
    let why = told["why"].as_str().expect("text");
    assert!(why.contains("this mode"), "{why}");
    gate.metric_becomes("tidegate_connections_open", &[], 0.0)
        .await;
}

/// threats.md V6: how long memory is believed, and how much it holds, can be changed while the registry is away, when it is needed.
#[tokio::test]
async fn another_grace_counts_while_the_registry_is_away() {
    let estate = Estate::with("grace = \"0s\"\ncache = \"8MiB\"", "").await;
    estate.add(record("meter-7", None)).await;
    let gate = &estate.gate;
    let device = gate.device("meter-7");
    let asks = connect("x", Version::V5);
    drop(admitted(&device, &asks).await);
    fs::rename(gate.file("tidegate.db"), gate.file("away.db")).expect("renamed");
    gate.metric_becomes("tidegate_registry_up", &[], 0.0).await;
    crate::support::until("the grace to be over", async || {
        (device.asks(&asks).await.0 == Answer::Refused(0x88)).then_some(())
    })
    .await;

    change(
        &estate,
        &[
            ("grace = \"0s\"", "grace = \"2h\""),
            ("\"8MiB\"", "\"1MiB\""),
        ],
    )
    .await;

    drop(admitted(&device, &asks).await);
    gate.metric_becomes("tidegate_registry_up", &[], 0.0).await;
    change(&estate, &[("grace = \"2h\"", "grace = \"0s\"")]).await;
    assert_eq!(device.asks(&asks).await.0, Answer::Refused(0x88));
    assert_eq!(gate.count("reload_failed"), 0);
}
