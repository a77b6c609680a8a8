//! `tidegate device import` and `export`

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Read as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::super::{Failure, say};
use super::show::{PAGE, Which};
use super::{House, Where, failed, say_json, tell};
use crate::registry::form::{Form, doubles};
use crate::registry::{Fault, token_key};
use crate::rules::record::{Proof, Record, Valid};

mod rows;

const IMPORT_EXAMPLES: &str = "\
CSV has a heading; of its columns only device is needed:
  device,description,labels,enabled,min_mode,connections,credentials,registered_by,created,
  changed
Labels are NAME=VALUE; NAME=VALUE, credentials are KIND NAME=VALUE …; KIND …:
  vouched trust=vendor                   any certificate of the group that names the device
  vouched trust=fleet certificate=SHA256
  pinned certificate=SHA256              or key=SHA256, of the SubjectPublicKeyInfo
  token hash=HASH                        as `export` writes it
each with from=TIME and until=TIME if need be. JSON lines hold what `export` writes.

Tokens travel as keyed hashes: the gate that they are imported for needs the same token key file
(token.key_file).

Examples:
  tidegate device import meters.csv
  tidegate device import serials.csv --trust vendor
  tidegate device export -c old.toml | tidegate device import - --format jsonl -c new.toml

Exit codes: 0 all are registered; 1 none is; 2 usage or configuration.";

/// Registers the devices of a file, all or none.
#[derive(Args, Debug)]
#[command(after_help = IMPORT_EXAMPLES)]
pub struct Import {
    /// The file; - for standard input
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
    /// csv | jsonl; left out: as the file's name ends
    #[arg(long, value_name = "FORMAT", value_parser = Format::read)]
    format: Option<Format>,
    /// The trust group of the devices that the file says nothing to show of: any certificate of it that names them
    #[arg(long, value_name = "GROUP")]
    trust: Option<String>,
    #[command(flatten)]
    place: Where,
}

const EXPORT_EXAMPLES: &str = "\
What is written can be imported again, elsewhere too; when devices were last seen is not in it.
Tokens are in it as keyed hashes, of use only together with the token key file (token.key_file).

Examples:
  tidegate device export devices.jsonl
  tidegate device export --prefix meter- meters.csv
  tidegate device export | gzip > devices.jsonl.gz";

/// Writes the devices to a file.
#[derive(Args, Debug)]
#[command(after_help = EXPORT_EXAMPLES)]
pub struct Export {
    /// The file, which must not be there yet; left out or -: standard output
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// csv | jsonl; left out: as the file's name ends, else jsonl
    #[arg(long, value_name = "FORMAT", value_parser = Format::read)]
    format: Option<Format>,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    which: Which,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Format {
    Csv,
    Jsonl,
}

impl Format {
    fn read(word: &str) -> Result<Self, String> {
        match word {
            "csv" => Ok(Self::Csv),
            "jsonl" => Ok(Self::Jsonl),
            _ => Err("write csv or jsonl".into()),
        }
    }

    fn of(file: &Path) -> Option<Self> {
        match file.extension()?.to_str()? {
            "csv" => Some(Self::Csv),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            _ => None,
        }
    }
}

/// The largest file that is imported, in bytes: a million devices take some 400 MiB.
const LARGEST: u64 = 1 << 30;
/// So many faulty lines are told.
const TOLD: usize = 20;

/// What was registered, for machines.
#[derive(serde::Serialize)]
struct Imported {
    imported: usize,
}

impl Import {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let piped = self.file.as_os_str() == "-";
        let format = self
            .format
            .or_else(|| Format::of(&self.file))
            .ok_or_else(|| {
                Failure::asked_wrongly(
                    "the name does not tell the format; add --format csv or --format jsonl",
                )
            })?;
        let house = self.place.open().await?;
        let bytes = read(&self.file, piped).map_err(|error| {
            Failure::failed(format!("cannot read {}: {error}", self.file.display()))
        })?;
        let (mut records, lines) = house.judge(format, &bytes)?;
        drop(bytes);
        if let Some(name) = &self.trust {
            let group = house.group(name)?;
            let unarmed = records.iter_mut().filter(|one| one.credentials.is_empty());
            for record in unarmed {
                let proof = Proof::Vouched {
                    group: group.name.clone(),
                    field: group.naming.field,
                    pin: None,
                };
                record.add_credential(proof, Valid::since(house.now));
            }
        }
        house.same_token_key(&records).await?;
        let bar = bar(records.len() as u64);
        let mut progress = |done: usize| bar.set_position(done as u64);
        let added = house.registry.add(&records, &mut progress).await;
        bar.finish_and_clear();
        added.map_err(|fault| nothing(vec![at_line(&fault, &records, &lines)]))?;
        let imported = records.len();
        if self.place.json {
            return say_json(&Imported { imported });
        }
        say(&format!(
            "registered {imported} devices\n{}",
            unarmed(&records)
        ));
        Ok(())
    }
}

