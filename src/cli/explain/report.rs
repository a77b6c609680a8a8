//! What is told, for machines as it stands here, for people by `text`.

use std::collections::BTreeMap;

use rustls_pki_types::CertificateDer;
use serde::Serialize;

use super::packet::{self, Field, Packet};
use super::registry::InRegistry;
use crate::gate::ListenerSettings;
use crate::gate::explain::Explained;
use crate::mqtt::Version;
use crate::rules::device::{DeviceId, Mode};
use crate::rules::identity::{Certificate, Naming};
use crate::rules::policy::{Admission, Claim, Refused};
use crate::tls::examine::{Examined, Link, Source, key_words};
use crate::tls::trust::date;

/// The whole answer.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// By one listener at least.
    pub(super) admitted: bool,
    pub(super) at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) certificate: Option<Shown>,
    pub(super) listeners: Vec<AtListener>,
    pub(super) notes: Vec<String>,
    /// In seconds since 1970.
    #[serde(skip)]
    pub(super) now: i64,
}

/// The device's own certificate.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    /// How many certificates the device sends.
    pub(super) sent: usize,
    /// Left out: it cannot be read.
    #[serde(flatten)]
    pub(super) facts: Option<Facts>,
}

/// What stands in it.
#[derive(Debug, Serialize)]
pub(super) struct Facts {
    pub(super) subject: String,
    pub(super) issuer: String,
    pub(super) serial: String,
    pub(super) fingerprint: String,
    pub(super) key: String,
    pub(super) key_fingerprint: String,
    pub(super) not_before: String,
    pub(super) not_after: String,
    /// In seconds since 1970.
    #[serde(skip)]
    pub(super) valid: (i64, i64),
}

/// What one listener would make of the device.
#[derive(Debug, Serialize)]
pub(super) struct AtListener {
    pub(super) listener: String,
    pub(super) offers: &'static str,
    pub(super) mode: Option<&'static str>,
    pub(super) admitted: bool,
    pub(super) reason: Option<&'static str>,
    pub(super) why: Option<String>,
    pub(super) device: Option<String>,
    /// The last second in which what it shows counts.
    pub(super) until: Option<String>,
    pub(super) sees: Sees,
    pub(super) chain: Vec<ChainLink>,
    /// The chain is the path that was verified; else its names alone link it.
    pub(super) chain_verified: bool,
    pub(super) identity: Option<Identity>,
    pub(super) registry: InRegistry,
    pub(super) connect: Option<ForBroker>,
}

/// What the device sees of a refusal.
#[derive(Debug, Default, Serialize)]
pub(super) struct Sees {
    /// The TLS alert.
    pub(super) alert: Option<String>,
    /// By MQTT version the code of the CONNACK; `null`: a close.
    pub(super) connack: BTreeMap<&'static str, Option<String>>,
}

/// One certificate on the way up.
#[derive(Debug, Serialize)]
pub(super) struct ChainLink {
    pub(super) subject: String,
    pub(super) source: String,
    pub(super) not_after: Option<String>,
}

/// How the trust group names the device.
#[derive(Debug, Serialize)]
pub(super) struct Identity {
    pub(super) trust: String,
    pub(super) field: &'static str,
    pub(super) value: Option<String>,
    pub(super) pattern: Option<String>,
    /// Whom it names; `null`: nobody.
    pub(super) device: Option<String>,
    /// The group vouches for the certificate.
    pub(super) vouched: bool,
}

/// The CONNECT that the broker would see.
#[derive(Debug, Serialize)]
pub(super) struct ForBroker {
    pub(super) mqtt_version: &'static str,
    /// The file it was captured in; `null`: it is made up.
    pub(super) source: Option<String>,
    pub(super) fields: Vec<Field>,
    /// The device is told the client id that it got.
    pub(super) tells_client_id: bool,
}

