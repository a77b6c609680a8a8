//! A record as others read and write it: JSON for commands, exports and the admin API.
//!
//! Times are RFC 3339 in UTC, hashes and fingerprints lower-case hex. A token's hash is written only where a copy of the registry is
//! made ([`Form::whole`]); without the token key it is of no use.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::rules::device::{Alphabet, DeviceId, Mode};
use crate::rules::identity::Field;
use crate::rules::record::{Credential, LastSeen, Pin, Print, Proof, Record, Valid};

/// A device.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Form {
    /// Its name.
    pub device: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// For people and filters.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// May it enter at all? Left out: yes.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// The word of its weakest mode. Left out: `mutual-tls`.
    #[serde(default = "strongest")]
    pub min_mode: String,
    /// Its connections at once; 0: any number; left out: as `limits.connections_per_device` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// What it may show.
    #[serde(default)]
    pub credentials: Vec<CredentialForm>,
    /// The trust group that vouched for it when it registered itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered_by: Option<String>,
    /// Left out: now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Left out: now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<String>,
    /// When it was last admitted. Never read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<LastSeenForm>,
}

/// A credential.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialForm {
    /// Its number within the device. Left out: the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u32>,
    /// `vouched`: a certificate of a trust group. `pinned`: one certificate or key, whoever issued it. `token`.
    pub kind: String,
    /// `vouched`: the trust group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<String>,
    /// `vouched`: the field that names the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The one certificate: the SHA-256 of its DER.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// The one key: the SHA-256 of its SubjectPublicKeyInfo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// `token`: its keyed hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// The first second at which it counts. Left out: now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The last second at which it counts. Left out: no end of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// When and how a device was last admitted.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LastSeenForm {
    /// When.
    pub at: String,
    /// `ip:port`
    pub address: String,
    /// The word of its mode.
    pub mode: String,
    /// The SHA-256 of its certificate, if it showed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

fn yes() -> bool {
    true
}

fn strongest() -> String {
    Mode::MutualTls.word().to_owned()
}

impl Form {
    /// As it is shown: without the hashes of tokens.
    pub fn shown(record: &Record, seen: Option<&LastSeen>) -> Self {
        let mut form = Self::whole(record);
        for credential in &mut form.credentials {
            credential.hash = None;
        }
        form.last_seen = seen.map(|seen| LastSeenForm {
            at: time_text(seen.at),
            address: seen.address.clone(),
            mode: seen.mode.word().to_owned(),
            certificate: seen.certificate.map(hex::encode),
        });
        form
    }

    /// As it is copied to another registry: with the hashes of tokens.
    pub fn whole(record: &Record) -> Self {
        Self {
            device: record.device.to_string(),
            description: record.description.clone(),
            labels: record.labels.clone(),
            enabled: record.enabled,
            min_mode: record.min_mode.word().to_owned(),
            connections: record.connections,
            credentials: record.credentials.iter().map(CredentialForm::of).collect(),
            registered_by: record.registered_by.clone(),
            created: Some(time_text(record.created)),
            changed: Some(time_text(record.changed)),
            last_seen: None,
        }
    }

    /// The record that is meant; what is left out is as of `now`.
    ///
    /// # Errors
    /// A sentence: what is wrong, and the way out.
    pub fn record(self, alphabet: &Alphabet, now: i64) -> Result<Record, String> {
        let device = alphabet
            .device(&self.device)
            .map_err(|fault| format!("device {}: {fault}", quoted(&self.device)))?;
        let mut record = Record::new(device, now);
        record.description = description(&self.description)?;
        for (name, value) in self.labels {
            let (name, value) = label(&name, &value)?;
            record.labels.insert(name, value);
        }
        record.enabled = self.enabled;
        record.min_mode = mode(&self.min_mode)?;
        record.connections = self.connections.map(connections).transpose()?;
        record.registered_by = self.registered_by;
        let time = |text: Option<String>| text.map_or(Ok(now), |text| time(&text));
        record.created = time(self.created)?;
        record.changed = time(self.changed)?;
        for credential in self.credentials {
            credential.add_to(&mut record, now)?;
        }
        Ok(record)
    }
}

