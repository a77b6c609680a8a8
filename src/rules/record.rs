//! What an owner decided about one device: the record of the registry.

use std::collections::BTreeMap;
use std::fmt;

use super::device::{DeviceId, Mode};
use super::identity::Field;

/// A SHA-256: of a certificate's DER, of a SubjectPublicKeyInfo, or a token's keyed hash.
pub type Print = [u8; 32];

/// One device, as the registry knows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// Its name.
    pub device: DeviceId,
    /// For people; up to [`Record::LONGEST_TEXT`] bytes.
    pub description: String,
    /// For people and filters: name and value.
    pub labels: BTreeMap<String, String>,
    /// May it enter at all?
    pub enabled: bool,
    /// The weakest mode it may use.
    pub min_mode: Mode,
    /// How many connections it may have at once, the newest win; 0: any number; `None`: `limits.connections_per_device`.
    pub connections: Option<u32>,
    /// What it may show, by number. A device without any cannot enter.
    pub credentials: Vec<Credential>,
    /// The trust group that vouched for it, if it registered itself (`registry.unknown = "register"`).
    pub registered_by: Option<String>,
    /// In seconds since 1970.
    pub created: i64,
    /// In seconds since 1970; of the last change by its owner.
    pub changed: i64,
}

/// The trust group that stands for the issuer of JWTs (`[token.jwt]`), in records and in `{trust}`. No group of CAs has this name.
pub const ISSUER: &str = "jwt";

/// What `{trust}` is for a device that only the registry vouches for: by a token of its own, or by a pin. No group of CAs has
/// this name.
pub const OWN: &str = "registry";

impl Record {
    /// The most bytes of a description, a label's name or its value.
    pub const LONGEST_TEXT: usize = 256;

    /// A device that may enter by `mutual-tls`, once it has a credential; `now` in seconds since 1970.
    pub fn new(device: DeviceId, now: i64) -> Self {
        Self {
            device,
            description: String::new(),
            labels: BTreeMap::new(),
            enabled: true,
            min_mode: Mode::MutualTls,
            connections: None,
            credentials: Vec::new(),
            registered_by: None,
            created: now,
            changed: now,
        }
    }

    /// Adds a credential under the next number, which it gives. Numbers are not used again while a higher one is there.
    pub fn add_credential(&mut self, proof: Proof, valid: Valid) -> u32 {
        let highest = self.credentials.iter().map(|one| one.number).max();
        let number = highest.unwrap_or(0) + 1;
        self.credentials.push(Credential {
            number,
            proof,
            valid,
        });
        number
    }
}

/// Something that a device may show to prove who it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Credential {
    /// Its number within the device, from 1.
    pub number: u32,
    /// What has to be shown.
    pub proof: Proof,
    /// When it counts.
    pub valid: Valid,
}

/// When a credential counts, in seconds since 1970, both ends included.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Valid {
    /// The first second.
    pub from: i64,
    /// The last second; `None`: no end of its own.
    pub until: Option<i64>,
}

impl Valid {
    /// From `now` on, without an end.
    pub fn since(now: i64) -> Self {
        Self {
            from: now,
            until: None,
        }
    }

    /// Whether `now` lies in it.
    pub fn holds(self, now: i64) -> bool {
        self.from <= now && self.until.is_none_or(|until| now <= until)
    }
}

/// What has to be shown.
#[derive(Clone, Eq, PartialEq)]
pub enum Proof {
    /// A certificate of a trust group, by which that group names this device; and, with a pin, only that one.
    Vouched {
        /// The trust group it was enrolled under: no other counts (threats.md I7).
        group: String,
        /// The field that named the device then.
        field: Field,
        /// One certificate or key of the group's; `None`: any that names the device.
        pin: Option<Pin>,
    },
    /// One certificate, or any with one key, whoever issued it (threats.md T1).
    Pinned(Pin),
    /// A token: its keyed hash (threats.md K2).
    Token(Print),
}

/// One certificate, or one key.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Pin {
    /// The SHA-256 of the certificate's DER.
    Certificate(Print),
    /// The SHA-256 of the SubjectPublicKeyInfo.
    Key(Print),
}

impl fmt::Debug for Proof {
    /// A token's hash is not shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vouched { group, field, pin } => f
                .debug_struct("Vouched")
                .field("group", group)
                .field("field", field)
                .field("pin", pin)
                .finish(),
            Self::Pinned(pin) => f.debug_tuple("Pinned").field(pin).finish(),
            Self::Token(_) => f.write_str("Token(…)"),
        }
    }
}

/// When and how a device was last admitted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LastSeen {
    /// In seconds since 1970.
    pub at: i64,
    /// `ip:port`
    pub address: String,
    /// The mode of its connection.
    pub mode: Mode,
    /// The fingerprint of its certificate, if it showed one.
    pub certificate: Option<Print>,
}
