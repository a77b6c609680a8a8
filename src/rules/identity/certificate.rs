//! What a certificate says about its holder.

use super::{Field, Unnamed};

/// The facts of one certificate that rules, templates and logs need.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Certificate {
    /// The subject, in the notation of RFC 4514, at most 512 bytes.
    pub subject: String,
    /// The issuer, in the same notation.
    pub issuer: String,
    /// The certificate's number, in lower-case hex.
    pub serial: String,
    /// The SHA-256 of the DER, in lower-case hex.
    pub fingerprint: String,
    /// The first second of its validity, in seconds since 1970-01-01 UTC.
    pub not_before: i64,
    /// The last second of its validity, in seconds since 1970-01-01 UTC.
    pub not_after: i64,
}

/// The bytes are no X.509 certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a readable X.509 certificate: {0}")]
pub struct Unreadable(pub(super) &'static str);

impl Certificate {
    /// Reads a certificate.
    ///
    /// # Errors
    /// [`Unreadable`], when `der` is not exactly one certificate.
    pub fn read(der: &[u8]) -> Result<Self, Unreadable> {
        let _ = der;
        Err(Unreadable("not yet"))
    }

    /// The one value of `field`.
    ///
    /// # Errors
    /// [`Unnamed`], unless the field is there exactly once and is plain text.
    pub fn value(&self, field: Field) -> Result<&str, Unnamed> {
        match field {
            Field::Serial => Ok(&self.serial),
            Field::Fingerprint => Ok(&self.fingerprint),
            other => Err(Unnamed::Missing(other)),
        }
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
