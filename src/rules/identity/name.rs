//! Distinguished names: which attributes they hold, and how they are written for people.

use std::fmt::Write as _;

use super::der::{
    Broken, Element, IA5_STRING, NUMERIC_STRING, OID, PRINTABLE_STRING, Reader, SEQUENCE, SET,
    UTF8_STRING,
};

pub(super) const CN: &[u8] = &[0x55, 4, 3];
pub(super) const SERIAL_NUMBER: &[u8] = &[0x55, 4, 5];
pub(super) const OU: &[u8] = &[0x55, 4, 11];

/// The attributes that have a short name: RFC 4514 §3, and the two that device certificates use besides.
const SHORT: [(&[u8], &str); 11] = [
    (CN, "CN"),
    (SERIAL_NUMBER, "serialNumber"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 9], "STREET"),
    (&[0x55, 4, 10], "O"),
    (OU, "OU"),
    (
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1],
        "UID",
    ),
    (
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25],
        "DC",
    ),
    (
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1],
        "emailAddress",
    ),
];

/// One attribute of a name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attribute<'d> {
    pub(super) oid: &'d [u8],
    value: Element<'d>,
}

impl<'d> Attribute<'d> {
    /// The value, if it is of a string type that has one reading only.
    ///
    /// TeletexString, BMPString and UniversalString are not: their readers differ. The ASCII types may hold any ASCII,
    /// since issuers put `_` and `@` into PrintableString, and there is no second way to read them.
    pub(super) fn text(&self) -> Option<&'d str> {
        match self.value.tag {
            UTF8_STRING => str::from_utf8(self.value.body).ok(),
            PRINTABLE_STRING | IA5_STRING | NUMERIC_STRING => ascii(self.value.body),
            _ => None,
        }
    }
}

/// `bytes` as text, if they are ASCII.
pub(super) fn ascii(bytes: &[u8]) -> Option<&str> {
    str::from_utf8(bytes).ok().filter(|text| text.is_ascii())
}

/// A distinguished name: sets of attributes, as they stand in the certificate.
#[derive(Debug)]
pub(super) struct Name<'d> {
    sets: Vec<Vec<Attribute<'d>>>,
}

impl<'d> Name<'d> {
    /// Reads the contents of a Name (RFC 5280 §4.1.2.4).
    pub(super) fn read(body: &'d [u8]) -> Result<Self, Broken> {
        let mut sets = Vec::new();
        let mut outer = Reader::new(body);
        while let Some(set) = outer.next()? {
            if set.tag != SET || set.body.is_empty() {
                return Err(Broken);
            }
            let mut attributes = Vec::new();
            let mut inner = Reader::new(set.body);
            while let Some(pair) = inner.next()? {
                attributes.push(attribute(pair)?);
            }
            sets.push(attributes);
        }
        Ok(Self { sets })
    }

    /// Every attribute, of every set.
    pub(super) fn attributes(&self) -> impl Iterator<Item = &Attribute<'d>> {
        self.sets.iter().flatten()
    }

    /// The name in the notation of RFC 4514, cut with `…` when it is longer than `longest` bytes.
    ///
    /// Holds no control characters: they are escaped as `\0a`.
    pub(super) fn text(&self, longest: usize) -> String {
        let mut out = String::new();
        // §2.1: the last set comes first.
        for set in self.sets.iter().rev() {
            for (i, attribute) in set.iter().enumerate() {
                if !out.is_empty() {
                    out.push(if i == 0 { ',' } else { '+' });
                }
                write_attribute(&mut out, attribute, longest);
                if out.len() > longest {
                    out.truncate(out.floor_char_boundary(longest));
                    out.push('…');
                    return out;
                }
            }
        }
        out
    }
}

/// Reads one AttributeTypeAndValue.
fn attribute(pair: Element<'_>) -> Result<Attribute<'_>, Broken> {
    if pair.tag != SEQUENCE {
        return Err(Broken);
    }
    let mut parts = Reader::new(pair.body);
    let oid = parts.take(OID)?.body;
    let value = parts.next()?.ok_or(Broken)?;
    parts.end()?;
    Ok(Attribute { oid, value })
}

/// Writes `type=value` (RFC 4514 §2.3, §2.4), little more than `longest` bytes of it.
fn write_attribute(out: &mut String, attribute: &Attribute<'_>, longest: usize) {
    let short = SHORT.iter().find(|(oid, _)| *oid == attribute.oid);
    match short {
        Some((_, name)) => out.push_str(name),
        None => out.push_str(&dotted(attribute.oid).unwrap_or_else(|| "?".into())),
    }
    out.push('=');
    match attribute.text() {
        Some(text) if short.is_some() => write_escaped(out, text, longest),
        _ => {
            let start = attribute.value.whole;
            let _ = write!(out, "#{}", hex::encode(&start[..start.len().min(longest)]));
        }
    }
}

/// Writes `text` with the escapes of RFC 4514 §2.4.
fn write_escaped(out: &mut String, text: &str, longest: usize) {
    for (at, c) in text.char_indices() {
        let last = at + c.len_utf8() == text.len();
        match c {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => out.extend(['\\', c]),
            ' ' if at == 0 || last => out.push_str("\\ "),
            '#' if at == 0 => out.push_str("\\#"),
            c if c.is_control() => {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(out, "\\{byte:02x}");
                }
            }
            c => out.push(c),
        }
        if at > longest {
            return;
        }
    }
}