impl CredentialForm {
    fn of(credential: &Credential) -> Self {
        let mut form = Self {
            number: Some(credential.number),
            from: Some(time_text(credential.valid.from)),
            until: credential.valid.until.map(time_text),
            ..Self::default()
        };
        let pin = match &credential.proof {
            Proof::Vouched { group, field, pin } => {
                form.kind = "vouched".into();
                form.trust = Some(group.clone());
                form.field = Some(field.word().into());
                *pin
            }
            Proof::Pinned(pin) => {
                form.kind = "pinned".into();
                Some(*pin)
            }
            Proof::Token(hash) => {
                form.kind = "token".into();
                form.hash = Some(hex::encode(hash));
                None
            }
        };
        match pin {
            Some(Pin::Certificate(print)) => form.certificate = Some(hex::encode(print)),
            Some(Pin::Key(print)) => form.key = Some(hex::encode(print)),
            None => {}
        }
        form
    }

    fn add_to(self, record: &mut Record, now: i64) -> Result<(), String> {
        let proof = self.proof()?;
        let time = |text: Option<String>| text.map(|text| time(&text)).transpose();
        let valid = Valid {
            from: time(self.from)?.unwrap_or(now),
            until: time(self.until)?,
        };
        let Some(number) = self.number else {
            record.add_credential(proof, valid);
            return Ok(());
        };
        if number == 0 || record.credentials.iter().any(|one| one.number == number) {
            return Err(format!(
                "credential {number}: the number is there twice, or 0; leave it out to get the next one"
            ));
        }
        record.credentials.push(Credential {
            number,
            proof,
            valid,
        });
        Ok(())
    }

    fn proof(&self) -> Result<Proof, String> {
        let pin = match (&self.certificate, &self.key) {
            (Some(_), Some(_)) => {
                return Err(
                    "a credential has certificate or key, not both; write two credentials".into(),
                );
            }
            (Some(print_text), None) => Some(Pin::Certificate(print("certificate", print_text)?)),
            (None, Some(print_text)) => Some(Pin::Key(print("key", print_text)?)),
            (None, None) => None,
        };
        let needs = |what: &str| format!("a credential of kind {} needs {what}", self.kind);
        let refuse = |there: bool, what: &str| {
            let told = || {
                format!(
                    "a credential of kind {} has no {what}; remove it",
                    self.kind
                )
            };
            if there { Err(told()) } else { Ok(()) }
        };
        match self.kind.as_str() {
            "vouched" => {
                refuse(self.hash.is_some(), "hash")?;
                let group = self
                    .trust
                    .clone()
                    .ok_or_else(|| needs("trust, the group's name"))?;
                let field = self.field.as_deref().ok_or_else(|| needs("field"))?;
                let field = Field::from_word(field).ok_or_else(|| {
                    format!(
                        "field {}: write one of {}",
                        quoted(field),
                        Field::WORDS.join(" | ")
                    )
                })?;
                Ok(Proof::Vouched { group, field, pin })
            }
            "pinned" => {
                refuse(self.hash.is_some(), "hash")?;
                refuse(self.trust.is_some(), "trust")?;
                refuse(self.field.is_some(), "field")?;
                let pin = pin.ok_or_else(|| needs("certificate or key, a SHA-256 in hex"))?;
                Ok(Proof::Pinned(pin))
            }
            "token" => {
                refuse(pin.is_some(), "certificate or key")?;
                refuse(self.trust.is_some(), "trust")?;
                refuse(self.field.is_some(), "field")?;
                let hash = self.hash.as_deref().ok_or_else(|| needs("hash"))?;
                Ok(Proof::Token(print("hash", hash)?))
            }
            other => Err(format!(
                "kind {}: write one of vouched | pinned | token",
                quoted(other)
            )),
        }
    }
}

fn print(what: &str, text: &str) -> Result<Print, String> {
    let plain = text.replace(':', "");
    let mut print = [0; 32];
    hex::decode_to_slice(plain, &mut print)
        .map_err(|_| format!("{what}: it is no SHA-256 in hex, which has 64 characters"))?;
    Ok(print)
}

/// Reads the word of a mode.
///
/// # Errors
/// A sentence with the words there are.
pub fn mode(word: &str) -> Result<Mode, String> {
    let known = Mode::ALL.into_iter().find(|mode| mode.word() == word);
    known.ok_or_else(|| {
        let all = Mode::ALL.map(Mode::word).join(" | ");
        format!("min_mode {}: write one of {all}", quoted(word))
    })
}

/// The most connections that a record may name.
pub const MOST_CONNECTIONS: u32 = 1_000_000;

