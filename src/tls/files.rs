//! Reading certificates, keys and revocation lists from files, strictly (threats.md T8).
//!
//! A PEM file may have explanatory text before a section, as `openssl … -text` writes it (RFC 7468 §2). Whatever looks like a
//! section gone wrong, is of another kind than asked for, or follows the last section is a fault: what is skipped silently
//! would be missed only when a device is turned away, or is not.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::{PemObject, SectionKind};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
};

use super::der;
use crate::rules::secret::Secret;

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

impl FileFault {
    pub(super) fn new(path: &Path, what: impl Into<String>, way_out: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            what: what.into(),
            way_out: way_out.into(),
        }
    }
}

/// Reads the certificates of a PEM file, in order; at least one.
///
/// # Errors
/// The file cannot be read, is empty, or holds anything but whole certificates.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileFault> {
    let bytes = read(path, LARGEST)?;
    if bytes.first() == Some(&der::SEQUENCE) {
        let way_out = "turn it into PEM: openssl x509 -inform der -in FILE -out FILE.pem";
        return Err(FileFault::new(path, "it is DER, not PEM", way_out));
    }
    sections(path, &bytes, "certificates", &["CERTIFICATE"])?
        .into_iter()
        .map(|section| {
            let der = section.decode(path)?;
            der::only(&der, der::SEQUENCE).map_err(|_| {
                let what = format!(
                    "the CERTIFICATE at line {} holds no certificate",
                    section.line
                );
                FileFault::new(path, what, "replace it")
            })?;
            Ok(der.into())
        })
        .collect()
}

/// Reads the one certificate of a PEM file, or that of a DER file, whatever may be odd about it; gives its DER.
///
/// # Errors
/// The file cannot be read, or does not hold exactly one certificate.
pub fn certificate(path: &Path) -> Result<Vec<u8>, FileFault> {
    let holds = "one certificate";
    one(
        path,
        holds,
        &["CERTIFICATE"],
        "leave the device's own in it",
    )
}

/// Reads the one request for a certificate (PKCS #10) of a PEM file, or that of a DER file; gives its DER.
///
/// # Errors
/// The file cannot be read, or does not hold exactly one request.
pub fn request(path: &Path) -> Result<Vec<u8>, FileFault> {
    let kinds = ["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"];
    let holds = "one request for a certificate";
    one(path, holds, &kinds, "leave exactly one in it")
}

/// Reads what is alone in its file, PEM of one of `kinds`, or DER.
fn one(path: &Path, holds: &str, kinds: &[&str], way_out: &str) -> Result<Vec<u8>, FileFault> {
    let bytes = read(path, LARGEST)?;
    if bytes.first() == Some(&der::SEQUENCE) {
        return match der::only(&bytes, der::SEQUENCE) {
            Ok(_) => Ok(bytes),
            Err(_) => Err(FileFault::new(
                path,
                "it begins like a DER file, but is cut off, or something follows",
                "fetch it again",
            )),
        };
    }
    match sections(path, &bytes, holds, kinds)?.as_slice() {
        [section] => section.decode(path),
        all => {
            let what = format!("it holds {}, where {holds} should be", all.len());
            Err(FileFault::new(path, what, way_out))
        }
    }
}

/// Reads the one private key of a PEM file: PKCS #8, PKCS #1 or SEC 1, not encrypted.
///
/// # Errors
/// The file cannot be read, or does not hold exactly one private key.
pub fn key(path: &Path) -> Result<PrivateKeyDer<'static>, FileFault> {
    let bytes = read(path, LARGEST)?;
    if bytes.first() == Some(&der::SEQUENCE) {
        let way_out = "turn it into PEM: openssl pkey -inform der -in FILE -out FILE.pem";
        return Err(FileFault::new(path, "it is DER, not PEM", way_out));
    }
    // `openssl ecparam -genkey` writes the curve before the key, which names it again.
    let kinds = [
        "PRIVATE KEY",
        "RSA PRIVATE KEY",
        "EC PRIVATE KEY",
        "EC PARAMETERS",
    ];
    let mut keys = sections(path, &bytes, "one private key", &kinds)?;
    keys.retain(|section| section.label != "EC PARAMETERS");
    let [section] = keys.as_slice() else {
        let what = format!("it holds {} private keys", keys.len());
        return Err(FileFault::new(path, what, "leave exactly one in it"));
    };
    let der = section.decode(path)?;
    Ok(match section.label {
        "RSA PRIVATE KEY" => PrivatePkcs1KeyDer::from(der).into(),
        "EC PRIVATE KEY" => PrivateSec1KeyDer::from(der).into(),
        _ => PrivatePkcs8KeyDer::from(der).into(),
    })
}

