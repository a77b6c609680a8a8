//! A small strict reader of DER (X.690), for what x509-parser reads too kindly or webpki keeps to itself.
//!
//! Lengths are definite and as short as they can be, tags have one byte, and nothing may be left over. Cost is linear
//! in the input, without recursion or allocation.

use rustls::crypto::WebPkiSupportedAlgorithms;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
pub(super) const ENUMERATED: u8 = 0x0a;
pub(super) const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The input is not the DER that was to be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("it is not well-formed DER")]
pub(super) struct Bad;

/// One element: its tag, its content, and both together.
#[derive(Clone, Copy)]
pub(super) struct Element<'a> {
    pub(super) tag: u8,
    pub(super) content: &'a [u8],
    pub(super) whole: &'a [u8],
}

/// What is still to be read.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next element, whatever it is.
    pub(super) fn any(&mut self) -> Result<Element<'a>, Bad> {
        let input = self.0;
        let (&tag, rest) = input.split_first().ok_or(Bad)?;
        if tag & 0x1f == 0x1f {
            return Err(Bad);
        }
        let (&first, rest) = rest.split_first().ok_or(Bad)?;
        let (length, rest) = if first < 0x80 {
            (usize::from(first), rest)
        } else {
            let bytes = usize::from(first & 0x7f);
            if !(1..=4).contains(&bytes) {
                return Err(Bad);
            }
            let (spelt, rest) = rest.split_at_checked(bytes).ok_or(Bad)?;
            let length = spelt.iter().fold(0, |sum, b| sum << 8 | usize::from(*b));
            if length < 0x80 || spelt[0] == 0 {
                return Err(Bad); // could have been shorter
            }
            (length, rest)
        };
        let (content, rest) = rest.split_at_checked(length).ok_or(Bad)?;
        self.0 = rest;
        let whole = &input[..input.len() - rest.len()];
        Ok(Element {
            tag,
            content,
            whole,
        })
    }

    /// The next element, which must have this tag.
    pub(super) fn expect(&mut self, tag: u8) -> Result<Element<'a>, Bad> {
        self.optional(tag)?.ok_or(Bad)
    }

    /// The next element if it has this tag.
    pub(super) fn optional(&mut self, tag: u8) -> Result<Option<Element<'a>>, Bad> {
        if self.0.first() == Some(&tag) {
            self.any().map(Some)
        } else {
            Ok(None)
        }
    }

    /// The next element if it is a time, in seconds since 1970.
    pub(super) fn optional_time(&mut self) -> Result<Option<i64>, Bad> {
        if !matches!(self.0.first(), Some(&(UTC_TIME | GENERALIZED_TIME))) {
            return Ok(None);
        }
        let (rest, time) = ASN1Time::from_der(self.any()?.whole).map_err(|_| Bad)?;
        rest.is_empty().then_some(Some(time.timestamp())).ok_or(Bad)
    }

    /// That nothing is left.
    pub(super) fn end(&self) -> Result<(), Bad> {
        self.is_empty().then_some(()).ok_or(Bad)
    }
}

/// The one element that `input` is, which must have this tag; gives its content.
pub(super) fn only(input: &[u8], tag: u8) -> Result<&[u8], Bad> {
    let mut reader = Reader::new(input);
    let content = reader.expect(tag)?.content;
    reader.end().map(|()| content)
}

/// A BIT STRING's bytes; one with unused bits is none of a key or a signature.
fn octets_of_bits(content: &[u8]) -> Result<&[u8], Bad> {
    match content.split_first() {
        Some((0, octets)) => Ok(octets),
        _ => Err(Bad),
    }
}

/// Something signed: a certificate or a revocation list (RFC 5280 §4.1.1, §5.1.1).
pub(super) struct Signed<'a> {
    /// The content of what is signed.
    pub(super) body: &'a [u8],
    covered: &'a [u8],
    /// The content of the AlgorithmIdentifier.
    pub(super) algorithm: &'a [u8],
    signature: &'a [u8],
}

/// Why a signature is not good.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SignatureFault {
    /// The algorithm, or the algorithm with that kind of key, is not supported.
    Unsupported,
    /// It was not made by that key, or not over these bytes.
    Wrong,
}

impl<'a> Signed<'a> {
    pub(super) fn read(der: &'a [u8]) -> Result<Self, Bad> {
        let mut parts = Reader::new(only(der, SEQUENCE)?);
        let signed = parts.expect(SEQUENCE)?;
        let algorithm = parts.expect(SEQUENCE)?.content;
        let signature = octets_of_bits(parts.expect(BIT_STRING)?.content)?;
        parts.end()?;
        Ok(Self {
            body: signed.content,
            covered: signed.whole,
            algorithm,
            signature,
        })
    }

