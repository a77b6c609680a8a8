//! What the registry says of a device.

use serde::Serialize;

use crate::gate::explain::{Held, Known};
use crate::rules::policy::Unknown;
use crate::rules::record::{self, LastSeen, Pin, Proof, Record};
use crate::tls::trust::date;

/// What the registry says.
#[derive(Debug, Serialize)]
pub(super) struct InRegistry {
    /// `none`: there is no registry; `not_asked`; `known`; `unknown`; `would_register`; `full`; `away`
    pub(super) state: &'static str,
    pub(super) why: Option<String>,
    pub(super) record: Option<Told>,
}

/// A record.
#[derive(Debug, Serialize)]
pub(super) struct Told {
    pub(super) device: String,
    pub(super) enabled: bool,
    pub(super) min_mode: &'static str,
    pub(super) connections: Option<u32>,
    pub(super) registered_by: Option<String>,
    pub(super) created: String,
    pub(super) changed: String,
    pub(super) last_seen: Option<Seen>,
    pub(super) credentials: Vec<Credential>,
}

/// When the device was last admitted.
#[derive(Debug, Serialize)]
pub(super) struct Seen {
    pub(super) at: String,
    pub(super) address: String,
    pub(super) mode: &'static str,
    pub(super) certificate: Option<String>,
}

/// Something that the device may show.
#[derive(Debug, Serialize)]
pub(super) struct Credential {
    pub(super) number: u32,
    pub(super) what: String,
    pub(super) from: String,
    pub(super) until: Option<String>,
    /// It is what the device shows.
    pub(super) shown: bool,
    /// Its time is now.
    pub(super) counts: bool,
}

impl InRegistry {
    pub(super) fn of(known: Option<&Known>, now: i64) -> Self {
        let told = |state, why: Option<&str>| Self {
            state,
            why: why.map(str::to_owned),
            record: None,
        };
        let Some(known) = known else {
            return told("not_asked", None);
        };
        match &known.held {
            Held::NoRegistry => told("none", None),
            Held::Away(why) => told("away", Some(why)),
            Held::Full(why) => told("full", Some(why)),
            Held::Unknown(unknown) => told("unknown", Some(unknown_words(*unknown))),
            Held::Known(record) => Self {
                state: if known.would_register {
                    "would_register"
                } else {
                    "known"
                },
                why: None,
                record: Some(Told::of(record, known.seen.as_ref(), &known.matching, now)),
            },
        }
    }
}

/// What becomes of a device that the registry does not know.
fn unknown_words(unknown: Unknown) -> &'static str {
    match unknown {
        Unknown::Refuse => "registry.unknown = \"refuse\"",
        Unknown::Admit => "registry.unknown = \"admit\"",
        Unknown::Register { .. } => {
            "registry.unknown = \"register\" is for those with a certificate that a trust group vouches for, and that names them"
        }
    }
}

impl Told {
    /// `matching`: the numbers of the credentials that the device shows.
    pub(super) fn of(record: &Record, seen: Option<&LastSeen>, matching: &[u32], now: i64) -> Self {
        let credential = |one: &record::Credential| Credential {
            number: one.number,
            what: proof(&one.proof),
            from: date(one.valid.from),
            until: one.valid.until.map(date),
            shown: matching.contains(&one.number),
            counts: one.valid.holds(now),
        };
        Self {
            device: record.device.to_string(),
            enabled: record.enabled,
            min_mode: record.min_mode.word(),
            connections: record.connections,
            registered_by: record.registered_by.clone(),
            created: date(record.created),
            changed: date(record.changed),
            last_seen: seen.map(|seen| Seen {
                at: date(seen.at),
                address: seen.address.clone(),
                mode: seen.mode.word(),
                certificate: seen.certificate.map(hex::encode),
            }),
            credentials: record.credentials.iter().map(credential).collect(),
        }
    }
}

/// What has to be shown, in words.
fn proof(proof: &Proof) -> String {
    let pinned = |pin: &Pin| match pin {
        Pin::Certificate(print) => format!("the certificate {}", hex::encode(print)),
        Pin::Key(print) => format!("any certificate with the key {}", hex::encode(print)),
    };
    match proof {
        Proof::Vouched {
            group,
            field,
            pin: None,
        } => format!("any certificate of trust[{group}] that names it by {field}"),
        Proof::Vouched {
            group,
            field,
            pin: Some(pin),
        } => format!(
            "{}, of trust[{group}], which names it by {field}",
            pinned(pin)
        ),
        Proof::Pinned(pin) => format!("{}, whoever issued it", pinned(pin)),
        Proof::Token(_) => "a token".to_owned(),
    }
}