/// A sentence, if some of the devices have nothing to show.
fn unarmed(records: &[Record]) -> String {
    let mut unarmed = records.iter().filter(|one| one.credentials.is_empty());
    let Some(first) = unarmed.next() else {
        return String::new();
    };
    let count = 1 + unarmed.count();
    let first = &first.device;
    format!(
        "{count} of them with nothing to show, which cannot enter, {first} first: write what they may show into the column credentials, as in \
         vouched trust=GROUP; or import with --trust GROUP\n"
    )
}

fn read(file: &Path, piped: bool) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if piped {
        io::stdin()
            .lock()
            .take(LARGEST + 1)
            .read_to_end(&mut bytes)?;
    } else {
        std::fs::File::open(file)?
            .take(LARGEST + 1)
            .read_to_end(&mut bytes)?;
    }
    if bytes.len() as u64 > LARGEST {
        let what = "it has more than 1 GiB; import it in parts";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    Ok(bytes)
}

/// The failure of an import: what is wrong with up to [`TOLD`] lines, and that nothing was done.
fn nothing(mut faults: Vec<String>) -> Failure {
    let count = faults.len();
    if count > TOLD {
        faults.truncate(TOLD);
        faults.push(format!("… and {} more", count - TOLD));
    }
    faults.push("nothing was registered".into());
    Failure::failed(faults.join("\n"))
}

/// What the registry refuses, with the line that it is on.
fn at_line(fault: &Fault, records: &[Record], lines: &[u64]) -> String {
    let is = |record: &Record| match fault {
        Fault::DeviceExists(device) => record.device == *device,
        Fault::PinExists { pin, .. } => {
            let mut proofs = record.credentials.iter().map(|one| &one.proof);
            proofs.any(|proof| *proof == Proof::Pinned(*pin))
        }
        _ => false,
    };
    let place = records.iter().position(is);
    match place.and_then(|place| lines.get(place)) {
        Some(line) => format!("line {line}: {fault}"),
        None => fault.to_string(),
    }
}

impl House {
    /// The records of a file, and the line that each is on.
    fn judge(&self, format: Format, bytes: &[u8]) -> Result<(Vec<Record>, Vec<u64>), Failure> {
        let text = str::from_utf8(bytes).map_err(|fault| {
            let line = bytes[..fault.valid_up_to()].split(|b| *b == b'\n').count();
            nothing(vec![format!("line {line}: it is no UTF-8")])
        })?;
        let forms = match format {
            Format::Csv => rows::read(text),
            Format::Jsonl => json_lines(text),
        };
        let (mut records, mut lines, mut faults) = (Vec::new(), Vec::new(), Vec::new());
        for (line, form) in forms {
            match form.and_then(|form| self.record(form)) {
                Ok(record) => {
                    records.push(record);
                    lines.push(line);
                }
                Err(fault) => faults.push((line, fault)),
            }
        }
        for (place, fault) in doubles(&records) {
            faults.push((lines[place], fault));
        }
        if faults.is_empty() {
            return Ok((records, lines));
        }
        faults.sort_by_key(|(line, _)| *line);
        let told = faults
            .into_iter()
            .map(|(line, fault)| format!("line {line}: {fault}"));
        Err(nothing(told.collect()))
    }

    fn record(&self, mut form: Form) -> Result<Record, String> {
        for credential in &mut form.credentials {
            if let Some(name) = &credential.trust {
                let group = self.group(name).map_err(|failure| failure.sentence)?;
                let field = || group.naming.field.word().to_owned();
                credential.field.get_or_insert_with(field);
            }
        }
        form.record(&self.alphabet, self.now)
    }

    /// Hashes of tokens are of use only with the key that made them.
    async fn same_token_key(&self, records: &[Record]) -> Result<(), Failure> {
        let has_token = |record: &Record| {
            let mut proofs = record.credentials.iter().map(|one| &one.proof);
            proofs.any(|proof| matches!(proof, Proof::Token(_)))
        };
        if !records.iter().any(has_token) {
            return Ok(());
        }
        let file = &self.settings.token_key;
        if token_key::read(file).map_err(Failure::failed)?.is_none() {
            return Err(nothing(vec![format!(
                "the file holds hashes of tokens, which are of use only with the key that made them: copy the token key of the \
                 registry that they are from to {}",
                file.display()
            )]));
        }
        let same = token_key::token_key(file, &self.registry).await;
        same.map(drop).map_err(|why| nothing(vec![why]))
    }
}

/// Each line that is not empty: its number, and the device on it.
fn json_lines(text: &str) -> Vec<(u64, Result<Form, String>)> {
    let lines = (1..)
        .zip(text.lines())
        .filter(|(_, line)| !line.trim().is_empty());
    let read = |line: &str| serde_json::from_str(line).map_err(|fault| without_place(&fault));
    lines.map(|(number, line)| (number, read(line))).collect()
}

/// The fault without "at line 1": that is the line within the line.
fn without_place(fault: &serde_json::Error) -> String {
    let text = fault.to_string();
    match text.rsplit_once(" at line 1 column ") {
        Some((what, column)) => format!("{what} (column {column})"),
        None => text,
    }
}

/// A bar on standard error, if that is a terminal; else nothing is shown.
fn bar(length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} devices, {eta} left");
    let bar = ProgressBar::new(length);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

