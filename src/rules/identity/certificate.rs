//! What a certificate says about its holder.

use std::sync::OnceLock;

use aws_lc_rs::digest;
use x509_parser::asn1_rs::FromDer as _;
use x509_parser::num_bigint::BigInt;
use x509_parser::time::ASN1Time;

use super::der::{BIT_STRING, BOOLEAN, Broken, INTEGER, OCTET_STRING, OID, Reader, SEQUENCE};
use super::name::{CN, Name, OU, SERIAL_NUMBER, ascii};
use super::{Field, Unnamed};
use crate::rules::record::Print;

/// The most bytes a certificate may have.
const LARGEST: usize = 65_536;
/// The most bytes a number may have; RFC 5280 §4.1.2.2 allows 20.
const LONGEST_SERIAL: usize = 64;
/// The most bytes a value may have that is to name a device.
const LONGEST_VALUE: usize = 1024;
/// The most bytes of a distinguished name that are shown.
const LONGEST_NAME: usize = 512;

/// The object identifier of subjectAltName (RFC 5280 §4.2.1.6).
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 17];

/// The facts of one certificate that rules, templates and logs need.
///
/// It says what stands in the certificate, not that it is true: whoever reads it verifies it first.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Certificate {
    /// The subject, in the notation of RFC 4514, cut with `…` past 512 bytes. No control characters.
    pub subject: String,
    /// The issuer, in the same notation.
    pub issuer: String,
    /// The certificate's number, in lower-case hex, without the sign octet; `-` in front of a negative one.
    pub serial: String,
    /// The SHA-256 of the DER.
    pub print: Print,
    /// The SHA-256 of the whole SubjectPublicKeyInfo: the same for every certificate of one key.
    pub key: Print,
    /// The first second of its validity, in seconds since 1970-01-01 UTC.
    pub not_before: i64,
    /// The last second of its validity, in seconds since 1970-01-01 UTC.
    pub not_after: i64,
    named: Named,
    /// The fingerprint as text, once a device is named by it.
    fingerprint: OnceLock<Box<str>>,
}

/// The bytes are no X.509 certificate. Holds the part that is not as it should be.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "this is not a readable X.509 certificate in DER: {0} is broken; issue the certificate anew"
)]
pub struct Unreadable(&'static str);

/// The fields that may be there any number of times.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Named {
    cn: Found,
    ou: Found,
    serial_number: Found,
    uri: Found,
    dns: Found,
    email: Found,
}

/// What was found of one field.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
enum Found {
    #[default]
    Nothing,
    One(Box<str>),
    Unreadable,
    Several,
}

impl Certificate {
    /// Reads a certificate of any version, up to 64 KiB.
    ///
    /// Its structure must be DER to the last byte. A field that is no plain text, and a subject or a subjectAltName
    /// that is broken inside, leaves the rest readable: only asking for that field is an error.
    ///
    /// # Errors
    /// [`Unreadable`], when `der` is not exactly one certificate.
    ///
    /// Source: RFC 5280 §4.1.
    pub fn read(der: &[u8]) -> Result<Self, Unreadable> {
        Self::of(&Pieces::read(der)?, sha256(der))
    }

    /// The same, where `print`, the SHA-256 of `der`, is known already.
    ///
    /// # Errors
    /// As [`Certificate::read`].
    pub fn read_printed(der: &[u8], print: Print) -> Result<Self, Unreadable> {
        Self::of(&Pieces::read(der)?, print)
    }

    /// One that is not at hand: only its prints are known, and everything else is empty.
    pub fn absent(print: Print, key: Print) -> Self {
        Self {
            subject: String::new(),
            issuer: String::new(),
            serial: String::new(),
            print,
            key,
            not_before: i64::MIN,
            not_after: i64::MAX,
            named: Named::default(),
            fingerprint: OnceLock::new(),
        }
    }

