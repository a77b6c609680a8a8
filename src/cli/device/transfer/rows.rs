//! Devices as rows of CSV: what is a list or a table in JSON is a cell of words here.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};

use crate::registry::form::{CredentialForm, Form, quoted};

/// The columns, in the order that they are written in.
const COLUMNS: [&str; 10] = [
    "device",
    "description",
    "labels",
    "enabled",
    "min_mode",
    "connections",
    "credentials",
    "registered_by",
    "created",
    "changed",
];

/// Each row: the line that it begins on, and the device in it. A heading that cannot be used is the only fault.
pub(super) fn read(text: &str) -> Vec<(u64, Result<Form, String>)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text); // as spreadsheets write it
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .from_reader(text.as_bytes());
    let columns = match reader
        .headers()
        .map_err(|fault| fault.to_string())
        .and_then(columns)
    {
        Ok(columns) => columns,
        Err(fault) => return vec![(1, Err(fault))],
    };
    let mut lines = Lines {
        text,
        at: 0,
        line: 1,
    };
    let mut rows = Vec::new();
    for row in reader.records() {
        let (position, form) = match row {
            Ok(row) => (row.position().cloned(), form(&columns, &row)),
            Err(fault) => (fault.position().cloned(), Err(fault.to_string())),
        };
        let line = lines.of(position.map_or(0, |position| position.byte()));
        rows.push((line, form));
    }
    rows
}

/// Finds the lines of places that come one after the other. The reader's own numbers are one less where lines end in CR LF.
struct Lines<'t> {
    text: &'t str,
    at: usize,
    line: u64,
}

impl Lines<'_> {
    fn of(&mut self, byte: u64) -> u64 {
        let bytes = self.text.as_bytes();
        let place = usize::try_from(byte).unwrap_or(usize::MAX).min(bytes.len());
        // What ends the line before belongs to it.
        let ends = bytes[place..]
            .iter()
            .take_while(|byte| matches!(byte, b'\r' | b'\n'));
        let place = place + ends.count();
        let passed = bytes.get(self.at..place).unwrap_or_default();
        self.line += passed
            .iter()
            .map(|byte| u64::from(*byte == b'\n'))
            .sum::<u64>();
        self.at = self.at.max(place);
        self.line
    }
}

/// The columns of a heading.
fn columns(heading: &csv::StringRecord) -> Result<Vec<&'static str>, String> {
    let all = COLUMNS.join(",");
    let mut columns = Vec::new();
    for name in heading {
        let known = COLUMNS.into_iter().find(|known| *known == name.trim());
        let column =
            known.ok_or_else(|| format!("{} is no column; known are {all}", quoted(name)))?;
        if columns.contains(&column) {
            return Err(format!(
                "the column {column} is there twice; leave one of them"
            ));
        }
        columns.push(column);
    }
    if columns.contains(&"device") {
        Ok(columns)
    } else {
        Err(format!(
            "there is no column device; the heading is {all}, of which only device is needed"
        ))
    }
}

fn form(columns: &[&str], row: &csv::StringRecord) -> Result<Form, String> {
    if row.len() != columns.len() {
        return Err(format!(
            "it has {} cells, and the heading {}; put cells with a comma in quotes",
            row.len(),
            columns.len()
        ));
    }
    let cell = |name: &str| {
        let place = columns.iter().position(|column| *column == name);
        place.and_then(|place| row.get(place)).unwrap_or_default()
    };
    let some = |name: &str| Some(cell(name).trim().to_owned()).filter(|text| !text.is_empty());
    let enabled = match cell("enabled").trim() {
        "" | "true" => true,
        "false" => false,
        other => return Err(format!("enabled {}: write true or false", quoted(other))),
    };
    let number = |text: String| {
        let told = || format!("connections {}: it is no number", quoted(&text));
        text.parse().map_err(|_| told())
    };
    Ok(Form {
        device: cell("device").trim().to_owned(),
        description: cell("description").to_owned(),
        labels: labels(cell("labels"))?,
        enabled,
        min_mode: some("min_mode").unwrap_or_else(|| "mutual-tls".to_owned()),
        connections: some("connections").map(number).transpose()?,
        credentials: credentials(cell("credentials"))?,
        registered_by: some("registered_by"),
        created: some("created"),
        changed: some("changed"),
        last_seen: None,
    })
}

