//! `tidegate device list` and `show`

use std::fmt::Write as _;

use clap::Args;

use super::super::{Failure, say};
use super::table::{table, width};
use super::{House, Where, failed, possible_id, say_json, tell};
use crate::registry::form::{self, Form, time_text};
use crate::registry::{Fault, Filter};
use crate::rules::device::Mode;
use crate::rules::record::{Credential, LastSeen, Pin, Proof, Record};

/// The devices asked for at once: memory stays the same for any number of them.
pub(super) const PAGE: u32 = 1_000;

const LIST_EXAMPLES: &str = "\
A table has 100 devices, and tells how to go on; --json has all, unless --limit is given.

Examples:
  tidegate device list
  tidegate device list --prefix meter- --label site=harbour --disabled
  tidegate device list --min-mode plain                    who may come in the clear
  tidegate device list --after meter-99 --limit 20
  tidegate device list --json | jq -r .device";

/// Lists devices, by id.
#[derive(Args, Debug)]
#[command(after_help = LIST_EXAMPLES)]
pub struct List {
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    which: Which,
    /// Up to so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Only those behind this id
    #[arg(long, value_name = "ID", value_parser = possible_id)]
    after: Option<String>,
}

/// Which devices; all conditions together.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Which devices")]
pub(super) struct Which {
    /// Those whose id begins with this
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Those with this label, whatever it says, or with this value; repeatable
    #[arg(long, value_name = "NAME[=VALUE]")]
    label: Vec<String>,
    /// Those that are enabled
    #[arg(long, conflicts_with = "disabled")]
    enabled: bool,
    /// Those that are not
    #[arg(long)]
    disabled: bool,
    /// Those with this weakest mode
    #[arg(long, value_name = "MODE", value_parser = form::mode)]
    min_mode: Option<Mode>,
    /// Those with a credential of this trust group
    #[arg(long, value_name = "GROUP")]
    trust: Option<String>,
}

impl Which {
    pub(super) fn filter(&self) -> Filter {
        let label = |text: &String| {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            (name.to_owned(), value.to_owned())
        };
        Filter {
            prefix: self.prefix.clone(),
            labels: self.label.iter().map(label).collect(),
            enabled: match (self.enabled, self.disabled) {
                (true, _) => Some(true),
                (_, true) => Some(false),
                _ => None,
            },
            min_mode: self.min_mode,
            trust: self.trust.clone(),
        }
    }
}

/// The devices of a table, unless `--limit` says otherwise.
const SHEET: u32 = 100;

impl List {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let house = self.place.open().await?;
        let filter = self.which.filter();
        let after = self
            .after
            .as_deref()
            .map(|text| super::id(&house.alphabet, text));
        let mut after = after.transpose()?;
        let mut left = match (self.limit, self.place.json) {
            (Some(limit), _) => Some(limit),
            (None, true) => None,
            (None, false) => Some(SHEET),
        };
        let mut rows = Vec::new();
        loop {
            // One more than is shown tells whether there are more.
            let most = left.map_or(PAGE, |left| left.saturating_add(1).min(PAGE));
            let page = house
                .registry
                .list(&filter, after.as_ref(), most)
                .await
                .map_err(failed)?;
            let full = page.len() >= most as usize;
            for (record, seen) in page {
                if left == Some(0) {
                    self.finish(&rows, after.as_ref().map(ToString::to_string));
                    return Ok(());
                }
                left = left.map(|left| left - 1);
                after = Some(record.device.clone());
                if self.place.json {
                    say_json(&Form::shown(&record, seen.as_ref()))?;
                } else {
                    rows.push(row(&record, seen.as_ref(), house.now));
                }
            }
            if !full {
                self.finish(&rows, None);
                return Ok(());
            }
        }
    }

    fn finish(&self, rows: &[[String; 6]], more_behind: Option<String>) {
        if self.place.json {
            return;
        }
        if rows.is_empty() {
            tell("no device; `tidegate device add` makes one\n");
            return;
        }
        let heading = [
            "DEVICE",
            "STATE",
            "MIN MODE",
            "SHOWS",
            "LAST SEEN",
            "DESCRIPTION, LABELS",
        ];
        say(&table(heading, rows, width()));
        if let Some(id) = more_behind {
            tell(&format!("there are more: --after {id}\n"));
        }
    }
}

fn row(record: &Record, seen: Option<&LastSeen>, now: i64) -> [String; 6] {
    let mut shows: Vec<&str> = Vec::new();
    for credential in record.credentials.iter().filter(|one| one.valid.holds(now)) {
        let word = match &credential.proof {
            Proof::Vouched { group, .. } => group.as_str(),
            Proof::Pinned(_) => "pin",
            Proof::Token(_) => "token",
        };
        if !shows.contains(&word) {
            shows.push(word);
        }
    }
    let shows = if shows.is_empty() {
        "–".to_owned()
    } else {
        shows.join(", ")
    };
    let labels = record
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    let mut words: Vec<String> = labels.collect();
    if !record.description.is_empty() {
        words.insert(0, record.description.clone());
    }
    [
        record.device.to_string(),
        state(record).to_owned(),
        record.min_mode.to_string(),
        shows,
        seen.map_or("never".to_owned(), |seen| time_text(seen.at)),
        words.join("  "),
    ]
}

