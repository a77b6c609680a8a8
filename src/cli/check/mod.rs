//! `tidegate check`

mod brokers;
mod clock;
mod deployment;
mod doors;
mod ends;
mod files;
mod finding;
mod flights;
mod host;
mod incoming;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::Serialize;
use tokio::time::Instant;

use deployment::Deployment;
use finding::Level;

use super::settings::{self, Settings};
use super::{Failure, say};
use crate::config::{self, Examined, Origin, Source};
use crate::gate::{LoadedBrokers, LoadedListener, RegistrySettings, StartFault, source_faults};
use crate::jwks::{self, KeySource};
use crate::registry::look::look;
use crate::tls;

/// Tells every fault and every warning of a configuration and of the files it names
///
/// Keys, certificates, CAs and revocation lists are loaded as `run` would load them, and the registry is looked at; nothing is
/// started, made or changed, and nobody else is called.
///
/// With --deployment, brokers, the registry and the issuer of tokens are called, too, for 10 s at the most: as the gate calls them, and as a
/// stranger would. docs/check.md explains what is found.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, after_help = EXAMPLES)]
pub(super) struct Args {
    /// One JSON object instead of lines
    #[arg(long)]
    json: bool,
    /// Calls the brokers as the gate and as a stranger would, and looks at clocks, this host's limits, files, and what small devices must receive
    #[arg(long)]
    deployment: bool,
    #[command(flatten)]
    settings: Settings,
}

const EXAMPLES: &str = "\
Examples:
  tidegate check                          ./tidegate.toml and the files it names
  tidegate check --config /etc/tidegate/tidegate.toml --json
  tidegate check --deployment             is a broker open to others, a clock off, a handshake too large …
  tidegate check --listen 0.0.0.0:8883 --certificate s.pem --key s.key --client-ca ca.pem \\
      --broker mqtt://127.0.0.1:1883

Exit codes: 0 no faults (there may be warnings); 2 faults.";

/// What `check` found.
#[derive(Debug, Default, Serialize)]
struct Report {
    ok: bool,
    configuration: String,
    faults: Vec<Found>,
    warnings: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deployment: Option<Deployment>,
}

/// A fault as `check` tells it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
struct Found {
    key: String,
    /// What is wrong and the way out.
    why: String,
    /// Where it was written; left out for what is missing or stands in another file.
    #[serde(skip_serializing_if = "Option::is_none")]
    written: Option<String>,
    #[serde(skip)]
    line: String,
}

impl Args {
    pub(super) fn run(self) -> Result<(), Failure> {
        let began = Instant::now();
        let source = self.settings.source();
        let mut report = Report::of(&source);
        if self.deployment {
            report.look_around(&source, began);
        }
        if self.json {
            let json = serde_json::to_string_pretty(&report)
                .map_err(|error| Failure::failed(error.to_string()))?;
            say(&format!("{json}\n"));
        } else {
            say(&report.text());
        }
        if report.ok {
            return Ok(());
        }
        // All is said on standard output.
        Err(Failure::asked_wrongly(""))
    }
}

/// Every fault of `source` and of the files that it names, as a failure of `run`.
pub(super) fn failure(source: &Source) -> Failure {
    let faults = Report::of(source).faults;
    settings::nothing_started(faults.into_iter().map(|found| found.line).collect(), source)
}

/// The same, a sentence each.
pub(super) fn faults(source: &Source) -> Vec<String> {
    let faults = Report::of(source).faults;
    faults.into_iter().map(|found| found.line).collect()
}

impl Report {
    fn of(source: &Source) -> Self {
        let examined = config::examine(source);
        let mut report = Self {
            configuration: settings::name(source),
            ..Self::default()
        };
        for fault in &examined.faults {
            let (what, way_out) = (&fault.what, &fault.way_out);
            report.faults.push(Found {
                key: fault.key.clone(),
                why: if way_out.is_empty() {
                    what.clone()
                } else {
                    format!("{what}; {way_out}")
                },
                written: match &fault.origin {
                    Origin::Absent => None,
                    Origin::Line(line) => Some(format!("{}:{line}", settings::name(source))),
                    Origin::Variable(name) => Some(name.clone()),
                    Origin::Flag(flag) => Some((*flag).to_owned()),
                },
                line: settings::told(fault, source),
            });
        }
        report.warnings.clone_from(&examined.warnings);
        report.load_files(&examined);
        report.ok = report.faults.is_empty();
        report
    }