    /// Whether the key `spki`, a whole SubjectPublicKeyInfo, made the signature.
    pub(super) fn verify(
        &self,
        spki: &[u8],
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<(), SignatureFault> {
        let (kind, key) = key_of(spki).map_err(|Bad| SignatureFault::Unsupported)?;
        let mut found = Err(SignatureFault::Unsupported);
        for algorithm in algorithms.all {
            if algorithm.signature_alg_id().as_ref() == self.algorithm
                && algorithm.public_key_alg_id().as_ref() == kind
            {
                found = algorithm
                    .verify_signature(key, self.covered, self.signature)
                    .map_err(|_| SignatureFault::Wrong);
                if found.is_ok() {
                    break;
                }
            }
        }
        found
    }
}

/// The kind and the bytes of a public key.
pub(super) fn key_of(spki: &[u8]) -> Result<(&[u8], &[u8]), Bad> {
    let mut parts = Reader::new(only(spki, SEQUENCE)?);
    let kind = parts.expect(SEQUENCE)?.content;
    let key = octets_of_bits(parts.expect(BIT_STRING)?.content)?;
    parts.end().map(|()| (kind, key))
}

/// The fixed front of a certificate (RFC 5280 §4.1).
pub(super) struct Front<'a> {
    /// The content of the issuer's name.
    pub(super) issuer: &'a [u8],
    /// The content of the subject's name.
    pub(super) subject: &'a [u8],
    /// notBefore, in seconds since 1970.
    pub(super) not_before: i64,
    /// notAfter, in seconds since 1970.
    pub(super) not_after: i64,
    /// The whole SubjectPublicKeyInfo.
    pub(super) spki: &'a [u8],
    /// The content of the signature's AlgorithmIdentifier.
    pub(super) algorithm: &'a [u8],
    /// Whether it says that it is version 3.
    pub(super) is_v3: bool,
}

impl<'a> Front<'a> {
    pub(super) fn read(der: &'a [u8]) -> Result<Self, Bad> {
        let signed = Signed::read(der)?;
        let mut parts = Reader::new(signed.body);
        let version = parts.optional(0xa0)?;
        parts.expect(INTEGER)?;
        parts.expect(SEQUENCE)?;
        let issuer = parts.expect(SEQUENCE)?.content;
        let mut validity = Reader::new(parts.expect(SEQUENCE)?.content);
        let not_before = validity.optional_time()?.ok_or(Bad)?;
        let not_after = validity.optional_time()?.ok_or(Bad)?;
        let subject = parts.expect(SEQUENCE)?.content;
        let spki = parts.expect(SEQUENCE)?.whole;
        Ok(Self {
            issuer,
            subject,
            not_before,
            not_after,
            spki,
            algorithm: signed.algorithm,
            is_v3: version.is_some_and(|version| version.content == [INTEGER, 1, 2]),
        })
    }
}

/// An object identifier in dotted numbers, from its content.
pub(super) fn dotted(oid: &[u8]) -> String {
    x509_parser::asn1_rs::Oid::new(oid.into()).to_id_string()
}

/// A name as text, from the content of its SEQUENCE; for sentences only.
pub(super) fn name_text(content: &[u8]) -> String {
    let mut whole = vec![SEQUENCE];
    match content.len() {
        short @ 0..0x80 => whole.push(u8::try_from(short).expect("below 0x80")),
        length => {
            let spelt: Vec<u8> = length
                .to_be_bytes()
                .into_iter()
                .skip_while(|b| *b == 0)
                .collect();
            whole.push(0x80 | u8::try_from(spelt.len()).expect("at most 8"));
            whole.extend(spelt);
        }
    }
    whole.extend_from_slice(content);
    match x509_parser::x509::X509Name::from_der(&whole) {
        Ok((_, name)) => name.to_string(),
        Err(_) => hex::encode(content),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_definite_shortest_and_within() {
        assert_eq!(only(&[0x04, 1, 9], OCTET_STRING), Ok(&[9][..]));
        for bad in [
            &[][..],
            &[0x04],
            &[0x04, 1],
            &[0x04, 1, 9, 9],                // left over
            &[0x04, 0x80, 9, 0, 0],          // indefinite
            &[0x04, 0x81, 1, 9],             // could be shorter
            &[0x04, 0x82, 0, 0x80],          // leading zero
            &[0x1f, 1, 9],                   // long tag
            &[0x04, 0x85, 0, 0, 0, 0, 1, 9], // five bytes of length
        ] {
            assert_eq!(only(bad, OCTET_STRING), Err(Bad), "{bad:02x?}");
        }
        let long = [&[0x04, 0x81, 0x80][..], &[7; 0x80]].concat();
        assert_eq!(only(&long, OCTET_STRING).map(<[u8]>::len), Ok(0x80));
    }
}