/// Reads `NAME=VALUE; NAME="VALUE"`.
fn labels(cell: &str) -> Result<BTreeMap<String, String>, String> {
    let mut labels = BTreeMap::new();
    let mut rest = cell.trim();
    while !rest.is_empty() {
        let told = || format!("labels {}: write NAME=VALUE; NAME=VALUE", quoted(cell));
        let (name, after) = rest.split_once('=').ok_or_else(told)?;
        let value;
        if after.starts_with('"') {
            let mut texts = serde_json::Deserializer::from_str(after).into_iter::<String>();
            value = texts.next().and_then(Result::ok).ok_or_else(told)?;
            rest = after[texts.byte_offset()..].trim_start();
            rest = match rest.strip_prefix(';') {
                None if !rest.is_empty() => return Err(told()),
                stripped => stripped.unwrap_or_default(),
            };
        } else {
            let (plain, behind) = after.split_once(';').unwrap_or((after, ""));
            value = plain.trim().to_owned();
            rest = behind;
        }
        rest = rest.trim_start();
        let name = name.trim().to_owned();
        if labels.insert(name.clone(), value).is_some() {
            return Err(format!(
                "label {} is there twice; leave one of them",
                quoted(&name)
            ));
        }
    }
    Ok(labels)
}

/// Reads `KIND NAME=VALUE NAME=VALUE; KIND …`.
fn credentials(cell: &str) -> Result<Vec<CredentialForm>, String> {
    let all = cell.split(';').map(str::trim).filter(|one| !one.is_empty());
    all.map(credential).collect()
}

fn credential(text: &str) -> Result<CredentialForm, String> {
    let mut words = text.split_whitespace();
    let mut form = CredentialForm {
        kind: words.next().unwrap_or_default().to_owned(),
        ..CredentialForm::default()
    };
    for word in words {
        let told = || {
            format!(
                "credential {}: write KIND and NAME=VALUE, of number, trust, field, certificate, key, hash, from, until",
                quoted(word)
            )
        };
        let (name, value) = word.split_once('=').ok_or_else(told)?;
        let value = value.to_owned();
        match name {
            "number" => form.number = Some(value.parse().map_err(|_| told())?),
            "trust" => form.trust = Some(value),
            "field" => form.field = Some(value),
            "certificate" => form.certificate = Some(value),
            "key" => form.key = Some(value),
            "hash" => form.hash = Some(value),
            "from" => form.from = Some(value),
            "until" => form.until = Some(value),
            _ => return Err(told()),
        }
    }
    Ok(form)
}

/// Writes the heading.
pub(super) fn write_heading(out: &mut impl Write) -> io::Result<()> {
    write_row(out, &COLUMNS.map(str::to_owned))
}

/// Writes a device.
pub(super) fn write(out: &mut impl Write, form: &Form) -> io::Result<()> {
    let labels = form.labels.iter().map(|(name, value)| {
        let plain = !value.contains([';', '"']) && value.trim() == value;
        if plain {
            format!("{name}={value}")
        } else {
            format!("{name}={}", serde_json::Value::from(value.as_str()))
        }
    });
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let row = [
        form.device.clone(),
        form.description.clone(),
        labels.collect::<Vec<_>>().join("; "),
        form.enabled.to_string(),
        form.min_mode.clone(),
        form.connections
            .map_or(String::new(), |number| number.to_string()),
        form.credentials
            .iter()
            .map(words)
            .collect::<Vec<_>>()
            .join("; "),
        text(&form.registered_by),
        text(&form.created),
        text(&form.changed),
    ];
    write_row(out, &row)
}

fn words(form: &CredentialForm) -> String {
    let mut words = form.kind.clone();
    let number = form.number.map(|number| number.to_string());
    for (name, value) in [
        ("number", &number),
        ("trust", &form.trust),
        ("field", &form.field),
        ("certificate", &form.certificate),
        ("key", &form.key),
        ("hash", &form.hash),
        ("from", &form.from),
        ("until", &form.until),
    ] {
        if let Some(value) = value {
            let _ = write!(words, " {name}={value}");
        }
    }
    words
}