    fn of(pieces: &Pieces<'_>, print: Print) -> Result<Self, Unreadable> {
        let part = |what: &'static str| move |_: Broken| Unreadable(what);
        let serial = number(pieces.serial).map_err(part("the serial number"))?;
        let (not_before, not_after) = period(pieces.validity).map_err(part("the validity"))?;
        let subject = Name::read(pieces.subject);
        let mut named = Named::default();
        named.add_subject(subject.as_ref());
        if let Some(extensions) = pieces.extensions {
            named.add_extensions(extensions);
        }
        let shown = |name: &Result<Name<'_>, Broken>| match name {
            Ok(name) => name.text(LONGEST_NAME),
            Err(Broken) => "(unreadable)".to_owned(),
        };
        Ok(Self {
            subject: shown(&subject),
            issuer: shown(&Name::read(pieces.issuer)),
            serial,
            print,
            key: sha256(pieces.key),
            not_before,
            not_after,
            named,
            fingerprint: OnceLock::new(),
        })
    }

    /// The whole SubjectPublicKeyInfo of a certificate: what [`Certificate::key`] is the SHA-256 of.
    ///
    /// # Errors
    /// As [`Certificate::read`], as far as structure goes.
    pub fn public_key(der: &[u8]) -> Result<&[u8], Unreadable> {
        Pieces::read(der).map(|pieces| pieces.key)
    }

    /// The SHA-256 of the DER, in lower-case hex.
    pub fn fingerprint(&self) -> String {
        hex::encode(self.print)
    }

    /// The one value of `field`.
    ///
    /// # Errors
    /// [`Unnamed`], unless the field is there exactly once and is plain text (threats.md I6).
    pub fn value(&self, field: Field) -> Result<&str, Unnamed> {
        let found = match field {
            Field::Serial => return Ok(&self.serial),
            Field::Fingerprint => {
                let text = self.fingerprint.get_or_init(|| self.fingerprint().into());
                return Ok(text);
            }
            Field::SubjectCn => &self.named.cn,
            Field::SubjectOu => &self.named.ou,
            Field::SubjectSerialNumber => &self.named.serial_number,
            Field::SanUri => &self.named.uri,
            Field::SanDns => &self.named.dns,
            Field::SanEmail => &self.named.email,
        };
        match found {
            Found::One(value) => Ok(value),
            Found::Nothing => Err(Unnamed::Missing(field)),
            Found::Several => Err(Unnamed::Repeated(field)),
            Found::Unreadable => Err(Unnamed::Unreadable(field)),
        }
    }

    /// How much memory it takes, in bytes; without what the allocator adds.
    pub fn bytes(&self) -> usize {
        let Self {
            subject,
            issuer,
            serial,
            named,
            ..
        } = self;
        let shown = [subject, issuer, serial];
        let shown = shown.into_iter().map(String::len).sum::<usize>();
        size_of::<Self>() + shown + named.bytes()
    }

    /// The common name, `{cert.cn}`.
    ///
    /// # Errors
    /// As [`Certificate::value`].
    pub fn cn(&self) -> Result<&str, Unnamed> {
        self.value(Field::SubjectCn)
    }

    /// The URI among the subject alternative names, `{cert.san.uri}`.
    ///
    /// # Errors
    /// As [`Certificate::value`].
    pub fn san_uri(&self) -> Result<&str, Unnamed> {
        self.value(Field::SanUri)
    }

    /// The DNS name among the subject alternative names, `{cert.san.dns}`.
    ///
    /// # Errors
    /// As [`Certificate::value`].
    pub fn san_dns(&self) -> Result<&str, Unnamed> {
        self.value(Field::SanDns)
    }
}

/// Where the parts of a certificate are.
struct Pieces<'d> {
    serial: &'d [u8],
    issuer: &'d [u8],
    validity: &'d [u8],
    subject: &'d [u8],
    /// With identifier and length.
    key: &'d [u8],
    extensions: Option<&'d [u8]>,
}

