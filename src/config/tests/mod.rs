//! What is promised of a configuration: every fault at once, by its key, with the way out.

mod any;
mod faults;
mod inforce;
mod jwt;
mod layers;
mod reference;
mod registry;

use std::path::Path;

use super::*;

/// The smallest file that works.
const GOOD: &str = r#"
[[listener]]
bind = "0.0.0.0:8883"
[listener.tls]
certificate = "server.pem"
key = "server.key"
[[trust]]
ca = "ca.pem"
[broker]
addresses = "mqtt://127.0.0.1:1883"
"#;

/// What an operator wrote, and where.
#[derive(Default)]
struct Operator {
    file: Option<String>,
    env: Vec<(String, String)>,
    flags: Flags,
}

impl Operator {
    fn writes(file: &str) -> Self {
        Self {
            file: Some(file.to_owned()),
            ..Self::default()
        }
    }

    fn sets(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    fn types(mut self, flags: Flags) -> Self {
        self.flags = flags;
        self
    }

    fn loads(self) -> Result<Config, Vec<Fault>> {
        let folder = tempfile::tempdir().expect("a folder");
        self.loads_in(folder.path())
    }

    fn loads_in(self, folder: &Path) -> Result<Config, Vec<Fault>> {
        let path = self.file.map(|file| {
            let path = folder.join("tidegate.toml");
            std::fs::write(&path, file).expect("written");
            path
        });
        load(&Source {
            path,
            env: self.env,
            flags: self.flags,
        })
    }

    fn tells(self) -> Vec<String> {
        match self.loads() {
            Ok(_) => Vec::new(),
            Err(faults) => faults.iter().map(ToString::to_string).collect(),
        }
    }
}

/// [`GOOD`] with a line put into a section, or a section put behind it.
fn good_with(section: &str, line: &str) -> String {
    let header = format!("{section}\n");
    if GOOD.contains(&header) {
        GOOD.replacen(&header, &format!("{header}{line}\n"), 1)
    } else {
        format!("{GOOD}{header}{line}\n")
    }
}
