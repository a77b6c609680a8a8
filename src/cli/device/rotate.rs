//! `tidegate device rotate-token` and `rotate-certificate`: old and new count together for a while, so that no device is
//! locked out.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::super::{Failure, say};
use super::material::{Files, For, Prepared, Sources};
use super::when::{When, span};
use super::{Where, failed, possible_id, say_json, tell};
use crate::registry::Fault;
use crate::registry::form::{Form, time_text};
use crate::rules::device::Mode;
use crate::rules::record::{Record, Valid};
use crate::rules::token::Token;

const TOKEN_EXAMPLES: &str = "\
The token is printed once, alone on standard output; the registry keeps a keyed hash of it.
The key of the hashes is the file token.key_file; the first token makes it, and every gate of
the registry needs the same.

Examples:
  tidegate device rotate-token meter-7
  tidegate device rotate-token meter-7 --overlap 30m > meter-7.token
  tidegate device rotate-token meter-7 --overlap 0s      others know the old ones";

/// Gives a device a new token; the old ones end after an overlap.
#[derive(Args, Debug)]
#[command(after_help = TOKEN_EXAMPLES)]
pub struct RotateToken {
    /// The device
    #[arg(value_name = "ID", value_parser = possible_id)]
    device: String,
    #[command(flatten)]
    place: Where,
    /// How long the old tokens still count
    #[arg(long, value_name = "SPAN", default_value = "24h", value_parser = span)]
    overlap: i64,
    /// When the new one ends: 2027-01-31, 90d, never
    #[arg(long, value_name = "TIME", default_value = "never", value_parser = When::read)]
    until: When,
}

const CERTIFICATE_EXAMPLES: &str = "\
Examples:
  tidegate device rotate-certificate meter-7 --ca pki --out devices/new
  tidegate device rotate-certificate meter-7 --csr m7.csr --ca pki --out devices/new --overlap 30d
  tidegate device rotate-certificate meter-7 --pin meter-7-new.pem";

/// Gives a device a new certificate; the old ones end after an overlap.
#[derive(Args, Debug)]
#[command(after_help = CERTIFICATE_EXAMPLES)]
pub struct RotateCertificate {
    /// The device
    #[arg(value_name = "ID", value_parser = possible_id)]
    device: String,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    sources: Sources,
    /// The trust group of the new one; left out: the one that has the CA; for --pin: none
    #[arg(long, value_name = "GROUP", help_heading = "What it shows")]
    trust: Option<String>,
    /// When the new one ends: 2027-01-31, 90d; left out: with the certificate
    #[arg(long, value_name = "TIME", value_parser = When::read, help_heading = "What it shows")]
    until: Option<When>,
    /// How long the old certificates still count
    #[arg(long, value_name = "SPAN", default_value = "7d", value_parser = span)]
    overlap: i64,
}

/// What was made for a device, for machines.
#[derive(serde::Serialize)]
pub(super) struct Made {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    files: Vec<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

impl Made {
    pub(super) fn of(prepared: &Prepared, files: &Files, token: Option<&Token>) -> Self {
        Self {
            files: files.paths.clone(),
            serial: prepared.serial(),
            token: token.map(|token| token.reveal().to_owned()),
        }
    }
}

/// A device, and what was made for it.
#[derive(serde::Serialize)]
struct Told {
    #[serde(flatten)]
    form: Form,
    #[serde(flatten)]
    made: Made,
}

/// Says `words`; with a token, that alone is on standard output, so that it can be piped into where it belongs.
pub(super) fn say_token(words: &str, token: Option<&Token>) {
    match token {
        None => say(words),
        Some(token) => {
            tell(words);
            say(&format!("{}\n", token.reveal()));
        }
    }
}

impl RotateToken {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let house = self.place.open().await?;
        let device = super::id(&house.alphabet, &self.device)?;
        let now = house.now;
        let found = house.registry.find(&device).await.map_err(failed)?;
        if found.is_none() {
            return Err(failed(Fault::NoDevice(device)));
        }
        let valid = Valid {
            from: now,
            until: self.until.moment(now),
        };
        let (token, new) = house.make_token().await?;
        let mut change =
            |record: &mut Record| record.rotate(&[(new.clone(), valid)], now, self.overlap);
        let record = house
            .registry
            .change(&device, now, &mut change)
            .await
            .map_err(failed)?;
        if self.place.json {
            let made = Made::of(&Prepared::default(), &Files::default(), Some(&token));
            let form = Form::shown(&record, None);
            return say_json(&Told { form, made });
        }
        say_token(&words(&record, now, now + self.overlap, true), Some(&token));
        Ok(())
    }
}

impl RotateCertificate {
    pub(super) async fn run(self) -> Result<(), Failure> {
        if self.sources.is_empty() {
            return Err(Failure::asked_wrongly(
                "say where the new certificate comes from: --ca and --out, with or without --csr; --pin or --pin-key",
            ));
        }
        let house = self.place.open().await?;
        let device = super::id(&house.alphabet, &self.device)?;
        let now = house.now;
        let found = house.registry.find(&device).await.map_err(failed)?;
        if found.is_none() {
            return Err(failed(Fault::NoDevice(device)));
        }
        let prepared = self.sources.prepare(&For {
            device: &device,
            groups: Some(&house.groups),
            trust: self.trust.as_deref(),
            until: self.until.and_then(|until| until.moment(now)),
            now,
        })?;
        let files = prepared.write()?;
        let mut change =
            |record: &mut Record| record.rotate(&prepared.credentials, now, self.overlap);
        let changed = house.registry.change(&device, now, &mut change).await;
        let record = match changed {
            Ok(record) => record,
            Err(fault) => return Err(files.not_registered(&device, &fault)),
        };
        if self.place.json {
            let made = Made::of(&prepared, &files, None);
            let form = Form::shown(&record, None);
            return say_json(&Told { form, made });
        }
        let words = words(&record, now, now + self.overlap, false);
        say(&(words + &files.words));
        Ok(())
    }
}

fn words(record: &Record, now: i64, end: i64, token: bool) -> String {
    let what = if token { "token" } else { "certificate" };
    let mut words = if end > now {
        format!(
            "{}: a new {what}; the old ones count until {}\n",
            record.device,
            time_text(end - 1)
        )
    } else {
        format!("{}: a new {what}; the old ones have ended\n", record.device)
    };
    for credential in &record.credentials {
        let _ = writeln!(words, "  {}", super::show::credential(credential, now));
    }
    if token && record.min_mode == Mode::MutualTls {
        let _ = writeln!(
            words,
            "  tokens are of no use before `tidegate device set {} --min-mode server-tls`",
            record.device
        );
    }
    words
}
