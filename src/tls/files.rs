//! Reading certificates, keys and revocation lists from files, strictly (threats.md T8).

use std::path::{Path, PathBuf};

use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A file that cannot be used: what, where, and the way out.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}: {what}; {way_out}", path.display())]
pub struct FileFault {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: String,
    /// What to do about it.
    pub way_out: String,
}

/// Reads the certificates of a PEM file, in order; at least one.
///
/// # Errors
/// The file cannot be read, is empty, or holds anything but whole certificates.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileFault> {
    let _ = path;
    todo!()
}

/// Reads the one private key of a PEM file: PKCS #8, PKCS #1 or SEC 1, not encrypted.
///
/// # Errors
/// The file cannot be read, or does not hold exactly one private key.
pub fn key(path: &Path) -> Result<PrivateKeyDer<'static>, FileFault> {
    let _ = path;
    todo!()
}

/// Reads the revocation lists of a PEM file, or the one of a DER file; gives their DER. At least one.
///
/// # Errors
/// The file cannot be read, is empty, or holds anything but revocation lists.
pub fn crls(path: &Path) -> Result<Vec<Vec<u8>>, FileFault> {
    let _ = path;
    todo!()
}
