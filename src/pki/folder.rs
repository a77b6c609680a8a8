//! A CA's folder: `ca.pem`, `ca.key`, `ca.crl`; and the files of what it issues.
//!
//! A file appears whole or not at all, nothing that exists is ever overwritten, and a private key is never readable
//! by others, not even while it is being written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{KeyIdMethod, KeyPair};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Authority, Certified, Fault, Issued, Signed, Validity, order};

/// The CA certificate: what a gate's `[[trust]]` names.
pub const CERTIFICATE: &str = "ca.pem";
/// The CA's private key, mode 0600.
pub const KEY: &str = "ca.key";
/// The list of what the CA has revoked.
pub const CRL: &str = "ca.crl";

pub(super) const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// Writes a new CA and its empty list into `folder`, which is made if need be; gives the three paths.
///
/// The list is good for as long as the CA: it lies in a file beside the CA, so a date would keep nobody from using an
/// old one, but it could shut out a whole fleet.
///
/// # Errors
/// [`Fault::Exists`], when one of the three is there already; [`Fault::Write`]. Then none of them is left behind.
pub fn save_authority(folder: &Path, authority: &Authority) -> Result<[PathBuf; 3], Fault> {
    let end = authority.validity().not_after;
    let list = authority.crl::<&[u8]>(&[], order::now().min(end - 1), end)?;
    save(
        folder,
        [
            (CERTIFICATE.into(), authority.certificate_pem(), PUBLIC),
            (KEY.into(), &authority.key_pem(), PRIVATE),
            (CRL.into(), &list.pem()?, PUBLIC),
        ],
    )
}

/// Writes `NAME.pem` (with the intermediates, without the root) and `NAME.key` into `folder`, which is made if need
/// be; gives the two paths.
///
/// # Errors
/// As [`save_authority`].
pub fn save_issued(folder: &Path, name: &str, issued: &Issued) -> Result<[PathBuf; 2], Fault> {
    save(
        folder,
        [
            (format!("{name}.pem"), &issued.chain_pem(), PUBLIC),
            (format!("{name}.key"), &issued.key_pem(), PRIVATE),
        ],
    )
}

/// Writes `NAME.pem` alone, for a device that holds its key.
///
/// # Errors
/// As [`save_authority`].
pub fn save_certified(
    folder: &Path,
    name: &str,
    certified: &Certified,
) -> Result<[PathBuf; 1], Fault> {
    save(
        folder,
        [(format!("{name}.pem"), &certified.chain_pem(), PUBLIC)],
    )
}

/// Whether [`save_authority`] wrote a CA into `folder`; half of one is none.
pub fn has_authority(folder: &Path) -> bool {
    [CERTIFICATE, KEY]
        .iter()
        .all(|name| folder.join(name).exists())
}

/// Whether [`save_issued`] wrote `name` into `folder`; a certificate without its key does not count.
pub fn has_issued(folder: &Path, name: &str) -> bool {
    ["pem", "key"]
        .iter()
        .all(|kind| folder.join(format!("{name}.{kind}")).exists())
}

/// Reads the CA of `folder` so that it can sign.
///
/// # Errors
/// [`Fault::Read`]; [`Fault::Unusable`], when the certificate is no CA's, has ended, or is not of the key.
pub fn open_authority(folder: &Path) -> Result<Authority, Fault> {
    let (certificate_at, key_at) = (folder.join(CERTIFICATE), folder.join(KEY));
    let pem = read(&certificate_at)?;
    let key = read(&key_at)?;
    let unusable = |path: &Path, why: &str| Fault::Unusable {
        path: path.to_owned(),
        why: why.to_owned(),
    };

    let der = one_certificate(&pem).ok_or_else(|| {
        unusable(
            &certificate_at,
            "it must hold one PEM certificate, the CA's",
        )
    })?;
    let (_, read) = X509Certificate::from_der(&der)
        .map_err(|_| unusable(&certificate_at, "its certificate cannot be read as X.509"))?;
    if !read.is_ca() {
        return Err(unusable(&certificate_at, "its certificate is not a CA's"));
    }
    let validity = Validity {
        not_before: read.validity().not_before.timestamp(),
        not_after: read.validity().not_after.timestamp(),
    };
    if validity.not_after <= order::now() {
        let ended = format!(
            "the CA ended on {}; make a new one in another folder with `tidegate ca init`",
            validity.last_day()
        );
        return Err(unusable(&certificate_at, &ended));
    }
    let key = KeyPair::from_pem(&key)
        .map_err(|_| unusable(&key_at, "it must hold one private key in PEM (PKCS #8)"))?;
    if *key.public_key_raw() != *read.public_key().subject_public_key.data {
        let why = format!("it is not the key of {}", certificate_at.display());
        return Err(unusable(&key_at, &why));
    }
    // A CA made elsewhere may reckon its identifier otherwise; lists must name the one it has.
    let own = read
        .extensions()
        .iter()
        .find_map(|e| match e.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => {
                Some(KeyIdMethod::PreSpecified(id.0.to_vec()))
            }
            _ => None,
        });
    Ok(Authority {
        issuer: rcgen::Issuer::from_ca_cert_der(&der.clone().into(), key)?,
        identifier: own.unwrap_or(KeyIdMethod::Sha256),
        certificate: Signed {
            der: der.clone().into(),
            pem,
        },
        between: Vec::new(),
        validity,
    })
}

