//! `tidegate device`: who the devices are, and what each of them may do.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, settings};
use crate::config::{self, Devices, Source};
use crate::gate::{self, RegistrySettings};
use crate::registry::{Fault, Registry};
use crate::rules::device::{Alphabet, DeviceId};
use crate::tls::trust;

mod add;
mod change;
mod material;
mod rotate;
mod show;
mod table;
mod transfer;
mod when;

/// Devices: who they are, what they may show, how they may connect.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Makes a device: issues or takes what it shows, and registers it
    Add(Box<add::Add>),
    /// Lists devices, by id
    List(show::List),
    /// Shows all that is known of devices
    Show(show::Show),
    /// Keeps devices out; their open connections end
    Disable(change::Disable),
    /// Lets devices in again
    Enable(change::Enable),
    /// Removes devices with all they may show; their open connections end
    Remove(change::Remove),
    /// Changes what is known of a device, or when what it shows counts
    Set(change::Set),
    /// Gives a device a new token; the old ones end after an overlap
    RotateToken(rotate::RotateToken),
    /// Gives a device a new certificate; the old ones end after an overlap
    RotateCertificate(Box<rotate::RotateCertificate>),
    /// Registers the devices of a file, all or none
    Import(transfer::Import),
    /// Writes the devices to a file
    Export(transfer::Export),
}

pub(super) const EXAMPLES: &str = "\
Examples:
  tidegate device add meter-7 --ca pki --out devices
  tidegate device add meter-8 --token
  tidegate device list
  tidegate device disable meter-7";

impl Command {
    /// Does it, and tells what was done.
    ///
    /// # Errors
    /// The sentence and the exit code: 2 for arguments or a configuration that cannot be, else 1.
    pub fn run(self) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
        runtime.block_on(async {
            match self {
                Self::Add(add) => add.run().await,
                Self::List(list) => list.run().await,
                Self::Show(show) => show.run().await,
                Self::Disable(disable) => disable.run().await,
                Self::Enable(enable) => enable.run().await,
                Self::Remove(remove) => remove.run().await,
                Self::Set(set) => set.run().await,
                Self::RotateToken(rotate) => rotate.run().await,
                Self::RotateCertificate(rotate) => rotate.run().await,
                Self::Import(import) => import.run().await,
                Self::Export(export) => export.run().await,
            }
        })
    }
}

/// Which registry, and how it is told.
#[derive(Args, Clone, Debug, Default)]
struct Where {
    /// The configuration file; left out: ./tidegate.toml. Of it, [registry], [token] and [[trust]] matter
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// For machines: one JSON object for each device, a line each
    #[arg(long)]
    json: bool,
}

/// An open registry, and what the configuration says of devices.
struct House {
    registry: Registry,
    settings: RegistrySettings,
    groups: Vec<trust::Settings>,
    alphabet: Alphabet,
    /// In seconds since 1970.
    now: i64,
}

impl Where {
    fn source(&self) -> Source {
        Source {
            path: settings::file(self.config.as_deref(), false),
            env: settings::environment(),
            ..Source::default()
        }
    }

    /// What the configuration says of devices.
    fn devices(&self) -> Result<Devices, Failure> {
        let source = self.source();
        config::devices(&source).map_err(|faults| {
            let mut lines: Vec<String> = faults
                .iter()
                .map(|fault| settings::told(fault, &source))
                .collect();
            lines.push(format!(
                "{}: nothing was done; `tidegate check` tells more",
                settings::name(&source)
            ));
            Failure::asked_wrongly(lines.join("\n"))
        })
    }

    /// Opens the registry.
    async fn open(&self) -> Result<House, Failure> {
        let devices = self.devices()?;
        match House::open(devices).await? {
            Some(house) => Ok(house),
            None => Err(self.none()),
        }
    }

    /// There is no registry.
    fn none(&self) -> Failure {
        let source = self.source();
        let way_out = if source.path.is_some() {
            "write [registry] with url = \"sqlite://tidegate.db\" into it"
        } else {
            "write [registry] with url = \"sqlite://tidegate.db\" into ./tidegate.toml, or name a file by --config FILE"
        };
        Failure::asked_wrongly(format!(
            "{}: there is no registry; {way_out}",
            settings::name(&source)
        ))
    }
}

