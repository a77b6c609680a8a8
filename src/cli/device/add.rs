//! `tidegate device add`

use std::fmt::Write as _;

use clap::Args;

use super::super::{Failure, say};
use super::material::{Files, For, Prepared, Sources};
use super::when::When;
use super::{House, Where, failed, group, id, possible_id, say_json};
use crate::gate;
use crate::registry::form::{self, Form};
use crate::registry::token_key::token_key;
use crate::rules::device::{DeviceId, Mode};
use crate::rules::record::{Proof, Record, Valid};
use crate::rules::token::Token;

const EXAMPLES: &str = "\
With --ca the certificate names the device twice: as its common name, ID, and as the URI
urn:device:ID. Its key is written once and kept nowhere else: put both files on the device,
then delete them here. That works without a registry, too.
A token is printed once, alone on standard output; the registry keeps a keyed hash of it.

Examples:
  tidegate device add meter-7 --ca pki --out devices
  tidegate device add meter-7 --ca pki --out devices --days 90 --label site=harbour
  tidegate device add meter-7 --csr meter-7.csr --ca pki --out devices    it keeps its key
  tidegate device add meter-7 --trust vendor       any of the vendor's that names meter-7
  tidegate device add meter-7 --pin meter-7.pem    self-signed, made on the device
  tidegate device add meter-7 --min-mode server-tls --token    it cannot do mutual TLS

Exit codes: 0 done; 1 it failed; 2 usage or configuration.";

/// Makes a device: issues or takes what it shows, and registers it.
#[derive(Args, Debug, Default)]
#[command(after_help = EXAMPLES)]
pub struct Add {
    /// The device's name: 1 to 128 of A–Z a–z 0–9 . _ - and connect.extra_characters
    #[arg(value_name = "ID", value_parser = possible_id)]
    device: String,
    #[command(flatten)]
    place: Where,
    /// For people
    #[arg(long, value_name = "TEXT", value_parser = form::description)]
    description: Option<String>,
    /// For people and filters; repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
    /// The weakest mode that it may use: mutual-tls (the default) | server-tls | plain
    #[arg(long, value_name = "MODE", value_parser = form::mode)]
    min_mode: Option<Mode>,
    /// How many connections it may have at once, the newest win; 0: any number
    #[arg(long, value_name = "N", value_parser = connections)]
    connections: Option<u32>,
    /// Does nothing where it is registered already; without a registry, where ID.pem and ID.key are in --out
    #[arg(long)]
    if_missing: bool,
    /// It may not enter until `tidegate device enable`
    #[arg(long)]
    disabled: bool,
    #[command(flatten)]
    sources: Sources,
    /// Make a token and print it, once
    #[arg(long, help_heading = "What it shows")]
    token: bool,
    /// The trust group that it belongs to; alone: any certificate of that group which names it
    #[arg(long, value_name = "GROUP", help_heading = "What it shows")]
    trust: Option<String>,
    /// When what it shows ends: 2027-01-31, 90d, never; left out: with the certificate
    #[arg(long, value_name = "TIME", value_parser = When::read, help_heading = "What it shows")]
    until: Option<When>,
}

/// Reads `NAME=VALUE`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("it is no label; write NAME=VALUE, as in site=harbour")?;
    form::label(name, value)
}

pub(super) fn connections(text: &str) -> Result<u32, String> {
    let number = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    form::connections(number)
}

/// What was done, for machines.
#[derive(serde::Serialize)]
struct Told {
    #[serde(flatten)]
    form: Form,
    registered: bool,
    #[serde(flatten)]
    made: super::rotate::Made,
}

/// The same, where there is no registry.
#[derive(serde::Serialize)]
struct ToldAlone {
    device: String,
    registered: bool,
    #[serde(flatten)]
    made: super::rotate::Made,
}

