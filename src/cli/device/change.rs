//! `tidegate device disable`, `enable`, `remove` and `set`

use std::fmt::Write as _;

use clap::Args;

use super::super::{Failure, say};
use super::add::connections;
use super::when::When;
use super::{House, Where, failed, possible_id, say_json};
use crate::registry::form::{self, Form};
use crate::rules::device::{DeviceId, Mode};
use crate::rules::record::Record;
use crate::tls::trust;

const DISABLE_EXAMPLES: &str = "\
The open connections of a disabled device end within a second or two, at every gate of the registry.

Examples:
  tidegate device disable meter-7
  tidegate device disable meter-7 meter-8 --json";

/// Keeps devices out; their open connections end.
#[derive(Args, Debug)]
#[command(after_help = DISABLE_EXAMPLES)]
pub struct Disable {
    /// The devices
    #[arg(value_name = "ID", required = true, value_parser = possible_id)]
    devices: Vec<String>,
    #[command(flatten)]
    place: Where,
}

const ENABLE_EXAMPLES: &str = "\
Examples:
  tidegate device enable meter-7
  tidegate device list --disabled --json | jq -r .device | xargs tidegate device enable";

/// Lets devices in again.
#[derive(Args, Debug)]
#[command(after_help = ENABLE_EXAMPLES)]
pub struct Enable {
    /// The devices
    #[arg(value_name = "ID", required = true, value_parser = possible_id)]
    devices: Vec<String>,
    #[command(flatten)]
    place: Where,
}

const REMOVE_EXAMPLES: &str = "\
Nothing is asked back. With registry.unknown = \"register\" a removed device whose certificate
is still good comes back by itself: disable it instead, or revoke its certificate
(tidegate ca revoke).

Examples:
  tidegate device remove meter-7
  tidegate device export kept.jsonl && tidegate device remove meter-7 meter-8";

/// Removes devices with all they may show; their open connections end.
#[derive(Args, Debug)]
#[command(after_help = REMOVE_EXAMPLES)]
pub struct Remove {
    /// The devices
    #[arg(value_name = "ID", required = true, value_parser = possible_id)]
    devices: Vec<String>,
    #[command(flatten)]
    place: Where,
}

const SET_EXAMPLES: &str = "\
Examples:
  tidegate device set meter-7 --description \"by the door\" --label site=harbour --label spare=
  tidegate device set meter-7 --min-mode server-tls    a token will do, too
  tidegate device set meter-7 --connections 1          the newest connection wins
  tidegate device set meter-7 --revoke 2               ends its credential 2 (see `show`), now
  tidegate device set meter-7 --until 2=2027-01-31 --until 3=never
  tidegate device set meter-7 --trust vendor           it belongs to this group now, to no other";

/// Changes what is known of a device, or when what it shows counts.
#[derive(Args, Debug, Default)]
#[command(after_help = SET_EXAMPLES)]
pub struct Set {
    /// The device
    #[arg(value_name = "ID", value_parser = possible_id)]
    device: String,
    #[command(flatten)]
    place: Where,
    /// For people; \"\" removes it
    #[arg(long, value_name = "TEXT", value_parser = form::description)]
    description: Option<String>,
    /// Sets a label; NAME= removes it; repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    label: Vec<(String, Option<String>)>,
    /// The weakest mode that it may use: mutual-tls | server-tls | plain
    #[arg(long, value_name = "MODE", value_parser = form::mode)]
    min_mode: Option<Mode>,
    /// How many connections it may have at once; 0: any number; default: as limits.connections_per_device says
    #[arg(long, value_name = "N|default", value_parser = connections_or_default)]
    connections: Option<Connections>,
    /// The trust group that it belongs to: any certificate of it that names the device; those of other groups end
    #[arg(long, value_name = "GROUP")]
    trust: Option<String>,
    /// Ends the credential of this number now, and forgets one that has ended; repeatable
    #[arg(long, value_name = "N")]
    revoke: Vec<u32>,
    /// When the credential of this number ends: 2=2027-01-31, 2=90d, 2=never; repeatable
    #[arg(long, value_name = "N=TIME", value_parser = numbered)]
    until: Vec<(u32, When)>,
}