/// Judges the number of connections of one device.
///
/// # Errors
/// A sentence.
pub fn connections(number: u32) -> Result<u32, String> {
    if number <= MOST_CONNECTIONS {
        Ok(number)
    } else {
        Err(format!(
            "connections {number}: it is not within 0 to {MOST_CONNECTIONS}; 0 is any number"
        ))
    }
}

/// Judges a description.
///
/// # Errors
/// A sentence, when it is too long or holds control characters.
pub fn description(text: &str) -> Result<String, String> {
    plain(text).map_err(|why| format!("description: {why}"))
}

/// Judges a label: its name is 1 to 64 of `A–Z a–z 0–9 . _ -`, its value a text that is not empty.
///
/// # Errors
/// A sentence.
pub fn label(name: &str, value: &str) -> Result<(String, String), String> {
    let fits = (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if !fits {
        return Err(format!(
            "label {}: its name is not 1 to 64 of A–Z a–z 0–9 . _ -",
            quoted(name)
        ));
    }
    if value.is_empty() {
        return Err(format!(
            "label {name}: it has no value; write {name}=… or leave it out"
        ));
    }
    let value = plain(value).map_err(|why| format!("label {name}: {why}"))?;
    Ok((name.to_owned(), value))
}

fn plain(text: &str) -> Result<String, String> {
    if text.len() > Record::LONGEST_TEXT {
        Err(format!(
            "it has more than {} bytes; shorten it",
            Record::LONGEST_TEXT
        ))
    } else if text.chars().any(char::is_control) {
        Err("it holds control characters, such as line ends; remove them".into())
    } else {
        Ok(text.to_owned())
    }
}

/// The start of a text of others, for a sentence.
pub fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(80).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}

/// Seconds since 1970 in RFC 3339, UTC; before 1970 and behind the year 9999 the nearest that it can say.
pub fn time_text(unix: i64) -> String {
    const LAST: u64 = 253_402_300_799; // 9999-12-31T23:59:59Z
    let unix = u64::try_from(unix).unwrap_or(0).min(LAST);
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(unix)).to_string()
}

/// Reads a time in RFC 3339, UTC, or a date, which is its last second.
///
/// # Errors
/// A sentence with an example.
pub fn time(text: &str) -> Result<i64, String> {
    let date = text.len() == 10 && !text.contains('T');
    let whole = if date {
        format!("{text}T23:59:59Z")
    } else {
        text.to_owned()
    };
    humantime::parse_rfc3339(&whole)
        .ok()
        .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .ok_or_else(|| {
            format!(
                "{} is no time; write 2027-01-31 or 2027-01-31T12:00:00Z (UTC)",
                quoted(text)
            )
        })
}

