//! Secrets in files of their own.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::reader::Section;
use super::source::plain;
use crate::tls::files::read_regular;

/// Reads the secret that `key` names, of `most` bytes or a little more; one line end at its end is not part of it.
pub(super) fn read(section: &Section<'_>, key: &str, file: &Path, most: u64) -> Option<Vec<u8>> {
    let mut secret = match read_regular(file, most.saturating_add(2)) {
        Ok(secret) => secret,
        Err(error) => {
            let what = format!("cannot read {}: {}", file.display(), plain(&error));
            section.fault(key, what, "name a file that the user of tidegate may read");
            return None;
        }
    };
    if secret.last() == Some(&b'\n') {
        secret.pop();
        if secret.last() == Some(&b'\r') {
            secret.pop();
        }
    }
    Some(secret)
}

/// Warns when every user of this host can read the secret.
pub(super) fn warn_of_readers(section: &Section<'_>, key: &str, file: &Path) {
    let data = std::fs::metadata(file);
    if data.is_ok_and(|data| data.permissions().mode() & 0o004 != 0) {
        let file = file.display();
        let what = format!("{file} can be read by every user of this host; chmod 600 it");
        section.warn(key, &what);
    }
}
