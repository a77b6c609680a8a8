//! What a certificate shall hold, before anything is signed.

use std::net::IpAddr;

use aws_lc_rs::signature::Ed25519KeyPair;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, RsaKeySize, SanType,
};
use rustls_pki_types::DnsName;
use time::OffsetDateTime;

use super::{CA_DAYS, DEVICE_DAYS, Fault, SERVER_DAYS};
use crate::rules::device::DeviceId;

pub use rcgen::DnValue as Text;

/// The attribute type `serialNumber` (X.520), which names a device, not a certificate.
const SERIAL_NUMBER: [u64; 4] = [2, 5, 4, 5];
const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// When a certificate begins and ends, both in unix seconds, both within.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Validity {
    /// The first second.
    pub not_before: i64,
    /// The last second.
    pub not_after: i64,
}

impl Validity {
    /// From an hour ago to `days` from now: a device whose clock is a little late can use it at once.
    pub fn days(days: u32) -> Self {
        let now = now();
        Self {
            not_before: now - HOUR,
            not_after: now + i64::from(days) * DAY,
        }
    }

    /// The same, ending with `outer` at the latest: nothing that a CA signs is of use after the CA's end.
    #[must_use]
    pub fn within(self, outer: Self) -> Self {
        Self {
            not_before: self.not_before,
            not_after: self.not_after.min(outer.not_after),
        }
    }

    /// The day of the end, as `2036-11-21` (UTC).
    pub fn last_day(&self) -> String {
        moment(self.not_after).map_or_else(|_| "never".to_owned(), |at| at.date().to_string())
    }
}

/// The kind of a private key, and with it of the signatures it makes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum KeyKind {
    /// Small, fast, known to every TLS stack: the default.
    #[default]
    EcdsaP256,
    /// ECDSA over P-384, with SHA-384.
    EcdsaP384,
    /// ECDSA over P-521, with SHA-512.
    EcdsaP521,
    /// Ed25519.
    Ed25519,
    /// RSA of 2 048 bits, PKCS #1 with SHA-256.
    Rsa2048,
    /// RSA of 4 096 bits, PKCS #1 with SHA-256; takes a second or so to make.
    Rsa4096,
}

impl KeyKind {
    fn make(self) -> Result<KeyPair, rcgen::Error> {
        match self {
            Self::EcdsaP256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            Self::EcdsaP384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            Self::EcdsaP521 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512),
            Self::Ed25519 => ed25519(),
            Self::Rsa2048 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048),
            Self::Rsa4096 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_4096),
        }
    }
}

/// A key in PKCS #8 version 1 (RFC 8410 §7). rcgen's own come in version 2, with the public key, which OpenSSL 3.0 and
/// what is built on it cannot read.
fn ed25519() -> Result<KeyPair, rcgen::Error> {
    let unmade = |_| rcgen::Error::RingUnspecified;
    let key = Ed25519KeyPair::generate().map_err(unmade)?;
    let key = key.to_pkcs8v1().map_err(unmade)?;
    KeyPair::try_from(key.as_ref())
}

/// An order for a certificate. Start with [`Order::ca`], [`Order::server`] or one of the devices', then add.
///
/// It takes odd names as they are: a test must be able to make the certificate that a gate has to refuse.
#[derive(Clone, Debug)]
pub struct Order {
    pub(super) validity: Validity,
    params: CertificateParams,
    key: KeyKind,
    serial: Option<Vec<u8>>,
    subject: Vec<(DnType, Text)>,
    names: Vec<(Kind, String)>,
}

/// The kinds of subject alternative names that are plain text.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Dns,
    Uri,
    Email,
}

