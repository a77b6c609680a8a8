//! `tidegate check`

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::Serialize;

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
/// started, made or changed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, after_help = EXAMPLES)]
pub(super) struct Args {
    /// One JSON object instead of lines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

const EXAMPLES: &str = "\
Examples:
  tidegate check                          ./tidegate.toml and the files it names
  tidegate check --config /etc/tidegate/tidegate.toml --json
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
        let source = self.settings.source();
        let report = Report::of(&source);
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
        let verdict = if self.ok { "good" } else { "not good" };
        let (faults, warnings) = (
            count(self.faults.len(), "fault"),
            count(self.warnings.len(), "warning"),
        );
        let _ = writeln!(
            text,
            "{}: {verdict}, {faults}, {warnings}",
            self.configuration
        );
        text
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
mod tests {
    use super::*;
    use crate::config::Flags;

    #[test]
    fn a_report_tells_every_fault_and_counts_them() {
        let flags = Flags {
            mode: Some("mutal-tls".into()),
            ..Flags::default()
        };
        let report = Report::of(&Source {
            flags,
            ..Source::default()
        });
        let text = report.text();
        assert!(!report.ok);
        for told in [
            "fault: listener[0].bind: is missing;",
            "fault: listener[0].mode (--mode): \"mutal-tls\" is not known here; did you mean \"mutual-tls\"?",
            "fault: broker.addresses: is missing;",
            "flags and environment: not good, 3 faults, no warnings\n",
        ] {
            assert!(text.contains(told), "{told} is not in\n{text}");
        }
        let json = serde_json::to_value(&report).expect("serializable");
        assert_eq!(json["ok"], false);
        assert_eq!(json["faults"][1]["key"], "listener[0].mode");
        assert_eq!(json["faults"][1]["written"], "--mode");
    }

    #[test]
    fn files_are_judged_beside_faults_of_other_parts() {
        let flags = Flags {
            listen: vec!["127.0.0.1:0".into()],
            mode: Some("server-tls".into()),
            certificate: Some("/nowhere/s.pem".into()),
            key: Some("/nowhere/s.key".into()),
            broker: vec!["mqtts://broker".into(), "tcp://broker".into()],
            broker_ca: Some("/nowhere/ca.pem".into()),
            broker_certificate: Some("/nowhere/gate.pem".into()),
            broker_key: Some("/nowhere/gate.key".into()),
            ..Flags::default()
        };
        let report = Report::of(&Source {
            flags,
            ..Source::default()
        });
        let keys: Vec<&str> = report.faults.iter().map(|f| f.key.as_str()).collect();
        for key in ["broker.addresses[1]", "broker.tls.ca", "broker.tls.key"] {
            assert!(keys.contains(&key), "{keys:?}");
        }
        assert!(
            keys.iter()
                .any(|key| key.starts_with("listener[default].tls.")),
            "{keys:?}"
        );
        assert!(
            report.warnings[0].contains("no token is known"),
            "{:?}",
            report.warnings
        );
    }

    /// Also beside faults of other parts; and nothing is made.
    #[test]
    fn the_registry_is_looked_at() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tidegate.toml");
        let told = |url: &str| {
            std::fs::write(&path, format!("[registry]\nurl = {url:?}\n")).expect("written");
            let report = Report::of(&Source {
                path: Some(path.clone()),
                ..Source::default()
            });
            let faults = report.faults.into_iter();
            let faults: Vec<_> = faults
                .filter(|found| found.key == "registry.url")
                .map(|found| found.line)
                .collect();
            (faults, report.warnings)
        };
        assert_eq!(told("sqlite://devices.db").0, [""; 0]);
        assert_eq!(std::fs::read_dir(folder.path()).expect("there").count(), 1);
        let (faults, _) = told("sqlite://nowhere/devices.db");
        assert!(faults[0].contains("make its folder"), "{faults:?}");
        let (faults, _) = told("sqlite://tidegate.toml");
        assert!(faults[0].contains("it is no registry"), "{faults:?}");
        let (faults, warnings) = told("postgres://gate@127.0.0.1:1/tidegate");
        assert_eq!(faults, [""; 0]);
        let begin = "registry.url: it could not be looked at: PostgreSQL at 127.0.0.1:1, ";
        assert!(
            warnings.iter().any(|warning| warning.starts_with(begin)),
            "{warnings:?}"
        );
    }

    /// Also beside faults of other parts.
    #[test]
    fn the_keys_of_an_issuer_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tidegate.toml");
        let jwt = "[token.jwt]\nkeys = \"jwks.json\"\nissuer = \"i\"\naudience = \"a\"\n";
        std::fs::write(&path, jwt).expect("written");
        let told = || {
            let source = Source {
                path: Some(path.clone()),
                ..Source::default()
            };
            let faults = Report::of(&source).faults;
            let of_keys = |found: &Found| found.key == "token.jwt.keys";
            let mut found = faults.into_iter().filter(of_keys).map(|found| found.why);
            (found.next().unwrap_or_default(), found.count())
        };
        let (why, more) = told();
        assert!(why.ends_with("jwks.json: there is no such file"), "{why}");
        assert_eq!(more, 0);
        let public =
            r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
        let private = public.replace(
            '}',
            ",\"d\":\"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\"}",
        );
        let write = |key: &str| {
            let set = format!("{{\"keys\":[{key}]}}");
            std::fs::write(folder.path().join("jwks.json"), set).expect("written");
        };
        write(&private);
        let (why, _) = told();
        assert!(
            why.contains("jwks.json: key 1 of it is a private key: ") && !why.contains("nWGx"),
            "{why}"
        );
        write(public);
        assert_eq!(told(), (String::new(), 0));
    }
}