impl Add {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let devices = self.place.devices()?;
        let device = id(&devices.alphabet, &self.device)?;
        if devices.registry.is_none() {
            return self.issue_alone(&device);
        }
        let Some(house) = House::open(devices).await? else {
            return Err(self.place.none());
        };
        self.register(device, &house).await
    }

    /// Without a registry: every certificate of the CA is good, so issuing one is all there is to do.
    fn issue_alone(&self, device: &DeviceId) -> Result<(), Failure> {
        let registers = self.token
            || self.trust.is_some()
            || self.until.is_some()
            || self.description.is_some()
            || !self.label.is_empty()
            || self.min_mode.is_some()
            || self.connections.is_some()
            || self.disabled;
        if registers || !self.sources.only_issues() || self.place.config.is_some() {
            return Err(self.place.none());
        }
        if let (true, Some(told)) = (self.if_missing, self.sources.made_already(device)) {
            say(&told);
            return Ok(());
        }
        let whom = For {
            device,
            groups: None,
            trust: None,
            until: None,
            now: gate::now(),
        };
        let prepared = self.sources.prepare(&whom)?;
        let files = prepared.write()?;
        if self.place.json {
            return say_json(&ToldAlone {
                device: device.to_string(),
                registered: false,
                made: super::rotate::Made::of(&prepared, &files, None),
            });
        }
        say(&format!(
            "{}\nThere is no registry: any gate that trusts this CA takes it.\n",
            files.words
        ));
        Ok(())
    }

    async fn register(self, device: DeviceId, house: &House) -> Result<(), Failure> {
        let taken = house.registry.find(&device).await.map_err(failed)?;
        if taken.is_some() && self.if_missing {
            say(&format!("{device}: registered already\n"));
            return Ok(());
        }
        let whom = For {
            device: &device,
            groups: Some(&house.groups),
            trust: self.trust.as_deref(),
            until: self.until.and_then(|until| until.moment(house.now)),
            now: house.now,
        };
        let prepared = self.sources.prepare(&whom)?;
        let mut record = self.record(&whom, &prepared)?;
        if taken.is_some() {
            return Err(failed(crate::registry::Fault::DeviceExists(device)));
        }
        let token = if self.token {
            let valid = Valid {
                from: house.now,
                until: whom.until,
            };
            let (token, proof) = house.make_token().await?;
            record.add_credential(proof, valid);
            Some(token)
        } else {
            None
        };
        let files = prepared.write()?;
        let added = house
            .registry
            .add(std::slice::from_ref(&record), &mut |_| {})
            .await;
        if let Err(fault) = added {
            return Err(files.not_registered(&device, &fault));
        }
        self.told(&record, &prepared, &files, token.as_ref())
    }

    /// The record, but for a token.
    fn record(&self, whom: &For<'_>, prepared: &Prepared) -> Result<Record, Failure> {
        let mut record = Record::new(whom.device.clone(), whom.now);
        record.description = self.description.clone().unwrap_or_default();
        record.labels = self.label.iter().cloned().collect();
        record.enabled = !self.disabled;
        record.min_mode = self.min_mode.unwrap_or(Mode::MutualTls);
        record.connections = self.connections;
        for (proof, valid) in &prepared.credentials {
            record.add_credential(proof.clone(), *valid);
        }
        if let Some(name) = &self.trust {
            let groups = whom.groups.unwrap_or_default();
            let group = group(groups, name)?;
            if self.sources.is_empty() {
                let valid = Valid {
                    from: whom.now,
                    until: whom.until,
                };
                record.add_credential(group.group().proof(None), valid);
            }
        }
        if record.credentials.is_empty() && !self.token {
            return Err(Failure::asked_wrongly(format!(
                "{} would have nothing to show, and could not enter; add --ca and --out, --csr, --pin, --trust or --token \
                 (tidegate device add --help)",
                whom.device
            )));
        }
        if record.credentials.is_empty() && record.min_mode == Mode::MutualTls {
            return Err(Failure::asked_wrongly(
                "a token is only of use to a device that may use server-tls: add --min-mode server-tls",
            ));
        }
        Ok(record)
    }

    fn told(
        &self,
        record: &Record,
        prepared: &Prepared,
        files: &Files,
        token: Option<&Token>,
    ) -> Result<(), Failure> {
        if self.place.json {
            return say_json(&Told {
                form: Form::shown(record, None),
                registered: true,
                made: super::rotate::Made::of(prepared, files, token),
            });
        }
        let mut words = format!(
            "registered {}: {}, at least {}\n",
            record.device,
            if record.enabled {
                "enabled"
            } else {
                "disabled"
            },
            record.min_mode
        );
        for credential in &record.credentials {
            let _ = writeln!(
                words,
                "  {}",
                super::show::credential(credential, record.created)
            );
        }
        if token.is_some() && record.min_mode == Mode::MutualTls {
            words +=
                "  the token is of no use before `tidegate device set … --min-mode server-tls`\n";
        }
        words += &files.words;
        super::rotate::say_token(&words, token);
        Ok(())
    }
}

impl House {
    /// Makes a token; and the hash that the registry keeps of it.
    pub(super) async fn make_token(&self) -> Result<(Token, Proof), Failure> {
        let key = token_key(&self.settings.token_key, &self.registry)
            .await
            .map_err(Failure::failed)?;
        let mut chance = [0; 32];
        aws_lc_rs::rand::fill(&mut chance)
            .map_err(|_| Failure::failed("the system gives no randomness"))?;
        let token = Token::from_chance(&chance);
        let proof = Proof::Token(key.hash(&token));
        Ok((token, proof))
    }
}
