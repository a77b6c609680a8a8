//! Rows → records, and back.

use std::fmt::Display;

use sqlx::{Database, QueryBuilder, Row as _};

use crate::registry::Fault;
use crate::rules::device::{Alphabet, DeviceId, Mode};
use crate::rules::identity::Field;
use crate::rules::record::{Credential, LastSeen, Pin, Print, Proof, Record, Valid};

use super::Db;

type Row = <Db as Database>::Row;

/// A device with when it was seen.
pub(super) type Listed = (Record, Option<LastSeen>);

/// Begins a query for records; behind it comes which rows of `device`, then [`END`]. One statement, so that a record is of one
/// moment: never half before and half after a change.
pub(super) fn records() -> QueryBuilder<Db> {
    QueryBuilder::new(
        "SELECT d.id, d.description, d.labels, d.enabled, d.min_mode, d.connections, d.registered_by, d.created, d.changed, \
         c.number, c.proof, c.trust, c.field, c.pin, c.print, c.valid_from, c.valid_until, \
         s.at, s.address, s.mode, s.certificate \
         FROM (SELECT * FROM device WHERE ",
    )
}

/// Ends a query for records.
pub(super) const END: &str = ") d LEFT JOIN credential c ON c.device = d.id LEFT JOIN seen s ON s.device = d.id \
                              ORDER BY d.id, c.number";

/// The records of rows: one row for each credential, or one for a device without.
pub(super) fn read_records(rows: &[Row]) -> Result<Vec<Listed>, Fault> {
    let mut listed: Vec<Listed> = Vec::new();
    for row in rows {
        let id = column(row, "id")?;
        let known = matches!(listed.last(), Some((last, _)) if last.device.as_str() == id);
        if !known {
            listed.push((device(row, id)?, seen(row)?));
        }
        if let (Some((record, _)), Some(credential)) = (listed.last_mut(), credential(row)?) {
            record.credentials.push(credential);
        }
    }
    Ok(listed)
}

fn device(row: &Row, id: &str) -> Result<Record, Fault> {
    let labels: &str = column(row, "labels")?;
    Ok(Record {
        device: device_id(id)?,
        description: column(row, "description")?,
        labels: serde_json::from_str(labels).map_err(|error| foreign("labels", error))?,
        enabled: column(row, "enabled")?,
        min_mode: mode(column(row, "min_mode")?)?,
        connections: number(row, "connections")?,
        credentials: Vec::new(),
        registered_by: column(row, "registered_by")?,
        created: column(row, "created")?,
        changed: column(row, "changed")?,
    })
}

fn credential(row: &Row) -> Result<Option<Credential>, Fault> {
    let Some(number) = number(row, "number")? else {
        return Ok(None);
    };
    Ok(Some(Credential {
        number,
        proof: proof(row)?,
        valid: Valid {
            from: column(row, "valid_from")?,
            until: column(row, "valid_until")?,
        },
    }))
}

fn proof(row: &Row) -> Result<Proof, Fault> {
    let word = column(row, "proof")?;
    let whole = match word {
        "pinned" => pin(row)?.map(Proof::Pinned),
        "token" => print(row, "print")?.map(Proof::Token),
        "vouched" => match (column(row, "trust")?, field(row)?) {
            (Some(group), Some(field)) => Some(Proof::Vouched {
                group,
                field,
                pin: pin(row)?,
            }),
            _ => None,
        },
        _ => None,
    };
    whole.ok_or_else(|| foreign("proof", word))
}

fn field(row: &Row) -> Result<Option<Field>, Fault> {
    let word: Option<&str> = column(row, "field")?;
    let read = |word| Field::from_word(word).ok_or_else(|| foreign("field", word));
    word.map(read).transpose()
}

fn pin(row: &Row) -> Result<Option<Pin>, Fault> {
    let kind: Option<&str> = column(row, "pin")?;
    let pin = match (kind, print(row, "print")?) {
        (None, None) => return Ok(None),
        (Some(CERTIFICATE), Some(print)) => Pin::Certificate(print),
        (Some(KEY), Some(print)) => Pin::Key(print),
        _ => return Err(foreign("pin", "half of one")),
    };
    Ok(Some(pin))
}

