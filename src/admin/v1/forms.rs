//! What is sent and shown of devices.

use std::collections::BTreeMap;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{PemObject, SectionKind};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use crate::registry::form::{self, Form};
use crate::rules::change::{Group, NotTaken, Part, take_certificate};
use crate::rules::device::DeviceId;
use crate::rules::record::{Pin, Print, Proof, Record, Valid};

use super::reply::Problem;

/// `POST /v1/devices`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewDevice {
    pub(super) device: String,
    #[serde(default, deserialize_with = "there")]
    pub(super) description: Option<String>,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "there")]
    pub(super) enabled: Option<bool>,
    #[serde(default, deserialize_with = "there")]
    pub(super) min_mode: Option<String>,
    #[serde(default)]
    pub(super) connections: Option<u32>,
    #[serde(default)]
    pub(super) credentials: Vec<NewCredential>,
    /// Whether one is to be made.
    #[serde(default)]
    pub(super) token: bool,
}

/// `POST /v1/devices/{device}/credentials`, and what a new device shows.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewCredential {
    /// The group that is to vouch for it.
    #[serde(default, deserialize_with = "there")]
    pub(super) trust: Option<String>,
    /// The one certificate: the SHA-256 of its DER.
    #[serde(default, deserialize_with = "there")]
    certificate: Option<String>,
    /// The one key: the SHA-256 of its SubjectPublicKeyInfo.
    #[serde(default, deserialize_with = "there")]
    key: Option<String>,
    /// The one certificate itself.
    #[serde(default, deserialize_with = "there")]
    pem: Option<String>,
    /// What of it is pinned.
    #[serde(default, deserialize_with = "there")]
    pin: Option<PinWord>,
    #[serde(default, deserialize_with = "there")]
    until: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PinWord {
    Certificate,
    Key,
}

/// `PATCH /v1/devices/{device}` (RFC 7396): what is left out stays, `null` is back to the default.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Patch {
    #[serde(default)]
    description: Given<String>,
    /// A label that is `null` is removed; the others stay.
    #[serde(default)]
    labels: BTreeMap<String, Option<String>>,
    #[serde(default)]
    enabled: Given<bool>,
    #[serde(default)]
    min_mode: Given<String>,
    #[serde(default)]
    connections: Given<u32>,
}

/// A member that may be left out, or `null`.
#[derive(Clone, Debug, Default)]
enum Given<T> {
    #[default]
    LeftOut,
    Null,
    Value(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Given<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = Option::deserialize(from)?;
        Ok(value.map_or(Self::Null, Self::Value))
    }
}

impl<T> Given<T> {
    /// The value, or what `null` stands for; `None`: it was left out.
    fn or(&self, null: T) -> Option<T>
    where
        T: Clone,
    {
        match self {
            Self::LeftOut => None,
            Self::Null => Some(null),
            Self::Value(value) => Some(value.clone()),
        }
    }
}

/// `POST /v1/devices/{device}/rotate-token`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rotation {
    /// How long the old ones still count.
    #[serde(default, deserialize_with = "there")]
    overlap: Option<String>,
    /// When the new one ends.
    #[serde(default, deserialize_with = "there")]
    until: Option<String>,
}

/// A device, and the token that was made for it.
#[derive(Debug, Serialize)]
pub(super) struct WithToken {
    #[serde(flatten)]
    pub(super) device: Form,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<String>,
}

/// A page of devices.
#[derive(Debug, Serialize)]
pub(super) struct DevicesForm {
    pub(super) devices: Vec<Form>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<String>,
}

/// A value that is there, and not `null`.
fn there<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// Reads a body; none at all is an empty object.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|fault| {
        Problem::bad_request(format!(
            "the body is not as it should be: {fault}; see /v1/openapi.json"
        ))
    })
}

impl NewDevice {
    /// The record, but for a token.
    pub(super) fn record(
        &self,
        device: DeviceId,
        group: impl Fn(&str) -> Result<Group, Problem>,
        now: i64,
    ) -> Result<Record, Problem> {
        let mut record = Record::new(device, now);
        let description = self.description.as_deref().unwrap_or_default();
        record.description = form::description(description).map_err(Problem::bad_request)?;
        for (name, value) in &self.labels {
            let (name, value) = form::label(name, value).map_err(Problem::bad_request)?;
            record.labels.insert(name, value);
        }
        record.enabled = self.enabled.unwrap_or(true);
        if let Some(word) = &self.min_mode {
            record.min_mode = form::mode(word).map_err(Problem::bad_request)?;
        }
        let connections = self.connections.map(form::connections).transpose();
        record.connections = connections.map_err(Problem::bad_request)?;
        for new in &self.credentials {
            let group = new.trust.as_deref().map(&group).transpose()?;
            let new = new.proof(group.as_ref(), &record.device, now)?;
            record.enrol(&[new]).map_err(Problem::bad_request)?;
        }
        Ok(record)
    }
}