impl Export {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let file = self.file.as_deref().filter(|file| file.as_os_str() != "-");
        let format = match (self.format, file) {
            (Some(format), _) => format,
            (None, None) => Format::Jsonl,
            (None, Some(file)) => Format::of(file).ok_or_else(|| {
                Failure::asked_wrongly(
                    "the name does not tell the format; add --format csv or --format jsonl",
                )
            })?,
        };
        let house = self.place.open().await?;
        let Some(file) = file else {
            let mut out = BufWriter::new(io::stdout().lock());
            let exported = house.write(&self.which, format, &mut out).await;
            return match exported {
                // Whoever reads it may go away early, as `head` does.
                Err(Stopped::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                Err(stopped) => Err(stopped.failure("standard output")),
                Ok(_) => Ok(()),
            };
        };
        let name = file.display().to_string();
        // Hashes of tokens are nobody else's business.
        let open = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(file);
        let out = open.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Failure::failed(format!(
                "{name} is already there and is never overwritten; name another file, or move it away"
            )),
            _ => Failure::failed(format!("cannot write {name}: {error}")),
        })?;
        let mut out = BufWriter::new(out);
        match house.write(&self.which, format, &mut out).await {
            Ok(exported) if self.place.json => say_json(&Exported { exported }),
            Ok(exported) => {
                tell(&format!("wrote {name}: {exported} devices\n"));
                Ok(())
            }
            Err(stopped) => {
                let _ = std::fs::remove_file(file);
                Err(stopped.failure(&name))
            }
        }
    }
}

/// What was written to a file, for machines.
#[derive(serde::Serialize)]
struct Exported {
    exported: u64,
}

/// Why an export stopped half-way.
enum Stopped {
    Registry(Fault),
    Output(io::Error),
}

impl Stopped {
    fn failure(self, out: &str) -> Failure {
        match self {
            Self::Registry(fault) => failed(fault),
            Self::Output(error) => Failure::failed(format!("cannot write {out}: {error}")),
        }
    }
}

impl House {
    /// Writes the devices, and tells how many there were.
    async fn write(
        &self,
        which: &Which,
        format: Format,
        out: &mut impl Write,
    ) -> Result<u64, Stopped> {
        let filter = which.filter();
        let count = self
            .registry
            .count(&filter)
            .await
            .map_err(Stopped::Registry)?;
        let bar = bar(count);
        let mut after = None;
        let mut done = 0;
        if format == Format::Csv {
            rows::write_heading(out).map_err(Stopped::Output)?;
        }
        loop {
            let page = self.registry.list(&filter, after.as_ref(), PAGE).await;
            let page = page.map_err(Stopped::Registry)?;
            for (record, _) in &page {
                let form = Form::whole(record);
                let written = match format {
                    Format::Csv => rows::write(out, &form),
                    Format::Jsonl => serde_json::to_string(&form)
                        .map_err(io::Error::other)
                        .and_then(|line| writeln!(out, "{line}")),
                };
                written.map_err(Stopped::Output)?;
            }
            done += page.len() as u64;
            bar.set_position(done);
            if page.len() < PAGE as usize {
                break;
            }
            after = page.last().map(|(record, _)| record.device.clone());
        }
        bar.finish_and_clear();
        out.flush().map_err(Stopped::Output)?;
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_a_device_or_a_fault_with_its_number() {
        let read =
            json_lines("{\"device\":\"a\"}\n\n{\"device\":\n[]\n{\"device\":\"b\",\"x\":1}\n");
        let lines: Vec<_> = read
            .iter()
            .map(|(line, form)| (*line, form.is_ok()))
            .collect();
        assert_eq!(lines, [(1, true), (3, false), (4, false), (5, false)]);
        let told = read[3].1.as_ref().expect_err("x is unknown");
        assert!(
            told.starts_with("unknown field `x`") && told.ends_with("(column 17)"),
            "{told}"
        );
    }

    #[test]
    fn no_more_than_twenty_faults_are_told() {
        let told = nothing((0..25).map(|n| format!("line {n}: x")).collect()).sentence;
        assert_eq!(told.lines().count(), 22);
        assert!(told.contains("… and 5 more") && told.ends_with("nothing was registered"));
    }

    #[test]
    fn who_has_nothing_to_show_is_told() {
        let mut record = Record::new("meter-7".parse().expect("a device id"), 0);
        let told = unarmed(&[record.clone()]);
        assert!(
            told.starts_with("1 of them ") && told.contains("meter-7"),
            "{told}"
        );
        let valid = crate::rules::record::Valid::since(0);
        record.add_credential(Proof::Token([1; 32]), valid);
        assert_eq!(unarmed(&[record]), "");
    }

    #[test]
    fn a_name_tells_the_format() {
        for (name, format) in [
            ("a.csv", Some(Format::Csv)),
            ("a.b.jsonl", Some(Format::Jsonl)),
            ("a", None),
            ("a.json", None),
        ] {
            assert_eq!(Format::of(Path::new(name)), format, "{name}");
        }
    }
}