    /// Loads what `run` would load, of every part of the configuration in which nothing is wrong.
    fn load_files(&mut self, examined: &Examined) {
        let mut looked_at = BTreeSet::new();
        let pins = examined
            .config
            .as_ref()
            .is_some_and(|config| config.gate.registry.is_some());
        for listener in &examined.listeners {
            looked_at.extend(listener.trust.iter().map(String::as_str));
            let loaded = LoadedListener::load(listener, &examined.trust, pins);
            self.take(loaded.faults, loaded.warnings);
        }
        if let Some(tls) = &examined.broker_tls {
            let loaded = LoadedBrokers::load(Some(tls));
            self.take(loaded.faults, loaded.warnings);
        }
        // A group whose listener is faulty is looked at by itself. Without faults, such a group is one that no listener
        // names, and `run` does not load it either.
        if let Some(jwt) = &examined.jwt {
            self.load_keys(jwt);
        }
        if let Some(registry) = &examined.registry {
            self.look_at(registry);
        }
        if let Some(config) = &examined.config {
            for StartFault { key, sentence } in source_faults(&config.gate.broker) {
                self.fault(key, sentence);
            }
        }
        if examined.config.is_none() {
            let left = |group: &&tls::trust::Settings| !looked_at.contains(group.name.as_str());
            for group in examined.trust.iter().filter(left) {
                let loaded = LoadedListener::load_group(group);
                self.take(loaded.faults, loaded.warnings);
            }
        }
    }

    /// Looks at what is around the gate; only with a whole configuration. `began`: when the command did, as a registry that does not answer
    /// has taken some of the time.
    fn look_around(&mut self, source: &Source, began: Instant) {
        let deployment = match config::load(source) {
            Ok(config) if self.ok => Deployment::look(&config, source, &self.warnings, began),
            _ => Deployment::none(),
        };
        self.deployment = Some(deployment);
    }

    /// Reads a JWKS file, and the CAs that the server of an address is judged by; the address itself is not asked.
    fn load_keys(&mut self, jwt: &jwks::Settings) {
        if let Err(fault) = KeySource::load(jwt) {
            self.fault(format!("token.jwt.{}", fault.key), fault.sentence);
        }
    }

    /// A server that does not answer is only a warning: this may be typed where there is no way to it.
    fn look_at(&mut self, registry: &RegistrySettings) {
        let look = look(&registry.directory.store, &registry.token_key);
        for (key, why) in look.faults {
            self.fault(key.into(), why);
        }
        let told = look.warnings.into_iter();
        self.warn(told.map(|(key, why)| format!("{key}: {why}")).collect());
    }

    fn take(&mut self, faults: Vec<StartFault>, warnings: Vec<String>) {
        for StartFault { key, sentence } in faults {
            self.fault(key, sentence);
        }
        self.warn(warnings);
    }

    /// Files that several listeners share are told once.
    fn fault(&mut self, key: String, why: String) {
        let line = format!("{key}: {why}");
        let found = Found {
            key,
            why,
            written: None,
            line,
        };
        if !self.faults.contains(&found) {
            self.faults.push(found);
        }
    }

    fn warn(&mut self, warnings: Vec<String>) {
        for warning in warnings {
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for fault in &self.faults {
            let _ = writeln!(text, "fault: {}", fault.line);
        }
        for warning in &self.warnings {
            let _ = writeln!(text, "warning: {warning}");
        }
        let found = self
            .deployment
            .iter()
            .flat_map(|deployment| &deployment.findings);
        for finding in found {
            let _ = writeln!(text, "{}", finding.line());
        }
        let verdict = if self.ok { "good" } else { "not good" };
        let (faults, warnings) = (
            count(self.faults.len(), "fault"),
            count(self.warnings.len() + self.found(Level::Warning), "warning"),
        );
        let notes = match self.found(Level::Note) {
            0 => String::new(),
            notes => format!(", {}", count(notes, "note")),
        };
        let _ = writeln!(
            text,
            "{}: {verdict}, {faults}, {warnings}{notes}",
            self.configuration
        );
        text
    }

    fn found(&self, level: Level) -> usize {
        let deployment = self.deployment.as_ref();
        deployment.map_or(0, |deployment| deployment.count(level))
    }
}

fn count(n: usize, what: &str) -> String {
    match n {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

#[cfg(test)]
mod tests;