fn write_row(out: &mut impl Write, row: &[String]) -> io::Result<()> {
    let mut writer = csv::Writer::from_writer(out);
    writer.write_record(row).map_err(io::Error::other)?;
    writer.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::device::{Alphabet, Mode};
    use crate::rules::identity::Field;
    use crate::rules::record::{Pin, Proof, Record, Valid};
    use proptest::prelude::*;

    fn read_one(text: &str) -> Result<Form, String> {
        let mut rows = read(text);
        assert_eq!(rows.len(), 1, "{rows:?}");
        rows.remove(0).1
    }

    proptest! {
        /// What is written is read again as it was, whatever people wrote into it.
        #[test]
        fn a_row_gives_its_record_back(
            description in "\\PC{0,40}",
            labels in proptest::collection::btree_map("[a-z.]{1,8}", "\\PC{1,20}", 0..4),
            enabled: bool,
            connections in proptest::option::of(0..9_u32),
            until in proptest::option::of(0..4_000_000_000_i64),
            print: [u8; 32],
        ) {
            let mut record = Record::new("meter-7".parse().expect("a device id"), 1_000_000_000);
            record.description = description;
            record.labels = labels;
            record.enabled = enabled;
            record.min_mode = Mode::Plain;
            record.connections = connections;
            let valid = Valid { from: 7, until };
            let group = Proof::Vouched { group: "fleet".into(), field: Field::SanUri, pin: Some(Pin::Key(print)) };
            for proof in [group, Proof::Pinned(Pin::Certificate(print)), Proof::Token(print)] {
                record.add_credential(proof, valid);
            }
            record.credentials.remove(0);
            let mut out = Vec::new();
            write_heading(&mut out).expect("written");
            write(&mut out, &Form::whole(&record)).expect("written");
            let text = String::from_utf8(out).expect("UTF-8");
            let form = read_one(&text).expect("a row");
            prop_assert_eq!(form.record(&Alphabet::default(), 0).expect("a record"), record);
        }

        #[test]
        fn no_text_makes_it_panic(text in "(?s).{0,120}") {
            let _ = read(&text);
            let _ = read(&format!("device,labels,credentials\na,{text}"));
            let _ = (labels(&text), credentials(&text));
        }
    }

    #[test]
    fn a_list_of_names_is_enough() {
        let rows = read("\u{feff}device\r\nmeter-7\r\nmeter-8\r\n");
        let names: Vec<_> = rows
            .into_iter()
            .map(|(line, form)| (line, form.expect("good").device))
            .collect();
        assert_eq!(names, [(2, "meter-7".into()), (3, "meter-8".into())]);
    }

    #[test]
    fn cells_are_written_by_hand() {
        let text = "device,labels,credentials,enabled\nmeter-7,\"site=north; note=\"\"a;b\"\" ; x = y z\",vouched trust=vendor until=2027-01-31; pinned key=ab,false\n";
        let form = read_one(text).expect("good");
        let labels: Vec<_> = form
            .labels
            .iter()
            .map(|(name, value)| format!("{name}:{value}"))
            .collect();
        assert_eq!(labels, ["note:a;b", "site:north", "x:y z"]);
        assert_eq!(form.credentials[0].trust.as_deref(), Some("vendor"));
        assert_eq!(form.credentials[1].key.as_deref(), Some("ab"));
        assert!(!form.enabled);
    }

    #[test]
    fn each_mistake_tells_its_cell_and_the_way_out() {
        for (text, told) in [
            ("devices\n", "\"devices\" is no column"),
            ("labels\nx", "no column device"),
            ("device,device\n", "there twice"),
            ("device,labels\na,b,c", "it has 3 cells, and the heading 2"),
            ("device,enabled\na,yes", "write true or false"),
            ("device,connections\na,many", "no number"),
            ("device,labels\na,b", "NAME=VALUE"),
            ("device,labels\na,b=1; b=2", "is there twice"),
            ("device,credentials\na,token x", "write KIND and NAME=VALUE"),
            (
                "device,credentials\na,token hsh=1",
                "write KIND and NAME=VALUE",
            ),
        ] {
            let rows = read(text);
            let fault = rows[0].1.as_ref().expect_err(text);
            assert!(fault.contains(told), "{text}: {fault}");
        }
    }
}
