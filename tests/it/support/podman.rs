//! Podman with a store of its own, so that nothing is left behind and nobody's containers are touched.

use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// A store of images and containers; all of it goes with the test.
pub struct Podman {
    store: TempDir,
}

impl Podman {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            store: tempfile::tempdir().expect("a folder"),
        }
    }

    /// Puts this archive into the store, and gives the image's name.
    pub fn load(&self, archive: &Path) -> String {
        let archive = archive.to_str().expect("UTF-8");
        let told = self.done(&["load", "--quiet", "--input", archive]);
        let (_, name) = told.rsplit_once(": ").expect("Loaded image: NAME");
        name.to_owned()
    }

    /// Runs podman to its end; what it said, without the line end.
    ///
    /// # Panics
    /// When it is not there, and when it fails.
    pub fn done(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        assert!(
            ran.status.success(),
            "podman {}: {}",
            arguments.join(" "),
            text(&ran.stderr)
        );
        text(&ran.stdout)
    }

    /// Runs podman to its end, whatever that is.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let place = |name: &str| self.store.path().join(name);
        Command::new("podman")
            .arg("--root")
            .arg(place("root"))
            .arg("--runroot")
            .arg(place("run"))
            // runc also starts containers where the host has old and new control groups side by side.
            .args(["--runtime", "runc", "--storage-driver", "vfs"])
            .args(["--cgroup-manager", "cgroupfs", "--events-backend", "none"])
            .args(arguments)
            .output()
            .expect("podman and runc: run ./check, or apt-get install podman runc")
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.run(&["logs", "--latest"]);
            eprintln!("it said:\n{}", String::from_utf8_lossy(&logs.stderr));
        }
        self.run(&["rm", "--force", "--all", "--time", "0"]);
    }
}
