//! Makes CAs, server and device certificates: for trials, for small fleets and for tests.
//!
//! An [`Authority`] signs what an [`Order`] asks for and gives an [`Issued`]; a [`folder`] keeps them in files.
//! Every certificate follows RFC 5280: version 3, a random positive serial of 16 bytes, both key identifiers, key
//! usage, and a start that lies an hour back, because small devices' clocks run late.

pub mod folder;
pub mod index;
pub mod order;
pub mod request;
pub mod revoke;

use std::path::PathBuf;

use rcgen::{
    CertificateParams, CertificateRevocationListParams, KeyIdMethod, KeyPair, PublicKeyData,
    RevokedCertParams,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::rules::device::DeviceId;
pub use order::{KeyKind, Order, Text, Validity};
pub use request::{BadRequest, Request};

/// Days that a CA of [`Authority::new`] is good for.
pub const CA_DAYS: u32 = 3650;
/// Days that a server certificate is good for. Some devices' TLS stacks refuse servers that have longer.
pub const SERVER_DAYS: u32 = 825;
/// Days that a device certificate is good for.
pub const DEVICE_DAYS: u32 = 730;

/// Why a certificate, a key or a list was not made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Nothing is ever overwritten: the only copy of a key could be lost.
    #[error(
        "{} is already there and is never overwritten; name another folder, or move the file away if it is no longer needed",
        .0.display()
    )]
    Exists(PathBuf),
    /// A file could not be written.
    #[error("cannot write {}: {why}", .path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        why: std::io::Error,
    },
    /// A file could not be read.
    #[error("cannot read {}: {why}{}", .path.display(), way_out(.why))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        why: std::io::Error,
    },
    /// The CA's own files are not what they should be.
    #[error("{} cannot be used: {why}", .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Which rule it breaks, and the way out.
        why: String,
    },
    /// A server name that is neither a DNS name nor an IP address.
    #[error(
        "{0:?} is neither a DNS name nor an IP address; write it as in gate.example.net, *.example.net or 192.0.2.7"
    )]
    NotAServerName(String),
    /// A request holds the CA's own key: its certificate would speak for the CA.
    #[error(
        "the request is for the CA's own key, and a device with it could make any device; make a key for the device"
    )]
    OwnKey,
    /// The order holds what X.509 has no form for.
    #[error("the certificate cannot be made: {0}")]
    Unmakeable(String),
}

fn way_out(why: &std::io::Error) -> &'static str {
    match why.kind() {
        std::io::ErrorKind::NotFound => "; `tidegate ca init` makes a CA",
        std::io::ErrorKind::PermissionDenied => "; run it as the user that made the CA",
        _ => "",
    }
}

impl From<rcgen::Error> for Fault {
    fn from(why: rcgen::Error) -> Self {
        Self::Unmakeable(why.to_string())
    }
}

/// A CA that can sign: a root, or an intermediate that a root vouches for.
pub struct Authority {
    issuer: rcgen::Issuer<'static, KeyPair>,
    identifier: KeyIdMethod,
    certificate: Signed,
    /// The CAs between what it issues and the root, this one first, without the root; empty for a root.
    between: Vec<Signed>,
    validity: Validity,
}

/// A certificate and its private key, as signed.
pub struct Issued {
    certified: Certified,
    key: KeyPair,
}

/// A certificate, as signed; whoever asked for it has its key.
pub struct Certified {
    leaf: Signed,
    between: Vec<Signed>,
    serial: Vec<u8>,
    validity: Validity,
}

/// One certificate in both its forms.
#[derive(Clone)]
struct Signed {
    der: CertificateDer<'static>,
    pem: String,
}

impl From<rcgen::Certificate> for Signed {
    fn from(made: rcgen::Certificate) -> Self {
        Self {
            der: made.der().clone(),
            pem: made.pem(),
        }
    }
}

impl Authority {
    /// A new root of that common name: ECDSA P-256, [`CA_DAYS`].
    ///
    /// # Errors
    /// [`Fault::Unmakeable`], when there is no randomness to be had.
    pub fn new(name: &str) -> Result<Self, Fault> {
        Self::root(Order::ca(name))
    }

    /// A new root as ordered.
    ///
    /// # Errors
    /// [`Fault::Unmakeable`].
    pub fn root(order: Order) -> Result<Self, Fault> {
        let validity = order.validity;
        let (params, key) = order.prepare()?;
        let certificate = params.self_signed(&key)?.into();
        let identifier = KeyIdMethod::PreSpecified(params.key_identifier(&key));
        let issuer = rcgen::Issuer::new(params, key);
        Ok(Self {
            issuer,
            identifier,
            certificate,
            between: Vec::new(),
            validity,
        })
    }

    /// An intermediate as ordered, signed by this authority; what it issues comes with the chain to the root.
    ///
    /// # Errors
    /// [`Fault::Unmakeable`].
    pub fn intermediate(&self, order: Order) -> Result<Self, Fault> {
        let validity = order.validity;
        let (params, key) = order.prepare()?;
        let certificate = Signed::from(params.signed_by(&key, &self.issuer)?);
        let identifier = KeyIdMethod::PreSpecified(params.key_identifier(&key));
        let between = [vec![certificate.clone()], self.between.clone()].concat();
        let issuer = rcgen::Issuer::new(params, key);
        Ok(Self {
            issuer,
            identifier,
            certificate,
            between,
            validity,
        })
    }