impl NewCredential {
    /// What is to be shown, and when it counts.
    pub(super) fn proof(
        &self,
        group: Option<&Group>,
        device: &DeviceId,
        now: i64,
    ) -> Result<(Proof, Valid), Problem> {
        self.checked(group, device, now)
            .map_err(Problem::bad_request)
    }

    fn checked(
        &self,
        group: Option<&Group>,
        device: &DeviceId,
        now: i64,
    ) -> Result<(Proof, Valid), String> {
        let until = until(self.until.as_deref(), now)?;
        if self.pin.is_some() && self.pem.is_none() {
            return Err("pin says what of pem is pinned; without pem, leave it out".into());
        }
        let valid = Valid { from: now, until };
        let pinned = |pin| match group {
            Some(group) => group.proof(Some(pin)),
            None => Proof::Pinned(pin),
        };
        match (&self.certificate, &self.key, &self.pem) {
            (Some(text), None, None) => {
                Ok((pinned(Pin::Certificate(print("certificate", text)?)), valid))
            }
            (None, Some(text), None) => Ok((pinned(Pin::Key(print("key", text)?)), valid)),
            (None, None, Some(text)) => {
                let part = match self.pin {
                    Some(PinWord::Key) => Part::Key,
                    Some(PinWord::Certificate) | None => Part::Certificate,
                };
                let der = certificate(text)?;
                take_certificate(&der, part, group, device, until, now).map_err(|fault| told(&fault))
            }
            (None, None, None) => match group {
                Some(group) => Ok((group.proof(None), valid)),
                None => Err("it names nothing to show; write trust, certificate, key or pem".into()),
            },
            _ => Err("certificate, key and pem cannot stand beside each other; write one of them, and further credentials for others".into()),
        }
    }
}

impl Patch {
    /// Judges it, and gives what it changes, in words for the log.
    pub(super) fn judged(&self) -> Result<String, Problem> {
        let mut trial = Record::new("trial".parse().map_err(|_| Problem::broken())?, 0);
        self.apply(&mut trial).map_err(Problem::bad_request)?;
        let mut told = Vec::new();
        if self.description.or(String::new()).is_some() {
            told.push("description".to_owned());
        }
        told.extend(self.labels.keys().map(|name| format!("label {name}")));
        if self.enabled.or(true).is_some() {
            told.push(format!("enabled: {}", trial.enabled));
        }
        if self.min_mode.or(String::new()).is_some() {
            told.push(format!("min_mode: {}", trial.min_mode));
        }
        if !matches!(self.connections, Given::LeftOut) {
            let number = trial.connections.map(|number| number.to_string());
            told.push(format!(
                "connections: {}",
                number.as_deref().unwrap_or("default")
            ));
        }
        if told.is_empty() {
            let what = "the body changes nothing; write description, labels, enabled, min_mode or connections";
            return Err(Problem::bad_request(what.into()));
        }
        Ok(told.join(", "))
    }

    /// Changes a record.
    pub(super) fn apply(&self, record: &mut Record) -> Result<(), String> {
        if let Some(text) = self.description.or(String::new()) {
            record.description = form::description(&text)?;
        }
        for (name, value) in &self.labels {
            let (name, checked) = form::label(name, value.as_deref().unwrap_or("-"))?;
            match value {
                Some(_) => record.labels.insert(name, checked),
                None => record.labels.remove(&name),
            };
        }
        let fresh = Record::new(record.device.clone(), 0);
        match self.enabled {
            Given::LeftOut => {}
            // Where null means "not said", it must not let a disabled device in.
            Given::Null => return Err("enabled: write true or false".into()),
            Given::Value(enabled) => record.enabled = enabled,
        }
        if let Some(word) = self.min_mode.or(fresh.min_mode.word().into()) {
            record.min_mode = form::mode(&word)?;
        }
        match self.connections {
            Given::LeftOut => {}
            Given::Null => record.connections = fresh.connections,
            Given::Value(number) => record.connections = Some(form::connections(number)?),
        }
        Ok(())
    }
}

/// How long old tokens still count, unless the caller says.
const OVERLAP: Duration = Duration::from_hours(24);
/// The longest that they may.
const LONGEST_OVERLAP: Duration = Duration::from_hours(366 * 24);

