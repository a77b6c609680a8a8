//! Which folders have to be readable, so that files can be read again after they were exchanged (threats.md R3).
//!
//! A rule of Landlock holds on to the folder that is there when it is made. Who exchanges a file in it, or a link, is followed; who exchanges the folder
//! itself is followed by the rule for the folder above, so that gets one, too, unless it is one of the system's at the root.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// More links in a path than Linux follows (path_resolution(7)).
const LINKS: usize = 41;

/// What libraries read: names of hosts and users, CAs, time zones, what they load; and what the metrics are read from. Also under the paths
/// that links lead to, such as that of resolv.conf.
const SYSTEM: [&str; 12] = [
    "/etc",
    "/usr",
    "/lib",
    "/lib64",
    "/nix/store",
    "/var/lib/ca-certificates",
    "/proc",
    "/sys/fs/cgroup",
    "/sys/devices/system/cpu",
    "/dev/null",
    "/dev/random",
    "/dev/urandom",
];

/// Files of the system that are links into folders of others, here and there.
const LED_ELSEWHERE: [&str; 4] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/localtime",
];

/// Variables that name files of libraries: CAs for keys of issuers, passwords for PostgreSQL.
const VARIABLES: [&str; 3] = ["SSL_CERT_FILE", "SSL_CERT_DIR", "PGPASSFILE"];

/// What every process reads, wherever it is.
pub(super) fn system() -> BTreeSet<PathBuf> {
    let mut all: BTreeSet<_> = SYSTEM.map(PathBuf::from).into();
    all.extend(around(&LED_ELSEWHERE.map(PathBuf::from)));
    let named: Vec<_> = VARIABLES
        .iter()
        .filter_map(env::var_os)
        .map(PathBuf::from)
        .collect();
    all.extend(named.iter().cloned());
    all.extend(around(&named));
    let home = env::var_os("HOME").map(PathBuf::from);
    all.extend(home.map(|home| home.join(".pgpass")));
    all.extend(env::current_exe()); // a backtrace reads it
    all
}

/// The folders that must be readable for `files`; and of files at the root, the file.
pub(super) fn around(files: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut reach = Reach::default();
    for file in files {
        reach.file(file);
    }
    reach.0
}

#[derive(Debug, Default)]
struct Reach(BTreeSet<PathBuf>);

impl Reach {
    fn file(&mut self, file: &Path) {
        let mut ways = vec![file.to_owned()];
        for _ in 0..LINKS {
            let Some(way) = ways.pop() else { return };
            self.folder_of(&way);
            ways.extend(self.follow(&way));
        }
    }

    fn folder_of(&mut self, file: &Path) {
        let Some(folder) = file.parent() else { return };
        if depth(folder) == 0 {
            self.0.insert(file.to_owned());
            return;
        }
        self.0.insert(folder.to_owned());
        self.above_root(folder.parent());
    }

    /// Where the first link on `way` leads; it, and what it leads to, may be exchanged where they are.
    fn follow(&mut self, way: &Path) -> Option<PathBuf> {
        let mut parts: Vec<_> = way.ancestors().collect();
        parts.reverse();
        let (link, target) = parts
            .into_iter()
            .find_map(|part| Some((part, fs::read_link(part).ok()?)))?;
        let holder = link.parent()?;
        let target = plain(&holder.join(target));
        self.above_root(Some(holder));
        self.above_root(target.parent());
        let rest = way.strip_prefix(link).ok()?;
        Some(if rest.as_os_str().is_empty() {
            target
        } else {
            target.join(rest)
        })
    }

    /// A folder that holds more than what is meant; not those that hold the whole system, or all users.
    fn above_root(&mut self, folder: Option<&Path>) {
        self.0.extend(
            folder
                .filter(|folder| depth(folder) >= 2)
                .map(Path::to_owned),
        );
    }
}

/// How many names lead there from the root.
fn depth(path: &Path) -> usize {
    path.components().count().saturating_sub(1)
}

/// Without `..`: what is before it in a link's target is no link, or else is found as one later.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        if part.as_os_str() == ".." {
            plain.pop();
        } else {
            plain.push(part);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn paths(reach: &BTreeSet<PathBuf>) -> Vec<&str> {
        reach.iter().filter_map(|path| path.to_str()).collect()
    }

    #[test]
    fn a_file_needs_its_folder_and_the_one_above() {
        let reach = around(&["/srv/no-such/tls/server.pem".into()]);
        assert_eq!(paths(&reach), ["/srv/no-such", "/srv/no-such/tls"]);
    }

    #[test]
    fn folders_of_the_system_are_not_opened_for_one_file_in_them() {
        let reach = around(&["/no-such/server.pem".into(), "/no-such.pem".into()]);
        assert_eq!(paths(&reach), ["/no-such", "/no-such.pem"]);
    }

    /// As certificates are kept by some: current → releases/42, and each file of that may be a link again.
    #[test]
    fn a_link_needs_where_it_lies_and_what_lies_beside_its_target() {
        let home = tempfile::tempdir().expect("a folder");
        let root = home.path().canonicalize().expect("there");
        for folder in ["site/releases/42", "store/keys/7"] {
            fs::create_dir_all(root.join(folder)).expect("made");
        }
        fs::write(root.join("store/keys/7/server.key"), "key").expect("written");
        symlink("releases/42", root.join("site/current")).expect("linked");
        symlink(
            "../../../store/keys/7/server.key",
            root.join("site/releases/42/server.key"),
        )
        .expect("linked");

        let reach = around(&[root.join("site/current/server.key")]);

        for needed in [
            "site",
            "site/releases",
            "site/releases/42",
            "store/keys",
            "store/keys/7",
        ] {
            assert!(reach.contains(&root.join(needed)), "{needed}: {reach:?}");
        }
    }

    #[test]
    fn links_that_lead_round_in_circles_come_to_an_end() {
        let home = tempfile::tempdir().expect("a folder");
        let there = home.path().join("there");
        symlink(&there, home.path().join("here")).expect("linked");
        symlink(home.path().join("here"), &there).expect("linked");
        assert!(around(&[there]).contains(home.path()));
    }
}