/// `--connections`; `None`: as the limit says.
#[derive(Clone, Copy, Debug)]
struct Connections(Option<u32>);

fn connections_or_default(text: &str) -> Result<Connections, String> {
    if text == "default" {
        return Ok(Connections(None));
    }
    connections(text).map(|number| Connections(Some(number)))
}

fn label(text: &str) -> Result<(String, Option<String>), String> {
    match text.strip_suffix('=') {
        Some(name) => form::label(name, "-").map(|(name, _)| (name, None)),
        None => super::add::pair(text).map(|(name, value)| (name, Some(value))),
    }
}

fn numbered(text: &str) -> Result<(u32, When), String> {
    let told = || format!("{text:?} is no number and time; write 2=2027-01-31");
    let (number, when) = text.split_once('=').ok_or_else(told)?;
    let number = number.parse().map_err(|_| told())?;
    Ok((number, When::read(when)?))
}

impl Disable {
    pub(super) async fn run(self) -> Result<(), Failure> {
        switch(&self.place, &self.devices, false).await
    }
}

impl Enable {
    pub(super) async fn run(self) -> Result<(), Failure> {
        switch(&self.place, &self.devices, true).await
    }
}

/// Each device by itself: one that is not there keeps no other from what was asked.
async fn switch(place: &Where, devices: &[String], enabled: bool) -> Result<(), Failure> {
    let house = place.open().await?;
    let mut faults = Vec::new();
    for device in house.ids(devices)? {
        let mut change = |record: &mut Record| {
            record.enabled = enabled;
            Ok(())
        };
        match house.registry.change(&device, house.now, &mut change).await {
            Ok(record) if place.json => say_json(&Form::shown(&record, None))?,
            Ok(_) if enabled => say(&format!("enabled {device}\n")),
            Ok(_) => say(&format!("disabled {device}\n")),
            Err(fault) => faults.push(fault.to_string()),
        }
    }
    all_done(&faults)
}

fn all_done(faults: &[String]) -> Result<(), Failure> {
    if faults.is_empty() {
        Ok(())
    } else {
        Err(Failure::failed(faults.join("\n")))
    }
}

/// A device that is gone, for machines.
#[derive(serde::Serialize)]
struct Removed<'d> {
    device: &'d str,
    removed: bool,
}

impl Remove {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let house = self.place.open().await?;
        let mut faults = Vec::new();
        for device in house.ids(&self.devices)? {
            match house.registry.remove(&device).await {
                Ok(()) if self.place.json => say_json(&Removed {
                    device: device.as_str(),
                    removed: true,
                })?,
                Ok(()) => say(&format!("removed {device}\n")),
                Err(fault) => faults.push(fault.to_string()),
            }
        }
        all_done(&faults)
    }
}