impl Rotation {
    /// For how many seconds the old ones still count.
    pub(super) fn overlap(&self) -> Result<i64, Problem> {
        let read = |text: &str| humantime::parse_duration(text).ok();
        let overlap = self.overlap.as_deref().map_or(Some(OVERLAP), read);
        let overlap = overlap.filter(|overlap| *overlap <= LONGEST_OVERLAP);
        overlap
            .and_then(|overlap| i64::try_from(overlap.as_secs()).ok())
            .ok_or_else(|| {
                let what = "overlap is no span of time up to a year; write 24h, 30m or 0s";
                Problem::bad_request(what.into())
            })
    }

    /// When the new one counts.
    pub(super) fn valid(&self, now: i64) -> Result<Valid, Problem> {
        let until = until(self.until.as_deref(), now).map_err(Problem::bad_request)?;
        Ok(Valid { from: now, until })
    }
}

/// Why a certificate is not taken, with the way out.
fn told(fault: &NotTaken) -> String {
    let way_out = match fault {
        NotTaken::Unreadable(_) => return format!("pem: {fault}"),
        NotTaken::Ended(_) => {
            "make a new one, pin its key alone by \"pin\": \"key\", or say by until how long it is to count"
        }
        NotTaken::NotADevices(_) => "leave trust out, and it is pinned as it is",
        NotTaken::NotIts(_) => {
            "register it under that name, or leave trust out to pin the certificate whatever it says"
        }
    };
    format!("pem: {fault}; {way_out}")
}

fn until(text: Option<&str>, now: i64) -> Result<Option<i64>, String> {
    let Some(text) = text else {
        return Ok(None);
    };
    match form::time(text).map_err(|why| format!("until: {why}"))? {
        over if over < now => Err(format!("until: {text} is over already; write a later time")),
        until => Ok(Some(until)),
    }
}

fn print(what: &str, text: &str) -> Result<Print, String> {
    let mut print = [0; 32];
    hex::decode_to_slice(text.replace(':', ""), &mut print)
        .map_err(|_| format!("{what}: it is no SHA-256 in hex, which has 64 characters"))?;
    Ok(print)
}

/// Reads the one certificate of a PEM text.
fn certificate(text: &str) -> Result<CertificateDer<'static>, String> {
    let mut found = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes()) {
        match section {
            Ok((SectionKind::Certificate, der)) => found.push(der.into()),
            Ok((kind, _)) if is_secret(kind) => {
                return Err("pem: a private key is in it; send the certificate alone, and make the device a new key: this one has been shown".into());
            }
            Ok(_) => {
                return Err("pem: there is more in it than a certificate; send that alone".into());
            }
            Err(_) => {
                return Err(
                    "pem: it is garbled; send the whole of the certificate, line ends too".into(),
                );
            }
        }
    }
    match <[_; 1]>::try_from(found) {
        Ok([der]) => Ok(der),
        Err(all) => Err(format!(
            "pem: {} certificates are in it; send the device's own alone",
            all.len()
        )),
    }
}