impl Order {
    fn new(validity: Validity) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.use_authority_key_identifier_extension = true;
        Self {
            validity,
            params,
            key: KeyKind::default(),
            serial: None,
            subject: Vec::new(),
            names: Vec::new(),
        }
    }

    /// A CA of that common name, for [`CA_DAYS`]; it may sign certificates and lists.
    pub fn ca(name: &str) -> Self {
        let mut order = Self::new(Validity::days(CA_DAYS)).common_name(name);
        order.params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        order.params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        order
    }

    fn leaf(days: u32, purpose: ExtendedKeyUsagePurpose) -> Self {
        let mut order = Self::new(Validity::days(days)).purposes(vec![purpose]);
        order.params.is_ca = IsCa::ExplicitNoCa;
        order.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        order
    }

    /// A server of these DNS names (`*.` for one label) and IP addresses, for [`SERVER_DAYS`]; the first is its CN too.
    ///
    /// # Errors
    /// [`Fault::NotAServerName`], the first that is neither; [`Fault::Unmakeable`], when there is none.
    pub fn server<S: AsRef<str>>(names: &[S]) -> Result<Self, Fault> {
        let mut order = Self::leaf(SERVER_DAYS, ExtendedKeyUsagePurpose::ServerAuth);
        let Some(first) = names.first() else {
            return Err(Fault::Unmakeable("a server needs a name".to_owned()));
        };
        if first.as_ref().len() <= 64 {
            order = order.common_name(first.as_ref()); // X.520 bounds a common name; the SAN is what counts
        }
        for name in names.iter().map(AsRef::as_ref) {
            let plain = name.strip_prefix("*.").unwrap_or(name);
            order = if let Ok(ip) = name.parse() {
                order.ip(ip)
            } else if DnsName::try_from(plain).is_ok() {
                order.dns(name)
            } else {
                return Err(Fault::NotAServerName(name.to_owned()));
            };
        }
        Ok(order)
    }

    /// A device, named by its CN and by the SAN URI `urn:device:…`, for [`DEVICE_DAYS`].
    pub fn device(device: &DeviceId) -> Self {
        let id = device.as_str();
        let order = Self::device_named(id);
        // What an operator may add to the alphabet need not be good in a URI.
        match id.parse::<DeviceId>() {
            Ok(_) => order.uri(&format!("urn:device:{id}")),
            Err(_) => order,
        }
    }

    /// A device's certificate whose CN is `common_name`, whatever that is, without SAN.
    pub fn device_named(common_name: &str) -> Self {
        Self::device_unnamed().common_name(common_name)
    }

    /// A device's certificate with an empty subject and without SAN.
    pub fn device_unnamed() -> Self {
        Self::leaf(DEVICE_DAYS, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// Adds a CN. A second one is added as a second one; a third cannot be written.
    #[must_use]
    pub fn common_name(self, text: impl Into<Text>) -> Self {
        self.attribute(DnType::CommonName, text)
    }

    /// Adds an OU, as [`Self::common_name`] does.
    #[must_use]
    pub fn organizational_unit(self, text: impl Into<Text>) -> Self {
        self.attribute(DnType::OrganizationalUnitName, text)
    }

    /// Adds the subject's `serialNumber` attribute (the device's, not the certificate's).
    #[must_use]
    pub fn serial_number(self, text: impl Into<Text>) -> Self {
        self.attribute(DnType::CustomDnType(SERIAL_NUMBER.to_vec()), text)
    }

    /// Adds an attribute to the subject, as [`Self::common_name`] does.
    #[must_use]
    pub fn attribute(mut self, kind: DnType, text: impl Into<Text>) -> Self {
        self.subject.push((kind, text.into()));
        self
    }

    /// Adds a DNS name to the SAN. Any ASCII is taken.
    #[must_use]
    pub fn dns(mut self, name: &str) -> Self {
        self.names.push((Kind::Dns, name.to_owned()));
        self
    }

    /// Adds a URI to the SAN. Any ASCII is taken.
    #[must_use]
    pub fn uri(mut self, uri: &str) -> Self {
        self.names.push((Kind::Uri, uri.to_owned()));
        self
    }

    /// Adds a mail address to the SAN. Any ASCII is taken.
    #[must_use]
    pub fn email(mut self, address: &str) -> Self {
        self.names.push((Kind::Email, address.to_owned()));
        self
    }

    /// Adds an IP address to the SAN.
    #[must_use]
    pub fn ip(mut self, address: IpAddr) -> Self {
        let name = SanType::IpAddress(address);
        self.params.subject_alt_names.push(name);
        self
    }

    /// For another time than the usual.
    #[must_use]
    pub fn valid(mut self, validity: Validity) -> Self {
        self.validity = validity;
        self
    }

    /// With another kind of key than ECDSA P-256.
    #[must_use]
    pub fn key(mut self, kind: KeyKind) -> Self {
        self.key = kind;
        self
    }

    /// With this serial (big-endian) instead of a random one.
    #[must_use]
    pub fn serial(mut self, serial: &[u8]) -> Self {
        self.serial = Some(serial.to_vec());
        self
    }

    /// With these extended key usages instead of the usual one; none at all when empty.
    #[must_use]
    pub fn purposes(mut self, purposes: Vec<ExtendedKeyUsagePurpose>) -> Self {
        self.params.extended_key_usages = purposes;
        self
    }

    /// With whatever else rcgen can write: constraints, distribution points, extensions of one's own.
    #[must_use]
    pub fn adjust(mut self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        change(&mut self.params);
        self
    }

    /// What rcgen signs, and a new key for it.
    pub(super) fn prepare(self) -> Result<(CertificateParams, KeyPair), Fault> {
        let key = self.key;
        Ok((self.params()?, key.make()?))
    }

    /// What rcgen signs.
    pub(super) fn params(self) -> Result<CertificateParams, Fault> {
        let mut params = self.params;
        params.not_before = moment(self.validity.not_before)?;
        params.not_after = moment(self.validity.not_after)?;
        params.serial_number = Some(self.serial.map_or_else(random_serial, Ok)?.into());
        for (kind, text) in self.subject {
            params
                .distinguished_name
                .push(free(&params.distinguished_name, kind)?, text);
        }
        for (kind, name) in self.names {
            let name = name.try_into()?;
            params.subject_alt_names.push(match kind {
                Kind::Dns => SanType::DnsName(name),
                Kind::Uri => SanType::URI(name),
                Kind::Email => SanType::Rfc822Name(name),
            });
        }
        Ok(params)
    }
}

/// A type under which rcgen will add an attribute instead of replacing the one that is there.
///
/// rcgen keeps one value for each [`DnType`]; the same OID spelt as a custom type is a second place for it.
fn free(name: &DistinguishedName, kind: DnType) -> Result<DnType, Fault> {
    if name.get(&kind).is_none() {
        return Ok(kind);
    }
    let spelt = match kind {
        DnType::CommonName => vec![2, 5, 4, 3],
        DnType::OrganizationalUnitName => vec![2, 5, 4, 11],
        _ => return Err(Fault::Unmakeable("an attribute is there twice".to_owned())),
    };
    let spelt = DnType::CustomDnType(spelt);
    if name.get(&spelt).is_none() {
        Ok(spelt)
    } else {
        Err(Fault::Unmakeable(
            "an attribute is there three times".to_owned(),
        ))
    }
}

/// 16 random bytes whose first is neither zero nor above 127: a positive number of one length (RFC 5280 §4.1.2.2).
fn random_serial() -> Result<Vec<u8>, Fault> {
    let mut serial = vec![0; 16];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut serial)
        .map_err(|_| Fault::Unmakeable("the system gives no randomness".to_owned()))?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial)
}

/// The one clock of this room.
pub(super) fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

/// Unix seconds as the calendar that X.509 is written in.
pub(super) fn moment(unix: i64) -> Result<OffsetDateTime, Fault> {
    OffsetDateTime::from_unix_timestamp(unix)
        .map_err(|_| Fault::Unmakeable(format!("{unix} s is no date of the calendar")))
}
