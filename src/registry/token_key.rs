//! The file with the key of the tokens' hashes: 64 characters of hex, the same wherever one registry is used.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::{Fault, Registry, StoreSettings};
use crate::rules::token::TokenKey;

/// The bytes of a key.
const KEY: usize = 32;
/// What a file of a key can hold at the most: its hex and a line end.
const LARGEST: u64 = 2 * KEY as u64 + 2;

/// Reads the token key of `file`, and makes sure that it is the one that the registry's tokens are hashed with. If there is no such
/// file, and the registry never had a key, a new one is made (mode 0600).
///
/// # Errors
/// A sentence with the way out: the file is missing, garbled, or holds another key than that of the registry; or the registry is
/// away.
pub async fn token_key(file: &Path, registry: &Registry) -> Result<TokenKey, String> {
    let (key, made) = match read(file)? {
        Some(key) => (key, false),
        None if registry.has_token_key().await.map_err(|f| f.to_string())? => {
            return Err(missing(file));
        }
        None => make(file)?,
    };
    let own = key.check_value();
    match registry.token_key_check(&own).await {
        Ok(theirs) if theirs == own => Ok(key),
        Ok(_) => {
            if made {
                // Somebody was faster, elsewhere: this key never hashed a token, and is in the way of the right one.
                let _ = fs::remove_file(file);
            }
            Err(another(file))
        }
        Err(fault) => Err(fault.to_string()),
    }
}

/// Whether `key` is the one that the registry's tokens are hashed with, or there are none yet.
///
/// # Errors
/// The registry cannot say.
pub async fn is_of(key: &TokenKey, store: &StoreSettings) -> Result<bool, Fault> {
    let registry = Registry::open(store).await?;
    let same = if registry.has_token_key().await? {
        let own = key.check_value();
        registry.token_key_check(&own).await? == own
    } else {
        true
    };
    registry.close().await;
    Ok(same)
}

/// What is wrong when the file holds the key with the check value `own`, or none, and the registry keeps `kept`.
pub(super) fn differs(
    file: &Path,
    own: Option<[u8; 16]>,
    kept: [u8; 16],
) -> Option<(&'static str, String)> {
    let why = match own {
        None => missing(file),
        Some(own) if own != kept => another(file),
        Some(_) => return None,
    };
    Some(("token.key_file", why))
}

fn missing(file: &Path) -> String {
    let file = file.display();
    format!("{file} is not there, and the registry's tokens are hashed with another key: {COPY}")
}

fn another(file: &Path) -> String {
    let file = file.display();
    format!("{file} is not the key that the registry's tokens are hashed with: {COPY}")
}

const COPY: &str =
    "copy token.key from where the first token was made, or name it by token.key_file";

/// The key in `file`; `None`, if there is no such file.
///
/// # Errors
/// A sentence, when it cannot be read or holds no key.
pub fn read(file: &Path) -> Result<Option<TokenKey>, String> {
    let told = |what: String| format!("{}: {what}", file.display());
    match fs::metadata(file) {
        Ok(data) if data.is_file() && data.len() <= LARGEST => {}
        Ok(_) => return Err(told(NO_KEY.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(told(error.to_string())),
    }
    let text = fs::read(file).map_err(|error| {
        told(format!(
            "{error}; let the user that runs tidegate read it, and nobody else"
        ))
    })?;
    let mut bytes = [0; KEY];
    hex::decode_to_slice(text.trim_ascii_end(), &mut bytes).map_err(|_| told(NO_KEY.into()))?;
    Ok(Some(TokenKey::new(bytes)))
}

const NO_KEY: &str = "it is no token key, which is 64 characters of hex; restore it from a copy: no other key knows the registry's tokens";

/// Makes `file` with a new key, and tells that; or gives the key of whoever made it in the meantime.
fn make(file: &Path) -> Result<(TokenKey, bool), String> {
    let mut bytes = [0; KEY];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| "the system gives no randomness".to_owned())?;
    match write(file, &(hex::encode(bytes) + "\n")) {
        Ok(()) => Ok((TokenKey::new(bytes), true)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let key = read(file)?.ok_or_else(|| format!("{} comes and goes", file.display()))?;
            Ok((key, false))
        }
        Err(error) => Err(format!(
            "cannot write the token key {}: {error}; let the user that runs tidegate write there, or name another place by \
             token.key_file",
            file.display()
        )),
    }
}

/// Makes `file`, whole from the moment that it has its name, or fails because the name is taken.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let draft = file.with_file_name(format!(".{name}.{:016x}", fastrand::u64(..)));
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)?;
    let done = out
        .write_all(text.as_bytes())
        .and_then(|()| out.sync_all())
        // A link, unlike a rename, fails when the name is taken.
        .and_then(|()| fs::hard_link(&draft, file));
    let _ = fs::remove_file(&draft);
    done
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_its_owner_alone() {
        let home = tempfile::tempdir().expect("a folder");
        let file = home.path().join("token.key");
        assert!(read(&file).expect("not there").is_none());
        let (key, made) = make(&file).expect("made");
        assert!(made);
        let mode = fs::metadata(&file).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = read(&file).expect("good").expect("there");
        assert_eq!(again.check_value(), key.check_value());
        let (same, made) = make(&file).expect("there already");
        assert!(!made && same.check_value() == key.check_value());
        assert_eq!(fs::read_dir(home.path()).expect("a folder").count(), 1);
    }

    #[test]
    fn what_is_no_key_is_told_without_what_it_holds() {
        let home = tempfile::tempdir().expect("a folder");
        let file = home.path().join("token.key");
        let hex = "7".repeat(64);
        for text in [
            "",
            "hunter2",
            &hex[1..],
            &format!("{hex}77"),
            &hex.replace("77", "x7"),
        ] {
            fs::write(&file, text).expect("written");
            let told = read(&file).expect_err("no key");
            assert!(
                told.contains("64 characters of hex") && !told.contains("777"),
                "{told}"
            );
        }
        fs::write(&file, format!("{hex}\r\n")).expect("written");
        assert!(read(&file).expect("a key").is_some());
        assert!(read(home.path()).is_err(), "a folder");
    }
}