/// The only PEM section of `text`, when it is a certificate.
fn one_certificate(text: &str) -> Option<Vec<u8>> {
    let mut sections = x509_parser::pem::Pem::iter_from_buffer(text.as_bytes());
    let first = sections.next()?.ok()?;
    (first.label == "CERTIFICATE" && sections.next().is_none()).then_some(first.contents)
}

fn read(path: &Path) -> Result<String, Fault> {
    fs::read_to_string(path).map_err(|why| Fault::Read {
        path: path.to_owned(),
        why,
    })
}

/// Writes all of `files` (name, text, mode), or leaves none.
fn save<const N: usize>(
    folder: &Path,
    files: [(String, &str, u32); N],
) -> Result<[PathBuf; N], Fault> {
    fs::create_dir_all(folder).map_err(|why| Fault::Write {
        path: folder.to_owned(),
        why,
    })?;
    let paths = files.each_ref().map(|(name, ..)| folder.join(name));
    // Told before anything is written, and again by the file system should somebody be faster.
    if let Some(path) = paths.iter().find(|path| path.symlink_metadata().is_ok()) {
        return Err(Fault::Exists(path.clone()));
    }
    for (done, (path, (_, text, mode))) in paths.iter().zip(files).enumerate() {
        if let Err(why) = create(path, text.as_bytes(), mode) {
            for written in &paths[..done] {
                // Half a pair is of no use, and in the way of the next attempt. This is what was just made here.
                let _ = fs::remove_file(written);
            }
            return Err(if why.kind() == io::ErrorKind::AlreadyExists {
                Fault::Exists(path.clone())
            } else {
                Fault::Write {
                    path: path.clone(),
                    why,
                }
            });
        }
    }
    Ok(paths)
}

/// Makes `path` with `bytes` in it, or fails and leaves nothing; never replaces what is there.
fn create(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let draft = draft_of(path);
    let result = write_new(&draft, bytes, mode)
        // A link, unlike a rename, fails when the name is taken.
        .and_then(|()| fs::hard_link(&draft, path))
        .or_else(|why| match why.kind() {
            io::ErrorKind::AlreadyExists => Err(why),
            // Some file systems know no links. O_EXCL keeps the promise there, and a failure is cleared away.
            _ if draft.exists() => write_new(path, bytes, mode),
            _ => Err(why),
        });
    let _ = fs::remove_file(&draft);
    result?;
    sync_folder(path);
    Ok(())
}

/// Puts `bytes` in the place of what `path` holds: whoever reads it sees the old or the new, whole.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = draft_of(path);
    let done = write_new(&draft, bytes, PUBLIC).and_then(|()| fs::rename(&draft, path));
    if done.is_err() {
        let _ = fs::remove_file(&draft);
    }
    done?;
    sync_folder(path);
    Ok(())
}

fn draft_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{:016x}", fastrand::u64(..)))
}

/// The name must survive a power cut as the bytes do; a folder that cannot be synced still holds the file.
fn sync_folder(path: &Path) {
    if let Some(folder) = path.parent().and_then(|folder| File::open(folder).ok()) {
        let _ = folder.sync_all();
    }
}

/// Opens with O_EXCL and the mode already on it: there is no moment at which others could read a key.
fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    written
}