/// An object identifier in dotted form; `None` if it is none, or an arc of it does not fit 64 bits.
///
/// Source: X.690 §8.19.
fn dotted(oid: &[u8]) -> Option<String> {
    let mut out = String::new();
    let mut arc: u64 = 0;
    for (i, byte) in oid.iter().take(64).enumerate() {
        arc = arc.checked_mul(128)? | u64::from(byte & 0x7f);
        if byte & 0x80 != 0 {
            continue;
        }
        if out.is_empty() {
            let first = (arc / 40).min(2);
            let _ = write!(out, "{first}.{}", arc - first * 40);
        } else {
            let _ = write!(out, ".{arc}");
        }
        arc = 0;
        if i + 1 == oid.len() {
            return Some(out);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::crafted::{attribute, name, rdn, tlv};
    use super::*;

    fn text(sets: &[Vec<u8>]) -> String {
        let der = name(sets);
        let body = Reader::new(&der).take(SEQUENCE).unwrap().body;
        Name::read(body).unwrap().text(512)
    }

    fn utf8(oid: &[u8], value: &str) -> Vec<u8> {
        rdn(&[attribute(oid, UTF8_STRING, value.as_bytes())])
    }

    /// RFC 4514 §4.
    #[test]
    fn names_are_written_last_set_first() {
        assert_eq!(
            text(&[
                utf8(&[0x55, 4, 6], "DE"),
                utf8(OU, "gas"),
                utf8(CN, "meter-7")
            ]),
            "CN=meter-7,OU=gas,C=DE"
        );
        let both = rdn(&[
            attribute(OU, UTF8_STRING, b"Sales"),
            attribute(CN, UTF8_STRING, b"J.  Smith"),
        ]);
        assert_eq!(text(&[both]), "OU=Sales+CN=J.  Smith");
        assert_eq!(text(&[]), "");
    }

    /// RFC 4514 §2.4.
    #[test]
    fn what_would_change_the_reading_is_escaped() {
        assert_eq!(
            text(&[utf8(CN, "James \"Jim\" Smith, III")]),
            r#"CN=James \"Jim\" Smith\, III"#
        );
        assert_eq!(text(&[utf8(CN, " #a ")]), r"CN=\ #a\ ");
        assert_eq!(text(&[utf8(CN, "#a")]), r"CN=\#a");
        assert_eq!(text(&[utf8(CN, " ")]), r"CN=\ ");
        assert_eq!(
            text(&[utf8(CN, "a\0b\n\u{1b}[31m\u{85}")]),
            r"CN=a\00b\0a\1b[31m\c2\85"
        );
        assert_eq!(text(&[utf8(CN, "Lučić")]), "CN=Lučić");
    }

    #[test]
    fn what_has_no_single_reading_is_shown_as_hex() {
        let bmp = rdn(&[attribute(CN, 0x1e, &[0, b'a'])]);
        assert_eq!(text(&[bmp]), "CN=#1e020061");
        let unknown = utf8(&[0x2b, 6, 1, 4, 1, 0x83, 0x7d, 1], "x");
        assert_eq!(text(&[unknown]), "1.3.6.1.4.1.509.1=#0c0178");
        let no_oid = utf8(&[0x55, 0x84], "x");
        assert_eq!(text(&[no_oid]), "?=#0c0178");
    }

    #[test]
    fn a_long_name_is_cut() {
        for c in ["x", "\0", "é", "\""] {
            let long = text(&[utf8(CN, &c.repeat(30_000))]);
            assert!(long.len() <= 512 + '…'.len_utf8(), "{}", long.len());
            assert!(long.ends_with('…'));
        }
        let unknown = text(&[utf8(&[0x2b, 6], &"x".repeat(30_000))]);
        assert!(unknown.ends_with('…') && unknown.len() < 520);
    }

    #[test]
    fn nothing_hides_behind_a_broken_attribute() {
        let good = utf8(CN, "meter-7");
        for bad in [
            tlv(SET, &[]),                                        // an empty set
            tlv(SEQUENCE, &[]),                                   // not a set
            rdn(&[tlv(SET, &[])]),                                // not a pair
            rdn(&[tlv(SEQUENCE, &[&tlv(OID, &[CN])])]),           // no value
            rdn(&[tlv(SEQUENCE, &[&tlv(UTF8_STRING, &[b"x"])])]), // no type
            rdn(&[tlv(
                SEQUENCE,
                &[&tlv(OID, &[CN]), &[0x0c, 0x80, b'x', 0, 0]], // an indefinite length
            )]),
            rdn(&[tlv(
                SEQUENCE,
                &[&tlv(OID, &[CN]), &tlv(UTF8_STRING, &[b"x"]), &[5, 0]], // one too many
            )]),
        ] {
            for order in [[good.clone(), bad.clone()], [bad.clone(), good.clone()]] {
                assert!(Name::read(&order.concat()).is_err(), "{bad:x?}");
            }
        }
    }
}
