//! `index.jsonl` in the CA's folder: what the CA issued, a line each, so that it can be revoked by the device's name.
//!
//! A line is added before the certificate is handed out: what is out is listed. A last line that was torn by a power cut is of
//! a certificate that nobody has: it is passed over, and the next one takes its place. Any other line that cannot be read is a fault
//! (threats.md T8): what it noted could not be revoked by its name. CAs of earlier versions have no such file: theirs begins with the next one.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use super::folder::PRIVATE;
use super::{Certified, Fault};

/// The file's name in the CA's folder.
pub const INDEX: &str = "index.jsonl";

/// One certificate that the CA issued.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Entry {
    /// In lower-case hex, without leading zeros.
    pub serial: String,
    /// The device that it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Or the first name of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The last second of its validity, in seconds since 1970.
    pub not_after: i64,
    /// The SHA-256 of its DER, in lower-case hex.
    pub fingerprint: String,
}

impl Entry {
    /// The entry of a device's certificate.
    pub fn device(device: &str, certified: &Certified) -> Self {
        Self {
            device: Some(device.to_owned()),
            ..Self::of(certified)
        }
    }

    /// The entry of a server's certificate.
    pub fn server(name: &str, certified: &Certified) -> Self {
        Self {
            server: Some(name.to_owned()),
            ..Self::of(certified)
        }
    }

    fn of(certified: &Certified) -> Self {
        Self {
            serial: serial_text(certified.serial()),
            device: None,
            server: None,
            not_after: certified.validity().not_after,
            fingerprint: hex::encode(digest::digest(&digest::SHA256, certified.certificate())),
        }
    }
}

/// A serial as it is told everywhere: lower-case hex without leading zero octets.
pub fn serial_text(serial: &[u8]) -> String {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    hex::encode(&serial[zeros.min(serial.len().saturating_sub(1))..])
}

/// Adds a line to the index of the CA in `folder`, whole, also beside others who do the same.
///
/// # Errors
/// [`Fault::Write`].
pub fn note(folder: &Path, entry: &Entry) -> Result<(), Fault> {
    let path = folder.join(INDEX);
    append(&path, entry).map_err(|why| Fault::Write { path, why })
}

fn append(path: &Path, entry: &Entry) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(PRIVATE)
        .open(path)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
    let mut line = serde_json::to_string(entry)? + "\n";
    let mut there = Vec::new();
    file.read_to_end(&mut there)?;
    let last = tail(&there);
    if serde_json::from_slice::<Entry>(last).is_ok() {
        line.insert(0, '\n');
    } else if !last.is_empty() {
        let whole = there.len() - last.len();
        file.set_len(u64::try_from(whole).map_err(io::Error::other)?)?;
    }
    file.write_all(line.as_bytes())?;
    file.sync_all()
}

/// What stands behind the last line end: nothing, a torn line, or one that somebody wrote without its end.
fn tail(bytes: &[u8]) -> &[u8] {
    bytes.rsplit(|byte| *byte == b'\n').next().unwrap_or(bytes)
}

/// Reads the index of the CA in `folder`; none is empty.
///
/// # Errors
/// [`Fault::Read`], when it is there and cannot be read; [`Fault::Unusable`], when a line of it cannot, but for a torn last one.
pub fn read(folder: &Path) -> Result<Vec<Entry>, Fault> {
    let path = folder.join(INDEX);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(why) => return Err(Fault::Read { path, why }),
    };
    let torn = tail(&bytes);
    let whole = &bytes[..bytes.len() - torn.len()];
    let mut entries = Vec::new();
    for (nth, line) in whole.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice(line) {
            Ok(entry) => entries.push(entry),
            Err(_) => return Err(garbled(path, nth + 1)),
        }
    }
    entries.extend(serde_json::from_slice::<Entry>(torn));
    Ok(entries)
}

fn garbled(path: PathBuf, line: usize) -> Fault {
    Fault::Unusable {
        path,
        why: format!(
            "line {line} is no note of a certificate; restore the file from a copy, or take the line out: its certificate can then \
             be revoked by its file or serial alone"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authority, Order};

    #[test]
    fn what_is_noted_is_read_again_beside_a_torn_line() {
        let home = tempfile::tempdir().expect("a folder");
        assert_eq!(read(home.path()).expect("none"), []);
        let ca = Authority::new("trial").expect("a CA");
        let issue = |name: &str| {
            let order = Order::device(&name.parse().expect("a device id"));
            let issued = ca.issue(order).expect("issued");
            Entry::device(name, issued.certified())
        };
        let (a, b) = (issue("a"), issue("b"));
        note(home.path(), &a).expect("noted");
        let path = home.path().join(INDEX);
        let whole = std::fs::read(&path).expect("there");
        std::fs::write(&path, [&whole[..], b"{\"serial\":\"7"].concat()).expect("torn");
        assert_eq!(read(home.path()).expect("read").len(), 1);
        note(home.path(), &b).expect("noted");
        assert_eq!(read(home.path()).expect("read"), [a.clone(), b.clone()]);
        // An editor may leave the last line without its end.
        let whole = std::fs::read(&path).expect("there");
        std::fs::write(&path, whole.trim_ascii_end()).expect("written");
        assert_eq!(read(home.path()).expect("read").len(), 2);
        note(home.path(), &a).expect("noted");
        assert_eq!(read(home.path()).expect("read"), [a.clone(), b, a]);
    }

    /// threats.md T8: nothing is skipped.
    #[test]
    fn a_garbled_line_is_a_fault_with_its_number() {
        let home = tempfile::tempdir().expect("a folder");
        let path = home.path().join(INDEX);
        let line = r#"{"serial":"07","device":"a","not_after":9,"fingerprint":"00"}"#;
        for (text, number) in [
            (format!("{line}\n{{\"serial\":\"8\n{line}\n"), 2),
            (format!("x\n{line}\n"), 1),
            (format!("{line}\n\nx\n"), 3),
        ] {
            std::fs::write(&path, text).expect("written");
            let told = read(home.path()).expect_err("garbled").to_string();
            let begin = format!("{} cannot be used: line {number} is no", path.display());
            assert!(told.starts_with(&begin), "{told}");
            assert!(told.contains("restore the file"), "{told}");
        }
    }

    #[test]
    fn many_may_note_at_once() {
        let home = tempfile::tempdir().expect("a folder");
        std::thread::scope(|scope| {
            for n in 0..8 {
                let folder = home.path();
                scope.spawn(move || {
                    for m in 0..16 {
                        let entry = Entry {
                            serial: format!("{n:02x}{m:02x}"),
                            device: Some("x".repeat(128)),
                            server: None,
                            not_after: 0,
                            fingerprint: "0".repeat(64),
                        };
                        note(folder, &entry).expect("noted");
                    }
                });
            }
        });
        assert_eq!(read(home.path()).expect("read").len(), 8 * 16);
    }

    #[test]
    fn a_serial_is_told_without_leading_zeros() {
        assert_eq!(serial_text(&[0, 0x8f, 1]), "8f01");
        assert_eq!(serial_text(&[0]), "00");
        assert_eq!(serial_text(&[]), "");
    }
}
