//! Certificates put together by hand, for tests: with what no honest issuer would write.

use super::der::{BIT_STRING, INTEGER, OCTET_STRING, OID, SEQUENCE, SET, UTF8_STRING};
use super::name::CN;

/// One element of DER.
pub(super) fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let length = body.len();
    let mut out = vec![tag];
    match u8::try_from(length) {
        Ok(short @ 0..=0x7f) => out.push(short),
        Ok(long) => out.extend([0x81, long]),
        Err(_) => {
            let bytes = u32::try_from(length).unwrap().to_be_bytes();
            if length < 0x1_0000 {
                out.push(0x82);
                out.extend(&bytes[2..]);
            } else {
                out.push(0x83);
                out.extend(&bytes[1..]);
            }
        }
    }
    out.extend(body);
    out
}

/// An AttributeTypeAndValue.
pub(super) fn attribute(oid: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
    tlv(SEQUENCE, &[&tlv(OID, &[oid]), &tlv(tag, &[value])])
}

/// A RelativeDistinguishedName.
pub(super) fn rdn(attributes: &[Vec<u8>]) -> Vec<u8> {
    tlv(SET, &[&attributes.concat()])
}

/// A Name.
pub(super) fn name(sets: &[Vec<u8>]) -> Vec<u8> {
    tlv(SEQUENCE, &[&sets.concat()])
}

/// A Name with one common name.
pub(in crate::rules) fn common_name(value: &str) -> Vec<u8> {
    name(&[rdn(&[attribute(CN, UTF8_STRING, value.as_bytes())])])
}

/// An Extension.
pub(super) fn extension(oid: &[u8], value: &[u8]) -> Vec<u8> {
    tlv(SEQUENCE, &[&tlv(OID, &[oid]), &tlv(OCTET_STRING, &[value])])
}

/// A subjectAltName extension of GeneralNames.
pub(super) fn san(names: &[Vec<u8>]) -> Vec<u8> {
    extension(&[0x55, 0x1d, 17], &tlv(SEQUENCE, &[&names.concat()]))
}

/// The parts of a certificate, each in DER.
pub(in crate::rules) struct Parts {
    pub(in crate::rules) serial: Vec<u8>,
    pub(in crate::rules) validity: Vec<u8>,
    pub(in crate::rules) subject: Vec<u8>,
    pub(in crate::rules) extensions: Vec<Vec<u8>>,
    /// What stands after the last known part of the TBSCertificate.
    pub(in crate::rules) after: Vec<u8>,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            serial: tlv(INTEGER, &[&[0x00, 0xab, 0x01]]),
            validity: tlv(
                SEQUENCE,
                &[
                    &tlv(0x17, &[b"260101000000Z"]),
                    &tlv(0x18, &[b"20500101000000Z"]),
                ],
            ),
            subject: common_name("meter-7"),
            extensions: Vec::new(),
            after: Vec::new(),
        }
    }
}

impl Parts {
    /// The certificate: well-formed around the given parts, with a key and a signature that mean nothing.
    pub(in crate::rules) fn der(&self) -> Vec<u8> {
        let algorithm = tlv(SEQUENCE, &[&tlv(OID, &[&[0x2b, 0x65, 0x70]])]);
        let key = tlv(SEQUENCE, &[&algorithm, &tlv(BIT_STRING, &[&[0], &[7; 32]])]);
        let extensions = if self.extensions.is_empty() {
            Vec::new()
        } else {
            let all = tlv(SEQUENCE, &[&self.extensions.concat()]);
            tlv(0xa3, &[&all])
        };
        let tbs = tlv(
            SEQUENCE,
            &[
                &tlv(0xa0, &[&tlv(INTEGER, &[&[2]])]),
                &self.serial,
                &algorithm,
                &common_name("devices-ca"),
                &self.validity,
                &self.subject,
                &key,
                &extensions,
                &self.after,
            ],
        );
        let signature = tlv(BIT_STRING, &[&[0], &[9; 64]]);
        tlv(SEQUENCE, &[&tbs, &algorithm, &signature])
    }
}