/// Reads the revocation lists of a PEM file, or the one of a DER file; gives their DER. At least one.
///
/// # Errors
/// The file cannot be read, is empty, or holds anything but revocation lists.
pub fn crls(path: &Path) -> Result<Vec<Vec<u8>>, FileFault> {
    let bytes = read(path, LARGEST)?;
    if bytes.first() == Some(&der::SEQUENCE) {
        return match der::only(&bytes, der::SEQUENCE) {
            Ok(_) => Ok(vec![bytes]),
            Err(_) => Err(FileFault::new(
                path,
                "it begins like a DER file, but is cut off, or something follows",
                "fetch it again",
            )),
        };
    }
    sections(path, &bytes, "revocation lists", &["X509 CRL"])?
        .into_iter()
        .map(|section| section.decode(path))
        .collect()
}

/// The most bytes of a secret.
const LARGEST_SECRET: u64 = 4096;

/// Reads a secret, to the byte: any encoding will do, as long as every gate has the same file.
///
/// # Errors
/// The file cannot be read, has fewer than `least` bytes or more than 4096, or so few different ones that it is no secret.
pub fn secret(path: &Path, least: usize) -> Result<Secret<Vec<u8>>, FileFault> {
    const MAKE: &str = "make one: openssl rand -hex 32 > FILE";
    /// Random ones have more, be they 32 bytes or 32 hex digits: fewer by a chance of less than 2^-24.
    const FEWEST: usize = 8;
    let bytes = read(path, LARGEST_SECRET)?;
    if bytes.len() < least {
        let what = format!("it has {} bytes, and {least} are needed", bytes.len());
        return Err(FileFault::new(path, what, MAKE));
    }
    let different: HashSet<u8> = bytes.iter().copied().collect();
    if different.len() < FEWEST {
        let what = "it repeats a few bytes over and over, so it can be guessed";
        return Err(FileFault::new(path, what, MAKE));
    }
    Ok(Secret::new(bytes))
}

/// The largest file of certificates, keys or lists, in bytes: a list of a million serials is some 40 MiB.
const LARGEST: u64 = 128 * 1024 * 1024;

/// Reads a regular file of at most `largest` bytes. A device that never ends or a pipe that nobody writes to would
/// keep a gate from starting, or fill its memory, without a word (threats.md T8).
///
/// # Errors
/// When it cannot be read, is no regular file, or is larger.
pub fn read_regular(path: &Path, largest: u64) -> io::Result<Vec<u8>> {
    let no = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
    if !fs::metadata(path)?.is_file() {
        return Err(no(match led_to(path) {
            None => format!("it is {NO_FILE}"),
            Some(end) => format!("it leads to {}, which is {NO_FILE}", end.display()),
        }));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(largest + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > largest {
        return Err(no(format!("it has more than {largest} bytes")));
    }
    Ok(bytes)
}

/// What [`read_regular`] does not read.
const NO_FILE: &str = "no regular file, but a folder, a pipe or a device";

/// Where a link at `path` leads in the end; `None`: it is none.
pub fn led_to(path: &Path) -> Option<PathBuf> {
    let is_link = path.symlink_metadata().ok()?.is_symlink();
    is_link.then(|| path.canonicalize().ok())?
}

fn read(path: &Path, largest: u64) -> Result<Vec<u8>, FileFault> {
    let bytes = read_regular(path, largest).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => FileFault::new(
            path,
            "there is no such file",
            "correct the path, or make the file",
        ),
        io::ErrorKind::PermissionDenied => FileFault::new(
            path,
            "permission denied",
            format!(
                "let the user that tidegate runs as (uid {}) read it",
                rustix::process::geteuid().as_raw()
            ),
        ),
        _ => FileFault::new(path, format!("cannot be read: {error}"), "see to the file"),
    })?;
    if bytes.trim_ascii().is_empty() {
        return Err(FileFault::new(path, "it is empty", "write it anew"));
    }
    Ok(bytes)
}