impl Set {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let house = self.place.open().await?;
        let device = super::id(&house.alphabet, &self.device)?;
        if self.is_empty() {
            return Err(Failure::asked_wrongly(
                "say what is to be set: --description, --label, --min-mode, --connections, --trust, --revoke or --until",
            ));
        }
        let group = self
            .trust
            .as_deref()
            .map(|name| house.group(name))
            .transpose()?;
        let record = self.change(&device, group, &house).await?;
        if self.place.json {
            return say_json(&Form::shown(&record, None));
        }
        let mut words = format!(
            "set {device}: {}, at least {}\n",
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
                super::show::credential(credential, house.now)
            );
        }
        if let Some(sentence) = record.locked_out(house.now) {
            let _ = writeln!(words, "  {sentence}");
        }
        say(&words);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.description.is_none()
            && self.label.is_empty()
            && self.min_mode.is_none()
            && self.connections.is_none()
            && self.trust.is_none()
            && self.revoke.is_empty()
            && self.until.is_empty()
    }

    async fn change(
        &self,
        device: &DeviceId,
        group: Option<&trust::Settings>,
        house: &House,
    ) -> Result<Record, Failure> {
        let mut change = |record: &mut Record| self.apply(record, group, house.now);
        let changed = house.registry.change(device, house.now, &mut change).await;
        changed.map_err(failed)
    }

    /// Changes a record.
    fn apply(
        &self,
        record: &mut Record,
        group: Option<&trust::Settings>,
        now: i64,
    ) -> Result<(), String> {
        if let Some(description) = &self.description {
            record.description.clone_from(description);
        }
        for (name, value) in &self.label {
            match value {
                Some(value) => record.labels.insert(name.clone(), value.clone()),
                None => record.labels.remove(name),
            };
        }
        if let Some(mode) = self.min_mode {
            record.min_mode = mode;
        }
        if let Some(Connections(number)) = self.connections {
            record.connections = number;
        }
        for number in &self.revoke {
            record.end_credential(*number, now)?;
        }
        for (number, when) in &self.until {
            record.credential(*number)?.valid.until = when.moment(now);
        }
        if let Some(group) = group {
            record.bind(&group.group(), now);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::device::Alphabet;
    use crate::rules::identity::{Field, Naming};
    use crate::rules::record::{Pin, Proof, Valid};
    use crate::tls::trust::CrlStale;

    fn group(name: &str) -> trust::Settings {
        trust::Settings {
            name: name.to_owned(),
            ca: Vec::new(),
            intermediates: Vec::new(),
            crl: Vec::new(),
            crl_stale: CrlStale::Refuse,
            naming: Naming {
                field: Field::SanUri,
                pattern: None,
                alphabet: Alphabet::default(),
            },
        }
    }

    fn proof(group: &trust::Settings) -> Proof {
        group.group().proof(None)
    }

    fn record() -> Record {
        let mut record = Record::new("meter-7".parse().expect("a device id"), 0);
        record.labels.insert("old".into(), "1".into());
        record.add_credential(proof(&group("fleet")), Valid::since(0));
        record.add_credential(Proof::Pinned(Pin::Key([1; 32])), Valid::since(0));
        record
    }

    fn set(line: &[&str], record: &mut Record) -> Result<(), String> {
        let typed = super::super::typed(&[&["set", "meter-7"], line].concat());
        let Ok(super::super::Command::Set(set)) = typed else {
            panic!("{line:?} is no set");
        };
        let group = set.trust.as_deref().map(group);
        set.apply(record, group.as_ref(), 100)
    }

    #[test]
    fn each_argument_changes_what_it_names() {
        let mut it = record();
        let line = "--description d --label a=b --label old= --min-mode plain --connections 2 --revoke 1 --until 2=90d";
        set(&line.split(' ').collect::<Vec<_>>(), &mut it).expect("set");
        assert_eq!(it.description, "d");
        assert_eq!(
            it.labels.into_iter().collect::<Vec<_>>(),
            [("a".into(), "b".into())]
        );
        assert_eq!((it.min_mode, it.connections), (Mode::Plain, Some(2)));
        assert!(!it.credentials[0].valid.holds(100) && it.credentials[0].valid.holds(99));
        assert_eq!(it.credentials[1].valid.until, Some(100 + 90 * 86_400));
        let mut it = record();
        set(&["--connections", "default", "--until", "2=never"], &mut it).expect("set");
        assert_eq!(
            (it.connections, it.credentials[1].valid.until),
            (None, None)
        );
        let told = set(&["--revoke", "3"], &mut it).expect_err("there is none");
        assert!(told.contains("device show meter-7"), "{told}");
    }

    /// threats.md I7
    #[test]
    fn a_device_belongs_to_one_group_at_a_time() {
        let mut it = record();
        set(&["--trust", "vendor"], &mut it).expect("set");
        assert!(!it.credentials[0].valid.holds(100), "fleet's");
        assert!(
            it.credentials[1].valid.holds(100),
            "a pin belongs to no group"
        );
        assert_eq!(it.credentials[2].proof, proof(&group("vendor")));
        set(&["--trust", "fleet"], &mut it).expect("set");
        assert!(it.credentials[0].valid.holds(100) && !it.credentials[2].valid.holds(100));
        assert_eq!(it.credentials.len(), 3);
    }
}