impl<'d> Pieces<'d> {
    /// Source: RFC 5280 §4.1.
    fn read(der: &'d [u8]) -> Result<Self, Unreadable> {
        let part = |what: &'static str| move |_: Broken| Unreadable(what);
        if der.len() > LARGEST {
            return Err(Unreadable("its size (more than 64 KiB)"));
        }
        let mut tbs = to_be_signed(der).map_err(part("its outer structure"))?;
        let _version = tbs.take_if(0xa0).map_err(part("the version"))?;
        let serial = tbs.take(INTEGER).map_err(part("the serial number"))?;
        tbs.take(SEQUENCE)
            .map_err(part("the signature algorithm"))?;
        let issuer = tbs.take(SEQUENCE).map_err(part("the issuer"))?;
        let validity = tbs.take(SEQUENCE).map_err(part("the validity"))?;
        let subject = tbs.take(SEQUENCE).map_err(part("the subject"))?;
        let key = tbs.take(SEQUENCE).map_err(part("the public key"))?;
        // issuerUniqueID and subjectUniqueID, which nobody uses.
        for tag in [0x81, 0x82] {
            tbs.take_if(tag).map_err(part("a unique identifier"))?;
        }
        let extensions = tbs.take_if(0xa3).map_err(part("the extensions"))?;
        tbs.end().map_err(part("what follows the extensions"))?;
        Ok(Self {
            serial: serial.body,
            issuer: issuer.body,
            validity: validity.body,
            subject: subject.body,
            key: key.whole,
            extensions: extensions.map(|extensions| extensions.body),
        })
    }
}

fn sha256(bytes: &[u8]) -> Print {
    let digest = digest::digest(&digest::SHA256, bytes);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// The inside of the TBSCertificate; what stands around it is there and whole.
fn to_be_signed(der: &[u8]) -> Result<Reader<'_>, Broken> {
    let mut outer = Reader::new(der);
    let mut certificate = Reader::new(outer.take(SEQUENCE)?.body);
    outer.end()?;
    let tbs = Reader::new(certificate.take(SEQUENCE)?.body);
    certificate.take(SEQUENCE)?;
    certificate.take(BIT_STRING)?;
    certificate.end()?;
    Ok(tbs)
}

/// The contents of an INTEGER in hex. A negative one gets a `-`, or 0x80 and 0x0080 would look the same.
///
/// Source: X.690 §8.3.2: the fewest octets.
fn number(body: &[u8]) -> Result<String, Broken> {
    let padded = matches!(body, [0, 0..=0x7f, ..] | [0xff, 0x80..=0xff, ..]);
    if body.is_empty() || body.len() > LONGEST_SERIAL || padded {
        return Err(Broken);
    }
    Ok(match body {
        [0x80..=0xff, ..] => {
            let (_minus, magnitude) = BigInt::from_signed_bytes_be(body).to_bytes_be();
            format!("-{}", hex::encode(magnitude))
        }
        [0] => "00".to_owned(),
        [0, magnitude @ ..] | magnitude => hex::encode(magnitude),
    })
}

/// The contents of a Validity, in seconds since 1970-01-01 UTC.
fn period(body: &[u8]) -> Result<(i64, i64), Broken> {
    let mut ends = Reader::new(body);
    let mut end = || {
        let whole = ends.next()?.ok_or(Broken)?.whole;
        match ASN1Time::from_der(whole) {
            Ok(([], time)) => Ok(time.timestamp()),
            _ => Err(Broken),
        }
    };
    let period = (end()?, end()?);
    ends.end()?;
    Ok(period)
}

impl Named {
    fn bytes(&self) -> usize {
        let Self {
            cn,
            ou,
            serial_number,
            uri,
            dns,
            email,
        } = self;
        let found = [cn, ou, serial_number, uri, dns, email];
        let one = |found: &Found| match found {
            Found::One(text) => text.len(),
            Found::Nothing | Found::Unreadable | Found::Several => 0,
        };
        found.into_iter().map(one).sum()
    }

    /// Notes what the subject holds; all of its fields are unreadable when it is broken.
    fn add_subject(&mut self, subject: Result<&Name<'_>, &Broken>) {
        let Ok(subject) = subject else {
            self.cn = Found::Unreadable;
            self.ou = Found::Unreadable;
            self.serial_number = Found::Unreadable;
            return;
        };
        for attribute in subject.attributes() {
            match attribute.oid {
                CN => self.cn.add(attribute.text()),
                OU => self.ou.add(attribute.text()),
                SERIAL_NUMBER => self.serial_number.add(attribute.text()),
                _ => {}
            }
        }
    }