fn state(record: &Record) -> &'static str {
    if record.enabled {
        "enabled"
    } else {
        "disabled"
    }
}

const SHOW_EXAMPLES: &str = "\
Examples:
  tidegate device show meter-7
  tidegate device show meter-7 meter-8 --json";

/// Shows all that is known of devices.
#[derive(Args, Debug)]
#[command(after_help = SHOW_EXAMPLES)]
pub struct Show {
    /// The devices
    #[arg(value_name = "ID", required = true, value_parser = possible_id)]
    devices: Vec<String>,
    #[command(flatten)]
    place: Where,
}

impl Show {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let house = self.place.open().await?;
        let mut missing = Vec::new();
        for device in house.ids(&self.devices)? {
            let Some(record) = house.registry.find(&device).await.map_err(failed)? else {
                missing.push(Fault::NoDevice(device).to_string());
                continue;
            };
            let seen = house.registry.last_seen(&device).await.map_err(failed)?;
            if self.place.json {
                say_json(&Form::shown(&record, seen.as_ref()))?;
            } else {
                say(&text(&record, seen.as_ref(), &house));
            }
        }
        if missing.is_empty() {
            Ok(())
        } else {
            Err(Failure::failed(missing.join("\n")))
        }
    }
}

fn text(record: &Record, seen: Option<&LastSeen>, house: &House) -> String {
    let mut out = format!("{}\n", record.device);
    let mut line = |name: &str, what: &str| {
        if !what.is_empty() {
            // Writing to a String never fails.
            let _ = writeln!(out, "  {name:12} {what}");
        }
    };
    line("description", &record.description);
    let labels = record
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    line("labels", &labels.collect::<Vec<_>>().join("  "));
    line("state", state(record));
    line("min_mode", record.min_mode.word());
    let connections = match record.connections {
        None => "as limits.connections_per_device says".to_owned(),
        Some(0) => "any number at once".to_owned(),
        Some(most) => format!("{most} at once, the newest win"),
    };
    line("connections", &connections);
    let by = record.registered_by.as_ref();
    line(
        "registered",
        &by.map_or("by its owner".to_owned(), |group| {
            format!("by itself; {group} vouched for it")
        }),
    );
    line("created", &time_text(record.created));
    line("changed", &time_text(record.changed));
    let seen = seen.map_or("never".to_owned(), |seen| {
        let shown = seen
            .certificate
            .map(|print| format!(", certificate {}", hex::encode(print)));
        let (at, address, mode) = (time_text(seen.at), &seen.address, seen.mode);
        format!(
            "{at}, from {address} by {mode}{}",
            shown.unwrap_or_default()
        )
    });
    line("last seen", &seen);
    if record.credentials.is_empty() {
        line("shows", "nothing: it cannot enter");
    }
    for one in &record.credentials {
        let known = match &one.proof {
            Proof::Vouched { group, .. } => house.groups.iter().any(|known| known.name == *group),
            Proof::Pinned(_) | Proof::Token(_) => true,
        };
        let gone = if known {
            ""
        } else {
            "; there is no such trust group in the configuration"
        };
        line("shows", &format!("{}{gone}", credential(one, house.now)));
    }
    out
}

/// A credential in one line: its number, what has to be shown, when it counts.
pub(super) fn credential(credential: &Credential, now: i64) -> String {
    let pinned = |pin: &Pin| match pin {
        Pin::Certificate(print) => format!("the certificate with SHA-256 {}", hex::encode(print)),
        Pin::Key(print) => format!(
            "a certificate with the key of SHA-256 {}",
            hex::encode(print)
        ),
    };
    let what = match &credential.proof {
        Proof::Vouched {
            group,
            field,
            pin: None,
        } => {
            format!("any certificate of {group} that names it in {field}")
        }
        Proof::Vouched {
            group,
            field,
            pin: Some(pin),
        } => {
            format!("{}, of {group}, which names it in {field}", pinned(pin))
        }
        Proof::Pinned(pin) => format!("{}, whoever issued it", pinned(pin)),
        Proof::Token(_) => "a token".to_owned(),
    };
    let valid = credential.valid;
    let when = match valid.until {
        Some(until) if until < now => format!("ended {}", time_text(until)),
        Some(until) => format!("until {}", time_text(until)),
        None => "without an end".to_owned(),
    };
    let not_yet = if valid.from > now {
        format!(", from {}", time_text(valid.from))
    } else {
        String::new()
    };
    format!("{}: {what}{not_yet}; {when}", credential.number)
}