impl Report {
    pub(super) fn of(chain: &[CertificateDer<'_>], now: i64) -> Self {
        Self {
            admitted: false,
            at: date(now),
            certificate: chain.first().map(|leaf| Shown {
                sent: chain.len(),
                facts: Certificate::read(leaf)
                    .ok()
                    .map(|certificate| Facts::of(&certificate, leaf)),
            }),
            listeners: Vec::new(),
            notes: Vec::new(),
            now,
        }
    }

    /// Adds what one listener would make of it.
    pub(super) fn add(&mut self, listener: &ListenerSettings, packet: &Packet, told: Explained) {
        self.notes.extend(told.note.clone());
        let told = AtListener::of(listener, packet, told, self.now);
        self.admitted |= told.admitted;
        self.listeners.push(told);
    }

    pub(super) fn is_registry_away(&self) -> bool {
        let mut states = self.listeners.iter().map(|one| one.registry.state);
        states.any(|state| state == "away")
    }
}

impl Facts {
    fn of(certificate: &Certificate, der: &[u8]) -> Self {
        Self {
            subject: certificate.subject.clone(),
            issuer: certificate.issuer.clone(),
            serial: certificate.serial.clone(),
            fingerprint: certificate.fingerprint(),
            key: key_words(der),
            key_fingerprint: hex::encode(certificate.key),
            not_before: date(certificate.not_before),
            not_after: date(certificate.not_after),
            valid: (certificate.not_before, certificate.not_after),
        }
    }
}

impl AtListener {
    fn of(listener: &ListenerSettings, packet: &Packet, told: Explained, now: i64) -> Self {
        let Explained {
            mode,
            examined,
            alert,
            claim,
            known,
            verdict,
            note: _,
        } = told;
        let refused = verdict.as_ref().err();
        let device = match &verdict {
            Ok(admission) => Some(admission.device.to_string()),
            Err(refused) => refused.device.as_ref().map(ToString::to_string),
        };
        Self {
            listener: listener.name.to_string(),
            offers: listener.offer.word(),
            mode: mode.map(Mode::word),
            admitted: refused.is_none(),
            reason: refused.map(|refused| refused.refusal.label()),
            why: refused.map(|refused| refused.refusal.to_string()),
            device,
            until: verdict.as_ref().ok().and_then(|one| one.until.map(date)),
            sees: refused.map_or_else(Sees::default, |refused| Sees::of(refused, alert, packet)),
            chain_verified: examined.as_ref().is_some_and(|examined| examined.is_path),
            chain: examined
                .iter()
                .flat_map(|one| &one.links)
                .map(ChainLink::of)
                .collect(),
            identity: examined
                .as_ref()
                .and_then(|examined| Identity::of(examined, claim.as_ref())),
            registry: InRegistry::of(known.as_ref(), now),
            connect: ForBroker::of(packet, verdict.as_ref().ok()),
        }
    }
}

impl Sees {
    fn of(refused: &Refused, alert: Option<String>, packet: &Packet) -> Self {
        let connack = |version: Version| {
            let answer = refused.refusal.answer(Some(version));
            (
                version.word(),
                answer.map(|(_, code)| format!("{code:#04x}")),
            )
        };
        let versions: &[Version] = match (&alert, &packet.connect, &packet.source) {
            (Some(_), ..) => &[],
            (None, Ok(connect), Some(_)) => &[connect.version],
            // What is made up may be said in another version.
            (None, Ok(_), None) => &[Version::V311, Version::V5],
            (None, Err(fault), _) => match fault.answer() {
                Some((version, code)) => {
                    let code = Some(format!("{code:#04x}"));
                    return Self {
                        alert,
                        connack: [(version.word(), code)].into(),
                    };
                }
                None => &[],
            },
        };
        Self {
            connack: versions.iter().copied().map(connack).collect(),
            alert,
        }
    }
}

impl ChainLink {
    fn of(link: &Link) -> Self {
        let certificate = link.certificate.as_ref();
        Self {
            subject: certificate.map_or_else(
                || "(not readable)".to_owned(),
                |certificate| certificate.subject.clone(),
            ),
            source: match &link.source {
                Source::Sent(1) => "the device's own".to_owned(),
                Source::Sent(place) => format!("sent by the device, number {place}"),
                Source::Intermediate(group) => format!("intermediates of trust[{group}]"),
                Source::Anchor(group) => format!("ca of trust[{group}]"),
            },
            not_after: certificate.map(|certificate| date(certificate.not_after)),
        }
    }
}

impl Identity {
    /// `None`: no group of the listener has to do with the chain.
    fn of(examined: &Examined, claim: Option<&Claim>) -> Option<Self> {
        let (trust, naming) = examined.group.as_ref()?;
        let Naming { field, pattern, .. } = naming;
        let certificate = examined.certificate.as_ref()?;
        let vouched = examined
            .outcome
            .as_ref()
            .ok()
            .and_then(|shown| shown.vouched());
        let named = match (vouched, claim) {
            (Some(_), Some(claim)) => claim.device().cloned(),
            _ => naming.device(certificate).ok(),
        };
        Some(Self {
            trust: trust.to_string(),
            field: field.word(),
            value: certificate
                .value(*field)
                .ok()
                .map(|value| value.chars().take(200).collect()),
            pattern: pattern.as_ref().map(ToString::to_string),
            device: named.map(|device: DeviceId| device.to_string()),
            vouched: vouched.is_some(),
        })
    }
}

impl ForBroker {
    /// `None`: no broker hears of the device.
    fn of(packet: &Packet, admission: Option<&Admission>) -> Option<Self> {
        let asked = packet.connect.as_ref().ok()?;
        let Admission {
            connect,
            tell_client_id,
            ..
        } = admission?;
        Some(Self {
            mqtt_version: connect.version.word(),
            source: packet.source.clone(),
            fields: packet::fields(asked, connect),
            tells_client_id: *tell_client_id,
        })
    }
}
