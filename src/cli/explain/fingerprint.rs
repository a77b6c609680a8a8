//! What can be told of a fingerprint alone: the registry's part.

use std::sync::Arc;

use serde::Serialize;

use super::registry::Told;
use super::{Failure, json, outcome, say, text};
use crate::gate::explain::Explainer;
use crate::rules::device::Mode;
use crate::rules::identity::Certificate;
use crate::rules::policy::{self, CertificateEvidence, Evidence, Standing, Voucher};
use crate::rules::record::{LastSeen, Pin, Print, Proof, Record};
use crate::tls::trust::date;

/// The answer.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// As far as the registry has to do with it.
    pub(super) admitted: bool,
    pub(super) at: String,
    pub(super) fingerprint: String,
    pub(super) reason: Option<&'static str>,
    pub(super) why: Option<String>,
    pub(super) until: Option<String>,
    /// `null`: the registry is away.
    pub(super) record: Option<Told>,
    pub(super) notes: Vec<String>,
}

const NOT_KEPT: &str = "This is the registry's part only. The certificate itself is not kept: whether its chain is good, and what \
                        the broker would be told, shows with its file.";

/// Tells what the registry makes of the certificate with this fingerprint, at `now`.
pub(super) async fn answer(
    explainer: &Explainer,
    print: Print,
    now: i64,
    as_json: bool,
) -> Result<(), Failure> {
    let fingerprint = hex::encode(print);
    if explainer.settings().registry.is_none() {
        return Err(Failure::asked_wrongly(
            "there is no registry, so nothing is known of a fingerprint; give the certificate's file",
        ));
    }
    let mut report = Report {
        admitted: false,
        at: date(now),
        fingerprint: fingerprint.clone(),
        reason: None,
        why: None,
        until: None,
        record: None,
        notes: vec![NOT_KEPT.to_owned()],
    };
    match explainer.who_has(print).await {
        Ok(Some((record, seen))) => report.judge(print, &record, seen.as_ref(), now),
        Ok(None) => {
            return Err(Failure::asked_wrongly(format!(
                "the registry has no certificate or key {fingerprint}, and saw none; a certificate that a trust group vouches \
                 for is not known by its fingerprint before it came: give its file"
            )));
        }
        Err(refusal) => {
            report.reason = Some(refusal.label());
            report.why = Some(refusal.to_string());
        }
    }
    let admitted = report.admitted;
    say(&if as_json {
        json(&report)?
    } else {
        text::of_fingerprint(&report)
    });
    outcome(admitted)
}

impl Report {
    fn judge(&mut self, print: Print, record: &Record, seen: Option<&LastSeen>, now: i64) {
        let voucher = voucher(print, record);
        if let Some(voucher) = &voucher {
            self.notes.push(format!(
                "It is taken for granted that trust[{}] vouches for it, and that it names {}.",
                voucher.group, record.device
            ));
        }
        let evidence = Evidence {
            mode: Mode::MutualTls,
            certificate: Some(CertificateEvidence {
                certificate: Arc::new(Certificate::absent(print, key(print, record, seen))),
                voucher,
            }),
            token: None,
        };
        match policy::judge(
            &evidence,
            Some(&record.device),
            Standing::Known(record),
            now,
        ) {
            Ok(until) => {
                self.admitted = true;
                self.until = until.map(date);
            }
            Err(refusal) => {
                self.reason = Some(refusal.label());
                self.why = Some(refusal.to_string());
            }
        }
        let matching = policy::matching(&evidence, record, now);
        self.record = Some(Told::of(record, seen, &matching, now));
    }
}

/// The trust group that the device was enrolled under with this certificate, or with any.
fn voucher(print: Print, record: &Record) -> Option<Voucher> {
    let vouched = record
        .credentials
        .iter()
        .filter_map(|one| match &one.proof {
            Proof::Vouched { group, field, pin } => Some((group, *field, *pin)),
            _ => None,
        });
    let is = |pin: &Pin| *pin == Pin::Certificate(print) || *pin == Pin::Key(print);
    let counts = vouched.filter(|(_, _, pin)| pin.as_ref().is_none_or(is));
    // One of this very certificate first.
    let (group, field, _) = counts.max_by_key(|(_, _, pin)| pin.is_some())?;
    Some(Voucher {
        group: group.as_str().into(),
        field,
        device: Some(record.device.clone()),
        not_after: i64::MAX,
    })
}

/// The SHA-256 of its key: what was asked for may be that; and a device that was let in by its key showed it.
fn key(print: Print, record: &Record, seen: Option<&LastSeen>) -> Print {
    let showed = seen.is_some_and(|seen| seen.certificate == Some(print));
    let mut pins = record
        .credentials
        .iter()
        .filter_map(|one| match &one.proof {
            Proof::Pinned(Pin::Key(key)) if showed => Some(*key),
            _ => None,
        });
    pins.next().unwrap_or(print)
}
