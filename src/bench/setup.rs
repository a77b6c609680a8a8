//! What a report says about how it was made.

use std::collections::BTreeMap;

use super::report::{ClientCost, Report, Scenario};
use super::settings::{
    Certificates, Cipher, KeyExchange, Load, Phase, Settings, Signature, TlsVersion, USUAL_DEVICES,
    Until,
};
use crate::pki::KeyKind;

/// A report of nothing yet: the target and the moment.
pub(super) fn report(scenario: Scenario, settings: &Settings) -> Report {
    Report {
        scenario,
        target: settings.target.shown.clone(),
        setup: Vec::new(),
        began: time::OffsetDateTime::now_utc().unix_timestamp(),
        lasted: std::time::Duration::ZERO,
        rated: std::time::Duration::ZERO,
        in_time: 0,
        interrupted: false,
        attempts: 0,
        succeeded: 0,
        errors: BTreeMap::new(),
        negotiated: BTreeMap::new(),
        latencies: Vec::new(),
        payload_bytes: 0,
        timeline: Vec::new(),
        phases: Vec::new(),
        arrivals: Vec::new(),
        server: None,
        client: ClientCost::default(),
    }
}

/// The setup that all scenarios have: to be told behind what is a scenario's own, without which no figure can be read.
pub(super) fn common(settings: &Settings) -> Vec<(&'static str, String)> {
    let mut setup = vec![
        ("tls", tls(settings)),
        ("server certificate", verification(settings)),
        ("devices", devices(settings)),
        ("mqtt", settings.devices.mqtt.word().to_owned()),
        ("threads", settings.threads.to_string()),
        ("sources", sources(settings)),
    ];
    setup.extend(machine());
    setup
}

fn tls(settings: &Settings) -> String {
    if settings.tls.plain {
        return "none (--plain)".into();
    }
    let version = match settings.tls.version {
        None => "1.2 or 1.3",
        Some(TlsVersion::V12) => "1.2",
        Some(TlsVersion::V13) => "1.3",
    };
    let group = match settings.tls.key_exchange {
        KeyExchange::X25519 => "x25519",
        KeyExchange::P256 => "p256",
        KeyExchange::P384 => "p384",
        KeyExchange::X25519MlKem768 => "x25519mlkem768",
    };
    let cipher = match settings.tls.cipher {
        None => "any cipher",
        Some(Cipher::Aes128) => "aes128",
        Some(Cipher::Aes256) => "aes256",
        Some(Cipher::ChaCha20) => "chacha20",
    };
    let signature = match settings.tls.signature {
        None => "any signature",
        Some(Signature::Ecdsa) => "ecdsa",
        Some(Signature::Rsa) => "rsa",
        Some(Signature::Ed25519) => "ed25519",
    };
    let resumed = match settings.tls.resume {
        none if none <= 0.0 => "no resumption".to_owned(),
        part => format!("{:.0} % resumed", part * 100.0),
    };
    format!("{version}, {group}, {cipher}, {signature}, {resumed}")
}

fn verification(settings: &Settings) -> String {
    match &settings.tls.ca {
        None if settings.tls.plain => "none".into(),
        None => "NOT VERIFIED (--insecure): neither chain nor signature".into(),
        Some(ca) => format!(
            "verified by {}: each signature, and the chain once, then byte for byte",
            ca.display()
        ),
    }
}

fn devices(settings: &Settings) -> String {
    let count = settings.devices.count;
    match &settings.devices.certificates {
        Certificates::None => format!("{} without certificate", count.unwrap_or(USUAL_DEVICES)),
        Certificates::Made { key, .. } => {
            let key = match key {
                KeyKind::EcdsaP256 => "ECDSA P-256",
                KeyKind::EcdsaP384 => "ECDSA P-384",
                KeyKind::EcdsaP521 => "ECDSA P-521",
                KeyKind::Ed25519 => "Ed25519",
                KeyKind::Rsa2048 => "RSA 2048",
                KeyKind::Rsa4096 => "RSA 4096",
            };
            format!(
                "{}, each with its own {key} certificate",
                count.unwrap_or(USUAL_DEVICES)
            )
        }
        Certificates::Folder(at) => format!("certificates of {}", at.display()),
    }
}

fn sources(settings: &Settings) -> String {
    match settings.sources.as_slice() {
        [] => "one address, of the system's choice".into(),
        [one] => one.to_string(),
        [first, .., last] => format!("{} addresses, {first} to {last}", settings.sources.len()),
    }
}

/// In words, for the setup.
pub(super) fn load(load: Load) -> String {
    match load {
        Load::Closed(many) => format!("closed loop, {many} at once"),
        Load::Open(rate) if (rate.from - rate.to).abs() < f64::EPSILON => {
            format!("open loop, {} per second", rate.from)
        }
        Load::Open(rate) => format!("open loop, {} to {} per second", rate.from, rate.to),
    }
}

/// In words, for the setup.
pub(super) fn until(until: Until) -> String {
    match until {
        Until::Time(time) => humantime::format_duration(time).to_string(),
        Until::Count(count) => format!("{count} attempts"),
    }
}

/// The phases of a run, in words, for the setup.
pub(super) fn course(first: Until, then: &[Phase]) -> String {
    let followed = then.iter().map(|phase| {
        let time = humantime::format_duration(phase.time);
        let (from, to) = (phase.rate.from, phase.rate.to);
        if (from - to).abs() < f64::EPSILON {
            format!(", then {from} per second for {time}")
        } else {
            format!(", then {from} to {to} per second for {time}")
        }
    });
    until(first) + &followed.collect::<String>()
}

/// The machine that makes the load, and the harness itself.
fn machine() -> Vec<(&'static str, String)> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == "model name").then(|| value.trim().to_owned())
    });
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    vec![
        (
            "load machine",
            format!(
                "{} × {}",
                cpus,
                model.unwrap_or_else(|| std::env::consts::ARCH.into())
            ),
        ),
        ("kernel", format!("Linux {}", kernel.trim())),
        (
            "harness",
            format!(
                "tidegate {}, rustls on aws-lc-rs",
                env!("CARGO_PKG_VERSION")
            ),
        ),
    ]
}