/// When the device of a row was seen; `None`: never.
pub(super) fn seen(row: &Row) -> Result<Option<LastSeen>, Fault> {
    let Some(at) = column(row, "at")? else {
        return Ok(None);
    };
    Ok(Some(LastSeen {
        at,
        address: column(row, "address")?,
        mode: mode(column(row, "mode")?)?,
        certificate: print(row, "certificate")?,
    }))
}

/// The pin of a row, and whose it is.
pub(super) fn pinned(row: &Row) -> Result<Option<(Pin, DeviceId)>, Fault> {
    let device = device_id(column(row, "device")?)?;
    Ok(pin(row)?.map(|pin| (pin, device)))
}

/// Reads an id. The alphabet is the widest that an operator can choose: which names a gate lets in is not for the store to say.
pub(super) fn device_id(id: &str) -> Result<DeviceId, Fault> {
    let extra: String = ('!'..='~').filter(|c| !"+#/$".contains(*c)).collect();
    let widest = Alphabet::with_extra(&extra).unwrap_or_default();
    widest.device(id).map_err(|error| foreign("id", error))
}

fn mode(word: &str) -> Result<Mode, Fault> {
    let mode = Mode::ALL.into_iter().find(|mode| mode.word() == word);
    mode.ok_or_else(|| foreign("mode", word))
}

fn print(row: &Row, name: &'static str) -> Result<Option<Print>, Fault> {
    let bytes: Option<&[u8]> = column(row, name)?;
    let read = |bytes: &[u8]| bytes.try_into().map_err(|error| foreign(name, error));
    bytes.map(read).transpose()
}

fn number(row: &Row, name: &'static str) -> Result<Option<u32>, Fault> {
    let number: Option<i64> = column(row, name)?;
    let read = |number| u32::try_from(number).map_err(|error| foreign(name, error));
    number.map(read).transpose()
}

/// A column of the type that the schema gives it.
pub(super) fn column<'r, T>(row: &'r Row, name: &'static str) -> Result<T, Fault>
where
    T: sqlx::Decode<'r, Db> + sqlx::Type<Db>,
{
    row.try_get(name).map_err(|error| foreign(name, error))
}

fn foreign(column: &str, found: impl Display) -> Fault {
    Fault::Unusable(format!(
        "the registry holds a {column} that is not understood ({found}); was it changed by hand, or by a newer tidegate?"
    ))
}

const CERTIFICATE: &str = "certificate";
const KEY: &str = "key";

/// A pin in two columns.
pub(super) fn pin_columns(pin: &Pin) -> (&'static str, &[u8]) {
    match pin {
        Pin::Certificate(print) => (CERTIFICATE, print),
        Pin::Key(print) => (KEY, print),
    }
}

/// A proof in columns.
#[derive(Default)]
pub(super) struct ProofColumns<'a> {
    pub(super) proof: &'static str,
    pub(super) trust: Option<&'a str>,
    pub(super) field: Option<&'static str>,
    pub(super) pin: Option<&'static str>,
    pub(super) print: Option<&'a [u8]>,
}

impl<'a> From<&'a Proof> for ProofColumns<'a> {
    fn from(proof: &'a Proof) -> Self {
        match proof {
            Proof::Vouched { group, field, pin } => {
                let (kind, print) = pin.as_ref().map(pin_columns).unzip();
                Self {
                    proof: "vouched",
                    trust: Some(group),
                    field: Some(field.word()),
                    pin: kind,
                    print,
                }
            }
            Proof::Pinned(pin) => {
                let (kind, print) = pin_columns(pin);
                Self {
                    proof: "pinned",
                    pin: Some(kind),
                    print: Some(print),
                    ..Self::default()
                }
            }
            Proof::Token(print) => Self {
                proof: "token",
                print: Some(print),
                ..Self::default()
            },
        }
    }
}