    /// A server certificate for these DNS names and IP addresses: ECDSA P-256, [`SERVER_DAYS`].
    ///
    /// # Errors
    /// [`Fault::NotAServerName`]; [`Fault::Unmakeable`], also when there is no name.
    pub fn server<S: AsRef<str>>(&self, names: &[S]) -> Result<Issued, Fault> {
        self.issue(Order::server(names)?)
    }

    /// A device certificate: CN and SAN URI `urn:device:…` name the device. ECDSA P-256, [`DEVICE_DAYS`].
    ///
    /// # Errors
    /// [`Fault::Unmakeable`].
    pub fn device(&self, device: &DeviceId) -> Result<Issued, Fault> {
        self.issue(Order::device(device))
    }

    /// A certificate as ordered.
    ///
    /// # Errors
    /// [`Fault::Unmakeable`].
    pub fn issue(&self, order: Order) -> Result<Issued, Fault> {
        let validity = order.validity;
        let (params, key) = order.prepare()?;
        let certified = self.sign(&params, &key, validity)?;
        Ok(Issued { certified, key })
    }

    /// A certificate as ordered, for the key of a request. Nothing else that is asked for there is given.
    ///
    /// # Errors
    /// [`Fault::OwnKey`]; [`Fault::Unmakeable`].
    pub fn certify(&self, order: Order, request: &Request) -> Result<Certified, Fault> {
        if request.key.subject_public_key_info() == self.issuer.key().subject_public_key_info() {
            return Err(Fault::OwnKey);
        }
        let validity = order.validity;
        self.sign(&order.params()?, &request.key, validity)
    }

    fn sign(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
        validity: Validity,
    ) -> Result<Certified, Fault> {
        let serial = params.serial_number.as_ref();
        Ok(Certified {
            leaf: params.signed_by(key, &self.issuer)?.into(),
            between: self.between.clone(),
            serial: serial
                .map(rcgen::SerialNumber::to_bytes)
                .unwrap_or_default(),
            validity,
        })
    }

    /// A version 2 list of revoked serials, with `this_update` (unix seconds) as its number: a later list has a higher one.
    ///
    /// # Errors
    /// [`Fault::Unmakeable`], when `next_update` does not lie after `this_update`.
    pub fn crl<S: AsRef<[u8]>>(
        &self,
        revoked: &[S],
        this_update: i64,
        next_update: i64,
    ) -> Result<rcgen::CertificateRevocationList, Fault> {
        let revocation_time = order::moment(this_update)?;
        let entry = |serial: &S| RevokedCertParams {
            serial_number: serial.as_ref().to_vec().into(),
            revocation_time,
            reason_code: None,
            invalidity_date: None,
        };
        let revoked = revoked.iter().map(entry).collect();
        let number = this_update.unsigned_abs().into();
        self.list(revoked, number, this_update, next_update)
    }

    fn list(
        &self,
        revoked_certs: Vec<RevokedCertParams>,
        crl_number: rcgen::SerialNumber,
        this_update: i64,
        next_update: i64,
    ) -> Result<rcgen::CertificateRevocationList, Fault> {
        let list = CertificateRevocationListParams {
            this_update: order::moment(this_update)?,
            next_update: order::moment(next_update)?,
            crl_number,
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: self.identifier.clone(),
        };
        Ok(list.signed_by(&self.issuer)?)
    }

    /// The CA certificate itself: what a gate trusts.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate.der
    }

    /// The CA certificate as PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate.pem
    }

    /// The CA's private key as PEM (PKCS #8): whoever has it can make any device.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// When the CA itself begins and ends.
    pub fn validity(&self) -> Validity {
        self.validity
    }
}

impl Certified {
    /// The certificate alone.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.leaf.der
    }

    /// The certificate alone as PEM, for devices that do not send their intermediates.
    pub fn certificate_pem(&self) -> &str {
        &self.leaf.pem
    }

    /// The certificate, then the intermediates towards the root, without the root.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.signed().map(|one| one.der.clone()).collect()
    }

    /// [`Self::chain`] as PEM.
    pub fn chain_pem(&self) -> String {
        self.signed().map(|one| one.pem.as_str()).collect()
    }

    fn signed(&self) -> impl Iterator<Item = &Signed> {
        std::iter::once(&self.leaf).chain(&self.between)
    }

    /// The serial number, big-endian, as [`Authority::crl`] takes it.
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// When the certificate begins and ends.
    pub fn validity(&self) -> Validity {
        self.validity
    }
}

impl Issued {
    /// All but the key.
    pub fn certified(&self) -> &Certified {
        &self.certified
    }

    /// The certificate alone.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        self.certified.certificate()
    }

    /// As [`Certified::certificate_pem`].
    pub fn certificate_pem(&self) -> &str {
        self.certified.certificate_pem()
    }

    /// As [`Certified::chain`].
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.certified.chain()
    }

    /// As [`Certified::chain_pem`].
    pub fn chain_pem(&self) -> String {
        self.certified.chain_pem()
    }

    /// The private key (PKCS #8).
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }

    /// The private key as PEM (PKCS #8).
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// The serial number, big-endian, as [`Authority::crl`] takes it.
    pub fn serial(&self) -> &[u8] {
        self.certified.serial()
    }

    /// When the certificate begins and ends.
    pub fn validity(&self) -> Validity {
        self.certified.validity()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test that cannot go on says so by panicking
mod tests;