impl House {
    /// `None`, if the configuration has no registry.
    async fn open(devices: Devices) -> Result<Option<Self>, Failure> {
        let Devices {
            registry,
            trust,
            alphabet,
        } = devices;
        let Some(settings) = registry else {
            return Ok(None);
        };
        let registry = Registry::open(&settings.directory.store)
            .await
            .map_err(failed)?;
        Ok(Some(Self {
            registry,
            settings,
            groups: trust,
            alphabet,
            now: gate::now(),
        }))
    }

    /// Judges ids by the alphabet of the configuration.
    fn ids(&self, texts: &[String]) -> Result<Vec<DeviceId>, Failure> {
        texts.iter().map(|text| id(&self.alphabet, text)).collect()
    }

    fn group(&self, name: &str) -> Result<&trust::Settings, Failure> {
        group(&self.groups, name)
    }
}

/// A trust group by its name.
fn group<'g>(groups: &'g [trust::Settings], name: &str) -> Result<&'g trust::Settings, Failure> {
    groups
        .iter()
        .find(|group| group.name == name)
        .ok_or_else(|| {
            let names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
            let way_out = if names.is_empty() {
                format!("write a [[trust]] with name = {name:?} into the configuration")
            } else {
                format!("there are {}", names.join(", "))
            };
            Failure::asked_wrongly(format!("there is no trust group {name:?}; {way_out}"))
        })
}

fn id(alphabet: &Alphabet, text: &str) -> Result<DeviceId, Failure> {
    alphabet
        .device(text)
        .map_err(|fault| Failure::asked_wrongly(format!("{text:?}: {fault}")))
}

/// What no configuration allows in a device id is refused before one is read.
fn possible_id(text: &str) -> Result<String, String> {
    let extra: String = ('!'..='~').filter(|c| !"+#/$".contains(*c)).collect();
    let widest = Alphabet::with_extra(&extra).map_err(|fault| fault.to_string())?;
    widest
        .device(text)
        .map(|_| text.to_owned())
        .map_err(|fault| fault.to_string())
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(fault: Fault) -> Failure {
    Failure::failed(fault.to_string())
}

/// Prints one JSON object on a line.
fn say_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::failed(error.to_string()))?;
    super::say(&(text + "\n"));
    Ok(())
}

/// Words for people, on standard error: what is on standard output can be taken as it is.
fn tell(text: &str) {
    use std::io::Write as _;
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
fn typed(line: &[&str]) -> Result<Command, clap::Error> {
    use clap::{FromArgMatches as _, Subcommand as _};
    let command = Command::augment_subcommands(clap::Command::new("device"));
    let matches = command.try_get_matches_from([&["device"], line].concat())?;
    Command::from_arg_matches(&matches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_device_id_names_a_device() {
        for id in ["", "a/b", "#", "a b", "../ca", "ä", "+", "$SYS"] {
            for verb in ["show", "disable", "enable", "remove", "set", "rotate-token"] {
                assert!(typed(&[verb, id]).is_err(), "{verb} {id:?}");
            }
            let line = ["add", id, "--ca", "d", "--out", "d"];
            let told = typed(&line).expect_err(id).to_string();
            assert!(told.contains("A–Z a–z 0–9 . _ -"), "{told}");
        }
        assert_eq!(possible_id("urn:a@b").as_deref(), Ok("urn:a@b"));
        assert!(id(&Alphabet::default(), "urn:a").is_err());
    }

    #[test]
    fn every_command_for_devices_shows_examples() {
        use clap::Subcommand as _;
        let mut all = Command::augment_subcommands(clap::Command::new("device"));
        for command in all.get_subcommands_mut() {
            let name = command.get_name().to_owned();
            let help = command.render_long_help().to_string();
            assert!(
                help.contains("Examples:") && help.contains(&format!("tidegate device {name} ")),
                "{name}: {help}"
            );
        }
    }
}