    /// Notes what the subjectAltName holds; all of its fields are unreadable when it is broken, when there are two, or
    /// when the extensions are such that one could hide among them.
    fn add_extensions(&mut self, body: &[u8]) {
        let all_read = alternative_names(body).and_then(|found| match found {
            Some(names) => self.add_alternative_names(names),
            None => Ok(()),
        });
        if all_read.is_err() {
            self.uri = Found::Unreadable;
            self.dns = Found::Unreadable;
            self.email = Found::Unreadable;
        }
    }

    /// Notes the contents of a SubjectAltName (RFC 5280 §4.2.1.6).
    fn add_alternative_names(&mut self, value: &[u8]) -> Result<(), Broken> {
        let mut outer = Reader::new(value);
        let mut names = Reader::new(outer.take(SEQUENCE)?.body);
        outer.end()?;
        while let Some(name) = names.next()? {
            let text = ascii(name.body);
            match name.tag {
                0x81 => self.email.add(text),
                0x82 => self.dns.add(text),
                0x86 => self.uri.add(text),
                // Kinds that name no device: otherName, x400Address, directoryName, ediPartyName, iPAddress, registeredID.
                0xa0 | 0xa3 | 0xa4 | 0xa5 | 0x87 | 0x88 => {}
                _ => return Err(Broken),
            }
        }
        Ok(())
    }
}

/// The value of the one subjectAltName among `[3] EXPLICIT Extensions`, if there is one.
fn alternative_names(body: &[u8]) -> Result<Option<&[u8]>, Broken> {
    let mut outer = Reader::new(body);
    let mut extensions = Reader::new(outer.take(SEQUENCE)?.body);
    outer.end()?;
    let mut found = None;
    while let Some(extension) = extensions.next()? {
        if extension.tag != SEQUENCE {
            return Err(Broken);
        }
        let mut parts = Reader::new(extension.body);
        let oid = parts.take(OID)?.body;
        let _critical = parts.take_if(BOOLEAN)?;
        let value = parts.take(OCTET_STRING)?.body;
        parts.end()?;
        if oid == SUBJECT_ALT_NAME && found.replace(value).is_some() {
            return Err(Broken);
        }
    }
    Ok(found)
}

impl Found {
    /// Notes one more value; `None` when it is no text. Two are two, whether they can be read or not.
    fn add(&mut self, text: Option<&str>) {
        *self = match (&self, text) {
            (Self::Nothing, Some(text)) if is_plain(text) => Self::One(text.into()),
            (Self::Nothing, _) => Self::Unreadable,
            _ => Self::Several,
        };
    }
}

/// Whether a value may name a device: no NUL, no other control character, not endless.
fn is_plain(text: &str) -> bool {
    text.len() <= LONGEST_VALUE && !text.chars().any(char::is_control)
}

#[cfg(test)]
impl Certificate {
    /// A certificate with these common names, URIs and DNS names, for tests of what is made of them.
    pub(in crate::rules) fn for_tests(cn: &[&str], uri: &[&str], dns: &[&str]) -> Self {
        use super::crafted::{Parts, attribute, name, rdn, san, tlv};
        let texts = |tag, values: &[&str]| {
            let one = |value: &&str| tlv(tag, &[value.as_bytes()]);
            values.iter().map(one).collect::<Vec<_>>()
        };
        let cns = cn
            .iter()
            .map(|cn| rdn(&[attribute(CN, 0x0c, cn.as_bytes())]));
        let parts = Parts {
            subject: name(&cns.collect::<Vec<_>>()),
            extensions: vec![san(&[texts(0x86, uri), texts(0x82, dns)].concat())],
            ..Parts::default()
        };
        Self::read(&parts.der()).expect("the structure is whole")
    }
}

#[cfg(test)]
#[path = "certificate_tests.rs"]
mod tests;