/// The devices' ids and pins that are in more than one of `records`: the place of the later one, and what is wrong.
pub fn doubles(records: &[Record]) -> Vec<(usize, String)> {
    let mut ids = BTreeMap::<&DeviceId, usize>::new();
    let mut pins = std::collections::HashMap::<Pin, &DeviceId>::new();
    let mut found = Vec::new();
    for (at, record) in records.iter().enumerate() {
        if ids.insert(&record.device, at).is_some() {
            found.push((
                at,
                format!("{} is there twice; leave one of them", record.device),
            ));
        }
        for credential in &record.credentials {
            if let Proof::Pinned(pin) = credential.proof
                && let Some(other) = pins.insert(pin, &record.device)
            {
                found.push((
                    at,
                    format!(
                        "the pin of {} is that of {other} too; a pin is one device's",
                        record.device
                    ),
                ));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Record {
        let mut record = Record::new("meter-7".parse().expect("a device id"), 1_000_000_000);
        record.description = "by the \"door\"; a, b".into();
        record.labels.insert("site".into(), "harbour; north".into());
        record.enabled = false;
        record.min_mode = Mode::ServerTls;
        record.connections = Some(2);
        record.registered_by = Some("fleet".into());
        record.changed = 1_000_000_001;
        let vouched = |pin| Proof::Vouched {
            group: "fleet".into(),
            field: Field::SanUri,
            pin,
        };
        let end = Valid {
            from: 1,
            until: Some(253_402_300_799),
        };
        record.add_credential(vouched(None), Valid::since(5));
        record.add_credential(vouched(Some(Pin::Key([1; 32]))), end);
        record.add_credential(Proof::Pinned(Pin::Certificate([2; 32])), end);
        record.add_credential(Proof::Token([3; 32]), Valid::since(0));
        record.credentials.remove(1);
        record
    }

    #[test]
    fn a_record_is_the_same_after_its_copy_was_read() {
        let record = all();
        let text = serde_json::to_string(&Form::whole(&record)).expect("JSON");
        let form: Form = serde_json::from_str(&text).expect("JSON");
        let again = form.record(&Alphabet::default(), 7).expect("good");
        assert_eq!(again, record);
    }

    #[test]
    fn a_device_is_shown_without_the_hashes_of_its_tokens() {
        let seen = LastSeen {
            at: 1_000_000_000,
            address: "192.0.2.1:5".into(),
            mode: Mode::Plain,
            certificate: None,
        };
        let text = serde_json::to_string(&Form::shown(&all(), Some(&seen))).expect("JSON");
        assert!(!text.contains(&"03".repeat(32)), "{text}");
        assert!(text.contains("\"at\":\"2001-09-09T01:46:40Z\""), "{text}");
    }

    #[test]
    fn what_is_left_out_is_the_strictest_and_now() {
        let form: Form = serde_json::from_str("{\"device\":\"a\",\"credentials\":[{\"kind\":\"vouched\",\"trust\":\"fleet\",\"field\":\"subject.cn\"}]}").expect("JSON");
        let record = form.record(&Alphabet::default(), 9).expect("good");
        assert_eq!(
            (record.min_mode, record.enabled, record.created),
            (Mode::MutualTls, true, 9)
        );
        assert_eq!(
            (record.credentials[0].number, record.credentials[0].valid),
            (1, Valid::since(9))
        );
    }

    #[test]
    fn each_mistake_tells_the_way_out() {
        let told = |more: &str| {
            let text = format!("{{\"device\":\"a\",{more}}}");
            let form = serde_json::from_str::<Form>(&text);
            let record = form
                .map_err(|e| e.to_string())
                .and_then(|form| form.record(&Alphabet::default(), 0));
            record.expect_err(more)
        };
        for (more, way_out) in [
            ("\"devices\":1", "unknown field `devices`"),
            (
                "\"min_mode\":\"tls\"",
                "one of plain | server-tls | mutual-tls",
            ),
            ("\"labels\":{\"a b\":\"c\"}", "1 to 64 of"),
            ("\"labels\":{\"a\":\"\"}", "has no value"),
            ("\"description\":\"a\\nb\"", "control characters"),
            ("\"connections\":1000001", "0 to 1000000"),
            ("\"created\":\"yesterday\"", "2027-01-31"),
            (
                "\"credentials\":[{\"kind\":\"cert\"}]",
                "vouched | pinned | token",
            ),
            ("\"credentials\":[{\"kind\":\"vouched\"}]", "needs trust"),
            (
                "\"credentials\":[{\"kind\":\"pinned\"}]",
                "needs certificate or key",
            ),
            (
                "\"credentials\":[{\"kind\":\"pinned\",\"certificate\":\"00\"}]",
                "64 characters",
            ),
            (
                "\"credentials\":[{\"kind\":\"token\",\"key\":\"00\"}]",
                "no SHA-256",
            ),
            ("\"credentials\":[{\"kind\":\"token\"}]", "needs hash"),
        ] {
            assert!(told(more).contains(way_out), "{more}: {}", told(more));
        }
    }

    #[test]
    fn a_date_is_its_last_second() {
        assert_eq!(time("2001-09-09T01:46:40Z"), Ok(1_000_000_000));
        assert_eq!(time("1970-01-01"), Ok(86_399));
        for bad in ["", "soon", "2027-13-01", "2027-01-31 12:00", "90d"] {
            assert!(time(bad).is_err(), "{bad:?}");
        }
        assert_eq!(time_text(-5), "1970-01-01T00:00:00Z");
        assert_eq!(time_text(i64::MAX), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn ids_and_pins_are_found_twice() {
        let (mut a, mut b) = (all(), all());
        a.credentials
            .retain(|one| !matches!(one.proof, Proof::Pinned(_)));
        assert_eq!(doubles(&[a.clone()]).len(), 0);
        b.device = "other".parse().expect("a device id");
        let found = doubles(&[a, b, all()]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().all(|(at, _)| *at == 2), "{found:?}");
    }
}