fn is_secret(kind: SectionKind) -> bool {
    matches!(
        kind,
        SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told<T: std::fmt::Debug>(done: Result<T, Problem>) -> String {
        done.expect_err("a mistake").detail
    }

    #[test]
    fn a_patch_changes_what_it_names() {
        let mut record = Record::new("meter-7".parse().expect("a device id"), 0);
        record.labels.insert("a".into(), "1".into());
        record.labels.insert("b".into(), "2".into());
        record.connections = Some(7);
        record.enabled = false;
        let body = r#"{"description":"x","labels":{"a":null,"c":"3"},"min_mode":"plain","connections":null}"#;
        let patch: Patch = read(body.as_bytes()).expect("good");
        let words = patch.judged().expect("good");
        assert_eq!(
            words,
            "description, label a, label c, min_mode: plain, connections: default"
        );
        patch.apply(&mut record).expect("good");
        let labels: Vec<_> = record.labels.keys().map(String::as_str).collect();
        assert_eq!(labels, ["b", "c"]);
        assert_eq!((record.connections, record.enabled), (None, false));
        assert_eq!(record.min_mode.word(), "plain");

        let patch: Patch = read(br#"{"enabled":null}"#).expect("readable");
        assert!(
            patch.apply(&mut record).is_err() && !record.enabled,
            "null lets nobody in"
        );

        let patch: Patch =
            read(br#"{"description":null,"min_mode":null,"enabled":true}"#).expect("good");
        patch.apply(&mut record).expect("good");
        assert_eq!((record.description.as_str(), record.enabled), ("", true));
        assert_eq!(record.min_mode.word(), "mutual-tls");
    }

    #[test]
    fn each_mistake_of_a_patch_tells_the_way_out() {
        for (body, way_out) in [
            ("{}", "changes nothing"),
            ("", "changes nothing"),
            ("[", "see /v1/openapi.json"),
            (r#"{"labels":null}"#, "invalid type: null"),
            (
                r#"{"lables":{}}"#,
                "expected one of `description`, `labels`",
            ),
            (r#"{"labels":{"a b":"c"}}"#, "1 to 64 of"),
            (r#"{"labels":{"a":""}}"#, "has no value"),
            (r#"{"min_mode":"tls"}"#, "plain | server-tls | mutual-tls"),
            (r#"{"connections":1000001}"#, "0 to 1000000"),
            (r#"{"connections":-1}"#, "expected u32"),
            (r#"{"description":"a\u0000"}"#, "control characters"),
            (r#"{"enabled":true,"enabled":false}"#, "duplicate field"),
        ] {
            let patch = read::<Patch>(body.as_bytes());
            let told = told(patch.and_then(|patch| patch.judged()));
            assert!(told.contains(way_out), "{body}: {told}");
        }
    }

    fn group() -> Group {
        Group {
            name: "fleet".into(),
            naming: crate::rules::identity::Naming {
                field: crate::rules::identity::Field::SubjectCn,
                pattern: None,
                alphabet: crate::rules::device::Alphabet::default(),
            },
        }
    }

    #[test]
    fn a_credential_is_one_thing_to_show() {
        let group = group();
        let device = "meter-7".parse().expect("a device id");
        let proof = |body: &str| {
            let new: NewCredential = read(body.as_bytes())?;
            let group = new.trust.is_some().then_some(&group);
            new.proof(group, &device, 1_000_000_000)
        };
        let hex = "ab".repeat(32);
        let (shown, valid) = proof(&format!("{{\"certificate\":\"{hex}\"}}")).expect("a pin");
        assert_eq!(shown, Proof::Pinned(Pin::Certificate([0xab; 32])));
        assert_eq!(valid, Valid::since(1_000_000_000));
        let body = format!("{{\"trust\":\"fleet\",\"key\":\"{hex}\",\"until\":\"2001-09-09\"}}");
        let (shown, valid) = proof(&body).expect("a pin of the group's");
        assert_eq!(shown, group.proof(Some(Pin::Key([0xab; 32]))));
        assert_eq!(valid.until, Some(1_000_079_999));
        let (shown, _) = proof("{\"trust\":\"fleet\"}").expect("any of the group's");
        assert_eq!(shown, group.proof(None));
        let pem =
            |label: &str| format!("-----BEGIN {label}-----\\nMAA=\\n-----END {label}-----\\n");
        for (body, way_out) in [
            ("{}".to_owned(), "write trust, certificate, key or pem"),
            (
                format!("{{\"certificate\":\"{hex}\",\"key\":\"{hex}\"}}"),
                "one of them",
            ),
            ("{\"certificate\":\"ab\"}".to_owned(), "64 characters"),
            (
                "{\"trust\":\"fleet\",\"pin\":\"key\"}".to_owned(),
                "leave it out",
            ),
            (
                "{\"trust\":\"fleet\",\"until\":\"2001-09-08\"}".to_owned(),
                "over already",
            ),
            (
                "{\"trust\":\"fleet\",\"until\":\"soon\"}".to_owned(),
                "2027-01-31",
            ),
            ("{\"trust\":null}".to_owned(), "invalid type: null"),
            ("{\"pem\":\"\"}".to_owned(), "0 certificates"),
            (
                format!("{{\"pem\":\"{}\"}}", pem("PRIVATE KEY")),
                "has been shown",
            ),
            (
                format!("{{\"pem\":\"{}\"}}", pem("X509 CRL")),
                "send that alone",
            ),
            (
                format!("{{\"pem\":\"{0}{0}\"}}", pem("CERTIFICATE")),
                "2 certificates",
            ),
            (
                format!("{{\"pem\":\"{}\"}}", pem("CERTIFICATE")),
                "certificate",
            ),
            (
                "{\"pem\":\"-----BEGIN CERTIFICATE-----\\nMA\"}".to_owned(),
                "garbled",
            ),
        ] {
            let told = told(proof(&body));
            assert!(told.contains(way_out), "{body}: {told}");
        }
    }

    #[test]
    fn an_overlap_is_a_span() {
        for (body, overlap) in [
            ("", Some(86_400)),
            ("{\"overlap\":\"0s\"}", Some(0)),
            ("{\"overlap\":\"30m\"}", Some(1800)),
            ("{\"overlap\":\"2y\"}", None),
            ("{\"overlap\":\"soon\"}", None),
            ("{\"overlap\":30}", None),
        ] {
            let read = read::<Rotation>(body.as_bytes());
            let told = read.and_then(|rotation| rotation.overlap());
            assert_eq!(told.ok(), overlap, "{body}");
        }
    }
}
