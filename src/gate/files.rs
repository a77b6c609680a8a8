//! Files that a configuration names, and what they held: a change is noticed by content (threats.md R3).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};

/// Of a larger file no more is looked at; nothing that is read is larger.
const LARGEST: u64 = 256 << 20;

/// What files were when they were looked at.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Contents(BTreeMap<PathBuf, Seen>);

/// One file. Away, or not to be read: `None`.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Seen {
    /// What the system said of it, before it was read.
    said: Said,
    /// The SHA-256 of what it held.
    held: Option<[u8; 32]>,
}

/// Device, inode, size and times: who has others may hold something else.
type Said = Option<[i64; 7]>;

impl Contents {
    /// Reads `paths`, too; those that were read already are as they were then. Blocks.
    #[must_use]
    pub fn with(mut self, paths: &BTreeSet<PathBuf>) -> Self {
        for path in paths {
            if !self.0.contains_key(path) {
                self.0.insert(path.clone(), Seen::read(path));
            }
        }
        self
    }

    /// Of these only `paths`.
    #[must_use]
    pub fn only(mut self, paths: &BTreeSet<PathBuf>) -> Self {
        self.0.retain(|path, _| paths.contains(path));
        self
    }

    /// The paths.
    pub fn paths(&self) -> BTreeSet<PathBuf> {
        self.0.keys().cloned().collect()
    }

    /// What the system says of the same files now. Blocks.
    pub fn look(&self) -> Look {
        Look(self.0.keys().map(|path| said(path)).collect())
    }

    /// What it said when they were read.
    pub fn looked(&self) -> Look {
        Look(self.0.values().map(|seen| seen.said).collect())
    }

    /// Whether none has changed since it was read: else what was read elsewhere meanwhile may be of another moment. Blocks.
    pub fn stand(&self) -> bool {
        self.look() == self.looked()
    }

    /// Whether the files of both hold the same.
    pub fn hold_the_same(&self, other: &Self) -> bool {
        let held = |all: &Self| -> Vec<_> {
            let each = all.0.iter().map(|(path, seen)| (path.clone(), seen.held));
            each.collect()
        };
        held(self) == held(other)
    }

    /// Whether each of `paths` holds the same as in `other`; one that was read in neither does not.
    pub(super) fn agree_on<'a>(
        &self,
        other: &Self,
        paths: impl IntoIterator<Item = &'a PathBuf>,
    ) -> bool {
        let held = |all: &Self, path| all.0.get(path).and_then(|seen| seen.held);
        let same = |path| held(self, path).is_some_and(|one| Some(one) == held(other, path));
        paths.into_iter().all(same)
    }
}

/// What the system says of files, in the order of their paths.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Look(Vec<Said>);

impl Seen {
    fn read(path: &Path) -> Self {
        Self {
            said: said(path), // first, so that what changes meanwhile is looked at again
            held: held(path),
        }
    }
}

fn said(path: &Path) -> Said {
    let meta: Metadata = fs::metadata(path).ok()?;
    let [dev, ino, size] = [meta.dev(), meta.ino(), meta.size()].map(u64::cast_signed);
    let times = [
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec(),
    ];
    let [mtime, mtime_nsec, ctime, ctime_nsec] = times;
    Some([dev, ino, size, mtime, mtime_nsec, ctime, ctime_nsec])
}

fn held(path: &Path) -> Option<[u8; 32]> {
    // A pipe would be waited for.
    if !fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut file = File::open(path).ok()?.take(LARGEST);
    let mut digest = Context::new(&SHA256);
    let mut piece = vec![0; 64 << 10];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return digest.finish().as_ref().try_into().ok(),
            Ok(read) => digest.update(&piece[..read]),
            Err(fault) if fault.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_is_what_a_file_holds() {
        let folder = tempfile::tempdir().expect("a folder");
        let paths: BTreeSet<_> = ["a", "b"].map(|name| folder.path().join(name)).into();
        let a = folder.path().join("a");
        fs::write(&a, "one").expect("written");
        let first = Contents::default().with(&paths);
        assert!(first.stand());
        assert!(first.agree_on(&first, [&a]));
        assert!(!first.agree_on(&first, &paths), "b is away");

        fs::write(folder.path().join("new"), "one").expect("written");
        fs::rename(folder.path().join("new"), &a).expect("renamed");
        assert!(!first.stand());
        assert!(first.hold_the_same(&Contents::default().with(&paths)));

        fs::write(&a, "two").expect("written");
        let second = Contents::default().with(&paths);
        assert!(!first.hold_the_same(&second) && !first.agree_on(&second, [&a]));
        assert_eq!(
            first.clone().with(&paths),
            first,
            "what was read stays as it was then"
        );
    }
}
