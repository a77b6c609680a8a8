//! CONNACK, the answer to CONNECT.

use super::fields::{self, Reader};
use super::properties::{Place, Properties};
use super::{Malformed, Version, length};

/// A CONNACK.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Connack {
    /// Whether the broker has kept a session. MQTT 3.1 does not know it, yet some brokers set it there.
    pub session_present: bool,
    /// Connect Return Code (MQTT 3.1, 3.1.1) or Connect Reason Code (MQTT 5.0); 0: accepted.
    pub code: u8,
    /// MQTT 5.0 only; empty, and not written, in the others.
    pub properties: Properties,
}

/// Measures the CONNACK at the front of `input`: the length of the whole packet, which is all there; `None`: read more.
///
/// # Errors
/// As soon as it can tell: [`Malformed::NotConnack`], [`Malformed::Length`], [`Malformed::TooLarge`] for more than
/// `cap` bytes, fixed header included.
pub fn measure(input: &[u8], cap: usize) -> Result<Option<usize>, Malformed> {
    let Some(&first) = input.first() else {
        return Ok(None);
    };
    is_connack(first)?;
    match length::packet(input)? {
        Some((_, bytes)) if bytes > cap => Err(Malformed::TooLarge { bytes, cap }),
        Some((_, bytes)) if input.len() >= bytes => Ok(Some(bytes)),
        _ => Ok(None),
    }
}

fn is_connack(first: u8) -> Result<(), Malformed> {
    match first {
        0x20 => Ok(()),
        _ => Err(Malformed::NotConnack { first }),
    }
}

impl Connack {
    /// A refusal: `code` and nothing else.
    ///
    /// The version is not needed for the model; [`Connack::encode`] takes it. It is here so that a code of the wrong
    /// version is found in tests: those of MQTT 5.0 begin at 0x80, those of the others end at 0x05.
    pub fn refusal(version: Version, code: u8) -> Self {
        debug_assert!(
            if version == Version::V5 {
                code >= 0x80
            } else {
                (1..=5).contains(&code)
            },
            "0x{code:02x} is no refusal in MQTT {version}"
        );
        Self {
            session_present: false,
            code,
            properties: Properties::new(),
        }
    }

    /// Reads a whole CONNACK, and nothing behind it, in answer to a CONNECT of `version`.
    ///
    /// Codes that the standard does not know are taken as they are: the device is to judge them.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn decode(packet: &[u8], version: Version) -> Result<Self, Malformed> {
        let &first = packet.first().ok_or(Malformed::Short {
            what: "the fixed header",
        })?;
        is_connack(first)?;
        let (body, minimal) = fields::body(packet)?;
        let v5 = version == Version::V5;
        if v5 && !minimal {
            return Err(Malformed::NotMinimal {
                what: "the Remaining Length",
            });
        }
        let mut reader = Reader::new(body);
        let flags = reader.byte("the connect acknowledge flags")?;
        if flags > 1 {
            return Err(Malformed::ConnackFlags);
        }
        let code = reader.byte("the code")?;
        let session_present = flags == 1;
        if session_present && code != 0 {
            return Err(Malformed::SessionWithRefusal { code });
        }
        if v5 && reader.is_empty() {
            return Err(Malformed::OldConnack { code });
        }
        let properties = if v5 {
            Properties::read(&mut reader, Place::Connack)?
        } else {
            Properties::new()
        };
        reader.end()?;
        Ok(Self {
            session_present,
            code,
            properties,
        })
    }

    /// Writes the packet in the form of `version`.
    ///
    /// # Panics
    /// When a text or binary value among the properties has more than 65 535 bytes, which no decoded one has, nor a
    /// client id that was in a CONNECT.
    pub fn encode(&self, version: Version) -> Vec<u8> {
        let mut body = vec![u8::from(self.session_present), self.code];
        if version == Version::V5 {
            let fits = "every value came out of a packet";
            self.properties.put(&mut body).expect(fits);
        }
        fields::packet(0x20, &body).expect("a CONNACK is read under a cap")
    }
}

#[cfg(test)]
mod tests {
    use super::super::arbitrary;
    use super::super::properties::{Id, Property, Value};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_refusal_is_as_short_as_its_version_allows() {
        assert_eq!(
            Connack::refusal(Version::V31, 5).encode(Version::V31),
            b"\x20\x02\x00\x05"
        );
        assert_eq!(
            Connack::refusal(Version::V311, 5).encode(Version::V311),
            b"\x20\x02\x00\x05"
        );
        assert_eq!(
            Connack::refusal(Version::V5, 0x87).encode(Version::V5),
            b"\x20\x03\x00\x87\x00"
        );
    }

    #[test]
    fn an_assigned_client_identifier_is_added_behind_the_rest() {
        let mut connack =
            Connack::decode(b"\x20\x06\x00\x00\x03\x22\x00\x0a", Version::V5).unwrap();
        connack.properties.push(Property {
            id: Id::AssignedClientIdentifier,
            value: Value::Text("m7".into()),
        });
        assert_eq!(
            connack.encode(Version::V5),
            b"\x20\x0b\x00\x00\x08\x22\x00\x0a\x12\x00\x02m7"
        );
    }

    #[test]
    fn an_answer_in_the_old_form_is_told_apart() {
        let old = Connack::decode(b"\x20\x02\x00\x01", Version::V5);
        assert_eq!(old, Err(Malformed::OldConnack { code: 1 }));
    }

    #[test]
    fn what_is_malformed_is_not_passed_on() {
        let both = [Version::V311, Version::V5];
        let cases: [(&[u8], &[Version]); 14] = [
            (b"", &both),
            (b"\x20", &both),
            (b"\x20\x00", &both),
            (b"\x20\x01\x00", &both),
            (b"\x21\x02\x00\x00", &both),
            (b"\x20\x02\x02\x00", &both),
            (b"\x20\x02\x80\x00", &both),
            (b"\x20\x02\x01\x05", &both),
            (b"\x20\x03\x01\x87\x00", &both),
            (b"\x20\x03\x00\x00\x00", &[Version::V311]),
            (b"\x20\x04\x00\x00\x00\x00", &both),
            (b"\x20\x83\x00\x00\x00\x00", &both),
            (b"\x20\x06\x00\x00\x03\x21\x00\x00", &both),
            (b"\x20\x04\x00\x00\x02\x17\x01", &both),
        ];
        for (packet, versions) in cases {
            for &version in versions {
                assert!(
                    Connack::decode(packet, version).is_err(),
                    "{version}: {packet:02x?}"
                );
            }
        }
    }

    #[test]
    fn it_is_measured_under_a_cap() {
        assert_eq!(measure(b"", 8), Ok(None));
        assert_eq!(measure(b"\x20\x02\x00", 8), Ok(None));
        assert_eq!(measure(b"\x20\x02\x00\x00\x30", 8), Ok(Some(4)));
        assert_eq!(measure(b"H", 8), Err(Malformed::NotConnack { first: b'H' }));
        assert_eq!(
            measure(b"\x20\x07", 8),
            Err(Malformed::TooLarge { bytes: 9, cap: 8 })
        );
        assert_eq!(measure(b"\x20\x80\x80\x80\x80", 8), Err(Malformed::Length));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            (version, connack) in arbitrary::version().prop_flat_map(|v| (Just(v), arbitrary::connack(v)))
        ) {
            let packet = connack.encode(version);
            prop_assert_eq!(measure(&packet, usize::MAX), Ok(Some(packet.len())));
            prop_assert_eq!(Connack::decode(&packet, version), Ok(connack));
        }
    }
}
