//! Certificate → [`DeviceId`].
//!
//! One field, chosen by the operator, names the device. Missing, repeated or unreadable means refused: there is no
//! second field to fall back on, and nothing is repaired (threats.md I5, I6).

use std::fmt;

use super::device::{Alphabet, DeviceId};

mod certificate;
#[cfg(test)]
pub(in crate::rules) mod crafted;
mod der;
mod name;
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
    /// The field is the serial, and the certificate was not issued by the group's own CA.
    #[error(
        "an intermediate CA issued the certificate, and its serial is unique among that CA's only, so two devices could have \
         it; make the intermediate the CA of a trust group of its own (trust.ca), or name another field in trust.device"
    )]
    OfAnotherCa,
}

impl Unnamed {
    /// For the dashboard: one of five words, never text from the wire.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Missing(_) => "identity_missing",
            Self::Repeated(_) => "identity_repeated",
            Self::Unreadable(_) => "identity_unreadable",
            Self::NotMatched(..) => "identity_not_matched",
            Self::NotAllowed(..) | Self::OfAnotherCa => "identity_not_allowed",
        }
    }
}

/// The start of a value, short enough for a sentence.
fn shown(value: &str) -> String {
    value.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::crafted::{Parts, attribute, common_name, name, rdn, san, tlv};
    use super::*;

    fn naming(field: Field, pattern: Option<&str>) -> Naming {
        Naming {
            field,
            pattern: pattern.map(|text| Pattern::parse(text).expect("a good pattern")),
            alphabet: Alphabet::default(),
        }
    }

    fn named(value: &str) -> Certificate {
        let parts = Parts {
            subject: common_name(value),
            ..Parts::default()
        };
        Certificate::read(&parts.der()).expect("a good certificate")
    }

    #[test]
    fn words_and_fields_are_one_to_one() {
        for (field, word) in Field::ALL.into_iter().zip(Field::WORDS) {
            assert_eq!(field.word(), word);
            assert_eq!(Field::from_word(word), Some(field));
            assert_eq!(field.to_string(), word);
        }
        assert_eq!(Field::from_word("cn"), None);
        assert_eq!(Field::from_word("Subject.CN"), None);
    }

    #[test]
    fn each_field_can_name_the_device() {
        let text = |oid: &[u8], value: &[u8]| rdn(&[attribute(oid, 0x0c, value)]);
        let der = Parts {
            subject: name(&[
                text(&[0x55, 4, 3], b"by-cn"),
                text(&[0x55, 4, 11], b"by-ou"),
                text(&[0x55, 4, 5], b"by-number"),
            ]),
            extensions: vec![san(&[
                tlv(0x86, &[b"urn:device:by-uri"]),
                tlv(0x82, &[b"by-dns.example.net"]),
                tlv(0x81, &[b"by-email@example.net"]),
            ])],
            ..Parts::default()
        }
        .der();
        let certificate = Certificate::read(&der).expect("a good certificate");
        let device = |field, pattern| {
            naming(field, pattern)
                .device(&certificate)
                .map(|device| device.to_string())
        };

        assert_eq!(device(Field::SubjectCn, None).unwrap(), "by-cn");
        assert_eq!(device(Field::SubjectOu, None).unwrap(), "by-ou");
        assert_eq!(
            device(Field::SubjectSerialNumber, None).unwrap(),
            "by-number"
        );
        let uri = device(Field::SanUri, Some("urn:device:(?<device>.+)"));
        assert_eq!(uri.unwrap(), "by-uri");
        assert_eq!(device(Field::SanDns, None).unwrap(), "by-dns.example.net");
        let email = device(Field::SanEmail, Some("(?P<device>[^@]+)@.*"));
        assert_eq!(email.unwrap(), "by-email");
        assert_eq!(device(Field::Serial, None).unwrap(), "ab01");
        assert_eq!(
            device(Field::Fingerprint, None).unwrap(),
            certificate.fingerprint()
        );
    }

    /// threats.md I6: no fall-back to another field.
    #[test]
    fn a_missing_field_names_nobody_whatever_else_is_there() {
        let refused = naming(Field::SanUri, None).device(&named("meter-7"));
        assert_eq!(refused, Err(Unnamed::Missing(Field::SanUri)));
        assert_eq!(refused.unwrap_err().label(), "identity_missing");
    }

    /// threats.md I5: refuse rather than repair; what a broker could read as a topic is no name (CVE-2017-7650).
    #[test]
    fn a_name_outside_the_alphabet_is_refused() {
        let over_long = "x".repeat(129);
        for name in [
            "",
            "+",
            "#",
            "a/b",
            "$SYS",
            "meter 7",
            " meter-7",
            "meter-7 ",
            "zähler",
            "meter\u{200b}7",
            &over_long,
        ] {
            let refused = naming(Field::SubjectCn, None)
                .device(&named(name))
                .unwrap_err();
            assert_eq!(refused.label(), "identity_not_allowed", "{name:?}");
        }
        let colon = Naming {
            alphabet: Alphabet::with_extra(":").unwrap(),
            ..naming(Field::SubjectCn, None)
        };
        assert_eq!(colon.device(&named("urn:a")).unwrap().as_str(), "urn:a");
    }

    /// threats.md I5: what the pattern does not describe is no name, and it describes the whole value.
    #[test]
    fn a_pattern_matches_the_whole_value_or_nothing() {
        let naming = naming(Field::SubjectCn, Some("(?<device>meter-[0-9]+)"));
        assert_eq!(
            naming.device(&named("meter-7")).unwrap().as_str(),
            "meter-7"
        );
        for value in ["xmeter-7", "meter-7x", "meter-7 meter-8", "meter-", ""] {
            let refused = naming.device(&named(value)).unwrap_err();
            assert_eq!(refused, Unnamed::NotMatched(Field::SubjectCn, value.into()));
        }
    }

    /// What a device wrote into its certificate is shown escaped and cut: it cannot forge a log line.
    #[test]
    fn a_refusal_shows_the_value_escaped_and_cut() {
        let refused = naming(Field::SubjectCn, None)
            .device(&named(&"\"é/".repeat(200)))
            .unwrap_err();
        let sentence = refused.to_string();
        assert!(
            sentence.contains(r#"subject.cn of the certificate names the device "\"é/"#),
            "{sentence}"
        );
        assert!(sentence.len() < 500, "{sentence}");
    }

    #[test]
    fn every_refusal_has_a_word_and_a_way_out() {
        let field = Field::SanUri;
        for (unnamed, label) in [
            (Unnamed::Missing(field), "identity_missing"),
            (Unnamed::Repeated(field), "identity_repeated"),
            (Unnamed::Unreadable(field), "identity_unreadable"),
            (
                Unnamed::NotMatched(field, "x".into()),
                "identity_not_matched",
            ),
            (
                Unnamed::NotAllowed(field, "x".into()),
                "identity_not_allowed",
            ),
        ] {
            assert_eq!(unnamed.label(), label);
            assert!(unnamed.to_string().contains("san.uri"), "{unnamed}");
        }
    }
}