/// One PEM section, `-----BEGIN …` to `-----END …-----`.
struct Section<'a> {
    label: &'a str,
    /// Where it begins, counted from 1.
    line: usize,
    text: &'a [u8],
}

impl Section<'_> {
    fn decode(&self, path: &Path) -> Result<Vec<u8>, FileFault> {
        match <(SectionKind, Vec<u8>)>::from_pem_slice(self.text) {
            Ok((_, der)) if !der.is_empty() => Ok(der),
            _ => {
                let what = format!("the {} at line {} is garbled", self.label, self.line);
                Err(FileFault::new(path, what, "write it anew"))
            }
        }
    }
}

/// Splits a PEM file into its sections, all of the `wanted` kinds; at least one.
fn sections<'a>(
    path: &Path,
    bytes: &'a [u8],
    holds: &str,
    wanted: &[&str],
) -> Result<Vec<Section<'a>>, FileFault> {
    let fault = |line: usize, what: &str, way_out: &str| {
        FileFault::new(path, format!("line {line}: {what}"), way_out)
    };
    let mut found = Vec::new();
    let mut open: Option<(&str, usize, usize)> = None; // label, line, where it begins
    let mut text_outside = None;
    let mut at = 0;
    for (line, raw) in (1..).zip(bytes.split_inclusive(|b| *b == b'\n')) {
        let start = at;
        at += raw.len();
        let text = raw.trim_ascii();
        match (open, marker(text)) {
            (None, Some(("BEGIN", label))) => {
                if let Some(way_out) = not_wanted(label, wanted) {
                    let what = format!("a {label:?} section, where {holds} should be");
                    return Err(fault(line, &what, way_out));
                }
                open = Some((label, line, start));
                text_outside = None;
            }
            (Some((label, begun, from)), Some(("END", end))) if end == label => {
                let text = &bytes[from..at];
                found.push(Section {
                    label,
                    line: begun,
                    text,
                });
                open = None;
            }
            (Some(_), None) if text.starts_with(b"Proc-Type:") => {
                let way_out = "take off the passphrase: openssl pkey -in FILE -out FILE.plain";
                return Err(fault(line, "the key is encrypted", way_out));
            }
            (Some((label, begun, _)), _) if text.starts_with(b"--") => {
                let what = format!("the {label} that begins at line {begun} has no proper end");
                return Err(fault(line, &what, "write the file anew"));
            }
            (None, _) if text.windows(4).any(|w| w == b"----") || is_base64(text) => {
                let what = "part of a PEM section without its beginning";
                return Err(fault(line, what, "write the file anew"));
            }
            (None, _) if !text.is_empty() => text_outside = text_outside.or(Some(line)),
            (Some(_) | None, _) => {}
        }
    }
    if let Some((label, line, _)) = open {
        let what = format!("the {label} that begins here has no end");
        return Err(fault(line, &what, "write the file anew"));
    }
    if found.is_empty() {
        let what = format!("it holds no {holds} in PEM form");
        return Err(FileFault::new(path, what, "see that it is the right file"));
    }
    match text_outside {
        Some(line) => Err(fault(
            line,
            "something follows the last section",
            "remove it",
        )),
        None => Ok(found),
    }
}

/// Reads `-----BEGIN label-----` or `-----END label-----`.
fn marker(line: &[u8]) -> Option<(&str, &str)> {
    let inner = line.strip_prefix(b"-----")?.strip_suffix(b"-----")?;
    let (word, label) = str::from_utf8(inner).ok()?.split_once(' ')?;
    (matches!(word, "BEGIN" | "END") && !label.starts_with('-')).then_some((word, label))
}

/// Whether the line is more likely a part of a section than words.
fn is_base64(line: &[u8]) -> bool {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
    line.len() >= 60 && line.iter().all(plain)
}

/// The way out when a section of this kind is not wanted.
fn not_wanted(label: &str, wanted: &[&str]) -> Option<&'static str> {
    if wanted.contains(&label) {
        return None;
    }
    Some(match label {
        "ENCRYPTED PRIVATE KEY" => "take off the passphrase: openssl pkey -in FILE -out FILE.plain",
        "TRUSTED CERTIFICATE" => {
            "turn it into a plain certificate: openssl x509 -in FILE -out FILE.pem"
        }
        "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" => "keep the key in a file of its own",
        _ => "remove it, or see that it is the right file",
    })
}

#[cfg(test)]
mod tests;
