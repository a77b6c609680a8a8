//! Modes, `min_mode`s and standings, all against all, at the running gate: what devices of each version are told
//! (threats.md I2, I8, §5).

use std::collections::HashMap;

use tidegate::mqtt::Version;
use tidegate::mqtt::connect::Connect;
use tidegate::rules::device::Mode;
use tidegate::rules::record::Record;
use tidegate::rules::token::Token;

use crate::support::device::{Answer, BOTH, Device, connect};
use crate::support::estate::{Estate, MIXED, now, record, with_token};
use crate::support::gate::{Gate, Plan};

/// How a device stands with the registry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Standing {
    Registered,
    Unknown,
    Disabled,
    Expired,
    /// It shows a certificate and a token, of two devices.
    Disagrees,
}

use Standing::{Disabled, Disagrees, Expired, Registered, Unknown};

const STANDINGS: [Standing; 5] = [Registered, Unknown, Disabled, Expired, Disagrees];

/// What a device is told: for 3.1.1 and for 5.0; and the reason in the log.
fn expected(mode: Mode, least: Mode, standing: Standing) -> (Answer, Answer, &'static str) {
    let refused = |v3, v5, reason| (Answer::Refused(v3), Answer::Refused(v5), reason);
    let by_token = mode != Mode::MutualTls;
    match standing {
        // Only who shows a certificate can disagree with itself; a token alone is somebody else's.
        Disagrees if by_token => refused(0x04, 0x86, "token_bad"),
        Disagrees => refused(0x04, 0x86, "credentials_disagree"),
        Unknown if by_token => refused(0x04, 0x86, "device_unknown"),
        Unknown => refused(0x05, 0x87, "device_unknown"),
        Expired if by_token => refused(0x04, 0x86, "token_expired"),
        Expired => refused(0x05, 0x87, "credential_expired"),
        Disabled => refused(0x05, 0x87, "device_disabled"),
        Registered if mode < least => refused(0x05, 0x87, "mode_not_allowed"),
        Registered => (Answer::Admitted, Answer::Admitted, ""),
    }
}

/// Two tokens: the device's own, and another device's.
fn tokens() -> [Token; 2] {
    [1, 2].map(|seed| Token::from_chance(&[seed; 32]))
}

/// The record of a device that stands so; `None`: it has none.
fn registered(name: &str, least: Mode, standing: Standing) -> Option<Record> {
    let mut record = record(name, Some(&tokens()[0]));
    record.min_mode = least;
    match standing {
        Unknown => return None,
        Disabled => record.enabled = false,
        Expired => {
            for credential in &mut record.credentials {
                credential.valid.until = Some(now() - 1);
            }
        }
        Registered | Disagrees => {}
    }
    Some(record)
}

/// What it sends.
fn asks(name: &str, mode: Mode, standing: Standing, version: Version) -> Connect {
    let [own, others] = &tokens();
    match (mode, standing) {
        (Mode::MutualTls, Disagrees) => with_token("other", others, version),
        (Mode::MutualTls, _) => connect(name, version),
        (_, Disagrees) => with_token(name, others, version),
        (_, _) => with_token(name, own, version),
    }
}

#[tokio::test]
async fn every_mode_min_mode_and_standing_gets_its_answer() {
    let plain = "\n[[listener]]\nname = \"open\"\nbind = \"127.0.0.1:0\"\nmode = \"plain\"\n";
    let mut gate = Gate::plan(Plan {
        listeners: Some(format!("{MIXED}{plain}")),
        more: "[registry]\nurl = \"sqlite://tidegate.db\"\n".into(),
        files: vec![(
            "token.key".into(),
            hex::encode(crate::support::estate::KEY).into_bytes(),
        )],
        ..Plan::default()
    })
    .await;
    gate.take_broker().welcome_all();
    let estate = Estate::of(gate).await;
    estate.add(record("other", Some(&tokens()[1]))).await;
    let stranger = estate.gate.stranger();
    let open = Device::plain(estate.gate.addresses["open"]);
    let (mut told, mut reasons) = (0, HashMap::<_, f64>::new());
    for mode in Mode::ALL {
        for least in Mode::ALL {
            for standing in STANDINGS {
                let name = format!("{mode}.{least}.{standing:?}");
                if let Some(record) = registered(&name, least, standing) {
                    estate.add(record).await;
                }
                let device = match mode {
                    Mode::MutualTls => &estate.gate.device_over(&name, BOTH),
                    Mode::ServerTls => &stranger,
                    Mode::Plain => &open,
                };
                let (v3, v5, reason) = expected(mode, least, standing);
                for (version, answer) in [(Version::V311, v3), (Version::V5, v5)] {
                    let asks = asks(&name, mode, standing, version);
                    assert_eq!(device.asks(&asks).await.0, answer, "{name} {version:?}");
                }
                *reasons.entry(reason).or_default() += 2.0;
                told += 1;
            }
        }
    }
    assert_eq!(told, 45);
    reasons.remove("");
    for (reason, count) in reasons {
        let metric = "tidegate_refusals_total";
        estate
            .gate
            .metric_becomes(metric, &[("reason", reason)], count)
            .await;
    }
}
