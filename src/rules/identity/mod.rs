//! Certificate → [`DeviceId`].
//!
//! One field, chosen by the operator, names the device. Missing, repeated or unreadable means refused: there is no
//! second field to fall back on, and nothing is repaired (threats.md I5, I6).

use std::fmt;

use super::device::{Alphabet, DeviceId};

mod certificate;
mod pattern;

pub use certificate::{Certificate, Unreadable};
pub use pattern::{BadPattern, Pattern};

/// A field of a certificate that may name the device: the words of `trust.device`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Field {
    /// The common name of the subject.
    SubjectCn,
    /// The organisational unit of the subject.
    SubjectOu,
    /// The serialNumber attribute of the subject (X.520 §6.2.9); not the certificate's own number.
    SubjectSerialNumber,
    /// A URI among the subject alternative names.
    SanUri,
    /// A DNS name among the subject alternative names.
    SanDns,
    /// A mail address among the subject alternative names.
    SanEmail,
    /// The certificate's own number, in lower-case hex.
    Serial,
    /// The SHA-256 of the certificate's DER, in lower-case hex.
    Fingerprint,
}

impl Field {
    /// Every field, in the order of the documentation.
    pub const ALL: [Self; 8] = [
        Self::SubjectCn,
        Self::SubjectOu,
        Self::SubjectSerialNumber,
        Self::SanUri,
        Self::SanDns,
        Self::SanEmail,
        Self::Serial,
        Self::Fingerprint,
    ];

    /// The words for `trust.device`, in the order of [`Field::ALL`].
    pub const WORDS: [&'static str; 8] = [
        "subject.cn",
        "subject.ou",
        "subject.serial_number",
        "san.uri",
        "san.dns",
        "san.email",
        "serial",
        "fingerprint",
    ];

    /// The word for configuration and sentences.
    pub fn word(self) -> &'static str {
        match self {
            Self::SubjectCn => "subject.cn",
            Self::SubjectOu => "subject.ou",
            Self::SubjectSerialNumber => "subject.serial_number",
            Self::SanUri => "san.uri",
            Self::SanDns => "san.dns",
            Self::SanEmail => "san.email",
            Self::Serial => "serial",
            Self::Fingerprint => "fingerprint",
        }
    }

    /// Reads `trust.device`; `None` for any other word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.word() == word)
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// `trust.device` and `trust.pattern`: how a certificate of one trust group names its device.
#[derive(Clone, Debug)]
pub struct Naming {
    /// The one field that is looked at.
    pub field: Field,
    /// Which part of its value is the device id; all of it without a pattern.
    pub pattern: Option<Pattern>,
    /// What a device id may be made of.
    pub alphabet: Alphabet,
}

impl Naming {
    /// The device that `certificate` names.
    ///
    /// # Errors
    /// [`Unnamed`], when the field is not there exactly once as plain text, or its value is no device id.
    pub fn device(&self, certificate: &Certificate) -> Result<DeviceId, Unnamed> {
        let value = certificate.value(self.field)?;
        let name = match &self.pattern {
            Some(pattern) => pattern
                .device(value)
                .ok_or_else(|| Unnamed::NotMatched(self.field, shown(value)))?,
            None => value,
        };
        self.alphabet
            .device(name)
            .map_err(|_| Unnamed::NotAllowed(self.field, shown(name)))
    }
}

/// Why a certificate names no device.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unnamed {
    /// The field is not there.
    #[error(
        "the certificate has no {0}; issue one that has it, or name another field in trust.device"
    )]
    Missing(Field),
    /// The field is there more than once.
    #[error(
        "the certificate has more than one {0}, so it names no single device; issue one with exactly one"
    )]
    Repeated(Field),
    /// The field is there, but it is no plain text.
    #[error(
        "{0} of the certificate is not readable as plain text (wrong string type, bad encoding, NUL or another control \
         character, or too long); issue one with it as UTF8String or PrintableString, or IA5String in a SAN"
    )]
    Unreadable(Field),
    /// The value is not one that `trust.pattern` describes. Holds the start of the value.
    #[error("{0} of the certificate is {1:?}, which trust.pattern does not match as a whole")]
    NotMatched(Field, String),
    /// The name holds what no device id may hold. Holds the start of the name.
    #[error(
        "{0} of the certificate names the device {1:?}, but a device id is 1 to 128 characters of A–Z a–z 0–9 . _ - and \
         connect.extra_characters; use trust.pattern to pick the part that is the id"
    )]
    NotAllowed(Field, String),
}

impl Unnamed {
    /// For the dashboard: one of five words, never text from the wire.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Missing(_) => "identity_missing",
            Self::Repeated(_) => "identity_repeated",
            Self::Unreadable(_) => "identity_unreadable",
            Self::NotMatched(..) => "identity_not_matched",
            Self::NotAllowed(..) => "identity_not_allowed",
        }
    }
}

/// The start of a value, short enough for a sentence.
fn shown(value: &str) -> String {
    value.chars().take(64).collect()
}
